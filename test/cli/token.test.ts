import { expect, test } from "vitest";
import { expectSpoken, leger } from "../support/cli.ts";
import { makePlaces, startTestLegerd } from "../support/legerd.ts";

function atNoon(): Date {
  return new Date("2026-11-25T12:00:00Z");
}

test("a token is printed once, listed without itself, and revoked", async () => {
  await using daemon = await startTestLegerd();
  const args = ["token", "create", "ci", "--grant", "get:deploy_key", "--expires", "90d"];
  const made = await leger(daemon, args, { world: { now: atNoon } });
  expect(made.stdout).toMatch(/^leger_token_[\w-]{43}\n$/);
  expect(made.stderr).toContain("it ends 2027-02-23T12:00:00.000Z");
  const list = await leger(daemon, ["token", "list"]);
  expect(list.stdout).toMatch(
    /^ci +made \S+ +ends 2027-02-23T12:00:00.000Z +get:leger\/local\/deploy_key\n$/,
  );
  expect(list.stdout).not.toContain(made.stdout.trim());
  expect(JSON.parse((await leger(daemon, ["token", "list", "--json"])).stdout).tokens).toHaveLength(1);
  const again = await leger(daemon, ["token", "create", "ci", "--grant", "get:x"]);
  expectSpoken(again, /there is one of that name/);
  expect(await leger(daemon, ["token", "revoke", "ci"])).toMatchObject({ status: 0 });
  expect(await leger(daemon, ["token", "list"])).toMatchObject({ status: 0, stdout: "" });
  expectSpoken(await leger(daemon, ["token", "revoke", "ci"]), /there is none of that name/);
});

test.for([
  ["no grant", ["ci"], /--grant is missing/],
  ["a grant that is none", ["ci", "--grant", "everything"], /--grant takes ACTION/],
  ["an end that is past", ["ci", "--grant", "get:a", "--expires", "2020-01-01"], /--expires takes/],
  ["an end that is none", ["ci", "--grant", "get:a", "--expires", "soon"], /--expires takes/],
  [
    "a name with a slash",
    ["a/b", "--grant", "get:a"],
    /not a name for a token|access denied|no such|status 40/,
  ],
] as const)("%s", async ([, args, about]) => {
  await using daemon = await startTestLegerd();
  expectSpoken(await leger(daemon, ["token", "create", ...args]), about);
});

test("without legerd there is none", async () => {
  using places = makePlaces();
  expect((await leger(places, ["token", "list"])).status).toBe(69);
});
