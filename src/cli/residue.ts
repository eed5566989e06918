/** residue — the command that looks for secrets in the clear, wherever they come to lie, and prints none. */
import { lstatSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Argv } from "yargs";
import { z } from "zod";
import { LegerError, systemCode } from "../core/error.ts";
import { runtimePlaces } from "../core/paths.ts";
import { factsOf } from "../residue/processes.ts";
import { Residue, weigh, type Finding, type Known, type Report, type Trace } from "../residue/residue.ts";
import { MIN_VALUE_BYTES, type Form } from "../residue/forms.ts";
import type { Heading } from "./commands.ts";
import type { Daemon } from "./daemon.ts";
import { checkSwap } from "./doctor-machine.ts";
import { shortName } from "./names.ts";
import type { Cli, Parsing } from "./parsing.ts";
import { meaningOf, usualRoots, type Meaning } from "./residue-places.ts";
import type { SettingsFlags } from "./settings.ts";
import { count } from "./terminal.ts";
import { systemPath, type CliWorld } from "./world.ts";

export function addResidue(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(
    usage,
    about,
    (command) =>
      parsing
        .describe(command, {
          words: "residue",
          examples: [
            ["leger residue", "podman's storage, the journal, units, processes, histories …"],
            ["leger residue stacks /srv/backup", "and in there"],
            ["leger residue --only stacks", "in there only"],
            ["leger residue --disk-only", "leave out what lies in memory"],
            ["podman unshare leger residue", "also what containers' own users have"],
          ],
          notes: [
            "It asks legerd for every value, which the audit log notes, and looks for each as it is\n" +
              "and as base64, base64url, hex, URL-encoded, JSON-escaped and quoted. It says where which\n" +
              "secret lies and what to do, and never prints one.",
            `Values of under ${MIN_VALUE_BYTES} bytes are left out, by name.`,
            "Exit status 2 when something was found, 1 when nothing was and not all could be looked at.",
            "More: docs/residue.md",
          ],
        })
        .positional("paths", { type: "string", array: true, describe: "more files and directories" })
        .option("only", { type: "boolean", describe: "look nowhere but in these paths" })
        .option("disk-only", { type: "boolean", describe: "leave out memory: tmpfs and processes" })
        .option("active", { type: "boolean", describe: "active versions only, not every one legerd has" })
        .option("json", { type: "boolean", describe: "report as JSON on standard output" }),
    (args) => parsing.chooseWithDaemon((cli, daemon) => residue(cli, daemon, args), { manyRequests: true }),
  );
}

type Args = {
  paths?: string[] | undefined;
  only?: boolean | undefined;
  diskOnly?: boolean | undefined;
  active?: boolean | undefined;
  json?: boolean | undefined;
};

async function residue(cli: Cli, daemon: Daemon, args: Args): Promise<number> {
  const { world, terminal } = cli;
  const paths = givenPaths(world, args);
  const roots = [...(args.only === true ? [] : usualRoots(world)), ...paths];
  const { known, denied } = await knownValues(daemon, { activeOnly: args.active === true });
  const search = new Residue(known);
  const proc = args.only === true ? undefined : systemPath(world, "/proc");
  const report = await search.search({
    roots,
    proc,
    euid: world.euid,
    diskOnly: args.diskOnly === true,
    onProgress: world.isTTY.stderr ? progress(cli, roots) : undefined,
  });
  terminal.progress(undefined);

  const outcome = { report, known, denied, tooShort: search.tooShort };
  if (args.json === true) await terminal.json(documentOf(cli, outcome, args));
  else await tell(cli, outcome, args);
  if (report.findings.length > 0) return new LegerError("DIFFERENT", "").exitStatus;
  return report.unreadable.length + denied.length > 0 ? new LegerError("FAILED", "").exitStatus : 0;
}

/** Absolute. USAGE: --only without any. IO: one that isn't there, which is more likely mistyped than clean. */
function givenPaths(world: CliWorld, { paths = [], only }: Args): string[] {
  if (only === true && paths.length === 0) throw new LegerError("USAGE", "--only needs a path");
  return paths.map((given) => {
    const path = resolve(world.cwd, given);
    try {
      lstatSync(path);
    } catch (error) {
      throw new LegerError("IO", `cannot look into ${path} (${systemCode(error) ?? "unknown error"})`);
    }
    return path;
  });
}

type Named = { secret: string; version: number | undefined };
type Values = { known: Known[]; denied: Named[] };

/** Requests to legerd at a time. */
const AT_ONCE = 8;

