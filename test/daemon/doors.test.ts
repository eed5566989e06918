import { chmodSync, mkdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { DoorConfig, RouteGroup } from "../../src/daemon/config.ts";
import { routes, type Route } from "../../src/daemon/routes.ts";
import { startTestLegerd, type Places, type TestLegerd } from "../support/legerd.ts";
import { sendRaw, type RawAnswer } from "../support/raw-http.ts";

const VISIBLE = "leger/local/visible";
const HIDDEN = "leger/local/hidden";
const CANARY = "canary-of-the-hidden-secret";
const LINK = "0123456789abcdef012345678";
const KEPT = "fedcba9876543210fedcba987";
const SETEC_HEADERS = { "Content-Type": "application/json", "Sec-X-Tailscale-No-Browsers": "setec" };

function restrictedDoor({ runtimeDir }: Places, opened: readonly RouteGroup[]): DoorConfig {
  const grants = [{ action: ["get", "info"], secret: [VISIBLE] }];
  const unix = `${runtimeDir}/guest/legerd.sock`;
  return { unix, mode: 0o600, principal: "guest", grants, routes: opened };
}

/** A daemon with an owner's door and a guest's, who may get and see one secret of two. */
async function startWithGuest(opened: readonly RouteGroup[] = ["podman", "services"]): Promise<TestLegerd> {
  const daemon = await startTestLegerd(
    { [VISIBLE]: "for all", [HIDDEN]: CANARY },
    {
      doors: (places) => [
        { unix: places.socket, mode: 0o600, principal: "owner", grants: undefined },
        restrictedDoor(places, opened),
      ],
    },
  );
  const owner = (method: string, path: string, body: string, headers = {}): Promise<RawAnswer> =>
    sendRaw(daemon.socket, { method, path, headers, body: Buffer.from(body) });
  await owner("PUT", "/v1/services/mixed", JSON.stringify({ variables: { A: VISIBLE, B: HIDDEN } }));
  await owner("PUT", "/v1/services/open", JSON.stringify({ variables: { A: VISIBLE } }));
  await owner("POST", "/v1/podman/store", `leger-ref:v1:${HIDDEN}`, { "leger-secret-id": LINK });
  await owner("POST", "/v1/podman/store", CANARY, { "leger-secret-id": KEPT });
  return daemon;
}

function asGuest({ runtimeDir }: TestLegerd, method: string, path: string, extra = {}): Promise<RawAnswer> {
  const body = JSON.stringify({ Name: HIDDEN, Version: 1, Value: "eA==", variables: { X: HIDDEN } });
  return sendRaw(`${runtimeDir}/guest/legerd.sock`, {
    method,
    path,
    headers: { ...SETEC_HEADERS, "leger-secret-id": LINK, ...extra },
    ...(method === "GET" ? {} : { body: Buffer.from(body) }),
  });
}

test("every route names what it needs", () => {
  for (const { path, needs } of routes) {
    expect(needs, path).toSatisfy(
      (word: Route["needs"]) => word === "nothing" || word === "owner" || typeof word.action === "string",
    );
  }
});

/** What a guest is told where a route touches a secret that their grants leave out. */
const GUEST_SEES: Record<string, number> = {
  "POST /api/list": 200,
  "GET /health": 200,
  "GET /v1/services": 200,
  "GET /v1/services/NAME": 404,
  "GET /v1/services/NAME/credentials": 404,
};

let shared: TestLegerd;
beforeAll(async () => {
  shared = await startWithGuest();
});
afterAll(() => shared[Symbol.asyncDispose]());

// All on one daemon: a guest who changed anything would be noticed by the next.
test.for(routes)(
  "a door with grants gives nothing of another secret through $method $path",
  async (route) => {
    const daemon = shared;
    const before = await daemon.client.list();
    for (const extra of [{}, { "leger-secret-id": KEPT }]) {
      const answer = await asGuest(daemon, route.method, route.path.replace("NAME", "mixed"), extra);
      expect(answer.status).toBe(GUEST_SEES[`${route.method} ${route.path}`] ?? 403);
      expect(answer.body.toString()).not.toContain(CANARY);
      if (!route.path.endsWith("NAME")) expect(answer.body.toString()).not.toContain("secrets_count");
      if (route.path === "/api/list") expect(answer.body.toString()).not.toContain(HIDDEN);
      if (route.path === "/v1/services") expect(JSON.parse(answer.body.toString()).services).toHaveLength(1);
    }
    expect(await daemon.client.list()).toEqual(before);
    const services = await sendRaw(daemon.socket, { method: "GET", path: "/v1/services" });
    expect(JSON.parse(services.body.toString()).services).toHaveLength(2);
    const links = await sendRaw(daemon.socket, { method: "GET", path: "/v1/podman/list" });
    expect(JSON.parse(links.body.toString()).entries).toHaveLength(2);
  },
);

test("a door with grants gives what they allow, by every route", async () => {
  await using daemon = await startWithGuest();
  const env = await asGuest(daemon, "GET", "/v1/services/open/env");
  expect(env.body.toString()).toBe("A=for all\n");
  expect(env.headers.get("leger-versions")).toBe("A=1");
  const shown = await asGuest(daemon, "GET", "/v1/services/open");
  expect(JSON.parse(shown.body.toString())).toEqual({ name: "open", variables: { A: VISIBLE } });
});

test("leger's own routes are closed at a door with grants until its configuration opens them", async () => {
  await using daemon = await startWithGuest([]);
  for (const { method, path, group } of routes) {
    const answer = await asGuest(daemon, method, path.replace("NAME", "open"));
    const text = answer.body.toString();
    if (group === "always") expect(text, path).not.toContain("not open at this door");
    else expect([answer.status, text], path).toEqual([403, expect.stringContaining("not open at this door")]);
  }
  expect(JSON.parse((await asGuest(daemon, "GET", "/health")).body.toString())).toEqual({ status: "ok" });
});

test("a door may be opened for the status and the audit log", async () => {
  await using daemon = await startWithGuest(["status", "audit"]);
  expect(JSON.parse((await asGuest(daemon, "GET", "/v1/status")).body.toString())).toMatchObject({
    secrets: 2,
  });
  expect(JSON.parse((await asGuest(daemon, "GET", "/v1/audit/verify")).body.toString())).toMatchObject({
    ok: true,
  });
  expect((await asGuest(daemon, "GET", "/v1/services")).status).toBe(403);
});

test.for([
  [0o600, 0o700],
  [0o660, 0o710],
  [0o666, 0o711],
] as const)("the directory of a door of mode %o lets in whom the door does", async ([mode, directory]) => {
  const group = String(process.getgid?.() ?? 0);
  const doors = (places: Places): DoorConfig[] => [
    { unix: places.socket, mode: 0o600, principal: "owner", grants: undefined },
    { unix: `${places.runtimeDir}/doors/x/legerd.sock`, mode, principal: "x", grants: [], group },
  ];
  await using daemon = await startTestLegerd({}, { doors });
  const at = `${daemon.runtimeDir}/doors/x`;
  expect(statSync(at).mode & 0o777).toBe(directory);
  expect(statSync(`${at}/legerd.sock`).mode & 0o777).toBe(mode);
});

test.for([
  ["a file", (at: string) => writeFileSync(`${at}/legerd.sock`, "")],
  ["a directory", (at: string) => mkdirSync(`${at}/legerd.sock`)],
  ["a link to another door", (at: string) => symlinkSync("../../legerd.sock", `${at}/legerd.sock`)],
  ["a mode by which others may write", (at: string) => chmodSync(at, 0o777)],
] as const)("a container that put %s where its door belongs has shut out itself alone", async ([, spoil]) => {
  let guest = "";
  const doors = (places: Places): DoorConfig[] => {
    guest = `${places.runtimeDir}/doors/x`;
    mkdirSync(guest, { recursive: true, mode: 0o700 });
    spoil(guest);
    return [
      { unix: `${guest}/legerd.sock`, mode: 0o600, principal: "x", grants: [] },
      { unix: places.socket, mode: 0o600, principal: "owner", grants: undefined },
    ];
  };
  await using daemon = await startTestLegerd({ [VISIBLE]: "served" }, { doors });
  expect(await daemon.client.list()).toHaveLength(1);
  expect(daemon.log.join("\n")).toMatch(
    /legerd: error: .*doors\/x.*; this door stays closed\nlegerd: hint: /,
  );
  const { doors: open } = JSON.parse(
    (await sendRaw(daemon.socket, { method: "GET", path: "/v1/doors" })).body.toString(),
  );
  expect(open).toMatchObject([{ principal: "owner" }]);
});

test("where the user's own door is spoilt legerd doesn't start", async () => {
  const started = startTestLegerd(
    {},
    {
      doors: ({ socket }) => {
        mkdirSync(socket, { recursive: true, mode: 0o700 });
        return [{ unix: socket, mode: 0o600, principal: "owner", grants: undefined }];
      },
    },
  );
  await expect(started).rejects.toThrow("something that is not a socket is there");
});

test("a group that isn't there is said", async () => {
  const door = { mode: 0o660, principal: "x", grants: undefined, group: "no-such-group" };
  const started = startTestLegerd({}, { doors: ({ socket }) => [{ unix: socket, ...door }] });
  await expect(started).rejects.toThrow("there is no group no-such-group");
});

test.for([
  ["an entry of Podman's", LINK, "0123456789abcdef012345679", "POST", "/v1/podman/lookup"],
  ["a value of an entry's own", KEPT, "0123456789abcdef012345679", "POST", "/v1/podman/lookup"],
  ["a service's env file", "mixed", "nothing", "GET", "/v1/services/NAME/env"],
  ["a service", "mixed", "nothing", "GET", "/v1/services/NAME"],
] as const)(
  "a guest cannot tell %s that they may not have from one that is not there",
  async ([, there, notThere, method, path]) => {
    const tell = async (what: string): Promise<string> => {
      const answer = await asGuest(shared, method, path.replace("NAME", what), { "leger-secret-id": what });
      return `${answer.status} ${answer.body.toString()}`.replaceAll(what, "WHAT");
    };
    const told = await tell(there);
    expect(told).toBe(await tell(notThere));
    expect(told).not.toContain(HIDDEN);
  },
);

test("a door whose principal is empty identifies nobody", async () => {
  await using daemon = await startTestLegerd(
    {},
    {
      doors: ({ socket, runtimeDir }) => [
        { unix: socket, mode: 0o600, principal: "owner", grants: undefined },
        { unix: `${runtimeDir}/nobody/legerd.sock`, mode: 0o600, principal: "", grants: undefined },
      ],
    },
  );
  for (const [method, path] of [
    ["POST", "/api/list"],
    ["GET", "/v1/services"],
    ["GET", "/v1/status"],
  ] as const) {
    const answer = await sendRaw(`${daemon.runtimeDir}/nobody/legerd.sock`, {
      method,
      path,
      headers: SETEC_HEADERS,
      body: Buffer.from("{}"),
    });
    expect([answer.status, answer.body.toString()], path).toEqual([500, "unable to identify caller\n"]);
  }
  expect(daemon.log.join("\n")).toContain("names no principal");
});

test("a door that grants what is no action starts, as with setec, and is warned of", async () => {
  await using daemon = await startTestLegerd(
    {},
    {
      doors: ({ socket }) => [
        {
          unix: socket,
          mode: 0o600,
          principal: "owner",
          grants: [{ action: ["get", "gte", "*"], secret: ["*"] }],
        },
      ],
    },
  );
  const warnings = daemon.log.filter((line) => line.includes("no action"));
  expect(warnings).toEqual([
    expect.stringContaining('grants "gte", which is no action and allows nothing'),
    expect.stringContaining('grants "*", which is no action and allows nothing'),
  ]);
});
