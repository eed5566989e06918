import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decodeBase64, decodeRequest, type Field } from "../../src/setec/decode.ts";
import { routes } from "../../src/setec/protocol.ts";
import { scenarios } from "./vectors.ts";

const ALL = ["name", "version", "value", "updateIfChanged"] as const satisfies Field[];

function decode(body: string | Uint8Array, fields: readonly Field[] = ALL) {
  const request = decodeRequest(typeof body === "string" ? Buffer.from(body, "utf8") : body, fields);
  return request && { ...request, value: Buffer.from(request.value).toString("base64") };
}

const latin1 = (text: string) => Buffer.from(text, "latin1");

describe("against the recorded answers of setec", () => {
  test.for(scenarios("json", "transport", "script", "state", "acl"))(
    "$id: exactly what it called a bad request is refused",
    ({ steps }) => {
      for (const { path, body, answer, caller } of steps) {
        const route = routes.get(path);
        if (route === undefined) continue;
        const context = `${caller} ${path} ${Buffer.from(body).toString("latin1").slice(0, 200)}`;
        const refused = decodeRequest(body, route.fields) === undefined;
        expect(refused, context).toBe(answer === "bad request\n");
      }
    },
  );

  test.for(scenarios("json"))("$id: first versions come back as they were put", ({ steps }) => {
    const first = new Map<string, string>();
    for (const { path, body, answer } of steps) {
      const request = decode(body, routes.get(path)?.fields);
      if (request === undefined) continue;
      if (path === "/api/put" && answer === "1") first.set(request.name, request.value);
      if (path !== "/api/get" || !answer.endsWith(',"Version":1}')) continue;
      expect(answer).toBe(`{"Value":"${first.get(request.name)}","Version":1}`);
    }
  });
});

const EMPTY = { name: "", version: 0, value: "", updateIfChanged: false };

