import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CANARY, expectSpoken, leger, legerInShell } from "../support/cli.ts";
import type { DoorConfig } from "../../src/daemon/config.ts";
import { processesHolding } from "../support/canary.ts";
import { startTestLegerd, type Places, type TestLegerd } from "../support/legerd.ts";
import { startFakeLegerd } from "../support/podman-driver.ts";

const KEY = "leger/local/openai_api_key";

test("a secret is set, read, rotated, rolled back and deleted, and no value shows but where it was asked for", async () => {
  await using daemon = await startTestLegerd();
  const run = (...args: string[]) => leger(daemon, ["secrets", ...args]);
  const value = async (...args: string[]) =>
    (await leger(daemon, ["secrets", "get", "openai_api_key", ...args], { printsValue: true })).stdout;

  expect(await leger(daemon, ["secrets", "set", "openai_api_key"], { stdin: `${CANARY}-1` })).toEqual({
    status: 0,
    stdout: "",
    stderr: "leger: openai_api_key: stored as version 1, active\n",
  });
  expect(await leger(daemon, ["secrets", "set", "openai_api_key"], { stdin: `${CANARY}-2` })).toEqual({
    status: 0,
    stdout: "",
    stderr:
      "leger: openai_api_key: stored as version 2, not active; activate it with: leger secrets activate openai_api_key 2\n",
  });
  expect(await value()).toBe(`${CANARY}-1`);
  expect(await value("--version", "2")).toBe(`${CANARY}-2`);
  expect(await run("activate", "openai_api_key", "2")).toMatchObject({ status: 0, stdout: "" });
  expect(await value()).toBe(`${CANARY}-2`);

  const third = await leger(daemon, ["secrets", "set", "openai_api_key", "--activate", "--json"], {
    stdin: `${CANARY}-3`,
  });
  expect(JSON.parse(third.stdout)).toEqual({
    schema_version: 1,
    name: KEY,
    version: 3,
    active: true,
    new: true,
  });
  const again = await leger(daemon, ["secrets", "set", "openai_api_key", "--json"], { stdin: `${CANARY}-3` });
  expect(JSON.parse(again.stdout)).toMatchObject({ version: 3, active: true, new: false });

  expect((await run("list")).stdout).toBe("NAME            ACTIVE  VERSIONS\nopenai_api_key  3       1-3\n");
  expect(JSON.parse((await run("list", "--json")).stdout)).toEqual({
    schema_version: 1,
    namespace: "local",
    secrets: [{ name: KEY, active: 3, versions: [1, 2, 3] }],
  });
  expect(await run("delete-version", "openai_api_key", "2", "--yes")).toMatchObject({ status: 0 });
  expect((await run("versions", "openai_api_key")).stdout).toBe("VERSION  STATE\n1\n3        active\n");
  expect(JSON.parse((await run("info", "openai_api_key", "--json")).stdout)).toEqual({
    schema_version: 1,
    name: KEY,
    active: 3,
    versions: [1, 3],
    services: [],
  });
  expect(await run("delete", "openai_api_key", "--yes", "--json")).toMatchObject({
    status: 0,
    stdout: `{"schema_version":1,"name":"${KEY}","deleted":true}\n`,
  });
  expect(await daemon.client.list()).toEqual([]);
  expect(readFileSync(path.join(daemon.stateDir, "audit.log"), "utf8")).not.toContain(CANARY);
});

test.for([
  ["bytes that are not UTF-8", Uint8Array.of(0, 255, 10, 0)],
  ["a newline at the end", `${CANARY}\n`],
  ["699 KiB", Buffer.alloc(699 * 1024, 65)],
] as const)("what is piped in comes out again: %s", async ([, bytes]) => {
  await using daemon = await startTestLegerd();
  expect(await leger(daemon, ["secrets", "set", "x1"], { stdin: bytes })).toMatchObject({ status: 0 });
  const { stdout } = await leger(daemon, ["secrets", "get", "x1"], { printsValue: true });
  expect(Buffer.from(stdout, "latin1").equals(Buffer.from(bytes))).toBe(true);
});

