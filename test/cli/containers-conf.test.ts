import * as fs from "node:fs";
import path from "node:path";
import * as fc from "fast-check";
import { Readable, Writable } from "node:stream";
import { describe, expect, test } from "vitest";
import { run } from "../../src/core/exec.ts";
import { parsePodmanRelease, podmanHas, type PodmanRelease } from "../../src/core/podman-release.ts";
import { readSecretsConf, settingOf } from "../../src/cli/containers-conf.ts";
import type { CliWorld } from "../../src/cli/world.ts";
import { makePlaces, type Places } from "../support/legerd.ts";
import { workingPodman } from "../support/podman.ts";

const UID = 1000;
const HOME = ".config/containers";
const ETC = "etc/containers";
const USR = "usr/share/containers";

/** A user, or root, of a machine whose files lie below `base`. */
function worldIn({ base }: Places, uid: number, env: Record<string, string> = {}): CliWorld {
  return {
    env: { HOME: base, ...(uid === 0 ? {} : { _CONTAINERS_ROOTLESS_UID: String(uid) }), ...env },
    euid: 0,
    uidMap: undefined,
    stdin: Readable.from([]),
    stdout: new Writable(),
    stderr: new Writable(),
    isTTY: { stdin: false, stdout: false, stderr: false },
    cwd: base,
    version: "0.0.0",
    root: base,
  };
}

function write({ base }: Places, files: Readonly<Record<string, string>>): void {
  for (const [file, text] of Object.entries(files)) {
    fs.mkdirSync(path.dirname(path.join(base, file)), { recursive: true });
    fs.writeFileSync(path.join(base, file), text);
  }
}

const everywhere = [
  `${USR}/containers.conf`,
  `${USR}/containers.conf.d/10-usr.conf`,
  `${USR}/containers.rootful.conf.d/11-usr-rootful.conf`,
  `${USR}/containers.rootless.conf.d/12-usr-rootless.conf`,
  `${ETC}/containers.conf`,
  `${ETC}/containers.conf.d/09-etc.conf`,
  `${ETC}/containers.conf.d/50-same.conf`,
  `${ETC}/containers.rootful.conf.d/20-etc-rootful.conf`,
  `${ETC}/containers.rootless.conf`,
  `${ETC}/containers.rootless.conf.d/21-etc-rootless.conf`,
  `${ETC}/containers.rootless.conf.d/${UID}/22-etc-uid.conf`,
  `${ETC}/containers.rootless.conf.d/1001/23-etc-other.conf`,
  `${HOME}/containers.conf`,
  `${HOME}/containers.conf.d/05-home.conf`,
  `${HOME}/containers.conf.d/50-same.conf`,
  `${HOME}/containers.conf.d/sub.conf/x.conf`,
  `${HOME}/containers.conf.d/README`,
];

const upTo56 = [
  `${USR}/containers.conf`,
  `${ETC}/containers.conf`,
  `${ETC}/containers.conf.d/09-etc.conf`,
  `${ETC}/containers.conf.d/50-same.conf`,
];
const rootless57 = [
  `${ETC}/containers.rootless.conf`,
  `${ETC}/containers.rootless.conf.d/21-etc-rootless.conf`,
  `${ETC}/containers.rootless.conf.d/${UID}/22-etc-uid.conf`,
];
const home = [
  `${HOME}/containers.conf`,
  `${HOME}/containers.conf.d/05-home.conf`,
  `${HOME}/containers.conf.d/50-same.conf`,
];

