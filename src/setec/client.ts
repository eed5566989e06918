/** client — speaks setec's protocol, and legerd's own routes, over a unix socket. */

import { errors, Pool } from "undici";
import { LegerError, systemCode } from "../core/error.ts";
import { Secret } from "../core/secret.ts";
import { howToStart } from "../core/wire.ts";
import { decodeBase64 } from "./decode.ts";
import { headers, type Operation, type SecretInfo, type VersionNumber } from "./protocol.ts";

/** A value and the version that it is. */
export type VersionedSecret = { readonly value: Secret; readonly version: VersionNumber };

type ClientOptions = {
  readonly socketPath: string;
  /** How long one request may take from connecting to the last byte of the answer. */
  readonly timeoutMs?: number;
};

type RequestOptions = { readonly signal?: AbortSignal | undefined };

type HttpRequest = RequestOptions & {
  readonly method: "GET" | "PUT" | "POST" | "DELETE";
  /** With the query, percent-encoded. */
  readonly path: string;
  /** Names in lower case. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
  /** What an error says was being done; method and path if absent. Must not hold a value. */
  readonly what?: string;
};

export type HttpAnswer = {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** Complete: as long as the server said, or properly chunked. May hold a value. */
  readonly body: Uint8Array;
};

/**
 * A client of one daemon; connections are made when needed and kept. Methods throw LegerError: UNREACHABLE,
 * BAD_ANSWER, DENIED, and what their operation can meet. They throw the signal's own reason when it is aborted.
 */
export class SetecClient {
  readonly #pool: Pool;
  readonly #socketPath: string;
  readonly #timeoutMs: number;

