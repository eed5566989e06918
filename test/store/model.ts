/** model — setec's version rules, as plainly as they can be written: the measure for leger's own. */
import * as fc from "fast-check";

export type Step =
  | { do: "put"; name: string; value: string }
  | { do: "create-version"; name: string; version: number; value: string }
  | { do: "activate"; name: string; version: number }
  | { do: "delete-version"; name: string; version: number }
  | { do: "delete"; name: string };

type Kept = { versions: Map<number, string>; active: number; latest: number; deleted: Set<number> };

const LAST = 4_294_967_295;

/** Steps that run into one another: few names, few numbers, few values. */
export function steps(names: readonly string[]): fc.Arbitrary<Step> {
  const name = fc.constantFrom(...names);
  const version = fc.oneof(
    { weight: 20, arbitrary: fc.integer({ min: 1, max: 6 }) },
    { weight: 1, arbitrary: fc.constantFrom(LAST - 1, LAST) },
  );
  const value = fc.constantFrom("", "x", "y");
  return fc.oneof(
    { weight: 6, arbitrary: fc.record({ do: fc.constant("put" as const), name, value }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("create-version" as const), name, version, value }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("activate" as const), name, version }) },
    { weight: 4, arbitrary: fc.record({ do: fc.constant("delete-version" as const), name, version }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("delete" as const), name }) },
  );
}

export class SetecModel {
  readonly #secrets = new Map<string, Kept>();

  /** The version answered, or the code of the refusal. */
  run(step: Step): string {
    const secret = this.#secrets.get(step.name);
    switch (step.do) {
      case "put": {
        if (secret === undefined) {
          this.#secrets.set(step.name, {
            versions: new Map([[1, step.value]]),
            active: 1,
            latest: 1,
            deleted: new Set(),
          });
          return "1";
        }
        // A latest version that was deleted compares as Go's zero value.
        if ((secret.versions.get(secret.latest) ?? "") === step.value) return String(secret.latest);
        if (secret.latest === LAST) return "REFUSED";
        secret.latest += 1;
        secret.versions.set(secret.latest, step.value);
        return String(secret.latest);
      }
      case "create-version": {
        const kept = secret ?? {
          versions: new Map<number, string>(),
          active: 0,
          latest: 0,
          deleted: new Set<number>(),
        };
        if (kept.versions.has(step.version) || kept.deleted.has(step.version)) return "VERSION_CLAIMED";
        kept.versions.set(step.version, step.value);
        kept.active = step.version;
        if (step.version > kept.latest) kept.latest = step.version;
        this.#secrets.set(step.name, kept);
        return String(step.version);
      }
      case "activate":
        if (secret === undefined) return "SECRET_NOT_FOUND";
        if (!secret.versions.has(step.version)) return "VERSION_NOT_FOUND";
        secret.active = step.version;
        return String(step.version);
      case "delete-version":
        if (secret === undefined) return "SECRET_NOT_FOUND";
        if (secret.active === step.version) return "REFUSED";
        if (!secret.versions.delete(step.version)) return "VERSION_NOT_FOUND";
        secret.deleted.add(step.version);
        return String(step.version);
      case "delete":
        this.#secrets.delete(step.name);
        return "0";
      default:
        return step satisfies never;
    }
  }

  /** Everything there is, by name. */
  shape(): Record<string, unknown> {
    return Object.fromEntries(
      [...this.#secrets].map(([name, { versions, active, latest, deleted }]) => [
        name,
        { active, latest, live: ascending(versions.keys()), deleted: ascending(deleted) },
      ]),
    );
  }

  /** What a client would see: list, info of each, the count, and the values of every name and version. */
  seen(names: readonly string[]): unknown {
    const infos = [...this.#secrets]
      .toSorted(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
      .map(([name, { versions, active }]) => ({
        Name: name,
        Versions: ascending(versions.keys()),
        ActiveVersion: active,
      }));
    const values: Record<string, string> = {};
    for (const name of names) {
      const secret = this.#secrets.get(name);
      values[name] = secret === undefined ? "SECRET_NOT_FOUND" : told(secret.active, secret);
      for (const version of secret?.versions.keys() ?? []) {
        if (secret !== undefined) values[`${name} ${version}`] = told(version, secret);
      }
    }
    return { infos, each: infos, count: infos.length, values };
  }
}

function told(version: number, { versions }: Kept): string {
  return JSON.stringify(`${version}:${Buffer.from(versions.get(version) ?? "?").toString("hex")}`);
}

function ascending(numbers: Iterable<number>): number[] {
  return [...numbers].toSorted((a, b) => a - b);
}
