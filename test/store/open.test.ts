import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { MIGRATIONS, prepareDatabase } from "../../src/store/database.ts";
import { openStore } from "../../src/store/store.ts";
import { codeOf, contentsOf, rawDatabase, temporaryState } from "./state.ts";

const AS_ROOT = process.geteuid?.() === 0;

test("the first start makes a private directory, key and database, and says so; the second does not", async () => {
  using state = temporaryState();
  {
    await using store = openStore({ stateDir: state.dir });
    expect(store).toMatchObject({
      created: true,
      databaseFile: path.join(state.dir, "secrets.db"),
      mainKeyFile: path.join(state.dir, "keys", "main.key"),
    });
  }
  await using store = openStore({ stateDir: state.dir });
  expect(store.created).toBe(false);
  expect(fs.statSync(state.dir).mode & 0o777).toBe(0o700);
});

describe("the main key", () => {
  test.for([
    ["missing", "CONFIG", (file) => fs.rmSync(file)],
    ["missing with its directory", "CONFIG", (file) => fs.rmSync(path.dirname(file), { recursive: true })],
    ["readable by a group", "UNSAFE", (file) => fs.chmodSync(file, 0o640)],
    ["readable by everybody", "UNSAFE", (file) => fs.chmodSync(file, 0o644)],
    ["writable by others", "UNSAFE", (file) => fs.chmodSync(file, 0o602)],
    [
      "a symbolic link",
      "UNSAFE",
      (file) => {
        fs.renameSync(file, `${file}.real`);
        fs.symlinkSync(`${file}.real`, file);
      },
    ],
    [
      "a directory",
      "UNSAFE",
      (file) => {
        fs.rmSync(file);
        fs.mkdirSync(file);
      },
    ],
    [
      "a named pipe",
      "UNSAFE",
      (file) => {
        fs.rmSync(file);
        execFileSync("mkfifo", ["-m", "600", file]);
      },
    ],
    ["empty", "CONFIG", (file) => fs.writeFileSync(file, "")],
    ["garbage", "CONFIG", (file) => fs.writeFileSync(file, "garbage\n")],
    ["cut short", "CONFIG", (file) => fs.truncateSync(file, 40)],
    ["too long", "CONFIG", (file) => fs.appendFileSync(file, "A".repeat(10_000))],
    ["another store's", "CONFIG", (file) => fs.copyFileSync(otherKey(path.dirname(file)), file)],
  ] as const satisfies readonly [string, string, (file: string) => void][])(
    "that is %s is refused, and nothing is changed or made",
    async ([, code, spoil]) => {
      using state = await stateWithOneSecret();
      spoil(path.join(state.dir, "keys", "main.key"));
      const before = contentsOf(state.dir);
      expect(await codeOf(() => openStore({ stateDir: state.dir }))).toBe(code);
      expect(contentsOf(state.dir)).toEqual(before);
    },
  );

  test("with any one bit flipped is refused", async () => {
    using state = await stateWithOneSecret();
    const file = path.join(state.dir, "keys", "main.key");
    const key = fs.readFileSync(file);
    // The last byte is the newline, which may be another white space or missing.
    for (let bit = 0; bit < (key.length - 1) * 8; bit += 1) {
      const flipped = Buffer.from(key);
      flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      fs.writeFileSync(file, flipped);
      expect(await codeOf(() => prepareDatabase({ stateDir: state.dir })), `bit ${bit}`).toBe("CONFIG");
    }
    fs.writeFileSync(file, key);
    expect(await codeOf(() => prepareDatabase({ stateDir: state.dir }))).toBe("fine");
  });

  test("is taken from systemd's credential where there is one", async () => {
    using state = await stateWithOneSecret();
    const credentialsDir = path.join(state.parent, "credentials");
    fs.mkdirSync(credentialsDir);
    fs.renameSync(path.join(state.dir, "keys", "main.key"), path.join(credentialsDir, "main.key"));
    fs.chmodSync(path.join(credentialsDir, "main.key"), 0o440);
    await using store = openStore({ stateDir: state.dir, credentialsDir });
    expect(store.get("one").version).toBe(1);
    expect(store.mainKeyFile).toBe(path.join(credentialsDir, "main.key"));
  });
});

