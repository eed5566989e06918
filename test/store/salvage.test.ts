import * as fs from "node:fs";
import path from "node:path";
import type { DatabaseSync } from "node:sqlite";
import { expect, test } from "vitest";
import { checkStore } from "../../src/store/check.ts";
import { salvage } from "../../src/store/salvage.ts";
import { openStore } from "../../src/store/store.ts";
import { codeOf, contentsOf, rawDatabase, temporaryState } from "./state.ts";

const NAMES = Array.from({ length: 60 }, (_, n) => `s${n}`);

type State = ReturnType<typeof temporaryState>;

async function filledState(): Promise<State> {
  const state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  const puts = NAMES.flatMap((name) =>
    [1, 2, 3].map((n) => store.mutate({ do: "put", name, value: Buffer.from(`${name} ${n}`) })),
  );
  await Promise.all(puts);
  await store.mutate({ do: "activate", name: "s0", version: 2 });
  await store.mutate({ do: "delete-version", name: "s1", version: 3 });
  await store.mutate({ do: "keep", id: "kept", value: Buffer.from("kept") });
  await store.mutate({ do: "link", id: "linked", secret: "s0" });
  await store.mutate({ do: "set-service", service: { name: "web", variables: { KEY: "s0" } } });
  return state;
}

/** Salvages it, and sees that the old store is as it was and that the new one is whole. */
async function salvaged(state: State): Promise<Awaited<ReturnType<typeof salvage>> & { dir: string }> {
  const dir = path.join(state.parent, "new");
  const before = contentsOf(state.dir);
  const result = await salvage({ stateDir: state.dir }, dir);
  expect(contentsOf(state.dir)).toEqual(before);
  const { losses: _, ...counts } = result;
  expect(await checkStore({ stateDir: dir })).toMatchObject({ problems: [], ...counts });
  return { ...result, dir };
}

function spoil(state: State, how: (db: DatabaseSync) => void): void {
  using db = rawDatabase(state.dir);
  how(db);
}

function mainKeyOf(dir: string): string {
  return fs.readFileSync(path.join(dir, "keys", "main.key"), "utf8");
}

test("of a whole store nothing is lost, and it has a main key of its own", async () => {
  using state = await filledState();
  const { losses, dir, ...counts } = await salvaged(state);
  expect(losses).toEqual([]);
  expect(counts).toEqual({ secrets: 60, versions: 179, links: 2, services: 1 });
  expect(mainKeyOf(dir)).not.toBe(mainKeyOf(state.dir));
  await using store = openStore({ stateDir: dir });
  expect(store.info("s0")).toMatchObject({ Versions: [1, 2, 3], ActiveVersion: 2 });
  // Numbers that were used up stay so.
  expect(await store.mutate({ do: "put", name: "s1", value: Buffer.from("new") })).toBe(4);
  expect(Buffer.from(store.linkValue(linkOf(store.link("kept"))).reveal()).toString()).toBe("kept");
});

function linkOf(link: unknown): { name: string; owner: string } {
  if (typeof link !== "object" || link === null || !("owner" in link) || !("name" in link))
    throw new Error("no link");
  return { name: String(link.name), owner: String(link.owner) };
}

test("what is lost is named, its numbers are not given out again, and another version is said to be active", async () => {
  using state = await filledState();
  spoil(state, (db) => {
    // Of s0 and of others, which names the seal alone knows.
    db.exec("UPDATE vals SET sealed = zeroblob(60) WHERE version = 2");
    db.exec("DELETE FROM tree; UPDATE meta SET value = zeroblob(612) WHERE key = 'root'");
  });
  const { losses, secrets, versions, dir } = await salvaged(state);
  expect({ secrets, versions }).toEqual({ secrets: 60, versions: 119 });
  expect(losses).toContain("secret s7: versions whose values are lost: 2");
  expect(losses).toContain("secret s0: version 2 was active and is lost; now version 3 is");
  expect(losses).toContain("how many there were cannot be told any more");
  await using store = openStore({ stateDir: dir });
  expect(store.info("s7")).toEqual({ Name: "s7", Versions: [1, 3], ActiveVersion: 1 });
  expect(
    await codeOf(() =>
      store.mutate({ do: "create-version", name: "s7", version: 2, value: Buffer.from("x") }),
    ),
  ).toBe("VERSION_CLAIMED");
});

test("records that are gone are counted where the root still knows of them", async () => {
  using state = await filledState();
  spoil(state, (db) => db.exec("DELETE FROM records WHERE key IN (SELECT key FROM records LIMIT 3)"));
  const { losses, secrets } = await salvaged(state);
  expect(losses).toEqual(["secret records that cannot be read, nor named: 3"]);
  expect(secrets).toBe(57);
});

test("whatever pages of the file are overwritten, what comes out is as it was put in", async () => {
  using state = await filledState();
  const file = path.join(state.dir, "secrets.db");
  const whole = fs.readFileSync(file);
  const pages = whole.length / 4096;
  for (let round = 0; round < 4; round += 1) {
    using other = temporaryState();
    fs.mkdirSync(other.dir, { mode: 0o700 });
    fs.cpSync(state.dir, other.dir, { recursive: true });
    const spoilt = Buffer.from(whole);
    // The first pages hold the schema and the wrapped data key: without those there is nothing to open.
    for (let n = 0; n < 3; n += 1) {
      const page = 4 + ((round * 7 + n * 5) % (pages - 4));
      spoilt.fill(round * 31 + n, page * 4096, (page + 1) * 4096);
    }
    fs.writeFileSync(path.join(other.dir, "secrets.db"), spoilt);
    const code = await codeOf(async () => {
      const { dir } = await salvaged(other);
      await using store = openStore({ stateDir: dir });
      for (const { Name, Versions } of await store.list()) {
        for (const version of Versions) {
          expect(Buffer.from(store.get(Name, version).value.reveal()).toString()).toBe(`${Name} ${version}`);
        }
      }
    });
    expect(["fine", "DAMAGED"]).toContain(code);
  }
});

test("it goes to an empty directory only, and needs the main key", async () => {
  using state = await filledState();
  expect(await codeOf(() => salvage({ stateDir: state.dir }, state.dir))).toBe("REFUSED");
  fs.rmSync(path.join(state.dir, "keys"), { recursive: true });
  expect(await codeOf(() => salvage({ stateDir: state.dir }, path.join(state.parent, "new")))).toBe("CONFIG");
});
