import { expect, test } from "vitest";
import { decodeSetecFile, encodeSetecFile } from "../../src/backup/setec-file.ts";
import { checkStore } from "../../src/store/check.ts";
import { openStore } from "../../src/store/store.ts";
import { readSecrets, takeIn, type PortableSecret } from "../../src/store/transfer.ts";
import { codeOf, contentsOf, temporaryState } from "../store/state.ts";

const TESTER = { principal: "tester", log: (): void => {} };
const KEK = Buffer.alloc(32, 7);

const SECRETS: PortableSecret[] = [
  {
    name: "many",
    state: {
      active: 2,
      latest: 9,
      live: [
        [1, 2],
        [7, 7],
      ],
      deleted: [
        [3, 3],
        [9, 9],
      ],
    },
    values: new Map([
      [1, Buffer.from("one")],
      [2, Buffer.from([0, 255, 10])],
      [7, Buffer.alloc(0)],
    ]),
  },
  {
    name: "__proto__",
    state: {
      active: 4_294_967_295,
      latest: 4_294_967_295,
      live: [[4_294_967_295, 4_294_967_295]],
      deleted: [],
    },
    values: new Map([[4_294_967_295, Buffer.from("z")]]),
  },
];

function sorted(secrets: readonly PortableSecret[]): unknown {
  return secrets
    .map(({ name, state, values }) => ({
      name,
      state,
      values: [...values].map(([number, value]) => [number, Buffer.from(value).toString("hex")]),
    }))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

test("what is taken in from setec comes out for setec the same", async () => {
  using state = temporaryState();
  const file = encodeSetecFile(SECRETS, KEK);
  const secrets = decodeSetecFile(file, KEK);
  expect(sorted(secrets)).toEqual(sorted(SECRETS));
  await takeIn({ stateDir: state.dir }, secrets, TESTER);
  expect(sorted(readSecrets({ stateDir: state.dir }))).toEqual(sorted(SECRETS));
  // A line for each in both logs.
  expect(await checkStore({ stateDir: state.dir })).toMatchObject({
    problems: [],
    secrets: 2,
    versions: 4,
    audit_lines: 4,
  });
  await using store = openStore({ stateDir: state.dir });
  expect(await store.mutate({ do: "put", name: "many", value: Buffer.from("new") })).toBe(10);
  expect(await codeOf(() => takeIn({ stateDir: state.dir }, secrets, TESTER))).toBe("REFUSED");
});

test("a name that is taken refuses all of them", async () => {
  using state = temporaryState();
  {
    await using store = openStore({ stateDir: state.dir });
    await store.mutate({ do: "put", name: "many", value: Buffer.from("mine") });
  }
  const before = contentsOf(state.dir);
  expect(await codeOf(() => takeIn({ stateDir: state.dir }, SECRETS, TESTER))).toBe("REFUSED");
  expect({ ...contentsOf(state.dir), "legerd.lock-journal": "" }).toMatchObject(before);
});

/** Base64 whose last byte is another. */
function spoilt(text: string): string {
  const bytes = Buffer.from(text, "base64");
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  return bytes.toString("base64");
}

test("what cannot be taken in is refused with its reason", async () => {
  const file = encodeSetecFile(SECRETS, KEK);
  const parts: { Version: number; DEK: string; DB: string } = JSON.parse(file.toString());
  const changed = (what: Partial<typeof parts>): Buffer => Buffer.from(JSON.stringify({ ...parts, ...what }));
  const cases: [Buffer, Buffer, string][] = [
    [file, Buffer.alloc(32, 8), "DENIED"],
    [changed({ DEK: spoilt(parts.DEK) }), KEK, "DENIED"],
    [changed({ DB: spoilt(parts.DB) }), KEK, "DAMAGED"],
    [changed({ DB: "" }), KEK, "DAMAGED"],
    [changed({ DEK: "//8=" }), KEK, "DAMAGED"],
    [changed({ Version: 2 }), KEK, "BAD_DATA"],
    [Buffer.from("{}"), KEK, "BAD_DATA"],
    [Buffer.from("canary"), KEK, "BAD_DATA"],
    [file.subarray(0, 100), KEK, "BAD_DATA"],
  ];
  for (const [bytes, key, code] of cases) expect(await codeOf(() => decodeSetecFile(bytes, key))).toBe(code);
  const [many] = SECRETS;
  if (many === undefined) throw new Error("no secret");
  for (const state of [
    { ...many.state, active: 3 },
    { ...many.state, deleted: [[1, 1]] as const },
  ]) {
    const odd = encodeSetecFile([{ ...many, state }], KEK);
    expect(await codeOf(() => decodeSetecFile(odd, KEK))).toBe("BAD_DATA");
  }
});