describe("the first JSON value of a body", () => {
  test.for([
    ["null", "null"],
    ["null and anything after it", "nullx"],
    ["null after blanks", " \t\r\nnull{"],
    ["an empty object", "{}"],
    ["an object and anything after it", '{}"'],
    ["an object of blanks", "{ \n\t\r}"],
    ["unknown keys", '{"a":[1,{"b":[]},{}],"c":-0.0e-5,"":""}'],
    ["brackets 9,999 deep in the object", `{"a":${"[".repeat(9999)}${"]".repeat(9999)}}`],
  ] as const)("%s decodes to zero values", ([, body]) => {
    expect(decode(body)).toEqual(EMPTY);
  });

  test.for([
    ["nothing", ""],
    ["blanks", " \n"],
    ["a byte order mark", "\ufeff{}"],
    ["half a null", "nul"],
    ["a number", "0"],
    ["a string", '""'],
    ["true", "true"],
    ["an array", "[]"],
    ["a form feed", "\f{}"],
    ["an object without its end", '{"Name":"a"'],
    ["a comma too many", '{"Name":"a",}'],
    ["a comma at first", '{,"Name":"a"}'],
    ["no comma", '{"a":1"b":2}'],
    ["no colon", '{"a"1}'],
    ["a colon in an array", '{"a":[1:2]}'],
    ["no key", '{"a":{1:2}}'],
    ["a bracket of the other kind", '{"a":[1}}'],
    ["a comma at the end of an array", '{"a":[1,]}'],
    ["a leading zero", '{"a":01}'],
    ["a plus sign", '{"a":+1}'],
    ["a lone minus", '{"a":-}'],
    ["a point without digits", '{"a":1.}'],
    ["an exponent without digits", '{"a":1e+}'],
    ["a raw line feed in a string", '{"a":"\n"}'],
    ["an escape JSON lacks", '{"a":"\\x41"}'],
    ["an escaped quote of the other kind", `{"a":"\\'"}`],
    ["three hex digits", '{"a":"\\u12g4"}'],
    ["an escape cut short", '{"a":"\\u12'],
    ["another word", '{"a":nil}'],
    ["brackets 10,000 deep in the object", `{"a":${"[".repeat(10_000)}${"]".repeat(10_000)}}`],
    ["braces 10,000 deep in the object", `{"a":${'{"a":'.repeat(10_000)}1${"}".repeat(10_000)}}`],
    ["brackets without end", `{"a":${"[".repeat(500_000)}`],
  ] as const)("%s is refused", ([, body]) => {
    expect(decode(body)).toBeUndefined();
  });

  test.for([
    ["Name", '"x"', { name: "x" }],
    ["nAMe", '"x"', { name: "x" }],
    ["\\u006eame", '"x"', { name: "x" }],
    ["ver\u017fion", "7", { version: 7 }],
    ["VER\\u017fION", "7", { version: 7 }],
    ["updateIfChanged", "true", { updateIfChanged: true }],
    ["Name ", '"x"', {}],
    ["N\u0430me", '"x"', {}],
    ["ver\u0131ion", "7", {}],
    ["ver\uff53ion", "7", {}],
    ["update\u0130fchanged", "true", {}],
    ["na\\u0000me", '"x"', {}],
  ] as const)("the key %s with %s gives %o", ([key, value, expected]) => {
    expect(decode(`{"${key}":${value}}`)).toEqual({ ...EMPTY, ...expected });
  });

  test("a route's missing fields are skipped unchecked, not unparsed", () => {
    expect(decode('{"Name":5,"Version":"x","Value":{}}', [])).toEqual(EMPTY);
    expect(decode('{"Name":5,"Version":01}', [])).toBeUndefined();
  });

  test.for([
    ["the last of duplicates", '{"Name":"a","name":"b","NAME":"c"}', { name: "c" }],
    ["null keeps a name", '{"Name":"a","name":null}', { name: "a" }],
    ["null keeps a version", '{"Version":3,"Version":null}', { version: 3 }],
    ["null keeps a flag", '{"UpdateIfChanged":true,"UpdateIfChanged":null}', { updateIfChanged: true }],
    ["null empties a value", '{"Value":"djE=","Value":null}', {}],
    ["an empty array empties a value", '{"Value":[1,2],"Value":[]}', {}],
    ["null in an array keeps the byte", '{"Value":[1,2,3],"Value":[9,null]}', { value: "CQI=" }],
    [
      "a byte behind a shorter array's end comes back",
      '{"Value":[1,2,3],"Value":[9],"Value":[null,null,null,null]}',
      { value: "CQIDAA==" },
    ],
    ["null keeps the bytes of a string", '{"Value":"djE=","Value":[null,50]}', { value: "djI=" }],
  ] as const)("duplicates: %s", ([, body, expected]) => {
    expect(decode(body)).toEqual({ ...EMPTY, ...expected });
  });

  test.for([
    '{"Name":5,"Name":"a"}',
    '{"Value":"djE","Value":null}',
    '{"Version":-0}',
    '{"Version":1.0}',
    '{"Version":4294967296}',
    '{"Version":99999999999999999999999999}',
    '{"Version":"1"}',
    '{"UpdateIfChanged":1}',
    '{"UpdateIfChanged":"true"}',
    '{"UpdateIfChanged":truee}',
    '{"Name":nullx}',
    '{"Name":["a"]}',
    '{"Value":5}',
    '{"Value":{}}',
    '{"Value":[256]}',
    '{"Value":[-0]}',
    '{"Value":[1.0]}',
    '{"Value":[[]]}',
    '{"Value":["1"]}',
    '{"Value":[true]}',
    '{"Value":[1,]}',
    '{"Value":[1 2]}',
  ])("%s is refused", (body) => {
    expect(decode(body)).toBeUndefined();
  });
});

describe("strings", () => {
  test.for([
    ["every short escape", String.raw`\"\\\/\b\f\n\r\t`, '"\\/\b\f\n\r\t'],
    ["hex digits of both cases", "\\u00e9\\u00E9", "éé"],
    ["an escaped pair", "\\ud83d\\ude00", "😀"],
    ["a lone high surrogate", "\\ud83dx", "\ufffdx"],
    ["a lone low surrogate", "\\ude00", "\ufffd"],
    ["two highs, then a low", "\\ud83d\\ud83d\\ude00", "\ufffd😀"],
    ["a high before another escape", "\\ud83d\\n", "\ufffd\n"],
    ["a low before a high", "\\ude00\\ud83d", "\ufffd\ufffd"],
    ["an escaped mark and DEL", "\\ufeff\x7f", "\ufeff\x7f"],
  ] as const)("%s", ([, text, expected]) => {
    expect(decode(`{"Name":"${text}"}`)?.name).toBe(expected);
  });

  test.for([
    ["a stray byte", "\xff", 1],
    ["a sequence cut short counts by bytes", "\xe2\x82", 2],
    ["three of four", "\xf0\x9f\x98", 3],
    ["an overlong slash", "\xc0\xaf", 2],
    ["an overlong sequence of three", "\xe0\x9f\xbf", 3],
    ["an overlong sequence of four", "\xf0\x8f\xbf\xbf", 4],
    ["an encoded surrogate", "\xed\xa0\x80", 3],
    ["beyond U+10FFFF", "\xf4\x90\x80\x80", 4],
  ] as const)("bytes that are not UTF-8: %s", ([, text, count]) => {
    const expected = "\ufffd".repeat(count);
    expect(decode(latin1(`{"Name":"a${text}b"}`))?.name).toBe(`a${expected}b`);
    expect(decode(latin1(`{"Name":"${text}"}`))?.name).toBe(expected);
  });
});

