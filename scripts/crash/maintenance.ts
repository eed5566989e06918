/** maintenance — kills legerd amid what it does besides serving: a change of the main key, backup, restore, upgrade. */
import { generateX25519Identity, identityToRecipient } from "age-encryption";
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import path from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { checkStore, type CheckResult } from "../../src/store/check.ts";
import { FUTURE_MIGRATIONS } from "./future.ts";
import type { Random } from "./model.ts";

/** Where it happens; no legerd runs there meanwhile. */
export type Ground = { base: string; stateDir: string; entry: string };

export const AMIDS = ["rekey", "backup", "restore", "upgrade"] as const;
export type Amid = (typeof AMIDS)[number];

/** `hit`: it was killed before it had come to its end. `faults`: a sentence for each thing that is not as it must be. */
export type Outcome = { hit: boolean; faults: string[] };

const UPGRADE = fileURLToPath(new URL("upgrade.ts", import.meta.url));

/** About as long as each works, from the first sign of it on. */
const WORK_MS = { rekey: 20, backup: 200, restore: 200, upgrade: 60 } as const satisfies Record<Amid, number>;

/** What makes up a store: not its lock, nor what SQLite makes anew. */
const COPIED = /^(?:secrets\.(?:db|db-wal|mark)|keys|audit.*)$/;

/** Begins one of them and kills it at some moment; then looks whether all is there, and lets it come to its end. */
export async function killMaintenance(amid: Amid, ground: Ground, random: Random): Promise<Outcome> {
  switch (amid) {
    case "rekey":
      return killRekey(ground, random);
    case "backup":
      return killBackup(ground, random);
    case "restore":
      return killRestore(ground, random);
    case "upgrade":
      return killUpgrade(ground, random);
    default:
      return amid satisfies never;
  }
}

async function killRekey(ground: Ground, random: Random): Promise<Outcome> {
  const { stateDir } = ground;
  const sign = watched(path.join(stateDir, "keys"));
  const hit = await killed(legerd(ground, ["rekey", "--state", stateDir]), sign, random() * WORK_MS.rekey);
  const faults = await problemsIn("rekey", stateDir);
  // The next start, which follows, settles what was left; every other time another change of the key does.
  if (random() < 0.5) {
    const status = await ended(legerd(ground, ["rekey", "--state", stateDir]));
    if (status !== 0) faults.push(`rekey: after one that was killed, it ended with ${status}`);
    if (fs.existsSync(path.join(stateDir, "keys", "main.key.next"))) faults.push("rekey: a key is left over");
    faults.push(...(await problemsIn("rekey", stateDir)));
  }
  return { hit, faults };
}

async function killBackup(ground: Ground, random: Random): Promise<Outcome> {
  using place = scratch(ground);
  const { recipient, identityFile } = await keyPair(place.directory);
  const out = path.join(place.directory, "out");
  fs.mkdirSync(out);
  const file = path.join(out, "backup");
  const make = (): Running =>
    legerd(ground, ["backup", file, "--force", "--recipient", recipient, "--state", ground.stateDir]);
  const hit = await killed(make(), watched(out), random() * WORK_MS.backup);
  const faults: string[] = [];
  const restoreIt = async (name: string): Promise<void> => {
    const copy = path.join(place.directory, name);
    const args = ["restore", file, "--identity-file", identityFile, "--state", copy];
    const status = await ended(legerd(ground, args));
    if (status !== 0) faults.push(`backup: what is at its name cannot be restored (status ${status})`);
    else faults.push(...(await differences("backup", ground.stateDir, copy)));
  };
  if (fs.existsSync(file)) await restoreIt("first");
  const status = await ended(make());
  if (status !== 0) faults.push(`backup: after one that was killed, it ended with ${status}`);
  else await restoreIt("second");
  const left = fs.readdirSync(out).filter((name) => name !== "backup");
  if (left.length > 0) faults.push(`backup: ${left.join(", ")} left over`);
  return { hit, faults };
}

async function killRestore(ground: Ground, random: Random): Promise<Outcome> {
  using place = scratch(ground);
  const { recipient, identityFile } = await keyPair(place.directory);
  const file = path.join(place.directory, "backup");
  const faults: string[] = [];
  const making = legerd(ground, ["backup", file, "--recipient", recipient, "--state", ground.stateDir]);
  if ((await ended(making)) !== 0) return { hit: false, faults: ["restore: there is no backup"] };
  const copy = path.join(place.directory, "copy");
  fs.mkdirSync(copy, { mode: 0o700 });
  const restore = (): Running =>
    legerd(ground, ["restore", file, "--identity-file", identityFile, "--state", copy]);
  const hit = await killed(restore(), watched(copy), random() * WORK_MS.restore);
  // Whole, or nothing that a legerd would take for a store.
  const whole = await checkStore({ stateDir: copy }).catch(() => undefined);
  if (whole === undefined) {
    const status = await ended(restore());
    if (status !== 0) faults.push(`restore: after one that was killed, it ended with ${status}`);
  }
  faults.push(...(await differences("restore", ground.stateDir, copy)));
  return { hit, faults };
}

