/** legerd — the daemon put together: one store, one audit log, its doors. */
import type * as http from "node:http";
import { LegerError } from "../core/error.ts";
import { compileGrants } from "../setec/grants.ts";
import { ACTIONS } from "../setec/protocol.ts";
import type { AuditLog } from "../store/audit.ts";
import { DAMAGE_HINTS, openStore, type Store } from "../store/store.ts";
import type { DaemonConfig, DoorConfig, TcpDoorConfig } from "./config.ts";
import { Credentials } from "./credentials.ts";
import { listenAt, listenAtInherited, SpoiltDoor } from "./doors.ts";
import { Pins } from "./pins.ts";
import { createDoorServer } from "./server.ts";
import { Session, type Caller } from "./session.ts";
import { createGate, listenAtTcp, readTls, watchTls } from "./tcp.ts";
import { Tokens } from "./tokens.ts";
import { Traffic } from "./traffic.ts";
import type { DoorFacts, StatusFacts } from "./request.ts";
import type { InheritedSocket } from "./systemd.ts";

export type LegerdOptions = {
  version: string;
  stateDir: string;
  credentialsDir?: string | undefined;
  doors: readonly DoorConfig[];
  tcpDoors?: readonly TcpDoorConfig[];
  /** Sockets that are open already; each is the door's that has its name. */
  inherited?: readonly InheritedSocket[];
  cacheEntries?: DaemonConfig["cacheEntries"];
  /** How long one start of a unit sees its secrets as they stood at its first lookup. */
  snapshotMs?: number | undefined;
  /** After which a reader of a credential that doesn't read is let go of; for tests. */
  dropCredentialAfterMs?: number;
  audit?: DaemonConfig["audit"] | undefined;
  /** How long after its start it begins to verify the whole store. */
  verifyAfterMs?: number | undefined;
  /** One line for the journal, without a newline. */
  log: (line: string) => void;
};

/** Podman asks for one secret after the other, with a process for each: that is over by then, and a rotation doesn't wait long. */
const SNAPSHOT_MS = 10_000;

/** Units that start with legerd ask for their secrets at once; that comes first. */
const VERIFY_AFTER_MS = 5_000;

/** A daemon that answers. */
export type Legerd = {
  /** Finishes what is under way, for at most `graceMs`, then closes the store. */
  stop(graceMs: number): Promise<void>;
  /** The unix sockets that it listens at: all that were named, but for those of SpoiltDoor. */
  readonly sockets: readonly string[];
  /** Rejects when it can no longer do its work; the process should then end. */
  readonly failed: Promise<never>;
};

/**
 * Opens the store and listens at every door; all of it or, with an error, none. Only a door with grants whose place was
 * spoilt stays closed alone.
 */
export async function startLegerd(options: LegerdOptions): Promise<Legerd> {
  const { stateDir, credentialsDir, doors, inherited = [], cacheEntries, log } = options;
  const sockets = socketsByDoor(doors, inherited);
  const store = openStore({
    stateDir,
    credentialsDir,
    ...(cacheEntries === undefined ? {} : { cacheEntries }),
  });
  // At once: should the rest of this start fail, the next one finds the store made.
  if (store.created) {
    log(`legerd: notice: made a new store in ${stateDir}`);
    log(
      `legerd: notice: its main key is ${store.mainKeyFile}: keep a copy elsewhere; without it every secret here is lost`,
    );
  }
  const servers: http.Server[] = [];
  const listening: DoorFacts[] = [];
  const watches = new DisposableStack();
  let audit: AuditLog | undefined;
  let credentials: Credentials | undefined;
  let noting: Noting | undefined;
  const closeAll = async (graceMs: number): Promise<void> => {
    watches.dispose();
    await credentials?.stop(graceMs);
    audit?.flush();
    await noting?.stop();
    await store.close();
    audit?.close();
  };
  try {
    const opened = store.openAudit({ ...options.audit, log });
    audit = opened;
    const { dropCredentialAfterMs: dropAfterMs } = options;
    const given = new Credentials({ doors, store, audit: opened, log, dropAfterMs });
    credentials = given;
    noting = noteRegularly(store, opened);
    const pins = new Pins({ windowMs: options.snapshotMs ?? SNAPSHOT_MS });
    const traffic = new Traffic();
    const startedAt = new Date();
    const facts: StatusFacts = {
      version: options.version,
      pid: process.pid,
      startedAt,
      stateDir,
      databaseFile: store.databaseFile,
      auditFile: opened.file,
      verifyAudit: async () => {
        opened.flush();
        return store.verifyAudit(opened.heads);
      },
      mainKeyFile: store.mainKeyFile,
      verification: () => store.verification,
      metrics: async () => {
        // Most legerds are never asked: they need not carry what it takes.
        const { metricsAnswer } = await import("./metrics.ts");
        const { version } = options;
        return metricsAnswer({
          version,
          startedAt,
          stateDir,
          store,
          audit: opened,
          traffic,
          credentials: given,
          servers,
        });
      },
      doors: listening,
    };
    const tokens = new Tokens(store);
    const open = (caller: Caller): Session =>
      new Session({ store, audit: opened, credentials: given, pins, tokens }, caller);
    for (const door of doors) {
      const access = door.grants === undefined ? undefined : compileGrants(door.grants);
      const server = createDoorServer({
        caller: { principal: door.principal, access, routes: door.routes },
        open,
        facts,
        traffic,
        log,
      });
      const socket = sockets.get(door);
      try {
        await (socket === undefined ? listenAt(server, door) : listenAtInherited(server, door, socket));
      } catch (error) {
        // A container may have done that to its own directory: all others are served as before.
        if (door.grants === undefined || !(error instanceof SpoiltDoor)) throw error;
        log(`legerd: error: ${error.message}; this door stays closed`);
        for (const hint of error.hints) log(`legerd: hint: ${hint}`);
        continue;
      }
      servers.push(server);
      listening.push({ ...door, mode: door.mode.toString(8).padStart(4, "0") });
      if (door.principal === "")
        log(`legerd: warning: door ${door.unix} names no principal: every call there is refused`);
      for (const word of unknownActions(door)) {
        log(
          `legerd: warning: door ${door.unix} grants ${JSON.stringify(word)}, which is no action and allows nothing`,
        );
      }
    }
    for (const door of options.tcpDoors ?? []) {
      const server = createDoorServer({
        caller: NOBODY,
        gate: createGate({ door, tokens, audit: opened, now: () => new Date() }),
        tls: door.tls === undefined ? undefined : readTls(door.tls),
        open,
        facts,
        traffic,
        log,
      });
      servers.push(server);
      if (door.tls !== undefined) watches.use(watchTls(server, door.tls, log));
      await listenAtTcp(server, door);
    }
    // Behind the doors: whoever could open them is the one legerd here.
    await given.start();
  } catch (error) {
    for (const server of servers) server.close();
    await closeAll(0);
    throw error;
  }
  const verifying = setTimeout(
    () => void verify(store, log),
    options.verifyAfterMs ?? VERIFY_AFTER_MS,
  ).unref();
  return {
    sockets: listening.map(({ unix }) => unix),
    failed: Promise.race([store.failed, audit.failed]),
    async stop(graceMs) {
      clearTimeout(verifying);
      const credentialsEnd = credentials?.stop(graceMs);
      await Promise.all([credentialsEnd, ...servers.map((server) => closeServer(server, graceMs))]);
      await closeAll(0);
    },
  };
}

