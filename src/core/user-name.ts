/** user-name — what this user is called, for the audit log. */
import { userInfo } from "node:os";

/** A container's user may have no line in /etc/passwd. */
export function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return `uid ${process.geteuid?.() ?? "unknown"}`;
  }
}
