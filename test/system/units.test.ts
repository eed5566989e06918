import { describe, expect, test, type TestContext } from "vitest";
import { bootMachine, type Account, type Command, type CommandOptions } from "./machine.ts";

const machine = await bootMachine();
await machine.install();

/** Numbers of system calls for which there is no program to call them with. */
const CALLS = {
  x64: {
    clock_settime: 227,
    finit_module: 313,
    io_uring_setup: 425,
    keyctl: 250,
    mlock: 149,
    personality: 135,
    process_vm_readv: 310,
    ptrace: 101,
    setuid: 105,
    userfaultfd: 323,
  },
  arm64: {
    clock_settime: 112,
    finit_module: 273,
    io_uring_setup: 425,
    keyctl: 219,
    mlock: 228,
    personality: 92,
    process_vm_readv: 270,
    ptrace: 117,
    setuid: 146,
    userfaultfd: 282,
  },
}[process.arch === "arm64" ? "arm64" : "x64"];

const UID = { root: 0, user: 1000 } as const satisfies Record<Account, number>;

/** What an account can do outside of legerd's unit and, unless told otherwise, not as legerd in it. */
type Deed = {
  what: string;
  /** Its last command ends with 0 where it can be done. $UID is the account's. */
  script: string;
  /** Only for one of the accounts: the other couldn't do it in the first place, or may. */
  only?: Account;
  /** Why it may be impossible in any case. */
  unless?: string;
  /** Takes a mount namespace, which a user's unit doesn't always get. */
  mounts?: true;
};

const connect = (path: string): string =>
  `perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0) && connect(S,pack_sockaddr_un("${path}")) or exit 1'`;
const open = (family: string, type = "SOCK_STREAM"): string =>
  `perl -MSocket -e 'socket(S,${family},${type},0) or exit 1'`;
/** Any answer will do but that it is forbidden. */
const call = (name: keyof typeof CALLS, args = ""): string =>
  `perl -MErrno=EPERM -e 'exit(syscall(${CALLS[name]}${args}) == -1 && $! == EPERM)'`;
const write = (directory: string): string => `touch "${directory}/probe" && rm "${directory}/probe"`;

