/** hold-store — a process that opens a store, says "open" or the code of the refusal, and holds it until it is killed. */
import { LegerError } from "../../src/core/error.ts";
import { openStore } from "../../src/store/store.ts";

const [, , stateDir = ""] = process.argv;
try {
  const store = openStore({ stateDir });
  await store.mutate({ do: "put", name: "by the child", value: Buffer.from("x") });
  process.stdout.write("open\n");
  process.stdin.resume();
  process.stdin.on("end", () => void store.close());
} catch (error) {
  process.stdout.write(`${error instanceof LegerError ? error.code : String(error)}\n`);
}
