/** units — how long a quadlet's unit takes to start, by how its container gets five secrets, over no secrets. */
import type { Mode } from "../../src/render/modes.ts";
import type { Owner } from "../../test/system/owner.ts";
import { measure, type Case } from "../support/measure.ts";
import type { Options } from "../support/options.ts";
import type { Report } from "../support/report.ts";
import { SECRETS, secretName, secretOptions, VALUES } from "./drivers.ts";
import { withAlice } from "./machine.ts";

const START_TIMEOUT_MS = 60_000;
/** The least that counts as a median here. */
const MIN_ROUNDS = 15;

/** As `leger render` makes them, each in a unit of its own name. */
const RENDERED = ["mount", "credential", "entrypoint", "env-file"] as const satisfies readonly Mode[];

/** The modes by legerd's sockets: also measured with files in their place, which is what systemd itself takes. */
const BY_SOCKET = ["mount", "credential", "entrypoint"] as const satisfies readonly Mode[];

/** Not called as their mode alone: a container that is called "mount" takes Podman a fifth longer to start. */
const unitOf = (mode: Mode): string => `${mode}-mode`;
const fileUnit = (mode: Mode): string => `${mode}-by-file`;

const AIMS: ReadonlyMap<string, number> = new Map([
  [unitOf("mount"), 1.05],
  [unitOf("credential"), 1.2],
  [unitOf("entrypoint"), 1.1],
]);

const COPIES = "/home/alice/credentials";

export async function units({ rounds = 21 }: Options): Promise<Report> {
  return withAlice(["cat", "leger"], async ({ owner, env, runner }) => {
    const secrets = VALUES.map(
      (_, at) => `${secretName(at)},type=env,target=${secretName(at).toUpperCase()}`,
    );
    await owner.define(
      { name: "no-secrets" },
      { name: "driver", secrets: secretOptions("leger") },
      { name: "cat-driver", secrets: secretOptions("cat") },
      ...RENDERED.map((mode) => ({ name: unitOf(mode), secrets })),
      ...BY_SOCKET.map((mode) => ({ name: fileUnit(mode), secrets })),
    );
    for (const mode of RENDERED) await owner.run(`leger render ${unitOf(mode)} --mode ${mode} --register`);
    await owner.systemctl("daemon-reload");
    for (const mode of BY_SOCKET) await copyWithFiles(owner, mode);
    await owner.systemctl("daemon-reload");
    const names = ["no-secrets", "driver", "cat-driver", ...RENDERED.map(unitOf), ...BY_SOCKET.map(fileUnit)];
    const cases = names.map((name): Case => ({
      name,
      argv: ["systemctl", "--user", "start", `${name}.service`],
      env,
      prints: "",
      after: `systemctl --user stop ${name}.service`,
    }));
    const measured = await measure(cases, { rounds, runner, timeoutMs: START_TIMEOUT_MS });
    const figures = [
      ...names.slice(1).map((name) => {
        const aim = rounds < MIN_ROUNDS ? undefined : AIMS.get(name);
        return measured.ratio(name, "no-secrets", aim === undefined ? {} : { aim });
      }),
      ...BY_SOCKET.map((mode) => measured.ratio(unitOf(mode), fileUnit(mode))),
    ];
    return {
      // systemd starts the unit: of the processor time that takes, nothing shows in systemctl's.
      figures: figures.map((all) => {
        const { cpu: _, ...figure } = all;
        return figure;
      }),
      tables: [
        measured.table(`systemctl --user start of a quadlet, ${SECRETS} secrets (CPU: systemctl's own)`),
      ],
      skipped: [],
    };
  });
}

/** A unit whose drop-in is that mode's, but for files where that one has legerd's sockets; with the same bytes in them. */
async function copyWithFiles(owner: Owner, mode: Mode): Promise<void> {
  const { quadlets, runtimeDir } = owner.places;
  const unit = unitOf(mode);
  const copies = `${COPIES}/${unit}`;
  await owner.start(`${unit}.service`);
  await owner.run(
    `umask 077; mkdir -p ${copies} && cp ${runtimeDir}/credentials/${unit}.service/* ${copies}/ && chmod 600 ${copies}/*`,
  );
  await owner.systemctl(`stop ${unit}.service`);
  const socket = `%t/leger/cred/${unit}\\(/\\|\\.env$\\)`;
  const loaded = `s#^\\(LoadCredential=\\([^:]*\\)\\):${socket}.*#\\1:${copies}/\\2#`;
  await owner.run(
    [
      `mkdir ${quadlets}/${fileUnit(mode)}.container.d`,
      `sed '${loaded}' ${quadlets}/${unit}.container.d/50-leger.conf >${quadlets}/${fileUnit(mode)}.container.d/50-leger.conf`,
      `! grep LoadCredential=.*leger/cred ${quadlets}/${fileUnit(mode)}.container.d/50-leger.conf`,
    ].join(" && "),
  );
}
