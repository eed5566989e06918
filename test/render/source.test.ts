import { mkdirSync, mkdtempDisposableSync, realpathSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { parsePodmanVersion } from "../../src/render/podman-versions.ts";
import {
  dropinDirectories,
  findQuadlets,
  SourceReader,
  searchPath,
  templateOf,
  withSubdirectories,
} from "../../src/render/source.ts";
import { Unit } from "../../src/render/unit-file.ts";
import { writeTree } from "../support/quadlets.ts";

const V5_0 = parsePodmanVersion("5.0.3");
const V5_4 = parsePodmanVersion("5.4.2");
const V5_8 = parsePodmanVersion("v5.8.1-dev");

// The third column: 5.0 and 5.1 knew only the quadlet's own and its template's.
test.for<[string, string[], string[]]>([
  ["web.container", ["web.container.d", "container.d"], ["web.container.d"]],
  [
    "a-b-c.container",
    ["a-b-c.container.d", "a-b-.container.d", "a-.container.d", "container.d"],
    ["a-b-c.container.d"],
  ],
  ["web@.container", ["web@.container.d", "container.d"], ["web@.container.d"]],
  [
    "web@x-y.container",
    ["web@x-y.container.d", "web@.container.d", "container.d"],
    ["web@x-y.container.d", "web@.container.d"],
  ],
  [
    "a-b@x.container",
    ["a-b@x.container.d", "a-b@.container.d", "a-@.container.d", "a-.container.d", "container.d"],
    ["a-b@x.container.d", "a-b@.container.d"],
  ],
])("the drop-in directories of %s, the most specific first", ([name, expected, early]) => {
  expect(dropinDirectories(name, V5_4)).toEqual(expected);
  expect(dropinDirectories(name, V5_0)).toEqual(early);
});

/** Reads `name` in a folder with these files; the order of its drop-ins, and the labels that all say together. */
function read(files: Record<string, string>, name: string, { version = V5_4, folders = [""] } = {}) {
  using directory = mkdtempDisposableSync(path.join(tmpdir(), "leger-source-"));
  writeTree(directory.path, files);
  const root = realpathSync(directory.path);
  const search = folders.map((folder) => path.join(root, folder));
  const found = findQuadlets(search).find((file) => path.basename(file) === name);
  const source = new SourceReader(version).read(found ?? "", search);
  const labels = new Unit([source.base, ...source.dropins.map(({ unit }) => unit)]).all("Container", "Label");
  return {
    file: path.relative(root, source.file),
    dropins: source.dropins.map(({ unit }) => path.relative(root, unit.path)),
    labels: labels.map(({ value }) => value),
    inherited: source.inherited.map((file) => path.relative(root, file)),
  };
}

const label = (value: string): string => `[Container]\nLabel=${value}\n`;

describe("drop-ins", () => {
  test("apply by name, bytewise, and of one name the most specific is read", () => {
    const seen = read(
      {
        "foo-bar.container": label("base"),
        "container.d/30-all.conf": label("all"),
        "foo-.container.d/20-some.conf": label("some"),
        "foo-.container.d/30-all.conf": label("hidden by nobody else"),
        "foo-bar.container.d/20-some.conf": label("own"),
        "foo-bar.container.d/Z.conf": label("Z"),
        "foo-bar.container.d/a.conf": label("a"),
        "foo-bar.container.d/not-read.txt": "what",
        "bar.container.d/10-other.conf": label("another's"),
      },
      "foo-bar.container",
    );
    expect(seen.labels).toEqual(["base", "own", "hidden by nobody else", "Z", "a"]);
  });

  test("of a template go for its instances", () => {
    const files = {
      "web@.container": label("template"),
      "web@x.container": label("instance"),
      "web@.container.d/1.conf": label("1 of the template"),
      "web@.container.d/2.conf": label("2 of the template"),
      "web@.container.d/50-leger.conf": label("leger's"),
      "web@x.container.d/2.conf": label("2 of the instance"),
    };
    expect(read(files, "web@x.container")).toMatchObject({
      labels: ["instance", "1 of the template", "2 of the instance"],
      inherited: ["web@.container.d/50-leger.conf"],
    });
    expect(read(files, "web@.container")).toMatchObject({ inherited: [] });
    expect(templateOf("web@x.container")).toBe("web@.container");
    expect(templateOf("web@.container")).toBeUndefined();
    expect(templateOf("web.container")).toBeUndefined();
  });

  test("of several folders: before 5.6 the first folder's go first, from then on the most specific", () => {
    const files = {
      "user/web.container": label("user's"),
      "system/web.container": label("never read"),
      "user/container.d/1.conf": label("user, for all"),
      "system/web.container.d/1.conf": label("system, own"),
    };
    const folders = ["user", "system"];
    expect(read(files, "web.container", { folders }).labels).toEqual(["user's", "user, for all"]);
    expect(read(files, "web.container", { folders, version: V5_8 }).labels).toEqual([
      "user's",
      "system, own",
    ]);
  });
});

describe("where quadlets are looked for", () => {
  test("in folders and those below, but not in drop-in folders, nor round in circles", () => {
    using directory = mkdtempDisposableSync(path.join(tmpdir(), "leger-source-"));
    const root = realpathSync(directory.path);
    writeTree(root, {
      "a/x.container": "",
      "a/b/y.container": "",
      "a/b/c.d/z.container": "",
      "n.volume": "",
    });
    symlinkSync(root, path.join(root, "a/round"));
    symlinkSync("nowhere", path.join(root, "a/dangling"));
    const directories = withSubdirectories(root).map((found) => path.relative(root, found));
    expect(directories).toEqual(["", "a", "a/b"]);
    expect(findQuadlets(withSubdirectories(root)).map((file) => path.basename(file))).toEqual([
      "x.container",
      "y.container",
    ]);
  });

  test("a user's own come before the machine's", () => {
    using directory = mkdtempDisposableSync(path.join(tmpdir(), "leger-source-"));
    const root = realpathSync(directory.path);
    for (const place of ["run/containers/systemd", "config/containers/systemd/stack"]) {
      mkdirSync(path.join(root, place), { recursive: true });
    }
    const found = searchPath({
      kind: "user",
      uid: 12_345,
      runtimeDir: path.join(root, "run"),
      configHome: path.join(root, "config"),
    });
    expect(
      found.filter((place) => place.startsWith(root)).map((place) => path.relative(root, place)),
    ).toEqual(["run/containers/systemd", "config/containers/systemd", "config/containers/systemd/stack"]);
  });
});
