/** sea — both programs as one executable on Node, by pkg. */
import * as fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { run } from "../../src/core/exec.ts";
import type { Arch } from "./bases.ts";

/** The executable is the one by whose name it is called, and leger by any other name. */
type Program = "leger" | "legerd";

type Needs = {
  /** A directory to leave files in. */
  work: string;
  /** Each as one file of CommonJS, which asks for nothing but Node's own modules. */
  programs: Readonly<Record<Program, string>>;
  nodeVersion: string;
  /** Node's program for each architecture that is wanted. */
  bases: readonly (readonly [Arch, string])[];
};

/** What is used of pkg's SEA mode. Its command line hands none of Node's own options on. */
type Sea = (
  entry: string,
  options: {
    targets: { nodeRange: string; platform: "linux"; arch: Arch; output: string }[];
    seaConfig: Record<string, unknown>;
  },
) => Promise<void>;

const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url));

/** Resolves with the executable for each architecture. */
export async function compileSea({ work, programs, nodeVersion, bases }: Needs): Promise<[Arch, string][]> {
  const assets: Record<string, string> = {};
  const caches: Record<string, string> = {};
  const options = { env: { PATH: process.env["PATH"], HOME: work }, timeoutMs: 60_000, check: true };
  // The seed decides in which order V8 writes things down, and is none of the flags that a cache depends on.
  const seeded = ["--random-seed=1", here("code-cache.cjs")];
  for (const [name, code] of Object.entries(programs)) {
    const file = (assets[name] = path.join(work, `${name}.js`));
    fs.writeFileSync(file, `(function (require, __filename) {${code}\n})`);
    const cache = (caches[`${name}.cache`] = path.join(work, `${name}.cache`));
    await run(process.execPath, [...seeded, "make", name, file, cache], options);
    await run(process.execPath, [here("code-cache.cjs"), "check", name, file, cache], options);
  }

  const { default: sea }: { default: Sea } = createRequire(import.meta.url)("@yao-pkg/pkg/lib-es5/sea.js");
  const made: [Arch, string][] = [];
  const main = "sea-main.cjs";
  fs.copyFileSync(here(main), path.join(work, main));
  const { HOME, TMPDIR } = process.env;
  try {
    // pkg looks for Node's programs in its cache below HOME, and would otherwise download them. It works in a new
    // directory below TMPDIR.
    Object.assign(process.env, { HOME: work, TMPDIR: work });
    for (const [arch, base] of bases) {
      offer(path.join(work, ".pkg-cache", "sea"), `node-v${nodeVersion}-linux-${arch}`, base);
      const output = path.join(work, `leger-cli-${arch}`);
      await sea(path.join(work, main), {
        targets: [{ nodeRange: `node${nodeVersion}`, platform: "linux", arch, output }],
        seaConfig: {
          // As seen from there. It is written into the program, so it must not depend on where things lie.
          main: `../${main}`,
          disableExperimentalSEAWarning: true,
          // Neither NODE_OPTIONS nor an argument makes it load, trace or debug anything.
          execArgvExtension: "none",
          // V8 takes compiled code of its own architecture only; elsewhere the program starts without.
          assets: { ...assets, ...(arch === process.arch ? caches : {}) },
        },
      });
      made.push([arch, output]);
    }
  } finally {
    restore("HOME", HOME);
    restore("TMPDIR", TMPDIR);
  }
  return made;
}

function restore(name: string, value: string | undefined): void {
  if (value === undefined) delete process.env[name];
  else process.env[name] = value;
}

/** Puts a program where pkg finds it as downloaded, checked and unpacked. */
function offer(cache: string, name: string, program: string): void {
  const bin = path.join(cache, name, "bin");
  fs.mkdirSync(bin, { recursive: true });
  fs.symlinkSync(program, path.join(bin, "node"));
  for (const file of [
    path.join(bin, "node.ok"),
    path.join(cache, `${name}.tar.gz`),
    path.join(cache, `${name}.tar.gz.ok`),
  ]) {
    fs.writeFileSync(file, "");
  }
}
