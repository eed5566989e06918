import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as net from "node:net";
import { once } from "node:events";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { LegerError } from "../../src/core/error.ts";
import { Secret } from "../../src/core/secret.ts";
import { readConfig } from "../../src/daemon/config.ts";
import { makePlaces, spawnLegerd, startTestLegerd, type TestLegerd } from "../support/legerd.ts";
import { exchange, sendRaw } from "../support/raw-http.ts";

const SETEC_HEADERS = { "Content-Type": "application/json", "Sec-X-Tailscale-No-Browsers": "setec" };
const secret = (text: string): Secret => new Secret(Buffer.from(text));

/** Connected before all else here, and seen to at the end: legerd waits for 10 s, and so need not we. */
let patient: TestLegerd;
let saidToSlow: Promise<Buffer>;
let saidToSilent: Promise<Buffer>;
beforeAll(async () => {
  patient = await startTestLegerd();
  saidToSlow = exchange(patient.socket, Buffer.from("POST /api/get HTTP/1.1\r\nHost: x\r\nContent-"));
  saidToSilent = exchange(patient.socket, new Uint8Array());
});
afterAll(() => patient[Symbol.asyncDispose]());

test("500 clients that say nothing, and 50 that send a byte now and then, delay nobody", async () => {
  await using daemon = await startTestLegerd({ a: "v1" });
  const idle = Array.from({ length: 550 }, () => net.connect({ path: daemon.socket }));
  await Promise.all(idle.map((socket) => once(socket, "connect")));
  // The daemon may give up on them first.
  for (const socket of idle) socket.on("error", () => {});
  const request = "POST /api/get HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
  let sent = 0;
  const drip = setInterval(() => {
    for (const socket of idle.slice(0, 50)) socket.write(request.charAt(sent) || "x");
    sent += 1;
  }, 20);
  try {
    const answers = await Promise.all(Array.from({ length: 200 }, () => daemon.client.get("a")));
    expect(answers.every(({ version }) => version === 1)).toBe(true);
  } finally {
    clearInterval(drip);
    for (const socket of idle) socket.destroy();
  }
});

test.for([
  ["exactly 1 MiB", 1024 * 1024, 404],
  ["one byte over 1 MiB", 1024 * 1024 + 1, 400],
  ["8 MiB", 8 * 1024 * 1024, 400],
] as const)("a body of %s is answered with %i", async ([, size, status]) => {
  await using daemon = await startTestLegerd();
  const body = Buffer.alloc(size, " ");
  body.write('{"Name":"nope"}');
  const answer = await sendRaw(daemon.socket, {
    method: "POST",
    path: "/api/get",
    headers: SETEC_HEADERS,
    body,
  });
  expect(answer.status).toBe(status);
});

test.for([
  ["garbage", "\u0000\u0001garbage\r\n\r\n", 400],
  ["a head that never ends", `GET /health HTTP/1.1\r\nX: ${"x".repeat(64 * 1024)}`, 431],
  ["two lengths", "POST /api/get HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400],
] as const)("what is not HTTP is refused: %s", async ([, bytes, status]) => {
  await using daemon = await startTestLegerd();
  const answer = (await exchange(daemon.socket, Buffer.from(bytes, "latin1"))).toString("latin1");
  expect(answer.split("\r\n")[0]).toContain(`HTTP/1.1 ${status}`);
});

test("clients that ask for a tunnel and go away at once don't end the daemon", async () => {
  using places = makePlaces();
  await using daemon = await spawnLegerd(places);
  for (let n = 0; n < 100; n += 1) {
    const socket = net.connect({ path: places.socket });
    await once(socket, "connect");
    socket.write("CONNECT /api/get HTTP/1.1\r\nHost: x\r\n\r\n");
    socket.destroy();
  }
  expect((await sendRaw(places.socket, { method: "GET", path: "/health" })).status).toBe(200);
  expect(daemon.child.exitCode).toBeNull();
});

test("a daemon whose standard error nobody reads any more goes on", async () => {
  using places = makePlaces();
  await using daemon = await spawnLegerd(places);
  daemon.child.stderr?.destroy();
  // What it says now, on its way out, finds no reader.
  process.kill(daemon.pid, "SIGTERM");
  expect(await daemon.exited).toEqual({ status: 0, signal: null });
});

test("SIGUSR1 opens no debugger, which any local user could reach", async () => {
  using places = makePlaces();
  await using daemon = await spawnLegerd(places);
  process.kill(daemon.pid, "SIGUSR1");
  // Several turns of its event loop later it would have said where the debugger listens.
  for (let n = 0; n < 20; n += 1) await sendRaw(places.socket, { method: "GET", path: "/health" });
  process.kill(daemon.pid, "SIGTERM");
  expect(await daemon.exited).toEqual({ status: 0, signal: null });
  expect(daemon.stderr()).not.toContain("Debugger");
});

test("SIGTERM lets a request that is under way finish, and ends within 5 s", async () => {
  using places = makePlaces();
  await using daemon = await spawnLegerd(places);
  const body = '{"Name":"late","Value":"djE="}';
  const socket = net.connect({ path: places.socket });
  const received: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => received.push(chunk));
  socket.write(
    `POST /api/put HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nSec-X-Tailscale-No-Browsers: setec\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 5)}`,
  );
  const silent = net.connect({ path: places.socket });
  silent.on("error", () => {});
  await once(silent, "connect");
  // Its answer shows that the daemon has seen the two connections before it.
  await sendRaw(places.socket, { method: "GET", path: "/health" });
  process.kill(daemon.pid, "SIGTERM");
  await until(() => daemon.stderr().includes("SIGTERM"));
  socket.write(body.slice(5));
  await once(socket, "close");
  expect(Buffer.concat(received).toString()).toMatch(/^HTTP\/1\.1 200 OK[^]*\r\n\r\n1$/);
  expect(await daemon.exited).toEqual({ status: 0, signal: null });
  expect(fs.existsSync(places.socket)).toBe(false);
  expect(fs.existsSync(`${places.stateDir}/secrets.db-wal`)).toBe(false);
});

