import * as fs from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { z } from "zod";
import { Secret } from "../../src/core/secret.ts";
import { CANARY, expectSpoken, leger, legerAtTerminal, type CliResult } from "../support/cli.ts";
import { startTestLegerd, type TestLegerd } from "../support/legerd.ts";

const KEY = `sk-proj-${CANARY}`;
let daemon: TestLegerd;
let root = "";

beforeEach(async () => {
  daemon = await startTestLegerd({ "leger/local/openai_api_key": KEY });
  root = path.join(daemon.base, "root");
  file("root/proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
});
afterEach(() => daemon[Symbol.asyncDispose]());

/** Below the user's home, which is the daemon's directory. */
function file(name: string, text: string): string {
  const place = path.join(daemon.base, name);
  fs.mkdirSync(path.dirname(place), { recursive: true });
  fs.writeFileSync(place, text);
  return place;
}

/** On a machine of which all lies below `root`, so that nothing of this one is searched. */
function residue(...args: string[]): Promise<CliResult> {
  return leger(daemon, ["residue", ...args], { world: { root } });
}

const ID = "0123456789abcdef".repeat(4);
const STORAGE = ".local/share/containers/storage";

test("where nothing lies about, it says so and ends with 0", async () => {
  file(".bash_history", "ls\n");
  const { status, stdout, stderr } = await residue();
  expect({ status, stdout }).toEqual({ status: 0, stdout: "" });
  expect(stderr).toMatch(
    /^leger: swap: there is no swap\nleger: 1 value in \d+ files?, \d+ MiB: found none\n$/,
  );
});

test("it says which secret lies where, in which form, since when and what to do, and ends with 2", async () => {
  file(
    `${STORAGE}/overlay-containers/volatile-containers.json`,
    JSON.stringify([{ id: ID, names: ["web"] }]),
  );
  const config = file(`${STORAGE}/overlay-containers/${ID}/userdata/config.json`, `{"env":["KEY=${KEY}"]}`);
  fs.utimesSync(config, 1_700_000_000, 1_700_000_000);
  const copy = file(`${STORAGE}/secrets/filedriver/secretsdata.json`, Buffer.from(KEY).toString("base64"));
  const { status, stdout, stderr } = await residue();
  expect(status).toBe(2);
  expect(stdout).toContain(
    [
      config,
      "    podman's copy of a container's variables (web), on disk, last changed 2023-11-14T22:13:20Z",
      "    openai_api_key version 1: as it is, at byte 13",
      "    -> it goes with the container; with mode mount or entrypoint there is none: leger modes\n",
    ].join("\n"),
  );
  expect(stdout).toContain(`${copy}\n    a copy in podman's own secret store`);
  expect(stdout).toContain("openai_api_key version 1: as base64, at byte 0\n");
  expect(stderr).toContain("found in 2 places\n");
});

const Findings = z.object({
  findings: z.array(z.object({ path: z.string(), what: z.string(), hints: z.array(z.string()) })),
});

const KNOWN_PLACES = [
  [`${STORAGE}/db.sql`, "podman's database: a container has it by an env file or --env"],
  [
    `${STORAGE}/overlay-containers/${ID}/userdata/secrets/key`,
    "a secret that podman gives a container as a file",
  ],
  [`${STORAGE}/overlay/abc/diff/etc/app.conf`, "a file in an image or in a container"],
  [`${STORAGE}/volumes/data/_data/settings`, "a volume: a program wrote it there"],
  ["run/leger/env/web.env", "a service's env file"],
  ["run/credentials/web.service/web.env", "a credential that systemd holds for a unit, as long as it runs"],
  [`run/crun/${ID}/config.json`, "the container runtime's copy of a container's variables"],
  [".config/containers/systemd/web.container", "a unit or configuration file"],
  [".config/systemd/user/web.service.d/10-key.conf", "a unit or configuration file"],
  [".config/environment.d/keys.conf", "a unit or configuration file"],
  [".bash_history", "what you have typed"],
  [".local/share/fish/fish_history", "what you have typed"],
  [".local/state/legerd/backup", "legerd's state, where nothing should be in the clear"],
  ["root/var/log/journal/0123/user-1000.journal", "the journal: some program printed it"],
  ["root/etc/default/app", "a unit or configuration file"],
  ["elsewhere/file", "a file"],
] as const;

test("it knows what each place is", async () => {
  const wanted = new Map<string, string>(
    KNOWN_PLACES.map(([name, what]) => [file(name, `KEY=${KEY}\n`), what]),
  );
  const { status, stdout } = await residue("--json", path.join(daemon.base, "elsewhere"));
  expect(status).toBe(2);
  const { findings } = Findings.parse(JSON.parse(stdout));
  expect(new Map(findings.map((finding) => [finding.path, finding.what]))).toEqual(wanted);
  expect(findings.filter(({ hints }) => hints.length === 0)).toEqual([]);
});

describe("which values", () => {
  test("every version that legerd has is looked for, with --active the active one only", async () => {
    await daemon.client.put("leger/local/openai_api_key", new Secret(Buffer.from(`${KEY}-2`)));
    await daemon.client.activate("leger/local/openai_api_key", 2);
    await daemon.client.put("other/name", new Secret(Buffer.from(`${KEY}-other`)));
    const old = file("stacks/old.env", `A=${KEY}\nB=${KEY}-other`);
    const { stdout } = await residue("--only", old);
    expect(stdout).toContain("openai_api_key version 1: as it is, at byte 2, 2 times\n");
    expect(stdout).toContain("other/name version 1: as it is");
    const { status, stdout: active } = await residue("--only", "--active", file("stacks/older.env", KEY));
    expect({ status, active }).toEqual({ status: 0, active: "" });
  });

  test("what one of podman's entries keeps itself is looked for, too", async () => {
    const id = "0123456789abcdef012345678";
    const headers = { "leger-secret-id": id };
    const what = { method: "POST", path: "/v1/podman/store", headers, body: `own-${CANARY}` } as const;
    expect((await daemon.client.request(what)).status).toBe(200);
    const { stdout } = await residue("--only", file("file", `own-${CANARY}`));
    expect(stdout).toContain(`podman's entry ${id}: as it is, at byte 0`);
  });

  test("one too short to be told from chance is named, and not looked for", async () => {
    await daemon.client.put("leger/local/pin", new Secret(Buffer.from("123456")));
    const { status, stdout, stderr } = await residue("--only", file("file", "123456"));
    expect({ status, stdout }).toEqual({ status: 0, stdout: "" });
    expect(stderr).toContain("pin version 1 was not looked for: under 8 bytes it would be found everywhere");
  });

  test("what a door doesn't give is named, and then nothing found is not clean", async () => {
    await using guest = await startTestLegerd(
      { "leger/local/mine": KEY, "leger/local/yours": `${KEY}-yours` },
      {
        doors: ({ socket, runtimeDir }) => [
          { unix: socket, mode: 0o600, principal: "tester", grants: undefined },
          {
            unix: path.join(runtimeDir, "guest", "legerd.sock"),
            mode: 0o600,
            principal: "guest",
            grants: [
              { action: ["info"], secret: ["*"] },
              { action: ["get"], secret: ["leger/local/mine"] },
            ],
          },
        ],
      },
    );
    const nothing = path.join(guest.base, "nothing");
    fs.writeFileSync(nothing, "");
    const socket = path.join(guest.runtimeDir, "guest", "legerd.sock");
    const { status, stderr } = await leger(guest, ["residue", "--only", nothing, `--socket=${socket}`]);
    expect(status).toBe(1);
    expect(stderr).toContain("yours version 1 was not looked for: this door doesn't give it");
    expect(stderr).toContain("1 value in 1 file, 0 MiB: found none, but not all could be looked at");
  });

  test("each get is in the audit log", async () => {
    await residue("--only", file("file", ""));
    const { stdout } = await leger(daemon, ["audit", "--json", "--state", daemon.stateDir]);
    expect(JSON.parse(stdout.trim().split("\n").at(-1) ?? "")).toMatchObject({
      action: "get",
      secret: "leger/local/openai_api_key",
      version: 1,
      principal: "tester",
    });
  });
});

test("JSON has all of it, and no value", async () => {
  const place = file(`stacks/${KEY}.env`, `${encodeURIComponent(KEY)} ${Buffer.from(KEY).toString("hex")}`);
  fs.chmodSync(place, 0o640);
  const { status, stdout } = await residue(
    "--json",
    path.join(daemon.base, "stacks"),
    "/proc/sys/vm/compact_memory",
  );
  expect(status).toBe(2);
  expect(JSON.parse(stdout)).toMatchObject({
    schema_version: 1,
    clean: false,
    complete: false,
    searched: { values: 1 },
    findings: [
      {
        path: path.join(daemon.base, "stacks", "[secret].env").replace("[secret]", "[secret]"),
        on: expect.stringMatching(/^(disk|memory)$/),
        what: "a unit or configuration file",
        mode: "0640",
        traces: [
          { secret: "leger/local/openai_api_key", version: 1, form: "raw", within: "name", times: 1 },
          { form: "raw", within: "content", offset: 0 },
          { form: "hex", within: "content" },
        ],
      },
    ],
    unreadable: [{ path: "/proc/sys/vm/compact_memory", code: "EACCES" }],
    left_out: [],
    denied: [],
    too_short: [],
    swap: { level: "ok", text: "there is no swap" },
  });
});

test("what could not be looked into is listed; alone, it makes status 1", async () => {
  const { status, stdout, stderr } = await residue("--only", "/proc/sys/vm/compact_memory");
  expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
  expect(stderr).toContain(
    "leger: warning: could not be looked into: /proc/sys/vm/compact_memory (EACCES)\n",
  );
});

test("a storage that storage.conf puts elsewhere is searched", async () => {
  const place = file("big-disk/1000/overlay-images/abc/config", KEY);
  file(
    "root/etc/containers/storage.conf",
    `[storage]\nrootless_storage_path = "${daemon.base}/big-disk/$UID"\n`,
  );
  const { stdout } = await residue();
  expect(stdout.split("\n")[0]).toBe(place);
});

test.for([
  [["--only"], 64, "--only needs a path"],
  [["/no/such/place"], 74, "cannot look into /no/such/place (ENOENT)"],
] as const)("leger residue %s is refused", async ([args, status, about]) => {
  const result = await residue(...args);
  expect(result).toMatchObject({ status, stdout: "" });
  expectSpoken(result, about);
});

test("without secrets there is nothing to look for", async () => {
  await daemon.client.delete("leger/local/openai_api_key");
  expect(await residue("--only", file("file", "text"))).toMatchObject({
    status: 0,
    stderr: "leger: no values to look for\n",
  });
});

test("a terminal shows a bar, which is gone in the end; a pipe shows none", async () => {
  const large = file("large", "");
  fs.truncateSync(large, 8 * 1024 * 1024);
  const { status, screen } = await legerAtTerminal(daemon, `residue --only ${large}`, []);
  expect(status).toBe(0);
  expect(screen).toMatch(/\[[#.]{24}\] \d+ % \d+ of 8 MiB, \d+ MiB\/s {2}\//);
  expect(screen.endsWith("\r\u001b[Kleger: 1 value in 1 file, 8 MiB: found none\r\n")).toBe(true);
  expect((await residue("--only", large)).stderr).toBe("leger: 1 value in 1 file, 8 MiB: found none\n");
});
