/** fill — makes a large store quickly: by the rows themselves, a thousand secrets a commit. */
import { connect, prepareDatabase, prepareStateDirectory } from "../../src/store/database.ts";
import { newOwner, Rows } from "../../src/store/rows.ts";

const SECRETS_A_COMMIT = 1_000;

/** leger/local/k0 and so on, each with the versions 1 to `versions`, the newest of them active. */
export function fillVersions(
  stateDir: string,
  { secrets, versions }: { secrets: number; versions: number },
): void {
  prepareStateDirectory(stateDir);
  const { file, keys } = prepareDatabase({ stateDir });
  const db = connect(file, "write");
  try {
    // It is made for this alone: a power cut may take it.
    db.exec("PRAGMA synchronous = OFF");
    const rows = new Rows(db, keys);
    for (let at = 0; at < secrets; at += SECRETS_A_COMMIT) {
      rows.commit("fill", () => {
        for (let n = at; n < Math.min(secrets, at + SECRETS_A_COMMIT); n += 1) {
          const owner = newOwner();
          for (let version = 1; version <= versions; version += 1) {
            rows.writeValue(owner, version, Buffer.from(valueOf(n, version)));
          }
          const live = [[1, versions]] as const;
          rows.write("secret", {
            name: `leger/local/k${n}`,
            owner,
            active: versions,
            latest: versions,
            live,
            deleted: [],
          });
        }
      });
    }
  } finally {
    db.close();
  }
}

export function valueOf(secret: number, version: number): string {
  return `sk-proj-${secret}-${version}-0123456789abcdef`;
}
