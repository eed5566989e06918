/** server — HTTP on one door: reads requests whole within limits, finds their route, writes the answer. */
import type * as http from "node:http";
import type { Duplex } from "node:stream";
import { LegerError } from "../core/error.ts";
import { headers as names, refusals } from "../setec/protocol.ts";
import { refuse, refuseWith, type Answer } from "./answer.ts";
import { findRoute, isOpenTo, routes, type Route } from "./routes.ts";
import type { Caller, Session } from "./session.ts";
import type { Gate } from "./tcp.ts";
import type { StatusFacts } from "./request.ts";
import type { Traffic } from "./traffic.ts";
import { asLocation, readTarget } from "./target.ts";

/** Not imported: that reads every export, and the getter of its WebSocket loads Node's fetch, 35 ms and 14 MB. */
const { createServer, STATUS_CODES } = process.getBuiltinModule("node:http");

/** What a door's server works with. */
export type ServerNeeds = {
  /** Who stands behind the door; at one on TCP nobody does, and `gate` says who sends a request. */
  caller: Caller;
  gate?: Gate | undefined;
  /** For a door on TCP: certificate and key. */
  tls?: { cert: Buffer; key: Buffer } | undefined;
  open: (caller: Caller) => Session;
  facts: StatusFacts;
  traffic: Traffic;
  /** One line for the journal. Never given a value. */
  log: (line: string) => void;
};

/** setec has no limit; a caller without grants could fill its memory. */
const MAX_BODY_BYTES = 1024 * 1024;
/** A body over the limit is read on and dropped up to here, so that its sender gets to read the answer. */
const MAX_DROPPED_BYTES = 64 * 1024 * 1024;
const HEADERS_TIMEOUT_MS = 10_000;
const REQUEST_TIMEOUT_MS = 30_000;
const IDLE_TIMEOUT_MS = 60_000;
const TIMEOUT_CHECK_MS = 2_000;
/** Longest a header of ours may be in the audit log. */
const MAX_ORIGIN_CHARS = 256;

/** The server of one door, not yet listening. */
export function createDoorServer(needs: ServerNeeds): http.Server {
  const options = {
    headersTimeout: HEADERS_TIMEOUT_MS,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: IDLE_TIMEOUT_MS,
    connectionsCheckingInterval: TIMEOUT_CHECK_MS,
    maxHeaderSize: 32 * 1024,
    // Checked here, as Go does: HTTP/1.0 clients may leave it out.
    requireHostHeader: false,
  };
  const server =
    needs.tls === undefined
      ? createServer(options, answer)
      : process.getBuiltinModule("node:https").createServer({ ...options, ...needs.tls }, answer);
  const newest = new WeakMap<Duplex, { request: http.IncomingMessage; response: http.ServerResponse }>();
  function answer(request: http.IncomingMessage, response: http.ServerResponse): void {
    const last = newest.get(request.socket);
    if (last === undefined) newest.set(request.socket, { request, response });
    else {
      last.request = request;
      last.response = response;
    }
    void answerRequest(needs, request, response);
  }
  // Go says "continue" only once it wants the body, and knows no other expectation.
  server.on("checkContinue", answer);
  server.on("checkExpectation", answer);
  server.on("connect", (request, socket) => {
    // Node lets go of it here, and would end the process for a client that does not wait for the answer.
    socket.on("error", () => socket.destroy());
    if (needs.gate !== undefined) {
      end(needs, socket, refuse(refusals.accessDenied));
      return;
    }
    const resolved = lookAtHead(needs.caller, request);
    end(needs, socket, "match" in resolved ? refuse(refusals.onlyPost) : resolved);
  });
  server.on("clientError", (error, socket) => {
    const last = newest.get(socket);
    if (last === undefined || last.response.writableFinished) {
      answerUnparsable(needs, error, socket);
    } else if (last.request.complete) {
      // Requests before this one are still being answered: theirs is the first word.
      last.response.once("finish", () => answerUnparsable(needs, error, socket));
    } else {
      answerBrokenBody(needs, error, last.request);
    }
  });
  return server;
}

async function answerRequest(
  needs: ServerNeeds,
  request: http.IncomingMessage,
  response: http.ServerResponse,
): Promise<void> {
  const startedMs = performance.now();
  const asked: Asked = { route: undefined };
  let answer: Answer;
  try {
    answer = await route(needs, request, response, asked);
  } catch (error) {
    if (error instanceof ClientGone) return;
    needs.log(`legerd: error: ${request.method} ${pathOf(request)}: ${nameOf(error)}`);
    answer = refuse(refusals.internal);
  }
  send(response, answer);
  needs.traffic.count(asked.route, answer.status, performance.now() - startedMs);
}

