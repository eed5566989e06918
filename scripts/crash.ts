/**
 * crash — kills legerd with SIGKILL amid writes, and amid what it does besides, over and over, and looks whether
 * anything acknowledged is lost.
 */
import * as fs from "node:fs";
import * as os from "node:os";
import path from "node:path";
import { checkStore } from "../src/store/check.ts";
import { AuditTail } from "./crash/audit-tail.ts";
import { openConnection, type Connection } from "./crash/connection.ts";
import { AMIDS, killMaintenance } from "./crash/maintenance.ts";
import { ABSENT, makeItems, pick, randomFrom, type Item, type Random } from "./crash/model.ts";
import { observe, type Seen } from "./crash/observe.ts";
import { launchLegerd, LEGERD, type LegerdProcess } from "./support/legerd-process.ts";
import { readOptions, runScript, wholeNumber } from "./support/script.ts";

const HELP = `usage: node scripts/crash.ts [--kills N] [--writers N] [--seed N] [--entry FILE]

  --kills N     how many times legerd is killed while it is written to (default 200)
  --writers N   how many write at once, each over a connection of its own (default 64)
  --seed N      repeats a run's choices, though not its moments (default: the time)
  --entry FILE  what to run as legerd (default: src/bin/legerd.ts)
`;

/** Longest the writers write from the first answer on. */
const MAX_LOAD_MS = 120;
/** Each so many kills, the restart is killed, too, at a moment before this. */
const RESTART_KILL_EVERY = 10;
const MAX_RESTART_MS = 200;
/** Each so many kills, one of a change of the main key, a backup, a restore or an upgrade, in turn. */
const MAINTENANCE_EVERY = 4;
/** Each so many kills, all values are read, not only those that changed. */
const READ_ALL_EVERY = 10;
const PROGRESS_EVERY = 10;
const MAX_FAULTS_SHOWN = 20;

type Options = { kills: number; writers: number; seed: number; entry: string };
/** What must be there, and what was there when we looked last. */
type Expected = { items: ReadonlyMap<string, Item>; audit: AuditTail; seen: Seen };
type Places = { base: string; stateDir: string; socket: string };

/** What happened so far. */
type Tally = {
  kills: number;
  /** Kills, besides, before legerd was ready again. */
  restartKills: number;
  /** Kills, besides, of what legerd does while it doesn't serve, and how many of those came before its end. */
  maintenanceKills: number;
  maintenanceHits: number;
  acknowledged: number;
  /** Kills that hit at least one write on its way, and how many writes those were. */
  hits: number;
  unanswered: number;
  carriedOut: number;
  /** Things that are not as they must be. */
  lost: number;
};

async function main(): Promise<void> {
  const options = parse(process.argv.slice(2));
  if (options === undefined) return void process.stdout.write(HELP);
  const base = fs.mkdtempSync(path.join(os.tmpdir(), "leger-crash-"));
  fs.mkdirSync(path.join(base, "run"), { mode: 0o700 });
  const places = {
    base,
    stateDir: path.join(base, "state"),
    socket: path.join(base, "run", "legerd.sock"),
  };
  const tally: Tally = {
    kills: 0,
    restartKills: 0,
    maintenanceKills: 0,
    maintenanceHits: 0,
    acknowledged: 0,
    hits: 0,
    unanswered: 0,
    carriedOut: 0,
    lost: 0,
  };
  const startedAt = performance.now();
  const faults = await run(options, places, tally).catch((error: unknown) => [messageOf(error)]);
  if (tally.hits === 0) faults.push("no kill hit a write on its way: this run has shown nothing");
  for (const fault of faults.slice(0, MAX_FAULTS_SHOWN)) process.stdout.write(`crash: ${fault}\n`);
  if (faults.length > MAX_FAULTS_SHOWN)
    process.stdout.write(`crash: and ${faults.length - MAX_FAULTS_SHOWN} more\n`);
  if (faults.length > 0) {
    process.stdout.write(`crash: seed ${options.seed}; everything is kept in ${base}\n`);
    process.exitCode = 1;
  } else {
    fs.rmSync(base, { recursive: true, force: true });
  }
  process.stdout.write(
    `crash: ${summarize(tally, faults.length, (performance.now() - startedAt) / 1_000)}\n`,
  );
}

