/**
 * load — a process that keeps N connections busy for a while and says what it saw, as JSON on standard output.
 *
 * A process of its own, and sockets driven by hand, so that it takes as little as it can from the server's core.
 */
import * as net from "node:net";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    socket: { type: "string" },
    clients: { type: "string" },
    seconds: { type: "string" },
    /** Names are leger/local/k0 … k(names-1). */
    names: { type: "string" },
    /** Of those, how many are asked for. */
    spread: { type: "string" },
    /** What one more connection does all the while. */
    beside: { type: "string", default: "nothing" },
    path: { type: "string", default: "/api/get" },
  },
});

const socketPath = values.socket ?? "";
const clients = Number(values.clients);
const spread = Number(values.spread);
const end = performance.now() + Number(values.seconds) * 1000;
const latencies: number[] = [];
const besideLatencies: number[] = [];
let failures = 0;

function requestBytes(path: string, body: string): Buffer {
  return Buffer.from(
    `POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n` +
      `Sec-X-Tailscale-No-Browsers: setec\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

/** Sends what `next` gives, one after the other, until the time is up. */
function loop(next: () => Buffer, into: number[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ path: socketPath });
    let missing = -1;
    let head = "";
    let sentAt = 0;
    const send = (): void => {
      if (performance.now() > end) {
        socket.destroy();
        resolve();
        return;
      }
      missing = -1;
      head = "";
      sentAt = performance.now();
      socket.write(next());
    };
    socket.on("connect", send);
    socket.on("error", reject);
    socket.on("data", (chunk: Buffer) => {
      if (missing === -1) {
        head += chunk.toString("latin1");
        const headEnd = head.indexOf("\r\n\r\n");
        if (headEnd === -1) return;
        const length = /content-length: (\d+)/i.exec(head)?.[1];
        missing = Number(length) - (head.length - headEnd - 4);
        if (!head.startsWith("HTTP/1.1 200")) failures += 1;
      } else {
        missing -= chunk.length;
      }
      if (missing > 0) return;
      into.push(performance.now() - sentAt);
      send();
    });
  });
}

const reads = Array.from({ length: Math.min(spread, 4096) }, (_, at) => {
  const name = spread <= 4096 ? at : Math.floor((at / 4096) * spread);
  return requestBytes(values.path, JSON.stringify({ Name: `leger/local/k${name}` }));
});
let writes = 0;
const beside: Record<string, (() => Buffer) | undefined> = {
  nothing: undefined,
  writer: () => {
    writes += 1;
    const name = `leger/local/k${writes % Number(values.names)}`;
    const value = Buffer.from(`bench ${process.pid} ${writes}`).toString("base64");
    return requestBytes("/api/put", JSON.stringify({ Name: name, Value: value }));
  },
  list: () => requestBytes("/api/list", "{}"),
};

const started = performance.now();
const nextRead = (): Buffer => reads[Math.floor(Math.random() * reads.length)] ?? Buffer.alloc(0);
const besideLoop = beside[values.beside];
await Promise.all([
  ...Array.from({ length: clients }, () => loop(nextRead, latencies)),
  ...(besideLoop === undefined ? [] : [loop(besideLoop, besideLatencies)]),
]);
const seconds = (performance.now() - started) / 1000;

function percentile(sorted: Float64Array, share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

function summary(samples: number[]): object {
  const sorted = Float64Array.from(samples).toSorted();
  return {
    count: sorted.length,
    perSecond: sorted.length / seconds,
    p50: percentile(sorted, 0.5),
    p99: percentile(sorted, 0.99),
  };
}
process.stdout.write(
  `${JSON.stringify({ main: summary(latencies), beside: summary(besideLatencies), failures })}\n`,
);
