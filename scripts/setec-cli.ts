/**
 * setec-cli — Tailscale's own setec command line and client library, taken through everything against a real legerd;
 * and its database, exchanged with legerd's.
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import * as net from "node:net";
import * as os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { run } from "../src/core/exec.ts";
import { launchLegerd, LEGERD } from "./support/legerd-process.ts";

/** One run of the command line, with what must come of it: status 0 and no output unless said. */
type Step = {
  says: string;
  /** Through the door that grants little; absent: through the one that grants all. */
  door?: "restricted";
  args: readonly string[];
  /** A deletion, which wants a token that its first attempt tells. */
  confirm?: true;
  /** Absent: /dev/null. */
  stdin?: string;
  status?: number;
  stdout?: string | Uint8Array;
  /** Without the time that Go's log puts before it. */
  stderr?: string;
};

type Places = { base: string; setec: string; store: string; open: Relay; restricted: Relay };
type Relay = { url: string; close: () => void };

const MODULE = "github.com/tailscale/setec";
const BUILD_TIMEOUT_MS = 10 * 60_000;
const STEP_TIMEOUT_MS = 20_000;
const SPEC = z.object({ source: z.object({ module: z.literal(MODULE), version: z.string() }) });

const NAME = "leger/local/openai_api_key";
const ODD_NAME = "leger/local/odd & <names>/ä";
/** Made beside the command line before it runs. */
const FILES = {
  first: "first value",
  second: "second value",
  binary: Uint8Array.of(0, 255, 10, 13, 0, 128, 10),
  empty: "",
  large: "0123456789abcdef".repeat(40_000),
};

