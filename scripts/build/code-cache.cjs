/**
 * code-cache — runs a bundled program for a moment, and writes what V8 has compiled of it by then to a file.
 * node --random-seed=1 code-cache.cjs make PROGRAM OUT: as `leger --help` and as `legerd --help`, since both are in
 * the one program. The same program gives the same bytes. node code-cache.cjs check PROGRAM OUT: fails where V8
 * would not take it.
 */
"use strict";
const fs = require("node:fs");
const { setFlagsFromString } = require("node:v8");
const { Script } = require("node:vm");

/**
 * What V8 does by the clock and in threads of its own, some of which leaves marks in the compiled code. Back as it was
 * before the code is written: V8 takes no cache that was made under other flags than it has when it loads it.
 */
const BY_CHANCE = ["sparkplug", "maglev", "opt", "flush-bytecode", "incremental-marking"];

const [task, program, out] = process.argv.slice(2);
const source = fs.readFileSync(program, "utf8");
if (task === "check") check();
else make();

function make() {
  for (const flag of BY_CHANCE) setFlagsFromString(`--no-${flag}`);
  const script = new Script(source, { filename: "leger" });
  process.stdout.write = (_text, _encoding, done) => (typeof done === "function" && done(), true);
  process.once("exit", () => {
    for (const flag of BY_CHANCE) setFlagsFromString(`--${flag}`);
    fs.writeFileSync(out, script.createCachedData());
  });
  for (const argv0 of ["legerd", "leger"]) {
    process.argv.splice(1, process.argv.length, argv0, "--help");
    script.runInThisContext()(load, process.execPath, argv0);
  }
}

/** legerd sets flags of V8's, which would be others then, too. */
function load(name) {
  return name === "node:v8" ? { ...require(name), setFlagsFromString() {} } : require(name);
}

function check() {
  const { cachedDataRejected } = new Script(source, { filename: "leger", cachedData: fs.readFileSync(out) });
  if (cachedDataRejected) throw new Error("V8 does not take the code that it compiled itself");
}
