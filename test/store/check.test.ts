import * as fs from "node:fs";
import path from "node:path";
import type { DatabaseSync } from "node:sqlite";
import { describe, expect, test } from "vitest";
import { checkStore } from "../../src/store/check.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { codeOf, contentsOf, rawDatabase, temporaryState } from "./state.ts";

const CANARY = "CanaryValue-w3Rt";
const WHOLE = { problems: [], secrets: 3, versions: 4, links: 2, services: 1, audit_lines: 0 };

test("a whole store has no problems, and its check changes and leaves nothing", async () => {
  using state = await filledState();
  const before = contentsOf(state.dir);
  expect(await checkStore({ stateDir: state.dir })).toEqual(WHOLE);
  expect(contentsOf(state.dir)).toEqual(before);
});

test("a check beside a running legerd sees what was acknowledged and holds up neither reads nor writes", async () => {
  using state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  await fill(store);
  const checks = [];
  for (let round = 0; round < 20; round += 1) {
    checks.push(checkStore({ stateDir: state.dir }));
    await store.mutate({ do: "put", name: "alpha", value: Buffer.from(`value ${round}`) });
  }
  for (const { problems, secrets } of await Promise.all(checks))
    expect({ problems, secrets }).toEqual({ problems: [], secrets: 3 });
  expect(await checkStore({ stateDir: state.dir })).toEqual({ ...WHOLE, versions: 24 });
});

test("the log that a killed legerd left is checked with the rest and stays as it is", async () => {
  using state = temporaryState();
  const crashed = path.join(state.parent, "crashed");
  {
    await using store = openStore({ stateDir: state.dir });
    await fill(store);
    fs.cpSync(state.dir, crashed, { recursive: true });
  }
  const { "secrets.db-shm": _, ...before } = contentsOf(crashed);
  expect(await checkStore({ stateDir: crashed })).toEqual(WHOLE);
  expect(contentsOf(crashed)).toMatchObject(before);

  fs.truncateSync(path.join(crashed, "secrets.db-wal"), 20_000);
  const { problems } = await checkStore({ stateDir: crashed });
  expect(problems).toContainEqual(expect.stringMatching(/^acknowledged commits missing at the end: \d+$/));
});

test.for([
  [
    "the value of a version is gone",
    (db) => db.exec("DELETE FROM vals WHERE version = 2"),
    ["secret alpha: version 2: "],
  ],
  [
    "values are damaged",
    (db) => db.exec("UPDATE vals SET sealed = zeroblob(60)"),
    ["secret alpha: version 1: ", "secret alpha: version 2: ", "secret beta: version 1: ", "link kept: "],
  ],
  [
    "a value belongs to no record",
    (db) =>
      db.exec(
        "INSERT INTO vals (owner, version, sealed) SELECT zeroblob(16), 1, sealed FROM vals WHERE version = 2",
      ),
    ["values that belong to no record"],
  ],
  [
    "a value has a version that its record does not know",
    (db) =>
      db.exec(
        "INSERT INTO vals (owner, version, sealed) SELECT owner, 9, sealed FROM vals WHERE version = 2",
      ),
    ["secret alpha: version 9: a value is there"],
  ],
  [
    "records are damaged",
    (db) => db.exec("UPDATE records SET sealed = zeroblob(100)"),
    ["a secret record that cannot be named: ", "a link record", "a service record"],
  ],
  [
    "records are gone",
    (db) => db.exec("DELETE FROM records"),
    ["a record is missing", "there are 0 secret records, but the tree counts 3"],
  ],
  [
    "a record has a key of no kind",
    (db) => db.exec("INSERT INTO records SELECT zeroblob(32), sealed FROM records LIMIT 1"),
    ["a foreign record"],
  ],
  [
    "the tree is gone",
    (db) => db.exec("DELETE FROM tree"),
    [
      "secret alpha: ",
      "secret beta: ",
      "link kept: ",
      "service web: ",
      "node 1114112 of the tree is missing",
    ],
  ],
  [
    "the tree has too many nodes",
    (db) => db.exec("INSERT INTO tree VALUES (5, zeroblob(512))"),
    ["node 5 belongs to no tree"],
  ],
  [
    "the root is damaged",
    (db) => db.exec("UPDATE meta SET value = zeroblob(612) WHERE key = 'root'"),
    ["the root of the tree: "],
  ],
  [
    "the data key is damaged",
    (db) => db.exec("UPDATE meta SET value = zeroblob(60) WHERE key = 'data_key'"),
    ["the wrapped data key is damaged"],
  ],
  [
    "the header says it is another program's",
    (db) => db.exec("PRAGMA application_id = 7"),
    ["its first page is damaged"],
  ],
  ["a table is gone", (db) => db.exec("DROP TABLE vals"), ["the database is damaged"]],
] as const satisfies readonly [string, (db: DatabaseSync) => void, string[]][])(
  "a check says when %s, and never a value",
  async ([, spoil, said]) => {
    using state = await filledState();
    {
      using db = rawDatabase(state.dir);
      spoil(db);
    }
    const { problems } = await checkStore({ stateDir: state.dir });
    for (const words of said) expect(problems).toContainEqual(expect.stringContaining(words));
    expect(problems.join("\n")).not.toContain(CANARY);
  },
);

