import { statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";
import { bundleThread } from "./scripts/build/bundle.ts";

// CI counts tests from a report: its path comes in here.
const report = process.env["LEGER_TEST_REPORT"];

// Half of what a short-lived Node does is to strip types and compile. Workers and the programs that tests start keep it here.
process.env["NODE_COMPILE_CACHE"] ??= fileURLToPath(
  new URL("node_modules/.cache/node-compile", import.meta.url),
);

/** Small files that take long: with vitest's own order, by size, they would be the last, and run one by one. */
const FIRST = ["test/quickstart.test.ts", "test/completions.test.ts", "test/daemon/activation.test.ts"];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return files.toSorted((one, other) => weightOf(other) - weightOf(one));
  }
}

function weightOf({ moduleId }: TestSpecification): number {
  return FIRST.some((file) => moduleId.endsWith(file)) ? Number.MAX_SAFE_INTEGER : statSync(moduleId).size;
}

export default defineConfig({
  // Daemons inside the tests start their threads from this, in two thirds of the time; those that are programs, from the source.
  define: { LEGER_STORE_THREAD: JSON.stringify(await bundleThread()) },
  test: {
    globalSetup: "test/setup.ts",
    include: ["test/**/*.test.ts"],
    // They want root and a machine of their own, and compiled programs: npm run test:system, npm run test:binaries.
    exclude: ["test/system/**", "test/binaries/**"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: "forks",
    // Many tests wait for other processes or for a deadline: one more than two cores can run.
    maxWorkers: 3,
    isolate: false,
    sequence: { sequencer: LongestFirst },
    reporters: report === undefined ? ["default"] : ["default", ["json", { outputFile: report }]],
  },
});
