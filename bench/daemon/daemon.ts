/** daemon — legerd beside the least a Node server can do, interleaved in one run. */
import { spawn, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { run } from "../../src/core/exec.ts";
import { SetecClient } from "../../src/setec/client.ts";
import { fillStore } from "../support/fill-store.ts";
import { median } from "../support/measure.ts";
import type { Options } from "../support/options.ts";
import type { Report } from "../support/report.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const LEGERD = path.join(ROOT, "dist/js/legerd.mjs");
const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url));

const FEW = 10;
const MIDDLE = 10_000;
const MANY = 100_000;
const LOAD_SECONDS = 1.5;
const START_UPS = 9;
const START_UP_TIMEOUT_MS = 10_000;
const TOOL_TIMEOUT_MS = 120_000;

export async function daemon({ rounds = 5 }: Options): Promise<Report> {
  using servers = new Servers();
  await run(process.execPath, [path.join(ROOT, "scripts/build-js.ts")], tool());
  for (const names of [FEW, MIDDLE, MANY]) await fillStore(servers.state(names), names);
  const startUps: number[] = [];
  for (let at = 0; at < START_UPS; at += 1) startUps.push(await servers.startUpMs(MANY));
  const floor = await servers.startFloor();
  const few = await servers.startLegerd("few", FEW);
  const middle = await servers.startLegerd("middle", MIDDLE);
  const many = await servers.startLegerd("many", MANY);
  // A state directory has one legerd.
  const fewPlain = await servers.startLegerd("few-plain", FEW, { cacheEntries: 0, onCopy: true });
  const manyPlain = await servers.startLegerd("many-plain", MANY, { cacheEntries: 0, onCopy: true });

  const cases: Case[] = [1, 64].flatMap((clients) => {
    const of = (name: string, server: Server, spread: number, beside = "nothing"): Case => ({
      name: `${name}, ${clients} ${clients === 1 ? "client" : "clients"}`,
      server,
      spread,
      beside,
      clients,
    });
    return [
      of("bare server", floor, FEW),
      of(`${FEW} secrets`, few, FEW),
      of(`${MANY} secrets, 100 of them read`, many, 100),
      of(`${MANY} secrets, all of them read`, many, MANY),
      of(`${FEW} secrets, no cache`, fewPlain, FEW),
      of(`${MANY} secrets, no cache`, manyPlain, MANY),
      of(`${FEW} secrets beside a writer`, few, FEW, "writer"),
      of(`${MANY} secrets beside a writer`, many, 100, "writer"),
      of(`${MANY} secrets beside a list`, many, 100, "list"),
    ];
  });
  const all = { name: `${MIDDLE} secrets, all of them read, 64 clients`, beside: "nothing", clients: 64 };
  cases.push({ ...all, server: middle, spread: MIDDLE });
  // Nobody reads here: what a put costs by itself.
  const writer = { clients: 0, spread: FEW, beside: "writer" };
  cases.push({ name: `${FEW} secrets, a writer alone`, server: few, ...writer });
  cases.push({ name: `${MANY} secrets, a writer alone`, server: many, ...writer });

  const samples = new Map<Case, Sample[]>(cases.map((one) => [one, []]));
  for (let round = 0; round < rounds; round += 1) {
    for (const one of cases) samples.get(one)?.push(await load(one));
  }

  const floorRate = (clients: number): number =>
    rateOf(samplesOf(samples, (one) => one.server === floor && one.clients === clients));
  const rows = cases.map((one) => rowOf(one, samples.get(one) ?? [], floorRate(one.clients)));
  return {
    figures: [
      { what: `first answer with ${MANY} secrets`, value: median(startUps), unit: "ms", aim: 150 },
      { what: "the worst of those", value: Math.max(...startUps), unit: "ms" },
      ...[floor, few, middle, many].map((server) => ({
        what: `memory after the load: ${server.names === 0 ? "bare server" : `${server.names} secrets`}`,
        value: memoryMiB(server.child.pid),
        unit: "MiB" as const,
      })),
    ],
    tables: [{ title: `requests per second and their latency, median of ${rounds}`, rows }],
    skipped: [],
  };
}

const Side = z.object({
  count: z.number(),
  perSecond: z.number(),
  p50: z.number().nullable(),
  p99: z.number().nullable(),
});
const Sample = z.object({ main: Side, beside: Side, failures: z.number() });
type Sample = z.infer<typeof Sample>;

type Server = { socket: string; child: ChildProcess; names: number };
type Case = { name: string; server: Server; clients: number; spread: number; beside: string };

class Servers {
  readonly #base = fs.mkdtempSync(path.join(os.tmpdir(), "leger-bench-"));
  readonly #children: ChildProcess[] = [];

