/**
 * Makes a GIF gray, still or animated: only its color tables change. Sections are
 * those of GIF89a.
 *
 * @module
 */

import { luma } from "../kernels/luma.ts";
import { joined } from "../shared/memory.ts";
import { type ConvertOptions, missingRows, truncation } from "./formats.ts";

/** A frame that is being read. */
interface Frame {
  width: number;
  height: number;
  /** Where its color table begins and ends, or the one of the file. */
  palette?: [start: number, end: number];
  /** The color number that is transparent. */
  clear?: number;
  /** Where its data begin: the code size, then blocks. */
  at: number;
  data: Uint8Array[];
}

/** What the codes of a frame stand for, up to the end or to a fault. */
interface Codes {
  pixels: number;
  /** How many bits they have, and how many the next one would have. */
  bits: number;
  width: number;
  fault?: string;
}

const EXTENSION = 0x21, IMAGE = 0x2c, TRAILER = 0x3b, CONTROL = 0xf9;
/** Appendix F: the number of codes. */
const CODES = 4096;

/**
 * Makes a GIF gray.
 *
 * @param bytes A whole file; it is not changed
 * @param options How to convert it
 * @returns The parts of a whole file
 * @throws {Error} If it is broken or truncated
 *
 * @example
 * ```ts
 * import { grayGifParts } from "./gif.ts";
 *
 * try {
 *   const options = { checkHeader() {}, warn() {} };
 *   grayGifParts(new TextEncoder().encode("GIF89a"), options);
 * } catch (error) {
 *   console.log(String(error)); // Error: truncated GIF: the file ends too early
 * }
 * ```
 */
export function grayGifParts(
  bytes: Uint8Array,
  options: ConvertOptions,
): Uint8Array[] {
  const reader = new GifReader(bytes);
  let cause: Error | undefined;
  try {
    reader.run();
  } catch (error) {
    cause = error instanceof RangeError // read behind the end
      ? truncation("GIF")
      : error as Error;
  }
  const { width, height, rows, palettes } = reader;
  if (cause && !(options.salvage && rows.real)) throw cause;
  options.checkHeader({ width, height, frames: reader.frames });
  const out = new Uint8Array(bytes); // `slice()` of a Buffer would not copy
  for (const [start, end] of palettes) {
    for (let i = start; i < end; i += 3) {
      out.fill(luma(out[i], out[i + 1], out[i + 2]), i, i + 3);
    }
  }
  if (!cause) return [out];
  options.warn(missingRows(rows.real, rows.all, cause.message));
  return [out.subarray(0, reader.end), ...reader.mended(out), [TRAILER]]
    .map((part) => Uint8Array.from(part));
}

/** Reads all blocks up to the trailer, which may be missing. */
class GifReader {
  width = 0;
  height = 0;
  frames = 0;
  /** Where the color tables are, in bytes. */
  readonly palettes: [number, number][] = [];
  /** How many rows there are, of all frames. */
  readonly rows = { real: 0, all: 0 };
  /** Where what has been read in full ends. */
  end = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 13;
  #clear?: number;
  /** The frame that has pixels missing. */
  #broken?: { frame: Frame; codes: Codes };

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  run(): void {
    const view = this.#view;
    [this.width, this.height] = [
      view.getUint16(6, true),
      view.getUint16(8, true),
    ];
    const common = this.#palette(view.getUint8(10));
    while (!(this.frames && this.#at === this.#bytes.length)) {
      this.end = this.#at;
      const block = view.getUint8(this.#at++);
      if (block === TRAILER) break;
      if (block === 0 && this.frames) continue; // padding of some writers
      if (block === IMAGE) this.#image(common);
      else if (block === EXTENSION) this.#extension();
      else throw new Error("broken GIF: unknown block");
    }
  }

  /** 19, 21: skips a color table, if there is one. */
  #palette(flags: number): [number, number] | undefined {
    if (!(flags & 0x80)) return;
    const start = this.#at, end = start + (6 << (flags & 7));
    if (end > this.#bytes.length) throw new RangeError();
    this.palettes.push([start, end]);
    this.#at = end;
    return [start, end];
  }

  #extension(): void {
    const isControl = this.#view.getUint8(this.#at++) === CONTROL;
    const [data] = this.#blocks();
    if (!isControl || !data || data.length < 4) return;
    this.#clear = data[0] & 1 ? data[3] : undefined; // 23
  }

  /** 20, 22: an image. */
  #image(common?: [number, number]): void {
    const at = this.#at, view = this.#view;
    const width = view.getUint16(at + 4, true);
    const height = view.getUint16(at + 6, true);
    this.#at += 9;
    const palette = this.#palette(view.getUint8(at + 8)) ?? common;
    const start = this.#at, size = view.getUint8(this.#at++);
    this.frames++;
    this.width = this.width && Math.max(this.width, width);
    this.height = this.height && Math.max(this.height, height);
    const data: Uint8Array[] = [];
    const frame = {
      width,
      height,
      palette,
      clear: this.#clear,
      at: start,
      data,
    };
    this.#clear = undefined;
    let cause: unknown;
    try {
      this.#blocks(data);
    } catch (error) {
      cause = error;
    }
    const area = this.width && this.height && width * height;
    if (!area) this.width = 0;
    const codes = area ? readCodes(data, size) : undefined;
    if (codes && codes.pixels < area) {
      cause = codes.fault ? new Error(`broken GIF: ${codes.fault}`) : cause ??
        new RangeError();
    }
    this.rows.all += height;
    this.rows.real += codes && codes.pixels < area
      ? Math.floor(codes.pixels / width)
      : height;
    if (!cause) return;
    if (codes) this.#broken = { frame, codes };
    throw cause;
  }

