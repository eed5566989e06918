/** decode — reads a setec request body byte for byte as Go's `encoding/json` (v1) does. */

/** The fields that setec's request types have between them. */
export type Field = "name" | "version" | "value" | "updateIfChanged";

/** What a body asks for; a field that is absent, null or not of its route is zero. */
export type SetecRequest = {
  /** Well-formed: bytes that are not UTF-8 and lone surrogates have become U+FFFD. */
  name: string;
  /** 0..4294967295 */
  version: number;
  value: Uint8Array;
  updateIfChanged: boolean;
};

/**
 * Decodes the first JSON value of a body, as `json.NewDecoder(body).Decode(&request)` would. `fields` are those
 * of the route's request type; other keys must be JSON and are not looked at otherwise. Undefined: 400.
 *
 * What may surprise, all from Go's decode.go, scanner.go and stream.go: the bytes after the value are never read,
 * keys match in any case, the last duplicate counts but an earlier one of the wrong type still fails, null leaves
 * a field as it is (but empties `value`), and null inside a `value` array leaves the byte as it is.
 */
export function decodeRequest(body: Uint8Array, fields: readonly Field[]): SetecRequest | undefined {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const draft: Draft = {
    name: "",
    version: 0,
    room: NO_BYTES,
    length: 0,
    updateIfChanged: false,
  };
  const start = skipBlanks(bytes, 0);
  const end =
    bytes[start] === OPEN_BRACE ? readObject(bytes, start, fields, draft) : endOfWord(bytes, start, NULL);
  if (end === BAD) return undefined;
  const { name, version, updateIfChanged } = draft;
  return { name, version, value: draft.room.subarray(0, draft.length), updateIfChanged };
}

/**
 * Decodes base64 as Go's `base64.StdEncoding` does: standard alphabet, padding required, CR and LF skipped
 * wherever they stand, stray bits before the padding dropped. Undefined: not base64.
 */
export function decodeBase64(text: Uint8Array): Uint8Array | undefined {
  const out = new Uint8Array(Math.floor(text.length / 4) * 3);
  let length = 0;
  let bits = 0;
  let digits = 0;
  let padding = 0;
  for (let at = 0; at < text.length; at++) {
    const byte = text[at] ?? 0;
    if (byte === LINE_FEED || byte === CARRIAGE_RETURN) continue;
    if (byte === EQUALS) {
      padding++;
      continue;
    }
    const digit = BASE64_DIGITS[byte] ?? NO_DIGIT;
    if (digit === NO_DIGIT || padding > 0) return undefined;
    bits = (bits << 6) | digit;
    digits++;
    if (digits % 4 === 0) {
      out[length++] = bits >> 16;
      out[length++] = bits >> 8;
      out[length++] = bits;
      bits = 0;
    }
  }
  const tail = digits % 4;
  if (tail === 1 || padding !== (4 - tail) % 4) return undefined;
  if (tail > 1) out[length++] = bits >> (tail === 2 ? 4 : 10);
  if (tail > 2) out[length++] = bits >> 2;
  return out.subarray(0, length);
}

/**
 * A request under way. `room` outlives `length`, as the memory behind a Go slice does: where a second `value` array
 * says null, the byte that an earlier one left there comes back.
 */
type Draft = {
  name: string;
  version: number;
  room: Uint8Array;
  length: number;
  updateIfChanged: boolean;
};

/** Instead of the index where something ends: it is not valid JSON, or not of the field's type. */
const BAD = -1;

/** Go's maxNestingDepth, the outermost value included. */
const MAX_DEPTH = 10_000;

const MAX_UINT32 = 4_294_967_295;

const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const QUOTE = 0x22;
const COMMA = 0x2c;
const MINUS = 0x2d;
const DOT = 0x2e;
const ZERO = 0x30;
const NINE = 0x39;
const COLON = 0x3a;
const EQUALS = 0x3d;
const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_BRACKET = 0x5d;
const LOWER_F = 0x66;
const LOWER_N = 0x6e;
const LOWER_T = 0x74;
const LOWER_U = 0x75;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

