/** versions — setec's version rules for one secret, as pure functions of its state. */
import { LegerError } from "../core/error.ts";

/** Highest version number: uint32 on the wire. */
export const MAX_VERSION = 0xffff_ffff;

/** Inclusive runs of numbers, ascending and not touching: [[1,3],[7,7]] is 1 2 3 7. */
export type Ranges = readonly (readonly [first: number, last: number])[];

/** What legerd remembers of a secret besides its values. */
export type SecretState = {
  /** The version that a plain get answers. Always live. */
  active: number;
  /** Highest number ever used; the next put takes the one after it. */
  latest: number;
  /** Versions that can be fetched. */
  live: Ranges;
  /** Versions deleted one by one. Their numbers are never given out again. */
  deleted: Ranges;
};

/** What a put decides: nothing to store (`version` has this value already), or a new version. */
export type PutDecision = { version: number; next: SecretState | undefined };

/**
 * Decides a put. `sameAsLatest` says whether the new value equals the value stored at `latest`; a latest
 * that was deleted counts as the empty value (a quirk of setec that its clients can see). Only the first
 * version of a secret becomes active by a put.
 *
 * Throws REFUSED at the last number: setec wraps to 0 there and goes on to overwrite live versions.
 */
export function decidePut(state: SecretState | undefined, sameAsLatest: boolean): PutDecision {
  if (state === undefined) {
    return { version: 1, next: { active: 1, latest: 1, live: [[1, 1]], deleted: [] } };
  }
  if (sameAsLatest) return { version: state.latest, next: undefined };
  if (state.latest === MAX_VERSION) {
    throw new LegerError("REFUSED", `put: version ${MAX_VERSION} is the last there can be`, {
      hints: ["delete the secret and store it anew; its versions then start at 1 again"],
    });
  }
  const version = state.latest + 1;
  return { version, next: { ...state, latest: version, live: withNumber(state.live, version) } };
}

/** Decides a create-version: any number that was never used, active at once. Throws VERSION_CLAIMED. */
export function decideCreateVersion(state: SecretState | undefined, version: number): SecretState {
  if (state === undefined) {
    return { active: version, latest: version, live: [[version, version]], deleted: [] };
  }
  if (hasNumber(state.live, version) || hasNumber(state.deleted, version)) {
    throw new LegerError("VERSION_CLAIMED", `create version ${version}: the number is taken`);
  }
  return {
    ...state,
    active: version,
    latest: Math.max(state.latest, version),
    live: withNumber(state.live, version),
  };
}

/** Decides an activate; undefined when `version` is active already. Throws VERSION_NOT_FOUND. */
export function decideActivate(state: SecretState, version: number): SecretState | undefined {
  if (!hasNumber(state.live, version)) throw versionNotFound(version);
  return state.active === version ? undefined : { ...state, active: version };
}

/** Decides a delete-version. Throws REFUSED for the active version, VERSION_NOT_FOUND for an unknown one. */
export function decideDeleteVersion(state: SecretState, version: number): SecretState {
  if (state.active === version) {
    throw new LegerError("REFUSED", `delete version ${version}: it is the active one`, {
      hints: ["activate another version first"],
    });
  }
  if (!hasNumber(state.live, version)) throw versionNotFound(version);
  return {
    ...state,
    live: withoutNumber(state.live, version),
    deleted: withNumber(state.deleted, version),
  };
}

export function versionNotFound(version: number): LegerError {
  return new LegerError("VERSION_NOT_FOUND", `version ${version}: not found`);
}

export function hasNumber(ranges: Ranges, number: number): boolean {
  return ranges.some(([first, last]) => first <= number && number <= last);
}

export function countNumbers(ranges: Ranges): number {
  return ranges.reduce((count, [first, last]) => count + last - first + 1, 0);
}

/** Every number of the ranges, ascending. */
export function listNumbers(ranges: Ranges): number[] {
  const numbers: number[] = [];
  for (const [first, last] of ranges) {
    for (let number = first; number <= last; number += 1) numbers.push(number);
  }
  return numbers;
}

/** Numbers in any order, as ranges. */
export function rangesOf(numbers: Iterable<number>): Ranges {
  const ranges: [number, number][] = [];
  for (const number of [...new Set(numbers)].toSorted((a, b) => a - b)) {
    const last = ranges.at(-1);
    if (last !== undefined && last[1] === number - 1) last[1] = number;
    else ranges.push([number, number]);
  }
  return ranges;
}

function withNumber(ranges: Ranges, number: number): Ranges {
  const before = ranges.filter(([, last]) => last < number - 1);
  const after = ranges.filter(([first]) => first > number + 1);
  const touching = ranges.slice(before.length, ranges.length - after.length);
  const first = Math.min(number, touching.at(0)?.[0] ?? number);
  const last = Math.max(number, touching.at(-1)?.[1] ?? number);
  return [...before, [first, last], ...after];
}

function withoutNumber(ranges: Ranges, number: number): Ranges {
  return ranges.flatMap(([first, last]): Ranges => {
    if (number < first || number > last) return [[first, last]];
    const left: Ranges = first < number ? [[first, number - 1]] : [];
    const right: Ranges = number < last ? [[number + 1, last]] : [];
    return [...left, ...right];
  });
}
