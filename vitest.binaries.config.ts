import { defineConfig } from "vitest/config";
import { layOut } from "./test/binaries/prefix.ts";

// CI counts tests from a report: its path comes in here.
const report = process.env["LEGER_TEST_REPORT"];

// From here on, tests that start a program start the compiled one.
process.env["LEGER_TEST_PREFIX"] ??= layOut();

export default defineConfig({
  test: {
    // What is theirs alone, and what the source has to do as well.
    include: [
      "test/binaries/**/*.test.ts",
      "test/driver/{driver,faults}.test.ts",
      "test/fetch/**/*.test.ts",
      "test/cli/{main,secrets,services,audit,prompt}.test.ts",
      "test/daemon/activation.test.ts",
    ],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: "forks",
    maxWorkers: 2,
    reporters: report === undefined ? ["default"] : ["default", ["json", { outputFile: report }]],
  },
});
