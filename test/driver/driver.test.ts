import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { referenceTo } from "../../src/core/reference.ts";
import { Secret } from "../../src/core/secret.ts";
import { filesHolding, processesHolding } from "../support/canary.ts";
import { startTestLegerd, type TestLegerd } from "../support/legerd.ts";
import {
  asPodman,
  CANARY,
  expectSpoken,
  inProcess,
  podmanId,
  shell,
  startFakeLegerd,
} from "../support/podman-driver.ts";

let daemon: TestLegerd;
beforeAll(async () => {
  daemon = await startTestLegerd({ "leger/local/db": CANARY });
});
afterAll(() => daemon[Symbol.asyncDispose]());

/** Makes an entry of Podman's stand for this secret. */
async function link(id: string, secret: string): Promise<void> {
  const stdin = Buffer.from(referenceTo(secret));
  const stored = await inProcess(["driver", "store"], { daemon, env: { SECRET_ID: id }, stdin });
  expect(stored).toEqual({ status: 0, stdout: "", stderr: "" });
}

async function entryFor(secret: string): Promise<string> {
  const id = podmanId();
  await link(id, secret);
  return id;
}

// One after the other: each program has 5 s from its start, and many that start at once on a busy machine have less of them.
describe("what is stored is what is looked up", () => {
  test.for([
    ["one word", Buffer.from("sk-1234")],
    ["several lines with one at the end", Buffer.from("abc\n123\ndef\n")],
    ["a newline and nothing else", Buffer.from("\n")],
    ["NUL and bytes that are not UTF-8", Buffer.from([0, 255, 10, 0, 0xc3, 13, 0x80])],
    ["every byte", Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))],
    ["# and quotes, spaces at the ends", Buffer.from(` \t# "quoted" 'and' \`so\` $HOME \\n=\r `)],
    ["a line of 64 KiB", Buffer.alloc(64 * 1024, "k")],
    ["511,999 bytes, the most that Podman takes", Buffer.alloc(511_999, "0123456789\n")],
  ] as const)("%s", async ([title, value]) => {
    const name = `leger/local/${title.replaceAll(/\W/g, "_")}`;
    await daemon.client.put(name, new Secret(value));
    const [own, reference] = [podmanId(), podmanId()];
    const stored = await asPodman("store", { daemon, id: own, stdin: value });
    expect(stored).toMatchObject({ status: 0, stdout: Buffer.alloc(0), stderr: "" });
    const { status, stdout, stderr } = await asPodman("lookup", { daemon, id: own });
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout.equals(value)).toBe(true);
    await link(reference, name);
    const referred = await inProcess(["driver", "lookup"], { daemon, env: { SECRET_ID: reference } });
    expect(referred).toMatchObject({ status: 0, stderr: "" });
    expect(Buffer.from(referred.stdout, "latin1").equals(value)).toBe(true);
  });
});

test.for([1_000, 0, -600])(
  "a start that left %i ms still reads what came, and warns of nothing",
  async (remainingMs) => {
    const warnings: string[] = [];
    const note = (warning: Error): void => void warnings.push(warning.name);
    process.on("warning", note);
    try {
      const world = { daemon, env: { SECRET_ID: podmanId() }, stdin: Buffer.from("value"), remainingMs };
      // legerd has a tenth of a second left for its answer: on a busy machine that may be too short.
      expect((await inProcess(["driver", "store"], world)).stderr).not.toContain("standard input");
      // Node tells of a warning on its next tick.
      await new Promise((resolve) => {
        setImmediate(resolve);
      });
      expect(warnings).toEqual([]);
    } finally {
      process.off("warning", note);
    }
  },
);

test("a rotation is seen by the next start, and so is a rollback; one start sees neither", async () => {
  const name = "leger/local/rotated";
  await daemon.client.put(name, new Secret(Buffer.from("first")));
  const id = await entryFor(name);
  const version = await daemon.client.put(name, new Secret(Buffer.from("second")));
  expect((await asPodman("lookup", { daemon, id })).stdout.toString()).toBe("first");
  await daemon.client.activate(name, version);
  expect((await asPodman("lookup", { daemon, id })).stdout.toString()).toBe("second");
  await daemon.client.activate(name, 1);
  expect((await asPodman("lookup", { daemon, id })).stdout.toString()).toBe("first");
  const env = { INVOCATION_ID: "8c3e2bd2f1a04f2b9a1de4c0b7a65f10" };
  expect((await asPodman("lookup", { daemon, id, env })).stdout.toString()).toBe("first");
  await daemon.client.activate(name, version);
  expect((await asPodman("lookup", { daemon, id, env })).stdout.toString()).toBe("first");
  expect((await asPodman("lookup", { daemon, id })).stdout.toString()).toBe("second");
});

