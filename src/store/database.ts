/** database — making, opening and refusing `secrets.db`, and the lock that keeps a second legerd out. */
import * as fs from "node:fs";
import path from "node:path";
import { randomBytes } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import { LegerError, systemCode } from "../core/error.ts";
import {
  createMainKey,
  MAIN_KEY_FILE,
  NEXT_MAIN_KEY_FILE,
  readMainKey,
  syncDirectory,
  type MainKey,
} from "./main-key.ts";
import { MARK_FILE, openMark, readMark } from "./mark.ts";
import { Rows } from "./rows.ts";
import { createSealer, keyFingerprint, newKey, rootSealer, type StoreKeys } from "./seal.ts";
import { asBlob, fromSqlite } from "./sqlite.ts";
import { sealEmptyRoot } from "./tree.ts";

export const DATABASE_FILE = "secrets.db";
export const LOCK_FILE = "legerd.lock";
/** What a restore works in. As long as it is there, the store beside it is not whole. */
export const RESTORE_DIRECTORY = "restore.new";

/** "lgrd" in ASCII: SQLite's application_id, which `file` shows. */
const APPLICATION_ID = 0x6c67_7264;

/**
 * Each entry brings a database from the version of its index to the next; `PRAGMA user_version` says where one
 * stands. Append only: what has been released is never edited.
 */
export const MIGRATIONS: readonly string[] = [
  `CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
   CREATE TABLE records (key BLOB PRIMARY KEY, sealed BLOB NOT NULL) STRICT, WITHOUT ROWID;
   CREATE TABLE tree (id INTEGER PRIMARY KEY, slots BLOB NOT NULL) STRICT;
   CREATE TABLE vals (owner BLOB NOT NULL, version INTEGER NOT NULL, sealed BLOB NOT NULL, UNIQUE (owner, version)) STRICT;`,
];
const SCHEMA_VERSION = MIGRATIONS.length;

const SQLITE_MAGIC = Buffer.from("SQLite format 3\0");
const HEADER_BYTES = 100;
/** Longest wait for a lock that a checkpoint or another connection holds. */
const BUSY_TIMEOUT_MS = 5_000;
/** SQLite's page cache, filled only as far as the database is large; its own default is 2 MB. */
const PAGE_CACHE_KIB = 4 * 1024;
/** Whoever reads all of it once has no use for more. */
const VERIFIER_PAGE_CACHE_KIB = 256;

export type OpenedDatabase = {
  file: string;
  keys: StoreKeys;
  mainKey: MainKey;
  /** True when this start made the database: the main key is new and nobody has a copy of it yet. */
  created: boolean;
};

export type Where = { stateDir: string; credentialsDir?: string | undefined };

/**
 * Makes main key and database where there is no database, else checks that it is whole enough to open and readable
 * with the main key. A database that is refused is left byte for byte as it was.
 */
export function prepareDatabase(where: Where, migrations = MIGRATIONS): OpenedDatabase {
  const { file, exists, mainKey: found } = findDatabase(where);
  if (found !== undefined && exists) {
    const keys = openDatabase(file, found, migrations);
    tryMark(file, keys);
    return { file, keys, mainKey: found, created: false };
  }
  const mainKey = found ?? createMainKey(where.stateDir);
  const keys = createDatabase(file, mainKey, migrations);
  tryMark(file, keys);
  return { file, keys, mainKey, created: true };
}

/** Opens the mark as the writer will, which is too late to refuse. */
function tryMark(file: string, keys: StoreKeys): void {
  const mark = markFileOf(file);
  try {
    openMark(mark, keys).close();
  } catch (error) {
    throw fromSqlite(error, `open ${mark}`);
  }
}

