/** podman — the same with a real Podman: its entries, and a container that gets a key. */

import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { LegerError } from "../../src/core/error.ts";
import { assertSame, linesOf, ROTATED, setNewValue, type Play } from "./steps.ts";
import type { Stage } from "./stage.ts";

/**
 * Shows it as one more step. Where Podman is not installed, does not work or cannot run containers, one line
 * says why, and that is no failure; what leger does wrong is one.
 */
export async function performWithPodman(play: Play): Promise<void> {
  const { stage, page } = play;
  const podman = new PrivatePodman(stage);
  const version = await podman.attempt(["version", "--format", "{{.Client.Version}}"]);
  if ("why" in version) {
    page.step("Podman itself: not here");
    page.result(
      version.missing ? "It is not installed. Step 4 ran the very commands that it would." : version.why,
    );
    return;
  }
  page.step(`Podman ${linesOf(version)[0] ?? ""} itself, in a store of its own: yours is not touched`);
  const works = await podman.attempt(["secret", "ls"]);
  if ("why" in works) return page.reason("Podman does not work here:", works.why);

  // The image needs no secret: both at the same time.
  const building = podman.buildImage();
  building.catch(() => {});
  const synced = await podman.leger(["podman", "sync"]);
  page.command("leger podman sync", synced.ms);
  const listed = await podman.run(["secret", "ls", "--format", "table {{.ID}} {{.Name}} {{.Driver}}"]);
  page.command("podman secret ls", listed.ms);
  for (const line of linesOf(listed)) page.result(line.trimEnd());

  const built = await building;
  if ("why" in built) return page.reason("Podman cannot make an image here:", built.why);
  page.command(`podman import sh.tar ${IMAGE}`, built.ms);
  page.result("this machine's /bin/sh and its libraries; nothing is downloaded");
  const container = await podman.attempt(podman.container([], ":"));
  if ("why" in container) return page.reason("Podman cannot run containers here:", container.why);

  const first = await podman.runWithKey();
  assertSame("the container's key", first.stdout, play.values.get(ROTATED));
  page.command(`podman run ${WITH_KEY} …`, first.ms);
  page.result(`the container got the exact key (${first.stdout.length} bytes)`);
  const { value, ms } = await setNewValue(play, ROTATED);
  page.command(`leger secrets set ${ROTATED} --activate`, ms);
  const second = await podman.runWithKey();
  assertSame("the next container's key", second.stdout, value);
  page.command(`podman run ${WITH_KEY} …`, second.ms);
  page.result(`the next container got the new key (${second.stdout.length} bytes)`);
}

const IMAGE = "localhost/leger-sh";
const VARIABLE = "OPENAI_API_KEY";
const WITH_KEY = `--secret ${ROTATED},type=env,target=${VARIABLE}`;

type Result = Awaited<ReturnType<Stage["run"]>>;
type Attempt = Result | { why: string; missing: boolean };

/** Podman with a store, a configuration and a runtime directory of its own, all in the stage. */
class PrivatePodman {
  readonly #stage: Stage;
  readonly #directory: string;
  readonly #options: readonly string[];
  readonly #env: Readonly<Record<string, string>>;

  constructor(stage: Stage) {
    this.#stage = stage;
    const directory = join(stage.tools, "podman");
    this.#directory = directory;
    const [root, runRoot, tmp] = [join(directory, "root"), stage.podmanRunRoot, join(directory, "tmp")];
    for (const path of [directory, root, runRoot, tmp]) mkdirSync(path, { mode: 0o700 });
    const runtime = runtimeIn(stage.env["PATH"] ?? "");
    this.#options = [
      `--root=${root}`,
      `--runroot=${runRoot}`,
      `--tmpdir=${tmp}`,
      "--storage-driver=vfs",
      // Left to itself, root's would keep its notes in /run.
      ...(runtime === undefined
        ? []
        : [`--runtime=${stage.launcher(basename(runtime), runtime, "--root", join(directory, "runtime"))}`]),
    ];

