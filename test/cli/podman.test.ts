import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { run } from "../../src/core/exec.ts";
import { Secret } from "../../src/core/secret.ts";
import { driverCommands } from "../../src/cli/driver-commands.ts";
import { planEntries, type Facts } from "../../src/cli/podman-plan.ts";
import type { PodmanEntry } from "../../src/cli/podman-entries.ts";
import { CANARY, expectSpoken, leger, legerProgram, type CliResult } from "../support/cli.ts";
import { PROJECT_DIR, startTestLegerd, type TestLegerd } from "../support/legerd.ts";
import { workingPodman } from "../support/podman.ts";

test("the driver's commands are those of the shipped containers.conf", () => {
  const shipped = readFileSync(path.join(PROJECT_DIR, "containers.conf.d/50-leger.conf"), "utf8");
  const found = Object.fromEntries(
    [...shipped.matchAll(/^(\w+) = '(.*)'$/gm)].map(([, key, command]) => [key, command]),
  );
  expect(driverCommands()).toEqual(found);
});

test("no command holds what podman's --driver-opts would split", () => {
  for (const command of Object.values(driverCommands("/opt/leger-1.0+x/bin/leger")))
    expect(command).not.toMatch(/[,"=]/);
});

test.for(["leger", "/usr/bin/leger; reboot", "/a b", "/a,b", "/a=b", '/a"b', "/a'b", "/a$b", ""])(
  "podman is not told to run %s",
  (program) => {
    expect(() => driverCommands(program)).toThrow(/--leger/);
  },
);

const ID = "b1a953489cc1697a40d1cd9fa";

/** An entry that sync made, unless `more` says otherwise. */
function entry(name: string, secret: string, more: Partial<PodmanEntry> = {}): PodmanEntry {
  const labels = { leger: "1", "leger.ref": secret };
  return { id: ID, name, driver: "shell", options: driverCommands(), labels, ...more };
}

function plan(facts: Partial<Facts>) {
  const links = (facts.entries ?? []).map(({ id, labels }) => ({ id, secret: labels["leger.ref"] }));
  const { entries, problems } = planEntries({
    namespace: "local",
    secrets: ["leger/local/x1"],
    entries: [],
    links,
    commands: driverCommands(),
    podmanVersion: "5.4.2",
    map: new Map(),
    ...facts,
  });
  return {
    entries: entries.map(({ name, secret, state }) => `${name} ${secret} ${state}`),
    problems: problems.map(({ name, what }) => `${name}: ${what}`),
  };
}

test.for<[string, Partial<Facts>, string[]]>([
  ["nothing there", {}, ["x1 leger/local/x1 missing"]],
  ["what sync made", { entries: [entry("x1", "leger/local/x1")] }, ["x1 leger/local/x1 ok"]],
  [
    "an older leger's commands",
    { entries: [entry("x1", "leger/local/x1", { options: { ...driverCommands(), lookup: "old" } })] },
    ["x1 leger/local/x1 stale"],
  ],
  [
    "another driver",
    { entries: [entry("x1", "leger/local/x1", { driver: "file" })] },
    ["x1 leger/local/x1 stale"],
  ],
  [
    "a legerd that knows nothing of it",
    { entries: [entry("x1", "leger/local/x1")], links: [] },
    ["x1 leger/local/x1 unlinked"],
  ],
  [
    "a legerd that knows it as another's",
    { entries: [entry("x1", "leger/local/x1")], links: [{ id: ID, secret: "leger/local/x2" }] },
    ["x1 leger/local/x1 unlinked"],
  ],
  [
    "an entry whose secret is gone",
    { secrets: [], entries: [entry("x1", "leger/local/x1")] },
    ["x1 leger/local/x1 orphan"],
  ],
  ["a foreign entry of another name", { secrets: [], entries: [entry("mine", "", { labels: {} })] }, []],
  [
    "an entry made by hand that refers to the secret",
    {
      entries: [entry("x1", "", { labels: {}, options: {} })],
      links: [{ id: ID, secret: "leger/local/x1" }],
    },
    ["x1 leger/local/x1 ok"],
  ],
  ["a secret of another namespace", { secrets: ["leger/team/x1", "x1", "leger/local/"] }, []],
  [
    "a secret of another namespace, mapped",
    { secrets: ["leger/team/x1"], map: new Map([["team_x1", "leger/team/x1"]]) },
    ["team_x1 leger/team/x1 missing"],
  ],
  [
    "what was mapped once, without the map",
    { secrets: ["leger/team/x1"], entries: [entry("team_x1", "leger/team/x1")] },
    ["team_x1 leger/team/x1 ok"],
  ],
  [
    "a name that will not do, but a mapped one that does",
    { secrets: ["leger/local/db"], map: new Map([["postgres", "leger/local/db"]]) },
    ["postgres leger/local/db missing"],
  ],
  [
    "a name that will not do, and one that was mapped once",
    { secrets: ["leger/local/db"], entries: [entry("postgres", "leger/local/db")] },
    ["postgres leger/local/db ok"],
  ],
  [
    "a name mapped to another secret than before",
    {
      secrets: ["leger/team/x1", "leger/team/x2"],
      entries: [entry("key", "leger/team/x1")],
      map: new Map([["key", "leger/team/x2"]]),
    },
    ["key leger/team/x2 unlinked"],
  ],
])("with %s, podman's entries are as they should be", ([, facts, entries]) => {
  expect(plan(facts)).toEqual({ entries, problems: [] });
});

const long = "n".repeat(65);

test.for<[string, Partial<Facts>, RegExp]>([
  ["two secrets of one name", { secrets: ["leger/local/a/x1", "leger/local/x1"] }, /^x1: two secrets/],
  [
    "a mapped name that is another secret's",
    { secrets: ["leger/local/x1", "leger/team/x2"], map: new Map([["x1", "leger/team/x2"]]) },
    /^x1: two secrets/,
  ],
  [
    "a foreign entry of that name",
    { entries: [entry("x1", "", { labels: {} })] },
    /^x1: an entry of this name/,
  ],
  [
    "a foreign entry with a value of its own in legerd",
    { entries: [entry("x1", "", { labels: {} })], links: [{ id: ID }] },
    /^x1: an entry of this name/,
  ],
  [
    "a map to a secret that isn't there",
    { map: new Map([["y1", "leger/team/y1"]]) },
    /^y1: there is no such secret/,
  ],
  [
    "a name that begins an id",
    { secrets: ["leger/local/b1a"], entries: [entry("x1", "leger/local/x1")] },
    /^b1a: .* id b1a953/,
  ],
  ["a name that could begin an id", { secrets: ["leger/local/cafe"] }, /^cafe: podman could take it/],
  ["a name with a comma", { secrets: ["leger/local/a,b"] }, /^a,b: podman 5\.4\.2 takes no comma/],
  ["a name with =", { secrets: ["leger/local/x=y"] }, /^x=y: podman/],
  ["a name that is an option", { secrets: ["leger/local/--all"] }, /^--all: a name cannot begin/],
  [
    "a name with a space before 4.7",
    { secrets: ["leger/local/x y"], podmanVersion: "4.6.2" },
    /^x y: podman 4\.6\.2 takes letters/,
  ],
  [
    "a name that ends with a dot before 4.7",
    { secrets: ["leger/local/x."], podmanVersion: "4.3.1" },
    /^x\.: podman 4\.3\.1/,
  ],
  [
    "a long name before 4.6",
    { secrets: [`leger/local/${long}`], podmanVersion: "4.5.0" },
    /at most 64 characters/,
  ],
  ["a very long name", { secrets: [`leger/local/${"n".repeat(254)}`] }, /at most 253 characters/],
])("%s is a problem", ([, facts, problem]) => {
  const { problems } = plan(facts);
  expect(problems).toHaveLength(1);
  expect(problems[0]).toMatch(problem);
});

test.for<[string, string, string]>([
  ["a space since 4.7", "x y", "4.7.0"],
  ["65 characters since 4.6", long, "4.6.0"],
  ["26 hex digits", "a".repeat(26), "4.3.1"],
])("podman takes a name of %s", ([, name, podmanVersion]) => {
  expect(plan({ secrets: [`leger/local/${name}`], podmanVersion }).problems).toEqual([]);
});

const podmanVersion = workingPodman();

describe.skipIf(podmanVersion === undefined)(`with ${podmanVersion ?? "podman (none that works)"}`, () => {
  let daemon: TestLegerd;
  let store: string;
  let program: string;
  let stores = 0;

  beforeAll(async () => void (daemon = await startTestLegerd()));
  afterAll(async () => {
    endProcessesOf(daemon);
    await daemon[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    for (const { Name } of await daemon.client.list()) await daemon.client.delete(Name);
    await daemon.client.put("leger/local/openai_api_key", new Secret(Buffer.from(CANARY)));
    await daemon.client.put("leger/local/webui_key", new Secret(Buffer.from(`${CANARY}-2`)));
    await daemon.client.put("leger/team/other", new Secret(Buffer.from(`${CANARY}-3`)));
    stores += 1;
    store = path.join(daemon.base, `podman-${stores}`);
    mkdirSync(store);
    program = legerProgram(store);
  });

  const global = () => [
    `--root=${store}/root`,
    `--runroot=${store}/run`,
    "--storage-driver=vfs",
    `--tmpdir=${store}/tmp`,
  ];
  const env = { _CONTAINERS_ROOTLESS_UID: undefined };

  const sync = (...args: string[]): Promise<CliResult> => command("sync", ...args);
  const command = (word: string, ...args: string[]): Promise<CliResult> =>
    leger(
      daemon,
      ["podman", word, ...global().map((arg) => `--podman-arg=${arg}`), `--leger=${program}`, ...args],
      { env },
    );
  const podman = async (...args: string[]): Promise<string> => {
    const places = { HOME: daemon.base, XDG_RUNTIME_DIR: daemon.runtimeDir, LEGER_SOCKET: daemon.socket };
    const options = { env: { PATH: process.env["PATH"], ...places }, timeoutMs: 20_000, check: true };
    return Buffer.from((await run("podman", [...global(), ...args], options)).stdout).toString();
  };
  const names = async (): Promise<string[]> =>
    (await podman("secret", "ls", "--format", "{{.Name}}")).split("\n").filter(Boolean).toSorted();
  const lookUp = async (name: string): Promise<string> => {
    const id = (await podman("secret", "inspect", name, "--format", "{{.ID}}")).trim();
    const lookup = (
      await podman("secret", "inspect", name, "--format", "{{.Spec.Driver.Options.lookup}}")
    ).trim();
    const result = await run("/bin/sh", ["-c", lookup], {
      env: { PATH: process.env["PATH"], LEGER_SOCKET: daemon.socket, SECRET_ID: id },
      timeoutMs: 10_000,
    });
    return Buffer.from(result.stdout).toString();
  };

  test("sync makes an entry for each secret, whose driver gives the value; a second one changes nothing", async () => {
    const before = await command("status");
    expect(before.status).toBe(2);
    expect(before.stdout).toMatch(/^NAME +SECRET +STATE\nopenai_api_key +openai_api_key +missing\n/);

    const dry = await sync("--dry-run", "--json");
    expect(dry.status).toBe(0);
    expect(JSON.parse(dry.stdout)).toMatchObject({
      dry_run: true,
      actions: [{ action: "created" }, { action: "created" }],
    });
    expect(await names()).toEqual([]);

    const first = await sync("--map", "theirs=leger/team/other");
    expect(first).toMatchObject({
      status: 0,
      stdout: [
        "created   openai_api_key  leger/local/openai_api_key\n",
        "created   theirs  leger/team/other\n",
        "created   webui_key  leger/local/webui_key\n",
      ].join(""),
    });
    expect(await names()).toEqual(["openai_api_key", "theirs", "webui_key"]);
    expect(await lookUp("openai_api_key")).toBe(CANARY);
    expect(await lookUp("theirs")).toBe(`${CANARY}-3`);

    const [listed, second] = [await podman("secret", "ls"), await sync("--json")];
    expect(second.status).toBe(0);
    expect(actions(second)).toEqual([]);
    expect((await podman("secret", "ls", "--format", "{{.ID}}")).split("\n").toSorted()).toEqual(
      listed
        .split("\n")
        .slice(1)
        .map((line) => line.split(" ")[0] ?? "")
        .toSorted(),
    );
    expect(await command("status")).toMatchObject({
      status: 0,
      stderr: "leger: podman and legerd are in step\n",
    });
    // What Podman keeps are references, and nothing of ours is left beside the socket.
    for (const file of readdirSync(store, { recursive: true, withFileTypes: true })) {
      if (file.isFile())
        expect(readFileSync(path.join(file.parentPath, file.name)).includes(CANARY)).toBe(false);
    }
    expect(readdirSync(path.dirname(daemon.socket))).toEqual(["cred", "legerd.sock"]);
  });

  test("a rotation needs no podman; an orphan stays until --prune; foreign entries stay always", async () => {
    writeFileSync(path.join(store, "value"), "mine");
    await podman("secret", "create", "mine", path.join(store, "value"));
    await sync();
    const version = await daemon.client.put("leger/local/webui_key", new Secret(Buffer.from("rotated")));
    await daemon.client.activate("leger/local/webui_key", version);
    expect(await lookUp("webui_key")).toBe("rotated");

    await daemon.client.delete("leger/local/webui_key");
    const left = await sync("--json");
    expect(JSON.parse(left.stdout)).toMatchObject({ actions: [], orphans: [{ name: "webui_key" }] });
    expect(left.stderr).toContain("--prune");
    expect((await command("status")).status).toBe(2);
    expect(actions(await sync("--prune", "--json"))).toEqual([
      { name: "webui_key", secret: "leger/local/webui_key", action: "removed" },
    ]);
    expect(await names()).toEqual(["mine", "openai_api_key"]);
    expect((await command("status")).status).toBe(0);
  });

  test("stale driver commands, and entries that legerd forgot, are repaired", async () => {
    await sync();
    const old = program;
    program = legerProgram(store, "leger-new");
    const status = await command("status", "--json");
    expect(status.status).toBe(2);
    expect(JSON.parse(status.stdout)).toMatchObject({
      in_step: false,
      entries: [{ state: "stale" }, { state: "stale" }],
    });
    expect(actions(await sync("--json"))).toMatchObject([{ action: "repaired" }, { action: "repaired" }]);
    rmSync(old);
    expect(await lookUp("openai_api_key")).toBe(CANARY);

    const id = (await podman("secret", "inspect", "openai_api_key", "--format", "{{.ID}}")).trim();
    await daemon.client.request({
      method: "POST",
      path: "/v1/podman/delete",
      headers: { "leger-secret-id": id },
    });
    expect((await command("status")).stdout).toMatch(/openai_api_key +openai_api_key +unlinked/);
    expect(actions(await sync("--json"))).toMatchObject([{ name: "openai_api_key", action: "repaired" }]);
    expect(await lookUp("openai_api_key")).toBe(CANARY);
  });

  test("names that collide or would mislead podman are listed, and then nothing is done", async () => {
    writeFileSync(path.join(store, "value"), "mine");
    await podman("secret", "create", "webui_key", path.join(store, "value"));
    for (const name of ["a/openai_api_key", "cafe", "x y"]) {
      await daemon.client.put(`leger/local/${name}`, new Secret(Buffer.from(CANARY)));
    }
    const result = await sync("--json");
    expect(result.status).toBe(1);
    const problems: { name: string }[] = JSON.parse(result.stdout).problems;
    expect(problems.map(({ name }) => name)).toEqual([
      "cafe",
      "openai_api_key",
      "webui_key",
      ...(takesSpaces() ? [] : ["x y"]),
    ]);
    expectSpoken(result, /nothing was done/);
    expect(await names()).toEqual(["webui_key"]);
  });

  test("a driver that podman could not run is found out before anything is changed", async () => {
    await sync();
    program = path.join(store, "nowhere");
    const result = await sync();
    expect(result).toMatchObject({ status: 1, stdout: "" });
    expectSpoken(result, /podman would run leger in vain: .*nowhere: not found/);
    expect(await names()).toEqual(["openai_api_key", "webui_key"]);
  });
});

test("without podman, sync says so", async () => {
  await using daemon = await startTestLegerd({ "leger/local/x1": CANARY });
  const result = await leger(daemon, ["podman", "sync", "--podman", "/nowhere/podman"]);
  expect(result).toMatchObject({ status: 1, stdout: "" });
  expectSpoken(result, /\/nowhere\/podman: not found/);
});

/** Without root, Podman leaves a process behind that holds its namespaces. */
function endProcessesOf({ base }: TestLegerd): void {
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, "latin1");
      if (environment.includes(`HOME=${base}\0`)) process.kill(Number(pid), "SIGKILL");
    } catch {
      // It is somebody else's, or has just ended.
    }
  }
}

function takesSpaces(): boolean {
  const [major = 0, minor = 0] = (/(\d+)\.(\d+)/.exec(podmanVersion ?? "")?.slice(1) ?? []).map(Number);
  return major * 1_000 + minor >= 4_007;
}

function actions({ stdout }: CliResult): unknown {
  return JSON.parse(stdout).actions;
}
