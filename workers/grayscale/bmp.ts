/**
 * Makes a BMP gray. Of one with a color table only the table changes; the others
 * get a gray one. The codec is not used: it scales channels of fewer than 8 bits
 * wrongly, finds alpha where there is none, and takes OS/2 headers for others.
 *
 * @module
 */

import { luma } from "../kernels/luma.ts";
import { joined } from "../shared/memory.ts";
import {
  type ConvertOptions,
  type Header,
  missingRows,
  readWhole,
  truncation,
} from "./formats.ts";

/** What the headers of a BMP say. */
interface BmpHeader extends Header {
  bits: number;
  /** The size of the info header, which tells which one it is. */
  size: number;
  compression: number;
  isTopDown: boolean;
  /** Where the pixels begin, in bytes. */
  start: number;
}

/** A channel of a pixel's word. */
interface Channel {
  mask: number;
  shift: number;
  /** The factor that makes a sample one of 8 bits. */
  scale: number;
}

/** The compressions of Windows; OS/2 2.x gives 3 and 4 other meanings. */
const RGB = 0, RLE8 = 1, RLE4 = 2, BITFIELDS = 3, ALPHA_BITFIELDS = 6;

/** What stands for a pixel that is missing. */
const MIDDLE = 128;

/** Of a 16-bit word 5 bits a channel, of others 8. */
const DEFAULT_MASKS: Record<number, number[]> = {
  16: [0x7c00, 0x3e0, 0x1f],
  24: [0xff0000, 0xff00, 0xff],
  32: [0xff0000, 0xff00, 0xff],
};

/**
 * Makes a BMP gray.
 *
 * @param bytes A whole file; it is not changed
 * @param options How to convert it
 * @returns A whole file, in parts
 * @throws {Error} If it is broken or truncated, or something is not supported
 *
 * @example
 * ```ts
 * import { grayBmpParts } from "./bmp.ts";
 *
 * const options = { checkHeader() {}, warn() {} };
 * try {
 *   grayBmpParts(new TextEncoder().encode("BM"), options);
 * } catch (error) {
 *   console.log(String(error)); // Error: truncated BMP: the file ends too early
 * }
 * ```
 */
export function grayBmpParts(
  bytes: Uint8Array,
  { checkHeader, warn, salvage }: ConvertOptions,
): Uint8Array[] {
  const viewOf = ({ buffer, byteOffset, length }: Uint8Array) =>
    new DataView(buffer, byteOffset, length);
  return readWhole("BMP", () => {
    let whole = bytes, view = viewOf(bytes);
    const header = readHeader(view);
    checkHeader(header.bits > 8 ? { ...header, bits: 8 } : header);
    const real = countRows(bytes, header);
    if (real < header.height) {
      if (!salvage || !real) throw truncation("BMP");
      whole = completed(bytes, header, real);
      view = viewOf(whole);
      const { message } = truncation("BMP");
      warn(missingRows(real, header.height, message));
    }
    if (header.bits <= 8) return [grayTable(whole, view, header)];
    return grayWords(whole, view, header, real);
  });
}

/** Reads the headers of OS/2 1.x (12 bytes), OS/2 2.x (16 to 64) and Windows. */
function readHeader(view: DataView): BmpHeader {
  const start = view.getUint32(10, true), size = view.getUint32(14, true);
  if (start < 14 + size) {
    throw new Error("broken BMP: pixels inside the header");
  }
  if (size === 12) {
    return {
      ...{ size, start, compression: RGB, isTopDown: false },
      width: view.getUint16(18, true),
      height: view.getUint16(20, true),
      bits: view.getUint16(24, true),
    };
  }
  const rows = view.getInt32(22, true);
  return {
    ...{ size, start, isTopDown: rows < 0, height: Math.abs(rows) },
    width: view.getInt32(18, true),
    bits: view.getUint16(28, true),
    // The header of OS/2 2.x may be cut after any field; what is not there is 0.
    compression: size < 20 ? RGB : view.getUint32(30, true),
  };
}

