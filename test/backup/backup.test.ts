import { generateX25519Identity, identityToRecipient } from "age-encryption";
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { backUp } from "../../src/backup/backup.ts";
import { restore } from "../../src/backup/restore.ts";
import { seal, type Key, type Lock } from "../../src/backup/seal.ts";
import { LegerError } from "../../src/core/error.ts";
import { run } from "../../src/core/exec.ts";
import { MIGRATIONS } from "../../src/store/database.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { filesHolding } from "../support/canary.ts";
import { fromHere, LEGERD_COMMAND } from "../support/legerd.ts";
import { contentsOf, rawDatabase, temporaryState } from "../store/state.ts";

const CANARY = "canary-b4cku9";
const PASSPHRASE = "six random words are long enough";
const SEALED = { passphrase: PASSPHRASE };
const FACTS = {
  version: "0.0.0-test",
  now: new Date("2026-11-25T08:00:00Z"),
  euid: process.geteuid?.() ?? 0,
};

type State = ReturnType<typeof temporaryState>;

/** scrypt's real cost is a second for each. */
function backup(state: State, file: string, lock: Lock = SEALED, replace = false): ReturnType<typeof backUp> {
  return backUp({ where: { stateDir: state.dir }, file, lock, replace, ...FACTS, workFactor: 8 });
}

function restoreTo(stateDir: string, file: string, key: Key = SEALED): ReturnType<typeof restore> {
  return restore({ stateDir, file, keyFor: async () => key });
}

async function fill(store: Store): Promise<void> {
  for (const name of ["alpha", "beta", "gone"]) {
    await store.mutate({ do: "put", name, value: Buffer.from(`${CANARY} ${name}`) });
  }
  for (let n = 2; n <= 5; n += 1) {
    await store.mutate({ do: "put", name: "alpha", value: Buffer.from(`${CANARY} ${n}`) });
  }
  await store.mutate({ do: "activate", name: "alpha", version: 3 });
  await store.mutate({ do: "delete-version", name: "alpha", version: 2 });
  await store.mutate({ do: "create-version", name: "alpha", version: 4_000_000_000, value: Buffer.alloc(0) });
  await store.mutate({ do: "put", name: "beta", value: Buffer.alloc(300_000, "x") });
  await store.mutate({ do: "delete", name: "gone" });
  await store.mutate({ do: "keep", id: "kept", value: Buffer.from(CANARY) });
  await store.mutate({ do: "link", id: "linked", secret: "alpha" });
  await store.mutate({ do: "set-service", service: { name: "web", variables: { KEY: "alpha" } } });
}

/** A store that is closed, with something of everything in it. */
async function filledState(): Promise<State> {
  const state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  await fill(store);
  return state;
}

/** Every row of every table. */
function rowsOf(dir: string): unknown {
  using db = rawDatabase(dir);
  return ["meta", "records", "tree", "vals"].map((table) =>
    db.prepare(`SELECT * FROM ${table} ORDER BY 1, 2`).all(),
  );
}

async function failureOf(work: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await work;
  } catch (error) {
    if (error instanceof LegerError) return { code: error.code, message: error.message };
    throw error;
  }
  return { code: "fine", message: "" };
}

/** All but the file that the lock lies on. */
function leftIn(dir: string): string[] {
  return fs.existsSync(dir) ? fs.readdirSync(dir).filter((name) => !name.startsWith("legerd.lock")) : [];
}

async function sealedText(state: State, text: string): Promise<string> {
  const file = path.join(state.parent, "made");
  const sealed = await seal(
    (async function* () {
      yield Buffer.from(text, "latin1");
    })(),
    SEALED,
    { workFactor: 8 },
  );
  for await (const chunk of sealed) fs.appendFileSync(file, chunk);
  return file;
}

/** A frame as a dump has it. */
function frame(kind: number, body: string): string {
  const head = Buffer.alloc(5);
  head[0] = kind;
  head.writeUInt32BE(Buffer.byteLength(body), 1);
  return head.toString("latin1") + body;
}

