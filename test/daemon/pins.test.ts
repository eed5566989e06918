import { expect, test } from "vitest";
import { Secret } from "../../src/core/secret.ts";
import { Pins } from "../../src/daemon/pins.ts";
import type { VersionedValue } from "../../src/store/store.ts";
import { startTestLegerd, type TestLegerd } from "../support/legerd.ts";
import { sendRaw } from "../support/raw-http.ts";

const NAMES = ["a", "b", "c"].map((name) => `leger/local/${name}`);
const idOf = (at: number): string => String(at).padStart(25, "0");
const invocation = (n: number): string => n.toString(16).padStart(32, "0");
const secret = (text: string): Secret => new Secret(Buffer.from(text));

/** A daemon with three secrets, "1" each, and Podman's entries for them. */
async function startWithEntries(snapshotMs?: number): Promise<TestLegerd> {
  const daemon = await startTestLegerd(
    Object.fromEntries(NAMES.map((name) => [name, "1"])),
    snapshotMs === undefined ? {} : { snapshotMs },
  );
  for (const [at, name] of NAMES.entries()) {
    const headers = { "leger-secret-id": idOf(at) };
    const body = Buffer.from(`leger-ref:v1:${name}`);
    await sendRaw(daemon.socket, { method: "POST", path: "/v1/podman/store", headers, body });
  }
  return daemon;
}

/** As the driver asks. */
async function lookup(
  { socket }: TestLegerd,
  at: number,
  origin: { unit?: string; invocation?: string },
): Promise<number> {
  const headers = {
    "leger-secret-id": idOf(at),
    ...(origin.unit === undefined ? {} : { "leger-unit": origin.unit }),
    ...(origin.invocation === undefined ? {} : { "leger-invocation": origin.invocation }),
  };
  const { status, body } = await sendRaw(socket, { method: "POST", path: "/v1/podman/lookup", headers });
  expect(status).toBe(200);
  return Number(body.toString());
}

async function lookupAll(daemon: TestLegerd, origin: object): Promise<number[]> {
  const values: number[] = [];
  for (const at of NAMES.keys()) values.push(await lookup(daemon, at, origin));
  return values;
}

/** They are rotated in their order: such a set stood in the store at one moment. */
function isWhole(values: readonly number[]): boolean {
  return values.every((value, at) => at === 0 || (values[at - 1] ?? 0) - value === 0 || isStep(values, at));
}

function isStep(values: readonly number[], at: number): boolean {
  const before = values.slice(0, at);
  const after = values.slice(at);
  return new Set(before).size === 1 && new Set(after).size === 1 && (before[0] ?? 0) - (after[0] ?? 0) === 1;
}

test("500 starts amid rotations each have a set of one moment, and 1,000 health checks change nothing about it", async () => {
  await using daemon = await startWithEntries();
  const progress = { started: 0, checked: 0, rotations: 1 };
  const isOver = (): boolean => progress.started >= 500 && progress.checked >= 1_000;
  const rotateOnce = async (): Promise<void> => {
    progress.rotations += 1;
    for (const name of NAMES) {
      await daemon.client.createVersion(name, progress.rotations, secret(String(progress.rotations)));
    }
  };
  const rotate = async (): Promise<void> => {
    while (!isOver()) await rotateOnce();
  };
  const sets: number[][] = [];
  const start = async (): Promise<void> => {
    while (progress.started < 500) {
      progress.started += 1;
      const origin = { unit: "web.service", invocation: invocation(progress.started) };
      sets.push(await lookupAll(daemon, origin));
    }
  };
  const check = async (): Promise<void> => {
    while (progress.checked < 1_000) {
      progress.checked += 3;
      await lookupAll(daemon, { invocation: invocation(10_000 + progress.checked) });
    }
  };
  await Promise.all([rotate(), start(), start(), start(), start(), check(), check()]);
  expect(progress.rotations).toBeGreaterThan(10);
  expect(sets.filter((values) => !isWhole(values))).toEqual([]);
  // Without a pin a rotation between two lookups shows: so there was something to see.
  for (const [origin, isMixed] of [
    [{ invocation: invocation(1) }, true],
    [{ unit: "web.service", invocation: invocation(9_999) }, false],
  ] as const) {
    const first = await lookup(daemon, 0, origin);
    await rotateOnce();
    const rest = [await lookup(daemon, 1, origin), await lookup(daemon, 2, origin)];
    expect(isWhole([first, ...rest])).toBe(!isMixed);
  }
});

