import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseUnitFile, printUnitFile, Unit } from "../../src/render/unit-file.ts";

const parse = (text: string) => parseUnitFile("x.container", Buffer.from(text, "latin1"));
const said = (text: string) =>
  parse(text).items.map(({ kind, section, key, value }) =>
    kind === "entry" ? `${section}: ${key}=${value}` : kind === "section" ? `[${section}]` : kind,
  );

/** Bytes that look like unit files now and then. */
const unitBytes = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        ..."[Container]|[Service]|Secret=|Secret=a,type=env|Image=x|#|;|\\|=|\n|\r\n| |\t|\0|\xc2\x85|\xe2\x80\xa8|\xff|[|]|[X-Leger]|%d|\"|'|Exec=a \\\n  b".split(
          "|",
        ),
      ),
      fc.constant("\n"),
      fc.string({ unit: "binary", maxLength: 6 }).map((text) => Buffer.from(text).toString("latin1")),
      fc.uint8Array({ maxLength: 6 }).map((bytes) => Buffer.from(bytes).toString("latin1")),
    ),
    { maxLength: 40 },
  )
  .map((parts) => Buffer.from(parts.join(""), "latin1"));

describe("what is parsed is printed byte for byte", () => {
  test("for any bytes", () => {
    fc.assert(
      fc.property(fc.oneof(unitBytes, fc.uint8Array({ maxLength: 400 })), (bytes) => {
        expect(printUnitFile(parseUnitFile("x", bytes))).toEqual(Buffer.from(bytes));
      }),
      { numRuns: 3_000 },
    );
  });

  test("every item knows its line", () => {
    fc.assert(
      fc.property(unitBytes, (bytes) => {
        let line = 1;
        for (const item of parseUnitFile("x", bytes).items) {
          expect(item.line).toBe(line);
          line += item.raw.split("\n").length - 1;
        }
      }),
    );
  });
});

test.for([
  ["plain", "[Container]\nImage=x\n", ["[Container]", "Container: Image=x"]],
  ["spaces around", "  [Container]  \n Image  =  x y \n", ["[Container]", "Container: Image=x y"]],
  ["CRLF", "[Container]\r\nImage=x\r\n", ["[Container]", "Container: Image=x"]],
  ["no end of line", "[A]\nb=c", ["[A]", "A: b=c"]],
  ["both kinds of comment, and an empty line", "# a\n; b\n\n[A]\n", ["comment", "comment", "comment", "[A]"]],
  ["a colon is no comment", ":a\n", ["fault"]],
  ["a continued line", "[A]\nb=c \\\n   d\ne=f\n", ["[A]", "A: b=c d", "A: e=f"]],
  ["comments within a continued line", "[A]\nb=c \\\n# no\n\n;no\n d\n", ["[A]", "A: b=c d"]],
  ["a backslash at the very end", "[A]\nb=c\\", ["[A]", "A: b=c"]],
  ["a continued line that only a comment follows is lost", "[A]\nb=c\\\n# d\n", ["[A]", "void"]],
  ["a lone backslash before a comment", "[A]\n\\\n# d\nb=c\n", ["[A]", "void", "comment", "A: b=c"]],
  ["a lone backslash before an entry", "[A]\n\\\nb=c\n", ["[A]", "A: b=c"]],
  ["a continued section", "[A]\\\n\nb=c\n", ["fault"]],
  ["sections twice", "[A]\nb=1\n[B]\nb=2\n[A]\nb=3\n", ["[A]", "A: b=1", "[B]", "B: b=2", "[A]", "A: b=3"]],
  ["an entry before any section", "b=c\n[A]\n", ["fault", "[A]"]],
  ["no key", "[A]\n=c\n", ["[A]", "fault"]],
  ["no equals sign", "[A]\nb\n", ["[A]", "fault"]],
  ["an empty section name", "[]\n", ["fault"]],
  ["a bracket in a section name", "[a[b]\n", ["fault"]],
  ["text behind a section is a key", "[A]\n[B]c=d\n", ["[A]", "A: [B]c=d"]],
  ["no closing bracket", "[A\n", ["fault"]],
  ["values keep quotes, equals signs, specifiers", '[A]\nb="c=%i"$x\n', ["[A]", 'A: b="c=%i"$x']],
  ["Unicode's spaces are trimmed", "[A]\nb=c\xc2\xa0\n\xe2\x80\x83d=e\n", ["[A]", "A: b=c", "A: d=e"]],
  ["bytes that are not UTF-8 stay", "[A]\nb=\xff\xfe\n", ["[A]", "A: b=\xff\xfe"]],
  ["nothing", "", []],
] as const)("podman reads: %s", ([, text, expected]) => {
  expect(said(text)).toEqual(expected);
});

describe("merged files", () => {
  const unit = new Unit([
    parse("[Container]\nSecret=a\nSecret=b\nUser=1\n[Service]\nx=1\n"),
    parse("[Container]\nSecret=\nSecret=c\nUser=\n[Container]\nSecret=d\nExec=\"say 'it'\"\n"),
  ]);

  test("an empty value takes back what a list had, and sections of one name are one", () => {
    expect(unit.all("Container", "Secret").map(({ value, line }) => [value, line])).toEqual([
      ["c", 3],
      ["d", 6],
    ]);
  });

  test("of single values the last one counts, without its quotes; an empty one is none", () => {
    expect(unit.last("Container", "User")).toBeUndefined();
    expect(unit.has("Container", "User")).toBe(true);
    expect(unit.last("Container", "Exec")?.value).toBe("say 'it'");
    expect(unit.last("Service", "x")?.value).toBe("1");
    expect(unit.last("Nope", "x")).toBeUndefined();
  });
});

test("a value is read in linear time", () => {
  const megabyte = " ".repeat(1024 * 1024);
  expect(said(`[A]\nb=${megabyte}c${megabyte}\n`)).toEqual(["[A]", "A: b=c"]);
});
