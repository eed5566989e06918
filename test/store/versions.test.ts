import * as fc from "fast-check";
import { expect, test } from "vitest";
import {
  decideActivate,
  decideCreateVersion,
  decideDeleteVersion,
  decidePut,
  listNumbers,
  MAX_VERSION,
  type SecretState,
} from "../../src/store/versions.ts";
import { openStore } from "../../src/store/store.ts";
import { SetecModel, steps, type Step } from "./model.ts";
import { answersOf, codeOf, temporaryState, told } from "./state.ts";

test("the version rules answer every sequence as setec's rules do", () => {
  fc.assert(
    fc.property(fc.array(steps(["a", "b"]), { maxLength: 40 }), (sequence) => {
      const model = new SetecModel();
      const machine = new Machine();
      for (const step of sequence) {
        expect(machine.run(step), JSON.stringify(step)).toBe(model.run(step));
        expect(machine.shape()).toEqual(model.shape());
      }
    }),
    { numRuns: 1_000 },
  );
});

test("a store answers every sequence as setec's rules do, also after it was closed and opened again", async () => {
  const names = ["a", "leger/local/ü", "\u{1F511}", "\uFF5E", "\uE000", "<&>\u2028"];
  const moves = fc.oneof(
    { weight: 12, arbitrary: steps(names) },
    { weight: 1, arbitrary: fc.constant("reopen" as const) },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(moves, { maxLength: 40 }),
      fc.constantFrom(0, 2, 1_000),
      async (sequence, cacheEntries) => {
        using state = temporaryState();
        const model = new SetecModel();
        let store = openStore({ stateDir: state.dir, cacheEntries });
        try {
          for (const step of [...sequence, "reopen" as const]) {
            if (step === "reopen") {
              expect(await seenIn(store, names)).toEqual(model.seen(names));
              await store.close();
              store = openStore({ stateDir: state.dir, cacheEntries });
              expect(await seenIn(store, names)).toEqual(model.seen(names));
            } else {
              const answer = await store.mutate(asMutation(step)).then(String, (error: unknown) =>
                codeOf(() => {
                  throw error;
                }),
              );
              expect(answer, JSON.stringify(step)).toBe(model.run(step));
            }
          }
        } finally {
          await store.close();
        }
      },
    ),
    { numRuns: 12 },
  );
});

test("ranges of numbers hold what a set of numbers holds", () => {
  const numbers = fc.integer({ min: 1, max: 30 });
  fc.assert(
    fc.property(fc.array(fc.tuple(numbers, fc.boolean()), { maxLength: 120 }), (changes) => {
      // 99 stays active, so that any other number can go.
      let state = decideCreateVersion(undefined, 99);
      const live = new Set([99]);
      const deleted = new Set<number>();
      for (const [number, add] of changes) {
        if (add && !live.has(number) && !deleted.has(number)) {
          state = { ...decideCreateVersion(state, number), active: 99 };
          live.add(number);
        } else if (!add && live.has(number)) {
          state = decideDeleteVersion(state, number);
          live.delete(number);
          deleted.add(number);
        }
        expect(listNumbers(state.live)).toEqual(ascending(live));
        expect(listNumbers(state.deleted)).toEqual(ascending(deleted));
        expect(
          state.live.every(([first], at) => at === 0 || first > (state.live[at - 1]?.[1] ?? 0) + 1),
        ).toBe(true);
      }
    }),
  );
});

test("a put after the highest number is refused, where setec would wrap and overwrite", async () => {
  const full = decideCreateVersion(decidePut(undefined, false).next, MAX_VERSION);
  expect(await codeOf(() => decidePut(full, false))).toBe("REFUSED");
  expect(decidePut(full, true)).toEqual({ version: MAX_VERSION, next: undefined });
});

/** The rules of versions.ts over values in memory, the way the writer uses them. */
class Machine {
  readonly #states = new Map<string, SecretState>();
  readonly #values = new Map<string, string>();

  run(step: Step): string {
    const state = this.#states.get(step.name);
    try {
      switch (step.do) {
        case "put": {
          const latest = this.#values.get(`${step.name}@${state?.latest ?? 0}`) ?? "";
          const { version, next } = decidePut(state, state !== undefined && latest === step.value);
          if (next !== undefined) this.#keep(step.name, next, version, step.value);
          return String(version);
        }
        case "create-version":
          this.#keep(step.name, decideCreateVersion(state, step.version), step.version, step.value);
          return String(step.version);
        case "activate": {
          if (state === undefined) return "SECRET_NOT_FOUND";
          this.#states.set(step.name, decideActivate(state, step.version) ?? state);
          return String(step.version);
        }
        case "delete-version":
          if (state === undefined) return "SECRET_NOT_FOUND";
          this.#states.set(step.name, decideDeleteVersion(state, step.version));
          this.#values.delete(`${step.name}@${step.version}`);
          return String(step.version);
        case "delete":
          this.#states.delete(step.name);
          for (const key of this.#values.keys())
            if (key.startsWith(`${step.name}@`)) this.#values.delete(key);
          return "0";
        default:
          return step satisfies never;
      }
    } catch (error) {
      if (error instanceof Error && "code" in error) return String(error.code);
      throw error;
    }
  }

  shape(): Record<string, unknown> {
    return Object.fromEntries(
      [...this.#states].map(([name, { active, latest, live, deleted }]) => [
        name,
        { active, latest, live: listNumbers(live), deleted: listNumbers(deleted) },
      ]),
    );
  }

  #keep(name: string, state: SecretState, version: number, value: string): void {
    this.#states.set(name, state);
    this.#values.set(`${name}@${version}`, value);
  }
}

function asMutation(step: Step): Parameters<ReturnType<typeof openStore>["mutate"]>[0] {
  return "value" in step ? { ...step, value: Buffer.from(step.value) } : step;
}

async function seenIn(store: ReturnType<typeof openStore>, names: readonly string[]): Promise<unknown> {
  const infos = await store.list();
  const values: Record<string, () => unknown> = {};
  for (const name of names) values[name] = () => told(store.get(name));
  for (const { Name, Versions } of infos) {
    for (const version of Versions) values[`${Name} ${version}`] = () => told(store.get(Name, version));
  }
  return {
    infos,
    each: infos.map(({ Name }) => store.info(Name)),
    count: store.count(),
    values: await answersOf(values),
  };
}

function ascending(numbers: ReadonlySet<number>): number[] {
  return [...numbers].toSorted((a, b) => a - b);
}
