/** podman-install — the commands that make leger Podman's driver, and that leave everything as it was before. */
import { accessSync, constants } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import type { Argv } from "yargs";
import { LegerError } from "../core/error.ts";
import { runtimePlaces } from "../core/paths.ts";
import { parsePodmanRelease, TYPICAL_RELEASE, type PodmanRelease } from "../core/podman-release.ts";
import { faultsOf, readSecretsConf, settingOf, type ConfFault, type SecretsConf } from "./containers-conf.ts";
import { connect } from "./daemon.ts";
import { driverCommands, dropInText, legerIn } from "./driver-commands.ts";
import { Installation, sha256, type InstallRecord } from "./installation.ts";
import type { Cli, Parsing } from "./parsing.ts";
import { podmanOf, podmanOptions, podmanWasUsed, type PodmanArgs } from "./podman-options.ts";
import {
  commandLine,
  isEnabled,
  legerdUnits,
  SERVICE_UNIT,
  SOCKET_UNIT,
  switchUnits,
  type Scope,
  type Units,
} from "./systemd.ts";
import { count } from "./terminal.ts";
import type { CliWorld } from "./world.ts";

export function addInstall<T>(group: Argv<T>, parsing: Parsing): Argv<T> {
  return group
    .command(
      "install",
      "make leger podman's driver for new secrets, and have systemd start legerd",
      (command) =>
        installOptions(
          podmanOptions(
            parsing,
            parsing.describe(command, {
              words: "podman install",
              examples: [
                ["leger podman install", "for yourself"],
                ["leger podman install --dry-run", "only say what would be done"],
                ["sudo leger podman install", "for root's podman, and every user's"],
              ],
              notes: [
                "Writes containers.conf.d/50-leger.conf and enables legerd.socket. Secrets that podman",
                "has already stay as they are: each keeps the driver it was made with.",
                "When other files keep podman from using the driver, they are listed; nothing is done.",
                "Without systemd the drop-in is written all the same; then start legerd yourself.",
                "The machine's drop-in counts for every user's podman, and each needs a legerd of his own:",
                "systemctl --user enable --now legerd.socket",
              ],
            }),
          ),
        ),
      (args) => parsing.choose((cli) => install(cli, args)),
    )
    .command(
      "uninstall",
      "take away what leger podman install did",
      (command) =>
        installOptions(
          podmanOptions(
            parsing,
            parsing.describe(command, {
              words: "podman uninstall",
              examples: [["leger podman uninstall --dry-run", "only say what would be done"]],
              notes: [
                "What was there before stays, or comes back: files, directories, and whether",
                "legerd.socket was enabled. Secrets in legerd and entries in podman stay, and leger's",
                "entries go on asking it.",
              ],
            }),
          ),
        ),
      (args) => parsing.choose((cli) => uninstall(cli, args)),
    );
}

function installOptions<T>(command: Argv<T>): Argv<T & ScopeArgs> {
  return command
    .option("user", { type: "boolean", describe: "for yourself (default, but for root)" })
    .option("system", { type: "boolean", describe: "for the whole machine (root's default)" })
    .conflicts("user", "system")
    .option("force", { type: "boolean", describe: "even if somebody else wrote or edited the drop-in" })
    .option("dry-run", { type: "boolean", describe: "change nothing" })
    .option("json", { type: "boolean", describe: "report as JSON on standard output" });
}

type ScopeArgs = {
  user?: boolean | undefined;
  system?: boolean | undefined;
  force?: boolean | undefined;
  dryRun?: boolean | undefined;
  json?: boolean | undefined;
};
type Args = PodmanArgs & ScopeArgs;

/** What was done, or with --dry-run would be. */
type Action = {
  action: "made" | "wrote" | "enabled" | "started" | "removed" | "restored" | "disabled" | "stopped";
  what: string;
};

