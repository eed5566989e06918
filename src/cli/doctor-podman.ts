/** doctor-podman — what this Podman can do, which driver its new secrets get, and whether legerd backs its entries. */
import { accessSync, constants } from "node:fs";
import { systemCode } from "../core/error.ts";
import {
  LAST_KNOWN_RELEASE,
  parsePodmanRelease,
  podmanHas,
  podmanSince,
  TYPICAL_RELEASE,
  type PodmanFeature,
} from "../core/podman-release.ts";
import { faultsOf, readSecretsConf, settingOf, type SecretsConf } from "./containers-conf.ts";
import { connect, type DaemonStatus, type PodmanLink } from "./daemon.ts";
import { driverCommands, legerIn, type DriverCommands } from "./driver-commands.ts";
import { note, ok, outcomeOf, warning, wrong, type Finding, type Outcome } from "./finding.ts";
import type { Cli } from "./parsing.ts";
import type { Podman, PodmanEntry } from "./podman-entries.ts";
import { podmanWasUsed, type PodmanArgs } from "./podman-options.ts";
import { planEntries, type State } from "./podman-plan.ts";
import { count } from "./terminal.ts";
import type { CliWorld } from "./world.ts";

/** In words, for those that a person may miss. */
const FEATURES: readonly (readonly [PodmanFeature, string])[] = [
  ["quadlets", "quadlets"],
  ["quadletSecrets", "Secret= in quadlets"],
  ["longNames", "names of more than 64 characters"],
  ["anyNames", "names with any character"],
  ["showSecret", "podman secret inspect --showsecret"],
  ["quadletDropIns", "drop-ins for quadlets"],
  ["maskedValues", "values hidden in podman inspect"],
  ["anyStdin", "podman secret create NAME - from any pipe"],
  ["apiOptions", "secrets of other drivers by its API"],
];

export function checkPodman(version: Outcome<string>): Finding {
  if ("failure" in version) {
    const { message, hints, cause } = version.failure;
    if (systemCode(cause) !== "ENOENT") return wrong(message, hints);
    return warning(message, ["install podman 4.5 or newer; without it, only leger secrets fetch is of use"]);
  }
  const release = parsePodmanRelease(version.value);
  if (release === undefined) return note(`${version.value}, which leger cannot make out`);
  const features = Object.fromEntries(FEATURES.map(([feature]) => [feature, podmanHas(feature, release)]));
  const facts = { version: version.value, features };
  const lacking = FEATURES.filter(([feature]) => !podmanHas(feature, release));
  const list = lacking.map(([feature, words]) => `${words} (${podmanSince(feature)})`).join(", ");
  const text = list === "" ? version.value : `${version.value}; later came ${list}`;

  if (!podmanHas("labels", release)) {
    return wrong(text, [`leger podman sync needs podman ${podmanSince("labels")}`], facts);
  }
  const hints = [
    ...(podmanHas("quadletSecrets", release)
      ? []
      : ["write units that call podman run --secret, or take podman 4.5 or newer"]),
    ...(podmanHas("maskedValues", release)
      ? []
      : ["podman inspect shows the values of type=env secrets: show it to nobody, or use type=mount"]),
  ];
  if (hints.length > 0) return warning(text, hints, facts);
  const [major, minor] = release;
  const [lastMajor, lastMinor] = LAST_KNOWN_RELEASE;
  if (major > lastMajor || (major === lastMajor && minor > lastMinor)) {
    return { ...note(`${text}: newer than what this leger knows (${lastMajor}.${lastMinor})`), facts };
  }
  return ok(text, facts);
}

