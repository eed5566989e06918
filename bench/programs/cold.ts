/** cold — the first lookup after the kernel has forgotten all files, which have to come from the disk again. */
import * as fs from "node:fs";
import { measure } from "../support/measure.ts";
import type { Options } from "../support/options.ts";
import type { Report } from "../support/report.ts";
import { openStage } from "../support/stage.ts";

const DROP_CACHES = "/proc/sys/vm/drop_caches";

export function coldObstacle(): string | undefined {
  try {
    fs.accessSync(DROP_CACHES, fs.constants.W_OK);
    return undefined;
  } catch {
    return `only root may write ${DROP_CACHES}`;
  }
}

/** Whatever else runs on this machine has to read its files again, too: so few rounds. */
export async function cold({ rounds = 5 }: Options): Promise<Report> {
  await using stage = await openStage(1);
  const { id, value } = stage.entry(0);
  const cases = [
    { name: "leger", argv: [stage.leger, "driver", "lookup"] },
    { name: "curl", argv: stage.curlLookup(id) },
    { name: "cat", argv: ["/bin/sh", "-c", stage.catCommand] },
  ].map((one) => ({
    ...one,
    env: { ...stage.env, SECRET_ID: id },
    prints: value,
    before: `echo 3 >${DROP_CACHES}`,
  }));
  const measured = await measure(cases, { rounds, warmups: 0 });
  return {
    figures: [
      { what: "first lookup after drop_caches", value: measured.median("leger", "wallMs"), unit: "ms" },
      { what: "the same by curl", value: measured.median("curl", "wallMs"), unit: "ms" },
      measured.ratio("leger", "curl"),
    ],
    tables: [measured.table("a lookup, its files on disk only")],
    skipped: [],
  };
}