/** Counts the rows that are there; throws if they are coded in an unknown way. */
function countRows(bytes: Uint8Array, header: BmpHeader): number {
  const { width, height, bits, size, compression, start } = header;
  const unsupported = (cause: string): never => {
    throw new Error(`unsupported BMP: ${cause}`);
  };
  const isWindows = [40, 52, 56, 108, 124].includes(size);
  if (![1, 2, 4, 8, 16, 24, 32].includes(bits)) {
    unsupported(`${bits} bits per pixel`);
  }
  if (
    compression === RLE8 && bits === 8 || compression === RLE4 && bits === 4
  ) {
    return runsOf(bytes.subarray(start), header).rows;
  }
  if (isWindows && (compression === 4 || compression === 5)) {
    unsupported("JPEG or PNG inside");
  }
  const hasMasks = compression === BITFIELDS || compression === ALPHA_BITFIELDS;
  const hasWords = isWindows && (bits === 16 || bits === 32);
  if (compression !== RGB && !(hasMasks && hasWords)) {
    unsupported(`compression ${compression} of ${bits} bits per pixel`);
  }
  const rows = Math.floor((bytes.length - start) / strideOf(width, bits));
  return Math.max(0, Math.min(height, rows));
}

/** The bytes of a row, which are a multiple of four. */
const strideOf = (width: number, bits: number): number =>
  Math.ceil(width * bits / 32) * 4;

/** How far run-length coded data go. */
interface Runs {
  /** Where the last row that is whole ends, in bytes. */
  end: number;
  /** How many rows are whole; all, if the data say where they end. */
  rows: number;
}

function runsOf(
  data: Uint8Array,
  { compression, height }: BmpHeader,
): Runs {
  let row = 0, rows = 0, end = 0;
  for (let at = 0; at + 1 < data.length;) {
    const [count, value] = [data[at], data[at + 1]];
    at += 2;
    if (count) continue; // a run
    if (value === 1) return { rows: height, end: at }; // the end
    if (value === 2) { // a move to the right and down
      row += data[at + 1] ?? 0;
      at += 2;
    }
    if (value === 0) [rows, end] = [++row, at]; // the end of a row
    if (value > 2) { // pixels one by one, filled up to 16-bit words
      const size = compression === RLE8 ? value : value + 1 >> 1;
      at += size + (size & 1);
    }
  }
  return { rows: Math.min(rows, height - 1), end };
}

/** The file with gray in the place of the rows that are missing. */
function completed(
  bytes: Uint8Array,
  header: BmpHeader,
  real: number,
): Uint8Array {
  const { width, height, bits, start, compression } = header;
  const color = bits <= 8 ? grayestOf(bytes, header) : 0;
  if (compression === RLE8 || compression === RLE4) {
    const { end } = runsOf(bytes.subarray(start), header), row: number[] = [];
    const value = compression === RLE8 ? color : color << 4 | color;
    for (let left = width; left > 0; left -= 255) {
      row.push(Math.min(255, left), value);
    }
    const rows = Array(height - real).fill([...row, 0, 0]);
    const whole = joined([bytes.subarray(0, start + end), ...rows, [0, 1]]);
    const view = new DataView(whole.buffer);
    view.setUint32(2, whole.length, true);
    if (header.size >= 40) view.setUint32(34, whole.length - start, true);
    return whole;
  }
  const stride = strideOf(width, bits), end = start + real * stride;
  // Color numbers of fewer bits stand side by side in a byte.
  const byte = bits < 8 ? color * 255 / (2 ** bits - 1) : color;
  const missing = new Uint8Array((height - real) * stride).fill(byte);
  return joined([bytes.subarray(0, end), missing]);
}

/** The color number whose gray is nearest to the middle. */
function grayestOf(bytes: Uint8Array, header: BmpHeader): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const { entry, count } = tableOf(view, header);
  let best = 0, least = Infinity;
  for (let i = 0; i < count; i++) {
    const at = 14 + header.size + i * entry;
    const off = Math.abs(
      luma(bytes[at + 2], bytes[at + 1], bytes[at]) - MIDDLE,
    );
    if (off < least) [best, least] = [i, off];
  }
  return best;
}

