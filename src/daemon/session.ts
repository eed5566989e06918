/**
 * session — the store as one caller may see it.
 *
 * Routes never touch the store itself. Every way to a secret leads through here, where the grant is checked and the
 * audit line written, so that no route can give more than another.
 */
import { LegerError } from "../core/error.ts";
import type { Secret } from "../core/secret.ts";
import type { Access } from "../setec/grants.ts";
import type { Action, SecretInfo } from "../setec/protocol.ts";
import type { RouteGroup } from "./config.ts";
import type { AuditEntry, AuditLog } from "../store/audit.ts";
import type {
  LinkRecord,
  Mutation,
  ServiceRecord,
  Store,
  TokenRecord,
  VersionedValue,
} from "../store/store.ts";
import type { Credentials, CredentialStatus } from "./credentials.ts";
import type { Pins } from "./pins.ts";
import type { Tokens } from "./tokens.ts";

/** Who is behind a door, and what they may do there. */
export type Caller = {
  /** As the door's configuration names them; empty: nobody can be identified there. */
  principal: string;
  /** Undefined: everything. */
  access: Access | undefined;
  /** What is open to them besides setec's own routes, where `access` narrows what they may do. */
  routes?: readonly RouteGroup[] | undefined;
  /** As the asking program says; only ever repeated in the audit log. */
  unit?: string;
  invocation?: string;
};

type Origin = { service?: string; podman_id?: string; token?: string };
type SecretMutation = Extract<Mutation, { name: string; do: Action | "delete-version" }>;

/** What all sessions of a daemon share. */
export type SessionNeeds = {
  store: Store;
  audit: AuditLog;
  credentials: Credentials;
  pins: Pins;
  tokens: Tokens;
};

/** Every method throws DENIED without the grant, IO when the audit line cannot be written, and what the store throws. */
export class Session {
  readonly #store: Store;
  readonly #audit: AuditLog;
  readonly #credentials: Credentials;
  readonly #pins: Pins;
  readonly #tokens: Tokens;
  readonly #caller: Caller;
  /** The batches of the audit log that hold a line of ours; only denials may be lost. */
  readonly #written: Promise<void>[] = [];

  constructor({ store, audit, credentials, pins, tokens }: SessionNeeds, caller: Caller) {
    this.#store = store;
    this.#audit = audit;
    this.#credentials = credentials;
    this.#pins = pins;
    this.#tokens = tokens;
    this.#caller = caller;
  }

