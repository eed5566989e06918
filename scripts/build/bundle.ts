/** bundle — an entry point of src/bin as one file of JavaScript, with what the build knows put in. */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { build as esbuild, type BuildOptions, type Metafile, type Plugin } from "esbuild";
import { BUN_VERSION } from "./bases.ts";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));

export type Bundle = { code: string; metafile: Metafile };

type Format = "cjs" | "esm";

/**
 * `cjs` for what is compiled (neither a single executable nor Bun's bytecode takes modules), `esm` for Node. Same
 * tree, same bytes.
 */
export async function bundle(entry: string, format: Format): Promise<Bundle> {
  return bundleWith(entry, format, { LEGER_STORE_THREAD: JSON.stringify(await bundleThread()) });
}

/** The code of the store's threads, which the programs have in them. */
export async function bundleThread(): Promise<string> {
  const { code } = await bundleWith("src/store/store-thread.ts", "cjs", {});
  return code;
}

async function bundleWith(entry: string, format: Format, define: Record<string, string>): Promise<Bundle> {
  const shared: BuildOptions = {
    absWorkingDir: ROOT,
    entryPoints: [entry],
    outfile: "bundle.js",
    bundle: true,
    write: false,
    metafile: true,
    platform: "node",
    target: "node24",
    minify: true,
    plugins: [slimUndici, slimPromClient, plainWidths],
    // Stack traces, which LEGER_DEBUG shows, name functions.
    keepNames: false,
    legalComments: "none",
    logLevel: "warning",
    define: {
      LEGER_COMMIT: JSON.stringify(commit()),
      LEGER_BUN: JSON.stringify(BUN_VERSION),
      ...define,
    },
  };
  const { outputFiles = [], metafile } = await esbuild(
    format === "esm"
      ? {
          ...shared,
          format,
          // yargs and its like still call require() for node's own modules.
          banner: {
            js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);',
          },
        }
      : {
          ...shared,
          format,
          // A script that node:vm compiled cannot import; what is imported late are modules of Node's.
          supported: { "dynamic-import": false },
          define: {
            ...shared.define,
            "import.meta.url": "importMetaUrl",
            "import.meta.dirname": "undefined",
          },
        },
  );
  const [file] = outputFiles;
  if (file === undefined || metafile === undefined) throw new Error(`${entry}: esbuild gave nothing`);
  // A script in a script begins with no "#!" line.
  const code = format === "cjs" ? file.text.replace(/^#!.*\n/, "") : file.text;
  // Only where it is asked for: node:url would make a lookup on Bun a quarter longer.
  return { code: /\bimportMetaUrl\b/.test(code) ? `${OWN_URL}${code}` : code, metafile };
}

const OWN_URL = 'const importMetaUrl = require("node:url").pathToFileURL(__filename).href;\n';

/**
 * undici without what a client of a unix socket never uses: fetch, caches, WebSocket and HTTP/2, with which it would
 * take 100 ms to load, and so takes 30. It does without `node:http2` by itself where that is not to be had.
 */
const slimUndici: Plugin = {
  name: "slim-undici",
  setup(build) {
    build.onResolve({ filter: /^undici$/ }, () => ({ path: "undici", namespace: "slim" }));
    build.onResolve({ filter: /^node:http2$/ }, ({ path }) => ({ path, namespace: "slim" }));
    build.onLoad({ filter: /^undici$/, namespace: "slim" }, () => ({
      resolveDir: ROOT,
      // As undici's own index.js puts them together.
      contents: `import api from "undici/lib/api/index.js";
        import Dispatcher from "undici/lib/dispatcher/dispatcher.js";
        Object.assign(Dispatcher.prototype, api);
        export { default as Pool } from "undici/lib/dispatcher/pool.js";
        export { default as errors } from "undici/lib/core/errors.js";`,
    }));
    build.onLoad({ filter: /^node:http2$/, namespace: "slim" }, () => ({
      contents: `throw new Error("left out of this build");`,
    }));
  },
};

/** prom-client without its gateway, its own measurements and quantiles, which bring cluster, http, zlib and two packages along. */
const slimPromClient: Plugin = {
  name: "slim-prom-client",
  setup(build) {
    build.onResolve({ filter: /^prom-client$/ }, () => ({ path: "prom-client", namespace: "slim" }));
    build.onLoad({ filter: /^prom-client$/, namespace: "slim" }, () => ({
      resolveDir: ROOT,
      contents: `export { default as Registry } from "prom-client/lib/registry.js";
        export { default as Counter } from "prom-client/lib/counter.js";
        export { default as Gauge } from "prom-client/lib/gauge.js";
        export { default as Histogram } from "prom-client/lib/histogram.js";`,
    }));
  },
};

/**
 * How wide a text is on a terminal, for yargs to lay out help: string-width looks each grapheme up, and to load what
 * it needs for that (Intl.Segmenter, tables of emoji) takes 60 ms. Our help has no character that is wide or combines.
 */
const plainWidths: Plugin = {
  name: "plain-widths",
  setup(build) {
    build.onResolve({ filter: /^string-width$/ }, ({ path }) => ({ path, namespace: "plain" }));
    build.onLoad({ filter: /^string-width$/, namespace: "plain" }, () => ({
      contents: "export default (text) => [...text].length;",
    }));
  },
};

/** The commit of this tree, and "-dirty" behind it when the tree holds more; "unknown" outside a checkout. */
function commit(): string {
  try {
    const git = (...args: string[]): string =>
      execFileSync("git", args, { cwd: ROOT, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    const clean = git("status", "--porcelain", "--untracked-files=no", "--", "src") === "";
    return git("rev-parse", "HEAD") + (clean ? "" : "-dirty");
  } catch {
    return "unknown";
  }
}
