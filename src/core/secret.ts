/** secret — bytes that cannot be printed by accident. */

const MASK = "[secret]";

/**
 * Wraps a value so that string conversion, JSON and `console.log` show only a mask, not even the length.
 * `reveal()` is the one way out; searching for it finds every place that touches plaintext.
 */
export class Secret {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** The bytes themselves, not a copy. */
  reveal(): Uint8Array {
    return this.#bytes;
  }

  toString(): string {
    return MASK;
  }

  toJSON(): string {
    return MASK;
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return MASK;
  }
}