test("deleting an entry forgets it and leaves the secret", async () => {
  const id = await entryFor("leger/local/db");
  expect((await asPodman("list", { daemon })).stdout.toString().split("\n")).toContain(id);
  expect(await asPodman("delete", { daemon, id })).toMatchObject({
    status: 0,
    stdout: Buffer.alloc(0),
    stderr: "",
  });
  expect((await asPodman("list", { daemon })).stdout.toString()).not.toContain(id);
  expect((await daemon.client.get("leger/local/db")).version).toBe(1);
  // Podman could never drop an entry that a second delete refuses.
  expect(await asPodman("delete", { daemon, id })).toMatchObject({
    status: 0,
    stdout: Buffer.alloc(0),
    stderr: "",
  });
});

test("a value of an entry's own is deleted with it", async () => {
  const id = podmanId();
  await asPodman("store", { daemon, id, stdin: Buffer.from("own value") });
  expect((await asPodman("lookup", { daemon, id })).stdout.toString()).toBe("own value");
  await asPodman("delete", { daemon, id });
  const gone = await asPodman("lookup", { daemon, id });
  expect(gone).toMatchObject({ status: 66, stdout: Buffer.alloc(0) });
  expectSpoken(gone.stderr, id);
});

test("a lookup of a secret that is gone names it", async () => {
  await daemon.client.put("leger/local/gone", new Secret(Buffer.from("x")));
  const id = await entryFor("leger/local/gone");
  await daemon.client.delete("leger/local/gone");
  const result = await asPodman("lookup", { daemon, id });
  expect(result).toMatchObject({ status: 66, stdout: Buffer.alloc(0) });
  expectSpoken(result.stderr, "leger/local/gone");
  expect(result.stderr).toContain(id);
});

describe.concurrent("an id that isn't one of Podman's, through the shell", () => {
  test.for([
    ["lookup", "", 64],
    ["lookup", "two\nlines\r\nX-Evil: $(id) '", 64],
    ["lookup", "0123456789abcdef012345678", 66],
    ["store", "", 64],
    // Were it to succeed, Podman would drop another entry (podman#27130).
    ["delete", "", 1],
    ["delete", undefined, 1],
  ] as const)("%s of %j ends with status %i", async ([verb, id, status]) => {
    const call = { daemon, ...(verb === "store" ? { stdin: Buffer.from("v") } : {}) };
    const result = await asPodman(verb, id === undefined ? call : { ...call, id });
    expect(result).toMatchObject({ status, stdout: Buffer.alloc(0) });
    expectSpoken(
      result.stderr,
      id === undefined || id === "" ? "SECRET_ID" : JSON.stringify(id).slice(1, -1),
    );
  });
});

test.for([
  ["lookup", undefined, 64],
  ["lookup", "../../etc/passwd", 64],
  ["lookup", "é", 64],
  ["lookup", "a".repeat(65), 64],
  ["lookup", "not-hex-but-sendable", 66],
  ["store", "..", 64],
  ["store", "not-hex-but-sendable", 64],
  ["store", "0123456789ABCDEF012345678", 64],
  ["delete", "../x", 64],
  ["delete", "not-hex-and-unknown", 0],
] as const)("%s of the id %j ends with status %i", async ([verb, id, status]) => {
  const result = await inProcess(["driver", verb], {
    daemon,
    env: { SECRET_ID: id },
    stdin: Buffer.from("v"),
  });
  expect(result).toMatchObject({ status, stdout: "" });
  if (status === 0) expect(result.stderr).toBe("");
  else expectSpoken(result.stderr, id?.slice(0, 64) ?? "SECRET_ID");
});

