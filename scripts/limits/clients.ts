/** clients — rows of clients that are too many, too slow, or ask at too many doors. */
import { execFile } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import * as net from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { openConnection } from "../crash/connection.ts";
import { metric, must, until, type Legerd, type Row } from "./ground.ts";

const IDLE = 2_000;
const SLOW = 200;
/** legerd waits for headers for 10 s, and looks every 2 s. */
const GIVEN_UP_WITHIN_MS = 20_000;

async function connectMany(socketPath: string, count: number): Promise<net.Socket[]> {
  const sockets = Array.from({ length: count }, () => net.connect({ path: socketPath }));
  for (const socket of sockets) socket.on("error", () => {});
  await Promise.all(sockets.map((socket) => once(socket, "connect")));
  return sockets;
}

export const idleClients: Row = {
  name: "idle",
  what: `${IDLE} clients that say nothing and ${SLOW} that send a byte now and then`,
  async run(ground) {
    const daemon = await ground.start();
    must("put", await daemon.put("a", "v1"), "200 1");
    const idle = await connectMany(ground.socket, IDLE);
    const slow = await connectMany(ground.socket, SLOW);
    ground.atEnd(() => [...idle, ...slow].forEach((socket) => socket.destroy()));
    const first = Promise.withResolvers<string>();
    slow[0]?.on("data", (chunk: Buffer) => first.resolve(chunk.toString("latin1").split("\r\n")[0] ?? ""));
    let closed = 0;
    for (const socket of [...idle, ...slow]) socket.resume().on("close", () => (closed += 1));
    const line = "POST /api/get HTTP/1.1\r\nHost: x\r\nX-Slow: ";
    let sent = 0;
    const drip = setInterval(() => {
      for (const socket of slow) if (socket.writable) socket.write(line.charAt(sent) || "x");
      sent += 1;
    }, 50);
    try {
      must("connections", (await metric(daemon, "legerd_connections")) >= IDLE + SLOW, true);
      let answered = 0;
      await until("all of them are given up", GIVEN_UP_WITHIN_MS, async () => {
        must("get beside them", await daemon.get("a"), "200 v1");
        answered += 1;
        return closed === IDLE + SLOW;
      });
      must("what a slow one is told", await first.promise, "HTTP/1.1 408 Request Timeout");
      must("connections left", await metric(daemon, "legerd_connections"), 1);
      return {
        served: `all others: ${answered} reads and a put meanwhile`,
        refused: "each of them after 10 s: 408 Request Timeout",
        recovers: "their connections are closed and their descriptors free",
      };
    } finally {
      clearInterval(drip);
    }
  },
};

const FLOOD = 20_000;
const AT_ONCE = 256;

export const flood: Row = {
  name: "flood",
  what: `${FLOOD} connections opened and dropped, ${AT_ONCE} at a time, half of them amid a request`,
  async run(ground) {
    const daemon = await ground.start();
    must("put", await daemon.put("a", "v1"), "200 1");
    const flooder = fileURLToPath(new URL("flooder.ts", import.meta.url));
    const words = [flooder, ground.socket, String(FLOOD), String(AT_ONCE)];
    const flooding = promisify(execFile)(process.execPath, words);
    let answered = 0;
    let busy = 0;
    const over = new AbortController();
    void flooding.then(
      () => over.abort(),
      () => over.abort(),
    );
    while (!over.signal.aborted) {
      const told = await daemon.get("a");
      if (told === "200 v1") answered += 1;
      // EAGAIN: the kernel's queue of connections that wait is full for a moment.
      else if (/EAGAIN|ECONNREFUSED/.test(told)) busy += 1;
      else must("get amid the flood", told, "200 v1");
    }
    const turnedAway = Number((await flooding).stdout);
    must("reads amid the flood", answered > 0, true);
    must("put after the flood", await daemon.put("a", "v2"), "200 2");
    await until(
      "connections are gone",
      15_000,
      async () => (await metric(daemon, "legerd_connections")) === 1,
    );
    return {
      served: `${answered} reads amid it`,
      refused: `by the kernel, while 511 wait: EAGAIN (${busy} reads, ${turnedAway} connections of the flood)`,
      recovers: "at once; no connection is left",
    };
  },
};

