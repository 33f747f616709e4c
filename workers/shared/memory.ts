/**
 * Memory: what all kernels of a thread share, freeing early, joining parts.
 *
 * @module
 */

import { memory as kernelMemory } from "../kernels/kernels.wasm";

/** Who has something in the kernels' memory that is to stay. */
let holder: unknown;

/**
 * Says who has something in the kernels' memory from now on that is to stay until
 * somebody else uses it.
 *
 * @param by Who, as an object; it is compared by identity
 * @returns Whether that is who already had, so that it is still there
 *
 * @example
 * ```ts
 * import { growMemory, holdMemory } from "./memory.ts";
 *
 * const me = {};
 * console.log(holdMemory(me), holdMemory(me)); // false true
 * growMemory(0);
 * console.log(holdMemory(me)); // false
 * ```
 */
export function holdMemory(by: unknown): boolean {
  const isSame = holder === by;
  holder = by;
  return isSame;
}

/**
 * Gives the kernels' memory, and grows it if it is too small. Who uses the memory
 * calls this first: what somebody held in it may be gone afterwards.
 *
 * @param size How many bytes it must have, counted from address 0
 * @returns A view of all of it, which is empty after the memory has grown again
 * @throws {Error} If it cannot grow that far
 *
 * @example
 * ```ts
 * import { growMemory } from "./memory.ts";
 *
 * console.log(growMemory(1 << 20).length >= 1 << 20); // true
 * ```
 */
export function growMemory(size: number): Uint8Array {
  holder = undefined;
  const missing = size - kernelMemory.buffer.byteLength;
  try {
    if (missing > 0) kernelMemory.grow(Math.ceil(missing / 65536));
  } catch (error) {
    throw new Error("too large for the kernels' memory", { cause: error });
  }
  return new Uint8Array(kernelMemory.buffer);
}

/**
 * Rounds a size or an address up to a multiple of 16, the kernels' unit. Unlike
 * `& ~15` it is right above 2 GiB, too.
 *
 * @param size A size or an address, in bytes
 * @returns The next multiple of 16
 *
 * @example
 * ```ts
 * import { align } from "./memory.ts";
 *
 * console.log(align(17)); // 32
 * ```
 */
export function align(size: number): number {
  return Math.ceil(size / 16) * 16;
}

/** Freeing less than this takes longer than it saves, in bytes. */
const WORTH_FREEING = 1 << 16;

/**
 * Frees memory at once, without waiting for the garbage collector.
 *
 * Until the collector runs, every allocation gets fresh memory from the system.
 * Touching its pages for the first time costs more than decompressing into them
 * (3.4 MB of logs: 18 ms, and 4 ms in memory that was used before), and threads
 * wait for each other while they do.
 *
 * @param bytes What is not needed any more, with its whole buffer; a view of the
 * kernels' memory is left alone
 *
 * @example
 * ```ts
 * import { free } from "./memory.ts";
 *
 * const bytes = new Uint8Array(1 << 20);
 * free(bytes);
 * console.log(bytes.length); // 0
 * ```
 */
export function free({ buffer, length }: Uint8Array): void {
  if (length < WORTH_FREEING || buffer === kernelMemory.buffer) return;
  try {
    (buffer as ArrayBuffer).transfer(0);
  } catch {
    // A buffer of Node's pool cannot be freed.
  }
}

// Makes glibc keep freed memory. By default it returns what is free at the end of
// its heap to the system and gets it back page by page, so a loop that allocates
// and frees 200 kB spends nearly all its time there. Once a mapping was freed,
// glibc keeps up to twice its size (mallopt(3), M_MMAP_THRESHOLD), even if nobody
// touched that mapping. Printing the lines of 224 MB of logs, all with a hit,
// takes 0.3 s with this line and 2.7 s without it.
free(new Uint8Array(16 << 20));

/**
 * Copies parts into one array.
 *
 * @param parts The parts, in their order
 * @returns All of them, one after another
 *
 * @example
 * ```ts
 * import { joined } from "./memory.ts";
 *
 * console.log(joined([[1, 2], new Uint8Array([3])])); // Uint8Array(3) [ 1, 2, 3 ]
 * ```
 */
export function joined(parts: ArrayLike<number>[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
