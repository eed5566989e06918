/** pool — requests over connections that are made when needed and kept, by undici. */

import { errors, Pool } from "undici";
import { LegerError, systemCode } from "../core/error.ts";
import { howToStart } from "../core/wire.ts";
import { badAnswer, MAX_ANSWER_BYTES, type Exchange, type HttpAnswer, type HttpRequest } from "./exchange.ts";

type Options = { readonly socketPath: string; readonly timeoutMs: number };

/** Of a unix socket. A signal ends a request at once, with the signal's own reason. */
export class PooledExchange implements Exchange {
  readonly #pool: Pool;
  readonly #socketPath: string;
  readonly #timeoutMs: number;

  constructor({ socketPath, timeoutMs }: Options) {
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

/** Well below what the backlog of a listening socket takes. */
const MAX_CONNECTIONS = 32;

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

/** An answer that only ends with its connection cannot be told from half of one. */
function isFramed(received: HttpAnswer["headers"], status: number): boolean {
  if (status === 304 || status === 204) return true;
  return received["content-length"] !== undefined || received["transfer-encoding"] !== undefined;
}
