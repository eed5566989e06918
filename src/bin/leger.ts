#!/usr/bin/env node
/** leger — the command line's entry point: hot commands at once, all else by the CLI, which is loaded for it. */

import { fstatSync, readFileSync } from "node:fs";
import { exitStatusOf, framesOf, LegerError, speak, systemCode } from "../core/error.ts";
import { worldOf } from "../core/paths.ts";
import { VERSION } from "../core/version.ts";
import { nodeWire } from "../core/wire-node.ts";
import { hotCommand, type HotWorld } from "../cli/hot.ts";

/** Since the process was started: by then an answer must be there, or a failure be told … */
const ANSWER_WITHIN_MS = 4_500;
/** … and by then it is over, whatever still waits. Podman's limit for us is 5 s. */
const END_WITHIN_MS = 4_900;

async function main(): Promise<void> {
  const argv = process.argv.slice(2);
  const hot = hotCommand(argv);
  // Whoever reads may go away at any time; what cannot be said then need not be.
  process.stderr.on("error", () => {});
  try {
    if (hot === undefined) process.exitCode = await runWholeCli(argv);
    else await runHot(hot);
  } catch (error) {
    process.exitCode = fail(error);
  }
}

async function runWholeCli(argv: readonly string[]): Promise<number> {
  const { runCli } = await import("../cli/main.ts");
  const { stdin, stderr } = process;
  const stdout = isStdoutClosed() ? await closedOutput() : process.stdout;
  return runCli(argv, {
    ...worldOf(process.env),
    stdin,
    stdout,
    stderr,
    isTTY: { stdin: stdin.isTTY, stdout: process.stdout.isTTY, stderr: stderr.isTTY },
    columns: process.stdout.columns,
    cwd: workingDirectory(),
    version: VERSION,
    userConfigDir: await userConfigDir(),
  });
}

/** A working directory can be gone; only relative paths need one. */
function workingDirectory(): string {
  try {
    return process.cwd();
  } catch {
    return "/";
  }
}

/** Also without HOME, from the user's entry in /etc/passwd; undefined where there is neither. */
async function userConfigDir(): Promise<string | undefined> {
  try {
    const { default: envPaths } = await import("env-paths");
    return envPaths("leger", { suffix: "" }).config;
  } catch {
    return undefined;
  }
}

async function runHot(command: (world: HotWorld) => Promise<void>): Promise<void> {
  // Node warns of a negative delay, in words that Podman would show.
  setTimeout(giveUp, Math.max(1, END_WITHIN_MS - performance.now())).unref();
  let readsStdin = false;
  try {
    await command({
      ...worldOf(process.env),
      wireTo: nodeWire,
      stdin: () => {
        readsStdin = true;
        return process.stdin;
      },
      print,
      cgroup: () => textOf("/proc/self/cgroup"),
      remainingMs: () => ANSWER_WITHIN_MS - performance.now(),
    });
  } finally {
    // An input that never ends would keep us here.
    if (readsStdin) process.stdin.destroy();
  }
}

function print(bytes: Uint8Array): Promise<void> {
  if (isStdoutClosed()) throw new LegerError("IO", "standard output is closed");
  return new Promise((resolve, reject) => {
    process.stdout.on("error", reject);
    process.stdout.write(bytes, (error) => (error ? reject(error) : resolve()));
  });
}

/**
 * In place of a closed standard output Node opens /dev/null for reading and writing (`PlatformInit`, src/node.cc),
 * where a secret would vanish and the lookup pass for a success. A shell's `> /dev/null` is for writing only.
 */
function isStdoutClosed(): boolean {
  if (fstatSync(1).rdev !== DEV_NULL) return false;
  const flags = /^flags:\s*([0-7]+)$/m.exec(textOf("/proc/self/fdinfo/1") ?? "")?.[1] ?? "0";
  return (Number.parseInt(flags, 8) & O_RDWR) !== 0;
}

/** Fails as a closed file does. */
async function closedOutput(): Promise<NodeJS.WritableStream> {
  const { Writable } = await import("node:stream");
  const failure = Object.assign(new Error("standard output is closed"), { code: "EBADF" });
  return new Writable({ write: (_chunk, _encoding, done) => done(failure) });
}

/** null(4): character device 1, 3; open(2). */
const DEV_NULL = 0x0103;
const O_RDWR = 0o2;

function giveUp(): void {
  const failure = new LegerError("FAILED", "not done within 5 s", {
    hints: ["see that whoever asked reads the answer, and try again"],
  });
  process.exit(fail(failure));
}

/** Tells what went wrong and gives the exit status for it. A reader that went away is told nothing. */
function fail(error: unknown): number {
  const code = error instanceof LegerError ? undefined : systemCode(error);
  if (code === "EPIPE") return exitStatusOf(new LegerError("IO", ""));
  const failure = WRITE_ERRORS.has(code)
    ? new LegerError("IO", `cannot write standard output (${code})`)
    : error;
  process.stderr.write(speak(failure));
  if (process.env["LEGER_DEBUG"] === "1") process.stderr.write(framesOf(failure));
  return exitStatusOf(failure);
}

const WRITE_ERRORS: ReadonlySet<string | undefined> = new Set(["ENOSPC", "EDQUOT", "EIO", "EFBIG", "EBADF"]);

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

await main();
