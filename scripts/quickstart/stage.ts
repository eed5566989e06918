/** stage — the private directories of one quickstart, and the one way to start programs in there. */

import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { lstatSync, mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { LegerError } from "../../src/core/error.ts";
import { run, type RunResult } from "../../src/core/exec.ts";

export type StageOptions = {
  /** XDG_RUNTIME_DIR, where there is one. */
  runtimeDir: string | undefined;
  /** Where temporary files go otherwise. */
  tmpDir: string;
  /** PATH. */
  path: string;
  euid: number;
  /** NODE_COMPILE_CACHE, where there is one. */
  compileCache?: string | undefined;
  /** Ends every program started through the stage. */
  signal: AbortSignal;
};

/** Makes the directories, and starts first of all the process that will remove them. */
export function openStage(options: StageOptions): Stage {
  return new Stage(options);
}

export type { Stage };

class Stage {
  /** Everything with a key in it lies in here: in memory, where the machine has such a place. */
  readonly base: string;
  readonly inMemory: boolean;
  /** What must be executable, and Podman's: `base`, or a directory beside it where files in `base` may not be run or its path is long. */
  readonly tools: string;
  /** What systemd calls %t, for leger and legerd in here. */
  readonly runtimeDir: string;
  /** PATH, a home of their own, a runtime directory of their own, and the marker; of the caller's at most where compiled code is kept. */
  readonly env: Readonly<Record<string, string>>;
  /** Of whoever has it in its environment, nothing stays. */
  readonly marker: { readonly name: string; readonly value: string };
  readonly #signal: AbortSignal;
  readonly #janitor: ChildProcess;
  readonly #leftovers: Promise<string>;

  constructor({ runtimeDir, tmpDir, path, euid, compileCache, signal }: StageOptions) {
    this.#signal = signal;
    this.base = mkdtempSync(join(placeInMemory(runtimeDir, euid) ?? tmpDir, PREFIX));
    const fits = Buffer.byteLength(runRootIn(this.base)) <= MAX_RUN_ROOT_BYTES;
    this.tools = fits && mayExecute(this.base) ? this.base : executableDirectory(tmpDir);
    this.marker = { name: "LEGER_QUICKSTART", value: this.base };
    const directories = [...new Set([this.base, this.tools])];
    // A session of its own: Ctrl-C is for everybody in the foreground but this one.
    this.#janitor = spawn(
      process.execPath,
      [JANITOR, `${this.marker.name}=${this.marker.value}`, ...directories],
      {
        cwd: "/",
        env: { PATH: path },
        stdio: ["pipe", "pipe", "ignore"],
        detached: true,
      },
    );
    this.#leftovers = leftoversOf(this.#janitor, directories);

    this.inMemory = isTmpfs(this.base);
    this.runtimeDir = join(this.base, "run");
    const home = join(this.base, "home");
    for (const directory of [this.runtimeDir, home]) mkdirSync(directory, { mode: 0o700 });
    this.env = {
      PATH: path,
      HOME: home,
      TMPDIR: this.tools,
      XDG_RUNTIME_DIR: this.runtimeDir,
      // Node keeps there what it has compiled: the second command starts in half the time.
      NODE_COMPILE_CACHE: compileCache ?? join(this.base, "cache"),
      // Makes root's leger look for everything where a user's would, and so in here.
      ...(euid === 0 ? { _CONTAINERS_ROOTLESS_UID: "1000" } : {}),
      [this.marker.name]: this.marker.value,
    };
  }

  /** Where Podman may have its `--runroot`. */
  get podmanRunRoot(): string {
    return runRootIn(this.tools);
  }

  /** A path in here as it is shown. */
  short(path: string): string {
    return path.replace(`${this.base}/`, "…/");
  }

  /** Runs a program to its end; FAILED when it takes over a minute, or when the quickstart is interrupted. */
  async run(
    file: string,
    args: readonly string[],
    { stdin, env = this.env, check = true }: { stdin?: Uint8Array; env?: Stage["env"]; check?: boolean } = {},
  ): Promise<RunResult & { ms: number }> {
    const started = performance.now();
    const result = await run(file, args, {
      env,
      cwd: this.base,
      timeoutMs: 60_000,
      signal: this.#signal,
      check,
      ...(stdin === undefined ? {} : { stdin }),
    });
    return { ...result, ms: performance.now() - started };
  }

  /** The leger of this checkout; its failure is one of the quickstart, in its own words. */
  async leger(args: readonly string[], options: { stdin?: Uint8Array; env?: Stage["env"] } = {}) {
    const result = await this.run(process.execPath, [LEGER, ...args], { ...options, check: false });
    if (result.status === 0) return result;
    const [what = "", ...hints] = result.stderr.trim().split("\n");
    throw new LegerError(
      "FAILED",
      `leger ${args.slice(0, 2).join(" ")}: ${what.replace("leger: error: ", "")}`,
      {
        hints: hints.map((hint) => hint.replace("leger: hint: ", "")),
      },
    );
  }

  /** Starts the legerd of this checkout and resolves once it answers. It ends with the stage. */
  async startLegerd(): Promise<{ ms: number }> {
    const started = performance.now();
    const child = spawn(process.execPath, [LEGERD], {
      cwd: this.base,
      env: this.env,
      stdio: ["ignore", "ignore", "pipe"],
      detached: true,
    });
    let said = "";
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      said += chunk;
      if (said.includes("legerd: ready")) resolve();
    });
    child.on("error", reject);
    child.on("exit", () =>
      reject(new LegerError("FAILED", `legerd ended before it was ready: ${said.trim()}`)),
    );
    await this.unlessInterrupted(promise);
    child.stderr.removeAllListeners("data").resume();
    return { ms: performance.now() - started };
  }

  /** A program that is another one with some arguments, for those who can only be told a path. */
  launcher(name: string, ...command: readonly string[]): string {
    const file = join(this.tools, name);
    writeFileSync(file, `#!/bin/sh\nexec ${command.map(quoted).join(" ")} "$@"\n`, { mode: 0o700 });
    return file;
  }

  /** The leger of this checkout at a path of its own. */
  legerLauncher(): string {
    return this.launcher("leger", process.execPath, LEGER);
  }

  /** The same, but FAILED as soon as the quickstart is interrupted. */
  async unlessInterrupted<T>(promise: Promise<T>): Promise<T> {
    const { promise: interrupted, reject } = Promise.withResolvers<never>();
    const listener = (): void => reject(interruption());
    this.#signal.addEventListener("abort", listener, { once: true });
    try {
      this.assertNotInterrupted();
      return await Promise.race([promise, interrupted]);
    } finally {
      this.#signal.removeEventListener("abort", listener);
    }
  }

  assertNotInterrupted(): void {
    if (this.#signal.aborted) throw interruption();
  }

  /** Ends all processes, removes all files, and resolves with what could not be removed, a line each. */
  async close(): Promise<string> {
    this.#janitor.stdin?.end();
    return this.#leftovers;
  }
}

