/** curl-image — an image with curl in it, made of the machine's own files. */
import type { Owner } from "./owner.ts";

export const CURL_IMAGE = "localhost/curl:1";

/** busybox's image, and curl with every library that it loads. */
export async function importCurlImage(owner: Owner): Promise<void> {
  await owner.run(`set -e
    image=$(mktemp -d /var/tmp/curl-image.XXXXXX)
    tar --extract --file /usr/share/test-image.tar --directory "$image"
    ldd /usr/bin/curl | grep -o '/[^ ]*' | xargs cp --dereference --parents --target-directory "$image"
    cp /usr/bin/curl "$image/bin/curl"
    tar --create --directory "$image" . | podman import -q - ${CURL_IMAGE}
    rm -r "$image"`);
}

/** The arguments of curl for a call of setec's at a door that is mounted at /run/legerd; the status is its last line. */
export function setecCall(path: string, body: object): string[] {
  return [
    ...CURL,
    "-H",
    "Content-Type: application/json",
    "-H",
    "Sec-X-Tailscale-No-Browsers: setec",
    "-d",
    JSON.stringify(body),
    `http://legerd${path}`,
  ];
}

/** The same for any other route. */
export function plainCall(method: string, path: string): string[] {
  return [...CURL, "-X", method, `http://legerd${path}`];
}

const CURL = [
  "curl",
  "--silent",
  "--show-error",
  "--max-time",
  "30",
  "--write-out",
  "\n%{http_code}",
  "--unix-socket",
  "/run/legerd/legerd.sock",
];

/** What curl was told: the status, and the body before it. */
export function answerOf(stdout: string): { status: number; body: string } {
  const at = stdout.lastIndexOf("\n");
  return { status: Number(stdout.slice(at + 1)), body: stdout.slice(0, at) };
}