const NULL = Buffer.from("null");
const TRUE = Buffer.from("true");
const FALSE = Buffer.from("false");
const NO_BYTES = new Uint8Array(0);
const REPLACEMENT = 0xfffd;

/** What the character after a backslash stands for; 0 where there is no such escape. */
const ESCAPES = byteTable({
  '"': QUOTE,
  "\\": BACKSLASH,
  "/": 0x2f,
  b: 0x08,
  f: 0x0c,
  n: LINE_FEED,
  r: CARRIAGE_RETURN,
  t: 0x09,
});

const NO_DIGIT = 255;
const HEX_DIGITS = digitTable("0123456789abcdef", "0123456789ABCDEF");
const BASE64_DIGITS = digitTable("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");

/** The usual spellings and the folded ones. */
const FIELD_OF_KEY = new Map<string, Field>([
  ["Name", "name"],
  ["Version", "version"],
  ["Value", "value"],
  ["UpdateIfChanged", "updateIfChanged"],
  ["name", "name"],
  ["version", "version"],
  ["value", "value"],
  ["updateifchanged", "updateIfChanged"],
]);
const LONGEST_KEY = "updateifchanged".length;

function byteTable(entries: Record<string, number>): Uint8Array {
  const table = new Uint8Array(256);
  for (const [char, byte] of Object.entries(entries)) table[char.charCodeAt(0)] = byte;
  return table;
}

function digitTable(...alphabets: string[]): Uint8Array {
  const table = new Uint8Array(256).fill(NO_DIGIT);
  for (const alphabet of alphabets) {
    for (const [digit, char] of Buffer.from(alphabet).entries()) table[char] = digit;
  }
  return table;
}

/** Reads the object whose brace stands at `at` into the draft; returns the index after it, or BAD. */
function readObject(bytes: Buffer, at: number, fields: readonly Field[], draft: Draft): number {
  let next = skipBlanks(bytes, at + 1);
  if (bytes[next] === CLOSE_BRACE) return next + 1;
  for (;;) {
    const keyEnd = endOfString(bytes, next);
    if (keyEnd === BAD) return BAD;
    const field = fieldOf(textOf(bytes, next, keyEnd));
    const colon = skipBlanks(bytes, keyEnd);
    if (bytes[colon] !== COLON) return BAD;
    const start = skipBlanks(bytes, colon + 1);
    const end =
      field !== undefined && fields.includes(field)
        ? readField(bytes, start, field, draft)
        : endOfValue(bytes, start, 1);
    if (end === BAD) return BAD;
    const after = skipBlanks(bytes, end);
    if (bytes[after] === CLOSE_BRACE) return after + 1;
    if (bytes[after] !== COMMA) return BAD;
    next = skipBlanks(bytes, after + 1);
  }
}

/**
 * Go folds keys with unicode.SimpleFold. Of the letters in our keys only s has a relative outside ASCII: U+017F.
 * (k has one too, U+212A, but no key has a k.)
 */
function fieldOf(key: string): Field | undefined {
  if (key.length > LONGEST_KEY) return undefined;
  return FIELD_OF_KEY.get(key) ?? FIELD_OF_KEY.get(key.replaceAll("\u017f", "s").toLowerCase());
}

/** Reads a value into its field; returns the index after it, or BAD, also where the type is wrong. */
function readField(bytes: Buffer, at: number, field: Field, draft: Draft): number {
  if (bytes[at] === LOWER_N) {
    if (field === "value") setValue(draft, NO_BYTES);
    return endOfWord(bytes, at, NULL);
  }
  switch (field) {
    case "name": {
      const end = endOfString(bytes, at);
      if (end !== BAD) draft.name = textOf(bytes, at, end);
      return end;
    }
    case "version": {
      const end = endOfNumber(bytes, at);
      const version = end === BAD ? BAD : uintOf(bytes, at, end, MAX_UINT32);
      if (version === BAD) return BAD;
      draft.version = version;
      return end;
    }
    case "value":
      return readValue(bytes, at, draft);
    case "updateIfChanged":
      draft.updateIfChanged = bytes[at] === LOWER_T;
      return endOfWord(bytes, at, draft.updateIfChanged ? TRUE : FALSE);
    default:
      return field satisfies never;
  }
}

