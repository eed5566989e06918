import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { openStore, type Store } from "../../src/store/store.ts";
import { temporaryState } from "./state.ts";

const CANARIES = {
  value: "CanaryValue-pT7x",
  secondValue: "CanarySecond-Qm2k",
  keptValue: "CanaryKept-Zr8w",
  secret: "leger/local/canary_secret_vb4n",
  service: "canary_service_hj6d",
  variable: "CANARY_VARIABLE_LS9F",
  link: "canarylinkid05e1a7c3",
};

test("neither a value nor a name is legible in any file, while the store is open and after", async () => {
  using state = temporaryState();
  const store = openStore({ stateDir: state.dir });
  await useEverything(store);
  // Copied by another process: reading a file here would drop this process's locks on it.
  const open = path.join(state.parent, "open");
  execFileSync("cp", ["-a", state.dir, open]);
  await store.close();

  expect(fs.readdirSync(open).toSorted()).toContain("secrets.db-wal");
  expect(fs.statSync(path.join(open, "secrets.db-wal")).size).toBeGreaterThan(10_000);
  for (const dir of [open, state.dir]) {
    expect(found(dir)).toEqual([]);
    expect(tooOpen(dir)).toEqual([]);
  }
});

test.for([
  ["as it is", (text: string) => text],
  ["in base64", (text: string) => Buffer.from(`x${text}`).toString("base64")],
  ["in base64url", (text: string) => Buffer.from(`xy${text}`).toString("base64url")],
  ["in hex", (text: string) => Buffer.from(text).toString("hex")],
  ["in UTF-16", (text: string) => Buffer.from(text, "utf16le").toString("latin1")],
] as const)("the search would find a canary that was written %s", ([, encode]) => {
  using state = temporaryState();
  fs.writeFileSync(path.join(state.parent, "file"), `..${encode(CANARIES.value)}..`, "latin1");
  expect(found(state.parent)).toEqual(["file: value"]);
});

async function useEverything(store: Store): Promise<void> {
  const name = CANARIES.secret;
  for (let round = 0; round < 40; round += 1) {
    await store.mutate({
      do: "put",
      name,
      value: Buffer.from(round % 2 === 0 ? CANARIES.value : CANARIES.secondValue),
    });
  }
  await store.mutate({ do: "create-version", name, version: 90, value: Buffer.from(CANARIES.value) });
  await store.mutate({ do: "activate", name, version: 2 });
  await store.mutate({ do: "delete-version", name, version: 90 });
  await store.mutate({ do: "keep", id: CANARIES.link, value: Buffer.from(CANARIES.keptValue) });
  await store.mutate({ do: "link", id: `${CANARIES.link}2`, secret: name });
  const variables = { [CANARIES.variable]: name };
  await store.mutate({ do: "set-service", service: { name: CANARIES.service, variables } });
  await store.mutate({ do: "put", name: `${name}_gone`, value: Buffer.from(CANARIES.value) });
  await store.mutate({ do: "delete", name: `${name}_gone` });
  expect((await store.list()).map(({ Name }) => Name)).toEqual([name]);
  expect(Buffer.from(store.get(name).value.reveal()).toString()).toBe(CANARIES.secondValue);
}

/** Which canaries are in which file, however they are written. */
function found(dir: string): string[] {
  return filesOf(dir).flatMap((file) => {
    const content = fs.readFileSync(file, "latin1").toLowerCase();
    return Object.entries(CANARIES)
      .filter(([, canary]) => spellings(canary).some((spelling) => content.includes(spelling.toLowerCase())))
      .map(([what]) => `${path.relative(dir, file)}: ${what}`);
  });
}

function spellings(text: string): string[] {
  const bytes = Buffer.from(text);
  // Base64 of the same bytes differs by what stands before them; the ends depend on the neighbours.
  const base64 = [0, 1, 2].flatMap((shift) => {
    const coded = Buffer.concat([Buffer.alloc(shift), bytes])
      .toString("base64")
      .replaceAll("=", "");
    const inner = coded.slice(shift === 0 ? 0 : 4, -2);
    return [inner, inner.replaceAll("+", "-").replaceAll("/", "_")];
  });
  return [text, bytes.toString("hex"), Buffer.from(text, "utf16le").toString("latin1"), ...base64];
}

function tooOpen(dir: string): string[] {
  const wrongFiles = filesOf(dir).filter((file) => (fs.statSync(file).mode & 0o7777) !== 0o600);
  const directories = [dir, path.join(dir, "keys")];
  return [
    ...wrongFiles,
    ...directories.filter((directory) => (fs.statSync(directory).mode & 0o7777) !== 0o700),
  ];
}

function filesOf(dir: string): string[] {
  return fs
    .readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name));
}
