/** source-date — the moment that everything built from this tree bears, so that a second build is the same. */
import { fileURLToPath } from "node:url";
import { run } from "../../src/core/exec.ts";

/** SOURCE_DATE_EPOCH (reproducible-builds.org), else the last commit's. Fails where there is neither. */
export async function sourceDate(): Promise<Date> {
  const given = process.env["SOURCE_DATE_EPOCH"];
  if (given !== undefined && /^\d{1,11}$/.test(given)) return new Date(Number(given) * 1_000);
  const { stdout } = await run("git", ["log", "-1", "--format=%ct"], {
    cwd: fileURLToPath(new URL("../..", import.meta.url)),
    env: process.env,
    timeoutMs: 20_000,
    check: true,
  });
  return new Date(Number(Buffer.from(stdout).toString()) * 1_000);
}