/** All the kills, or those up to the first that did harm; returns a sentence for each fault. */
async function run(options: Options, places: Places, tally: Tally): Promise<string[]> {
  const random = randomFrom(options.seed);
  const writers = Array.from({ length: options.writers }, (_, at) => ({
    items: makeItems(at),
    random: randomFrom(options.seed + 1 + at),
  }));
  const items = new Map(writers.flatMap((writer) => writer.items.map((item) => [item.label, item])));
  const audit = new AuditTail(path.join(places.stateDir, "audit.log"));
  const expected: Expected = { items, audit, seen: new Map() };

  // The first one ends well, which also fills Node's cache of compiled modules: a third of the start-up time.
  let daemon = await start(options, places);
  const faults = await verify(expected, await connect(places, 1), places, tally);
  faults.push(...(await endWell(daemon)));
  daemon = await start(options, places);
  let connections: Connection[] = [];
  try {
    connections = await connect(places, options.writers);
    while (tally.kills < options.kills && faults.length === 0) {
      faults.push(...(await killAmidWrites(daemon, writers, connections, random, tally)));
      if (tally.kills % RESTART_KILL_EVERY === 0) await killRestart(options, places, random, tally);
      if (tally.kills % MAINTENANCE_EVERY === 0) {
        const amid = AMIDS[(tally.kills / MAINTENANCE_EVERY) % AMIDS.length] ?? "rekey";
        const ground = { base: places.base, stateDir: places.stateDir, entry: options.entry };
        const { hit, faults: found } = await killMaintenance(amid, ground, random);
        tally.maintenanceKills += 1;
        if (hit) tally.maintenanceHits += 1;
        faults.push(...found);
      }
      daemon = await start(options, places);
      connections = await connect(places, options.writers);
      faults.push(...(await verify(expected, connections, places, tally)));
      if (tally.kills % PROGRESS_EVERY === 0) {
        const progress = `${tally.kills} of ${options.kills} kills, ${tally.acknowledged} writes acknowledged`;
        process.stderr.write(`crash: ${progress}\n`);
      }
    }
    for (const connection of connections) connection.close();
    faults.push(...(await endWell(daemon)));
    return faults;
  } finally {
    daemon.child.kill("SIGKILL");
    for (const connection of connections) connection.close();
  }
}

/** Returns a sentence for each answer that was wrong. */
async function killAmidWrites(
  daemon: LegerdProcess,
  writers: readonly Writer[],
  connections: readonly Connection[],
  random: Random,
  tally: Tally,
): Promise<string[]> {
  const loads = writers.map((writer, at) => startLoad(writer, connections[at], tally));
  // The first takes as long as the daemon's writing thread does to start.
  await Promise.race(loads.map((load) => load.firstAnswer));
  await sleep(random() * MAX_LOAD_MS);
  const onTheirWay = loads.filter((load) => load.waiting);
  daemon.child.kill("SIGKILL");
  const status = await daemon.ended;
  const wrong = await Promise.all(loads.map((load) => load.done));
  tally.kills += 1;
  // An answer may still have been in the socket when its sender died.
  if (onTheirWay.some((load) => load.waiting)) tally.hits += 1;
  const early = status === null ? [] : [`legerd ended with status ${status} before it was killed`];
  return [...early, ...wrong.filter((fault) => fault !== undefined)];
}

type Writer = { items: readonly Item[]; random: Random };
/** `waiting`: something was asked and is not answered. `done`: a sentence if something was answered wrongly. */
type Load = { waiting: boolean; firstAnswer: Promise<void>; done: Promise<string | undefined> };

