/** residue — how fast `leger residue` searches one large file for fifty values in every form, beside grep with the same patterns. */
import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { LegerError } from "../../src/core/error.ts";
import { run } from "../../src/core/exec.ts";
import { Secret } from "../../src/core/secret.ts";
import { formsOf } from "../../src/residue/forms.ts";
import { Residue, type Known } from "../../src/residue/residue.ts";
import { median } from "../support/measure.ts";
import type { Options } from "../support/options.ts";
import type { Report } from "../support/report.ts";

const SECRETS = 50;
const DEFAULT_MIB = 4_096;
const MIB = 1024 * 1024;
const MB = 1_000_000;
const BLOCK_MIB = 64;
/** Some in the middle of what was written, one at its end. */
const PLANTED = 8;
const GREP_TIMEOUT_MS = 600_000;

export function residueObstacle(): string | undefined {
  const { bavail, bsize } = fs.statfsSync(tmpdir());
  return (bavail * bsize) / MIB > DEFAULT_MIB * 1.1 ? undefined : `${tmpdir()} has no room for 4 GiB`;
}

/** `mib`: how large the file is. It is written to the temporary directory, and gone afterwards. */
export async function residue({ rounds = 3, mib = DEFAULT_MIB }: Options): Promise<Report> {
  using base = fs.mkdtempDisposableSync(path.join(tmpdir(), "leger-bench-residue-"));
  const known = Array.from({ length: SECRETS }, (_, at): Known => ({
    secret: `key_${at}`,
    version: 1,
    value: new Secret(Buffer.from(`sk-proj-${randomBytes(24).toString("base64")}`)),
  }));
  const forms = known.flatMap(({ value }) => formsOf(value) ?? []);
  const patterns = path.join(base.path, "patterns");
  // One of a grep's patterns is a line.
  fs.writeFileSync(patterns, forms.map(({ bytes }) => `${Buffer.from(bytes).toString()}\n`).join(""), {
    mode: 0o600,
  });
  const file = path.join(base.path, "file");
  fill(file, mib, known);

  const ours: Taken[] = [];
  const greps: Taken[] = [];
  for (let round = 0; round < rounds; round += 1) {
    ours.push(await timeOf(() => search(known, file)));
    greps.push(await timeOf(() => grep(patterns, file)));
  }
  const speed = (taken: readonly Taken[]): number =>
    (mib * MIB) / MB / (median(taken.map(({ wallMs }) => wallMs)) / 1_000);
  const ratio = median(ours.map(({ wallMs }) => wallMs)) / median(greps.map(({ wallMs }) => wallMs));
  return {
    figures: [{ what: `leger residue / grep -F -f, ${mib} MiB`, value: ratio, unit: "×" }],
    tables: [
      {
        title: `${SECRETS} values, ${forms.length} patterns, ${mib} MiB of program, text and random bytes, median of ${rounds}`,
        rows: [
          { case: "leger residue", "MB/s": speed(ours), "wall ms": median(ours.map(({ wallMs }) => wallMs)) },
          {
            case: "grep -a -F -f",
            "MB/s": speed(greps),
            "wall ms": median(greps.map(({ wallMs }) => wallMs)),
          },
        ],
      },
    ],
    skipped: [],
  };
}

type Taken = { wallMs: number };

/** A program, a text, random bytes and base64, again and again, and some of the values. */
function fill(file: string, mib: number, known: readonly Known[]): void {
  const quarter = (BLOCK_MIB / 4) * MIB;
  const text = fs.readFileSync(new URL("../../package-lock.json", import.meta.url));
  const block = Buffer.concat([
    fs.readFileSync(process.execPath).subarray(0, quarter),
    ...Array.from({ length: Math.ceil(quarter / text.length) }, () => text),
  ]).subarray(0, 2 * quarter);
  const whole = Buffer.concat([
    block,
    randomBytes(quarter),
    Buffer.from(randomBytes((quarter / 4) * 3).toString("base64")),
  ]);
  const fd = fs.openSync(file, "wx", 0o600);
  try {
    for (let written = 0; written < mib; written += BLOCK_MIB) {
      fs.writeSync(fd, whole, 0, Math.min(BLOCK_MIB, mib - written) * MIB, written * MIB);
    }
    for (let at = 0; at < PLANTED; at += 1) {
      const value = known[at]?.value.reveal() ?? Buffer.alloc(0);
      const written = Buffer.from(
        `${at % 2 === 0 ? Buffer.from(value).toString() : Buffer.from(value).toString("hex")}\n`,
      );
      const place = at === 0 ? mib * MIB - written.length : Math.floor((at * mib * MIB) / PLANTED) + at;
      fs.writeSync(fd, written, 0, written.length, place);
    }
  } finally {
    fs.closeSync(fd);
  }
}

async function search(known: readonly Known[], file: string): Promise<void> {
  const { findings } = await new Residue(known).search({ roots: [file], euid: process.geteuid?.() ?? 0 });
  const traces = findings.flatMap((finding) => finding.traces).length;
  if (traces !== PLANTED) throw new LegerError("BUG", `leger residue found ${traces} of ${PLANTED}`);
}

async function grep(patterns: string, file: string): Promise<void> {
  const { status, stdout } = await run("grep", ["-a", "-o", "-b", "-F", "-f", patterns, file], {
    env: { PATH: process.env["PATH"], LC_ALL: "C" },
    timeoutMs: GREP_TIMEOUT_MS,
  });
  const found = Buffer.from(stdout).toString().trim().split("\n").length;
  if (status !== 0 || found !== PLANTED) throw new LegerError("FAILED", `grep found ${found} of ${PLANTED}`);
}

async function timeOf(work: () => Promise<void>): Promise<Taken> {
  const began = performance.now();
  await work();
  return { wallMs: performance.now() - began };
}
