/** systemctl — a program of that name, where no systemd runs: units are files, answers are as systemctl's. */
import * as fs from "node:fs";
import path from "node:path";

export type FakeSystemctl = {
  /** For PATH. */
  directory: string;
  /** Its arguments so far, a call each. */
  calls: () => string[];
  unit: (name: string) => Record<string, string>;
  set: (name: string, unit: object) => void;
  /** Let a verb fail with these words, or no more. */
  fail: (verb: string, words: string | undefined) => void;
};

/**
 * `show` prints `Key=value` and an empty line between units, as systemctl 252 to 257 do; `enable`, `disable`,
 * `start` and `stop` change what it prints.
 */
export function fakeSystemctl(base: string, units: Readonly<Record<string, object>>): FakeSystemctl {
  const directory = fs.mkdtempSync(path.join(base, "systemctl-"));
  const fileOf = (name: string): string => path.join(directory, `${name}.unit`);
  const set = (name: string, unit: object): void => {
    fs.writeFileSync(
      fileOf(name),
      Object.entries({ Id: name, ...unit })
        .map(([key, value]) => `${key}=${value}\n`)
        .join(""),
    );
  };
  for (const [name, unit] of Object.entries(units)) set(name, unit);
  fs.writeFileSync(path.join(directory, "systemctl"), SCRIPT, { mode: 0o755 });
  return {
    directory,
    set,
    calls: () => fs.readFileSync(path.join(directory, "calls"), "utf8").split("\n").filter(Boolean),
    unit: (name) => {
      const lines = fs.readFileSync(fileOf(name), "utf8").trimEnd().split("\n").slice(1);
      return Object.fromEntries(lines.map((line) => [line.split("=")[0] ?? "", line.split("=")[1] ?? ""]));
    },
    fail: (verb, words) => {
      const file = path.join(directory, `${verb}.fails`);
      if (words === undefined) fs.rmSync(file);
      else fs.writeFileSync(file, `${words}\n`);
    },
  };
}

const SCRIPT = `#!/bin/sh
cd "$(dirname "$0")" || exit 70
echo "$*" >>calls
shift 2
verb=$1
shift
if [ -f "$verb.fails" ]; then cat "$verb.fails" >&2; exit 1; fi
now=
first=1
for word; do
  case $word in
  --now) now=1 ;;
  -*) ;;
  *)
    case $verb in
    show) [ "$first" ] || echo; first=; cat "$word.unit" ;;
    enable)
      # As systemd does, which leaves the directory behind at disable.
      [ "$HOME" = "" ] || mkdir -p "$HOME/.config/systemd/user"
      sed -i 's/^UnitFileState=.*/UnitFileState=enabled/' "$word.unit" ;;
    disable) sed -i 's/^UnitFileState=.*/UnitFileState=disabled/' "$word.unit" ;;
    esac
    if [ "$verb" = start ] || [ "$now" ]; then sed -i 's/^ActiveState=.*/ActiveState=active/' "$word.unit"; fi
    if [ "$verb" = stop ]; then sed -i 's/^ActiveState=.*/ActiveState=inactive/' "$word.unit"; fi
    ;;
  esac
done
`;
