/** writer-thread — what runs in the thread that owns the store's only writing connection. */
import { receiveMessageOnPort, type MessagePort } from "node:worker_threads";
import { LegerError } from "../core/error.ts";
import * as fs from "node:fs";
import { connect, markFileOf } from "./database.ts";
import { openMark } from "./mark.ts";
import { newOwner, Rows, type LinkRecord, type SecretRecord } from "./rows.ts";
import {
  decideActivate,
  decideCreateVersion,
  decideDeleteVersion,
  decidePut,
  hasNumber,
  type SecretState,
} from "./versions.ts";
import type { Answer, Failure, Mutation, Outcome, Request, Start } from "./writer.ts";

type Task = Exclude<Request, { stop: true }>;

/** Most mutations that one commit takes along; keeps a commit, and the wait for it, short. */
const MAX_BATCH = 256;

export function serveWriter(port: MessagePort, { file, storeId, dataKey }: Start): void {
  const db = connect(file, "write");
  const keys = { storeId: Buffer.from(storeId), dataKey: Buffer.from(dataKey) };
  const rows = new Rows(db, keys);
  const mark = openMark(markFileOf(file), keys);
  const requireInPlace = watch([file, `${file}-wal`]);
  port.on("message", (first: Request) => {
    let request: Request | undefined = first;
    while (request !== undefined) {
      const batch: Task[] = [];
      let stop = false;
      while (request !== undefined && !stop) {
        if ("stop" in request) stop = true;
        else batch.push(request);
        request = batch.length < MAX_BATCH ? takeNext(port) : undefined;
      }
      const outcomes = runBatch(rows, batch, requireInPlace);
      const { generation } = rows;
      mark.set(generation);
      for (const outcome of outcomes) port.postMessage({ ...outcome, generation } satisfies Answer);
      if (stop) {
        db.close();
        mark.close();
        port.close();
        return;
      }
      request = takeNext(port);
    }
  });
}

function takeNext(port: MessagePort): Request | undefined {
  const received: { message: Request } | undefined = receiveMessageOnPort(port);
  return received?.message;
}

/**
 * SQLite goes on writing to a file that was removed, or that another was put in the place of, and what it commits
 * there is gone at the next start. The function that comes back throws DAMAGED once that has happened.
 */
function watch(files: readonly string[]): () => void {
  const opened = files.map(identityOf);
  return () => {
    const lost = files.find((file, at) => identityOf(file) !== opened[at]);
    if (lost === undefined) return;
    throw new LegerError("DAMAGED", `write to the store: ${lost} was removed or replaced under legerd`, {
      hints: ["nothing can be kept any more: see to the state directory, then restart legerd"],
    });
  };
}

function identityOf(file: string): string | undefined {
  const stat = fs.statSync(file, { throwIfNoEntry: false });
  return stat === undefined ? undefined : `${stat.dev} ${stat.ino}`;
}

function runBatch(rows: Rows, batch: readonly Task[], requireInPlace: () => void): Outcome[] {
  if (batch.length === 0) return [];
  try {
    requireInPlace();
    return rows.commit("write to the store", () => {
      // The log only ever grows: the newest stands for all of them.
      const heads = batch.findLast((task) => task.heads !== undefined)?.heads;
      if (heads !== undefined) rows.write("audit", { name: "heads", ...heads });
      return batch.map(({ ticket, mutation }): Outcome => {
        try {
          return { ticket, version: mutation === undefined ? 0 : apply(rows, mutation) };
        } catch (error) {
          // A mutation that was turned down has written nothing; the others of its batch go on. Anything
          // else may have stopped half-way, and takes the whole batch back.
          if (error instanceof LegerError) return { ticket, failure: describe(error) };
          throw error;
        }
      });
    });
  } catch (error) {
    const failure = describe(
      error instanceof LegerError ? error : new LegerError("BUG", "write to the store"),
    );
    return batch.map(({ ticket }) => ({ ticket, failure }));
  }
}

function describe({ code, message, hints }: LegerError): Failure {
  return { code, message, hints };
}

/** Reads and decides first, writes last: a LegerError from here means that nothing was written. */
function apply(rows: Rows, mutation: Mutation): number {
  switch (mutation.do) {
    case "put":
      return put(rows, mutation.name, mutation.value);
    case "create-version": {
      const { name, version, value } = mutation;
      const record = rows.read("secret", name);
      const state = decideCreateVersion(record, version);
      const owner = record?.owner ?? newOwner();
      rows.writeValue(owner, version, value);
      rows.write("secret", secretRecord(name, owner, state));
      return version;
    }
    case "activate": {
      const record = secretOf(rows, mutation.name);
      const next = decideActivate(record, mutation.version);
      if (next !== undefined) rows.write("secret", secretRecord(record.name, record.owner, next));
      return mutation.version;
    }
    case "delete-version": {
      const record = secretOf(rows, mutation.name);
      const next = decideDeleteVersion(record, mutation.version);
      rows.removeValue(record.owner, mutation.version);
      rows.write("secret", secretRecord(record.name, record.owner, next));
      return mutation.version;
    }
    case "delete": {
      const record = rows.read("secret", mutation.name);
      if (record === undefined) return 0;
      rows.removeValues(record.owner);
      rows.remove("secret", mutation.name);
      return 0;
    }
    case "link":
      replaceLink(rows, { name: mutation.id, secret: mutation.secret });
      return 0;
    case "keep": {
      const owner = newOwner();
      replaceLink(rows, { name: mutation.id, owner });
      rows.writeValue(owner, 1, mutation.value);
      return 0;
    }
    case "unlink":
      replaceLink(rows, mutation.id);
      return 0;
    case "set-service":
      rows.write("service", mutation.service);
      return 0;
    case "delete-service":
      rows.remove("service", mutation.name);
      return 0;
    case "create-token":
      rows.write("token", mutation.token);
      return 0;
    case "revoke-token":
      rows.remove("token", mutation.name);
      return 0;
    default:
      return mutation satisfies never;
  }
}

function put(rows: Rows, name: string, value: Uint8Array): number {
  const record = rows.read("secret", name);
  const { version, next } = decidePut(record, record !== undefined && equalsLatest(rows, record, value));
  if (next === undefined) return version;
  const owner = record?.owner ?? newOwner();
  rows.writeValue(owner, version, value);
  rows.write("secret", secretRecord(name, owner, next));
  return version;
}

/** setec compares a put with the value at the latest number, and with nothing where that was deleted. */
function equalsLatest(rows: Rows, record: SecretRecord, value: Uint8Array): boolean {
  if (!hasNumber(record.live, record.latest)) return value.length === 0;
  return rows.readValue(record.owner, record.latest).equals(value);
}

function secretRecord(
  name: string,
  owner: string,
  { active, latest, live, deleted }: SecretState,
): SecretRecord {
  return { name, owner, active, latest, live, deleted };
}

function secretOf(rows: Rows, name: string): SecretRecord {
  const record = rows.read("secret", name);
  if (record === undefined) throw new LegerError("SECRET_NOT_FOUND", `secret ${name}: not found`);
  return record;
}

/** Puts a link in place of what the same id stood for before, or with only an id: removes that. */
function replaceLink(rows: Rows, link: LinkRecord | string): void {
  const id = typeof link === "string" ? link : link.name;
  const old = rows.read("link", id);
  if (old !== undefined && "owner" in old) rows.removeValues(old.owner);
  if (typeof link === "string") rows.remove("link", id);
  else rows.write("link", link);
}

export function isWriterStart(data: unknown): data is Start {
  return typeof data === "object" && data !== null && "role" in data && data.role === "leger store writer";
}
