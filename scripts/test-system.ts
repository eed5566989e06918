/** test-system — runs the system tests: on whole Debian machines with systemd and Podman, booted for them. */
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { exitStatusOf, LegerError, speak } from "../src/core/error.ts";
import { run } from "../src/core/exec.ts";
import { VERSION } from "../src/core/version.ts";
import { MACHINES, RELEASES, rootOf, type Release } from "./machine/root.ts";

const HELP = `npm run test:system -- [--release ${RELEASES.join("|")}] [--deb FILE] [-t NAME] [FILE…]

Boots Debian machines (as root, with systemd-nspawn), installs leger's package in them and runs test/system.

  --release NAME  which Debian (default: trixie)
  --deb FILE      the package (default: $LEGER_TEST_DEB, or what "npm run package" made in dist/)
  -t NAME         only tests with this in their title
  FILE            only test files with this in their path
`;

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const KEEPER = fileURLToPath(new URL("machine/keeper.ts", import.meta.url));
const VITEST = path.join(ROOT, "node_modules/vitest/vitest.mjs");
const APT_TIMEOUT_MS = 10 * 60_000;
const SWEEP_TIMEOUT_MS = 60_000;
const CLEAR_TIMEOUT_MS = 60_000;
const KILL_AFTER_MS = 5_000;

/** The programs it takes, and the packages of Debian that bring them. */
const NEEDED = {
  mmdebstrap: ["mmdebstrap", "debian-archive-keyring"],
  "systemd-nspawn": ["systemd-container"],
} as const;

type Options = { release: Release; deb: string; filters: string[] };

async function main(args: string[]): Promise<number> {
  const options = parse(args);
  if (options === undefined) {
    process.stdout.write(HELP);
    return 0;
  }
  if (process.geteuid?.() !== 0) {
    throw new LegerError("FAILED", "the system tests boot a machine and so must be run as root");
  }
  await prepareHost();
  const root = await rootOf(options.release);
  fs.mkdirSync(MACHINES, { recursive: true, mode: 0o700 });
  await sweep();
  const machines = path.join(MACHINES, `leger-${process.pid}`);
  try {
    return await runTests(options, root, machines);
  } finally {
    await cleared(machines);
  }
}

function parse(args: string[]): Options | undefined {
  const { values, positionals } = parsed(args);
  if (values.help === true) return undefined;
  const release = RELEASES.find((name) => name === values.release);
  if (release === undefined) {
    throw new LegerError("USAGE", `--release ${values.release}: it is one of ${RELEASES.join(", ")}`);
  }
  const name = values["test-name"];
  const filters = [...positionals, ...(name === undefined ? [] : ["--testNamePattern", name])];
  return { release, deb: packageAt(values.deb ?? process.env["LEGER_TEST_DEB"]), filters };
}

function parsed(args: string[]) {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        release: { type: "string", default: "trixie" },
        deb: { type: "string" },
        "test-name": { type: "string", short: "t" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (cause) {
    const said = cause instanceof Error ? cause.message : "wrong arguments";
    throw new LegerError("USAGE", said, { hints: ["see npm run test:system -- --help"], cause });
  }
}

function packageAt(named: string | undefined): string {
  const given = named === "" ? undefined : named;
  const architecture = process.arch === "x64" ? "amd64" : process.arch;
  const deb = path.resolve(given ?? path.join(ROOT, "dist", `leger_${VERSION}_${architecture}.deb`));
  if (fs.existsSync(deb)) return deb;
  throw new LegerError("FAILED", `there is no package ${deb} to install on the machine`, {
    hints: ["make it with: npm run package", "or name another one with --deb FILE"],
  });
}

/** Debian's own tools for building and booting a machine, where they are missing. */
async function prepareHost(): Promise<void> {
  const missing: string[] = [];
  for (const [program, packages] of Object.entries(NEEDED)) {
    if (!(await isThere(program))) missing.push(...packages);
  }
  if (missing.length === 0) return;
  process.stderr.write(`installing ${missing.join(" ")}\n`);
  await apt("update");
  await apt("install", "--yes", "--no-install-recommends", ...missing);
}

async function apt(...args: readonly string[]): Promise<void> {
  await run("apt-get", ["-qq", "-o", "DPkg::Lock::Timeout=300", ...args], {
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    timeoutMs: APT_TIMEOUT_MS,
    check: true,
  });
}

async function isThere(program: string): Promise<boolean> {
  const { status } = await run("sh", ["-c", 'command -v "$0"', program], {
    env: process.env,
    timeoutMs: SWEEP_TIMEOUT_MS,
  });
  return status === 0;
}

/** What was left by a run that was killed together with its keepers. */
async function sweep(): Promise<void> {
  const keeper = ["--mount", "--propagation", "private", process.execPath, KEEPER, "sweep", MACHINES];
  await run("unshare", keeper, { env: process.env, timeoutMs: SWEEP_TIMEOUT_MS, check: true });
}

async function runTests({ release, deb, filters }: Options, root: string, machines: string): Promise<number> {
  const tests = spawn(
    process.execPath,
    [VITEST, "run", "--config", path.join(ROOT, "vitest.system.config.ts"), ...filters],
    {
      cwd: ROOT,
      env: {
        ...process.env,
        LEGER_TEST_RELEASE: release,
        LEGER_TEST_ROOT: root,
        LEGER_TEST_DEB: deb,
        LEGER_TEST_MACHINES: machines,
      },
      stdio: ["ignore", "inherit", "inherit"],
      // So that it can be ended with all its workers, and Ctrl-C comes to us alone.
      detached: true,
    },
  );
  const end = (signal: NodeJS.Signals): void => {
    if (tests.pid === undefined) return;
    try {
      process.kill(-tests.pid, signal);
    } catch {
      // It has just ended.
    }
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      end("SIGTERM");
      setTimeout(() => end("SIGKILL"), KILL_AFTER_MS).unref();
    });
  }
  return new Promise((resolve, reject) => {
    tests.once("error", reject);
    tests.once("close", (status) => resolve(status ?? 1));
  });
}

/** Whatever ended the tests, their machines are gone when we are. */
async function cleared(machines: string): Promise<void> {
  const deadline = performance.now() + CLEAR_TIMEOUT_MS;
  const prefix = `${path.basename(machines)}-`;
  for (;;) {
    const left = fs.readdirSync(MACHINES).filter((name) => name.startsWith(prefix));
    if (left.length === 0) return;
    if (performance.now() > deadline) {
      throw new LegerError("FAILED", `machines are still there: ${left.join(", ")}`);
    }
    // Their keepers are at it, unless they were killed.
    await sweep();
    await delay(50);
  }
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(speak(error, "test:system"));
  process.exitCode = exitStatusOf(error);
}
