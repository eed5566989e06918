/** The crash test itself: a legerd that keeps its word passes, one that forgets does not. */
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const CRASH = fileURLToPath(new URL("../scripts/crash.ts", import.meta.url));
const FORGETFUL = fileURLToPath(new URL("support/forgetful-legerd.ts", import.meta.url));

test("a few kills amid writes lose nothing", async () => {
  const { status, lines } = await crash("--kills", "3", "--writers", "16", "--seed", "3");
  expect(lines.at(-1)).toMatch(
    /^crash: 3 kills in .*, [1-9]\d* writes acknowledged, 3 kills hit .* 0 faults, 0 lost$/,
  );
  expect(status).toBe(0);
});

test("a legerd that comes back without its last commits makes the crash test fail", async () => {
  const { status, lines } = await crash("--kills", "3", "--writers", "16", "--entry", FORGETFUL);
  const kept = lines
    .find((line) => line.includes("everything is kept in "))
    ?.split("everything is kept in ")[1];
  fs.rmSync(kept ?? "", { recursive: true, force: true });
  expect(lines).toContainEqual(expect.stringMatching(/^crash: lost: \w+ \S+ must be ".*", but is "/));
  expect(lines.at(-1)).toMatch(/^crash: 1 kills .* [1-9]\d* faults, [1-9]\d* lost$/);
  expect(kept).toBeDefined();
  expect(status).toBe(1);
});

async function crash(...args: string[]): Promise<{ status: number | null; lines: string[] }> {
  const child = spawn(process.execPath, [CRASH, ...args], { stdio: ["ignore", "pipe", "ignore"] });
  let stdout = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  const status = await new Promise<number | null>((resolve) => {
    child.once("close", resolve);
  });
  return { status, lines: stdout.trimEnd().split("\n") };
}
