/** janitor — a process that removes all that a quickstart made, however that one ended. */

import { execFileSync } from "node:child_process";
import { chmodSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as delay } from "node:timers/promises";

/**
 * Started with the marker that all processes of one quickstart carry in their environment, and with its
 * directories. Standard input ends when the quickstart does, by whatever: then nobody starts anything any more.
 * Standard output says what could not be removed.
 */
async function main([marker = "", ...directories]: readonly string[]): Promise<void> {
  // Ctrl-C in a terminal that has become ours, a session that ends: there is work to do first.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
  await text(process.stdin).catch(() => "");
  await endProcesses(marker);
  for (const directory of directories) {
    unmountBelow(directory);
    const trouble = remove(directory);
    if (trouble !== undefined) process.stdout.write(`${directory}: ${trouble}\n`);
  }
}

const UMOUNT = "umount";
const WITHIN_MS = 5_000;
const LOOK_AGAIN_AFTER_MS = 20;

/** Until two looks in a row have found none: one may just have been starting another. */
async function endProcesses(marker: string): Promise<void> {
  if (marker === "") return;
  const deadline = performance.now() + WITHIN_MS;
  for (let quiet = 0; quiet < 2 && performance.now() < deadline;) {
    const found = processesWith(marker);
    for (const pid of found) kill(pid);
    quiet = found.length === 0 ? quiet + 1 : 0;
    await delay(LOOK_AGAIN_AFTER_MS);
  }
}

function processesWith(marker: string): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid !== process.pid)
    .filter((pid) => environmentOf(pid).split("\0").includes(marker));
}

/** Empty for other people's processes, and for what has ended and only waits to be noticed. */
function environmentOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, "latin1");
  } catch {
    return "";
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has just ended by itself.
  }
}

/** What Podman mounts as root. A user's mounts lie in a namespace of their own and end with its processes. */
function unmountBelow(directory: string): void {
  const mounts = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((path) => path.startsWith(`${directory}/`));
  for (const path of mounts.toReversed()) {
    try {
      execFileSync(UMOUNT, ["--lazy", path], { stdio: "ignore", timeout: WITHIN_MS });
    } catch {
      // What stays mounted cannot be removed either, and that is told.
    }
  }
}

/** Why it is still there; undefined once it isn't. */
function remove(directory: string): string | undefined {
  try {
    rmSync(directory, { recursive: true, force: true });
    return undefined;
  } catch {
    // Directories that came out of an image may be closed to writing.
    openUp(directory);
  }
  try {
    rmSync(directory, { recursive: true, force: true });
    return undefined;
  } catch (error) {
    return error instanceof Error && "code" in error ? String(error.code) : "cannot be removed";
  }
}

function openUp(directory: string): void {
  try {
    chmodSync(directory, 0o700);
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      if (entry.isDirectory()) openUp(join(directory, entry.name));
    }
  } catch {
    // The second try to remove it tells.
  }
}

await main(process.argv.slice(2));
