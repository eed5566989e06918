/** transfer — all secrets of a store at one moment, for other programs; and secrets of theirs taken in, all or none. */
import { LegerError } from "../core/error.ts";
import { connectToLook, findStore } from "./check.ts";
import {
  connect,
  lockStateDirectory,
  markFileOf,
  prepareDatabase,
  prepareStateDirectory,
  readKeys,
  type Where,
} from "./database.ts";
import { openMark } from "./mark.ts";
import { newOwner, Rows } from "./rows.ts";
import { fromSqlite } from "./sqlite.ts";
import { listNumbers, type SecretState } from "./versions.ts";

/** A secret with all that setec, too, remembers of it. */
export type PortableSecret = { name: string; state: SecretState; values: ReadonlyMap<number, Uint8Array> };

/** Read beside a running legerd or without one. Throws DAMAGED where one of them is not whole, and what opening throws. */
export function readSecrets(where: Where): PortableSecret[] {
  const { file, mainKey } = findStore(where, "read");
  const db = connectToLook(file);
  try {
    const { keys } = readKeys(db, file, mainKey);
    const rows = new Rows(db, keys);
    return rows.snapshot(`read ${file}`, () =>
      [...rows.scan("secret")].map(({ name, owner, active, latest, live, deleted }) => ({
        name,
        state: { active, latest, live, deleted },
        values: new Map(listNumbers(live).map((number) => [number, rows.readValue(owner, number)])),
      })),
    );
  } catch (error) {
    throw fromSqlite(error, `read ${file}`);
  } finally {
    db.close();
  }
}

/**
 * Takes secrets in with their numbers, in one commit, into a store that is made where there is none. `note` is called
 * before that, with the store ours. Throws REFUSED where a name is taken and while a legerd runs.
 */
export async function takeIn(
  where: Where,
  secrets: readonly PortableSecret[],
  note: () => Promise<void>,
): Promise<void> {
  const { stateDir } = where;
  prepareStateDirectory(stateDir);
  const lock = lockStateDirectory(stateDir);
  try {
    const { file, keys } = prepareDatabase(where);
    const db = connect(file, "write");
    try {
      const rows = new Rows(db, keys);
      const taken = rows.snapshot("import", () =>
        secrets.filter(({ name }) => rows.read("secret", name) !== undefined),
      );
      const [first] = taken;
      if (first !== undefined) {
        const more = taken.length > 1 ? ` (and ${taken.length - 1} more)` : "";
        throw new LegerError(
          "REFUSED",
          `import: secret ${first.name} is there already${more}; nothing was changed`,
          {
            hints: ["delete it first, or import into a store of its own with --state DIR"],
          },
        );
      }
      await note();
      rows.commit("import", () => {
        for (const { name, state, values } of secrets) {
          const owner = newOwner();
          for (const [number, value] of values) rows.writeValue(owner, number, value);
          rows.write("secret", { name, owner, ...state });
        }
      });
      const mark = openMark(markFileOf(file), keys);
      mark.set(rows.generation);
      mark.close();
    } finally {
      db.close();
    }
  } catch (error) {
    throw fromSqlite(error, `import into ${stateDir}`);
  } finally {
    lock[Symbol.dispose]();
  }
}
