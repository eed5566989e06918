/** main — one run of the command line, from arguments to exit status. */
import yargs, { type Argv } from "yargs";
import { BUILD } from "../core/build.ts";
import { exitStatusOf, LegerError } from "../core/error.ts";
import { versionLine } from "../core/version.ts";
import { addAudit } from "./audit.ts";
import { addDoor } from "./door.ts";
import { addDoctor } from "./doctor.ts";
import { addExplain } from "./explain.ts";
import { Parsing } from "./parsing.ts";
import { addPodman } from "./podman.ts";
import { addRender } from "./render.ts";
import { addResidue } from "./residue.ts";
import { addDriver, addSecrets } from "./secrets.ts";
import { addServices } from "./services.ts";
import { settingsOf, type SettingsFlags } from "./settings.ts";
import { addStatus } from "./status.ts";
import { addToken } from "./token.ts";
import { Interrupted, ReaderGone, Terminal } from "./terminal.ts";
import type { CliWorld } from "./world.ts";

export type { CliWorld } from "./world.ts";

/** The exit status of a program that Ctrl-C ended, as shells count it. */
const INTERRUPTED_STATUS = 130;

/** In columns: help in longer lines is hard to read. */
const WIDEST = 90;

/** Runs one command, without the program's own name in `argv`. Resolves with the exit status; never rejects. */
export async function runCli(argv: readonly string[], world: CliWorld): Promise<number> {
  const terminal = new Terminal(world);
  try {
    return await perform(argv, world, terminal);
  } catch (error) {
    if (error instanceof ReaderGone) return 0;
    if (error instanceof Interrupted) {
      terminal.say("interrupted; nothing was changed");
      return INTERRUPTED_STATUS;
    }
    terminal.fail(error);
    return exitStatusOf(error);
  }
}

async function perform(argv: readonly string[], world: CliWorld, terminal: Terminal): Promise<number> {
  const [first, ...rest] = argv;
  if (first === "--version" && rest.length === 0) {
    await terminal.line(versionLine("leger"));
    return 0;
  }
  const { parsing, flags, help } = parse(first === "help" ? [...rest, "--help"] : argv, world);
  if (help !== "") {
    await terminal.write(`${help}\n`);
    return 0;
  }
  const { action = neverChosen(parsing) } = parsing;
  const status = await action({ world, terminal, settings: settingsOf(world, flags) });
  return status ?? 0;
}

type Parsed = { parsing: Parsing; flags: SettingsFlags; help: string };

function parse(argv: readonly string[], world: CliWorld): Parsed {
  const parsing = new Parsing(argv);
  const parsed: Parsed = { parsing, flags: {}, help: "" };
  const root = yargs([], world.cwd)
    .scriptName("leger")
    .usage("leger: every key once, encrypted and versioned, read live by podman and systemd")
    .parserConfiguration({
      "dot-notation": false,
      "boolean-negation": false,
      "short-option-groups": false,
      "greedy-arrays": false,
      "parse-numbers": false,
      "parse-positional-numbers": false,
    })
    .detectLocale(false)
    .wrap(Math.min(world.columns ?? WIDEST, WIDEST))
    .exitProcess(false)
    .version(false)
    .help("help")
    .alias("help", "h")
    .strict()
    .recommendCommands()
    .demandCommand(1, "Not enough non-option arguments")
    .check(refuseRepeated)
    .fail((message, error) => {
      throw error instanceof LegerError ? error : parsing.failure(message ?? "");
    });
  const all = addCommands(root, parsing);

  // No handler is asynchronous, so this has all happened when it returns.
  void all.parse([...argv], {}, (error: Error | undefined, args: SettingsFlags, output: string) => {
    if (error !== undefined && error !== null) throw error;
    parsed.flags = { namespace: args.namespace, socket: args.socket };
    parsed.help = output;
  });
  return parsed;
}

/** Every option and every command of leger's; the manual and the shells' completions are made from them, too. */
export function addCommands(root: Argv, parsing: Parsing): Argv<SettingsFlags> {
  const withOptions = root
    .option("namespace", {
      type: "string",
      requiresArg: true,
      describe: "what short names belong to (LEGER_NAMESPACE, config.json; else: local)",
    })
    .option("socket", {
      type: "string",
      requiresArg: true,
      describe: "where legerd listens (LEGER_SOCKET; else: in the runtime directory)",
    })
    .option("version", { type: "boolean", global: false, describe: "Print leger's version" });
  const described = parsing.describe(withOptions, {
    words: "",
    examples: [
      ["leger secrets set openai_api_key", "store a key; its value is asked for"],
      ["leger services set openwebui OPENAI_API_KEY=openai_api_key", "say what a service gets"],
      ["leger podman sync", "let podman read them live"],
      ["leger doctor", "is all well?"],
    ],
    notes: [
      "Exit status: 0 done, 1 failed, 2 differences or faults found, 64 usage, 65 bad data,",
      "66 no such secret, 69 legerd unreachable, 70 a bug, 74 input/output, 77 denied,",
      "78 configuration.",
    ],
  });
  const secrets = addSecrets(described, parsing);
  const services = addExplain(addServices(secrets, parsing), parsing);
  const podman = addRender(addPodman(addToken(addDoor(services, parsing), parsing), parsing), parsing);
  const looking = addResidue(addAudit(podman, parsing), parsing);
  const status = addDoctor(addStatus(looking, parsing), parsing);
  return addDriver(status, parsing).command(
    "version",
    "print leger's version",
    (command) =>
      parsing
        .describe(command, { words: "version", examples: [["leger version --json", "for programs"]] })
        .option("json", { type: "boolean", describe: "as JSON" }),
    ({ json }) =>
      parsing.choose(async ({ world, terminal }) => {
        if (json === true) {
          const { commit = null, bun = null } = BUILD ?? {};
          await terminal.json({ version: world.version, commit, node: process.versions.node, bun });
        } else await terminal.line(versionLine("leger"));
      }),
  );
}

/** Behind `--` nothing is a command. */
function neverChosen(parsing: Parsing): never {
  throw parsing.failure("Not enough non-option arguments");
}

/** yargs makes an array of an option that is given twice. */
function refuseRepeated(args: Readonly<Record<string, unknown>>): true {
  for (const [name, value] of Object.entries(args)) {
    if (Array.isArray(value) && name !== "_" && !REPEATABLE.has(name)) {
      throw new LegerError("USAGE", `--${name} is given more than once`, {
        hints: ["leave out all but one"],
      });
    }
  }
  return true;
}

const REPEATABLE: ReadonlySet<string> = new Set([
  "grant",
  "map",
  "paths",
  "route",
  "podman-arg",
  "podmanArg",
  "quadlets",
  "variables",
]);
