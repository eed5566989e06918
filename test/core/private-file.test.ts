import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempDisposableSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statfsSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setImmediate as turn } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { LegerError } from "../../src/core/error.ts";
import { openPrivateDirectory, type PrivateDirectory } from "../../src/core/private-file.ts";

const EUID = process.geteuid?.() ?? 0;
const CANARY = Buffer.from("canary-5a8e");
const onTmpfs = (path: string): boolean => existsSync(path) && statfsSync(path).type === 0x0102_1994;
const DISK = [tmpdir(), import.meta.dirname].find((path) => !onTmpfs(path));

describe("a private file", () => {
  test("is 0600, whole and alone in its directory", () => {
    using place = privatePlace();
    place.directory.write("web.env", CANARY);
    expect(readdirSync(place.path)).toEqual(["web.env"]);
    expect(lstatSync(join(place.path, "web.env")).mode & 0o7777).toBe(0o600);
    expect(place.directory.read("web.env")).toEqual(CANARY);
  });

  test("is 0600 even where the umask is 0", () => {
    using place = privatePlace();
    const code = `process.umask(0);
      const { openPrivateDirectory } = await import(process.argv[1]);
      using directory = openPrivateDirectory(process.argv[2], { euid: ${EUID}, create: true });
      directory.write("web.env", Buffer.from("x"));`;
    const nested = join(place.path, "made");
    execFileSync(process.execPath, ["--input-type=module", "-e", code, MODULE, nested]);
    expect(lstatSync(nested).mode & 0o7777).toBe(0o700);
    expect(lstatSync(join(nested, "web.env")).mode & 0o7777).toBe(0o600);
  });

  test("is as open as told where it is no secret, whatever the umask", () => {
    using place = privatePlace();
    const umask = process.umask(0o077);
    try {
      place.directory.write("50-leger.conf", CANARY, 0o644);
    } finally {
      process.umask(umask);
    }
    expect(readdirSync(place.path)).toEqual(["50-leger.conf"]);
    expect(lstatSync(join(place.path, "50-leger.conf")).mode & 0o7777).toBe(0o644);
  });

  test("replaces an older one, and a wider mode with it", () => {
    using place = privatePlace();
    writeFileSync(join(place.path, "web.env"), "old", { mode: 0o644 });
    place.directory.write("web.env", CANARY);
    expect(place.directory.read("web.env")).toEqual(CANARY);
    expect(lstatSync(join(place.path, "web.env")).mode & 0o7777).toBe(0o600);
  });

  test("replaces a symlink planted in its place and leaves alone what that led to", () => {
    using place = privatePlace();
    const victim = join(place.path, "victim");
    writeFileSync(victim, "untouched");
    symlinkSync(victim, join(place.path, "web.env"));
    place.directory.write("web.env", CANARY);
    expect(readFileSync(victim, "utf8")).toBe("untouched");
    expect(lstatSync(join(place.path, "web.env")).isFile()).toBe(true);
  });

  test("does not replace a directory, and leaves nothing behind", () => {
    using place = privatePlace();
    mkdirSync(join(place.path, "web.env"));
    expect(() => place.directory.write("web.env", CANARY)).toThrow(
      expect.objectContaining({
        code: "UNSAFE",
        message: expect.stringMatching(/web\.env: it is a directory/),
      }),
    );
    expect(readdirSync(place.path)).toEqual(["web.env"]);
  });

  test("cannot be written once its directory is gone", () => {
    using place = privatePlace();
    rmdirSync(place.path);
    expect(() => place.directory.write("web.env", CANARY)).toThrow(
      expect.objectContaining({ code: "IO", message: expect.stringContaining("ENOENT") }),
    );
  });

  test.for(["", ".", "..", ".hidden", "a/b", "../a", "a\0b", "x".repeat(201)])(
    "cannot be called %j",
    (name) => {
      using place = privatePlace();
      const refused = expect.objectContaining({ code: "BAD_DATA" });
      expect(() => place.directory.write(name, CANARY)).toThrow(refused);
      expect(() => place.directory.read(name)).toThrow(refused);
      expect(() => place.directory.remove(name)).toThrow(refused);
      expect(() => place.directory.enter(name)).toThrow(refused);
      expect(readdirSync(place.path)).toEqual([]);
    },
  );

  test("with the longest name can be written", () => {
    using place = privatePlace();
    place.directory.write("x".repeat(200), CANARY);
    expect(readdirSync(place.path)).toEqual(["x".repeat(200)]);
  });

  test("is removed with what a killed writer left of it, and of no other", () => {
    using place = privatePlace();
    place.directory.write("web.env", CANARY);
    for (const left of [".web.env.17-abc.tmp", ".web.env.b.17-abc.tmp", ".db.env.17-abc.tmp"]) {
      writeFileSync(join(place.path, left), CANARY);
    }
    place.directory.remove("web.env");
    expect(readdirSync(place.path).toSorted()).toEqual([".db.env.17-abc.tmp", ".web.env.b.17-abc.tmp"]);
    expect(() => place.directory.remove("web.env")).not.toThrow();
  });

  test("that is missing reads as undefined", () => {
    using place = privatePlace();
    expect(place.directory.read("web.env")).toBeUndefined();
  });

  test("may be open to others where it is for files that are no secret", () => {
    using place = privatePlace();
    const path = join(place.path, "conf.d");
    makeWithMode(path, 0o775);
    using directory = openPrivateDirectory(path, { euid: EUID, othersMayWrite: true });
    directory.write("50-leger.conf", CANARY, 0o644);
    expect(readFileSync(join(path, "50-leger.conf"))).toEqual(CANARY);
  });

  test.for<[string, (path: string) => void, RegExp]>([
    ["a symlink", (path) => symlinkSync("/etc/passwd", path), /it is a symlink/],
    ["a directory", (path) => mkdirSync(path), /it is not a file/],
    ["a pipe nobody writes to", (path) => execFileSync("mkfifo", [path]), /it is not a file/],
    ["a file that others may read", (path) => writeFileSync(path, "x", { mode: 0o644 }), /mode 0644/],
  ])("that is %s is not read", ([, plant, message]) => {
    using place = privatePlace();
    plant(join(place.path, "web.env"));
    expect(() => place.directory.read("web.env")).toThrow(
      expect.objectContaining({ code: "UNSAFE", message: expect.stringMatching(message) }),
    );
  });
});

