/**
 * prepare — after an install: sees that every npm script runs on the Node 24 that npm brought, with all its tools.
 *
 * Runs on whatever Node the machine has, and mends two things that older npm and Node get wrong:
 * - npm 9 links node_modules/.bin/node and takes the link away again, because the package for the other
 *   architecture, which it does not install, has a program of the same name;
 * - npm judges optional packages by the machine's Node. On Node 18 it leaves out compiled parts of the tools that
 *   ask for Node 20, though they will run on 24. Then npm is run once more, on 24.
 */
"use strict";
const { spawnSync } = require("child_process");
const fs = require("fs");
const path = require("path");

const NEEDED = 24;
const root = path.join(__dirname, "..");
const program = path.join(root, "node_modules", `node-linux-${process.arch}`, "bin", "node");
const npm = process.env["npm_execpath"];

if (process.env["npm_config_package_lock_only"] === "true") {
  // Nothing was installed.
} else if (fs.existsSync(program)) {
  if (npm !== undefined && leftOut().length > 0) installAgain(npm);
  linkNode();
} else if (Number(process.versions.node.split(".")[0]) < NEEDED) {
  fail(
    `npm brought no Node ${NEEDED} for ${process.platform}-${process.arch}, and this machine has ${process.version}`,
    `npm must install optional dependencies; elsewhere than on Linux x64 and arm64 install Node ${NEEDED} yourself`,
  );
}

/** Optional packages that are meant for this machine and are not there, though what asks for them is. */
function leftOut() {
  const { packages } = JSON.parse(fs.readFileSync(path.join(root, "package-lock.json"), "utf8"));
  const there = (place) => fs.existsSync(path.join(root, place));
  return Object.keys(packages)
    .filter(there)
    .flatMap((place) => Object.keys(packages[place].optionalDependencies ?? {}))
    .map((name) => `node_modules/${name}`)
    .filter((place) => {
      const { os, cpu, libc } = packages[place] ?? {};
      if (os === undefined || cpu === undefined) return false;
      const ours = [os].flat().includes("linux") && [cpu].flat().includes(process.arch);
      return ours && [libc ?? "glibc"].flat().includes("glibc") && !there(place);
    });
}

function installAgain(npmProgram) {
  const args = [
    // npm 9 on Node 24 calls what is deprecated by now: no concern of who installs leger.
    "--no-deprecation",
    npmProgram,
    "install",
    "--no-save",
    "--ignore-scripts",
    "--prefer-offline",
    "--loglevel=error",
  ];
  const { status } = spawnSync(program, args, { cwd: root, stdio: ["ignore", "ignore", "inherit"] });
  const missing = leftOut();
  if (status === 0 && missing.length === 0) return;
  fail(
    `npm left out ${missing.join(", ") || "nothing, but failed"}`,
    "try again: npm ci; or use a newer npm: npm install -g npm",
  );
}

function linkNode() {
  const bin = path.join(root, "node_modules", ".bin");
  const link = path.join(bin, "node");
  fs.mkdirSync(bin, { recursive: true });
  fs.rmSync(link, { force: true });
  fs.symlinkSync(path.relative(bin, program), link);
}

function fail(what, remedy) {
  process.stderr.write(`leger: error: ${what}\nleger: hint: ${remedy}\n`);
  process.exit(1);
}
