/**
 * Reads lines of a file again that are too long for the search to hold.
 *
 * @module
 */

import { type Content, contentsOf, isEncoded } from "./decode.ts";
import { type Blocks, Input, type Source, sourceOf } from "./input.ts";
import { type Coding, recoded, SAMPLE } from "./text.ts";

/**
 * Reads parts of a file again, such as lines that are too long to be held. A file
 * that has to be decoded is decoded once for all parts, if they are read in their
 * order.
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
  /** What is in an archive, and the number of what is read. */
  #contents?: AsyncGenerator<Content, void, void>;
  #content = 0;
  /** The blocks, the unread rest of the last one, and where that begins. */
  #blocks?: Blocks;
  #rest: Uint8Array = new Uint8Array(0);
  #position = 0;
  #isPlain = false;
  readonly #coding: Coding;
  /** Whether what is read was turned into UTF-8. */
  #isUtf8 = false;

  /**
   * Opens the file.
   *
   * @param path The file
   * @param coding How it was searched
   * @throws {Deno.errors.NotFound} If there is no such file
   */
  constructor(path: string, coding: Coding = {}) {
    this.path = path;
    this.#coding = coding;
    this.#file = Deno.openSync(path);
    this.#source = sourceOf(this.#file);
  }

  /**
   * Reads a part; less than was asked for if the file has become shorter.
   *
   * @param offset Where it begins, in bytes, as in `offsets` of a search
   * @param length How long it is, in bytes
   * @param content The number of the member, in an archive
   * @returns Its blocks; each is valid until the next one is asked for
   * @throws {Error} If reading or decompressing fails
   */
  read(offset: number, length: number, content = 0): Blocks {
    const blocks = this.#read(offset, length, content);
    const { encoding, isEncoded } = this.#coding;
    return isEncoded ? this.#inUtf8(blocks, encoding!) : blocks;
  }

  /** Turns what was searched as it is into UTF-8. */
  async *#inUtf8(blocks: Blocks, encoding: string): Blocks {
    const first = await blocks.next(); // then it is known what it comes from
    const all = async function* () {
      if (!first.done) yield first.value;
      yield* blocks;
    };
    yield* recoded(all(), this.#isUtf8 ? undefined : encoding);
  }

  async *#read(
    offset: number,
    length: number,
    content: number,
  ): Blocks {
    // A plain file is positioned anew, which costs nothing however far it is.
    const isAhead = !this.#isPlain && (content > this.#content ||
      content === this.#content && offset >= this.#position);
    if (!this.#blocks || !isAhead) this.#begin(offset);
    try {
      while (this.#content < content) await this.#nextContent();
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
      this.#blocks = undefined; // a generator that threw has ended
      throw error;
    }
  }

  /** Starts to read: at the part, or at 0 if the file has to be decoded. */
  #begin(offset: number): void {
    this.#end();
    const head = new Uint8Array(SAMPLE);
    this.#file.seekSync(0, Deno.SeekMode.Start);
    const n = this.#file.readSync(head) ?? 0;
    this.#isPlain = !isEncoded(head.subarray(0, n), this.#coding);
    this.#position = this.#isPlain ? offset : 0;
    this.#file.seekSync(this.#position, Deno.SeekMode.Start);
    if (this.#isPlain) this.#blocks = new Input(this.#source).blocks();
    else this.#contents = contentsOf(this.#source, this.#coding);
    this.#content = this.#isPlain ? 0 : -1;
    this.#isUtf8 = false;
    this.#rest = new Uint8Array(0);
  }

  async #nextContent(): Promise<void> {
    this.#content++;
    const { value } = await this.#contents!.next();
    this.#isUtf8 = value?.isUtf8 ?? false;
    this.#blocks = value?.blocks ?? new Input({ read: () => null }).blocks();
    this.#position = 0;
    this.#rest = new Uint8Array(0);
  }

  #skip(count: number): void {
    const skipped = Math.min(count, this.#rest.length);
    this.#rest = this.#rest.subarray(skipped);
    this.#position += skipped;
  }

  /** Ends the decoding. Nobody depends on when that is done. */
  #end(): void {
    this.#blocks?.return().catch(() => {});
    this.#contents?.return().catch(() => {});
    this.#blocks = this.#contents = undefined;
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#end();
    this.#file.close();
  }
}
