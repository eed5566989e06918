import { spawn } from "node:child_process";
import * as fs from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { holdSocket, legerdCommand } from "../support/activation.ts";
import { makePlaces, type Places } from "../support/legerd.ts";
import { sendRaw } from "../support/raw-http.ts";

/** Stands for systemd's program, which needs a systemd to talk to; what it is given is written to `told`. */
function plantNotifier({ base }: Places, script: string): { bin: string; told: string } {
  const bin = path.join(base, "bin");
  const told = path.join(base, "told");
  fs.mkdirSync(bin);
  fs.writeFileSync(path.join(bin, "systemd-notify"), `#!/bin/sh\ntold='${told}'\n${script}\n`, {
    mode: 0o755,
  });
  return { bin, told };
}

/** Writes all at once, so that a reader never sees half of it. */
const RECORD = 'record() { cat >"$told.part" && mv "$told.part" "$told"; }';

type Run = { pid: number; stderr: () => string; ended: Promise<number | null> };

function start(places: Places, bin: string, command = legerdCommand(places)): Run & Disposable {
  const [file = "", ...args] = command;
  const child = spawn(file, args, {
    stdio: ["ignore", "ignore", "pipe"],
    env: { PATH: `${bin}:/usr/bin:/bin`, HOME: places.base, NOTIFY_SOCKET: "/run/systemd/notify" },
  });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => void (stderr += text));
  const ended = new Promise<number | null>((resolve) => void child.once("close", resolve));
  return {
    pid: child.pid ?? -1,
    stderr: () => stderr,
    ended,
    [Symbol.dispose]: () => void child.kill("SIGKILL"),
  };
}

test("systemd is told once every door is open, by a process that gets nothing else of legerd's", async () => {
  using places = makePlaces();
  fs.mkdirSync(path.dirname(places.socket), { mode: 0o700 });
  const { bin, told } = plantNotifier(
    places,
    `${RECORD}\n{ echo "arguments: $*"; env; for fd in /proc/$$/fd/*; do readlink "$fd"; done; } | record`,
  );
  const legerd = legerdCommand(places);
  const command = [
    "/usr/bin/env",
    `PATH=${bin}:/usr/bin:/bin`,
    "NOTIFY_SOCKET=/run/n",
    "A_SECRET=x",
    ...legerd,
  ];
  await using held = await holdSocket(places.socket, { name: "legerd", command });
  const run = held.run();
  await until(() => fs.existsSync(told));
  const text = fs.readFileSync(told, "utf8");
  expect(text).toContain("arguments: --ready --status=answers at one door\n");
  expect(text).toContain("NOTIFY_SOCKET=/run/n\n");
  expect(text).not.toContain("LISTEN_");
  expect(text).not.toContain("A_SECRET");
  // Its own three are a pipe each or /dev/null; the door's would be a socket beside them.
  const listening = fs.readFileSync("/proc/net/unix", "utf8").split("\n");
  const inode = listening
    .find((line) => line.endsWith(` ${places.socket}`))
    ?.trim()
    .split(/ +/)[6];
  expect(inode).toMatch(/^\d+$/);
  expect(text).not.toContain(`socket:[${inode}]`);
  const status = await sendRaw(places.socket, { method: "GET", path: "/v1/status" });
  process.kill(Number(/"pid":(\d+)/.exec(status.body.toString())?.[1]), "SIGTERM");
  expect(await run).toBe("ended 0");
});

test("what did not get through is said again", async () => {
  using places = makePlaces();
  const script = `${RECORD}\necho x >>"$told.tries"; [ "$(wc -l <"$told.tries")" -lt 3 ] && exit 1; echo yes | record`;
  const { bin, told } = plantNotifier(places, script);
  using run = start(places, bin);
  await until(() => fs.existsSync(told));
  process.kill(run.pid, "SIGTERM");
  expect(await run.ended).toBe(0);
  expect(run.stderr()).not.toContain("error");
});

test.for([
  [
    "cannot reach systemd",
    "echo 'Failed to notify: no such socket' >&2; exit 1",
    "Failed to notify: no such socket",
  ],
  ["is missing", undefined, "systemd-notify: not found"],
] as const)("a legerd whose systemd-notify %s ends, and says so", async ([, script, said]) => {
  using places = makePlaces();
  const bin = script === undefined ? path.join(places.base, "none") : plantNotifier(places, script).bin;
  const [file = "", ...args] = legerdCommand(places);
  // Without /usr/bin, where a real one may be.
  using run = start(places, bin, ["/usr/bin/env", `PATH=${bin}`, file, ...args]);
  expect(await run.ended).toBe(1);
  expect(run.stderr()).toContain(`legerd: error: tell systemd that legerd is ready: systemd-notify`);
  expect(run.stderr()).toContain(said);
  expect(run.stderr()).toContain("legerd: hint: ");
});

test("a stop doesn't wait for a systemd that isn't listening", async () => {
  using places = makePlaces();
  const { bin, told } = plantNotifier(places, `${RECORD}\necho $$ | record; exec sleep 100`);
  using run = start(places, bin);
  await until(() => fs.existsSync(told));
  const notifier = Number(fs.readFileSync(told, "utf8"));
  process.kill(run.pid, "SIGTERM");
  expect(await run.ended).toBe(0);
  expect(run.stderr()).not.toContain("error");
  await until(() => !isRunning(notifier));
});

test("without a systemd that waits, none is told", async () => {
  using places = makePlaces();
  const { bin, told } = plantNotifier(places, `${RECORD}\necho yes | record`);
  const [file = "", ...args] = legerdCommand(places);
  using run = start(places, bin, ["/usr/bin/env", "--unset=NOTIFY_SOCKET", file, ...args]);
  await until(() => run.stderr().includes("legerd: ready"));
  // One answer later it would have begun to.
  await sendRaw(places.socket, { method: "GET", path: "/health" });
  process.kill(run.pid, "SIGTERM");
  expect(await run.ended).toBe(0);
  expect(fs.existsSync(told)).toBe(false);
});

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(fs.readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}