test("a second legerd on the same state or socket is refused, and the first goes on", async () => {
  await using daemon = await startTestLegerd({ a: "v1" });
  const sameState = { ...daemon, socket: `${daemon.runtimeDir}/other/legerd.sock` };
  await expect(spawnLegerd(sameState)).rejects.toThrow(/another legerd is using it/);
  const sameSocket = { ...daemon, stateDir: `${daemon.base}/other-state` };
  await expect(spawnLegerd(sameSocket)).rejects.toThrow(/another program listens there/);
  expect((await daemon.client.get("a")).version).toBe(1);
});

test("a socket that a killed legerd left is taken over", async () => {
  using places = makePlaces();
  {
    await using first = await spawnLegerd(places);
    process.kill(first.pid, "SIGKILL");
    await first.exited;
  }
  expect(fs.existsSync(places.socket)).toBe(true);
  await using second = await spawnLegerd(places);
  expect(second.stderr()).toContain("ready");
});

test.for([
  ["writable by others", 0o777],
  ["writable by the group", 0o770],
] as const)("a socket directory %s is refused", async ([, mode]) => {
  using places = makePlaces();
  fs.mkdirSync(`${places.runtimeDir}/leger`);
  fs.chmodSync(`${places.runtimeDir}/leger`, mode);
  await expect(spawnLegerd(places)).rejects.toThrow(/others may write to .*\n.*hint: chmod 700/);
});

test("the default door is a socket of mode 0600 in a directory of mode 0700, and all state is private", async () => {
  await using daemon = await startTestLegerd({ a: "v1" });
  await daemon.client.get("a");
  expect(fs.statSync(daemon.socket).mode & 0o777).toBe(0o600);
  expect(fs.statSync(`${daemon.runtimeDir}/leger`).mode & 0o777).toBe(0o700);
  expect(fs.statSync(daemon.stateDir).mode & 0o777).toBe(0o700);
  for (const entry of fs.readdirSync(daemon.stateDir, { recursive: true, withFileTypes: true })) {
    const mode = fs.statSync(`${entry.parentPath}/${entry.name}`).mode & 0o777;
    expect([entry.name, mode & 0o077]).toEqual([entry.name, 0]);
  }
});

