/** over-wire — requests over leger's own wire, a connection for each: for the few that a command makes, since undici takes longer to load. */

import { LegerError } from "../core/error.ts";
import type { Wire } from "../core/wire.ts";
import { REQUEST_TIMEOUT_MS, type Exchange } from "./exchange.ts";

/** A signal is looked at before a request and after it. */
export function overWire(wire: Wire, timeoutMs: number = REQUEST_TIMEOUT_MS): Exchange {
  return {
    async request({ method, path, headers = {}, body, what = `${method} ${path}`, signal }) {
      signal?.throwIfAborted();
      const sent = body === undefined ? {} : { body: Buffer.from(body) };
      try {
        const answer = await wire.request({ method, path, headers, timeoutMs, ...sent });
        return { ...answer, headers: Object.fromEntries(answer.headers) };
      } catch (error) {
        if (!(error instanceof LegerError)) throw error;
        const { code, message, hints, cause } = error;
        throw new LegerError(code, `${what}: ${message}`, { hints, cause });
      } finally {
        signal?.throwIfAborted();
      }
    },
    async [Symbol.asyncDispose]() {},
  };
}