describe("a private directory", () => {
  test("is made 0700 below one that is there, level by level", () => {
    using place = privatePlace();
    using leger = place.directory.enter("leger");
    using env = leger.enter("env");
    env.write("web.env", CANARY);
    using again = place.directory.enter("leger");
    expect(again.path).toBe(leger.path);
    expect(lstatSync(env.path).mode & 0o7777).toBe(0o700);
    expect(readFileSync(join(place.path, "leger/env/web.env"))).toEqual(CANARY);
  });

  test.for<[string, (path: string) => void, RegExp]>([
    ["a symlink", (path) => symlinkSync(tmpdir(), path), /a symlink or not a directory/],
    ["a file", (path) => writeFileSync(path, ""), /a symlink or not a directory/],
    ["writable by its group", (path) => makeWithMode(path, 0o770), /others may write to it \(mode 0770\)/],
    [
      "writable by all, sticky or not",
      (path) => makeWithMode(path, 0o1777),
      /others may write to it \(mode 1777\)/,
    ],
  ])("that is %s is refused, by path, with a slash, and from above", ([, plant, message]) => {
    using place = privatePlace();
    const path = join(place.path, "env");
    plant(path);
    const refused = expect.objectContaining({ code: "UNSAFE", message: expect.stringMatching(message) });
    for (const way of [path, `${path}/`, `${path}/.`]) {
      expect(() => openPrivateDirectory(way, { euid: EUID, create: true })).toThrow(refused);
    }
    expect(() => place.directory.enter("env")).toThrow(refused);
  });

  test("that belongs to somebody else is refused", () => {
    using place = privatePlace();
    expect(() => openPrivateDirectory(place.path, { euid: EUID + 1 })).toThrow(
      expect.objectContaining({
        code: "UNSAFE",
        message: expect.stringContaining(`belongs to user ${EUID}`),
      }),
    );
  });

  test("that is missing is said to be, and its parents are not made", () => {
    using place = privatePlace();
    const path = join(place.path, "a/b");
    expect(() => openPrivateDirectory(path, { euid: EUID, create: true, requireTmpfs: true })).toThrow(
      expect.objectContaining({
        code: "IO",
        message: `${path} does not exist`,
        hints: [expect.stringContaining("enable-linger")],
      }),
    );
    expect(readdirSync(place.path)).toEqual([]);
  });

  test.skipIf(!onTmpfs("/dev/shm"))("on tmpfs is taken where tmpfs is required", () => {
    using place = privatePlace("/dev/shm", { requireTmpfs: true });
    place.directory.write("web.env", CANARY);
    expect(place.directory.read("web.env")).toEqual(CANARY);
  });

  test.skipIf(DISK === undefined)("on a disk is refused where tmpfs is required, with the way around", () => {
    using place = mkdtempDisposableSync(join(DISK ?? "", "leger-"));
    expect(() => openPrivateDirectory(place.path, { euid: EUID, requireTmpfs: true })).toThrow(
      expect.objectContaining({
        code: "UNSAFE",
        message: expect.stringContaining("not on tmpfs"),
        hints: [expect.stringContaining("--allow-disk")],
      }),
    );
  });

  test("gives its descriptor back, whether it was taken or refused", () => {
    using place = mkdtempDisposableSync(join(tmpdir(), "leger-"));
    const before = readdirSync("/proc/self/fd").length;
    for (let turns = 0; turns < 50; turns += 1) {
      using directory = openPrivateDirectory(place.path, { euid: EUID });
      directory.write("web.env", CANARY);
      directory.read("web.env");
      expect(() => openPrivateDirectory(place.path, { euid: EUID + 1 })).toThrow(LegerError);
    }
    expect(readdirSync("/proc/self/fd").length).toBeLessThan(before + 10);
  });
});

