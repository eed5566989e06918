/**
 * chain — a log whose lines are numbered and chained: each carries a keyed hash over itself and the hash before it.
 *
 * A line is one JSON object, `{"n":17,…,"mac":"…"}`. The hash covers everything before `,"mac"`. A log is one file that
 * is written to and, once that is large enough, older segments beside it, which are named after their first line.
 */
import * as fs from "node:fs";
import { createHmac, type KeyObject } from "node:crypto";
import { auditFile, auditFiles, auditSegment } from "../core/audit-files.ts";
import { LegerError, systemCode } from "../core/error.ts";
import { syncDirectory } from "./main-key.ts";

/** How far a log has come: number and hash of its last line, number of the oldest line that is kept. 0: no line yet. */
export type ChainHead = { n: number; mac: string; first: number };

/** How a log is called, and how much of it is kept. */
export type ChainOptions = {
  stateDir: string;
  /** "audit" is written to audit.log; its segments are audit-000000000001.log and so on. */
  name: string;
  key: KeyObject;
  /** Size from which on a file becomes a segment, in bytes. */
  segmentBytes: number;
  /** How many files there are at most, the one that is written to among them. */
  files: number;
  /** Where the log stood when that was last noted; undefined where it never was. */
  noted: ChainHead | undefined;
  log: (line: string) => void;
};

export const START: ChainHead = { n: 0, mac: "", first: 1 };

/** Half of an HMAC-SHA-256: nobody can try guesses faster than the key's holder verifies them. */
const MAC_BYTES = 16;

/** A line holds one request's names at most; a request is 1.5 MiB, and JSON may write a byte as six. */
const MAX_LINE_BYTES = 16 * 1024 * 1024;

/** How far from the end, or from one hole to the next, holes are looked for: a disk writes more at a time. */
const HOLE_SEARCH_BYTES = 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;

const NEWLINE = 0x0a;

/** Keyed hash of a line as it stands before its `,"mac"`. */
export function chainMac(key: KeyObject, before: string, line: string): string {
  const mac = createHmac("sha256", key).update(before).update(line).digest();
  return mac.subarray(0, MAC_BYTES).toString("base64url");
}

/**
 * Opens a log for appending, made where it is missing. A line that a kill or a power cut left unfinished is told to
 * `log` and cut off: nobody was answered on it. So is what a power cut made holes in; the lines between them stay. Lines that are missing at the end are told, too; the numbers go on
 * behind them, so that the gap stays to be seen. Throws UNSAFE for what is no regular file, IO.
 */
export function openChain(options: ChainOptions): Chain {
  const { stateDir, name, log, noted } = options;
  const file = auditFile(stateDir, name);
  try {
    fs.rmSync(`${file}.new`, { force: true });
    const fd = openAppending(file);
    const spoilt = takeOutHoles(file);
    if (spoilt > 0) {
      log(`legerd: warning: ${file}: took out ${spoilt} lines that a power cut had left incomplete`);
    }
    const torn = cutTornLine(fd);
    if (torn !== "") {
      log(`legerd: notice: ${file}: cut off an unfinished line: ${JSON.stringify(torn.slice(0, 1_000))}`);
    }
    const last = lastOf(stateDir, name);
    const unnumbered = last === undefined && fs.fstatSync(fd).size > 0;
    const head = headOf(noted ?? START, last);
    if (noted !== undefined && (last?.n ?? 0) < noted.n) {
      log(
        `legerd: warning: ${file}: it ends at line ${last?.n ?? 0}, but line ${noted.n} was written: lines were lost in a power cut, cut off, or an old copy was put back`,
      );
    }
    const chain = new Chain(options, file, fd, head);
    // What an earlier legerd wrote without numbers stays readable as the oldest segment.
    if (unnumbered) chain.rotate();
    else if (head.n > 0 && fs.fstatSync(fd).size === 0) chain.open();
    return chain;
  } catch (cause) {
    if (cause instanceof LegerError) throw cause;
    const code = systemCode(cause) ?? "failed";
    if (code === "ELOOP") throw notAFile(file, "it is a symbolic link");
    if (code === "EISDIR") throw notAFile(file, "it is a directory");
    throw new LegerError("IO", `open audit log ${file}: ${code}`, {
      hints: ["see whether we may write there, and whether the file system is full"],
      cause,
    });
  }
}

