import * as fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { run } from "../../src/core/exec.ts";
import { PROJECT_DIR } from "../support/legerd.ts";

const MINUTES = 60_000;

const work = fs.mkdtempDisposableSync(path.join(os.tmpdir(), "leger-twice-"));
const inWork = (name: string): string => path.join(work.path, name);

beforeAll(async () => {
  await build(PROJECT_DIR, inWork("first"), {});
  const copy = inWork("a/copy of the tree");
  await copyTree(copy);
  await build(copy, inWork("second"), {
    HOME: inWork("a"),
    XDG_CACHE_HOME: process.env["XDG_CACHE_HOME"] ?? path.join(os.homedir(), ".cache"),
    TMPDIR: inWork("a"),
    LANG: "C",
    TZ: "Asia/Tokyo",
  });
}, 10 * MINUTES);
afterAll(() => work.remove());

async function build(tree: string, out: string, env: Readonly<Record<string, string>>): Promise<void> {
  await run(process.execPath, [path.join(tree, "scripts/build.ts"), "--out", out], {
    cwd: tree,
    env: { ...process.env, ...env },
    timeoutMs: 5 * MINUTES,
    check: true,
  });
}

/** With its history, since programs name their commit, and with its packages: real ones, since bundlers follow links. */
async function copyTree(copy: string): Promise<void> {
  const options = { env: process.env, cwd: PROJECT_DIR, timeoutMs: 5 * MINUTES, check: true };
  fs.mkdirSync(copy, { recursive: true });
  if (fs.existsSync(path.join(PROJECT_DIR, ".git"))) {
    await run("git", ["clone", "--quiet", "--shared", "--no-checkout", PROJECT_DIR, copy], options);
    await run("git", ["-C", copy, "reset", "--quiet"], options);
  }
  const parts = fs.readdirSync(PROJECT_DIR).filter((name) => name !== ".git" && name !== "dist");
  await run("cp", ["--archive", "--reflink=auto", "--target-directory", copy, ...parts], options);
}

test.for([
  ["x64", "leger"],
  ["x64", "leger-cli"],
  ["arm64", "leger"],
  ["arm64", "leger-cli"],
] as const)(
  "built twice, elsewhere and by another user's settings: %s %s is the same bytes",
  ([arch, name]) => {
    const first = fs.readFileSync(inWork(`first/linux-${arch}/${name}`));
    const second = fs.readFileSync(inWork(`second/linux-${arch}/${name}`));
    expect(first.length).toBeGreaterThan(50e6);
    expect({ length: second.length, differsAt: firstDifference(first, second) }).toEqual({
      length: first.length,
      differsAt: undefined,
    });
    expect(first.includes(PROJECT_DIR)).toBe(false);
  },
);

function firstDifference(one: Buffer, other: Buffer): number | undefined {
  if (one.equals(other)) return undefined;
  const at = one.findIndex((byte, index) => byte !== other[index]);
  return at < 0 ? one.length : at;
}
