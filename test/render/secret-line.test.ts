import { expect, test } from "vitest";
import { secretLines } from "../../src/render/secret-line.ts";
import { parseUnitFile, Unit } from "../../src/render/unit-file.ts";

function read(...values: string[]) {
  const text = `[Container]\n${values.map((value) => `Secret=${value}\n`).join("")}`;
  const { secrets, faults } = secretLines(new Unit([parseUnitFile("x", Buffer.from(text))]));
  return {
    secrets: secrets.map(({ word: _word, at, ...secret }) => ({
      ...Object.fromEntries(Object.entries(secret).filter(([, value]) => value !== undefined)),
      line: at.line,
    })),
    faults: faults.map(({ what, at }) => `${at.line}: ${what}`),
  };
}

test.for<[string, Record<string, string>]>([
  ["a", { secret: "a", type: "mount" }],
  ["a,type=env", { secret: "a", type: "env", target: "a" }],
  ["a,type=env,target=A", { secret: "a", type: "env", target: "A" }],
  ["a,target=A,type=env", { secret: "a", type: "env", target: "A" }],
  ["source=a,type=env", { secret: "a", type: "env", target: "a" }],
  ["type=mount,source=a", { secret: "a", type: "mount" }],
  ["a,source=b", { secret: "b", type: "mount" }],
  [
    "a,target=/x/y,uid=5,gid=6,mode=0440",
    { secret: "a", type: "mount", target: "/x/y", uid: "5", gid: "6", mode: "0440" },
  ],
  ["a,UID=5,GID=6", { secret: "a", type: "mount", uid: "5", gid: "6" }],
  ["a,target=", { secret: "a", type: "mount" }],
  ["a=b", { secret: "a=b", type: "mount" }],
  ['"a b,type=env,target=A"', { secret: "a b", type: "env", target: "A" }],
  ["'a,type=env,target=it''s'", { secret: "a", type: "env", target: "its" }],
])("Secret=%s", ([value, expected]) => {
  expect(read(value)).toEqual({ secrets: [{ ...expected, line: 2 }], faults: [] });
});

test("one line may name several, and an empty one takes back those before it", () => {
  expect(read("a", "", "b c,type=env", "d").secrets).toMatchObject([
    { secret: "b", line: 4 },
    { secret: "c", type: "env", line: 4 },
    { secret: "d", line: 5 },
  ]);
});

test.for<[string, RegExp]>([
  [",type=env", /it names no secret/],
  ["type=env,target=A", /it names no secret/],
  ["a,type=file", /the type is env or mount/],
  ["a,type=env,type=env", /more than one type/],
  ["a,mode=9", /octal/],
  ["a,mode=0777777777777", /octal/],
  ["a,uid=-1", /the uid is a number/],
  ["a,gid=4294967296", /the gid is a number/],
  ["a,readonly", /not of the form option=value/],
  ["a,colour=red", /no option "colour"/],
  ["a,type=env,mode=0400", /neither uid, gid nor mode/],
  ["a\\qb", /leaves this line out/],
])("Secret=%s is refused, and the others stay", ([value, expected]) => {
  const { secrets, faults } = read("first", value, "last");
  expect(faults).toEqual([expect.stringMatching(expected)]);
  expect(faults[0]).toMatch(/^3: /);
  expect(secrets).toHaveLength(2);
});
