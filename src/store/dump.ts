/**
 * dump — a store's rows as a stream of bytes, read at one moment, and a database made of them again.
 *
 * Rows stay sealed as they are. The main key goes along in the clear: the stream is for memory only, and whoever takes
 * it has to seal it before it touches a disk.
 */
import * as fs from "node:fs";
import path from "node:path";
import type { DatabaseSync, SQLOutputValue, StatementSync } from "node:sqlite";
import { LegerError } from "../core/error.ts";
import { nextTurn } from "../core/turn.ts";
import {
  checkSnapshot,
  checkStore,
  connectToLook,
  findStore,
  nothingChecked,
  type CheckResult,
} from "./check.ts";
import {
  connect,
  buildDatabase,
  DATABASE_FILE,
  isOurs,
  markFileOf,
  MIGRATIONS,
  readKeys,
  type Where,
} from "./database.ts";
import { createMainKey, mainKeyLine, parseMainKeyLine, syncDirectory } from "./main-key.ts";
import { readMark } from "./mark.ts";
import { Rows } from "./rows.ts";
import { fromSqlite } from "./sqlite.ts";

/** What a dump says of itself before its rows. */
export type DumpFacts = {
  /** ISO 8601, UTC. */
  madeAt: string;
  /** The version of leger that made it. */
  leger: string;
  /** How many changes the audit log had noted. */
  changes: number;
  counts: Counts;
  /** Rows of the whole dump. */
  rows: number;
};

type Counts = Omit<CheckResult, "problems" | "audit_lines">;

/** Rows read or written so far, and how many there are. */
export type Progress = (done: number, of: number) => void;

/** The first bytes of a dump, before the number of its format. */
const MAGIC = "leger backup ";
const FORMAT = 1;

/** A frame is a byte for what it is, four for its length, and that. */
const FRAME = { facts: 1, table: 2, row: 3, end: 4 } as const;
const FRAME_HEAD_BYTES = 5;
/** Requests end at 1 MiB, so no row of ours comes near this. */
const MAX_FRAME_BYTES = 8 * 1024 * 1024;
/** How a value of SQLite's is written: a byte for its type, four for its length, and that. */
const VALUE = { integer: 1, text: 2, blob: 3 } as const;
const CHUNK_BYTES = 256 * 1024;
const ROWS_PER_TURN = 200;

/**
 * Reads the whole store at one moment, beside a running legerd or without one, after it has verified every row of that
 * moment. `facts` is called before the first bytes. Throws what `checkStore` throws, and DAMAGED for a store that is not
 * whole: a copy of it would be found out on the day it is needed.
 */
export async function* dumpStore(
  where: Where,
  {
    version,
    now,
    onFacts,
    onProgress,
  }: { version: string; now: Date; onFacts: (facts: DumpFacts) => void; onProgress: Progress },
): AsyncGenerator<Buffer, void> {
  const { file, mainKey } = findStore(where, "back up");
  let db: DatabaseSync | undefined;
  try {
    db = connectToLook(file);
    if (!isOurs(db)) throw notWhole(file, "its first page is damaged");
    const { keys, version: schema } = readKeys(db, file, mainKey);
    const result = nothingChecked();
    const heads = await checkSnapshot(db, keys, readMark(markFileOf(file), keys), result);
    const { problems, audit_lines: _, ...counts } = result;
    if (problems[0] !== undefined) throw notWhole(file, problems[0], problems.length);
    const tables = tablesOf(db);
    const rows = tables.reduce((sum, { count }) => sum + count, 0);
    const facts: DumpFacts = {
      madeAt: now.toISOString(),
      leger: version,
      changes: heads?.changes.n ?? 0,
      counts,
      rows,
    };
    onFacts(facts);
    const out = new Chunks();
    out.push(Buffer.from(`${MAGIC}${FORMAT}\n`));
    out.frame(
      FRAME.facts,
      Buffer.from(JSON.stringify(factsAsJson(facts, schema, mainKeyLine(mainKey.bytes)))),
    );
    let done = 0;
    for (const { name, columns } of tables) {
      out.frame(FRAME.table, Buffer.from(JSON.stringify({ name, columns })));
      for (const row of db.prepare(`SELECT * FROM ${quoted(name)}`).iterate()) {
        out.frame(FRAME.row, encodeRow(columns.map((column) => row[column])));
        done += 1;
        if (out.bytes >= CHUNK_BYTES) yield out.take();
        if (done % ROWS_PER_TURN !== 0) continue;
        onProgress(done, rows);
        await nextTurn();
      }
    }
    out.frame(FRAME.end, Buffer.from(JSON.stringify({ rows: done })));
    yield out.take();
  } catch (error) {
    throw fromSqlite(error, `back up ${file}`);
  } finally {
    db?.close();
  }
}