const DEEDS: readonly Deed[] = [
  { what: "write to /usr", script: write("/usr"), only: "root", mounts: true },
  { what: "write to /etc", script: write("/etc"), only: "root", mounts: true },
  { what: "write to /var/lib", script: write("/var/lib"), only: "root", mounts: true },
  { what: "write to what is its own elsewhere", script: write("/srv/own"), mounts: true },
  { what: "write to /run", script: write("/run"), only: "root", mounts: true },
  { what: "write to /run/lock", script: write("/run/lock"), mounts: true },
  { what: "write to /dev/shm", script: write("/dev/shm"), mounts: true },
  { what: "write to its runtime directory", script: write("/run/user/1000"), only: "user", mounts: true },
  { what: "write to its home", script: write("$HOME"), mounts: true },
  { what: "see users' homes", script: "ls /home/alice", only: "root", mounts: true },
  { what: "see the files of others in /tmp", script: "test -e /tmp/somebodys", mounts: true },
  { what: "read passwords' hashes", script: "head -c1 /etc/shadow", only: "root", mounts: true },
  {
    what: "write to control groups",
    script: 'mkdir "$CGROUPS/probe" && rmdir "$CGROUPS/probe"',
    mounts: true,
  },
  { what: "reach the system's bus", script: connect("/run/dbus/system_bus_socket"), mounts: true },
  { what: "reach systemd", script: connect("/run/systemd/private"), only: "root", mounts: true },
  { what: "reach its own bus", script: connect("/run/user/1000/bus"), only: "user", mounts: true },
  {
    what: "reach its own systemd",
    script: connect("/run/user/1000/systemd/private"),
    only: "user",
    mounts: true,
  },
  { what: "open a device", script: "exec 3<>/dev/snd/seq", mounts: true },
  { what: "see other processes", script: "test -e /proc/1/stat", only: "root", mounts: true },
  {
    what: "see the kernel's settings",
    script: "test -e /proc/sys/kernel/core_pattern",
    only: "root",
    mounts: true,
  },
  { what: "open a socket to the network", script: open("AF_INET") },
  { what: "open an IPv6 socket", script: open("AF_INET6") },
  { what: "open a netlink socket", script: open("16", "SOCK_RAW") },
  { what: "open a packet socket", script: open("17", "SOCK_RAW"), only: "root" },
  { what: "make a user namespace", script: "unshare --user true" },
  { what: "make a mount namespace", script: "unshare --mount true", only: "root" },
  {
    what: "see the shared memory of others",
    script: "perl -e 'defined(shmget(4711, 64, 0)) or exit 1'",
    only: "root",
  },
  { what: "read the kernel's log", script: "dmesg", only: "root" },
  { what: "load a module into the kernel", script: call("finit_module", ", -1, 0, 0"), only: "root" },
  { what: "set the clock", script: call("clock_settime", ", 0, 0"), only: "root" },
  { what: "mount", script: "mount -t tmpfs none /mnt && umount /mnt", only: "root" },
  { what: "change its root", script: "chroot / true", only: "root" },
  { what: "make a device node", script: "mknod $PRIVATE/zero c 1 5 && rm $PRIVATE/zero", only: "root" },
  { what: "become another user", script: "setpriv --reuid=1000 true", only: "root" },
  {
    what: "give a file away",
    script: "touch $PRIVATE/f && chown 1000 $PRIVATE/f && rm $PRIVATE/f",
    only: "root",
  },
  { what: "read what others may not", script: "cat /srv/alices", only: "root" },
  { what: "make a file set-user-id", script: "touch $PRIVATE/f && chmod u+s $PRIVATE/f && rm $PRIVATE/f" },
  {
    what: "gain privileges by executing",
    script: "test $(setpriv --dump | sed -n 's/^no_new_privs: //p') = 0",
  },
  { what: "change the host's name", script: 'hostname "$(hostname)"', only: "root" },
  { what: "change its priority", script: "perl -e 'setpriority(0, 0, 1) or exit 1'" },
  { what: "run in real time", script: "chrt --rr 1 true", only: "root" },
  { what: "choose its processors", script: "taskset 1 true" },
  { what: "lock memory", script: call("mlock", ", 0, 0") },
  { what: "use keyrings", script: call("keyctl", ", 0, -3, 0") },
  { what: "use io_uring", script: call("io_uring_setup", ", 0, 0") },
  { what: "trace", script: call("ptrace", ", 0, 0, 0, 0") },
  { what: "read other programs' memory", script: call("process_vm_readv", ", $$+0, 0, 0, 0, 0, 0") },
  { what: "change its personality", script: call("personality", ", 0x0040000") },
  { what: "set its user id", script: call("setuid", ", $<+0") },
  { what: "run a 32-bit program", script: "/usr/local/bin/i386", unless: "this kernel runs none" },
  { what: "handle its page faults", script: call("userfaultfd", ", 1") },
];

/** And what legerd does need. */
const NEEDS: readonly Deed[] = [
  { what: "write to its state", script: write("$STATE") },
  { what: "write to its part of the runtime directory", script: write("$RUNTIME/leger") },
  { what: "write to a /tmp of its own", script: write("/tmp") },
  { what: "open a unix socket", script: open("AF_UNIX") },
  // The last: with that, the unit has started, and is stopped.
  { what: "tell systemd that it is ready", script: "systemd-notify --ready" },
];

const NONE = "0000000000000000";
const CANARY = "canary-in-legerds-memory";

const PLACES = {
  root: {
    STATE: "/var/lib/legerd",
    RUNTIME: "/run",
    units: "/etc/systemd/system",
    shipped: "/usr/lib/systemd/system",
    CGROUPS: "/sys/fs/cgroup/system.slice",
    systemctl: "systemctl",
  },
  user: {
    STATE: "/home/alice/.local/state/legerd",
    RUNTIME: "/run/user/1000",
    units: "/home/alice/.config/systemd/user",
    shipped: "/usr/lib/systemd/user",
    CGROUPS: "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice",
    systemctl: "systemctl --user",
  },
} as const satisfies Record<Account, object>;

await machine.user("touch /tmp/somebodys");
// Any device will do, at a place where a user would have one.
await machine.root("mkdir -p /dev/snd && mknod --mode=666 /dev/snd/seq c 1 3");
await machine.write("root", "/usr/local/bin/i386", i386Program(), { mode: "755" });
await machine.root("mkdir --mode=1777 /srv/own && perl -e 'defined(shmget(4711, 64, 01666)) or exit 1'");
await machine.root("echo hers >/srv/alices; chown alice /srv/alices; chmod 600 /srv/alices");

