/** grants — who may do what to which secrets, by setec's rules. */

/** Every action listed is allowed on every secret that matches one of the patterns. */
export type Grant = {
  /** Taken literally: no wildcard, no other letter case; unknown words allow nothing. */
  readonly action: readonly string[];
  /** `*` is any run of characters, also none, also `/` and newlines; all else stands for itself. */
  readonly secret: readonly string[];
};

/** The union of some grants. Nothing denies. */
export type Access = { allows(action: string, name: string): boolean };

/** Prepares grants for many questions. No grants allow nothing. */
export function compileGrants(grants: readonly Grant[]): Access {
  const byAction = new Map<string, Glob[]>();
  for (const { action, secret } of grants) {
    const globs = secret.map(parseGlob);
    for (const word of action) byAction.set(word, [...(byAction.get(word) ?? []), ...globs]);
  }
  return {
    allows: (action, name) => byAction.get(action)?.some((glob) => matches(glob, name)) ?? false,
  };
}

/** The first grant that allows it, and by which of its patterns; for people who ask why. */
export function findGrant(
  grants: readonly Grant[],
  action: string,
  name: string,
): { grant: number; pattern: string } | undefined {
  for (const [grant, rule] of grants.entries()) {
    if (!rule.action.includes(action)) continue;
    const pattern = rule.secret.find((text) => matches(parseGlob(text), name));
    if (pattern !== undefined) return { grant, pattern };
  }
  return undefined;
}

/** What a name must begin and end with, and what must stand in between, in order and without overlap. */
type Glob = { head: string; middle: readonly string[]; tail: string | undefined };

/** Lone surrogates become U+FFFD, as they do in names: then code units match just as setec's bytes would. */
function parseGlob(pattern: string): Glob {
  const [head = "", ...rest] = pattern.toWellFormed().split("*");
  const tail = rest.pop();
  return { head, middle: rest.filter((piece) => piece !== ""), tail };
}

/** Takes the first place for each piece, which is never worse than a later one: there is no going back. */
function matches({ head, middle, tail }: Glob, name: string): boolean {
  if (tail === undefined) return name === head;
  if (!name.startsWith(head)) return false;
  let at = head.length;
  for (const piece of middle) {
    const found = name.indexOf(piece, at);
    if (found === -1) return false;
    at = found + piece.length;
  }
  return name.length - at >= tail.length && name.endsWith(tail);
}
