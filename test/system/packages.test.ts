import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { rootOf } from "../../scripts/machine/root.ts";
import { run } from "../../src/core/exec.ts";
import { VERSION } from "../../src/core/version.ts";
import { bootMachine } from "./machine.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const DEB = process.env["LEGER_TEST_DEB"] ?? "";
/** Older than any release, and otherwise the same. */
const OLD = "0.0.9";
const RPM_ARCH = process.arch === "arm64" ? "aarch64" : "x86_64";
const RPM = path.join(ROOT, "dist", `leger-${VERSION}-1.${RPM_ARCH}.rpm`);
const MINUTES = 60_000;

const machine = await bootMachine();
const work = fs.mkdtempDisposableSync(path.join(tmpdir(), "leger-packages-"));
const inWork = (name: string): string => path.join(work.path, name);

beforeAll(async () => {
  await makePackages(inWork("old"), {});
  fs.copyFileSync(DEB, inWork("old/new.deb"));
  fs.renameSync(oldIn("old", "deb"), inWork("old/old.deb"));
}, 10 * MINUTES);
afterAll(() => work.remove());

/** The packages of an older version, from the same binaries. */
async function makePackages(out: string, env: Readonly<Record<string, string>>): Promise<void> {
  const script = path.join(ROOT, "scripts/package.ts");
  const args = ["--arch", process.arch, "--version", OLD, "--out", out];
  await run(process.execPath, [script, ...args], {
    env: { ...process.env, ...env },
    timeoutMs: 5 * MINUTES,
    check: true,
  });
}

function oldIn(directory: string, kind: "deb" | "rpm"): string {
  const arch = process.arch === "x64" ? "amd64" : process.arch;
  return inWork(
    `${directory}/${kind === "deb" ? `leger_${OLD}_${arch}.deb` : `leger-${OLD}-1.${RPM_ARCH}.rpm`}`,
  );
}

async function shell(
  script: string,
  ...args: readonly string[]
): Promise<{ status: number | null; said: string }> {
  const { status, stdout, stderr } = await run("sh", ["-c", script, "sh", ...args], {
    env: { PATH: process.env["PATH"], HOME: work.path, LC_ALL: "C.UTF-8" },
    cwd: work.path,
    timeoutMs: 5 * MINUTES,
  });
  return { status, said: `${Buffer.from(stdout).toString()}${stderr}` };
}

const isThere = async (program: string): Promise<boolean> =>
  (await shell('command -v "$1"', program)).status === 0;
const [hasRpm, hasLintian, hasRpmlint] = await Promise.all(["rpm", "lintian", "rpmlint"].map(isThere));
const hasRpmPackage = fs.existsSync(RPM);

// The packages themselves.

test(
  "made twice, elsewhere and by another user's settings, packages are the same bytes",
  async () => {
    await makePackages(inWork("again"), {
      TZ: "Asia/Tokyo",
      LANG: "C",
      HOME: inWork("again"),
      XDG_CACHE_HOME: cacheHome(),
    });
    expect(digest(oldIn("again", "deb"))).toBe(digest(inWork("old/old.deb")));
    expect(digest(oldIn("again", "rpm"))).toBe(digest(oldIn("old", "rpm")));
  },
  10 * MINUTES,
);

function digest(file: string): string {
  return createHash("sha256").update(fs.readFileSync(file)).digest("hex");
}

function cacheHome(): string {
  return process.env["XDG_CACHE_HOME"] ?? path.join(process.env["HOME"] ?? "/root", ".cache");
}

