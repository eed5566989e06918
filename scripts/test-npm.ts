/**
 * test-npm — packs leger with `npm pack`, installs that with `npm install -g` in a bare Debian 12, by its own Node 18 and
 * npm, and tries it there: `npm run test:npm`. As root; nothing of it stays but the Debian, in the cache.
 */
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { exitStatusOf, LegerError, speak } from "../src/core/error.ts";
import { run } from "../src/core/exec.ts";
import { VERSION } from "../src/core/version.ts";
import { machinesObstacle, prepareHost } from "./machine/host.ts";
import { rootOf } from "./machine/root.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PACK_TIMEOUT_MS = 5 * 60_000;
const TRIAL_TIMEOUT_MS = 10 * 60_000;

async function main(): Promise<number> {
  const obstacle = machinesObstacle();
  if (obstacle !== undefined) throw new LegerError("FAILED", obstacle);
  await prepareHost();
  const root = await rootOf("bookworm", ["ca-certificates", "nodejs", "npm"]);
  using work = fs.mkdtempDisposableSync(path.join(os.tmpdir(), "leger-npm-"));
  const shared = path.join(work.path, "shared");
  fs.mkdirSync(shared, { mode: 0o755 });
  await run("npm", ["pack", "--loglevel=error", `--pack-destination=${shared}`], {
    cwd: ROOT,
    env: process.env,
    timeoutMs: PACK_TIMEOUT_MS,
    check: true,
  });
  fs.renameSync(path.join(shared, `leger-${VERSION}.tgz`), path.join(shared, "leger.tgz"));
  for (const script of ["as-root.sh", "as-alice.sh"]) {
    fs.copyFileSync(path.join(ROOT, "scripts/npm", script), path.join(shared, script));
  }
  // How this machine reaches npm's registry; the Debian has its network.
  fs.copyFileSync("/etc/resolv.conf", path.join(shared, "resolv.conf"));
  if (fs.existsSync(CERTIFICATES)) fs.copyFileSync(CERTIFICATES, path.join(shared, "ca.crt"));
  const { stdout } = await run("npm", ["config", "get", "registry"], {
    env: process.env,
    timeoutMs: PACK_TIMEOUT_MS,
    check: true,
  });
  const registry = Buffer.from(stdout).toString().trim();
  const apart = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"];
  const script = path.join(ROOT, "scripts/npm/in-debian.sh");
  const trial = spawn("unshare", [...apart, "sh", script, root, work.path, registry], {
    stdio: ["ignore", "inherit", "inherit"],
    timeout: TRIAL_TIMEOUT_MS,
    killSignal: "SIGKILL",
  });
  // `await`, or the directory would be gone first.
  return await new Promise<number>((resolve, reject) => {
    trial.once("error", reject);
    trial.once("close", (status) => resolve(status ?? 1));
  });
}

/** What this machine trusts, which may be more than a bare Debian does. */
const CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt";

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(speak(error, "test:npm"));
  process.exitCode = exitStatusOf(error);
}
