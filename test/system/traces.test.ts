import { afterAll, describe, expect, test } from "vitest";
import { bootMachine } from "./machine.ts";
import { settle } from "./owner.ts";

const machine = await bootMachine();
await machine.install();
const owner = await settle(machine, "user");
const { storage, runtimeDir } = owner.places;
const hasSqlite = machine.can("database in SQLite");
const containers = `${storage}/${await owner.text("podman info --format={{.Store.GraphDriverName}}")}-containers`;

/** One for each way to a program, so that what is found tells by which way it came there. */
const CANARIES = {
  variable: "canary1e8f02bd7a965c34",
  file: "canary5b90c3d64fe81a27",
  fetched: "canary83ad57c92f06e1b4",
} as const;
const ways = ["variable", "file", "fetched"] as const;
type Way = (typeof ways)[number];

// Every search takes its patterns from a file: in an argument they would find themselves.
const PATTERNS = "/dev/shm/patterns";
await machine.write("root", PATTERNS, ways.map((way) => `${formsOf(CANARIES[way]).join("\n")}\n`).join(""), {
  mode: "600",
});
for (const way of ways) {
  await machine.write("root", `${PATTERNS}-${way}`, `${formsOf(CANARIES[way]).join("\n")}\n`, {
    mode: "600",
  });
}

/** All arguments of all processes, all the time from before the first value came to the machine. */
const watch = machine.root(
  `while [ ! -e /dev/shm/enough ]; do
     grep -laF -f ${PATTERNS} /proc/[0-9]*/cmdline >>/dev/shm/seen 2>/dev/null
     echo >>/dev/shm/looks
   done`,
  { timeoutMs: 170_000 },
);
watch.catch(() => {});
afterAll(() => machine.root("touch /dev/shm/enough").then(() => watch));

for (const way of ways) await owner.set({ [way]: `${CANARIES[way]} and more` });
await owner.run("leger podman sync");
await owner.run("leger services set fetched FETCHED=fetched");
await owner.define(
  { name: "variable", secrets: ["variable,type=env,target=VARIABLE"] },
  { name: "file", secrets: ["file"] },
  {
    name: "fetched",
    environmentFile: "%t/leger/env/fetched.env",
    service: [
      "ExecStartPre=/usr/bin/leger secrets fetch fetched",
      "ExecStopPost=/usr/bin/leger secrets fetch fetched --remove",
    ],
  },
);
for (const way of ways) await owner.start(`${way}.service`);

/** A value as it is, and as base64 whatever stands before it. */
function formsOf(value: string): string[] {
  const encoded = [0, 1, 2].map((shift) => {
    const text = Buffer.from("x".repeat(shift) + value).toString("base64");
    // The first and last characters depend on what is beside.
    return text.slice(Math.ceil((shift * 4) / 3), Math.floor(((shift + value.length) * 4) / 3));
  });
  return [value, ...encoded];
}

/** Every file of the machine with this way's value in it; random parts as ID and N. */
async function filesWith(way: Way): Promise<string[]> {
  const files = `find / -path /proc -prune -o -path /sys -prune -o -type f -not -path '${PATTERNS}*' -print0`;
  const search = `${files} | xargs -0 grep -laF -f ${PATTERNS}-${way}`;
  // A file that goes away meanwhile makes it end with 2.
  const { stdout } = await machine.root(search, { mayFail: true, timeoutMs: 120_000 });
  return stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.replaceAll(/[0-9a-f]{64}/g, "ID").replace(/(exec-process-)\d+$/, "$1N"))
    .toSorted();
}

/** What docs/threat-model.md says of each way, under "On the way to a program". */
const PLACES: Record<Way, readonly string[]> = {
  variable: [
    `${containers}/ID/userdata/config.json`,
    // In memory, closed to others, as long as the container runs.
    `${runtimeDir}/crun/ID/config.json`,
  ],
  file: [`${containers}/ID/userdata/secrets/file`],
  fetched: [
    `${containers}/ID/userdata/config.json`,
    `${runtimeDir}/crun/ID/config.json`,
    hasSqlite ? `${storage}/db.sql` : `${storage}/libpod/bolt_state.db`,
    `${runtimeDir}/leger/env/fetched.env`,
  ],
};

