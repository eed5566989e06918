/** processes — the arguments of all processes, and the environments of those that may be looked at, as open files. */
import { closeSync, constants, openSync, readdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { systemCode } from "../core/error.ts";

export type ProcessFile =
  | { kind: "file"; path: string; fd: number; pid: number; what: "cmdline" | "environ" }
  | { kind: "unreadable"; path: string; code: string };

/** The file of a step is open until the next step. Whoever ends meanwhile is passed over; others' environments are, too. */
export function* processFiles(proc: string, euid: number): Generator<ProcessFile, void> {
  let pids: string[];
  try {
    pids = readdirSync(proc).filter((name) => /^\d+$/.test(name));
  } catch (error) {
    yield { kind: "unreadable", path: proc, code: systemCode(error) ?? "unknown" };
    return;
  }
  for (const pid of pids) {
    for (const what of ["cmdline", "environ"] as const) {
      const file = path.join(proc, pid, what);
      let fd: number;
      try {
        fd = openSync(file, constants.O_RDONLY);
      } catch (error) {
        if (isOwn(path.join(proc, pid), error, euid))
          yield { kind: "unreadable", path: file, code: "EACCES" };
        continue;
      }
      try {
        yield { kind: "file", path: file, fd, pid: Number(pid), what };
      } finally {
        closeSync(fd);
      }
    }
  }
}

/** Not to be read though it is ours. The kernel gives what has changed its identity to root. */
function isOwn(directory: string, error: unknown, euid: number): boolean {
  const code = systemCode(error);
  if (code !== "EACCES" && code !== "EPERM") return false;
  try {
    return statSync(directory).uid === euid;
  } catch {
    return false;
  }
}

export type ProcessFacts = {
  /** As the kernel calls it: at most 15 bytes of its program's name. */
  name: string;
  startedAt: Date | undefined;
};

/** What is known of a process; undefined where it has ended. */
export function factsOf(proc: string, pid: number): ProcessFacts | undefined {
  try {
    // proc(5): the name stands in parentheses and may hold some itself; the start is the 22nd field.
    const stat = readFileSync(path.join(proc, String(pid), "stat"), "utf8");
    const end = stat.lastIndexOf(")");
    const ticks = Number(stat.slice(end + 2).split(" ")[22 - 3]);
    const boot = Number(/^btime (\d+)$/m.exec(readFileSync(path.join(proc, "stat"), "utf8"))?.[1]);
    const startedAt = new Date((boot + ticks / TICKS_PER_SECOND) * 1_000);
    return {
      name: stat.slice(stat.indexOf("(") + 1, end),
      startedAt: Number.isNaN(startedAt.getTime()) ? undefined : startedAt,
    };
  } catch {
    return undefined;
  }
}

/** USER_HZ: what the kernel tells programs is in hundredths of a second on every machine that Node runs on. */
const TICKS_PER_SECOND = 100;
