import { chmod } from "node:fs/promises";
import { createServer, type IncomingHttpHeaders } from "node:http";
import { createServer as createNetServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { inspect } from "node:util";
import { dir } from "tmp-promise";
import { describe, expect, test } from "vitest";
import { speak } from "../../src/core/error.ts";
import { Secret } from "../../src/core/secret.ts";
import { SetecClient } from "../../src/setec/client.ts";

const CANARY = "canary-9f2c";
const CANARY_BASE64 = Buffer.from(CANARY).toString("base64");

type Seen = { method: string; url: string; headers: IncomingHttpHeaders; body: string };
type Reply = { status: number; body?: string; headers?: Record<string, string> };

const value = (Value: string, Version: number) => JSON.stringify({ Value, Version });

const list = (client: SetecClient) => client.list();
const get = (client: SetecClient) => client.get("db");
const put = (client: SetecClient) => client.put("db", canary());
const activate = (client: SetecClient) => client.activate("db", 1);

describe("operations", () => {
  test.for<[string, (client: SetecClient) => Promise<unknown>, string, unknown, Reply, unknown]>([
    [
      "list",
      (client) => client.list(),
      "list",
      {},
      { status: 200, body: '[{"Name":"a","Versions":[1,3],"ActiveVersion":3,"LastAccess":"x"}]' },
      [{ Name: "a", Versions: [1, 3], ActiveVersion: 3 }],
    ],
    ["list of nothing", (client) => client.list(), "list", {}, { status: 200, body: "null" }, []],
    ["list in other words", (client) => client.list(), "list", {}, { status: 200, body: "[]" }, []],
    [
      "info",
      (client) => client.info("a"),
      "info",
      { Name: "a" },
      { status: 200, body: '{"Name":"a","Versions":[1],"ActiveVersion":1}' },
      { Name: "a", Versions: [1], ActiveVersion: 1 },
    ],
    [
      "get",
      async (client) => opened(await client.get("leger/local/é😀")),
      "get",
      { Name: "leger/local/é😀" },
      { status: 200, body: value("AP8KAA==", 7) },
      { bytes: [0, 255, 10, 0], version: 7 },
    ],
    [
      "get of an empty value",
      async (client) => opened(await client.get("a")),
      "get",
      { Name: "a" },
      { status: 200, body: value("", 1) },
      { bytes: [], version: 1 },
    ],
    [
      "getVersion",
      async (client) => opened(await client.getVersion("a", 4_294_967_295)),
      "get",
      { Name: "a", Version: 4_294_967_295 },
      { status: 200, body: value("djE=", 4_294_967_295) },
      { bytes: [118, 49], version: 4_294_967_295 },
    ],
    [
      "getIfChanged, changed",
      async (client) => opened(await client.getIfChanged("a", 1)),
      "get",
      { Name: "a", Version: 1, UpdateIfChanged: true },
      { status: 200, body: value("djE=", 2) },
      { bytes: [118, 49], version: 2 },
    ],
    [
      "getIfChanged, unchanged",
      async (client) => client.getIfChanged("a", 1),
      "get",
      { Name: "a", Version: 1, UpdateIfChanged: true },
      { status: 304 },
      undefined,
    ],
    [
      "put",
      (client) => client.put("a", new Secret(Uint8Array.of(0, 255, 10, 0))),
      "put",
      { Name: "a", Value: "AP8KAA==" },
      { status: 200, body: "2" },
      2,
    ],
    [
      "put of a part of a larger buffer",
      (client) => client.put("a", new Secret(Buffer.from("xvalx").subarray(1, 4))),
      "put",
      { Name: "a", Value: "dmFs" },
      { status: 200, body: "1" },
      1,
    ],
    [
      "createVersion",
      (client) => client.createVersion("a", 9, new Secret(new Uint8Array(0))),
      "create-version",
      { Name: "a", Version: 9, Value: "" },
      { status: 200, body: "{}" },
      undefined,
    ],
    [
      "activate",
      (client) => client.activate("a", 2),
      "activate",
      { Name: "a", Version: 2 },
      { status: 200, body: "{}" },
      undefined,
    ],
    [
      "delete",
      (client) => client.delete("a"),
      "delete",
      { Name: "a" },
      { status: 200, body: "null" },
      undefined,
    ],
    [
      "deleteVersion",
      (client) => client.deleteVersion("a", 2),
      "delete-version",
      { Name: "a", Version: 2 },
      { status: 200, body: "{}" },
      undefined,
    ],
  ])("%s", async ([, act, route, body, reply, expected]) => {
    await using server = await serve(() => reply);
    await using client = new SetecClient(server);
    expect(await act(client)).toEqual(expected);
    const [request, ...more] = server.seen;
    expect(more).toEqual([]);
    expect(request).toMatchObject({ method: "POST", url: `/api/${route}` });
    expect(request?.headers).toMatchObject({
      "content-type": "application/json",
      "sec-x-tailscale-no-browsers": "setec",
    });
    expect(JSON.parse(request?.body ?? "")).toEqual(body);
  });

  test("a value that came shows nowhere by accident", async () => {
    await using server = await serve(() => ({ status: 200, body: value(CANARY_BASE64, 1) }));
    await using client = new SetecClient(server);
    const got = await client.get("a");
    expect(inspect(got) + JSON.stringify(got)).not.toMatch(CANARY);
    expect(Buffer.from(got.value.reveal()).toString()).toBe(CANARY);
  });

  test("many at once are all answered, over few connections", async () => {
    await using server = await serve(({ body }) => ({ status: 200, body: `${body.length}` }));
    await using client = new SetecClient(server);
    const names = Array.from({ length: 500 }, (_, index) => "n".repeat(index));
    const numbers = await Promise.all(names.map((name) => client.put(name, new Secret(Buffer.from("")))));
    const overhead = '{"Name":"","Value":""}'.length;
    expect(numbers).toEqual(names.map((name) => name.length + overhead));
    expect(server.connections()).toBeLessThanOrEqual(32);
  });
});

describe("refusals", () => {
  const refused = { status: 0, body: `${CANARY}\n` };

  test.for<[number, string, RegExp, (client: SetecClient) => Promise<unknown>]>([
    [404, "SECRET_NOT_FOUND", /^get db: not found$/, (client) => client.get("db")],
    [404, "SECRET_NOT_FOUND", /^info db/, (client) => client.info("db")],
    [404, "SECRET_NOT_FOUND", /^get db/, (client) => client.getIfChanged("db", 3)],
    [404, "VERSION_NOT_FOUND", /^get db, version 3: /, (client) => client.getVersion("db", 3)],
    [404, "VERSION_NOT_FOUND", /^activate db, version 3: /, (client) => client.activate("db", 3)],
    [404, "VERSION_NOT_FOUND", /^delete-version db/, (client) => client.deleteVersion("db", 3)],
    [403, "DENIED", /^get db: denied$/, (client) => client.get("db")],
    [403, "DENIED", /^list: denied$/, (client) => client.list()],
    [412, "VERSION_CLAIMED", /^create-version db/, (client) => client.createVersion("db", 3, canary())],
    [400, "REFUSED", /^put db/, (client) => client.put("db", canary())],
    [500, "REFUSED", /^put db/, (client) => client.put("db", canary())],
    [500, "REFUSED", /^delete-version db, version 3/, (client) => client.deleteVersion("db", 3)],
    [304, "BAD_ANSWER", /^get db.*304/, (client) => client.get("db")],
    [204, "BAD_ANSWER", /^delete db.*204/, (client) => client.delete("db")],
    [302, "BAD_ANSWER", /^get db.*302/, (client) => client.get("db")],
    [503, "BAD_ANSWER", /^get db.*503/, (client) => client.get("db")],
  ])("status %i is %s %s", async ([status, code, message, act]) => {
    await using server = await serve(() => ({
      ...refused,
      status,
      headers: { location: "/api/elsewhere" },
    }));
    await using client = new SetecClient(server);
    const error = await failure(act(client));
    expect(error).toMatchObject({ name: "LegerError", code });
    expect(error).toHaveProperty("message", expect.stringMatching(message));
    expectNoCanary(error);
    expect(server.seen).toHaveLength(1);
  });

  test("control characters of a name do not reach the terminal", async () => {
    await using server = await serve(() => ({ status: 404 }));
    await using client = new SetecClient(server);
    const error = await failure(client.get("a\u001b[31m\n"));
    expect(speak(error)).toMatch(String.raw`get a\x1b[31m\x0a: not found`);
  });
});

describe("answers that are not legerd's", () => {
  test.for<[string, (client: SetecClient) => Promise<unknown>, string]>([
    ["HTML", get, `<html>${CANARY}`],
    ["JSON cut short", get, `{"Value":"${CANARY_BASE64}`],
    ["nothing", get, ""],
    ["null for a value", get, "null"],
    ["a value without version", get, `{"Value":"${CANARY_BASE64}"}`],
    ["a version without value", get, '{"Version":1}'],
    ["version 0", get, `{"Value":"${CANARY_BASE64}","Version":0}`],
    ["a version beyond uint32", get, `{"Value":"${CANARY_BASE64}","Version":4294967296}`],
    ["a fractional version", get, `{"Value":"${CANARY_BASE64}","Version":1.5}`],
    ["a value that is not base64", get, `{"Value":"${CANARY}","Version":1}`],
    ["an object for a list", list, "{}"],
    ["a list of strings", list, `["${CANARY}"]`],
    ["a list without versions' numbers", list, '[{"Name":"a","Versions":["1"],"ActiveVersion":1}]'],
    ["a list without names", list, '[{"Versions":[1],"ActiveVersion":1}]'],
    ["an object for a version", put, "{}"],
    ["a string for a version", put, '"1"'],
    ["a number for nothing", activate, "1"],
    ["a list for nothing", activate, "[]"],
  ])("%s", async ([, act, body]) => {
    await using server = await serve(() => ({ status: 200, body }));
    await using client = new SetecClient(server);
    const error = await failure(act(client));
    expect(error).toMatchObject({ code: "BAD_ANSWER" });
    expectNoCanary(error);
  });

  const json = `{"Value":"${CANARY_BASE64}","Version":1}`;
  const whole = `Content-Length: ${json.length}\r\n\r\n${json}`;

  test.for<[string, string, string, RegExp]>([
    ["garbage", `${CANARY}\r\n\r\n`, "BAD_ANSWER", /^get db: bad answer: it is not HTTP$/],
    ["a broken header", `HTTP/1.1 200 OK\r\n${CANARY}\r\n${whole}`, "BAD_ANSWER", /it is not HTTP$/],
    ["no end marked", `HTTP/1.1 200 OK\r\n\r\n${json}`, "BAD_ANSWER", /its end is not marked/],
    ["no end marked, HTTP/1.0", `HTTP/1.0 200 OK\r\n\r\n${json}`, "BAD_ANSWER", /its end is not marked/],
    [
      "fewer bytes than promised",
      `HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n${json}`,
      "BAD_ANSWER",
      /ended too early/,
    ],
    [
      "a chunk cut short",
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n${json}`,
      "BAD_ANSWER",
      /ended too early/,
    ],
    [
      "the last chunk missing",
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${json.length.toString(16)}\r\n${json}\r\n`,
      "BAD_ANSWER",
      /ended too early/,
    ],
    ["nothing at all", "", "UNREACHABLE", /closed before an answer/],
    ["half a status line", "HTTP/1.1 20", "UNREACHABLE", /closed before an answer/],
    ["half the headers", "HTTP/1.1 200 OK\r\nContent-Le", "UNREACHABLE", /closed before an answer/],
  ])("%s, then the end", async ([, bytes, code, message]) => {
    await using server = await listen((socket) => socket.end(bytes));
    await using client = new SetecClient(server);
    const error = await failure(client.get("db"));
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
    expectNoCanary(error);
  });

  test("more than there can be", async () => {
    const mebibyte = Buffer.alloc(1024 * 1024, " ");
    await using server = await listen((socket) => {
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${2 ** 40}\r\n\r\n`);
      const more = (error?: Error | null) => {
        if (!error) socket.write(mebibyte, more);
      };
      more();
    });
    await using client = new SetecClient(server);
    expect(await failure(client.get("db"))).toMatchObject({ code: "BAD_ANSWER" });
  });
});

describe("nobody answers", () => {
  const timeoutMs = 50;

  test.for<[string, string]>([
    ["says nothing", ""],
    ["stops within the headers", "HTTP/1.1 200 OK\r\nContent-"],
    ["stops within the body", 'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"Value":'],
  ])("who %s is given up after the deadline", async ([, bytes]) => {
    await using server = await listen((socket) => socket.write(bytes));
    await using client = new SetecClient({ ...server, timeoutMs });
    expect(await failure(client.get("db"))).toMatchObject({
      code: "UNREACHABLE",
      message: "get db: no answer within 0.05 s",
    });
  });

  test("no socket, no listener", async () => {
    await using place = await directory();
    await using client = new SetecClient({ socketPath: join(place.path, "none.sock") });
    const error = await failure(client.get("db"));
    expect(error).toMatchObject({ code: "UNREACHABLE" });
    expect(speak(error)).toMatch(/get db: nobody answers at .*none\.sock/);
    expect(speak(error)).toMatch(/hint: start it: legerd; .*systemctl --user start legerd\.socket/);

    const plainFile = new URL(import.meta.url).pathname;
    await using other = new SetecClient({ socketPath: plainFile });
    expect(await failure(other.get("db"))).toMatchObject({ code: "UNREACHABLE" });
  });

  test.skipIf(process.getuid?.() === 0)("a socket of someone else is denied", async () => {
    await using server = await serve(() => ({ status: 200, body: "null" }));
    await chmod(server.socketPath, 0o000);
    await using client = new SetecClient(server);
    expect(await failure(client.list())).toMatchObject({ code: "DENIED" });
  });

  test("the caller's signal ends a request, with its own reason", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    await using server = await listen(() => controller.abort(reason));
    await using client = new SetecClient(server);
    expect(await failure(client.get("db", { signal: controller.signal }))).toBe(reason);
    expect(await failure(client.get("db", { signal: AbortSignal.abort(reason) }))).toBe(reason);
  });

  test("a daemon that was restarted is found again", async () => {
    await using place = await directory();
    const socketPath = join(place.path, "legerd.sock");
    await using client = new SetecClient({ socketPath });
    const oneLife = async (number: number) => {
      await using server = await serve(() => ({ status: 200, body: `${number}` }), socketPath);
      expect(await client.put("a", canary())).toBe(number);
      expect(server.seen).toHaveLength(1);
    };
    await oneLife(1);
    await oneLife(2);
    expect(await failure(client.list())).toMatchObject({ code: "UNREACHABLE" });
  });
});

describe("request", () => {
  test("sends what it is given and returns any answer", async () => {
    await using server = await serve(() => ({
      status: 418,
      body: "\u0000é",
      headers: { "Leger-Versions": "a=1" },
    }));
    await using client = new SetecClient(server);
    const answer = await client.request({
      method: "PUT",
      path: "/v1/services/db?x=%20",
      headers: { "x-unit": "db.service" },
      body: Uint8Array.of(0, 255),
    });
    expect(answer).toMatchObject({ status: 418, headers: { "leger-versions": "a=1" } });
    expect(answer.body).toEqual(new TextEncoder().encode("\u0000é"));
    expect(server.seen).toMatchObject([
      { method: "PUT", url: "/v1/services/db?x=%20", headers: { "x-unit": "db.service" } },
    ]);
    expect(server.seen[0]?.body).toBe(Buffer.of(0, 255).toString());
  });

  test("an error says what was being done", async () => {
    await using place = await directory();
    await using client = new SetecClient({ socketPath: join(place.path, "none.sock") });
    const path = "/v1/services";
    expect(await failure(client.request({ method: "GET", path }))).toMatchObject({
      message: expect.stringMatching(/^GET \/v1\/services: nobody/),
    });
    expect(await failure(client.request({ method: "GET", path, what: "ask" }))).toMatchObject({
      message: expect.stringMatching(/^ask: nobody/),
    });
  });

  test("after disposal is a bug, not an answer", async () => {
    const client = new SetecClient({ socketPath: "/nowhere" });
    await client[Symbol.asyncDispose]();
    expect(await failure(client.list())).not.toHaveProperty("exitStatus");
  });
});

function canary(): Secret {
  return new Secret(Buffer.from(CANARY));
}

function opened(got: { value: Secret; version: number } | undefined) {
  return got && { bytes: [...got.value.reveal()], version: got.version };
}

async function failure(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("did not fail");
}

function expectNoCanary(error: unknown): void {
  const everything = inspect(error, { depth: 10, showHidden: true }) + speak(error);
  expect(everything).not.toMatch(CANARY);
  expect(everything).not.toMatch(CANARY_BASE64);
}

async function directory() {
  const { path, cleanup } = await dir({ unsafeCleanup: true });
  return { path, [Symbol.asyncDispose]: cleanup };
}

/** A server of HTTP on a socket of its own, or on the one given. */
async function serve(answer: (request: Seen) => Reply, socketPath?: string) {
  const place = await directory();
  const path = socketPath ?? join(place.path, "legerd.sock");
  const seen: Seen[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const body = Buffer.concat(chunks).toString();
      const { method = "", url = "", headers } = request;
      seen.push({ method, url, headers, body });
      const reply = answer({ method, url, headers, body });
      response.writeHead(reply.status, reply.headers).end(reply.body ?? "");
    });
  });
  const started = await start(server, path);
  return {
    socketPath: path,
    seen,
    connections: started.connections,
    async [Symbol.asyncDispose]() {
      await started.stop();
      await place[Symbol.asyncDispose]();
    },
  };
}

/** A server of bytes: `react` runs when the first bytes of a request have come. */
async function listen(react: (socket: Socket) => void) {
  const place = await directory();
  const path = join(place.path, "legerd.sock");
  const server = createNetServer((socket) => socket.once("data", () => react(socket)));
  const started = await start(server, path);
  return {
    socketPath: path,
    async [Symbol.asyncDispose]() {
      await started.stop();
      await place[Symbol.asyncDispose]();
    },
  };
}

async function start(server: Server, path: string) {
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("error", () => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    connections: () => sockets.size,
    stop: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}
