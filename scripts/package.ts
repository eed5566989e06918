/**
 * package — makes the .deb and .rpm packages of what `npm run build` made: `npm run package [-- --arch x64 --kind deb]`.
 *
 * The same commit and the same binaries give the same bytes. `--version` and `--out` are for tests of upgrades.
 */
import * as fs from "node:fs";
import path from "node:path";
import { run } from "../src/core/exec.ts";
import { LegerError } from "../src/core/error.ts";
import { VERSION } from "../src/core/version.ts";
import { nfpmProgram } from "./package/nfpm.ts";
import { makeStage, ROOT, type Stage } from "./package/stage.ts";
import { sourceDate } from "./support/source-date.ts";
import { readOptions, runScript } from "./support/script.ts";

/** As Node, Debian and RPM call them. */
const ARCHES = { x64: { deb: "amd64", rpm: "x86_64" }, arm64: { deb: "arm64", rpm: "aarch64" } } as const;
type Arch = keyof typeof ARCHES;
const ALL_ARCHES: readonly Arch[] = ["x64", "arm64"];
const KINDS = ["deb", "rpm"] as const;
type Kind = (typeof KINDS)[number];

const NFPM_TIMEOUT_MS = 20 * 60_000;

async function main(): Promise<void> {
  const { values } = readOptions("package", {
    options: {
      arch: { type: "string", multiple: true },
      kind: { type: "string", multiple: true },
      version: { type: "string", default: VERSION },
      out: { type: "string", default: path.join(ROOT, "dist") },
    },
  });
  const arches = chosen("--arch", values.arch, ALL_ARCHES);
  const kinds = chosen("--kind", values.kind, KINDS);
  const nfpm = await nfpmProgram();
  const date = await sourceDate();
  fs.mkdirSync(values.out, { recursive: true });
  for (const arch of arches) {
    const binaries = path.join(ROOT, "dist", `linux-${arch}`);
    using stage = await makeStage({ binaries, version: values.version, date, maintainer: MAINTAINER });
    for (const kind of kinds) {
      const target = path.resolve(values.out, fileName(kind, arch, values.version));
      await pack(nfpm, { kind, arch, version: values.version, target, stage, date });
      const size = (fs.statSync(target).size / 1e6).toFixed(1);
      process.stderr.write(`package: made ${path.relative(ROOT, target)} (${size} MB)\n`);
    }
  }
}

type Job = { kind: Kind; arch: Arch; version: string; target: string; stage: Stage; date: Date };

async function pack(nfpm: string, { kind, arch, version, target, stage, date }: Job): Promise<void> {
  const unfinished = `${target}.new`;
  const env = {
    PATH: process.env["PATH"],
    HOME: stage.directory,
    SOURCE_DATE_EPOCH: String(date.getTime() / 1_000),
    LEGER_ARCH: arch === "x64" ? "amd64" : arch,
    LEGER_VERSION: version,
    LEGER_STAGE: path.relative(ROOT, stage.directory),
    LEGER_MAINTAINER: MAINTAINER,
  };
  const args = ["package", "--config", "packaging/nfpm.yaml", "--packager", kind, "--target", unfinished];
  await run(nfpm, args, { cwd: ROOT, env, timeoutMs: NFPM_TIMEOUT_MS, check: true });
  // In place whole, or not at all.
  fs.renameSync(unfinished, target);
}

/** Whom a package names; whoever builds it for others should say who they are. */
const MAINTAINER = process.env["LEGER_MAINTAINER"] ?? "leger's maintainers <maintainers@leger.example>";

/** As each kind's own tools would call it. */
function fileName(kind: Kind, arch: Arch, version: string): string {
  return kind === "deb"
    ? `leger_${version}_${ARCHES[arch].deb}.deb`
    : `leger-${version}-1.${ARCHES[arch].rpm}.rpm`;
}

function chosen<T extends string>(
  option: string,
  given: readonly string[] | undefined,
  all: readonly T[],
): T[] {
  return (given ?? all).map((word) => {
    const known = all.find((name) => name === word);
    if (known !== undefined) return known;
    throw new LegerError("USAGE", `${option}: one of ${all.join(", ")}`);
  });
}

await runScript("package", main);
