/** moment — a moment as people type it: a length of time from now, or a date. */

/** "45s", "30m", "1h" and "7d" count from `now`, backwards for -1; ISO 8601 is taken as it is. NaN for anything else. In milliseconds since 1970. */
export function momentOf(text: string, now: Date, direction: 1 | -1): number {
  const [, amount, unit] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  if (amount !== undefined && unit !== undefined) {
    return now.getTime() + direction * Number(amount) * (UNIT_MS.get(unit) ?? 0);
  }
  return /^\d{4}-\d\d-\d\d/.test(text) ? Date.parse(text) : Number.NaN;
}

const UNIT_MS: ReadonlyMap<string, number> = new Map([
  ["s", 1_000],
  ["m", 60_000],
  ["h", 3_600_000],
  ["d", 86_400_000],
]);
