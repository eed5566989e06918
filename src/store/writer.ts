/**
 * writer — the thread that owns the store's only writing connection.
 *
 * A thread of its own, so that waiting for the disk never delays a read. What has queued up while one commit was
 * on its way goes into the next together: one fsync for all of it.
 */
import { LegerError, type ErrorCode } from "../core/error.ts";
import type { AuditHeads } from "./audit.ts";
import type { ServiceRecord, TokenRecord } from "./rows.ts";
import type { StoreKeys } from "./seal.ts";
import { startThread } from "./start-thread.ts";

/** What can be asked of the writer. Every answer is a version number; 0 where there is none to tell. */
export type Mutation =
  | { do: "put"; name: string; value: Uint8Array }
  | { do: "create-version"; name: string; version: number; value: Uint8Array }
  | { do: "activate"; name: string; version: number }
  | { do: "delete-version"; name: string; version: number }
  | { do: "delete"; name: string }
  | { do: "link"; id: string; secret: string }
  | { do: "keep"; id: string; value: Uint8Array }
  | { do: "unlink"; id: string }
  | { do: "set-service"; service: ServiceRecord }
  | { do: "delete-service"; name: string }
  | { do: "create-token"; token: TokenRecord }
  | { do: "revoke-token"; name: string };

/** `heads`: how far the audit logs have come, which is committed along. */
export type Request =
  | { ticket: number; mutation: Mutation | undefined; heads: AuditHeads | undefined }
  | { stop: true };
export type Failure = { code: ErrorCode; message: string; hints: readonly string[] };
export type Outcome = { ticket: number; version: number } | { ticket: number; failure: Failure };
export type Answer = Outcome & { generation: bigint };

export type Start = { role: "leger store writer"; file: string; storeId: Uint8Array; dataKey: Uint8Array };

/** The writer as the main thread sees it. */
export type Writer = {
  /** Resolves once the mutation is durable, and with it how far the audit logs have come. Throws LegerError. */
  run(mutation: Mutation | undefined, heads?: AuditHeads): Promise<number>;
  /** The generation of the last commit that was answered for. */
  readonly generation: bigint;
  /** Finishes what was asked, then ends the thread. */
  close(): Promise<void>;
  /** Rejects when the thread ends by itself: nothing can be written any more. */
  readonly failed: Promise<never>;
};

/** Starts the thread on a database that `prepareDatabase` has checked. */
export function startWriter(file: string, { storeId, dataKey }: StoreKeys): Writer {
  const start: Start = { role: "leger store writer", file, storeId, dataKey };
  const worker = startThread(start);
  const waiting = new Map<
    number,
    { resolve: (version: number) => void; reject: (error: LegerError) => void }
  >();
  let nextTicket = 0;
  let closing = false;
  let generation = 0n;
  const { promise: failed, reject: fail } = Promise.withResolvers<never>();
  failed.catch(() => {});
  const giveUp = (cause: unknown): void => {
    const error = new LegerError("BUG", "the store's writer ended", { cause });
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
    fail(error);
  };
  worker.on("message", (answer: Answer) => {
    const caller = waiting.get(answer.ticket);
    waiting.delete(answer.ticket);
    generation = answer.generation;
    if ("failure" in answer) {
      const { code, message, hints } = answer.failure;
      caller?.reject(new LegerError(code, message, { hints }));
    } else {
      caller?.resolve(answer.version);
    }
  });
  worker.on("error", giveUp);
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  worker.on("exit", (status) => {
    if (!closing || status !== 0) giveUp(new Error(`exit status ${status}`));
    end();
  });
  return {
    failed,
    get generation() {
      return generation;
    },
    run(mutation, heads) {
      if (closing) return Promise.reject(new LegerError("REFUSED", "the store is closing"));
      const { promise, resolve, reject } = Promise.withResolvers<number>();
      nextTicket += 1;
      waiting.set(nextTicket, { resolve, reject });
      worker.postMessage({ ticket: nextTicket, mutation, heads } satisfies Request);
      return promise;
    },
    close() {
      closing = true;
      worker.postMessage({ stop: true } satisfies Request);
      return ended;
    },
  };
}
