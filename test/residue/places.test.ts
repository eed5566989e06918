import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { DatabaseSync } from "node:sqlite";
import { zstdCompressSync } from "node:zlib";
import { dir } from "tmp-promise";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Secret } from "../../src/core/secret.ts";
import { Residue, type Report, type Searching } from "../../src/residue/residue.ts";

const VALUE = "canary-residue-51f0c2d9";
const residue = new Residue([{ secret: "key", version: 3, value: new Secret(Buffer.from(VALUE)) }]);

let directory = "";
let cleanup = async (): Promise<void> => {};
beforeEach(async () => {
  ({ path: directory, cleanup } = await dir({ unsafeCleanup: true }));
  directory = fs.realpathSync(directory);
});
afterEach(() => cleanup());

/** Whatever it reports, the value is no part of it. */
async function search(options: Partial<Searching> = {}): Promise<Report> {
  const report = await residue.search({ roots: [directory], euid: process.geteuid?.() ?? 0, ...options });
  expect(JSON.stringify(report)).not.toContain(VALUE);
  return report;
}

function at(...parts: string[]): string {
  return path.join(directory, ...parts);
}

test("what is no file is not opened, and a symlink is not followed", async () => {
  const outside = await dir({ unsafeCleanup: true });
  fs.writeFileSync(path.join(outside.path, "secret"), VALUE);
  fs.symlinkSync(outside.path, at("link"));
  fs.symlinkSync(path.join(outside.path, "secret"), at("link-to-file"));
  fs.symlinkSync(".", at("loop"));
  // To open a pipe would wait for its writer; to open it for both would not, and would be seen here.
  execFileSync("mkfifo", [at("pipe")]);
  await using server = createServer().listen(at("socket"));
  await once(server, "listening");
  fs.mkdirSync(at("below"));
  fs.writeFileSync(at("below", "file"), `x${VALUE}`);
  const report = await search();
  expect(report).toMatchObject({ files: 1, unreadable: [], findings: [{ path: at("below", "file") }] });
  expect((await search({ roots: [at("pipe"), at("socket"), "/dev/null", "/dev/zero"] })).files).toBe(0);
  // What was named is looked at, by whichever name.
  expect((await search({ roots: [at("link")] })).findings).toHaveLength(1);
  await outside.cleanup();
});

test("a place within another is searched once, and one that is not there is passed over", async () => {
  fs.mkdirSync(at("a", "b"), { recursive: true });
  fs.writeFileSync(at("a", "b", "file"), VALUE);
  const roots = [at("a", "b"), directory, at("a"), at("absent"), at("a", "b", "file", "no-directory")];
  expect((await search({ roots })).findings).toHaveLength(1);
});

test("what cannot be read is listed, and the rest is searched", async () => {
  fs.writeFileSync(at("file"), VALUE);
  // Root, too, may only write there.
  const closed = "/proc/sys/vm/compact_memory";
  const report = await search({ roots: [closed, directory] });
  expect(report.unreadable).toEqual([{ path: closed, code: "EACCES" }]);
  expect(report.findings).toHaveLength(1);
});

test("the kernel's own file systems are left out, unless they were named", async () => {
  const { leftOut } = await search({ roots: ["/proc/self/attr"] });
  expect(leftOut).toEqual([]);
});

test("a value in a file's name is found, and masked in every path", async () => {
  fs.mkdirSync(at(`backup of ${VALUE}`));
  fs.writeFileSync(at(`backup of ${VALUE}`, "file"), VALUE);
  const { findings } = await search();
  expect(findings.map((finding) => finding.path)).toEqual([
    at("backup of [secret]"),
    at("backup of [secret]", "file"),
  ]);
  expect(findings.map(({ traces }) => traces.map(({ within }) => within))).toEqual([["name"], ["content"]]);
});

test("names that are not UTF-8, deep directories, and files that are sparse are all searched", async () => {
  fs.writeFileSync(Buffer.concat([Buffer.from(`${directory}/`), Buffer.from([0xff, 0xfe])]), VALUE);
  // Longer than the 4096 bytes that a path may have: made in two parts, of which one is moved to the end of the other.
  const name = "x".repeat(200);
  const go = `i=0; while [ $i -lt 15 ]; do mkdir ${name} && cd ${name} || exit; i=$((i+1)); done`;
  const deep = `mkdir end; (cd end; ${go}; echo ${VALUE} >file); end=$PWD/end; ${go}; mv "$end" .`;
  execFileSync("sh", ["-c", deep], { cwd: directory });
  fs.writeFileSync(at("sparse"), "");
  fs.truncateSync(at("sparse"), 64 * 1024 * 1024);
  try {
    const report = await search();
    expect(report.findings).toHaveLength(2);
    expect(report).toMatchObject({ files: 3, unreadable: [] });
  } finally {
    execFileSync("rm", ["-r", at(name)]);
  }
});

