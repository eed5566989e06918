/**
 * tree — the records table, held together by a hash tree under one sealed root.
 *
 * A seal alone proves that legerd wrote a row once, not that the row is the newest, nor that no row is
 * missing. So every record's bytes count into a bucket's digest, buckets into nodes of 16, four levels of
 * them, and the root lies sealed in `meta`. A read follows one path: a row that was changed, put back from an
 * older state, moved or removed no longer fits its digest, and "not found" is said only where the tree says
 * that nothing is there.
 */
import { hash } from "node:crypto";
import type { DatabaseSync, StatementSync } from "node:sqlite";
import { LegerError } from "../core/error.ts";
import type { Sealer } from "./seal.ts";
import { asBlob, asDamage } from "./sqlite.ts";

/** What a record describes; the first byte of its key. Kinds count apart and never mix. At most 15. */
export const RECORD_KINDS = { secret: 1, link: 2, service: 3, audit: 4, token: 5 } as const;
export type RecordKind = keyof typeof RECORD_KINDS;

/** kind ‖ first 31 bytes of the keyed hash of the record's name. */
export type RecordKey = Buffer;

const KEY_BYTES = 32;
const DIGEST_BYTES = 32;
const FANOUT = 16;
const LEVELS = 4;
const KIND_COUNT = 16;
const NODE_BYTES = FANOUT * DIGEST_BYTES;
const COUNTS_AT = 8;
const SLOTS_AT = COUNTS_AT + KIND_COUNT * 4;
const ROOT_BYTES = SLOTS_AT + NODE_BYTES;
const EMPTY = Buffer.alloc(DIGEST_BYTES);
const BUCKET_MARK = Buffer.from("b");
const NODE_MARK = Buffer.from("n");
const ROOT_CONTEXT = Buffer.from("root");

/** Nodes kept in memory, each with the digest it was checked against, so that a stale one is never taken for a current one. */
const CACHED_NODES = 4_500;

type Row = { key: Buffer; sealed: Buffer };

/** A step of a walk: a node by its id in the table, or a bucket by the number of rows found in it. */
export type Visit = { node: number; fits: boolean } | { rows: number; fits: boolean };

/** The sealed root, opened. `generation` grows by one with every commit. */
type Root = { sealed: Buffer; plain: Buffer };

/** A new store's root: no records, generation 0. */
export function sealEmptyRoot(sealer: Sealer): Buffer {
  return sealer.seal(Buffer.alloc(ROOT_BYTES), ROOT_CONTEXT);
}

export function recordKey(kind: RecordKind, nameHash: Buffer): RecordKey {
  const key = Buffer.alloc(KEY_BYTES);
  key[0] = RECORD_KINDS[kind];
  nameHash.copy(key, 1, 0, KEY_BYTES - 1);
  return key;
}

export function kindOf(key: RecordKey): RecordKind | undefined {
  const kinds: readonly RecordKind[] = ["secret", "link", "service", "audit", "token"];
  return kinds.find((kind) => RECORD_KINDS[kind] === key[0]);
}

/**
 * One connection's view of the tree. Every call belongs inside a transaction that `begin` has been called in.
 * Anything that does not fit throws DAMAGED.
 */
export class Tree {
  readonly #sealer: Sealer;
  readonly #nodes = new Map<number, { digest: Buffer; slots: Buffer }>();
  readonly #dirty = new Map<number, Buffer>();
  readonly #selectRoot: StatementSync;
  readonly #selectNode: StatementSync;
  readonly #selectBucket: StatementSync;
  readonly #selectKind: StatementSync;
  readonly #putRecord: StatementSync;
  readonly #dropRecord: StatementSync;
  readonly #putNode: StatementSync;
  readonly #dropNode: StatementSync;
  readonly #putRoot: StatementSync;
  #root: Root | undefined;
  /** The oldest root that may still be met: whatever is older was put back. */
  #generation = 0n;

