/** metrics — what legerd is and does, in numbers, as Prometheus reads them. Loaded by the first who asks. */
import * as fs from "node:fs";
import type { Server } from "node:net";
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { AUDIT_LOGS, auditFiles } from "../core/audit-files.ts";
import { LegerError, systemCode } from "../core/error.ts";
import type { AuditLog } from "../store/audit.ts";
import { readLastBackup } from "../store/last-backup.ts";
import type { Store, Verification } from "../store/store.ts";
import type { Answer } from "./answer.ts";
import type { Credentials } from "./credentials.ts";
import type { Route } from "./routes.ts";
import { DURATION_BOUNDS, type RouteTraffic, type Traffic } from "./traffic.ts";

export type MetricsNeeds = {
  version: string;
  startedAt: Date;
  stateDir: string;
  store: Store;
  audit: AuditLog;
  traffic: Traffic;
  credentials: Credentials;
  servers: readonly Server[];
};

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [labels: Labels, value: number];
type Metric = { type: "gauge" | "counter"; name: string; help: string; samples: readonly Sample[] };

/**
 * Everything, in the text format 0.0.4. There is no name in it, neither a secret's nor a service's nor a principal's. What
 * cannot be told, of a damaged store for example, is left out.
 */
export async function metricsAnswer(needs: MetricsNeeds): Promise<Pick<Answer, "headers" | "body">> {
  const metrics = [
    ...ofProcess(needs),
    ...ofTraffic(needs, await openConnections(needs)),
    ...(await ofStore(needs)),
    ...ofVerification(needs.store.verification),
    ...ofAudit(needs),
    ...ofBackup(needs),
  ];
  const registry = new Registry();
  for (const metric of metrics.filter(({ samples }) => samples.length > 0)) register(registry, metric);
  registry.registerMetric(new Durations(needs.traffic));
  return { headers: { "content-type": registry.contentType }, body: await registry.metrics() };
}

function gauge(name: string, help: string, samples: number | undefined | readonly Sample[]): Metric {
  return { type: "gauge", name, help, samples: asSamples(samples) };
}

function counter(name: string, help: string, samples: number | undefined | readonly Sample[]): Metric {
  return { type: "counter", name, help, samples: asSamples(samples) };
}

function asSamples(samples: number | undefined | readonly Sample[]): readonly Sample[] {
  if (samples === undefined) return [];
  return typeof samples === "number" ? [[{}, samples]] : samples;
}

function register(registry: Registry, { type, name, help, samples }: Metric): void {
  const labelNames = Object.keys(samples[0]?.[0] ?? {});
  const options = { name, help, labelNames, registers: [registry] };
  if (type === "counter") {
    const made = new Counter(options);
    for (const [labels, value] of samples) made.inc(labels, value);
    return;
  }
  const made = new Gauge(options);
  for (const [labels, value] of samples) made.set(labels, value);
}

/** By the names that Prometheus's own clients use. */
function ofProcess({ version, startedAt }: MetricsNeeds): Metric[] {
  const { user, system } = process.cpuUsage();
  return [
    gauge("legerd_build_info", "Always 1; the version is a label.", [[{ version }, 1]]),
    gauge("process_start_time_seconds", "When legerd started, in seconds since 1970.", seconds(startedAt)),
    counter("process_cpu_seconds_total", "CPU time that legerd took.", (user + system) / 1e6),
    gauge(
      "process_resident_memory_bytes",
      "Memory that legerd has.",
      tellable(() => process.memoryUsage.rss()),
    ),
    gauge("process_open_fds", "Files and sockets that legerd has open.", tellable(countDescriptors)),
    gauge("process_max_fds", "How many it may have open.", tellable(maxDescriptors)),
  ];
}

function countDescriptors(): number {
  // One of them is that directory itself.
  return fs.readdirSync("/proc/self/fd").length - 1;
}

function maxDescriptors(): number | undefined {
  const soft = /^Max open files +(\d+)/m.exec(fs.readFileSync("/proc/self/limits", "utf8"))?.[1];
  return soft === undefined ? undefined : Number(soft);
}

function ofTraffic({ traffic }: MetricsNeeds, connections: number): Metric[] {
  const requests = [...traffic.routes].flatMap(([route, { byStatus }]) =>
    [...byStatus].map(([status, count]): Sample => [{ ...labelsOf(route), status: String(status) }, count]),
  );
  return [
    counter("legerd_requests_total", "Requests that were answered, at all doors.", requests),
    gauge("legerd_connections", "Connections that are open, at all doors.", connections),
  ];
}

async function openConnections({ servers }: MetricsNeeds): Promise<number> {
  const counts = servers.map(
    (server) =>
      new Promise<number>((resolve) => server.getConnections((error, count) => resolve(error ? 0 : count))),
  );
  return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0);
}

/** The route as it is written in the table of routes, with NAME in the place of a name. */
function labelsOf(route: Route | undefined): { method: string; route: string } {
  return route === undefined
    ? { method: "any", route: "other" }
    : { method: route.method, route: route.path };
}

