/** machine — a booted Debian 13 with the built package in it, and alice with secrets in her legerd. */
import * as fs from "node:fs";
import path from "node:path";
import { machinesObstacle, withMachines } from "../../scripts/machine/host.ts";
import { LegerError } from "../../src/core/error.ts";
import { VERSION } from "../../src/core/version.ts";
import { startMachine, type Machine } from "../../test/system/machine.ts";
import { settle, type Owner } from "../../test/system/owner.ts";
import type { Runner } from "../support/measure.ts";
import { BUILT, builtVersion } from "../support/stage.ts";
import { entriesOf, secretName, VALUES, type Way } from "./drivers.ts";

const DEB = path.join(
  path.dirname(BUILT),
  `leger_${VERSION}_${process.arch === "x64" ? "amd64" : process.arch}.deb`,
);

export function machineObstacle(): string | undefined {
  const none = `no ${path.basename(DEB)} in dist: npm run build && npm run package`;
  return machinesObstacle() ?? (fs.existsSync(DEB) ? undefined : none);
}

export type Alice = {
  machine: Machine;
  owner: Owner;
  env: Record<string, string>;
  /** Runs cases as alice, before all else that goes on. */
  runner: Runner;
};

/** Boots one, and `use`s it. */
export async function withAlice<T>(ways: readonly Way[], use: (alice: Alice) => Promise<T>): Promise<T> {
  return withMachines("trixie", async (root, machines) => {
    const machine = await startMachine({ root, release: "trixie", directory: `${machines}-bench` });
    try {
      return await use(await prepare(machine, ways));
    } finally {
      await machine.stop();
    }
  });
}

async function prepare(machine: Machine, ways: readonly Way[]): Promise<Alice> {
  await machine.install(DEB);
  const { stdout: installed } = await machine.user("leger --version");
  if (installed.trim() !== (await builtVersion())) {
    throw new LegerError("FAILED", "the package in dist holds another build than dist has beside it", {
      hints: ["make it anew: npm run package"],
    });
  }
  const owner = await settle(machine, "user");
  await owner.set(Object.fromEntries(VALUES.map((value, at) => [secretName(at), value])));
  const floor = "/home/alice/floor";
  await machine.user(["mkdir", "-m", "700", floor]);
  const socket = `${owner.places.runtimeDir}/leger/legerd.sock`;
  for (const way of ways) {
    for (const { options, name, payload } of entriesOf(way, { floor, socket })) {
      // The shell makes a real pipe, which this Podman wants.
      const create = 'payload=$1; shift; printf %s "$payload" | podman secret create "$@" -';
      await machine.user(["sh", "-c", create, "sh", payload, ...options, name]);
    }
  }
  await machine.root(`echo -20 >/proc/${await owner.property("legerd.service", "MainPID")}/autogroup`);
  const runner: Runner = async (file, args, { stdin, timeoutMs }) => {
    const { stdout } = await machine.root(["sh", "-c", AS_ALICE, "sh", file, ...args], { stdin, timeoutMs });
    return stdout;
  };
  return { machine, owner, env: machine.environment("user"), runner };
}

/** As `runHere` does, with the rights of root for that. */
const AS_ALICE =
  '{ echo -20 >/proc/self/autogroup; } 2>/dev/null; cd /home/alice && exec setpriv --reuid=1000 --regid=1000 --init-groups -- "$@"';
