import * as fs from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { CURL_IMAGE, importCurlImage, setecCall } from "./curl-image.ts";
import { bootMachine, type CommandOptions, type CommandResult } from "./machine.ts";
import { settle } from "./owner.ts";

/**
 * An attack for each row of docs/threat-model.md that says that somebody is kept out, and one for each row that says that
 * nobody is. Whoever is kept out gets the loot once a machine is weak enough, by the same commands: else an attack that
 * finds nothing would prove nothing. Web pages: browser.test.ts. What legerd's process may do: units.test.ts. What is left
 * on a machine: traces.test.ts.
 */
const machine = await bootMachine();
await machine.install();
const owner = await settle(machine, "user");
await importCurlImage(owner);

const CANARY = "canary0d6c81f2b95e47a3";
const HIDDEN = "canary7a10e5c9d4b83f26";
const FALSE = "false-value-of-an-impostor";
const IN_JSON = Buffer.from(CANARY).toString("base64");

const RUN = "/run/user/1000";
const STATE = "/home/alice/.local/state/legerd";
const STORAGE = "/home/alice/.local/share/containers/storage";
const BOB = 1001;
const BOBS = "/var/tmp/bob";
const CONFIG = "/home/alice/.config/leger/legerd.json";
const PORT = 8080;

await machine.root(`useradd --create-home --uid ${BOB} bob && install -d -o bob -g bob -m 755 ${BOBS}`);
for (const name of ["reader.pl", "impostor.pl"]) {
  const text = fs.readFileSync(fileURLToPath(new URL(name, import.meta.url)));
  await machine.write("root", `/usr/local/bin/${name}`, text, { mode: "755" });
}
// One that can be given root's rights, and have them taken away.
await machine.root("install -m 755 /usr/bin/perl /usr/local/bin/bobs-perl");

// As on many a machine: what keeps others out is to be leger's own.
await machine.root(
  "chmod 755 /home/alice; for d in .local .local/state .local/share; do install -d -o alice -g alice -m 755 /home/alice/$d; done",
);

await owner.set({ key: CANARY, hidden: HIDDEN });
await owner.run("leger podman sync && leger services set web KEY=key");
await owner.run("leger door add guest --grant get,info:key");
await owner.run("leger door add open --mode 0666 --grant get:key");
await machine.root(
  `cp ${CONFIG} ${CONFIG}.new && sed -i 's|^  "doors": \\[|&{"tcp":"127.0.0.1:${PORT}","hosts":["127.0.0.1:${PORT}"]},|' ${CONFIG}.new && cat ${CONFIG}.new >${CONFIG}`,
);
await machine.write(
  "user",
  `${owner.places.units}/legerd.service.d/tcp.conf`,
  "[Service]\nRestrictAddressFamilies=AF_INET AF_INET6\n",
);
await owner.systemctl("daemon-reload");
await owner.restart("legerd.service");
await owner.run(
  `umask 077; { printf 'Authorization: Bearer '; leger token create ci --grant get:key; } >~/ci.header`,
);
await owner.run("leger secrets fetch web");

const PODMAN_RUN = "podman run --cgroups=disabled --network=none";
const WITH_KEY = `${PODMAN_RUN} --secret key,type=env,target=KEY`;
await owner.run(`${WITH_KEY} --detach --name web localhost/bb:1 stay`);

/** As bob (1001), another user of the machine, from nothing but an account. */
function asBob(command: string, options: CommandOptions = {}): Promise<CommandResult> {
  const become = ["setpriv", `--reuid=${BOB}`, `--regid=${BOB}`, "--init-groups", "--"];
  const environment = ["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/bob", "USER=bob"];
  return machine.root([...become, ...environment, "sh", "-c", command], { mayFail: true, ...options });
}

