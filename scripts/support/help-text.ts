/** help-text — reads the help of the programs that have no yargs: what stands under Usage, Options and Examples. */

export type Help = {
  summary: string;
  usages: readonly { line: string; does: string }[];
  options: readonly HelpOption[];
  examples: readonly string[];
  /** All else, a paragraph each; a line that was indented is a command line. */
  notes: readonly string[];
};

type HelpOption = { name: string; short: string | undefined; value: string | undefined; text: string };

/** Throws for a text without a summary or a usage. */
export function readHelp(help: string): Help {
  const [title = "", ...paragraphs] = help.trimEnd().split("\n\n");
  const summary = /^[^:\n]+: (.+)$/.exec(title)?.[1];
  const parts = new Map<string, string[]>();
  const notes: string[] = [];
  for (const paragraph of paragraphs) {
    const [heading = "", ...lines] = paragraph.split("\n");
    const name = /^(Usage|Options|Examples):$/.exec(heading)?.[1];
    if (name === undefined) notes.push(paragraph);
    else parts.set(name, lines);
  }
  const usages = columns(parts.get("Usage") ?? []).map(([line, does]) => ({ line, does }));
  if (summary === undefined || usages.length === 0) throw new Error(`not a help text: ${title}`);
  return {
    summary,
    usages: usages.map(({ line, does }) => ({ line, does: does.replace(/^\(or:.*\)$/, "") })),
    options: columns(parts.get("Options") ?? []).flatMap(([flags, text]) => optionsOf(flags, text)),
    examples: (parts.get("Examples") ?? []).map((line) => line.trim()),
    notes,
  };
}

/** Two columns, apart by two spaces or more; what is indented further goes on with the second one. */
function columns(lines: readonly string[]): [string, string][] {
  const rows: [string, string][] = [];
  for (const line of lines) {
    const last = rows.at(-1);
    if (line.startsWith("   ") && last !== undefined) {
      last[1] = `${last[1]} ${line.trim()}`.trim();
      continue;
    }
    const [first = "", ...rest] = line.trim().split(/ {2,}/);
    rows.push([first, rest.join(" ")]);
  }
  return rows;
}

/** "--dir DIR", or "-h, --help, --version". */
function optionsOf(flags: string, text: string): HelpOption[] {
  let short: string | undefined;
  const options: HelpOption[] = [];
  for (const flag of flags.split(", ")) {
    const letter = /^-([a-z])$/.exec(flag)?.[1];
    if (letter !== undefined) short = letter;
    const [, name, value] = /^--([a-z-]+)(?:[ =]([A-Z]+))?$/.exec(flag) ?? [];
    if (name === undefined) continue;
    options.push({ name, short, value: value?.toLowerCase(), text });
    short = undefined;
  }
  return options;
}
