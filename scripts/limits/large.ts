/** large — the row of a store with very many secrets and versions. */
import { must, metric, until, type Row } from "./ground.ts";
import { fillVersions, valueOf } from "./fill.ts";

const SECRETS = Number(process.env["LEGER_LIMITS_SECRETS"] ?? 100_000);
const VERSIONS = Number(process.env["LEGER_LIMITS_VERSIONS"] ?? 50);
const READS = 200;
const LIST_TIMEOUT_MS = 120_000;
const VERIFIED_WITHIN_MS = 30 * 60_000;

export const large: Row = {
  name: "large",
  what: `${SECRETS} secrets with ${VERSIONS} versions each`,
  slow: true,
  async run(ground) {
    fillVersions(ground.stateDir, { secrets: SECRETS, versions: VERSIONS });
    const started = performance.now();
    const daemon = await ground.start();
    const readyMs = elapsed(started);
    const reading = performance.now();
    for (let n = 0; n < READS; n += 1) {
      const secret = Math.floor((n / READS) * SECRETS);
      must("get", await daemon.get(`leger/local/k${secret}`), `200 ${valueOf(secret, VERSIONS)}`);
    }
    const readMs = elapsed(reading) / READS;
    const body = { Name: "leger/local/k1", Version: 1 };
    const first = Buffer.from(valueOf(1, 1)).toString("base64");
    must(
      "the first version",
      (await daemon.ask("POST", "/api/get", { body })).text,
      `{"Value":"${first}","Version":1}`,
    );
    must("put", await daemon.put("leger/local/k0", "new"), `200 ${VERSIONS + 1}`);
    const counting = performance.now();
    must("versions", await metric(daemon, "legerd_versions"), SECRETS * VERSIONS + 1);
    const countMs = elapsed(counting);
    const listing = performance.now();
    const listed = await daemon.ask("POST", "/api/list", {
      body: {},
      timeoutMs: LIST_TIMEOUT_MS,
      maxBodyBytes: 1024 ** 3,
    });
    const infos: unknown[] = JSON.parse(listed.text);
    must("list", infos.length, SECRETS);
    const listMs = elapsed(listing);
    const verifying = performance.now();
    await until(
      "it is verified",
      VERIFIED_WITHIN_MS,
      async () => (await metric(daemon, "legerd_verified_timestamp_seconds")) > 0,
    );
    const memory = Math.round((await metric(daemon, "process_resident_memory_bytes")) / 1024 ** 2);
    return {
      served: `everything: ready after ${readyMs} ms, a read ${readMs.toFixed(1)} ms, /metrics ${countMs} ms at first, a list ${listMs} ms; verified after ${elapsed(verifying)} ms more; ${memory} MiB then`,
      refused: "nothing by legerd; leger secrets list waits for 10 s",
      recovers: "nothing to recover from",
    };
  },
};

function elapsed(since: number): number {
  return Math.round(performance.now() - since);
}
