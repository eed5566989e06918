/** private-file — files that only we can read, from the moment they exist; and public ones, as safely put in place. */

import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statfsSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { LegerError, systemCode } from "./error.ts";

export type PrivateDirectoryOptions = {
  /** Who must own the directory and its files, as the kernel calls him here. */
  euid: number;
  /** Make the last component (0700) where it is missing; parents are never made. */
  create?: boolean;
  /** Refuse a directory whose files could reach a disk. */
  requireTmpfs?: boolean;
  /** For files that are no secret: who else may write there is the owner's business. */
  othersMayWrite?: boolean;
};

/**
 * Opens a directory to keep private files in. It is checked on the open descriptor and used through that
 * descriptor alone, so that whatever happens to the path afterwards, files go where was looked. UNSAFE: a
 * symlink, not a directory, not ours, others may write to it, not tmpfs though required. IO: missing or
 * unreadable. Dispose of it after use.
 */
export function openPrivateDirectory(path: string, options: PrivateDirectoryOptions): PrivateDirectory {
  // A trailing slash or dot would have the kernel follow a symlink.
  const shown = resolve(path);
  return openAt(shown, shown, options);
}

export type { PrivateDirectory };

/** Names in here are single path components that don't start with a dot. */
class PrivateDirectory {
  readonly path: string;
  readonly #fd: number;
  readonly #options: PrivateDirectoryOptions;
  readonly #inMemory: boolean;

  constructor(path: string, fd: number, options: PrivateDirectoryOptions, inMemory: boolean) {
    this.path = path;
    this.#fd = fd;
    this.#options = options;
    this.#inMemory = inMemory;
  }

