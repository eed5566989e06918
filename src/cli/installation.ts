/** installation — the drop-in that makes leger Podman's driver: where it goes, and what to undo once it goes away. */
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, readdirSync, readFileSync, realpathSync, rmdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import { LegerError, systemCode } from "../core/error.ts";
import { homeDirectory } from "../core/paths.ts";
import { openPrivateDirectory } from "../core/private-file.ts";
import { userContainersDir } from "./containers-conf.ts";
import type { Scope } from "./systemd.ts";
import { systemPath, type CliWorld } from "./world.ts";

/** What install found and changed. Written before anything is, so that whatever stops it, all can be undone. */
export type InstallRecord = z.infer<typeof InstallRecord>;
const InstallRecord = z.object({
  schema_version: z.literal(1),
  drop_in: z
    .object({
      /** Of what leger wrote last. */
      sha256: z.string(),
      /** It was there before, and the same. */
      was_there: z.boolean(),
      /** What it took the place of, in base64. */
      replaced: z.string().optional(),
    })
    .optional(),
  /** Made by leger, outermost first. */
  directories: z.array(z.string()),
  /** As they were before leger switched them. */
  units: z
    .object({
      socket_enabled: z.boolean(),
      socket_active: z.boolean(),
      service_active: z.boolean(),
    })
    .optional(),
});

export class Installation {
  readonly scope: Scope;
  /** The drop-in. */
  readonly dropIn: string;
  readonly #world: CliWorld;
  readonly #recordFile: string;

  /** Throws CONFIG where neither HOME nor its like says where a user's files lie. */
  constructor(world: CliWorld, scope: Scope) {
    this.scope = scope;
    this.#world = world;
    this.dropIn = join(containersDir(world, scope), "containers.conf.d", "50-leger.conf");
    const state = scope === "system" ? systemPath(world, "/var/lib") : dirname(homeDirectory("state", world));
    this.#recordFile = join(state, "leger", "podman-install.json");
  }

  /** The drop-in's bytes, undefined where there is none. */
  read(): Buffer | undefined {
    return bytesOf(this.dropIn);
  }

  /** Throws DAMAGED for a record that cannot be read any more. */
  record(): InstallRecord | undefined {
    const bytes = bytesOf(this.#recordFile);
    if (bytes === undefined) return undefined;
    try {
      return InstallRecord.parse(JSON.parse(bytes.toString()));
    } catch {
      throw new LegerError("DAMAGED", `${this.#recordFile} is not what leger wrote`, {
        hints: ["remove it; then it isn't known any more what there was before leger podman install"],
      });
    }
  }

  /** What would have to be made for the drop-in, outermost first. */
  missingDirectories(): string[] {
    return missing(dirname(this.dropIn));
  }

  /** What systemd will make to keep in mind that a unit is enabled, and not take away again; outermost first. */
  missingUnitDirectories(): string[] {
    if (this.scope === "system") return missing(systemPath(this.#world, "/etc/systemd/system"));
    return missing(join(dirname(containersDir(this.#world, this.scope)), "systemd", "user"));
  }

  /** Keeps the record, with what directories it takes to keep it noted in it. Gives back what it wrote. */
  keep(record: InstallRecord): InstallRecord {
    const directory = dirname(this.#recordFile);
    const own = missing(directory).filter((path) => !record.directories.includes(path));
    const whole = { ...record, directories: [...record.directories, ...own] };
    for (const path of own) this.#make(path, 0o700);
    using place = openPrivateDirectory(realpathSync(directory), { euid: this.#world.euid });
    place.write(basename(this.#recordFile), Buffer.from(`${JSON.stringify(whole, undefined, 2)}\n`));
    return whole;
  }

  /** Puts the drop-in in place, making directories for it where they are missing. */
  write(bytes: Uint8Array): void {
    for (const path of this.missingDirectories()) {
      // Everybody's Podman must come by the system's, whatever root's umask is.
      this.#make(path, this.scope === "system" ? 0o755 : 0o700);
    }
    using place = this.#open(dirname(this.dropIn));
    place.write(basename(this.dropIn), bytes, 0o644);
  }

  remove(): void {
    using place = this.#open(dirname(this.dropIn));
    place.remove(basename(this.dropIn));
  }

  /** Forgets the record and removes these directories. */
  forget(directories: readonly string[]): void {
    const directory = dirname(this.#recordFile);
    using place = openPrivateDirectory(realpathSync(directory), { euid: this.#world.euid });
    place.remove(basename(this.#recordFile));
    for (const path of directories) removeIfEmpty(path);
  }

  /** The record's directories, innermost first, in which nothing is left once the record, and `gone`, are. */
  emptied({ directories }: InstallRecord, gone: readonly string[]): string[] {
    const leaving = new Set([...gone, this.#recordFile]);
    const emptied: string[] = [];
    for (const path of directories.toReversed()) {
      const entries = entriesOf(path);
      if (entries?.every((name) => leaving.has(join(path, name))) !== true) continue;
      leaving.add(path);
      emptied.push(path);
    }
    return emptied;
  }

  /** A directory that dotfiles are linked from is as good as any. */
  #open(directory: string): ReturnType<typeof openPrivateDirectory> {
    return openPrivateDirectory(realpathSync(directory), { euid: this.#world.euid, othersMayWrite: true });
  }

  #make(path: string, mode: number): void {
    try {
      mkdirSync(path, mode);
      chmodSync(path, mode);
    } catch (cause) {
      throw ioFailure(`make ${path}`, cause);
    }
  }
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function containersDir(world: CliWorld, scope: Scope): string {
  if (scope === "system") return systemPath(world, "/etc/containers");
  const directory = userContainersDir(world);
  if (directory !== undefined) return directory;
  throw new LegerError(
    "CONFIG",
    "no place for Podman's configuration: neither XDG_CONFIG_HOME nor HOME is set",
    {
      hints: ["set HOME to your home directory"],
    },
  );
}

function bytesOf(file: string): Buffer | undefined {
  try {
    return readFileSync(file);
  } catch (cause) {
    const code = systemCode(cause);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw ioFailure(`read ${file}`, cause);
  }
}

function missing(directory: string): string[] {
  const paths: string[] = [];
  for (let path = directory; !isThere(path); path = dirname(path)) paths.unshift(path);
  return paths;
}

function isThere(path: string): boolean {
  try {
    statSync(path);
    return true;
  } catch (cause) {
    const code = systemCode(cause);
    if (code === "ENOENT") return false;
    throw ioFailure(`look at ${path}`, cause);
  }
}

/** Undefined where there is no such directory. */
function entriesOf(path: string): string[] | undefined {
  try {
    return readdirSync(path);
  } catch (cause) {
    const code = systemCode(cause);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw ioFailure(`read ${path}`, cause);
  }
}

function removeIfEmpty(path: string): void {
  try {
    rmdirSync(path);
  } catch (cause) {
    // Something has come to lie in it since it was looked at.
    if (systemCode(cause) === "ENOTEMPTY" || systemCode(cause) === "EEXIST") return;
    throw ioFailure(`remove ${path}`, cause);
  }
}

function ioFailure(what: string, cause: unknown): LegerError {
  const code = systemCode(cause) ?? "unknown error";
  const denied = code === "EACCES" || code === "EPERM" || code === "EROFS";
  return new LegerError(denied ? "DENIED" : "IO", `cannot ${what} (${code})`, { cause });
}
