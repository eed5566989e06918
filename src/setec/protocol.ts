/** protocol — setec's wire as data: types, routes, headers, refusals, and the JSON that Go would write. */

import type { Field } from "./decode.ts";

/** What a grant can allow. None implies another. */
export const ACTIONS = ["get", "info", "put", "create-version", "activate", "delete"] as const;
export type Action = (typeof ACTIONS)[number];

/** A uint32. Stored versions count from 1; 0 in a request means the active one. */
export type VersionNumber = number;

/** The answer of `info`, and what `list` lists. */
export type SecretInfo = {
  readonly Name: string;
  /** Ascending. */
  readonly Versions: readonly VersionNumber[];
  readonly ActiveVersion: VersionNumber;
};

/** The answer of `get`. */
export type SecretValue = {
  /** Standard base64 with padding. */
  readonly Value: string;
  readonly Version: VersionNumber;
};

export type Operation =
  | "list"
  | "get"
  | "info"
  | "put"
  | "create-version"
  | "activate"
  | "delete"
  | "delete-version";

export type Route = {
  readonly operation: Operation;
  /** Asked for the secret named; of `list` for each secret there is, which is left out without it. */
  readonly action: Action;
  /** The fields of the route's request type. All other keys of a body are ignored. */
  readonly fields: readonly Field[];
};

/** An answer that turns a request down: plain text, with the newline of Go's `http.Error`. */
export type Refusal = { readonly status: number; readonly body: string };

/** By exact path; every other path is setec's HTML page, which takes GET only. */
export const routes: ReadonlyMap<string, Route> = new Map<string, Route>([
  ["/api/list", { operation: "list", action: "info", fields: [] }],
  ["/api/get", { operation: "get", action: "get", fields: ["name", "version", "updateIfChanged"] }],
  ["/api/info", { operation: "info", action: "info", fields: ["name"] }],
  ["/api/put", { operation: "put", action: "put", fields: ["name", "value"] }],
  [
    "/api/create-version",
    {
      operation: "create-version",
      action: "create-version",
      fields: ["name", "version", "value"],
    },
  ],
  ["/api/activate", { operation: "activate", action: "activate", fields: ["name", "version"] }],
  ["/api/delete", { operation: "delete", action: "delete", fields: ["name"] }],
  ["/api/delete-version", { operation: "delete-version", action: "delete", fields: ["name", "version"] }],
]);

/** In the order of the checks: the first that fails answers. The last ones depend on the operation. */
export const refusals = {
  onlyPost: { status: 400, body: "only POST requests allowed\n" },
  notJson: { status: 400, body: "request body must be json\n" },
  /** The no-browsers header is missing, or the caller has no grant for this. */
  accessDenied: { status: 403, body: "access denied\n" },
  unknownCaller: { status: 500, body: "unable to identify caller\n" },
  badRequest: { status: 400, body: "bad request\n" },
  notFound: { status: 404, body: "not found\n" },
  /** create-version with version 0. */
  invalidVersion: { status: 400, body: "invalid version, please specify a version > 0\n" },
  /** create-version with a number that is or once was in use. */
  versionClaimed: { status: 412, body: "version already set\n" },
  /** Also: empty or reserved names in writes, version 0, deleting the active version. */
  internal: { status: 500, body: "internal error\n" },
  /** Another method than GET on a path that is not in the route table. */
  invalidMethod: { status: 400, body: "invalid method\n" },
} as const satisfies Record<string, Refusal>;

/** Header names in lower case. */
export const headers = {
  contentType: "content-type",
  /** Its value, byte for byte: no parameters, no other case. */
  json: "application/json",
  plainText: "text/plain; charset=utf-8",
  /** A header that a web page cannot set (`Sec-` is reserved to browsers), so no web page can call. */
  noBrowsers: "sec-x-tailscale-no-browsers",
  setec: "setec",
  /** Goes with every refusal. */
  contentTypeOptions: "x-content-type-options",
  nosniff: "nosniff",
} as const;

/** `info`'s answer. */
export function encodeInfo({ Name, Versions, ActiveVersion }: SecretInfo): string {
  return `{"Name":${encodeString(Name)},"Versions":[${Versions.join(",")}],"ActiveVersion":${ActiveVersion}}`;
}

/** `list`'s answer, of what `encodeInfo` made; the caller sorts, by the bytes of the names. No secrets is `null`, since Go has no slice then. */
export function encodeList(encodedInfos: readonly string[]): string {
  return encodedInfos.length === 0 ? "null" : `[${encodedInfos.join(",")}]`;
}

/** `get`'s answer. Base64 has no character that needs an escape. */
export function encodeValue({ Value, Version }: SecretValue): string {
  return `{"Value":"${Value}","Version":${Version}}`;
}

/** `<>&` and the two line separators are what Go escapes beyond JSON.stringify. The string must be well-formed. */
function encodeString(text: string): string {
  return JSON.stringify(text).replace(
    /[<>&\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
