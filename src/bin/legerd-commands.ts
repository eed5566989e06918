/** legerd-commands — what legerd does besides serving: check a store, back it up, restore it. */
import { createReadStream, fstatSync, openSync } from "node:fs";
import path from "node:path";
import { backUp } from "../backup/backup.ts";
import { restore } from "../backup/restore.ts";
import { assertRecipients, type Key, type Lock, type Wants } from "../backup/seal.ts";
import { askHidden, askTwice, canAsk, type Asking } from "../cli/prompt.ts";
import { Interrupted } from "../cli/terminal.ts";
import { exitStatusOf, LegerError, systemCode } from "../core/error.ts";
import { nodeFiles } from "../core/files-node.ts";
import { homeDirectory, worldOf } from "../core/paths.ts";
import { VERSION } from "../core/version.ts";
import { checkStore } from "../store/check.ts";
import type { Where } from "../store/database.ts";
import { nextMainKey, rekey } from "../store/rekey.ts";
import type { DumpFacts, Progress } from "../store/dump.ts";

/** As they were typed; paths not yet absolute. */
export type CommandOptions = {
  state?: string | undefined;
  json?: boolean | undefined;
  force?: boolean | undefined;
  recipient?: string[] | undefined;
  "recipients-file"?: string | undefined;
  "passphrase-file"?: string | undefined;
  "identity-file"?: string | undefined;
  print?: boolean | undefined;
};

/** Which options a command takes, and the names of what stands behind it. */
export const COMMANDS = {
  check: { takes: ["state", "json"], files: [] },
  backup: {
    takes: ["state", "json", "force", "recipient", "recipients-file", "passphrase-file"],
    files: ["FILE"],
  },
  rekey: { takes: ["state", "print"], files: [] },
  restore: { takes: ["state", "json", "passphrase-file", "identity-file"], files: ["FILE"] },
} as const satisfies Record<string, { takes: readonly (keyof CommandOptions)[]; files: readonly string[] }>;

export type CommandName = keyof typeof COMMANDS;

export function isCommand(word: string): word is CommandName {
  return Object.hasOwn(COMMANDS, word);
}

/** Runs one; resolves with the exit status. */
export async function runCommand(
  name: CommandName,
  files: readonly string[],
  options: CommandOptions,
): Promise<number> {
  try {
    switch (name) {
      case "check":
        return await check(options);
      case "backup":
        return await backup(files[0] ?? "", options);
      case "rekey":
        return changeMainKey(options);
      case "restore":
        return await restoreFrom(files[0] ?? "", options);
      default:
        return name satisfies never;
    }
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
    return interrupted();
  }
}

async function check(options: CommandOptions): Promise<number> {
  const where = whereOf(options);
  const { problems, ...counts } = await checkStore(where);
  if (options.json === true) {
    print({ ok: problems.length === 0, ...counts, problems });
  } else {
    for (const problem of problems) process.stdout.write(`${problem}\n`);
    const verdict =
      problems.length === 0 ? "every row is as legerd wrote it" : `problems: ${problems.length}`;
    say(`${where.stateDir}: ${sumsOf(counts)}; ${verdict}`);
  }
  return problems.length > 0 ? exitStatusOf(new LegerError("DAMAGED", "")) : 0;
}

async function backup(name: string, options: CommandOptions): Promise<number> {
  const file = path.resolve(name);
  const where = whereOf(options);
  const recipients = await recipientsOf(options);
  assertRecipients(recipients);
  if (recipients.length > 0 && options["passphrase-file"] !== undefined) {
    throw usage("a backup is sealed to a passphrase or to recipients, not to both");
  }
  const lock: Lock =
    recipients.length > 0
      ? { recipients }
      : { passphrase: await passphraseFor(options, (asking) => askNewPassphrase(asking)) };
  const facts = await interruptible((signal) =>
    backUp({
      where,
      file,
      lock,
      replace: options.force === true,
      version: VERSION,
      now: new Date(),
      onProgress: progress("backup"),
      signal,
    }),
  );
  report(options, facts, file, `${file}: ${sumsOf(facts.counts)}, every row verified, and the main key`);
  return 0;
}

