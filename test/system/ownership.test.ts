import { describe, expect, test } from "vitest";
import { MODES, type Mode } from "../../src/render/modes.ts";
import { bootMachine } from "./machine.ts";
import { settle } from "./owner.ts";

const machine = await bootMachine();
await machine.install();

const modes = MODES.map(({ mode }) => mode);
const IN_CONTAINER = "/run/credentials/KEY";

describe.skipIf(!machine.can("quadlet drop-ins"))(
  "a rootless container whose program runs as User=999 (has this release's podman drop-ins?)",
  async () => {
    const owner = await settle(machine, "user");
    const { quadlets } = owner.places;
    const base = `${quadlets}/app.container`;
    let rotations = 0;

    /** A value as no other was, which a shell, an env file and systemd would each like to read in a way of their own. */
    async function rotate(): Promise<string> {
      rotations += 1;
      const value = `canary-${rotations} quotes " ' and # = $HOME %t \\ end`;
      await owner.set({ key: value });
      return value;
    }

    async function define(): Promise<string> {
      const text = [
        "[Unit]",
        "StartLimitIntervalSec=0",
        "[Container]",
        "ContainerName=app",
        "Image=localhost/bb:1",
        "PodmanArgs=--cgroups=disabled --network=none",
        "User=999",
        "Secret=key,type=env,target=KEY",
        "Exec=stay",
      ].join("\n");
      await owner.run(`rm -rf ${quadlets}/app*`);
      await machine.write("user", base, `${text}\n`);
      return text;
    }

    /** What its program sees, byte for byte, and by which mode it had to come. */
    async function expectSeen(mode: Mode, value: string): Promise<void> {
      const found = await owner.environment("app");
      const seen = (name: string): string => Buffer.from(found.get(name) ?? []).toString();
      if (mode !== "mount") {
        expect(seen("KEY")).toBe(value);
        return;
      }
      expect([...found.keys()]).not.toContain("KEY");
      expect(seen("KEY_FILE")).toBe(IN_CONTAINER);
      // By exec, so that it is the program's user who reads it.
      const { bytes } = await owner.run(["podman", "exec", "app", "cat", IN_CONTAINER]);
      expect(Buffer.from(bytes).toString()).toBe(value);
    }

    test.for(modes)(
      "by %s: it has its value, after a rotation the new one, and nothing is left of it",
      async (mode) => {
        const first = await rotate();
        const text = await define();
        await owner.run("leger podman sync");
        await owner.run(`leger render app --mode ${mode} --register`);
        await owner.systemctl("daemon-reload");
        await owner.start("app.service");
        await expectSeen(mode, first);
        expect(await owner.text("podman exec app id -u")).toBe("999");

        const second = await rotate();
        await owner.restart("app.service");
        await expectSeen(mode, second);

        await owner.systemctl("stop app.service");
        const { stdout } = await owner.run("leger residue --json", { mayFail: true });
        expect(JSON.parse(stdout)).toMatchObject({ clean: true, findings: [] });
        expect(await owner.text(`cat ${base}`)).toBe(text);
      },
    );
  },
);
