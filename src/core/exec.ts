/** exec — runs a program: an argument array, a deadline, bytes back. */

import { spawn } from "node:child_process";
import { LegerError, systemCode } from "./error.ts";

export type RunOptions = {
  /** The whole environment of the program; what systemd hands a service to talk back with is taken out. */
  env: Readonly<Record<string, string | undefined>>;
  /** For the one program that is to speak for our unit: its NOTIFY_SOCKET. */
  notifySocket?: string;
  cwd?: string;
  /** Absent: /dev/null. Present: Node gives a socket, which Podman before 5.8 does not read as `-`. */
  stdin?: Uint8Array;
  timeoutMs: number;
  signal?: AbortSignal;
  /** The most that standard output may be; more is a failure. Default: 8 MiB. */
  maxBytes?: number;
  /** Fail unless the exit status is 0. */
  check?: boolean;
};

export type RunResult = {
  /** The exit status; null when a signal ended it. */
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: Uint8Array;
  /** At most its first 64 KiB. */
  stderr: string;
};

/**
 * Runs `file` (looked up in env.PATH) to its end, without a shell. A non-zero status is a result, not a
 * failure, unless `check`. FAILED: not there, cannot be started, over its deadline, aborted, too much output;
 * it and all it started are then killed. Standard error may show in a message, standard output and the
 * arguments never.
 */
export async function run(file: string, args: readonly string[], options: RunOptions): Promise<RunResult> {
  const {
    env,
    notifySocket,
    cwd,
    stdin,
    timeoutMs,
    signal: abort,
    maxBytes = 8 * 1024 * 1024,
    check = false,
  } = options;
  if (abort?.aborted === true) throw failure(file, "was interrupted");
  const child = spawn(file, args, {
    env: {
      ...withoutSystemd(env),
      ...(notifySocket === undefined ? {} : { NOTIFY_SOCKET: notifySocket }),
    },
    ...(cwd === undefined ? {} : { cwd }),
    stdio: [stdin === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    // A process group of its own, so that what it started can be killed with it.
    detached: true,
  });
  const { promise, resolve, reject } = Promise.withResolvers<Omit<RunResult, "stdout" | "stderr">>();

  const stdout = new Capture();
  const stderr = new Capture();
  child.stdout?.on("data", (chunk: Buffer) => {
    stdout.add(chunk);
    if (stdout.bytes > maxBytes) reject(failure(file, `wrote more than ${maxBytes} bytes`));
  });
  child.stderr?.on("data", (chunk: Buffer) => {
    if (stderr.bytes < MAX_STDERR_BYTES) stderr.add(chunk);
  });
  child.on("error", (error) => reject(unstarted(file, error)));
  child.on("close", (status, signal) => resolve({ status, signal }));
  // A program need not read what it is given: EPIPE is no failure.
  child.stdin?.on("error", () => {});
  child.stdin?.end(stdin);

  const deadline = setTimeout(() => {
    reject(failure(file, `did not finish within ${timeoutMs / 1000} s`));
  }, timeoutMs);
  const interrupted = (): void => reject(failure(file, "was interrupted"));
  abort?.addEventListener("abort", interrupted, { once: true });

  let finished = false;
  try {
    const ended = await promise;
    finished = true;
    const result = {
      ...ended,
      stdout: stdout.whole(),
      stderr: stderr.whole().toString("utf8", 0, MAX_STDERR_BYTES),
    };
    if (check && ended.status !== 0) throw failure(file, reasonOf(result));
    return result;
  } finally {
    clearTimeout(deadline);
    abort?.removeEventListener("abort", interrupted);
    if (!finished) kill(child.pid);
    // A grandchild that left the group may still hold these; it must not hold us.
    for (const stream of [child.stdin, child.stdout, child.stderr]) stream?.destroy();
  }
}

const MAX_STDERR_BYTES = 64 * 1024;

/** sd_notify(3), sd_listen_fds(3): whoever has these speaks for the unit, or takes its sockets. */
const SYSTEMD_VARIABLES = new Set([
  "NOTIFY_SOCKET",
  "LISTEN_FDS",
  "LISTEN_PID",
  "LISTEN_FDNAMES",
  "LISTEN_PIDFDID",
  "WATCHDOG_USEC",
]);

class Capture {
  readonly #chunks: Buffer[] = [];
  bytes = 0;

  add(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.bytes += chunk.length;
  }

  whole(): Buffer {
    return Buffer.concat(this.#chunks, this.bytes);
  }
}

function withoutSystemd(env: RunOptions["env"]): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !SYSTEMD_VARIABLES.has(name)));
}

function kill(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // The group has just ended by itself.
  }
}

function failure(file: string, what: string, cause?: unknown): LegerError {
  return new LegerError("FAILED", `${file} ${what}`, { cause });
}

function unstarted(file: string, error: Error): LegerError {
  const code = systemCode(error);
  if (code === "ENOENT") {
    return new LegerError("FAILED", `${file}: not found`, {
      hints: [`install it, or see that PATH names its directory`],
      cause: error,
    });
  }
  return failure(file, `cannot be started (${code ?? error.name})`, error);
}

/** How it ended, with the last line of its standard error, made fit for one line on a terminal. */
function reasonOf({ status, signal, stderr }: RunResult): string {
  const how = signal === null ? `failed (exit status ${status})` : `was killed by ${signal}`;
  const lastLine = stderr.trimEnd().split("\n").at(-1) ?? "";
  const said = lastLine
    .replaceAll(/\p{Cc}/gu, " ")
    .trim()
    .slice(0, 300);
  return said === "" ? how : `${how}: ${said}`;
}