const STEPS: readonly Step[] = [
  { says: "list of nothing", args: ["list"], stdout: "NAME ACTIVE VERSIONS\n" },
  {
    says: "put from a file",
    args: ["put", "--from-file", "first", NAME],
    stdout: saved(NAME, 1),
  },
  { says: "get", args: ["get", NAME], stdout: "first value" },
  {
    says: "put from standard input",
    args: ["put", NAME],
    stdin: "second value",
    stdout: saved(NAME, 2),
    stderr: "Read 12 bytes from stdin\n",
  },
  {
    says: "put of the same again makes no version",
    args: ["put", "--from-file", "second", NAME],
    stdout: saved(NAME, 2),
  },
  {
    says: "get gives the first until another is activated",
    args: ["get", NAME],
    stdout: "first value",
  },
  { says: "get --version", args: ["get", "--version", "2", NAME], stdout: "second value" },
  {
    says: "info",
    args: ["info", NAME],
    stdout: `Name:           ${NAME}\nActive version: 1\nVersions:       1, 2\n`,
  },
  {
    says: "get --if-changed of what is active",
    args: ["get", "--version", "1", "--if-changed", NAME],
    status: 1,
    stderr: "Error: failed to get secret: value not changed\n",
  },
  {
    says: "get --if-changed of what is not active",
    args: ["get", "--version", "2", "--if-changed", NAME],
    stdout: "first value",
  },
  { says: "activate", args: ["activate", NAME, "2"] },
  { says: "get after activate", args: ["get", NAME], stdout: "second value" },
  {
    says: "get --if-changed after activate",
    args: ["get", "--version", "1", "--if-changed", NAME],
    stdout: "second value",
  },
  {
    says: "activate of a version that is not there",
    args: ["activate", NAME, "9"],
    status: 1,
    stderr: "Error: failed to set active version: not found\n",
  },
  {
    says: "delete-version of the active one",
    args: ["delete-version", NAME, "2"],
    confirm: true,
    status: 1,
    stderr: `Error: failed to delete secret ${JSON.stringify(NAME)} version 2: request returned status 500: "internal error"\n`,
  },
  { says: "delete-version", args: ["delete-version", NAME, "1"], confirm: true },
  {
    says: "get --version of a deleted one",
    args: ["get", "--version", "1", NAME],
    status: 1,
    stderr: "Error: failed to get secret: not found\n",
  },
  {
    says: "put after a deletion takes the next number",
    args: ["put", NAME],
    stdin: "third value",
    stdout: saved(NAME, 3),
    stderr: "Read 11 bytes from stdin\n",
  },
  {
    says: "put of bytes that are no text",
    args: ["put", "--from-file", "binary", "allowed/binary"],
    stdout: saved("allowed/binary", 1),
  },
  { says: "get of bytes that are no text", args: ["get", "allowed/binary"], stdout: FILES.binary },
  {
    says: "put of nothing",
    args: ["put", "--empty-ok", "--from-file", "empty", ODD_NAME],
    stdout: saved(ODD_NAME, 1),
  },
  { says: "get of nothing", args: ["get", ODD_NAME], stdout: "" },
  {
    says: "put of 640,000 bytes",
    args: ["put", "--from-file", "large", "large"],
    stdout: saved("large", 1),
  },
  { says: "get of 640,000 bytes", args: ["get", "large"], stdout: FILES.large },
  {
    says: "list",
    args: ["list"],
    stdout: table([
      ["NAME", "ACTIVE", "VERSIONS"],
      ["allowed/binary", "1", "1"],
      ["large", "1", "1"],
      [ODD_NAME, "1", "1"],
      [NAME, "2", "2,3"],
    ]),
  },
  {
    says: "get of a secret that is not there",
    args: ["get", "leger/local/nothing"],
    status: 1,
    stderr: "Error: failed to get secret: not found\n",
  },
  {
    says: "info of a secret that is not there",
    args: ["info", "leger/local/nothing"],
    status: 1,
    stderr: "Error: failed to get secret info: not found\n",
  },
  {
    says: "put under a name that setec keeps for itself",
    args: ["put", "_internal/x"],
    stdin: "x",
    status: 1,
    stderr:
      'Read 1 bytes from stdin\nError: failed to write secret: request returned status 500: "internal error"\n',
  },

  { door: "restricted", says: "restricted: get", args: ["get", "allowed/binary"], stdout: FILES.binary },
  {
    door: "restricted",
    says: "restricted: get of another secret",
    args: ["get", NAME],
    status: 1,
    stderr: "Error: failed to get secret: access denied\n",
  },
  {
    door: "restricted",
    says: "restricted: info of another secret",
    args: ["info", NAME],
    status: 1,
    stderr: "Error: failed to get secret info: access denied\n",
  },
  {
    door: "restricted",
    says: "restricted: put",
    args: ["put", "allowed/binary"],
    stdin: "x",
    status: 1,
    stderr: "Read 1 bytes from stdin\nError: failed to write secret: access denied\n",
  },
  {
    door: "restricted",
    says: "restricted: list shows what may be seen",
    args: ["list"],
    stdout: table([
      ["NAME", "ACTIVE", "VERSIONS"],
      ["allowed/binary", "1", "1"],
    ]),
  },

  { says: "delete", args: ["delete", NAME], confirm: true },
  {
    says: "get after delete",
    args: ["get", NAME],
    status: 1,
    stderr: "Error: failed to get secret: not found\n",
  },
  { says: "delete of a secret that is not there", args: ["delete", NAME], confirm: true },
  {
    says: "put after delete begins at 1 again",
    args: ["put", NAME],
    stdin: "before",
    stdout: saved(NAME, 1),
    stderr: "Read 6 bytes from stdin\n",
  },
  {
    says: "a second version to rotate to",
    args: ["put", NAME],
    stdin: "after",
    stdout: saved(NAME, 2),
    stderr: "Read 5 bytes from stdin\n",
  },
];

async function main(): Promise<void> {
  if (!(await hasGo())) {
    process.stdout.write("skipped: no Go on this machine\n");
    return;
  }
  const base = fs.mkdtempSync(path.join(os.tmpdir(), "leger-setec-cli-"));
  process.on("exit", () => fs.rmSync(base, { recursive: true, force: true }));
  const { setec, store, database } = await build(base);
  const doors = path.join(base, "doors");
  const sockets = {
    open: path.join(doors, "open", "legerd.sock"),
    restricted: path.join(doors, "restricted", "legerd.sock"),
  };
  const config = path.join(base, "legerd.json");
  const grants = [{ action: ["get", "info"], secret: ["allowed/*"] }];
  fs.writeFileSync(
    config,
    JSON.stringify({
      doors: [
        { unix: sockets.open, principal: "flynn" },
        { unix: sockets.restricted, principal: "ram", grants },
      ],
    }),
  );
  const legerd = launchLegerd(base, ["--config", config, "--state", path.join(base, "state")]);
  await legerd.ready;
  const open = await relayTo(sockets.open);
  const restricted = await relayTo(sockets.restricted);
  try {
    const passed = await takeThrough({ base, setec, store, open, restricted });
    const more = await exchange(base, database, passed);
    process.stdout.write(`setec cli: ${passed + more} steps passed\n`);
  } finally {
    open.close();
    restricted.close();
    legerd.child.kill("SIGTERM");
    await legerd.ended;
  }
}

