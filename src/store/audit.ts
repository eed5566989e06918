/**
 * audit — who asked for what, as numbered and chained JSON lines, bounded in size.
 *
 * audit.log holds everything. What changed something is written to audit-changes.log as well, which has a bound of
 * its own: however much is read or denied, it pushes no change out.
 */
import type { KeyObject } from "node:crypto";
import { AUDIT_LOGS } from "../core/audit-files.ts";
import type { Action } from "../setec/protocol.ts";
import { openChain, type Chain, type ChainHead } from "./chain.ts";

/** One line, besides its number, time and hash. Never a value. */
export type AuditEntry = {
  principal: string;
  /** setec's actions, and those that only legerd has. A list is `info` without a secret. */
  action:
    | Action
    | "link"
    | "unlink"
    | "set-service"
    | "delete-service"
    | "create-token"
    | "revoke-token"
    | "authenticate";
  /** False: turned away for want of a grant. True says that it was allowed, not that it succeeded. */
  authorized: boolean;
  secret?: string;
  version?: number;
  /** The token that was made or revoked. */
  token?: string;
  /** The service whose env file was asked for. */
  service?: string;
  /** The credential socket that it was read from, below legerd's directory of them: "web.env", "web/OPENAI_API_KEY". */
  credential?: string;
  /** Podman's id of the entry that was looked up, made or deleted. */
  podman_id?: string;
  /** systemd's name of the unit that asked, and its `INVOCATION_ID`, as the asking program said them. */
  unit?: string;
  invocation?: string;
};

/** How far both logs have come. */
export type AuditHeads = { everything: ChainHead; changes: ChainHead };

export type AuditOptions = {
  stateDir: string;
  key: KeyObject;
  /** What the store noted last; undefined for a store that never did. */
  noted: AuditHeads | undefined;
  /** Size of all files together, in bytes. Default 1 GiB. */
  maxBytes?: number | undefined;
  /** How long repeats of one request are counted before one line tells of them; 0: each has a line. Default 60 s. */
  foldMs?: number | undefined;
  log: (line: string) => void;
};

const DEFAULT_MAX_BYTES = 1024 ** 3;
const DEFAULT_FOLD_MS = 60_000;
/** All files of one size: so many of each log. */
const FILES = { everything: 6, changes: 2 } as const;
/** Requests whose repeats are counted at one time; beyond that the oldest is told early. */
const MAX_FOLDED = 10_000;

/** `changes`: it goes into the log of changes, too. */
type Line = { object: object; changes: boolean };

/** What is written together. `keys`: of the requests whose first line is in it. */
type Batch = {
  lines: Line[];
  keys: string[];
  promise: Promise<void>;
  resolve: () => void;
  reject: (error: unknown) => void;
};

/** A request that was written and the repeats of it that were not, yet. */
type Folded = { entry: AuditEntry; since: string; until: number; repeats: number; written: Promise<void> };

/** Opens the logs of a state directory for appending, made where they are missing. Throws UNSAFE, IO. */
export function openAuditLog(options: AuditOptions): AuditLog {
  const { stateDir, key, noted, maxBytes = DEFAULT_MAX_BYTES, foldMs = DEFAULT_FOLD_MS, log } = options;
  const segmentBytes = Math.floor(maxBytes / (FILES.everything + FILES.changes));
  const open = (which: keyof typeof FILES): Chain =>
    openChain({
      stateDir,
      name: AUDIT_LOGS[which],
      key,
      segmentBytes,
      files: FILES[which],
      noted: noted?.[which],
      log,
    });
  const everything = open("everything");
  try {
    return new AuditLog(everything, open("changes"), { foldMs, maxBytes });
  } catch (error) {
    everything.close();
    throw error;
  }
}

/** The one writer of both logs. */
export class AuditLog {
  /** Size of all files together, in bytes, at most. */
  readonly maxBytes: number;
  readonly #log: Chain;
  readonly #changes: Chain;
  readonly #foldMs: number;
  readonly #folded = new Map<string, Folded>();
  readonly #sweeper: NodeJS.Timeout | undefined;
  #batch: Batch | undefined;

  constructor(log: Chain, changes: Chain, { foldMs, maxBytes }: { foldMs: number; maxBytes: number }) {
    this.maxBytes = maxBytes;
    this.#log = log;
    this.#changes = changes;
    this.#foldMs = foldMs;
    if (foldMs === 0) return;
    this.#sweeper = setInterval(() => this.#unfold(performance.now()), Math.min(foldMs, 1_000)).unref();
  }