function readValue(bytes: Buffer, at: number, draft: Draft): number {
  if (bytes[at] === OPEN_BRACKET) return readByteArray(bytes, at, draft);
  const end = endOfString(bytes, at);
  if (end === BAD) return BAD;
  const value = decodeBase64(unquote(bytes, at, end));
  if (value === undefined) return BAD;
  setValue(draft, value);
  return end;
}

function setValue(draft: Draft, value: Uint8Array): void {
  draft.room = value;
  draft.length = value.length;
}

/** Reads `[1,null,255]`. Elements are written over what is there, as Go does. */
function readByteArray(bytes: Buffer, at: number, draft: Draft): number {
  let next = skipBlanks(bytes, at + 1);
  if (bytes[next] === CLOSE_BRACKET) {
    setValue(draft, NO_BYTES);
    return next + 1;
  }
  for (let index = 0; ; index++) {
    if (index === draft.room.length) draft.room = widened(draft.room);
    const isNull = bytes[next] === LOWER_N;
    const end = isNull ? endOfWord(bytes, next, NULL) : endOfNumber(bytes, next);
    if (end === BAD) return BAD;
    if (!isNull) {
      const byte = uintOf(bytes, next, end, 255);
      if (byte === BAD) return BAD;
      draft.room[index] = byte;
    }
    const after = skipBlanks(bytes, end);
    if (bytes[after] === CLOSE_BRACKET) {
      draft.length = index + 1;
      return after + 1;
    }
    if (bytes[after] !== COMMA) return BAD;
    next = skipBlanks(bytes, after + 1);
  }
}

function widened(room: Uint8Array): Uint8Array {
  const wider = new Uint8Array(room.length * 2 + 16);
  wider.set(room);
  return wider;
}

/** Digits only and at most `max`, else BAD: Go takes no sign, fraction or exponent for an unsigned integer. */
function uintOf(bytes: Buffer, at: number, end: number, max: number): number {
  let value = 0;
  for (let index = at; index < end; index++) {
    const byte = bytes[index];
    if (!isDigit(byte)) return BAD;
    value = value * 10 + (byte - ZERO);
    if (value > max) return BAD;
  }
  return value;
}

/** The text of the string token from its opening quote up to `end`, just after the closing one. */
function textOf(bytes: Buffer, at: number, end: number): string {
  for (let index = at + 1; index < end - 1; index++) {
    const byte = bytes[index] ?? 0;
    if (byte === BACKSLASH || byte >= 0x80) return unquote(bytes, at, end).toString("utf8");
  }
  return bytes.toString("latin1", at + 1, end - 1);
}

