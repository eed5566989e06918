/** door — the commands about doors: further sockets of legerd's, for containers, which give no more than they are granted. */
import { existsSync, mkdirSync, realpathSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import type { Argv } from "yargs";
import { LegerError, systemCode } from "../core/error.ts";
import { homeDirectory, runtimePlaces } from "../core/paths.ts";
import { beginFile } from "../core/pending-file.ts";
import { userName } from "../core/user-name.ts";
import { findGrant } from "../setec/grants.ts";
import { ACTIONS, type Action } from "../setec/protocol.ts";
import type { Heading } from "./commands.ts";
import type { Daemon, Door } from "./daemon.ts";
import { GRANT_OPTION, parseGrant } from "./grant-option.ts";
import { readJsonFile } from "./json-file.ts";
import { fullName, shortName } from "./names.ts";
import { JSON_OPTION, type Cli, type Parsing } from "./parsing.ts";
import type { SettingsFlags } from "./settings.ts";

const CONFIG_OPTION = {
  type: "string",
  requiresArg: true,
  describe: "legerd's configuration (else: legerd.json where legerd looks for it)",
} as const;

export function addDoor(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(usage, about, (group) =>
    parsing
      .describe(group, {
        words: "door",
        examples: [
          ["leger door add litellm --grant get:openai_api_key", "a door for one secret"],
          ["leger door explain litellm openai_api_key", "what would it answer, and by which rule?"],
        ],
        notes: ["A door gives what its grants allow and nothing else; each has a directory of its own."],
      })
      .demandCommand(1, "Not enough non-option arguments")
      .command(
        "add <door>",
        "write a door into legerd.json",
        (command) =>
          doorOf(
            parsing.describe(command, {
              words: "door add",
              examples: [
                [
                  "leger door add litellm --grant get,info:openai_api_key",
                  "for a container run by root in it",
                ],
                ["leger door add app --mode 0666 --grant get:app_key", "for one whose program is not root"],
                ["leger door add app --grant get:app_key --route services", "env files of services as well"],
              ],
              notes: ["legerd opens it at its next start; what to type and to mount is printed."],
            }),
          )
            .option("grant", GRANT_OPTION)
            .option("mode", {
              type: "string",
              requiresArg: true,
              default: "0600",
              describe: "the socket's mode",
            })
            .option("group", { type: "string", requiresArg: true, describe: "the socket's group" })
            .option("route", {
              type: "string",
              array: true,
              requiresArg: true,
              choices: ROUTES,
              describe: "open leger's own routes there, too. May be repeated",
            })
            .option("config", CONFIG_OPTION)
            .option("json", JSON_OPTION),
        (args) => parsing.choose((cli) => add(cli, args)),
      )
      .command(
        "list",
        "list the doors that legerd has",
        (command) =>
          parsing
            .describe(command, {
              words: "door list",
              examples: [["leger door list --json", "for programs"]],
            })
            .option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => list(cli, daemon, args)),
      )
      .command(
        "remove <door>",
        "take a door out of legerd.json",
        (command) =>
          doorOf(
            parsing.describe(command, {
              words: "door remove",
              examples: [["leger door remove litellm", "legerd closes it at its next start"]],
            }),
          )
            .option("config", CONFIG_OPTION)
            .option("json", JSON_OPTION),
        (args) => parsing.choose((cli) => remove(cli, args)),
      )
      .command(
        "explain <door> [secret]",
        "what would a door answer for a secret, and by which rule?",
        (command) =>
          doorOf(
            parsing.describe(command, {
              words: "door explain",
              examples: [
                ["leger door explain litellm openai_api_key", "each action, and the rule that allows it"],
              ],
            }),
          )
            .positional("secret", { type: "string", describe: "the secret; left out: the door's rules" })
            .option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => explain(cli, daemon, args)),
      ),
  );
}

function doorOf<T>(command: Argv<T>): Argv<T & { door: string }> {
  return command.positional("door", { type: "string", demandOption: true, describe: "who stands behind it" });
}

/** What a door with grants may be opened for, besides setec's own routes. */
const ROUTES = ["podman", "services", "status", "audit", "metrics"] as const;

/** It is a folder's name, and the audit log's word for whoever comes through. */
const DOOR_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

