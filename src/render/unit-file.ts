/** unit-file — a file in systemd's syntax, read as Podman's Quadlet reads it and printed byte for byte. */

/**
 * A logical line: one or more lines of the file, with their ends. Texts here hold a byte per character (latin1), since
 * unit files need not be UTF-8.
 */
type Item = {
  /** `void` is read and then counts for nothing: a lone backslash, or a continued line that nothing ends. */
  kind: "entry" | "section" | "comment" | "fault" | "void";
  raw: string;
  /** Of its first line, from 1. */
  line: number;
  /** What it stands in; "" before the first section. For a section its own name. */
  section: string;
  key: string;
  /** An entry's value, the text of a comment, what is wrong with a fault. */
  value: string;
};

export type UnitFile = {
  /** As it is shown to people. */
  path: string;
  items: readonly Item[];
};

/** Takes any bytes; what Podman would not read becomes a `fault`. */
export function parseUnitFile(path: string, bytes: Uint8Array): UnitFile {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
  const reading: Reading = { items: [], section: "", hasSection: false };
  // A logical line that is not complete yet: the lines it is made of, and what they say so far.
  let start = 0;
  let startLine = 1;
  let line = 0;
  let said = "";
  let isOpen = false;

  for (let at = 0; at < text.length;) {
    line += 1;
    const newline = text.indexOf("\n", at);
    const next = newline < 0 ? text.length : newline + 1;
    const isLast = next === text.length;
    let content = trim(text.slice(at, newline < 0 ? text.length : newline));
    if (!isOpen) [start, startLine] = [at, line];
    if (isComment(content)) {
      // Comments and empty lines within a continued line are skipped, unless nothing was said before them.
      if (said === "") {
        if (isOpen) add(reading, { kind: "void", raw: text.slice(start, at), line: startLine });
        add(reading, { kind: "comment", raw: text.slice(at, next), line, value: content });
        isOpen = false;
      } else if (isLast) {
        add(reading, { kind: "void", raw: text.slice(start, next), line: startLine, value: said });
      }
    } else {
      const goesOn = content.endsWith("\\");
      if (goesOn) content = content.slice(0, -1);
      said += content;
      isOpen = goesOn && !isLast;
      if (!isOpen) {
        addStatement(reading, said, { raw: text.slice(start, next), line: startLine });
        said = "";
      }
    }
    at = next;
  }
  return { path, items: reading.items };
}

/** The very bytes that were parsed, or those of a changed list of items. */
export function printUnitFile({ items }: Pick<UnitFile, "items">): Buffer {
  return Buffer.from(items.map(({ raw }) => raw).join(""), "latin1");
}

/** What the bytes of a text mean to people. */
export function shown(text: string): string {
  return Buffer.from(text, "latin1").toString("utf8");
}

/** A text for people, or from JSON, as the bytes that unit files hold. */
export function asBytes(text: string): string {
  return Buffer.from(text, "utf8").toString("latin1");
}

/** An entry and where it was read. */
export type Entry = Pick<Item, "section" | "key" | "value" | "line"> & { path: string };

/** Files merged into one: base first, then drop-ins. Sections of one name are one section, in the order read. */
export class Unit {
  readonly files: readonly UnitFile[];
  readonly #entries = new Map<string, Entry[]>();

  constructor(files: readonly UnitFile[]) {
    this.files = files;
    for (const { path, items } of files) {
      for (const { kind, section, key, value, line } of items) {
        if (kind !== "entry") continue;
        const name = `${section}\n${key}`;
        const known = this.#entries.get(name);
        const entry = { section, key, value, line, path };
        if (known === undefined) this.#entries.set(name, [entry]);
        else known.push(entry);
      }
    }
  }

  has(section: string, key: string): boolean {
    return this.#entries.has(`${section}\n${key}`);
  }

  /** Every value of a list. An empty one takes back those before it. */
  all(section: string, key: string): readonly Entry[] {
    const entries = this.#entries.get(`${section}\n${key}`) ?? [];
    return entries.slice(entries.findLastIndex(({ value }) => value === "") + 1);
  }

