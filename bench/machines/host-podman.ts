/** host-podman — this machine's own Podman with five secrets in each way, in a storage of its own that goes again. */
import * as fs from "node:fs";
import path from "node:path";
import { speak } from "../../src/core/error.ts";
import { Secret } from "../../src/core/secret.ts";
import { SetecClient } from "../../src/setec/client.ts";
import type { Machine } from "../../test/system/machine.ts";
import { runHere, type Runner } from "../support/measure.ts";
import type { Skipped } from "../support/report.ts";
import { isInPath, openStage } from "../support/stage.ts";
import { entriesOf, secretName, VALUES, type Way } from "./drivers.ts";

type HostPodman = {
  /** The program with the options for its storage. */
  podman: readonly string[];
  version: string;
  env: Record<string, string>;
  runner: Runner;
};

const SETUP_TIMEOUT_MS = 60_000;

/**
 * Root's Podman, in a mount namespace with control groups of the new kind, a /run of its own, the built leger in /usr and its
 * legerd where the system's would be. The machine's image and containers.conf serve here, too. Where any of this cannot
 * be had, that is why it is skipped.
 */
export async function withHostPodman<T>(
  machine: Machine,
  ways: readonly Way[],
  use: (host: HostPodman) => Promise<T>,
): Promise<T | Skipped> {
  const what = "this machine's own Podman";
  if (!isInPath("podman")) return { what, why: "there is none" };
  await using stage = await openStage(0);
  await using client = new SetecClient({ socketPath: stage.socket });
  for (const [at, value] of VALUES.entries()) {
    await client.put(`leger/local/${secretName(at)}`, new Secret(Buffer.from(value)));
  }
  const at = (name: string): string => path.join(stage.directory, name);
  const image = at("image.tar");
  fs.writeFileSync(image, await machine.read("/usr/share/test-image.tar"));
  fs.writeFileSync(at("containers.conf"), await machine.read("/etc/containers/containers.conf"));
  const enter = ["--mount", "--propagation=private", "/bin/sh", "-c", ENTER, "sh"];
  const places = [stage.usr, path.dirname(stage.socket)];
  const runner: Runner = (file, args, options) =>
    runHere("unshare", [...enter, ...places, file, ...args], options);
  const podman = ["podman", "--root", at("storage"), "--runroot", "/run/leger-bench"];
  const env = {
    PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    HOME: stage.directory,
    CONTAINERS_CONF: at("containers.conf"),
  };
  const shell = (script: string, args: readonly string[], stdin = ""): Promise<string> => {
    const given = Object.entries(env).map(([name, value]) => `${name}=${value}`);
    const command = ["-i", ...given, "/bin/sh", "-c", script, "sh", ...args];
    return runner("env", command, { stdin, timeoutMs: SETUP_TIMEOUT_MS });
  };
  let version: string;
  try {
    version = (await shell('"$@"', ["podman", "--version"])).trim();
    await shell('"$@"', [...podman, "import", "--quiet", image, "localhost/bb:1"]);
    fs.mkdirSync(at("floor"), { mode: 0o700 });
    for (const way of ways) {
      for (const entry of entriesOf(way, { floor: at("floor"), socket: SYSTEM_SOCKET })) {
        const create = 'cat | "$@" -';
        const { options, name, payload } = entry;
        await shell(create, [...podman, "secret", "create", ...options, name], payload);
      }
    }
    await shell('"$@"', [
      ...podman,
      "run",
      "--rm",
      "--network=none",
      "--cgroups=disabled",
      "localhost/bb:1",
      "true",
    ]);
  } catch (error) {
    return { what, why: speak(error, "it").trim() };
  }
  // Awaited, or all this would go before it is used.
  return await use({ podman, version, env, runner });
}

const SYSTEM_SOCKET = "/run/leger/legerd.sock";

/** ENTER USR RUNTIME PROGRAM…: what is mounted here is gone with the namespace. */
const ENTER = `set -e
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 700 /run/leger
mount --bind "$2" /run/leger
for directory in bin libexec; do
  mount -t overlay overlay -o ro,lowerdir="$1/$directory:/usr/$directory" "/usr/$directory"
done
shift 2
exec "$@"`;
