/**
 * socket-holder — stands for systemd's side of a .socket unit: opens SOCKET (octal MODE) and keeps it open without ever
 * accepting; for each byte on standard input it runs COMMAND with the socket as descriptor 3, named NAME, to its end,
 * and then writes "ended STATUS" on standard output. Arguments: SOCKET, MODE, NAME, COMMAND…
 */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as net from "node:net";
import { descriptorOf, withSockets } from "./descriptors.ts";

const [, , socket = "", mode = "", name = "", ...command] = process.argv;
process.umask(0o777 & ~Number.parseInt(mode, 8));
const server = net.createServer();
// Everything from here on blocks, so that this process never comes to accept a connection.
server.listen(socket, () => {
  const fd = descriptorOf(server);
  const byte = Buffer.alloc(1);
  while (fs.readSync(0, byte) === 1) {
    const { file, args } = withSockets([name], command);
    const { status } = spawnSync(file, args, { stdio: ["ignore", "ignore", "inherit", fd] });
    fs.writeSync(1, `ended ${status}\n`);
  }
  server.close();
});
