import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { bundleThread } from "./scripts/build/bundle.ts";

// CI counts tests from a report: its path comes in here.
const report = process.env["LEGER_TEST_REPORT"];

// Half of what a short-lived Node does is to strip types and compile. Workers and the programs that tests start keep it here.
process.env["NODE_COMPILE_CACHE"] ??= fileURLToPath(
  new URL("node_modules/.cache/node-compile", import.meta.url),
);

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
    reporters: report === undefined ? ["default"] : ["default", ["json", { outputFile: report }]],
  },
});
