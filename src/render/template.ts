/** template — a quadlet made of a nunjucks template and a configuration. */
import { readFileSync, realpathSync } from "node:fs";
import path from "node:path";
import nunjucks from "nunjucks";
import { LegerError, systemCode } from "../core/error.ts";

/** Which variable a service gets from a declared secret. */
export type DeclaredSecret = { name: string; variable: string; services: readonly string[] };

/**
 * The text that a template makes of a configuration: its keys, `config` for all of it, and `secrets(service)`, which writes
 * the service's Secret= lines. Templates that it includes lie in its own folder or below. BAD_DATA, with the line, for what
 * isn't defined or isn't a template; and for a value that would not stay in its line.
 */
export function renderTemplate(
  file: string,
  { config, secrets }: { config: Readonly<Record<string, unknown>>; secrets: readonly DeclaredSecret[] },
): string {
  const refused: string[] = [];
  const values = guarded(config, "", refused);
  const root = folderOf(file);
  const environment = new nunjucks.Environment([loaderFor(root)], {
    autoescape: false,
    throwOnUndefined: true,
    trimBlocks: true,
    lstripBlocks: true,
  });
  // What is global can be used in macros of other files as well.
  environment
    .addGlobal("config", values)
    .addGlobal("secrets", (service: unknown) => secretLinesFor(service, secrets));
  Object.setPrototypeOf(Reflect.get(environment, "globals"), null);
  const context = {
    ...OUT_OF_REACH,
    ...withoutSecrets(values),
  };
  let text: string;
  try {
    text = environment.render(path.basename(file), context);
  } catch (error) {
    throw failure(file, error);
  }
  const [, number] = MARK.exec(text) ?? [];
  const what = refused[Number(number)];
  if (what === undefined) return text;
  throw new LegerError("BAD_DATA", `${file}: the value of ${what} would not stay in its line`, {
    hints: [
      "a value in a quadlet has neither line breaks nor other control characters, nor a backslash at its end",
    ],
  });
}

/** Stands for a value that must not come out: what a template does with it otherwise is its own affair. */
const MARK = /\ue000(\d+)\ue001/;

/** A copy of the configuration in which marks stand for such values. */
function guarded(value: unknown, where: string, refused: string[]): unknown {
  if (typeof value === "string") {
    if (!/\p{Cc}|[\u2028\u2029\ue000\ue001]|\\$/u.test(value)) return value;
    refused.push(where);
    return `\ue000${refused.length - 1}\ue001`;
  }
  if (Array.isArray(value)) return value.map((item, index) => guarded(item, `${where}[${index}]`, refused));
  if (!isRecord(value)) return value;
  const entries = Object.entries(value).map(
    ([key, item]) => [key, guarded(item, where === "" ? key : `${where}.${key}`, refused)] as const,
  );
  return Object.fromEntries(entries);
}

/** The section of that name is told by the function `secrets`. */
function withoutSecrets(values: unknown): Record<string, unknown> {
  if (!isRecord(values)) return {};
  return Object.fromEntries(Object.entries(values).filter(([key]) => key !== "secrets" && key !== "config"));
}

function secretLinesFor(service: unknown, secrets: readonly DeclaredSecret[]): string {
  const own = secrets.filter(({ services }) => services.some((name) => name === service));
  if (own.length === 0) throw new Error(`no secret is declared for ${JSON.stringify(service)}`);
  return own.map(({ name, variable }) => `Secret=${name},type=env,target=${variable}`).join("\n");
}

/** Reads templates of one folder and of those below. */
function loaderFor(root: string): nunjucks.ILoader {
  return {
    getSource(name: string) {
      const file = path.resolve(root, name);
      let real: string;
      let src: string;
      try {
        real = realpathSync(file);
        if (!real.startsWith(`${root}${path.sep}`))
          throw new Error(`${name} lies outside of the template's folder`);
        src = readFileSync(real, "utf8");
      } catch (error) {
        const code = systemCode(error);
        if (code === undefined) throw error;
        throw new Error(`${name} cannot be read (${code})`, { cause: error });
      }
      return { src, path: name, noCache: true };
    },
  };
}

function folderOf(file: string): string {
  try {
    return realpathSync(path.dirname(file));
  } catch (error) {
    throw new LegerError("IO", `cannot read ${file} (${systemCode(error) ?? "unknown error"})`, {
      cause: error,
    });
  }
}

/** nunjucks' own words, in which the place comes first: "(name) [Line 2, Column 1]\n  what". */
function failure(file: string, error: unknown): LegerError {
  const text = error instanceof Error ? error.message : "";
  const line = /\[Line (\d+)/.exec(text)?.[1];
  const inner = [...text.matchAll(/^\s*\(([^()]+)\)/gm)].at(-1)?.[1] ?? path.basename(file);
  const what =
    text
      .split("\n")
      .at(-1)
      ?.trim()
      .replace(/^Error: /, "") ?? "it cannot be rendered";
  const where = path.join(path.dirname(file), inner);
  const known =
    what === "attempted to output null or undefined value"
      ? "what is to be written here is not defined"
      : what;
  return new LegerError("BAD_DATA", `${where}${line === undefined ? "" : `:${line}`}: ${known}`, {
    hints: ["what a template may use: the configuration's keys, config, and secrets(service)"],
  });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** By these a template would come at JavaScript itself, and with it at any file. */
const FORBIDDEN: readonly string[] = [
  ...Object.getOwnPropertyNames(Object.prototype),
  "prototype",
  "caller",
  "callee",
];

/** A name that nobody defines is looked for in JavaScript's objects otherwise. */
const OUT_OF_REACH = Object.fromEntries(
  FORBIDDEN.filter((name) => name !== "__proto__").map((name) => [name, undefined]),
);

const ownLookup: unknown = Reflect.get(nunjucks.runtime, "memberLookup");
Reflect.set(nunjucks.runtime, "memberLookup", (object: unknown, name: unknown): unknown => {
  if (typeof ownLookup !== "function") throw new LegerError("BUG", "nunjucks has no memberLookup");
  if (FORBIDDEN.includes(String(name)) || typeof object === "function") {
    throw new Error(`${String(name)} cannot be used in a template`);
  }
  return Reflect.apply(ownLookup, undefined, [object, name]);
});
