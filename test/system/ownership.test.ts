import { describe, expect, test } from "vitest";
import { MODES, type Mode } from "../../src/render/modes.ts";
import { bootMachine, type Account } from "./machine.ts";
import { settle } from "./owner.ts";

const machine = await bootMachine();
await machine.install();

const modes = MODES.map(({ mode }) => mode);
/** Modes in which systemd's files have to be readable for the program itself. */
const BY_FILES: readonly Mode[] = ["mount", "entrypoint"];
const IN_CONTAINER = "/run/credentials/KEY";

/** How a container's program comes to run as somebody, or its unit to be something else than a plain one. */
type Shape = {
  what: string;
  accounts: readonly Account[];
  /** Lines of [Container]. */
  container?: readonly string[];
  /** The image's user. */
  image?: "root" | "999";
  isTemplate?: boolean;
  inPod?: boolean;
  /** Why modes by files cannot be had. */
  refusedBecause?: string;
  /** Who its program is. */
  uid: string;
};

const SHAPES: readonly Shape[] = [
  { what: "one in a pod", accounts: ["user"], inPod: true, uid: "0" },
  {
    what: "one in a pod with User=999",
    accounts: ["user"],
    inPod: true,
    container: ["User=999"],
    uid: "999",
    refusedBecause: "runs as user 999",
  },
  { what: "a plain one", accounts: ["root"], uid: "0" },
  { what: "one with User=999", accounts: ["user"], container: ["User=999"], uid: "999" },
  {
    what: "one with User=999",
    accounts: ["root"],
    container: ["User=999"],
    uid: "999",
    refusedBecause: "runs as user 999, and systemd gives the files to root",
  },
  { what: "one whose image runs as 999", accounts: ["user"], image: "999", uid: "999" },
  {
    what: "one whose image runs as 999",
    accounts: ["root"],
    image: "999",
    uid: "999",
    refusedBecause: "runs as user 999, and systemd gives the files to root",
  },
  { what: "one of a template", accounts: ["user", "root"], isTemplate: true, uid: "0" },
];

describe.skipIf(!machine.can("quadlet drop-ins")).for(["user", "root"] as const)(
  "%s's container (has this release's podman drop-ins?)",
  async (account) => {
    const owner = await settle(machine, account);
    const { quadlets } = owner.places;
    const build =
      "printf 'FROM localhost/bb:1\\nUSER 999\\n' | podman build --quiet --tag localhost/as-999:1 -";
    await owner.run(build);
    let rotations = 0;

    /** A value as no other was, which a shell, an env file and systemd would each like to read in a way of their own. */
    async function rotate(): Promise<string> {
      rotations += 1;
      const value = `canary-${account}-${rotations} quotes " ' and # = $HOME %t \\ end`;
      await owner.set({ key: value });
      return value;
    }

    async function define(shape: Shape): Promise<{ quadlet: string; unit: string; container: string }> {
      const { isTemplate = false, inPod = false } = shape;
      const quadlet = isTemplate ? "app@" : "app";
      const container = isTemplate ? "app-one" : "app";
      await owner.run(`rm -rf ${quadlets}/app*`);
      const text = [
        "[Unit]",
        "StartLimitIntervalSec=0",
        "[Container]",
        `ContainerName=${isTemplate ? "app-%i" : "app"}`,
        `Image=localhost/${shape.image === "999" ? "as-999" : "bb"}:1`,
        ...(inPod
          ? ["Pod=app.pod", "PodmanArgs=--cgroups=disabled"]
          : ["PodmanArgs=--cgroups=disabled --network=none"]),
        "Secret=key,type=env,target=KEY",
        "Exec=stay",
        ...(shape.container ?? []),
      ];
      await machine.write(account, `${quadlets}/${quadlet}.container`, `${text.join("\n")}\n`);
      if (inPod) {
        // There is no image to be had from elsewhere for what holds a pod together.
        const infra =
          "--infra-image=localhost/bb:1 --infra-command=stay --network=none --share-parent=false --exit-policy=continue";
        await machine.write(account, `${quadlets}/app.pod`, `[Pod]\nPodName=app-pod\nPodmanArgs=${infra}\n`);
      }
      await owner.systemctl("daemon-reload");
      return { quadlet, unit: isTemplate ? "app@one.service" : "app.service", container };
    }

    /** What its program sees, byte for byte, and by which mode it had to come. */
    async function expectSeen(container: string, mode: Mode, value: string): Promise<void> {
      const found = await owner.environment(container);
      const seen = (name: string): string => Buffer.from(found.get(name) ?? []).toString();
      if (mode !== "mount") {
        expect(seen("KEY")).toBe(value);
        return;
      }
      expect([...found.keys()]).not.toContain("KEY");
      expect(seen("KEY_FILE")).toBe(IN_CONTAINER);
      // By exec, so that it is the program's user who reads it.
      const { bytes } = await owner.run(["podman", "exec", container, "cat", IN_CONTAINER]);
      expect(Buffer.from(bytes).toString()).toBe(value);
    }

    const cases = SHAPES.filter(({ accounts }) => accounts.includes(account)).flatMap((shape) =>
      modes.map((mode) => [shape.what, mode, shape] as const),
    );

    test.for(cases)("%s by %s", async ([, mode, shape]) => {
      const first = await rotate();
      const { quadlet, unit, container } = await define(shape);
      await owner.run("leger podman sync");
      const base = await owner.text(`cat ${quadlets}/${quadlet}.container`);
      const render = `leger render ${quadlet} --mode ${mode} --register`;
      if (shape.refusedBecause !== undefined && BY_FILES.includes(mode)) {
        const refused = await owner.run(render, { mayFail: true });
        expect(refused.status).toBe(65);
        expect(refused.stderr).toContain(shape.refusedBecause);
        expect(refused.stderr).toMatch(/leger: hint: .*(?:env-file|driver)/);
        expect((await owner.run(`ls ${quadlets}/${quadlet}.container.d`, { mayFail: true })).status).not.toBe(
          0,
        );
        return;
      }
      await owner.run(render);
      await owner.systemctl("daemon-reload");
      await owner.start(unit);
      await expectSeen(container, mode, first);
      expect(await owner.text(["podman", "exec", container, "id", "-u"])).toBe(shape.uid);

      const second = await rotate();
      await owner.restart(unit);
      await expectSeen(container, mode, second);

      await owner.systemctl(`stop ${unit}`);
      if (shape.inPod === true) await owner.systemctl("stop app-pod.service");
      const { stdout } = await owner.run("leger residue --json", { mayFail: true });
      expect(JSON.parse(stdout)).toMatchObject({ clean: true, findings: [] });
      expect(await owner.text(`cat ${quadlets}/${quadlet}.container`)).toBe(base);
    });
  },
);
