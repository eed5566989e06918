/** setec-api — setec's eight operations, answer for answer. */
import { LegerError } from "../core/error.ts";
import { nextTurn } from "../core/turn.ts";
import { decodeRequest, type SetecRequest } from "../setec/decode.ts";
import {
  encodeInfo,
  encodeList,
  encodeValue,
  refusals,
  type Refusal,
  type Route,
} from "../setec/protocol.ts";
import type { VersionedValue } from "../store/store.ts";
import { jsonText, refuse, type Answer } from "./answer.ts";
import type { Session } from "./session.ts";

/** Names that setec keeps for itself: writes to them are turned down. */
const RESERVED = "_internal/";
const DONE = jsonText("{}");
/** Secrets of a list that are encoded in one go: some 0.3 ms. */
const LIST_PIECE = 512;

/** Answers one operation. `body` is the request's, whole. Errors of the store that setec has no word for are thrown. */
export async function answerSetec(route: Route, session: Session, body: Buffer): Promise<Answer> {
  const request = decodeRequest(body, route.fields);
  if (request === undefined) return refuse(refusals.badRequest);
  try {
    return await operate(route.operation, session, request);
  } catch (error) {
    if (error instanceof TurnedDown) return refuse(error.refusal);
    if (error instanceof LegerError) {
      const refusal = refusalOf(error);
      if (refusal !== undefined) return refuse(refusal);
    }
    throw error;
  }
}

async function operate(
  operation: Route["operation"],
  session: Session,
  request: SetecRequest,
): Promise<Answer> {
  const { name, version, value } = request;
  switch (operation) {
    case "list": {
      return jsonText(await encodeVisible(session));
    }
    case "get":
      return answerGet(session, request);
    case "info":
      return jsonText(encodeInfo(session.info(name)));
    case "put":
      refuseEmptyName(name);
      refuseReserved(session, "put", name);
      return jsonText(String(await session.mutate("put", { do: "put", name, value })));
    case "create-version":
      refuseEmptyName(name);
      if (version === 0) throw new TurnedDown(refusals.invalidVersion);
      await session.mutate("create-version", { do: "create-version", name, version, value });
      return DONE;
    case "activate":
      refuseEmptyName(name);
      refuseReserved(session, "activate", name, version);
      refuseZero(session, "activate", name, version);
      await session.mutate("activate", { do: "activate", name, version });
      return DONE;
    case "delete":
      refuseReserved(session, "delete", name);
      await session.mutate("delete", { do: "delete", name });
      return DONE;
    case "delete-version":
      refuseReserved(session, "delete", name, version);
      refuseZero(session, "delete", name, version);
      await session.mutate("delete", { do: "delete-version", name, version });
      return DONE;
    default:
      return operation satisfies never;
  }
}

/** The list as JSON, made a piece at a time: 100,000 secrets would keep everybody else waiting. */
async function encodeVisible(session: Session): Promise<string> {
  const infos = await session.list();
  const encoded: string[] = [];
  for (const [at, info] of infos.entries()) {
    if (session.sees(info)) encoded.push(encodeInfo(info));
    if (at % LIST_PIECE === LIST_PIECE - 1) await nextTurn();
  }
  return encodeList(encoded);
}

function answerGet(session: Session, { name, version, updateIfChanged }: SetecRequest): Answer {
  if (version === 0) return answerValue(session.get(name));
  if (!updateIfChanged) return answerValue(session.get(name, version));
  const changed = session.getIfChanged(name, version);
  return changed === undefined ? { status: 304, headers: {}, body: "" } : answerValue(changed);
}

function answerValue({ version, value }: VersionedValue): Answer {
  const bytes = value.reveal();
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
  return jsonText(encodeValue({ Value: text, Version: version }));
}

/** setec turns these down with an answer of their own, some before and some after it has noted them. */
class TurnedDown extends Error {
  readonly refusal: Refusal;

  constructor(refusal: Refusal) {
    super();
    this.refusal = refusal;
  }
}

function refuseEmptyName(name: string): void {
  if (name === "") throw new TurnedDown(refusals.internal);
}

function refuseReserved(
  session: Session,
  action: "put" | "activate" | "delete",
  name: string,
  version?: number,
): void {
  if (name.startsWith(RESERVED)) turnDown(session, action, name, version);
}

function refuseZero(session: Session, action: "activate" | "delete", name: string, version: number): void {
  if (version === 0) turnDown(session, action, name, version);
}

function turnDown(
  session: Session,
  action: "put" | "activate" | "delete",
  name: string,
  version?: number,
): never {
  session.authorize(action, name, version);
  session.recordTurnedDown(action, name, version);
  throw new TurnedDown(refusals.internal);
}

function refusalOf({ code }: LegerError): Refusal | undefined {
  if (code === "DENIED") return refusals.accessDenied;
  if (code === "SECRET_NOT_FOUND" || code === "VERSION_NOT_FOUND") return refusals.notFound;
  if (code === "VERSION_CLAIMED") return refusals.versionClaimed;
  if (code === "REFUSED") return refusals.internal;
  return undefined;
}
