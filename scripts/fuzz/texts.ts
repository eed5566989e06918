/** texts — mutated bodies, request targets, tokens, key lines, configurations and audit logs against what reads them. */
import * as fs from "node:fs";
import path from "node:path";
import { createSecretKey } from "node:crypto";
import { AUDIT_LOGS, auditFile } from "../../src/core/audit-files.ts";
import { parseConfig } from "../../src/cli/config.ts";
import { readConfig } from "../../src/daemon/config.ts";
import { asLocation, readTarget } from "../../src/daemon/target.ts";
import { newToken, Tokens } from "../../src/daemon/tokens.ts";
import { decodeRequest } from "../../src/setec/decode.ts";
import { openAuditLog } from "../../src/store/audit.ts";
import { verifyAudit } from "../../src/store/audit-verify.ts";
import { mainKeyLine, parseMainKeyLine } from "../../src/store/main-key.ts";
import { openStore } from "../../src/store/store.ts";
import { assert, mutated, randomFrom, refusedOr, withPieces, type Random, type Target } from "./target.ts";

const FIELDS = ["name", "version", "value", "updateIfChanged"] as const;

const JSON_PIECES = pieces(
  "null",
  "true",
  '"',
  "\\",
  "\\u0000",
  "\\ud83d",
  "\\u2028",
  "{",
  "}",
  "[",
  "]",
  ",",
  ":",
  "1e308",
  "-0",
  "4294967296",
  '"NAME":',
  '"Ver\u017fion":',
  "[[[[[[[[[[",
  "\u00a0",
  "=",
);

/** Bodies of setec's calls: what is written in any layout is read as it is meant; what is changed, somehow or not at all. */
export function bodyTarget(): Target {
  return {
    name: "body",
    kept: [],
    tryOne(seed) {
      const random = randomFrom(seed);
      const name = Array.from({ length: random(12) }, () => String.fromCodePoint(1 + random(0xd7ff))).join(
        "",
      );
      const version = random(2) === 0 ? random(10) : 4_294_967_295 - random(3);
      const value = Buffer.from(Array.from({ length: random(40) }, () => random(256)));
      const updateIfChanged = random(2) === 0;
      const blank = (): string => ["", " ", "\t", "\r\n"][random(4)] ?? "";
      const fields = [
        ["Name", escapedSometimes(name, random)],
        ["Version", String(version)],
        ["Value", JSON.stringify(value.toString("base64"))],
        ["UpdateIfChanged", String(updateIfChanged)],
        ["Other", '{"a":[1,-2.5e3,null,"\\u00e9"]}'],
      ];
      const members = fields.map(([key, text]) => `${blank()}"${key}"${blank()}:${blank()}${text}${blank()}`);
      const body = Buffer.from(`${blank()}{${members.join(",")}}${blank()}`);
      const decoded = decodeRequest(body, FIELDS);
      assert(
        decoded !== undefined &&
          decoded.name === name &&
          decoded.version === version &&
          Buffer.from(decoded.value).equals(value) &&
          decoded.updateIfChanged === updateIfChanged,
        `a body is read as another one: ${body.toString()}`,
      );
      const changed = decodeRequest(
        random(2) === 0 ? mutated(body, random) : withPieces(body, JSON_PIECES, random),
        FIELDS,
      );
      if (changed === undefined) return;
      assert(changed.name.isWellFormed(), "a name is not well-formed");
      assert(
        Number.isInteger(changed.version) && changed.version >= 0 && changed.version < 2 ** 32,
        "a version is out of its range",
      );
    },
  };
}

