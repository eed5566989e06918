/** script — how a script of ours reads its options and ends: with one clear error, and its exit status. */
import { parseArgs, type ParseArgsConfig } from "node:util";
import { exitStatusOf, LegerError, speak } from "../../src/core/error.ts";

/** Reads options as node:util does. `script`: what stands behind "npm run". USAGE, with where help is, for what is none. */
export function readOptions<T extends ParseArgsConfig>(
  script: string,
  config: T,
): ReturnType<typeof parseArgs<T>> {
  try {
    return parseArgs(config);
  } catch (cause) {
    const what = cause instanceof Error ? (cause.message.split(". ", 1)[0] ?? "") : "";
    throw new LegerError("USAGE", what, { hints: [`see npm run ${script} -- --help`], cause });
  }
}

/** An option's number, from 1 on. USAGE for anything else. */
export function wholeNumber(option: string, text: string): number {
  const number = Number(text);
  if (Number.isSafeInteger(number) && number >= 1) return number;
  throw new LegerError("USAGE", `--${option} takes a whole number from 1 on`);
}

/** Runs the whole of a script. What it throws is told, with a stack where we did not foresee it. */
export async function runScript(script: string, main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    process.stderr.write(speak(error, script));
    if (!(error instanceof LegerError))
      process.stderr.write(`${error instanceof Error ? error.stack : ""}\n`);
    process.exitCode = exitStatusOf(error);
  }
}
