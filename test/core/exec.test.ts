import { createReadStream, mkdtempDisposableSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { once } from "node:events";
import { describe, expect, test } from "vitest";
import { run } from "../../src/core/exec.ts";

const env = { PATH: "/usr/bin:/bin" };
const sh = (script: string, options: Partial<Parameters<typeof run>[2]> = {}) =>
  run("/bin/sh", ["-c", script], { env, timeoutMs: 10_000, ...options });

describe("a program", () => {
  test("gives back its status and exact bytes", async () => {
    expect(await sh("printf 'a\\0\\377\\n'; echo oops >&2; exit 3")).toEqual({
      status: 3,
      signal: null,
      stdout: Buffer.from("a\0\xff\n", "latin1"),
      stderr: "oops\n",
    });
  });

  test("gets its arguments as they are, with no shell in between", async () => {
    const awkward = ["$HOME", "`id`", "a b", "", "*", "'\""];
    const { stdout } = await run("printf", ["[%s]", ...awkward], { env, timeoutMs: 10_000 });
    expect(Buffer.from(stdout).toString()).toBe(awkward.map((word) => `[${word}]`).join(""));
  });

  test("gets exactly what it is given on standard input", async () => {
    const stdin = Buffer.alloc(300_000, "\0\xff\n", "latin1");
    expect((await run("cat", [], { env, stdin, timeoutMs: 10_000 })).stdout).toEqual(stdin);
  });

  test("need not read what it is given", async () => {
    expect(await sh("exit 0", { stdin: Buffer.alloc(1_000_000) })).toMatchObject({ status: 0 });
  });

  test("has an empty standard input otherwise", async () => {
    expect(await sh("cat")).toMatchObject({ status: 0, stdout: Buffer.alloc(0) });
  });

  test("gets the environment it is given, less what speaks for a systemd unit", async () => {
    const given = {
      A: "1",
      B: undefined,
      NOTIFY_SOCKET: "/run/x",
      LISTEN_FDS: "1",
      LISTEN_PID: "1",
      LISTEN_FDNAMES: "x",
      LISTEN_PIDFDID: "1",
    };
    const { stdout } = await run("/usr/bin/env", [], { env: given, timeoutMs: 10_000 });
    expect(Buffer.from(stdout).toString()).toBe("A=1\n");
  });

  test("runs where it is told to", async () => {
    const { stdout } = await run("/bin/pwd", [], { env, cwd: "/", timeoutMs: 10_000 });
    expect(Buffer.from(stdout).toString()).toBe("/\n");
  });

  test("that a signal ends is told by the signal", async () => {
    expect(await sh("kill -TERM $$")).toMatchObject({ status: null, signal: "SIGTERM" });
  });
});

describe("with check", () => {
  test("a failure says the last line of standard error, and nothing of standard output or the arguments", async () => {
    await expect(
      sh("echo canary; printf 'first\\n\\033[31mno such secret\\n' >&2; exit 125", { check: true }),
    ).rejects.toMatchObject({
      code: "FAILED",
      message: "/bin/sh failed (exit status 125): [31mno such secret",
    });
  });

  test("a signal is named", async () => {
    await expect(sh("kill -KILL $$", { check: true })).rejects.toMatchObject({
      message: "/bin/sh was killed by SIGKILL",
    });
  });

  test("success is a result", async () => {
    expect(await sh("echo fine", { check: true })).toMatchObject({ status: 0 });
  });
});

test("a program that is not there is said to be missing", async () => {
  await expect(run("no-such-program", [], { env, timeoutMs: 10_000 })).rejects.toMatchObject({
    code: "FAILED",
    message: "no-such-program: not found",
  });
});

test("a program that cannot be started says why", async () => {
  await expect(run("/etc/passwd", [], { env, timeoutMs: 10_000 })).rejects.toMatchObject({
    code: "FAILED",
    message: "/etc/passwd cannot be started (EACCES)",
  });
});

test("too much output is a failure", async () => {
  await expect(run("yes", ["canary"], { env, timeoutMs: 10_000, maxBytes: 10_000 })).rejects.toMatchObject({
    code: "FAILED",
    message: "yes wrote more than 10000 bytes",
  });
});

test("standard error is kept to its first 64 KiB", async () => {
  const { stderr } = await sh("head -c 200000 /dev/zero | tr '\\0' x >&2");
  expect(stderr).toBe("x".repeat(65_536));
});

test.for(["deadline", "abort"])("the %s kills the program and what it started", async (end) => {
  using place = mkdtempDisposableSync(join(tmpdir(), "leger-"));
  const fifo = join(place.path, "alive");
  await run("mkfifo", [fifo], { env, timeoutMs: 10_000, check: true });
  // Held open by the shell and by its child: end of file comes when both are gone.
  const alive = createReadStream(fifo);
  const abort = new AbortController();
  alive.once("data", () => end === "abort" && abort.abort());

  const gone = once(alive, "end");
  await expect(
    sh(`exec 3>${fifo}; echo started >&3; sleep 600 & wait`, {
      signal: abort.signal,
      timeoutMs: end === "abort" ? 20_000 : 500,
    }),
  ).rejects.toMatchObject({
    code: "FAILED",
    message: end === "abort" ? "/bin/sh was interrupted" : "/bin/sh did not finish within 0.5 s",
  });
  await gone;
});

test("what is aborted already does not start", async () => {
  using place = mkdtempDisposableSync(join(tmpdir(), "leger-"));
  const proof = join(place.path, "proof");
  await expect(sh(`: > ${proof}`, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "FAILED" });
  expect(await sh(`test -e ${proof}`)).toMatchObject({ status: 1 });
});

test("a grandchild that keeps standard output open does not hold us past the deadline", async () => {
  await expect(sh("setsid sleep 3 & exit 0", { timeoutMs: 300 })).rejects.toMatchObject({ code: "FAILED" });
});
