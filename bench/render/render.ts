/** render — how long `leger render` takes for 1,000 quadlets and for 10,000, and that it grows no faster than they do. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempDisposableSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { median } from "../support/measure.ts";
import type { Options } from "../support/options.ts";
import type { Report } from "../support/report.ts";

const LEGER = fileURLToPath(new URL("../../src/bin/leger.ts", import.meta.url));
const SMALL = 1_000;
const LARGE = 10_000;
const MODE = "env-file";

/**
 * Writes quadlets with two secrets each, a third of them with a drop-in of their own, and renders them: first into a mode,
 * then again, when nothing is to be done. Times are whole processes, of the source as it is.
 */
export async function render({ rounds = 3 }: Options): Promise<Report> {
  using base = mkdtempDisposableSync(path.join(tmpdir(), "leger-bench-render-"));
  const sizes = [SMALL, LARGE].map((quadlets) => ({
    quadlets,
    directory: fill(path.join(base.path, String(quadlets)), quadlets),
    first: [] as number[],
    again: [] as number[],
  }));
  // Rounds of both sizes in turn: what else the machine does meanwhile meets both.
  for (let round = 0; round < rounds; round += 1) {
    for (const { directory, first, again } of sizes) {
      first.push(timeOf(directory, MODE));
      again.push(timeOf(directory, MODE));
      timeOf(directory, "driver");
    }
  }
  const rows = sizes.map(({ quadlets, first, again }) => ({
    quadlets,
    "first ms": median(first),
    "again ms": median(again),
  }));
  const [small = Number.NaN, large = Number.NaN] = rows.map((row) => row["first ms"]);
  return {
    figures: [
      { what: `${SMALL} quadlets`, value: small, unit: "ms", aim: 2_000 },
      { what: `${LARGE} quadlets / ${SMALL}`, value: large / small, unit: "×", aim: 11 },
    ],
    tables: [{ title: `leger render, median of ${rounds}`, rows }],
    skipped: [],
  };
}

function fill(directory: string, size: number): string {
  mkdirSync(directory);
  for (let number = 0; number < size; number += 1) {
    const quadlet = path.join(directory, `app-${number}.container`);
    writeFileSync(
      quadlet,
      `[Unit]\nDescription=App ${number}\n\n[Container]\nImage=localhost/app:${number}\n# keys\nSecret=a_${number},type=env,target=A\nSecret=b,type=env,target=B\n\n[Service]\nRestart=always\n`,
    );
    if (number % 3 !== 0) continue;
    mkdirSync(`${quadlet}.d`);
    writeFileSync(path.join(`${quadlet}.d`, "10-mine.conf"), `[Container]\nLabel=number=${number}\n`);
  }
  return directory;
}

function timeOf(directory: string, mode: string): number {
  const begin = performance.now();
  const args = [LEGER, "render", directory, "--mode", mode, "--podman-version", "5.4"];
  const { status, stderr } = spawnSync(process.execPath, args, { maxBuffer: 1 << 28 });
  if (status !== 0) throw new Error(`leger render ended with ${status}: ${stderr.toString().slice(0, 400)}`);
  return performance.now() - begin;
}
