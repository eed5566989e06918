/** plan — what leger's drop-in for a quadlet has to say so that its secrets arrive in the modes wanted. */
import { LegerError } from "../core/error.ts";
import { credentialPath, credentialSetPath, isServiceName, SERVICE_NAME_RULE } from "../core/service.ts";
import { accessOf, podmanArgsOf, type Access } from "./access.ts";
import type { Line } from "./dropin.ts";
import { factsOf, modeNamed, type Mode } from "./modes.ts";
import { hasKey, type PodmanVersion } from "./podman-versions.ts";
import { secretLines, type Place, type SecretLine } from "./secret-line.ts";
import { OWN_DROPIN, type Source } from "./source.ts";
import { shown, Unit, type Entry } from "./unit-file.ts";
import { literally, quoteWord, splitWords } from "./words.ts";
import { jsonWords, wrap, type ImageProgram } from "./wrapper.ts";

/** What planning depends on beside the files. */
export type RenderFacts = {
  version: PodmanVersion;
  /** A whole unit is written, not a drop-in. */
  isWhole: boolean;
  isRootless: boolean;
  uid: number;
  /** SELinux labels are to be written. */
  hasSelinux: boolean;
  /** Where units find leger's client. */
  program: string;
  /** Variables that leger's client must not find in its environment. */
  clearedVariables: readonly string[];
  /** What `podman image inspect` says, by the name that a quadlet gives. */
  images: ReadonlyMap<string, ImageFacts>;
};

export type ImageFacts = ImageProgram & {
  user: string;
  /** Whether /bin/sh is there; undefined: nobody looked. */
  hasShell: boolean | undefined;
};

/** A quadlet understood, before anything is decided. */
export type Reading = {
  source: Source;
  /** Base and drop-ins, leger's own left out. */
  unit: Unit;
  /** What leger's drop-in can clear: base and the drop-ins that come before it. */
  secrets: readonly SecretLine[];
  /** Unknown to Podman, or out of leger's reach. */
  problems: readonly LegerError[];
  /** legerd's name for it. */
  service: string;
  /** `[X-Leger] Mode=`. */
  ownMode: Mode | undefined;
  image: string | undefined;
};

/** Which mode each secret is to have. */
export type Chosen = readonly { secret: SecretLine; mode: Mode }[];

/** What legerd has to know for the drop-in to work: variable → Podman's name of the secret. */
export type Registration = { service: string; variables: ReadonlyMap<string, string> };

export type Plan = {
  lines: readonly Line[];
  /** Written into the drop-in, and read back where nobody gives a mode: "mount", "mount groq_api_key=driver". */
  modes: string;
  registrations: readonly Registration[];
  problems: readonly LegerError[];
};

/** In a whole unit no drop-in comes after leger's lines. BAD_DATA for a `[X-Leger] Mode=` that is none. */
export function understand(source: Source, { isWhole }: { isWhole: boolean }): Reading {
  const { base, dropins, name } = source;
  const earlier = dropins.filter((dropin) => isWhole || comesBefore(dropin.name));
  const { secrets, faults } = secretLines(new Unit([base, ...earlier.map((dropin) => dropin.unit)]));
  const unit = new Unit([base, ...dropins.map((dropin) => dropin.unit)]);
  const ownMode = unit.last("X-Leger", "Mode");
  const service = unit.last("X-Leger", "Service")?.value ?? name.replace(/\.container$/, "");
  return {
    source,
    unit,
    secrets,
    problems: faults.map(({ at, what, hint }) => problem(at, what, hint)),
    service: shown(service),
    ownMode:
      ownMode === undefined
        ? undefined
        : modeNamed(shown(ownMode.value), `${ownMode.path}:${ownMode.line}`, "BAD_DATA"),
    image: imageOf(unit),
  };
}

/** The image whose facts planning would ask for, undefined where the quadlet says it all. */
export function imageNeeded({ unit, image }: Reading, chosen: Chosen): string | undefined {
  const modes = new Set(chosen.map(({ mode }) => mode));
  if (image === undefined || !(modes.has("mount") || modes.has("entrypoint"))) return undefined;
  const isUserKnown = unit.has("Container", "User") || unit.has("X-Leger", "ImageUser");
  return isUserKnown && !modes.has("entrypoint") ? undefined : image;
}

/** Never throws for what a quadlet says: it is all in `problems`, and then nothing is to be written. */
export function planDropin(reading: Reading, chosen: Chosen, facts: RenderFacts): Plan {
  const modes = modesText(chosen);
  if (chosen.every(({ mode }) => mode === "driver")) {
    return { lines: [], modes, registrations: [], problems: [] };
  }
  const work = new Work(reading, chosen, facts);
  work.check();
  if (work.problems.length === 0) work.write();
  if (work.problems.length === 0 && !facts.isWhole) work.compare();
  const { lines, registrations, problems } = work;
  return { lines, modes, registrations, problems };
}