test("who goes on under an old invocation gets the new value once the time is over", async () => {
  await using daemon = await startWithEntries(100);
  const origin = { unit: "web.service", invocation: invocation(1) };
  expect(await lookup(daemon, 0, origin)).toBe(1);
  await daemon.client.createVersion(NAMES[0] ?? "", 2, secret("2"));
  while ((await lookup(daemon, 0, origin)) === 1);
  expect(await lookup(daemon, 0, origin)).toBe(2);
});

/** A store of one value a name, whose changes end when they are told to. */
class Values {
  now = 0;
  readonly pins = new Pins({ windowMs: 10_000, now: () => this.now });
  readonly #values = new Map<string, string>();

  constructor(values: Record<string, string>) {
    for (const [name, value] of Object.entries(values)) this.#values.set(name, value);
  }

  get(name: string, unit: string | undefined, of = "start"): string {
    const origin = { principal: "tester", invocation: of, ...(unit === undefined ? {} : { unit }) };
    const { value } = this.pins.get(origin, name, () => this.#read(name));
    return Buffer.from(value.reveal()).toString();
  }

  /** Begins; carried out by `commit`, over with `end`. */
  change(name: string, value: string | undefined): { commit: () => void; end: () => Promise<void> } {
    const { promise, resolve } = Promise.withResolvers<void>();
    const isThere = (): VersionedValue | undefined => (this.#values.has(name) ? this.#read(name) : undefined);
    const changed = this.pins.change(name, isThere, () => promise);
    return {
      commit: () => void (value === undefined ? this.#values.delete(name) : this.#values.set(name, value)),
      end: () => {
        resolve();
        return changed;
      },
    };
  }

  async set(name: string, value: string | undefined): Promise<void> {
    const { commit, end } = this.change(name, value);
    commit();
    await end();
  }

  #read(name: string): VersionedValue {
    return { version: 1, value: secret(this.#values.get(name) ?? "none") };
  }
}

test("what changes, comes or goes after a start's first lookup is as it was for that start alone, for its time", async () => {
  const values = new Values({ a: "a1", b: "b1" });
  expect(values.get("a", "web.service")).toBe("a1");
  await values.set("a", "a2");
  await values.set("b", undefined);
  await values.set("c", "c1");
  await values.set("a", "a3");
  expect([values.get("a", "web.service"), values.get("b", "web.service")]).toEqual(["a1", "b1"]);
  expect(() => values.get("c", "web.service")).toThrow("secret c: not found");
  expect(values.get("a", "other.service")).toBe("a3");
  expect(values.get("a", "web.service", "next start")).toBe("a3");
  expect(values.get("a", undefined)).toBe("a3");
  values.now += 10_000;
  expect(values.get("a", "web.service")).toBe("a3");
});

test("what is being changed when a start begins is as it was, whether it is seen changed already or not", async () => {
  const values = new Values({ a: "a1", b: "b1" });
  values.get("a", "earlier.service");
  const a = values.change("a", "a2");
  const b = values.change("b", "b2");
  expect(values.get("a", "web.service")).toBe("a1");
  a.commit();
  b.commit();
  await a.end();
  await b.end();
  expect([values.get("a", "web.service"), values.get("b", "web.service")]).toEqual(["a1", "b1"]);
  expect(values.get("b", "next.service")).toBe("b2");
});

test("a thousand starts at a time have their own, no further one takes it from them", async () => {
  const values = new Values({ a: "a1" });
  for (let n = 0; n < 1_200; n += 1) values.get("a", `web${n}.service`);
  await values.set("a", "a2");
  expect([0, 999, 1_000, 1_199].map((n) => values.get("a", `web${n}.service`))).toEqual([
    "a1",
    "a1",
    "a2",
    "a2",
  ]);
  values.now += 10_000;
  expect(values.get("a", "web1199.service")).toBe("a2");
});