function curl(socket: string, name = "key"): string {
  const [program, ...args] = setecCall("/api/get", { Name: `leger/local/${name}` });
  const words = args.map((word) => (word === "/run/legerd/legerd.sock" ? socket : word));
  return [program, ...words.map((word) => `'${word}'`)].join(" ");
}

const legerdsPid = (): Promise<string> => owner.property("legerd.service", "MainPID");

type Attack = {
  what: string;
  command: string;
  /** What its output has in it where it succeeds. */
  loot: string;
  /** What makes the machine weak enough for it, by root; and what takes that back. */
  weaken: string;
  mend: string;
};

const BARED = `chmod 711 ${RUN} ${RUN}/leger ${RUN}/leger/*/ ${RUN}/leger/doors/*/`;
const COVERED = `chmod 700 ${RUN} ${RUN}/leger ${RUN}/leger/*/ ${RUN}/leger/doors/guest; chmod 711 ${RUN}/leger/doors/open`;
const connect = (socket: string): string =>
  `perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); connect(S, pack_sockaddr_un("${socket}")) or die "$!\\n"; print while <S>'`;

const OF_ANOTHER_USER: readonly Attack[] = [
  {
    what: "asks at the user's own door",
    command: curl(`${RUN}/leger/legerd.sock`),
    loot: IN_JSON,
    weaken: `${BARED}; chmod 666 ${RUN}/leger/legerd.sock`,
    mend: `${COVERED}; chmod 600 ${RUN}/leger/legerd.sock`,
  },
  {
    what: "asks at a container's door",
    command: curl(`${RUN}/leger/doors/guest/legerd.sock`),
    loot: IN_JSON,
    weaken: `${BARED}; chmod 666 ${RUN}/leger/doors/guest/legerd.sock`,
    mend: `${COVERED}; chmod 600 ${RUN}/leger/doors/guest/legerd.sock`,
  },
  {
    what: "asks at a container's door of mode 0666",
    command: curl(`${RUN}/leger/doors/open/legerd.sock`),
    loot: IN_JSON,
    weaken: BARED,
    mend: COVERED,
  },
  {
    what: "reads a credential socket",
    command: connect(`${RUN}/leger/cred/web.env`),
    loot: CANARY,
    weaken: `${BARED}; chmod 666 ${RUN}/leger/cred/web.env`,
    mend: `${COVERED}; chmod 600 ${RUN}/leger/cred/web.env`,
  },
  {
    what: "asks at the door on TCP with the token's file",
    command: `curl --silent -H @/home/alice/ci.header -H 'Sec-X-Tailscale-No-Browsers: setec' -H 'Content-Type: application/json' -d '{"Name":"leger/local/key"}' http://127.0.0.1:${PORT}/api/get`,
    loot: IN_JSON,
    weaken: "chmod 644 /home/alice/ci.header",
    mend: "chmod 600 /home/alice/ci.header",
  },
  {
    what: "reads the env file that was fetched",
    command: `cat ${RUN}/leger/env/web.env`,
    loot: CANARY,
    weaken: `${BARED}; chmod 644 ${RUN}/leger/env/web.env`,
    mend: `${COVERED}; chmod 600 ${RUN}/leger/env/web.env`,
  },
  {
    what: "takes the main key",
    command: `cat ${STATE}/keys/main.key`,
    loot: "leger-main-key-1:",
    weaken: `chmod 755 ${STATE} ${STATE}/keys; chmod 644 ${STATE}/keys/main.key`,
    mend: `chmod 700 ${STATE} ${STATE}/keys; chmod 600 ${STATE}/keys/main.key`,
  },
  {
    what: "copies the store",
    command: `head -c 15 ${STATE}/secrets.db`,
    loot: "SQLite format 3",
    weaken: `chmod 755 ${STATE}; chmod 644 ${STATE}/secrets.db`,
    mend: `chmod 700 ${STATE}; chmod 600 ${STATE}/secrets.db`,
  },
  {
    what: "reads the audit log",
    command: `cat ${STATE}/audit.log`,
    loot: "leger/local/key",
    weaken: `chmod 755 ${STATE}; chmod 644 ${STATE}/audit.log`,
    mend: `chmod 700 ${STATE}; chmod 600 ${STATE}/audit.log`,
  },
  {
    what: "reads what Podman writes for a container",
    command: `cat ${STORAGE}/overlay-containers/*/userdata/config.json`,
    loot: CANARY,
    weaken: `cp -a ${STORAGE}/overlay-containers /var/tmp/kept; chmod 711 /home/alice/.local/share/containers ${STORAGE}; chmod -R o+rX ${STORAGE}/overlay-containers`,
    mend: `chmod 700 ${STORAGE}; chmod -R o-rwx ${STORAGE}/overlay-containers; rm -r /var/tmp/kept`,
  },
  {
    what: "reads legerd's memory",
    command: `bobs-perl /usr/local/bin/reader.pl PID mem ${CANARY}`,
    loot: "found",
    weaken: "chmod 4755 /usr/local/bin/bobs-perl",
    mend: "chmod 755 /usr/local/bin/bobs-perl",
  },
  {
    what: "opens legerd's files through /proc",
    command: "bobs-perl /usr/local/bin/reader.pl PID fd 'SQLite format 3'",
    loot: "found",
    weaken: "chmod 4755 /usr/local/bin/bobs-perl",
    mend: "chmod 755 /usr/local/bin/bobs-perl",
  },
  {
    what: "reads legerd's environment",
    command: "bobs-perl -e 'open F, \"/proc/PID/environ\" or die; print <F>'",
    loot: "XDG_RUNTIME_DIR=",
    weaken: "chmod 4755 /usr/local/bin/bobs-perl",
    mend: "chmod 755 /usr/local/bin/bobs-perl",
  },
  {
    what: "sends legerd signals, such as make it dump its memory",
    command: 'bobs-perl -e \'$< = $>; print kill("URG", PID) ? "signalled" : "not"\'',
    loot: "signalled",
    weaken: "chmod 4755 /usr/local/bin/bobs-perl",
    mend: "chmod 755 /usr/local/bin/bobs-perl",
  },
];