async function killUpgrade(ground: Ground, random: Random): Promise<Outcome> {
  using place = scratch(ground);
  const copy = path.join(place.directory, "copy");
  fs.mkdirSync(copy, { mode: 0o700 });
  // With the log that the last kill left, and the audit log, which the store knows the length of.
  for (const name of fs.readdirSync(ground.stateDir).filter((found) => COPIED.test(found))) {
    fs.cpSync(path.join(ground.stateDir, name), path.join(copy, name), { recursive: true });
  }
  const upgrade = (): Running => run([process.execPath, UPGRADE, copy], ground);
  const running = upgrade();
  const hit = await killed(running, running.said, random() * WORK_MS.upgrade);
  const faults: string[] = [];
  const status = await ended(upgrade());
  if (status !== 0) faults.push(`upgrade: after one that was killed, it ended with ${status}`);
  const db = new DatabaseSync(path.join(copy, "secrets.db"));
  try {
    const one = (sql: string): number => Number(Object.values(db.prepare(sql).get() ?? {})[0]);
    if (one("PRAGMA user_version") !== FUTURE_MIGRATIONS.length) faults.push("upgrade: it is not done");
    if (one("SELECT count(*) FROM copied") !== 2 * one("SELECT count(*) FROM vals")) {
      faults.push("upgrade: half of a step was done");
    }
    if (one("SELECT count(*) FROM once") !== 1) faults.push("upgrade: a step was done twice");
    db.exec("DROP TABLE copied; DROP TABLE once; PRAGMA user_version = 1");
  } finally {
    db.close();
  }
  faults.push(...(await differences("upgrade", ground.stateDir, copy)));
  return { hit, faults };
}

async function problemsIn(amid: Amid, stateDir: string): Promise<string[]> {
  const { problems } = await checkStore({ stateDir });
  return problems.map((problem) => `${amid}: check: ${problem}`);
}

/** Both stores are whole and hold as much, but for the audit log, which is this machine's and in no copy. */
async function differences(amid: Amid, stateDir: string, copy: string): Promise<string[]> {
  let found: CheckResult;
  try {
    found = await checkStore({ stateDir: copy });
  } catch (error) {
    return [`${amid}: ${error instanceof Error ? error.message : String(error)}`];
  }
  const { problems, audit_lines: _lines, ...counts } = found;
  const { problems: _, audit_lines: __, ...expected } = await checkStore({ stateDir });
  const faults = problems.map((problem) => `${amid}: check of the copy: ${problem}`);
  const [is, must] = [JSON.stringify(counts), JSON.stringify(expected)];
  return is === must ? faults : [...faults, `${amid}: the copy holds ${is}, not ${must}`];
}

type Running = {
  kill: () => void;
  /** Resolves when it first writes to standard output. */
  said: Promise<void>;
  status: Promise<number | null>;
};

function legerd({ entry, ...ground }: Ground, args: readonly string[]): Running {
  return run([process.execPath, entry, ...args], { entry, ...ground });
}

function run([program = "", ...args]: readonly string[], { base }: Ground): Running {
  const child = spawn(program, args, {
    stdio: ["ignore", "pipe", "ignore"],
    env: {
      PATH: process.env["PATH"],
      HOME: base,
      NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"] ?? path.join(base, "compiled"),
    },
  });
  const { promise: said, resolve } = Promise.withResolvers<void>();
  child.stdout.once("data", () => resolve());
  const status = new Promise<number | null>((end) => void child.once("close", end));
  return { kill: () => void child.kill("SIGKILL"), said, status };
}

async function ended({ status }: Running): Promise<number | null> {
  return status;
}

/** True where it was killed; false where it had come to its end before. */
async function killed(running: Running, sign: Promise<void>, afterMs: number): Promise<boolean> {
  await Promise.race([sign, running.status]);
  await new Promise((resolve) => setTimeout(resolve, afterMs));
  running.kill();
  return (await running.status) === null;
}

/** Resolves when something happens in a directory. */
function watched(directory: string): Promise<void> {
  return new Promise((resolve) => {
    const watcher = fs.watch(directory, { persistent: false }, () => {
      watcher.close();
      resolve();
    });
  });
}

async function keyPair(directory: string): Promise<{ recipient: string; identityFile: string }> {
  const identity = await generateX25519Identity();
  const identityFile = path.join(directory, "identity");
  fs.writeFileSync(identityFile, `${identity}\n`, { mode: 0o600 });
  return { recipient: await identityToRecipient(identity), identityFile };
}

function scratch({ base }: Ground): Disposable & { directory: string } {
  const directory = fs.mkdtempSync(path.join(base, "maintenance-"));
  return { directory, [Symbol.dispose]: () => fs.rmSync(directory, { recursive: true, force: true }) };
}
