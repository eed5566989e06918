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

/** IO for a full disk, a directory that cannot be written and the like: everything is then as it was. */
export function carryOut({ kind, file, after, withDirectory }: Change): void {
  const directory = dirname(file);
  switch (kind) {
    case "unchanged":
      return;
    case "removed":
      return remove(file, withDirectory);
    case "created":
    case "changed":
      return writeWhole(file, after ?? Buffer.alloc(0), { makeDirectory: !isThere(directory) });
    default:
      kind satisfies never;
  }
}

/** Readers see the older file or the new one. A file of its kind that is there already keeps nothing but its name. */
function writeWhole(file: string, bytes: Buffer, { makeDirectory }: { makeDirectory: boolean }): void {
  const directory = dirname(file);
  // Quadlet reads *.conf in drop-in directories, and names that end like a unit's elsewhere: this is neither.
  const temporary = join(directory, `.leger-${process.pid}-${process.hrtime.bigint().toString(36)}.tmp`);
  let madeDirectory = false;
  try {
    if (makeDirectory) {
      mkdirSync(directory);
      madeDirectory = true;
    }
    const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants;
    // Others may read it: no value is in it, and Podman's generator may be another user.
    const fd = openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o644);
    try {
      writeFileSync(fd, bytes);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, file);
  } catch (error) {
    quietly(() => unlinkSync(temporary));
    if (madeDirectory) quietly(() => rmdirSync(directory));
    throw failure("write", file, error);
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
