/** stores — mutated backups, and mutated databases: what comes out is what was put in, or a clear refusal. */
import { generateX25519Identity, identityToRecipient } from "age-encryption";
import * as fs from "node:fs";
import * as os from "node:os";
import path from "node:path";
import { open, seal } from "../../src/backup/seal.ts";
import { checkStore } from "../../src/store/check.ts";
import { connect, prepareDatabase } from "../../src/store/database.ts";
import { dumpStore, loadDump } from "../../src/store/dump.ts";
import { Rows } from "../../src/store/rows.ts";
import { salvage } from "../../src/store/salvage.ts";
import { openStore } from "../../src/store/store.ts";
import { readSecrets } from "../../src/store/transfer.ts";
import { assert, mutated, randomFrom, refusedOr, type Target } from "./target.ts";

/** A store to begin with, and a place for what is made of it. */
export type Ground = AsyncDisposable & { base: string; stateDir: string };

const NAMES = ["alpha", "beta", "leger/local/gamma", "ä"];
const VERSIONS = 3;

export async function makeGround(): Promise<Ground> {
  const root = fs.existsSync("/dev/shm") ? "/dev/shm" : os.tmpdir();
  const base = fs.mkdtempSync(path.join(root, "leger-fuzz-"));
  const stateDir = path.join(base, "state");
  await using store = openStore({ stateDir });
  for (const name of NAMES) {
    for (let version = 1; version <= VERSIONS; version += 1) {
      await store.mutate({ do: "put", name, value: Buffer.from(valueOf(name, version)) });
    }
  }
  await store.mutate({ do: "keep", id: "kept", value: Buffer.from("kept") });
  await store.mutate({ do: "set-service", service: { name: "web", variables: { KEY: "alpha" } } });
  return {
    base,
    stateDir,
    async [Symbol.asyncDispose]() {
      fs.rmSync(base, { recursive: true, force: true });
    },
  };
}

/** The dump that is sealed, changed before it is sealed and after. */
export async function backupTarget({ base, stateDir }: Ground): Promise<Target> {
  const plain = await collect(
    dumpStore({ stateDir }, { version: "0.0.0", now: new Date(0), onFacts: () => {}, onProgress: () => {} }),
  );
  const identity = await generateX25519Identity();
  const recipients = [await identityToRecipient(identity)];
  const sealed = await collect(await seal(piece(plain), { recipients }));
  const directory = path.join(base, "restored");
  return {
    name: "backup",
    kept: [],
    async tryOne(seed) {
      const random = randomFrom(seed);
      if (random(4) === 0) {
        const bytes = mutated(sealed, random);
        const opened = await refusedOr(() => collect(open(piece(bytes), { identities: [identity] })));
        assert(opened === undefined || opened.equals(plain), "a changed backup opened to something else");
        return;
      }
      fs.rmSync(directory, { recursive: true, force: true });
      fs.mkdirSync(directory, { mode: 0o700 });
      const bytes = mutated(plain, random);
      const facts = await refusedOr(() => loadDump(directory, piece(bytes), () => {}));
      // What was restored was verified; it may be less than it was only if its own counts say so.
      if (facts !== undefined) assertSecrets(directory);
    },
  };
}

/** The database's file, changed behind legerd's back. */
export function databaseTarget({ base, stateDir }: Ground): Target {
  const whole = fs.readFileSync(path.join(stateDir, "secrets.db"));
  const directory = path.join(base, "spoilt");
  return {
    name: "database",
    kept: [],
    async tryOne(seed) {
      const random = randomFrom(seed);
      fs.rmSync(directory, { recursive: true, force: true });
      fs.mkdirSync(directory, { mode: 0o700 });
      fs.cpSync(path.join(stateDir, "keys"), path.join(directory, "keys"), { recursive: true });
      fs.writeFileSync(path.join(directory, "secrets.db"), mutated(whole, random), { mode: 0o600 });
      await refusedOr(() => checkStore({ stateDir: directory }));
      await refusedOr(() => readEach(directory));
      if (random(8) !== 0) return;
      const rescued = path.join(base, "rescued");
      fs.rmSync(rescued, { recursive: true, force: true });
      const result = await refusedOr(() => salvage({ stateDir: directory }, rescued));
      if (result !== undefined) assertSecrets(rescued);
    },
  };
}

/** Asks for each name and version as legerd does. */
async function readEach(stateDir: string): Promise<void> {
  const { file, keys } = prepareDatabase({ stateDir });
  const db = connect(file, "read");
  try {
    const rows = new Rows(db, keys);
    for (const name of NAMES) {
      await refusedOr(() =>
        rows.snapshot("read", () => {
          const record = rows.read("secret", name);
          assert(record !== undefined, `${name} is said not to be there`);
          if (record === undefined) return;
          assert(record.active === 1, `another version of ${name} is active`);
          for (let version = 1; version <= VERSIONS; version += 1) {
            const value = rows.readValue(record.owner, version).toString();
            assert(value === valueOf(name, version), `${name} has another value`);
          }
        }),
      );
    }
  } finally {
    db.close();
  }
}

/** Every secret that is there has the values that were put in. */
function assertSecrets(stateDir: string): void {
  for (const { name, values } of readSecrets({ stateDir })) {
    for (const [version, value] of values) {
      assert(
        NAMES.includes(name) && Buffer.from(value).toString() === valueOf(name, version),
        `${name} has another value`,
      );
    }
  }
}

function valueOf(name: string, version: number): string {
  return `${version} of ${name} `.repeat(20);
}

async function* piece(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes;
}

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}
