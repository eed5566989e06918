/** man — writes the manual pages to dist/man. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { manualPages } from "./support/manual.ts";
import { sourceDate } from "./support/source-date.ts";

const directory = fileURLToPath(new URL("../dist/man", import.meta.url));
const pages = await manualPages(await sourceDate());
rmSync(directory, { recursive: true, force: true });
mkdirSync(directory, { recursive: true });
for (const { file, text } of pages) writeFileSync(path.join(directory, file), text);
process.stderr.write(`man: made ${pages.length} pages in dist/man\n`);
