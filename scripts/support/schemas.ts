/** schemas — the JSON Schemas of the files that people write, as text. */
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { ConfigJson } from "../../src/cli/config.ts";
import { LegerJson } from "../../src/cli/render-config.ts";
import { configSchema } from "../../src/daemon/config.ts";

/** Each schema with the file that it belongs in. */
export async function schemas(): Promise<{ file: string; text: string }[]> {
  const legerd = z.toJSONSchema(await configSchema(), { io: "input" });
  const config = z.toJSONSchema(ConfigJson, { io: "input" });
  const leger = z.toJSONSchema(LegerJson, { io: "input" });
  return [
    { file: fileOf("leger"), text: textOf({ title: "leger.json", ...leger }) },
    { file: fileOf("legerd"), text: textOf({ title: "legerd.json", ...legerd }) },
    { file: fileOf("config"), text: textOf({ title: "config.json", ...config }) },
  ];
}

function fileOf(name: string): string {
  return fileURLToPath(new URL(`../../schemas/${name}.schema.json`, import.meta.url));
}

function textOf(schema: object): string {
  return `${JSON.stringify(schema, undefined, 2)}\n`;
}
