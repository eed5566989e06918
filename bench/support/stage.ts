/** stage — the built programs laid out as a package installs them, and a legerd of theirs with secrets in it. */
import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { run } from "../../src/core/exec.ts";
import { Secret } from "../../src/core/secret.ts";
import { SetecClient } from "../../src/setec/client.ts";
import { launchLegerd, type LegerdProcess } from "../../scripts/support/legerd-process.ts";
import {
  asInstalled,
  driverCommand,
  obstacleTo,
  quoted,
  UNSHARE,
} from "../../scripts/support/podman-driver.ts";
import { runHere, type Runner } from "./measure.ts";
import type { Skipped } from "./report.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** What `npm run build` makes for this machine. */
export const BUILT = path.join(ROOT, "dist", `linux-${process.arch}`);

export const SERVICE = "bench";

/** Why there is no stage; undefined where there can be one. */
export function stageObstacle(): string | undefined {
  const missing = ["leger", "leger-cli"].find((name) => !fs.existsSync(path.join(BUILT, name)));
  if (missing !== undefined) {
    return `no ${path.relative(ROOT, path.join(BUILT, missing))}: npm run build -- --arch ${process.arch}`;
  }
  const program = ["perl", "curl"].find((name) => !isInPath(name));
  return program === undefined ? undefined : `no ${program}`;
}

export function isInPath(name: string): boolean {
  return (process.env["PATH"] ?? "").split(":").some((dir) => fs.existsSync(path.join(dir, name)));
}

/** What the built programs say they are. */
export async function builtVersion(): Promise<string> {
  const program = path.join(BUILT, "leger-cli");
  if (!fs.existsSync(program)) return "not built";
  const { stdout } = await run(program, ["--version"], { env: {}, timeoutMs: 20_000, check: true });
  return Buffer.from(stdout).toString().trim();
}

type Entry = { id: string; value: string };

/** `secrets`: how many the service has, with an entry of Podman's for each. */
export async function openStage(secrets: number): Promise<Stage> {
  const stage = new Stage();
  try {
    await stage.fill(secrets);
    return stage;
  } catch (error) {
    await stage[Symbol.asyncDispose]();
    throw error;
  }
}

export type { Stage };

class Stage {
  /** On a disk. */
  readonly directory = fs.mkdtempSync(path.join(os.tmpdir(), "leger-bench-"));
  /** On tmpfs, as a runtime directory is. */
  readonly runtimeDir = fs.mkdtempSync(
    path.join(isOnTmpfs("/dev/shm") ? "/dev/shm" : this.directory, "leger-bench-"),
  );
  /** Where the programs lie as they do in /usr. */
  readonly usr = path.join(this.directory, "usr");
  readonly leger = path.join(this.usr, "bin/leger");
  readonly legerd = path.join(this.usr, "bin/legerd");
  /** The whole command line, on Node. */
  readonly cli = path.join(this.usr, "libexec/leger/leger");
  /** Why driver commands cannot run as they stand in containers.conf.d/50-leger.conf. */
  readonly obstacle: string | undefined;
  readonly #entries: Entry[] = [];
  readonly #legerd: LegerdProcess;

  constructor() {
    process.once("exit", this.#remove);
    installInto(this.usr);
    this.obstacle = obstacleTo(path.dirname(this.leger));
    this.#legerd = launchLegerd(
      this.directory,
      ["--state", path.join(this.directory, "state"), "--socket", this.socket],
      { command: [this.legerd] },
    );
  }

  entry(at: number): Entry {
    const entry = this.#entries[at];
    if (entry === undefined) throw new Error(`no entry ${at}`);
    return entry;
  }

  get socket(): string {
    return path.join(this.runtimeDir, "leger/legerd.sock");
  }

  /** What Podman gives a driver, and systemd a unit. */
  get env(): Record<string, string> {
    return {
      PATH: "/usr/local/bin:/usr/bin:/bin",
      HOME: this.directory,
      XDG_RUNTIME_DIR: this.runtimeDir,
      _CONTAINERS_ROOTLESS_UID: "1000",
      PODMAN_SYSTEMD_UNIT: "bench.service",
      INVOCATION_ID: "8c3e2bd2f1a04f2b9a1de4c0b7a65f10",
    };
  }

