/** legerd-commands — what legerd does besides serving: check a store, back it up, restore it. */
import { createReadStream, fstatSync, openSync } from "node:fs";
import path from "node:path";
import { backUp } from "../backup/backup.ts";
import { restore } from "../backup/restore.ts";
import { assertRecipients, type Key, type Lock, type Wants } from "../backup/seal.ts";
import { decodeSetecFile, encodeSetecFile, KEY_BYTES } from "../backup/setec-file.ts";
import { askHidden, askTwice, canAsk, type Asking } from "../cli/prompt.ts";
import { Interrupted } from "../cli/terminal.ts";
import { exitStatusOf, LegerError, systemCode } from "../core/error.ts";
import { nodeFiles } from "../core/files-node.ts";
import { homeDirectory, worldOf } from "../core/paths.ts";
import { beginFile } from "../core/pending-file.ts";
import { VERSION } from "../core/version.ts";
import { checkStore } from "../store/check.ts";
import type { Where } from "../store/database.ts";
import { nextMainKey, rekey } from "../store/rekey.ts";
import { salvage } from "../store/salvage.ts";
import { readSecrets, takeIn, type PortableSecret } from "../store/transfer.ts";
import type { DumpFacts, Progress } from "../store/dump.ts";
import { userName } from "../core/user-name.ts";

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
  to?: string | undefined;
  "to-setec"?: string | undefined;
  "from-setec"?: string | undefined;
  "key-file"?: string | undefined;
};

type Command = {
  takes: readonly (keyof CommandOptions)[];
  /** What stands behind its name. */
  files: readonly string[];
  /** Resolves with the exit status. */
  run: (options: CommandOptions, file: string) => number | Promise<number>;
};

const COMMANDS: ReadonlyMap<string, Command> = new Map<string, Command>([
  ["check", { takes: ["state", "json"], files: [], run: check }],
  [
    "backup",
    {
      takes: ["state", "json", "force", "recipient", "recipients-file", "passphrase-file"],
      files: ["FILE"],
      run: backup,
    },
  ],
  [
    "restore",
    { takes: ["state", "json", "passphrase-file", "identity-file"], files: ["FILE"], run: restoreFrom },
  ],
  ["salvage", { takes: ["state", "json", "to"], files: [], run: salvageStore }],
  ["rekey", { takes: ["state", "print"], files: [], run: changeMainKey }],
  ["export", { takes: ["state", "json", "to-setec", "key-file", "force"], files: [], run: exportSecrets }],
  ["import", { takes: ["state", "json", "from-setec", "key-file"], files: [], run: importSecrets }],
]);

/** Runs what was typed; resolves with the exit status. Throws USAGE for what is no command, or not of this one. */
export async function runCommand(
  [name = "", ...files]: readonly string[],
  options: CommandOptions,
): Promise<number> {
  const command = COMMANDS.get(name);
  if (command === undefined) throw usage(`unknown argument ${JSON.stringify(name)}`);
  requireOnly(name, options, command.takes);
  const [surplus] = files.slice(command.files.length);
  if (surplus !== undefined) throw usage(`unknown argument ${JSON.stringify(surplus)}`);
  const [lacking] = command.files.slice(files.length);
  if (lacking !== undefined) throw usage(`${name}: ${lacking} is missing`);
  try {
    return await command.run(options, files[0] ?? "");
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
    return interrupted();
  }
}

/** Throws USAGE for an option that is another command's. */
function requireOnly(what: string, options: object, takes: readonly string[]): void {
  const other = Object.keys(options).find((name) => !takes.includes(name));
  if (other !== undefined) throw usage(`${what} takes no option --${other}`);
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

async function backup(options: CommandOptions, name: string): Promise<number> {
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

async function restoreFrom(options: CommandOptions, name: string): Promise<number> {
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

async function salvageStore(options: CommandOptions): Promise<number> {
  const { to } = options;
  if (to === undefined) throw usage("salvage: --to DIR is missing");
  const target = path.resolve(to);
  const { losses, ...counts } = await salvage(whereOf(options), target);
  if (options.json === true) print({ to: target, ...counts, losses });
  else {
    for (const loss of losses) process.stdout.write(`${loss}\n`);
    const verdict = losses.length === 0 ? "nothing is lost" : `losses: ${losses.length}`;
    say(`${target}: ${sumsOf(counts)}, under a main key of its own; ${verdict}`);
  }
  return losses.length === 0 ? 0 : exitStatusOf(new LegerError("DIFFERENT", ""));
}

async function exportSecrets(options: CommandOptions): Promise<number> {
  const { "to-setec": target = missing("export", "to-setec"), force = false } = options;
  const file = path.resolve(target);
  const kek = await setecKey(options, "export");
  const secrets = readSecrets(whereOf(options));
  using pending = beginFile(file, { replace: force });
  pending.write(encodeSetecFile(secrets, kek));
  pending.commit();
  const counts = countsOf(secrets);
  if (options.json === true) print({ file, ...counts });
  else say(`${file}: ${sumsOf(counts)}, as setec keeps them`);
  return 0;
}

async function importSecrets(options: CommandOptions): Promise<number> {
  const { "from-setec": source = missing("import", "from-setec") } = options;
  const kek = await setecKey(options, "import");
  const content = await contentOf(source, { secret: false, maxBytes: MAX_SETEC_BYTES });
  let secrets: PortableSecret[];
  try {
    secrets = decodeSetecFile(content, kek);
  } catch (error) {
    if (!(error instanceof LegerError)) throw error;
    throw new LegerError(error.code, `import from ${source}: ${error.message}`, { hints: error.hints });
  }
  const where = whereOf(options);
  await takeIn(where, secrets, {
    principal: userName(),
    log: (line) => void process.stderr.write(`${line}\n`),
  });
  const counts = countsOf(secrets);
  if (options.json === true) print({ file: path.resolve(source), ...counts });
  else say(`${where.stateDir}: took in ${sumsOf(counts)}`);
  return 0;
}

function countsOf(secrets: readonly PortableSecret[]): { secrets: number; versions: number } {
  return { secrets: secrets.length, versions: secrets.reduce((sum, { values }) => sum + values.size, 0) };
}

/** 32 bytes as they are, or as a line of base64. */
async function setecKey({ "key-file": file }: CommandOptions, command: string): Promise<Uint8Array> {
  if (file === undefined) return missing(command, "key-file");
  const content = await contentOf(file, { secret: true });
  if (content.length === KEY_BYTES) return content;
  const text = content.toString("latin1").trim();
  const bytes = Buffer.from(text, "base64");
  if (bytes.length === KEY_BYTES && bytes.toString("base64") === text) return bytes;
  throw new LegerError("BAD_DATA", `${file}: it holds no key of 32 bytes`, {
    hints: [`make one with: head -c 32 /dev/urandom >${file}`],
  });
}

function missing(command: string, option: string): never {
  throw usage(`${command}: --${option} FILE is missing`);
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
/** setec keeps all of it in memory, too. */
const MAX_SETEC_BYTES = 512 * 1024 * 1024;

/** Of a file, a pipe, or `-`. UNSAFE for a file with a secret that everybody may read. */
async function contentOf(
  file: string,
  { secret, maxBytes = MAX_SMALL_FILE_BYTES }: { secret: boolean; maxBytes?: number },
): Promise<Buffer> {
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
      if (bytes > maxBytes) throw new LegerError("BAD_DATA", `${file}: it is too large`);
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
