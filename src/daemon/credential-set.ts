/** credential-set — what a service's credentials hold, and what keeps it from being given. */
import { encodeEnvFile, type EnvEntry } from "../core/env-file.ts";
import { LegerError } from "../core/error.ts";
import { END_OF_SET } from "../core/service.ts";
import type { ServiceRecord, VersionedValue } from "../store/store.ts";

/** One thing that is in the way. `unfit`: of the set alone, since a file can hold any bytes. */
export type Problem = {
  kind: "missing" | "empty" | "unfit" | "too-large" | "unavailable";
  /** As a sentence without a full stop; names and no values. */
  what: string;
  hints: readonly string[];
  /** Where it is about one of them. */
  variable?: string;
  secret?: string;
};

export type CredentialSet = {
  /** All variables as an env file, and its end. Undefined where a problem forbids it. */
  set: Uint8Array | undefined;
  /** Each variable's bytes: all of them or none. */
  files: ReadonlyMap<string, Uint8Array>;
  /** The version that is given of each variable. */
  versions: ReadonlyMap<string, number>;
  problems: readonly Problem[];
};

/**
 * systemd takes no more for one unit, names of the credentials included (CREDENTIALS_TOTAL_SIZE_MAX; systemd.exec(5) says
 * 1 MB). A unit that asks for more fails its start.
 */
const MAX_UNIT_BYTES = 1024 * 1024;

/**
 * The whole of a service or nothing: where a secret is missing or empty nothing is given at all. A value that no env file can
 * hold takes away the set, and leaves the files.
 */
export function credentialSetOf(
  { name: service, variables }: ServiceRecord,
  found: readonly (VersionedValue | undefined)[],
): CredentialSet {
  const problems: Problem[] = [];
  const entries: EnvEntry[] = [];
  const versions = new Map<string, number>();
  for (const [at, [name, secret]] of Object.entries(variables).entries()) {
    const value = found[at]?.value.reveal();
    if (value === undefined) problems.push(missing(name, secret));
    else if (value.length === 0) problems.push(empty(name, secret));
    else entries.push({ name, secret, value });
    versions.set(name, found[at]?.version ?? 0);
  }
  if (problems.length > 0) return { set: undefined, files: new Map(), versions, problems };
  const lines = entries.map((entry) => lineOf(entry, problems));
  const bytes = entries.reduce((sum, { name, value }) => sum + name.length + value.length, 0);
  const whole = problems.length > 0 ? undefined : Buffer.concat([...lines, END]);
  if (Math.max(bytes, whole === undefined ? 0 : `${service}.env`.length + whole.length) > MAX_UNIT_BYTES) {
    return { set: undefined, files: new Map(), versions, problems: [tooLarge(service)] };
  }
  if (whole === undefined) {
    return {
      set: undefined,
      files: new Map(entries.map(({ name, value }) => [name, value])),
      versions,
      problems,
    };
  }
  // A file's bytes are part of the set's: kept in memory once.
  const files = new Map<string, Uint8Array>();
  let start = 0;
  for (const { name, value } of entries) {
    start += name.length + 1;
    files.set(name, whole.subarray(start, start + value.length));
    start += value.length + 1;
  }
  return { set: whole, files, versions, problems };
}

const END = Buffer.from(`${END_OF_SET}\n`);

function lineOf(entry: EnvEntry, problems: Problem[]): Uint8Array {
  try {
    return encodeEnvFile([entry], "podman");
  } catch (error) {
    if (!(error instanceof LegerError)) throw error;
    const { name: variable, secret } = entry;
    problems.push({ kind: "unfit", what: error.message, hints: error.hints, variable, secret });
    return new Uint8Array();
  }
}

function missing(variable: string, secret: string): Problem {
  const hints = [`store it with: leger secrets set ${secret}`];
  return { kind: "missing", what: `${variable}: there is no secret ${secret}`, hints, variable, secret };
}

function empty(variable: string, secret: string): Problem {
  const hints = [`give it a value: leger secrets set ${secret} --activate`];
  return { kind: "empty", what: `${variable}: the secret ${secret} is empty`, hints, variable, secret };
}

function tooLarge(service: string): Problem {
  return {
    kind: "too-large",
    what: `the secrets of ${service} come to more than systemd takes for a unit (1 MiB)`,
    hints: ["make two services of it, or let Podman ask for the large ones (Secret=…, mode driver)"],
  };
}
