import * as fs from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { run } from "../../src/core/exec.ts";
import { driverCommands, dropInText, legerIn } from "../../src/cli/driver-commands.ts";
import { expectSpoken, leger, legerProgram, type CliResult } from "../support/cli.ts";
import { makePlaces, PROJECT_DIR, startTestLegerd, type Places, type TestLegerd } from "../support/legerd.ts";
import { workingPodman } from "../support/podman.ts";
import { fakeSystemctl } from "../support/systemctl.ts";

test("the shipped containers.conf drop-in is what install writes (vitest -u writes it anew)", async () => {
  await expect(dropInText()).toMatchFileSnapshot(path.join(PROJECT_DIR, "containers.conf.d/50-leger.conf"));
});

test("a command of leger's is known by its end, whatever path it has", () => {
  expect(Object.values(driverCommands("/opt/x/leger")).map(legerIn)).toEqual(
    Array.from({ length: 4 }, () => "/opt/x/leger"),
  );
  expect(legerIn("exec /usr/bin/leger driver lookup")).toBe("/usr/bin/leger");
  for (const other of ["cat /etc/x", "exec /usr/bin/psi driver list; true", "", "leger driver lookup"]) {
    expect(legerIn(other)).toBeUndefined();
  }
});

/** A machine of a test's own: its /etc and /usr below `root`, its user's home, and a leger that Podman could run. */
class Machine implements Disposable {
  readonly places: Places & Disposable = makePlaces();
  readonly home = this.places.base;
  readonly root = path.join(this.home, "root");
  readonly bin = fs.mkdtempSync(path.join(this.places.runtimeDir, "bin-"));
  readonly program = legerProgram(this.bin);
  readonly etc = path.join(this.root, "etc/containers");
  readonly conf = path.join(this.home, ".config/containers");
  readonly dropIn = path.join(this.conf, "containers.conf.d/50-leger.conf");
  /** Of the user; root's has none. */
  uid: string | undefined = "1000";
  env: Record<string, string | undefined> = {};

  constructor() {
    // The real one would switch the real legerd, if there is one.
    const words = "System has not been booted with systemd as init system (PID 1). Can't operate.";
    fs.writeFileSync(path.join(this.bin, "systemctl"), `#!/bin/sh\necho "${words}" >&2\nexit 1\n`, {
      mode: 0o755,
    });
    this.env = { PATH: `${this.bin}:${process.env["PATH"]}` };
    // Podman's own defaults, as packages bring them.
    this.write(path.join(this.root, "usr/share/containers/containers.conf"), "[secrets]\n[secrets.opts]\n");
  }

  write(file: string, text: string): void {
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, text);
  }

  podman(word: "install" | "uninstall", ...args: string[]): Promise<CliResult> {
    return leger(this.places, ["podman", word, `--leger=${this.program}`, ...args], {
      env: { _CONTAINERS_ROOTLESS_UID: this.uid, LEGER_SOCKET: undefined, ...this.env },
      world: { root: this.root },
    });
  }

  /** Everything there is, but for what this machine's systemctl and leger themselves are. */
  tree(): string[] {
    const paths = fs.readdirSync(this.home, { recursive: true, encoding: "utf8" }).toSorted();
    return paths
      .filter((file) => !file.startsWith("run"))
      .map((file) => {
        const stats = fs.lstatSync(path.join(this.home, file));
        const text = stats.isFile() ? fs.readFileSync(path.join(this.home, file), "utf8") : "";
        return `${file} ${(stats.mode & 0o7777).toString(8)} ${text}`;
      });
  }

  [Symbol.dispose](): void {
    this.places[Symbol.dispose]();
  }
}

const AS_ROOT = process.geteuid?.() === 0;

const mode = (file: string): string => (fs.statSync(file).mode & 0o7777).toString(8);

