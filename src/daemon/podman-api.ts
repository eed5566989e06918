/** podman-api — Podman's four questions, over the wire: its entry's id in a header, bytes as they are. */
import { LegerError } from "../core/error.ts";
import { isSecretId, parseReference } from "../core/reference.ts";
import { json, type Answer } from "./answer.ts";
import type { RouteRequest } from "./request.ts";

/** Carries Podman's SECRET_ID. */
const ID_HEADER = "leger-secret-id";
/** Podman takes values below 512,000 bytes (`secretsMaxSize`, common/pkg/secrets). */
const MAX_VALUE_BYTES = 512_000;

/** 200 with the exact bytes; `leger-version` says which version they are. */
export function podmanLookup({ session, headers }: RouteRequest): Answer {
  const { value, version } = session.lookup(secretId("look up", headers));
  const sent = { "content-type": "application/octet-stream", "leger-version": String(version) };
  return { status: 200, headers: sent, body: value.reveal() };
}

/** The body is what Podman was given: a reference to a secret, or a value to keep. */
export async function podmanStore({ session, headers, body }: RouteRequest): Promise<Answer> {
  const id = secretId("store", headers);
  session.requireOwner("link", { podman_id: id });
  if (!isSecretId(id)) throw wrongId("store", id);
  if (body.length >= MAX_VALUE_BYTES) {
    throw new LegerError("BAD_DATA", `store ${id}: a value must be smaller than ${MAX_VALUE_BYTES} bytes`);
  }
  const secret = parseReference(body);
  await session.storeLink(id, secret === undefined ? { value: body } : { secret });
  return json({ id, ...(secret === undefined ? {} : { secret }) });
}

/** Succeeds for an id that is not known, too: Podman could otherwise never drop its own entry (podman#27666). */
export async function podmanDelete({ session, headers }: RouteRequest): Promise<Answer> {
  await session.deleteLink(secretId("delete", headers));
  return json({});
}

/** `{"entries":[{"id","secret"?}]}`; no `secret`: the entry keeps a value of its own. */
export function podmanList({ session }: RouteRequest): Answer {
  const entries = session
    .links()
    .map((link) => ({ id: link.name, ...("secret" in link ? { secret: link.secret } : {}) }))
    .toSorted((a, b) => (a.id < b.id ? -1 : 1));
  return json({ entries });
}

/** An empty id is refused always: Podman passes one for `--replace` of nothing (podman#27130). */
function secretId(doing: string, headers: RouteRequest["headers"]): string {
  const id = headers.get(ID_HEADER) ?? "";
  if (id === "") throw new LegerError("USAGE", `${doing}: no SECRET_ID was given`);
  if (id.length > 64 || !/^[0-9A-Za-z_-]+$/.test(id)) throw wrongId(doing, id.slice(0, 64));
  return id;
}

function wrongId(doing: string, id: string): LegerError {
  return new LegerError(
    "USAGE",
    `${doing}: SECRET_ID ${JSON.stringify(id)} is not one of Podman's (25 hex digits)`,
  );
}
