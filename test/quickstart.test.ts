/** quickstart — the product's first impression: it runs, tells no value, and leaves nothing, however it ends. */
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { randomInt } from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { SetecClient } from "../src/setec/client.ts";
import { fromHere, PROJECT_DIR } from "./support/legerd.ts";
import { workingPodman } from "./support/podman.ts";

const QUICKSTART = path.join(PROJECT_DIR, "scripts/quickstart.ts");
const TEN_AND_THE_ROTATED = 11;
/** Lines that are written for sure, and those up to where the keys are stored. */
const [LINES, EARLY] = [65, 26];

describe("a quickstart", () => {
  test("shows every step, tells no value, leaves nothing, and the user's own podman as it was", async () => {
    using place = makeRuntimeDir();
    const before = podmanState();
    using watch = watchProcesses(place.path);
    const run = start(place.path, []);
    await run.wrote("7. ");
    // Held there, so that its daemon is still up while we read from it.
    run.kill("SIGSTOP");
    const values = await valuesIn(place.path);
    run.kill("SIGCONT");
    expect(await run.ended).toEqual({ status: 0, signal: null });

    expect(run.stderr()).toBe("");
    for (const step of [1, 2, 3, 4, 5, 6, 7]) expect(run.stdout()).toMatch(new RegExp(`^${step}\\. `, "m"));
    for (const verb of ["store", "list", "lookup", "delete"]) {
      expect(run.stdout()).toMatch(new RegExp(`^ +${verb} .* m?s$`, "m"));
    }
    expect(run.stdout()).toMatch(/openwebui\.env, mode 0600/);
    expect(run.stdout()).not.toContain("\u001B");

    expect(values).toHaveLength(TEN_AND_THE_ROTATED);
    expect(watch.seen()).toContain("legerd.ts");
    expect(watch.seen()).toContain("SECRET_ID=");
    for (const value of values) {
      expect(run.stdout().includes(value)).toBe(false);
      expect(watch.seen().includes(value)).toBe(false);
    }
    expectNothingIn(place.path);

    expect(podmanState()).toBe(before);
    if (before === undefined) {
      expect(run.stdout()).toMatch(/^8\. Podman itself: not here\n/m);
    } else {
      expect(run.stdout()).toMatch(/^8\. Podman \d.* itself/m);
      expect(run.stdout()).toMatch(
        /\$ podman secret ls .*\n +ID +NAME +DRIVER\n(?: +[0-9a-f]{25} +\w+ +shell\n){10}/,
      );
    }
  });

  test.concurrent.for([
    ["SIGINT to all in the foreground", "SIGINT", 130],
    ["SIGTERM", "SIGTERM", 143],
    ["SIGHUP", "SIGHUP", 129],
  ] as const)("%s ends it, and nothing is left", async ([, signal, status]) => {
    using place = makeRuntimeDir();
    const run = start(place.path, ["--no-podman"]);
    // One of them at any moment; for the others, which are answered by the same code, an early one will do.
    const all = signal === "SIGINT";
    const lines = randomInt(1, all ? LINES : EARLY);
    await run.wroteLines(lines);
    run.kill(signal, { all });
    // npm passes on what the terminal has sent already, and people press it twice.
    run.kill(signal, { all });
    expect({ lines, ...(await run.ended) }).toEqual({ lines, status, signal: null });
    expect(run.stderr()).toBe("quickstart: interrupted; everything is removed again\n");
    expectNothingIn(place.path);
  });

  test("nothing is left even when it is killed at once", async () => {
    using place = makeRuntimeDir();
    const run = start(place.path, ["--no-podman"]);
    const lines = randomInt(1, EARLY);
    await run.wroteLines(lines);
    run.kill("SIGKILL", { all: true });
    expect(await run.ended).toEqual({ status: null, signal: "SIGKILL" });
    await expect.poll(() => leftIn(place.path), { timeout: 10_000 }).toEqual([]);
  });

  test("who reads only its first line ends it quietly", async () => {
    using place = makeRuntimeDir();
    const run = start(place.path, ["--no-podman"]);
    await run.wroteLines(1);
    run.stopReading();
    expect(await run.ended).toEqual({ status: 0, signal: null });
    expect(run.stderr()).toBe("");
    expectNothingIn(place.path);
  });

  test("a failure is told in one line, with its own exit status", async () => {
    using place = makeRuntimeDir();
    const run = start(place.path, ["--nonsense"]);
    expect(await run.ended).toEqual({ status: 64, signal: null });
    expect(run.stderr()).toMatch(/^quickstart: error: unknown argument\n/);
    expectNothingIn(place.path);
  });

  test.skipIf(workingPodman() === undefined)(
    "leaves nothing when podman is interrupted (needs podman)",
    async () => {
      using place = makeRuntimeDir();
      const run = start(place.path, []);
      await run.wrote("8. ");
      // Before, while or after the entries are made, an image is built, and a container runs.
      await run.wroteLines(run.lines() + randomInt(4));
      run.kill("SIGINT", { all: true });
      await run.ended;
      expectNothingIn(place.path);
    },
  );
});

