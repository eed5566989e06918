/** units — how long a quadlet's unit takes to start, by how its container gets five secrets, over no secrets. */
import { measure, type Case } from "../support/measure.ts";
import type { Options } from "../support/options.ts";
import type { Report } from "../support/report.ts";
import { SECRETS, secretName, secretOptions, VALUES } from "./drivers.ts";
import { withAlice } from "./machine.ts";

const START_TIMEOUT_MS = 60_000;
const SERVICE = "bench";

export async function units({ rounds = 21 }: Options): Promise<Report> {
  return withAlice(["cat", "leger"], async ({ owner, env, runner }) => {
    await owner.run(["leger", "services", "set", SERVICE, ...VALUES.map((_, at) => secretName(at))]);
    const fetch = `/usr/bin/leger secrets fetch ${SERVICE}`;
    const all = [
      { name: "no-secrets" },
      { name: "driver", secrets: secretOptions("leger") },
      { name: "cat-driver", secrets: secretOptions("cat") },
      {
        name: "env-file",
        environmentFile: `%t/leger/env/${SERVICE}.env`,
        service: [`ExecStartPre=${fetch}`, `ExecStopPost=${fetch} --remove`],
      },
    ];
    await owner.define(...all);
    const cases = all.map(({ name }): Case => ({
      name,
      argv: ["systemctl", "--user", "start", `${name}.service`],
      env,
      prints: "",
      after: `systemctl --user stop ${name}.service`,
    }));
    const measured = await measure(cases, { rounds, runner, timeoutMs: START_TIMEOUT_MS });
    return {
      figures: ["driver", "cat-driver", "env-file"].map((name) => {
        // systemd starts the unit: of the processor time that takes, nothing shows in systemctl's.
        const { cpu: _, ...figure } = measured.ratio(name, "no-secrets");
        return figure;
      }),
      tables: [
        measured.table(`systemctl --user start of a quadlet, ${SECRETS} secrets (CPU: systemctl's own)`),
      ],
      skipped: [],
    };
  });
}