describe("the database", () => {
  test.for([
    [
      "missing while its log is there",
      "DAMAGED",
      (file) => {
        fs.rmSync(file);
        fs.writeFileSync(`${file}-wal`, "log");
      },
    ],
    ["missing while its mark is there", "DAMAGED", (file) => fs.rmSync(file)],
    [
      "a symbolic link to nothing",
      "IO",
      (file) => {
        fs.rmSync(file);
        fs.symlinkSync(`${file}.unmounted`, file);
      },
    ],
    [
      "a named pipe",
      "UNSAFE",
      (file) => {
        fs.rmSync(file);
        execFileSync("mkfifo", ["-m", "600", file]);
      },
    ],
    ["no database at all", "DAMAGED", (file) => fs.writeFileSync(file, "x".repeat(8_192))],
    ["empty", "DAMAGED", (file) => fs.writeFileSync(file, "")],
    [
      "a symbolic link",
      "IO",
      (file) => {
        fs.renameSync(file, `${file}.real`);
        fs.symlinkSync(`${file}.real`, file);
      },
    ],
    [
      "somebody else's",
      "DAMAGED",
      (file) => {
        using db = rawDatabase(path.dirname(file));
        db.exec("PRAGMA application_id = 1");
      },
    ],
    [
      "made by a newer legerd",
      "CONFIG",
      (file) => {
        using db = rawDatabase(path.dirname(file));
        db.exec("PRAGMA user_version = 1000");
      },
    ],
    [
      "without its keys",
      "DAMAGED",
      (file) => {
        using db = rawDatabase(path.dirname(file));
        db.exec("DELETE FROM meta WHERE key = 'data_key'");
      },
    ],
  ] as const satisfies readonly [string, string, (file: string) => void][])(
    "that is %s is refused, and nothing is changed or made",
    async ([, code, spoil]) => {
      using state = await stateWithOneSecret();
      spoil(path.join(state.dir, "secrets.db"));
      const before = contentsOf(state.dir);
      expect(await codeOf(() => openStore({ stateDir: state.dir }))).toBe(code);
      expect(contentsOf(state.dir)).toEqual(before);
    },
  );

  test("that was put back from an older copy is refused until its mark is removed", async () => {
    using state = await stateWithOneSecret();
    const copy = path.join(state.parent, "copy");
    fs.copyFileSync(path.join(state.dir, "secrets.db"), copy);
    {
      await using store = openStore({ stateDir: state.dir });
      await store.mutate({ do: "put", name: "two", value: Buffer.from("x") });
    }
    fs.copyFileSync(copy, path.join(state.dir, "secrets.db"));
    expect(() => openStore({ stateDir: state.dir })).toThrow("acknowledged commits missing at its end: 1");
    fs.rmSync(path.join(state.dir, "secrets.mark"));
    await using store = openStore({ stateDir: state.dir });
    expect((await store.list()).map(({ Name }) => Name)).toEqual(["one"]);
  });

  test.for([
    ["missing", (file: string) => fs.rmSync(file)],
    ["damaged", (file: string) => fs.writeFileSync(file, "garbage")],
    ["an older one, as a power cut can leave it", (file: string) => fs.copyFileSync(`${file}.older`, file)],
  ] as const)("is opened although its mark is %s", async ([, spoil]) => {
    using state = await stateWithOneSecret();
    const mark = path.join(state.dir, "secrets.mark");
    fs.copyFileSync(mark, `${mark}.older`);
    {
      await using store = openStore({ stateDir: state.dir });
      await store.mutate({ do: "put", name: "two", value: Buffer.from("x") });
    }
    spoil(mark);
    await using store = openStore({ stateDir: state.dir });
    expect(store.count()).toBe(2);
  });

  test.for([
    ["a directory", "IO", (file: string) => fs.mkdirSync(file)],
    ["a symbolic link", "IO", (file: string) => fs.symlinkSync("elsewhere", file)],
    ["a named pipe", "UNSAFE", (file: string) => execFileSync("mkfifo", ["-m", "600", file])],
  ] as const)("is refused in time when in the place of its mark is %s", async ([, code, plant]) => {
    using state = await stateWithOneSecret();
    const mark = path.join(state.dir, "secrets.mark");
    fs.rmSync(mark);
    plant(mark);
    expect(() => openStore({ stateDir: state.dir })).toThrow(`open ${mark}: `);
    expect(await codeOf(() => openStore({ stateDir: state.dir }))).toBe(code);
  });

  test.for([
    ["was removed", "secrets.db", (file: string) => fs.rmSync(file)],
    [
      "was put back from a copy under its name",
      "secrets.db",
      (file: string) => {
        fs.copyFileSync(file, `${file}.copy`);
        fs.renameSync(`${file}.copy`, file);
      },
    ],
    ["lost its log", "secrets.db-wal", (file: string) => fs.rmSync(file)],
  ] as const)("that %s under a running legerd takes no more writes", async ([, name, spoil]) => {
    using state = await stateWithOneSecret();
    const store = openStore({ stateDir: state.dir });
    await store.mutate({ do: "put", name: "two", value: Buffer.from("x") });
    spoil(path.join(state.dir, name));
    const write = (): Promise<number> => store.mutate({ do: "put", name: "three", value: Buffer.from("x") });
    await expect(write()).rejects.toThrow(`${name} was removed or replaced under legerd`);
    expect(await codeOf(write)).toBe("DAMAGED");
    expect(store.get("two").version).toBe(1);
    await store.close();
  });

  test("of an older schema is brought up to date with what is in it", async () => {
    using state = await stateWithOneSecret();
    const migrations = [...MIGRATIONS, "CREATE TABLE later (id INTEGER PRIMARY KEY) STRICT"];
    prepareDatabase({ stateDir: state.dir }, migrations);
    prepareDatabase({ stateDir: state.dir }, migrations);
    expect(schemaOf(state.dir)).toEqual({ version: MIGRATIONS.length + 1, later: 1 });
    // This legerd is now the older one.
    expect(await codeOf(() => openStore({ stateDir: state.dir }))).toBe("CONFIG");
    {
      using db = rawDatabase(state.dir);
      db.exec(`DROP TABLE later; PRAGMA user_version = ${MIGRATIONS.length}`);
    }
    await using store = openStore({ stateDir: state.dir });
    expect(Buffer.from(store.get("one").value.reveal()).toString()).toBe("value");
  });

  test("keeps its schema when a migration fails half-way", async () => {
    using state = await stateWithOneSecret();
    const migrations = [...MIGRATIONS, "CREATE TABLE later (id INTEGER PRIMARY KEY) STRICT; no SQL"];
    const before = schemaOf(state.dir);
    expect(await codeOf(() => prepareDatabase({ stateDir: state.dir }, migrations))).toBe("DAMAGED");
    expect(schemaOf(state.dir)).toEqual(before);
    await using store = openStore({ stateDir: state.dir });
    expect(store.count()).toBe(1);
  });
});

