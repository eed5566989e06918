/** exchange — one request and its answer over HTTP, as setec's client needs it: how they travel is another's business. */

import { LegerError } from "../core/error.ts";

/** Dispose of it: connections may be kept. */
export type Exchange = AsyncDisposable & {
  /** Any status; redirects are not followed. Throws UNREACHABLE, DENIED (the socket) or BAD_ANSWER. */
  request(request: HttpRequest): Promise<HttpAnswer>;
};

export type RequestOptions = { readonly signal?: AbortSignal | undefined };

export type HttpRequest = RequestOptions & {
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

/** How long one request may take from connecting to the last byte of the answer. */
export const REQUEST_TIMEOUT_MS = 10_000;

/** Far above a list of 100,000 secrets (some 10 MiB), far below what would hurt. */
export const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

/** `detail` must quote nothing that was received. */
export function badAnswer(what: string, detail?: string): LegerError {
  const fact = detail === undefined ? "the answer is not one of legerd's" : `bad answer: ${detail}`;
  return new LegerError("BAD_ANSWER", `${what}: ${fact}`, {
    hints: ["is it legerd that listens there? see: systemctl --user status legerd"],
  });
}
