/** turn — long work that lets others have their turn. */

/**
 * Resolves after what else waits on the event loop has been seen to. That takes two rounds: what has come in is read in
 * the first, and answered at the end of it, after callbacks that were waiting already.
 */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
}
