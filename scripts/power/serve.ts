/** serve — a legerd whose audit logs are small, so that they are rotated amid a recording: `serve.ts STATE SOCKET`. */
import { VERSION } from "../../src/core/version.ts";
import { startLegerd } from "../../src/daemon/legerd.ts";

/** A legerd.json allows no less than 8 MiB. */
const AUDIT_BYTES = 512 * 1024;

const [stateDir = "", unix = ""] = process.argv.slice(2);
const log = (line: string): void => void process.stderr.write(`${line}\n`);
const stopped = new Promise<void>((resolve) => process.once("SIGTERM", () => resolve()));
const legerd = await startLegerd({
  version: VERSION,
  stateDir,
  doors: [{ unix, mode: 0o600, principal: "owner", grants: undefined }],
  audit: { maxBytes: AUDIT_BYTES },
  log,
});
log("legerd: ready");
await stopped;
await legerd.stop(1_000);
