/** images — what Podman knows of itself and of the images that quadlets run. */
import { z } from "zod";
import { LegerError } from "../core/error.ts";
import { run, type RunOptions } from "../core/exec.ts";
import { VERSION_QUESTION, versionIn } from "../core/podman-release.ts";
import { parsePodmanVersion, type PodmanVersion } from "../render/podman-versions.ts";
import type { ImageFacts } from "../render/plan.ts";
import type { Terminal } from "./terminal.ts";
import type { CliWorld } from "./world.ts";

export class PodmanFacts {
  readonly #world: CliWorld;
  readonly #program: string;

  constructor(world: CliWorld, program: string) {
    this.#world = world;
    this.#program = program;
  }

  async version(): Promise<PodmanVersion> {
    const hints = ["say which it is: --podman-version 5.4"];
    const { args, ...running } = VERSION_QUESTION;
    let version: string | undefined;
    try {
      version = versionIn((await this.#run(args, { ...running, check: true })).stdout);
    } catch (error) {
      if (!(error instanceof LegerError)) throw error;
      throw new LegerError(error.code, error.message, { hints, cause: error });
    }
    if (version === undefined) {
      throw new LegerError("FAILED", `${this.#program} --version: its answer is not what was expected`, {
        hints,
      });
    }
    return parsePodmanVersion(version);
  }

  /** Undefined for an image that isn't there: nothing is pulled. `needsShell`: look for /bin/sh, by running it. */
  async image(
    name: string,
    { needsShell, terminal }: { needsShell: boolean; terminal: Terminal },
  ): Promise<ImageFacts | undefined> {
    const inspected = await this.#run(["image", "inspect", "--format", "{{json .Config}}", "--", name]);
    if (inspected.status !== 0) return undefined;
    const config = parseConfig(inspected.stdout);
    const hasShell = needsShell ? await this.#hasShell(name, terminal) : undefined;
    return {
      user: config.User ?? "",
      entrypoint: config.Entrypoint ?? [],
      command: config.Cmd ?? [],
      hasShell,
    };
  }

  async #hasShell(name: string, terminal: Terminal): Promise<boolean | undefined> {
    const args = [
      "run",
      "--rm",
      "--pull=never",
      "--network=none",
      "--entrypoint=/bin/sh",
      "--",
      name,
      "-c",
      ":",
    ];
    const { status } = await this.#run(args);
    if (status === 0) return true;
    // podman-run(1): 126 and 127 are the program's own failures to start, 125 is Podman's.
    if (status === 126 || status === 127) return false;
    terminal.warn(
      `could not see whether ${name} has /bin/sh`,
      `try it: podman run --rm --entrypoint=/bin/sh ${name} -c true`,
    );
    return undefined;
  }

  async #run(
    args: readonly string[],
    { check = false, env: more = {}, timeoutMs = PODMAN_TIMEOUT_MS }: Partial<RunOptions> = {},
  ): Promise<{ status: number | null; stdout: string }> {
    const { env, cwd } = this.#world;
    const { status, stdout } = await run(this.#program, args, {
      env: { ...env, ...more },
      cwd,
      timeoutMs,
      check,
    });
    return { status, stdout: Buffer.from(stdout).toString() };
  }
}

const PODMAN_TIMEOUT_MS = 30_000;

const Words = z.array(z.string()).nullish();
const Config = z.object({ User: z.string().optional(), Entrypoint: Words, Cmd: Words });

function parseConfig(text: string): z.infer<typeof Config> {
  try {
    return Config.parse(JSON.parse(text));
  } catch {
    throw new LegerError("FAILED", "podman image inspect: its answer is not what was expected", {
      hints: ["write User=, Entrypoint= and Exec= into the quadlet, so that it need not be asked"],
    });
  }
}