async function install(cli: Cli, args: Args): Promise<void> {
  const { world, terminal } = cli;
  const installation = new Installation(world, scopeOf(cli, args));
  const { scope, dropIn } = installation;
  const report = new Report(cli, scope, args);
  const commands = driverCommands(args.leger);
  assertProgram(args.leger);

  const text = dropInText(commands);
  const release = await releaseOf(cli, args, report);
  const conf = readSecretsConf(world, release, { file: dropIn, text });
  const faults = faultsOf(conf, { dropIn, commands });
  if (faults.length > 0) return refuse(cli, report, faults);

  const wanted = Buffer.from(text);
  const there = installation.read();
  const before = installation.record();
  const same = there?.equals(wanted) === true;
  if (there !== undefined && !same && sha256(there) !== before?.drop_in?.sha256 && args.force !== true) {
    throw new LegerError("REFUSED", `${dropIn} is there already, and not as leger wrote it`, {
      hints: ["to replace it: leger podman install --force (leger podman uninstall brings it back)"],
    });
  }
  if (!same) tellReplaced(conf, report);

  const units = await unitsToSwitch(cli, scope, report);
  const directories = installation.missingDirectories();
  const record: InstallRecord = {
    schema_version: 1,
    drop_in: {
      sha256: sha256(wanted),
      was_there: before?.drop_in?.was_there ?? (before === undefined && same),
      ...replacedBy(before, same ? undefined : there),
    },
    directories: [
      ...new Set([
        ...(before?.directories ?? []),
        ...directories,
        ...(units?.enable === true ? installation.missingUnitDirectories() : []),
      ]),
    ],
    ...unitsBefore(before, units),
  };
  const dry = args.dryRun === true;
  if (!dry && !isDeepStrictEqual(record, before)) installation.keep(record);

  if (!same) {
    if (!dry) installation.write(wanted);
    for (const path of directories) await report.did("made", path);
    await report.did("wrote", dropIn);
  }
  if (units !== undefined) {
    if (!dry) await switchOn(world, scope, units);
    if (units.enable) await report.did("enabled", SOCKET_UNIT);
    if (units.start) await report.did("started", SOCKET_UNIT);
  }
  await report.end();
  const state = report.changed ? "leger is" : "nothing changed: leger is already";
  terminal.say(
    dry && report.changed
      ? "podman: this would be done; nothing was"
      : `podman: ${state} the driver for new secrets; check the rest with: leger doctor`,
  );
}

async function uninstall(cli: Cli, args: Args): Promise<void> {
  const { world, terminal } = cli;
  const installation = new Installation(world, scopeOf(cli, args));
  const { scope, dropIn } = installation;
  const report = new Report(cli, scope, args);
  const record = installation.record();
  const there = installation.read();
  const dry = args.dryRun === true;
  const fate = fateOf(there, record, dropInText(driverCommands(args.leger)), args.force === true);
  if (fate === "refuse") {
    throw new LegerError("REFUSED", `${dropIn} is not as leger wrote it`, {
      hints: ["see what is in it, then: leger podman uninstall --force"],
    });
  }
  if (record !== undefined || there !== undefined) await tellEntries(cli, args, report);

  const replaced = record?.drop_in?.replaced;
  if (fate === "restore" && replaced !== undefined) {
    if (!dry) installation.write(Buffer.from(replaced, "base64"));
    await report.did("restored", dropIn);
  } else if (fate === "remove") {
    if (!dry) installation.remove();
    await report.did("removed", dropIn);
  } else if (fate === "leave") {
    report.warn(
      `${dropIn} stays: it was there before leger podman install`,
      "remove it with: leger podman uninstall --force",
    );
  }

  const failure = await undoUnits({ cli, scope, record, dry, report });
  if (record !== undefined && failure === undefined) {
    const emptied = installation.emptied(record, fate === "remove" ? [dropIn] : []);
    if (!dry) installation.forget(emptied);
    for (const path of emptied) await report.did("removed", path);
  } else if (record !== undefined && !dry) {
    // So that the next uninstall knows what is left to do.
    const { drop_in: _, ...rest } = record;
    installation.keep(rest);
  }
  await report.end();
  if (failure !== undefined) throw failure;
  if (dry && report.changed) terminal.say("podman: this would be done; nothing was");
  else if (report.changed) terminal.say("podman: as it was before leger podman install");
  else terminal.say("podman: nothing changed: there was nothing to take away");
}

function scopeOf({ world }: Cli, { user, system }: ScopeArgs): Scope {
  const isRoot = runtimePlaces(world).account.kind === "system";
  if (user === true && isRoot) {
    throw new LegerError("USAGE", "podman install --user: root's podman goes by the machine's files", {
      hints: ["run it as the user whose podman it is, or leave --user out"],
    });
  }
  if (system === true && !isRoot) {
    throw new LegerError("DENIED", "podman install --system: only root may change the machine's files", {
      hints: [
        "run it as root, as in: sudo leger podman install --system",
        "or for yourself: leave --system out",
      ],
    });
  }
  return isRoot ? "system" : "user";
}