  /** The value that counts where there can be one only, without the quotes around it; undefined for none or an empty one. */
  last(section: string, key: string): Entry | undefined {
    const entry = this.#entries.get(`${section}\n${key}`)?.at(-1);
    if (entry === undefined) return undefined;
    const value = trim(entry.value);
    const isQuoted = value.length >= 2 && value.startsWith('"') && value.endsWith('"');
    const bare = isQuoted ? value.slice(1, -1) : value;
    return bare === "" ? undefined : { ...entry, value: bare };
  }

  /** Every entry there is, also those that later ones take back. */
  *entries(): Iterable<Entry> {
    for (const entries of this.#entries.values()) yield* entries;
  }
}

type Reading = { items: Item[]; section: string; hasSection: boolean };

type Found = Pick<Item, "kind" | "raw" | "line"> & Partial<Pick<Item, "key" | "value">>;

function add(reading: Reading, { kind, raw, line, key = "", value = "" }: Found): void {
  reading.items.push({ kind, raw, line, key, value, section: reading.section });
}

/** pkg/systemd/parser/unitfile.go, parseLine: a section, or KEY=VALUE, or nothing that Podman takes. */
function addStatement(reading: Reading, text: string, at: Pick<Item, "raw" | "line">): void {
  const fault = (value: string): void => add(reading, { ...at, kind: "fault", value });
  if (text === "") return add(reading, { ...at, kind: "void" });
  // What is joined from several lines may begin like a comment all the same.
  if (isComment(text)) return add(reading, { ...at, kind: "comment", value: text });
  const close = text.startsWith("[") ? text.indexOf("]") : -1;
  if (close > 0 && /^[ \t]*$/.test(text.slice(close + 1))) {
    const name = text.slice(1, close);
    if (name === "" || name.includes("[") || /\p{Cc}/u.test(shown(name))) {
      return fault("this cannot be the name of a section");
    }
    reading.section = name;
    reading.hasSection = true;
    return add(reading, { ...at, kind: "section" });
  }
  const equals = text.indexOf("=");
  if (equals <= 0) return fault("this is neither a [Section], nor KEY=VALUE, nor a comment");
  if (!reading.hasSection) return fault("this stands before the first [Section]");
  let end = equals;
  while (end > 0 && isByteSpace(text.charCodeAt(end - 1))) end -= 1;
  if (end === 0) return fault("there is no key before the equals sign");
  let begin = equals + 1;
  while (begin < text.length && isByteSpace(text.charCodeAt(begin))) begin += 1;
  add(reading, { ...at, kind: "entry", key: text.slice(0, end), value: text.slice(begin) });
}

function isComment(line: string): boolean {
  return line === "" || line.startsWith("#") || line.startsWith(";");
}

/** Go's unicode.IsSpace of a single byte taken for a character. */
function isByteSpace(code: number): boolean {
  return (code >= 0x09 && code <= 0x0d) || code === 0x20 || code === 0x85 || code === 0xa0;
}

/** Go's strings.TrimSpace: Unicode's white space, here as the bytes of its UTF-8. */
function trim(text: string): string {
  let start = 0;
  let end = text.length;
  for (let length = 1; length > 0 && start < end; start += length) length = spaceAt(text, start, end);
  for (let length = 1; length > 0 && start < end; end -= length) length = spaceBefore(text, end, start);
  return text.slice(start, end);
}

function spaceAt(text: string, at: number, end: number): number {
  const code = text.charCodeAt(at);
  if ((code >= 0x09 && code <= 0x0d) || code === 0x20) return 1;
  if (code === 0xc2 && at + 2 <= end) return WIDE_SPACES.has(text.slice(at, at + 2)) ? 2 : 0;
  if (code >= 0xe1 && code <= 0xe3 && at + 3 <= end) return WIDE_SPACES.has(text.slice(at, at + 3)) ? 3 : 0;
  return 0;
}

function spaceBefore(text: string, end: number, start: number): number {
  const code = text.charCodeAt(end - 1);
  if ((code >= 0x09 && code <= 0x0d) || code === 0x20) return 1;
  if (code < 0x80) return 0;
  if (end - 2 >= start && WIDE_SPACES.has(text.slice(end - 2, end))) return 2;
  return end - 3 >= start && WIDE_SPACES.has(text.slice(end - 3, end)) ? 3 : 0;
}

const WIDE_SPACES: ReadonlySet<string> = new Set(
  [
    0x85, 0xa0, 0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008, 0x2009,
    0x200a, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000,
  ].map((code) => Buffer.from(String.fromCodePoint(code)).toString("latin1")),
);
