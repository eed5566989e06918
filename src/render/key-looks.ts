/** key-looks — whether a text holds what looks like a provider's key, which must not be repeated anywhere. */

/** Whose key a text seems to hold ("OpenAI's"), or undefined. */
export function whoseKey(text: string): string | undefined {
  return REAL_KEYS.find(([pattern]) => pattern.test(text))?.[1];
}

/** The text with every such key taken out. */
export function withoutKeys(text: string): string {
  return REAL_KEYS.reduce(
    (rest, [pattern]) => rest.replaceAll(new RegExp(pattern, "g"), "[looks like a key]"),
    text,
  );
}

/** How the keys of providers look; the words that containers on one network say to each other don't. */
const REAL_KEYS: readonly (readonly [RegExp, string])[] = [
  [/\bsk-ant-[\w-]{16,}/, "Anthropic's"],
  [/\bsk-or-[\w-]{16,}/, "OpenRouter's"],
  [/\bsk-proj-[\w-]{16,}|\bsk-[A-Za-z0-9]{32,}/, "OpenAI's"],
  [/\bAIza[\w-]{30,}/, "Google's"],
  [/\bgsk_[A-Za-z0-9]{20,}/, "Groq's"],
  [/\bpplx-[A-Za-z0-9]{20,}/, "Perplexity's"],
  [/\btvly-[\w-]{16,}/, "Tavily's"],
  [/\bhf_[A-Za-z0-9]{24,}/, "Hugging Face's"],
  [/\b(?:gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_\w{30,})/, "GitHub's"],
  [/\bglpat-[\w-]{20,}/, "GitLab's"],
  [/\bxox[a-z]-[\w-]{16,}/, "Slack's"],
  [/\b(?:AKIA|ASIA)[A-Z0-9]{16}\b/, "Amazon's"],
  [/\b[rsp]k_live_[A-Za-z0-9]{20,}/, "Stripe's"],
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----/, "a private one"],
];