/** The driver of new secrets. Those that there are keep theirs. */
export function checkDriver({ world, version }: { world: CliWorld; version: Outcome<string> }): Finding {
  const release = "value" in version ? parsePodmanRelease(version.value) : undefined;
  const conf = readSecretsConf(world, release ?? TYPICAL_RELEASE);
  const driver = settingOf(conf, "driver");
  const facts = {
    driver: typeof driver?.value === "string" ? driver.value : "file",
    set_by: driver?.file ?? null,
  };
  const dropIn = conf.settings.findLast(
    ({ key, value }) => key === "opts.lookup" && typeof value === "string" && legerIn(value) !== undefined,
  )?.file;
  if (dropIn === undefined) {
    const [fault] = conf.unusable;
    if (fault !== undefined) return wrong(`${fault.file}: ${fault.what}`, [fault.remedy], facts);
    return note(
      `new secrets go to podman's driver "${facts.driver}"; leger podman sync needs no other`,
      "for leger to get them all: leger podman install",
    );
  }
  const commands = commandsIn(conf, dropIn);
  const [fault, ...others] = faultsOf(conf, { dropIn, commands });
  if (fault !== undefined) {
    const more = others.map(({ file, what, remedy }) => `${file}: ${what}: ${remedy}`);
    return wrong(
      `leger should be the driver, but ${fault.file}: ${fault.what}`,
      [fault.remedy, ...more],
      facts,
    );
  }
  const program = legerIn(commands.lookup) ?? "";
  if (!isProgram(program)) {
    return wrong(
      `new secrets go to ${program}, and there is no such program`,
      ["install leger there, or: leger podman install --leger PATH"],
      facts,
    );
  }
  const now = driverCommands(program);
  if (Object.entries(now).some(([key, command]) => settingOf(conf, `opts.${key}`)?.value !== command)) {
    return warning(`${dropIn} is from another version of leger`, ["leger podman install"], facts);
  }
  return ok(`leger, for all new secrets, by ${dropIn}`, facts);
}

/** Those that a file sets; what it leaves out is empty, and so none of leger's. */
function commandsIn({ settings }: SecretsConf, file: string): DriverCommands {
  const command = (key: string): string => {
    const value = settings.find((setting) => setting.file === file && setting.key === `opts.${key}`)?.value;
    return typeof value === "string" ? value : "";
  };
  return {
    list: command("list"),
    lookup: command("lookup"),
    store: command("store"),
    delete: command("delete"),
  };
}

type Entries = {
  cli: Cli;
  podman: Podman;
  version: Outcome<string>;
  daemon: Outcome<DaemonStatus>;
  args: PodmanArgs;
  /** For one request to legerd. */
  timeoutMs: number;
};

