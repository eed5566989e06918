/** wrapper — an entrypoint that takes variables out of a mounted file and becomes the image's own program. */
import { END_OF_SET } from "../core/service.ts";
import { asBytes, shown, type Unit } from "./unit-file.ts";
import { literally, quoteWord, splitWords } from "./words.ts";

/** What an image would run, as `podman image inspect` has it. */
export type ImageProgram = { entrypoint: readonly string[]; command: readonly string[] };

/** `Entrypoint=` and `Exec=` to write. Or why it cannot be done, and what to do. */
export type Wrapped = { entrypoint: string; exec: string } | { why: string; hint: string };

/** `file` is where the set lies in the container; `image` undefined where nobody could say. */
export function wrap(unit: Unit, image: ImageProgram | undefined, file: string): Wrapped {
  const program = programOf(unit, image);
  if (!Array.isArray(program)) return program;
  if (program.length === 0) {
    return {
      why: "neither the image nor the quadlet says what to run",
      hint: "write Exec= into the quadlet",
    };
  }
  // Quadlet ends a list of words at an empty one, and systemd takes ";" for the end of a command.
  if (program.some((word) => word === "" || word === ";")) {
    return {
      why: "an argument of its program is empty or a lone semicolon, which Exec= cannot hold",
      hint: "choose mount, env-file or driver for it",
    };
  }
  const script = ["/bin/sh", "-c", scriptFor(file), "leger"];
  return { entrypoint: literally(JSON.stringify(script)), exec: program.map(quoteWord).join(" ") };
}

/** Needs no program but the shell: the smallest images have no `cat`. */
function scriptFor(file: string): string {
  return [
    `_leger=; while IFS= read -r _leger_line; do case $_leger_line in "${END_OF_SET}") _leger=whole;; `,
    `[A-Za-z_]*=*) export "$_leger_line";; esac; done <${file}; `,
    `if [ "$_leger" != whole ]; then echo "leger: ${file} is not whole: see that legerd runs" >&2; exit 78; fi; `,
    `unset _leger _leger_line; exec "$@"`,
  ].join("");
}

/** What Podman would have run, as words for `Exec=` (podman pkg/specgen/generate, makeCommand). */
function programOf(unit: Unit, image: ImageProgram | undefined): string[] | { why: string; hint: string } {
  const given = unit.last("Container", "Exec");
  const exec = given === undefined ? [] : splitWords(given.value);
  if (exec === undefined) {
    return { why: "Exec= has an escape that podman doesn't know", hint: "write \\\\ for a backslash" };
  }
  const entrypoint = unit.last("Container", "Entrypoint");
  // With an entrypoint of the quadlet's the image's command no longer counts.
  if (entrypoint !== undefined) return [...entrypointWords(entrypoint.value), ...exec];
  if (image === undefined) {
    return {
      why: "what the image runs is not known here",
      hint: "pull the image, so that podman image inspect can tell; or write Entrypoint= and Exec= into the quadlet, or ImageEntrypoint= and ImageCommand= (JSON lists) below [X-Leger]",
    };
  }
  return [...ofImage(image.entrypoint), ...(exec.length > 0 ? exec : ofImage(image.command))];
}

function ofImage(words: readonly string[]): string[] {
  return words.map((word) => literally(asBytes(word)));
}

/** A JSON list of words, or one word as it is. `[""]` is no entrypoint at all. */
function entrypointWords(value: string): string[] {
  const words = jsonWords(shown(value))?.map(asBytes) ?? [value];
  return words.length === 1 && words[0] === "" ? [] : words;
}

/** Undefined for anything but a JSON list of strings. */
export function jsonWords(text: string): string[] | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!Array.isArray(parsed)) return undefined;
  const words: string[] = [];
  for (const word of parsed) {
    if (typeof word !== "string") return undefined;
    words.push(word);
  }
  return words;
}
