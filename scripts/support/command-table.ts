/** command-table — all commands as data: from the declarations that yargs is given, and from help that is a text. */
import { fileURLToPath } from "node:url";
import yargs, { type Argv } from "yargs";
import { hotCommand } from "../../src/cli/hot.ts";
import { addCommands, loadCommands } from "../../src/cli/commands.ts";
import { Parsing } from "../../src/cli/parsing.ts";
import { run } from "../../src/core/exec.ts";
import { readHelp, type Help } from "./help-text.ts";
import { valueOf, type Completes } from "./values.ts";

export type Command = {
  /** From the program's name on: ["leger", "secrets", "set"]. */
  words: readonly string[];
  /** Other names of its last word. */
  aliases: readonly string[];
  summary: string;
  positionals: readonly Positional[];
  options: readonly Option[];
  /** Whether the global options of the commands above go for it. */
  inherits: boolean;
  /** Command lines, and what they do. */
  examples: readonly (readonly [line: string, does: string])[];
  notes: readonly string[];
  commands: readonly Command[];
};

type Positional = {
  name: string;
  required: boolean;
  repeated: boolean;
  summary: string;
  completes: Completes;
};

export type Option = {
  name: string;
  /** A letter. */
  short: string | undefined;
  /** What its value is called; undefined where it takes none. */
  value: string | undefined;
  completes: Completes;
  choices: readonly string[];
  repeated: boolean;
  default: string | undefined;
  global: boolean;
  summary: string;
};

/** leger, and below it all its commands in the order in which help shows them. */
export async function legerTable(): Promise<Command> {
  const parsing = new RecordingParsing([]);
  const commands = await loadCommands();
  const table = record({ above: [], usage: "leger", summary: "" }, parsing, (argv) =>
    addCommands(argv, commands, parsing),
  );
  return withHotCommands(table);
}

/** legerd and its commands. */
export async function legerdTable(): Promise<Command> {
  const entry = fileURLToPath(new URL("../../src/bin/legerd.ts", import.meta.url));
  const { stdout } = await run(process.execPath, [entry, "--help"], {
    env: { PATH: process.env["PATH"] },
    timeoutMs: HELP_TIMEOUT_MS,
    check: true,
  });
  return fromHelp(readHelp(Buffer.from(stdout).toString()), ["legerd"]);
}

/** A command and all below it. */
export function allBelow(command: Command): Command[] {
  return [command, ...command.commands.flatMap(allBelow)];
}

const HELP_TIMEOUT_MS = 60_000;

type Description = Parameters<Parsing["describe"]>[1];

/** Keeps what a command says of itself beside what yargs is told. */
class RecordingParsing extends Parsing {
  readonly descriptions = new Map<unknown, Description>();

  override describe<T>(command: Argv<T>, description: Description): Argv<T> {
    this.descriptions.set(command, description);
    return command;
  }
}

/** `usage`: the command's last word and its arguments, as in "activate <name> <number>". */
type Heading = { above: readonly string[]; usage: string; summary: string };

function record(
  { above, usage, summary }: Heading,
  parsing: RecordingParsing,
  build: (argv: Argv) => unknown,
): Command {
  const [word = "", ...arguments_] = usage.split(" ");
  const words = [...above, word];
  const options: Option[] = [];
  const commands: Command[] = [];
  const described = new Map<string, string>();
  const argv = yargs([]);
  Object.assign(argv, {
    option(name: string, declared: Declared) {
      options.push(optionOf(name, declared, words));
      return argv;
    },
    positional(name: string, { describe = "" }: Declared) {
      described.set(name, describe);
      return argv;
    },
    command(usages: string | readonly string[], about: string, below: (argv: Argv) => unknown) {
      const [first = "", ...others] = [usages].flat();
      const aliases = others.map((other) => other.split(" ")[0] ?? "");
      const command = record({ above: words, usage: first, summary: about }, parsing, below);
      commands.push({ ...command, aliases });
      return argv;
    },
  });
  build(argv);
  const { examples = [], notes = [] } = parsing.descriptions.get(argv) ?? {};
  return {
    words,
    aliases: [],
    summary,
    positionals: arguments_.map((text) => positionalOf(text, words, described)),
    options: sorted([...options, helpOf(words)]),
    inherits: true,
    examples,
    notes,
    commands,
  };
}

/** What we use of yargs' option and positional. */
type Declared = {
  type?: string;
  alias?: string;
  array?: boolean;
  choices?: readonly string[];
  default?: string;
  global?: boolean;
  describe?: string;
};

