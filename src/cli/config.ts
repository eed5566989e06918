/** config — config.json: its shape, and what is wrong with one that has another. */
import { z } from "zod";
import { LegerError } from "../core/error.ts";
import { EXAMPLE, NAMESPACE } from "./settings.ts";

/** No socket in it: Podman's driver has no HOME to read it by, and would ask another legerd than we do. */
export const ConfigJson = z.strictObject({
  $schema: z.string().optional(),
  namespace: z.string().regex(NAMESPACE, "must be letters, digits and . _ -").optional(),
});

export type Config = z.infer<typeof ConfigJson>;

/** What `file` holds. CONFIG for anything else than a configuration. */
export function parseConfig(file: string, json: unknown): Config {
  const parsed = ConfigJson.safeParse(json);
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.map(({ code, path, message, ...issue }) =>
    code === "unrecognized_keys" && "keys" in issue
      ? `unknown key ${issue.keys.map((key) => JSON.stringify(key)).join(", ")}`
      : `${path.map(String).join(".") || "the file"}: ${message.toLowerCase()}`,
  );
  throw new LegerError("CONFIG", `${file}: ${faults.join("; ")}`, { hints: [EXAMPLE] });
}
