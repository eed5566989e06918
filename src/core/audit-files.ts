/** audit-files — where legerd's audit logs lie: audit.log and the segments it was before, and the same of the changes. */
import { readdirSync } from "node:fs";
import { join } from "node:path";

/** Names of the two logs, as their files are called. */
export const AUDIT_LOGS = { everything: "audit", changes: "audit-changes" } as const;

/** The file of a log that is written to. */
export function auditFile(stateDir: string, name: string): string {
  return join(stateDir, `${name}.log`);
}

/** What such a file becomes once it is large enough; `first` is the number of its first line, 0 where lines have none. */
export function auditSegment(stateDir: string, name: string, first: number): string {
  return join(stateDir, `${name}-${String(first).padStart(12, "0")}.log`);
}

/** All files of a log that are there, the oldest first. Throws what the system throws. */
export function auditFiles(stateDir: string, name: string): string[] {
  const segment = new RegExp(`^${name}-\\d{12,}\\.log$`);
  const names = readdirSync(stateDir);
  const segments = names.filter((entry) => segment.test(entry)).toSorted();
  return [...segments, ...(names.includes(`${name}.log`) ? [`${name}.log`] : [])].map((entry) =>
    join(stateDir, entry),
  );
}