/** Changes a writer's things one after the other until its connection ends. */
function startLoad({ items, random }: Writer, connection: Connection | undefined, tally: Tally): Load {
  const write = async (): Promise<string | undefined> => {
    for (;;) {
      if (connection === undefined || connection.ended) break;
      const item = pick(items, random);
      if (item === undefined) break;
      const call = item.begin(random);
      load.waiting = true;
      const reply = await connection.ask(call);
      if (reply === undefined) break;
      load.waiting = false;
      noteAnswer();
      try {
        if (item.acknowledge(reply)) tally.acknowledged += 1;
      } catch (error) {
        return messageOf(error);
      }
    }
    return undefined;
  };
  const { promise: firstAnswer, resolve: noteAnswer } = Promise.withResolvers<void>();
  const load: Load = { waiting: false, firstAnswer, done: Promise.resolve(undefined) };
  load.done = write().finally(noteAnswer);
  return load;
}

/** Compares what there is with what must be, and every row with itself. Values that nobody touched: now and then. */
async function verify(
  expected: Expected,
  connections: readonly Connection[],
  { stateDir }: Places,
  tally: Tally,
): Promise<string[]> {
  const { items, audit, seen } = expected;
  const faults: string[] = [];
  const { problems } = await checkStore({ stateDir });
  faults.push(...problems.map((problem) => `check: ${problem}`));
  const everything = tally.kills % READ_ALL_EVERY === 0;
  const known = everything ? [] : [...seen].filter(([label]) => items.get(label)?.touched() === false);
  expected.seen = await observe(connections, new Map(known));
  for (const item of items.values()) {
    const { fault, unanswered } = item.settle(expected.seen.get(item.label)?.text ?? ABSENT);
    if (unanswered !== "none") tally.unanswered += 1;
    if (unanswered === "carried out") tally.carriedOut += 1;
    if (fault === undefined) continue;
    faults.push(`lost: ${fault}`);
    tally.lost += 1;
  }
  for (const [label, { text }] of expected.seen) {
    if (!items.has(label)) faults.push(`${label} is there, "${text}", though nobody wrote it`);
  }
  faults.push(...audit.compare(items));
  return faults;
}

async function killRestart(options: Options, places: Places, random: Random, tally: Tally): Promise<void> {
  const daemon = launch(options, places);
  await Promise.race([sleep(random() * MAX_RESTART_MS), daemon.ready]);
  daemon.child.kill("SIGKILL");
  await daemon.ended;
  tally.restartKills += 1;
}

async function endWell(daemon: LegerdProcess): Promise<string[]> {
  daemon.child.kill("SIGTERM");
  const status = await daemon.ended;
  return status === 0 ? [] : [`legerd ended with status ${status} after SIGTERM`];
}

async function start(options: Options, places: Places): Promise<LegerdProcess> {
  const daemon = launch(options, places);
  try {
    await daemon.ready;
    return daemon;
  } catch (error) {
    daemon.child.kill("SIGKILL");
    throw error;
  }
}

function launch({ entry }: Options, { base, stateDir, socket }: Places): LegerdProcess {
  return launchLegerd(base, ["--state", stateDir, "--socket", socket], {
    command: [process.execPath, entry],
  });
}

function connect({ socket }: Places, howMany: number): Promise<Connection[]> {
  return Promise.all(Array.from({ length: howMany }, () => openConnection(socket)));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function summarize(tally: Tally, faults: number, seconds: number): string {
  const {
    kills,
    restartKills,
    maintenanceKills,
    maintenanceHits,
    acknowledged,
    hits,
    unanswered,
    carriedOut,
    lost,
  } = tally;
  return [
    `${kills} kills in ${seconds.toFixed(1)} s and ${restartKills} during a restart`,
    `${maintenanceHits} of ${maintenanceKills} amid a rekey, backup, restore or upgrade`,
    `${acknowledged} writes acknowledged`,
    `${hits} kills hit writes on their way (${unanswered}, of which ${carriedOut} were carried out)`,
    `${faults} faults`,
    `${lost} lost`,
  ].join(", ");
}

function parse(args: string[]): Options | undefined {
  const { values } = readOptions("test:crash", {
    args,
    options: {
      kills: { type: "string", default: "200" },
      writers: { type: "string", default: "64" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      entry: { type: "string", default: LEGERD },
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help === true) return undefined;
  return {
    kills: wholeNumber("kills", values.kills),
    writers: wholeNumber("writers", values.writers),
    seed: wholeNumber("seed", values.seed),
    entry: path.resolve(values.entry),
  };
}

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));
await runScript("test:crash", main);
