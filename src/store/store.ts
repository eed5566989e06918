/** store — every secret once, encrypted and versioned: what the daemon asks and tells. */
import type { DatabaseSync } from "node:sqlite";
import path from "node:path";
import { LegerError } from "../core/error.ts";
import { Secret } from "../core/secret.ts";
import { nextTurn } from "../core/turn.ts";
import type { SecretInfo } from "../setec/protocol.ts";
import { openAuditLog, type AuditHeads, type AuditLog, type AuditOptions } from "./audit.ts";
import { verifyAudit, type AuditReport } from "./audit-verify.ts";
import {
  connect,
  lockStateDirectory,
  prepareDatabase,
  prepareStateDirectory,
  type OpenedDatabase,
} from "./database.ts";
import { Rows, type LinkRecord, type SecretRecord, type ServiceRecord, type TokenRecord } from "./rows.ts";
import { createChainKey } from "./seal.ts";
import { fromSqlite } from "./sqlite.ts";
import { countNumbers, hasNumber, listNumbers, versionNotFound } from "./versions.ts";
import { startVerifier, type Verifier } from "./verifier.ts";
import { startWriter, type Mutation, type Writer } from "./writer.ts";

export type { LinkRecord, ServiceRecord, TokenRecord } from "./rows.ts";
export type { Mutation } from "./writer.ts";

export type StoreOptions = {
  stateDir: string;
  /** systemd's `$CREDENTIALS_DIRECTORY`: a `main.key` in there is used in place of the file. */
  credentialsDir?: string | undefined;
  /** How many active values stay opened in memory; 0 turns that off. Default 1,000. */
  cacheEntries?: number;
};

/** One version of a secret. */
export type VersionedValue = { version: number; value: Secret };

/** Versions of all secrets together; secrets that have a newer version than the active one. */
export type Tally = { versions: number; pending: number };

/** What is known of the whole of a store. */
export type Verification =
  | { state: "waiting" }
  | { state: "running" }
  | { state: "whole"; at: string; records: number; values: number }
  /** Sentences; the most serious need not be the first. */
  | { state: "damaged"; problems: readonly string[] }
  /** It could not be looked at. */
  | { state: "failed"; reason: string };

const DEFAULT_CACHE_ENTRIES = 1_000;
/** Bound on the opened values in memory, however many there are. */
const CACHE_BYTES = 8 * 1024 * 1024;
/** How long a list may keep the event loop before others get their turn. */
const SLICE_MS = 0.25;
/** Who counts while the store changes all the time counts for a twentieth of it; a short count is free. */
const COUNTING_RESTS = 20;
const SHORT_COUNT_MS = 25;

/** Opens the store of a state directory, made anew where there is none. Throws LegerError. */
export function openStore(options: StoreOptions): Store {
  const { stateDir } = options;
  prepareStateDirectory(stateDir);
  const lock = lockStateDirectory(stateDir);
  try {
    const database = prepareDatabase(options);
    return new Store(lock, database, options.cacheEntries ?? DEFAULT_CACHE_ENTRIES);
  } catch (error) {
    lock[Symbol.dispose]();
    throw fromSqlite(error, `open the store in ${stateDir}`);
  }
}

/**
 * Reads are answered on the calling thread from its own connection, mutations by the writer's; a mutation
 * resolves once it is durable and every later read sees it. Errors are LegerErrors: SECRET_NOT_FOUND,
 * VERSION_NOT_FOUND, VERSION_CLAIMED, REFUSED, DAMAGED, IO.
 */
export class Store {
  readonly created: boolean;
  readonly databaseFile: string;
  readonly mainKeyFile: string;
  readonly #lock: Disposable;
  readonly #database: OpenedDatabase;
  readonly #db: DatabaseSync;
  readonly #rows: Rows;
  readonly #writer: Writer;
  readonly #cache: ValueCache;
  #verification: Verification = { state: "waiting" };
  #verifier: Verifier | undefined;
  #running: Promise<unknown> = Promise.resolve();
  #queued: Promise<SecretInfo[]> | undefined;
  /** Mutations that came to their end, one way or the other. */
  #mutations = 0;
  #tally: { tally: Tally; mutations: number; untilMs: number } | undefined;
  #counting: Promise<Tally> | undefined;

  constructor(lock: Disposable, database: OpenedDatabase, cacheEntries: number) {
    this.#lock = lock;
    this.#database = database;
    this.created = database.created;
    this.databaseFile = database.file;
    this.mainKeyFile = database.mainKey.file;
    this.#db = connect(database.file, "read");
    try {
      this.#rows = new Rows(this.#db, database.keys);
    } catch (error) {
      this.#db.close();
      throw error;
    }
    this.#writer = startWriter(database.file, database.keys);
    this.#cache = new ValueCache(cacheEntries);
  }

