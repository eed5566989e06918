import * as fs from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { routes } from "../../src/daemon/routes.ts";
import { bootMachine, type Machine } from "./machine.ts";
import { settle } from "./owner.ts";

/** Real Chromium, without the parts that draw on a screen. */
const PACKAGES = ["chromium-headless-shell"];

const CANARY = "canary-behind-tcp";
const IN_JSON = Buffer.from(CANARY).toString("base64");
const DIRECTORY = "/var/tmp/attacker";
const LEGERD_PORT = 8080;
const ATTACKER_PORT = 7000;
const CONFIG = "/home/alice/.config/leger/legerd.json";

/** legerd's door as it is named in its configuration, and a name of the attacker's that was pointed at it. */
const DOOR = `http://door.test:${LEGERD_PORT}`;
const REBOUND = `http://evil.test:${LEGERD_PORT}`;
const ELSEWHERE = "http://elsewhere.test:9000";

/** Every name leads to the attacker's server, which hands on to legerd what isn't its page. */
const RULES = ["door.test:8080", "evil.test:8080", "elsewhere.test:9000"]
  .map((name) => `MAP ${name} 127.0.0.1:${ATTACKER_PORT}`)
  .join(",");

const booted = await bootMachine(PACKAGES).catch((error: unknown) => String(error));
const obstacle = typeof booted === "string" ? `not tried: ${booted}` : "real ones";

