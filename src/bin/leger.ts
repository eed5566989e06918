#!/usr/bin/env node
/** leger — the command line's entry point: hot commands at once, all else by the CLI, which is loaded for it. */

import { nodeFiles } from "../core/files-node.ts";
import { worldOf } from "../core/paths.ts";
import { VERSION } from "../core/version.ts";
import { hotCommand } from "../cli/hot.ts";
import { isStdoutClosed, runHot, sayFailure, type Runtime } from "../cli/run-hot.ts";

const runtime: Omit<Runtime, "wireTo"> = {
  env: process.env,
  files: nodeFiles,
  stdin: () => process.stdin,
  write: (bytes) =>
    new Promise((resolve, reject) => {
      process.stdout.on("error", reject);
      process.stdout.write(bytes, (error) => (error ? reject(error) : resolve()));
    }),
  say: (text) => void standardError().write(text),
  exit: (status) => process.exit(status),
};

async function main(): Promise<void> {
  const argv = process.argv.slice(2);
  const hot = hotCommand(argv);
  // An input that never ends would keep us here, so a hot command ends the process.
  if (hot !== undefined) {
    // Loaded when it is needed: node:net takes longer than all else here.
    const { nodeWire } = await import("../core/wire-node.ts");
    runtime.exit(await runHot(hot, { ...runtime, wireTo: nodeWire }));
  }
  try {
    process.exitCode = await runWholeCli(argv);
  } catch (error) {
    process.exitCode = sayFailure(error, runtime);
  }
}

async function runWholeCli(argv: readonly string[]): Promise<number> {
  const { runCli } = await import("../cli/main.ts");
  const stdout = isStdoutClosed(nodeFiles) ? await closedOutput() : process.stdout;
  return runCli(argv, {
    ...worldOf(process.env, nodeFiles),
    stdout,
    // Node makes each of them when it is first asked for, which takes longer than most commands do that need neither.
    get stdin() {
      return process.stdin;
    },
    get stderr() {
      return standardError();
    },
    isTTY: {
      stdout: process.stdout.isTTY,
      get stdin() {
        return process.stdin.isTTY;
      },
      get stderr() {
        return standardError().isTTY;
      },
    },
    columns: process.stdout.columns,
    cwd: workingDirectory(),
    version: VERSION,
    program: installedByNpm(),
    userConfigDir: await userConfigDir(),
  });
}

/** Whoever reads may go away at any time; what cannot be said then need not be. */
function standardError(): NodeJS.WriteStream {
  const { stderr } = process;
  if (stderr.listenerCount("error") === 0) stderr.on("error", () => {});
  return stderr;
}

/**
 * Where npm put leger, when it was npm: the link in its bin directory where that is ours, else the package's own file.
 * Podman and units keep this, so it has to outlive upgrades. Undefined for a checkout and for what a package of the
 * system's put there.
 */
function installedByNpm(): string | undefined {
  const { existsSync, realpathSync } = process.getBuiltinModule("node:fs");
  const path = process.getBuiltinModule("node:path");
  // Absent in what is compiled.
  const here: string | undefined = import.meta.dirname;
  if (here === undefined) return undefined;
  const own = path.resolve(here, "../npm/bin/leger");
  if (!existsSync(own)) return undefined;
  // PREFIX/lib/node_modules/leger/dist/npm/bin/leger
  const link = path.resolve(own, "../../../../../../../bin/leger");
  return existsSync(link) && realpathSync(link) === realpathSync(own) ? link : own;
}

/** A working directory can be gone; only relative paths need one. */
function workingDirectory(): string {
  try {
    return process.cwd();
  } catch {
    return "/";
  }
}

/** Also without HOME, from the user's entry in /etc/passwd; undefined where there is neither. */
async function userConfigDir(): Promise<string | undefined> {
  try {
    const { default: envPaths } = await import("env-paths");
    return envPaths("leger", { suffix: "" }).config;
  } catch {
    return undefined;
  }
}

/** Fails as a closed file does. */
async function closedOutput(): Promise<NodeJS.WritableStream> {
  const { Writable } = await import("node:stream");
  const failure = Object.assign(new Error("standard output is closed"), { code: "EBADF" });
  return new Writable({ write: (_chunk, _encoding, done) => done(failure) });
}

void main();