describe("a second legerd", () => {
  test("is refused in the same process, which then still keeps other processes out", async () => {
    using state = temporaryState();
    const store = openStore({ stateDir: state.dir });
    expect(await codeOf(() => openStore({ stateDir: state.dir }))).toBe("REFUSED");
    const refused = startHolder(state.dir);
    expect(await firstLineOf(refused)).toBe("REFUSED");
    await store.mutate({ do: "put", name: "a", value: Buffer.from("x") });
    await store.close();
    await using again = openStore({ stateDir: state.dir });
    expect(again.count()).toBe(1);
  });

  test("is refused while another process has the store, and not once that was killed", async () => {
    using state = temporaryState();
    const holder = startHolder(state.dir);
    try {
      expect(await firstLineOf(holder)).toBe("open");
      expect(await codeOf(() => openStore({ stateDir: state.dir }))).toBe("REFUSED");
    } finally {
      const exit = once(holder, "exit");
      holder.kill("SIGKILL");
      await exit;
    }
    await using store = openStore({ stateDir: state.dir });
    expect(store.get("by the child").version).toBe(1);
  });
});

describe("the state directory", () => {
  test.for([
    ["open to its group", 0o750],
    ["writable by its group", 0o770],
    ["open to everybody", 0o755],
  ] as const)("that is %s is refused", async ([, mode]) => {
    using state = temporaryState();
    fs.mkdirSync(state.dir);
    fs.chmodSync(state.dir, mode);
    expect(await codeOf(() => openStore({ stateDir: state.dir }))).toBe("UNSAFE");
    expect(fs.readdirSync(state.dir)).toEqual([]);
  });

  test("that is a file is refused", async () => {
    using state = temporaryState();
    fs.writeFileSync(state.dir, "");
    expect(await codeOf(() => openStore({ stateDir: state.dir }))).toBe("IO");
  });

  test.skipIf(!AS_ROOT)("that belongs to somebody else is refused (only root can make one)", async () => {
    using state = temporaryState();
    fs.mkdirSync(state.dir, { mode: 0o700 });
    fs.chownSync(state.dir, 12_345, 12_345);
    expect(await codeOf(() => openStore({ stateDir: state.dir }))).toBe("UNSAFE");
  });

  test.skipIf(AS_ROOT)("that cannot be written to is refused (root writes everywhere)", async () => {
    using state = temporaryState();
    fs.mkdirSync(state.dir, { mode: 0o700 });
    fs.chmodSync(state.dir, 0o500);
    expect(await codeOf(() => openStore({ stateDir: state.dir }))).toBe("IO");
    fs.chmodSync(state.dir, 0o700);
  });

  test("that is full fails the write, keeps what was acknowledged, and takes more once there is room", async () => {
    using state = temporaryState();
    // Blocks of 512 bytes in dash, of 1,024 in bash: one to two megabytes either way. A file that grows beyond sends XFSZ.
    const command = 'trap "" XFSZ; ulimit -S -f 2000; exec "$0" "$1" "$2"';
    const script = path.join(import.meta.dirname, "fill-store.ts");
    const report: unknown = JSON.parse(
      execFileSync("/bin/sh", ["-c", command, process.execPath, script, state.dir], { encoding: "utf8" }),
    );
    const count = expect.any(Number);
    expect(report).toEqual({
      acknowledged: count,
      failure: "IO",
      readable: count,
      listed: count,
      afterwards: 1,
    });
    const { acknowledged, readable, listed } = counted(report);
    expect(acknowledged).toBeGreaterThan(10);
    expect([readable, listed]).toEqual([acknowledged, acknowledged]);
    await using store = openStore({ stateDir: state.dir });
    expect(store.count()).toBe(acknowledged + 1);
  });
});

