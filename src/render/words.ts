/** words — values that are lists of words, split and quoted as Quadlet and systemd do. */
import { asBytes } from "./unit-file.ts";

/**
 * The words of a value, as Quadlet takes Exec=, Secret= or EnvironmentFile= apart: quotes group, backslashes escape.
 * Undefined where it would drop the whole value for an escape it doesn't know. It ends the list at an empty word, quoted
 * or not, and at a NUL byte (pkg/systemd/parser/split.go).
 */
export function splitWords(value: string): string[] | undefined {
  const end = value.includes("\0") ? value.indexOf("\0") : value.length;
  const words: string[] = [];
  let at = 0;
  while (at < end) {
    if (isSeparator(value.charAt(at))) {
      at += 1;
      continue;
    }
    let word = "";
    let quote = "";
    for (; at < end; at += 1) {
      const char = value.charAt(at);
      if (char === "\\") {
        if (at + 1 >= end) continue;
        const escape = unescape(value.slice(at + 1, Math.min(at + 10, end)));
        if (escape === undefined) return undefined;
        word += escape.text;
        at += escape.length;
      } else if (quote === "" && isSeparator(char)) break;
      else if (quote === "" && (char === '"' || char === "'")) quote = char;
      else if (char === quote) quote = "";
      else word += char;
    }
    if (word === "") break;
    words.push(word);
  }
  return words;
}

/** A word as `splitWords` gives it back, and systemd too. It cannot be empty. `%` and `$` are left as they are. */
export function quoteWord(word: string): string {
  if (!/[\s\p{Cc}"'\\]/u.test(word)) return word;
  const escaped = word.replace(/["\\\p{Cc}]/gu, (char) => {
    if (char === '"' || char === "\\") return `\\${char}`;
    const code = char.charCodeAt(0);
    // From 0x80 on these are parts of longer characters.
    return code >= 0x80 ? char : `\\x${code.toString(16).padStart(2, "0")}`;
  });
  return `"${escaped}"`;
}

/** A text in which systemd is to expand neither %specifiers nor $VARIABLES (systemd.unit(5), systemd.service(5)). */
export function literally(text: string): string {
  return text.replaceAll("%", "%%").replaceAll("$", "$$$$");
}

function isSeparator(char: string): boolean {
  return char === " " || char === "\t" || char === "\n" || char === "\r";
}

const SINGLE: Readonly<Record<string, string>> = {
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
  "\\": "\\",
  '"': '"',
  "'": "'",
  s: " ",
};

const NUMBERED: readonly (readonly [RegExp, number, number])[] = [
  [/^x([0-9a-fA-F]{2})/, 16, 3],
  [/^u([0-9a-fA-F]{4})/, 16, 5],
  [/^U([0-9a-fA-F]{8})/, 16, 9],
  [/^([0-3][0-7]{2})/, 8, 3],
];

/** What follows a backslash. `\xe9` is the character é, not the byte. */
function unescape(rest: string): { text: string; length: number } | undefined {
  const single = SINGLE[rest.charAt(0)];
  if (single !== undefined) return { text: single, length: 1 };
  for (const [pattern, base, length] of NUMBERED) {
    const digits = pattern.exec(rest)?.[1];
    if (digits === undefined) continue;
    const code = Number.parseInt(digits, base);
    if (code === 0 || code > 0x10_ffff) return undefined;
    return { text: asBytes(String.fromCodePoint(code).toWellFormed()), length };
  }
  return undefined;
}
