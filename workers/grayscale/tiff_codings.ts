/**
 * How the blocks (strips or tiles) of a TIFF are compressed: sections 9, 13 and 14 of
 * TIFF 6.0, and its supplements for deflate, Zstandard and floating-point predictors.
 * The npm package geotiff was tried: it undoes differences of 16 bits wrongly in
 * big-endian files, and takes 129 bytes for PackBits' code that stands for none.
 *
 * @module
 */

import {
  constants,
  deflateSync,
  inflateSync,
  zstdCompressSync,
  zstdDecompressSync,
} from "node:zlib";

/** The numbers of the compressions. */
export const NONE = 1, LZW = 5, JPEG = 7, DEFLATE = 8;
const OLD_DEFLATE = 32946, PACK_BITS = 32773, ZSTD = 50000;

/** How to decompress, and how to compress. */
export interface Coding {
  /** Gives at most `size` bytes; fewer if the data end before. */
  decode(data: Uint8Array, size: number): Uint8Array;
  /** Compresses rows of `rowSize` bytes each. */
  encode(data: Uint8Array, rowSize: number): Uint8Array;
  /** The most bytes that a byte can stand for. */
  ratio: number;
}

const DEFLATING: Coding = {
  decode: inflated,
  encode: (data) => deflateSync(data),
  ratio: 1032,
};

/** The compressions that are known here; the others are left to the codec. */
export const CODINGS: Record<number, Coding> = {
  [NONE]: {
    decode: (data, size) => data.subarray(0, size),
    encode: (data) => data,
    ratio: 1,
  },
  [LZW]: { decode: unpackLzw, encode: packLzw, ratio: 4096 },
  [DEFLATE]: DEFLATING,
  [OLD_DEFLATE]: DEFLATING,
  [PACK_BITS]: { decode: unpackBits, encode: packBits, ratio: 128 },
  [ZSTD]: {
    decode: (data, size) => bounded(data, size, zstdDecompressSync),
    encode: (data) => zstdCompressSync(data),
    ratio: 2 ** 17,
  },
};

/** Behind the pixels of a block some writers have more, which is not looked at. */
const SURPLUS = 1 << 20;

function bounded(
  data: Uint8Array,
  size: number,
  decompress: typeof zstdDecompressSync | typeof inflateSync,
): Uint8Array {
  const whole = decompress(data, {
    chunkSize: Math.max(64, Math.min(size + 1, 2 ** 31)),
    maxOutputLength: 2 * size + SURPLUS,
    // The checksum at the end may be missing.
    ...decompress === inflateSync && { finishFlush: constants.Z_SYNC_FLUSH },
  });
  return whole.subarray(0, size);
}

function inflated(data: Uint8Array, size: number): Uint8Array {
  return bounded(data, size, inflateSync);
}

/** Section 9: PackBits. */
function unpackBits(data: Uint8Array, size: number): Uint8Array {
  const out = new Uint8Array(size);
  let at = 0, to = 0;
  while (at < data.length && to < size) {
    const head = data[at++];
    if (head < 128) {
      const end = Math.min(at + head + 1, at + size - to);
      out.set(data.subarray(at, end), to);
      to += Math.min(end, data.length) - at;
      at = end;
    } else if (head > 128) { // 128 is no operation
      if (at >= data.length) break;
      const end = Math.min(to + 257 - head, size);
      out.fill(data[at++], to, end);
      to = end;
    }
  }
  return out.subarray(0, to);
}

/** Each row by itself, since libtiff decodes them one by one. */
function packBits(data: Uint8Array, rowSize: number): Uint8Array {
  const out = new Uint8Array(2 * data.length);
  let to = 0;
  for (let row = 0; row < data.length; row += rowSize) {
    const limit = Math.min(row + rowSize, data.length);
    for (let at = row; at < limit;) {
      const most = Math.min(limit, at + 128);
      let end = at + 1;
      while (end < most && data[end] === data[at]) end++;
      if (end - at > 1) {
        out[to++] = 257 - (end - at);
        out[to++] = data[at];
      } else {
        const isRun = (i: number) =>
          i + 2 < limit && data[i] === data[i + 1] && data[i] === data[i + 2];
        while (end < most && !isRun(end)) end++;
        out[to++] = end - at - 1;
        out.set(data.subarray(at, end), to);
        to += end - at;
      }
      at = end;
    }
  }
  return out.subarray(0, to);
}

const CLEAR = 256, END = 257, FIRST = 258, CODES = 4096;

/**
 * Section 13: LZW. Files of the 1980s have the lowest bit first, and change to longer
 * codes one code later; they begin with a clear code that only fits that way.
 */