/** The mode that most have, then those that differ. */
function modesText(chosen: Chosen): string {
  const counts = new Map<Mode, number>();
  for (const { mode } of chosen) counts.set(mode, (counts.get(mode) ?? 0) + 1);
  const [main = "driver"] = [...counts].toSorted(([, a], [, b]) => b - a).map(([mode]) => mode);
  const others = chosen
    .filter(({ mode }) => mode !== main)
    .map(({ secret, mode }) => `${secret.secret}=${mode}`);
  return [main, ...new Set(others)].join(" ");
}

/** Where files and sets lie in the container. */
const IN_CONTAINER = "/run/credentials";

/** A missing socket fails a start at once: then a try every five seconds, for five minutes. */
const RETRIES: readonly Line[] = [
  { section: "Unit", key: "StartLimitIntervalSec", value: "10min" },
  { section: "Unit", key: "StartLimitBurst", value: "60" },
  { section: "Service", key: "Restart", value: "on-failure" },
  { section: "Service", key: "RestartSec", value: "5s" },
];

class Work {
  readonly problems: LegerError[] = [];
  readonly lines: Line[] = [];
  readonly registrations: Registration[] = [];
  readonly #reading: Reading;
  readonly #facts: RenderFacts;
  readonly #chosen: Chosen;
  /** Secrets that Podman itself goes on asking for. */
  readonly #kept: SecretLine[];
  /** Those that go into a set, and those that become files. */
  readonly #inSet: SecretLine[];
  readonly #asFiles: { secret: SecretLine; mode: Mode }[];
  #setMode: Mode | undefined;
  #access: Access | undefined;

  constructor(reading: Reading, chosen: Chosen, facts: RenderFacts) {
    this.#reading = reading;
    this.#facts = facts;
    this.#chosen = chosen;
    const carrierOf = ({ mode }: Chosen[number]): string => factsOf(mode).carrier;
    this.#kept = chosen.filter((item) => carrierOf(item) === "podman").map(({ secret }) => secret);
    const others = chosen.filter((item) => carrierOf(item) !== "podman");
    const isFile = (item: Chosen[number]): boolean =>
      item.secret.type === "mount" || carrierOf(item) === "files";
    this.#inSet = others.filter((item) => !isFile(item)).map(({ secret }) => secret);
    this.#asFiles = others.filter(isFile);
  }

