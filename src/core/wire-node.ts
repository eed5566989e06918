/** wire-node — the wire over `node:net`. */

import { connect } from "node:net";
import { systemCode } from "./error.ts";
import {
  badAnswer,
  brokenOff,
  decodeAnswer,
  DEFAULT_TIMEOUT_MS,
  encodeRequest,
  MAX_BODY_BYTES,
  MAX_HEAD_BYTES,
  tooLong,
  unconnected,
  unreachable,
  type Wire,
  type WireAnswer,
  type WireRequest,
} from "./wire.ts";

/**
 * A wire to the unix socket at `socketPath`: one connection per request, closed whatever happens. It does not
 * look at who owns the socket; that is `assertSafeSocket`, before.
 */
export function nodeWire(socketPath: string, { maxBodyBytes = MAX_BODY_BYTES } = {}): Wire {
  return { request: (request) => ask(socketPath, request, maxBodyBytes) };
}

async function ask(socketPath: string, request: WireRequest, maxBodyBytes: number): Promise<WireAnswer> {
  const bytes = encodeRequest(request);
  const { timeoutMs = DEFAULT_TIMEOUT_MS } = request;
  const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();

  const chunks: Buffer[] = [];
  let received = 0;
  let connected = false;
  const socket = connect({ path: socketPath });
  const deadline = setTimeout(() => {
    reject(unreachable(socketPath, `did not answer within ${timeoutMs / 1000} s`));
  }, timeoutMs);
  socket.on("connect", () => {
    connected = true;
    // Never `end`: Node's server takes a half-closed connection for an aborted request.
    socket.write(bytes);
  });
  socket.on("data", (chunk) => {
    received += chunk.length;
    if (received > MAX_HEAD_BYTES + maxBodyBytes) reject(tooLong(maxBodyBytes));
    else chunks.push(chunk);
  });
  socket.on("end", () => resolve(Buffer.concat(chunks, received)));
  socket.on("error", (error) =>
    reject(
      connected
        ? brokenOff(systemCode(error) ?? error.name)
        : unconnected(socketPath, systemCode(error) ?? error.name, error),
    ),
  );
  socket.on("close", () => reject(badAnswer("it closed the connection half-way")));

  try {
    return decodeAnswer(await promise, maxBodyBytes);
  } finally {
    clearTimeout(deadline);
    socket.destroy();
  }
}