/** The database's path, whether or not it is there, and its main key. Throws when half of a store is missing. */
export function findDatabase({ stateDir, credentialsDir }: Where): {
  file: string;
  exists: boolean;
  mainKey: MainKey | undefined;
} {
  const file = path.join(stateDir, DATABASE_FILE);
  const unfinished = path.join(stateDir, RESTORE_DIRECTORY);
  if (fs.existsSync(unfinished)) {
    throw new LegerError("DAMAGED", `open ${file}: a restore into its directory did not come to its end`, {
      hints: [
        "run legerd restore again: it begins anew",
        `to do without, remove ${unfinished} and whatever else it has put there`,
      ],
    });
  }
  const exists = fs.lstatSync(file, { throwIfNoEntry: false }) !== undefined;
  const mainKey = readMainKey({ stateDir, credentialsDir });
  if (exists && mainKey === undefined) {
    const keyFile = path.join(stateDir, MAIN_KEY_FILE);
    throw new LegerError("CONFIG", `open ${file}: its main key ${keyFile} is missing`, {
      hints: [
        "put the key back from a backup; without it nothing in the database can be read",
        "legerd never makes a new key beside a database",
      ],
    });
  }
  // The mark is made after the database. Without both this is a first start, or one that was cut short.
  const beside = [`${file}-wal`, markFileOf(file)].find((other) => sizeOf(other) > 0);
  if (!exists && beside !== undefined) {
    throw new LegerError("DAMAGED", `open ${file}: it is missing, but ${beside} is there`, {
      hints: [
        "put the whole state directory back from a backup",
        `to start with an empty store, move away every file in ${stateDir} whose name begins with "secrets."`,
      ],
    });
  }
  return { file, exists, mainKey };
}

/** Makes the state directory where it is missing. Throws UNSAFE for one that others may write to or that isn't ours. */
export function prepareStateDirectory(stateDir: string): void {
  try {
    const made = fs.mkdirSync(stateDir, { recursive: true, mode: 0o700 });
    // Also where it isn't us who made it: systemd has, a moment ago.
    if (!fs.existsSync(path.join(stateDir, DATABASE_FILE))) syncAbove(stateDir, made ?? stateDir);
  } catch (cause) {
    throw new LegerError("IO", `create state directory ${stateDir}: ${systemCode(cause) ?? "failed"}`, {
      cause,
    });
  }
  const stat = fs.statSync(stateDir);
  if (!stat.isDirectory())
    throw new LegerError("CONFIG", `state directory ${stateDir}: it is not a directory`);
  if (stat.uid !== process.geteuid?.()) {
    throw new LegerError("UNSAFE", `state directory ${stateDir}: it belongs to user ${stat.uid}, not to us`);
  }
  if ((stat.mode & 0o077) !== 0) {
    throw new LegerError(
      "UNSAFE",
      `state directory ${stateDir}: others may enter it (mode ${(stat.mode & 0o777).toString(8)})`,
      {
        hints: [`chmod 700 ${stateDir}`],
      },
    );
  }
}

/** Makes the entries durable that lead to a directory, from that of `highest` above it on: else a power cut takes all that is in it. */
function syncAbove(directory: string, highest: string): void {
  for (let below = directory; ; below = path.dirname(below)) {
    try {
      syncDirectory(path.dirname(below));
    } catch (error) {
      // Whoever may not list it has not made it.
      if (systemCode(error) !== "EACCES") throw error;
    }
    if (below === highest || below === path.dirname(below)) return;
  }
}

/**
 * Takes the state directory for this process until it ends, however it ends: an exclusive SQLite lock is a
 * POSIX record lock, which the kernel drops with its process. Throws REFUSED where another legerd has it.
 */
export function lockStateDirectory(stateDir: string): Disposable {
  const file = path.join(stateDir, LOCK_FILE);
  let db: DatabaseSync | undefined;
  try {
    createEmpty(file);
    db = new DatabaseSync(file);
    db.exec("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE");
    const held = db;
    return { [Symbol.dispose]: () => held.close() };
  } catch (cause) {
    db?.close();
    if (cause instanceof Error && "errcode" in cause && cause.errcode === 5) {
      throw new LegerError("REFUSED", `state directory ${stateDir}: another legerd is using it`, {
        hints: ["stop that one first, or give this one a directory of its own with --state DIR"],
        cause,
      });
    }
    throw fromSqlite(cause, `lock state directory ${stateDir}`);
  }
}

/**
 * Makes a private empty file where there is none. One that is there is not even opened: closing it would drop
 * the POSIX locks that this process holds on it.
 */
function createEmpty(file: string): void {
  try {
    fs.closeSync(fs.openSync(file, "wx", 0o600));
  } catch (error) {
    if (systemCode(error) !== "EEXIST") throw error;
  }
}

