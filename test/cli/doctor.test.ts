import * as fs from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { CHECKS } from "../../src/cli/doctor.ts";
import { driverCommands, dropInText } from "../../src/cli/driver-commands.ts";
import { run } from "../../src/core/exec.ts";
import { Secret } from "../../src/core/secret.ts";
import { noteBackup } from "../../src/store/last-backup.ts";
import { CANARY, leger, legerInShell, legerProgram, type CliResult } from "../support/cli.ts";
import { makePlaces, PROJECT_DIR, spawnLegerd, startTestLegerd, type Places } from "../support/legerd.ts";
import { workingPodman } from "../support/podman.ts";
import { fakeSystemctl } from "../support/systemctl.ts";

type Told = { check: string; level: string; text: string; hints: string[] } & Record<string, unknown>;

const SHM = "/dev/shm";
const hasTmpfs = fs.existsSync(SHM) && fs.statfsSync(SHM).type === 0x0102_1994;

const LISTENING = { LoadState: "loaded", UnitFileState: "enabled", ActiveState: "active" };
const SERVICE = { LoadState: "loaded", UnitFileState: "static", ActiveState: "active" };

/**
 * A machine where all is well, as far as what this one cannot be made to be: its /proc and /sys are files, and
 * systemctl, loginctl, timedatectl and podman are programs that answer as the real ones do.
 */