describe.for(["root", "user"] as const)("%s's legerd", async (account) => {
  const { systemctl, units, shipped, STATE, RUNTIME, CGROUPS } = PLACES[account];
  const run = (command: Command, options: CommandOptions = {}) => machine.run(account, command, options);
  const text = async (script: string): Promise<string> => (await run(script)).stdout.trim();
  const property = (name: string): Promise<string> =>
    text(`${systemctl} show --property=${name} --value legerd.service`);

  await run(`${systemctl} enable --quiet --now legerd.socket && ${systemctl} start legerd.service`);

  /** The shipped unit, with another program in legerd's place. */
  const asLegerd = async (script: string): Promise<string> => {
    const program = `/usr/local/lib/probe-${account}.sh`;
    const unit = Buffer.from(await machine.read(`${shipped}/legerd.service`))
      .toString()
      .replace(/^ExecStart=.*$/m, `ExecStart=/bin/sh ${program}\nStandardOutput=truncate:${STATE}/said`)
      .replace(/^(Restart|Requires|Also|WantedBy).*$/gm, "");
    await machine.write("root", program, script);
    await machine.write(account, `${units}/probe.service`, unit);
    await run(`${systemctl} daemon-reload; ${systemctl} reset-failed probe.service; true`);
    // It ends without having told that it is ready, unless that is what it was to do.
    await run(`${systemctl} start probe.service`, { mayFail: true });
    await run(`${systemctl} stop probe.service`, { mayFail: true });
    return Buffer.from(await machine.read(`${STATE}/said`)).toString();
  };

  /** Which of these an account can do; run in one go, since each is a process or two. */
  const batch = (deeds: readonly Deed[]): string =>
    [
      `export UID=${UID[account]} STATE=${STATE} RUNTIME=${RUNTIME} CGROUPS=${CGROUPS}`,
      `export HOME=${account === "root" ? "/root" : "/home/alice"}`,
      // A directory that both can write to, inside the unit and outside of it.
      `export PRIVATE=${STATE}`,
      ...deeds.map(({ script }, at) => `(\n${script}\n) >/dev/null 2>&1; echo "${at} $?"`),
      "",
    ].join("\n");

  const deeds = DEEDS.filter(({ only }) => only === undefined || only === account);
  const outside = verdicts(await text(batch(deeds)));
  const inside = verdicts(await asLegerd(batch(deeds)));
  const needs = verdicts(await asLegerd(batch(NEEDS)));

  /** systemd 252 gives a user's unit no mount namespace. */
  const unlessBare = ({ skip }: TestContext, mounts: boolean | undefined): void => {
    skip(
      mounts === true && account === "user" && machine.release === "bookworm",
      "systemd 252 gives a user's unit no view of its own on files",
    );
  };

  test.for(deeds.map((deed, at) => ({ ...deed, at })))("cannot $what", ({ at, mounts, unless }, context) => {
    unlessBare(context, mounts);
    context.skip(unless !== undefined && outside.get(at) === false, unless);
    // Else it would prove nothing that legerd can't.
    expect(outside.get(at), `${account}, outside of the unit`).toBe(true);
    expect(inside.get(at), "as legerd").toBe(false);
  });

  test.for(NEEDS.map((deed, at) => ({ ...deed, at })))("can $what", ({ at }) => {
    expect(needs.get(at)).toBe(true);
  });

  test("its process has no capability, gains no privileges, is filtered, and leaves nothing open to others", async () => {
    const status = await text(`cat /proc/${await property("MainPID")}/status`);
    const line = (key: string): string => new RegExp(`^${key}:\\s*(.*)$`, "m").exec(status)?.[1] ?? "";
    expect([line("CapEff"), line("CapPrm"), line("CapInh"), line("CapAmb")]).toEqual(Array(4).fill(NONE));
    if (account === "root") expect(line("CapBnd")).toBe(NONE);
    expect([line("NoNewPrivs"), line("Seccomp"), line("Umask")]).toEqual(["1", "2", "0077"]);
  });

  test("none of its memory is swapped out", async ({ skip }) => {
    const group = `/sys/fs/cgroup${await text(`sed -n 's/^0:://p' /proc/${await property("MainPID")}/cgroup`)}`;
    const { status } = await run(`grep -qw memory ${group}/cgroup.controllers`, { mayFail: true });
    skip(status !== 0, "this machine's kernel has its memory controller in the old hierarchy");
    expect(await text(`cat ${group}/memory.swap.max`)).toBe("0");
  });

  test("a crash leaves no core, and one that a program would be given holds no value", async ({ skip }) => {
    const pattern = await text("cat /proc/sys/kernel/core_pattern");
    skip(/[|/]/.test(pattern), `cores don't go to the working directory here, but to ${pattern}`);
    await run(["leger", "secrets", "set", "canary"], { stdin: CANARY });
    /** How many cores it leaves with these lines in its unit, and how many lines of them hold the value. */
    const crash = async (...lines: readonly string[]): Promise<{ cores: number; found: number }> => {
      const drop = ["[Service]", "Restart=no", `WorkingDirectory=${STATE}`, ...lines, ""].join("\n");
      await machine.write(account, `${units}/legerd.service.d/crash.conf`, drop);
      await run(`${systemctl} daemon-reload && ${systemctl} restart legerd.service`);
      // Now it is in memory.
      expect(await text("leger secrets get canary")).toBe(CANARY);
      await run(`${systemctl} kill --signal=SEGV legerd.service`);
      await machine.until(account, `${systemctl} is-failed --quiet legerd.service`);
      const counted = await text(
        `cd ${STATE}; ls core* | wc -l; cat core* | grep --count --text ${CANARY}; rm -f core*`,
      );
      const [cores, found] = counted.split("\n").map(Number);
      return { cores: cores ?? -1, found: found ?? -1 };
    };
    try {
      const lifted = await crash("LimitCORE=infinity", "CoredumpFilter=default");
      expect(lifted).toMatchObject({ cores: 1 });
      expect(lifted.found).toBeGreaterThan(0);
      // To a program that takes cores the kernel gives them whatever the limit is.
      expect(await crash("LimitCORE=infinity")).toEqual({ cores: 1, found: 0 });
      expect(await crash()).toEqual({ cores: 0, found: 0 });
    } finally {
      await run(
        `rm -r ${units}/legerd.service.d; ${systemctl} daemon-reload; ${systemctl} restart legerd.service`,
      );
    }
  });

  test("systemd finds nothing wrong with the units", async () => {
    const files = `${shipped}/legerd.service ${shipped}/legerd.socket`;
    const verify = `systemd-analyze ${systemctl.replace("systemctl", "")} verify --man=no ${files} 2>&1`;
    expect(await text(verify)).toBe("");
  });
});

