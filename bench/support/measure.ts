/** measure — runs programs in turn, again and again, and compares what they cost. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { LegerError } from "../../src/core/error.ts";
import { run } from "../../src/core/exec.ts";
import type { Figure, Table } from "./report.ts";

export type Case = {
  name: string;
  argv: readonly string[];
  /** All of its environment. */
  env: Readonly<Record<string, string>>;
  /** What standard output must be for a run to count. */
  prints?: string;
  umask?: string;
  /** How many of it make up one run, and how many of those at a time. */
  copies?: number;
  atOnce?: number;
  /** Lines of shell around each run, which are not counted. */
  before?: string;
  after?: string;
};

type Sample = {
  wallMs: number;
  /** User and system time, of all processes that were waited for. */
  cpuMs: number;
  /** The largest of its processes. */
  peakMiB: number;
  minorFaults: number;
  majorFaults: number;
};

/** Runs a program where the cases are to run; standard output of it. */
export type Runner = (
  file: string,
  args: readonly string[],
  options: { stdin: string; timeoutMs: number },
) => Promise<string>;

/** On this machine, as it is. */
export const runHere: Runner = async (file, args, { stdin, timeoutMs }) => {
  const { stdout } = await run("/bin/sh", ["-c", FIRST, "sh", file, ...args], {
    env: { PATH: process.env["PATH"] },
    stdin: Buffer.from(stdin),
    timeoutMs,
    check: true,
  });
  return Buffer.from(stdout).toString();
};

/**
 * Puts what it starts before all other work of this machine, where it may: most kernels give each session its share of the
 * processors first (sched(7), autogroup), and every program that `run` starts is a session.
 */
const FIRST = '{ echo -20 >/proc/self/autogroup; } 2>/dev/null; exec "$@"';

export type Plan = {
  rounds: number;
  /** Rounds before that do not count. */
  warmups?: number;
  runner?: Runner;
  /** For one run. */
  timeoutMs?: number;
};

/** Every case once in every round. A run that fails, or prints something else, fails the whole. */
export async function measure(cases: readonly Case[], plan: Plan): Promise<Measured> {
  const { rounds, warmups = 2, runner = runHere, timeoutMs = 20_000 } = plan;
  const args = ["-e", TIMER, String(rounds), String(warmups)];
  const output = await runner("perl", args, {
    stdin: cases.map((one) => `${line(one)}\n`).join(""),
    timeoutMs: timeoutMs * (rounds + warmups) * cases.length,
  }).catch((error: unknown) => {
    const said = error instanceof Error ? error.message : String(error);
    const { name } = cases[Number(/timer: case (\d+)/.exec(said)?.[1])] ?? {};
    const what = name === undefined ? "" : `${name}: `;
    throw new LegerError("FAILED", `cannot measure: ${what}${said}`, { cause: error });
  });
  const samples = new Map<string, Sample[]>(cases.map(({ name }) => [name, []]));
  for (const row of output.trim().split("\n")) {
    const [number = -1, wall = 0, user = 0, system = 0, peak = 0, minorFaults = 0, majorFaults = 0] = row
      .split(" ")
      .map(Number);
    samples.get(cases[number]?.name ?? "")?.push({
      wallMs: wall / 1000,
      cpuMs: (user + system) / 1000,
      peakMiB: peak / 1024,
      minorFaults,
      majorFaults,
    });
  }
  return new Measured(samples);
}

export type { Measured };

class Measured {
  readonly #samples: ReadonlyMap<string, readonly Sample[]>;

  constructor(samples: ReadonlyMap<string, readonly Sample[]>) {
    this.#samples = samples;
  }

  all(name: string, what: keyof Sample): number[] {
    const samples = this.#samples.get(name);
    if (samples === undefined || samples.length === 0) throw new Error(`nothing was measured as ${name}`);
    return samples.map((sample) => sample[what]);
  }

  median(name: string, what: keyof Sample): number {
    return median(this.all(name, what));
  }

  /** How many times as long as another case this one took: the ratio of the medians. */
  ratio(name: string, over: string, rest: { what?: string; aim?: number } = {}): Figure {
    const [ours, theirs] = [this.all(name, "wallMs"), this.all(over, "wallMs")];
    return {
      what: `${name} / ${over}`,
      value: median(ours) / median(theirs),
      unit: "×",
      range: repeated(ours, theirs),
      cpu: this.median(name, "cpuMs") / this.median(over, "cpuMs"),
      ...rest,
    };
  }

  table(title: string, names: readonly string[] = [...this.#samples.keys()]): Table {
    const rounds = this.all(names[0] ?? "", "wallMs").length;
    return {
      title: `${title}, median of ${rounds}`,
      rows: names.map((name) => {
        const wall = this.all(name, "wallMs").toSorted((one, other) => one - other);
        return {
          case: name,
          "wall ms": median(wall),
          "quarter below": quantile(wall, 0.25),
          "quarter above": quantile(wall, 0.75),
          "CPU ms": this.median(name, "cpuMs"),
          "peak MiB": this.median(name, "peakMiB"),
          "minor faults": this.median(name, "minorFaults"),
          "major faults": this.median(name, "majorFaults"),
        };
      }),
    };
  }
}

export function median(numbers: readonly number[]): number {
  return quantile(
    numbers.toSorted((one, other) => one - other),
    0.5,
  );
}

function quantile(sorted: readonly number[], share: number): number {
  const at = (sorted.length - 1) * share;
  const [low = Number.NaN, high = low] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]];
  return low + (high - low) * (at - Math.floor(at));
}

const REPETITIONS = 1_000;

/** A bootstrap: rounds drawn again from those that were run, each with both its cases. */
function repeated(ours: readonly number[], theirs: readonly number[]): [number, number] {
  const ratios = Array.from({ length: REPETITIONS }, () => {
    const drawn = ours.map(() => Math.floor(Math.random() * ours.length));
    const of = (all: readonly number[]): number => median(drawn.map((at) => all[at] ?? Number.NaN));
    return of(ours) / of(theirs);
  }).toSorted((one, other) => one - other);
  return [quantile(ratios, 0.05), quantile(ratios, 0.95)];
}

const TIMER = readFileSync(fileURLToPath(new URL("timer.pl", import.meta.url)), "utf8");

function line({ argv, env, prints, umask, copies, atOnce, before, after }: Case): string {
  const single = { prints, umask, copies, at_once: atOnce, before, after };
  return [
    ...argv.map((arg) => ["arg", arg]),
    ...Object.entries(env).map(([name, value]) => ["env", `${name}=${value}`]),
    ...Object.entries(single).flatMap(([key, value]) => (value === undefined ? [] : [[key, String(value)]])),
  ]
    .map(([key, value = ""]) => `${key}=${encodeURIComponent(value)}`)
    .join(" ");
}
