/** containers-conf — the containers.conf files that Podman reads, in its order, and what they say of secrets. */
import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { parse as parseToml, TomlError } from "smol-toml";
import { systemCode } from "../core/error.ts";
import { runtimePlaces } from "../core/paths.ts";
import { podmanHas, type PodmanRelease } from "../core/podman-release.ts";
import type { DriverCommands } from "./driver-commands.ts";
import { systemPath, type CliWorld } from "./world.ts";

/** One setting of `[secrets]`: "driver", or "opts.lookup". */
type Setting = { file: string; key: string; value: unknown };

export type SecretsConf = {
  /** Those that are there, in the order in which Podman reads them. */
  files: readonly string[];
  /** Where two set the same key, the later one holds. */
  settings: readonly Setting[];
  /** Files for which Podman itself gives up. */
  unusable: readonly ConfFault[];
  /** What CONTAINERS_CONF names: beside it Podman reads nothing else. */
  only: string | undefined;
};

export type ConfFault = {
  file: string;
  /** The setting; undefined where the whole file is at fault. */
  key: string | undefined;
  what: string;
  remedy: string;
};

/** A file's text as it would be. */
export type AssumedFile = { file: string; text: string };

/**
 * What a Podman of this release, run as `world` is, finds. `assumed` stands for a file that is written only later, or
 * not at all. Modules (`podman --module`) are a command line's own business and are left out.
 */
export function readSecretsConf(world: CliWorld, release: PodmanRelease, assumed?: AssumedFile): SecretsConf {
  const files: string[] = [];
  const settings: Setting[] = [];
  const unusable: ConfFault[] = [];
  const wrong: Wrong = (file, what, remedy) => {
    unusable.push({ file, key: undefined, what: `${what}, and Podman gives up over it`, remedy });
  };
  for (const { file, variable } of candidates(world, release, assumed, wrong)) {
    const text = file === assumed?.file ? assumed.text : textOf(file, wrong);
    if (text === undefined) {
      if (variable !== undefined) wrong(file, `${variable} names it, it isn't there`, `unset ${variable}`);
      continue;
    }
    if (text === UNREADABLE) continue;
    files.push(file);
    try {
      settings.push(...settingsIn(file, parseToml(text)));
    } catch (error) {
      // Its message quotes the line.
      const where = error instanceof TomlError ? ` (line ${error.line})` : "";
      wrong(file, `it isn't TOML${where}`, "mend it");
    }
  }
  return { files, settings, unusable, only: given(world.env["CONTAINERS_CONF"]) };
}

/** The value that holds, and the file that says so. */
export function settingOf({ settings }: SecretsConf, key: string): Setting | undefined {
  return settings.findLast((setting) => setting.key === key);
}

/** What keeps Podman from using these commands as its default driver, though `dropIn` says so. Empty: nothing. */
export function faultsOf(
  conf: SecretsConf,
  { dropIn, commands }: { dropIn: string; commands: DriverCommands },
): ConfFault[] {
  const faults = [...conf.unusable];
  if (!conf.files.includes(dropIn)) {
    const twin = conf.files.find((file) => basename(file) === basename(dropIn));
    if (conf.only !== undefined) {
      const what = "CONTAINERS_CONF names it, and Podman reads no drop-in beside it";
      faults.push({ file: conf.only, key: undefined, what, remedy: "unset CONTAINERS_CONF" });
    } else if (twin !== undefined) {
      const what = "it has the name of leger's file and takes its place";
      faults.push({ file: twin, key: undefined, what, remedy: "remove it, or give it another name" });
    }
    return faults;
  }
  const driver = settingOf(conf, "driver");
  if (driver !== undefined && driver.value !== "shell") {
    faults.push({
      file: driver.file,
      key: "driver",
      what: `it comes after leger's file and sets another driver${wordOf(driver.value)}`,
      remedy: 'take "driver" out of [secrets] there',
    });
  }
  const known = new Map<string, string>(Object.entries(commands));
  for (const key of new Set(conf.settings.map((setting) => setting.key))) {
    if (!key.startsWith("opts.")) continue;
    const option = key.slice("opts.".length);
    const command = known.get(option);
    const holds = settingOf(conf, key);
    if (holds === undefined) continue;
    if (command === undefined) {
      // Once one file has it, no other file can take it back.
      for (const { file } of conf.settings.filter((setting) => setting.key === key)) {
        faults.push({
          file,
          key,
          what: `its option${wordOf(option)} of another driver makes Podman refuse the shell driver`,
          remedy: `take${wordOf(option)} out of [secrets.opts] there`,
        });
      }
    } else if (holds.value !== command) {
      faults.push({
        file: holds.file,
        key,
        what: `it sets another command${wordOf(option)} than leger's`,
        remedy: `take${wordOf(option)} out of [secrets.opts] there`,
      });
    }
  }
  return faults;
}

