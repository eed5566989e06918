import { createSecretKey } from "node:crypto";
import * as fs from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { z } from "zod";
import { openAuditLog, type AuditHeads, type AuditLog, type AuditOptions } from "../../src/store/audit.ts";
import { verifyAudit, type AuditReport } from "../../src/store/audit-verify.ts";
import { contentsOf, temporaryState } from "./state.ts";

const KEY = createSecretKey(Buffer.alloc(32, 7));
const OLD = `${JSON.stringify({ time: "2026-01-01T10:00:00.000Z", principal: "alice", action: "get", authorized: true })}\n`;
const MIB = 1024 * 1024;

type Place = { dir: string; parent: string; [Symbol.dispose]: () => void };

function place(): Place {
  const state = temporaryState();
  fs.mkdirSync(state.dir, { mode: 0o700 });
  return state;
}

function openAt({ dir }: Place, options: Partial<AuditOptions> = {}): AuditLog {
  return openAuditLog({ stateDir: dir, key: KEY, noted: undefined, foldMs: 0, log: () => {}, ...options });
}

function verifyAt({ dir }: Place, heads?: AuditHeads): Promise<AuditReport> {
  return verifyAudit({ stateDir: dir, key: KEY, heads });
}

function linesIn({ dir }: Place, file = "audit.log"): Record<string, unknown>[] {
  const text = fs.readFileSync(path.join(dir, file), "utf8");
  return text
    .split("\n")
    .flatMap((line) => (line === "" ? [] : [z.record(z.string(), z.unknown()).parse(JSON.parse(line))]));
}

function entryOf(secret: string) {
  return { principal: "alice", action: "get", authorized: true, secret } as const;
}

async function get(audit: AuditLog, secret: string): Promise<void> {
  await audit.append(entryOf(secret));
}

async function put(audit: AuditLog, secret: string): Promise<void> {
  await audit.appendChange({ principal: "alice", action: "put", authorized: true, secret });
}

/** Ten reads and three changes; closed. */
async function written(state: Place): Promise<AuditHeads> {
  const audit = openAt(state);
  for (const name of ["a", "b", "c"]) await put(audit, name);
  for (let at = 0; at < 10; at += 1) await get(audit, `s${at}`);
  audit.close();
  return audit.heads;
}

function edit({ dir }: Place, file: string, change: (lines: string[]) => string[]): void {
  const target = path.join(dir, file);
  const lines = fs.readFileSync(target, "utf8").split("\n").slice(0, -1);
  fs.writeFileSync(target, `${change(lines).join("\n")}\n`);
}

test("a torn line is cut off and told; a whole one stays", async () => {
  using state = place();
  const heads = await written(state);
  const file = path.join(state.dir, "audit.log");
  const whole = fs.readFileSync(file, "utf8");
  const torn = whole.slice(0, 60);
  fs.appendFileSync(file, torn);
  const said: string[] = [];
  const audit = openAt(state, { noted: heads, log: (line) => said.push(line) });
  expect(said).toEqual([`legerd: notice: ${file}: cut off an unfinished line: ${JSON.stringify(torn)}`]);
  await get(audit, "later");
  audit.close();
  const now = fs.readFileSync(file, "utf8");
  expect(now.startsWith(whole)).toBe(true);
  expect(linesIn(state).at(-1)).toMatchObject({ n: 14, secret: "later" });
  expect(await verifyAt(state, audit.heads)).toEqual({ lines: 17, unnumbered: 0, problems: [] });
});

