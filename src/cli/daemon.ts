/** daemon — legerd as the commands see it: setec's client, and legerd's own routes with their answers checked. */
import { z } from "zod";
import { isErrorCode, LegerError, type ErrorCode } from "../core/error.ts";
import { nodeFiles } from "../core/files-node.ts";
import { assertSafeSocket } from "../core/paths.ts";
import { Secret } from "../core/secret.ts";
import { SetecClient } from "../setec/client.ts";
import type { Settings } from "./settings.ts";
import { printable } from "./terminal.ts";
import type { CliWorld } from "./world.ts";

type Service = { name: string; variables: Record<string, string> };

/** An entry of Podman's that legerd knows; one without a secret keeps a value of its own. */
export type PodmanLink = { id: string; secret?: string | undefined };

export type DaemonStatus = z.infer<typeof Status>;

/** Whether systemd can have a service's credentials. */
export type ServedService = z.infer<typeof Served>;

/** What is asked of the socket's safety comes first: UNSAFE, DENIED, UNREACHABLE, CONFIG. */
export function connect(
  world: CliWorld,
  { socket, socketWasNamed }: Settings,
  { timeoutMs }: { timeoutMs?: number } = {},
): Daemon {
  assertSafeSocket(socket, { euid: world.euid, files: nodeFiles, groupMayConnect: socketWasNamed });
  return new Daemon(socket, timeoutMs);
}

export type { Daemon };

/** Dispose of it, or its connections keep the process alive. Methods throw what legerd says, as LegerError. */
class Daemon {
  readonly secrets: SetecClient;

  constructor(socketPath: string, timeoutMs: number | undefined) {
    this.secrets = new SetecClient({ socketPath, ...(timeoutMs === undefined ? {} : { timeoutMs }) });
  }

  async status(): Promise<DaemonStatus> {
    return this.#ask("GET", "/v1/status", "ask for the status", Status);
  }

  /** The only answer that holds the token. Throws REFUSED where there is one of that name. */
  async createToken({ name, grants, expires }: NewToken): Promise<z.infer<typeof MadeToken>> {
    const body = JSON.stringify({ grants, ...(expires === undefined ? {} : { expires }) });
    return this.#ask("PUT", pathOf("tokens", name), `create token ${name}`, MadeToken, body);
  }