test.for([
  ["not JSON", "{", "it is not JSON"],
  ["an unknown key", '{"doorz":[]}', 'unrecognized key: "doorz"'],
  [
    "an unknown key of a door",
    '{"doors":[{"unix":"/x/y","principle":"a"}]}',
    'doors[0]: unrecognized key: "principle"',
  ],
  ["a relative path", '{"doors":[{"unix":"y","principal":"a"}]}', "doors[0].unix: must be an absolute path"],
  ["a wrong mode", '{"doors":[{"unix":"/x/y","mode":"rw"}]}', "doors[0].mode: must be octal"],
  [
    "grants that do not parse",
    '{"doors":[{"unix":"/x/y","grants":[{"action":"get"}]}]}',
    "doors[0].grants[0].action",
  ],
  ["two doors at one path", '{"doors":[{"unix":"/x/y"},{"unix":"/x/./y"}]}', "two doors at /x/./y"],
  ["no doors", '{"doors":[]}', "doors: too small"],
  ["a name with a colon", '{"doors":[{"unix":"/x/y","name":"a:b"}]}', "doors[0].name: must be letters"],
  [
    "two doors of one name",
    '{"doors":[{"unix":"/x/y","name":"a"},{"unix":"/z/z","name":"a"}]}',
    "two doors with the name a",
  ],
  [
    "a second door in a directory",
    '{"doors":[{"unix":"/x/y"},{"unix":"/x/z","grants":[]}]}',
    "the doors at /x/y and /x/z share a directory",
  ],
  [
    "a door below one that is for others",
    '{"doors":[{"unix":"/x/y/z"},{"unix":"/x/a","grants":[]}]}',
    "the doors at /x/a and /x/y/z share a directory",
  ],
  ["a door on TCP for all without TLS", '{"doors":[{"tcp":"0.0.0.0:80","hosts":["a:80"]}]}', "in the clear"],
  ["a door on TCP without hosts", '{"doors":[{"tcp":"127.0.0.1:80"}]}', "doors[0].hosts"],
  [
    "a name for an address",
    '{"doors":[{"tcp":"localhost:80","hosts":["a:80"]}]}',
    "doors[0].tcp: must be an address",
  ],
  ["a route that is none", '{"doors":[{"unix":"/x/y","routes":["api"]}]}', "doors[0].routes[0]"],
  ["a group that is no name", '{"doors":[{"unix":"/x/y","group":"a:b"}]}', "doors[0].group: must be a group"],
] as const)("a configuration with %s is refused with one line", async ([, text, message]) => {
  using places = makePlaces();
  const file = `${places.base}/legerd.json`;
  fs.writeFileSync(file, text);
  const failure = await readConfig(file).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(LegerError);
  expect(failure).toMatchObject({ code: "CONFIG", message: expect.stringContaining(message) });
  expect(failure).toMatchObject({ message: expect.not.stringContaining("\n") });
});

test.for([
  ["a directory", (file: string) => fs.mkdirSync(file)],
  ["a symbolic link", (file: string) => fs.symlinkSync("/dev/null", file)],
  ["a named pipe", (file: string) => execFileSync("mkfifo", ["-m", "600", file])],
] as const)(
  "an audit log that is %s is refused; where the main key of the new store lies was said by then",
  async ([, plant]) => {
    using places = makePlaces();
    fs.mkdirSync(places.stateDir, { mode: 0o700 });
    const log = path.join(places.stateDir, "audit.log");
    plant(log);
    const failed = await spawnLegerd(places).catch(String);
    expect(failed).toContain(`legerd: error: open audit log ${log}: it is `);
    expect(failed).toContain("legerd: hint: move it away");
    expect(failed).toContain(`its main key is ${places.stateDir}/keys/main.key: keep a copy`);
  },
);

test.for([
  ["names of variables", Array.from({ length: 1_000 }, (_, n) => `${"V".repeat(90)}${n}`), "short"],
  ["values", Array.from({ length: 30 }, (_, n) => `V${n}`), "v".repeat(60_000)],
] as const)(
  "an env file whose %s are more than leger would read is refused with what to do",
  async ([, names, value]) => {
    await using daemon = await startTestLegerd({ a: value });
    const variables = Object.fromEntries(names.map((name) => [name, "a"]));
    const body = Buffer.from(JSON.stringify({ variables }));
    await sendRaw(daemon.socket, { method: "PUT", path: "/v1/services/large", body });
    const answer = await sendRaw(daemon.socket, { method: "GET", path: "/v1/services/large/env" });
    expect(answer.status).toBe(400);
    expect(JSON.parse(answer.body.toString())).toMatchObject({
      error: { code: "BAD_DATA", message: expect.stringContaining("service large") },
    });
  },
);

