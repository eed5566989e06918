/** credentials — every service's credential sockets, kept as the store is. */
import * as fs from "node:fs";
import path from "node:path";
import { LegerError, systemCode } from "../core/error.ts";
import { openPrivateDirectory } from "../core/private-file.ts";
import { CREDENTIALS, credentialFile, credentialSet, isServiceName } from "../core/service.ts";
import { nextTurn } from "../core/turn.ts";
import type { AuditEntry, AuditLog } from "../store/audit.ts";
import type { Mutation, ServiceRecord, Store } from "../store/store.ts";
import type { DoorConfig } from "./config.ts";
import { credentialSetOf, type CredentialSet, type Problem } from "./credential-set.ts";
import { CredentialSocket, Deliveries, practise, type Gift } from "./credential-socket.ts";

/** Whether systemd can have a service's credentials. */
export type CredentialStatus = {
  /** The set's socket, and the directory of the variables'; undefined where legerd has no sockets at all. */
  paths: { set: string; files: string } | undefined;
  set: boolean;
  files: boolean;
  problems: readonly Problem[];
};

export type CredentialsOptions = {
  doors: readonly DoorConfig[];
  store: Store;
  audit: AuditLog;
  log: (line: string) => void;
  /** For tests. */
  dropAfterMs?: number | undefined;
};

/** Longer than units have to start (90 s unless told otherwise): who is let go of then no longer starts with what it got. */
const DROP_AFTER_MS = 300_000;
/** What is held in memory for all services together. */
const MAX_READY_BYTES = 128 * 1024 * 1024;
/** Descriptors that doors, store and connections keep. */
const SPARE_DESCRIPTORS = 512;
/** How long work on many services may keep the event loop before others get their turn. */
const SLICE_MS = 1;

/**
 * A service has sockets only while the whole of it can be given: then a start needs nobody but the kernel and one write, and
 * without them systemd fails it by itself. What they give is replaced in memory, in the same turn for all sockets of a service.
 */
export class Credentials {
  readonly #store: Store;
  readonly #audit: AuditLog;
  readonly #log: (line: string) => void;
  readonly #deliveries: Deliveries;
  /** In whose name it is read; the directory lies beside their door. */
  readonly #principal: string;
  #directory: string | undefined;
  /** Doors may answer before: what is changed there meanwhile, start() finds. */
  #isStarted = false;
  #maxSockets = 0;
  #sockets = 0;
  #readyBytes = 0;
  readonly #services = new Map<string, Served>();
  /** The services of each secret. */
  readonly #users = new Map<string, Set<string>>();

  /** CONFIG for a door in the directory of the sockets, where legerd removes what it finds. */
  constructor({ doors, store, audit, log, dropAfterMs = DROP_AFTER_MS }: CredentialsOptions) {
    this.#store = store;
    this.#audit = audit;
    this.#log = log;
    this.#deliveries = new Deliveries(this.#audit, log, dropAfterMs);
    // Whoever may connect beside it may have everything; a door with grants must not come by more this way.
    const door = doors.find(({ grants, principal }) => grants === undefined && principal !== "");
    this.#principal = door?.principal ?? "";
    this.#directory = door === undefined ? undefined : path.resolve(path.dirname(door.unix), CREDENTIALS);
    const inside = doors.find(({ unix }) => path.resolve(unix).startsWith(`${this.#directory}/`));
    if (inside !== undefined) {
      throw new LegerError("CONFIG", `door ${inside.unix} is where credential sockets are`, {
        hints: [`choose another directory for it than ${this.#directory}`],
      });
    }
  }

  /** Where the sockets are; undefined where there are none. */
  get directory(): string | undefined {
    return this.#directory;
  }

