/** render — the commands that switch quadlets between ways of injection; here files meet Podman and legerd. */
import { existsSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { Argv } from "yargs";
import { LegerError } from "../core/error.ts";
import { runtimePlaces } from "../core/paths.ts";
import { unifiedDiff } from "../render/diff.ts";
import { isWholeUnit, recognise, wholeUnit } from "../render/dropin.ts";
import { withoutKeys } from "../render/key-looks.ts";
import { lint, type Finding } from "../render/lint.ts";
import { factsOf, MODE_NAMES, MODES, type Mode } from "../render/modes.ts";
import {
  imageNeeded,
  planDropin,
  understand,
  type Chosen,
  type ImageFacts,
  type Plan,
  type Reading,
  type Registration,
  type RenderFacts,
} from "../render/plan.ts";
import { carryOut, changeFor, RefusedChange, type Change } from "../render/place.ts";
import { isAtLeast, parsePodmanVersion, SINCE, type PodmanVersion } from "../render/podman-versions.ts";
import {
  findQuadlets,
  OWN_DROPIN,
  readUnit,
  searchPath,
  SourceReader,
  templateOf,
  withSubdirectories,
} from "../render/source.ts";
import { parseUnitFile, shown } from "../render/unit-file.ts";
import { quoteWord } from "../render/words.ts";
import type { Heading } from "./commands.ts";
import { connect, type Daemon } from "./daemon.ts";
import { CLEARED, INSTALLED_LEGER } from "./driver-commands.ts";
import { PodmanFacts } from "./images.ts";
import { fullName } from "./names.ts";
import type { Cli, Parsing } from "./parsing.ts";
import { parseMap } from "./podman.ts";
import { placesOf } from "./quadlet-places.ts";
import {
  chooseModes,
  declaredSecrets,
  lintDeclarations,
  readLegerJson,
  readTemplateConfig,
  type LegerJson,
} from "./render-config.ts";
import type { SettingsFlags } from "./settings.ts";
import { count } from "./terminal.ts";
import type { CliWorld } from "./world.ts";

export function addRender(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(
    usage,
    about,
    (command) =>
      parsing
        .describe(withoutGuesses(command), {
          words: "render",
          examples: [
            [
              "leger render litellm --mode mount",
              "~/.config/containers/systemd/litellm.container: tmpfs only",
            ],
            ["leger render litellm --mode mount --register", "and tell legerd what litellm gets"],
            ["leger render ./quadlets --mode env-file --diff --dry-run", "see what would be written"],
            ["leger render", "all of your quadlets, in the modes that they or leger.json say"],
            ["leger render --check", "exit status 2 if something would change"],
            [
              "leger render src --mode env-file --podman-version 4.9 --out units",
              "for a podman without drop-ins",
            ],
          ],
          notes: [
            "It writes NAME.container.d/50-leger.conf beside a quadlet, and nothing else. --mode driver takes it away.",
            "A mode is what --mode says, else leger.json, else Mode= below [X-Leger] in the quadlet; else it stays.",
            "Afterwards: systemctl --user daemon-reload, and restart the service.",
          ],
        })
        .positional("quadlets", {
          type: "string",
          array: true,
          default: [],
          describe: "names, files or directories; none: all of yours",
        })
        .option("mode", MODE_OPTION)
        .option("config", CONFIG_OPTION)
        .option("diff", { type: "boolean", global: false, describe: "show what changes, as a diff" })
        .option("dry-run", { type: "boolean", global: false, describe: "change nothing" })
        .option("check", {
          type: "boolean",
          global: false,
          describe: "change nothing; exit status 2 if something would change",
        })
        .option("force", {
          type: "boolean",
          global: false,
          describe: "also where a file was edited by hand",
        })
        .option("register", {
          type: "boolean",
          global: false,
          describe: "tell legerd, too, what services get",
        })
        .option("map", {
          type: "string",
          array: true,
          requiresArg: true,
          global: false,
          describe: "NAME=SECRET: what --register takes a quadlet's NAME for; repeat it for more",
        })
        .option("out", {
          type: "string",
          requiresArg: true,
          global: false,
          describe: "write whole quadlets here: podman 4.4 to 4.9 has no drop-ins",
        })
        .option("template", {
          type: "string",
          requiresArg: true,
          global: false,
          describe: "make a quadlet of FILE.container.njk and the keys of --config",
        })
        .option("podman", PODMAN_OPTION)
        .option("podman-version", VERSION_OPTION)
        .option("json", JSON_OPTION)
        .command(
          "explain <quadlet>",
          "say what the modes mean for a quadlet's secrets",
          (below) =>
            parsing
              .describe(below, {
                words: "render explain",
                examples: [
                  ["leger render explain litellm", "as it is now"],
                  ["leger render explain litellm --mode mount", "as it would be"],
                ],
              })
              .positional("quadlet", {
                type: "string",
                demandOption: true,
                describe: "its name, or its file",
              })
              .option("mode", MODE_OPTION)
              .option("config", CONFIG_OPTION)
              .option("podman", PODMAN_OPTION)
              .option("podman-version", VERSION_OPTION)
              .option("json", JSON_OPTION),
          (args) => parsing.choose((cli) => explain(cli, args)),
        )
        .command(
          "lint [quadlets..]",
          "look for what is wrong in quadlets",
          (below) =>
            parsing
              .describe(below, {
                words: "render lint",
                examples: [
                  ["leger render lint", "all of yours"],
                  ["leger render lint ./quadlets --podman-version 5.4 --json", "for programs"],
                ],
                notes: [
                  "Keys that were pasted into a quadlet are found by their look; none is ever printed.",
                  "Where leger.json declares secrets, every Secret= has to name one of them.",
                  "Exit status 2 when something was found.",
                ],
              })
              .positional("quadlets", {
                type: "string",
                array: true,
                default: [],
                describe: "names, files or directories; none: all of yours",
              })
              .option("config", CONFIG_OPTION)
              .option("podman-version", {
                type: "string",
                requiresArg: true,
                global: false,
                describe: "of the podman that is to read it; none: any",
              })
              .option("json", JSON_OPTION),
          (args) => parsing.choose((cli) => lintAll(cli, args)),
        ),
    (args) => parsing.choose((cli) => render(cli, args)),
  );
}

export function addModes(
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
          words: "modes",
          examples: [["leger modes", "a table to choose from"]],
          notes: ["docs/modes.md says more."],
        })
        .option("json", JSON_OPTION),
    (args) => parsing.choose((cli) => modes(cli, args)),
  );
}

