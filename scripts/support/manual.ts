/** manual — leger's manual pages, made from the tables of commands, the configuration's schema and packaging/man. */
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { configSchema } from "../../src/daemon/config.ts";
import { allBelow, legerdTable, legerTable, type Command, type Option } from "./command-table.ts";
import { argument, display, literal, page, prose, readSections, type Sections } from "./mdoc.ts";

/** A page's file name and text. */
export type ManualPage = { file: string; text: string };

/** All pages. `date`: what they were made from is of that day. */
export async function manualPages(date: Date): Promise<ManualPage[]> {
  const leger = await legerTable();
  const legerd = await legerdTable();
  const groups = leger.commands.filter(({ words }) => !IN_MAIN_PAGE.has(words.join(" ")));
  const xrefs = [
    ...groups.map(({ words }) => [words.join("-"), 1] as const),
    ["legerd.json", 5] as const,
    ["legerd", 8] as const,
  ];
  const pages = [
    { name: "leger", section: 1, about: ABOUT, sections: mainPage(leger, groups) },
    ...groups.map((group) => ({
      name: group.words.join("-"),
      section: 1,
      about: group.summary,
      sections: groupPage(group, leger),
    })),
    { name: "legerd.json", section: 5, about: "configuration of legerd", sections: await configPage() },
    { name: "legerd", section: 8, about: legerd.summary, sections: daemonPage(legerd) },
  ];
  const all = [["leger", 1] as const, ...xrefs];
  return pages.map(({ name, section, about, sections }) => ({
    file: `${name}.${section}`,
    text: [
      String.raw`.\" Made from leger's own help; do not edit.`,
      `.Dd ${dayOf(date)}`,
      `.Dt ${name.toUpperCase()} ${section}`,
      ".Os",
      page([
        ["NAME", `.Nm ${name}\n.Nd ${literal(about.replace(/[?.]$/, ""))}`],
        ...handWritten(`${name}.${section}`),
        ...sections,
        ["SEE ALSO", seeAlso(all.filter(([other]) => other !== name))],
      ]),
    ].join("\n"),
  }));
}

const ABOUT = "every key once, encrypted and versioned, read live by podman and systemd";

/** Commands that a page of their own would not be worth. */
const IN_MAIN_PAGE: ReadonlySet<string> = new Set(["leger version"]);

function mainPage(leger: Command, groups: readonly Command[]): Sections {
  const here = leger.commands.filter((command) => !groups.includes(command));
  const elsewhere = groups.map(
    ({ words, summary }) =>
      `.It Ic ${words.slice(1).join(" ")}\n${prose(full(summary))}\nSee\n.Xr ${words.join("-")} 1 .`,
  );
  const own = here.map(({ words, options, summary }) => {
    const flags = options.filter(({ name }) => name !== "help").map((option) => ` Op ${flagOf(option)}`);
    return `.It Ic ${words.slice(1).join(" ")}${flags.join("")}\n${prose(full(summary))}`;
  });
  return [
    ["SYNOPSIS", `.Nm\n.Op Ar option ...\n.Ar command\n.Op Ar argument ...\n.Nm\n.Fl \\-help | \\-version`],
    ["COMMANDS", `.Bl -tag -width services\n${[...elsewhere, ...own].join("\n")}\n.El`],
    [
      "OPTIONS",
      `${prose("They may stand before or behind a command.")}\n${list(leger.options.map(optionItem))}`,
    ],
    ["EXIT STATUS", exitStatuses(leger)],
    ["EXAMPLES", examples(leger)],
  ];
}

function groupPage(group: Command, leger: Command): Sections {
  // One that takes arguments of its own does something, whatever is below it.
  const commands = allBelow(group).filter(
    ({ commands: below, positionals }) => below.length === 0 || positionals.length > 0,
  );
  const shared = commands.some(({ inherits }) => inherits)
    ? leger.options.filter(({ global }) => global)
    : [];
  const single = commands.length === 1 && commands.includes(group);
  // Podman's verbs all take the same ones.
  const own = single || shared.length === 0 ? group.options.filter(({ name }) => name !== "help") : [];
  return withText([
    ["SYNOPSIS", commands.map((command) => synopsis(command)).join("\n")],
    ["DESCRIPTION", paragraphs(group.notes)],
    ["COMMANDS", single ? "" : commands.map((command) => subsection(command, group, own)).join("\n")],
    ["OPTIONS", own.length === 0 ? "" : list(own.map(optionItem))],
    ["OPTIONS", shared.length === 0 ? "" : `${prose(SHARED)}\n${list(shared.map(optionItem))}`],
    ["EXIT STATUS", "0 when all was done; what the others mean is in\n.Xr leger 1 ."],
    ["EXAMPLES", examples(group)],
  ]);
}

const SHARED =
  "These are leger's own. They go for every command but those that podman and units wait for, the driver and fetch:";

