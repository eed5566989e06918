/** access — whether a container's program may read systemd's credentials, which belong to the unit's user alone (0400). */
import { splitWords } from "./words.ts";
import { shown, type Unit } from "./unit-file.ts";

export type AccessFacts = {
  isRootless: boolean;
  /** The user outside. */
  uid: number;
  /** `USER` of the image; "" is root, undefined is not known. */
  imageUser: string | undefined;
};

/** Allowed, perhaps with a UserNS= to add; `owner` is who the files belong to inside. Or why not, and what to do instead. */
export type Access =
  | { ok: true; userns: string | undefined; owner: { uid: string; gid: string } }
  | { ok: false; why: string; hint: string };

export function accessOf(unit: Unit, facts: AccessFacts): Access {
  const told = podmanArgsOf(unit).find((word) => /^(?:--(?:user|userns|uidmap|gidmap|pod)\b|-u)/.test(word));
  if (told !== undefined) {
    const option = /^--?[a-z]+/.exec(told)?.[0] ?? told;
    return no(`PodmanArgs=${option} says who the program runs as`, "write User= or UserNS= in its place");
  }
  const mapping = MAPPINGS.find((key) => unit.has("Container", key));
  if (mapping !== undefined) {
    return no(
      `${mapping}= maps users in a way of its own, and the files are readable for one of them only`,
      ELSE,
    );
  }
  const user = userOf(unit, facts);
  const userns = unit.last("Container", "UserNS")?.value ?? "host";
  if (userns === "host" || userns === "") return withoutNamespace(unit, facts, user);
  const kept = /^keep-id(?::(.*))?$/.exec(userns);
  if (kept === null) return no(`with UserNS=${shown(userns)} the program cannot read the files`, ELSE);
  const options = new Map((kept[1] ?? "").split(",").map((option) => pairOf(option)));
  const uid = options.get("uid") ?? String(facts.uid);
  const gid = options.get("gid") ?? String(facts.uid);
  // Without User= keep-id makes the program run as the user that it keeps.
  if (!unit.has("Container", "User")) return { ok: true, userns: undefined, owner: { uid, gid } };
  if (user.kind === "uid" && user.uid === uid) return { ok: true, userns: undefined, owner: { uid, gid } };
  return no(
    `UserNS=${shown(userns)} gives the files to user ${uid}, and the program runs as another one`,
    `write UserNS=keep-id:uid=… for the user of User=, or choose env-file or driver`,
  );
}

/** The options that Podman is given by hand. */
export function podmanArgsOf(unit: Unit): string[] {
  return unit.all("Container", "PodmanArgs").flatMap(({ value }) => splitWords(value) ?? []);
}

/** Who the program runs as inside. */
type RunsAs =
  | { kind: "uid"; uid: string; gid: string }
  | { kind: "name"; name: string }
  | { kind: "unknown" };

const ELSE = "choose env-file or driver for it";

/** Keys that give a container user ids of its own. */
const MAPPINGS = ["UIDMap", "GIDMap", "SubUIDMap", "SubGIDMap", "RemapUsers", "RemapUid", "RemapGid"];

function withoutNamespace(unit: Unit, facts: AccessFacts, user: RunsAs): Access {
  if (user.kind === "unknown") {
    return no(
      "who the image's program runs as is not known here",
      "pull the image, so that podman image inspect can tell; or write User=, or ImageUser= below [X-Leger]",
    );
  }
  if (user.kind === "name") {
    return no(
      `the program runs as ${JSON.stringify(shown(user.name))}, and only the image knows that user's number`,
      "write User= with the number; or ImageUser= below [X-Leger], where the image names the user",
    );
  }
  const { uid, gid } = user;
  if (uid === "0") return { ok: true, userns: undefined, owner: { uid: "0", gid: "0" } };
  if (!facts.isRootless) {
    return no(`the program runs as user ${uid}, and systemd gives the files to root`, ELSE);
  }
  if (unit.last("Container", "Pod") !== undefined) {
    return no(`the program runs as user ${uid}, and a pod's containers have no UserNS= of their own`, ELSE);
  }
  const volume = unmappedVolume(unit);
  if (volume !== undefined) {
    return no(
      `the program runs as user ${uid}, and UserNS=keep-id:uid=${uid} would change whose the files of ${shown(volume)} are`,
      `choose env-file or driver; or write UserNS=keep-id:uid=${uid},gid=${gid} yourself, once those files fit it`,
    );
  }
  return { ok: true, userns: `keep-id:uid=${uid},gid=${gid}`, owner: { uid, gid } };
}

function userOf(unit: Unit, { imageUser }: AccessFacts): RunsAs {
  const user = unit.last("Container", "User")?.value;
  const group = unit.last("Container", "Group")?.value;
  if (user !== undefined) return runsAs(group === undefined ? user : `${user}:${group}`);
  if (unit.last("Container", "Image") === undefined) return { kind: "uid", uid: "0", gid: "0" };
  return imageUser === undefined ? { kind: "unknown" } : runsAs(imageUser);
}

function runsAs(text: string): RunsAs {
  const [user = "", group = ""] = text.split(":");
  if (user === "" || user === "root" || /^0+$/.test(user)) return { kind: "uid", uid: "0", gid: "0" };
  if (!/^\d+$/.test(user)) return { kind: "name", name: user };
  return { kind: "uid", uid: user, gid: /^\d+$/.test(group) ? group : user };
}

/** A volume that the program writes to, and whose files already belong to somebody. */
function unmappedVolume(unit: Unit): string | undefined {
  for (const { value } of unit.all("Container", "Volume")) {
    const [source = "", target, options = ""] = value.split(":");
    const has = new Set(options.split(","));
    if (target === undefined || has.has("ro") || has.has("U") || has.has("idmap")) continue;
    return source;
  }
  for (const word of unit.all("Container", "Mount").flatMap(({ value }) => splitWords(value) ?? [])) {
    const options = new Map(word.split(",").map((option) => pairOf(option)));
    const type = options.get("type");
    if (type !== "bind" && type !== "volume") continue;
    const isTrue = (name: string): boolean => ["", "true"].includes(options.get(name) ?? "false");
    if (["ro", "readonly", "U", "chown", "idmap"].some(isTrue)) continue;
    return options.get("source") ?? options.get("src") ?? word;
  }
  return undefined;
}

function pairOf(option: string): [string, string] {
  const equals = option.indexOf("=");
  return equals < 0 ? [option, ""] : [option.slice(0, equals), option.slice(equals + 1)];
}

function no(why: string, hint: string): Access {
  return { ok: false, why, hint };
}
