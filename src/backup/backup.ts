/** backup — the whole store, main key and all, in one sealed file, made beside a running legerd. */
import { beginFile } from "../core/pending-file.ts";
import type { Where } from "../store/database.ts";
import { dumpStore, type DumpFacts, type Progress } from "../store/dump.ts";
import { noteBackup } from "../store/last-backup.ts";
import { seal, type Lock } from "./seal.ts";

export type BackupOptions = {
  where: Where;
  /** Absolute. */
  file: string;
  lock: Lock;
  /** Put it in the place of a file that is there. */
  replace: boolean;
  /** Of leger. */
  version: string;
  now: Date;
  onProgress?: Progress;
  /** What it made is taken back at once, before the caller of `abort` goes on. */
  signal?: AbortSignal;
  /** log2 of scrypt's cost, for tests. */
  workFactor?: number;
};

/**
 * Puts a backup at `file`, readable by us alone, on disk once this resolves; nothing stays after a failure. Throws
 * DAMAGED for a store that is not whole, REFUSED where a file is, IO.
 */
export async function backUp(options: BackupOptions): Promise<DumpFacts> {
  const {
    where,
    file,
    lock,
    replace,
    version,
    now,

    onProgress = () => {},
    signal,
    workFactor,
  } = options;
  using pending = beginFile(file, { replace });
  signal?.addEventListener("abort", () => pending[Symbol.dispose]());
  let facts: DumpFacts | undefined;
  const dump = dumpStore(where, { version, now, onFacts: (told) => (facts = told), onProgress });
  for await (const chunk of await seal(dump, lock, workFactor === undefined ? {} : { workFactor })) {
    pending.write(chunk);
  }
  pending.commit();
  if (facts === undefined) throw new Error("a dump without facts");
  noteBackup(where.stateDir, facts);
  return facts;
}
