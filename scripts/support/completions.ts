/** completions — what bash, zsh and fish offer at TAB: the tables of commands, put into the scripts of packaging/completions. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { allBelow, legerdTable, legerTable, type Command, type Option } from "./command-table.ts";

/** A script with the name under which its shell looks for it. */
export type CompletionScript = { shell: Shell; file: string; text: string };

type Shell = "bash" | "zsh" | "fish";

/** One for each shell and program. */
export async function completionScripts(): Promise<CompletionScript[]> {
  const tables = [await legerTable(), await legerdTable()];
  return tables.flatMap((table) => {
    const [program = ""] = table.words;
    const places = placesOf(table);
    return [
      { shell: "bash", file: program, text: fill("bash", program, places.map(bashRow)) },
      { shell: "zsh", file: `_${program}`, text: fill("zsh", program, places.map(zshRow)) },
      { shell: "fish", file: `${program}.fish`, text: fill("fish", program, places.map(fishRow)) },
    ] as const;
  });
}

/** What may stand behind these words. */
type Place = {
  /** As they may be typed, the program's name left out: an alias is one more. */
  typed: readonly string[];
  commands: readonly Offer[];
  options: readonly (Offer & { kind: string | undefined })[];
  /** The kinds of its arguments; the last may end in * for any number. */
  takes: readonly string[];
};

type Offer = { word: string; summary: string };

function placesOf(program: Command): Place[] {
  const global = program.options.filter((option) => option.global);
  return allBelow(program).map(({ words, aliases, commands, options, inherits, positionals }) => {
    const group = words.slice(1, -1);
    const last = words.length === 1 ? [""] : [words.at(-1) ?? "", ...aliases];
    const own = new Set(options.map(({ name }) => name));
    const inherited = inherits ? global.filter(({ name }) => !own.has(name)) : [];
    return {
      typed: last.map((word) => [...group, word].join(" ")),
      commands: commands.map(({ words: below, summary }) => ({ word: below.at(-1) ?? "", summary })),
      options: [...options, ...inherited].map((option) => ({
        word: `--${option.name}`,
        summary: option.summary,
        kind: kindOf(option),
      })),
      takes: positionals.map(({ completes, repeated }) => `${completes}${repeated ? "*" : ""}`),
    };
  });
}

/** The choices themselves, where it has them. */
function kindOf({ value, choices, completes }: Option): string | undefined {
  if (value === undefined) return undefined;
  // A comma even behind a single one: that is how the scripts tell them from a kind.
  return choices.length > 0 ? `${choices.join(",")}${choices.length === 1 ? "," : ""}` : completes;
}

function fill(shell: Shell, program: string, rows: readonly string[]): string {
  const template = readFileSync(
    fileURLToPath(new URL(`../../packaging/completions/${shell}`, import.meta.url)),
    "utf8",
  );
  return template.replaceAll("@PROGRAM@", program).replace("@TABLE@", () => rows.join("\n"));
}

function bashRow({ typed, commands, options, takes }: Place): string {
  return [
    `    ${typed.map(quoted).join(" | ")})`,
    `      commands=${quoted(commands.map(({ word }) => word).join(" "))}`,
    `      options=${quoted(options.map(({ word, kind }) => (kind === undefined ? word : `${word}=${kind}`)).join(" "))}`,
    `      takes=${quoted(takes.join(" "))}`,
    "      ;;",
  ].join("\n");
}

function zshRow({ typed, commands, options, takes }: Place): string {
  const described = (offers: readonly Offer[]): string =>
    offers.map(({ word, summary }) => quoted(`${word}:${brief(summary)}`)).join(" ");
  const kinds = options.flatMap(({ word, kind }) => (kind === undefined ? [] : [word, kind]));
  return [
    `    ${typed.map(quoted).join(" | ")})`,
    `      commands_=(${described(commands)})`,
    `      options_=(${described(options)})`,
    `      kinds=(${kinds.map(quoted).join(" ")})`,
    `      takes=(${takes.map(quoted).join(" ")})`,
    "      ;;",
  ].join("\n");
}

function fishRow({ typed, commands, options, takes }: Place): string {
  const set = (name: string, items: readonly string[]): string =>
    `            set ${name} ${items.map(fishQuoted).join(" ")}`.trimEnd();
  const values = options.flatMap(({ word, kind }) => (kind === undefined ? [] : [`${word}=${kind}`]));
  return [
    `        case ${typed.map(fishQuoted).join(" ")}`,
    set("commands", commands.map(fishOffer)),
    set("options", options.map(fishOffer)),
    set("takes", takes),
    set("values", values),
  ].join("\n");
}

function fishOffer({ word, summary }: Offer): string {
  return `${word}\t${brief(summary)}`;
}

/** What fits beside a word in a list. */
function brief(summary: string): string {
  const [first = ""] = summary.split(/ \(|; |: /);
  return first.replaceAll(/\s+/g, " ").trim();
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

function fishQuoted(text: string): string {
  return `'${text.replaceAll("\\", String.raw`\\`).replaceAll("'", String.raw`\'`)}'`;
}