/** Where a user's Podman looks for its configuration: `~/.config/containers`. Undefined where nothing tells. */
export function userContainersDir({ env, cwd, userConfigDir }: CliWorld): string | undefined {
  const own = given(env["XDG_CONFIG_HOME"]);
  if (own !== undefined) return join(resolve(cwd, own), "containers");
  const home = env["HOME"] ?? "";
  if (home.startsWith("/")) return join(home, ".config", "containers");
  return userConfigDir === undefined ? undefined : join(dirname(userConfigDir), "containers");
}

type Candidate = { file: string; variable?: "CONTAINERS_CONF" | "CONTAINERS_CONF_OVERRIDE" };
type Wrong = (file: string, what: string, remedy: string) => void;

/** Files that may or may not be there; those of directories are. common/pkg/config of 4.3, 4.9, 5.0, 5.4, 5.7, 5.8. */
function candidates(
  world: CliWorld,
  release: PodmanRelease,
  assumed: AssumedFile | undefined,
  wrong: Wrong,
): Candidate[] {
  const { account } = runtimePlaces(world);
  const usr = systemPath(world, "/usr/share/containers");
  const etc = systemPath(world, "/etc/containers");
  const own = userContainersDir(world);
  const inDirectory = (directory: string): string[] =>
    dropInsOf(directory, podmanHas("confSorted", release), assumed, wrong);

  const found: Candidate[] = [];
  const only = given(world.env["CONTAINERS_CONF"]);
  if (only !== undefined) found.push({ file: resolve(world.cwd, only), variable: "CONTAINERS_CONF" });
  else if (podmanHas("confSorted", release)) {
    found.push(...sortedFiles({ usr, etc, own, account, inDirectory, assumed }).map((file) => ({ file })));
  } else {
    const home = account.kind === "user" || podmanHas("confOfRoot", release) ? own : undefined;
    const rootless = join(etc, "containers.rootless.conf");
    const files = [
      join(usr, MAIN),
      join(etc, MAIN),
      ...inDirectory(join(etc, `${MAIN}.d`)),
      ...(account.kind === "user" && podmanHas("confRootless", release)
        ? [
            rootless,
            ...inDirectory(`${rootless}.d`),
            ...inDirectory(join(`${rootless}.d`, String(account.uid))),
          ]
        : []),
      ...(home === undefined ? [] : [join(home, MAIN), ...inDirectory(join(home, `${MAIN}.d`))]),
    ];
    found.push(...files.map((file) => ({ file })));
  }
  const last = given(world.env["CONTAINERS_CONF_OVERRIDE"]);
  if (last !== undefined && podmanHas("confOverride", release)) {
    found.push({ file: resolve(world.cwd, last), variable: "CONTAINERS_CONF_OVERRIDE" });
  }
  return found;
}

const MAIN = "containers.conf";

