/** changelog — CHANGELOG.md as Debian's changelog (deb-changelog(5)). */
import { LegerError } from "../../src/core/error.ts";

/** `version` and `date` are those of the newest entry; older ones say theirs, as in "## 0.1.0 (2026-11-25)". */
export function debianChangelog(
  markdown: string,
  { version, date, maintainer }: { version: string; date: Date; maintainer: string },
): string {
  const [, ...entries] = markdown.split(/^## /m);
  if (entries.length === 0) throw new LegerError("FAILED", "CHANGELOG.md has no entry");
  return entries
    .map((entry, at) => {
      const [heading = "", ...paragraphs] = entry.trim().split(/\n{2,}/);
      const [, named = "", day] = /^(\S+)(?: \((\d{4}-\d\d-\d\d)\))?/.exec(heading) ?? [];
      const newest = at === 0;
      if (!newest && day === undefined)
        throw new LegerError("FAILED", `CHANGELOG.md: ${heading} has no date`);
      const when = newest || day === undefined ? date : new Date(`${day}T12:00:00Z`);
      return [
        `leger (${newest ? version : named}) unstable; urgency=medium`,
        "",
        ...paragraphs.flatMap((paragraph) => item(plainText(paragraph))),
        "",
        ` -- ${maintainer}  ${when.toUTCString().replace("GMT", "+0000")}`,
        "",
      ].join("\n");
    })
    .join("\n");
}

/** In columns: what lintian takes for a long line. */
const WIDEST = 78;

function item(text: string): string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const last = lines.at(-1);
    if (last === undefined) lines.push(`  * ${word}`);
    else if (last.length + 1 + word.length > WIDEST) lines.push(`    ${word}`);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}

function plainText(paragraph: string): string {
  return paragraph
    .replaceAll(/\[([^\]]+)\]\([^)]+\)/g, "$1")
    .replaceAll(/\*\*|`/g, "")
    .replaceAll(/^[-*] /gm, "")
    .replaceAll(/\s+/g, " ")
    .trim();
}
