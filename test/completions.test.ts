import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempDisposableSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { allBelow, legerdTable, legerTable } from "../scripts/support/command-table.ts";
import { completionScripts } from "../scripts/support/completions.ts";
import { legerProgram } from "./support/cli.ts";
import { makePlaces, spawnLegerd, type SpawnedLegerd } from "./support/legerd.ts";
import { Secret } from "../src/core/secret.ts";
import { SetecClient } from "../src/setec/client.ts";

const missing = (shell: string): boolean => spawnSync(shell, ["--version"]).error !== undefined;

const scripts = await completionScripts();
const directory = mkdtempDisposableSync(path.join(tmpdir(), "leger-completions-"));
const inDirectory = (name: string): string => path.join(directory.path, name);
const places = makePlaces();
let daemon: SpawnedLegerd;

/** Names that a shell would run, or take apart. */
const HOSTILE = [`$(touch ${inDirectory("ran")})`, "`id`", "two words", "op'en"];

beforeAll(async () => {
  // A process of its own: the shells are waited for, and this one answers nobody meanwhile.
  daemon = await spawnLegerd(places);
  await using client = new SetecClient({ socketPath: places.socket });
  for (const name of ["openai_api_key", "hf_token", "user@host:8", ...HOSTILE]) {
    await client.put(`leger/local/${name}`, new Secret(Buffer.from("value")));
  }
  mkdirSync(inDirectory("bin"));
  legerProgram(inDirectory("bin"));
  // How long an answer may take is no matter here.
  writeFileSync(inDirectory("bin/timeout"), '#!/bin/sh\nshift; exec "$@"\n', { mode: 0o755 });
  mkdirSync(inDirectory("home"));
  mkdirSync(inDirectory("home/a folder"));
  writeFileSync(inDirectory("home/unique.pem"), "");
  for (const { shell, file, text } of scripts) {
    mkdirSync(inDirectory(shell), { recursive: true });
    writeFileSync(inDirectory(`${shell}/${file}`), text);
  }
  const set = spawnSync(inDirectory("bin/leger"), ["services", "set", "openwebui", "openai_api_key"], {
    env: environment(),
    encoding: "utf8",
  });
  expect(set.stderr).toContain("openwebui");
});

afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
  places[Symbol.dispose]();
  directory.remove();
});

function environment(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  return {
    PATH: `${inDirectory("bin")}:${process.env["PATH"] ?? ""}`,
    HOME: inDirectory("home"),
    LEGER_SOCKET: places.socket,
    NODE_COMPILE_CACHE: inDirectory("compiled"),
    TERM: "dumb",
    LC_ALL: "C.UTF-8",
    ...extra,
  };
}

type Ask = (line: string, env?: Readonly<Record<string, string>>) => string[];

/** What bash would offer at the end of this line. */
const askBash: Ask = (line, env) => {
  const [program = ""] = line.split(" ");
  const text = `
    source "${inDirectory(`bash/${program}`)}"
    COMP_LINE=$1 COMP_POINT=\${#1}
    _${program} ${program}
    printf '%s\\n' "\${COMPREPLY[@]}"`;
  return linesOf("bash", ["--norc", "-c", text, "bash", line], env);
};

const askFish: Ask = (line, env) => {
  const [program = ""] = line.split(" ");
  const text = `source "${inDirectory(`fish/${program}.fish`)}"; complete -C $argv[1]`;
  return linesOf("fish", ["--no-config", "-c", text, line], env).map((offer) => offer.split("\t")[0] ?? "");
};

function linesOf(shell: string, args: readonly string[], env?: Readonly<Record<string, string>>): string[] {
  const { stdout, stderr } = spawnSync(shell, args, {
    env: environment(env),
    cwd: inDirectory("home"),
    encoding: "utf8",
  });
  expect(stderr).toBe("");
  return stdout.split("\n").filter((line) => line !== "");
}

const SHELLS = [
  ["bash", askBash],
  ["fish", askFish],
] as const;

