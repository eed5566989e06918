/** seal — AES-256-GCM seals under keys that are derived, one per purpose, from a store's data key. */
import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  hkdfSync,
  randomBytes,
  type KeyObject,
} from "node:crypto";
import { LegerError } from "../core/error.ts";

const CIPHER = "aes-256-gcm";
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const KEY_BYTES = 32;

/** Bound into every seal, so that a seal of one format can never be read as another's. */
const SEAL_FORMAT = 1;

/** What a seal protects. Each purpose has a key of its own. */
type Purpose = "data key" | "root" | "mark" | "record" | "value";

/** A sealer for one purpose of one store. */
export type Sealer = {
  /** nonce ‖ ciphertext ‖ tag. `context` is bound to the seal and needed again to open it. */
  seal(plain: Uint8Array, context: Uint8Array): Buffer;
  /** The plaintext. Throws DAMAGED when the bytes, the context or the key is another than at sealing. */
  open(sealed: Uint8Array, context: Uint8Array): Buffer;
};

/** What the threads of one legerd need to work on the same store. Only ever passed between threads. */
export type StoreKeys = { storeId: Buffer; dataKey: Buffer };

/** A fresh 256-bit key. */
export function newKey(): Buffer {
  return randomBytes(KEY_BYTES);
}

/** A key for one purpose: HKDF-SHA-256 of `key`, salted with the store's id. */
function deriveKey(key: Uint8Array, storeId: Uint8Array, purpose: string): Buffer {
  return Buffer.from(hkdfSync("sha256", key, storeId, `leger ${purpose} ${SEAL_FORMAT}`, KEY_BYTES));
}

/** Short proof of which main key a database belongs to; tells a wrong key from a damaged file. */
export function keyFingerprint(key: Uint8Array, storeId: Uint8Array): Buffer {
  return deriveKey(key, storeId, "main key fingerprint").subarray(0, 8);
}

export function createSealer(key: Uint8Array, storeId: Uint8Array, purpose: Purpose): Sealer {
  const sealingKey = keyObject(deriveKey(key, storeId, `seal ${purpose}`));
  const prefix = Buffer.concat([Buffer.from(`leger ${purpose} ${SEAL_FORMAT}\0`), storeId]);
  return {
    seal(plain, context) {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv(CIPHER, sealingKey, nonce);
      cipher.setAAD(Buffer.concat([prefix, context]));
      return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
    },
    open(sealed, context) {
      if (sealed.length < NONCE_BYTES + TAG_BYTES) throw damagedSeal(purpose);
      const decipher = createDecipheriv(CIPHER, sealingKey, sealed.subarray(0, NONCE_BYTES), {
        authTagLength: TAG_BYTES,
      });
      decipher.setAAD(Buffer.concat([prefix, context]));
      decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES));
      const plain = decipher.update(sealed.subarray(NONCE_BYTES, sealed.length - TAG_BYTES));
      try {
        decipher.final();
      } catch (cause) {
        throw damagedSeal(purpose, cause);
      }
      return plain;
    },
  };
}

export function rootSealer({ storeId, dataKey }: StoreKeys): Sealer {
  return createSealer(dataKey, storeId, "root");
}

/** The keyed hash under which a name is found in the database without being legible there. */
export function createNameHash(key: Uint8Array, storeId: Uint8Array): (text: string) => Buffer {
  const hashKey = keyObject(deriveKey(key, storeId, "name hash"));
  return (text) => createHmac("sha256", hashKey).update(text, "utf8").digest();
}

/** The key that chains the lines of an audit log. */
export function createChainKey({ storeId, dataKey }: StoreKeys): KeyObject {
  return keyObject(deriveKey(dataKey, storeId, "audit chain"));
}

/** Node wraps raw key bytes anew for every use: 10 µs each time (Node 24.21) that an object saves. */
function keyObject(key: Buffer): KeyObject {
  return createSecretKey(key);
}

function damagedSeal(purpose: Purpose, cause?: unknown): LegerError {
  return new LegerError("DAMAGED", `open a sealed ${purpose}: it is not what legerd wrote`, { cause });
}
