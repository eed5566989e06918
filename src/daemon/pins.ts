/** pins — one start of a unit sees all its secrets as they stood at its first lookup. */
import { LegerError } from "../core/error.ts";
import type { VersionedValue } from "../store/store.ts";

/** What is told of a lookup's origin: Podman's driver has a process, and a request, for every secret. */
type Origin = { principal: string; unit?: string; invocation?: string };

export type PinsOptions = {
  /** From a start's first lookup on; 0 for no pins at all. */
  windowMs: number;
  /** In milliseconds, from any moment. */
  now?: () => number;
};

type Pin = {
  until: number;
  /** The values that are no longer the active ones, or may soon not be; undefined where there was none. */
  kept: Map<string, VersionedValue | undefined>;
};

/** More starts at a time see what is active, as everything else does. Nobody's pin makes room for another. */
const MAX_PINS = 1_000;

/**
 * A pin copies nothing: before a secret changes, every pin is given what it was. It belongs to a unit *and* an invocation: a
 * health check has an invocation of its own and no unit, and only a start has both. It ends after a while, since `podman
 * restart` and shells go on under an old invocation.
 */
export class Pins {
  readonly #windowMs: number;
  readonly #now: () => number;
  /** The oldest first. */
  readonly #pins = new Map<string, Pin>();
  /** Secrets that are being changed, and what they were. */
  readonly #changing = new Map<string, { was: VersionedValue | undefined; done: Promise<unknown> }>();

  constructor({ windowMs, now = () => performance.now() }: PinsOptions) {
    this.#windowMs = windowMs;
    this.#now = now;
  }

  /** The active version of a secret, as it is or as this start has to see it. Throws what `read` throws. */
  get(origin: Origin, name: string, read: () => VersionedValue): VersionedValue {
    const kept = this.#pinOf(origin)?.kept;
    if (kept?.has(name) !== true) return read();
    const value = kept.get(name);
    if (value === undefined) throw new LegerError("SECRET_NOT_FOUND", `secret ${name}: not found`);
    return value;
  }

  /** Changes a secret, after other changes of it; whoever has a pin goes on seeing what `read` gives before. */
  async change<T>(
    name: string,
    read: () => VersionedValue | undefined,
    mutate: () => Promise<T>,
  ): Promise<T> {
    if (this.#windowMs === 0) return mutate();
    // Also while there is no pin: the first may be made before this change is seen, and must not see half of several.
    for (let other = this.#changing.get(name); other !== undefined; other = this.#changing.get(name)) {
      await other.done;
    }
    const was = read();
    const { promise: done, resolve } = Promise.withResolvers<void>();
    this.#changing.set(name, { was, done });
    this.#drop();
    for (const { kept } of this.#pins.values()) if (!kept.has(name)) kept.set(name, was);
    try {
      return await mutate();
    } finally {
      this.#changing.delete(name);
      resolve();
    }
  }

  #pinOf({ principal, unit, invocation }: Origin): Pin | undefined {
    if (unit === undefined || invocation === undefined || this.#windowMs === 0) return undefined;
    const key = JSON.stringify([principal, unit, invocation]);
    this.#drop();
    const known = this.#pins.get(key);
    if (known !== undefined || this.#pins.size >= MAX_PINS) return known;
    // What is being changed may be seen changed by now, and may not: this start sees none of it.
    const kept = new Map([...this.#changing].map(([name, { was }]) => [name, was]));
    const pin = { until: this.#now() + this.#windowMs, kept };
    this.#pins.set(key, pin);
    return pin;
  }

  #drop(): void {
    const now = this.#now();
    for (const [key, { until }] of this.#pins) {
      if (until > now) break;
      this.#pins.delete(key);
    }
  }
}
