import { describe, expect, test } from "vitest";
import { bootMachine } from "./machine.ts";
import { settle, type Owner } from "./owner.ts";

const machine = await bootMachine();
await machine.install();

const MINUTES = 60_000;
const VALUE = "sk-proj-1";
/** What a start must have been given, wholly. */
const SET = `OPENAI_API_KEY=${VALUE}\nHF_TOKEN=hf_1\n# leger: end of set\n`;

/** Container units of one service each, as leger renders them. */
const CONTAINERS = Array.from({ length: 50 }, (_, n) => `c${n}`);

/**
 * A unit with nothing but its credentials: the set by one connection, a file by another. It ends well whatever it was given, and
 * notes what that was: "wrong" is what nobody may ever be.
 */
const READER = `[Unit]
Wants=legerd.service
After=legerd.service
StartLimitIntervalSec=0
[Service]
Type=oneshot
LoadCredential=web.env:%t/leger/cred/web.env
LoadCredential=HF_TOKEN:%t/leger/cred/web/HF_TOKEN
Environment=DIR=%d
ExecStart=/bin/sh -c 'if cmp -s "$$DIR/web.env" "$$HOME/expected" && [ "$$(cat "$$DIR/HF_TOKEN")" = hf_1 ]; then echo %i >>"$$HOME/right"; else echo "%i $$(stat -c %%s "$$DIR/web.env" "$$DIR/HF_TOKEN" | tr "\\n" " ")" >>"$$HOME/wrong"; fi'
Restart=on-failure
RestartSec=200ms
`;

const user = await settle(machine, "user");
await user.set({ openai_api_key: VALUE, hf_token: "hf_1" });
await user.run("leger services set web openai_api_key hf_token");
await machine.write("user", "/home/alice/expected", SET);
await machine.write("user", "/home/alice/.config/systemd/user/reader@.service", READER);
// Killed again and again: it must not be given up.
await machine.write(
  "user",
  "/home/alice/.config/systemd/user/legerd.service.d/kills.conf",
  "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=50ms\n",
);
await user.systemctl("daemon-reload");

const lines = async (file: string): Promise<number> =>
  Number((await user.run(`cat ${file} 2>/dev/null | wc -l`)).stdout);

/** Starts readers, `at` of them at a time, while `meanwhile` runs in a shell; comes back once each has ended well. */
async function startReaders(
  count: number,
  { at, meanwhile = "true", timeoutMs = 5 * MINUTES }: { at: number; meanwhile?: string; timeoutMs?: number },
): Promise<{ wrong: string; failures: number; kills: number }> {
  await user.run("rm -f right wrong kills stop");
  const after = await machine.now();
  const trouble = user.run(`until [ -e stop ]; do ${meanwhile}; done`, { timeoutMs });
  for (let from = 1; from <= count; from += at) {
    const units = Array.from({ length: Math.min(at, count - from + 1) }, (_, n) => `reader@${from + n}`);
    await user.systemctl(`start --no-block ${units.join(" ")}`);
    await machine.waitFor(
      "each of them has started",
      async () => (await lines("right")) + (await lines("wrong")) >= Math.min(count, from + at - 1),
      { timeoutMs },
    );
  }
  await user.run("touch stop");
  await trouble;
  const said = await user.run(
    `journalctl --user --output=cat --no-pager --after-cursor='${after}' | grep -c 'status=243/CREDENTIALS'`,
    { mayFail: true },
  );
  const wrong = (await user.run("cat wrong 2>/dev/null", { mayFail: true })).stdout;
  expect(await lines("right")).toBeGreaterThan(0);
  return { wrong, failures: Number(said.stdout), kills: await lines("kills") };
}

test("200 units that start together each get their whole set, and none fails", async () => {
  expect(await startReaders(200, { at: 200 })).toEqual({ wrong: "", failures: 0, kills: 0 });
});

test(
  "of 1,000 units, none starts with a wrong set while legerd is killed again and again",
  async () => {
    // At any moment within two thirds of a second after it is ready, which is when those who waited for that begin.
    const meanwhile =
      "systemctl --user start legerd.service; sleep 0.$(od -An -N2 -tu2 /dev/urandom | tr -d ' '); systemctl --user kill --kill-whom=main --signal=KILL legerd.service 2>/dev/null && echo >>kills";
    const { wrong, failures, kills } = await startReaders(1_000, {
      at: 50,
      meanwhile,
      timeoutMs: 15 * MINUTES,
    });
    process.stderr.write(
      `1,000 units started while legerd was killed ${kills} times: ${failures} starts failed and were tried again, ${wrong.split("\n").length - 1} had a wrong set\n`,
    );
    expect(kills).toBeGreaterThan(20);
    expect(wrong).toBe("");
  },
  20 * MINUTES,
);

test(
  "none starts with a wrong set while legerd is stopped and started in order, or upgraded",
  async () => {
    const restarting = await startReaders(200, {
      at: 50,
      meanwhile: "systemctl --user restart legerd.service && echo >>kills; sleep 0.2",
    });
    expect(restarting.kills).toBeGreaterThan(3);
    expect(restarting.wrong).toBe("");
    const before = await user.property("legerd.service", "MainPID");
    const [upgraded] = await Promise.all([startReaders(200, { at: 50 }), machine.install()]);
    expect(upgraded.wrong).toBe("");
    expect(await user.property("legerd.service", "MainPID")).not.toBe(before);
  },
  10 * MINUTES,
);

