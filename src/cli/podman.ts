/** podman — the commands that keep Podman's secret store in step with legerd. */
import type { Argv } from "yargs";
import { LegerError } from "../core/error.ts";
import type { Heading } from "./commands.ts";
import type { Daemon } from "./daemon.ts";
import { driverCommands } from "./driver-commands.ts";
import { fullName, shortName } from "./names.ts";
import { addInstall } from "./podman-install.ts";
import { JSON_OPTION, type Cli, type Parsing } from "./parsing.ts";
import type { Podman } from "./podman-entries.ts";
import { podmanOf, podmanOptions, type PodmanArgs } from "./podman-options.ts";
import { planEntries, type Plan, type PlannedEntry, type State } from "./podman-plan.ts";
import type { SettingsFlags } from "./settings.ts";

export function addPodman(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(usage, about, (group) =>
    addInstall(
      parsing.describe(group, {
        words: "podman",
        examples: [
          ["leger podman install", "once: leger is podman's driver"],
          ["leger podman sync", "an entry for every secret"],
          ["leger podman status", "what differs?"],
        ],
      }),
      parsing,
    )
      .demandCommand(1, "Not enough non-option arguments")
      .command(
        "sync",
        "make podman's entries for the secrets that legerd has",
        (command) =>
          store(
            parsing,
            parsing.describe(command, {
              words: "podman sync",
              examples: [
                ["leger podman sync --dry-run", "only say what would be done"],
                ["leger podman sync --map db_password=leger/shared/postgres", "a name of your own"],
                [
                  "podman run --secret openai_api_key,type=env,target=OPENAI_API_KEY …",
                  "then, and in quadlets",
                ],
              ],
              notes: [
                "An entry holds a reference, never a value: a rotation needs no new sync.",
                "A secret's entry has the last part of its name. Entries that are not leger's are left alone.",
                "When names collide, or podman would not take one, they are listed and nothing is done.",
              ],
            }),
          )
            .option("dry-run", { type: "boolean", describe: "change nothing" })
            .option("prune", { type: "boolean", describe: "remove leger's entries whose secret is gone" })
            .option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => sync(cli, daemon, args)),
      )
      .command(
        "status",
        "say where podman's entries and legerd's secrets differ",
        (command) =>
          store(
            parsing,
            parsing.describe(command, {
              words: "podman status",
              examples: [["leger podman status --json", "for programs"]],
              notes: ["Exit status 2 when something differs."],
            }),
          ).option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => status(cli, daemon, args)),
      ),
  );
}

function store<T>(parsing: Parsing, command: Argv<T>): Argv<T & StoreArgs> {
  return podmanOptions(
    parsing,
    command.option("map", {
      type: "string",
      array: true,
      requiresArg: true,
      describe: "NAME=SECRET: an entry NAME for any secret; repeat it for more",
    }),
  );
}

type StoreArgs = PodmanArgs & { map: string[] | undefined };
type StatusArgs = StoreArgs & { json?: boolean | undefined };
type SyncArgs = StatusArgs & { dryRun?: boolean | undefined; prune?: boolean | undefined };

type Done = "created" | "repaired" | "removed";

async function sync(cli: Cli, daemon: Daemon, args: SyncArgs): Promise<number> {
  const { terminal } = cli;
  const podman = podmanOf(cli, args);
  const plan = await planOf(cli, daemon, podman, args);
  if (plan.problems.length > 0) return refuse(cli, plan, args);

  const work = plan.entries.flatMap((entry) => {
    const done = workFor(entry, args.prune === true);
    return done === undefined ? [] : [{ entry, done }];
  });
  if (work.length > 0 && args.dryRun !== true) {
    await podman.tryDriver();
    for (const { entry, done } of work) {
      await carryOut(podman, entry);
      // One by one: after a failure it is known how far this came.
      if (args.json !== true) await terminal.line(lineOf(entry, done));
    }
    await verify(cli, daemon, podman, args);
  }

  const left = args.prune === true ? [] : plan.entries.filter(({ state }) => state === "orphan");
  if (args.json === true) {
    const actions = work.map(({ entry: { name, secret }, done }) => ({ name, secret, action: done }));
    const orphans = left.map(({ name, secret }) => ({ name, secret }));
    await terminal.json({ dry_run: args.dryRun === true, actions, orphans, problems: [] });
  } else if (args.dryRun === true) {
    for (const { entry, done } of work) await terminal.line(lineOf(entry, done));
  }
  for (const { name, secret } of left) {
    terminal.warn(
      `${name} stays, though its secret ${secret} is gone`,
      "remove such entries with: leger podman sync --prune",
    );
  }
  const kept = plan.entries.filter(({ state }) => state === "ok").length;
  const changes = args.dryRun === true ? `${work.length} to change` : `${work.length} changed`;
  terminal.say(`podman: ${plan.entries.length} of leger's, ${changes}, ${kept} in place`);
  return 0;
}

