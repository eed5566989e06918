/** hot — the commands that Podman and units wait for: their arguments, their help, and what they print. */

import { resolve } from "node:path";
import { parseArgs } from "node:util";
import type { EnvDialect } from "../core/env-file.ts";
import { LegerError } from "../core/error.ts";
import { assertSafeSocket, runtimePlaces, type World } from "../core/paths.ts";
import { VERSION } from "../core/version.ts";
import type { Wire } from "../core/wire.ts";
import { list, lookup, remove, store, type DriverNeeds } from "../driver/driver.ts";
import { fetchEnvFile, removeEnvFile, type EnvFilePlace } from "../fetch/fetch.ts";

/** What each runtime brings. */
export type HotWorld = World & {
  wireTo: (socketPath: string) => Wire;
  stdin: () => AsyncIterable<Uint8Array>;
  /** Resolves when all bytes are on their way to whoever reads standard output. */
  print: (bytes: Uint8Array) => Promise<void>;
  /** The text of /proc/self/cgroup. */
  cgroup: () => string | undefined;
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

const SHARED_OPTIONS = { socket: { type: "string" }, help: { type: "boolean", short: "h" } } as const;

async function driver(args: readonly string[], world: HotWorld): Promise<void> {
  const seeHelp = "see leger driver --help";
  const { values, positionals } = orUsage("driver", seeHelp, () =>
    parseArgs({ args: [...args], allowPositionals: true, options: SHARED_OPTIONS }),
  );
  if (values.help === true) return world.print(Buffer.from(DRIVER_HELP));
  const [verb, ...extra] = positionals;
  if (extra.length > 0) throw usage("driver", "too many arguments", seeHelp);
  const needs = (): DriverNeeds => ({
    wire: safeWire(values.socket, world),
    env: world.env,
    remainingMs: world.remainingMs,
  });
  switch (verb) {
    case "lookup":
      return world.print((await lookup(needs())).reveal());
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

async function fetch(args: readonly string[], world: HotWorld): Promise<void> {
  const seeHelp = "see leger secrets fetch --help";
  const { values, positionals } = orUsage("secrets fetch", seeHelp, () =>
    parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        ...SHARED_OPTIONS,
        dir: { type: "string" },
        dialect: { type: "string" },
        "print-path": { type: "boolean" },
        remove: { type: "boolean" },
        "allow-disk": { type: "boolean" },
      },
    }),
  );
  if (values.help === true) return world.print(Buffer.from(FETCH_HELP));
  const wrong = (what: string): LegerError => usage("secrets fetch", what, seeHelp);
  const [service, ...extra] = positionals;
  if (service === undefined) throw wrong("no service");
  if (extra.length > 0) throw wrong("too many arguments");
  if (values.dir === "") throw wrong("--dir is empty");
  const place: EnvFilePlace = {
    service,
    runtimeDir: runtimePlaces(world).runtimeDir,
    euid: world.euid,
    ...(values.dir === undefined ? {} : { directory: values.dir }),
  };
  if (values.remove === true) {
    if (values["print-path"] === true) throw wrong("--print-path and --remove exclude each other");
    return removeEnvFile(place);
  }
  const dialect = dialectOf(values.dialect ?? "podman");
  if (dialect === undefined)
    throw wrong(`unknown dialect ${JSON.stringify(values.dialect)}: podman or systemd`);
  const { env, remainingMs } = world;
  const path = await fetchEnvFile(
    { wire: safeWire(values.socket, world), env, cgroup: world.cgroup(), remainingMs },
    { ...place, dialect, allowDisk: values["allow-disk"] ?? false },
  );
  if (values["print-path"] === true) await world.print(Buffer.from(`${path}\n`));
}

/** A wire that looks who owns the socket each time before it connects. */
function safeWire(flag: string | undefined, world: HotWorld): Wire {
  const named = flag ?? world.env["LEGER_SOCKET"] ?? "";
  if (flag === "") throw usage("--socket", "it is empty", "name legerd's socket");
  const socketPath = named === "" ? runtimePlaces(world).socket : resolve(named);
  return {
    async request(request) {
      // Somebody who names a socket may mean a door that his group shares.
      assertSafeSocket(socketPath, { euid: world.euid, groupMayConnect: named !== "" });
      return world.wireTo(socketPath).request(request);
    },
  };
}

function dialectOf(name: string): EnvDialect | undefined {
  return name === "podman" || name === "systemd" ? name : undefined;
}

/** parseArgs' own words, of which the first sentence says it all. */
function orUsage<T>(command: string, hint: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    const said = error instanceof TypeError ? (error.message.split(/\. |\n/)[0] ?? "") : "wrong arguments";
    throw usage(command, said.slice(0, 1).toLowerCase() + said.slice(1).replace(/\.$/, ""), hint);
  }
}

function usage(command: string, what: string, ...hints: string[]): LegerError {
  return new LegerError("USAGE", `${command}: ${what}`, { hints });
}
