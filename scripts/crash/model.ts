/** model — what one writer knows of the things that it alone changes: as they must be, or as they may be. */
import * as crypto from "node:crypto";
import type { Call, Reply } from "./connection.ts";

/** Evenly spread in [0, 1). */
export type Random = () => number;

/** One change: what is sent, what must be answered, what is then there, and what the audit log must say. */
type Step<State> = { call: Call; answer: { status: number; body?: string }; next: State; audit: string };

/** How one kind of thing changes, and how a state of it is written down (values as fingerprints). */
type Kind<State> = {
  choose: (state: State, random: Random) => Step<State>;
  describe: (state: State) => string;
};

type SecretState =
  | { active: number; latest: number; live: ReadonlyMap<number, string>; deleted: readonly number[] }
  | undefined;
type EntryState = { secret: string } | { fingerprint: string } | undefined;
type ServiceState = Readonly<Record<string, string>> | undefined;
type TokenState = readonly string[] | undefined;

export const ABSENT = "not there";

const SETEC_HEADERS = { "content-type": "application/json", "sec-x-tailscale-no-browsers": "setec" };
const MAX_LIVE_VERSIONS = 5;
const LARGE_VALUE_BYTES = 40_000;

/** Numbers from a seed, so that a run's choices can be had again (its moments can't). mulberry32. */
export function randomFrom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What stands for a value in a description. */
export function fingerprint(value: Uint8Array | string): string {
  return crypto.createHash("sha256").update(value).digest("hex").slice(0, 12);
}

/** A secret as `list` and `get` show it. */
export function describeSecret(active: number, live: Iterable<readonly [number, string]>): string {
  const versions = [...live].toSorted(([a], [b]) => a - b).map(([number, print]) => `${number}=${print}`);
  return `active ${active} of ${versions.join(" ")}`;
}

export function describeEntry(entry: { secret: string } | { fingerprint: string }): string {
  return "secret" in entry ? `for ${entry.secret}` : `with ${entry.fingerprint}`;
}

export function describeService(variables: Readonly<Record<string, string>>): string {
  return `with ${Object.entries(variables)
    .map((pair) => pair.join("="))
    .toSorted()
    .join(" ")}`;
}

/** `secrets`: which ones it may read. */
export function describeToken(secrets: readonly string[]): string {
  return `for ${secrets.join(" ")}`;
}

/** Something that one writer alone changes, one change at a time. */
export type Item = {
  /** As audit lines and observations name it: "secret NAME", "entry ID", "service NAME", "token NAME". */
  readonly label: string;
  /** Chooses the next change. Until its answer is taken in, it may or may not have been carried out. */
  begin(random: Random): Call;
  /** Takes in the answer: the change is certain now. Tells whether it changed anything; throws for a wrong answer. */
  acknowledge(reply: Reply): boolean;
  /** Compares with what is there now, and takes that as the truth about a change that was never answered. */
  settle(observed: string): Settled;
  /** What is there once what was begun is carried out, and its line in the audit log; undefined where nothing is begun. */
  underWay(): { text: string; audit: string } | undefined;
  /** True once something was begun, until it is settled. */
  touched(): boolean;
  /** Forgets and returns the audit lines of everything since the last time, in their order. */
  takeAuditLines(): AuditLine[];
};

/** `fault` says what must be there and what is, as a sentence. */
type Settled = { fault: string | undefined; unanswered: "none" | "carried out" | "not carried out" };

/** A line that must be in the audit log or, where nobody knows, may be. */
type AuditLine = { text: string; certain: boolean };

/** A writer's own things, none of which is there at first. `padding`: makes names, and so lines of the audit log, longer. */
export function makeItems(writer: number, padding = ""): Item[] {
  const secrets = ["a", "b"].map((last) => `leger/writer-${writer}/${padding}${last}`);
  const id = `${writer.toString(16).padStart(4, "0")}${"c".repeat(21)}`;
  const own = `writer-${writer}`;
  return [
    ...secrets.map((name) => makeItem(`secret ${name}`, secretKind(name), undefined)),
    makeItem(`entry ${id}`, entryKind(id, secrets), undefined),
    makeItem(`service ${own}`, serviceKind(own, secrets), undefined),
    makeItem(`token ${own}`, tokenKind(own, secrets), undefined),
  ];
}