describe.skipIf(typeof booted === "string")(`web pages in Chromium (${obstacle})`, async () => {
  // What is in here is looked at, for its titles, also where it is skipped.
  if (typeof booted === "string") {
    test("no page gets anything", () => {});
    return;
  }
  const machine = booted;
  const { run, write } = bound(machine);
  await machine.install();
  const owner = await settle(machine, "user");
  await write(
    "/home/alice/.config/systemd/user/legerd.service.d/tcp.conf",
    "[Service]\nRestrictAddressFamilies=AF_INET AF_INET6\n",
  );
  const own = { name: "legerd", unix: "/run/user/1000/leger/legerd.sock", principal: "alice" };
  const door = {
    tcp: `127.0.0.1:${LEGERD_PORT}`,
    hosts: [`door.test:${LEGERD_PORT}`, `127.0.0.1:${LEGERD_PORT}`],
    routes: ["podman", "services", "status", "audit"],
  };
  await write(CONFIG, JSON.stringify({ doors: [own, door] }));
  await owner.systemctl("daemon-reload");
  await owner.restart("legerd.service");
  await owner.set({ deploy_key: CANARY });
  const token = await owner.text(
    "leger token create page --grant get,info,put,create-version,activate,delete:'*'",
  );

  for (const name of ["attacker.pl", "browser-page.html"]) {
    const text = fs.readFileSync(fileURLToPath(new URL(name, import.meta.url)));
    await write(`${DIRECTORY}/${name === "attacker.pl" ? name : "page.html"}`, text);
  }
  await write(`${DIRECTORY}/canary`, IN_JSON);
  await run(
    `systemd-run --user --unit=attacker perl ${DIRECTORY}/attacker.pl ${ATTACKER_PORT} ${DIRECTORY} ${LEGERD_PORT}`,
  );
  await machine.until(
    "user",
    `curl --silent --fail --output /dev/null http://127.0.0.1:${ATTACKER_PORT}/page`,
  );

  const PAGES = [
    {
      what: "a page from elsewhere at the door's own name",
      origin: ELSEWHERE,
      target: DOOR,
      refused: [401, 403],
    },
    {
      what: "a page whose name was pointed at the door (rebinding)",
      origin: REBOUND,
      target: REBOUND,
      refused: [421],
    },
    {
      what: "a page that the browser takes for the door's own",
      origin: DOOR,
      target: DOOR,
      refused: [401, 403],
    },
  ] as const;

  describe.for(PAGES)("$what", ({ origin, target, refused }) => {
    test("control: it reads and writes at an ordinary server", async () => {
      const { read, log } = await visit("ordinary", origin, target, token);
      const got = Object.entries(read)
        .filter(([, text]) => text.includes(IN_JSON))
        .map(([what]) => what);
      expect(got).toContain("fetch POST /api/get");
      expect(got).toContain("simple fetch GET /v1/status");
      if (origin === target) {
        expect(got).toContain("form /api/put");
        expect(got).toContain("frame /v1/status");
      }
      for (const { method, path } of routes) expect(log).toContain(`${method} ${path} 200`);
    });

    test.for([
      ["with a token that it somehow has", token],
      ["without a token", ""],
    ])("%s it reads nothing and changes nothing at legerd's door", async ([, has = ""]) => {
      const before = await owner.text(
        "leger secrets list --json; leger token list --json; leger services list --json",
      );
      const { read, log } = await visit("legerd", origin, target, has);
      for (const [what, text] of Object.entries(read)) {
        expect([what, text]).toEqual([
          what,
          expect.not.stringMatching(new RegExp(`${CANARY}|${IN_JSON}|secrets_count|"status"`)),
        ]);
      }
      expect(read["web socket"]).toMatch(/^failed/);
      // It did try, and got through to legerd, which said no to each of them.
      expect(log.length).toBeGreaterThan(routes.length);
      const statuses = new Set(log.map((line) => Number(line.split(" ")[2])));
      expect([...refused, 400]).toEqual(expect.arrayContaining([...statuses]));
      expect(log.filter((line) => line.endsWith(" 400"))).toEqual([]);
      expect(
        await owner.text("leger secrets list --json; leger token list --json; leger services list --json"),
      ).toBe(before);
    });
  });

  test("control: the token is good for who is no browser", async () => {
    const header = `Authorization: Bearer ${token}\nSec-X-Tailscale-No-Browsers: setec\nContent-Type: application/json\n`;
    const { stdout } = await run(
      `curl --silent --fail -H @- -d '{"Name":"leger/local/deploy_key"}' http://127.0.0.1:${LEGERD_PORT}/api/get`,
      header,
    );
    expect(JSON.parse(stdout)).toMatchObject({ Value: IN_JSON });
  });

  /** Chromium goes to the attacker's page; what that could read, and what arrived. */
  async function visit(mode: "ordinary" | "legerd", origin: string, target: string, has: string) {
    const plan = { target, token: has, routes: routes.map(({ method, path }) => ({ method, path })) };
    const url = `${origin}/page#${encodeURIComponent(JSON.stringify(plan))}`;
    await write(`${DIRECTORY}/mode`, mode);
    await run(`rm -f ${DIRECTORY}/log ${DIRECTORY}/result; touch ${DIRECTORY}/log`);
    await write(`${DIRECTORY}/url`, url);
    const chromium = `chromium-headless-shell --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir=$(mktemp -d) --remote-debugging-port=0 --host-resolver-rules="${RULES}" "$(cat ${DIRECTORY}/url)"`;
    await write(`${DIRECTORY}/browse`, `exec ${chromium}\n`);
    await run(`systemd-run --user --unit=browser --collect sh ${DIRECTORY}/browse`);
    try {
      await machine.until("user", `test -e ${DIRECTORY}/result`, { timeoutMs: 200_000 });
    } finally {
      await run("systemctl --user stop browser.service; true");
    }
    const read: Record<string, string> = JSON.parse((await run(`cat ${DIRECTORY}/result`)).stdout);
    const log = (await run(`cat ${DIRECTORY}/log`)).stdout.trim().split("\n");
    return { read, log };
  }
});

function bound(machine: Machine) {
  return {
    run: (command: string, stdin?: string) => machine.user(command, stdin === undefined ? {} : { stdin }),
    write: (file: string, text: string | Uint8Array) => machine.write("user", file, text, { mode: "600" }),
  };
}
