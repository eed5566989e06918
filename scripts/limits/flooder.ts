/** flooder — a process of its own that floods a door: opens connections and drops them, half of them amid a request. */
import * as net from "node:net";
import { systemCode } from "../../src/core/error.ts";

const [socketPath = "", count = "0", atOnce = "1"] = process.argv.slice(2);

let opened = 0;
/** By the kernel, for want of room in the queue. */
let turnedAway = 0;

async function drop(): Promise<void> {
  while (opened < Number(count)) {
    opened += 1;
    const half = opened % 2 === 0;
    const socket = net.connect({ path: socketPath });
    const { promise, resolve } = Promise.withResolvers<void>();
    socket.on("connect", () => {
      if (half) socket.write("POST /api/put HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
      setImmediate(() => socket.destroy());
    });
    socket.on("error", (error) => (turnedAway += systemCode(error) === "EAGAIN" ? 1 : 0));
    socket.on("close", () => resolve());
    await promise;
  }
}

await Promise.all(Array.from({ length: Number(atOnce) }, drop));
process.stdout.write(`${turnedAway}\n`);
