/** soak — legerd under an even load for a long time, with rotations, restarts and backups: nothing may grow. */
import { generateX25519Identity, identityToRecipient } from "age-encryption";
import * as fs from "node:fs";
import * as os from "node:os";
import path from "node:path";
import { run } from "../src/core/exec.ts";
import { openConnection, type Connection } from "./crash/connection.ts";
import { setecCall } from "./crash/model.ts";
import { launchLegerd, LEGERD, type LegerdProcess } from "./support/legerd-process.ts";
import { readOptions, runScript, wholeNumber } from "./support/script.ts";

const HELP = `usage: node scripts/soak.ts [--minutes N] [--rate N]

  --minutes N  how long (default 30); legerd is restarted five times, evenly spread
  --rate N     requests a second (default 2000)
`;

const CLIENTS = 8;
const SECRETS = 100;
/** One of so many requests puts a new version, and the next activates it. */
const ROTATE_EVERY = 400;
const LIVES = 6;
const SAMPLES_PER_LIFE = 10;
const AUDIT_BYTES = 8 * 1024 * 1024;
/** How much more the last third may have than the second, by its median: what is allowed to noise. */
const TOLERATED = { rss: 1.1, descriptors: 1.1, wal: 1.5 };
const SLACK = { rss: 8 * 2 ** 20, descriptors: 4, wal: 4 * 2 ** 20 };

type Sample = { rss: number; descriptors: number; wal: number; audit: number; p99: number };

