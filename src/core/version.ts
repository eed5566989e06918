/** version — this release, as package.json has it (a test compares them). */
import { BUILD } from "./build.ts";

export const VERSION = "0.1.0";

/** What `--version` says: the release, and what it was built from and runs on. */
export function versionLine(program: string): string {
  const from = BUILD === undefined ? "from a checkout" : `commit ${BUILD.commit}`;
  const hot = BUILD === undefined ? "" : `, Bun ${BUILD.bun}`;
  return `${program} ${VERSION} (${from}; Node ${process.versions.node}${hot})`;
}
