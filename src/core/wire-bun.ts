/** wire-bun — the wire over `Bun.connect`, which costs a process a fifth of what `node:net` does there. */

import { systemCode } from "./error.ts";
import {
  badAnswer,
  brokenOff,
  decodeAnswer,
  DEFAULT_TIMEOUT_MS,
  encodeRequest,
  MAX_ANSWER_BYTES,
  unconnected,
  unreachable,
  type Wire,
  type WireRequest,
} from "./wire.ts";

/** What is used of Bun's API: its own types declare `process` and much else once more than Node's. */
type BunSocket = {
  /** How many bytes were taken; the rest is to be offered again once drained. -1: the socket is closed. */
  write(bytes: Uint8Array): number;
  /** Closes at once, whatever was not sent. */
  terminate(): void;
};

declare const Bun: {
  connect(options: {
    unix: string;
    socket: {
      open(socket: BunSocket): void;
      drain(socket: BunSocket): void;
      /** The chunk is the callee's. */
      data(socket: BunSocket, chunk: Uint8Array): void;
      end(socket: BunSocket): void;
      close(socket: BunSocket): void;
      error(socket: BunSocket, error: Error): void;
      connectError(socket: BunSocket, error: Error): void;
    };
  }): Promise<BunSocket>;
};

/** As `nodeWire`, on Bun. */
export function bunWire(socketPath: string): Wire {
  return { request: (request) => ask(socketPath, request).then(decodeAnswer) };
}

function ask(socketPath: string, request: WireRequest): Promise<Uint8Array> {
  let unsent = encodeRequest(request);
  const { timeoutMs = DEFAULT_TIMEOUT_MS } = request;
  const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
  const deadline = setTimeout(() => {
    reject(unreachable(socketPath, `did not answer within ${timeoutMs / 1000} s`));
  }, timeoutMs);
  const chunks: Uint8Array[] = [];
  let received = 0;
  const send = (socket: BunSocket): void => {
    const taken = socket.write(unsent);
    unsent = taken > 0 ? unsent.subarray(taken) : unsent;
  };
  const notConnected = (error: Error): void =>
    reject(unconnected(socketPath, systemCode(error) ?? error.name, error));

  Bun.connect({
    unix: socketPath,
    socket: {
      open: send,
      drain: send,
      data(socket, chunk) {
        received += chunk.length;
        if (received <= MAX_ANSWER_BYTES) {
          chunks.push(chunk);
        } else {
          reject(badAnswer("more than 1.5 MiB"));
          socket.terminate();
        }
      },
      end: () => resolve(Buffer.concat(chunks, received)),
      close: () => resolve(Buffer.concat(chunks, received)),
      error: (_socket, error) => reject(brokenOff(systemCode(error) ?? error.name)),
      connectError: (_socket, error) => notConnected(error),
    },
  }).catch(notConnected);
  return promise.finally(() => clearTimeout(deadline));
}
