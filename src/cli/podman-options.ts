/** podman-options — which Podman, and where it finds leger: the options of the commands that have to do with it. */
import type { Argv } from "yargs";
import { driverCommands, INSTALLED_LEGER } from "./driver-commands.ts";
import type { Cli } from "./parsing.ts";
import { Podman } from "./podman-entries.ts";

export type PodmanArgs = { podman: string; "podman-arg": string[] | undefined; leger: string };

export function podmanOptions<T>(command: Argv<T>): Argv<T & PodmanArgs> {
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
      default: INSTALLED_LEGER,
      describe: "where podman finds leger; it keeps this with each entry",
    });
}

/** Throws USAGE for a --leger that Podman could not be told. */
export function podmanOf(
  { world, settings }: Cli,
  { podman, "podman-arg": podmanArgs = [], leger }: PodmanArgs,
): Podman {
  const commands = driverCommands(leger);
  return new Podman(world, { program: podman, args: podmanArgs, socket: settings.socket, commands });
}
