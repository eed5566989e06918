/** quadlets — folders of quadlets for tests, compared byte for byte, and a Podman that answers as it is told. */
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";

/** Writes files, by their path below `directory`. */
export function writeTree(directory: string, files: Readonly<Record<string, string | Uint8Array>>): void {
  for (const [name, content] of Object.entries(files)) {
    const file = path.join(directory, name);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, content);
  }
}

/** All that is below a directory: its kind, its mode, and what is in it. */
export function treeOf(directory: string): Record<string, string> {
  const found = readdirSync(directory, { recursive: true, encoding: "utf8" }).map((name) => {
    const file = path.join(directory, name);
    const stats = lstatSync(file);
    const mode = stats.mode.toString(8);
    if (stats.isSymbolicLink()) return [name, `-> ${readlinkSync(file)}`] as const;
    return [name, stats.isFile() ? `${mode} ${readFileSync(file, "latin1")}` : mode] as const;
  });
  return Object.fromEntries(found.toSorted(([one], [other]) => (one < other ? -1 : 1)));
}

/** What an image says of itself to `podman image inspect`, and whether a shell is in it. */
export type FakeImage = { User?: string; Entrypoint?: string[]; Cmd?: string[]; hasShell?: boolean };

/**
 * A program in Podman's place which knows its version and these images, and nothing else. Every call is a line in the file
 * `${program}.calls`.
 */
export function fakePodman(
  directory: string,
  { version = "5.4.2", images = {} }: { version?: string; images?: Record<string, FakeImage> } = {},
): string {
  const program = path.join(directory, "fake-podman");
  const inspections = Object.entries(images).map(
    ([name, { User, Entrypoint, Cmd }]) =>
      `${quoted(`inspect ${name}`)}) printf '%s\\n' ${quoted(JSON.stringify({ User, Entrypoint, Cmd }))};;`,
  );
  const shells = Object.entries(images).map(
    ([name, { hasShell = true }]) => `${quoted(`run ${name}`)}) exit ${hasShell ? 0 : 127};;`,
  );
  const script = [
    "#!/bin/sh",
    `echo "$*" >> ${quoted(`${program}.calls`)}`,
    `case "$1" in --version) echo ${quoted(`podman version ${version}`)}; exit 0;; esac`,
    'for last in "$@"; do :; done',
    'if [ "$1" = run ]; then for word in "$@"; do case $word in -c) break;; esac; last=$word; done; fi',
    'case "$1" in image) what="inspect $last";; *) what="run $last";; esac',
    `case "$what" in ${[...inspections, ...shells].join(" ")}`,
    '*) echo "Error: no such image" >&2; exit 125;; esac',
  ];
  writeFileSync(program, `${script.join("\n")}\n`);
  chmodSync(program, 0o755);
  return program;
}

/** A word for a shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
