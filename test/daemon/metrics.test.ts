import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { expect, test } from "vitest";
import { Secret } from "../../src/core/secret.ts";
import { VERSION } from "../../src/core/version.ts";
import { noteBackup } from "../../src/store/last-backup.ts";
import { makePlaces, spawnLegerd, startTestLegerd, type Places, type TestLegerd } from "../support/legerd.ts";
import { parsePrometheusText, type Family } from "../support/prometheus-text.ts";
import { exchange, sendRaw } from "../support/raw-http.ts";

const SECRET = "leger/local/canary_name";
const SERVICE = "canary-service";

type Scrape = { text: string; families: Map<string, Family>; value: (sample: string) => number | undefined };

async function scrape(socket: string): Promise<Scrape> {
  const answer = await sendRaw(socket, { method: "GET", path: "/metrics" });
  expect([answer.status, answer.headers.get("content-type")]).toEqual([
    200,
    "text/plain; version=0.0.4; charset=utf-8",
  ]);
  const text = answer.body.toString();
  const families = parsePrometheusText(text);
  return {
    text,
    families,
    value: (sample) => families.get(sample.replace(/\{.*/, ""))?.samples.get(sample),
  };
}

test("the reader of the text format that these tests rest on refuses what is none", () => {
  const good = '# HELP a b\n# TYPE a gauge\na{x="y"} 1\n';
  expect(parsePrometheusText(good).get("a")?.samples).toEqual(new Map([['a{x="y"}', 1]]));
  for (const bad of [
    good.trimEnd(),
    good.replace("TYPE a", "TYPE b"),
    good.replace('"y"', '"y'),
    good.replace("a{", "b{"),
    good.replace("} 1", "} one"),
    `${good}\n${good}`,
    `${good}a{x="y"} 2\n`,
  ]) {
    expect(() => parsePrometheusText(bad), bad).toThrow(/not Prometheus' text format|has no end/);
  }
});

test("requests are counted by route and status, and their durations in buckets that grow", async () => {
  await using daemon = await startTestLegerd({ [SECRET]: "one", "leger/local/other": "two" });
  for (let at = 0; at < 7; at += 1) await daemon.client.get(SECRET);
  await expect(daemon.client.get("leger/local/canary_missing")).rejects.toThrow("not found");
  await sendRaw(daemon.socket, { method: "GET", path: "/no/such/canary_path" });
  await exchange(daemon.socket, Buffer.from("GET / canary_line\r\n\r\n"));
  await sendRaw(daemon.socket, { method: "GET", path: `/v1/services/${SERVICE}` });
  const { value, families } = await scrape(daemon.socket);
  const requests = (labels: string): number | undefined => value(`legerd_requests_total{${labels}}`);
  expect(requests('method="POST",route="/api/put",status="200"')).toBe(2);
  expect(requests('method="POST",route="/api/get",status="200"')).toBe(7);
  expect(requests('method="POST",route="/api/get",status="404"')).toBe(1);
  expect(requests('method="GET",route="/v1/services/NAME",status="404"')).toBe(1);
  expect(requests('method="any",route="other",status="404"')).toBe(1);
  expect(requests('method="any",route="other",status="400"')).toBe(1);
  // The scrape itself is counted once it is answered.
  expect(
    (await scrape(daemon.socket)).value('legerd_requests_total{method="GET",route="/metrics",status="200"}'),
  ).toBe(1);

  const durations = families.get("legerd_request_duration_seconds");
  expect(durations?.type).toBe("histogram");
  const reads = [...(durations?.samples ?? [])].filter(([key]) => key.includes('route="/api/get"'));
  const buckets = reads.filter(([key]) => key.includes("_bucket{"));
  const bounds = buckets.map(([key]) => Number(/le="([^"]+)"/.exec(key)?.[1]?.replace("+Inf", "Infinity")));
  expect(bounds).toEqual(bounds.toSorted((a, b) => a - b));
  expect(bounds.at(-1)).toBe(Number.POSITIVE_INFINITY);
  const counts = buckets.map(([, count]) => count);
  expect(counts).toEqual(counts.toSorted((a, b) => a - b));
  expect(counts.at(-1)).toBe(8);
  const labels = '{method="POST",route="/api/get"}';
  expect(durations?.samples.get(`legerd_request_duration_seconds_count${labels}`)).toBe(8);
  expect(durations?.samples.get(`legerd_request_duration_seconds_sum${labels}`)).toBeGreaterThan(0);
});

test("what the store holds is counted as it is now, and what was set but not activated is told", async () => {
  await using daemon = await startTestLegerd({ [SECRET]: "one", "leger/local/other": "two" });
  const told = async (): Promise<(number | undefined)[]> => {
    const { value } = await scrape(daemon.socket);
    return ["secrets", "versions", "secrets_pending", "services", "services_unserved"].map((name) =>
      value(`legerd_${name}`),
    );
  };
  expect(await told()).toEqual([2, 2, 0, 0, 0]);
  await daemon.client.put(SECRET, new Secret(Buffer.from("newer")));
  expect(await told()).toEqual([2, 3, 1, 0, 0]);
  await daemon.client.activate(SECRET, 2);
  const variables = { A: SECRET, B: "leger/local/missing" };
  const body = Buffer.from(JSON.stringify({ variables }));
  await sendRaw(daemon.socket, { method: "PUT", path: `/v1/services/${SERVICE}`, body });
  expect(await told()).toEqual([2, 3, 0, 1, 1]);
  await daemon.client.deleteVersion(SECRET, 1);
  await daemon.client.delete("leger/local/other");
  expect(await told()).toEqual([1, 1, 0, 1, 1]);
});

test("it tells of the last backup, the verification, the audit log and the process", async () => {
  await using daemon = await startTestLegerd({ [SECRET]: "one" });
  const before = await scrape(daemon.socket);
  expect(before.value("legerd_backup_timestamp_seconds")).toBe(0);
  expect(before.value("legerd_backup_changes_since")).toBe(1);
  expect(before.value('legerd_verification{state="waiting"}')).toBe(1);
  expect(before.value('legerd_verification{state="damaged"}')).toBe(0);
  expect(before.value("legerd_verified_timestamp_seconds")).toBe(0);
  expect(before.value("legerd_audit_max_bytes")).toBe(1024 ** 3);
  noteBackup(daemon.stateDir, { madeAt: "2026-01-02T03:04:05.000Z", changes: 1 });
  const after = await scrape(daemon.socket);
  expect(after.value("legerd_backup_timestamp_seconds")).toBe(Date.UTC(2026, 0, 2, 3, 4, 5) / 1_000);
  expect(after.value("legerd_backup_changes_since")).toBe(0);
  const logs = { everything: "audit.log", changes: "audit-changes.log" };
  for (const [log, file] of Object.entries(logs)) {
    const { size } = fs.statSync(`${daemon.stateDir}/${file}`);
    expect(after.value(`legerd_audit_bytes{log="${log}"}`)).toBe(size);
    expect(after.value(`legerd_audit_lines_total{log="${log}"}`)).toBe(1);
  }
  expect(after.value("process_open_fds")).toBeGreaterThan(10);
  expect(after.value("process_max_fds")).toBeGreaterThan(after.value("process_open_fds") ?? Infinity);
  expect(after.value("legerd_state_free_bytes")).toBeGreaterThan(0);
  // The connection of the client that put the secret, and this one.
  expect(after.value("legerd_connections")).toBe(2);
});

test("no name is ever in it: no secret's, no service's, no caller's, no path's", async () => {
  await using daemon = await startTestLegerd({ [SECRET]: "one" }, { doors: ownerAndGuest });
  const variables = Buffer.from(JSON.stringify({ variables: { CANARY_VARIABLE: SECRET } }));
  await sendRaw(daemon.socket, { method: "PUT", path: `/v1/services/${SERVICE}`, body: variables });
  await sendRaw(daemon.socket, { method: "GET", path: `/v1/services/${SERVICE}/env` });
  await sendRaw(daemon.socket, { method: "GET", path: "/canary?canary=canary" });
  await sendRaw(daemon.socket, { method: "CANARY", path: "/canary" });
  await expect(daemon.client.get("leger/local/canary_missing")).rejects.toThrow("not found");
  await guest(daemon);
  const { text } = await scrape(daemon.socket);
  expect(text.toLowerCase()).not.toMatch(/canary|leger\/local/);
  expect(text).toContain('route="/v1/services/NAME/env"');
});

function ownerAndGuest({ socket, runtimeDir }: Places) {
  return [
    { unix: socket, mode: 0o600, principal: "canary-owner", grants: undefined },
    { unix: `${runtimeDir}/guest/legerd.sock`, mode: 0o600, principal: "canary-guest", grants: [] },
    {
      unix: `${runtimeDir}/prometheus/legerd.sock`,
      mode: 0o600,
      principal: "canary-prometheus",
      grants: [],
      routes: ["metrics"] as const,
    },
  ];
}

function guest({ runtimeDir }: TestLegerd, door = "guest") {
  return sendRaw(`${runtimeDir}/${door}/legerd.sock`, { method: "GET", path: "/metrics" });
}

test("a door with grants has no metrics, unless it is opened for them", async () => {
  await using daemon = await startTestLegerd({ [SECRET]: "one" }, { doors: ownerAndGuest });
  const refused = await guest(daemon);
  expect([refused.status, refused.body.toString()]).toEqual([
    403,
    expect.stringContaining("not open at this door"),
  ]);
  expect(refused.body.toString()).toContain('\\"routes\\": [\\"metrics\\"]');
  await scrape(`${daemon.runtimeDir}/prometheus/legerd.sock`);
  const { value } = await scrape(daemon.socket);
  expect(value('legerd_requests_total{method="GET",route="/metrics",status="403"}')).toBe(1);
});

test("a legerd of its own process, compiled or not, has metrics, also once it has no descriptor left to count them by", async () => {
  using places = makePlaces();
  await using daemon = await spawnLegerd(places);
  const first = await scrape(places.socket);
  expect(first.value(`legerd_build_info{version="${VERSION}"}`)).toBe(1);
  expect(first.value("process_resident_memory_bytes")).toBeGreaterThan(0);
  const openFds = first.value("process_open_fds") ?? Number.NaN;
  // Room for the connection, and for nothing to be opened then.
  execFileSync("prlimit", ["--pid", String(daemon.pid), `--nofile=${openFds}:`]);
  const second = await scrape(places.socket);
  expect(second.value("process_open_fds")).toBeUndefined();
  expect(second.value("process_resident_memory_bytes")).toBeUndefined();
  expect(second.value("legerd_secrets")).toBe(0);
});
