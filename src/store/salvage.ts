/**
 * salvage — what can still be read of a damaged store, written to a fresh one.
 *
 * Nothing is taken on trust: a record or a value counts only if its own seal opens. That it is the newest one, which the
 * hash tree would prove, cannot be known any more; nor can what is gone without a trace.
 */
import * as fs from "node:fs";
import path from "node:path";
import type { DatabaseSync } from "node:sqlite";
import { LegerError } from "../core/error.ts";
import { nextTurn } from "../core/turn.ts";
import { connectToLook, damageOf, findStore, isConsistent } from "./check.ts";
import {
  lockStateDirectory,
  prepareDatabase,
  prepareStateDirectory,
  readKeys,
  connect,
  type Where,
} from "./database.ts";
import {
  newOwner,
  Rows,
  type LinkRecord,
  type OpenedRow,
  type SecretRecord,
  type ServiceRecord,
} from "./rows.ts";
import { asBlob, fromSqlite } from "./sqlite.ts";
import { RECORD_KINDS } from "./tree.ts";
import { hasNumber, listNumbers, rangesOf } from "./versions.ts";

export type SalvageResult = {
  /** What was lost or may be, as sentences that name it. */
  losses: string[];
  secrets: number;
  versions: number;
  links: number;
  services: number;
};

/** Keys begin with a byte for the kind and two for the bucket. */
const BUCKETS_PER_KIND = 0x1_0000;
const RANGES_PER_KIND = 64;
const FIRST_RANGE = BUCKETS_PER_KIND / RANGES_PER_KIND;
/** Ranges that are tried at least, and for each page of the file: the larger ones first, so that what is left out is little. */
const MIN_TRIES = 4_000;
const TRIES_PER_PAGE = 5;
const RANGES_PER_TURN = 500;
const ROWS_PER_COMMIT = 200;

/** Reads a value, or undefined for one that is lost. */
type Values = (owner: string, version: number) => Buffer | undefined;

/**
 * Reads a store without changing it, and makes another in an empty directory, with a main key of its own. Throws REFUSED
 * for a directory that is not empty, and as `checkStore` does where nothing at all can be read.
 */
export async function salvage(where: Where, target: string): Promise<SalvageResult> {
  const { file, mainKey } = findStore(where, "salvage");
  prepareStateDirectory(target);
  const lock = lockStateDirectory(target);
  try {
    requireEmpty(target);
    const source = connectToLook(file);
    try {
      const { keys } = readKeys(source, file, mainKey);
      return await copy(source, new Rows(source, keys), target);
    } finally {
      source.close();
    }
  } catch (error) {
    throw fromSqlite(error, `salvage ${file}`);
  } finally {
    lock[Symbol.dispose]();
  }
}

async function copy(source: DatabaseSync, from: Rows, target: string): Promise<SalvageResult> {
  const result: SalvageResult = { losses: [], secrets: 0, versions: 0, links: 0, services: 0 };
  const { losses } = result;
  const found = await readRecords(source, from, losses);
  const expected = countsOf(from);
  const { file, keys } = prepareDatabase({ stateDir: target });
  const db = connect(file, "write");
  try {
    const to = new Rows(db, keys);
    const values = valuesOf(source, from);
    for (let at = 0; at < found.length; at += ROWS_PER_COMMIT) {
      to.commit("salvage", () => {
        for (const row of found.slice(at, at + ROWS_PER_COMMIT)) write(values, to, row, result);
      });
      await nextTurn();
    }
  } finally {
    db.close();
  }
  if (expected === undefined) losses.push("how many there were cannot be told any more");
  else {
    for (const kind of ["secret", "link", "service"] as const) {
      const missing = expected[kind] - found.filter((row) => row.kind === kind).length;
      if (missing > 0) losses.push(`${kind} records that cannot be read, nor named: ${missing}`);
    }
  }
  return result;
}

/** The root alone knows; undefined where it cannot be read. */
function countsOf(rows: Rows): Record<"secret" | "link" | "service", number> | undefined {
  try {
    return rows.snapshot("salvage", () => ({
      secret: rows.count("secret"),
      link: rows.count("link"),
      service: rows.count("service"),
    }));
  } catch (error) {
    damageOf(error, "the root");
    return undefined;
  }
}

/** Every record whose seal opens, each once: by a scan, and where that breaks off range by range. */
async function readRecords(source: DatabaseSync, rows: Rows, losses: string[]): Promise<OpenedRow[]> {
  const found = new Map<string, OpenedRow>();
  const take = (raw: Record<string, unknown>): void => {
    try {
      const key = asBlob(raw["key"]);
      // A copy: SQLite may use the bytes again.
      const row = rows.openRow(Buffer.from(key), Buffer.from(asBlob(raw["sealed"])));
      found.set(`${row.kind} ${row.record.name}`, row);
    } catch (error) {
      losses.push(damageOf(error, "a record that cannot be named"));
    }
  };
  try {
    for (const raw of source.prepare("SELECT key, sealed FROM records").iterate()) take(raw);
    return [...found.values()];
  } catch (error) {
    losses.push(damageOf(error, "the records"));
  }
  const range = source.prepare("SELECT key, sealed FROM records WHERE key >= ? AND key < ?");
  let ranges = Object.values(RECORD_KINDS).flatMap((kind) =>
    Array.from({ length: RANGES_PER_KIND }, (_, n): [number, number] => {
      const from = kind * BUCKETS_PER_KIND + n * FIRST_RANGE;
      return [from, from + FIRST_RANGE];
    }),
  );
  // Those that cannot be read whole are halved, and halved again.
  const pages = Number(source.prepare("PRAGMA page_count").get()?.["page_count"]);
  const maxTries = MIN_TRIES + TRIES_PER_PAGE * pages;
  for (let tried = 0; ranges.length > 0 && tried < maxTries;) {
    const broken: [number, number][] = [];
    for (const [from, to] of ranges.slice(0, maxTries - tried)) {
      tried += 1;
      if (tried % RANGES_PER_TURN === 0) await nextTurn();
      const read = readable(() => range.all(bound(from), bound(to)));
      read?.forEach(take);
      if (read === undefined) broken.push([from, to]);
    }
    // Nothing at all: it is the root of the table that is gone.
    if (broken.length === ranges.length && tried === ranges.length) break;
    ranges = broken
      .filter(([from, to]) => to - from > 1)
      .flatMap(([from, to]): [number, number][] => {
        const middle = Math.floor((from + to) / 2);
        return [
          [from, middle],
          [middle, to],
        ];
      });
  }
  return [...found.values()];
}

