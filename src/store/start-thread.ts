/** start-thread — starts a thread of the store's, in a checkout and in a compiled program. */
import { getCompileCacheDir } from "node:module";
import path from "node:path";
import { Worker, type ResourceLimits } from "node:worker_threads";
import { STORE_THREAD } from "../core/build.ts";

/** `resourceLimits`: Node's, where the thread is to take little memory rather than be fast. */
export function startThread(workerData: object, resourceLimits: ResourceLimits = {}): Worker {
  // Nothing of our environment, but for where Node keeps what it has compiled, if anywhere: the thread is up sooner.
  const cache = getCompileCacheDir();
  // It names the directory of this very version of Node, below the one that was asked for.
  const env = cache === undefined ? {} : { NODE_COMPILE_CACHE: path.dirname(cache) };
  const options = { workerData, env, stdin: false, resourceLimits };
  // A compiled program has no file beside it that a thread could load: there, the build put its code in.
  if (STORE_THREAD !== undefined) return new Worker(STORE_THREAD, { ...options, eval: true });
  return new Worker(new URL("./store-thread.ts", import.meta.url), options);
}
