import { readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { run } from "../../src/core/exec.ts";
import { LEGER, makePlaces, PROJECT_DIR } from "../support/legerd.ts";

/** Notes every module that is resolved from now on. */
function tracer(log: string): string {
  const source = `
    import { appendFileSync } from "node:fs";
    import { registerHooks } from "node:module";
    registerHooks({ resolve(specifier, context, next) {
      const found = next(specifier, context);
      appendFileSync(${JSON.stringify(log)}, found.url + "\\n");
      return found;
    } });`;
  return `data:text/javascript,${encodeURIComponent(source)}`;
}

async function modulesOf(args: readonly string[]): Promise<string[]> {
  using places = makePlaces();
  const log = join(places.base, "modules");
  const env = {
    PATH: process.env["PATH"],
    XDG_RUNTIME_DIR: places.runtimeDir,
    _CONTAINERS_ROOTLESS_UID: "1000",
    SECRET_ID: "x",
  };
  await run(process.execPath, ["--import", tracer(log), LEGER, ...args], { env, timeoutMs: 20_000 });
  const urls = new Set(readFileSync(log, "utf8").trimEnd().split("\n"));
  return [...urls].map((url) => (url.startsWith("file:") ? relative(PROJECT_DIR, fileURLToPath(url)) : url));
}

test.for([
  ["driver", "lookup"],
  ["driver", "--help"],
  ["secrets", "fetch", "openwebui", "--allow-disk"],
])("leger %s %s loads no package, and of the CLI nothing but its hot part", async (args) => {
  const modules = await modulesOf(args);
  expect(modules).toContain("src/driver/driver.ts");
  const foreign = modules.filter(
    (name) => !/^(?:node:|src\/(?:bin|core|driver|fetch)\/|src\/cli\/(?:run-)?hot\.ts$)/.test(name),
  );
  expect(foreign).toEqual([]);
});
