/** main — one run of the command line, from arguments to exit status. */
import yargs from "yargs";
import { exitStatusOf, LegerError } from "../core/error.ts";
import { versionLine } from "../core/version.ts";
import { addCommands, loadCommands } from "./commands.ts";
import { Parsing } from "./parsing.ts";
import { settingsOf, type SettingsFlags } from "./settings.ts";
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
  const { parsing, flags, help } = await parse(first === "help" ? [...rest, "--help"] : argv, world);
  if (help !== "") {
    await terminal.write(`${help}\n`);
    return 0;
  }
  const { action = neverChosen(parsing) } = parsing;
  const status = await action({ world, terminal, settings: await settingsOf(world, flags) });
  return status ?? 0;
}

type Parsed = { parsing: Parsing; flags: SettingsFlags; help: string };

async function parse(argv: readonly string[], world: CliWorld): Promise<Parsed> {
  const parsing = new Parsing(argv, world.program);
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
  const all = addCommands(root, await loadCommands(argv), parsing);

  // No handler is asynchronous, so this has all happened when it returns.
  void all.parse([...argv], {}, (error: Error | undefined, args: SettingsFlags, output: string) => {
    if (error !== undefined && error !== null) throw error;
    parsed.flags = { namespace: args.namespace, socket: args.socket };
    parsed.help = output;
  });
  return parsed;
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
