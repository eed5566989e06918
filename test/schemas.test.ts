import * as fs from "node:fs";
import { expect, test } from "vitest";
import { schemas } from "../scripts/support/schemas.ts";

test("the published schemas are what the code checks by", async () => {
  for (const { file, text } of await schemas()) {
    const published: unknown = JSON.parse(fs.readFileSync(file, "utf8"));
    expect(published, `${file}: run npm run schemas`).toEqual(JSON.parse(text));
  }
});
