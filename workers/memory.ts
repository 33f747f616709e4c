/**
 * The memory that all kernels of a thread share.
 *
 * @module
 */

import { memory as shared } from "./kernels.wasm";

/**
 * Gives the kernels' memory, grown where it is too small.
 *
 * @param size How many bytes it has at least, counted from address 0
 * @returns A view of all of it; empty as soon as it grows again
 * @throws {Error} If it cannot grow so far
 *
 * @example
 * ```ts
 * import { memory } from "./memory.ts";
 *
 * console.log(memory(1 << 20).length >= 1 << 20); // true
 * ```
 */
export function memory(size: number): Uint8Array {
  const missing = size - shared.buffer.byteLength;
  try {
    if (missing > 0) shared.grow(Math.ceil(missing / 65536));
  } catch (error) {
    throw new Error("too large for the kernels' memory", { cause: error });
  }
  return new Uint8Array(shared.buffer);
}
