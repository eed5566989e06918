/** samples — the files people copy: quadlets, their configuration, and the containers.conf drop-in. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { buffer, text } from "node:stream/consumers";
import { dir } from "tmp-promise";
import { describe, expect, test } from "vitest";

const root = path.join(import.meta.dirname, "..");
const quadletDir = path.join(root, "quadlets");

const TEN = [
  "anthropic_api_key",
  "civitai_token",
  "gemini_api_key",
  "groq_api_key",
  "hf_token",
  "mistral_api_key",
  "openai_api_key",
  "openrouter_api_key",
  "perplexity_api_key",
  "tavily_api_key",
];

const VERBS = ["list", "lookup", "store", "delete"] as const;

/**
 * What must not reach leger. The first eight were seen at work on a program compiled with Bun 1.4.5: they ran code, opened a
 * debugger, wrote a file, crashed it, or ended it with status 0 and no output. The others are documented by Bun, obeyed by
 * Node (where leger runs on that), or systemd's.
 */
const HAZARDS = [
  "BUN_OPTIONS",
  "BUN_BE_BUN",
  "BUN_INSPECT",
  "BUN_JSC_functionOverrides",
  "BUN_JSC_watchdog",
  "BUN_JSC_forceDiskCache",
  "BUN_BYTECODE_ORDER_OUT",
  "BUN_BYTECODE_DIGEST_OUT",
  "BUN_INSPECT_CONNECT_TO",
  "BUN_INSPECT_NOTIFY",
  "BUN_INSPECT_PRELOAD",
  "BUN_CONFIG_VERBOSE_FETCH",
  "NODE_OPTIONS",
  "NODE_PATH",
  "NODE_COMPILE_CACHE",
  "NODE_V8_COVERAGE",
  "NODE_EXTRA_CA_CERTS",
  "NODE_TLS_REJECT_UNAUTHORIZED",
  "OPENSSL_CONF",
  "NOTIFY_SOCKET",
];

type Line = { section: string; key: string; value: string };

type SecretLine = { unit: string; name: string; type: string; target: string };

const files = readdirSync(quadletDir, { withFileTypes: true })
  .flatMap((entry) => (entry.isFile() ? entry.name : []))
  .toSorted();
const unitFiles = files.filter((file) => /\.(?:container|network|volume)$/.test(file));
const containerFiles = unitFiles.filter((file) => file.endsWith(".container"));
const units = new Map(unitFiles.map((file) => [file, parseUnit(read(file))]));
const secretLines = containerFiles.flatMap((file) => values(file, "Secret").map((v) => parseSecret(file, v)));

