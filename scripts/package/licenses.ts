/** licenses — under what terms the parts of a package are that others wrote: what is bundled, and the two runtimes. */
import * as fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { LegerError } from "../../src/core/error.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

export type ThirdParties = {
  /** npm packages of which something is in the binaries. */
  packages: readonly { name: string; version: string; license: string; text: string }[];
  /** Texts too long for one file with the rest. */
  runtimes: readonly { file: string; text: string }[];
};

/** FAILED when a bundled package has no licence, which then must not be handed on. */
export async function thirdParties(): Promise<ThirdParties> {
  const names = await bundledPackages();
  const written = ["bun.txt", "LGPL-2.0.txt", "LGPL-2.1.txt"].map((file) => ({
    file,
    text: fs.readFileSync(path.join(ROOT, "packaging/licenses", file), "utf8"),
  }));
  return {
    packages: names.map(licenseOf),
    runtimes: [{ file: "node.txt", text: nodeLicense() }, ...written],
  };
}

/** As SPDX writes it, for tools that read it: leger's own, and all others. */
export function licenseExpression({ packages }: ThirdParties): string {
  const others = new Set([...packages.map(({ license }) => license), ...RUNTIMES]);
  others.delete(OWN);
  return [OWN, ...[...others].toSorted(compare)].join(" AND ");
}

const OWN = "Apache-2.0";
/** Node's and Bun's own, and what Bun links. */
const RUNTIMES = ["MIT", "LGPL-2.0-or-later", "LGPL-2.1-or-later", "BSD-3-Clause"];

/** Debian's machine-readable copyright file (copyright-format 1.0). */
export function copyrightFile({ packages }: ThirdParties): string {
  const head = [
    "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
    "Upstream-Name: leger",
    "Comment: The programs hold a runtime each, and what they use of these npm packages. What the",
    " runtimes are made of is listed in /usr/share/doc/leger/licenses: node.txt for",
    " /usr/libexec/leger/leger, bun.txt for /usr/bin/leger. With RPM these are in",
    " /usr/share/licenses/leger.",
    "",
    "Files: *",
    "Copyright: leger's contributors",
    "License: Apache-2.0",
    "",
    "Files: usr/libexec/leger/leger",
    "Copyright: Node.js contributors, and those whom node.txt names",
    "License: MIT and others",
    " See node.txt.",
    "",
    "Files: usr/bin/leger",
    "Copyright: Bun's contributors, and those whom bun.txt names",
    "License: MIT and LGPL-2.0-or-later and others",
    " See bun.txt.",
    "",
  ];
  const bundled = packages.map(({ name, license, text }) => {
    // Its text has "copyright license" at the beginning of lines.
    const holder =
      license === OWN ? /^\s*Copyright (\d{4}.*)$/gm : /^\s*(?:\(c\) )?Copyright\s*(?:\(c\)|©)?\s*(.+)$/gim;
    const holders = [...text.matchAll(holder)].map(([, who = ""]) => who.trim());
    const files = [
      `Files: node_modules/${name}/*`,
      `Copyright: ${holders.length === 0 ? `the authors of ${name}` : holders.join("\n ")}`,
    ];
    // Ours, too: its text stands once.
    if (license === OWN) return [...files, `License: ${OWN}`, ""].join("\n");
    return [
      ...files,
      // A name of its own for each text: they differ in whom they name.
      `License: ${license}-${name.replaceAll(/[^a-z0-9]+/g, "-")}`,
      ...text
        .trim()
        .split("\n")
        .map((line) => (line.trim() === "" ? " ." : ` ${line.trimEnd()}`)),
      "",
    ].join("\n");
  });
  const apache = [
    "License: Apache-2.0",
    " Licensed under the Apache License, Version 2.0; you may not use this file except in",
    " compliance with the License. Unless required by applicable law or agreed to in writing,",
    ' software distributed under the License is distributed on an "AS IS" BASIS, WITHOUT',
    " WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.",
    " .",
    " On Debian systems its whole text is in /usr/share/common-licenses/Apache-2.0.",
    "",
  ];
  return [...head, ...bundled, ...apache].join("\n");
}

/** By name, as the bundler finds them from the entry points. */
async function bundledPackages(): Promise<string[]> {
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: ["src/bin/*.ts"],
    outdir: "nowhere",
    bundle: true,
    platform: "node",
    format: "esm",
    external: ["bun:*"],
    metafile: true,
    write: false,
    logLevel: "error",
  });
  const found = Object.keys(metafile.inputs).flatMap(
    (input) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(input)?.[1] ?? [],
  );
  const names = [...new Set(found)].toSorted(compare);
  if (!names.includes("yargs")) throw new LegerError("FAILED", "the bundler finds no packages any more");
  return names;
}

function licenseOf(name: string): ThirdParties["packages"][number] {
  const directory = path.join(ROOT, "node_modules", name);
  const manifest: { version?: unknown; license?: unknown } = JSON.parse(
    fs.readFileSync(path.join(directory, "package.json"), "utf8"),
  );
  const file = fs
    .readdirSync(directory)
    .find((entry) => /^licen[cs]e(?:[-.](?:mit|md|txt)){0,2}$/i.test(entry));
  if (file === undefined || typeof manifest.license !== "string" || typeof manifest.version !== "string") {
    throw new LegerError("FAILED", `${name} is bundled and says no licence`);
  }
  const text = fs.readFileSync(path.join(directory, file), "utf8");
  return { name, version: manifest.version, license: manifest.license, text };
}

/** The same in both of Node's packages; npm installs the one for this machine. */
function nodeLicense(): string {
  const file = ["x64", "arm64"]
    .map((arch) => path.join(ROOT, "node_modules", `node-linux-${arch}`, "LICENSE"))
    .find((place) => fs.existsSync(place));
  if (file === undefined)
    throw new LegerError("FAILED", "npm brought no Node, whose licence goes into packages");
  return fs.readFileSync(file, "utf8");
}

function compare(one: string, other: string): number {
  return one < other ? -1 : Number(one > other);
}
