/** secrets — the commands that keep, read and rotate secrets. */
import type { Argv } from "yargs";
import { LegerError } from "../core/error.ts";
import { Secret } from "../core/secret.ts";
import type { SecretInfo } from "../setec/protocol.ts";
import type { Heading } from "./commands.ts";
import type { Daemon } from "./daemon.ts";
import { fullName, nameToType, shortName } from "./names.ts";
import { JSON_OPTION, versionNumber, type Cli, type Parsing } from "./parsing.ts";
import { canAsk, confirm } from "./prompt.ts";
import type { SettingsFlags } from "./settings.ts";
import { count } from "./terminal.ts";
import { readValue } from "./value.ts";

type Named = { name: string; exact?: boolean | undefined };

export function addSecrets(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(usage, about, (group) =>
    parsing
      .describe(group, {
        words: "secrets",
        examples: [
          ["leger secrets set openai_api_key", "store a key"],
          ["leger secrets list", "what there is"],
        ],
        notes: NAMES,
      })
      .demandCommand(1, "Not enough non-option arguments")
      .command(
        "set <name>",
        "store a value as a new version",
        (command) =>
          named(
            parsing.describe(command, {
              words: "secrets set",
              examples: [
                ["leger secrets set openai_api_key", "asks for the value, twice"],
                ["leger secrets set tls_key --file key.pem", "from a file"],
                ["pass show openai | leger secrets set openai_api_key --trim-space", "from a pipe"],
                ["leger secrets set openai_api_key --activate", "rotate: store and use at once"],
              ],
              notes: ["The first version is active at once; a later one when you say so.", ...NAMES],
            }),
          )
            .option("file", {
              type: "string",
              requiresArg: true,
              describe: "read the value from here; - is a pipe",
            })
            .option("activate", { type: "boolean", describe: "use the new version from now on" })
            .option("trim-space", { type: "boolean", describe: "leave out white space at both ends" })
            .option("empty-ok", { type: "boolean", describe: "an empty value is meant" })
            .option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => set(cli, daemon, args)),
      )
      .command(
        "get <name>",
        "print a value, byte for byte",
        (command) =>
          named(
            parsing.describe(command, {
              words: "secrets get",
              examples: [
                ["leger secrets get openai_api_key", "the active version"],
                ["leger secrets get openai_api_key --version 2", "an older one"],
              ],
              notes: ["A newline is added at a terminal only."],
            }),
          ).option("version", {
            type: "string",
            requiresArg: true,
            describe: "this one; else the active one",
          }),
        (args) => parsing.chooseWithDaemon((cli, daemon) => get(cli, daemon, args)),
      )
      .command(
        "list",
        "list all secrets, without values",
        (command) =>
          parsing
            .describe(command, {
              words: "secrets list",
              examples: [["leger secrets list --json", "for programs"]],
              notes: ["Names are short inside the namespace and whole elsewhere."],
            })
            .option("json", JSON_OPTION),
        ({ json }) => parsing.chooseWithDaemon((cli, daemon) => list(cli, daemon, json)),
      )
      .command(
        "info <name>",
        "what is known of a secret, without its value",
        (command) =>
          named(
            parsing.describe(command, {
              words: "secrets info",
              examples: [["leger secrets info openai_api_key", "versions, and the services that use it"]],
            }),
          ).option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => info(cli, daemon, args)),
      )
      .command(
        "versions <name>",
        "list the versions of a secret",
        (command) =>
          named(
            parsing.describe(command, {
              words: "secrets versions",
              examples: [["leger secrets versions openai_api_key", "which there are, which is active"]],
            }),
          ).option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => versions(cli, daemon, args)),
      )
      .command(
        "activate <name> <number>",
        "use this version from now on",
        (command) =>
          numbered(
            named(
              parsing.describe(command, {
                words: "secrets activate",
                examples: [["leger secrets activate openai_api_key 2", "forward or back"]],
              }),
            ),
          ).option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => activate(cli, daemon, args)),
      )
      .command(
        "delete <name>",
        "delete a secret, all its versions",
        (command) =>
          named(
            parsing.describe(command, {
              words: "secrets delete",
              examples: [
                ["leger secrets delete old_key", "asks first"],
                ["leger secrets delete old_key --yes", "does not ask"],
              ],
            }),
          )
            .option("yes", YES_OPTION)
            .option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => remove(cli, daemon, args)),
      )
      .command(
        "delete-version <name> <number>",
        "delete a version that is not active",
        (command) =>
          numbered(
            named(
              parsing.describe(command, {
                words: "secrets delete-version",
                examples: [["leger secrets delete-version openai_api_key 1", "asks first"]],
              }),
            ),
          )
            .option("yes", YES_OPTION)
            .option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => removeVersion(cli, daemon, args)),
      )
      .command(
        ["fetch <service>", "fetch-for-service <service>"],
        "write a service's env file",
        (command) =>
          parsing
            .describe(command, {
              words: "secrets fetch",
              examples: [["leger secrets fetch openwebui", "in ExecStartPre= of its quadlet"]],
              notes: HOT_PATH,
            })
            .positional("service", {
              type: "string",
              demandOption: true,
              describe: "as in: leger services list",
            })
            .option("dir", { type: "string", requiresArg: true, describe: "where the file goes" })
            .option("dialect", { choices: ["podman", "systemd"], describe: "who reads it (default: podman)" })
            .option("print-path", { type: "boolean", describe: "print where the file is" })
            .option("remove", { type: "boolean", describe: "remove it again, in ExecStopPost=" })
            .option("allow-disk", { type: "boolean", describe: "also where it could reach a disk" }),
        () => parsing.choose(notFirst),
      ),
  );
}

