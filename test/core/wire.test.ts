import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decodeAnswer, encodeRequest, type WireRequest } from "../../src/core/wire.ts";

const bytes = (text: string): Uint8Array => Buffer.from(text, "latin1");
const answer = (head: readonly string[], body = ""): Uint8Array =>
  bytes(`${head.join("\r\n")}\r\n\r\n${body}`);

describe("a request", () => {
  test("is one HTTP/1.0 message with its length", () => {
    const request: WireRequest = {
      method: "POST",
      path: "/v1/podman/lookup?x=1",
      headers: { "Content-Type": "application/json" },
      body: Uint8Array.of(0, 255, 10),
    };
    expect(Buffer.from(encodeRequest(request))).toEqual(
      Buffer.from(
        "POST /v1/podman/lookup?x=1 HTTP/1.0\r\nHost: legerd\r\nContent-Length: 3\r\nContent-Type: application/json\r\n\r\n\0\xff\n",
        "latin1",
      ),
    );
  });

  test.for([
    ["a line break in the path", { path: "/a\r\nX: canary" }, "the path"],
    ["a space in the path", { path: "/a b" }, "the path"],
    ["a path without a slash", { path: "a" }, "the path"],
    ["letters beyond ASCII in the path", { path: "/é" }, "the path"],
    ["a line break in the method", { method: "GET\r\n" }, "the method"],
    ["CR in a header", { headers: { X: "canary\rY: 1" } }, "the header X"],
    ["LF in a header", { headers: { X: "canary\nY: 1" } }, "the header X"],
    ["NUL in a header", { headers: { X: "canary\0" } }, "the header X"],
    ["letters beyond Latin-1 in a header", { headers: { X: "canary \u010d\u010a" } }, "the header X"],
    ["a line break in a header's name", { headers: { "X\r\nY": "1" } }, "the name of a header"],
    ["a second Content-Length", { headers: { "content-length": "1" } }, "the name of a header"],
    ["a Transfer-Encoding", { headers: { "Transfer-Encoding": "chunked" } }, "the name of a header"],
  ] as const)("with %s is refused", ([, part, where]) => {
    const encode = () => encodeRequest({ method: "GET", path: "/", ...part });
    expect(encode).toThrow(
      expect.objectContaining({ code: "BAD_DATA", message: expect.stringContaining(where) }),
    );
    expect(encode).not.toThrow(/canary/);
  });
});

describe("an answer", () => {
  test("gives status, headers in lower case and the bytes of its body", () => {
    const { status, headers, body } = decodeAnswer(
      answer(["HTTP/1.1 404 Not Found", "Content-Length:5", "X-A: 1 ", "x-a:\t2"], "\0\xff\r\n\n"),
    );
    expect(status).toBe(404);
    expect([...headers]).toEqual([
      ["content-length", "5"],
      ["x-a", "1, 2"],
    ]);
    expect(body).toEqual(Buffer.from("\0\xff\r\n\n", "latin1"));
  });

  test("gives back any body exactly", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (body) => {
        const head = answer(["HTTP/1.0 200 OK", `Content-Length: ${body.length}`]);
        expect(new Uint8Array(decodeAnswer(Buffer.concat([head, body])).body)).toEqual(body);
      }),
    );
  });

  test("may be 1.5 MiB long", () => {
    const body = "v".repeat(1_572_864);
    expect(
      decodeAnswer(answer(["HTTP/1.1 200 OK", `Content-Length: ${body.length}`], body)).body,
    ).toHaveLength(1_572_864);
  });

  test.for([
    ["nothing at all", bytes(""), /without an answer/],
    ["garbage", bytes("canary\0\xff"), /no end of the headers/],
    ["garbage with an end", bytes("canary\r\n\r\n"), /no status line/],
    ["another protocol", answer(["SSH-2.0-canary", "Content-Length: 0"]), /no status line/],
    ["a status of two digits", answer(["HTTP/1.1 20 canary", "Content-Length: 0"]), /no status line/],
    ["an interim status", answer(["HTTP/1.1 100 Continue", "Content-Length: 0"]), /no status line/],
    ["a head cut short", bytes("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"), /no end of the headers/],
    ["no Content-Length", answer(["HTTP/1.1 200 OK"], "canary"), /no Content-Length/],
    [
      "a negative Content-Length",
      answer(["HTTP/1.1 200 OK", "Content-Length: -1"]),
      /malformed Content-Length/,
    ],
    [
      "two equal Content-Lengths",
      answer(["HTTP/1.1 200 OK", "Content-Length: 1", "Content-Length: 1"], "c"),
      /malformed Content-Length/,
    ],
    [
      "a hexadecimal Content-Length",
      answer(["HTTP/1.1 200 OK", "Content-Length: 0x6"], "canary"),
      /malformed Content-Length/,
    ],
    ["a body one byte short", answer(["HTTP/1.1 200 OK", "Content-Length: 7"], "canary"), /shorter than/],
    ["a body one byte long", answer(["HTTP/1.1 200 OK", "Content-Length: 5"], "canary"), /longer than/],
    [
      "a chunked body",
      answer(["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"], "6\r\ncanary\r\n0\r\n\r\n"),
      /Transfer-Encoding/,
    ],
    ["a folded header", answer(["HTTP/1.1 200 OK", "Content-Length: 0", " canary"]), /malformed header/],
    ["a header without a colon", answer(["HTTP/1.1 200 OK", "canary"]), /malformed header/],
    [
      "a header with a bare line feed",
      answer(["HTTP/1.1 200 OK", "A: 1\nContent-Length: 0"]),
      /malformed header/,
    ],
    [
      "more headers than 64 KiB",
      answer(["HTTP/1.1 200 OK", `A: ${"c".repeat(65_536)}`, "Content-Length: 0"]),
      /no end of the headers/,
    ],
    [
      "more than 1.5 MiB",
      answer(["HTTP/1.1 200 OK", "Content-Length: 1572865"], "c".repeat(1_572_865)),
      /more than 1\.5 MiB/,
    ],
  ] as const)("is refused: %s", ([, received, message]) => {
    const decode = () => decodeAnswer(received);
    expect(decode).toThrow(
      expect.objectContaining({ code: "BAD_ANSWER", message: expect.stringMatching(message) }),
    );
    expect(decode).not.toThrow(/canary/);
  });

  test("cut off anywhere is refused", () => {
    const whole = answer(["HTTP/1.1 200 OK", "Content-Length: 6"], "secret");
    for (let length = 0; length < whole.length; length += 1) {
      expect(() => decodeAnswer(whole.subarray(0, length))).toThrow(
        expect.objectContaining({ code: "BAD_ANSWER" }),
      );
    }
    expect(decodeAnswer(whole).status).toBe(200);
  });
});
