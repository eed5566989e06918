/** keys — the secrets that the sample quadlets name, with made-up values. */

import { randomInt } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Secret } from "../../src/core/secret.ts";

/** One `Secret=` line. */
export type SecretLine = { service: string; name: string; variable: string };

/** All `Secret=` lines of quadlets/, which are of type env. */
export function secretLines(): SecretLine[] {
  return readdirSync(QUADLETS)
    .filter((file) => file.endsWith(".container"))
    .toSorted()
    .flatMap((file) => {
      const lines = readFileSync(join(QUADLETS, file), "utf8").matchAll(
        /^Secret=([a-z_]+),type=env,target=(\w+)$/gm,
      );
      const service = file.replace(/\.container$/, "");
      return [...lines].map(([, name = "", variable = ""]) => ({ service, name, variable }));
    });
}

/** Looks like a key of that provider and opens nothing; another one each time. */
export function madeUpValue(name: string): Secret {
  const { prefix, length, alphabet } = shapeOf(name);
  const random = Array.from({ length }, () => alphabet[randomInt(alphabet.length)]);
  return new Secret(Buffer.from(prefix + random.join("")));
}

/** What is shown in place of a value: how keys of that provider begin, which is no secret, and its size. */
export function masked(name: string, value: Uint8Array): string {
  return `${shapeOf(name).prefix}••••••••  ${value.length} bytes`;
}

type Shape = { prefix: string; length: number; alphabet: string };

const QUADLETS = fileURLToPath(new URL("../../quadlets", import.meta.url));

const HEX = "0123456789abcdef";
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ALPHANUMERIC = `${LETTERS}0123456789`;

const SHAPES: Readonly<Record<string, Shape>> = {
  anthropic_api_key: { prefix: "sk-ant-api03-", length: 95, alphabet: `${ALPHANUMERIC}_-` },
  civitai_token: { prefix: "", length: 32, alphabet: HEX },
  gemini_api_key: { prefix: "AIza", length: 35, alphabet: `${ALPHANUMERIC}_-` },
  groq_api_key: { prefix: "gsk_", length: 52, alphabet: ALPHANUMERIC },
  hf_token: { prefix: "hf_", length: 34, alphabet: LETTERS },
  mistral_api_key: { prefix: "", length: 32, alphabet: ALPHANUMERIC },
  openai_api_key: { prefix: "sk-proj-", length: 148, alphabet: `${ALPHANUMERIC}_-` },
  openrouter_api_key: { prefix: "sk-or-v1-", length: 64, alphabet: HEX },
  perplexity_api_key: { prefix: "pplx-", length: 48, alphabet: ALPHANUMERIC },
  tavily_api_key: { prefix: "tvly-dev-", length: 32, alphabet: ALPHANUMERIC },
};

function shapeOf(name: string): Shape {
  return SHAPES[name] ?? { prefix: "", length: 40, alphabet: ALPHANUMERIC };
}