test.skipIf(!canMountTmpfs())("a full disk leaves the older file in place, and nothing else", () => {
  using place = mkdtempDisposableSync(join(tmpdir(), "leger-"));
  const code = `
    const { openPrivateDirectory } = await import(process.argv[1]);
    const { readdirSync } = await import("node:fs");
    using directory = openPrivateDirectory(process.argv[2], { euid: 0, requireTmpfs: true });
    directory.write("web.env", Buffer.from("older"));
    let failure;
    try { directory.write("web.env", Buffer.alloc(1 << 20, "canary")); } catch (error) { failure = error; }
    console.log(JSON.stringify({ code: failure?.code, message: failure?.message, hints: failure?.hints,
      names: readdirSync(process.argv[2]), kept: Buffer.from(directory.read("web.env")).toString() }));`;
  const shell =
    'mount -t tmpfs -o size=64k,mode=0700 tmpfs "$3" && exec "$0" --input-type=module -e "$1" "$2" "$3"';
  const { stdout, stderr } = inOwnNamespace(shell, [process.execPath, code, MODULE, place.path]);
  expect(stderr).toBe("");
  expect(JSON.parse(stdout)).toEqual({
    code: "IO",
    message: `cannot write ${place.path}/web.env: no space left (ENOSPC)`,
    hints: [expect.stringContaining("df")],
    names: ["web.env"],
    kept: "older",
  });
});

test("10,000 swaps of the directory while it is written: no file lands with the attacker", async () => {
  using place = mkdtempDisposableSync(join(onTmpfs("/dev/shm") ? "/dev/shm" : tmpdir(), "leger-"));
  const path = join(place.path, "private");
  const attacker = join(place.path, "attacker");
  mkdirSync(path, { mode: 0o700 });
  makeWithMode(attacker, 0o777);
  using held = openPrivateDirectory(path, { euid: EUID });

  const swapper = spawn(process.execPath, [SWAPPER, place.path, "10000"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const report = text(swapper.stdout);
  const over = once(swapper, "exit");
  const outcomes = { written: 0, refused: 0, missing: 0 };
  while (swapper.exitCode === null && swapper.signalCode === null) {
    held.write("held.env", CANARY);
    outcomes[writtenAnew(path)] += 1;
    // So that the swapper's end is seen.
    await turn();
  }

  expect(await over).toEqual([0, null]);
  expect(JSON.parse(await report)).toEqual({ swaps: 10_000, caught: [], tooOpen: [] });
  expect(readdirSync(attacker)).toEqual([]);
  expect(readdirSync(path).toSorted()).toEqual(["anew.env", "held.env"]);
  // Both happened, so the race was a race.
  expect(outcomes.written).toBeGreaterThan(0);
  expect(outcomes.refused).toBeGreaterThan(0);
});

const MODULE = join(import.meta.dirname, "../../src/core/private-file.ts");
const SWAPPER = join(import.meta.dirname, "../support/directory-swapper.ts");

function writtenAnew(path: string): "written" | "refused" | "missing" {
  try {
    using directory = openPrivateDirectory(path, { euid: EUID });
    directory.write("anew.env", CANARY);
    return "written";
  } catch (error) {
    if (error instanceof LegerError && error.code === "UNSAFE") return "refused";
    if (error instanceof LegerError && error.message.endsWith("does not exist")) return "missing";
    throw error;
  }
}

function privatePlace(
  below = tmpdir(),
  options: { requireTmpfs?: boolean } = {},
): { path: string; directory: PrivateDirectory } & Disposable {
  const place = mkdtempDisposableSync(join(below, "leger-"));
  const path = join(place.path, "run");
  mkdirSync(path, { mode: 0o700 });
  const directory = openPrivateDirectory(path, { euid: EUID, ...options });
  return {
    path,
    directory,
    [Symbol.dispose]() {
      directory[Symbol.dispose]();
      place.remove();
    },
  };
}

function makeWithMode(path: string, mode: number): void {
  mkdirSync(path);
  chmodSync(path, mode);
}

/** As root of a user and mount namespace of its own, where the machine lets anybody have one. */
function inOwnNamespace(
  shell: string,
  args: readonly string[],
): { stdout: string; stderr: string; status: number | null } {
  return spawnSync("unshare", ["--user", "--map-root-user", "--mount", "sh", "-c", shell, ...args], {
    encoding: "utf8",
  });
}

function canMountTmpfs(): boolean {
  return inOwnNamespace("mount -t tmpfs tmpfs /mnt", []).status === 0;
}