test("all that is in the package belongs to root, and nobody else may write to it", async () => {
  const { said } = await shell('dpkg-deb --contents "$1"', DEB);
  const lines = said.trimEnd().split("\n");
  expect(lines.length).toBeGreaterThan(50);
  expect(
    lines.filter((line) => !/^(?:[d-]r[w-][x-]r-[x-]r-[x-]|lrwxrwxrwx|l---------) root\/root /.test(line)),
  ).toEqual([]);
  for (const place of [
    "./usr/bin/leger",
    "./usr/bin/legerd -> ../libexec/leger/leger",
    "./usr/libexec/leger/leger",
    "./usr/lib/systemd/system/legerd.service",
    "./usr/lib/systemd/user/legerd.socket",
    "./usr/share/leger/containers.conf.d/50-leger.conf",
    "./usr/share/man/man1/leger.1.gz",
    "./usr/share/man/man5/legerd.json.5.gz",
    "./usr/share/man/man8/legerd.8.gz",
    "./usr/share/bash-completion/completions/leger",
    "./usr/share/doc/leger/copyright",
    "./usr/share/doc/leger/changelog.gz",
  ]) {
    expect(said).toContain(` ${place}\n`);
  }
  expect(said).not.toContain("./etc/");
});

test.skipIf(!hasRpm || !hasRpmPackage)(
  "the .rpm holds what the .deb does (where there are rpm and one)",
  async () => {
    const deb = await shell(
      `dpkg-deb --fsys-tarfile "$1" | tar -t | sed -n 's,^\\./,/,p' | grep -v '/$' | sort`,
      DEB,
    );
    // Directories are listed by rpm only where they are leger's own.
    const rpm = await shell("rpm -qlpv \"$1\" | awk '!/^d/ { print $9 }' | sort", RPM);
    // Each has its own place for licences, the changelog and zsh.
    const elsewhere =
      /\/(?:doc\/leger\/(?:copyright|changelog|CHANGELOG|licenses)|licenses\/|lintian\/|zsh\/)/;
    const rest = (text: string): string[] =>
      text
        .trimEnd()
        .split("\n")
        .filter((file) => !elsewhere.test(file));
    expect(rest(rpm.said)).toEqual(rest(deb.said));
    expect(rpm.said).toContain("/usr/share/licenses/leger/LICENSE\n");
  },
);

test.skipIf(!hasLintian)(
  "lintian has nothing to say of the .deb (where there is lintian)",
  async () => {
    const { status, said } = await shell(
      'lintian --fail-on error,warning,info --tag-display-limit 0 "$1"',
      DEB,
    );
    expect(said.replaceAll(/^(?:warning: )?running with root privileges.*\n/gm, "")).toBe("");
    expect(status).toBe(0);
  },
  10 * MINUTES,
);

test.skipIf(!hasRpmlint || !hasRpmPackage)(
  "rpmlint has nothing to say of the .rpm (where there are rpmlint and one)",
  async () => {
    const { said } = await shell('rpmlint -r "$1" "$2"', path.join(ROOT, "packaging/rpmlintrc"), RPM);
    expect(said).toContain("0 errors, 0 warnings");
  },
  10 * MINUTES,
);

// In a root of Debian where no systemd runs.

/** What happens to a Debian that gets the package and loses it again; sections begin with "== ". */
const LIFE = String.raw`
  listing() {
    find / -xdev \( -path /mnt -o -path /proc -o -path /dev -o -path /sys -o -path /run -o -path /tmp -o -path /var/log \
      -o -path /var/cache -o -path /var/lib/dpkg -o -path /root \) -prune -o -print | sort
  }
  with_legerd() {
    legerd 2>/tmp/said & pid=$!
    timeout 60 sh -c 'until grep -q "legerd: ready" /tmp/said; do sleep 0.1; done'
    "$@"
    kill $pid; wait $pid
  }
  mkdir -p /etc/leger /etc/containers/containers.conf.d /home/alice/.local/state/legerd
  echo '{ "cache_entries": 7 }' >/etc/leger/legerd.json
  echo hers >/home/alice/.local/state/legerd/secrets.db
  listing >/tmp/before
  echo "== install"; dpkg --install /mnt/old.deb 2>&1
  printf 'the value' >/tmp/value
  with_legerd leger secrets set k1 --file /tmp/value 2>&1
  leger podman install 2>&1
  echo "== upgrade"; dpkg --install /mnt/new.deb 2>&1
  with_legerd leger secrets get k1; echo
  echo "== remove"; dpkg --remove leger 2>&1
  ls /var/lib/leger
  rm /etc/containers/containers.conf.d/50-leger.conf
  ls /usr/bin/leger* /var/lib/legerd/keys 2>&1 || true
  echo "== again"; dpkg --install /mnt/new.deb 2>&1
  with_legerd leger secrets get k1; echo
  echo "== purge"; dpkg --purge leger 2>&1
  ls -d /var/lib/legerd 2>&1 || true
  cat /etc/leger/legerd.json /home/alice/.local/state/legerd/secrets.db
  echo "== left"; listing | diff /tmp/before - || true
`;

