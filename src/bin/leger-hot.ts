/**
 * leger-hot — what is installed as /usr/bin/leger: the commands that Podman and units wait for, compiled with Bun.
 * Every other command line is handed over, unchanged, to the whole CLI, which takes this process's place.
 */

import { LegerError } from "../core/error.ts";
import { become } from "../core/exec-bun.ts";
import { bunFiles } from "../core/files-bun.ts";
import { isReady, libc, POLLOUT, type Libc } from "../core/libc-bun.ts";
import { bunWire } from "../core/wire-bun.ts";
import { hotCommand } from "../cli/hot.ts";
import { runHot, sayFailure, type Runtime } from "../cli/run-hot.ts";

/** What is used of Bun's API. */
declare const Bun: {
  stdin: { stream(): AsyncIterable<Uint8Array> };
  stdout: object;
  write(to: object, bytes: Uint8Array): Promise<number>;
};

const runtime: Runtime = {
  env: process.env,
  files: bunFiles,
  wireTo: bunWire,
  stdin: () => Bun.stdin.stream(),
  async write(bytes) {
    const rest = libc === undefined ? bytes : writeAtOnce(libc, bytes);
    // Not process.stdout: making that stream takes longer than all else together.
    if (rest.length > 0) await Bun.write(Bun.stdout, rest);
  },
  say(text) {
    try {
      process.getBuiltinModule("node:fs").writeSync(2, text);
    } catch {
      // Nobody hears it.
    }
  },
  exit: (status) => process.exit(status),
};

/** As much as standard output takes without anybody waiting for it, or as goes without a failure; gives back the rest. */
function writeAtOnce(library: Libc, bytes: Uint8Array): Uint8Array {
  let rest = bytes;
  while (rest.length > 0 && isReady(library, STDOUT, POLLOUT, 0)) {
    const written = library.write(STDOUT, rest, Math.min(rest.length, PIPE_BUF));
    if (written < 0) break;
    rest = rest.subarray(written);
  }
  return rest;
}

const STDOUT = 1;
/** pipe(7): a pipe that is ready for writing takes this much. */
const PIPE_BUF = 4096;

function main(): void {
  const command = hotCommand(process.argv.slice(2));
  if (command !== undefined) void runHot(command, runtime).then(runtime.exit);
  else handOver();
}

/** The whole CLI lies at ../libexec/leger/leger, as seen from this program. */
function handOver(): never {
  const cli = process.getBuiltinModule("node:path").resolve(process.execPath, "../../libexec/leger/leger");
  try {
    become(cli, "leger");
  } catch {
    // Without /proc, or where no machine code may be made at run time: Bun's way has all that most commands need.
    handOverByBun(cli);
  }
  const failure = new LegerError(
    "FAILED",
    `cannot run ${cli}, which has all commands but driver and secrets fetch`,
    { hints: ["install the package leger again"] },
  );
  return runtime.exit(sayFailure(failure, runtime));
}

function handOverByBun(cli: string): void {
  try {
    process.execve?.(cli, ["leger", ...process.argv.slice(2)], process.env);
  } catch {
    // It cannot be run, which is said by whoever asked for it.
  }
}

main();
