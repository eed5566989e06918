import * as fs from "node:fs";
import path from "node:path";
import * as fc from "fast-check";
import { dir } from "tmp-promise";
import { expect, test } from "vitest";
import { Secret } from "../../src/core/secret.ts";
import { formsOf, MAX_SOUGHT_BYTES, type Form } from "../../src/residue/forms.ts";
import { Residue } from "../../src/residue/residue.ts";
import { PIECE_BYTES } from "../../src/residue/scan.ts";

/** What programs write when they are given a value, each by another's encoder than ours. */
const WRITERS: Record<string, { form: Form; write: (value: Buffer, at: number) => string | Uint8Array }> = {
  "as it is": { form: "raw", write: (value) => value },
  base64: { form: "base64", write: (value) => value.toString("base64") },
  "base64 behind one byte": { form: "base64", write: (value) => behind(value, 1).toString("base64") },
  "base64 behind two bytes": { form: "base64", write: (value) => behind(value, 2).toString("base64") },
  "base64 in lines of 76": { form: "base64", write: (value, at) => folded(behind(value, at % 57), 76, "\n") },
  "base64 in lines of 64 with \\r\\n": {
    form: "base64",
    write: (value, at) => folded(behind(value, at % 48), 64, "\r\n"),
  },
  "base64 in indented lines": {
    form: "base64",
    write: (value, at) => folded(behind(value, at % 57), 76, "\n    "),
  },
  "base64 in lines in JSON": {
    form: "base64",
    write: (value, at) => folded(behind(value, at % 57), 76, "\\n"),
  },
  base64url: { form: "base64url", write: (value) => value.toString("base64url") },
  hex: { form: "hex", write: (value) => value.toString("hex") },
  "hex in capitals": { form: "hex", write: (value) => value.toString("hex").toUpperCase() },
  "hex in lines": {
    form: "hex",
    write: (value) => value.toString("hex").replaceAll(/.{60}/g, "$&\n"),
  },
  "URL-encoded": { form: "url", write: (value) => encodeURIComponent(value.toString()) },
  "URL-encoded by a form": {
    form: "url",
    write: (value) => new URLSearchParams({ key: value.toString() }).toString().slice("key=".length),
  },
  JSON: { form: "json", write: (value) => JSON.stringify(value.toString()) },
  "JSON in ASCII": {
    form: "json",
    write: (value) =>
      JSON.stringify(value.toString()).replaceAll(
        /[\u0080-\uffff]/g,
        (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
      ),
  },
};

function behind(value: Buffer, bytes: number): Buffer {
  return Buffer.concat([Buffer.alloc(bytes, 0xa7), value]);
}

function folded(value: Buffer, length: number, end: string): string {
  return value.toString("base64").replaceAll(new RegExp(`.{${length}}`, "g"), `$&${end}`);
}

/** No white space at its ends, which is left out on purpose. Long enough for two anchors where lines are folded. */
const values = fc
  .string({ unit: "grapheme", minLength: 24, maxLength: 200 })
  .map((text) => `k${text}y`)
  .map((text) => Buffer.from(text.toWellFormed()));

/** Around the borders of pieces, and anywhere. */
const offsets = fc.oneof(
  fc.integer({ min: 0, max: PIECE_BYTES }),
  fc.integer({ min: PIECE_BYTES - 700, max: PIECE_BYTES + 700 }),
);

/** Of a program, which has something of everything. */
const noise = fs.readFileSync(process.execPath).subarray(0, PIECE_BYTES + 2_000);

async function searched(value: Uint8Array, content: Uint8Array) {
  const { path: directory, cleanup } = await dir({ unsafeCleanup: true });
  try {
    fs.writeFileSync(path.join(directory, "file"), content);
    const residue = new Residue([{ secret: "key", version: 1, value: new Secret(value) }]);
    const report = await residue.search({ roots: [directory], euid: 0 });
    expect(report.bytes).toBe(content.length);
    return report.findings.flatMap(({ traces }) => traces);
  } finally {
    await cleanup();
  }
}

test.for(Object.entries(WRITERS))(
  "a value that was written %s is found wherever it lies, also across pieces",
  async ([, { form, write }]) => {
    await fc.assert(
      fc.asyncProperty(values, offsets, async (value, offset) => {
        const written = Buffer.from(write(value, offset));
        const content = Buffer.concat([noise.subarray(0, offset), written, noise.subarray(offset)]);
        const traces = await searched(value, content);
        // What looks the same as it is is told so.
        const sought = formsOf(new Secret(value)) ?? [];
        const isPlain =
          form !== "raw" && (written.includes(value) || !sought.some((one) => one.form === form));
        const [trace] = traces.filter(
          (one) =>
            one.form === form ||
            (isPlain && one.form === "raw") ||
            (form === "base64url" && one.form === "base64"),
        );
        expect(trace).toMatchObject({ secret: "key", version: 1, within: "content", times: 1 });
        expect(trace?.offset).toBeGreaterThanOrEqual(offset);
        expect(trace?.offset).toBeLessThan(offset + written.length);
      }),
      { numRuns: 6, endOnFailure: true },
    );
  },
);

test("of what differs from a value in one place nothing is found, in no form", async () => {
  await fc.assert(
    fc.asyncProperty(values, offsets, fc.nat(), async (value, offset, where) => {
      const other = Buffer.from(value);
      const at = 1 + (where % (value.length - 2));
      other[at] = (value[at] ?? 0) ^ 1;
      const all = Object.values(WRITERS).flatMap(({ write }) => [
        Buffer.from(write(other, offset)),
        Buffer.from("\n"),
      ]);
      const content = Buffer.concat([noise.subarray(0, offset), ...all, noise.subarray(offset)]);
      expect(await searched(value, content)).toEqual([]);
    }),
    { numRuns: 10, endOnFailure: true },
  );
});

test("each of several hundred values is told by its own name, in a file of all of them", async () => {
  const known = Array.from({ length: 300 }, (_, at) => ({
    secret: `key_${at}`,
    version: 1,
    value: new Secret(Buffer.from(`sk-proj-${(at * 7_919).toString(36).padStart(12, "0")}`)),
  }));
  const content = known.map(({ value }) => `${Buffer.from(value.reveal()).toString("base64")}\n`).join("");
  const { path: directory, cleanup } = await dir({ unsafeCleanup: true });
  fs.writeFileSync(path.join(directory, "file"), content);
  const { findings } = await new Residue(known).search({ roots: [directory], euid: 0 });
  await cleanup();
  const found = findings.flatMap(({ traces }) => traces);
  expect(found.map(({ secret }) => secret)).toEqual(known.map(({ secret }) => secret));
  expect(new Set(found.map(({ form }) => form))).toEqual(new Set(["base64"]));
});

test.for([8, 9, 10, 11, 15, 16, 17, 4_095, 4_096, 4_097, 700 * 1024])(
  "a value of %i bytes is found, as it is and as hex",
  async (length) => {
    const numbers = Array.from({ length: Math.ceil(length / 8) }, (_, n) =>
      (n * 48_271).toString(36).padStart(8, "."),
    );
    const value = Buffer.from(numbers.join("").slice(-length));
    const content = Buffer.concat([
      noise.subarray(0, 999_999),
      value,
      noise.subarray(0, 99),
      Buffer.from(value.toString("hex")),
    ]);
    const forms = (await searched(value, content)).map(({ form, times }) => `${form} ${times}`);
    expect(forms).toEqual(["raw 1", "hex 1"]);
  },
);

function keyOf(seed: number): Buffer {
  const [begin, end] = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC".repeat(150), "A".repeat(MAX_SOUGHT_BYTES)];
  return Buffer.from(`-----BEGIN PRIVATE KEY-----\n${begin}${seed}${end}\n-----END PRIVATE KEY-----\n`);
}

test("keys of one kind are told apart, though they begin and end alike", async () => {
  expect(await searched(keyOf(1), keyOf(2))).toEqual([]);
  expect(await searched(keyOf(1), keyOf(1))).toHaveLength(1);
});

test.for([
  ["seven bytes", "1234567"],
  ["white space at its ends, and seven bytes between", "   1234567\n"],
  ["nothing at all", ""],
])("a value of %s is passed over by name", async ([, value = ""]) => {
  const residue = new Residue([{ secret: "pin", version: 2, value: new Secret(Buffer.from(value)) }]);
  expect(residue.tooShort).toEqual([{ secret: "pin", version: 2 }]);
  expect(await residue.search({ roots: ["/etc/hostname"], euid: 0 })).toMatchObject({
    findings: [],
    files: 0,
  });
});

test("a value is found without the newline that it was stored with", async () => {
  expect(await searched(Buffer.from("correct horse\n"), Buffer.from("PASSWORD=correct horse"))).toMatchObject(
    [{ form: "raw", offset: 9 }],
  );
});

test.for([
  ["systemd's quotes", 'a"b$c\\d`e f', 'X="a\\"b\\$c\\\\d\\`e f"'],
  ["a unit's doubled percent sign", "100%sure!", "Environment=X=100%%sure!"],
  ["a shell's single quotes", "it's me, friend", "X='it'\\''s me, friend'"],
  ["a shell's backslashes", "p&ss w(rd)", "X=p\\&ss\\ w\\(rd\\)"],
])("a value in %s is found", async ([, value = "", content = ""]) => {
  expect(await searched(Buffer.from(value), Buffer.from(content))).toMatchObject([{ form: "quoted" }]);
});

test("a file full of one value is one trace with a count", async () => {
  const traces = await searched(Buffer.from("12345678"), Buffer.from("12345678".repeat(400_000)));
  expect(traces).toMatchObject([{ form: "raw", offset: 0, times: 400_000 }]);
});
