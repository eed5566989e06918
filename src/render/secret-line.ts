/** secret-line — `Secret=` as Podman understands it: which secret, as what, to where. */
import { whoseKey } from "./key-looks.ts";
import { splitWords } from "./words.ts";
import { shown, type Entry, type Unit } from "./unit-file.ts";

export type SecretLine = {
  /** Podman's name for the secret. */
  secret: string;
  type: "env" | "mount";
  /** The variable, or where the file is to be; for a file that says nothing, undefined: /run/secrets/NAME. */
  target: string | undefined;
  /** As written; a file is 0444 and root's where nothing is said. */
  uid: string | undefined;
  gid: string | undefined;
  mode: string | undefined;
  /** The whole option, to be written again. */
  word: string;
  at: Place;
};

export type Place = { path: string; line: number };

/** What is wrong with a line, and what to do. */
export type Fault = { at: Place; what: string; hint: string };

/** The secrets of a unit in order, and the options that Podman would refuse. */
export function secretLines(unit: Unit): { secrets: SecretLine[]; faults: Fault[] } {
  const secrets: SecretLine[] = [];
  const faults: Fault[] = [];
  for (const entry of unit.all("Container", "Secret")) {
    const words = splitWords(entry.value);
    if (words === undefined) {
      faults.push(
        fault(
          entry,
          "podman leaves this line out for an escape it doesn't know",
          "write \\\\ for a backslash",
        ),
      );
      continue;
    }
    for (const word of words) {
      const secret = parseSecret(word, { path: entry.path, line: entry.line });
      if ("what" in secret) faults.push(secret);
      else secrets.push(secret);
    }
  }
  return { secrets, faults };
}

/** One option of `--secret` (podman pkg/specgenutil/specgen.go, parseSecrets). */
function parseSecret(word: string, at: Place): SecretLine | Fault {
  if (whoseKey(word) !== undefined) {
    const what = "Secret= holds what looks like a real key, where a secret's name belongs";
    return { at, what, hint: "replace it at its provider, and keep the new one by: leger secrets set NAME" };
  }
  const wrong = (what: string, hint = GRAMMAR): Fault => ({
    at,
    what: `Secret=${shown(word)}: ${what}`,
    hint,
  });
  const [first = "", ...rest] = word.split(",");
  if (rest.length === 0) {
    if (first === "") return wrong("it names no secret");
    return { ...NOTHING_SAID, secret: first, type: "mount", word, at };
  }
  const isNamed = !first.includes("=");
  const said: Said = { ...NOTHING_SAID, secret: isNamed ? first : undefined, type: undefined };
  for (const option of isNamed ? rest : [first, ...rest]) {
    const equals = option.indexOf("=");
    if (equals < 0) return wrong(`${JSON.stringify(shown(option))} is not of the form option=value`);
    const [name, value] = [option.slice(0, equals), option.slice(equals + 1)];
    switch (name) {
      case "source":
        said.secret = value;
        break;
      case "type":
        if (said.type !== undefined) return wrong("there is more than one type");
        if (value !== "env" && value !== "mount") return wrong("the type is env or mount");
        said.type = value;
        break;
      case "target":
        said.target = value === "" ? undefined : value;
        break;
      case "mode":
        if (!isNumber(value, 8)) return wrong("the mode is an octal number: mode=0400");
        said.mode = value;
        break;
      case "uid":
      case "UID":
        if (!isNumber(value, 10)) return wrong("the uid is a number");
        said.uid = value;
        break;
      case "gid":
      case "GID":
        if (!isNumber(value, 10)) return wrong("the gid is a number");
        said.gid = value;
        break;
      default:
        return wrong(`podman knows no option ${JSON.stringify(shown(name))}`);
    }
  }
  const { secret, target, uid, gid, mode } = said;
  if (secret === undefined || secret === "") return wrong("it names no secret");
  if (said.type !== "env") return { secret, type: "mount", target, uid, gid, mode, word, at };
  if (uid !== undefined || gid !== undefined || mode !== undefined) {
    return wrong("a variable has neither uid, gid nor mode", "take them out, or make it a file: type=mount");
  }
  return { secret, type: "env", target: target ?? secret, uid, gid, mode, word, at };
}

const GRAMMAR = "as in: Secret=openai_api_key,type=env,target=OPENAI_API_KEY";

type Options = Pick<SecretLine, "target" | "uid" | "gid" | "mode">;
type Said = Options & { secret: string | undefined; type: SecretLine["type"] | undefined };

const NOTHING_SAID: Options = {
  target: undefined,
  uid: undefined,
  gid: undefined,
  mode: undefined,
};

function fault({ path, line }: Entry, what: string, hint: string): Fault {
  return { at: { path, line }, what, hint };
}

/** Go's ParseUint with 32 bits. */
function isNumber(text: string, base: 8 | 10): boolean {
  if (!(base === 8 ? /^[0-7]+$/ : /^[0-9]+$/).test(text)) return false;
  return Number.parseInt(text, base) <= 0xffff_ffff;
}
