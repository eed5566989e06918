import * as fs from "node:fs";
import { afterAll, expect, test } from "vitest";
import { z } from "zod";
import type { DoorConfig } from "../../src/daemon/config.ts";
import { startTestLegerd, type TestLegerd } from "../support/legerd.ts";
import { sendRaw, type RawAnswer } from "../support/raw-http.ts";

const Headers = z.record(z.string(), z.union([z.string(), z.array(z.string())]));
const Vectors = z.object({
  callers: z.record(
    z.string(),
    z.object({
      identity: z.object({ user: z.string(), tags: z.array(z.string()).optional() }).nullable(),
      capabilities: z.record(z.string(), z.array(z.unknown())).optional(),
    }),
  ),
  scenarios: z.array(
    z.object({
      id: z.string(),
      title: z.string(),
      steps: z.array(
        z.object({
          request: z.object({
            caller: z.string(),
            method: z.string(),
            path: z.string(),
            headers: Headers.optional(),
            body: z.string().optional(),
            body_base64: z.string().optional(),
            chunks: z.array(z.string()).optional(),
          }),
          response: z.object({
            status: z.number(),
            headers: Headers,
            body: z.string().optional(),
            body_base64: z.string().optional(),
            body_contains: z.array(z.string()).optional(),
          }),
        }),
      ),
    }),
  ),
});
type Step = z.infer<typeof Vectors>["scenarios"][number]["steps"][number];

const file = new URL("../vectors/setec.json", import.meta.url);
const vectors = Vectors.parse(JSON.parse(fs.readFileSync(file, "utf8")));

/** Grants that setec takes for a caller it cannot identify are refused by legerd's configuration instead. */
const UNPARSABLE = ["bad-action-string", "bad-secret-string", "bad-rule-string", "bad-second-rule"];

/** setec overwrites versions after its numbers wrap; legerd refuses from this step of the scenario on. */
const WRAP = { scenario: "state/wrap", firstRefused: 4 };

/** A caller as a door: who setec took them for, and the grants it read, written the way legerd.json has them. */
function doorOf(caller: string, unix: string): DoorConfig {
  const { identity, capabilities = {} } = vectors.callers[caller] ?? { identity: null };
  const principal = identity === null ? "" : (identity.tags?.join(",") ?? identity.user);
  const rules = capabilities["tailscale.com/cap/secrets"] ?? [];
  const grants = rules
    .filter((rule) => rule !== null)
    .map((rule) => {
      const lower = Object.fromEntries(
        Object.entries(Object(rule)).map(([key, value]) => [key.toLowerCase(), value]),
      );
      return z
        .object({ action: z.array(z.string()).default([]), secret: z.array(z.string()).default([]) })
        .parse(lower);
    });
  return { unix, mode: 0o600, principal, grants };
}

function bytesOf(text: string | undefined, base64: string | undefined): Buffer | undefined {
  if (base64 !== undefined) return Buffer.from(base64, "base64");
  return text === undefined ? undefined : Buffer.from(text);
}

function isHtmlPage({ request, response }: Step): boolean {
  return response.body_contains !== undefined || request.path.startsWith("/static/");
}

function expected({ response }: Step): { status: number; body: string; type: string | undefined } {
  const body = bytesOf(response.body, response.body_base64) ?? Buffer.alloc(0);
  const type = response.headers["content-type"];
  return {
    status: response.status,
    body: body.toString("latin1"),
    type: typeof type === "string" ? type : undefined,
  };
}

function got({ status, headers, body }: RawAnswer): {
  status: number;
  body: string;
  type: string | undefined;
} {
  return { status, body: body.toString("latin1"), type: headers.get("content-type") };
}

const callers = Object.keys(vectors.callers).filter((name) => !UNPARSABLE.includes(name));

/** One daemon for many scenarios: a whole delete leaves nothing of a secret, so that a wiped store is a fresh one. */
let shared: TestLegerd | undefined;

async function freshDaemon(): Promise<TestLegerd> {
  if (shared !== undefined && (await wipe(shared))) return shared;
  await shared?.[Symbol.asyncDispose]();
  shared = await startTestLegerd(
    {},
    {
      doors: ({ runtimeDir, socket }) => [
        { unix: socket, mode: 0o600, principal: "owner", grants: undefined },
        ...callers.map((name) => doorOf(name, `${runtimeDir}/${name}/legerd.sock`)),
      ],
    },
  );
  return shared;
}

/** False where something stays: setec never deletes names of its own (`_internal/…`). */
async function wipe({ client }: TestLegerd): Promise<boolean> {
  for (const { Name } of await client.list()) await client.delete(Name).catch(() => {});
  return (await client.list()).length === 0;
}

afterAll(() => shared?.[Symbol.asyncDispose]());

test.for(vectors.scenarios)("answers as setec did: $id ($title)", async ({ id, steps }) => {
  const daemon = await freshDaemon();
  let replayed = 0;
  for (const [at, step] of steps.entries()) {
    const { caller, headers = {}, chunks, ...request } = step.request;
    if (isHtmlPage(step) || UNPARSABLE.includes(caller)) continue;
    const answer = await sendRaw(`${daemon.runtimeDir}/${caller}/legerd.sock`, {
      method: request.method,
      path: request.path,
      headers,
      body: bytesOf(request.body, request.body_base64),
      chunks: chunks?.map((chunk) => Buffer.from(chunk)),
    });
    const context = `step ${at}: ${request.method} ${request.path} ${request.body ?? ""}`;
    if (id === WRAP.scenario && at >= WRAP.firstRefused) {
      if (at === WRAP.firstRefused)
        expect(got(answer), context).toMatchObject({ status: 500, body: "internal error\n" });
      continue;
    }
    expect(got(answer), context).toEqual(expected(step));
    const location = step.response.headers["location"];
    if (location !== undefined) expect(answer.headers.get("location"), context).toBe(location);
    if (step.response.headers["x-content-type-options"] !== undefined) {
      expect(answer.headers.get("x-content-type-options"), context).toBe("nosniff");
    }
    replayed += 1;
  }
  expect(replayed).toBeGreaterThan(0);
});
