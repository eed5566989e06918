import { mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { expectSpoken, leger } from "../support/cli.ts";
import { makePlaces, PROJECT_DIR } from "../support/legerd.ts";
import { treeOf, writeTree } from "../support/quadlets.ts";

const samples = path.join(PROJECT_DIR, "quadlets/templates");
const templates = readdirSync(samples).filter((name) => name.endsWith(".njk"));

test("there is a template for each sample", () => {
  expect(templates.map((name) => name.replace(".njk", ""))).toEqual(
    readdirSync(path.join(PROJECT_DIR, "quadlets")).filter((name) => name.endsWith(".container")),
  );
});

test.for(templates)("%s makes the sample, byte for byte", async (name) => {
  using places = makePlaces();
  const config = path.join(samples, "user-config.json");
  const made = await leger(places, ["render", "--template", path.join(samples, name), "--config", config]);
  const expected = readFileSync(path.join(PROJECT_DIR, "quadlets", name.replace(".njk", "")), "utf8");
  expect(made).toEqual({ status: 0, stdout: Buffer.from(expected).toString("latin1"), stderr: "" });
});

/** A template, beside files of its own, and a configuration. */
async function make(template: string, config: object = {}, files: Record<string, string> = {}) {
  using places = makePlaces();
  writeTree(places.base, {
    "t/web.container.njk": template,
    "c.json": JSON.stringify(config),
    "outside.njk": "outside",
    ...files,
  });
  mkdirSync(path.join(places.base, "t/links"));
  symlinkSync("../../outside.njk", path.join(places.base, "t/links/out.njk"));
  // `await`, or the directory would be gone first.
  return await leger(places, ["render", "--template", "t/web.container.njk", "--config", "c.json"]);
}

describe("a template", () => {
  test("takes the configuration's keys, and the lines of declared secrets", async () => {
    const { stdout } = await make(
      '{% import "base/m.njk" as m %}\n[Container]\nImage={{ image }}\n{{ m.all() }}\n# {{ config.image }}, {{ secrets("other") }}\n',
      {
        image: "x",
        secrets: {
          a: { "x-required-by": ["web", "other"] },
          b_c: { "x-required-by": ["web"], target: { type: "env", name: "C" } },
        },
      },
      { "t/base/m.njk": '{% macro all() %}{{ secrets("web") }}{% endmacro %}' },
    );
    expect(stdout).toBe(
      "[Container]\nImage=x\nSecret=a,type=env,target=A\nSecret=b_c,type=env,target=C\n# x, Secret=a,type=env,target=A\n",
    );
  });

  test.for<[string, string, RegExp]>([
    [
      "what is not defined",
      "[Container]\n\nImage={{ nope }}\n",
      /web\.container\.njk:3: what is to be written here is not defined$/,
    ],
    [
      "a key that is not there",
      "[Container]\nImage={{ web.image }}\n",
      /web\.container\.njk:2: what is to be written/,
    ],
    ["what is no block", "[Container]\n{% what %}\n", /web\.container\.njk:2: unknown block tag: what$/],
    [
      "a block that stays open",
      "[Container]\n{% if true %}\n",
      /web\.container\.njk: parseIf: expected elif/,
    ],
    [
      "an unknown service",
      '{{ secrets("nobody") }}',
      /web\.container\.njk.*no secret is declared for "nobody"$/,
    ],
    [
      "a value of several lines",
      "[Container]\nImage={{ bad.lines }}",
      /web\.container\.njk: the value of bad\.lines would not stay in its line$/,
    ],
    [
      "a value that goes on in the next line",
      "[Container]\nImage={{ list[1] }}\n",
      /the value of list\[1\] would not stay/,
    ],
    [
      "a file outside",
      '{% include "../outside.njk" %}',
      /\.\.\/outside\.njk lies outside of the template's folder$/,
    ],
    ["a file outside, by its whole path", '{% include "/etc/hostname" %}', /\/etc\/hostname lies outside/],
    ["a symlink that leads out", '{% include "links/out.njk" %}', /links\/out\.njk lies outside/],
    ["a file that is not there", '{% include "no.njk" %}', /no\.njk cannot be read \(ENOENT\)$/],
    [
      "JavaScript",
      '{{ "".constructor.constructor("return process")() }}',
      /constructor cannot be used in a template$/,
    ],
    ["JavaScript, by a computed name", '{{ ""["con" + "structor"] }}', /constructor cannot be used/],
    ["JavaScript, by a function", "{{ range.constructor }}", /cannot be used/],
    ["JavaScript's own objects", "{{ constructor }}", /what is to be written here is not defined$/],
    ["what is no quadlet", "[Container]\nImage\n", /line 2 of what it makes: this is neither/],
  ])("is refused: %s", async ([, template, expected]) => {
    const seen = await make(template, { bad: { lines: "a\nSecret=b" }, list: ["fine", "ends with \\"] });
    expect(seen).toMatchObject({ status: 65, stdout: "" });
    expectSpoken(seen, expected);
  });

  test("may use a value of several lines otherwise", async () => {
    const { stdout } = await make("[Container]\n{% if text %}Image=x{% endif %}\n", { text: "a\nb" });
    expect(stdout).toBe("[Container]\nImage=x");
  });

  test("goes into a directory, where a file that differs is shown and left, unless --force", async () => {
    using places = makePlaces();
    writeTree(places.base, {
      "w.container.njk": "[Container]\nImage={{ i }}\n",
      "c.json": '{"i":"x"}',
      "out/y": "",
    });
    const render = (...args: string[]) =>
      leger(places, [
        "render",
        "--template",
        "w.container.njk",
        "--config",
        "c.json",
        "--out",
        "out",
        ...args,
      ]);
    expect((await render("--check")).status).toBe(2);
    expect((await render()).stderr).toContain("out/w.container: created\n");
    expect((await render()).stderr).toContain("out/w.container: unchanged\n");
    writeTree(places.base, { "c.json": '{"i":"y"}' });
    const refused = await render();
    expectSpoken(refused, /w\.container is there, and is not what the template makes$/);
    expect(refused.stdout).toContain("\n-Image=x\n+Image=y\n");
    await render("--force");
    expect(treeOf(places.base)["out/w.container"]).toContain("Image=y");
  });
});
