/** walk — every file below a place, opened so that nothing that changes meanwhile leads out of it, or makes us wait. */
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  realpathSync,
  statfsSync,
  type Dirent,
  type Stats,
} from "node:fs";
import path from "node:path";
import { systemCode } from "../core/error.ts";

export type OpenFile = { kind: "file"; path: string; fd: number; stats: Stats; isInMemory: boolean };

export type Step =
  | OpenFile
  /** Of which only the name is looked at: a symlink, a socket, a pipe, a device, none of them opened; a directory, too. */
  | { kind: "other"; path: string }
  /** It could not be looked into; `code` is the system's. */
  | { kind: "unreadable"; path: string; code: string }
  /** It was not looked into on purpose. */
  | { kind: "left out"; path: string; why: string };

/** A directory, held open as long as something below it is looked at. */
type Level = { fd: number; path: string; entries: Dirent<Buffer>[]; fileSystem: FileSystem };

type FileSystem = { device: number; isInMemory: boolean };

/** What has been walked over; a place that lies in another one is then not searched twice. */
export class Walked {
  readonly #seen = new Set<string>();

  /** Whether it is new. */
  add({ dev, ino }: Stats): boolean {
    const before = this.#seen.size;
    return this.#seen.add(`${dev}:${ino}`).size > before;
  }
}

/**
 * What is below `root`, which may be a file; nothing where there is none. The file of a step is open until the next step.
 * Symlinks are not followed, but for `root` itself; not entered are file systems that hold no data of their own (proc,
 * sys, the merged view of a container) or somebody else's (FUSE), unless they are the root.
 */
export function* walk(root: string, walked: Walked): Generator<Step, void> {
  let real: string;
  let isPlain: boolean;
  try {
    real = realpathSync(root);
    const stats = lstatSync(real);
    isPlain = stats.isFile() || stats.isDirectory();
  } catch (error) {
    if (!isGone(error)) yield unreadable(root, error);
    return;
  }
  if (!isPlain) {
    yield { kind: "other", path: real };
    return;
  }
  const levels: Level[] = [];
  try {
    yield* enter(Buffer.from(real), { shown: real, levels, walked });
    for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
      const entry = level.entries.pop();
      if (entry === undefined) {
        levels.pop();
        closeSync(level.fd);
        continue;
      }
      const shown = path.join(level.path, entry.name.toString());
      if (!entry.isFile() && !entry.isDirectory()) {
        yield { kind: "other", path: shown };
        continue;
      }
      // By the directory that is open, whatever has taken its name since.
      const at = Buffer.concat([Buffer.from(`/proc/self/fd/${level.fd}/`), entry.name]);
      yield* enter(at, { shown, levels, walked });
    }
  } finally {
    for (const { fd } of levels) closeSync(fd);
  }
}

type Entering = { shown: string; levels: Level[]; walked: Walked };

/** One name: a file is a step of its own, a directory a level more. */
function* enter(at: Buffer, { shown, levels, walked }: Entering): Generator<Step, void> {
  let fd: number;
  try {
    fd = openSync(at, OPEN_FLAGS);
  } catch (error) {
    if (NO_FILE.has(systemCode(error) ?? "")) yield { kind: "other", path: shown };
    else if (!isGone(error)) yield unreadable(shown, error);
    return;
  }
  let isKept = false;
  try {
    const stats = fstatSync(fd);
    const above = levels.at(-1)?.fileSystem;
    if (stats.isDirectory()) {
      const fileSystem = above?.device === stats.dev ? above : fileSystemOf(fd, stats);
      const why = above === undefined || above === fileSystem ? undefined : NOT_ENTERED.get(typeOf(fd));
      if (why !== undefined) yield { kind: "left out", path: shown, why };
      else if (walked.add(stats)) {
        yield { kind: "other", path: shown };
        const entries = readdirSync(`/proc/self/fd/${fd}`, { encoding: "buffer", withFileTypes: true });
        levels.push({ fd, path: shown, entries: sorted(entries).toReversed(), fileSystem });
        isKept = true;
      }
    } else if (stats.isFile()) {
      if (above === undefined && !walked.add(stats)) return;
      const { isInMemory } = above?.device === stats.dev ? above : fileSystemOf(fd, stats);
      yield { kind: "file", path: shown, fd, stats, isInMemory };
    } else yield { kind: "other", path: shown };
  } catch (error) {
    yield unreadable(shown, error);
  } finally {
    if (!isKept) closeSync(fd);
  }
}

function sorted(entries: readonly Dirent<Buffer>[]): Dirent<Buffer>[] {
  return entries.toSorted((a, b) => Buffer.compare(a.name, b.name));
}

/** A pipe without a writer doesn't block, a terminal doesn't become ours, and a symlink isn't followed. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW | constants.O_NOCTTY;

/** open(2): what has taken a file's place meanwhile is a symlink, a socket, or a device that nothing stands behind. */
const NO_FILE: ReadonlySet<string> = new Set(["ELOOP", "ENXIO", "ENODEV"]);

const TMPFS = 0x0102_1994;
const RAMFS = 0x8584_58f6;

/** statfs(2). */
const NOT_ENTERED: ReadonlyMap<number, string> = new Map([
  ...[0x9fa0, 0x6265_6572, 0x6367_7270, 0x27e0eb, 0x6462_6720, 0x7472_6163, 0x7363_6673, 0xcafe_4a11].map(
    (type) => [type, "the kernel's own, with no files of anybody's"] as const,
  ),
  [0x1cd1, "terminals"],
  [0x1980_0202, "message queues"],
  [0x794c_7630, "a container's view of layers that are searched where they lie"],
  [0x6573_5546, "a file system in user space, which may be a network's"],
]);

function typeOf(fd: number): number {
  // The kernel's number is of 32 bits, and Node may take it for a signed one.
  return statfsSync(`/proc/self/fd/${fd}`).type >>> 0;
}

function fileSystemOf(fd: number, { dev }: Stats): FileSystem {
  const type = typeOf(fd);
  return { device: dev, isInMemory: type === TMPFS || type === RAMFS };
}

function unreadable(shown: string, error: unknown): Step {
  const code = systemCode(error);
  if (code === undefined) throw error;
  return { kind: "unreadable", path: shown, code };
}

/** It went away meanwhile, or never was. */
function isGone(error: unknown): boolean {
  return systemCode(error) === "ENOENT" || systemCode(error) === "ENOTDIR";
}
