/** doctor-machine — what leger rests on beside itself: lingering, memory that no disk sees, SELinux, the clock. */
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { basename } from "node:path";
import { LegerError, systemCode } from "../core/error.ts";
import { runtimePlaces } from "../core/paths.ts";
import { openPrivateDirectory } from "../core/private-file.ts";
import type { DaemonStatus } from "./daemon.ts";
import { note, ok, warning, wrong, type Finding, type Outcome } from "./finding.ts";
import { propertyOf } from "./systemd.ts";
import { systemPath, type CliWorld } from "./world.ts";

export async function checkLinger(world: CliWorld): Promise<Finding> {
  const { account } = runtimePlaces(world);
  if (account.kind === "system") return ok("the system's legerd needs no login");
  const linger = await propertyOf(world, "loginctl", ["show-user", String(account.uid)], "Linger");
  const hints = ["loginctl enable-linger"];
  if ("value" in linger) {
    if (linger.value === "yes") return ok("your units run without a login");
    return warning("your units, and legerd, stop when you log out, and don't start at boot", hints);
  }
  if (/not logged in or lingering/.test(linger.absent)) {
    return warning("you are not logged in for systemd, so nothing of yours is started by it", hints);
  }
  return note(`whether your units run without a login cannot be told: ${linger.absent}`);
}

/** Env files and the socket lie there. */
export function checkRuntime(world: CliWorld): Finding {
  const { account, runtimeDir, directory } = runtimePlaces(world);
  const path = existsSync(directory) ? directory : runtimeDir;
  const opened = failureOf(() => openPrivateDirectory(path, { euid: world.euid }));
  if (opened !== undefined && systemCode(opened.cause) === "ENOENT" && account.kind === "user") {
    return wrong(`${path} isn't there: neither socket nor env files have a place`, [
      "log in as this user, not by su or sudo; or: loginctl enable-linger",
      ...(world.env["XDG_RUNTIME_DIR"] === undefined ? [] : ["or see whether XDG_RUNTIME_DIR is right"]),
    ]);
  }
  if (opened !== undefined) return wrong(opened.message, opened.hints);
  if (failureOf(() => openPrivateDirectory(path, { euid: world.euid, requireTmpfs: true })) !== undefined) {
    return wrong(`${path} is not on tmpfs, and leger secrets fetch writes to no disk`, [
      account.kind === "user"
        ? "let XDG_RUNTIME_DIR name a directory on tmpfs, as systemd's /run/user/UID is"
        : "mount a tmpfs there, as systemd does",
      "or, if that disk may have the keys: leger secrets fetch --allow-disk",
    ]);
  }
  return ok(`${path} is in memory, and nobody else may write to it`);
}

function failureOf(open: () => Disposable): LegerError | undefined {
  try {
    open()[Symbol.dispose]();
    return undefined;
  } catch (error) {
    if (error instanceof LegerError) return error;
    throw error;
  }
}

/** Where swap would bring memory: env files on tmpfs, and what legerd has in its own. */
export function checkSwap(world: CliWorld): Finding {
  const text = textOf(world, "/proc/swaps");
  if (text === undefined) return note("whether there is swap cannot be told: there is no /proc/swaps");
  const swaps = text
    .split("\n")
    .slice(1)
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const [name = "", type = ""] = line.trim().split(/\s+/);
      return { name: unescaped(name), type };
    });
  if (swaps.length === 0) return ok("there is no swap", { swaps: [] });
  const judged = swaps.map((swap) => ({ ...swap, safety: safetyOf(world, swap) }));
  const facts = { swaps: judged };
  const listed = (safety: Safety): string =>
    judged
      .filter((swap) => swap.safety === safety)
      .map(({ name }) => name)
      .join(", ");
  if (listed("plain") !== "") {
    return warning(
      `${listed("plain")} is not encrypted: keys in memory can come to lie on a disk`,
      ["encrypt it (crypttab(5), options swap), use zram instead, or do without: swapoff -a"],
      facts,
    );
  }
  if (listed("unknown") !== "") {
    return { ...note(`whether ${listed("unknown")} is encrypted cannot be told`, "see: lsblk"), facts };
  }
  const kinds = [
    ...(listed("encrypted") === "" ? [] : ["encrypted"]),
    ...(listed("memory") === "" ? [] : ["in memory (zram)"]),
  ];
  return ok(`what there is of swap is ${kinds.join(", or ")}`, facts);
}

type Safety = "memory" | "encrypted" | "plain" | "unknown";

function safetyOf(world: CliWorld, { name, type }: { name: string; type: string }): Safety {
  if (type === "file") {
    const source = mountSourceOf(world, name);
    return source?.startsWith("/dev/") === true ? encryptionOf(world, deviceName(world, source)) : "unknown";
  }
  const device = deviceName(world, name);
  if (!/^zram\d+$/.test(device)) return encryptionOf(world, device);
  // Documentation/admin-guide/blockdev/zram.rst: incompressible or idle pages may go to a disk.
  const backing = textOf(world, `/sys/block/${device}/backing_dev`)?.trim() ?? "none";
  return backing === "none" || backing === "" ? "memory" : encryptionOf(world, deviceName(world, backing));
}

