/** containers — `podman run` with five secrets as variables, by each driver, over the least that a shell driver can be. */
import { measure, type Case, type Measured } from "../support/measure.ts";
import type { Options } from "../support/options.ts";
import type { Figure, Report } from "../support/report.ts";
import { containerCase, SECRETS, WAYS } from "./drivers.ts";
import { withHostPodman } from "./host-podman.ts";
import { withAlice } from "./machine.ts";

const RUN_TIMEOUT_MS = 60_000;

/** So many containers start, a few at a time: each lookup of theirs waits for the storage's lock. */
const CROWD = { copies: 20, atOnce: 5 };

export async function containers({ rounds = 25 }: Options): Promise<Report> {
  const crowdRounds = Math.max(3, Math.round(rounds / 4));
  return withAlice(WAYS, async ({ machine, env, runner }) => {
    const { stdout } = await machine.user("podman --version");
    const where = `Debian 13's ${stdout.trim()}, rootless`;
    const cases = WAYS.map((way) => containerCase(way, ["podman"], env));
    const measured = await measure(cases, { rounds, runner, timeoutMs: RUN_TIMEOUT_MS });
    const crowds = cases.map((one): Case => ({ ...one, ...CROWD }));
    const crowd = await measure(crowds, {
      rounds: crowdRounds,
      warmups: 1,
      runner,
      timeoutMs: RUN_TIMEOUT_MS * CROWD.copies,
    });
    const host = await withHostPodman(
      machine,
      WAYS,
      async ({ podman, version, env: given, runner: here }) => {
        const same = WAYS.map((way) => containerCase(way, podman, given));
        const found = await measure(same, { rounds, runner: here, timeoutMs: RUN_TIMEOUT_MS });
        return { version, found };
      },
    );
    const many = `${CROWD.copies} containers, ${CROWD.atOnce} at a time`;
    return {
      figures: [
        ...figuresOf(measured, where, 1.1),
        ...figuresOf(crowd, `${many}, ${where}`),
        ...("found" in host ? figuresOf(host.found, `this machine's ${host.version}, rootful`) : []),
      ],
      tables: [
        measured.table(`podman run, ${SECRETS} variables (${where})`),
        crowd.table(many),
        ...("found" in host ? [host.found.table(`the same by this machine's ${host.version}, rootful`)] : []),
      ],
      skipped: "why" in host ? [host] : [],
    };
  });
}

function figuresOf(measured: Measured, where: string, aim?: number): Figure[] {
  return WAYS.filter((way) => way !== "cat").map((way) =>
    measured.ratio(way, "cat", {
      what: `${where}: ${way} / cat`,
      ...(way === "leger" && aim !== undefined ? { aim } : {}),
    }),
  );
}
