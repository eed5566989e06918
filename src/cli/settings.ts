/** settings — which namespace and which legerd: flags first, then the environment, the configuration, the default. */
import { join, resolve } from "node:path";
import { LegerError } from "../core/error.ts";
import { homeDirectory, runtimePlaces } from "../core/paths.ts";
import type { Config } from "./config.ts";
import { readJsonFile } from "./json-file.ts";
import type { CliWorld } from "./world.ts";

export type Settings = {
  namespace: string;
  /** By --namespace, that is. */
  namespaceIsForThisRun: boolean;
  socket: string;
  /** Somebody named this socket: it may then be a door that a group shares. */
  socketWasNamed: boolean;
  /** The configuration file, whether it is there or not; undefined where there is no place for one. */
  configFile: string | undefined;
};

export type SettingsFlags = { namespace?: string | undefined; socket?: string | undefined };

/** Throws CONFIG for a configuration that cannot be used, USAGE for a flag that cannot. */
export async function settingsOf(world: CliWorld, flags: SettingsFlags): Promise<Settings> {
  const configFile = configFileOf(world);
  const config = configFile === undefined ? {} : await readConfig(configFile);
  const namespace =
    checked(flags.namespace, "USAGE", "--namespace") ??
    checked(world.env["LEGER_NAMESPACE"], "CONFIG", "LEGER_NAMESPACE") ??
    config.namespace ??
    "local";
  const named = given(flags.socket) ?? given(world.env["LEGER_SOCKET"]);
  const socket = named === undefined ? runtimePlaces(world).socket : resolve(world.cwd, named);
  const namespaceIsForThisRun = given(flags.namespace) !== undefined;
  return { namespace, namespaceIsForThisRun, socket, socketWasNamed: named !== undefined, configFile };
}

/** What a namespace may be. */
export const NAMESPACE = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;

/** Without HOME there may be none; the flags and the environment still say enough. */
function configFileOf(world: CliWorld): string | undefined {
  try {
    const own = runtimePlaces(world).account.kind === "user" ? world.userConfigDir : undefined;
    return join(own ?? homeDirectory("config", world), "config.json");
  } catch (error) {
    if (error instanceof LegerError && error.code === "CONFIG") return undefined;
    throw error;
  }
}

async function readConfig(file: string): Promise<Config> {
  const json = readJsonFile(file, EXAMPLE);
  // Loaded when there is something to check: zod takes longer than all else here.
  return json === undefined ? {} : (await import("./config.ts")).parseConfig(file, json);
}

/** What a configuration that cannot be used is told. */
export const EXAMPLE = 'it reads {"namespace": "local"}';

function checked(text: string | undefined, code: "USAGE" | "CONFIG", from: string): string | undefined {
  if (given(text) === undefined) return undefined;
  if (text !== undefined && NAMESPACE.test(text)) return text;
  throw new LegerError(code, `${from} is not a namespace`, {
    hints: ["at most 64 letters, digits and . _ -, with a letter or digit first"],
  });
}

/** An empty variable is as good as none. */
function given(text: string | undefined): string | undefined {
  return text === "" ? undefined : text;
}
