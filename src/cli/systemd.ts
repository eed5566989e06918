/** systemd — the units of legerd, asked about and switched by running systemctl. */
import { LegerError } from "../core/error.ts";
import { run, type RunResult } from "../core/exec.ts";
import { runtimePlaces } from "../core/paths.ts";
import type { CliWorld } from "./world.ts";

/** Whose: a user's own manager, or the system's. */
export type Scope = "user" | "system";

/** What `systemctl show` says; an empty string where it says nothing. */
type Unit = {
  /** "loaded", "not-found", "masked" … */
  load: string;
  /** "enabled", "disabled", "static" … */
  file: string;
  /** "active", "inactive", "failed" … */
  active: string;
};

export const SOCKET_UNIT = "legerd.socket";
export const SERVICE_UNIT = "legerd.service";

export type Units = { socket: Unit; service: Unit };

/** The units, or in a few words why systemd cannot be asked. Never rejects. */
export async function legerdUnits(world: CliWorld, scope: Scope): Promise<Units | { absent: string }> {
  const properties = "--property=Id,LoadState,UnitFileState,ActiveState";
  try {
    const result = await systemctl(
      world,
      scope,
      ["show", properties, SOCKET_UNIT, SERVICE_UNIT],
      ASK_TIMEOUT_MS,
    );
    if (result.status !== 0) return { absent: saidBy(result) };
    const units = parseShown(Buffer.from(result.stdout).toString());
    const [socket, service] = [units.get(SOCKET_UNIT), units.get(SERVICE_UNIT)];
    if (socket !== undefined && service !== undefined) return { socket, service };
    return { absent: "systemctl gave an answer that leger doesn't understand" };
  } catch (error) {
    if (!(error instanceof LegerError)) throw error;
    return { absent: error.message };
  }
}

/** Throws FAILED with systemctl's first words. */
export async function switchUnits(world: CliWorld, scope: Scope, args: readonly string[]): Promise<void> {
  const result = await systemctl(world, scope, args, SWITCH_TIMEOUT_MS);
  if (result.status === 0) return;
  throw new LegerError("FAILED", `${commandLine(scope, args)}: ${saidBy(result)}`, {
    hints: [`see: ${commandLine(scope, ["status", SOCKET_UNIT])}`],
  });
}

/** systemctl(1), is-enabled: these come up by themselves, or are brought up by others. */
export function isEnabled(file: string): boolean {
  return ["enabled", "static", "alias", "indirect", "generated"].includes(file);
}

/** As a person would type it. */
export function commandLine(scope: Scope, args: readonly string[]): string {
  return ["systemctl", ...(scope === "user" ? ["--user"] : []), ...args].join(" ");
}

/** One property, as `loginctl show-user` and `timedatectl show` print it; or why it cannot be had. Never rejects. */
export async function propertyOf(
  world: CliWorld,
  program: "loginctl" | "timedatectl",
  args: readonly string[],
  property: string,
): Promise<{ value: string } | { absent: string }> {
  try {
    const result = await ask(
      world,
      program,
      ["--no-pager", ...args, `--property=${property}`],
      ASK_TIMEOUT_MS,
    );
    if (result.status !== 0) return { absent: saidBy(result) };
    const line = Buffer.from(result.stdout)
      .toString()
      .split("\n")
      .find((text) => text.startsWith(`${property}=`));
    if (line !== undefined) return { value: line.slice(property.length + 1) };
    return { absent: `${program} doesn't know ${property}` };
  } catch (error) {
    if (!(error instanceof LegerError)) throw error;
    return { absent: error.message };
  }
}

const ASK_TIMEOUT_MS = 5_000;
/** Starting a socket takes no time; a manager that is stopping may wait for others. */
const SWITCH_TIMEOUT_MS = 20_000;

function systemctl(
  world: CliWorld,
  scope: Scope,
  args: readonly string[],
  timeoutMs: number,
): Promise<RunResult> {
  return ask(
    world,
    "systemctl",
    [scope === "user" ? "--user" : "--system", "--no-pager", ...args],
    timeoutMs,
  );
}

function ask(
  world: CliWorld,
  program: string,
  args: readonly string[],
  timeoutMs: number,
): Promise<RunResult> {
  const { account, runtimeDir } = runtimePlaces(world);
  return run(program, args, {
    env: {
      ...world.env,
      // su and sudo leave it out, and the bus of the user's manager lies there.
      ...(account.kind === "user" ? { XDG_RUNTIME_DIR: runtimeDir } : {}),
      LC_ALL: "C",
      SYSTEMD_COLORS: "0",
    },
    cwd: "/",
    timeoutMs,
  });
}

/** Blocks of `Key=value`, an empty line between them. */
function parseShown(text: string): Map<string, Unit> {
  const units = new Map<string, Unit>();
  for (const block of text.split(/\n{2,}/)) {
    const values = new Map<string, string>();
    for (const line of block.split("\n")) {
      const equals = line.indexOf("=");
      if (equals > 0) values.set(line.slice(0, equals), line.slice(equals + 1));
    }
    const id = values.get("Id");
    if (id === undefined) continue;
    units.set(id, {
      load: values.get("LoadState") ?? "",
      file: values.get("UnitFileState") ?? "",
      active: values.get("ActiveState") ?? "",
    });
  }
  return units;
}

/** Its first line: the ones after it are consequences. */
function saidBy({ status, signal, stderr }: RunResult): string {
  const [first = ""] = stderr.trim().split("\n");
  const short = first.slice(0, 300).replace(/\.$/, "");
  return short === "" ? `it ended with ${signal ?? `exit status ${status}`}` : short;
}
