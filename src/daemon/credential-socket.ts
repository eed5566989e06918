/** credential-socket — paths at which whoever connects is given bytes that are ready, and nothing else. */
import * as fs from "node:fs";
import * as net from "node:net";
import path from "node:path";
import type { AuditEntry, AuditLog } from "../store/audit.ts";

/** What a socket gives, and what the audit log says about it. */
export type Gift = { bytes: Uint8Array; entries: readonly AuditEntry[] };

/** As many as a burst of starting units can bring; the kernel allows what net.core.somaxconn says. */
const BACKLOG = 4_096;
/** More who don't read than this are let go of, the oldest first. */
const MAX_OPEN = 2_000;

/**
 * Those who are being given something. systemd takes a connection that closes for the end of its credential, and starts the
 * unit with what came: so nothing may be between accept and write that could fail, wait, or take long. The kernel resets a
 * connection that was never accepted, and systemd then fails the start.
 */
export class Deliveries {
  readonly #audit: AuditLog;
  readonly #log: (line: string) => void;
  readonly #dropAfterMs: number;
  readonly #open = new Set<net.Socket>();
  #ended: (() => void) | undefined;

  constructor(audit: AuditLog, log: (line: string) => void, dropAfterMs: number) {
    this.#audit = audit;
    this.#log = log;
    this.#dropAfterMs = dropAfterMs;
  }

  /**
   * Gives it whole in this turn, as far as the kernel's buffer (208 KiB) reaches; the rest as it is read. Only then comes the audit
   * line, for which there would be a disk between accept and write; and then the end of the connection, without which
   * systemd has nothing: what cannot be audited starts no unit.
   */
  give(socket: net.Socket, { bytes, entries }: Gift): void {
    socket.write(bytes);
    try {
      this.#audit.appendNow(entries);
      socket.end(() => socket.destroy());
    } catch (error) {
      // Left open: the unit's time to start runs out.
      const why = error instanceof Error ? error.message : "unknown error";
      this.#log(`legerd: error: a credential is not given: ${why}`);
    }
    const timer = setTimeout(() => socket.destroy(), this.#dropAfterMs).unref();
    this.#open.add(socket);
    socket.on("error", () => socket.destroy());
    socket.once("close", () => {
      clearTimeout(timer);
      this.#open.delete(socket);
      if (this.#open.size === 0) this.#ended?.();
    });
    if (this.#open.size > MAX_OPEN) [...this.#open][0]?.destroy();
  }

  /** Resolves once all have what they came for, or `graceMs` later. */
  async end(graceMs: number): Promise<void> {
    if (this.#open.size === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#ended = resolve;
    const timer = setTimeout(resolve, graceMs);
    await promise;
    clearTimeout(timer);
    for (const socket of this.#open) socket.destroy();
  }
}

/** A socket (0600) at one path, from when it is made until it is closed. */
export class CredentialSocket {
  /** What the next connection is given. */
  gift: Gift;
  readonly file: string;
  readonly #server: net.Server;

  /**
   * It appears at its path listening, in place of whatever was there. False where that cannot be, which is then logged;
   * `directory` is where it is made, on the same file system.
   */
  static open(
    { file, directory, gift }: { file: string; directory: string; gift: Gift },
    deliveries: Deliveries,
    log: (line: string) => void,
  ): CredentialSocket | undefined {
    const server = net.createServer({ pauseOnConnect: true });
    const opened = new CredentialSocket(file, server, gift);
    server.on("connection", (socket) => deliveries.give(socket, opened.gift));
    server.on("error", (error) => log(`legerd: error: credential socket ${file}: ${codeOf(error)}`));
    // A name of its own each time: closing a server removes what it was once bound to. And a short one: a socket's path has
    // 107 bytes at most, the one that it is moved to need not.
    made += 1;
    const temporary = path.join(directory, `.${process.pid}-${made}`);
    const mask = process.umask(0o177);
    try {
      // Node binds and listens at once; only the news of it comes later.
      server.listen({ path: temporary, backlog: BACKLOG });
    } finally {
      process.umask(mask);
    }
    if (!server.listening) return undefined;
    try {
      fs.renameSync(temporary, file);
    } catch (error) {
      log(`legerd: error: credential socket ${file}: ${codeOf(error)}`);
      server.close();
      return undefined;
    }
    return opened;
  }

  private constructor(file: string, server: net.Server, gift: Gift) {
    this.file = file;
    this.#server = server;
    this.gift = gift;
  }

  /** Takes it away; who was connected and not yet seen to is reset. */
  close(): void {
    fs.rmSync(this.file, { force: true });
    this.#server.close();
  }
}

let made = 0;

/**
 * Gives something to ourselves some times over. What is done for the first time takes Node a hundred times as long, and units
 * that have waited for legerd all come at once.
 */
export async function practise(directory: string, deliveries: Deliveries): Promise<void> {
  const gift = { bytes: Buffer.from("x"), entries: [] };
  const file = path.join(directory, `.${process.pid}-practice`);
  const socket = CredentialSocket.open({ file, directory, gift }, deliveries, () => {});
  if (socket === undefined) return;
  for (let time = 0; time < PRACTICE; time += 1) {
    const { promise, resolve } = Promise.withResolvers<void>();
    const connection = net.connect({ path: file }).resume();
    connection.setTimeout(PRACTICE_TIMEOUT_MS, () => connection.destroy());
    connection.on("error", () => connection.destroy());
    connection.once("close", () => resolve());
    await promise;
  }
  socket.close();
}

const PRACTICE = 30;
const PRACTICE_TIMEOUT_MS = 1_000;

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : "failed";
}
