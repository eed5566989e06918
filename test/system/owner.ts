/** owner — whoever has secrets and containers on a machine: alice with her own legerd, or root with the system's. */
import type { Account, CommandOptions, CommandResult, Command, Machine } from "./machine.ts";

/** A container of an owner's, as a unit. */
export type ContainerUnit = {
  /** Of the container, and of its unit with ".service" behind. */
  name: string;
  /** As in `--secret`: "openai_api_key,type=env,target=OPENAI_API_KEY". */
  secrets?: readonly string[];
  /** An env file for the container. */
  environmentFile?: string;
  /** More options of `podman run`. */
  podmanArgs?: readonly string[];
  /** Lines of the unit's [Service]. */
  service?: readonly string[];
  /** The program and its arguments. Default: one that stays until it is told to end. */
  exec?: string;
  image?: string;
  /** Started at boot. */
  enabled?: boolean;
};

const PLACES = {
  user: {
    systemd: "systemctl --user",
    /** What units call %t. */
    runtimeDir: "/run/user/1000",
    state: "/home/alice/.local/state/legerd",
    storage: "/home/alice/.local/share/containers/storage",
    quadlets: "/home/alice/.config/containers/systemd",
    units: "/home/alice/.config/systemd/user",
    target: "default.target",
  },
  root: {
    systemd: "systemctl",
    runtimeDir: "/run",
    state: "/var/lib/legerd",
    storage: "/var/lib/containers/storage",
    quadlets: "/etc/containers/systemd",
    units: "/etc/systemd/system",
    target: "multi-user.target",
  },
} as const;

/** Installs the image and leger for one account of a machine with the package on it, as its README says. */
export async function settle(machine: Machine, account: Account): Promise<Owner> {
  const owner = new Owner(machine, account);
  await machine.importImage(account);
  await owner.run("leger podman install");
  return owner;
}

export type { Owner };

class Owner {
  readonly machine: Machine;
  readonly account: Account;
  readonly places: (typeof PLACES)[Account];

  constructor(machine: Machine, account: Account) {
    this.machine = machine;
    this.account = account;
    this.places = PLACES[account];
  }

  run(command: Command, options?: CommandOptions): Promise<CommandResult> {
    return this.machine.run(this.account, command, options);
  }

  async text(command: Command): Promise<string> {
    return (await this.run(command)).stdout.trim();
  }

  systemctl(args: string, options?: CommandOptions): Promise<CommandResult> {
    return this.run(`${this.places.systemd} ${args}`, options);
  }

  /** One of a unit's properties. */
  async property(unit: string, name: string): Promise<string> {
    return this.text(`${this.places.systemd} show --property=${name} --value ${unit}`);
  }

  /** Stores values under their names; what was there before is followed by a new version, which is active. */
  async set(values: Readonly<Record<string, string | Uint8Array>>): Promise<void> {
    for (const [name, stdin] of Object.entries(values)) {
      await this.run(["leger", "secrets", "set", name, "--activate"], { stdin });
    }
  }

  /** Makes containers' units known, as quadlets, or written out where this Podman has none. */
  async define(...units: readonly ContainerUnit[]): Promise<void> {
    const { quadlets, units: directory, target } = this.places;
    const written: string[] = [];
    for (const unit of units) {
      if (this.machine.can("quadlet")) {
        await this.machine.write(this.account, `${quadlets}/${unit.name}.container`, quadletOf(unit, target));
      } else {
        await this.machine.write(this.account, `${directory}/${unit.name}.service`, serviceOf(unit, target));
        if (unit.enabled === true) written.push(`${unit.name}.service`);
      }
    }
    await this.systemctl("daemon-reload");
    if (written.length > 0) await this.systemctl(`--quiet enable ${written.join(" ")}`);
  }

  /** Starts a unit and comes back once it has started; its failure comes with what is in its journal. */
  async start(unit: string): Promise<void> {
    await this.#orExplain(`start ${unit}`, unit);
  }

  async restart(unit: string): Promise<void> {
    await this.#orExplain(`restart ${unit}`, unit);
  }

