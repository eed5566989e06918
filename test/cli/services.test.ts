import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CANARY, expectSpoken, leger } from "../support/cli.ts";
import { startTestLegerd, type TestLegerd } from "../support/legerd.ts";

test("a service is defined, added to, shown, replaced and deleted", async () => {
  await using daemon = await startTestLegerd({ "leger/local/openai_api_key": CANARY });
  const run = (...args: string[]) => leger(daemon, ["services", ...args]);

  expect(await run("set", "openwebui", "openai_api_key")).toEqual({
    status: 0,
    stdout: "",
    stderr: "leger: service openwebui: 1 variable\n",
  });
  const added = await run(
    "set",
    "openwebui",
    "--add",
    "WEBUI_SECRET_KEY=webui-key",
    "PG=leger/shared/pg",
    "--json",
  );
  expect(added.stderr).toBe(
    "leger: warning: there is no secret webui-key yet\nleger: hint: store it with: leger secrets set webui-key\n" +
      "leger: warning: there is no secret leger/shared/pg yet\nleger: hint: store it with: leger secrets set leger/shared/pg\n" +
      "leger: service openwebui: 3 variables\n",
  );
  expect(JSON.parse(added.stdout)).toEqual({
    schema_version: 1,
    name: "openwebui",
    variables: {
      OPENAI_API_KEY: "leger/local/openai_api_key",
      WEBUI_SECRET_KEY: "leger/local/webui-key",
      PG: "leger/shared/pg",
    },
    missing: ["leger/local/webui-key", "leger/shared/pg"],
  });
  expect((await run("show", "openwebui")).stdout).toBe(
    [
      "VARIABLE          SECRET",
      "OPENAI_API_KEY    openai_api_key",
      "WEBUI_SECRET_KEY  webui-key        missing",
      "PG                leger/shared/pg  missing",
      "",
    ].join("\n"),
  );
  expect((await run("list")).stdout).toBe(
    "SERVICE    VARIABLES\nopenwebui  OPENAI_API_KEY WEBUI_SECRET_KEY PG\n",
  );

  await run("set", "openwebui", "KEY=openai_api_key");
  expect(JSON.parse((await run("show", "openwebui", "--json")).stdout)).toMatchObject({
    variables: { KEY: "leger/local/openai_api_key" },
    missing: [],
  });
  expect(await run("delete", "openwebui", "--yes", "--json")).toMatchObject({
    status: 0,
    stdout: '{"schema_version":1,"name":"openwebui","deleted":true}\n',
  });
  expect(JSON.parse((await run("list", "--json")).stdout)).toEqual({ schema_version: 1, services: [] });
});

describe("what is refused, and changes nothing", () => {
  let daemon: TestLegerd;
  beforeAll(async () => {
    daemon = await startTestLegerd({ "leger/local/x1": CANARY });
    await leger(daemon, ["services", "set", "litellm", "A=x1"]);
  });
  afterAll(() => daemon[Symbol.asyncDispose]());

  test.for([
    ["no variables", ["set", "openwebui"], 64, /an argument is missing/],
    ["the same variable twice", ["set", "openwebui", "A=x1", "A=x2"], 64, /variable 2: the same variable/],
    ["a variable with a hyphen", ["set", "openwebui", "A-B=x1"], 64, /variable 1: this is no name/],
    ["no secret after =", ["set", "openwebui", "A="], 64, /name cannot be empty/],
    ["a service with a slash", ["set", "a/b", "A=x1"], 64, /not a name for a service/],
    ["an unknown service", ["show", "nope"], 66, /service nope: not found/],
    ["dots for a service", ["show", ".."], 64, /not a name for a service/],
    ["deleting an unknown service", ["delete", "nope", "--yes"], 66, /service nope: not found/],
    ["deleting with nobody to ask", ["delete", "litellm"], 64, /nobody here to ask/],
  ] as const)("%s", async ([, args, status, about]) => {
    const result = await leger(daemon, ["services", ...args]);
    expect(result).toMatchObject({ status, stdout: "" });
    expectSpoken(result, about);
    expect(JSON.parse((await leger(daemon, ["services", "list", "--json"])).stdout)).toMatchObject({
      services: [{ name: "litellm" }],
    });
  });
});
