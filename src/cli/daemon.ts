/** daemon — legerd as the commands see it: setec's client, and legerd's own routes with their answers checked. */
import { LegerError } from "../core/error.ts";
import { nodeFiles } from "../core/files-node.ts";
import { assertSafeSocket } from "../core/paths.ts";
import { Secret } from "../core/secret.ts";
import { nodeWire } from "../core/wire-node.ts";
import { SetecClient } from "../setec/client.ts";
import { MAX_ANSWER_BYTES } from "../setec/exchange.ts";
import { overWire } from "../setec/over-wire.ts";
import type { Answers } from "./daemon-answers.ts";
import type { Settings } from "./settings.ts";
import { printable } from "./terminal.ts";
import type { CliWorld } from "./world.ts";

type Service = Answers["service"];

/** An entry of Podman's that legerd knows; one without a secret keeps a value of its own. */
export type PodmanLink = { id: string; secret?: string | undefined };

export type DaemonStatus = Answers["status"];

/** Whether systemd can have a service's credentials. */
export type ServedService = Answers["credentials"];

export type Door = Answers["doors"]["doors"][number];

type Token = Answers["tokens"]["tokens"][number];

type NewToken = { name: string; grants: Token["grants"]; expires: string | undefined };

type ConnectOptions = {
  timeoutMs?: number;
  /** Worth connections that are kept, and what it takes to load undici. */
  manyRequests?: boolean;
};

/** What is asked of the socket's safety comes first: UNSAFE, DENIED, UNREACHABLE, CONFIG. */
export function connect(
  world: CliWorld,
  { socket, socketWasNamed }: Settings,
  options: ConnectOptions = {},
): Daemon {
  assertSafeSocket(socket, { euid: world.euid, files: nodeFiles, groupMayConnect: socketWasNamed });
  return new Daemon(socket, options);
}

export type { Daemon };

/** Dispose of it, or its connections keep the process alive. Methods throw what legerd says, as LegerError. */
class Daemon {
  readonly secrets: SetecClient;

  constructor(socketPath: string, { timeoutMs, manyRequests = false }: ConnectOptions) {
    const wire = nodeWire(socketPath, { maxBodyBytes: MAX_ANSWER_BYTES });
    this.secrets = new SetecClient({
      socketPath,
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      ...(manyRequests ? {} : { exchange: overWire(wire, timeoutMs) }),
    });
  }

  async status(): Promise<DaemonStatus> {
    return this.#ask("GET", "/v1/status", "ask for the status", "status");
  }

  /** The only answer that holds the token. Throws REFUSED where there is one of that name. */
  async createToken({ name, grants, expires }: NewToken): Promise<Answers["newToken"]> {
    const body = JSON.stringify({ grants, ...(expires === undefined ? {} : { expires }) });
    return this.#ask("PUT", pathOf("tokens", name), `create token ${name}`, "newToken", body);
  }

  async tokens(): Promise<Token[]> {
    return (await this.#ask("GET", "/v1/tokens", "list tokens", "tokens")).tokens;
  }

  /** Throws REFUSED where there is none of that name. */
  async revokeToken(name: string): Promise<void> {
    await this.#ask("DELETE", pathOf("tokens", name), `revoke token ${name}`, "deletion");
  }

  /** As they were configured when legerd started. */
  async doors(): Promise<Door[]> {
    return (await this.#ask("GET", "/v1/doors", "list doors", "doors")).doors;
  }

  /** Has legerd read its audit logs through, which may take half a minute for a gigabyte. */
  async verifyAudit(): Promise<Answers["audit"]> {
    return this.#ask("GET", "/v1/audit/verify", "verify the audit log", "audit");
  }

  async podmanLinks(): Promise<PodmanLink[]> {
    return (await this.#ask("GET", "/v1/podman/list", "list podman's entries", "links")).entries;
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
    if (status !== 200) throw await refusal(what, status, parse(body));
    return new Secret(body);
  }

  async services(): Promise<Service[]> {
    return (await this.#ask("GET", "/v1/services", "list services", "services")).services;
  }

  /** Throws SERVICE_NOT_FOUND. */
  async service(name: string): Promise<Service> {
    return this.#ask("GET", pathOf("services", name), `show service ${name}`, "service");
  }

  /** Throws SERVICE_NOT_FOUND. */
  async credentials(name: string): Promise<ServedService> {
    return this.#ask("GET", `${pathOf("services", name)}/credentials`, `explain ${name}`, "credentials");
  }

  /** The services that systemd cannot have all credentials of. */
  async unserved(): Promise<ServedService[]> {
    return (await this.#ask("GET", "/v1/unserved", "list services without credentials", "unserved")).services;
  }

  async setService({ name, variables }: Service): Promise<Service> {
    const body = JSON.stringify({ variables });
    return this.#ask("PUT", pathOf("services", name), `set service ${name}`, "service", body);
  }

  /** Throws SERVICE_NOT_FOUND. */
  async deleteService(name: string): Promise<void> {
    await this.#ask("DELETE", pathOf("services", name), `delete service ${name}`, "deletion");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.secrets[Symbol.asyncDispose]();
  }

  async #ask<Asked extends keyof Answers>(
    method: "GET" | "PUT" | "DELETE",
    path: string,
    what: string,
    asked: Asked,
    body?: string,
  ): Promise<Answers[Asked]> {
    const answer = await this.secrets.request({
      method,
      path,
      what,
      ...(body === undefined ? {} : { body, headers: { "content-type": "application/json" } }),
    });
    const json = parse(answer.body);
    if (answer.status !== 200) throw await refusal(what, answer.status, json);
    // Loaded when there is something to check, for the sake of zod: setec's own routes do without.
    const { answerIn } = await import("./daemon-answers.ts");
    const found = answerIn(json, asked);
    if (found !== undefined) return found;
    throw new LegerError("BAD_ANSWER", `${what}: the answer is not one of legerd's`, {
      hints: ["see that legerd is as new as this leger: leger status"],
    });
  }
}

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

async function refusal(what: string, status: number, json: unknown): Promise<LegerError> {
  const { failureIn } = await import("./daemon-answers.ts");
  const failure = failureIn(json);
  if (failure !== undefined) {
    const { code, message, hints } = failure;
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
