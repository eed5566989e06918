/** floor — the least an HTTP server on a unix socket can do: reads a body, answers a fixed one. */
import * as http from "node:http";

const [socketPath] = process.argv.slice(2);
const ANSWER = '{"Value":"c2stcHJvai0wMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZg==","Version":1}';

const server = http.createServer((request, response) => {
  request.on("data", () => {});
  request.on("end", () => {
    response.sendDate = false;
    response.writeHead(200, { "content-type": "application/json", "content-length": ANSWER.length });
    response.end(ANSWER);
  });
});
server.listen(socketPath, () => process.stderr.write("floor: ready\n"));
process.once("SIGTERM", () => process.exit(0));
