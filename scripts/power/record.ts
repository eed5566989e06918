/** record — the life of a legerd written down: its first start, writes, restarts, another main key, a backup, a restore, a kill. */
import { generateX25519Identity, identityToRecipient } from "age-encryption";
import * as fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { run } from "../../src/core/exec.ts";
import { openConnection, type Connection } from "../crash/connection.ts";
import { pick, type Item, type Random } from "../crash/model.ts";
import { launchLegerd, LEGERD, type LegerdProcess } from "../support/legerd-process.ts";
import { writeNote } from "./disk.ts";
import { sha256, type Layout } from "./examine.ts";
import type { Note } from "./ledger.ts";

const SERVE = fileURLToPath(new URL("serve.ts", import.meta.url));
const WEAKENED = new URL("weakened.ts", import.meta.url).href;
const RECORDER = fileURLToPath(new URL("record.c", import.meta.url));

/** How long each of the loads lasts. */
const LOAD_MS = 700;
/** Longest that a sync pretends to take. */
const SYNC_US = 600;
const COMMAND_TIMEOUT_MS = 60_000;

export type Writer = { items: readonly Item[]; random: Random };

export type Recording = Layout & {
  /** Not below `base`: what is recorded, the recording itself, and all else that this needs. */
  log: string;
  scratch: string;
  recorder: string;
  /** What legerd is made not to sync, as weakened.ts calls it. */
  weakness: string | undefined;
};

/** Compiles the recorder; returns the library. Throws where there is no compiler, by name. */
export async function buildRecorder(directory: string): Promise<string> {
  const library = path.join(directory, "record.so");
  const args = [
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-shared",
    "-fPIC",
    "-o",
    library,
    RECORDER,
    "-ldl",
    "-lpthread",
  ];
  const { status, stderr } = await run("gcc", args, { env: process.env, timeoutMs: 60_000 }).catch(() => {
    throw new Error("gcc is missing: this test compiles a small library (apt-get install gcc libc6-dev)");
  });
  if (status !== 0) throw new Error(`gcc: ${stderr}`);
  return library;
}

/** Lives one life on what is below `base`; returns how many changes were acknowledged. Throws where something fails. */
export async function recordLife(
  recording: Recording,
  writers: readonly Writer[],
  random: Random,
): Promise<number> {
  const { base, stateDir, log, scratch } = recording;
  fs.writeFileSync(log, "", { mode: 0o600 });
  const fd = fs.openSync(log, "a");
  const note = (what: Note): void => writeNote(fd, what);
  const socket = path.join(scratch, "legerd.sock");
  let acknowledged = 0;
  let daemon: LegerdProcess | undefined;

  const start = async (): Promise<LegerdProcess> => {
    const started = launchLegerd(scratch, [stateDir, socket], {
      command: [process.execPath, ...preloads(recording), SERVE],
      env: environment(recording),
    });
    await started.ready;
    note({ note: "key", sha256: sha256(fs.readFileSync(path.join(stateDir, "keys", "main.key"))) });
    return started;
  };
  const change = async (item: Item, own: Random, connection: Connection): Promise<boolean> => {
    const call = item.begin(own);
    const begun = { label: item.label, text: "", audit: "", ...item.underWay() };
    note({ note: "begin", ...begun });
    const reply = await connection.ask(call);
    if (reply === undefined) return false;
    item.acknowledge(reply);
    note({ note: "ack", ...begun });
    acknowledged += 1;
    return true;
  };
  /** Changes things until the time is over or the connections end. */
  const load = async (ms: number): Promise<void> => {
    const until = performance.now() + ms;
    await Promise.all(
      writers.map(async ({ items, random: own }) => {
        const connection = await openConnection(socket);
        for (let alive = true; alive && performance.now() < until;) {
          const item = pick(items, own);
          alive = item !== undefined && (await change(item, own, connection));
        }
        connection.close();
      }),
    );
  };
  const command = async (...args: readonly string[]): Promise<void> => {
    const env = { PATH: process.env["PATH"], HOME: scratch, ...environment(recording) };
    const { status, stderr } = await run(process.execPath, [...preloads(recording), LEGERD, ...args], {
      env,
      timeoutMs: COMMAND_TIMEOUT_MS,
    });
    if (status !== 0) throw new Error(`legerd ${args[0]} ended with ${status}: ${stderr}`);
  };

  try {
    note({ note: "phase", phase: "start" });
    daemon = await start();
    const connection = await openConnection(socket);
    const [first] = writers;
    const item = first?.items[0];
    if (first !== undefined && item !== undefined) await change(item, first.random, connection);
    connection.close();
    note({ note: "phase", phase: "load" });
    await load(LOAD_MS * (1 + random()));
    note({ note: "phase", phase: "restart" });
    await stop(daemon);
    daemon = await start();
    note({ note: "phase", phase: "load" });
    await load(LOAD_MS * random());
    note({ note: "phase", phase: "rekey" });
    await stop(daemon);
    note({ note: "key begins" });
    await command("rekey", "--state", stateDir);
    note({ note: "key", sha256: sha256(fs.readFileSync(path.join(stateDir, "keys", "main.key"))) });
    daemon = await start();
    note({ note: "phase", phase: "load" });
    await load(LOAD_MS * random());

    note({ note: "phase", phase: "backup" });
    const identity = await generateX25519Identity();
    const identityFile = path.join(scratch, "identity");
    fs.writeFileSync(identityFile, `${identity}\n`, { mode: 0o600 });
    const file = "backups/store";
    note({ note: "backup begins", file });
    const backup = path.join(base, file);
    const recipient = await identityToRecipient(identity);
    await command("backup", backup, "--force", "--recipient", recipient, "--state", stateDir);
    note({ note: "backup", file, sha256: sha256(fs.readFileSync(backup)) });
    note({ note: "phase", phase: "restore" });
    const directory = "copies/copy/state";
    note({ note: "restore begins", directory });
    await command("restore", backup, "--identity-file", identityFile, "--state", path.join(base, directory));
    note({ note: "restored", directory });

    note({ note: "phase", phase: "load" });
    const last = load(LOAD_MS);
    await new Promise((resolve) => setTimeout(resolve, random() * LOAD_MS));
    daemon.child.kill("SIGKILL");
    await daemon.ended;
    await last;
    return acknowledged;
  } finally {
    daemon?.child.kill("SIGKILL");
    fs.closeSync(fd);
  }
}

async function stop({ child, ended }: LegerdProcess): Promise<void> {
  child.kill("SIGTERM");
  const status = await ended;
  if (status !== 0) throw new Error(`legerd ended with ${status} after SIGTERM`);
}

/** Threads get these of Node's arguments, too. */
function preloads({ weakness }: Recording): string[] {
  return weakness === undefined ? [] : [`--import=${WEAKENED}?${encodeURIComponent(weakness)}`];
}

function environment({ base, log, scratch, recorder }: Recording): Record<string, string> {
  return {
    LD_PRELOAD: recorder,
    LEGER_POWER_ROOT: base,
    LEGER_POWER_LOG: log,
    LEGER_POWER_SYNC_US: String(SYNC_US),
    NODE_COMPILE_CACHE: path.join(scratch, "compiled"),
    // Calls that go round the C library would go unseen.
    UV_USE_IO_URING: "0",
  };
}