/** Podman would give every new secret to a program that isn't there. */
function assertProgram(leger: string): void {
  try {
    accessSync(leger, constants.X_OK);
  } catch (cause) {
    throw new LegerError("REFUSED", `there is no program at ${leger} for podman to run`, {
      hints: ["install leger there, or say where it is with --leger PATH"],
      cause,
    });
  }
}

async function releaseOf(cli: Cli, args: Args, report: Report): Promise<PodmanRelease> {
  try {
    const release = parsePodmanRelease(await podmanOf(cli, args).version());
    if (release !== undefined) return release;
  } catch (error) {
    if (!(error instanceof LegerError)) throw error;
    report.warn(`podman cannot be asked for its version: ${error.message}`, "leger goes by Podman 5.4 here");
  }
  return TYPICAL_RELEASE;
}

async function refuse({ terminal }: Cli, report: Report, faults: readonly ConfFault[]): Promise<never> {
  await report.end(faults);
  for (const { file, what, remedy } of faults) terminal.warn(`${file}: ${what}`, remedy);
  throw new LegerError("REFUSED", "podman would not use leger; nothing was changed", {
    hints: ["mend these files and run it again; leger podman sync works without it"],
  });
}

/** That another file named a driver before ours does, and which. */
function tellReplaced(conf: SecretsConf, report: Report): void {
  const ours = settingOf(conf, "driver");
  const other = conf.settings.findLast(
    ({ key, file, value }) => key === "driver" && file !== ours?.file && value !== "file",
  );
  if (other === undefined) return;
  report.warn(`${other.file} names another driver, and leger takes its place for new secrets`);
}

function replacedBy(before: InstallRecord | undefined, there: Buffer | undefined): { replaced?: string } {
  if (before?.drop_in !== undefined) {
    const { replaced } = before.drop_in;
    return replaced === undefined ? {} : { replaced };
  }
  return there === undefined ? {} : { replaced: there.toString("base64") };
}

type Switching = { enable: boolean; start: boolean; units: Units };

/** Undefined where there is nothing to switch on, or nothing to do it with; that is told. */
async function unitsToSwitch(cli: Cli, scope: Scope, report: Report): Promise<Switching | undefined> {
  const units = await legerdUnits(cli.world, scope);
  if ("absent" in units) {
    report.warn(
      `systemd cannot be asked: ${units.absent}`,
      "start legerd yourself, or install again where systemd runs",
    );
    return undefined;
  }
  const { socket, service } = units;
  if (socket.load !== "loaded") {
    const hint =
      socket.load === "masked"
        ? commandLine(scope, ["unmask", SOCKET_UNIT])
        : "install leger's package, or start legerd yourself";
    report.warn(`there is no usable unit ${SOCKET_UNIT} (${socket.load})`, hint);
    return undefined;
  }
  const enable = !isEnabled(socket.file);
  let start = socket.active !== "active";
  // systemd refuses a socket whose service runs, and takes away the socket of a legerd that isn't its own.
  if (start && (service.active === "active" || (await isLegerdThere(cli)))) {
    start = false;
    report.warn(
      `legerd runs already, but not by ${SOCKET_UNIT}; it was left alone`,
      `stop it, then: ${commandLine(scope, ["start", SOCKET_UNIT])}`,
    );
  }
  return { enable, start, units };
}

/** Does one answer at the usual socket, which is the unit's? */
async function isLegerdThere({ world, settings }: Cli): Promise<boolean> {
  try {
    const { socket } = runtimePlaces(world);
    await using daemon = connect(world, { ...settings, socket, socketWasNamed: false });
    await daemon.status();
    return true;
  } catch (error) {
    if (error instanceof LegerError) return error.code !== "UNREACHABLE";
    throw error;
  }
}

function unitsBefore(
  before: InstallRecord | undefined,
  switching: Switching | undefined,
): Pick<InstallRecord, "units"> {
  if (before?.units !== undefined) return { units: before.units };
  if (switching === undefined || (!switching.enable && !switching.start)) return {};
  const { socket, service } = switching.units;
  return {
    units: {
      socket_enabled: isEnabled(socket.file),
      socket_active: socket.active === "active",
      service_active: service.active === "active",
    },
  };
}

async function switchOn(world: CliWorld, scope: Scope, { enable, start }: Switching): Promise<void> {
  if (enable) await switchUnits(world, scope, ["enable", ...(start ? ["--now"] : []), SOCKET_UNIT]);
  else if (start) await switchUnits(world, scope, ["start", SOCKET_UNIT]);
}

type Fate = "absent" | "remove" | "restore" | "leave" | "refuse";

