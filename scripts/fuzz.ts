/** fuzz — inputs that nobody would write, against what reads them: nothing may come of it but an answer or a clear refusal. */
import { LegerError } from "../src/core/error.ts";
import { doorsTarget } from "./fuzz/doors.ts";
import { renderTarget } from "./fuzz/render.ts";
import { backupTarget, databaseTarget, makeGround } from "./fuzz/stores.ts";
import type { Target } from "./fuzz/target.ts";
import { auditTarget, bodyTarget, configTarget, requestTarget, tokenTarget } from "./fuzz/texts.ts";
import { readOptions, runScript } from "./support/script.ts";

const HELP = `npm run fuzz -- [--minutes N] [--seed N] [TARGET…]

Targets: render (quadlets), backup (sealed files and what is in them), database (secrets.db), audit (its log), config
(legerd.json, config.json), body (of setec's calls), target (of requests), token (and lines of key files), doors (bytes at the
doors of a legerd that runs). Without one, all in turn.
--minutes is for each (default: 0.2). A failure names the seed that repeats it: --seed N TARGET.
`;

/** More than this, once all is loaded, is a leak. */
const MAX_GROWTH_BYTES = 512 * 1024 * 1024;

async function main(args: string[]): Promise<void> {
  const { values, positionals } = readOptions("fuzz", {
    args,
    allowPositionals: true,
    options: {
      minutes: { type: "string", default: "0.2" },
      seed: { type: "string" },
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help === true) return void process.stdout.write(HELP);
  await using ground = await makeGround();
  await using doors = await doorsTarget(ground.base);
  await using tokens = await tokenTarget(ground.base);
  const targets: Target[] = [
    renderTarget(),
    await backupTarget(ground),
    databaseTarget(ground),
    await auditTarget(ground.base),
    configTarget(ground.base),
    bodyTarget(),
    requestTarget(),
    tokens,
    doors,
  ];
  let total = 0;
  const unknown = positionals.find((word) => targets.every(({ name }) => name !== word));
  if (unknown !== undefined) throw new LegerError("USAGE", `no such target: ${unknown}`, { hints: [HELP] });
  for (const target of targets) {
    if (positionals.length > 0 && !positionals.includes(target.name)) continue;
    const first = values.seed === undefined ? Date.now() : Number(values.seed);
    const deadline = performance.now() + Number(values.minutes) * 60_000;
    const inputs = await fuzz(target, first, () => values.seed === undefined && performance.now() < deadline);
    total += inputs;
    process.stdout.write(`${target.name}: ${inputs} inputs, nothing found\n`);
  }
  process.stdout.write(`${total} inputs in all\n`);
}

/** Tries one seed after the other, and those that found something before; returns how many there were. */
async function fuzz(target: Target, first: number, goesOn: () => boolean): Promise<number> {
  let seed = first;
  const sayWhere = (): void => {
    process.stderr.write(`${target.name}: at seed ${seed}\n`);
    process.exit(130);
  };
  process.once("SIGINT", sayWhere);
  const endHere = (error: Error): void => {
    process.stderr.write(`${target.name}: seed ${seed}: uncaught: ${error.stack ?? error.message}\n`);
    process.exit(1);
  };
  process.once("uncaughtException", endHere);
  const tryOne = async (): Promise<void> => {
    try {
      await target.tryOne(seed);
    } catch (cause) {
      process.stderr.write(`${target.name}: seed ${seed}\n`);
      throw cause;
    }
  };
  for (seed of target.kept) await tryOne();
  let atStart = 0;
  let inputs = 0;
  for (seed = first; ; seed += 1) {
    await tryOne();
    inputs += 1;
    if (inputs === 1_000) atStart = process.memoryUsage.rss();
    if (!goesOn() || inputs === target.most) break;
  }
  process.off("SIGINT", sayWhere);
  process.off("uncaughtException", endHere);
  const grown = process.memoryUsage.rss() - atStart;
  if (atStart > 0 && grown > MAX_GROWTH_BYTES) {
    throw new LegerError("BUG", `${target.name}: memory grew by ${Math.round(grown / 2 ** 20)} MiB`);
  }
  return (inputs + target.kept.length) * (target.perSeed ?? 1);
}

await runScript("fuzz", () => main(process.argv.slice(2)));
