/** rows — one connection's sealed records and values, opened and typed. */
import { randomBytes } from "node:crypto";
import type { DatabaseSync, StatementSync } from "node:sqlite";
import { LegerError } from "../core/error.ts";
import type { Grant } from "../setec/grants.ts";
import type { AuditHeads } from "./audit.ts";
import { createNameHash, createSealer, rootSealer, type Sealer, type StoreKeys } from "./seal.ts";
import { asBlob, asDamage, fromSqlite } from "./sqlite.ts";
import { kindOf, recordKey, Tree, type RecordKind, type Visit } from "./tree.ts";
import type { SecretState } from "./versions.ts";

/** A secret's state and `owner`, the random id that its values are stored under; new after a whole delete. */
export type SecretRecord = SecretState & { name: string; owner: string };

/** What one of Podman's entries stands for: a secret of legerd's, or a value of its own stored under `owner`. */
export type LinkRecord = { name: string; secret: string } | { name: string; owner: string };

/** Which variables a service gets from which secrets. */
export type ServiceRecord = { name: string; variables: Readonly<Record<string, string>> };

/** How far the audit logs had come; there is one such record. */
type AuditRecord = { name: "heads" } & AuditHeads;

/** A token for doors on TCP: its SHA-256 in hex, what it may do, when it was made and when it ends (ISO 8601). */
export type TokenRecord = {
  name: string;
  hash: string;
  grants: readonly Grant[];
  created: string;
  expires?: string;
};

export type Records = {
  secret: SecretRecord;
  link: LinkRecord;
  service: ServiceRecord;
  audit: AuditRecord;
  token: TokenRecord;
};

/** A record of any kind. */
export type OpenedRow = { [Kind in RecordKind]: { kind: Kind; record: Records[Kind] } }[RecordKind];

const IS_RECORD: { [Kind in RecordKind]: (record: Record<string, unknown>) => boolean } = {
  secret: ({ owner, active, latest, live, deleted }) =>
    typeof owner === "string" &&
    typeof active === "number" &&
    typeof latest === "number" &&
    Array.isArray(live) &&
    Array.isArray(deleted),
  link: ({ secret, owner }) => typeof secret === "string" || typeof owner === "string",
  service: ({ variables }) => typeof variables === "object" && variables !== null,
  token: ({ hash, grants, created }) =>
    typeof hash === "string" && Array.isArray(grants) && typeof created === "string",
  audit: ({ everything, changes }) => isHead(everything) && isHead(changes),
};

function isHead(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  const { n, mac, first }: Record<string, unknown> = { ...value };
  return typeof n === "number" && typeof mac === "string" && typeof first === "number";
}

/** A new id for values to be stored under. */
export function newOwner(): string {
  return randomBytes(16).toString("hex");
}

/**
 * Reads and writes inside `transaction`. Whatever comes back was verified against the tree and its seal; what
 * does not verify throws DAMAGED.
 */
export class Rows {
  readonly #db: DatabaseSync;
  readonly #tree: Tree;
  readonly #nameHash: (text: string) => Buffer;
  readonly #records: Sealer;
  readonly #values: Sealer;
  readonly #begin: StatementSync;
  readonly #end: StatementSync;
  readonly #selectValue: StatementSync;
  readonly #insertValue: StatementSync;
  readonly #deleteValue: StatementSync;
  readonly #deleteValues: StatementSync;

  constructor(db: DatabaseSync, keys: StoreKeys) {
    const { storeId, dataKey } = keys;
    this.#db = db;
    this.#tree = new Tree(db, rootSealer(keys));
    this.#nameHash = createNameHash(dataKey, storeId);
    this.#records = createSealer(dataKey, storeId, "record");
    this.#values = createSealer(dataKey, storeId, "value");
    this.#begin = db.prepare("BEGIN");
    this.#end = db.prepare("COMMIT");
    this.#selectValue = db.prepare("SELECT sealed FROM vals WHERE owner = ? AND version = ?");
    this.#insertValue = db.prepare("INSERT OR REPLACE INTO vals (owner, version, sealed) VALUES (?, ?, ?)");
    this.#deleteValue = db.prepare("DELETE FROM vals WHERE owner = ? AND version = ?");
    this.#deleteValues = db.prepare("DELETE FROM vals WHERE owner = ?");
  }

