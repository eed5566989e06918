/** legerd — real daemons for tests: in this process (fast), or as one of their own (to kill, or to look at). */
import { spawn, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { VERSION } from "../../src/core/version.ts";
import type { DoorConfig, TcpDoorConfig } from "../../src/daemon/config.ts";
import { startLegerd } from "../../src/daemon/legerd.ts";
import { Secret } from "../../src/core/secret.ts";
import { SetecClient } from "../../src/setec/client.ts";
import { CANARIES, leaksOf } from "./canary.ts";

export const PROJECT_DIR = fileURLToPath(new URL("../..", import.meta.url));
export const LEGER = path.join(PROJECT_DIR, "src/bin/leger.ts");

/** How the two programs are started: from this source tree, or, in `npm run test:binaries`, as they are installed. */
export const { leger: LEGER_COMMAND, legerd: LEGERD_COMMAND } = commands(process.env["LEGER_TEST_PREFIX"]);

function commands(prefix: string | undefined): Record<"leger" | "legerd", readonly [string, ...string[]]> {
  if (prefix !== undefined) return { leger: [`${prefix}/bin/leger`], legerd: [`${prefix}/bin/legerd`] };
  return {
    leger: [process.execPath, LEGER],
    legerd: [process.execPath, path.join(PROJECT_DIR, "src/bin/legerd.ts")],
  };
}

/** Where a test daemon's things lie: `RUNTIME/leger/legerd.sock` below a directory of the test's own. */
export type Places = { base: string; runtimeDir: string; socket: string; stateDir: string };

/** What a program started by a test has of the test's own environment. */
export function fromHere(): { PATH: string | undefined; NODE_COMPILE_CACHE: string | undefined } {
  const { PATH, NODE_COMPILE_CACHE } = process.env;
  return { PATH, NODE_COMPILE_CACHE };
}

export type TestLegerd = Places &
  AsyncDisposable & {
    client: SetecClient;
    /** What it logged so far, a line each. */
    log: string[];
  };

type Secrets = Readonly<Record<string, string | Uint8Array>>;
type Options = {
  doors?: (places: Places) => DoorConfig[];
  tcpDoors?: TcpDoorConfig[];
  cacheEntries?: number;
  dropCredentialAfterMs?: number;
  snapshotMs?: number;
  /** Else repeats are counted as an installed daemon counts them. */
  foldMs?: number;
  places?: Places;
};

/** A fresh directory with the places of a daemon in it, and its removal. */
export function makePlaces(): Places & Disposable {
  const base = fs.mkdtempSync(path.join(os.tmpdir(), "leger-test-"));
  const runtimeDir = path.join(base, "run");
  fs.mkdirSync(runtimeDir, { mode: 0o700 });
  return {
    base,
    runtimeDir,
    socket: path.join(runtimeDir, "leger", "legerd.sock"),
    stateDir: path.join(base, "state"),
    [Symbol.dispose]: () => fs.rmSync(base, { recursive: true, force: true }),
  };
}

/** A daemon inside this process with these secrets as their first versions. */
export async function startTestLegerd(secrets: Secrets = {}, options: Options = {}): Promise<TestLegerd> {
  const own = options.places === undefined ? makePlaces() : undefined;
  const places = own ?? options.places;
  if (places === undefined) throw new Error("no places");
  const log: string[] = [];
  const ownDoor: DoorConfig = { unix: places.socket, mode: 0o600, principal: "tester", grants: undefined };
  const daemon = await startLegerd({
    version: VERSION,
    stateDir: places.stateDir,
    doors: options.doors?.(places) ?? [ownDoor],
    log: (line) => void log.push(line),
    audit: { foldMs: options.foldMs },
    tcpDoors: options.tcpDoors ?? [],
    ...(options.cacheEntries === undefined ? {} : { cacheEntries: options.cacheEntries }),
    snapshotMs: options.snapshotMs,
    ...(options.dropCredentialAfterMs === undefined
      ? {}
      : { dropCredentialAfterMs: options.dropCredentialAfterMs }),
  });
  const client = new SetecClient({ socketPath: places.socket });
  for (const [name, value] of Object.entries(secrets)) await client.put(name, new Secret(Buffer.from(value)));
  return {
    base: places.base,
    runtimeDir: places.runtimeDir,
    socket: places.socket,
    stateDir: places.stateDir,
    client,
    log,
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      // Whatever the test was about: what the daemon wrote holds no value, and is for nobody else.
      const leaks = leaksOf(places.stateDir);
      await daemon.stop(1_000);
      own?.[Symbol.dispose]();
      for (const canary of Object.values(CANARIES)) {
        if (log.some((line) => line.includes(canary))) leaks.push(`its journal holds ${canary}`);
      }
      if (leaks.length > 0) throw new Error(leaks.join("; "));
    },
  };
}

export type SpawnedLegerd = AsyncDisposable & {
  child: ChildProcess;
  pid: number;
  /** Everything it wrote to standard error so far. */
  stderr: () => string;
  exited: Promise<{ status: number | null; signal: NodeJS.Signals | null }>;
};

/**
 * A daemon in a process of its own; resolves when it says that it is ready. `starter` is a program that starts it, with
 * its own arguments.
 */
export async function spawnLegerd(
  places: Places,
  args: readonly string[] = [],
  starter: readonly string[] = [],
  command: readonly [string, ...string[]] = LEGERD_COMMAND,
): Promise<SpawnedLegerd> {
  // A configuration has the doors in it.
  const door = args.includes("--config") ? [] : ["--socket", places.socket];
  const [program, ...rest] = [...starter, ...command, "--state", places.stateDir];
  const child = spawn(program, [...rest, ...door, ...args], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...fromHere(), HOME: places.base },
  });
  let stderr = "";
  const exited = new Promise<{ status: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once("exit", (status, signal) => resolve({ status, signal }));
  });
  await new Promise<void>((resolve, reject) => {
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
      if (stderr.includes("legerd: ready")) resolve();
    });
    child.once("error", reject);
    void exited.then(() => reject(new Error(`legerd ended before it was ready:\n${stderr}`)));
  });
  return {
    child,
    pid: child.pid ?? -1,
    stderr: () => stderr,
    exited,
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