/** Podman's side of the hot path, for the sake of --help. */
export function addDriver(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(usage, about, (group) =>
    ["list", "lookup", "store", "delete"].reduce(
      (commands, verb) =>
        commands.command(
          verb,
          DRIVER_VERBS.get(verb) ?? "",
          (command) => parsing.describe(command, { words: `driver ${verb}`, examples: [], notes: HOT_PATH }),
          () => parsing.choose(notFirst),
        ),
      parsing
        .describe(group, {
          words: "driver",
          examples: [["SECRET_ID=0123456789abcdef012345678 leger driver lookup", "as podman does"]],
        })
        .demandCommand(1, "Not enough non-option arguments"),
    ),
  );
}

const DRIVER_VERBS: ReadonlyMap<string, string> = new Map([
  ["list", "the ids that legerd knows"],
  ["lookup", "the value for SECRET_ID"],
  ["store", "keep standard input under SECRET_ID"],
  ["delete", "forget SECRET_ID"],
]);

const NAMES = [
  "openai_api_key is short for leger/NAMESPACE/openai_api_key; a name with a slash is taken whole.",
];
const HOT_PATH = [
  "These two words come first on the command line: options of leger's own cannot precede them.",
];
const YES_OPTION = { type: "boolean", describe: "do not ask" } as const;

function named<T>(command: Argv<T>): Argv<T & Named> {
  return command
    .positional("name", { type: "string", demandOption: true, describe: "the secret" })
    .option("exact", { type: "boolean", describe: "take the name as it is, slash or no slash" });
}

function numbered<T>(command: Argv<T>): Argv<T & { number: string }> {
  return command.positional("number", { type: "string", demandOption: true, describe: "the version" });
}

/** `leger` hands the hot path's commands on before it looks at options; they got here behind one. */
async function notFirst(): Promise<never> {
  throw new LegerError("USAGE", "these words must come first on the command line", {
    hints: ["options of leger's own go behind them, or into LEGER_SOCKET"],
  });
}

type SetArgs = Named & {
  file?: string | undefined;
  activate?: boolean | undefined;
  trimSpace?: boolean | undefined;
  emptyOk?: boolean | undefined;
  json?: boolean | undefined;
};

