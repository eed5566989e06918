/** routes — every address legerd answers at, and what a caller needs for it. */
import { LegerError } from "../core/error.ts";
import { routes as setecRoutes, type Action } from "../setec/protocol.ts";
import type { Answer } from "./answer.ts";
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
import { health, status, verifyAudit } from "./status-api.ts";

/**
 * What a caller needs: nothing; an action on each secret that the route touches (the session checks); or a door
 * without grants. There is no route without this word.
 */
type Needs = "nothing" | "owner" | { action: Action };

export type Route = {
  method: "GET" | "POST" | "PUT" | "DELETE";
  /** `NAME` stands for one path segment. */
  path: string;
  needs: Needs;
  /** True where setec's own checks apply (content type, no-browsers header), in setec's order. */
  setec?: true;
  handle: (request: RouteRequest) => Answer | Promise<Answer>;
};

export const routes: readonly Route[] = [
  ...[...setecRoutes].map(([path, route]): Route => ({
    method: "POST",
    path,
    needs: { action: route.action },
    setec: true,
    handle: ({ session, body }) => answerSetec(route, session, body),
  })),
  { method: "GET", path: "/health", needs: "nothing", handle: health },
  { method: "GET", path: "/v1/status", needs: "owner", handle: ownersOnly(status, "status") },
  {
    method: "GET",
    path: "/v1/audit/verify",
    needs: "owner",
    handle: ownersOnly(verifyAudit, "verify the audit log"),
  },
  { method: "POST", path: "/v1/podman/lookup", needs: { action: "get" }, handle: podmanLookup },
  { method: "POST", path: "/v1/podman/store", needs: "owner", handle: podmanStore },
  { method: "POST", path: "/v1/podman/delete", needs: "owner", handle: podmanDelete },
  { method: "GET", path: "/v1/podman/list", needs: "owner", handle: podmanList },
  { method: "GET", path: "/v1/services", needs: { action: "info" }, handle: listServices },
  { method: "GET", path: "/v1/services/NAME", needs: { action: "info" }, handle: showService },
  { method: "PUT", path: "/v1/services/NAME", needs: "owner", handle: putService },
  { method: "DELETE", path: "/v1/services/NAME", needs: "owner", handle: deleteService },
  {
    method: "GET",
    path: "/v1/services/NAME/credentials",
    needs: { action: "info" },
    handle: showCredentials,
  },
  { method: "GET", path: "/v1/unserved", needs: "owner", handle: listUnserved },
  { method: "GET", path: "/v1/services/NAME/env", needs: { action: "get" }, handle: getServiceEnv },
];

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

function ownersOnly(handle: Route["handle"], what: string): Route["handle"] {
  return (request) => {
    if (!request.session.isOwner) throw new LegerError("DENIED", `${what}: access denied`);
    return handle(request);
  };
}
