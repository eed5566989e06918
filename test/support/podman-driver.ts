/** podman-driver — asks leger's driver as Podman does, and servers that answer it wrongly. */

import { randomBytes } from "node:crypto";
import { chmodSync, mkdirSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { dirname } from "node:path";
import { expect } from "vitest";
import {
  openPodmanDriver,
  type DriverCall,
  type DriverResult,
  type PodmanDriver,
  type Verb,
} from "../../scripts/support/podman-driver.ts";
import { hotCommand, type HotWorld } from "../../src/cli/hot.ts";
import { exitStatusOf, speak } from "../../src/core/error.ts";
import { nodeFiles } from "../../src/core/files-node.ts";
import { nodeWire } from "../../src/core/wire-node.ts";
import { run } from "../../src/core/exec.ts";
import { CANARIES } from "./canary.ts";
import { makePlaces, type Places } from "./legerd.ts";

type Call = Omit<DriverCall, "runtimeDir"> & { daemon: { runtimeDir: string } };

let opened: PodmanDriver | undefined;

/** One for all test files of a worker; its directory goes with the run's. */
export function podmanDriver(): PodmanDriver {
  if (opened === undefined) {
    opened = openPodmanDriver();
    if (!opened.exact) console.warn(`driver commands run with their path replaced: ${opened.obstacle}`);
  }
  return opened;
}

/** Runs one of the driver's verbs exactly as Podman would for a quadlet of this daemon's user. */
export function asPodman(verb: Verb, { daemon, ...call }: Call): Promise<DriverResult> {
  return podmanDriver().ask(verb, { runtimeDir: daemon.runtimeDir, ...call });
}

/** Runs a line of shell with leger on its PATH, as a person or a unit of this daemon's user does. */
export async function shell(
  script: string,
  {
    daemon,
    env = {},
  }: { daemon: { runtimeDir: string }; env?: Readonly<Record<string, string | undefined>> },
): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const driver = podmanDriver();
  const { PODMAN_SYSTEMD_UNIT: _, ...base } = driver.environment({ runtimeDir: daemon.runtimeDir });
  const PATH = `${driver.binDir}:${base["PATH"]}`;
  const { stdout, ...result } = await run("/bin/sh", ["-c", script], {
    env: { ...base, PATH, ...env },
    // As for the driver: what hangs is killed, and then has no status.
    timeoutMs: 10_000,
  });
  return { ...result, stdout: Buffer.from(stdout).toString("latin1") };
}

/** Runs a hot command in this process: for what no shell and no Podman changes. */
export async function inProcess(
  argv: readonly string[],
  {
    daemon,
    env = {},
    stdin = new Uint8Array(),
    cgroup,
    remainingMs = 4_500,
  }: {
    daemon: { runtimeDir: string };
    env?: Readonly<Record<string, string | undefined>>;
    stdin?: Uint8Array;
    cgroup?: string;
    /** Negative: the process took longer to start than it had. */
    remainingMs?: number;
  },
): Promise<{ status: number; stdout: string; stderr: string }> {
  let stdout = "";
  const world: HotWorld = {
    env: { XDG_RUNTIME_DIR: daemon.runtimeDir, _CONTAINERS_ROOTLESS_UID: "1000", ...env },
    euid: process.geteuid?.() ?? 0,
    uidMap: undefined,
    wireTo: nodeWire,
    stdin: async function* () {
      yield stdin;
    },
    print: async (bytes) => void (stdout += Buffer.from(bytes).toString("latin1")),
    files: { ...nodeFiles, readText: (path) => (path === "/proc/self/cgroup" ? cgroup : undefined) },
    remainingMs: () => remainingMs,
  };
  const command = hotCommand(argv);
  if (command === undefined) throw new Error(`leger ${argv.join(" ")} is none of the hot commands`);
  try {
    await command(world);
    return { status: 0, stdout, stderr: "" };
  } catch (error) {
    return { status: exitStatusOf(error), stdout, stderr: speak(error) };
  }
}

/** A failure as a person reads it: one line, then advice; and the value isn't in it. */
export function expectSpoken(stderr: string, about: string | RegExp): void {
  expect(stderr).toMatch(/^leger: error: [^\n]+\n(?:leger: hint: [^\n]+\n)*$/);
  expect(stderr.split("\n", 1)[0]).toMatch(about);
  expect(stderr).not.toContain(CANARY);
}

/** Stands in secrets, and must not show anywhere else. */
export const CANARY = CANARIES.driver;

/** An id such as Podman makes. */
export function podmanId(): string {
  return randomBytes(13).toString("hex").slice(0, 25);
}

export type FakeLegerd = Places & AsyncDisposable & { requests: string[] };

/** Something that listens where legerd would, and does what it likes with each connection. */
export async function startFakeLegerd(onRequest: (socket: Socket) => void): Promise<FakeLegerd> {
  const places = makePlaces();
  mkdirSync(dirname(places.socket), { mode: 0o700 });
  const open = new Set<Socket>();
  const requests: string[] = [];
  const server = createServer((socket) => {
    open.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => open.delete(socket));
    socket.once("data", (chunk) => {
      requests.push(chunk.toString("latin1"));
      onRequest(socket);
    });
  });
  await new Promise<void>((resolve) => server.listen(places.socket, resolve));
  chmodSync(places.socket, 0o600);
  return {
    ...places,
    requests,
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
      places[Symbol.dispose]();
    },
  };
}
