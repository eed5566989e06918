import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { describe, expect, test } from "vitest";
import { openStore, type Store } from "../../src/store/store.ts";
import { codeOf, rawDatabase, temporaryState, told } from "./state.ts";

describe.for([
  ["with opened values kept in memory", 1_000],
  ["with room for two opened values", 2],
  ["with none kept", 0],
] as const)("%s", ([, cacheEntries]) => {
  test("a store gives back values of every kind exactly, also after opening it again", async () => {
    using state = temporaryState();
    const values = {
      "plain text": Buffer.from("sk-abc"),
      nothing: Buffer.alloc(0),
      "every byte there is": Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)),
      "a newline at the end": Buffer.from("abc\n"),
      "one mebibyte": randomBytes(1024 * 1024),
    };
    const wrong = (store: Store): string[] =>
      Object.entries(values)
        .filter(
          ([name, value]) => !bytesOf(store, name).equals(value) || !bytesOf(store, name, 1).equals(value),
        )
        .map(([name]) => name);
    {
      await using store = openStore({ stateDir: state.dir, cacheEntries });
      for (const [name, value] of Object.entries(values)) expect(await put(store, name, value)).toBe(1);
      expect(wrong(store)).toEqual([]);
    }
    await using store = openStore({ stateDir: state.dir, cacheEntries });
    expect(wrong(store)).toEqual([]);
    expect(wrong(store)).toEqual([]);
  });

  test("every read after an acknowledged write sees it", async () => {
    using state = temporaryState();
    await using store = openStore({ stateDir: state.dir, cacheEntries });
    await put(store, "a", Buffer.from("first"));
    for (let round = 2; round <= 60; round += 1) {
      expect(await put(store, "a", Buffer.from(`value ${round}`))).toBe(round);
      expect(store.get("a").version).toBe(round - 1);
      await store.mutate({ do: "activate", name: "a", version: round });
      expect(told(store.get("a"))).toBe(`${round}:${Buffer.from(`value ${round}`).toString("hex")}`);
      expect(store.activeVersion("a")).toBe(round);
      expect(store.info("a")).toEqual({ Name: "a", Versions: numbersTo(round), ActiveVersion: round });
    }
    await store.mutate({ do: "delete", name: "a" });
    expect(await codeOf(() => store.get("a"))).toBe("SECRET_NOT_FOUND");
    expect(await codeOf(() => store.activeVersion("a"))).toBe("SECRET_NOT_FOUND");
    await put(store, "a", Buffer.from("anew"));
    expect(told(store.get("a"))).toBe(`1:${Buffer.from("anew").toString("hex")}`);
  });

  test("more secrets than are kept in memory are all answered rightly", async () => {
    using state = temporaryState();
    await using store = openStore({ stateDir: state.dir, cacheEntries });
    const names = numbersTo(20).map((number) => `secret ${number}`);
    await Promise.all(names.map((name) => put(store, name, Buffer.from(name))));
    for (const name of [...names, ...names.toReversed()]) {
      expect(bytesOf(store, name).toString()).toBe(name);
    }
  });
});

test("writers that come at once each get a number of their own, and their value under it", async () => {
  using state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  const values = numbersTo(600).map((number) => `value ${number}`);
  const versions = await Promise.all(values.map((value) => put(store, "shared", Buffer.from(value))));
  expect(versions.toSorted((a, b) => a - b)).toEqual(numbersTo(600));
  for (const [at, version] of versions.entries()) {
    expect(bytesOf(store, "shared", version).toString()).toBe(values[at]);
  }
});

test("a mutation that is turned down takes none of those that came with it along", async () => {
  using state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  const outcomes = await Promise.all([
    codeOf(() => put(store, "a", Buffer.from("1"))),
    codeOf(() => store.mutate({ do: "activate", name: "nobody", version: 1 })),
    codeOf(() => store.mutate({ do: "create-version", name: "a", version: 1, value: Buffer.from("2") })),
    codeOf(() => store.mutate({ do: "delete-version", name: "a", version: 1 })),
    codeOf(() => store.mutate({ do: "delete-version", name: "a", version: 7 })),
    codeOf(() => put(store, "b", Buffer.from("3"))),
  ]);
  expect(outcomes).toEqual([
    "fine",
    "SECRET_NOT_FOUND",
    "VERSION_CLAIMED",
    "REFUSED",
    "VERSION_NOT_FOUND",
    "fine",
  ]);
  expect(await store.list()).toEqual([
    { Name: "a", Versions: [1], ActiveVersion: 1 },
    { Name: "b", Versions: [1], ActiveVersion: 1 },
  ]);
});

test("an empty put after the latest version was deleted stores nothing, as setec does", async () => {
  using state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  await put(store, "a", Buffer.from("hello"));
  await put(store, "a", Buffer.from("world"));
  await store.mutate({ do: "delete-version", name: "a", version: 2 });
  expect(await put(store, "a", Buffer.alloc(0))).toBe(2);
  expect(store.info("a").Versions).toEqual([1]);
  expect(await put(store, "a", Buffer.from("world"))).toBe(3);
});

test("several secrets are read together in the order asked, or not at all", async () => {
  using state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  await put(store, "a", Buffer.from("A"));
  await put(store, "b", Buffer.from("B"));
  expect(
    store.getTogether(["b", "a", "b"]).map(({ value }) => Buffer.from(value.reveal()).toString()),
  ).toEqual(["B", "A", "B"]);
  expect(store.getTogether([])).toEqual([]);
  expect(await codeOf(() => store.getTogether(["a", "nobody"]))).toBe("SECRET_NOT_FOUND");
});

