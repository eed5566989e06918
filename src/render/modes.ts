/** modes — the ways in which a secret gets into a container, and what each of them means. */
import { LegerError } from "../core/error.ts";

export type Mode = "driver" | "env-file" | "curl" | "credential" | "mount" | "entrypoint";

/**
 * How a mode hands a variable over: by Podman, by an env file on the host, by files in the container, or by one file in the
 * container that its entrypoint reads.
 */
type Carrier = "podman" | "env-file" | "files" | "wrapper";

export type ModeFacts = {
  mode: Mode;
  carrier: Carrier;
  /** What a variable (type=env) and a file (type=mount) become; a file that cannot be is undefined. */
  variableBecomes: string;
  fileBecomes: string | undefined;
  /** Where the value lies in the clear while the container runs. */
  plaintext: string;
  cost: string;
  /** The oldest Podman that it works with, by a drop-in and as a whole unit. */
  since: { dropin: string; whole: string };
  /** Needs legerd to be ready, not only its socket. */
  needsCredentials: boolean;
  /** What one should know before choosing it. */
  mind: string;
};

const BY_ENV_FILE = "tmpfs, and on disk config.json and db.sql; podman inspect shows it";

export const MODES: readonly ModeFacts[] = [
  {
    mode: "driver",
    carrier: "podman",
    variableBecomes: "a variable",
    fileBecomes: "a file",
    plaintext: "on disk: config.json (variables), userdata/secrets/ (files)",
    cost: "1 process per secret, at each start, exec and health check",
    since: { dropin: "4.5", whole: "4.5" },
    needsCredentials: false,
    mind: "Podman's own way; needs leger podman sync. A health check fails while legerd is down",
  },
  {
    mode: "env-file",
    carrier: "env-file",
    variableBecomes: "a variable",
    fileBecomes: undefined,
    plaintext: BY_ENV_FILE,
    cost: "1 process per start",
    since: { dropin: "5.0", whole: "4.4" },
    needsCredentials: false,
    mind: "values of one line only, below 64 KiB",
  },
  {
    mode: "curl",
    carrier: "env-file",
    variableBecomes: "a variable",
    fileBecomes: undefined,
    plaintext: BY_ENV_FILE,
    cost: "3 processes per start",
    since: { dropin: "5.0", whole: "4.4" },
    needsCredentials: false,
    mind: "for hosts without leger's client; does not check whose socket it asks, nor that the file stays on tmpfs, and says less when it fails",
  },
  {
    mode: "credential",
    carrier: "env-file",
    variableBecomes: "a variable",
    fileBecomes: undefined,
    plaintext: BY_ENV_FILE,
    cost: "no process",
    since: { dropin: "5.0", whole: "4.4" },
    needsCredentials: true,
    mind: "values of one line only, below 64 KiB; needs systemd 250",
  },
  {
    mode: "mount",
    carrier: "files",
    variableBecomes: "a file, and NAME_FILE says where",
    fileBecomes: "a file",
    plaintext: "tmpfs only",
    cost: "no process",
    since: { dropin: "5.0", whole: "4.4" },
    needsCredentials: true,
    mind: "the program must read files; one that isn't root needs UserNS=keep-id; needs systemd 250",
  },
  {
    mode: "entrypoint",
    carrier: "wrapper",
    variableBecomes: "a variable",
    fileBecomes: "a file",
    plaintext: "tmpfs only",
    cost: "no process",
    since: { dropin: "5.0", whole: "4.4" },
    needsCredentials: true,
    mind: "podman exec and HealthCmd= don't see the variables; the image needs /bin/sh; values of one line only; needs systemd 250",
  },
];

const BY_NAME: ReadonlyMap<string, ModeFacts> = new Map(MODES.map((facts) => [facts.mode, facts]));

export const MODE_NAMES: readonly Mode[] = MODES.map(({ mode }) => mode);

export function factsOf(mode: Mode): ModeFacts {
  const facts = BY_NAME.get(mode);
  if (facts === undefined) throw new LegerError("BUG", `no facts of mode ${mode}`);
  return facts;
}

/** The mode of this name. USAGE, or what else is given, for none; `where` says who named it. */
export function modeNamed(
  name: string,
  where: string,
  code: "USAGE" | "CONFIG" | "BAD_DATA" = "USAGE",
): Mode {
  const facts = BY_NAME.get(name);
  if (facts !== undefined) return facts.mode;
  throw new LegerError(code, `${where}: there is no mode ${JSON.stringify(name.slice(0, 40))}`, {
    hints: [`one of: ${MODE_NAMES.join(", ")}; see: leger modes`],
  });
}