// Read in the sources: common/pkg/config of these releases, and storage/pkg/configfile for 6.0.
test.for<[string, PodmanRelease, number, string[]]>([
  ["4.3, a user", [4, 3, 1], UID, [...upTo56, ...home]],
  ["4.9, a user", [4, 9, 3], UID, [...upTo56, ...home]],
  ["4.9, root", [4, 9, 3], 0, upTo56],
  ["5.0, root", [5, 0, 0], 0, [...upTo56, ...home]],
  ["5.6, a user", [5, 6, 2], UID, [...upTo56, ...home]],
  ["5.7, a user", [5, 7, 0], UID, [...upTo56, ...rootless57, ...home]],
  ["5.8, root", [5, 8, 2], 0, [...upTo56, ...home]],
  [
    "6.0, a user",
    [6, 0, 0],
    UID,
    [
      `${HOME}/containers.conf`,
      `${HOME}/containers.conf.d/05-home.conf`,
      `${ETC}/containers.conf.d/09-etc.conf`,
      `${USR}/containers.conf.d/10-usr.conf`,
      `${USR}/containers.rootless.conf.d/12-usr-rootless.conf`,
      `${ETC}/containers.rootless.conf.d/21-etc-rootless.conf`,
      `${ETC}/containers.rootless.conf.d/${UID}/22-etc-uid.conf`,
      `${HOME}/containers.conf.d/50-same.conf`,
    ],
  ],
  [
    "6.0, root",
    [6, 0, 0],
    0,
    [
      `${HOME}/containers.conf`,
      `${HOME}/containers.conf.d/05-home.conf`,
      `${ETC}/containers.conf.d/09-etc.conf`,
      `${USR}/containers.conf.d/10-usr.conf`,
      `${USR}/containers.rootful.conf.d/11-usr-rootful.conf`,
      `${ETC}/containers.rootful.conf.d/20-etc-rootful.conf`,
      `${HOME}/containers.conf.d/50-same.conf`,
    ],
  ],
])("podman %s: which files count, and in which order", ([, release, uid, expected]) => {
  using places = makePlaces();
  write(places, Object.fromEntries(everywhere.map((file) => [file, ""])));
  const { files, unusable } = readSecretsConf(worldIn(places, uid), release);
  expect(files.map((file) => path.relative(places.base, file))).toEqual(expected);
  expect(unusable).toEqual([]);
});

test("since 6.0 one main file counts, the nearest, and symlinks among the drop-ins don't", () => {
  using places = makePlaces();
  write(places, {
    [`${USR}/containers.conf`]: "",
    [`${ETC}/containers.conf`]: "",
    [`${HOME}/containers.conf.d/a`]: "",
  });
  fs.symlinkSync("a", path.join(places.base, HOME, "containers.conf.d/a.conf"));
  const found = (release: PodmanRelease) =>
    readSecretsConf(worldIn(places, UID), release).files.map((file) => path.relative(places.base, file));
  expect(found([6, 0, 0])).toEqual([`${ETC}/containers.conf`]);
  expect(found([5, 8, 0])).toEqual([
    `${USR}/containers.conf`,
    `${ETC}/containers.conf`,
    `${HOME}/containers.conf.d/a.conf`,
  ]);
});

test("CONTAINERS_CONF stands alone; CONTAINERS_CONF_OVERRIDE comes last since 4.5; both must be there", () => {
  using places = makePlaces();
  write(places, { [`${HOME}/containers.conf`]: "", one: "", two: "" });
  const found = (env: Record<string, string>, release: PodmanRelease = [5, 4, 0]) => {
    const { files, unusable } = readSecretsConf(worldIn(places, UID, env), release);
    return [files.map((file) => path.relative(places.base, file)), unusable.map(({ what }) => what)];
  };
  expect(found({ CONTAINERS_CONF: "one" })).toEqual([["one"], []]);
  expect(found({ CONTAINERS_CONF: "one", CONTAINERS_CONF_OVERRIDE: "two" })).toEqual([["one", "two"], []]);
  expect(found({ CONTAINERS_CONF_OVERRIDE: "two" })).toEqual([[`${HOME}/containers.conf`, "two"], []]);
  expect(found({ CONTAINERS_CONF_OVERRIDE: "two" }, [4, 4, 0])).toEqual([[`${HOME}/containers.conf`], []]);
  expect(found({ CONTAINERS_CONF: "", CONTAINERS_CONF_OVERRIDE: "" })[0]).toEqual([
    `${HOME}/containers.conf`,
  ]);
  expect(found({ CONTAINERS_CONF: "three" })).toEqual([
    [],
    ["CONTAINERS_CONF names it, it isn't there, and Podman gives up over it"],
  ]);
});

test("a user's files are where XDG_CONFIG_HOME says", () => {
  using places = makePlaces();
  write(places, { "xdg/containers/containers.conf": "", [`${HOME}/containers.conf`]: "" });
  const world = worldIn(places, UID, { XDG_CONFIG_HOME: path.join(places.base, "xdg") });
  expect(readSecretsConf(world, [5, 4, 0]).files).toEqual([
    path.join(places.base, "xdg/containers/containers.conf"),
  ]);
});

test.for<[string, PodmanRelease | undefined]>([
  ["4.3.1", [4, 3, 1]],
  ["5.4", [5, 4, 0]],
  ["6.0.0-rc1", [6, 0, 0]],
  ["5.8.2+ds1-1", [5, 8, 2]],
  ["v5", undefined],
  ["", undefined],
])("podman's version %s is understood", ([text, release]) => {
  expect(parsePodmanRelease(text)).toEqual(release);
});

