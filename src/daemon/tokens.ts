/** tokens — who may come in over TCP: what a bearer token stands for. Only hashes are kept. */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { compileGrants } from "../setec/grants.ts";
import type { Store, TokenRecord } from "../store/store.ts";
import type { RouteGroup } from "./config.ts";
import type { Caller } from "./session.ts";

/** So that scanners for leaked keys can tell it, and people. */
const PREFIX = "leger_token_";
const TOKEN_BYTES = 32;

/** A fresh token, which is told once, and the hash of it that is kept. */
export function newToken(): { token: string; hash: string } {
  const token = PREFIX + randomBytes(TOKEN_BYTES).toString("base64url");
  return { token, hash: hashOf(token).toString("hex") };
}

/** The tokens of a store. */
export class Tokens {
  readonly #store: Store;
  #known: { hash: Buffer; record: TokenRecord; caller: Caller }[] = [];

  constructor(store: Store) {
    this.#store = store;
    this.refresh();
  }

  /** Reads them again; to be called once a change of them is durable. */
  refresh(): void {
    this.#known = this.#store.tokens().map((record) => ({
      hash: Buffer.from(record.hash, "hex"),
      record,
      caller: { principal: `token ${record.name}`, access: compileGrants(record.grants) },
    }));
  }

  /** Who has this token; undefined where nobody has, or not any more. Takes as long for one as for another. */
  callerOf(token: string, now: Date, routes: readonly RouteGroup[]): Caller | undefined {
    const asked = hashOf(token);
    let found: Caller | undefined;
    for (const { hash, record, caller } of this.#known) {
      const isThis = hash.length === asked.length && timingSafeEqual(hash, asked);
      if (isThis && !isExpired(record, now)) found = caller;
    }
    return found === undefined ? undefined : { ...found, routes };
  }
}

function isExpired({ expires }: TokenRecord, now: Date): boolean {
  return expires !== undefined && Date.parse(expires) <= now.getTime();
}

function hashOf(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}