  /** Rejects once nothing can be noted any more; the process should then end. */
  get failed(): Promise<never> {
    return Promise.race([this.#log.failed, this.#changes.failed]);
  }

  /** The file that everything is written to. */
  get file(): string {
    return this.#log.file;
  }

  /** How far the files have come. */
  get heads(): AuditHeads {
    return { everything: this.#log.head, changes: this.#changes.head };
  }

  /**
   * Notes what a caller reads or is denied. Resolves once its line is written, and so outlives this process; those of
   * one turn of the event loop are written together, all of them or, with IO, none. A repeat within the minute is
   * counted, and one line tells of all of them when the minute is over: a kill before that loses their number. A
   * caller who doesn't wait need not handle the failure.
   */
  append(entry: AuditEntry): Promise<void> {
    this.#unfold(performance.now());
    const key = foldingKey(entry);
    const first = this.#countRepeat(key);
    if (first !== undefined) return first;
    const batch = this.#queue(lineOf(entry));
    batch.keys.push(key);
    this.#remember(key, entry, batch.promise);
    return batch.promise;
  }

  /** Notes the same before it comes back, behind what was noted before. Throws IO, and then wrote none. */
  appendNow(entries: readonly AuditEntry[]): void {
    if (this.#batch !== undefined) this.#settle(this.#batch);
    this.#unfold(performance.now());
    const written = Promise.resolve();
    const fresh = entries.filter((entry) => this.#countRepeat(foldingKey(entry)) === undefined);
    this.#write(fresh.map(lineOf));
    for (const entry of fresh) this.#remember(foldingKey(entry), entry, written);
  }

  /** Notes a change, in both logs. Resolves as `append` does; each has a line of its own. */
  appendChange(entry: AuditEntry): Promise<void> {
    return this.#queue({ ...lineOf(entry), changes: true }).promise;
  }

  /** Resolves once every change noted before the call is on disk. Throws IO, and then for ever. */
  sync(): Promise<void> {
    return this.#changes.sync();
  }

  /** Writes what is left and closes the files. */
  close(): void {
    clearInterval(this.#sweeper);
    try {
      this.flush();
    } finally {
      this.#log.close();
      this.#changes.close();
    }
  }

  /** Writes what is waiting, and how often what was asked again. Whoever waits for a line is told where that fails. */
  flush(): void {
    this.#unfold(Number.POSITIVE_INFINITY);
    if (this.#batch !== undefined) this.#settle(this.#batch);
  }

  /** For a repeat: when the line that it repeats is written. */
  #countRepeat(key: string): Promise<void> | undefined {
    const folded = this.#folded.get(key);
    if (folded === undefined) return undefined;
    folded.repeats += 1;
    return folded.written;
  }

  #remember(key: string, entry: AuditEntry, written: Promise<void>): void {
    if (this.#foldMs === 0) return;
    const until = performance.now() + this.#foldMs;
    this.#folded.set(key, { entry, since: new Date().toISOString(), until, repeats: 0, written });
  }

  /** Tells of the repeats of every request whose minute is over, and of the oldest where there are too many. */
  #unfold(now: number): void {
    for (const [key, { entry, since, until, repeats }] of this.#folded) {
      if (until > now && this.#folded.size <= MAX_FOLDED) break;
      this.#folded.delete(key);
      if (repeats === 0) continue;
      const { unit, invocation } = entry;
      const shared = unit === undefined ? undefined : invocation;
      this.#queue(lineOf({ ...entry, invocation: shared, repeats, since }));
    }
  }

  #queue(line: Line): Batch {
    if (this.#batch === undefined) {
      const batch: Batch = { lines: [], keys: [], ...Promise.withResolvers<void>() };
      // Nobody may be waiting for this one.
      batch.promise.catch(() => {});
      this.#batch = batch;
      setImmediate(() => this.#settle(batch));
    }
    this.#batch.lines.push(line);
    return this.#batch;
  }

  /** Writes a batch, once, and tells those who wait for it. */
  #settle(batch: Batch): void {
    if (this.#batch !== batch) return;
    this.#batch = undefined;
    try {
      this.#write(batch.lines);
      batch.resolve();
    } catch (error) {
      // What was not written is no line that others could be repeats of.
      for (const key of batch.keys) this.#folded.delete(key);
      batch.reject(error);
    }
  }

  #write(lines: readonly Line[]): void {
    // First, so that what is in the log of changes is in this one, too.
    const first = this.#log.write(lines.map(({ object }) => object));
    const numbered = lines.map(({ object, changes }, at) => ({
      changes,
      object: { log_n: first + at, ...object },
    }));
    this.#changes.write(numbered.filter(({ changes }) => changes).map(({ object }) => object));
  }
}

function lineOf(entry: object): Line {
  return { object: { time: new Date().toISOString(), ...entry }, changes: false };
}

/**
 * Who asked for what with which result. A unit's start is told apart by its invocation; without a unit it is that of a
 * health check, of which each has one of its own.
 */
function foldingKey(entry: AuditEntry): string {
  if (entry.unit !== undefined || entry.invocation === undefined) return JSON.stringify(entry);
  return JSON.stringify({ ...entry, invocation: undefined });
}