describe("another user of the machine gets nothing", () => {
  test.for(OF_ANOTHER_USER)("who $what", async ({ command, loot, weaken, mend }) => {
    // The value is in its memory, and in nobody's arguments.
    await owner.run("leger secrets get key >/dev/null");
    const script = command.replaceAll("PID", await legerdsPid());
    const attack = async (): Promise<boolean> => {
      const { stdout } = await asBob(script, { timeoutMs: 120_000 });
      return stdout.includes(loot);
    };
    expect(await attack()).toBe(false);
    await machine.root(weaken);
    try {
      expect(await attack(), "control: with a weaker machine the attack works").toBe(true);
    } finally {
      await machine.root(mend);
    }
    expect(await attack()).toBe(false);
  });

  test.for([
    ["whose socket's directory others may write to", `${RUN}/leger`, "777", "700"],
    ["whose state others may enter", STATE, "755", "700"],
    ["whose main key others may read", `${STATE}/keys/main.key`, "644", "600"],
  ] as const)("a legerd %s does not start", async ([, file, weak, right]) => {
    await owner.run(`chmod ${weak} ${file}`);
    try {
      const after = await machine.now();
      await owner.systemctl("reset-failed");
      await owner.systemctl("restart legerd.service", { mayFail: true });
      expect(await owner.property("legerd.service", "ExecMainStatus")).toBe("77");
      expect(await owner.journal("legerd.service", after)).toContain(file);
      if (file === `${RUN}/leger`) {
        const { status, stdout } = await owner.run("leger secrets get key", { mayFail: true });
        expect([status, stdout]).toEqual([77, ""]);
      }
    } finally {
      await owner.run(`chmod ${right} ${file}`);
      await owner.systemctl("reset-failed");
      await owner.start("legerd.socket");
      await owner.start("legerd.service");
    }
    expect(await owner.text("leger secrets get key")).toBe(CANARY);
  });
});