async function stateWithOneSecret(): Promise<ReturnType<typeof temporaryState>> {
  const state = temporaryState();
  await using store = openStore({ stateDir: state.dir });
  await store.mutate({ do: "put", name: "one", value: Buffer.from("value") });
  return state;
}

/** The main key file of a store made for the purpose. */
function otherKey(beside: string): string {
  const stateDir = path.join(beside, "..", "..", "other");
  fs.mkdirSync(stateDir, { mode: 0o700 });
  return prepareDatabase({ stateDir }).mainKey.file;
}

function schemaOf(dir: string): unknown {
  using db = rawDatabase(dir);
  return {
    version: db.prepare("PRAGMA user_version").get()?.["user_version"],
    later: db.prepare("SELECT count(*) AS n FROM sqlite_schema WHERE name = 'later'").get()?.["n"],
  };
}

function startHolder(dir: string): ChildProcess {
  const script = path.join(import.meta.dirname, "hold-store.ts");
  return spawn(process.execPath, [script, dir], { stdio: ["pipe", "pipe", "inherit"] });
}

async function firstLineOf(child: ChildProcess): Promise<string> {
  let text = "";
  for await (const chunk of child.stdout ?? []) {
    text += String(chunk);
    if (text.includes("\n")) break;
  }
  return text.trimEnd();
}

function counted(report: unknown): { acknowledged: number; readable: number; listed: number } {
  const numbers = typeof report === "object" && report !== null ? { ...report } : {};
  const of = (key: string): number => Number(Object.entries(numbers).find(([name]) => name === key)?.[1]);
  return { acknowledged: of("acknowledged"), readable: of("readable"), listed: of("listed") };
}
