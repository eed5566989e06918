/**
 * rekey — another main key for a store. What was sealed stays as it is: only the data key is wrapped anew.
 *
 * Both wraps stay until the new key is durable in its place, so that whichever key file a crash leaves opens the store.
 * The next start brings to an end what was cut short.
 */
import path from "node:path";
import { LegerError } from "../core/error.ts";
import {
  addNextWrap,
  connect,
  findDatabase,
  lockStateDirectory,
  prepareDatabase,
  promoteNextWrap,
  type Where,
} from "./database.ts";
import { createNextMainKey, MAIN_KEY_FILE, mainKeyLine, promoteNextMainKey } from "./main-key.ts";
import { newKey } from "./seal.ts";
import { fromSqlite } from "./sqlite.ts";

/**
 * Puts a new main key in the place of the one in the state directory; resolves with its file. Throws REFUSED while a
 * legerd runs and where the key is a credential of systemd's, CONFIG without a store, and what opening it throws.
 */
export function rekey(where: Where): string {
  return withStore(where, ({ stateDir, keyFile }, wrapFor, promote) => {
    const own = path.join(stateDir, MAIN_KEY_FILE);
    if (keyFile !== own) {
      throw new LegerError("REFUSED", `change the main key: it is not ours to write: ${keyFile}`, {
        hints: [
          "get a new one for a new credential: legerd rekey --print | systemd-creds encrypt --name=main.key - FILE",
        ],
      });
    }
    wrapFor(createNextMainKey(stateDir));
    promoteNextMainKey(stateDir);
    promote();
    return own;
  });
}

/**
 * Makes a new main key and hands it out as a line of text; the store opens by either key until it is first opened by
 * the new one. Throws as `rekey` does.
 */
export function nextMainKey(where: Where): string {
  return withStore(where, (_, wrapFor) => {
    const next = newKey();
    wrapFor(next);
    return mainKeyLine(next);
  });
}

function withStore<T>(
  where: Where,
  work: (
    at: { stateDir: string; keyFile: string },
    wrapFor: (next: Buffer) => void,
    promote: () => void,
  ) => T,
): T {
  const { stateDir } = where;
  const { file, exists } = findDatabase(where);
  if (!exists) {
    throw new LegerError("CONFIG", `change the main key of ${file}: there is no database`, {
      hints: ["name its directory with --state DIR"],
    });
  }
  const lock = lockStateDirectory(stateDir);
  try {
    // Also brings to an end what an earlier one left.
    const { keys, mainKey } = prepareDatabase(where);
    const db = connect(file, "write");
    try {
      return work(
        { stateDir, keyFile: mainKey.file },
        (next) => addNextWrap(db, keys, next),
        () => promoteNextWrap(db),
      );
    } finally {
      db.close();
    }
  } catch (error) {
    throw fromSqlite(error, `change the main key of ${file}`);
  } finally {
    lock[Symbol.dispose]();
  }
}
