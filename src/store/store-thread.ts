/** store-thread — what runs in the store's threads: the writer, or one that reads all of it through. */
import { parentPort, workerData } from "node:worker_threads";
import { isVerifierStart, verifyAll } from "./verifier-thread.ts";
import { isWriterStart, serveWriter } from "./writer-thread.ts";

const start: unknown = workerData;
if (parentPort !== null && isWriterStart(start)) serveWriter(parentPort, start);
if (parentPort !== null && isVerifierStart(start)) void verifyAll(parentPort, start);
