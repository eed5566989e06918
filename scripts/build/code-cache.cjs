/**
 * code-cache — runs a bundled program for a moment, and writes what V8 has compiled of it by then to a file.
 * node code-cache.cjs PROGRAM OUT: as `leger --help` and as `legerd --help`, since both are in the one program.
 */
"use strict";
const fs = require("node:fs");
const { Script } = require("node:vm");

const [program, out] = process.argv.slice(2);
const script = new Script(fs.readFileSync(program, "utf8"), { filename: "leger" });
process.stdout.write = (_text, _encoding, done) => (typeof done === "function" && done(), true);
process.once("exit", () => fs.writeFileSync(out, script.createCachedData()));
/** legerd sets flags of V8's, and V8 takes no cache that was made under other flags than it has when it loads it. */
function load(name) {
  return name === "node:v8" ? { ...require(name), setFlagsFromString() {} } : require(name);
}

for (const argv0 of ["legerd", "leger"]) {
  process.argv.splice(1, process.argv.length, argv0, "--help");
  script.runInThisContext()(load, process.execPath, argv0);
}
