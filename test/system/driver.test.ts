import { describe, expect, test } from "vitest";
import { bootMachine } from "./machine.ts";
import { settle } from "./owner.ts";

const machine = await bootMachine();
await machine.install();

const KEYS = {
  openai_api_key: "sk-proj-plain",
  anthropic_api_key: "quotes \" ' $HOME `id` \\n %h = # ; a b",
  gemini_api_key: "several\nlines, and a last newline\n",
  groq_api_key: "Grüße, 鍵, 🔑",
  mistral_api_key: "x".repeat(100_000),
};
const BYTES = Uint8Array.from({ length: 512 }, (_, at) => at % 256);

const asVariables = Object.keys(KEYS).map((name) => `${name},type=env,target=${name.toUpperCase()}`);

/** Rows of variable and value. */
function expected(values: Readonly<Record<string, string>>): (readonly [string, string])[] {
  return Object.entries(values).map(([name, value]) => [name.toUpperCase(), value]);
}

describe.for(["user", "root"] as const)("%s's quadlets", async (account) => {
  const owner = await settle(machine, account);
  await owner.set({ ...KEYS, tls_key: BYTES });
  await owner.run("leger podman sync");

  const found = async (container: string): Promise<(readonly [string, string])[]> => {
    const environment = await owner.environment(container);
    return Object.keys(KEYS).map((name) => {
      const value = environment.get(name.toUpperCase());
      return [name.toUpperCase(), value === undefined ? "(missing)" : Buffer.from(value).toString()];
    });
  };

  test("five secrets reach a program as variables, byte for byte", async () => {
    await owner.define({ name: "web", secrets: asVariables });
    await owner.start("web.service");
    expect(await found("web")).toEqual(expected(KEYS));
  });

  test("secrets reach a program as files, whatever bytes they are", async () => {
    const secrets = ["tls_key", "gemini_api_key,type=mount,target=/keys/gemini,mode=0400"];
    await owner.define({ name: "files", secrets });
    await owner.start("files.service");
    expect(Buffer.from(await owner.fileIn("files", "/run/secrets/tls_key"))).toEqual(Buffer.from(BYTES));
    expect(Buffer.from(await owner.fileIn("files", "/keys/gemini")).toString()).toBe(KEYS.gemini_api_key);
  });

  test("a rotation reaches variables and files with the next restart, and podman isn't told", async () => {
    const entries = await owner.text("podman secret ls --format '{{.ID}} {{.Name}}' | sort");
    const rotated = { ...KEYS, openai_api_key: "sk-proj-new", gemini_api_key: "new\nlines\n" };
    await owner.set({ openai_api_key: "sk-proj-new", gemini_api_key: "new\nlines\n" });
    expect(await found("web")).toEqual(expected(KEYS));
    await owner.restart("web.service");
    await owner.restart("files.service");
    expect(await found("web")).toEqual(expected(rotated));
    expect(Buffer.from(await owner.fileIn("files", "/keys/gemini")).toString()).toBe("new\nlines\n");
    expect(await owner.text("podman secret ls --format '{{.ID}} {{.Name}}' | sort")).toBe(entries);
  });

  test("podman exec looks the values up anew", async () => {
    await owner.set({ openai_api_key: "sk-proj-newest" });
    const value = await owner.run(["podman", "exec", "web", "sh", "-c", 'printf %s "$OPENAI_API_KEY"']);
    expect(value.stdout).toBe("sk-proj-newest");
    expect((await owner.environment("web")).get("OPENAI_API_KEY")).toEqual(
      Uint8Array.from(Buffer.from("sk-proj-new")),
    );
  });

  test("health checks, which run without the unit's environment, see the values", async () => {
    const podmanArgs = [
      '--health-cmd=\'test "$GROQ_API_KEY" = "Grüße, 鍵, 🔑"\'',
      "--health-interval=1s --health-retries=1",
    ];
    await owner.define({ name: "healthy", secrets: asVariables, podmanArgs });
    await owner.start("healthy.service");
    const status = "podman inspect --format '{{.State.Health.Status}}' healthy";
    await owner.machine.until(account, `test "$(${status})" = healthy`);
    // With no value to be had, the same check says so.
    await owner.run("leger secrets delete groq_api_key --yes");
    await owner.machine.until(account, `test "$(${status})" = unhealthy`);
    await owner.set({ groq_api_key: KEYS.groq_api_key });
    await owner.machine.until(account, `test "$(${status})" = healthy`);
  });
});
