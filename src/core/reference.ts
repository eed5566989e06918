/** reference — what Podman's secret store holds in place of a value, and the ids it knows its entries by. */
import { LegerError } from "./error.ts";

const PREFIX = "leger-ref:v1:";
const ANY_VERSION_PREFIX = /^leger-ref:/;

/** Podman makes ids of 25 hex digits: `stringid.GenerateNonCryptoID()[0:25]` (common/pkg/secrets). */
const SECRET_ID = /^[0-9a-f]{25}$/;

/** The payload of a Podman entry that stands for the secret `name`. */
export function referenceTo(name: string): string {
  return PREFIX + name;
}

/**
 * The secret that a payload refers to, or undefined for an ordinary value. One newline at the end is taken for an
 * editor's. Throws BAD_DATA for a reference that names nothing, or of a version we don't know: keeping it as a
 * value would hand a container the reference for a key.
 */
export function parseReference(payload: Uint8Array): string | undefined {
  // Longest that could be a reference at all; also keeps a large value from being decoded for nothing.
  if (payload.length > 16_384) return undefined;
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(payload);
  } catch {
    return undefined;
  }
  if (!ANY_VERSION_PREFIX.test(text)) return undefined;
  const name = text.slice(PREFIX.length).replace(/\r?\n$/, "");
  if (!text.startsWith(PREFIX) || name === "" || /\p{Cc}/u.test(name)) {
    throw new LegerError("BAD_DATA", "store: the payload begins like a reference of leger's but isn't one", {
      hints: [`a reference reads ${PREFIX}leger/NAMESPACE/NAME`],
    });
  }
  return name;
}

export function isSecretId(id: string): boolean {
  return SECRET_ID.test(id);
}
