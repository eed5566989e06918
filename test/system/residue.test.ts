import { describe, expect, test } from "vitest";
import { z } from "zod";
import { MODES, type Mode } from "../../src/render/modes.ts";
import { bootMachine } from "./machine.ts";
import { settle } from "./owner.ts";

const machine = await bootMachine();
await machine.install();

const Report = z.object({
  clean: z.boolean(),
  findings: z.array(
    z.object({
      path: z.string(),
      on: z.enum(["disk", "memory"]),
      what: z.string(),
      traces: z.array(z.object({ secret: z.string(), form: z.string(), within: z.string() })),
    }),
  ),
});
type Report = z.infer<typeof Report>;

const modes = MODES.map(({ mode }) => mode);

function secretOf(mode: Mode): string {
  return mode.replaceAll("-", "_");
}

/** What stays the same from one run to the next. */
function plain(path: string): string {
  return path.replaceAll(/[0-9a-f]{64}/g, "ID").replace(/^\/proc\/\d+\//, "/proc/PID/");
}

function isNote({ path }: { path: string }): boolean {
  return path.endsWith("/diff/notes/note");
}

function placesOf(mode: Mode, { findings }: Report): string[] {
  const places = findings
    .filter(({ traces }) => traces.some(({ secret }) => secret === `leger/local/${secretOf(mode)}`))
    .map(({ path }) => plain(path));
  // A container's program is more than one process.
  return [...new Set(places)].toSorted();
}

describe.skipIf(!machine.can("quadlet drop-ins")).for(["user", "root"] as const)(
  "%s's containers, one for each mode (has this release's podman drop-ins?)",
  async (account) => {
    const owner = await settle(machine, account);
    const { storage, runtimeDir, systemd } = owner.places;

    /** A value for each mode, so that what is found tells by which way it came there. */
    const valueOf = (mode: Mode): string => `canary-${account}-${mode}-e8f02bd7a965c34 and more`;

    for (const mode of modes) await owner.set({ [secretOf(mode)]: valueOf(mode) });
    await owner.run("leger podman sync");
    await owner.define(
      ...modes.map((mode) => ({ name: mode, secrets: [`${secretOf(mode)},type=env,target=KEY`] })),
    );
    for (const mode of modes) await owner.run(`leger render ${mode} --mode ${mode} --register`);
    await owner.systemctl("daemon-reload");
    for (const mode of modes) await owner.start(`${mode}.service`);

    async function residue(args = "", within = ""): Promise<Report> {
      const { stdout, status } = await owner.run(`${within} leger residue --json ${args}`, { mayFail: true });
      const report = Report.parse(JSON.parse(stdout));
      expect(stdout).not.toContain("canary-");
      // Not all of the machine is alice's to look at.
      const wanted = report.clean ? [0, 1] : [2];
      expect(wanted).toContain(status);
      return report;
    }

    /** The same by other means: every file of the machine, but for /proc and the file of patterns. */
    async function grepped(mode: Mode): Promise<string[]> {
      const patterns = "/dev/shm/patterns";
      const value = valueOf(mode);
      // What comes before and behind shows in the first and the last characters.
      const encoded = [0, 1, 2].map((before) =>
        Buffer.from("x".repeat(before) + value)
          .toString("base64")
          .slice(4, 28),
      );
      await machine.write("root", patterns, `${[value, ...encoded].join("\n")}\n`, { mode: "600" });
      const files = `find / -path /proc -prune -o -path /sys -prune -o -type f -not -path ${patterns} -print0`;
      // A file that goes away meanwhile makes it end with 2.
      const { stdout } = await machine.root(`${files} | xargs -0 grep -laF -f ${patterns}`, {
        mayFail: true,
        timeoutMs: 120_000,
      });
      return stdout
        .split("\n")
        .filter((line) => line !== "")
        .map(plain)
        .toSorted();
    }

    /** What docs/threat-model.md says of each, under "On the way to a program". */
    const config = `${storage}/overlay-containers/ID/userdata/config.json`;
    const running = `${runtimeDir}/crun/ID/config.json`;
    const variables = "/proc/PID/environ";
    const credential = (mode: Mode, name: string): string =>
      `${runtimeDir}/credentials/${mode}.service/${name}`;
    const PLACES: Record<Mode, readonly string[]> = {
      driver: [config, running, variables],
      "env-file": [config, running, variables, `${storage}/db.sql`, `${runtimeDir}/leger/env/env-file.env`],
      curl: [config, running, variables, `${storage}/db.sql`, `${runtimeDir}/leger/env/curl.env`],
      credential: [
        config,
        running,
        variables,
        `${storage}/db.sql`,
        credential("credential", "credential.env"),
      ],
      mount: [credential("mount", "KEY")],
      entrypoint: [variables, credential("entrypoint", "entrypoint.env")],
    };

    // Once, with the containers as they were started.
    const found = await residue();
    test("it finds something in each", () => {
      expect(found.clean).toBe(false);
    });

    test.for(modes)("%s: its value lies where the threat model says, and nowhere else", (mode) => {
      expect(placesOf(mode, found)).toEqual(PLACES[mode].toSorted());
    });

    test.for(modes)("%s: grep finds it in the same files", async (mode) => {
      expect(await grepped(mode)).toEqual(PLACES[mode].filter((path) => path !== variables).toSorted());
    });

    test("of mount and entrypoint nothing is on the disk", async () => {
      const onDisk = await residue("--disk-only");
      expect(placesOf("mount", onDisk)).toEqual([]);
      expect(placesOf("entrypoint", onDisk)).toEqual([]);
      expect(placesOf("driver", onDisk)).toEqual([config]);
      expect(onDisk.findings.filter(({ on }) => on === "memory")).toEqual([]);
    });

    test("it names the container, and says what the place is", async () => {
      const { stdout } = await owner.run("leger residue", { mayFail: true });
      expect(stdout).toContain("podman's copy of a container's variables (driver), on disk, last changed 20");
      expect(stdout).toContain("a credential that systemd holds for a unit, as long as it runs, in memory, ");
      expect(stdout).toMatch(/ {4}the variables of a process, process \d+, \w+, since 20/);
    });

    test("what a program printed is found in the journal, also where it is compressed there", async () => {
      const long = `${"letters and words of all kinds, ".repeat(40)}${valueOf("driver")}`;
      await owner.run(["sh", "-c", "systemd-cat --identifier=talker"], { stdin: `${long}\n` });
      await machine.root(["journalctl", "--sync"]);
      const { findings } = await residue();
      const inJournal = findings.filter(({ what }) => what === "the journal: some program printed it");
      expect(inJournal.flatMap(({ traces }) => traces)).toContainEqual({
        secret: "leger/local/driver",
        form: "raw",
        within: "compressed field",
      });
      await machine.root("journalctl --rotate && journalctl --vacuum-time=1s");
      const after = await residue();
      expect(after.findings.filter(({ path }) => path.includes("/log/journal/"))).toEqual([]);
    });

    test("a copy in podman's own driver is found", async () => {
      const create = "podman secret create --driver file copied -";
      await owner.run(["sh", "-c", `cat | ${create}`], { stdin: valueOf("driver") });
      const { findings } = await residue();
      expect(findings).toContainEqual(
        expect.objectContaining({
          path: `${storage}/secrets/filedriver/secretsdata.json`,
          what: "a copy in podman's own secret store, readable by whoever reads the file",
          traces: [{ secret: "leger/local/driver", form: "base64", within: "content" }],
        }),
      );
      await owner.run("podman secret rm copied");
      expect((await residue()).findings.filter(({ path }) => path.includes("/secrets/"))).toEqual([]);
    });

    test.skipIf(account === "root")(
      "podman unshare lets it see what a container's own user wrote",
      async () => {
        await owner.run("podman exec driver mkdir -m 777 /notes");
        const write = "podman exec -i --user 999 driver sh -c 'umask 077; cat >/notes/note'";
        await owner.run(write, { stdin: valueOf("curl") });
        expect((await residue()).findings.filter(isNote)).toEqual([]);
        const { findings } = await residue("", "podman unshare");
        expect(findings.filter(isNote)).toMatchObject([
          { on: "disk", what: "a file in an image or in a container" },
        ]);
      },
    );

    test("once they have stopped nothing is left", async () => {
      for (const mode of modes) await owner.systemctl(`stop ${mode}.service`);
      await machine.until(
        account,
        `! ${systemd} --quiet is-active ${modes.map((mode) => `${mode}.service`).join(" ")}`,
      );
      expect((await residue()).findings).toEqual([]);
      for (const mode of modes) expect(await grepped(mode)).toEqual([]);
    });
  },
);
