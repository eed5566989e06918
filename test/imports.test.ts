import * as fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build, type Metafile } from "esbuild";
import { expect, test } from "vitest";
import { bundle } from "../scripts/build/bundle.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const src = path.join(root, "src");

/** Which folders of src a folder may import. Imports go down only; features never import one another. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  bin: ["cli", "daemon", "driver", "fetch", "backup", "store", "setec", "core"],
  cli: ["driver", "fetch", "render", "residue", "setec", "core"],
  daemon: ["store", "setec", "core"],
  driver: ["setec", "core"],
  fetch: ["setec", "core"],
  render: ["core"],
  residue: ["core"],
  backup: ["store", "core"],
  store: ["setec", "core"],
  setec: ["core"],
  core: [],
};

/** Each package and each of Node's modules that has one owner: the places that may import it. */
const OWNERS: Record<string, readonly string[]> = {
  yargs: ["cli/"],
  undici: ["setec/pool.ts"],
  zod: ["cli/", "daemon/config.ts"],
  "smol-toml": ["cli/containers-conf.ts", "cli/residue-places.ts"],
  "env-paths": ["bin/leger.ts"],
  nunjucks: ["render/template.ts"],
  "age-encryption": ["backup/seal.ts"],
  "prom-client": ["daemon/metrics.ts"],
  "@noble": ["backup/setec-file.ts"],
  "node:sqlite": ["store/"],
  "node:child_process": ["core/exec.ts"],
};

type Import = { file: string; specifier: string };