describe.concurrent("a payload that cannot be kept", () => {
  test.for([
    ["nothing", Buffer.alloc(0), "nothing came on standard input"],
    ["512,000 bytes", Buffer.alloc(512_000, "x"), "smaller than 512000 bytes"],
    ["20 MiB", Buffer.alloc(20 * 1024 * 1024, "x"), "smaller than 512000 bytes"],
    [
      "a reference of a kind we don't know",
      Buffer.from("leger-ref:v9:leger/local/db"),
      "begins like a reference",
    ],
  ] as const)("%s", async ([, stdin, why]) => {
    const id = podmanId();
    const result = await asPodman("store", { daemon, id, stdin });
    expect(result).toMatchObject({ status: 65, stdout: Buffer.alloc(0) });
    expectSpoken(result.stderr, why);
    expect((await asPodman("lookup", { daemon, id })).status).toBe(66);
  });
});

test("the audit log says which unit and which start of it asked", async () => {
  const id = await entryFor("leger/local/db");
  const invocation = "8c3e2bd2f1a04f2b9a1de4c0b7a65f10";
  const env = { PODMAN_SYSTEMD_UNIT: "litellm@1.service", INVOCATION_ID: invocation };
  await asPodman("lookup", { daemon, id, env });
  const line = readFileSync(`${daemon.stateDir}/audit.log`, "utf8").trimEnd().split("\n").at(-1) ?? "";
  expect(JSON.parse(line)).toMatchObject({
    action: "get",
    secret: "leger/local/db",
    version: 1,
    podman_id: id,
    unit: "litellm@1.service",
    invocation,
  });
});

test.for([
  ["line ends", "evil.service\r\nleger-secret-id: x", "1\n2"],
  ["characters that HTTP cannot carry", "ünit.service", "☃"],
  ["nothing", "", ""],
  ["too much", "u".repeat(100_000), "f".repeat(100_000)],
] as const)(
  "a unit and an invocation of %s are left out, and the lookup goes on",
  async ([, unit, invocation]) => {
    const id = await entryFor("leger/local/db");
    const env = { PODMAN_SYSTEMD_UNIT: unit, INVOCATION_ID: invocation };
    const { status, stdout } = await asPodman("lookup", { daemon, id, env });
    expect({ status, stdout: stdout.toString() }).toEqual({ status: 0, stdout: CANARY });
    const line = readFileSync(`${daemon.stateDir}/audit.log`, "utf8").trimEnd().split("\n").at(-1) ?? "";
    expect(JSON.parse(line)).toMatchObject({ podman_id: id });
    expect(line).not.toMatch(/unit|invocation/);
  },
);

test("what a caller's environment would have leger's runtime do is not done", async () => {
  const id = await entryFor("leger/local/db");
  const env = { NODE_OPTIONS: "--require /nonexistent.cjs", NODE_V8_COVERAGE: daemon.base, LEGER_DEBUG: "1" };
  expect(await asPodman("lookup", { daemon, id, env })).toMatchObject({ status: 0, stderr: "" });
});

describe.concurrent("descriptors that are closed or lead nowhere", () => {
  const linked = podmanId();
  const lookup = (redirections: string) =>
    shell(`leger driver lookup ${redirections}`, { daemon, env: { SECRET_ID: linked } });
  beforeAll(() => link(linked, "leger/local/db"));

  test("a lookup without standard output fails", async () => {
    const result = await lookup(">&-");
    expect(result).toMatchObject({ status: 74, stdout: "" });
    expectSpoken(result.stderr, "standard output is closed");
  });

  test("a lookup with nothing open at all fails without a word", async () => {
    expect(await lookup("<&- >&- 2>&-")).toMatchObject({ status: 74, stdout: "", stderr: "" });
  });

  test("a lookup needs neither standard input nor standard error", async () => {
    expect(await lookup("<&- 2>&-")).toMatchObject({ status: 0, stdout: CANARY, stderr: "" });
  });

  test("a full disk behind standard output is told", async () => {
    const result = await lookup("> /dev/full");
    expect(result.status).toBe(74);
    expectSpoken(result.stderr, "cannot write standard output (ENOSPC)");
  });

  test("output may be thrown away on purpose", async () => {
    expect(await lookup("> /dev/null")).toMatchObject({ status: 0, stderr: "" });
  });

  test("a failure that nobody can be told still is one", async () => {
    const result = await shell("leger driver lookup 2>&-", { daemon, env: { SECRET_ID: podmanId() } });
    expect(result).toMatchObject({ status: 66, stdout: "", stderr: "" });
  });

  test("a store without standard input fails", async () => {
    const result = await shell("leger driver store <&-", { daemon, env: { SECRET_ID: podmanId() } });
    expect(result).toMatchObject({ status: 65, stdout: "" });
    expectSpoken(result.stderr, "nothing came on standard input");
  });

  test("a store from a pipe or a file takes all of it", async () => {
    const id = podmanId();
    const env = { SECRET_ID: id };
    const copy = `${daemon.base}/copy`;
    const script = `head -c 300000 /dev/zero | leger driver store && leger driver lookup > ${copy} &&
      leger driver store < ${copy} && leger driver lookup | cksum && cksum < ${copy}`;
    const { status, stdout } = await shell(script, { daemon, env });
    const [first, second] = stdout.split("\n");
    expect({ status, first }).toEqual({ status: 0, first: second });
    expect(first).toContain(" 300000");
  });

  test("a reader that goes away is no reason for words", async () => {
    const id = podmanId();
    await asPodman("store", { daemon, id, stdin: Buffer.alloc(400_000, "x") });
    const result = await shell("{ leger driver lookup; echo status $? >&2; } | true", {
      daemon,
      env: { SECRET_ID: id },
    });
    expect(result).toMatchObject({ stdout: "", stderr: "status 74\n" });
  });
});

