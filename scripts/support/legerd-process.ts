/** legerd-process — a legerd of a script's own: started, awaited, and never left behind. */
import { spawn, type ChildProcess } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";

export type LegerdProcess = {
  child: ChildProcess;
  /** Rejects, with what it said, when it ends before it is ready or takes too long. */
  ready: Promise<void>;
  /** What it wrote to standard error so far. */
  said: () => string;
  /** Its exit status; null when a signal ended it. */
  ended: Promise<number | null>;
};

/** legerd as it is in this tree. */
export const LEGERD = fileURLToPath(new URL("../../src/bin/legerd.ts", import.meta.url));

const READY_TIMEOUT_MS = 20_000;

type Launch = {
  /** A program, and the arguments that make it a legerd. */
  command?: readonly [program: string, ...string[]];
  env?: Readonly<Record<string, string>>;
};

/** `base`: a directory of the caller's, which becomes its home and keeps Node's cache of compiled modules unless ours is elsewhere. */
export function launchLegerd(
  base: string,
  args: readonly string[],
  { command = [process.execPath, LEGERD], env = {} }: Launch = {},
): LegerdProcess {
  const [program, ...first] = command;
  const child = spawn(program, [...first, ...args], {
    stdio: ["ignore", "ignore", "pipe"],
    env: {
      PATH: process.env["PATH"],
      HOME: base,
      NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"] ?? path.join(base, "compiled"),
      ...env,
    },
  });
  const endWithUs = (): void => void child.kill("SIGKILL");
  process.on("exit", endWithUs);
  const { promise: ended, resolve: end } = Promise.withResolvers<number | null>();
  const { promise: ready, resolve: getReady, reject: fail } = Promise.withResolvers<void>();
  const deadline = setTimeout(() => fail(new Error("legerd did not get ready in time")), READY_TIMEOUT_MS);
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
    if (said.includes("legerd: ready")) getReady();
  });
  child.once("close", (status: number | null) => {
    clearTimeout(deadline);
    process.off("exit", endWithUs);
    fail(new Error(`legerd ended before it was ready; it said: ${JSON.stringify(said)}`));
    end(status);
  });
  // Whoever kills it on purpose does not wait for it to get ready.
  ready.catch(() => {});
  return { child, ready, said: () => said, ended };
}
