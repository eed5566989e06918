import path from "node:path";
import { expect, test } from "vitest";
import { leger } from "../support/cli.ts";
import { makePlaces, PROJECT_DIR } from "../support/legerd.ts";
import { writeTree } from "../support/quadlets.ts";

/** What is found in `app.container`, a line each: `LINE LEVEL RULE`, then what. */
async function findings(lines: readonly string[], files: Record<string, string> = {}, ...args: string[]) {
  using places = makePlaces();
  writeTree(places.base, { "q/app.container": `[Container]\nImage=x\n${lines.join("\n")}\n`, ...files });
  const { status, stdout, stderr } = await leger(places, ["render", "lint", "q", "--json", ...args]);
  const { findings: found } = JSON.parse(stdout);
  return {
    status,
    stderr,
    stdout,
    found: found.map(
      (one: Record<string, string>) =>
        `${one["line"]} ${one["level"]} ${one["rule"]}: ${one["what"]} | ${one["hint"]}`,
    ),
  };
}

test("the samples have nothing wrong, with their own declarations", async () => {
  using places = makePlaces();
  const config = path.join(PROJECT_DIR, "quadlets/templates/user-config.json");
  const args = [
    "render",
    "lint",
    path.join(PROJECT_DIR, "quadlets"),
    "--config",
    config,
    "--podman-version",
    "5.4",
  ];
  expect(await leger(places, args)).toEqual({
    status: 0,
    stdout: "",
    stderr: "leger: 5 quadlets, 0 findings\n",
  });
});

/** Made up, in the form that each provider gives its keys. */
const KEYS: readonly (readonly [string, string])[] = [
  ["sk-proj-", "OpenAI's"],
  ["sk-", "OpenAI's"],
  ["sk-ant-api03-", "Anthropic's"],
  ["sk-or-v1-", "OpenRouter's"],
  ["AIzaSy", "Google's"],
  ["gsk_", "Groq's"],
  ["pplx-", "Perplexity's"],
  ["tvly-dev-", "Tavily's"],
  ["hf_", "Hugging Face's"],
  ["ghp_", "GitHub's"],
];

test.for(KEYS)(
  "a key that begins with %s is found wherever it was pasted, and not repeated",
  async ([prefix, whose]) => {
    const key = `${prefix}${"Qx7".repeat(14)}`;
    const { status, found, stdout, stderr } = await findings([
      `Environment=A=1 OPENAI_API_KEY=${key}`,
      `Exec=serve --key ${key}=`,
      `Secret=${key},type=env`,
      `[Service]\nEnvironment="${key}"`,
    ]);
    expect(status).toBe(2);
    expect(found).toMatchObject([
      expect.stringMatching(
        new RegExp(
          `^3 error key-in-the-open: Environment= holds what looks like a real key, ${whose} .*Secret=a`,
        ),
      ),
      expect.stringMatching(/^4 error key-in-the-open: Exec=.*Secret=api_key,type=env,target=API_KEY$/),
      expect.stringMatching(/^5 error secret: /),
      expect.stringMatching(/^7 error key-in-the-open: /),
    ]);
    expect(stdout + stderr).not.toContain(key);
  },
);

test("internal keys are no findings", async () => {
  const { status, found } = await findings([
    "Environment=LITELLM_MASTER_KEY=sk-1234",
    "Environment=WEBUI_SECRET_KEY=t0p-secret-83kf92mf023",
    "Environment=SEARXNG_SECRET=ultrasecret-searxng-key-192kf8s",
    "Environment=JWT_SECRET_KEY=mcp-jwt-secret-key-9s8d7f6g5h4j3k2l1",
    "Environment=DATABASE_URL=postgresql://litellm@postgres:5432/litellm",
  ]);
  expect({ status, found }).toEqual({ status: 0, found: [] });
});

test.for<[string, string[], string]>([
  ["a line that is none", ["what"], "3 error syntax: this is neither"],
  ["a line that is lost", ["Secret=a \\", "# b"], "3 warning lost-line: "],
  ["a key that podman doesn't know", ["Nice=5"], "3 error unknown-key: Nice= is no key of [Container]"],
  [
    "a key that is too new",
    ["AppArmor=x"],
    "3 error podman-version: AppArmor= came with podman 5.8, and this is 5.4",
  ],
  [
    "an option that podman doesn't know",
    ["Secret=a,x=y"],
    '3 error secret: Secret=a,x=y: podman knows no option "x"',
  ],
  [
    "a secret that is not declared",
    ["Secret=other,type=env,target=O"],
    "3 error undeclared: other is not declared",
  ],
  [
    "two for one target",
    ["Secret=a,type=env,target=A", "Secret=a,type=env,target=A"],
    "4 error target: A is the target of line 3, too",
  ],
  [
    "a name of another kind",
    ["Secret=My-Key,type=env,target=MY_KEY"],
    "3 warning naming: My-Key: secrets are named like",
  ],
  [
    "a variable of another kind",
    ["Secret=a,type=env,target=apiKey"],
    "3 warning naming: a: variables are named like OPENAI_API_KEY, and this one apiKey",
  ],
  ["what is no variable", ["Secret=a,type=env,target=a-b"], '3 error naming: a: "a-b" is not a name'],
  ["a mode that is none", ["[X-Leger]", "Mode=x"], "4 error x-leger: there is no such mode"],
  ["a key that leger doesn't know", ["[X-Leger]", "Modus=mount"], "4 warning x-leger: leger knows no Modus="],
])("%s", async ([, lines, expected]) => {
  const declared = { "q/leger.json": '{"secrets":{"a":{},"My-Key":{}}}' };
  const { status, found } = await findings(lines, declared, "--podman-version", "5.4");
  expect(status).toBe(2);
  expect(found[0]).toContain(expected);
});

test("a drop-in that two quadlets share is told of once, and a declaration by its line", async () => {
  const { found } = await findings([], {
    "q/b.container": "[Container]\nImage=x\n",
    "q/container.d/1.conf": "[Container]\nwhat\n",
    "q/leger.json": '{\n"secrets": {\n"a": {"default": "{a}"},\n"bB": {}\n}}',
  });
  expect(found.map((text: string) => text.split(":")[0])).toEqual([
    "2 error syntax",
    "3 warning naming",
    "4 warning naming",
  ]);
});
