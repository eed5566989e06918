import * as fs from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { driverCommands } from "../../src/cli/driver-commands.ts";
import { run } from "../../src/core/exec.ts";
import { referenceTo } from "../../src/core/reference.ts";
import { CANARY } from "../support/cli.ts";
import { LEGER_COMMAND, makePlaces, startTestLegerd, type TestLegerd } from "../support/legerd.ts";
import { asPodman, podmanDriver } from "../support/podman-driver.ts";

const ID = "5d41402abc4b2a76b9719d911";
const VALUE = `${CANARY}\n`;
const [LEGER] = LEGER_COMMAND;

let daemon: TestLegerd;
beforeAll(async () => {
  daemon = await startTestLegerd({ "leger/local/db": VALUE });
  const stored = await asPodman("store", {
    daemon,
    id: ID,
    stdin: Buffer.from(referenceTo("leger/local/db")),
  });
  expect(stored).toMatchObject({ status: 0, stderr: "" });
});
afterAll(() => daemon[Symbol.asyncDispose]());

type Env = Record<string, string>;

const GOOD = { status: 0, stdout: VALUE, stderr: "" };

async function lookUp(env: Env = {}) {
  const { status, stdout, stderr } = await asPodman("lookup", { daemon, id: ID, env });
  return { status, stdout: stdout.toString("latin1"), stderr };
}

/** The client alone, as a unit's ExecStartPre= or a person's shell would start it: nothing is cleared before. */
async function direct(script: string, env: Env = {}, args: readonly string[] = []) {
  const base = podmanDriver().environment({ runtimeDir: daemon.runtimeDir, id: ID });
  const result = await run("/bin/bash", ["-c", script, "bash", ...args], {
    env: { ...base, L: LEGER, ...env },
    timeoutMs: 20_000,
  });
  return { ...result, stdout: Buffer.from(result.stdout).toString("latin1") };
}

/** A directory full of what Bun or Node would read where they are at home, each of which would write to `proof`. */
function trap(): { directory: string; proof: string; script: string } & Disposable {
  const places = makePlaces();
  const proof = path.join(places.base, "proof");
  const script = path.join(places.base, "trap.ts");
  fs.writeFileSync(script, `require("node:fs").writeFileSync(${JSON.stringify(proof)}, "ran");`);
  const files: Record<string, string> = {
    "bunfig.toml": `preload = [${JSON.stringify(script)}]\n[run]\npreload = [${JSON.stringify(script)}]\n`,
    ".env": `BUN_OPTIONS=--preload=${script}\nLEGER_SOCKET=/nowhere\nSECRET_ID=0\n`,
    ".env.local": "LEGER_SOCKET=/nowhere\n",
    ".env.production": "LEGER_SOCKET=/nowhere\n",
    "package.json": `{"type":"module","main":${JSON.stringify(script)},"scripts":{"driver":"echo ran >${proof}"}}`,
    "tsconfig.json": `{"compilerOptions":{"paths":{"*":[${JSON.stringify(script)}]}}}`,
    "driver.ts": fs.readFileSync(script, "utf8"),
    driver: `#!/bin/sh\necho ran >${proof}\n`,
  };
  for (const [name, text] of Object.entries(files)) {
    fs.writeFileSync(path.join(places.base, name), text, { mode: 0o755 });
  }
  return { directory: places.base, proof, script, [Symbol.dispose]: () => places[Symbol.dispose]() };
}

/** Every name in the client's own program file that an environment variable of its runtime may have. */
function variablesOfRuntime(): string[] {
  const text = fs.readFileSync(LEGER, "latin1");
  const names = text.match(/(?:BUN|NODE|JSC|WTF|UV|MIMALLOC|NAPI)_[A-Za-z0-9_]{2,40}/g) ?? [];
  // Two names may stand there without a gap between them.
  const cleared = /unset ([^;]+);/.exec(podmanDriver().commandOf("lookup"))?.[1]?.split(" ") ?? [];
  // The engine's own are another test's.
  return [...new Set([...cleared, ...names])].filter((name) => !name.startsWith("BUN_JSC_")).toSorted();
}

describe("through the command that Podman runs", () => {
  test("no variable that the runtime's program names changes a lookup", async () => {
    using planted = trap();
    const names = variablesOfRuntime();
    expect(names.length).toBeGreaterThan(100);
    expect(names).toEqual(expect.arrayContaining(["BUN_OPTIONS", "BUN_BE_BUN", "NODE_OPTIONS"]));
    for (const value of ["1", planted.script, `--preload=${planted.script}`, `--require=${planted.script}`]) {
      const env = Object.fromEntries(names.map((name) => [name, value]));
      // Two of them, where they are no number, are complained about on standard error.
      expect(await lookUp(env)).toMatchObject({ status: 0, stdout: VALUE });
    }
    expect(fs.existsSync(planted.proof)).toBe(false);
    expect(fs.existsSync("/1")).toBe(false);
  });

  test("a variable of the engine's, BUN_JSC_…, makes it fail at most: never another value, never a success without one", async () => {
    const { stderr } = await direct('"$L" driver lookup', { BUN_JSC_dumpOptions: "3" });
    const options = [...stderr.matchAll(/^ +(\w+)=(\S*)/gm)].map(([, name = "", now]) => ({ name, now }));
    expect(options.length).toBeGreaterThan(300);
    for (const { name, now } of options) {
      const value = now === "true" ? "false" : now === "false" ? "true" : "1";
      const result = await lookUp({ [`BUN_JSC_${name}`]: value });
      if (result.status === 0) expect({ name, stdout: result.stdout }).toEqual({ name, stdout: VALUE });
      else expect({ name, stdout: result.stdout }).toEqual({ name, stdout: "" });
      expect(result.stderr).not.toContain(CANARY);
    }
  });

  test("files in the working directory are not read, and it may be gone", async () => {
    using planted = trap();
    const command = podmanDriver().commandOf("lookup").replace("/usr/bin/leger", LEGER);
    const here = `cd ${planted.directory} && /bin/sh -c "$1"`;
    expect(await direct(here, {}, [command])).toMatchObject(GOOD);
    // The shell itself complains.
    const gone = `mkdir ${planted.directory}/gone && cd ${planted.directory}/gone && rmdir ../gone && /bin/sh -c "$1"`;
    expect(await direct(gone, {}, [command])).toMatchObject({ status: 0, stdout: VALUE });
    expect(fs.existsSync(planted.proof)).toBe(false);
  });
});

