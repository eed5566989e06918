/** podman-driver — runs leger's four driver commands as Podman does: the very strings, the shell, the environment. */

import { execFileSync, spawn, type StdioOptions } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempDisposableSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export type Verb = "list" | "lookup" | "store" | "delete";

export type DriverCall = {
  /** The runtime directory that legerd's socket lies in, as leger/legerd.sock. */
  runtimeDir: string;
  /** Podman's id of the entry; absent for `list`. */
  id?: string;
  /** Absent: /dev/null, as for every verb but `store`. */
  stdin?: Uint8Array | "never ends";
  /** Beyond what Podman gives, or with undefined instead of it. */
  env?: Readonly<Record<string, string | undefined>>;
  /** Nobody reads standard output. */
  unread?: boolean;
  /** Shell commands run before, as root of the namespace; only where `exact`. */
  before?: string;
};

export type DriverResult = {
  /** Null: it was killed, after 15 s. */
  status: number | null;
  stdout: Buffer;
  stderr: string;
  ms: number;
};

/**
 * Podman's side of the driver. Where the kernel lets us, a command runs in a user and mount namespace like
 * Podman's own, with a leger of this source tree at /usr/bin/leger; else its path is replaced in the command,
 * and `exact` is false. Dispose of it.
 */
export function openPodmanDriver(): PodmanDriver {
  return new PodmanDriver();
}

export type { PodmanDriver };

class PodmanDriver {
  readonly #directory = mkdtempDisposableSync(join(tmpdir(), "leger-podman-"));
  /** Why commands don't run exactly as they stand in the file; undefined where they do. */
  readonly obstacle: string | undefined;

  constructor() {
    mkdirSync(this.binDir);
    const prefix = process.env["LEGER_TEST_PREFIX"];
    if (prefix === undefined) this.#writeStandIn();
    else copyFileSync(join(prefix, "bin/leger"), join(this.binDir, "leger"));
    this.obstacle = obstacleTo(this.binDir);
  }

  /** In place of the compiled leger, this source tree's. Without the cache most time would go into stripping types. */
  #writeStandIn(): void {
    const cacheDir = process.env["NODE_COMPILE_CACHE"] ?? join(this.#directory.path, "cache");
    const cache = `NODE_COMPILE_CACHE=${quoted(cacheDir)}`;
    const leger = `#!/bin/sh\n${cache} exec ${quoted(process.execPath)} ${quoted(LEGER)} "$@"\n`;
    writeFileSync(join(this.binDir, "leger"), leger, { mode: 0o755 });
  }

  get exact(): boolean {
    return this.obstacle === undefined;
  }

  /** Holds this source tree's `leger`, for PATH. */
  get binDir(): string {
    return join(this.#directory.path, "bin");
  }

  /** The environment that Podman hands on from a quadlet's unit. */
  environment({ runtimeDir, id, env = {} }: DriverCall): Record<string, string | undefined> {
    const uid = process.geteuid?.() ?? 0;
    return {
      PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      HOME: this.#directory.path,
      XDG_RUNTIME_DIR: runtimeDir,
      // Podman sets these for users only; root is given some, so that the socket is looked for in `runtimeDir`.
      _CONTAINERS_ROOTLESS_UID: String(uid === 0 ? 1000 : uid),
      _CONTAINERS_ROOTLESS_GID: String(uid === 0 ? 1000 : uid),
      _CONTAINERS_USERNS_CONFIGURED: "done",
      PODMAN_SYSTEMD_UNIT: "openwebui.service",
      // Each time it is another start of that unit.
      INVOCATION_ID: randomBytes(16).toString("hex"),
      NOTIFY_SOCKET: join(runtimeDir, "systemd/notify"),
      ...(id === undefined ? {} : { SECRET_ID: id }),
      ...env,
    };
  }

  /** The command that Podman runs for this verb. */
  commandOf(verb: Verb): string {
    return driverCommand(verb);
  }

  /** Runs one verb to its end. A status other than 0 is a result, not a failure. */
  async ask(verb: Verb, call: DriverCall): Promise<DriverResult> {
    const { stdin, unread = false, before = "" } = call;
    const command = driverCommand(verb);
    const [file, args] = this.exact
      ? [UNSHARE, [...asInstalled(this.binDir, before), command]]
      : ["/bin/sh", ["-c", command.replace("/usr/bin/leger", join(this.binDir, "leger"))]];
    const started = performance.now();
    const stdio: StdioOptions = [stdin === undefined ? "ignore" : "pipe", "pipe", "pipe"];
    const child = spawn(file, args, {
      env: this.environment(call),
      stdio,
      // The driver has 5 s; the rest is for starting a shell and a namespace on a busy machine. Killed, it has no status.
      timeout: 10_000,
      killSignal: "SIGKILL",
    });
    const stdout: Buffer[] = [];
    let stderr = "";
    if (!unread) child.stdout?.on("data", (chunk: Buffer) => void stdout.push(chunk));
    child.stderr?.setEncoding("utf8").on("data", (text: string) => void (stderr += text));
    child.stdin?.on("error", () => {});
    if (stdin instanceof Uint8Array) child.stdin?.end(stdin);
    const { promise, resolve, reject } = Promise.withResolvers<number | null>();
    child.on("error", reject);
    child.on(unread ? "exit" : "close", resolve);
    const status = await promise;
    for (const stream of child.stdio) stream?.destroy();
    return { status, stdout: Buffer.concat(stdout), stderr, ms: performance.now() - started };
  }

  [Symbol.dispose](): void {
    this.#directory.remove();
  }
}

/**
 * The arguments with which unshare(1) runs one last argument of shell where the programs of `binDir` are in /usr/bin: in a
 * user and mount namespace of its own.
 */
export function asInstalled(binDir: string, before = ""): string[] {
  const script = `${MOUNT} -t overlay overlay -o ro,lowerdir="$1":/usr/bin /usr/bin && { ${before === "" ? ":" : before}; } && exec /bin/sh -c "$2"`;
  return ["--user", "--map-root-user", "--mount", "/bin/sh", "-c", script, "sh", binDir];
}

/** Why that cannot be done here; undefined where it can. */
export function obstacleTo(binDir: string): string | undefined {
  const args = [...asInstalled(binDir), "exec test -x /usr/bin/leger"];
  try {
    execFileSync(UNSHARE, args, { stdio: ["ignore", "ignore", "pipe"], timeout: 10_000 });
    return undefined;
  } catch (error) {
    const said = error instanceof Error && "stderr" in error ? String(error.stderr) : "";
    return said.trim().split("\n").at(-1) || "no user namespaces here";
  }
}

/** The command that Podman keeps for this verb, from the containers.conf.d file that leger ships. */
export function driverCommand(verb: Verb): string {
  const command = new RegExp(`^${verb} = '([^']*)'$`, "m").exec(readFileSync(SHIPPED, "utf8"))?.[1];
  if (command === undefined) throw new Error(`${SHIPPED}: no command for ${verb}`);
  return command;
}

const SHIPPED = fileURLToPath(new URL("../../containers.conf.d/50-leger.conf", import.meta.url));
const LEGER = fileURLToPath(new URL("../../src/bin/leger.ts", import.meta.url));
export const UNSHARE = "/usr/bin/unshare";
const MOUNT = "/usr/bin/mount";

/** A word for the shell. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
