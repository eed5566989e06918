import * as fs from "node:fs";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, test } from "vitest";
import { routes } from "../../src/daemon/routes.ts";
import { ACTIONS, type Action } from "../../src/setec/protocol.ts";
import { answerOf, CURL_IMAGE, importCurlImage, plainCall, setecCall } from "./curl-image.ts";
import { bootMachine, type Account } from "./machine.ts";
import { settle } from "./owner.ts";

const machine = await bootMachine();
await machine.install();

const NAME = "leger/local/openai_api_key";
const HIDDEN = "leger/local/hidden_key";
const OWN = "leger/local/litellm_own";
const CANARY = "canary-of-the-hidden-key";
const GRANTS = "--grant get,info:openai_api_key --grant put,info,delete:litellm_*";

/** The script that docs/configuration.md tells people to have in their containers. */
const documentation = fileURLToPath(new URL("../../docs/configuration.md", import.meta.url));
const [, withSecrets = ""] =
  /^```sh\n(#!\/bin\/sh\n# with-secrets .*?)^```$/ms.exec(fs.readFileSync(documentation, "utf8")) ?? [];

type Setup = {
  what: string;
  /** Options of `leger door add`. */
  door?: string;
  /** Options of `podman run`. */
  podmanArgs?: readonly string[];
  /** Lines of a drop-in of legerd's unit. */
  service?: string;
  uid?: number;
};

const KEEP_ID = "--userns=keep-id:uid=999,gid=999";

/** The table in docs/configuration.md, row by row. */
const SETUPS: Record<Account, readonly Setup[]> = {
  user: [
    { what: "root" },
    { what: "User=999, which is alice", uid: 999, podmanArgs: ["--user=999:999", KEEP_ID] },
    {
      what: "User=999, at a door of mode 0666",
      uid: 999,
      podmanArgs: ["--user=999:999"],
      door: "--mode 0666",
    },
  ],
  root: [
    { what: "root" },
    {
      what: "User=999, at a door of its group's",
      uid: 999,
      podmanArgs: ["--user=999:999"],
      door: "--mode 0660 --group 999",
      service: "SupplementaryGroups=999",
    },
    {
      what: "User=999, at a door of mode 0666",
      uid: 999,
      podmanArgs: ["--user=999:999"],
      door: "--mode 0666",
    },
  ],
};

// By hand the same works with Podman 4.3; a unit's container is stopped there, on these machines, once it has started.
const owners = describe.skipIf(!machine.can("quadlet")).for(["user", "root"] as const);

