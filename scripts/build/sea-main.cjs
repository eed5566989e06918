/** sea-main — the first code of the executable: loads the program that is meant, and what V8 had compiled of it before. */
"use strict";
const { basename } = require("node:path");
const { getAsset, getRawAsset, getAssetKeys } = require("node:sea");
const { Script } = require("node:vm");

const name = basename(process.argv0) === "legerd" ? "legerd" : "leger";
const cache = `${name}.cache`;
const cachedData = getAssetKeys().includes(cache) ? Buffer.from(getRawAsset(cache)) : undefined;
// V8 takes the cache only for the same source, version and flags.
new Script(getAsset(name, "utf8"), { filename: name, cachedData }).runInThisContext()(
  require,
  process.execPath,
);
