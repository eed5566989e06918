/**
 * libc-bun — the C library itself, for what a lookup needs of the kernel: to load Bun's node:fs, to enter its event
 * loop or to start its threads takes longer than all the rest of a lookup that is not Bun's own start.
 */

type Arg = "i32" | "u32" | "u64" | "buffer";
type Functions = Record<string, { args: readonly Arg[]; returns: "i32" }>;
type Library<F extends Functions> = {
  symbols: Record<keyof F, (...args: (number | Uint8Array)[]) => number>;
};

/** The native part of `bun:ffi`: loading the module around it takes as long as legerd takes to answer. */
declare const Bun: {
  FFI?: {
    /** It gives an error, or throws one. */
    dlopen<F extends Functions>(library: string, functions: F): Library<F> | Error;
    /** Where a buffer's bytes lie. */
    ptr(bytes: Uint8Array): number;
  };
};

/**
 * Functions of the C library by their names. Undefined where no machine code may be made at run time, as under SELinux's
 * deny_execmem: calls need some.
 */
export function libcWith<F extends Functions>(functions: F): Library<F>["symbols"] | undefined {
  try {
    const library = Bun.FFI?.dlopen("libc.so.6", functions);
    return library === undefined || library instanceof Error ? undefined : library.symbols;
  } catch {
    return undefined;
  }
}

/** Where a buffer's bytes lie. */
export function addressOf(bytes: Uint8Array): bigint {
  if (Bun.FFI === undefined) throw new TypeError("this Bun has no FFI");
  return BigInt(Bun.FFI.ptr(bytes));
}

export type Libc = NonNullable<typeof libc>;

/** What a lookup calls, in one piece: each time that functions are looked up costs. */
export const libc = libcWith({
  statx: { args: ["i32", "buffer", "i32", "u32", "buffer"], returns: "i32" },
  open: { args: ["buffer", "i32"], returns: "i32" },
  read: { args: ["i32", "buffer", "u64"], returns: "i32" },
  write: { args: ["i32", "buffer", "u64"], returns: "i32" },
  close: { args: ["i32"], returns: "i32" },
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  connect: { args: ["i32", "buffer", "u32"], returns: "i32" },
  send: { args: ["i32", "buffer", "u64", "i32"], returns: "i32" },
  recv: { args: ["i32", "buffer", "u64", "i32"], returns: "i32" },
  poll: { args: ["buffer", "u64", "i32"], returns: "i32" },
});

/** A string as C has them. What is behind a NUL would not be looked at. */
export function cString(text: string): Uint8Array {
  if (text.includes("\0")) throw new TypeError("a path with a NUL");
  return new TextEncoder().encode(`${text}\0`);
}

/** poll(2). */
export const POLLIN = 1;
export const POLLOUT = 4;

/** Whether within that time the descriptor can be read from, or written to: also when that will fail or find its end. */
export function isReady(library: Libc, fd: number, events: number, timeoutMs: number): boolean {
  const deadline = performance.now() + timeoutMs;
  // One struct pollfd: the descriptor, and two 16-bit sets of events, of which the first is what is asked for.
  const asked = new Uint8Array(new Int32Array([fd, events]).buffer);
  for (;;) {
    const left = Math.ceil(deadline - performance.now());
    const found = library.poll(asked, 1, Math.max(left, 0));
    if (found >= 0 || left <= 0) return found > 0;
    // A signal came in between.
  }
}
