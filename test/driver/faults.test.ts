import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { connect, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { once } from "node:events";
import { describe, expect, test } from "vitest";
import { makePlaces, spawnLegerd, startTestLegerd, type Places } from "../support/legerd.ts";
import {
  asPodman,
  CANARY,
  expectSpoken,
  inProcess,
  podmanDriver,
  podmanId,
  shell,
  startFakeLegerd,
  type FakeLegerd,
} from "../support/podman-driver.ts";

const uid = process.geteuid?.() ?? 0;
const HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nleger-version: 1\r\n";

describe("an answer that isn't legerd's gives no secret", () => {
  test.for([
    ["nothing", "", 69],
    ["garbage", `\0\xff ${CANARY}\r\n\r\n`, 69],
    ["half a head", "HTTP/1.1 200 OK\r\nContent-Le", 69],
    ["no Content-Length", `${HEAD}\r\n${CANARY}`, 69],
    ["less than its Content-Length", `${HEAD}Content-Length: 100\r\n\r\n${CANARY}`, 69],
    ["more than its Content-Length", `${HEAD}Content-Length: 3\r\n\r\n${CANARY}`, 69],
    ["a web page", page(200), 69],
    ["a web page of an error", page(500), 69],
    [
      "a stranger's bytes",
      `HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 1\r\n\r\nx`,
      69,
    ],
    ["a redirection", "HTTP/1.1 307 Temporary Redirect\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 69],
    ["a refusal without a reason", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 77],
    ["JSON without a reason", refusal({ message: CANARY }), 69],
    [
      "a failure of its own",
      refusal({ error: { code: "IO", message: "get leger/local/db: disk is gone", hints: ["see df"] } }),
      74,
    ],
    ["a code we don't know", refusal({ error: { code: "NEW", message: "get leger/local/db: no" } }), 1],
    [
      "a reason in colours and lines",
      refusal({ error: { code: "IO", message: "get leger/local/db: \u001b[31mred\nleger: hint: x" } }),
      74,
    ],
  ] as const)("%s", async ([, answer, status]) => {
    await using fake = await startFakeLegerd((socket) => socket.end(Buffer.from(answer, "latin1")));
    const id = podmanId();
    const result = await inProcess(["driver", "lookup"], { daemon: fake, env: { SECRET_ID: id } });
    expect(result).toMatchObject({ status, stdout: "" });
    expectSpoken(result.stderr, answer.includes("leger/local/db") ? "leger/local/db" : id);
    expect(result.stderr).not.toContain("\u001b");
  });
});

test("a daemon that closes half-way leaves Podman with nothing", async () => {
  const half = `${HEAD}Content-Length: 100\r\n\r\n${CANARY}`;
  await using fake = await startFakeLegerd((socket) => socket.write(half, () => socket.destroy()));
  const result = await asPodman("lookup", { daemon: fake, id: podmanId() });
  expect(result).toMatchObject({ status: 69, stdout: Buffer.alloc(0) });
  expectSpoken(result.stderr, /half-way|broke the connection off|shorter than/);
});

test.for([
  ["store", "look"],
  ["delete", "{}"],
  ["list", '{"entries":[{"id":"two\\nlines"}]}'],
  ["list", '{"entries":{}}'],
  ["list", "not JSON"],
] as const)(
  "%s answered with %j in the wrong kind or form fails and prints nothing",
  async ([verb, body]) => {
    const type = verb === "list" ? "application/json" : "text/plain";
    const answer = `HTTP/1.1 200 OK\r\nContent-Type: ${type}\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    await using fake = await startFakeLegerd((socket) => socket.end(answer));
    const world = { daemon: fake, env: { SECRET_ID: podmanId() }, stdin: Buffer.from("v") };
    const result = await inProcess(["driver", verb], world);
    expect(result).toMatchObject({ status: 69, stdout: "" });
    expectSpoken(result.stderr, "cannot be used");
  },
);

describe.concurrent("everything ends within 5 s", () => {
  test("each verb, of a daemon that says nothing", async () => {
    await using fake = await startFakeLegerd(hang);
    const verbs = ["lookup", "store", "delete", "list"] as const;
    const results = await Promise.all(
      verbs.map((verb) => {
        const stdin = verb === "store" ? { stdin: Buffer.from(CANARY) } : {};
        return asPodman(verb, { daemon: fake, id: podmanId(), ...stdin });
      }),
    );
    expect(fake.requests).toHaveLength(verbs.length);
    for (const result of results) {
      expect(result).toMatchObject({ status: 69, stdout: Buffer.alloc(0) });
      expectSpoken(result.stderr, "did not answer within");
    }
  });

  test.for([
    ["a byte at a time", drip, "did not answer within"],
    ["without end", flood, "more than 1.5 MiB"],
  ] as const)("a lookup of a daemon that answers %s", async ([, behave, why]) => {
    await using fake = await startFakeLegerd(behave);
    const result = await asPodman("lookup", { daemon: fake, id: podmanId() });
    expect(result).toMatchObject({ status: 69, stdout: Buffer.alloc(0) });
    expectSpoken(result.stderr, why);
  });

  test("secrets fetch, which leaves an older file as it is", async () => {
    await using fake = await startFakeLegerd(hang);
    const path = join(fake.runtimeDir, "web.env");
    writeFileSync(path, "OLDER=file\n", { mode: 0o600 });
    const result = await shell(`leger secrets fetch web --dir ${fake.runtimeDir} --allow-disk`, {
      daemon: fake,
    });
    expect(result).toMatchObject({ status: 69, stdout: "" });
    expectSpoken(result.stderr, /^leger: error: fetch web: .* did not answer within/);
    expect(readdirSync(fake.runtimeDir).toSorted()).toEqual(["leger", "web.env"]);
    expect(readFileSync(path, "utf8")).toBe("OLDER=file\n");
  });

  test("a store whose standard input never ends", async () => {
    await using fake = await startFakeLegerd(hang);
    const result = await asPodman("store", { daemon: fake, id: podmanId(), stdin: "never ends" });
    expect(result.status).toBe(74);
    expectSpoken(result.stderr, "standard input did not end in time");
    expect(fake.requests).toEqual([]);
  });

  test("a lookup that nobody reads", async () => {
    const body = Buffer.alloc(1_000_000, "x");
    await using fake = await startFakeLegerd((socket) => {
      socket.write(`${HEAD}Content-Length: ${body.length}\r\n\r\n`);
      socket.end(body);
    });
    const result = await asPodman("lookup", { daemon: fake, id: podmanId(), unread: true });
    expect(result.status).toBe(1);
    expectSpoken(result.stderr, "not done within 5 s");
  });
});

test("500 clients that say nothing, or a byte a second, keep no lookup waiting", async () => {
  await using daemon = await startTestLegerd();
  const id = podmanId();
  await asPodman("store", { daemon, id, stdin: Buffer.from("value") });
  const idle = Array.from({ length: 500 }, () => connect({ path: daemon.socket }));
  const request = Buffer.from("POST /v1/podman/lookup HTTP/1.1\r\n");
  const sent: number[] = [];
  const dripping = setInterval(() => {
    const at = sent.length;
    for (const socket of idle.slice(0, 250)) socket.write(request.subarray(at, at + 1));
    sent.push(at);
  }, 1_000);
  try {
    await Promise.all(idle.map((socket) => once(socket, "connect")));
    while (sent.length < 2) {
      const result = await asPodman("lookup", { daemon, id });
      expect(result).toMatchObject({ status: 0, stdout: Buffer.from("value"), stderr: "" });
    }
  } finally {
    clearInterval(dripping);
    for (const socket of idle) socket.destroy();
  }
});

describe.concurrent("a socket that somebody else could have put there is not asked", () => {
  type Spoil = (fake: FakeLegerd) => void;
  const rows: [string, boolean, Spoil, string | RegExp][] = [
    [
      "a directory that others may write to",
      true,
      ({ socket }) => chmodSync(dirname(socket), 0o777),
      "others may write",
    ],
    [
      "a socket that others may connect to",
      true,
      ({ socket }) => chmodSync(socket, 0o666),
      "others may connect",
    ],
    [
      "a socket of somebody else's",
      uid === 0,
      ({ socket }) => chownSync(socket, 4_711, 4_711),
      "belongs to user",
    ],
    [
      "a directory of somebody else's",
      uid === 0,
      ({ socket }) => chownSync(dirname(socket), 4_711, 4_711),
      "belongs to user",
    ],
    ["a symlink for a socket", true, ({ socket }) => moved(socket), "not a socket"],
    ["a symlink for a directory", true, ({ socket }) => moved(dirname(socket)), "not a directory"],
    ["a file for a socket", true, ({ socket }) => replaced(socket), "not a socket"],
  ];
  for (const [title, possible, spoil, why] of rows) {
    test.skipIf(!possible)(title, async () => {
      await using fake = await startFakeLegerd((socket) => socket.end(`${HEAD}Content-Length: 1\r\n\r\nx`));
      const id = podmanId();
      const before = await inProcess(["driver", "lookup"], { daemon: fake, env: { SECRET_ID: id } });
      expect(before).toMatchObject({ status: 0, stdout: "x" });
      spoil(fake);
      const result = await asPodman("lookup", { daemon: fake, id });
      expect(result).toMatchObject({ status: 77, stdout: Buffer.alloc(0) });
      expectSpoken(result.stderr, why);
      expect(fake.requests).toHaveLength(1);
    });
  }

  test("a door for a group is asked where it is named, and only there", async () => {
    await using fake = await startFakeLegerd((socket) => socket.end(`${HEAD}Content-Length: 1\r\n\r\nx`));
    chmodSync(fake.socket, 0o660);
    const env = { SECRET_ID: podmanId() };
    expect(await shell(`leger driver lookup --socket ${fake.socket}`, { daemon: fake, env })).toMatchObject({
      status: 0,
      stdout: "x",
    });
    expect(await shell("leger driver lookup", { daemon: fake, env })).toMatchObject({
      status: 77,
      stdout: "",
    });
  });
});

test.for(["lookup", "store", "delete", "list"] as const)(
  "%s without a daemon says how to start one",
  async (verb) => {
    using places = makePlaces();
    mkdirSync(dirname(places.socket), { mode: 0o700 });
    const result = await asPodman(verb, { daemon: places, id: podmanId(), stdin: Buffer.from(CANARY) });
    expect(result).toMatchObject({ status: 69, stdout: Buffer.alloc(0) });
    expectSpoken(result.stderr, `legerd at ${places.socket}: no socket there`);
    expect(result.stderr).toContain("systemctl --user start legerd.socket");
  },
);

test("a socket that a killed daemon left says that nobody listens", async () => {
  using places = makePlaces();
  const killed = await spawnLegerd(places);
  await killed[Symbol.asyncDispose]();
  const result = await asPodman("lookup", { daemon: places, id: podmanId() });
  expect(result).toMatchObject({ status: 69, stdout: Buffer.alloc(0) });
  expectSpoken(result.stderr, `legerd at ${places.socket}: nobody listens`);
});

describe("a failed lookup calls the entry what Podman calls it", () => {
  const id = podmanId();
  const list = (name: unknown): string => JSON.stringify({ secrets: {}, idToName: { [id]: name } });
  const lookUp = async (places: Places, make: (file: string) => void, variable: "HOME" | "XDG_DATA_HOME") => {
    const data = join(places.base, variable === "HOME" ? ".local/share" : "");
    const directory = join(data, "containers/storage/secrets");
    mkdirSync(directory, { recursive: true });
    make(join(directory, "secrets.json"));
    mkdirSync(dirname(places.socket), { mode: 0o700 });
    const result = await asPodman("lookup", { daemon: places, id, env: { [variable]: places.base } });
    expect(result).toMatchObject({ status: 69, stdout: Buffer.alloc(0) });
    expectSpoken(result.stderr, "look up ");
    return result.stderr.split("\n", 1)[0];
  };

  test.for(["HOME", "XDG_DATA_HOME"] as const)("as its list says, found by %s", async (variable) => {
    using places = makePlaces();
    const said = await lookUp(places, (file) => writeFileSync(file, list("openai_api_key")), variable);
    expect(said).toContain(`error: look up openai_api_key (${id}): legerd at ${places.socket}: `);
  });

  test.for<[string, (file: string) => void]>([
    ["is not there", () => {}],
    ["is damaged", (file) => writeFileSync(file, list("openai_api_key").slice(0, -5))],
    ["doesn't know it", (file) => writeFileSync(file, list(undefined))],
    ["has no name for it", (file) => writeFileSync(file, list({}))],
    ["has a name with colours", (file) => writeFileSync(file, list("\u001b[31mred"))],
    ["is something else", (file) => writeFileSync(file, "null")],
    ["is a pipe", (file) => execFileSync("mkfifo", [file])],
    ["is a directory", (file) => mkdirSync(file)],
  ])("and else by its id alone: the list %s", async ([, make]) => {
    using places = makePlaces();
    expect(await lookUp(places, make, "HOME")).toContain(`error: look up ${id}: legerd at `);
  });
});

describe("a healthcheck's bare environment", () => {
  const place = uid === 0 ? "/run/leger" : `/run/user/${uid}/leger`;

  test("where Podman says whose it is, that user's socket is meant", async () => {
    const env = bare({ _CONTAINERS_ROOTLESS_UID: "3999999999" });
    const result = await asPodman("lookup", { daemon: { runtimeDir: "" }, id: podmanId(), env });
    expect(result).toMatchObject({ status: 69, stdout: Buffer.alloc(0) });
    expectSpoken(result.stderr, "legerd at /run/user/3999999999/leger/legerd.sock: no socket there");
  });

  test.skipIf(!podmanDriver().exact)("with nothing but PATH and SECRET_ID the namespace tells", async () => {
    await using daemon = await startTestLegerd();
    const id = podmanId();
    await asPodman("store", { daemon, id, stdin: Buffer.from("value") });
    const empty = await asPodman("lookup", {
      daemon,
      id,
      env: bare(),
      before: "mount -t tmpfs tmpfs /run",
    });
    expect(empty).toMatchObject({ status: 69, stdout: Buffer.alloc(0) });
    expectSpoken(empty.stderr, `legerd at ${place}/legerd.sock: no socket there`);
    // The daemon's own directory at the place where a daemon of this user's would have it.
    const before = `mount -t tmpfs tmpfs /run && mkdir -p ${place} && mount --bind ${dirname(daemon.socket)} ${place}`;
    const found = await asPodman("lookup", { daemon, id, env: bare(), before });
    expect(found).toMatchObject({ status: 0, stdout: Buffer.from("value"), stderr: "" });
  });
});

function hang(): void {}

function drip(socket: Socket): void {
  socket.write(`${HEAD}Content-Length: 1000\r\n\r\n`);
  const timer = setInterval(() => socket.write("x"), 200);
  socket.on("close", () => clearInterval(timer));
}

function flood(socket: Socket): void {
  const chunk = Buffer.alloc(65_536, "x");
  // A write from the callback of one that failed is queued and fails at once: that would never end.
  const more = (error?: Error | null): void => {
    if (!error && !socket.destroyed) socket.write(chunk, more);
  };
  more();
}

/** All that Podman would give but PATH and SECRET_ID taken away, then this added. */
function bare(env: Record<string, string> = {}): Record<string, string | undefined> {
  return {
    HOME: undefined,
    XDG_RUNTIME_DIR: undefined,
    _CONTAINERS_ROOTLESS_UID: undefined,
    _CONTAINERS_ROOTLESS_GID: undefined,
    _CONTAINERS_USERNS_CONFIGURED: undefined,
    PODMAN_SYSTEMD_UNIT: undefined,
    INVOCATION_ID: undefined,
    NOTIFY_SOCKET: undefined,
    ...env,
  };
}

function page(status: number): string {
  const html = `<!doctype html><title>${CANARY}</title>`;
  return `HTTP/1.1 ${status} Nginx\r\nContent-Type: text/html\r\nContent-Length: ${html.length}\r\n\r\n${html}`;
}

function refusal(json: unknown): string {
  const body = JSON.stringify(json);
  return `HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}

/** What was at `path` is there still, through a symlink. */
function moved(path: string): void {
  renameSync(path, `${path}.real`);
  symlinkSync(`${path}.real`, path);
}

function replaced(path: string): void {
  rmSync(path);
  writeFileSync(path, "", { mode: 0o600 });
}