function optionOf(name: string, declared: Declared, words: readonly string[]): Option {
  const { type = "string", alias, array = false, choices = [], global = true, describe = "" } = declared;
  const { shows, completes } = valueOf(name, words);
  return {
    name,
    short: alias?.length === 1 ? alias : undefined,
    value: type === "boolean" ? undefined : shows,
    completes,
    choices,
    repeated: array,
    default: declared.default,
    global,
    summary: describe,
  };
}

function helpOf(words: readonly string[]): Option {
  return optionOf("help", { type: "boolean", alias: "h", global: false, describe: "show help" }, words);
}

function positionalOf(
  text: string,
  words: readonly string[],
  described: ReadonlyMap<string, string>,
): Positional {
  const [, open, name = "", repeats = ""] = /^([<[])(.*?)(\.\.)?[>\]]$/.exec(text) ?? [];
  return {
    name,
    required: open === "<",
    repeated: repeats !== "",
    summary: described.get(name) ?? "",
    completes: valueOf(name, words).completes,
  };
}

/** Podman and units call these; they have no yargs, and the text that they print for --help is what holds. */
async function withHotCommands(table: Command): Promise<Command> {
  const commands = await Promise.all(
    table.commands.map(async (command) => {
      const help = await hotHelp(command.words);
      if (help !== undefined) {
        const { aliases, summary } = command;
        return { ...fromHelp(help, command.words), aliases, summary };
      }
      return command.commands.length === 0 ? command : withHotCommands(command);
    }),
  );
  return { ...table, commands };
}

async function hotHelp(words: readonly string[]): Promise<Help | undefined> {
  const command = hotCommand([...words.slice(1), "--help"]);
  if (command === undefined) return undefined;
  const printed: Uint8Array[] = [];
  const none = (): never => {
    throw new Error(`${words.join(" ")} --help did more than print`);
  };
  await command({
    env: {},
    euid: 0,
    uidMap: undefined,
    wireTo: none,
    stdin: none,
    files: { lstat: none, fstat: none, readText: none },
    remainingMs: none,
    print: async (bytes) => void printed.push(bytes),
  });
  return readHelp(Buffer.concat(printed).toString());
}

function fromHelp(help: Help, words: readonly string[]): Command {
  const listed = help.options.map(({ name, short, value, text }) => ({
    ...optionOf(name, { describe: text, global: false }, words),
    short,
    value,
    choices: choicesIn(text, value),
  }));
  const options = listed.map((option) => {
    if (option.name === "help") return helpOf(words);
    return option.name === "version" ? { ...option, summary: "print the version" } : option;
  });
  const forms = help.usages.map(({ line, does }) => {
    const parts = line.split(" ");
    const rest = parts.findIndex((part) => !/^[a-z][a-z-]*$/.test(part));
    const named = rest < 0 ? parts : parts.slice(0, rest);
    const mentioned = new Set([...line.matchAll(/--([a-z-]+)/g)].map(([, name = ""]) => name));
    const own = options.filter(
      ({ name }) => mentioned.size === 0 || mentioned.has(name) || name === "help" || name === "version",
    );
    // Behind an option it is that option's value.
    const takes = parts.filter(
      (part, at) => rest >= 0 && at >= rest && /^[A-Z]+$/.test(part) && !/^\[?--/.test(parts[at - 1] ?? ""),
    );
    return { named, does, own, takes };
  });
  const own = forms.find(({ named }) => named.join(" ") === words.join(" "));
  const below = forms.filter(({ named }) => named.length > words.length);
  const commandOf = (named: readonly string[], form: (typeof forms)[number] | undefined): Command => ({
    words: named,
    aliases: [],
    summary: form?.does ?? "",
    positionals: (form?.takes ?? []).map((take) => positionalOf(`<${take.toLowerCase()}>`, named, new Map())),
    options: sorted(form?.own ?? options),
    inherits: false,
    examples: [],
    notes: [],
    commands: [],
  });
  return {
    ...commandOf(words, own),
    summary: help.summary,
    examples: help.examples.map((line) => [line, ""] as const),
    notes: help.notes,
    commands: below.map((form) => commandOf(form.named, form)),
  };
}

/** "podman: for these; systemd: for those" lists what a NAME can be. */
function choicesIn(text: string, value: string | undefined): string[] {
  return value === "name" ? [...text.matchAll(/(?:^|; )([a-z]+):/g)].map(([, choice = ""]) => choice) : [];
}

function sorted(options: readonly Option[]): Option[] {
  return options.toSorted(({ name: one }, { name: other }) => (one < other ? -1 : Number(one > other)));
}
