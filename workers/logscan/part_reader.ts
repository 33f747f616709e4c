/**
 * Reads parts of files again, which the search did not hold.
 *
 * @module
 */

import { decoded, encodingOf, plain, type Source, sourceOf } from "./decode.ts";

/**
 * Reads parts of a file again: of lines that were too long to be held. What was
 * decoded for searching is decoded again, once for all parts that are asked for
 * in their order.
 *
 * @example
 * ```ts
 * import { PartReader } from "./part_reader.ts";
 *
 * const path = await Deno.makeTempFile();
 * await Deno.writeTextFile(path, "one\ntwo\n");
 * using reader = new PartReader(path);
 * for await (const block of reader.read(4, 3)) {
 *   console.log(new TextDecoder().decode(block)); // two
 * }
 * await Deno.remove(path);
 * ```
 */
export class PartReader implements Disposable {
  /** The file's path. */
  readonly path: string;
  readonly #file: Deno.FsFile;
  readonly #source: Source;
  /** What is being decoded, what is left of its last block, and where. */
  #blocks?: AsyncGenerator<Uint8Array, void, void>;
  #rest: Uint8Array = new Uint8Array(0);
  #position = 0;
  #isPlain = false;

  /**
   * @param path The file
   * @throws {Deno.errors.NotFound} If it is gone
   */
  constructor(path: string) {
    this.path = path;
    this.#file = Deno.openSync(path);
    this.#source = sourceOf(this.#file);
  }

  /**
   * Reads a part; less where the file has become shorter.
   *
   * @param offset Where it begins, in bytes, as a {@linkcode Hits} has it
   * @param length How long it is, in bytes
   * @returns It, in blocks that are valid until the next one is asked for
   * @throws {Error} If reading or decompressing fails
   */
  async *read(
    offset: number,
    length: number,
  ): AsyncGenerator<Uint8Array, void, void> {
    // What need not be decoded is gone to, however far it is.
    const isAhead = !this.#isPlain && offset >= this.#position;
    if (!this.#blocks || !isAhead) this.#begin(offset);
    try {
      while (length > 0) {
        this.#skip(offset - this.#position);
        if (this.#rest.length === 0) {
          const { done, value } = await this.#blocks!.next();
          if (done) return;
          this.#rest = value;
          continue;
        }
        const block = this.#rest.subarray(0, length);
        offset += block.length;
        length -= block.length;
        yield block;
      }
    } catch (error) {
      this.#blocks = undefined; // it has ended
      throw error;
    }
  }

  /** Begins where the part is, or at the start of what has to be decoded. */
  #begin(offset: number): void {
    this.#end();
    const head = new Uint8Array(10);
    this.#source.rewind!();
    this.#file.readSync(head);
    this.#isPlain = encodingOf(head) === undefined;
    this.#position = this.#isPlain ? offset : 0;
    this.#file.seekSync(this.#position, Deno.SeekMode.Start);
    this.#blocks = this.#isPlain ? plain(this.#source) : decoded(this.#source);
    this.#rest = new Uint8Array(0);
  }

  #skip(count: number): void {
    const skipped = Math.min(count, this.#rest.length);
    this.#rest = this.#rest.subarray(skipped);
    this.#position += skipped;
  }

  /** Leaves what is being decoded; not awaited, as nothing waits for it. */
  #end(): void {
    this.#blocks?.return().catch(() => {});
    this.#blocks = undefined;
  }

  [Symbol.dispose](): void {
    this.#end();
    this.#file.close();
  }
}
