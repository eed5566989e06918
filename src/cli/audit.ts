/** audit — the command that shows who asked for what. */
import { open, type FileHandle } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Argv } from "yargs";
import { z } from "zod";
import { AUDIT_LOGS, auditFile, auditFiles } from "../core/audit-files.ts";
import { LegerError, systemCode } from "../core/error.ts";
import { homeDirectory } from "../core/paths.ts";
import type { Heading } from "./commands.ts";
import { connect } from "./daemon.ts";
import { momentOf } from "./moment.ts";
import { fullName } from "./names.ts";
import type { Cli, Parsing } from "./parsing.ts";
import type { SettingsFlags } from "./settings.ts";
import { count } from "./terminal.ts";

export function addAudit(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(
    usage,
    about,
    (command) =>
      parsing
        .describe(command, {
          words: "audit",
          examples: [
            ["leger audit --since 1h", "the last hour"],
            ["leger audit --secret openai_api_key --json", "one secret, for programs"],
            ["leger audit --follow", "and what comes, until Ctrl-C"],
            ["leger audit --verify", "is every line there, and as legerd wrote it?"],
          ],
          notes: [
            "It reads the log itself, so it also works while legerd is down; --verify asks legerd, which has the key. Without it, legerd check verifies the log as well.",
            "Repeats of one request within a minute are one line that says how many there were.",
          ],
        })
        .option("secret", { type: "string", requiresArg: true, describe: "of this secret only" })
        .option("principal", { type: "string", requiresArg: true, describe: "by this caller only" })
        .option("since", {
          type: "string",
          requiresArg: true,
          describe: "45s, 30m, 1h, 7d, or 2026-01-31T12:00:00Z",
        })
        .option("follow", { type: "boolean", describe: "go on with what comes" })
        .option("verify", {
          type: "boolean",
          conflicts: ["secret", "principal", "since", "follow", "state"],
          describe: "look for lines that were cut, changed, moved or put back",
        })
        .option("state", { type: "string", requiresArg: true, describe: "legerd's state directory" })
        .option("json", { type: "boolean", describe: "one JSON document a line" }),
    (args) => parsing.choose((cli) => audit(cli, args)),
  );
}

type Args = {
  secret?: string | undefined;
  principal?: string | undefined;
  since?: string | undefined;
  follow?: boolean | undefined;
  verify?: boolean | undefined;
  state?: string | undefined;
  json?: boolean | undefined;
};

/** Reading a gigabyte and hashing it takes legerd half a minute. */
const VERIFY_TIMEOUT_MS = 10 * 60_000;

/** How often a followed log is looked at. */
const LOOK_EVERY_MS = 200;

/** Longer than any line of legerd's; a longer one is not held in memory. */
const MAX_LINE_BYTES = 256 * 1024;

/** Only what a person is shown; JSON passes on everything. */
const Entry = z.looseObject({
  time: z.iso.datetime(),
  principal: z.string(),
  action: z.string(),
  authorized: z.boolean(),
  secret: z.string().optional(),
  version: z.number().optional(),
  service: z.string().optional(),
  podman_id: z.string().optional(),
  unit: z.string().optional(),
  repeats: z.number().optional(),
});
type Entry = z.infer<typeof Entry>;

async function audit(cli: Cli, args: Args): Promise<void> {
  if (args.verify === true) return verify(cli, args.json === true);
  const { world, settings, terminal } = cli;
  const now = world.now ?? ((): Date => new Date());
  const since = args.since === undefined ? undefined : startOf(args.since, now());
  const secret = args.secret === undefined ? undefined : fullName(args.secret, settings.namespace);
  const file = await logFile(cli, args.state);
  const matches = (entry: Entry): boolean =>
    (secret === undefined || entry.secret === secret) &&
    (args.principal === undefined || entry.principal === args.principal) &&
    (since === undefined || Date.parse(entry.time) >= since);

  let malformed = 0;
  const logs = await openLogs(file);
  if (args.json !== true) await terminal.line(columns("TIME", "PRINCIPAL", "ACTION", "SECRET"));
  using stop = stopSignal(world.signal);
  for await (const line of allLines(file, logs, { follow: args.follow === true, signal: stop.signal })) {
    const entry = parseEntry(line);
    if (entry === undefined) malformed += 1;
    else if (!matches(entry)) continue;
    else if (args.json === true) await terminal.json(entry);
    else await terminal.line(sentence(entry));
  }
  if (malformed > 0) {
    terminal.warn(`${file}: ${count(malformed, "line")} left out: not what legerd writes`);
  }
}

