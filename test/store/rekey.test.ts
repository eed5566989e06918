import * as fs from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { checkStore } from "../../src/store/check.ts";
import { nextMainKey, rekey } from "../../src/store/rekey.ts";
import { openStore } from "../../src/store/store.ts";
import { codeOf, rawDatabase, temporaryState } from "./state.ts";

const KEY = path.join("keys", "main.key");
const NEXT = `${KEY}.next`;

type State = ReturnType<typeof temporaryState>;

async function filledState(): Promise<State> {
  const state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  await store.mutate({ do: "put", name: "alpha", value: Buffer.from("value") });
  return state;
}

function metaKeys(dir: string): string[] {
  using db = rawDatabase(dir);
  return db
    .prepare("SELECT key FROM meta ORDER BY key")
    .all()
    .map(({ key }) => String(key));
}

const ONE_WRAP = ["data_key", "main_key", "root", "store_id"];

/** It opens, gives back what was stored, and nothing of a change of keys is left. */
async function expectWhole(dir: string, credentialsDir?: string): Promise<void> {
  expect(await checkStore({ stateDir: dir, credentialsDir })).toMatchObject({ problems: [], secrets: 1 });
  {
    await using store = openStore({ stateDir: dir, credentialsDir });
    expect(Buffer.from(store.get("alpha").value.reveal()).toString()).toBe("value");
  }
  expect(metaKeys(dir)).toEqual(ONE_WRAP);
  expect(fs.existsSync(path.join(dir, NEXT))).toBe(false);
}

test("a new main key opens the store, and the old one does not any more", async () => {
  using state = await filledState();
  const file = path.join(state.dir, KEY);
  const old = fs.readFileSync(file, "utf8");
  expect(rekey({ stateDir: state.dir })).toBe(file);
  expect(fs.readFileSync(file, "utf8")).not.toBe(old);
  expect(fs.statSync(file).mode & 0o777).toBe(0o600);
  await expectWhole(state.dir);
  fs.writeFileSync(file, old);
  expect(await codeOf(() => checkStore({ stateDir: state.dir }))).toBe("CONFIG");
});

test("the wrap under the old key is nowhere in the database's file any more", async () => {
  using state = await filledState();
  const wrapped = (): Buffer => {
    using db = rawDatabase(state.dir);
    const value = db.prepare("SELECT value FROM meta WHERE key = 'data_key'").get()?.["value"];
    if (!(value instanceof Uint8Array)) throw new Error("no data key");
    return Buffer.from(value);
  };
  const before = wrapped();
  const database = path.join(state.dir, "secrets.db");
  expect(fs.readFileSync(database).includes(before)).toBe(true);
  rekey({ stateDir: state.dir });
  expect(fs.readFileSync(database).includes(before)).toBe(false);
  expect(fs.readFileSync(database).includes(wrapped())).toBe(true);
  expect(fs.existsSync(`${database}-wal`)).toBe(false);
});

/** How far a change of the main key had come when it was cut short, made from one that is done and the state before. */
test.for<[string, (at: { before: string; both: string; dir: string; next: string }) => void]>([
  [
    "the new key was written",
    ({ before, dir, next }) => {
      fs.cpSync(before, dir, { recursive: true });
      fs.writeFileSync(path.join(dir, NEXT), next, { mode: 0o600 });
    },
  ],
  [
    "half of the new key was written",
    ({ before, dir }) => {
      fs.cpSync(before, dir, { recursive: true });
      fs.writeFileSync(path.join(dir, NEXT), "leger-main-key-1:", { mode: 0o600 });
    },
  ],
  [
    "both wraps were there",
    ({ both, dir, next }) => {
      fs.cpSync(both, dir, { recursive: true });
      fs.writeFileSync(path.join(dir, NEXT), next, { mode: 0o600 });
    },
  ],
  [
    "the new key was in its place",
    ({ both, dir, next }) => {
      fs.cpSync(both, dir, { recursive: true });
      fs.writeFileSync(path.join(dir, KEY), next, { mode: 0o600 });
    },
  ],
])("cut short when %s, it is brought to an end by the next start", async ([, make]) => {
  using state = await filledState();
  const before = path.join(state.parent, "before");
  fs.cpSync(state.dir, before, { recursive: true });
  const next = `${nextMainKey({ stateDir: state.dir })}\n`;
  for (const dir of ["one", "two"].map((name) => path.join(state.parent, name))) {
    // The copy takes the mode of one that is there.
    fs.mkdirSync(dir, { mode: 0o700 });
    make({ before, both: state.dir, dir, next });
    if (dir.endsWith("two")) rekey({ stateDir: dir });
    await expectWhole(dir);
  }
});

test("a key that was handed out waits for its credential, and then is the only one", async () => {
  using state = await filledState();
  const file = path.join(state.dir, KEY);
  const line = nextMainKey({ stateDir: state.dir });
  {
    // The old one goes on to open it, also for writing.
    await using store = openStore({ stateDir: state.dir });
    await store.mutate({ do: "put", name: "alpha", value: Buffer.from("value") });
  }
  expect(metaKeys(state.dir)).toContain("next_data_key");
  const credentials = path.join(state.parent, "credentials");
  fs.mkdirSync(credentials);
  fs.writeFileSync(path.join(credentials, "main.key"), `${line}\n`);
  await expectWhole(state.dir, credentials);
  expect(await codeOf(() => checkStore({ stateDir: state.dir }))).toBe("CONFIG");
  expect(fs.readFileSync(file, "utf8")).not.toContain(line);
  // Whoever has it as a credential changes it there.
  expect(await codeOf(() => rekey({ stateDir: state.dir, credentialsDir: credentials }))).toBe("REFUSED");
});

test("it is refused without a store and beside a legerd", async () => {
  using state = temporaryState();
  expect(await codeOf(() => rekey({ stateDir: state.dir }))).toBe("CONFIG");
  expect(fs.existsSync(state.dir)).toBe(false);
});
