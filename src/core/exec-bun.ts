/** exec-bun — becomes another program, as execve(2) does it, on Bun. */

import { addressOf, cString, libcWith } from "./libc-bun.ts";

/**
 * Runs `file`, called `name`, in this process's place with the same arguments, byte for byte, and the same environment,
 * descriptors and signals (but for SIGPIPE, which Bun ignores from its start). Returns only when that failed. Bun's own
 * process.execve would close all descriptors above 2, among them a shell's `<(command)`, and can pass on no argument that
 * isn't UTF-8.
 */
export function become(file: string, name: string): void {
  const libc = libcWith({
    execv: { args: ["buffer", "buffer"], returns: "i32" },
    signal: { args: ["i32", "u64"], returns: "i32" },
    fcntl: { args: ["i32", "i32", "i32"], returns: "i32" },
  });
  if (libc === undefined) throw new TypeError("the C library cannot be called");
  const { readdirSync, readFileSync, readlinkSync } = process.getBuiltinModule("node:fs");
  // Bun has marked what it was started with as to be closed, too. Its own are pollers and counters.
  for (const fd of readdirSync("/proc/self/fd").map(Number)) {
    try {
      if (fd <= 2 || readlinkSync(`/proc/self/fd/${fd}`).startsWith("anon_inode:")) continue;
      libc.fcntl(fd, F_SETFD, 0);
    } catch {
      // It was the one that the directory was read by.
    }
  }
  // Bun ignores it, and what is ignored stays so in the next program.
  libc.signal(SIGPIPE, SIG_DFL);
  // Each with its NUL.
  const commandLine = readFileSync("/proc/self/cmdline");
  const addresses: bigint[] = [];
  for (let at = 0, end = commandLine.indexOf(0); end !== -1; at = end + 1, end = commandLine.indexOf(0, at)) {
    addresses.push(addressOf(commandLine) + BigInt(at));
  }
  // The program tells by its name what it is to be, and a caller may choose ours.
  const ownName = cString(name);
  addresses[0] = addressOf(ownName);
  libc.execv(cString(file), new Uint8Array(BigUint64Array.from([...addresses, 0n]).buffer));
}

/** fcntl(2): sets a descriptor's flags, of which close-on-exec is the only one. */
const F_SETFD = 2;
/** signal(7), signal(2). */
const SIGPIPE = 13;
const SIG_DFL = 0;
