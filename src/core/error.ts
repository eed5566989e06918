/** error — the one way leger fails: a code, a fact and advice. */

/**
 * Every way leger can fail, with the exit status a shell sees (design: 1 and 2 are leger's own, the rest
 * are the classes of sysexits.h).
 */
const EXIT_STATUS = {
  FAILED: 1,
  DIFFERENT: 2,
  USAGE: 64,
  BAD_DATA: 65,
  /** Understood and turned down: the request cannot be carried out as things stand. */
  REFUSED: 1,
  /** A version number that is in use or was, once. */
  VERSION_CLAIMED: 1,
  /** What is on disk is not what legerd wrote: damaged, cut short or put back from an older state. */
  DAMAGED: 65,
  SECRET_NOT_FOUND: 66,
  VERSION_NOT_FOUND: 66,
  SERVICE_NOT_FOUND: 66,
  /** Nobody answers: no daemon, no socket, or no answer in time. */
  UNREACHABLE: 69,
  /** Somebody answers, but not as legerd does. */
  BAD_ANSWER: 69,
  BUG: 70,
  IO: 74,
  DENIED: 77,
  /** A file, directory or socket that others could have tampered with. */
  UNSAFE: 77,
  CONFIG: 78,
} as const;

export type ErrorCode = keyof typeof EXIT_STATUS;

/** For codes that come from another process. */
export function isErrorCode(text: unknown): text is ErrorCode {
  return typeof text === "string" && Object.hasOwn(EXIT_STATUS, text);
}

type Details = { hints?: readonly string[]; cause?: unknown };

/** A failure that a person can act on. `message` names the operation and the object, never a value. */
export class LegerError extends Error {
  override readonly name = "LegerError";
  readonly code: ErrorCode;
  /** What to do about it, most useful first; each a sentence without a full stop. */
  readonly hints: readonly string[];

  constructor(code: ErrorCode, message: string, { hints = [], cause }: Details = {}) {
    super(message, cause === undefined ? {} : { cause });
    this.code = code;
    this.hints = hints;
  }

  get exitStatus(): number {
    return EXIT_STATUS[this.code];
  }
}

/** The POSIX code of a system error ("ENOENT"), or undefined for anything else that was thrown. */
export function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/**
 * The lines a person reads: `leger: error: …`, then one `leger: hint: …` per piece of advice, each ended by
 * a newline. Anything that is not a LegerError is a bug of ours: only its class is shown, because a foreign
 * message may quote what it was working on.
 */
export function speak(error: unknown, program = "leger"): string {
  if (error instanceof LegerError) {
    const hints = error.hints.map((hint) => `${program}: hint: ${hint}\n`);
    return `${program}: error: ${error.message}\n${hints.join("")}`;
  }
  const kind = error instanceof Error ? error.name : typeof error;
  const code = systemCode(error);
  return `${program}: error: internal error (${kind}${code === undefined ? "" : ` ${code}`})\n${program}: hint: this is a bug in leger; set LEGER_DEBUG=1 to see where it happened\n`;
}

/** Where a bug happened, a line each; empty for what is none. Not its message, which may quote what was worked on. */
export function framesOf(error: unknown): string {
  if (!(error instanceof Error) || (error instanceof LegerError && error.code !== "BUG")) return "";
  const frames = (error.stack ?? "").split("\n").filter((line) => line.startsWith("    at "));
  return frames.map((frame) => `${frame}\n`).join("");
}

/** The exit status for anything that was thrown. */
export function exitStatusOf(error: unknown): number {
  return error instanceof LegerError ? error.exitStatus : EXIT_STATUS.BUG;
}
