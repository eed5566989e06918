/** doors — unix sockets, our own and inherited ones, as safe places to listen at. */
import * as fs from "node:fs";
import type * as http from "node:http";
import * as net from "node:net";
import path from "node:path";
import { LegerError, systemCode } from "../core/error.ts";
import type { DoorConfig } from "./config.ts";
import type { InheritedSocket } from "./systemd.ts";

const PROBE_TIMEOUT_MS = 1_000;

/** As many as a burst of container starts can bring; the kernel allows what net.core.somaxconn says. */
const BACKLOG = 4_096;

/**
 * Something is in the way at a door's own place. Whoever was given a door's directory to write to can bring that about,
 * so it is not to harm other doors.
 */
export class SpoiltDoor extends LegerError {}

/**
 * Listens at a door of our own. Its directory is made where it is missing, open to whom the door is, and refused where
 * others could write to it; a socket that nobody answers at any more is removed, one that somebody answers at is
 * refused. SpoiltDoor for what stands in its place.
 */
export async function listenAt(server: http.Server, door: DoorConfig): Promise<void> {
  const { unix, mode } = door;
  const gid = door.group === undefined ? undefined : groupId(door.group, unix);
  prepareDirectory(unix);
  openDirectory(door, gid);
  await removeStaleSocket(unix);
  // The mode holds from birth: bind(2) happens inside listen(), before the mask is put back.
  const mask = process.umask(0o777 & ~mode);
  let listening: Promise<void>;
  try {
    listening = listen(server, { path: unix, backlog: BACKLOG });
  } finally {
    process.umask(mask);
  }
  try {
    await listening;
  } catch (cause) {
    const code = systemCode(cause);
    const hints = code === "EINVAL" ? ["a socket's path may have at most 107 bytes"] : [];
    const Failure = code === "EADDRINUSE" ? SpoiltDoor : LegerError;
    throw new Failure("IO", `listen at ${unix}: ${code ?? "failed"}`, { cause, hints });
  }
  if (gid !== undefined) giveTo(unix, gid, unix);
}

/**
 * Listens at a door whose socket systemd opened and keeps: it is never removed, and who connects while no legerd runs
 * wakes one. Refused where it is not the door's (CONFIG), or lets in more than the door does (UNSAFE).
 */
export async function listenAtInherited(
  server: http.Server,
  door: DoorConfig,
  socket: InheritedSocket,
): Promise<void> {
  assertInheritedDoor(door, socket);
  const refusal = (cause?: unknown): LegerError =>
    new LegerError("CONFIG", `listen at ${door.unix}: descriptor ${socket.fd} is no unix stream socket`, {
      hints: [`set ListenStream=${door.unix} in the .socket unit that names it ${socket.name}`],
      cause,
    });
  try {
    await listen(server, { fd: socket.fd, backlog: BACKLOG });
  } catch (cause) {
    throw refusal(cause);
  }
  // Node knows no address of an inherited unix socket; of one on TCP it does.
  if (server.address() !== null) throw refusal();
}

/** Resolves once it listens; how it can fail is left to the caller. */
function listen(server: http.Server, options: net.ListenOptions & { fd?: number }): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen(options, () => {
    server.off("error", reject);
    resolve();
  });
  return promise;
}

function prepareDirectory(unix: string): void {
  const directory = path.dirname(unix);
  try {
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new LegerError(
      "IO",
      `listen at ${unix}: cannot create ${directory}: ${systemCode(cause) ?? "failed"}`,
      {
        hints: ["set XDG_RUNTIME_DIR to a directory of yours, or name another path with --socket PATH"],
        cause,
      },
    );
  }
  const stat = fs.lstatSync(directory);
  if (!stat.isDirectory())
    throw new SpoiltDoor("UNSAFE", `listen at ${unix}: ${directory} is not a directory`);
  if (stat.uid !== process.geteuid?.()) {
    throw new SpoiltDoor("UNSAFE", `listen at ${unix}: ${directory} belongs to user ${stat.uid}, not to us`);
  }
  if ((stat.mode & 0o022) !== 0) {
    throw new SpoiltDoor("UNSAFE", `listen at ${unix}: others may write to ${directory}`, {
      hints: [`chmod 700 ${directory}`],
    });
  }
}

/**
 * A socket can only be reached through its directory: it is made passable for whom the socket's mode lets in. One that
 * only we may use is left as it is.
 */
