import * as fs from "node:fs";
import * as net from "node:net";
import { once } from "node:events";
import path from "node:path";
import { expect, test } from "vitest";
import { nodeFiles } from "../../src/core/files-node.ts";
import { assertSafeSocket } from "../../src/core/paths.ts";
import { inheritedSockets } from "../../src/daemon/systemd.ts";
import { holdSocket, legerdCommand, runWithDescriptors } from "../support/activation.ts";
import { descriptorOf } from "../support/descriptors.ts";
import { makePlaces, type Places } from "../support/legerd.ts";
import { sendRaw, type RawAnswer } from "../support/raw-http.ts";

const HEALTH = { method: "GET", path: "/health" };

function makeDirectory({ socket }: Places, mode = 0o700): void {
  fs.mkdirSync(path.dirname(socket));
  fs.chmodSync(path.dirname(socket), mode);
}

function configOf({ base }: Places, doors: readonly object[]): string {
  const file = path.join(base, "legerd.json");
  fs.writeFileSync(file, JSON.stringify({ doors }));
  return file;
}

/** Stops the legerd that answers there, by the process id that it tells. */
async function stop(socket: string, signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
  const status: unknown = JSON.parse(
    (await sendRaw(socket, { method: "GET", path: "/v1/status" })).body.toString(),
  );
  if (typeof status !== "object" || status === null || !("pid" in status)) throw new Error("no process id");
  process.kill(Number(status.pid), signal);
}

test.for(["SIGTERM", "SIGKILL"] as const)(
  "a socket that was open before outlives a legerd ended by %s, and who connects meanwhile is answered by the next",
  async (signal) => {
    using places = makePlaces();
    makeDirectory(places);
    await using held = await holdSocket(places.socket, { name: "legerd", command: legerdCommand(places) });
    const inode = await appeared(places.socket);
    const first = held.run();
    expect((await sendRaw(places.socket, HEALTH)).status).toBe(200);
    await stop(places.socket, signal);
    expect(await first).toBe(signal === "SIGTERM" ? "ended 0" : "ended null");
    expect(fs.statSync(places.socket).ino).toBe(inode);
    const early: Promise<RawAnswer> = sendRaw(places.socket, HEALTH);
    const second = held.run();
    expect((await early).status).toBe(200);
    await stop(places.socket);
    expect(await second).toBe("ended 0");
    expect(fs.existsSync(places.socket)).toBe(true);
  },
);

test("doors that systemd did not open are opened by legerd, beside one that it did", async () => {
  using places = makePlaces();
  makeDirectory(places);
  const own = path.join(places.runtimeDir, "own", "legerd.sock");
  const config = configOf(places, [
    { unix: own, principal: "own" },
    { name: "main", unix: places.socket, principal: "main" },
  ]);
  const command = legerdCommand(places, config);
  await using held = await holdSocket(places.socket, { name: "main", command });
  await appeared(places.socket);
  const run = held.run();
  const status = await sendRaw(places.socket, { method: "GET", path: "/v1/status" });
  expect(JSON.parse(status.body.toString())).toMatchObject({
    doors: [
      { unix: own, principal: "own" },
      { unix: places.socket, principal: "main" },
    ],
  });
  expect((await sendRaw(own, HEALTH)).status).toBe(200);
  await stop(own);
  expect(await run).toBe("ended 0");
  expect([fs.existsSync(own), fs.existsSync(places.socket)]).toEqual([false, true]);
});

test.for(["user", "system"])(
  "the %s's legerd.socket opens the door that is there without a configuration",
  async (whose) => {
    using places = makePlaces();
    const unit = fs.readFileSync(
      new URL(`../../packaging/systemd/${whose}/legerd.socket`, import.meta.url),
      "utf8",
    );
    const value = (key: string): string => new RegExp(`^${key}=(.+)$`, "m").exec(unit)?.[1] ?? "";
    expect(value("ListenStream")).toMatch(/^(%t|\/run)\/leger\/legerd\.sock$/);
    makeDirectory(places, Number.parseInt(value("DirectoryMode"), 8));
    const mode = Number.parseInt(value("SocketMode"), 8);
    const command = legerdCommand(places);
    await using held = await holdSocket(places.socket, { name: value("FileDescriptorName"), mode, command });
    await appeared(places.socket);
    const run = held.run();
    // As leger does before it says anything.
    assertSafeSocket(places.socket, { euid: process.geteuid?.() ?? 0, files: nodeFiles });
    await stop(places.socket);
    expect(await run).toBe("ended 0");
  },
);

/** What is wrong with the socket, its place or its name, and what legerd says to it. */
const REFUSED: readonly [string, Partial<Wrong>, RegExp][] = [
  ["no door has its name", { name: "other" }, /"other": no door of the configuration has that name\n.*hint/],
  [
    "the door of its name is elsewhere",
    { boundAt: "elsewhere.sock" },
    /that socket was opened at .*elsewhere\.sock\n.*hint: let ListenStream=/,
  ],
  [
    "it lets in more than the door does",
    { mode: 0o666 },
    /mode 0666 lets in more than 0600 would\n.*hint: set SocketMode=0600/,
  ],
  [
    "others could put another in its place",
    { directoryMode: 0o777 },
    /others may write to .*\n.*hint: chmod/,
  ],
  ["its file is gone", { removed: true }, /no socket is there\n.*hint: restart the \.socket unit/],
];

