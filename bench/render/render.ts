/** render — how long `leger render` takes for 1,000 quadlets and for 10,000, and that it grows no faster than they do. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempDisposableSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const HELP = `npm run bench -- render [--rounds N] [--json]

Writes quadlets with two secrets each, a third of them with a drop-in of their own, and renders them: first into a mode,
then again, when nothing is to be done. Times are whole processes, the median of N rounds (default 3); the aims are
1,000 quadlets in less than 2 s, and 10,000 in at most 11 times what 1,000 take.
`;

const LEGER = fileURLToPath(new URL("../../src/bin/leger.ts", import.meta.url));
const SIZES = [1_000, 10_000] as const;
const MODE = "env-file";

const { values } = parseArgs({
  options: { rounds: { type: "string", default: "3" }, json: { type: "boolean" }, help: { type: "boolean" } },
});
if (values.help === true) process.stdout.write(HELP);
else bench(Number(values.rounds), values.json === true);

type Row = { quadlets: number; firstMs: number; againMs: number };

function bench(rounds: number, asJson: boolean): void {
  using base = mkdtempDisposableSync(path.join(tmpdir(), "leger-bench-render-"));
  const directories = new Map(SIZES.map((size) => [size, fill(path.join(base.path, String(size)), size)]));
  // Rounds of both sizes in turn: what else the machine does meanwhile meets both.
  const taken = new Map(SIZES.map((size) => [size, { first: [] as number[], again: [] as number[] }]));
  for (let round = 0; round < rounds; round += 1) {
    for (const size of SIZES) {
      const directory = directories.get(size) ?? "";
      const times = taken.get(size);
      times?.first.push(timeOf(directory, MODE));
      times?.again.push(timeOf(directory, MODE));
      timeOf(directory, "driver");
    }
  }
  const rows: Row[] = SIZES.map((size) => {
    const { first = [], again = [] } = taken.get(size) ?? {};
    return { quadlets: size, firstMs: median(first), againMs: median(again) };
  });
  report(rows, asJson);
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

function median(times: readonly number[]): number {
  return times.toSorted((one, other) => one - other)[Math.floor(times.length / 2)] ?? Number.NaN;
}

function report(rows: readonly Row[], asJson: boolean): void {
  const [small, large] = rows;
  const ratio = (large?.firstMs ?? Number.NaN) / (small?.firstMs ?? Number.NaN);
  const met = { under_2_s: (small?.firstMs ?? Infinity) < 2_000, linear: ratio <= 11 };
  if (asJson) {
    process.stdout.write(`${JSON.stringify({ rows, ratio, met })}\n`);
  } else {
    const lines = rows.map(
      ({ quadlets, firstMs, againMs }) =>
        `${String(quadlets).padStart(8)}  ${firstMs.toFixed(0).padStart(8)}  ${againMs.toFixed(0).padStart(8)}`,
    );
    process.stdout.write(`quadlets  first ms  again ms\n${lines.join("\n")}\n`);
    process.stdout.write(
      `10,000 over 1,000: ${ratio.toFixed(2)} (aim 11); 1,000 below 2 s: ${met.under_2_s ? "yes" : "no"}\n`,
    );
  }
}
