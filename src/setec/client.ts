/** client — speaks setec's protocol, and legerd's own routes, over a unix socket. */

import { LegerError } from "../core/error.ts";
import { Secret } from "../core/secret.ts";
import { decodeBase64 } from "./decode.ts";
import {
  badAnswer,
  REQUEST_TIMEOUT_MS,
  type Exchange,
  type HttpAnswer,
  type HttpRequest,
  type RequestOptions,
} from "./exchange.ts";
import { headers, type Operation, type SecretInfo, type VersionNumber } from "./protocol.ts";

/** A value and the version that it is. */
export type VersionedSecret = { readonly value: Secret; readonly version: VersionNumber };

type ClientOptions = {
  readonly socketPath: string;
  readonly timeoutMs?: number;
  /** Absent: undici's pool of connections, which is loaded when it is first needed. */
  readonly exchange?: Exchange;
};

/**
 * A client of one daemon. Methods throw LegerError: UNREACHABLE,
 * BAD_ANSWER, DENIED, and what their operation can meet. They throw the signal's own reason when it is aborted.
 */
export class SetecClient {
  readonly #options: ClientOptions;
  #opened: Promise<Exchange> | undefined;

  constructor(options: ClientOptions) {
    this.#options = options;
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

  /** As `Exchange` says. */
  async request(request: HttpRequest): Promise<HttpAnswer> {
    return (await this.#exchange()).request(request);
  }

  /** Lets requests under way end, then closes all connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    await (await this.#exchange())[Symbol.asyncDispose]();
  }

  #exchange(): Promise<Exchange> {
    this.#opened ??= open(this.#options);
    return this.#opened;
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
}

async function open({
  socketPath,
  timeoutMs = REQUEST_TIMEOUT_MS,
  exchange,
}: ClientOptions): Promise<Exchange> {
  if (exchange !== undefined) return exchange;
  const { PooledExchange } = await import("./pool.ts");
  return new PooledExchange({ socketPath, timeoutMs });
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

const MAX_VERSION = 4_294_967_295;

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
