/** limits — takes legerd to its limits, one after the other: what it serves there, what it refuses in which words, and that it recovers by itself. */
import { spawnSync } from "node:child_process";
import { descriptors, doors, flood, idleClients } from "./limits/clients.ts";
import { diskFails, diskFull, readOnly } from "./limits/disk.ts";
import { large } from "./limits/large.ts";
import { clock, inotify, memory, suspend } from "./limits/machine.ts";
import { INSIDE, isRoot, makeGround, type Row } from "./limits/ground.ts";
import { readOptions, runScript } from "./support/script.ts";

const ROWS: readonly Row[] = [
  idleClients,
  flood,
  doors,
  descriptors,
  diskFull,
  diskFails,
  readOnly,
  clock,
  suspend,
  inotify,
  memory,
  large,
];

const HELP = `npm run test:limits -- [--all] [ROW…]

Without a row, all that take no longer than some seconds; --all takes the slow ones along. What this machine cannot do is
skipped, and said so.

${ROWS.map(({ name, what, slow }) => `  ${name.padEnd(12)} ${what}${slow === true ? " (slow)" : ""}`).join("\n")}
`;

async function main(args: string[]): Promise<void> {
  const options = { all: { type: "boolean" }, help: { type: "boolean", short: "h" } } as const;
  const { values, positionals } = readOptions("test:limits", { args, allowPositionals: true, options });
  const unknown = positionals.find((word) => ROWS.every(({ name }) => name !== word));
  if (values.help === true || unknown !== undefined) {
    process.stdout.write(HELP);
    process.exitCode = unknown === undefined ? 0 : 64;
    return;
  }
  const chosen = ROWS.filter(({ name, slow }) =>
    positionals.length > 0 ? positionals.includes(name) : values.all === true || slow !== true,
  );
  if (isRoot() && process.env[INSIDE] === undefined) {
    // What is mounted then is seen by nobody else, and goes with the last process.
    const apart = ["--mount", "--propagation", "private"];
    const can = spawnSync("unshare", [...apart, "true"]).status === 0;
    const program = [process.execPath, ...process.argv.slice(1)];
    const [file = "", ...words] = can ? ["unshare", ...apart, ...program] : program;
    const env = { ...process.env, [INSIDE]: can ? "1" : "0" };
    const { status } = spawnSync(file, words, { stdio: "inherit", env });
    process.exitCode = status ?? 1;
    return;
  }
  let failed = 0;
  let skipped = 0;
  for (const row of chosen) {
    const missing = row.missing?.();
    if (missing !== undefined) {
      skipped += 1;
      process.stdout.write(`limits: ${row.name}: skipped: ${missing}\n`);
      continue;
    }
    failed += (await passes(row)) ? 0 : 1;
  }
  process.stdout.write(
    `limits: ${chosen.length - failed - skipped} passed, ${failed} failed, ${skipped} skipped\n`,
  );
  if (failed > 0) process.exitCode = 1;
}

async function passes(row: Row): Promise<boolean> {
  const started = performance.now();
  try {
    await using ground = makeGround();
    const { served, refused, recovers } = await row.run(ground);
    const tookSeconds = Math.round((performance.now() - started) / 1_000);
    process.stdout.write(
      `limits: ${row.name}: ${row.what} (${tookSeconds} s)\n  served    ${served}\n  refused   ${refused}\n  recovers  ${recovers}\n`,
    );
    return true;
  } catch (error) {
    process.stdout.write(
      `limits: ${row.name}: FAILED: ${error instanceof Error ? error.message : String(error)}\n`,
    );
    return false;
  }
}

await runScript("test:limits", () => main(process.argv.slice(2)));