const CHROOT = String.raw`
  set -eu
  root=$1 work=$2 packages=$3 script=$4
  mkdir -p "$work"
  mount -t tmpfs -o size=3g,mode=755 tmpfs "$work"
  mkdir "$work/upper" "$work/work" "$work/root"
  mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/work" "$work/root"
  mount -t proc proc "$work/root/proc"
  mount --bind /dev "$work/root/dev"
  mount --bind "$packages" "$work/root/mnt"
  exec chroot "$work/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive sh -eu -c "$script"
`;

test.for(["bookworm", "trixie"] as const)(
  "in a root of Debian %s, secrets outlive upgrade and removal, and a purge deletes the system's alone",
  { timeout: 10 * MINUTES },
  async (release) => {
    const args = [
      "--mount",
      "--propagation",
      "private",
      "--pid",
      "--fork",
      "--kill-child",
      "sh",
      "-c",
      CHROOT,
      "sh",
    ];
    const { status, stdout, stderr } = await run(
      "unshare",
      [...args, await rootOf(release), inWork(release), inWork("old"), LIFE],
      { env: { PATH: process.env["PATH"] }, timeoutMs: 5 * MINUTES },
    );
    const said = Buffer.from(stdout).toString();
    expect({ status, stderr }, said).toEqual({ status: 0, stderr: "" });
    const sections = new Map(
      said
        .split(/^== /m)
        .slice(1)
        .map((text) => [text.slice(0, text.indexOf("\n")), text.slice(text.indexOf("\n") + 1)] as const),
    );
    expect(sections.get("install")).toContain(`Setting up leger (${OLD})`);
    expect(sections.get("upgrade")).toMatch(/\nthe value\n$/);
    expect(sections.get("remove")).toMatch(/\/50-leger.conf still makes leger Podman's secret driver/);
    expect(sections.get("remove")).toMatch(/\/var\/lib\/legerd stays/);
    expect(sections.get("remove")).toMatch(/cannot access '\/usr\/bin\/leger\*'[^]*main\.key\n$/);
    expect(sections.get("again")).toMatch(/\nthe value\n$/);
    expect(sections.get("purge")).toContain("leger: deleting /var/lib/legerd: ");
    expect(sections.get("remove")).toContain("\npodman-install.json\n");
    expect(sections.get("purge")).toContain("leger: deleting /var/lib/leger/podman-install.json: ");
    expect(sections.get("purge")).toContain("leger: left as they are: /etc/leger, ");
    expect(sections.get("purge")).toMatch(
      /cannot access '\/var\/lib\/legerd'[^]*\n\{ "cache_entries": 7 \}\nhers\n$/,
    );
    expect(sections.get("left")).toBe("");
  },
);

test.skipIf(!hasRpm || !hasRpmPackage)(
  "the .rpm goes into an empty root, is upgraded, and leaves secrets there (where there are rpm and one)",
  async () => {
    const root = inWork("empty");
    fs.mkdirSync(path.join(root, "usr/bin"), { recursive: true });
    fs.mkdirSync(path.join(root, "dev"));
    // All that its scripts take; there is no other program in that root.
    fs.copyFileSync(path.join(await rootOf("trixie"), "usr/bin/busybox"), path.join(root, "usr/bin/busybox"));
    await shell(
      `cd "$1" && ln -s usr/bin bin && for name in sh grep find rm sed timeout; do ln -s busybox "usr/bin/$name"; done`,
      root,
    );
    const rpm = async (script: string): Promise<{ status: number | null; said: string }> => {
      const set = 'set -e; root=$1 old=$2 new=$3; rpm() { command rpm --root "$root" "$@"; };';
      const { status, said } = await shell(`${set} ${script}`, root, oldIn("old", "rpm"), RPM);
      // Debian's advice to people who are on Debian.
      return { status, said: said.replaceAll(/^rpm: .*\n/gm, "") };
    };
    expect(await rpm('rpm --nodeps -i "$old"; rpm -q leger')).toEqual({
      status: 0,
      said: `leger-${OLD}-1.${RPM_ARCH}\n`,
    });
    fs.mkdirSync(path.join(root, "var/lib/legerd"), { recursive: true });
    fs.writeFileSync(path.join(root, "var/lib/legerd/secrets.db"), "kept");
    expect(await rpm('rpm --nodeps -U "$new"; rpm -q leger; rpm -V --nodeps leger')).toEqual({
      status: 0,
      said: `leger-${VERSION}-1.${RPM_ARCH}\n`,
    });
    const removed = await rpm("rpm -e leger");
    expect(removed.status).toBe(0);
    expect(removed.said).toContain("/var/lib/legerd stays");
    expect(fs.readFileSync(path.join(root, "var/lib/legerd/secrets.db"), "utf8")).toBe("kept");
    const left = await shell(`find "$1/usr" -iname '*leger*'`, root);
    expect(left.said).toBe("");
  },
  5 * MINUTES,
);

// On a machine where it runs.

const ENTRY = "0123456789abcdef012345678";
const WORKER = `[Unit]
StartLimitIntervalSec=0
[Service]
Type=oneshot
Environment=SECRET_ID=${ENTRY}
ExecStartPre=/usr/bin/leger secrets fetch web --dir %t/leger/env/%i
ExecStart=/bin/grep -qx 'K1=the value' %t/leger/env/%i/web.env
ExecStart=/bin/sh -c 'test "$$(/usr/bin/leger driver lookup)" = "the value"'
`;
const LOAD = `for unit in $(seq 20); do
  ( until [ -e stop ]; do
      if systemctl --user start "worker@$unit"; then echo "$unit" >>started; else echo "$unit" >>lost; fi
    done ) &
done
wait`;

const show = async (account: "root" | "user", unit: string, property: string): Promise<string> => {
  const manager = account === "user" ? "--user" : "--system";
  const { stdout } = await machine.run(account, [
    "systemctl",
    manager,
    "show",
    "--value",
    `--property=${property}`,
    unit,
  ]);
  return stdout.trim();
};

test(
  "an upgrade while 20 units start loses none: legerd is the new one, and its socket never closed",
  async () => {
    await machine.install(inWork("old/old.deb"));
    await machine.user("systemctl --user enable --now legerd.socket");
    await machine.user("printf 'the value' | leger secrets set k1; leger services set web k1");
    await machine.user(`printf leger-ref:v1:leger/local/k1 | SECRET_ID=${ENTRY} leger driver store`);
    await machine.write("user", "/home/alice/.config/systemd/user/worker@.service", WORKER);
    await machine.user(
      "systemctl --user daemon-reload; for unit in $(seq 20); do mkdir -p -m 700 $XDG_RUNTIME_DIR/leger/env/$unit; done",
    );
    const before = await show("user", "legerd.service", "MainPID");
    const socket = await show("user", "legerd.socket", "InvocationID");
    const starts = async (): Promise<number> =>
      Number((await machine.user("cat started 2>/dev/null | wc -l")).stdout);

    const load = machine.user(LOAD, { timeoutMs: 3 * MINUTES });
    await machine.waitFor("each unit has been started", async () => (await starts()) >= 20);
    await machine.install(inWork("old/new.deb"));
    const upgraded = await starts();
    await machine.waitFor("each unit has been started again", async () => (await starts()) >= upgraded + 20);
    await machine.user("touch stop");
    await load;

    expect(
      (
        await machine.user("cat lost 2>/dev/null; systemctl --user --failed --plain --no-legend", {
          mayFail: true,
        })
      ).stdout,
    ).toBe("");
    expect(before).toMatch(/^[1-9]\d*$/);
    expect(await show("user", "legerd.service", "MainPID")).toMatch(/^[1-9]\d*$/);
    expect(await show("user", "legerd.service", "MainPID")).not.toBe(before);
    expect(await show("user", "legerd.socket", "InvocationID")).toBe(socket);
    // The system's was not asked for, and is not started by the way.
    expect(await show("root", "legerd.socket", "ActiveState")).toBe("inactive");
  },
  6 * MINUTES,
);

test(
  "the system's legerd is renewed by an upgrade, too, and keeps what it has",
  async () => {
    await machine.root("systemctl enable --now legerd.socket; printf roots | leger secrets set k2");
    const before = await show("root", "legerd.service", "MainPID");
    await machine.install(inWork("old/new.deb"));
    expect(await show("root", "legerd.service", "ActiveState")).toBe("active");
    expect(await show("root", "legerd.service", "MainPID")).not.toBe(before);
    expect((await machine.root("leger secrets get k2")).stdout).toBe("roots");
  },
  3 * MINUTES,
);

test(
  "an installation by which nothing may be started starts nothing (policy-rc.d)",
  async () => {
    await machine.write("root", "/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", { mode: "755" });
    const before = await show("root", "legerd.service", "MainPID");
    await machine.install(inWork("old/new.deb"));
    expect(await show("root", "legerd.service", "MainPID")).toBe(before);
    await machine.root("rm /usr/sbin/policy-rc.d");
  },
  3 * MINUTES,
);

test(
  "a removal stops legerd for everybody; put back, it serves again where it was enabled",
  async () => {
    await machine.root("dpkg --remove leger");
    for (const account of ["root", "user"] as const) {
      expect(await show(account, "legerd.service", "ActiveState")).toBe("inactive");
      expect(await show(account, "legerd.socket", "ActiveState")).toBe("inactive");
    }
    expect((await machine.root("pgrep -c legerd", { mayFail: true })).stdout).toBe("0\n");
    await machine.install(inWork("old/new.deb"));
    expect((await machine.user("leger secrets get k1")).stdout).toBe("the value");
    expect((await machine.root("leger secrets get k2")).stdout).toBe("roots");
  },
  3 * MINUTES,
);

test(
  "a purge deletes the system's secrets, says so, and leaves alice's",
  async () => {
    const { stderr, stdout } = await machine.root("dpkg --purge leger");
    expect(`${stdout}${stderr}`).toContain("leger: deleting /var/lib/legerd: ");
    expect((await machine.root("ls -d /var/lib/legerd", { mayFail: true })).status).not.toBe(0);
    expect((await machine.root("find /etc/systemd -name 'legerd*'")).stdout).toBe("");
    expect((await machine.user("ls .local/state/legerd")).stdout).toContain("secrets.db\n");
    await machine.install(inWork("old/new.deb"));
    expect((await machine.user("leger secrets get k1")).stdout).toBe("the value");
    expect((await machine.root("systemctl is-enabled legerd.socket", { mayFail: true })).stdout).toBe(
      "disabled\n",
    );
  },
  3 * MINUTES,
);
