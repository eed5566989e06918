/**
 * fill-store — a process that may write only so much (ulimit -f): fills a store until a put fails, then is allowed
 * more and goes on. Prints what it saw as JSON.
 */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { LegerError } from "../../src/core/error.ts";
import { openStore } from "../../src/store/store.ts";

const [, , stateDir = ""] = process.argv;
await using store = openStore({ stateDir, cacheEntries: 0 });
const acknowledged: string[] = [];
let failure = "none";
while (failure === "none" && acknowledged.length < 500) {
  const name = `secret ${acknowledged.length}`;
  try {
    await store.mutate({ do: "put", name, value: randomBytes(20_000) });
    acknowledged.push(name);
  } catch (error) {
    failure = error instanceof LegerError ? error.code : String(error);
  }
}
const readable = acknowledged.filter((name) => store.get(name).value.reveal().length === 20_000).length;
const listed = (await store.list()).length;
execFileSync("prlimit", ["--pid", String(process.pid), "--fsize=unlimited:"]);
const afterwards = await store.mutate({ do: "put", name: "afterwards", value: Buffer.from("x") });
process.stdout.write(
  JSON.stringify({ acknowledged: acknowledged.length, failure, readable, listed, afterwards }),
);