test.for<[string, (machine: Machine) => unknown]>([
  ["nothing", () => {}],
  ["a directory .config", ({ home }) => fs.mkdirSync(path.join(home, ".config"), { mode: 0o750 })],
  [
    "an empty containers.conf.d",
    ({ conf }) => void fs.mkdirSync(`${conf}/containers.conf.d`, { recursive: true }),
  ],
  [
    "other files",
    (machine) => {
      machine.write(`${machine.conf}/containers.conf`, '[engine]\nevents_logger = "file"\n');
      machine.write(`${machine.conf}/containers.conf.d/10-mine.conf`, "[containers]\n");
      machine.write(path.join(machine.home, ".local/state/other"), "x");
    },
  ],
  [
    "drop-ins linked in",
    (machine) => {
      fs.mkdirSync(path.join(machine.home, "dotfiles"));
      fs.mkdirSync(machine.conf, { recursive: true });
      fs.symlinkSync("../../dotfiles", `${machine.conf}/containers.conf.d`);
    },
  ],
  [
    "dotfiles linked in",
    (machine) => {
      machine.write(path.join(machine.home, "dotfiles/containers/containers.conf.d/mine.conf"), "");
      fs.mkdirSync(path.dirname(machine.conf));
      fs.symlinkSync("../dotfiles/containers", machine.conf);
    },
  ],
])("uninstall leaves a home that had %s as it was; a second install changes nothing", async ([, prepare]) => {
  using machine = new Machine();
  prepare(machine);
  const before = machine.tree();

  const first = await machine.podman("install");
  expect(first.status).toBe(0);
  expect(first.stdout).toMatch(new RegExp(`^(made {6}.*\\n)*wrote {5}${machine.dropIn}\\n$`));
  expect(first.stderr).toMatch(/leger: podman: leger is the driver for new secrets/);
  expect(fs.readFileSync(machine.dropIn, "utf8")).toBe(dropInText(driverCommands(machine.program)));
  expect(mode(machine.dropIn)).toBe("644");

  const installed = machine.tree();
  const second = await machine.podman("install", "--json");
  expect(JSON.parse(second.stdout)).toMatchObject({
    schema_version: 1,
    scope: "user",
    actions: [],
    problems: [],
  });
  expect(second.stderr).toContain("nothing changed");
  expect(machine.tree()).toEqual(installed);

  const last = await machine.podman("uninstall");
  expect(last).toMatchObject({ status: 0, stdout: expect.stringContaining(`removed   ${machine.dropIn}\n`) });
  expect(machine.tree()).toEqual(before);
  expect((await machine.podman("uninstall")).stderr).toContain("nothing to take away");
});

test("--dry-run says what would be done, and does nothing", async () => {
  using machine = new Machine();
  const before = machine.tree();
  const dry = await machine.podman("install", "--dry-run", "--json");
  expect(JSON.parse(dry.stdout)).toMatchObject({
    dry_run: true,
    actions: [
      { action: "made", what: path.join(machine.home, ".config") },
      { action: "made", what: machine.conf },
      { action: "made", what: path.dirname(machine.dropIn) },
      { action: "wrote", what: machine.dropIn },
    ],
  });
  expect(dry.stderr).toContain("nothing was");
  expect(machine.tree()).toEqual(before);

  await machine.podman("install");
  const installed = machine.tree();
  const words = (await machine.podman("uninstall", "--dry-run")).stdout;
  expect(machine.tree()).toEqual(installed);
  // What it says beforehand is what it does.
  expect((await machine.podman("uninstall")).stdout).toBe(words);
  expect(words).toContain(`removed   ${path.join(machine.home, ".config")}\n`);
});

test("a directory that something else has come to lie in stays", async () => {
  using machine = new Machine();
  await machine.podman("install");
  machine.write(`${machine.conf}/containers.conf`, "");
  expect((await machine.podman("uninstall")).stdout).not.toContain(`${machine.conf}\n`);
  expect(fs.readdirSync(machine.conf)).toEqual(["containers.conf"]);
});

