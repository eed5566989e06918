/** check — every row of a store verified, and what is wrong with it said in sentences. */
import * as fs from "node:fs";
import type { DatabaseSync } from "node:sqlite";
import { LegerError } from "../core/error.ts";
import { nextTurn } from "../core/turn.ts";
import type { AuditHeads } from "./audit.ts";
import { verifyAudit } from "./audit-verify.ts";
import { connect, findDatabase, isOurs, markFileOf, readKeys, sizeOf, type Where } from "./database.ts";
import type { MainKey } from "./main-key.ts";
import { readMark } from "./mark.ts";
import { Rows, type OpenedRow, type SecretRecord } from "./rows.ts";
import { createChainKey, type StoreKeys } from "./seal.ts";
import { asBlob, fromSqlite } from "./sqlite.ts";
import { kindOf, RECORD_KINDS } from "./tree.ts";
import { hasNumber, listNumbers, type Ranges } from "./versions.ts";

export type CheckResult = {
  /** Sentences without a full stop, which name secrets and never quote a value. None: all is as legerd wrote it. */
  problems: string[];
  /** How many there are that a read would answer. */
  secrets: number;
  versions: number;
  links: number;
  services: number;
  /** Of the audit logs, as legerd wrote them. */
  audit_lines: number;
};

/** A check before its first pass. */
export function nothingChecked(): CheckResult {
  return { problems: [], secrets: 0, versions: 0, links: 0, services: 0, audit_lines: 0 };
}

/** What values are stored for: its name in sentences, and the numbers there are to be. */
type Owner = { called: string; live: Ranges };

/** What the passes over one snapshot share. `rooted`: the tree's root could be opened. */
type Check = {
  db: DatabaseSync;
  rows: Rows;
  rooted: boolean;
  owners: Map<string, Owner>;
  result: CheckResult;
};

/** Most findings of SQLite's own check: one damaged page can make thousands. */
const MAX_SQLITE_FINDINGS = 20;
/** Steps between two turns of the event loop, so that a signal is heard. */
const STEPS_PER_TURN = 500;

/**
 * Verifies every row of the store in a state directory, beside a running legerd or without one, and goes on after a
 * problem. Takes no lock and changes nothing; a legerd that writes meanwhile cannot shorten its log.
 *
 * Throws as opening does where nothing can be verified: CONFIG without a database, a main key or the right one,
 * UNSAFE for a key that others may read, IO.
 */
export async function checkStore(where: Where): Promise<CheckResult> {
  const { file, mainKey } = findStore(where, "check");
  const result = nothingChecked();
  await attempt(result, `check ${file}`, async () => {
    const db = connectToLook(file);
    try {
      await attempt(result, "SQLite's own check", () => checkPages(db, result));
      if (!isOurs(db))
        result.problems.push(`${file}: its first page is damaged: it no longer says whose it is`);
      const { keys } = readKeys(db, file, mainKey);
      // Read before the snapshot: a running legerd may be ahead of the mark, never behind it.
      const mark = readMark(markFileOf(file), keys);
      const heads = await checkSnapshot(db, keys, mark, result);
      await attempt(result, "the audit log", async () => {
        // Noted before the files are read: those only ever get further.
        const place = { stateDir: where.stateDir, key: createChainKey(keys), heads };
        const { lines, problems } = await verifyAudit(place);
        result.audit_lines = lines;
        result.problems.push(...problems);
      });
    } finally {
      db.close();
    }
  });
  return result;
}

/** A database that is there, and its main key. Throws as `checkStore` does. */
export function findStore(where: Where, verb: string): { file: string; mainKey: MainKey } {
  const { file, exists, mainKey } = findDatabase(where);
  if (exists && mainKey !== undefined) return { file, mainKey };
  throw new LegerError("CONFIG", `${verb} ${file}: there is no database`, {
    hints: ["legerd makes it at its first start; name its directory with --state DIR"],
  });
}

/** A connection that changes nothing, beside a running legerd or without one. */
export function connectToLook(file: string): DatabaseSync {
  // A log that a crash left is read and stays as it is: only legerd copies it into the database.
  const asCrashed = sizeOf(`${file}-wal`) > 0 || fs.existsSync(`${file}-journal`);
  return connect(file, asCrashed ? "read" : "check");
}

/**
 * Verifies what the connection sees at one moment, and leaves it open there for what is to be read besides. Resolves
 * with how far the audit logs had come then.
 */
export async function checkSnapshot(
  db: DatabaseSync,
  keys: StoreKeys,
  mark: bigint,
  result: CheckResult,
): Promise<AuditHeads | undefined> {
  const rows = new Rows(db, keys);
  const check: Check = { db, rows, rooted: false, owners: new Map(), result };
  await attempt(result, "the root of the tree", () => {
    rows.startSnapshot();
    check.rooted = true;
    const missing = mark - rows.generation;
    if (missing > 0n) result.problems.push(`acknowledged commits missing at the end: ${missing}`);
  });
  await attempt(result, "the records", () => checkRecords(check));
  await attempt(result, "the values", () => findStrayValues(check));
  if (check.rooted) await attempt(result, "the tree", () => checkTree(check));
  let heads: AuditHeads | undefined;
  if (check.rooted) {
    await attempt(result, "where the audit log stood", () => {
      heads = rows.read("audit", "heads");
    });
  }
  return heads;
}

/** Runs a pass; damage that ends it is one problem more. */
async function attempt(
  { problems }: CheckResult,
  what: string,
  pass: () => void | Promise<void>,
): Promise<void> {
  try {
    await pass();
  } catch (error) {
    problems.push(damageOf(error, what));
  }
}