/** The bytes of a color, and how many there are. */
function tableOf(
  view: DataView,
  { size, bits, start }: BmpHeader,
): { entry: number; count: number } {
  const entry = size === 12 ? 3 : 4;
  const used = size < 36 ? 0 : view.getUint32(46, true);
  // A table is sometimes shorter than it should be, with the pixels behind it.
  const room = Math.floor((start - 14 - size) / entry);
  return { entry, count: Math.min(used || 1 << bits, room) };
}

/** A copy with a gray color table. */
function grayTable(
  bytes: Uint8Array,
  view: DataView,
  header: BmpHeader,
): Uint8Array {
  const { entry, count } = tableOf(view, header);
  if (!count) throw new Error("broken BMP: no color table");
  const out = new Uint8Array(bytes); // `slice()` of a Buffer would not copy
  for (let i = 0; i < count; i++) {
    const at = 14 + header.size + i * entry;
    out.fill(luma(out[at + 2], out[at + 1], out[at]), at, at + 3);
  }
  return out;
}

/** The masks of red, green, blue, and alpha if there is one. */
function masksOf(view: DataView, header: BmpHeader): number[] {
  const { size, compression, bits } = header;
  if (compression === RGB) return DEFAULT_MASKS[bits]; // the fourth byte is unused
  // Behind a header of 40 bytes, and at the same place in the larger ones.
  const hasAlpha = size >= 56 || compression === ALPHA_BITFIELDS;
  return [54, 58, 62, ...hasAlpha ? [66] : []].map((at) =>
    view.getUint32(at, true)
  );
}

function channelOf(mask: number): Channel {
  if (!mask) return { mask, shift: 0, scale: 0 };
  const shift = 31 - Math.clz32(mask & -mask), top = mask >>> shift;
  if (top & top + 1) throw new Error("unsupported BMP: masks with gaps");
  return { mask, shift, scale: 255 / top };
}

/** A gray BMP of 8 bits, or of 32 if there is alpha. */
function grayWords(
  bytes: Uint8Array,
  view: DataView,
  header: BmpHeader,
  real: number,
): Uint8Array[] {
  const { width, height, bits, start, size } = header;
  const [red, green, blue, alpha] = masksOf(view, header).map(channelOf);
  const hasAlpha = alpha?.mask > 0, step = bits / 8;
  const stride = strideOf(width, bits);
  const outStep = hasAlpha ? 4 : 1, outStride = strideOf(width, 8 * outStep);
  const out = new Uint8Array(outStride * height);
  const sampleOf = (word: number, { mask, shift, scale }: Channel) =>
    ((word & mask) >>> shift) * scale + 0.5 | 0;
  for (let y = 0; y < height; y++) {
    // The result's rows go from the bottom to the top.
    const row = header.isTopDown ? height - 1 - y : y;
    let at = start + row * stride, o = y * outStride;
    for (let x = 0; x < width; x++, at += step, o += outStep) {
      const low = bytes[at] | bytes[at + 1] << 8;
      const word = step === 2
        ? low
        : low | bytes[at + 2] << 16 | (step === 4 ? bytes[at + 3] << 24 : 0);
      out[o] = luma(
        sampleOf(word, red),
        sampleOf(word, green),
        sampleOf(word, blue),
      );
      if (hasAlpha) {
        out[o + 1] = out[o + 2] = out[o];
        out[o + 3] = sampleOf(word, alpha);
      }
    }
  }
  fillMissing(out, header, real, outStep);
  const resolution = size < 32
    ? [0, 0]
    : [38, 42].map((at) => view.getUint32(at, true));
  return [headersOf(width, height, hasAlpha, resolution, out.length), out];
}

/** Puts gray in the place of the rows that are missing. */
function fillMissing(
  out: Uint8Array,
  { height, isTopDown }: BmpHeader,
  real: number,
  step: number,
): void {
  const stride = out.length / height, missing = stride * (height - real);
  const first = isTopDown ? 0 : stride * real;
  out.fill(MIDDLE, first, first + missing);
  for (let i = first + 3; step === 4 && i < first + missing; i += 4) {
    out[i] = 255;
  }
}