test("after a problem the rest is checked all the same", async () => {
  using state = await filledState();
  {
    using db = rawDatabase(state.dir);
    db.exec("DELETE FROM vals WHERE version = 2; INSERT INTO tree VALUES (5, zeroblob(512))");
  }
  const { problems, ...counts } = await checkStore({ stateDir: state.dir });
  expect(problems).toEqual([expect.stringContaining("secret alpha: version 2"), "node 5 belongs to no tree"]);
  expect(counts).toEqual({ secrets: 3, versions: 3, links: 2, services: 1, audit_lines: 0 });
});

describe("a check is refused", () => {
  test.for([
    ["where there is no store", (dir: string) => fs.rmSync(dir, { recursive: true }), "CONFIG"],
    [
      "without a database",
      (dir: string) => {
        for (const file of ["secrets.db", "secrets.mark"]) fs.rmSync(path.join(dir, file));
      },
      "CONFIG",
    ],
    ["whose database is gone", (dir: string) => fs.rmSync(path.join(dir, "secrets.db")), "DAMAGED"],
    ["without the main key", (dir: string) => fs.rmSync(path.join(dir, "keys", "main.key")), "CONFIG"],
    [
      "with a main key that others can read",
      (dir: string) => fs.chmodSync(path.join(dir, "keys", "main.key"), 0o644),
      "UNSAFE",
    ],
    [
      "with another main key",
      (dir: string) =>
        fs.writeFileSync(
          path.join(dir, "keys", "main.key"),
          `leger-main-key-1:${Buffer.alloc(32).toString("base64url")}\n`,
        ),
      "CONFIG",
    ],
  ] as const)("%s", async ([, spoil, code]) => {
    using state = await filledState();
    spoil(state.dir);
    const before = fs.existsSync(state.dir) ? contentsOf(state.dir) : undefined;
    expect(await codeOf(() => checkStore({ stateDir: state.dir }))).toBe(code);
    expect(fs.existsSync(state.dir) ? contentsOf(state.dir) : undefined).toEqual(before);
  });
});

async function filledState(): Promise<ReturnType<typeof temporaryState>> {
  const state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  await fill(store);
  return state;
}

/** Four versions of three secrets, and one that was deleted with all of its own. */
async function fill(store: Store): Promise<void> {
  for (const name of ["alpha", "beta", "gamma", "deleted"]) {
    await store.mutate({ do: "put", name, value: Buffer.from(`${CANARY} ${name}`) });
  }
  await store.mutate({ do: "put", name: "alpha", value: Buffer.from(CANARY) });
  await store.mutate({ do: "delete", name: "deleted" });
  await store.mutate({ do: "keep", id: "kept", value: Buffer.from(CANARY) });
  await store.mutate({ do: "link", id: "linked", secret: "alpha" });
  await store.mutate({ do: "set-service", service: { name: "web", variables: { KEY: "alpha" } } });
}
