import { spawnSync } from "node:child_process";
import path from "node:path";
import { tmpdir } from "node:os";
import { mkdtempDisposableSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { allBelow, legerdTable, legerTable } from "../scripts/support/command-table.ts";
import { manualPages } from "../scripts/support/manual.ts";
import { leger } from "./support/cli.ts";
import { makePlaces } from "./support/legerd.ts";

const table = await legerTable();
const commands = allBelow(table);
const pages = await manualPages(new Date("2026-01-31T12:00:00Z"));
const textOf = (file: string): string => pages.find((page) => page.file === file)?.text ?? "";

/** Words of the options that a help text lists. */
function optionsIn(help: string): string[] {
  const listed = /\nOptions:\n((?:.+\n)+)/.exec(`${help}\n`)?.[1] ?? "";
  return [...listed.matchAll(/^ +(?:-[a-z], )?--([a-z-]+)/gm)].map(([, name = ""]) => name).toSorted();
}

test("the table has every command and every option that help shows", async () => {
  using places = makePlaces();
  expect(commands.length).toBeGreaterThan(20);
  for (const { words, options } of commands.filter((command) => command.inherits)) {
    const { stdout } = await leger(places, [...words.slice(1), "--help"]);
    const global = table.options.filter((option) => option.global);
    const known = new Set([...options, ...global].map(({ name }) => name));
    expect([...known].toSorted(), words.join(" ")).toEqual(optionsIn(stdout));
    const below = commands.filter((command) => command.words.slice(0, -1).join(" ") === words.join(" "));
    const listed = stdout.split("\nExamples:")[0] ?? "";
    const shown = [...listed.matchAll(new RegExp(`^  ${words.join(" ")} ([a-z-]+) `, "gm"))];
    if (below.length > 0) {
      expect(below.map((command) => command.words.at(-1))).toEqual([
        ...new Set(shown.map(([, word]) => word)),
      ]);
    }
  }
});

test("every command has a page with its options, arguments and examples", () => {
  for (const { words, options, positionals, examples, commands: below } of commands) {
    const text = textOf(words.length === 1 || words[1] === "version" ? "leger.1" : `leger-${words[1]}.1`);
    if (below.length === 0 && words[1] !== "version") {
      expect(text).toContain(`.Nm ${words.join(" ")}\n`);
      for (const { name } of options.filter((option) => option.name !== "help")) {
        expect(text, words.join(" ")).toContain(`Fl \\-${name.replaceAll("-", String.raw`\-`)}`);
      }
      for (const { name } of positionals) expect(text).toContain(`Ar "${name}"`);
    }
    if (words[1] === "version") continue;
    for (const [line] of examples) expect(text).toContain(line.split(/[-'…]/)[0]);
  }
});

test("the daemon's commands and its configuration's keys are there", async () => {
  for (const { options } of allBelow(await legerdTable())) {
    for (const { name } of options)
      expect(textOf("legerd.8")).toContain(`Fl \\-${name.replaceAll("-", "\\-")}`);
  }
  for (const key of ["doors[].unix", "doors[].grants[].action", "cache_entries"]) {
    expect(textOf("legerd.json.5")).toContain(`.It Ic "${key}"`);
  }
});

test("a page refers only to pages that there are", () => {
  const there = new Set(pages.map(({ file }) => file));
  for (const { file, text } of pages) {
    const named = [...text.matchAll(/^\.Xr (\S+) (\d)/gm)].map(([, name, section]) => `${name}.${section}`);
    expect(named.length, file).toBeGreaterThan(0);
    expect(named.filter((name) => !there.has(name))).toEqual([]);
  }
});

test("the same source and day give the same bytes", async () => {
  expect(await manualPages(new Date("2026-01-31T23:59:59Z"))).toEqual(pages);
  expect(textOf("leger.1")).toContain(".Dd January 31, 2026\n");
});

const missing = (program: string): boolean => spawnSync(program, ["--version"]).error !== undefined;

function eachInFile(look: (file: string) => void): void {
  using directory = mkdtempDisposableSync(path.join(tmpdir(), "leger-man-"));
  for (const { file, text } of pages) {
    const place = path.join(directory.path, file);
    writeFileSync(place, text);
    look(place);
  }
}

test.skipIf(missing("mandoc"))("mandoc finds nothing to complain of (where there is mandoc)", () => {
  eachInFile((file) => {
    const { stdout, stderr } = spawnSync("mandoc", ["-Tlint", file], { encoding: "utf8" });
    // It looks for them among the pages that are installed; a test of ours looks at the pages themselves.
    const faults = `${stdout}${stderr}`
      .split("\n")
      .filter((line) => !line.includes("referenced manual not found"));
    expect(faults.join("\n")).toBe("");
  });
});

test.skipIf(missing("man"))("man has no warning, and shows the words (where there is man)", () => {
  eachInFile((file) => {
    const env = { PATH: process.env["PATH"], LC_ALL: "C.UTF-8", MANWIDTH: "80", MANROFFSEQ: "" };
    const { status, stdout, stderr } = spawnSync("man", ["--warnings", "-E", "UTF-8", "-l", file], {
      encoding: "utf8",
      env,
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toContain(path.basename(file).replace(/\.\d$/, ""));
    expect(stdout).toContain("SEE ALSO");
  });
});
