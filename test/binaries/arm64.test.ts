import * as fs from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { run } from "../../src/core/exec.ts";
import { referenceTo } from "../../src/core/reference.ts";
import { LEGER_COMMAND, makePlaces, spawnLegerd, startTestLegerd } from "../support/legerd.ts";
import { asPodman, inProcess } from "../support/podman-driver.ts";
import { builtFor } from "./prefix.ts";

// The programs for arm64, run by qemu's emulation of that processor alone: system calls are this machine's.

const ID = "5d41402abc4b2a76b9719d911";
const QEMU = "/usr/bin/qemu-aarch64-static";
/** Where Debian's libc6-arm64-cross and libstdc++6-arm64-cross have their libraries. */
const LIBRARIES = "/usr/aarch64-linux-gnu";
const [LEGER] = LEGER_COMMAND;

const obstacle =
  process.arch === "arm64"
    ? "this machine is one: the other tests have run these programs"
    : [QEMU, `${LIBRARIES}/lib/libc.so.6`, `${LIBRARIES}/lib/libstdc++.so.6`]
        .filter((file) => !fs.existsSync(file))
        .map((file) => `no ${file}: qemu-user-static, libc6-arm64-cross, libstdc++6-arm64-cross`)[0];

const places = makePlaces();
const program = path.join(places.base, "bin/leger");
const cli = path.join(places.base, "libexec/leger/leger");
const emulated = [QEMU, "-L", LIBRARIES] as const;

beforeAll(() => {
  if (obstacle !== undefined) return;
  for (const file of [program, cli]) fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.copyFileSync(path.join(builtFor("arm64"), "leger"), program, fs.constants.COPYFILE_FICLONE);
  fs.copyFileSync(path.join(builtFor("arm64"), "leger-cli"), `${cli}.arm64`, fs.constants.COPYFILE_FICLONE);
  // The kernel cannot start it, and qemu hands execve(2) to the kernel: a script does what an arm64 kernel would.
  fs.writeFileSync(cli, `#!/bin/sh\nexec ${emulated.join(" ")} -0 leger "$0.arm64" "$@"\n`, { mode: 0o755 });
});
afterAll(() => places[Symbol.dispose]());
beforeEach(({ skip }) => {
  if (obstacle !== undefined) skip(obstacle);
});

type Env = Readonly<Record<string, string>>;

async function arm64(args: readonly string[], env: Env = {}) {
  const [file, ...rest] = [...emulated, "-0", "leger", program, ...args];
  return textOf(await run(file, rest, { env: { PATH: process.env["PATH"], ...env }, timeoutMs: 120_000 }));
}

async function x64(args: readonly string[]) {
  return textOf(await run(LEGER, args, { env: { PATH: process.env["PATH"] }, timeoutMs: 60_000 }));
}

function textOf({ status, stdout, stderr }: Awaited<ReturnType<typeof run>>) {
  return { status, stdout: Buffer.from(stdout).toString("latin1"), stderr };
}

/** The driver's 5 s are meant for a processor of its own kind: what emulation made too late is tried again. */
async function inTime<T extends { stderr: string }>(ask: () => Promise<T>): Promise<T> {
  let result = await ask();
  for (let again = 0; again < 9 && /not done within|did not answer within/.test(result.stderr); again += 1) {
    result = await ask();
  }
  return result;
}

test("the client's own commands say what they say here", async () => {
  expect(await arm64(["driver", "--help"])).toEqual(await x64(["driver", "--help"]));
  expect(await arm64(["driver", "look"])).toEqual(await x64(["driver", "look"]));
});

test("a lookup at this machine's legerd gives the exact bytes", async () => {
  const value = Buffer.from([0, 255, 10, ...Buffer.from("ä".repeat(70_000)), 10]);
  await using daemon = await startTestLegerd({ "leger/local/db": value });
  await asPodman("store", { daemon, id: ID, stdin: Buffer.from(referenceTo("leger/local/db")) });
  const env = { SECRET_ID: ID, LEGER_SOCKET: daemon.socket };
  expect(await inTime(() => arm64(["driver", "lookup"], env))).toEqual({
    status: 0,
    stdout: value.toString("latin1"),
    stderr: "",
  });
  expect(await inTime(() => arm64(["driver", "lookup"], { ...env, SECRET_ID: "0" }))).toMatchObject({
    status: 66,
    stdout: "",
    stderr: expect.stringContaining("leger: error: "),
  });
});

test("all else is handed over to the whole command line, with its arguments and exit status", async () => {
  expect(JSON.parse((await arm64(["version", "--json"])).stdout)).toEqual(
    JSON.parse((await x64(["version", "--json"])).stdout),
  );
  const args = ["secrets", "list", "a  b", "new\nline"];
  expect(await arm64(args)).toEqual(await x64(args));
});

test("legerd keeps a secret, answers a lookup, and stops when it is told to", async () => {
  const legerd = [...emulated, "-0", "legerd", `${cli}.arm64`] as const;
  await using daemon = await spawnLegerd(places, [], [], legerd);
  const ask = { daemon: places, env: { SECRET_ID: ID }, stdin: Buffer.from("kept") };
  const stored = await inTime(() => inProcess(["driver", "store"], ask));
  expect(stored).toEqual({ status: 0, stdout: "", stderr: "" });
  const found = await inTime(() => inProcess(["driver", "lookup"], ask));
  expect(found).toEqual({ status: 0, stdout: "kept", stderr: "" });
  daemon.child.kill("SIGTERM");
  expect(await daemon.exited).toEqual({ status: 0, signal: null });
});

test("legerd --version tells commit and runtimes", async () => {
  const [file, ...args] = [...emulated, "-0", "legerd", `${cli}.arm64`, "--version"] as const;
  const { stdout } = textOf(
    await run(file, args, { env: { PATH: process.env["PATH"] }, timeoutMs: 120_000 }),
  );
  expect(stdout).toBe((await x64(["--version"])).stdout.replace("leger ", "legerd "));
});