/**
 * Makes a database and a main key of a dump, in a directory of its own that is empty, and verifies every row. Throws
 * DAMAGED for what is no whole dump, CONFIG for one that a newer leger made, IO.
 */
export async function loadDump(
  directory: string,
  dump: AsyncIterable<Uint8Array>,
  onProgress: Progress,
): Promise<DumpFacts> {
  const file = path.join(directory, DATABASE_FILE);
  const reader = new FrameReader(dump);
  let db: DatabaseSync | undefined;
  try {
    await readMagic(reader);
    const first = await reader.frame();
    if (first?.kind !== FRAME.facts) throw damaged("it does not say what it is");
    const { facts, schema, mainKey } = factsFrom(first.body);
    if (schema > MIGRATIONS.length) {
      throw new LegerError(
        "CONFIG",
        `a newer legerd made this backup (schema ${schema}; this one knows ${MIGRATIONS.length})`,
        {
          hints: [`install leger ${facts.leger} or newer`],
        },
      );
    }
    const building = buildDatabase(file, { version: schema });
    db = building.db;
    await insertRows(db, reader, (done) => onProgress(done, facts.rows), facts.rows);
    building.finish();
    db.close();
    db = undefined;
    createMainKey(directory, mainKey);
    restartAudit(directory);
    syncFile(file);
    syncDirectory(directory);
    await requireWhole(directory, facts);
    return facts;
  } catch (error) {
    throw fromSqlite(error, "restore");
  } finally {
    db?.close();
  }
}

/** The logs stay where they were; those of the restored store go on from there, and lack nothing. */
function restartAudit(stateDir: string): void {
  const { file, mainKey } = findStore({ stateDir }, "restore");
  const db = connect(file, "write");
  try {
    const rows = new Rows(db, readKeys(db, file, mainKey).keys);
    rows.commit("restore", () => {
      const heads = rows.read("audit", "heads");
      if (heads === undefined) return;
      const { everything, changes } = heads;
      rows.write("audit", {
        name: "heads",
        everything: { ...everything, first: everything.n + 1 },
        changes: { ...changes, first: changes.n + 1 },
      });
    });
  } catch (error) {
    // The check that follows says what is wrong in full.
    if (fromSqlite(error, "restore").code !== "DAMAGED") throw error;
  } finally {
    db.close();
  }
}

async function requireWhole(directory: string, { counts }: DumpFacts): Promise<void> {
  const { problems, ...found } = await checkStore({ stateDir: directory });
  if (problems[0] !== undefined) throw damaged(`what is in it is not whole: ${problems[0]}`);
  for (const what of ["secrets", "versions", "links", "services"] as const) {
    if (found[what] !== counts[what]) {
      throw damaged(`it holds ${found[what]} ${what}, but says ${counts[what]}`);
    }
  }
}

async function insertRows(
  db: DatabaseSync,
  reader: FrameReader,
  onProgress: (done: number) => void,
  expected: number,
): Promise<void> {
  const known = new Map(tablesOf(db).map((table) => [table.name, table]));
  let insert: StatementSync | undefined;
  let width = 0;
  let done = 0;
  for (;;) {
    const frame = await reader.frame();
    if (frame === undefined) throw damaged("its end is missing");
    if (frame.kind === FRAME.end) break;
    if (frame.kind === FRAME.table) {
      const { name, columns } = tableFrom(frame.body);
      const table = known.get(name);
      if (table === undefined || table.columns.join() !== columns.join())
        throw damaged("it has a table of no store");
      known.delete(name);
      width = columns.length;
      insert = db.prepare(
        `INSERT INTO ${quoted(name)} (${columns.map(quoted).join()}) VALUES (${columns.map(() => "?").join()})`,
      );
    } else if (frame.kind === FRAME.row && insert !== undefined) {
      const values = decodeRow(frame.body);
      if (values.length !== width) throw damaged("a row has a wrong shape");
      insertRow(insert, values);
      done += 1;
      if (done % ROWS_PER_TURN === 0) onProgress(done);
    } else {
      throw damaged("it holds something unknown");
    }
  }
  if (done !== expected) throw damaged(`it holds ${done} rows, but says ${expected}`);
  if ((await reader.frame()) !== undefined) throw damaged("something follows its end");
}

