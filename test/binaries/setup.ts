/** setup — lays the compiled programs out before any test starts: from here on, tests that start a program start one of these. */
import { layOut } from "./prefix.ts";

export function setup(): void {
  process.env["LEGER_TEST_PREFIX"] ??= layOut();
}