  async #orExplain(verb: string, unit: string): Promise<void> {
    const after = await this.machine.now();
    const { status, stderr } = await this.systemctl(verb, { mayFail: true });
    if (status === 0) return;
    throw new Error(`${verb}: ${stderr}\n${await this.journal(unit, after)}`);
  }

  /** Starts a unit that cannot: what its journal says about that. */
  async failToStart(unit: string): Promise<string> {
    const after = await this.machine.now();
    const { status } = await this.systemctl(`start ${unit}`, { mayFail: true });
    if (status === 0) throw new Error(`${unit} has started`);
    return this.journal(unit, after);
  }

  journal(unit: string, after?: string): Promise<string> {
    return this.machine.journal(this.account, { unit, ...(after === undefined ? {} : { after }) });
  }

  /** The number of a running container's program. */
  async pidOf(container: string): Promise<string> {
    return this.text(`podman inspect --format '{{.State.Pid}}' ${container}`);
  }

  /** What a running container's program found in its environment, byte for byte. */
  async environment(container: string): Promise<Map<string, Uint8Array>> {
    const bytes = Buffer.from(await this.machine.read(`/proc/${await this.pidOf(container)}/environ`));
    const variables = new Map<string, Uint8Array>();
    for (let from = 0; from < bytes.length;) {
      const end = bytes.indexOf(0, from);
      const equals = bytes.indexOf("=", from);
      variables.set(bytes.toString("utf8", from, equals), Uint8Array.from(bytes.subarray(equals + 1, end)));
      from = end + 1;
    }
    return variables;
  }

  /** The bytes of a file as a running container's program sees it. */
  async fileIn(container: string, path: string): Promise<Uint8Array> {
    return this.machine.read(`/proc/${await this.pidOf(container)}/root${path}`);
  }
}

/** What containers on these machines cannot have, beside what containers.conf says there. */
const WITHOUT = ["--cgroups=disabled", "--network=none"];
const STAY = "stay";
const IMAGE = "localhost/bb:1";

function quadletOf({ name, secrets = [], service = [], ...unit }: ContainerUnit, target: string): string {
  const { environmentFile, podmanArgs = [], exec = STAY, image = IMAGE, enabled = false } = unit;
  return lines(
    "[Unit]",
    "StartLimitIntervalSec=0",
    "[Container]",
    `ContainerName=${name}`,
    `Image=${image}`,
    `PodmanArgs=${[...WITHOUT, ...podmanArgs].join(" ")}`,
    ...secrets.map((secret) => `Secret=${secret}`),
    ...(environmentFile === undefined ? [] : [`EnvironmentFile=${environmentFile}`]),
    `Exec=${exec}`,
    "[Service]",
    ...service,
    ...(enabled ? ["[Install]", `WantedBy=${target}`] : []),
  );
}

/** The same as "podman generate systemd --new" makes it. */
function serviceOf({ name, secrets = [], service = [], ...unit }: ContainerUnit, target: string): string {
  const { environmentFile, podmanArgs = [], exec = STAY, image = IMAGE, enabled = false } = unit;
  const options = [
    `--name=${name} --cidfile=%t/%N.ctr-id --replace --rm --sdnotify=conmon -d`,
    ...WITHOUT,
    ...podmanArgs,
    ...secrets.map((secret) => `--secret ${secret}`),
    ...(environmentFile === undefined ? [] : [`--env-file ${environmentFile}`]),
  ];
  return lines(
    "[Unit]",
    "StartLimitIntervalSec=0",
    "RequiresMountsFor=%t/containers",
    "[Service]",
    "Environment=PODMAN_SYSTEMD_UNIT=%n",
    "Type=notify",
    "NotifyAccess=all",
    "ExecStartPre=/bin/rm -f %t/%N.ctr-id",
    `ExecStart=/usr/bin/podman run ${options.join(" ")} ${image} ${exec}`,
    "ExecStop=/usr/bin/podman stop --ignore --cidfile=%t/%N.ctr-id",
    "ExecStopPost=/usr/bin/podman rm -f --ignore --cidfile=%t/%N.ctr-id",
    ...service,
    ...(enabled ? ["[Install]", `WantedBy=${target}`] : []),
  );
}

function lines(...all: readonly string[]): string {
  return `${all.join("\n")}\n`;
}
