/** test-system — runs the system tests: on whole Debian machines with systemd and Podman, booted for them. */
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { exitStatusOf, LegerError, speak } from "../src/core/error.ts";
import { VERSION } from "../src/core/version.ts";
import { withMachines } from "./machine/host.ts";
import { RELEASES, type Release } from "./machine/root.ts";

const HELP = `npm run test:system -- [--release ${RELEASES.join("|")}] [--deb FILE] [-t NAME] [FILE…]

Boots Debian machines (as root, with systemd-nspawn), installs leger's package in them and runs test/system.

  --release NAME  which Debian (default: trixie)
  --deb FILE      the package (default: $LEGER_TEST_DEB, or what "npm run package" made in dist/)
  -t NAME         only tests with this in their title
  FILE            only test files with this in their path
`;

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const VITEST = path.join(ROOT, "node_modules/vitest/vitest.mjs");
const KILL_AFTER_MS = 5_000;

type Options = { release: Release; deb: string; filters: string[] };

async function main(args: string[]): Promise<number> {
  const options = parse(args);
  if (options === undefined) {
    process.stdout.write(HELP);
    return 0;
  }
  return withMachines(options.release, (root, machines) => runTests(options, root, machines));
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

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(speak(error, "test:system"));
  process.exitCode = exitStatusOf(error);
}
