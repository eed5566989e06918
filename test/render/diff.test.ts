import * as fc from "fast-check";
import { expect, test } from "vitest";
import { unifiedDiff } from "../../src/render/diff.ts";

test("nothing for the same text", () => {
  expect(unifiedDiff("x", "a\n", "a\n")).toBe("");
  expect(unifiedDiff("x", undefined, undefined)).toBe("");
});

test("a file that comes, and one that goes", () => {
  expect(unifiedDiff("x", undefined, "a\nb\n")).toBe("--- /dev/null\n+++ x\n@@ -0,0 +1,2 @@\n+a\n+b\n");
  expect(unifiedDiff("x", "a\n", undefined)).toBe("--- x\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-a\n");
});

/** Applies a diff as patch(1) does, and is as strict. */
function patched(before: string, diff: string): string {
  const old = before.split("\n").slice(0, -1);
  const now: string[] = [];
  let at = 0;
  for (const hunk of diff.split(/^(?=@@ )/m).slice(1)) {
    const [head = "", ...lines] = hunk.split("\n").slice(0, -1);
    const [, start, oldCount, newStart, newCount] = (
      /^@@ -(\d+),(\d+) \+(\d+),(\d+) @@$/.exec(head) ?? []
    ).map(Number);
    while (at < (start ?? 0) - (oldCount === 0 ? 0 : 1)) now.push(old[at++] ?? "missing");
    expect(now.length + (newCount === 0 ? 0 : 1)).toBe(newStart);
    expect(lines.filter((line) => !line.startsWith("+"))).toHaveLength(oldCount ?? -1);
    expect(lines.filter((line) => !line.startsWith("-"))).toHaveLength(newCount ?? -1);
    for (const line of lines) {
      if (!line.startsWith("+")) expect(old[at++]).toBe(line.slice(1));
      if (!line.startsWith("-")) now.push(line.slice(1));
    }
  }
  return [...now, ...old.slice(at)].map((line) => `${line}\n`).join("");
}

test("a diff makes the one of the other", () => {
  const text = fc
    .array(fc.constantFrom("a", "b", "c", ""), { maxLength: 40 })
    .map((lines) => lines.map((line) => `${line}\n`).join(""));
  fc.assert(
    fc.property(text, text, (before, after) => {
      expect(patched(before, unifiedDiff("x", before, after))).toBe(after);
    }),
    { numRuns: 300 },
  );
});
