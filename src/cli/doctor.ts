/** doctor — the command that looks whether everything leger rests on is as it should be, and says what to do. */
import type { Argv } from "yargs";
import { LegerError, systemCode } from "../core/error.ts";
import { runtimePlaces } from "../core/paths.ts";
import type { Heading } from "./commands.ts";
import { connect, type DaemonStatus, type ServedService } from "./daemon.ts";
import {
  checkAudit,
  checkBackup,
  checkDisk,
  checkLegerd,
  checkServices,
  checkSocket,
  checkUnit,
  checkVersion,
} from "./doctor-legerd.ts";
import {
  checkClock,
  checkCoreDumps,
  checkLinger,
  checkRuntime,
  checkSelinux,
  checkSwap,
} from "./doctor-machine.ts";
import { checkDriver, checkEntries, checkPodman } from "./doctor-podman.ts";
import { outcomeOf, wrong, type Finding, type Level } from "./finding.ts";
import type { Cli, Parsing } from "./parsing.ts";
import { podmanOf, podmanOptions, type PodmanArgs } from "./podman-options.ts";
import type { SettingsFlags } from "./settings.ts";
import { legerdUnits } from "./systemd.ts";
import { count } from "./terminal.ts";

/** In the order in which they are told: what others rest on comes first. */
export const CHECKS = [
  "legerd",
  "socket",
  "version",
  "unit",
  "podman",
  "driver",
  "entries",
  "services",
  "linger",
  "runtime",
  "swap",
  "core dumps",
  "selinux",
  "clock",
  "audit",
  "disk",
  "backup",
] as const;
type Check = (typeof CHECKS)[number];

export function addDoctor(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(
    usage,
    about,
    (command) =>
      podmanOptions(
        parsing,
        parsing.describe(command, {
          words: "doctor",
          examples: [
            ["leger doctor", "a line for each thing, and what to do about it"],
            ["leger doctor --json", "for programs"],
            ["leger doctor --strict", "for scripts: warnings count as errors"],
          ],
          notes: [
            "It changes nothing and needs no root. What takes longer than some seconds is given up.",
            "error: something doesn't work, or won't after the next start. warning: it works, but is",
            "less safe than it could be. note: nothing is wrong, or leger cannot tell.",
            "Exit status 2 when there is an error.",
            "More on each line: docs/troubleshooting.md",
          ],
        }),
      )
        .option("strict", { type: "boolean", describe: "exit status 2 for warnings, too" })
        .option("json", { type: "boolean", describe: "report as JSON on standard output" }),
    (args) => parsing.choose((cli) => doctor(cli, args)),
  );
}

type Args = PodmanArgs & { strict?: boolean | undefined; json?: boolean | undefined };

/** One request to legerd, one run of podman: two of each make a check. */
const REQUEST_TIMEOUT_MS = 5_000;
const PODMAN_TIMEOUT_MS = 10_000;

/** Longer than any probe takes that has a limit of its own: a program, a request. */
const CHECK_TIMEOUT_MS = 25_000;

async function doctor(cli: Cli, args: Args): Promise<number> {
  const { terminal } = cli;
  const findings = await examine(cli, args);
  const counted = (level: Level): number => findings.filter((finding) => finding.level === level).length;
  const [errors, warnings] = [counted("error"), counted("warning")];

  if (args.json === true) {
    const checks = findings.map(({ check, level, text, hints, facts }) => ({
      check,
      level,
      text,
      hints,
      ...facts,
    }));
    await terminal.json({ ok: errors === 0, errors, warnings, checks });
  } else {
    for (const { check, level, text, hints } of findings) {
      await terminal.line(`${level.padEnd(7)}  ${check.padEnd(10)}  ${text}`);
      for (const hint of hints) await terminal.line(`${" ".repeat(21)}-> ${hint}`);
    }
    terminal.say(
      errors + warnings === 0 ? "all is well" : `${count(errors, "error")}, ${count(warnings, "warning")}`,
    );
  }
  const isWrong = errors > 0 || (args.strict === true && warnings > 0);
  return isWrong ? new LegerError("DIFFERENT", "").exitStatus : 0;
}

type Examined = Finding & { check: Check };

/** All at once; each thing that several checks need is asked once. */
async function examine(cli: Cli, args: Args): Promise<Examined[]> {
  const { world, settings } = cli;
  const podman = podmanOf(cli, args, { timeoutMs: PODMAN_TIMEOUT_MS });
  const scope = runtimePlaces(world).account.kind;
  const daemon = outcomeOf(statusOf(cli));
  const units = legerdUnits(world, scope);
  const version = outcomeOf(podman.version());

  const checks: Record<Check, () => Promise<Finding> | Finding> = {
    legerd: async () => checkLegerd(await daemon, { scope, units: await units }),
    socket: () => checkSocket(world, settings),
    version: async () => checkVersion(await daemon, { scope, ours: world.version }),
    unit: async () => checkUnit(await units, { scope, daemon: await daemon }),
    podman: async () => checkPodman(await version),
    driver: async () => checkDriver({ world, version: await version }),
    entries: async () =>
      checkEntries({
        cli,
        podman,
        version: await version,
        daemon: await daemon,
        args,
        timeoutMs: REQUEST_TIMEOUT_MS,
      }),
    services: async () => checkServices(world, await outcomeOf(unservedOf(cli))),
    linger: () => checkLinger(world),
    runtime: () => checkRuntime(world),
    swap: () => checkSwap(world),
    "core dumps": async () => checkCoreDumps(world, await daemon),
    selinux: () => checkSelinux(world),
    clock: () => checkClock(world),
    audit: async () => checkAudit(world, await daemon),
    disk: async () => checkDisk(world, await daemon),
    backup: async () => checkBackup(world, await daemon),
  };
  return Promise.all(CHECKS.map(async (check) => ({ check, ...(await settled(check, checks[check])) })));
}

async function statusOf({ world, settings }: Cli): Promise<DaemonStatus> {
  await using daemon = connect(world, settings, { timeoutMs: REQUEST_TIMEOUT_MS });
  return await daemon.status();
}

async function unservedOf({ world, settings }: Cli): Promise<ServedService[]> {
  await using daemon = connect(world, settings, { timeoutMs: REQUEST_TIMEOUT_MS });
  return await daemon.unserved();
}

/** A check that fails is a line like any other: what it could not see may be what is wrong. */
async function settled(check: Check, perform: () => Promise<Finding> | Finding): Promise<Finding> {
  const { promise: late, resolve } = Promise.withResolvers<Finding>();
  const timer = setTimeout(() => {
    resolve(wrong(`not done within ${CHECK_TIMEOUT_MS / 1_000} s`, ["see what else hangs on this machine"]));
  }, CHECK_TIMEOUT_MS);
  try {
    return await Promise.race([(async () => perform())(), late]);
  } catch (error) {
    if (error instanceof LegerError) return wrong(error.message, error.hints);
    const kind = error instanceof Error ? error.name : typeof error;
    const code = systemCode(error);
    return wrong(
      `${check} cannot be checked: internal error (${kind}${code === undefined ? "" : ` ${code}`})`,
      ["this is a bug in leger"],
    );
  } finally {
    clearTimeout(timer);
  }
}
