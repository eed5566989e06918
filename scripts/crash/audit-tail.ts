/** audit-tail — what legerd's audit log has gained, compared with what was asked of it. */
import * as fs from "node:fs";
import { z } from "zod";
import type { Item } from "./model.ts";

const Line = z.object({
  time: z.iso.datetime(),
  principal: z.string().min(1),
  action: z.string(),
  authorized: z.literal(true),
  secret: z.string().optional(),
  version: z.int().optional(),
  podman_id: z.string().optional(),
  service: z.string().optional(),
  token: z.string().optional(),
});

/** "rotate": the line that a new file begins with. */
const NO_CHANGES: ReadonlySet<string> = new Set(["get", "info", "rotate"]);

/** Reads an audit log on from where it was left. */
export class AuditTail {
  readonly #file: string;
  #offset = 0;

  constructor(file: string) {
    this.#file = file;
  }

  /** A sentence for each line that cannot be read, is missing, or tells of a change that nobody asked for. */
  compare(items: ReadonlyMap<string, Item>): string[] {
    const faults: string[] = [];
    const found = Map.groupBy(this.#changes(faults), ({ label }) => label);
    for (const [label, lines] of found) {
      if (!items.has(label))
        faults.push(`audit log: "${lines[0]?.text}" of ${label}, which nobody asked for`);
    }
    for (const item of items.values()) {
      const expected = item.takeAuditLines();
      for (const { text } of found.get(item.label) ?? []) {
        const at = expected.findIndex((line) => line.text === text);
        if (at === -1) faults.push(`audit log: "${text}" of ${item.label}, which nobody asked for`);
        const skipped = expected.splice(0, at + 1).slice(0, -1);
        for (const line of skipped) if (line.certain) faults.push(missing(item, line.text));
      }
      for (const line of expected) if (line.certain) faults.push(missing(item, line.text));
    }
    return faults;
  }

  #changes(faults: string[]): { label: string; text: string }[] {
    const bytes = fs.readFileSync(this.#file).subarray(this.#offset);
    this.#offset += bytes.length;
    const lines = bytes.toString().split("\n");
    if (lines.pop() !== "") faults.push("audit log: the last line has no end");
    return lines.flatMap((line) => {
      const change = changeOf(line);
      if (change !== "no line") return change ?? [];
      faults.push(`audit log: not a line of legerd's: ${line.slice(0, 200)}`);
      return [];
    });
  }
}

/** What a line of an audit log says was changed, in the words of the model; undefined where it was only read. */
export function changeOf(line: string): { label: string; text: string } | undefined | "no line" {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch {
    return "no line";
  }
  const parsed = Line.safeParse(json);
  if (!parsed.success) return "no line";
  const { action, secret, version, podman_id: id, service, token } = parsed.data;
  if (NO_CHANGES.has(action)) return undefined;
  if (id !== undefined) {
    return { label: `entry ${id}`, text: secret === undefined ? action : `${action} to ${secret}` };
  }
  if (service !== undefined) return { label: `service ${service}`, text: action };
  if (token !== undefined) return { label: `token ${token}`, text: action };
  return { label: `secret ${secret ?? ""}`, text: version === undefined ? action : `${action} ${version}` };
}

function missing(item: Item, text: string): string {
  return `audit log: no line "${text}" of ${item.label}`;
}
