/**
 * weakened — loaded first, makes a legerd that syncs less than it should; which, says the query of this module's address.
 *
 * What it leaves out has to be missed when the power goes, or whoever looks for it sees nothing.
 */
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { DatabaseSync } from "node:sqlite";

/** As what is missing is called. */
export const WEAKNESSES = [
  "synchronous=OFF",
  "synchronous=NORMAL",
  "no sync of the main key's directory",
  "no sync of the directory above the state directory",
  "no sync of the log of changes",
] as const;

function weaken(weakness: string): void {
  const [pragma, level] = weakness.split("=");
  if (pragma === "synchronous" && level !== undefined) {
    const exec = Reflect.get(DatabaseSync.prototype, "exec");
    DatabaseSync.prototype.exec = function weakened(sql: string): void {
      exec.call(this, sql.replace("synchronous = FULL", `synchronous = ${level}`));
    };
  }
  const forgotten = new Map([
    ["no sync of the main key's directory", /\/keys$/],
    ["no sync of the directory above the state directory", /\/leger$/],
  ]).get(weakness);
  if (forgotten !== undefined) {
    const { fsyncSync } = fs;
    fs.fsyncSync = (fd) => {
      if (!forgotten.test(fs.readlinkSync(`/proc/self/fd/${fd}`))) fsyncSync(fd);
    };
  }
  if (weakness === "no sync of the log of changes") {
    Object.assign(fs, { fdatasync: pretendToSync });
  }
  syncBuiltinESMExports();
}

function pretendToSync(_fd: number, done: (error: null) => void): void {
  setImmediate(done, null);
}

weaken(decodeURIComponent(new URL(import.meta.url).search.slice(1)));
