import * as fs from "node:fs";
import path from "node:path";
import type { DatabaseSync, SQLInputValue } from "node:sqlite";
import { describe, expect, test } from "vitest";
import { checkStore } from "../../src/store/check.ts";
import { connect, prepareDatabase } from "../../src/store/database.ts";
import { Rows } from "../../src/store/rows.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { hasNumber } from "../../src/store/versions.ts";
import { answersOf, codeOf, contentsOf, rawDatabase, temporaryState, told } from "./state.ts";

type Rowset = Record<string, SQLInputValue>[];
/** What the tables held at one time. */
type Tables = { meta: Rowset; records: Rowset; tree: Rowset; vals: Rowset };

/** The rows of the store under attack, as a thief with an old copy would know them. */
type Loot = {
  alpha: SQLInputValue;
  beta: SQLInputValue;
  gamma: SQLInputValue;
  alphaOwner: SQLInputValue;
  betaOwner: SQLInputValue;
  gammaOwner: SQLInputValue;
  /** Before version 2 of alpha was activated. */
  older: Tables;
  now: Tables;
};

/** How a damaged database may be turned down; CONFIG where the damage makes its schema look newer. */
const REFUSALS = ["DAMAGED", "IO", "CONFIG"];

const NAMES = ["alpha", "beta", "gamma", "nobody"];

/** What is done to the rows, and which questions must notice: each of these answers DAMAGED. */
const ATTACKS: readonly [
  does: string,
  attack: (db: DatabaseSync, loot: Loot) => void,
  noticedBy: string[],
][] = [
  [
    "the records of two secrets swapped",
    (db, { alpha, beta, now }) => {
      setSealed(db, alpha, sealedOf(now, beta));
      setSealed(db, beta, sealedOf(now, alpha));
    },
    ["get alpha", "get beta", "info alpha", "list", "together", "put alpha"],
  ],
  [
    "a record put back as it was before an activate",
    (db, { alpha, older }) => setSealed(db, alpha, sealedOf(older, alpha)),
    ["get alpha", "info alpha", "active alpha", "list", "together", "put alpha"],
  ],
  [
    "one bit of a record flipped",
    (db, { alpha, now }) => setSealed(db, alpha, flipped(sealedOf(now, alpha))),
    ["get alpha", "info alpha", "list", "put alpha"],
  ],
  [
    "a record taken away",
    (db, { alpha }) => db.prepare("DELETE FROM records WHERE key = ?").run(alpha),
    ["get alpha", "get alpha 1", "info alpha", "active alpha", "list", "together", "put alpha"],
  ],
  [
    "every record taken away",
    (db) => db.exec("DELETE FROM records"),
    ["get alpha", "get beta", "list", "service", "services", "link", "links", "put alpha"],
  ],
  [
    "a record put under another secret's key",
    (db, { alpha, gamma, now }) => insert(db, "records", { key: gamma, sealed: sealedOf(now, alpha) }),
    ["list"],
  ],
  [
    "a deleted secret put back",
    (db, { gamma, gammaOwner, older }) => {
      insert(db, "records", { key: gamma, sealed: sealedOf(older, gamma) });
      for (const row of older.vals) if (same(row["owner"], gammaOwner)) insert(db, "vals", row);
    },
    ["list"],
  ],
  [
    "the values of two versions swapped",
    (db, { alphaOwner, now }) => {
      setValue(db, alphaOwner, 1, valueOf(now, alphaOwner, 2));
      setValue(db, alphaOwner, 2, valueOf(now, alphaOwner, 1));
    },
    ["get alpha", "get alpha 1", "together"],
  ],
  [
    "the values of two secrets swapped",
    (db, { alphaOwner, betaOwner, now }) => {
      setValue(db, alphaOwner, 1, valueOf(now, betaOwner, 1));
      setValue(db, betaOwner, 1, valueOf(now, alphaOwner, 1));
    },
    ["get alpha 1", "get beta", "together"],
  ],
  [
    "a value taken away",
    (db, { alphaOwner }) => db.prepare("DELETE FROM vals WHERE owner = ? AND version = 2").run(alphaOwner),
    ["get alpha", "get alpha 2", "together"],
  ],
  [
    "a value cut short",
    (db) => db.exec("UPDATE vals SET sealed = substr(sealed, 1, 8)"),
    ["get alpha", "get beta", "kept"],
  ],
  [
    "the tree as it was",
    (db, { older }) => {
      db.exec("DELETE FROM tree");
      for (const row of older.tree) insert(db, "tree", row);
    },
    ["list", "put alpha"],
  ],
  ["the tree taken away", (db) => db.exec("DELETE FROM tree"), ["list", "put alpha"]],
  ["a zeroed tree", (db) => db.exec("UPDATE tree SET slots = zeroblob(512)"), ["list", "put alpha"]],
  [
    "the records as they were, without their root",
    (db, { older }) => {
      db.exec("DELETE FROM records; DELETE FROM tree");
      for (const row of older.records) insert(db, "records", row);
      for (const row of older.tree) insert(db, "tree", row);
    },
    ["get alpha", "list", "put alpha"],
  ],
  [
    "the root as it was",
    (db, { older }) => setRoot(db, older),
    ["get alpha", "get beta", "list", "services", "count", "put alpha"],
  ],
  [
    "the whole database as it was",
    (db, { older }) => {
      db.exec("DELETE FROM records; DELETE FROM tree; DELETE FROM vals");
      for (const table of ["records", "tree", "vals"] as const) {
        for (const row of older[table]) insert(db, table, row);
      }
      setRoot(db, older);
    },
    ["get alpha", "get beta", "list", "services", "count", "put alpha"],
  ],
  [
    "the root taken away",
    (db) => db.exec("DELETE FROM meta WHERE key = 'root'"),
    ["get alpha", "list", "count", "put alpha"],
  ],
  [
    "the root cut short",
    (db) => db.exec("UPDATE meta SET value = x'00' WHERE key = 'root'"),
    ["get alpha", "count"],
  ],
  ["the table of values dropped", (db) => db.exec("DROP TABLE vals"), ["get alpha", "list", "put alpha"]],
  ["the table of records dropped", (db) => db.exec("DROP TABLE records"), ["get alpha", "list", "put alpha"]],
];

