/** explain — the command that says whether a service can be started with its credentials, and if not, why. */
import { lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { Argv } from "yargs";
import { LegerError } from "../core/error.ts";
import { runtimePlaces } from "../core/paths.ts";
import { credentialFile, credentialSet, CREDENTIALS } from "../core/service.ts";
import { readUnit, searchPath } from "../render/source.ts";
import type { Heading } from "./commands.ts";
import type { Daemon, ServedService } from "./daemon.ts";
import { nameToType, shortName } from "./names.ts";
import type { Cli, Parsing } from "./parsing.ts";
import { placesOf } from "./quadlet-places.ts";
import type { Settings, SettingsFlags } from "./settings.ts";
import type { CliWorld } from "./world.ts";

export function addExplain(
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
          words: "explain",
          examples: [
            ["leger explain openwebui", "its sockets, its secrets, who uses it, what to do"],
            ["leger explain openwebui --json", "for programs"],
          ],
          notes: [
            "systemd fails a unit whose socket is missing: status 243/CREDENTIALS.",
            'A service is one of "leger services list". Who uses it is looked for in your quadlets.',
            "Exit status 2 when something is missing that is used, or may be.",
          ],
        })
        .positional("service", { type: "string", demandOption: true, describe: "the service" })
        .option("json", { type: "boolean", describe: "report as JSON on standard output" }),
    (args) => parsing.chooseWithDaemon((cli, daemon) => explain(cli, daemon, args)),
  );
}

async function explain(
  { world, settings, terminal }: Cli,
  daemon: Daemon,
  { service, json }: { service: string; json?: boolean | undefined },
): Promise<number> {
  const { name, variables } = await daemon.service(service);
  const served = await daemon.credentials(name);
  const users = usersOf(world, name);
  const problems = problemsOf(world, served, settings);
  const isServed = canServe(served, users) && problems.every(({ kind }) => !ASTRAY.has(kind));
  const status = isServed ? 0 : new LegerError("DIFFERENT", "").exitStatus;
  const { set, files } = served;
  if (json === true) {
    await terminal.json({ name, served: isServed, set, files, variables, used_by: users, problems });
    return status;
  }
  await terminal.line(`service    ${name}`);
  await terminal.line(`set        ${stateOf(set)}`);
  await terminal.line(`files      ${stateOf(files)}`);
  const using = users.map(({ file, how }) => `${file} (${how})`);
  await terminal.line(`used by    ${using.length === 0 ? "none of your quadlets" : using.join(", ")}`);
  await terminal.line("");
  const rows = Object.entries(variables).map(([variable, secret]) => [
    variable,
    shortName(secret, settings.namespace),
    STATES.get(problems.find((problem) => problem.variable === variable)?.kind ?? "") ?? "",
  ]);
  await terminal.table(["VARIABLE", "SECRET", ""], rows);
  if (problems.length > 0) await terminal.line("");
  for (const { what, hints } of problems) {
    await terminal.line(what);
    for (const hint of hints) await terminal.line(`  -> ${hint}`);
  }
  return status;
}

function stateOf({ there, path }: ServedService["set"]): string {
  return path === undefined
    ? "legerd has no credential sockets"
    : `${path}: ${there ? "there" : "not there"}`;
}

const STATES: ReadonlyMap<string, string> = new Map([
  ["missing", "missing"],
  ["empty", "empty"],
  ["unfit", "not for an env file"],
]);

/** legerd gives it, and no unit would get it. */
const ASTRAY: ReadonlySet<string> = new Set(["removed", "elsewhere"]);

type ServiceUser = {
  /** The quadlet, or the drop-in of one. */
  file: string;
  how: "set" | "files" | "env file";
};

/** Quadlets, and drop-ins of theirs, that ask for a service's secrets; none where they cannot be read. */
export function usersOf(world: CliWorld, service: string): ServiceUser[] {
  const signs: [string, ServiceUser["how"]][] = [
    [`/${CREDENTIALS}/${credentialSet(service)}`, "set"],
    [`/${CREDENTIALS}/${credentialFile(service, "")}`, "files"],
    [`secrets fetch ${service}`, "env file"],
    [`/v1/services/${encodeURIComponent(service).replaceAll("%", "%%")}/env`, "env file"],
  ];
  return quadletFiles(world).flatMap((file) => {
    const lines = linesOf(file);
    const found = signs.filter(([sign]) => lines.some((line) => holds(line, sign)));
    return [...new Set(found.map(([, how]) => how))].map((how) => ({ file, how }));
  });
}

/** Whether all is there that somebody asks for. Where nobody is known to, it could be anything. */
export function canServe({ set, files }: ServedService, users: readonly ServiceUser[]): boolean {
  if (set.there) return true;
  return files.there && users.length > 0 && users.every(({ how }) => how === "files");
}

/** What is in the way, with what to type. */
function problemsOf(world: CliWorld, served: ServedService, settings: Settings): ServedService["problems"] {
  const problems = served.problems.map((problem) => {
    const { kind, secret } = problem;
    if (secret === undefined || (kind !== "missing" && kind !== "empty")) return problem;
    const activate = kind === "empty" ? " --activate" : "";
    return { ...problem, hints: [`leger secrets set ${nameToType(secret, settings)}${activate}`] };
  });
  const { set } = served;
  const expected = join(runtimePlaces(world).directory, CREDENTIALS, credentialSet(served.name));
  if (set.path !== undefined && set.path !== expected) {
    const what = `units look for it at ${expected}, and legerd has it at ${set.path}`;
    const hint = `let ${runtimePlaces(world).socket} be legerd's first door without grants`;
    return [...problems, { kind: "elsewhere", what, hints: [hint] }];
  }
  if (!set.there || set.path === undefined || isSocket(set.path)) return problems;
  const what = `${set.path} was removed by somebody`;
  return [...problems, { kind: "removed", what, hints: ["restart legerd, which makes it anew"] }];
}

function isSocket(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true;
}

function quadletFiles(world: CliWorld): string[] {
  return searchPath(placesOf(world)).flatMap((directory) =>
    namesIn(directory).flatMap((name) => {
      if (name.endsWith(".container")) return [join(directory, name)];
      if (!name.endsWith(".container.d")) return [];
      const dropins = join(directory, name);
      return namesIn(dropins)
        .filter((dropin) => dropin.endsWith(".conf"))
        .map((dropin) => join(dropins, dropin));
    }),
  );
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory).toSorted();
  } catch {
    return [];
  }
}

function linesOf(file: string): string[] {
  try {
    return readUnit(file)
      .toString("latin1")
      .split("\n")
      .filter((line) => !/^\s*[#;]/.test(line));
  } catch {
    return [];
  }
}

/** A sign that ends in a name isn't one where the name goes on. */
function holds(line: string, sign: string): boolean {
  const at = line.indexOf(sign);
  return at >= 0 && (sign.endsWith("/") || !/[\w.@-]/.test(line.charAt(at + sign.length)));
}