/** Entries that no secret stands behind, that legerd doesn't know, or whose frozen commands are out of date. */
export async function checkEntries({
  cli,
  podman,
  version,
  daemon,
  args,
  timeoutMs,
}: Entries): Promise<Finding> {
  if ("failure" in version) return note("podman cannot be asked");
  if (!podmanWasUsed(cli.world, args)) return note("podman has kept nothing here yet");
  const asked = await outcomeOf(podman.entries());
  if ("failure" in asked) {
    return wrong(asked.failure.message, [
      "is another podman at work, or does its driver hang? podman waits for its store's lock",
      ...asked.failure.hints,
    ]);
  }
  const entries = asked.value;
  const asking = entries.filter(
    ({ driver, options }) => driver === "shell" && programOf(options) !== undefined,
  );
  const gone = asking.filter(({ options }) => !isProgram(programOf(options) ?? ""));
  if (gone.length > 0) {
    const program = programOf(gone[0]?.options ?? {}) ?? "";
    return wrong(
      `${names(gone)}: podman asks ${program} for ${gone.length === 1 ? "it" : "them"}, which isn't there`,
      ["install leger there, or make them anew: leger podman sync"],
    );
  }
  if ("failure" in daemon) {
    if (asking.length === 0) return note("no secret of podman's asks leger");
    return note(`${count(asking.length, "secret")} of podman's ask leger; whether it has them is not known`);
  }
  await using legerd = connect(cli.world, cli.settings, { timeoutMs });
  const secrets = (await legerd.secrets.list()).map(({ Name }) => Name);
  const links = await legerd.podmanLinks();
  const { entries: planned, problems } = planEntries({
    namespace: cli.settings.namespace,
    secrets,
    entries,
    links,
    commands: driverCommands(args.leger),
    podmanVersion: version.value,
    map: new Map(),
  });
  const inState = (...states: State[]): { name: string }[] =>
    planned.filter(({ state }) => states.includes(state));
  const unbacked = unbackedOf(asking, { links, secrets, known: new Set(planned.map(({ name }) => name)) });
  const lost = lostOf(planned, { links, entries });
  const facts = {
    entries: asking.length,
    ...Object.fromEntries(
      Object.entries({
        orphan: inState("orphan"),
        unlinked: inState("unlinked"),
        stale: inState("stale"),
        unbacked,
        lost,
      }).map(([state, found]) => [state, found.map(({ name }) => name)]),
    ),
  };

  const broken = [
    told(inState("orphan"), "its secret is gone", "their secrets are gone"),
    told(
      inState("unlinked"),
      "legerd doesn't know it as podman does",
      "legerd doesn't know them as podman does",
    ),
    told(unbacked, "legerd has nothing for it", "legerd has nothing for them"),
  ].filter((text) => text !== undefined);
  const odd = [
    told(lost, "podman has lost its entry", "podman has lost their entries"),
    told(inState("stale"), "made with other commands than leger's", "made with other commands than leger's"),
    problems.length === 0 ? undefined : `${count(problems.length, "secret")} cannot have an entry`,
  ].filter((text) => text !== undefined);
  const hints = [
    ...(inState("unlinked", "stale").length + lost.length > 0 ? ["leger podman sync"] : []),
    ...(inState("orphan").length > 0 ? ["store them again, or: leger podman sync --prune"] : []),
    ...(unbacked.length > 0
      ? [`make such a one anew: podman secret rm NAME; podman secret create NAME FILE`]
      : []),
    ...(problems.length > 0 ? ["see why: leger podman status"] : []),
  ];
  if (broken.length > 0) return wrong([...broken, ...odd].join("; "), hints, facts);
  if (odd.length > 0) return warning(odd.join("; "), hints, facts);
  const missing = inState("missing").length;
  const text =
    asking.length === 0
      ? "no secret of podman's asks leger"
      : `${count(asking.length, "secret")} of podman's ${asking.length === 1 ? "asks" : "ask"} leger, all known to legerd`;
  if (missing === 0) return ok(text, facts);
  return {
    ...note(
      `${text}; ${missing} of legerd's ${missing === 1 ? "has" : "have"} no entry`,
      "leger podman sync",
    ),
    facts,
  };
}

/** Entries with leger's commands that sync didn't make. */
function unbackedOf(
  asking: readonly PodmanEntry[],
  {
    links,
    secrets,
    known,
  }: { links: readonly PodmanLink[]; secrets: readonly string[]; known: ReadonlySet<string> },
): PodmanEntry[] {
  const byId = new Map(links.map((link) => [link.id, link]));
  const there = new Set(secrets);
  return asking.filter(({ id, name }) => {
    if (known.has(name)) return false;
    const link = byId.get(id);
    return link === undefined || (link.secret !== undefined && !there.has(link.secret));
  });
}

/** Secrets without an entry for which legerd remembers one. Podman itself can lose entries (podman#27130). */
function lostOf(
  planned: readonly { name: string; secret: string; state: State }[],
  { links, entries }: { links: readonly PodmanLink[]; entries: readonly PodmanEntry[] },
): { name: string }[] {
  const ids = new Set(entries.map(({ id }) => id));
  const remembered = new Set(links.filter(({ id }) => !ids.has(id)).map(({ secret }) => secret));
  return planned.filter(({ secret, state }) => state === "missing" && remembered.has(secret));
}

function told(found: readonly { name: string }[], one: string, many: string): string | undefined {
  if (found.length === 0) return undefined;
  return `${names(found)}: ${found.length === 1 ? one : many}`;
}

/** The first five. */
function names(found: readonly { name: string }[]): string {
  const first = found.slice(0, 5).map(({ name }) => name);
  return first.join(", ") + (found.length > 5 ? ` and ${found.length - 5} more` : "");
}

function programOf(options: Readonly<Record<string, string>>): string | undefined {
  return legerIn(options["lookup"] ?? "");
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
