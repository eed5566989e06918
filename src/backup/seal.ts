/**
 * seal — a stream of bytes as an age file: closed to a passphrase or to recipients, and opened again.
 *
 * age (https://age-encryption.org/v1) authenticates every 64 KiB before they are handed out, and its end. Whoever has
 * the age program can open such a file without leger.
 */
import { Decrypter, Encrypter } from "age-encryption";
import { LegerError } from "../core/error.ts";

/** Whom a backup is closed to. */
export type Lock = { passphrase: string } | { recipients: readonly string[] };
/** What opens one. */
export type Key = { passphrase: string } | { identities: readonly string[] };

/** What a sealed file wants to be opened with; undefined for what is no age file. */
export type Wants = "passphrase" | "identity";

/** 2^18: 256 MiB and a second of work for each guess; age's own default. Tests take less. */
const SCRYPT_WORK_FACTOR = 18;

/** Longest that a header may be: some hundred recipients. */
export const MAX_HEADER_BYTES = 256 * 1024;

const FIRST_LINE = "age-encryption.org/v1\n";
const ARMOR = "-----BEGIN AGE ENCRYPTED FILE-----";

/** Throws USAGE for a recipient that is none, or that only other programs know. */
export async function seal(
  plain: AsyncIterable<Uint8Array>,
  lock: Lock,
  { workFactor = SCRYPT_WORK_FACTOR }: { workFactor?: number } = {},
): Promise<AsyncIterable<Uint8Array>> {
  const encrypter = new Encrypter();
  if ("passphrase" in lock) {
    encrypter.setScryptWorkFactor(workFactor);
    encrypter.setPassphrase(lock.passphrase);
  } else {
    for (const recipient of lock.recipients) addRecipient(encrypter, recipient);
  }
  return encrypter.encrypt(ReadableStream.from(plain));
}

/** Throws USAGE as `seal` does. */
export function assertRecipients(recipients: readonly string[]): void {
  const encrypter = new Encrypter();
  for (const recipient of recipients) addRecipient(encrypter, recipient);
}

/**
 * What comes out was authenticated. Throws DENIED for the wrong passphrase or identity, USAGE for an identity that is
 * none, DAMAGED, while it is read, for a file that was cut or changed.
 */
export async function* open(sealed: AsyncIterable<Uint8Array>, key: Key): AsyncGenerator<Uint8Array, void> {
  const decrypter = new Decrypter();
  if ("passphrase" in key) decrypter.addPassphrase(key.passphrase);
  else for (const identity of key.identities) addIdentity(decrypter, identity);
  // What reading the file fails with is told as it is, whatever age makes of it.
  let failure: Error | undefined;
  const watched = async function* (): AsyncGenerator<Uint8Array> {
    try {
      yield* sealed;
    } catch (error) {
      failure = error instanceof Error ? error : new Error("read", { cause: error });
      throw failure;
    }
  };
  try {
    for await (const chunk of await decrypter.decrypt(ReadableStream.from(watched()))) yield chunk;
  } catch (error) {
    if (failure !== undefined) throw failure;
    throw failureOf(error, key);
  }
}

/** `head`: the first bytes of a file. Throws BAD_DATA for what is no sealed file. */
export function whatOpens(head: Buffer): Wants {
  const text = head.toString("latin1");
  if (text.startsWith(ARMOR)) {
    throw new LegerError("BAD_DATA", "it is armored, which backups of legerd are not", {
      hints: ["take the armor off with age's help, or take the file that legerd wrote"],
    });
  }
  if (!text.startsWith(FIRST_LINE)) {
    const isNewer = text.startsWith("age-encryption.org/");
    throw isNewer
      ? new LegerError("CONFIG", "it is sealed in a newer format of age", {
          hints: ["install the newest leger"],
        })
      : new LegerError("BAD_DATA", "it is no backup of legerd", {
          hints: ['backups are made with "legerd backup FILE"'],
        });
  }
  return text.startsWith("-> scrypt ", FIRST_LINE.length) ? "passphrase" : "identity";
}

function addRecipient(encrypter: Encrypter, recipient: string): void {
  try {
    encrypter.addRecipient(recipient);
  } catch (cause) {
    const hint = recipient.startsWith("ssh-")
      ? "keys of SSH cannot be used: make one for age with age-keygen"
      : "it begins with age1, and age-keygen prints it";
    throw new LegerError("USAGE", `${JSON.stringify(recipient.slice(0, 20))}… is no recipient of age`, {
      hints: [hint],
      cause,
    });
  }
}

/** An identity is a secret: it is not quoted. */
function addIdentity(decrypter: Decrypter, identity: string): void {
  try {
    decrypter.addIdentity(identity);
  } catch (cause) {
    throw new LegerError("USAGE", "a line of the identity file is no identity of age", {
      hints: ["it begins with AGE-SECRET-KEY-1, and age-keygen makes it"],
      cause,
    });
  }
}

function failureOf(error: unknown, key: Key): LegerError {
  // age-encryption throws plain errors: of its texts only these two mean something else than damage.
  const text = error instanceof Error ? error.message : "";
  if (text.startsWith("no identity matched")) {
    const isPassphrase = "passphrase" in key;
    return new LegerError(
      "DENIED",
      isPassphrase ? "wrong passphrase" : "sealed to none of these identities",
      {
        hints: isPassphrase ? ["if it is right, the first lines of the file were changed"] : [],
        cause: error,
      },
    );
  }
  if (text === "scrypt work factor is too high") {
    return new LegerError("BAD_DATA", "opening it would take more memory than a backup of legerd does", {
      cause: error,
    });
  }
  return new LegerError("DAMAGED", "it is cut short, or was changed", {
    hints: ["take another copy of it, or an older backup"],
    cause: error,
  });
}