/** Everything in its order; returns how many steps there were. Throws at the first that goes another way. */
async function takeThrough({ base, setec, store, open, restricted }: Places): Promise<number> {
  let passed = 0;
  const pass = (says: string): void => {
    passed += 1;
    process.stdout.write(`ok ${passed} - ${says}\n`);
  };
  const take = async (step: Step): Promise<void> => {
    const relay = step.door === "restricted" ? restricted : open;
    await runStep((args) => runSetec(setec, relay, args, step.stdin), step);
    pass(step.says);
  };
  for (const [name, content] of Object.entries(FILES)) fs.writeFileSync(path.join(base, name), content);
  for (const step of STEPS) await take(step);
  await seeRotation(store, open, () => take({ says: "rotate", args: ["activate", NAME, "2"] }));
  pass("a program with setec's Store sees the rotation by polling");
  return passed;
}

/** Takes setec's database in, and writes one that setec takes for its own; returns how many steps there were. */
async function exchange(base: string, database: string, before: number): Promise<number> {
  const at = (name: string): string => path.join(base, name);
  const setec = async (verb: string, file: string): Promise<string> => {
    const { stdout } = await run(database, [verb, file, at("kek")], {
      env: {},
      timeoutMs: STEP_TIMEOUT_MS,
      check: true,
    });
    return Buffer.from(stdout).toString();
  };
  const legerd = async (...args: string[]): Promise<void> => {
    await run(process.execPath, [LEGERD, ...args, "--key-file", at("kek"), "--state", at("exchange")], {
      env: { PATH: process.env["PATH"], HOME: base },
      timeoutMs: STEP_TIMEOUT_MS,
      check: true,
    });
  };
  fs.writeFileSync(at("kek"), randomBytes(32), { mode: 0o600 });
  await setec("write", at("theirs"));
  await legerd("import", "--from-setec", at("theirs"));
  await legerd("export", "--to-setec", at("ours"));
  const [theirs, ours] = [await setec("show", at("theirs")), await setec("show", at("ours"))];
  if (theirs !== ours || !theirs.includes('"Versions":[1,2,7]')) {
    throw new Error(`an exchanged database differs:\n${theirs}\n${ours}`);
  }
  process.stdout.write(
    `ok ${before + 1} - setec's database, taken in and written anew, is the same to setec\n`,
  );
  // The same operations on both: what was deleted stays taken, and numbers go on where they were.
  const [goesOn, weGoOn] = [await setec("continue", at("theirs")), await setec("continue", at("ours"))];
  if (goesOn !== weGoOn || !goesOn.includes("3 version is already claimed")) {
    throw new Error(`setec goes on differently:\n${goesOn}\n${weGoOn}`);
  }
  process.stdout.write(`ok ${before + 2} - setec goes on with it as with its own\n`);
  return 2;
}

type Result = { status: number | null; stdout: Uint8Array; stderr: string };

async function runStep(setec: (args: readonly string[]) => Promise<Result>, step: Step): Promise<void> {
  const { says, args, confirm = false, status = 0, stdout = "", stderr = "" } = step;
  const result = confirm ? await runConfirmed(setec, step) : await setec(args);
  if (result.status === status && result.stderr === stderr && Buffer.from(stdout).equals(result.stdout))
    return;
  throw new Error(
    [
      `${says}: setec ${args.join(" ")}`,
      `  expected: status ${status}, ${show(stdout)}, ${JSON.stringify(stderr)}`,
      `  got:      status ${result.status}, ${show(result.stdout)}, ${JSON.stringify(result.stderr)}`,
    ].join("\n"),
  );
}

/** A deletion is refused with a token that lets it pass; a token is of its minute, which may just be over. */
async function runConfirmed(
  setec: (args: readonly string[]) => Promise<Result>,
  { says, args }: Step,
): Promise<Result> {
  const asked = await setec(args);
  const token = /^Error: confirmation required for ".*", use token "([0-9a-f.]+)"\n$/.exec(asked.stderr)?.[1];
  if (asked.status !== 1 || token === undefined)
    throw new Error(`${says}: asked for no token: ${asked.stderr}`);
  const result = await setec([...args, token]);
  const newer = /^Error: incorrect confirmation for ".*", use token "([0-9a-f.]+)"\n$/.exec(
    result.stderr,
  )?.[1];
  return newer === undefined ? result : setec([...args, newer]);
}