  /** Runs `work` on one snapshot. `doing` names the operation in errors. */
  snapshot<T>(doing: string, work: () => T): T {
    try {
      this.#begin.run();
      try {
        this.#tree.begin();
        return work();
      } finally {
        // SQLite ends the transaction itself where the disk fails.
        if (this.#db.isTransaction) this.#end.run();
      }
    } catch (error) {
      throw fromSqlite(error, doing);
    }
  }

  /** Starts a snapshot that stays open until the connection is closed. Throws what SQLite throws, too. */
  startSnapshot(): void {
    this.#begin.run();
    this.#tree.begin();
  }

  /** Runs `work` and commits what it wrote, or nothing of it. */
  commit<T>(doing: string, work: () => T): T {
    try {
      this.#db.exec("BEGIN IMMEDIATE");
      try {
        this.#tree.begin();
        const result = work();
        this.#tree.flush();
        this.#db.exec("COMMIT");
        this.#tree.expectAtLeast(this.#tree.generation);
        return result;
      } catch (error) {
        this.#tree.reset();
        if (this.#db.isTransaction) this.#db.exec("ROLLBACK");
        throw error;
      }
    } catch (error) {
      throw fromSqlite(error, doing);
    }
  }

  /** Tells that `generation` was seen elsewhere: from now on an older state is DAMAGED. */
  expectAtLeast(generation: bigint): void {
    this.#tree.expectAtLeast(generation);
  }

  /** How many commits this snapshot has behind it. */
  get generation(): bigint {
    return this.#tree.generation;
  }

  count(kind: RecordKind): number {
    return this.#tree.count(kind);
  }

  read<Kind extends RecordKind>(kind: Kind, name: string): Records[Kind] | undefined {
    const key = this.#key(kind, name);
    const sealed = this.#tree.read(key);
    return sealed === undefined ? undefined : this.#open(kind, key, sealed);
  }

  *scan<Kind extends RecordKind>(kind: Kind): Generator<Records[Kind]> {
    for (const { key, sealed } of this.#tree.scan(kind)) yield this.#open(kind, key, sealed);
  }

  write<Kind extends RecordKind>(kind: Kind, record: Records[Kind]): void {
    const key = this.#key(kind, record.name);
    this.#tree.write(key, this.#records.seal(Buffer.from(JSON.stringify(record)), key));
  }

  remove(kind: RecordKind, name: string): void {
    this.#tree.write(this.#key(kind, name), undefined);
  }

  /** The buckets of a part of a kind, as they are in the table; for a check. */
  buckets(
    kind: RecordKind,
    from: number,
    to: number,
  ): Generator<{ rows: { key: Buffer; sealed: Buffer }[]; fits: boolean }> {
    return this.#tree.buckets(kind, from, to);
  }

  /** Every node and bucket of the tree; for a check. */
  walk(): Generator<Visit> {
    return this.#tree.walk();
  }

  /** What a row of the records table describes, whether or not it belongs there; for a check. */
  openRow(key: Buffer, sealed: Buffer): OpenedRow {
    const kind = kindOf(key);
    switch (kind) {
      case "secret":
        return { kind, record: this.#open(kind, key, sealed) };
      case "link":
        return { kind, record: this.#open(kind, key, sealed) };
      case "service":
        return { kind, record: this.#open(kind, key, sealed) };
      case "audit":
        return { kind, record: this.#open(kind, key, sealed) };
      case "token":
        return { kind, record: this.#open(kind, key, sealed) };
      case undefined:
        throw new LegerError("DAMAGED", "a record has a wrong key");
      default:
        return kind satisfies never;
    }
  }

  /** The value under `owner` and `version`, which the caller knows to be there. */
  readValue(owner: string, version: number): Buffer {
    const row = this.#selectValue.get(Buffer.from(owner, "hex"), version);
    return this.#values.open(asBlob(row?.["sealed"]), valueContext(owner, version));
  }

  /** A value's bytes, from wherever they were read; for salvage. */
  openValue(owner: string, version: number, sealed: Buffer): Buffer {
    return this.#values.open(sealed, valueContext(owner, version));
  }

  writeValue(owner: string, version: number, value: Uint8Array): void {
    const sealed = this.#values.seal(value, valueContext(owner, version));
    this.#insertValue.run(Buffer.from(owner, "hex"), version, sealed);
  }

  removeValue(owner: string, version: number): void {
    this.#deleteValue.run(Buffer.from(owner, "hex"), version);
  }

  removeValues(owner: string): void {
    this.#deleteValues.run(Buffer.from(owner, "hex"));
  }

  #key(kind: RecordKind, name: string): Buffer {
    return recordKey(kind, this.#nameHash(`${kind}\0${name}`));
  }

  #open<Kind extends RecordKind>(kind: Kind, key: Buffer, sealed: Buffer): Records[Kind] {
    const record: unknown = JSON.parse(this.#records.open(sealed, key).toString("utf8"));
    if (!isRecord(kind, record))
      throw asDamage(new LegerError("DAMAGED", `a ${kind} record has a wrong shape`));
    return record;
  }
}

function isRecord<Kind extends RecordKind>(kind: Kind, value: unknown): value is Records[Kind] {
  return (
    typeof value === "object" &&
    value !== null &&
    "name" in value &&
    typeof value.name === "string" &&
    IS_RECORD[kind]({ ...value })
  );
}

function valueContext(owner: string, version: number): Buffer {
  const context = Buffer.alloc(20);
  context.write(owner, 0, 16, "hex");
  context.writeUInt32BE(version, 16);
  return context;
}
