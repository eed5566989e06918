import { beforeEach, describe, expect, test } from "vitest";
import { bootMachine } from "./machine.ts";
import { settle, type ContainerUnit } from "./owner.ts";

const machine = await bootMachine();
await machine.install();

const CONTAINERS = 20;
const KEYS = {
  openai_api_key: "sk-proj-1",
  anthropic_api_key: "sk-ant-1",
  gemini_api_key: "AIza1",
  groq_api_key: "gsk_1",
  mistral_api_key: "mis1",
};
const secrets = Object.keys(KEYS).map((name) => `${name},type=env,target=${name.toUpperCase()}`);

/** Stands between Podman and leger, and holds the lookup back that it is told to, until it may go on. */
const PAUSING_LEGER = `#!/bin/sh
if [ "$1 $2" = "driver lookup" ] && [ -d /var/tmp/pause ]; then
  echo >>/var/tmp/pause/lookups
  if [ "$(wc -l </var/tmp/pause/lookups)" = 3 ]; then
    touch /var/tmp/pause/reached
    while [ ! -e /var/tmp/pause/go ]; do sleep 0.02; done
  fi
fi
exec /usr/bin/leger "$@"
`;
await machine.write("root", "/usr/local/bin/pausing-leger", PAUSING_LEGER, { mode: "755" });

describe.for(["user", "root"] as const)("%s's legerd", async (account) => {
  const owner = await settle(machine, account);
  const { systemd } = owner.places;
  await owner.set(KEYS);
  await owner.run("leger podman sync");
  await owner.define({ name: "web", secrets });

  const state = (unit: string): Promise<string> => owner.property(unit, "ActiveState");
  const valuesIn = async (container: string): Promise<unknown> => {
    const environment = await owner.environment(container);
    const values = Object.keys(KEYS).map(
      (name) => [name, environment.get(name.toUpperCase()) ?? []] as const,
    );
    return Object.fromEntries(values.map(([name, value]) => [name, Buffer.from(value).toString()]));
  };

  beforeEach(async () => {
    await owner.systemctl("stop web.service");
    await owner.systemctl("reset-failed");
    await owner.systemctl("start legerd.socket");
  });

  test("it is woken by the start of a container", async () => {
    await owner.systemctl("stop legerd.service");
    expect(await state("legerd.service")).toBe("inactive");
    expect(await state("legerd.socket")).toBe("active");
    await owner.start("web.service");
    expect(await valuesIn("web")).toEqual(KEYS);
    expect(await state("legerd.service")).toBe("active");
  });

  test("killed between two lookups of one start, it is woken by the next, and the start succeeds", async () => {
    // Podman keeps the path with each entry: these go through the script.
    await owner.run("leger podman sync --leger /usr/local/bin/pausing-leger");
    await owner.run("mkdir /var/tmp/pause");
    try {
      await owner.systemctl("start --no-block web.service");
      await machine.until(account, "test -e /var/tmp/pause/reached");
      const before = await owner.property("legerd.service", "MainPID");
      await owner.systemctl("kill --signal=KILL legerd.service");
      await owner.run("touch /var/tmp/pause/go");
      const settled = `case $(${systemd} is-active web.service) in activating) exit 1; esac`;
      await machine.until(account, settled);
      expect(await state("web.service"), await owner.journal("web.service")).toBe("active");
      expect(await valuesIn("web")).toEqual(KEYS);
      expect(await owner.property("legerd.service", "MainPID")).not.toBe(before);
    } finally {
      await owner.run("touch /var/tmp/pause/go; rm -r /var/tmp/pause");
      await owner.run("leger podman sync");
    }
  });

  test(`restarted again and again while ${CONTAINERS} containers start: each has its values, or says why not`, async () => {
    const names = Array.from({ length: CONTAINERS }, (_, at) => `load-${at + 1}`);
    await owner.define(...names.map((name): ContainerUnit => ({ name, secrets })));
    const units = names.map((name) => `${name}.service`);
    const after = await machine.now();
    await owner.systemctl(`start --no-block ${units.join(" ")}`);
    let restarts = 0;
    await machine.waitFor(
      "all have started or failed",
      async () => {
        const { stdout } = await owner.systemctl(`show --property=ActiveState ${units.join(" ")}`);
        const settled = stdout.split("\n").filter((line) => /=(?:active|failed)$/.test(line)).length;
        // Amid the lookups of all who come next, again and again, but with time for some in between.
        if (settled < units.length && settled >= restarts * 3) {
          await owner.systemctl("restart legerd.service");
          restarts += 1;
        }
        return settled === units.length;
      },
      { timeoutMs: 150_000 },
    );
    expect(restarts).toBeGreaterThan(1);
    const started: string[] = [];
    for (const name of names) {
      if ((await state(`${name}.service`)) === "active") {
        started.push(name);
        expect(await valuesIn(name)).toEqual(KEYS);
      } else {
        expect(await owner.journal(`${name}.service`, after)).toMatch(/leger: error: /);
      }
    }
    expect(started).not.toEqual([]);
    // What failed for that reason alone starts now.
    await owner.systemctl("reset-failed");
    await owner.systemctl("start legerd.service");
    for (const name of names) await owner.start(`${name}.service`);
    await owner.systemctl(`stop ${units.join(" ")}`, { timeoutMs: 120_000 });
  });

  test("stopped, with its socket disabled: a start fails at once and says which secret, why, and what to do", async () => {
    await owner.systemctl("--quiet disable --now legerd.socket legerd.service");
    try {
      const said = await owner.failToStart("web.service");
      const [, error] = /^.*(leger: error: .*)$/m.exec(said) ?? [];
      expect(said).toMatch(/leger: error: .*(openai|anthropic|gemini|groq|mistral)_api_key/);
      expect(error).toMatch(/legerd/);
      expect(said).toMatch(/leger: hint: .*systemctl.* start legerd/);
      // Podman gave up by itself, and nobody had to stop it.
      expect(await owner.property("web.service", "Result")).toBe("exit-code");
    } finally {
      await owner.systemctl("--quiet enable --now legerd.socket");
    }
    await owner.start("web.service");
    expect(await valuesIn("web")).toEqual(KEYS);
  });
});
