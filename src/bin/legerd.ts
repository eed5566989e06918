#!/usr/bin/env node
/** legerd — the daemon's entry point. */
import * as os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { setFlagsFromString } from "node:v8";
import { exitStatusOf, framesOf, LegerError, speak } from "../core/error.ts";
import { nodeFiles } from "../core/files-node.ts";
import { homeDirectory, runtimePlaces, worldOf, type World } from "../core/paths.ts";
import { VERSION, versionLine } from "../core/version.ts";
import { readConfig, type DaemonConfig, type DoorConfig } from "../daemon/config.ts";
import { startLegerd } from "../daemon/legerd.ts";
import { inheritedSockets, LISTEN_VARIABLES, tellReady } from "../daemon/systemd.ts";
import { checkStore } from "../store/check.ts";

/** Shorter than systemd's patience, and than the 5 s within which a stop has to be over. */
const STOP_GRACE_MS = 4_500;

/** What legerd.socket calls the door that is there without a configuration. */
const DEFAULT_DOOR = "legerd";

const HELP = `legerd ${VERSION}: keeps secrets, encrypted and versioned, and answers at a unix socket

Usage:
  legerd [--config FILE] [--state DIR] [--socket PATH]
  legerd check [--state DIR] [--json]     verify every row of the store, and change nothing

Options:
  --config FILE   configuration (default: ~/.config/leger/legerd.json, /etc/leger/legerd.json for root)
  --state DIR     where the store lies (default: ~/.local/state/legerd, /var/lib/legerd for root)
  --socket PATH   where to listen (default: $XDG_RUNTIME_DIR/leger/legerd.sock, /run/leger/legerd.sock for root)
  --json          check: the result as JSON
  --help, --version

Examples:
  legerd
  legerd --state /tmp/try/state --socket /tmp/try/run/legerd.sock
  legerd check
`;

type Options = { config?: string; state?: string; socket?: string; json: boolean };

async function main(): Promise<void> {
  // V8 would double its nursery to 64 MiB under load, for a tenth more requests a second.
  setFlagsFromString("--semi-space-growth-factor=1");
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
  const { config, state, socket, json = false } = values;
  const options: Options = {
    json,
    ...(config === undefined ? {} : { config: path.resolve(config) }),
    ...(state === undefined ? {} : { state: path.resolve(state) }),
    ...(socket === undefined ? {} : { socket: path.resolve(socket) }),
  };
  const [command, ...rest] = positionals;
  if (rest.length > 0 || (command !== undefined && command !== "check")) {
    throw usage(`unknown argument ${JSON.stringify(rest[0] ?? command)}`);
  }
  if (command === "check") await check(options);
  else await serve(options);
}

async function serve(options: Options): Promise<void> {
  const world = worldOf(process.env, nodeFiles);
  const file = options.config ?? path.join(homeDirectory("config", world), "legerd.json");
  const config = await readConfig(file);
  if (config === undefined && options.config !== undefined) {
    throw new LegerError("CONFIG", `read ${file}: there is no such file`);
  }
  const doors = doorsOf(options, config, world);
  const inherited = inheritedSockets(process.env, process.pid);
  for (const name of LISTEN_VARIABLES) delete process.env[name];
  // Before it is ready, so that whoever waits for that can stop it in order at once.
  const stopped = nextSignal();
  const daemon = await startLegerd({
    version: VERSION,
    stateDir: options.state ?? homeDirectory("state", world),
    credentialsDir: process.env["CREDENTIALS_DIRECTORY"],
    doors,
    inherited,
    cacheEntries: config?.cacheEntries,
    log,
  });
  log(`legerd: ready: ${doors.map(({ unix }) => unix).join(", ")}`);
  const stopping = new AbortController();
  const count = doors.length === 1 ? "one door" : `${doors.length} doors`;
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

async function check({ state, json }: Options): Promise<void> {
  const stateDir = state ?? homeDirectory("state", worldOf(process.env, nodeFiles));
  const result = await checkStore({ stateDir, credentialsDir: process.env["CREDENTIALS_DIRECTORY"] });
  const { problems, ...counts } = result;
  if (json) {
    process.stdout.write(
      `${JSON.stringify({ schema_version: 1, ok: problems.length === 0, ...counts, problems })}\n`,
    );
  } else {
    for (const problem of problems) process.stdout.write(`${problem}\n`);
    const sums = Object.entries(counts).map(([what, count]) => `${count} ${what}`);
    const verdict =
      problems.length === 0 ? "every row is as legerd wrote it" : `problems: ${problems.length}`;
    process.stderr.write(`legerd: ${stateDir}: ${sums.join(", ")}; ${verdict}\n`);
  }
  if (problems.length > 0) process.exitCode = exitStatusOf(new LegerError("DAMAGED", ""));
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

/** A container's user may have no line in /etc/passwd. */
function userName(): string {
  try {
    return os.userInfo().username;
  } catch {
    return `uid ${process.geteuid?.() ?? "unknown"}`;
  }
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
