/** parsing — what the command groups share with yargs, and yargs' own failures in leger's words. */
import type { Argv } from "yargs";
import { LegerError } from "../core/error.ts";
import type { Daemon } from "./daemon.ts";
import { INSTALLED_LEGER } from "./driver-commands.ts";
import type { Settings } from "./settings.ts";
import type { Terminal } from "./terminal.ts";
import type { CliWorld } from "./world.ts";

/** What a command works with once its arguments are known to be good. */
export type Cli = { world: CliWorld; settings: Settings; terminal: Terminal };

/** Its result is the exit status; nothing is 0. */
export type Action = (cli: Cli) => Promise<number | void>;

type Description = {
  /** The words of the command, "secrets set". */
  words: string;
  /** A command line and what it does. */
  examples: readonly (readonly [string, string])[];
  /** More than a line says. */
  notes?: readonly string[];
};

/** One pass over the arguments: yargs finds the command, which says what is to be done; nothing is done yet. */
export class Parsing {
  /** The command that yargs has come to, for messages. */
  words = "";
  action: Action | undefined;
  /** Where Podman and units find leger, if nobody says otherwise. */
  readonly program: string;
  readonly #argv: readonly string[];

  constructor(argv: readonly string[], program: string = INSTALLED_LEGER) {
    this.#argv = argv;
    this.program = program;
  }

  choose(action: Action): void {
    this.action = action;
  }

  /** Does something with a daemon, whose connections are closed afterwards. */
  chooseWithDaemon(
    action: (cli: Cli, daemon: Daemon) => Promise<number | void>,
    options: { manyRequests?: boolean } = {},
  ): void {
    this.choose(async (cli) => {
      // Loaded when it is needed: node:net takes longer than all that help needs.
      const { connect } = await import("./daemon.ts");
      await using daemon = connect(cli.world, cli.settings, options);
      // `await`, or the connections would be closed first.
      return await action(cli, daemon);
    });
  }

  describe<T>(command: Argv<T>, { words, examples, notes = [] }: Description): Argv<T> {
    this.words = words;
    // yargs' own example() would break command lines in two.
    const lines = examples.map(([line, does]) => `  ${line}\n      ${does}`);
    return command.epilogue(
      [...(lines.length === 0 ? [] : ["Examples:", ...lines, ""]), ...notes].join("\n"),
    );
  }

  /**
   * USAGE for what yargs says. Its text is read, never shown: it quotes what was typed, which may be a value.
   */
  failure(message: string): LegerError {
    const help = `see: ${["leger", this.words, "--help"].filter((word) => word !== "").join(" ")}`;
    const usage = (what: string, ...hints: string[]): LegerError =>
      new LegerError("USAGE", this.words === "" ? what : `${this.words}: ${what}`, {
        hints: [...hints, help],
      });

    const meant = /^Did you mean ([a-z-]+)\?/.exec(message)?.[1];
    if (meant !== undefined) return usage(`no such command; did you mean "${meant}"?`);
    const lacking = /^Missing required arguments?: ([\w-]+)/.exec(message)?.[1];
    if (lacking !== undefined) return usage(`--${lacking} is missing`);
    const bare = /^Not enough arguments following: ([\w-]+)/.exec(message)?.[1];
    if (bare !== undefined && isWord(bare)) return usage(`--${bare} needs a value after it`);
    const exclusive = /^Arguments ([\w-]+) and ([\w-]+) are mutually exclusive/.exec(message);
    if (exclusive !== null) return usage(`--${exclusive[1]} and --${exclusive[2]} exclude each other`);
    const choices = /Choices: (.*)$/s.exec(message)?.[1];
    if (choices !== undefined) return usage(`not one of the choices: ${choices.replaceAll('"', "").trim()}`);
    if (message.startsWith("Not enough non-option arguments")) {
      return usage(GROUPS.has(this.words) ? "which command?" : "an argument is missing");
    }
    if (GROUPS.has(this.words)) {
      const group = this.words === "" ? LEFT_OUT.get(this.#argv[0] ?? "") : undefined;
      return usage(
        group === undefined ? "no such command" : `no such command; did you mean "leger ${group}"?`,
      );
    }
    const option = this.#unknownOption(message);
    if (option !== undefined) return usage(`unknown option --${option}`);
    if (this.words === "secrets set") {
      return usage(
        "too many arguments",
        "a value is never given as an argument: it comes from a prompt, a pipe or --file FILE",
        "if it was a real key, replace it at its provider: it is in your shell's history now",
      );
    }
    return usage("too many arguments, or an unknown option");
  }

  /** The option that yargs complains of, where it can be nothing but a word. */
  #unknownOption(message: string): string | undefined {
    const listed = /^Unknown arguments?: (.*)$/s.exec(message)?.[1]?.split(", ") ?? [];
    return listed.find(
      (word) =>
        isWord(word) && this.#argv.some((typed) => typed === `--${word}` || typed.startsWith(`--${word}=`)),
    );
  }
}

/** Commands that only have commands below them. */
const GROUPS: ReadonlySet<string> = new Set(["", "secrets", "services", "podman", "driver", "door", "token"]);

/** Commands that people look for at the top. */
const LEFT_OUT: ReadonlyMap<string, string> = new Map([
  ...["set", "get", "list", "info", "versions", "activate", "delete", "fetch"].map(
    (word) => [word, `secrets ${word}`] as const,
  ),
  ["ls", "secrets list"],
  ["sync", "podman sync"],
  ["install", "podman install"],
  ["uninstall", "podman uninstall"],
]);

/** Letters and hyphens, and short: no key is. */
function isWord(text: string): boolean {
  return /^[a-z]+(-[a-z]+)*$/.test(text) && text.length <= 20;
}

/** What every command that reports takes. */
export const JSON_OPTION = { type: "boolean", describe: "report as JSON on standard output" } as const;

/** A version number as typed. USAGE for anything but 1 … 4294967295. */
export function versionNumber(text: string): number {
  const version = /^\d{1,10}$/.test(text) ? Number(text) : 0;
  if (version >= 1 && version <= 4_294_967_295) return version;
  throw new LegerError("USAGE", "a version is a number from 1", {
    hints: ["see which there are with: leger secrets versions NAME"],
  });
}