/** What a table will not take was not written by a dump. */
function insertRow(insert: StatementSync, values: (bigint | string | Buffer)[]): void {
  try {
    insert.run(...values);
  } catch (error) {
    const failure = fromSqlite(error, "restore");
    throw failure.code === "IO" ? failure : damaged("a row has a wrong shape", error);
  }
}

async function readMagic(reader: FrameReader): Promise<void> {
  const line = await reader.line(MAGIC.length + 10);
  const format = new RegExp(`^${MAGIC}([0-9]+)$`).exec(line ?? "")?.[1];
  if (format === undefined) {
    throw new LegerError("BAD_DATA", "what was sealed is no backup of legerd", {
      hints: ["it was sealed by another program: open it with age"],
    });
  }
  if (Number(format) === FORMAT) return;
  throw new LegerError(
    "CONFIG",
    `a newer legerd made this backup (format ${format}; this one knows ${FORMAT})`,
    {
      hints: ["install the newest leger"],
    },
  );
}

type Table = { name: string; columns: string[]; count: number };

function tablesOf(db: DatabaseSync): Table[] {
  const names = db
    .prepare(
      "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    )
    .all()
    .map(({ name }) => String(name));
  return names.map((name) => ({
    name,
    columns: db
      .prepare(`PRAGMA table_info(${quoted(name)})`)
      .all()
      .map((row) => String(row["name"])),
    count: Number(db.prepare(`SELECT count(*) AS n FROM ${quoted(name)}`).get()?.["n"]),
  }));
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** Frames, gathered into pieces worth passing on. */
class Chunks {
  bytes = 0;
  #parts: Buffer[] = [];

  push(part: Buffer): void {
    this.#parts.push(part);
    this.bytes += part.length;
  }

  frame(kind: number, body: Buffer): void {
    const head = Buffer.alloc(FRAME_HEAD_BYTES);
    head[0] = kind;
    head.writeUInt32BE(body.length, 1);
    this.push(head);
    this.push(body);
  }

  take(): Buffer {
    const whole = Buffer.concat(this.#parts);
    this.#parts = [];
    this.bytes = 0;
    return whole;
  }
}

/** Reads frames from a stream whose pieces end anywhere. */
class FrameReader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #pending: Buffer = Buffer.alloc(0);
  #ended = false;

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  /** Up to the next newline, without it; undefined where there is none within `maxBytes`. */
  async line(maxBytes: number): Promise<string | undefined> {
    await this.#fill(maxBytes);
    const end = this.#pending.subarray(0, maxBytes).indexOf(0x0a);
    if (end < 0) return undefined;
    return this.#take(end + 1)
      .subarray(0, end)
      .toString("latin1");
  }

  /** Undefined at the end of the stream. Throws DAMAGED where that is amid a frame. */
  async frame(): Promise<{ kind: number; body: Buffer } | undefined> {
    await this.#fill(FRAME_HEAD_BYTES);
    if (this.#pending.length === 0) return undefined;
    if (this.#pending.length < FRAME_HEAD_BYTES) throw damaged("it is cut short");
    const kind = this.#pending[0] ?? 0;
    const length = this.#pending.readUInt32BE(1);
    if (length > MAX_FRAME_BYTES) throw damaged("a part of it is too large");
    await this.#fill(FRAME_HEAD_BYTES + length);
    if (this.#pending.length < FRAME_HEAD_BYTES + length) throw damaged("it is cut short");
    return { kind, body: this.#take(FRAME_HEAD_BYTES + length).subarray(FRAME_HEAD_BYTES) };
  }

  #take(bytes: number): Buffer {
    const taken = this.#pending.subarray(0, bytes);
    this.#pending = this.#pending.subarray(bytes);
    return taken;
  }

  async #fill(bytes: number): Promise<void> {
    if (this.#pending.length >= bytes || this.#ended) return;
    const parts = [this.#pending];
    let have = this.#pending.length;
    while (have < bytes) {
      const { value, done } = await this.#chunks.next();
      if (done === true) {
        this.#ended = true;
        break;
      }
      parts.push(Buffer.from(value.buffer, value.byteOffset, value.byteLength));
      have += value.length;
    }
    this.#pending = Buffer.concat(parts);
  }
}

function encodeRow(values: readonly (SQLOutputValue | undefined)[]): Buffer {
  const parts: Buffer[] = [];
  for (const value of values) {
    const head = Buffer.alloc(FRAME_HEAD_BYTES);
    let bytes: Buffer;
    if (typeof value === "bigint") {
      head[0] = VALUE.integer;
      bytes = Buffer.alloc(8);
      bytes.writeBigInt64BE(value);
    } else if (typeof value === "string") {
      head[0] = VALUE.text;
      bytes = Buffer.from(value);
    } else if (value instanceof Uint8Array) {
      head[0] = VALUE.blob;
      bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    } else {
      throw new LegerError("DAMAGED", "a row has a value of a wrong type");
    }
    head.writeUInt32BE(bytes.length, 1);
    parts.push(head, bytes);
  }
  return Buffer.concat(parts);
}

function decodeRow(body: Buffer): (bigint | string | Buffer)[] {
  const values: (bigint | string | Buffer)[] = [];
  for (let at = 0; at < body.length;) {
    if (at + FRAME_HEAD_BYTES > body.length) throw damaged("a row has a wrong shape");
    const start = at + FRAME_HEAD_BYTES;
    const end = start + body.readUInt32BE(at + 1);
    if (end > body.length) throw damaged("a row has a wrong shape");
    const bytes = body.subarray(start, end);
    const type = body[at];
    if (type === VALUE.integer && bytes.length === 8) values.push(bytes.readBigInt64BE());
    else if (type === VALUE.text) values.push(bytes.toString());
    else if (type === VALUE.blob) values.push(bytes);
    else throw damaged("a row has a wrong shape");
    at = end;
  }
  return values;
}

function factsAsJson(
  { madeAt, leger, changes, counts, rows }: DumpFacts,
  schema: number,
  mainKey: string,
): unknown {
  return { made_at: madeAt, leger, schema, changes, counts, rows, main_key: mainKey };
}

function factsFrom(body: Buffer): { facts: DumpFacts; schema: number; mainKey: Buffer } {
  const json = parseObject(body);
  const { made_at: madeAt, leger, schema, changes, counts, rows, main_key: line } = json;
  const mainKey = typeof line === "string" ? parseMainKeyLine(line) : undefined;
  if (
    typeof madeAt !== "string" ||
    typeof leger !== "string" ||
    typeof schema !== "number" ||
    typeof changes !== "number" ||
    !isCounts(counts) ||
    typeof rows !== "number" ||
    !(schema >= 1) ||
    mainKey === undefined
  ) {
    throw damaged("it does not say what it is");
  }
  return { facts: { madeAt, leger, changes, counts, rows }, schema, mainKey };
}

function tableFrom(body: Buffer): { name: string; columns: string[] } {
  const { name, columns } = parseObject(body);
  if (typeof name !== "string" || !Array.isArray(columns)) throw damaged("it has a table of no store");
  return { name, columns: columns.map(String) };
}

function isCounts(counts: unknown): counts is Counts {
  return (
    typeof counts === "object" &&
    counts !== null &&
    ["secrets", "versions", "links", "services"].every((what) => what in counts)
  );
}

function parseObject(body: Buffer): Record<string, unknown> {
  let json: unknown;
  try {
    json = JSON.parse(body.toString());
  } catch (cause) {
    throw damaged("it does not say what it is", cause);
  }
  if (typeof json !== "object" || json === null) throw damaged("it does not say what it is");
  return { ...json };
}

function syncFile(file: string): void {
  const fd = fs.openSync(file, "r+");
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function notWhole(file: string, problem: string, problems = 1): LegerError {
  const more = problems > 1 ? ` (and ${problems - 1} more)` : "";
  return new LegerError("DAMAGED", `back up ${file}: the store is not whole: ${problem}${more}`, {
    hints: [
      'see all that is wrong with "legerd check"',
      'rescue what can be read with "legerd salvage"; older backups are as good as they were',
    ],
  });
}

/** A dump that was authenticated and is wrong all the same. */
function damaged(what: string, cause?: unknown): LegerError {
  return new LegerError("DAMAGED", `the backup is damaged: ${what}`, { cause });
}
