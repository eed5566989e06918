/** quadlet-generator — what Podman makes of quadlets (`quadlet -dryrun`), beside what leger reads in them. */
import { realpathSync } from "node:fs";
import path from "node:path";
import { LegerError } from "../../src/core/error.ts";
import type { PodmanVersion } from "../../src/render/podman-versions.ts";
import {
  findQuadlets,
  readUnit,
  SourceReader,
  withSubdirectories,
  type Source,
} from "../../src/render/source.ts";
import { Unit, type Entry } from "../../src/render/unit-file.ts";
import { splitWords } from "../../src/render/words.ts";

/** What both can be asked: texts hold a byte per character. */
export type Understanding = {
  secrets: string[];
  environment: string[];
  envFiles: string[];
  volumes: string[];
  labels: string[];
  entrypoint: string | undefined;
  user: string | undefined;
  userns: string | undefined;
  /** Behind the image. */
  exec: string[];
};

/** By file: how Podman understands it, or that it doesn't. `output` is standard output, `errors` standard error. */
export function understoodByPodman(
  output: Uint8Array,
  errors: Uint8Array,
  images: ReadonlyMap<string, string>,
): { units: Map<string, Understanding>; unreadable: string[] } {
  const units = new Map<string, Understanding>();
  for (const [, name = "", text = ""] of Buffer.from(output)
    .toString("latin1")
    .matchAll(/^---(\S+?)\.service---\n([^]*?)(?=^---\S+\.service---\n|$(?![^]))/gm)) {
    const file = `${name}.container`;
    const image = images.get(file);
    const start = /^ExecStart=(.*)$/m.exec(text)?.[1];
    if (image === undefined || start === undefined) continue;
    const words = splitWords(start) ?? [];
    const behind = (option: string): string[] =>
      words.flatMap((word, at) => (words[at - 1] === option ? [word] : []));
    units.set(file, {
      secrets: behind("--secret"),
      environment: behind("--env"),
      envFiles: behind("--env-file"),
      volumes: behind("-v").map(withoutName),
      labels: behind("--label"),
      // Newer ones write it as one word.
      entrypoint:
        behind("--entrypoint")[0] ?? /^--entrypoint=(.*)$/s.exec(words.find(isEntrypoint) ?? "")?.[1],
      user: behind("--user")[0],
      userns: behind("--userns")[0],
      exec: words.slice(words.indexOf(image) + 1),
    });
  }
  const unreadable = [
    ...Buffer.from(errors)
      .toString("latin1")
      .matchAll(/error loading "([^"]+)",/g),
  ].map(([, file = ""]) => path.basename(file));
  return { units, unreadable };
}

function isEntrypoint(word: string): boolean {
  return word.startsWith("--entrypoint=");
}

/** Quadlets written for this, most of them to be read differently by a parser that is a little wrong. */
export const CORPUS = realpathSync(path.join(import.meta.dirname, "../render/corpus"));

/** All quadlets in a folder and below, and those that leger refuses for a line of theirs or of a drop-in. */
export function readAll(
  directory: string,
  version: PodmanVersion,
): { sources: Map<string, Source>; unreadable: string[] } {
  const search = withSubdirectories(directory);
  const reader = new SourceReader(version);
  const sources = new Map<string, Source>();
  const unreadable: string[] = [];
  for (const file of findQuadlets(search)) {
    try {
      sources.set(path.basename(file), reader.read(file, search));
    } catch (error) {
      const where = error instanceof LegerError ? /^(.*):\d+: /.exec(error.message)?.[1] : undefined;
      if (where === undefined) throw error;
      unreadable.push(path.basename(where));
    }
  }
  return { sources, unreadable };
}

/** The image that each quadlet names, which stands between Podman's arguments and the program's. */
export function imagesIn(directory: string): Map<string, string> {
  const files = findQuadlets(withSubdirectories(directory));
  return new Map(
    files.map((file) => {
      const image = /^\s*(?:Image|Rootfs)\s*=\s*(\S+)/m.exec(readUnit(file).toString("latin1"))?.[1];
      return [path.basename(file), image ?? ""];
    }),
  );
}

/** The same, as leger reads it in `ours`; Podman read it in the folder `podmans`. */
export function understoodByLeger(
  { file, base, dropins }: Source,
  { ours, podmans }: { ours: string; podmans: string },
): Understanding {
  const unit = new Unit([base, ...dropins.map((dropin) => dropin.unit)]);
  const values = (key: string): readonly string[] => unit.all("Container", key).map(({ value }) => value);
  const words = (key: string): string[] => values(key).flatMap((value) => splitWords(value) ?? []);
  const absolute = (name: string): string =>
    name.startsWith("/") || name.startsWith("%")
      ? name
      : path.join(path.dirname(file), name).replace(ours, podmans);
  const user = unit.last("Container", "User")?.value;
  const group = unit.last("Container", "Group")?.value;
  const exec = lastOf(unit, "Exec");
  return {
    secrets: words("Secret"),
    environment: pairs(words("Environment")),
    envFiles: words("EnvironmentFile").map(absolute),
    volumes: values("Volume").map((value) => withoutName(value.startsWith(".") ? absolute(value) : value)),
    labels: pairs(words("Label")),
    entrypoint: unit.last("Container", "Entrypoint")?.value,
    user: user === undefined ? undefined : group === undefined ? user : `${user}:${group}`,
    userns: unit.last("Container", "UserNS")?.value,
    exec: exec === undefined ? [] : (splitWords(exec.value) ?? []),
  };
}

/** Podman calls a `data.volume` by the name that the volume's own quadlet gives it. */
function withoutName(volume: string): string {
  return /^[/%]/.test(volume) ? volume : volume.slice(volume.indexOf(":") + 1);
}

function lastOf(unit: Unit, key: string): Entry | undefined {
  return unit.last("Container", key);
}

/** Sorted by name, of each the last one, as Podman is given them. */
function pairs(words: readonly string[]): string[] {
  const found = new Map<string, string>();
  for (const word of words) {
    const equals = word.indexOf("=");
    if (equals >= 0) found.set(word.slice(0, equals), word);
  }
  return [...found.keys()].toSorted().map((name) => found.get(name) ?? "");
}
