import { spawn } from "node:child_process";
import { appendFileSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Writable } from "node:stream";
import { expect, test } from "vitest";
import { CANARY, expectSpoken, leger } from "../support/cli.ts";
import { LEGER_COMMAND, makePlaces, startTestLegerd, type Places } from "../support/legerd.ts";

function line(time: string, more: Record<string, unknown> = {}): string {
  return `${JSON.stringify({ time, principal: "alice", action: "get", authorized: true, secret: "leger/local/x1", version: 1, ...more })}\n`;
}

function logOf(places: Places, text: string): string {
  mkdirSync(places.stateDir, { mode: 0o700 });
  const file = path.join(places.stateDir, "audit.log");
  writeFileSync(file, text);
  return file;
}

test("it finds the running legerd's log and shows who asked for what", async () => {
  await using daemon = await startTestLegerd({ "leger/local/x1": CANARY });
  await leger(daemon, ["secrets", "get", "x1"], { printsValue: true });
  const { status, stdout, stderr } = await leger(daemon, ["audit"]);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout).toMatch(/^TIME +PRINCIPAL +ACTION +SECRET\n/);
  expect(stdout).toMatch(/\n\S+Z {2}tester +get +leger\/local\/x1 v1\n/);
  const json = (await leger(daemon, ["audit", "--json", "--secret", "x1"])).stdout.trimEnd().split("\n");
  expect(json.map((text) => JSON.parse(text))).toMatchObject([
    { schema_version: 1, action: "put", secret: "leger/local/x1" },
    { schema_version: 1, action: "get", secret: "leger/local/x1", version: 1, principal: "tester" },
  ]);
});

test("without legerd it reads the log where legerd would keep it", async () => {
  using places = makePlaces();
  const state = path.join(places.base, ".local", "state");
  mkdirSync(state, { recursive: true });
  logOf({ ...places, stateDir: path.join(state, "legerd") }, line("2026-01-01T00:00:00.000Z"));
  expect((await leger(places, ["audit", "--json"])).stdout).toContain("leger/local/x1");
});

const LINES = [
  line("2026-01-01T10:00:00.000Z", { secret: "leger/local/x2", version: 7 }),
  line("2026-01-01T11:30:00.000Z", { principal: "bob", authorized: false }),
  line("2026-01-01T12:00:00.000Z", { action: "link", podman_id: "0123456789abcdef012345678" }),
].join("");

test.for([
  ["one secret", ["--secret", "x2"], ["10:00"]],
  ["one caller", ["--principal", "bob"], ["11:30"]],
  ["the last hour", ["--since", "1h"], ["11:30", "12:00"]],
  ["the last minutes", ["--since", "20m"], ["12:00"]],
  ["since a moment", ["--since", "2026-01-01T11:00:00Z"], ["11:30", "12:00"]],
  ["since a day", ["--since", "2026-01-01"], ["10:00", "11:30", "12:00"]],
  ["both", ["--since", "1h", "--principal", "alice"], ["12:00"]],
  ["nothing", ["--secret", "x3"], []],
] as const)("it shows %s", async ([, args, times]) => {
  using places = makePlaces();
  logOf(places, LINES);
  const world = { now: () => new Date("2026-01-01T12:10:00Z") };
  const { status, stdout } = await leger(places, ["audit", "--state", places.stateDir, ...args], { world });
  expect(status).toBe(0);
  const shown = stdout.trimEnd().split("\n").slice(1);
  expect(shown.map((text) => text.slice(11, 16))).toEqual(times);
  if (args[1] === "bob") expect(shown[0]).toContain("DENIED");
});

test("lines that legerd would not write are counted, not shown, and not fatal", async () => {
  using places = makePlaces();
  const file = logOf(
    places,
    `${CANARY}\n${line("2026-01-01T10:00:00Z")}{"time":"${CANARY}"}\n\n${"x".repeat(600_000)}\n${line("2026-01-01T11:00:00Z")}{"torn`,
  );
  const { status, stdout, stderr } = await leger(places, ["audit", "--state", places.stateDir]);
  expect(status).toBe(0);
  expect(stdout.match(/leger\/local\/x1/g)).toHaveLength(2);
  expect(stderr).toBe(`leger: warning: ${file}: 5 lines left out: not what legerd writes\n`);
});