function escapedSometimes(text: string, random: Random): string {
  const escaped = JSON.stringify(text);
  return random(2) === 0
    ? escaped
    : escaped.replace(/[a-zA-Z]/g, (letter) =>
        escaped.includes("\\") ? letter : `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
      );
}

const TARGET_PIECES = pieces(
  "/",
  "//",
  "/../",
  "/./",
  "%2f",
  "%2e",
  "%",
  "%00",
  "?",
  "#",
  "*",
  "@",
  "[::1]",
  ":",
  "http://",
  " ",
);

/** Request targets: what one leads to is no redirect again, and can stand in a header. */
export function requestTarget(): Target {
  const seeds = ["/api/get", "/v1/services/web/env?export=1", "http://legerd:80/health", "*", "/static/../x"];
  return {
    name: "target",
    kept: [],
    tryOne(seed) {
      const random = randomFrom(seed);
      const bytes = withPieces(Buffer.from(seeds[random(seeds.length)] ?? ""), TARGET_PIECES, random);
      const isConnect = random(8) === 0;
      const read = readTarget(isConnect ? "CONNECT" : "GET", bytes.toString("latin1"));
      if (read === undefined || read === "*") return;
      if (!("redirect" in read)) {
        // Go leaves a CONNECT as it is.
        assert(isConnect || !/\/\.{0,2}\//.test(read.path), `a path is not clean: ${read.path}`);
        return;
      }
      assert(/^[\x20-\x7e]*$/.test(asLocation(read.redirect)), "a redirection cannot stand in a header");
    },
  };
}

/** Tokens and lines of key files: only the very one is taken. */
export async function tokenTarget(base: string): Promise<Target & AsyncDisposable> {
  const store = openStore({ stateDir: path.join(base, "tokens") });
  const [good, old] = [newToken(), newToken()];
  const grants = [{ action: ["get"], secret: ["*"] }];
  const created = new Date(0).toISOString();
  const records = [
    { name: "good", hash: good.hash, grants, created },
    { name: "old", hash: old.hash, grants, created, expires: created },
  ];
  for (const token of records) await store.mutate({ do: "create-token", token });
  const tokens = new Tokens(store);
  const key = mainKeyLine(Buffer.alloc(32, 7));
  return {
    name: "token",
    kept: [],
    tryOne(seed) {
      const random = randomFrom(seed);
      const isOld = random(4) === 0;
      const { token } = isOld ? old : good;
      const asked = mutated(Buffer.from(token), random).toString(random(2) === 0 ? "latin1" : "utf8");
      const caller = tokens.callerOf(asked, new Date(), []);
      assert((caller !== undefined) === (asked === token && !isOld), "a token is taken for another one");
      const line = mutated(Buffer.from(key), random).toString("latin1");
      const read = parseMainKeyLine(line);
      assert(read === undefined || (read.length === 32 && mainKeyLine(read) === line), "a key has two lines");
    },
    [Symbol.asyncDispose]: () => store.close(),
  };
}

const CONFIGS = [
  {
    doors: [
      { unix: "/run/leger/a/s", principal: "a" },
      {
        name: "b",
        unix: "/run/leger/b/s",
        mode: "0660",
        group: "b",
        principal: "b",
        grants: [{ action: ["get"], secret: ["x/*"] }],
        routes: ["services"],
      },
      { tcp: "127.0.0.1:8080", hosts: ["h:1"], routes: ["status"] },
      { tcp: "[::]:8443", hosts: ["h:1"], tls: { certificate: "/c", key: "/k" } },
    ],
    cache_entries: 10,
    snapshot_seconds: 1,
    audit: { max_bytes: 8_388_608, repeats_seconds: 0 },
  },
  { namespace: "leger/local", $schema: "x" },
].map((config) => Buffer.from(JSON.stringify(config)));

/** legerd.json and config.json: a configuration, or CONFIG. */
export function configTarget(base: string): Target {
  const file = path.join(base, "config.json");
  return {
    name: "config",
    // Each reading makes a schema, for which zod compiles code; legerd reads once.
    most: 10_000,
    kept: [],
    async tryOne(seed) {
      const random = randomFrom(seed);
      const template = CONFIGS[random(CONFIGS.length)] ?? Buffer.alloc(0);
      const bytes = random(2) === 0 ? mutated(template, random) : withPieces(template, JSON_PIECES, random);
      fs.writeFileSync(file, bytes);
      await refusedOr(() => readConfig(file));
      let json: unknown;
      try {
        json = JSON.parse(bytes.toString());
      } catch {
        return;
      }
      await refusedOr(() => parseConfig(file, json));
    },
  };
}

const AUDIT_PIECES = pieces(
  "\n",
  "\0",
  '"n":5,',
  '","mac":"',
  "{",
  "}",
  "\u2028",
  '{"n":1,"mac":"AAAAAAAAAAAAAAAAAAAAAA"}\n',
);

/** Audit logs: no change of one goes unseen, and legerd writes on behind it. */
export async function auditTarget(base: string): Promise<Target> {
  const stateDir = path.join(base, "audit");
  fs.mkdirSync(stateDir, { mode: 0o700 });
  const key = createSecretKey(Buffer.alloc(32, 3));
  const open = (noted?: ReturnType<typeof openAuditLog>["heads"]): ReturnType<typeof openAuditLog> =>
    openAuditLog({ stateDir, key, noted, foldMs: 0, log: () => {} });
  const audit = open();
  const entry = { principal: "owner", authorized: true, secret: "ä/\u2028" } as const;
  for (let at = 0; at < 12; at += 1) {
    await audit.append({ ...entry, action: "get", version: at });
    if (at % 3 === 0) await audit.appendChange({ ...entry, action: "put" });
  }
  audit.close();
  const { heads } = audit;
  const names = Object.values(AUDIT_LOGS);
  const whole = new Map(names.map((name) => [name, fs.readFileSync(auditFile(stateDir, name))] as const));
  return {
    name: "audit",
    kept: [],
    async tryOne(seed) {
      const random = randomFrom(seed);
      const spoilt = names[random(names.length)];
      let changed = false;
      for (const [name, bytes] of whole) {
        const now =
          name !== spoilt
            ? bytes
            : random(2) === 0
              ? mutated(bytes, random)
              : withPieces(bytes, AUDIT_PIECES, random);
        // What has no end, yet, is no line.
        if (!now.subarray(0, now.lastIndexOf(10) + 1).equals(bytes)) changed = true;
        fs.writeFileSync(auditFile(stateDir, name), now, { mode: 0o600 });
      }
      const { problems, unnumbered } = await verifyAudit({ stateDir, key, heads });
      assert(problems.length > 0 || unnumbered > 0 || !changed, "a changed log is taken for whole");
      assert(changed || problems.length === 0, `a whole log is taken for changed: ${problems[0] ?? ""}`);
      const again = open(heads);
      await again.append({ ...entry, action: "get" });
      again.close();
      await verifyAudit({ stateDir, key, heads: again.heads });
      for (const left of fs.readdirSync(stateDir)) fs.rmSync(path.join(stateDir, left));
    },
  };
}

function pieces(...texts: string[]): Buffer[] {
  return texts.map((text) => Buffer.from(text));
}
