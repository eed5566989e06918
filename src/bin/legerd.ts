#!/usr/bin/env node
/** legerd — the daemon's entry point. */
import path from "node:path";
import { parseArgs } from "node:util";
import { setFlagsFromString } from "node:v8";
import { exitStatusOf, framesOf, LegerError, speak } from "../core/error.ts";
import { nodeFiles } from "../core/files-node.ts";
import { homeDirectory, runtimePlaces, worldOf, type World } from "../core/paths.ts";
import { userName } from "../core/user-name.ts";
import { VERSION, versionLine } from "../core/version.ts";
import { readConfig, type DaemonConfig, type DoorConfig } from "../daemon/config.ts";
import { startLegerd } from "../daemon/legerd.ts";
import { inheritedSockets, LISTEN_VARIABLES, tellReady } from "../daemon/systemd.ts";

/** Shorter than systemd's patience, and than the 5 s within which a stop has to be over. */
const STOP_GRACE_MS = 4_500;

/** What legerd.socket calls the door that is there without a configuration. */
const DEFAULT_DOOR = "legerd";

const HELP = `legerd ${VERSION}: keeps secrets, encrypted and versioned, and answers at a unix socket

Usage:
  legerd [--config FILE] [--state DIR] [--socket PATH]
  legerd check [--state DIR] [--json]     verify every row of the store, and change nothing
  legerd backup FILE [--recipient KEY | --recipients-file FILE | --passphrase-file FILE] [--force] [--state DIR] [--json]
                                          seal the whole store into one file, main key included; also while it runs
  legerd restore FILE [--passphrase-file FILE | --identity-file FILE] [--state DIR] [--json]
                                          make a store of a backup, in an empty directory, and verify every row
  legerd salvage --to DIR [--state DIR] [--json]
                                          write what can be read of a damaged store to a new one, and leave the old as it is
  legerd rekey [--print] [--state DIR]    put a new main key in the place of the old one, while no legerd runs
  legerd export --to-setec FILE --key-file FILE [--force] [--state DIR] [--json]
                                          write all secrets as setec's own database
  legerd import --from-setec FILE --key-file FILE [--state DIR] [--json]
                                          take in all secrets of setec's database, while no legerd runs

Options:
  --config FILE           configuration (default: ~/.config/leger/legerd.json, /etc/leger/legerd.json for root)
  --state DIR             where the store lies (default: ~/.local/state/legerd, /var/lib/legerd for root)
  --socket PATH           where to listen (default: $XDG_RUNTIME_DIR/leger/legerd.sock, /run/leger/legerd.sock for root)
  --recipient KEY         seal to this age recipient (age1…) in place of a passphrase; may be repeated
  --recipients-file FILE  the same for recipients in a file, a line each
  --passphrase-file FILE  the passphrase stands in this file, which may be a pipe; - is standard input (default: it is asked for)
  --identity-file FILE    what opens a backup that was sealed to a recipient, as age-keygen writes it
  --force                 put the backup in the place of a file that is there
  --print                 write the new main key to a pipe instead, for a credential; the old one goes once the new one is used
  --to DIR                where the new store goes: a directory that is empty, or not there yet
  --to-setec FILE         the database to write
  --from-setec FILE       the database to read
  --key-file FILE         32 bytes, or a line of base64, that setec's keyset is encrypted with
  --json                  the result as JSON
  --help, --version

Examples:
  legerd
  legerd --state /tmp/try/state --socket /tmp/try/run/legerd.sock
  legerd check
  legerd backup /media/stick/legerd.backup
  legerd backup --recipient age1… /srv/backup/legerd.age
  legerd restore /media/stick/legerd.backup
`;

type Options = { config?: string; state?: string; socket?: string };

async function main(): Promise<void> {
  // V8 would double its nursery to 64 MiB under load, for a tenth more requests a second.
  setFlagsFromString("--semi-space-growth-factor=1");
  // And would let the heap double before it looks for old garbage, of which there are tens of MiB then.
  setFlagsFromString("--heap-growing-percent=20");
  // Whatever is made from here on is for this user alone.
  process.umask(0o077);
  // Node would open its debugger to every user of this machine, and with it all secrets.
  process.on("SIGUSR1", () => {});
  // Whoever read what it says may have gone; that is no reason to stop serving.
  process.stderr.on("error", () => {});
  process.stdout.on("error", () => (process.exitCode = exitStatusOf(new LegerError("IO", ""))));
  const { values, positionals } = parse(process.argv.slice(2));
  if (values.help === true) return void process.stdout.write(HELP);
  if (values.version === true) return void process.stdout.write(`${versionLine("legerd")}\n`);
  if (positionals.length > 0) {
    // Loaded when it is needed: what serves needs none of it.
    const { runCommand } = await import("./legerd-commands.ts");
    const status = await runCommand(positionals, values);
    if (status !== 0) process.exitCode = status;
    return;
  }
  const { config, state, socket, ...others } = values;
  const [other] = Object.keys(others);
  if (other !== undefined) throw usage(`legerd takes no option --${other} without a command`);
  await serve({
    ...(config === undefined ? {} : { config: path.resolve(config) }),
    ...(state === undefined ? {} : { state: path.resolve(state) }),
    ...(socket === undefined ? {} : { socket: path.resolve(socket) }),
  });
}

