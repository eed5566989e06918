/** crowd — a hundred containers' worth of lookups, by the commands that Podman keeps, beside cat. */
import { measure, type Case } from "../support/measure.ts";
import type { Report } from "../support/report.ts";
import { openStage } from "../support/stage.ts";
import type { Options } from "../support/options.ts";

const LOOKUPS = 100 * 5;
const LOOKUP_TIMEOUT_MS = 1_000;

/** A storage's lock lets one lookup at a time through; five users, or storages, have as many locks. */
const AT_ONCE = [1, 5] as const;

export async function crowd({ rounds = 7 }: Options): Promise<Report> {
  await using stage = await openStage(1);
  const { id, value } = stage.entry(0);
  const env = { ...stage.env, SECRET_ID: id };
  const of = (name: string, command: string, atOnce: number): Case => ({
    name: `${name}, ${atOnce} at once`,
    argv: ["/bin/sh", "-c", command],
    env,
    prints: value,
    copies: LOOKUPS,
    atOnce,
  });
  const cases = AT_ONCE.flatMap((atOnce) => [
    of("leger", stage.lookupCommand, atOnce),
    of("cat", stage.catCommand, atOnce),
    of("curl", stage.curlCommand, atOnce),
  ]);
  const timeoutMs = LOOKUPS * LOOKUP_TIMEOUT_MS;
  const measured = await measure(cases, { rounds, warmups: 1, runner: stage.asInstalled, timeoutMs });
  const figures = AT_ONCE.flatMap((atOnce) => [
    measured.ratio(`leger, ${atOnce} at once`, `cat, ${atOnce} at once`, {
      what: `100 containers' ${LOOKUPS} lookups, ${atOnce} at once / cat`,
      aim: 1.15,
    }),
    measured.ratio(`curl, ${atOnce} at once`, `cat, ${atOnce} at once`, {
      what: `the same by curl, ${atOnce} at once / cat`,
    }),
  ]);
  return { figures, tables: [measured.table(`${LOOKUPS} lookups`)], skipped: stage.skipped };
}