test("what a power cut made holes in is taken out and told; the lines between stay, and what is missing is seen", async () => {
  using state = place();
  await written(state);
  const file = path.join(state.dir, "audit.log");
  const lines = fs.readFileSync(file, "utf8").split("\n").slice(0, -1);
  // A hole from the middle of line 4 to that of line 6, and one at the end.
  const spoilt = lines.with(3, `${lines[3]?.slice(0, 20)}${"\0".repeat(200)}`).with(4, "\0".repeat(220));
  const hole = `${spoilt.slice(0, 5).join("\n").slice(0, -1)}\0\0${spoilt.slice(5).join("\n").slice(1)}`;
  fs.writeFileSync(file, `${hole}\n\0\0\0\0`);
  const said: string[] = [];
  const audit = openAt(state, { log: (line) => said.push(line) });
  expect(said).toEqual([`legerd: warning: ${file}: took out 3 lines that a power cut had left incomplete`]);
  await get(audit, "later");
  audit.close();
  expect(linesIn(state).map(({ n }) => n)).toEqual([1, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14]);
  expect(await verifyAt(state, audit.heads)).toMatchObject({
    problems: [`${file}:4: lines 4 to 6 are missing before it`],
  });
});

test("damage all over one log does not hide what is wrong with the other", async () => {
  using state = place();
  const audit = openAt(state);
  for (let at = 0; at < 150; at += 1) await get(audit, `s${at}`);
  for (const name of ["a", "b", "c"]) await put(audit, name);
  audit.close();
  edit(state, "audit.log", (lines) => lines.map((line) => line.replace('"alice"', '"malice"')));
  edit(state, "audit-changes.log", (lines) => lines.toSpliced(1, 1));
  const { problems } = await verifyAt(state, audit.heads);
  expect(problems).toHaveLength(102);
  expect(problems[100]).toBe(`${path.join(state.dir, "audit.log")}: and 53 problems more`);
  expect(problems[101]).toMatch(/audit-changes\.log:2: line 2 is missing before it/);
});

test("a name with characters that end a line in JavaScript is no change to its line", async () => {
  using state = place();
  const audit = openAt(state);
  await put(audit, "a\u2028b\u2029c");
  audit.close();
  expect(await verifyAt(state, audit.heads)).toEqual({ lines: 2, unnumbered: 0, problems: [] });
});

test("lines of an older legerd without numbers become the oldest segment", async () => {
  using state = place();
  fs.writeFileSync(path.join(state.dir, "audit.log"), OLD + OLD, { mode: 0o600 });
  const audit = openAt(state);
  await get(audit, "new");
  audit.close();
  expect(fs.readFileSync(path.join(state.dir, "audit-000000000000.log"), "utf8")).toBe(OLD + OLD);
  expect(linesIn(state)).toMatchObject([
    { n: 1, action: "rotate" },
    { n: 2, secret: "new" },
  ]);
  expect(await verifyAt(state, audit.heads)).toEqual({ lines: 2, unnumbered: 2, problems: [] });
});

