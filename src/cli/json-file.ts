/** json-file — a configuration that people write, as JSON, and what is wrong with it without quoting it. */
import { readFileSync } from "node:fs";
import { LegerError, systemCode } from "../core/error.ts";

/** What the file holds; undefined where there is none. CONFIG for one that cannot be read; `example` is its hint. */
export function readJsonFile(file: string, example: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    const code = systemCode(error);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new LegerError("CONFIG", `cannot read ${file} (${code ?? "unknown error"})`, { cause: error });
  }
  try {
    return JSON.parse(text);
  } catch {
    // V8 quotes the text around the fault: a key may have been pasted there.
    throw new LegerError("CONFIG", `${file} is not JSON`, { hints: [example] });
  }
}
