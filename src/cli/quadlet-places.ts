/** quadlet-places — where the quadlets are that the asking user's Podman reads. */
import { dirname } from "node:path";
import { LegerError } from "../core/error.ts";
import { homeDirectory, runtimePlaces } from "../core/paths.ts";
import type { SearchPlaces } from "../render/source.ts";
import type { CliWorld } from "./world.ts";

export function placesOf(world: CliWorld): SearchPlaces {
  const { account, runtimeDir } = runtimePlaces(world);
  if (account.kind === "system") return { kind: "system" };
  return { kind: "user", uid: account.uid, runtimeDir, configHome: configHomeOf(world) };
}

/** Without HOME there may be none. */
function configHomeOf(world: CliWorld): string | undefined {
  try {
    return dirname(homeDirectory("config", world));
  } catch (error) {
    if (error instanceof LegerError && error.code === "CONFIG") return undefined;
    throw error;
  }
}