    const configuration = join(directory, "containers.conf");
    const marker = `${stage.marker.name}=${stage.marker.value}`;
    writeFileSync(configuration, containersConf(directory, basename(runtime ?? ""), marker));
    const storage = join(directory, "storage.conf");
    writeFileSync(storage, `[storage]\ndriver = "vfs"\ngraphroot = "${root}"\nrunroot = "${runRoot}"\n`);
    const { _CONTAINERS_ROOTLESS_UID: _, HOME: home = directory, ...env } = stage.env;
    // Importing asks for a policy, and not every machine has one.
    const policies = join(home, ".config/containers");
    mkdirSync(policies, { recursive: true });
    writeFileSync(join(policies, "policy.json"), '{"default": [{"type": "insecureAcceptAnything"}]}\n');
    this.#env = {
      ...env,
      HOME: home,
      CONTAINERS_CONF: configuration,
      CONTAINERS_STORAGE_CONF: storage,
      LEGER_SOCKET: join(stage.runtimeDir, "leger/legerd.sock"),
    };
  }

  async run(args: readonly string[]): Promise<Result> {
    return this.#stage.run("podman", [...this.#options, ...args], { env: this.#env });
  }

  /** A failure of Podman's is a result: the line in which it says why. */
  async attempt(args: readonly string[]): Promise<Attempt> {
    try {
      const options = { env: this.#env, check: false };
      return orWhy(await this.#stage.run("podman", [...this.#options, ...args], options), this.#stage);
    } catch (error) {
      return whyNot(error, this.#stage);
    }
  }

  /** Entries made by it are answered by this checkout, wherever leger is installed otherwise. */
  async leger(args: readonly string[]): Promise<Result> {
    const options = this.#options.map((option) => `--podman-arg=${option}`);
    return this.#stage.leger([...args, `--leger=${this.#stage.legerLauncher()}`, ...options], {
      env: this.#env,
    });
  }

  async runWithKey(): Promise<Result> {
    return this.run(this.container(WITH_KEY.split(" "), `printf %s "$${VARIABLE}"`));
  }

  /** What runs a script in a container, without what a small machine may not have. */
  container(options: readonly string[], script: string): string[] {
    const { name, value } = this.#stage.marker;
    // With the marker it can be found, and ended.
    const fixed = ["--rm", "--pull=never", "--network=none", "--no-hosts", "--security-opt=label=disable"];
    return ["run", ...fixed, `--env=${name}=${value}`, ...options, IMAGE, "/bin/sh", "-c", script];
  }

  /** An image of this machine's shell and the libraries that it loads. */
  async buildImage(): Promise<Attempt> {
    try {
      const files = join(this.#directory, "files");
      const archive = join(this.#directory, "sh.tar");
      // A shell that loads none makes ldd fail.
      const ldd = await this.#stage.run("ldd", ["/bin/sh"], { check: false });
      const libraries = Buffer.from(ldd.stdout).toString().match(LOADED) ?? [];
      for (const path of ["/bin/sh", ...libraries]) {
        mkdirSync(join(files, dirname(path)), { recursive: true });
        copyFileSync(path, join(files, path));
      }
      await this.#stage.run("tar", ["--owner=0", "--group=0", "-C", files, "-cf", archive, "."]);
      return await this.attempt(["import", archive, IMAGE]);
    } catch (error) {
      return whyNot(error, this.#stage);
    }
  }
}

/** A path and the address it was loaded at, as ldd(1) tells them. */
const LOADED = /\/\S+(?= \(0x)/g;

/** What Podman prefers, then what else it may have. */
function runtimeIn(path: string): string | undefined {
  const directories = [...path.split(":"), "/usr/bin", "/usr/sbin"];
  return ["crun", "runc"]
    .flatMap((name) => directories.map((directory) => join(directory, name)))
    .find((file) => existsSync(file));
}

/** Asks the kernel for as little as can be, so that it also works in a container or a small virtual machine. */
function containersConf(directory: string, runtime: string, marker: string): string {
  return `[containers]
cgroups = "${runtime === "crun" ? "disabled" : "enabled"}"
default_sysctls = []
default_ulimits = ["nofile=${limit("Max open files", 1_000)}", "nproc=${limit("Max processes", 5_000)}"]
keyring = false
log_driver = "none"
netns = "none"

[engine]
cgroup_manager = "cgroupfs"
conmon_env_vars = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "${marker}"]
events_logger = "none"
lock_type = "file"
static_dir = "${directory}/root/libpod"
tmp_dir = "${directory}/tmp"
volume_path = "${directory}/root/volumes"

[network]
network_config_dir = "${directory}/networks"
`;
}

/** No more than we have ourselves: raising one needs a privilege. */
function limit(name: string, most: number): string {
  const hard = new RegExp(`^${name}\\s+\\S+\\s+(\\d+)`, "m").exec(
    readFileSync("/proc/self/limits", "utf8"),
  )?.[1];
  const value = Math.min(most, Number(hard ?? most));
  return `${value}:${value}`;
}

function orWhy(result: Result, { tools }: Stage): Attempt {
  if (result.status === 0) return result;
  const said = result.stderr.trim().split("\n");
  const line = said.find((candidate) => candidate.startsWith("Error: ")) ?? said.at(-1) ?? "";
  const why = line
    .replace(/^Error: (OCI runtime error: )?/, "")
    .replaceAll(`${tools}/`, "")
    .replaceAll(/\p{Cc}/gu, " ");
  return {
    why: why === "" ? `it ended with ${result.signal ?? `exit status ${result.status}`}` : why,
    missing: false,
  };
}

function whyNot(error: unknown, stage: Stage): Attempt {
  stage.assertNotInterrupted();
  if (!(error instanceof LegerError)) throw error;
  return { why: error.message, missing: error.message.endsWith(": not found") };
}
