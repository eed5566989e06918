/** scan — one open file through the search, in pieces, with constant memory whatever its size. */
import { read, readSync } from "node:fs";
import { promisify } from "node:util";
import type { Pattern, Search } from "./search.ts";

/** Where a pattern is in a file, and how often. */
export type Found<P extends Pattern> = {
  pattern: P;
  /** In bytes, of the first one. */
  offset: number;
  times: number;
};

type Readable = {
  fd: number;
  /** What it was when it was opened: no more is read of a file that grows. Absent: /proc's, which says 0. */
  size?: number | undefined;
};

export type Watching = { onBytes?: ((bytes: number) => void) | undefined };

/** At a time. Larger ones are not faster: this one and what is read meanwhile stay in the processor's cache. */
export const PIECE_BYTES = 1024 * 1024;

const readAsync = promisify(read);

/** Searches open files one after the other; it has two buffers, of which one is filled while the other is searched. */
export class Scanner<P extends Pattern> {
  readonly #search: Search<P>;
  /** So much of a piece is looked at again with the next one. */
  readonly #carry: number;
  readonly #buffers: readonly [Buffer, Buffer];

  constructor(search: Search<P>) {
    this.#search = search;
    this.#carry = search.before + search.after;
    const buffer = (): Buffer => Buffer.allocUnsafeSlow(this.#carry + PIECE_BYTES);
    this.#buffers = [buffer(), buffer()];
  }

  /** What is in the file. Throws the system error that reading met. */
  async file({ fd, size = Infinity }: Readable, { onBytes }: Watching = {}): Promise<Found<P>[]> {
    const tally = new Tally<P>();
    const [first, second] = this.#buffers;
    // Most files are small, and to wait for another thread would take longer than to read them.
    let bytes = readWhole(fd, first.subarray(this.#carry), size);
    onBytes?.(bytes);
    if (bytes < PIECE_BYTES) {
      this.#piece(first, { filled: this.#carry + bytes, kept: 0, offset: 0, isLast: true }, tally);
      return tally.found();
    }
    let [current, next] = [first, second];
    let kept = 0;
    for (let offset = 0; ;) {
      const wanted = Math.min(PIECE_BYTES, size - offset - bytes);
      const reading =
        wanted <= 0 ? undefined : readPiece(fd, next.subarray(this.#carry, this.#carry + wanted));
      // Awaited below; a failure before that is no unhandled one.
      reading?.catch(() => {});
      const filled = this.#carry + bytes;
      if (reading === undefined) {
        this.#piece(current, { filled, kept, offset, isLast: true }, tally);
        return tally.found();
      }
      const begin = this.#piece(current, { filled, kept, offset, isLast: false }, tally);
      kept = filled - begin;
      current.copy(next, this.#carry - kept, begin, filled);
      offset += bytes;
      bytes = await reading;
      onBytes?.(bytes);
      [current, next] = [next, current];
      if (bytes === 0) {
        this.#piece(current, { filled: this.#carry, kept, offset, isLast: true }, tally);
        return tally.found();
      }
    }
  }

  /** What is in these bytes. */
  bytes(bytes: Uint8Array): Found<P>[] {
    const tally = new Tally<P>();
    this.#search.find(bytes, 0, bytes.length, (match) => tally.add(match.pattern, match.from));
    return tally.found();
  }

  /**
   * Searches a buffer whose piece begins at `#carry`, `offset` in the file, with `kept` bytes of the last piece before it.
   * Where the bytes begin that the next piece needs before it.
   */
  #piece(buffer: Buffer, piece: Piece, tally: Tally<P>): number {
    const { filled, kept, offset, isLast } = piece;
    const { before, after } = this.#search;
    const begin = this.#carry - kept;
    const bytes = buffer.subarray(begin, filled);
    // What was kept was searched but for its last `after` bytes, unless it was all there was.
    const from = Math.max(0, kept - after);
    const to = isLast ? bytes.length : Math.max(from, bytes.length - after);
    this.#search.find(bytes, from, to, (match) => tally.add(match.pattern, offset - kept + match.from));
    return begin + Math.max(0, to - before);
  }
}

type Piece = { filled: number; kept: number; offset: number; isLast: boolean };

/** Of a file full of one value, one line and not a million. */
class Tally<P extends Pattern> {
  readonly #found = new Map<P, Found<P>>();

  add(pattern: P, offset: number): void {
    const known = this.#found.get(pattern);
    if (known === undefined) this.#found.set(pattern, { pattern, offset, times: 1 });
    else known.times += 1;
  }

  found(): Found<P>[] {
    return [...this.#found.values()];
  }
}

/** Fills the buffer, or reads to the end. */
function readWhole(fd: number, buffer: Buffer, size: number): number {
  const wanted = Math.min(buffer.length, size);
  let filled = 0;
  while (filled < wanted) {
    const bytes = readSync(fd, buffer, filled, wanted - filled, null);
    if (bytes === 0) break;
    filled += bytes;
  }
  return filled;
}

async function readPiece(fd: number, buffer: Buffer): Promise<number> {
  let filled = 0;
  while (filled < buffer.length) {
    const { bytesRead } = await readAsync(fd, buffer, filled, buffer.length - filled, null);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return filled;
}