function unpackLzw(data: Uint8Array, size: number): Uint8Array {
  const isOld = data[0] === 0 && (data[1] & 1) === 1, early = isOld ? 0 : 1;
  const out = new Uint8Array(size);
  // Each code is a place in the output where its string stands, and a length.
  const places = new Uint32Array(CODES), lengths = new Uint16Array(CODES);
  let bits = 0,
    held = 0,
    width = 9,
    next = FIRST,
    to = 0,
    last = -1,
    before = 0;
  for (let at = 0; to < size;) {
    while (held < width && at < data.length) {
      if (isOld) bits |= data[at++] << held;
      else bits = (bits << 8 | data[at++]) & 0xffffff;
      held += 8;
    }
    if (held < width) break;
    held -= width;
    const mask = (1 << width) - 1;
    const code = (isOld ? bits : bits >>> held) & mask;
    if (isOld) bits >>>= width;
    if (code === END) break;
    if (code === CLEAR) {
      [width, next, last] = [9, FIRST, -1];
      continue;
    }
    const start = to;
    if (last >= 0 && next < CODES) {
      // The last string and the first byte of this one, which follows it.
      places[next] = before;
      lengths[next++] = start - before + 1;
    }
    if (code < CLEAR) out[to++] = code;
    else {
      if (code >= next) throw new Error("undefined LZW code");
      let from = places[code];
      const end = Math.min(size, to + lengths[code]);
      while (to < end) out[to++] = out[from++];
    }
    [last, before] = [code, start];
    if (next + early >= 1 << width && width < 12) width++;
  }
  return out.subarray(0, to);
}

/** The code of each string with a byte behind it; 0 is none. */
let lzwTable: Uint16Array | undefined;

function packLzw(data: Uint8Array): Uint8Array {
  const out = new Uint8Array(data.length * 2 + 16);
  const table = lzwTable ??= new Uint16Array(CODES << 8);
  table.fill(0);
  let bits = 0, held = 0, width = 9, next = FIRST, to = 0;
  const put = (code: number) => {
    bits = bits << width | code;
    for (held += width; held >= 8;) out[to++] = bits >>> (held -= 8) & 255;
    bits &= (1 << held) - 1;
  };
  put(CLEAR);
  let code = data.length ? data[0] : END;
  for (let at = 1; at < data.length; at++) {
    const key = code << 8 | data[at], known = table[key];
    if (known) {
      code = known;
      continue;
    }
    put(code);
    table[key] = next++;
    code = data[at];
    if (next === CODES - 1) {
      put(code); // the last one before the table is cleared
      put(CLEAR);
      table.fill(0);
      [width, next] = [9, FIRST];
      code = ++at < data.length ? data[at] : END;
    } else if (next >= 1 << width) width++;
  }
  if (code !== END) {
    put(code);
    if (++next >= 1 << width && width < 12) width++;
  }
  put(END);
  if (held) out[to++] = bits << 8 - held & 255;
  return out.subarray(0, to);
}

/** Samples of 8, 16, 32 or 64 bits, of which differences can be taken. */
export type Words = Uint8Array | Uint16Array | Uint32Array | BigUint64Array;

/** Section 14: makes samples of differences from the pixel to the left. */
export function undoDifferences(
  words: Words,
  rowLength: number,
  channels: number,
): void {
  for (let row = 0; row < words.length; row += rowLength) {
    const end = Math.min(row + rowLength, words.length);
    for (let i = row + channels; i < end; i++) {
      // @ts-ignore The elements of one array have one type.
      words[i] += words[i - channels];
    }
  }
}

/** Makes differences of samples. */
export function takeDifferences(
  words: Words,
  rowLength: number,
  channels: number,
): void {
  for (let row = 0; row < words.length; row += rowLength) {
    const end = Math.min(row + rowLength, words.length);
    for (let i = end - 1; i >= row + channels; i--) {
      // @ts-ignore The elements of one array have one type.
      words[i] -= words[i - channels];
    }
  }
}

/**
 * Supplement 3: of floating-point numbers first all highest bytes of a row, then all
 * next ones and so on, as differences. Gives them with the lowest byte first, as this
 * machine has them.
 */
export function undoFloatDifferences(
  bytes: Uint8Array,
  rowLength: number,
  channels: number,
  size: number,
): void {
  const count = rowLength / size;
  for (let row = 0; row + rowLength <= bytes.length; row += rowLength) {
    const all = bytes.subarray(row, row + rowLength);
    undoDifferences(all, rowLength, channels);
    const copy = all.slice();
    for (let i = 0; i < count; i++) {
      for (let k = 0; k < size; k++) {
        all[i * size + size - 1 - k] = copy[k * count + i];
      }
    }
  }
}

/** The reverse. */
export function takeFloatDifferences(
  bytes: Uint8Array,
  rowLength: number,
  channels: number,
  size: number,
): void {
  const count = rowLength / size;
  for (let row = 0; row + rowLength <= bytes.length; row += rowLength) {
    const all = bytes.subarray(row, row + rowLength), copy = all.slice();
    for (let i = 0; i < count; i++) {
      for (let k = 0; k < size; k++) {
        all[k * count + i] = copy[i * size + size - 1 - k];
      }
    }
    takeDifferences(all, rowLength, channels);
  }
}
