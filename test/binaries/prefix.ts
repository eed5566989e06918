/** prefix — the compiled programs as a package lays them out. */
import * as fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const DIST = fileURLToPath(new URL("../../dist/", import.meta.url));

/** Where `npm run build` puts an architecture's programs. */
export const builtFor = (arch: string): string => path.join(DIST, `linux-${arch}`);
/** This machine's. */
export const BUILT = builtFor(process.arch);

/** Lays out `PREFIX/bin` and `PREFIX/libexec` in dist, anew; gives PREFIX. */
export function layOut(): string {
  const prefix = path.join(DIST, "prefix");
  if (!fs.existsSync(path.join(BUILT, "leger-cli"))) {
    throw new Error(`${BUILT}: no programs to test: npm run build -- --arch ${process.arch}`);
  }
  fs.rmSync(prefix, { recursive: true, force: true });
  fs.mkdirSync(path.join(prefix, "bin"), { recursive: true });
  fs.mkdirSync(path.join(prefix, "libexec/leger"), { recursive: true });
  // Not symlinks: a program finds the other by where it lies itself.
  fs.linkSync(path.join(BUILT, "leger"), path.join(prefix, "bin/leger"));
  fs.linkSync(path.join(BUILT, "leger-cli"), path.join(prefix, "libexec/leger/leger"));
  fs.symlinkSync("../libexec/leger/leger", path.join(prefix, "bin/legerd"));
  return prefix;
}
