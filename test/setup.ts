/** setup — gives a run of the tests a temporary directory of its own, and takes it away with all that is left in it. */
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

/** Workers are ended by a signal: what they keep until their end, and what a test that failed left behind, lies in there. */
export function setup(): () => void {
  // Short: Podman takes no runroot of more than 50 characters, and the tests keep theirs below.
  const directory = fs.mkdtempSync(path.join(tmpdir(), "l-"));
  const remove = (): void => fs.rmSync(directory, { recursive: true, force: true });
  process.env["TMPDIR"] = directory;
  // After Ctrl-C vitest tears nothing down.
  process.once("exit", remove);
  return remove;
}
