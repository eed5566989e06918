/** dropin — the text of leger's own drop-in, and how it is known again. */
import { createHash } from "node:crypto";
import { printUnitFile, type UnitFile } from "./unit-file.ts";

/** A line to write: section, key, value (a byte per character). */
export type Line = { section: string; key: string; value: string };

export type Marks = {
  /** "mount", or "mount groq_api_key=driver". */
  modes: string;
  /** leger made the drop-in's directory, and takes it away again. */
  madeDirectory: boolean;
};

/** What an existing file is: leger's as it was written, leger's with changes, or somebody else's. */
export type Known = { kind: "ours"; marks: Marks } | { kind: "edited"; marks: Marks } | { kind: "foreign" };

export function dropinText(lines: readonly Line[], { modes, madeDirectory }: Marks): Buffer {
  const body = Buffer.from(
    [
      HEADLINE,
      `${MODES}${modes}\n`,
      ...(madeDirectory ? [MADE_DIRECTORY] : []),
      ...sectionsOf(lines).map((section) => `\n${section}`),
    ].join(""),
    "latin1",
  );
  const digest = Buffer.from(`${DIGEST}${digestOf(body)}\n`);
  return Buffer.concat([body.subarray(0, HEADLINE.length), digest, body.subarray(HEADLINE.length)]);
}

export function recognise(bytes: Buffer): Known {
  const text = bytes.toString("latin1");
  const modes = lineAfter(text, MODES);
  if (!text.startsWith(HEADLINE) || modes === undefined) return { kind: "foreign" };
  const marks = { modes, madeDirectory: text.includes(`\n${MADE_DIRECTORY}`) };
  const digest = lineAfter(text, DIGEST);
  const body = Buffer.from(text.replace(`${DIGEST}${digest}\n`, ""), "latin1");
  return { kind: digest === digestOf(body) ? "ours" : "edited", marks };
}

/** A section per name, in the order of Podman's documentation, lines as given. */
function sectionsOf(lines: readonly Line[]): string[] {
  const names = [...new Set([...ORDER, ...lines.map(({ section }) => section)])];
  return names.flatMap((name) => {
    const own = lines.filter(({ section }) => section === name);
    return own.length === 0 ? [] : `[${name}]\n${own.map(({ key, value }) => `${key}=${value}\n`).join("")}`;
  });
}

/**
 * A quadlet for a Podman that reads no drop-ins: base and drop-ins in one, in the plainest form (no continued lines, no
 * `;`), which its older parser reads as well. Secret= lines are those in `lines`. Without drop-ins or lines the base follows
 * byte for byte.
 */
export function wholeUnit(
  base: UnitFile,
  dropins: readonly UnitFile[],
  lines: readonly Line[],
  modes: string,
): Buffer {
  const head = Buffer.from(`${WHOLE_HEADLINE}${MODES}${modes}\n`);
  if (dropins.length === 0 && lines.length === 0) return Buffer.concat([head, printUnitFile(base)]);
  const sections = new Map<string, string[]>();
  let comments: string[] = [];
  for (const { items } of [base, ...dropins]) {
    for (const { kind, section, key, value } of items) {
      if (kind === "comment") comments.push(value.replace(/^;/, "#"));
      if (kind === "section") {
        const known = sections.get(section) ?? [];
        sections.set(section, known);
        known.push(...comments.filter((comment) => comment !== ""));
        comments = [];
      }
      if (kind !== "entry" || (section === "Container" && key === "Secret")) continue;
      sections.get(section)?.push(...comments, `${key}=${value}`);
      comments = [];
    }
  }
  for (const { section, key, value } of lines) {
    const known = sections.get(section) ?? [];
    sections.set(section, known);
    known.push(`${key}=${value}`);
  }
  const parts = [...sections].map(([name, content]) => `\n[${name}]\n${content.join("\n").trimEnd()}\n`);
  return Buffer.concat([head, Buffer.from(parts.join(""), "latin1")]);
}

/** Whether `wholeUnit` made it. */
export function isWholeUnit(bytes: Buffer): boolean {
  return bytes.subarray(0, WHOLE_HEADLINE.length).equals(Buffer.from(WHOLE_HEADLINE));
}

const HEADLINE = `# Made by "leger render". An edit by hand is noticed and refused: choose a mode instead, or write a drop-in of your own.\n`;
const WHOLE_HEADLINE = `# Made by "leger render --out" from a quadlet and its drop-ins. Edit those, and render again.\n`;
const MODES = "# leger-mode: ";
const DIGEST = "# leger-sha256: ";
const MADE_DIRECTORY = "# leger-made-directory\n";
const ORDER = ["Unit", "Container", "Service"];

function digestOf(body: Buffer): string {
  return createHash("sha256").update(body).digest("hex");
}

function lineAfter(text: string, prefix: string): string | undefined {
  const start = text.indexOf(`\n${prefix}`);
  if (start < 0) return undefined;
  const end = text.indexOf("\n", start + 1);
  return text.slice(start + 1 + prefix.length, end < 0 ? text.length : end);
}
