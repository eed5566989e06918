/** root — the root directory of a Debian release that machines boot from: built once, then taken from the cache. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { LegerError } from "../../src/core/error.ts";
import { run } from "../../src/core/exec.ts";

/** bookworm: systemd 252, Podman 4.3, no Quadlet. trixie: 257, 5.4. forky: 262, 5.8. */
export const RELEASES = ["bookworm", "trixie", "forky"] as const;
export type Release = (typeof RELEASES)[number];

const CACHE = "/var/cache/leger-machines";

const PACKAGES = [
  "busybox-static",
  "crun",
  "curl",
  "dbus",
  "dbus-user-session",
  "fuse-overlayfs",
  "iproute2",
  "libpam-systemd",
  "passt",
  "podman",
  "procps",
  "slirp4netns",
  "systemd",
  "systemd-sysv",
  "uidmap",
];

const RECIPE = fileURLToPath(new URL("build-root.sh", import.meta.url));
const LINES_OF_A_FAILURE = 40;
const BUILD_TIMEOUT_MS = 20 * 60_000;

/**
 * Where a release's root lies, with these packages more; FAILED where it can't be built. Whoever comes second waits for
 * the first.
 */
export async function rootOf(release: Release, more: readonly string[] = []): Promise<string> {
  const packages = [...PACKAGES, ...more];
  const key = createHash("sha256")
    .update(JSON.stringify([release, packages, readFileSync(RECIPE, "utf8")]))
    .digest("hex")
    .slice(0, 16);
  const root = path.join(CACHE, `${release}-${key}`);
  if (existsSync(root)) return root;
  process.stderr.write(`building a Debian ${release} in ${root}: a minute or two, the first time\n`);
  mkdirSync(CACHE, { recursive: true, mode: 0o700 });
  const build = 'test -d "$2" || exec sh "$0" "$@"';
  const { status, stderr } = await run(
    "flock",
    [`${root}.lock`, "sh", "-c", build, RECIPE, release, root, ...packages],
    { env: process.env, timeoutMs: BUILD_TIMEOUT_MS },
  );
  if (status === 0) return root;
  process.stderr.write(stderr.split("\n").slice(-LINES_OF_A_FAILURE).join("\n"));
  throw new LegerError("FAILED", `a Debian ${release} could not be built (exit status ${status})`, {
    hints: ["what was said at the end stands above; a mirror of Debian must be in reach"],
  });
}

/** Where running machines keep what is theirs: on a disk, as a real machine does. */
export const MACHINES = path.join(CACHE, "running");