/** How a program of alice's can be pointed at a socket, by its environment. */
const POINTERS = [
  ["LEGER_SOCKET", (directory: string) => ({ LEGER_SOCKET: `${directory}/leger/legerd.sock` })],
  ["XDG_RUNTIME_DIR", (directory: string) => ({ XDG_RUNTIME_DIR: directory })],
] as const;

/** What leger does at such a socket. */
const USES = [
  ["leger secrets get", "leger secrets get key"],
  ["leger secrets set", `printf ${CANARY} | leger secrets set key`],
  ["the driver", "SECRET_ID=0123456789abcdef012345678 leger driver lookup"],
  ["leger secrets fetch", `leger secrets fetch web --dir ${RUN}/elsewhere && cat ${RUN}/elsewhere/web.env`],
] as const;

describe.for(POINTERS)("with a changed %s", ([, environmentOf]) => {
  test.for(USES)("%s takes nothing from another user's impostor, and tells it nothing", async ([, use]) => {
    const log = "/var/tmp/impostor.log";
    const attempt = async (
      account: "bob" | "alice",
      directory: string,
      mode: string,
    ): Promise<{ said: string; heard: string }> => {
      const name = `impostor-${account}`;
      await machine.root(
        `rm -rf ${log} ${directory}; install -m 666 /dev/null ${log}
         install -d -o ${account} -g ${account} -m ${mode} ${directory} ${directory}/leger
         systemd-run --quiet --collect --unit=${name} --uid=${account} perl /usr/local/bin/impostor.pl ${directory}/leger/legerd.sock ${FALSE} ${Buffer.from(FALSE).toString("base64")} ${log} ${account === "bob" ? "open" : ""}`,
      );
      try {
        await machine.until("root", `test -S ${directory}/leger/legerd.sock`);
        await machine.waitFor(
          "it listens",
          async () =>
            (
              await machine.root(
                `curl --silent --unix-socket ${directory}/leger/legerd.sock http://x/hello`,
                { mayFail: true },
              )
            ).status === 0,
        );
        await machine.root(`: >${log}`);
        await owner.run(`mkdir -p -m 700 ${RUN}/elsewhere`);
        const { stdout, status } = await owner.run(use, { mayFail: true, env: environmentOf(directory) });
        return { said: `${status} ${stdout}`, heard: (await machine.root(`cat ${log}`)).stdout };
      } finally {
        await machine.root(`systemctl stop ${name}`);
      }
    };
    const robbed = await attempt("bob", `${BOBS}/run`, "755");
    expect(robbed).toEqual({ said: expect.stringMatching(/^77 $/), heard: "" });
    // The control, and the table's row about programs of the same user: that one is believed.
    const believed = await attempt("alice", "/var/tmp/alices", "700");
    expect(believed.heard).not.toBe("");
    if (use.includes(CANARY)) expect(believed.heard).toContain(IN_JSON);
    else expect(believed.said).toContain(FALSE);
  });
});

