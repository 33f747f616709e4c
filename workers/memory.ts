/**
 * The memory that all kernels of a thread share, and memory given back early.
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

/** Less is not worth giving back. */
const WORTH_FREEING = 1 << 16;

/**
 * Frees memory at once that is not needed any more.
 *
 * The garbage collector would hold it for long, and what comes next would get
 * fresh memory. To touch a page of that for the first time costs more than to
 * decompress what goes there (3.4 MB of logs: 18 ms, and 4 in used memory), and
 * threads wait for each other with it.
 *
 * @param bytes What nobody needs, nor anything else in its buffer; the kernels'
 * memory stays as it is
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
  if (length < WORTH_FREEING || buffer === shared.buffer) return;
  try {
    (buffer as ArrayBuffer).transfer(0);
  } catch {
    // Node's pool, which a program may have made large: it cannot be freed.
  }
}
