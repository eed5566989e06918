/** names — short names of secrets and what they stand for, and values pasted where a name belongs. */
import { LegerError } from "../core/error.ts";

/**
 * The whole name that `given` means: `openai_api_key` is `leger/NAMESPACE/openai_api_key`; a name with a slash is
 * taken as it is, and with `exact` any is. USAGE, without a word of it, for what looks like a value: what was typed
 * is now in the shell's history and must not be in a log as well.
 */
export function fullName(
  given: string,
  namespace: string,
  { exact = false }: { exact?: boolean } = {},
): string {
  if (given === "") throw new LegerError("USAGE", "a secret's name cannot be empty");
  if (/\p{Cc}/u.test(given)) throw notAName("it holds a control character");
  if (exact) return given;
  // Neither does Podman take such a name for one of its own.
  if (given.includes("=")) throw notAName("it holds an equals sign, as if a value came after it");
  if (looksLikeValue(given)) throw notAName("it looks like a value");
  if (given.includes("/")) return given;
  return `leger/${namespace}/${given}`;
}

/** How a person may call it: short inside the namespace, whole elsewhere. */
export function shortName(name: string, namespace: string): string {
  const prefix = `leger/${namespace}/`;
  const rest = name.slice(prefix.length);
  return name.startsWith(prefix) && rest !== "" && !rest.includes("/") && !looksLikeValue(rest) ? rest : name;
}

/**
 * How a command that we suggest may call it. A namespace that was only given for this run is no part of the next one,
 * so there the name is whole.
 */
export function nameToType(
  name: string,
  settings: { namespace: string; namespaceIsForThisRun: boolean },
): string {
  return settings.namespaceIsForThisRun ? name : shortName(name, settings.namespace);
}

/** Names are short words; keys are not. Wrong now and then, hence `--exact`. */
function looksLikeValue(text: string): boolean {
  if (SNAKE_CASE.test(text)) return false;
  if (text.length > 200 || /\s/.test(text)) return true;
  if (KEY_PREFIXES.test(text)) return true;
  if (/^[A-Za-z0-9]{32,}$/.test(text) && /\d/.test(text)) return true;
  // No slash: a path of random-looking parts is still a path.
  return (
    text.length >= 24 && !text.includes("/") && /[a-z]/.test(text) && /[A-Z]/.test(text) && /\d/.test(text)
  );
}

/** `hf_token` begins like a token of Hugging Face's, but is a name: short words, no capitals. */
const SNAKE_CASE = /^[a-z][a-z0-9]{0,19}(_[a-z0-9]{1,20}){0,7}$/;

/** How the keys of well-known services begin (OpenAI, Anthropic, Stripe, GitHub, GitLab, Slack, AWS, Google, …). */
const KEY_PREFIXES =
  /^(sk[-_]|pk[-_]|rk[-_]|gh[oprsu]_|github_pat_|glpat-|xox[a-z]-|xapp-|AKIA|ASIA|AIza|hf_|eyJ|AGE-SECRET-KEY-|-----BEGIN|https?:\/\/[^/]*@|[a-z]+:\/\/)/;

function notAName(why: string): LegerError {
  return new LegerError("USAGE", `this cannot be the name of a secret: ${why}`, {
    hints: [
      "a value is never given as an argument: it comes from a prompt, a pipe or --file FILE",
      "if it was a real key, replace it at its provider: it is in your shell's history now",
      "a secret that really has such a name: add --exact and give the whole name",
    ],
  });
}
