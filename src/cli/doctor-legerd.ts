/** doctor-legerd — is legerd there, private, as new as leger, started by systemd, does it write its log, is it backed up? */
import { closeSync, constants, fstatSync, openSync, readSync, statfsSync } from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";
import { LegerError, systemCode } from "../core/error.ts";
import { nodeFiles } from "../core/files-node.ts";
import { assertSafeSocket, homeDirectory, runtimePlaces } from "../core/paths.ts";
import type { DaemonStatus, ServedService } from "./daemon.ts";
import { canServe, usersOf } from "./explain.ts";
import { note, ok, warning, wrong, type Finding, type Outcome } from "./finding.ts";
import type { Settings } from "./settings.ts";
import { commandLine, isEnabled, SERVICE_UNIT, SOCKET_UNIT, type Scope, type Units } from "./systemd.ts";
import type { CliWorld } from "./world.ts";

type Daemon = Outcome<DaemonStatus>;
type AskedUnits = Units | { absent: string };

export function checkLegerd(daemon: Daemon, { scope, units }: { scope: Scope; units: AskedUnits }): Finding {
  if ("value" in daemon) {
    const { version, pid, started_at, secrets, verification } = daemon.value;
    if (verification?.state === "damaged") {
      const { problems = [] } = verification;
      return wrong(`its store is damaged: ${problems[0] ?? ""} (problems: ${problems.length})`, [
        'see all that is wrong with "legerd check"',
        'then restore a backup, or rescue what can be read with "legerd salvage"',
      ]);
    }
    return ok(
      `${version}, process ${pid}, since ${started_at}, ${secrets === 1 ? "1 secret" : `${secrets} secrets`}`,
    );
  }
  const { code, message, hints } = daemon.failure;
  if (code === "DENIED") return note(`${message}: this door may not ask for the status`, ...hints);
  if (code !== "UNREACHABLE" || "absent" in units || units.socket.load !== "loaded")
    return wrong(message, hints);
  const { socket, service } = units;
  if (service.active === "failed" || socket.active === "failed") {
    const unit = service.active === "failed" ? SERVICE_UNIT : SOCKET_UNIT;
    return wrong(`${message}; ${unit} has failed`, [
      `see why: journalctl${scope === "user" ? " --user" : ""} -u ${unit}`,
      `then: ${commandLine(scope, ["restart", SOCKET_UNIT])}`,
    ]);
  }
  if (socket.active !== "active")
    return wrong(message, [commandLine(scope, ["enable", "--now", SOCKET_UNIT])]);
  return wrong(message, hints);
}

/** Also while nobody listens: what lies there is what leger would connect to. */
export function checkSocket(world: CliWorld, { socket, socketWasNamed }: Settings): Finding {
  try {
    assertSafeSocket(socket, { euid: world.euid, files: nodeFiles, groupMayConnect: socketWasNamed });
  } catch (error) {
    if (!(error instanceof LegerError)) throw error;
    if (error.code === "UNREACHABLE") return note(`${socket} isn't there`);
    return wrong(error.message, error.hints);
  }
  const usual = runtimePlaces(world).socket;
  if (world.env["LEGER_SOCKET"] === socket && socket !== usual) {
    return warning(`LEGER_SOCKET names ${socket}; what units and podman start asks ${usual}`, [
      "unset LEGER_SOCKET, or set it for those, too",
    ]);
  }
  return ok(`${socket} is closed to others`);
}

export function checkVersion(daemon: Daemon, { scope, ours }: { scope: Scope; ours: string }): Finding {
  if (!("value" in daemon)) return note(`leger ${ours}; legerd's is not known`);
  const { version } = daemon.value;
  if (version === ours) return ok(`leger and legerd are ${ours}`, { client_version: ours, version });
  return warning(
    `this leger is ${ours}, the legerd that runs is ${version}`,
    [`restart it: ${commandLine(scope, ["restart", SERVICE_UNIT])}; or start the new legerd yourself`],
    { client_version: ours, version },
  );
}