/** Goes on behind the furthest that anything tells of. */
function headOf(noted: ChainHead, last: { n: number; mac: string } | undefined): ChainHead {
  return last !== undefined && last.n >= noted.n ? { ...last, first: noted.first } : noted;
}

function openAppending(file: string): number {
  const { O_APPEND, O_CREAT, O_NOFOLLOW, O_RDWR } = fs.constants;
  const fd = fs.openSync(file, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
  if (fs.fstatSync(fd).isFile()) return fd;
  fs.closeSync(fd);
  throw notAFile(file, "it is not a regular file");
}

function notAFile(file: string, what: string): LegerError {
  return new LegerError("UNSAFE", `open audit log ${file}: ${what}`, { hints: ["move it away"] });
}

/** The one writer of a log. */
export class Chain {
  readonly file: string;
  readonly #options: ChainOptions;
  #fd: number;
  #size: number;
  #head: ChainHead;
  /** Number of the first line in the file that is written to. */
  #start: number;
  #syncing: Promise<void> = Promise.resolve();
  #queued: Promise<void> | undefined;
  #lost: LegerError | undefined;
  readonly #failure = Promise.withResolvers<never>();
  /** A line that could not be written whole stands half-written at the file's end. */
  #torn = false;

  constructor(options: ChainOptions, file: string, fd: number, head: ChainHead) {
    this.#options = options;
    this.file = file;
    this.#fd = fd;
    this.#size = fs.fstatSync(fd).size;
    this.#head = head;
    this.#start = firstNumberIn(file) ?? head.n + 1;
    // Nobody may be waiting for it.
    this.#failure.promise.catch(() => {});
  }

  /** Rejects once nothing can be written any more; only a new start, which reads what is on disk, goes on. */
  get failed(): Promise<never> {
    return this.#failure.promise;
  }

  get head(): ChainHead {
    return this.#head;
  }

  /**
   * Writes lines, given as JSON objects: all of them or, with IO, none. Once it returns they outlive this process.
   * Returns the number of the first.
   */
  write(objects: readonly object[]): number {
    if (this.#lost !== undefined) throw this.#lost;
    if (objects.length > 0 && this.#size >= this.#options.segmentBytes) this.rotate();
    const first = this.#head.n + 1;
    const { bytes, head } = this.#chained(objects);
    if (bytes.length > 0) this.#append(bytes);
    this.#head = head;
    return first;
  }

  /** Begins a new file, and removes the oldest where there would be too many. Throws IO; what was written stays whole then, and in its place. */
  rotate(): void {
    const { stateDir, name, files } = this.#options;
    const next = `${this.file}.new`;
    try {
      fs.fdatasyncSync(this.#fd);
      fs.rmSync(next, { force: true });
      const fd = openAppending(next);
      const segment = auditSegment(stateDir, name, this.#firstNumber());
      const { bytes, head } = this.#chained([this.#opening()]);
      try {
        writeAll(fd, bytes);
        fs.renameSync(this.file, segment);
        // Nothing else orders the two in a power cut: the second alone would leave no name for what was written.
        const replace = (): void => {
          syncDirectory(stateDir);
          fs.renameSync(next, this.file);
        };
        workOr(replace, () => fs.renameSync(segment, this.file));
      } catch (error) {
        fs.closeSync(fd);
        throw error;
      }
      const old = this.#fd;
      // A sync may be under way on it.
      void this.#syncing.catch(() => {}).then(() => fs.closeSync(old));
      this.#fd = fd;
      this.#size = bytes.length;
      this.#start = head.n;
      this.#head = head;
      syncDirectory(stateDir);
      const kept = auditFiles(stateDir, name);
      for (const oldest of kept.slice(0, Math.max(0, kept.length - files)))
        fs.rmSync(oldest, { force: true });
      const first = firstNumberIn(kept.slice(-files)[0] ?? this.file) ?? this.#start;
      this.#head = { ...this.#head, first: Math.max(first, this.#head.first) };
    } catch (cause) {
      throw this.#failed("rotate", cause);
    }
  }

  /** Resolves once every line written before the call is on disk. Throws IO, and then for ever. */
  sync(): Promise<void> {
    this.#queued ??= this.#syncing.then(() => {
      this.#queued = undefined;
      this.#syncing = this.#syncNow();
      return this.#syncing;
    });
    return this.#queued;
  }

  close(): void {
    fs.closeSync(this.#fd);
  }

  /** Writes the line that every file but the very first begins with. */
  open(): void {
    this.write([this.#opening()]);
    this.#start = this.#head.n;
  }

  /** `before` lets the file be verified also when those before it are gone. */
  #opening(): object {
    const time = new Date().toISOString();
    return { time, principal: "legerd", action: "rotate", authorized: true, before: this.#head.mac };
  }

  /** What holds no numbered line is older than all that do. */
  #firstNumber(): number {
    return this.#size > 0 && firstNumberIn(this.file) === undefined ? 0 : this.#start;
  }

  #chained(objects: readonly object[]): { bytes: Buffer; head: ChainHead } {
    let { n, mac } = this.#head;
    const lines = objects.map((object) => {
      n += 1;
      const line = JSON.stringify({ n, ...object }).slice(0, -1);
      mac = chainMac(this.#options.key, mac, line);
      return `${line},"mac":"${mac}"}\n`;
    });
    return { bytes: Buffer.from(lines.join("")), head: { ...this.#head, n, mac } };
  }

  #append(bytes: Buffer): void {
    try {
      if (this.#torn) this.#cutBack();
      writeAll(this.#fd, bytes);
      this.#size += bytes.length;
    } catch (cause) {
      this.#torn = true;
      try {
        this.#cutBack();
      } catch {
        // A file system that has become read-only refuses this, too: the next line has to wait for it.
      }
      throw this.#failed("write", cause);
    }
  }

  #cutBack(): void {
    fs.ftruncateSync(this.#fd, this.#size);
    this.#torn = false;
  }

  #failed(doing: string, cause: unknown): LegerError {
    const code = systemCode(cause) ?? "failed";
    const why = WHY[code] ?? code;
    return new LegerError("IO", `${doing} audit log ${this.file}: ${why}`, {
      hints: ["what cannot be audited is not answered; make room, then try again"],
      cause,
    });
  }

  #syncNow(): Promise<void> {
    return new Promise((resolve, reject) => {
      fs.fdatasync(this.#fd, (cause) => {
        if (cause === null) {
          resolve();
          return;
        }
        // After a failed fsync nobody knows which lines are on disk; going on would pretend to know.
        this.#lost = new LegerError("IO", `sync audit log ${this.file}: ${systemCode(cause) ?? "failed"}`, {
          hints: ["legerd ends, and its next start goes on with what is on disk: see to the disk"],
          cause,
        });
        this.#failure.reject(this.#lost);
        reject(this.#lost);
      });
    });
  }
}

const WHY: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full",
  EDQUOT: "the disk quota is used up",
  EROFS: "the file system is read-only",
  EMFILE: "legerd has no file descriptor left",
};

function workOr(work: () => void, undo: () => void): void {
  try {
    work();
  } catch (error) {
    undo();
    throw error;
  }
}

function writeAll(fd: number, bytes: Buffer): void {
  let written = 0;
  while (written < bytes.length) written += fs.writeSync(fd, bytes, written);
}

/** Number of a file's first line; undefined where it has none. Throws what the system throws. */
function firstNumberIn(file: string): number | undefined {
  const fd = fs.openSync(file, "r");
  try {
    const start = Buffer.alloc(32);
    const text = start.toString("latin1", 0, fs.readSync(fd, start, 0, start.length, 0));
    const [, n] = /^\{"n":(\d{1,15}),/.exec(text) ?? [];
    return n === undefined ? undefined : Number(n);
  } finally {
    fs.closeSync(fd);
  }
}

/** Number and hash of the newest line that has them. */
function lastOf(stateDir: string, name: string): { n: number; mac: string } | undefined {
  for (const file of auditFiles(stateDir, name).toReversed()) {
    const parsed = parseChainLine(lastLineOf(file));
    if (parsed !== undefined) return parsed;
  }
  return undefined;
}

/** A line's number, hash, and what the hash covers; undefined for what is no line of a chain. */
export function parseChainLine(line: string): { n: number; mac: string; covered: string } | undefined {
  const [, covered, n, mac] = /^(\{"n":(\d{1,15}),[^\0]*),"mac":"([\w-]{22})"\}$/.exec(line) ?? [];
  if (covered === undefined || n === undefined || mac === undefined) return undefined;
  return { n: Number(n), mac, covered };
}

function lastLineOf(file: string): string {
  const fd = fs.openSync(file, "r");
  try {
    const { size } = fs.fstatSync(fd);
    const end = Math.max(0, size - 1);
    for (let length = 64 * 1024; ; length *= 4) {
      const tail = Buffer.alloc(Math.min(end, length));
      fs.readSync(fd, tail, 0, tail.length, end - tail.length);
      const at = tail.lastIndexOf(NEWLINE);
      if (at >= 0 || tail.length === end) return tail.toString("utf8", at + 1);
    }
  } finally {
    fs.closeSync(fd);
  }
}

/**
 * Lines that were not synced when the power went may come back with zeros for some of their blocks, before others that are whole.
 * Takes those out, and returns how many there were.
 */
function takeOutHoles(file: string): number {
  const fd = fs.openSync(file, fs.constants.O_RDWR | fs.constants.O_NOFOLLOW);
  try {
    const hole = findHole(fd);
    if (hole === undefined) return 0;
    const { size } = fs.fstatSync(fd);
    const from = Math.max(0, hole - MAX_LINE_BYTES);
    const tail = Buffer.alloc(size - from);
    fs.readSync(fd, tail, 0, tail.length, from);
    const start = hole === 0 ? 0 : tail.lastIndexOf(NEWLINE, hole - from - 1) + 1;
    const lines = tail.toString("utf8", start).split("\n");
    const unfinished = lines.pop() === "" ? 0 : 1;
    const whole = lines.filter((line) => parseChainLine(line) !== undefined);
    // In place: a kill amid this leaves holes or an unfinished line again, and no line less.
    const bytes = Buffer.from(whole.map((line) => `${line}\n`).join(""));
    for (let at = 0; at < bytes.length;) {
      at += fs.writeSync(fd, bytes, at, bytes.length - at, from + start + at);
    }
    fs.ftruncateSync(fd, from + start + bytes.length);
    fs.fdatasyncSync(fd);
    return lines.length - whole.length + unfinished;
  } finally {
    fs.closeSync(fd);
  }
}

/** Where the first of the holes near a file's end begins. No line has a zero in it. */
function findHole(fd: number): number | undefined {
  const chunk = Buffer.alloc(CHUNK_BYTES);
  let found: number | undefined;
  let end = fs.fstatSync(fd).size;
  for (let due = HOLE_SEARCH_BYTES; end > 0 && due > 0;) {
    const start = Math.max(0, end - CHUNK_BYTES);
    fs.readSync(fd, chunk, 0, end - start, start);
    const at = chunk.subarray(0, end - start).indexOf(0);
    if (at >= 0) found = start + at;
    due = at >= 0 ? HOLE_SEARCH_BYTES : due - (end - start);
    end = start;
  }
  return found;
}

/** Cuts off what stands behind the last newline, and gives it back. */
function cutTornLine(fd: number): string {
  const { size } = fs.fstatSync(fd);
  const last = Buffer.of(NEWLINE);
  if (size > 0) fs.readSync(fd, last, 0, 1, size - 1);
  if (last[0] === NEWLINE) return "";
  const tail = Buffer.alloc(Math.min(size, MAX_LINE_BYTES));
  fs.readSync(fd, tail, 0, tail.length, size - tail.length);
  const torn = tail.subarray(tail.lastIndexOf(NEWLINE) + 1);
  fs.ftruncateSync(fd, size - torn.length);
  fs.fdatasyncSync(fd);
  return torn.toString();
}
