/** source — quadlets and their drop-ins, found and read where Podman would. */
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  statSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { LegerError, systemCode } from "../core/error.ts";
import { isAtLeast, SINCE, type PodmanVersion } from "./podman-versions.ts";
import { parseUnitFile, type UnitFile } from "./unit-file.ts";

/** The one drop-in that leger writes. */
export const OWN_DROPIN = "50-leger.conf";

export type Source = {
  /** The quadlet's whole path, and its name in there: `litellm.container`. */
  file: string;
  name: string;
  base: UnitFile;
  /** In the order in which they apply, leger's own left out. */
  dropins: readonly Dropin[];
  /** The directory of leger's drop-in, and what lies there now. */
  ownDirectory: string;
  own: Buffer | undefined;
  /** Other `50-leger.conf` (of the template, of `container.d/`), of which one applies where this quadlet has none of its own. */
  inherited: readonly string[];
};

type Dropin = { name: string; unit: UnitFile };

/** Larger than any quadlet that a person wrote; the largest that leger reads. */
const MAX_UNIT_BYTES = 1024 * 1024;

/** Where Podman looks, as far as it depends on whose quadlets they are. */
export type SearchPlaces =
  | { kind: "system" }
  | { kind: "user"; uid: number; runtimeDir: string; configHome: string | undefined };

/** Podman's own directories in its order, each with those below it (pkg/systemd/quadlet/unitdirs.go). */
export function searchPath(places: SearchPlaces): string[] {
  const visited = new Set<string>();
  const users = `${ADMIN}/users`;
  if (places.kind === "system") {
    const isSystems = (directory: string): boolean =>
      directory !== users && !directory.startsWith(`${users}/`);
    return ["/run/containers/systemd", ADMIN, "/usr/share/containers/systemd"].flatMap((directory) =>
      withSubdirectories(directory, visited, isSystems),
    );
  }
  const { uid, runtimeDir, configHome } = places;
  const own = [runtimeDir, ...(configHome === undefined ? [] : [configHome])];
  const isEverybodys = (directory: string): boolean =>
    !/^\d+$/.test(directory.slice(users.length + 1).split("/")[0] ?? "");
  return [
    ...own.flatMap((directory) => withSubdirectories(join(directory, "containers/systemd"), visited)),
    ...withSubdirectories(users, visited, isEverybodys),
    ...withSubdirectories(join(users, String(uid)), visited),
  ];
}

const ADMIN = "/etc/containers/systemd";

/** A directory and those below it, but for drop-in directories. Those that are missing are none. */
export function withSubdirectories(
  directory: string,
  visited: Set<string> = new Set(),
  isWanted: (directory: string) => boolean = () => true,
): string[] {
  let real: string;
  try {
    real = realpathSync(directory);
    if (visited.has(real) || real.endsWith(".d") || !isWanted(real) || !statSync(real).isDirectory())
      return [];
  } catch {
    return [];
  }
  visited.add(real);
  return [
    real,
    ...directoriesIn(real).flatMap((name) => withSubdirectories(join(real, name), visited, isWanted)),
  ];
}

/** The quadlets of containers in these directories. Of two with one name the first counts. */
export function findQuadlets(directories: readonly string[]): string[] {
  const found = new Map<string, string>();
  for (const directory of directories) {
    for (const name of namesIn(directory)) {
      if (name.endsWith(".container") && !found.has(name)) found.set(name, join(directory, name));
    }
  }
  return [...found.values()];
}

/** Reads many quadlets: directories and drop-ins that several of them share are read once. */
export class SourceReader {
  readonly #version: PodmanVersion;
  readonly #isTolerant: boolean;
  readonly #names = new Map<string, ReadonlySet<string>>();
  readonly #dropins = new Map<string, UnitFile>();

  /** `isTolerant`: what Podman would not read is kept as a fault. */
  constructor(version: PodmanVersion, { isTolerant = false }: { isTolerant?: boolean } = {}) {
    this.#version = version;
    this.#isTolerant = isTolerant;
  }