/** Since 6.0 (storage/pkg/configfile): the nearest main file alone, then drop-ins by name; of one name, the nearest. */
function sortedFiles({
  usr,
  etc,
  own,
  account,
  inDirectory,
  assumed,
}: {
  usr: string;
  etc: string;
  own: string | undefined;
  account: ReturnType<typeof runtimePlaces>["account"];
  inDirectory: (directory: string) => string[];
  assumed: AssumedFile | undefined;
}): string[] {
  const main = [...(own === undefined ? [] : [own]), etc, usr]
    .map((directory) => join(directory, MAIN))
    .find((file) => file === assumed?.file || isThere(file));
  const byName = new Map<string, string>();
  const ofSystem = (base: string): string[] => {
    const special = join(base, `containers.root${account.kind === "user" ? "less" : "ful"}.conf.d`);
    const uid = account.kind === "user" ? [join(special, String(account.uid))] : [];
    return [join(base, `${MAIN}.d`), special, ...uid];
  };
  const home = own === undefined ? [] : [join(own, `${MAIN}.d`)];
  for (const directory of [...ofSystem(usr), ...ofSystem(etc), ...home]) {
    for (const file of inDirectory(directory)) byName.set(basename(file), file);
  }
  const names = [...byName.keys()].toSorted(byBytes);
  return [...(main === undefined ? [] : [main]), ...names.map((name) => byName.get(name) ?? name)];
}

/** Go sorts by bytes. */
function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

/** The `*.conf` of a directory, sorted. Since 6.0 symlinks are passed over. */
function dropInsOf(
  directory: string,
  filesOnly: boolean,
  assumed: AssumedFile | undefined,
  wrong: Wrong,
): string[] {
  const names = new Set<string>();
  try {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const counts = filesOnly ? entry.isFile() : !entry.isDirectory();
      if (counts && entry.name.endsWith(".conf")) names.add(entry.name);
    }
  } catch (error) {
    const code = systemCode(error);
    if (code !== "ENOENT") wrong(directory, `it cannot be read (${code ?? "unknown error"})`, READABLE);
  }
  if (assumed !== undefined && dirname(assumed.file) === directory) names.add(basename(assumed.file));
  return [...names].toSorted(byBytes).map((name) => join(directory, name));
}

const UNREADABLE = Symbol("unreadable");

const READABLE = "remove it, or let Podman's user read it";

/** More than any containers.conf has. */
const MAX_CONF_BYTES = 4 * 1024 * 1024;

/** Undefined where there is none. */
function textOf(file: string, wrong: Wrong): string | typeof UNREADABLE | undefined {
  let fd: number;
  try {
    // O_NONBLOCK: a pipe must not keep us waiting.
    fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const code = systemCode(error);
    if (code === "ENOENT") return undefined;
    wrong(file, `it cannot be read (${code ?? "unknown error"})`, READABLE);
    return UNREADABLE;
  }
  try {
    const stats = fstatSync(fd);
    if (stats.isFile() && stats.size <= MAX_CONF_BYTES) return readFileSync(fd, "utf8");
    wrong(file, stats.isFile() ? "it is larger than 4 MiB" : "it is not a file", "remove it");
    return UNREADABLE;
  } catch (error) {
    wrong(file, `it cannot be read (${systemCode(error) ?? "unknown error"})`, READABLE);
    return UNREADABLE;
  } finally {
    closeSync(fd);
  }
}

function isThere(file: string): boolean {
  try {
    closeSync(openSync(file, constants.O_RDONLY | constants.O_NONBLOCK));
    return true;
  } catch (error) {
    return systemCode(error) !== "ENOENT";
  }
}

function settingsIn(file: string, document: unknown): Setting[] {
  const secrets = fieldOf(document, "secrets");
  const driver = fieldOf(secrets, "driver");
  const options = fieldOf(secrets, "opts");
  return [
    ...(driver === undefined || driver === "" ? [] : [{ file, key: "driver", value: driver }]),
    ...(isTable(options)
      ? Object.entries(options).map(([option, value]) => ({ file, key: `opts.${option}`, value }))
      : []),
  ];
}

/** Podman's TOML reader takes `[Secrets]` for `[secrets]`, where there is none of those; keys of opts stay as they are. */
function fieldOf(table: unknown, name: string): unknown {
  if (!isTable(table)) return undefined;
  if (Object.hasOwn(table, name)) return table[name];
  return Object.entries(table).find(([key]) => key.toLowerCase() === name)?.[1];
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** For messages: a short word as it is, quoted; nothing of what may be a value pasted there. */
function wordOf(value: unknown): string {
  return typeof value === "string" && /^[A-Za-z][\w.-]{0,31}$/.test(value) ? ` "${value}"` : "";
}

/** Podman takes an empty variable for none. */
function given(text: string | undefined): string | undefined {
  return text === "" ? undefined : text;
}
