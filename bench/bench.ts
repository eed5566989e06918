/** bench — `npm run bench [-- NAME…] [--json] [--rounds N]`: what leger costs, and whether that meets its aims. */
import * as fs from "node:fs";
import os from "node:os";
import { parseArgs } from "node:util";
import { exitStatusOf, LegerError, speak } from "../src/core/error.ts";
import { containers } from "./machines/containers.ts";
import { machineObstacle } from "./machines/machine.ts";
import { units } from "./machines/units.ts";
import { cold, coldObstacle } from "./programs/cold.ts";
import { crowd } from "./programs/crowd.ts";
import { daemon } from "./daemon/daemon.ts";
import { fetch } from "./programs/fetch.ts";
import { lookup } from "./programs/lookup.ts";
import { memory } from "./programs/memory.ts";
import { render } from "./render/render.ts";
import { residue, residueObstacle } from "./residue/residue.ts";
import { start } from "./programs/start.ts";
import { systemCalls, systemCallsObstacle } from "./programs/system-calls.ts";
import type { Options } from "./support/options.ts";
import { asText, withVerdicts, type Report } from "./support/report.ts";
import { builtVersion, stageObstacle } from "./support/stage.ts";

type Benchmark = {
  about: string;
  /** Why it cannot be run on this machine. */
  obstacle: () => string | undefined;
  run: (options: Options) => Promise<Report>;
};

const BENCHMARKS: Readonly<Record<string, Benchmark>> = {
  lookup: {
    about: "one lookup by the driver, as a process, over curl and cat",
    obstacle: stageObstacle,
    run: lookup,
  },
  fetch: {
    about: "secrets fetch of ten secrets, as a process, over curl",
    obstacle: stageObstacle,
    run: fetch,
  },
  crowd: {
    about: "100 containers' lookups at once, over cat",
    obstacle: stageObstacle,
    run: crowd,
  },
  start: {
    about: "commands that are handed over to the whole CLI, over node -e 0",
    obstacle: stageObstacle,
    run: start,
  },
  memory: {
    about: "the programs' memory, and their size",
    obstacle: stageObstacle,
    run: memory,
  },
  calls: {
    about: "what a lookup asks of the kernel",
    obstacle: systemCallsObstacle,
    run: systemCalls,
  },
  cold: {
    about: "the first lookup after drop_caches",
    obstacle: () => stageObstacle() ?? coldObstacle(),
    run: cold,
  },
  containers: {
    about: "podman run with five secrets, over a driver that is cat",
    obstacle: () => stageObstacle() ?? machineObstacle(),
    run: containers,
  },
  units: {
    about: "the start of a quadlet's unit, over no secrets",
    obstacle: () => stageObstacle() ?? machineObstacle(),
    run: units,
  },
  daemon: {
    about: "legerd's rate and latency, over a bare node:http server",
    obstacle: () => undefined,
    run: daemon,
  },
  render: {
    about: "leger render of 1,000 quadlets and of 10,000",
    obstacle: () => undefined,
    run: render,
  },
  residue: {
    about: "leger residue of a file of 4 GiB, beside grep",
    obstacle: residueObstacle,
    run: residue,
  },
};

const HELP = `npm run bench -- [NAME…] [--rounds N] [--mib N] [--json]

Without a name: all that this machine can do.

${Object.entries(BENCHMARKS)
  .map(([name, { about }]) => `  ${name.padEnd(12)}${about}`)
  .join("\n")}

  --rounds N  how often each case is run (default: for each benchmark its own)
  --mib N     how large a file residue searches (default: 4096)
  --json      figures, tables and what was skipped, as JSON
`;

async function main(args: string[]): Promise<void> {
  const { values, positionals } = parsed(args);
  if (values.help === true) return void process.stdout.write(HELP);
  const rounds = values.rounds === undefined ? undefined : numberOf("rounds", values.rounds);
  const mib = values.mib === undefined ? undefined : numberOf("mib", values.mib);
  const names = positionals.length > 0 ? positionals : Object.keys(BENCHMARKS);
  const chosen = names.map((name) => {
    const benchmark = BENCHMARKS[name];
    if (benchmark !== undefined) return [name, benchmark] as const;
    throw usage(`no benchmark ${name}: ${Object.keys(BENCHMARKS).join(", ")}`);
  });
  const priority = goFirst();
  const machine = { ...(await describeMachine()), priority };
  if (values.json !== true) process.stdout.write(`${JSON.stringify(machine)}\n\n`);
  const reports: Record<string, object> = {};
  for (const [name, { about, obstacle, run }] of chosen) {
    const report = await attempt(name, obstacle(), () => run({ rounds, mib }));
    reports[name] = withVerdicts(report);
    if (values.json !== true) process.stdout.write(`${asText(`${name}: ${about}`, report)}\n`);
  }
  if (values.json === true) {
    process.stdout.write(`${JSON.stringify({ schema_version: 1, machine, benchmarks: reports })}\n`);
  }
}

/** What cannot be measured here is a line in the report, and the others go on. */
async function attempt(
  name: string,
  obstacle: string | undefined,
  run: () => Promise<Report>,
): Promise<Report> {
  if (obstacle !== undefined) return { figures: [], tables: [], skipped: [{ what: name, why: obstacle }] };
  process.stderr.write(`bench: ${name} (load ${load()})\n`);
  return run();
}

/** Whoever compares two runs must know that they ran on the same. */
async function describeMachine(): Promise<Record<string, string | number>> {
  const [first] = os.cpus();
  return {
    cpu: first?.model ?? "unknown",
    cores: os.availableParallelism(),
    kernel: `${os.type()} ${os.release()}`,
    load: load(),
    leger: await builtVersion(),
  };
}

/** What is measured inherits it: what else this machine is at should count little. A nice value; 0 is everybody's. */
function goFirst(): number {
  try {
    os.setPriority(os.constants.priority.PRIORITY_HIGHEST);
    // legerd is of our session, and the kernel shares out the processors by session first (sched(7), autogroup).
    fs.writeFileSync("/proc/self/autogroup", String(os.constants.priority.PRIORITY_HIGHEST));
  } catch {
    // That takes root; ratios of interleaved runs stand without.
  }
  return os.getPriority();
}

function load(): string {
  return fs.readFileSync("/proc/loadavg", "utf8").split(" ").slice(0, 3).join(" ");
}

function parsed(args: string[]) {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        json: { type: "boolean" },
        rounds: { type: "string" },
        mib: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (cause) {
    throw usage(cause instanceof Error ? cause.message : "wrong arguments");
  }
}

function numberOf(option: string, text: string): number {
  if (/^[1-9]\d{0,4}$/.test(text)) return Number(text);
  throw usage(`--${option}: a number from 1`);
}

function usage(what: string): LegerError {
  return new LegerError("USAGE", what, { hints: ["see npm run bench -- --help"] });
}

process.once("SIGINT", () => process.exit(130));
try {
  await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(speak(error, "bench"));
  process.exitCode = exitStatusOf(error);
}