  constructor({ socketPath, timeoutMs = 10_000 }: ClientOptions) {
    this.#socketPath = socketPath;
    this.#timeoutMs = timeoutMs;
    // undici's own clocks are off: one deadline covers a request from end to end.
    this.#pool = new Pool("http://localhost", {
      connect: { socketPath, timeout: 0 },
      connections: MAX_CONNECTIONS,
      headersTimeout: 0,
      bodyTimeout: 0,
      maxResponseSize: MAX_ANSWER_BYTES,
    });
  }

  /** The secrets that the caller may see, sorted by the bytes of their names. */
  async list(options?: RequestOptions): Promise<SecretInfo[]> {
    const answer = await this.#call({ operation: "list" }, options);
    // Go writes null for an empty slice.
    if (answer.json === null) return [];
    if (!Array.isArray(answer.json)) throw badAnswer(answer.what);
    return answer.json.map((item) => infoOf(item, answer.what));
  }

  /** The active version. Throws SECRET_NOT_FOUND. */
  async get(name: string, options?: RequestOptions): Promise<VersionedSecret> {
    return valueOf(await this.#call({ operation: "get", name }, options));
  }

  /** Any version. Throws VERSION_NOT_FOUND, also where there is no such secret. */
  async getVersion(name: string, version: VersionNumber, options?: RequestOptions): Promise<VersionedSecret> {
    return valueOf(await this.#call({ operation: "get", name, version }, options));
  }

  /** The active version, or undefined if that is `version`. Throws SECRET_NOT_FOUND. */
  async getIfChanged(
    name: string,
    version: VersionNumber,
    options?: RequestOptions,
  ): Promise<VersionedSecret | undefined> {
    const answer = await this.#call({ operation: "get", name, version, ifChanged: true }, options);
    return answer.status === 304 ? undefined : valueOf(answer);
  }

  /** Throws SECRET_NOT_FOUND. */
  async info(name: string, options?: RequestOptions): Promise<SecretInfo> {
    const { json, what } = await this.#call({ operation: "info", name }, options);
    return infoOf(json, what);
  }

  /** Stores a new version, active only if it is the first; returns its number, or the latest's if that is equal. */
  async put(name: string, value: Secret, options?: RequestOptions): Promise<VersionNumber> {
    const { json, what } = await this.#call({ operation: "put", name, value }, options);
    if (!isVersion(json)) throw badAnswer(what);
    return json;
  }

  /** Stores and activates a version of this number. Throws VERSION_CLAIMED if it is or once was in use. */
  async createVersion(
    name: string,
    version: VersionNumber,
    value: Secret,
    options?: RequestOptions,
  ): Promise<void> {
    await this.#do({ operation: "create-version", name, version, value }, options);
  }

  /** Throws VERSION_NOT_FOUND. */
  async activate(name: string, version: VersionNumber, options?: RequestOptions): Promise<void> {
    await this.#do({ operation: "activate", name, version }, options);
  }

  /** Deletes all versions. A secret that is not there is no error. */
  async delete(name: string, options?: RequestOptions): Promise<void> {
    await this.#do({ operation: "delete", name }, options);
  }

  /** Throws VERSION_NOT_FOUND, and REFUSED for the active version. */
  async deleteVersion(name: string, version: VersionNumber, options?: RequestOptions): Promise<void> {
    await this.#do({ operation: "delete-version", name, version }, options);
  }

  /** One exchange, any status; redirects are not followed. Throws UNREACHABLE, DENIED (the socket) or BAD_ANSWER. */
  async request(request: HttpRequest): Promise<HttpAnswer> {
    const { method, path, headers: sent, body, signal } = request;
    const what = request.what ?? `${method} ${path}`;
    const deadline = AbortSignal.timeout(this.#timeoutMs);
    let status: number | undefined;
    try {
      const response = await this.#pool.request({
        method,
        path,
        headers: sent ?? {},
        body: body ?? null,
        signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]),
      });
      status = response.statusCode;
      const bytes = await response.body.bytes();
      if (!isFramed(response.headers, status)) throw badAnswer(what, "its end is not marked");
      return { status, headers: response.headers, body: bytes };
    } catch (error) {
      if (error instanceof LegerError) throw error;
      signal?.throwIfAborted();
      throw this.#fault(error, what, { late: deadline.aborted, begun: status !== undefined });
    }
  }

  /** Lets requests under way end, then closes all connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.close();
  }

  async #do(call: Call, options?: RequestOptions): Promise<void> {
    const { json, what } = await this.#call(call, options);
    // setec answers {}, other servers null (as its documentation says).
    if (typeof json !== "object" || Array.isArray(json)) throw badAnswer(what);
  }

  async #call(call: Call, options: RequestOptions = {}): Promise<Answer> {
    const what = describe(call);
    const { status, body } = await this.request({
      method: "POST",
      path: `/api/${call.operation}`,
      headers: {
        [headers.contentType]: headers.json,
        [headers.noBrowsers]: headers.setec,
      },
      body: bodyOf(call),
      signal: options.signal,
      what,
    });
    if (status === 304 && call.ifChanged === true) return { status, json: null, what };
    if (status !== 200) throw refusal(status, call, what);
    return { status, json: parse(body, what), what };
  }

  /**
   * What to throw for what undici threw. Its own errors are not passed on as a cause: HTTPParserError carries the bytes it stumbled over, which
   * may be a value.
   */
  #fault(error: unknown, what: string, { late, begun }: { late: boolean; begun: boolean }): unknown {
    const code = systemCode(error);
    if (late) {
      return new LegerError("UNREACHABLE", `${what}: no answer within ${this.#timeoutMs / 1000} s`, {
        hints: ["see what legerd is doing with: systemctl --user status legerd"],
      });
    }
    if (code === "EACCES" || code === "EPERM") {
      return new LegerError("DENIED", `${what}: not allowed to use ${this.#socketPath}`, {
        hints: ["each user has a legerd of their own; is this socket yours?"],
        cause: error,
      });
    }
    if (code !== undefined && NOBODY_THERE.has(code)) {
      return new LegerError("UNREACHABLE", `${what}: nobody answers at ${this.#socketPath}`, {
        hints: howToStart(this.#socketPath),
        cause: error,
      });
    }
    if (code !== undefined && CLOSED.has(code)) {
      return begun
        ? badAnswer(what, "it ended too early")
        : new LegerError("UNREACHABLE", `${what}: the connection was closed before an answer`, {
            hints: ["see why with: journalctl --user -u legerd"],
          });
    }
    if (error instanceof errors.HTTPParserError) return badAnswer(what, "it is not HTTP");
    return code === undefined || OUR_MISTAKES.has(code) ? error : badAnswer(what, code);
  }
}

type Call = {
  operation: Operation;
  name?: string;
  version?: VersionNumber;
  ifChanged?: boolean;
  value?: Secret;
};

/** `json` is null where there is no body. */
type Answer = { status: number; json: unknown; what: string };

/** Well below what the backlog of a listening socket takes. */
const MAX_CONNECTIONS = 32;

/** Far above a list of 100,000 secrets (some 10 MiB), far below what would hurt. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

const MAX_VERSION = 4_294_967_295;

const NOBODY_THERE: ReadonlySet<string> = new Set([
  "ENOENT",
  "ECONNREFUSED",
  "ENOTDIR",
  "ENOTSOCK",
  "ENAMETOOLONG",
  "EINVAL",
  "EAGAIN",
]);

const CLOSED: ReadonlySet<string> = new Set(["UND_ERR_SOCKET", "ECONNRESET", "EPIPE"]);

/** Bad arguments, and use after disposal. */
const OUR_MISTAKES: ReadonlySet<string> = new Set([
  "UND_ERR_INVALID_ARG",
  "UND_ERR_CLOSED",
  "UND_ERR_DESTROYED",
]);

