/**
 * leger-hot — what is installed as /usr/bin/leger: the commands that Podman and units wait for, compiled with Bun.
 * Every other command line is handed over, unchanged, to the whole CLI, which takes this process's place.
 */

import { LegerError } from "../core/error.ts";
import { bunFiles } from "../core/files-bun.ts";
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
  // Not process.stdout: making that stream takes longer than all else together.
  write: async (bytes) => void (await Bun.write(Bun.stdout, bytes)),
  say(text) {
    try {
      process.getBuiltinModule("node:fs").writeSync(2, text);
    } catch {
      // Nobody hears it.
    }
  },
  exit: (status) => process.exit(status),
};

function main(): void {
  const argv = process.argv.slice(2);
  const command = hotCommand(argv);
  if (command !== undefined) void runHot(command, runtime).then(runtime.exit);
  else handOver(argv);
}

/** The whole CLI lies at ../libexec/leger/leger, as seen from this program. Only returns by ending the process. */
function handOver(argv: readonly string[]): void {
  const { accessSync, constants } = process.getBuiltinModule("node:fs");
  const cli = process.getBuiltinModule("node:path").resolve(process.execPath, "../../libexec/leger/leger");
  try {
    accessSync(cli, constants.X_OK);
    process.execve?.(cli, ["leger", ...argv], process.env);
  } catch (cause) {
    const failure = new LegerError(
      "FAILED",
      `cannot run ${cli}, which has all commands but driver and secrets fetch`,
      {
        hints: ["install the package leger again"],
        cause,
      },
    );
    runtime.exit(sayFailure(failure, runtime));
  }
}

main();
