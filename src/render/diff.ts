/** diff — two small texts compared line by line, in the form that `patch` reads. */

/** Empty for equal texts. Undefined on one side is a file that isn't there. */
export function unifiedDiff(name: string, before: string | undefined, after: string | undefined): string {
  if (before === after) return "";
  const [old, now] = [linesOf(before), linesOf(after)];
  const steps = compare(old, now);
  const hunks: string[] = [];
  for (let at = 0; at < steps.length;) {
    const first = steps.findIndex((step, index) => index >= at && step.sign !== " ");
    if (first < 0) break;
    let last = first;
    for (let index = first; index < steps.length && index <= last + 2 * CONTEXT; index += 1) {
      if (steps[index]?.sign !== " ") last = index;
    }
    const shown = steps.slice(Math.max(0, first - CONTEXT), last + 1 + CONTEXT);
    hunks.push(hunkOf(shown));
    at = last + 1;
  }
  const side = (sign: string, text: string | undefined): string =>
    `${sign} ${text === undefined ? "/dev/null" : name}\n`;
  return side("---", before) + side("+++", after) + hunks.join("");
}

const CONTEXT = 3;

/** Where the tables of a comparison would grow large, the whole of one text is replaced by the other. */
const MAX_CELLS = 4_000_000;

type Step = { sign: " " | "-" | "+"; text: string; old: number; now: number };

function compare(old: readonly string[], now: readonly string[]): Step[] {
  const width = now.length + 1;
  if (old.length * now.length > MAX_CELLS) {
    return [
      ...old.map((text, index) => ({ sign: "-" as const, text, old: index, now: 0 })),
      ...now.map((text, index) => ({ sign: "+" as const, text, old: old.length, now: index })),
    ];
  }
  // The longest common rest, from each pair of lines on.
  const common = new Uint32Array((old.length + 1) * width);
  const at = (i: number, j: number): number => common[i * width + j] ?? 0;
  for (let i = old.length - 1; i >= 0; i -= 1) {
    for (let j = now.length - 1; j >= 0; j -= 1) {
      common[i * width + j] = old[i] === now[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const steps: Step[] = [];
  for (let i = 0, j = 0; i < old.length || j < now.length;) {
    const [left, right] = [old[i], now[j]];
    if (left !== undefined && left === right) steps.push({ sign: " ", text: left, old: i++, now: j++ });
    else if (right !== undefined && (left === undefined || at(i, j + 1) > at(i + 1, j))) {
      steps.push({ sign: "+", text: right, old: i, now: j++ });
    } else if (left !== undefined) steps.push({ sign: "-", text: left, old: i++, now: j });
  }
  return steps;
}

function hunkOf(steps: readonly Step[]): string {
  const count = (sign: string): number => steps.filter((step) => step.sign !== sign).length;
  const [first] = steps;
  const head = `@@ -${range(first?.old ?? 0, count("+"))} +${range(first?.now ?? 0, count("-"))} @@\n`;
  return head + steps.map(({ sign, text }) => `${sign}${text}\n`).join("");
}

/** Lines are counted from 1; before nothing at all it is the line ahead of it. */
function range(start: number, length: number): string {
  return `${length === 0 ? start : start + 1},${length}`;
}

function linesOf(text: string | undefined): string[] {
  if (text === undefined || text === "") return [];
  return text.replace(/\n$/, "").split("\n");
}
