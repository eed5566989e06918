/** stage — lays out in one directory what packages hold beside the files of this tree: generated, packed, dated. */
import * as fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { LegerError } from "../../src/core/error.ts";
import { completionScripts } from "../support/completions.ts";
import { manualPages } from "../support/manual.ts";
import { debianChangelog } from "./changelog.ts";
import { copyrightFile, licenseExpression, thirdParties } from "./licenses.ts";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));

export type Stage = Disposable & { directory: string };

type Sources = { binaries: string; version: string; date: Date; maintainer: string };

/** Dispose of it. FAILED when the binaries are not built. */
export async function makeStage({ binaries, version, date, maintainer }: Sources): Promise<Stage> {
  const parties = await thirdParties();
  const license = /^license: (.*)$/m.exec(
    fs.readFileSync(path.join(ROOT, "packaging/nfpm.yaml"), "utf8"),
  )?.[1];
  if (license !== licenseExpression(parties)) {
    throw new LegerError("FAILED", `packaging/nfpm.yaml: license is not ${licenseExpression(parties)}`, {
      hints: [
        "something is bundled by other terms than before: see that they can be met, then write them there",
      ],
    });
  }
  const dist = path.join(ROOT, "dist");
  fs.mkdirSync(dist, { recursive: true });
  const directory = fs.mkdtempSync(path.join(dist, ".stage-"));
  const stage: Stage = {
    directory,
    [Symbol.dispose]: () => fs.rmSync(directory, { recursive: true, force: true }),
  };
  const put = (name: string, content: string | Uint8Array): void => {
    const file = path.join(directory, name);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, content);
  };
  try {
    for (const name of ["leger", "leger-cli"])
      copyBinary(path.join(binaries, name), path.join(directory, name));
    fs.cpSync(path.join(ROOT, "quadlets"), path.join(directory, "quadlets"), { recursive: true });
    for (const { file, text } of await manualPages(date)) put(`man/${file}.gz`, packed(text));
    for (const { shell, file, text } of await completionScripts()) put(`completions/${shell}/${file}`, text);
    const news = fs.readFileSync(path.join(ROOT, "CHANGELOG.md"), "utf8");
    put("changelog.gz", packed(debianChangelog(news, { version, date, maintainer })));
    put("copyright", copyrightFile(parties));
    for (const { file, text } of parties.runtimes) put(`licenses/${file}`, text);
    dateAll(directory, date);
  } catch (error) {
    stage[Symbol.dispose]();
    throw error;
  }
  return stage;
}

function copyBinary(from: string, to: string): void {
  if (!fs.existsSync(from)) {
    throw new LegerError("FAILED", `${path.relative(ROOT, from)} is not there`, {
      hints: ["build it: npm run build"],
    });
  }
  fs.copyFileSync(from, to, fs.constants.COPYFILE_FICLONE);
  fs.chmodSync(to, 0o755);
}

/** gzip without a name or a time in it. */
function packed(text: string): Uint8Array {
  return gzipSync(text, { level: 9 });
}

/** What a package says of its files must not depend on when it was made, or by whom. */
function dateAll(directory: string, date: Date): void {
  for (const entry of fs.readdirSync(directory, { recursive: true, withFileTypes: true })) {
    const place = path.join(entry.parentPath, entry.name);
    const isProgram = (fs.statSync(place).mode & 0o100) !== 0;
    fs.chmodSync(place, isProgram ? 0o755 : 0o644);
    fs.utimesSync(place, date, date);
  }
}
