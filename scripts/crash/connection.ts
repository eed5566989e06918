/** connection — one HTTP connection to legerd that never reconnects: an answer, or the certainty that none came. */
import * as net from "node:net";

export type Call = {
  method: "GET" | "POST" | "PUT" | "DELETE";
  path: string;
  headers?: Readonly<Record<string, string>>;
  body?: string;
};

export type Reply = { status: number; body: Buffer };

const END_OF_HEAD = "\r\n\r\n";

/** Connects to a unix socket. */
export function openConnection(socketPath: string): Promise<Connection> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ path: socketPath });
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(new Connection(socket));
    });
  });
}

/** Takes one call at a time. */
export class Connection {
  readonly #socket: net.Socket;
  #received: Buffer = Buffer.alloc(0);
  #deliver: ((reply: Reply | undefined) => void) | undefined;
  #ended = false;

  constructor(socket: net.Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => this.#take(chunk));
    // "close" follows.
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#ended = true;
      this.#finish(undefined);
    });
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** The answer, or undefined when the connection ended before the whole of it was here. */
  ask({ method, path, headers = {}, body = "" }: Call): Promise<Reply | undefined> {
    return new Promise((resolve) => {
      if (this.#ended) {
        resolve(undefined);
        return;
      }
      this.#deliver = resolve;
      const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
      const length = Buffer.byteLength(body);
      this.#socket.write(
        `${method} ${path} HTTP/1.1\r\nhost: legerd\r\n${lines.join("")}content-length: ${length}\r\n\r\n${body}`,
      );
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    this.#received = this.#received.length === 0 ? chunk : Buffer.concat([this.#received, chunk]);
    const headLength = this.#received.indexOf(END_OF_HEAD);
    if (headLength === -1) return;
    const head = this.#received.toString("latin1", 0, headLength);
    const status = /^HTTP\/1\.1 (\d{3}) /.exec(head)?.[1];
    const length = /^content-length: (\d+)$/im.exec(head)?.[1];
    if (status === undefined || length === undefined) throw new Error(`not an answer of legerd's: ${head}`);
    const start = headLength + END_OF_HEAD.length;
    const end = start + Number(length);
    if (this.#received.length < end) return;
    const body = this.#received.subarray(start, end);
    this.#received = this.#received.subarray(end);
    this.#finish({ status: Number(status), body });
  }

  #finish(reply: Reply | undefined): void {
    const deliver = this.#deliver;
    this.#deliver = undefined;
    deliver?.(reply);
  }
}