/**
 * Opens a connection: read-only for the readers and the verifier, the writer's, which commits durably, or a check's. A
 * read-only one makes the log's files where they are missing and cannot remove them; a check's could write, and so does.
 */
export function connect(file: string, mode: "read" | "verify" | "write" | "check"): DatabaseSync {
  const db = new DatabaseSync(file, {
    readOnly: mode === "read" || mode === "verify",
    timeout: BUSY_TIMEOUT_MS,
    // A damaged row can hold an integer that a number cannot.
    readBigInts: true,
  });
  try {
    db.exec(`PRAGMA cache_size = -${mode === "verify" ? VERIFIER_PAGE_CACHE_KIB : PAGE_CACHE_KIB}`);
    // FULL: a commit is on disk before it is acknowledged, also in WAL mode.
    if (mode === "write") db.exec("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON");
    if (mode === "check") db.exec("PRAGMA query_only = ON");
    return db;
  } catch (error) {
    db.close();
    throw error;
  }
}

/** Whether the database's header says that legerd made it. */
export function isOurs(db: DatabaseSync): boolean {
  return Number(db.prepare("PRAGMA application_id").get()?.["application_id"]) === APPLICATION_ID;
}

/** Begins a database of our own at a version of the schema; what is put in before `finish` is there whole or not at all. */
export function buildDatabase(
  file: string,
  { version, migrations = MIGRATIONS }: { version: number; migrations?: readonly string[] },
): { db: DatabaseSync; finish: () => void } {
  fs.closeSync(fs.openSync(file, "wx", 0o600));
  const db = new DatabaseSync(file);
  try {
    db.exec(`PRAGMA synchronous = FULL; PRAGMA application_id = ${APPLICATION_ID}; BEGIN`);
    migrate(db, 0, migrations.slice(0, version));
  } catch (error) {
    db.close();
    throw error;
  }
  // Set here and kept in the header, so that readers need not wait for the writer's connection.
  return { db, finish: () => db.exec("COMMIT; PRAGMA journal_mode = WAL") };
}

function createDatabase(file: string, mainKey: MainKey, migrations: readonly string[]): StoreKeys {
  const temporary = `${file}.new`;
  const storeId = randomBytes(16);
  const keys = { storeId, dataKey: newKey() };
  try {
    // What a crash during an earlier first start left: it never became the database.
    for (const end of ["", "-wal", "-shm", "-journal"]) fs.rmSync(temporary + end, { force: true });
    const { db, finish } = buildDatabase(temporary, { version: migrations.length, migrations });
    try {
      const insert = db.prepare("INSERT INTO meta (key, value) VALUES (?, ?)");
      insert.run("store_id", storeId);
      insert.run("main_key", keyFingerprint(mainKey.bytes, storeId));
      insert.run("data_key", createSealer(mainKey.bytes, storeId, "data key").seal(keys.dataKey, storeId));
      insert.run("root", sealEmptyRoot(rootSealer(keys)));
      finish();
    } finally {
      db.close();
    }
    fs.renameSync(temporary, file);
    syncDirectory(path.dirname(file));
  } catch (error) {
    throw systemCode(error)?.startsWith("E") === true && !("errcode" in Object(error))
      ? new LegerError("IO", `create ${file}: ${systemCode(error)}`, { cause: error })
      : fromSqlite(error, `create ${file}`);
  }
  return keys;
}

/** Runs the migrations from `version` on, inside the caller's transaction. */
function migrate(db: DatabaseSync, version: number, migrations: readonly string[]): void {
  for (const step of migrations.slice(version)) db.exec(step);
  db.exec(`PRAGMA user_version = ${migrations.length}`);
}

/** Checks an existing database without changing it, then brings an older one up to date. */
function openDatabase(file: string, mainKey: MainKey, migrations: readonly string[]): StoreKeys {
  checkHeader(file);
  const leftovers = ["-wal", "-shm"].filter((end) => !fs.existsSync(file + end));
  let db: DatabaseSync | undefined;
  try {
    db = connect(file, "read");
    const { keys, version, wrap } = readKeys(db, file, mainKey, migrations.length);
    const rows = new Rows(db, keys);
    requireMarked(
      file,
      keys,
      rows.snapshot(`open ${file}`, () => rows.generation),
    );
    if (version < migrations.length) migrateFile(file, version, migrations);
    settleRekey(file, wrap);
    return keys;
  } catch (error) {
    throw fromSqlite(error, `open ${file}`);
  } finally {
    db?.close();
    // A read-only connection makes these where they are missing; a refused database is left as it was.
    for (const end of leftovers) removeIfIdle(file, end);
  }
}

