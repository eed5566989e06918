/** lookup — one lookup by the driver, as a process, beside the same by curl and beside the least that a driver can be. */
import { measure } from "../support/measure.ts";
import type { Report } from "../support/report.ts";
import { openStage } from "../support/stage.ts";
import type { Options } from "../support/options.ts";

export async function lookup({ rounds = 61 }: Options): Promise<Report> {
  await using stage = await openStage(1);
  const { id, value } = stage.entry(0);
  const env = { ...stage.env, SECRET_ID: id };
  const curl = stage.curlLookup(id);
  const cases = [
    { name: "leger", argv: [stage.leger, "driver", "lookup"] },
    { name: "curl", argv: curl },
    { name: "leger on Node", argv: [stage.cli, "driver", "lookup"] },
    { name: "sh: leger", argv: ["/bin/sh", "-c", stage.lookupCommand] },
    { name: "sh: curl", argv: ["/bin/sh", "-c", stage.curlCommand] },
    { name: "sh: cat", argv: ["/bin/sh", "-c", stage.catCommand] },
  ].map((one) => ({ ...one, env, prints: value }));
  const nothing = { name: "true", argv: ["/bin/true"], env };
  const measured = await measure([...cases, nothing], { rounds, runner: stage.asInstalled });
  return {
    figures: [
      measured.ratio("leger", "curl", { what: "driver lookup / curl --unix-socket", aim: 1.0 }),
      measured.ratio("sh: leger", "sh: curl", { what: "the same as Podman runs them, by /bin/sh -c" }),
      measured.ratio("sh: leger", "sh: cat", { what: "driver lookup / cat, as Podman runs them" }),
      measured.ratio("sh: curl", "sh: cat", { what: "curl / cat, as Podman runs them" }),
      measured.ratio("leger on Node", "sh: cat", { what: "leger's own Node program / cat" }),
    ],
    tables: [measured.table("one lookup, a whole process")],
    skipped: stage.skipped,
  };
}
