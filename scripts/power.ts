/**
 * power — what is left of a store when the power goes. A legerd's life is recorded, each write and each sync; then the
 * disk is built as it may be after a cut at one moment of it or another, and looked at.
 */
import * as fs from "node:fs";
import * as os from "node:os";
import path from "node:path";
import { ABSENT, makeItems, pick, randomFrom, type Random } from "./crash/model.ts";
import { Disk, noteOf, readRecording, type Entry, type Fate } from "./power/disk.ts";
import { examine, type Examined } from "./power/examine.ts";
import { Ledger, parseNote } from "./power/ledger.ts";
import { buildRecorder, recordLife, type Recording, type Writer } from "./power/record.ts";
import { WEAKNESSES } from "./power/weakened.ts";
import { launchLegerd } from "./support/legerd-process.ts";
import { readOptions, runScript, wholeNumber } from "./support/script.ts";

const HELP = `usage: node scripts/power.ts [--cuts N] [--writers N] [--seed N] [--preload FILE]

  --cuts N        how many times the power goes (default 1000)
  --writers N  how many write at once (default 32)
  --seed N        repeats a run's choices, though not its moments (default: the time)
  --preload FILE  a module that legerd loads first, in each of its threads: to see that a legerd that forgets is found out
`;

/** Each life is cut so often, and then the next begins: every other one with what a cut left of the last. */
const CUTS_PER_LIFE = 250;
/** What syncs too little is found out sooner. */
const WEAK_CUTS = 100;
/** Each so many cuts, a legerd is started on what is left. */
const START_EVERY = 50;
const PADDING = "p".repeat(440);
const MAX_FAULTS_SHOWN = 20;

/** `weakness`: what legerd doesn't sync, as weakened.ts calls it. */
type Options = { cuts: number; writers: number; seed: number; weakness?: string };
/** `recorder`: the library that records. */
type Place = { home: string; recorder: string };
type Tally = {
  cuts: number;
  lives: number;
  acknowledged: number;
  starts: number;
  /** Cuts after which the end of audit.log was gone, and those with a change in the store that has no line. */
  lostTails: number;
  lostChanges: number;
};

async function main(): Promise<void> {
  const options = parse(process.argv.slice(2));
  if (options === undefined) return void process.stdout.write(HELP);
  // In memory: nothing is to be synced in earnest.
  const home = fs.mkdtempSync(
    path.join(fs.existsSync("/dev/shm") ? "/dev/shm" : os.tmpdir(), "leger-power-"),
  );
  let isKept = false;
  process.once("exit", () => {
    if (!isKept) fs.rmSync(home, { recursive: true, force: true });
  });
  const place = fs.realpathSync(home);
  const recorder = await buildRecorder(place);
  const tally = noTally();
  const startedAt = performance.now();
  const faults = await run({ home: place, recorder }, options, tally);
  const { cuts, lives, acknowledged, starts, lostTails, lostChanges } = tally;
  const figures = [
    `${cuts} power cuts in ${lives} lives, in ${((performance.now() - startedAt) / 1_000).toFixed(1)} s`,
    `${acknowledged} changes acknowledged`,
    `${starts} starts on what was left`,
    `${lostTails} times the newest lines of audit.log were gone`,
    `${lostChanges} times those of changes that nobody was answered on`,
    `${faults.length} faults`,
  ];
  process.stdout.write(`power: ${figures.join(", ")}\n`);
  if (faults.length === 0) faults.push(...(await findWeaknesses({ home: place, recorder }, options)));
  for (const fault of faults.slice(0, MAX_FAULTS_SHOWN))
    process.stdout.write(`power: ${fault.replaceAll(PADDING, "…")}\n`);
  if (faults.length > MAX_FAULTS_SHOWN) {
    process.stdout.write(`power: and ${faults.length - MAX_FAULTS_SHOWN} more\n`);
  }
  if (faults.length > 0) {
    isKept = true;
    process.stdout.write(`power: seed ${options.seed}; all of it is kept in ${home}\n`);
    process.exitCode = 1;
  }
}

