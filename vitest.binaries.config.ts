import { defineConfig } from "vitest/config";

// CI counts tests from a report: its path comes in here.
const report = process.env["LEGER_TEST_REPORT"];

export default defineConfig({
  test: {
    // Not here: who only reads this file, as knip does, needs no programs.
    globalSetup: ["test/setup.ts", "test/binaries/setup.ts"],
    // What is theirs alone, and what the source has to do as well.
    include: [
      "test/binaries/**/*.test.ts",
      "test/driver/{driver,faults}.test.ts",
      "test/fetch/**/*.test.ts",
      "test/cli/{main,secrets,services,audit,prompt}.test.ts",
      "test/daemon/{activation,metrics}.test.ts",
    ],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: "forks",
    maxWorkers: 2,
    reporters: report === undefined ? ["default"] : ["default", ["json", { outputFile: report }]],
  },
});