test("the user's legerd may open as many files as the machine lets it: a socket for every service and variable", async () => {
  const pid = await user.property("legerd.service", "MainPID");
  const [, soft, hard] =
    /Max open files +(\d+) +(\d+)/.exec(await user.text(`cat /proc/${pid}/limits`)) ?? [];
  expect(Number(hard)).toBeGreaterThanOrEqual(10_000);
  expect(soft).toBe(hard);
});

test("a service whose name is as long as may be has sockets that systemd can connect to", async () => {
  const name = "n".repeat(120);
  await user.run(`leger services set ${name} OPENAI_API_KEY=openai_api_key`);
  const unit = `systemd-run --user --wait --pipe --quiet --property=LoadCredential=x:/run/user/1000/leger/cred/${name}.env`;
  expect((await user.run(`${unit} sh -c 'cat "$CREDENTIALS_DIRECTORY/x"'`)).stdout).toBe(
    `OPENAI_API_KEY=${VALUE}\n# leger: end of set\n`,
  );
  await user.run(`leger services delete ${name} --yes`);
});

test("a set of 900 KiB comes whole, and a unit of more than systemd takes fails instead of starting without", async () => {
  const value = "x".repeat(60_000);
  await user.set({ large: value });
  const names = Array.from({ length: 15 }, (_, n) => `V${n}`);
  await user.run(`leger services set large ${names.map((name) => `${name}=large`).join(" ")}`);
  const size = names.map((name) => `${name}=${value}\n`).join("").length + "# leger: end of set\n".length;
  const unit =
    "systemd-run --user --wait --pipe --quiet --property=LoadCredential=x:/run/user/1000/leger/cred/large.env";
  expect((await user.run(`${unit} sh -c 'wc -c <"$CREDENTIALS_DIRECTORY/x"'`)).stdout.trim()).toBe(
    String(size),
  );
  await user.run(`leger services set large --add ${names.map((name) => `W${name}=large`).join(" ")}`);
  expect((await user.run(`${unit} true`, { mayFail: true })).status).not.toBe(0);
  expect((await user.run("leger explain large", { mayFail: true })).stdout).toContain(
    "more than systemd takes",
  );
  await user.run("leger services delete large --yes");
});

describe.skipIf(!machine.can("quadlet drop-ins"))(
  `${CONTAINERS.length} containers in mode credential (has this release's podman drop-ins?)`,
  () => {
    const units = CONTAINERS.map((name) => `${name}.service`).join(" ");

    async function expectWhole(owner: Owner): Promise<void> {
      const script = CONTAINERS.map(
        (name) =>
          `tr '\\0' '\\n' </proc/$(podman inspect --format '{{.State.Pid}}' ${name})/environ | grep -c -x -e 'OPENAI_API_KEY=${VALUE}' -e HF_TOKEN=hf_1`,
      );
      const found = (await owner.run(script.join("\n"), { timeoutMs: 2 * MINUTES })).stdout
        .trim()
        .split("\n");
      expect(found).toEqual(CONTAINERS.map(() => "2"));
    }

    const isActive = async (): Promise<boolean> => {
      const { stdout } = await user.systemctl(`is-active ${units}`, { mayFail: true });
      return (
        stdout
          .trim()
          .split("\n")
          .filter((state) => state === "active").length === CONTAINERS.length
      );
    };
    const active = (): Promise<void> =>
      machine.waitFor("each container has started", isActive, { timeoutMs: 6 * MINUTES });

    test(
      "all come back by themselves after a reboot",
      async () => {
        const secrets = [
          "openai_api_key,type=env,target=OPENAI_API_KEY",
          "hf_token,type=env,target=HF_TOKEN",
        ];
        // What ends by itself is no matter of credentials.
        const service = ["Restart=always"];
        await user.define(...CONTAINERS.map((name) => ({ name, secrets, service, enabled: true })));
        await user.run(`leger render ${CONTAINERS.join(" ")} --mode credential --register`, {
          timeoutMs: 2 * MINUTES,
        });
        await machine.reboot();
        await active();
        await expectWhole(user);
      },
      12 * MINUTES,
    );

    test(
      "all start while legerd is restarted and killed, and each has its whole set",
      async () => {
        await user.systemctl(`stop ${units}`, { timeoutMs: 5 * MINUTES });
        await user.run("rm -f stop");
        const trouble = user.run(
          "until [ -e stop ]; do systemctl --user restart legerd.service; sleep 1; systemctl --user kill --kill-whom=main --signal=KILL legerd.service; sleep 1; done",
          { timeoutMs: 10 * MINUTES },
        );
        await user.systemctl(`start --no-block ${units}`);
        await active();
        await user.run("touch stop");
        await trouble;
        await expectWhole(user);
        await user.systemctl(`stop ${units}`, { timeoutMs: 5 * MINUTES });
      },
      15 * MINUTES,
    );
  },
);