async function main(): Promise<void> {
  const { values } = readOptions("test:soak", {
    options: {
      minutes: { type: "string", default: "30" },
      rate: { type: "string", default: "2000" },
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help === true) return void process.stdout.write(HELP);
  const minutes = wholeNumber("minutes", values.minutes);
  const rate = wholeNumber("rate", values.rate);
  const base = fs.mkdtempSync(path.join(os.tmpdir(), "leger-soak-"));
  try {
    const { samples, asked, wrong } = await soak(base, minutes * 60_000, rate);
    const faults = [...wrong, ...grown(samples)];
    for (const fault of faults) process.stdout.write(`soak: ${fault}\n`);
    const [first, last] = [samples[1], samples.at(-1)].map((sample) => sample?.p99 ?? 0);
    process.stdout.write(
      `soak: ${asked} requests in ${minutes} minutes, p99 ${first?.toFixed(2)} ms at the start and ${last?.toFixed(2)} ms at the end, ${faults.length} faults\n`,
    );
    if (faults.length > 0) process.exitCode = 1;
  } finally {
    fs.rmSync(base, { recursive: true, force: true });
  }
}

async function soak(
  base: string,
  totalMs: number,
  rate: number,
): Promise<{ samples: Sample[]; asked: number; wrong: string[] }> {
  const [stateDir, socket, config] = ["state", "legerd.sock", "legerd.json"].map((name) =>
    path.join(base, name),
  );
  if (stateDir === undefined || socket === undefined || config === undefined) throw new Error("no places");
  fs.writeFileSync(config, JSON.stringify({ audit: { max_bytes: AUDIT_BYTES } }), { mode: 0o600 });
  const recipient = await identityToRecipient(await generateX25519Identity());
  const start = async (): Promise<LegerdProcess> => {
    const daemon = launchLegerd(base, ["--config", config, "--state", stateDir, "--socket", socket]);
    await daemon.ready;
    return daemon;
  };
  const samples: Sample[] = [];
  const wrong: string[] = [];
  let asked = 0;
  for (let life = 0; life < LIVES && wrong.length === 0; life += 1) {
    const daemon = await start();
    const connections = await Promise.all(Array.from({ length: CLIENTS }, () => openConnection(socket)));
    try {
      if (life === 0) await fill(connections[0]);
      for (let at = 0; at < SAMPLES_PER_LIFE && wrong.length === 0; at += 1) {
        const until = performance.now() + totalMs / LIVES / SAMPLES_PER_LIFE;
        const tookMs: number[] = [];
        const load = Promise.all(
          connections.map((connection) => pace(connection, (CLIENTS * 1_000) / rate, until, tookMs)),
        );
        // Amid the load of each life, once.
        if (at === SAMPLES_PER_LIFE / 2) {
          const args = [LEGERD, "backup", path.join(base, "backup"), "--force", "--recipient", recipient];
          const { status } = await run(process.execPath, [...args, "--state", stateDir], {
            env: { PATH: process.env["PATH"], HOME: base },
            timeoutMs: 60_000,
          });
          if (status !== 0) wrong.push(`a backup ended with ${status}`);
        }
        wrong.push(...new Set((await load).flat()));
        asked += tookMs.length;
        const sample = sampleOf(daemon.child.pid ?? 0, stateDir, tookMs);
        samples.push(sample);
        const { rss, descriptors, wal, audit, p99 } = sample;
        const sizes = [rss, wal, audit].map((bytes) => (bytes / 2 ** 20).toFixed(1));
        process.stdout.write(
          `soak: life ${life + 1}: ${tookMs.length} requests, p99 ${p99.toFixed(2)} ms, ${descriptors} descriptors; MiB resident, WAL, audit: ${sizes.join(", ")}\n`,
        );
      }
    } finally {
      for (const connection of connections) connection.close();
      daemon.child.kill("SIGTERM");
      const status = await daemon.ended;
      if (status !== 0) wrong.push(`legerd ended with ${status}`);
    }
  }
  return { samples, asked, wrong };
}

function nameOf(at: number): string {
  return `leger/local/soak-${at % SECRETS}`;
}

async function fill(connection: Connection | undefined): Promise<void> {
  for (let at = 0; at < SECRETS; at += 1) {
    await connection?.ask(setecCall("put", { Name: nameOf(at), Value: "aGFsbG8=" }));
  }
}

/** Asks once in each interval, or as soon as it can; returns a sentence for each wrong answer. */
async function pace(
  connection: Connection,
  everyMs: number,
  until: number,
  tookMs: number[],
): Promise<string[]> {
  const wrong: string[] = [];
  for (
    let due = performance.now(), count = 0;
    due < until && wrong.length === 0;
    due += everyMs, count += 1
  ) {
    const early = due - performance.now();
    if (early > 1) await new Promise((resolve) => setTimeout(resolve, early));
    const Name = nameOf(Math.floor(due));
    const began = performance.now();
    const reply = await connection.ask(
      count % ROTATE_EVERY === 1
        ? setecCall("put", { Name, Value: Buffer.from(String(due)).toString("base64") })
        : setecCall("get", { Name }),
    );
    tookMs.push(performance.now() - began);
    if (reply?.status !== 200) wrong.push(`${Name}: answered ${reply?.status}`);
    if (count % ROTATE_EVERY !== 1 || reply === undefined) continue;
    const activated = await connection.ask(
      setecCall("activate", { Name, Version: Number(reply.body.toString()) }),
    );
    if (activated?.status !== 200) wrong.push(`${Name}: activate answered ${activated?.status}`);
  }
  return wrong;
}

function sampleOf(pid: number, stateDir: string, tookMs: readonly number[]): Sample {
  const status = fs.readFileSync(`/proc/${pid}/status`, "utf8");
  const sizes = fs
    .readdirSync(stateDir)
    .map((name) => ({ name, bytes: fs.statSync(path.join(stateDir, name)).size }));
  const sum = (pattern: RegExp): number =>
    sizes.reduce((total, { name, bytes }) => total + (pattern.test(name) ? bytes : 0), 0);
  return {
    rss: Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) * 1_024,
    descriptors: fs.readdirSync(`/proc/${pid}/fd`).length,
    wal: sum(/-wal$/),
    audit: sum(/^audit/),
    p99: tookMs.toSorted((a, b) => a - b)[Math.floor(tookMs.length * 0.99)] ?? 0,
  };
}

/** A sentence for each thing of which the last third has more than the second, or more than it may ever have. */
function grown(samples: readonly Sample[]): string[] {
  const third = Math.floor(samples.length / 3);
  const [second, last] = [samples.slice(third, 2 * third), samples.slice(2 * third)];
  const faults = (["rss", "descriptors", "wal"] as const).flatMap((what) => {
    const [before, after] = [second, last].map((part) => median(part.map((sample) => sample[what])));
    const most = (before ?? 0) * TOLERATED[what] + SLACK[what];
    return (after ?? 0) > most ? [`${what} grew from ${before} to ${after}`] : [];
  });
  const audit = Math.max(...samples.map((sample) => sample.audit));
  // Each of its eight files may be too long by one write.
  return audit > AUDIT_BYTES * 1.1 ? [...faults, `the audit logs have ${audit} bytes`] : faults;
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;
}

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));
await runScript("test:soak", main);