function daemonPage(legerd: Command): Sections {
  return withText([
    ["SYNOPSIS", [legerd, ...legerd.commands].map((command) => synopsis(command)).join("\n")],
    ["DESCRIPTION", paragraphs(legerd.notes)],
    ["COMMANDS", legerd.commands.map((command) => subsection(command, legerd, legerd.options)).join("\n")],
    ["OPTIONS", list(legerd.options.map(optionItem))],
    ["EXIT STATUS", "The statuses are those of\n.Xr leger 1 ."],
    ["EXAMPLES", examples(legerd)],
  ]);
}

function withText(sections: Sections): Sections {
  return sections.filter(([, text]) => text !== "");
}

function synopsis(command: Command): string {
  const [program = "", ...words] = command.words;
  const shown = command.options.filter(
    ({ name }) =>
      name !== "help" &&
      name !== "version" &&
      !(!command.inherits && name === "socket" && program === "leger"),
  );
  return [
    `.Nm ${program}${words.length === 0 ? "" : ` ${words.join(" ")}`}`,
    ...shown.map((option) => `.Op ${flagOf(option)}${option.repeated ? " ..." : ""}`),
    ...command.positionals.map(({ name, required, repeated }) => {
      const text = `Ar ${argument(name)}${repeated ? " ..." : ""}`;
      return required ? `.${text}` : `.Op ${text}`;
    }),
  ].join("\n");
}

/** One command; options in `elsewhere` are explained there. */
function subsection(command: Command, group: Command, elsewhere: readonly Option[]): string {
  const { words, aliases, positionals, options, summary } = command;
  const notes = command.notes.filter((note) => !group.notes.includes(note));
  const described = positionals.filter(({ summary: about }) => about !== "");
  const own = options.filter(
    ({ name }) => name !== "help" && !elsewhere.some((option) => option.name === name),
  );
  // A text that serves several commands says of an option which one it is for.
  const ownPrefix = new RegExp(`^${words.at(-1) ?? ""}: `);
  const items = [
    ...described.map(({ name, summary: about }) => [`Ar ${argument(name)}`, about] as const),
    ...own.map(optionItem).map(([tag, text]) => [tag, text.replace(ownPrefix, "")] as const),
  ];
  const below = words.slice(group.words.length);
  const title = [
    ...(below.length === 0 ? words : below),
    ...positionals.map(({ name }) => name.toUpperCase()),
  ];
  return [
    `.Ss ${title.join(" ")}`,
    prose(full(summary)),
    ...(aliases.length === 0 ? [] : [`It is also called\n.Ic ${aliases.join(" ")} .`]),
    ...(notes.length === 0 ? [] : [".Pp", paragraphs(notes)]),
    ...(items.length === 0 ? [] : [list(items)]),
    ...(command.examples.length === 0 ? [] : [apart(examples(command))]),
  ].join("\n");
}

function optionItem(option: Option): readonly [string, string] {
  const { short, choices, repeated, summary } = option;
  const fallback = option.default === undefined ? "" : ` (default: ${option.default})`;
  const among = choices.every((choice) => summary.includes(choice)) ? "" : `; one of ${choices.join(", ")}`;
  const more = repeated && !/repeat/.test(summary) ? "; repeat it for more" : "";
  const flags = short === undefined ? flagOf(option) : `Fl ${short} , ${flagOf(option)}`;
  return [flags, `${summary}${among}${fallback}${more}`];
}

function flagOf({ name, value }: Option): string {
  return `Fl ${argument(`-${name}`).slice(1, -1)}${value === undefined ? "" : ` Ar ${argument(value)}`}`;
}

function list(items: readonly (readonly [string, string])[]): string {
  const rows = items.map(([tag, text]) => `.It ${tag}\n${prose(full(text))}`);
  return [".Bl -tag -width indent", ...rows, ".El"].join("\n");
}

/** Command lines, each behind what it does. */
function examples({ examples: all }: Command): string {
  if (all.length === 0) return "";
  if (all.every(([, does]) => does === "")) return display(all.map(([line]) => line));
  return all
    .map(([line, does]) => `${prose(`${capital(does).replace(/[?.]$/, "")}:`)}\n.Dl ${literal(line)}`)
    .join("\n.Pp\n");
}

/** A paragraph of its own; a display is one anyway. */
function apart(text: string): string {
  return text.startsWith(".Bd") ? text : `.Pp\n${text}`;
}

/** Notes: a line that is indented, or follows one that ends in a colon, is a command line. */
function paragraphs(notes: readonly string[]): string {
  return notes
    .map((note) => {
      const lines = note.split("\n");
      const first = lines.findIndex((line) => line.startsWith("  "));
      if (first < 0) return prose(note);
      return `${prose(lines.slice(0, first).join(" "))}\n${display(lines.slice(first).map((line) => line.trim()))}`;
    })
    .join("\n.Pp\n");
}