owners("%s's containers (has this release's podman quadlets?)", async (account) => {
  const owner = await settle(machine, account);
  await importCurlImage(owner);
  const { runtimeDir, units, systemd } = owner.places;
  const script = account === "user" ? "/home/alice/with-secrets" : "/root/with-secrets";
  await machine.write(account, script, withSecrets, { mode: "755" });
  const door = `${runtimeDir}/leger/doors/litellm`;
  const dropIn = `${units}/legerd.service.d/door.conf`;

  /** Restarted with what its configuration is now; a door of its own may open after it answers at the inherited one. */
  const restartLegerd = async (): Promise<void> => {
    await owner.systemctl("daemon-reload");
    await owner.systemctl("reset-failed");
    await owner.start("legerd.socket");
    await owner.restart("legerd.service");
  };

  afterEach(async () => {
    await owner.systemctl("stop litellm.service", { mayFail: true });
    await owner.run(`leger door remove litellm; rm -rf ${door} ${dropIn}`, { mayFail: true });
  });

  describe.for(SETUPS[account])("with a door, and a program that is $what", (setup) => {
    test("has its secrets by its own init script, across restarts and rotations", async () => {
      await openDoor(setup);
      await start(setup);
      const first = (await owner.environment("litellm")).get("OPENAI_API_KEY");
      expect(Buffer.from(first ?? []).toString()).toBe("sk-1");
      expect(await owner.text("podman exec litellm id -u")).toBe(String(setup.uid ?? 0));
      const program = await owner.pidOf("litellm");
      // Nothing of it where the other ways leave something.
      expect(await owner.text("podman inspect litellm")).not.toContain("sk-1");

      await owner.set({ openai_api_key: "sk-2" });
      expect(valueOf(await ask("/api/get", { Name: NAME }))).toBe("sk-2");
      await restartLegerd();
      expect(valueOf(await ask("/api/get", { Name: NAME }))).toBe("sk-2");
      await owner.set({ openai_api_key: "sk-3" });
      const before = await owner.property("legerd.service", "MainPID");
      await owner.systemctl("kill --signal=KILL legerd.service");
      await machine.until(
        account,
        `main=$(${systemd} show --property=MainPID --value legerd.service)
         [ $main != 0 ] && [ $main != ${before} ] && ${systemd} is-active --quiet legerd.service`,
      );
      expect(valueOf(await ask("/api/get", { Name: NAME }))).toBe("sk-3");
      // It was this one container all along.
      expect(await owner.pidOf("litellm")).toBe(program);

      await owner.restart("litellm.service");
      const then = (await owner.environment("litellm")).get("OPENAI_API_KEY");
      expect(Buffer.from(then ?? []).toString()).toBe("sk-3");
      const { stdout } = await owner.run("leger audit --json --secret openai_api_key");
      expect(stdout).toMatch(/"principal": ?"litellm"/);
    });

    test("gets what leger door explain says, and nothing else is open there", async () => {
      await openDoor(setup);
      await start(setup);
      for (const secret of [NAME, HIDDEN, OWN]) {
        const explained = await owner.text(`leger door explain litellm ${secret} --json`);
        const rules: { action: Action; allowed: boolean }[] = JSON.parse(explained).rules;
        expect(rules.map(({ action }) => action)).toEqual(ACTIONS);
        for (const { action, allowed } of rules) {
          const { status, body } = await ask(`/api/${action}`, { Name: secret, Version: 7, Value: "eA==" });
          expect([action, secret, status !== 403]).toEqual([action, secret, allowed]);
          expect(body).not.toContain(Buffer.from(CANARY).toString("base64"));
          if (!allowed) expect(body).toBe("access denied\n");
        }
      }
      for (const { method, path, group } of routes) {
        if (group === "always") continue;
        const { status, body } = await call(plainCall(method, path.replace("NAME", "litellm")));
        expect([path, status, body]).toEqual([path, 403, expect.stringContaining("not open at this door")]);
      }
      expect(await call(plainCall("GET", "/health"))).toEqual({ status: 200, body: '{"status":"ok"}\n' });
      expect(await owner.text("leger secrets get hidden_key")).toBe(CANARY);
    });
  });

  test("a door that doesn't grant the secret starts no program, and its unit says so", async () => {
    await openDoor({ what: "", door: "" }, "--grant get:other_key");
    await define({ what: "" });
    expect(await endsAtOnce()).toMatch(/curl: \(22\).*403/);
  });

  test.for(SETUPS[account].filter(({ uid }) => uid !== undefined))(
    "without what the table asks for, a program that is $what does not get through",
    async (setup) => {
      await openDoor({ what: "" });
      await define({ ...setup, podmanArgs: ["--user=999:999"] });
      expect(await endsAtOnce()).toMatch(/curl: \(7\)/);
    },
  );

  test("a door that was removed is closed at legerd's next start, also to who has it mounted", async () => {
    await openDoor({ what: "" });
    await start({ what: "" });
    await owner.run("leger door remove litellm");
    await restartLegerd();
    const { status } = await owner.run(
      ["podman", "exec", "litellm", ...setecCall("/api/get", { Name: NAME })],
      { mayFail: true },
    );
    expect(status).toBe(7);
  });

  async function openDoor({ door: options = "", service }: Setup, grants = GRANTS): Promise<void> {
    await owner.run(`leger door add litellm ${grants} ${options}`);
    if (service !== undefined) await machine.write(account, dropIn, `[Service]\n${service}\n`);
    await restartLegerd();
    await owner.set({ openai_api_key: "sk-1", hidden_key: CANARY });
  }

  function define({ podmanArgs = [] }: Setup): Promise<void> {
    const mounts = [`--volume=${door}:/run/legerd:ro`, `--volume=${script}:/usr/local/bin/with-secrets:ro`];
    return owner.define({
      name: "litellm",
      image: CURL_IMAGE,
      podmanArgs: [...mounts, ...podmanArgs],
      exec: "with-secrets stay",
    });
  }

  /** Started once the script has become the program. */
  async function start(setup: Setup): Promise<void> {
    await define(setup);
    await owner.start("litellm.service");
    await machine.until(
      account,
      'podman exec litellm sh -c \'tr "\\0" " " </proc/1/cmdline | grep -q stay\'',
    );
  }

  /** The script ends before it became the program: what the unit's journal says of that. */
  async function endsAtOnce(): Promise<string> {
    const after = await machine.now();
    await owner.systemctl("start litellm.service", { mayFail: true });
    await machine.until(account, `${systemd} is-failed --quiet litellm.service`);
    return owner.journal("litellm.service", after);
  }

  async function call(program: readonly string[]): Promise<{ status: number; body: string }> {
    return answerOf((await owner.run(["podman", "exec", "litellm", ...program])).stdout);
  }

  function ask(path: string, body: object): Promise<{ status: number; body: string }> {
    return call(setecCall(path, body));
  }
});

function valueOf({ status, body }: { status: number; body: string }): string {
  expect(status).toBe(200);
  return Buffer.from(JSON.parse(body).Value, "base64").toString();
}
