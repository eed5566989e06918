/** terminal — what leger says and how: data on standard output, speech on standard error. */
import { LegerError, speak, systemCode } from "../core/error.ts";
import type { CliWorld } from "./world.ts";

/** Every JSON document on standard output says which shape it has. */
const SCHEMA_VERSION = 1;

const USUAL_COLUMNS = 80;

/** Thrown when nobody reads standard output any more: no failure, and nothing to say. */
export class ReaderGone extends Error {}

/** Thrown on Ctrl-C at a prompt. */
export class Interrupted extends Error {}

export class Terminal {
  readonly #world: CliWorld;

  constructor(world: CliWorld) {
    this.#world = world;
    // Without a listener a closed pipe would end the process; `write` learns of it by its callback.
    world.stdout.on("error", ignore);
  }

  /** Data, as it is. Throws ReaderGone, and IO for a full disk behind a redirection. */
  async write(bytes: Uint8Array | string): Promise<void> {
    const failure = await new Promise<Error | null | undefined>((resolve) => {
      this.#world.stdout.write(bytes, resolve);
    });
    if (failure === null || failure === undefined) return;
    const code = systemCode(failure);
    if (code === "EPIPE" || code === "ERR_STREAM_DESTROYED") throw new ReaderGone();
    throw new LegerError("IO", `cannot write to standard output (${code ?? failure.name})`);
  }

  async line(text: string): Promise<void> {
    await this.write(`${printable(text)}\n`);
  }

  async json(document: Readonly<Record<string, unknown>>): Promise<void> {
    await this.line(JSON.stringify({ schema_version: SCHEMA_VERSION, ...document }));
  }

  /** Columns wide enough for what is in them, two spaces apart; the last one is not filled up. */
  async table(head: readonly string[], rows: readonly (readonly string[])[]): Promise<void> {
    const cells = [head, ...rows].map((row) => row.map(printable));
    const widths = head.map((_, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
    const lines = cells.map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    );
    await this.write(`${lines.join("\n")}\n`);
  }

  /** What a person is told beside the data. */
  say(text: string): void {
    this.#speak(`leger: ${printable(text)}\n`);
  }

  warn(text: string, ...hints: readonly string[]): void {
    this.#speak(`leger: warning: ${printable(text)}\n`);
    for (const hint of hints) this.#speak(`leger: hint: ${printable(hint)}\n`);
  }

  /** A line that is written over again and again, at a terminal only; undefined takes it away. */
  progress(text: string | undefined): void {
    if (!this.#world.isTTY.stderr) return;
    // One column less than there are: a full line would begin the next one.
    const widest = (this.#world.columns ?? USUAL_COLUMNS) - 1;
    this.#speak(`\r\x1b[K${printable(text ?? "").slice(0, widest)}`);
  }

  fail(error: unknown): void {
    const text = speak(error).trimEnd().split("\n");
    for (const line of text) this.#speak(`${printable(line)}\n`);
    if (error instanceof LegerError || this.#world.env["LEGER_DEBUG"] !== "1") return;
    // Only the frames: the message may quote what it was working on.
    const frames = error instanceof Error ? (error.stack ?? "").split("\n") : [];
    for (const frame of frames.filter((line) => /^\s+at /.test(line))) this.#speak(`${printable(frame)}\n`);
  }

  #speak(text: string): void {
    const { stderr } = this.#world;
    if (stderr.listenerCount("error") === 0) stderr.on("error", ignore);
    stderr.write(text);
  }
}

/** Names come from elsewhere and may hold escape sequences, which a terminal would obey. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu, (char) => {
    const code = char.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16)}`;
  });
}

/** "1 secret", "3 secrets". */
export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function ignore(): void {}