type Wrong = { name: string; boundAt: string; mode: number; directoryMode: number; removed: boolean };

test.for(REFUSED)("a socket is refused where %s, and left alone", async ([, wrong, message]) => {
  using places = makePlaces();
  makeDirectory(places, wrong.directoryMode);
  const bound = path.join(path.dirname(places.socket), wrong.boundAt ?? "legerd.sock");
  // What stands at the door's place is a socket, too; only not the one that was handed over.
  await using other = wrong.boundAt === undefined ? undefined : await listenAt({ path: places.socket });
  await using held = await holdSocket(bound, {
    name: wrong.name ?? "legerd",
    mode: wrong.mode ?? 0o600,
    command: legerdCommand(places),
  });
  await appeared(bound);
  if (wrong.removed === true) fs.unlinkSync(bound);
  expect(await held.run()).toMatch(/^ended 7[78]$/);
  expect(held.stderr()).toMatch(message);
  expect(fs.existsSync(bound)).toBe(wrong.removed !== true);
  expect(fs.existsSync(places.socket)).toBe(other !== undefined || wrong.removed !== true);
});

/** Something that has a descriptor and is not what a door needs. */
const ODD: readonly [string, (places: Places) => Promise<Descriptor>, RegExp][] = [
  ["a file", openFile, /\(descriptor 3\): it is not a socket/],
  ["a TCP socket", listenOnTcp, /descriptor 3 is no unix stream socket/],
  ["a connection", connect, /\(descriptor 3\): it does not listen/],
];

test.for(ODD)("%s in place of a listening unix socket is refused", async ([, make, message]) => {
  using places = makePlaces();
  makeDirectory(places);
  await using there = await listenAt({ path: places.socket });
  fs.chmodSync(places.socket, 0o600);
  await using odd = await make(places);
  const result = await runWithDescriptors([{ fd: odd.fd, name: "legerd" }], legerdCommand(places));
  expect(result).toMatchObject({ status: 78, stderr: expect.stringMatching(message) });
  expect(result.stderr).toContain("hint");
  expect([there.server.listening, fs.existsSync(places.socket)]).toEqual([true, true]);
});

test("two sockets of one name are refused", async () => {
  using places = makePlaces();
  makeDirectory(places);
  await using there = await listenAt({ path: places.socket });
  const both = [
    { fd: there.fd, name: "legerd" },
    { fd: there.fd, name: "legerd" },
  ];
  expect(await runWithDescriptors(both, legerdCommand(places))).toMatchObject({
    status: 78,
    stderr: expect.stringContaining('"legerd": there are two of that name'),
  });
});

test.for([
  ["another process", { LISTEN_PID: "2", LISTEN_FDS: "1" }],
  ["nobody", { LISTEN_FDS: "1" }],
  ["this process, none of them", { LISTEN_PID: "7", LISTEN_FDS: "0" }],
] as const)("sockets for %s are not taken", ([, env]) => {
  expect(inheritedSockets(env, 7)).toEqual([]);
});

test.for(["", "-1", "3x", "99999999"])("a number of sockets such as %j is refused", (count) => {
  expect(() => inheritedSockets({ LISTEN_PID: "7", LISTEN_FDS: count }, 7)).toThrow(
    /LISTEN_FDS is no number/,
  );
});

test("a descriptor that is not open is refused", () => {
  const env = { LISTEN_PID: "7", LISTEN_FDS: "9999" };
  expect(() => inheritedSockets(env, 7)).toThrow(/"unknown" \(descriptor \d+\): it /);
});

/** Once somebody listens there, which is later than the file is there; its inode. */
async function appeared(file: string): Promise<number> {
  for (;;) {
    const stat = fs.lstatSync(file, { throwIfNoEntry: false });
    if (stat !== undefined && isListenedAt(file)) return stat.ino;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** proc_net_unix: flags are the fourth field, and 10000 (__SO_ACCEPTCON) is for a socket that listens. */
function isListenedAt(file: string): boolean {
  const lines = fs.readFileSync("/proc/net/unix", "utf8").split("\n");
  return lines.some((line) => line.endsWith(` ${file}`) && line.split(/\s+/)[3] === "00010000");
}

type Descriptor = { fd: number } & AsyncDisposable;

async function listenAt(
  where: { path: string } | { host: string; port: number },
): Promise<Descriptor & { server: net.Server }> {
  const server = net.createServer().listen(where);
  await once(server, "listening");
  return {
    server,
    fd: descriptorOf(server),
    async [Symbol.asyncDispose]() {
      server.close();
      await once(server, "close");
    },
  };
}

function listenOnTcp(): Promise<Descriptor> {
  return listenAt({ host: "127.0.0.1", port: 0 });
}

async function openFile({ base }: Places): Promise<Descriptor> {
  const handle = await fs.promises.open(path.join(base, "file"), "w");
  return { fd: handle.fd, [Symbol.asyncDispose]: () => handle.close() };
}

async function connect({ socket }: Places): Promise<Descriptor> {
  const connection = net.connect({ path: socket });
  await once(connection, "connect");
  return {
    fd: descriptorOf(connection),
    async [Symbol.asyncDispose]() {
      connection.destroy();
      await once(connection, "close");
    },
  };
}
