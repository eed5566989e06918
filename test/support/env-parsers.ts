/** env-parsers — how Podman and systemd read an env file, written from their sources, for tests to read back with. */

import type { EnvDialect } from "../../src/core/env-file.ts";

/**
 * What a reader makes of the file, values as bytes in latin1 so that they compare. Throws where the reader
 * refuses the file. Lines that import from the reader's own environment throw as well: leger never writes any.
 */
export function parseEnvFile(file: Uint8Array, dialect: EnvDialect): Map<string, string> {
  const text = Buffer.from(file).toString("latin1");
  return dialect === "podman" ? parsePodman(text) : parseSystemd(text);
}

/** pkg/env/env.go ParseFile and parseEnv, over bufio.Scanner with ScanLines. */
function parsePodman(text: string): Map<string, string> {
  const variables = new Map<string, string>();
  for (const raw of scannedLines(text)) {
    const line = raw.replace(/^[ \t]+/, "");
    if (line === "" || line.startsWith("#")) continue;
    const equals = line.indexOf("=");
    if (equals === 0) throw new Error("invalid variable");
    if (equals < 0) throw new Error("a line that imports from the environment");
    variables.set(line.slice(0, equals), line.slice(equals + 1));
  }
  return variables;
}

/** bufio.Scanner: its buffer of 64 KiB must hold a line and its end, or the whole rest of the file and more. */
function* scannedLines(text: string): Generator<string> {
  const bufferBytes = 64 * 1024;
  let from = 0;
  while (from < text.length) {
    const end = text.indexOf("\n", from);
    const taken = end < 0 ? text.length - from : end + 1 - from;
    if (taken > bufferBytes || (end < 0 && taken === bufferBytes)) throw new Error("token too long");
    yield text.slice(from, end < 0 ? text.length : end).replace(/\r$/, "");
    from += taken;
  }
}

/** src/basic/env-file.c parse_env_file_internal and the checks of load_env_file and strv_env_clean after it. */
function parseSystemd(text: string): Map<string, string> {
  const variables = new Map<string, string>();
  let state = "PRE_KEY";
  let key = "";
  let value = "";
  let trailingSpaceFrom: number | undefined;

  const push = (chomped: boolean): void => {
    const kept = chomped ? value.slice(0, trailingSpaceFrom) : value;
    const name = key.trimEnd();
    if (!validForSystemd(kept)) throw new Error("invalid UTF-8");
    if (/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) variables.set(name, kept);
    key = value = "";
    state = "PRE_KEY";
  };

  // A C string: what follows a NUL is not there.
  for (const c of text.replace(/\0[^]*$/, "")) {
    const space = " \t\n\r".includes(c);
    const newline = "\n\r".includes(c);
    switch (state) {
      case "PRE_KEY":
        if ("#;".includes(c)) state = "COMMENT";
        else if (!space) {
          state = "KEY";
          key = c;
        }
        break;
      case "KEY":
        if (newline) {
          key = "";
          state = "PRE_KEY";
        } else if (c === "=") {
          state = "PRE_VALUE";
          trailingSpaceFrom = undefined;
        } else key += c;
        break;
      case "PRE_VALUE":
        if (newline) push(false);
        else if (c === "'") state = "SINGLE_QUOTE_VALUE";
        else if (c === '"') state = "DOUBLE_QUOTE_VALUE";
        else if (c === "\\") state = "VALUE_ESCAPE";
        else if (!space) {
          state = "VALUE";
          value += c;
        }
        break;
      case "VALUE":
        if (newline) push(true);
        else if (c === "\\") {
          state = "VALUE_ESCAPE";
          trailingSpaceFrom = undefined;
        } else {
          if (!space) trailingSpaceFrom = undefined;
          else trailingSpaceFrom ??= value.length;
          value += c;
        }
        break;
      case "VALUE_ESCAPE":
        state = "VALUE";
        if (!newline) value += c;
        break;
      case "SINGLE_QUOTE_VALUE":
        if (c === "'") state = "PRE_VALUE";
        else value += c;
        break;
      case "DOUBLE_QUOTE_VALUE":
        if (c === '"') state = "PRE_VALUE";
        else if (c === "\\") state = "DOUBLE_QUOTE_VALUE_ESCAPE";
        else value += c;
        break;
      case "DOUBLE_QUOTE_VALUE_ESCAPE":
        state = "DOUBLE_QUOTE_VALUE";
        if ('"\\`$'.includes(c)) value += c;
        else if (c !== "\n") value += `\\${c}`;
        break;
      case "COMMENT":
        if (c === "\\") state = "COMMENT_ESCAPE";
        else if (newline) state = "PRE_KEY";
        break;
      case "COMMENT_ESCAPE":
        state = newline ? "PRE_KEY" : "COMMENT";
        break;
    }
  }
  if (!["PRE_KEY", "KEY", "COMMENT", "COMMENT_ESCAPE"].includes(state)) push(state === "VALUE");
  return variables;
}

/** utf8_is_valid with unichar_is_valid (src/basic/utf8.c): UTF-8, and none of Unicode's noncharacters. */
function validForSystemd(latin1: string): boolean {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(
      Buffer.from(latin1, "latin1"),
    );
    return (
      !/[\u{fdd0}-\u{fdef}]/u.test(text) &&
      !Array.from(text).some((c) => ((c.codePointAt(0) ?? 0) & 0xfffe) === 0xfffe)
    );
  } catch {
    return false;
  }
}
