/** service — the names that services may have, and where systemd gets their secrets as credentials. */

/**
 * Becomes a file name and part of a unit's name, so it cannot lead out of a directory. The directory of a service "web.env"
 * would be where the set of "web" is.
 */
const SERVICE_NAME = /^(?!.*\.env$)[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$/;

/** In words, for a hint. */
export const SERVICE_NAME_RULE =
  "letters, digits and _ . @ - after a letter or digit, at most 128, and no .env at the end";

export function isServiceName(text: string): boolean {
  return SERVICE_NAME.test(text);
}

/**
 * The sockets of a service, below the runtime directory (systemd's %t). One connection gives all variables as an env file in
 * Podman's dialect, ended by END_OF_SET …
 */
export function credentialSetPath(service: string): string {
  return `leger/${CREDENTIALS}/${credentialSet(service)}`;
}

/** … or one variable's bytes and nothing else. */
export function credentialPath(service: string, variable: string): string {
  return `leger/${CREDENTIALS}/${credentialFile(service, variable)}`;
}

/** The directory of these sockets, beside legerd's own. */
export const CREDENTIALS = "cred";

/** The set's socket, in there. */
export function credentialSet(service: string): string {
  return `${service}.env`;
}

/** A variable's socket, in there. */
export function credentialFile(service: string, variable: string): string {
  return `${service}/${variable}`;
}

/** The last line of a set. systemd takes a connection that closed early for the whole of it; who reads the set can tell. */
export const END_OF_SET = "# leger: end of set";
