/**
 * directory-swapper — an attacker: swaps BASE/private for a symlink to BASE/attacker, or for that directory itself,
 * and back, SWAPS times, and reports as JSON what it could see: names in its own directory, modes wider than 0600.
 * Arguments: BASE, SWAPS.
 */

import { lstatSync, readdirSync, renameSync, symlinkSync, unlinkSync } from "node:fs";
import { join } from "node:path";

const [, , base = "", swaps = ""] = process.argv;
const shown = join(base, "private");
const aside = join(base, "aside");
const attacker = join(base, "attacker");
const caught = new Set<string>();
const tooOpen = new Set<string>();

for (let swap = 0; swap < Number(swaps); swap += 1) {
  renameSync(shown, aside);
  if (swap % 2 === 0) {
    symlinkSync(attacker, shown);
    look();
    unlinkSync(shown);
  } else {
    renameSync(attacker, shown);
    look();
    renameSync(shown, attacker);
  }
  renameSync(aside, shown);
}
process.stdout.write(JSON.stringify({ swaps: Number(swaps), caught: [...caught], tooOpen: [...tooOpen] }));

function look(): void {
  // Either way `shown` now leads to the attacker's directory.
  for (const name of readdirSync(`${shown}/`)) caught.add(name);
  for (const name of readdirSync(aside)) {
    const mode = lstatSync(join(aside, name), { throwIfNoEntry: false })?.mode ?? 0;
    if ((mode & 0o177) !== 0) tooOpen.add(`${name} ${(mode & 0o7777).toString(8)}`);
  }
}
