/** hot — the commands that Podman and units wait for: their arguments, their help, and what they print. */

import type { EnvDialect } from "../core/env-file.ts";
import { LegerError } from "../core/error.ts";
import type { Files } from "../core/files.ts";
import { assertSafeSocket, runtimePlaces, type World } from "../core/paths.ts";
import { VERSION } from "../core/version.ts";
import type { Wire } from "../core/wire.ts";
import { list, lookup, remove, store, type DriverNeeds } from "../driver/driver.ts";
import { fetchEnvFile, removeEnvFile, type EnvFilePlace } from "../fetch/fetch.ts";

/** What each runtime brings. */
export type HotWorld = World & {
  files: Files;
  wireTo: (socketPath: string) => Wire;
  stdin: () => AsyncIterable<Uint8Array>;
  /** Resolves when all bytes are on their way to whoever reads standard output. */
  print: (bytes: Uint8Array) => Promise<void>;
  /** How long until all must be over. */
  remainingMs: () => number;
};

/**
 * The command in these arguments, or undefined where it is none of these and the whole CLI must be asked. It
 * resolves when done and fails with a LegerError, or with what `print` fails with.
 */
export function hotCommand(argv: readonly string[]): ((world: HotWorld) => Promise<void>) | undefined {
  const [first, second, ...rest] = argv;
  if (first === "driver") return (world) => driver(argv.slice(1), world);
  if (first !== "secrets" || (second !== "fetch" && second !== "fetch-for-service")) return undefined;
  return (world) => fetch(rest, world);
}

const SOCKET_HELP = `--socket PATH     legerd's socket (default: LEGER_SOCKET, else $XDG_RUNTIME_DIR/leger/legerd.sock,
                    or /run/leger/legerd.sock for root)`;

const DRIVER_HELP = `leger driver ${VERSION}: answers Podman's questions about a secret, whose id is in SECRET_ID

Usage:
  leger driver lookup   writes the secret's bytes to standard output
  leger driver store    reads from standard input what to keep: a value, or a reference to a secret
  leger driver delete   forgets the entry; a secret that it refers to stays
  leger driver list     writes the ids of all entries

Options:
  ${SOCKET_HELP}
  --help

Podman runs these; containers.conf.d/50-leger.conf says how. To try one:
  SECRET_ID=$(podman secret inspect --format '{{.ID}}' openai_api_key) leger driver lookup
  leger driver list
`;

const FETCH_HELP = `leger secrets fetch ${VERSION}: writes a service's variables to one private env file, SERVICE.env

Usage:
  leger secrets fetch SERVICE [options]     (or: leger secrets fetch-for-service SERVICE)

Options:
  --dir DIR         where to (default: $XDG_RUNTIME_DIR/leger/env, or /run/leger/env for root)
  --dialect NAME    podman: for [Container] EnvironmentFile= (default); systemd: for [Service] EnvironmentFile=
  --print-path      write the file's path to standard output
  --remove          remove the file instead; needs no daemon
  --allow-disk      also into a directory that is not on tmpfs
  ${SOCKET_HELP}
  --help

Examples:
  leger secrets fetch openwebui
  podman run --env-file "$(leger secrets fetch openwebui --print-path)" …
  ExecStartPre=/usr/bin/leger secrets fetch openwebui
  ExecStopPost=/usr/bin/leger secrets fetch openwebui --remove
`;

/** Which options take a value, in the next argument or behind an equals sign, and which take none. */
type Options = { texts: ReadonlySet<string>; switches: ReadonlySet<string> };

const DRIVER_OPTIONS: Options = { texts: new Set(["socket"]), switches: new Set(["help"]) };

const FETCH_OPTIONS: Options = {
  texts: new Set(["socket", "dir", "dialect"]),
  switches: new Set(["help", "print-path", "remove", "allow-disk"]),
};

async function driver(args: readonly string[], world: HotWorld): Promise<void> {
  const seeHelp = "see leger driver --help";
  const { texts, switches, positionals } = parse("driver", args, DRIVER_OPTIONS, seeHelp);
  if (switches.has("help")) return world.print(Buffer.from(DRIVER_HELP));
  const [verb, ...extra] = positionals;
  if (extra.length > 0) throw usage("driver", "too many arguments", seeHelp);
  const needs = (): DriverNeeds => ({
    wire: safeWire(texts.get("socket"), world),
    env: world.env,
    remainingMs: world.remainingMs,
  });
  switch (verb) {
    case "lookup":
      return world.print((await lookup({ ...needs(), entryName: (id) => entryNameOf(id, world) })).reveal());
    case "store":
      return store({ ...needs(), stdin: world.stdin() });
    case "delete":
      return remove(needs());
    case "list":
      return world.print(Buffer.from((await list(needs())).map((id) => `${id}\n`).join("")));
    case undefined:
      throw usage("driver", "no verb", "use one of: lookup, store, delete, list", seeHelp);
    default:
      throw usage("driver", "no such verb", "use one of: lookup, store, delete, list", seeHelp);
  }
}

