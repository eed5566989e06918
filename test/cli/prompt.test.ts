import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { CANARY, keyboard, leger, legerAtTerminal } from "../support/cli.ts";
import { startTestLegerd } from "../support/legerd.ts";

const hasTerminals = (() => {
  try {
    execFileSync("script", ["-qec", "true", "/dev/null"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();

test.skipIf(!hasTerminals)("at a terminal a value is asked for twice and never shown", async () => {
  await using daemon = await startTestLegerd();
  const { status, screen } = await legerAtTerminal(daemon, "secrets set openai_api_key", [
    ["Value of openai_api_key: ", `${CANARY}\r`],
    ["Once more: ", `${CANARY}\r`],
  ]);
  expect(screen).toContain("leger: openai_api_key: stored as version 1, active");
  expect(status).toBe(0);
  expect(Buffer.from((await daemon.client.get("leger/local/openai_api_key")).value.reveal()).toString()).toBe(
    CANARY,
  );
});

test.skipIf(!hasTerminals)("at a terminal deletion is asked about, and Ctrl-C changes nothing", async () => {
  await using daemon = await startTestLegerd({ "leger/local/x1": CANARY });
  const no = await legerAtTerminal(daemon, "secrets delete x1", [["[y/N] ", "n\r"]]);
  expect(no.screen).toContain("nothing was deleted");
  expect(no.status).toBe(1);
  const interrupted = await legerAtTerminal(daemon, "secrets delete x1", [["[y/N] ", "\u0003"]]);
  expect(interrupted.screen).toContain("interrupted");
  expect(interrupted.status).toBe(130);
  expect(await daemon.client.list()).toHaveLength(1);
  const yes = await legerAtTerminal(daemon, "secrets delete x1", [
    ["delete x1 with 1 version? [y/N] ", "y\r"],
  ]);
  expect(yes.status).toBe(0);
  expect(await daemon.client.list()).toEqual([]);
});

test.for([
  ["typed plainly", `${CANARY}\r`, CANARY],
  ["with characters taken back, one of them of two bytes", `${CANARY}xé\u007f\u007f\r`, CANARY],
  ["with the whole line taken back", `wrong\u0015${CANARY}\r`, CANARY],
  ["with arrow keys in between", `ca\u001b[D\u001b[1;5Cnary\r`, "canary"],
  ["in another script", "ключ\r", "ключ"],
] as const)("a value %s", async ([, typed, stored]) => {
  await using daemon = await startTestLegerd();
  // Typed ahead: the second line is there before it is asked for.
  const { raw, ...world } = keyboard(typed + typed);
  expect(await leger(daemon, ["secrets", "set", "x1"], { world })).toMatchObject({ status: 0, stdout: "" });
  expect(raw).toEqual([true, false]);
  expect(Buffer.from((await daemon.client.get("leger/local/x1")).value.reveal()).toString()).toBe(stored);
});

test.for([
  ["two values that differ", `${CANARY}\r${CANARY}x\r`, 64, /the two values differ/],
  ["several lines pasted", `${CANARY}\rsecond\r`, 64, /the two values differ/],
  ["nothing", "\r\r", 65, /the value is empty/],
  ["Ctrl-C", `${CANARY}\u0003`, 130, /interrupted/],
  ["Ctrl-D", "\u0004", 130, /interrupted/],
] as const)(
  "%s at the prompt stores nothing and leaves the terminal as it was",
  async ([, typed, status, about]) => {
    await using daemon = await startTestLegerd();
    const { raw, ...world } = keyboard(typed);
    const result = await leger(daemon, ["secrets", "set", "x1"], { world });
    expect(result.status).toBe(status);
    expect(result.stderr).toMatch(about);
    expect(raw).toEqual([true, false]);
    expect(await daemon.client.list()).toEqual([]);
  },
);

test("there is no prompt that nobody would see", async () => {
  await using daemon = await startTestLegerd();
  const { raw, ...world } = keyboard(`${CANARY}\r${CANARY}\r`);
  const unseen = { ...world, isTTY: { ...world.isTTY, stderr: false } };
  const result = await leger(daemon, ["secrets", "set", "x1"], { world: unseen });
  expect(result.status).toBe(64);
  expect(result.stderr).toMatch(/nobody to ask/);
  expect(raw).toEqual([]);
});