test.for<[PodmanRelease, boolean]>([
  [[4, 9, 9], false],
  [[5, 8, 1], false],
  [[5, 8, 2], true],
  [[5, 9, 0], true],
  [[6, 0, 0], true],
])("what came with 5.8.2, %s has: %s", ([release, has]) => {
  expect(podmanHas("apiOptions", release)).toBe(has);
});

const podmanVersion = workingPodman();

/** Podman with these files for its own /etc/containers and /usr/share/containers, as root of a user namespace. */
async function podmanIn(
  { base }: Places,
  uid: number,
  env: Record<string, string>,
): Promise<{ status: number | null; said: string }> {
  const script = `mount --bind "$1/${ETC}" /etc/containers && mount --bind "$1/${USR}" /usr/share/containers && exec podman secret create --help`;
  const result = await run(
    "unshare",
    ["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", base],
    {
      env: {
        PATH: process.env["PATH"],
        HOME: base,
        XDG_RUNTIME_DIR: path.join(base, "run"),
        ...(uid === 0
          ? {}
          : { _CONTAINERS_ROOTLESS_UID: String(uid), _CONTAINERS_USERNS_CONFIGURED: "done" }),
        ...env,
      },
      cwd: base,
      timeoutMs: 20_000,
    },
  );
  return { status: result.status, said: Buffer.from(result.stdout).toString() };
}

async function canMount(): Promise<boolean> {
  const script = "mount --bind /tmp /etc/containers && mount --bind /tmp /usr/share/containers";
  try {
    return (
      (
        await run("unshare", ["--user", "--map-root-user", "--mount", "sh", "-c", script], {
          env: process.env,
          timeoutMs: 10_000,
        })
      ).status === 0
    );
  } catch {
    return false;
  }
}

const mayMount = podmanVersion !== undefined && (await canMount());
const why = podmanVersion ?? "podman: none that works";

describe.skipIf(!mayMount)(
  `${why}${mayMount ? "" : " in a namespace of its own, which isn't allowed here"}`,
  () => {
    const release = parsePodmanRelease(podmanVersion?.split(" ").at(-1) ?? "") ?? [0, 0, 0];
    const slots = [...everywhere, "one.conf", "two.conf"];
    const settings = fc.record({
      driver: fc.constantFrom(undefined, "file", "pass", "shell"),
      options: fc.uniqueArray(fc.constantFrom("path", "root", "key", "list", "Path")),
      capitals: fc.boolean(),
    });

    test("the settings that leger finds are those that podman has", async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.uniqueArray(fc.tuple(fc.constantFrom(...slots), settings), {
            selector: ([slot]) => slot,
            maxLength: 8,
          }),
          fc.constantFrom(0, UID),
          fc.constantFrom({}, {}, { CONTAINERS_CONF: "one.conf" }, { CONTAINERS_CONF_OVERRIDE: "two.conf" }),
          async (files, uid, env) => {
            using places = makePlaces();
            fs.mkdirSync(path.join(places.base, USR), { recursive: true });
            fs.mkdirSync(path.join(places.base, ETC), { recursive: true });
            write(places, { "one.conf": "", "two.conf": "" });
            for (const [at, [file, { driver, options, capitals }]] of files.entries()) {
              const [secrets, opts] = capitals ? ["Secrets", "Secrets.OPTS"] : ["secrets", "secrets.opts"];
              const lines = options.map((option) => `${option} = "${at}"\n`).join("");
              const text = `[${secrets}]\n${driver === undefined ? "" : `driver = "${driver}"\n`}[${opts}]\n${lines}`;
              write(places, { [file]: text });
            }
            const { status, said } = await podmanIn(places, uid, env);
            expect(status).toBe(0);
            const conf = readSecretsConf(worldIn(places, uid, env), release);
            const options = [...new Set(conf.settings.map(({ key }) => key))]
              .filter((key) => key !== "driver")
              .map((key) => `${key.slice("opts.".length)}=${String(settingOf(conf, key)?.value)}`);
            expect(/--driver string .*\(default "(.*)"\)/.exec(said)?.[1]).toBe(
              settingOf(conf, "driver")?.value ?? "file",
            );
            // Podman says them in no order.
            const has = /--driver-opts .*\(default \[(.*)\]\)/.exec(said)?.[1] ?? "";
            expect(has.split(",").filter(Boolean).toSorted()).toEqual(options.toSorted());
          },
        ),
        { numRuns: 25 },
      );
    });
  },
);