test("a drop-in that somebody edited is neither replaced nor removed, but by --force", async () => {
  using machine = new Machine();
  await machine.podman("install");
  fs.appendFileSync(machine.dropIn, "# mine\n");
  const edited = machine.tree();
  for (const word of ["install", "uninstall"] as const) {
    const refused = await machine.podman(word);
    expect(refused).toMatchObject({ status: 1, stdout: "" });
    expectSpoken(refused, /50-leger\.conf is .*not as leger wrote it/);
    expect(refused.stderr).toContain("--force");
    expect(machine.tree()).toEqual(edited);
  }
  expect((await machine.podman("install", "--force")).status).toBe(0);
  expect(fs.readFileSync(machine.dropIn, "utf8")).not.toContain("# mine");
  fs.appendFileSync(machine.dropIn, "# mine\n");
  expect((await machine.podman("uninstall", "--force")).status).toBe(0);
  expect(fs.existsSync(path.join(machine.home, ".config"))).toBe(false);
});

test("a foreign file of that name comes back after --force, byte for byte", async () => {
  using machine = new Machine();
  fs.mkdirSync(path.dirname(machine.dropIn), { recursive: true });
  const theirs = Buffer.from([0x23, 0xff, 0x00, 0x0a]);
  fs.writeFileSync(machine.dropIn, theirs);
  expectSpoken(await machine.podman("install"), /is there already/);
  await machine.podman("install", "--force");
  expect(fs.readFileSync(machine.dropIn, "utf8")).toBe(dropInText(driverCommands(machine.program)));
  expect((await machine.podman("uninstall")).stdout).toContain(`restored  ${machine.dropIn}\n`);
  expect(fs.readFileSync(machine.dropIn).equals(theirs)).toBe(true);
});

test("the same file put there by hand stays at uninstall, until --force; without a record it goes", async () => {
  using machine = new Machine();
  machine.write(machine.dropIn, dropInText(driverCommands(machine.program)));
  const before = machine.tree();
  expect((await machine.podman("install")).stderr).toContain("nothing changed");
  expect((await machine.podman("uninstall")).stderr).toContain("it was there before");
  expect(machine.tree()).toEqual(before);
  await machine.podman("install");
  expect((await machine.podman("uninstall", "--force")).stdout).toContain(`removed   ${machine.dropIn}\n`);
  machine.write(machine.dropIn, dropInText(driverCommands(machine.program)));
  expect((await machine.podman("uninstall")).stdout).toBe(`removed   ${machine.dropIn}\n`);
});

test("what an older leger wrote is renewed; what was noted before stays noted", async () => {
  using machine = new Machine();
  const before = machine.tree();
  await machine.podman("install");
  const newer = legerProgram(machine.bin, "leger-new");
  const again = await leger(machine.places, ["podman", "install", `--leger=${newer}`], {
    world: { root: machine.root },
  });
  expect(again).toMatchObject({ status: 0, stdout: `wrote     ${machine.dropIn}\n` });
  expect(fs.readFileSync(machine.dropIn, "utf8")).toContain(`exec ${newer} driver lookup`);
  await machine.podman("uninstall");
  expect(machine.tree()).toEqual(before);
});

test("an install that was stopped half-way is undone, and so is a drop-in that somebody took away", async () => {
  using machine = new Machine();
  const before = machine.tree();
  await machine.podman("install");
  fs.rmSync(machine.dropIn);
  expect((await machine.podman("uninstall")).status).toBe(0);
  expect(machine.tree()).toEqual(before);
});

test.skipIf(!AS_ROOT)(
  "for the machine: read by everybody whatever root's umask is, and told as such (as root, whose files they are)",
  async () => {
    using machine = new Machine();
    machine.uid = undefined;
    const dropIn = path.join(machine.etc, "containers.conf.d/50-leger.conf");
    const umask = process.umask(0o077);
    try {
      const result = await machine.podman("install", "--json");
      expect(JSON.parse(result.stdout)).toMatchObject({ scope: "system" });
    } finally {
      process.umask(umask);
    }
    expect([machine.etc, path.dirname(dropIn), dropIn].map(mode)).toEqual(["755", "755", "644"]);
    expect(mode(path.join(machine.root, "var/lib/leger"))).toBe("700");
    await machine.podman("uninstall");
    expect(fs.readdirSync(machine.root)).toEqual(["usr"]);
  },
);