/** Without a terminal; `stdin` is a pipe. */
async function legerd(
  state: State,
  args: readonly string[],
  stdin = "",
): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const [program, ...rest] = LEGERD_COMMAND;
  const child = spawn(program, [...rest, ...args], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...fromHere(), HOME: state.parent },
  });
  child.stdin.end(stdin);
  const said = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const) {
    child[stream].setEncoding("utf8").on("data", (text: string) => (said[stream] += text));
  }
  const status = await new Promise<number | null>((resolve) => void child.once("close", resolve));
  return { status, ...said };
}

test("what is restored is the store row for row, and nobody else can read the file", async () => {
  using state = await filledState();
  const file = path.join(state.parent, "backup");
  const counts = { secrets: 2, versions: 7, links: 2, services: 1 };
  expect(await backup(state, file)).toMatchObject({ counts, madeAt: "2026-11-25T08:00:00.000Z" });
  expect(fs.statSync(file).mode & 0o777).toBe(0o600);
  expect(filesHolding(CANARY, state.parent)).toEqual([]);
  expect(fs.readdirSync(state.parent).toSorted()).toEqual(["backup", "state"]);

  const copy = path.join(state.parent, "copy");
  expect(await restoreTo(copy, file)).toMatchObject({ counts });
  expect(rowsOf(copy)).toEqual(rowsOf(state.dir));
  expect(leftIn(copy).toSorted()).toEqual(["keys", "last-backup.json", "secrets.db"]);
  expect(filesHolding(CANARY, state.parent)).toEqual([]);
  await using store = openStore({ stateDir: copy });
  expect(Buffer.from(store.get("alpha", 3).value.reveal()).toString()).toBe(`${CANARY} 3`);
  expect(await store.mutate({ do: "put", name: "beta", value: Buffer.from("new") })).toBe(3);
});

test("a backup beside a legerd that writes is of one moment, and holds what was acknowledged before it", async () => {
  using state = temporaryState();
  const file = path.join(state.parent, "backup");
  {
    await using store = openStore({ stateDir: state.dir });
    for (let n = 0; n < 300; n += 1)
      await store.mutate({ do: "put", name: `s${n}`, value: Buffer.from("1") });
    const making = backup(state, file);
    const made = new AbortController();
    void making.finally(() => made.abort());
    let written = 0;
    while (!made.signal.aborted) {
      written += 1;
      const value = Buffer.from(String(written));
      await Promise.all(["left", "right"].map((name) => store.mutate({ do: "put", name, value })));
    }
    await making;
    expect(written).toBeGreaterThan(1);
  }
  const copy = path.join(state.parent, "copy");
  const { counts } = await restoreTo(copy, file);
  expect(counts.secrets).toBeGreaterThanOrEqual(300);
  await using store = openStore({ stateDir: copy });
  expect(Buffer.from(store.get("s299").value.reveal()).toString()).toBe("1");
});

test("the log that a killed legerd left is in the backup, and stays as it is", async () => {
  using state = temporaryState();
  const crashed = { ...state, dir: path.join(state.parent, "crashed") };
  {
    await using store = openStore({ stateDir: state.dir });
    await fill(store);
    fs.cpSync(state.dir, crashed.dir, { recursive: true });
  }
  const { "secrets.db-shm": _, ...before } = contentsOf(crashed.dir);
  const file = path.join(state.parent, "backup");
  expect(await backup(crashed, file)).toMatchObject({ counts: { secrets: 2 } });
  expect(contentsOf(crashed.dir)).toMatchObject(before);
});

test("a file that is there stays as it is, unless it is to be replaced", async () => {
  using state = await filledState();
  const file = path.join(state.parent, "backup");
  fs.writeFileSync(file, "mine");
  expect(await failureOf(backup(state, file))).toMatchObject({ code: "REFUSED" });
  expect(fs.readFileSync(file, "utf8")).toBe("mine");
  await backup(state, file, SEALED, true);
  expect(await restoreTo(path.join(state.parent, "copy"), file)).toMatchObject({ counts: { secrets: 2 } });
});

