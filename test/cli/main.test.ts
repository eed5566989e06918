import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { Writable } from "node:stream";
import { expect, test } from "vitest";
import { VERSION, versionLine } from "../../src/core/version.ts";
import { CANARY, expectSpoken, leger, legerInShell } from "../support/cli.ts";
import { makePlaces, startTestLegerd } from "../support/legerd.ts";

const COMMANDS = [
  "secrets set",
  "secrets get",
  "secrets list",
  "secrets info",
  "secrets versions",
  "secrets activate",
  "secrets delete",
  "secrets delete-version",
  "secrets fetch",
  "services set",
  "services show",
  "services list",
  "services delete",
  "podman sync",
  "podman status",
  "podman install",
  "podman uninstall",
  "door add",
  "door list",
  "door remove",
  "door explain",
  "token create",
  "token list",
  "token revoke",
  "audit",
  "status",
  "doctor",
  "version",
] as const;

test.for(COMMANDS)("--help has an example of leger %s, and needs no daemon", async (command) => {
  const words = command.split(" ");
  using places = makePlaces();
  for (const args of [
    [...words, "--help"],
    ["help", ...words],
  ]) {
    const { status, stdout, stderr } = await leger(places, args);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toMatch(new RegExp(`\\nExamples:\\n(?:.|\\n)*  leger ${command}`));
    expect(stdout.split("\n").every((line) => line.length <= 100)).toBe(true);
  }
});

test("--help lists every command, driver included", async () => {
  using places = makePlaces();
  const { stdout } = await leger(places, ["--help"]);
  for (const command of COMMANDS) expect(stdout).toContain(`leger ${command.split(" ")[0]} `);
  expect(stdout).toContain("leger driver ");
});

test("--help fits a narrow terminal", async () => {
  using places = makePlaces();
  const { stdout } = await leger(places, ["secrets", "--help"], { world: { columns: 60 } });
  expect(stdout.split("\n").filter((line) => line.length > 60)).toEqual([]);
});

test("it says its version, for people and for programs", async () => {
  using places = makePlaces();
  expect(await leger(places, ["--version"])).toEqual({
    status: 0,
    stdout: `${versionLine("leger")}\n`,
    stderr: "",
  });
  expect((await leger(places, ["version"])).stdout).toBe(`${versionLine("leger")}\n`);
  expect(JSON.parse((await leger(places, ["version", "--json"])).stdout)).toEqual({
    schema_version: 1,
    version: VERSION,
    commit: null,
    node: process.versions.node,
    bun: null,
  });
});

test.for([
  ["nothing at all", [], /which command/],
  ["nothing but what isn't a command", ["--", "secrets", "list"], /which command/],
  ["a group alone", ["secrets"], /secrets: which command/],
  ["a mistyped group", ["secrtes"], /did you mean "secrets"/],
  ["a mistyped command", ["secrets", "lst"], /did you mean "list"/],
  ["a command without its group", ["list"], /did you mean "leger secrets list"/],
  ["a mistyped option", ["secrets", "get", "x", "--vresion", "3"], /unknown option --vresion/],
  [
    "an option that needs a value",
    ["secrets", "get", "x", "--namespace"],
    /--namespace needs a value|an argument is missing/,
  ],
  [
    "an option given twice",
    ["secrets", "list", "--namespace", "a", "--namespace", "b"],
    /--namespace is given more than once/,
  ],
  ["one argument too many", ["secrets", "list", "x"], /too many arguments/],
  ["the hot path behind an option", ["--socket", "/x", "secrets", "fetch", "openwebui"], /must come first/],
] as const)("%s", async ([, args, about]) => {
  using places = makePlaces();
  const result = await leger(places, args);
  expect(result).toMatchObject({ status: 64, stdout: "" });
  expectSpoken(result, about);
  expect(result.stderr).toMatch(/leger: hint: /);
});

test.for([
  ["secrets", "list"],
  ["secrets", "get", "x1"],
  ["services", "list"],
  ["podman", "status"],
] as const)("without a daemon, leger %s %s says so and how to start one", async (args) => {
  using places = makePlaces();
  const result = await leger(places, args);
  expect(result).toMatchObject({ status: 69, stdout: "" });
  expectSpoken(result, /no socket there/);
  expect(result.stderr).toContain("systemctl --user start legerd");
});

test("status: reachable or not", async () => {
  await using daemon = await startTestLegerd({ "leger/local/x1": CANARY });
  const up = await leger(daemon, ["status", "--json"]);
  expect(JSON.parse(up.stdout)).toMatchObject({
    schema_version: 1,
    reachable: true,
    socket: daemon.socket,
    namespace: "local",
    version: VERSION,
    client_version: VERSION,
    secrets: 1,
    services: 0,
    podman_entries: 0,
    audit_log: path.join(daemon.stateDir, "audit.log"),
  });
  expect((await leger(daemon, ["status"])).stdout).toMatch(/^legerd {5}.*, process \d+, since /);

  using nobody = makePlaces();
  const down = await leger(nobody, ["status", "--json"]);
  expect(down.status).toBe(69);
  expect(JSON.parse(down.stdout)).toMatchObject({
    schema_version: 1,
    reachable: false,
    socket: nobody.socket,
  });
  expectSpoken(down, /no socket there/);
});

