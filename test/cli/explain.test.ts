import * as fs from "node:fs";
import path from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { Secret } from "../../src/core/secret.ts";
import { CANARY, expectSpoken, leger } from "../support/cli.ts";
import { startTestLegerd, type TestLegerd } from "../support/legerd.ts";

const KEY = "leger/local/openai_api_key";
const TOKEN = "leger/local/hf_token";

describe("leger explain", () => {
  let daemon: TestLegerd;
  const run = (...args: string[]) => leger(daemon, args);
  beforeEach(async ({ onTestFinished }) => {
    daemon = await startTestLegerd({ [KEY]: CANARY });
    onTestFinished(() => daemon[Symbol.asyncDispose]());
    await run("services", "set", "web", "openai_api_key", "hf_token");
  });
  const put = (name: string, value: string) => daemon.client.put(name, new Secret(Buffer.from(value)));

  /** A quadlet of the user's whose drop-in, or whose own text, reads this. */
  function quadlet(name: string, text: string): void {
    const directory = path.join(daemon.base, ".config/containers/systemd", `${name}.container.d`);
    fs.mkdirSync(directory, { recursive: true });
    fs.writeFileSync(path.join(directory, "../", `${name}.container`), "[Container]\n");
    fs.writeFileSync(path.join(directory, "50-leger.conf"), `[Service]\n${text}\n`);
  }

  test("says of a service that can be given where its sockets are, and who uses it", async () => {
    await put(TOKEN, "x");
    quadlet("web", "LoadCredential=web.env:%t/leger/cred/web.env");
    quadlet("other", "LoadCredential=web.environment:%t/leger/cred/web.environment");
    quadlet("commented", "#LoadCredential=web.env:%t/leger/cred/web.env");
    const top = `${daemon.runtimeDir}/leger/cred`;
    const drop = `${daemon.base}/.config/containers/systemd/web.container.d/50-leger.conf`;
    expect(await run("explain", "web")).toEqual({
      status: 0,
      stderr: "",
      stdout: [
        "service    web",
        `set        ${top}/web.env: there`,
        `files      ${top}/web: there`,
        `used by    ${drop} (set)`,
        "",
        "VARIABLE        SECRET",
        "OPENAI_API_KEY  openai_api_key",
        "HF_TOKEN        hf_token",
        "",
      ].join("\n"),
    });
    expect(JSON.parse((await run("explain", "web", "--json")).stdout)).toEqual({
      schema_version: 1,
      name: "web",
      served: true,
      set: { there: true, path: `${top}/web.env` },
      files: { there: true, path: `${top}/web` },
      variables: { OPENAI_API_KEY: KEY, HF_TOKEN: TOKEN },
      used_by: [{ file: drop, how: "set" }],
      problems: [],
    });
  });

  test.for([
    ["missing", undefined, "HF_TOKEN: there is no secret leger/local/hf_token", "leger secrets set hf_token"],
    [
      "empty",
      "",
      "HF_TOKEN: the secret leger/local/hf_token is empty",
      "leger secrets set hf_token --activate",
    ],
    [
      "not for an env file",
      "a\nb",
      "HF_TOKEN (leger/local/hf_token) cannot stand in an env file: the value has several lines",
      "let Podman ask for it instead (Secret=…,type=env), or mount it as a file: type=mount",
    ],
  ] as const)(
    "ends with 2 where a secret is %s, and says what to type",
    async ([state, value, what, hint]) => {
      if (value !== undefined) await put(TOKEN, value);
      const { status, stdout } = await run("explain", "web");
      expect(status).toBe(2);
      const text = Buffer.from(stdout, "latin1").toString();
      expect(text).toContain(`HF_TOKEN        hf_token        ${state}\n`);
      expect(text).toContain(`\n${what}\n  -> ${hint}\n`);
      const { served, problems } = JSON.parse(
        Buffer.from((await run("explain", "web", "--json")).stdout, "latin1").toString(),
      );
      expect([served, problems]).toEqual([
        false,
        [expect.objectContaining({ what, hints: [hint], variable: "HF_TOKEN", secret: TOKEN })],
      ]);
    },
  );

  test("takes a service for served whose set cannot be, where its files are all that is used", async () => {
    await put(TOKEN, "a\nb");
    quadlet("web", "LoadCredential=HF_TOKEN:%t/leger/cred/web/HF_TOKEN");
    expect((await run("explain", "web")).status).toBe(0);
    quadlet("fetched", "ExecStartPre=/usr/bin/leger secrets fetch web");
    expect((await run("explain", "web")).status).toBe(2);
  });

  test("notices a socket that somebody removed", async () => {
    await put(TOKEN, "x");
    fs.rmSync(`${daemon.runtimeDir}/leger/cred/web.env`);
    const { status, stdout } = await run("explain", "web");
    expect(status).toBe(2);
    expect(stdout).toContain("web.env was removed by somebody\n  -> restart legerd");
  });

  test("notices sockets where no unit looks for them", async () => {
    await put(TOKEN, "x");
    const { status, stdout } = await leger(daemon, ["explain", "web"], {
      env: { XDG_RUNTIME_DIR: `${daemon.base}/elsewhere` },
    });
    expect(status).toBe(2);
    expect(stdout).toContain(`units look for it at ${daemon.base}/elsewhere/leger/cred/web.env`);
  });

  test("of a service that isn't there ends with 66", async () => {
    const failed = await run("explain", "nope");
    expect(failed.status).toBe(66);
    expectSpoken(failed, /service nope: not found/);
  });
});
