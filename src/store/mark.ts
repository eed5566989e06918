/**
 * mark — how far the store has come, kept beside the database.
 *
 * SQLite takes a log from the first frame that does not verify as never written: one damaged bit in a log that a
 * crash left, or the log's loss, would quietly bring an older state back. The mark says how many commits were
 * acknowledged at least.
 */
import * as fs from "node:fs";
import { LegerError, systemCode } from "../core/error.ts";
import { createSealer, type Sealer, type StoreKeys } from "./seal.ts";

export const MARK_FILE = "secrets.mark";

const CONTEXT = Buffer.from("mark");

/** Moves the mark of the store that is being written to. */
export type Mark = {
  /** To be called once the commit is durable and before it is acknowledged. */
  set(generation: bigint): void;
  close(): void;
};

/** The last generation that was set; 0 where there is no mark of this store or it can't be read. */
export function readMark(file: string, keys: StoreKeys): bigint {
  try {
    // A named pipe must not keep us waiting.
    const fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
    try {
      return markSealer(keys).open(fs.readFileSync(fd), CONTEXT).readBigUInt64BE();
    } finally {
      fs.closeSync(fd);
    }
  } catch {
    // The mark only ever adds a reason to refuse: a database that is whole is not refused for want of it.
    return 0n;
  }
}

/** Opens the mark for writing, made where it is missing. Throws UNSAFE for what is no file, and what the system throws. */
export function openMark(file: string, keys: StoreKeys): Mark {
  const flags = fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_NOFOLLOW;
  const fd = fs.openSync(file, flags, 0o600);
  if (!fs.fstatSync(fd).isFile()) {
    fs.closeSync(fd);
    throw new LegerError("UNSAFE", `open ${file}: it is not a regular file`, { hints: ["remove it"] });
  }
  const sealer = markSealer(keys);
  let last = -1n;
  return {
    set(generation) {
      if (generation === last) return;
      const plain = Buffer.alloc(8);
      plain.writeBigUInt64BE(generation);
      try {
        // In place and unsynced: it outlives the process at once and a power cut later, which leaves the older mark.
        fs.writeSync(fd, sealer.seal(plain, CONTEXT), 0, undefined, 0);
        last = generation;
      } catch (error) {
        // The commit is durable all the same.
        if (systemCode(error) === undefined) throw error;
      }
    },
    close: () => fs.closeSync(fd),
  };
}

function markSealer({ storeId, dataKey }: StoreKeys): Sealer {
  return createSealer(dataKey, storeId, "mark");
}