  /**
   * A quadlet with what applies to it, `search` being the directories to look for drop-ins in. IO: cannot be read;
   * BAD_DATA: not a quadlet, or one that Podman would not read, with the line.
   */
  read(file: string, search: readonly string[]): Source {
    const name = basename(file);
    const base = parseUnitFile(file, readUnit(file));
    if (!this.#isTolerant) assertReadable(base, "podman then reads no quadlet of that directory at all");
    if (
      !this.#isTolerant &&
      !base.items.some(({ kind, section }) => kind === "section" && section === "Container")
    ) {
      throw new LegerError("BAD_DATA", `${file}: there is no [Container] in it`, {
        hints: ["leger renders quadlets of containers"],
      });
    }
    const ownDirectory = join(dirname(file), `${name}.d`);
    const byName = new Map<string, string>();
    const inherited: string[] = [];
    for (const directory of this.#directoriesFor(name, search)) {
      for (const dropin of this.#namesIn(directory)) {
        if (!dropin.endsWith(".conf")) continue;
        const path = join(directory, dropin);
        if (dropin === OWN_DROPIN) {
          if (directory !== ownDirectory) inherited.push(path);
        } else if (!byName.has(dropin)) byName.set(dropin, path);
      }
    }
    const dropins = [...byName].toSorted(([a], [b]) => byBytes(a, b));
    return {
      file,
      name,
      base,
      dropins: dropins.map(([dropin, path]) => ({ name: dropin, unit: this.#readDropin(path) })),
      ownDirectory,
      own: this.#namesIn(ownDirectory).has(OWN_DROPIN) ? readUnit(join(ownDirectory, OWN_DROPIN)) : undefined,
      inherited,
    };
  }

  /** Those that exist, the one whose files win first. */
  *#directoriesFor(quadlet: string, search: readonly string[]): Iterable<string> {
    const names = dropinDirectories(quadlet, this.#version);
    const existing = (path: string, name: string): string[] =>
      this.#namesIn(path).has(name) ? [join(path, name)] : [];
    if (isAtLeast(this.#version, SINCE.specificFirst) || !isAtLeast(this.#version, SINCE.dropins)) {
      for (const name of names) for (const path of search) yield* existing(path, name);
    } else {
      for (const path of search) for (const name of names) yield* existing(path, name);
    }
  }

  #namesIn(directory: string): ReadonlySet<string> {
    const known = this.#names.get(directory);
    if (known !== undefined) return known;
    const names = new Set(namesIn(directory));
    this.#names.set(directory, names);
    return names;
  }

  #readDropin(path: string): UnitFile {
    const known = this.#dropins.get(path);
    if (known !== undefined) return known;
    const unit = parseUnitFile(path, readUnit(path));
    if (!this.#isTolerant) assertReadable(unit, "podman leaves the whole drop-in out for it");
    this.#dropins.set(path, unit);
    return unit;
  }
}

/**
 * The names that a quadlet's drop-in directories may have, the most specific first. A Podman that reads none is taken for
 * the newest: whole units are written for it.
 */
export function dropinDirectories(quadlet: string, version: PodmanVersion): string[] {
  const dot = quadlet.lastIndexOf(".");
  const [stem, extension] = [quadlet.slice(0, dot), `${quadlet.slice(dot)}.d`];
  const at = stem.indexOf("@");
  const isTemplate = at >= 0;
  const unitName = isTemplate ? stem.slice(0, at) : stem;
  const names = [`${quadlet}.d`];
  if (isTemplate && at < stem.length - 1) names.push(`${unitName}@${extension}`);
  if (isAtLeast(version, SINCE.dropins) && !isAtLeast(version, SINCE.broadDropins)) return names;
  const parts = unitName.split("-");
  for (let count = parts.length - 1; count > 0; count -= 1) {
    const truncated = `${parts.slice(0, count).join("-")}-`;
    if (isTemplate) names.push(`${truncated}@${extension}`);
    names.push(`${truncated}${extension}`);
  }
  names.push(extension.slice(1));
  return names;
}

/** `app@.container` for `app@one.container`: its drop-ins go for both. */
export function templateOf(quadlet: string): string | undefined {
  const [, template] = /^([^@]*@)[^@].*\.container$/.exec(quadlet) ?? [];
  return template === undefined ? undefined : `${template}.container`;
}

/** BAD_DATA for the first line that Podman would stop at. */
function assertReadable({ path, items }: UnitFile, hint: string): void {
  const fault = items.find(({ kind }) => kind === "fault");
  if (fault === undefined) return;
  throw new LegerError("BAD_DATA", `${path}:${fault.line}: ${fault.value}`, {
    hints: [hint],
  });
}

/** A unit file's bytes. IO: missing, unreadable; BAD_DATA: not a file, larger than 1 MiB, binary. */
export function readUnit(path: string): Buffer {
  let fd: number;
  try {
    // O_NONBLOCK: a pipe must not keep us waiting.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw unreadable(path, error);
  }
  try {
    const stats = fstatSync(fd);
    if (!stats.isFile()) {
      throw new LegerError("BAD_DATA", `${path}: this is not a file`, {
        hints: ["name a quadlet, or its directory"],
      });
    }
    if (stats.size > MAX_UNIT_BYTES) {
      throw new LegerError("BAD_DATA", `${path}: this is larger than 1 MiB`, { hints: ["no quadlet is"] });
    }
    const bytes = readFileSync(fd);
    if (bytes.includes(0)) {
      throw new LegerError("BAD_DATA", `${path}: this is not text: it holds NUL bytes`);
    }
    return bytes;
  } catch (error) {
    if (error instanceof LegerError) throw error;
    throw unreadable(path, error);
  } finally {
    closeSync(fd);
  }
}

function unreadable(path: string, error: unknown): LegerError {
  const code = systemCode(error) ?? "unknown error";
  const why =
    {
      ENOENT: "no such file",
      ELOOP: "its symlinks go round in a circle",
      EACCES: "not allowed to read it",
      ENXIO: "this is not a file",
    }[code] ?? code;
  return new LegerError("IO", `cannot read ${path}: ${why}`, { cause: error });
}

/** Directories, and symlinks, which may lead to some. */
function directoriesIn(directory: string): string[] {
  const entries = readdirSync(directory, { withFileTypes: true });
  const names = entries.flatMap((entry) => (entry.isDirectory() || entry.isSymbolicLink() ? entry.name : []));
  return names.toSorted(byBytes);
}

/** Sorted, as Go's os.ReadDir gives them. A directory that is missing has none. IO for one that cannot be read. */
function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory).toSorted(byBytes);
  } catch (error) {
    const code = systemCode(error);
    if (code === "ENOENT" || code === "ENOTDIR") return [];
    throw unreadable(directory, error);
  }
}

function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