  constructor() {
    process.once("exit", this.#end);
  }

  state(names: number): string {
    return path.join(this.#base, `state-${names}`);
  }

  async startFloor(): Promise<Server> {
    const socket = path.join(this.#base, "floor.sock");
    return this.#start([here("floor.ts"), socket], socket, 0);
  }

  async startLegerd(
    name: string,
    names: number,
    { cacheEntries = 1_000, onCopy = false } = {},
  ): Promise<Server> {
    const config = path.join(this.#base, `${name}.json`);
    const socket = path.join(this.#base, name, "legerd.sock");
    const doors = [{ unix: socket, principal: "bench" }];
    fs.writeFileSync(config, JSON.stringify({ doors, cache_entries: cacheEntries }));
    const state = onCopy ? `${this.state(names)}-copy` : this.state(names);
    if (onCopy) {
      fs.cpSync(this.state(names), state, { recursive: true });
      fs.chmodSync(state, 0o700);
    }
    return this.#start([LEGERD, "--state", state, "--config", config], socket, names);
  }

  /** From exec to the first answer to a get, in ms. */
  async startUpMs(names: number): Promise<number> {
    const socket = path.join(this.#base, "startup", "legerd.sock");
    await using client = new SetecClient({ socketPath: socket });
    const began = performance.now();
    const child = this.#spawn([LEGERD, "--state", this.state(names), "--socket", socket], "ignore");
    for (;;) {
      try {
        await client.get("leger/local/k5");
        break;
      } catch {
        if (performance.now() - began > START_UP_TIMEOUT_MS) throw new Error("legerd did not start");
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    }
    const took = performance.now() - began;
    child.kill("SIGTERM");
    await new Promise((resolve) => child.once("exit", resolve));
    return took;
  }

  [Symbol.dispose](): void {
    process.off("exit", this.#end);
    this.#end();
  }

  async #start(args: string[], socket: string, names: number): Promise<Server> {
    const child = this.#spawn(args, "pipe");
    await new Promise<void>((resolve, reject) => {
      let text = "";
      child.stderr?.on("data", (chunk: Buffer) => {
        text += chunk.toString();
        if (text.includes("ready")) resolve();
      });
      child.once("exit", () => reject(new Error(`${args[0]} ended: ${text}`)));
    });
    return { socket, child, names };
  }

  #spawn(args: string[], stderr: "ignore" | "pipe"): ChildProcess {
    const child = spawn(process.execPath, args, {
      stdio: ["ignore", "ignore", stderr],
      env: {
        PATH: process.env["PATH"],
        HOME: this.#base,
        NODE_COMPILE_CACHE: path.join(this.#base, "cache"),
      },
    });
    this.#children.push(child);
    return child;
  }

  readonly #end = (): void => {
    for (const child of this.#children) child.kill("SIGKILL");
    fs.rmSync(this.#base, { recursive: true, force: true });
  };
}

async function load({ server, clients, spread, beside }: Case): Promise<Sample> {
  const options = {
    socket: server.socket,
    clients,
    seconds: LOAD_SECONDS,
    names: server.names,
    spread,
    beside,
  };
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const { stdout } = await run(process.execPath, [here("load.ts"), ...args], tool());
  return Sample.parse(JSON.parse(Buffer.from(stdout).toString()));
}

function samplesOf(samples: ReadonlyMap<Case, Sample[]>, wanted: (one: Case) => boolean): Sample[] {
  return [...samples].flatMap(([one, seen]) => (wanted(one) ? seen : []));
}

function rateOf(seen: readonly Sample[]): number {
  return median(seen.map(({ main }) => main.perSecond));
}

function rowOf(one: Case, seen: readonly Sample[], floorRate: number): Record<string, string | number> {
  const of = (side: "main" | "beside", what: "perSecond" | "p50" | "p99"): number =>
    median(seen.map((sample) => sample[side][what] ?? Number.NaN));
  const reads = {
    "reads/s": Math.round(rateOf(seen)),
    "of bare": rateOf(seen) / floorRate,
    "p50 ms": of("main", "p50"),
    "p99 ms": of("main", "p99"),
  };
  const beside = {
    "beside/s": Math.round(of("beside", "perSecond")),
    "its p50 ms": of("beside", "p50"),
    "its p99 ms": of("beside", "p99"),
  };
  return {
    case: one.name,
    ...(one.clients === 0 ? {} : reads),
    ...(one.beside === "nothing" ? {} : beside),
    failures: seen.reduce((sum, { failures }) => sum + failures, 0),
  };
}

function memoryMiB(pid: number | undefined): number {
  const text = fs.readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+)/.exec(text)?.[1]) / 1024;
}

function tool() {
  return { env: { PATH: process.env["PATH"] }, timeoutMs: TOOL_TIMEOUT_MS, check: true };
}