/** The same as UTF-8, always valid: each bad byte and each lone surrogate becomes U+FFFD, as in Go's unquoteBytes. */
function unquote(bytes: Buffer, at: number, end: number): Buffer {
  const last = end - 1;
  const plain = endOfPlain(bytes, at + 1, last);
  if (plain === last) return bytes.subarray(at + 1, last);
  // The worst case is a bad byte, which becomes three.
  const out = Buffer.allocUnsafe((end - at) * 3);
  let length = bytes.copy(out, 0, at + 1, plain);
  let index = plain;
  while (index < last) {
    const byte = bytes[index] ?? 0;
    if (byte === BACKSLASH && bytes[index + 1] === LOWER_U) {
      const unit = hexOf(bytes, index + 2);
      const low = isHighSurrogate(unit) ? escapedUnitAt(bytes, index + 6) : 0;
      if (isLowSurrogate(low)) {
        length = putRune(out, length, 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
        index += 12;
      } else {
        const lone = isHighSurrogate(unit) || isLowSurrogate(unit);
        length = putRune(out, length, lone ? REPLACEMENT : unit);
        index += 6;
      }
    } else if (byte === BACKSLASH) {
      out[length++] = ESCAPES[bytes[index + 1] ?? 0] ?? 0;
      index += 2;
    } else {
      const size = runeSize(bytes, index);
      if (size === 0) length = putRune(out, length, REPLACEMENT);
      else length += bytes.copy(out, length, index, index + size);
      index += Math.max(size, 1);
    }
  }
  return out.subarray(0, length);
}

/** Where the run of valid UTF-8 without escapes ends that begins at `at`. */
function endOfPlain(bytes: Buffer, at: number, last: number): number {
  let index = at;
  while (index < last && bytes[index] !== BACKSLASH) {
    const size = runeSize(bytes, index);
    if (size === 0) break;
    index += size;
  }
  return index;
}

/**
 * How many bytes the UTF-8 sequence at `at` has; 0 where it is not valid. No sequence reaches past a string, since a
 * quote is no continuation byte.
 */
function runeSize(bytes: Buffer, at: number): 0 | 1 | 2 | 3 | 4 {
  const lead = bytes[at] ?? 0;
  if (lead < 0x80) return 1;
  const second = bytes[at + 1] ?? 0;
  if (lead < 0xc2 || lead > 0xf4 || !isContinuation(second)) return 0;
  if (lead < 0xe0) return 2;
  if (!isContinuation(bytes[at + 2] ?? 0)) return 0;
  if (lead < 0xf0) {
    const overlong = lead === 0xe0 && second < 0xa0;
    const surrogate = lead === 0xed && second > 0x9f;
    return overlong || surrogate ? 0 : 3;
  }
  const overlong = lead === 0xf0 && second < 0x90;
  const beyond = lead === 0xf4 && second > 0x8f;
  return overlong || beyond || !isContinuation(bytes[at + 3] ?? 0) ? 0 : 4;
}

function isContinuation(byte: number): boolean {
  return (byte & 0xc0) === 0x80;
}

/** Writes a code point as UTF-8; returns the index after it. */
function putRune(out: Buffer, at: number, rune: number): number {
  if (rune < 0x80) {
    out[at] = rune;
    return at + 1;
  }
  let next = at;
  if (rune < 0x800) {
    out[next++] = 0xc0 | (rune >> 6);
  } else {
    if (rune < 0x10000) {
      out[next++] = 0xe0 | (rune >> 12);
    } else {
      out[next++] = 0xf0 | (rune >> 18);
      out[next++] = 0x80 | ((rune >> 12) & 0x3f);
    }
    out[next++] = 0x80 | ((rune >> 6) & 0x3f);
  }
  out[next++] = 0x80 | (rune & 0x3f);
  return next;
}

function escapedUnitAt(bytes: Buffer, at: number): number {
  return bytes[at] === BACKSLASH && bytes[at + 1] === LOWER_U ? hexOf(bytes, at + 2) : 0;
}

/** Four hexadecimal digits, which endOfString has checked. */
function hexOf(bytes: Buffer, at: number): number {
  let unit = 0;
  for (let index = at; index < at + 4; index++) {
    unit = unit * 16 + (HEX_DIGITS[bytes[index] ?? 0] ?? 0);
  }
  return unit;
}

function isHighSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdbff;
}

function isLowSurrogate(unit: number): boolean {
  return unit >= 0xdc00 && unit <= 0xdfff;
}