  /** Resolves once every line but those of denials is written: before that nothing may be answered. Throws IO. */
  async audited(): Promise<void> {
    for (const batch of this.#written) await batch;
  }

  /** True where no grants narrow what the caller may do. */
  get isOwner(): boolean {
    return this.#caller.access === undefined;
  }

  get(name: string, version?: number): VersionedValue {
    this.#require("get", name, version);
    return this.#auditedRead(name, version, {}, () => this.#store.get(name, version));
  }

  /** The active version, or undefined when its number is `known`; then, as in setec, no audit line is written. */
  getIfChanged(name: string, known: number): VersionedValue | undefined {
    this.#require("get", name, undefined);
    if (this.#store.activeVersion(name) === known) return undefined;
    return this.#auditedRead(name, undefined, {}, () => this.#store.get(name));
  }

  /** The active versions of several secrets, from one snapshot: all of them, or DENIED for the whole. */
  getTogether(names: readonly string[], origin: Origin): VersionedValue[] {
    for (const name of names) this.#require("get", name, undefined, origin);
    const found = this.#store.getTogether(names);
    for (const [at, { version }] of found.entries()) {
      void this.#log({ action: "get", authorized: true, secret: names[at] ?? "", version, ...origin });
    }
    return found;
  }

  info(name: string): SecretInfo {
    this.#require("info", name, undefined);
    void this.#log({ action: "info", authorized: true, ...named(name) });
    return this.#store.info(name);
  }

  /** All secrets. The caller may not be told of every one of them: see `sees`. */
  async list(): Promise<SecretInfo[]> {
    await this.#log({ action: "info", authorized: true });
    return this.#store.list();
  }

  /** May the caller be told of this secret of a list? */
  sees({ Name }: SecretInfo): boolean {
    const { access } = this.#caller;
    return access === undefined || access.allows("info", Name);
  }

  /** May the caller do this? For checks that come before others; the methods check by themselves. */
  authorize(action: Action, name: string, version?: number): void {
    this.#require(action, name, version);
  }

  /** Is this the owner's door? For checks that come before others; the methods check by themselves. */
  requireOwner(action: AuditEntry["action"], what: Origin & { secret?: string }): void {
    if (this.isOwner) return;
    this.#logDenial({ action, authorized: false, ...what });
    throw denied(action);
  }

  /** Records an operation that is allowed, but turned down before it reaches the store. */
  recordTurnedDown(action: Action, name: string, version?: number): void {
    void this.#log({ action, authorized: true, ...named(name, version) });
  }

  /** Carries out a mutation of a secret; durable, audit line and all, and at every credential socket once it resolves. */
  mutate(action: Action, mutation: SecretMutation): Promise<number> {
    const version = "version" in mutation ? mutation.version : undefined;
    this.#require(action, mutation.name, version);
    const { name } = mutation;
    const entry = { action, authorized: true, ...named(name, version) };
    return this.#pins.change(
      name,
      () => this.#store.active(name),
      () => this.#durably(entry, mutation),
    );
  }

  /** How many there are of each, whoever asks: for those who may know at all. */
  counts(): { secrets: number; services: number; podmanEntries: number } {
    const { secrets, services, links } = this.#store.counts();
    return { secrets, services, podmanEntries: links };
  }

  count(): number {
    return this.#store.count();
  }

  /** How many changes the audit log has noted, those that came to nothing among them. */
  changes(): number {
    return this.#audit.heads.changes.n;
  }

  /**
   * What an entry of Podman's gives: the active version of its secret, for one start of a unit as it was at that start's first
   * lookup; or the value it keeps for itself.
   */
  lookup(id: string): VersionedValue {
    return this.#hiding(`look up ${id}`, () => {
      const link = this.#store.link(id);
      if (link !== undefined && "secret" in link) {
        const { secret } = link;
        this.#require("get", secret, undefined);
        return this.#auditedRead(secret, undefined, { podman_id: id }, () =>
          this.#pins.get(this.#caller, secret, () => this.#store.get(secret)),
        );
      }
      this.requireOwner("get", { podman_id: id });
      if (link === undefined) {
        throw new LegerError("SECRET_NOT_FOUND", `look up ${id}: legerd knows no such entry`, {
          hints: ['make Podman\'s entries anew with "leger podman sync"'],
        });
      }
      void this.#log({ action: "get", authorized: true, podman_id: id });
      return { value: this.#store.linkValue(link), version: 1 };
    });
  }

  /** Makes an entry of Podman's stand for a secret, or for a value of its own. */
  storeLink(id: string, target: { secret: string } | { value: Uint8Array }): Promise<number> {
    const origin = { podman_id: id, ...("secret" in target ? { secret: target.secret } : {}) };
    this.requireOwner("link", origin);
    const mutation =
      "secret" in target
        ? ({ do: "link", id, secret: target.secret } as const)
        : ({ do: "keep", id, value: target.value } as const);
    return this.#durably({ action: "link", authorized: true, ...origin }, mutation);
  }

  deleteLink(id: string): Promise<number> {
    this.requireOwner("unlink", { podman_id: id });
    return this.#durably({ action: "unlink", authorized: true, podman_id: id }, { do: "unlink", id });
  }

  links(): LinkRecord[] {
    this.requireOwner("info", {});
    return this.#store.links();
  }

  /** A service's definition; names secrets, so the caller must be allowed `info` on each. */
  service(name: string): ServiceRecord {
    const service = this.#store.service(name);
    // Without the grants a service that is there and one that isn't must look alike.
    if (service === undefined || !this.#sees(service)) throw serviceNotFound(name);
    return service;
  }

  services(): ServiceRecord[] {
    return this.#store.services().filter((service) => this.#sees(service));
  }

  /** The secrets behind a service's variables, in the definition's order, from one snapshot. */
  serviceValues(name: string): { variable: string; secret: string; version: number; value: Secret }[] {
    const [variables, values] = this.#hiding(`get env of service ${name}`, () => {
      const service = this.#store.service(name);
      if (service === undefined) {
        this.requireOwner("get", { service: name });
        throw serviceNotFound(name);
      }
      const entries = Object.entries(service.variables);
      const secrets = entries.map(([, secret]) => secret);
      return [entries, this.getTogether(secrets, { service: name })] as const;
    });
    return values.map((found, at) => {
      const [variable, secret] = variables[at] ?? ["", ""];
      return { variable, secret, ...found };
    });
  }

  /** Whether systemd can have a service's credentials, and what is in the way. */
  credentialStatus(name: string): CredentialStatus {
    return this.#credentials.statusOf(this.service(name));
  }

  /** The services that systemd cannot have all credentials of. */
  unserved(): { name: string; status: CredentialStatus }[] {
    this.requireOwner("info", {});
    return this.services()
      .map((service) => ({ name: service.name, status: this.#credentials.statusOf(service) }))
      .filter(({ status }) => status.problems.length > 0);
  }

  setService(service: ServiceRecord): Promise<number> {
    this.requireOwner("set-service", { service: service.name });
    const entry = { action: "set-service", authorized: true, service: service.name } as const;
    return this.#durably(entry, { do: "set-service", service });
  }

  async deleteService(name: string): Promise<void> {
    this.requireOwner("delete-service", { service: name });
    if (this.#store.service(name) === undefined) throw serviceNotFound(name);
    const entry = { action: "delete-service", authorized: true, service: name } as const;
    await this.#durably(entry, { do: "delete-service", name });
  }

  tokens(): TokenRecord[] {
    this.requireOwner("info", {});
    return this.#store.tokens();
  }

  /** Throws REFUSED where there is one of that name. */
  async createToken(token: TokenRecord): Promise<void> {
    const what = { token: token.name };
    this.requireOwner("create-token", what);
    if (this.#store.tokens().some(({ name }) => name === token.name)) {
      throw new LegerError("REFUSED", `create token ${token.name}: there is one of that name`, {
        hints: [`leger token revoke ${token.name}`],
      });
    }
    await this.#durably({ action: "create-token", authorized: true, ...what }, { do: "create-token", token });
    this.#tokens.refresh();
  }

  /** From then on nobody comes in with it, connections that are open already included. */
  async revokeToken(name: string): Promise<void> {
    const what = { token: name };
    this.requireOwner("revoke-token", what);
    if (!this.#store.tokens().some((token) => token.name === name)) {
      throw new LegerError("REFUSED", `revoke token ${name}: there is none of that name`, {
        hints: ["see: leger token list"],
      });
    }
    await this.#durably({ action: "revoke-token", authorized: true, ...what }, { do: "revoke-token", name });
    this.#tokens.refresh();
  }

  /** Whoever may not have what an id or a service stands for must not learn what that is, nor that it is there. */
  #hiding<T>(what: string, read: () => T): T {
    try {
      return read();
    } catch (error) {
      throw error instanceof LegerError && error.code === "DENIED" ? denied(what) : error;
    }
  }

  #sees({ variables }: ServiceRecord): boolean {
    const { access } = this.#caller;
    return access === undefined || Object.values(variables).every((secret) => access.allows("info", secret));
  }

  /**
   * Appends the audit line first, so that what cannot be audited is not done, and waits for both to be durable, and for
   * the credential sockets to give what is now true.
   */
  async #durably(entry: Omit<AuditEntry, "principal">, mutation: Mutation): Promise<number> {
    const line = this.#audit.appendChange(this.#asCaller(entry));
    this.#written.push(line);
    await line;
    const [version] = await Promise.all([this.#stored(mutation), this.#audit.sync()]);
    return version;
  }

  async #stored(mutation: Mutation): Promise<number> {
    try {
      return await this.#store.mutate(mutation, this.#audit.heads);
    } finally {
      // Also after a failure: a commit whose acknowledgement was lost may have happened.
      await this.#credentials.refresh(mutation);
    }
  }

  /** Reads, then writes the line with the version that will be told; also when there was nothing to read. */
  #auditedRead(
    name: string,
    version: number | undefined,
    origin: Origin,
    read: () => VersionedValue,
  ): VersionedValue {
    let found: VersionedValue | undefined;
    try {
      found = read();
      return found;
    } finally {
      void this.#log({
        action: "get",
        authorized: true,
        ...named(name, found?.version ?? version),
        ...origin,
      });
    }
  }

  #require(action: Action, name: string, version: number | undefined, origin: Origin = {}): void {
    const { access } = this.#caller;
    if (access === undefined || access.allows(action, name)) return;
    this.#logDenial({ action, authorized: false, ...named(name, version), ...origin });
    throw denied(`${action} ${name}`);
  }

  /** Resolves once the line is written, which `audited` waits for, too. */
  #log(entry: Omit<AuditEntry, "principal">): Promise<void> {
    const batch = this.#append(entry);
    if (this.#written.at(-1) !== batch) this.#written.push(batch);
    return batch;
  }

  /** Denied is denied, also when the disk is too full to note it; setec decides the same way. */
  #logDenial(entry: Omit<AuditEntry, "principal">): void {
    void this.#append(entry).catch(() => {});
  }

  #append(entry: Omit<AuditEntry, "principal">): Promise<void> {
    return this.#audit.append(this.#asCaller(entry));
  }

  #asCaller(entry: Omit<AuditEntry, "principal">): AuditEntry {
    const { principal, unit, invocation } = this.#caller;
    if (unit === undefined && invocation === undefined) return { principal, ...entry };
    return {
      principal,
      ...entry,
      ...(unit === undefined ? {} : { unit }),
      ...(invocation === undefined ? {} : { invocation }),
    };
  }
}

/** setec leaves out an empty name and version 0. */
function named(name: string, version?: number): { secret?: string; version?: number } {
  return {
    ...(name === "" ? {} : { secret: name }),
    ...(version === undefined || version === 0 ? {} : { version }),
  };
}

function serviceNotFound(name: string): LegerError {
  return new LegerError("SERVICE_NOT_FOUND", `service ${name}: not found`, {
    hints: [`say what it gets with "leger services set ${name} VARIABLE=SECRET …"`],
  });
}

function denied(what: string): LegerError {
  return new LegerError("DENIED", `${what}: access denied`, {
    hints: ["the door in legerd.json that this came through does not grant it"],
  });
}