test("--follow goes on with what comes, also in a new file, until it is told to stop", async () => {
  using places = makePlaces();
  const file = logOf(places, line("2026-01-01T10:00:00Z"));
  const stop = new AbortController();
  const steps: [waitFor: string, act: () => void][] = [
    ["10:00", () => appendFileSync(file, line("2026-01-01T11:00:00Z"))],
    [
      "11:00",
      () => {
        renameSync(file, `${file}.1`);
        writeFileSync(file, line("2026-01-01T12:00:00Z"));
      },
    ],
    ["12:00", () => stop.abort()],
  ];
  let shown = "";
  const stdout = new Writable({
    write(chunk, _encoding, done) {
      shown += String(chunk);
      const [next] = steps;
      if (next !== undefined && shown.includes(next[0])) {
        steps.shift();
        next[1]();
      }
      done();
    },
  });
  const world = { stdout, signal: stop.signal };
  const { status } = await leger(places, ["audit", "--state", places.stateDir, "--follow"], { world });
  expect(status).toBe(0);
  expect(steps).toEqual([]);
});

test.for(["SIGINT", "SIGTERM"] as const)(
  "the program follows until %s, and that is no failure",
  async (signal) => {
    using places = makePlaces();
    logOf(places, line("2026-01-01T10:00:00Z"));
    const [program, ...first] = LEGER_COMMAND;
    const child = spawn(program, [...first, "audit", "--state", places.stateDir, "--follow"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      if (text.includes("10:00")) child.kill(signal);
    });
    const ended = await new Promise((resolve) => child.once("close", (...how) => resolve(how)));
    expect(ended).toEqual([0, null]);
  },
);

test("--follow ends when nobody reads any more", async () => {
  using places = makePlaces();
  logOf(places, line("2026-01-01T10:00:00Z"));
  const stdout = new Writable({
    write: (_chunk, _encoding, done) => done(Object.assign(new Error(), { code: "EPIPE" })),
  });
  const result = await leger(places, ["audit", "--state", places.stateDir, "--follow"], {
    world: { stdout },
  });
  expect(result).toMatchObject({ status: 0, stderr: "" });
});

test.for([
  ["no log", ["--state", "nowhere"], 74, /there is no audit log at .*nowhere\/audit\.log/],
  ["a time that is none", ["--since", "yesterday"], 64, /--since takes a length of time or a moment/],
  ["a directory for a log", ["--state", "."], 74, /it is not a file/],
] as const)("%s", async ([, args, status, about]) => {
  using places = makePlaces();
  mkdirSync(path.join(places.base, "audit.log"));
  const result = await leger(places, ["audit", ...args]);
  expect(result.status).toBe(status);
  expectSpoken(result, about);
});

test("the log that legerd writes is the one that is looked for", async () => {
  await using daemon = await startTestLegerd({ "leger/local/x1": CANARY });
  expect(readFileSync(path.join(daemon.stateDir, "audit.log"), "utf8")).toContain("leger/local/x1");
  expect((await leger(daemon, ["audit", "--state", daemon.stateDir])).stdout).toContain("leger/local/x1");
});

test("--verify says that nothing is missing, or what is", async () => {
  await using daemon = await startTestLegerd({ "leger/local/x1": CANARY, "leger/local/x2": CANARY });
  expect(await leger(daemon, ["audit", "--verify"])).toMatchObject({
    status: 0,
    stdout: "4 lines, none missing and none changed\n",
  });
  const file = path.join(daemon.stateDir, "audit.log");
  writeFileSync(file, readFileSync(file, "utf8").replace("leger/local/x1", "leger/local/x3"));
  const { status, stdout, stderr } = await leger(daemon, ["audit", "--verify"]);
  expect(status).toBe(65);
  expect(stdout).toBe(`${file}:1: line 1 was changed, or the one before it\n`);
  expect(stderr).toMatch(/the audit log is not as legerd wrote it: 1 problem\n/);
  const json = await leger(daemon, ["audit", "--verify", "--json"]);
  expect(JSON.parse(json.stdout)).toMatchObject({
    ok: false,
    lines: 3,
    problems: [expect.stringContaining(":1:")],
  });
});

test("older files of the log are read first, and before them the changes that were kept longer", async () => {
  using places = makePlaces();
  logOf(places, numbered(7));
  const file = (name: string): string => path.join(places.stateDir, name);
  writeFileSync(file("audit-000000000004.log"), numbered(4) + numbered(5));
  writeFileSync(file("audit-000000000006.log"), numbered(6, { repeats: 3 }));
  writeFileSync(file("audit-changes.log"), numbered(1, { log_n: 2 }) + numbered(2, { log_n: 4 }));
  const json = await leger(places, ["audit", "--state", places.stateDir, "--json"]);
  expect(
    json.stdout
      .trimEnd()
      .split("\n")
      .map((text) => JSON.parse(text).n),
  ).toEqual([1, 4, 5, 6, 7]);
  const { stdout } = await leger(places, ["audit", "--state", places.stateDir]);
  expect(stdout).toContain("and again 3 times");
});

function numbered(n: number, more: object = {}): string {
  const time = `2026-01-01T10:00:0${n}.000Z`;
  return `${JSON.stringify({ n, ...more, time, principal: "alice", action: "get", authorized: true })}\n`;
}