const unit = fc.integer({ min: 0, max: 0xffff }).map((code) => String.fromCharCode(code));
const anyString = fc.oneof(fc.string({ unit }), fc.string({ unit: "binary" }), fc.string());
const blanks = fc.string({ unit: fc.constantFrom(" ", "\n", "\r", "\t"), maxLength: 3 });

describe("properties", () => {
  test("what JSON.stringify writes is read, names well-formed", () => {
    fc.assert(
      fc.property(
        anyString,
        fc.integer({ min: 0, max: 4_294_967_295 }),
        fc.uint8Array(),
        fc.boolean(),
        fc.jsonValue(),
        fc.nat(4),
        blanks,
        (name, version, bytes, updateIfChanged, extra, indent, blank) => {
          const value = Buffer.from(bytes).toString("base64");
          const text = JSON.stringify(
            { extra, Name: name, Version: version, Value: value, UpdateIfChanged: updateIfChanged },
            null,
            indent,
          );
          const expected = { name: name.toWellFormed(), version, value, updateIfChanged };
          expect(decode(`${blank}${text}${blank}`)).toEqual(expected);
          const asArray = JSON.stringify({ value: [...bytes], name });
          expect(decode(asArray)).toEqual({ ...EMPTY, name: name.toWellFormed(), value });
        },
      ),
    );
  });

  test("an object is accepted exactly if JSON.parse accepts it or some beginning of it", () => {
    const source = fc.dictionary(fc.string({ maxLength: 3 }), fc.jsonValue({ maxDepth: 2 }));
    const edit = fc.tuple(fc.nat(), fc.constantFrom(...'{}[]",:\\0123.eE+-ntrue\u00e9\n '.split("")));
    fc.assert(
      fc.property(source, fc.array(edit, { maxLength: 3 }), (object, edits) => {
        let text = JSON.stringify(object);
        for (const [seed, char] of edits) {
          const at = seed % (text.length + 1);
          text = seed % 2 === 0 ? text.slice(0, at) + text.slice(at + 1) : insert(text, at, char);
        }
        expect(decode(text, []) !== undefined).toBe(hasObjectAtStart(text));
      }),
      { numRuns: 2000 },
    );
  });

  test("any bytes are answered, with a well-formed name", () => {
    const body = fc.tuple(anyString, fc.uint8Array(), anyString);
    fc.assert(
      fc.property(body, ([before, bytes, after]) => {
        const raw = Buffer.concat([Buffer.from(`{"Name":"${before}`), bytes, Buffer.from(`${after}"}`)]);
        const request = decodeRequest(raw, ALL);
        expect(request?.name.isWellFormed() ?? true).toBe(true);
      }),
    );
  });

  test("base64 comes back, line breaks or not", () => {
    fc.assert(
      fc.property(fc.uint8Array(), fc.array(fc.nat()), (bytes, breaks) => {
        let text = Buffer.from(bytes).toString("base64");
        for (const seed of breaks) text = insert(text, seed % (text.length + 1), "\r\n");
        expect(decodeBase64(Buffer.from(text))).toEqual(new Uint8Array(bytes));
      }),
    );
  });

  test("base64 is accepted exactly if it is padded and of the standard alphabet", () => {
    const text = fc.string({ unit: fc.constantFrom(..."AQgw/+=_- \n\r\u00e9".split("")) });
    fc.assert(
      fc.property(text, (input) => {
        const bare = input.replaceAll(/[\r\n]/g, "");
        const right = /^(?:[\w+/]{4})*(?:[\w+/]{2}==|[\w+/]{3}=)?$/.test(bare) && !bare.includes("_");
        const expected = right ? new Uint8Array(Buffer.from(bare, "base64")) : undefined;
        expect(decodeBase64(Buffer.from(input))).toEqual(expected);
      }),
      { numRuns: 2000 },
    );
  });
});

function insert(text: string, at: number, more: string): string {
  return text.slice(0, at) + more + text.slice(at);
}

function hasObjectAtStart(text: string): boolean {
  if (text.startsWith("null")) return true;
  for (let end = text.indexOf("}"); end !== -1; end = text.indexOf("}", end + 1)) {
    try {
      const parsed: unknown = JSON.parse(text.slice(0, end + 1));
      if (typeof parsed === "object" && !Array.isArray(parsed)) return true;
    } catch {
      // Not the end of it yet.
    }
  }
  return false;
}
