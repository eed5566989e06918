import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { MODE_NAMES } from "../../src/render/modes.ts";
import { CANARY, expectSpoken, leger, legerInShell } from "../support/cli.ts";
import { makePlaces, PROJECT_DIR, startTestLegerd, type Places } from "../support/legerd.ts";
import { fakePodman, treeOf, writeTree } from "../support/quadlets.ts";

/** A quadlet with what is needed and these lines. */
const quadlet = (...lines: string[]): string =>
  ["[Container]", "Image=localhost/app:1", ...lines, ""].join("\n");
const OPENAI = "Secret=openai_api_key,type=env,target=OPENAI_API_KEY";

type World = Places & Disposable & { dir: string; render: (...args: string[]) => ReturnType<typeof leger> };

/** A folder of quadlets, where Podman 5.4 with an image run by root is asked. */
function world(
  files: Record<string, string | Uint8Array>,
  options: Parameters<typeof fakePodman>[1] = { images: { "localhost/app:1": APP } },
): World {
  const places = makePlaces();
  const dir = path.join(places.base, "q");
  mkdirSync(dir);
  writeTree(dir, files);
  const podman = fakePodman(places.base, options);
  const render = (...args: string[]) => leger(places, ["render", ...args, "--podman", podman]);
  return { ...places, dir, render };
}

const APP = { Entrypoint: ["/entry", "a b"], Cmd: ["serve", "100%", "$HOME"] };

