import { mkdirSync, readFileSync, symlinkSync, lstatSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { readConfig } from "../../src/daemon/config.ts";
import { expectSpoken, leger } from "../support/cli.ts";
import { makePlaces, startTestLegerd, type Places } from "../support/legerd.ts";

function inFile({ base }: Places): { file: string; args: string[] } {
  const file = path.join(base, "legerd.json");
  return { file, args: ["--config", file] };
}

test("a door that was added is one that legerd opens, gives what it is granted, and is explained", async () => {
  using places = makePlaces();
  const { file, args } = inFile(places);
  const added = await leger(places, [
    "door",
    "add",
    "litellm",
    "--grant",
    "get,info:openai_api_key",
    ...args,
  ]);
  expect(added).toMatchObject({ status: 0 });
  expect(added.stderr).toContain("restart legerd");
  expect(added.stderr).toContain("doors/litellm:/run/legerd:ro");
  const config = await readConfig(file);
  expect(config?.doors).toMatchObject([
    { name: "legerd", grants: undefined },
    {
      principal: "litellm",
      mode: 0o600,
      grants: [{ action: ["get", "info"], secret: ["leger/local/openai_api_key"] }],
    },
  ]);
  const doors = (): NonNullable<NonNullable<typeof config>["doors"]>[number][] => [...(config?.doors ?? [])];
  await using daemon = await startTestLegerd({}, { places, doors });
  const list = await leger(daemon, ["door", "list"]);
  expect(list.stdout.split("\n")[1]).toMatch(/^litellm +1 grants +\/.*\/doors\/litellm\/legerd\.sock$/);
  const { stdout } = await leger(daemon, ["door", "explain", "litellm", "openai_api_key"]);
  expect(stdout).toContain('get             yes  grants[0]: "leger/local/openai_api_key"');
  expect(stdout).toContain("put             no   no grant says so");
  expect(stdout).toContain("routes   /api/*, /health\n");
  const json = await leger(daemon, ["door", "explain", "litellm", "other", "--json"]);
  const rules: { allowed: boolean }[] = JSON.parse(json.stdout).rules;
  expect(rules.map(({ allowed }) => allowed)).toEqual(Array.from({ length: 6 }, () => false));
});

test("what else stands in the file stays, also behind a link", async () => {
  using places = makePlaces();
  const { file, args } = inFile(places);
  mkdirSync(path.join(places.base, "dotfiles"));
  const target = path.join(places.base, "dotfiles/legerd.json");
  writeFileSync(target, '{"$schema":"x","cache_entries":5}');
  symlinkSync(target, file);
  await leger(places, ["door", "add", "a", "--grant", "get:x1", ...args]);
  await leger(places, [
    "door",
    "add",
    "b",
    "--grant",
    "get:*",
    "--route",
    "services",
    "--mode",
    "0666",
    ...args,
  ]);
  expect(lstatSync(file).isSymbolicLink()).toBe(true);
  const removed = await leger(places, ["door", "remove", "a", ...args, "--json"]);
  expect(JSON.parse(removed.stdout)).toMatchObject({ removed: "a" });
  expect(JSON.parse(readFileSync(target, "utf8"))).toMatchObject({
    $schema: "x",
    cache_entries: 5,
    doors: [
      { name: "legerd" },
      { principal: "b", mode: "0666", routes: ["services"], grants: [{ action: ["get"], secret: ["*"] }] },
    ],
  });
});

test.for([
  ["no grant", ["add", "x"], 64, /--grant is missing/],
  ["a grant without a secret", ["add", "x", "--grant", "get"], 64, /--grant takes ACTION/],
  ["an action that is none", ["add", "x", "--grant", "read:a"], 64, /--grant takes ACTION/],
  ["a mode that is none", ["add", "x", "--grant", "get:a", "--mode", "rw"], 64, /--mode takes octal digits/],
  ["a name with a slash", ["add", "a/b", "--grant", "get:a"], 64, /not a name for a door/],
  ["a route that is none", ["add", "x", "--grant", "get:a", "--route", "api"], 64, /not one of the choices/],
  ["a door that isn't there", ["remove", "x"], 1, /has none of that name/],
] as const)("%s", async ([, words, status, about]) => {
  using places = makePlaces();
  const { args } = inFile(places);
  const result = await leger(places, ["door", ...words, ...args]);
  expect(result.status).toBe(status);
  expectSpoken(result, about);
});

test.for([
  ["no JSON", "{", /is not JSON/],
  ["no object", "[]", /is not an object/],
  ["a list that is none", '{"doors":{}}', /"doors" is not a list of doors/],
  ["the same door", '{"doors":[{"unix":"/x/y","principal":"x"}]}', /has a door x already/],
] as const)("a file with %s is left as it was", async ([, text, about]) => {
  using places = makePlaces();
  const { file, args } = inFile(places);
  writeFileSync(file, text);
  expectSpoken(await leger(places, ["door", "add", "x", "--grant", "get:a", ...args]), about);
  expect(readFileSync(file, "utf8")).toBe(text);
});