  async tokens(): Promise<z.infer<typeof Token>[]> {
    return (await this.#ask("GET", "/v1/tokens", "list tokens", TokenList)).tokens;
  }

  /** Throws FAILED where there is none of that name. */
  async revokeToken(name: string): Promise<void> {
    await this.#ask("DELETE", pathOf("tokens", name), `revoke token ${name}`, z.object({}));
  }

  /** As they were configured when legerd started. */
  async doors(): Promise<Door[]> {
    return (await this.#ask("GET", "/v1/doors", "list doors", Doors)).doors;
  }

  /** Has legerd read its audit logs through, which may take half a minute for a gigabyte. */
  async verifyAudit(): Promise<AuditReport> {
    return this.#ask("GET", "/v1/audit/verify", "verify the audit log", AuditReport);
  }

  async podmanLinks(): Promise<PodmanLink[]> {
    return (await this.#ask("GET", "/v1/podman/list", "list podman's entries", Links)).entries;
  }

  /** What an entry of Podman's keeps itself. Throws SECRET_NOT_FOUND. */
  async podmanValue(id: string): Promise<Secret> {
    const what = `look up podman's entry ${id}`;
    const headers = { "leger-secret-id": id };
    const { status, body } = await this.secrets.request({
      method: "POST",
      path: "/v1/podman/lookup",
      headers,
      what,
    });
    if (status !== 200) throw refusal(what, status, parse(body));
    return new Secret(body);
  }

  async services(): Promise<Service[]> {
    return (await this.#ask("GET", "/v1/services", "list services", Services)).services;
  }

  /** Throws SERVICE_NOT_FOUND. */
  async service(name: string): Promise<Service> {
    return this.#ask("GET", pathOf("services", name), `show service ${name}`, ServiceAnswer);
  }

  /** Throws SERVICE_NOT_FOUND. */
  async credentials(name: string): Promise<ServedService> {
    return this.#ask("GET", `${pathOf("services", name)}/credentials`, `explain ${name}`, Served);
  }

  /** The services that systemd cannot have all credentials of. */
  async unserved(): Promise<ServedService[]> {
    return (await this.#ask("GET", "/v1/unserved", "list services without credentials", Unserved)).services;
  }

  async setService({ name, variables }: Service): Promise<Service> {
    const body = JSON.stringify({ variables });
    return this.#ask("PUT", pathOf("services", name), `set service ${name}`, ServiceAnswer, body);
  }

  /** Throws SERVICE_NOT_FOUND. */
  async deleteService(name: string): Promise<void> {
    await this.#ask("DELETE", pathOf("services", name), `delete service ${name}`, z.object({}));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.secrets[Symbol.asyncDispose]();
  }

  async #ask<T>(
    method: "GET" | "PUT" | "DELETE",
    path: string,
    what: string,
    schema: z.ZodType<T>,
    body?: string,
  ): Promise<T> {
    const answer = await this.secrets.request({
      method,
      path,
      what,
      ...(body === undefined ? {} : { body, headers: { "content-type": "application/json" } }),
    });
    const json = parse(answer.body);
    if (answer.status !== 200) throw refusal(what, answer.status, json);
    const parsed = schema.safeParse(json);
    if (parsed.success) return parsed.data;
    throw new LegerError("BAD_ANSWER", `${what}: the answer is not one of legerd's`, {
      hints: ["see that legerd is as new as this leger: leger status"],
    });
  }
}

const Failure = z.object({
  error: z.object({
    code: z.custom<ErrorCode>(isErrorCode),
    message: z.string(),
    hints: z.array(z.string()).default([]),
  }),
});

const ServiceAnswer = z.object({ name: z.string(), variables: z.record(z.string(), z.string()) });
const Services = z.object({ services: z.array(ServiceAnswer) });
const Socket = z.object({ there: z.boolean(), path: z.string().optional() });
const Served = z.object({
  name: z.string(),
  set: Socket,
  files: Socket,
  problems: z.array(
    z.object({
      kind: z.string(),
      what: z.string(),
      hints: z.array(z.string()),
      variable: z.string().optional(),
      secret: z.string().optional(),
    }),
  ),
});
const Unserved = z.object({ services: z.array(Served) });
const Links = z.object({ entries: z.array(z.object({ id: z.string(), secret: z.string().optional() })) });
const Grants = z.array(z.object({ action: z.array(z.string()), secret: z.array(z.string()) }));
const Token = z.object({
  name: z.string(),
  grants: Grants,
  created: z.string(),
  expires: z.string().optional(),
});
const TokenList = z.object({ tokens: z.array(Token) });
const MadeToken = Token.omit({ created: true }).extend({ token: z.string() });
type NewToken = { name: string; grants: z.infer<typeof Grants>; expires: string | undefined };
const DoorAnswer = z.object({
  name: z.string().optional(),
  unix: z.string(),
  mode: z.string(),
  group: z.string().optional(),
  principal: z.string(),
  grants: Grants.optional(),
  routes: z.array(z.string()).optional(),
});
export type Door = z.infer<typeof DoorAnswer>;
const Doors = z.object({ doors: z.array(DoorAnswer) });
const AuditReport = z.object({
  ok: z.boolean(),
  lines: z.number(),
  unnumbered: z.number(),
  problems: z.array(z.string()),
});
type AuditReport = z.infer<typeof AuditReport>;
const Status = z.object({
  version: z.string(),
  pid: z.number(),
  started_at: z.string(),
  secrets: z.number(),
  services: z.number(),
  podman_entries: z.number(),
  state_dir: z.string(),
  database: z.string(),
  main_key: z.string(),
  audit_log: z.string(),
  // A legerd that is older than this leger says nothing of it.
  last_backup: z.object({ made_at: z.string(), changes_since: z.number() }).nullish(),
});

function pathOf(collection: "services" | "tokens", name: string): string {
  // "." and ".." would be cleaned out of the path, encoded or not.
  if (name === "" || name === "." || name === "..") {
    throw new LegerError(
      "USAGE",
      `this is not a name for a ${collection === "services" ? "service" : "token"}`,
    );
  }
  return `/v1/${collection}/${encodeURIComponent(name.toWellFormed())}`;
}

function refusal(what: string, status: number, json: unknown): LegerError {
  const failure = Failure.safeParse(json);
  if (failure.success) {
    const { code, message, hints } = failure.data.error;
    return new LegerError(code, printable(message), { hints: hints.map(printable) });
  }
  if (status === 403) return new LegerError("DENIED", `${what}: access denied`);
  return new LegerError("BAD_ANSWER", `${what}: legerd answered with status ${status}`, {
    hints: ["see that legerd is as new as this leger: leger status"],
  });
}

function parse(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    return undefined;
  }
}