  /** What is known of the whole of it. */
  get verification(): Verification {
    return this.#verification;
  }

  /**
   * Reads all of it through, beside its use and slowly; resolves with the outcome. From the first damage on nothing is
   * changed any more, and nothing is said not to be there; what verifies is given out as before.
   */
  async verify(): Promise<Verification> {
    const problems: string[] = [];
    this.#verification = { state: "running" };
    const verifier = startVerifier(this.#database.file, this.#database.keys, (problem) => {
      problems.push(problem);
      this.#verification = { state: "damaged", problems };
    });
    this.#verifier = verifier;
    const outcome = await verifier.ended;
    this.#verifier = undefined;
    if (problems.length === 0) {
      this.#verification =
        "failed" in outcome
          ? { state: "failed", reason: outcome.failed }
          : { state: "whole", at: new Date().toISOString(), ...outcome.done };
    }
    return this.#verification;
  }

  /** Rejects when the store can no longer be written to; the process should then end. */
  get failed(): Promise<never> {
    return this.#writer.failed;
  }

  /** A version of a secret; the active one unless `version` is given. */
  get(name: string, version?: number): VersionedValue {
    if (version === undefined) {
      const cached = this.#cache.get(name);
      if (cached !== undefined) return cached;
    }
    const found = this.#answer(`get ${name}`, () => readVersion(this.#rows, name, version));
    if (version === undefined) this.#cache.set(name, found);
    return found;
  }

  /** The active version of a secret; undefined where there is no such secret. */
  active(name: string): VersionedValue | undefined {
    try {
      return this.get(name);
    } catch (error) {
      if (error instanceof LegerError && error.code === "SECRET_NOT_FOUND") return undefined;
      throw error;
    }
  }

  /** The active versions of several secrets as they stood together at one moment, in the order asked. */
  getTogether(names: readonly string[]): VersionedValue[] {
    return this.#answer("get", () => names.map((name) => readVersion(this.#rows, name, undefined)));
  }

  /** Number of the active version. */
  activeVersion(name: string): number {
    const cached = this.#cache.get(name);
    if (cached !== undefined) return cached.version;
    return this.#answer(`get ${name}`, () => secretOf(this.#rows, name).active);
  }

  info(name: string): SecretInfo {
    return this.#answer(`info ${name}`, () => infoOf(secretOf(this.#rows, name)));
  }

  /** Every secret, sorted by the UTF-8 bytes of its name, as they stood at one moment after the call. */
  list(): Promise<SecretInfo[]> {
    // A list of 100,000 takes a second of work: those who ask while one runs share the next.
    this.#queued ??= this.#running.then(() => {
      this.#queued = undefined;
      const scan = this.#scanSecrets();
      this.#running = scan.catch(() => {});
      return scan;
    });
    return this.#queued;
  }

  /** How many secrets there are. */
  count(): number {
    return this.counts().secrets;
  }

  /** How many there are of each kind, which the root of the tree knows. */
  counts(): { secrets: number; services: number; links: number; tokens: number } {
    return this.#rows.snapshot("count", () => ({
      secrets: this.#rows.count("secret"),
      services: this.#rows.count("service"),
      links: this.#rows.count("link"),
      tokens: this.#rows.count("token"),
    }));
  }

  /** Counted anew after a change; where that takes long, what is told may be older than the last one. */
  async tally(): Promise<Tally> {
    const { tally, mutations, untilMs } = this.#tally ?? {};
    if (tally !== undefined && (mutations === this.#mutations || performance.now() < (untilMs ?? 0))) {
      return tally;
    }
    this.#counting ??= this.#count().finally(() => (this.#counting = undefined));
    return this.#counting;
  }

  link(id: string): LinkRecord | undefined {
    return this.#answer(`look up ${id}`, () => this.#rows.read("link", id));
  }

  /** The value that a link of Podman's keeps for itself. */
  linkValue(link: { name: string; owner: string }): Secret {
    return this.#rows.snapshot(`look up ${link.name}`, () => new Secret(this.#rows.readValue(link.owner, 1)));
  }

  links(): LinkRecord[] {
    return this.#rows.snapshot("list links", () => [...this.#rows.scan("link")]);
  }

  service(name: string): ServiceRecord | undefined {
    return this.#answer(`service ${name}`, () => this.#rows.read("service", name));
  }

  /** A service and what its secrets hold, in its order, all at one moment; undefined for a secret that isn't there. */
  serviceWithValues(
    name: string,
  ): { service: ServiceRecord; found: (VersionedValue | undefined)[] } | undefined {
    return this.#answer(`service ${name}`, () => {
      const service = this.#rows.read("service", name);
      if (service === undefined) return undefined;
      const found = Object.values(service.variables).map((secret) => {
        const record = this.#rows.read("secret", secret);
        if (record === undefined) return undefined;
        return {
          version: record.active,
          value: new Secret(this.#rows.readValue(record.owner, record.active)),
        };
      });
      // What seems not to be there may have been.
      if (this.#verification.state === "damaged" && found.includes(undefined)) {
        throw storeDamaged(`service ${name}: not all of it can be read`);
      }
      return { service, found };
    });
  }

  services(): ServiceRecord[] {
    const services = this.#rows.snapshot("list services", () => [...this.#rows.scan("service")]);
    return services.toSorted((a, b) => compareUtf8(a.name, b.name));
  }

  tokens(): TokenRecord[] {
    const tokens = this.#rows.snapshot("list tokens", () => [...this.#rows.scan("token")]);
    return tokens.toSorted((a, b) => compareUtf8(a.name, b.name));
  }

  /** Opens the audit logs that belong to this store. Throws UNSAFE, IO. */
  openAudit(options: Omit<AuditOptions, "stateDir" | "key" | "noted">): AuditLog {
    const { file, keys } = this.#database;
    const noted = this.auditHeads();
    return openAuditLog({ ...options, stateDir: path.dirname(file), key: createChainKey(keys), noted });
  }

  /** How far the audit logs had come when that was last noted. */
  auditHeads(): AuditHeads | undefined {
    return this.#rows.snapshot("read where the audit log stood", () => this.#rows.read("audit", "heads"));
  }

  /** Reads the audit logs through, which have come as far as `heads` at least. */
  async verifyAudit(heads: AuditHeads): Promise<AuditReport> {
    const { file, keys } = this.#database;
    return verifyAudit({ stateDir: path.dirname(file), key: createChainKey(keys), heads });
  }

  /** Notes how far the audit logs have come. */
  async noteAudit(heads: AuditHeads): Promise<void> {
    await this.#writer.run(undefined, heads);
    this.#rows.expectAtLeast(this.#writer.generation);
  }

  /** Carries out a mutation; resolves with the version it made or named, 0 where there is none. `heads` are noted with it. */
  async mutate(mutation: Mutation, heads?: AuditHeads): Promise<number> {
    if (this.#verification.state === "damaged") throw storeDamaged(`${mutation.do}: nothing is changed`);
    try {
      return await this.#writer.run(mutation, heads);
    } finally {
      this.#rows.expectAtLeast(this.#writer.generation);
      this.#mutations += 1;
      // Also after a failure: a commit whose acknowledgement was lost may have happened.
      if ("name" in mutation) this.#cache.delete(mutation.name);
    }
  }

  async close(): Promise<void> {
    // A list that waits for its turn starts when the one before it has ended, and becomes the running one.
    while (this.#queued !== undefined) await this.#queued.catch(() => {});
    await this.#running;
    await this.#counting?.catch(() => {});
    await this.#verifier?.stop();
    this.#db.close();
    // The last connection to close copies the log into the database and removes it.
    await this.#writer.close();
    this.#lock[Symbol.dispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Of a store that is damaged nothing is said not to be there: it may have been. */
  #answer<T>(doing: string, work: () => T): T {
    if (this.#verification.state !== "damaged") return this.#rows.snapshot(doing, work);
    let answer: T;
    try {
      answer = this.#rows.snapshot(doing, work);
    } catch (error) {
      if (!(error instanceof LegerError) || !NOT_THERE.has(error.code)) throw error;
      throw storeDamaged(`${error.message}, as far as can be told`);
    }
    if (answer === undefined) throw storeDamaged(`${doing}: not found, as far as can be told`);
    return answer;
  }

  async #scanSecrets(): Promise<SecretInfo[]> {
    const infos: SecretInfo[] = [];
    await this.#visitSecrets("list", (record) => void infos.push(infoOf(record)));
    return sortInTurns(infos);
  }

  async #count(): Promise<Tally> {
    const mutations = this.#mutations;
    const startedMs = performance.now();
    let versions = 0;
    let pending = 0;
    await this.#visitSecrets("count versions", ({ live, active }) => {
      versions += countNumbers(live);
      if ((live.at(-1)?.[1] ?? 0) > active) pending += 1;
    });
    const tally = { versions, pending };
    const endedMs = performance.now();
    const restMs = Math.max(0, endedMs - startedMs - SHORT_COUNT_MS) * COUNTING_RESTS;
    this.#tally = { tally, mutations, untilMs: endedMs + restMs };
    return tally;
  }

  /** Every secret's record, in no order, as they stood at one moment after the call; others get their turn in between. */
  async #visitSecrets(doing: string, visit: (record: SecretRecord) => void): Promise<void> {
    try {
      const db = connect(this.#database.file, "read");
      try {
        const rows = new Rows(db, this.#database.keys);
        rows.expectAtLeast(this.#rows.snapshot(doing, () => this.#rows.generation));
        rows.startSnapshot();
        let sliceStart = performance.now();
        for (const record of rows.scan("secret")) {
          visit(record);
          if (performance.now() - sliceStart > SLICE_MS) {
            await nextTurn();
            sliceStart = performance.now();
          }
        }
      } finally {
        db.close();
      }
    } catch (error) {
      throw fromSqlite(error, doing);
    }
  }
}

const NOT_THERE: ReadonlySet<string> = new Set(["SECRET_NOT_FOUND", "VERSION_NOT_FOUND"]);

function storeDamaged(what: string): LegerError {
  return new LegerError("DAMAGED", `${what}: the store is damaged`, { hints: DAMAGE_HINTS });
}

/** What to do about a store that is not whole. */
export const DAMAGE_HINTS: readonly string[] = [
  'see all that is wrong with "legerd check"',
  'then restore a backup, or rescue what can be read with "legerd salvage"',
];

function readVersion(rows: Rows, name: string, asked: number | undefined): VersionedValue {
  const record = secretOf(rows, name);
  const version = asked ?? record.active;
  if (!hasNumber(record.live, version)) throw versionNotFound(version);
  return { version, value: new Secret(rows.readValue(record.owner, version)) };
}

function secretOf(rows: Rows, name: string): SecretRecord {
  const record = rows.read("secret", name);
  if (record === undefined) throw new LegerError("SECRET_NOT_FOUND", `secret ${name}: not found`);
  return record;
}

function infoOf({ name, live, active }: SecretRecord): SecretInfo {
  return { Name: name, Versions: listNumbers(live), ActiveVersion: active };
}

/** The order of Go's sort of strings. JavaScript compares UTF-16 units, which differs above U+D7FF. */
function compareUtf8(a: string, b: string): number {
  const above = /[\ud800-\uffff]/;
  if (above.test(a) || above.test(b)) return Buffer.compare(Buffer.from(a), Buffer.from(b));
  return a < b ? -1 : Number(a > b);
}

function byName(a: SecretInfo, b: SecretInfo): number {
  return compareUtf8(a.Name, b.Name);
}

/** Sorts by name; merges runs, giving others their turn between them. */
async function sortInTurns(infos: SecretInfo[]): Promise<SecretInfo[]> {
  const runLength = 1_024;
  let runs: SecretInfo[][] = [];
  for (let at = 0; at < infos.length; at += runLength) {
    runs.push(infos.slice(at, at + runLength).toSorted(byName));
    await nextTurn();
  }
  while (runs.length > 1) {
    const merged: SecretInfo[][] = [];
    for (let at = 0; at < runs.length; at += 2) {
      merged.push(await mergeInTurns(runs[at] ?? [], runs[at + 1] ?? [], byName));
    }
    runs = merged;
  }
  return runs[0] ?? [];
}

async function mergeInTurns<T>(left: T[], right: T[], compare: (a: T, b: T) => number): Promise<T[]> {
  const merged: T[] = [];
  let i = 0;
  let j = 0;
  for (;;) {
    const a = left[i];
    const b = right[j];
    if (a === undefined && b === undefined) return merged;
    if (b === undefined || (a !== undefined && compare(a, b) <= 0)) {
      if (a !== undefined) merged.push(a);
      i += 1;
    } else {
      merged.push(b);
      j += 1;
    }
    if (merged.length % 4_096 === 0) await nextTurn();
  }
}

/** Active values by name, the least recently used dropped first. */
class ValueCache {
  readonly #entries = new Map<string, VersionedValue>();
  readonly #maxEntries: number;
  #bytes = 0;

  constructor(maxEntries: number) {
    this.#maxEntries = maxEntries;
  }

  get(name: string): VersionedValue | undefined {
    const entry = this.#entries.get(name);
    if (entry === undefined) return undefined;
    this.#entries.delete(name);
    this.#entries.set(name, entry);
    return entry;
  }

  set(name: string, entry: VersionedValue): void {
    const bytes = entry.value.reveal().length;
    if (this.#maxEntries === 0 || bytes > CACHE_BYTES / 8) return;
    this.delete(name);
    this.#entries.set(name, entry);
    this.#bytes += bytes;
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= this.#maxEntries && this.#bytes <= CACHE_BYTES) break;
      this.delete(oldest);
    }
  }

  delete(name: string): void {
    const entry = this.#entries.get(name);
    if (entry === undefined) return;
    this.#entries.delete(name);
    this.#bytes -= entry.value.reveal().length;
  }
}
