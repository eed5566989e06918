/** render-config — leger.json: which mode a service or a secret is to have, and which secrets are declared. */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { LegerError, systemCode } from "../core/error.ts";
import { MODE_NAMES, modeNamed, type Mode } from "../render/modes.ts";
import type { Chosen, Reading } from "../render/plan.ts";

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
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    const code = systemCode(error);
    if (!mustExist && (code === "ENOENT" || code === "ENOTDIR")) return undefined;
    throw new LegerError("CONFIG", `cannot read ${file} (${code ?? "unknown error"})`, { cause: error });
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // V8 quotes the text around the fault: a key may have been pasted there.
    throw new LegerError("CONFIG", `${file} is not JSON`, { hints: [EXAMPLE] });
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

const EXAMPLE = 'it reads {"render": {"mode": "mount", "services": {"litellm": {"mode": "env-file"}}}}';

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