/** A quadlet may be called nearly as a command below, `mint` or `lint@`: that is no slip of the pen. */
function withoutGuesses<T>(command: Argv<T>): Argv<T> {
  // yargs takes the argument; its types don't know.
  const guessing: { recommendCommands(on: boolean): unknown } = command;
  guessing.recommendCommands(false);
  return command;
}

const JSON_OPTION = {
  type: "boolean",
  global: false,
  describe: "report as JSON on standard output",
} as const;
const MODE_OPTION = {
  type: "string",
  choices: MODE_NAMES,
  requiresArg: true,
  global: false,
  describe: "for all that is rendered; see: leger modes",
} as const;
const CONFIG_OPTION = {
  type: "string",
  requiresArg: true,
  global: false,
  describe: "in place of the leger.json beside the quadlets",
} as const;
const PODMAN_OPTION = {
  type: "string",
  requiresArg: true,
  default: "podman",
  global: false,
  describe: "the program to ask",
} as const;
const VERSION_OPTION = {
  type: "string",
  requiresArg: true,
  global: false,
  describe: "of the podman that is to read it, in place of asking",
} as const;

type ChoiceArgs = {
  mode?: Mode | undefined;
  config?: string | undefined;
  podman: string;
  podmanVersion?: string | undefined;
  json?: boolean | undefined;
};

type RenderArgs = ChoiceArgs & {
  quadlets: string[];
  diff?: boolean | undefined;
  dryRun?: boolean | undefined;
  check?: boolean | undefined;
  force?: boolean | undefined;
  register?: boolean | undefined;
  map?: string[] | undefined;
  out?: string | undefined;
  template?: string | undefined;
};