test("a store that is not whole is not backed up, and nothing is left", async () => {
  using state = await filledState();
  {
    using db = rawDatabase(state.dir);
    db.exec("DELETE FROM vals WHERE version = 3");
  }
  const failure = await failureOf(backup(state, path.join(state.parent, "backup")));
  expect(failure).toMatchObject({ code: "DAMAGED", message: expect.stringContaining("alpha: version 3") });
  expect(fs.readdirSync(state.parent)).toEqual(["state"]);
});

test("recipients open it with their identity, and nobody else", async () => {
  using state = await filledState();
  const [mine, yours, other] = await Promise.all([1, 2, 3].map(() => generateX25519Identity()));
  const recipients = await Promise.all([mine, yours].map((identity) => identityToRecipient(identity ?? "")));
  const file = path.join(state.parent, "backup");
  await backup(state, file, { recipients });
  const stranger = restoreTo(path.join(state.parent, "no"), file, { identities: [other ?? ""] });
  expect(await failureOf(stranger)).toMatchObject({ code: "DENIED" });
  for (const [at, identity] of [mine, yours].entries()) {
    const copy = path.join(state.parent, `copy${at}`);
    expect(await restoreTo(copy, file, { identities: [identity ?? ""] })).toMatchObject({
      counts: { secrets: 2 },
    });
  }
});

describe("nothing is restored from", () => {
  const facts = (schema: number, more: object = {}): string =>
    frame(
      1,
      JSON.stringify({
        made_at: "2026-11-25T08:00:00Z",
        leger: "9.9.9",
        schema,
        changes: 1,
        counts: { secrets: 0, versions: 0, links: 0, services: 0 },
        rows: 0,
        main_key: `leger-main-key-1:${Buffer.alloc(32).toString("base64url")}`,
        ...more,
      }),
    );

  test.for<[string, string, string, string]>([
    ["a file of another program's", "hello\n", "BAD_DATA", "no backup of legerd"],
    [
      "a format of the future",
      "leger backup 2\nwhatever",
      "CONFIG",
      "a newer legerd made this backup (format 2",
    ],
    [
      "a schema of the future",
      `leger backup 1\n${facts(MIGRATIONS.length + 1)}`,
      "CONFIG",
      "a newer legerd made this backup (schema",
    ],
    ["a backup without facts", "leger backup 1\n", "DAMAGED", "does not say what it is"],
    ["facts without a main key", `leger backup 1\n${facts(1, { main_key: "x" })}`, "DAMAGED", "does not say"],
    ["a backup without an end", `leger backup 1\n${facts(1)}`, "DAMAGED", "its end is missing"],
    ["an empty backup", `leger backup 1\n${facts(1)}${frame(4, "{}")}`, "DAMAGED", "not whole"],
    [
      "a table of no store",
      `leger backup 1\n${facts(1)}${frame(2, '{"name":"sqlite_schema","columns":["a"]}')}`,
      "DAMAGED",
      "a table of no store",
    ],
    [
      "a row of a wrong shape",
      `leger backup 1\n${facts(1)}${frame(2, '{"name":"meta","columns":["key","value"]}')}${frame(3, "\u0001")}`,
      "DAMAGED",
      "a row has a wrong shape",
    ],
    ["a part that is too large", `leger backup 1\n\u0001\u00ff\u00ff\u00ff\u00ff`, "DAMAGED", "too large"],
  ])("%s", async ([, text, code, words]) => {
    using state = temporaryState();
    const file = await sealedText(state, text);
    const failure = await failureOf(restoreTo(state.dir, file));
    expect(failure).toMatchObject({ code, message: expect.stringContaining(words) });
    expect(failure.message).toContain(file);
    expect(leftIn(state.dir)).toEqual([]);
  });

  test("a file that was cut anywhere, or one of whose bytes was changed", async () => {
    using state = await filledState();
    const whole = path.join(state.parent, "backup");
    await backup(state, whole);
    const bytes = fs.readFileSync(whole);
    const file = path.join(state.parent, "spoilt");
    const copy = path.join(state.parent, "copy");
    const codes = new Set<string>();
    const header = bytes.indexOf("\n--- ") + 49;
    const places = [0, 5, 22, 40, 60, header - 20, header - 1, header + 3, header + 20, 65_000, 200_000];
    places.push(bytes.length - 1);
    for (const at of places) {
      fs.writeFileSync(file, bytes.subarray(0, at));
      codes.add((await failureOf(restoreTo(copy, file))).code);
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 1;
      fs.writeFileSync(file, changed);
      codes.add((await failureOf(restoreTo(copy, file))).code);
      expect(leftIn(copy)).toEqual([]);
    }
    fs.writeFileSync(file, Buffer.concat([bytes, Buffer.of(0)]));
    codes.add((await failureOf(restoreTo(copy, file))).code);
    expect([...codes].toSorted()).toEqual(["BAD_DATA", "DAMAGED", "DENIED"]);
    await restoreTo(copy, whole);
  });

  test("what is no age file, an armored one, or a file that is not there", async () => {
    using state = temporaryState();
    const file = path.join(state.parent, "file");
    expect(await failureOf(restoreTo(state.dir, file))).toMatchObject({ code: "IO" });
    for (const text of ["", "SQLite format 3", "-----BEGIN AGE ENCRYPTED FILE-----\n"]) {
      fs.writeFileSync(file, text);
      expect(await failureOf(restoreTo(state.dir, file))).toMatchObject({ code: "BAD_DATA" });
    }
    fs.writeFileSync(file, `age-encryption.org/v1\n${"a".repeat(1_000_000)}`);
    expect(await failureOf(restoreTo(state.dir, file))).toMatchObject({ code: "DAMAGED" });
  });
});

