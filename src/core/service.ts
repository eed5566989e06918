/** service — the names that services may have, and where systemd gets their secrets as credentials. */

/** Becomes a file name and part of a unit's name, so it cannot lead out of a directory. */
const SERVICE_NAME = /^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$/;

/** In words, for a hint. */
export const SERVICE_NAME_RULE = "letters, digits and _ . @ - after a letter or digit, at most 128";

export function isServiceName(text: string): boolean {
  return SERVICE_NAME.test(text);
}

/**
 * The sockets of a service, below the runtime directory (systemd's %t). One connection gives all variables as an env file in
 * Podman's dialect, ended by END_OF_SET …
 */
export function credentialSetPath(service: string): string {
  return `leger/cred/${service}.env`;
}

/** … or one variable's bytes and nothing else. */
export function credentialPath(service: string, variable: string): string {
  return `leger/cred/${service}/${variable}`;
}

/** The last line of a set. systemd takes a connection that closed early for the whole of it; who reads the set can tell. */
export const END_OF_SET = "# leger: end of set";
