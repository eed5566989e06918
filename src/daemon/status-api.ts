/** status-api — whether legerd is well, and where its things lie. */
import { readLastBackup } from "../store/last-backup.ts";
import { json, type Answer } from "./answer.ts";
import type { RouteRequest } from "./request.ts";

/** How many secrets there are is told only to those who may see them all. */
export function health({ session, facts }: RouteRequest): Answer {
  const isDamaged = facts.verification().state === "damaged";
  const word = isDamaged ? "damaged" : "ok";
  const told = session.isOwner
    ? { status: word, secrets_count: session.count(), version: facts.version }
    : { status: word };
  // Whoever probes mostly looks at the number alone.
  return isDamaged ? { ...json(told), status: 503 } : json(told);
}

/** Verifies the audit logs, which may take as long as reading them does. */
export async function verifyAudit({ facts }: RouteRequest): Promise<Answer> {
  const { problems, ...counts } = await facts.verifyAudit();
  return json({ schema_version: 1, ok: problems.length === 0, ...counts, problems });
}

/** `{"doors":[{"unix","mode","principal","grants"?,"routes"?,"name"?}]}`: those that are open, as they were configured when legerd started. */
export function doors({ facts }: RouteRequest): Answer {
  return json({ schema_version: 1, doors: facts.doors });
}

/** Holds numbers and no name: neither a secret's, nor a service's, nor a caller's. */
export async function metrics({ facts }: RouteRequest): Promise<Answer> {
  return { status: 200, ...(await facts.metrics()) };
}

export function status({ session, facts }: RouteRequest): Answer {
  const { secrets, services, podmanEntries } = session.counts();
  return json({
    schema_version: 1,
    version: facts.version,
    pid: facts.pid,
    started_at: facts.startedAt.toISOString(),
    secrets,
    services,
    podman_entries: podmanEntries,
    state_dir: facts.stateDir,
    database: facts.databaseFile,
    main_key: facts.mainKeyFile,
    audit_log: facts.auditFile,
    doors: facts.doors.map(({ unix, principal, grants }) => ({
      unix,
      principal,
      restricted: grants !== undefined,
    })),
    last_backup: lastBackup(facts.stateDir, session.changes()),
    verification: facts.verification(),
  });
}

/** When it was made, and how many changes were asked for since. */
function lastBackup(stateDir: string, changes: number): { made_at: string; changes_since: number } | null {
  const last = readLastBackup(stateDir);
  if (last === undefined) return null;
  return { made_at: last.madeAt, changes_since: changes - last.changes };
}