describe.for(ATTACKS)("%s", ([, attack, noticedBy]) => {
  test("is answered with the truth or with DAMAGED while the store is open", async () => {
    using state = temporaryState();
    await using store = openStore({ stateDir: state.dir, cacheEntries: 0 });
    const loot = await build(state.dir, store);
    const truth = await answersOf(questionsTo(store));
    expect(new Set(Object.values(truth))).not.toContain("DAMAGED");
    {
      using db = rawDatabase(state.dir);
      attack(db, loot);
    }
    const answers = await answersOf({
      ...questionsTo(store),
      "put alpha": () => store.mutate({ do: "put", name: "alpha", value: Buffer.from("new") }),
    });
    expect(untrue(answers, truth)).toEqual(
      ["put alpha"].filter((question) => answers[question] !== "DAMAGED"),
    );
    expect(noticedBy.filter((question) => answers[question] !== "DAMAGED")).toEqual([]);
    expect((await checkStore({ stateDir: state.dir })).problems).not.toEqual([]);
  });

  test("is answered with the truth or with DAMAGED by a store that is opened afterwards", async () => {
    using state = temporaryState();
    const first = openStore({ stateDir: state.dir });
    const loot = await build(state.dir, first);
    const truth = await answersOf(questionsTo(first));
    await first.close();
    {
      using db = rawDatabase(state.dir);
      attack(db, loot);
    }
    expect((await checkStore({ stateDir: state.dir })).problems).not.toEqual([]);
    const before = contentsOf(state.dir);
    let store: Store | undefined;
    const opened = await codeOf(() => {
      store = openStore({ stateDir: state.dir });
    });
    if (store === undefined) {
      expect(opened).toBe("DAMAGED");
      expect(contentsOf(state.dir)).toEqual(before);
      return;
    }
    try {
      const answers = await answersOf(questionsTo(store));
      expect(untrue(answers, truth)).toEqual([]);
      expect(
        noticedBy.filter((question) => question !== "put alpha" && answers[question] !== "DAMAGED"),
      ).toEqual([]);
    } finally {
      await store.close();
    }
  });
});

