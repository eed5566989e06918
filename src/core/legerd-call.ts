/** legerd-call — one call to a route of leger's own: who asks, until when, and what a refusal means. */

import { isErrorCode, LegerError } from "./error.ts";
import { badAnswer, DEFAULT_TIMEOUT_MS, type Wire, type WireAnswer, type WireRequest } from "./wire.ts";

type Env = Readonly<Record<string, string | undefined>>;

export type LegerdCall = Pick<WireRequest, "method" | "path" | "headers" | "body"> & {
  /** Begins the message of any failure: "look up 5d41402abc4b2a76b9719d911". */
  doing: string;
  /** What a good answer carries, without parameters: "application/json". */
  contentType: string;
  /** A header that no other server's answer has. */
  proof?: string;
  /** How long until the caller must be done. */
  remainingMs: number;
};

/**
 * Resolves with an answer of status 200 and the expected kind only. A refusal of legerd's comes back with the
 * code, message and hints that legerd gave it; else UNREACHABLE, DENIED or BAD_ANSWER.
 */
export async function callLegerd(wire: Wire, call: LegerdCall): Promise<WireAnswer> {
  const { doing, contentType, proof, remainingMs, ...request } = call;
  // Whole tenths of a second read better in "did not answer within …".
  const timeoutMs = Math.max(100, Math.min(DEFAULT_TIMEOUT_MS, Math.floor(remainingMs / 100) * 100));
  try {
    const answer = await wire.request({ ...request, timeoutMs });
    if (answer.status !== 200) throw refusalOf(answer);
    if (contentTypeOf(answer) !== contentType) throw badAnswer(`its Content-Type is not ${contentType}`);
    if (proof !== undefined && !answer.headers.has(proof)) throw badAnswer(`no header ${proof}`);
    return answer;
  } catch (error) {
    if (!(error instanceof LegerError) || error.message.startsWith(`${doing}: `)) throw error;
    const { code, message, hints, cause } = error;
    throw new LegerError(code, `${doing}: ${message}`, { hints, cause });
  }
}

/**
 * Headers that say on whose behalf we ask, for the audit log: PODMAN_SYSTEMD_UNIT or else the service whose
 * cgroup we are in, and INVOCATION_ID. Whatever isn't such a name is left out: no secret is refused for it.
 */
export function originHeaders(env: Env, cgroup = ""): Record<string, string> {
  const unit = env["PODMAN_SYSTEMD_UNIT"] ?? serviceOf(cgroup);
  const invocation = env["INVOCATION_ID"];
  return {
    ...(unit !== undefined && UNIT_NAME.test(unit) ? { "leger-unit": unit } : {}),
    ...(invocation !== undefined && INVOCATION_ID.test(invocation) ? { "leger-invocation": invocation } : {}),
  };
}

/** systemd.unit(5): at most 255 characters of these. */
const UNIT_NAME = /^[A-Za-z0-9:_.\\@-]{1,255}$/;
/** systemd.exec(5): 128 bits as 32 hexadecimal digits. */
const INVOCATION_ID = /^[0-9A-Fa-f]{32}$/;

/** The innermost unit in the text of /proc/self/cgroup, if it is a service: a terminal is in some scope. */
function serviceOf(cgroup: string): string | undefined {
  const path = /^(?:0:|\d+:name=systemd):(\/.*)$/m.exec(cgroup)?.[1] ?? "";
  const unit = path.split("/").findLast((part) => /\.(?:service|scope)$/.test(part));
  return unit?.endsWith(".service") === true ? unit : undefined;
}

function refusalOf({ status, headers, body }: WireAnswer): LegerError {
  const told = contentTypeOf({ headers }) === "application/json" ? refusalIn(body) : undefined;
  if (told !== undefined) return told;
  if (status === 403) return new LegerError("DENIED", "legerd denies it to whoever comes through this door");
  return badAnswer(`status ${status}, without legerd's reason`);
}

/** `{"error":{"code","message","hints"}}`, or undefined for anything else. */
function refusalIn(body: Uint8Array): LegerError | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(body).toString("utf8"));
  } catch {
    return undefined;
  }
  const error = isObject(parsed) ? parsed["error"] : undefined;
  if (!isObject(error)) return undefined;
  const { code, message, hints } = error;
  if (typeof code !== "string" || typeof message !== "string" || message === "") return undefined;
  const advice = Array.isArray(hints) ? hints.filter((hint) => typeof hint === "string") : [];
  return new LegerError(isErrorCode(code) ? code : "FAILED", oneLine(message), {
    hints: advice.slice(0, MAX_HINTS).map(oneLine),
  });
}

const MAX_HINTS = 5;
const MAX_LINE_CHARS = 1_000;

/** Fit for a terminal, whoever wrote it. */
function oneLine(text: string): string {
  return text.slice(0, MAX_LINE_CHARS).replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, " ");
}

function contentTypeOf({ headers }: Pick<WireAnswer, "headers">): string {
  return (headers.get("content-type") ?? "").split(";", 1)[0]?.trim().toLowerCase() ?? "";
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
