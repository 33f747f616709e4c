/**
 * TIFFs written and read, as plainly as TIFF 6.0 says it, and independently of the
 * program under test.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import {
  deflateSync,
  inflateSync,
  zstdCompressSync,
  zstdDecompressSync,
} from "node:zlib";

/** A page to be written, down to its samples. */
export interface Tiff {
  width: number;
  height: number;
  /** 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr … */
  photometric: number;
  bits: number;
  channels: number;
  /** Pixel by pixel, channel by channel. */
  samples: ArrayLike<number>;
  /** 1 unsigned (default), 2 signed, 3 floating point. */
  format?: number;
  bigEndian?: boolean;
  /** BigTIFF. */
  big?: boolean;
  /** Each channel by itself, all of one after all of another. */
  planar?: boolean;
  /** 1 none (default), 5 LZW, 8 and 32946 deflate, 32773 PackBits, 50000 zstd. */
  compression?: number;
  /** 2: differences; 3: of floating-point numbers. */
  predictor?: number;
  /** The side of a tile; without it there are strips. */
  tile?: number;
  /** The rows of a strip; default all. */
  rows?: number;
  /** The lowest bit of a byte comes first. */
  reversed?: boolean;
  /** YCbCr: how many pixels share blue and red, across and down. */
  subsampling?: [number, number];
  /** Blocks that are there already. */
  blocks?: Uint8Array[];
  /** Further fields: of type SHORT, or of any. */
  fields?: Record<number, number[] | TiffValue>;
}

/** The value of a field of any type; or directories that it points to. */
export interface TiffValue {
  type: number;
  values: number[];
  children?: Record<number, number[] | TiffValue>[];
}

/** A page, down to its samples. */
export interface TiffPage {
  width: number;
  height: number;
  bits: number;
  channels: number;
  photometric: number;
  compression: number;
  /** 1 unsigned, 2 signed, 3 floating point. */
  format: number;
  extras: number[];
  isTiled: boolean;
  predictor: number;
  /** Pixel by pixel, channel by channel. */
  samples: number[];
  /** The values of all fields; texts and bytes of unknown meaning in hexadecimal. */
  fields: Record<number, number[] | string>;
  /** The fields of what fields point to. */
  children: Record<number, Record<number, number[] | string>[]>;
  /** Its compressed blocks. */
  blocks: Uint8Array[];
}

const SIZES: Record<number, number> = {
  ...{ 1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4 },
  ...{ 12: 8, 13: 4, 16: 8, 17: 8, 18: 8 },
};

/** Reads all pages. */
export function decodeTiff(bytes: Uint8Array): TiffPage[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const little = bytes[0] === 0x49, big = view.getUint16(2, little) === 43;
  const word = (at: number) =>
    big ? Number(view.getBigUint64(at, little)) : view.getUint32(at, little);
  const read = (type: number, at: number): number => {
    if (type === 3) return view.getUint16(at, little);
    if (type === 4 || type === 13) return view.getUint32(at, little);
    if (type === 5) {
      return view.getUint32(at, little) / view.getUint32(at + 4, little);
    }
    if (type === 11) return view.getFloat32(at, little);
    if (type === 12) return view.getFloat64(at, little);
    if (type > 15) return Number(view.getBigUint64(at, little));
    return view.getUint8(at);
  };
  const directory = (at: number) => {
    const count = big ? word(at) : view.getUint16(at, little);
    const fields: TiffPage["fields"] = {};
    const children: TiffPage["children"] = {};
    const start = at + (big ? 8 : 2), size = big ? 20 : 12;
    let last = 0;
    for (let i = 0; i < count; i++) {
      const entry = start + i * size, tag = view.getUint16(entry, little);
      if (tag <= last) throw new Error(`field ${tag} behind ${last}`);
      last = tag;
      const type = view.getUint16(entry + 2, little), length = word(entry + 4);
      const place = entry + (big ? 12 : 8), whole = length * SIZES[type];
      const from = whole > (big ? 8 : 4) ? word(place) : place;
      if (from & 1 || from + whole > bytes.length) throw new Error(`${tag}`);
      fields[tag] = [2, 7].includes(type)
        ? Buffer.from(bytes.subarray(from, from + whole)).toString("hex")
        : Array.from({ length }, (_, k) => read(type, from + k * SIZES[type]));
      if ([330, 34665, 34853, 40965].includes(tag)) {
        children[tag] = (fields[tag] as number[]).map((at) => {
          const inner = directory(at);
          Object.assign(children, inner.children);
          return inner.fields;
        });
      }
    }
    return { fields, children, next: word(start + count * size) };
  };
  const pages: TiffPage[] = [];
  for (let at = word(big ? 8 : 4); at;) {
    const { fields, children, next } = directory(at);
    pages.push({ ...pageOf(bytes, little, fields), children });
    at = next;
  }
  return pages;
}