/** A sentence for each legerd that syncs too little and is not found out. */
async function findWeaknesses(place: Place, options: Options): Promise<string[]> {
  const unseen: string[] = [];
  for (const weakness of WEAKNESSES) {
    const tally = noTally();
    const [fault] = await run(place, { ...options, cuts: WEAK_CUTS, weakness }, tally);
    const how =
      fault === undefined
        ? "is not found out"
        : `is found out at cut ${tally.cuts}: ${fault.replaceAll(PADDING, "…").slice(0, 160)}`;
    process.stdout.write(`power: with ${weakness} it ${how}\n`);
    if (fault === undefined)
      unseen.push(`a legerd with ${weakness} is not found out: this test shows nothing`);
  }
  return unseen;
}

function noTally(): Tally {
  return { cuts: 0, lives: 0, acknowledged: 0, starts: 0, lostTails: 0, lostChanges: 0 };
}

/** All the cuts, or those of the first life that one did harm in; returns a sentence for each fault. */
async function run({ home, recorder }: Place, options: Options, tally: Tally): Promise<string[]> {
  const random = randomFrom(options.seed);
  const scratch = path.join(home, "scratch");
  fs.mkdirSync(scratch, { recursive: true, mode: 0o700 });
  let left: Examined | undefined;
  let writers: Writer[] = [];
  for (let life = 0; tally.cuts < options.cuts; life += 1) {
    const base = path.join(home, "base");
    const layout = { base, stateDir: path.join(base, "var", "leger", "state") };
    if (life % 2 === 0 || left === undefined) {
      fs.rmSync(base, { recursive: true, force: true });
      fs.mkdirSync(path.join(base, "backups"), { recursive: true, mode: 0o700 });
      left = undefined;
      writers = Array.from({ length: options.writers }, (_, at) => ({
        items: makeItems(at, PADDING),
        random: randomFrom(options.seed + life * 1_000 + at + 1),
      }));
    }
    const recording: Recording = {
      ...layout,
      log: path.join(home, "log"),
      scratch,
      recorder,
      weakness: options.weakness,
    };
    const before = new Disk(base);
    const ledger = new Ledger(left?.state, left?.audit, left?.key);
    tally.acknowledged += await recordLife(recording, writers, random);
    tally.lives += 1;
    const entries = readRecording(recording.log);
    const cuts = Math.min(CUTS_PER_LIFE, options.cuts - tally.cuts);
    const aftermath = await replay(entries, before, ledger, { recording, home, cuts, random, tally });
    if (aftermath.faults.length > 0) return aftermath.faults;
    left = aftermath.left;
    for (const item of writers.flatMap(({ items }) => items)) {
      item.takeAuditLines();
      const { fault } = item.settle(left.state.get(item.label) ?? ABSENT);
      if (fault !== undefined) return [`lost: ${fault}`];
    }
  }
  return [];
}

type Ground = { recording: Recording; home: string; cuts: number; random: Random; tally: Tally };

/** Cuts at some moments of a life and at its end; what is left by the last becomes the base. */
async function replay(
  entries: readonly Entry[],
  disk: Disk,
  ledger: Ledger,
  { recording, home, cuts, random, tally }: Ground,
): Promise<{ faults: string[]; left: Examined }> {
  const moments = chooseMoments(entries, cuts - 1, random);
  let left: Examined | undefined;
  for (const [at, entry] of entries.entries()) {
    disk.take(entry);
    const note = noteOf(entry);
    if (note !== undefined) ledger.take(parseNote(note));
    const isLast = at === entries.length - 1;
    if (isLast) {
      const missed = disk.differences(recording.base);
      if (missed.length > 0) return { faults: missed, left: await nothing() };
    }
    for (let count = (moments.get(at) ?? 0) + Number(isLast); count > 0; count -= 1) {
      const target = path.join(home, "cut");
      fs.rmSync(target, { recursive: true, force: true });
      fs.mkdirSync(target, { mode: 0o700 });
      const { name, fate } = chooseFate(disk.step, random);
      disk.cut(target, fate);
      const layout = {
        base: target,
        stateDir: path.join(target, path.relative(recording.base, recording.stateDir)),
      };
      left = await examine(layout, ledger);
      tally.cuts += 1;
      if (left.lostTail) tally.lostTails += 1;
      if (left.lostChanges) tally.lostChanges += 1;
      if (left.faults.length === 0 && tally.cuts % START_EVERY === 0) {
        left.faults.push(...(await startOn(layout.stateDir, recording.scratch)));
        tally.starts += 1;
      }
      if (left.faults.length > 0) {
        const where = `life ${tally.lives}, step ${at} of ${entries.length}, ${name}`;
        return { faults: left.faults.map((fault) => `${fault} (${where})`), left };
      }
    }
  }
  if (left === undefined) throw new Error("a recording without an end");
  fs.rmSync(recording.base, { recursive: true, force: true });
  fs.renameSync(path.join(home, "cut"), recording.base);
  fs.rmSync(path.join(recording.base, "copies"), { recursive: true, force: true });
  fs.mkdirSync(path.join(recording.base, "backups"), { recursive: true, mode: 0o700 });
  return { faults: [], left };
}

