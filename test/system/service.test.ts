import { beforeEach, describe, expect, test } from "vitest";
import { bootMachine, type Account, type Command, type CommandOptions } from "./machine.ts";

const machine = await bootMachine();
await machine.install();

const PLACES = {
  root: {
    runtime: "/run/leger",
    state: "/var/lib/legerd",
    units: "/etc/systemd/system",
    config: "/etc/leger/legerd.json",
    systemctl: "systemctl",
  },
  user: {
    runtime: "/run/user/1000/leger",
    state: "/home/alice/.local/state/legerd",
    units: "/home/alice/.config/systemd/user",
    config: "/home/alice/.config/leger/legerd.json",
    systemctl: "systemctl --user",
  },
} as const satisfies Record<Account, object>;

/** Callers at once, and calls in all, while legerd is stopped and started under them. */
const CALLERS = 8;
const CALLS = 200;
const RESTARTS = 6;

describe.for(["user", "root"] as const)("%s's legerd as a service", (account) => {
  const { runtime, state, units, config, systemctl } = PLACES[account];
  const socket = `${runtime}/legerd.sock`;
  const run = (command: Command, options: CommandOptions = {}) => machine.run(account, command, options);
  const text = async (script: string): Promise<string> => (await run(script)).stdout.trim();
  const property = (name: string, unit = "legerd.service"): Promise<string> =>
    text(`${systemctl} show --property=${name} --value ${unit}`);
  /** Asks at a door whether legerd is well. */
  const health = (at = socket): string =>
    `curl --silent --fail --max-time 30 --unix-socket ${at} http://x/health`;
  const unit = (name: string, ...lines: readonly string[]): Promise<void> =>
    machine.write(account, `${units}/${name}`, `${lines.join("\n")}\n`);
  const doors = (...list: readonly object[]): Promise<void> =>
    machine.write(account, config, JSON.stringify({ doors: list }));
  const main = { name: "legerd", unix: socket, principal: "main" };

  /** As freshly installed and enabled, with legerd not running. */
  beforeEach(async () => {
    const strays = `${config} ${units}/legerd.service.d ${units}/other.socket ${units}/reader.service`;
    // One by one: the systemctl of newer releases stops none where one of them is not there.
    for (const name of ["other.socket", "reader.service", "legerd.socket", "legerd.service"]) {
      await run(`${systemctl} stop ${name}`, { mayFail: true });
    }
    await run(`rm -rf ${strays}; ${systemctl} daemon-reload; ${systemctl} reset-failed`);
    await run(`${systemctl} --quiet enable --now legerd.socket`);
  });

  test("the unit, which takes much from legerd, leaves it all that its metrics are made of", async () => {
    const told = await text(health().replace("http://x/health", "http://x/metrics"));
    for (const name of [
      "process_resident_memory_bytes",
      "process_open_fds",
      "process_max_fds",
      "legerd_state_free_bytes",
      "legerd_secrets 0",
      "legerd_connections 1",
    ]) {
      expect.soft(told).toMatch(new RegExp(`^${name}`, "m"));
    }
  });

  test.for([
    ["a stop", `${systemctl} stop legerd.service`, "inactive"],
    ["a signal sent by hand", `${systemctl} kill --signal=TERM legerd.service`, "inactive"],
  ] as const)("after %s a connection starts it again", async ([, end, then]) => {
    await run(health());
    // Told to end before it has said that it is ready, it has failed, and is started again.
    await machine.until(account, `[ "$(${systemctl} is-active legerd.service)" = active ]`);
    const before = await property("MainPID");
    await run(end);
    await machine.until(account, `[ "$(${systemctl} is-active legerd.service)" = ${then} ]`);
    expect(await property("ActiveState", "legerd.socket")).toBe("active");
    expect(await text(`stat --format='%a %U' ${socket}`)).toBe(
      `600 ${account === "root" ? "root" : "alice"}`,
    );
    await run(health());
    // It answers before it is ready, which it is once its credential sockets are there, too.
    await machine.until(account, `[ "$(${systemctl} is-active legerd.service)" = active ]`);
    expect(await property("MainPID")).not.toBe(before);
    expect(await property("Result")).toBe("success");
  });

  test("killed, it keeps nobody waiting who calls at that moment", async () => {
    await run(health());
    const before = await property("MainPID");
    await run(`${systemctl} kill --signal=KILL legerd.service; seq 20 | xargs -P 20 -I{} ${health()}`);
    expect(await property("MainPID")).not.toBe(before);
  });

  test(`restarted ${RESTARTS} times under ${CALLERS} callers, it turns none away`, async () => {
    const count = `grep --only-matching '"status":"ok"' | wc -l`;
    let isOver = false;
    const answers = run(`seq ${CALLS} | xargs -P ${CALLERS} -I{} ${health()} | ${count}`, {
      timeoutMs: 120_000,
    }).finally(() => (isOver = true));
    let underCallers = 0;
    for (let restart = 0; restart < RESTARTS; restart += 1) {
      await run(`${systemctl} restart legerd.service`);
      if (!isOver) underCallers += 1;
    }
    expect(await answers).toMatchObject({ stdout: `${CALLS}\n`, stderr: "" });
    expect(underCallers).toBeGreaterThan(0);
  });

  test("who is started after it finds every door open, also those that systemd doesn't know of", async () => {
    const own = `${runtime}/doors/own/legerd.sock`;
    await doors(main, { unix: own, principal: "own" });
    await unit(
      "reader.service",
      "[Unit]",
      "Wants=legerd.service",
      "After=legerd.service",
      "[Service]",
      "Type=oneshot",
      `ExecStart=/usr/bin/${health(own)}`,
    );
    await run(`${systemctl} daemon-reload`);
    for (let n = 0; n < 5; n += 1) {
      await run(`${systemctl} start reader.service`);
      expect(await property("StatusText")).toBe("answers at 2 doors");
      await run(`${systemctl} stop legerd.service`);
    }
  });

  test("a configuration that is wrong is named in the journal, not tried for ever, and can be mended", async () => {
    await machine.write(account, config, '{"doorz":[]}');
    const after = await machine.now();
    await run(`${systemctl} start legerd.service`, { mayFail: true });
    // Nobody waits at its socket: one start is enough.
    expect([await property("Result"), await property("ExecMainStatus"), await property("NRestarts")]).toEqual(
      ["exit-code", "78", "0"],
    );
    const { status, stderr } = await run("leger secrets list", { mayFail: true });
    expect([status, stderr]).toEqual([69, expect.stringContaining("leger: hint: ")]);
    await machine.until(account, `${systemctl} is-failed --quiet legerd.socket`);
    const said = await machine.journal(account, { unit: "legerd.service", after });
    expect(said).toContain(`legerd: error: read ${config}: `);
    expect(said).toContain('"doorz"');

    await run(`rm ${config}; ${systemctl} reset-failed legerd.service; ${systemctl} start legerd.socket`);
    await run("leger secrets list");
  });

  test("a further .socket unit opens a door that the configuration names, and no other", async () => {
    const other = `${runtime}/doors/other/legerd.sock`;
    await unit(
      "other.socket",
      "[Socket]",
      `ListenStream=${other}`,
      "FileDescriptorName=other",
      "DirectoryMode=0700",
      "SocketMode=0600",
      "Service=legerd.service",
    );
    await run(`${systemctl} daemon-reload; ${systemctl} start other.socket`);
    await doors(main);
    const after = await machine.now();
    await run(`${systemctl} start legerd.service`, { mayFail: true });
    expect(await property("ExecMainStatus")).toBe("78");
    const said = await machine.journal(account, { unit: "legerd.service", after });
    expect(said).toContain('take over socket "other": no door of the configuration has that name');

    await doors(main, { name: "other", unix: other, principal: "other" });
    await run(health(other));
    await run(health());
    // It may answer before systemd has heard that it is ready.
    await machine.until(account, `${systemctl} is-active --quiet legerd.service`);
    expect(await property("StatusText")).toBe("answers at 2 doors");
    await run(`${systemctl} stop legerd.service`);
    await run(health(other));
  });

  test("the main key may come as a credential", async () => {
    await run(["leger", "secrets", "set", "kept"], { stdin: "value-under-that-key" });
    await run(`${systemctl} stop legerd.service; mv ${state}/keys/main.key ~/main.key`);
    const credential = "LoadCredential=main.key:%h/main.key";
    await machine.write(account, `${units}/legerd.service.d/key.conf`, `[Service]\n${credential}\n`);
    try {
      await run(`${systemctl} daemon-reload`);
      expect(await text("leger secrets get kept")).toBe("value-under-that-key");
    } finally {
      await run(`${systemctl} stop legerd.service; mv ~/main.key ${state}/keys/main.key`);
    }
  });

  test("a caller in the middle of a sentence doesn't make its stop a failure", async () => {
    await run(health());
    const half = String.raw`printf "POST /api/get HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"`;
    const perl = `perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0); connect(S,pack_sockaddr_un("${socket}")) or exit 1; $|=1; syswrite(S, ${half.replace("printf ", "")}); print "sent\n"; sysread(S, $_, 1)'`;
    const caller = run(`${perl} >/tmp/half-${account}`, { mayFail: true });
    await machine.until(account, `grep -q sent /tmp/half-${account}`);
    await run(health());
    await run(`${systemctl} stop legerd.service`);
    expect([await property("Result"), await property("ExecMainStatus")]).toEqual(["success", "0"]);
    await caller;
  });
});

test("where users may not make user namespaces, a user's legerd starts all the same", async () => {
  await machine.root(
    "mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nRestrictNamespaces=~user\\n' >/etc/systemd/system/user@.service.d/none.conf && systemctl daemon-reload && systemctl restart user@1000.service",
  );
  try {
    await machine.ready();
    expect((await machine.user("unshare --user true", { mayFail: true })).status).toBe(0);
    const inside = await machine.user("systemd-run --user --quiet --wait unshare --user true", {
      mayFail: true,
    });
    expect(inside.status).not.toBe(0);
    await machine.user("systemctl --user start legerd.service && leger secrets list");
  } finally {
    await machine.root(
      "rm -r /etc/systemd/system/user@.service.d; systemctl daemon-reload; systemctl restart user@1000.service",
    );
    await machine.ready();
  }
});