test.for<[string, string | undefined, string[], number, RegExp]>([
  ["root, for a user", undefined, ["--user"], 64, /root's podman goes by the machine's files/],
  ["a user, for the machine", "1000", ["--system"], 77, /only root/],
  ["both at once", "1000", ["--system", "--user"], 64, /exclude each other/],
  ["no leger there", "1000", ["--leger=/nowhere/leger"], 1, /no program at \/nowhere\/leger/],
])("refused: %s", async ([, uid, args, status, about]) => {
  using machine = new Machine();
  const before = machine.tree();
  const result = await leger(
    machine.places,
    [
      "podman",
      "install",
      ...(args.some((arg) => arg.startsWith("--leger")) ? [] : [`--leger=${machine.program}`]),
      ...args,
    ],
    {
      env: { _CONTAINERS_ROOTLESS_UID: uid },
      world: { root: machine.root, ...(uid === undefined ? { euid: 0 } : {}) },
    },
  );
  expect(result).toMatchObject({ status, stdout: "" });
  expectSpoken(result, about);
  expect(machine.tree()).toEqual(before);
});

test("without a home directory it says so", async () => {
  using machine = new Machine();
  machine.env = { ...machine.env, HOME: undefined };
  const result = await machine.podman("install");
  expect(result).toMatchObject({ status: 78, stdout: "" });
  expectSpoken(result, /neither XDG_CONFIG_HOME nor HOME/);
});

test("a record that isn't one is no ground to guess on", async () => {
  using machine = new Machine();
  await machine.podman("install");
  machine.write(path.join(machine.home, ".local/state/leger/podman-install.json"), '{"schema_version":2}');
  const result = await machine.podman("uninstall");
  expect(result).toMatchObject({ status: 65, stdout: "" });
  expectSpoken(result, /podman-install\.json is not what leger wrote/);
});

test.for<[string, string, string, string, RegExp]>([
  [
    "path",
    ".config/containers/containers.conf",
    '[secrets.opts]\npath = "/x"\n',
    "opts.path",
    /option "path" of another driver/,
  ],
  [
    "root",
    "root/etc/containers/containers.conf",
    '[secrets.opts]\nroot = "/x"\n',
    "opts.root",
    /option "root" of another driver/,
  ],
  [
    "key",
    "root/usr/share/containers/containers.conf",
    '[secrets.opts]\nkey = "x"\n',
    "opts.key",
    /option "key" of another driver/,
  ],
  [
    "another driver",
    ".config/containers/containers.conf.d/60-pass.conf",
    '[secrets]\ndriver = "pass"\n',
    "driver",
    /comes after leger's file and sets another driver "pass"/,
  ],
  [
    "another command",
    ".config/containers/containers.conf.d/60-psi.conf",
    "[secrets.opts]\nlookup = 'curl x'\n",
    "opts.lookup",
    /sets another command "lookup"/,
  ],
])("%s left over: the file and the key are named, and nothing is done", async ([, file, text, key, what]) => {
  using machine = new Machine();
  machine.write(path.join(machine.home, file), text);
  const before = machine.tree();
  const result = await machine.podman("install", "--json");
  expect(result.status).toBe(1);
  expect(JSON.parse(result.stdout)).toMatchObject({
    actions: [],
    problems: [{ file: path.join(machine.home, file), key, what: expect.stringMatching(what) }],
  });
  expectSpoken(result, /nothing was changed/);
  expect(result.stderr).toMatch(
    new RegExp(`warning: ${path.join(machine.home, file)}: .*\\nleger: hint: take "`),
  );
  expect(machine.tree()).toEqual(before);
});

test("a file that isn't TOML is named with its line, and not quoted", async () => {
  using machine = new Machine();
  machine.write(`${machine.conf}/containers.conf`, "[engine]\ncanary-4be0c9d117 =\n");
  const result = await machine.podman("install");
  expect(result).toMatchObject({ status: 1, stdout: "" });
  expect(result.stderr).toContain(`${machine.conf}/containers.conf: it isn't TOML (line 2)`);
});