async function set(cli: Cli, { secrets }: Daemon, args: SetArgs): Promise<void> {
  const { terminal } = cli;
  const name = nameOf(cli, args);
  const label = shown(cli, name);
  const value = new Secret(await readValue(cli, { ...args, label: `Value of ${label}` }));
  const before = await infoBefore(secrets, name);
  const version = await secrets.put(name, value);
  let isNew: boolean | null = null;
  let active: boolean | null = null;
  if (before !== "unknown") {
    isNew = before?.Versions.includes(version) !== true;
    active = before === undefined || before.ActiveVersion === version;
  }
  if (active !== true && args.activate === true) {
    await secrets.activate(name, version);
    active = true;
  }
  const how = isNew === false ? `version ${version} has this value already` : `stored as version ${version}`;
  const use = {
    true: ", active",
    false: `, not active; activate it with: leger secrets activate ${label} ${version}`,
    null: "",
  };
  terminal.say(`${label}: ${how}${use[`${active}`]}`);
  if (args.json === true) await terminal.json({ name, version, active, new: isNew });
}

/** Undefined where there is nothing yet; "unknown" behind a door that may put but not look. */
async function infoBefore(
  secrets: Daemon["secrets"],
  name: string,
): Promise<SecretInfo | undefined | "unknown"> {
  try {
    return await secrets.info(name);
  } catch (error) {
    if (error instanceof LegerError && error.code === "SECRET_NOT_FOUND") return undefined;
    if (error instanceof LegerError && error.code === "DENIED") return "unknown";
    throw error;
  }
}

async function get(
  cli: Cli,
  { secrets }: Daemon,
  args: Named & { version?: string | undefined },
): Promise<void> {
  const name = nameOf(cli, args);
  const { value } =
    args.version === undefined
      ? await secrets.get(name)
      : await secrets.getVersion(name, versionNumber(args.version));
  await cli.terminal.write(value.reveal());
  if (cli.world.isTTY.stdout) await cli.terminal.write("\n");
}

async function list({ settings, terminal }: Cli, { secrets }: Daemon, json = false): Promise<void> {
  const infos = await secrets.list();
  if (json) {
    await terminal.json({ namespace: settings.namespace, secrets: infos.map(documentOf) });
    return;
  }
  if (infos.length === 0) {
    terminal.say("no secrets yet; store one with: leger secrets set NAME");
    return;
  }
  const rows = infos.map(({ Name, ActiveVersion, Versions }) => [
    shortName(Name, settings.namespace),
    String(ActiveVersion),
    ranges(Versions),
  ]);
  await terminal.table(["NAME", "ACTIVE", "VERSIONS"], rows);
  if (infos.some(({ Name }) => !Name.includes("/"))) {
    terminal.say(
      `a name without a slash may lie outside leger/${settings.namespace}/; --json tells, --exact names it`,
    );
  }
}

async function info(cli: Cli, daemon: Daemon, args: Named & { json?: boolean | undefined }): Promise<void> {
  const found = await daemon.secrets.info(nameOf(cli, args));
  const services = await servicesWith(daemon, found.Name);
  if (args.json === true) {
    await cli.terminal.json({ ...documentOf(found), services });
    return;
  }
  await cli.terminal.line(`name      ${found.Name}`);
  await cli.terminal.line(`active    ${found.ActiveVersion}`);
  await cli.terminal.line(`versions  ${ranges(found.Versions)}`);
  if (services.length > 0) await cli.terminal.line(`services  ${services.join(" ")}`);
}

async function versions(
  cli: Cli,
  { secrets }: Daemon,
  args: Named & { json?: boolean | undefined },
): Promise<void> {
  const found = await secrets.info(nameOf(cli, args));
  if (args.json === true) {
    await cli.terminal.json(documentOf(found));
    return;
  }
  const rows = found.Versions.map((version) => [
    String(version),
    version === found.ActiveVersion ? "active" : "",
  ]);
  await cli.terminal.table(["VERSION", "STATE"], rows);
}

type NumberedArgs = Named & { number: string; json?: boolean | undefined };

