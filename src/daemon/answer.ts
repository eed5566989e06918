/** answer — what a route hands back, and how leger's own routes say no. */
import { LegerError, type ErrorCode } from "../core/error.ts";
import { headers, type Refusal } from "../setec/protocol.ts";

export type Answer = {
  status: number;
  /** Lower-case names. `content-length` is added by the server. */
  headers: Readonly<Record<string, string>>;
  body: Uint8Array | string;
};

const JSON_HEADERS = { [headers.contentType]: headers.json };
const REFUSAL_HEADERS = {
  [headers.contentType]: headers.plainText,
  [headers.contentTypeOptions]: headers.nosniff,
};

/** 200 with text that is JSON already. */
export function jsonText(body: string): Answer {
  return { status: 200, headers: JSON_HEADERS, body };
}

export function json(value: unknown): Answer {
  return jsonText(`${JSON.stringify(value)}\n`);
}

/** setec's way of saying no: plain text. */
export function refuse({ status, body }: Refusal): Answer {
  return { status, headers: REFUSAL_HEADERS, body };
}

/** leger's way of saying no: `{"error":{"code","message","hints"}}`, so that a client can say it in full. */
export function refuseWith(error: LegerError): Answer {
  const { code, message, hints } = error;
  return { ...json({ error: { code, message, hints } }), status: statusOf(code) };
}

function statusOf(code: ErrorCode): number {
  switch (code) {
    case "SECRET_NOT_FOUND":
    case "VERSION_NOT_FOUND":
    case "SERVICE_NOT_FOUND":
      return 404;
    case "DENIED":
      return 403;
    case "USAGE":
    case "BAD_DATA":
      return 400;
    case "REFUSED":
    case "VERSION_CLAIMED":
      return 409;
    case "FAILED":
    case "DIFFERENT":
    case "DAMAGED":
    case "UNREACHABLE":
    case "BAD_ANSWER":
    case "BUG":
    case "IO":
    case "UNSAFE":
    case "CONFIG":
      return 500;
    default:
      return code satisfies never;
  }
}