async function restoreFrom(name: string, options: CommandOptions): Promise<number> {
  const file = path.resolve(name);
  const { stateDir } = whereOf(options);
  const keyFor = async (wants: Wants): Promise<Key> => {
    if (wants === "identity") return { identities: await identitiesOf(options) };
    if (options["identity-file"] !== undefined) throw usage("this backup is sealed to a passphrase");
    return { passphrase: await passphraseFor(options, async (asking) => askHidden(asking, "Passphrase")) };
  };
  const facts = await interruptible((signal) =>
    restore({ stateDir, file, keyFor, onProgress: progress("restore"), signal }),
  );
  report(
    options,
    facts,
    file,
    `${stateDir}: ${sumsOf(facts.counts)}, as of ${facts.madeAt}; every row verified`,
  );
  return 0;
}

function changeMainKey(options: CommandOptions): number {
  const where = whereOf(options);
  if (options.print !== true) {
    say(
      `${rekey(where)} holds a new main key, and the old one opens nothing any more; backups open as before`,
    );
    return 0;
  }
  if (process.stdout.isTTY) {
    throw new LegerError("USAGE", "a main key is not for a terminal to show", {
      hints: ["pass it on: legerd rekey --print | systemd-creds encrypt --name=main.key - FILE"],
    });
  }
  process.stdout.write(`${nextMainKey(where)}\n`);
  say("the store opens by this key as well; once legerd has started with it, by this key alone");
  return 0;
}

function report({ json }: CommandOptions, facts: DumpFacts, file: string, sentence: string): void {
  if (json === true) print({ file, made_at: facts.madeAt, ...facts.counts });
  else say(sentence);
}

/** A signal undoes what was begun, then ends the process. */
async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const aborting = new AbortController();
  const stop = (): void => {
    aborting.abort();
    process.exit(interrupted());
  };
  for (const signal of STOPPING) process.once(signal, stop);
  try {
    return await work(aborting.signal);
  } finally {
    for (const signal of STOPPING) process.off(signal, stop);
  }
}

const STOPPING = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** The exit status of a program that Ctrl-C ended, as shells count it. */
const INTERRUPTED_STATUS = 130;

function interrupted(): number {
  say("interrupted; nothing was changed");
  return INTERRUPTED_STATUS;
}

async function recipientsOf({ recipient = [], "recipients-file": file }: CommandOptions): Promise<string[]> {
  if (file === undefined) return recipient;
  const listed = linesOf((await contentOf(file, { secret: false })).toString());
  if (listed.length === 0) throw new LegerError("BAD_DATA", `${file}: there is no recipient in it`);
  return [...recipient, ...listed];
}

async function identitiesOf({ "identity-file": file }: CommandOptions): Promise<string[]> {
  if (file === undefined) {
    throw new LegerError("USAGE", "this backup is sealed to age recipients", {
      hints: ["name the file with your identity: --identity-file FILE"],
    });
  }
  const identities = linesOf((await contentOf(file, { secret: true })).toString());
  if (identities.length === 0) throw new LegerError("BAD_DATA", `${file}: there is no identity in it`);
  return identities;
}

/** As age reads its files: a line each, comments and empty lines left out. */
function linesOf(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
}

