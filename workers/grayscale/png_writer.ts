/**
 * Compresses rows of gray as a PNG has them: chooses filters and how to deflate.
 * Clauses are those of PNG, 3rd edition.
 *
 * @module
 */

import { constants, deflateSync, type ZlibOptions } from "node:zlib";
import * as kernels from "../kernels/kernels.wasm";
import { align, free, growMemory, joined } from "../shared/memory.ts";
import { Deflater } from "./zlib.ts";

/** How far the kernel may read or write behind an end, in bytes. */
const SLACK = 64;
/** How much the kernel works on at a time, in bytes, so that it stays in the cache. */
const BAND = 1 << 17;
/** How much is compressed in one way, in bytes: most pictures are smaller. */
const PART = 1 << 23;
/** How much of a part is tried, in bytes; smaller ones are tried whole. */
const SAMPLE = 1 << 16;
/** How many places of the part the sample comes from. */
const PLACES = 4;

/**
 * How rows can be compressed. Filtered rows of a photograph are like noise,
 * and to search them for repetitions gains nothing. Pictures of screens repeat
 * themselves, many of them most without filters.
 *
 * The result's size ÷ Pillow's, and ms for 3.7 million pixels, for 17 photographs,
 * 150 pictures from manuals, and 16 drawn windows full of text:
 *
 *     filters, Huffman alone  0.98  18    1.55  32    2.11  21
 *     filters, runs alone     0.97  22    1.03  17    1.45  11
 *     filters, level 6        1.01 103    1.01  57    1.00  30
 *     filters, level 3        1.04  43    1.05  27    1.03  14
 *     filters, level 1        1.60  23    1.52  14    1.42   7
 *     none, level 6           1.35  73    1.13  45    1.06  25
 *     none, level 3           1.38  49    1.18  28    1.11  15
 *     chosen by a sample      0.95        0.97        0.97
 *
 * Rejected: to take no sample where few bytes are 0 was not faster, and results
 * were 40 % larger for screens with a photograph in them. A sample of 128 kB
 * instead of 64 kB gained 0.1 %.
 */
const STRATEGIES: { hasFilters: boolean; options: ZlibOptions }[] = [
  {
    hasFilters: true,
    options: { strategy: constants.Z_HUFFMAN_ONLY, memLevel: 9 },
  },
  { hasFilters: true, options: { strategy: constants.Z_RLE, memLevel: 9 } },
  { hasFilters: true, options: { level: 6 } },
  { hasFilters: false, options: { level: 6 } },
];

/** Some rows of a part, by their numbers. */
type RowRange = [first: number, end: number];

/** Takes the rows of a picture, from the first to the last, and compresses them. */
export class GrayWriter implements Disposable {
  readonly #size: number;
  readonly #pixel: number;
  readonly #base: number;
  /** The rows of the part, and in front of them the row above the first one. */
  readonly #part: Uint8Array;
  #end: number;
  /** How many rows are still to come. */
  #left: number;
  #stream?: Uint8Array[];
  #deflater?: Deflater;

  /**
   * Begins a picture.
   *
   * @param width How many columns the picture has
   * @param height How many rows
   * @param pixel How many bytes a pixel has
   * @param base From where on it may use the kernels' memory
   */
  constructor(width: number, height: number, pixel: number, base: number) {
    const size = this.#size = 1 + width * pixel;
    this.#pixel = pixel;
    this.#base = base;
    this.#left = height;
    const rows = Math.min(height, Math.max(1, Math.floor(PART / size)));
    this.#part = new Uint8Array((1 + rows) * size);
    this.#end = size;
    // Not later, when the caller has views of the memory.
    growMemory(this.#layOut(rows).end);
  }

  /** Takes whole rows, each behind its filter byte, which is 0 (none). */
  write(rows: Uint8Array): void {
    for (let at = 0; at < rows.length;) {
      const room = this.#part.length - this.#end;
      const some = rows.subarray(at, at + room);
      this.#part.set(some, this.#end);
      this.#end += some.length;
      at += some.length;
      if (this.#end === this.#part.length) this.#compress();
    }
  }

  /** Gives the zlib stream, in parts. */
  end(): Uint8Array[] {
    if (this.#end > this.#size) this.#compress();
    free(this.#part);
    return this.#stream ?? this.#deflater!.parts;
  }

  /** Frees what it holds. */
  [Symbol.dispose](): void {
    this.#deflater?.[Symbol.dispose]();
  }

  /** Compresses a part as is best for a sample of it. */
  #compress(): void {
    const size = this.#size, rows = this.#end / size - 1;
    const samples = samplesOf(rows, size);
    const bare = joined(
      samples.map(([from, end]) =>
        this.#part.subarray(from * size, end * size)
      ),
    );
    const filtered = joined(samples.map((range) => this.#filtered(range)));
    const tried = STRATEGIES.map(({ hasFilters, options }) =>
      deflateSync(hasFilters ? filtered : bare, options)
    );
    const sizes = tried.map(({ length }) => length);
    const best = sizes.indexOf(Math.min(...sizes));
    this.#left -= rows;
    const isLast = this.#left === 0;
    const isWhole = isLast && !this.#deflater && bare.length === rows * size;
    if (isWhole) this.#stream = [tried[best]];
    else this.#deflate(STRATEGIES[best], rows, isLast);
    this.#end = size;
  }

  #deflate(
    { hasFilters, options }: typeof STRATEGIES[number],
    rows: number,
    isLast: boolean,
  ): void {
    const size = this.#size, part = this.#part, last = rows * size;
    const above = isLast ? undefined : part.slice(last, last + size);
    if (hasFilters) this.#putFilters([1, 1 + rows], part.subarray(size));
    this.#deflater ??= new Deflater(options, rows * size);
    this.#deflater.write(part.subarray(size, this.#end), options, isLast);
    if (above) part.set(above);
  }

  #filtered(range: RowRange): Uint8Array {
    const out = new Uint8Array((range[1] - range[0]) * this.#size);
    this.#putFilters(range, out);
    return out;
  }

  /** Where the kernel finds up to `count` rows and the one above, and filters them. */
  #layOut(count: number) {
    const size = this.#size, above = this.#base, from = above + size;
    const most = Math.min(count, Math.max(1, Math.floor(BAND / size)));
    const to = align(from + most * size + SLACK);
    return { above, from, to, most, end: to + most * size + SLACK };
  }

  /** Applies filters to some rows of the part, in place or into another buffer. */
  #putFilters([first, end]: RowRange, out: Uint8Array): void {
    const size = this.#size, part = this.#part;
    const { above, from, to, most } = this.#layOut(end - first);
    const memory = growMemory(0);
    // From the bottom to the top, since each row needs the unfiltered one above it.
    for (let below = end; below > first; below -= most) {
      const y = Math.max(first, below - most), count = below - y;
      memory.set(part.subarray((y - 1) * size, below * size), above);
      kernels.filter(from, count, size - 1, this.#pixel, to);
      out.set(memory.subarray(to, to + count * size), (y - first) * size);
    }
  }
}

/** The rows of the sample; the one above the first is number 0. */
function samplesOf(rows: number, size: number): RowRange[] {
  if (rows * size <= SAMPLE) return [[1, 1 + rows]];
  const samples: RowRange[] = [];
  const count = Math.ceil(SAMPLE / PLACES / size);
  const step = Math.max(count, Math.floor(rows / PLACES));
  for (let from = 1; from + count <= 1 + rows; from += step) {
    samples.push([from, from + count]);
  }
  return samples;
}
