/** A moment of what `npm run fuzz` does for as long as one likes, always with the same inputs. */
import { expect, test } from "vitest";
import { doorsTarget } from "../scripts/fuzz/doors.ts";
import { renderTarget } from "../scripts/fuzz/render.ts";
import { backupTarget, databaseTarget, makeGround } from "../scripts/fuzz/stores.ts";
import { auditTarget, bodyTarget, configTarget, requestTarget, tokenTarget } from "../scripts/fuzz/texts.ts";

const INPUTS: Readonly<Record<string, number>> = {
  render: 300,
  backup: 60,
  database: 12,
  audit: 15,
  config: 100,
  body: 500,
  target: 500,
  token: 500,
  doors: 3,
};

test("of changed files, bodies and bytes at a door comes an answer or a clear refusal", async () => {
  await using ground = await makeGround();
  await using doors = await doorsTarget(ground.base);
  await using tokens = await tokenTarget(ground.base);
  const targets = [
    renderTarget(),
    await backupTarget(ground),
    databaseTarget(ground),
    await auditTarget(ground.base),
    configTarget(ground.base),
    bodyTarget(),
    requestTarget(),
    tokens,
    doors,
  ];
  for (const target of targets) {
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
