/** value — where a new value comes from: a file, a pipe, or a person. */
import { createReadStream } from "node:fs";
import { resolve } from "node:path";
import { LegerError, systemCode } from "../core/error.ts";
import type { Cli } from "./parsing.ts";
import { askValue, canAsk } from "./prompt.ts";

type Source = {
  file?: string | undefined;
  trimSpace?: boolean | undefined;
  emptyOk?: boolean | undefined;
  /** What a prompt asks for. */
  label: string;
};

/** legerd takes requests of 1 MiB, in which the value stands as base64 beside its name. */
const MAX_VALUE_BYTES = 700 * 1024;

/**
 * The value, read whole. BAD_DATA: empty without leave, or too large. IO: the file cannot be read. White space at
 * its ends is worth a warning: it breaks most keys, and `echo` adds it.
 */
export async function readValue(cli: Cli, source: Source): Promise<Uint8Array> {
  const raw = await rawValue(cli, source);
  const value = source.trimSpace === true ? trimmed(raw) : raw;
  if (value.length > MAX_VALUE_BYTES) throw tooLarge();
  if (value.length === 0 && source.emptyOk !== true) {
    throw new LegerError("BAD_DATA", "the value is empty; nothing was stored", {
      hints: ["if that is meant, add --empty-ok"],
    });
  }
  if (value.length > 0 && trimmed(value).length < value.length) {
    const end = value.at(-1) === 0x0a ? "ends with a newline" : "has white space at its ends";
    cli.terminal.warn(
      `the value ${end}, and is stored with it`,
      "to store it without, run this again with --trim-space",
    );
  }
  return value;
}

async function rawValue({ world }: Cli, { file, label }: Source): Promise<Uint8Array> {
  if (file !== undefined && file !== "-") {
    if (file === "") throw new LegerError("USAGE", "--file needs the name of a file");
    return contentOf(resolve(world.cwd, file));
  }
  if (!world.isTTY.stdin) return collect(world.stdin, "standard input");
  if (file === "-" || !canAsk(world)) {
    throw new LegerError("USAGE", "no value: there is no pipe to read, and nobody to ask", {
      hints: ["pipe the value in, or name a file with --file FILE"],
    });
  }
  return askValue(world, label);
}

/** Also reads what is no plain file: `--file <(pass show openai)`. */
async function contentOf(path: string): Promise<Uint8Array> {
  return collect(createReadStream(path), path);
}

async function collect(stream: AsyncIterable<Uint8Array | string>, shown: string): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of stream) {
      const buffer = Buffer.from(chunk);
      bytes += buffer.length;
      // White space that will be trimmed counts here, too; nobody has 300 KiB of it.
      if (bytes > MAX_VALUE_BYTES) throw tooLarge();
      chunks.push(buffer);
    }
  } catch (error) {
    if (error instanceof LegerError) throw error;
    const code = systemCode(error) ?? "unknown error";
    throw new LegerError("IO", `cannot read ${shown}: ${READ_FAILURES.get(code) ?? code}`, { cause: error });
  }
  return Buffer.concat(chunks);
}

const READ_FAILURES: ReadonlyMap<string, string> = new Map([
  ["ENOENT", "there is no such file"],
  ["EISDIR", "it is a directory"],
  ["EACCES", "it may not be read"],
]);

function tooLarge(): LegerError {
  return new LegerError(
    "BAD_DATA",
    `the value is larger than ${MAX_VALUE_BYTES / 1024} KiB; nothing was stored`,
    {
      hints: ["leger keeps keys, not archives: keep the archive elsewhere, encrypted, and its key here"],
    },
  );
}

/** Without the white space of ASCII at both ends; everything else may be part of a binary value. */
function trimmed(value: Uint8Array): Uint8Array {
  let from = 0;
  let to = value.length;
  while (from < to && isSpace(value[from])) from += 1;
  while (to > from && isSpace(value[to - 1])) to -= 1;
  return value.subarray(from, to);
}

function isSpace(byte: number | undefined): boolean {
  return byte === 0x20 || (byte !== undefined && byte >= 0x09 && byte <= 0x0d);
}