  /** Makes the sockets of all services, and removes what an earlier legerd left. Throws what the store throws. */
  async start(): Promise<void> {
    if (this.#directory === undefined) return;
    try {
      prepareDirectory(this.#directory);
    } catch (error) {
      // Doors that systemd opened may lie where we must not write. All else works.
      const why = error instanceof LegerError ? error.message : `${this.#directory}: ${systemCode(error)}`;
      this.#log(`legerd: warning: no credential sockets: ${why}`);
      this.#directory = undefined;
      return;
    }
    await practise(this.#directory, this.#deliveries);
    this.#isStarted = true;
    this.#maxSockets = openFilesLimit() - SPARE_DESCRIPTORS;
    for (const { name } of this.#store.services()) this.#bring(name);
  }

  /** Brings the services that a mutation touches up to date; they are once it resolves. Never rejects. */
  async refresh(mutation: Mutation): Promise<void> {
    let sliceStart = performance.now();
    for (const name of this.#touchedBy(mutation)) {
      if (performance.now() - sliceStart > SLICE_MS) {
        await nextTurn();
        sliceStart = performance.now();
      }
      this.#bring(name);
    }
  }

  statusOf({ name }: ServiceRecord): CredentialStatus {
    const served = this.#services.get(name);
    if (this.#directory === undefined || served === undefined) {
      const what = "legerd has no directory for credential sockets";
      const problem: Problem = {
        kind: "unavailable",
        what,
        hints: ["see what it said of that in its journal when it started"],
      };
      return { paths: undefined, set: false, files: false, problems: [problem] };
    }
    return {
      paths: {
        set: path.join(this.#directory, credentialSet(name)),
        files: path.join(this.#directory, name),
      },
      set: served.sockets.has(credentialSet(name)),
      files: [...served.sockets.keys()].some((key) => key !== credentialSet(name)),
      problems: served.problems,
    };
  }

  /** Takes all sockets away at once, and lets those who are connected finish, for at most `graceMs`. */
  async stop(graceMs: number): Promise<void> {
    for (const name of this.#services.keys()) this.#forget(name);
    if (this.#directory !== undefined) removeDirectory(this.#directory);
    this.#directory = undefined;
    await this.#deliveries.end(graceMs);
  }

  #touchedBy(mutation: Mutation): readonly string[] {
    switch (mutation.do) {
      case "set-service":
        return [mutation.service.name];
      case "delete-service":
        return [mutation.name];
      case "put":
      case "create-version":
      case "activate":
      case "delete-version":
      case "delete":
        return [...(this.#users.get(mutation.name) ?? [])];
      case "link":
      case "keep":
      case "unlink":
      case "create-token":
      case "revoke-token":
        return [];
      default:
        return mutation satisfies never;
    }
  }

  /** Makes one service's sockets what they should be by what the store now says. */
  #bring(name: string): void {
    const directory = this.#directory;
    if (directory === undefined || !this.#isStarted) return;
    let read: ReturnType<Store["serviceWithValues"]>;
    try {
      read = this.#store.serviceWithValues(name);
    } catch (error) {
      // What may be out of date is not given.
      const why = error instanceof LegerError ? error.message : "unexpected error";
      this.#settle(name, directory, undefined, [unavailable(why, "see legerd's journal")]);
      return;
    }
    if (read === undefined) {
      this.#forget(name);
      return;
    }
    const { service } = read;
    this.#watch(name, new Set(Object.values(service.variables)));
    if (!isServiceName(name)) {
      const hint = "define it anew under another name";
      this.#settle(name, directory, undefined, [unavailable(`${name} cannot be part of a path`, hint)]);
      return;
    }
    const content = credentialSetOf(service, read.found);
    this.#settle(name, directory, { service, content }, content.problems);
  }

  #settle(
    name: string,
    directory: string,
    wanted: { service: ServiceRecord; content: CredentialSet } | undefined,
    found: readonly Problem[],
  ): void {
    const served = this.#services.get(name) ?? { sockets: new Map(), bytes: 0, problems: [], secrets: NONE };
    this.#services.set(name, served);
    let problems = found;
    let gifts = wanted === undefined ? new Map<string, Gift>() : this.#giftsOf(wanted);
    const bytes = wanted === undefined ? 0 : sizeOf(wanted.content);
    const inTheWay =
      this.#readyBytes - served.bytes + bytes > MAX_READY_BYTES
        ? unavailable("legerd holds 128 MiB of other credentials already", "make it smaller, or use env-file")
        : this.#sockets - served.sockets.size + gifts.size > this.#maxSockets
          ? unavailable("legerd may not open as many files", "raise LimitNOFILE= of legerd.service")
          : undefined;
    if (inTheWay !== undefined) {
      problems = [...problems, inTheWay];
      gifts = new Map();
    }
    if (!this.#offer(served, directory, gifts)) {
      problems = [...problems, unavailable("a socket could not be made", "see legerd's journal")];
      this.#offer(served, directory, new Map());
    }
    this.#readyBytes += (served.sockets.size === 0 ? 0 : bytes) - served.bytes;
    served.bytes = served.sockets.size === 0 ? 0 : bytes;
    this.#tell(name, served.problems, problems);
    served.problems = problems;
    if (served.sockets.size === 0) removeDirectory(path.join(directory, name));
  }

  #giftsOf({ service, content }: { service: ServiceRecord; content: CredentialSet }): Map<string, Gift> {
    const { name, variables } = service;
    const { set, files, versions } = content;
    const gifts = new Map<string, Gift>();
    const entryFor = (credential: string, variable: string): AuditEntry => ({
      principal: this.#principal,
      action: "get",
      authorized: true,
      secret: variables[variable] ?? "",
      version: versions.get(variable) ?? 0,
      service: name,
      credential,
    });
    if (set !== undefined) {
      const credential = credentialSet(name);
      const entries = [...files.keys()].map((variable) => entryFor(credential, variable));
      gifts.set(credential, { bytes: set, entries });
    }
    for (const [variable, bytes] of files) {
      const credential = credentialFile(name, variable);
      gifts.set(credential, { bytes, entries: [entryFor(credential, variable)] });
    }
    return gifts;
  }

  /** True once exactly these sockets are there and give this; false where one of them could not be made. */
  #offer({ sockets }: Served, directory: string, gifts: ReadonlyMap<string, Gift>): boolean {
    for (const [key, socket] of sockets) {
      const gift = gifts.get(key);
      if (gift !== undefined) socket.gift = gift;
      else {
        socket.close();
        sockets.delete(key);
        this.#sockets -= 1;
      }
    }
    const made = new Set([directory]);
    for (const [key, gift] of gifts) {
      if (sockets.has(key)) continue;
      const file = path.join(directory, key);
      const parent = path.dirname(file);
      if (!made.has(parent) && !makeDirectory(parent)) return false;
      made.add(parent);
      const socket = CredentialSocket.open({ file, directory, gift }, this.#deliveries, this.#log);
      if (socket === undefined) return false;
      sockets.set(key, socket);
      this.#sockets += 1;
    }
    return true;
  }

  #forget(name: string): void {
    const served = this.#services.get(name);
    if (served === undefined || this.#directory === undefined) return;
    this.#offer(served, this.#directory, new Map());
    this.#readyBytes -= served.bytes;
    removeDirectory(path.join(this.#directory, name));
    this.#watch(name, NONE);
    this.#services.delete(name);
  }

  /** Notes whose changes concern a service. */
  #watch(name: string, secrets: ReadonlySet<string>): void {
    const served = this.#services.get(name) ?? { sockets: new Map(), bytes: 0, problems: [], secrets: NONE };
    this.#services.set(name, served);
    for (const secret of served.secrets) {
      const users = this.#users.get(secret);
      users?.delete(name);
      if (users?.size === 0) this.#users.delete(secret);
    }
    for (const secret of secrets) {
      const users = this.#users.get(secret) ?? new Set();
      this.#users.set(secret, users.add(name));
    }
    served.secrets = secrets;
  }

  /** The journal hears of what is in the way, and when it no longer is. */
  #tell(name: string, before: readonly Problem[], now: readonly Problem[]): void {
    const said = new Set(before.map(({ what }) => what));
    for (const { kind, what } of now.filter((problem) => !said.has(problem.what))) {
      const cannot = kind === "unfit" ? "no credential for the set of" : "no credentials for";
      this.#log(`legerd: warning: ${cannot} service ${name}: ${what}; see: leger explain ${name}`);
    }
    if (before.length > 0 && now.length === 0)
      this.#log(`legerd: notice: service ${name} has its credentials again`);
  }
}

type Served = {
  /** By their path below the directory. */
  sockets: Map<string, CredentialSocket>;
  bytes: number;
  problems: readonly Problem[];
  secrets: ReadonlySet<string>;
};

const NONE: ReadonlySet<string> = new Set();

function sizeOf({ set, files }: CredentialSet): number {
  return set?.length ?? [...files.values()].reduce((sum, { length }) => sum + length, 0);
}

function unavailable(what: string, hint: string): Problem {
  return { kind: "unavailable", what, hints: [hint] };
}

/**
 * Ours, closed to others, and empty of sockets of a legerd that was killed, which answer nobody. Anything else is somebody's, and
 * stays: CONFIG.
 */
function prepareDirectory(directory: string): void {
  using _ = openPrivateDirectory(directory, { euid: process.geteuid?.() ?? 0, create: true });
  fs.chmodSync(directory, 0o700);
  const entries = fs.readdirSync(directory, { recursive: true, withFileTypes: true });
  const foreign = entries.find((entry) => !entry.isSocket() && !entry.isDirectory());
  if (foreign !== undefined) {
    const file = path.join(foreign.parentPath, foreign.name);
    throw new LegerError("CONFIG", `${file} is none of legerd's: move it away, then restart legerd`);
  }
  for (const { name } of entries.filter(({ parentPath }) => parentPath === directory)) {
    fs.rmSync(path.join(directory, name), { recursive: true, force: true });
  }
}

function makeDirectory(directory: string): boolean {
  try {
    fs.mkdirSync(directory, { mode: 0o700 });
    return true;
  } catch (error) {
    return systemCode(error) === "EEXIST";
  }
}

function removeDirectory(directory: string): void {
  try {
    fs.rmdirSync(directory);
  } catch {
    // There was none, or somebody has put something there.
  }
}

/** How many files this process may have open: Node has raised that as far as it may be. */
function openFilesLimit(): number {
  const limits = fs.readFileSync("/proc/self/limits", "utf8");
  const [, soft = ""] = /^Max open files\s+(\S+)/m.exec(limits) ?? [];
  return soft === "unlimited" ? Number.MAX_SAFE_INTEGER : Number(soft);
}
