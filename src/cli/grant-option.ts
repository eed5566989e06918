/** grant-option — "get,info:openai_api_key": what a door or a token may do, as it is typed. */
import { LegerError } from "../core/error.ts";
import { ACTIONS } from "../setec/protocol.ts";
import { fullName } from "./names.ts";

export const GRANT_OPTION = {
  type: "string",
  array: true,
  requiresArg: true,
  describe: "ACTION[,ACTION]:SECRET; * in SECRET is any run of characters. May be repeated",
} as const;

/** Names are short or whole, as everywhere; patterns may have `*`. USAGE, with the words of the command. */
export function parseGrant(
  text: string,
  namespace: string,
  words: string,
): { action: string[]; secret: string[] } {
  const colon = text.indexOf(":");
  const actions = text.slice(0, Math.max(colon, 0)).split(",");
  const unknown = actions.find((word) => !ACTIONS.some((action) => action === word));
  const pattern = text.slice(colon + 1);
  if (colon <= 0 || unknown !== undefined || pattern === "") {
    throw new LegerError("USAGE", `${words}: --grant takes ACTION[,ACTION]:SECRET`, {
      hints: [`actions are ${ACTIONS.join(", ")}`, "for example: --grant get,info:openai_api_key"],
    });
  }
  return { action: actions, secret: [pattern === "*" ? "*" : fullName(pattern, namespace)] };
}