test.for([
  ["nothing", (lines) => lines, []],
  [
    "a changed name",
    (lines) => lines.map((line) => line.replace('"s4"', '"s5"')),
    [/audit\.log:8: line 8 was changed/],
  ],
  ["a line taken out", (lines) => lines.toSpliced(4, 1), [/audit\.log:5: line 5 is missing before it/]],
  [
    "a line taken out and the rest renumbered",
    (lines) => lines.toSpliced(4, 1).map((line, at) => line.replace(/^\{"n":\d+/, `{"n":${at + 1}`)),
    [
      ...[5, 6, 7, 8, 9, 10, 11, 12].map((at) => new RegExp(`audit\\.log:${at}: line ${at} was changed`)),
      /line 13 is missing at its end/,
    ],
  ],
  [
    "two lines in the other order",
    (lines) => lines.toSpliced(6, 2, lines[7] ?? "", lines[6] ?? ""),
    [/:7: line 7 is missing/, /:8: line 7 comes after line 8/, /:9: line 8 is missing/],
  ],
  ["the end cut off", (lines) => lines.slice(0, 9), [/audit\.log: lines 10 to 13 are missing at its end/]],
  ["the beginning cut off", (lines) => lines.slice(3), [/audit\.log:1: lines 1 to 3 are missing before it/]],
  [
    "a line put in",
    (lines) => lines.toSpliced(2, 0, '{"n":3,"secret":"forged","mac":"AAAAAAAAAAAAAAAAAAAAAA"}'),
    [/:3: line 3 was changed/, /:4: line 3 comes after line 3/],
  ],
  [
    "a line that is none",
    (lines) => lines.toSpliced(2, 0, "hello"),
    [/audit\.log:3: it is no line of legerd's/],
  ],
] as const satisfies [string, (lines: string[]) => string[], RegExp[]][])(
  "verified after %s",
  async ([, change, problems]) => {
    using state = place();
    const heads = await written(state);
    edit(state, "audit.log", change);
    const report = await verifyAt(state, heads);
    expect(report.problems).toEqual(problems.map((problem) => expect.stringMatching(problem)));
  },
);

test("an old copy that was put back is told at the start, and seen ever after", async () => {
  using state = place();
  const first = openAt(state);
  await get(first, "a");
  first.close();
  const copy = fs.readFileSync(path.join(state.dir, "audit.log"));
  const second = openAt(state, { noted: first.heads });
  for (const name of ["b", "c", "d"]) await get(second, name);
  second.close();
  fs.writeFileSync(path.join(state.dir, "audit.log"), copy);
  const said: string[] = [];
  const third = openAt(state, { noted: second.heads, log: (line) => said.push(line) });
  expect(said.join()).toMatch(/ends at line 1, but line 4 was written/);
  await get(third, "e");
  third.close();
  expect((await verifyAt(state, third.heads)).problems).toEqual([
    expect.stringMatching(/audit\.log:2: lines 2 to 4 are missing before it/),
  ]);
});

test("a log that was removed leaves its number behind", async () => {
  using state = place();
  const heads = await written(state);
  fs.rmSync(path.join(state.dir, "audit.log"));
  const audit = openAt(state, { noted: heads });
  await get(audit, "again");
  audit.close();
  expect(linesIn(state)).toMatchObject([{ n: 14, action: "rotate" }, { n: 15 }]);
  const { problems } = await verifyAt(state, audit.heads);
  expect(problems).toEqual([expect.stringMatching(/audit\.log:1: lines 1 to 13 are missing before it/)]);
});

test("another key's log does not verify", async () => {
  using state = place();
  await written(state);
  const key = createSecretKey(Buffer.alloc(32, 8));
  expect((await verifyAudit({ stateDir: state.dir, key, heads: undefined })).problems).toHaveLength(16);
});

test("bounded in size, no line lost while it is kept, and no flood of reads pushes a change out", async () => {
  using state = place();
  const maxBytes = 8 * 64 * 1024;
  let audit = openAt(state, { maxBytes });
  await put(audit, "the first change");
  for (let at = 0; at < 6_000; at += 1) void get(audit, `leger/local/secret number ${at}`).catch(() => {});
  await get(audit, "last");
  // In the middle, as after a restart.
  audit.close();
  audit = openAt(state, { maxBytes, noted: audit.heads });
  for (let at = 0; at < 12_000; at += 1) {
    void get(audit, `leger/local/secret number ${at}`);
    if (at % 500 === 0) await audit.append({ principal: "b", action: "info", authorized: true });
  }
  await put(audit, "the last change");
  audit.close();
  const sizes = fs.readdirSync(state.dir).map((name) => fs.statSync(path.join(state.dir, name)).size);
  // A batch that is written at once may take a file over its size.
  expect(sizes.reduce((sum, size) => sum + size)).toBeLessThan(maxBytes + 6 * MIB);
  const kept = fs
    .readdirSync(state.dir)
    .filter((name) => /^audit-?\d*\.log$/.test(name))
    .toSorted();
  expect(kept.length).toBeLessThanOrEqual(6);
  const segments = kept.filter((name) => name !== "audit.log");
  const numbers = [...segments, "audit.log"].flatMap((name) =>
    linesIn(state, name).map(({ n }) => Number(n)),
  );
  expect(numbers[0]).toBeGreaterThan(1);
  expect(numbers).toEqual(numbers.map((_, at) => (numbers[0] ?? 0) + at));
  expect(linesIn(state, "audit-changes.log")).toMatchObject([
    { n: 1, log_n: 1, secret: "the first change" },
    { n: 2, log_n: numbers.at(-1), secret: "the last change" },
  ]);
  expect((await verifyAt(state, audit.heads)).problems).toEqual([]);
  // An old segment that is missing is no rotation.
  fs.rmSync(path.join(state.dir, segments[0] ?? ""));
  expect((await verifyAt(state, audit.heads)).problems).toHaveLength(1);
});

test("a kill in the middle of a rotation loses nothing", async () => {
  using state = place();
  const heads = await written(state);
  const file = path.join(state.dir, "audit.log");
  fs.writeFileSync(`${file}.new`, "half a li");
  fs.renameSync(file, path.join(state.dir, "audit-000000000001.log"));
  const audit = openAt(state, { noted: heads });
  await get(audit, "after");
  audit.close();
  expect(Object.keys(contentsOf(state.dir)).toSorted()).toEqual([
    "audit-000000000001.log",
    "audit-changes.log",
    "audit.log",
  ]);
  expect(await verifyAt(state, audit.heads)).toMatchObject({ problems: [] });
});

test("repeats of one request are one line that counts them; what differs has a line of its own", async () => {
  using state = place();
  const audit = openAt(state, { foldMs: 60_000 });
  const health = (invocation: string): Promise<void> =>
    audit.append({
      principal: "alice",
      action: "get",
      authorized: true,
      secret: "a",
      version: 1,
      invocation,
    });
  await Promise.all(["i1", "i2", "i3"].map(health));
  const start = (invocation: string): Promise<void> =>
    audit.append({
      principal: "alice",
      action: "get",
      authorized: true,
      secret: "a",
      unit: "web.service",
      invocation,
    });
  await Promise.all(["s1", "s2", "s2"].map(start));
  await audit.append({ principal: "alice", action: "get", authorized: true, secret: "a", version: 2 });
  await audit.append({ principal: "alice", action: "get", authorized: false, secret: "a", version: 1 });
  await audit.append({ principal: "bob", action: "get", authorized: true, secret: "a", version: 1 });
  await put(audit, "a");
  await put(audit, "a");
  expect(linesIn(state)).toHaveLength(8);
  expect(linesIn(state).slice(0, 3)).toMatchObject([
    { invocation: "i1" },
    { invocation: "s1" },
    { invocation: "s2" },
  ]);
  audit.close();
  const [checks, starts, ...rest] = linesIn(state).slice(8);
  expect(rest).toEqual([]);
  expect(checks).toMatchObject({ principal: "alice", secret: "a", version: 1, repeats: 2 });
  expect(checks).not.toHaveProperty("invocation");
  expect(starts).toMatchObject({ unit: "web.service", invocation: "s2", repeats: 1 });
});

test("the count comes when its time is over, and then the next request has a line again", async () => {
  using state = place();
  const audit = openAt(state, { foldMs: 50 });
  await get(audit, "a");
  await get(audit, "a");
  await expect.poll(() => linesIn(state)).toMatchObject([{ n: 1 }, { n: 2, repeats: 1 }]);
  await get(audit, "a");
  audit.close();
  const lines = linesIn(state);
  expect(lines).toHaveLength(3);
  expect(lines[2]).not.toHaveProperty("repeats");
});

test("lines that are noted at once stand behind those that were waiting, and each is written once", async () => {
  using state = place();
  const audit = openAt(state, { foldMs: 60_000 });
  const first = get(audit, "first");
  audit.appendNow([entryOf("second"), entryOf("third"), entryOf("first")]);
  const fourth = get(audit, "fourth");
  await Promise.all([first, fourth]);
  expect(linesIn(state).map(({ secret }) => secret)).toEqual(["first", "second", "third", "fourth"]);
  audit.close();
  expect(linesIn(state).at(-1)).toMatchObject({ secret: "first", repeats: 1 });
});
