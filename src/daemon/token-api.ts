/** token-api — tokens for doors on TCP: made, listed and revoked by the owner alone. */
import { LegerError } from "../core/error.ts";
import type { Grant } from "../setec/grants.ts";
import { json, type Answer } from "./answer.ts";
import type { RouteRequest } from "./request.ts";
import { newToken } from "./tokens.ts";

const TOKEN_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** `{"tokens":[{"name","grants","created","expires"?}]}`, never the tokens themselves. */
export function listTokens({ session }: RouteRequest): Answer {
  const tokens = session.tokens().map((token) => ({ ...token, hash: undefined }));
  return json({ schema_version: 1, tokens });
}

/** Body: `{"grants":[{"action","secret"}],"expires"?}`. The answer is the only place where the token ever stands. */
export async function createToken({ session, name, body }: RouteRequest): Promise<Answer> {
  session.requireOwner("create-token", { token: name });
  if (!TOKEN_NAME.test(name)) throw wrong("not a name for a token");
  const { grants, expires } = parse(body);
  const { token, hash } = newToken();
  const record = {
    name,
    hash,
    grants,
    created: new Date().toISOString(),
    ...(expires === undefined ? {} : { expires }),
  };
  await session.createToken(record);
  return json({ name, token, grants, ...(expires === undefined ? {} : { expires }) });
}

export async function revokeToken({ session, name }: RouteRequest): Promise<Answer> {
  await session.revokeToken(name);
  return json({});
}

function parse(body: Buffer): { grants: Grant[]; expires: string | undefined } {
  let parsed: unknown;
  try {
    parsed = JSON.parse(body.toString("utf8"));
  } catch {
    throw wrong("the body is not JSON");
  }
  if (typeof parsed !== "object" || parsed === null) throw wrong("the body is not an object");
  const { grants, expires, ...rest }: Record<string, unknown> = { ...parsed };
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw wrong(`unknown key ${JSON.stringify(unknown.slice(0, 64))}`);
  if (!Array.isArray(grants) || grants.length === 0 || !grants.every(isGrant)) {
    throw wrong('"grants" is not a list of rules with "action" and "secret"');
  }
  if (expires === undefined) return { grants, expires: undefined };
  if (typeof expires !== "string" || Number.isNaN(Date.parse(expires))) throw wrong('"expires" is no time');
  return { grants, expires: new Date(expires).toISOString() };
}

function isGrant(value: unknown): value is Grant {
  if (typeof value !== "object" || value === null) return false;
  const { action, secret }: Record<string, unknown> = { ...value };
  return [action, secret].every(
    (list) => Array.isArray(list) && list.every((word) => typeof word === "string"),
  );
}

function wrong(what: string): LegerError {
  return new LegerError("BAD_DATA", `create token: ${what}`, {
    hints: ['the body reads {"grants":[{"action":["get"],"secret":["leger/local/name"]}]}'],
  });
}
