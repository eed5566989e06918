/** last-backup — when the last backup was made, noted beside the store for those who look whether there is one. */
import * as fs from "node:fs";
import path from "node:path";
import { systemCode } from "../core/error.ts";
import { openPrivateDirectory } from "../core/private-file.ts";

const NOTE_FILE = "last-backup.json";

export type LastBackup = {
  /** ISO 8601, UTC. */
  madeAt: string;
  /** How many changes the audit log had noted by then. */
  changes: number;
};

/** False where it could not be noted: the backup is no worse for it. */
export function noteBackup(stateDir: string, { madeAt, changes }: LastBackup): boolean {
  try {
    using directory = openPrivateDirectory(stateDir, { euid: process.geteuid?.() ?? 0 });
    const note = { schema_version: 1, made_at: madeAt, changes };
    directory.write(NOTE_FILE, Buffer.from(`${JSON.stringify(note)}\n`));
    return true;
  } catch {
    return false;
  }
}

/** Undefined where there never was one, as far as is known. */
export function readLastBackup(stateDir: string): LastBackup | undefined {
  try {
    const note: unknown = JSON.parse(fs.readFileSync(path.join(stateDir, NOTE_FILE), "utf8"));
    if (typeof note !== "object" || note === null) return undefined;
    const { made_at: madeAt, changes }: Record<string, unknown> = { ...note };
    if (typeof madeAt !== "string" || Number.isNaN(Date.parse(madeAt))) return undefined;
    return typeof changes === "number" ? { madeAt, changes } : undefined;
  } catch (error) {
    if (systemCode(error) === undefined && !(error instanceof SyntaxError)) throw error;
    return undefined;
  }
}
