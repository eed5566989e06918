/** sea-main — the first code of the compiled program: loads the bundle, and with it what V8 had compiled of it before. */
"use strict";
const { getAsset, getRawAsset, getAssetKeys } = require("node:sea");
const { Script } = require("node:vm");

const cachedData = getAssetKeys().includes("code-cache") ? Buffer.from(getRawAsset("code-cache")) : undefined;
// The name that the cache was made with; V8 takes the cache only for the same source, version and flags.
new Script(getAsset("program", "utf8"), { filename: "leger", cachedData }).runInThisContext()(
  require,
  process.execPath,
  process.argv0,
);
