/** routes — every address legerd answers at, and what a caller needs for it. */
import { routes as setecRoutes, type Action } from "../setec/protocol.ts";
import type { Answer } from "./answer.ts";
import type { RouteGroup } from "./config.ts";
import { podmanDelete, podmanList, podmanLookup, podmanStore } from "./podman-api.ts";
import {
  deleteService,
  getServiceEnv,
  listServices,
  listUnserved,
  putService,
  showCredentials,
  showService,
} from "./service-api.ts";
import { answerSetec } from "./setec-api.ts";
import type { RouteRequest } from "./request.ts";
import type { Caller } from "./session.ts";
import { createToken, listTokens, revokeToken } from "./token-api.ts";
import { doors, health, metrics, status, verifyAudit } from "./status-api.ts";

/**
 * What a caller needs: nothing; an action on each secret that the route touches (the session checks); or a door
 * without grants, which the session asks for where something would be changed. There is no route without this word.
 */
type Needs = "nothing" | "owner" | { action: Action };

export type Route = {
  method: "GET" | "POST" | "PUT" | "DELETE";
  /** `NAME` stands for one path segment. */
  path: string;
  needs: Needs;
  /** Where a door with grants has it: always, never, or if its configuration opens this group. */
  group: RouteGroup | "always" | "never";
  /** True where setec's own checks apply (content type, no-browsers header), in setec's order. */
  setec?: true;
  handle: (request: RouteRequest) => Answer | Promise<Answer>;
};

export const routes: readonly Route[] = [
  ...[...setecRoutes].map(([path, route]): Route => ({
    method: "POST",
    path,
    needs: { action: route.action },
    group: "always",
    setec: true,
    handle: ({ session, body }) => answerSetec(route, session, body),
  })),
  { method: "GET", path: "/health", needs: "nothing", group: "always", handle: health },
  { method: "GET", path: "/metrics", needs: "owner", group: "metrics", handle: metrics },
  { method: "GET", path: "/v1/status", needs: "owner", group: "status", handle: status },
  { method: "GET", path: "/v1/doors", needs: "owner", group: "status", handle: doors },
  {
    method: "GET",
    path: "/v1/audit/verify",
    needs: "owner",
    group: "audit",
    handle: verifyAudit,
  },
  {
    method: "POST",
    path: "/v1/podman/lookup",
    needs: { action: "get" },
    group: "podman",
    handle: podmanLookup,
  },
  { method: "POST", path: "/v1/podman/store", needs: "owner", group: "podman", handle: podmanStore },
  { method: "POST", path: "/v1/podman/delete", needs: "owner", group: "podman", handle: podmanDelete },
  { method: "GET", path: "/v1/podman/list", needs: "owner", group: "podman", handle: podmanList },
  { method: "GET", path: "/v1/services", needs: { action: "info" }, group: "services", handle: listServices },
  {
    method: "GET",
    path: "/v1/services/NAME",
    needs: { action: "info" },
    group: "services",
    handle: showService,
  },
  { method: "PUT", path: "/v1/services/NAME", needs: "owner", group: "services", handle: putService },
  { method: "DELETE", path: "/v1/services/NAME", needs: "owner", group: "services", handle: deleteService },
  {
    method: "GET",
    path: "/v1/services/NAME/env",
    needs: { action: "get" },
    group: "services",
    handle: getServiceEnv,
  },
  {
    method: "GET",
    path: "/v1/services/NAME/credentials",
    needs: { action: "info" },
    group: "services",
    handle: showCredentials,
  },
  { method: "GET", path: "/v1/tokens", needs: "owner", group: "never", handle: listTokens },
  { method: "PUT", path: "/v1/tokens/NAME", needs: "owner", group: "never", handle: createToken },
  { method: "DELETE", path: "/v1/tokens/NAME", needs: "owner", group: "never", handle: revokeToken },
  { method: "GET", path: "/v1/unserved", needs: "owner", group: "services", handle: listUnserved },
];

/** Is a route there at all for this caller? What it gives there is still a matter of grants. */
export function isOpenTo({ access, routes: opened = [] }: Caller, { group }: Route): boolean {
  if (access === undefined || group === "always") return true;
  return group !== "never" && opened.includes(group);
}

/**
 * The route for a path and method, with the decoded name, and whether the path is one of setec's; undefined where no
 * route has the path.
 */
export function findRoute(
  method: string,
  path: string,
): { route: Route | undefined; name: string; setec: boolean } | undefined {
  const segments = path.split("/");
  const candidates = routes.filter((route) => matches(route.path.split("/"), segments));
  if (candidates.length === 0) return undefined;
  const name = segments[candidates[0]?.path.split("/").indexOf("NAME") ?? -1] ?? "";
  return {
    route: candidates.find((route) => route.method === method),
    name: decode(name),
    setec: candidates.some((route) => route.setec === true),
  };
}

/**
 * Go's ServeMux matches segment by segment, each percent-decoded; an encoded slash stays inside its segment and
 * so matches nothing of ours.
 */
function matches(pattern: readonly string[], segments: readonly string[]): boolean {
  return (
    pattern.length === segments.length &&
    pattern.every((word, at) => (word === "NAME" ? segments[at] !== "" : word === decode(segments[at] ?? "")))
  );
}

function decode(segment: string): string {
  if (!segment.includes("%")) return segment;
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
