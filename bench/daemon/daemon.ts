/** daemon — legerd beside the least a Node server can do, interleaved in one run. */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { z } from "zod";
import { openStore } from "../../src/store/store.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
const { values: options } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "1.5" },
    many: { type: "string", default: "100000" },
  },
});
const rounds = Number(options.rounds);
const many = Number(options.many);

const Side = z.object({
  count: z.number(),
  perSecond: z.number(),
  p50: z.number().nullable(),
  p99: z.number().nullable(),
});
const LoadResult = z.object({ main: Side, beside: Side, failures: z.number() });

type Server = { name: string; socket: string; child: ChildProcess; names: number };
type Case = { name: string; server: Server; clients: number; spread: number; beside: string };

const base = fs.mkdtempSync(path.join(os.tmpdir(), "leger-bench-"));
const servers: Server[] = [];
process.once("SIGINT", () => process.exit(130));
process.once("exit", () => {
  for (const { child } of servers) child.kill("SIGKILL");
  fs.rmSync(base, { recursive: true, force: true });
});

function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}

/** Starts a server and waits for its "ready"; resolves with the ms that took, too. */
async function start(name: string, args: string[], names: number, socket: string): Promise<Server> {
  const child = spawn(process.execPath, args, {
    stdio: ["ignore", "ignore", "pipe"],
    env: { PATH: process.env["PATH"], NODE_COMPILE_CACHE: path.join(base, "cache") },
  });
  await new Promise<void>((resolve, reject) => {
    let text = "";
    child.stderr.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      if (text.includes("ready")) resolve();
    });
    child.once("exit", () => reject(new Error(`${name} ended: ${text}`)));
  });
  const server = { name, socket, child, names };
  servers.push(server);
  return server;
}

async function fill(stateDir: string, names: number): Promise<void> {
  const store = openStore({ stateDir });
  const value = Buffer.from("sk-proj-0123456789abcdef0123456789abcdef");
  for (let at = 0; at < names; at += 256) {
    const batch = Array.from({ length: Math.min(256, names - at) }, (_, offset) => offset + at);
    await Promise.all(batch.map((n) => store.mutate({ do: "put", name: `leger/local/k${n}`, value })));
  }
  await store.close();
}

async function startLegerd(name: string, names: number, cache: number, stateDir: string): Promise<Server> {
  const config = path.join(base, `${name}.json`);
  const socket = path.join(base, name, "legerd.sock");
  fs.writeFileSync(
    config,
    JSON.stringify({ doors: [{ unix: socket, principal: "bench" }], cache_entries: cache }),
  );
  const args = [path.join(root, "dist/js/legerd.mjs"), "--state", stateDir, "--config", config];
  return start(name, args, names, socket);
}

function load({ server, clients, spread, beside }: Case): z.infer<typeof LoadResult> {
  const args = ["--socket", server.socket, "--clients", String(clients), "--seconds", options.seconds];
  args.push("--names", String(server.names), "--spread", String(spread), "--beside", beside);
  const { stdout, stderr } = spawnSync(process.execPath, [here("load.ts"), ...args], { encoding: "utf8" });
  if (stdout === "") throw new Error(`load failed: ${stderr}`);
  return LoadResult.parse(JSON.parse(stdout));
}

function median(numbers: number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

function memoryMiB(pid: number | undefined): number {
  const text = fs.readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+)/.exec(text)?.[1]) / 1024;
}

