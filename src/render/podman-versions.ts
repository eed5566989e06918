/** podman-versions — which key and which behaviour of Quadlet came with which Podman. All of it is here. */
import { LegerError } from "../core/error.ts";

/** Major and minor: patch releases brought nothing that matters here. */
export type PodmanVersion = { major: number; minor: number; text: string };

/** Takes "5.4.2", "v5.4", "4.9.3+ds1". USAGE for anything else. */
export function parsePodmanVersion(text: string): PodmanVersion {
  const [, major, minor] = /^v?(\d{1,3})\.(\d{1,3})(?:[.+~-].{0,40})?$/.exec(text.trim()) ?? [];
  if (major === undefined || minor === undefined) {
    throw new LegerError("USAGE", "this is not a version of podman", {
      hints: ["as in: --podman-version 5.4"],
    });
  }
  return { major: Number(major), minor: Number(minor), text: `${Number(major)}.${Number(minor)}` };
}

export function isAtLeast({ major, minor }: PodmanVersion, since: string): boolean {
  const [wantedMajor = 0, wantedMinor = 0] = since.split(".").map(Number);
  return major === wantedMajor ? minor >= wantedMinor : major > wantedMajor;
}

/** What Quadlet does differently from release to release (cmd/quadlet/main.go, pkg/systemd/parser, by tag). */
export const SINCE = {
  /** Quadlet itself. */
  quadlet: "4.4",
  /** `NAME.container.d/*.conf`. */
  dropins: "5.0",
  /** `container.d/`, `foo-.container.d/`. */
  broadDropins: "5.2",
  /** `;` begins a comment, comments may stand within continued lines. Before, `;` made a key of the line, or an error. */
  comments: "5.4",
  /** Of drop-ins with one name, the most specific directory's counts; before, the first search path's did. */
  specificFirst: "5.6",
} as const;

/** The keys of [Container], by the release that brought them. */
const KEYS_BY_RELEASE = {
  "4.4":
    "AddCapability AddDevice Annotation ContainerName DropCapability Environment EnvironmentFile EnvironmentHost Exec " +
    "ExposeHostPort Group Image Label Network NoNewPrivileges Notify PodmanArgs PublishPort ReadOnly RemapGid RemapUid " +
    "RemapUidSize RemapUsers RunInit SeccompProfile Timezone User VolatileTmp Volume",
  "4.5":
    "HealthCmd HealthInterval HealthOnFailure HealthRetries HealthStartPeriod HealthStartupCmd HealthStartupInterval " +
    "HealthStartupRetries HealthStartupSuccess HealthStartupTimeout HealthTimeout IP IP6 LogDriver Mount Rootfs Secret " +
    "SecurityLabelDisable SecurityLabelFileType SecurityLabelLevel SecurityLabelType Tmpfs UserNS",
  "4.6": "AutoUpdate HostName Mask Pull SecurityLabelNested Sysctl Unmask WorkingDir",
  "4.7": "DNS DNSOption DNSSearch PidsLimit ShmSize Ulimit",
  "4.8": "ContainersConfModule GIDMap GlobalArgs ReadOnlyTmpfs SubGIDMap SubUIDMap UIDMap",
  "5.0": "Entrypoint Pod StopTimeout",
  "5.1": "GroupAdd",
  "5.2": "LogOpt NetworkAlias StopSignal",
  "5.3":
    "AddHost CgroupsMode HealthLogDestination HealthMaxLogCount HealthMaxLogSize ServiceName StartWithPod",
  "5.5": "Memory ReloadCmd ReloadSignal Retry RetryDelay",
  "5.7": "HttpProxy",
  "5.8": "AppArmor",
} as const;

/** [Container]'s key → the release that brought it. */
const CONTAINER_KEYS: ReadonlyMap<string, string> = new Map(
  Object.entries(KEYS_BY_RELEASE).flatMap(([release, keys]) =>
    keys.split(" ").map((key) => [key, release] as const),
  ),
);

/** The release that brought a key of [Container]; undefined for one that no Quadlet has. */
export function keySince(key: string): string | undefined {
  return CONTAINER_KEYS.get(key);
}

export function hasKey(version: PodmanVersion, key: string): boolean {
  const since = keySince(key);
  return since !== undefined && isAtLeast(version, since);
}