const dropin = ({ dir }: World, name = "app"): string =>
  readFileSync(path.join(dir, `${name}.container.d/50-leger.conf`), "utf8")
    .replace(/^#.*\n/gm, "")
    .trimStart();

describe("what a mode writes", () => {
  test.for([
    [
      "env-file",
      /^\[Unit\]\nWants=legerd\.socket\nAfter=legerd\.socket\n\n\[Container\]\nSecret=\nEnvironmentFile=%t\/leger\/env\/app\.env\n\n\[Service\]\nUnsetEnvironment=BUN_OPTIONS [^\n]*\nExecStartPre=\/usr\/bin\/leger secrets fetch app\nExecStopPost=-\/usr\/bin\/leger secrets fetch app --remove\n$/,
    ],
    [
      "credential",
      `[Unit]
Wants=legerd.service
After=legerd.service
StartLimitIntervalSec=10min
StartLimitBurst=60

[Container]
Secret=
EnvironmentFile=%d/app.env

[Service]
LoadCredential=app.env:%t/leger/cred/app.env
Restart=on-failure
RestartSec=5s
`,
    ],
    [
      "mount",
      `[Unit]
Wants=legerd.service
After=legerd.service
StartLimitIntervalSec=10min
StartLimitBurst=60

[Container]
Secret=
Volume=%d/OPENAI_API_KEY:/run/credentials/OPENAI_API_KEY:ro
Environment=OPENAI_API_KEY_FILE=/run/credentials/OPENAI_API_KEY

[Service]
LoadCredential=OPENAI_API_KEY:%t/leger/cred/app/OPENAI_API_KEY
Restart=on-failure
RestartSec=5s
`,
    ],
  ] as const)("%s", async ([mode, expected]) => {
    using it = world({ "app.container": quadlet(OPENAI) });
    const { status, stdout, stderr } = await it.render(it.dir, "--mode", mode);
    expect({ status, stdout }).toEqual({
      status: 0,
      stdout: `created  ${it.dir}/app.container.d/50-leger.conf  (${mode})\n`,
    });
    expect(stderr).toContain("leger services set app OPENAI_API_KEY=openai_api_key\n");
    if (typeof expected === "string") expect(dropin(it)).toBe(expected);
    else expect(dropin(it)).toMatch(expected);
  });

  test("curl needs no leger, and makes a private file whole or not at all", async () => {
    using it = world({ "app.container": quadlet(OPENAI) });
    expect((await it.render(it.dir, "--mode", "curl")).status).toBe(0);
    const pre = /ExecStartPre=(.*)/.exec(dropin(it))?.[1] ?? "";
    expect(pre).toMatch(/^\/bin\/sh -c 'umask 077 && /);
    expect(pre).toContain("curl -fsS --max-time 5 --remove-on-error --unix-socket");
    expect(pre).toMatch(/&& mv -fT "[^"]*\$\$\$\$-curl\.tmp" "%t\/leger\/env\/app\.env"'$/);
    expect(dropin(it)).not.toContain("/usr/bin/leger");
  });

  test("entrypoint runs the image's own program behind a shell, with nothing expanded", async () => {
    using it = world({ "app.container": quadlet(OPENAI) });
    expect((await it.render(it.dir, "--mode", "entrypoint")).status).toBe(0);
    const text = dropin(it);
    expect(text).toContain('Exec=/entry "a b" serve 100%% $$HOME\n');
    const [, entrypoint = ""] = /^Entrypoint=(.*)$/m.exec(text) ?? [];
    const words: unknown = JSON.parse(entrypoint.replaceAll("$$", "$").replaceAll("%%", "%"));
    expect(words).toMatchObject(["/bin/sh", "-c", expect.stringContaining('exec "$@"'), "leger"]);
    expect(entrypoint.replaceAll("$$", "")).not.toContain("$");
    expect(text).toContain("Volume=%d/app.env:/run/credentials/app.env:ro\n");
    expect(text).toContain("LoadCredential=app.env:%t/leger/cred/app.env\n");
  });

  test.for([
    [
      "the quadlet's words in place of the image's",
      ["Exec=run 'x y' %i"],
      'Exec=/entry "a b" run "x y" %i\n',
    ],
    ["the quadlet's entrypoint without the image's command", ["Entrypoint=/mine"], "Exec=/mine\n"],
    ["a JSON list", ['Entrypoint=["/mine","two words"]', "Exec=more"], 'Exec=/mine "two words" more\n'],
    ["no entrypoint at all", ['Entrypoint=[""]', "Exec=only"], "Exec=only\n"],
  ] as const)("entrypoint takes %s", async ([, lines, expected]) => {
    using it = world({ "app.container": quadlet(OPENAI, ...lines) });
    expect((await it.render(it.dir, "--mode", "entrypoint")).status).toBe(0);
    expect(dropin(it)).toContain(`\n${expected}`);
  });

  test("a file stays a file in mount and entrypoint, beside variables", async () => {
    using it = world({
      "app.container": quadlet(
        OPENAI,
        "Secret=tls-key,target=/etc/tls/key.pem,mode=0400",
        "Secret=tls-key",
        "Secret=other,type=mount,target=o.txt",
      ),
    });
    expect((await it.render(it.dir, "--mode", "entrypoint")).status).toBe(0);
    for (const line of [
      "Volume=%d/app.env:/run/credentials/app.env:ro",
      "Volume=%d/TLS_KEY:/etc/tls/key.pem:ro",
      "Volume=%d/TLS_KEY:/run/secrets/tls-key:ro",
      "Volume=%d/OTHER:/run/secrets/o.txt:ro",
      "LoadCredential=TLS_KEY:%t/leger/cred/app.files/TLS_KEY",
      "LoadCredential=OTHER:%t/leger/cred/app.files/OTHER",
    ]) {
      expect(
        dropin(it)
          .split("\n")
          .filter((written) => written === line),
      ).toEqual([line]);
    }
  });

  test("what the quadlet says of restarts and start limits stays", async () => {
    using it = world({
      "app.container": `${quadlet(OPENAI)}[Service]\nRestart=no\n[Unit]\nStartLimitBurst=3\n`,
    });
    await it.render(it.dir, "--mode", "credential");
    expect(dropin(it)).not.toMatch(/Restart=|StartLimitBurst=/);
    expect(dropin(it)).toMatch(/RestartSec=5s\n[^]*|StartLimitIntervalSec=10min/);
  });

  test("instances of a template have an env file each, which systemd takes away", async () => {
    using it = world({ "app@.container": quadlet(OPENAI) });
    expect((await it.render(it.dir, "--mode", "env-file")).status).toBe(0);
    const text = dropin(it, "app@");
    expect(text).toContain("EnvironmentFile=%t/leger-env-%N/app@.env\n");
    expect(text).toContain("RuntimeDirectory=leger-env-%N\n");
    expect(text).toContain("ExecStartPre=/usr/bin/leger secrets fetch app@ --dir %t/leger-env-%N\n");
  });

  test("a secret can have a mode of its own, by leger.json", async () => {
    using it = world({
      "app.container": quadlet(OPENAI, "Secret=b,type=env,target=B", "Secret=c,type=env,target=C"),
      "leger.json": JSON.stringify({
        render: {
          mode: "mount",
          services: { app: { mode: "env-file", secrets: { b: "driver", c: "mount" } } },
        },
        secrets: { openai_api_key: { default: "{OPENAI_API_KEY}", "x-required-by": ["app"], more: 1 } },
      }),
    });
    const { stdout } = await it.render(it.dir, "--json");
    expect(JSON.parse(stdout)).toMatchObject({
      dry_run: false,
      quadlets: [
        {
          action: "created",
          secrets: [
            { name: "openai_api_key", mode: "env-file" },
            { name: "b", mode: "driver" },
            { name: "c", mode: "mount" },
          ],
          services: [
            { name: "app", variables: { OPENAI_API_KEY: "leger/local/openai_api_key" } },
            { name: "app.files", variables: { C: "leger/local/c" } },
          ],
        },
      ],
    });
    expect(dropin(it)).toContain("Secret=\nSecret=b,type=env,target=B\n");
    expect(dropin(it)).toContain("EnvironmentFile=%t/leger/env/app.env\n");
    expect(dropin(it)).toContain("Environment=C_FILE=/run/credentials/C\n");
  });

  test("the quadlet can say its mode, its name in legerd and what its image is", async () => {
    using it = world(
      {
        "app.container": `${quadlet(OPENAI)}[X-Leger]\nMode=entrypoint\nService=web\nImageUser=0\nImageCommand=["run"]\n`,
      },
      {},
    );
    const { status, stderr } = await it.render(it.dir);
    expect({ status, stderr }).toMatchObject({ status: 0 });
    expect(dropin(it)).toContain("Exec=run\n");
    expect(dropin(it)).toContain("LoadCredential=web.env:%t/leger/cred/web.env\n");
  });

  test("whoever is asked for no mode leaves everything in the mode it has", async () => {
    using it = world({ "app.container": quadlet(OPENAI, "Secret=b,type=env,target=B") });
    expect((await it.render(it.dir)).stdout).toBe("");
    writeTree(it.dir, { "leger.json": '{"render":{"mode":"mount","secrets":{"b":"driver"}}}' });
    await it.render(it.dir);
    rmSync(path.join(it.dir, "leger.json"));
    const before = treeOf(it.dir);
    expect((await it.render(it.dir, "--json")).stdout).toContain('"action":"unchanged"');
    expect(treeOf(it.dir)).toEqual(before);
  });
});

test("a quadlet may be called nearly as a command, and a command below still be guessed at the top", async () => {
  using it = world({});
  const directory = path.join(it.base, ".config/containers/systemd");
  writeTree(directory, { "mint@.container": quadlet(OPENAI), "explains.container": quadlet(OPENAI) });
  const options = { env: { XDG_CONFIG_HOME: undefined } };
  const podman = fakePodman(it.base);
  for (const name of ["mint@", "explains"]) {
    const { status } = await leger(it, ["render", name, "--mode", "env-file", "--podman", podman], options);
    expect(status).toBe(0);
    expect(existsSync(path.join(directory, `${name}.container.d/50-leger.conf`))).toBe(true);
  }
  expectSpoken(await leger(it, ["rendr"]), 'no such command; did you mean "render"?');
});

describe("switching", () => {
  const images = Object.fromEntries(
    ["comfyui", "litellm", "openwebui"].map((name) => {
      const text = readFileSync(path.join(PROJECT_DIR, `quadlets/${name}.container`), "utf8");
      return [/^Image=(.*)$/m.exec(text)?.[1] ?? "", { Entrypoint: ["/start"], Cmd: ["x"] }];
    }),
  );

  test("through all modes and back leaves the samples as they were, byte for byte", async () => {
    using it = world({}, { images });
    cpSync(path.join(PROJECT_DIR, "quadlets"), it.dir, { recursive: true });
    writeTree(it.dir, { "litellm.container.d/10-mine.conf": "[Container]\nLabel=a=b\n" });
    mkdirSync(path.join(it.dir, "openwebui.container.d"));
    const before = treeOf(it.dir);
    for (const mode of [...MODE_NAMES, ...MODE_NAMES.toReversed()]) {
      const first = await it.render(it.dir, "--mode", mode);
      expect({ status: first.status, mode, stderr: first.stderr }).toMatchObject({ status: 0 });
      const tree = treeOf(it.dir);
      const bases = Object.entries(tree).filter(([name]) => name in before);
      expect(Object.fromEntries(bases)).toEqual(before);
      expect(Object.keys(tree).filter((name) => name.endsWith("50-leger.conf")).length).toBe(
        mode === "driver" ? 0 : 3,
      );
      const again = await it.render(it.dir, "--mode", mode);
      expect(again).toMatchObject({ status: 0, stdout: "" });
      expect((await it.render(it.dir, "--mode", mode, "--check")).status).toBe(0);
      expect(treeOf(it.dir)).toEqual(tree);
    }
    expect(treeOf(it.dir)).toEqual(before);
  });

  test("--check, --dry-run and --diff say what would be, and change nothing", async () => {
    using it = world({ "app.container": quadlet(OPENAI) });
    const before = treeOf(it.dir);
    expect(await it.render(it.dir, "--mode", "mount", "--check")).toMatchObject({ status: 2 });
    const dry = await it.render(it.dir, "--mode", "mount", "--dry-run", "--diff");
    expect(dry.status).toBe(0);
    expect(dry.stdout).toMatch(/^--- \/dev\/null\n\+\+\+ .*50-leger\.conf\n@@ -0,0 \+1,\d+ @@\n\+# Made/);
    expect(dry.stderr).toContain("1 quadlet, 1 to change");
    expect(treeOf(it.dir)).toEqual(before);
    await it.render(it.dir, "--mode", "mount");
    const changed = await it.render(it.dir, "--mode", "credential", "--diff");
    expect(changed.stdout).toContain("\n-LoadCredential=OPENAI_API_KEY:");
    expect(changed.stdout).toContain("\n+EnvironmentFile=%d/app.env\n");
  });

  test("an edit by hand is refused and shown, unless --force", async () => {
    using it = world({ "app.container": quadlet(OPENAI) });
    await it.render(it.dir, "--mode", "mount");
    const file = path.join(it.dir, "app.container.d/50-leger.conf");
    const edited = `${readFileSync(file, "utf8")}Nice=5\n`;
    writeFileSync(file, edited);
    for (const mode of ["mount", "driver", "env-file"]) {
      const refused = await it.render(it.dir, "--mode", mode);
      expect(refused.status).toBe(1);
      expectSpoken(refused, `${file} was edited since leger wrote it`);
      expect(refused.stdout).toContain("\n-Nice=5\n");
      expect(readFileSync(file, "utf8")).toBe(edited);
    }
    expect((await it.render(it.dir, "--mode", "mount", "--force")).status).toBe(0);
    expect(readFileSync(file, "utf8")).not.toContain("Nice");
  });

  test("another tool's file of that name is refused, and another of its kind left alone", async () => {
    using it = world({
      "app.container": quadlet(OPENAI),
      "app.container.d/50-leger.conf": "[Service]\nNice=1\n",
      "app.container.d/50-other.conf": "[Service]\nNice=2\n",
    });
    const before = treeOf(it.dir);
    const refused = await it.render(it.dir, "--mode", "mount");
    expectSpoken(refused, /50-leger\.conf is not of leger's making$/);
    expectSpoken(await it.render(it.dir, "--mode", "driver"), /is not of leger's making$/);
    expect(treeOf(it.dir)).toEqual(before);
    await it.render(it.dir, "--mode", "mount", "--force");
    expect((await it.render(it.dir, "--mode", "driver")).status).toBe(0);
    expect(Object.keys(treeOf(it.dir))).toContain("app.container.d/50-other.conf");
  });

  test("an instance without secrets of its own hides what its template's drop-in says", async () => {
    using it = world({ "app@.container": quadlet(OPENAI), "app@one.container": quadlet() });
    await it.render(it.dir, "--mode", "env-file");
    expect(dropin(it, "app@one")).toBe("");
    expect((await it.render(it.dir, "--mode", "env-file")).stdout).toBe("");
    await it.render(it.dir, "--mode", "driver");
    expect(Object.keys(treeOf(it.dir))).toEqual(["app@.container", "app@one.container"]);
  });

  test("the drop-in may be read by all, and nothing temporary stays", async () => {
    using it = world({ "app.container": quadlet(OPENAI) });
    await it.render(it.dir, "--mode", "mount");
    expect(Object.keys(treeOf(it.dir))).toEqual([
      "app.container",
      "app.container.d",
      "app.container.d/50-leger.conf",
    ]);
    expect(treeOf(it.dir)["app.container.d/50-leger.conf"]).toMatch(/^100644 /);
  });
});

describe("what a mode cannot keep is refused by name", () => {
  test.for<[string, string[], string, RegExp]>([
    [
      "a file by env-file",
      ["Secret=tls"],
      "env-file",
      /app\.container:3: tls is a file \(type=mount\), which env-file cannot give$/,
    ],
    ["a file's owner", ["Secret=tls,uid=5"], "mount", /:3: tls: uid=5 cannot be kept/],
    ["a file for all", ["Secret=tls,mode=0444"], "mount", /:3: tls: mode=0444 cannot be kept/],
    [
      "a target with a colon",
      ["Secret=tls,target=/a:b"],
      "mount",
      /:3: tls: Volume= cannot hold this target$/,
    ],
    ["no variable", ["Secret=a-b,type=env"], "mount", /:3: a-b: "a-b" is not a name for a variable$/],
    ["a specifier", ["Secret=%i,type=env,target=A"], "curl", /:3: %i: a specifier/],
    [
      "two for one variable",
      [OPENAI, "Secret=b,type=env,target=OPENAI_API_KEY"],
      "env-file",
      /:4: OPENAI_API_KEY is the target of two Secret= lines: openai_api_key \(line 3\) and b$/,
    ],
    [
      "a variable that is set already",
      [OPENAI, "Environment=A=1 OPENAI_API_KEY=x"],
      "env-file",
      /:4: Environment= sets OPENAI_API_KEY as well/,
    ],
    [
      "a name that mount would set",
      [OPENAI, "Environment=OPENAI_API_KEY_FILE=/x"],
      "mount",
      /:4: Environment= sets OPENAI_API_KEY_FILE as well/,
    ],
    [
      "options unknown to podman",
      ["Secret=a,type=env,color=red"],
      "mount",
      /:3: Secret=a,type=env,color=red: podman knows no option "color"$/,
    ],
    ["a bad escape", ["Secret=a\\q"], "mount", /:3: podman leaves this line out/],
    [
      "a user namespace of another kind",
      [OPENAI, "UserNS=auto"],
      "mount",
      /:3: openai_api_key cannot be given by mount: with UserNS=auto/,
    ],
    [
      "ids mapped by hand",
      [OPENAI, "UIDMap=0:1:5"],
      "entrypoint",
      /cannot be given by entrypoint: UIDMap= maps users/,
    ],
    ["a user by name", [OPENAI, "User=web"], "mount", /the program runs as "web"/],
    ["a user in a pod", [OPENAI, "User=5", "Pod=x.pod"], "mount", /a pod's containers have no UserNS=/],
    [
      "a user with a volume",
      [OPENAI, "User=5", "Volume=data.volume:/data"],
      "mount",
      /would change whose the files of data\.volume are$/,
    ],
    ["a user by PodmanArgs", [OPENAI, "PodmanArgs=--user=5"], "mount", /PodmanArgs=--user says who/],
    [
      "an entrypoint by PodmanArgs",
      [OPENAI, "PodmanArgs=--entrypoint /x"],
      "entrypoint",
      /PodmanArgs=--entrypoint is out of leger's reach$/,
    ],
    [
      "a name that legerd would not take",
      [OPENAI, "[X-Leger]", "Service=a b"],
      "env-file",
      /"a b" cannot be the name of a service/,
    ],
  ])("%s", async ([, lines, mode, expected]) => {
    using it = world({ "app.container": quadlet(...lines) });
    const before = treeOf(it.dir);
    const refused = await it.render(it.dir, "--mode", mode);
    expect(refused).toMatchObject({ status: 65, stdout: "" });
    expectSpoken(refused, expected);
    expect(refused.stderr).toContain("leger: hint: ");
    expect(treeOf(it.dir)).toEqual(before);
    expect((await it.render(it.dir, "--mode", "driver")).status).toBe(0);
  });

  test("two ways of giving variables in one unit", async () => {
    using it = world({
      "app.container": quadlet(OPENAI, "Secret=b,type=env,target=B"),
      "leger.json": '{"render":{"mode":"env-file","secrets":{"b":"credential"}}}',
    });
    expectSpoken(await it.render(it.dir), /env-file and credential cannot both give variables/);
  });

  test.for<[string, string, string]>([
    ["Secret=", "[Container]\nSecret=x,type=env,target=X\n", "Secret"],
    ["an emptied list", "[Service]\nLoadCredential=\n", "LoadCredential"],
    ["UserNS=", "[Container]\nUserNS=keep-id:uid=5,gid=5\n", ""],
  ])("a later drop-in that would undo it: %s", async ([, text, key]) => {
    using it = world({ "app.container": quadlet(OPENAI, "User=5"), "app.container.d/60-mine.conf": text });
    const seen = await it.render(it.dir, "--mode", "mount");
    if (key === "") return expect(seen.status).toBe(0);
    expectSpoken(seen, new RegExp(`60-mine\\.conf:2: ${key}= in this drop-in would undo`));
    expect(seen.stderr).toContain("40-mine.conf");
    expect(Object.keys(treeOf(it.dir))).not.toContain("app.container.d/50-leger.conf");
  });
});

describe("who may read the files", () => {
  test.for<[string, string[], string | undefined]>([
    ["root", [], undefined],
    ["the image's user", ["[X-Leger]", "ImageUser=999"], "UserNS=keep-id:uid=999,gid=999"],
    ["a user and a group", ["User=999", "Group=5"], "UserNS=keep-id:uid=999,gid=5"],
    [
      "a user and volumes that fit",
      ["User=999", "Volume=a:/a:ro", "Volume=b:/b:U", "Volume=/c"],
      "UserNS=keep-id:uid=999,gid=999",
    ],
    ["keep-id already", ["UserNS=keep-id"], undefined],
    ["keep-id with the right user", ["User=7", "UserNS=keep-id:uid=7,gid=7", "Volume=b:/b"], undefined],
    ["root in a pod", ["Pod=x.pod"], undefined],
  ])("%s", async ([, lines, expected]) => {
    using it = world({ "app.container": quadlet(OPENAI, ...lines) });
    const { status, stderr } = await it.render(it.dir, "--mode", "mount");
    expect({ status, stderr }).toMatchObject({ status: 0 });
    expect(/^UserNS=.*$/m.exec(dropin(it))?.[0]).toBe(expected);
  });

  test("a rootful container has no keep-id", async () => {
    using it = world({ "app.container": quadlet(OPENAI, "User=999") });
    const podman = fakePodman(it.base);
    const refused = await leger(it, ["render", it.dir, "--mode", "mount", "--podman", podman], {
      env: { _CONTAINERS_ROOTLESS_UID: undefined },
      world: { euid: 0 },
    });
    expectSpoken(refused, /runs as user 999, and systemd gives the files to root$/);
  });

  test("an image that is not there is not guessed at, nor pulled", async () => {
    using it = world({ "app.container": quadlet(OPENAI) }, {});
    expectSpoken(
      await it.render(it.dir, "--mode", "mount"),
      /who the image's program runs as is not known here$/,
    );
    expect(readFileSync(path.join(it.base, "fake-podman.calls"), "utf8")).not.toContain("pull ");
  });

  test("an image without a shell has no entrypoint mode", async () => {
    using it = world(
      { "app.container": quadlet(OPENAI) },
      { images: { "localhost/app:1": { Cmd: ["/app"], hasShell: false } } },
    );
    expectSpoken(await it.render(it.dir, "--mode", "entrypoint"), /localhost\/app:1 has no \/bin\/sh/);
  });
});

describe("podman's version", () => {
  test.for<[string, RegExp]>([
    ["4.3.1", /^podman 4\.3 has no quadlets/],
    ["4.9.3", /^podman 4\.9 reads no drop-ins/],
  ])("%s is asked of podman, and too old", async ([version, expected]) => {
    using it = world({ "app.container": quadlet(OPENAI) }, { version });
    expectSpoken(await it.render(it.dir, "--mode", "mount"), expected);
  });

  test("without podman it must be given", async () => {
    using it = world({ "app.container": quadlet(OPENAI) });
    const missing = await leger(it, ["render", it.dir, "--mode", "env-file", "--podman", "/nowhere/podman"]);
    expectSpoken(missing, "/nowhere/podman: not found");
    expect(missing.stderr).toContain("--podman-version 5.4");
    const args = ["render", it.dir, "--mode", "env-file", "--podman", "/nowhere/podman"];
    expect((await leger(it, [...args, "--podman-version", "5.4"])).status).toBe(0);
    expectSpoken(await leger(it, [...args, "--podman-version", "new"]), "this is not a version of podman");
  });

  test("--out writes whole units for those before 5.0, and leaves the quadlets alone", async () => {
    using it = world(
      {
        "app.container": `; mine\n[Container]\n# image\nImage=localhost/app:1\nLabel=a \\\n  b\n${OPENAI}\nVolume=./x:/x:ro\n`,
        "app.container.d/10-a.conf": "[Container]\nSecret=late,type=env,target=LATE\n[Service]\nNice=5\n",
      },
      { version: "4.9.3", images: { "localhost/app:1": APP } },
    );
    const before = treeOf(it.dir);
    const out = path.join(it.base, "out");
    const written = await it.render(it.dir, "--mode", "env-file", "--out", out);
    expect(written).toMatchObject({ status: 0, stdout: `created  ${out}/app.container  (env-file)\n` });
    expect(written.stderr).toContain("app.container names files beside it: ./x");
    const text = readFileSync(path.join(out, "app.container"), "utf8");
    expect(
      text
        .replace(/^UnsetEnvironment=.*\n/m, "")
        .split("\n")
        .slice(2)
        .join("\n"),
    ).toBe(`
[Container]
# mine
# image
Image=localhost/app:1
Label=a b
Volume=./x:/x:ro
EnvironmentFile=%t/leger/env/app.env

[Service]
Nice=5
ExecStartPre=/usr/bin/leger secrets fetch app
ExecStopPost=-/usr/bin/leger secrets fetch app --remove

[Unit]
Wants=legerd.socket
After=legerd.socket
`);
    expect(treeOf(it.dir)).toEqual(before);
    expect((await it.render(it.dir, "--mode", "env-file", "--out", out)).stdout).toBe("");
    await it.render(it.dir, "--mode", "driver", "--out", out);
    expect(readFileSync(path.join(out, "app.container"), "utf8")).toContain(
      `${OPENAI}\nSecret=late,type=env,target=LATE\n`,
    );
    await it.render(it.dir, "--mode", "entrypoint", "--out", out);
    expect(readFileSync(path.join(out, "app.container"), "utf8")).toMatch(/^PodmanArgs="--entrypoint=\[/m);
    writeFileSync(path.join(out, "app.container"), "[Container]\nImage=y\n");
    expectSpoken(await it.render(it.dir, "--mode", "mount", "--out", out), /is not of leger's making$/);
    expectSpoken(
      await it.render(it.dir, "--mode", "mount", "--out", it.dir),
      /is where app\.container itself lies$/,
    );
    expect(treeOf(it.dir)).toEqual(before);
  });

  test("a quadlet that needs nothing is copied byte for byte below two lines", async () => {
    const bytes = Buffer.from("[Container]\r\nImage=localhost/app:1\r\nLabel=\xff", "latin1");
    using it = world({ "app.container": bytes });
    const out = path.join(it.base, "out");
    expect((await it.render(it.dir, "--mode", "driver", "--out", out)).status).toBe(0);
    expect(readFileSync(path.join(out, "app.container"), "latin1").split("\n").slice(2).join("\n")).toBe(
      bytes.toString("latin1"),
    );
  });
});

describe("bad input", () => {
  test.for<[string, Record<string, string | Uint8Array>, string[], number, RegExp]>([
    ["no such file", {}, ["/nowhere/x.container"], 74, /^cannot read \/nowhere\/x\.container: no such file$/],
    ["no such name", {}, ["nothing"], 64, /^there is no quadlet nothing\.container where podman looks/],
    ["an empty directory", {}, ["."], 64, /there are no quadlets of containers in it$/],
    ["none at all", {}, [], 64, /^there are no quadlets of containers where podman looks$/],
    [
      "a quadlet of another kind",
      { "x.volume": "[Volume]\n" },
      ["x.volume"],
      64,
      /this is not the quadlet of a container$/,
    ],
    [
      "no [Container]",
      { "x.container": "[Service]\nNice=1\n" },
      ["x.container"],
      65,
      /x\.container: there is no \[Container\] in it$/,
    ],
    [
      "a line that is none",
      { "x.container": "[Container]\n\nwhat\n" },
      ["x.container"],
      65,
      /x\.container:3: this is neither a \[Section\]/,
    ],
    [
      "binary",
      { "x.container": Uint8Array.of(0x7f, 0x45, 0x4c, 0x46, 0, 0) },
      ["x.container"],
      65,
      /x\.container: this is not text/,
    ],
    [
      "a drop-in that is none",
      { "x.container": quadlet(), "x.container.d/1.conf": "a=b" },
      ["x.container"],
      65,
      /1\.conf:1: this stands before the first/,
    ],
    ["a directory in its place", { "x.container/y": "" }, ["."], 65, /x\.container: this is not a file$/],
    [
      "no such mode",
      { "x.container": quadlet("[X-Leger]", "Mode=magic") },
      ["."],
      65,
      /x\.container:4: there is no mode "magic"$/,
    ],
    [
      "leger.json that is none",
      { "x.container": quadlet(), "leger.json": "{" },
      ["."],
      78,
      /leger\.json is not JSON$/,
    ],
    [
      "a mode in leger.json that is none",
      { "x.container": quadlet(), "leger.json": '{"render":{"mode":"x"}}' },
      ["."],
      78,
      /leger\.json: render\.mode: one of driver, /,
    ],
  ])("%s", async ([, files, args, status, expected]) => {
    using it = world(files);
    const podman = fakePodman(it.base);
    const before = treeOf(it.dir);
    const seen = await leger(it, ["render", ...args, "--podman", podman], { world: { cwd: it.dir } });
    expect(seen).toMatchObject({ status, stdout: "" });
    expectSpoken(seen, expected);
    expect(treeOf(it.dir)).toEqual(before);
  });

  test("a file of 100 MB, and a symlink that leads to itself", async () => {
    using it = world({ "big.container": "[Container]\n" });
    truncateSync(path.join(it.dir, "big.container"), 100_000_000);
    expectSpoken(await it.render(it.dir, "--mode", "mount"), /big\.container: this is larger than 1 MiB$/);
    rmSync(path.join(it.dir, "big.container"));
    symlinkSync("loop.container", path.join(it.dir, "loop.container"));
    expectSpoken(
      await it.render(it.dir, "--mode", "mount"),
      /loop\.container: its symlinks go round in a circle$/,
    );
    symlinkSync(".", path.join(it.dir, "round"));
    rmSync(path.join(it.dir, "loop.container"));
    writeTree(it.dir, { "app.container": quadlet(OPENAI) });
    expect((await it.render(it.dir, "--mode", "mount")).stderr).toContain("1 quadlet, 1 changed");
  });

  test("one bad quadlet keeps none of the others from being rendered", async () => {
    using it = world({
      "a.container": quadlet(OPENAI),
      "b.container": "what",
      "c.container": quadlet(OPENAI),
    });
    const seen = await it.render(it.dir, "--mode", "env-file");
    expect(seen.status).toBe(65);
    expect(seen.stdout.split("\n")).toHaveLength(3);
    expect(seen.stderr).toMatch(/leger: error: .*b\.container:1: /);
  });

  test.skipIf(process.geteuid?.() === 0)(
    "a folder that cannot be written (not as root, who can)",
    async () => {
      using it = world({ "app.container": quadlet(OPENAI) });
      chmodSync(it.dir, 0o500);
      expectSpoken(await it.render(it.dir, "--mode", "mount"), /^cannot write .*: EACCES$/);
      chmodSync(it.dir, 0o700);
    },
  );

  test("no room for the file: nothing half-written stays, nor the folder that was made for it", async () => {
    using it = world({ "app.container": quadlet(OPENAI), "b.container": quadlet(OPENAI) });
    await it.render(path.join(it.dir, "b.container"), "--mode", "credential");
    const before = treeOf(it.dir);
    // Writing is refused as on a full disk; the signal that would come with it is ignored.
    const shell = `trap '' XFSZ; ulimit -f 0; $LEGER render ${it.dir} --mode env-file --podman-version 5.4`;
    const failed = await legerInShell(it, shell, { env: { NODE_COMPILE_CACHE: undefined } });
    expect(failed.status).toBe(74);
    expect(failed.stderr).toMatch(
      /leger: error: cannot write .*app\.container\.d\/50-leger\.conf: EFBIG\n.*\n.*cannot write .*b\.container\.d/,
    );
    expect(treeOf(it.dir)).toEqual(before);
  });

  test("a folder that is in the way of the drop-in's is left as it is", async () => {
    using it = world({ "app.container": quadlet(OPENAI), "app.container.d": "a file" });
    const before = treeOf(it.dir);
    expectSpoken(await it.render(it.dir, "--mode", "mount"), /^cannot write .*50-leger\.conf: ENOTDIR$/);
    expect(treeOf(it.dir)).toEqual(before);
  });
});

describe("legerd is told", () => {
  test("by --register, what a service gets, once", async () => {
    await using daemon = await startTestLegerd({ "leger/local/openai_api_key": CANARY });
    const dir = path.join(daemon.base, "q");
    writeTree(dir, { "app.container": quadlet(OPENAI, "Secret=db,type=env,target=DB") });
    const podman = fakePodman(daemon.base);
    const args = [
      "render",
      dir,
      "--mode",
      "env-file",
      "--podman",
      podman,
      "--register",
      "--map",
      "db=leger/x/db",
    ];
    const first = await leger(daemon, args);
    expect(first.status).toBe(0);
    expect(first.stderr).toContain("service app: 2 variables\n");
    expect(first.stderr).toContain("there is no secret leger/x/db yet");
    expect(JSON.parse((await leger(daemon, ["services", "show", "app", "--json"])).stdout)).toMatchObject({
      variables: { OPENAI_API_KEY: "leger/local/openai_api_key", DB: "leger/x/db" },
    });
    expect((await leger(daemon, args)).stderr).toContain("service app: as it is\n");
  });

  test("before anything is written: without it, nothing changes", async () => {
    using it = world({ "app.container": quadlet(OPENAI) });
    const before = treeOf(it.dir);
    const failed = await it.render(it.dir, "--mode", "env-file", "--register");
    expect(failed.status).toBe(69);
    expect(treeOf(it.dir)).toEqual(before);
  });
});

describe("what is said of the modes", () => {
  test("leger modes has a line for each", async () => {
    using places = makePlaces();
    const { stdout } = await leger(places, ["modes"]);
    expect(
      stdout
        .split("\n")
        .slice(1, -1)
        .map((line) => line.split(" ")[0]),
    ).toEqual([...MODE_NAMES]);
    const { stdout: json } = await leger(places, ["modes", "--json"]);
    expect(JSON.parse(json)).toMatchObject({
      schema_version: 1,
      modes: MODE_NAMES.map((mode) => ({ mode })),
    });
  });

  test("leger render explain says it of a quadlet's secrets, as they are or would be", async () => {
    using it = world({ "app.container": quadlet(OPENAI, "Secret=tls") });
    const now = await it.render("explain", path.join(it.dir, "app.container"));
    expect(now.stdout).toMatch(/^SECRET +AS +MODE/);
    expect(now.stdout).toMatch(/\nopenai_api_key +OPENAI_API_KEY +driver +a variable +4\.5\n/);
    expect(now.stdout).toMatch(/\ntls +\/run\/secrets\/tls +driver +a file/);
    const then = await it.render("explain", path.join(it.dir, "app.container"), "--mode", "mount", "--json");
    expect(JSON.parse(then.stdout)).toMatchObject({
      service: "app",
      secrets: [
        { name: "openai_api_key", mode: "mount", plaintext: "tmpfs only", podman: "5.0" },
        { name: "tls", target: null },
      ],
    });
    expect(existsSync(path.join(it.dir, "app.container.d"))).toBe(false);
  });
});
