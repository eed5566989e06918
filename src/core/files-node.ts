/** files-node — what is known of files, by node:fs. */

import { fstatSync, lstatSync, readFileSync } from "node:fs";
import type { Files } from "./files.ts";

export const nodeFiles: Files = {
  lstat: (path) => lstatSync(path),
  fstat: (fd) => fstatSync(fd),
  readText(path) {
    try {
      return readFileSync(path, "utf8");
    } catch {
      return undefined;
    }
  },
};
