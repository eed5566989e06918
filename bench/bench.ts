/** bench — `npm run bench -- daemon`: each benchmark is a file of its own. */
const [which, ...rest] = process.argv.slice(2);
const BENCHMARKS: Record<string, string | undefined> = {
  daemon: "./daemon/daemon.ts",
  render: "./render/render.ts",
};
const file = BENCHMARKS[which ?? ""];
if (file === undefined) {
  process.stderr.write(`bench: error: name one of: ${Object.keys(BENCHMARKS).join(", ")}\n`);
  process.exit(64);
}
process.argv.splice(2, process.argv.length, ...rest);
await import(file);