describe("with a changed environment", () => {
  const MARK = "/var/tmp/evil/mark";
  const EVIL = {
    BUN_OPTIONS: "--preload /var/tmp/evil/evil.js",
    NODE_OPTIONS: "--require /var/tmp/evil/evil.js",
    HOME: "/var/tmp/evil",
    XDG_CONFIG_HOME: "/var/tmp/evil",
    PATH: "/var/tmp/evil/bin:/usr/bin:/bin",
  };

  test("Podman's driver runs no other code, and control: leger called by hand does", async () => {
    await owner.run(`mkdir -p /var/tmp/evil/bin`);
    await machine.write("user", "/var/tmp/evil/evil.js", `require("fs").writeFileSync("${MARK}", "evil");\n`);
    await machine.write("user", "/var/tmp/evil/bin/leger", `#!/bin/sh\necho evil >${MARK}\n`, {
      mode: "755",
    });
    const { PATH, HOME, XDG_CONFIG_HOME, ...runtimes } = EVIL;
    const isMarked = async (): Promise<boolean> =>
      (await owner.run(`test -e ${MARK} && rm ${MARK}`, { mayFail: true })).status === 0;
    // HOME is where Podman's own storage is found.
    const shown = await owner.run(`${WITH_KEY} --rm localhost/bb:1 env`, {
      env: { ...runtimes, PATH, XDG_CONFIG_HOME },
    });
    expect(shown.stdout).toContain(CANARY);
    expect(await isMarked()).toBe(false);
    const driver =
      "SECRET_ID=$(podman secret inspect --format '{{.ID}}' key) sh -c \"$(sed -n \"s/^lookup = '\\(.*\\)'$/\\1/p\" ~/.config/containers/containers.conf.d/50-leger.conf)\"";
    expect((await owner.run(driver, { env: { ...runtimes, PATH } })).stdout).toBe(CANARY);
    expect(await isMarked()).toBe(false);

    await owner.run("SECRET_ID=x /usr/bin/leger driver lookup", { env: runtimes, mayFail: true });
    expect(await isMarked(), "control: BUN_OPTIONS").toBe(true);
    await owner.run("leger secrets list", { env: { PATH }, mayFail: true });
    expect(await isMarked(), "control, and the table's row: another leger in the path").toBe(true);
    expect([HOME, XDG_CONFIG_HOME]).toEqual(["/var/tmp/evil", "/var/tmp/evil"]);
  });

  test("an env file goes to no directory of another user's, and through no link", async () => {
    await asBob(`mkdir -p -m 777 ${BOBS}/env; chmod 777 ${BOBS}/env`);
    const there = await owner.run(`leger secrets fetch web --allow-disk --dir ${BOBS}/env`, {
      mayFail: true,
    });
    expect(there.status).not.toBe(0);
    expect((await asBob(`cat ${BOBS}/env/*`)).stdout).toBe("");

    await asBob(`touch ${BOBS}/stolen; chmod 666 ${BOBS}/stolen`);
    await owner.run(`rm ${RUN}/leger/env/web.env; ln -s ${BOBS}/stolen ${RUN}/leger/env/web.env`);
    await owner.run("leger secrets fetch web", { mayFail: true });
    expect((await asBob(`cat ${BOBS}/stolen`)).stdout).toBe("");
    // Control: what follows links hands it over.
    await owner.run(
      `ln -sf ${BOBS}/stolen ${RUN}/leger/env/web.env; leger secrets get key >${RUN}/leger/env/web.env`,
    );
    expect((await asBob(`cat ${BOBS}/stolen`)).stdout).toContain(CANARY);
    await owner.run(`rm ${RUN}/leger/env/web.env; leger secrets fetch web`);
    expect(await owner.text(`stat --format=%a ${RUN}/leger/env/web.env`)).toBe("600");
  });

  test("a backup is closed to others, whatever the umask", async () => {
    await machine.write("user", "/var/tmp/evil/passphrase", "correct horse battery staple\n", {
      mode: "600",
    });
    await owner.run(
      "umask 000; legerd backup /var/tmp/evil/b --passphrase-file /var/tmp/evil/passphrase; touch /var/tmp/evil/control",
    );
    expect(await owner.text("stat --format=%a /var/tmp/evil/b /var/tmp/evil/control")).toBe("600\n666");
    const { stdout } = await machine.root(
      `grep --count --text -e ${CANARY} -e leger/local -e leger-main-key /var/tmp/evil/b`,
      { mayFail: true },
    );
    expect(stdout).toBe("0\n");
  });
});