function fateOf(
  there: Buffer | undefined,
  record: InstallRecord | undefined,
  text: string,
  force: boolean,
): Fate {
  const ours = record?.drop_in;
  if (there === undefined) return "absent";
  if (ours === undefined) return force || there.equals(Buffer.from(text)) ? "remove" : "refuse";
  if (!force && sha256(there) !== ours.sha256) return "refuse";
  if (ours.replaced !== undefined) return "restore";
  return ours.was_there && !force ? "leave" : "remove";
}

type Undoing = {
  cli: Cli;
  scope: Scope;
  record: InstallRecord | undefined;
  dry: boolean;
  report: Report;
};

/** Gives back what went wrong. */
async function undoUnits({ cli, scope, record, dry, report }: Undoing): Promise<LegerError | undefined> {
  const before = record?.units;
  const units = await legerdUnits(cli.world, scope);
  if ("absent" in units) {
    if (before === undefined) return undefined;
    return new LegerError(
      "FAILED",
      `${SOCKET_UNIT} is as install left it: systemd cannot be asked: ${units.absent}`,
      {
        hints: ["run leger podman uninstall again where systemd runs"],
      },
    );
  }
  const { socket, service } = units;
  if (before === undefined) {
    if (isEnabled(socket.file) && socket.load === "loaded") {
      report.warn(
        `${SOCKET_UNIT} stays ${socket.file}: it wasn't leger podman install that switched it on`,
        `to switch it off: ${commandLine(scope, ["disable", "--now", SOCKET_UNIT])}`,
      );
    }
    return undefined;
  }
  const disable = !before.socket_enabled && isEnabled(socket.file);
  const stop = [
    ...(!before.socket_active && socket.active === "active" ? [SOCKET_UNIT] : []),
    ...(!before.service_active && service.active === "active" ? [SERVICE_UNIT] : []),
  ];
  try {
    if (disable) {
      if (!dry) await switchUnits(cli.world, scope, ["disable", SOCKET_UNIT]);
      await report.did("disabled", SOCKET_UNIT);
    }
    // Together, or the socket would start the service again.
    if (stop.length > 0 && !dry) await switchUnits(cli.world, scope, ["stop", ...stop]);
    for (const unit of stop) await report.did("stopped", unit);
    return undefined;
  } catch (error) {
    if (error instanceof LegerError) return error;
    throw error;
  }
}

/** Entries keep their commands: they need legerd whatever the default driver is. */
async function tellEntries(cli: Cli, args: Args, report: Report): Promise<void> {
  if (!podmanWasUsed(cli.world, args)) return;
  try {
    const entries = await podmanOf(cli, args).entries();
    const asking = entries.filter(({ options }) => legerIn(options["lookup"] ?? "") !== undefined);
    if (asking.length === 0) return;
    const names = asking.slice(0, 5).map(({ name }) => name);
    report.warn(
      `${count(asking.length, "secret")} in podman will go on asking leger: ${names.join(", ")}${asking.length > 5 ? ", …" : ""}`,
      "remove such a one with: podman secret rm NAME; or keep legerd running for it",
    );
  } catch (error) {
    if (!(error instanceof LegerError)) throw error;
    report.warn(`podman's entries cannot be looked at: ${error.message}`);
  }
}

/** Says what is done as it is done, or all of it in one JSON document. */
class Report {
  readonly #actions: Action[] = [];
  readonly #warnings: string[] = [];
  readonly #cli: Cli;
  readonly #scope: Scope;
  readonly #args: Args;

  constructor(cli: Cli, scope: Scope, args: Args) {
    this.#cli = cli;
    this.#scope = scope;
    this.#args = args;
  }

  get changed(): boolean {
    return this.#actions.length > 0;
  }

  /** One by one: after a failure it is known how far this came. */
  async did(action: Action["action"], what: string): Promise<void> {
    this.#actions.push({ action, what });
    if (this.#args.json !== true) await this.#cli.terminal.line(`${action.padEnd(8)}  ${what}`);
  }

  warn(text: string, ...hints: readonly string[]): void {
    this.#warnings.push(text);
    this.#cli.terminal.warn(text, ...hints);
  }

  async end(problems: readonly ConfFault[] = []): Promise<void> {
    if (this.#args.json !== true) return;
    await this.#cli.terminal.json({
      scope: this.#scope,
      dry_run: this.#args.dryRun === true,
      actions: this.#actions,
      problems: problems.map(({ file, key, what, remedy }) => ({ file, key: key ?? null, what, remedy })),
      warnings: this.#warnings,
    });
  }
}
