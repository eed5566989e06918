/** wire-bun — the wire on Bun: over plain sockets of the C library's, else over `Bun.connect`. */

import { systemCode } from "./error.ts";
import { cString, isReady, libc, POLLIN, POLLOUT, type Libc } from "./libc-bun.ts";
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

/** As `nodeWire`, on Bun: by the C library, or by `Bun.connect` where that cannot be had or does not get through. */
export function bunWire(socketPath: string): Wire {
  return {
    async request(request) {
      const fd = libc === undefined ? NONE : connectTo(libc, socketPath);
      if (libc === undefined || fd === NONE) return decodeAnswer(await askByBun(socketPath, request));
      try {
        return decodeAnswer(ask(libc, fd, socketPath, request));
      } finally {
        libc.close(fd);
      }
    },
  };
}

const NONE = -1;

/** socket(2), unix(7), send(2): the same on x86-64 and AArch64. */
const AF_UNIX = 1;
const SOCK_STREAM_NONBLOCK_CLOEXEC = 1 | 0o4000 | 0o2000000;
const SOCKADDR_BYTES = 110;
const SUN_PATH_AT = 2;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

/** A value and some headers, which is nearly every answer; and what a socket has for who asks again. */
const FIRST_CHUNK_BYTES = 4 * 1024;
const CHUNK_BYTES = 128 * 1024;

/** An open connection, or NONE for any reason: errno may be another's by the time it could be read. */
function connectTo(library: Libc, socketPath: string): number {
  const address = new Uint8Array(SOCKADDR_BYTES);
  address[0] = AF_UNIX;
  const path = cString(socketPath);
  if (path.length > SOCKADDR_BYTES - SUN_PATH_AT) return NONE;
  address.set(path, SUN_PATH_AT);
  const fd = library.socket(AF_UNIX, SOCK_STREAM_NONBLOCK_CLOEXEC, 0);
  if (fd < 0) return NONE;
  if (library.connect(fd, address, SOCKADDR_BYTES) === 0) return fd;
  library.close(fd);
  return NONE;
}

/** Sends the request and gives what comes until the end of file. Nothing else happens in this process meanwhile. */
function ask(library: Libc, fd: number, socketPath: string, request: WireRequest): Uint8Array {
  const { timeoutMs = DEFAULT_TIMEOUT_MS } = request;
  const deadline = performance.now() + timeoutMs;
  const wait = (events: number): void => {
    if (isReady(library, fd, events, deadline - performance.now())) return;
    throw unreachable(socketPath, `did not answer within ${timeoutMs / 1000} s`);
  };
  for (let unsent = encodeRequest(request); unsent.length > 0;) {
    wait(POLLOUT);
    const taken = library.send(fd, unsent, unsent.length, MSG_DONTWAIT | MSG_NOSIGNAL);
    // Whoever closes early may have said why.
    if (taken < 0) break;
    unsent = unsent.subarray(taken);
  }
  const chunks: Uint8Array[] = [];
  for (let received = 0; ;) {
    wait(POLLIN);
    const chunk = new Uint8Array(chunks.length === 0 ? FIRST_CHUNK_BYTES : CHUNK_BYTES);
    const count = library.recv(fd, chunk, chunk.length, MSG_DONTWAIT);
    // The only way for a connected unix socket that is ready (unix(7)).
    if (count < 0) throw brokenOff("ECONNRESET");
    if (count === 0) return joined(chunks, received);
    chunks.push(chunk.subarray(0, count));
    received += count;
    if (received > MAX_ANSWER_BYTES) throw badAnswer("more than 1.5 MiB");
  }
}

function joined(chunks: readonly Uint8Array[], length: number): Uint8Array {
  const [first] = chunks;
  if (first?.length === length) return first;
  return Buffer.concat(chunks, length);
}

function askByBun(socketPath: string, request: WireRequest): Promise<Uint8Array> {
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