describe("a restore", () => {
  test("is refused where anything is, and beside a legerd", async () => {
    using state = await filledState();
    const file = path.join(state.parent, "backup");
    await backup(state, file);
    const before = contentsOf(state.dir);
    expect(await failureOf(restoreTo(state.dir, file))).toMatchObject({
      code: "REFUSED",
      message: expect.stringContaining("not empty"),
    });
    expect(contentsOf(state.dir)).toEqual(before);
  });

  test("that was killed at any point is refused by legerd, and begins anew", async () => {
    using state = await filledState();
    const file = path.join(state.parent, "backup");
    await backup(state, file);
    const whole = path.join(state.parent, "whole");
    await restoreTo(whole, file);
    // The steps at the end of a restore, each as far as a kill could leave them.
    for (const moved of [[], ["keys"], ["keys", "secrets.db"]]) {
      using other = temporaryState();
      const staging = path.join(other.dir, "restore.new");
      fs.mkdirSync(staging, { recursive: true, mode: 0o700 });
      fs.chmodSync(other.dir, 0o700);
      for (const name of ["keys", "secrets.db"]) {
        const target = moved.includes(name) ? other.dir : staging;
        fs.cpSync(path.join(whole, name), path.join(target, name), { recursive: true });
      }
      const opening = async (): Promise<void> => openStore({ stateDir: other.dir }).close();
      expect(await failureOf(opening())).toMatchObject({
        code: "DAMAGED",
        message: expect.stringContaining("did not come to its end"),
      });
      await restoreTo(other.dir, file);
      expect(rowsOf(other.dir)).toEqual(rowsOf(state.dir));
      await opening();
    }
  });

  test("that is interrupted leaves nothing, and so does a backup", async () => {
    using state = await filledState();
    const file = path.join(state.parent, "backup");
    const stopping = new AbortController();
    const where = { stateDir: state.dir };
    const onProgress = (): void => stopping.abort();
    const options = { where, file, lock: SEALED, replace: false, ...FACTS, workFactor: 8 };
    {
      await using store = openStore({ stateDir: state.dir });
      for (let n = 0; n < 250; n += 1)
        void store.mutate({ do: "put", name: `s${n}`, value: Buffer.from("1") });
    }
    await expect(backUp({ ...options, onProgress, signal: stopping.signal })).rejects.toThrow();
    expect(fs.readdirSync(state.parent)).toEqual(["state"]);
    await backUp(options);
    const copy = path.join(state.parent, "copy");
    const again = new AbortController();
    const stop = (): void => {
      again.abort();
      expect(leftIn(copy)).toEqual([]);
      throw new LegerError("FAILED", "stopped");
    };
    const restoring = restore({
      stateDir: copy,
      file,
      keyFor: async () => SEALED,
      onProgress: stop,
      signal: again.signal,
    });
    expect(await failureOf(restoring)).toMatchObject({ code: "FAILED" });
    expect(leftIn(copy)).toEqual([]);
  });
});