describe("with one bit of the file flipped", () => {
  // 1,000 times in all; in parts, so that none of them takes long on a busy machine.
  test.for([1, 2, 3, 4])(
    "250 times, every answer is the truth or DAMAGED, and a check finds what an answer would meet (%i of 4)",
    async () => {
      using state = temporaryState();
      const { truthOfRows, pristine } = await closedStore(state.dir);
      const file = path.join(state.dir, "secrets.db");
      const before = contentsOf(state.dir);
      const wrong: string[] = [];
      const seen = { refused: 0, damaged: 0, unharmed: 0 };
      for (let round = 0; round < 250; round += 1) {
        // The first page holds the header and the schema: a small part of the file with much to break.
        const bit = randomBelow(8 * (round % 4 === 0 ? 4_096 : pristine.length));
        fs.writeFileSync(file, withBitFlipped(pristine, bit));
        const problems = round % 10 === 0 ? await problemsOf(state.dir) : undefined;
        let answers: Record<string, string> = {};
        const opened = await codeOf(async () => {
          answers = await answersOfRows(state.dir);
        });
        const lies = untrue(answers, truthOfRows, REFUSALS);
        if (lies.length > 0) wrong.push(`bit ${bit}: ${lies.join(", ")}`);
        if (!["fine", ...REFUSALS].includes(opened)) wrong.push(`bit ${bit}: refused with ${opened}`);
        const outcome =
          opened !== "fine" ? "refused" : Object.values(answers).includes("DAMAGED") ? "damaged" : "unharmed";
        seen[outcome] += 1;
        if (outcome !== "unharmed" && problems === 0)
          wrong.push(`bit ${bit}: ${outcome}, but the check found nothing`);
        fs.writeFileSync(file, pristine);
        if (outcome === "refused") expect(contentsOf(state.dir), `bit ${bit}`).toEqual(before);
      }
      expect(wrong).toEqual([]);
      expect(Math.min(seen.refused, seen.damaged, seen.unharmed)).toBeGreaterThan(0);
    },
  );

  test("a whole store answers with the truth or with DAMAGED, too", async () => {
    using state = temporaryState();
    const { truth, pristine } = await closedStore(state.dir);
    const wrong: string[] = [];
    for (let round = 0; round < 15; round += 1) {
      const bit = randomBelow(8 * pristine.length);
      fs.writeFileSync(path.join(state.dir, "secrets.db"), withBitFlipped(pristine, bit));
      let store: Store | undefined;
      const code = await codeOf(() => {
        store = openStore({ stateDir: state.dir, cacheEntries: 0 });
      });
      if (store === undefined) {
        if (!REFUSALS.includes(code)) wrong.push(`bit ${bit}: refused with ${code}`);
        continue;
      }
      const answers = await answersOf(questionsTo(store));
      const lies = untrue(answers, truth, REFUSALS);
      if (lies.length > 0) wrong.push(`bit ${bit}: ${lies.join(", ")}`);
      await store.close();
    }
    expect(wrong).toEqual([]);
  });

  test("a log that a killed legerd left is refused, never taken for a shorter one", async () => {
    using state = temporaryState();
    const crashed = path.join(state.parent, "crashed");
    {
      await using store = openStore({ stateDir: state.dir });
      await build(state.dir, store);
      fs.cpSync(state.dir, crashed, { recursive: true });
      fs.chmodSync(crashed, 0o700);
    }
    const log = path.join(crashed, "secrets.db-wal");
    const pristine = fs.readFileSync(log);
    expect(pristine.length).toBeGreaterThan(50_000);
    for (let round = 0; round < 100; round += 1) {
      fs.writeFileSync(log, withBitFlipped(pristine, randomBelow(8 * pristine.length)));
      expect(await codeOf(() => prepareDatabase({ stateDir: crashed }))).toBe("DAMAGED");
      fs.writeFileSync(log, pristine.subarray(0, randomBelow(pristine.length)));
      expect(await codeOf(() => prepareDatabase({ stateDir: crashed }))).toBe("DAMAGED");
    }
    fs.rmSync(log);
    expect(await codeOf(() => prepareDatabase({ stateDir: crashed }))).toBe("DAMAGED");
    fs.writeFileSync(log, pristine);
    expect(await codeOf(() => prepareDatabase({ stateDir: crashed }))).toBe("fine");
  });
});

test("a database that ends amid a page is read with its log: the power went while that was copied", async () => {
  using state = temporaryState();
  const crashed = path.join(state.parent, "crashed");
  await using store = openStore({ stateDir: state.dir });
  await build(state.dir, store);
  fs.cpSync(state.dir, crashed, { recursive: true });
  fs.chmodSync(crashed, 0o700);
  fs.appendFileSync(path.join(crashed, "secrets.db"), Buffer.alloc(512));
  await using copy = openStore({ stateDir: crashed });
  expect(await copy.list()).toEqual(await store.list());
  expect(copy.get("alpha")).toEqual(store.get("alpha"));
});

