/** paths — where legerd listens and keeps its things, and whether its socket can be trusted. */

import { LegerError, systemCode } from "./error.ts";
import type { Files, FileStatus } from "./files.ts";
import { unreachable } from "./wire.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** All that paths depend on. */
export type World = {
  env: Env;
  /** What the kernel calls us; 0 in Podman's user namespace, whoever started it. */
  euid: number;
  /** The text of /proc/self/uid_map, undefined where there is none. */
  readonly uidMap: string | undefined;
};

/** Whose legerd it is: the machine's, or that of the user with this id outside any user namespace. */
type Account = { kind: "system" } | { kind: "user"; uid: number };

export type RuntimePlaces = {
  account: Account;
  /** What systemd calls %t: /run, or the user's runtime directory. */
  runtimeDir: string;
  /** leger's own directory in there. */
  directory: string;
  /** legerd's default door. */
  socket: string;
};

/** The real world, its uid_map read when it is asked for. `env` is handed in, since only entry points read it. */
export function worldOf(env: Env, files: Files): World {
  return {
    env,
    euid: process.geteuid?.() ?? 0,
    get uidMap() {
      return files.readText("/proc/self/uid_map");
    },
  };
}

/** Where legerd listens. Needs no HOME: Podman's healthchecks run the driver without one. */
export function runtimePlaces(world: World): RuntimePlaces {
  const account = accountOf(world);
  const runtimeDir =
    account.kind === "system"
      ? "/run"
      : (absolute(world.env["XDG_RUNTIME_DIR"]) ?? `/run/user/${account.uid}`);
  const directory = `${runtimeDir}/leger`;
  return { account, runtimeDir, directory, socket: `${directory}/legerd.sock` };
}

/** legerd's state, or leger's configuration (XDG, or the system's). CONFIG when a user's cannot be known. */
export function homeDirectory(which: "state" | "config", world: World): string {
  const { system, variable, below, own } = HOMES[which];
  if (accountOf(world).kind === "system") return system;
  const base = absolute(world.env[variable]);
  if (base !== undefined) return `${base}/${own}`;
  const home = absolute(world.env["HOME"]);
  if (home !== undefined) return `${home}/${below}/${own}`;
  throw new LegerError(
    "CONFIG",
    `no ${which} directory: neither ${variable} nor HOME names an absolute path`,
    {
      hints: [`set ${variable}, or name the directory on the command line`],
    },
  );
}

/**
 * Refuses (UNSAFE) a socket that somebody else could have put there: it must be a socket of ours, closed to
 * others, in a directory of ours that others cannot write to, neither reached through a symlink at its end.
 * Parents further up are not looked at: in a user namespace root's read as 65534. `groupMayConnect` is for
 * doors that are shared on purpose (mode 0660). No socket at all is UNREACHABLE.
 */
export function assertSafeSocket(
  path: string,
  { euid, files, groupMayConnect = false }: { euid: number; files: Files; groupMayConnect?: boolean },
): void {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
    throw new LegerError("CONFIG", `socket ${path}: the path is longer than ${MAX_SOCKET_PATH_BYTES} bytes`, {
      hints: ["name a shorter path with --socket or LEGER_SOCKET"],
    });
  }
  const directory = path.replace(/\/+[^/]*$/, "") || "/";
  const directoryStats = statusOf(files, directory, path);
  if (!isA(S_IFDIR, directoryStats)) throw unsafe(directory, "it is not a directory", ELSEWHERE);
  if (directoryStats.uid !== euid) throw unsafe(directory, notOurs(directoryStats, euid), ELSEWHERE);
  if ((directoryStats.mode & 0o022) !== 0) {
    throw unsafe(
      directory,
      `others may write to it (mode ${octal(directoryStats)})`,
      `chmod 0700 ${directory}`,
    );
  }
  const stats = statusOf(files, path, path);
  if (!isA(S_IFSOCK, stats)) throw unsafe(path, "it is not a socket", MAKE_AGAIN);
  if (stats.uid !== euid) throw unsafe(path, notOurs(stats, euid), MAKE_AGAIN);
  if ((stats.mode & (groupMayConnect ? 0o007 : 0o077)) !== 0) {
    const mode = groupMayConnect ? "0660" : "0600";
    throw unsafe(path, `others may connect to it (mode ${octal(stats)})`, `chmod ${mode} ${path}`);
  }
}

