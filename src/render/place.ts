/** place — puts leger's drop-in where it belongs, or takes it away: whole or not at all. */
import {
  closeSync,
  constants,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { LegerError, systemCode } from "../core/error.ts";
import { run } from "../core/exec.ts";
import { dropinText, recognise, type Line } from "./dropin.ts";
import { OWN_DROPIN, type Source } from "./source.ts";

export type Change = {
  /** The drop-in's whole path. */
  file: string;
  kind: "created" | "changed" | "removed" | "unchanged";
  before: Buffer | undefined;
  after: Buffer | undefined;
  /** Its directory comes or goes with it. */
  withDirectory: boolean;
};

/**
 * What is to happen to a quadlet's drop-in, given what it has to say (nothing: it goes). REFUSED, unless `force`, for a
 * file that somebody has edited, or that leger has not written. `inherits`: without one of its own, another quadlet's applies.
 */
export function changeFor(
  { own, ownDirectory }: Source,
  lines: readonly Line[],
  modes: string,
  { force, inherits }: { force: boolean; inherits: boolean },
): Change {
  const file = join(ownDirectory, OWN_DROPIN);
  const known = own === undefined ? undefined : recognise(own);
  const marks = known === undefined || known.kind === "foreign" ? undefined : known.marks;
  const madeDirectory = own === undefined ? !isThere(ownDirectory) : (marks?.madeDirectory ?? false);
  // One that says nothing hides what the template's, or everybody's, would say.
  const after = lines.length === 0 && !inherits ? undefined : dropinText(lines, { modes, madeDirectory });
  const change = { file, before: own, after, withDirectory: madeDirectory };
  if (own === undefined) return { ...change, kind: after === undefined ? "unchanged" : "created" };
  if (after?.equals(own) === true) return { ...change, kind: "unchanged" };
  if (known?.kind === "edited" && !force) {
    throw refusal(`${file} was edited since leger wrote it`, change);
  }
  if (known?.kind === "foreign" && !force) {
    throw refusal(`${file} is not of leger's making`, change);
  }
  return { ...change, kind: after === undefined ? "removed" : "changed" };
}

/** The change that was refused, to be shown. */
export class RefusedChange extends LegerError {
  readonly change: Omit<Change, "kind">;

  constructor(message: string, hints: readonly string[], change: Omit<Change, "kind">) {
    super("REFUSED", message, { hints });
    this.change = change;
  }
}

/**
 * Carries out changes, each whole or not at all: a reader sees the older file or the new one, and so does whoever comes
 * back after a power cut. Gives back why some could not be (IO: full disk, a directory that cannot be written and the like);
 * where those are, everything is as it was. `env` is for sync(1).
 */
export async function carryOut(
  changes: readonly Change[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<Map<Change, LegerError>> {
  const failures = new Map<Change, LegerError>();
  const ready: { change: Change; written: Written }[] = [];
  for (const change of changes) {
    attempt(failures, change, () => {
      if (change.kind === "removed") remove(change.file, change.withDirectory);
      else if (change.kind !== "unchanged") ready.push({ change, written: writeBeside(change) });
    });
  }
  const isSettled =
    ready.length > FEW &&
    (await settleAll(
      ready.map(({ written }) => written.temporary),
      env,
    ));
  for (const { change, written } of ready) {
    attempt(failures, change, () => {
      try {
        if (!isSettled) settle(written.temporary);
        renameSync(written.temporary, change.file);
      } catch (error) {
        takeBack(written, dirname(change.file));
        throw failure("write", change.file, error);
      }
    });
  }
  return failures;
}

/** So many files are settled one by one; of more each would wait for the disk in turn. */
const FEW = 16;
const SYNC_TIMEOUT_MS = 60_000;

/** A file next to the one that it is to become. */
type Written = { temporary: string; madeDirectory: boolean };

function writeBeside({ file, after = Buffer.alloc(0) }: Change): Written {
  const directory = dirname(file);
  // Quadlet reads *.conf in drop-in directories, and names that end like a unit's elsewhere: this is neither.
  const temporary = join(directory, `.leger-${process.pid}-${process.hrtime.bigint().toString(36)}.tmp`);
  const written = { temporary, madeDirectory: false };
  try {
    if (!isThere(directory)) {
      mkdirSync(directory);
      written.madeDirectory = true;
    }
    // Others may read it: no value is in it, and Podman's generator may be another user.
    const fd = openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o644);
    try {
      writeFileSync(fd, after);
    } finally {
      closeSync(fd);
    }
    return written;
  } catch (error) {
    takeBack(written, directory);
    throw failure("write", file, error);
  }
}

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants;

function takeBack({ temporary, madeDirectory }: Written, directory: string): void {
  quietly(() => unlinkSync(temporary));
  if (madeDirectory) quietly(() => rmdirSync(directory));
}

function settle(file: string): void {
  const fd = openSync(file, O_RDONLY | O_NOFOLLOW);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** All at once, by file system (syncfs(2)), which Node doesn't have. False where that can't be done. */
async function settleAll(
  files: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<boolean> {
  const oneEach = new Map(files.map((file) => [lstatSync(file).dev, file]));
  try {
    const { status } = await run("sync", ["-f", ...oneEach.values()], { env, timeoutMs: SYNC_TIMEOUT_MS });
    return status === 0;
  } catch (error) {
    if (error instanceof LegerError) return false;
    throw error;
  }
}

function attempt(failures: Map<Change, LegerError>, change: Change, act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof LegerError)) throw error;
    failures.set(change, error);
  }
}

function remove(file: string, withDirectory: boolean): void {
  try {
    unlinkSync(file);
  } catch (error) {
    throw failure("remove", file, error);
  }
  // Not empty: somebody else has put something there, whose it is now.
  if (withDirectory) quietly(() => rmdirSync(dirname(file)));
}

function isThere(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

function refusal(what: string, change: Omit<Change, "kind">): RefusedChange {
  return new RefusedChange(
    what,
    [
      "what you want to keep belongs in a drop-in of your own, such as 40-mine.conf; then render with --force",
    ],
    change,
  );
}

function failure(verb: string, file: string, error: unknown): LegerError {
  const code = systemCode(error) ?? "unknown error";
  const why = { ENOSPC: "no space left", EDQUOT: "no space left", EROFS: "the file system is read-only" }[
    code
  ];
  const hint =
    code === "EACCES" || code === "EROFS"
      ? "copy the quadlet to a directory of your own, such as ~/.config/containers/systemd"
      : `nothing was changed; see: ls -ld ${dirname(file)}`;
  return new LegerError("IO", `cannot ${verb} ${file}: ${why === undefined ? code : `${why} (${code})`}`, {
    hints: [hint],
    cause: error,
  });
}

function quietly(act: () => void): void {
  try {
    act();
  } catch {
    // The failure that brought us here is the one to tell.
  }
}