describe("quadlets", () => {
  test("the five services and what they need are there", () => {
    expect(containerFiles).toEqual([
      "comfyui.container",
      "litellm.container",
      "openwebui.container",
      "postgres.container",
      "searxng.container",
    ]);
    expect(unitFiles).toContain("llm.network");
  });

  test.for(unitFiles)("%s has the sections of its kind, and every line stands in one", (file) => {
    const own = { container: "Container", network: "Network", volume: "Volume" }[kindOf(file)];
    const sections = new Set(units.get(file)?.map((line) => line.section));
    const allowed = ["Unit", own, ...(own === "Container" ? ["Service", "Install"] : [])];
    expect(allowed).toEqual(expect.arrayContaining([...sections]));
    expect([...sections]).toContain(own);
    expect(values(file, "Description")).toHaveLength(1);
  });

  test.for(containerFiles)("%s can be run by anybody, and only this machine reaches it", (file) => {
    expect(values(file, "Image")).toEqual([
      expect.stringMatching(/^[a-z0-9-]+(?:\.[a-z0-9-]+)+\/.+\/.+:[^/:]+$/),
    ]);
    expect(values(file, "ContainerName")).toEqual([file.replace(".container", "")]);
    expect(values(file, "Restart")).toEqual(["on-failure"]);
    expect(values(file, "WantedBy")).toEqual(["default.target"]);
    expect(Number(values(file, "TimeoutStartSec")[0])).toBeGreaterThanOrEqual(900);
    for (const port of values(file, "PublishPort")) expect(port).toMatch(/^127\.0\.0\.1:\d+:\d+$/);
  });

  test("no two services publish the same port", () => {
    const ports = containerFiles.flatMap((file) =>
      values(file, "PublishPort").map((port) => port.split(":")[1]),
    );
    expect(new Set(ports).size).toBe(ports.length);
  });

  test.for(containerFiles)("%s names only networks, volumes, files and units that are there", (file) => {
    for (const network of values(file, "Network")) expect(files).toContain(network);
    for (const volume of values(file, "Volume"))
      expect(files).toContain(volume.split(":")[0]?.replace(/^\.\//, ""));
    for (const key of ["After", "Requires", "Wants"]) {
      for (const unit of values(file, key).flatMap((value) => value.split(" "))) {
        expect(containerFiles).toContain(unit.replace(/\.service$/, ".container"));
      }
    }
  });

  test("every volume and network file is used", () => {
    const used = containerFiles.flatMap((file) => [...values(file, "Network"), ...values(file, "Volume")]);
    const names = new Set(used.map((value) => value.split(":")[0]));
    for (const file of unitFiles.filter((name) => !name.endsWith(".container")))
      expect(names).toContain(file);
  });

  test("the database, which asks for no password, is reached by LiteLLM alone", () => {
    expect(values("postgres.container", "PublishPort")).toEqual([]);
    expect(values("postgres.container", "Network")).toEqual(["llm-db.network"]);
    expect(values("llm-db.network", "Internal")).toEqual(["true"]);
    const onIt = containerFiles.filter((file) => values(file, "Network").includes("llm-db.network"));
    expect(onIt).toEqual(["litellm.container", "postgres.container"]);
  });

  test("a file is refused when a line stands outside a section, has no equals sign or goes on in the next", () => {
    expect(() => parseUnit("Image=x\n[Container]\n")).toThrow("line 1");
    expect(() => parseUnit("[Container]\nImage\n")).toThrow("line 2");
    expect(() => parseUnit("[Container\n")).toThrow("line 1");
    expect(() => parseUnit("[Container]\n\nExec=a \\\n  b\n")).toThrow("line 3");
    expect(parseUnit("# a\n[Container]\n;b\nExec=a=b\n")).toEqual([
      { section: "Container", key: "Exec", value: "a=b" },
    ]);
  });
});

describe("secrets in the quadlets", () => {
  test("are the ten, each at least once, and no other", () => {
    expect([...new Set(secretLines.map((line) => line.name))].toSorted()).toEqual(TEN);
  });

  test.for(secretLines)("$unit: $name goes to $target", ({ name, type, target }) => {
    expect(name).toMatch(/^[a-z][a-z0-9]*(?:_[a-z0-9]+)*$/);
    expect(["env", "mount"]).toContain(type);
    expect(target).toMatch(/^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*$/);
  });

  test.for(containerFiles)("%s sets no variable twice", (file) => {
    const names = [...environment(file), ...secretLines.filter((l) => l.unit === file).map((l) => l.target)];
    expect(new Set(names).size).toBe(names.length);
  });

  test("openwebui and litellm, which the quickstart registers, have some", () => {
    for (const unit of ["openwebui.container", "litellm.container"]) {
      expect(secretLines.filter((line) => line.unit === unit).length).toBeGreaterThan(1);
    }
  });

  test("every variable that LiteLLM's configuration reads is set by its quadlet, and every key is read", () => {
    const wanted = [...read("litellm-config.yaml").matchAll(/: os\.environ\/(\w+)$/gm)].map(
      (match) => match[1],
    );
    const given = secretLines.filter((line) => line.unit === "litellm.container").map((line) => line.target);
    expect(new Set(wanted)).toEqual(new Set([...environment("litellm.container"), ...given]));
  });

  test("the pre-start script of ComfyUI reads the token that its quadlet gives", () => {
    expect(read("comfyui-pre-start.sh")).toContain('"CIVITAI_TOKEN"');
    expect(environment("comfyui.container")).toContain("CIVITAI_MODELS");
  });

  test("docs/quadlets.md lists exactly these lines", () => {
    const table = readFileSync(path.join(root, "docs/quadlets.md"), "utf8")
      .split("\n")
      .map((line) => line.split("|").map((cell) => cell.trim().replaceAll("`", "")))
      .filter((cells) => cells.length === 6 && containerFiles.includes(`${cells[3]}.container`));
    let name = "";
    const listed = table.map(([, secret, , unit, target]) => {
      name = secret || name;
      return `${unit}: ${name} -> ${target}`;
    });
    const real = secretLines.map(
      (line) => `${line.unit.replace(".container", "")}: ${line.name} -> ${line.target}`,
    );
    expect(listed.toSorted()).toEqual(real.toSorted());
  });

  test.for(files)("%s holds nothing that looks like a real key", (file) => {
    expect(read(file)).not.toMatch(REAL_KEY);
  });

  test.for(["sk-proj-", "sk-ant-api03-", "AIza", "gsk_", "sk-or-v1-", "pplx-", "tvly-dev-", "hf_", ""])(
    "a key beginning with '%s' would be noticed",
    (prefix) => {
      expect(`KEY=${prefix}${"aB3dE6gH9j".repeat(4)}`).toMatch(REAL_KEY);
    },
  );
});

describe("containers.conf.d/50-leger.conf", () => {
  const conf = readFileSync(path.join(root, "containers.conf.d/50-leger.conf"), "utf8");
  const commands = new Map(
    Array.from(conf.matchAll(/^(\w+) = '([^']*)'$/gm), ([, key, value]) => [key ?? "", value ?? ""]),
  );

  test("makes the shell driver the default and gives it its four commands, nothing else", () => {
    const lines = conf.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
    expect(lines.slice(0, 3)).toEqual(["[secrets]", 'driver = "shell"', "[secrets.opts]"]);
    expect(lines).toHaveLength(7);
    expect([...commands.keys()]).toEqual(VERBS);
  });

  test.for(VERBS)("%s goes through --driver-opts in one piece", (verb) => {
    expect(commands.get(verb)).not.toMatch(/[,"=\n]/);
  });

  test("the four differ in their last word only", () => {
    const without = VERBS.map((verb) => commands.get(verb)?.replace(new RegExp(` ${verb}$`), ""));
    expect(new Set(without).size).toBe(1);
    expect(without[0]).toMatch(
      /^cd \/; \[ -e \/proc\/self\/exe \] \|\| \{[^{}]+\}; ulimit -Ss 2048 2>\/dev\/null \|\| \{[^{}]+\}; unset [A-Za-z0-9_ ]+; exec \/usr\/bin\/leger driver$/,
    );
  });

  const shells: [string, string, string[]][] = [
    ["/bin/sh", "/bin/sh", ["-c"]],
    ["dash", "/usr/bin/dash", ["-c"]],
    ["bash as sh", "/usr/bin/bash", ["-c"]],
    ["busybox ash", "/usr/bin/busybox", ["sh", "-c"]],
  ];

  describe.for(shells)("under %s", ([, shell, args]) => {
    test.skipIf(!existsSync(shell)).for(VERBS)(
      "%s becomes leger, with nothing of Bun's or Node's left",
      async (verb) => {
        await using leger = await fakeLeger();
        const hostile = Object.fromEntries(HAZARDS.map((name) => [name, "hostile"]));
        const seen = await run(shell, [...args, leger.in(commands.get(verb) ?? "")], {
          ...hostile,
          ...PODMAN_ENV,
        });
        expect(seen).toMatchObject({ status: 0, stderr: "" });
        const lines = seen.stdout.split("\n");
        expect(lines.slice(0, 4)).toEqual([
          `pid ${seen.pid}`,
          `parent ${process.pid}`,
          "cwd /",
          `argv driver ${verb}`,
        ]);
        const names = lines.slice(4).map((line) => line.split("=")[0]);
        expect(names.filter((name) => HAZARDS.includes(name ?? ""))).toEqual([]);
        for (const [name, value] of Object.entries(PODMAN_ENV)) expect(lines).toContain(`${name}=${value}`);
      },
    );
  });

  test("nothing needs to be unset for it to work", async () => {
    await using leger = await fakeLeger();
    const seen = await run("/bin/sh", ["-ec", leger.in(commands.get("lookup") ?? "")], {});
    expect(seen).toMatchObject({ status: 0, stderr: "" });
    expect(seen.stdout).toContain("argv driver lookup\n");
  });

  test("standard input and output pass through, byte for byte", async () => {
    await using leger = await fakeLeger("exec /bin/cat");
    const bytes = Buffer.from([0, 255, 10, 13, 0, 10]);
    const seen = await run("/bin/sh", ["-c", leger.in(commands.get("store") ?? "")], PODMAN_ENV, bytes);
    expect(seen.bytes.equals(bytes)).toBe(true);
  });

  test("leger's exit status is the command's", async () => {
    await using leger = await fakeLeger("exit 66");
    expect(await run("/bin/sh", ["-c", leger.in(commands.get("lookup") ?? "")], PODMAN_ENV)).toMatchObject({
      status: 66,
      stdout: "",
    });
  });

  test("a leger that isn't installed fails, and writes nothing to standard output", async () => {
    const missing = (commands.get("lookup") ?? "").replace("/usr/bin/leger", "/nowhere/leger");
    const seen = await run("/bin/sh", ["-c", missing], PODMAN_ENV);
    expect(seen).toMatchObject({ status: 127, stdout: "" });
    expect(seen.stderr).toContain("/nowhere/leger");
  });

  test("a working directory that is gone does no harm", async () => {
    await using leger = await fakeLeger();
    const gone = await dir();
    const inGone = `cd '${gone.path}' && rmdir '${gone.path}' && ${leger.in(commands.get("lookup") ?? "")}`;
    const seen = await run("/bin/sh", ["-c", inGone], PODMAN_ENV);
    expect(seen).toMatchObject({ status: 0, stderr: "" });
    expect(seen.stdout).toContain("\ncwd /\n");
  });
});

/** What Podman adds or keeps for a rootless user, as far as leger reads it. */
const PODMAN_ENV = {
  SECRET_ID: "0123456789abcdef012345678",
  XDG_RUNTIME_DIR: "/run/user/1000",
  _CONTAINERS_ROOTLESS_UID: "1000",
};

/** The providers' prefixes with a body of some length, or any long run of letters and digits. */
const REAL_KEY = /(?:sk-(?:proj|ant|or)-|AIza|gsk_|pplx-|tvly-|hf_)[\w-]{16}|[A-Za-z0-9]{40}/;

function read(file: string): string {
  return readFileSync(path.join(quadletDir, file), "utf8");
}

function kindOf(file: string): "container" | "network" | "volume" {
  if (file.endsWith(".container")) return "container";
  return file.endsWith(".network") ? "network" : "volume";
}

function values(file: string, key: string): string[] {
  return (units.get(file) ?? []).filter((line) => line.key === key).map((line) => line.value);
}

function environment(file: string): string[] {
  return values(file, "Environment").map((value) => value.split("=")[0] ?? "");
}

/** systemd.syntax(7): sections, KEY=VALUE, comments with # or ;. The samples go without continued lines. */
function parseUnit(source: string): Line[] {
  const lines: Line[] = [];
  let section = "";
  for (const [index, raw] of source.split("\n").entries()) {
    if (/^\s*(?:[#;]|$)/.test(raw)) continue;
    const head = /^\[(\w+)\]$/.exec(raw);
    const pair = /^([A-Z]\w*)=(.*[^\\\s]|)$/.exec(raw);
    if (head?.[1] !== undefined) section = head[1];
    else if (pair?.[1] !== undefined && pair[2] !== undefined && section !== "") {
      lines.push({ section, key: pair[1], value: pair[2] });
    } else throw new Error(`line ${index + 1}: neither a section, a comment nor KEY=VALUE in a section`);
  }
  return lines;
}

function parseSecret(unit: string, value: string): SecretLine {
  const [name = "", ...options] = value.split(",");
  const given = new Map(options.map((option) => option.split("=")).map(([key = "", v = ""]) => [key, v]));
  const { type = "mount", target = name, ...rest } = Object.fromEntries(given);
  if (Object.keys(rest).length > 0) throw new Error(`${unit}: Secret=${value}: unknown option`);
  return { unit, name, type, target };
}

/** A script in leger's place that says who it is and what it was given. `in` puts it into a command. */
async function fakeLeger(
  body = 'echo "pid $$"; echo "parent $PPID"; echo "cwd $PWD"; echo "argv $*"; exec /usr/bin/env',
) {
  const { path: folder } = await dir();
  const script = path.join(folder, "leger");
  await writeFile(script, `#!/bin/sh\n${body}\n`, { mode: 0o700 });
  return {
    in: (command: string) => command.replace("/usr/bin/leger", script),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true }),
  };
}

async function run(program: string, args: string[], env: NodeJS.ProcessEnv, input = Buffer.alloc(0)) {
  // Bash minds its name: as sh it reads no start-up files.
  const child = spawn(program, args, {
    argv0: program.endsWith("/bash") ? "sh" : program,
    env,
    stdio: "pipe",
  });
  // A program that doesn't read its standard input closes it.
  child.stdin.on("error", () => {}).end(input);
  const [bytes, stderr, [status]] = await Promise.all([
    buffer(child.stdout),
    text(child.stderr),
    once(child, "close"),
  ]);
  return { pid: child.pid, status: Number(status), bytes, stdout: bytes.toString(), stderr };
}
