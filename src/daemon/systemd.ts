/** systemd — what systemd hands over to legerd, and what legerd tells it. */
import * as fs from "node:fs";
import { LegerError, systemCode } from "../core/error.ts";
import { run } from "../core/exec.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** A listening unix stream socket that this process began with. */
export type InheritedSocket = {
  fd: number;
  /** `FileDescriptorName=` of its .socket unit; a door has the same. */
  name: string;
  /** Where it was bound; undefined where the kernel does not tell (a network namespace of our own). */
  path: string | undefined;
};

/** What the protocol is spoken in. It is meant for one process, and none that this one starts. */
export const LISTEN_VARIABLES = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID"] as const;

/**
 * The sockets that systemd opened for process `pid`, by sd_listen_fds(3); none where it opened none. Throws CONFIG
 * where one of them is nothing that legerd could answer at.
 */
export function inheritedSockets(env: Env, pid: number): InheritedSocket[] {
  // Variables for another process have only been passed on by mistake.
  if (env["LISTEN_PID"] !== String(pid)) return [];
  const count = env["LISTEN_FDS"] ?? "";
  if (!/^\d{1,4}$/.test(count)) {
    throw new LegerError("CONFIG", `take over sockets: LISTEN_FDS is no number: ${JSON.stringify(count)}`);
  }
  const names = env["LISTEN_FDNAMES"]?.split(":") ?? [];
  const rows = unixSockets();
  return Array.from({ length: Number(count) }, (_, n) => {
    const name = names[n] ?? "unknown";
    return { fd: FIRST_FD + n, name, path: pathOf(FIRST_FD + n, name, rows) };
  });
}

/**
 * Tells a systemd that waits for it (Type=notify) that every door is open, with a line for `systemctl status`. Does
 * nothing where nobody waits, and gives up when `signal` says so. FAILED where systemd could not be told, which would
 * in the end kill what it takes for stuck.
 *
 * Node cannot send to systemd's datagram socket itself, so systemd's own program does.
 */
export async function tellReady(env: Env, status: string, signal: AbortSignal): Promise<void> {
  const notifySocket = env["NOTIFY_SOCKET"];
  if (notifySocket === undefined || notifySocket === "") return;
  for (let attempt = 1; ; attempt += 1) {
    try {
      await run("systemd-notify", ["--ready", `--status=${status}`], {
        env: { PATH: env["PATH"] },
        notifySocket,
        timeoutMs: NOTIFY_TIMEOUT_MS,
        signal,
        check: true,
      });
      return;
    } catch (cause) {
      if (signal.aborted) return;
      if (attempt < NOTIFY_ATTEMPTS) continue;
      const fact = cause instanceof LegerError ? `: ${cause.message}` : "";
      throw new LegerError("FAILED", `tell systemd that legerd is ready${fact}`, {
        hints: ["without systemd-notify, run legerd from a unit with Type=exec, or without NOTIFY_SOCKET"],
        cause,
      });
    }
  }
}

/** systemd-notify waits 5 s for systemd to have read it, which one that reloads hundreds of units may exceed. */
const NOTIFY_TIMEOUT_MS = 10_000;
const NOTIFY_ATTEMPTS = 5;

/** SD_LISTEN_FDS_START: they follow one another from here. */
const FIRST_FD = 3;

/** The path that a descriptor is bound to. CONFIG where it is known to be no listening unix stream socket. */
function pathOf(fd: number, name: string, rows: ReadonlyMap<number, UnixSocket>): string | undefined {
  const refuse = (what: string, cause?: unknown): LegerError =>
    new LegerError("CONFIG", `take over socket ${JSON.stringify(name)} (descriptor ${fd}): ${what}`, {
      hints: ["legerd answers at listening unix sockets only: ListenStream=/PATH, and no Accept=yes"],
      cause,
    });
  let stat: fs.Stats;
  try {
    stat = fs.fstatSync(fd);
  } catch (cause) {
    throw refuse(`it cannot be looked at: ${systemCode(cause) ?? "failed"}`, cause);
  }
  if (!stat.isSocket()) throw refuse("it is not a socket");
  const row = rows.get(stat.ino);
  // Not there: one of another family, which listening will show, or one of another network namespace.
  if (row === undefined) return undefined;
  if (row.type !== SOCK_STREAM) throw refuse("it is not a stream socket");
  if ((row.flags & SO_ACCEPTCON) === 0) throw refuse("it does not listen");
  return row.path;
}

const SOCK_STREAM = 1;
/** The flag of a listening socket in the kernel's table (linux/net.h). */
const SO_ACCEPTCON = 0x1_0000;

type UnixSocket = { type: number; flags: number; path: string };

/** The unix sockets of our network namespace by inode; none where the kernel does not tell. */
function unixSockets(): Map<number, UnixSocket> {
  let table: string;
  try {
    table = fs.readFileSync("/proc/self/net/unix", "utf8");
  } catch {
    return new Map();
  }
  const rows = new Map<number, UnixSocket>();
  // Num, RefCount, Protocol, Flags, Type, St, Inode, Path (proc(5)); the first line is a heading.
  for (const [, flags = "", type = "", inode, path = ""] of table.matchAll(
    /^\S+: \S+ \S+ ([0-9A-F]+) ([0-9A-F]+) \S+ +(\d+)(?: (.+))?$/gm,
  )) {
    rows.set(Number(inode), { type: Number.parseInt(type, 16), flags: Number.parseInt(flags, 16), path });
  }
  return rows;
}
