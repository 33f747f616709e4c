/**
 * The memory that all kernels of a thread share, and what jobs need around
 * memory: to give it back early, to join parts.
 *
 * @module
 */

import { memory as shared } from "../kernels/kernels.wasm";

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

// What is free at the end of its heap, glibc gives back to the system, to get it
// anew page by page: whoever asks for and frees 200 kB again and again waits for
// nothing else. It holds twice as much as the largest mapping that was freed
// (mallopt(3), M_MMAP_THRESHOLD), which may as well be one that nobody touched.
// (The lines of 224 MB of logs, all with a hit: 0.3 s instead of 2.7.)
free(new Uint8Array(16 << 20));

/**
 * Joins parts, into memory of their own.
 *
 * @param parts What goes one after the other
 * @returns All of it
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