/** Loaded when it is needed, and with it node:fs, which would make every lookup on Bun a seventh longer. */
async function entryNameOf(id: string, world: HotWorld): Promise<string | undefined> {
  const { entryName } = await import("../driver/entry-name.ts");
  return entryName(id, { env: world.env, system: runtimePlaces(world).account.kind === "system" });
}

async function fetch(args: readonly string[], world: HotWorld): Promise<void> {
  const seeHelp = "see leger secrets fetch --help";
  const { texts, switches, positionals } = parse("secrets fetch", args, FETCH_OPTIONS, seeHelp);
  if (switches.has("help")) return world.print(Buffer.from(FETCH_HELP));
  const wrong = (what: string): LegerError => usage("secrets fetch", what, seeHelp);
  const [service, ...extra] = positionals;
  if (service === undefined) throw wrong("no service");
  if (extra.length > 0) throw wrong("too many arguments");
  const directory = texts.get("dir");
  if (directory === "") throw wrong("--dir is empty");
  const place: EnvFilePlace = {
    service,
    runtimeDir: runtimePlaces(world).runtimeDir,
    euid: world.euid,
    ...(directory === undefined ? {} : { directory }),
  };
  if (switches.has("remove")) {
    if (switches.has("print-path")) throw wrong("--print-path and --remove exclude each other");
    return removeEnvFile(place);
  }
  const named = texts.get("dialect") ?? "podman";
  const dialect = dialectOf(named);
  if (dialect === undefined) throw wrong(`unknown dialect ${JSON.stringify(named)}: podman or systemd`);
  const { env, remainingMs } = world;
  const path = await fetchEnvFile(
    {
      wire: safeWire(texts.get("socket"), world),
      env,
      cgroup: world.files.readText("/proc/self/cgroup"),
      remainingMs,
    },
    { ...place, dialect, allowDisk: switches.has("allow-disk") },
  );
  if (switches.has("print-path")) await world.print(Buffer.from(`${path}\n`));
}

/** A wire that looks who owns the socket each time before it connects. */
function safeWire(flag: string | undefined, world: HotWorld): Wire {
  const named = flag ?? world.env["LEGER_SOCKET"] ?? "";
  if (flag === "") throw usage("--socket", "it is empty", "name legerd's socket");
  const socketPath = named === "" ? runtimePlaces(world).socket : absolute(named);
  return {
    async request(request) {
      // Somebody who names a socket may mean a door that his group shares.
      const { euid, files } = world;
      assertSafeSocket(socketPath, { euid, files, groupMayConnect: named !== "" });
      return world.wireTo(socketPath).request(request);
    },
  };
}

/** Loaded only where it is needed: most lookups are for the default socket. */
function absolute(path: string): string {
  return process.getBuiltinModule("node:path").resolve(path);
}

function dialectOf(name: string): EnvDialect | undefined {
  return name === "podman" || name === "systemd" ? name : undefined;
}

type Arguments = {
  texts: ReadonlyMap<string, string>;
  switches: ReadonlySet<string>;
  positionals: readonly string[];
};

/** By hand: node:util's parseArgs would make a lookup a quarter longer (CPU time of the whole process, under Bun). */
function parse(
  command: string,
  args: readonly string[],
  { texts, switches }: Options,
  hint: string,
): Arguments {
  const found = {
    texts: new Map<string, string>(),
    switches: new Set<string>(),
    positionals: [] as string[],
  };
  const rest = [...args];
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === "--") {
      found.positionals.push(...rest);
      break;
    }
    if (!arg.startsWith("-") || arg === "-") {
      found.positionals.push(arg);
      continue;
    }
    const [, name = "", value] = /^--([^=]+)(?:=(.*))?$/s.exec(arg === "-h" ? "--help" : arg) ?? [];
    if (switches.has(name)) {
      if (value !== undefined) throw usage(command, `--${name} takes no value`, hint);
      found.switches.add(name);
    } else if (texts.has(name)) {
      const text = value ?? rest.shift();
      if (text === undefined) throw usage(command, `--${name} needs a value after it`, hint);
      found.texts.set(name, text);
    } else {
      // A key may have been pasted there: only what can be nothing but a word is repeated.
      const word = /^[a-z]+(-[a-z]+)*$/.test(name) && name.length <= 20 ? ` '--${name}'` : "";
      throw usage(command, `unknown option${word}`, hint);
    }
  }
  return found;
}

function usage(command: string, what: string, ...hints: string[]): LegerError {
  return new LegerError("USAGE", `${command}: ${what}`, { hints });
}