  /** Whatever speaks against it. */
  check(): void {
    this.#checkService();
    this.#checkTargets();
    const [kept] = this.#kept;
    if (kept !== undefined && !hasKey(this.#facts.version, "Secret")) {
      this.#refuse(kept.at, `${shown(kept.secret)}: Secret= came with podman 4.5`, "choose env-file for it");
    }
    const modes = new Set<Mode>();
    for (const { secret, mode } of this.#chosen) {
      if (mode === "driver") continue;
      this.#checkSecret(secret, mode);
      if (this.#inSet.includes(secret)) modes.add(mode);
    }
    const [first, second] = modes;
    this.#setMode = first;
    if (first !== undefined && second !== undefined) {
      this.#refuse(
        undefined,
        `${first} and ${second} cannot both give variables to one container`,
        "choose one of them for all its variables; mount and driver may stand beside any",
      );
    }
    // Only where nothing else was said of them.
    if (this.problems.length > 0) return;
    if (this.#asFiles.length > 0 || first === "entrypoint") this.#checkAccess();
    const args = podmanArgsOf(this.#reading.unit);
    if (first === "entrypoint" && args.some((word) => /^--entrypoint\b/.test(word))) {
      this.#refuse(
        undefined,
        "PodmanArgs=--entrypoint is out of leger's reach",
        "write Entrypoint= in its place",
      );
    }
  }

  write(): void {
    const { service } = this.#reading;
    if (!this.#facts.isWhole) this.#add("Container", "Secret", "");
    for (const { word } of this.#kept) this.#add("Container", "Secret", quoteWord(word));
    const setVariables = new Map(this.#inSet.map((secret) => [variableOf(secret), secret.secret]));
    const files = this.#filesByName();
    const filesService = setVariables.size > 0 ? `${service}.files` : service;
    if (setVariables.size > 0) this.#registrations(service, setVariables);
    if (files.size > 0) {
      this.#registrations(
        filesService,
        new Map([...files].map(([name, [secret]]) => [name, secret?.secret ?? ""])),
      );
    }
    if (this.#setMode !== undefined) this.#writeSet(service, this.#setMode);
    for (const [name, secrets] of files) this.#writeFiles(filesService, name, secrets);
    const userns = this.#access?.ok === true ? this.#access.userns : undefined;
    if (userns !== undefined) this.#add("Container", "UserNS", userns);
    const needsCredentials = this.#chosen.some(({ mode }) => factsOf(mode).needsCredentials);
    const legerd = needsCredentials ? "legerd.service" : "legerd.socket";
    this.#add("Unit", "Wants", legerd);
    this.#add("Unit", "After", legerd);
    if (needsCredentials) {
      for (const line of RETRIES) if (!this.#reading.unit.has(line.section, line.key)) this.lines.push(line);
    }
  }

  /** Drop-ins that come after leger's have the last word: what they would undo is refused. */
  compare(): void {
    const { source } = this.#reading;
    for (const { name, unit: later } of source.dropins.filter((dropin) => !comesBefore(dropin.name))) {
      const keys = new Set(this.lines.map(({ section, key }) => `${section}\n${key}`));
      const contrary = later.items.find(({ kind, section, key, value }) => {
        if (kind !== "entry" || !keys.has(`${section}\n${key}`)) return false;
        // Lists grow; only an empty value takes back. Single values, and secrets, are theirs that come last.
        return value === "" || (section === "Container" && LAST_ONE_COUNTS.has(key));
      });
      if (contrary === undefined) continue;
      this.#refuse(
        { path: later.path, line: contrary.line },
        `${contrary.key}= in this drop-in would undo what leger's ${OWN_DROPIN} says`,
        `rename ${name}, so that it sorts before ${OWN_DROPIN}: mv ${name} 40-${name.replace(/^\d+-/, "")}`,
      );
    }
  }

  #checkService(): void {
    const { service, source } = this.#reading;
    if (isServiceName(service) && isServiceName(`${service}.files`)) return;
    this.#refuse(
      { path: source.file, line: 1 },
      `${JSON.stringify(service)} cannot be the name of a service in legerd`,
      `give it one: Service= below [X-Leger] (${SERVICE_NAME_RULE})`,
    );
  }

  #checkTargets(): void {
    const seen = new Map<string, SecretLine>();
    for (const { secret } of this.#chosen) {
      const target = secret.type === "env" ? variableOf(secret) : pathOf(secret);
      const earlier = seen.get(target);
      seen.set(target, secret);
      if (earlier === undefined) continue;
      this.#refuse(
        secret.at,
        `${shown(target)} is the target of two Secret= lines: ${shown(earlier.secret)} (line ${earlier.at.line}) and ${shown(secret.secret)}`,
        "take one of them out",
      );
    }
  }

  #checkSecret(secret: SecretLine, mode: Mode): void {
    const { carrier, fileBecomes } = factsOf(mode);
    const name = shown(secret.secret);
    if (secret.secret.includes("%")) {
      return this.#refuse(
        secret.at,
        `${name}: a specifier in a secret's name is expanded for Podman alone`,
        "choose driver for it, or write a quadlet per instance",
      );
    }
    if (secret.type === "mount") {
      if (fileBecomes === undefined) {
        return this.#refuse(
          secret.at,
          `${name} is a file (type=mount), which ${mode} cannot give`,
          `choose mount or driver for it: in leger.json, or --mode mount`,
        );
      }
      if (/[:,\s]/.test(pathOf(secret))) {
        this.#refuse(
          secret.at,
          `${name}: Volume= cannot hold this target`,
          "choose driver for it, or a plainer path",
        );
      }
      return;
    }
    const variable = variableOf(secret);
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(variable)) {
      return this.#refuse(
        secret.at,
        `${name}: ${JSON.stringify(shown(variable))} is not a name for a variable`,
        "as in: target=OPENAI_API_KEY",
      );
    }
    const taken = carrier === "files" ? `${variable}_FILE` : variable;
    const other = this.#environment().get(taken);
    if (other === undefined) return;
    this.#refuse(
      other,
      `Environment= sets ${taken} as well, and would win over ${name} in mode ${mode}`,
      "take that one out",
    );
  }

  #checkAccess(): void {
    const { unit } = this.#reading;
    const told = unit.last("X-Leger", "ImageUser")?.value;
    const access = accessOf(unit, { ...this.#facts, imageUser: told ?? this.#image()?.user });
    this.#access = access;
    const [one] = this.#asFiles;
    const whose = one?.secret ?? this.#inSet[0];
    if (whose === undefined) return;
    if (!access.ok) {
      const mode = one?.mode ?? this.#setMode ?? "mount";
      return this.#refuse(
        whose.at,
        `${shown(whose.secret)} cannot be given by ${mode}: ${access.why}`,
        access.hint,
      );
    }
    if (access.userns !== undefined && !hasKey(this.#facts.version, "UserNS")) {
      this.#refuse(
        whose.at,
        `${shown(whose.secret)} needs UserNS=, which came with podman 4.5`,
        "choose env-file for it",
      );
    }
    for (const { secret } of this.#asFiles) this.#checkOwnership(secret, access.owner);
  }

  /** Credentials are 0400 and one user's: what a line says must be no more than that. */
  #checkOwnership({ secret, uid, gid, mode, at }: SecretLine, owner: { uid: string; gid: string }): void {
    const asked = [
      ...(uid === undefined || Number(uid) === Number(owner.uid) ? [] : [`uid=${uid}`]),
      ...(gid === undefined || Number(gid) === Number(owner.gid) ? [] : [`gid=${gid}`]),
      ...(mode === undefined || (Number.parseInt(mode, 8) & 0o177) === 0 ? [] : [`mode=${mode}`]),
    ];
    if (asked.length === 0) return;
    this.#refuse(
      at,
      `${shown(secret)}: ${asked.join(",")} cannot be kept: systemd's file is 0400 and user ${owner.uid}'s`,
      "choose driver for it, or take that out of the line",
    );
  }

  #writeSet(service: string, mode: Mode): void {
    const set = `${service}.env`;
    switch (mode) {
      case "env-file":
      case "curl":
        return this.#writeEnvFile(service, mode);
      case "credential":
        this.#add("Container", "EnvironmentFile", `%d/${set}`);
        this.#add("Service", "LoadCredential", `${set}:%t/${credentialSetPath(service)}`);
        return;
      case "entrypoint":
        return this.#writeWrapper(service);
      case "driver":
      case "mount":
        throw new LegerError("BUG", `mode ${mode} has no set`);
      default:
        mode satisfies never;
    }
  }

  /** Instances of a template share a service; each has an env file, in a directory that systemd makes and takes away. */
  #writeEnvFile(service: string, mode: "env-file" | "curl"): void {
    const isTemplate = service.includes("@") && this.#reading.source.name.includes("@.");
    const directory = isTemplate ? "%t/leger-env-%N" : "%t/leger/env";
    const file = `${directory}/${service}.env`;
    this.#add("Container", "EnvironmentFile", file);
    if (isTemplate) this.#add("Service", "RuntimeDirectory", "leger-env-%N");
    if (mode === "curl") {
      const temporary = `${directory}/.${service}.env.$$$$-curl.tmp`;
      const url = `http://legerd/v1/services/${encodeURIComponent(service).replaceAll("%", "%%")}/env?dialect=podman`;
      this.#add(
        "Service",
        "ExecStartPre",
        `/bin/sh -c 'umask 077 && mkdir -p "${directory}" && curl -fsS --max-time 5 --remove-on-error --unix-socket "%t/leger/legerd.sock" -o "${temporary}" "${url}" && mv -fT "${temporary}" "${file}"'`,
      );
      this.#add(
        "Service",
        "ExecStopPost",
        `-/bin/sh -c 'rm -f "${file}" "${directory}/.${service}.env."*-curl.tmp'`,
      );
      return;
    }
    const where = isTemplate ? ` --dir ${directory}` : "";
    const program = quoteWord(literally(this.#facts.program));
    const leger = `${program} secrets fetch ${service}${where}`;
    this.#add("Service", "UnsetEnvironment", this.#facts.clearedVariables.join(" "));
    this.#add("Service", "ExecStartPre", leger);
    this.#add("Service", "ExecStopPost", `-${leger} --remove`);
  }

  #writeWrapper(service: string): void {
    const set = `${service}.env`;
    const inContainer = `${IN_CONTAINER}/${set}`;
    const { unit, image: imageName } = this.#reading;
    const image = this.#image();
    const first = this.#inSet[0];
    if (image?.hasShell === false) {
      return this.#refuse(
        first?.at,
        `${imageName === undefined ? "the image" : shown(imageName)} has no /bin/sh for entrypoint to work with`,
        "choose mount, env-file or driver for it",
      );
    }
    const wrapped = wrap(unit, toldProgram(unit) ?? image, inContainer);
    if ("why" in wrapped) {
      return this.#refuse(first?.at, `entrypoint cannot wrap the program: ${wrapped.why}`, wrapped.hint);
    }
    this.#add("Container", "Volume", `%d/${set}:${inContainer}:ro${this.#label()}`);
    if (hasKey(this.#facts.version, "Entrypoint")) this.#add("Container", "Entrypoint", wrapped.entrypoint);
    else this.#add("Container", "PodmanArgs", quoteWord(`--entrypoint=${wrapped.entrypoint}`));
    this.#add("Container", "Exec", wrapped.exec);
    this.#add("Service", "LoadCredential", `${set}:%t/${credentialSetPath(service)}`);
  }

  /** One credential, in as many places as lines ask for it. */
  #writeFiles(service: string, name: string, secrets: readonly SecretLine[]): void {
    this.#add("Service", "LoadCredential", `${name}:%t/${credentialPath(service, name)}`);
    for (const secret of secrets) {
      const path = secret.type === "env" ? `${IN_CONTAINER}/${name}` : pathOf(secret);
      this.#add("Container", "Volume", `%d/${name}:${path}:ro${this.#label()}`);
      if (secret.type === "env") this.#add("Container", "Environment", `${name}_FILE=${path}`);
    }
  }

  /** A variable's file has the variable's name; another file's is made of the secret's. */
  #filesByName(): Map<string, SecretLine[]> {
    const files = new Map<string, SecretLine[]>();
    const secrets = this.#asFiles.map(({ secret }) => secret);
    for (const secret of secrets.filter(({ type }) => type === "env"))
      files.set(variableOf(secret), [secret]);
    for (const secret of secrets.filter(({ type }) => type === "mount")) {
      const stem = shown(secret.secret)
        .replaceAll(/[^A-Za-z0-9]/g, "_")
        .toUpperCase()
        .replace(/^(?=\d)/, "_");
      let name = stem;
      for (let number = 2; files.has(name) && files.get(name)?.[0]?.secret !== secret.secret; number += 1) {
        name = `${stem}_${number}`;
      }
      files.set(name, [...(files.get(name) ?? []), secret]);
    }
    return files;
  }

  /** What Environment= sets, and where. */
  #environment(): Map<string, Place> {
    const set = new Map<string, Place>();
    for (const { value, path, line } of this.#reading.unit.all("Container", "Environment")) {
      for (const word of splitWords(value) ?? []) set.set(word.split("=")[0] ?? "", { path, line });
    }
    return set;
  }

  #image(): ImageFacts | undefined {
    const { image } = this.#reading;
    return image === undefined ? undefined : this.#facts.images.get(image);
  }

  #label(): string {
    return this.#facts.hasSelinux ? ",Z" : "";
  }

  #registrations(service: string, variables: ReadonlyMap<string, string>): void {
    this.registrations.push({ service, variables });
  }

  #add(section: string, key: string, value: string): void {
    this.lines.push({ section, key, value });
  }

  #refuse(at: Place | undefined, what: string, hint: string): void {
    this.problems.push(problem(at ?? { path: this.#reading.source.file, line: 1 }, what, hint));
  }
}

/** Drop-ins apply by name, bytewise. */
function comesBefore(dropin: string): boolean {
  return Buffer.compare(Buffer.from(dropin), Buffer.from(OWN_DROPIN)) < 0;
}

const LAST_ONE_COUNTS: ReadonlySet<string> = new Set(["Secret", "Entrypoint", "Exec", "UserNS"]);

function problem({ path, line }: Place, what: string, hint: string): LegerError {
  return new LegerError("BAD_DATA", `${path}:${line}: ${what}`, { hints: [hint] });
}

function variableOf({ target, secret }: SecretLine): string {
  return target ?? secret;
}

/** Where Podman mounts a secret's file. */
function pathOf({ target, secret }: SecretLine): string {
  if (target === undefined) return `/run/secrets/${secret}`;
  return target.startsWith("/") ? target : `/run/secrets/${target}`;
}

/** Undefined for an image that another quadlet makes: its name is not known here. */
function imageOf(unit: Unit): string | undefined {
  const image = unit.last("Container", "Image")?.value;
  return image === undefined || /\.(?:image|build)$/.test(image) ? undefined : image;
}

/** `[X-Leger] ImageEntrypoint=` and `ImageCommand=`, for where the image cannot be asked. */
function toldProgram(unit: Unit): ImageProgram | undefined {
  const entrypoint = unit.last("X-Leger", "ImageEntrypoint");
  const command = unit.last("X-Leger", "ImageCommand");
  if (entrypoint === undefined && command === undefined) return undefined;
  return { entrypoint: wordsIn(entrypoint), command: wordsIn(command) };
}

function wordsIn(entry: Entry | undefined): string[] {
  return entry === undefined ? [] : (jsonWords(shown(entry.value)) ?? []);
}
