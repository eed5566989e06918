import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as net from "node:net";
import { once } from "node:events";
import path from "node:path";
import { expect, test } from "vitest";
import { Secret } from "../../src/core/secret.ts";
import { SetecClient } from "../../src/setec/client.ts";
import { readCredential } from "../support/credential.ts";
import { makePlaces, spawnLegerd, startTestLegerd, type Places } from "../support/legerd.ts";
import { sendRaw } from "../support/raw-http.ts";

const END = "# leger: end of set\n";
const A = "leger/local/a";
const B = "leger/local/b";
const BOTH = { ONE: A, TWO: B };

const secret = (value: string | Uint8Array): Secret => new Secret(Buffer.from(value));
const directory = ({ socket }: Pick<Places, "socket">): string => path.join(path.dirname(socket), "cred");

async function define(socket: string, name: string, variables: Record<string, string>): Promise<void> {
  const body = Buffer.from(JSON.stringify({ variables }));
  const { status } = await sendRaw(socket, { method: "PUT", path: `/v1/services/${name}`, body });
  expect(status).toBe(200);
}

/** Every socket there is, by its path below the directory; directories end in a slash. */
function there(places: Pick<Places, "socket">): string[] {
  const top = directory(places);
  if (!fs.existsSync(top)) return [];
  const entries = fs.readdirSync(top, { recursive: true, withFileTypes: true });
  return entries
    .map((entry) => {
      const name = path.relative(top, path.join(entry.parentPath, entry.name));
      return entry.isDirectory() ? `${name}/` : entry.isSocket() ? name : `${name} (no socket)`;
    })
    .toSorted();
}

async function set(places: Pick<Places, "socket">, name: string): Promise<string> {
  return (await readCredential(path.join(directory(places), `${name}.env`))).toString();
}

test("a service's set and each of its variables are there as soon as it is defined, for us alone", async () => {
  const raw = Buffer.of(0, 255, 10, 13, 0);
  await using daemon = await startTestLegerd({ [A]: 'it\'s # "a" ', [B]: raw });
  await define(daemon.socket, "web", { ONE: A });
  await define(daemon.socket, "raw", { TWO: B, ONE: A });
  expect(there(daemon)).toEqual(["raw/", "raw/ONE", "raw/TWO", "web.env", "web/", "web/ONE"]);
  expect(await set(daemon, "web")).toBe(`ONE=it's # "a" \n${END}`);
  expect(await readCredential(path.join(directory(daemon), "raw/TWO"))).toEqual(raw);
  expect((await readCredential(path.join(directory(daemon), "web/ONE"))).toString()).toBe('it\'s # "a" ');
  for (const name of ["", "web.env", "web", "web/ONE"]) {
    const stat = fs.statSync(path.join(directory(daemon), name));
    expect([name, stat.mode & 0o777]).toEqual([name, stat.isDirectory() ? 0o700 : 0o600]);
  }
});

test("the audit log says which service's socket gave which version, before it is given", async () => {
  await using daemon = await startTestLegerd({ [A]: "v1", [B]: "v1" });
  await define(daemon.socket, "web", BOTH);
  const before = fs.readFileSync(`${daemon.stateDir}/audit.log`).length;
  await set(daemon, "web");
  await readCredential(path.join(directory(daemon), "web/TWO"));
  const lines = fs.readFileSync(`${daemon.stateDir}/audit.log`).subarray(before).toString().trimEnd();
  const seen = lines.split("\n").map((line) => ({ ...JSON.parse(line), n: 0, time: "", mac: "" }));
  const entry = {
    n: 0,
    time: "",
    mac: "",
    principal: "tester",
    action: "get",
    authorized: true,
    version: 1,
    service: "web",
  };
  expect(seen).toEqual([
    { ...entry, secret: A, credential: "web.env" },
    { ...entry, secret: B, credential: "web.env" },
    { ...entry, secret: B, credential: "web/TWO" },
  ]);
});

