/** ground — a legerd of a row's own: where its things lie, and what is asked of it. */
import * as fs from "node:fs";
import * as os from "node:os";
import path from "node:path";
import { nodeWire } from "../../src/core/wire-node.ts";
import { launchLegerd, LEGERD, type LegerdProcess } from "../support/legerd-process.ts";

/** What came of a row, a sentence each. */
type Findings = { served: string; refused: string; recovers: string };

export type Row = {
  name: string;
  /** What is done to legerd. */
  what: string;
  /** Takes longer than a minute or a machine of its own: only where it is asked for by name. */
  slow?: true;
  /** Why this row cannot be tried here; undefined where it can. */
  missing?: () => string | undefined;
  run: (ground: Ground) => Promise<Findings>;
};

/** A directory of its own, and what is to be undone at the end. */
export type Ground = AsyncDisposable & {
  base: string;
  stateDir: string;
  socket: string;
  /** Undone at the end, the last first. */
  atEnd: (undo: () => Promise<void> | void) => void;
  /** Starts a legerd there and waits until it is ready. */
  start: (options?: StartOptions) => Promise<Legerd>;
};

type StartOptions = {
  /** What starts it, with its own arguments: a program that in the end becomes legerd. */
  starter?: readonly string[];
  env?: Readonly<Record<string, string>>;
  args?: readonly string[];
  stateDir?: string;
};

type Told = { status: number; text: string };

export type Legerd = LegerdProcess & {
  pid: number;
  /** One request on a connection of its own; text in the place of an answer is what kept it from one. */
  ask: (method: string, path: string, options?: AskOptions) => Promise<Told>;
  /** `200 v1`, or the status and the words of a refusal. */
  get: (name: string) => Promise<string>;
  /** `200 1`, the number being the version. */
  put: (name: string, value: string) => Promise<string>;
  stop: () => Promise<void>;
};

type AskOptions = { body?: unknown; socket?: string; timeoutMs?: number; maxBodyBytes?: number };

/** In the environment where this runs as root: 1 in a mount namespace of its own, 0 where there is none to be had. */
export const INSIDE = "LEGER_LIMITS_INSIDE";

const SETEC = { "content-type": "application/json", "sec-x-tailscale-no-browsers": "setec" };
const STOP_TIMEOUT_MS = 10_000;

export function makeGround(): Ground {
  const base = fs.mkdtempSync(path.join(os.tmpdir(), "leger-limits-"));
  fs.mkdirSync(path.join(base, "run"), { mode: 0o700 });
  const undo = new AsyncDisposableStack();
  undo.defer(() => fs.rmSync(base, { recursive: true, force: true }));
  const stateDir = path.join(base, "state");
  const socket = path.join(base, "run", "legerd.sock");
  return {
    base,
    stateDir,
    socket,
    atEnd: (work) => undo.defer(work),
    async start({ starter = [], env = {}, args = ["--socket", socket], stateDir: at = stateDir } = {}) {
      const [program, ...words] = starter;
      const own = [process.execPath, LEGERD] as const;
      const command = program === undefined ? own : ([program, ...words, ...own] as const);
      const daemon = launchLegerd(base, ["--state", at, ...args], { command, env });
      const stop = async (): Promise<void> => {
        daemon.child.kill("SIGCONT");
        daemon.child.kill("SIGTERM");
        const late = setTimeout(() => daemon.child.kill("SIGKILL"), STOP_TIMEOUT_MS);
        await daemon.ended;
        clearTimeout(late);
      };
      undo.defer(stop);
      await daemon.ready;
      return { ...daemon, pid: daemon.child.pid ?? -1, stop, ...asking(socket) };
    },
    [Symbol.asyncDispose]: () => undo.disposeAsync(),
  };
}

function asking(socket: string): Pick<Legerd, "ask" | "get" | "put"> {
  const ask: Legerd["ask"] = async (
    method,
    at,
    { body, socket: other = socket, timeoutMs = 10_000, maxBodyBytes } = {},
  ) => {
    const bytes = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    const request = {
      method,
      path: at,
      headers: SETEC,
      timeoutMs,
      ...(bytes === undefined ? {} : { body: bytes }),
    };
    try {
      const answer = await nodeWire(other, maxBodyBytes === undefined ? {} : { maxBodyBytes }).request(
        request,
      );
      return { status: answer.status, text: Buffer.from(answer.body).toString().trimEnd() };
    } catch (error) {
      return { status: 0, text: error instanceof Error ? error.message : String(error) };
    }
  };
  return {
    ask,
    async get(name) {
      const { status, text } = await ask("POST", "/api/get", { body: { Name: name } });
      if (status !== 200) return `${status} ${text}`;
      const { Value }: { Value: string } = JSON.parse(text);
      return `200 ${Buffer.from(Value, "base64").toString()}`;
    },
    async put(name, value) {
      const body = { Name: name, Value: Buffer.from(value).toString("base64") };
      const { status, text } = await ask("POST", "/api/put", { body });
      return `${status} ${text}`;
    },
  };
}

/** Throws where something is not as it must be. */
export function must(what: string, found: unknown, wanted: unknown): void {
  const matches = wanted instanceof RegExp ? wanted.test(String(found)) : found === wanted;
  if (!matches) throw new Error(`${what}: ${JSON.stringify(found)}, not ${String(wanted)}`);
}

/** Waits until it is so, and no longer than `withinMs`. */
export async function until(
  what: string,
  withinMs: number,
  isSo: () => Promise<boolean> | boolean,
): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`${what}: not within ${withinMs / 1_000} s`);
    await pause(50);
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A figure of /metrics. */
export async function metric(daemon: Legerd, name: string): Promise<number> {
  const { text } = await daemon.ask("GET", "/metrics");
  const line = text.split("\n").find((candidate) => candidate.startsWith(`${name} `));
  return Number(line?.slice(name.length + 1) ?? Number.NaN);
}

export function isRoot(): boolean {
  return process.geteuid?.() === 0;
}
