/** A main key that the machine itself keeps: as a systemd credential, encrypted with the host's key. */
import { describe, expect, test } from "vitest";
import { bootMachine } from "./machine.ts";

const machine = await bootMachine();
await machine.install();

const STATE = "/var/lib/legerd";
const CREDENTIAL = "/etc/credstore.encrypted/legerd-main.key";
/** As docs/backup.md has it. */
const DROP_IN = `[Service]\nLoadCredentialEncrypted=main.key:${CREDENTIAL}\n`;
/** What is there without the unit, to run legerd's other commands by. */
const WITH_KEY = `systemd-run --quiet --pipe --wait --property=LoadCredentialEncrypted=main.key:${CREDENTIAL}`;
const VALUE = "canary-cr3d3nt14l";

const root = async (script: string, stdin?: string): Promise<string> => {
  const { stdout } = await machine.root(script, stdin === undefined ? {} : { stdin });
  return stdout.trim();
};

describe("the main key as a credential", () => {
  test("moved there as the manual says, it opens the store, and lies nowhere else", async () => {
    await root("systemctl --quiet enable --now legerd.socket");
    await root("leger secrets set openai_api_key", VALUE);
    await root("systemctl stop legerd.socket legerd.service");
    await root(
      `mkdir -p -m 700 /etc/credstore.encrypted && systemd-creds setup &&
       systemd-creds encrypt --with-key=host --name=main.key ${STATE}/keys/main.key ${CREDENTIAL}`,
    );
    await machine.write("root", "/etc/systemd/system/legerd.service.d/main-key.conf", DROP_IN);
    await root(`shred -u ${STATE}/keys/main.key && systemctl daemon-reload && systemctl start legerd.socket`);
    expect(await root("leger secrets get openai_api_key")).toBe(VALUE);
    const status = JSON.parse(await root("leger status --json"));
    expect(status).toMatchObject({ main_key: "/run/credentials/legerd.service/main.key" });
    expect(await root(`grep -rlaF leger-main-key-1: ${STATE} /etc || echo nowhere`)).toBe("nowhere");
  });

  test("without the credential legerd does not start, and says which key is missing", async () => {
    await root("systemctl stop legerd.socket legerd.service");
    const check = await machine.root(`legerd check --state ${STATE}`, { mayFail: true });
    expect(check).toMatchObject({ status: 78, stderr: expect.stringContaining("main.key is missing") });
    expect(await root(`${WITH_KEY} legerd check --json --state ${STATE}`)).toContain('"ok":true');
    await root("systemctl start legerd.socket");
  });

  test("a backup has it, also beside the running daemon, and opens without it elsewhere", async () => {
    await root("printf 'six random words\\n' >/root/passphrase && chmod 600 /root/passphrase");
    const passphrase = "--passphrase-file /root/passphrase";
    await root(`${WITH_KEY} legerd backup /root/backup --state ${STATE} ${passphrase}`);
    await root(`legerd restore /root/backup --state /root/copy ${passphrase}`);
    expect(JSON.parse(await root("legerd check --json --state /root/copy"))).toMatchObject({
      ok: true,
      secrets: 1,
    });
    expect(JSON.parse(await root("leger status --json"))).toMatchObject({
      last_backup: { made_at: expect.any(String) },
    });
  });

  test("another one takes its place, and the old one opens nothing any more", async () => {
    await root("systemctl stop legerd.socket legerd.service");
    const print = `${WITH_KEY} legerd rekey --print --state ${STATE}`;
    await root(`${print} | systemd-creds encrypt --with-key=host --name=main.key - ${CREDENTIAL}.new`);
    await root(`cp ${CREDENTIAL} ${CREDENTIAL}.old && mv ${CREDENTIAL}.new ${CREDENTIAL}`);
    await root("systemctl start legerd.socket");
    expect(await root("leger secrets get openai_api_key")).toBe(VALUE);
    await root("systemctl stop legerd.socket legerd.service");
    const old = WITH_KEY.replace(CREDENTIAL, `${CREDENTIAL}.old`);
    const refused = await machine.root(`${old} legerd check --state ${STATE}`, { mayFail: true });
    expect(refused.status).toBe(78);
    expect(await root(`${WITH_KEY} legerd check --json --state ${STATE}`)).toContain('"ok":true');
  });
});
