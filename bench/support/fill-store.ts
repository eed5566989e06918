/** fill-store — makes a store with many secrets in it, leger/local/k0 and so on. */
import { openStore } from "../../src/store/store.ts";

/** As many as the store's writer takes into one transaction. */
const BATCH = 256;

export async function fillStore(stateDir: string, secrets: number): Promise<void> {
  const store = openStore({ stateDir });
  const value = Buffer.from("sk-proj-0123456789abcdef0123456789abcdef");
  for (let at = 0; at < secrets; at += BATCH) {
    const batch = Array.from({ length: Math.min(BATCH, secrets - at) }, (_, offset) => offset + at);
    await Promise.all(batch.map((n) => store.mutate({ do: "put", name: `leger/local/k${n}`, value })));
  }
  await store.close();
}