function makeItem<State>(label: string, { choose, describe }: Kind<State>, first: State): Item {
  let state = first;
  let underWay: Step<State> | undefined;
  let touched = false;
  let auditLines: AuditLine[] = [];
  return {
    label,
    touched: () => touched,
    underWay: () =>
      underWay === undefined ? undefined : { text: describe(underWay.next), audit: underWay.audit },
    begin(random) {
      touched = true;
      underWay = choose(state, random);
      return underWay.call;
    },
    acknowledge({ status, body }) {
      if (underWay === undefined) throw new Error(`${label}: an answer to nothing`);
      const { answer, next, audit, call } = underWay;
      underWay = undefined;
      if (status !== answer.status || (answer.body !== undefined && body.toString() !== answer.body)) {
        const got = `${status} ${JSON.stringify(body.toString().slice(0, 100))}`;
        throw new Error(
          `${label}: ${call.method} ${call.path} must be answered ${answer.status} ${answer.body ?? ""}, not ${got}`,
        );
      }
      auditLines.push({ text: audit, certain: true });
      const changed = next !== state;
      state = next;
      return changed;
    },
    settle(observed) {
      touched = false;
      const possible = [describe(state)];
      let unanswered: Settled["unanswered"] = "none";
      if (underWay !== undefined) {
        possible.push(describe(underWay.next));
        const carriedOut = observed !== possible[0] && observed === possible[1];
        unanswered = carriedOut ? "carried out" : "not carried out";
        // The line is written first, so that nothing can have been done without one.
        auditLines.push({ text: underWay.audit, certain: carriedOut });
        if (carriedOut) state = underWay.next;
        underWay = undefined;
      }
      if (possible.includes(observed)) return { fault: undefined, unanswered };
      const fault = `${label} must be ${possible.map((text) => `"${text}"`).join(" or ")}, but is "${observed}"`;
      return { fault, unanswered };
    },
    takeAuditLines() {
      const taken = auditLines;
      auditLines = [];
      return taken;
    },
  };
}

function secretKind(name: string): Kind<SecretState> {
  return {
    describe: (state) => (state === undefined ? ABSENT : describeSecret(state.active, state.live)),
    choose(state, random) {
      if (state === undefined) {
        return random() < 0.7 ? put(name, state, random) : createVersion(name, state, random);
      }
      const { active, latest, live, deleted } = state;
      const others = [...live.keys()].filter((version) => version !== active);
      const other = pick(others, random);
      const dice = random();
      if (other !== undefined && (dice < 0.2 || live.size >= MAX_LIVE_VERSIONS)) {
        const left = new Map(live);
        left.delete(other);
        return {
          call: setecCall("delete-version", { Name: name, Version: other }),
          answer: { status: 200, body: "{}" },
          next: { active, latest, live: left, deleted: [...deleted, other] },
          audit: `delete ${other}`,
        };
      }
      if (other !== undefined && dice < 0.45) {
        return {
          call: setecCall("activate", { Name: name, Version: other }),
          answer: { status: 200, body: "{}" },
          next: { ...state, active: other },
          audit: `activate ${other}`,
        };
      }
      const gone = pick(deleted, random);
      if (gone !== undefined && dice < 0.5) {
        // The number of a version that is deleted stays taken.
        return {
          call: setecCall("create-version", {
            Name: name,
            Version: gone,
            Value: base64(makeValue(name, random)),
          }),
          answer: { status: 412 },
          next: state,
          audit: `create-version ${gone}`,
        };
      }
      if (dice < 0.57) {
        return {
          call: setecCall("delete", { Name: name }),
          answer: { status: 200, body: "{}" },
          next: undefined,
          audit: "delete",
        };
      }
      return dice < 0.67 ? createVersion(name, state, random) : put(name, state, random);
    },
  };
}

function put(name: string, state: SecretState, random: Random): Step<SecretState> {
  const value = makeValue(name, random);
  const version = (state?.latest ?? 0) + 1;
  const live = new Map(state?.live).set(version, fingerprint(value));
  return {
    call: setecCall("put", { Name: name, Value: base64(value) }),
    answer: { status: 200, body: String(version) },
    next: { active: state?.active ?? version, latest: version, live, deleted: state?.deleted ?? [] },
    audit: "put",
  };
}