const DOORS = 256;

export const doors: Row = {
  name: "doors",
  what: `${DOORS} doors at once, asked together`,
  async run(ground) {
    const config = path.join(ground.base, "legerd.json");
    const guests = Array.from({ length: DOORS - 1 }, (_, at) => ({
      unix: path.join(ground.base, "run", "doors", String(at), "legerd.sock"),
      principal: `guest-${at}`,
      grants: [{ action: ["get"], secret: [`s${at}`] }],
    }));
    const own = { unix: ground.socket, principal: "owner" };
    fs.writeFileSync(config, JSON.stringify({ doors: [own, ...guests] }));
    const started = performance.now();
    const daemon = await ground.start({ args: ["--config", config] });
    const startMs = Math.round(performance.now() - started);
    const asOwner = await Promise.all(guests.map((_, at) => daemon.put(`s${at}`, `value ${at}`)));
    for (const told of asOwner) must("put", told, "200 1");
    const get = async (door: number, secret: number): Promise<string> => {
      const options = { body: { Name: `s${secret}` }, socket: guests[door]?.unix ?? "" };
      const { status, text } = await daemon.ask("POST", "/api/get", options);
      return `${status} ${text}`;
    };
    const answers = await Promise.all(guests.map((_, at) => get(at, at)));
    for (const [at, told] of answers.entries()) {
      must(
        "its own secret",
        told,
        `200 {"Value":"${Buffer.from(`value ${at}`).toString("base64")}","Version":1}`,
      );
    }
    const others = await Promise.all(guests.map((_, at) => get(at, (at + 1) % guests.length)));
    for (const told of others) must("another's secret", told, "403 access denied");
    const memory = Math.round((await metric(daemon, "process_resident_memory_bytes")) / 1024 ** 2);
    return {
      served: `each door its own secret; ready after ${startMs} ms, ${memory} MiB`,
      refused: "each door the secret of its neighbour: 403 access denied",
      recovers: "nothing to recover from",
    };
  },
};

const MAX_DESCRIPTORS = 128;

export const descriptors: Row = {
  name: "descriptors",
  what: `at most ${MAX_DESCRIPTORS} file descriptors, and clients that take them all`,
  async run(ground) {
    const daemon = await ground.start({ starter: ["prlimit", `--nofile=${MAX_DESCRIPTORS}`] });
    must("put", await daemon.put("a", "v1"), "200 1");
    const early = await openConnection(ground.socket);
    ground.atEnd(() => early.close());
    const take = async (): Promise<net.Socket[]> => await connectMany(ground.socket, 2 * MAX_DESCRIPTORS);
    const taken = await take();
    ground.atEnd(() => taken.forEach((socket) => socket.destroy()));
    await until("they are all taken", 5_000, () => openDescriptors(daemon) >= MAX_DESCRIPTORS - 1);
    const headers = { "content-type": "application/json", "sec-x-tailscale-no-browsers": "setec" };
    const over = async (route: string, body: object): Promise<string> => {
      const reply = await early.ask({
        method: "POST",
        path: `/api/${route}`,
        headers,
        body: JSON.stringify(body),
      });
      return reply === undefined ? "closed" : `${reply.status} ${reply.body.toString().trimEnd()}`;
    };
    must("get, connected before", await over("get", { Name: "a" }), /^200 /);
    must("put, connected before", await over("put", { Name: "a", Value: "djI=" }), "200 2");
    const listed = await over("list", {});
    const late = await daemon.get("a");
    must("get, connected after", late, /^0 /);
    for (const socket of taken) socket.destroy();
    await until("they are free again", 5_000, async () => (await daemon.get("a")) === "200 v1");
    must("put afterwards", await daemon.put("a", "v3"), "200 3");
    must("list afterwards", (await daemon.ask("POST", "/api/list", { body: {} })).status, 200);
    return {
      served: "who was connected before: reads and puts",
      refused: `new connections: closed at once (${late.slice(2)}); lists, which open a file: ${listed}`,
      recovers: "as soon as descriptors are free",
    };
  },
};

function openDescriptors({ pid }: Legerd): number {
  return fs.readdirSync(`/proc/${pid}/fd`).length;
}
