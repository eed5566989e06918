/** quickstart — shows leger at work within seconds, and leaves nothing behind. */

import { tmpdir } from "node:os";
import { parseArgs } from "node:util";
import { exitStatusOf, LegerError, speak } from "../src/core/error.ts";
import { openPodmanDriver } from "./support/podman-driver.ts";
import { secretLines } from "./quickstart/keys.ts";
import { Page } from "./quickstart/page.ts";
import { performWithPodman } from "./quickstart/podman.ts";
import { openStage, type Stage } from "./quickstart/stage.ts";
import { newPlay, perform } from "./quickstart/steps.ts";

const HELP = `Shows leger at work: a daemon of its own, ten made-up keys, Podman's driver, an env file, a rotation.

Usage:
  npm run quickstart
  npm run quickstart -- --no-podman

Options:
  --no-podman   leave out the step that runs Podman
  --help

It needs neither root nor a network, nor Podman. Everything it makes lies in one private directory, in memory
where there is such a place, and is removed at the end, also after Ctrl-C. Your own leger and your own Podman
are not touched.
`;

/** signal(7). */
const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

async function main(): Promise<number> {
  const { values } = parse(process.argv.slice(2));
  if (values.help === true) {
    process.stdout.write(HELP);
    return 0;
  }
  process.umask(0o077);
  let interruptedBy = 0;
  const interruption = new AbortController();
  for (const [name, number] of Object.entries(SIGNALS)) {
    process.on(name, () => {
      interruptedBy ||= number;
      interruption.abort();
    });
  }
  // Who has read enough, as in "| head", needs no more; and there may be nobody to tell that something failed.
  process.stdout.on("error", () => interruption.abort());
  process.stderr.on("error", () => {});

  const { columns } = process.stdout;
  const page = new Page({
    write: (text) => void process.stdout.write(text),
    colours: process.stdout.isTTY && (process.env["NO_COLOR"] ?? "") === "" && process.env["TERM"] !== "dumb",
    columns: process.stdout.isTTY ? columns : undefined,
  });
  const started = performance.now();
  const stage = openStage({
    runtimeDir: process.env["XDG_RUNTIME_DIR"],
    tmpDir: tmpdir(),
    path: process.env["PATH"] ?? "/usr/local/bin:/usr/bin:/bin",
    euid: process.geteuid?.() ?? 0,
    compileCache: process.env["NODE_COMPILE_CACHE"],
    signal: interruption.signal,
  });
  let failure: unknown;
  try {
    await show(stage, page, values["no-podman"] !== true);
  } catch (error) {
    failure = error;
  }
  const leftovers = await stage.close();
  if (failure === undefined && !interruption.signal.aborted) tellEnd(page, performance.now() - started);
  if (leftovers !== "") {
    process.stderr.write(`quickstart: error: this could not be removed:\n${leftovers}\n`);
    return 1;
  }
  if (interruption.signal.aborted) return interruptedBy === 0 ? 0 : tellInterruption(interruptedBy);
  if (failure === undefined) return 0;
  process.stderr.write(speak(failure, "quickstart"));
  if (process.env["LEGER_DEBUG"] === "1" && failure instanceof Error)
    process.stderr.write(`${failure.stack}\n`);
  return exitStatusOf(failure);
}

async function show(stage: Stage, page: Page, withPodman: boolean): Promise<void> {
  page.title("leger keeps every API key once, encrypted and versioned;");
  page.title("Podman and systemd read it live.");
  page.gap();
  page.say(
    "What follows is real, but for the keys, which are made up. It all lies in",
    `${stage.base}, ${stage.inMemory ? "in memory," : "on a disk (no usable tmpfs here),"}`,
    "and is removed at the end.",
  );
  // Its launcher belongs where the rest is.
  process.env["TMPDIR"] = stage.tools;
  using driver = openPodmanDriver();
  const play = newPlay(stage, page, driver, secretLines());
  await perform(play);
  if (withPodman) await performWithPodman(play);
}

function tellEnd(page: Page, ms: number): void {
  page.gap();
  page.title(`Done in ${(ms / 1_000).toFixed(1)} s. No process, no file and no mount is left.`);
  page.gap();
  page.say(
    "Each key was stored once. Podman got a reference and asked for the value; a unit",
    "got a file in memory; a rotation was one command. What to read and type next:",
  );
  page.list([
    ["README.md", "install legerd, then: leger secrets set NAME; leger podman sync"],
    ["quadlets/README.md", "five services that take these ten keys"],
    ["docs/", "how leger is built, what it protects from and what not"],
  ]);
}

function tellInterruption(number: number): number {
  process.stderr.write("quickstart: interrupted; everything is removed again\n");
  return 128 + number;
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: { "no-podman": { type: "boolean" }, help: { type: "boolean", short: "h" } },
    });
  } catch {
    throw new LegerError("USAGE", "unknown argument", { hints: ["see: npm run quickstart -- --help"] });
  }
}

async function statusOf(status: Promise<number>): Promise<number> {
  try {
    return await status;
  } catch (error) {
    process.stderr.write(speak(error, "quickstart"));
    return exitStatusOf(error);
  }
}

// Whatever may still be waited for is of no use any more.
process.exit(await statusOf(main()));