class Machine implements Disposable {
  readonly #own = makePlaces();
  readonly #runtime = fs.mkdtempSync(path.join(hasTmpfs ? SHM : this.#own.base, "leger-doctor-"));
  readonly places: Places = {
    ...this.#own,
    runtimeDir: this.#runtime,
    socket: path.join(this.#runtime, "leger", "legerd.sock"),
  };
  readonly home = this.places.base;
  readonly root = path.join(this.home, "root");
  readonly bin = path.join(this.home, "bin");
  readonly systemctl: ReturnType<typeof fakeSystemctl>;
  readonly program: string;
  env: Record<string, string | undefined>;

  constructor() {
    fs.mkdirSync(this.bin);
    this.program = legerProgram(this.bin);
    this.systemctl = fakeSystemctl(this.bin, { "legerd.socket": LISTENING, "legerd.service": SERVICE });
    this.says("loginctl", "echo Linger=yes");
    this.says("timedatectl", "echo NTPSynchronized=yes");
    this.says("podman", "echo podman version 5.4.2");
    this.file("proc/swaps", SWAPS);
    this.file("proc/sys/kernel/core_pattern", "core\n");
    this.limits(process.pid, "0");
    this.env = {
      PATH: `${this.systemctl.directory}:${this.bin}:${process.env["PATH"]}`,
      LEGER_SOCKET: undefined,
    };
  }

  /** A program that does this. */
  says(program: string, script: string): void {
    fs.writeFileSync(path.join(this.bin, program), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  }

  file(name: string, text: string): void {
    const file = path.join(this.root, name);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, text);
  }

  /** proc(5): /proc/PID/limits. */
  limits(pid: number, core: string): void {
    this.file(
      `proc/${pid}/limits`,
      `Limit                     Soft Limit           Hard Limit           Units     \nMax core file size        ${core.padEnd(20)} unlimited            bytes     \n`,
    );
  }

  doctor(...args: string[]): Promise<CliResult> {
    return leger(this.places, ["doctor", `--leger=${this.program}`, ...args], {
      env: this.env,
      world: { root: this.root },
    });
  }

  /** What one check tells. */
  async told(check: (typeof CHECKS)[number], ...args: string[]): Promise<Told> {
    const { checks } = reportOf(await this.doctor("--json", ...args));
    const told = checks.find((finding) => finding.check === check);
    if (told === undefined) throw new Error(`doctor tells nothing of ${check}`);
    return told;
  }

  [Symbol.dispose](): void {
    fs.rmSync(this.#runtime, { recursive: true, force: true });
    this.#own[Symbol.dispose]();
  }
}

const SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

function reportOf({ stdout }: CliResult): { ok: boolean; errors: number; warnings: number; checks: Told[] } {
  const report: { ok: boolean; errors: number; warnings: number; checks: Told[] } = JSON.parse(stdout);
  expect(report).toMatchObject({ schema_version: 1 });
  return report;
}

const onTmpfs = test.skipIf(!hasTmpfs);

onTmpfs(
  `where all is well it says so, a line for each thing (${hasTmpfs ? "on tmpfs" : "no tmpfs here"})`,
  async () => {
    using machine = new Machine();
    await using daemon = await startTestLegerd({ "leger/local/x1": CANARY }, { places: machine.places });
    noteBackup(daemon.stateDir, { madeAt: new Date().toISOString(), changes: 1 });
    const result = await machine.doctor();
    expect(result).toMatchObject({ status: 0, stderr: "leger: all is well\n" });
    const lines = result.stdout.split("\n").filter((line) => !line.startsWith(" ") && line !== "");
    expect(lines.map((line) => line.slice(9, 21).trimEnd())).toEqual([...CHECKS]);
    expect(lines.map((line) => line.slice(0, 7).trimEnd()).filter((level) => level !== "ok")).toEqual([
      "note",
      "note",
    ]);
    expect(result.stdout).toMatch(/^ok {7}legerd {6}0\.1\.0, process \d+, since .*, 1 secret$/m);
    expect(result.stdout).toMatch(
      /^note {5}driver .*\n {21}-> for leger to get them all: leger podman install$/m,
    );
    const report = reportOf(await machine.doctor("--json", "--strict"));
    expect(report).toMatchObject({ ok: true, errors: 0, warnings: 0 });
    expect(await daemon.client.list()).toHaveLength(1);
  },
);

test("a service that cannot be given is a warning, and an error where a quadlet needs it", async () => {
  using machine = new Machine();
  await using daemon = await startTestLegerd({}, { places: machine.places });
  expect(await machine.told("services")).toMatchObject({ level: "ok", unserved: [] });
  await leger(machine.places, ["services", "set", "web", "openai_api_key"]);
  expect(await machine.told("services")).toMatchObject({
    level: "warning",
    text: "services whose secrets cannot all be given: web",
    hints: ["see why, and what to do: leger explain web"],
    unserved: [{ name: "web", problems: [{ kind: "missing", variable: "OPENAI_API_KEY" }] }],
  });
  const quadlets = path.join(machine.home, ".config/containers/systemd");
  fs.mkdirSync(quadlets, { recursive: true });
  fs.writeFileSync(
    path.join(quadlets, "web.container"),
    "[Service]\nLoadCredential=web.env:%t/leger/cred/web.env\n",
  );
  expect(await machine.told("services")).toMatchObject({
    level: "error",
    text: "units cannot start, for want of the secrets of: web",
  });
  await daemon.client.put("leger/local/openai_api_key", new Secret(Buffer.from(CANARY)));
  expect(await machine.told("services")).toMatchObject({ level: "ok" });
});

test("errors make the exit status 2, warnings only with --strict", async () => {
  using machine = new Machine();
  const down = await machine.doctor("--json");
  expect(down.status).toBe(2);
  expect(reportOf(down)).toMatchObject({
    ok: false,
    checks: expect.arrayContaining([expect.objectContaining({ check: "legerd", level: "error" })]),
  });
});

onTmpfs(
  `a warning alone is no failure, but with --strict (${hasTmpfs ? "on tmpfs" : "no tmpfs here"})`,
  async () => {
    using machine = new Machine();
    await using daemon = await startTestLegerd({}, { places: machine.places });
    machine.says("loginctl", "echo Linger=no");
    const plain = await machine.doctor();
    expect(plain).toMatchObject({ status: 0, stderr: "leger: 0 errors, 1 warning\n" });
    expect((await machine.doctor("--strict")).status).toBe(2);
    expect(await daemon.client.list()).toEqual([]);
  },
);

describe("legerd", () => {
  test.for<[string, object, object, RegExp, string]>([
    ["nobody listens", LISTENING, SERVICE, /no socket there$/, "journalctl --user -u legerd"],
    [
      "the socket unit was never enabled",
      { ...LISTENING, UnitFileState: "disabled", ActiveState: "inactive" },
      { ...SERVICE, ActiveState: "inactive" },
      /no socket there$/,
      "systemctl --user enable --now legerd.socket",
    ],
    [
      "the service has failed",
      LISTENING,
      { ...SERVICE, ActiveState: "failed" },
      /no socket there; legerd\.service has failed$/,
      "journalctl --user -u legerd.service",
    ],
  ])("cannot be reached: %s", async ([, socket, service, about, hint]) => {
    using machine = new Machine();
    machine.systemctl.set("legerd.socket", socket);
    machine.systemctl.set("legerd.service", service);
    const told = await machine.told("legerd");
    expect(told).toMatchObject({ level: "error", text: expect.stringMatching(about) });
    expect(told.hints.join("\n")).toContain(hint);
  });

  test("that accepts and never answers is given up", async () => {
    using machine = new Machine();
    fs.mkdirSync(path.dirname(machine.places.socket), { mode: 0o700 });
    const server = createServer(() => {});
    const mask = process.umask(0o077);
    await new Promise<void>((resolve) => server.listen(machine.places.socket, resolve));
    process.umask(mask);
    try {
      expect(await machine.told("legerd")).toMatchObject({
        level: "error",
        text: expect.stringMatching(/no(t| complete)? answer/),
      });
    } finally {
      server.close();
    }
  });

  test("of another version is to be restarted", async () => {
    using machine = new Machine();
    await using daemon = await startTestLegerd({}, { places: machine.places });
    const result = await leger(machine.places, ["doctor", "--json"], {
      env: machine.env,
      world: { root: machine.root, version: "9.9.9" },
    });
    expect(reportOf(result).checks.find(({ check }) => check === "version")).toMatchObject({
      level: "warning",
      text: expect.stringContaining("this leger is 9.9.9"),
      hints: [expect.stringContaining("systemctl --user restart legerd.service")],
    });
    expect((await machine.told("version")).level).toBe("ok");
    expect(await daemon.client.list()).toEqual([]);
  });
});

test.for<[string, (machine: Machine) => void, string, RegExp]>([
  [
    "open to others",
    ({ places }) => fs.chmodSync(places.socket, 0o666),
    "error",
    /others may connect to it \(mode 0666\)/,
  ],
  [
    "in a directory open to others",
    ({ places }) => fs.chmodSync(path.dirname(places.socket), 0o777),
    "error",
    /others may write to it \(mode 0777\)/,
  ],
  ["as it should be", () => {}, "ok", /is closed to others/],
])("a socket %s is told", async ([, change, level, about]) => {
  using machine = new Machine();
  await using daemon = await startTestLegerd({}, { places: machine.places });
  change(machine);
  expect(await machine.told("socket")).toMatchObject({ level, text: expect.stringMatching(about) });
  expect(await daemon.client.list()).toEqual([]);
});

test("LEGER_SOCKET in this shell alone is told: units would ask another legerd", async () => {
  using machine = new Machine();
  using other = makePlaces();
  await using daemon = await startTestLegerd({}, { places: other });
  machine.env = { ...machine.env, LEGER_SOCKET: other.socket };
  expect(await machine.told("socket")).toMatchObject({
    level: "warning",
    text: expect.stringContaining(machine.places.socket),
  });
  expect(await daemon.client.list()).toEqual([]);
});

test.for<[string, object, boolean, string, RegExp, RegExp]>([
  ["enabled and listening", LISTENING, true, "ok", /enabled and listens/, /^$/],
  [
    "disabled",
    { ...LISTENING, UnitFileState: "disabled" },
    true,
    "warning",
    /is disabled: nothing starts legerd/,
    /leger podman install/,
  ],
  [
    "masked",
    { ...LISTENING, LoadState: "masked", UnitFileState: "masked" },
    true,
    "warning",
    /is masked/,
    /systemctl --user unmask legerd\.socket/,
  ],
  [
    "missing",
    { LoadState: "not-found", UnitFileState: "", ActiveState: "inactive" },
    true,
    "warning",
    /there is no legerd\.socket/,
    /install leger's package/,
  ],
  [
    "stopped while legerd runs",
    { ...LISTENING, ActiveState: "inactive" },
    true,
    "warning",
    /legerd runs, but not by legerd\.socket/,
    /systemctl --user start/,
  ],
  [
    "stopped",
    { ...LISTENING, ActiveState: "inactive" },
    false,
    "warning",
    /is enabled, but inactive/,
    /systemctl --user start/,
  ],
])("a unit that is %s", async ([, socket, runs, level, about, hint]) => {
  using machine = new Machine();
  machine.systemctl.set("legerd.socket", socket);
  await using daemon = runs ? await startTestLegerd({}, { places: machine.places }) : undefined;
  const told = await machine.told("unit");
  expect(told).toMatchObject({ level, text: expect.stringMatching(about) });
  expect(told.hints.join("\n")).toMatch(hint);
  expect(daemon === undefined).toBe(!runs);
});

test.for<[string, string, RegExp, string]>([
  ["4.2.0", "error", /later came .*quadlets \(4\.4\)/, "leger podman sync needs podman 4.3"],
  ["4.3.1", "warning", /Secret= in quadlets \(4\.5\)/, "write units that call podman run --secret"],
  [
    "4.9.3",
    "warning",
    /^4\.9\.3; later came drop-ins for quadlets \(5\.0\), values hidden/,
    "podman inspect shows the values",
  ],
  ["5.4.2", "ok", /^5\.4\.2; later came podman secret create NAME - .*\(5\.8\), .*\(5\.8\.2\)$/, ""],
  ["5.8.2", "ok", /^5\.8\.2$/, ""],
  ["6.0.0-rc1", "ok", /^6\.0\.0-rc1$/, ""],
  ["6.1.0", "note", /newer than what this leger knows/, ""],
])("podman %s", async ([version, level, about, hint]) => {
  using machine = new Machine();
  machine.says("podman", `echo podman version ${version}`);
  const told = await machine.told("podman");
  expect(told).toMatchObject({ level, text: expect.stringMatching(about), version });
  expect(told.hints.join("\n")).toContain(hint);
});

/** A file of the user's for Podman. */
function conf(machine: Machine, name: string, text: string): void {
  const file = path.join(machine.home, ".config/containers", name);
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, text);
}

describe("the driver", () => {
  const dropIn = "containers.conf.d/50-leger.conf";

  test.for<[string, (machine: Machine) => void, string, RegExp, RegExp]>([
    ["none of its own", () => {}, "note", /driver "file"/, /leger podman install/],
    [
      "another",
      (machine) => conf(machine, "containers.conf", '[secrets]\ndriver = "pass"\n'),
      "note",
      /driver "pass"/,
      /leger podman install/,
    ],
    [
      "leger's",
      (machine) => conf(machine, dropIn, dropInText(driverCommands(machine.program))),
      "ok",
      /leger, for all new secrets/,
      /^$/,
    ],
    [
      "leger's, and an option left over",
      (machine) => {
        conf(machine, dropIn, dropInText(driverCommands(machine.program)));
        conf(machine, "containers.conf", '[secrets.opts]\nroot = "/x"\n');
      },
      "error",
      /should be the driver, but .*\/containers\.conf: its option "root"/,
      /take "root" out of \[secrets\.opts\]/,
    ],
    [
      "leger's, and another one after it",
      (machine) => {
        conf(machine, dropIn, dropInText(driverCommands(machine.program)));
        conf(machine, "containers.conf.d/60-pass.conf", '[secrets]\ndriver = "pass"\n');
      },
      "error",
      /60-pass\.conf: it comes after leger's file and sets another driver "pass"/,
      /take "driver" out/,
    ],
    [
      "leger's, which isn't there",
      (machine) => conf(machine, dropIn, dropInText(driverCommands("/nowhere/leger"))),
      "error",
      /new secrets go to \/nowhere\/leger, and there is no such program/,
      /leger podman install --leger PATH/,
    ],
    [
      "that of an older leger",
      (machine) =>
        conf(
          machine,
          dropIn,
          dropInText(driverCommands(machine.program)).replaceAll("unset BUN_OPTIONS", "unset"),
        ),
      "warning",
      /from another version of leger/,
      /^leger podman install$/,
    ],
    [
      "a file that isn't TOML",
      (machine) => conf(machine, "containers.conf", "[secrets\n"),
      "error",
      /isn't TOML \(line 1\)/,
      /mend it/,
    ],
  ])("is %s", async ([, prepare, level, about, hint]) => {
    using machine = new Machine();
    prepare(machine);
    const told = await machine.told("driver");
    expect(told).toMatchObject({ level, text: expect.stringMatching(about) });
    expect(told.hints.join("\n")).toMatch(hint);
  });
});

test.for<[string, string, string, RegExp]>([
  ["yes", "echo Linger=yes", "ok", /without a login/],
  ["no", "echo Linger=no", "warning", /stop when you log out/],
  [
    "not logged in",
    "echo 'Failed to get user: User ID 1000 is not logged in or lingering' >&2; exit 1",
    "warning",
    /not logged in for systemd/,
  ],
  [
    "no bus",
    "echo 'Failed to connect to bus: No such file or directory' >&2; exit 1",
    "note",
    /cannot be told: Failed to connect to bus/,
  ],
])("lingering: %s", async ([, script, level, about]) => {
  using machine = new Machine();
  machine.says("loginctl", script);
  const told = await machine.told("linger");
  expect(told).toMatchObject({ level, text: expect.stringMatching(about) });
  if (level === "warning") expect(told.hints).toEqual(["loginctl enable-linger"]);
});

describe("the runtime directory", () => {
  onTmpfs(`is in memory (${hasTmpfs ? "on tmpfs" : "no tmpfs here"})`, async () => {
    using machine = new Machine();
    expect(await machine.told("runtime")).toMatchObject({
      level: "ok",
      text: expect.stringContaining("in memory"),
    });
    fs.chmodSync(machine.places.runtimeDir, 0o777);
    expect(await machine.told("runtime")).toMatchObject({
      level: "error",
      text: expect.stringMatching(/others may write/),
    });
  });

  test("is on a disk, or isn't there", async () => {
    using machine = new Machine();
    const disk = path.join(PROJECT_DIR, "node_modules");
    machine.env = { ...machine.env, XDG_RUNTIME_DIR: path.join(machine.home, "gone") };
    const gone = await machine.told("runtime");
    expect(gone).toMatchObject({ level: "error", text: expect.stringMatching(/gone isn't there/) });
    expect(gone.hints.join("\n")).toContain("loginctl enable-linger");
    machine.env = { ...machine.env, XDG_RUNTIME_DIR: disk };
    expect(await machine.told("runtime")).toMatchObject({
      level: "error",
      text: expect.stringMatching(/is not on tmpfs/),
    });
  });
});

/** Block devices as in /sys/class/block: what lies below each, and what made it. */
function blocks(
  machine: Machine,
  devices: Readonly<Record<string, { uuid?: string; slaves?: string[]; backing?: string }>>,
): void {
  for (const [name, { uuid, slaves = [], backing }] of Object.entries(devices)) {
    machine.file(`sys/class/block/${name}/dev`, "254:0\n");
    if (uuid !== undefined) machine.file(`sys/class/block/${name}/dm/uuid`, `${uuid}\n`);
    if (backing !== undefined) machine.file(`sys/block/${name}/backing_dev`, `${backing}\n`);
    for (const slave of slaves)
      fs.mkdirSync(path.join(machine.root, `sys/class/block/${name}/slaves/${slave}`), { recursive: true });
  }
}

const swap = (name: string, type = "partition"): string => `${name.padEnd(39)} ${type}\t8388604\t\t0\t\t-2\n`;

test.for<[string, (machine: Machine) => void, string, RegExp]>([
  ["none", () => {}, "ok", /there is no swap/],
  [
    "a partition",
    (machine) => {
      machine.file("proc/swaps", SWAPS + swap("/dev/sda2"));
      blocks(machine, { sda2: {} });
    },
    "warning",
    /^\/dev\/sda2 is not encrypted/,
  ],
  [
    "a partition, encrypted",
    (machine) => {
      machine.file("proc/swaps", SWAPS + swap("/dev/dm-1"));
      blocks(machine, { "dm-1": { uuid: "CRYPT-LUKS2-0123-swap", slaves: ["sda2"] }, sda2: {} });
    },
    "ok",
    /is encrypted$/,
  ],
  [
    "LVM on what is encrypted",
    (machine) => {
      machine.file("proc/swaps", SWAPS + swap("/dev/dm-2"));
      blocks(machine, {
        "dm-2": { uuid: "LVM-abc", slaves: ["dm-0"] },
        "dm-0": { uuid: "CRYPT-LUKS2-0123-root", slaves: ["sda2"] },
        sda2: {},
      });
    },
    "ok",
    /is encrypted$/,
  ],
  [
    "LVM on a plain disk and an encrypted one",
    (machine) => {
      machine.file("proc/swaps", SWAPS + swap("/dev/dm-2"));
      blocks(machine, {
        "dm-2": { uuid: "LVM-abc", slaves: ["dm-0", "sdb"] },
        "dm-0": { uuid: "CRYPT-LUKS2-0123-root", slaves: ["sda2"] },
        sda2: {},
        sdb: {},
      });
    },
    "warning",
    /dm-2 is not encrypted/,
  ],
  [
    "zram",
    (machine) => {
      machine.file("proc/swaps", SWAPS + swap("/dev/zram0"));
      blocks(machine, { zram0: { backing: "none" } });
    },
    "ok",
    /in memory \(zram\)/,
  ],
  [
    "zram that writes to a disk",
    (machine) => {
      machine.file("proc/swaps", SWAPS + swap("/dev/zram0"));
      blocks(machine, { zram0: { backing: "/dev/sda3" }, sda3: {} });
    },
    "warning",
    /zram0 is not encrypted/,
  ],
  [
    "a file on an encrypted disk",
    (machine) => {
      machine.file("proc/swaps", SWAPS + swap("/var/swap\\040file", "file"));
      machine.file(
        "proc/self/mountinfo",
        "30 22 254:0 / /var rw,relatime shared:2 - btrfs /dev/mapper/luks-var rw\n22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n",
      );
      blocks(machine, { "dm-0": { uuid: "CRYPT-LUKS2-0123-luks-var" }, sda1: {} });
      machine.file("dev/dm-0", "");
      fs.mkdirSync(path.join(machine.root, "dev/mapper"));
      fs.symlinkSync("../dm-0", path.join(machine.root, "dev/mapper/luks-var"));
    },
    "ok",
    /is encrypted$/,
  ],
  [
    "a file on a plain disk",
    (machine) => {
      machine.file("proc/swaps", SWAPS + swap("/swapfile", "file"));
      machine.file("proc/self/mountinfo", "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n");
      blocks(machine, { sda1: {} });
    },
    "warning",
    /\/swapfile is not encrypted/,
  ],
  [
    "a device that cannot be seen",
    (machine) => machine.file("proc/swaps", SWAPS + swap("/dev/vdb")),
    "note",
    /whether \/dev\/vdb is encrypted cannot be told/,
  ],
  [
    "nothing to go by",
    (machine) => fs.rmSync(path.join(machine.root, "proc/swaps")),
    "note",
    /cannot be told/,
  ],
])("swap: %s", async ([, prepare, level, about]) => {
  using machine = new Machine();
  prepare(machine);
  expect(await machine.told("swap")).toMatchObject({ level, text: expect.stringMatching(about) });
});

test.for<[string, string, string, string, RegExp]>([
  ["none allowed", "core", "0", "ok", /writes none/],
  ["to a file", "core", "unlimited", "warning", /a file "core"/],
  ["to systemd", "|/usr/lib/systemd/systemd-coredump %P %u", "unlimited", "warning", /coredumpctl/],
  ["to systemd, none allowed", "|/usr/lib/systemd/systemd-coredump %P %u", "0", "ok", /writes none/],
  ["to a program", "|/usr/share/apport/apport -p%p", "1024", "warning", /with \/usr\/share\/apport\/apport$/],
  ["nowhere", "", "unlimited", "ok", /the kernel writes none/],
])("core dumps: %s", async ([, pattern, limit, level, about]) => {
  using machine = new Machine();
  await using daemon = await startTestLegerd({}, { places: machine.places });
  machine.file("proc/sys/kernel/core_pattern", `${pattern}\n`);
  machine.limits(process.pid, limit);
  expect(await machine.told("core dumps")).toMatchObject({ level, text: expect.stringMatching(about) });
  expect(await daemon.client.list()).toEqual([]);
});

async function ask(program: string, ...args: string[]): Promise<string> {
  const options = {
    env: { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin:/sbin` },
    timeoutMs: 5_000,
  };
  return Buffer.from((await run(program, args, { ...options, check: true })).stdout)
    .toString()
    .trim();
}

test("what the kernel here says of swap and of a legerd's limit is understood", async () => {
  using machine = new Machine();
  await using daemon = await spawnLegerd(machine.places);
  const real = reportOf(await leger(machine.places, ["doctor", "--json"], { env: machine.env }));
  const swaps = await ask("swapon", "--show=NAME", "--noheadings", "--raw");
  expect(real.checks.find(({ check }) => check === "swap")).toMatchObject({
    swaps: swaps === "" ? [] : swaps.split("\n").map((name) => expect.objectContaining({ name })),
  });
  const limit = await ask(
    "prlimit",
    "--core",
    "--raw",
    "--noheadings",
    "--output=SOFT",
    `--pid=${daemon.pid}`,
  );
  expect(real.checks.find(({ check }) => check === "core dumps")).toMatchObject({ limit });
});

test.for<[string, string | undefined, RegExp]>([
  ["off", undefined, /not in use/],
  ["permissive", "0", /permissive/],
  ["enforcing", "1", /only with ,Z/],
])("SELinux: %s", async ([state, enforce, about]) => {
  using machine = new Machine();
  if (enforce !== undefined) machine.file("sys/fs/selinux/enforce", enforce);
  expect(await machine.told("selinux")).toMatchObject({
    level: "ok",
    selinux: state,
    text: expect.stringMatching(about),
  });
});

test.for<[string, (machine: Machine) => void, string, RegExp]>([
  ["synchronised", () => {}, "ok", /synchronised by NTP/],
  [
    "not synchronised",
    (machine) => machine.says("timedatectl", "echo NTPSynchronized=no"),
    "warning",
    /not synchronised/,
  ],
  [
    "not to be asked",
    (machine) => machine.says("timedatectl", "echo 'Failed to connect to bus' >&2; exit 1"),
    "note",
    /cannot be told: Failed to connect to bus/,
  ],
  [
    "synchronised, as systemd-timesyncd left a note of",
    (machine) => {
      machine.says("timedatectl", "exit 1");
      machine.file("run/systemd/timesync/synchronized", "");
    },
    "ok",
    /synchronised by NTP/,
  ],
])("the clock is %s", async ([, prepare, level, about]) => {
  using machine = new Machine();
  prepare(machine);
  expect(await machine.told("clock")).toMatchObject({ level, text: expect.stringMatching(about) });
});

test.for<[string, (line: string) => string, string, RegExp]>([
  ["goes forward", (line) => line.repeat(3), "ok", /goes forward/],
  [
    "goes back by an hour",
    (line) =>
      line.replace(/"time":"[^"]*"/, `"time":"${new Date(Date.now() + 3_000_000).toISOString()}"`) + line,
    "warning",
    /times go back in it/,
  ],
  [
    "ends in the future",
    (line) => line.replace(/"time":"[^"]*"/, '"time":"2999-01-01T00:00:00.000Z"'),
    "warning",
    /the last entry is of 2999-/,
  ],
  ["holds what legerd doesn't write", (line) => `${line}{"time": 7}\nnonsense\n`, "ok", /goes forward/],
])("an audit log that %s", async ([, change, level, about]) => {
  using machine = new Machine();
  await using daemon = await startTestLegerd({ "leger/local/x1": CANARY }, { places: machine.places });
  const file = path.join(daemon.stateDir, "audit.log");
  const [first = ""] = fs.readFileSync(file, "utf8").split("\n");
  fs.writeFileSync(file, change(`${first}\n`));
  expect(await machine.told("audit")).toMatchObject({ level, text: expect.stringMatching(about) });
});

test("an audit log that was taken away is told", async () => {
  using machine = new Machine();
  await using daemon = await startTestLegerd({}, { places: machine.places });
  fs.rmSync(path.join(daemon.stateDir, "audit.log"));
  expect(await machine.told("audit")).toMatchObject({
    level: "error",
    text: expect.stringContaining("is gone"),
  });
});

function daysAgo(days: number): string {
  return new Date(Date.now() - days * 86_400_000 - 60_000).toISOString();
}

test("a store without a backup, or with an old one, is told", async () => {
  using machine = new Machine();
  await using daemon = await startTestLegerd({}, { places: machine.places });
  const { stateDir } = daemon;
  expect(await machine.told("backup")).toMatchObject({ level: "note" });
  await daemon.client.put("leger/local/x1", new Secret(Buffer.from(CANARY)));
  expect(await machine.told("backup")).toMatchObject({
    level: "warning",
    text: expect.stringContaining("there was never a backup"),
    hints: [expect.stringContaining("legerd backup FILE")],
  });
  noteBackup(stateDir, { madeAt: daysAgo(3), changes: 1 });
  expect(await machine.told("backup")).toMatchObject({
    level: "ok",
    text: expect.stringMatching(/is 3 days old; nothing has changed since$/),
  });
  noteBackup(stateDir, { madeAt: daysAgo(31), changes: 0 });
  expect(await machine.told("backup")).toMatchObject({
    level: "warning",
    text: expect.stringMatching(/is 31 days old; secrets have changed since$/),
  });
  noteBackup(stateDir, { madeAt: daysAgo(31), changes: 1 });
  expect(await machine.told("backup")).toMatchObject({ level: "ok" });
});

/** Runs leger as root of a namespace of its own, with a file system of 1 MiB at $DIR. */
async function onSmallDisk(machine: Machine, fill: string): Promise<Told | undefined> {
  const disk = path.join(machine.home, "state", "legerd");
  fs.mkdirSync(disk, { recursive: true });
  const script = `mount -t tmpfs -o size=1m none "$1" && ${fill} && exec "$2" doctor --json`;
  const args = ["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", disk, machine.program];
  const env = {
    ...machine.env,
    HOME: machine.home,
    XDG_STATE_HOME: path.dirname(disk),
    _CONTAINERS_ROOTLESS_UID: "1000",
  };
  const result = await run("unshare", args, { env, timeoutMs: 30_000 });
  const stdout = Buffer.from(result.stdout).toString();
  // Without a report there was no namespace.
  if (stdout === "") return undefined;
  return reportOf({ status: result.status ?? -1, stdout, stderr: result.stderr }).checks.find(
    ({ check }) => check === "disk",
  );
}

test.for<[string, string, string]>([
  ["nearly full", "true", "warning"],
  ["full", 'cat /dev/zero >"$1/zero" 2>/dev/null; true', "error"],
])("a disk that is %s is told (where namespaces are allowed)", async ([, fill, level], { skip }) => {
  using machine = new Machine();
  const told = await onSmallDisk(machine, fill);
  skip(told === undefined, "no namespaces here");
  expect(told).toMatchObject({ level, text: expect.stringMatching(/^[01] MiB free/) });
});

test("in bare surroundings each thing has its line, and nothing crashes", async () => {
  using machine = new Machine();
  const empty = path.join(machine.home, "empty");
  fs.mkdirSync(empty);
  machine.env = {
    PATH: empty,
    HOME: undefined,
    XDG_RUNTIME_DIR: undefined,
    _CONTAINERS_ROOTLESS_UID: "4000000000",
  };
  const result = await leger(machine.places, ["doctor", "--json"], {
    env: machine.env,
    world: { root: empty },
  });
  expect(result.status).toBe(2);
  const { checks } = reportOf(result);
  expect(checks.map(({ check }) => check)).toEqual([...CHECKS]);
  expect(checks.filter(({ text }) => /internal error/.test(text))).toEqual([]);
  expect(Object.fromEntries(checks.map(({ check, level }) => [check, level]))).toMatchObject({
    legerd: "error",
    unit: "note",
    podman: "warning",
    entries: "note",
    linger: "note",
    runtime: "error",
    swap: "note",
    clock: "note",
  });
});

test("programs that hang are given up, one by one, and told", async () => {
  using machine = new Machine();
  // Each leaves a child of its own behind.
  for (const program of ["podman", "loginctl", "timedatectl"]) machine.says(program, "sleep 1000 & wait");
  fs.writeFileSync(path.join(machine.systemctl.directory, "systemctl"), "#!/bin/sh\nexec sleep 1000\n");
  const { checks } = reportOf(await machine.doctor("--json"));
  const texts = Object.fromEntries(checks.map(({ check, level, text }) => [check, `${level}: ${text}`]));
  expect(texts).toMatchObject({
    podman: "error: podman did not finish within 5 s",
    linger: expect.stringMatching(/^note: .*loginctl did not finish within 5 s/),
    clock: expect.stringMatching(/^note: .*timedatectl did not finish within 5 s/),
    unit: expect.stringMatching(/^note: .*systemctl did not finish within 5 s/),
  });
});

test("it needs no more of a person than a terminal: as a program, and with a reader that goes away", async () => {
  using machine = new Machine();
  const env = { ...machine.env, LEGER_SOCKET: undefined, XDG_RUNTIME_DIR: machine.places.runtimeDir };
  const whole = await legerInShell(machine.places, "$LEGER doctor --json", { env });
  expect(whole.status).toBe(2);
  expect(reportOf(whole).checks).toHaveLength(CHECKS.length);
  const gone = await legerInShell(machine.places, "$LEGER doctor --json | head -0; echo ${PIPESTATUS[0]}", {
    env,
  });
  expect(gone.stderr).not.toContain("internal error");
});

test("what doctor says is explained, thing by thing", () => {
  const page = fs.readFileSync(path.join(PROJECT_DIR, "docs/troubleshooting.md"), "utf8");
  const headings = [...page.matchAll(/^### (.*)$/gm)].map(([, heading]) => heading);
  expect(headings).toEqual([...CHECKS]);
});

const podmanVersion = workingPodman();

describe.skipIf(podmanVersion === undefined)(`with ${podmanVersion ?? "podman (none that works)"}`, () => {
  /** A machine with the real Podman, whose store is the test's own. */
  class WithPodman extends Machine {
    readonly #args = ["root", "run", "tmp"].map((name) => {
      const option = { root: "--root", run: "--runroot", tmp: "--tmpdir" }[name] ?? "";
      return `${option}=${path.join(this.home, "store", name)}`;
    });
    readonly #podman = [...this.#args, "--storage-driver=vfs"];

    constructor() {
      super();
      fs.rmSync(path.join(this.bin, "podman"));
      this.env = { ...this.env, _CONTAINERS_ROOTLESS_UID: undefined, LEGER_SOCKET: this.places.socket };
    }

    get args(): string[] {
      return this.#podman.map((arg) => `--podman-arg=${arg}`);
    }

    sync(...args: string[]): Promise<CliResult> {
      return leger(this.places, ["podman", "sync", `--leger=${this.program}`, ...this.args, ...args], {
        env: this.env,
      });
    }

    async podman(signal: AbortSignal | undefined, ...args: string[]): Promise<string> {
      const result = await run("podman", [...this.#podman, ...args], {
        ...(signal === undefined ? {} : { signal }),
        env: {
          PATH: process.env["PATH"],
          HOME: this.home,
          XDG_RUNTIME_DIR: this.places.runtimeDir,
          LEGER_SOCKET: this.places.socket,
        },
        timeoutMs: 30_000,
        check: true,
      });
      return Buffer.from(result.stdout).toString().trim();
    }

    entries(): Promise<Told> {
      return this.told("entries", ...this.args);
    }
  }

  const secrets = { "leger/local/x1": CANARY, "leger/local/x2": CANARY };

  test("entries that legerd backs are well; those that are missing are a note", async () => {
    using machine = new WithPodman();
    await using daemon = await startTestLegerd(secrets, { places: machine.places });
    expect(await machine.entries()).toMatchObject({
      level: "note",
      text: expect.stringContaining("2 of legerd's have no entry"),
    });
    expect((await machine.sync()).status).toBe(0);
    expect(await machine.entries()).toMatchObject({
      level: "ok",
      entries: 2,
      text: "2 secrets of podman's ask leger, all known to legerd",
    });

    await daemon.client.delete("leger/local/x2");
    expect(await machine.entries()).toMatchObject({
      level: "error",
      orphan: ["x2"],
      text: "x2: its secret is gone",
      hints: [expect.stringContaining("--prune")],
    });
  });

  test("an entry that podman lost is told; one sync brings it back", async () => {
    using machine = new WithPodman();
    await using daemon = await startTestLegerd(secrets, { places: machine.places });
    await machine.sync();
    // podman#27130, in effect: the entry is gone, and the driver was not told.
    const file = path.join(machine.home, "store/root/secrets/secrets.json");
    const db: {
      secrets: Record<string, unknown>;
      nameToID: Record<string, string>;
      idToName: Record<string, string>;
    } = JSON.parse(fs.readFileSync(file, "utf8"));
    const id = db.nameToID["x1"] ?? "";
    delete db.secrets[id];
    delete db.idToName[id];
    delete db.nameToID["x1"];
    fs.writeFileSync(file, JSON.stringify(db));
    expect(await machine.entries()).toMatchObject({
      level: "warning",
      lost: ["x1"],
      text: "x1: podman has lost its entry",
      hints: ["leger podman sync"],
    });
    await machine.sync();
    expect(await machine.entries()).toMatchObject({ level: "ok", lost: [], entries: 2 });
    expect(await daemon.client.list()).toHaveLength(2);
  });

  test("frozen commands: of another leger, or of one that is gone", async () => {
    using machine = new WithPodman();
    await using daemon = await startTestLegerd(secrets, { places: machine.places });
    const old = legerProgram(machine.bin, "leger-old");
    await leger(machine.places, ["podman", "sync", `--leger=${old}`, ...machine.args], { env: machine.env });
    expect(await machine.entries()).toMatchObject({
      level: "warning",
      stale: ["x1", "x2"],
      hints: ["leger podman sync"],
    });
    fs.rmSync(old);
    expect(await machine.entries()).toMatchObject({
      level: "error",
      text: `x1, x2: podman asks ${old} for them, which isn't there`,
    });
    expect(await daemon.client.list()).toHaveLength(2);
  });

  test("an entry of podman's own making that nobody backs", async () => {
    using machine = new WithPodman();
    await using daemon = await startTestLegerd({}, { places: machine.places });
    const value = path.join(machine.home, "value");
    fs.writeFileSync(value, "mine");
    const options = Object.entries(driverCommands(machine.program)).flatMap(([key, command]) => [
      "--driver-opts",
      `${key}=${command}`,
    ]);
    const id = await machine.podman(
      undefined,
      "secret",
      "create",
      "--driver",
      "shell",
      ...options,
      "mine",
      value,
    );
    expect(await machine.entries()).toMatchObject({ level: "ok", entries: 1 });
    await daemon.client.request({
      method: "POST",
      path: "/v1/podman/delete",
      headers: { "leger-secret-id": id },
    });
    expect(await machine.entries()).toMatchObject({
      level: "error",
      unbacked: ["mine"],
      text: "mine: legerd has nothing for it",
    });
  });

  test("entries of other drivers are none of leger's business, and no legerd means that it cannot be told", async () => {
    using machine = new WithPodman();
    const value = path.join(machine.home, "value");
    fs.writeFileSync(value, "mine");
    await machine.podman(undefined, "secret", "create", "theirs", value);
    {
      await using daemon = await startTestLegerd({ "leger/local/x1": CANARY }, { places: machine.places });
      await machine.sync();
      expect(await machine.entries()).toMatchObject({ level: "ok", entries: 1 });
      expect(await daemon.client.list()).toHaveLength(1);
    }
    expect(await machine.entries()).toMatchObject({
      level: "note",
      text: expect.stringContaining("1 secret of podman's ask"),
    });
  });

  test("a podman that waits for its store's lock is given up", async () => {
    using machine = new WithPodman();
    await using daemon = await startTestLegerd(secrets, { places: machine.places });
    await machine.sync();
    // Its driver hangs, and podman holds the lock meanwhile.
    const begun = path.join(machine.home, "begun");
    const options = ["list", "store", "lookup", "delete"].flatMap((key) => [
      "--driver-opts",
      `${key}=touch ${begun}; exec sleep 60`,
    ]);
    const value = path.join(machine.home, "value");
    fs.writeFileSync(value, "mine");
    const stop = new AbortController();
    const create = machine
      .podman(stop.signal, "secret", "create", "--driver", "shell", ...options, "slow", value)
      .catch(() => "stopped");
    try {
      await expect.poll(() => fs.existsSync(begun), { timeout: 20_000 }).toBe(true);
      const told = await machine.entries();
      expect(told).toMatchObject({
        level: "error",
        text: expect.stringContaining("did not finish within 10 s"),
      });
      expect(told.hints[0]).toContain("its store's lock");
    } finally {
      stop.abort();
    }
    expect(await create).toBe("stopped");
    expect(await daemon.client.list()).toHaveLength(2);
  });
});
