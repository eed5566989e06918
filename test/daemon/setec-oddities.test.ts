import * as fs from "node:fs";
import { expect, test } from "vitest";
import { z } from "zod";
import { startTestLegerd } from "../support/legerd.ts";
import { exchange } from "../support/raw-http.ts";

const Answer = z.object({
  status: z.number(),
  type: z.string().optional(),
  location: z.string().optional(),
  nosniff: z.literal(true).optional(),
  body: z.string(),
});
type Answer = z.infer<typeof Answer>;
const Oddities = z.object({
  /** Stands in `send` where it says {usual}. */
  usual: z.string(),
  secrets: z.record(z.string(), z.string()),
  groups: z.record(
    z.string(),
    z.array(
      z.object({
        send: z.string().optional(),
        send_base64: z.string().optional(),
        answers: z.array(Answer),
      }),
    ),
  ),
});

const file = new URL("../vectors/setec-oddities.json", import.meta.url);
const { usual, secrets, groups } = Oddities.parse(JSON.parse(fs.readFileSync(file, "utf8")));

test.for(Object.entries(groups))(
  "what few clients send is answered as setec did: %s",
  async ([group, rows]) => {
    const nobody = group === "a caller nobody knows";
    await using daemon = await startTestLegerd(
      {},
      {
        doors: ({ socket, runtimeDir }) => [
          { unix: socket, mode: 0o600, principal: "owner", grants: undefined },
          { unix: `${runtimeDir}/nobody/legerd.sock`, mode: 0o600, principal: "", grants: undefined },
        ],
      },
    );
    for (const [name, value] of Object.entries(secrets)) {
      await putText(daemon.socket, name, value);
    }
    const door = nobody ? `${daemon.runtimeDir}/nobody/legerd.sock` : daemon.socket;
    const seen = await Promise.all(
      rows.map(async ({ send = "", send_base64: base64 }) => {
        const bytes =
          base64 === undefined ? Buffer.from(send.replace("{usual}", usual)) : Buffer.from(base64, "base64");
        return parseAnswers(await exchange(door, bytes), send.startsWith("HEAD "));
      }),
    );
    for (const [at, { send, send_base64: base64, answers }] of rows.entries()) {
      expect(seen[at], send ?? base64).toEqual(answers);
    }
    expect(rows.length).toBeGreaterThan(5);
  },
);

test("a redirection keeps a query beyond ASCII as it came in its page, and escapes it in the header", async () => {
  await using daemon = await startTestLegerd();
  // As Go's http.Redirect does.
  const [answer] = parseAnswers(
    await exchange(
      daemon.socket,
      Buffer.from("GET /a//b?q=é&r HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    ),
    false,
  );
  expect(answer).toMatchObject({ status: 307, location: "/a/b?q=%c3%a9&r" });
  const page = '<a href="/a/b?q=é&amp;r">Temporary Redirect</a>.\n\n';
  expect(answer?.body).toBe(Buffer.from(page).toString("latin1"));
});

async function putText(socket: string, name: string, value: string): Promise<void> {
  const body = JSON.stringify({ Name: name, Value: Buffer.from(value).toString("base64") });
  const head = `POST /api/put HTTP/1.1\r\n${usual}Content-Length: ${body.length}\r\n\r\n`;
  expect((await exchange(socket, Buffer.from(head + body))).toString()).toMatch(/^HTTP\/1\.1 200 /);
}

/** Every answer on a connection; bodies by their length, chunked ones not expected. */
function parseAnswers(bytes: Buffer, toHead: boolean): Answer[] {
  const answers: Answer[] = [];
  let rest = bytes;
  while (rest.length > 0) {
    const end = rest.indexOf("\r\n\r\n");
    const [statusLine = "", ...lines] = rest.subarray(0, end).toString("latin1").split("\r\n");
    const headers = new Map(
      lines.map((line): [string, string] => {
        const colon = line.indexOf(":");
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
      }),
    );
    rest = rest.subarray(end + 4);
    const length = toHead ? 0 : Number(headers.get("content-length") ?? 0);
    const [type, location] = [headers.get("content-type"), headers.get("location")];
    answers.push({
      status: Number(statusLine.split(" ")[1]),
      ...(type === undefined ? {} : { type }),
      ...(location === undefined ? {} : { location }),
      ...(headers.get("x-content-type-options") === "nosniff" ? { nosniff: true as const } : {}),
      body: rest.subarray(0, length).toString("latin1"),
    });
    rest = rest.subarray(length);
  }
  return answers;
}
