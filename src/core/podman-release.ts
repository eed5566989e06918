/** podman-release — which release of Podman has what, in one place. */

/** major, minor, patch. */
export type PodmanRelease = readonly [number, number, number];

/**
 * How to ask a Podman what it is without a trace. `podman version` makes the user's storage. Even for `--version` it reads
 * containers.conf and storage.conf first, and gives up over one that is broken; since 5.0 it makes ~/.config where there
 * is none, but not what XDG_CONFIG_HOME names.
 */
export const VERSION_QUESTION = {
  args: ["--version"],
  env: { CONTAINERS_CONF: "/dev/null", CONTAINERS_CONF_OVERRIDE: undefined, XDG_CONFIG_HOME: "/nonexistent" },
  timeoutMs: 5_000,
} as const;

/** "4.3.1" in the answer to that; undefined for any other answer. */
export function versionIn(answer: string): string | undefined {
  return / version (\d+\.\d+\S*)/.exec(answer)?.[1];
}

/** "4.3.1", "5.8.0-rc1", "6.0.0-dev"; undefined for anything else. */
export function parsePodmanRelease(version: string): PodmanRelease | undefined {
  const [, major, minor, patch] = /^(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?![\d.])/.exec(version) ?? [];
  if (major === undefined || minor === undefined) return undefined;
  return [Number(major), Number(minor), Number(patch ?? 0)];
}

/** What a Podman is taken for that cannot be asked. */
export const TYPICAL_RELEASE: PodmanRelease = [5, 4, 0];

/** The newest that leger was written for. */
export const LAST_KNOWN_RELEASE: PodmanRelease = [6, 0, 0];

export type PodmanFeature = keyof typeof SINCE;

export function podmanHas(feature: PodmanFeature, release: PodmanRelease): boolean {
  const since = SINCE[feature];
  for (const [at, number] of since.entries()) {
    const ours = release[at] ?? 0;
    if (ours !== number) return ours > number;
  }
  return true;
}

/** "5.0", or "5.8.2" where it came with a bug-fix release. */
export function podmanSince(feature: PodmanFeature): string {
  const [major, minor, patch] = SINCE[feature];
  return `${major}.${minor}${patch === 0 ? "" : `.${patch}`}`;
}

/** The releases that brought it: podman's release notes, and the sources of those releases. */
const SINCE = {
  /** `secret create --label`, by which leger knows its entries. */
  labels: [4, 3, 0],
  /** `.container` files as units. */
  quadlets: [4, 4, 0],
  /** `Secret=` in them. */
  quadletSecrets: [4, 5, 0],
  /** CONTAINERS_CONF_OVERRIDE. */
  confOverride: [4, 5, 0],
  /** Names of entries up to 253 characters; 64 before. */
  longNames: [4, 6, 0],
  /** Any character in them but `,` `/` `=` and NUL. */
  anyNames: [4, 7, 0],
  /** `secret inspect --showsecret`. */
  showSecret: [4, 7, 0],
  /** `NAME.container.d/*.conf`. */
  quadletDropIns: [5, 0, 0],
  /** Root's own `~/.config/containers` counts, too. */
  confOfRoot: [5, 0, 0],
  /** Values of `type=env` secrets masked in `podman inspect`. */
  maskedValues: [5, 3, 0],
  /** `/etc/containers/containers.rootless.conf`. */
  confRootless: [5, 7, 0],
  /** `secret create NAME -` from what isn't a FIFO. */
  anyStdin: [5, 8, 0],
  /** A secret made through the API with a driver of its own doesn't get the default driver's options (podman#28408). */
  apiOptions: [5, 8, 2],
  /** One main containers.conf, and drop-ins sorted across directories (storage pkg/configfile). */
  confSorted: [6, 0, 0],
} as const satisfies Record<string, PodmanRelease>;