test("a database that was cut short anywhere is refused and left as it was", async () => {
  using state = temporaryState();
  const { pristine } = await closedStore(state.dir);
  const file = path.join(state.dir, "secrets.db");
  const lengths = [
    0,
    1,
    15,
    16,
    99,
    100,
    512,
    4_095,
    4_096,
    8_192,
    pristine.length - 4_096,
    pristine.length - 1,
  ];
  for (let round = 0; round < 100; round += 1) lengths.push(randomBelow(pristine.length));
  for (const length of lengths) {
    fs.writeFileSync(file, pristine.subarray(0, length));
    const before = contentsOf(state.dir);
    expect(await codeOf(() => openStore({ stateDir: state.dir })), `${length} bytes`).toBe("DAMAGED");
    expect(contentsOf(state.dir)).toEqual(before);
  }
  fs.writeFileSync(file, pristine);
  expect(await codeOf(() => prepareDatabase({ stateDir: state.dir }))).toBe("fine");
});

/** Secrets with versions, a link of each kind and a service; gamma was there and is deleted. */
async function build(dir: string, store: Store): Promise<Loot> {
  const put = (name: string, value: string): Promise<number> =>
    store.mutate({ do: "put", name, value: Buffer.from(value) });
  const added = async (
    table: "records" | "vals",
    column: string,
    work: () => Promise<unknown>,
  ): Promise<SQLInputValue> => {
    const before = new Set(tablesOf(dir)[table].map((row) => text(row[column])));
    await work();
    const row = tablesOf(dir)[table].find((each) => !before.has(text(each[column])));
    return row?.[column] ?? null;
  };
  const keyOf = async (name: string): Promise<[SQLInputValue, SQLInputValue]> => {
    let owner: SQLInputValue = null;
    const key = await added("records", "key", async () => {
      owner = await added("vals", "owner", () => put(name, `${name} one`));
    });
    return [key, owner];
  };
  const [alpha, alphaOwner] = await keyOf("alpha");
  const [beta, betaOwner] = await keyOf("beta");
  const [gamma, gammaOwner] = await keyOf("gamma");
  await put("alpha", "alpha two");
  await store.mutate({ do: "keep", id: "kept", value: Buffer.from("of podman's own") });
  await store.mutate({ do: "link", id: "link", secret: "alpha" });
  await store.mutate({ do: "set-service", service: { name: "web", variables: { KEY: "alpha" } } });
  for (let number = 0; number < 20; number += 1)
    await put(`other ${number}`, `other ${"x".repeat(20 * number)}`);
  const older = tablesOf(dir);
  await store.mutate({ do: "activate", name: "alpha", version: 2 });
  await store.mutate({ do: "delete", name: "gamma" });
  return { alpha, beta, gamma, alphaOwner, betaOwner, gammaOwner, older, now: tablesOf(dir) };
}

type Closed = { truth: Record<string, string>; truthOfRows: Record<string, string>; pristine: Buffer };

async function closedStore(dir: string): Promise<Closed> {
  const store = openStore({ stateDir: dir });
  await build(dir, store);
  const truth = await answersOf(questionsTo(store));
  const truthOfRows = await answersOfRows(dir);
  await store.close();
  return { truth, truthOfRows, pristine: fs.readFileSync(path.join(dir, "secrets.db")) };
}

/** Opens the database as legerd does and asks. Throws what opening throws. */
async function answersOfRows(dir: string): Promise<Record<string, string>> {
  const { file, keys } = prepareDatabase({ stateDir: dir });
  const db = connect(file, "check");
  try {
    return await answersOf(questionsToRows(new Rows(db, keys)));
  } finally {
    db.close();
  }
}

function questionsTo(store: Store): Record<string, () => unknown> {
  return {
    ...Object.fromEntries(
      NAMES.flatMap((name) => [
        [`get ${name}`, () => told(store.get(name))],
        ...[1, 2, 3].map((version) => [`get ${name} ${version}`, () => told(store.get(name, version))]),
        [`info ${name}`, () => store.info(name)],
        [`active ${name}`, () => store.activeVersion(name)],
      ]),
    ),
    together: () => store.getTogether(["alpha", "beta"]).map(told),
    list: () => store.list(),
    count: () => store.count(),
    service: () => store.service("web"),
    "no service": () => store.service("other"),
    services: () => store.services(),
    link: () => store.link("link"),
    "no link": () => store.link("other"),
    links: () => store.links(),
    kept: () => {
      const link = store.link("kept");
      return link !== undefined && "owner" in link
        ? Buffer.from(store.linkValue(link).reveal()).toString()
        : "nothing kept";
    },
  };
}

