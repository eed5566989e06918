/** pending-file — a private file that is too large to be written in one piece: whole at its name, or not at all. */
import * as fs from "node:fs";
import path from "node:path";
import { LegerError, systemCode } from "./error.ts";
import { failure, isTemporaryOf, temporaryName, unlinkQuietly } from "./private-file.ts";

/** Disposed of before its `commit`, it leaves nothing. */
export type PendingFile = Disposable & {
  write(bytes: Uint8Array): void;
  /** Puts it in place whole, on disk. */
  commit(): void;
};

/**
 * Begins the file, readable by us alone, in whatever directory we may write to: for what is sealed. Nothing is at its
 * name before its `commit`. Throws REFUSED, now and then, where something is and `replace` is not said; IO.
 */
export function beginFile(file: string, { replace }: { replace: boolean }): PendingFile {
  const [directory, name] = [path.dirname(file), path.basename(file)];
  const temporary = path.join(directory, temporaryName(name));
  const refuseWhereSomethingIs = (): void => {
    if (fs.lstatSync(file, { throwIfNoEntry: false }) === undefined) return;
    throw new LegerError("REFUSED", `${file} is there already`, {
      hints: ["choose another name, or replace it with --force"],
    });
  };
  const attempt = <T>(work: () => T): T => {
    try {
      return work();
    } catch (error) {
      throw error instanceof LegerError ? error : failure("write", file, error);
    }
  };
  const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = fs.constants;
  const fd = attempt(() => {
    if (!replace) refuseWhereSomethingIs();
    for (const entry of fs.readdirSync(directory)) {
      // Of a writer that was killed.
      if (isTemporaryOf(name, entry) && !isRunning(entry.slice(name.length + 2))) {
        unlinkQuietly(path.join(directory, entry));
      }
    }
    return fs.openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  });
  const publish = (): void => {
    if (!replace) {
      try {
        // A link, not a rename: it fails where something has come to be meanwhile.
        fs.linkSync(temporary, file);
        fs.unlinkSync(temporary);
        return;
      } catch (error) {
        if (!NO_LINKS.has(systemCode(error) ?? "")) throw error;
        refuseWhereSomethingIs();
      }
    }
    fs.renameSync(temporary, file);
  };
  let state: "open" | "closed" | "done" = "open";
  return {
    write: (bytes) =>
      attempt(() => {
        for (let at = 0; at < bytes.length;) at += fs.writeSync(fd, bytes, at);
      }),
    commit: () =>
      attempt(() => {
        fs.fsyncSync(fd);
        fs.closeSync(fd);
        state = "closed";
        publish();
        state = "done";
        syncDirectory(directory);
      }),
    [Symbol.dispose]: () => {
      if (state === "open") fs.closeSync(fd);
      if (state !== "done") unlinkQuietly(temporary);
      state = "done";
    },
  };
}

/** What link(2) says where there are none, as on FAT, and where the name is taken. */
const NO_LINKS: ReadonlySet<string> = new Set(["EPERM", "EOPNOTSUPP", "ENOSYS", "EEXIST"]);

function syncDirectory(directory: string): void {
  const fd = fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** `written`: what a temporary name has behind its file's, which begins with the writer's process id. */
function isRunning(written: string): boolean {
  try {
    process.kill(Number.parseInt(written, 10), 0);
    return true;
  } catch (error) {
    return systemCode(error) !== "ESRCH";
  }
}
