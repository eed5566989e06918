/** machine — a whole Debian with systemd and rootless Podman, booted for one test file, and what tests do with it. */
import { spawn, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach } from "vitest";
import { RELEASES, rootOf, type Release } from "../../scripts/machine/root.ts";
import { LegerError } from "../../src/core/error.ts";
import { run } from "../../src/core/exec.ts";

/** `sh -c` of a string, or a program and its arguments. */
export type Command = string | readonly string[];

export type CommandOptions = {
  /** What is piped in; absent: /dev/null. Node gives a socket: where a real pipe matters, let the shell make it. */
  stdin?: string | Uint8Array;
  env?: Readonly<Record<string, string>>;
  timeoutMs?: number;
  /** A status other than 0 is a result and not a failure. */
  mayFail?: boolean;
};

export type CommandResult = { status: number | null; stdout: string; stderr: string; bytes: Uint8Array };

export type Account = "root" | "user";

/** What a release's Podman can do, for tests to be skipped by name where it can't. */
type Ability =
  | "quadlet"
  | "quadlet drop-ins"
  | "secret exists"
  | "secret inspect --showsecret"
  | "secret create --replace"
  | "database in SQLite"
  | "inspect without values";

/** The version of Podman that brought it: 407 is 4.7. */
const SINCE: Record<Ability, number> = {
  quadlet: 404,
  "quadlet drop-ins": 500,
  "secret exists": 405,
  "secret inspect --showsecret": 407,
  "secret create --replace": 407,
  "database in SQLite": 408,
  "inspect without values": 503,
};

const COMMAND_TIMEOUT_MS = 60_000;
const BOOT_TIMEOUT_MS = 90_000;
const STOP_TIMEOUT_MS = 60_000;
const INSTALL_TIMEOUT_MS = 120_000;
const LOOK_AGAIN_AFTER_MS = 50;
const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;
const JOURNAL_LINES_OF_A_FAILURE = 60;
const UID = 1000;

const PLACES = {
  root: { HOME: "/root", USER: "root" },
  user: {
    HOME: "/home/alice",
    USER: "alice",
    XDG_RUNTIME_DIR: `/run/user/${UID}`,
    DBUS_SESSION_BUS_ADDRESS: `unix:path=/run/user/${UID}/bus`,
  },
} as const satisfies Record<Account, Record<string, string>>;

/**
 * Boots a machine for a test file, which calls this at its top: it is stopped and removed after the file's last
 * test, and also when that process ends in any other way. A test that fails shows the end of the journal. `packages`:
 * Debian's, beside what each machine has; the first to ask for them builds a root of its own.
 */
export async function bootMachine(packages: readonly string[] = []): Promise<Machine> {
  const asked = request();
  const root = packages.length === 0 ? asked.root : await rootOf(asked.release, packages);
  const machine = await startMachine({ ...asked, root });
  afterAll(() => machine.stop(), STOP_TIMEOUT_MS);
  afterEach(async ({ task }) => {
    if (task.result?.state === "fail") process.stderr.write(await machine.lastWords());
  });
  return machine;
}

/** Boots a machine for whoever is no test: it is gone once it was stopped, or this process has ended. */
export async function startMachine({ root, release, directory }: Request): Promise<Machine> {
  const machine = new Machine(root, release, directory);
  try {
    await machine.ready();
  } catch (error) {
    process.stderr.write(await machine.lastWords());
    await machine.stop();
    throw error;
  }
  return machine;
}

/** The root directory that it boots from, and where what is its own goes. */
type Request = { root: string; release: Release; directory: string };

export type { Machine };

class Machine {
  readonly release: Release;
  /** All its files, on this machine. */
  readonly directory: string;
  readonly #keeper: ChildProcess;
  readonly #ended: Promise<void>;
  #isDown = false;
  /** The number of its systemd, as this machine counts. */
  #leader = 0;
  /** Podman's version: 504 is 5.4. */
  #podman = 0;

