/** build-js — bundles each program into one JavaScript file in dist/js: what an npm package holds, and for benchmarks. */
import * as fs from "node:fs";
import path from "node:path";
import { bundle, ROOT } from "./build/bundle.ts";

const out = path.join(ROOT, "dist", "js");
fs.mkdirSync(out, { recursive: true });
for (const program of ["leger", "legerd"]) {
  const { code } = await bundle(`src/bin/${program}.ts`, "esm");
  fs.writeFileSync(path.join(out, `${program}.mjs`), code, { mode: 0o755 });
}
process.stderr.write("build-js: made dist/js\n");