async function activate(cli: Cli, { secrets }: Daemon, args: NumberedArgs): Promise<void> {
  const name = nameOf(cli, args);
  const version = versionNumber(args.number);
  await secrets.activate(name, version);
  cli.terminal.say(`${shown(cli, name)}: version ${version} is active`);
  if (args.json === true) await cli.terminal.json({ name, version, active: true });
}

type Asking = { yes?: boolean | undefined; json?: boolean | undefined };

async function remove(cli: Cli, daemon: Daemon, args: Named & Asking): Promise<void> {
  const name = nameOf(cli, args);
  const label = shown(cli, name);
  // setec deletes what is not there without a word; a person has mistyped.
  const { Versions } = await daemon.secrets.info(name);
  const services = await servicesWith(daemon, name);
  if (services.length > 0) cli.terminal.warn(`${label} is used by these services: ${services.join(", ")}`);
  await assureDeletion(cli, `delete ${label} with ${count(Versions.length, "version")}`, args);
  await daemon.secrets.delete(name);
  cli.terminal.say(`${label}: deleted`);
  if (args.json === true) await cli.terminal.json({ name, deleted: true });
}

async function removeVersion(cli: Cli, { secrets }: Daemon, args: NumberedArgs & Asking): Promise<void> {
  const name = nameOf(cli, args);
  const label = shown(cli, name);
  const version = versionNumber(args.number);
  const { ActiveVersion, Versions } = await secrets.info(name);
  if (!Versions.includes(version)) {
    throw new LegerError("VERSION_NOT_FOUND", `${label}: there is no version ${version}`, {
      hints: [`see which there are with: leger secrets versions ${label}`],
    });
  }
  if (ActiveVersion === version) {
    throw new LegerError("REFUSED", `${label}: version ${version} is the active one`, {
      hints: [
        `activate another one first: leger secrets activate ${label} NUMBER`,
        "or delete the whole secret",
      ],
    });
  }
  await assureDeletion(cli, `delete version ${version} of ${label}`, args);
  await secrets.deleteVersion(name, version);
  cli.terminal.say(`${label}: version ${version} deleted`);
  if (args.json === true) await cli.terminal.json({ name, version, deleted: true });
}

/** Asks, unless told not to. USAGE where nobody can be asked; REFUSED for a no. */
export async function assureDeletion({ world }: Cli, what: string, { yes }: Asking): Promise<void> {
  if (yes === true) return;
  if (!canAsk(world)) {
    throw new LegerError("USAGE", `${what}: nobody here to ask`, { hints: ["say so with --yes"] });
  }
  if (!(await confirm(world, `leger: ${what}?`))) {
    throw new LegerError("REFUSED", "nothing was deleted");
  }
}

/** The names of the services that get this secret; none where the caller may not see them. */
async function servicesWith(daemon: Daemon, secret: string): Promise<string[]> {
  try {
    const services = await daemon.services();
    return services
      .filter(({ variables }) => Object.values(variables).includes(secret))
      .map(({ name }) => name);
  } catch (error) {
    if (error instanceof LegerError && error.code === "DENIED") return [];
    throw error;
  }
}

function nameOf({ settings }: Cli, { name, exact = false }: Named): string {
  return fullName(name, settings.namespace, { exact });
}

function shown({ settings }: Cli, name: string): string {
  return nameToType(name, settings);
}

function documentOf({ Name, ActiveVersion, Versions }: SecretInfo): Record<string, unknown> {
  return { name: Name, active: ActiveVersion, versions: Versions };
}

/** 1, 2, 3, 7 as "1-3,7". */
function ranges(numbers: readonly number[]): string {
  const runs: [first: number, last: number][] = [];
  for (const version of numbers) {
    const run = runs.at(-1);
    if (run !== undefined && run[1] === version - 1) run[1] = version;
    else runs.push([version, version]);
  }
  return runs.map(([first, last]) => (first === last ? String(first) : `${first}-${last}`)).join(",");
}
