import { createServer } from "node:net";
import { join } from "node:path";
import { dir } from "tmp-promise";
import { expect, test } from "vitest";
import { nodeWire } from "../../src/core/wire-node.ts";
import { SetecClient } from "../../src/setec/client.ts";
import { MAX_ANSWER_BYTES } from "../../src/setec/exchange.ts";
import { overWire } from "../../src/setec/over-wire.ts";

const HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

const INFO = { Name: `leger/local/${"n".repeat(400)}`, Versions: [1], ActiveVersion: 1 };

/** A client whose every request is answered with these bytes, and then the connection closed. */
async function answeredWith(bytes: string, timeoutMs?: number) {
  const place = await dir({ unsafeCleanup: true });
  const socketPath = join(place.path, "legerd.sock");
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => socket.end(bytes));
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  const wire = nodeWire(socketPath, { maxBodyBytes: MAX_ANSWER_BYTES });
  const client = new SetecClient({ socketPath, exchange: overWire(wire, timeoutMs) });
  return {
    client,
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      await new Promise((resolve) => server.close(resolve));
      await place.cleanup();
    },
  };
}

test("a list is read however many secrets there are: far more than a lookup may answer", async () => {
  const body = JSON.stringify(Array.from({ length: 10_000 }, () => INFO));
  expect(body.length).toBeGreaterThan(4 * 2 ** 20);
  await using server = await answeredWith(`${HEAD}Content-Length: ${body.length}\r\n\r\n${body}`);
  expect(await server.client.list()).toHaveLength(10_000);
});

test.for<[string, string, string]>([
  ["shorter than it says", `${HEAD}Content-Length: 9\r\n\r\n[]`, "BAD_ANSWER"],
  ["of no length", `${HEAD}\r\n[]`, "BAD_ANSWER"],
  ["longer than there can be", `${HEAD}Content-Length: ${2 ** 33}\r\n\r\n[]`, "BAD_ANSWER"],
  ["none", "", "BAD_ANSWER"],
  ["a refusal", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "DENIED"],
])("an answer that is %s is no list, and says so", async ([, bytes, code]) => {
  await using server = await answeredWith(bytes);
  await expect(server.client.list()).rejects.toMatchObject({
    code,
    message: expect.stringMatching(/^list: /),
  });
});

test("no socket is told with what was being done, and how to start legerd", async () => {
  await using place = await dir({ unsafeCleanup: true }).then(({ path, cleanup }) => ({
    path,
    [Symbol.asyncDispose]: cleanup,
  }));
  const socketPath = join(place.path, "none.sock");
  const client = new SetecClient({ socketPath, exchange: overWire(nodeWire(socketPath)) });
  await expect(client.get("db")).rejects.toMatchObject({
    code: "UNREACHABLE",
    message: expect.stringMatching(/^get db: .*no socket there/),
    hints: expect.arrayContaining([expect.stringMatching(/^start it: /)]),
  });
});

test("a signal that is aborted already asks nothing", async () => {
  await using server = await answeredWith(`${HEAD}Content-Length: 2\r\n\r\n[]`);
  const reason = new Error("enough");
  await expect(server.client.list({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
});