async function serve(options: Options): Promise<void> {
  const world = worldOf(process.env, nodeFiles);
  const file = options.config ?? path.join(homeDirectory("config", world), "legerd.json");
  const config = await readConfig(file);
  if (config === undefined && options.config !== undefined) {
    throw new LegerError("CONFIG", `read ${file}: there is no such file`);
  }
  const doors = doorsOf(options, config, world);
  const tcpDoors = config?.tcpDoors ?? [];
  const inherited = inheritedSockets(process.env, process.pid);
  for (const name of LISTEN_VARIABLES) delete process.env[name];
  // Before it is ready, so that whoever waits for that can stop it in order at once.
  const stopped = nextSignal();
  const daemon = await startLegerd({
    version: VERSION,
    stateDir: options.state ?? homeDirectory("state", world),
    credentialsDir: process.env["CREDENTIALS_DIRECTORY"],
    doors,
    tcpDoors,
    inherited,
    cacheEntries: config?.cacheEntries,
    snapshotMs: config?.snapshotMs,
    audit: config?.audit,
    log,
  });
  const addresses = [...daemon.sockets, ...tcpDoors.map(({ tcp }) => `${tcp.address}:${tcp.port}`)];
  log(`legerd: ready: ${addresses.join(", ")}`);
  const stopping = new AbortController();
  const count = addresses.length === 1 ? "one door" : `${addresses.length} doors`;
  const told = tellReady(process.env, `answers at ${count}`, stopping.signal);
  // Being stopped, or failing, may come before systemd has been told.
  const signal = await Promise.race([stopped, daemon.failed, told.then(() => stopped)]);
  stopping.abort();
  log(`legerd: ${signal}: finishing what is under way`);
  await daemon.stop(STOP_GRACE_MS);
}

function log(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** The configured doors, or the default one: everything, for the user who runs this. */
function doorsOf({ socket }: Options, config: DaemonConfig | undefined, world: World): readonly DoorConfig[] {
  if (config?.doors !== undefined) {
    if (socket === undefined) return config.doors;
    throw usage("--socket cannot be given beside a configuration that names doors");
  }
  const unix = socket ?? runtimePlaces(world).socket;
  return [{ name: DEFAULT_DOOR, unix, mode: 0o600, principal: userName(), grants: undefined }];
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        config: { type: "string" },
        state: { type: "string" },
        socket: { type: "string" },
        json: { type: "boolean" },
        force: { type: "boolean" },
        print: { type: "boolean" },
        to: { type: "string" },
        "to-setec": { type: "string" },
        "from-setec": { type: "string" },
        "key-file": { type: "string" },
        recipient: { type: "string", multiple: true },
        "recipients-file": { type: "string" },
        "passphrase-file": { type: "string" },
        "identity-file": { type: "string" },
        help: { type: "boolean", short: "h" },
        version: { type: "boolean" },
      },
    });
  } catch (cause) {
    // parseArgs' own words, of which the first sentence says it all.
    const said = cause instanceof Error ? (cause.message.split(/\. |\n/)[0] ?? "") : "wrong arguments";
    throw usage(lowerFirst(said));
  }
}

function usage(what: string): LegerError {
  return new LegerError("USAGE", what, { hints: ["see legerd --help"] });
}

function lowerFirst(text: string): string {
  return text.slice(0, 1).toLowerCase() + text.slice(1);
}

function nextSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, resolve);
    // The terminal that started it may close; the daemon stays.
    process.on("SIGHUP", () => {});
  });
}

main().catch((error: unknown) => {
  process.stderr.write(speak(error, "legerd"));
  if (process.env["LEGER_DEBUG"] === "1") process.stderr.write(framesOf(error));
  // Whatever still listens or waits is of no use any more.
  process.exit(exitStatusOf(error));
});