export function checkUnit(units: AskedUnits, { scope, daemon }: { scope: Scope; daemon: Daemon }): Finding {
  if ("absent" in units) return note(`systemd cannot be asked: ${units.absent}`);
  const { socket, service } = units;
  const facts = { socket, service };
  if (socket.load === "masked") {
    return warning(
      `${SOCKET_UNIT} is masked: legerd doesn't start by itself`,
      [commandLine(scope, ["unmask", SOCKET_UNIT])],
      facts,
    );
  }
  if (socket.load !== "loaded") {
    return warning(
      `there is no ${SOCKET_UNIT}: legerd doesn't start by itself`,
      ["install leger's package"],
      facts,
    );
  }
  if (!isEnabled(socket.file)) {
    return warning(
      `${SOCKET_UNIT} is ${socket.file}: nothing starts legerd at the next boot`,
      ["leger podman install", `or: ${commandLine(scope, ["enable", "--now", SOCKET_UNIT])}`],
      facts,
    );
  }
  if (socket.active !== "active") {
    return warning(
      "value" in daemon
        ? `legerd runs, but not by ${SOCKET_UNIT}: nothing starts it again when it ends`
        : `${SOCKET_UNIT} is enabled, but ${socket.active}`,
      [commandLine(scope, ["start", SOCKET_UNIT])],
      facts,
    );
  }
  return ok(`${SOCKET_UNIT} is enabled and listens`, facts);
}

/** Units that need a credential socket which isn't there will not start again. */
export function checkServices(world: CliWorld, unserved: Outcome<ServedService[]>): Finding {
  if (!("value" in unserved)) return note("legerd cannot be asked which services it can give");
  const lacking = unserved.value.flatMap((served) => {
    const users = usersOf(world, served.name);
    return canServe(served, users) ? [] : [{ ...served, users }];
  });
  const facts = { unserved: lacking.map(({ name, problems }) => ({ name, problems })) };
  const [first] = lacking;
  if (first === undefined) return ok("systemd can have the credentials of every service", facts);
  const used = lacking.filter(({ users }) => users.length > 0);
  const names = (used.length > 0 ? used : lacking).map(({ name }) => name);
  const shown = names.length > 5 ? `${names.slice(0, 5).join(", ")} …` : names.join(", ");
  const hints = [`see why, and what to do: leger explain ${names[0] ?? ""}`];
  if (used.length > 0) return wrong(`units cannot start, for want of the secrets of: ${shown}`, hints, facts);
  return warning(`services whose secrets cannot all be given: ${shown}`, hints, facts);
}

const AuditTime = z.object({ time: z.iso.datetime() });

/** Enough for thousands of lines. */
const TAIL_BYTES = 1024 * 1024;

/** Clocks of virtual machines jump a little when they are mended. */
const TOLERATED_MS = 1_000;

export function checkAudit(world: CliWorld, daemon: Daemon): Finding {
  const file = auditFile(world, daemon);
  if (file === undefined)
    return note("where the log lies is not known: neither XDG_STATE_HOME nor HOME is set");
  let times: number[];
  try {
    times = timesIn(tailOf(file));
  } catch (error) {
    const code = systemCode(error);
    if (code === undefined) throw error;
    if (code === "ENOENT" && !("value" in daemon)) return note(`${file} isn't there: legerd has not run yet`);
    if (code === "ENOENT") {
      return wrong(`${file} is gone: legerd writes to a file that nobody sees any more`, ["restart legerd"]);
    }
    return note(`${file} cannot be read (${code})`);
  }
  const now = (world.now ?? (() => new Date()))().getTime();
  const last = times.at(-1);
  if (last !== undefined && last > now + TOLERATED_MS) {
    return warning(
      `the last entry is of ${isoOf(last)}, and now it is ${isoOf(now)}: the clock was put back`,
      ["see that the clock is right; until then the log's times mislead"],
    );
  }
  const at = times.findIndex((time, index) => time < (times[index - 1] ?? time) - TOLERATED_MS);
  if (at > 0) {
    return warning(
      `times go back in it, from ${isoOf(times[at - 1] ?? 0)} to ${isoOf(times[at] ?? 0)}: the clock was put back`,
      ["where order matters, go by the order of the lines"],
    );
  }
  return ok(times.length === 0 ? `${file} is empty` : `${file} goes forward in time`);
}

