import { describe, expect, test } from "vitest";
import { MODES, type Mode } from "../../src/render/modes.ts";
import { bootMachine } from "./machine.ts";
import { settle } from "./owner.ts";

const machine = await bootMachine();
await machine.install();

/** Two keys that a shell, an env file and systemd would each like to read in a way of their own. */
const VALUES = { openai_api_key: "sk-proj-1", hf_token: "quotes \" ' and # = $HOME %t \\ end " };
const VARIABLES = { OPENAI_API_KEY: "openai_api_key", HF_TOKEN: "hf_token" } as const;
const SECRETS = Object.entries(VARIABLES).map(
  ([variable, secret]) => `${secret},type=env,target=${variable}`,
);

function wanted(values: Readonly<Record<string, string>>): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(VARIABLES).map(([name, secret]) => [name, values[secret]]));
}

const all = MODES.map(({ mode }) => mode);
const withVariables = all.filter((mode) => mode !== "mount");

describe.skipIf(!machine.can("quadlet drop-ins")).for(["user", "root"] as const)(
  "%s's quadlet (has this release's podman drop-ins?)",
  async (account) => {
    const owner = await settle(machine, account);
    await owner.set(VALUES);
    await owner.run("leger podman sync");
    const { quadlets, runtimeDir } = owner.places;
    const base = `${quadlets}/web.container`;
    const dropin = `${base}.d/50-leger.conf`;

    async function switchTo(mode: Mode, name = "web"): Promise<void> {
      await owner.run(`leger render ${name} --mode ${mode} --register`);
      await owner.systemctl("daemon-reload");
    }

    async function variables(): Promise<Record<string, string>> {
      const found = await owner.environment("web");
      const names = Object.keys(VARIABLES).filter((name) => found.has(name));
      return Object.fromEntries(names.map((name) => [name, Buffer.from(found.get(name) ?? []).toString()]));
    }

    test.for(withVariables)(
      "%s: its program has the exact values, after a rotation the new ones",
      async (mode) => {
        await owner.define({ name: "web", secrets: SECRETS });
        const before = await owner.text(`cat ${base}`);
        await switchTo(mode);
        await owner.start("web.service");
        expect(await variables()).toEqual(wanted(VALUES));
        const rotated = { ...VALUES, openai_api_key: `sk-proj-2-${mode}` };
        await owner.set({ openai_api_key: rotated.openai_api_key });
        await owner.restart("web.service");
        expect(await variables()).toEqual(wanted(rotated));
        await owner.systemctl("stop web.service");
        await owner.set(VALUES);
        expect((await owner.run(`ls ${runtimeDir}/leger/env/web.env`, { mayFail: true })).status).not.toBe(0);
        expect(await owner.text(`cat ${base}`)).toBe(before);
        await switchTo("driver");
        expect((await owner.run(["test", "-e", `${base}.d`], { mayFail: true })).status).toBe(1);
      },
    );

    test("mount: its program has files, and variables that say where; nothing of it is in podman's storage", async () => {
      await owner.define({ name: "web", secrets: SECRETS });
      await switchTo("mount");
      await owner.start("web.service");
      const found = await owner.environment("web");
      for (const [name, secret] of Object.entries(VARIABLES)) {
        const file = Buffer.from(found.get(`${name}_FILE`) ?? []).toString();
        expect(file).toBe(`/run/credentials/${name}`);
        expect(Buffer.from(await owner.fileIn("web", file)).toString()).toBe(VALUES[secret]);
      }
      expect(await variables()).toEqual({});
      await expectNothingStored();
      await owner.systemctl("stop web.service");
    });

    test("entrypoint: nothing is in podman's storage, nor in podman inspect", async () => {
      await owner.define({ name: "web", secrets: SECRETS });
      await switchTo("entrypoint");
      await owner.start("web.service");
      expect(await variables()).toEqual(wanted(VALUES));
      await expectNothingStored();
      // exec doesn't see them, as the documentation says.
      expect(await owner.text("podman exec web env")).not.toContain(VALUES.openai_api_key);
      await owner.systemctl("stop web.service");
    });

    async function expectNothingStored(): Promise<void> {
      const inspected = await owner.text("podman inspect web");
      const stored = await owner.run(
        ["grep", "-r", "-l", "-a", "-F", VALUES.openai_api_key, owner.places.storage],
        {
          mayFail: true,
        },
      );
      expect(inspected).not.toContain(VALUES.openai_api_key);
      expect(stored.stdout).toBe("");
    }

    test("entrypoint: a set that was cut short starts no program, and says so", async () => {
      await owner.define({ name: "web", secrets: SECRETS });
      await switchTo("entrypoint");
      const socket = `${runtimeDir}/leger/cred/web.env`;
      // What systemd gets of a legerd that is killed while it writes: a file stands in for that.
      await owner.run(`rm ${socket}`);
      await machine.write(account, socket, `OPENAI_API_KEY=${VALUES.openai_api_key}\nHF_TOK`, {
        mode: "600",
      });
      const after = await machine.now();
      await owner.systemctl("start web.service", { mayFail: true });
      await machine.waitFor("it says so", async () =>
        (await owner.journal("web.service", after)).includes("leger: /run/credentials/web.env is not whole"),
      );
      await owner.systemctl("stop web.service");
      // It makes its sockets anew, where nothing else is in their place.
      await owner.run(`rm ${socket}`);
      await owner.systemctl("restart legerd.service");
      await owner.start("web.service");
      await owner.systemctl("stop web.service");
    });

    test("a program that is not root reads its files by keep-id, where there is such a thing", async () => {
      const text = [
        "[Container]",
        "ContainerName=web",
        "Image=localhost/bb:1",
        "PodmanArgs=--cgroups=disabled --network=none",
        "User=999",
        ...SECRETS.map((secret) => `Secret=${secret}`),
        "Exec=stay",
      ];
      await machine.write(account, base, `${text.join("\n")}\n`);
      if (account === "root") {
        const refused = await owner.run("leger render web --mode mount", { mayFail: true });
        expect(refused.status).toBe(65);
        expect(refused.stderr).toContain("runs as user 999, and systemd gives the files to root");
        return;
      }
      await switchTo("entrypoint");
      await owner.start("web.service");
      expect(await variables()).toEqual(wanted(VALUES));
      expect(await owner.text("podman exec web id -u")).toBe("999");
      await owner.systemctl("stop web.service");
      await switchTo("driver");
    });

    test("the wrapped program gets its arguments as they were, and the image's where there are none", async () => {
      await owner.run(
        `podman build -q -t localhost/args:1 - <<'X'
FROM localhost/bb:1
ENTRYPOINT ["/bin/sh", "-c", "printf '<%s>' \\"$@\\"; echo; exec stay", "name"]
CMD ["a b", "100%", "$HOME", "quote\\"s", "it's"]
X`,
        { mayFail: true },
      );
      const exists =
        (await owner.run("podman image exists localhost/args:1", { mayFail: true })).status === 0;
      expect(exists).toBe(true);
      await owner.define({ name: "web", secrets: SECRETS, image: "localhost/args:1", exec: "" });
      await switchTo("entrypoint");
      const after = await machine.now();
      await owner.start("web.service");
      await machine.waitFor("it says its arguments", async () =>
        (await owner.journal("web.service", after)).includes(`<a b><100%><$HOME><quote"s><it's>`),
      );
      expect(await variables()).toEqual(wanted(VALUES));
      await owner.systemctl("stop web.service");
      await switchTo("driver");
    });

    test("instances of a template have their env files apart, which are gone once they have stopped", async () => {
      const template = `${quadlets}/inst@.container`;
      const text = [
        "[Container]",
        "ContainerName=inst-%i",
        "Image=localhost/bb:1",
        "PodmanArgs=--cgroups=disabled --network=none",
        ...SECRETS.map((secret) => `Secret=${secret}`),
        "Exec=stay",
      ];
      await machine.write(account, template, `${text.join("\n")}\n`);
      await switchTo("env-file", "inst@");
      await owner.start("inst@one.service");
      await owner.start("inst@two.service");
      for (const name of ["one", "two"]) {
        const value = (await owner.environment(`inst-${name}`)).get("HF_TOKEN");
        expect(Buffer.from(value ?? []).toString()).toBe(VALUES.hf_token);
      }
      await owner.systemctl("stop inst@one.service");
      expect(await owner.text(`ls -d ${runtimeDir}/leger-env-inst*`)).toBe(
        `${runtimeDir}/leger-env-inst@two`,
      );
      await owner.restart("inst@two.service");
      await owner.systemctl("stop inst@two.service");
      expect((await owner.run(`ls -d ${runtimeDir}/leger-env-inst*`, { mayFail: true })).status).not.toBe(0);
      await owner.run(`rm -r ${template} ${template}.d`);
    });

    test("a unit whose secret is missing fails at once, is explained, and is tried again until the secret is there", async () => {
      await owner.run(`rm -rf ${base}*`);
      await owner.run("leger services delete web --yes");
      const text = [
        "[Container]",
        "ContainerName=web",
        "Image=localhost/bb:1",
        "PodmanArgs=--cgroups=disabled --network=none",
        "Secret=groq_api_key,type=env,target=GROQ_API_KEY",
        "Exec=stay",
      ];
      await machine.write(account, base, `${text.join("\n")}\n`);
      const before = await machine.now();
      await switchTo("credential");
      expect(await owner.text(`grep -c RestartSec=5s ${dropin}`)).toBe("1");
      expect((await owner.systemctl("start web.service", { mayFail: true })).status).not.toBe(0);
      expect(await owner.property("web.service", "Result")).toBe("exit-code");
      expect(await owner.property("web.service", "ExecMainStatus")).toBe("243");
      const explained = await owner.run("leger explain web", { mayFail: true });
      expect(explained.status).toBe(2);
      expect(explained.stdout).toContain("-> leger secrets set groq_api_key");
      expect(explained.stdout).toContain(`${dropin} (set)`);
      expect(await owner.journal("legerd.service", before)).toContain(
        "warning: no credentials for service web: GROQ_API_KEY: there is no secret",
      );
      await owner.set({ groq_api_key: "gsk_1" });
      await machine.until(account, `${owner.places.systemd} is-active web.service`);
      const found = await owner.environment("web");
      expect(Buffer.from(found.get("GROQ_API_KEY") ?? []).toString()).toBe("gsk_1");
      await owner.systemctl("stop web.service");
      await owner.run("leger explain web");
    });

    test("the audit log says which service's socket gave which secret", async () => {
      const lines = await owner.text("leger audit --secret groq_api_key --json");
      expect(lines).toContain('"credential":"web.env"');
    });
  },
);