function openDirectory({ unix, mode }: DoorConfig, gid: number | undefined): void {
  const directory = path.dirname(unix);
  const passable = ((mode & 0o060) === 0 ? 0 : 0o010) | ((mode & 0o006) === 0 ? 0 : 0o001);
  if (gid !== undefined) giveTo(directory, gid, unix);
  const now = fs.statSync(directory).mode & 0o777;
  if ((now & passable) === passable) return;
  try {
    fs.chmodSync(directory, now | passable);
  } catch (cause) {
    throw new LegerError(
      "IO",
      `listen at ${unix}: cannot open ${directory}: ${systemCode(cause) ?? "failed"}`,
      {
        cause,
      },
    );
  }
}

function giveTo(file: string, gid: number, unix: string): void {
  try {
    fs.lchownSync(file, -1, gid);
  } catch (cause) {
    throw new LegerError("CONFIG", `listen at ${unix}: cannot give ${file} to group ${gid}`, {
      hints: ["whoever runs legerd must be in that group"],
      cause,
    });
  }
}

/** Of /etc/group alone: Node cannot ask for others. */
function groupId(group: string, unix: string): number {
  if (/^\d{1,10}$/.test(group)) return Number(group);
  const lines = fs.readFileSync("/etc/group", "utf8").split("\n");
  const [, , gid] = lines.find((line) => line.startsWith(`${group}:`))?.split(":") ?? [];
  if (gid !== undefined && /^\d{1,10}$/.test(gid)) return Number(gid);
  throw new LegerError("CONFIG", `listen at ${unix}: there is no group ${group} in /etc/group`, {
    hints: ["a number does as well"],
  });
}

/** Its owner is whom systemd was told; what counts is that nobody else can get in, or put another in its place. */
function assertInheritedDoor({ unix, mode }: DoorConfig, { name, path: bound }: InheritedSocket): void {
  const refuse = (code: "CONFIG" | "UNSAFE", what: string, hint: string): LegerError =>
    new LegerError(code, `listen at ${unix}, inherited as ${name}: ${what}`, { hints: [hint] });
  const stat = fs.lstatSync(unix, { throwIfNoEntry: false });
  if (stat?.isSocket() !== true) {
    const hint = "restart the .socket unit that opens this door; BindPaths= shows legerd what its unit hides";
    throw refuse("CONFIG", "no socket is there", hint);
  }
  if (bound !== undefined && !isSameFile(bound, stat)) {
    const hint = "let ListenStream= of the .socket unit be the door's path";
    throw refuse("CONFIG", `that socket was opened at ${bound}`, hint);
  }
  if ((stat.mode & 0o777 & ~mode) !== 0) {
    const hint = `set SocketMode=${octal(mode)} in the .socket unit`;
    throw refuse("UNSAFE", `its mode ${octal(stat.mode)} lets in more than ${octal(mode)} would`, hint);
  }
  const directory = path.dirname(unix);
  const { uid, mode: directoryMode } = fs.lstatSync(directory);
  if (uid !== process.geteuid?.() && uid !== rootAsSeenHere()) {
    throw refuse("UNSAFE", `${directory} belongs to user ${uid}`, "choose a directory of your own or root's");
  }
  if ((directoryMode & 0o022) !== 0) {
    throw refuse("UNSAFE", `others may write to ${directory}`, `chmod 700 ${directory}`);
  }
}

function isSameFile(file: string, { dev, ino }: fs.Stats): boolean {
  const stat = fs.lstatSync(file, { throwIfNoEntry: false });
  return stat?.dev === dev && stat.ino === ino;
}

/** In a user namespace, which a unit's ProtectSystem= brings along, root's files read as somebody else's. */
function rootAsSeenHere(): number {
  return fs.statSync("/").uid;
}

function octal(mode: number): string {
  return (mode & 0o777).toString(8).padStart(4, "0");
}

async function removeStaleSocket(unix: string): Promise<void> {
  const stat = fs.lstatSync(unix, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isSocket()) {
    throw new SpoiltDoor("CONFIG", `listen at ${unix}: something that is not a socket is there`, {
      hints: ["move it away, or choose another path"],
    });
  }
  if (await isAnswered(unix)) {
    throw new SpoiltDoor("REFUSED", `listen at ${unix}: another program listens there`, {
      hints: ["stop it first, or choose another path with --socket PATH"],
    });
  }
  fs.unlinkSync(unix);
}

function isAnswered(unix: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect({ path: unix });
    const finish = (answered: boolean): void => {
      socket.destroy();
      resolve(answered);
    };
    socket.setTimeout(PROBE_TIMEOUT_MS, () => finish(true));
    socket.once("connect", () => finish(true));
    socket.once("error", (error) => finish(systemCode(error) !== "ECONNREFUSED"));
  });
}