function describe({ operation, version, ...call }: Call): string {
  if (call.name === undefined) return operation;
  const name = printable(call.name);
  return version === undefined ? `${operation} ${name}` : `${operation} ${name}, version ${version}`;
}

/** A name may hold escape sequences, which a terminal would obey. */
function printable(name: string): string {
  return name.replace(/\p{Cc}/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`);
}

function bodyOf({ name, version, ifChanged, value }: Call): string {
  return JSON.stringify({
    Name: name,
    Value: value === undefined ? undefined : Buffer.from(value.reveal()).toString("base64"),
    Version: version,
    UpdateIfChanged: ifChanged,
  });
}

/** An answer that only ends with its connection cannot be told from half of one. */
function isFramed(received: HttpAnswer["headers"], status: number): boolean {
  if (status === 304 || status === 204) return true;
  return received["content-length"] !== undefined || received["transfer-encoding"] !== undefined;
}

/** JSON.parse's own error quotes what it read: it is dropped. */
function parse(body: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    throw badAnswer(what);
  }
}

function valueOf({ json, what }: Answer): VersionedSecret {
  if (!isRecord(json) || typeof json["Value"] !== "string" || !isVersion(json["Version"])) {
    throw badAnswer(what);
  }
  const value = decodeBase64(Buffer.from(json["Value"]));
  if (value === undefined) throw badAnswer(what);
  return { value: new Secret(value), version: json["Version"] };
}

/** Fields of newer servers are left out. A real setec may list version 0 after its numbers have wrapped. */
function infoOf(json: unknown, what: string): SecretInfo {
  if (!isRecord(json)) throw badAnswer(what);
  const { Name, ActiveVersion } = json;
  const Versions: unknown = json["Versions"] ?? [];
  if (typeof Name !== "string" || !isUint32(ActiveVersion)) throw badAnswer(what);
  if (!Array.isArray(Versions) || !Versions.every(isUint32)) throw badAnswer(what);
  return { Name, Versions, ActiveVersion };
}

function isRecord(json: unknown): json is Record<string, unknown> {
  return typeof json === "object" && json !== null;
}

function isVersion(json: unknown): json is VersionNumber {
  return isUint32(json) && json > 0;
}

function isUint32(json: unknown): json is number {
  return typeof json === "number" && Number.isInteger(json) && json >= 0 && json <= MAX_VERSION;
}

function badAnswer(what: string, detail?: string): LegerError {
  const fact = detail === undefined ? "the answer is not one of legerd's" : `bad answer: ${detail}`;
  return new LegerError("BAD_ANSWER", `${what}: ${fact}`, {
    hints: ["is it legerd that listens there? see: systemctl --user status legerd"],
  });
}

/** What a status means for this operation. The body is not looked at: it is not ours to show. */
function refusal(status: number, call: Call, what: string): LegerError {
  const { operation, ifChanged } = call;
  const name = printable(call.name ?? "");
  switch (status) {
    case 403:
      return new LegerError("DENIED", `${what}: denied`, {
        hints: [`this caller has no grant for it; grants are set in legerd's configuration`],
      });
    case 404:
      return call.version === undefined || ifChanged === true
        ? new LegerError("SECRET_NOT_FOUND", `${what}: not found`, {
            hints: [
              "see which there are with: leger secrets list",
              `store it with: leger secrets set ${name}`,
            ],
          })
        : new LegerError("VERSION_NOT_FOUND", `${what}: not found`, {
            hints: [`see which there are with: leger secrets versions ${name}`],
          });
    case 412:
      return new LegerError("VERSION_CLAIMED", `${what}: this number is or once was in use`, {
        hints: ["numbers are never used again; take a higher one"],
      });
    case 400:
      return new LegerError("REFUSED", `${what}: refused as a bad request`, {
        hints: call.value === undefined ? [] : ["name and value together may have some 760 KiB"],
      });
    case 500:
      return new LegerError("REFUSED", `${what}: legerd could not do it`, {
        hints: [...(HINTS_OF_500[operation] ?? []), "see why with: journalctl --user -u legerd"],
      });
    default:
      return badAnswer(what, `status ${status}`);
  }
}

/** setec answers 500 to requests that cannot be met as things stand, too. */
const HINTS_OF_500: Partial<Record<Operation, readonly string[]>> = {
  put: ["a name may not be empty nor begin with _internal/"],
  "create-version": ["a name may not be empty"],
  activate: ["a name may not be empty nor begin with _internal/"],
  delete: ["a name may not begin with _internal/"],
  "delete-version": ["the active version cannot be deleted: activate another one first"],
};
