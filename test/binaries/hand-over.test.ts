import * as fs from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { run } from "../../src/core/exec.ts";
import { LEGER_COMMAND, makePlaces } from "../support/legerd.ts";
import { BUILT } from "./prefix.ts";

/** The hot client beside a program that stands for the whole CLI: what it writes shows what it was given. */
function installed(cli?: string): { leger: string } & Disposable {
  const places = makePlaces();
  const leger = path.join(places.base, "bin/leger");
  fs.mkdirSync(path.dirname(leger));
  fs.mkdirSync(path.join(places.base, "libexec/leger"), { recursive: true });
  fs.copyFileSync(path.join(BUILT, "leger"), leger);
  if (cli !== undefined) {
    fs.writeFileSync(path.join(places.base, "libexec/leger/leger"), `#!/bin/bash\n${cli}\n`, { mode: 0o755 });
  }
  return { leger, [Symbol.dispose]: () => places[Symbol.dispose]() };
}

const ENV = { PATH: process.env["PATH"] };

async function bash(script: string, leger: string) {
  const result = await run("/bin/bash", ["-c", script], { env: { ...ENV, L: leger }, timeoutMs: 20_000 });
  return { ...result, stdout: Buffer.from(result.stdout).toString("latin1") };
}

test("every argument comes over byte for byte", async () => {
  using at = installed('printf "%s\\0" "$@"');
  const { stdout, status } = await bash(
    `"$L" secrets list "" " a  b " $'new\\nline' -- --flag='"' $'\\xff\\xfe' '*' ü`,
    at.leger,
  );
  expect(status).toBe(0);
  expect(stdout.split("\0").slice(0, -1)).toEqual([
    "secrets",
    "list",
    "",
    " a  b ",
    "new\nline",
    "--",
    '--flag="',
    "\xff\xfe",
    "*",
    "\xc3\xbc",
  ]);
});

test("it is the same process, under the same parent, with the same environment, directory and mask", async () => {
  using at = installed('echo $$ $PPID "$PWD" $(umask) $(env | grep -c ^L=)');
  const { stdout } = await bash(
    'cd /usr; umask 027; "$L" status & echo $! $$ /usr 0027 1; wait $!',
    at.leger,
  );
  const [expected, ...lines] = stdout.trim().split("\n").toSorted();
  expect(lines).toEqual([expected]);
});

test("standard streams and all other descriptors come over, and a closed one stays closed", async () => {
  using at = installed("cat; cat <&63; cat <&3; echo err >&2; [ -e /proc/self/fd/7 ] && echo seven");
  const { stdout, stderr } = await bash(
    'printf in | "$L" status 63< <(printf sub) 3< <(printf three) 7>&-',
    at.leger,
  );
  expect(stdout).toBe("insubthree");
  expect(stderr).toBe("err\n");
});

test.for(["0", "3", "64", "255"])("exit status %s comes back", async (status) => {
  using at = installed(`exit ${status}`);
  expect((await bash('"$L" audit; exit $?', at.leger)).status).toBe(Number(status));
});

test.for(["TERM", "INT", "HUP", "USR1", "PIPE", "KILL"])(
  "SIG%s does to it what it does to the CLI",
  async (signal) => {
    using at = installed(`kill -${signal} $$; sleep 5; echo survived`);
    const { stdout } = await bash('"$L" status; echo $?', at.leger);
    const { stdout: expected } = await bash(
      `bash -c 'kill -${signal} $$; sleep 5; echo survived'; echo $?`,
      at.leger,
    );
    expect(stdout).toBe(expected);
  },
);

test("signals that were ignored stay ignored", async () => {
  using at = installed("kill -TERM $$; echo survived");
  expect((await bash('trap "" TERM; "$L" status', at.leger)).stdout).toBe("survived\n");
});

test("a CLI that isn't there is said in one line, with what to do", async () => {
  using at = installed();
  const { status, stdout, stderr } = await bash('"$L" status', at.leger);
  expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
  expect(stderr).toMatch(
    /^leger: error: cannot run \S+libexec\/leger\/leger, which has all commands but driver and secrets fetch\nleger: hint: install the package leger again\n$/,
  );
});

test("versions: both programs tell commit and runtimes, for people and for programs", async () => {
  const [leger] = LEGER_COMMAND;
  const line =
    /^leger \d+\.\d+\.\d+ \(commit [0-9a-f]{40}(?:-dirty)?; Node 24\.\d+\.\d+, Bun \d+\.\d+\.\d+\)\n$/;
  expect((await bash('"$L" --version', leger)).stdout).toMatch(line);
  expect((await bash('"$L"d --version', leger)).stdout).toMatch(
    new RegExp(line.source.replace("leger", "legerd")),
  );
  expect(JSON.parse((await bash('"$L" version --json', leger)).stdout)).toEqual({
    schema_version: 1,
    version: expect.stringMatching(/^\d/),
    commit: expect.stringMatching(/^[0-9a-f]{40}/),
    node: expect.stringMatching(/^24\./),
    bun: expect.stringMatching(/^\d+\./),
  });
});