test("a newline follows the value at a terminal only", async () => {
  await using daemon = await startTestLegerd({ "leger/local/x1": CANARY });
  const world = { isTTY: { stdin: false, stdout: true, stderr: true } };
  const { stdout } = await leger(daemon, ["secrets", "get", "x1"], { printsValue: true, world });
  expect(stdout).toBe(`${CANARY}\n`);
});

test("white space around a value is warned of, and left out when asked", async () => {
  await using daemon = await startTestLegerd();
  const newline = await leger(daemon, ["secrets", "set", "x1"], { stdin: `${CANARY}\n` });
  expect(newline.stderr).toMatch(
    /^leger: warning: the value ends with a newline, and is stored with it\nleger: hint: .*--trim-space\n/,
  );
  const space = await leger(daemon, ["secrets", "set", "x2"], { stdin: ` ${CANARY}` });
  expect(space.stderr).toMatch(/^leger: warning: the value has white space at its ends/);
  const trimmed = await leger(daemon, ["secrets", "set", "x3", "--trim-space"], {
    stdin: ` \t${CANARY} x\r\n`,
  });
  expect(trimmed.stderr).not.toContain("warning");
  expect(Buffer.from((await daemon.client.get("leger/local/x3")).value.reveal()).toString()).toBe(
    `${CANARY} x`,
  );
});

test("a value comes from a file, named from where one is, or from a descriptor", async () => {
  await using daemon = await startTestLegerd();
  writeFileSync(path.join(daemon.base, "key.pem"), CANARY);
  expect(await leger(daemon, ["secrets", "set", "x1", "--file", "key.pem"])).toMatchObject({ status: 0 });
  expect(Buffer.from((await daemon.client.get("leger/local/x1")).value.reveal()).toString()).toBe(CANARY);
  const substituted = await legerInShell(
    daemon,
    `$LEGER secrets set x2 --file <(printf %s-2 "$(cat ${daemon.base}/key.pem)")`,
  );
  expect(substituted).toMatchObject({ status: 0, stderr: "leger: x2: stored as version 1, active\n" });
  expect(Buffer.from((await daemon.client.get("leger/local/x2")).value.reveal()).toString()).toBe(
    `${CANARY}-2`,
  );
});

