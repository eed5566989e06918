/** future — the schema of releases that are not made yet. */
import { MIGRATIONS } from "../../src/store/database.ts";

/** What the next releases might do: something that takes a while, and something that must not be done twice. */
export const FUTURE_MIGRATIONS: readonly string[] = [
  ...MIGRATIONS,
  `CREATE TABLE copied AS SELECT * FROM vals;
   INSERT INTO copied SELECT * FROM vals;`,
  `CREATE TABLE once (n INTEGER NOT NULL); INSERT INTO once VALUES (1);`,
];
