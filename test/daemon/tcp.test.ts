import * as fs from "node:fs";
import * as http from "node:http";
import * as https from "node:https";
import net from "node:net";
import path from "node:path";
import { expect, test } from "vitest";
import type { TcpDoorConfig } from "../../src/daemon/config.ts";
import { LegerError } from "../../src/core/error.ts";
import { sendRaw } from "../support/raw-http.ts";
import { makePlaces, startTestLegerd, type TestLegerd } from "../support/legerd.ts";

const VISIBLE = "leger/local/visible";
const HIDDEN = "leger/local/hidden";
const CANARY = "canary-behind-tcp";
const HOST = "legerd.internal:8080";
const GOOD = {
  host: HOST,
  "content-type": "application/json",
  "sec-x-tailscale-no-browsers": "setec",
};

type Asked = { status: number; body: string };
type Question = { method?: string; path?: string; headers?: Record<string, string>; body?: string };

/** A port that nobody had a moment ago. */
async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

async function start(more: Partial<TcpDoorConfig> = {}): Promise<TestLegerd & { port: number }> {
  const port = await freePort();
  const door = { tcp: { address: "127.0.0.1", port }, hosts: [HOST], tls: undefined, routes: [], ...more };
  const daemon = await startTestLegerd({ [VISIBLE]: "seen", [HIDDEN]: CANARY }, { tcpDoors: [door] });
  return { ...daemon, port };
}

async function makeToken(daemon: TestLegerd, name: string, more: object = {}): Promise<string> {
  const body = JSON.stringify({ grants: [{ action: ["get", "info"], secret: [VISIBLE] }], ...more });
  const answer = await sendRaw(daemon.socket, {
    method: "PUT",
    path: `/v1/tokens/${name}`,
    body: Buffer.from(body),
  });
  expect(answer.status).toBe(200);
  return JSON.parse(answer.body.toString()).token;
}

function ask(
  port: number,
  { method = "POST", path: at = "/api/get", headers = {}, body }: Question,
  agent?: http.Agent,
): Promise<Asked> {
  const sent = body ?? JSON.stringify({ Name: VISIBLE });
  return new Promise((resolve, reject) => {
    const options = { host: "127.0.0.1", port, method, path: at, headers, setHost: false, agent };
    const request = http.request(options, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body: text }));
    });
    request.on("error", reject).end(method === "GET" ? undefined : sent);
  });
}

test("a token gets what it is granted, over one connection, until it is revoked", async () => {
  await using daemon = await start();
  const token = await makeToken(daemon, "ci");
  const headers = { ...GOOD, authorization: `Bearer ${token}` };
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  try {
    expect(JSON.parse((await ask(daemon.port, { headers }, agent)).body)).toMatchObject({ Version: 1 });
    const denied = await ask(daemon.port, { headers, body: JSON.stringify({ Name: HIDDEN }) }, agent);
    expect(denied).toEqual({ status: 403, body: "access denied\n" });
    for (const [method, at] of [
      ["GET", "/v1/status"],
      ["GET", "/v1/tokens"],
      ["PUT", "/v1/tokens/mine"],
      ["GET", "/v1/services"],
      ["GET", "/v1/audit/verify"],
    ] as const) {
      expect((await ask(daemon.port, { method, path: at, headers }, agent)).status, at).toBe(403);
    }
    expect(await ask(daemon.port, { method: "GET", path: "/health", headers }, agent)).toEqual({
      status: 200,
      body: '{"status":"ok"}\n',
    });
    await sendRaw(daemon.socket, { method: "DELETE", path: "/v1/tokens/ci" });
    expect((await ask(daemon.port, { headers }, agent)).status).toBe(401);
  } finally {
    agent.destroy();
  }
  const log = fs.readFileSync(path.join(daemon.stateDir, "audit.log"), "utf8");
  expect(log).toContain('"principal":"token ci","action":"get","authorized":true');
  expect(log).not.toContain(token);
  expect(fs.readFileSync(path.join(daemon.stateDir, "secrets.db")).includes(token)).toBe(false);
});