test.for([
  ["set", CANARY],
  ["get", undefined],
] as const)("secrets %s: no process carries the value where others see it", async ([command, stdin]) => {
  const seen: ReturnType<typeof processesHolding>[] = [];
  const answer = JSON.stringify({ Value: Buffer.from(CANARY).toString("base64"), Version: 1 });
  // The command is at work until it has its answer.
  await using fake = await startFakeLegerd((socket) => {
    socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${answer.length}\r\n\r\n${answer.slice(0, 5)}`, () => {
      seen.push(processesHolding(CANARY, "looked_at"));
      socket.end(answer.slice(5));
    });
  });
  const options = { printsValue: true, ...(stdin === undefined ? {} : { stdin }) };
  const result = await legerInShell(fake, `$LEGER secrets ${command} looked_at`, options);
  if (command === "get") expect(result).toEqual({ status: 0, stdout: CANARY, stderr: "" });
  expect(seen.length).toBeGreaterThan(0);
  for (const { holding, looked } of seen) {
    expect(looked).toContain("looked_at");
    expect(holding).toEqual([]);
  }
});

test("names: short in the namespace, whole with a slash, as they are with --exact", async () => {
  await using daemon = await startTestLegerd({ "leger/team/x1": "team", "other/x1": "other", x1: "bare" });
  const get = async (...args: string[]) => (await leger(daemon, ["secrets", "get", ...args])).stdout;
  expect(await get("x1", "--namespace", "team")).toBe("team");
  expect((await leger(daemon, ["secrets", "get", "x1"], { env: { LEGER_NAMESPACE: "team" } })).stdout).toBe(
    "team",
  );
  expect(await get("other/x1")).toBe("other");
  expect(await get("x1", "--exact")).toBe("bare");
  const listed = await leger(daemon, ["secrets", "list", "--namespace", "team"]);
  expect(listed.stdout.split("\n").map((line) => line.split(" ")[0])).toEqual([
    "NAME",
    "x1",
    "other/x1",
    "x1",
    "",
  ]);
  expect(listed.stderr).toContain("--exact");
  const set = await leger(daemon, ["secrets", "set", "x1", "--namespace", "team"], { stdin: "2" });
  expect(set.stderr).toContain("leger secrets activate leger/team/x1 2");
});

test("a name that would command a terminal is shown, not obeyed", async () => {
  await using daemon = await startTestLegerd({ "leger/local/\u001b[2Jx\u009b1m": "v" });
  const { stdout } = await leger(daemon, ["secrets", "list"]);
  expect(stdout).toContain("\\x1b[2Jx\\x9b1m");
  expect(stdout.replaceAll("\n", "")).not.toMatch(/\p{Cc}/u);
});

test("who may put but not look is told what happened", async () => {
  await using daemon = await startTestLegerd({}, { doors: writersDoor });
  const result = await leger(daemon, ["secrets", "set", "x1"], { stdin: CANARY });
  expect(result).toMatchObject({ status: 0, stderr: "leger: x1: stored as version 1\n" });
  expectSpoken(await leger(daemon, ["secrets", "get", "x1"]), /denied/);
});

describe("what is refused, and changes nothing", () => {
  let daemon: TestLegerd;
  beforeAll(async () => void (daemon = await startTestLegerd({ "leger/local/x1": CANARY })));
  afterAll(() => daemon[Symbol.asyncDispose]());

  test.for([
    ["no such secret", ["get", "nope"], 66, /get leger\/local\/nope: not found/],
    ["no such version", ["get", "x1", "--version", "9"], 66, /version 9: not found/],
    ["info of nothing", ["info", "nope"], 66, /not found/],
    ["activating a version that is not there", ["activate", "x1", "9"], 66, /version 9: not found/],
    ["deleting nothing", ["delete", "nope", "--yes"], 66, /not found/],
    ["deleting a version that is not there", ["delete-version", "x1", "9", "--yes"], 66, /no version 9/],
    ["deleting the active version", ["delete-version", "x1", "1", "--yes"], 1, /version 1 is the active one/],
    ["deleting with nobody to ask", ["delete", "x1"], 64, /nobody here to ask/],
    ["version 0", ["get", "x1", "--version", "0"], 64, /a version is a number from 1/],
    ["a version that is a word", ["activate", "x1", "latest"], 64, /a version is a number from 1/],
    ["a version beyond 32 bits", ["activate", "x1", "4294967296"], 64, /a version is a number from 1/],
    ["an empty name", ["get", ""], 64, /empty/],
    ["no name", ["get"], 64, /an argument is missing/],
    ["an empty value", ["set", "x1"], 65, /the value is empty/],
    [
      "a file that is not there",
      ["set", "x1", "--file", "nope"],
      74,
      /cannot read .*nope: there is no such file/,
    ],
    ["a directory for a file", ["set", "x1", "--file", "."], 74, /cannot read .*: it is a directory/],
    ["a namespace with a slash", ["list", "--namespace", "a/b"], 64, /--namespace is not a namespace/],
  ] as const)("%s", async ([, args, status, about]) => {
    const result = await leger(daemon, ["secrets", ...args]);
    expect(result).toMatchObject({ status, stdout: "" });
    expectSpoken(result, about);
    expect((await daemon.client.list()).map(({ Name, Versions }) => [Name, Versions])).toEqual([
      ["leger/local/x1", [1]],
    ]);
  });

  test.for([
    ["as a second argument", ["secrets", "set", "openai_api_key", CANARY]],
    [
      "as a second argument after options",
      ["secrets", "set", "openai_api_key", "--activate", `sk-${CANARY}`],
    ],
    ["as the name", ["secrets", "set", `sk-${CANARY}`]],
    ["behind the name", ["secrets", "set", `x1=${CANARY.slice(0, 12)}`]],
    ["as a long name", ["secrets", "get", `${CANARY}Ab1${"x".repeat(30)}`]],
    ["as a name with spaces", ["secrets", "info", `leger/local/${CANARY} x`]],
    ["as an option", ["secrets", "set", "openai_api_key", `--${CANARY}`]],
    ["as an option's value", ["secrets", "set", "openai_api_key", `--value=${CANARY}`]],
    ["as short options", ["secrets", "set", "openai_api_key", `-${CANARY}`]],
    ["as a command", [CANARY]],
    ["as a command's command", ["secrets", CANARY]],
    ["as a version", ["secrets", "get", "openai_api_key", "--version", CANARY]],
    ["as a namespace", ["secrets", "list", "--namespace", `${CANARY}/`]],
    ["as a service's secret", ["services", "set", "openwebui", `OPENAI_API_KEY=sk-${CANARY}`]],
    ["as a service's variable", ["services", "set", "openwebui", `sk-${CANARY}=openai_api_key`]],
    ["as a service's only word", ["services", "set", "openwebui", `sk-${CANARY}`]],
    ["as a service", ["services", "set", `-- ${CANARY}`, "openai_api_key"]],
    ["in --map", ["podman", "sync", "--map", `sk-${CANARY}`]],
    ["in --map, as the secret", ["podman", "sync", "--map", `x=sk-${CANARY}`]],
    ["as a time", ["audit", "--since", CANARY]],
    ["as a flag's choice", ["status", "--json", CANARY]],
  ] as const)("a value typed %s is refused and not repeated", async ([, args]) => {
    // That it is not repeated, `leger` looks at by itself.
    const result = await leger(daemon, args);
    expect(result).toMatchObject({ status: 64, stdout: "" });
    expectSpoken(result, /./);
    expect(readFileSync(path.join(daemon.stateDir, "audit.log"), "utf8")).not.toContain(CANARY);
  });
});

test("an empty value is stored when it is meant", async () => {
  await using daemon = await startTestLegerd();
  expect(await leger(daemon, ["secrets", "set", "x1", "--empty-ok"])).toMatchObject({ status: 0 });
  expect((await daemon.client.get("leger/local/x1")).value.reveal()).toHaveLength(0);
});

test("a value of more than 700 KiB is refused before it is sent", async () => {
  await using daemon = await startTestLegerd();
  const result = await leger(daemon, ["secrets", "set", "x1"], {
    stdin: Buffer.alloc(700 * 1024 + 1, CANARY),
  });
  expect(result.status).toBe(65);
  expectSpoken(result, /larger than 700 KiB/);
  expect(await daemon.client.list()).toEqual([]);
});

test("deleting a secret that services use is warned of", async () => {
  await using daemon = await startTestLegerd({ "leger/local/x1": CANARY });
  await leger(daemon, ["services", "set", "openwebui", "X=x1"]);
  const result = await leger(daemon, ["secrets", "delete", "x1", "--yes"]);
  expect(result).toMatchObject({ status: 0 });
  expect(result.stderr).toBe("leger: warning: x1 is used by these services: openwebui\nleger: x1: deleted\n");
});

function writersDoor({ socket }: Places): DoorConfig[] {
  const grants = [{ action: ["put"], secret: ["*"] }];
  return [{ unix: socket, mode: 0o600, principal: "writer", grants }];
}

test.for(["hf_token", "sk_live_key", "gho_backup", "openai_api_key", "db2_password_of_the_old_host"])(
  "a name that begins like a key but reads like a name is one: %s",
  async (name) => {
    await using daemon = await startTestLegerd({ [`leger/local/${name}`]: "v1" });
    expect(await leger(daemon, ["secrets", "get", name])).toMatchObject({ status: 0, stdout: "v1" });
  },
);