/** Asks at every socket that it finds, and shows its environment. */
const SEARCH = `env
cat /proc/1/environ
find / -path /proc -prune -o -path /sys -prune -o -type s -print | while read -r socket; do
  ${curl("$socket", "hidden").replace("'$socket'", '"$socket"')}
done
`;
await machine.write("user", "/home/alice/search", SEARCH);

/** A container of alice's, without a network. */
function podman(options: string, command: string): Promise<CommandResult> {
  const run = "podman run --rm --cgroups=disabled --network=none --volume /home/alice/search:/search:ro";
  return owner.run(`${run} ${options} ${CURL_IMAGE} ${command}`, { mayFail: true });
}

describe("a container", () => {
  const search = "sh /search";
  const LOOT = Buffer.from(HIDDEN).toString("base64");

  test("without a door finds none, and control: with the whole directory it has everything", async () => {
    const alone = await podman("", search);
    expect(alone.stdout).toContain("PATH=");
    expect(alone.stdout).not.toContain(LOOT);
    const weak = await podman(`--volume ${RUN}/leger:/run/leger`, search);
    expect(weak.stdout).toContain(LOOT);
  });

  test("with a door gets what that grants, and control: with grants for everything it has everything", async () => {
    const mount = `--volume ${RUN}/leger/doors/guest:/run/legerd:ro`;
    const denied = await podman(mount, search);
    expect(denied.stdout).toContain("access denied");
    expect(denied.stdout).not.toContain(LOOT);
    await owner.run(`cp ${CONFIG} /var/tmp/evil-config && sed -i 's|leger/local/key|*|' ${CONFIG}`);
    try {
      await owner.systemctl("reset-failed");
      await owner.restart("legerd.service");
      expect((await podman(mount, search)).stdout).toContain(LOOT);
    } finally {
      await owner.run(`cat /var/tmp/evil-config >${CONFIG}`);
      await owner.restart("legerd.service");
    }
  });

  test.for([
    ["a file", "rm legerd.sock && echo >legerd.sock"],
    ["a directory", "rm legerd.sock && mkdir legerd.sock"],
    ["a link to the user's own door", "rm legerd.sock && ln -s ../../legerd.sock legerd.sock"],
    ["a directory that others may write to", "chmod 777 ."],
  ] as const)(
    "cannot put %s in place of its door, and where it can it harms its own alone",
    async ([, change]) => {
      const mount = `${RUN}/leger/doors/guest:/run/legerd`;
      const before = await owner.text(`ls -lai ${RUN}/leger/doors/guest | tail -n +2`);
      const failed = await podman(`--volume ${mount}:ro`, `sh -c 'cd /run/legerd && ${change}'`);
      expect(failed.status).not.toBe(0);
      expect(await owner.text(`ls -lai ${RUN}/leger/doors/guest | tail -n +2`)).toBe(before);
      // Control: without :ro it can.
      const done = await podman(`--volume ${mount}`, `sh -c 'cd /run/legerd && ${change}'`);
      try {
        expect(done).toMatchObject({ status: 0 });
        await owner.systemctl("reset-failed");
        await owner.systemctl("restart legerd.service", { mayFail: true });
        expect(await owner.text("leger secrets get key")).toBe(CANARY);
        expect((await owner.run(curl(`${RUN}/leger/doors/open/legerd.sock`))).stdout).toContain(IN_JSON);
      } finally {
        await owner.run(`rm -rf ${RUN}/leger/doors/guest`);
        await owner.systemctl("reset-failed");
        await owner.start("legerd.socket");
        await owner.restart("legerd.service");
      }
    },
  );
});

