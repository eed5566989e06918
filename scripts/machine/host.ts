/** host — what this machine needs for booting others, and that none of them stays. */
import * as fs from "node:fs";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { LegerError } from "../../src/core/error.ts";
import { run } from "../../src/core/exec.ts";
import { MACHINES, rootOf, type Release } from "./root.ts";

/**
 * Calls `use` with the root directory of a release and with how the directories of its machines are to begin; their ends
 * are the caller's. Machines that are still there afterwards are cut off. FAILED where machines cannot be booted.
 */
export async function withMachines<T>(
  release: Release,
  use: (root: string, machines: string) => Promise<T>,
): Promise<T> {
  const obstacle = machinesObstacle();
  if (obstacle !== undefined) throw new LegerError("FAILED", obstacle);
  await prepareHost();
  const root = await rootOf(release);
  fs.mkdirSync(MACHINES, { recursive: true, mode: 0o700 });
  await sweep();
  const machines = path.join(MACHINES, `leger-${process.pid}`);
  try {
    return await use(root, machines);
  } finally {
    await cleared(machines);
  }
}

/** Why no machine can be booted here; undefined where it can be tried. */
export function machinesObstacle(): string | undefined {
  return process.geteuid?.() === 0 ? undefined : "machines are booted by root only";
}

const KEEPER = fileURLToPath(new URL("keeper.ts", import.meta.url));
const APT_TIMEOUT_MS = 10 * 60_000;
const SWEEP_TIMEOUT_MS = 60_000;
const CLEAR_TIMEOUT_MS = 60_000;

/** The programs it takes, and the packages of Debian that bring them. */
const NEEDED = {
  mmdebstrap: ["mmdebstrap", "debian-archive-keyring"],
  "systemd-nspawn": ["systemd-container"],
} as const;

/** Debian's own tools for building and booting a machine, where they are missing. */
export async function prepareHost(): Promise<void> {
  const missing: string[] = [];
  for (const [program, packages] of Object.entries(NEEDED)) {
    if (!(await isThere(program))) missing.push(...packages);
  }
  if (missing.length === 0) return;
  process.stderr.write(`installing ${missing.join(" ")}\n`);
  await apt("update");
  await apt("install", "--yes", "--no-install-recommends", ...missing);
}

async function apt(...args: readonly string[]): Promise<void> {
  await run("apt-get", ["-qq", "-o", "DPkg::Lock::Timeout=300", ...args], {
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    timeoutMs: APT_TIMEOUT_MS,
    check: true,
  });
}

async function isThere(program: string): Promise<boolean> {
  const { status } = await run("sh", ["-c", 'command -v "$0"', program], {
    env: process.env,
    timeoutMs: SWEEP_TIMEOUT_MS,
  });
  return status === 0;
}

/** What was left by a run that was killed together with its keepers. */
async function sweep(): Promise<void> {
  const keeper = ["--mount", "--propagation", "private", process.execPath, KEEPER, "sweep", MACHINES];
  await run("unshare", keeper, { env: process.env, timeoutMs: SWEEP_TIMEOUT_MS, check: true });
}

/** Whatever ended their owners, machines are gone when we are. */
async function cleared(machines: string): Promise<void> {
  const deadline = performance.now() + CLEAR_TIMEOUT_MS;
  const prefix = `${path.basename(machines)}-`;
  for (;;) {
    const left = fs.readdirSync(MACHINES).filter((name) => name.startsWith(prefix));
    if (left.length === 0) return;
    if (performance.now() > deadline) {
      throw new LegerError("FAILED", `machines are still there: ${left.join(", ")}`);
    }
    // Their keepers are at it, unless they were killed.
    await sweep();
    await delay(50);
  }
}