/** The first bytes of the keys of a bucket. */
function bound(bucket: number): Buffer {
  const bytes = Buffer.alloc(3);
  bytes.writeUIntBE(bucket, 0, 3);
  return bytes;
}

function write(values: Values, to: Rows, row: OpenedRow, result: SalvageResult): void {
  switch (row.kind) {
    case "secret":
      return writeSecret(values, to, row.record, result);
    case "link":
      return writeLink(values, to, row.record, result);
    case "service":
      return writeService(to, row.record, result);
    case "token":
      // One that was revoked could have been put back, and nothing here would tell.
      result.losses.push(`token ${row.record.name}: not taken over; make another`);
      return undefined;
    case "audit":
      // The new store's audit log begins with it.
      return undefined;
    default:
      return row satisfies never;
  }
}

/** Versions whose values are lost count as deleted: their numbers are never given out again. */
function writeSecret(values: Values, to: Rows, record: SecretRecord, result: SalvageResult): void {
  const { name, active, latest, live, deleted } = record;
  const { losses } = result;
  if (!isConsistent(record)) {
    losses.push(`secret ${name}: its record contradicts itself`);
    return;
  }
  const owner = newOwner();
  const kept: number[] = [];
  const lost: number[] = [];
  for (const version of listNumbers(live)) {
    const value = values(record.owner, version);
    if (value === undefined) lost.push(version);
    else {
      to.writeValue(owner, version, value);
      kept.push(version);
    }
  }
  const newest = kept.at(-1);
  if (newest === undefined) {
    losses.push(`secret ${name}: no value of it can be read`);
    return;
  }
  if (lost.length > 0) losses.push(`secret ${name}: versions whose values are lost: ${lost.join(", ")}`);
  const isActive = hasNumber(rangesOf(kept), active);
  if (!isActive) {
    losses.push(`secret ${name}: version ${active} was active and is lost; now version ${newest} is`);
  }
  to.write("secret", {
    name,
    owner,
    active: isActive ? active : newest,
    latest,
    live: rangesOf(kept),
    deleted: rangesOf([...listNumbers(deleted), ...lost]),
  });
  result.secrets += 1;
  result.versions += kept.length;
}

function writeLink(values: Values, to: Rows, link: LinkRecord, result: SalvageResult): void {
  if ("secret" in link) to.write("link", link);
  else {
    const value = values(link.owner, 1);
    if (value === undefined) {
      result.losses.push(`Podman's entry ${link.name}: the value that it kept is lost`);
      return;
    }
    const owner = newOwner();
    to.writeValue(owner, 1, value);
    to.write("link", { name: link.name, owner });
  }
  result.links += 1;
}

function writeService(to: Rows, service: ServiceRecord, result: SalvageResult): void {
  to.write("service", service);
  result.services += 1;
}

/** By the index, as legerd reads them; where that leads nowhere, by where a look through the table has found them. */
function valuesOf(source: DatabaseSync, rows: Rows): Values {
  const byRowid = source.prepare("SELECT sealed FROM vals WHERE rowid = ?");
  let places: Map<string, bigint> | undefined;
  return (owner, version) => {
    const value = readable(() => rows.readValue(owner, version));
    if (value !== undefined) return value;
    places ??= placesOf(source);
    const rowid = places.get(`${owner} ${version}`);
    if (rowid === undefined) return undefined;
    return readable(() => rows.openValue(owner, version, asBlob(byRowid.get(rowid)?.["sealed"])));
  };
}

/** The rows of the table of values, from either end as far as one gets. */
function placesOf(source: DatabaseSync): Map<string, bigint> {
  const places = new Map<string, bigint>();
  for (const order of ["ASC", "DESC"]) {
    readable(() => {
      const scan = source.prepare(
        `SELECT rowid, owner, version FROM vals NOT INDEXED ORDER BY rowid ${order}`,
      );
      for (const { rowid, owner, version } of scan.iterate()) {
        places.set(`${asBlob(owner).toString("hex")} ${String(version)}`, BigInt(String(rowid)));
      }
    });
  }
  return places;
}

/** Undefined for damage. */
function readable<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    damageOf(error, "a value");
    return undefined;
  }
}

function requireEmpty(target: string): void {
  const other = fs.readdirSync(target).find((entry) => !entry.startsWith("legerd.lock"));
  if (other === undefined) return;
  throw new LegerError("REFUSED", `salvage into ${target}: it is not empty (${path.join(target, other)})`, {
    hints: ["name a directory that is not there yet with --to DIR"],
  });
}
