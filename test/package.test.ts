import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { manualPages } from "../scripts/support/manual.ts";

type Entry = {
  version?: string;
  optional?: boolean;
  os?: string[];
  cpu?: string[];
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
};

const lock: { packages: Record<string, Entry> } = JSON.parse(
  readFileSync(new URL("../package-lock.json", import.meta.url), "utf8"),
);

// npm leaves out what it couldn't find while it wrote the file, npm 9 and 10 install from it all the same, and npm 11
// refuses: "can only install packages when your package.json and package-lock.json are in sync".
test("the lock file has an entry for everything that its packages name", () => {
  const missing = Object.entries(lock.packages).flatMap(([place, entry]) =>
    Object.keys({ ...entry.dependencies, ...entry.optionalDependencies })
      .filter(
        (name) =>
          !(`node_modules/${name}` in lock.packages) && !(`${place}/node_modules/${name}` in lock.packages),
      )
      .map((name) => `${place === "" ? "package.json" : place} wants ${name}`),
  );
  expect(missing).toEqual([]);
});

// Without them npm would fetch Darwin's and Windows's programs, too.
test("an optional package of the lock file says which machines it is for", () => {
  const compiled = Object.entries(lock.packages).filter(
    ([place, { optional }]) => optional === true && /-(?:x64|arm64|gnu|musl|msvc)$/u.test(place),
  );
  expect(compiled.length).toBeGreaterThan(40);
  expect(compiled.filter(([, { os, cpu }]) => os === undefined || cpu === undefined)).toEqual([]);
});

test("the manual pages that package.json names for npm are there", async () => {
  const { man }: { man: string[] } = JSON.parse(
    readFileSync(new URL("../package.json", import.meta.url), "utf8"),
  );
  const pages = (await manualPages(new Date(0))).map(({ file }) => `dist/npm/man/${file}`);
  expect(man.length).toBeGreaterThan(10);
  expect(man.filter((page) => !pages.includes(page))).toEqual([]);
});