/** From exec to the first answer to a get, in ms. */
async function startUpMs(stateDir: string): Promise<number> {
  const socket = path.join(base, "startup", "legerd.sock");
  const args = [path.join(root, "dist/js/legerd.mjs"), "--state", stateDir, "--socket", socket];
  const began = performance.now();
  const child = spawn(process.execPath, args, {
    stdio: "ignore",
    env: { PATH: process.env["PATH"], HOME: base, NODE_COMPILE_CACHE: path.join(base, "cache") },
  });
  const { SetecClient } = await import("../../src/setec/client.ts");
  const client = new SetecClient({ socketPath: socket });
  for (;;) {
    try {
      await client.get("leger/local/k5");
      break;
    } catch {
      if (performance.now() - began > 10_000) throw new Error("legerd did not start");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
  const took = performance.now() - began;
  await client[Symbol.asyncDispose]();
  child.kill("SIGTERM");
  await new Promise((resolve) => child.once("exit", resolve));
  return took;
}

say("building the bundle");
spawnSync(process.execPath, [path.join(root, "scripts/build-js.ts")], { stdio: "inherit" });
say(`filling stores with 10, 10,000 and ${many} secrets`);
const state = (names: number): string => path.join(base, `state-${names}`);
const sizes = [10, 10_000, many];
for (const names of sizes) await fill(state(names), names);
// The servers without a cache run on copies: a state directory has one legerd.
for (const names of [10, many]) {
  fs.cpSync(state(names), `${state(names)}-plain`, { recursive: true });
  fs.chmodSync(`${state(names)}-plain`, 0o700);
}

const startUps: number[] = [];
for (let at = 0; at < 9; at += 1) startUps.push(await startUpMs(state(many)));

const floorSocket = path.join(base, "floor.sock");
const floor = await start("floor", [here("floor.ts"), floorSocket], 10, floorSocket);
const few = await startLegerd("few", 10, 1_000, state(10));
const middle = await startLegerd("middle", 10_000, 1_000, state(10_000));
const lots = await startLegerd("lots", many, 1_000, state(many));
const fewPlain = await startLegerd("few-plain", 10, 0, `${state(10)}-plain`);
const lotsPlain = await startLegerd("lots-plain", many, 0, `${state(many)}-plain`);

const cases: Case[] = [1, 64].flatMap((clients) => {
  const alone = { clients, beside: "nothing" };
  return [
    { name: `floor, ${clients} clients`, server: floor, spread: 10, ...alone },
    { name: `10 secrets, ${clients} clients`, server: few, spread: 10, ...alone },
    { name: `${many} secrets, 100 of them read, ${clients} clients`, server: lots, spread: 100, ...alone },
    { name: `${many} secrets, all of them read, ${clients} clients`, server: lots, spread: many, ...alone },
    { name: `10 secrets, no cache, ${clients} clients`, server: fewPlain, spread: 10, ...alone },
    { name: `${many} secrets, no cache, ${clients} clients`, server: lotsPlain, spread: many, ...alone },
    {
      name: `10 secrets beside a writer, ${clients} clients`,
      server: few,
      spread: 10,
      clients,
      beside: "writer",
    },
    {
      name: `${many} secrets beside a writer, ${clients} clients`,
      server: lots,
      spread: 100,
      clients,
      beside: "writer",
    },
    {
      name: `${many} secrets beside a list, ${clients} clients`,
      server: lots,
      spread: 100,
      clients,
      beside: "list",
    },
  ];
});
cases.push({
  name: "10,000 secrets, all of them read, 64 clients",
  server: middle,
  spread: 10_000,
  clients: 64,
  beside: "nothing",
});

// Nobody reads here: what a put costs by itself.
for (const [size, server] of [
  [10, few],
  [many, lots],
] as const) {
  cases.push({ name: `${size} secrets, a writer alone`, server, spread: 10, clients: 0, beside: "writer" });
}

type Sample = z.infer<typeof LoadResult>;
const samples = new Map<string, Sample[]>(cases.map(({ name }) => [name, []]));
for (let round = 1; round <= rounds; round += 1) {
  say(`round ${round} of ${rounds}`);
  for (const one of cases) samples.get(one.name)?.push(load(one));
}

const rows = cases.map(({ name, clients, beside }) => {
  const seen = samples.get(name) ?? [];
  const floors = samples.get(`floor, ${clients} clients`) ?? [];
  const rate = median(seen.map(({ main }) => main.perSecond));
  return {
    case: name,
    reads_per_second: Math.round(rate),
    of_floor: Number((rate / median(floors.map(({ main }) => main.perSecond))).toFixed(2)),
    p50_ms: Number(median(seen.map(({ main }) => main.p50 ?? Number.NaN)).toFixed(3)),
    p99_ms: Number(median(seen.map(({ main }) => main.p99 ?? Number.NaN)).toFixed(3)),
    ...(beside === "nothing"
      ? {}
      : {
          beside_per_second: Math.round(median(seen.map((sample) => sample.beside.perSecond))),
          beside_p50_ms: Number(median(seen.map((sample) => sample.beside.p50 ?? Number.NaN)).toFixed(2)),
          beside_p99_ms: Number(median(seen.map((sample) => sample.beside.p99 ?? Number.NaN)).toFixed(2)),
        }),
    failures: seen.reduce((sum, { failures }) => sum + failures, 0),
  };
});
const result = {
  schema_version: 1,
  rows,
  memory_mib: {
    "10": memoryMiB(few.child.pid),
    "10000": memoryMiB(middle.child.pid),
    [many]: memoryMiB(lots.child.pid),
    floor: memoryMiB(floor.child.pid),
  },
  first_answer_ms: { median: median(startUps), worst: Math.max(...startUps) },
};
if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
else {
  console.table(rows);
  console.table(result.memory_mib);
  console.table({ [`first answer with ${many} secrets, ms`]: result.first_answer_ms });
}
process.exit(0);
