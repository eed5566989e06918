/** descriptors — open sockets as systemd hands them over: by number, and announced in the environment. */
import type * as net from "node:net";

/** The descriptor of a listening server or of a connection, which Node keeps to itself. */
export function descriptorOf(of: net.Server | net.Socket): number {
  const handle: unknown = Reflect.get(of, "_handle");
  const fd: unknown = typeof handle === "object" && handle !== null ? Reflect.get(handle, "fd") : undefined;
  if (typeof fd !== "number") throw new Error("no descriptor: it is not open");
  return fd;
}

/** The command line that runs `command` with descriptors from 3 on announced under these names. */
export function withSockets(
  names: readonly string[],
  command: readonly string[],
): { file: string; args: string[] } {
  // exec keeps the shell's process id, which is the one that has to be announced.
  const script = 'export LISTEN_PID=$$ LISTEN_FDS="$1" LISTEN_FDNAMES="$2"; shift 2; exec "$@"';
  return {
    file: "/bin/sh",
    args: ["-c", script, "sh", String(names.length), names.join(":"), ...command],
  };
}
