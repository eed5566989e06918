import * as fs from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { openAuditLog } from "../../src/store/audit.ts";
import { temporaryState } from "./state.ts";

const WHOLE = `${JSON.stringify({ time: "2026-01-01T10:00:00.000Z", principal: "alice", action: "get", authorized: true })}\n`;

test.for([
  ["an empty file", "", "", []],
  ["whole lines", WHOLE + WHOLE, WHOLE + WHOLE, []],
  ["a line that a kill cut short", `${WHOLE}${WHOLE.slice(0, 50)}`, WHOLE, [WHOLE.slice(0, 50)]],
  ["a cut line alone", WHOLE.slice(0, 50), "", [WHOLE.slice(0, 50)]],
  ["all of a line but its newline", WHOLE + WHOLE.trimEnd(), WHOLE, [WHOLE.trimEnd()]],
  ["a cut line of 200,000 bytes", WHOLE + "x".repeat(200_000), WHOLE, ["x".repeat(1_000)]],
] as const)("an audit log with %s is opened with whole lines only", async ([, before, after, told]) => {
  using state = temporaryState();
  fs.mkdirSync(state.dir, { mode: 0o700 });
  const file = path.join(state.dir, "audit.log");
  fs.writeFileSync(file, before, { mode: 0o600 });
  const said: string[] = [];
  const audit = openAuditLog(state.dir, (line) => said.push(line));
  expect(fs.readFileSync(file, "utf8")).toBe(after);
  expect(said).toEqual(
    told.map((text) => `legerd: notice: ${file}: cut off an unfinished line: ${JSON.stringify(text)}`),
  );
  await audit.append({ principal: "alice", action: "get", authorized: true });
  audit.close();
  expect(fs.readFileSync(file, "utf8").slice(after.length)).toMatch(/^\{"time":.*\}\n$/);
});
