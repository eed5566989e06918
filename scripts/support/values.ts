/** values — what the arguments of commands are called in the manual, and what a shell completes them with. */

export type Completes =
  | "file"
  | "directory"
  | "program"
  | "secret"
  | "service"
  | "variable"
  | "version"
  | "nothing";

type Value = { shows: string; completes: Completes };

/** Of the option or argument `name`. One that isn't listed is shown by its own name, and may be a file. */
export function valueOf(name: string, words: readonly string[]): Value {
  return (
    VALUES.get(`${words.slice(1).join(" ")} ${name}`) ??
    VALUES.get(name) ?? { shows: name, completes: "file" }
  );
}

/** By name, or by command and name where that one differs. */
const VALUES: ReadonlyMap<string, Value> = new Map<string, Value>([
  ["config", { shows: "file", completes: "file" }],
  ["dialect", { shows: "name", completes: "nothing" }],
  ["dir", { shows: "dir", completes: "directory" }],
  ["leger", { shows: "path", completes: "program" }],
  ["map", { shows: "name=secret", completes: "nothing" }],
  ["name", { shows: "name", completes: "secret" }],
  ["namespace", { shows: "name", completes: "nothing" }],
  ["number", { shows: "number", completes: "version" }],
  ["paths", { shows: "path", completes: "file" }],
  ["podman", { shows: "program", completes: "program" }],
  ["podman-arg", { shows: "option", completes: "nothing" }],
  ["principal", { shows: "name", completes: "nothing" }],
  ["out", { shows: "dir", completes: "directory" }],
  ["recipient", { shows: "key", completes: "nothing" }],
  ["podman-version", { shows: "version", completes: "nothing" }],
  ["quadlet", { shows: "quadlet", completes: "file" }],
  ["quadlets", { shows: "quadlet", completes: "file" }],
  ["secret", { shows: "secret", completes: "secret" }],
  ["secrets get version", { shows: "number", completes: "version" }],
  ["service", { shows: "service", completes: "service" }],
  ["services set variables", { shows: "variable=secret", completes: "variable" }],
  ["since", { shows: "when", completes: "nothing" }],
  ["socket", { shows: "path", completes: "file" }],
  ["to", { shows: "dir", completes: "directory" }],
  ["state", { shows: "dir", completes: "directory" }],
]);
