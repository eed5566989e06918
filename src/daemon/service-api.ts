/** service-api — which variables a service gets from which secrets, and its env file in one round trip. */
import { encodeEnvFile, type EnvDialect } from "../core/env-file.ts";
import { LegerError } from "../core/error.ts";
import { isServiceName, SERVICE_NAME_RULE } from "../core/service.ts";
import { json, type Answer } from "./answer.ts";
import type { CredentialStatus } from "./credentials.ts";
import type { RouteRequest } from "./request.ts";

const VARIABLE_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
const MAX_VARIABLES = 1_000;
/** What leger's own client reads: 1.5 MiB, after at most 64 KiB of headers. */
const MAX_ENV_BYTES = 1.5 * 1024 * 1024;
const MAX_VERSIONS_BYTES = 60 * 1024;
const DIALECTS: readonly EnvDialect[] = ["podman", "systemd"];

/** `{"services":[{"name","variables":{"VARIABLE":"secret"}}]}`: those whose secrets the caller may all see. */
export function listServices({ session }: RouteRequest): Answer {
  return json({ services: session.services() });
}

export function showService({ session, name }: RouteRequest): Answer {
  return json(session.service(name));
}

/** Body: `{"variables":{"VARIABLE":"secret name"}}`. Replaces the whole definition. */
export async function putService({ session, name, body }: RouteRequest): Promise<Answer> {
  session.requireOwner("set-service", { service: name });
  if (!isServiceName(name)) {
    throw new LegerError(
      "USAGE",
      `set service ${JSON.stringify(name.slice(0, 128))}: not a name for a service`,
      {
        hints: [SERVICE_NAME_RULE],
      },
    );
  }
  const service = { name, variables: parseVariables(name, body) };
  await session.setService(service);
  return json(service);
}

export async function deleteService({ session, name }: RouteRequest): Promise<Answer> {
  await session.deleteService(name);
  return json({});
}

/**
 * `{"name","set":{"path","there"},"files":{"path","there"},"problems":[{"kind","what","hints","variable"?,"secret"?}]}`:
 * whether systemd can have its credentials. No paths where legerd has no credential sockets.
 */
export function showCredentials({ session, name }: RouteRequest): Answer {
  return json({ name, ...told(session.credentialStatus(name)) });
}

/** `{"services":[…]}`: those that have not all of their credential sockets, each as `showCredentials` tells. */
export function listUnserved({ session }: RouteRequest): Answer {
  const services = session.unserved().map(({ name, status }) => ({ name, ...told(status) }));
  return json({ services });
}

function told({ paths, set, files, problems }: CredentialStatus): object {
  return {
    set: { there: set, ...(paths === undefined ? {} : { path: paths.set }) },
    files: { there: files, ...(paths === undefined ? {} : { path: paths.files }) },
    problems,
  };
}

/** The env file; `leger-versions: VARIABLE=3 …` says which versions are in it. */
export function getServiceEnv({ session, name, search }: RouteRequest): Answer {
  const asked = new URLSearchParams(search).get("dialect") ?? "podman";
  const dialect = DIALECTS.find((known) => known === asked);
  if (dialect === undefined) {
    throw new LegerError("USAGE", `get env of service ${name}: unknown dialect ${JSON.stringify(asked)}`, {
      hints: [`use one of: ${DIALECTS.join(", ")}`],
    });
  }
  const found = session.serviceValues(name);
  const entries = found.map(({ variable, secret, value }) => ({
    name: variable,
    secret,
    value: value.reveal(),
  }));
  const headers = {
    "content-type": "text/plain; charset=utf-8",
    "leger-versions": found.map(({ variable, version }) => `${variable}=${version}`).join(" "),
  };
  const body = encodeEnvFile(entries, dialect);
  const parts = [Buffer.byteLength(headers["leger-versions"]), Buffer.byteLength(body)] as const;
  if (parts[0] > MAX_VERSIONS_BYTES || parts[1] > MAX_ENV_BYTES) {
    throw new LegerError(
      "BAD_DATA",
      `get env of service ${name}: its variables are more than fit one answer`,
      {
        hints: ["make two services of it, or let Podman ask for the large values (Secret=…)"],
      },
    );
  }
  return { status: 200, headers, body };
}

function parseVariables(service: string, body: Buffer): Record<string, string> {
  const wrong = (what: string): LegerError =>
    new LegerError("BAD_DATA", `set service ${service}: ${what}`, {
      hints: ['the body reads {"variables":{"VARIABLE":"secret name"}}'],
    });
  let parsed: unknown;
  try {
    parsed = JSON.parse(body.toString("utf8"));
  } catch {
    throw wrong("the body is not JSON");
  }
  if (!isObject(parsed) || !isObject(parsed["variables"])) throw wrong('there is no object "variables"');
  const unknown = Object.keys(parsed).filter((key) => key !== "variables" && key !== "name");
  if (unknown.length > 0) throw wrong(`unknown key ${JSON.stringify(unknown[0])}`);
  const variables: Record<string, string> = Object.create(null);
  for (const [variable, secret] of Object.entries(parsed["variables"])) {
    if (!VARIABLE_NAME.test(variable))
      throw wrong(`${JSON.stringify(variable)} is not a name for a variable`);
    if (typeof secret !== "string" || secret === "") throw wrong(`${variable} does not name a secret`);
    variables[variable] = secret.toWellFormed();
  }
  if (Object.keys(variables).length > MAX_VARIABLES) throw wrong(`more than ${MAX_VARIABLES} variables`);
  return variables;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