/**
 * Makes the simplest BMP of a gray one: one of 8 bits without runs, or of 32. The
 * codec refuses some headers that others read, and misreads those of OS/2 2.x.
 *
 * @param bytes A whole file, as {@linkcode grayBmpParts} makes it
 * @returns A whole file
 */
export function plainBmp(bytes: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const header = readHeader(view);
  if (header.bits > 8) return bytes;
  const { width, height, size, start, isTopDown } = header;
  const { entry, count } = tableOf(view, header);
  const numbers = numbersOf(bytes.subarray(start), header);
  const stride = strideOf(width, 8), out = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const from = (isTopDown ? height - 1 - y : y) * width, to = y * stride;
    for (let x = 0; x < width; x++) {
      const number = numbers[from + x];
      // Numbers beyond the table are black, as with libpng.
      out[to + x] = number < count ? bytes[14 + size + number * entry] : 0;
    }
  }
  const resolution = size < 32
    ? [0, 0]
    : [38, 42].map((at) => view.getUint32(at, true));
  const headers = headersOf(width, height, false, resolution, out.length);
  return joined([headers, out]);
}

/** The color numbers, row by row as they lie; those that runs pass over are 0. */
function numbersOf(data: Uint8Array, header: BmpHeader): Uint8Array {
  const { width, height, bits, compression } = header;
  if (compression === RLE8 || compression === RLE4) return unrun(data, header);
  const numbers = new Uint8Array(width * height), inByte = 8 / bits;
  const stride = strideOf(width, bits), mask = (1 << bits) - 1;
  for (let y = 0, o = 0; y < height; y++) {
    for (let x = 0; x < width; x++, o++) {
      const byte = data[y * stride + Math.floor(x / inByte)];
      numbers[o] = byte >> 8 - bits * (x % inByte + 1) & mask;
    }
  }
  return numbers;
}

/** Decodes runs; those that leave a row or the picture are cut. */
function unrun(
  data: Uint8Array,
  { width, height, compression }: BmpHeader,
): Uint8Array {
  const numbers = new Uint8Array(width * height), isWide = compression === RLE8;
  let x = 0, y = 0;
  const put = (number: number) => {
    if (x < width && y < height) numbers[y * width + x] = number;
    x++;
  };
  const putOf = (byte: number, i: number) =>
    put(isWide ? byte : i % 2 ? byte & 15 : byte >> 4);
  for (let at = 0; at + 1 < data.length && y < height;) {
    const [count, value] = [data[at], data[at + 1]];
    at += 2;
    if (count) { for (let i = 0; i < count; i++) putOf(value, i); }
    else if (value === 0) [x, y] = [0, y + 1];
    else if (value === 1) break;
    else if (value === 2) {
      [x, y] = [x + (data[at] ?? 0), y + (data[at + 1] ?? 0)];
      at += 2;
    } else {
      const size = isWide ? value : value + 1 >> 1;
      for (let i = 0; i < value; i++) {
        putOf(data[at + (isWide ? i : i >> 1)] ?? 0, i);
      }
      at += size + (size & 1);
    }
  }
  return numbers;
}

/** The headers of a gray BMP: of 40 bytes and a table, or of 108 with masks. */
function headersOf(
  width: number,
  height: number,
  hasAlpha: boolean,
  [across, down]: number[],
  length: number,
): Uint8Array {
  const size = hasAlpha ? 108 : 40, start = hasAlpha ? 14 + size : 54 + 1024;
  const headers = new Uint8Array(start), view = new DataView(headers.buffer);
  const put = (at: number, ...words: number[]) => {
    for (const [i, word] of words.entries()) {
      view.setUint32(at + 4 * i, word, true);
    }
  };
  headers.set([0x42, 0x4d]); // "BM"
  put(2, start + length, 0, start, size, width, height);
  put(26, 1 | (hasAlpha ? 32 : 8) << 16, hasAlpha ? BITFIELDS : RGB);
  put(34, length, across, down);
  if (hasAlpha) {
    put(54, 0xff0000, 0xff00, 0xff, 0xff000000, 0x73524742); // and "sRGB"
  } else {
    put(46, 256);
    for (let i = 0; i < 256; i++) put(54 + 4 * i, 0x10101 * i);
  }
  return headers;
}