type Run = {
  stdout: () => string;
  stderr: () => string;
  lines: () => number;
  /** Resolves once this stands in its output. */
  wrote(text: string): Promise<void>;
  wroteLines(count: number): Promise<void>;
  stopReading(): void;
  kill(signal: NodeJS.Signals, options?: { all?: boolean }): void;
  ended: Promise<{ status: number | null; signal: NodeJS.Signals | null }>;
};

/** In a process group of its own, as a shell starts it. */
function start(runtimeDir: string, args: readonly string[]): Run {
  const child: ChildProcess = spawn(process.execPath, [QUICKSTART, ...args], {
    env: { ...fromHere(), HOME: process.env["HOME"], XDG_RUNTIME_DIR: runtimeDir },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  let [stdout, stderr] = ["", ""];
  const waiting = new Set<() => void>();
  child.stderr?.setEncoding("utf8").on("data", (text: string) => void (stderr += text));
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
    for (const look of waiting) look();
  });
  const lines = (): number => stdout.split("\n").length - 1;
  const ended = new Promise<Awaited<Run["ended"]>>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status, signal) => resolve({ status, signal }));
  });
  const until = async (condition: () => boolean, what: string): Promise<void> => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const look = (): void => (condition() ? resolve() : undefined);
    waiting.add(look);
    look();
    await Promise.race([promise, ended]);
    waiting.delete(look);
    if (!condition()) throw new Error(`it ended before it wrote ${what}:\n${stdout}\n${stderr}`);
  };
  return {
    stdout: () => stdout,
    stderr: () => stderr,
    lines,
    wrote: (text) => until(() => stdout.includes(text), JSON.stringify(text)),
    wroteLines: (count) => until(() => lines() >= count, `${count} lines`),
    stopReading: () => void child.stdout?.destroy(),
    kill: (signal, { all = false } = {}) => {
      const pid = child.pid ?? 0;
      if (pid > 0 && child.exitCode === null && child.signalCode === null)
        process.kill(all ? -pid : pid, signal);
    },
    ended,
  };
}

/** What XDG_RUNTIME_DIR is for a user: on tmpfs where there is one. */
function makeRuntimeDir(): Disposable & { path: string } {
  const parent = fs.existsSync("/dev/shm") ? "/dev/shm" : os.tmpdir();
  const directory = fs.mkdtempSync(path.join(parent, "qs-test-"));
  return { path: directory, [Symbol.dispose]: () => fs.rmSync(directory, { recursive: true, force: true }) };
}

function expectNothingIn(runtimeDir: string): void {
  expect(leftIn(runtimeDir)).toEqual([]);
}

/** Files, processes and mounts: all that a quickstart makes has this directory in its name or environment. */
function leftIn(runtimeDir: string): string[] {
  const mounts = fs.readFileSync("/proc/self/mountinfo", "utf8").split("\n");
  return [
    ...fs.readdirSync(runtimeDir),
    ...mounts.filter((line) => line.includes(`${runtimeDir}/`)),
    ...processesOf(runtimeDir),
  ];
}

function processesOf(runtimeDir: string, others: ReadonlySet<string> = new Set()): string[] {
  return fs
    .readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry) && entry !== String(process.pid) && !others.has(entry))
    .map((pid) => `${read(`/proc/${pid}/cmdline`)}\0${read(`/proc/${pid}/environ`)}`)
    .filter((text) => text.includes(`${runtimeDir}/`));
}

/** Looks at the arguments and the environment of all processes that a quickstart starts from now on, again and again. */
function watchProcesses(runtimeDir: string): Disposable & { seen: () => string } {
  const seen = new Set<string>();
  const others = new Set(fs.readdirSync("/proc"));
  const timer = setInterval(() => {
    for (const text of processesOf(runtimeDir, others)) seen.add(text);
  }, 10);
  return { seen: () => [...seen].join("\n"), [Symbol.dispose]: () => clearInterval(timer) };
}

function read(file: string): string {
  try {
    return fs.readFileSync(file, "latin1");
  } catch {
    return "";
  }
}

/** Every version of every secret, from the daemon of a quickstart that is under way. */
async function valuesIn(runtimeDir: string): Promise<string[]> {
  const [base = ""] = fs.readdirSync(runtimeDir);
  await using client = new SetecClient({ socketPath: path.join(runtimeDir, base, "run/leger/legerd.sock") });
  const values: string[] = [];
  for (const { Name, Versions } of await client.list()) {
    for (const version of Versions) {
      const { value } = await client.getVersion(Name, version);
      values.push(Buffer.from(value.reveal()).toString());
    }
  }
  return values;
}

/** What the user's own Podman has; undefined where there is none that works. */
function podmanState(): string | undefined {
  if (workingPodman() === undefined) return undefined;
  const commands = [
    ["secret", "ls"],
    ["images", "--all"],
    ["ps", "--all"],
    ["volume", "ls"],
  ];
  return commands.map((args) => execFileSync("podman", args, { encoding: "utf8" })).join("\n");
}
