/** driver-commands — the four shell commands by which Podman asks leger, and the containers.conf drop-in with them. */
import { LegerError } from "../core/error.ts";

export type DriverCommands = { list: string; lookup: string; store: string; delete: string };

/** Where the package puts leger: Podman keeps the commands with each entry, so this path must outlive upgrades. */
export const INSTALLED_LEGER = "/usr/bin/leger";

/**
 * The commands for a leger at this absolute path. They say in one line where its runtime could not start, and clear what
 * that would obey and what a unit's readiness could be announced with, by shell builtins. USAGE for a path that a shell,
 * or Podman's `--driver-opts`, would not take as it is.
 */
export function driverCommands(leger: string = INSTALLED_LEGER): DriverCommands {
  if (!/^\/[A-Za-z0-9_.+@/-]+$/.test(leger)) {
    throw new LegerError(
      "USAGE",
      "--leger: podman needs an absolute path of letters, digits and _ . + @ - /",
    );
  }
  const command = (verb: string): string =>
    `cd /; ${REQUIRED.join("; ")}; unset ${CLEARED.join(" ")}; exec ${leger} driver ${verb}`;
  return {
    list: command("list"),
    lookup: command("lookup"),
    store: command("store"),
    delete: command("delete"),
  };
}

const refusal = (words: string): string => `{ echo leger: error: driver: ${words} >&2; exit 70; }`;

/** Bun crashes without /proc, and with a stack of less than some 150 KiB, in many words of its own. 70: as BUG. */
const REQUIRED = [
  `[ -e /proc/self/exe ] || ${refusal("there is no /proc here and leger cannot start without it: mount it")}`,
  `ulimit -Ss 2048 2>/dev/null || ${refusal("the stack may not be 2 MiB large here: raise its hard limit")}`,
];

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
  "BUN_CRASH_REPORT_URL",
  "BUN_ENABLE_CRASH_REPORTING",
  "BUN_FEATURE_FLAG_SYNTHETIC_MEMORY_LIMIT",
  "NODE_OPTIONS",
  "NODE_PATH",
  "NODE_COMPILE_CACHE",
  "NODE_V8_COVERAGE",
  "NODE_EXTRA_CA_CERTS",
  "NODE_TLS_REJECT_UNAUTHORIZED",
  "OPENSSL_CONF",
  "NOTIFY_SOCKET",
];

/** The path at the end of a command of ours, undefined for any other command. Whatever an older leger cleared before it. */
export function legerIn(command: string): string | undefined {
  return /(?:^|; ?)exec (\/\S+) driver (?:list|lookup|store|delete)$/.exec(command)?.[1];
}

/** containers.conf.d/50-leger.conf, to the byte. The file in the repository is made from this (a test compares them). */
export function dropInText(commands: DriverCommands = driverCommands()): string {
  const options = Object.entries(commands).map(([key, command]) => `${key} = '${command}'\n`);
  return `${DROP_IN_HEAD}
[secrets]
driver = "shell"

[secrets.opts]
${options.join("")}`;
}

const DROP_IN_HEAD = `# leger as Podman's secret driver.
#
# For one user:  ~/.config/containers/containers.conf.d/50-leger.conf
# For everybody: /etc/containers/containers.conf.d/50-leger.conf
# "leger podman install" puts it there, "leger podman uninstall" takes it away.
#
# With this file in place, leger is the default driver for every *new* secret of this Podman: also for your own
# "podman secret create", for compose and for Ansible. Secrets that exist already are not touched. Podman keeps with each
# secret the driver and the four commands it was created with, and goes on using those: neither adding, changing nor
# removing this file alters an existing secret. "leger podman sync" repairs entries whose commands are out of date.
#
# Podman runs each command with /bin/sh -c and the environment of whoever called podman, SECRET_ID added. So each one
#   - leaves the caller's directory, so that no file lying there is picked up;
#   - says so in one line where there is no /proc, or too little stack, for leger to start;
#   - unsets what would make leger's runtime run, listen or write something else (BUN_*, NODE_*, OPENSSL_CONF), and
#     NOTIFY_SOCKET, with which a unit's readiness could be announced;
#   - becomes leger by exec. All words of it are built into the shell: no further process is started.
# No command may contain a comma, a double quote or an equals sign: on the command line of "podman secret create
# --driver-opts" Podman would split it there. The four differ in their last word only.
#
# Podman refuses the driver when another containers.conf file leaves "path", "root" or "key" in [secrets.opts].
# "leger doctor" says which file that is.
`;
