import { describe, expect, test } from "vitest";
import { z } from "zod";
import { decodeRequest } from "../../src/setec/decode.ts";
import {
  encodeInfo,
  encodeList,
  encodeValue,
  refusals,
  routes,
  type SecretInfo,
} from "../../src/setec/protocol.ts";
import { scenarios } from "./vectors.ts";

const Info = z.object({
  Name: z.string(),
  Versions: z.array(z.number()),
  ActiveVersion: z.number(),
});
const Value = z.object({ Value: z.string(), Version: z.number() });

const everything = scenarios("json", "script", "state", "acl", "transport");

describe("answers are written as setec wrote them", () => {
  test.for(everything)("$id", ({ steps }) => {
    for (const { path, answer, status } of steps) {
      if (status !== 200) continue;
      const json: unknown = JSON.parse(answer);
      if (path === "/api/info") expect(encodeInfo(Info.parse(json))).toBe(answer);
      if (path === "/api/get") expect(encodeValue(Value.parse(json))).toBe(answer);
      if (path === "/api/list") {
        expect(encodeList((z.nullable(z.array(Info)).parse(json) ?? []).map(encodeInfo))).toBe(answer);
      }
    }
  });

  test.for(everything)("$id: info answers with the name that was decoded", ({ steps }) => {
    for (const { path, body, answer, status } of steps) {
      if (path !== "/api/info" || status !== 200) continue;
      const name = decodeRequest(body, ["name"])?.name;
      expect(Info.parse(JSON.parse(answer)).Name).toBe(name);
    }
  });

  test.for([
    ["a", "a"],
    ["<>&", String.raw`\u003c\u003e\u0026`],
    ["\u2028\u2029", String.raw`\u2028\u2029`],
    ["\b\f\n\r\t\0\u001f", String.raw`\b\f\n\r\t\u0000\u001f`],
    ["\u007f\u0085\ufeff é😀/", "\u007f\u0085\ufeff é😀/"],
    ['"\\', String.raw`\"\\`],
  ] as const)("the name %j comes out as %s", ([Name, text]) => {
    const info: SecretInfo = { Name, Versions: [1, 4_294_967_295], ActiveVersion: 4_294_967_295 };
    const expected = `{"Name":"${text}","Versions":[1,4294967295],"ActiveVersion":4294967295}`;
    expect(encodeInfo(info)).toBe(expected);
    expect(encodeList([info, info].map(encodeInfo))).toBe(`[${expected},${expected}]`);
  });

  test("fields come out in setec's order, and only those", () => {
    const mixed = { Version: 1, Other: "x", Value: "djE=" };
    expect(encodeValue(mixed)).toBe('{"Value":"djE=","Version":1}');
    const info = { ActiveVersion: 1, Other: "x", Versions: [1], Name: "a" };
    expect(encodeInfo(info)).toBe('{"Name":"a","Versions":[1],"ActiveVersion":1}');
  });
});

test("every plain text that setec refused with is in the table, with its status", () => {
  const known = new Set(Object.values(refusals).map(({ status, body }) => `${status} ${body}`));
  for (const { steps } of everything) {
    for (const { status, answer } of steps) {
      if (status === 200 || status === 304 || status === 307) continue;
      expect(known).toContain(`${status} ${answer}`);
    }
  }
});

test("the table has setec's eight routes", () => {
  expect([...routes].map(([path, { operation }]) => [path, `/api/${operation}`])).toEqual(
    [
      "/api/list",
      "/api/get",
      "/api/info",
      "/api/put",
      "/api/create-version",
      "/api/activate",
      "/api/delete",
      "/api/delete-version",
    ].map((path) => [path, path]),
  );
});