for (const [shell, ask] of SHELLS) {
  test.skipIf(missing(shell))(
    `${shell} offers every command and option, and no other (where there is ${shell})`,
    async () => {
      for (const table of [await legerTable(), await legerdTable()]) {
        for (const { words, commands, options, inherits, positionals } of allBelow(table)) {
          const line = words.join(" ");
          const below = commands.map((command) => command.words.at(-1) ?? "");
          const offered = below.length === 0 ? [] : ask(`${line} `);
          if (positionals.length > 0) expect(offered).toEqual(expect.arrayContaining(below));
          else expect(offered.toSorted()).toEqual(below.toSorted());
          const global = inherits ? table.options.filter((option) => option.global) : [];
          const flags = new Set([...options, ...global].map(({ name }) => `--${name}`));
          expect(ask(`${line} --`).toSorted(), line).toEqual([...flags].toSorted());
        }
      }
    },
  );

  test.skipIf(missing(shell))(`${shell} offers names that legerd knows (where there is ${shell})`, () => {
    const names = ["hf_token", "openai_api_key"];
    const plain = (line: string): string[] =>
      ask(line)
        .filter((name) => names.includes(name))
        .toSorted();
    expect(ask("leger secrets get op")).toEqual(["openai_api_key"]);
    expect(plain("leger secrets get ")).toEqual(names);
    expect(plain(`leger --socket ${places.socket} secrets info --json `)).toEqual(names);
    expect(ask("leger secrets set openai_api_key --fi")).toEqual(["--file"]);
    expect(ask("leger services show ")).toEqual(["openwebui"]);
    expect(ask("leger secrets fetch-for-service op")).toEqual(["openwebui"]);
    expect(ask("leger secrets activate openai_api_key ")).toEqual(["1"]);
    expect(ask("leger secrets fetch openwebui --dialect ")).toEqual(["podman", "systemd"]);
    expect(ask("leger secrets get openai_api_key ")).toEqual([]);
    expect(ask("leger services set openwebui openai_api_key hf")).toEqual(["hf_token"]);
    expect(plain("leger audit --secret ")).toEqual(names);
  });

  test.skipIf(missing(shell))(
    `${shell} offers no name that it would have to quote, and runs none (where there is ${shell})`,
    () => {
      expect(ask("leger secrets get ").filter((name) => HOSTILE.includes(name))).toEqual([]);
      expect(() => readFileSync(inDirectory("ran"))).toThrow(/ENOENT/);
    },
  );

  test.skipIf(missing(shell))(`${shell} says nothing where no legerd is (where there is ${shell})`, () => {
    expect(ask("leger secrets get ", { LEGER_SOCKET: inDirectory("nobody.sock") })).toEqual([]);
    expect(ask("leger secrets get ", { PATH: "/usr/bin:/bin" })).toEqual([]);
  });
}

const RESULTS = [
  ["commands and options", "leger secr\tli\t--js\t", "<leger><secrets><list><--json>"],
  ["a secret", "leger secrets get op\t", "<leger><secrets><get><openai_api_key>"],
  [
    "a secret behind =",
    "leger services set openwebui KEY=op\t",
    "<leger><services><set><openwebui><KEY=openai_api_key>",
  ],
  ["a name with what readline breaks at", "leger secrets get user@h\t", "<leger><secrets><get><user@host:8>"],
  [
    "an option's choice",
    "leger secrets fetch openw\t--dialect sy\t",
    "<leger><secrets><fetch><openwebui><--dialect><systemd>",
  ],
  [
    "an option's choice behind =",
    "leger secrets fetch openw\t--dialect=sy\t",
    "<leger><secrets><fetch><openwebui><--dialect=systemd>",
  ],
  ["a file", "leger secrets set k --file uni\t", "<leger><secrets><set><k><--file><unique.pem>"],
  ["a folder with a space", "leger audit --state a\t", "<leger><audit><--state><a folder>"],
  ["the daemon", "legerd ch\t--st\ta\t", "<legerd><check><--state><a folder>"],
  ["an alias", "leger secrets fetch-for-service op\t", "<leger><secrets><fetch-for-service><openwebui>"],
] as const;

/** Writes down what a command line has become. */
const show = (): string => `show() { printf '<%s>' "$@"; echo; } >>"${inDirectory("shown")}"`;

const INTERACTIVE = [
  [
    "bash",
    () => {
      const sources = ["leger", "legerd"].map((program) => `source ${inDirectory(`bash/${program}`)}`);
      const rc = [...sources, show(), "bind 'set bell-style none'", "PS1='READY> '", ""];
      writeFileSync(inDirectory("bashrc"), rc.join("\n"));
      return `bash --rcfile ${inDirectory("bashrc")} -i`;
    },
  ],
  [
    "zsh",
    () => {
      const setUp = [`fpath=(${inDirectory("zsh")} $fpath)`, "autoload -Uz compinit", "compinit -u -D"];
      const rc = [...setUp, show(), "bindkey -e", "unsetopt beep", "PS1='READY> '", ""];
      writeFileSync(inDirectory(".zshrc"), rc.join("\n"));
      return "zsh -i";
    },
  ],
] as const;

for (const [shell, start] of INTERACTIVE) {
  test.skipIf(missing(shell))(
    `${shell} completes what is typed at a terminal (where there is ${shell})`,
    async () => {
      writeFileSync(inDirectory("shown"), "");
      // Ctrl-A goes to the start of the line.
      const keys = RESULTS.map(([, typed]) => `${typed}\u0001show \r`).join("");
      await type(start(), `${keys}exit\r`);
      const shown = readFileSync(inDirectory("shown"), "utf8").trimEnd().split("\n");
      expect(shown.map((line) => line.replace("/>", ">"))).toEqual(RESULTS.map(([, , result]) => result));
    },
  );
}

/** Types this at the prompt of an interactive shell, which it must end. */
async function type(command: string, keys: string): Promise<void> {
  const child = spawn("script", ["-qec", command, "/dev/null"], {
    env: { ...environment(), ZDOTDIR: directory.path, TERM: "xterm" },
    cwd: inDirectory("home"),
    timeout: 50_000,
  });
  let screen = "";
  let asked = false;
  child.stdin.on("error", () => {});
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    screen += text;
    if (asked || !screen.includes("READY> ")) return;
    asked = true;
    child.stdin.write(keys);
  });
  await new Promise((resolve) => child.once("close", resolve));
}