function pageOf(
  bytes: Uint8Array,
  little: boolean,
  fields: TiffPage["fields"],
): Omit<TiffPage, "children"> {
  const numbers = (tag: number, missing: number[] = []) =>
    (fields[tag] as number[] | undefined) ?? missing;
  const [[width], [height]] = [numbers(256), numbers(257)];
  const [bits] = numbers(258, [1]), [channels] = numbers(277, [1]);
  const [compression] = numbers(259, [1]), [format] = numbers(339, [1]);
  const [predictor] = numbers(317, [1]), isTiled = fields[322] !== undefined;
  const isPlanar = numbers(284, [1])[0] === 2 && channels > 1;
  const [wide] = numbers(322, [width]);
  const [high] = isTiled ? numbers(323) : numbers(278, [height]);
  const starts = numbers(isTiled ? 324 : 273);
  const sizes = numbers(isTiled ? 325 : 279);
  const blocks = starts.map((at, i) => bytes.subarray(at, at + sizes[i]));
  const page = {
    ...{ width, height, bits, channels, compression, format, isTiled, fields },
    ...{
      predictor,
      photometric: numbers(262)[0],
      extras: numbers(338),
      blocks,
    },
  };
  const samples: number[] = Array(width * height * channels).fill(0);
  if ([7, 34925].includes(compression)) return { ...page, samples: [] };
  const across = Math.ceil(width / wide), down = Math.ceil(height / high);
  const inBlock = isPlanar ? 1 : channels;
  for (const [i, block] of blocks.entries()) {
    if (!block.length) continue;
    const place = i % (across * down), left = place % across * wide;
    const top = Math.floor(place / across) * high;
    const first = Math.floor(i / (across * down));
    const rows = isTiled ? high : Math.min(high, height - top);
    const data = unpack(block, compression);
    const stride = Math.ceil(wide * inBlock * bits / 8);
    if (data.length < stride * rows) throw new Error(`${data.length} bytes`);
    for (let y = 0; y < rows; y++) {
      const row = data.slice(y * stride, (y + 1) * stride);
      const values = rowOf(row, { ...page, little, inBlock }, wide * inBlock);
      for (let x = 0; x < wide * inBlock; x++) {
        const column = left + Math.floor(x / inBlock);
        if (column >= width || top + y >= height) continue;
        const at = (top + y) * width + column;
        samples[at * channels + first + x % inBlock] = values[x];
      }
    }
  }
  return { ...page, samples };
}

/** The numbers of a row. */
function rowOf(
  row: Uint8Array,
  { bits, format, predictor, little, inBlock }: {
    bits: number;
    format: number;
    predictor: number;
    little: boolean;
    inBlock: number;
  },
  count: number,
): number[] {
  const size = bits / 8, isWhole = Number.isInteger(size);
  if (predictor === 3) {
    for (let i = inBlock; i < row.length; i++) row[i] += row[i - inBlock];
    const copy = row.slice();
    for (let i = 0; i < count; i++) {
      for (let k = 0; k < size; k++) row[i * size + k] = copy[k * count + i];
    }
  }
  const isLittle = little && predictor !== 3;
  const words: bigint[] = [];
  for (let i = 0; i < count; i++) {
    let word = 0n;
    for (let bit = i * bits; !isWhole && bit < (i + 1) * bits; bit++) {
      word = word * 2n + BigInt(row[bit >> 3] >> 7 - (bit & 7) & 1);
    }
    for (let k = 0; isWhole && k < size; k++) {
      const byte = row[i * size + (isLittle ? size - 1 - k : k)];
      word = word * 256n + BigInt(byte);
    }
    if (predictor === 2) word += words[i - inBlock] ?? 0n;
    words.push(BigInt.asUintN(bits, word));
  }
  return words.map((word) => {
    if (format === 2) return Number(BigInt.asIntN(bits, word));
    if (format !== 3) return Number(word);
    const view = new DataView(new ArrayBuffer(8));
    view.setBigUint64(0, word);
    if (bits === 16) return view.getFloat16(6);
    return bits === 32 ? view.getFloat32(4) : view.getFloat64(0);
  });
}

