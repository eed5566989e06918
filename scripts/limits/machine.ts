/** machine — rows of what the kernel does to legerd: its clock, its sleep, its memory, its watches. */
import { execFileSync, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as http from "node:http";
import * as net from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { isRoot, must, pause, until, type Ground, type Row } from "./ground.ts";

const YEAR_SECONDS = 365 * 24 * 3_600;

async function verifyAudit(daemon: Awaited<ReturnType<Ground["start"]>>): Promise<void> {
  must("the audit log", (await daemon.ask("GET", "/v1/audit/verify")).text, /"ok":true/);
}

/** A port that nobody had a moment ago. */
async function freePort(): Promise<number> {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

export const clock: Row = {
  name: "clock",
  what: "the clock jumps a year ahead, two years back, and right again, under a running legerd",
  missing: () => (spawnSync("cc", ["--version"]).status === 0 ? undefined : "there is no C compiler (cc)"),
  async run(ground) {
    const library = path.join(ground.base, "clock.so");
    const source = fileURLToPath(new URL("clock.c", import.meta.url));
    execFileSync("cc", ["-shared", "-fPIC", "-O1", "-o", library, source]);
    const offset = path.join(ground.base, "clock");
    fs.writeFileSync(offset, Buffer.alloc(8));
    const set = (seconds: number): void => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigInt64LE(BigInt(seconds));
      const fd = fs.openSync(offset, "r+");
      fs.writeSync(fd, bytes);
      fs.closeSync(fd);
    };
    const port = await freePort();
    const host = `127.0.0.1:${port}`;
    const config = path.join(ground.base, "legerd.json");
    const doors = [
      { unix: ground.socket, principal: "owner" },
      { tcp: host, hosts: [host] },
    ];
    fs.writeFileSync(config, JSON.stringify({ doors }));
    const options = { args: ["--config", config], env: { LD_PRELOAD: library, LEGER_CLOCK: offset } };
    const daemon = await ground.start(options);
    const expires = new Date(Date.now() + 30 * 24 * 3_600_000).toISOString();
    const grants = [{ action: ["get"], secret: ["*"] }];
    const made = await daemon.ask("PUT", "/v1/tokens/ci", { body: { grants, expires } });
    const { token }: { token: string } = JSON.parse(made.text);
    const byToken = (): Promise<number | undefined> =>
      new Promise((resolve, reject) => {
        const headers = {
          authorization: `Bearer ${token}`,
          "content-type": "application/json",
          "sec-x-tailscale-no-browsers": "setec",
        };
        const request = http.request(`http://${host}/api/get`, { method: "POST", headers }, (response) => {
          response.resume().on("end", () => resolve(response.statusCode));
        });
        request.on("error", reject).end('{"Name":"a"}');
      });
    let version = 0;
    const use = async (years: number, tokenAnswers: number): Promise<void> => {
      set(years * YEAR_SECONDS);
      version += 1;
      must(`put at ${years} years`, await daemon.put("a", `v${version}`), `200 ${version}`);
      must(`get at ${years} years`, await daemon.get("a"), "200 v1");
      must(`a token of 30 days at ${years} years`, await byToken(), tokenAnswers);
      // The timers that note how far the audit log has come, and tell of repeats, come by meanwhile.
      await pause(1_500);
      must(`health at ${years} years`, (await daemon.ask("GET", "/health")).status, 200);
      await verifyAudit(daemon);
    };
    await use(0, 200);
    await use(1, 401);
    const now = new Date().getUTCFullYear();
    must(
      "the clock that legerd sees",
      fs.readFileSync(`${ground.stateDir}/audit.log`, "utf8").includes(`"time":"${now + 1}-`),
      true,
    );
    await use(-1, 200);
    await use(0, 200);
    set(-YEAR_SECONDS);
    await daemon.stop();
    const again = await ground.start(options);
    must("get after a start a year back", await again.get("a"), "200 v1");
    await verifyAudit(again);
    return {
      served: "reads, changes, audit and starts, at every time",
      refused: "tokens that have ended by the clock as it is then: 401",
      recovers:
        "with the clock, such a token counts again; the audit log verifies, since its order is its numbers' and not its times'",
    };
  },
};

const STOPPED_MS = Number(process.env["LEGER_LIMITS_STOPPED_MS"] ?? 6_000);
const WAITING = 50;
const WRITERS = 4;

export const suspend: Row = {
  name: "suspend",
  what: "legerd is stopped (SIGSTOP) for a while, amid writes, and goes on",
  async run(ground) {
    const daemon = await ground.start();
    must("put", await daemon.put("a", "v1"), "200 1");
    const acknowledged = new Map<string, string>();
    const stopping = new AbortController();
    let cutOff = 0;
    const write = async (writer: number): Promise<void> => {
      for (let n = 0; !stopping.signal.aborted; n += 1) {
        const body = { Name: `w${writer}-${n}`, Value: Buffer.from(`v${n}`).toString("base64") };
        const { status } = await daemon.ask("POST", "/api/put", { body, timeoutMs: STOPPED_MS + 20_000 });
        if (status === 200) acknowledged.set(body.Name, `v${n}`);
        else cutOff += 1;
      }
    };
    const writers = Promise.all(Array.from({ length: WRITERS }, (_, at) => write(at)));
    await until("writes", 5_000, () => acknowledged.size > 20);
    daemon.child.kill("SIGSTOP");
    const body = { Name: "a" };
    const patient = Array.from({ length: WAITING }, () =>
      daemon.ask("POST", "/api/get", { body, timeoutMs: STOPPED_MS + 20_000 }),
    );
    const driverLike = await daemon.ask("POST", "/api/get", { body, timeoutMs: 4_000 });
    must("who waits no longer than Podman's driver", driverLike.text, /did not answer within 4 s/);
    await pause(Math.max(0, STOPPED_MS - 4_000));
    daemon.child.kill("SIGCONT");
    for (const { status } of await Promise.all(patient)) must("who waited", status, 200);
    stopping.abort();
    await writers;
    // One request of each was on its way; Node gives up on one that it accepted more than 10 s ago and has not read.
    must("writes that were cut off", cutOff <= (STOPPED_MS < 10_000 ? 0 : WRITERS), true);
    for (const [name, value] of acknowledged)
      must(`what was acknowledged, ${name}`, await daemon.get(name), `200 ${value}`);
    await verifyAudit(daemon);
    return {
      served: `after it goes on, all who waited: ${WAITING} reads, and ${WRITERS - cutOff} of ${WRITERS} writes that were on their way`,
      refused:
        "Podman's driver and leger secrets fetch give up before 5 s are over: did not answer within 4 s (69); after more than 10 s a request that was just coming in is cut off",
      recovers: `at once; ${acknowledged.size} acknowledged writes are there`,
    };
  },
};

const NO_INOTIFY = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"';

export const inotify: Row = {
  name: "inotify",
  what: "there is no inotify instance left",
  missing: () =>
    spawnSync("unshare", ["-Ur", "/bin/sh", "-c", NO_INOTIFY, "sh", "true"]).status === 0
      ? undefined
      : "user namespaces, in which they can be taken away, are not to be had",
  async run(ground) {
    const starter = ["unshare", "-Ur", "/bin/sh", "-c", NO_INOTIFY, "sh"];
    const [program = "", ...words] = starter;
    const control = spawnSync(program, [...words, process.execPath, "-e", "require('fs').watch('/')"], {
      encoding: "utf8",
    });
    must("a program that watches files", control.stderr, /EMFILE/);
    const daemon = await ground.start({ starter });
    must("put", await daemon.put("a", "v1"), "200 1");
    must("get", await daemon.get("a"), "200 v1");
    const service = await daemon.ask("PUT", "/v1/services/web", { body: { variables: { A: "a" } } });
    must("a service", service.status, 200);
    const held = fs
      .readdirSync(`/proc/${daemon.pid}/fd`)
      .map((fd) => fs.readlinkSync(`/proc/${daemon.pid}/fd/${fd}`));
    must("inotify instances that legerd has", held.filter((link) => link.includes("inotify")).length, 0);
    return {
      served: "everything: legerd watches no file by inotify; certificates are looked at every 5 s",
      refused: "nothing",
      recovers: "nothing to recover from",
    };
  },
};

const MEMORY_BYTES = 200 * 1024 * 1024;
const MEMORY_ROUNDS = 60;

/** Where a memory cgroup can be made: its directory and the file that bounds it. */
function memoryCgroups(): { root: string; file: string } | undefined {
  if (fs.existsSync("/sys/fs/cgroup/memory/memory.limit_in_bytes")) {
    return { root: "/sys/fs/cgroup/memory", file: "memory.limit_in_bytes" };
  }
  const controllers = "/sys/fs/cgroup/cgroup.subtree_control";
  const has = fs.existsSync(controllers) && fs.readFileSync(controllers, "utf8").includes("memory");
  return has ? { root: "/sys/fs/cgroup", file: "memory.max" } : undefined;
}

export const memory: Row = {
  name: "memory",
  what: `a memory limit of ${MEMORY_BYTES / 1024 ** 2} MiB, as a unit's MemoryMax= sets it, and requests that need more`,
  missing() {
    if (!isRoot()) return "root is needed, to make a cgroup";
    return memoryCgroups() === undefined ? "there is no memory cgroup to be had" : undefined;
  },
  async run(ground) {
    const { root, file } = memoryCgroups() ?? { root: "", file: "" };
    const cgroup = path.join(root, path.basename(ground.base));
    fs.mkdirSync(cgroup);
    ground.atEnd(async () => {
      await until(
        "the cgroup is empty",
        5_000,
        () => fs.readFileSync(`${cgroup}/cgroup.procs`, "utf8") === "",
      );
      fs.rmdirSync(cgroup);
    });
    fs.writeFileSync(path.join(cgroup, file), String(MEMORY_BYTES));
    const starter = ["/bin/sh", "-c", `echo $$ > ${cgroup}/cgroup.procs && exec "$@"`, "sh"];
    const daemon = await ground.start({ starter });
    const acknowledged: string[] = [];
    const told = new Set<string>();
    const value = "x".repeat(700_000);
    for (let round = 1; round <= MEMORY_ROUNDS && !hasEnded(daemon); round += 1) {
      const puts = Array.from({ length: round * 8 }, async (_, at) => {
        const answer = await daemon.put(`r${round}-${at}`, `${round}-${at}-${value}`);
        if (answer === "200 1") acknowledged.push(`r${round}-${at}`);
        else told.add(answer);
      });
      await Promise.all(puts);
    }
    must("it was killed", daemon.child.signalCode, "SIGKILL");
    const again = await ground.start({ starter });
    for (const name of acknowledged) {
      must(
        `what was acknowledged, ${name}`,
        (await again.get(name)).startsWith(`200 ${name.slice(1)}-x`),
        true,
      );
    }
    must("a put", await again.put("after", "v1"), "200 1");
    await verifyAudit(again);
    return {
      served: `${acknowledged.length} puts of 700 kB, more and more at once, until the kernel killed it`,
      refused: `what was under way: ${[...told].join("; ").replaceAll(ground.base, "…")}`,
      recovers:
        "systemd starts it again (Restart=on-failure); all that was acknowledged is there, the audit log verifies",
    };
  },
};

function hasEnded({ child }: Awaited<ReturnType<Ground["start"]>>): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}