test.for([
  ["another host", { host: "evil.example:8080" }, 421],
  ["the host without its port", { host: "legerd.internal" }, 421],
  ["no host", { host: "" }, 421],
  ["no token", { authorization: "" }, 401],
  ["a token in another scheme", { authorization: "Basic abc" }, 401],
  ["a wrong token", { authorization: `Bearer leger_token_${"A".repeat(43)}` }, 401],
  ["an Origin", { origin: "http://legerd.internal:8080" }, 403],
  ["what a browser says of itself", { "sec-fetch-site": "same-origin" }, 403],
  ["no header that browsers cannot set", { "sec-x-tailscale-no-browsers": "" }, 403],
] as const)("a request with %s gets nothing, at any route", async ([, changed, status]) => {
  await using daemon = await start({ routes: ["podman", "services", "status", "audit"] });
  const token = await makeToken(daemon, "ci");
  const headers = Object.fromEntries(
    Object.entries({ ...GOOD, authorization: `Bearer ${token}`, ...changed }).filter(
      ([, value]) => value !== "",
    ),
  );
  for (const [method, at] of [
    ["POST", "/api/get"],
    ["GET", "/health"],
    ["GET", "/nowhere"],
    ["OPTIONS", "/api/get"],
    ["GET", "/v1/status"],
  ] as const) {
    const answer = await ask(daemon.port, { method, path: at, headers });
    // Without a Host header HTTP itself is broken.
    expect([status, 400], at).toContain(answer.status);
    expect(answer.body).not.toContain("seen");
  }
});

test("a token that has ended is none", async () => {
  await using daemon = await start();
  const token = await makeToken(daemon, "old", { expires: "2020-01-01T00:00:00Z" });
  expect((await ask(daemon.port, { headers: { ...GOOD, authorization: `Bearer ${token}` } })).status).toBe(
    401,
  );
});

test("who tries tokens waits, is counted, and keeps nobody else waiting", async () => {
  await using daemon = await start();
  const token = await makeToken(daemon, "ci");
  const wrong = Array.from({ length: 40 }, (_, at) =>
    ask(daemon.port, { headers: { ...GOOD, authorization: `Bearer wrong${at}` } }),
  );
  const good = await ask(daemon.port, { headers: { ...GOOD, authorization: `Bearer ${token}` } });
  expect(good.status).toBe(200);
  const first = await Promise.race(wrong);
  expect([401, 429]).toContain(first.status);
  await expect
    .poll(() => fs.readFileSync(path.join(daemon.stateDir, "audit.log"), "utf8"))
    .toContain("authenticate");
  const lines = fs.readFileSync(path.join(daemon.stateDir, "audit.log"), "utf8").split("\n");
  expect(lines.filter((line) => line.includes("authenticate"))).toHaveLength(1);
  for (const answer of wrong) answer.catch(() => {});
});

test("with a certificate it speaks TLS, and takes a new one without a restart", async () => {
  using places = makePlaces();
  const files = { certificate: path.join(places.base, "crt"), key: path.join(places.base, "key") };
  const use = (name: string): void => {
    const at = path.join(import.meta.dirname, "tls", name);
    fs.copyFileSync(`${at}.key`, files.key);
    fs.copyFileSync(`${at}.crt`, files.certificate);
  };
  use("one");
  await using daemon = await start({ tls: files });
  const token = await makeToken(daemon, "ci");
  const seen = (name: string): Promise<number> =>
    new Promise((resolve, reject) => {
      const ca = fs.readFileSync(path.join(import.meta.dirname, "tls", `${name}.crt`));
      const headers = { ...GOOD, authorization: `Bearer ${token}` };
      const options = {
        host: "127.0.0.1",
        port: daemon.port,
        servername: "legerd.internal",
        ca,
        headers,
        setHost: false,
      };
      const request = https.request(
        { ...options, method: "POST", path: "/api/get", agent: false },
        (response) => resolve(response.resume().statusCode ?? 0),
      );
      request.on("error", reject).end(JSON.stringify({ Name: VISIBLE }));
    });
  expect(await seen("one")).toBe(200);
  await expect(seen("two")).rejects.toThrow();
  use("two");
  await expect.poll(() => seen("two").catch(() => 0), { timeout: 20_000 }).toBe(200);
  expect(daemon.log.join("\n")).toContain("read again");
});

test("what is no certificate with its key is refused at start", async () => {
  const tls = path.join(import.meta.dirname, "tls");
  const started = start({ tls: { certificate: path.join(tls, "one.crt"), key: path.join(tls, "two.key") } });
  await expect(started).rejects.toThrow(LegerError);
});

test("metrics are closed to tokens unless the door is opened for them, and then need no grant for a secret", async () => {
  for (const [routes, status] of [
    [[], 403],
    [["metrics"], 200],
  ] as const) {
    await using daemon = await start({ routes });
    const token = await makeToken(daemon, "prometheus", {
      grants: [{ action: ["info"], secret: ["leger/local/no_such_secret"] }],
    });
    const headers = { ...GOOD, authorization: `Bearer ${token}` };
    expect(await ask(daemon.port, { method: "GET", path: "/metrics", headers: GOOD })).toMatchObject({
      status: 401,
    });
    const answer = await ask(daemon.port, { method: "GET", path: "/metrics", headers });
    expect(answer).toMatchObject({ status });
    expect(answer.body.includes("legerd_build_info")).toBe(status === 200);
  }
});