type AddArgs = {
  door: string;
  grant?: string[] | undefined;
  mode: string;
  group?: string | undefined;
  route?: string[] | undefined;
  config?: string | undefined;
  json?: boolean | undefined;
};

async function add(cli: Cli, args: AddArgs): Promise<void> {
  const { terminal, world, settings } = cli;
  const { door, mode, group, route } = args;
  if (!DOOR_NAME.test(door)) {
    throw new LegerError("USAGE", "door add: this is not a name for a door", {
      hints: ["letters, digits, dots, underscores and hyphens"],
    });
  }
  if (!/^0?[0-7]{3}$/.test(mode))
    throw new LegerError("USAGE", "door add: --mode takes octal digits such as 0660");
  if (args.grant === undefined) {
    throw new LegerError("USAGE", "door add: --grant is missing", {
      hints: [
        "say what it may do, like --grant get:openai_api_key; a door without grants would have everything",
      ],
    });
  }
  const grants = args.grant.map((text) => parseGrant(text, settings.namespace, "door add"));
  const places = runtimePlaces(world);
  const unix = join(dirname(places.socket), "doors", door, "legerd.sock");
  const file = configFile(cli, args.config);
  const config = readConfig(file);
  // Without a list there is the user's own door; a list has to name it.
  const doors = config.doors ?? [{ name: "legerd", unix: places.socket, principal: userName() }];
  if (doors.some((other) => other["principal"] === door || other["unix"] === unix)) {
    throw new LegerError("REFUSED", `door add: ${file} has a door ${door} already`, {
      hints: [`leger door remove ${door}`],
    });
  }
  const added = {
    unix,
    mode,
    principal: door,
    ...(group === undefined ? {} : { group }),
    grants,
    ...(route === undefined ? {} : { routes: route }),
  };
  write(file, { ...config.rest, doors: [...doors, added] });
  const mount = `Volume=${specifierOf(dirname(unix), places.account.kind)}:/run/legerd:ro`;
  const restart = restartCommand(places.account.kind);
  if (args.json === true) {
    await terminal.json({ config: file, door: added, mount, restart });
    return;
  }
  await terminal.line(`${file}: has door ${door} at ${unix}`);
  terminal.say(`legerd opens it at its next start: ${restart}`);
  terminal.say(`a quadlet gets it by: ${mount}`);
}

type ListArgs = { json?: boolean | undefined };

async function list({ terminal }: Cli, daemon: Daemon, { json }: ListArgs): Promise<void> {
  const doors = await daemon.doors();
  if (json === true) {
    await terminal.json({ doors });
    return;
  }
  for (const door of doors) {
    const may = door.grants === undefined ? "everything" : `${door.grants.length} grants`;
    await terminal.line(
      `${(door.principal === "" ? "nobody" : door.principal).padEnd(16)}  ${may.padEnd(12)}  ${door.unix}`,
    );
  }
}

type RemoveArgs = { door: string; config?: string | undefined; json?: boolean | undefined };

async function remove(cli: Cli, { door, config: named, json }: RemoveArgs): Promise<void> {
  const { terminal, world } = cli;
  const file = configFile(cli, named);
  const config = readConfig(file);
  const doors = config.doors ?? [];
  const left = doors.filter((other) => other["principal"] !== door);
  if (left.length === doors.length) throw noDoor(door, `${file} has none of that name`);
  if (left.length === 0) {
    throw new LegerError("REFUSED", `door remove: ${door} is the only door in ${file}`, {
      hints: [`remove "doors" from the file by hand, and legerd has its usual door again`],
    });
  }
  write(file, { ...config.rest, doors: left });
  const restart = restartCommand(runtimePlaces(world).account.kind);
  if (json === true) await terminal.json({ config: file, removed: door, restart });
  else {
    await terminal.line(`${file}: door ${door} is gone`);
    terminal.say(`legerd closes it at its next start: ${restart}`);
  }
}

type ExplainArgs = { door: string; secret?: string | undefined; json?: boolean | undefined };