/** What is damaged, as a sentence. Throws whatever is no damage. */
export function damageOf(error: unknown, what: string): string {
  const failure = fromSqlite(error, what);
  if (failure.code !== "DAMAGED") throw failure;
  return failure === error ? `${what}: ${failure.message}` : failure.message;
}

function checkPages(db: DatabaseSync, { problems }: CheckResult): void {
  for (const row of db.prepare(`PRAGMA integrity_check(${MAX_SQLITE_FINDINGS})`).iterate()) {
    const finding = row["integrity_check"];
    if (finding === "ok") continue;
    for (const line of String(finding).split("\n")) {
      if (!line.startsWith("***")) problems.push(`SQLite's own check: ${line}`);
    }
  }
}

/** Opens every record and every value that it says is there, and reads it back the way a caller would. */
async function checkRecords(check: Check): Promise<void> {
  const { db, rows, rooted, result } = check;
  const found = new Map<string, number>();
  let steps = 0;
  for (const raw of db.prepare("SELECT key, sealed FROM records").iterate()) {
    const key = asBlob(raw["key"]);
    const kind = kindOf(key) ?? "foreign";
    found.set(kind, (found.get(kind) ?? 0) + 1);
    try {
      await checkRecord(check, rows.openRow(key, asBlob(raw["sealed"])));
    } catch (error) {
      result.problems.push(damageOf(error, `a ${kind} record that cannot be named`));
    }
    steps += 1;
    if (steps % STEPS_PER_TURN === 0) await nextTurn();
  }
  if (!rooted) return;
  for (const kind of [
    "secret",
    "link",
    "service",
    "audit",
    "token",
  ] as const satisfies readonly (keyof typeof RECORD_KINDS)[]) {
    const [should, are] = [rows.count(kind), found.get(kind) ?? 0];
    if (should !== are)
      result.problems.push(`there are ${are} ${kind} records, but the tree counts ${should}`);
  }
}

async function checkRecord(check: Check, { kind, record }: OpenedRow): Promise<void> {
  const { rows, rooted, owners, result } = check;
  const called = `${kind} ${record.name}`;
  const owner = "owner" in record ? record.owner : undefined;
  const live: Ranges = kind === "secret" ? record.live : [[1, 1]];
  if (owner !== undefined && !owners.has(owner)) owners.set(owner, { called, live });
  try {
    if (rooted && rows.read(kind, record.name) === undefined) {
      result.problems.push(`${called}: a record of it is there, but the tree knows none`);
      return;
    }
  } catch (error) {
    result.problems.push(damageOf(error, called));
    return;
  }
  if (kind === "secret" && !isConsistent(record)) {
    result.problems.push(`${called}: its record contradicts itself`);
    return;
  }
  if (kind === "secret") result.secrets += 1;
  if (kind === "link") result.links += 1;
  if (kind === "service") result.services += 1;
  if (owner !== undefined) await checkValues(check, { called, live }, owner, kind === "secret");
}

async function checkValues(
  { rows, result }: Check,
  { called, live }: Owner,
  owner: string,
  counted: boolean,
): Promise<void> {
  for (const version of listNumbers(live)) {
    try {
      rows.readValue(owner, version);
      if (counted) result.versions += 1;
    } catch (error) {
      result.problems.push(damageOf(error, counted ? `${called}: version ${version}` : called));
    }
    if (version % STEPS_PER_TURN === 0) await nextTurn();
  }
}

/** Values that nothing asks for: of no record, or of a version that its record does not have. */
async function findStrayValues({ db, owners, result }: Check): Promise<void> {
  let unowned = 0;
  let steps = 0;
  // Not through the index, which is what the reads go through.
  for (const row of db.prepare("SELECT owner, version FROM vals NOT INDEXED").iterate()) {
    const owner = owners.get(asBlob(row["owner"]).toString("hex"));
    const version = Number(row["version"]);
    if (owner === undefined) unowned += 1;
    else if (!hasNumber(owner.live, version)) {
      result.problems.push(
        `${owner.called}: version ${version}: a value is there, but the record knows no such version`,
      );
    }
    steps += 1;
    if (steps % STEPS_PER_TURN === 0) await nextTurn();
  }
  if (unowned > 0) result.problems.push(`values that belong to no record that could be opened: ${unowned}`);
}

/** Looks for records that should be there and for nodes that should not. */
async function checkTree({ db, rows, result }: Check): Promise<void> {
  const nodes = new Set<number>();
  let whole = true;
  let steps = 0;
  for (const visit of rows.walk()) {
    if ("node" in visit) {
      nodes.add(visit.node);
      whole &&= visit.fits;
      if (!visit.fits) result.problems.push(`node ${visit.node} of the tree is missing or was changed`);
    } else if (!visit.fits && visit.rows === 0) {
      result.problems.push(
        "a record is missing; only the tree still knows that there was one, and not its name",
      );
    }
    steps += 1;
    if (steps % STEPS_PER_TURN === 0) await nextTurn();
  }
  // Below a node that does not fit lie others that nothing leads to any more.
  if (!whole) return;
  for (const row of db.prepare("SELECT id FROM tree").iterate()) {
    if (!nodes.has(Number(row["id"]))) result.problems.push(`node ${String(row["id"])} belongs to no tree`);
  }
}

export function isConsistent({ active, latest, live, deleted }: SecretRecord): boolean {
  return (
    hasNumber(live, active) &&
    [...live, ...deleted].every(([first, last]) => first >= 1 && first <= last && last <= latest) &&
    !live.some(([first, last]) => deleted.some(([from, to]) => from <= last && first <= to))
  );
}
