/** services — the commands that say which variables a service gets from which secrets. */
import type { Argv } from "yargs";
import { LegerError } from "../core/error.ts";
import { isServiceName, SERVICE_NAME_RULE } from "../core/service.ts";
import type { Heading } from "./commands.ts";
import type { Daemon } from "./daemon.ts";
import { fullName, nameToType, shortName } from "./names.ts";
import { JSON_OPTION, type Cli, type Parsing } from "./parsing.ts";
import { assureDeletion } from "./secrets.ts";
import type { SettingsFlags } from "./settings.ts";
import { count } from "./terminal.ts";

type Reporting = { json?: boolean | undefined };

export function addServices(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(usage, about, (group) =>
    parsing
      .describe(group, {
        words: "services",
        examples: [
          ["leger services set openwebui openai_api_key", "OPENAI_API_KEY from openai_api_key"],
          ["leger services list", "what there is"],
        ],
      })
      .demandCommand(1, "Not enough non-option arguments")
      .command(
        "set <service> <variables..>",
        "define a service: VARIABLE=SECRET, or SECRET for short",
        (command) =>
          serviceOf(
            parsing.describe(command, {
              words: "services set",
              examples: [
                ["leger services set openwebui OPENAI_API_KEY=openai_api_key", "this, and nothing else"],
                ["leger services set openwebui --add WEBUI_SECRET_KEY=webui_key", "this as well"],
                ["leger services set openwebui openai_api_key", "short for OPENAI_API_KEY=openai_api_key"],
              ],
              notes: ["What stands right of = is the name of a secret, never a value."],
            }),
          )
            .positional("variables", {
              type: "string",
              array: true,
              demandOption: true,
              describe: "VARIABLE=SECRET, or SECRET",
            })
            .option("add", { type: "boolean", describe: "keep what is defined already" })
            .option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => set(cli, daemon, args)),
      )
      .command(
        "show <service>",
        "show what a service gets",
        (command) =>
          serviceOf(
            parsing.describe(command, {
              words: "services show",
              examples: [["leger services show openwebui", "variables and secrets, no values"]],
            }),
          ).option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => show(cli, daemon, args)),
      )
      .command(
        "list",
        "list all services",
        (command) =>
          parsing
            .describe(command, {
              words: "services list",
              examples: [["leger services list --json", "for programs"]],
            })
            .option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => list(cli, daemon, args)),
      )
      .command(
        "delete <service>",
        "delete a service's definition, not its secrets",
        (command) =>
          serviceOf(
            parsing.describe(command, {
              words: "services delete",
              examples: [["leger services delete openwebui --yes", "does not ask"]],
            }),
          )
            .option("yes", { type: "boolean", describe: "do not ask" })
            .option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => remove(cli, daemon, args)),
      ),
  );
}

function serviceOf<T>(command: Argv<T>): Argv<T & { service: string }> {
  return command.positional("service", { type: "string", demandOption: true, describe: "the service" });
}

type SetArgs = Reporting & { service: string; variables: string[]; add?: boolean | undefined };

async function set({ settings, terminal }: Cli, daemon: Daemon, args: SetArgs): Promise<void> {
  assertServiceName(args.service);
  const asked = parseVariables(args.variables, settings.namespace);
  const kept = args.add === true ? await variablesOf(daemon, args.service) : {};
  const { name, variables } = await daemon.setService({
    name: args.service,
    variables: { ...kept, ...asked },
  });
  const missing = await missingSecrets(daemon, Object.values(variables));
  for (const secret of missing) {
    const label = nameToType(secret, settings);
    terminal.warn(`there is no secret ${label} yet`, `store it with: leger secrets set ${label}`);
  }
  terminal.say(`service ${name}: ${count(Object.keys(variables).length, "variable")}`);
  if (args.json === true) await terminal.json({ name, variables, missing });
}

/** VARIABLE=SECRET or SECRET, each once. Messages count arguments instead of quoting them: one may be a value. */
function parseVariables(items: readonly string[], namespace: string): Record<string, string> {
  const variables = new Map<string, string>();
  for (const [at, item] of items.entries()) {
    const equals = item.indexOf("=");
    const secret = fullName(item.slice(equals + 1), namespace);
    const variable = equals < 0 ? variableFor(secret) : item.slice(0, equals);
    if (!VARIABLE.test(variable)) {
      throw new LegerError("USAGE", `variable ${at + 1}: this is no name for a variable`, {
        hints: ["letters, digits and _, no digit at the start: OPENAI_API_KEY=openai_api_key"],
      });
    }
    if (variables.has(variable)) {
      throw new LegerError("USAGE", `variable ${at + 1}: the same variable is there twice`);
    }
    variables.set(variable, secret);
  }
  return Object.fromEntries(variables);
}

const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;

function variableFor(secret: string): string {
  return secret
    .slice(secret.lastIndexOf("/") + 1)
    .replaceAll(/[^A-Za-z0-9]/g, "_")
    .toUpperCase();
}

function assertServiceName(service: string): void {
  if (isServiceName(service)) return;
  throw new LegerError("USAGE", "this is not a name for a service", {
    hints: [`${SERVICE_NAME_RULE}: leger services set openwebui …`],
  });
}

async function variablesOf(daemon: Daemon, service: string): Promise<Record<string, string>> {
  try {
    return (await daemon.service(service)).variables;
  } catch (error) {
    if (error instanceof LegerError && error.code === "SERVICE_NOT_FOUND") return {};
    throw error;
  }
}

async function missingSecrets(daemon: Daemon, secrets: readonly string[]): Promise<string[]> {
  const known = new Set((await daemon.secrets.list()).map(({ Name }) => Name));
  return [...new Set(secrets)].filter((secret) => !known.has(secret));
}

async function show(
  { settings, terminal }: Cli,
  daemon: Daemon,
  args: Reporting & { service: string },
): Promise<void> {
  const { name, variables } = await daemon.service(args.service);
  const missing = await missingSecrets(daemon, Object.values(variables));
  if (args.json === true) {
    await terminal.json({ name, variables, missing });
    return;
  }
  const rows = Object.entries(variables).map(([variable, secret]) => [
    variable,
    shortName(secret, settings.namespace),
    missing.includes(secret) ? "missing" : "",
  ]);
  await terminal.table(["VARIABLE", "SECRET", ""], rows);
}

async function list({ terminal }: Cli, daemon: Daemon, { json }: Reporting): Promise<void> {
  const services = await daemon.services();
  if (json === true) {
    await terminal.json({ services });
    return;
  }
  if (services.length === 0) {
    terminal.say("no services yet; define one with: leger services set SERVICE VARIABLE=SECRET …");
    return;
  }
  const rows = services.map(({ name, variables }) => [name, Object.keys(variables).join(" ")]);
  await terminal.table(["SERVICE", "VARIABLES"], rows);
}

type RemoveArgs = Reporting & { service: string; yes?: boolean | undefined };

async function remove(cli: Cli, daemon: Daemon, args: RemoveArgs): Promise<void> {
  const { name } = await daemon.service(args.service);
  await assureDeletion(cli, `delete the definition of ${name}`, args);
  await daemon.deleteService(name);
  cli.terminal.say(`service ${name}: deleted`);
  if (args.json === true) await cli.terminal.json({ name, deleted: true });
}
