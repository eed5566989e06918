/** sqlite — what node:sqlite hands back and throws, as types and errors of ours. */
import { LegerError, systemCode } from "../core/error.ts";

/** https://www.sqlite.org/rescode.html, the low byte of SQLite's extended result codes. */
const RESULT = { busy: 5, readOnly: 8, ioError: 10, corrupt: 11, full: 13, cantOpen: 14, notADatabase: 26 };

const CHECK_HINT = 'see what is wrong with "legerd check"; nothing was changed';

const DISK_HINT = "see whether we may write there, and whether the file system is read-only, full or failing";

/** The bytes of a column. A column that is missing or of another type means a damaged database. */
export function asBlob(value: unknown): Buffer {
  if (!(value instanceof Uint8Array)) {
    throw asDamage(
      new LegerError("DAMAGED", "the database is damaged: a row is missing or has a wrong type"),
    );
  }
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
}

/** The same damage with the advice that goes with it. */
export function asDamage(error: LegerError): LegerError {
  return new LegerError(error.code, error.message, { hints: [CHECK_HINT], cause: error.cause });
}

/**
 * What SQLite threw, as a LegerError: IO for a disk that is full, fails or may not be written to, DAMAGED for a file that is no longer what
 * legerd wrote (a missing table among it). Anything that already is a LegerError comes back as it is.
 */
export function fromSqlite(error: unknown, doing: string): LegerError {
  if (error instanceof LegerError) return error;
  const extended = error instanceof Error && "errcode" in error ? error.errcode : undefined;
  if (typeof extended !== "number") {
    const code = systemCode(error);
    return code === undefined || code.startsWith("ERR_")
      ? new LegerError("BUG", `${doing}: unexpected error`, { cause: error })
      : new LegerError("IO", `${doing}: ${code}`, { hints: [DISK_HINT], cause: error });
  }
  const result = extended & 0xff;
  if (result === RESULT.full) {
    return new LegerError("IO", `${doing}: the disk is full`, {
      hints: ["make room, then try again"],
      cause: error,
    });
  }
  if (result === RESULT.busy) {
    return new LegerError("IO", `${doing}: the database is in use by another program`, { cause: error });
  }
  if (result === RESULT.ioError || result === RESULT.readOnly || result === RESULT.cantOpen) {
    return new LegerError("IO", `${doing}: the file system refused`, { hints: [DISK_HINT], cause: error });
  }
  return asDamage(new LegerError("DAMAGED", `${doing}: the database is damaged`, { cause: error }));
}
