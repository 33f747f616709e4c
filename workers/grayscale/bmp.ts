/**
 * Makes a BMP gray. Of one with a color table only the table changes; the others
 * get a gray one. The codec is not used: it scales channels of fewer than 8 bits
 * wrongly, finds alpha where there is none, and takes OS/2 headers for others.
 *
 * @module
 */

import { luma } from "../kernels/luma.ts";
import type { Header } from "./formats.ts";

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
 * @param checkHeader Called with what the headers say; it may throw to refuse it
 * @returns A whole file, in parts
 * @throws {Error} If it is broken or truncated, or something is not supported
 *
 * @example
 * ```ts
 * import { grayBmpParts } from "./bmp.ts";
 *
 * try {
 *   grayBmpParts(new TextEncoder().encode("BM"));
 * } catch (error) {
 *   console.log(String(error)); // Error: truncated BMP: the file ends too early
 * }
 * ```
 */
export function grayBmpParts(
  bytes: Uint8Array,
  checkHeader: (header: Header) => void = () => {},
): Uint8Array[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  try {
    const header = readHeader(view);
    checkHeader(header.bits > 8 ? { ...header, bits: 8 } : header);
    checkPixels(bytes, header);
    if (header.bits <= 8) return [grayTable(bytes, view, header)];
    return grayWords(bytes, view, header);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // read behind the end
    throw new Error("truncated BMP: the file ends too early");
  }
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

/** Throws if the pixels are not all there, or coded in a way that is not known. */
function checkPixels(bytes: Uint8Array, header: BmpHeader): void {
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
    return checkRuns(bytes.subarray(start), compression);
  }
  if (isWindows && (compression === 4 || compression === 5)) {
    unsupported("JPEG or PNG inside");
  }
  const hasMasks = compression === BITFIELDS || compression === ALPHA_BITFIELDS;
  const hasWords = isWindows && (bits === 16 || bits === 32);
  if (compression !== RGB && !(hasMasks && hasWords)) {
    unsupported(`compression ${compression} of ${bits} bits per pixel`);
  }
  if (start + strideOf(width, bits) * height > bytes.length) {
    throw new RangeError();
  }
}

/** The bytes of a row, which are a multiple of four. */
const strideOf = (width: number, bits: number): number =>
  Math.ceil(width * bits / 32) * 4;

/** Throws if run-length coded data end before they say so. */
function checkRuns(data: Uint8Array, compression: number): void {
  for (let at = 0; at + 1 < data.length;) {
    const [count, value] = [data[at], data[at + 1]];
    at += 2;
    if (count) continue; // a run
    if (value === 1) return; // the end
    if (value === 2) at += 2; // a move to the right and down
    if (value > 2) { // pixels one by one, filled up to 16-bit words
      const size = compression === RLE8 ? value : value + 1 >> 1;
      at += size + (size & 1);
    }
  }
  throw new RangeError();
}

/** A copy with a gray color table. */
function grayTable(
  bytes: Uint8Array,
  view: DataView,
  { size, bits, start }: BmpHeader,
): Uint8Array {
  const entry = size === 12 ? 3 : 4, first = 14 + size;
  const used = size < 36 ? 0 : view.getUint32(46, true);
  // A table is sometimes shorter than it should be, with the pixels behind it.
  const room = Math.floor((start - first) / entry);
  const out = new Uint8Array(bytes); // `slice()` of a Buffer would not copy
  for (let i = 0; i < Math.min(used || 1 << bits, room); i++) {
    const at = first + i * entry;
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
  const resolution = size < 32
    ? [0, 0]
    : [38, 42].map((at) => view.getUint32(at, true));
  return [headersOf(width, height, hasAlpha, resolution, out.length), out];
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