  /** 15: sub-blocks up to the terminator. */
  #blocks(blocks: Uint8Array[] = []): Uint8Array[] {
    for (let size; (size = this.#view.getUint8(this.#at++)); this.#at += size) {
      const block = this.#bytes.subarray(this.#at, this.#at + size);
      blocks.push(block);
      if (block.length < size) throw new RangeError();
    }
    return blocks;
  }

  /** The frame that has pixels missing, completed with the grayest color. */
  mended(gray: Uint8Array): (Uint8Array | number[])[] {
    if (!this.#broken) return [];
    const { frame, codes } = this.#broken, { width, height, at } = frame;
    const size = this.#bytes[at], color = grayestOf(frame, gray, size);
    const missing = Math.max(0, width * height - codes.pixels);
    const data = completed(joined(frame.data), codes, size, color, missing);
    const blocks: (Uint8Array | number[])[] = [];
    for (let from = 0; from < data.length; from += 255) {
      const block = data.subarray(from, from + 255);
      blocks.push([block.length], block);
    }
    return [gray.subarray(this.end, at + 1), ...blocks, [0]];
  }
}

/** Appendix F: how many pixels the LZW codes stand for. */
function readCodes(blocks: Uint8Array[], codeSize: number): Codes {
  // Some writers give more than the 8 bits of a color number.
  if (codeSize < 1 || codeSize > 11) throw new Error("broken GIF: code size");
  const clear = 1 << codeSize,
    lengths = new Uint32Array(CODES).fill(1, 0, clear);
  let width = codeSize + 1, next = clear + 2, last = 0, pixels = 0;
  let bits = 0, held = 0, used = 0;
  for (const block of blocks) {
    for (const byte of block) {
      bits |= byte << held;
      held += 8;
      while (held >= width) {
        const code = bits & (1 << width) - 1;
        if (code === clear + 1) return { pixels, bits: used, width };
        // Each code but the first defines one: the last string and one pixel.
        const defined = last && next < CODES && code !== clear
          ? next + 1
          : next;
        if (code >= defined && code !== clear) {
          return { pixels, bits: used, width, fault: "undefined code" };
        }
        bits >>>= width;
        held -= width;
        used += width;
        if (code === clear) {
          [width, next, last] = [codeSize + 1, clear + 2, 0];
          continue;
        }
        if (last && next < CODES) lengths[next++] = last + 1;
        pixels += last = lengths[code];
        if (next === 1 << width && width < 12) width++;
      }
    }
  }
  return { pixels, bits: used, width };
}

/** The color number whose gray is nearest to the middle, and not transparent. */
function grayestOf(
  { palette, clear }: Frame,
  gray: Uint8Array,
  codeSize: number,
): number {
  const [start, end] = palette ?? [0, 0];
  let best = clear === 0 ? 1 : 0, least = Infinity;
  const count = Math.min((end - start) / 3, 1 << codeSize);
  for (let i = 0; i < count; i++) {
    const off = Math.abs(gray[start + 3 * i] - 128);
    if (i !== clear && off < least) [best, least] = [i, off];
  }
  return best;
}

/** LZW data up to a place, and then pixels of one color. */
function completed(
  data: Uint8Array,
  { bits: used, width: first }: Codes,
  codeSize: number,
  color: number,
  missing: number,
): Uint8Array {
  const clear = 1 << codeSize, out = Array.from(data.subarray(0, used >> 3));
  let held = used & 7, bits = held ? data[used >> 3] & (1 << held) - 1 : 0;
  const put = (code: number, width: number) => {
    bits |= code << held;
    for (held += width; held >= 8; held -= 8, bits >>>= 8) out.push(bits & 255);
  };
  let width = first;
  while (missing > 0) {
    put(clear, width);
    width = codeSize + 1;
    // Each code stands for one pixel more than the one before, which defined it.
    for (let length = 1; missing > 0 && clear + length < CODES - 1; length++) {
      const count = Math.min(length, missing);
      put(count === 1 ? color : clear + count, width);
      missing -= count;
      if (clear + length + 1 === 1 << width && width < 12) width++;
    }
  }
  put(clear + 1, width);
  if (held) out.push(bits & 255);
  return Uint8Array.from(out);
}
