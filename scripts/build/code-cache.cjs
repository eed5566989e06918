/**
 * code-cache — runs a bundled program for a moment, and writes what V8 has compiled of it by then to a file.
 * node --random-seed=1 code-cache.cjs make NAME PROGRAM OUT: runs it as what stands in RUNS. The same program gives the
 * same bytes. node code-cache.cjs check NAME PROGRAM OUT: fails where V8 would not take it.
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

/** What is compiled for most commands. No legerd is there to ask, nor is one asked that runs where this is built. */
const RUNS = {
  leger: [["--help"], ["secrets", "list", "--socket", "/nonexistent/legerd.sock"]],
  legerd: [["--help"]],
};
/** No legerd, as is meant. */
const UNREACHABLE_STATUS = 69;

const [task, name, program, out] = process.argv.slice(2);
const source = fs.readFileSync(program, "utf8");
if (task === "check") check();
else make();

function make() {
  for (const flag of BY_CHANCE) setFlagsFromString(`--no-${flag}`);
  const script = new Script(source, { filename: name });
  for (const stream of [process.stdout, process.stderr]) {
    stream.write = (_text, written, done = written) => (typeof done === "function" && done(), true);
  }
  process.once("exit", () => {
    if (process.exitCode === UNREACHABLE_STATUS) process.exitCode = 0;
    for (const flag of BY_CHANCE) setFlagsFromString(`--${flag}`);
    fs.writeFileSync(out, script.createCachedData());
  });
  for (const line of RUNS[name]) {
    process.argv.splice(1, process.argv.length, name, ...line);
    script.runInThisContext()(load, process.execPath);
  }
}

/** legerd sets flags of V8's, which would be others then, too. */
function load(module) {
  return module === "node:v8" ? { ...require(module), setFlagsFromString() {} } : require(module);
}

function check() {
  const { cachedDataRejected } = new Script(source, { filename: name, cachedData: fs.readFileSync(out) });
  if (cachedDataRejected) throw new Error("V8 does not take the code that it compiled itself");
}
