import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { encodeEnvFile, type EnvDialect, type EnvEntry } from "../../src/core/env-file.ts";
import { LegerError } from "../../src/core/error.ts";
import { run } from "../../src/core/exec.ts";
import { parseEnvFile } from "../support/env-parsers.ts";

const DIALECTS = ["podman", "systemd"] as const;
const SECRET = "leger/local/openai_api_key";

describe.for(DIALECTS)("the %s dialect", (dialect) => {
  test.for([
    ["plain text", "sk-abc123"],
    ["nothing", ""],
    ["spaces and tabs at both ends", " \t x \t "],
    ["a hash", "#not a comment # neither"],
    ["quotes of both kinds", `'a' "b`],
    ["backslashes", "\\ \\\\ \\n \\"],
    ["what a shell would expand", "$HOME ${HOME} `id` $(id)"],
    ["an equals sign", "a=b=c"],
    ["a carriage return inside", "a\rb"],
    ["control characters", "\u0001\u001b[31m\u007f"],
    ["letters beyond ASCII", "пароль 🔑 \u2028"],
    ["a byte order mark", "\uFEFFx"],
  ] as const)("gives back %s exactly", ([, value]) => {
    const file = encodeEnvFile([entry("A", value), entry("B", "after")], dialect);
    expect([...parseEnvFile(file, dialect)]).toEqual([
      ["A", latin1(Buffer.from(value))],
      ["B", "after"],
    ]);
  });

  test("whatever bytes the values are, they read back exactly or one is refused", () => {
    let kept = 0;
    fc.assert(
      fc.property(entries(), (list) => {
        const file = encodedOrRefused(list, dialect);
        if (file === undefined) return;
        kept += 1;
        expect([...parseEnvFile(file, dialect)]).toEqual(
          list.map(({ name, value }) => [name, latin1(value)]),
        );
      }),
      { numRuns: 2_000 },
    );
    expect(kept).toBeGreaterThan(200);
  });

  test("no entries make an empty file", () => {
    expect(encodeEnvFile([], dialect)).toHaveLength(0);
  });

  test.for(["", "1A", "A-B", "A B", "A=B", "A\nB", "É", "KEY*"])(
    "refuses %j as a variable's name",
    (name) => {
      expect(() => encodeEnvFile([entry(name, "x")], dialect)).toThrow(
        expect.objectContaining({ code: "BAD_DATA", message: expect.stringContaining(SECRET) }),
      );
    },
  );

  test("refuses a variable that is there twice", () => {
    expect(() => encodeEnvFile([entry("A", "1"), entry("A", "2")], dialect)).toThrow(
      expect.objectContaining({ code: "BAD_DATA", message: expect.stringContaining("twice") }),
    );
  });
});

test.for([
  ["podman", "a NUL byte", "canary\0"],
  ["podman", "bytes that are not UTF-8", Uint8Array.of(0x63, 0xff)],
  ["podman", "an encoded surrogate", Uint8Array.of(0xed, 0xa0, 0x80)],
  ["podman", "a newline", "canary\nb"],
  ["podman", "a newline at the end", "canary\n"],
  ["podman", "a carriage return at the end", "canary\r"],
  ["podman", "64 KiB in one line", "c".repeat(65_536 - "NAME=".length)],
  ["podman", "511,999 bytes", "c".repeat(511_999)],
  ["systemd", "a NUL byte", "canary\0"],
  ["systemd", "bytes that are not UTF-8", Uint8Array.of(0x63, 0xff)],
  ["systemd", "a noncharacter", "canary\uFDD0"],
  ["systemd", "a noncharacter of a higher plane", "canary\u{1FFFE}"],
  ["systemd", "more than one argument of execve may be", "c".repeat(131_072 - "NAME=".length)],
] as const)("%s: refuses %s, names variable and secret, and shows no value", ([dialect, , value]) => {
  const refused = refusalOf([entry("NAME", value)], dialect);
  expect(refused).toMatchObject({ code: "BAD_DATA", message: expect.stringContaining(`NAME (${SECRET})`) });
  expect(refused?.hints.join(" ")).toContain("type=mount");
  expect(`${refused?.message} ${refused?.hints.join(" ")}`).not.toMatch(/canary|ccc/);
});

test.for([
  ["podman", 65_535],
  ["systemd", 131_071],
] as const)("%s: a line of %i bytes is the longest that is taken, and reads back", ([dialect, longest]) => {
  const value = "v".repeat(longest - "NAME=".length);
  expect(parseEnvFile(encodeEnvFile([entry("NAME", value)], dialect), dialect).get("NAME")).toBe(value);
  expect(refusalOf([entry("NAME", `${value}v`)], dialect)).toBeInstanceOf(LegerError);
});

test("the longest variable for systemd is the longest that a program can be given", async () => {
  const env = { NAME: "v".repeat(131_071 - "NAME=".length) };
  expect(await run("/bin/true", [], { env, timeoutMs: 10_000 })).toMatchObject({ status: 0 });
});

test("systemd: a value of several lines is taken", () => {
  const file = encodeEnvFile([entry("PEM", "-----BEGIN-----\nabc\r\n-----END-----\n")], "systemd");
  expect(parseEnvFile(file, "systemd").get("PEM")).toBe("-----BEGIN-----\nabc\r\n-----END-----\n");
});

function entry(name: string, value: string | Uint8Array): EnvEntry {
  return { name, value: typeof value === "string" ? Buffer.from(value) : value, secret: SECRET };
}

function entries(): fc.Arbitrary<EnvEntry[]> {
  const troublesome = fc.constantFrom(...Array.from(" \t\r\n\0#;'\"\\`$=vV1é\u{1F511}\uFFFF\uFEFF"));
  const value = fc.oneof(
    { weight: 8, arbitrary: fc.uint8Array({ maxLength: 12 }) },
    {
      weight: 8,
      arbitrary: fc.array(troublesome, { maxLength: 12 }).map((list) => Buffer.from(list.join(""))),
    },
    {
      weight: 8,
      arbitrary: fc.string({ unit: "binary", maxLength: 12 }).map((text) => Buffer.from(text)),
    },
    // Nearly all the time goes into these.
    {
      weight: 1,
      arbitrary: fc.integer({ min: 65_520, max: 65_540 }).map((length) => Buffer.alloc(length, "v")),
    },
  );
  const name = fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,5}$/);
  return fc.uniqueArray(fc.record({ name, value, secret: fc.constant(SECRET) }), {
    maxLength: 3,
    selector: (made) => made.name,
  });
}

function encodedOrRefused(list: readonly EnvEntry[], dialect: EnvDialect): Uint8Array | undefined {
  try {
    return encodeEnvFile(list, dialect);
  } catch (error) {
    if (error instanceof LegerError && error.code === "BAD_DATA") return undefined;
    throw error;
  }
}

function refusalOf(list: readonly EnvEntry[], dialect: EnvDialect): LegerError | undefined {
  try {
    encodeEnvFile(list, dialect);
    return undefined;
  } catch (error) {
    if (error instanceof LegerError) return error;
    throw error;
  }
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("latin1");
}