function lineOf({ name, secret }: PlannedEntry, done: Done): string {
  return `${done.padEnd(8)}  ${name}  ${secret}`;
}

async function status(cli: Cli, daemon: Daemon, args: StatusArgs): Promise<number> {
  const { settings, terminal } = cli;
  const plan = await planOf(cli, daemon, podmanOf(cli, args), args);
  const differs = plan.problems.length > 0 || plan.entries.some(({ state }) => state !== "ok");
  if (args.json === true) {
    const entries = plan.entries.map(({ name, secret, state }) => ({ name, secret, state }));
    await terminal.json({ in_step: !differs, entries, problems: plan.problems });
  } else if (plan.entries.length > 0) {
    const rows = plan.entries.map(({ name, secret, state }) => [
      name,
      shortName(secret, settings.namespace),
      MEANING[state],
    ]);
    await terminal.table(["NAME", "SECRET", "STATE"], rows);
  }
  tellProblems(cli, plan);
  if (!differs) {
    terminal.say("podman and legerd are in step");
    return 0;
  }
  terminal.say("bring podman into step with: leger podman sync");
  return new LegerError("DIFFERENT", "").exitStatus;
}

const MEANING = {
  ok: "ok",
  missing: "missing",
  stale: "stale: made with other driver commands",
  unlinked: "unlinked: legerd does not know it as this secret's",
  orphan: "orphan: its secret is gone (sync --prune removes it)",
} as const satisfies Record<State, string>;

async function planOf({ settings }: Cli, daemon: Daemon, podman: Podman, args: StoreArgs): Promise<Plan> {
  const map = parseMap(args.map ?? [], settings.namespace);
  const secrets = (await daemon.secrets.list()).map(({ Name }) => Name);
  const podmanVersion = await podman.version();
  return planEntries({
    namespace: settings.namespace,
    secrets,
    entries: await podman.entries(),
    links: await daemon.podmanLinks(),
    commands: driverCommands(args.leger),
    podmanVersion,
    map,
  });
}

/** `--map`: Podman's name → whole name of a secret. USAGE for anything else. */
export function parseMap(items: readonly string[], namespace: string): Map<string, string> {
  const map = new Map<string, string>();
  for (const item of items) {
    const equals = item.indexOf("=");
    const name = item.slice(0, Math.max(equals, 0));
    if (name === "") {
      throw new LegerError("USAGE", "--map takes NAME=SECRET", {
        hints: ["as in: --map db_password=leger/shared/postgres"],
      });
    }
    // Checked for its look alone: a key on either side must not be repeated.
    fullName(name, namespace);
    if (map.has(name)) throw new LegerError("USAGE", `--map: ${name} is there twice`);
    map.set(name, fullName(item.slice(equals + 1), namespace));
  }
  return map;
}

async function refuse(cli: Cli, plan: Plan, { json, dryRun }: SyncArgs): Promise<number> {
  if (json === true) {
    await cli.terminal.json({ dry_run: dryRun === true, actions: [], orphans: [], problems: plan.problems });
  }
  tellProblems(cli, plan);
  throw new LegerError("FAILED", "nothing was done in podman", {
    hints: ["give such a secret another name in podman: leger podman sync --map NAME=SECRET"],
  });
}

function tellProblems({ terminal }: Cli, { problems }: Plan): void {
  for (const { name, secrets, what } of problems) terminal.warn(`${name} (${secrets.join(", ")}): ${what}`);
}

function workFor({ state }: PlannedEntry, prune: boolean): Done | undefined {
  switch (state) {
    case "ok":
      return undefined;
    case "missing":
      return "created";
    case "stale":
    case "unlinked":
      return "repaired";
    case "orphan":
      return prune ? "removed" : undefined;
    default:
      return state satisfies never;
  }
}

/** Never `--replace`: it can remove another entry (podman#27130). */
async function carryOut(podman: Podman, { name, secret, state, id }: PlannedEntry): Promise<void> {
  if (id !== undefined) await podman.remove(id);
  if (state !== "orphan") await podman.create(name, secret);
}

/** What Podman's driver stored must have come to this legerd, and not to another one. */
async function verify(cli: Cli, daemon: Daemon, podman: Podman, args: SyncArgs): Promise<void> {
  const plan = await planOf(cli, daemon, podman, args);
  const wrong = plan.entries.filter((entry) => workFor(entry, args.prune === true) !== undefined);
  if (plan.problems.length === 0 && wrong.length === 0) return;
  throw new LegerError(
    "FAILED",
    `podman still differs after the sync: ${wrong.map(({ name }) => name).join(", ")}`,
    {
      hints: [`does podman's driver ask the legerd at ${cli.settings.socket}?`, "see: leger podman status"],
    },
  );
}