const HOMES = {
  state: { system: "/var/lib/legerd", variable: "XDG_STATE_HOME", below: ".local/state", own: "legerd" },
  config: { system: "/etc/leger", variable: "XDG_CONFIG_HOME", below: ".config", own: "leger" },
} as const;

/** unix(7): sun_path is 108 bytes with its NUL; libuv has cut longer ones short without a word. */
const MAX_SOCKET_PATH_BYTES = 107;

const MAKE_AGAIN = "remove it and restart legerd, or name another socket with --socket or LEGER_SOCKET";

/** Not "remove it": it may be /tmp. */
const ELSEWHERE = "name a socket in a directory of your own, with --socket or LEGER_SOCKET";

/**
 * Podman runs a driver in a user namespace of its own and says in `_CONTAINERS_ROOTLESS_UID` who we are outside.
 * Without that, the namespace's map tells: a line for our id alone is a namespace somebody entered as himself
 * (`0 1000 1`); a line for a range is a whole machine, or a container that is one (`0 100000 65536`), and there
 * ids mean what they say.
 */
function accountOf(world: World): Account {
  const told = world.env["_CONTAINERS_ROOTLESS_UID"] ?? "";
  if (/^[1-9]\d{0,9}$/.test(told) && Number(told) < NO_UID) return { kind: "user", uid: Number(told) };
  const uid = outerIdOf(world.euid, world.uidMap ?? "");
  return uid === 0 ? { kind: "system" } : { kind: "user", uid };
}

/** (uid_t) -1, which is nobody (credentials(7)). */
const NO_UID = 0xffff_ffff;

function outerIdOf(euid: number, uidMap: string): number {
  for (const line of uidMap.split("\n")) {
    const [inner, outer, count] = line.trim().split(/\s+/).map(Number);
    if (inner === euid && count === 1 && outer !== undefined && Number.isInteger(outer)) return outer;
  }
  return euid;
}

/** XDG Base Directory: a path that isn't absolute is to be ignored. */
function absolute(path: string | undefined): string | undefined {
  if (path === undefined || !path.startsWith("/")) return undefined;
  return path.length > 1 && path.endsWith("/") ? path.replace(/\/+$/, "") : path;
}

/** inode(7): the bits of a mode that say what kind of file it is. */
const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFSOCK = 0o140000;

function isA(type: number, { mode }: FileStatus): boolean {
  return (mode & S_IFMT) === type;
}

function statusOf(files: Files, path: string, socketPath: string): FileStatus {
  try {
    return files.lstat(path);
  } catch (error) {
    const code = systemCode(error);
    if (code === "ENOENT" || code === "ENOTDIR") throw unreachable(socketPath, "no socket there", error);
    if (code === "EACCES") {
      throw new LegerError("DENIED", `legerd at ${socketPath}: not allowed to look at ${path}`, {
        hints: ["run this as the user whose legerd it is"],
        cause: error,
      });
    }
    throw new LegerError("IO", `legerd at ${socketPath}: cannot look at ${path} (${code ?? "unknown"})`, {
      cause: error,
    });
  }
}

function unsafe(path: string, what: string, remedy: string): LegerError {
  return new LegerError("UNSAFE", `refusing to use ${path}: ${what}`, { hints: [remedy] });
}

function notOurs(stats: FileStatus, euid: number): string {
  return `it belongs to user ${stats.uid}, not to us (${euid})`;
}

function octal(stats: FileStatus): string {
  return (stats.mode & 0o7777).toString(8).padStart(4, "0");
}
