/** wire — one request, one answer: the shape, and HTTP/1.0 as bytes. */

import { LegerError } from "./error.ts";

export type WireRequest = {
  method: string;
  /** Path and query, percent-encoded by the caller. */
  path: string;
  headers?: Readonly<Record<string, string>>;
  body?: Uint8Array;
  /** For everything, from connecting to the last byte. DEFAULT_TIMEOUT_MS where absent. */
  timeoutMs?: number;
};

export type WireAnswer = {
  status: number;
  /** Keys in lower case; a header that came twice has its values joined by ", ". */
  headers: ReadonlyMap<string, string>;
  body: Uint8Array;
};

/** Each runtime brings its own. */
export interface Wire {
  /** Resolves with any complete answer, whatever its status; fails with UNREACHABLE, DENIED or BAD_ANSWER. */
  request(request: WireRequest): Promise<WireAnswer>;
}

/** Leaves the driver room to start and to speak within its five seconds. */
export const DEFAULT_TIMEOUT_MS = 4_000;

export const MAX_HEAD_BYTES = 64 * 1024;
/** Of an answer, where nobody says otherwise. */
export const MAX_BODY_BYTES = 1.5 * 1024 * 1024;

/** An answer longer than this is not worth reading on. */
export const MAX_ANSWER_BYTES = MAX_HEAD_BYTES + MAX_BODY_BYTES;

/** One request as it goes over the socket. A part that HTTP cannot carry is BAD_DATA, named without its content. */
export function encodeRequest({
  method,
  path,
  headers = {},
  body = new Uint8Array(),
}: WireRequest): Uint8Array {
  if (!/^[A-Z]+$/.test(method)) throw unsendable("the method");
  if (!/^\/[!-~]*$/.test(path)) throw unsendable("the path");
  let head = `${method} ${path} HTTP/1.0\r\nHost: legerd\r\nContent-Length: ${body.length}\r\n`;
  for (const [name, value] of Object.entries(headers)) {
    if (!TOKEN.test(name) || FRAMING.has(name.toLowerCase())) throw unsendable("the name of a header");
    if (!/^[\t\x20-\x7e]*$/.test(value)) throw unsendable(`the header ${name}`);
    head += `${name}: ${value}\r\n`;
  }
  // ASCII, as everything in it was found to be. Not by Buffer, whose first use takes Bun a fifth of a millisecond.
  const headBytes = new TextEncoder().encode(`${head}\r\n`);
  if (body.length === 0) return headBytes;
  const whole = new Uint8Array(headBytes.length + body.length);
  whole.set(headBytes);
  whole.set(body, headBytes.length);
  return whole;
}

/**
 * A whole answer, read to end of file. Anything but a well-formed head and exactly as many bytes as its
 * Content-Length says is BAD_ANSWER: a connection that ended early must not pass for a shorter secret.
 * Messages never quote the answer.
 */
export function decodeAnswer(bytes: Uint8Array, maxBodyBytes = MAX_BODY_BYTES): WireAnswer {
  if (bytes.length === 0) throw badAnswer("it closed the connection without an answer");
  const head = headOf(bytes);
  if (head === undefined) throw badAnswer("no end of the headers");
  const [statusLine = "", ...lines] = head.split("\r\n");
  const status = Number(/^HTTP\/1\.[01] ([2-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?$/.exec(statusLine)?.[1]);
  if (Number.isNaN(status)) throw badAnswer("no status line");

  const headers = new Map<string, string>();
  for (const line of lines) {
    const [, name = "", value = ""] = /^([^:]*):[\t ]*(.*?)[\t ]*$/.exec(line) ?? [];
    if (!TOKEN.test(name) || !/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) throw badAnswer("a malformed header");
    const key = name.toLowerCase();
    const earlier = headers.get(key);
    headers.set(key, earlier === undefined ? value : `${earlier}, ${value}`);
  }

  const length = headers.get("content-length");
  if (headers.has("transfer-encoding")) throw badAnswer("a Transfer-Encoding");
  if (length === undefined) throw badAnswer("no Content-Length");
  if (!/^\d{1,10}$/.test(length)) throw badAnswer("a malformed Content-Length");
  if (Number(length) > maxBodyBytes) throw tooLong(maxBodyBytes);
  const body = bytes.subarray(head.length + END_OF_HEAD.length);
  if (body.length < Number(length)) throw badAnswer("an answer shorter than its Content-Length");
  if (body.length > Number(length)) throw badAnswer("an answer longer than its Content-Length");
  return { status, headers, body };
}

const END_OF_HEAD = "\r\n\r\n";

/** What stands before the body, a character for each byte; undefined where it has no end, or is too long. */
function headOf(bytes: Uint8Array): string | undefined {
  let head = "";
  for (let at = 0; at < Math.min(bytes.length, MAX_HEAD_BYTES); at += 1) {
    const byte = bytes[at] ?? 0;
    head += String.fromCharCode(byte);
    if (byte === LF && head.endsWith(END_OF_HEAD)) return head.slice(0, -END_OF_HEAD.length);
  }
  return undefined;
}

const LF = 0x0a;

/** Nobody answers at this socket: what happened, and how to start legerd there. */
export function unreachable(socketPath: string, what: string, cause?: unknown): LegerError {
  return new LegerError("UNREACHABLE", `legerd at ${socketPath}: ${what}`, {
    hints: howToStart(socketPath),
    cause,
  });
}

/** No connection came about: `code` is the POSIX code of why. */
export function unconnected(socketPath: string, code: string, cause?: unknown): LegerError {
  if (code === "ENOENT") return unreachable(socketPath, "no socket there", cause);
  if (code === "ECONNREFUSED") return unreachable(socketPath, "nobody listens", cause);
  if (code === "EACCES" || code === "EPERM") {
    return new LegerError("DENIED", `legerd at ${socketPath}: not allowed to connect`, {
      hints: [
        "run this as the user whose legerd it is, or name another socket with --socket or LEGER_SOCKET",
      ],
      cause,
    });
  }
  return unreachable(socketPath, `cannot connect (${code})`, cause);
}

/** A connection ended by an error, with this POSIX code. */
export function brokenOff(code: string): LegerError {
  return badAnswer(`it broke the connection off (${code})`);
}

/** Advice for when nobody answers at a socket. */
export function howToStart(socketPath: string): readonly string[] {
  const user = socketPath.startsWith("/run/leger/") ? "" : " --user";
  return [
    `start it: legerd; or, where it is installed as a service: systemctl${user} start legerd.socket`,
    `see what the service says: journalctl${user} -u legerd`,
  ];
}

/** Somebody answers, but not as legerd does. `what` must quote nothing that came over the socket. */
export function badAnswer(what: string): LegerError {
  return new LegerError("BAD_ANSWER", `legerd gave an answer that cannot be used: ${what}`, {
    hints: ["check that legerd, and nothing else, listens there, and that it is as new as this leger"],
  });
}

/** Nobody asked for as much. */
export function tooLong(maxBodyBytes: number): LegerError {
  return badAnswer(`more than ${maxBodyBytes / 2 ** 20} MiB`);
}

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** What this module itself says about a request's length and life. */
const FRAMING = new Set(["host", "content-length", "transfer-encoding", "connection"]);

function unsendable(part: string): LegerError {
  return new LegerError("BAD_DATA", `request to legerd: ${part} holds a character that HTTP cannot carry`);
}
