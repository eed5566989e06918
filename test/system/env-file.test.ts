import { describe, expect, test } from "vitest";
import { bootMachine } from "./machine.ts";
import { settle } from "./owner.ts";

const machine = await bootMachine();
await machine.install();

const RESTARTS = 50;

describe.for(["user", "root"] as const)("%s's env file", async (account) => {
  const owner = await settle(machine, account);
  await owner.set({ openai_api_key: "sk-proj-1", hf_token: "quotes \" ' and # = $HOME" });
  await owner.run("leger services set web openai_api_key hf_token");

  const asked = async (): Promise<unknown> => {
    const { OPENAI_API_KEY, HF_TOKEN } = Object.fromEntries(await owner.environment("web"));
    return [OPENAI_API_KEY, HF_TOKEN].map((value) => Buffer.from(value ?? []).toString());
  };

  /** By default, and in the place that leger's earliest papers had. */
  const places = [
    { directory: `${owner.places.runtimeDir}/leger/env`, option: "", specifier: "%t/leger/env" },
    {
      directory: owner.places.runtimeDir,
      option: account === "user" ? " --dir /run/user/%U" : " --dir /run",
      specifier: account === "user" ? "/run/user/%U" : "/run",
    },
  ];

  describe.for(places)("in $directory", ({ directory, option, specifier }) => {
    const file = `${directory}/web.env`;
    const service = [
      `ExecStartPre=/usr/bin/leger secrets fetch web${option}`,
      `ExecStopPost=/usr/bin/leger secrets fetch web --remove${option}`,
    ];
    const unit = { name: "web", environmentFile: `${specifier}/web.env`, service };
    const isGone = async (): Promise<void> => {
      expect((await owner.run(["test", "-e", file], { mayFail: true })).status).toBe(1);
      // Nor is there one under another name, on its way.
      expect(await owner.text(`find ${directory} -maxdepth 1 -name '*web.env*'`)).toBe("");
    };
    test("a unit fetches it before it starts: private, on tmpfs, gone when it has stopped", async () => {
      await owner.define(unit);
      await owner.start("web.service");
      expect(await asked()).toEqual(["sk-proj-1", "quotes \" ' and # = $HOME"]);
      const who = account === "user" ? "alice" : "root";
      expect(await owner.text(`stat --format='%a %U %F' ${file}`)).toBe(`600 ${who} regular file`);
      expect(await owner.text(`stat --file-system --format=%T ${file}`)).toBe("tmpfs");
      await owner.systemctl("stop web.service");
      await isGone();
    });

    test("it is gone when the program has crashed", async () => {
      await owner.define(unit);
      await owner.start("web.service");
      await machine.root(["kill", "-KILL", await owner.pidOf("web")]);
      await machine.until(account, `${owner.places.systemd} is-failed web.service`);
      await isGone();
    });

    test("it is gone when the container could not be started", async () => {
      await owner.define({ ...unit, exec: "/no/such/program" });
      expect(await owner.failToStart("web.service")).toContain("/no/such/program");
      await isGone();
    });

    test("a unit whose service leger doesn't know fails, says why, and leaves no file", async () => {
      await owner.define({ ...unit, service: service.map((line) => line.replace(" web", " unknown")) });
      // journald asks /proc whose a line is, and may come too late for a program that has ended: then it is nobody's.
      await expect
        .poll(() => owner.failToStart("web.service"), { timeout: 30_000 })
        .toMatch(/leger: error: .*unknown/);
      await isGone();
    });
  });

  test(`a unit is restarted ${RESTARTS} times in a row, and has the values of the day each time`, async () => {
    const { systemd, runtimeDir } = owner.places;
    const service = [
      "ExecStartPre=/usr/bin/leger secrets fetch web",
      "ExecStopPost=/usr/bin/leger secrets fetch web --remove",
    ];
    await owner.define({ name: "web", environmentFile: "%t/leger/env/web.env", service });
    const restarts = `for at in $(seq ${RESTARTS / 2}); do ${systemd} restart web.service || exit 1; done`;
    await owner.set({ openai_api_key: "sk-proj-1" });
    await owner.run(restarts, { timeoutMs: 150_000 });
    await owner.set({ openai_api_key: "sk-proj-2" });
    await owner.run(restarts, { timeoutMs: 150_000 });
    expect((await owner.environment("web")).get("OPENAI_API_KEY")).toEqual(
      Uint8Array.from(Buffer.from("sk-proj-2")),
    );
    expect(await owner.text(`ls ${runtimeDir}/leger/env`)).toBe("web.env");
    expect(await owner.text("podman ps --all --format '{{.Names}}'")).toBe("web");
  });

  test(`a program that ends at once is started ${RESTARTS} times by systemd, and each time has its values`, async () => {
    const service = [
      "ExecStartPre=/usr/bin/leger secrets fetch web",
      "ExecStopPost=/usr/bin/leger secrets fetch web --remove",
      "Restart=always",
      "RestartSec=0",
    ];
    const exec = "sh -c 'echo key is $$OPENAI_API_KEY; exit 1'";
    await owner.define({ name: "loop", environmentFile: "%t/leger/env/web.env", service, exec });
    await owner.set({ openai_api_key: "sk-proj-loop" });
    const after = await machine.now();
    await owner.systemctl("start --no-block loop.service");
    const count = async (): Promise<number> => Number(await owner.property("loop.service", "NRestarts"));
    await machine.waitFor("restarts", async () => (await count()) >= RESTARTS, { timeoutMs: 300_000 });
    await owner.systemctl("stop loop.service");
    const said = (await owner.journal("loop.service", after)).split("\n");
    const keys = said.filter((line) => line.startsWith("key is "));
    expect(keys.length).toBeGreaterThanOrEqual(RESTARTS);
    expect(new Set(keys)).toEqual(new Set(["key is sk-proj-loop"]));
    expect(said.filter((line) => line.includes("leger: error"))).toEqual([]);
  });
});