/** Unwraps the data key. Throws CONFIG for a newer schema or another main key, DAMAGED, or what SQLite throws. */
export function readKeys(
  db: DatabaseSync,
  file: string,
  mainKey: MainKey,
  newest = SCHEMA_VERSION,
): { keys: StoreKeys; version: number; wrap: Wrap } {
  const version = Number(db.prepare("PRAGMA user_version").get()?.["user_version"]);
  if (version > newest) {
    throw new LegerError(
      "CONFIG",
      `open ${file}: a newer legerd made it (schema ${version}; this one knows ${newest})`,
      { hints: ["install that version of leger again"] },
    );
  }
  if (version < 1) throw new LegerError("DAMAGED", `open ${file}: its schema version is damaged`);
  const meta = db.prepare("SELECT value FROM meta WHERE key = ?");
  const storeId = asBlob(meta.get("store_id")?.["value"]);
  if (storeId.length !== 16) throw new LegerError("DAMAGED", `open ${file}: its store id is damaged`);
  const found = (wrap: Wrap): boolean => {
    const fingerprint = meta.get(WRAPS[wrap].mainKey)?.["value"];
    return fingerprint !== undefined && keyFingerprint(mainKey.bytes, storeId).equals(asBlob(fingerprint));
  };
  const wrap = !found("current") && found("next") ? "next" : "current";
  const { mainKey: fingerprintKey, dataKey: wrappedKey } = WRAPS[wrap];
  const fingerprint = asBlob(meta.get(fingerprintKey)?.["value"]);
  const wrapped = asBlob(meta.get(wrappedKey)?.["value"]);
  return {
    keys: { storeId, dataKey: unwrap(file, mainKey, { storeId, fingerprint, wrapped }) },
    version,
    wrap,
  };
}

/** Which of the wrapped data keys a main key opens: the one there always is, or that of a main key to come. */
type Wrap = "current" | "next";

const WRAPS = {
  current: { mainKey: "main_key", dataKey: "data_key" },
  next: { mainKey: "next_main_key", dataKey: "next_data_key" },
} as const;

/** Wraps the data key for a main key to come, besides: from now on either of the two opens the store. */
export function addNextWrap(db: DatabaseSync, { storeId, dataKey }: StoreKeys, next: Buffer): void {
  const put = db.prepare("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)");
  inTransaction(db, () => {
    put.run(WRAPS.next.mainKey, keyFingerprint(next, storeId));
    put.run(WRAPS.next.dataKey, createSealer(next, storeId, "data key").seal(dataKey, storeId));
  });
}

/** Makes the next wrap the only one. */
export function promoteNextWrap(db: DatabaseSync): void {
  const copy = db.prepare("INSERT OR REPLACE INTO meta (key, value) SELECT ?, value FROM meta WHERE key = ?");
  inTransaction(db, () => {
    copy.run(WRAPS.current.mainKey, WRAPS.next.mainKey);
    copy.run(WRAPS.current.dataKey, WRAPS.next.dataKey);
    dropNext(db);
  });
}

function dropNext(db: DatabaseSync): void {
  const drop = db.prepare("DELETE FROM meta WHERE key = ?");
  drop.run(WRAPS.next.mainKey);
  drop.run(WRAPS.next.dataKey);
}

function inTransaction(db: DatabaseSync, work: () => void): void {
  db.exec("BEGIN IMMEDIATE");
  try {
    work();
    db.exec("COMMIT");
  } catch (error) {
    if (db.isTransaction) db.exec("ROLLBACK");
    throw error;
  }
}

/**
 * Brings a change of the main key that was cut short to an end: forward where the new key is in its place, else back.
 * A wrap for a key that was handed out (`rekey --print`) has no file beside it, and stays until that key comes.
 */
