/** canary — looks for a value where it must not be. */

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

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