/** What a request turned out to be for. */
type Asked = { route: Route | undefined };

async function route(
  needs: ServerNeeds,
  request: http.IncomingMessage,
  response: http.ServerResponse,
  asked: Asked,
): Promise<Answer> {
  const method = request.method ?? "";
  const headers = readHead(request);
  if ("status" in headers) return headers;
  const caller = needs.gate === undefined ? needs.caller : await needs.gate(request, headers);
  if ("status" in caller) return caller;
  const resolved = lookAt(caller, method, request.url ?? "");
  if (!("match" in resolved)) return resolved;
  const { match: matched, name, search } = resolved;
  asked.route = matched;
  if (matched.setec === true) {
    if (headers.get(names.contentType) !== names.json) return refuse(refusals.notJson);
    if (headers.get(names.noBrowsers) !== names.setec) return refuse(refusals.accessDenied);
  }
  if (caller.principal === "" && matched.needs !== "nothing") return refuse(refusals.unknownCaller);
  if (!isOpenTo(caller, matched)) {
    return refuseWith(
      new LegerError("DENIED", `${method} ${matched.path}: not open at this door`, {
        hints: [`whoever runs legerd may open it with "routes": ["${matched.group}"] in legerd.json`],
      }),
    );
  }
  const body = method === "GET" ? EMPTY : await readBody(request, response, headers);
  if (body === undefined) return refuse(refusals.badRequest);
  const session = needs.open(callerOf(caller, headers));
  const { facts } = needs;
  let answer: Answer;
  try {
    answer = await matched.handle({ session, headers, search, name, body, facts });
    await session.audited();
  } catch (error) {
    answer = refuseFailure(needs, matched, error);
    // A refusal that was to be noted and wasn't is a failure; a denial stays one.
    await session.audited().catch((failure: unknown) => {
      if (failure !== error) answer = refuseFailure(needs, matched, failure);
    });
  }
  return answer;
}

function refuseFailure(needs: ServerNeeds, matched: Route, error: unknown): Answer {
  const failure =
    error instanceof LegerError
      ? error
      : new LegerError("BUG", "internal error", { hints: ["see legerd's journal"] });
  const answer = refuseWith(failure);
  // 500: something is wrong with legerd or its disk, which whoever runs it must hear of.
  if (answer.status === 500) needs.log(`legerd: error: ${matched.path}: ${nameOf(error)}`);
  return matched.setec === true ? refuse(refusals.internal) : answer;
}

type Match = { match: Route; name: string; search: string };

/** A request without its body, as Node has it. */
type Head = Pick<
  http.IncomingMessage,
  "method" | "url" | "httpVersionMajor" | "httpVersionMinor" | "rawHeaders"
>;

function lookAtHead(caller: Caller, head: Head): Answer | Match {
  const headers = readHead(head);
  return "status" in headers ? headers : lookAt(caller, head.method ?? "", head.url ?? "");
}

/** The route for a request line, or all that there is to say to it. */
function lookAt(caller: Caller, method: string, target: string): Answer | Match {
  const exact = EXACT.get(target)?.get(method);
  if (exact !== undefined) return exact;
  const read = readTarget(method, target);
  if (read === undefined) return MALFORMED;
  if (read === "*") return { status: method === "OPTIONS" ? 200 : 400, headers: {}, body: "" };
  if ("redirect" in read) return redirect(method, read.redirect);
  const { path, search } = read;
  // setec's style sheet is there for everybody; what isn't there is, too.
  if (path.startsWith("/static/") || path === "") return NOT_FOUND;
  const found = findRoute(method, path);
  if (found === undefined) {
    if (method !== "GET") return refuse(refusals.invalidMethod);
    if (caller.principal === "") return refuse(refusals.unknownCaller);
    return NOT_FOUND;
  }
  const { route: match, name, setec } = found;
  if (match === undefined) return refuse(setec ? refusals.onlyPost : refusals.invalidMethod);
  return { match, name, search };
}

/** Nearly every request is for one of these, spelled just so. */
const EXACT = byPathAndMethod(routes.filter(({ path }) => !path.includes("NAME")));

function byPathAndMethod(those: readonly Route[]): ReadonlyMap<string, ReadonlyMap<string, Match>> {
  const found = new Map<string, Map<string, Match>>();
  for (const match of those) {
    const methods = found.get(match.path) ?? new Map<string, Match>();
    found.set(match.path, methods.set(match.method, { match, name: "", search: "" }));
  }
  return found;
}

