/**
 * setec-file — setec's own database file, read and written: JSON around a Tink keyset, around JSON.
 *
 * The layout is that of setec's db/kv.go and of Tink's tink.proto and xchacha20_poly1305.proto. Its key-encryption key
 * is 32 bytes used as plain XChaCha20-Poly1305, as with setec's TPM keys; what KMS wraps, only KMS opens.
 */
import { xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { randomBytes } from "node:crypto";
import { LegerError } from "../core/error.ts";
import type { PortableSecret } from "../store/transfer.ts";
import { hasNumber, listNumbers, MAX_VERSION, rangesOf } from "../store/versions.ts";

export const KEY_BYTES = 32;
const NONCE_BYTES = 24;
const FORMAT = 1;
const DEK_CONTEXT = Buffer.from(`setec DEK v${FORMAT}`);
const DB_CONTEXT = Buffer.from(`setec database v${FORMAT}`);
const KEY_TYPE = "type.googleapis.com/google.crypto.tink.XChaCha20Poly1305Key";
/** Tink's output prefix of type TINK: a byte for its version, four for the key's id. */
const PREFIX_BYTES = 5;
/** What a request of legerd's could bring, with room to spare. */
const MAX_VALUE_BYTES = 1024 * 1024;

/** The bytes of a database file that holds these secrets. */
export function encodeSetecFile(secrets: readonly PortableSecret[], kek: Uint8Array): Buffer {
  const dek = randomBytes(KEY_BYTES);
  const keyId = randomBytes(4).readUInt32BE() || 1;
  const byName = secrets.map(({ name, state, values }) => {
    const versions = [...values].map(([number, value]) => [number, Buffer.from(value).toString("base64")]);
    const deleted = listNumbers(state.deleted).map((number) => [number, true]);
    return [
      name,
      {
        Versions: Object.fromEntries(versions),
        ActiveVersion: state.active,
        LatestVersion: state.latest,
        DeletedVersions: deleted.length === 0 ? null : Object.fromEntries(deleted),
      },
    ] as const;
  });
  const plain = Buffer.from(JSON.stringify({ Secrets: Object.fromEntries(byName) }));
  const prefix = Buffer.alloc(PREFIX_BYTES, 1);
  prefix.writeUInt32BE(keyId, 1);
  const db = Buffer.concat([prefix, sealWith(dek, plain, DB_CONTEXT)]);
  const wrapped = bytesField(2, sealWith(kek, encodeKeyset(dek, keyId), DEK_CONTEXT));
  return Buffer.from(
    JSON.stringify({ Version: FORMAT, DEK: wrapped.toString("base64"), DB: db.toString("base64") }),
  );
}

/** Throws BAD_DATA for what is no database of setec's, DENIED for another key, DAMAGED. */
export function decodeSetecFile(file: Buffer, kek: Uint8Array): PortableSecret[] {
  const { Version: format, DEK, DB } = objectIn(file, "it is no database of setec's");
  if (format !== FORMAT || typeof DEK !== "string" || typeof DB !== "string") {
    throw new LegerError("BAD_DATA", "it is no database of setec's, or of a newer setec");
  }
  const encrypted = fieldsOf(Buffer.from(DEK, "base64")).get(2)?.[0];
  if (!(encrypted instanceof Uint8Array)) throw damaged("its keyset cannot be read");
  const keyset = openWith(kek, encrypted, DEK_CONTEXT);
  if (keyset === undefined) {
    throw new LegerError("DENIED", "this key does not open it", {
      hints: [
        "it takes the 32 bytes that setec's keyset is encrypted with; KMS's and a TPM's keys don't leave them",
      ],
    });
  }
  const sealed = Buffer.from(DB, "base64");
  const dek = keyIn(keyset, sealed);
  const plain = dek === undefined ? undefined : openWith(dek, sealed.subarray(PREFIX_BYTES), DB_CONTEXT);
  if (plain === undefined) throw damaged("its secrets cannot be decrypted");
  const { Secrets: secrets } = objectIn(plain, "what is in it cannot be read");
  if (secrets === null || secrets === undefined) return [];
  if (typeof secrets !== "object") throw damaged("what is in it cannot be read");
  return Object.entries(secrets).map(([name, secret]) => secretFrom(name, secret));
}

function secretFrom(name: string, secret: unknown): PortableSecret {
  const refuse = (what: string): LegerError => new LegerError("BAD_DATA", `secret ${name}: ${what}`);
  if (name === "") throw new LegerError("BAD_DATA", "a secret has no name");
  if (typeof secret !== "object" || secret === null) throw refuse("it cannot be read");
  const { Versions, ActiveVersion, LatestVersion, DeletedVersions }: Record<string, unknown> = { ...secret };
  const values = new Map<number, Uint8Array>();
  for (const [number, value] of entriesOf(Versions)) {
    if (typeof value !== "string") throw refuse(`version ${number} has no value`);
    const bytes = Buffer.from(value, "base64");
    if (bytes.length > MAX_VALUE_BYTES) throw refuse(`version ${number} is larger than 1 MiB`);
    values.set(versionNumber(number, refuse), bytes);
  }
  const deleted = entriesOf(DeletedVersions)
    .filter(([, isDeleted]) => isDeleted === true)
    .map(([number]) => versionNumber(number, refuse));
  const active = Number(ActiveVersion);
  if (!values.has(active)) throw refuse(`version ${String(ActiveVersion)} is active, but is not there`);
  const latest = Math.max(Number(LatestVersion) || 0, ...values.keys(), ...deleted);
  const state = { active, latest, live: rangesOf(values.keys()), deleted: rangesOf(deleted) };
  if (deleted.some((number) => hasNumber(state.live, number))) {
    throw refuse("a version of it is there and deleted");
  }
  if (latest > MAX_VERSION) throw refuse("its latest version is larger than there can be");
  return { name, state, values };
}

function entriesOf(map: unknown): [string, unknown][] {
  return typeof map === "object" && map !== null ? Object.entries(map) : [];
}

function versionNumber(text: string, refuse: (what: string) => LegerError): number {
  const number = /^[1-9]\d{0,9}$/.test(text) ? Number(text) : 0;
  if (number < 1 || number > MAX_VERSION) throw refuse("one of its versions has no number that there can be");
  return number;
}

/** Tink's Keyset with one key, the way setec makes it. */
function encodeKeyset(key: Uint8Array, keyId: number): Buffer {
  const keyData = Buffer.concat([
    bytesField(1, Buffer.from(KEY_TYPE)),
    bytesField(2, bytesField(3, key)),
    varintField(3, SYMMETRIC),
  ]);
  const entry = Buffer.concat([
    bytesField(1, keyData),
    varintField(2, ENABLED),
    varintField(3, keyId),
    varintField(4, PREFIX_TINK),
  ]);
  return Buffer.concat([varintField(1, keyId), bytesField(2, entry)]);
}

const SYMMETRIC = 1;
const ENABLED = 1;
const PREFIX_TINK = 1;

/** The keyset's key that a ciphertext names at its beginning. */
function keyIn(keyset: Buffer, sealed: Buffer): Uint8Array | undefined {
  if (sealed.length < PREFIX_BYTES || sealed[0] !== 1) return undefined;
  const keyId = sealed.readUInt32BE(1);
  for (const entry of fieldsOf(keyset).get(2) ?? []) {
    if (!(entry instanceof Uint8Array)) continue;
    const fields = fieldsOf(entry);
    const keyData = fields.get(1)?.[0];
    if (Number(fields.get(3)?.[0] ?? 0) !== keyId || !(keyData instanceof Uint8Array)) continue;
    const data = fieldsOf(keyData);
    const [type, value] = [data.get(1)?.[0], data.get(2)?.[0]];
    if (!(type instanceof Uint8Array) || Buffer.from(type).toString() !== KEY_TYPE) {
      throw new LegerError("BAD_DATA", "its keyset has a key of another kind than setec makes");
    }
    const key = value instanceof Uint8Array ? fieldsOf(value).get(3)?.[0] : undefined;
    return key instanceof Uint8Array && key.length === KEY_BYTES ? key : undefined;
  }
  return undefined;
}

/** nonce ‖ ciphertext ‖ tag. */
function sealWith(key: Uint8Array, plain: Uint8Array, context: Uint8Array): Buffer {
  const nonce = randomBytes(NONCE_BYTES);
  return Buffer.concat([nonce, xchacha20poly1305(key, nonce, context).encrypt(plain)]);
}

function openWith(key: Uint8Array, sealed: Uint8Array, context: Uint8Array): Buffer | undefined {
  try {
    const nonce = sealed.subarray(0, NONCE_BYTES);
    return Buffer.from(xchacha20poly1305(key, nonce, context).decrypt(sealed.subarray(NONCE_BYTES)));
  } catch {
    return undefined;
  }
}

/** protobuf's wire types (https://protobuf.dev/programming-guides/encoding/): all that Tink's keysets have. */
const VARINT = 0;
const LENGTH_DELIMITED = 2;

function varint(number: number): Buffer {
  const bytes: number[] = [];
  let rest = number;
  while (rest > 0x7f) {
    bytes.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  return Buffer.from([...bytes, rest]);
}

function varintField(field: number, number: number): Buffer {
  return Buffer.concat([varint(field * 8 + VARINT), varint(number)]);
}

function bytesField(field: number, bytes: Uint8Array): Buffer {
  return Buffer.concat([varint(field * 8 + LENGTH_DELIMITED), varint(bytes.length), bytes]);
}

/** A message's fields by number, in order. Throws DAMAGED for what is none. */
function fieldsOf(message: Uint8Array): Map<number, (number | Uint8Array)[]> {
  const fields = new Map<number, (number | Uint8Array)[]>();
  let at = 0;
  const readVarint = (): number => {
    let number = 0;
    for (let factor = 1; factor <= 2 ** 35; factor *= 0x80) {
      const byte = message[at];
      if (byte === undefined) break;
      at += 1;
      number += (byte & 0x7f) * factor;
      if (byte < 0x80) return number;
    }
    throw damaged("its keyset cannot be read");
  };
  while (at < message.length) {
    const tag = readVarint();
    const type = tag % 8;
    let value: number | Uint8Array = readVarint();
    if (type === LENGTH_DELIMITED) {
      const end = at + value;
      if (end > message.length) throw damaged("its keyset cannot be read");
      value = message.subarray(at, end);
      at = end;
    } else if (type !== VARINT) {
      throw damaged("its keyset cannot be read");
    }
    const field = Math.floor(tag / 8);
    fields.set(field, [...(fields.get(field) ?? []), value]);
  }
  return fields;
}

function objectIn(json: Buffer, otherwise: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(json.toString());
  } catch {
    // Not its message: it would quote what is in it.
    throw new LegerError("BAD_DATA", otherwise);
  }
  if (typeof value !== "object" || value === null) throw new LegerError("BAD_DATA", otherwise);
  return { ...value };
}

function damaged(what: string): LegerError {
  return new LegerError("DAMAGED", `setec's database is damaged: ${what}`);
}
