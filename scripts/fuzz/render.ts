/** render — mutated quadlets against the renderer: what is parsed is printed, and nothing but a clear refusal is thrown. */
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { LegerError } from "../../src/core/error.ts";
import { dropinText, recognise, wholeUnit } from "../../src/render/dropin.ts";
import { lint } from "../../src/render/lint.ts";
import { MODE_NAMES } from "../../src/render/modes.ts";
import { planDropin, understand, type RenderFacts } from "../../src/render/plan.ts";
import { parsePodmanVersion } from "../../src/render/podman-versions.ts";
import type { Source } from "../../src/render/source.ts";
import { parseUnitFile, printUnitFile } from "../../src/render/unit-file.ts";
import { quoteWord, splitWords } from "../../src/render/words.ts";
import { assert, randomFrom, withPieces, type Target } from "./target.ts";

const CORPUS = fileURLToPath(new URL("../../test/render/corpus", import.meta.url));

const FACTS: RenderFacts = {
  version: parsePodmanVersion("5.4"),
  isWhole: false,
  isRootless: true,
  uid: 1000,
  hasSelinux: false,
  program: "/usr/bin/leger",
  clearedVariables: [],
  images: new Map([
    ["localhost/bb:1", { user: "", entrypoint: ["/x"], command: ["$y", "100%"], hasShell: true }],
  ]),
};

/** Pieces that a mutation puts in. */
const PIECES = [
  "\\\n",
  "\r\n",
  "\n[Container]\n",
  "\n[X-Leger]\nMode=",
  "Secret=",
  ",type=env,target=",
  ",mode=0400",
  '"',
  "'",
  "\\",
  "\\x",
  "%d",
  "$$",
  "#",
  ";",
  "=",
  "\u00a0",
  "\nExec=",
  '\nEntrypoint=["a"]',
  "\nUser=1",
  "\nUserNS=keep-id",
  "\nVolume=a:/b",
  "\nImage=",
  " ",
].map((piece) => Buffer.from(piece));

/** The corpus of test/render, through parser, words, all modes, whole units and lint. */
export function renderTarget(): Target {
  const seeds = readdirSync(CORPUS, { recursive: true, encoding: "utf8" })
    .filter((name) => /\.(?:container|conf)$/.test(name))
    .map((name) => readFileSync(path.join(CORPUS, name)));
  return {
    name: "render",
    kept: [],
    tryOne(seed) {
      const random = randomFrom(seed);
      const bytes = withPieces(seeds[random(seeds.length)] ?? Buffer.alloc(0), PIECES, random);
      try {
        tryAll(bytes);
      } catch (cause) {
        process.stderr.write(`${JSON.stringify(bytes.toString("latin1"))}\n`);
        throw cause;
      }
    },
  };
}

function tryAll(bytes: Buffer): void {
  const base = parseUnitFile("/q/app.container", bytes);
  assert(printUnitFile(base).equals(bytes), "what is printed is not what was parsed");
  const source: Source = {
    file: "/q/app.container",
    name: "app.container",
    base,
    dropins: [],
    ownDirectory: "/q/app.container.d",
    own: undefined,
    inherited: [],
  };
  lint(source, { version: FACTS.version, declared: new Set() });
  for (const item of base.items) {
    const words = splitWords(item.value) ?? [];
    const again = splitWords(words.map(quoteWord).join(" "));
    assert(JSON.stringify(again) === JSON.stringify(words), "words that were quoted are not given back");
  }
  const reading = refusedOr(() => understand(source, { isWhole: false }));
  if (reading === undefined) return;
  for (const mode of MODE_NAMES) {
    const chosen = reading.secrets.map((secret) => ({ secret, mode }));
    const { lines, modes, problems } = planDropin(reading, chosen, FACTS);
    if (problems.length > 0) continue;
    const text = dropinText(lines, { modes, madeDirectory: true });
    assert(recognise(text).kind === "ours", "a drop-in is not recognised");
    const entries = parseUnitFile("x", text).items.filter(({ kind }) => kind === "entry");
    assert(entries.length === lines.length, "a line of the drop-in is read as another one");
    const whole = parseUnitFile("x", wholeUnit(base, [], lines, modes));
    const isSound = base.items.every(({ kind }) => kind !== "fault");
    assert(!isSound || whole.items.every(({ kind }) => kind !== "fault"), "a whole unit cannot be read");
  }
}

/** A LegerError is an answer. */
function refusedOr<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch (error) {
    if (error instanceof LegerError && error.code !== "BUG") return undefined;
    throw error;
  }
}