/** Whoever sends a request at a door on TCP is known by its token alone. */
const NOBODY: Caller = { principal: "", access: compileGrants([]) };

/** Reads the store through, and says what came of it. */
async function verify(store: Store, log: (line: string) => void): Promise<void> {
  const verification = await store.verify();
  switch (verification.state) {
    case "whole":
      log(
        `legerd: verified the store: ${verification.records} records, ${verification.values} values, all as legerd wrote them`,
      );
      break;
    case "damaged": {
      const { problems } = verification;
      for (const problem of problems.slice(0, MAX_LOGGED_PROBLEMS)) log(`legerd: error: ${problem}`);
      log(
        `legerd: error: the store is damaged, problems: ${problems.length}; nothing is changed any more, and nothing said not to be there`,
      );
      for (const hint of DAMAGE_HINTS) log(`legerd: hint: ${hint}`);
      break;
    }
    case "failed":
      log(`legerd: warning: the store could not be verified: ${verification.reason}`);
      break;
    case "waiting":
    case "running":
      break;
    default:
      verification satisfies never;
  }
}

const MAX_LOGGED_PROBLEMS = 10;

type Noting = { stop(): Promise<void> };

/** How far the audit log may run ahead of what the store has noted of it. A change is noted with its commit. */
const NOTE_EVERY_MS = 10_000;

/** Keeps noting in the store how far the audit log has come, so that its end cannot be cut off unseen. */
function noteRegularly(store: Store, audit: AuditLog): Noting {
  let noted = audit.heads.everything.n;
  const note = async (): Promise<void> => {
    const { heads } = audit;
    if (heads.everything.n === noted) return;
    try {
      await store.noteAudit(heads);
      noted = heads.everything.n;
    } catch (error) {
      // The next change meets the same failure and says so to its caller; what was noted before still stands.
      if (!(error instanceof LegerError)) throw error;
    }
  };
  const timer = setInterval(() => void note(), NOTE_EVERY_MS).unref();
  return {
    async stop() {
      clearInterval(timer);
      await note();
    },
  };
}

/** CONFIG where there is no door for a socket: answering there would be a guess at who stands behind it. */
function socketsByDoor(
  doors: readonly DoorConfig[],
  inherited: readonly InheritedSocket[],
): Map<DoorConfig, InheritedSocket> {
  const sockets = new Map<DoorConfig, InheritedSocket>();
  for (const socket of inherited) {
    const name = JSON.stringify(socket.name);
    const door = doors.find((candidate) => candidate.name === socket.name);
    if (door === undefined) {
      throw new LegerError("CONFIG", `take over socket ${name}: no door of the configuration has that name`, {
        hints: [
          `give its door "name": ${name} in legerd.json, or let FileDescriptorName= of its .socket unit be the name of a door`,
        ],
      });
    }
    if (sockets.has(door))
      throw new LegerError("CONFIG", `take over socket ${name}: there are two of that name`);
    sockets.set(door, socket);
  }
  return sockets;
}

/** setec takes any word for an action, so legerd does, too; but a misspelt one should not go unnoticed. */
function unknownActions({ grants = [] }: DoorConfig): string[] {
  const words = new Set(grants.flatMap(({ action }) => action));
  return [...words].filter((word) => !KNOWN_ACTIONS.has(word));
}

const KNOWN_ACTIONS: ReadonlySet<string> = new Set(ACTIONS);

function closeServer(server: http.Server, graceMs: number): Promise<void> {
  return new Promise((resolve) => {
    const deadline = setTimeout(() => server.closeAllConnections(), graceMs);
    server.close(() => {
      clearTimeout(deadline);
      resolve();
    });
    server.closeIdleConnections();
  });
}
