/** run-hot — one hot command from its start to an exit status: its deadline, its output, how it says that it failed. */

import { exitStatusOf, framesOf, LegerError, speak, systemCode } from "../core/error.ts";
import type { Files } from "../core/files.ts";
import { worldOf } from "../core/paths.ts";
import type { Wire } from "../core/wire.ts";
import type { HotWorld } from "./hot.ts";

/** What the two runtimes do each in their own way. */
export type Runtime = {
  env: Readonly<Record<string, string | undefined>>;
  files: Files;
  wireTo: (socketPath: string) => Wire;
  stdin: () => AsyncIterable<Uint8Array>;
  /** Resolves when standard output has all bytes; fails with a system error. */
  write: (bytes: Uint8Array) => Promise<void>;
  /** Writes to standard error; never fails, whoever reads it may have gone. */
  say: (text: string) => void;
  /** Ends the process at once. */
  exit: (status: number) => never;
};

/** Since the process was started: by then an answer must be there, or a failure be told … */
const ANSWER_WITHIN_MS = 4_500;
/** … and by then it is over, whatever still waits. Podman's limit for us is 5 s. */
const END_WITHIN_MS = 4_900;

/** Resolves with the exit status; never rejects. Something may still wait then: end the process. */
export async function runHot(command: (world: HotWorld) => Promise<void>, runtime: Runtime): Promise<number> {
  const { env, files, wireTo, stdin, write, exit } = runtime;
  setTimeout(
    () => {
      const failure = new LegerError("FAILED", "not done within 5 s", {
        hints: ["see that whoever asked reads the answer, and try again"],
      });
      exit(sayFailure(failure, runtime));
      // Node warns of a negative delay, in words that Podman would show.
    },
    Math.max(1, END_WITHIN_MS - performance.now()),
  ).unref();
  try {
    const world: HotWorld = Object.assign(worldOf(env, files), {
      files,
      wireTo,
      stdin,
      async print(bytes: Uint8Array) {
        if (isStdoutClosed(files)) throw new LegerError("IO", "standard output is closed");
        await write(bytes);
      },
      remainingMs: () => ANSWER_WITHIN_MS - performance.now(),
    });
    await command(world);
    return 0;
  } catch (error) {
    return sayFailure(error, runtime);
  }
}

/** Tells what went wrong and gives the exit status for it. A reader that went away is told nothing. */
export function sayFailure(error: unknown, { env, say }: Pick<Runtime, "env" | "say">): number {
  const code = error instanceof LegerError ? undefined : systemCode(error);
  if (code === "EPIPE") return exitStatusOf(new LegerError("IO", ""));
  const failure = WRITE_ERRORS.has(code)
    ? new LegerError("IO", `cannot write standard output (${code})`)
    : error;
  say(speak(failure));
  if (env["LEGER_DEBUG"] === "1") say(framesOf(failure));
  return exitStatusOf(failure);
}

/**
 * In place of a closed standard output both runtimes open /dev/null for reading and writing (`PlatformInit`, Node's
 * src/node.cc; `bun_initialize_process`, Bun's c-bindings.cpp), where a secret would vanish and the lookup pass for
 * a success. A shell's `> /dev/null` is for writing only.
 */
export function isStdoutClosed(files: Files): boolean {
  if (files.fstat(1).rdev !== DEV_NULL) return false;
  const flags = /^flags:\s*([0-7]+)$/m.exec(files.readText("/proc/self/fdinfo/1") ?? "")?.[1] ?? "0";
  return (Number.parseInt(flags, 8) & O_RDWR) !== 0;
}

/** null(4): character device 1, 3; open(2). */
const DEV_NULL = 0x0103;
const O_RDWR = 0o2;

const WRITE_ERRORS: ReadonlySet<string | undefined> = new Set(["ENOSPC", "EDQUOT", "EIO", "EFBIG", "EBADF"]);
