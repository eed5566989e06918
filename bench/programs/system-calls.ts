/** system-calls — what a lookup asks of the kernel: calls, as strace counts them, and pages. */
import * as fs from "node:fs";
import path from "node:path";
import { run } from "../../src/core/exec.ts";
import { measure } from "../support/measure.ts";
import type { Options } from "../support/options.ts";
import type { Report } from "../support/report.ts";
import { isInPath, openStage, stageObstacle } from "../support/stage.ts";

export function systemCallsObstacle(): string | undefined {
  return stageObstacle() ?? (isInPath("strace") ? undefined : "no strace");
}

/** The calls that say most about a start: what is opened, mapped, read, and which threads there are. */
const SHOWN = ["openat", "read", "mmap", "mprotect", "madvise", "futex", "clone3"] as const;

export async function systemCalls({ rounds = 5 }: Options): Promise<Report> {
  await using stage = await openStage(1);
  const { id, value } = stage.entry(0);
  const cases = [
    { name: "leger", argv: [stage.leger, "driver", "lookup"] },
    { name: "curl", argv: stage.curlLookup(id) },
    { name: "cat", argv: ["/bin/sh", "-c", stage.catCommand] },
    { name: "leger on Node", argv: [stage.cli, "driver", "lookup"] },
  ].map((one) => ({ ...one, env: { ...stage.env, SECRET_ID: id }, prints: value }));
  const measured = await measure(cases, { rounds });
  const rows: Record<string, string | number>[] = [];
  for (const { name, argv, env } of cases) {
    const log = path.join(stage.directory, "strace");
    await run("strace", ["-f", "-qq", "-o", log, ...argv], { env, timeoutMs: 60_000, check: true });
    const calls = fs.readFileSync(log, "utf8").match(/^\d+ +\w+\(/gm) ?? [];
    const count = (call: string): number => calls.filter((line) => line.endsWith(` ${call}(`)).length;
    rows.push({
      program: name,
      "system calls": calls.length,
      ...Object.fromEntries(SHOWN.map((call) => [call, count(call)])),
      "minor faults": measured.median(name, "minorFaults"),
      "major faults": measured.median(name, "majorFaults"),
    });
  }
  return { figures: [], tables: [{ title: "one lookup", rows }], skipped: [] };
}
