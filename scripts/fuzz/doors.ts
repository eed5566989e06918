/** doors — mutated bytes at the doors of a legerd that runs: answers, and nothing secret in those to whoever may not have it. */
import * as fs from "node:fs";
import * as net from "node:net";
import path from "node:path";
import { VERSION } from "../../src/core/version.ts";
import { startLegerd } from "../../src/daemon/legerd.ts";
import { Secret } from "../../src/core/secret.ts";
import { SetecClient } from "../../src/setec/client.ts";
import { assert, mutated, randomFrom, withPieces, type Random, type Target } from "./target.ts";

const HOST = "legerd.internal:8080";
const HIDDEN = "private/canary";
const CANARY = "canary-93c1f0be77";
/** Longest that an answer to all of it, and the end of the connection, may take. */
const HANG_MS = 20_000;
/** So long after the last bytes nothing more is awaited; an answer after that is one the less. */
const QUIET_MS = 20;
/** Inputs at a time, each on a connection of its own. */
const AT_A_TIME = 32;
/** Each so many seeds, legerd is asked whether all is as it was. */
const LOOK_EVERY = 20;

type Door = "owner" | "guest" | "tcp";
type Template = { line: string; headers?: string; body?: string };

const SETEC = "Content-Type: application/json\r\nSec-X-Tailscale-No-Browsers: setec\r\n";
const NAMES = ["guest/a", "mine/b", "ä\u2028", ""];

/** What an owner asks for names nothing hidden, so that no change of it may touch that. */
function templatesFor(door: Door): Template[] {
  const names = door === "owner" ? NAMES : [HIDDEN, ...NAMES];
  const bodies = names.flatMap((Name) => [
    JSON.stringify({ Name, Version: 0 }),
    JSON.stringify({ Name, Version: 1, Value: "aGFsbG8=", UpdateIfChanged: true }),
  ]);
  const operations = ["list", "get", "info", "put", "create-version", "activate", "delete-version", "delete"];
  const setec = operations.flatMap((operation) =>
    bodies.map((body) => ({ line: `POST /api/${operation} HTTP/1.1`, headers: SETEC, body })),
  );
  const service = names.map((name) => JSON.stringify({ variables: { KEY: name, OTHER: "guest/a" } }));
  const grants = JSON.stringify({
    grants: [{ action: ["get"], secret: ["*"] }],
    expires: "2099-01-01T00:00:00Z",
  });
  return [
    ...setec,
    ...service.map((body) => ({ line: "PUT /v1/services/web HTTP/1.1", body })),
    ...["", "/env", "/credentials", "/env?export=1"].map((end) => ({
      line: `GET /v1/services/web${end} HTTP/1.1`,
    })),
    { line: "DELETE /v1/services/web HTTP/1.1" },
    { line: "GET /v1/services HTTP/1.1" },
    { line: "PUT /v1/tokens/t HTTP/1.1", body: grants },
    { line: "DELETE /v1/tokens/t HTTP/1.1" },
    ...[
      "/health",
      "/v1/status",
      "/v1/doors",
      "/v1/tokens",
      "/v1/unserved",
      "/v1/podman/list",
      "/metrics",
    ].map((at) => ({ line: `GET ${at} HTTP/1.1` })),
    ...["lookup", "store", "delete"].map((call) => ({
      line: `POST /v1/podman/${call} HTTP/1.1`,
      headers: "leger-secret-id: 0123456789abcdef012345678\r\n",
      body: `leger-ref:v1:${names[0] ?? ""}`,
    })),
    { line: "CONNECT legerd:80 HTTP/1.1" },
    { line: "OPTIONS * HTTP/1.0" },
    { line: "GET http://legerd/static/../health?x=%00 HTTP/1.0" },
    { line: "GET /ws HTTP/1.1", headers: "Connection: Upgrade\r\nUpgrade: websocket\r\n" },
  ];
}

/** Pieces that a mutation puts in. */
const PIECES = [
  "\r\n",
  "\r\n\r\n",
  "\n",
  "\0",
  "Content-Length: 5\r\n",
  "Content-Length: 99999999999999999999\r\n",
  "Transfer-Encoding: chunked\r\n",
  "Transfer-Encoding: chunked, identity\r\n",
  "5;ext=1\r\nhallo\r\n0\r\n\r\n",
  "0\r\nTrailer: x\r\n\r\n",
  "Expect: 100-continue\r\n",
  "Expect: tea\r\n",
  "Connection: close\r\n",
  "Connection: upgrade\r\nUpgrade: h2c\r\n",
  "HTTP/1.0",
  "HTTP/2.0",
  "CONNECT ",
  "OPTIONS * ",
  "/../",
  "%2e%2e%2f",
  "%",
  "//",
  "?",
  "Host: x\r\n",
  "Origin: http://x\r\n",
  "Authorization: Bearer \r\n",
  "GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
  '"\\ud800"',
  "[[[[[[[[",
  "1e999",
  "\u2028",
  `X: ${"a".repeat(20_000)}\r\n`,
].map((piece) => Buffer.from(piece));

