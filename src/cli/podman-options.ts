/** podman-options — which Podman, and where it finds leger: the options of the commands that have to do with it. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Argv } from "yargs";
import { runtimePlaces } from "../core/paths.ts";
import { driverCommands } from "./driver-commands.ts";
import type { Cli, Parsing } from "./parsing.ts";
import { Podman } from "./podman-entries.ts";
import { systemPath, type CliWorld } from "./world.ts";

export type PodmanArgs = { podman: string; "podman-arg": string[] | undefined; leger: string };

export function podmanOptions<T>({ program }: Parsing, command: Argv<T>): Argv<T & PodmanArgs> {
  return command
    .option("podman", {
      type: "string",
      requiresArg: true,
      default: "podman",
      describe: "the program to run",
    })
    .option("podman-arg", {
      type: "string",
      array: true,
      requiresArg: true,
      describe: "an option for podman itself, as in --podman-arg=--root=/srv/store; repeat it for more",
    })
    .option("leger", {
      type: "string",
      requiresArg: true,
      default: program,
      describe: "where podman finds leger; it keeps this with each entry",
    });
}

/** Throws USAGE for a --leger that Podman could not be told. `timeoutMs`: for one run of it; by default, long. */
export function podmanOf(
  { world, settings }: Cli,
  { podman, "podman-arg": podmanArgs = [], leger }: PodmanArgs,
  { timeoutMs }: { timeoutMs?: number } = {},
): Podman {
  const commands = driverCommands(leger);
  const more = timeoutMs === undefined ? {} : { timeoutMs };
  return new Podman(world, { program: podman, args: podmanArgs, socket: settings.socket, commands, ...more });
}

/** Has this account's Podman kept anything here yet? Only asking it for its entries would make its storage. */
export function podmanWasUsed(world: CliWorld, { "podman-arg": podmanArgs }: PodmanArgs): boolean {
  // It may be told another place then.
  if (podmanArgs !== undefined) return true;
  if (runtimePlaces(world).account.kind === "system") {
    return existsSync(systemPath(world, "/var/lib/containers"));
  }
  const data = world.env["XDG_DATA_HOME"] ?? join(world.env["HOME"] ?? "/", ".local", "share");
  return existsSync(join(data, "containers"));
}
