import * as fs from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { answerOf, CURL_IMAGE, importCurlImage } from "./curl-image.ts";
import { bootMachine, type Account } from "./machine.ts";
import { settle } from "./owner.ts";

const machine = await bootMachine();
await machine.install();

const NAME = "leger/local/deploy_key";
const HIDDEN = "leger/local/hidden_key";
const CANARY = "canary-behind-tcp";
const BODY = JSON.stringify({ Name: NAME });
const JSON_TYPE = "Content-Type: application/json";
const NO_BROWSERS = "Sec-X-Tailscale-No-Browsers: setec";
/** Both legerds listen on one machine. */
const PORTS: Record<Account, number> = { user: 8080, root: 8090 };
const CERTIFICATES = fileURLToPath(new URL("../daemon/tls", import.meta.url));
const DROP_IN = "[Service]\nRestrictAddressFamilies=AF_INET AF_INET6\n";

describe.for(["user", "root"] as const)("%s's door on TCP", async (account) => {
  const owner = await settle(machine, account);
  const { runtimeDir, units, systemd } = owner.places;
  const home = account === "user" ? "/home/alice" : "/root";
  const config = account === "user" ? `${home}/.config/leger/legerd.json` : "/etc/leger/legerd.json";
  // The system's unit hides people's homes from legerd.
  const tlsDirectory = account === "user" ? `${home}/tls` : "/etc/leger/tls";
  const port = PORTS[account];
  const at = `127.0.0.1:${port}`;
  const host = `legerd.internal:${port}`;

  await importCurlImage(owner);
  await machine.write(account, `${units}/legerd.service.d/tcp.conf`, DROP_IN);
  await owner.systemctl("daemon-reload");
  await restartWith({ tcp: at, hosts: [host, at] });
  await owner.set({ deploy_key: "dk-1", hidden_key: CANARY });

  test("without the drop-in legerd says what is missing", async () => {
    await owner.run(`rm -r ${units}/legerd.service.d`);
    await owner.systemctl("daemon-reload; true");
    const after = await machine.now();
    try {
      await owner.systemctl("reset-failed");
      await owner.systemctl("restart legerd.service", { mayFail: true });
      expect(await owner.journal("legerd.service", after)).toMatch(
        /listen at 127\.0\.0\.1 port \d+: EAFNOSUPPORT\n.*hint: .*docs\/configuration\.md/,
      );
    } finally {
      await machine.write(account, `${units}/legerd.service.d/tcp.conf`, DROP_IN);
      await owner.systemctl("daemon-reload");
      await restartWith({ tcp: at, hosts: [host, at] });
    }
  });

  test("a token opens what it is granted, and nothing else", async () => {
    await using token = await makeToken();
    const headers = [JSON_TYPE, NO_BROWSERS, token.header];
    expect(await ask(headers)).toEqual({ status: 200, body: `{"Value":"ZGstMQ==","Version":1}` });
    const denied = await ask(headers, { body: JSON.stringify({ Name: HIDDEN }) });
    expect(denied).toEqual({ status: 403, body: "access denied\n" });
    for (const path of ["/v1/status", "/v1/tokens", "/v1/services", "/v1/audit/verify", "/v1/podman/list"]) {
      expect((await ask(headers, { method: "GET", path })).status, path).toBe(403);
    }
    expect(await ask(headers, { method: "GET", path: "/health" })).toEqual({
      status: 200,
      body: '{"status":"ok"}\n',
    });
  });

  test("Host comes first, then the token, then browsers, then what setec asks", async () => {
    await using token = await makeToken();
    const wrongHost = "Host: evil.example";
    const wrongToken = `Authorization: Bearer leger_token_${"A".repeat(43)}`;
    const browser = ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site"];
    const rows: [status: number, headers: string[], question?: { method?: string; path?: string }][] = [
      [421, [wrongHost]],
      [421, [wrongHost, token.header, NO_BROWSERS, JSON_TYPE]],
      [421, [wrongHost, wrongToken, ...browser]],
      [401, []],
      [401, [wrongToken]],
      [401, browser],
      [401, [NO_BROWSERS, JSON_TYPE]],
      [403, [token.header]],
      [403, [token.header, JSON_TYPE]],
      [403, [token.header, NO_BROWSERS, JSON_TYPE, "Origin: http://evil.example"]],
      [403, [token.header, NO_BROWSERS, JSON_TYPE, `Origin: http://${host}`]],
      [403, [token.header, NO_BROWSERS, JSON_TYPE, "Sec-Fetch-Site: same-origin"]],
      [403, [token.header], { method: "GET" }],
      [400, [token.header, NO_BROWSERS], { method: "GET" }],
      [400, [token.header, NO_BROWSERS, "Content-Type: text/plain"]],
      [200, [token.header, NO_BROWSERS, JSON_TYPE]],
    ];
    for (const path of ["/api/get", "/health", "/v1/status", "/nowhere"]) {
      for (const [status, headers, question = {}] of rows) {
        // What comes after the door's own questions is each route's own affair.
        if (path !== "/api/get" && ![421, 401, 403].includes(status)) continue;
        const answer = await ask(headers, { path, ...question });
        expect([path, headers.map(named), answer.status]).toEqual([path, headers.map(named), status]);
        if (status !== 200) expect(answer.body).not.toContain("ZGst");
      }
    }
  });

  const networks = [
    ["the host's network", "--network=host"],
    // Podman has it for users alone.
    ...(account === "user" ? [["a network of its own, by pasta", `--network=pasta:-T,${port}`]] : []),
  ];
  test.for(networks)("a container with %s gets its secret with its token", async ([, network], { skip }) => {
    await using token = await makeToken();
    const mount = `--volume=${token.file}:/run/token:ro`;
    const container = ["podman", "run", "--rm", "--cgroups=disabled", network ?? "", mount, CURL_IMAGE];
    const up = await owner.run([...container, "true"], { mayFail: true });
    skip(up.status !== 0, `Podman starts no such container here: ${up.stderr.trim().split("\n").at(-1)}`);
    const request = ["-H", "@/run/token", "-H", JSON_TYPE, "-H", NO_BROWSERS, "-d", BODY];
    const url = `http://${at}/api/get`;
    const { stdout } = await owner.run([...container, "curl", "--silent", "--fail", ...request, url]);
    expect(JSON.parse(stdout)).toMatchObject({ Value: "ZGstMQ==" });
    const without = await owner.run([...container, "curl", "--silent", "--fail", ...request.slice(2), url], {
      mayFail: true,
    });
    expect([without.status, without.stdout]).toEqual([22, ""]);
  });

  test("a revoked token is none at once, also on a connection that was opened with it", async () => {
    await using token = await makeToken();
    const script = `
      exec 3<>/dev/tcp/127.0.0.1/${port}
      ask() {
        printf 'POST /api/get HTTP/1.1\\r\\nHost: ${host}\\r\\n%s\\r\\n${JSON_TYPE}\\r\\n${NO_BROWSERS}\\r\\nContent-Length: ${BODY.length}\\r\\n\\r\\n${BODY.replaceAll("%", "%%")}' "$(cat ${token.file})" >&3
        read -r _ status _ <&3
        while read -r line <&3 && [ "$line" != $'\\r' ]; do
          case $line in [Cc]ontent-[Ll]ength:*) length=\${line##* };; esac
        done
        read -r -N "\${length%$'\\r'}" body <&3
        echo "$status"
      }
      ask; ask
      leger token revoke ${token.name} >/dev/null
      ask`;
    expect((await owner.run(["bash", "-c", script])).stdout).toBe("200\n200\n401\n");
  });

  test("a token ends when it was said to", async () => {
    await using token = await makeToken("--expires 5s");
    const headers = [JSON_TYPE, NO_BROWSERS, token.header];
    expect((await ask(headers)).status).toBe(200);
    await machine.waitFor("the token ends", async () => (await ask(headers)).status === 401);
  });

  test("any other address than loopback is refused without tls", async () => {
    try {
      for (const tcp of [`0.0.0.0:${port}`, `[::]:${port}`, `192.0.2.7:${port}`]) {
        const after = await machine.now();
        await configure({ tcp, hosts: [host] });
        await owner.systemctl("reset-failed");
        await owner.systemctl("restart legerd.service", { mayFail: true });
        expect(await owner.property("legerd.service", "ExecMainStatus")).toBe("78");
        expect(await owner.journal("legerd.service", after)).toMatch(
          /legerd: error: .* would send secrets in the clear/,
        );
      }
    } finally {
      await restartWith({ tcp: at, hosts: [host, at] });
    }
  });

  test("by TLS it takes a new certificate without a restart, and keeps the old one where the new is none", async () => {
    for (const name of ["one", "two"]) {
      await machine.write(account, `${home}/${name}.crt`, fs.readFileSync(`${CERTIFICATES}/${name}.crt`));
    }
    await useTls("one", "one");
    try {
      await restartWith({
        tcp: `0.0.0.0:${port}`,
        hosts: [host],
        tls: { certificate: `${tlsDirectory}/tls.crt`, key: `${tlsDirectory}/tls.key` },
      });
      await using token = await makeToken();
      const seen = async (name: string): Promise<number | null> => {
        const trust = ["--cacert", `${home}/${name}.crt`, "--resolve", `${host}:127.0.0.1`];
        const headers = [JSON_TYPE, NO_BROWSERS, token.header].flatMap((header) => ["-H", header]);
        const curl = [
          "curl",
          "--silent",
          "--fail",
          "--output",
          "/dev/null",
          ...trust,
          ...headers,
          "-d",
          BODY,
        ];
        return (await owner.run([...curl, `https://${host}/api/get`], { mayFail: true })).status;
      };
      expect([await seen("one"), await seen("two")]).toEqual([0, 60]);
      const pid = await owner.property("legerd.service", "MainPID");
      await useTls("two", "two");
      await machine.waitFor("the new certificate is used", async () => (await seen("two")) === 0);
      expect(await seen("one")).toBe(60);

      const after = await machine.now();
      await useTls("one", "two");
      await machine.waitFor("legerd says that it is no good", async () =>
        (await owner.journal("legerd.service", after)).includes("the old one stays"),
      );
      expect(await seen("two")).toBe(0);
      expect(await owner.property("legerd.service", "MainPID")).toBe(pid);
      // Who speaks plainly there is told nothing.
      const plain = await ask([JSON_TYPE, NO_BROWSERS, token.header]).catch(() => undefined);
      expect(plain?.status ?? 0).not.toBe(200);
    } finally {
      await restartWith({ tcp: at, hosts: [host, at] });
    }
  });

  async function useTls(certificate: string, key: string): Promise<void> {
    for (const [from, to] of [
      [`${certificate}.crt`, "tls.crt"],
      [`${key}.key`, "tls.key"],
    ] as const) {
      const pem = fs.readFileSync(`${CERTIFICATES}/${from}`);
      await machine.write(account, `${tlsDirectory}/${to}`, pem, { mode: "600" });
    }
  }

  type Token = AsyncDisposable & { name: string; header: string; file: string };

  /** A token for one secret; its file holds the whole header, for -H @FILE. */
  async function makeToken(options = ""): Promise<Token> {
    const name = "ci";
    const token = await owner.text(`leger token create ${name} --grant get:deploy_key ${options}`);
    const file = `${home}/ci.header`;
    const header = `Authorization: Bearer ${token}`;
    await machine.write(account, file, header, { mode: "600" });
    return {
      name,
      header,
      file,
      [Symbol.asyncDispose]: async () => {
        await owner.run(`leger token revoke ${name}; rm -f ${file}`, { mayFail: true });
      },
    };
  }

  /** Asks at the door as a program on the machine does. */
  async function ask(
    headers: readonly string[],
    {
      method = "POST",
      path = "/api/get",
      body = BODY,
    }: { method?: string; path?: string; body?: string } = {},
  ): Promise<{ status: number; body: string }> {
    // Without a type of ours curl would send one of its own.
    const type = headers.includes(JSON_TYPE) ? [] : ["Content-Type:"];
    const all = [`Host: ${host}`, ...type, ...headers];
    const sent = method === "GET" ? [] : ["--data", body];
    const lines = all.filter((header, index) => {
      const [name = ""] = header.split(":");
      return all.findLastIndex((other) => other.startsWith(`${name}:`)) === index;
    });
    // By its standard input: arguments can be seen by everybody on the machine.
    const { stdout } = await owner.run(
      [
        "curl",
        "--silent",
        "--max-time",
        "30",
        "--write-out",
        "\n%{http_code}",
        "-X",
        method,
        "-H",
        "@-",
        ...sent,
        `http://${at}${path}`,
      ],
      { stdin: `${lines.join("\n")}\n` },
    );
    return answerOf(stdout);
  }

  async function configure(door: object): Promise<void> {
    const own = { name: "legerd", unix: `${runtimeDir}/leger/legerd.sock`, principal: account };
    await machine.write(account, config, JSON.stringify({ doors: [own, door] }));
  }

  async function restartWith(door: object): Promise<void> {
    await configure(door);
    await owner.systemctl("reset-failed");
    await owner.start("legerd.socket");
    await owner.restart("legerd.service");
    await machine.until(account, `${systemd} is-active --quiet legerd.service`);
  }
});

/** For a failure's message, without the token. */
function named(header: string): string {
  return header.startsWith("Authorization: ") ? "Authorization" : header;
}
