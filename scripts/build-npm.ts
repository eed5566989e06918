/**
 * build-npm — makes what an npm package holds beside files of this tree, in dist/js and dist/npm. `npm pack` runs it.
 *
 * JavaScript in one file for each program, since Node strips no types below node_modules; launchers, which choose a
 * Node; manual pages, completions, and the terms of what is bundled.
 */
import * as fs from "node:fs";
import path from "node:path";
import { speak } from "../src/core/error.ts";
import { ROOT } from "./build/bundle.ts";
import { thirdParties } from "./package/licenses.ts";
import { completionScripts } from "./support/completions.ts";
import { manualPages } from "./support/manual.ts";
import { sourceDate } from "./support/source-date.ts";

const out = path.join(ROOT, "dist", "npm");

async function main(): Promise<void> {
  fs.rmSync(out, { recursive: true, force: true });
  await import("./build-js.ts");
  for (const program of ["leger", "legerd"]) {
    put(`bin/${program}`, fs.readFileSync(path.join(ROOT, "packaging/npm/launcher.sh")), 0o755);
  }
  const pages = await manualPages(await sourceDate());
  for (const { file, text } of pages) put(`man/${file}`, text);
  tellUnlisted(pages.map(({ file }) => `dist/npm/man/${file}`));
  for (const { shell, file, text } of await completionScripts()) put(`completions/${shell}/${file}`, text);
  const { packages } = await thirdParties();
  const terms = packages.map(
    ({ name, version, license, text }) => `${name} ${version} (${license})\n\n${text}`,
  );
  put("THIRD-PARTY", terms.map((term) => term.trim()).join(`\n\n${"-".repeat(80)}\n\n`) + "\n");
  process.stderr.write("build-npm: made dist/npm\n");
}

function put(name: string, content: string | Uint8Array, mode = 0o644): void {
  const file = path.join(out, name);
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, content, { mode });
}

/** npm takes a list of files for `man`, not a directory. A page that is missing there is still in the package. */
function tellUnlisted(pages: readonly string[]): void {
  const { man }: { man: string[] } = JSON.parse(fs.readFileSync(path.join(ROOT, "package.json"), "utf8"));
  const unlisted = pages.filter((page) => !man.includes(page));
  if (unlisted.length === 0) return;
  process.stderr.write(`build-npm: package.json: "man" should name ${unlisted.join(", ")}\n`);
}

try {
  await main();
} catch (error) {
  process.stderr.write(speak(error, "build-npm"));
  process.exitCode = 1;
}