async function passphraseFor(
  { "passphrase-file": file }: CommandOptions,
  ask: (asking: Asking) => Promise<Uint8Array>,
): Promise<string> {
  let bytes: Uint8Array;
  if (file !== undefined) {
    const content = await contentOf(file, { secret: true });
    bytes = content.at(-1) === NEWLINE ? content.subarray(0, -1) : content;
  } else {
    const { stdin, stderr } = process;
    const asking: Asking = {
      stdin,
      stderr,
      isTTY: { stdin: stdin.isTTY, stdout: process.stdout.isTTY, stderr: stderr.isTTY },
    };
    if (!canAsk(asking)) {
      throw new LegerError("USAGE", "no passphrase: there is nobody to ask", {
        hints: ["name a file that holds it with --passphrase-file FILE; - is standard input"],
      });
    }
    bytes = await ask(asking);
  }
  const text = textOf(bytes);
  if (text === undefined || /[\r\n\0]/.test(text)) {
    throw new LegerError("BAD_DATA", "a passphrase is one line of text, which nobody could type otherwise");
  }
  if (text === "") throw new LegerError("BAD_DATA", "the passphrase is empty");
  return text;
}

async function askNewPassphrase(asking: Asking): Promise<Uint8Array> {
  const typed = await askTwice(asking, "Passphrase for the backup");
  if (typed === undefined) throw new LegerError("USAGE", "the two passphrases differ; nothing was written");
  if (typed.length > 0 && typed.length < SHORT_BYTES) {
    say(
      "warning: a short passphrase can be guessed by whoever has the file; five or six random words cannot",
    );
  }
  return typed;
}

const NEWLINE = 0x0a;
const SHORT_BYTES = 12;
const MAX_SMALL_FILE_BYTES = 64 * 1024;

/** Of a file, a pipe, or `-`. UNSAFE for a file with a secret that everybody may read. */
async function contentOf(file: string, { secret }: { secret: boolean }): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    let stream: AsyncIterable<Buffer | string> = process.stdin;
    if (file !== "-") {
      const fd = openSync(path.resolve(file), "r");
      const stat = fstatSync(fd);
      if (secret && stat.isFile() && (stat.mode & 0o007) !== 0) {
        throw new LegerError("UNSAFE", `${file}: everybody may read it`, { hints: [`chmod 600 ${file}`] });
      }
      stream = createReadStream("", { fd });
    }
    for await (const chunk of stream) {
      chunks.push(Buffer.from(chunk));
      bytes += chunk.length;
      if (bytes > MAX_SMALL_FILE_BYTES) throw new LegerError("BAD_DATA", `${file}: it is too large`);
    }
  } catch (cause) {
    if (cause instanceof LegerError) throw cause;
    throw new LegerError("IO", `read ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
  return Buffer.concat(chunks);
}

function textOf(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

const PROGRESS_EVERY_MS = 1_000;
const PROGRESS_ELSEWHERE_EVERY_MS = 15_000;

/** A line that changes for a person, a line now and then for a log; nothing for what is done at once. */
function progress(what: string): Progress {
  const { stderr } = process;
  const everyMs = stderr.isTTY ? PROGRESS_EVERY_MS : PROGRESS_ELSEWHERE_EVERY_MS;
  let next = performance.now() + everyMs;
  return (done, of) => {
    if (performance.now() < next) return;
    next = performance.now() + everyMs;
    const percent = of === 0 ? 100 : Math.floor((100 * done) / of);
    say(`${what}: ${percent} % of ${of} rows`);
  };
}

function whereOf({ state }: CommandOptions): Where {
  const stateDir =
    state === undefined ? homeDirectory("state", worldOf(process.env, nodeFiles)) : path.resolve(state);
  return { stateDir, credentialsDir: process.env["CREDENTIALS_DIRECTORY"] };
}

function sumsOf(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .map(([what, count]) => `${count} ${what}`)
    .join(", ");
}

function print(document: Readonly<Record<string, unknown>>): void {
  process.stdout.write(`${JSON.stringify({ schema_version: 1, ...document })}\n`);
}

function say(text: string): void {
  process.stderr.write(`legerd: ${text}\n`);
}

function usage(what: string): LegerError {
  return new LegerError("USAGE", what, { hints: ["see legerd --help"] });
}