const PREFIX = "leger-quickstart-";
const JANITOR = fileURLToPath(new URL("janitor.ts", import.meta.url));
const LEGER = fileURLToPath(new URL("../../src/bin/leger.ts", import.meta.url));
const LEGERD = fileURLToPath(new URL("../../src/bin/legerd.ts", import.meta.url));

/** The user's runtime directory, or the memory that every Linux shares. */
function placeInMemory(runtimeDir: string | undefined, euid: number): string | undefined {
  if (runtimeDir !== undefined && isPrivate(runtimeDir, euid) && isUsable(runtimeDir)) return runtimeDir;
  return isUsable("/dev/shm") ? "/dev/shm" : undefined;
}

function isPrivate(directory: string, euid: number): boolean {
  try {
    const stats = lstatSync(directory);
    return (
      directory.startsWith("/") && stats.isDirectory() && stats.uid === euid && (stats.mode & 0o022) === 0
    );
  } catch {
    return false;
  }
}

/** Podman refuses a longer one ("the specified runroot is longer than 50 characters", libpod). */
const MAX_RUN_ROOT_BYTES = 50;

function runRootIn(directory: string): string {
  return join(directory, "r");
}

/** A unix socket's path has 107 bytes; legerd's takes 50 of them below this directory. */
const MAX_PATH_BYTES = 50;

function isUsable(directory: string): boolean {
  try {
    if (Buffer.byteLength(directory) > MAX_PATH_BYTES || !isTmpfs(directory)) return false;
    rmSync(mkdtempSync(join(directory, PREFIX)), { recursive: true });
    return true;
  } catch {
    return false;
  }
}

/** statfs(2): TMPFS_MAGIC. */
function isTmpfs(directory: string): boolean {
  return statfsSync(directory).type === 0x0102_1994;
}

/** Beside the base, in the first place where files may be run; where there is none, just beside it. */
function executableDirectory(tmpDir: string): string {
  for (const place of new Set([tmpDir, "/tmp", "/var/tmp"])) {
    try {
      const directory = mkdtempSync(join(place, PREFIX));
      if (mayExecute(directory)) return directory;
      rmSync(directory, { recursive: true });
    } catch {
      // It isn't there, or not for us.
    }
  }
  return mkdtempSync(join(tmpDir, PREFIX));
}

/** Containers often have /dev/shm mounted "noexec". */
function mayExecute(directory: string): boolean {
  const script = join(directory, "try");
  try {
    writeFileSync(script, "#!/bin/sh\n", { mode: 0o700 });
    execFileSync(script, { stdio: "ignore" });
    return true;
  } catch {
    return false;
  } finally {
    rmSync(script, { force: true });
  }
}

function interruption(): LegerError {
  return new LegerError("FAILED", "interrupted");
}

/** A word for the shell. */
function quoted(word: string): string {
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}

async function leftoversOf(janitor: ChildProcess, directories: readonly string[]): Promise<string> {
  const told = janitor.stdout === null ? "" : text(janitor.stdout);
  try {
    const [status] = await once(janitor, "close");
    if (status === 0) return (await told).trim();
  } catch {
    // It could not be started; then nothing else was.
  }
  return directories.map((directory) => `${directory}: not removed`).join("\n");
}
