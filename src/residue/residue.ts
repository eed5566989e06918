/** residue — searches places and processes for known values, and tells where each lies without telling any. */
import { readSync } from "node:fs";
import path from "node:path";
import { systemCode } from "../core/error.ts";
import type { Secret } from "../core/secret.ts";
import { formsOf, type Form } from "./forms.ts";
import { compressedFields, isJournal } from "./journal.ts";
import { processFiles } from "./processes.ts";
import { Scanner, type Found } from "./scan.ts";
import { Search, type Pattern } from "./search.ts";
import { isDatabase, longRows } from "./sqlite.ts";
import { walk, Walked, type OpenFile } from "./walk.ts";

/** A value to look for. */
export type Known = {
  secret: string;
  /** Undefined for what has none: an entry of Podman's with a value of its own. */
  version: number | undefined;
  value: Secret;
};

/** One value in one form in one file. */
export type Trace = {
  secret: string;
  version: number | undefined;
  form: Form;
  /**
   * In the bytes of the file; in its name; in a field of a journal that is compressed, or a row of a database that goes over
   * several pages, which begin at `offset`.
   */
  within: "content" | "name" | "compressed field" | "database row";
  offset: number;
  times: number;
};

/** A file in which something was found. Values in its path are masked. */
export type Finding = {
  path: string;
  /** Gone with the power; it may still be swapped out. */
  isInMemory: boolean;
  /** When the file was last changed; for a process unknown. */
  changedAt: Date | undefined;
  /** Permissions; for a process unknown. */
  mode: number | undefined;
  process: { pid: number; what: "cmdline" | "environ" } | undefined;
  traces: readonly Trace[];
};

export type Report = {
  findings: readonly Finding[];
  unreadable: readonly { path: string; code: string }[];
  leftOut: readonly { path: string; why: string }[];
  files: number;
  bytes: number;
};

export type Searching = {
  /** Files and directories; those that aren't there are passed over. */
  roots: readonly string[];
  /** Where processes show; absent: they are not looked at. */
  proc?: string | undefined;
  euid: number;
  /** What lies in memory only is no news. */
  diskOnly?: boolean | undefined;
  /** Called often: so many bytes more, now in this file (masked). */
  onProgress?: ((bytes: number, path: string) => void) | undefined;
};

type Label = { secret: string; version: number | undefined; form: Form };
type Sought = Pattern & { labels: Label[] };

/** What can be looked for, and what is too short for that. */
export class Residue {
  /** Secrets and versions that were left out: a value of under MIN_VALUE_BYTES would be found everywhere. */
  readonly tooShort: readonly Omit<Known, "value">[];
  readonly #search: Search<Sought> | undefined;
  readonly #scanner: Scanner<Sought> | undefined;

  constructor(known: readonly Known[]) {
    const { patterns, tooShort } = patternsOf(known);
    this.tooShort = tooShort;
    if (patterns.length === 0) return;
    this.#search = new Search(patterns);
    this.#scanner = new Scanner(this.#search);
  }

