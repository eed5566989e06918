/** steps — what a quickstart shows: a key stored once, read by Podman's driver and as an env file, rotated, audited. */

import { randomBytes } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { z } from "zod";
import { LegerError } from "../../src/core/error.ts";
import { referenceTo } from "../../src/core/reference.ts";
import type { Secret } from "../../src/core/secret.ts";
import type { PodmanDriver, Verb } from "../support/podman-driver.ts";
import { madeUpValue, masked, type SecretLine } from "./keys.ts";
import type { Page } from "./page.ts";
import type { Stage } from "./stage.ts";

export type Play = {
  stage: Stage;
  page: Page;
  driver: PodmanDriver;
  lines: readonly SecretLine[];
  /** Every value by its secret's name, as it was stored first. */
  values: ReadonlyMap<string, Secret>;
  /** Podman's ids of two entries, as it would make them. */
  ids: { rotated: string; removed: string };
};

/** The secret that is looked up, rotated and given to a container. */
export const ROTATED = "openai_api_key";

export function newPlay(stage: Stage, page: Page, driver: PodmanDriver, lines: readonly SecretLine[]): Play {
  const names = [...new Set([ROTATED, ...lines.map(({ name }) => name)])];
  const values = new Map(names.map((name) => [name, madeUpValue(name)]));
  return { stage, page, driver, lines, values, ids: { rotated: newId(), removed: newId() } };
}

/** All of it in order; FAILED where something is not as it is said to be. */
export async function perform(play: Play): Promise<void> {
  await startLegerd(play);
  await storeKeys(play);
  await defineServices(play);
  await answerDriver(play);
  await writeEnvFile(play);
  await rotate(play);
  await showAudit(play);
}

/** FAILED unless these are the bytes. */
export function assertSame(what: string, got: Uint8Array, expected: Secret | undefined): void {
  if (expected !== undefined && Buffer.from(got).equals(expected.reveal())) return;
  throw new LegerError("FAILED", `${what}: not the bytes that were stored`);
}

/** Stores a new version and makes it the active one. */
export async function setNewValue({ stage }: Play, name: string): Promise<{ value: Secret; ms: number }> {
  const value = madeUpValue(name);
  const { ms } = await stage.leger(["secrets", "set", name, "--activate"], { stdin: value.reveal() });
  return { value, ms };
}

/** A line of a command's standard output each. */
export function linesOf({ stdout }: { stdout: Uint8Array }): string[] {
  return Buffer.from(stdout).toString().trimEnd().split("\n");
}

async function startLegerd({ stage, page }: Play): Promise<void> {
  page.step("Start legerd, which keeps the keys");
  const { ms } = await stage.startLegerd();
  page.command("legerd", ms);
  const { stdout } = await stage.leger(["status", "--json"]);
  const places = Status.parse(JSON.parse(Buffer.from(stdout).toString()));
  page.list([
    ["socket", `${stage.short(places.socket)}, for you alone`],
    ["database", `${stage.short(places.database)}, encrypted`],
    ["main key", `${stage.short(places.main_key)}, which opens it: keep a copy`],
  ]);
}

async function storeKeys({ stage, page, values }: Play): Promise<void> {
  page.step(`Store the ${values.size} keys that the quadlets in quadlets/ ask for`);
  const set = async ([name, value]: [string, Secret]): Promise<number> =>
    (await stage.leger(["secrets", "set", name], { stdin: value.reveal() })).ms;
  // The first one alone: after it the others start faster.
  const [first, ...others] = [...values];
  if (first === undefined) throw new LegerError("FAILED", "quadlets/ names no secret");
  page.command(`leger secrets set ${first[0]}`, await set(first));
  page.result("the value by a pipe or at a prompt, never as an argument");
  const started = performance.now();
  await Promise.all(others.map(set));
  page.result(`and ${others.length} more, side by side`, performance.now() - started);
  const list = await stage.leger(["secrets", "list"]);
  page.command("leger secrets list", list.ms);
  for (const line of linesOf(list)) page.result(line);
}

async function defineServices({ stage, page, lines }: Play): Promise<void> {
  page.step("Say which service gets which keys");
  const define = async (service: string): Promise<{ service: string; pairs: string[]; ms: number }> => {
    const pairs = lines
      .filter((line) => line.service === service)
      .map(({ name, variable }) => `${variable}=${name}`);
    const { ms } = await stage.leger(["services", "set", service, ...pairs]);
    return { service, pairs, ms };
  };
  for (const { service, pairs, ms } of await Promise.all(SERVICES.map(define))) {
    page.command(`leger services set ${service} \\`, ms);
    for (const [at, pair] of pairs.entries()) page.result(`  ${pair}${at === pairs.length - 1 ? "" : " \\"}`);
  }
}

async function answerDriver(play: Play): Promise<void> {
  const { page, driver, ids, values } = play;
  page.step("Answer Podman, which asks by the commands in containers.conf.d/50-leger.conf");
  page.say("   /bin/sh -c '…; exec /usr/bin/leger driver VERB', SECRET_ID in the environment");
  if (!driver.exact)
    page.say(`   (with this checkout's path in place of /usr/bin/leger: ${driver.obstacle})`);

  const reference = referenceTo(`leger/local/${ROTATED}`);
  const stored = await ask(play, "store", ids.rotated, reference);
  page.result(`store   ${reference}`, stored.ms);
  page.result("        that reference is all Podman ever keeps");
  await ask(play, "store", ids.removed, referenceTo("leger/local/tavily_api_key"));
  const listed = await ask(play, "list");
  page.result(`list    ${linesOf(listed).length} entries, this one and another`, listed.ms);
  const found = await ask(play, "lookup", ids.rotated);
  assertSame("lookup", found.stdout, values.get(ROTATED));
  page.result(`lookup  ${masked(ROTATED, found.stdout)}, exactly those stored`, found.ms);
  const removed = await ask(play, "delete", ids.removed);
  page.result("delete  the other entry is gone; its secret stays", removed.ms);
}