/** From the notes that leger's own help closes with: "Exit status: 0 done, 1 failed, …". */
function exitStatuses({ notes }: Command): string {
  const text = notes.join(" ");
  const from = text.indexOf("Exit status: ");
  const items = [...text.slice(from).matchAll(/(\d+) ([^,.]+)/g)].map(
    ([, status = "", meaning = ""]) => [status, meaning] as const,
  );
  if (from < 0 || items.length < 10) throw new Error("leger --help lists no exit statuses any more");
  return `.Bl -tag -width indent\n${items.map(([status, meaning]) => `.It ${status}\n${prose(full(meaning))}`).join("\n")}\n.El`;
}

function seeAlso(pages: readonly (readonly [string, number])[]): string {
  const sorted = pages.toSorted(([one, a], [other, b]) => a - b || (one < other ? -1 : 1));
  return sorted
    .map(([name, section], at) => `.Xr ${name} ${section}${at === sorted.length - 1 ? "" : " ,"}`)
    .join("\n");
}

const JsonSchema = z.looseObject({
  type: z.string().optional(),
  description: z.string().optional(),
  default: z.unknown().optional(),
  pattern: z.string().optional(),
  minimum: z.number().optional(),
  maximum: z.number().optional(),
  minItems: z.number().optional(),
  enum: z.array(z.unknown()).optional(),
  required: z.array(z.string()).optional(),
  get properties() {
    return z.record(z.string(), JsonSchema).optional();
  },
  get items() {
    return JsonSchema.optional();
  },
  get anyOf() {
    return z.array(JsonSchema).optional();
  },
});
type JsonSchema = z.infer<typeof JsonSchema>;

async function configPage(): Promise<Sections> {
  const schema = JsonSchema.parse(z.toJSONSchema(await configSchema(), { io: "input" }));
  const rows = keysOf(schema, "").map(([key, text]) => `.It Ic ${argument(key)}\n${text}`);
  return [["KEYS", `.Bl -tag -width indent\n${rows.join("\n")}\n.El`]];
}

/** Every key with what it means: doors, doors[].unix, … */
function keysOf(schema: JsonSchema, path: string): [string, string][] {
  return Object.entries(schema.properties ?? {}).flatMap(([key, value]) => {
    const here = path === "" ? key : `${path}.${key}`;
    const below = value.items ?? value;
    const inside = value.items === undefined ? here : `${here}[]`;
    const about = [
      full(value.description ?? ""),
      `${capital(kindOf(value))}${schema.required?.includes(key) === true ? ", which must be there" : ""}.`,
      ...(value.default === undefined ? [] : [`Left out: ${JSON.stringify(value.default)}.`]),
    ];
    // Kinds of one thing share some keys, which are told once.
    const inner = new Map((below.anyOf ?? [below]).toReversed().flatMap((kind) => keysOf(kind, inside)));
    return [[here, prose(about.join(" "))] as [string, string], ...inner];
  });
}

function kindOf({ type, minimum, maximum, enum: choices, items, properties }: JsonSchema): string {
  if (choices !== undefined) return `one of ${choices.map((choice) => JSON.stringify(choice)).join(", ")}`;
  const isObject = items?.properties !== undefined || items?.anyOf !== undefined;
  if (items !== undefined) return `a list of ${isObject ? "objects" : "texts"}`;
  if (properties !== undefined) return "an object";
  if (type === "integer") return `a whole number from ${minimum ?? 0} to ${maximum ?? "any"}`;
  return (type === undefined ? undefined : KINDS.get(type)) ?? "any value";
}

const KINDS: ReadonlyMap<string, string> = new Map([
  ["boolean", "true or false"],
  ["string", "a text"],
]);

/** The part of a page that people wrote, in packaging/man; none for most. */
function handWritten(file: string): Sections {
  const fragment = fileURLToPath(new URL(`../../packaging/man/${file}`, import.meta.url));
  return existsSync(fragment) ? readSections(readFileSync(fragment, "utf8")) : [];
}

/** With a capital, unless it opens with a name, an option or a path. */
function capital(text: string): string {
  const [, word = ""] = /^([a-z]+)(?:[ ,:;/'.-]|$)/.exec(text) ?? [];
  const keeps = word === "" || NAMES.has(word);
  return keeps ? text : text.slice(0, 1).toUpperCase() + text.slice(1);
}

const NAMES: ReadonlySet<string> = new Set(["leger", "legerd", "podman", "systemd", "openai"]);

/** A sentence with its end. */
function full(text: string): string {
  return text === "" ? "" : capital(text.trim()).replace(/([^.?!:])$/, "$1.");
}

function dayOf(date: Date): string {
  const month = date.toLocaleString("en-US", { month: "long", timeZone: "UTC" });
  return `${month} ${date.getUTCDate()}, ${date.getUTCFullYear()}`;
}