/** A legerd with a door of its owner's, a guest's, and one on TCP, in this process: what it doesn't catch ends us. */
export async function doorsTarget(base: string): Promise<Target & AsyncDisposable> {
  const run = path.join(base, "run");
  fs.mkdirSync(run, { mode: 0o700 });
  const [own, guest] = [path.join(run, "own", "s"), path.join(run, "guest", "s")];
  const port = await freePort();
  const grants = [{ action: ["get", "info"], secret: ["guest/*"] }];
  const groups = ["podman", "services", "status", "audit"] as const;
  const wrong: string[] = [];
  const daemon = await startLegerd({
    version: VERSION,
    stateDir: path.join(base, "doors"),
    doors: [
      { unix: own, mode: 0o600, principal: "owner", grants: undefined },
      { unix: guest, mode: 0o600, principal: "guest", grants, routes: groups },
    ],
    tcpDoors: [{ tcp: { address: "127.0.0.1", port }, hosts: [HOST], tls: undefined, routes: [...groups] }],
    audit: { maxBytes: 8 * 1024 * 1024 },
    log: (line) => {
      if (line.startsWith("legerd: error")) wrong.push(line);
    },
  });
  const client = new SetecClient({ socketPath: own });
  await client.put(HIDDEN, new Secret(Buffer.from(CANARY)));
  await client.put("guest/a", new Secret(Buffer.from("for the guest")));
  const made = await exchange(
    { path: own },
    Buffer.from(framed({ line: "PUT /v1/tokens/guest HTTP/1.1", body: JSON.stringify({ grants }) }, "")),
    2_000,
  );
  const token = /"token":"([^"]+)"/.exec(made.toString())?.[1] ?? "";
  assert(token !== "", `no token could be made: ${made.toString()}`);
  const templates = { owner: templatesFor("owner"), guest: templatesFor("guest"), tcp: templatesFor("tcp") };
  const secrets = [CANARY, Buffer.from(CANARY).toString("base64")];
  let tried = 0;

  return {
    name: "doors",
    kept: [],
    perSeed: AT_A_TIME,
    async tryOne(seed) {
      const random = randomFrom(seed);
      await Promise.all(Array.from({ length: AT_A_TIME }, () => tryDoor(randomFrom(random(2 ** 31)))));
      tried += 1;
      if (tried % LOOK_EVERY !== 0) return;
      const { value } = await client.get(HIDDEN);
      assert(Buffer.from(value.reveal()).toString() === CANARY, "a value has become another one");
    },
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      await daemon.stop(1_000);
    },
  };

  async function tryDoor(random: Random): Promise<void> {
    const door = (["owner", "guest", "guest", "tcp"] as const)[random(4)] ?? "guest";
    const bytes = inputFor(templates[door], door === "tcp" ? authorization(token, random) : "", random);
    const where =
      door === "tcp"
        ? { host: "127.0.0.1", port, localAddress: `127.${random(250)}.${random(250)}.${1 + random(250)}` }
        : { path: door === "owner" ? own : guest };
    const answer = await exchange(where, bytes);
    assert(answer.length === 0 || answer.subarray(0, 9).toString() === "HTTP/1.1 ", "no answer in HTTP");
    const isTold = door !== "owner" && secrets.some((secret) => answer.includes(secret));
    assert(!isTold, `a ${door} who may not have it was given a value`);
    assert(wrong.length === 0, wrong[0] ?? "");
  }
}

/** One or two requests: changed anywhere, or changed in their bodies and framed rightly. */
function inputFor(templates: readonly Template[], more: string, random: Random): Buffer {
  const requests = Array.from({ length: random(4) === 0 ? 2 : 1 }, () => {
    const template = templates[random(templates.length)] ?? { line: "" };
    if (template.body === undefined || random(2) === 0) return Buffer.from(framed(template, more));
    const body = change(Buffer.from(template.body), random);
    return Buffer.concat([Buffer.from(framed({ ...template, body: undefined }, more, body.length)), body]);
  });
  const bytes = Buffer.concat(requests);
  return random(3) === 0 ? bytes : change(bytes, random);
}

function change(bytes: Buffer, random: Random): Buffer {
  return random(2) === 0 ? mutated(bytes, random) : withPieces(bytes, PIECES, random);
}

function framed(
  { line, headers = "", body }: { [Key in keyof Template]: Template[Key] | undefined },
  more: string,
  length = Buffer.byteLength(body ?? ""),
): string {
  const size = length === 0 ? "" : `Content-Length: ${length}\r\n`;
  return `${line}\r\nHost: ${HOST}\r\n${more}${headers}${size}\r\n${body ?? ""}`;
}

/** A good token mostly, none, or one that is nearly good. */
function authorization(token: string, random: Random): string {
  const browsers = "Sec-X-Tailscale-No-Browsers: setec\r\n";
  const dice = random(10);
  if (dice < 5) return `Authorization: Bearer ${token}\r\n${browsers}`;
  if (dice < 9) return browsers;
  const near = mutated(Buffer.from(token), random)
    .toString("latin1")
    .replace(/[\r\n]/g, "");
  return `Authorization: Bearer ${near}\r\n${browsers}`;
}

/** Sends all of it, says that no more comes once nothing is answered any more, and reads until the other side closes. */
function exchange(where: net.NetConnectOpts, bytes: Buffer, quietMs = QUIET_MS): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const received: Buffer[] = [];
    const socket = net.connect({ ...where, allowHalfOpen: true }, () => socket.write(bytes));
    // Node answers nothing that is under way once it hears of the end.
    const quiet = setTimeout(() => socket.end(), quietMs);
    const deadline = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no end within ${HANG_MS} ms: ${JSON.stringify(bytes.toString("latin1"))}`));
    }, HANG_MS);
    socket.on("data", (chunk: Buffer) => {
      received.push(chunk);
      quiet.refresh();
    });
    // Whoever is sent nonsense may well close in the midst of it.
    socket.on("error", () => {});
    socket.on("close", () => {
      clearTimeout(quiet);
      clearTimeout(deadline);
      resolve(Buffer.concat(received));
    });
  });
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}
