/** config — legerd.json: the doors, who stands behind them, what they may do. */
import * as fs from "node:fs";
import { BlockList, isIP } from "node:net";
import path from "node:path";
import { LegerError, systemCode } from "../core/error.ts";
import type { Grant } from "../setec/grants.ts";

/** Routes that a door with grants may be opened for; setec's own and /health always are. */
const ROUTE_GROUPS = ["podman", "services", "status", "audit", "metrics"] as const;
export type RouteGroup = (typeof ROUTE_GROUPS)[number];

/** A unix socket and who is behind it. */
export type DoorConfig = {
  /** What systemd knows its socket by. Undefined: it is always a socket of our own. */
  name?: string | undefined;
  unix: string;
  /** File mode of the socket. */
  mode: number;
  /** Name of whoever comes through here, for the audit log. Empty: nobody can be identified, and all calls are refused. */
  principal: string;
  /** Undefined: everything is allowed. */
  grants: readonly Grant[] | undefined;
  /** Who gets the socket and its directory besides us: a group's name or number. */
  group?: string | undefined;
  /** For a door with grants: what is open there besides setec's own routes. */
  routes?: readonly RouteGroup[] | undefined;
};

/** A door on TCP: who is behind a request is said by its token. */
export type TcpDoorConfig = {
  tcp: { address: string; port: number };
  /** What the Host header may be, with the port. */
  hosts: readonly string[];
  /** Files in PEM. Only a loopback address may do without. */
  tls: { certificate: string; key: string } | undefined;
  /** What is open to tokens besides setec's own routes. */
  routes: readonly RouteGroup[];
};

export type DaemonConfig = {
  /** Undefined: the default door. */
  doors: readonly DoorConfig[] | undefined;
  tcpDoors: readonly TcpDoorConfig[];
  cacheEntries: number | undefined;
  /** Undefined: ten seconds. */
  snapshotMs: number | undefined;
  audit: { maxBytes?: number | undefined; foldMs?: number | undefined };
};

const MAX_FILE_BYTES = 1024 * 1024;