test("systemd gives the system's unit an exposure of at most 2.0", async () => {
  const { stdout } = await machine.root("systemd-analyze --no-pager security legerd.service");
  const exposure = /^→ Overall exposure level for legerd\.service: ([\d.]+) /m.exec(stdout)?.[1];
  expect(Number(exposure)).toBeLessThanOrEqual(2);
});

/** What came of each of a batch, by its place in it. */
function verdicts(said: string): Map<number, boolean> {
  return new Map([...said.matchAll(/^(\d+) (\d+)$/gm)].map(([, at, status]) => [Number(at), status === "0"]));
}

/** A program for Linux on i386 that ends with 0: an ELF header, one segment, and the system call exit. */
function i386Program(): Buffer {
  const base = 0x0804_8000;
  const code = Buffer.from("b80100000031dbcd80", "hex");
  const header = Buffer.alloc(84);
  header.write("7f454c46010101", "hex");
  header.writeUInt16LE(2, 16); // ET_EXEC
  header.writeUInt16LE(3, 18); // EM_386
  header.writeUInt32LE(1, 20);
  header.writeUInt32LE(base + header.length, 24); // where it begins
  header.writeUInt32LE(52, 28); // where the table of segments is
  header.writeUInt16LE(52, 40);
  header.writeUInt16LE(32, 42);
  header.writeUInt16LE(1, 44);
  header.writeUInt32LE(1, 52); // PT_LOAD
  header.writeUInt32LE(base, 60);
  header.writeUInt32LE(base, 64);
  header.writeUInt32LE(header.length + code.length, 68);
  header.writeUInt32LE(header.length + code.length, 72);
  header.writeUInt32LE(5, 76); // readable, executable
  header.writeUInt32LE(0x1000, 80);
  return Buffer.concat([header, code]);
}
