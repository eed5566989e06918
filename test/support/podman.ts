/** podman — whether there is a Podman here that works. */
import { execFileSync } from "node:child_process";

/** "podman version 4.3.1", or undefined where it is missing or can't even list its secrets. */
export function workingPodman(): string | undefined {
  try {
    execFileSync("podman", ["secret", "ls"], { stdio: "ignore", timeout: 20_000 });
    return execFileSync("podman", ["--version"], { encoding: "utf8" }).trim();
  } catch {
    return undefined;
  }
}
