/** schemas — writes the JSON Schemas of the files that people write. */
import * as fs from "node:fs";
import { schemas } from "./support/schemas.ts";

for (const { file, text } of await schemas()) {
  fs.writeFileSync(file, text);
  process.stdout.write(`${file}\n`);
}
