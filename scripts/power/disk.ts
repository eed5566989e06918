/**
 * disk — what is on a disk at any moment of a recorded run, when the power goes: all that was synced, and of the rest
 * nothing, everything, or any part.
 *
 * POSIX's word is taken, not that of a file system: a sync of a file keeps its bytes, and not the entry that leads to it;
 * that takes a sync of the directory. What was not synced may be kept in any order, bytes block by block.
 */
import * as fs from "node:fs";
import path from "node:path";

/** The `enum kind` of record.c; `note` is ours. */
const KIND = {
  create: 1,
  write: 2,
  truncate: 3,
  syncBegin: 4,
  syncEnd: 5,
  link: 6,
  unlink: 7,
  rename: 8,
  mkdir: 9,
  mode: 10,
  note: 11,
} as const;

const MAGIC = 0x6c67_706c;
const HEAD_BYTES = 48;

export type Entry = {
  kind: number;
  inode: number;
  dir: number;
  otherDir: number;
  /** An offset, a size, a mode, or the number of a sync. */
  at: number;
  names: string;
  data: Buffer;
};

/** Appends a note of ours to a recording, behind all that is in it by now. */
export function writeNote(fd: number, note: object): void {
  const text = Buffer.from(JSON.stringify(note));
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32LE(MAGIC, 0);
  head.writeUInt32LE(KIND.note, 4);
  head.writeUInt32LE(text.length, 40);
  fs.writeSync(fd, Buffer.concat([head, text]));
}

/** A recording from its start to its end. */
export function readRecording(file: string): Entry[] {
  const bytes = fs.readFileSync(file);
  const entries: Entry[] = [];
  for (let at = 0; at < bytes.length;) {
    const number = (offset: number): number => Number(bytes.readBigUInt64LE(at + offset));
    const [nameBytes, dataBytes] = [bytes.readUInt32LE(at + 40), bytes.readUInt32LE(at + 44)];
    const names = at + HEAD_BYTES;
    const end = names + nameBytes + dataBytes;
    if (bytes.readUInt32LE(at) !== MAGIC || end > bytes.length) throw new Error(`${file}: damaged at ${at}`);
    entries.push({
      kind: bytes.readUInt32LE(at + 4),
      inode: number(8),
      dir: number(16),
      otherDir: number(24),
      at: number(32),
      names: bytes.toString("utf8", names, names + nameBytes),
      data: bytes.subarray(names + nameBytes, end),
    });
    at = end;
  }
  return entries;
}

export function noteOf({ kind, names }: Entry): unknown {
  return kind === KIND.note ? JSON.parse(names) : undefined;
}

/** How a cut treats what was not synced. `step`: a number of the recording's. */
export type Fate = {
  /** Bytes that are kept or lost together. */
  blockBytes: number;
  /** `block`: where one begins in what was written at that step. */
  keeps: (step: number, block: number) => boolean;
};

type DataChange = { step: number; at: number; data: Buffer | undefined };
type File = {
  kind: "file";
  mode: number;
  live: Content;
  synced: Content;
  pending: DataChange[];
  settled: number;
};
type Directory = {
  kind: "directory";
  mode: number;
  live: Map<string, Node>;
  synced: Map<string, Node>;
};
type Node = File | Directory;
/** Sets entries, or removes them; `only`: where it still is what it was. */
type EntryChange = {
  step: number;
  sets: { dir: Directory; name: string; node: Node | undefined; only?: Node | undefined }[];
};

/** A directory and all below it. */
export class Disk {
  readonly #root: Directory;
  readonly #byInode = new Map<number, Node>();
  readonly #syncs = new Map<number, { node: Node; upTo: number; step: number }>();
  #entries: EntryChange[] = [];
  #step = 0;

  /** What is there by now, all of it synced. */
  constructor(directory: string) {
    const root = this.#load(directory);
    if (root.kind !== "directory") throw new Error(`${directory} is no directory`);
    this.#root = root;
  }