  /**
   * Puts a file (0600; another `mode`, which no umask narrows, is for what is no secret) in place whole: readers see
   * the older one or the new one, and after a failure the older one is still there and nothing else is. A symlink at
   * `name` is replaced, not followed. IO: full disk and the like; UNSAFE: a directory at `name`.
   */
  write(name: string, bytes: Uint8Array, mode = 0o600): void {
    const target = this.#at(name);
    const temporary = `${this.#root}/${temporaryName(name)}`;
    try {
      const fd = openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
      try {
        writeFileSync(fd, bytes);
        if (mode !== 0o600) fchmodSync(fd, mode);
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
      renameSync(temporary, target);
      if (!this.#inMemory) fsyncSync(this.#fd);
    } catch (error) {
      unlinkQuietly(temporary);
      throw failure("write", join(this.path, name), error);
    }
  }

  /** The file's bytes, undefined where there is none. UNSAFE: not a file, not ours, or others may touch it. */
  read(name: string): Uint8Array | undefined {
    const target = this.#at(name);
    const shown = join(this.path, name);
    let fd: number;
    try {
      // O_NONBLOCK: a pipe planted here must not keep us waiting.
      fd = openSync(target, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    } catch (error) {
      if (systemCode(error) === "ENOENT") return undefined;
      throw failure("read", shown, error);
    }
    try {
      const { uid, mode } = checked(shown, () => fstatSync(fd));
      if ((mode & constants.S_IFMT) !== constants.S_IFREG)
        throw unsafe(shown, "it is not a file", `remove ${shown}`);
      if (uid !== this.#options.euid)
        throw unsafe(shown, notOurs(uid, this.#options.euid), `remove ${shown}`);
      if ((mode & 0o077) !== 0) {
        throw unsafe(shown, `others may read or write it (mode ${octal(mode)})`, `chmod 0600 ${shown}`);
      }
      return checked(shown, () => readFileSync(fd));
    } finally {
      closeSync(fd);
    }
  }

  /** Removes a file, and what a writer of it left that was killed. A missing file is fine. */
  remove(name: string): void {
    const target = this.#at(name);
    try {
      for (const entry of readdirSync(this.#root)) {
        if (isTemporaryOf(name, entry)) unlinkQuietly(`${this.#root}/${entry}`);
      }
      unlinkSync(target);
    } catch (error) {
      if (systemCode(error) !== "ENOENT") throw failure("remove", join(this.path, name), error);
    }
  }

  /** A directory in this one, made (0700) where it is missing, under the same checks. */
  enter(name: string): PrivateDirectory {
    return openAt(this.#at(name), join(this.path, name), { ...this.#options, create: true });
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  /** The directory by its descriptor: proc(5) leads there whatever its path means by now. */
  get #root(): string {
    return `/proc/self/fd/${this.#fd}`;
  }

  #at(name: string): string {
    if (
      name === "" ||
      Buffer.byteLength(name) > MAX_NAME_BYTES ||
      name.startsWith(".") ||
      /[/\0]/.test(name)
    ) {
      throw new LegerError(
        "BAD_DATA",
        `${JSON.stringify(name)} cannot be the name of a file in ${this.path}`,
        {
          hints: [`use at most ${MAX_NAME_BYTES} bytes, no slash, and no dot at the start`],
        },
      );
    }
    return `${this.#root}/${name}`;
  }
}

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants;

/** statfs(2): TMPFS_MAGIC and RAMFS_MAGIC, which systemd uses for credentials. */
const IN_MEMORY = new Set([0x0102_1994, 0x8584_58f6]);

/** NAME_MAX is 255; this leaves room for what a temporary name adds. */
const MAX_NAME_BYTES = 200;

/** `path` is what the kernel gets, `shown` what a person reads. */
function openAt(path: string, shown: string, options: PrivateDirectoryOptions): PrivateDirectory {
  if (options.create === true) make(path, shown);
  let fd: number;
  try {
    fd = openSync(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  } catch (error) {
    throw unopened(shown, options, error);
  }
  try {
    const { uid, mode } = checked(shown, () => fstatSync(fd));
    if (uid !== options.euid) throw unsafe(shown, notOurs(uid, options.euid), "use a directory of your own");
    if (options.othersMayWrite !== true && (mode & 0o022) !== 0) {
      // A sticky one, such as /dev/shm, is shared on purpose.
      const remedy = (mode & 0o1000) === 0 ? `chmod 0700 ${shown}` : "use a directory of your own in it";
      throw unsafe(shown, `others may write to it (mode ${octal(mode)})`, remedy);
    }
    const { type } = checked(shown, () => statfsSync(`/proc/self/fd/${fd}`));
    const inMemory = IN_MEMORY.has(type);
    if (options.requireTmpfs === true && !inMemory) {
      throw unsafe(
        shown,
        "it is not on tmpfs, so secrets in it would reach a disk",
        "use a directory below $XDG_RUNTIME_DIR or /run, or say --allow-disk",
      );
    }
    return new PrivateDirectory(shown, fd, options, inMemory);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function make(path: string, shown: string): void {
  try {
    mkdirSync(path, 0o700);
  } catch (error) {
    const code = systemCode(error);
    // What is there already is judged once it is open; a missing parent is found then as well.
    if (code !== "EEXIST" && code !== "ENOENT") throw failure("make", shown, error);
  }
}

function unopened(
  shown: string,
  { requireTmpfs = false }: PrivateDirectoryOptions,
  error: unknown,
): LegerError {
  const code = systemCode(error);
  if (code === "ENOTDIR" || code === "ELOOP") {
    return unsafe(shown, "it is a symlink or not a directory", `remove it, or use another directory`);
  }
  if (code !== "ENOENT") return failure("open", shown, error);
  return new LegerError("IO", `${shown} does not exist`, {
    hints: requireTmpfs
      ? ["/run/user/UID exists while that user is logged in, or always after: loginctl enable-linger"]
      : [`make it: mkdir -m 0700 ${shown}`],
    cause: error,
  });
}

export function temporaryName(name: string): string {
  return `.${name}.${process.pid}-${process.hrtime.bigint().toString(36)}.tmp`;
}

export function isTemporaryOf(name: string, entry: string): boolean {
  return entry.startsWith(`.${name}.`) && /^\d+-[0-9a-z]+\.tmp$/.test(entry.slice(name.length + 2));
}

export function unlinkQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // The failure that brought us here is the one to tell.
  }
}

function checked<T>(shown: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw failure("read", shown, error);
  }
}

export function failure(verb: string, shown: string, error: unknown): LegerError {
  const code = systemCode(error) ?? "unknown error";
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new LegerError("IO", `cannot ${verb} ${shown}: no space left (${code})`, {
      hints: [`make room there; see: df ${shown}`],
      cause: error,
    });
  }
  if (code === "ELOOP") return unsafe(shown, "it is a symlink", `remove ${shown}`, error);
  if (code === "ENXIO") return unsafe(shown, "it is not a file", `remove ${shown}`, error);
  if (code === "EISDIR") return unsafe(shown, "it is a directory", `remove it: rmdir ${shown}`, error);
  return new LegerError("IO", `cannot ${verb} ${shown} (${code})`, { cause: error });
}

function unsafe(shown: string, what: string, remedy: string, cause?: unknown): LegerError {
  return new LegerError("UNSAFE", `refusing to use ${shown}: ${what}`, { hints: [remedy], cause });
}

function notOurs(uid: number, euid: number): string {
  return `it belongs to user ${uid}, not to us (${euid})`;
}

function octal(mode: number): string {
  return (mode & 0o7777).toString(8).padStart(4, "0");
}