/** Some just after something was acknowledged, some in each of the phases, some anywhere. */
function chooseMoments(entries: readonly Entry[], howMany: number, random: Random): Map<number, number> {
  const acknowledged: number[] = [];
  const phases: number[] = [];
  for (const [at, entry] of entries.entries()) {
    const note = noteOf(entry);
    const kind = note === undefined ? undefined : parseNote(note).note;
    if (kind === "phase") phases.push(at);
    else if (kind !== undefined && !kind.endsWith("begin") && !kind.endsWith("begins")) acknowledged.push(at);
  }
  const moments = new Map<number, number>();
  for (let count = 0; count < howMany; count += 1) {
    let at = Math.floor(random() * entries.length);
    if (count % 3 === 0) at = pick(acknowledged, random) ?? at;
    if (count % 3 === 1) {
      const phase = Math.floor(random() * phases.length);
      const from = phases[phase] ?? 0;
      at = from + Math.floor(random() * ((phases[phase + 1] ?? entries.length) - from));
    }
    moments.set(at, (moments.get(at) ?? 0) + 1);
  }
  return moments;
}

/** `step`: the last one before the cut. */
function chooseFate(step: number, random: Random): { name: string; fate: Fate } {
  const blockBytes = random() < 0.5 ? 4_096 : 512;
  const dice = random();
  if (dice < 0.45) return { name: "nothing unsynced kept", fate: { blockBytes, keeps: () => false } };
  if (dice < 0.55) return { name: "all kept", fate: { blockBytes, keeps: () => true } };
  if (dice < 0.7) {
    const upTo = step - Math.floor(random() * 50);
    return { name: `kept up to step ${upTo}`, fate: { blockBytes, keeps: (at) => at <= upTo } };
  }
  const share = random();
  const seed = Math.floor(random() * 2 ** 31);
  return {
    name: `${Math.round(share * 100)} % of blocks of ${blockBytes} kept`,
    fate: { blockBytes, keeps: (at, block) => randomFrom(seed ^ (at * 7_919 + block * 31))() < share },
  };
}

/** A legerd of its own, without the recorder. */
async function startOn(stateDir: string, scratch: string): Promise<string[]> {
  const daemon = launchLegerd(scratch, ["--state", stateDir, "--socket", path.join(scratch, "cut.sock")]);
  try {
    await daemon.ready;
    daemon.child.kill("SIGTERM");
    const status = await daemon.ended;
    return status === 0 ? [] : [`legerd ended with ${status}`];
  } catch (error) {
    return [error instanceof Error ? error.message : String(error)];
  } finally {
    daemon.child.kill("SIGKILL");
  }
}

async function nothing(): Promise<Examined> {
  return {
    faults: [],
    state: new Map(),
    audit: new Map(),
    key: undefined,
    lostTail: false,
    lostChanges: false,
  };
}

function parse(args: string[]): Options | undefined {
  const { values } = readOptions("test:power", {
    args,
    options: {
      cuts: { type: "string", default: "1000" },
      writers: { type: "string", default: "32" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help === true) return undefined;
  return {
    cuts: wholeNumber("cuts", values.cuts),
    writers: wholeNumber("writers", values.writers),
    seed: wholeNumber("seed", values.seed),
  };
}

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));
await runScript("test:power", main);
