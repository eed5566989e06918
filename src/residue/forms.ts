/** forms — what a value looks like where somebody copied it: as it is, and in the encodings that programs write. */
import { isUtf8 } from "node:buffer";
import type { Secret } from "../core/secret.ts";

/** `raw` first: what looks the same in two forms is told as the earlier one. */
const FORMS = ["raw", "base64", "base64url", "hex", "url", "json", "quoted"] as const;
export type Form = (typeof FORMS)[number];

export type FormBytes = {
  form: Form;
  bytes: Uint8Array;
  /** Programs break it into lines, and white space within doesn't change what it means. */
  foldable: boolean;
};

/** A shorter value would be found everywhere, by chance. */
export const MIN_VALUE_BYTES = 8;

/** Of a longer form, so much from its middle stands for all of it: keys of one kind begin and end alike. */
export const MAX_SOUGHT_BYTES = 4096;

/**
 * All forms of a value, none twice. White space at its ends is left out, since whoever copies a key drops it. Undefined
 * where less than MIN_VALUE_BYTES remain.
 */
export function formsOf(secret: Secret): FormBytes[] | undefined {
  const value = trimmed(secret.reveal());
  if (value.length < MIN_VALUE_BYTES) return undefined;
  const hex = value.toString("hex");
  const text = isUtf8(value) ? value.toString() : undefined;
  const all: Record<Form, readonly (Uint8Array | string)[]> = {
    raw: [value],
    base64: base64Of(value),
    base64url: base64Of(value).map((form) => form.replaceAll("+", "-").replaceAll("/", "_")),
    hex: [hex, hex.toUpperCase()],
    url: urlFormsOf(value),
    json: text === undefined ? [] : jsonFormsOf(text),
    quoted: text === undefined ? [] : quotedFormsOf(text),
  };
  const seen = new Set<string>();
  return FORMS.flatMap((form) =>
    all[form].flatMap((whole) => {
      const bytes = middleOf(typeof whole === "string" ? Buffer.from(whole) : whole);
      const key = Buffer.from(bytes).toString("latin1");
      if (seen.has(key)) return [];
      seen.add(key);
      return [{ form, bytes, foldable: FOLDABLE.has(form) }];
    }),
  );
}

const FOLDABLE: ReadonlySet<Form> = new Set(["base64", "base64url", "hex"]);

/** Whatever stands before it: three bytes are four characters, so there are three ways. Ends depend on the neighbours. */
function base64Of(value: Buffer): string[] {
  return [0, 1, 2].map((before) => {
    const text = Buffer.concat([Buffer.alloc(before), value]).toString("base64");
    return text.slice(Math.ceil((before * 4) / 3), Math.floor(((before + value.length) * 4) / 3));
  });
}

/** By characters that are left as they are: RFC 3986's unreserved; encodeURIComponent; encodeURI; an HTML form's. */
function urlFormsOf(value: Buffer): string[] {
  const unreserved = "A-Za-z0-9_.\\-";
  const kept = [`${unreserved}~`, `${unreserved}~!'()*`, `${unreserved}~!'()*;,/?:@&=+$#`, `${unreserved}*`];
  const bytes = value.toString("latin1");
  return kept.flatMap((characters, at) => {
    const isForm = at === kept.length - 1;
    const encode = (byte: string): string => {
      if (isForm && byte === " ") return "+";
      return `%${byte.charCodeAt(0).toString(16).padStart(2, "0")}`;
    };
    const lower = bytes.replaceAll(new RegExp(`[^${characters}]`, "g"), encode);
    return [lower, lower.replaceAll(/%../g, (found) => found.toUpperCase())];
  });
}

/** JavaScript's way; Go's, which escapes for HTML, too; Python's, in ASCII; and each with `\/`. */
function jsonFormsOf(text: string): string[] {
  const plain = JSON.stringify(text).slice(1, -1);
  const go = plain.replaceAll(/[<>&\u2028\u2029]/g, escaped);
  // Before Go 1.22 these two had no short form.
  const oldGo = go.replaceAll(/\\[bf]|\\\\/g, (found) =>
    found === "\\b" ? "\\u0008" : found === "\\f" ? "\\u000c" : found,
  );
  const ascii = plain.replaceAll(/[\u007f-\uffff]/g, escaped);
  const forms = [plain, go, oldGo, ascii];
  return [...forms, ...forms.map((form) => form.replaceAll("/", "\\/"))].flatMap((form) => [
    form,
    form.replaceAll(/\\\\|\\u[0-9a-f]{4}/g, (found) => `\\${found[1]}${found.slice(2).toUpperCase()}`),
  ]);
}

function escaped(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

/** In double quotes for systemd and shells; in single ones; with backslashes alone; and with systemd's doubled `%`. */
function quotedFormsOf(text: string): string[] {
  const double = text.replaceAll(/["\\`$]/g, "\\$&");
  return [
    double,
    double.replaceAll("%", "%%"),
    text.replaceAll("%", "%%"),
    text.replaceAll("'", `'\\''`),
    text.replaceAll(/[^A-Za-z0-9_@%+=:,./\-\u0080-\uffff]/g, "\\$&"),
  ];
}

function middleOf(bytes: Uint8Array): Uint8Array {
  const from = Math.max(0, Math.floor((bytes.length - MAX_SOUGHT_BYTES) / 2));
  return bytes.subarray(from, from + MAX_SOUGHT_BYTES);
}

function trimmed(value: Uint8Array): Buffer {
  let from = 0;
  let to = value.length;
  while (from < to && isSpace(value[from])) from += 1;
  while (to > from && isSpace(value[to - 1])) to -= 1;
  return Buffer.from(value.buffer, value.byteOffset + from, to - from);
}

function isSpace(byte: number | undefined): boolean {
  return byte === 0x20 || (byte !== undefined && byte >= 0x09 && byte <= 0x0d);
}
