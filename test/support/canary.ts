/** canary — looks for a value where it must not be. */

import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

/** Stand in the values of tests of the command line and of the driver, and must show nowhere but where a value was asked for. */
export const CANARIES = { cli: "canary-4be0c9d117", driver: "canary-7f31c05be2" } as const;

/** What is wrong with the state that a daemon keeps: files that hold a canary, audit log and WAL among them, or that others may open. */
export function leaksOf(stateDir: string): string[] {
  if (!existsSync(stateDir)) return [];
  const patterns = Object.values(CANARIES).flatMap((canary) => ["-e", canary]);
  // By another process: to close a database that this one has open would drop its locks.
  const { stdout } = spawnSync("grep", ["-rlaF", ...patterns, stateDir], { encoding: "utf8" });
  const open = readdirSync(stateDir, { recursive: true, withFileTypes: true })
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => ((statSync(path, { throwIfNoEntry: false })?.mode ?? 0) & 0o077) !== 0);
  return [
    ...stdout
      .split("\n")
      .filter((path) => path !== "")
      .map((path) => `${path} holds a value`),
    ...open.map((path) => `${path} is open to others`),
  ];
}

/** The files below `directory` that hold `canary` in the clear. */
export function filesHolding(canary: string, directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => readFileSync(path).includes(canary))
    .map((path) => `${path} (mode ${(statSync(path).mode & 0o7777).toString(8)})`);
}

/**
 * The processes that show `canary` in their arguments or environment; and the last arguments of those that have
 * `mark` there, to see that they were looked at.
 */
export function processesHolding(canary: string, mark: string): { holding: string[]; looked: string[] } {
  const holding: string[] = [];
  const looked: string[] = [];
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const cmdline = readFileSync(`/proc/${pid}/cmdline`, "latin1");
      const shown = cmdline + readFileSync(`/proc/${pid}/environ`, "latin1");
      if (shown.includes(canary)) holding.push(cmdline.replaceAll("\0", " "));
      if (shown.includes(mark)) looked.push(cmdline.split("\0").at(-2) ?? "");
    } catch {
      // Another user's, or one that has just ended.
    }
  }
  return { holding, looked };
}
