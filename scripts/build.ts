/**
 * build — what people install, for x64 and arm64: `npm run build [-- --arch x64] [--out DIR]`.
 *
 * dist/linux-ARCH/leger is the hot client (Bun), dist/linux-ARCH/leger-cli the whole command line, which is the
 * daemon too when it is called legerd (Node, as a single executable by pkg). Nothing is downloaded but npm packages.
 * The same commit gives the same bytes, wherever it lies.
 */
import * as fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { run } from "../src/core/exec.ts";
import { ARCHES, bunProgram, nodeProgram, NODE_VERSION, type Arch } from "./build/bases.ts";
import { bundle, ROOT } from "./build/bundle.ts";
import { compileSea } from "./build/sea.ts";

const { values } = parseArgs({
  options: {
    arch: { type: "string", multiple: true },
    out: { type: "string", default: path.join(ROOT, "dist") },
  },
});
const arches = (values.arch ?? ARCHES).map((name) => {
  const arch = ARCHES.find((known) => known === name);
  if (arch === undefined) throw new Error(`--arch is one of ${ARCHES.join(", ")}`);
  return arch;
});

function say(text: string): void {
  process.stderr.write(`build: ${text}\n`);
}

/** The order of these flags is of no matter; each keeps something of the caller's surroundings out, or start-up short. */
const BUN_FLAGS = [
  "--compile",
  "--target=bun",
  // Without the compiled form, parsing alone takes as long as all the rest of a lookup.
  "--bytecode",
  "--minify",
  "--no-compile-autoload-dotenv",
  "--no-compile-autoload-bunfig",
  "--no-compile-autoload-tsconfig",
  "--no-compile-autoload-package-json",
];

async function buildHot(work: string, code: string, arch: Arch): Promise<void> {
  const entry = path.join(work, "leger.cjs");
  fs.writeFileSync(entry, code);
  const out = path.join(work, `leger-${arch}`);
  const bun = await bunProgram(process.arch === "arm64" ? "arm64" : "x64");
  await run(
    bun,
    ["build", ...BUN_FLAGS, `--compile-executable-path=${await bunProgram(arch)}`, `--outfile=${out}`, entry],
    { env: { PATH: process.env["PATH"], HOME: work }, cwd: work, timeoutMs: 120_000, check: true },
  );
  install(out, arch, "leger");
}

/** In place whole, by renaming: what runs from there meanwhile goes on. */
function install(file: string, arch: Arch, name: string): void {
  const directory = path.resolve(values.out, `linux-${arch}`);
  fs.mkdirSync(directory, { recursive: true });
  const target = path.join(directory, name);
  fs.copyFileSync(file, `${target}.new`);
  fs.chmodSync(`${target}.new`, 0o755);
  fs.renameSync(`${target}.new`, target);
  say(`made ${path.relative(ROOT, target)} (${(fs.statSync(target).size / 1e6).toFixed(1)} MB)`);
}

const work = fs.mkdtempSync(path.join(os.tmpdir(), "leger-build-"));
try {
  const hot = await bundle("src/bin/leger-hot.ts", "cjs");
  for (const arch of arches) await buildHot(work, hot.code, arch);
  const { code: leger } = await bundle("src/bin/leger.ts", "cjs");
  const { code: legerd } = await bundle("src/bin/legerd.ts", "cjs");
  const bases = await Promise.all(arches.map(async (arch) => [arch, await nodeProgram(arch)] as const));
  const sea = { work, programs: { leger, legerd }, nodeVersion: NODE_VERSION, bases };
  for (const [arch, file] of await compileSea(sea)) {
    install(file, arch, "leger-cli");
  }
} finally {
  fs.rmSync(work, { recursive: true, force: true });
}