test("a daemon that answers nonsense is said to", async () => {
  using places = makePlaces();
  mkdirSync(path.dirname(places.socket), { mode: 0o700 });
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () =>
      socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${CANARY.length}\r\n\r\n${CANARY}`),
    );
  });
  const mask = process.umask(0o077);
  await new Promise<void>((resolve) => server.listen(places.socket, resolve));
  process.umask(mask);
  try {
    for (const args of [["secrets", "get", "x1"], ["services", "list"], ["status"]]) {
      const result = await leger(places, args);
      expect(result).toMatchObject({ status: 69, stdout: "" });
      expectSpoken(result, /the answer is not one of legerd's/);
    }
  } finally {
    server.close();
  }
});

test("the configuration names the namespace; flags and environment come first", async () => {
  await using daemon = await startTestLegerd({ "leger/team/x1": "team", "leger/local/x1": "local" });
  const config = path.join(daemon.base, ".config", "leger");
  mkdirSync(config, { recursive: true });
  writeFileSync(path.join(config, "config.json"), JSON.stringify({ namespace: "team" }));
  const get = async (args: string[], env = {}) =>
    (await leger(daemon, ["secrets", "get", "x1", ...args], { env })).stdout;
  expect(await get([])).toBe("team");
  expect(await get([], { LEGER_NAMESPACE: "local" })).toBe("local");
  expect(await get(["--namespace", "team"], { LEGER_NAMESPACE: "local" })).toBe("team");
  expectSpoken(
    await leger(daemon, ["secrets", "list", "--socket", "/nowhere/x.sock"]),
    /\/nowhere\/x\.sock: no socket/,
  );
});

test.for([
  ["an unknown key", '{"namespce":"x"}', /config\.json: unknown key "namespce"/],
  ["a namespace that is none", '{"namespace":"a/b"}', /config\.json: namespace: /],
  [
    "a socket, which Podman's driver could not know of",
    '{"socket":"/x/y"}',
    /config\.json: unknown key "socket"/,
  ],
  ["no JSON", `{"socket": ${CANARY}`, /config\.json is not JSON/],
] as const)("a configuration with %s is refused", async ([, text, about]) => {
  using places = makePlaces();
  const config = path.join(places.base, ".config", "leger");
  mkdirSync(config, { recursive: true });
  writeFileSync(path.join(config, "config.json"), text);
  const result = await leger(places, ["secrets", "list"]);
  expect(result).toMatchObject({ status: 78, stdout: "" });
  expectSpoken(result, about);
});

test("a reader that goes away is no failure; a full disk is", async () => {
  await using daemon = await startTestLegerd({ "leger/local/x1": CANARY });
  const gone = await leger(daemon, ["secrets", "list"], { world: { stdout: failing("EPIPE") } });
  expect(gone).toMatchObject({ status: 0, stderr: "" });
  const full = await leger(daemon, ["secrets", "list"], { world: { stdout: failing("ENOSPC") } });
  expect(full.status).toBe(74);
  expectSpoken(full, /cannot write to standard output \(ENOSPC\)/);
});

test("the program itself: pipes that close, a full disk, closed descriptors, exit statuses", async () => {
  await using daemon = await startTestLegerd({ "leger/local/x1": CANARY });
  const [pipe, full, nowhere, closed, missing] = await Promise.all([
    legerInShell(daemon, "$LEGER secrets list --json | head -0; echo ${PIPESTATUS[0]}"),
    legerInShell(daemon, "$LEGER secrets get x1 >/dev/full"),
    legerInShell(daemon, "$LEGER secrets get x1 >&-"),
    legerInShell(daemon, "$LEGER secrets set x2 <&-"),
    legerInShell(daemon, "$LEGER secrets get nope"),
  ]);
  expect(pipe).toEqual({ status: 0, stdout: "0\n", stderr: "" });
  expect(full).toMatchObject({ status: 74, stdout: "" });
  expectSpoken(full, /ENOSPC/);
  expect(nowhere).toMatchObject({ status: 74, stdout: "" });
  expectSpoken(nowhere, /cannot write to standard output \(EBADF\)/);
  expect(closed).toMatchObject({ status: 65, stdout: "" });
  expectSpoken(closed, /the value is empty/);
  expect(missing).toMatchObject({ status: 66, stdout: "" });
  expectSpoken(missing, /not found/);
});

function failing(code: string): Writable {
  return new Writable({
    write: (_chunk, _encoding, done) => done(Object.assign(new Error(CANARY), { code })),
  });
}
