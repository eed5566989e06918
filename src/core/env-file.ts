/** env-file — variables as a file that Podman or systemd reads back byte for byte. */

import { isUtf8 } from "node:buffer";
import { LegerError } from "./error.ts";

export type EnvDialect = "podman" | "systemd";

export type EnvEntry = {
  /** The variable. */
  name: string;
  value: Uint8Array;
  /** Where the value comes from, for messages. */
  secret: string;
};

/**
 * The file's bytes, in the order given; no entries, no bytes. BAD_DATA, naming variable and secret, for what
 * the reader would not give back exactly: it is refused here rather than found out in the container.
 *
 * - `podman` (`podman run --env-file`, a quadlet's `[Container] EnvironmentFile=`; pkg/env ParseFile): lines
 *   taken literally. Podman 4.7.0 alone reads quotes and `#` in values as well (podman#19565, gone in 4.7.1).
 * - `systemd` (`[Service] EnvironmentFile=`; src/basic/env-file.c): double quotes, backslash before ``"\`$``.
 */
export function encodeEnvFile(entries: readonly EnvEntry[], dialect: EnvDialect): Uint8Array {
  const names = new Set<string>();
  const lines = entries.map((entry) => {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(entry.name)) {
      throw refusal(
        entry,
        "that is no name for a variable",
        "use letters, digits and _, and no digit at the start",
      );
    }
    if (names.has(entry.name))
      throw refusal(entry, "the variable is there twice", "give each a name of its own");
    names.add(entry.name);
    refuseUnreadable(entry, dialect);
    const value = Buffer.from(entry.value.buffer, entry.value.byteOffset, entry.value.byteLength);
    if (dialect === "podman") return Buffer.concat([Buffer.from(`${entry.name}=`), value, NEWLINE]);
    return Buffer.from(`${entry.name}="${value.toString().replaceAll(/["\\`$]/g, "\\$&")}"\n`);
  });
  return Buffer.concat(lines);
}

const NEWLINE = Buffer.from("\n");

/** Longest line, without its end, that Podman reads back: bufio.Scanner's 64 KiB token limit (podman pkg/env). */
const MAX_PODMAN_LINE_BYTES = 64 * 1024 - 1;

/** Longest `NAME=value` that execve(2) takes: MAX_ARG_STRLEN, 32 pages of 4 KiB, less the final NUL. */
const MAX_ASSIGNMENT_BYTES = 128 * 1024 - 1;

const AS_FILE = "mount it as a file instead: type=mount";
const BY_DRIVER = "let Podman ask for it instead (Secret=…,type=env), or mount it as a file: type=mount";

function refuseUnreadable(entry: EnvEntry, dialect: EnvDialect): void {
  const { name, value } = entry;
  if (value.includes(0x00)) throw refusal(entry, "the value holds a NUL byte", AS_FILE);
  // Podman hands variables on as JSON, where other bytes turn into U+FFFD; systemd takes no other.
  if (!isUtf8(value)) throw refusal(entry, "the value is not UTF-8", AS_FILE);
  const lineBytes = name.length + 1 + value.length;
  if (dialect === "podman") {
    if (value.includes(0x0a)) throw refusal(entry, "the value has several lines", BY_DRIVER);
    // bufio.ScanLines takes "\r\n" for the end of a line.
    if (value.at(-1) === 0x0d) throw refusal(entry, "the value ends with a carriage return", BY_DRIVER);
    if (lineBytes > MAX_PODMAN_LINE_BYTES)
      throw refusal(entry, "the line would be 64 KiB or longer", BY_DRIVER);
  } else {
    // systemd's unichar_is_valid is stricter than UTF-8.
    if (/\p{Noncharacter_Code_Point}/u.test(Buffer.from(value).toString())) {
      throw refusal(entry, "the value holds a Unicode noncharacter, which systemd refuses", AS_FILE);
    }
    if (lineBytes > MAX_ASSIGNMENT_BYTES) {
      throw refusal(
        entry,
        "the variable would be 128 KiB or longer, more than a program can be given",
        AS_FILE,
      );
    }
  }
}

function refusal({ name, secret }: EnvEntry, why: string, hint: string): LegerError {
  return new LegerError("BAD_DATA", `${name} (${secret}) cannot stand in an env file: ${why}`, {
    hints: [hint],
  });
}
