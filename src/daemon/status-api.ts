/** status-api — whether legerd is well, and where its things lie. */
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
  });
}