  /** How many steps were taken. */
  get step(): number {
    return this.#step;
  }

  take(entry: Entry): void {
    this.#step += 1;
    const { kind, inode, dir, otherDir, at, names, data } = entry;
    const node = this.#byInode.get(inode);
    switch (kind) {
      case KIND.create:
        this.#make(entry, {
          kind: "file",
          mode: at,
          live: new Content(),
          synced: new Content(),
          pending: [],
          settled: 0,
        });
        return;
      case KIND.mkdir:
        this.#make(entry, { kind: "directory", mode: at, live: new Map(), synced: new Map() });
        return;
      case KIND.write:
        if (node?.kind === "file") this.#change(node, { step: this.#step, at, data });
        return;
      case KIND.truncate:
        if (node?.kind === "file") this.#change(node, { step: this.#step, at, data: undefined });
        return;
      case KIND.mode:
        if (node !== undefined) node.mode = at;
        return;
      case KIND.syncBegin:
        if (node === undefined) return;
        this.#syncs.set(at, {
          node,
          upTo: node.kind === "file" ? node.settled + node.pending.length : 0,
          step: this.#step,
        });
        return;
      case KIND.syncEnd:
        this.#settle(at);
        return;
      case KIND.link: {
        const parent = this.#directory(dir);
        if (parent !== undefined && node !== undefined) this.#set([{ dir: parent, name: names, node }]);
        return;
      }
      case KIND.unlink: {
        const parent = this.#directory(dir);
        if (parent !== undefined) this.#set([{ dir: parent, name: names, node: undefined }]);
        return;
      }
      case KIND.rename: {
        const [from = "", to = ""] = names.split("\0");
        const [source, target] = [this.#directory(dir), this.#directory(otherDir)];
        if (source === undefined || target === undefined || node === undefined) return;
        this.#set([
          { dir: source, name: from, node: undefined, only: node },
          { dir: target, name: to, node },
        ]);
        return;
      }
      default:
    }
  }

  /** Writes what is there after a power cut now into an empty directory. */
  cut(target: string, { blockBytes, keeps }: Fate): void {
    const views = new Map<Directory, Map<string, Node>>();
    const view = (dir: Directory): Map<string, Node> => {
      const known = views.get(dir) ?? new Map(dir.synced);
      views.set(dir, known);
      return known;
    };
    for (const change of this.#entries) if (keeps(change.step, 0)) apply(change, view);
    const write = (node: Node, where: string): void => {
      if (node.kind === "directory") {
        if (where !== target) fs.mkdirSync(where, { mode: node.mode });
        for (const [name, child] of view(node)) write(child, path.join(where, name));
        return;
      }
      const content = node.pending.length === 0 ? node.synced : node.synced.copy();
      for (const { step, at, data } of node.pending) {
        if (data === undefined) {
          if (keeps(step, 0)) content.truncate(at);
          continue;
        }
        for (let from = 0; from < data.length;) {
          const end = Math.min(data.length, from + blockBytes - ((at + from) % blockBytes));
          if (keeps(step, from)) content.write(at + from, data.subarray(from, end));
          from = end;
        }
      }
      fs.writeFileSync(where, content.bytes, { mode: node.mode });
    };
    write(this.#root, target);
  }

  /** A sentence for each thing that is not as it is in the directory that was recorded: then something was missed. */
  differences(directory: string, node: Node = this.#root): string[] {
    if (node.kind === "file") {
      const same = fs.readFileSync(directory).equals(node.live.bytes);
      return same || directory.endsWith("-shm") ? [] : [`the recording of ${directory} is not what is there`];
    }
    const names = fs.readdirSync(directory);
    return [
      ...names
        .filter((name) => !node.live.has(name))
        .map((name) => `${name} was made unseen in ${directory}`),
      ...[...node.live].flatMap(([name, child]) =>
        names.includes(name)
          ? this.differences(path.join(directory, name), child)
          : [`${name} went unseen from ${directory}`],
      ),
    ];
  }

  #load(where: string): Node {
    const { ino, mode } = fs.lstatSync(where);
    let node: Node;
    if (fs.statSync(where).isDirectory()) {
      const children = fs
        .readdirSync(where)
        .map((name) => [name, this.#load(path.join(where, name))] as const);
      node = { kind: "directory", mode: mode & 0o7777, live: new Map(children), synced: new Map(children) };
    } else {
      const bytes = fs.readFileSync(where);
      node = {
        kind: "file",
        mode: mode & 0o7777,
        live: new Content(bytes),
        synced: new Content(bytes),
        pending: [],
        settled: 0,
      };
    }
    this.#byInode.set(ino, node);
    return node;
  }

  #directory(inode: number): Directory | undefined {
    const node = this.#byInode.get(inode);
    return node?.kind === "directory" ? node : undefined;
  }

  #make({ inode, dir, names }: Entry, node: Node): void {
    const parent = this.#directory(dir);
    if (parent === undefined) return;
    this.#byInode.set(inode, node);
    this.#set([{ dir: parent, name: names, node }]);
  }

  #set(sets: EntryChange["sets"]): void {
    const change = { step: this.#step, sets };
    apply(change, ({ live }) => live);
    this.#entries.push(change);
  }

  #change(file: File, change: DataChange): void {
    applyData(file.live, change);
    file.pending.push(change);
  }

  /** What was changed before a sync began is on disk once it has ended. */
  #settle(number: number): void {
    const sync = this.#syncs.get(number);
    if (sync === undefined) return;
    this.#syncs.delete(number);
    const { node, upTo, step } = sync;
    if (node.kind === "file") {
      const done = node.pending.splice(0, Math.max(0, upTo - node.settled));
      node.settled += done.length;
      for (const change of done) applyData(node.synced, change);
      return;
    }
    // A rename is whole or not at all, so that it takes along what happened before it at its other end.
    const dirs = new Set<Directory>([node]);
    const done = new Set<EntryChange>();
    for (const change of this.#entries.toReversed()) {
      if (change.step > step || !change.sets.some(({ dir }) => dirs.has(dir))) continue;
      done.add(change);
      for (const { dir } of change.sets) dirs.add(dir);
    }
    for (const change of this.#entries) if (done.has(change)) apply(change, ({ synced }) => synced);
    this.#entries = this.#entries.filter((change) => !done.has(change));
  }
}

