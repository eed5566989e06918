/** build — what the build puts into a bundle; in a checkout there is nothing of it. */

declare const LEGER_COMMIT: string;
declare const LEGER_BUN: string;
declare const LEGER_STORE_THREAD: string;

/** Undefined in a checkout, where the source runs as it is. */
export type Build = {
  /** 40 hexadecimal digits, with "-dirty" behind them where the tree held more than the commit. */
  commit: string;
  /** The version of Bun that the hot client of the same build runs on. */
  bun: string;
};

export const BUILD: Build | undefined =
  typeof LEGER_COMMIT === "undefined" ? undefined : { commit: LEGER_COMMIT, bun: LEGER_BUN };

/** The code of the store's threads, one file of CommonJS; undefined in a checkout. */
export const STORE_THREAD = typeof LEGER_STORE_THREAD === "undefined" ? undefined : LEGER_STORE_THREAD;
