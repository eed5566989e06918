/** token — the commands about tokens, by which somebody comes in at a door on TCP. */
import type { Argv } from "yargs";
import { LegerError } from "../core/error.ts";
import type { Heading } from "./commands.ts";
import type { Daemon } from "./daemon.ts";
import { GRANT_OPTION, parseGrant } from "./grant-option.ts";
import { momentOf } from "./moment.ts";
import { JSON_OPTION, type Cli, type Parsing } from "./parsing.ts";
import type { SettingsFlags } from "./settings.ts";

export function addToken(
  leger: Argv<SettingsFlags>,
  [usage, about]: Heading,
  parsing: Parsing,
): Argv<SettingsFlags> {
  return leger.command(usage, about, (group) =>
    parsing
      .describe(group, {
        words: "token",
        examples: [
          ["leger token create ci --grant get:deploy_key --expires 90d", "printed once, and never again"],
          ["leger token revoke ci", "at once, open connections included"],
        ],
        notes: ["A door on TCP is there where legerd.json names one. legerd keeps a hash of each token."],
      })
      .demandCommand(1, "Not enough non-option arguments")
      .command(
        "create <token>",
        "make a token and print it, once",
        (command) =>
          tokenOf(
            parsing.describe(command, {
              words: "token create",
              examples: [
                [
                  "leger token create ci --grant get:deploy_key --expires 90d > ci.token",
                  "into a file, nowhere else",
                ],
              ],
            }),
          )
            .option("grant", GRANT_OPTION)
            .option("expires", { type: "string", requiresArg: true, describe: "12h, 90d, or 2027-01-31" })
            .option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => create(cli, daemon, args)),
      )
      .command(
        "list",
        "list all tokens, without the tokens themselves",
        (command) =>
          parsing
            .describe(command, {
              words: "token list",
              examples: [["leger token list --json", "for programs"]],
            })
            .option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => list(cli, daemon, args)),
      )
      .command(
        "revoke <token>",
        "let nobody in with it any more",
        (command) =>
          tokenOf(
            parsing.describe(command, {
              words: "token revoke",
              examples: [["leger token revoke ci", "at once"]],
            }),
          ).option("json", JSON_OPTION),
        (args) => parsing.chooseWithDaemon((cli, daemon) => revoke(cli, daemon, args)),
      ),
  );
}

function tokenOf<T>(command: Argv<T>): Argv<T & { token: string }> {
  return command.positional("token", { type: "string", demandOption: true, describe: "what it is called" });
}

type CreateArgs = {
  token: string;
  grant?: string[] | undefined;
  expires?: string | undefined;
  json?: boolean | undefined;
};

async function create({ terminal, settings, world }: Cli, daemon: Daemon, args: CreateArgs): Promise<void> {
  if (args.grant === undefined) {
    throw new LegerError("USAGE", "token create: --grant is missing", {
      hints: ["say what it may do, like --grant get:openai_api_key"],
    });
  }
  const grants = args.grant.map((text) => parseGrant(text, settings.namespace, "token create"));
  const now = (world.now ?? (() => new Date()))();
  const expires = args.expires === undefined ? undefined : endOf(args.expires, now);
  const made = await daemon.createToken({ name: args.token, grants, expires });
  if (args.json === true) {
    await terminal.json(made);
    return;
  }
  await terminal.line(made.token);
  terminal.say(
    `token ${made.name} is shown this once; ${expires === undefined ? "it does not expire" : `it ends ${expires}`}`,
  );
}

async function list(
  { terminal }: Cli,
  daemon: Daemon,
  { json }: { json?: boolean | undefined },
): Promise<void> {
  const tokens = await daemon.tokens();
  if (json === true) {
    await terminal.json({ tokens });
    return;
  }
  for (const { name, created, expires, grants } of tokens) {
    const may = grants.map(({ action, secret }) => `${action.join(",")}:${secret.join(",")}`).join(" ");
    await terminal.line(
      `${name.padEnd(16)}  made ${created}  ${expires === undefined ? "no end" : `ends ${expires}`}  ${may}`,
    );
  }
}

type RevokeArgs = { token: string; json?: boolean | undefined };

async function revoke({ terminal }: Cli, daemon: Daemon, { token, json }: RevokeArgs): Promise<void> {
  await daemon.revokeToken(token);
  if (json === true) await terminal.json({ revoked: token });
  else await terminal.line(`token ${token} is revoked`);
}

/** A length of time from now, or a day. */
function endOf(text: string, now: Date): string {
  const time = momentOf(text, now, 1);
  if (time > now.getTime()) return new Date(time).toISOString();
  throw new LegerError("USAGE", "token create: --expires takes a length of time or a day to come", {
    hints: ["12h, 90d, or 2027-01-31"],
  });
}
