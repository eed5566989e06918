/** driver — answers Podman's four questions about a secret. */

import { LegerError, systemCode } from "../core/error.ts";
import { callLegerd, originHeaders } from "../core/legerd-call.ts";
import { isSecretId } from "../core/reference.ts";
import { Secret } from "../core/secret.ts";
import { badAnswer, type Wire, type WireAnswer } from "../core/wire.ts";

export type DriverNeeds = {
  wire: Wire;
  /** As Podman gives it: SECRET_ID, and where there are such PODMAN_SYSTEMD_UNIT and INVOCATION_ID. */
  env: Readonly<Record<string, string | undefined>>;
  /** How long until all must be over: Podman holds a lock on all its secrets meanwhile, and waits for ever. */
  remainingMs: () => number;
};

/**
 * The exact bytes behind an entry of Podman's. An id of any form is asked for: what is known, legerd decides. A failure
 * is the one thing that somebody sees whose container doesn't start, so it names the entry by `entryName`, too.
 */
export async function lookup(
  needs: DriverNeeds & { entryName: (id: string) => Promise<string | undefined> },
): Promise<Secret> {
  const id = idOf("look up", needs, "USAGE");
  const doing = `look up ${id}`;
  try {
    const answer = await ask(needs, {
      doing,
      path: "/v1/podman/lookup",
      id,
      contentType: "application/octet-stream",
      proof: "leger-version",
    });
    return new Secret(answer.body);
  } catch (error) {
    if (!(error instanceof LegerError)) throw error;
    const name = error.message.startsWith(`${doing}: `) ? await needs.entryName(id) : undefined;
    if (name === undefined) throw error;
    const message = `look up ${name} (${id})${error.message.slice(doing.length)}`;
    throw new LegerError(error.code, message, { hints: error.hints, cause: error.cause });
  }
}

/** Keeps what Podman was given for a new entry: a reference to a secret, or a value of the entry's own. */
export async function store(needs: DriverNeeds & { stdin: AsyncIterable<Uint8Array> }): Promise<void> {
  const id = idOf("store", needs, "USAGE");
  if (!isSecretId(id)) throw malformed("store", id);
  const timeoutMs = Math.max(MIN_READ_MS, needs.remainingMs() - CALL_RESERVE_MS);
  const payload = await readAll(needs.stdin, `store ${id}`, timeoutMs);
  if (payload.length === 0) {
    throw new LegerError("BAD_DATA", `store ${id}: nothing came on standard input`, {
      hints: ["Podman takes no empty secret"],
    });
  }
  await ask(needs, { doing: `store ${id}`, path: "/v1/podman/store", id, body: payload });
}

/**
 * Forgets an entry; an unknown one is forgotten already. REFUSED for an empty id, which Podman passes when it
 * replaces an entry that isn't there: if that succeeded, it would drop another entry (podman#27130).
 */
export async function remove(needs: DriverNeeds): Promise<void> {
  const id = idOf("delete", needs, "REFUSED");
  await ask(needs, { doing: `delete ${id}`, path: "/v1/podman/delete", id });
}

/** The ids of all entries. Podman never asks (it has its own list), but wants to be able to. */
export async function list(needs: DriverNeeds): Promise<string[]> {
  const { body } = await ask(needs, { doing: "list entries", path: "/v1/podman/list" });
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(body).toString("utf8"));
  } catch {
    throw badAnswer("a list that is not JSON");
  }
  const entries: unknown = isObject(parsed) ? parsed["entries"] : undefined;
  if (!Array.isArray(entries)) throw badAnswer("a list without entries");
  return entries.map((entry: unknown) => {
    const id = isObject(entry) ? entry["id"] : undefined;
    if (typeof id !== "string" || !SENDABLE_ID.test(id))
      throw badAnswer("a list with an entry without an id");
    return id;
  });
}

/** Podman takes values below this (`secretsMaxSize`, common/pkg/secrets). */
const MAX_VALUE_BYTES = 512_000;
/** What reading standard input leaves for the call that follows. */
const CALL_RESERVE_MS = 1_500;
/** Also on a machine so busy that the start took nearly all of the time: what is in the pipe already is read. */
const MIN_READ_MS = 200;
/** What legerd takes for an id. */
const SENDABLE_ID = /^[0-9A-Za-z_-]{1,64}$/;

type Question = {
  doing: string;
  path: string;
  id?: string;
  body?: Uint8Array;
  contentType?: string;
  proof?: string;
};

function ask({ wire, env, remainingMs }: DriverNeeds, { id, ...question }: Question): Promise<WireAnswer> {
  return callLegerd(wire, {
    method: id === undefined ? "GET" : "POST",
    contentType: "application/json",
    ...question,
    headers: { ...originHeaders(env), ...(id === undefined ? {} : { "leger-secret-id": id }) },
    remainingMs: remainingMs(),
  });
}

function idOf(doing: string, { env }: DriverNeeds, codeForNone: "USAGE" | "REFUSED"): string {
  const id = env["SECRET_ID"] ?? "";
  if (id === "") {
    throw new LegerError(codeForNone, `${doing}: no SECRET_ID in the environment`, {
      hints: ["Podman sets it to the entry's id; with --replace of an entry that isn't there, to nothing"],
    });
  }
  if (!SENDABLE_ID.test(id)) throw malformed(doing, id);
  return id;
}

function malformed(doing: string, id: string): LegerError {
  return new LegerError(
    "USAGE",
    `${doing}: SECRET_ID ${JSON.stringify(id.slice(0, 64))} is not one of Podman's`,
    {
      hints: ["Podman's ids are 25 hexadecimal digits: podman secret ls"],
    },
  );
}

async function readAll(
  stdin: AsyncIterable<Uint8Array>,
  doing: string,
  timeoutMs: number,
): Promise<Uint8Array> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    reject(
      new LegerError("IO", `${doing}: standard input did not end in time`, {
        hints: ["end it, or pass a file: leger driver store < FILE"],
      }),
    );
  }, timeoutMs);
  try {
    return await Promise.race([collect(stdin, doing), late]);
  } catch (error) {
    if (error instanceof LegerError) throw error;
    const code = systemCode(error) ?? "unknown error";
    throw new LegerError("IO", `${doing}: cannot read standard input (${code})`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

async function collect(stdin: AsyncIterable<Uint8Array>, doing: string): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let received = 0;
  for await (const chunk of stdin) {
    received += chunk.length;
    if (received >= MAX_VALUE_BYTES) {
      throw new LegerError("BAD_DATA", `${doing}: a value must be smaller than ${MAX_VALUE_BYTES} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, received);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
