/** disk — rows of a disk that is full, or may not be written to any more: a file system of its own, in a file. */
import { execFileSync, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import path from "node:path";
import { INSIDE, isRoot, must, pause, until, type Ground, type Legerd, type Row } from "./ground.ts";

const DISK_BYTES = 48 * 1024 * 1024;
/** How long the disk is full. */
const FULL_MS = Number(process.env["LEGER_LIMITS_FULL_MS"] ?? 5_000);

function missing(): string | undefined {
  if (!isRoot()) return "root is needed, to mount a file system";
  if (process.env[INSIDE] !== "1") return "a mount namespace is not to be had here";
  if (spawnSync("mkfs.ext4", ["-V"]).status !== 0) return "there is no mkfs.ext4 (e2fsprogs)";
  return spawnSync("losetup", ["-f"]).status === 0 ? undefined : "there are no loop devices here";
}

type Disk = { device: string; mountPoint: string; image: string; stateDir: string };

function makeDisk(ground: Ground): Disk {
  const image = path.join(ground.base, "disk.img");
  const mountPoint = path.join(ground.base, "disk");
  fs.writeFileSync(image, "");
  fs.truncateSync(image, DISK_BYTES);
  execFileSync("mkfs.ext4", ["-q", image]);
  fs.mkdirSync(mountPoint);
  const disk = { image, mountPoint, stateDir: path.join(mountPoint, "state") };
  ground.atEnd(() => unmount(mountPoint));
  return { ...disk, device: mount(disk, "rw") };
}

function mount({ image, mountPoint }: Omit<Disk, "device">, how: "rw" | "ro"): string {
  execFileSync("mount", ["-o", `loop,errors=remount-ro,${how}`, image, mountPoint]);
  return execFileSync("findmnt", ["-n", "-o", "SOURCE", mountPoint], { encoding: "utf8" }).trim();
}

function unmount(mountPoint: string): void {
  const isMounted = fs.readFileSync("/proc/mounts", "utf8").includes(` ${mountPoint} `);
  if (isMounted) execFileSync("umount", [mountPoint]);
}

async function verifyAudit(daemon: Legerd, wanted = /"ok":true/): Promise<void> {
  const { text } = await daemon.ask("GET", "/v1/audit/verify");
  must("the audit log", text, wanted);
}

/** What the file system had not written yet is gone, as after a power cut: lines that no change waited for. */
const WHOLE_OR_CUT =
  /"ok":true|"problems":\["[^"]*: (?:lines? \d+ (?:to \d+ )?(?:is|are) missing[^"]*|it ends [^"]*)"\]/;

/** As many puts find out that the disk has no room. */
const MOST_PUTS = 2_000;

/** How long repeats of a read are counted and not written, less some seconds. */
const REPEATS_MS = 50_000;

export const diskFull: Row = {
  name: "disk-full",
  what: "the disk full for a while, then free again",
  missing,
  async run(ground) {
    const { mountPoint, stateDir } = makeDisk(ground);
    const daemon = await ground.start({ stateDir });
    for (const name of ["a", "b"]) must("put", await daemon.put(name, "v1"), "200 1");
    must("get", await daemon.get("a"), "200 v1");
    const filler = path.join(mountPoint, "filler");
    fillUp(filler);
    const full = { puts: 0, reads: 0 };
    let version = 1;
    let asked = 0;
    const end = performance.now() + FULL_MS;
    while (performance.now() < end) {
      // Whatever else is written meanwhile may have left some room.
      fillUp(filler);
      const told = await daemon.put("a", `x${full.puts}`.repeat(1_000));
      if (told.startsWith("200 ")) version = Number(told.slice(4));
      else {
        must("put", told, "500 internal error");
        full.puts += 1;
      }
      const other = await daemon.get(`never-read-${asked}`);
      asked += 1;
      must("a read that was never noted", other, /^(?:500 internal error|404 not found)$/);
      if (other.startsWith("500")) full.reads += 1;
      // Its line was written before; after a minute the next one is due.
      const isRepeat = performance.now() < end - FULL_MS + REPEATS_MS;
      must(
        "a read that is a repeat",
        await daemon.get("a"),
        isRepeat ? "200 v1" : /^(?:200 v1|500 internal error)$/,
      );
      must("health", (await daemon.ask("GET", "/health")).status, 200);
      await pause(100);
    }
    must("puts refused", full.puts > 0, true);
    must("reads refused", full.reads > 0, true);
    must("journal", daemon.said(), /write audit log .*: the disk is full/);
    fs.rmSync(filler);
    await until("a put works again", 5_000, async () => (await daemon.put("b", "v2")) === "200 2");
    must("a read", await daemon.get("b"), "200 v1");
    must("a put", await daemon.put("a", "last"), `200 ${version + 1}`);
    await verifyAudit(daemon);
    await daemon.stop();
    const again = await ground.start({ stateDir });
    must("what was acknowledged", await again.put("a", "last"), `200 ${version + 1}`);
    await verifyAudit(again);
    return {
      served:
        "reads whose line in the audit log has been written within the minute; /health, the status, /metrics",
      refused: `all changes and reads that the audit log has no room for: 500 internal error (${full.puts} puts, ${full.reads} reads); the journal: "the disk is full", what to do`,
      recovers: "with the first byte of room, without a restart; the audit log verifies",
    };
  },
};

function fillUp(file: string): void {
  const fd = fs.openSync(file, "a");
  try {
    for (const size of [1024 * 1024, 4096, 1]) {
      const bytes = Buffer.alloc(size, "x");
      try {
        for (;;) fs.writeSync(fd, bytes);
      } catch {
        // As full as it gets by pieces of this size.
      }
    }
    fs.fsyncSync(fd);
  } catch {
    // Full it is.
  } finally {
    fs.closeSync(fd);
  }
}

export const readOnly: Row = {
  name: "read-only",
  what: "the kernel makes the file system read-only, after an error; it is repaired and mounted anew",
  missing,
  async run(ground) {
    const disk = makeDisk(ground);
    const { stateDir } = disk;
    const daemon = await ground.start({ stateDir });
    for (const name of ["a", "b"]) must("put", await daemon.put(name, "v1"), "200 1");
    must("get", await daemon.get("a"), "200 v1");
    const trigger = `/sys/fs/ext4/${path.basename(disk.device)}/trigger_fs_error`;
    fs.writeFileSync(trigger, "limits");
    must("a read that is a repeat", await daemon.get("a"), "200 v1");
    must("another read", await daemon.get("b"), "500 internal error");
    must("a put", await daemon.put("a", "v2"), "500 internal error");
    must("health", (await daemon.ask("GET", "/health")).status, 200);
    must("journal", daemon.said(), /write audit log .*: the file system is read-only/);
    must("journal", /a bug in legerd/.test(daemon.said()), false);
    await daemon.stop();
    unmount(disk.mountPoint);
    // 1: it has put right what was wrong.
    spawnSync("e2fsck", ["-fy", disk.image]);
    mount(disk, "ro");
    const refused = await ground.start({ stateDir }).then(
      () => "it started",
      (error: unknown) => String(error),
    );
    must("a start on it", refused, /legerd: error: .*(?:read-only|EROFS|file system refused)/);
    unmount(disk.mountPoint);
    mount(disk, "rw");
    const again = await ground.start({ stateDir });
    must("what was acknowledged", await again.get("a"), "200 v1");
    must("a put", await again.put("a", "v2"), "200 2");
    await verifyAudit(again, WHOLE_OR_CUT);
    return {
      served:
        "reads whose line in the audit log has been written within the minute; /health, the status, /metrics",
      refused:
        'all changes and other reads: 500 internal error; the journal: "the file system is read-only"; a start',
      recovers:
        "it starts once it may write again, and all that was acknowledged is there; lines about reads may be missing from the audit log, which says so",
    };
  },
};

export const diskFails: Row = {
  name: "disk-fails",
  what: "a disk that takes writes and fails when they are to last, as a thin one without room does",
  missing,
  async run(ground) {
    const below = path.join(ground.base, "below");
    fs.mkdirSync(below);
    ground.atEnd(() => unmount(below));
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=24m", "limits", below]);
    const disk = makeDisk({ ...ground, base: below });
    const { stateDir } = disk;
    const daemon = await ground.start({ stateDir });
    must("put", await daemon.put("a", "v1"), "200 1");
    must("get", await daemon.get("a"), "200 v1");
    const filler = path.join(below, "filler");
    fillUp(filler);
    const sent: string[] = [];
    let acknowledged = 0;
    while (daemon.child.exitCode === null && sent.length < MOST_PUTS) {
      const value = `${sent.length}-`.repeat(20_000);
      sent.push(value);
      if ((await daemon.put("a", value)).startsWith("200 ")) acknowledged = sent.length;
    }
    must("its exit status", await daemon.ended, 74);
    must(
      "journal",
      daemon.said(),
      /error: sync audit log .*: EIO\n.*hint: legerd ends, and its next start goes on/,
    );
    fs.rmSync(filler);
    unmount(disk.mountPoint);
    spawnSync("e2fsck", ["-fy", disk.image]);
    mount(disk, "rw");
    const again = await ground.start({ stateDir });
    // More may be there: what was on its way.
    const info = await again.ask("POST", "/api/info", { body: { Name: "a" } });
    must("what was acknowledged", JSON.parse(info.text).Versions.length >= acknowledged + 1, true);
    must("the first value", await again.get("a"), "200 v1");
    must("a put", await again.put("a", "last"), /^200 /);
    await verifyAudit(again, WHOLE_OR_CUT);
    return {
      served: "nothing from the first failed sync on: nobody can know what lasts",
      refused:
        'what is under way: the connection is closed; legerd ends with 74, the journal: "sync audit log …: EIO"',
      recovers:
        "systemd starts it again (Restart=on-failure); once the disk is well, all that was acknowledged is there; lines about reads may be missing from the audit log, which says so",
    };
  },
};
