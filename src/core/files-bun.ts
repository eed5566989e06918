/** files-bun — what is known of files, asked of the C library, and of node:fs where that cannot be had or fails. */

import type { Files, FileStatus } from "./files.ts";
import { cString, libc } from "./libc-bun.ts";

export const bunFiles: Files = {
  lstat(path) {
    return (
      statusOf(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW) ?? process.getBuiltinModule("node:fs").lstatSync(path)
    );
  },
  fstat(fd) {
    return statusOf(fd, "", AT_EMPTY_PATH) ?? process.getBuiltinModule("node:fs").fstatSync(fd);
  },
  readText(path) {
    if (libc === undefined) return readTextSlowly(path);
    const fd = libc.open(cString(path), O_RDONLY_CLOEXEC);
    if (fd < 0) return undefined;
    try {
      const bytes = new Uint8Array(MAX_TEXT_BYTES);
      let length = 0;
      for (;;) {
        const count = libc.read(fd, bytes.subarray(length), bytes.length - length);
        if (count < 0) return undefined;
        if (count === 0) return new TextDecoder().decode(bytes.subarray(0, length));
        length += count;
      }
    } finally {
      libc.close(fd);
    }
  },
};

function readTextSlowly(path: string): string | undefined {
  try {
    return process.getBuiltinModule("node:fs").readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

/** Longer than a uid_map (340 lines at most) or a path in /proc/self/cgroup can be; what follows is not read. */
const MAX_TEXT_BYTES = 64 * 1024;

/** fcntl(2), open(2), stat(2): the same on x86-64 and AArch64. */
const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const O_RDONLY_CLOEXEC = 0o2000000;

/** statx(2), whose record looks the same on every architecture: what is asked for, and where it lies in there. */
const STATX_TYPE_MODE_UID = 0x1 | 0x2 | 0x8;
const STATX_BYTES = 256;
const UID_AT = 20;
const MODE_AT = 28;
const RDEV_MAJOR_AT = 128;
const RDEV_MINOR_AT = 132;

/** Undefined for any failure: errno may be another's by the time it could be read, so node:fs is asked for it. */
function statusOf(directory: number, path: string, flags: number): FileStatus | undefined {
  if (libc === undefined) return undefined;
  const record = new DataView(new ArrayBuffer(STATX_BYTES));
  const into = new Uint8Array(record.buffer);
  if (libc.statx(directory, cString(path), flags, STATX_TYPE_MODE_UID, into) !== 0) return undefined;
  const [major, minor] = [record.getUint32(RDEV_MAJOR_AT, true), record.getUint32(RDEV_MINOR_AT, true)];
  return {
    uid: record.getUint32(UID_AT, true),
    mode: record.getUint16(MODE_AT, true),
    // As makedev(3) for numbers below 256, which null(4) has.
    rdev: (major << 8) | minor,
  };
}
