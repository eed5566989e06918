/** main-key — the one key that everything else is wrapped under, in a file of its own. */
import * as fs from "node:fs";
import path from "node:path";
import { LegerError, systemCode } from "../core/error.ts";
import { newKey } from "./seal.ts";

/** Where the key lies below the state directory. */
export const MAIN_KEY_FILE = path.join("keys", "main.key");

/** A key that is to take its place. */
export const NEXT_MAIN_KEY_FILE = `${MAIN_KEY_FILE}.next`;

/** systemd's name for the same key where it comes as a credential (`LoadCredential=main.key:…`). */
const CREDENTIAL = "main.key";
const PREFIX = "leger-main-key-1:";
const KEY_BYTES = 32;
const MAX_FILE_BYTES = 4096;

type Where = { stateDir: string; credentialsDir?: string | undefined };

/** A main key and the file it was read from. */
export type MainKey = { bytes: Buffer; file: string };

/**
 * Reads the main key: the systemd credential if there is one, else the file in the state directory. Undefined
 * when there is neither. Throws UNSAFE when others could read the file, CONFIG when it isn't a main key.
 */
export function readMainKey({ stateDir, credentialsDir }: Where): MainKey | undefined {
  if (credentialsDir !== undefined) {
    // systemd made this file and its mode (0400, or 0440 with an access list); only its content is ours to judge.
    const file = path.join(credentialsDir, CREDENTIAL);
    const text = readPrivate(file, { checkMode: false });
    if (text !== undefined) return { bytes: decode(text, file), file };
  }
  const file = path.join(stateDir, MAIN_KEY_FILE);
  const text = readPrivate(file, { checkMode: true });
  return text === undefined ? undefined : { bytes: decode(text, file), file };
}

/** Makes a main key, or keeps one that is given, durable before it is used. Throws IO when that fails; never overwrites. */
export function createMainKey(stateDir: string, bytes = newKey()): MainKey {
  const file = path.join(stateDir, MAIN_KEY_FILE);
  const directory = path.dirname(file);
  const temporary = `${file}.new`;
  try {
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
    // What a crash during an earlier first start left: no database was ever made with it.
    fs.rmSync(temporary, { force: true });
    const fd = fs.openSync(temporary, "wx", 0o600);
    try {
      fs.writeFileSync(fd, `${mainKeyLine(bytes)}\n`);
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
    // A link, not a rename: it fails where a key already is.
    fs.linkSync(temporary, file);
    fs.unlinkSync(temporary);
    syncDirectory(directory);
    syncDirectory(stateDir);
  } catch (cause) {
    throw new LegerError("IO", `create main key ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
  return { bytes, file };
}

/** Makes the key that is to take the place of the one in the state directory, durable before it is used. */
export function createNextMainKey(stateDir: string): Buffer {
  const file = path.join(stateDir, NEXT_MAIN_KEY_FILE);
  const bytes = newKey();
  try {
    const fd = fs.openSync(file, "wx", 0o600);
    try {
      fs.writeFileSync(fd, `${mainKeyLine(bytes)}\n`);
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
    syncDirectory(path.dirname(file));
  } catch (cause) {
    throw new LegerError("IO", `create main key ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
  return bytes;
}

/** Puts the next key in the place of the one that was, on disk once it returns. */
export function promoteNextMainKey(stateDir: string): void {
  const file = path.join(stateDir, MAIN_KEY_FILE);
  try {
    fs.renameSync(path.join(stateDir, NEXT_MAIN_KEY_FILE), file);
    syncDirectory(path.dirname(file));
  } catch (cause) {
    throw new LegerError("IO", `replace main key ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
}

/** A main key as it stands in a file. */
export function mainKeyLine(bytes: Buffer): string {
  return `${PREFIX}${bytes.toString("base64url")}`;
}

/** The key in the line that `mainKeyLine` makes; undefined where it is none. */
export function parseMainKeyLine(line: string): Buffer | undefined {
  const bytes = Buffer.from(line.slice(PREFIX.length), "base64url");
  return line.startsWith(PREFIX) && bytes.length === KEY_BYTES && mainKeyLine(bytes) === line
    ? bytes
    : undefined;
}

/** Makes the entries of a directory durable. */
export function syncDirectory(directory: string): void {
  const fd = fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function readPrivate(file: string, { checkMode }: { checkMode: boolean }): string | undefined {
  let fd: number;
  try {
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK);
  } catch (cause) {
    const code = systemCode(cause);
    if (code === "ENOENT") return undefined;
    if (code === "ELOOP")
      throw new LegerError("UNSAFE", `read main key ${file}: it is a symbolic link`, { cause });
    throw new LegerError(code === "EACCES" ? "DENIED" : "IO", `read main key ${file}: ${code ?? "failed"}`, {
      cause,
    });
  }
  try {
    const stat = fs.fstatSync(fd);
    if (!stat.isFile()) throw new LegerError("UNSAFE", `read main key ${file}: it is not a regular file`);
    if (checkMode && (stat.mode & 0o077) !== 0) {
      const mode = (stat.mode & 0o777).toString(8).padStart(4, "0");
      throw new LegerError("UNSAFE", `read main key ${file}: others may open it (mode ${mode})`, {
        hints: [`find out who has read it, then: chmod 600 ${file}`],
      });
    }
    if (checkMode && stat.uid !== process.geteuid?.()) {
      throw new LegerError("UNSAFE", `read main key ${file}: it belongs to user ${stat.uid}, not to us`);
    }
    if (stat.size > MAX_FILE_BYTES) throw notAKey(file);
    return fs.readFileSync(fd, "latin1");
  } finally {
    fs.closeSync(fd);
  }
}

function decode(text: string, file: string): Buffer {
  const bytes = parseMainKeyLine(text.trimEnd());
  if (bytes === undefined) throw notAKey(file);
  return bytes;
}

function notAKey(file: string): LegerError {
  return new LegerError("CONFIG", `read main key ${file}: it does not hold a main key of legerd`, {
    hints: ["put the right file back from a backup; without it the database cannot be read"],
  });
}