  /** Podman's lookup command for leger, to the letter where `asInstalled` can make it work as it stands. */
  get lookupCommand(): string {
    const command = driverCommand("lookup");
    return this.obstacle === undefined ? command : command.replace("/usr/bin/leger", this.leger);
  }

  /** The same by curl. */
  curlLookup(id: string): string[] {
    const header = `leger-secret-id: ${id}`;
    return ["curl", "-sf", "--unix-socket", this.socket, "-X", "POST", "-H", header, LOOKUP_URL];
  }

  /** Lookup commands as others have them: by curl, as the nearest rival ships it, and the least there can be. */
  get curlCommand(): string {
    return `exec curl -sf --unix-socket ${this.socket} -X POST -H "leger-secret-id: $SECRET_ID" ${LOOKUP_URL}`;
  }
  get catCommand(): string {
    return `cat ${this.directory}/files/$SECRET_ID`;
  }

  /** Runs cases where the built leger is /usr/bin/leger. */
  get asInstalled(): Runner {
    return (file, args, options) =>
      this.obstacle === undefined
        ? runHere(UNSHARE, [...asInstalled(path.dirname(this.leger)), exec(file, args)], options)
        : runHere(file, args, options);
  }

  get skipped(): Skipped[] {
    const what = "driver commands to the letter";
    return this.obstacle === undefined ? [] : [{ what, why: `${this.obstacle}: their path was replaced` }];
  }

  async fill(secrets: number): Promise<void> {
    await this.#legerd.ready;
    await using client = new SetecClient({ socketPath: this.socket });
    const variables: string[] = [];
    for (let at = 0; at < secrets; at += 1) {
      const [name, id] = [`leger/local/api_key_${at}`, randomBytes(13).toString("hex").slice(0, 25)];
      const value = `sk-proj-${randomBytes(24).toString("hex")}`;
      await client.put(name, new Secret(Buffer.from(value)));
      await run(this.leger, ["driver", "store"], {
        env: { ...this.env, SECRET_ID: id },
        stdin: Buffer.from(`leger-ref:v1:${name}`),
        timeoutMs: 20_000,
        check: true,
      });
      // For the floor: a file per entry, which `cat` shows.
      fs.mkdirSync(path.join(this.directory, "files"), { recursive: true, mode: 0o700 });
      fs.writeFileSync(path.join(this.directory, "files", id), value, { mode: 0o600 });
      this.#entries.push({ id, value });
      variables.push(`API_KEY_${at}=api_key_${at}`);
    }
    if (secrets === 0) return;
    await run(this.cli, ["services", "set", SERVICE, ...variables], {
      env: this.env,
      timeoutMs: 20_000,
      check: true,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#legerd.child.kill("SIGTERM");
    await this.#legerd.ended;
    process.off("exit", this.#remove);
    this.#remove();
  }

  readonly #remove = (): void => {
    for (const directory of [this.directory, this.runtimeDir]) {
      fs.rmSync(directory, { recursive: true, force: true });
    }
  };
}

const LOOKUP_URL = "http://legerd/v1/podman/lookup";

/** As a package does, without copying a quarter of a gigabyte where that can be helped. */
function installInto(usr: string): void {
  fs.mkdirSync(path.join(usr, "bin"), { recursive: true });
  fs.mkdirSync(path.join(usr, "libexec/leger"), { recursive: true });
  for (const [built, installed] of [
    ["leger", "bin/leger"],
    ["leger-cli", "libexec/leger/leger"],
  ] as const) {
    const [from, to] = [path.join(BUILT, built), path.join(usr, installed)];
    try {
      fs.linkSync(from, to);
    } catch {
      fs.copyFileSync(from, to);
    }
  }
  fs.symlinkSync("../libexec/leger/leger", path.join(usr, "bin/legerd"));
}

/** statfs(2): TMPFS_MAGIC. */
const TMPFS = 0x01021994;

function isOnTmpfs(directory: string): boolean {
  return fs.existsSync(directory) && fs.statfsSync(directory).type === TMPFS;
}

function exec(file: string, args: readonly string[]): string {
  return `exec ${[file, ...args].map(quoted).join(" ")}`;
}