/** A quadlet with its modes chosen and planned. */
type Work = { reading: Reading; chosen: Chosen; plan: Plan };

/** What is to be done for it, once nothing speaks against it. */
type Job = Work & { change: Change };

async function render(cli: Cli, args: RenderArgs): Promise<number> {
  const { world, terminal, settings } = cli;
  if (args.template !== undefined) return renderOne(cli, args.template, args);
  const map = parseMap(args.map ?? [], settings.namespace);
  const targets = targetsOf(world, args.quadlets);
  const version = await versionOf(world, args);
  const out = args.out === undefined ? undefined : resolve(world.cwd, args.out);
  assertDropinsWork(version, out);
  const failures: LegerError[] = [];
  const work = await planAll(cli, args, { targets, version, isWhole: out !== undefined, failures });
  const company = companyOf(work);
  const jobs = work.flatMap((item) => {
    try {
      return [
        { ...item, change: out === undefined ? dropinOf(item, company, args) : wholeOf(item, out, args) },
      ];
    } catch (error) {
      if (!(error instanceof LegerError)) throw error;
      failures.push(error);
      return [];
    }
  });

  const isDry = args.dryRun === true || args.check === true;
  const registrations = jobs.flatMap(({ plan }) => plan.registrations);
  if (args.register === true && !isDry) await register(cli, registrations, map);
  const failed = isDry
    ? new Map<Change, LegerError>()
    : await carryOut(
        jobs.map(({ change }) => change),
        world.env,
      );
  failures.push(...failed.values());
  const done = jobs.filter(({ change }) => !failed.has(change));
  const changed = done.filter(({ change }) => change.kind !== "unchanged");
  if (args.json === true) await reportJson(cli, done, { isDry, failures, map });
  else await report(cli, changed, { args, failures });
  if (args.register !== true) sayWhatToRegister(cli, isDry ? [] : changed);
  if (out !== undefined) sayWhatIsLeft(cli, work);
  for (const failure of failures) terminal.fail(failure);
  const [first] = failures;
  if (first !== undefined) return first.exitStatus;
  const verb = isDry ? "to change" : "changed";
  terminal.say(`${count(done.length, "quadlet")}, ${changed.length} ${verb}`);
  return args.check === true && changed.length > 0 ? new LegerError("DIFFERENT", "").exitStatus : 0;
}

/** To standard output, or into the directory of --out under its own name. */
async function renderOne({ world, terminal }: Cli, template: string, args: RenderArgs): Promise<number> {
  const file = resolve(world.cwd, template);
  const name = basename(file).replace(/\.(?:njk|j2)$/, "");
  if (args.quadlets.length > 0) {
    throw new LegerError("USAGE", "--template goes without the names of quadlets");
  }
  const config = args.config === undefined ? {} : readTemplateConfig(resolve(world.cwd, args.config));
  // Only who renders a template waits for nunjucks to be loaded.
  const { renderTemplate } = await import("../render/template.ts");
  const text = Buffer.from(renderTemplate(file, { config, secrets: declaredSecrets(config) }));
  const fault = parseUnitFile(name, text).items.find(({ kind }) => kind === "fault");
  if (fault !== undefined) {
    throw new LegerError("BAD_DATA", `${file}: line ${fault.line} of what it makes: ${fault.value}`, {
      hints: ["see it with: --template … without --out"],
    });
  }
  if (args.out === undefined) {
    await terminal.write(text);
    return 0;
  }
  const target = join(resolve(world.cwd, args.out), name);
  const before = existsSync(target) ? readUnit(target) : undefined;
  const kind = before === undefined ? "created" : before.equals(text) ? "unchanged" : "changed";
  const change: Change = { file: target, kind, before, after: text, withDirectory: false };
  if (kind !== "unchanged" && args.diff === true) await terminal.write(diffOf(change));
  if (args.dryRun !== true && args.check !== true) {
    if (kind === "changed" && args.force !== true) {
      if (args.diff !== true) await terminal.write(diffOf(change));
      throw new LegerError("REFUSED", `${target} is there, and is not what the template makes`, {
        hints: ["to have it replaced: --force"],
      });
    }
    for (const failure of (await carryOut([change], world.env)).values()) throw failure;
  }
  terminal.say(`${target}: ${kind}`);
  return args.check === true && kind !== "unchanged" ? new LegerError("DIFFERENT", "").exitStatus : 0;
}