test("a list shows one moment, however much is written while it is made", async () => {
  using state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  await Promise.all(numbersTo(2_000).map((number) => put(store, `secret ${number}`, Buffer.from("x"))));
  for (let round = 1; round <= 5; round += 1) {
    const moved = Promise.all(
      numbersTo(100).flatMap((number) => [
        store.mutate({ do: "delete", name: `secret ${number} of round ${round - 1}` }),
        put(store, `secret ${number} of round ${round}`, Buffer.from("x")),
      ]),
    );
    const names = new Set((await store.list()).map(({ Name }) => Name));
    // Each pair is one commit or two in this order: at no moment are both or a later pair without an earlier one there.
    const there = numbersTo(100).map((number) => names.has(`secret ${number} of round ${round}`));
    expect(there).toEqual(there.toSorted((a, b) => Number(b) - Number(a)));
    const gone = numbersTo(100).map((number) => names.has(`secret ${number} of round ${round - 1}`));
    if (round > 1)
      expect(gone.filter(Boolean).length + there.filter(Boolean).length).toBeGreaterThanOrEqual(99);
    expect(gone.filter(Boolean).length + there.filter(Boolean).length).toBeLessThanOrEqual(100);
    await moved;
  }
});

test("lists that wait for one another are all answered, and closing waits for them", async () => {
  using state = temporaryState();
  const store = openStore({ stateDir: state.dir });
  await Promise.all(numbersTo(300).map((number) => put(store, `secret ${number}`, Buffer.from("x"))));
  const lists = [store.list(), store.list()];
  await new Promise((resolve) => {
    setImmediate(resolve);
  });
  lists.push(store.list(), store.list());
  await store.close();
  for (const list of await Promise.all(lists)) expect(list).toHaveLength(300);
  expect(fs.readdirSync(state.dir).toSorted()).toEqual(["keys", "legerd.lock", "secrets.db", "secrets.mark"]);
});

test("a closed store refuses to be written to", async () => {
  using state = temporaryState();
  const store = openStore({ stateDir: state.dir });
  await store.close();
  expect(await codeOf(() => put(store, "a", Buffer.from("x")))).toBe("REFUSED");
});

test("links and services are kept, replaced and removed", async () => {
  using state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  await store.mutate({ do: "link", id: "id1", secret: "leger/local/a" });
  await store.mutate({ do: "keep", id: "id2", value: Buffer.from("kept") });
  expect(store.link("id1")).toEqual({ name: "id1", secret: "leger/local/a" });
  expect(valueOfLink(store, "id2")).toBe("kept");
  expect(
    store
      .links()
      .map(({ name }) => name)
      .toSorted(),
  ).toEqual(["id1", "id2"]);

  await store.mutate({ do: "keep", id: "id2", value: Buffer.from("other") });
  expect(valueOfLink(store, "id2")).toBe("other");
  expect(countOfValues(state.dir)).toBe(1);
  await store.mutate({ do: "link", id: "id2", secret: "leger/local/b" });
  expect(countOfValues(state.dir)).toBe(0);
  await store.mutate({ do: "keep", id: "id3", value: Buffer.from("kept") });
  await store.mutate({ do: "unlink", id: "id3" });
  expect(countOfValues(state.dir)).toBe(0);
  await store.mutate({ do: "unlink", id: "id1" });
  await store.mutate({ do: "unlink", id: "id1" });
  expect(store.links()).toEqual([{ name: "id2", secret: "leger/local/b" }]);
  expect(store.link("id1")).toBeUndefined();

  for (const name of ["web", "\u{1F511}", "\uFF5E"]) {
    await store.mutate({ do: "set-service", service: { name, variables: { KEY: "leger/local/a" } } });
  }
  expect(store.services().map(({ name }) => name)).toEqual(["web", "\uFF5E", "\u{1F511}"]);
  await store.mutate({ do: "set-service", service: { name: "web", variables: {} } });
  expect(store.service("web")).toEqual({ name: "web", variables: {} });
  await store.mutate({ do: "delete-service", name: "web" });
  expect(store.service("web")).toBeUndefined();
  expect(store.count()).toBe(0);
});

test("a deleted secret leaves no value behind", async () => {
  using state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  for (const value of ["1", "2", "3"]) await put(store, "a", Buffer.from(value));
  await store.mutate({ do: "delete-version", name: "a", version: 2 });
  expect(countOfValues(state.dir)).toBe(2);
  await store.mutate({ do: "delete", name: "a" });
  expect(countOfValues(state.dir)).toBe(0);
});

function put(store: Store, name: string, value: Uint8Array): Promise<number> {
  return store.mutate({ do: "put", name, value });
}

function bytesOf(store: Store, name: string, version?: number): Buffer {
  return Buffer.from(store.get(name, version).value.reveal());
}

function valueOfLink(store: Store, id: string): string | undefined {
  const link = store.link(id);
  if (link === undefined || "secret" in link) return undefined;
  return Buffer.from(store.linkValue(link).reveal()).toString();
}

function countOfValues(dir: string): unknown {
  using db = rawDatabase(dir);
  return db.prepare("SELECT count(*) AS n FROM vals").get()?.["n"];
}

function numbersTo(last: number): number[] {
  return Array.from({ length: last }, (_, at) => at + 1);
}
