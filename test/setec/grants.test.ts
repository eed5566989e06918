import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { compileGrants } from "../../src/setec/grants.ts";
import { decodeRequest } from "../../src/setec/decode.ts";
import { routes } from "../../src/setec/protocol.ts";
import { grantsOf, scenarios } from "./vectors.ts";

function matches(pattern: string, name: string): boolean {
  return compileGrants([{ action: ["get"], secret: [pattern] }]).allows("get", name);
}

describe("against the recorded answers of setec", () => {
  test.for(scenarios("acl"))("$id: exactly what it denied is not allowed", ({ steps }) => {
    let compared = 0;
    for (const { caller, path, body, status } of steps) {
      const route = routes.get(path);
      const grants = grantsOf(caller);
      if (route === undefined || route.operation === "list" || grants === undefined) continue;
      // Checks of names, versions and bodies come first and say nothing about grants.
      if (status === 400 || status === 500) continue;
      const name = decodeRequest(body, route.fields)?.name ?? "";
      const allowed = compileGrants(grants).allows(route.action, name);
      expect(allowed, `${caller} ${path} ${name}`).toBe(status !== 403);
      compared++;
    }
    expect(compared).toBeGreaterThan(0);
  });
});

describe("patterns", () => {
  // The cases of creachadair/mds, whose matcher setec uses, and of setec's own tests.
  test.for([
    ["*", "", true],
    ["", "", true],
    ["", "a", false],
    ["a*c", "abc", true],
    ["a*cd", "abc", false],
    ["a*cd", "abXcd", true],
    ["ab**ef", "abcdef", true],
    ["ab*c*", "ab___", false],
    ["ab*c*", "ab__cd_", true],
    ["*", "*", true],
    ["dev/*", "dev/bar/quux", true],
    ["dev/*", "dev", false],
    ["a*a", "a", false],
    ["ab*ba", "aba", false],
    ["*ab*ab", "ab", false],
    ["*ab*b", "ab", false],
    ["a*\n*z", "a\n\nz", true],
    ["A", "a", false],
    ["a.c", "abc", false],
    ["[ab]", "a", false],
    ["?", "a", false],
    ["\\*", "\\x", true],
    ["\ud83d*", "😀", false],
    ["*\ude00", "😀", false],
    ["\ud83d", "\ufffd", true],
  ] as const)("%j on %j: %s", ([pattern, name, expected]) => {
    expect(matches(pattern, name)).toBe(expected);
  });

  test("agree with a plain recursive matcher", () => {
    const letters = fc.constantFrom("a", "b", "/", "😀");
    const pattern = fc.string({ unit: fc.oneof(letters, fc.constant("*")), maxLength: 8 });
    const name = fc.string({ unit: letters, maxLength: 10 });
    fc.assert(
      fc.property(pattern, name, (glob, text) => {
        expect(matches(glob, text)).toBe(naive(glob.split(""), text.split("")));
      }),
      { numRuns: 5000 },
    );
  });

  test("agree with the recursive matcher on names made from the pattern", () => {
    const piece = fc.string({ unit: fc.constantFrom("a", "b"), maxLength: 3 });
    fc.assert(
      fc.property(fc.array(piece), fc.array(piece), (pieces, fillers) => {
        const name = pieces.map((part, index) => part + (fillers[index] ?? "")).join("");
        expect(matches(`${pieces.join("*")}*`, name)).toBe(true);
        const glob = pieces.join("*");
        expect(matches(glob, name)).toBe(naive(glob.split(""), name.split("")));
      }),
    );
  });

  test("with many stars end on a long name that does not match", () => {
    // One step per star and letter; a matcher that goes back would not end.
    expect(matches(`${"*a".repeat(200)}*b`, "a".repeat(100_000))).toBe(false);
    expect(matches(`${"a*".repeat(200)}b`, "a".repeat(100_000))).toBe(false);
  });
});

describe("grants", () => {
  const access = compileGrants([
    { action: ["get"], secret: ["r/*"] },
    { action: ["put"], secret: ["w/*"] },
    { action: ["get", "info"], secret: ["both/1", "both/2"] },
    { action: ["*"], secret: ["star"] },
    { action: ["GET"], secret: ["upper"] },
    { action: ["get"], secret: [] },
    { action: [], secret: ["*"] },
  ]);

  test.for([
    ["get", "r/1", true],
    ["put", "r/1", false],
    ["put", "w/1", true],
    ["get", "w/1", false],
    ["get", "both/2", true],
    ["info", "both/1", true],
    ["put", "both/1", false],
    ["get", "star", false],
    ["*", "star", true],
    ["get", "upper", false],
    ["constructor", "r/1", false],
  ] as const)("%s on %s: %s", ([action, name, expected]) => {
    expect(access.allows(action, name)).toBe(expected);
  });

  test("none allow nothing", () => {
    expect(compileGrants([]).allows("get", "")).toBe(false);
  });
});

function naive(pattern: readonly string[], name: readonly string[]): boolean {
  const [first, ...rest] = pattern;
  if (first === undefined) return name.length === 0;
  if (first !== "*") return name[0] === first && naive(rest, name.slice(1));
  return name.some((_, at) => naive(rest, name.slice(at))) || naive(rest, []);
}
