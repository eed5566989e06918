/** A moment of what `npm run fuzz` does for as long as one likes, always with the same inputs. */
import { expect, test } from "vitest";
import { renderTarget } from "../scripts/fuzz/render.ts";
import { backupTarget, databaseTarget, makeGround } from "../scripts/fuzz/stores.ts";

const INPUTS: Readonly<Record<string, number>> = { render: 300, backup: 60, database: 12 };

test("of changed quadlets, backups and databases comes an answer or a clear refusal", async () => {
  await using ground = await makeGround();
  for (const target of [renderTarget(), await backupTarget(ground), databaseTarget(ground)]) {
    const inputs = INPUTS[target.name] ?? 0;
    expect(inputs).toBeGreaterThan(0);
    for (const seed of [...target.kept, ...Array.from({ length: inputs }, (_, n) => n)]) {
      try {
        await target.tryOne(seed);
      } catch (cause) {
        throw new Error(`npm run fuzz -- --seed ${seed} ${target.name}`, { cause });
      }
    }
  }
});