/** Every value that this door gives, and those that it doesn't. */
async function knownValues(daemon: Daemon, { activeOnly }: { activeOnly: boolean }): Promise<Values> {
  const wanted = (await daemon.secrets.list()).flatMap(({ Name, ActiveVersion, Versions }) =>
    (activeOnly ? [ActiveVersion] : Versions).map((version) => ({
      secret: Name,
      version,
      get: async () => (await daemon.secrets.getVersion(Name, version)).value,
    })),
  );
  const kept = ((await unlessDenied(daemon.podmanLinks())) ?? [])
    .filter(({ secret }) => secret === undefined)
    .map(({ id }) => ({
      secret: `podman's entry ${id}`,
      version: undefined,
      get: () => daemon.podmanValue(id),
    }));
  const waiting = [...wanted, ...kept].toReversed();
  const values: Values = { known: [], denied: [] };
  const work = async (): Promise<void> => {
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      const { secret, version, get } = next;
      try {
        values.known.push({ secret, version, value: await get() });
      } catch (error) {
        if (!(error instanceof LegerError)) throw error;
        if (error.code === "DENIED") values.denied.push({ secret, version });
        // Deleted meanwhile, or not.
        else if (error.code !== "SECRET_NOT_FOUND" && error.code !== "VERSION_NOT_FOUND") throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return values;
}

async function unlessDenied<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof LegerError && error.code === "DENIED") return undefined;
    throw error;
  }
}

const DRAW_EVERY_MS = 100;
const BAR_CELLS = 24;
const MIB = 1024 * 1024;

/** A bar, how much of how much, how fast, and where. */
function progress({ terminal }: Cli, roots: readonly string[]): (bytes: number, path: string) => void {
  terminal.progress("looking how much there is …");
  const all = weigh(roots);
  const began = performance.now();
  let done = 0;
  let drawn = 0;
  return (bytes, path) => {
    done += bytes;
    const now = performance.now();
    if (now - drawn < DRAW_EVERY_MS) return;
    drawn = now;
    // Files grow.
    const part = all === 0 ? 1 : Math.min(1, done / all);
    const cells = Math.round(part * BAR_CELLS);
    const bar = `${"#".repeat(cells)}${".".repeat(BAR_CELLS - cells)}`;
    const speed = done / MIB / Math.max(0.001, (now - began) / 1_000);
    const amount = `${Math.round(done / MIB)} of ${Math.round(all / MIB)} MiB, ${Math.round(speed)} MiB/s`;
    terminal.progress(`[${bar}] ${Math.floor(part * 100)} % ${amount}  ${path}`);
  };
}

type Outcome = {
  report: Report;
  known: readonly Known[];
  denied: readonly Named[];
  tooShort: readonly Named[];
};

/** More lines than that are no help; --json has them all. */
const MOST_PLACES = 100;
const MOST_UNREADABLE = 10;

async function tell(cli: Cli, { report, known, denied, tooShort }: Outcome, args: Args): Promise<void> {
  const { terminal, world, settings } = cli;
  const { findings, unreadable, leftOut, files, bytes } = report;
  const containerOf = containerNames(world);
  const label = ({ secret, version }: Named): string =>
    `${shortName(secret, settings.namespace)}${version === undefined ? "" : ` version ${version}`}`;
  for (const finding of findings.slice(0, MOST_PLACES)) {
    const { what, hints } = meaningOf(finding, containerOf);
    await terminal.line(finding.path);
    await terminal.line(`    ${[what, ...circumstances(world, finding)].join(", ")}`);
    for (const trace of finding.traces) await terminal.line(`    ${label(trace)}: ${wordsOf(trace)}`);
    for (const hint of hints) await terminal.line(`    -> ${hint}`);
  }
  if (findings.length > MOST_PLACES) {
    terminal.say(`and ${findings.length - MOST_PLACES} more places; --json lists them all`);
  }
  for (const named of tooShort) {
    terminal.warn(
      `${label(named)} was not looked for: under ${MIN_VALUE_BYTES} bytes it would be found everywhere`,
    );
  }
  for (const named of denied) terminal.warn(`${label(named)} was not looked for: this door doesn't give it`);
  for (const { path, why } of leftOut) terminal.say(`left out: ${path}: ${why}`);
  for (const { path, code } of unreadable.slice(0, MOST_UNREADABLE)) {
    terminal.warn(`could not be looked into: ${path} (${code})`);
  }
  if (unreadable.length > MOST_UNREADABLE) {
    terminal.warn(`and ${unreadable.length - MOST_UNREADABLE} more could not; --json lists them all`);
  }
  if (unreadable.length > 0) for (const hint of howToLook(world, report)) terminal.say(hint);
  if (args.only !== true) tellSwap(cli);
  const searched = `${count(known.length - tooShort.length, "value")} in ${count(files, "file")}, ${Math.ceil(bytes / MIB)} MiB`;
  if (findings.length > 0) terminal.say(`${searched}: found in ${count(findings.length, "place")}`);
  else if (known.length === tooShort.length) terminal.say("no values to look for");
  else if (unreadable.length + denied.length > 0)
    terminal.say(`${searched}: found none, but not all could be looked at`);
  else terminal.say(`${searched}: found none`);
}

/** It is not searched: what it holds can be anything's, and is no file's. */
function tellSwap({ world, terminal }: Cli): void {
  const { level, text, hints } = checkSwap(world);
  if (level === "warning") terminal.warn(`swap: ${text}`, ...hints);
  else terminal.say(`swap: ${text}`);
}