function createVersion(name: string, state: SecretState, random: Random): Step<SecretState> {
  const value = makeValue(name, random);
  const version = (state?.latest ?? 0) + 1 + Math.floor(random() * 3);
  const live = new Map(state?.live).set(version, fingerprint(value));
  return {
    call: setecCall("create-version", { Name: name, Version: version, Value: base64(value) }),
    answer: { status: 200, body: "{}" },
    next: { active: version, latest: version, live, deleted: state?.deleted ?? [] },
    audit: `create-version ${version}`,
  };
}

function entryKind(id: string, secrets: readonly string[]): Kind<EntryState> {
  const headers = { "leger-secret-id": id };
  return {
    describe: (state) => (state === undefined ? ABSENT : describeEntry(state)),
    choose(state, random) {
      const dice = random();
      if (state !== undefined && dice < 0.4) {
        return {
          call: { method: "POST", path: "/v1/podman/delete", headers },
          answer: { status: 200 },
          next: undefined,
          audit: "unlink",
        };
      }
      const secret = dice < 0.6 ? pick(secrets, random) : undefined;
      const payload = secret === undefined ? makeValue(id, random) : `leger-ref:v1:${secret}`;
      return {
        call: { method: "POST", path: "/v1/podman/store", headers, body: payload },
        answer: { status: 200 },
        next: secret === undefined ? { fingerprint: fingerprint(payload) } : { secret },
        audit: secret === undefined ? "link" : `link to ${secret}`,
      };
    },
  };
}

function serviceKind(service: string, secrets: readonly string[]): Kind<ServiceState> {
  const path = `/v1/services/${service}`;
  return {
    describe: (state) => (state === undefined ? ABSENT : describeService(state)),
    choose(state, random) {
      if (state !== undefined && random() < 0.3) {
        return {
          call: { method: "DELETE", path },
          answer: { status: 200 },
          next: undefined,
          audit: "delete-service",
        };
      }
      const variables = {
        [`KEY_${Math.floor(random() * 1e9)}`]: pick(secrets, random) ?? "",
        OTHER: pick(secrets, random) ?? "",
      };
      return {
        call: { method: "PUT", path, body: JSON.stringify({ variables }) },
        answer: { status: 200 },
        next: variables,
        audit: "set-service",
      };
    },
  };
}

function tokenKind(token: string, secrets: readonly string[]): Kind<TokenState> {
  const path = `/v1/tokens/${token}`;
  return {
    describe: (state) => (state === undefined ? ABSENT : describeToken(state)),
    choose(state, random) {
      if (state !== undefined) {
        return {
          call: { method: "DELETE", path },
          answer: { status: 200 },
          next: undefined,
          audit: "revoke-token",
        };
      }
      const secret = [`${pick(secrets, random) ?? ""}*`, `leger/${Math.floor(random() * 1e9)}`];
      return {
        call: { method: "PUT", path, body: JSON.stringify({ grants: [{ action: ["get"], secret }] }) },
        answer: { status: 200 },
        next: secret,
        audit: "create-token",
      };
    },
  };
}

/** A call of setec's protocol. */
export function setecCall(operation: string, request: Readonly<Record<string, string | number>>): Call {
  return { method: "POST", path: `/api/${operation}`, headers: SETEC_HEADERS, body: JSON.stringify(request) };
}

/** Unlike any other; now and then so large that it spans many pages of the database. */
function makeValue(owner: string, random: Random): string {
  const unique = `${owner} ${Math.floor(random() * 2 ** 32)} ${Math.floor(random() * 2 ** 32)} `;
  return random() < 0.04 ? unique.repeat(Math.ceil((random() * LARGE_VALUE_BYTES) / unique.length)) : unique;
}

function base64(text: string): string {
  return Buffer.from(text).toString("base64");
}

/** Undefined from an empty list only. */
export function pick<T>(list: readonly T[], random: Random): T | undefined {
  return list[Math.floor(random() * list.length)];
}
