/** residue-places — where copies of secrets come to lie, what such a place is, and what to do about it. */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parse as parseToml } from "smol-toml";
import { z } from "zod";
import { homeDirectory, runtimePlaces } from "../core/paths.ts";
import type { Finding } from "../residue/residue.ts";
import { userContainersDir } from "./containers-conf.ts";
import { systemPath, type CliWorld } from "./world.ts";

/**
 * All that is searched without a word: Podman's storage and run-time files, env files and credentials, the journal, unit
 * files, shells' histories, legerd's own state. What isn't there is among them.
 */
export function usualRoots(world: CliWorld): string[] {
  const { account, runtimeDir } = runtimePlaces(world);
  const system = (...paths: string[]): string[] => paths.map((path) => systemPath(world, path));
  const home = homeOf(world);
  const data = world.env["XDG_DATA_HOME"] ?? (home === undefined ? undefined : join(home, ".local/share"));
  const own = userContainersDir(world);
  const roots =
    account.kind === "system"
      ? [
          ...system("/var/lib/containers", "/var/log"),
          ...system(...["containers", "crun", "runc", "libpod"].map((name) => `/run/${name}`)),
          ...system("/run/leger", "/run/credentials", "/run/systemd", "/usr/lib/systemd/system"),
        ]
      : [
          ...below(data, "containers", "systemd/user"),
          runtimeDir,
          ...below(home, ".config/systemd/user", ".config/environment.d"),
          ...system("/var/log/journal", "/usr/lib/systemd/user"),
        ];
  return [
    ...roots,
    ...storageOf(world),
    ...(own === undefined ? [] : [own]),
    ...system("/run/log/journal", "/etc/containers", "/usr/share/containers", "/etc/systemd"),
    ...system("/etc/environment", "/etc/environment.d", "/etc/default", "/etc/sysconfig"),
    ...below(home, ...HISTORIES),
    ...below(
      home === undefined && world.env["XDG_STATE_HOME"] === undefined ? undefined : stateOf(world),
      "",
    ),
    ...(world.env["HISTFILE"] === undefined ? [] : [resolve(world.cwd, world.env["HISTFILE"])]),
  ];
}

/** A storage that lies elsewhere: containers-storage.conf(5). */
function storageOf(world: CliWorld): string[] {
  const own = userContainersDir(world);
  const isUser = runtimePlaces(world).account.kind === "user";
  const named = world.env["CONTAINERS_STORAGE_CONF"];
  const candidates = [
    ...(named === undefined ? [] : [resolve(world.cwd, named)]),
    ...(isUser && own !== undefined ? [join(own, "storage.conf")] : []),
    systemPath(world, "/etc/containers/storage.conf"),
    systemPath(world, "/usr/share/containers/storage.conf"),
  ];
  const file = candidates.find((candidate) => existsSync(candidate));
  if (file === undefined) return [];
  let storage: z.infer<typeof StorageConf>["storage"];
  try {
    storage = StorageConf.parse(parseToml(readFileSync(file, "utf8"))).storage;
  } catch {
    // Podman itself would give up over it.
    return [];
  }
  const isOwn = own !== undefined && file.startsWith(own);
  const paths = isUser && !isOwn ? [storage.rootless_storage_path] : [storage.graphroot, storage.runroot];
  return paths.flatMap((path) => (path === undefined || path === "" ? [] : [expanded(world, path)]));
}

const StorageConf = z.object({
  storage: z
    .object({
      graphroot: z.string().optional(),
      runroot: z.string().optional(),
      rootless_storage_path: z.string().optional(),
    })
    .default({}),
});

function expanded(world: CliWorld, path: string): string {
  const { account } = runtimePlaces(world);
  const uid = account.kind === "user" ? account.uid : 0;
  const values: Record<string, string | undefined> = { ...world.env, UID: String(uid) };
  return path.replaceAll(/\$\{?(\w+)\}?/g, (_, name: string) => values[name] ?? "");
}

const HISTORIES = [
  ".bash_history",
  ".zsh_history",
  ".histfile",
  ".ash_history",
  ".sh_history",
  ".history",
  ".local/share/fish/fish_history",
  ".python_history",
  ".node_repl_history",
  ".psql_history",
  ".lesshst",
  ".viminfo",
];

function homeOf({ env }: CliWorld): string | undefined {
  const home = env["HOME"] ?? "";
  return home.startsWith("/") ? home : undefined;
}

function stateOf(world: CliWorld): string {
  return homeDirectory("state", world);
}

function below(directory: string | undefined, ...paths: string[]): string[] {
  return directory === undefined ? [] : paths.map((path) => join(directory, path));
}

/** What a place is, and what to do about it, most useful first. */
export type Meaning = { what: string; hints: readonly string[] };

