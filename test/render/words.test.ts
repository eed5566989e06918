import * as fc from "fast-check";
import { expect, test } from "vitest";
import { literally, quoteWord, splitWords } from "../../src/render/words.ts";

test.for([
  ["words", "a b\tc", ["a", "b", "c"]],
  ["spaces around", "  a   b  ", ["a", "b"]],
  ["both quotes", `"a b" 'c d'`, ["a b", "c d"]],
  ["quotes within a word", `a"b c"d'e f'`, ["ab cde f"]],
  ["one quote within the other", `"it's" 'say "x"'`, ["it's", 'say "x"']],
  ["a quote that is never closed", `"a b`, ["a b"]],
  ["escapes", String.raw`a\sb \t \x41 \101 \u00e9 \"`, ["a b", "\t", "A", "A", "\xc3\xa9", '"']],
  ["escapes in quotes", String.raw`"a\nb" 'c\\d'`, ["a\nb", "c\\d"]],
  ["a byte above 127 becomes a character", String.raw`\xe9`, ["\xc3\xa9"]],
  ["half of a surrogate pair", String.raw`\ud800`, ["\xef\xbf\xbd"]],
  ["a backslash at the end", "a b\\", ["a", "b"]],
  ["an unknown escape drops it all", String.raw`a b\q`, undefined],
  ["so does NUL as an escape", String.raw`a \x00`, undefined],
  ["and a code that is none", String.raw`\U00110000`, undefined],
  ["an empty word ends the list", `a "" b`, ["a"]],
  ["a NUL byte, too", "a b\0c d", ["a", "b"]],
  ["nothing", "", []],
] as const)("quadlet's words: %s", ([, value, words]) => {
  expect(splitWords(value)).toEqual(words);
});

test("a word that is quoted is given back", () => {
  const text = fc
    .oneof(fc.string({ unit: "binary" }), fc.string())
    .map((word) => Buffer.from(word.toWellFormed().replaceAll("\0", "x")).toString("latin1"))
    .filter((word) => word !== "");
  fc.assert(
    fc.property(fc.array(text, { maxLength: 5 }), (words) => {
      const value = words.map(quoteWord).join(" ");
      expect(splitWords(value)).toEqual(words);
      expect(value).not.toMatch(/[\n\r\0]/);
    }),
    { numRuns: 500 },
  );
});

test("a literal text has neither specifiers nor variables", () => {
  expect(literally("100% of $HOME and %%")).toBe("100%% of $$HOME and %%%%");
});
