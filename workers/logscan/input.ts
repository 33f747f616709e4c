/**
 * Where the bytes of a file come from, read through a buffer.
 *
 * @module
 */

/** How much is read and decompressed at a time, in bytes. */
export const BLOCK: number = 1 << 18;

/** Blocks of bytes; each is valid until the next one is asked for. */
export type Blocks = AsyncGenerator<Uint8Array, void, void>;

/** Where bytes come from. */
export interface Source {
  /** Reads into a buffer and returns how many bytes; null at the end. */
  read(into: Uint8Array): number | null | Promise<number | null>;
}

/**
 * A file as a source, from where it stands.
 *
 * @param file The file, open; who opened it closes it
 * @returns What can be read through an {@linkcode Input}
 *
 * @example
 * ```ts
 * import { sourceOf } from "./input.ts";
 *
 * using file = Deno.openSync("deno.json");
 * console.log(sourceOf(file).read(new Uint8Array(1))); // 1
 * ```
 */
export function sourceOf(file: Deno.FsFile): Source {
  return { read: (into) => file.readSync(into) };
}

/**
 * Blocks as a source.
 *
 * @param blocks What is read from
 * @returns What can be read through an {@linkcode Input}
 *
 * @example
 * ```ts
 * import { fromBlocks } from "./input.ts";
 *
 * async function* blocks() {
 *   yield new Uint8Array([1, 2, 3]);
 * }
 * console.log(await fromBlocks(blocks()).read(new Uint8Array(2))); // 2
 * ```
 */
export function fromBlocks(blocks: Blocks): Source {
  let rest: Uint8Array = new Uint8Array(0);
  return {
    async read(into) {
      while (rest.length === 0) {
        const { done, value } = await blocks.next();
        if (done) return null;
        rest = value;
      }
      const part = rest.subarray(0, into.length);
      into.set(part);
      rest = rest.subarray(part.length);
      return part.length;
    },
  };
}

/** The error for a file that ends too early. */
export function endError(): Error {
  return new Error("unexpected end of file");
}

/**
 * A source that is read through a buffer, so that one can look ahead.
 *
 * @example
 * ```ts
 * import { Input } from "./input.ts";
 *
 * const bytes = [1, 2, 3];
 * const input = new Input({
 *   read: (into) => bytes.length > 0 ? (into[0] = bytes.shift()!, 1) : null,
 * });
 * console.log(await input.peek(2), await input.take(3));
 * // Uint8Array(2) [ 1, 2 ] Uint8Array(3) [ 1, 2, 3 ]
 * ```
 */
export class Input {
  readonly #source: Source;
  #buffer: Uint8Array;
  #start = 0;
  #end = 0;

  /**
   * Reads nothing yet.
   *
   * @param source Where the bytes come from
   * @param size The size of the buffer, in bytes; it grows where that is needed
   */
  constructor(source: Source, size: number = BLOCK) {
    this.#source = source;
    this.#buffer = new Uint8Array(size);
  }

  /** What has been read and not skipped. */
  get held(): Uint8Array {
    return this.#buffer.subarray(this.#start, this.#end);
  }

  /**
   * Reads once.
   *
   * @returns Whether there was anything
   */
  async read(): Promise<boolean> {
    if (this.#start > 0) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    if (this.#end === this.#buffer.length) {
      const grown = new Uint8Array(2 * this.#end);
      grown.set(this.#buffer);
      this.#buffer = grown;
    }
    const n = await this.#source.read(this.#buffer.subarray(this.#end));
    this.#end += n ?? 0;
    return n !== null;
  }

  /** Whether any bytes are left; reads if none is held. */
  async hasMore(): Promise<boolean> {
    while (this.#start === this.#end) if (!await this.read()) return false;
    return true;
  }

  /** The next bytes, in as many reads as that takes; fewer at the end. */
  async peek(count: number): Promise<Uint8Array> {
    while (this.held.length < count && await this.read());
    return this.held.subarray(0, count);
  }

  /**
   * Takes the next bytes, which are valid until more are read.
   *
   * @throws {Error} If there are fewer
   */
  async take(count: number): Promise<Uint8Array> {
    const bytes = await this.peek(count);
    if (bytes.length < count) throw endError();
    this.skip(count);
    return bytes;
  }

  /** Skips bytes that are held. */
  skip(count: number): void {
    this.#start += count;
  }

  /** Skips the zero bytes that are held next. */
  skipZeros(): void {
    const { held } = this;
    const other = held.findIndex((byte) => byte !== 0);
    this.skip(other < 0 ? held.length : other);
  }

  /**
   * The next bytes in blocks, as they are read; less than `count` at the end.
   *
   * @param count How many; default: all
   */
  async *blocks(count = Infinity): Blocks {
    while (count > 0 && await this.hasMore()) {
      const block = this.held.subarray(0, count);
      // Before it is given: nobody may ask for the next one.
      this.skip(block.length);
      count -= block.length;
      yield block;
    }
  }

  /**
   * Passes over bytes, however many.
   *
   * @throws {Error} If there are fewer
   */
  async pass(count: number): Promise<void> {
    for await (const { length } of this.blocks(count)) {
      count -= length;
      await breathe();
    }
    if (count > 0) throw endError();
  }
}

/** How long a thread decodes before its event loop may run, in ms. */
const TURN_MS = 100;
let turn = performance.now();

/**
 * Lets the event loop run now and then. Decoding awaits nothing that does so, and a
 * thread that decodes for minutes would not hear Ctrl-C. A timer takes 2 ms; without
 * one Deno 2.9 looks for signals in every 129th turn only.
 *
 * @example
 * ```ts
 * import { breathe } from "./input.ts";
 *
 * for (let i = 0; i < 1000; i++) await breathe();
 * ```
 */
export async function breathe(): Promise<void> {
  if (performance.now() - turn < TURN_MS) return;
  await new Promise<void>((go) => setTimeout(go, 0));
  turn = performance.now();
}
