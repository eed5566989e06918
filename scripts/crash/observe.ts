/** observe — everything a running legerd has, read through its socket and written down as the model does. */
import { z } from "zod";
import type { Call, Connection } from "./connection.ts";
import {
  describeEntry,
  describeSecret,
  describeService,
  describeToken,
  fingerprint,
  setecCall,
} from "./model.ts";

const Infos = z
  .array(z.object({ Name: z.string(), Versions: z.array(z.int()), ActiveVersion: z.int() }))
  .nullable();
const Value = z.object({ Value: z.base64(), Version: z.int() });
const Entries = z.object({ entries: z.array(z.object({ id: z.string(), secret: z.string().optional() })) });
const Services = z.object({
  services: z.array(z.object({ name: z.string(), variables: z.record(z.string(), z.string()) })),
});

const Tokens = z.object({
  tokens: z.array(z.object({ name: z.string(), grants: z.array(z.object({ secret: z.array(z.string()) })) })),
});

/** Label → what is there under it; for a secret also `shape`, its version numbers alone. */
export type Seen = ReadonlyMap<string, { text: string; shape: string }>;

/**
 * Every secret with its versions, every entry of Podman's, every service and every token. The values of a secret that is in
 * `known` with the same version numbers are not read again.
 */
export async function observe(connections: readonly Connection[], known: Seen): Promise<Seen> {
  const [first] = connections;
  if (first === undefined) throw new Error("no connection");
  const infos = Infos.parse(await askJson(first, setecCall("list", {}))) ?? [];
  const { entries } = Entries.parse(await askJson(first, { method: "GET", path: "/v1/podman/list" }));
  const { services } = Services.parse(await askJson(first, { method: "GET", path: "/v1/services" }));
  const { tokens } = Tokens.parse(await askJson(first, { method: "GET", path: "/v1/tokens" }));
  const found = new Map<string, { text: string; shape: string }>();
  const reads: ((connection: Connection) => Promise<void>)[] = [];
  for (const { Name, Versions, ActiveVersion } of infos) {
    const label = `secret ${Name}`;
    const shape = `${ActiveVersion} of ${Versions.join(" ")}`;
    const seen = known.get(label);
    if (seen?.shape === shape) {
      found.set(label, seen);
      continue;
    }
    const live = new Map<number, string>();
    for (const version of Versions) {
      reads.push(async (connection) => {
        const answer = await askJson(connection, setecCall("get", { Name, Version: version }));
        live.set(version, fingerprint(Buffer.from(Value.parse(answer).Value, "base64")));
        found.set(label, { text: describeSecret(ActiveVersion, live), shape });
      });
    }
  }
  for (const { id, secret } of entries) {
    if (secret === undefined) {
      reads.push(async (connection) => {
        const call = {
          method: "POST",
          path: "/v1/podman/lookup",
          headers: { "leger-secret-id": id },
        } as const;
        const text = describeEntry({ fingerprint: fingerprint(await ask(connection, call)) });
        found.set(`entry ${id}`, { text, shape: "" });
      });
    } else {
      found.set(`entry ${id}`, { text: describeEntry({ secret }), shape: "" });
    }
  }
  for (const { name, variables } of services) {
    found.set(`service ${name}`, { text: describeService(variables), shape: "" });
  }
  for (const { name, grants } of tokens) {
    found.set(`token ${name}`, { text: describeToken(grants.flatMap(({ secret }) => secret)), shape: "" });
  }
  await Promise.all(
    connections.map(async (connection) => {
      for (let read = reads.pop(); read !== undefined; read = reads.pop()) await read(connection);
    }),
  );
  return found;
}

async function askJson(connection: Connection, call: Call): Promise<unknown> {
  return JSON.parse((await ask(connection, call)).toString());
}

async function ask(connection: Connection, call: Call): Promise<Buffer> {
  const what = `${call.method} ${call.path} ${call.headers?.["leger-secret-id"] ?? call.body ?? ""}`;
  const reply = await connection.ask(call);
  if (reply === undefined) throw new Error(`${what}: legerd closed the connection`);
  if (reply.status !== 200) throw new Error(`${what}: answered ${reply.status} ${reply.body.toString()}`);
  return reply.body;
}
