/** entry-name — what Podman calls an entry, for messages: it tells its driver the id alone. */

import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";

type Env = Readonly<Record<string, string | undefined>>;

/**
 * The name, from Podman's own list in its usual place, or undefined: the list may lie elsewhere (storage.conf), and
 * no message is worth a failure. Whoever calls the driver holds the lock on that list, so it is read whole.
 */
export function entryName(id: string, { env, system }: { env: Env; system: boolean }): string | undefined {
  const storage = storageDirectory(env, system);
  if (storage === undefined) return undefined;
  const name = nameIn(readSmall(join(storage, "secrets", "secrets.json")), id);
  return name !== undefined && NAME.test(name) ? name : undefined;
}

/** Podman's rule (containers/common pkg/secrets) without what a terminal would act on. */
const NAME = /^[^,/=\p{C}]{1,253}$/u;

/** Thousands of entries fit: each takes about 3 KB, most of it the driver's commands. */
const MAX_LIST_BYTES = 32 * 1024 * 1024;

/** storage.conf(5), graphroot and rootless_storage_path. */
function storageDirectory(env: Env, system: boolean): string | undefined {
  if (system) return "/var/lib/containers/storage";
  const { XDG_DATA_HOME: data = "", HOME: home = "" } = env;
  if (data.startsWith("/")) return join(data, "containers/storage");
  return home.startsWith("/") ? join(home, ".local/share/containers/storage") : undefined;
}

function readSmall(path: string): string {
  let fd: number | undefined;
  try {
    // A pipe in its place would make a plain open wait for ever.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const stats = fstatSync(fd);
    return stats.isFile() && stats.size <= MAX_LIST_BYTES ? readFileSync(fd, "utf8") : "";
  } catch {
    return "";
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

function nameIn(list: string, id: string): string | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(list);
  } catch {
    return undefined;
  }
  const names = isObject(parsed) ? parsed["idToName"] : undefined;
  const name = isObject(names) && Object.hasOwn(names, id) ? names[id] : undefined;
  return typeof name === "string" ? name : undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
