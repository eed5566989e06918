/**
 * sqlite — rows of a SQLite database that are longer than a page: their bytes don't lie next to each other in the file, so
 * that a search of it passes over what goes across a page's border. Podman keeps a container as one such row.
 *
 * The layout is documented: sqlite.org/fileformat2.html.
 */
import { readSync } from "node:fs";

export type Row = {
  /** Where it begins in the file. */
  offset: number;
  bytes: Uint8Array;
};

/** Whether these are the first bytes of a database. */
export function isDatabase(head: Uint8Array): boolean {
  return Buffer.from(head.buffer, head.byteOffset, Math.min(head.length, SIGNATURE.length)).equals(SIGNATURE);
}

const SIGNATURE = Buffer.from("SQLite format 3\0");

/** A longer row is no configuration of anybody's, and would have to be held in memory. */
const MAX_ROW_BYTES = 16 * 1024 * 1024;

const HEADER_BYTES = 100;
const TABLE_LEAF = 0x0d;
const CELL_POINTERS_AT = 8;

/** Its tables' rows that go over more than one page, each put together. `size`: of the file. */
export function* longRows(fd: number, size: number): Generator<Row, void> {
  const header = Buffer.alloc(HEADER_BYTES);
  if (readSync(fd, header, 0, HEADER_BYTES, 0) < HEADER_BYTES || !isDatabase(header)) return;
  const told = header.readUInt16BE(16);
  const pageBytes = told === 1 ? 65_536 : told;
  if (pageBytes < 512) return;
  const file: Layout = {
    fd,
    pageBytes,
    usable: pageBytes - (header[20] ?? 0),
    pages: Math.floor(size / pageBytes),
  };
  for (let number = 1; number <= file.pages; number += 1) {
    const page = pageOf(file, number);
    if (page === undefined) return;
    const at = number === 1 ? HEADER_BYTES : 0;
    if (page[at] !== TABLE_LEAF) continue;
    for (const cell of cellsOf(page, at)) {
      const bytes = wholeRow(file, page, cell);
      if (bytes !== undefined) yield { offset: (number - 1) * pageBytes + cell, bytes };
    }
  }
}

type Layout = { fd: number; pageBytes: number; usable: number; pages: number };

/** From 1. */
function pageOf({ fd, pageBytes, pages }: Layout, number: number): Buffer | undefined {
  if (number < 1 || number > pages) return undefined;
  const page = Buffer.alloc(pageBytes);
  return readSync(fd, page, 0, pageBytes, (number - 1) * pageBytes) === pageBytes ? page : undefined;
}

function cellsOf(page: Buffer, at: number): number[] {
  const pointers = at + CELL_POINTERS_AT;
  const cells = Math.min(page.readUInt16BE(at + 3), Math.floor((page.length - pointers) / 2));
  return Array.from({ length: cells }, (_, index) => page.readUInt16BE(pointers + 2 * index));
}

/** Undefined for one that lies within its page, or that makes no sense. */
function wholeRow(file: Layout, page: Buffer, cell: number): Buffer | undefined {
  const payload = varint(page, cell);
  const rowid = varint(page, payload.end);
  const { usable } = file;
  if (payload.value <= usable - 35 || payload.value > MAX_ROW_BYTES) return undefined;
  const least = Math.floor(((usable - 12) * 32) / 255) - 23;
  const fitting = least + ((payload.value - least) % (usable - 4));
  const local = fitting <= usable - 35 ? fitting : least;
  const end = rowid.end + local;
  if (end + 4 > usable) return undefined;
  const parts = [page.subarray(rowid.end, end)];
  let next = page.readUInt32BE(end);
  for (let left = payload.value - local; left > 0;) {
    const overflow = pageOf(file, next);
    if (overflow === undefined) return undefined;
    parts.push(overflow.subarray(4, Math.min(usable, 4 + left)));
    left -= usable - 4;
    next = overflow.readUInt32BE(0);
  }
  return Buffer.concat(parts);
}

/** Seven bits a byte, the highest first; eight in a ninth. */
function varint(bytes: Buffer, from: number): { value: number; end: number } {
  let value = 0;
  for (let at = from; at < from + 8; at += 1) {
    const byte = bytes[at] ?? 0;
    value = value * 128 + (byte & 0x7f);
    if (byte < 0x80) return { value, end: at + 1 };
  }
  return { value: value * 256 + (bytes[from + 8] ?? 0), end: from + 9 };
}
