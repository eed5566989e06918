/** transfer — all secrets of a store at one moment, for other programs; and secrets of theirs taken in, all or none. */
import { LegerError } from "../core/error.ts";
import { openAuditLog } from "./audit.ts";
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
import { createChainKey } from "./seal.ts";
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

/** Who takes secrets in, for the audit log; and what hears its notices. */
export type TakingIn = { principal: string; log: (line: string) => void };

/**
 * Takes secrets in with their numbers, in one commit, into a store that is made where there is none. Throws REFUSED
 * where a name is taken and while a legerd runs.
 */
export async function takeIn(
  where: Where,
  secrets: readonly PortableSecret[],
  { principal, log }: TakingIn,
): Promise<void> {
  const { stateDir } = where;
  prepareStateDirectory(stateDir);
  const lock = lockStateDirectory(stateDir);
  try {
    const { file, keys } = prepareDatabase(where);
    const db = connect(file, "write");
    try {
      const rows = new Rows(db, keys);
      const noted = rows.snapshot("import", () => {
        requireFree(rows, secrets);
        return rows.read("audit", "heads");
      });
      const audit = openAuditLog({ stateDir, key: createChainKey(keys), noted, log });
      try {
        // First, as with every change: what cannot be noted is not done.
        const lines = secrets.map(({ name, state: { active } }) =>
          audit.appendChange({
            principal,
            action: "create-version",
            authorized: true,
            secret: name,
            version: active,
          }),
        );
        await Promise.all(lines);
        await audit.sync();
        rows.commit("import", () => {
          for (const secret of secrets) write(rows, secret);
          rows.write("audit", { name: "heads", ...audit.heads });
        });
      } finally {
        audit.close();
      }
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

function requireFree(rows: Rows, secrets: readonly PortableSecret[]): void {
  const taken = secrets.filter(({ name }) => rows.read("secret", name) !== undefined);
  const [first] = taken;
  if (first === undefined) return;
  const more = taken.length > 1 ? ` (and ${taken.length - 1} more)` : "";
  throw new LegerError(
    "REFUSED",
    `import: secret ${first.name} is there already${more}; nothing was changed`,
    { hints: ["delete it first, or import into a store of its own with --state DIR"] },
  );
}

function write(rows: Rows, { name, state, values }: PortableSecret): void {
  const owner = newOwner();
  for (const [number, value] of values) rows.writeValue(owner, number, value);
  rows.write("secret", { name, owner, ...state });
}