describe("the client alone", () => {
  test("it reads no file of the working directory", async () => {
    using planted = trap();
    expect(await direct(`cd ${planted.directory} && "$L" driver lookup`)).toMatchObject(GOOD);
    expect(fs.existsSync(planted.proof)).toBe(false);
  });

  test.for([
    ["another name", 'exec -a legerd "$L" driver lookup'],
    ["bun for a name", 'exec -a bun "$L" driver lookup'],
    ["an empty name", 'exec -a "" "$L" driver lookup'],
    ["16 descriptors at most", 'ulimit -n 16; "$L" driver lookup'],
    ["no standard input", '"$L" driver lookup <&-'],
    ["no standard error", '"$L" driver lookup 2>&-'],
    ["neither", '"$L" driver lookup <&- 2>&-'],
    ["no core, little memory to lock", 'ulimit -c 0; ulimit -l 0; "$L" driver lookup'],
    ["the C locale and no zone", 'LC_ALL=C TZ=:/nonexistent "$L" driver lookup'],
  ] as const)("with %s it gives the same bytes", async ([, script]) => {
    expect(await direct(script)).toMatchObject(GOOD);
  });

  test("a file system that is all read-only changes nothing", async ({ skip }) => {
    if (!podmanDriver().exact) skip(`no namespaces here: ${podmanDriver().obstacle}`);
    const script = `unshare --user --map-root-user --mount /bin/sh -c 'mount -o remount,bind,ro / && ! touch /tmp/x 2>/dev/null && exec "$L" driver lookup'`;
    expect(await direct(script)).toMatchObject(GOOD);
  });

  test.for([
    ["without standard output", '"$L" driver lookup >&-'],
    ["with standard output at a full disk", '"$L" driver lookup >/dev/full'],
    ["in a directory that is gone", 'D=$(mktemp -d); cd "$D"; rmdir "$D"; "$L" driver lookup'],
    ["with a tiny stack", 'ulimit -s 64; "$L" driver lookup'],
    ["with hardly any memory", 'ulimit -v 200000; "$L" driver lookup'],
    ["with 3 descriptors at most", 'ulimit -n 3; "$L" driver lookup'],
  ] as const)("%s it fails, and standard output stays empty", async ([, script]) => {
    const { status, stdout, stderr } = await direct(script);
    expect(status).not.toBe(0);
    expect(stdout).toBe("");
    expect(stderr).not.toContain(CANARY);
  });

  test.for([
    ["with a tiny stack", 'ulimit -s 64; exec /bin/sh -c "$LOOKUP"', "the stack may not be 2 MiB large here"],
    [
      "without /proc",
      `exec unshare --user --map-root-user --mount /bin/sh -c 'mount -t tmpfs none /proc && exec /bin/sh -c "$LOOKUP"'`,
      "there is no /proc here",
    ],
  ] as const)("%s the command that podman runs says so in one line", async ([, script, why], { skip }) => {
    if (!podmanDriver().exact) skip(`no namespaces here: ${podmanDriver().obstacle}`);
    const { status, stdout, stderr } = await direct(script, { LOOKUP: driverCommands(LEGER).lookup });
    expect({ status, stdout }).toEqual({ status: 70, stdout: "" });
    expect(stderr).toMatch(/^leger: error: driver: [^\n]+\n$/);
    expect(stderr).toContain(why);
  });

  test("a small stack becomes one that is large enough", async () => {
    const LOOKUP = driverCommands(LEGER).lookup;
    expect(await direct('ulimit -Ss 64; exec /bin/sh -c "$LOOKUP"', { LOOKUP })).toMatchObject(GOOD);
  });

  test("without /proc it gives the same bytes, or fails with nothing on standard output", async ({
    skip,
  }) => {
    if (!podmanDriver().exact) skip(`no namespaces here: ${podmanDriver().obstacle}`);
    const script = `unshare --user --map-root-user --mount /bin/sh -c 'mount -t tmpfs none /proc && exec "$L" driver lookup'`;
    const { status, stdout, stderr } = await direct(script);
    if (status === 0) expect(stdout).toBe(VALUE);
    else expect({ stdout, stderr }).toEqual({ stdout: "", stderr: expect.stringMatching(/\S/) });
  });
});
