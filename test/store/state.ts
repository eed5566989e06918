/** state — temporary state directories, what is in them byte for byte, and the questions a store is asked. */
import * as fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { DatabaseSync } from "node:sqlite";
import { LegerError } from "../../src/core/error.ts";
import type { VersionedValue } from "../../src/store/store.ts";

/** A directory of its own for one test, removed afterwards. `dir` inside it is not there yet. */
export function temporaryState(): { parent: string; dir: string; [Symbol.dispose]: () => void } {
  // In memory where that can be had: a sync of a disk costs milliseconds, and thousands are made here.
  const root = fs.existsSync("/dev/shm") ? "/dev/shm" : os.tmpdir();
  const parent = fs.mkdtempSync(path.join(root, "leger-store-"));
  return {
    parent,
    dir: path.join(parent, "state"),
    [Symbol.dispose]: () => fs.rmSync(parent, { recursive: true, force: true }),
  };
}

/** A second connection to the database of a state directory, as a tool of someone else's would open it. */
export function rawDatabase(dir: string): DatabaseSync & Disposable {
  const db = new DatabaseSync(path.join(dir, "secrets.db"), { timeout: 5_000 });
  return Object.assign(db, { [Symbol.dispose]: () => db.close() });
}

/** Every file below a directory with its mode and bytes; to be compared before and after. */
export function contentsOf(dir: string): Record<string, string> {
  const entries = fs.readdirSync(dir, { recursive: true, withFileTypes: true });
  return Object.fromEntries(
    entries
      .map((entry) => path.join(entry.parentPath, entry.name))
      .toSorted()
      .map((file): [string, string] => {
        const stat = fs.lstatSync(file);
        const mode = stat.mode.toString(8);
        return [
          path.relative(dir, file),
          stat.isFile() ? `${mode} ${fs.readFileSync(file, "base64")}` : mode,
        ];
      }),
  );
}

/** What went wrong, or "fine". Anything but a LegerError is a failure of the test. */
export async function codeOf(work: () => unknown): Promise<string> {
  try {
    await work();
    return "fine";
  } catch (error) {
    if (error instanceof LegerError) return error.code;
    throw error;
  }
}

/** A value and its version as one comparable text. */
export function told({ version, value }: VersionedValue): string {
  return `${version}:${Buffer.from(value.reveal()).toString("hex")}`;
}

/** Each answer as text, or the code of the LegerError in its place. */
export async function answersOf(questions: Record<string, () => unknown>): Promise<Record<string, string>> {
  const answers: Record<string, string> = {};
  for (const [question, ask] of Object.entries(questions)) {
    try {
      answers[question] = JSON.stringify(await ask()) ?? "nothing";
    } catch (error) {
      if (!(error instanceof LegerError)) throw error;
      answers[question] = error.code;
    }
  }
  return answers;
}