/** Reads and checks a configuration file. Undefined when it is missing. Throws CONFIG, naming what is wrong where. */
export async function readConfig(file: string): Promise<DaemonConfig | undefined> {
  let text: string;
  try {
    if (fs.statSync(file).size > MAX_FILE_BYTES)
      throw new LegerError("CONFIG", `read ${file}: it is too large`);
    text = fs.readFileSync(file, "utf8");
  } catch (cause) {
    if (cause instanceof LegerError) throw cause;
    if (systemCode(cause) === "ENOENT") return undefined;
    throw new LegerError("CONFIG", `read ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    // V8 quotes the text around the fault; a configuration holds no values, but one pasted by mistake might.
    const position = cause instanceof Error ? /position (\d+)/.exec(cause.message)?.[1] : undefined;
    const line =
      position === undefined ? "" : ` at line ${text.slice(0, Number(position)).split("\n").length}`;
    throw new LegerError("CONFIG", `read ${file}: it is not JSON${line}`);
  }
  return check(file, value);
}

/** The shape of legerd.json, which schemas/legerd.schema.json publishes. */
export async function configSchema() {
  // Loaded only where there is something to check: without a file the daemon starts without it.
  const { z } = await import("zod");
  const grant = z.strictObject({
    action: z
      .array(z.string())
      .default([])
      .describe("Any of get, info, put, create-version, activate, delete. None implies another."),
    secret: z
      .array(z.string())
      .default([])
      .describe("Names of secrets; * stands for any run of characters, also / and none."),
  });
  const door = z.strictObject({
    name: z
      .string()
      .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/, "must be letters, digits, dots, underscores and hyphens")
      .optional()
      .describe("FileDescriptorName= of the .socket unit that opens this door. Left out: legerd opens it."),
    unix: z.string().regex(/^\//, "must be an absolute path").describe("Path of the socket."),
    mode: z
      .string()
      .regex(/^0?[0-7]{3}$/, 'must be octal digits such as "0660"')
      .default("0600")
      .describe("Mode of the socket, octal."),
    principal: z
      .string()
      .default("")
      .describe("Who stands behind this door, for the audit log. Empty: every call is refused."),
    grants: z.array(grant).optional().describe("What they may do. Left out: everything."),
    group: z
      .string()
      .regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/, "must be a group's name or number")
      .optional()
      .describe("Group of the socket and of its directory. Left out: the one of whoever runs legerd."),
    routes: z
      .array(z.enum(ROUTE_GROUPS))
      .optional()
      .describe("For a door with grants: leger's own routes that are open there. Left out: none."),
  });
  const absolute = z.string().regex(/^\//, "must be an absolute path");
  const tcpDoor = z.strictObject({
    tcp: z
      .string()
      .regex(
        /^(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\]):\d{1,5}$/,
        'must be an address and a port, such as "127.0.0.1:8080"',
      )
      .describe("Address and port to listen at; any but a loopback address needs tls."),
    hosts: z
      .array(z.string().min(1))
      .min(1)
      .describe("What the Host header may be, with the port: whoever asks for another is refused."),
    tls: z
      .strictObject({
        certificate: absolute.describe("The certificate and those it rests on, in PEM."),
        key: absolute.describe("Its private key, in PEM."),
      })
      .optional()
      .describe("Read again when the files change. Left out: plain HTTP, on loopback alone."),
    routes: z
      .array(z.enum(ROUTE_GROUPS))
      .default([])
      .describe("leger's own routes that are open to tokens here. Left out: none."),
  });
  return z.strictObject({
    $schema: z.string().optional().describe("For editors; not read."),
    doors: z
      .array(z.union([door, tcpDoor]))
      .min(1)
      .optional()
      .describe("Left out: one door for the user who runs legerd."),
    cache_entries: z
      .int()
      .min(0)
      .max(1_000_000)
      .optional()
      .describe("Values kept decrypted in memory; 0 for none. Left out: 1000."),
    snapshot_seconds: z
      .number()
      .min(0)
      .max(600)
      .optional()
      .describe(
        "How long one start of a unit gets its secrets by Podman's driver as they stood at its first lookup; 0 for not at all. Left out: 10.",
      ),
    audit: z
      .strictObject({
        max_bytes: z
          .int()
          .min(8 * 1024 * 1024)
          .max(1024 ** 4)
          .optional()
          .describe("Size of the audit logs all together; the oldest go first. Left out: 1 GiB."),
        repeats_seconds: z
          .int()
          .min(0)
          .max(3_600)
          .optional()
          .describe(
            "How long repeats of a request are counted before one line tells of them; 0: a line each. Left out: 60.",
          ),
      })
      .optional()
      .describe("The audit logs."),
  });
}

async function check(file: string, value: unknown): Promise<DaemonConfig> {
  const config = await configSchema();
  const parsed = config.safeParse(value);
  if (!parsed.success) {
    const issues = parsed.error.issues.flatMap((issue) => ofMeantDoor(issue, value));
    const faults = issues.map((issue) => `${placeOf(issue.path)}: ${lowerFirst(issue.message)}`);
    throw new LegerError("CONFIG", `read ${file}: ${faults.join("; ")}`);
  }
  const { cache_entries: cacheEntries, snapshot_seconds: seconds, audit } = parsed.data;
  const doors = parsed.data.doors?.filter((door) => "unix" in door);
  const tcpDoors = parsed.data.doors?.filter((door) => "tcp" in door) ?? [];
  const seen = new Set<string>();
  for (const { unix, name } of doors ?? []) {
    if (seen.has(path.normalize(unix))) throw new LegerError("CONFIG", `read ${file}: two doors at ${unix}`);
    seen.add(path.normalize(unix));
    requireApart(file, unix, doors ?? []);
    if (name === undefined) continue;
    // No path is like a name: it begins with a slash.
    if (seen.has(name)) throw new LegerError("CONFIG", `read ${file}: two doors with the name ${name}`);
    seen.add(name);
  }
  return {
    // Without one for the user there is the usual one.
    doors:
      doors === undefined || doors.length === 0
        ? undefined
        : doors.map(({ mode, grants, ...rest }) => ({ ...rest, mode: Number.parseInt(mode, 8), grants })),
    tcpDoors: tcpDoors.map(({ tcp, ...rest }) => ({
      ...rest,
      tls: rest.tls,
      tcp: addressOf(file, tcp, rest.tls !== undefined),
    })),
    cacheEntries,
    snapshotMs: seconds === undefined ? undefined : seconds * 1_000,
    audit: {
      maxBytes: audit?.max_bytes,
      foldMs: audit?.repeats_seconds === undefined ? undefined : audit.repeats_seconds * 1_000,
    },
  };
}

/** "127.0.0.1:8080", "[::1]:8080". Throws CONFIG for what is none, and for one that others reach without TLS. */
function addressOf(file: string, text: string, hasTls: boolean): { address: string; port: number } {
  const colon = text.lastIndexOf(":");
  const address = text.slice(0, colon).replace(/^\[(.*)\]$/, "$1");
  const port = Number(text.slice(colon + 1));
  if (isIP(address) === 0 || port > 65_535) {
    throw new LegerError("CONFIG", `read ${file}: ${JSON.stringify(text)} is no address with a port`);
  }
  if (!hasTls && !LOOPBACK.check(address, isIP(address) === 6 ? "ipv6" : "ipv4")) {
    throw new LegerError("CONFIG", `read ${file}: the door at ${text} would send secrets in the clear`, {
      hints: ['give it "tls": {"certificate": FILE, "key": FILE}, or a loopback address'],
    });
  }
  return { address, port };
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");

type Issue = { path: PropertyKey[]; message: string; code?: string; errors?: Issue[][] };

/** A door is on TCP where it says so, and else a unix socket's; what is wrong with it is told of that kind alone. */
function ofMeantDoor(issue: Issue, value: unknown): Issue[] {
  const { code, errors, path: keys } = issue;
  if (code !== "invalid_union" || errors === undefined) return [issue];
  let door: unknown = value;
  for (const key of keys)
    door = typeof door === "object" && door !== null ? Reflect.get(door, key) : undefined;
  const isOnTcp = typeof door === "object" && door !== null && "tcp" in door;
  return (errors[isOnTcp ? 1 : 0] ?? []).map((inner) => ({ ...inner, path: [...keys, ...inner.path] }));
}

/**
 * A directory is what a container gets: no other door may lie in it or below it. Throws CONFIG. Doors that may have
 * everything may lie above others, as the user's own does.
 */
function requireApart(
  file: string,
  unix: string,
  doors: readonly { unix: string; grants?: unknown }[],
): void {
  const directory = path.dirname(path.normalize(unix));
  for (const other of doors) {
    const at = path.normalize(other.unix);
    if (at === path.normalize(unix)) continue;
    const below = `${path.dirname(at)}/`.startsWith(`${directory}/`);
    const restricted = doors.find((door) => door.unix === unix)?.grants !== undefined;
    if (path.dirname(at) !== directory && !(below && restricted)) continue;
    throw new LegerError("CONFIG", `read ${file}: the doors at ${unix} and ${other.unix} share a directory`, {
      hints: [
        "whoever is given a directory has every door in it: give each one of its own, like doors/NAME/legerd.sock",
      ],
    });
  }
}

function placeOf(keys: readonly PropertyKey[]): string {
  const text = keys.map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`)).join("");
  return text === "" ? "the file" : text.replace(/^\./, "");
}

function lowerFirst(text: string): string {
  return text.slice(0, 1).toLowerCase() + text.slice(1);
}
