/** world — all that a run of the command line depends on and may touch. */
import { join } from "node:path";
import type { World } from "../core/paths.ts";

export type CliWorld = World & {
  stdin: CliInput;
  stdout: NodeJS.WritableStream;
  stderr: NodeJS.WritableStream;
  /** Which of the three are a person's terminal. */
  isTTY: { stdin: boolean; stdout: boolean; stderr: boolean };
  /** How wide standard output's terminal is. Absent: there is none. */
  columns?: number | undefined;
  /** Relative paths start here. */
  cwd: string;
  version: string;
  /** Where Podman and units find leger. Absent: where a package of the system's puts it. */
  program?: string | undefined;
  /** Where the machine's own files begin: /etc, /usr, /var, /proc, /sys. Absent: at /. */
  root?: string | undefined;
  /** Where the user's configuration lies, as the system says. Absent: what `env` says. */
  userConfigDir?: string | undefined;
  now?: (() => Date) | undefined;
  /** Ends what would go on for ever (`audit --follow`). Absent: SIGINT and SIGTERM do. */
  signal?: AbortSignal | undefined;
};

/** A file of the machine's own, "/etc/containers". */
export function systemPath({ root = "/" }: CliWorld, path: string): string {
  return join(root, path);
}

/** A terminal's input can be told not to echo. */
type CliInput = NodeJS.ReadableStream & { setRawMode?(on: boolean): unknown };
