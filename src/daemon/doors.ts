/** doors — unix sockets as safe places to listen at. */
import * as fs from "node:fs";
import type * as http from "node:http";
import * as net from "node:net";
import path from "node:path";
import { LegerError, systemCode } from "../core/error.ts";
import type { DoorConfig } from "./config.ts";

const PROBE_TIMEOUT_MS = 1_000;

/**
 * Listens at a door. Its directory is made 0700 where it is missing and refused where others could get at it; a
 * socket that nobody answers at any more is removed, one that somebody answers at is refused.
 */
export async function listenAt(server: http.Server, { unix, mode }: DoorConfig): Promise<void> {
  prepareDirectory(unix);
  await removeStaleSocket(unix);
  // The mode holds from birth: bind(2) happens inside listen(), before the mask is put back.
  const mask = process.umask(0o777 & ~mode);
  try {
    const listening = new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ path: unix, backlog: 4_096 }, () => {
        server.off("error", reject);
        resolve();
      });
    });
    process.umask(mask);
    await listening;
  } catch (cause) {
    process.umask(mask);
    const code = systemCode(cause);
    const hints = code === "EINVAL" ? ["a socket's path may have at most 107 bytes"] : [];
    throw new LegerError("IO", `listen at ${unix}: ${code ?? "failed"}`, { cause, hints });
  }
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
    throw new LegerError("UNSAFE", `listen at ${unix}: ${directory} is not a directory`);
  if (stat.uid !== process.geteuid?.()) {
    throw new LegerError("UNSAFE", `listen at ${unix}: ${directory} belongs to user ${stat.uid}, not to us`);
  }
  if ((stat.mode & 0o022) !== 0) {
    throw new LegerError("UNSAFE", `listen at ${unix}: others may write to ${directory}`, {
      hints: [`chmod 700 ${directory}`],
    });
  }
}

async function removeStaleSocket(unix: string): Promise<void> {
  const stat = fs.lstatSync(unix, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isSocket()) {
    throw new LegerError("CONFIG", `listen at ${unix}: something that is not a socket is there`, {
      hints: ["move it away, or choose another path"],
    });
  }
  if (await isAnswered(unix)) {
    throw new LegerError("REFUSED", `listen at ${unix}: another program listens there`, {
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
