import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempDisposableSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Secret } from "../../src/core/secret.ts";
import { filesHolding, processesHolding } from "../support/canary.ts";
import { parseEnvFile } from "../support/env-parsers.ts";
import { startTestLegerd, type TestLegerd } from "../support/legerd.ts";
import {
  CANARY,
  expectSpoken,
  inProcess,
  podmanDriver,
  shell,
  startFakeLegerd,
} from "../support/podman-driver.ts";

const TMPFS_MAGIC = 0x0102_1994;
const onTmpfs = (path: string): boolean => existsSync(path) && statfsSync(path).type === TMPFS_MAGIC;
const memory = ["/dev/shm", `/run/user/${process.geteuid?.()}`].find(onTmpfs);
const uid = process.geteuid?.() ?? 0;
const KEY = `${CANARY} # "key" `;

const mode = (path: string): number => lstatSync(path).mode & 0o7777;
const keysOf = (path: string) => Object.fromEntries(parseEnvFile(readFileSync(path), "podman"));

// Without tmpfs there is nothing to test but the refusal.
describe.skipIf(memory === undefined)("an env file", () => {
  let daemon: TestLegerd;
  /** A runtime directory on tmpfs, fresh for each test; the daemon listens elsewhere. */
  let runtime: { path: string; remove: () => void };

  beforeAll(async () => {
    const secrets = {
      "leger/local/key": KEY,
      "leger/local/lines": "one\ntwo",
      "leger/local/raw": Uint8Array.of(255),
    };
    daemon = await startTestLegerd(secrets, { foldMs: 0 });
    await setService("web", { OPENAI_API_KEY: "leger/local/key", OTHER: "leger/local/key" });
    await setService("lines", { CERTIFICATE: "leger/local/lines" });
    await setService("raw", { SEED: "leger/local/raw" });
    await setService("none", {});
    await setService("broken", { OPENAI_API_KEY: "leger/local/key", HF_TOKEN: "leger/local/missing" });
  });
  afterAll(() => daemon[Symbol.asyncDispose]());
  beforeEach(() => {
    runtime = mkdtempDisposableSync(join(memory ?? tmpdir(), "leger-fetch-"));
  });
  afterEach(() => runtime.remove());

  async function setService(name: string, variables: Record<string, string>): Promise<void> {
    const body = JSON.stringify({ variables });
    const answer = await daemon.client.request({
      method: "PUT",
      path: `/v1/services/${name}`,
      what: "set",
      body,
    });
    expect(answer.status).toBe(200);
  }

  type World = { env?: Record<string, string | undefined>; cgroup?: string };

  /** leger secrets fetch …, in this process. */
  function fetch(line: string, { env = {}, ...world }: World = {}) {
    const argv = ["secrets", "fetch", ...line.split(" ")];
    return inProcess(argv, {
      daemon: { runtimeDir: runtime.path },
      env: { LEGER_SOCKET: daemon.socket, ...env },
      ...world,
    });
  }

  /** leger secrets fetch … and more, by a shell. */
  function sh(script: string) {
    return shell(script, { daemon: { runtimeDir: runtime.path }, env: { LEGER_SOCKET: daemon.socket } });
  }

  const own = (service = "web"): string => join(runtime.path, "leger/env", `${service}.env`);

  test.for(["fetch", "fetch-for-service"])(
    "leger secrets %s writes it for us alone, without a word",
    async (command) => {
      const result = await sh(`umask 0; leger secrets ${command} web`);
      expect(result).toMatchObject({ status: 0, stdout: "", stderr: "" });
      expect(keysOf(own())).toEqual({ OPENAI_API_KEY: KEY, OTHER: KEY });
      expect([mode(own()), mode(join(runtime.path, "leger/env")), mode(join(runtime.path, "leger"))]).toEqual(
        [0o600, 0o700, 0o700],
      );
      expect(readdirSync(join(runtime.path, "leger/env"))).toEqual(["web.env"]);
      expect(filesHolding(CANARY, runtime.path)).toEqual([`${own()} (mode 600)`]);
      expect(filesHolding(CANARY, daemon.base)).toEqual([]);
    },
  );

  test("it goes where --dir says, also into the runtime directory itself, and --print-path tells", async () => {
    const result = await sh(
      `cat "$(leger secrets fetch web --dir ${runtime.path} --print-path)"; leger secrets fetch web --dir=${runtime.path}/ --print-path`,
    );
    const path = join(runtime.path, "web.env");
    expect(result).toMatchObject({
      status: 0,
      stderr: "",
      stdout: `${readFileSync(path, "latin1")}${path}\n`,
    });
    expect(mode(path)).toBe(0o600);
    expect(readdirSync(runtime.path)).toEqual(["web.env"]);
  });

  test("a directory that is meant from here is found", async () => {
    const result = await sh(`cd ${runtime.path} && leger secrets fetch web --dir . --print-path`);
    expect(result).toMatchObject({ status: 0, stdout: `${runtime.path}/web.env\n` });
  });

  test("systemd reads its dialect back, several lines and all", async () => {
    expect(await fetch("lines --dialect systemd")).toMatchObject({ status: 0, stdout: "", stderr: "" });
    expect(Object.fromEntries(parseEnvFile(readFileSync(own("lines")), "systemd"))).toEqual({
      CERTIFICATE: "one\ntwo",
    });
  });

  test("a service without variables gets an empty one", async () => {
    expect(await fetch("none")).toMatchObject({ status: 0, stderr: "" });
    expect(readFileSync(own("none"))).toHaveLength(0);
  });

  test("after a rotation the next fetch replaces it", async () => {
    await daemon.client.put("leger/local/turning", new Secret(Buffer.from("first")));
    await setService("turning", { KEY: "leger/local/turning" });
    await fetch("turning");
    const version = await daemon.client.put("leger/local/turning", new Secret(Buffer.from("second")));
    await daemon.client.activate("leger/local/turning", version);
    await fetch("turning");
    expect(keysOf(own("turning"))).toEqual({ KEY: "second" });
  });

  describe("stays as it was", () => {
    const OLDER = "OLDER=file\n";

    async function expectOlderStays(
      line: string,
      status: number,
      why: string | RegExp,
      env = {},
    ): Promise<void> {
      const service = line.split(" ")[0] ?? "";
      mkdirSync(join(runtime.path, "leger/env"), { recursive: true, mode: 0o700 });
      writeFileSync(own(service), OLDER, { mode: 0o600 });
      const result = await fetch(line, { env });
      expect(result).toMatchObject({ status, stdout: "" });
      expectSpoken(result.stderr, why);
      expect(readFileSync(own(service), "utf8")).toBe(OLDER);
      expect(readdirSync(join(runtime.path, "leger/env"))).toEqual([`${service}.env`]);
    }

    test.for([
      ["the service is unknown", "nowhere", 66, "service nowhere: not found"],
      ["a secret is missing", "broken", 66, "leger/local/missing"],
      ["a value has several lines", "lines", 65, /CERTIFICATE \(leger\/local\/lines\).*several lines/],
      ["a value is not UTF-8", "raw", 65, /SEED \(leger\/local\/raw\).*not UTF-8/],
    ] as const)("when %s", async ([, service, status, why]) => {
      await expectOlderStays(service, status, why);
    });

    test("when the daemon is down", async () => {
      const env = { LEGER_SOCKET: join(runtime.path, "nobody.sock") };
      await expectOlderStays("web", 69, `legerd at ${env.LEGER_SOCKET}: no socket there`, env);
    });

    const OK = "HTTP/1.1 200 OK\r\n";
    const PLAIN = `${OK}Content-Type: text/plain; charset=utf-8\r\n`;
    test.for([
      ["nothing", ""],
      ["half of it", `${PLAIN}leger-versions: KEY=1\r\nContent-Length: 100\r\n\r\nKEY=${CANARY}`],
      ["more than it says", `${PLAIN}leger-versions: KEY=1\r\nContent-Length: 3\r\n\r\nKEY=${CANARY}`],
      ["it without a length", `${PLAIN}leger-versions: KEY=1\r\n\r\nKEY=${CANARY}`],
      [
        "a web page",
        `${OK}Content-Type: text/html\r\nleger-versions: KEY=1\r\nContent-Length: 6\r\n\r\n<html>`,
      ],
      ["JSON", `${OK}Content-Type: application/json\r\nleger-versions: KEY=1\r\nContent-Length: 2\r\n\r\n{}`],
      ["a stranger's text", `${PLAIN}Content-Length: 6\r\n\r\nKEY=1\n`],
      [
        "text, but not as a success",
        "HTTP/1.1 203 Maybe\r\nContent-Type: text/plain\r\nleger-versions: K=1\r\nContent-Length: 4\r\n\r\nK=1\n",
      ],
    ] as const)("when something answers %s", async ([, answer]) => {
      await using fake = await startFakeLegerd((socket) => socket.end(answer));
      await expectOlderStays("web", 69, "fetch web: legerd gave an answer that cannot be used", {
        LEGER_SOCKET: fake.socket,
      });
    });

    test.skipIf(!podmanDriver().exact)("when its tmpfs is full", async () => {
      await daemon.client.put("leger/local/large", new Secret(Buffer.alloc(60_000, "k")));
      await setService("large", { KEY: "leger/local/large" });
      const script = `unshare --user --map-root-user --mount sh -c '
        mount -t tmpfs -o size=128k,mode=0700 tmpfs "$XDG_RUNTIME_DIR" && leger secrets fetch web || exit 99
        head -c 90000 /dev/zero > "$XDG_RUNTIME_DIR/filler"
        cd "$XDG_RUNTIME_DIR/leger/env" && cp web.env large.env && leger secrets fetch large; status=$?
        cmp web.env large.env && ls -A; exit $status'`;
      const result = await sh(script);
      expect(result).toMatchObject({ status: 74, stdout: "large.env\nweb.env\n" });
      expectSpoken(result.stderr, /cannot write .*large\.env: no space left \(ENOSPC\)/);
    });
  });

  async function expectUnasked(line: string, status: number, why: string | RegExp): Promise<void> {
    await using fake = await startFakeLegerd((socket) => socket.destroy());
    const result = await fetch(line, { env: { LEGER_SOCKET: fake.socket } });
    expect(result).toMatchObject({ status, stdout: "" });
    expectSpoken(result.stderr, why);
    // No secret leaves the daemon for a place where it cannot stay.
    expect(fake.requests).toEqual([]);
  }

  describe("is not written", () => {
    test("where there is no runtime directory", async () => {
      runtime.remove();
      await expectUnasked("web", 74, `${runtime.path} does not exist`);
      mkdirSync(runtime.path);
    });

    test("where --dir does not exist", async () => {
      await expectUnasked(`web --dir ${runtime.path}/a/b`, 74, "does not exist");
    });

    test("through a symlink for a directory", async () => {
      mkdirSync(join(runtime.path, "real"), { mode: 0o700 });
      symlinkSync("real", join(runtime.path, "leger"));
      await expectUnasked("web", 77, "symlink");
      await expectUnasked(`web --dir ${runtime.path}/leger`, 77, "symlink");
      expect(readdirSync(join(runtime.path, "real"))).toEqual([]);
    });

    test("into a directory that others may write to", async () => {
      chmodSync(runtime.path, 0o777);
      await expectUnasked("web", 77, "others may write to it");
    });

    test.skipIf(uid !== 0)("into a directory of somebody else's", async () => {
      chownSync(runtime.path, 4_711, 4_711);
      await expectUnasked("web", 77, "belongs to user 4711");
    });

    test.for(["../web", "a/b", ".web", "", "web\n", "w".repeat(129), "ünit"])(
      "for the service %j",
      async (service) => {
        const result = await inProcess(["secrets", "fetch", service], { daemon, env: {} });
        expect(result).toMatchObject({ status: 64, stdout: "" });
        expectSpoken(result.stderr, "is not a name for a service");
      },
    );
  });

  test("a symlink planted in its place is replaced, and what it points to stays", async () => {
    const victim = join(runtime.path, "victim");
    writeFileSync(victim, "precious");
    symlinkSync(victim, join(runtime.path, "web.env"));
    expect(await fetch(`web --dir ${runtime.path}`)).toMatchObject({ status: 0 });
    expect(readFileSync(victim, "utf8")).toBe("precious");
    expect(lstatSync(join(runtime.path, "web.env")).isFile()).toBe(true);
  });

  test("a directory planted in its place is refused", async () => {
    mkdirSync(join(runtime.path, "web.env"));
    const result = await fetch(`web --dir ${runtime.path}`);
    expect(result).toMatchObject({ status: 77, stdout: "" });
    expectSpoken(result.stderr, "it is a directory");
    expect(readdirSync(runtime.path)).toEqual(["web.env"]);
  });

  describe("is removed", () => {
    const gone = { LEGER_SOCKET: "/nonexistent/legerd.sock" };

    test("without a daemon, and what a killed writer left with it", async () => {
      await fetch("web");
      writeFileSync(join(runtime.path, "leger/env/.web.env.4711-abc.tmp"), KEY);
      await fetch("none");
      expect(await fetch("web --remove", { env: gone })).toMatchObject({ status: 0, stdout: "", stderr: "" });
      expect(readdirSync(join(runtime.path, "leger/env"))).toEqual(["none.env"]);
    });

    test("from --dir, by the process that a unit would run", async () => {
      const result = await sh(
        `leger secrets fetch web --dir ${runtime.path} && LEGER_SOCKET=/nonexistent leger secrets fetch web --dir ${runtime.path} --remove`,
      );
      expect(result).toMatchObject({ status: 0, stdout: "", stderr: "" });
      expect(readdirSync(runtime.path)).toEqual([]);
    });

    test("also when it isn't there, nor its directory, which is not made", async () => {
      expect(await fetch("web --remove", { env: gone })).toMatchObject({ status: 0, stderr: "" });
      expect(await fetch(`web --remove --dir ${runtime.path}`, { env: gone })).toMatchObject({
        status: 0,
        stderr: "",
      });
      expect(readdirSync(runtime.path)).toEqual([]);
    });

    test("as the symlink that somebody made of it", async () => {
      const victim = join(runtime.path, "victim");
      writeFileSync(victim, "precious");
      symlinkSync(victim, join(runtime.path, "web.env"));
      expect(await fetch(`web --remove --dir ${runtime.path}`)).toMatchObject({ status: 0 });
      expect(readdirSync(runtime.path)).toEqual(["victim"]);
    });

    test("but not where it is a directory", async () => {
      mkdirSync(join(runtime.path, "web.env"));
      const result = await fetch(`web --remove --dir ${runtime.path}`);
      expect(result.status).not.toBe(0);
      expectSpoken(result.stderr, "web.env");
    });
  });

  test.for([
    ["the unit that Podman or a quadlet names", { PODMAN_SYSTEMD_UNIT: "web.service" }, "", "web.service"],
    [
      "the service whose cgroup it is in",
      {},
      "0::/user.slice/user@1000.service/app.slice/chat.service\n",
      "chat.service",
    ],
    ["a service's inner cgroup", {}, "0::/system.slice/chat.service/libpod-payload-1\n", "chat.service"],
    [
      "systemd's line among those of cgroup v1",
      {},
      "9:cpu:/x.service\n1:name=systemd:/chat.service\n",
      "chat.service",
    ],
    ["nothing, for a terminal", {}, "0::/user.slice/user@1000.service/app.slice/term-1.scope\n", undefined],
    ["nothing, for nonsense", { PODMAN_SYSTEMD_UNIT: "a b" }, "0::/chat.service\n", undefined],
  ] as const)("the audit log says that %s asked", async ([, env, cgroup, unit]) => {
    const invocation = "8c3e2bd2f1a04f2b9a1de4c0b7a65f10";
    expect(await fetch("web", { env: { INVOCATION_ID: invocation, ...env }, cgroup })).toMatchObject({
      status: 0,
    });
    const line = readFileSync(join(daemon.stateDir, "audit.log"), "utf8").trimEnd().split("\n").at(-1) ?? "";
    const entry: unknown = JSON.parse(line);
    expect(entry).toMatchObject({ action: "get", secret: "leger/local/key", service: "web", invocation });
    if (unit === undefined) expect(entry).not.toHaveProperty("unit");
    else expect(entry).toHaveProperty("unit", unit);
  });

  test("no process carries a value where others see it", async () => {
    const seen: ReturnType<typeof processesHolding>[] = [];
    await using fake = await startFakeLegerd((socket) => {
      const body = `KEY=${CANARY}\n`;
      const head = `HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nleger-versions: KEY=1\r\nContent-Length: ${body.length}\r\n\r\n`;
      socket.write(`${head}${body.slice(0, 8)}`, () => {
        seen.push(processesHolding(CANARY, "--print-path"));
        socket.end(body.slice(8));
      });
    });
    const result = await sh(`leger secrets fetch web --socket ${fake.socket} --print-path`);
    expect(result).toMatchObject({ status: 0, stdout: `${own()}\n`, stderr: "" });
    expect(seen[0]?.looked).toContain("--print-path");
    expect(seen[0]?.holding).toEqual([]);
    expect(keysOf(own())).toEqual({ KEY: CANARY });
  });

  const disk = [tmpdir(), import.meta.dirname].find((path) => !onTmpfs(path));
  test.skipIf(disk === undefined)("a directory on a disk is refused, unless --allow-disk", async () => {
    using directory = mkdtempDisposableSync(join(disk ?? "", "leger-fetch-"));
    const refused = await fetch(`web --dir ${directory.path}`);
    expect(refused).toMatchObject({ status: 77, stdout: "" });
    expectSpoken(refused.stderr, "it is not on tmpfs");
    expect(refused.stderr).toContain("--allow-disk");
    expect(readdirSync(directory.path)).toEqual([]);
    expect(await fetch(`web --dir ${directory.path} --allow-disk`)).toMatchObject({ status: 0, stderr: "" });
    expect(mode(join(directory.path, "web.env"))).toBe(0o600);
    rmSync(join(directory.path, "web.env"));
  });

  test.for([
    ["fetch", "no service"],
    ["fetch a b", "too many arguments"],
    ["fetch a --quick", "unknown option '--quick'"],
    ["fetch a --dir", "--dir needs a value after it"],
    ["fetch a --dir=", "--dir is empty"],
    ["fetch a --dialect docker", 'unknown dialect "docker"'],
    ["fetch a --remove --print-path", "exclude each other"],
    ["fetch-for-service a --remove=yes", "--remove takes no value"],
  ] as const)("leger secrets %s is refused with advice", async ([line, why]) => {
    const result = await inProcess(["secrets", ...line.split(" ")], { daemon });
    expect(result).toMatchObject({ status: 64, stdout: "" });
    expectSpoken(result.stderr, why);
    expect(result.stderr).toContain("leger: hint: see leger secrets fetch --help");
  });

  test("--help tells how", async () => {
    const result = await fetch("--help");
    expect(result).toMatchObject({ status: 0, stderr: "" });
    expect(result.stdout).toContain("ExecStartPre=/usr/bin/leger secrets fetch openwebui");
  });
});
