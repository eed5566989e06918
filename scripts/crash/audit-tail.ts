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
});

const READS: ReadonlySet<string> = new Set(["get", "info"]);

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
      let json: unknown;
      try {
        json = JSON.parse(line);
      } catch {
        faults.push(`audit log: not JSON: ${line.slice(0, 200)}`);
        return [];
      }
      const parsed = Line.safeParse(json);
      if (!parsed.success) {
        faults.push(`audit log: not a line of legerd's: ${line.slice(0, 200)}`);
        return [];
      }
      const { action, secret, version, podman_id: id, service } = parsed.data;
      if (READS.has(action)) return [];
      if (id !== undefined) {
        return [{ label: `entry ${id}`, text: secret === undefined ? action : `${action} to ${secret}` }];
      }
      if (service !== undefined) return [{ label: `service ${service}`, text: action }];
      const text = version === undefined ? action : `${action} ${version}`;
      return [{ label: `secret ${secret ?? ""}`, text }];
    });
  }
}

function missing(item: Item, text: string): string {
  return `audit log: no line "${text}" of ${item.label}`;
}
