/** drivers — the ways in which Podman can be given five secrets, each as five entries of its own, and containers that use them. */
import { randomBytes } from "node:crypto";
import { driverCommand } from "../../scripts/support/podman-driver.ts";
import type { Case } from "../support/measure.ts";

export const SECRETS = 5;

const VERBS = ["list", "lookup", "store", "delete"] as const;

/** `none` has no secrets, `file` is Podman's own driver, and `cat` the least that a shell driver can be. */
export const WAYS = ["none", "file", "cat", "curl", "leger", "leger on Node"] as const;
export type Way = (typeof WAYS)[number];

/** What the containers get: legerd has them as leger/local/key_0 and so on. */
export const VALUES = Array.from({ length: SECRETS }, () => `sk-proj-${randomBytes(24).toString("hex")}`);

export const secretName = (at: number): string => `key_${at}`;

type Places = {
  /** Where cat's entries lie, in the clear; made by whoever calls. */
  floor: string;
  socket: string;
};

/** Arguments of `podman secret create`, and what it is given on standard input. */
export function entriesOf(way: Way, places: Places): { options: string[]; name: string; payload: string }[] {
  if (way === "none") return [];
  const driver = way === "file" ? "file" : "shell";
  const commands = way === "file" ? undefined : commandsOf(way, places);
  const options = VERBS.flatMap((verb) =>
    commands === undefined ? [] : ["--driver-opts", `${verb}=${commands[verb]}`],
  );
  const isPlain = way === "file" || way === "cat";
  return VALUES.map((value, at) => ({
    options: ["--driver", driver, ...options],
    name: entryName(way, at),
    payload: isPlain ? value : `leger-ref:v1:leger/local/${secretName(at)}`,
  }));
}

/** A container that starts, shows two of its secrets and ends. */
export function containerCase(way: Way, podman: readonly string[], env: Record<string, string>): Case {
  const secrets = secretOptions(way).flatMap((option) => ["--secret", option]);
  const options = ["run", "--rm", "--network=none", "--cgroups=disabled", ...secrets];
  const show = ["sh", "-c", `echo $KEY_0 $KEY_${SECRETS - 1}`];
  return {
    name: way,
    argv: [...podman, ...options, "localhost/bb:1", ...show],
    env,
    prints: way === "none" ? "\n" : `${VALUES[0]} ${VALUES.at(-1)}\n`,
  };
}

/** As in `Secret=` and `--secret`. */
export function secretOptions(way: Way): string[] {
  return way === "none"
    ? []
    : VALUES.map((_, at) => `${entryName(way, at)},type=env,target=${secretName(at).toUpperCase()}`);
}

function entryName(way: Way, at: number): string {
  return `${way.replaceAll(" ", "-")}_${at}`;
}

function commandsOf(
  way: Exclude<Way, "none" | "file">,
  { floor, socket }: Places,
): Record<(typeof VERBS)[number], string> {
  const file = `${floor}/$SECRET_ID`;
  if (way === "cat") {
    const [lookup, store, remove] = [`cat ${file}`, `cat >${file}`, `exec rm -f ${file}`];
    return { list: `exec ls ${floor}`, lookup, store, delete: remove };
  }
  const leger = {
    list: driverCommand("list"),
    lookup: driverCommand("lookup"),
    store: driverCommand("store"),
    delete: driverCommand("delete"),
  };
  if (way === "leger") return leger;
  if (way === "leger on Node") {
    return { ...leger, lookup: leger.lookup.replace("/usr/bin/leger", "/usr/libexec/leger/leger") };
  }
  // As the nearest rival ships it. Only lookups are measured: the rest is leger's.
  const header = "leger-secret-id:$SECRET_ID";
  const lookup = `exec curl -sf --unix-socket ${socket} -X POST -H ${header} http://legerd/v1/podman/lookup`;
  return { ...leger, lookup };
}
