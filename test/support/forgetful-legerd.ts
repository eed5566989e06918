/** forgetful-legerd — legerd as it would be if a kill took what was acknowledged with it: it starts without its log. */
import * as fs from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({ strict: false, options: { state: { type: "string" } } });
// Without its mark, too, or it would see that commits are missing, and refuse.
for (const file of ["secrets.db-wal", "secrets.mark"]) {
  fs.rmSync(path.join(String(values.state), file), { force: true });
}
await import("../../src/bin/legerd.ts");
