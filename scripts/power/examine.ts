/** examine — a state directory as a power cut left it: legerd must open it, and all that was acknowledged must be there. */
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import path from "node:path";
import { auditFiles, AUDIT_LOGS } from "../../src/core/audit-files.ts";
import { openAuditLog } from "../../src/store/audit.ts";
import { verifyAudit } from "../../src/store/audit-verify.ts";
import { checkStore } from "../../src/store/check.ts";
import {
  connect,
  DATABASE_FILE,
  prepareDatabase,
  prepareStateDirectory,
  RESTORE_DIRECTORY,
} from "../../src/store/database.ts";
import { MAIN_KEY_FILE } from "../../src/store/main-key.ts";
import { Rows } from "../../src/store/rows.ts";
import { createChainKey } from "../../src/store/seal.ts";
import { listNumbers } from "../../src/store/versions.ts";
import { changeOf } from "../crash/audit-tail.ts";
import {
  describeEntry,
  describeSecret,
  describeService,
  describeToken,
  fingerprint,
} from "../crash/model.ts";
import type { AuditLines, Ledger, State } from "./ledger.ts";

export type Examined = {
  /** A sentence for each thing that is not as it must be. */
  faults: string[];
  state: State;
  audit: AuditLines;
  key: string | undefined;
  /** Lines at the end of audit.log, which is not synced, are gone; or of the log of changes, none of which was answered for. */
  lostTail: boolean;
  lostChanges: boolean;
};

/** Where the things that were recorded lie. */
export type Layout = { stateDir: string; base: string };

/** Opens the store as a start of legerd does, which settles what is unfinished, and compares all of it. */
export async function examine({ stateDir, base }: Layout, ledger: Ledger): Promise<Examined> {
  const examined: Examined = {
    faults: [],
    state: new Map(),
    audit: new Map(),
    key: undefined,
    lostTail: false,
    lostChanges: false,
  };
  const { faults } = examined;
  try {
    if (fs.existsSync(path.join(stateDir, DATABASE_FILE))) {
      const { problems } = await checkStore({ stateDir });
      faults.push(
        ...problems.filter((problem) => !isOfAudit(problem, stateDir)).map((problem) => `check: ${problem}`),
      );
    } else if (ledger.hasStore) {
      return { ...examined, faults: ["lost: there is no database any more"] };
    }
    await open(stateDir, examined);
  } catch (error) {
    faults.push(`legerd would not start: ${messageOf(error)}`);
    return examined;
  }
  faults.push(...ledger.compareState(examined.state));
  faults.push(...ledger.compareAudit(examined.audit, goneFrom(stateDir)));
  examined.key = sha256(fs.readFileSync(path.join(stateDir, MAIN_KEY_FILE)));
  if (ledger.key !== undefined && ledger.key !== examined.key)
    faults.push("lost: the main key is another one");
  for (const [file, due] of ledger.backups) {
    const at = path.join(base, file);
    if (due !== undefined && (!fs.existsSync(at) || sha256(fs.readFileSync(at)) !== due)) {
      faults.push(`lost: the backup ${file} is not there, or not as it was`);
    }
  }
  for (const [directory, { state, certain }] of ledger.restores) {
    faults.push(...restoreFaults(path.join(base, directory), state, certain));
  }
  return examined;
}

async function open(stateDir: string, examined: Examined): Promise<void> {
  prepareStateDirectory(stateDir);
  const { file, keys } = prepareDatabase({ stateDir });
  const db = connect(file, "read");
  try {
    const rows = new Rows(db, keys);
    examined.state = readAll(rows);
    const noted = rows.snapshot("read", () => rows.read("audit", "heads"));
    const key = createChainKey(keys);
    openAuditLog({ stateDir, key, noted, log: () => {} }).close();
    const { problems } = await verifyAudit({ stateDir, key, heads: noted });
    for (const problem of problems) {
      if (!problem.startsWith(path.join(stateDir, AUDIT_LOGS.changes))) examined.lostTail = true;
      else if (/ missing (?:before it|at its end)$/.test(problem)) examined.lostChanges = true;
      else examined.faults.push(`audit log: ${problem}`);
    }
    examined.audit = readChanges(stateDir, examined.faults);
  } finally {
    db.close();
  }
}

function readAll(rows: Rows): State {
  const found = new Map<string, string>();
  rows.snapshot("read", () => {
    for (const { name, owner, active, live } of rows.scan("secret")) {
      const values = listNumbers(live).map(
        (number) => [number, fingerprint(rows.readValue(owner, number))] as const,
      );
      found.set(`secret ${name}`, describeSecret(active, values));
    }
    for (const link of rows.scan("link")) {
      const entry =
        "secret" in link
          ? { secret: link.secret }
          : { fingerprint: fingerprint(rows.readValue(link.owner, 1)) };
      found.set(`entry ${link.name}`, describeEntry(entry));
    }
    for (const { name, variables } of rows.scan("service")) {
      found.set(`service ${name}`, describeService(variables));
    }
    for (const { name, grants } of rows.scan("token")) {
      found.set(`token ${name}`, describeToken(grants.flatMap(({ secret }) => secret)));
    }
  });
  return found;
}

function readChanges(stateDir: string, faults: string[]): AuditLines {
  const found = new Map<string, string[]>();
  for (const file of auditFiles(stateDir, AUDIT_LOGS.changes)) {
    for (const line of fs.readFileSync(file, "utf8").split("\n").slice(0, -1)) {
      const change = changeOf(line);
      if (change === "no line")
        faults.push(`audit log of changes: not a line of legerd's: ${line.slice(0, 100)}`);
      else if (change !== undefined)
        found.set(change.label, [...(found.get(change.label) ?? []), change.text]);
    }
  }
  return found;
}

/** How many lines of the log of changes were rotated away. */
function goneFrom(stateDir: string): number {
  const [first] = auditFiles(stateDir, AUDIT_LOGS.changes);
  const head = first === undefined ? "" : fs.readFileSync(first, "utf8").slice(0, 40);
  return Number(/^\{"n":(\d+),/.exec(head)?.[1] ?? 1) - 1;
}

/** A restore is whole, or nothing that a legerd would take for a store. */
function restoreFaults(stateDir: string, due: State, certain: boolean): string[] {
  const unfinished = fs.existsSync(path.join(stateDir, RESTORE_DIRECTORY));
  if (!fs.existsSync(path.join(stateDir, DATABASE_FILE)) || unfinished) {
    return certain ? ["lost: what was restored is not there, or not whole"] : [];
  }
  try {
    const { file, keys } = prepareDatabase({ stateDir });
    const db = connect(file, "read");
    try {
      const found = readAll(new Rows(db, keys));
      const labels = [...due.keys(), ...found.keys()].filter((label) => due.get(label) !== found.get(label));
      return labels
        .filter((label) => due.get(label) !== "not there" || found.has(label))
        .map((label) => `lost: ${label} was restored as something else`);
    } finally {
      db.close();
    }
  } catch (error) {
    return [`what was restored does not open: ${messageOf(error)}`];
  }
}

function isOfAudit(problem: string, stateDir: string): boolean {
  return problem.startsWith(path.join(stateDir, AUDIT_LOGS.everything));
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
