/** driver-commands — the four shell commands by which Podman asks leger, as containers.conf.d/50-leger.conf has them. */
import { LegerError } from "../core/error.ts";

export type DriverCommands = { list: string; lookup: string; store: string; delete: string };

/** Where the package puts leger: Podman keeps the commands with each entry, so this path must outlive upgrades. */
export const INSTALLED_LEGER = "/usr/bin/leger";

/**
 * The commands for a leger at this absolute path. They clear what leger's runtime would obey, and what a unit's
 * readiness could be announced with, by shell builtins. USAGE for a path that a shell, or Podman's `--driver-opts`,
 * would not take as it is.
 */
export function driverCommands(leger: string = INSTALLED_LEGER): DriverCommands {
  if (!/^\/[A-Za-z0-9_.+@/-]+$/.test(leger)) {
    throw new LegerError(
      "USAGE",
      "--leger: podman needs an absolute path of letters, digits and _ . + @ - /",
    );
  }
  const command = (verb: string): string => `cd /; unset ${CLEARED.join(" ")}; exec ${leger} driver ${verb}`;
  return {
    list: command("list"),
    lookup: command("lookup"),
    store: command("store"),
    delete: command("delete"),
  };
}

/** What a compiled leger or its runtime would obey, and what a unit's readiness could be announced with. */
export const CLEARED = [
  "BUN_OPTIONS",
  "BUN_BE_BUN",
  "BUN_INSPECT",
  "BUN_INSPECT_CONNECT_TO",
  "BUN_INSPECT_NOTIFY",
  "BUN_INSPECT_PRELOAD",
  "BUN_JSC_functionOverrides",
  "BUN_JSC_configFile",
  "BUN_JSC_watchdog",
  "BUN_JSC_diskCachePath",
  "BUN_JSC_forceDiskCache",
  "BUN_BYTECODE_ORDER_OUT",
  "BUN_BYTECODE_ORDER_NAMES_OUT",
  "BUN_BYTECODE_DIGEST_OUT",
  "BUN_CONFIG_VERBOSE_FETCH",
  "NODE_OPTIONS",
  "NODE_PATH",
  "NODE_COMPILE_CACHE",
  "NODE_V8_COVERAGE",
  "NODE_EXTRA_CA_CERTS",
  "NODE_TLS_REJECT_UNAUTHORIZED",
  "OPENSSL_CONF",
  "NOTIFY_SOCKET",
];
