/** target — what every fuzz target is, and how inputs are made of a seed. */
import { LegerError } from "../../src/core/error.ts";

/** Something that is given inputs. */
export type Target = {
  name: string;
  /** Makes an input of the seed and tries it; throws where that does harm. */
  tryOne(seed: number): void | Promise<void>;
  /** Most inputs of one run, where each leaves something in memory by design. */
  most?: number;
  /** How many inputs that is; one where it isn't said. */
  perSeed?: number;
  /** Seeds that found something once. */
  kept: readonly number[];
};

/** A whole number from 0 to below. */
export type Random = (below: number) => number;

/** Numbers that a seed repeats (mulberry32). */
export function randomFrom(seed: number): Random {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

/** Bytes with a few changes: flipped, overwritten, cut, put twice, moved. */
export function mutated(bytes: Buffer, random: Random): Buffer {
  let now = Buffer.from(bytes);
  for (let count = random(4); count >= 0; count -= 1) {
    const at = random(now.length + 1);
    const length = 1 + random(random(8) === 0 ? 4_096 : 16);
    switch (random(6)) {
      case 0:
        if (at < now.length) now[at] = (now[at] ?? 0) ^ (1 << random(8));
        break;
      case 1:
        now.fill(random(256), at, Math.min(now.length, at + length));
        break;
      case 2:
        now = now.subarray(0, at);
        break;
      case 3:
        now = Buffer.concat([now.subarray(0, at), now.subarray(Math.min(now.length, at + length))]);
        break;
      case 4:
        now = Buffer.concat([now.subarray(0, at), now.subarray(Math.max(0, at - length))]);
        break;
      default:
        now.copy(now, at, random(now.length + 1), Math.min(now.length, at + length));
    }
  }
  return now;
}

/** Bytes into which a few pieces, or single bytes, were put, in the place of others or between them. */
export function withPieces(bytes: Buffer, pieces: readonly Buffer[], random: Random): Buffer {
  let now = bytes;
  for (let count = random(6); count >= 0; count -= 1) {
    const at = random(now.length + 1);
    const end = Math.min(now.length, at + random(8));
    const piece =
      random(3) === 0 ? Buffer.from([random(256)]) : (pieces[random(pieces.length)] ?? Buffer.alloc(0));
    now = Buffer.concat([now.subarray(0, at), piece, now.subarray(random(2) === 0 ? at : end)]);
  }
  return now;
}

export function assert(condition: boolean, what: string): void {
  if (!condition) throw new LegerError("BUG", what);
}

/** A LegerError is an answer, but for a bug. */
export async function refusedOr<T>(act: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof LegerError && error.code !== "BUG") return undefined;
    throw error;
  }
}
