/** render-config — leger.json: which mode a service or a secret is to have, and which secrets are declared. */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { LegerError } from "../core/error.ts";
import { PLACEHOLDER, SNAKE_CASE, type Finding } from "../render/lint.ts";
import { MODE_NAMES, modeNamed, type Mode } from "../render/modes.ts";
import type { Chosen, Reading } from "../render/plan.ts";
import type { DeclaredSecret } from "../render/template.ts";
import { readJsonFile } from "./json-file.ts";

const ModeName = z.enum(MODE_NAMES);

/** What a declared secret says of itself, as far as quadlets are concerned. */
const Declaration = z.looseObject({
  /** `{UPPER_SNAKE}`, which stands for the value in a configuration. */
  default: z.string().optional(),
  "x-provider": z.string().optional(),
  /** The services that get it. */
  "x-required-by": z.array(z.string()).optional(),
  /** Its variable, where that isn't the name in capitals. */
  target: z.looseObject({ type: z.enum(["env", "file"]), name: z.string() }).optional(),
});

/** leger.json, or a configuration that has its sections beside others. */
export const LegerJson = z.looseObject({
  $schema: z.string().optional(),
  render: z
    .strictObject({
      mode: ModeName.optional(),
      /** By Podman's name of a secret, for all services. */
      secrets: z.record(z.string(), ModeName).optional(),
      services: z
        .record(
          z.string(),
          z.strictObject({
            mode: ModeName.optional(),
            secrets: z.record(z.string(), ModeName).optional(),
          }),
        )
        .optional(),
    })
    .optional(),
  secrets: z.record(z.string(), Declaration).optional(),
});
export type LegerJson = z.infer<typeof LegerJson>;

/** The file's content; undefined where there is none and it need not be. CONFIG for one that cannot be used. */
export function readLegerJson(file: string, { mustExist }: { mustExist: boolean }): LegerJson | undefined {
  const json = readJsonFile(file, EXAMPLE);
  if (json === undefined) {
    if (!mustExist) return undefined;
    throw new LegerError("CONFIG", `cannot read ${file} (ENOENT)`);
  }
  const parsed = LegerJson.safeParse(json);
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.map(({ code, path, message, ...issue }) => {
    const where = path.map(String).join(".") || "the file";
    if (code === "unrecognized_keys" && "keys" in issue) {
      return `${where}: unknown key ${issue.keys.map((key) => JSON.stringify(key)).join(", ")}`;
    }
    if (code === "invalid_value") return `${where}: one of ${MODE_NAMES.join(", ")}`;
    return `${where}: ${message.toLowerCase()}`;
  });
  throw new LegerError("CONFIG", `${file}: ${faults.join("; ")}`, { hints: [EXAMPLE] });
}

/** What templates are given: leger.json or another configuration, which then must be there. */
export function readTemplateConfig(file: string): LegerJson {
  return readLegerJson(file, { mustExist: true }) ?? {};
}

/** The secrets that a configuration declares, in its order. */
export function declaredSecrets({ secrets = {} }: LegerJson): DeclaredSecret[] {
  return Object.entries(secrets).map(([name, { target, "x-required-by": services = [] }]) => ({
    name,
    variable: target?.type === "env" ? target.name : name.toUpperCase(),
    services,
  }));
}

const EXAMPLE = 'it reads {"render": {"mode": "mount", "services": {"litellm": {"mode": "env-file"}}}}';

/** Names and placeholders of declared secrets, in the lines where they stand. */
export function lintDeclarations(file: string, { secrets = {} }: LegerJson): Finding[] {
  const lines = readFileSync(file, "utf8").split("\n");
  const lineOf = (name: string): number =>
    lines.findIndex((line) => line.includes(`${JSON.stringify(name)}:`)) + 1;
  return Object.entries(secrets).flatMap(([name, { default: placeholder, target }]) => {
    const found = (what: string, hint: string): Finding[] => [
      { path: file, line: lineOf(name), level: "warning", rule: "naming", what, hint },
    ];
    return [
      ...(SNAKE_CASE.test(name) ? [] : found(`${name}: secrets are named like openai_api_key`, "rename it")),
      ...(placeholder === undefined || PLACEHOLDER.test(placeholder)
        ? []
        : found(
            `${name}: its default is not a placeholder`,
            `write "{${name.toUpperCase()}}"; if it was a real key, replace it at its provider`,
          )),
      ...(target?.type !== "env" || /^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*$/.test(target.name)
        ? []
        : found(`${name}: variables are named like OPENAI_API_KEY`, `"name": "${name.toUpperCase()}"`)),
    ];
  });
}

/** Where a mode can come from, beside leger.json and the quadlet. */
export type Wishes = {
  /** --mode: for everything. */
  flag: Mode | undefined;
  config: LegerJson | undefined;
  /** What the drop-in that is there says of itself; undefined: there is none. */
  present: string | undefined;
};

/**
 * The mode of every secret, and the quadlet's own. What is said of a secret goes before what is said of its service, the quadlet before leger.json,
 * and both before what is there already. Nothing said and nothing there is Podman's own way.
 */
export function chooseModes(
  { secrets, service, ownMode }: Reading,
  { flag, config, present }: Wishes,
): { mode: Mode; chosen: Chosen } {
  const render = config?.render;
  const own = render?.services?.[service];
  const [main = "driver", ...others] = (present ?? "driver").split(" ");
  const unitsMode = ownMode ?? own?.mode ?? render?.mode;
  const exceptions = new Map(others.map((pair) => [pair.slice(0, pair.lastIndexOf("=")), pair] as const));
  const chosen = secrets.map((secret) => {
    const name = secret.secret;
    const said = flag ?? own?.secrets?.[name] ?? render?.secrets?.[name] ?? unitsMode;
    if (said !== undefined) return { secret, mode: said };
    const exception = exceptions.get(name);
    const kept = exception === undefined ? main : exception.slice(exception.lastIndexOf("=") + 1);
    return { secret, mode: modeNamed(kept, "leger's drop-in", "BAD_DATA") };
  });
  return { mode: flag ?? unitsMode ?? modeNamed(main, "leger's drop-in", "BAD_DATA"), chosen };
}