test("what a full disk keeps out of the audit log is not answered and not done; a denial stays one", async () => {
  using places = makePlaces();
  const audit = path.join(places.stateDir, "audit.log");
  const older = `${JSON.stringify({ time: "2026-01-01T10:00:00.000Z", principal: "x", action: "get", authorized: true })}\n`;
  fs.mkdirSync(places.stateDir, { mode: 0o700 });
  // Larger than the database gets: so the limit below is the log's alone.
  fs.writeFileSync(audit, older.repeat(Math.ceil((4 * 1024 * 1024) / older.length)), { mode: 0o600 });
  const guest = `${places.runtimeDir}/guest/legerd.sock`;
  const config = `${places.base}/legerd.json`;
  const grants = [{ action: ["info"], secret: ["*"] }];
  const doors = [
    { unix: places.socket, principal: "owner" },
    { unix: guest, principal: "guest", grants },
  ];
  fs.writeFileSync(config, JSON.stringify({ doors }));
  // A file that grows beyond its limit sends XFSZ.
  const starter = ["/bin/sh", "-c", 'trap "" XFSZ; exec "$@"', "sh"];
  await using daemon = await spawnLegerd(places, ["--config", config], starter);
  const limit = (bytes: number | "unlimited"): void => {
    execFileSync("prlimit", ["--pid", String(daemon.pid), `--fsize=${bytes}:`]);
  };
  const ask = async (route: string, body: object, door = places.socket): Promise<string> => {
    const request = { method: "POST", path: `/api/${route}`, headers: SETEC_HEADERS };
    const { status, body: text } = await sendRaw(door, {
      ...request,
      body: Buffer.from(JSON.stringify(body)),
    });
    return `${status} ${text.toString()}`;
  };
  expect(await ask("put", { Name: "a", Value: "djE=" })).toBe("200 1");
  const before = fs.readFileSync(audit);
  // Room for half a line.
  limit(before.length + 40);
  expect(await ask("get", { Name: "a" })).toBe("500 internal error\n");
  expect(await ask("list", {})).toBe("500 internal error\n");
  expect(await ask("put", { Name: "a", Value: "djI=" })).toBe("500 internal error\n");
  expect(await ask("put", { Name: "a", Value: "djI=" }, guest)).toBe("403 access denied\n");
  expect(await ask("info", { Name: "a" }, guest)).toBe("500 internal error\n");
  expect(fs.readFileSync(audit).equals(before)).toBe(true);
  expect(daemon.stderr()).toMatch(/legerd: error: \/api\/get: write audit log .*audit\.log: EFBIG/);
  limit("unlimited");
  expect(await ask("info", { Name: "a" })).toBe('200 {"Name":"a","Versions":[1],"ActiveVersion":1}');
  const added = fs.readFileSync(audit).subarray(before.length).toString();
  expect(
    added
      .trimEnd()
      .split("\n")
      .map((text) => JSON.parse(text).action),
  ).toEqual(["info"]);
});

test("wrong arguments end with status 64 and one line", async () => {
  using places = makePlaces();
  await expect(spawnLegerd(places, ["--nonsense"])).rejects.toThrow(
    /error: unknown option '--nonsense'\nlegerd: hint/,
  );
  await expect(spawnLegerd(places, ["frobnicate"])).rejects.toThrow(/unknown argument "frobnicate"/);
});

test("a first start that cannot open its door tells how to go on, and where the main key it made lies", async () => {
  using places = makePlaces();
  fs.writeFileSync(`${places.base}/file`, "");
  await expect(spawnLegerd({ ...places, socket: `${places.base}/file/leger/legerd.sock` })).rejects.toThrow(
    /main key is .*main\.key: keep a copy elsewhere.*\nlegerd: error: listen at .* cannot create .*: ENOTDIR\nlegerd: hint: .*--socket PATH\n/,
  );
});

test("a clock that was set back stops nothing", async () => {
  await using daemon = await startTestLegerd({ a: "v1" });
  const now = Date.now;
  Date.now = () => now() - 365 * 24 * 3600 * 1000;
  try {
    expect(await daemon.client.put("a", secret("v2"))).toBe(2);
    expect((await daemon.client.get("a")).version).toBe(1);
  } finally {
    Date.now = now;
  }
});

test("one audit line for each thing that was asked, with what setec notes", async () => {
  await using daemon = await startTestLegerd({ a: "v1" });
  await daemon.client.put("a", secret("v2"));
  await daemon.client.activate("a", 2);
  await daemon.client.get("a");
  await daemon.client.getIfChanged("a", 2);
  await daemon.client.get("nope").catch(() => {});
  await daemon.client.list();
  await daemon.client.deleteVersion("a", 1);
  await daemon.client.delete("a");
  const lines = fs.readFileSync(`${daemon.stateDir}/audit.log`, "utf8").trimEnd().split("\n");
  const seen = lines.map((text) => {
    const { n: _n, mac: _mac, time, ...rest } = JSON.parse(text);
    expect(time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    return rest;
  });
  expect(seen).toEqual([
    line("put", { secret: "a" }),
    line("put", { secret: "a" }),
    line("activate", { secret: "a", version: 2 }),
    line("get", { secret: "a", version: 2 }),
    line("get", { secret: "nope" }),
    line("info"),
    line("delete", { secret: "a", version: 1 }),
    line("delete", { secret: "a" }),
  ]);
});

function line(action: string, more = {}): object {
  return { principal: "tester", action, authorized: true, ...more };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

test("a client whose headers don't come is given up", async () => {
  const [slow, silent] = await Promise.all([saidToSlow, saidToSilent]);
  expect(slow.toString()).toMatch(/^HTTP\/1\.1 408 [^]*\r\n\r\n408 Request Timeout$/);
  expect(silent.toString()).toMatch(/^HTTP\/1\.1 408 /);
});
