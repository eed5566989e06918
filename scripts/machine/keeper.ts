/** keeper — the process that holds one machine: boots it, and clears it away however its owner ended. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import path from "node:path";
import { text } from "node:stream/consumers";
import { run } from "../../src/core/exec.ts";

/**
 * Started by its owner in a mount namespace of its own: `keeper.ts boot ROOT DIRECTORY` boots a machine named like
 * the directory over the read-only ROOT, and keeps all its files in DIRECTORY. Standard input ends when the owner
 * does, by whatever: then the machine is cut off and nothing of it stays. `keeper.ts sweep DIRECTORY` does the
 * latter for what keepers left behind that were killed themselves.
 */
async function main([verb, ...args]: readonly string[]): Promise<void> {
  // Ctrl-C in a terminal that has become ours, a session that ends: there is work to do first.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
  // Whoever read what it says may have gone first.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
  const [first = "", second = ""] = args;
  if (verb === "boot") await keep(first, second);
  else if (verb === "sweep") await sweep(first);
  else throw new Error(`keeper: ${verb} is neither boot nor sweep`);
}

async function keep(root: string, directory: string): Promise<void> {
  fs.mkdirSync(directory, { mode: 0o700 });
  try {
    fs.writeFileSync(path.join(directory, "keeper"), identityOf(process.pid) ?? "");
    await mountCgroups();
    await furnish(root, directory);
    const owner = new AbortController();
    const left = abandoned(owner, directory);
    for (let status: unknown = REBOOT; status === REBOOT && !owner.signal.aborted;) {
      const machine = boot(directory);
      [status] = await once(machine, "close");
      await removeCgroup(cgroupOf(directory));
    }
    // The owner is told, and may want to see the console of a machine that went away by itself.
    process.stdout.write("down\n");
    await left;
    await program("umount", "--lazy", path.join(directory, "root"));
  } finally {
    await remove(directory);
  }
}

/** Comes back once the owner has gone, and with that its machine. */
async function abandoned(owner: AbortController, directory: string): Promise<void> {
  await text(process.stdin).catch(() => "");
  owner.abort();
  killCgroup(directory);
}

/** How nspawn ends under --keep-unit when the machine wants to be booted anew. */
const REBOOT = 133;

/** Everything a machine has of its own, on a disk. */
async function furnish(root: string, directory: string): Promise<void> {
  const at = (name: string): string => path.join(directory, name);
  for (const name of ["upper", "work", "root", "containers"]) fs.mkdirSync(at(name));
  await program("cp", "--archive", path.join(root, "home"), at("home"));
  const layers = `lowerdir=${root},upperdir=${at("upper")},workdir=${at("work")}`;
  await program("mount", "-t", "overlay", "overlay", "-o", layers, at("root"));
  // nspawn leaves a directory per machine name in here.
  fs.mkdirSync("/run/systemd/nspawn", { recursive: true });
  await program("mount", "-t", "tmpfs", "tmpfs", "/run/systemd/nspawn");
}

function boot(directory: string): ChildProcess {
  const cgroup = cgroupOf(directory);
  fs.mkdirSync(cgroup);
  const log = fs.openSync(path.join(directory, "console"), "a");
  // Should this process be killed, nspawn dies with it.
  const script = 'echo 0 >"$0/cgroup.procs" && exec setpriv --pdeathsig KILL systemd-nspawn "$@"';
  const machine = spawn("sh", ["-c", script, cgroup, ...nspawnOptions(directory)], {
    cwd: "/",
    env: { PATH: process.env["PATH"], SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: "1" },
    stdio: ["ignore", log, log],
  });
  fs.closeSync(log);
  return machine;
}

function nspawnOptions(directory: string): string[] {
  return [
    "--quiet",
    `--directory=${path.join(directory, "root")}`,
    `--machine=${path.basename(directory)}`,
    "--boot",
    "--register=no",
    "--keep-unit",
    "--private-network",
    "--capability=all",
    // Podman in there needs both; nspawn refuses them by default.
    "--system-call-filter=@keyring bpf",
    "--link-journal=no",
    "--resolv-conf=off",
    "--timezone=off",
    // Podman's storage cannot lie on an overlay.
    `--bind=${path.join(directory, "home")}:/home`,
    `--bind=${path.join(directory, "containers")}:/var/lib/containers`,
  ];
}

/** A parent for each machine: below it, nspawn's names are the same for all. */
function cgroupOf(directory: string): string {
  return path.join("/sys/fs/cgroup", path.basename(directory));
}

/** The one hierarchy, whatever this machine itself has there. */
async function mountCgroups(): Promise<void> {
  await run("umount", ["--recursive", "--lazy", "/sys/fs/cgroup"], { env: process.env, timeoutMs: 10_000 });
  await program("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup");
}

async function program(file: string, ...args: readonly string[]): Promise<void> {
  await run(file, args, { env: process.env, timeoutMs: 60_000, check: true });
}

function killCgroup(directory: string): void {
  try {
    fs.writeFileSync(path.join(cgroupOf(directory), "cgroup.kill"), "1");
  } catch {
    // There is none: it never came so far.
  }
}

async function remove(directory: string): Promise<void> {
  await removeCgroup(cgroupOf(directory));
  // The last of its processes may still hold a file for a moment.
  fs.rmSync(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
}

/** Control groups are removed from the leaves up, and not before the last process in them is gone. */
async function removeCgroup(cgroup: string): Promise<void> {
  if (!fs.existsSync(cgroup)) return;
  for (const entry of fs.readdirSync(cgroup, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeCgroup(path.join(cgroup, entry.name));
  }
  for (let attempts = 0; attempts < 200; attempts += 1) {
    try {
      fs.rmdirSync(cgroup);
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }
}

async function sweep(machines: string): Promise<void> {
  await mountCgroups();
  for (const name of fs.readdirSync(machines)) {
    const directory = path.join(machines, name);
    if (isKept(directory)) continue;
    killCgroup(directory);
    await remove(directory);
  }
}

const A_MINUTE_MS = 60_000;

function isKept(directory: string): boolean {
  const identity = textOf(path.join(directory, "keeper"));
  if (identity !== "") return identityOf(Number.parseInt(identity, 10)) === identity;
  // It may just be being made.
  return (fs.statSync(directory, { throwIfNoEntry: false })?.mtimeMs ?? 0) > Date.now() - A_MINUTE_MS;
}

function textOf(file: string): string {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

/** Its number and, since numbers come again, when it began (proc_pid_stat(5), field 22). */
function identityOf(pid: number): string | undefined {
  const stat = textOf(`/proc/${pid}/stat`);
  if (stat === "") return undefined;
  return `${pid} ${stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]}`;
}

await main(process.argv.slice(2));
