/** prompt — questions to a person at a terminal. */
import { LegerError } from "../core/error.ts";
import { Interrupted } from "./terminal.ts";
import type { CliWorld } from "./world.ts";

/** Where a question is asked. */
export type Asking = Pick<CliWorld, "stdin" | "stderr" | "isTTY">;

/** Can a question be asked at all, seen and answered? */
export function canAsk({ isTTY, stdin }: Asking): boolean {
  return isTTY.stdin && isTTY.stderr && stdin.setRawMode !== undefined;
}

/**
 * A value, asked for twice without echo. USAGE when the two differ; Interrupted on Ctrl-C, or on Ctrl-D with
 * nothing typed. The value ends at the first Enter, so it has one line.
 */
export async function askValue(world: Asking, label: string): Promise<Uint8Array> {
  const value = await askTwice(world, label);
  if (value !== undefined) return value;
  throw new LegerError("USAGE", "the two values differ; nothing was stored", {
    hints: ["a value of several lines comes from a file or a pipe: --file FILE"],
  });
}

/** What was typed without echo, the same both times; undefined where it was not. */
export async function askTwice(world: Asking, label: string): Promise<Uint8Array | undefined> {
  using keyboard = new Keyboard(world);
  const first = await keyboard.line(`${label}: `, { echo: false });
  const second = await keyboard.line("Once more: ", { echo: false });
  return Buffer.from(first).equals(second) ? first : undefined;
}

/** What is typed without echo. */
export async function askHidden(world: Asking, label: string): Promise<Uint8Array> {
  using keyboard = new Keyboard(world);
  return keyboard.line(`${label}: `, { echo: false });
}

/** Yes or no; anything but a plain yes is a no. */
export async function confirm(world: Asking, question: string): Promise<boolean> {
  using keyboard = new Keyboard(world);
  const answer = await keyboard.line(`${question} [y/N] `, { echo: true });
  return /^y(es)?$/i.test(Buffer.from(answer).toString().trim());
}

const CTRL_C = 0x03;
const CTRL_D = 0x04;
const BACKSPACE = 0x08;
const CTRL_U = 0x15;
const ESCAPE = 0x1b;
const DELETE = 0x7f;

/** The terminal in raw mode for as long as this lives; what is typed ahead is kept for the next line. */
class Keyboard {
  readonly #world: Asking;
  readonly #chunks: AsyncIterator<Buffer>;
  #pending: Buffer = Buffer.alloc(0);

  constructor(world: Asking) {
    this.#world = world;
    world.stdin.setRawMode?.(true);
    this.#chunks = chunksOf(world.stdin);
  }

  async line(prompt: string, { echo }: { echo: boolean }): Promise<Uint8Array> {
    this.#world.stderr.write(prompt);
    const typed: number[] = [];
    for (;;) {
      const byte = await this.#next();
      if (byte === undefined || byte === CTRL_C || (byte === CTRL_D && typed.length === 0)) {
        this.#world.stderr.write("\r\n");
        throw new Interrupted();
      }
      if (byte === 0x0d || byte === 0x0a) {
        this.#world.stderr.write("\r\n");
        return Uint8Array.from(typed);
      }
      if (byte === ESCAPE) await this.#skipEscape();
      else if (byte === CTRL_U) typed.length = 0;
      else if (byte === BACKSPACE || byte === DELETE) rubOut(typed);
      else if (byte >= 0x20 || byte === 0x09) typed.push(byte);
      if (echo && byte >= 0x20 && byte !== DELETE) this.#world.stderr.write(Buffer.from([byte]));
    }
  }

  [Symbol.dispose](): void {
    this.#world.stdin.setRawMode?.(false);
    this.#world.stdin.pause();
  }

  async #next(): Promise<number | undefined> {
    while (this.#pending.length === 0) {
      const { value, done } = await this.#chunks.next();
      if (done === true) return undefined;
      this.#pending = value;
    }
    const [byte] = this.#pending;
    this.#pending = this.#pending.subarray(1);
    return byte;
  }

  /** An arrow key is no part of a value: ESC [ … letter, or ESC and one more. */
  async #skipEscape(): Promise<void> {
    if (this.#pending.length === 0) return;
    if ((await this.#next()) !== 0x5b) return;
    for (let byte = await this.#next(); byte !== undefined && (byte < 0x40 || byte > 0x7e);) {
      byte = await this.#next();
    }
  }
}

/** Unlike the stream's own iterator, this one leaves the stream as it is when nobody asks any more. */
async function* chunksOf(stdin: CliWorld["stdin"]): AsyncGenerator<Buffer, undefined> {
  const queue: Buffer[] = [];
  let ended = false;
  let wake: (() => void) | undefined;
  const onData = (chunk: Buffer | string): void => {
    queue.push(Buffer.from(chunk));
    wake?.();
  };
  const onEnd = (): void => {
    ended = true;
    wake?.();
  };
  stdin.on("data", onData);
  stdin.once("end", onEnd);
  stdin.once("error", onEnd);
  try {
    for (;;) {
      const chunk = queue.shift();
      if (chunk !== undefined) yield chunk;
      else if (ended) return undefined;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    stdin.off("data", onData);
    stdin.off("end", onEnd);
    stdin.off("error", onEnd);
  }
}

/** Takes back one character: a UTF-8 sequence, not one byte of it. */
function rubOut(typed: number[]): void {
  let byte = typed.pop();
  while (byte !== undefined && (byte & 0xc0) === 0x80) byte = typed.pop();
}