test("a pipe among the files keeps nobody waiting", async () => {
  using machine = new Machine();
  fs.mkdirSync(machine.conf, { recursive: true });
  await run("mkfifo", [path.join(machine.conf, "containers.conf")], {
    env: process.env,
    timeoutMs: 5_000,
    check: true,
  });
  expectSpoken(await machine.podman("install"), /nothing was changed/);
});

test("another driver that came before is told, and comes back", async () => {
  using machine = new Machine();
  machine.write(`${machine.conf}/containers.conf`, '[secrets]\ndriver = "pass"\n');
  const result = await machine.podman("install");
  expect(result.status).toBe(0);
  expect(result.stderr).toMatch(
    /warning: .*containers\.conf names another driver, and leger takes its place/,
  );
});

test("without podman, it goes by what most have", async () => {
  using machine = new Machine();
  const result = await machine.podman("install", "--podman=/nowhere/podman");
  expect(result.status).toBe(0);
  expect(result.stderr).toMatch(
    /warning: podman cannot be asked for its version: \/nowhere\/podman: not found/,
  );
});

test("a podman that makes ~/.config when it is only asked for its version (since 5.0) doesn't get to", async () => {
  using machine = new Machine();
  const script = '[ -n "$XDG_CONFIG_HOME" ] || mkdir "$HOME/.config"\necho podman version 5.4.2';
  fs.writeFileSync(path.join(machine.bin, "podman"), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  const before = machine.tree();
  expect((await machine.podman("install", "--dry-run")).stdout).toContain(`${machine.home}/.config\n`);
  expect(machine.tree()).toEqual(before);
});

test.for<[string, (machine: Machine) => string, RegExp]>([
  ["is not there", (machine) => fs.mkdtempSync(path.join(machine.bin, "empty-")), /systemctl: not found/],
  ["doesn't run", (machine) => machine.bin, /System has not been booted with systemd as init system/],
])("where systemd %s, that is said, and the drop-in is written all the same", async ([, bin, why]) => {
  using machine = new Machine();
  machine.env = { PATH: bin(machine) };
  const result = await machine.podman("install");
  expect(result).toMatchObject({
    status: 0,
    stdout: expect.stringContaining(`wrote     ${machine.dropIn}\n`),
  });
  expect(result.stderr).toMatch(
    new RegExp(`warning: systemd cannot be asked: ${why.source}.*\nleger: hint: start legerd yourself`),
  );
});

describe("with systemd", () => {
  const enabled = { LoadState: "loaded", UnitFileState: "enabled", ActiveState: "active" };
  const disabled = { LoadState: "loaded", UnitFileState: "disabled", ActiveState: "inactive" };
  const service = { LoadState: "loaded", UnitFileState: "static", ActiveState: "inactive" };

  const withSystemd = (machine: Machine, socket: object, unit: object = service) => {
    const systemctl = fakeSystemctl(machine.places.runtimeDir, {
      "legerd.socket": socket,
      "legerd.service": unit,
    });
    machine.env = { PATH: `${systemctl.directory}:${process.env["PATH"]}` };
    return systemctl;
  };

  test("the socket is enabled and started, and at uninstall switched off, the service with it", async () => {
    using machine = new Machine();
    const systemctl = withSystemd(machine, disabled);
    const before = machine.tree();
    const first = await machine.podman("install");
    expect(first.stdout).toMatch(/enabled {3}legerd\.socket\nstarted {3}legerd\.socket\n$/);
    expect(systemctl.calls()).toContain("--user --no-pager enable --now legerd.socket");
    expect(systemctl.unit("legerd.socket")).toEqual(enabled);
    expect((await machine.podman("install")).stderr).toContain("nothing changed");

    // Somebody has connected meanwhile.
    systemctl.set("legerd.service", { ...service, ActiveState: "active" });
    const last = await machine.podman("uninstall");
    expect(last.stdout).toContain(
      "disabled  legerd.socket\nstopped   legerd.socket\nstopped   legerd.service\n",
    );
    expect(systemctl.unit("legerd.socket")).toEqual(disabled);
    expect(systemctl.unit("legerd.service")).toEqual(service);
    expect(machine.tree()).toEqual(before);
  });

  test.skipIf(!AS_ROOT)(
    "the system's manager is asked for the machine's (as root, whose files they are)",
    async () => {
      using machine = new Machine();
      machine.uid = undefined;
      const systemctl = withSystemd(machine, disabled);
      await machine.podman("install");
      expect(systemctl.calls()).toContain("--system --no-pager enable --now legerd.socket");
    },
  );

  test("a socket that was enabled before stays so", async () => {
    using machine = new Machine();
    const systemctl = withSystemd(machine, enabled);
    expect((await machine.podman("install")).stdout).not.toContain("legerd.socket");
    const last = await machine.podman("uninstall");
    expect(last.stdout).not.toContain("legerd.socket");
    expect(last.stderr).toContain("legerd.socket stays enabled");
    expect(systemctl.unit("legerd.socket")).toEqual(enabled);
  });

  test("one that was enabled and stopped is started, and stopped again", async () => {
    using machine = new Machine();
    const systemctl = withSystemd(machine, { ...enabled, ActiveState: "inactive" });
    expect((await machine.podman("install")).stdout).toMatch(/started {3}legerd\.socket\n$/);
    expect((await machine.podman("uninstall")).stdout).toContain("stopped   legerd.socket\n");
    expect(systemctl.unit("legerd.socket")).toEqual({ ...enabled, ActiveState: "inactive" });
  });

  test("one that was started and not enabled goes on running", async () => {
    using machine = new Machine();
    const systemctl = withSystemd(machine, { ...disabled, ActiveState: "active" });
    expect((await machine.podman("install")).stdout).toMatch(/enabled {3}legerd\.socket\n$/);
    expect((await machine.podman("uninstall")).stdout).not.toContain("stopped");
    expect(systemctl.unit("legerd.socket")).toEqual({ ...disabled, ActiveState: "active" });
  });

  test.for<[string, object, RegExp]>([
    [
      "missing",
      { LoadState: "not-found", UnitFileState: "", ActiveState: "inactive" },
      /not-found.*\n.*install leger's package/,
    ],
    [
      "masked",
      { LoadState: "masked", UnitFileState: "masked", ActiveState: "inactive" },
      /masked.*\n.*systemctl --user unmask/,
    ],
  ])("a unit that is %s is told of", async ([, socket, about]) => {
    using machine = new Machine();
    const systemctl = withSystemd(machine, socket);
    const result = await machine.podman("install");
    expect(result).toMatchObject({ status: 0, stderr: expect.stringMatching(about) });
    expect(systemctl.calls().join("\n")).not.toContain("enable");
  });

  test("a legerd that somebody started keeps its socket", async () => {
    using machine = new Machine();
    const systemctl = withSystemd(machine, disabled);
    await using daemon = await startTestLegerd({}, { places: machine.places });
    const result = await machine.podman("install");
    expect(await daemon.client.list()).toEqual([]);
    expect(result.stderr).toContain("legerd runs already, but not by legerd.socket");
    expect(systemctl.calls()).toContain("--user --no-pager enable legerd.socket");
    expect(systemctl.unit("legerd.socket")).toEqual({ ...enabled, ActiveState: "inactive" });
  });

  test("when systemctl fails, that is the failure; what was done is said, and undone by uninstall", async () => {
    using machine = new Machine();
    const systemctl = withSystemd(machine, disabled);
    const before = machine.tree();
    systemctl.fail("enable", "Failed to enable unit: Access denied");
    const result = await machine.podman("install");
    expect(result).toMatchObject({
      status: 1,
      stdout: expect.stringContaining(`wrote     ${machine.dropIn}\n`),
    });
    expectSpoken(result, "systemctl --user enable --now legerd.socket: Failed to enable unit: Access denied");
    expect((await machine.podman("uninstall")).status).toBe(0);
    expect(machine.tree()).toEqual(before);
  });

  test("what systemd could not undo is kept in mind for the next uninstall", async () => {
    using machine = new Machine();
    const systemctl = withSystemd(machine, disabled);
    const before = machine.tree();
    await machine.podman("install");
    systemctl.fail("disable", "Failed to disable unit: Access denied");
    const failed = await machine.podman("uninstall");
    expect(failed.status).toBe(1);
    expectSpoken(failed, /systemctl --user disable legerd\.socket: Failed to disable/);
    expect(fs.existsSync(machine.dropIn)).toBe(false);
    systemctl.fail("disable", undefined);
    expect((await machine.podman("uninstall")).stdout).toContain("disabled  legerd.socket\n");
    expect(machine.tree()).toEqual(before);
  });
});

/** Podman as the machine's user has it; root is taken for him. */
async function podman(machine: Machine, ...args: string[]) {
  const store = path.join(machine.places.runtimeDir, "store");
  const own = [
    `--root=${store}/root`,
    `--runroot=${store}/run`,
    "--storage-driver=vfs",
    `--tmpdir=${store}/tmp`,
  ];
  const user =
    process.geteuid?.() === 0
      ? { _CONTAINERS_ROOTLESS_UID: "1000", _CONTAINERS_USERNS_CONFIGURED: "done" }
      : {};
  const result = await run("podman", [...own, ...args], {
    env: {
      PATH: process.env["PATH"],
      HOME: machine.home,
      XDG_RUNTIME_DIR: machine.places.runtimeDir,
      LEGER_SOCKET: machine.places.socket,
      ...user,
    },
    timeoutMs: 30_000,
  });
  return { ...result, stdout: Buffer.from(result.stdout).toString() };
}

/** What legerd says of podman's entries. */
async function linksOf({ client }: TestLegerd): Promise<string> {
  const { body } = await client.request({ method: "GET", path: "/v1/podman/list" });
  return Buffer.from(body).toString();
}

const podmanVersion = workingPodman();

describe.skipIf(podmanVersion === undefined)(`with ${podmanVersion ?? "podman (none that works)"}`, () => {
  test("a secret made by podman alone lies in legerd, and uninstall says that it goes on asking", async () => {
    using machine = new Machine();
    await using daemon = await startTestLegerd({}, { places: machine.places });
    await machine.podman("install");
    const file = path.join(machine.places.runtimeDir, "value");
    fs.writeFileSync(file, "a value of the user's own");
    const created = await podman(machine, "secret", "create", "mine", file);
    expect(created.status).toBe(0);
    expect(created.stderr).not.toContain("leger");
    expect(await linksOf(daemon)).toContain(created.stdout.trim());

    const store = path.join(machine.places.runtimeDir, "store");
    const args = [
      `--root=${store}/root`,
      `--runroot=${store}/run`,
      "--storage-driver=vfs",
      `--tmpdir=${store}/tmp`,
    ].map((arg) => `--podman-arg=${arg}`);
    const last = await machine.podman("uninstall", ...args);
    expect(last.stderr).toContain("1 secret in podman will go on asking leger: mine");
    // Once is enough.
    expect((await machine.podman("uninstall", ...args)).stderr).toBe(
      "leger: podman: nothing changed: there was nothing to take away\n",
    );
  });

  test("podman refuses the driver over the option that install names, and not otherwise", async () => {
    using machine = new Machine();
    await using daemon = await startTestLegerd({}, { places: machine.places });
    await machine.podman("install");
    const file = path.join(machine.places.runtimeDir, "value");
    fs.writeFileSync(file, "x");
    machine.write(`${machine.conf}/containers.conf`, '[Secrets.Opts]\nroot = "/x"\n');
    expect(await podman(machine, "secret", "create", "mine", file)).toMatchObject({
      status: 125,
      stderr: expect.stringContaining('invalid shell driver option: "root"'),
    });
    expectSpoken(await machine.podman("install"), /podman would not use leger/);
    fs.rmSync(`${machine.conf}/containers.conf`);
    const { status, stdout } = await podman(machine, "secret", "create", "mine", file);
    expect(status).toBe(0);
    expect(await linksOf(daemon)).toContain(stdout.trim());
  });
});