function howToLook(world: CliWorld, { unreadable }: Report): string[] {
  const isUser = runtimePlaces(world).account.kind === "user";
  const inStorage = unreadable.some(({ path }) => path.includes("/containers/"));
  return [
    ...(isUser && world.euid !== 0 && inStorage
      ? ["to see what containers' own users have: podman unshare leger residue"]
      : []),
    ...(isUser ? ["the system's own logs and units are for root to look at"] : []),
  ];
}

function circumstances(world: CliWorld, { isInMemory, changedAt, process }: Finding): string[] {
  if (process !== undefined) {
    const facts = factsOf(systemPath(world, "/proc"), process.pid);
    return facts === undefined
      ? [`process ${process.pid}, ended meanwhile`]
      : [
          `process ${process.pid}, ${facts.name}`,
          ...(facts.startedAt === undefined ? [] : [`since ${timeOf(facts.startedAt)}`]),
        ];
  }
  return [
    isInMemory ? "in memory" : "on disk",
    ...(changedAt === undefined ? [] : [`last changed ${timeOf(changedAt)}`]),
  ];
}

function timeOf(date: Date): string {
  return `${date.toISOString().slice(0, 19)}Z`;
}

const FORM_WORDS: Record<Form, string> = {
  raw: "as it is",
  base64: "as base64",
  base64url: "as base64url",
  hex: "as hex",
  url: "URL-encoded",
  json: "JSON-escaped",
  quoted: "quoted",
};

function wordsOf({ form, within, offset, times }: Trace): string {
  const often = times === 1 ? "" : `, ${times} times`;
  if (within === "name") return `${FORM_WORDS[form]}, in its name`;
  if (within === "database row") return `${FORM_WORDS[form]}, in the row that begins at byte ${offset}`;
  if (within === "compressed field")
    return `${FORM_WORDS[form]}, in the compressed field at byte ${offset}${often}`;
  return `${FORM_WORDS[form]}, at byte ${offset}${often}`;
}

function documentOf(cli: Cli, outcome: Outcome, args: Args): Record<string, unknown> {
  const { report, known, denied, tooShort } = outcome;
  const { world } = cli;
  const containerOf = containerNames(world);
  const { level, text, hints, facts } = checkSwap(world);
  return {
    clean: report.findings.length === 0,
    complete: report.unreadable.length + denied.length === 0,
    searched: { values: known.length - tooShort.length, files: report.files, bytes: report.bytes },
    findings: report.findings.map((finding) => {
      const meaning: Meaning = meaningOf(finding, containerOf);
      const process = finding.process;
      return {
        path: finding.path,
        on: finding.isInMemory ? "memory" : "disk",
        what: meaning.what,
        since: sinceOf(world, finding),
        mode: finding.mode === undefined ? null : finding.mode.toString(8).padStart(4, "0"),
        ...(process === undefined ? {} : { pid: process.pid }),
        traces: finding.traces.map((trace) => ({
          ...inJson(trace),
          form: trace.form,
          within: trace.within,
          offset: trace.offset,
          times: trace.times,
        })),
        hints: meaning.hints,
      };
    }),
    unreadable: report.unreadable,
    left_out: report.leftOut,
    denied: denied.map(inJson),
    too_short: tooShort.map(inJson),
    ...(args.only === true ? {} : { swap: { level, text, hints, ...facts } }),
  };
}

/** As in JSON. */
function inJson({ secret, version = null }: { secret: string; version?: number | null | undefined }) {
  return { secret, version };
}

/** Of a file when it was last changed, of a process when it was started; null where nobody knows. */
function sinceOf(world: CliWorld, { changedAt, process }: Finding): string | null {
  const since =
    process === undefined ? changedAt : factsOf(systemPath(world, "/proc"), process.pid)?.startedAt;
  return since?.toISOString() ?? null;
}

const Containers = z.array(z.object({ id: z.string(), names: z.array(z.string()).nullish() }));

/** Names of Podman's containers, each storage read once. */
function containerNames(world: CliWorld): (storage: string, id: string) => string | undefined {
  const { account, runtimeDir } = runtimePlaces(world);
  const running =
    account.kind === "user" ? join(runtimeDir, "containers") : systemPath(world, "/run/containers/storage");
  const known = new Map<string, ReadonlyMap<string, string>>();
  return (storage, id) => {
    // Containers that go when they end (--rm, every quadlet's) stand in a list of their own: in memory for a transient store.
    const lists = [
      join(storage, "containers.json"),
      join(storage, "volatile-containers.json"),
      join(running, "overlay-containers/volatile-containers.json"),
    ];
    const names = known.get(storage) ?? new Map(lists.flatMap((list) => namesIn(list)));
    known.set(storage, names);
    return names.get(id);
  };
}

function namesIn(list: string): (readonly [id: string, name: string])[] {
  try {
    const parsed = Containers.safeParse(JSON.parse(readFileSync(list, "utf8")));
    return parsed.data?.map(({ id, names }) => [id, names?.[0] ?? id.slice(0, 12)] as const) ?? [];
  } catch {
    return [];
  }
}