  /** Looks through all of it. Never rejects but for a bug. */
  async search({ roots, proc, euid, diskOnly = false, onProgress }: Searching): Promise<Report> {
    const report = new Collected();
    if (this.#scanner === undefined) return report;
    const walked = new Walked();
    for (const root of roots) {
      for (const step of walk(root, walked)) {
        const named = this.#inName(step.path);
        const shown = this.mask(step.path);
        if (step.kind === "unreadable") report.unreadable.push({ path: shown, code: step.code });
        else if (step.kind === "left out") report.leftOut.push({ path: shown, why: step.why });
        else if (step.kind === "other") {
          if (named.length > 0) report.findings.push({ ...NOTHING_KNOWN, path: shown, traces: named });
        } else if (!diskOnly || !step.isInMemory) {
          const tell = (bytes: number): void => {
            report.bytes += bytes;
            onProgress?.(bytes, shown);
          };
          await this.#file(step, { shown, named, tell }, report);
        }
      }
    }
    if (proc !== undefined && !diskOnly) await this.#processes(proc, euid, report);
    return report;
  }

  /** A text without the values that are in it. */
  mask(text: string): string {
    const bytes = Buffer.from(text);
    const matches: { from: number; to: number }[] = [];
    this.#search?.find(bytes, 0, bytes.length, ({ from, to }) => matches.push({ from, to }));
    let masked = "";
    let at = 0;
    for (const { from, to } of matches.toSorted((a, b) => a.from - b.from)) {
      if (from >= at) masked += `${bytes.toString("utf8", at, from)}[secret]`;
      at = Math.max(at, to);
    }
    return masked + bytes.toString("utf8", at);
  }

  async #file(step: OpenFile, { shown, named, tell }: FileTelling, report: Collected): Promise<void> {
    report.files += 1;
    const { fd, stats, isInMemory } = step;
    const traces: Trace[] = [...named];
    try {
      const { size } = stats;
      traces.push(
        ...tracesOf((await this.#scanner?.file({ fd, size: sizeOf(size) }, { onBytes: tell })) ?? []),
      );
      const head = size > 0 ? headOf(fd) : Buffer.alloc(0);
      if (isJournal(head)) traces.push(...this.#journal(fd, size, shown, report));
      if (isDatabase(head)) traces.push(...this.#database(fd, size, traces));
    } catch (error) {
      const code = systemCode(error);
      if (code === undefined) throw error;
      report.unreadable.push({ path: shown, code });
    }
    if (traces.length === 0) return;
    const { mtime: changedAt, mode } = stats;
    report.findings.push({
      ...NOTHING_KNOWN,
      path: shown,
      isInMemory,
      changedAt,
      mode: mode & 0o7777,
      traces,
    });
  }

  #journal(fd: number, size: number, shown: string, report: Collected): Trace[] {
    const fields = compressedFields(fd, size);
    const traces: Trace[] = [];
    let step = fields.next();
    for (; step.done !== true; step = fields.next()) {
      const { offset, bytes } = step.value;
      const found = tracesOf(this.#scanner?.bytes(bytes) ?? []);
      traces.push(...found.map((trace): Trace => ({ ...trace, within: "compressed field", offset })));
    }
    const { leftOut } = step.value;
    if (leftOut > 0) {
      report.leftOut.push({
        path: shown,
        why: `${leftOut} of its fields are compressed in a way that leger cannot read`,
      });
    }
    return traces;
  }

  /** What a search of the file's bytes has not found. */
  #database(fd: number, size: number, known: readonly Trace[]): Trace[] {
    const keyOf = ({ secret, version, form }: Trace): string => JSON.stringify([secret, version, form]);
    const seen = new Set(known.map(keyOf));
    const traces: Trace[] = [];
    for (const { offset, bytes } of longRows(fd, size)) {
      for (const trace of tracesOf(this.#scanner?.bytes(bytes) ?? [])) {
        if (seen.has(keyOf(trace))) continue;
        seen.add(keyOf(trace));
        traces.push({ ...trace, within: "database row", offset });
      }
    }
    return traces;
  }

  async #processes(proc: string, euid: number, report: Collected): Promise<void> {
    for (const step of processFiles(proc, euid)) {
      if (step.kind === "unreadable") {
        report.unreadable.push({ path: step.path, code: step.code });
        continue;
      }
      let found: Found<Sought>[];
      try {
        found = (await this.#scanner?.file({ fd: step.fd })) ?? [];
      } catch {
        // It has ended.
        continue;
      }
      report.files += 1;
      if (found.length === 0) continue;
      const { path: file, pid, what } = step;
      const traces = tracesOf(found);
      report.findings.push({
        ...NOTHING_KNOWN,
        path: file,
        isInMemory: true,
        process: { pid, what },
        traces,
      });
    }
  }

  #inName(file: string): Trace[] {
    const found = this.#scanner?.bytes(Buffer.from(path.basename(file))) ?? [];
    return tracesOf(found).map((trace): Trace => ({ ...trace, within: "name" }));
  }
}

/** How much there is to read, for a progress bar. */
export function weigh(roots: readonly string[]): number {
  const walked = new Walked();
  let bytes = 0;
  for (const root of roots) {
    for (const step of walk(root, walked)) if (step.kind === "file") bytes += step.stats.size;
  }
  return bytes;
}

type FileTelling = { shown: string; named: readonly Trace[]; tell: (bytes: number) => void };

class Collected {
  readonly findings: Finding[] = [];
  readonly unreadable: { path: string; code: string }[] = [];
  readonly leftOut: { path: string; why: string }[] = [];
  files = 0;
  bytes = 0;
}

const NOTHING_KNOWN = {
  isInMemory: false,
  changedAt: undefined,
  mode: undefined,
  process: undefined,
} as const;

function patternsOf(known: readonly Known[]): { patterns: Sought[]; tooShort: Omit<Known, "value">[] } {
  const byBytes = new Map<string, Sought>();
  const tooShort: Omit<Known, "value">[] = [];
  for (const { secret, version, value } of known) {
    const forms = formsOf(value);
    if (forms === undefined) tooShort.push({ secret, version });
    for (const { form, bytes, foldable } of forms ?? []) {
      const key = `${foldable} ${Buffer.from(bytes).toString("latin1")}`;
      const pattern = byBytes.get(key) ?? { bytes, foldable, labels: [] };
      pattern.labels.push({ secret, version, form });
      byBytes.set(key, pattern);
    }
  }
  return { patterns: [...byBytes.values()], tooShort };
}

function tracesOf(found: readonly Found<Sought>[]): Trace[] {
  return found
    .flatMap(({ pattern, offset, times }) =>
      pattern.labels.map((label): Trace => ({ ...label, within: "content", offset, times })),
    )
    .toSorted((a, b) => a.offset - b.offset);
}

/** Some of the kernel's files say 0 and hold something nevertheless. */
function sizeOf(size: number): number {
  return size === 0 ? MAX_BYTES_OF_NOTHING : size;
}

const MAX_BYTES_OF_NOTHING = 16 * 1024 * 1024;

function headOf(fd: number): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  return head.subarray(0, readSync(fd, head, 0, head.length, 0));
}

/** Longer than any signature that is looked at. */
const HEAD_BYTES = 16;