/** A device-mapper device says by its uuid what made it; what lies on several devices is as safe as the worst. */
function encryptionOf(world: CliWorld, device: string, depth = 0): Safety {
  const directory = `/sys/class/block/${device}`;
  if (depth > MAX_DEPTH || !existsSync(systemPath(world, directory))) return "unknown";
  if (textOf(world, `${directory}/dm/uuid`)?.startsWith("CRYPT-") === true) return "encrypted";
  let below: string[] = [];
  try {
    below = readdirSync(systemPath(world, `${directory}/slaves`));
  } catch {
    // A partition has none.
  }
  const safeties = below.map((slave) => encryptionOf(world, slave, depth + 1));
  if (safeties.length === 0 || safeties.includes("plain")) return "plain";
  return safeties.includes("unknown") ? "unknown" : "encrypted";
}

/** RAID on LVM on LUKS is three. */
const MAX_DEPTH = 8;

/** "dm-0" for /dev/mapper/swap. */
function deviceName(world: CliWorld, path: string): string {
  try {
    return basename(realpathSync(systemPath(world, path)));
  } catch {
    return basename(path);
  }
}

/** What the file system that holds this file is mounted from: proc(5), mountinfo. */
function mountSourceOf(world: CliWorld, file: string): string | undefined {
  let found: { point: string; source: string } | undefined;
  for (const line of (textOf(world, "/proc/self/mountinfo") ?? "").split("\n")) {
    const [left = "", right = ""] = line.split(" - ");
    const point = unescaped(left.split(" ")[4] ?? "");
    const source = unescaped(right.split(" ")[1] ?? "");
    const holds = point !== "" && (file === point || file.startsWith(point === "/" ? "/" : `${point}/`));
    // Of two at one place the later one covers the earlier.
    if (holds && point.length >= (found?.point.length ?? 0)) found = { point, source };
  }
  return found?.source;
}

/** The kernel writes a space as \040. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** Would a crash of legerd leave its memory somewhere? core(5). */
export function checkCoreDumps(world: CliWorld, daemon: Outcome<DaemonStatus>): Finding {
  const pattern = textOf(world, "/proc/sys/kernel/core_pattern")?.trim();
  if (pattern === undefined) return note("where core dumps go cannot be told");
  if (pattern === "") return ok("the kernel writes none");
  if (!("value" in daemon)) return note("legerd doesn't run, so its limit cannot be seen");
  const { pid } = daemon.value;
  const limits = textOf(world, `/proc/${pid}/limits`) ?? "";
  const soft = /^Max core file size +(\S+)/m.exec(limits)?.[1];
  if (soft === undefined) return note(`the limit of legerd, process ${pid}, cannot be seen`);
  const facts = { core_pattern: pattern, limit: soft };
  // systemd-coredump and apport heed the limit, though the kernel doesn't for pipes.
  if (soft === "0") return ok("legerd writes none", facts);
  const where = pattern.includes("systemd-coredump")
    ? "systemd's core dumps (coredumpctl)"
    : pattern.startsWith("|")
      ? (pattern.slice(1).split(" ")[0] ?? "")
      : `a file "${pattern}"`;
  return warning(
    `a crash of legerd would leave its memory, keys in it, with ${where}`,
    ["start it by its unit, which forbids that, or by hand with: ulimit -c 0; legerd"],
    facts,
  );
}

export function checkSelinux(world: CliWorld): Finding {
  const enforce = textOf(world, "/sys/fs/selinux/enforce")?.trim();
  if (enforce === undefined) return ok("not in use here", { selinux: "off" });
  if (enforce === "0") return ok("permissive: it keeps nothing apart", { selinux: "permissive" });
  return {
    ...ok("enforcing: a container reads mounted files only with ,Z (or ,z, if containers share them)"),
    facts: { selinux: "enforcing" },
  };
}

export async function checkClock(world: CliWorld): Promise<Finding> {
  const synchronized = await propertyOf(world, "timedatectl", ["show"], "NTPSynchronized");
  if ("value" in synchronized) {
    if (synchronized.value === "yes") return ok("synchronised by NTP");
    return warning("not synchronised: times in the audit log may be wrong", [
      "timedatectl set-ntp true, or see what the clock service says: journalctl -u systemd-timesyncd -u chronyd",
    ]);
  }
  // systemd-timesyncd.service(8): it touches that file at each synchronisation.
  if (existsSync(systemPath(world, "/run/systemd/timesync/synchronized"))) return ok("synchronised by NTP");
  return note(`whether it is synchronised cannot be told: ${synchronized.absent}`);
}

/** Of the kernel's small files. Undefined where it cannot be read. */
function textOf(world: CliWorld, path: string): string | undefined {
  try {
    return readFileSync(systemPath(world, path), "utf8");
  } catch {
    return undefined;
  }
}
