/** service — the names that services may have. */

/** Becomes a file name and part of a unit's name, so it cannot lead out of a directory. */
const SERVICE_NAME = /^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$/;

/** In words, for a hint. */
export const SERVICE_NAME_RULE = "letters, digits and _ . @ - after a letter or digit, at most 128";

export function isServiceName(text: string): boolean {
  return SERVICE_NAME.test(text);
}