  constructor(root: string, release: Release, directory: string) {
    this.release = release;
    this.directory = directory;
    const keeper = ["--mount", "--propagation", "private", process.execPath, KEEPER, "boot", root, directory];
    this.#keeper = spawn("unshare", keeper, {
      cwd: "/",
      env: { PATH: process.env["PATH"] },
      stdio: ["pipe", "pipe", "inherit"],
      // Ctrl-C is for everybody in the foreground but this one, who has to clear up.
      detached: true,
    });
    this.#keeper.stdin?.on("error", () => {});
    this.#keeper.stdout?.once("data", () => (this.#isDown = true));
    this.#ended = new Promise((resolve) => this.#keeper.once("close", () => resolve()));
  }

  /** Runs something as root in there. FAILED, with the last line it said, unless it ends with 0. */
  root(command: Command, options: CommandOptions = {}): Promise<CommandResult> {
    return this.run("root", command, options);
  }

  /** The same as alice (1000), who lingers, with her runtime directory and her bus, as after a login. */
  user(command: Command, options: CommandOptions = {}): Promise<CommandResult> {
    return this.run("user", command, options);
  }

  /** What a program of an account's is given. */
  environment(account: Account): Record<string, string> {
    return { PATH: PATH_INSIDE, LANG: "C.UTF-8", SHELL: "/bin/sh", ...PLACES[account] };
  }

  async run(account: Account, command: Command, options: CommandOptions = {}): Promise<CommandResult> {
    const { stdin, env = {}, timeoutMs = COMMAND_TIMEOUT_MS, mayFail = false } = options;
    const program = typeof command === "string" ? ["sh", "-c", command] : command;
    const shown = typeof command === "string" ? command : command.join(" ");
    const variables = { ...this.environment(account), ...env };
    const identity = account === "root" ? [] : [`--reuid=${UID}`, `--regid=${UID}`, "--init-groups"];
    const enter = ["--target", String(this.#leader), "--all", "--wd=/", "--"];
    const environment = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
    const inside = ["env", "-i", "-C", PLACES[account].HOME, ...environment, "setpriv", ...identity, "--"];
    const result = await run("nsenter", [...enter, ...inside, ...program], {
      env: { PATH: process.env["PATH"] },
      timeoutMs,
      maxBytes: MAX_OUTPUT_BYTES,
      ...(stdin === undefined ? {} : { stdin: Buffer.from(stdin) }),
    });
    const { status, stderr, stdout: bytes } = result;
    if (status !== 0 && !mayFail) {
      throw new LegerError("FAILED", `${account}: ${shown}: exit status ${status}: ${stderr.trim()}`);
    }
    return { status, stderr, bytes, stdout: Buffer.from(bytes).toString("utf8") };
  }

  /** Makes a file in there, and the directories on the way; it belongs to the account. */
  async write(
    account: Account,
    file: string,
    content: string | Uint8Array,
    { mode = "644" }: { mode?: string } = {},
  ): Promise<void> {
    const script = 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"';
    await this.run(account, ["sh", "-c", script, "sh", file, mode], { stdin: content });
  }

  /** The bytes of a file in there. */
  async read(file: string): Promise<Uint8Array> {
    return (await this.root(["cat", file])).bytes;
  }

  /** Copies a file of this machine into that one, for root; for what is too large to be held in memory. */
  push(local: string, remote: string): void {
    fs.copyFileSync(local, path.join(`/proc/${this.#leader}/root`, remote));
  }

  /** Installs a package file of this machine; without one the package of this tree. */
  async install(deb: string = builtDeb()): Promise<void> {
    const remote = `/var/tmp/${path.basename(deb)}`;
    this.push(deb, remote);
    await this.root(["dpkg", "--install", remote], {
      timeoutMs: INSTALL_TIMEOUT_MS,
      env: { DEBIAN_FRONTEND: "noninteractive" },
    });
    await this.root(["rm", remote]);
  }

  /** The image `localhost/bb:1` (busybox, with a shell) for an account's Podman. */
  async importImage(account: Account = "user"): Promise<void> {
    await this.run(account, "podman import -q /usr/share/test-image.tar localhost/bb:1");
  }

  can(ability: Ability): boolean {
    return this.#podman >= SINCE[ability];
  }

  /** A moment in the journal, for `journal` to begin at. */
  async now(): Promise<string> {
    const { stdout } = await this.root("journalctl --sync; journalctl --lines=0 --show-cursor --output=cat");
    return /^-- cursor: (.+)$/m.exec(stdout)?.[1] ?? "";
  }

  /**
   * The messages of a unit: of the system's, or of alice's as she herself would read them. Without a unit: all
   * there are. `after`: a moment that `now` gave.
   */
  async journal(account: Account, { unit, after }: { unit?: string; after?: string } = {}): Promise<string> {
    await this.root(["journalctl", "--sync"]);
    const { stdout } = await this.run(account, [
      "journalctl",
      "--output=cat",
      "--no-pager",
      ...(account === "user" ? ["--user"] : []),
      ...(unit === undefined ? [] : [`--unit=${unit}`]),
      ...(after === undefined ? [] : [`--after-cursor=${after}`]),
    ]);
    return stdout;
  }

  /** Waits until a command ends with 0, or fails with what it last said. */
  async until(account: Account, command: Command, { timeoutMs = COMMAND_TIMEOUT_MS } = {}): Promise<void> {
    let last: CommandResult | undefined;
    await this.waitFor(
      () => `${typeof command === "string" ? command : command.join(" ")}: ${last?.stderr.trim() ?? ""}`,
      async () => {
        last = await this.run(account, command, { mayFail: true });
        return last.status === 0;
      },
      { timeoutMs },
    );
  }

  /** Waits until a condition is met; it is looked at again and again. */
  async waitFor(
    what: string | (() => string),
    isMet: () => Promise<boolean> | boolean,
    { timeoutMs = COMMAND_TIMEOUT_MS } = {},
  ): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (!(await isMet())) {
      if (performance.now() > deadline) {
        const said = typeof what === "string" ? what : what();
        throw new LegerError("FAILED", `not within ${timeoutMs / 1000} s: ${said}`);
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_AFTER_MS));
    }
  }

  /** A clean shutdown and a new boot, as on a real machine; comes back when everything has started. */
  async reboot(): Promise<void> {
    const before = this.#leader;
    await this.root(["systemctl", "reboot"], { mayFail: true });
    await this.waitFor("the machine goes down", () => this.#init() !== before, {
      timeoutMs: BOOT_TIMEOUT_MS,
    });
    await this.ready();
  }

  /** Comes back once the system and alice's user manager have started all they start by themselves. */
  async ready(): Promise<void> {
    const deadline = performance.now() + BOOT_TIMEOUT_MS;
    const left = (): number => Math.max(deadline - performance.now(), 1);
    await this.waitFor(
      () => `the machine boots; its console says: ${this.console()}`,
      () => {
        if (this.#isDown || this.#keeper.exitCode !== null)
          throw new LegerError("FAILED", `the machine did not boot; ${this.console()}`);
        this.#leader = this.#init() ?? 0;
        return this.#leader !== 0;
      },
      { timeoutMs: left() },
    );
    // "degraded", with a unit that has failed, is up, too.
    const state = 'case "$(systemctl $0 is-system-running)" in running|degraded) ;; *) exit 1; esac';
    await this.until("root", ["sh", "-c", state, "--system"], { timeoutMs: left() });
    await this.until("user", ["sh", "-c", state, "--user"], { timeoutMs: left() });
    const { stdout } = await this.root(["podman", "--version"]);
    const [, major, minor] = /(\d+)\.(\d+)/.exec(stdout) ?? [];
    this.#podman = Number(major) * 100 + Number(minor);
  }

  /** Cuts it off and removes all that is its. */
  async stop(): Promise<void> {
    this.#keeper.stdin?.end();
    await this.#ended;
  }

  console(): string {
    try {
      return fs.readFileSync(path.join(this.directory, "console"), "utf8").slice(-4_000);
    } catch {
      return "";
    }
  }

  async lastWords(): Promise<string> {
    const lines = `--lines=${JOURNAL_LINES_OF_A_FAILURE}`;
    try {
      const { stdout } = await this.root(["journalctl", "--no-pager", "--output=short-monotonic", lines]);
      return `the machine's journal:\n${stdout}`;
    } catch (error) {
      return `the machine's journal cannot be read (${String(error)}); its console: ${this.console()}\n`;
    }
  }

  /** Its systemd, once it is there. */
  #init(): number | undefined {
    const cgroup = path.join(
      "/sys/fs/cgroup",
      path.basename(this.directory),
      "payload/init.scope/cgroup.procs",
    );
    try {
      const [pid] = fs.readFileSync(`/proc/${this.#keeper.pid}/root${cgroup}`, "utf8").split("\n");
      return pid === undefined || pid === "" ? undefined : Number(pid);
    } catch {
      return undefined;
    }
  }
}

const KEEPER = fileURLToPath(new URL("../../scripts/machine/keeper.ts", import.meta.url));
const PATH_INSIDE = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

let booted = 0;

/** What `npm run test:system` prepared. */
function request(): Request {
  const { LEGER_TEST_ROOT: root, LEGER_TEST_MACHINES: machines, LEGER_TEST_RELEASE: wanted } = process.env;
  const release = RELEASES.find((name) => name === wanted);
  if (root === undefined || machines === undefined || release === undefined) {
    throw new LegerError("USAGE", "system tests need a machine", {
      hints: ["run them with: npm run test:system"],
    });
  }
  booted += 1;
  return { root, release, directory: `${machines}-${process.pid}-${booted}` };
}

function builtDeb(): string {
  const deb = process.env["LEGER_TEST_DEB"];
  if (deb === undefined) throw new LegerError("USAGE", "there is no package to install");
  return deb;
}
