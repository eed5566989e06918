/** fetch — a service's variables as one private env file. */

import type { EnvDialect } from "../core/env-file.ts";
import { LegerError, systemCode } from "../core/error.ts";
import { callLegerd, originHeaders } from "../core/legerd-call.ts";
import type { PrivateDirectory } from "../core/private-file.ts";
import { isServiceName, SERVICE_NAME_RULE } from "../core/service.ts";
import type { Wire } from "../core/wire.ts";

export type EnvFilePlace = {
  service: string;
  /** Where the file goes; absent: RUNTIME_DIR/leger/env, made where it is missing. */
  directory?: string;
  /** What systemd calls %t. */
  runtimeDir: string;
  /** Who must own the directory. */
  euid: number;
};

export type FetchNeeds = {
  wire: Wire;
  /** PODMAN_SYSTEMD_UNIT and INVOCATION_ID, where there are such. */
  env: Readonly<Record<string, string | undefined>>;
  /** The text of /proc/self/cgroup. */
  cgroup: string | undefined;
  /** How long until all must be over. */
  remainingMs: () => number;
};

/**
 * Writes SERVICE.env (0600), one round trip after making sure that it can be kept safely, and gives its path.
 * Whatever fails, an older file stays as it was. UNSAFE: a directory that others could touch, or one that is
 * not on tmpfs unless `allowDisk`; USAGE: not a name for a service; else what legerd says.
 */
export async function fetchEnvFile(
  needs: FetchNeeds,
  { dialect, allowDisk, ...place }: EnvFilePlace & { dialect: EnvDialect; allowDisk: boolean },
): Promise<string> {
  const { service } = place;
  const fileName = fileNameOf(service);
  using directory = await openForWriting(place, !allowDisk);
  const { body } = await callLegerd(needs.wire, {
    doing: `fetch ${service}`,
    method: "GET",
    path: `/v1/services/${encodeURIComponent(service)}/env?dialect=${dialect}`,
    headers: originHeaders(needs.env, needs.cgroup),
    contentType: "text/plain",
    proof: "leger-versions",
    remainingMs: needs.remainingMs(),
  });
  directory.write(fileName, body);
  return `${directory.path}/${fileName}`;
}

/** Removes SERVICE.env, for ExecStopPost=. No file, or no directory, is fine. Needs no daemon. */
export async function removeEnvFile({ service, directory, runtimeDir, euid }: EnvFilePlace): Promise<void> {
  const fileName = fileNameOf(service);
  try {
    const { openPrivateDirectory } = await privateFile();
    using opened = openPrivateDirectory(directory ?? `${runtimeDir}/${OWN_DIRECTORY.join("/")}`, { euid });
    opened.remove(fileName);
  } catch (error) {
    if (!(error instanceof LegerError) || systemCode(error.cause) !== "ENOENT") throw error;
  }
}

const OWN_DIRECTORY = ["leger", "env"] as const;

/** Loaded when it is needed: it brings node:fs along, which a lookup in the same program is better off without. */
function privateFile(): Promise<typeof import("../core/private-file.ts")> {
  return import("../core/private-file.ts");
}

function fileNameOf(service: string): string {
  if (isServiceName(service)) return `${service}.env`;
  throw new LegerError("USAGE", `${JSON.stringify(service.slice(0, 128))} is not a name for a service`, {
    hints: [SERVICE_NAME_RULE, "see: leger services list"],
  });
}

async function openForWriting(
  { directory, runtimeDir, euid }: EnvFilePlace,
  requireTmpfs: boolean,
): Promise<PrivateDirectory> {
  const { openPrivateDirectory } = await privateFile();
  if (directory !== undefined) return openPrivateDirectory(directory, { euid, requireTmpfs });
  using runtime = openPrivateDirectory(runtimeDir, { euid, requireTmpfs });
  using own = runtime.enter(OWN_DIRECTORY[0]);
  return own.enter(OWN_DIRECTORY[1]);
}
