/** user-name — who runs this program, for the audit log. */
import * as os from "node:os";

/** A container's user may have no line in /etc/passwd. */
export function userName(): string {
  try {
    return os.userInfo().username;
  } catch {
    return `uid ${process.geteuid?.() ?? "unknown"}`;
  }
}