/** Checks any value; `depth` is how many brackets are open around it. Returns the index after it, or BAD. */
function endOfValue(bytes: Buffer, at: number, depth: number): number {
  const closers: number[] = [];
  let next = at;
  for (;;) {
    next = skipBlanks(bytes, next);
    const byte = bytes[next];
    if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
      if (depth + closers.length >= MAX_DEPTH) return BAD;
      const closer = byte === OPEN_BRACE ? CLOSE_BRACE : CLOSE_BRACKET;
      next = skipBlanks(bytes, next + 1);
      if (bytes[next] !== closer) {
        closers.push(closer);
        if (closer === CLOSE_BRACE) next = endOfKey(bytes, next);
        if (next === BAD) return BAD;
        continue;
      }
      next++;
    } else {
      next = endOfScalar(bytes, next);
      if (next === BAD) return BAD;
    }
    for (;;) {
      const closer = closers.at(-1);
      if (closer === undefined) return next;
      next = skipBlanks(bytes, next);
      if (bytes[next] === COMMA) {
        next = skipBlanks(bytes, next + 1);
        if (closer === CLOSE_BRACE) next = endOfKey(bytes, next);
        if (next === BAD) return BAD;
        break;
      }
      if (bytes[next] !== closer) return BAD;
      closers.pop();
      next++;
    }
  }
}

/** The index after the colon that follows a key. */
function endOfKey(bytes: Buffer, at: number): number {
  const end = endOfString(bytes, at);
  if (end === BAD) return BAD;
  const colon = skipBlanks(bytes, end);
  return bytes[colon] === COLON ? colon + 1 : BAD;
}

function endOfScalar(bytes: Buffer, at: number): number {
  const byte = bytes[at];
  if (byte === QUOTE) return endOfString(bytes, at);
  if (byte === LOWER_N) return endOfWord(bytes, at, NULL);
  if (byte === LOWER_T) return endOfWord(bytes, at, TRUE);
  if (byte === LOWER_F) return endOfWord(bytes, at, FALSE);
  return endOfNumber(bytes, at);
}

/** Any byte from 0x20 up may stand in a string, whether it is UTF-8 or not. */
function endOfString(bytes: Buffer, at: number): number {
  if (bytes[at] !== QUOTE) return BAD;
  let index = at + 1;
  for (;;) {
    const byte = bytes[index];
    if (byte === undefined || byte < 0x20) return BAD;
    if (byte === QUOTE) return index + 1;
    if (byte !== BACKSLASH) {
      index++;
    } else if (bytes[index + 1] === LOWER_U) {
      for (let digit = index + 2; digit < index + 6; digit++) {
        if (HEX_DIGITS[bytes[digit] ?? 0] === NO_DIGIT) return BAD;
      }
      index += 6;
    } else {
      if (ESCAPES[bytes[index + 1] ?? 0] === 0) return BAD;
      index += 2;
    }
  }
}

function endOfNumber(bytes: Buffer, at: number): number {
  let index = bytes[at] === MINUS ? at + 1 : at;
  if (bytes[index] === ZERO) index++;
  else index = endOfDigits(bytes, index);
  if (index !== BAD && bytes[index] === DOT) index = endOfDigits(bytes, index + 1);
  if (index !== BAD && isExponentSign(bytes[index])) {
    const sign = bytes[index + 1];
    index = endOfDigits(bytes, sign === 0x2b || sign === MINUS ? index + 2 : index + 1);
  }
  return index;
}

function isExponentSign(byte: number | undefined): boolean {
  return byte === 0x65 || byte === 0x45;
}

/** One digit or more, else BAD. */
function endOfDigits(bytes: Buffer, at: number): number {
  let index = at;
  while (isDigit(bytes[index])) index++;
  return index === at ? BAD : index;
}

function isDigit(byte: number | undefined): byte is number {
  return byte !== undefined && byte >= ZERO && byte <= NINE;
}

function endOfWord(bytes: Buffer, at: number, word: Buffer): number {
  for (let index = 0; index < word.length; index++) {
    if (bytes[at + index] !== word[index]) return BAD;
  }
  return at + word.length;
}

function skipBlanks(bytes: Buffer, at: number): number {
  let index = at;
  for (;;) {
    const byte = bytes[index];
    if (byte !== 0x20 && byte !== LINE_FEED && byte !== CARRIAGE_RETURN && byte !== 0x09) return index;
    index++;
  }
}