function unpack(block: Uint8Array, compression: number): Uint8Array {
  if (compression === 1) return block;
  if (compression === 5) return unpackLzw(block);
  if (compression === 8 || compression === 32946) {
    return new Uint8Array(inflateSync(block));
  }
  if (compression === 50000) return new Uint8Array(zstdDecompressSync(block));
  if (compression !== 32773) throw new Error(`compression ${compression}`);
  const out: number[] = [];
  for (let at = 0; at < block.length;) {
    const head = block[at++];
    if (head < 128) {
      out.push(...block.subarray(at, at += head + 1));
    } else if (head > 128) {
      for (let n = 257 - head; n > 0; n--) out.push(block[at]);
      at++;
    }
  }
  return Uint8Array.from(out);
}

/** TIFF 6.0, section 13, with whole strings in a table. */
function unpackLzw(block: Uint8Array): Uint8Array {
  const start = Array.from({ length: 258 }, (_, i) => [i & 255]);
  const out: number[] = [];
  let table = start.slice(), width = 9, last: number[] | undefined;
  for (let bit = 0; bit + width <= 8 * block.length;) {
    let code = 0;
    for (let k = 0; k < width; k++, bit++) {
      code = code * 2 + (block[bit >> 3] >> 7 - (bit & 7) & 1);
    }
    if (code === 257) break;
    if (code === 256) {
      [table, width, last] = [start.slice(), 9, undefined];
      continue;
    }
    const string = table[code] ?? [...last!, last![0]];
    if (last) table.push([...last, string[0]]);
    out.push(...string);
    last = string;
    if (table.length >= (1 << width) - 1 && width < 12) width++;
  }
  return Uint8Array.from(out);
}

/** Writes pages with all pixels at the end, as programs do that know them last. */
export function encodePixelsLast(pages: Tiff[]): Uint8Array {
  const { length } = encodeTiffs(pages, 0);
  const even = length + (length & 1);
  const blocks = pages.flatMap((page) =>
    page.blocks ?? blocksOf({ ...page, bigEndian: pages[0].bigEndian })
  );
  const pad = new Uint8Array(length & 1);
  return new Uint8Array(
    Buffer.concat([encodeTiffs(pages, even), pad, ...blocks]),
  );
}

/**
 * Writes pages; byte order and size of offsets are those of the first. Blocks that
 * are to come later begin at `pixels`.
 */
