/** credential — a credential socket as systemd reads it: connect, say nothing, read to end of file. */
import * as net from "node:net";

/** The bytes that came before the end; rejects where the connection was refused or reset. */
export function readCredential(path: string): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const chunks: Buffer[] = [];
  const socket = net.connect({ path, allowHalfOpen: true });
  socket.on("connect", () => socket.end());
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  socket.on("error", reject);
  socket.on("end", () => resolve(Buffer.concat(chunks)));
  socket.on("close", () => reject(new Error("closed")));
  return promise;
}