async function writeEnvFile({ stage, page, lines, values }: Play): Promise<void> {
  page.step("Or write a service's keys to an env file, as ExecStartPre= in a unit does");
  const args = ["secrets", "fetch", "openwebui", "--print-path", ...(stage.inMemory ? [] : ["--allow-disk"])];
  const fetched = await stage.leger(args);
  page.command(`leger ${args.join(" ")}`, fetched.ms);
  const file = linesOf(fetched)[0] ?? "";
  const mode = (statSync(file).mode & 0o7777).toString(8).padStart(4, "0");
  page.result(`${stage.short(file)}, mode ${mode}, ${stage.inMemory ? "on tmpfs" : "not on tmpfs"}`);
  const variables = new Map(
    readFileSync(file, "utf8")
      .split("\n")
      .map(
        (line) => [line.slice(0, line.indexOf("=")), Buffer.from(line.slice(line.indexOf("=") + 1))] as const,
      ),
  );
  for (const { name, variable } of lines.filter(({ service }) => service === "openwebui")) {
    const value = variables.get(variable) ?? Buffer.alloc(0);
    assertSame(variable, value, values.get(name));
    page.result(`${variable}=${masked(name, value)}`);
  }
}

async function rotate(play: Play): Promise<void> {
  const { stage, page, ids, values } = play;
  page.step("Rotate a key, then go back; Podman is not told");
  const { value, ms } = await setNewValue(play, ROTATED);
  page.command(`leger secrets set ${ROTATED} --activate`, ms);
  const rotated = await ask(play, "lookup", ids.rotated);
  assertSame("lookup", rotated.stdout, value);
  page.result("lookup  the new key", rotated.ms);
  const activated = await stage.leger(["secrets", "activate", ROTATED, "1"]);
  page.command(`leger secrets activate ${ROTATED} 1`, activated.ms);
  const back = await ask(play, "lookup", ids.rotated);
  assertSame("lookup", back.stdout, values.get(ROTATED));
  page.result("lookup  the first key again", back.ms);
}

async function showAudit({ stage, page }: Play): Promise<void> {
  page.step("See who asked for what");
  const audit = await stage.leger(["audit", "--json"]);
  page.command("leger audit", audit.ms);
  const entries = linesOf(audit).map((line) => AuditLine.parse(JSON.parse(line)));
  // The command line's own questions, which carry no value: there are many, in no order.
  const [questions, shown] = [entries.filter(isQuestion), entries.filter((entry) => !isQuestion(entry))];
  for (const { first, times } of inRuns(shown)) {
    const { time, action, secret = "", version, unit, service, podman_id } = first;
    const what = times > 1 ? `${times} secrets` : secret.replace(/^leger\/local\//, "");
    const number = times > 1 || version === undefined ? "" : `v${version}`;
    const who = [service, podman_id === undefined ? undefined : `entry ${podman_id.slice(0, 5)}…`, unit];
    const columns = [time.slice(11, 23), action.padEnd(11), what.padEnd(14), number.padEnd(2)];
    page.result([...columns, who.filter((part) => part !== undefined).join(" of ")].join("  ").trimEnd());
  }
  page.result(`and ${questions.length} times info: names and versions`);
}

async function ask({ stage, driver }: Play, verb: Verb, id?: string, payload?: string) {
  const result = await stage.unlessInterrupted(
    driver.ask(verb, {
      runtimeDir: stage.runtimeDir,
      env: { [stage.marker.name]: stage.marker.value },
      ...(id === undefined ? {} : { id }),
      ...(payload === undefined ? {} : { stdin: Buffer.from(payload) }),
    }),
  );
  if (result.status === 0) return result;
  throw new LegerError("FAILED", `driver ${verb}: ${result.stderr.trim().split("\n")[0] ?? ""}`);
}

const SERVICES = ["openwebui", "litellm"] as const;

const Status = z.object({ socket: z.string(), database: z.string(), main_key: z.string() });

const AuditLine = z.object({
  time: z.string(),
  action: z.string(),
  secret: z.string().optional(),
  version: z.number().optional(),
  unit: z.string().optional(),
  service: z.string().optional(),
  podman_id: z.string().optional(),
});
type AuditLine = z.infer<typeof AuditLine>;

function isQuestion({ action }: AuditLine): boolean {
  return action === "info";
}

/** Neighbours that differ in their secret only are one run. */
function inRuns(entries: readonly AuditLine[]): { first: AuditLine; times: number }[] {
  const runs: { first: AuditLine; times: number; key: string }[] = [];
  for (const entry of entries) {
    const key = JSON.stringify([entry.action, entry.unit, entry.service, entry.podman_id]);
    const last = runs.at(-1);
    if (last?.key === key) last.times += 1;
    else runs.push({ first: entry, times: 1, key });
  }
  return runs;
}

/** As Podman makes them: 25 hex digits. */
function newId(): string {
  return randomBytes(13).toString("hex").slice(0, 25);
}
