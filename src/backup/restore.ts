/** restore — a store made of a backup in an empty state directory: all of it, verified, or nothing. */
import * as fs from "node:fs";
import path from "node:path";
import { LegerError, systemCode } from "../core/error.ts";
import {
  DATABASE_FILE,
  LOCK_FILE,
  lockStateDirectory,
  prepareStateDirectory,
  RESTORE_DIRECTORY,
} from "../store/database.ts";
import { loadDump, type DumpFacts, type Progress } from "../store/dump.ts";
import { noteBackup } from "../store/last-backup.ts";
import { MAIN_KEY_FILE, syncDirectory } from "../store/main-key.ts";
import { fromSqlite } from "../store/sqlite.ts";
import { MAX_HEADER_BYTES, open, whatOpens, type Key, type Wants } from "./seal.ts";

export type RestoreOptions = {
  stateDir: string;
  /** Absolute. */
  file: string;
  /** Asked once it is known what opens the file. */
  keyFor: (wants: Wants) => Promise<Key>;
  onProgress?: Progress;
  /** What it made is taken back at once, before the caller of `abort` goes on. */
  signal?: AbortSignal;
};

/**
 * Resolves once every row was verified and everything is on disk. Before that a legerd refuses the directory, and after
 * a failure there is nothing in it. Throws REFUSED for a directory that is not empty or in use, DENIED for the wrong
 * passphrase or identity, DAMAGED for a file that was cut or changed, CONFIG for one that a newer leger made, BAD_DATA
 * for what is no backup, IO.
 */
export async function restore(options: RestoreOptions): Promise<DumpFacts> {
  const { stateDir, file, keyFor, onProgress = () => {}, signal } = options;
  const fd = openFile(file);
  try {
    const wants = await ofFile(file, () => whatOpens(readHead(fd)));
    // Before anybody is asked for anything.
    if (fs.existsSync(stateDir)) requireEmpty(stateDir);
    const key = await keyFor(wants);
    prepareStateDirectory(stateDir);
    using held = lockStateDirectory(stateDir);
    void held;
    requireEmpty(stateDir);
    clear(stateDir);
    const stop = (): void => clear(stateDir);
    signal?.addEventListener("abort", stop);
    try {
      const staging = path.join(stateDir, RESTORE_DIRECTORY);
      fs.mkdirSync(staging, { mode: 0o700 });
      syncDirectory(stateDir);
      const facts = await ofFile(file, () => loadDump(staging, open(chunksOf(fd), key), onProgress));
      putInPlace(stateDir, staging);
      noteBackup(stateDir, facts);
      return facts;
    } catch (error) {
      clear(stateDir);
      throw error;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  } catch (error) {
    throw fromSqlite(error, `restore into ${stateDir}`);
  } finally {
    fs.closeSync(fd);
  }
}

/** The directory that it worked in goes last: as long as it is there, no legerd takes the store for whole. */
function putInPlace(stateDir: string, staging: string): void {
  const keys = path.dirname(MAIN_KEY_FILE);
  fs.renameSync(path.join(staging, keys), path.join(stateDir, keys));
  fs.renameSync(path.join(staging, DATABASE_FILE), path.join(stateDir, DATABASE_FILE));
  syncDirectory(stateDir);
  fs.rmdirSync(staging);
  syncDirectory(stateDir);
}

/** What a restore that was cut short left. Where its directory is gone, it had come to its end: nothing is touched. */
function clear(stateDir: string): void {
  const staging = path.join(stateDir, RESTORE_DIRECTORY);
  if (!fs.existsSync(staging)) return;
  fs.rmSync(path.join(stateDir, DATABASE_FILE), { force: true });
  fs.rmSync(path.join(stateDir, path.dirname(MAIN_KEY_FILE)), { recursive: true, force: true });
  syncDirectory(stateDir);
  fs.rmSync(staging, { recursive: true, force: true });
}

function requireEmpty(stateDir: string): void {
  const entries = fs.readdirSync(stateDir);
  if (entries.includes(RESTORE_DIRECTORY)) return;
  // The lock's journal is there while we hold it.
  const other = entries.find((entry) => entry !== LOCK_FILE && entry !== `${LOCK_FILE}-journal`);
  if (other === undefined) return;
  throw new LegerError("REFUSED", `restore into ${stateDir}: it is not empty (${other})`, {
    hints: [
      `move what is there away, and keep it: mv ${stateDir} ${stateDir}.old`,
      "to look into a backup, name another directory with --state DIR",
    ],
  });
}

function openFile(file: string): number {
  try {
    // O_NONBLOCK: a named pipe must not keep us waiting.
    const fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
    if (fs.fstatSync(fd).isFile()) return fd;
    fs.closeSync(fd);
  } catch (cause) {
    throw new LegerError("IO", `read backup ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
  throw new LegerError("BAD_DATA", `read backup ${file}: it is not a file`);
}

function readHead(fd: number): Buffer {
  const head = Buffer.alloc(4_096);
  return head.subarray(0, fs.readSync(fd, head, 0, head.length, 0));
}

async function* chunksOf(fd: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; ;) {
    const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
    const bytes = fs.readSync(fd, chunk, 0, chunk.length, at);
    if (bytes === 0) return;
    // Without an end of its header it would be read into memory whole.
    if (at < MAX_HEADER_BYTES && at + bytes >= MAX_HEADER_BYTES && !hasHeader(fd)) {
      throw new LegerError("DAMAGED", "its header has no end");
    }
    at += bytes;
    yield chunk.subarray(0, bytes);
  }
}

const CHUNK_BYTES = 64 * 1024;

/** The line that ends the header of an age file begins so. */
function hasHeader(fd: number): boolean {
  const head = Buffer.alloc(MAX_HEADER_BYTES);
  return head.subarray(0, fs.readSync(fd, head, 0, head.length, 0)).includes("\n--- ");
}

/** What is wrong with a backup is said with its name. */
async function ofFile<T>(file: string, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof LegerError) || !FAULTS_OF_FILE.has(error.code)) throw error;
    const { code, message, hints, cause } = error;
    throw new LegerError(code, `open backup ${file}: ${message}`, { hints, cause });
  }
}

const FAULTS_OF_FILE: ReadonlySet<string> = new Set(["DENIED", "DAMAGED", "BAD_DATA", "CONFIG"]);