type Target = { file: string; search: readonly string[] };

type Planning = {
  targets: readonly Target[];
  version: PodmanVersion;
  isWhole: boolean;
  failures: LegerError[];
};

/** What can be planned; why the rest cannot is added to the failures. */
async function planAll(cli: Cli, args: ChoiceArgs, planning: Planning): Promise<Work[]> {
  const { world } = cli;
  const { targets, version, isWhole, failures } = planning;
  const reader = new SourceReader(version);
  const configs = new Configs(world, args.config);
  const chosen: { reading: Reading; chosen: Chosen; mode: Mode }[] = [];
  for (const { file, search } of targets) {
    tried(failures, () => {
      const source = reader.read(file, search);
      const reading = understand(source, { isWhole });
      const known = source.own === undefined ? undefined : recognise(source.own);
      const present = known === undefined || known.kind === "foreign" ? undefined : known.marks.modes;
      const config = configs.for(dirname(file));
      chosen.push({ reading, ...chooseModes(reading, { flag: args.mode, config, present }) });
    });
  }
  const { account } = runtimePlaces(world);
  const facts: RenderFacts = {
    version,
    isWhole,
    isRootless: account.kind === "user",
    uid: account.kind === "user" ? account.uid : 0,
    hasSelinux: existsSync("/sys/fs/selinux/enforce"),
    program: world.program ?? INSTALLED_LEGER,
    // A unit says by it that it is ready.
    clearedVariables: CLEARED.filter((name) => name !== "NOTIFY_SOCKET"),
    images: await imagesFor(cli, args, chosen),
  };
  return chosen.flatMap((item) => {
    const plan = planDropin(item.reading, item.chosen, facts);
    // In Podman's own way its faults are Podman's to tell.
    const isPodmans = item.mode === "driver" && plan.lines.length === 0;
    const problems = isPodmans ? plan.problems : [...item.reading.problems, ...plan.problems];
    failures.push(...problems);
    return problems.length === 0 ? [{ ...item, plan }] : [];
  });
}

/** The leger.json of each directory, read once. */
class Configs {
  readonly #given: LegerJson | undefined;
  readonly #flag: string;
  readonly #known = new Map<string, LegerJson | undefined>();

  constructor(world: CliWorld, flag: string | undefined) {
    this.#flag = resolve(world.cwd, flag ?? "leger.json");
    this.#given = flag === undefined ? undefined : readLegerJson(this.#flag, { mustExist: true });
  }

  for(directory: string): LegerJson | undefined {
    return this.withName(directory).config;
  }