async function verify({ world, settings, terminal }: Cli, json: boolean): Promise<void> {
  await using daemon = connect(world, settings, { timeoutMs: VERIFY_TIMEOUT_MS });
  const { ok, lines, unnumbered, problems } = await daemon.verifyAudit();
  if (json) await terminal.json({ ok, lines, unnumbered, problems });
  else {
    for (const problem of problems) await terminal.line(problem);
    if (ok) await terminal.line(`${count(lines, "line")}, none missing and none changed`);
    if (unnumbered > 0) {
      terminal.warn(
        `${count(unnumbered, "line")} of an older legerd without numbers, which nobody can verify`,
      );
    }
  }
  if (ok) return;
  throw new LegerError(
    "DAMAGED",
    `the audit log is not as legerd wrote it: ${count(problems.length, "problem")}`,
    {
      hints: [
        "keep a copy of its files before anything else, and compare them with copies kept elsewhere",
        "whoever can write to the state directory can read every secret: if it wasn't you, rotate them",
      ],
    },
  );
}

/** Where the running legerd says it is; without one, where it would be. */
async function logFile({ world, settings }: Cli, state: string | undefined): Promise<string> {
  if (state !== undefined) return auditFile(resolve(world.cwd, state), AUDIT_LOGS.everything);
  try {
    await using daemon = connect(world, settings);
    return (await daemon.status()).audit_log;
  } catch (error) {
    if (!(error instanceof LegerError) || error.code !== "UNREACHABLE") throw error;
    return auditFile(homeDirectory("state", world), AUDIT_LOGS.everything);
  }
}

/** In milliseconds since 1970. */
function startOf(text: string, now: Date): number {
  const time = momentOf(text, now, -1);
  if (!Number.isNaN(time)) return time;
  throw new LegerError("USAGE", "--since takes a length of time or a moment", {
    hints: ["45s, 30m, 1h, 7d, or 2026-01-31, or 2026-01-31T12:00:00Z"],
  });
}

function parseEntry(line: string | undefined): Entry | undefined {
  if (line === undefined) return undefined;
  try {
    return Entry.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined;
  }
}

function sentence(entry: Entry): string {
  const {
    time,
    principal,
    action,
    authorized,
    secret = "-",
    version,
    service,
    podman_id,
    unit,
    repeats,
  } = entry;
  const more = [
    secret + (version === undefined ? "" : ` v${version}`),
    ...(authorized ? [] : ["DENIED"]),
    ...(service === undefined ? [] : [`service=${service}`]),
    ...(podman_id === undefined ? [] : [`podman=${podman_id}`]),
    ...(unit === undefined ? [] : [`unit=${unit}`]),
    ...(repeats === undefined ? [] : [`and again ${repeats} ${repeats === 1 ? "time" : "times"}`]),
  ];
  return columns(time, principal, action, more.join("  "));
}

function columns(time: string, principal: string, action: string, rest: string): string {
  return `${time.padEnd(24)}  ${principal.padEnd(12)}  ${action.padEnd(14)}  ${rest}`;
}

/** The files of the log, oldest first; the last is the one that is written to. */
type OpenedLog = { handle: FileHandle; changes: boolean };

/**
 * Opens all files at once, as legerd may rename them while they are read. Before the oldest of them come the changes
 * that were kept longer.
 */
async function openLogs(file: string): Promise<OpenedLog[]> {
  const directory = dirname(file);
  const older = (name: string): string[] => auditFiles(directory, name).filter((entry) => entry !== file);
  for (;;) {
    const current = await openLog(file);
    const names = [...older(AUDIT_LOGS.changes), ...older(AUDIT_LOGS.everything)];
    const handles: FileHandle[] = [];
    try {
      for (const name of names) handles.push(await open(name, "r"));
    } catch (cause) {
      for (const handle of [current, ...handles]) await handle.close();
      // It was renamed between our look and our opening it.
      if (systemCode(cause) === "ENOENT") continue;
      throw new LegerError(
        "IO",
        `cannot read the audit log in ${directory} (${systemCode(cause) ?? "unknown error"})`,
        { cause },
      );
    }
    const changes = older(AUDIT_LOGS.changes).length;
    return [...handles, current].map((handle, at) => ({ handle, changes: at < changes }));
  }
}

/** Every line that is kept, once; with `follow`, also those that come later. */
async function* allLines(
  file: string,
  logs: readonly OpenedLog[],
  following: Following,
): AsyncGenerator<string | undefined> {
  const whole = { ...following, follow: false };
  const [changes, everything] = [logs.filter((log) => log.changes), logs.filter((log) => !log.changes)];
  try {
    const oldest = await firstNumber(everything);
    for (const { handle } of changes) {
      for await (const line of linesOf(file, handle, whole)) {
        const [, number] = /"log_n":(\d+),/.exec(line ?? "") ?? [];
        if (number !== undefined && Number(number) < oldest) yield line;
      }
    }
    for (const { handle } of everything.slice(0, -1)) yield* linesOf(file, handle, whole);
    for (const { handle } of everything.slice(-1)) yield* linesOf(file, handle, following);
  } finally {
    for (const { handle } of logs) await handle.close();
  }
}