test.for([
  ["is missing", undefined, [], "TWO: there is no secret leger/local/b"],
  ["is empty", "", [], "TWO: the secret leger/local/b is empty"],
  [
    "has several lines",
    "one\ntwo",
    ["web/", "web/ONE", "web/TWO"],
    "TWO (leger/local/b) cannot stand in an env file: the value has several lines",
  ],
  ["is more than systemd takes", "x".repeat(700_000), [], "come to more than systemd takes for a unit"],
] as const)(
  "of a service with a secret that %s nothing is there that would be short of it, and the journal says so",
  async ([, value, sockets, said]) => {
    await using daemon = await startTestLegerd({ [A]: "x".repeat(600_000) });
    if (value !== undefined) await daemon.client.put(B, secret(value));
    if ((value ?? "").length < 1_000) {
      await daemon.client.put(A, secret("short"));
      await daemon.client.activate(A, 2);
    }
    await define(daemon.socket, "web", BOTH);
    expect(there(daemon)).toEqual(sockets);
    const warnings = daemon.log.filter((line) => line.includes("service web"));
    expect(warnings).toEqual([expect.stringContaining(said)]);
    // Once it can be given, it is: when the write that made it so has been answered.
    await daemon.client.createVersion(B, 90, secret("good"));
    await daemon.client.createVersion(A, 90, secret("good"));
    expect(there(daemon)).toEqual(["web.env", "web/", "web/ONE", "web/TWO"]);
    expect(await set(daemon, "web")).toBe(`ONE=good\nTWO=good\n${END}`);
    expect(daemon.log.at(-1)).toBe("legerd: notice: service web has its credentials again");
  },
);

test("what is deleted is no longer given once that was answered: a secret, a variable, a service", async () => {
  await using daemon = await startTestLegerd({ [A]: "a", [B]: "b" });
  await define(daemon.socket, "web", BOTH);
  await define(daemon.socket, "other", { ONE: A });
  await daemon.client.delete(B);
  expect(there(daemon)).toEqual(["other.env", "other/", "other/ONE"]);
  await define(daemon.socket, "web", { ONE: A });
  expect(there(daemon)).toEqual(["other.env", "other/", "other/ONE", "web.env", "web/", "web/ONE"]);
  await sendRaw(daemon.socket, { method: "DELETE", path: "/v1/services/other" });
  await daemon.client.delete(A);
  await daemon.client.put(A, secret("again"));
  expect(there(daemon)).toEqual(["web.env", "web/", "web/ONE"]);
  expect(await set(daemon, "web")).toBe(`ONE=again\n${END}`);
});

test("while secrets are rotated every reader gets a whole set, and none that is older than what was acknowledged", async () => {
  await using daemon = await startTestLegerd({ [A]: "1", [B]: "1" });
  await define(daemon.socket, "web", BOTH);
  const rotation = { acknowledged: 1 };
  const read = async (): Promise<number> => {
    let count = 0;
    while (rotation.acknowledged < 25) {
      const atLeast = rotation.acknowledged;
      const [, one, two, end] = /^ONE=(\d+)\nTWO=(\d+)\n(.*)\n$/.exec(await set(daemon, "web")) ?? [];
      expect([end, Number(one) >= atLeast, Number(two) >= atLeast]).toEqual([END.trim(), true, true]);
      // ONE is always rotated first.
      expect(Number(one) - Number(two)).toBeOneOf([0, 1]);
      count += 1;
    }
    return count;
  };
  const readers = Array.from({ length: 4 }, read);
  for (let next = 2; next <= 25; next += 1) {
    await daemon.client.createVersion(A, next, secret(String(next)));
    await daemon.client.createVersion(B, next, secret(String(next)));
    rotation.acknowledged = next;
  }
  expect(Math.min(...(await Promise.all(readers)))).toBeGreaterThan(0);
});

