/** mdoc — text as the manual's markup wants it (mdoc(7)), and sections in the order that it prescribes. */

/** Running text. Sentences begin on lines of their own, as the markup asks. */
export function prose(text: string): string {
  const sentences = text
    .replaceAll(/\s+/g, " ")
    .trim()
    .split(/(?<=[.?!]) (?=[A-Z])/);
  return sentences.flatMap(wrapped).map(guarded).join("\n");
}

/** In bytes: what mandoc -Tlint takes for a long line. */
const WIDEST = 78;

function wrapped(sentence: string): string[] {
  const lines: string[] = [];
  for (const word of sentence.split(" ").map(wordOf)) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > WIDEST) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}

/** What is typed or shown as it stands, on one line. */
export function literal(text: string): string {
  return guarded(exact(text));
}

/** One argument of a macro. */
export function argument(text: string): string {
  return `"${exact(text).replaceAll('"', String.raw`\(dq`)}"`;
}

/** A block of lines that are kept as they are. */
export function display(lines: readonly string[]): string {
  return [".Bd -literal -offset indent", ...lines.map(literal), ".Ed"].join("\n");
}

/** Sections of one page: [heading, text]; one heading may come more than once. */
export type Sections = readonly (readonly [heading: string, text: string])[];

/** A fragment in mdoc, cut at its headings; what stands before the first is the description. */
export function readSections(fragment: string): Sections {
  const [description = "", ...rest] = fragment.split(/^\.Sh /m);
  const sections = rest.map((section) => {
    const end = section.indexOf("\n");
    return [section.slice(0, end), section.slice(end + 1).trim()] as const;
  });
  return [["DESCRIPTION", description.trim()] as const, ...sections].filter(([, text]) => text !== "");
}

/** Sections of the same heading are joined, in the order in which they come. */
export function page(sections: Sections): string {
  const unknown = sections.find(([heading]) => !ORDER.includes(heading));
  if (unknown !== undefined) throw new Error(`no place for the section ${unknown[0]}`);
  return ORDER.flatMap((heading) => {
    const texts = sections.filter(([name]) => name === heading).map(([, text]) => text);
    return texts.length === 0 ? [] : [`.Sh ${heading}\n${texts.join("\n.Pp\n")}\n`];
  }).join("");
}

/** man(7)'s usual order, with ours after the description. */
const ORDER: readonly string[] = [
  "NAME",
  "SYNOPSIS",
  "DESCRIPTION",
  "COMMANDS",
  "OPTIONS",
  "KEYS",
  "ENVIRONMENT",
  "FILES",
  "EXIT STATUS",
  "EXAMPLES",
  "SEE ALSO",
  "SECURITY CONSIDERATIONS",
];

/** An option, a path or a name keeps its ASCII characters, so that it can be copied from the page. */
function wordOf(word: string): string {
  return /^["'(]*-|[/_=~^`\\*]|\w\.(json|sock|log|key|env)\b/.test(word)
    ? unbroken(exact(word))
    : plain(word);
}

/** Not hyphenated at the end of a line: "leg-erd.sock" could not be copied. */
function unbroken(text: string): string {
  return /[a-z]{5}/.test(text) ? `\\%${text}` : text;
}

function plain(text: string): string {
  return beyondAscii(text.replaceAll("\\", String.raw`\e`));
}

function exact(text: string): string {
  const escaped = text.replaceAll(/[\\'`^~-]/g, (char) => EXACT.get(char) ?? char);
  return beyondAscii(escaped);
}

/** groff_char(7): these would else come out as typographic ones. */
const EXACT: ReadonlyMap<string, string> = new Map([
  ["\\", String.raw`\e`],
  ["'", String.raw`\(aq`],
  ["`", String.raw`\(ga`],
  ["^", String.raw`\(ha`],
  ["~", String.raw`\(ti`],
  ["-", String.raw`\-`],
]);

function beyondAscii(text: string): string {
  return text
    .replaceAll("…", "...")
    .replaceAll(
      /[^\0-\x7f]/gu,
      (char) => `\\[u${(char.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}]`,
    );
}

/** A line that would be taken for a macro. */
function guarded(line: string): string {
  return /^[.']/.test(line) ? `\\&${line}` : line;
}