/** Headers by lower-case name. Of a repeated one only the first counts, as in Go. */
type Headers = ReadonlyMap<string, string>;

/** Reads the headers; refuses what Node's parser lets pass and Go's doesn't, in Go's order, whatever the method and the route. */
function readHead(head: Head): Headers | Answer {
  const { method = "", url = "" } = head;
  if (EXACT.get(url)?.has(method) !== true && readTarget(method, url) === undefined) return MALFORMED;
  if (head.httpVersionMajor !== 1) return UNKNOWN_VERSION;
  // Node joins or drops repeats, but keeps the raw list.
  const raw = head.rawHeaders;
  const headers = new Map<string, string>();
  for (let at = 0; at < raw.length; at += 2) {
    const name = raw[at]?.toLowerCase() ?? "";
    const value = raw[at + 1] ?? "";
    const repeated = headers.has(name);
    if (name === "host" && repeated) return MALFORMED;
    if (name === "transfer-encoding" && (repeated || value.toLowerCase() !== "chunked"))
      return UNKNOWN_ENCODING;
    if (!repeated) headers.set(name, value);
  }
  const host = headers.get("host");
  if (host === undefined && head.httpVersionMinor > 0 && method !== "CONNECT") return NO_HOST;
  if (host !== undefined && !VALID_HOST.test(host)) return BAD_HOST;
  const expected = headers.get("expect")?.toLowerCase() ?? "";
  return expected === "" || expected === "100-continue" ? headers : UNKNOWN_EXPECTATION;
}

/** golang.org/x/net/http/httpguts ValidHostHeader: characters only, no grammar. */
const VALID_HOST = /^[A-Za-z0-9!$%&()*+,\-.:;=[\]'_~]*$/;

const NOT_FOUND = refuse({ status: 404, body: "404 page not found\n" });
const MALFORMED = malformed(400, "400 Bad Request");
const NO_HOST = malformed(400, "400 Bad Request: missing required Host header");
const BAD_HOST = malformed(400, "400 Bad Request: malformed Host header");
const HEAD_TOO_LARGE = malformed(431, "431 Request Header Fields Too Large");
const UNKNOWN_ENCODING = malformed(501, "Unsupported transfer encoding");
const UNKNOWN_VERSION = malformed(505, "505 HTTP Version Not Supported: unsupported protocol version");
const UNKNOWN_EXPECTATION: Answer = { status: 417, headers: {}, body: "" };
const TOO_SLOW = malformed(408, "408 Request Timeout");

/** Go's own words, before any handler of setec's; the connection ends with them. */
function malformed(status: number, body: string): Answer {
  return { status, headers: { [names.contentType]: names.plainText, connection: "close" }, body };
}

const EMPTY = Buffer.alloc(0);

/** Thrown when the client went away before its request was whole: there is nobody to answer. */
class ClientGone extends Error {}

/** The whole body; undefined when it is over the limit. */
function readBody(
  request: http.IncomingMessage,
  response: http.ServerResponse,
  headers: Headers,
): Promise<Buffer | undefined> {
  const promised = headers.get("content-length") ?? headers.get("transfer-encoding") ?? "0";
  if (headers.get("expect")?.toLowerCase() === "100-continue" && promised !== "0") response.writeContinue();
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    request.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size <= MAX_BODY_BYTES) {
        chunks.push(chunk);
        return;
      }
      chunks.length = 0;
      if (size > MAX_DROPPED_BYTES) request.destroy();
    });
    request.on("end", () => {
      if (size > MAX_BODY_BYTES) resolve(undefined);
      else resolve(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks));
    });
    // Comes after an error, too.
    request.on("close", () => {
      if (!request.complete) reject(new ClientGone());
    });
  });
}

function send(response: http.ServerResponse, { status, headers, body }: Answer): void {
  if (response.destroyed) return;
  response.sendDate = false;
  // A 304 has neither body nor the headers that describe one.
  const length = status === 304 ? {} : { "content-length": Buffer.byteLength(body) };
  response.writeHead(status, { ...headers, ...length });
  response.end(body);
}

function callerOf(caller: Caller, headers: Headers): Caller {
  const unit = headers.get("leger-unit")?.slice(0, MAX_ORIGIN_CHARS);
  const invocation = headers.get("leger-invocation")?.slice(0, MAX_ORIGIN_CHARS);
  if (unit === undefined && invocation === undefined) return caller;
  return {
    ...caller,
    ...(unit === undefined || unit === "" ? {} : { unit }),
    ...(invocation === undefined || invocation === "" ? {} : { invocation }),
  };
}

