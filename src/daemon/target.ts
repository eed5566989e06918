/** target — what a request line asks for, read as Go's net/url and ServeMux read it. */

export type Target =
  /** Clean, still percent-encoded where that makes a difference, and what followed the first "?". */
  | { path: string; search: string }
  /** Go's mux sends these to another spelling first: 307. A query may hold bytes beyond ASCII. */
  | { redirect: string }
  /** `*`: the server as a whole, no path at all. */
  | "*";

/**
 * Reads a request target given byte for byte (latin1). Undefined for what Go calls malformed.
 * Sources: net/url `parse` and `EscapedPath`, net/http `findHandler` and `Redirect` (Go 1.26).
 */
export function readTarget(method: string, target: string): Target | undefined {
  if (target === "*") return "*";
  const connect = method === "CONNECT";
  const url = splitUrl(connect && !target.startsWith("/") ? `http://${target}` : target);
  const path = url === undefined ? undefined : escapedPath(url.path);
  if (url === undefined || path === undefined) return undefined;
  const { search } = url;
  const clean = connect ? path : cleanPath(path);
  const query = search === "" ? "" : `?${search}`;
  // The one pattern of setec's mux that ends in a slash.
  if (clean === "/static") return { redirect: `/static/${query}` };
  // Go escapes the path a second time here: %67 comes back as %2567.
  if (clean !== path) return { redirect: `${escape(clean)}${query}` };
  return { path, search };
}

function splitUrl(url: string): { path: string; search: string } | undefined {
  if (/[\0-\x20\x7f]/.test(url)) return undefined;
  const [, scheme, rest = ""] = /^(?:([A-Za-z][A-Za-z0-9+.-]*):)?(.*)$/.exec(url) ?? [];
  const mark = rest.indexOf("?");
  const [before, search] = mark === -1 ? [rest, ""] : [rest.slice(0, mark), rest.slice(mark + 1)];
  if (!before.startsWith("/")) return scheme === undefined ? undefined : { path: "", search };
  if (scheme === undefined || !before.startsWith("//")) return { path: before, search };
  const [, authority = "", path = ""] = /^\/\/([^/]*)(.*)$/.exec(before) ?? [];
  return AUTHORITY.test(authority) ? { path, search } : undefined;
}

const AUTHORITY = /^(?:[^@]*@)?(?:\[[0-9A-Fa-f:.]+\]|[^@[\]:\\^`{|}%#]*)(?::\d*)?$/;

/** What Go escapes in a path; it leaves `!'()*[]` and escapes alone where a client sent them. */
const ESCAPED = /[^A-Za-z0-9\-_.~$&+,/:;=@]/g;
const SENT_ESCAPED = /^[A-Za-z0-9\-_.~$&+,/:;=@!'()*[\]%]*$/;

/** As it was sent if nothing in it needed an escape; else decoded and escaped anew. Undefined for a broken escape. */
function escapedPath(path: string): string | undefined {
  if (/%(?![0-9A-Fa-f]{2})/.test(path)) return undefined;
  if (SENT_ESCAPED.test(path)) return path;
  const decoded = path.replace(/%(..)/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
  return escape(decoded);
}

function escape(path: string): string {
  return path.replace(ESCAPED, percent);
}

function percent(char: string): string {
  return `%${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`;
}

/** Go's path.Clean as its ServeMux uses it: no empty, `.` or `..` segments; a slash at the end stays. */
function cleanPath(path: string): string {
  if (!path.includes("//") && !path.includes("/.") && path.startsWith("/")) return path;
  const kept: string[] = [];
  for (const segment of path.split("/")) {
    if (segment === "..") kept.pop();
    else if (segment !== "" && segment !== ".") kept.push(segment);
  }
  const end = kept.length > 0 && path.endsWith("/") ? "/" : "";
  return `/${kept.join("/")}${end}`;
}

/** A redirection as a header can carry it, in ASCII. */
export function asLocation(redirect: string): string {
  return redirect.replace(/[^\0-\x7f]/g, (char) => percent(char).toLowerCase());
}