function auditFile(world: CliWorld, daemon: Daemon): string | undefined {
  if ("value" in daemon) return daemon.value.audit_log;
  try {
    return join(homeDirectory("state", world), "audit.log");
  } catch (error) {
    if (error instanceof LegerError) return undefined;
    throw error;
  }
}

function tailOf(file: string): string {
  // O_NONBLOCK: a pipe must not keep us waiting.
  const fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const { size } = fstatSync(fd);
    const buffer = Buffer.alloc(Math.min(size, TAIL_BYTES));
    const bytes = readSync(fd, buffer, 0, buffer.length, size - buffer.length);
    return buffer.toString("utf8", 0, bytes);
  } finally {
    closeSync(fd);
  }
}

/** In milliseconds since 1970. What isn't a whole line of legerd's is left out. */
function timesIn(text: string): number[] {
  return text.split("\n").flatMap((line) => {
    try {
      return [Date.parse(AuditTime.parse(JSON.parse(line)).time)];
    } catch {
      return [];
    }
  });
}

function isoOf(time: number): string {
  return new Date(time).toISOString();
}

/** Below this, legerd may soon have to refuse. */
const LOW_DISK_BYTES = 64 * 1024 * 1024;

export function checkDisk(world: CliWorld, daemon: Daemon): Finding {
  const log = auditFile(world, daemon);
  if (log === undefined) return note("where legerd's state lies is not known");
  const directory = dirname(log);
  let free: number;
  try {
    const { bavail, bsize } = statfsSync(directory);
    free = bavail * bsize;
  } catch (error) {
    return note(`${directory} cannot be looked at (${systemCode(error) ?? "unknown error"})`);
  }
  const text = `${Math.floor(free / (1024 * 1024))} MiB free where legerd keeps its state, ${directory}`;
  if (free >= LOW_DISK_BYTES) return ok(text, { free_bytes: free });
  const hints = ["make room there: what cannot be noted in the audit log is not answered"];
  return free === 0 ? wrong(text, hints, { free_bytes: free }) : warning(text, hints, { free_bytes: free });
}

const DAY_MS = 24 * 60 * 60 * 1_000;
/** A backup that is older than this, of a store that changed since, is one to make anew. */
const OLD_BACKUP_DAYS = 30;

export function checkBackup(world: CliWorld, daemon: Daemon): Finding {
  if (!("value" in daemon)) return note("legerd cannot be asked when it was backed up");
  const { secrets, last_backup: last } = daemon.value;
  if (last === undefined) return note("this legerd does not say when it was backed up");
  const hints = ["legerd backup FILE, on another disk than this one"];
  if (last === null) {
    if (secrets === 0) return note("there is nothing to back up yet");
    return warning("there was never a backup: with this disk, every secret here is lost", hints, {
      last_backup: null,
    });
  }
  const now = (world.now ?? (() => new Date()))().getTime();
  const days = Math.floor((now - Date.parse(last.made_at)) / DAY_MS);
  const age = days < 1 ? "less than a day old" : days === 1 ? "a day old" : `${days} days old`;
  const changed = last.changes_since === 0 ? "nothing has changed since" : "secrets have changed since";
  const text = `the last backup, of ${last.made_at}, is ${age}; ${changed}`;
  const isOld = days > OLD_BACKUP_DAYS && last.changes_since !== 0;
  return isOld ? warning(text, hints, { last_backup: last }) : ok(text, { last_backup: last });
}
