import { once } from "node:events";
import { chmodSync, mkdtempDisposableSync, renameSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { nodeWire } from "../../src/core/wire-node.ts";

const ASK = { method: "POST", path: "/v1/podman/lookup", body: Buffer.from("{}"), timeoutMs: 5_000 };

test("a real HTTP server's answer comes back whole", async () => {
  const http = createHttpServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const body = Buffer.concat(chunks);
      const asked = `${request.method} ${request.url} ${request.httpVersion} ${String(request.headers["x-unit"])}`;
      response.writeHead(201, { "Content-Length": body.length, "X-Asked": asked }).end(body);
    });
  });
  await using server = await listening(http);
  const body = Buffer.alloc(511_999, "\xff\0\n", "latin1");
  const answer = await nodeWire(server.path).request({ ...ASK, headers: { "X-Unit": "web.service" }, body });
  expect(answer.status).toBe(201);
  expect(answer.headers.get("x-asked")).toBe("POST /v1/podman/lookup 1.0 web.service");
  expect(Buffer.compare(answer.body, body)).toBe(0);
});

test("an answer in many pieces comes back whole", async () => {
  await using server = await answering((socket) => {
    const bytes = Buffer.from("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
    let sent = 0;
    const next = (): void => {
      if (sent < bytes.length) socket.write(bytes.subarray(sent, (sent += 1)), () => setImmediate(next));
      else socket.end();
    };
    next();
  });
  expect(Buffer.from((await nodeWire(server.path).request(ASK)).body).toString()).toBe("secret");
});

test.for([
  ["nothing", ""],
  ["garbage", "canary\0\xff\r\n\r\n"],
  ["half a head", "HTTP/1.1 200 OK\r\nContent-Le"],
  ["no Content-Length", "HTTP/1.1 200 OK\r\n\r\ncanary"],
  ["fewer bytes than its Content-Length", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncanary"],
  ["more bytes than its Content-Length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\ncanary"],
  ["more than anybody wants", `HTTP/1.1 200 OK\r\n\r\n${"canary".repeat(400_000)}`],
] as const)("a server that answers %s and closes is told apart from legerd", async ([, text]) => {
  await using server = await answering((socket) => socket.end(Buffer.from(text, "latin1")));
  const failure = await failureOf(nodeWire(server.path).request(ASK));
  expect(failure).toMatchObject({ code: "BAD_ANSWER" });
  expect(failure.message).not.toContain("canary");
});

test("a server that breaks the connection off half-way gives no short secret", async () => {
  await using server = await answering((socket) => {
    socket.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncanary", () => socket.destroy());
  });
  expect(await failureOf(nodeWire(server.path).request(ASK))).toMatchObject({ code: "BAD_ANSWER" });
});

test.for([
  ["says nothing", ""],
  ["stops in the middle", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncanary"],
  ["answers and never closes", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary"],
] as const)("a server that %s costs no more than the deadline, and is hung up on", async ([, text]) => {
  const { promise: hungUp, resolve } = Promise.withResolvers<void>();
  await using server = await answering((socket) => {
    socket.on("close", () => resolve());
    socket.write(text);
  });
  const failure = await failureOf(nodeWire(server.path).request({ ...ASK, timeoutMs: 150 }));
  expect(failure).toMatchObject({
    code: "UNREACHABLE",
    message: expect.stringContaining("did not answer within 0.15 s"),
  });
  expect(failure.message).not.toContain("canary");
  await hungUp;
});

test("a server that drips a byte at a time does not get past the deadline", async () => {
  await using server = await answering((socket) => {
    const drip = setInterval(() => socket.write("H"), 10);
    socket.on("close", () => clearInterval(drip));
  });
  expect(await failureOf(nodeWire(server.path).request({ ...ASK, timeoutMs: 150 }))).toMatchObject({
    code: "UNREACHABLE",
  });
});

test("a server that never reads does not hold a long request past the deadline", async () => {
  await using server = await listening(createServer({ pauseOnConnect: true }));
  const body = new Uint8Array(8 * 1024 * 1024);
  expect(await failureOf(nodeWire(server.path).request({ ...ASK, body, timeoutMs: 150 }))).toMatchObject({
    code: "UNREACHABLE",
  });
});

test("no socket is unreachable, with how to start legerd", async () => {
  using directory = mkdtempDisposableSync(join(tmpdir(), "leger-"));
  const path = join(directory.path, "legerd.sock");
  expect(await failureOf(nodeWire(path).request(ASK))).toMatchObject({
    code: "UNREACHABLE",
    message: `legerd at ${path}: no socket there`,
    hints: expect.arrayContaining([expect.stringContaining("systemctl --user start legerd.socket")]),
  });
});

test("a socket that its server left behind is unreachable", async () => {
  using directory = mkdtempDisposableSync(join(tmpdir(), "leger-"));
  const path = join(directory.path, "left.sock");
  {
    await using server = await listening(createServer());
    renameSync(server.path, path);
  }
  expect(await failureOf(nodeWire(path).request(ASK))).toMatchObject({
    code: "UNREACHABLE",
    message: expect.stringContaining("nobody listens"),
  });
});

test.skipIf(process.geteuid?.() === 0)("a socket we may not write to is denied", async () => {
  await using server = await answering((socket) => socket.end());
  chmodSync(server.path, 0o400);
  expect(await failureOf(nodeWire(server.path).request(ASK))).toMatchObject({ code: "DENIED" });
});

type Listening = { path: string } & AsyncDisposable;

function answering(answer: (socket: Socket) => void): Promise<Listening> {
  return listening(createServer((socket) => socket.on("error", () => {}).once("data", () => answer(socket))));
}

async function listening(server: Server): Promise<Listening> {
  const directory = mkdtempDisposableSync(join(tmpdir(), "leger-"));
  const path = join(directory.path, "legerd.sock");
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => sockets.add(socket));
  server.listen(path);
  await once(server, "listening");
  return {
    path,
    async [Symbol.asyncDispose]() {
      server.close();
      for (const socket of sockets) socket.destroy();
      await once(server, "close");
      directory.remove();
    },
  };
}

async function failureOf(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof Error) return error;
  }
  throw new Error("it did not fail");
}
