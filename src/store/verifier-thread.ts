/**
 * verifier-thread — reads a store through while it is used, and says what is wrong with it.
 *
 * In slices, each on a snapshot of its own: one snapshot for all would keep the log from being folded in for as long as
 * it takes. A slice is right by itself, since each record is held against the tree of the same moment.
 */
import type { DatabaseSync } from "node:sqlite";
import type { MessagePort } from "node:worker_threads";
import { damageOf, isConsistent } from "./check.ts";
import { connect } from "./database.ts";
import { Rows } from "./rows.ts";
import { fromSqlite } from "./sqlite.ts";
import { RECORD_KINDS, type RecordKind } from "./tree.ts";
import type { VerifierMessage, VerifierStart } from "./verifier.ts";
import { listNumbers } from "./versions.ts";

/** A kind's buckets, and how many slices they are read in. */
const BUCKETS = 0x1_0000;
const SLICES = 256;
/** After a piece of work the thread rests so many times as long: reads have the processor, and the disk. */
const REST = 3;
/** On a busy machine a piece takes long without being much. */
const MAX_REST_MS = 100;
/** Values between two rests. */
const VALUES_PER_PIECE = 500;
/** One damaged page can make thousands. */
const MAX_PROBLEMS = 100;
const MAX_SQLITE_FINDINGS = 20;

export function isVerifierStart(data: unknown): data is VerifierStart {
  return typeof data === "object" && data !== null && "role" in data && data.role === "leger store verifier";
}

export async function verifyAll(port: MessagePort, start: VerifierStart): Promise<void> {
  const told = new Set<string>();
  const tell = (problem: string): void => {
    if (told.has(problem) || told.size >= MAX_PROBLEMS) return;
    told.add(problem);
    port.postMessage({ problem } satisfies VerifierMessage);
  };
  let read = { records: 0, values: 0 };
  try {
    read = await readThrough(start, tell);
    port.postMessage({ done: read } satisfies VerifierMessage);
  } catch (error) {
    const failure = fromSqlite(error, "verify the store");
    if (failure.code === "DAMAGED") tell(failure.message);
    const outcome: VerifierMessage =
      failure.code === "DAMAGED" ? { done: read } : { failed: failure.message };
    port.postMessage(outcome);
  } finally {
    port.close();
  }
}

type Read = { records: number; values: number };

async function readThrough(start: VerifierStart, tell: (problem: string) => void): Promise<Read> {
  const { file, storeId, dataKey } = start;
  const db = connect(file, "verify");
  try {
    const rows = new Rows(db, { storeId: Buffer.from(storeId), dataKey: Buffer.from(dataKey) });
    const read: Read = { records: 0, values: 0 };
    const pace = new Pace();
    for (const kind of kinds()) {
      for (let slice = 0; slice < SLICES; slice += 1) {
        const from = (slice * BUCKETS) / SLICES;
        attempt(tell, `${kind} records`, () =>
          readSlice(rows, kind, [from, from + BUCKETS / SLICES], read, tell),
        );
        if (pace.isDue(read)) await pace.rest();
      }
      attempt(tell, `${kind} records`, () => countRecords(db, rows, kind, tell));
    }
    await pace.rest();
    attempt(tell, "SQLite's own check", () => checkPages(db, tell));
    return read;
  } finally {
    db.close();
  }
}

function kinds(): RecordKind[] {
  const all: Record<RecordKind, number> = RECORD_KINDS;
  return Object.keys(all).filter((kind): kind is RecordKind => Object.hasOwn(all, kind));
}

/** Runs one pass; damage that ends it is one problem more. */
function attempt(tell: (problem: string) => void, what: string, pass: () => void): void {
  try {
    pass();
  } catch (error) {
    tell(damageOf(error, what));
  }
}

function readSlice(
  rows: Rows,
  kind: RecordKind,
  [from, to]: readonly [number, number],
  read: Read,
  tell: (problem: string) => void,
): void {
  rows.snapshot("verify", () => {
    for (const { rows: found, fits } of rows.buckets(kind, from, to)) {
      if (!fits) {
        const what = found.length === 0 ? "is missing" : "does not fit the tree";
        tell(`a ${kind} record ${what}`);
      }
      for (const { key, sealed } of found) {
        read.records += 1;
        attempt(tell, `a ${kind} record that cannot be named`, () => {
          const { kind: found_, record } = rows.openRow(key, sealed);
          const called = `${found_} ${record.name}`;
          if (found_ === "secret" && !isConsistent(record)) tell(`${called}: its record contradicts itself`);
          else if ("owner" in record) {
            const live = found_ === "secret" ? record.live : ([[1, 1]] as const);
            for (const version of listNumbers(live)) {
              read.values += 1;
              attempt(
                tell,
                `${called}: version ${version}`,
                () => void rows.readValue(record.owner, version),
              );
            }
          }
        });
      }
    }
  });
}

function countRecords(db: DatabaseSync, rows: Rows, kind: RecordKind, tell: (problem: string) => void): void {
  rows.snapshot("verify", () => {
    const first = Buffer.of(RECORD_KINDS[kind]);
    const end = Buffer.of(RECORD_KINDS[kind] + 1);
    const counted = db
      .prepare("SELECT count(*) AS n FROM records WHERE key >= ? AND key < ?")
      .get(first, end);
    const [are, should] = [Number(counted?.["n"]), rows.count(kind)];
    if (are !== should) tell(`there are ${are} ${kind} records, but the tree counts ${should}`);
  });
}

/** Pages, and that each index leads to its rows. */
function checkPages(db: DatabaseSync, tell: (problem: string) => void): void {
  for (const row of db.prepare(`PRAGMA integrity_check(${MAX_SQLITE_FINDINGS})`).iterate()) {
    const finding = row["integrity_check"];
    if (finding === "ok") continue;
    for (const line of String(finding).split("\n")) {
      if (!line.startsWith("***")) tell(`SQLite's own check: ${line}`);
    }
  }
}

/** Work and rest. */
class Pace {
  #begun = performance.now();
  #values = 0;

  isDue({ values, records }: Read): boolean {
    return values + records - this.#values >= VALUES_PER_PIECE;
  }

  async rest(): Promise<void> {
    const workedMs = performance.now() - this.#begun;
    await new Promise((resolve) => setTimeout(resolve, Math.min(workedMs * REST, MAX_REST_MS)));
    this.#begun = performance.now();
    this.#values += VALUES_PER_PIECE;
  }
}