  withName(directory: string): { config: LegerJson | undefined; name: string } {
    if (this.#given !== undefined) return { config: this.#given, name: this.#flag };
    const name = join(directory, "leger.json");
    if (!this.#known.has(directory)) this.#known.set(directory, readLegerJson(name, { mustExist: false }));
    return { config: this.#known.get(directory), name };
  }
}

async function imagesFor(
  { world, terminal }: Cli,
  { podman }: ChoiceArgs,
  chosen: readonly { reading: Reading; chosen: Chosen }[],
): Promise<Map<string, ImageFacts>> {
  const wanted = new Map<string, boolean>();
  for (const item of chosen) {
    const image = imageNeeded(item.reading, item.chosen);
    if (image === undefined) continue;
    const needsShell = item.chosen.some(({ mode }) => mode === "entrypoint");
    wanted.set(image, needsShell || wanted.get(image) === true);
  }
  const images = new Map<string, ImageFacts>();
  const asked = new PodmanFacts(world, podman);
  for (const [image, needsShell] of wanted) {
    const facts = await knownImage(asked, shown(image), { needsShell, terminal });
    if (facts !== undefined) images.set(image, facts);
  }
  return images;
}

/** A Podman that isn't there knows of no image: then the quadlet must say it all. */
async function knownImage(
  asked: PodmanFacts,
  image: string,
  options: { needsShell: boolean; terminal: Cli["terminal"] },
): Promise<ImageFacts | undefined> {
  try {
    return await asked.image(image, options);
  } catch (error) {
    if (error instanceof LegerError && error.code === "FAILED") return undefined;
    throw error;
  }
}

/** What is rendered in one go, for quadlets whose drop-ins go for others as well. */
type Company = {
  /** The drop-ins that are written or taken away. */
  files: ReadonlySet<string>;
  /** The quadlets that will have one. */
  names: ReadonlySet<string>;
};

function companyOf(work: readonly Work[]): Company {
  const having = work.filter(({ plan }) => plan.lines.length > 0);
  return {
    files: new Set(work.map(({ reading }) => join(reading.source.ownDirectory, OWN_DROPIN))),
    names: new Set(having.map(({ reading }) => reading.source.name)),
  };
}

function dropinOf({ reading, plan }: Work, { files, names }: Company, { force }: RenderArgs): Change {
  const { source } = reading;
  const template = templateOf(source.name);
  // Of those that are rendered as well it counts what they will be.
  const inherits =
    source.inherited.some((file) => !files.has(file)) || (template !== undefined && names.has(template));
  return changeFor(source, plan.lines, plan.modes, { force: force === true, inherits });
}

function wholeOf({ reading, plan }: Work, out: string, { force }: RenderArgs): Change {
  const { file: quadlet, name, base, dropins } = reading.source;
  const file = join(out, name);
  if (existsSync(out) && realpathSync(out) === realpathSync(dirname(quadlet))) {
    throw new LegerError("USAGE", `--out: ${out} is where ${name} itself lies`, {
      hints: ["name another directory"],
    });
  }
  const units = dropins.map(({ unit }) => unit);
  const after = wholeUnit(
    base,
    units,
    units.length === 0 ? plan.lines : wholeLines(reading, plan),
    plan.modes,
  );
  const before = existsSync(file) ? readUnit(file) : undefined;
  const change = { file, before, after, withDirectory: false };
  if (before === undefined) return { ...change, kind: "created" };
  if (before.equals(after)) return { ...change, kind: "unchanged" };
  if (force !== true && !isWholeUnit(before)) {
    const hints = ["name another directory, or add --force"];
    throw new RefusedChange(`${file} is not of leger's making`, hints, change);
  }
  return { ...change, kind: "changed" };
}

/** With drop-ins merged in, Podman's own secrets are written anew as well. */
function wholeLines({ secrets }: Reading, { lines }: Plan): Plan["lines"] {
  if (lines.length > 0) return lines;
  return secrets.map(({ word }) => ({ section: "Container", key: "Secret", value: quoteWord(word) }));
}

/** Whether an act succeeded; a LegerError is kept. */
function tried(failures: LegerError[], act: () => void): boolean {
  try {
    act();
    return true;
  } catch (error) {
    if (!(error instanceof LegerError)) throw error;
    failures.push(error);
    return false;
  }
}

async function versionOf(world: CliWorld, { podman, podmanVersion }: ChoiceArgs): Promise<PodmanVersion> {
  const version =
    podmanVersion === undefined
      ? await new PodmanFacts(world, podman).version()
      : parsePodmanVersion(podmanVersion);
  if (isAtLeast(version, SINCE.quadlet)) return version;
  throw new LegerError("REFUSED", `podman ${version.text} has no quadlets: they came with ${SINCE.quadlet}`, {
    hints: ["for another machine's podman: --podman-version 5.4"],
  });
}

function assertDropinsWork(version: PodmanVersion, out: string | undefined): void {
  if (out !== undefined || isAtLeast(version, SINCE.dropins)) return;
  throw new LegerError(
    "REFUSED",
    `podman ${version.text} reads no drop-ins of quadlets: they came with ${SINCE.dropins}`,
    { hints: ["write whole quadlets in place of them: --out DIR"] },
  );
}

/** What the arguments mean, without those that two of them name. */
function targetsOf(world: CliWorld, quadlets: readonly string[]): Target[] {
  const podmans = searchPath(placesOf(world));
  if (quadlets.length === 0) {
    const found = findQuadlets(podmans);
    if (found.length > 0) return found.map((file) => ({ file, search: podmans }));
    throw new LegerError("USAGE", "there are no quadlets of containers where podman looks", {
      hints: [`it looks in: ${podmans.join(", ") || "~/.config/containers/systemd"}`, "or name a directory"],
    });
  }
  const targets = new Map<string, Target>();
  for (const quadlet of quadlets) {
    for (const target of targetsNamed(world, quadlet, podmans)) targets.set(target.file, target);
  }
  return [...targets.values()];
}

function targetsNamed(world: CliWorld, quadlet: string, podmans: readonly string[]): Target[] {
  const path = resolve(world.cwd, quadlet);
  const stats = statsOf(path);
  if (stats?.isDirectory() === true) {
    const directories = withSubdirectories(path);
    const found = findQuadlets(directories);
    if (found.length === 0) {
      throw new LegerError("USAGE", `${path}: there are no quadlets of containers in it`, {
        hints: ["their names end with .container"],
      });
    }
    const search = directories.every((directory) => podmans.includes(directory)) ? podmans : directories;
    return found.map((file) => ({ file, search }));
  }
  if (stats === undefined && !quadlet.includes("/")) {
    const name = quadlet.endsWith(".container") ? quadlet : `${quadlet}.container`;
    const found = findQuadlets(podmans).find((file) => basename(file) === name);
    if (found !== undefined) return [{ file: found, search: podmans }];
    throw new LegerError("USAGE", `there is no quadlet ${name} where podman looks, and no file ${path}`, {
      hints: [`podman looks in: ${podmans.join(", ") || "~/.config/containers/systemd"}`],
    });
  }
  if (!path.endsWith(".container")) {
    throw new LegerError("USAGE", `${path}: this is not the quadlet of a container`, {
      hints: ["their names end with .container"],
    });
  }
  const directory = existsSync(dirname(path)) ? realpathSync(dirname(path)) : dirname(path);
  return [
    { file: join(directory, basename(path)), search: podmans.includes(directory) ? podmans : [directory] },
  ];
}

/** Undefined for what isn't there. What cannot be looked at is found out when it is read. */
function statsOf(path: string): ReturnType<typeof statSync> {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

/** A definition that legerd has already is left alone. */
async function register(cli: Cli, registrations: readonly Registration[], map: NameMap): Promise<void> {
  if (registrations.length === 0) return;
  await using daemon = connect(cli.world, cli.settings);
  const known = new Set((await daemon.secrets.list()).map(({ Name }) => Name));
  for (const { service, variables } of registrations) {
    const wanted = Object.fromEntries(
      [...variables].map(([variable, secret]) => [variable, wholeName(cli, secret, map)]),
    );
    const isThere = await isDefined(daemon, service, wanted);
    if (!isThere) await daemon.setService({ name: service, variables: wanted });
    cli.terminal.say(`service ${service}: ${isThere ? "as it is" : count(variables.size, "variable")}`);
    for (const secret of new Set(Object.values(wanted))) {
      if (!known.has(secret)) {
        cli.terminal.warn(`there is no secret ${secret} yet`, `store it with: leger secrets set ${secret}`);
      }
    }
  }
}

type NameMap = ReadonlyMap<string, string>;

function wholeName({ settings }: Cli, secret: string, map: NameMap): string {
  const name = shown(secret);
  return map.get(name) ?? fullName(name, settings.namespace);
}

async function isDefined(daemon: Daemon, service: string, wanted: Record<string, string>): Promise<boolean> {
  try {
    const { variables } = await daemon.service(service);
    return inOrder(variables) === inOrder(wanted);
  } catch (error) {
    if (error instanceof LegerError && error.code === "SERVICE_NOT_FOUND") return false;
    throw error;
  }
}

function inOrder(variables: Record<string, string>): string {
  return JSON.stringify(Object.entries(variables).toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

/** Files are written without legerd; what it must know besides can be copied from here. */
function sayWhatToRegister({ terminal }: Cli, jobs: readonly Job[]): void {
  const lines = jobs.flatMap(({ plan }) =>
    plan.registrations.map(({ service, variables }) => {
      const pairs = [...variables].map(([variable, secret]) => `${variable}=${shown(secret)}`);
      return `leger services set ${service} ${pairs.join(" ")}`;
    }),
  );
  if (lines.length === 0) return;
  terminal.say("legerd must know what these services get: render with --register, or");
  for (const line of lines) terminal.say(`  ${line}`);
}

/** Whole units lie in another directory than what they refer to. */
function sayWhatIsLeft({ terminal }: Cli, work: readonly Work[]): void {
  for (const { reading } of work) {
    const { unit, source } = reading;
    const values = [...unit.all("Container", "Volume"), ...unit.all("Container", "EnvironmentFile")];
    const relative = values.filter(({ value }) => value.startsWith("./") || value.startsWith("../"));
    if (relative.length > 0) {
      terminal.warn(
        `${source.name} names files beside it: ${relative.map(({ value }) => shown(value.split(":")[0] ?? "")).join(", ")}`,
        "copy them as well, to the same place beside the rendered one",
      );
    }
  }
}

type Reporting = { args: RenderArgs; failures: readonly LegerError[] };

async function report(
  { terminal }: Cli,
  changed: readonly Job[],
  { args, failures }: Reporting,
): Promise<void> {
  for (const { change, plan } of changed) {
    if (args.diff === true) await terminal.write(diffOf(change));
    else await terminal.line(`${change.kind.padEnd(8)} ${change.file}  (${plan.modes})`);
  }
  for (const failure of failures) {
    if (failure instanceof RefusedChange) await terminal.write(diffOf(failure.change));
  }
}

function diffOf({ file, before, after }: Pick<Change, "file" | "before" | "after">): string {
  // What was edited by hand may hold anything.
  return withoutKeys(unifiedDiff(file, before?.toString(), after?.toString()));
}

type JsonReport = { isDry: boolean; failures: readonly LegerError[]; map: NameMap };

async function reportJson(
  cli: Cli,
  jobs: readonly Job[],
  { isDry, failures, map }: JsonReport,
): Promise<void> {
  await cli.terminal.json({
    dry_run: isDry,
    quadlets: jobs.map(({ reading, chosen, plan, change }) => ({
      quadlet: reading.source.file,
      file: change.file,
      action: change.kind,
      secrets: chosen.map(({ secret, mode }) => ({ name: shown(secret.secret), mode })),
      services: plan.registrations.map(({ service, variables }) => ({
        name: service,
        variables: Object.fromEntries(
          [...variables].map(([variable, secret]) => [variable, wholeName(cli, secret, map)]),
        ),
      })),
    })),
    problems: failures.map(({ code, message, hints }) => ({ code, message, hints })),
  });
}

type ExplainArgs = ChoiceArgs & { quadlet: string };

async function explain(cli: Cli, args: ExplainArgs): Promise<number> {
  const { world, terminal } = cli;
  const targets = targetsOf(world, [args.quadlet]);
  const version = await versionOf(world, args);
  const isWhole = !isAtLeast(version, SINCE.dropins);
  const failures: LegerError[] = [];
  const planned = await planAll(cli, args, { targets, version, isWhole, failures });
  for (const { reading, chosen } of planned) {
    const rows = chosen.map(({ secret, mode }) => {
      const facts = factsOf(mode);
      const becomes = secret.type === "env" ? facts.variableBecomes : (facts.fileBecomes ?? "");
      const { dropin, whole } = facts.since;
      return { secret, mode, facts, becomes, since: isWhole ? whole : dropin };
    });
    if (args.json === true) {
      await terminal.json({
        quadlet: reading.source.file,
        service: reading.service,
        secrets: rows.map(({ secret, mode, facts, becomes, since }) => ({
          name: shown(secret.secret),
          target: secret.target === undefined ? null : shown(secret.target),
          mode,
          program_sees: becomes,
          plaintext: facts.plaintext,
          cost: facts.cost,
          podman: since,
          mind: facts.mind,
        })),
      });
      continue;
    }
    if (rows.length === 0) {
      terminal.say(`${reading.source.name} has no Secret= line`);
      continue;
    }
    await terminal.table(
      ["SECRET", "AS", "MODE", "PROGRAM SEES", "PODMAN"],
      rows.map(({ secret, mode, becomes, since }) => [
        shown(secret.secret),
        shown(secret.target ?? `/run/secrets/${secret.secret}`),
        mode,
        becomes,
        since,
      ]),
    );
    for (const mode of new Set(rows.map((row) => row.mode))) {
      const { plaintext, cost, mind } = factsOf(mode);
      await terminal.line(`${mode}:`);
      await terminal.line(`  plaintext  ${plaintext}`);
      await terminal.line(`  cost       ${cost}`);
      await terminal.line(`  mind       ${mind}`);
    }
  }
  for (const failure of failures) terminal.fail(failure);
  return failures[0]?.exitStatus ?? 0;
}

type LintArgs = Pick<ChoiceArgs, "config" | "podmanVersion" | "json"> & { quadlets: string[] };

async function lintAll(cli: Cli, args: LintArgs): Promise<number> {
  const { world, terminal } = cli;
  const version = args.podmanVersion === undefined ? undefined : parsePodmanVersion(args.podmanVersion);
  const reader = new SourceReader(version ?? parsePodmanVersion(NEWEST), { isTolerant: true });
  const configs = new Configs(world, args.config);
  const targets = targetsOf(world, args.quadlets);
  const findings: Finding[] = [];
  const seen = new Set<string>();
  const add = (found: readonly Finding[]): void => {
    for (const finding of found) {
      // A drop-in that several quadlets share is told once.
      const key = JSON.stringify([finding.path, finding.line, finding.what]);
      if (!seen.has(key)) findings.push(finding);
      seen.add(key);
    }
  };
  for (const { file, search } of targets) {
    const { config, name } = configs.withName(dirname(file));
    const declared = config?.secrets === undefined ? undefined : new Set(Object.keys(config.secrets));
    add(lint(reader.read(file, search), { version, declared }));
    if (config !== undefined) add(lintDeclarations(name, config));
  }
  if (args.json === true) {
    await terminal.json({
      findings: findings.map(({ path, line, level, rule, what, hint }) => ({
        file: path,
        line,
        level,
        rule,
        what,
        hint,
      })),
    });
  } else {
    for (const { path, line, level, what, hint } of findings) {
      await terminal.line(`${path}:${line}: ${level}: ${what}`);
      await terminal.line(`    ${hint}`);
    }
  }
  terminal.say(`${count(targets.length, "quadlet")}, ${count(findings.length, "finding")}`);
  return findings.length > 0 ? new LegerError("DIFFERENT", "").exitStatus : 0;
}

/** Where nobody names a version, drop-ins are looked for where the newest Podman does. */
const NEWEST = "99.0";

async function modes({ terminal }: Cli, { json }: { json?: boolean | undefined }): Promise<void> {
  if (json === true) {
    await terminal.json({
      modes: MODES.map((facts) => ({
        mode: facts.mode,
        variable_becomes: facts.variableBecomes,
        file_becomes: facts.fileBecomes ?? null,
        plaintext: facts.plaintext,
        cost: facts.cost,
        podman: facts.since.dropin,
        podman_whole_units: facts.since.whole,
        mind: facts.mind,
      })),
    });
    return;
  }
  await terminal.table(
    ["MODE", "A VARIABLE BECOMES", "A FILE BECOMES", "COST", "PLAINTEXT OUTSIDE THE CONTAINER"],
    MODES.map(({ mode, variableBecomes, fileBecomes, cost, plaintext }) => [
      mode,
      variableBecomes,
      fileBecomes ?? "refused",
      cost,
      plaintext,
    ]),
  );
}