function pathOf(request: http.IncomingMessage): string {
  return (request.url ?? "").split("?", 1)[0]?.slice(0, 200) ?? "";
}

/** Go writes a small page for those who might be people. */
function redirect(method: string, target: string): Answer {
  const location = asLocation(target);
  if (method !== "GET" && method !== "HEAD") return { status: 307, headers: { location }, body: "" };
  const html = target.replace(/[&<>"']/g, (char) => HTML[char] ?? char);
  return {
    status: 307,
    headers: { location, [names.contentType]: "text/html; charset=utf-8" },
    // The target is bytes, not characters.
    body: Buffer.from(`<a href="${html}">Temporary Redirect</a>.\n\n`, "latin1"),
  };
}

const HTML: Record<string, string> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&#34;",
  "'": "&#39;",
};

function nameOf(error: unknown): string {
  if (error instanceof LegerError) return error.message;
  return error instanceof Error ? `${error.name} (a bug in legerd)` : "unknown error (a bug in legerd)";
}

/**
 * What Node's parser refuses never becomes a request. Its line may still be one that setec would have an answer to:
 * an unknown method, letters beyond ASCII in the path. All else is malformed.
 */
function answerUnparsable(
  needs: ServerNeeds,
  error: Error & { code?: string; rawPacket?: Buffer; bytesParsed?: number },
  socket: Duplex,
): void {
  if (!socket.writable || error.code === "ECONNRESET") {
    socket.destroy();
    return;
  }
  const head = error.rawPacket?.subarray(0, MAX_HEAD_BYTES).toString("latin1").split("\r\n\r\n", 1)[0] ?? "";
  // Further on in the packet, it is about the headers, the body or a request after this one.
  const inLine = (error.bytesParsed ?? 0) <= (head.split("\r\n", 1)[0] ?? "").length;
  end(needs, socket, (inLine ? answerHead(needs, head) : undefined) ?? answerFault(error.code));
}

/** The line and the headers were good; setec's decoder stumbles over such a body. */
function answerBrokenBody(
  needs: ServerNeeds,
  error: Error & { code?: string },
  { method = "", url = "", socket }: http.IncomingMessage,
): void {
  const isOfCoding = error.code === "HPE_INVALID_TRANSFER_ENCODING";
  if (error.code?.startsWith("HPE_") !== true || isOfCoding || needs.gate !== undefined) {
    answerUnparsable(needs, error, socket);
    return;
  }
  const resolved = lookAt(needs.caller, method, url);
  end(needs, socket, "match" in resolved ? refuse(refusals.badRequest) : resolved);
}

const MAX_HEAD_BYTES = 8 * 1024;

function answerHead(needs: ServerNeeds, head: string): Answer | undefined {
  const [line = "", ...fields] = head.split("\r\n");
  const [, method, url, major, minor] =
    /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^ ]*) HTTP\/(\d)\.(\d)$/.exec(line) ?? [];
  if (method === undefined || url === undefined) return undefined;
  if (major !== "1") return UNKNOWN_VERSION;
  // At a door on TCP nothing is said before who asks is known.
  if (needs.gate !== undefined) return undefined;
  const resolved = lookAtHead(needs.caller, {
    method,
    url,
    httpVersionMajor: Number(major),
    httpVersionMinor: Number(minor),
    rawHeaders: fields.flatMap((field) => {
      const [name = "", ...value] = field.split(":");
      return [name, value.join(":").trim()];
    }),
  });
  // A route of ours needs the headers and the body, which are lost.
  if ("match" in resolved) return undefined;
  return method === "HEAD" ? { ...resolved, body: "" } : resolved;
}

function answerFault(code: string | undefined): Answer {
  if (code === "ERR_HTTP_REQUEST_TIMEOUT") return TOO_SLOW;
  if (code === "HPE_HEADER_OVERFLOW") return HEAD_TOO_LARGE;
  if (code === "HPE_INVALID_TRANSFER_ENCODING") return UNKNOWN_ENCODING;
  return MALFORMED;
}

/** An answer written past Node, as the last thing on its connection. */
function end({ traffic }: ServerNeeds, socket: Duplex, { status, headers, body }: Answer): void {
  traffic.count(undefined, status, 0);
  const lines = Object.entries({
    ...headers,
    "content-length": Buffer.byteLength(body),
    connection: "close",
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ""}\r\n${lines.join("")}\r\n`);
  socket.end(body, () => socket.destroy());
}
