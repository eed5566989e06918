/** What install and uninstall leave behind, and what doctor says, on a real machine. */
import { describe, expect, test } from "vitest";
import { bootMachine, type Account } from "./machine.ts";

const machine = await bootMachine();
await machine.install();

type Report = { errors: number; checks: { check: string; level: string; text: string; hints: string[] }[] };

async function doctor(
  account: Account,
): Promise<{ status: number | null; levels: Record<string, string>; report: Report }> {
  const { status, stdout } = await machine.run(account, "leger doctor --json", { mayFail: true });
  const report: Report = JSON.parse(stdout);
  return {
    status,
    report,
    levels: Object.fromEntries(report.checks.map(({ check, level }) => [check, level])),
  };
}

/** Of a minimal machine in a namespace there is no time service; before 4.5 Podman has no secrets in quadlets. */
const KNOWN = { clock: "warning", ...(machine.can("secret exists") ? {} : { podman: "warning" }) };

describe.for<[Account, string, string[]]>([
  ["user", "systemctl --user", ["/home/alice/.config", "/home/alice/.local/state/leger"]],
  ["root", "systemctl", ["/etc/containers", "/etc/systemd/system", "/var/lib/leger"]],
])("%s", ([account, systemctl, places]) => {
  /** Every file, with its mode and what is in it, and how the units are switched. */
  const state = async (): Promise<string> => {
    const files = `find ${places.join(" ")} -printf '%p %M %u %l\\n' -type f -exec sha256sum {} + | sort`;
    const units = `${systemctl} show --property=UnitFileState,ActiveState legerd.socket legerd.service`;
    return (await machine.run(account, `${files}; ${units}`, { mayFail: true })).stdout;
  };

  test("doctor says how to begin; install does that; uninstall leaves all as it was", async () => {
    const fresh = await doctor(account);
    expect(fresh.status).toBe(2);
    expect(fresh.levels).toMatchObject({ legerd: "error", unit: "warning", driver: "note", runtime: "ok" });
    expect(fresh.report.checks[0]?.hints).toEqual([`${systemctl} enable --now legerd.socket`]);
    const before = await state();

    await machine.run(account, "leger podman install");
    const installed = await state();
    expect(installed).not.toBe(before);
    const well = await doctor(account);
    expect(well.levels).toMatchObject({ legerd: "ok", socket: "ok", unit: "ok", driver: "ok", ...KNOWN });
    const known = new Set(Object.keys(KNOWN));
    expect(well.report.checks.filter(({ check, level }) => level === "warning" && !known.has(check))).toEqual(
      [],
    );
    expect(well.status).toBe(0);

    const second = await machine.run(account, "leger podman install");
    expect(second.stderr).toContain("nothing changed");
    // The service was started meanwhile; the rest is the same.
    expect((await state()).split("\n\n")[0]).toBe(installed.split("\n\n")[0]);

    await machine.run(account, "leger podman uninstall");
    expect(await state()).toBe(before);
  });

  test("podman's default driver is leger's from install to uninstall", async () => {
    const driver = async (): Promise<string | undefined> =>
      /--driver string .*\(default "(\w+)"\)/.exec(
        (await machine.run(account, "podman secret create --help")).stdout,
      )?.[1];
    expect(await driver()).toBe("file");
    await machine.run(account, "leger podman install");
    expect(await driver()).toBe("shell");
    await machine.run(account, "leger podman uninstall");
    expect(await driver()).toBe("file");
  });
});

test("for a user without a session each thing has its line, and what is missing is said", async () => {
  await machine.root("useradd --create-home bob");
  const env = "env -i PATH=/usr/bin:/bin HOME=/home/bob";
  const asBob = `${env} setpriv --reuid=bob --regid=bob --init-groups`;
  const { status, stdout } = await machine.root(`${asBob} leger doctor --json`, { mayFail: true });
  const report: Report = JSON.parse(stdout);
  const told = (name: string) => report.checks.find(({ check }) => check === name);
  expect(status).toBe(2);
  expect(told("linger")).toMatchObject({ level: "warning", hints: ["loginctl enable-linger"] });
  expect(told("runtime")).toMatchObject({
    level: "error",
    text: expect.stringContaining("/run/user/1001 isn't there"),
  });
  expect(told("unit")).toMatchObject({
    level: "note",
    text: expect.stringContaining("systemd cannot be asked"),
  });
  expect(report.checks.filter(({ text }) => text.includes("internal error"))).toEqual([]);

  const install = await machine.root(`${asBob} leger podman install`, { mayFail: true });
  expect(install).toMatchObject({ status: 0, stderr: expect.stringContaining("systemd cannot be asked") });
  expect((await machine.root(`${asBob} leger podman uninstall`)).stdout).toContain("removed");
  expect(
    (await machine.root("ls -A /home/bob | grep -v '^\\.bash\\|^\\.profile'", { mayFail: true })).stdout,
  ).toBe("");
});