export function encodeTiffs(pages: Tiff[], pixels?: number): Uint8Array {
  let later = pixels ?? 0;
  const { bigEndian = false, big = false } = pages[0];
  const little = !bigEndian, parts: Uint8Array[] = [];
  let length = 0;
  const append = (bytes: Uint8Array): number => {
    const pad = new Uint8Array(length & 1), at = length + pad.length;
    parts.push(pad, bytes);
    length = at + bytes.length;
    return at;
  };
  const bytesOf = (type: number, values: number[]): Uint8Array => {
    const size = SIZES[type], out = new Uint8Array(size * values.length);
    const view = new DataView(out.buffer);
    for (const [i, value] of values.entries()) {
      const at = i * size;
      if (type === 5) {
        view.setUint32(at, Math.round(value * 1000), little);
        view.setUint32(at + 4, 1000, little);
      } else if (type === 11) view.setFloat32(at, value, little);
      else if (type === 12) view.setFloat64(at, value, little);
      else if (size === 1) view.setUint8(at, value);
      else if (size === 2) view.setUint16(at, value, little);
      else if (size === 4) view.setUint32(at, value, little);
      else view.setBigUint64(at, BigInt(value), little);
    }
    return out;
  };
  const word = big ? 16 : 4, room = big ? 8 : 4;
  const directory = (fields: Record<number, number[] | TiffValue>) => {
    const entries: Uint8Array[] = [];
    for (const [tag, value] of Object.entries(fields)) {
      const field = Array.isArray(value) ? { type: 3, values: value } : value;
      const { children } = field as TiffValue;
      const { type, values } = children
        ? { type: word, values: children.map((child) => directory(child).at) }
        : field;
      const data = bytesOf(type, values);
      const inline = new Uint8Array(room);
      inline.set(data.length > room ? bytesOf(word, [append(data)]) : data);
      entries.push(
        bytesOf(3, [Number(tag), type]),
        bytesOf(word, [values.length]),
        inline,
      );
    }
    const head = bytesOf(big ? 16 : 3, [entries.length / 3]);
    const whole = new Uint8Array(
      Buffer.concat([head, ...entries, new Uint8Array(room)]),
    );
    return { at: append(whole), link: whole.subarray(-room) };
  };
  const header = new Uint8Array(big ? 16 : 8);
  header.set(bigEndian ? [0x4d, 0x4d] : [0x49, 0x49]);
  header.set(bytesOf(3, big ? [43, 8] : [42]), 2);
  append(header);
  let link = header.subarray(big ? 8 : 4);
  for (const page of pages) {
    const blocks = page.blocks ?? blocksOf({ ...page, bigEndian });
    const starts = blocks.map((block) => {
      if (pixels === undefined) return block.length ? append(block) : 0;
      later += block.length;
      return later - block.length;
    });
    const { width, height, tile, channels, format = 1 } = page;
    const { compression = 1, predictor = 1, planar, reversed } = page;
    const all = Array.from({ length: channels }, () => page.bits);
    const fields: NonNullable<Tiff["fields"]> = {
      256: [width],
      257: [height],
      258: all,
      259: [compression],
      262: [page.photometric],
      266: [reversed ? 2 : 1],
      277: [channels],
      ...tile ? { 322: [tile], 323: [tile] } : { 278: [page.rows ?? height] },
      [tile ? 324 : 273]: { type: word, values: starts },
      [tile ? 325 : 279]: {
        type: word,
        values: blocks.map(({ length }) => length),
      },
      284: [planar ? 2 : 1],
      317: [predictor],
      339: all.map(() => format),
      ...page.fields,
    };
    if (page.subsampling) fields[530] = page.subsampling;
    const written = directory(fields);
    link.set(bytesOf(word, [written.at]));
    link = written.link;
  }
  return new Uint8Array(Buffer.concat(parts));
}

export const encodeTiffPage = (tiff: Tiff): Uint8Array => encodeTiffs([tiff]);

/** The compressed blocks of a page. */
function blocksOf(tiff: Tiff): Uint8Array[] {
  const { width, height, channels, tile, planar, samples } = tiff;
  const all = Array.from({ length: channels }, (_, channel) => channel);
  const blocks: Uint8Array[] = [];
  const [wide, high] = tile ? [tile, tile] : [width, tiff.rows ?? height];
  for (const of of planar ? all.map((channel) => [channel]) : [all]) {
    for (let top = 0; top < height; top += high) {
      for (let left = 0; left < width; left += wide) {
        const rows = tile ? high : Math.min(high, height - top);
        const at = (column: number, row: number, channel: number) =>
          column >= width || row >= height
            ? 0
            : samples[(row * width + column) * channels + channel];
        const { subsampling } = tiff;
        const data = subsampling
          ? unitsOf(at, left, top, wide, rows, subsampling)
          : new Uint8Array(
            Buffer.concat(Array.from({ length: rows }, (_, y) =>
              packRow(
                Array.from(
                  { length: wide * of.length },
                  (_, i) =>
                    at(
                      left + Math.floor(i / of.length),
                      top + y,
                      of[i % of.length],
                    ),
                ),
                of.length,
                tiff,
              ))),
          );
        const packed = pack(data, tiff.compression ?? 1);
        blocks.push(tiff.reversed ? packed.map(reverse) : packed);
      }
    }
  }
  return blocks;
}

