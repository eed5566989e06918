/** vectors — the recorded answers of a real setec server, as tests of the protocol package read them. */

import { readFileSync } from "node:fs";
import { z } from "zod";

const Request = z.object({
  caller: z.string(),
  method: z.string(),
  path: z.string(),
  headers: z.record(z.string(), z.union([z.string(), z.array(z.string())])).default({}),
  body: z.string().optional(),
  body_base64: z.string().optional(),
});

const Grants = z.array(
  z.nullable(
    z.object({
      action: z.array(z.string()).default([]),
      secret: z.array(z.string()).default([]),
    }),
  ),
);

const Vectors = z.object({
  callers: z.record(z.string(), z.object({ capabilities: z.record(z.string(), z.unknown()).default({}) })),
  scenarios: z.array(
    z.object({
      id: z.string(),
      group: z.string(),
      title: z.string(),
      steps: z.array(
        z.object({
          request: Request,
          response: z.object({ status: z.number(), body: z.string().optional() }),
        }),
      ),
    }),
  ),
});

const vectors = Vectors.parse(
  JSON.parse(readFileSync(new URL("../vectors/setec.json", import.meta.url), "utf8")),
);

type Step = {
  caller: string;
  path: string;
  body: Uint8Array;
  status: number;
  answer: string;
};

/** A scenario's calls of the API that got as far as their body being decoded, in order. */
export type Scenario = { id: string; group: string; title: string; steps: Step[] };

export function scenarios(...groups: string[]): Scenario[] {
  return vectors.scenarios
    .filter(({ group }) => groups.includes(group))
    .map(({ id, group, title, steps }) => ({
      id,
      group,
      title,
      steps: steps
        .filter(({ request }) => request.method === "POST" && request.path.startsWith("/api/"))
        .filter(({ response }) => !REFUSED_EARLIER.has(response.body ?? ""))
        .filter(({ request }) => request.headers["Sec-X-Tailscale-No-Browsers"] === "setec")
        .map(({ request, response }) => ({
          caller: request.caller,
          path: request.path,
          body:
            request.body_base64 === undefined
              ? Buffer.from(request.body ?? "")
              : Buffer.from(request.body_base64, "base64"),
          status: response.status,
          answer: response.body ?? "",
        })),
    }))
    .filter(({ steps }) => steps.length > 0);
}

/** The grants of a caller; undefined where setec could not read them, or only under another spelling. */
export function grantsOf(caller: string): { action: string[]; secret: string[] }[] | undefined {
  const found = vectors.callers[caller]?.capabilities["tailscale.com/cap/secrets"] ?? [];
  const grants = Grants.safeParse(found);
  if (!grants.success || /"(?:ACTION|Secret)"/.test(JSON.stringify(found))) return undefined;
  return grants.data.map((grant) => grant ?? { action: [], secret: [] });
}

/** The answers of checks that come before the body's. */
const REFUSED_EARLIER = new Set([
  "request body must be json\n",
  "unable to identify caller\n",
  "invalid method\n",
]);