async function ofStore({ store, credentials, stateDir }: MetricsNeeds): Promise<Metric[]> {
  const counts = tellable(() => store.counts());
  const unserved = tellable(() => {
    return store.services().filter((service) => credentials.statusOf(service).problems.length > 0).length;
  });
  let tally: Awaited<ReturnType<Store["tally"]>> | undefined;
  try {
    tally = await store.tally();
  } catch (error) {
    if (!(error instanceof LegerError)) throw error;
  }
  const files = [
    ["database", store.databaseFile],
    ["log", `${store.databaseFile}-wal`],
  ] as const;
  return [
    gauge("legerd_secrets", "Secrets in the store.", counts?.secrets),
    gauge("legerd_versions", "Versions of all secrets together.", tally?.versions),
    gauge(
      "legerd_secrets_pending",
      "Secrets with a newer version than the active one: set, but in no use yet.",
      tally?.pending,
    ),
    gauge("legerd_services", "Services that get secrets.", counts?.services),
    gauge(
      "legerd_services_unserved",
      "Services that systemd cannot have all credentials of; leger explain says why.",
      unserved,
    ),
    gauge("legerd_podman_entries", "Entries of Podman's that legerd answers for.", counts?.links),
    gauge("legerd_tokens", "Tokens for doors on TCP, also those that have ended.", counts?.tokens),
    gauge(
      "legerd_store_bytes",
      "Size of the database and of its write-ahead log.",
      files.map(([file, path]): Sample => [{ file }, sizeOf(path)]),
    ),
    gauge(
      "legerd_state_free_bytes",
      "Room on the disk where the state lies.",
      tellable(() => room(stateDir)),
    ),
  ];
}

function room(directory: string): number {
  const { bavail, bsize } = fs.statfsSync(directory);
  return bavail * bsize;
}

function sizeOf(file: string): number {
  return fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0;
}

const VERIFICATION_STATES = [
  "waiting",
  "running",
  "whole",
  "damaged",
  "failed",
] as const satisfies readonly Verification["state"][];

function ofVerification(verification: Verification): Metric[] {
  return [
    gauge(
      "legerd_verification",
      "1 at the state that the verification of the whole store is in, 0 at the others.",
      VERIFICATION_STATES.map((state): Sample => [{ state }, Number(state === verification.state)]),
    ),
    gauge(
      "legerd_verified_timestamp_seconds",
      "When this legerd found its whole store as it wrote it; 0: not yet.",
      verification.state === "whole" ? seconds(new Date(verification.at)) : 0,
    ),
    gauge(
      "legerd_verification_problems",
      "What the verification found to be wrong with the store.",
      verification.state === "damaged" ? verification.problems.length : 0,
    ),
  ];
}

function ofAudit({ audit, stateDir }: MetricsNeeds): Metric[] {
  const { everything, changes } = audit.heads;
  const logs = [
    ["everything", everything.n],
    ["changes", changes.n],
  ] as const;
  const size = tellable(() =>
    logs.map(([log]): Sample => {
      const sizes = auditFiles(stateDir, AUDIT_LOGS[log]).map(sizeOf);
      return [{ log }, sizes.reduce((sum, bytes) => sum + bytes, 0)];
    }),
  );
  return [
    gauge("legerd_audit_bytes", "Size of the audit logs, older files included.", size),
    gauge("legerd_audit_max_bytes", "How large both may become; the oldest lines go first.", audit.maxBytes),
    counter(
      "legerd_audit_lines_total",
      "Lines of the audit logs since the store was made.",
      logs.map(([log, lines]): Sample => [{ log }, lines]),
    ),
    gauge(
      "legerd_audit_written_timestamp_seconds",
      "When a line of the audit log was written last.",
      tellable(() => seconds(fs.statSync(audit.file).mtime)),
    ),
  ];
}

function ofBackup({ audit, stateDir }: MetricsNeeds): Metric[] {
  const last = readLastBackup(stateDir);
  const changes = audit.heads.changes.n;
  return [
    gauge(
      "legerd_backup_timestamp_seconds",
      "When the last backup was made; 0: never, as far as is known.",
      last === undefined ? 0 : seconds(new Date(last.madeAt)),
    ),
    gauge(
      "legerd_backup_changes_since",
      "Changes that were asked for since the last backup.",
      changes - (last?.changes ?? 0),
    ),
  ];
}

const DURATIONS = "legerd_request_duration_seconds";
const DURATIONS_HELP = "How long requests took, from their headers to their answer.";

/** How long requests took, as `Traffic` counted it: prom-client would have to be there from the first request on. */
class Durations extends Histogram<"method" | "route"> {
  readonly #traffic: Traffic;

  constructor(traffic: Traffic) {
    super({
      name: DURATIONS,
      help: DURATIONS_HELP,
      labelNames: ["method", "route"],
      buckets: [...DURATION_BOUNDS],
      registers: [],
    });
    this.#traffic = traffic;
  }

  /** What the registry asks a histogram for, which prom-client's types don't mention. */
  async getForPromString(): Promise<{ name: string; help: string; type: "histogram"; values: Bucket[] }> {
    return {
      name: DURATIONS,
      help: DURATIONS_HELP,
      type: "histogram",
      values: [...this.#traffic.routes].flatMap(bucketsOf),
    };
  }
}

type Bucket = { metricName: string; labels: Labels; value: number };

/** Each bucket holds those below it, too. */
function bucketsOf([route, { durations, totalMs }]: [Route | undefined, RouteTraffic]): Bucket[] {
  const labels = labelsOf(route);
  let count = 0;
  const buckets = durations.map((inBucket, at): Bucket => {
    count += inBucket;
    const le = String(DURATION_BOUNDS[at] ?? "+Inf");
    return { metricName: `${DURATIONS}_bucket`, labels: { ...labels, le }, value: count };
  });
  return [
    ...buckets,
    { metricName: `${DURATIONS}_sum`, labels, value: totalMs / 1_000 },
    { metricName: `${DURATIONS}_count`, labels, value: count },
  ];
}

function seconds(moment: Date): number {
  return moment.getTime() / 1_000;
}

/** What `tell` says; undefined where the store, the system or the disk does not let it. */
function tellable<T>(tell: () => T): T | undefined {
  try {
    return tell();
  } catch (error) {
    if (error instanceof LegerError || systemCode(error) !== undefined) return undefined;
    throw error;
  }
}