describe("while containers run", () => {
  test.for(ways)(
    "a value that comes as %s lies where the threat model says, and nowhere else",
    async (way) => {
      expect(await filesWith(way)).toEqual(PLACES[way].toSorted());
    },
  );

  test("podman exec leaves what it looked up beside the container's own, for as long as it runs", async () => {
    await owner.run("podman exec --detach variable stay");
    expect(await filesWith("variable")).toEqual(
      [...PLACES.variable, `${containers}/ID/userdata/ID/exec-process-N`].toSorted(),
    );
  });

  test("no value is in the journal", async () => {
    await machine.root("journalctl --sync");
    const found = await machine.root(`journalctl --output=export | grep -aF -f ${PATTERNS}`, {
      mayFail: true,
    });
    expect(found).toMatchObject({ status: 1, stdout: "" });
  });

  test("no value is in the environment of a process outside of the containers", async () => {
    const environments = `grep -laF -f ${PATTERNS} /proc/[0-9]*/environ`;
    const { stdout } = await machine.root(environments, { mayFail: true });
    const found = stdout.split("\n").flatMap((line) => /^\/proc\/(\d+)\//.exec(line)?.[1] ?? []);
    const inside = new Set<string>();
    for (const way of ["variable", "fetched"]) {
      inside.add(await owner.text(`readlink /proc/${await owner.pidOf(way)}/ns/pid`));
    }
    for (const pid of found) {
      expect(inside).toContain((await machine.root(`readlink /proc/${pid}/ns/pid`)).stdout.trim());
    }
    expect(found.length).toBeGreaterThanOrEqual(2);
  });

  test.for([
    ["variable", machine.can("inspect without values") ? "=***" : `VARIABLE=${CANARIES.variable}`],
    ["fetched", `FETCHED=${CANARIES.fetched} and more`],
  ] as const)("podman inspect shows of a value that comes as %s: %s", async ([way, shown]) => {
    const inspected = await owner.text(["podman", "inspect", "--format={{.Config.Env}}", way]);
    expect(inspected).toContain(shown);
    if (shown === "=***") expect(inspected).not.toContain(CANARIES[way]);
  });

  test("the audit log names unit and invocation of each start", async () => {
    for (const way of ways) {
      const read = async (): Promise<unknown> => {
        const lines = (await owner.text(`leger audit --json --secret ${way}`)).split("\n");
        return JSON.parse(lines.at(-1) ?? "");
      };
      const expected = async (): Promise<object> => ({
        action: "get",
        authorized: true,
        principal: "alice",
        secret: `leger/local/${way}`,
        version: 1,
        unit: `${way}.service`,
        invocation: await owner.property(`${way}.service`, "InvocationID"),
      });
      await owner.restart(`${way}.service`);
      const first = await expected();
      expect(await read()).toMatchObject(first);
      await owner.restart(`${way}.service`);
      expect(await expected()).not.toEqual(first);
      expect(await read()).toMatchObject(await expected());
    }
  });
});

describe("when they have stopped", () => {
  test.for(ways)("nothing is left of a value that came as %s", async (way) => {
    await owner.systemctl(`stop ${way}.service`);
    // Podman's database before SQLite keeps what it removes, until it writes something else there.
    const kept = way === "fetched" && !hasSqlite ? [`${storage}/libpod/bolt_state.db`] : [];
    expect(await filesWith(way)).toEqual(kept);
  });
});

test("no value was in the arguments of a process, at any time", async () => {
  await machine.root("touch /dev/shm/enough");
  await watch;
  expect((await machine.root("sort -u /dev/shm/seen")).stdout).toBe("");
  expect(Number((await machine.root("wc -l </dev/shm/looks")).stdout)).toBeGreaterThan(10);
});
