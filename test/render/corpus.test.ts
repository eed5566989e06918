/** corpus — quadlets, odd ones among them, as leger reads them and as Podman 5.4.2's own generator did. */
import { readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { parsePodmanVersion } from "../../src/render/podman-versions.ts";
import { SourceReader } from "../../src/render/source.ts";
import { parseUnitFile, printUnitFile } from "../../src/render/unit-file.ts";
import {
  CORPUS,
  imagesIn,
  readAll,
  understoodByLeger,
  understoodByPodman,
} from "../support/quadlet-generator.ts";

/** What `quadlet -dryrun -user` of Debian 13 wrote for the corpus in /corpus; test/system/render.test.ts makes it anew. */
const recorded = path.join(import.meta.dirname, "podman-5.4.2");
const podman = understoodByPodman(
  readFileSync(path.join(recorded, "stdout")),
  readFileSync(path.join(recorded, "stderr")),
  imagesIn(CORPUS),
);
const leger = readAll(CORPUS, parsePodmanVersion("5.4.2"));

test("there are more than a hundred, and podman has said something of nearly all", () => {
  expect(leger.sources.size + leger.unreadable.length).toBeGreaterThan(120);
  expect(podman.units.size).toBeGreaterThan(110);
});

test("leger cannot read those that podman cannot read, and no other", () => {
  expect(leger.unreadable.toSorted()).toEqual(podman.unreadable.toSorted());
  expect(leger.unreadable.length).toBeGreaterThan(8);
});

describe("leger understands what podman understands", () => {
  // Podman goes on without a drop-in that it cannot read; leger refuses, whatever the drop-in may have meant to add.
  const both = [...podman.units].filter(([name]) => name !== "drop-fault.container");
  test.for(both)("%s", ([name, understood]) => {
    const source = leger.sources.get(name);
    expect(source && understoodByLeger(source, { ours: CORPUS, podmans: "/corpus" })).toEqual(understood);
  });
});

test("every file is printed as it was read", () => {
  for (const name of readdirSync(CORPUS, { recursive: true, encoding: "utf8" })) {
    if (!/\.(?:container|conf|pod)$/.test(name)) continue;
    const bytes = readFileSync(path.join(CORPUS, name));
    expect(printUnitFile(parseUnitFile(name, bytes)).equals(bytes), name).toBe(true);
  }
});

test("podman 5.8 reads the most specific drop-in where 5.4 reads that of the first folder", () => {
  const file = path.join(CORPUS, "drop-a-b-c.container");
  const read = new SourceReader(parsePodmanVersion("5.8.0")).read(file, [CORPUS]);
  expect(understoodByLeger(read, { ours: CORPUS, podmans: CORPUS }).secrets).toEqual([
    "base",
    "own",
    "ab",
    "a",
  ]);
});
