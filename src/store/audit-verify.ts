/** audit-verify — whether the audit logs are whole: no line cut, missing, changed, moved or put back. */
import * as fs from "node:fs";
import type { KeyObject } from "node:crypto";
import { AUDIT_LOGS, auditFile, auditFiles } from "../core/audit-files.ts";
import { systemCode } from "../core/error.ts";
import { nextTurn } from "../core/turn.ts";
import type { AuditHeads } from "./audit.ts";
import { chainMac, parseChainLine, START, type ChainHead } from "./chain.ts";

export type AuditReport = {
  /** Lines that are there and as legerd wrote them, of both logs. */
  lines: number;
  /** Lines that an older legerd wrote without numbers: nobody can tell whether they are whole. */
  unnumbered: number;
  /** What is wrong, as sentences that name file and line. None: nothing is. */
  problems: string[];
};

export type AuditPlace = {
  stateDir: string;
  key: KeyObject;
  /** How far the logs have come at least. */
  heads: AuditHeads | undefined;
};

/** Most sentences about one log: one that was changed all over would make one for each line, and hide what is wrong with the other. */
const MAX_PROBLEMS = 100;
const CHUNK_BYTES = 256 * 1024;
/** How long the event loop is kept before others get their turn. */
const SLICE_MS = 0.5;
const NEWLINE = 0x0a;

type OpenFile = { file: string; fd: number };

/**
 * Reads both logs from their first line to the last. Beside a legerd that writes, lines that come meanwhile may be
 * left out. Throws what the system throws.
 */
export async function verifyAudit({ stateDir, key, heads }: AuditPlace): Promise<AuditReport> {
  const report: AuditReport = { lines: 0, unnumbered: 0, problems: [] };
  for (const which of ["everything", "changes"] as const) {
    // All at once: a rotation meanwhile renames files, which their descriptors do not mind.
    const files = openFiles(stateDir, AUDIT_LOGS[which]);
    const before = report.problems.length;
    try {
      await verifyChain(files, key, heads?.[which], report);
    } finally {
      for (const { fd } of files) fs.closeSync(fd);
    }
    const surplus = report.problems.splice(before + MAX_PROBLEMS).length;
    if (surplus > 0)
      report.problems.push(`${auditFile(stateDir, AUDIT_LOGS[which])}: and ${surplus} problems more`);
  }
  return report;
}

/** A file that was renamed between the listing and its opening makes for another listing. */
function openFiles(stateDir: string, name: string): OpenFile[] {
  for (;;) {
    const before = auditFiles(stateDir, name);
    const opened: OpenFile[] = [];
    try {
      for (const file of before) opened.push({ file, fd: fs.openSync(file, "r") });
    } catch (error) {
      for (const { fd } of opened) fs.closeSync(fd);
      if (systemCode(error) === "ENOENT") continue;
      throw error;
    }
    if (before.join("\0") === auditFiles(stateDir, name).join("\0")) return opened;
    for (const { fd } of opened) fs.closeSync(fd);
  }
}

async function verifyChain(
  files: readonly OpenFile[],
  key: KeyObject,
  head: ChainHead | undefined,
  report: AuditReport,
): Promise<void> {
  const { n: lastNumber, first } = head ?? START;
  let previous: { n: number; mac: string } | undefined;
  let sliceStart = performance.now();
  for (const { file, fd } of files) {
    let at = 0;
    for (const line of linesOf(fd)) {
      at += 1;
      if (performance.now() - sliceStart > SLICE_MS) {
        await nextTurn();
        sliceStart = performance.now();
      }
      const where = `${file}:${at}`;
      const parsed = parseChainLine(line);
      if (parsed === undefined) {
        if (previous === undefined) report.unnumbered += 1;
        else report.problems.push(`${where}: it is no line of legerd's, or was changed`);
        continue;
      }
      const { n, mac, covered } = parsed;
      const due = previous === undefined ? first : previous.n + 1;
      const follows = previous !== undefined && n === due;
      if (n > due) report.problems.push(`${where}: ${linesFromTo(due, n - 1)} missing before it`);
      // The oldest file begins where it begins: older ones may still be there after a kill.
      if (previous !== undefined && n < due)
        report.problems.push(`${where}: line ${n} comes after line ${previous.n}`);
      const before = follows ? previous?.mac : beforeOf(n, covered);
      if (before !== undefined && chainMac(key, before, covered) !== mac) {
        report.problems.push(`${where}: line ${n} was changed, or the one before it`);
      } else {
        report.lines += 1;
      }
      previous = { n, mac };
    }
  }
  const n = previous?.n ?? first - 1;
  if (n < lastNumber) {
    const { file } = files.at(-1) ?? { file: "the audit log" };
    report.problems.push(`${file}: ${linesFromTo(n + 1, lastNumber)} missing at its end`);
  }
}

/** The hash before a line that follows none we know: the first line has none, and the first of a file says it. */
function beforeOf(n: number, covered: string): string | undefined {
  if (n === 1) return "";
  return /,"action":"rotate",.*,"before":"([\w-]*)"$/.exec(covered)?.[1];
}

function linesFromTo(from: number, to: number): string {
  return from === to ? `line ${from} is` : `lines ${from} to ${to} are`;
}

/** A file's lines without their ends; what has no end, yet, is left out. */
function* linesOf(fd: number): Generator<string> {
  const chunk = Buffer.alloc(CHUNK_BYTES);
  let rest: Buffer = Buffer.alloc(0);
  for (;;) {
    const bytes = fs.readSync(fd, chunk, 0, chunk.length, null);
    if (bytes === 0) return;
    let pending = Buffer.concat([rest, chunk.subarray(0, bytes)]);
    for (let end = pending.indexOf(NEWLINE); end >= 0; end = pending.indexOf(NEWLINE)) {
      yield pending.toString("utf8", 0, end);
      pending = pending.subarray(end + 1);
    }
    rest = Buffer.from(pending);
  }
}