test("a file that grows while it is read is read as far as it was", async () => {
  const file = at("growing");
  fs.writeFileSync(file, Buffer.alloc(3 * 1024 * 1024, 0x61));
  const more = Buffer.alloc(1024 * 1024, 0x62);
  const report = await search({ onProgress: () => fs.appendFileSync(file, more) });
  expect(report.bytes).toBe(3 * 1024 * 1024);
});

test("a file that shrinks while it is read, or goes away, is no fault", async () => {
  for (const name of ["1", "2", "3"]) fs.writeFileSync(at(name), Buffer.alloc(3 * 1024 * 1024, 0x61));
  const report = await search({
    onProgress() {
      fs.truncateSync(at("1"), 0);
      fs.rmSync(at("2"), { force: true });
    },
  });
  expect(report).toMatchObject({ files: 2, unreadable: [] });
});

test("what lies in memory is told from what lies on a disk", async (context) => {
  const shm = "/dev/shm";
  if (!fs.existsSync(shm) || fs.statfsSync(shm).type !== 0x0102_1994) context.skip("no tmpfs at /dev/shm");
  const inMemory = fs.mkdtempSync(`${shm}/leger-residue-`);
  try {
    fs.writeFileSync(path.join(inMemory, "file"), VALUE);
    expect((await search({ roots: [inMemory] })).findings).toMatchObject([{ isInMemory: true }]);
    expect((await search({ roots: [inMemory], diskOnly: true })).findings).toEqual([]);
  } finally {
    fs.rmSync(inMemory, { recursive: true });
  }
});

test("arguments and variables of processes are searched, also of those that come and go", async () => {
  const env = { PATH: process.env["PATH"], KEY: VALUE };
  const holder = spawn("sleep", ["60"], { env });
  const arguing = spawn("sh", ["-c", `exec sleep 60 # ${VALUE}`], { argv0: `sh ${VALUE}` });
  const noise = spawn("sh", ["-c", "while :; do /bin/true; done"]);
  try {
    // The shell's arguments are gone once it has become the other program.
    const held = spawn("sh", ["-c", "read line; : $0", VALUE]);
    await Promise.all([holder, arguing, noise, held].map(async (child) => child.pid ?? once(child, "spawn")));
    const { findings } = await search({ roots: [], proc: "/proc" });
    held.kill();
    const seen = findings.map((finding) => finding.process);
    expect(seen).toContainEqual({ pid: holder.pid, what: "environ" });
    expect(seen).toContainEqual({ pid: held.pid, what: "cmdline" });
    expect(findings.find((finding) => finding.process?.pid === holder.pid)?.traces).toMatchObject([
      { secret: "key", version: 3, form: "raw", times: 1 },
    ]);
  } finally {
    for (const child of [holder, arguing, noise]) child.kill();
  }
});

/** As systemd lays one out: docs/JOURNAL_FILE_FORMAT.md. */
function journalOf(
  fields: readonly { payload: Uint8Array; flags: number }[],
  { compact }: { compact: boolean },
): Buffer {
  const header = Buffer.alloc(272);
  header.write("LPKSHHRH", "latin1");
  header.writeUInt32LE(compact ? 16 + 8 : 8, 12);
  header.writeBigUInt64LE(272n, 88);
  const objects = fields.map(({ payload, flags }) => {
    const begin = compact ? 72 : 64;
    const object = Buffer.alloc(Math.ceil((begin + payload.length) / 8) * 8);
    object[0] = 1;
    object[1] = flags;
    object.writeBigUInt64LE(BigInt(begin + payload.length), 8);
    Buffer.from(payload).copy(object, begin);
    return object;
  });
  return Buffer.concat([header, ...objects, Buffer.alloc(64)]);
}

