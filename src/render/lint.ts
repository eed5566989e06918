/** lint — what is wrong, or looks wrong, in a quadlet and its drop-ins, with the line and what to do. */
import { whoseKey } from "./key-looks.ts";
import { MODE_NAMES } from "./modes.ts";
import { isAtLeast, keySince, type PodmanVersion } from "./podman-versions.ts";
import { secretLines, type Place, type SecretLine } from "./secret-line.ts";
import type { Source } from "./source.ts";
import { shown, Unit, type Entry, type UnitFile } from "./unit-file.ts";

export type Finding = Place & {
  /** An error keeps Podman or leger from doing what is meant; a warning may be meant so. */
  level: "error" | "warning";
  rule: Rule;
  what: string;
  hint: string;
};

type Rule =
  | "syntax"
  | "lost-line"
  | "unknown-key"
  | "podman-version"
  | "secret"
  | "undeclared"
  | "target"
  | "naming"
  | "key-in-the-open"
  | "x-leger";

export type LintFacts = {
  /** The Podman that is to read it; undefined: any. */
  version: PodmanVersion | undefined;
  /** The secrets that are declared; undefined: nobody declares any. */
  declared: ReadonlySet<string> | undefined;
};

/** Sorted by file and line. No value of any line is in it. */
export function lint({ base, dropins }: Source, facts: LintFacts): Finding[] {
  const files = [base, ...dropins.map(({ unit }) => unit)];
  const unit = new Unit(files);
  const { secrets, faults } = secretLines(unit);
  const findings = [
    ...files.flatMap((file) => syntax(file)),
    ...files.flatMap((file) =>
      entriesOf(file).flatMap((entry) => [...keyOf(entry, facts), ...inTheOpen(entry)]),
    ),
    ...faults.map(({ at, what, hint }) => finding("secret", at, what, hint)),
    ...targets(secrets),
    ...secrets.flatMap((secret) => [...declared(secret, facts), ...naming(secret)]),
  ];
  const order = new Map(files.map(({ path }, index) => [path, index]));
  const rank = ({ path }: Place): number => order.get(path) ?? 0;
  return findings.toSorted((one, other) => rank(one) - rank(other) || one.line - other.line);
}

/** Names in three tiers: `openai_api_key`, `{OPENAI_API_KEY}`, `OPENAI_API_KEY`. */
export const SNAKE_CASE = /^[a-z][a-z0-9]*(?:_[a-z0-9]+)*$/;
export const PLACEHOLDER = /^\{[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*\}$/;
const UPPER_SNAKE = /^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*$/;

const X_LEGER: ReadonlySet<string> = new Set([
  "Mode",
  "Service",
  "ImageUser",
  "ImageEntrypoint",
  "ImageCommand",
]);

function syntax({ path, items }: UnitFile): Finding[] {
  return items.flatMap(({ kind, line, value }) => {
    if (kind === "fault") {
      return [
        finding(
          "syntax",
          { path, line },
          value,
          "podman reads none of the file for it; a comment begins with #",
        ),
      ];
    }
    if (kind !== "void" || value === "") return [];
    const what = "this line goes on in the next, where only a comment or nothing is: podman leaves it out";
    return [finding("lost-line", { path, line }, what, "take the backslash at its end away", "warning")];
  });
}

function entriesOf({ path, items }: UnitFile): Entry[] {
  return items.flatMap((item) => (item.kind === "entry" ? [{ ...item, path }] : []));
}

function keyOf(entry: Entry, { version }: LintFacts): Finding[] {
  const { section, key } = entry;
  if (section === "X-Leger") {
    if (!X_LEGER.has(key)) {
      const what = `leger knows no ${shown(key)}= below [X-Leger]`;
      return [finding("x-leger", entry, what, `it knows ${[...X_LEGER].join(", ")}`, "warning")];
    }
    if (key === "Mode" && !MODE_NAMES.some((name) => name === entry.value.trim())) {
      return [finding("x-leger", entry, "there is no such mode", `one of: ${MODE_NAMES.join(", ")}`)];
    }
    return [];
  }
  if (section !== "Container") return [];
  const since = keySince(key);
  if (since === undefined) {
    const what = `${shown(key)}= is no key of [Container], as far as leger knows: podman refuses the quadlet for it`;
    return [finding("unknown-key", entry, what, "see podman-systemd.unit(5); is it one of [Service]?")];
  }
  if (version === undefined || isAtLeast(version, since)) return [];
  const what = `${key}= came with podman ${since}, and this is ${version.text}: it refuses the quadlet for it`;
  return [finding("podman-version", entry, what, "take it out, or use PodmanArgs=")];
}

/** Secret= names no value, and Image= may hold a digest. */
function inTheOpen(entry: Entry): Finding[] {
  const { section, key, value } = entry;
  if (section === "Container" && (key === "Secret" || key === "Image")) return [];
  const whose = whoseKey(value);
  if (whose === undefined) return [];
  const before = /(?:^|[\s"'])([A-Za-z_][A-Za-z0-9_]{0,63})=/.exec(value)?.[1] ?? "";
  const variable = UPPER_SNAKE.test(before) && whoseKey(before) === undefined ? before : "API_KEY";
  const secret = variable.toLowerCase();
  return [
    finding(
      "key-in-the-open",
      entry,
      `${shown(key)}= holds what looks like a real key, ${whose}`,
      `replace it at its provider; keep the new one by: leger secrets set ${secret}; and write Secret=${secret},type=env,target=${variable}`,
    ),
  ];
}

function targets(secrets: readonly SecretLine[]): Finding[] {
  const seen = new Map<string, SecretLine>();
  return secrets.flatMap((secret) => {
    const target = `${secret.type} ${secret.target ?? secret.secret}`;
    const earlier = seen.get(target);
    seen.set(target, secret);
    if (earlier === undefined) return [];
    const what = `${shown(secret.target ?? secret.secret)} is the target of line ${earlier.at.line}, too: only one of them arrives`;
    return [finding("target", secret.at, what, "take one of them out")];
  });
}

function declared({ secret, at }: SecretLine, facts: LintFacts): Finding[] {
  const name = shown(secret);
  if (facts.declared === undefined || facts.declared.has(name)) return [];
  const what = `${name} is not declared`;
  return [finding("undeclared", at, what, `declare it: "${name}" below "secrets" in leger.json`)];
}

function naming({ secret, type, target, at }: SecretLine): Finding[] {
  const findings: Finding[] = [];
  const name = shown(secret);
  if (!SNAKE_CASE.test(name)) {
    findings.push(
      finding("naming", at, `${name}: secrets are named like openai_api_key`, "rename it", "warning"),
    );
  }
  if (type === "mount" || target === undefined) return findings;
  const variable = shown(target);
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(variable)) {
    const what = `${name}: ${JSON.stringify(variable)} is not a name for a variable`;
    findings.push(finding("naming", at, what, "as in: target=OPENAI_API_KEY"));
  } else if (!UPPER_SNAKE.test(variable)) {
    const what = `${name}: variables are named like OPENAI_API_KEY, and this one ${variable}`;
    findings.push(finding("naming", at, what, `target=${variable.toUpperCase()}`, "warning"));
  }
  return findings;
}

function finding(
  rule: Rule,
  { path, line }: Place,
  what: string,
  hint: string,
  level: Finding["level"] = "error",
): Finding {
  return { path, line, level, rule, what, hint };
}
