/** upgrade — a store that is brought to a schema of the future, in a process of its own: to be killed amid that. */
import { prepareDatabase } from "../../src/store/database.ts";
import { FUTURE_MIGRATIONS } from "./future.ts";

const [stateDir = ""] = process.argv.slice(2);
// Whoever kills it counts from here.
process.stdout.write("begins\n");
prepareDatabase({ stateDir }, FUTURE_MIGRATIONS);