/** 15 variables of 60 KiB, as legerd gives them. */
async function defineLarge(daemon: Places): Promise<{ file: string; whole: string }> {
  const names = Array.from({ length: 15 }, (_, n) => `V${n}`);
  await define(daemon.socket, "large", Object.fromEntries(names.map((name) => [name, A])));
  const whole = names.map((name) => `${name}=${LARGE}\n`).join("") + END;
  return { file: path.join(directory(daemon), "large.env"), whole };
}
const LARGE = "x".repeat(60 * 1024);

test("200 who connect together get a set of 900 KiB each, also beside some who don't read", async () => {
  await using daemon = await startTestLegerd({ [A]: LARGE });
  const { file, whole } = await defineLarge(daemon);
  const silent = Array.from({ length: 10 }, () => net.connect({ path: file }).pause());
  await Promise.all(silent.map((socket) => once(socket, "connect")));
  const sets = await Promise.all(Array.from({ length: 200 }, () => readCredential(file)));
  expect(sets.filter((bytes) => bytes.toString() !== whole)).toHaveLength(0);
  for (const socket of silent) socket.destroy();
});

test("who doesn't read is let go of, with no more than the kernel had taken", async () => {
  await using daemon = await startTestLegerd({ [A]: LARGE }, { dropCredentialAfterMs: 100 });
  const { file, whole } = await defineLarge(daemon);
  const socket = net.connect({ path: file }).pause();
  await once(socket, "connect");
  // Until the kernel lists it as one whose other end has gone.
  await until(() => !connected(file));
  let received = 0;
  socket.on("data", (chunk: Buffer) => (received += chunk.length));
  socket.resume();
  await once(socket, "close");
  expect(received).toBeGreaterThan(0);
  expect(received).toBeLessThan(whole.length);
});

