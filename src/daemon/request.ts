/** request — what a route is given to answer by. */
import type { AuditReport } from "../store/audit-verify.ts";
import type { Verification } from "../store/store.ts";
import type { Answer } from "./answer.ts";
import type { DoorConfig } from "./config.ts";
import type { Session } from "./session.ts";

/** A request as routes see it: read whole, its caller known. */
export type RouteRequest = {
  session: Session;
  /** By lower-case name. */
  headers: ReadonlyMap<string, string>;
  /** What follows the path's "?", as it was sent. */
  search: string;
  /** What stood in the path's place of `NAME`, decoded; "" where the route has none. */
  name: string;
  body: Buffer;
  facts: StatusFacts;
};

/** A door as it is told; `mode` in octal digits. */
export type DoorFacts = Omit<DoorConfig, "mode"> & { mode: string };

/** What the running daemon knows of itself. */
export type StatusFacts = {
  version: string;
  pid: number;
  startedAt: Date;
  stateDir: string;
  databaseFile: string;
  auditFile: string;
  verifyAudit: () => Promise<AuditReport>;
  mainKeyFile: string;
  verification: () => Verification;
  doors: readonly DoorFacts[];
  /** What legerd is and does, as Prometheus reads it. */
  metrics: () => Promise<Pick<Answer, "headers" | "body">>;
};