  constructor(db: DatabaseSync, sealer: Sealer) {
    this.#sealer = sealer;
    this.#selectRoot = db.prepare("SELECT value FROM meta WHERE key = 'root'");
    this.#selectNode = db.prepare("SELECT slots FROM tree WHERE id = ?");
    const rows = "SELECT key, sealed FROM records WHERE key >= ? AND key < ? ORDER BY key";
    this.#selectBucket = db.prepare(rows);
    this.#selectKind = db.prepare(rows);
    this.#putRecord = db.prepare("INSERT OR REPLACE INTO records (key, sealed) VALUES (?, ?)");
    this.#dropRecord = db.prepare("DELETE FROM records WHERE key = ?");
    this.#putNode = db.prepare("INSERT OR REPLACE INTO tree (id, slots) VALUES (?, ?)");
    this.#dropNode = db.prepare("DELETE FROM tree WHERE id = ?");
    this.#putRoot = db.prepare("UPDATE meta SET value = ? WHERE key = 'root'");
  }

  /** Reads the root that this transaction sees. Refuses one that is older than the last one seen. */
  begin(): void {
    const sealed = asBlob(this.#selectRoot.get()?.["value"]);
    if (this.#root?.sealed.equals(sealed) === true) return;
    const plain = this.#sealer.open(sealed, ROOT_CONTEXT);
    if (plain.length !== ROOT_BYTES) throw damaged("the root has a wrong size");
    const generation = plain.readBigUInt64BE();
    if (generation < this.#generation) throw damaged("the root is older than one seen before");
    this.#generation = generation;
    this.#root = { sealed, plain };
  }

  /** How many commits changed something, up to the root that was read or flushed last. */
  get generation(): bigint {
    return this.#root === undefined ? this.#generation : this.#root.plain.readBigUInt64BE();
  }

  count(kind: RecordKind): number {
    return this.#plainRoot().readUInt32BE(COUNTS_AT + 4 * RECORD_KINDS[kind]);
  }

  /** The sealed record, or undefined where there is none. */
  read(key: RecordKey): Buffer | undefined {
    return this.#bucket(key).find((row) => row.key.equals(key))?.sealed;
  }

  /** Every record of a kind in key order; checks that none is missing, changed or added. */
  *scan(kind: RecordKind): Generator<Row> {
    let seen = 0;
    for (const { rows, fits } of this.buckets(kind)) {
      if (!fits) throw damaged("records do not fit the tree");
      seen += rows.length;
      yield* rows;
    }
    if (seen !== this.count(kind))
      throw damaged(`there are ${seen} ${kind} records, not ${this.count(kind)}`);
  }

  /**
   * Every bucket of a kind that holds rows or should, in order, and whether its rows are what the tree says; or of
   * those from the number `from` to below `to`.
   */
  *buckets(kind: RecordKind, from = 0, to = 0x1_0000): Generator<{ rows: Row[]; fits: boolean }> {
    const first = (RECORD_KINDS[kind] << 16) + from;
    const end = (RECORD_KINDS[kind] << 16) + to;
    let at = this.#nextBucket(first, end);
    let rows: Row[] = [];
    const finish = (bucket: number): { rows: Row[]; fits: boolean } => {
      const finished = { rows, fits: bucketDigest(rows).equals(this.#expected(bucket)) };
      rows = [];
      return finished;
    };
    for (const raw of this.#selectKind.iterate(bound(first), bound(end))) {
      const row = asRow(raw);
      const bucket = row.key.readUIntBE(0, 3);
      // Buckets between the last row's and this one's: those that the tree fills lack their rows.
      while (at < bucket) {
        yield finish(at);
        at = this.#nextBucket(at + 1, bucket);
      }
      // A row in a bucket that the tree holds to be empty: the walk had gone past it.
      at = bucket;
      rows.push(row);
    }
    while (at < end) {
      yield finish(at);
      at = this.#nextBucket(at + 1, end);
    }
  }

  /**
   * Every node and bucket that the tree says is there, top down, and whether it is as the tree says: for a check,
   * which goes on where a read gives up. What hangs below a node that does not fit is not visited.
   */
  *walk(): Generator<Visit> {
    const root = this.#plainRoot();
    for (let kind = 0; kind < KIND_COUNT; kind += 1) {
      yield* this.#visit(1, kind << 16, rootSlot(root, kind << 16));
    }
  }

  *#visit(level: number, bucket: number, digest: Buffer): Generator<Visit> {
    if (digest.equals(EMPTY)) return;
    if (level > LEVELS) {
      const rows = this.#selectBucket.all(bound(bucket), bound(bucket + 1)).map(asRow);
      yield { rows: rows.length, fits: bucketDigest(rows).equals(digest) };
      return;
    }
    const node = nodeId(level, bucket);
    const slots = this.#selectNode.get(node)?.["slots"];
    const fits =
      slots instanceof Uint8Array && slots.length === NODE_BYTES && nodeDigest(slots).equals(digest);
    yield { node, fits };
    if (!fits) return;
    const span = 1 << (4 * (LEVELS - level));
    for (let slot = 0; slot < FANOUT; slot += 1) {
      const below = bucket + slot * span;
      yield* this.#visit(level + 1, below, slotOf(asBlob(slots), level, below));
    }
  }

  /** Puts `sealed` under `key`, or removes the record. The new root is stored by `flush`. */
  write(key: RecordKey, sealed: Buffer | undefined): void {
    const rows = this.#bucket(key);
    const at = rows.findIndex((row) => row.key.equals(key));
    if (sealed === undefined) {
      if (at === -1) return;
      rows.splice(at, 1);
      this.#dropRecord.run(key);
    } else {
      rows.splice(at === -1 ? rows.length : at, at === -1 ? 0 : 1, { key, sealed });
      rows.sort((a, b) => a.key.compare(b.key));
      this.#putRecord.run(key, sealed);
    }
    const root = Buffer.from(this.#plainRoot());
    const kind = key[0] ?? 0;
    const change = (sealed === undefined ? 0 : 1) - (at === -1 ? 0 : 1);
    root.writeUInt32BE(root.readUInt32BE(COUNTS_AT + 4 * kind) + change, COUNTS_AT + 4 * kind);
    this.#climb(root, key.readUIntBE(0, 3), bucketDigest(rows));
    this.#root = { sealed: this.#root?.sealed ?? EMPTY, plain: root };
  }

  /** Stores what `write` changed: nodes, then the root with the next generation. Call once, before COMMIT. */
  flush(): void {
    if (this.#dirty.size === 0) return;
    for (const [id, slots] of this.#dirty) {
      if (slots.equals(EMPTY_NODE)) this.#dropNode.run(id);
      else this.#putNode.run(id, slots);
    }
    const plain = Buffer.from(this.#plainRoot());
    plain.writeBigUInt64BE(plain.readBigUInt64BE() + 1n);
    const sealed = this.#sealer.seal(plain, ROOT_CONTEXT);
    this.#putRoot.run(sealed);
    this.#dirty.clear();
    this.#root = { sealed, plain };
  }

  /** Tells that `generation` is or was there: from now on an older root is refused. */
  expectAtLeast(generation: bigint): void {
    if (generation > this.#generation) this.#generation = generation;
  }

  /** Forgets what `write` and `flush` changed; for after a ROLLBACK. */
  reset(): void {
    this.#dirty.clear();
    this.#root = undefined;
  }

  #plainRoot(): Buffer {
    if (this.#root === undefined) throw new LegerError("BUG", "the tree is read outside a transaction");
    return this.#root.plain;
  }

  #bucket(key: RecordKey): Row[] {
    const bucket = key.readUIntBE(0, 3);
    const expected = this.#expected(bucket);
    if (expected.equals(EMPTY)) return [];
    const rows = this.#selectBucket.all(bound(bucket), bound(bucket + 1)).map(asRow);
    if (!bucketDigest(rows).equals(expected)) throw damaged("a record does not fit the tree");
    return rows;
  }

  /** The digest that the tree holds for a bucket; EMPTY where nothing is. */
  #expected(bucket: number): Buffer {
    let digest = rootSlot(this.#plainRoot(), bucket);
    for (let level = 1; level <= LEVELS && !digest.equals(EMPTY); level += 1) {
      digest = slotOf(this.#node(level, bucket, digest), level, bucket);
    }
    return digest;
  }

  /** The next bucket from `from` on that may hold something, or `end`: skips whole empty subtrees. */
  #nextBucket(from: number, end: number): number {
    let bucket = from;
    while (bucket < end) {
      let digest = rootSlot(this.#plainRoot(), bucket);
      let level = 1;
      for (; level <= LEVELS && !digest.equals(EMPTY); level += 1) {
        digest = slotOf(this.#node(level, bucket, digest), level, bucket);
      }
      if (!digest.equals(EMPTY)) return bucket;
      // Nothing below the slot that the walk ended at: go to the first bucket of the slot after it.
      const span = 1 << (4 * (LEVELS + 1 - level));
      bucket = (Math.floor(bucket / span) + 1) * span;
    }
    return end;
  }

  #node(level: number, bucket: number, digest: Buffer): Buffer {
    const id = nodeId(level, bucket);
    const dirty = this.#dirty.get(id);
    if (dirty !== undefined) return dirty;
    const cached = this.#nodes.get(id);
    if (cached?.digest.equals(digest) === true) return cached.slots;
    const slots = asBlob(this.#selectNode.get(id)?.["slots"]);
    if (slots.length !== NODE_BYTES || !nodeDigest(slots).equals(digest))
      throw damaged("a tree node was changed");
    if (this.#nodes.size >= CACHED_NODES) this.#nodes.clear();
    // Memory of its own: a small copy from Node's pool would keep the pool's 8 KiB around it alive.
    const kept = Buffer.allocUnsafeSlow(DIGEST_BYTES);
    digest.copy(kept);
    this.#nodes.set(id, { digest: kept, slots });
    return slots;
  }

  /** Sets a bucket's digest and every digest above it, up to the root's. */
  #climb(root: Buffer, bucket: number, bottom: Buffer): void {
    const path: Buffer[] = [];
    let digest = rootSlot(root, bucket);
    for (let level = 1; level <= LEVELS; level += 1) {
      const node = digest.equals(EMPTY)
        ? this.#dirty.get(nodeId(level, bucket))
        : this.#node(level, bucket, digest);
      const copy = Buffer.from(node ?? EMPTY_NODE);
      path.push(copy);
      digest = Buffer.from(slotOf(copy, level, bucket));
    }
    let below = bottom;
    for (let level = LEVELS; level >= 1; level -= 1) {
      const node = path[level - 1] ?? EMPTY_NODE;
      below.copy(slotOf(node, level, bucket));
      this.#dirty.set(nodeId(level, bucket), node);
      below = node.equals(EMPTY_NODE) ? EMPTY : nodeDigest(node);
    }
    below.copy(rootSlot(root, bucket));
  }
}

const EMPTY_NODE = Buffer.alloc(NODE_BYTES);

function rootSlot(root: Buffer, bucket: number): Buffer {
  const at = SLOTS_AT + (bucket >> 16) * DIGEST_BYTES;
  return root.subarray(at, at + DIGEST_BYTES);
}

/** The slot of a node on the way to `bucket`: level 1 is chosen by the bucket's highest four bits. */
function slotOf(node: Buffer, level: number, bucket: number): Buffer {
  const at = ((bucket >> (4 * (LEVELS - level))) & 0xf) * DIGEST_BYTES;
  return node.subarray(at, at + DIGEST_BYTES);
}

/** level ‖ kind ‖ the bucket bits above that level. */
function nodeId(level: number, bucket: number): number {
  const kind = bucket >> 16;
  return (level << 20) | (kind << 16) | ((bucket & 0xffff) >> (4 * (LEVELS + 1 - level)));
}

function bucketDigest(rows: readonly Row[]): Buffer {
  if (rows.length === 0) return EMPTY;
  const parts: Buffer[] = [BUCKET_MARK];
  for (const { key, sealed } of rows) {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(sealed.length);
    parts.push(key, length, sealed);
  }
  return hash("sha256", Buffer.concat(parts), "buffer");
}

function nodeDigest(slots: Uint8Array): Buffer {
  return hash("sha256", Buffer.concat([NODE_MARK, slots]), "buffer");
}

function bound(bucket: number): Buffer {
  const bytes = Buffer.alloc(3);
  bytes.writeUIntBE(bucket, 0, 3);
  return bytes;
}

function asRow(raw: Record<string, unknown>): Row {
  const key = asBlob(raw["key"]);
  if (key.length !== KEY_BYTES) throw damaged("a record has a wrong key");
  return { key, sealed: asBlob(raw["sealed"]) };
}

function damaged(what: string): LegerError {
  return asDamage(new LegerError("DAMAGED", `the database is damaged: ${what}`));
}
