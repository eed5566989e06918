/** verifier — the thread that reads a store through while it is used, as the main thread sees it. */
import type { StoreKeys } from "./seal.ts";
import { startThread } from "./start-thread.ts";

export type VerifierStart = {
  role: "leger store verifier";
  file: string;
  storeId: Uint8Array;
  dataKey: Uint8Array;
};

/** A sentence about damage, as soon as it is found; or the end. `failed`: what kept it from looking. */
export type VerifierMessage =
  | { problem: string }
  | { done: { records: number; values: number } }
  | { failed: string };

/** What it has opened is garbage at once. Memory that it took would stay legerd's once it has ended. */
const YOUNG_GENERATION_MB = 1;

type VerifierOutcome = Exclude<VerifierMessage, { problem: string }>;

export type Verifier = {
  /** Never rejects. */
  ended: Promise<VerifierOutcome>;
  stop(): Promise<void>;
};

export function startVerifier(
  file: string,
  { storeId, dataKey }: StoreKeys,
  onProblem: (problem: string) => void,
): Verifier {
  const start: VerifierStart = { role: "leger store verifier", file, storeId, dataKey };
  const worker = startThread(start, { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB });
  const { promise: ended, resolve } = Promise.withResolvers<VerifierOutcome>();
  worker.on("message", (message: VerifierMessage) => {
    if ("problem" in message) onProblem(message.problem);
    else resolve(message);
  });
  worker.on("error", () => resolve({ failed: "the thread that verifies failed" }));
  worker.on("exit", () => resolve({ failed: "the thread that verifies ended" }));
  // It keeps nobody from ending.
  worker.unref();
  return {
    ended,
    async stop() {
      await worker.terminate();
    },
  };
}