async function runSetec(
  setec: string,
  { url }: Relay,
  args: readonly string[],
  stdin: string | undefined,
): Promise<Result> {
  const { status, stdout, stderr } = await run(setec, ["-s", url, ...args], {
    env: { PATH: process.env["PATH"], HOME: path.dirname(setec) },
    cwd: path.dirname(setec),
    timeoutMs: STEP_TIMEOUT_MS,
    ...(stdin === undefined ? {} : { stdin: Buffer.from(stdin) }),
  });
  return { status, stdout, stderr: stderr.replaceAll(/^\d{4}\/\d\d\/\d\d \d\d:\d\d:\d\d /gm, "") };
}

/** Runs the small Go program, and the rotation once it has shown the value from before. */
async function seeRotation(store: string, { url }: Relay, rotate: () => Promise<void>): Promise<void> {
  const child = spawn(store, [url, NAME], { stdio: ["ignore", "pipe", "inherit"] });
  const seen: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    seen.push(line);
    if (seen.length === 1) await rotate();
  }
  if (seen.join() !== "before,after") throw new Error(`setec's Store gave ${seen.join()}, not before,after`);
}

/** Plain bytes from a port of loopback's to a unix socket and back: setec's client knows no unix sockets. */
async function relayTo(socketPath: string): Promise<Relay> {
  const server = net.createServer((client) => {
    const upstream = net.connect({ path: socketPath });
    client.pipe(upstream).pipe(client);
    client.on("error", () => upstream.destroy());
    upstream.on("error", () => client.destroy());
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the relay has no port");
  return { url: `http://127.0.0.1:${address.port}`, close: () => server.close() };
}

async function hasGo(): Promise<boolean> {
  try {
    const { status } = await run("go", ["version"], { env: process.env, timeoutMs: STEP_TIMEOUT_MS });
    return status === 0;
  } catch {
    return false;
  }
}

/** Builds setec as it was when its answers were recorded, and the programs on its own packages. */
async function build(base: string): Promise<{ setec: string; store: string; database: string }> {
  const vectors = fileURLToPath(new URL("../test/vectors/setec.json", import.meta.url));
  const { version } = SPEC.parse(JSON.parse(fs.readFileSync(vectors, "utf8"))).source;
  const program = path.join(base, "setec-programs");
  for (const name of ["store", "database"]) {
    fs.mkdirSync(path.join(program, name), { recursive: true });
    const source = fileURLToPath(new URL(`setec-${name}.go`, import.meta.url));
    fs.copyFileSync(source, path.join(program, name, "main.go"));
  }
  const go = async (cwd: string, ...args: string[]): Promise<void> => {
    const env = { ...process.env, GOBIN: base };
    await run("go", args, { env, cwd, timeoutMs: BUILD_TIMEOUT_MS, check: true });
  };
  process.stderr.write(`setec cli: building ${MODULE} ${version}; two minutes the first time\n`);
  await go(base, "install", `${MODULE}/cmd/setec@${version}`);
  await go(program, "mod", "init", "setec-programs");
  await go(program, "get", `${MODULE}/client/setec@${version}`, `${MODULE}/db@${version}`);
  await go(program, "build", "-o", "bin/", "./...");
  const built = (name: string): string => path.join(program, "bin", name);
  return { setec: path.join(base, "setec"), store: built("store"), database: built("database") };
}

function saved(name: string, version: number): string {
  const first = `Secret saved as ${JSON.stringify(name)}, version ${version}\n`;
  if (version === 1) return first;
  return `${first}  To activate this version, run 'setec activate ${JSON.stringify(name)} ${version}'\n`;
}

/** Columns as Go's tabwriter sets them: as wide as their widest cell and one space; the last as it is. */
function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map(
    (_, at) => Math.max(...rows.map((row) => Array.from(row[at] ?? "").length)) + 1,
  );
  return rows
    .map((row) =>
      row.map((cell, at) => (at === row.length - 1 ? cell : cell.padEnd(widths[at] ?? 0))).join(""),
    )
    .map((line) => `${line}\n`)
    .join("");
}

function show(output: string | Uint8Array): string {
  return JSON.stringify(Buffer.from(output).toString("latin1").slice(0, 300));
}

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));
try {
  await main();
} catch (error) {
  process.stdout.write(`setec cli: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