/** `containerOf` gives a name for an id of Podman's. */
export function meaningOf(
  { path, process, traces }: Finding,
  containerOf: (storage: string, id: string) => string | undefined,
): Meaning {
  if (process !== undefined) return PROCESS[process.what];
  if (traces.every(({ within }) => within === "name")) return { what: "the name of a file", hints: [REMOVE] };
  const [kind] = KINDS.filter(({ pattern }) => pattern.test(path));
  if (kind === undefined) return { what: "a file", hints: [REMOVE, ROTATE] };
  const [, storage, id] = /^(.*\/overlay-containers)\/([0-9a-f]{64})\//.exec(path) ?? [];
  const container = storage === undefined || id === undefined ? undefined : containerOf(storage, id);
  return {
    what: container === undefined ? kind.what : `${kind.what} (${container})`,
    hints: kind.hints,
  };
}

const REMOVE = "take it out, unless it is meant to be there";
const ROTATE =
  "if others may have read it, replace the key at its provider, and: leger secrets set NAME --activate";
const OTHER_MODE = "it goes with the container; with mode mount or entrypoint there is none: leger modes";

const PROCESS: Record<"cmdline" | "environ", Meaning> = {
  cmdline: {
    what: "the arguments of a process, which every user of this machine can read",
    hints: ["give it a file or a variable instead", ROTATE],
  },
  environ: {
    what: "the variables of a process",
    hints: [
      "a container's program that is given variables has it there; one that reads files needs none: mode mount",
      "if it is a shell: close it, and let no profile of its export keys",
    ],
  },
};

type Kind = Meaning & { pattern: RegExp };

/** The first that fits. */
const KINDS: readonly Kind[] = [
  {
    pattern: /\/overlay-containers\/[0-9a-f]{64}\/userdata\/config\.json$/,
    what: "podman's copy of a container's variables",
    hints: [OTHER_MODE],
  },
  {
    pattern: /\/overlay-containers\/[0-9a-f]{64}\/userdata\/(?:artifacts\/)?secrets\//,
    what: "a secret that podman gives a container as a file",
    hints: [OTHER_MODE],
  },
  {
    pattern: /\/overlay-containers\/[0-9a-f]{64}\/userdata\//,
    what: "podman's files for a container",
    hints: ["health checks and podman exec leave it there while they run", OTHER_MODE],
  },
  {
    pattern: /\/secrets\/filedriver\//,
    what: "a copy in podman's own secret store, readable by whoever reads the file",
    hints: ["podman secret rm NAME, then let podman ask legerd: leger podman sync", ROTATE],
  },
  {
    pattern: /\/(?:db\.sql|bolt_state\.db)(?:-wal|-journal)?$/,
    what: "podman's database: a container has it by an env file or --env",
    hints: [
      OTHER_MODE,
      "what podman has deleted there may stay until it is written over: podman system reset",
    ],
  },
  {
    pattern: /\/containers\/storage\/volumes\//,
    what: "a volume: a program wrote it there",
    hints: ["see how that program keeps its settings", ROTATE],
  },
  {
    pattern: /\/overlay-images\//,
    what: "an image's configuration: it was built with the key in it",
    hints: ["podman rmi it, and build it without: a key belongs to the container, not to the image", ROTATE],
  },
  {
    pattern: /\/(?:overlay|vfs|btrfs)\/.*/,
    what: "a file in an image or in a container",
    hints: ["see which: podman diff, podman history", ROTATE],
  },
  {
    pattern: /\/(?:crun|runc)\/[0-9a-f]{64}\//,
    what: "the container runtime's copy of a container's variables",
    hints: [OTHER_MODE],
  },
  {
    pattern: /\/credentials\/[^/]+\//,
    what: "a credential that systemd holds for a unit, as long as it runs",
    hints: ["nothing: that is how it comes to its container"],
  },
  {
    pattern: /\/(?:leger\/env|leger-env-[^/]+)\//,
    what: "a service's env file",
    hints: ["a unit's ExecStopPost= takes it away: leger secrets fetch SERVICE --remove"],
  },
  {
    pattern: /\/log\/journal\//,
    what: "the journal: some program printed it",
    hints: [ROTATE, "as root: journalctl --rotate, then journalctl --vacuum-time=1s"],
  },
  {
    pattern: /\/var\/log\//,
    what: "a log: some program printed it",
    hints: [ROTATE],
  },
  {
    pattern:
      /\.(?:container|pod|kube|volume|network|image|build|service|socket|timer|target|conf|env)$|\/environment(?:\.d\/.*)?$|\/etc\/(?:default|sysconfig)\//,
    what: "a unit or configuration file",
    hints: ["let it say Secret= instead of the value, and see: leger render lint", ROTATE],
  },
  {
    pattern: /history$|\/\.(?:histfile|lesshst|viminfo)$/,
    what: "what you have typed",
    hints: ["take the line out; leger secrets set asks for a value instead", ROTATE],
  },
  {
    pattern: /\/legerd\//,
    what: "legerd's state, where nothing should be in the clear",
    hints: ["this is a bug in leger, unless you put the file there"],
  },
];