function reverse(byte: number): number {
  let out = 0;
  for (let bit = 0; bit < 8; bit++) out = out * 2 + (byte >> bit & 1);
  return out;
}

/** Section 21: some samples of luma, then one each of blue and red. */
function unitsOf(
  at: (column: number, row: number, channel: number) => number,
  left: number,
  top: number,
  wide: number,
  rows: number,
  [across, down]: [number, number],
): Uint8Array {
  const out: number[] = [];
  for (let y = top; y < top + rows; y += down) {
    for (let x = left; x < left + wide; x += across) {
      for (let i = 0; i < across * down; i++) {
        out.push(at(x + i % across, y + Math.floor(i / across), 0));
      }
      out.push(at(x, y, 1), at(x, y, 2));
    }
  }
  return Uint8Array.from(out);
}

/** The bytes of a row, as differences if there is a predictor. */
function packRow(
  values: number[],
  channels: number,
  { bits, format = 1, bigEndian, predictor = 1 }: Tiff,
): Uint8Array {
  const size = bits / 8, out = new Uint8Array(Math.ceil(values.length * size));
  const view = new DataView(out.buffer), isLittle = !bigEndian;
  const words = values.map((value) => {
    if (format !== 3) return BigInt.asUintN(bits, BigInt(value));
    const bytes = new DataView(new ArrayBuffer(8));
    if (size === 2) bytes.setFloat16(6, value);
    else if (size === 4) bytes.setFloat32(4, value);
    else bytes.setFloat64(0, value);
    return bytes.getBigUint64(0);
  });
  if (predictor === 3) {
    for (const [i, word] of words.entries()) {
      for (let k = 0; k < size; k++) {
        const shift = BigInt(8 * (size - 1 - k));
        out[k * words.length + i] = Number(word >> shift & 255n);
      }
    }
    for (let i = out.length - 1; i >= channels; i--) {
      out[i] -= out[i - channels];
    }
    return out;
  }
  for (const [i, word] of words.entries()) {
    const before = predictor === 2 ? words[i - channels] ?? 0n : 0n;
    const value = BigInt.asUintN(bits, word - before);
    if (size === 1) out[i] = Number(value);
    else if (size === 2) view.setUint16(2 * i, Number(value), isLittle);
    else if (size === 4) view.setUint32(4 * i, Number(value), isLittle);
    else if (size === 8) view.setBigUint64(8 * i, value, isLittle);
    else {
      for (let bit = 0; bit < bits; bit++) {
        const place = i * bits + bit;
        out[place >> 3] |= Number(value >> BigInt(bits - 1 - bit) & 1n) <<
          7 - (place & 7);
      }
    }
  }
  return out;
}

function pack(data: Uint8Array, compression: number): Uint8Array {
  if (compression === 8 || compression === 32946) {
    return new Uint8Array(deflateSync(data));
  }
  if (compression === 50000) return new Uint8Array(zstdCompressSync(data));
  if (compression === 32773) { // runs of three, and bytes as they are
    const out: number[] = [];
    for (let at = 0; at < data.length;) {
      const isRun = data[at] === data[at + 1] && data[at] === data[at + 2];
      if (isRun) out.push(254, data[at]);
      else out.push(0, data[at], 128);
      at += isRun ? 3 : 1;
    }
    return Uint8Array.from(out);
  }
  if (compression !== 5) return data;
  // LZW without strings: it begins anew before codes would need ten bits.
  const codes: number[] = [];
  for (const [i, byte] of data.entries()) {
    if (i % 250 === 0) codes.push(256);
    codes.push(byte);
  }
  codes.push(257);
  const out = new Uint8Array(Math.ceil(codes.length * 9 / 8));
  for (const [i, code] of codes.entries()) {
    for (let bit = 0; bit < 9; bit++) {
      const place = 9 * i + bit;
      out[place >> 3] |= (code >> 8 - bit & 1) << 7 - (place & 7);
    }
  }
  return out;
}
