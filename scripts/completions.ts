/** completions — writes the shells' completion scripts to dist/completions. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { completionScripts } from "./support/completions.ts";

const directory = fileURLToPath(new URL("../dist/completions", import.meta.url));
rmSync(directory, { recursive: true, force: true });
for (const { shell, file, text } of await completionScripts()) {
  mkdirSync(path.join(directory, shell), { recursive: true });
  writeFileSync(path.join(directory, shell, file), text);
}
process.stderr.write("completions: made dist/completions\n");
