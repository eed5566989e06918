import * as fs from "node:fs";
import { expect, test } from "vitest";
import { bootMachine } from "./machine.ts";

const machine = await bootMachine();
const second = await bootMachine();

test("the machine has booted, with nothing failed, and alice's user manager runs", async () => {
  const failed = ["systemctl", "--failed", "--plain", "--no-legend"];
  expect((await machine.root(failed)).stdout).toBe("");
  expect((await machine.user([...failed, "--user"])).stdout).toBe("");
  expect((await machine.user("systemctl --user is-system-running")).stdout).toBe("running\n");
});

test("a second machine runs beside it, has names and files of its own, and leaves nothing behind", async () => {
  await machine.user("echo first >whose");
  expect((await second.user("ls whose", { mayFail: true })).status).not.toBe(0);
  expect((await second.root("hostname")).stdout).not.toBe((await machine.root("hostname")).stdout);
  await second.stop();
  expect(fs.existsSync(second.directory)).toBe(false);
  expect((await machine.user("cat whose")).stdout).toBe("first\n");
});

test("what a user's unit says is in the journal that its user reads, and since a moment", async () => {
  const before = await machine.now();
  // The journal of systemd 252 knows no unit of a program that has ended by the time its line is read.
  await machine.user("systemd-run --user --unit=said-1 --wait sh -c 'echo one; sleep 1'");
  const between = await machine.now();
  await machine.user("systemd-run --user --unit=said-2 --wait sh -c 'echo two; sleep 1'");
  expect(await machine.journal("user", { unit: "said-1.service", after: before })).toContain("one\n");
  expect(await machine.journal("user", { unit: "said-1.service", after: between })).toBe("");
  expect(await machine.journal("user", { after: between })).toContain("two\n");
});

test("it reboots, and keeps its files and its journal", async () => {
  await machine.write("user", "/home/alice/some/where", "kept", { mode: "600" });
  await machine.reboot();
  expect((await machine.user("cat some/where; stat -c ' %a %U' some/where")).stdout).toBe("kept 600 alice\n");
  expect((await machine.root("journalctl --list-boots --quiet | wc -l")).stdout).toBe("2\n");
});

test("a command that fails is a failure with what it said, and one that hangs ends", async () => {
  await expect(machine.user("echo no such thing >&2; exit 3")).rejects.toThrow(
    /exit status 3: no such thing$/,
  );
  await expect(machine.root("sleep 60", { timeoutMs: 500 })).rejects.toThrow("did not finish");
});

test("the package is installed, and a container of alice's runs", async () => {
  await machine.install();
  expect((await machine.user("leger --version")).stdout).toMatch(/^leger \d/);
  await machine.importImage();
  expect((await machine.user("podman run --rm localhost/bb:1 echo hello")).stdout).toBe("hello\n");
});