function apply({ sets }: EntryChange, view: (dir: Directory) => Map<string, Node>): void {
  for (const { dir, name, node, only } of sets) {
    const entries = view(dir);
    if (node !== undefined) entries.set(name, node);
    else if (only === undefined || entries.get(name) === only) entries.delete(name);
  }
}

function applyData(content: Content, { at, data }: DataChange): void {
  if (data === undefined) content.truncate(at);
  else content.write(at, data);
}

/** A file's bytes, which grow as a file does. */
class Content {
  #buffer: Buffer;
  #size: number;

  constructor(bytes: Uint8Array = new Uint8Array()) {
    this.#buffer = Buffer.from(bytes);
    this.#size = bytes.length;
  }

  get bytes(): Buffer {
    return this.#buffer.subarray(0, this.#size);
  }

  copy(): Content {
    return new Content(this.bytes);
  }

  write(at: number, data: Uint8Array): void {
    this.#reach(at + data.length);
    this.#buffer.set(data, at);
  }

  truncate(size: number): void {
    this.#reach(size);
    this.#buffer.fill(0, size);
    this.#size = size;
  }

  #reach(size: number): void {
    if (size > this.#buffer.length) {
      const larger = Buffer.alloc(size * 2);
      larger.set(this.bytes);
      this.#buffer = larger;
    }
    this.#size = Math.max(this.#size, size);
  }
}
