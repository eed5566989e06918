/** start — what a command line costs that is handed over to the whole CLI, beside Node doing nothing. */
import { measure } from "../support/measure.ts";
import type { Report } from "../support/report.ts";
import { openStage } from "../support/stage.ts";
import type { Options } from "../support/options.ts";

export async function start({ rounds = 41 }: Options): Promise<Report> {
  await using stage = await openStage(10);
  const { env, leger, cli } = stage;
  const cases = [
    { name: "leger --help", argv: [leger, "--help"] },
    { name: "leger secrets list", argv: [leger, "secrets", "list"] },
    { name: "node -e 0", argv: [process.execPath, "-e", "0"] },
    { name: "leger on Node: --help", argv: [cli, "--help"] },
    { name: "leger on Node: --version", argv: [cli, "--version"] },
    { name: "legerd --version", argv: [stage.legerd, "--version"] },
  ].map((one) => ({ ...one, env }));
  const measured = await measure(cases, { rounds });
  return {
    figures: ["leger --help", "leger secrets list"].map((name) =>
      measured.ratio(name, "node -e 0", { aim: 2.5 }),
    ),
    tables: [measured.table(`a whole process (Node ${process.versions.node})`)],
    skipped: [],
  };
}
