/** leger-or-legerd — both programs in one file: which of them it is, the name says by which it was called. */

import { basename } from "node:path";

if (basename(process.argv0) === "legerd") void import("./legerd.ts");
else void import("./leger.ts");
