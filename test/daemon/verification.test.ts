/** A store that was damaged behind legerd's back: what it still gives out, what it refuses, and that it says so. */
import type { DatabaseSync } from "node:sqlite";
import { describe, expect, test } from "vitest";
import { Secret } from "../../src/core/secret.ts";
import { VERSION } from "../../src/core/version.ts";
import { startLegerd } from "../../src/daemon/legerd.ts";
import { SetecClient } from "../../src/setec/client.ts";
import { leger } from "../support/cli.ts";
import { makePlaces, type Places } from "../support/legerd.ts";
import { parsePrometheusText } from "../support/prometheus-text.ts";
import { sendRaw } from "../support/raw-http.ts";
import { rawDatabase } from "../store/state.ts";

const NAMES = Array.from({ length: 40 }, (_, n) => `leger/local/s${n}`);

type Verified = AsyncDisposable & { client: SetecClient; log: string[] };

/** A legerd that has verified its store, or found it damaged. */
async function verifiedLegerd(places: Places): Promise<Verified> {
  const log: string[] = [];
  const { promise: verified, resolve } = Promise.withResolvers<void>();
  const daemon = await startLegerd({
    version: VERSION,
    stateDir: places.stateDir,
    doors: [{ unix: places.socket, mode: 0o600, principal: "tester", grants: undefined }],
    verifyAfterMs: 0,
    log: (line) => {
      log.push(line);
      if (/verified the store|could not be verified|hint: then restore/.test(line)) resolve();
    },
  });
  const client = new SetecClient({ socketPath: places.socket });
  await verified;
  return {
    client,
    log,
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      await daemon.stop(1_000);
    },
  };
}

async function filledPlaces(): Promise<Places & Disposable> {
  const places = makePlaces();
  await using daemon = await verifiedLegerd(places);
  for (const name of NAMES) await daemon.client.put(name, new Secret(Buffer.from(`value of ${name}`)));
  await daemon.client.put(NAMES[0] ?? "", new Secret(Buffer.from("second")));
  return places;
}

function spoil(places: Places, how: (db: DatabaseSync) => void): void {
  using db = rawDatabase(places.stateDir);
  how(db);
}

async function textOf(client: SetecClient, name: string): Promise<string> {
  try {
    return Buffer.from((await client.get(name)).value.reveal()).toString();
  } catch (error) {
    return error instanceof Error && "code" in error ? String(error.code) : "?";
  }
}

const health = async (places: Places): Promise<{ status: number; body: string }> => {
  const { status, body } = await sendRaw(places.socket, { method: "GET", path: "/health" });
  return { status, body: body.toString() };
};

test("a whole store is verified once legerd is ready, and it says so", async () => {
  using places = await filledPlaces();
  await using daemon = await verifiedLegerd(places);
  expect(daemon.log).toContainEqual(
    expect.stringMatching(/^legerd: verified the store: 41 records, 41 values, all as legerd wrote them$/),
  );
  expect(await health(places)).toMatchObject({ status: 200, body: expect.stringContaining('"ok"') });
  expect((await leger(places, ["status"])).stdout).toMatch(/^verified {3}every row, at 20/m);
  expect(await textOf(daemon.client, "leger/local/never")).toBe("SECRET_NOT_FOUND");
  expect(await daemon.client.put(NAMES[1] ?? "", new Secret(Buffer.from("new")))).toBe(2);
});

describe("where", () => {
  test.for<[string, (db: DatabaseSync) => void, number]>([
    [
      "a record is gone",
      (db) =>
        db.exec(
          "DELETE FROM records WHERE key IN (SELECT key FROM records WHERE substr(key, 1, 1) = x'01' LIMIT 1)",
        ),
      39,
    ],
    ["a value is gone", (db) => db.exec("DELETE FROM vals WHERE version = 2"), 40],
    ["a value was changed", (db) => db.exec("UPDATE vals SET sealed = zeroblob(60) WHERE version = 2"), 40],
    [
      "a record was put twice",
      (db) =>
        db.exec(
          "INSERT INTO records SELECT CAST(substr(key, 1, 31) || x'00' AS BLOB), sealed FROM records WHERE substr(key, 1, 1) = x'01' LIMIT 1",
        ),
      39,
    ],
    [
      "a node of the tree is gone",
      (db) =>
        db.exec(
          "DELETE FROM tree WHERE id IN (SELECT id FROM tree WHERE id >= (4 << 20) AND id < (4 << 20) + (2 << 16) LIMIT 1)",
        ),
      // Where a secret's record lies is random: a node may have a few.
      36,
    ],
    [
      "the index of values leads nowhere",
      (db) => {
        db.exec("PRAGMA writable_schema = ON; CREATE TABLE kept AS SELECT * FROM vals; DELETE FROM vals");
      },
      0,
    ],
  ])(
    "%s, the rest is given out, nothing changed, and nothing said not to be there",
    async ([, how, given]) => {
      using places = await filledPlaces();
      spoil(places, how);
      await using daemon = await verifiedLegerd(places);
      expect(daemon.log).toContainEqual(
        expect.stringMatching(/^legerd: error: the store is damaged, problems: \d+/),
      );
      expect(daemon.log).toContainEqual(expect.stringContaining('see all that is wrong with "legerd check"'));
      const answers = await Promise.all(
        NAMES.map(async (name) => ({ name, answer: await textOf(daemon.client, name) })),
      );
      const right = answers.filter(({ name, answer }) => answer === `value of ${name}`);
      expect(right.length).toBeGreaterThanOrEqual(given);
      // Any other answer is a failure, and none that something is missing.
      expect(
        new Set(answers.map(({ answer }) => answer).filter((answer) => !answer.startsWith("value of "))),
      ).not.toContain("SECRET_NOT_FOUND");
      expect(await textOf(daemon.client, "leger/local/never")).not.toBe("SECRET_NOT_FOUND");
      for (const name of [...NAMES.slice(0, 3), "leger/local/never"]) {
        await expect(daemon.client.put(name, new Secret(Buffer.from("new")))).rejects.toThrow();
      }
      expect(await health(places)).toMatchObject({ status: 503, body: expect.stringContaining('"damaged"') });
      const metrics = await sendRaw(places.socket, { method: "GET", path: "/metrics" });
      const told = parsePrometheusText(metrics.body.toString());
      expect(told.get("legerd_verification")?.samples.get('legerd_verification{state="damaged"}')).toBe(1);
      expect([...(told.get("legerd_verification_problems")?.samples.values() ?? [0])][0]).toBeGreaterThan(0);
      const { status, stdout } = await leger(places, ["status"]);
      expect({ status, stdout }).toMatchObject({
        status: 0,
        stdout: expect.stringMatching(/^verified {3}DAMAGED/m),
      });
      expect(JSON.parse((await leger(places, ["status", "--json"])).stdout)).toMatchObject({
        verification: { state: "damaged", problems: expect.arrayContaining([expect.any(String)]) },
      });
    },
  );
});