test("a full disk leaves nothing half-written (where namespaces are allowed)", async ({ skip }) => {
  using state = await filledState();
  const small = path.join(state.parent, "small");
  fs.mkdirSync(small);
  const recipient = await identityToRecipient(await generateX25519Identity());
  const command = [...LEGERD_COMMAND, "backup", path.join(small, "b"), "--recipient", recipient];
  const script = `small=$1; shift; mount -t tmpfs -o size=64k,mode=0700 none "$small" || exit 99
    "$@"; status=$?; ls -A "$small" >&2; exit $status`;
  const args = ["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", small];
  const result = await run("unshare", [...args, ...command, "--state", state.dir], {
    env: fromHere(),
    timeoutMs: 30_000,
  });
  skip(result.status === 99 || result.stderr.startsWith("unshare:"), "no namespaces here");
  expect(result).toMatchObject({ status: 74 });
  expect(result.stderr).toBe(
    `legerd: error: cannot write ${small}/b: no space left (ENOSPC)\nlegerd: hint: make room there; see: df ${small}/b\n`,
  );
});

describe("legerd", () => {
  test("backs up and restores by passphrase, which comes from a file or a pipe and shows nowhere", async () => {
    using state = await filledState();
    const file = path.join(state.parent, "backup");
    const secret = path.join(state.parent, "passphrase");
    fs.writeFileSync(secret, `${PASSPHRASE}\n`, { mode: 0o600 });
    const made = await legerd(state, ["backup", file, "--state", state.dir, "--passphrase-file", secret]);
    expect(made).toEqual({
      status: 0,
      stdout: "",
      stderr: `legerd: ${file}: 2 secrets, 7 versions, 2 links, 1 services, every row verified, and the main key\n`,
    });
    const copy = path.join(state.parent, "copy");
    const args = ["restore", file, "--state", copy, "--json", "--passphrase-file", "-"];
    const restored = await legerd(state, args, `${PASSPHRASE}\n`);
    expect(restored).toMatchObject({ status: 0, stderr: "" });
    expect(JSON.parse(restored.stdout)).toMatchObject({ schema_version: 1, secrets: 2, versions: 7, file });
    expect(rowsOf(copy)).toEqual(rowsOf(state.dir));

    fs.chmodSync(secret, 0o644);
    const open = await legerd(state, [
      "backup",
      `${file}2`,
      "--state",
      state.dir,
      "--passphrase-file",
      secret,
    ]);
    expect(open).toMatchObject({ status: 77, stderr: expect.stringContaining("everybody may read it") });
  });

  test("says what is wrong with its arguments", async () => {
    using state = temporaryState();
    const cases: [string[], number, string][] = [
      [["backup", "b"], 64, "there is nobody to ask"],
      [["backup"], 64, "backup: FILE is missing"],
      [["restore", "a", "b"], 64, 'unknown argument "b"'],
      [["check", "--force"], 64, "check takes no option --force"],
      [["backup", "b", "--recipient", "ssh-ed25519 AAAA"], 64, "is no recipient of age"],
      [["backup", "b", "--passphrase-file", "-"], 65, "the passphrase is empty"],
    ];
    const said = await Promise.all(cases.map(([args]) => legerd(state, args)));
    for (const [at, [, status, words]] of cases.entries()) {
      expect(said[at]).toMatchObject({ status, stdout: "", stderr: expect.stringContaining(words) });
    }
  });
});
