/** audit — who asked for what, as JSON lines in one file that only grows. */
import * as fs from "node:fs";
import path from "node:path";
import { LegerError, systemCode } from "../core/error.ts";
import type { Action } from "../setec/protocol.ts";

const AUDIT_FILE = "audit.log";

/** One line, besides its time. Never a value. */
export type AuditEntry = {
  principal: string;
  /** setec's actions, and those that only legerd has. A list is `info` without a secret. */
  action: Action | "link" | "unlink" | "set-service" | "delete-service";
  /** False: turned away for want of a grant. True says that it was allowed, not that it succeeded. */
  authorized: boolean;
  secret?: string;
  version?: number;
  /** The service whose env file was asked for. */
  service?: string;
  /** The credential socket that it was read from, below legerd's directory of them: "web.env", "web/OPENAI_API_KEY". */
  credential?: string;
  /** Podman's id of the entry that was looked up, made or deleted. */
  podman_id?: string;
  /** systemd's name of the unit that asked, and its `INVOCATION_ID`, as the asking program said them. */
  unit?: string;
  invocation?: string;
};

/**
 * Opens STATE/audit.log for appending. A line that a kill or a power cut left unfinished is told to `log` and cut off:
 * nobody was answered on it, and every line that stays can be read. Throws LegerError.
 */
export function openAuditLog(stateDir: string, log: (line: string) => void): AuditLog {
  const file = path.join(stateDir, AUDIT_FILE);
  const { O_APPEND, O_CREAT, O_NOFOLLOW, O_RDWR } = fs.constants;
  try {
    const fd = fs.openSync(file, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
    if (!fs.fstatSync(fd).isFile()) throw notAFile(file, "it is not a regular file");
    const torn = cutTornLine(fd);
    if (torn !== "") {
      log(`legerd: notice: ${file}: cut off an unfinished line: ${JSON.stringify(torn.slice(0, 1_000))}`);
    }
    return new AuditLog(file, fd);
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

function notAFile(file: string, what: string): LegerError {
  return new LegerError("UNSAFE", `open audit log ${file}: ${what}`, { hints: ["move it away"] });
}

/** The one writer of an audit log. */
export class AuditLog {
  readonly file: string;
  readonly #fd: number;
  #batch: Batch | undefined;
  #syncing: Promise<void> = Promise.resolve();
  #queued: Promise<void> | undefined;
  #lost: LegerError | undefined;

  constructor(file: string, fd: number) {
    this.file = file;
    this.#fd = fd;
  }

  /**
   * Appends a line. Resolves once it is written, and so outlives this process; those of one turn of the event loop are
   * written together, all of them or, with IO, none. A caller who doesn't wait need not handle the failure.
   */
  append(entry: AuditEntry): Promise<void> {
    if (this.#batch === undefined) {
      const batch: Batch = { lines: [], ...Promise.withResolvers<void>() };
      // Nobody may be waiting for this one.
      batch.promise.catch(() => {});
      this.#batch = batch;
      setImmediate(() => this.#settle(batch));
    }
    this.#batch.lines.push(lineOf(entry));
    return this.#batch.promise;
  }

  /** Appends lines before it comes back, behind those that were appended before. Throws IO, and then wrote none. */
  appendNow(entries: readonly AuditEntry[]): void {
    if (this.#batch !== undefined) this.#settle(this.#batch);
    this.#write(entries.map(lineOf));
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

  /** Writes what is left and closes the file. */
  close(): void {
    try {
      const { lines = [] } = this.#batch ?? {};
      this.#batch = undefined;
      this.#write(lines);
    } finally {
      fs.closeSync(this.#fd);
    }
  }

  /** Writes a batch, once, and tells those who wait for it. */
  #settle(batch: Batch): void {
    if (this.#batch !== batch) return;
    this.#batch = undefined;
    try {
      this.#write(batch.lines);
      batch.resolve();
    } catch (error) {
      batch.reject(error);
    }
  }

  #write(texts: readonly string[]): void {
    const lines = Buffer.from(texts.join(""));
    if (lines.length === 0) return;
    if (this.#lost !== undefined) throw this.#lost;
    let written = 0;
    try {
      while (written < lines.length) written += fs.writeSync(this.#fd, lines, written);
    } catch (cause) {
      if (written > 0) fs.ftruncateSync(this.#fd, fs.fstatSync(this.#fd).size - written);
      const why = systemCode(cause) === "ENOSPC" ? "the disk is full" : (systemCode(cause) ?? "failed");
      throw new LegerError("IO", `write audit log ${this.file}: ${why}`, {
        hints: ["what cannot be audited is not answered; make room, then try again"],
        cause,
      });
    }
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
          hints: ["see to the disk, then restart legerd"],
          cause,
        });
        reject(this.#lost);
      });
    });
  }
}

type Batch = {
  lines: string[];
  promise: Promise<void>;
  resolve: () => void;
  reject: (error: unknown) => void;
};

function lineOf(entry: AuditEntry): string {
  return `${JSON.stringify({ time: new Date().toISOString(), ...entry })}\n`;
}

/** A line holds one request's names at most; a request is 1.5 MiB, and JSON may write a byte as six. */
const MAX_LINE_BYTES = 16 * 1024 * 1024;

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

const NEWLINE = 0x0a;