function settleRekey(file: string, wrap: Wrap): void {
  const next = path.join(path.dirname(file), NEXT_MAIN_KEY_FILE);
  const isUnfinished = fs.existsSync(next);
  if (wrap === "current" && !isUnfinished) return;
  const db = connect(file, "write");
  try {
    if (wrap === "next") promoteNextWrap(db);
    else inTransaction(db, () => dropNext(db));
  } finally {
    db.close();
  }
  // Last: until here it says that there is something to settle.
  if (isUnfinished) fs.rmSync(next);
}

/** Throws DAMAGED for a database that lacks commits which were acknowledged. */
function requireMarked(file: string, keys: StoreKeys, generation: bigint): void {
  const mark = markFileOf(file);
  const missing = readMark(mark, keys) - generation;
  if (missing <= 0n) return;
  throw new LegerError("DAMAGED", `open ${file}: acknowledged commits missing at its end: ${missing}`, {
    hints: [
      `it or its log ${file}-wal was damaged, or put back from an older copy; it was left as it is`,
      `to go on with what is there and lose the rest, remove ${mark}`,
    ],
  });
}

/** The mark that lies beside a database. */
export function markFileOf(file: string): string {
  return path.join(path.dirname(file), MARK_FILE);
}

function unwrap(
  file: string,
  mainKey: MainKey,
  { storeId, fingerprint, wrapped }: { storeId: Buffer; fingerprint: Buffer; wrapped: Buffer },
): Buffer {
  try {
    return createSealer(mainKey.bytes, storeId, "data key").open(wrapped, storeId);
  } catch (cause) {
    if (keyFingerprint(mainKey.bytes, storeId).equals(fingerprint)) {
      throw new LegerError("DAMAGED", `open ${file}: the wrapped data key is damaged`, {
        hints: ["put the database back from a backup; it was left as it is"],
        cause,
      });
    }
    throw new LegerError("CONFIG", `open ${file}: ${mainKey.file} is not the main key it was made with`, {
      hints: ["put the right main key back from a backup; the database was left as it is"],
      cause,
    });
  }
}

function migrateFile(file: string, version: number, migrations: readonly string[]): void {
  const db = connect(file, "write");
  try {
    db.exec("BEGIN IMMEDIATE");
    migrate(db, version, migrations);
    db.exec("COMMIT");
  } finally {
    db.close();
  }
}

/** Refuses what SQLite would be surprised by later: https://www.sqlite.org/fileformat2.html#the_database_header */
function checkHeader(file: string): void {
  const header = Buffer.alloc(HEADER_BYTES);
  let size: number;
  try {
    const { O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = fs.constants;
    // O_NONBLOCK: a named pipe must not keep us waiting.
    const fd = fs.openSync(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    try {
      const stat = fs.fstatSync(fd);
      if (!stat.isFile()) throw new LegerError("UNSAFE", `open ${file}: it is not a regular file`);
      size = stat.size;
      fs.readSync(fd, header, 0, HEADER_BYTES, 0);
    } finally {
      fs.closeSync(fd);
    }
  } catch (cause) {
    if (cause instanceof LegerError) throw cause;
    throw new LegerError("IO", `open ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
  const hints = ["put it back from a backup; it was left as it is"];
  if (
    !header.subarray(0, SQLITE_MAGIC.length).equals(SQLITE_MAGIC) ||
    header.readUInt32BE(68) !== APPLICATION_ID
  ) {
    throw new LegerError(
      "DAMAGED",
      `open ${file}: it is not a database of legerd, or its first page is damaged`,
      { hints },
    );
  }
  const stored = header.readUInt16BE(16);
  const pageSize = stored === 1 ? 65_536 : stored;
  // With a log beside it the file may rightly be shorter than the header of the last commit says, or end amid a page that
  // was being copied when the power went.
  const hasLog = sizeOf(`${file}-wal`) > 0;
  const isCut = !hasLog && (size % pageSize !== 0 || size < header.readUInt32BE(28) * pageSize);
  if (pageSize < 512 || size < pageSize || isCut) {
    throw new LegerError("DAMAGED", `open ${file}: it is cut short`, { hints });
  }
}

function removeIfIdle(file: string, end: string): void {
  try {
    if (end === "-shm" || sizeOf(file + end) === 0) fs.unlinkSync(file + end);
  } catch (error) {
    if (systemCode(error) !== "ENOENT") throw error;
  }
}

/** In bytes; 0 where there is no such file. */
export function sizeOf(file: string): number {
  return fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0;
}