describe("a copy of the disk", () => {
  const COPY = "/var/tmp/copy";

  test("without the main key holds no value and no name, and opens for nobody; control: with it, it does", async () => {
    await owner.run(`rm -rf ${COPY}; cp -a ${STATE} ${COPY}`);
    const grep = (text: string): string =>
      `grep --count --text --recursive --no-filename -e '${text}' ${COPY}/secrets.db* | awk '{n += $1} END {print n}'`;
    expect(await owner.text(grep(`${CANARY}\\|${HIDDEN}\\|leger/local`))).toBe("0");
    expect(await owner.text(grep("SQLite format 3"))).not.toBe("0");
    const check = (): Promise<CommandResult> => owner.run(`legerd check --state ${COPY}`, { mayFail: true });
    await owner.run(`mv ${COPY}/keys /var/tmp/keys-apart`);
    const without = await check();
    expect([without.status, without.stderr]).toEqual([
      expect.any(Number),
      expect.stringMatching(/main key|main\.key/),
    ]);
    expect(without.status).not.toBe(0);
    await owner.run(`rm -rf ${COPY}/keys; mv /var/tmp/keys-apart ${COPY}/keys`);
    await owner.run(
      `systemd-run --user --quiet --collect --unit=copy --setenv=XDG_CONFIG_HOME=${BOBS} legerd --state ${COPY} --socket ${RUN}/copy/legerd.sock`,
    );
    try {
      await machine.until(
        "user",
        `curl --silent --fail --unix-socket ${RUN}/copy/legerd.sock http://x/health`,
      );
      expect((await owner.run(curl(`${RUN}/copy/legerd.sock`))).stdout).toContain(IN_JSON);
    } finally {
      await owner.systemctl("stop copy.service", { mayFail: true });
      await owner.run(`rm -rf ${COPY} ${RUN}/copy`);
    }
  });
});

describe("the table tells the truth: not kept out is", () => {
  test("a program of the same user: it asks, reads the memory, takes the main key", async () => {
    expect(await owner.text("leger secrets get key")).toBe(CANARY);
    expect(await owner.text(`cat ${STATE}/keys/main.key`)).toMatch(/^leger-main-key-1:/);
    expect(await owner.text(`perl /usr/local/bin/reader.pl ${await legerdsPid()} mem ${CANARY}`)).toBe(
      "found",
    );
  });

  test("root: it reads the memory and the main key, and asks at the socket", async () => {
    await owner.run("leger secrets get key");
    const pid = await legerdsPid();
    expect((await machine.root(`perl /usr/local/bin/reader.pl ${pid} mem ${CANARY}`)).stdout).toBe("found\n");
    expect((await machine.root(`cat ${STATE}/keys/main.key`)).stdout).toMatch(/^leger-main-key-1:/);
    expect((await machine.root(curl(`${RUN}/leger/legerd.sock`))).stdout).toContain(IN_JSON);
  });

  test("who calls podman with LD_PRELOAD: the driver doesn't clear it", async () => {
    const { stderr } = await owner.run(`${WITH_KEY} --rm localhost/bb:1 env`, {
      env: { LD_PRELOAD: "/var/tmp/evil/none.so" },
    });
    expect(stderr).toContain("/var/tmp/evil/none.so");
    const { stdout } = await owner.run(
      "SECRET_ID=x sh -c 'exec /usr/bin/leger driver lookup' 2>&1 | grep -c none.so",
      { env: { LD_PRELOAD: "/var/tmp/evil/none.so" }, mayFail: true },
    );
    expect(Number(stdout)).toBeGreaterThan(1);
  });
});

test("as installed, legerd listens at no address; control: here it was told to", async () => {
  expect(await listens()).toBe(true);
  await owner.run(`cp ${CONFIG} /var/tmp/evil-config; rm ${CONFIG}; systemctl --user restart legerd.service`);
  try {
    expect(await legerdsPid()).not.toBe("0");
    expect(await listens()).toBe(false);
  } finally {
    await owner.run(`cp /var/tmp/evil-config ${CONFIG}; systemctl --user restart legerd.service`);
  }
});

async function listens(): Promise<boolean> {
  const pid = await legerdsPid();
  const sockets = "ss --listening --tcp --udp --numeric --processes";
  return (await machine.root(`${sockets} | grep pid=${pid},`, { mayFail: true })).status === 0;
}