/** Such questions to a connection alone: to start a thousand writing threads would take minutes. */
function questionsToRows(rows: Rows): Record<string, () => unknown> {
  const value = (name: string, asked?: number): string => {
    const record = rows.read("secret", name);
    if (record === undefined) return "no such secret";
    const version = asked ?? record.active;
    if (!hasNumber(record.live, version)) return "no such version";
    return `${version}:${rows.readValue(record.owner, version).toString("hex")}`;
  };
  const asks: [question: string, ask: () => unknown][] = [
    ...NAMES.flatMap((name) =>
      [undefined, 1, 2].map((version): [string, () => unknown] => [
        `get ${name} ${version}`,
        () => value(name, version),
      ]),
    ),
    ...numbersTo(20).map((number): [string, () => unknown] => [
      `get other ${number}`,
      () => value(`other ${number}`),
    ]),
    ["list", () => [...rows.scan("secret")]],
    ["service", () => rows.read("service", "web")],
    ["links", () => [...rows.scan("link")]],
    [
      "kept",
      () => {
        const link = rows.read("link", "kept");
        return link !== undefined && "owner" in link
          ? rows.readValue(link.owner, 1).toString()
          : "nothing kept";
      },
    ],
  ];
  return Object.fromEntries(asks.map(([question, ask]) => [question, () => rows.snapshot(question, ask)]));
}

function untrue(
  answers: Record<string, string>,
  truth: Record<string, string>,
  honest: readonly string[] = ["DAMAGED"],
): string[] {
  return Object.keys(answers).filter(
    (question) => answers[question] !== truth[question] && !honest.includes(answers[question] ?? ""),
  );
}

async function problemsOf(dir: string): Promise<number | undefined> {
  let problems: string[] = [];
  const code = await codeOf(async () => {
    ({ problems } = await checkStore({ stateDir: dir }));
  });
  return code === "fine" ? problems.length : undefined;
}

function tablesOf(dir: string): Tables {
  using db = rawDatabase(dir);
  const all = (table: string): Rowset => db.prepare(`SELECT * FROM ${table}`).all();
  return { meta: all("meta"), records: all("records"), tree: all("tree"), vals: all("vals") };
}

function insert(
  db: DatabaseSync,
  table: "records" | "tree" | "vals",
  row: Record<string, SQLInputValue>,
): void {
  const columns = Object.keys(row);
  const places = columns.map(() => "?");
  db.prepare(`INSERT INTO ${table} (${columns.join()}) VALUES (${places.join()})`).run(...Object.values(row));
}

function setSealed(db: DatabaseSync, key: SQLInputValue, sealed: SQLInputValue): void {
  db.prepare("UPDATE records SET sealed = ? WHERE key = ?").run(sealed, key);
}

function setValue(db: DatabaseSync, owner: SQLInputValue, version: number, sealed: SQLInputValue): void {
  db.prepare("UPDATE vals SET sealed = ? WHERE owner = ? AND version = ?").run(sealed, owner, version);
}

function setRoot(db: DatabaseSync, { meta }: Tables): void {
  const root = meta.find((row) => row["key"] === "root")?.["value"] ?? null;
  db.prepare("UPDATE meta SET value = ? WHERE key = 'root'").run(root);
}

function sealedOf({ records }: Tables, key: SQLInputValue): SQLInputValue {
  return records.find((row) => same(row["key"], key))?.["sealed"] ?? null;
}

function valueOf({ vals }: Tables, owner: SQLInputValue, version: number): SQLInputValue {
  return vals.find((row) => same(row["owner"], owner) && row["version"] === version)?.["sealed"] ?? null;
}

function same(a: SQLInputValue | undefined, b: SQLInputValue): boolean {
  return text(a) === text(b);
}

function text(value: SQLInputValue | undefined): string {
  return value instanceof Uint8Array ? Buffer.from(value).toString("hex") : String(Number(value));
}

function flipped(sealed: SQLInputValue): Buffer {
  return withBitFlipped(Buffer.from(text(sealed), "hex"), 100);
}

function withBitFlipped(bytes: Buffer, bit: number): Buffer {
  const copy = Buffer.from(bytes);
  copy.writeUInt8(copy.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
  return copy;
}

function randomBelow(end: number): number {
  return Math.floor(Math.random() * end);
}

function numbersTo(last: number): number[] {
  return Array.from({ length: last }, (_, at) => at + 1);
}
