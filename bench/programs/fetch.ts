/** fetch — `secrets fetch` of ten secrets, as a process, beside curl writing the same file. */
import path from "node:path";
import { measure } from "../support/measure.ts";
import type { Report } from "../support/report.ts";
import { openStage, SERVICE } from "../support/stage.ts";
import type { Options } from "../support/options.ts";

export async function fetch({ rounds = 61 }: Options): Promise<Report> {
  await using stage = await openStage(10);
  const { env } = stage;
  const directory = path.join(stage.runtimeDir, "leger/env");
  const file = path.join(directory, `${SERVICE}.env`);
  const url = `http://legerd/v1/services/${SERVICE}/env?dialect=podman`;
  // Both make a new file of mode 0600. leger also looks at the directory, syncs the file and renames it into place.
  const surroundings = {
    umask: "077",
    before: `mkdir -pm 700 '${directory}'; rm -f '${file}'`,
    after: `test "$(stat -c %a '${file}')" = 600`,
  };
  const curl = ["curl", "-sf", "--unix-socket", stage.socket, "-o", file, url];
  const cases = [
    { name: "leger", argv: [stage.leger, "secrets", "fetch", SERVICE] },
    { name: "curl", argv: curl },
    { name: "leger on Node", argv: [stage.cli, "secrets", "fetch", SERVICE] },
  ].map((one) => ({ ...one, env, prints: "", ...surroundings }));
  const measured = await measure(cases, { rounds });
  return {
    figures: [
      measured.ratio("leger", "curl", { what: "secrets fetch of ten secrets / curl -o FILE", aim: 1.25 }),
      measured.ratio("leger on Node", "curl", { what: "leger's own Node program / curl -o FILE" }),
    ],
    tables: [measured.table("an env file of ten secrets, a whole process")],
    skipped: [],
  };
}
