/** activation — legerd started with sockets that are open already, as systemd does it. */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { withSockets } from "./descriptors.ts";
import { fromHere, LEGERD_COMMAND, type Places } from "./legerd.ts";

/** A user's legerd wants a home; there is no configuration in this one. */
const ENVIRONMENT = { ...fromHere(), HOME: "/nonexistent" };

const HOLDER = fileURLToPath(new URL("socket-holder.ts", import.meta.url));

/** How legerd is run on a test's places. Without a `--socket` it uses the door of its configuration. */
export function legerdCommand({ stateDir, socket }: Places, config?: string): string[] {
  const door = config === undefined ? ["--socket", socket] : ["--config", config];
  return [...LEGERD_COMMAND, "--state", stateDir, ...door];
}

/** Runs legerd with these descriptors to its end, which must be an early one; what it said and its exit status. */
export async function runWithDescriptors(
  descriptors: readonly { fd: number; name: string }[],
  command: readonly string[],
): Promise<{ status: number | null; stderr: string }> {
  const { file, args } = withSockets(
    descriptors.map(({ name }) => name),
    command,
  );
  const child = spawn(file, args, {
    stdio: ["ignore", "ignore", "pipe", ...descriptors.map(({ fd }) => fd)],
    env: ENVIRONMENT,
    timeout: 20_000,
    killSignal: "SIGKILL",
  });
  let stderr = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => void (stderr += text));
  const { promise, resolve } = Promise.withResolvers<number | null>();
  child.once("close", resolve);
  return { status: await promise, stderr };
}

export type HeldSocket = AsyncDisposable & {
  /** Runs legerd with the socket until it ends; resolves with its exit status. */
  run(): Promise<string>;
  /** Everything that the runs wrote to standard error so far. */
  stderr: () => string;
};

/** A socket that is open before legerd is, and stays so after it. */
export async function holdSocket(
  socket: string,
  { name, mode = 0o600, command }: { name: string; mode?: number; command: readonly string[] },
): Promise<HeldSocket> {
  const child = spawn(process.execPath, [HOLDER, socket, mode.toString(8), name, ...command], {
    stdio: ["pipe", "pipe", "pipe"],
    env: ENVIRONMENT,
    // A process group of its own, so that a legerd of a failed test ends with it.
    detached: true,
  });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => void (stderr += text));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ended = new Promise((resolve) => child.once("close", resolve));
  return {
    async run() {
      child.stdin.write(".");
      const { value } = await lines.next();
      return String(value);
    },
    stderr: () => stderr,
    async [Symbol.asyncDispose]() {
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
      await ended;
    },
  };
}
