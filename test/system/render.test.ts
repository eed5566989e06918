import { execFileSync } from "node:child_process";
import { realpathSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { parsePodmanVersion } from "../../src/render/podman-versions.ts";
import { PROJECT_DIR } from "../support/legerd.ts";
import {
  CORPUS,
  imagesIn,
  readAll,
  understoodByLeger,
  understoodByPodman,
} from "../support/quadlet-generator.ts";
import { bootMachine } from "./machine.ts";

const machine = await bootMachine();
const version = parsePodmanVersion(
  (await machine.root("podman version --format '{{.Client.Version}}'")).stdout,
);
const hasQuadlet = machine.can("quadlet");

/** Takes a folder into the machine, and has its Podman read it. */
async function podmansReading(directory: string) {
  const name = path.basename(directory);
  const tar = execFileSync("tar", ["-C", path.dirname(directory), "-c", name]);
  await machine.user("tar -x", { stdin: tar });
  const inside = `/home/alice/${name}`;
  const generator = "$(ls /usr/libexec/podman/quadlet /usr/lib/podman/quadlet 2>/dev/null | head -n 1)";
  const seen = await machine.user(`QUADLET_UNIT_DIRS=${inside} ${generator} -dryrun -user`, {
    mayFail: true,
  });
  return { inside, ...understoodByPodman(seen.bytes, Buffer.from(seen.stderr), imagesIn(directory)) };
}

describe.skipIf(!hasQuadlet)("this release's podman (has it Quadlet?)", async () => {
  test.for([
    ["the corpus", CORPUS, 110],
    ["the samples", realpathSync(path.join(PROJECT_DIR, "quadlets")), 5],
  ] as const)("understands %s as leger does", async ([, directory, least]) => {
    const podman = await podmansReading(directory);
    const leger = readAll(directory, version);
    expect(leger.unreadable.toSorted()).toEqual(podman.unreadable.toSorted());
    expect(podman.units.size).toBeGreaterThanOrEqual(least);
    for (const [name, understood] of podman.units) {
      const source = leger.sources.get(name);
      if (source === undefined) expect(name).toBe("drop-fault.container");
      else {
        const ours = understoodByLeger(source, { ours: directory, podmans: podman.inside });
        expect({ name, ...ours }).toEqual({ name, ...understood });
      }
    }
  });
});
