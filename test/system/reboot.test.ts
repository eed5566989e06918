import { describe, expect, test } from "vitest";
import { bootMachine } from "./machine.ts";
import { settle, type Owner } from "./owner.ts";

const machine = await bootMachine();
await machine.install();

const accounts = ["user", "root"] as const;
const owners = { user: await furnish("user"), root: await furnish("root") };
await machine.reboot();

async function furnish(account: (typeof accounts)[number]): Promise<Owner> {
  const owner = await settle(machine, account);
  await owner.set({ openai_api_key: "sk-proj-before", hf_token: "hf_1" });
  await owner.run("leger podman sync");
  await owner.run("leger services set fetched hf_token");
  const service = [
    "ExecStartPre=/usr/bin/leger secrets fetch fetched",
    "ExecStopPost=/usr/bin/leger secrets fetch fetched --remove",
  ];
  await owner.define(
    { name: "web", secrets: ["openai_api_key,type=env,target=OPENAI_API_KEY"], enabled: true },
    { name: "fetched", environmentFile: "%t/leger/env/fetched.env", service, enabled: true },
  );
  await owner.start("web.service");
  await owner.start("fetched.service");
  await owner.set({ openai_api_key: "sk-proj-after" });
  return owner;
}

describe.for(accounts)("after a reboot of the machine, %s's", (account) => {
  const owner = owners[account];
  const moment = async (unit: string, which: string): Promise<number> =>
    Number(await owner.property(unit, `${which}TimestampMonotonic`));

  test("containers have come back by themselves, each with the value of now", async () => {
    for (const unit of ["web.service", "fetched.service"]) {
      // The machine answers before all that starts by itself has started.
      await expect.poll(() => owner.property(unit, "ActiveState"), { timeout: 60_000 }).toBe("active");
    }
    const web = await owner.environment("web");
    expect(Buffer.from(web.get("OPENAI_API_KEY") ?? []).toString()).toBe("sk-proj-after");
    const fetched = await owner.environment("fetched");
    expect(Buffer.from(fetched.get("HF_TOKEN") ?? []).toString()).toBe("hf_1");
  });

  test("legerd was woken by its socket, which was there before any container began to start", async () => {
    const open = await moment("legerd.socket", "ActiveEnter");
    const woken = await moment("legerd.service", "InactiveExit");
    expect(open).toBeGreaterThan(0);
    expect(woken).toBeGreaterThan(open);
    for (const unit of ["web.service", "fetched.service"]) {
      expect(await moment(unit, "InactiveExit")).toBeGreaterThan(open);
      expect(await moment(unit, "ActiveEnter")).toBeGreaterThan(woken);
    }
  });

  test("legerd has found its store as it was", async () => {
    expect((await owner.run("leger secrets get openai_api_key")).stdout).toBe("sk-proj-after");
    expect((await owner.run("leger secrets get openai_api_key --version 1")).stdout).toBe("sk-proj-before");
    await owner.run("leger podman status");
    await owner.systemctl("stop legerd.service");
    expect((await owner.run("legerd check")).stderr).toContain("every row is as legerd wrote it");
  });
});
