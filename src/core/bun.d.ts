/** bun — what is used of Bun's own API. Bun's types would declare `process` and much else anew, beside Node's. */

declare module "bun:ffi" {
  type Arg = "i32" | "u32" | "u64" | "buffer";
  type Value = number | Uint8Array;
  /** Where a buffer's bytes lie. */
  export function ptr(bytes: Uint8Array): number;
  export function dlopen<Names extends string>(
    library: string,
    functions: Record<Names, { args: readonly Arg[]; returns: "i32" }>,
  ): { symbols: Record<Names, (...args: Value[]) => number> };
}