test.for([false, true])("what a journal keeps compressed is found (compact: %s)", async (compact) => {
  // Letters of which some are rarer than others, or zstd would leave them as they are.
  const letters = Array.from({ length: 4_000 }, (_, n) =>
    "abcdefghijklmnop".charAt(Math.floor(((n * n * 7) % 1_009) / 80)),
  );
  const message = Buffer.from(`MESSAGE=${letters.join("")}${VALUE}${letters.join("-")}`);
  const packed = zstdCompressSync(message);
  expect(packed.includes(VALUE)).toBe(false);
  const journal = journalOf(
    [
      { payload: Buffer.from("MESSAGE=plain"), flags: 0 },
      { payload: packed, flags: 4 },
      { payload: Buffer.from("not what it says it is"), flags: 4 },
      { payload: zstdCompressSync(Buffer.alloc(900_000, `${VALUE} `)), flags: 4 },
    ],
    { compact },
  );
  fs.writeFileSync(at("system.journal"), journal);
  const report = await search();
  const traces = report.findings[0]?.traces.filter(({ within }) => within === "compressed field");
  expect(traces).toMatchObject([
    { within: "compressed field", times: 1 },
    { within: "compressed field", times: 37_500 },
  ]);
  expect(report.leftOut).toMatchObject([
    { why: "1 of its fields are compressed in a way that leger cannot read" },
  ]);
});

test("a journal that is cut short or damaged is searched as far as it makes sense", async () => {
  const journal = journalOf([{ payload: Buffer.alloc(2_000, VALUE), flags: 0 }], { compact: false });
  for (let length = 0; length < journal.length; length += 97) {
    fs.writeFileSync(at("cut.journal"), journal.subarray(0, length));
    expect((await search()).unreadable).toEqual([]);
  }
  const wild = Buffer.from(journal);
  wild.writeBigUInt64LE(0xffff_ffff_ffff_ffffn, 272 + 8);
  fs.writeFileSync(at("wild.journal"), wild);
  expect((await search({ roots: [at("wild.journal")] })).findings).toHaveLength(1);
});

test.for([512, 4_096, 65_536])(
  "what goes over the border of a database's page of %i bytes is found",
  async (pageBytes) => {
    using database = new DatabaseSync(at("db.sql"));
    database.exec(
      `PRAGMA page_size = ${pageBytes}; CREATE TABLE container (id INTEGER PRIMARY KEY, json TEXT)`,
    );
    const insert = database.prepare("INSERT INTO container (json) VALUES (?)");
    const values = Array.from(
      { length: 60 },
      (_, n) => `sk-proj-${(n * 48_271).toString(36).padStart(40, "x")}`,
    );
    for (const [n, value] of values.entries()) {
      insert.run(`${"{".repeat(pageBytes + n * 17)}${value}${"}".repeat(2 * pageBytes + n * 29)}`);
    }
    const all = values.map((value, n) => ({
      secret: `key_${n}`,
      version: 1,
      value: new Secret(Buffer.from(value)),
    }));
    const { findings } = await new Residue(all).search({ roots: [at("db.sql")], euid: 0 });
    const traces = findings.flatMap((finding) => finding.traces);
    expect(traces.map(({ secret }) => secret).toSorted()).toEqual(all.map(({ secret }) => secret).toSorted());
    // The larger the pages, the fewer of them.
    const across = traces.filter(({ within }) => within === "database row");
    if (pageBytes === 512) expect(across.length).toBeGreaterThan(0);
    expect(traces.filter(({ within }) => within === "content").length).toBe(values.length - across.length);
  },
);

test("a database that is cut short or damaged is searched as far as it makes sense", async () => {
  using database = new DatabaseSync(at("whole"));
  database.exec("CREATE TABLE container (json TEXT)");
  database.prepare("INSERT INTO container VALUES (?)").run(VALUE.padStart(20_000, "x"));
  const whole = fs.readFileSync(at("whole"));
  for (let length = 0; length < whole.length; length += 499) {
    fs.writeFileSync(at("cut"), whole.subarray(0, length));
    expect((await search({ roots: [at("cut")] })).unreadable).toEqual([]);
  }
  for (let place = 16; place < whole.length; place += 97) {
    const damaged = Buffer.from(whole);
    damaged.fill(0xff, place, place + 5);
    fs.writeFileSync(at("damaged"), damaged);
    expect((await search({ roots: [at("damaged")] })).unreadable).toEqual([]);
  }
});
