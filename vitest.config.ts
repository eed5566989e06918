import { defineConfig } from "vitest/config";

// CI counts tests from a report: its path comes in here.
const report = process.env["LEGER_TEST_REPORT"];

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // They want root and a machine of their own: npm run test:system.
    exclude: ["test/system/**"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: "forks",
    // Many tests wait for other processes or for a deadline: one more than two cores can run.
    maxWorkers: 3,
    reporters: report === undefined ? ["default"] : ["default", ["json", { outputFile: report }]],
  },
});
