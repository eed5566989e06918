/**
 * journal — what systemd's journal keeps compressed, which a search of its files' bytes passes over.
 *
 * The layout is documented (systemd's docs/JOURNAL_FILE_FORMAT.md). A field of more than 512 bytes is a data object of
 * its own, and zstd since systemd 246; before that LZ4 or XZ.
 */
import { readSync } from "node:fs";
import { zstdDecompressSync } from "node:zlib";

export type JournalField = {
  /** Of the object, in the file. */
  offset: number;
  bytes: Uint8Array;
};

/** Whether these are the first bytes of a journal file. */
export function isJournal(head: Uint8Array): boolean {
  return Buffer.from(head.buffer, head.byteOffset, Math.min(head.length, 8)).equals(SIGNATURE);
}

const SIGNATURE = Buffer.from("LPKSHHRH");

/** A field is one program's message; the journal itself takes none larger (DATA_SIZE_MAX is far more than is ever used). */
const MAX_FIELD_BYTES = 64 * 1024 * 1024;

const HEADER_BYTES = 104;
const OBJECT_HEADER_BYTES = 16;
const DATA_OBJECT = 1;
const MAX_OBJECT_TYPE = 7;
const COMPRESSED = { xz: 1, lz4: 2, zstd: 4 } as const;
const INCOMPATIBLE_COMPACT = 16;
/** Where a data object's payload begins. */
const PAYLOAD = { regular: 64, compact: 72 } as const;

/** What of it is compressed by zstd. `size`: of the file. Its result says how much was not looked into. */
export function* compressedFields(fd: number, size: number): Generator<JournalField, { leftOut: number }> {
  const reader = new Reader(fd, size);
  const head = reader.at(0, HEADER_BYTES);
  if (head === undefined || !isJournal(head)) return { leftOut: 0 };
  const payload = (head.readUInt32LE(12) & INCOMPATIBLE_COMPACT) === 0 ? PAYLOAD.regular : PAYLOAD.compact;
  let leftOut = 0;
  let offset = Number(head.readBigUInt64LE(88));
  for (;;) {
    const object = reader.at(offset, OBJECT_HEADER_BYTES);
    if (object === undefined) break;
    const type = object[0] ?? 0;
    const flags = object[1] ?? 0;
    const length = Number(object.readBigUInt64LE(8));
    // What is allocated and not yet used is zeros; anything else that is no object ends what can be made sense of.
    if (type === 0 || type > MAX_OBJECT_TYPE || length < OBJECT_HEADER_BYTES) break;
    if (type === DATA_OBJECT && (flags & 0b111) !== 0) {
      const bytes = decompressed(reader, { from: offset + payload, to: offset + length, flags });
      if (bytes === undefined) leftOut += 1;
      else yield { offset, bytes };
    }
    // Objects begin at multiples of eight.
    offset += Math.ceil(length / 8) * 8;
  }
  return { leftOut };
}

type Payload = { from: number; to: number; flags: number };

function decompressed(reader: Reader, { from, to, flags }: Payload): Uint8Array | undefined {
  if ((flags & COMPRESSED.zstd) === 0 || to - from > MAX_FIELD_BYTES) return undefined;
  const packed = reader.at(from, to - from);
  if (packed === undefined) return undefined;
  try {
    return zstdDecompressSync(packed, { maxOutputLength: MAX_FIELD_BYTES });
  } catch {
    // It is being written at this moment, or is damaged.
    return undefined;
  }
}

const WINDOW_BYTES = 256 * 1024;

/** Bytes anywhere in a file that is mostly read from its beginning to its end. */
class Reader {
  readonly #fd: number;
  readonly #size: number;
  readonly #window = Buffer.alloc(WINDOW_BYTES);
  #from = 0;
  #filled = 0;

  constructor(fd: number, size: number) {
    this.#fd = fd;
    this.#size = size;
  }

  /** Undefined behind its end. */
  at(offset: number, length: number): Buffer | undefined {
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + length > this.#size) return undefined;
    if (length > WINDOW_BYTES) {
      const large = Buffer.alloc(length);
      return this.#read(large, offset) === length ? large : undefined;
    }
    if (offset < this.#from || offset + length > this.#from + this.#filled) {
      this.#filled = this.#read(this.#window, offset);
      this.#from = offset;
      if (this.#filled < length) return undefined;
    }
    return this.#window.subarray(offset - this.#from, offset - this.#from + length);
  }

  #read(buffer: Buffer, offset: number): number {
    let filled = 0;
    while (filled < buffer.length) {
      const bytes = readSync(this.#fd, buffer, filled, buffer.length - filled, offset + filled);
      if (bytes === 0) break;
      filled += bytes;
    }
    return filled;
  }
}
