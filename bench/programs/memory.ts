/** memory — how much memory the programs take, and how large they are. */
import * as fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { run } from "../../src/core/exec.ts";
import { launchLegerd } from "../../scripts/support/legerd-process.ts";
import { fillStore } from "../support/fill-store.ts";
import { measure } from "../support/measure.ts";
import type { Options } from "../support/options.ts";
import type { Figure, Report, Skipped } from "../support/report.ts";
import { BUILT, openStage, SERVICE, type Stage } from "../support/stage.ts";

const SECRETS = 10_000;
const LOAD_SECONDS = 5;
const LOAD = fileURLToPath(new URL("../daemon/load.ts", import.meta.url));

export async function memory({ rounds = 11 }: Options): Promise<Report> {
  await using stage = await openStage(10);
  const { id, value } = stage.entry(0);
  const env = { ...stage.env, SECRET_ID: id };
  const cases = [
    { name: "leger driver lookup", argv: [stage.leger, "driver", "lookup"], prints: value },
    { name: "leger driver list", argv: [stage.leger, "driver", "list"] },
    { name: "leger secrets fetch", argv: [stage.leger, "secrets", "fetch", SERVICE] },
    { name: "curl", argv: stage.curlLookup(id), prints: value },
    { name: "leger on Node: driver lookup", argv: [stage.cli, "driver", "lookup"], prints: value },
    { name: "leger secrets list", argv: [stage.leger, "secrets", "list"] },
  ].map((one) => ({ ...one, env }));
  const measured = await measure(cases, { rounds });
  // Peaks are peaks: the largest that was seen, not the median.
  const peak = (name: string): number => Math.max(...measured.all(name, "peakMiB"));
  const hot = ["leger driver lookup", "leger driver list", "leger secrets fetch"];
  const daemon = await daemonMemory(stage);
  const { figures, skipped } = sizes();
  return {
    figures: [
      ...hot.map((name) => mebibytes(`peak of ${name}`, peak(name), 36)),
      mebibytes(`peak of curl`, peak("curl")),
      mebibytes(`peak of leger's own Node program, driver lookup`, peak("leger on Node: driver lookup")),
      mebibytes(`peak of leger secrets list`, peak("leger secrets list")),
      mebibytes(`legerd with ${SECRETS} secrets, started`, daemon.started),
      mebibytes(`legerd with ${SECRETS} secrets, after ${LOAD_SECONDS} s of load`, daemon.loaded, 120),
      mebibytes(`its peak`, daemon.peak),
      ...figures,
    ],
    tables: [],
    skipped,
  };
}

type DaemonMemory = { started: number; loaded: number; peak: number };

/** 64 clients read all secrets in turn. */
async function daemonMemory(stage: Stage): Promise<DaemonMemory> {
  const stateDir = path.join(stage.directory, "many");
  await fillStore(stateDir, SECRETS);
  const socket = path.join(stage.runtimeDir, "many/legerd.sock");
  const legerd = launchLegerd(stage.directory, ["--state", stateDir, "--socket", socket], {
    command: [stage.legerd],
    env: unitEnvironment(),
  });
  try {
    await legerd.ready;
    const started = statusOf(legerd.child.pid, "VmRSS");
    const load = { socket, clients: 64, seconds: LOAD_SECONDS, names: SECRETS, spread: SECRETS };
    const args = Object.entries(load).flatMap(([name, value]) => [`--${name}`, String(value)]);
    const options = { env: { PATH: process.env["PATH"] }, timeoutMs: 60_000, check: true };
    const { stdout } = await run(process.execPath, [LOAD, ...args], options);
    const { failures } = Load.parse(JSON.parse(Buffer.from(stdout).toString()));
    if (failures > 0) throw new Error(`${failures} reads failed`);
    return {
      started,
      loaded: statusOf(legerd.child.pid, "VmRSS"),
      peak: statusOf(legerd.child.pid, "VmHWM"),
    };
  } finally {
    legerd.child.kill("SIGTERM");
    await legerd.ended;
  }
}

/** What systemd gives legerd. */
function unitEnvironment(): Record<string, string> {
  const unit = fs.readFileSync(UNIT, "utf8");
  return Object.fromEntries(
    [...unit.matchAll(/^Environment=(\w+)=(\S*)$/gm)].map(([, name = "", value = ""]) => [name, value]),
  );
}

const UNIT = fileURLToPath(new URL("../../packaging/systemd/user/legerd.service", import.meta.url));

const Load = z.object({ failures: z.number() });

/** In MiB (proc_pid_status(5)). */
function statusOf(pid: number | undefined, key: "VmRSS" | "VmHWM"): number {
  const text = fs.readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(new RegExp(`^${key}:\\s+(\\d+) kB$`, "m").exec(text)?.[1]) / 1024;
}

/** Of what is built; packages are named for what a person downloads. */
function sizes(): { figures: Figure[]; skipped: Skipped[] } {
  const dist = path.dirname(BUILT);
  const programs = ["leger", "leger-cli"].map((name) => path.join(BUILT, name));
  const packages = fs
    .readdirSync(dist)
    .filter((name) => /\.(?:deb|rpm|tgz)$/.test(name))
    .map((name) => path.join(dist, name));
  return {
    figures: [...programs, ...packages].map((file) => ({
      what: `size of ${path.relative(dist, file)}`,
      value: fs.statSync(file).size / 1e6,
      unit: "MB",
    })),
    skipped:
      packages.length > 0
        ? []
        : [{ what: "sizes of packages", why: "there are none in dist: npm run package" }],
  };
}

function mebibytes(what: string, value: number, aim?: number): Figure {
  return { what, value, unit: "MiB", ...(aim === undefined ? {} : { aim }) };
}