/** By the configuration that the running legerd has, which may be older than the file. */
async function explain({ terminal, settings }: Cli, daemon: Daemon, args: ExplainArgs): Promise<void> {
  const doors = await daemon.doors();
  const door = doors.find(({ principal, name, unix }) => [principal, name, unix].includes(args.door));
  if (door === undefined)
    throw noDoor(args.door, "legerd has none of that name open, or was not restarted since");
  const { namespace } = settings;
  const secret = args.secret === undefined ? undefined : fullName(args.secret, namespace);
  const rules = secret === undefined ? undefined : ACTIONS.map((action) => ruleOf(door, action, secret));
  if (args.json === true) {
    await terminal.json({ door, ...(secret === undefined ? {} : { secret, rules }) });
    return;
  }
  await terminal.line(`door     ${door.principal === "" ? "nobody: every call is refused" : door.principal}`);
  await terminal.line(
    `socket   ${door.unix}, mode ${door.mode}${door.group === undefined ? "" : `, group ${door.group}`}`,
  );
  await terminal.line(`routes   ${routesOf(door)}`);
  if (rules === undefined || secret === undefined) {
    for (const line of grantsOf(door)) await terminal.line(line);
    return;
  }
  await terminal.line(`secret   ${shortName(secret, namespace)}`);
  for (const { action, allowed, because } of rules) {
    await terminal.line(`  ${action.padEnd(15)} ${allowed ? "yes" : "no "}  ${because}`);
  }
}

function ruleOf(
  door: Door,
  action: Action,
  secret: string,
): { action: Action; allowed: boolean; because: string } {
  if (door.principal === "") return { action, allowed: false, because: "the door names no principal" };
  if (door.grants === undefined)
    return { action, allowed: true, because: "the door has no grants: everything" };
  const found = findGrant(door.grants, action, secret);
  if (found === undefined) return { action, allowed: false, because: "no grant says so" };
  return { action, allowed: true, because: `grants[${found.grant}]: ${JSON.stringify(found.pattern)}` };
}

function routesOf({ grants, routes = [] }: Door): string {
  if (grants === undefined) return "all";
  return ["/api/*", "/health", ...routes].join(", ");
}

function grantsOf({ grants }: Door): string[] {
  if (grants === undefined) return ["grants   none: everything is allowed"];
  if (grants.length === 0) return ["grants   an empty list: nothing is allowed"];
  return grants.map(
    ({ action, secret }, at) => `grants[${at}]  ${action.join(", ")} of ${secret.join(", ")}`,
  );
}

function configFile({ world }: Cli, named: string | undefined): string {
  if (named !== undefined) return resolve(world.cwd, named);
  return join(homeDirectory("config", world), "legerd.json");
}

type Config = { doors: Record<string, unknown>[] | undefined; rest: Record<string, unknown> };

/** Only as far as it is changed; legerd itself says what else is wrong. */
function readConfig(file: string): Config {
  const json = readJsonFile(
    file,
    'it reads like {"doors": [{"unix": "/run/user/1000/leger/legerd.sock", "principal": "alice"}]}',
  );
  if (json === undefined) return { doors: undefined, rest: {} };
  if (!isObject(json)) throw new LegerError("CONFIG", `${file} is not an object`);
  const { doors, ...rest } = json;
  if (doors === undefined) return { doors: undefined, rest };
  if (!Array.isArray(doors) || !doors.every(isObject)) {
    throw new LegerError("CONFIG", `${file}: "doors" is not a list of doors`);
  }
  return { doors, rest };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A link to a file elsewhere stays one. */
function write(file: string, config: object): void {
  try {
    mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  } catch (cause) {
    const hints = ["name another with --config FILE"];
    throw new LegerError("IO", `write ${file}: ${systemCode(cause) ?? "failed"}`, { hints, cause });
  }
  using pending = beginFile(existsSync(file) ? realpathSync(file) : file, { replace: true });
  pending.write(Buffer.from(`${JSON.stringify(config, null, 2)}\n`));
  pending.commit();
}

/** As a unit spells it, so that the quadlet is good for any user. */
function specifierOf(directory: string, kind: "user" | "system"): string {
  return kind === "user" ? directory.replace(/^\/run\/user\/\d+(?=\/)/, "%t") : directory;
}

function restartCommand(kind: "user" | "system"): string {
  return `systemctl ${kind === "user" ? "--user " : ""}restart legerd`;
}

function noDoor(door: string, why: string): LegerError {
  return new LegerError("FAILED", `door ${JSON.stringify(door)}: ${why}`, {
    hints: ["see: leger door list"],
  });
}
