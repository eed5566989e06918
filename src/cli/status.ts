/** status — the command that says whether legerd is there, and where everything lies. */
import type { Argv } from "yargs";
import { LegerError } from "../core/error.ts";
import type { Heading } from "./commands.ts";
import { connect, type DaemonStatus } from "./daemon.ts";
import type { Cli, Parsing } from "./parsing.ts";
import type { SettingsFlags } from "./settings.ts";

export function addStatus(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(
    usage,
    about,
    (command) =>
      parsing
        .describe(command, {
          words: "status",
          examples: [
            ["leger status", "for people"],
            ["leger status --json", "for programs"],
          ],
          notes: ["Exit status 69 when legerd cannot be reached."],
        })
        .option("json", { type: "boolean", describe: "report as JSON on standard output" }),
    ({ json }) => parsing.choose((cli) => status(cli, json)),
  );
}

async function status({ world, settings, terminal }: Cli, json = false): Promise<void> {
  const here = {
    socket: settings.socket,
    namespace: settings.namespace,
    config: settings.configFile ?? null,
  };
  try {
    await using daemon = connect(world, settings);
    const { version, ...facts } = await daemon.status();
    if (json) {
      await terminal.json({ reachable: true, ...here, client_version: world.version, version, ...facts });
      return;
    }
    const lines = [
      ["legerd", `${version}, process ${facts.pid}, since ${facts.started_at}`],
      ["secrets", String(facts.secrets)],
      ["services", String(facts.services)],
      ["podman", `${facts.podman_entries} ${facts.podman_entries === 1 ? "entry" : "entries"}`],
      ["socket", here.socket],
      ["namespace", here.namespace],
      ["state", facts.state_dir],
      ["main key", facts.main_key],
      ["audit log", facts.audit_log],
      ["verified", verified(facts.verification)],
      ["backup", facts.last_backup?.made_at ?? "never"],
      ["config", here.config ?? "nowhere: neither XDG_CONFIG_HOME nor HOME is set"],
    ] as const;
    for (const [what, is] of lines) await terminal.line(`${what.padEnd(10)} ${is}`);
    if (version !== world.version) terminal.warn(`this leger is ${world.version}, legerd is ${version}`);
  } catch (error) {
    if (json && error instanceof LegerError) {
      await terminal.json({ reachable: false, ...here, client_version: world.version });
    }
    throw error;
  }
}

/** How far legerd is with reading its store through. */
function verified(verification: DaemonStatus["verification"]): string {
  if (verification === undefined) return "this legerd does not say";
  const { state, at, problems = [], reason } = verification;
  switch (state) {
    case "waiting":
      return "not yet: it begins soon after the start";
    case "running":
      return "under way";
    case "whole":
      return `every row, at ${at ?? "a time that it did not say"}`;
    case "damaged":
      return `DAMAGED, problems: ${problems.length}: ${problems[0] ?? ""}; see: legerd check`;
    default:
      return `not done: ${reason ?? state}`;
  }
}