test.for([
  ["driver", "no verb"],
  ["driver rotate", "no such verb"],
  ["driver lookup now", "too many arguments"],
  ["driver lookup --sokcet x", "unknown option '--sokcet'"],
  ["driver lookup --socket", "--socket needs a value after it"],
  ["driver lookup --socket=", "--socket: it is empty"],
  ["driver list --help=yes", "--help takes no value"],
] as const)("leger %s is refused with advice", async ([line, why]) => {
  const result = await inProcess(line.split(" "), { daemon, env: { SECRET_ID: podmanId() } });
  expect(result).toMatchObject({ status: 64, stdout: "" });
  expectSpoken(result.stderr, why);
  expect(result.stderr).toContain("leger: hint: ");
});

test.for(["driver --help", "driver lookup --help", "driver -h"])("leger %s tells how", async (line) => {
  const result = await inProcess(line.split(" "), { daemon });
  expect(result).toMatchObject({ status: 0, stderr: "" });
  expect(result.stdout).toContain("leger driver lookup");
});

describe.concurrent("another socket is named", () => {
  test.for([
    ["with --socket PATH", (path: string) => `leger driver list --socket ${path}`],
    ["with --socket=PATH", (path: string) => `leger driver --socket=${path} list`],
    ["from here", (path: string) => `cd ${dirname(path)} && leger driver list --socket legerd.sock`],
    ["in LEGER_SOCKET", (path: string) => `LEGER_SOCKET=${path} leger driver list`],
  ] as const)("%s", async ([, line]) => {
    const result = await shell(line(daemon.socket), { daemon: { runtimeDir: "/nonexistent" } });
    expect(result).toMatchObject({ status: 0, stderr: "" });
  });
});

test("a value never shows in arguments, environments or files", async () => {
  const value = Buffer.from(`${CANARY}-stored-${"x".repeat(1000)}`);
  const id = podmanId();
  await asPodman("store", { daemon, id, stdin: value });
  expect((await asPodman("lookup", { daemon, id })).stdout.equals(value)).toBe(true);
  expect(filesHolding(CANARY, daemon.base)).toEqual([]);
  expect(daemon.log.join("\n")).not.toContain(CANARY);
});

test.for(["store", "lookup"] as const)(
  "%s: no process carries the value where others see it",
  async (verb) => {
    const id = podmanId();
    const seen: ReturnType<typeof processesHolding>[] = [];
    // The driver is at work until it has its answer.
    await using fake = await startFakeLegerd((socket) => {
      const type = verb === "store" ? "application/json" : "application/octet-stream";
      const head = `HTTP/1.1 200 OK\r\nContent-Type: ${type}\r\nleger-version: 1\r\nContent-Length: ${CANARY.length}\r\n\r\n`;
      socket.write(`${head}${CANARY.slice(0, 5)}`, () => {
        seen.push(processesHolding(CANARY, id));
        socket.end(CANARY.slice(5));
      });
    });
    const result = await asPodman(verb, {
      daemon: fake,
      id,
      ...(verb === "store" ? { stdin: Buffer.from(CANARY) } : {}),
    });
    expect(result).toMatchObject({ status: 0, stderr: "" });
    expect(seen).toHaveLength(1);
    expect(seen[0]?.looked).toContain(verb);
    expect(seen[0]?.holding).toEqual([]);
  },
);
