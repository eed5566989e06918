import { chmodSync, mkdirSync, mkdtempDisposableSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { nodeFiles } from "../../src/core/files-node.ts";
import { assertSafeSocket, homeDirectory, runtimePlaces, worldOf, type World } from "../../src/core/paths.ts";
import { unreachable } from "../../src/core/wire.ts";

const IDENTITY = "         0          0 4294967295\n";
/** As `podman unshare cat /proc/self/uid_map` shows it. */
const ROOTLESS = "         0       1000          1\n         1     100000      65536\n";
const EUID = process.geteuid?.() ?? 0;

describe("whose legerd it is", () => {
  test.for([
    ["root on the machine", { euid: 0 }, { kind: "system" }],
    ["a user on the machine", { euid: 1000 }, { kind: "user", uid: 1000 }],
    ["rootless Podman's driver", { euid: 0, uidMap: ROOTLESS }, { kind: "user", uid: 1000 }],
    ["root's Podman", { euid: 0, env: { HOME: "/root" } }, { kind: "system" }],
    ["no /proc", { euid: 1000, uidMap: undefined }, { kind: "user", uid: 1000 }],
    ["no /proc, root", { euid: 0, uidMap: undefined }, { kind: "system" }],
    [
      "what Podman says goes before the map",
      { euid: 0, env: told("1001"), uidMap: ROOTLESS },
      { kind: "user", uid: 1001 },
    ],
    ["Podman says it outside a namespace", { euid: 0, env: told("1001") }, { kind: "user", uid: 1001 }],
    [
      "what Podman says is no number",
      { euid: 0, env: told("1001x"), uidMap: ROOTLESS },
      { kind: "user", uid: 1000 },
    ],
    ["what Podman says is 0", { euid: 0, env: told("0"), uidMap: ROOTLESS }, { kind: "user", uid: 1000 }],
    ["what Podman says is nobody", { euid: 0, env: told("4294967295") }, { kind: "system" }],
    ["a sandboxed user unit", { euid: 1000, uidMap: "1000 1000 1\n" }, { kind: "user", uid: 1000 }],
    ["a sandboxed system unit", { euid: 0, uidMap: "0 0 1\n65534 65534 1\n" }, { kind: "system" }],
    [
      "our line is not the first",
      { euid: 5, uidMap: "0 100000 5\n5 1000 1\n6 100006 9\n" },
      { kind: "user", uid: 1000 },
    ],
    ["root of a container that is a machine", { euid: 0, uidMap: "0 100000 65536\n" }, { kind: "system" }],
    ["a user of such a machine", { euid: 1000, uidMap: "0 100000 65536\n" }, { kind: "user", uid: 1000 }],
    ["a map that is no map", { euid: 1000, uidMap: "1000 x 1\n\nnonsense\n" }, { kind: "user", uid: 1000 }],
  ] as const)("%s", ([, part, account]) => {
    expect(runtimePlaces(world(part)).account).toEqual(account);
  });

  test("the world this test runs in is one of the two", () => {
    expect(runtimePlaces(worldOf({}, nodeFiles)).socket).toMatch(
      /^\/run\/(user\/\d+\/)?leger\/legerd\.sock$/,
    );
  });
});

describe("where legerd listens", () => {
  test.for([
    ["the system's", { euid: 0 }, "/run/leger/legerd.sock"],
    [
      "the system's, whatever root's session says",
      { euid: 0, env: { XDG_RUNTIME_DIR: "/run/user/0" } },
      "/run/leger/legerd.sock",
    ],
    ["a user's", { euid: 1000, env: { XDG_RUNTIME_DIR: "/tmp/rt" } }, "/tmp/rt/leger/legerd.sock"],
    ["a user's without XDG_RUNTIME_DIR", { euid: 1000 }, "/run/user/1000/leger/legerd.sock"],
    [
      "a user's with a relative one",
      { euid: 1000, env: { XDG_RUNTIME_DIR: "rt" } },
      "/run/user/1000/leger/legerd.sock",
    ],
    [
      "a user's with an empty one",
      { euid: 1000, env: { XDG_RUNTIME_DIR: "" } },
      "/run/user/1000/leger/legerd.sock",
    ],
    [
      "the driver's in a healthcheck: no HOME, no XDG",
      { euid: 0, uidMap: ROOTLESS },
      "/run/user/1000/leger/legerd.sock",
    ],
  ] as const)("%s", ([, part, socket]) => {
    expect(runtimePlaces(world(part)).socket).toBe(socket);
  });
});

describe("where things are kept", () => {
  test.for([
    ["state", "the system's", { euid: 0, env: { HOME: "/root" } }, "/var/lib/legerd"],
    ["config", "the system's", { euid: 0, env: { HOME: "/root" } }, "/etc/leger"],
    ["state", "a user's", { euid: 1000, env: { HOME: "/home/a" } }, "/home/a/.local/state/legerd"],
    ["config", "a user's", { euid: 1000, env: { HOME: "/home/a" } }, "/home/a/.config/leger"],
    ["state", "by XDG", { euid: 1000, env: { HOME: "/home/a", XDG_STATE_HOME: "/s" } }, "/s/legerd"],
    ["config", "by XDG, without HOME", { euid: 1000, env: { XDG_CONFIG_HOME: "/c" } }, "/c/leger"],
    [
      "config",
      "by a relative XDG, which is ignored",
      { euid: 1000, env: { HOME: "/home/a", XDG_CONFIG_HOME: "c" } },
      "/home/a/.config/leger",
    ],
  ] as const)("%s: %s", ([which, , part, directory]) => {
    expect(homeDirectory(which, world(part))).toBe(directory);
  });

  test("a user without HOME is told what to set", () => {
    expect(() => homeDirectory("state", world({ euid: 1000 }))).toThrow(
      expect.objectContaining({ code: "CONFIG", hints: [expect.stringContaining("XDG_STATE_HOME")] }),
    );
  });
});

describe("a socket", () => {
  test("of ours, 0600 in a directory of ours, is taken", async () => {
    await using place = await listening();
    expect(() => assertSafeSocket(place.socket, { euid: EUID, files: nodeFiles })).not.toThrow();
  });

  test.for([
    [
      "a directory that the group may write to",
      "directory",
      0o770,
      /leger: others may write to it \(mode 0770\)/,
    ],
    ["a directory that all may write to", "directory", 0o1777, /leger: others may write to it \(mode 1777\)/],
    [
      "a socket that the group may connect to",
      "socket",
      0o660,
      /legerd\.sock: others may connect to it \(mode 0660\)/,
    ],
    [
      "a socket that all may connect to",
      "socket",
      0o666,
      /legerd\.sock: others may connect to it \(mode 0666\)/,
    ],
  ] as const)("is refused: %s", async ([, which, mode, message]) => {
    await using place = await listening();
    chmodSync(place[which], mode);
    expect(() => assertSafeSocket(place.socket, { euid: EUID, files: nodeFiles })).toThrow(
      expect.objectContaining({
        code: "UNSAFE",
        message: expect.stringMatching(message),
        hints: [expect.stringMatching(/^chmod 0[67]00 \//)],
      }),
    );
  });

  test("shared on purpose may be open to its group, not to all", async () => {
    await using place = await listening();
    chmodSync(place.socket, 0o660);
    expect(() =>
      assertSafeSocket(place.socket, { euid: EUID, files: nodeFiles, groupMayConnect: true }),
    ).not.toThrow();
    chmodSync(place.socket, 0o662);
    expect(() =>
      assertSafeSocket(place.socket, { euid: EUID, files: nodeFiles, groupMayConnect: true }),
    ).toThrow(/others may connect/);
  });

  test("that belongs to somebody else is refused", async () => {
    await using place = await listening();
    expect(() => assertSafeSocket(place.socket, { euid: EUID + 1, files: nodeFiles })).toThrow(
      expect.objectContaining({
        code: "UNSAFE",
        message: expect.stringContaining(`belongs to user ${EUID}`),
        // It may be /tmp: nobody is told to remove it.
        hints: [expect.stringMatching(/^name a socket in a directory of your own/)],
      }),
    );
  });

  test("that is a symlink to a good socket is refused", async () => {
    await using place = await listening();
    const link = join(place.directory, "link.sock");
    symlinkSync(place.socket, link);
    expect(() => assertSafeSocket(link, { euid: EUID, files: nodeFiles })).toThrow(
      /link\.sock: it is not a socket/,
    );
  });

  test("in a directory that is a symlink is refused", async () => {
    await using place = await listening();
    const link = `${place.directory}-link`;
    symlinkSync(place.directory, link);
    expect(() => assertSafeSocket(join(link, "legerd.sock"), { euid: EUID, files: nodeFiles })).toThrow(
      /-link: it is not a directory/,
    );
  });

  test("that is a file is refused", () => {
    using place = mkdtempDisposableSync(join(tmpdir(), "leger-"));
    const path = join(place.path, "legerd.sock");
    writeFileSync(path, "", { mode: 0o600 });
    expect(() => assertSafeSocket(path, { euid: EUID, files: nodeFiles })).toThrow(/it is not a socket/);
  });

  test.for(["legerd.sock", "missing/legerd.sock"])(
    "that is not there (%s) is unreachable, with how to start it",
    (name) => {
      using place = mkdtempDisposableSync(join(tmpdir(), "leger-"));
      expect(() => assertSafeSocket(join(place.path, name), { euid: EUID, files: nodeFiles })).toThrow(
        expect.objectContaining({
          code: "UNREACHABLE",
          hints: expect.arrayContaining([
            "start it: legerd; or, where it is installed as a service: systemctl --user start legerd.socket",
          ]),
        }),
      );
    },
  );

  test("of the system that is not there is started without --user", () => {
    const { socket } = runtimePlaces(world({ euid: 0 }));
    // Not looked for: this machine may have one.
    expect(unreachable(socket, "no socket there").hints).toContainEqual(
      expect.stringMatching(/systemctl start /),
    );
  });

  test("with a path longer than the kernel takes is a matter of configuration", () => {
    expect(() => assertSafeSocket(`/tmp/${"x".repeat(110)}`, { euid: EUID, files: nodeFiles })).toThrow(
      expect.objectContaining({ code: "CONFIG" }),
    );
  });
});

function told(uid: string): World["env"] {
  return { _CONTAINERS_ROOTLESS_UID: uid };
}

function world(part: Partial<World>): World {
  return { env: {}, euid: 1000, uidMap: IDENTITY, ...part };
}

async function listening(): Promise<{ directory: string; socket: string } & AsyncDisposable> {
  const place = mkdtempDisposableSync(join(tmpdir(), "leger-"));
  const directory = join(place.path, "leger");
  mkdirSync(directory, { mode: 0o700 });
  const socket = join(directory, "legerd.sock");
  const server: Server = createServer().listen(socket);
  await once(server, "listening");
  chmodSync(socket, 0o600);
  return {
    directory,
    socket,
    async [Symbol.asyncDispose]() {
      server.close();
      await once(server, "close");
      place.remove();
    },
  };
}
