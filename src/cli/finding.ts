/** finding — what leger doctor says of one thing that it looked at. */
import { LegerError } from "../core/error.ts";

/**
 * - `ok`: as it should be
 * - `note`: nothing is wrong, or it cannot be told
 * - `warning`: works, but keeps less safe or less well than it could
 * - `error`: something doesn't work, or will not at the next start
 */
export type Level = "ok" | "note" | "warning" | "error";

export type Finding = {
  level: Level;
  /** One line. */
  text: string;
  /** What to do about it, most useful first. */
  hints: readonly string[];
  /** For programs. */
  facts?: Readonly<Record<string, unknown>>;
};

export function ok(text: string, facts?: Finding["facts"]): Finding {
  return finding("ok", text, [], facts);
}

/** Nothing to do about it, or no way to know. */
export function note(text: string, ...hints: readonly string[]): Finding {
  return { level: "note", text, hints };
}

export function warning(text: string, hints: readonly string[], facts?: Finding["facts"]): Finding {
  return finding("warning", text, hints, facts);
}

export function wrong(text: string, hints: readonly string[], facts?: Finding["facts"]): Finding {
  return finding("error", text, hints, facts);
}

function finding(level: Level, text: string, hints: readonly string[], facts: Finding["facts"]): Finding {
  return { level, text, hints, ...(facts === undefined ? {} : { facts }) };
}

/** What was found out, or why it could not be. */
export type Outcome<T> = { value: T } | { failure: LegerError };

/** Never rejects but for a bug. */
export async function outcomeOf<T>(promise: Promise<T>): Promise<Outcome<T>> {
  try {
    return { value: await promise };
  } catch (error) {
    if (error instanceof LegerError) return { failure: error };
    throw error;
  }
}