const IMPORT =
  /(?:^|\n)\s*(?:import|export)\b[^;"']*?from\s*["']([^"']+)["']|(?<!["'])\bimport\s*\(?\s*["']([^"']+)["']/g;

const imports: Import[] = fs
  .readdirSync(src, { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts"))
  .flatMap((file) => {
    const text = fs.readFileSync(path.join(src, file), "utf8");
    return [...text.matchAll(IMPORT)].map((match) => ({ file, specifier: match[1] ?? match[2] ?? "" }));
  });

function folderOf(file: string): string {
  return file.split(path.sep)[0] ?? "";
}

test("the walk sees the imports", () => {
  expect(imports.length).toBeGreaterThan(100);
});

test("imports go down only", () => {
  const breaches = imports.filter(({ file, specifier }) => {
    if (!specifier.startsWith(".")) return false;
    const target = path.relative(src, path.resolve(src, path.dirname(file), specifier));
    const [from, to] = [folderOf(file), folderOf(target)];
    return from !== to && MAY_IMPORT[from]?.includes(to) !== true;
  });
  expect(breaches).toEqual([]);
});

test("each package has one owner, and nothing is imported that has none", () => {
  const breaches = imports.filter(({ file, specifier }) => {
    if (specifier.startsWith(".")) return false;
    const name = specifier.startsWith("node:") ? specifier : specifier.split("/")[0];
    const owners = OWNERS[name ?? ""];
    if (owners === undefined) return !specifier.startsWith("node:");
    return !owners.some((owner) => file.startsWith(owner));
  });
  expect(breaches).toEqual([]);
});

/** The packages that end up in the bundle of an entry point, also those that are loaded later only. */
async function packagesOf(entry: string): Promise<string[]> {
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: [entry],
    bundle: true,
    platform: "node",
    format: "esm",
    metafile: true,
    write: false,
    logLevel: "silent",
  });
  const found = Object.keys(metafile.inputs).flatMap(
    (input) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(input)?.[1] ?? [],
  );
  return [...new Set(found)].toSorted();
}

test("the daemon carries neither yargs nor undici: 90 MiB and 50 ms would go to nothing", async () => {
  const packages = await packagesOf("src/bin/legerd.ts");
  expect(packages).toContain("age-encryption");
  expect(packages).not.toContain("yargs");
  expect(packages).not.toContain("undici");
});

/** What is loaded with a module at once, modules of Node's included. */
function loadedWith(
  file: string,
  { inputs }: Pick<Metafile, "inputs">,
  seen = new Set<string>(),
): Set<string> {
  if (seen.has(file)) return seen;
  seen.add(file);
  for (const { kind, path: target } of inputs[file]?.imports ?? []) {
    if (kind !== "dynamic-import") loadedWith(target, { inputs }, seen);
  }
  return seen;
}

test("what seals backups is loaded for that, and not by a daemon that serves", async () => {
  const { metafile } = await bundle("src/bin/legerd.ts", "esm");
  const loaded = loadedWith("src/bin/legerd.ts", metafile);
  expect(loaded).toContain("src/daemon/legerd.ts");
  expect([...loaded].filter((file) => /src\/backup|noble|age-encryption/.test(file))).toEqual([]);
});

test("what writes metrics is loaded by the first who asks for them, and without what prom-client brings along besides", async () => {
  const { metafile } = await bundle("src/bin/legerd.ts", "esm");
  const ofMetrics = /prom-client|opentelemetry|tdigest|daemon\/metrics/;
  const atStart = [...loadedWith("src/bin/legerd.ts", metafile)];
  expect(atStart).toContain("src/daemon/traffic.ts");
  expect(atStart.filter((file) => ofMetrics.test(file))).toEqual([]);
  const later = [...loadedWith("src/daemon/metrics.ts", metafile)];
  expect(later).toContain("node_modules/prom-client/lib/histogram.js");
  const heavy =
    /opentelemetry|tdigest|bintrees|cluster|gateway|defaultMetrics|^(?:node:)?(?:https?|zlib|perf_hooks)$/;
  expect(Object.keys(metafile.inputs).filter((file) => heavy.test(file))).toEqual([]);
  expect(later.filter((file) => heavy.test(file))).toEqual([]);
});

/** Each of them takes longer to load than all of leger that help needs. */
const SLOW =
  /node_modules\/(?:undici|zod|nunjucks|smol-toml)|^node:(?:http|net|crypto|sqlite|child_process|fs\/promises|stream)$/;

test("help loads no command, and a command loads what it needs itself", async () => {
  const { metafile } = await bundle("src/bin/leger.ts", "esm");
  const slowWith = (file: string): string[] =>
    [...loadedWith(file, metafile)].filter((name) => SLOW.test(name));
  for (const file of ["src/bin/leger.ts", "src/cli/main.ts", "src/cli/secrets.ts", "src/cli/services.ts"]) {
    expect.soft(slowWith(file), file).toEqual([]);
  }
  expect(loadedWith("src/cli/main.ts", metafile)).toContain("node_modules/yargs/index.mjs");
  expect(slowWith("src/cli/status.ts")).not.toEqual([]);
});

test.for(["src/cli/hot.ts", "src/core/wire-node.ts"])(
  "the hot path carries no package at all: %s",
  async (entry) => {
    expect(await packagesOf(entry)).toEqual([]);
  },
);

/** The hot client's bundle: 27,145 bytes when this was set. */
const MAX_HOT_BYTES = 30_000;

test("what a lookup on Bun loads at its start is no module but leger's own: each of Node's, and bun:ffi, costs more than all of leger", async () => {
  const { metafile, code } = await bundle("src/bin/leger-hot.ts", "cjs");
  const seen = new Set<string>();
  const atStart = (file: string): string[] => {
    if (seen.has(file)) return [];
    seen.add(file);
    const loads =
      metafile.inputs[file]?.imports.filter(
        // "<runtime>" is esbuild's own few helpers.
        ({ kind, path: target }) => kind === "import-statement" && target !== "<runtime>",
      ) ?? [];
    return loads.flatMap((load) => (load.external === true ? [load.path] : atStart(load.path)));
  };
  expect(atStart("src/bin/leger-hot.ts")).toEqual([]);
  expect(seen).toContain("src/driver/driver.ts");
  // All of it is loaded for every lookup. What makes it grow past this should be worth it.
  expect(code.length).toBeLessThan(MAX_HOT_BYTES);
  const packages = Object.keys(metafile.inputs).filter((input) => input.includes("node_modules"));
  expect(packages).toEqual([]);
});

test("the version is the same everywhere", async () => {
  const { VERSION } = await import("../src/core/version.ts");
  const manifest: unknown = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8"));
  expect(manifest).toMatchObject({ version: VERSION });
});
