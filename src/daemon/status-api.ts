/** status-api — whether legerd is well, and where its things lie. */
import { readLastBackup } from "../store/last-backup.ts";
import { json, type Answer } from "./answer.ts";
import type { RouteRequest } from "./request.ts";

/** How many secrets there are is told only to those who may see them all. */
export function health({ session, facts }: RouteRequest): Answer {
  if (!session.isOwner) return json({ status: "ok" });
  return json({ status: "ok", secrets_count: session.count(), version: facts.version });
}

export function status({ session, facts }: RouteRequest): Answer {
  return json({
    schema_version: 1,
    version: facts.version,
    pid: facts.pid,
    started_at: facts.startedAt.toISOString(),
    secrets: session.count(),
    services: session.services().length,
    podman_entries: session.links().length,
    state_dir: facts.stateDir,
    database: facts.databaseFile,
    main_key: facts.mainKeyFile,
    audit_log: facts.auditFile,
    doors: facts.doors,
    last_backup: lastBackup(facts.stateDir, session.generation()),
  });
}

/** How many commits the store has that it had not: one changes a secret, a service or an entry, or several at once. */
function lastBackup(stateDir: string, generation: bigint): { made_at: string; commits_since: number } | null {
  const last = readLastBackup(stateDir);
  if (last === undefined) return null;
  return { made_at: last.madeAt, commits_since: Number(generation - last.generation) };
}