/** Number of the oldest numbered line; 0 where lines have none. */
async function firstNumber([oldest]: readonly OpenedLog[]): Promise<number> {
  const start = Buffer.alloc(32);
  if (oldest === undefined) return 0;
  const { bytesRead } = await oldest.handle.read(start, 0, start.length, 0);
  const [, number] = /^\{"n":(\d+),/.exec(start.toString("latin1", 0, bytesRead)) ?? [];
  return Number(number ?? 0);
}

type Following = { follow: boolean; signal: AbortSignal };

/** The opened file's lines without their ends, undefined for one too long; with `follow`, also those that come later. */
async function* linesOf(
  file: string,
  opened: FileHandle,
  { follow, signal }: Following,
): AsyncGenerator<string | undefined> {
  let log = opened;
  try {
    let offset = 0;
    let rest = Buffer.alloc(0);
    let tooLong = false;
    let successor: FileHandle | undefined;
    const buffer = Buffer.alloc(64 * 1024);
    while (!signal.aborted) {
      const { bytesRead } = await log.read(buffer, 0, buffer.length, offset);
      if (bytesRead === 0) {
        if (!follow) break;
        if (!(await pause(signal))) return;
        successor ??= await renewed(file, log, offset);
        // What came into the old file before it was renamed is read first.
        const stillGrew = (await log.stat()).size > offset;
        if (successor !== undefined && !stillGrew) {
          await log.close();
          [log, offset, rest, tooLong] = [successor, 0, Buffer.alloc(0), false];
          successor = undefined;
        }
        continue;
      }
      offset += bytesRead;
      let pending = Buffer.concat([rest, buffer.subarray(0, bytesRead)]);
      for (let end = pending.indexOf(0x0a); end >= 0; end = pending.indexOf(0x0a)) {
        yield tooLong ? undefined : pending.toString("utf8", 0, end);
        tooLong = false;
        pending = pending.subarray(end + 1);
      }
      tooLong ||= pending.length > MAX_LINE_BYTES;
      rest = tooLong ? Buffer.alloc(0) : Buffer.from(pending);
    }
    // What a power cut tore has no end, and neither has what legerd is writing at this moment.
    if (!signal.aborted && (rest.length > 0 || tooLong)) yield undefined;
  } finally {
    await log.close();
  }
}

async function openLog(file: string): Promise<FileHandle> {
  try {
    const log = await open(file, "r");
    if ((await log.stat()).isFile()) return log;
    await log.close();
  } catch (cause) {
    const code = systemCode(cause);
    if (code === "ENOENT" || code === "ENOTDIR") {
      throw new LegerError("IO", `there is no audit log at ${file}`, {
        hints: ["legerd makes it when it first starts; name its state directory with --state DIR"],
        cause,
      });
    }
    const denied = code === "EACCES" || code === "EPERM";
    throw new LegerError(denied ? "DENIED" : "IO", `cannot read ${file} (${code ?? "unknown error"})`, {
      cause,
    });
  }
  throw new LegerError("IO", `cannot read ${file}: it is not a file`);
}

/** The file that has taken the log's place, or the same one if it was cut short. */
async function renewed(file: string, log: FileHandle, offset: number): Promise<FileHandle | undefined> {
  let fresh: FileHandle;
  try {
    fresh = await open(file, "r");
  } catch {
    // Moved away, and its successor not yet there.
    return undefined;
  }
  const [old, now] = [await log.stat(), await fresh.stat()];
  if (old.ino === now.ino && old.dev === now.dev && now.size >= offset) {
    await fresh.close();
    return undefined;
  }
  return fresh;
}

/** False once it is to end. */
async function pause(signal: AbortSignal): Promise<boolean> {
  try {
    await delay(LOOK_EVERY_MS, undefined, { signal });
    return true;
  } catch {
    return false;
  }
}

/** The world's own signal, or Ctrl-C and its like while this lives. */
function stopSignal(given: AbortSignal | undefined): Disposable & { signal: AbortSignal } {
  if (given !== undefined) return { signal: given, [Symbol.dispose]: () => {} };
  const controller = new AbortController();
  const stop = (): void => controller.abort();
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const name of signals) process.once(name, stop);
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      for (const name of signals) process.off(name, stop);
    },
  };
}
