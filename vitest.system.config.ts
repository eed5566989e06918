import { defineConfig } from "vitest/config";

// CI counts tests from a report: its path comes in here.
const report = process.env["LEGER_TEST_REPORT"];

export default defineConfig({
  test: {
    include: ["test/system/**/*.test.ts"],
    testTimeout: 400_000,
    hookTimeout: 180_000,
    pool: "forks",
    // Each file has a machine of its own; two cores carry two.
    maxWorkers: 2,
    reporters: report === undefined ? ["verbose"] : ["verbose", ["json", { outputFile: report }]],
  },
});
