/**
 * commands — every option of leger's, and what there is right below it. A command is loaded when its name is typed:
 * to load all of them takes longer than Node does to start.
 */
import type { Argv } from "yargs";
import { BUILD } from "../core/build.ts";
import { versionLine } from "../core/version.ts";
import type { Parsing } from "./parsing.ts";
import type { SettingsFlags } from "./settings.ts";

/** Its name with its arguments, and what it does. */
export type Heading = readonly [usage: string, about: string];

type AddCommand = (leger: Argv<SettingsFlags>, heading: Heading, parsing: Parsing) => Argv<SettingsFlags>;

type Command = {
  heading: Heading;
  /** Absent where it is there by its heading alone. */
  add?: AddCommand;
};

/** In the order of help. */
const COMMANDS: readonly { heading: Heading; load: () => Promise<AddCommand> }[] = [
  {
    heading: ["secrets", "keep, read and rotate secrets"],
    load: async () => (await import("./secrets.ts")).addSecrets,
  },
  {
    heading: ["services", "say which secrets a service gets"],
    load: async () => (await import("./services.ts")).addServices,
  },
  {
    heading: ["explain <service>", "can a service have its credentials? and if not, why"],
    load: async () => (await import("./explain.ts")).addExplain,
  },
  {
    heading: ["door", "give a container a door of its own to legerd"],
    load: async () => (await import("./door.ts")).addDoor,
  },
  {
    heading: ["token", "let somebody in at a door on TCP"],
    load: async () => (await import("./token.ts")).addToken,
  },
  {
    heading: ["podman", "let podman read secrets live"],
    load: async () => (await import("./podman.ts")).addPodman,
  },
  {
    heading: ["render [quadlets..]", "switch quadlets between ways of injection"],
    load: async () => (await import("./render.ts")).addRender,
  },
  {
    heading: ["modes", "show the ways of injection and what they cost"],
    load: async () => (await import("./render.ts")).addModes,
  },
  {
    heading: ["audit", "show who asked for what"],
    load: async () => (await import("./audit.ts")).addAudit,
  },
  {
    heading: ["residue [paths..]", "find secrets that lie about in the clear"],
    load: async () => (await import("./residue.ts")).addResidue,
  },
  {
    heading: ["status", "is legerd there, and where does everything lie?"],
    load: async () => (await import("./status.ts")).addStatus,
  },
  {
    heading: ["doctor", "is all well? and if not, what to do"],
    load: async () => (await import("./doctor.ts")).addDoctor,
  },
  {
    heading: ["driver", "answer podman (for podman to call, not for you)"],
    load: async () => (await import("./secrets.ts")).addDriver,
  },
  { heading: ["version", "print leger's version"], load: async () => addVersion },
];

/** Those that one of the words names, ready to be chosen, and the others by their heading. Without words: all. */
export async function loadCommands(words?: readonly string[]): Promise<readonly Command[]> {
  return Promise.all(
    COMMANDS.map(async ({ heading, load }) => {
      const [name = ""] = heading[0].split(" ");
      return words === undefined || words.includes(name) ? { heading, add: await load() } : { heading };
    }),
  );
}

/** The manual and the shells' completions are made from them, too. */
export function addCommands(root: Argv, commands: readonly Command[], parsing: Parsing): Argv<SettingsFlags> {
  const withOptions = root
    .option("namespace", {
      type: "string",
      requiresArg: true,
      describe: "what short names belong to (LEGER_NAMESPACE, config.json; else: local)",
    })
    .option("socket", {
      type: "string",
      requiresArg: true,
      describe: "where legerd listens (LEGER_SOCKET; else: in the runtime directory)",
    })
    .option("version", { type: "boolean", global: false, describe: "Print leger's version" });
  const described: Argv<SettingsFlags> = parsing.describe(withOptions, {
    words: "",
    examples: [
      ["leger secrets set openai_api_key", "store a key; its value is asked for"],
      ["leger services set openwebui OPENAI_API_KEY=openai_api_key", "say what a service gets"],
      ["leger podman sync", "let podman read them live"],
      ["leger doctor", "is all well?"],
    ],
    notes: [
      "Exit status: 0 done, 1 failed, 2 differences or faults found, 64 usage, 65 bad data,",
      "66 no such secret, 69 legerd unreachable, 70 a bug, 74 input/output, 77 denied,",
      "78 configuration.",
    ],
  });
  return commands.reduce(
    (leger, { heading, add }) => add?.(leger, heading, parsing) ?? leger.command(...heading),
    described,
  );
}

function addVersion(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(
    usage,
    about,
    (command) =>
      parsing
        .describe(command, { words: "version", examples: [["leger version --json", "for programs"]] })
        .option("json", { type: "boolean", describe: "as JSON" }),
    ({ json }) =>
      parsing.choose(async ({ world, terminal }) => {
        if (json === true) {
          const { commit = null, bun = null } = BUILD ?? {};
          await terminal.json({ version: world.version, commit, node: process.versions.node, bun });
        } else await terminal.line(versionLine("leger"));
      }),
  );
}