/** Whether legerd holds a connection there open: the kernel calls it by the name that its socket was bound to. */
function connected(file: string): boolean {
  const top = path.dirname(file);
  const rows = fs.readFileSync("/proc/net/unix", "utf8").split("\n");
  return rows.some((row) => row.includes(` ${top}/.`) && / 03 +\d+ /.test(row));
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

test("after kill -9 the next legerd replaces what was left", async () => {
  using places = makePlaces();
  const top = directory(places);
  {
    await using first = await spawnLegerd(places);
    await using client = new SetecClient({ socketPath: places.socket });
    await client.put(A, secret("a"));
    await define(places.socket, "web", { ONE: A });
    process.kill(first.pid, "SIGKILL");
    await first.exited;
  }
  await expect(set(places, "web")).rejects.toThrow("ECONNREFUSED");
  fs.mkdirSync(path.join(top, "gone"));
  fs.renameSync(path.join(top, "web/ONE"), path.join(top, "gone/ONE"));
  await using second = await spawnLegerd(places);
  // "ready" comes after the sockets.
  expect(there(places)).toEqual(["web.env", "web/", "web/ONE"]);
  expect(await set(places, "web")).toBe(`ONE=a\n${END}`);
  process.kill(second.pid, "SIGTERM");
  expect(await second.exited).toEqual({ status: 0, signal: null });
  expect(fs.existsSync(top)).toBe(false);
});

test("a reader whose legerd is killed before it was seen to gets an error, and no empty secret", async () => {
  using places = makePlaces();
  await using daemon = await spawnLegerd(places);
  await using client = new SetecClient({ socketPath: places.socket });
  await client.put(A, secret("a"));
  await define(places.socket, "web", { ONE: A });
  process.kill(daemon.pid, "SIGSTOP");
  const readers = Array.from({ length: 50 }, () => set(places, "web").catch((error: Error) => error.message));
  // All are connected before it ends: none of their connections is refused.
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  process.kill(daemon.pid, "SIGKILL");
  expect(new Set(await Promise.all(readers))).toEqual(new Set(["read ECONNRESET"]));
});

test("what cannot be audited is not given, and the connection doesn't end as an empty secret would", async () => {
  using places = makePlaces();
  const audit = path.join(places.stateDir, "audit.log");
  // A file that grows beyond its limit sends XFSZ.
  await using daemon = await spawnLegerd(places, [], ["/bin/sh", "-c", 'trap "" XFSZ; exec "$@"', "sh"]);
  await using client = new SetecClient({ socketPath: places.socket });
  await client.put(A, secret("a"));
  await define(places.socket, "web", { ONE: A });
  const limit = `--fsize=${fs.statSync(audit).size}:`;
  execFileSync("prlimit", ["--pid", String(daemon.pid), limit]);
  const held = set(places, "web");
  let ended = false;
  held.catch(() => {}).finally(() => (ended = true));
  await until(() => daemon.stderr().includes("a credential is not given: write audit log"));
  for (let n = 0; n < 20; n += 1) await sendRaw(places.socket, { method: "GET", path: "/health" });
  expect(ended).toBe(false);
});

test("a name as long as a service's may be has sockets, whose paths are longer than a socket's address", async () => {
  await using daemon = await startTestLegerd({ [A]: "a" });
  const name = "n".repeat(128);
  await define(daemon.socket, name, { ["V".repeat(120)]: A });
  // Too long for connect(2); systemd goes by such a descriptor as well.
  const fd = fs.openSync(path.join(directory(daemon), `${name}.env`), fs.constants.O_RDONLY | O_PATH);
  try {
    expect((await readCredential(`/proc/self/fd/${fd}`)).toString()).toContain(`=a\n${END}`);
  } finally {
    fs.closeSync(fd);
  }
});

/** open(2): a descriptor for the path alone, which a socket may have, too. */
const O_PATH = 0o10000000;

test("a service whose name ends like a set's is refused", async () => {
  await using daemon = await startTestLegerd({ [A]: "a" });
  const body = Buffer.from(JSON.stringify({ variables: { ONE: A } }));
  const answer = await sendRaw(daemon.socket, { method: "PUT", path: "/v1/services/web.env", body });
  expect(answer.status).toBe(400);
  expect(answer.body.toString()).toContain("no .env at the end");
});

test("credential sockets lie beside the first door that may have everything; without one there are none", async () => {
  const guest = { mode: 0o600, principal: "guest", grants: [{ action: ["get"], secret: ["*"] }] };
  await using daemon = await startTestLegerd(
    { [A]: "a" },
    {
      doors: ({ socket, runtimeDir }) => [
        { unix: `${runtimeDir}/guest/legerd.sock`, ...guest },
        { unix: socket, mode: 0o600, principal: "owner", grants: undefined },
      ],
    },
  );
  await define(daemon.socket, "web", { ONE: A });
  expect(there(daemon)).toContain("web.env");
  expect(there({ socket: `${daemon.runtimeDir}/guest/legerd.sock` })).toEqual([]);
});

test("a door in the directory of the sockets is refused", async () => {
  using places = makePlaces();
  const inside = path.join(directory(places), "legerd.sock");
  const door = { mode: 0o600, principal: "owner", grants: undefined };
  const doors = () => [
    { unix: places.socket, ...door },
    { unix: inside, ...door },
  ];
  await expect(startTestLegerd({}, { places, doors })).rejects.toThrow(/is where credential sockets are/);
});

test.for([
  ["is a file", (top: string) => fs.writeFileSync(top, "a file")],
  [
    "holds somebody's files, which stay",
    (top: string) => {
      fs.mkdirSync(path.join(top, "web"), { recursive: true, mode: 0o700 });
      fs.writeFileSync(path.join(top, "web/ONE"), "somebody's");
    },
  ],
] as const)("where the directory %s, legerd says so and does all else", async ([, plant]) => {
  using places = makePlaces();
  fs.mkdirSync(path.dirname(places.socket), { mode: 0o700 });
  plant(directory(places));
  {
    await using daemon = await startTestLegerd({ [A]: "a" }, { places });
    await define(daemon.socket, "web", { ONE: A });
    expect(daemon.log).toContainEqual(expect.stringContaining("warning: no credential sockets: "));
    expect((await daemon.client.get(A)).version).toBe(1);
  }
  expect(fs.statSync(directory(places)).isFile() || fs.existsSync(`${directory(places)}/web/ONE`)).toBe(true);
});
