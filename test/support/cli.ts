/** cli — runs leger's command line: in this process, as a program, or at a terminal. */
import { spawn } from "node:child_process";
import { chmodSync, writeFileSync } from "node:fs";
import path from "node:path";
import { PassThrough, Readable, Writable } from "node:stream";
import { expect } from "vitest";
import { runCli } from "../../src/cli/main.ts";
import type { CliWorld } from "../../src/cli/world.ts";
import { VERSION } from "../../src/core/version.ts";
import { CANARIES } from "./canary.ts";
import { fromHere, LEGER_COMMAND, type Places } from "./legerd.ts";

/** Stands in every value. */
export const CANARY = CANARIES.cli;

export type CliResult = { status: number; stdout: string; stderr: string };

type Options = {
  /** What is piped in. Default: nothing. */
  stdin?: string | Uint8Array;
  env?: Readonly<Record<string, string | undefined>>;
  /** Standard output may hold the canary. */
  printsValue?: boolean;
  world?: Partial<CliWorld>;
};

/** Runs a command in this process, as the user whose legerd has these places. */
export async function leger(
  places: Places,
  args: readonly string[],
  options: Options = {},
): Promise<CliResult> {
  const stdout = new Collector();
  const stderr = new Collector();
  const status = await runCli(args, {
    env: environmentOf(places, options.env),
    euid: process.geteuid?.() ?? 0,
    uidMap: undefined,
    stdin: Readable.from([Buffer.from(options.stdin ?? "")]),
    stdout,
    stderr,
    isTTY: { stdin: false, stdout: false, stderr: false },
    cwd: places.base,
    version: VERSION,
    ...options.world,
  });
  return checked({ status, stdout: stdout.text(), stderr: stderr.text() }, options);
}

/** Runs leger as a program. `shell` is a line in which $LEGER stands for it. */
export async function legerInShell(places: Places, shell: string, options: Options = {}): Promise<CliResult> {
  const child = spawn("/bin/bash", ["-c", shell], { env: programEnvironment(places, options.env) });
  const output = { stdout: "", stderr: "" };
  child.stdout.setEncoding("latin1").on("data", (text: string) => (output.stdout += text));
  child.stderr.setEncoding("latin1").on("data", (text: string) => (output.stderr += text));
  child.stdin.on("error", () => {});
  child.stdin.end(options.stdin);
  const status = await new Promise<number>((resolve) => child.once("close", (code) => resolve(code ?? -1)));
  return checked({ status, ...output }, options);
}

/**
 * Runs leger at a pseudo-terminal, where standard output and error are one. Each answer is typed once its prompt has
 * shown, or at once where there is none.
 */
export async function legerAtTerminal(
  places: Places,
  args: string,
  answers: readonly (readonly [prompt: string, typed: string])[],
  options: Options = {},
): Promise<{ status: number; screen: string }> {
  const child = spawn("script", ["-qec", `${LEGER_COMMAND.join(" ")} ${args}`, "/dev/null"], {
    env: programEnvironment(places, { SHELL: "/bin/sh", TERM: "xterm", ...options.env }),
  });
  const waiting = [...answers];
  let screen = "";
  let answered = 0;
  child.stdin.on("error", () => {});
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    screen += text;
    const [next] = waiting;
    if (next === undefined || !screen.slice(answered).includes(next[0])) return;
    answered = screen.length;
    waiting.shift();
    child.stdin.write(next[1]);
  });
  const status = await new Promise<number>((resolve) => child.once("close", (code) => resolve(code ?? -1)));
  expect(waiting, screen).toEqual([]);
  if (options.printsValue !== true) expect(screen).not.toContain(CANARY);
  return { status, screen };
}

/** One line that says what is wrong, then advice. */
export function expectSpoken({ stderr }: { stderr: string }, about: string | RegExp): void {
  expect(stderr).toMatch(
    /^(?:leger: warning: [^\n]+\n|leger: hint: [^\n]+\n)*leger: error: [^\n]+\n(?:leger: hint: [^\n]+\n)*$/,
  );
  expect(/leger: error: ([^\n]+)/.exec(stderr)?.[1]).toMatch(about);
}

/** A program that is leger, at a path that Podman can be told. */
export function legerProgram(directory: string, name = "leger"): string {
  const file = path.join(directory, name);
  const cache = fromHere().NODE_COMPILE_CACHE ?? path.join(directory, "compiled");
  writeFileSync(file, `#!/bin/sh\nNODE_COMPILE_CACHE=${cache} exec ${LEGER_COMMAND.join(" ")} "$@"\n`);
  chmodSync(file, 0o755);
  return file;
}

/** A terminal's input, as far as leger's own prompts can tell. */
export function keyboard(typed: string): {
  stdin: CliWorld["stdin"];
  isTTY: CliWorld["isTTY"];
  raw: boolean[];
} {
  const raw: boolean[] = [];
  const stdin = Object.assign(new PassThrough(), { setRawMode: (on: boolean) => raw.push(on) });
  stdin.write(typed);
  return { stdin, isTTY: { stdin: true, stdout: false, stderr: true }, raw };
}

function checked(result: CliResult, { printsValue = false }: Options): CliResult {
  expect(result.stderr).not.toContain(CANARY);
  if (!printsValue) expect(result.stdout).not.toContain(CANARY);
  return result;
}

function environmentOf(places: Places, env: Options["env"] = {}): Record<string, string | undefined> {
  return {
    ...fromHere(),
    HOME: places.base,
    LEGER_SOCKET: places.socket,
    XDG_RUNTIME_DIR: places.runtimeDir,
    // We may be root here; legerd's user is not.
    _CONTAINERS_ROOTLESS_UID: "1000",
    ...env,
  };
}

function programEnvironment(places: Places, env: Options["env"]): Record<string, string | undefined> {
  return { LEGER: LEGER_COMMAND.join(" "), ...environmentOf(places, env) };
}

class Collector extends Writable {
  readonly #chunks: Buffer[] = [];

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#chunks.push(chunk);
    done();
  }

  /** Byte for byte. */
  text(): string {
    return Buffer.concat(this.#chunks).toString("latin1");
  }
}
