/**
 * tcp — doors on TCP. What is asked of a request there comes before anything else, on every route: the host it was
 * sent to, a token, and that no browser sent it.
 */
import * as fs from "node:fs";
import type * as http from "node:http";
import { LegerError, systemCode } from "../core/error.ts";
import { headers as names, refusals } from "../setec/protocol.ts";
import type { AuditLog } from "../store/audit.ts";
import { refuse, type Answer } from "./answer.ts";
import type { TcpDoorConfig } from "./config.ts";
import type { Caller } from "./session.ts";
import type { Tokens } from "./tokens.ts";

/** How often certificate and key are looked at. */
const LOOK_EVERY_MS = 5_000;
/** Wait before the first wrong token of an address is answered; doubled with each further one. */
const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 5_000;
/** Wrong tokens of one address that may wait at a time. */
const MAX_WAITING = 16;
/** Addresses that are remembered, and for how long after their last wrong token. */
const MAX_ADDRESSES = 1_000;
const REMEMBERED_MS = 10 * 60_000;

type Tls = NonNullable<TcpDoorConfig["tls"]>;

export type Gate = (
  request: http.IncomingMessage,
  headers: ReadonlyMap<string, string>,
) => Promise<Caller | Answer>;

/** Who sent a request, or the answer that there is nothing for him. */
export function createGate({
  door,
  tokens,
  audit,
  now,
}: {
  door: TcpDoorConfig;
  tokens: Tokens;
  audit: AuditLog;
  now: () => Date;
}): Gate {
  const hosts = new Set(door.hosts.map((host) => host.toLowerCase()));
  const slowed = new Slowed();
  return async (request, headers) => {
    if (!hosts.has((headers.get("host") ?? "").toLowerCase())) return WRONG_HOST;
    const token = /^Bearer +([\x21-\x7e]+)$/i.exec(headers.get("authorization") ?? "")?.[1];
    const caller = token === undefined ? undefined : tokens.callerOf(token, now(), door.routes);
    if (caller === undefined) {
      if (token === undefined) return NO_TOKEN;
      const address = request.socket.remoteAddress ?? "unknown";
      const principal = `tcp ${address}`;
      await audit.append({ principal, action: "authenticate", authorized: false }).catch(() => {});
      return (await slowed.hold(address)) ? NO_TOKEN : TOO_MANY;
    }
    return isOfBrowser(headers) ? refuse(refusals.accessDenied) : caller;
  };
}

/** Browsers say where a request comes from, and cannot set the header that setec's clients do. */
function isOfBrowser(headers: ReadonlyMap<string, string>): boolean {
  if (headers.get(names.noBrowsers) !== names.setec || headers.has("origin")) return true;
  return [...headers.keys()].some((name) => name.startsWith("sec-fetch-"));
}

const PLAIN = { [names.contentType]: names.plainText, [names.contentTypeOptions]: names.nosniff };
const WRONG_HOST: Answer = { status: 421, headers: PLAIN, body: "this door is not for that host\n" };
const NO_TOKEN: Answer = {
  status: 401,
  headers: { ...PLAIN, "www-authenticate": 'Bearer realm="legerd"' },
  body: "no token, or none that is good\n",
};
const TOO_MANY: Answer = {
  status: 429,
  headers: { ...PLAIN, "retry-after": "5" },
  body: "too many wrong tokens\n",
};

/** Makes those who try tokens wait, each address for itself; nobody with a good one waits. */
class Slowed {
  readonly #addresses = new Map<string, { wrong: number; waiting: number; last: number }>();

  /** Resolves when the answer may go; false, at once, where too many wait already. */
  async hold(address: string): Promise<boolean> {
    const at = performance.now();
    const known = this.#addresses.get(address);
    const entry =
      known === undefined || at - known.last > REMEMBERED_MS ? { wrong: 0, waiting: 0, last: at } : known;
    this.#addresses.delete(address);
    this.#addresses.set(address, entry);
    for (const oldest of this.#addresses.keys()) {
      if (this.#addresses.size <= MAX_ADDRESSES) break;
      this.#addresses.delete(oldest);
    }
    entry.last = at;
    if (entry.waiting >= MAX_WAITING) return false;
    const delay = Math.min(FIRST_DELAY_MS * 2 ** entry.wrong, LONGEST_DELAY_MS);
    entry.wrong += 1;
    entry.waiting += 1;
    await new Promise((resolve) => setTimeout(resolve, delay).unref());
    entry.waiting -= 1;
    return true;
  }
}

/** A TLS server's certificate and key, read again when either changes; a pair that is no good leaves the old one. */
export function watchTls(
  server: http.Server,
  { certificate, key }: Tls,
  log: (line: string) => void,
): Disposable {
  // Loaded where it is needed, as node:tls below: few doors have TLS.
  const { Server } = process.getBuiltinModule("node:https");
  let seen = stampOf(certificate, key);
  const timer = setInterval(() => {
    const stamp = stampOf(certificate, key);
    if (stamp === seen) return;
    seen = stamp;
    try {
      if (server instanceof Server) server.setSecureContext(readTls({ certificate, key }));
      log(`legerd: notice: ${certificate}: read again`);
    } catch (error) {
      log(
        `legerd: warning: ${certificate}: ${error instanceof LegerError ? error.message : "not usable"}; the old one stays`,
      );
    }
  }, LOOK_EVERY_MS).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** Throws CONFIG for what cannot be read, or is no certificate with its key. */
export function readTls({ certificate, key }: Tls): { cert: Buffer; key: Buffer } {
  const pair = { cert: readPem(certificate), key: readPem(key) };
  try {
    process.getBuiltinModule("node:tls").createSecureContext(pair);
  } catch (cause) {
    throw new LegerError("CONFIG", `${certificate} and ${key} are no certificate with its key`, { cause });
  }
  return pair;
}

function readPem(file: string): Buffer {
  try {
    return fs.readFileSync(file);
  } catch (cause) {
    throw new LegerError("CONFIG", `read ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
}

function stampOf(...files: string[]): string {
  return files
    .map((file) => fs.statSync(file, { throwIfNoEntry: false }))
    .map((stat) => `${stat?.mtimeMs} ${stat?.size} ${stat?.ino}`)
    .join();
}

/** Resolves once it listens. Throws IO, with what a unit may lack. */
export async function listenAtTcp(server: http.Server, { tcp }: TcpDoorConfig): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen({ host: tcp.address, port: tcp.port }, () => {
    server.off("error", reject);
    resolve();
  });
  try {
    await promise;
  } catch (cause) {
    const code = systemCode(cause) ?? "failed";
    const hints =
      code === "EAFNOSUPPORT"
        ? [
            'legerd\'s unit allows unix sockets only: see "Doors on TCP" in docs/configuration.md for its drop-in',
          ]
        : [];
    throw new LegerError("IO", `listen at ${tcp.address} port ${tcp.port}: ${code}`, { hints, cause });
  }
}
