/** raw-http — requests sent byte for byte over a unix socket, for what an HTTP client would not send. */
import * as net from "node:net";

export type RawRequest = {
  method: string;
  path: string;
  headers?: Readonly<Record<string, string | readonly string[]>>;
  body?: Uint8Array | undefined;
  /** The body in these pieces, chunked. */
  chunks?: readonly Uint8Array[] | undefined;
};

export type RawAnswer = { status: number; headers: Map<string, string>; body: Buffer };

/** Sends one request on a connection of its own and reads the answer to its end. */
export async function sendRaw(socketPath: string, request: RawRequest): Promise<RawAnswer> {
  return parseAnswer(await exchange(socketPath, encode(request)));
}

/** Sends bytes and gives back all that comes until the other side closes. */
export function exchange(socketPath: string, bytes: Uint8Array): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const received: Buffer[] = [];
    const socket = net.connect({ path: socketPath }, () => void socket.write(bytes));
    socket.on("data", (chunk: Buffer) => received.push(chunk));
    socket.on("error", reject);
    socket.on("close", () => resolve(Buffer.concat(received)));
  });
}

function encode({ method, path, headers = {}, body, chunks }: RawRequest): Buffer {
  const lines = [`${method} ${path} HTTP/1.1`, "Host: legerd", "Connection: close"];
  for (const [name, value] of Object.entries(headers)) {
    for (const one of typeof value === "string" ? [value] : value) lines.push(`${name}: ${one}`);
  }
  if (chunks !== undefined) lines.push("Transfer-Encoding: chunked");
  else if (body !== undefined) lines.push(`Content-Length: ${body.length}`);
  const head = Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "utf8");
  if (chunks === undefined) return Buffer.concat([head, body ?? Buffer.alloc(0)]);
  const framed = chunks
    .filter((chunk) => chunk.length > 0)
    .flatMap((chunk) => [Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from("\r\n")]);
  return Buffer.concat([head, ...framed, Buffer.from("0\r\n\r\n")]);
}

function parseAnswer(bytes: Buffer): RawAnswer {
  const end = bytes.indexOf("\r\n\r\n");
  const [statusLine = "", ...lines] = bytes.subarray(0, end).toString("latin1").split("\r\n");
  const headers = new Map(
    lines.map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const;
    }),
  );
  return { status: Number(statusLine.split(" ")[1]), headers, body: bytes.subarray(end + 4) };
}
