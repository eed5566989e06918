/** podman-plan — what Podman's secret store should hold, compared with what it does hold. */
import { parsePodmanRelease, podmanHas } from "../core/podman-release.ts";
import type { PodmanLink } from "./daemon.ts";
import type { DriverCommands } from "./driver-commands.ts";
import { LABEL, REFERENCE_LABEL, type PodmanEntry } from "./podman-entries.ts";

export type Facts = {
  namespace: string;
  /** The names of all secrets. */
  secrets: readonly string[];
  entries: readonly PodmanEntry[];
  links: readonly PodmanLink[];
  commands: DriverCommands;
  /** As `podman version` says. */
  podmanVersion: string;
  /** Podman's name → secret, beside the default ones. */
  map: ReadonlyMap<string, string>;
};

/**
 * - `ok`: nothing to do
 * - `missing`: to be made
 * - `stale`: made with other driver commands, which Podman keeps
 * - `unlinked`: legerd knows nothing of it, or something else
 * - `orphan`: its secret is gone
 */
export type State = "ok" | "missing" | "stale" | "unlinked" | "orphan";

export type PlannedEntry = { name: string; secret: string; state: State; id: string | undefined };

type Problem = { name: string; secrets: readonly string[]; what: string };

/** Both sorted by name. With a problem, nothing at all is to be done. */
export type Plan = { entries: readonly PlannedEntry[]; problems: readonly Problem[] };

/**
 * Compares, and changes nothing. Wanted are: what `map` says; what is there already and ours, as long as its secret
 * is; and each secret of the namespace under the last part of its name. Where that name will not do, another one that
 * is wanted for the same secret is enough.
 */
export function planEntries(facts: Facts): Plan {
  const { entries, secrets, map } = facts;
  const known = new Set(secrets);
  const secretOf = new Map(facts.links.map(({ id, secret }) => [id, secret]));
  const byName = new Map(entries.map((entry) => [entry.name, entry]));
  const ids = entries.map(({ id }) => id);

  const wanted = new Map<string, string>();
  const problems: Problem[] = [];
  const want = (name: string, secret: string, mayFail: boolean): void => {
    const fault = faultOf({
      name,
      secret,
      wanted,
      ids,
      entry: byName.get(name),
      version: facts.podmanVersion,
      secretOf,
    });
    if (fault === undefined) wanted.set(name, secret);
    else if (!mayFail) problems.push({ name, ...fault });
  };

  for (const [name, secret] of map) {
    if (known.has(secret)) want(name, secret, false);
    else problems.push({ name, secrets: [secret], what: "there is no such secret" });
  }
  for (const { name, labels } of entries.filter(isOurs)) {
    const secret = labels[REFERENCE_LABEL] ?? "";
    if (known.has(secret) && !wanted.has(name)) wanted.set(name, secret);
  }
  const named = new Set(wanted.values());
  for (const [name, secret] of defaultNames(facts)) {
    if (wanted.get(name) !== secret) want(name, secret, named.has(secret));
  }

  const planned: PlannedEntry[] = [...wanted].map(([name, secret]) => {
    const entry = byName.get(name);
    return { name, secret, id: entry?.id, state: stateOf(entry, secret, facts.commands, secretOf) };
  });
  for (const entry of entries.filter(isOurs)) {
    if (wanted.has(entry.name)) continue;
    const secret = entry.labels[REFERENCE_LABEL] ?? "";
    planned.push({ name: entry.name, secret, state: "orphan", id: entry.id });
  }
  return { entries: planned.toSorted(byNames), problems: problems.toSorted(byNames) };
}

function byNames(a: { name: string }, b: { name: string }): number {
  return a.name < b.name ? -1 : 1;
}

function isOurs({ labels }: PodmanEntry): boolean {
  return labels[LABEL] === "1" && labels[REFERENCE_LABEL] !== undefined;
}

/** Sorted, so that of two secrets with one name always the same one is complained of. */
function defaultNames({ secrets, namespace }: Facts): [name: string, secret: string][] {
  const prefix = `leger/${namespace}/`;
  return secrets
    .filter((secret) => secret.startsWith(prefix) && secret !== prefix)
    .toSorted()
    .map((secret) => [secret.slice(secret.lastIndexOf("/") + 1), secret]);
}

function stateOf(
  entry: PodmanEntry | undefined,
  secret: string,
  commands: DriverCommands,
  secretOf: ReadonlyMap<string, string | undefined>,
): State {
  if (entry === undefined) return "missing";
  // Made by hand, and it does stand for this secret: not ours to repair.
  if (!isOurs(entry)) return "ok";
  if (entry.labels[REFERENCE_LABEL] !== secret || secretOf.get(entry.id) !== secret) return "unlinked";
  const keys = ["list", "lookup", "store", "delete"] as const;
  const fresh = entry.driver === "shell" && keys.every((key) => entry.options[key] === commands[key]);
  return fresh && Object.keys(entry.options).length === keys.length ? "ok" : "stale";
}

type Candidate = {
  name: string;
  secret: string;
  wanted: ReadonlyMap<string, string>;
  entry: PodmanEntry | undefined;
  ids: readonly string[];
  version: string;
  secretOf: ReadonlyMap<string, string | undefined>;
};

/** Why this secret cannot have this name in this Podman. */
function faultOf(candidate: Candidate): Omit<Problem, "name"> | undefined {
  const { name, secret, wanted, entry, ids, version, secretOf } = candidate;
  const fault = (what: string, ...others: string[]): Omit<Problem, "name"> => ({
    secrets: [secret, ...others],
    what,
  });
  const other = wanted.get(name);
  if (other !== undefined && other !== secret) return fault("two secrets would have this name", other);
  if (entry !== undefined && !isOurs(entry) && secretOf.get(entry.id) !== secret) {
    return fault("an entry of this name is there already and not leger's");
  }
  const refused = refusalOf(name, version);
  if (refused !== undefined) return fault(refused);
  if (entry !== undefined) return undefined;
  const likeId = ids.find((id) => id.startsWith(name));
  if (likeId !== undefined) return fault(`podman would take it for the beginning of the id ${likeId}`);
  if (/^[0-9a-f]{1,25}$/.test(name)) return fault("podman could take it for the beginning of an id");
  return undefined;
}

/** Podman's rules for names: containers/common pkg/secrets. */
function refusalOf(name: string, version: string): string | undefined {
  const release = parsePodmanRelease(version) ?? [0, 0, 0];
  const maxBytes = podmanHas("longNames", release) ? 253 : 64;
  if (Buffer.byteLength(name) > maxBytes)
    return `podman ${version} takes names of at most ${maxBytes} characters`;
  if (podmanHas("anyNames", release)) {
    // A name that begins with a hyphen would be read as an option; control characters are legal and never meant.
    if (name === "" || /[,/=\p{Cc}]/u.test(name))
      return `podman ${version} takes no comma, slash or = in a name`;
    return name.startsWith("-") ? "a name cannot begin with a hyphen" : undefined;
  }
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(name) || /[-.]$/.test(name)) {
    return `podman ${version} takes letters, digits and _ . - in a name, with a letter or digit first and last`;
  }
  return undefined;
}
