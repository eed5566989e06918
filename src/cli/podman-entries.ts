/** podman-entries — the entries of Podman's secret store, read and changed by running podman. */
import { basename, dirname } from "node:path";
import { z } from "zod";
import { LegerError } from "../core/error.ts";
import { run, type RunResult } from "../core/exec.ts";
import { VERSION_QUESTION, versionIn } from "../core/podman-release.ts";
import { openPrivateDirectory } from "../core/private-file.ts";
import { isSecretId, referenceTo } from "../core/reference.ts";
import type { DriverCommands } from "./driver-commands.ts";
import type { CliWorld } from "./world.ts";

export type PodmanEntry = {
  id: string;
  name: string;
  driver: string;
  options: Readonly<Record<string, string>>;
  labels: Readonly<Record<string, string>>;
};

/** On our entries: that they are ours, and which secret they stand for. */
export const LABEL = "leger";
export const REFERENCE_LABEL = "leger.ref";

type Options = {
  program: string;
  /** Podman's own, before its command: `--root=…`. */
  args: readonly string[];
  /** Told to Podman's driver, so that it asks the same legerd. */
  socket: string;
  commands: DriverCommands;
  /** For one run of podman. */
  timeoutMs?: number;
};

/** One Podman store. Its methods throw FAILED with the last line that Podman said. */
export class Podman {
  readonly #world: CliWorld;
  readonly #options: Options;

  constructor(world: CliWorld, options: Options) {
    this.#world = world;
    this.#options = options;
  }

  /** "4.3.1". */
  async version(): Promise<string> {
    const { args, ...running } = VERSION_QUESTION;
    const version = versionIn(text(await this.#run(args, running)));
    if (version === undefined) throw unexpected("--version");
    return version;
  }

  async entries(): Promise<PodmanEntry[]> {
    // Not `ls --format json`: 4.3 prints the word "json". `ls` and `inspect` never call a driver.
    const ids = text(await this.#run(["secret", "ls", "--format", "{{.ID}}"]))
      .split(/\s+/)
      .filter(Boolean);
    const entries: PodmanEntry[] = [];
    for (let at = 0; at < ids.length; at += IDS_PER_CALL) {
      const stdout = text(await this.#run(["secret", "inspect", ...ids.slice(at, at + IDS_PER_CALL)]));
      entries.push(...parseEntries(stdout));
    }
    return entries.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Podman copies the reference from a file: before 5.8 it cannot read one from Node's pipes. */
  async create(name: string, secret: string): Promise<void> {
    const { commands, socket } = this.#options;
    using directory = openPrivateDirectory(dirname(socket), { euid: this.#world.euid });
    const file = `${basename(socket)}.reference-${process.pid}`;
    directory.write(file, Buffer.from(referenceTo(secret)));
    try {
      const options = Object.entries(commands).flatMap(([key, command]) => [
        "--driver-opts",
        `${key}=${command}`,
      ]);
      const labels = ["--label", `${LABEL}=1`, "--label", `${REFERENCE_LABEL}=${secret}`];
      const where = `${directory.path}/${file}`;
      await this.#run(["secret", "create", "--driver", "shell", ...options, ...labels, name, where]);
    } finally {
      directory.remove(file);
    }
  }

  /** By id: a name that is gone could match the beginning of another entry's id. */
  async remove(id: string): Promise<void> {
    if (!isSecretId(id)) throw unexpected("secret ls");
    await this.#run(["secret", "rm", id]);
  }

  /** FAILED, with what it said, when the driver could not do its work for Podman: better known before anything is removed. */
  async tryDriver(): Promise<void> {
    const { commands } = this.#options;
    const options = { env: this.#environment(), timeoutMs: DRIVER_TIMEOUT_MS, maxBytes: MAX_OUTPUT_BYTES };
    const result = await run("/bin/sh", ["-c", commands.list], options);
    if (result.status === 0) return;
    throw new LegerError("FAILED", `podman would run leger in vain: ${lastLine(result)}`, {
      hints: [
        "install leger there, or say where it is with --leger PATH",
        `podman runs it as: /bin/sh -c '… ${commands.list.slice(commands.list.lastIndexOf(";") + 2)}'`,
      ],
    });
  }

  async #run(args: readonly string[], { env, timeoutMs }: Running = {}): Promise<RunResult> {
    const { program, args: global, timeoutMs: usualMs = PODMAN_TIMEOUT_MS } = this.#options;
    const result = await run(program, [...global, ...args], {
      env: { ...this.#environment(), ...env },
      cwd: this.#world.cwd,
      timeoutMs: timeoutMs ?? usualMs,
      maxBytes: MAX_OUTPUT_BYTES,
    });
    if (result.status === 0) return result;
    throw new LegerError(
      "FAILED",
      `podman ${args.slice(0, args[0] === "secret" ? 2 : 1).join(" ")}: ${lastLine(result)}`,
      {
        hints: ["see what podman has with: podman secret ls"],
      },
    );
  }

  #environment(): Record<string, string | undefined> {
    return { ...this.#world.env, LEGER_SOCKET: this.#options.socket };
  }
}

const IDS_PER_CALL = 500;
type Running = { env?: Readonly<Record<string, string | undefined>>; timeoutMs?: number };
/** Podman waits for its store's lock, which others hold while their driver runs. */
const PODMAN_TIMEOUT_MS = 30_000;
const DRIVER_TIMEOUT_MS = 10_000;
const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;

const StringMap = z.record(z.string(), z.string()).nullish();
const Inspected = z.array(
  z.object({
    ID: z.string(),
    Spec: z.object({
      Name: z.string(),
      Driver: z.object({ Name: z.string(), Options: StringMap }),
      Labels: StringMap,
    }),
  }),
);

function parseEntries(stdout: string): PodmanEntry[] {
  let json: unknown;
  try {
    json = JSON.parse(stdout);
  } catch {
    throw unexpected("secret inspect");
  }
  const parsed = Inspected.safeParse(json);
  if (!parsed.success) throw unexpected("secret inspect");
  return parsed.data.map(({ ID: id, Spec: { Name: name, Driver: driver, Labels: labels } }) => ({
    id,
    name,
    driver: driver.Name,
    options: driver.Options ?? {},
    labels: labels ?? {},
  }));
}

function text({ stdout }: RunResult): string {
  return Buffer.from(stdout).toString();
}

function lastLine({ status, signal, stderr }: RunResult): string {
  const said = stderr.trim().split("\n");
  // The driver's own words tell more than podman's "exit status 69" after them.
  const line = said.find((candidate) => candidate.startsWith("leger: error: ")) ?? said.at(-1) ?? "";
  const short = line.replace(/^(leger: error|Error): /, "").slice(0, 400);
  return short === "" ? `it ended with ${signal ?? `exit status ${status}`}` : short;
}

function unexpected(command: string): LegerError {
  return new LegerError("FAILED", `podman ${command}: its answer is not what was expected`, {
    hints: ["is --podman the right program? leger knows Podman 4.3 to 6.0"],
  });
}
