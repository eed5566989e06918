/** ledger — what was acknowledged by a moment of a recorded run, and so has to be there when the power goes then. */
import { z } from "zod";
import { ABSENT } from "../crash/model.ts";

const Change = { label: z.string(), text: z.string(), audit: z.string() };

/** What is written down amid a recording: before something is asked for, and once it was answered. */
const Note = z.discriminatedUnion("note", [
  z.object({ note: z.literal("phase"), phase: z.string() }),
  z.object({ note: z.literal("begin"), ...Change }),
  z.object({ note: z.literal("ack"), ...Change }),
  /** legerd was ready, or had changed its main key, and this is the key's SHA-256. */
  z.object({ note: z.literal("key"), sha256: z.string() }),
  z.object({ note: z.literal("key begins") }),
  /** A file of that name is to be there, and then with these bytes. */
  z.object({ note: z.literal("backup begins"), file: z.string() }),
  z.object({ note: z.literal("backup"), file: z.string(), sha256: z.string() }),
  /** A store in that directory is to hold what was acknowledged when the backup was made. */
  z.object({ note: z.literal("restore begins"), directory: z.string() }),
  z.object({ note: z.literal("restored"), directory: z.string() }),
]);
export type Note = z.infer<typeof Note>;

export function parseNote(json: unknown): Note {
  return Note.parse(json);
}

/** Label → what is there under it. */
export type State = ReadonlyMap<string, string>;
/** Label → its lines in the log of changes, in their order. */
export type AuditLines = ReadonlyMap<string, readonly string[]>;

/** Takes notes in their order. */
export class Ledger {
  readonly #certain: Map<string, string>;
  readonly #underWay = new Map<string, { text: string; audit: string }>();
  readonly #audit: Map<string, string[]>;
  /** SHA-256 of the main key; undefined while it may be any. */
  #key: string | undefined;
  /** Backups that have to be there, with their SHA-256; undefined: may be. */
  readonly #backups = new Map<string, string | undefined>();
  #backedUp: State = new Map();
  readonly #restores = new Map<string, { state: State; certain: boolean }>();

  constructor(state: State = new Map(), audit: AuditLines = new Map(), key?: string) {
    this.#certain = new Map(state);
    this.#audit = new Map([...audit].map(([label, lines]) => [label, [...lines]]));
    this.#key = key;
  }

  take(note: Note): void {
    switch (note.note) {
      case "phase":
        return;
      case "begin":
        this.#underWay.set(note.label, note);
        return;
      case "ack":
        this.#underWay.delete(note.label);
        this.#certain.set(note.label, note.text);
        this.#audit.set(note.label, [...(this.#audit.get(note.label) ?? []), note.audit]);
        return;
      case "key":
        this.#key = note.sha256;
        return;
      case "key begins":
        this.#key = undefined;
        return;
      case "backup begins":
        this.#backups.set(note.file, undefined);
        return;
      case "backup":
        this.#backups.set(note.file, note.sha256);
        this.#backedUp = new Map(this.#certain);
        return;
      case "restore begins":
        this.#restores.set(note.directory, { state: this.#backedUp, certain: false });
        return;
      case "restored":
        this.#restores.set(note.directory, { state: this.#backedUp, certain: true });
        return;
      default:
        note satisfies never;
    }
  }

  /** Something was acknowledged, so that there must be a store. */
  get hasStore(): boolean {
    return this.#key !== undefined || this.#certain.size > 0;
  }

  get key(): string | undefined {
    return this.#key;
  }

  get backups(): ReadonlyMap<string, string | undefined> {
    return this.#backups;
  }

  get restores(): ReadonlyMap<string, { state: State; certain: boolean }> {
    return this.#restores;
  }

  /** A sentence for each thing that is lost, or is there and nobody wrote it. */
  compareState(found: State): string[] {
    const labels = new Set([...this.#certain.keys(), ...this.#underWay.keys(), ...found.keys()]);
    return [...labels].flatMap((label) => {
      const is = found.get(label) ?? ABSENT;
      const must = this.#certain.get(label) ?? ABSENT;
      const may = this.#underWay.get(label)?.text;
      if (is === must || is === may) return [];
      return [`lost: ${label} must be "${must}"${may === undefined ? "" : ` or "${may}"`}, but is "${is}"`];
    });
  }

  /** The same for the log of changes. `gone`: how many lines of it are no longer kept. */
  compareAudit(found: AuditLines, gone: number): string[] {
    let missing = 0;
    const faults = [...new Set([...this.#audit.keys(), ...this.#underWay.keys(), ...found.keys()])].flatMap(
      (label) => {
        const lines = found.get(label) ?? [];
        const certain = this.#audit.get(label) ?? [];
        const may = this.#underWay.get(label)?.audit;
        const possible = may === undefined ? [certain] : [certain, [...certain, may]];
        const fitting = possible.find((due) => isEndOf(lines, due));
        missing += Math.max(0, certain.length - lines.length);
        if (fitting !== undefined) return [];
        const [is, must] = [lines, certain].map((list) => JSON.stringify(list.slice(-4)));
        return [`audit log of changes: the last lines of ${label} must be ${must}, but are ${is}`];
      },
    );
    if (missing > gone) faults.push(`audit log of changes: lines are missing: ${missing - gone}`);
    return faults;
  }
}

function isEndOf(lines: readonly string[], due: readonly string[]): boolean {
  return (
    lines.length <= due.length && lines.every((line, at) => line === due[due.length - lines.length + at])
  );
}
