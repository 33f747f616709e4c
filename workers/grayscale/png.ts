/**
 * Makes a PNG gray: chunks, what is kept of them, and how the pixels are
 * compressed. Inflating and deflating is `node:zlib`'s; what is between is in
 * kernels/png.ts. Clauses are those of PNG, 3rd edition.
 *
 * @module
 */

import {
  constants,
  crc32,
  deflateSync,
  inflateSync,
  type ZlibOptions,
} from "node:zlib";
import * as kernels from "../kernels/kernels.wasm";
import { luma } from "../kernels/luma.ts";
import { align, free, joined, memory } from "../shared/memory.ts";

/** What the first chunks tell. */
export interface PngHeader {
  /** Columns of the picture. */
  width: number;
  /** Rows of the picture. */
  height: number;
  /** Frames, of an animation. */
  frames?: number;
}

/** 11.2.1: IHDR. */
interface Format extends PngHeader {
  /** Bits of a sample, or of a color number. */
  depth: number;
  type: number;
  isInterlaced: boolean;
}

/** 5: a chunk. */
interface Chunk {
  /** Where it begins, and what follows it, in bytes. */
  at: number;
  end: number;
  type: string;
  data: Uint8Array;
}

/** What is kept or needed of a file. */
interface Parts {
  format: Format;
  /** PLTE and tRNS. */
  palette?: Uint8Array;
  transparency?: Uint8Array;
  /** What is in the IDAT chunks: a zlib stream. */
  stream: Uint8Array;
  /** Where they begin. */
  at: number;
  /** Whole chunks that stay, before and behind them. */
  before: Uint8Array[];
  behind: Uint8Array[];
  /** Behind IEND. */
  end: number;
}

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/** 6.1: how many samples a pixel has, by color type. */
const CHANNELS: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const GRAY = 0, RGB = 2, PALETTE = 3, GRAY_ALPHA = 4, RGB_ALPHA = 6;
/** 11.2.1: the depths that each color type has. */
const DEPTHS: Record<number, number[]> = {
  [GRAY]: [1, 2, 4, 8, 16],
  [RGB]: [8, 16],
  [PALETTE]: [1, 2, 4, 8],
  [GRAY_ALPHA]: [8, 16],
  [RGB_ALPHA]: [8, 16],
};

/** 5.6: chunks that there may be one of. */
const SINGLE = new Set([
  ...["IHDR", "PLTE", "IEND", "acTL", "bKGD", "cHRM", "cICP", "cLLI", "eXIf"],
  ...["gAMA", "hIST", "iCCP", "mDCV", "pHYs", "sBIT", "sRGB", "tIME", "tRNS"],
]);
/** The sizes of those whose size never changes. */
const SIZES: Record<string, number> = {
  ...{ IHDR: 13, IEND: 0, acTL: 8, gAMA: 4, pHYs: 9, sRGB: 1, tIME: 7 },
};

/** 8.1, Adam7: the first column and row of each pass, and the steps. */
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
];

/** Deflate's longest match, 258 bytes, has 2 bits. */
const RATIO_MAX = 1032;
const CHUNK_MAX = 2 ** 31 - 1;

/**
 * Makes a PNG gray: 8 bits stay 8, fewer become 8, 16 stay 16; what is
 * transparent stays so, as an alpha channel. One that is gray comes as it is,
 * checked to its last pixel. An interlaced one does not stay so: that costs
 * bytes and time, and nobody waits for files of a batch to show up bit by bit.
 *
 * Chunks are kept if they are safe to copy (14.2: texts, EXIF, pHYs), and gAMA,
 * sRGB and tIME; the others speak of colors that are gone.
 *
 * @param bytes A whole file; it is not changed
 * @param judge Called with what the first chunks tell, to refuse it by throwing
 * @returns A whole file
 * @throws {Error} If it is broken or truncated; the line says where
 *
 * @example
 * ```ts
 * import { grayPng } from "./png.ts";
 *
 * try {
 *   grayPng(new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]));
 * } catch (error) {
 *   console.log(String(error)); // Error: truncated PNG: the file ends too early at byte 8
 * }
 * ```
 */
export function grayPng(
  bytes: Uint8Array,
  judge: (header: PngHeader) => void = () => {},
): Uint8Array {
  return joined(grayPngParts(bytes, judge));
}

/**
 * The same in parts, as they are to be written: the largest one is not copied.
 *
 * @param bytes A whole file; it is not changed
 * @param judge As for {@linkcode grayPng}
 * @returns The parts of a whole file, in order; some lie in `bytes`
 * @throws {Error} If it is broken or truncated; the line says where
 *
 * @example
 * ```ts
 * import { grayPngParts } from "./png.ts";
 *
 * try {
 *   grayPngParts(new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]));
 * } catch (error) {
 *   console.log(String(error)); // Error: truncated PNG: the file ends too early at byte 8
 * }
 * ```
 */
export function grayPngParts(
  bytes: Uint8Array,
  judge: (header: PngHeader) => void = () => {},
): Uint8Array[] {
  const parts = new Reading(bytes, judge).run();
  const rows = inflateRows(parts);
  if (parts.stream.buffer !== bytes.buffer) free(parts.stream);
  const { type, width } = parts.format;
  if (type === GRAY || type === GRAY_ALPHA) {
    checkFilters(parts.format, rows);
    free(rows);
    return [bytes.subarray(0, parts.end)];
  }
  const gray = grayOf(parts), image = grayRows(parts, gray, rows);
  const stream = compress(image, 1 + width * gray.pixel, gray.pixel);
  free(image);
  return assemble(parts, gray, stream);
}

function broken(cause: string, at: number): never {
  throw new Error(`broken PNG: ${cause} at byte ${at}`);
}

// Chunks

const be32 = (value: number): number[] => [
  ...[value >>> 24, value >>> 16 & 255, value >>> 8 & 255, value & 255],
];

/** 5.3: a chunk, whole and with the right checksum. */
function readChunk(bytes: Uint8Array, view: DataView, at: number): Chunk {
  const isThere = (end: number) => {
    if (end <= bytes.length) return;
    const { length } = bytes;
    throw new Error(`truncated PNG: the file ends too early at byte ${length}`);
  };
  isThere(at + 8);
  const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
  if (!/^[A-Za-z]{4}$/.test(type)) {
    broken(at > 8 ? "no chunk where one should be" : "no IHDR chunk", at);
  }
  const size = view.getUint32(at), end = at + 12 + size;
  if (size > CHUNK_MAX) broken(`too long a chunk (${type})`, at);
  isThere(end);
  if (crc32(bytes.subarray(at + 4, end - 4)) !== view.getUint32(end - 4)) {
    broken(`bad checksum of a chunk (${type})`, at);
  }
  return { at, end, type, data: bytes.subarray(at + 8, end - 4) };
}

/** Goes through the chunks up to IEND, and sees that all are in order. */
class Reading {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #judge: (header: PngHeader) => void;
  readonly #format: Format;
  readonly #seen = new Set(["IHDR"]);
  #palette?: Uint8Array;
  #transparency?: Uint8Array;
  /** Where the IDAT chunks begin and end, and how much is in them. */
  #first = 0;
  #last = 0;
  #size = 0;
  readonly #before: Kept;
  readonly #behind: Kept;

  constructor(bytes: Uint8Array, judge: (header: PngHeader) => void) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#judge = judge;
    this.#before = new Kept(bytes);
    this.#behind = new Kept(bytes);
    this.#format = readFormat(readChunk(bytes, this.#view, 8));
    judge(this.#format);
  }

  run(): Parts {
    for (let at = SIGNATURE.length + 12 + SIZES.IHDR;;) {
      const chunk = readChunk(this.#bytes, this.#view, at);
      this.#check(chunk);
      if (chunk.type === "IEND") return this.#finish(chunk);
      this.#take(chunk);
      at = chunk.end;
    }
  }

  #check({ at, type, data }: Chunk): void {
    if (data.length !== (SIZES[type] ?? data.length)) {
      broken(`bad size of a chunk (${type})`, at);
    }
    if (!SINGLE.has(type)) return;
    if (this.#seen.has(type)) broken(`second ${type} chunk`, at);
    this.#seen.add(type);
  }

  #take(chunk: Chunk): void {
    const { at, end, type } = chunk, isBehind = this.#first > 0;
    if (type === "IDAT") this.#takeData(chunk);
    else if (type === "PLTE") this.#takePalette(chunk);
    else if (type === "tRNS") this.#takeTransparency(chunk);
    else if (type === "acTL" && !isBehind) {
      this.#judge({ ...this.#format, frames: this.#view.getUint32(at + 8) });
    } else if (/^[A-Z]/.test(type)) {
      throw new Error(
        `unsupported PNG: unknown critical chunk (${type}) at byte ${at}`,
      );
    } else if (isKept(type, isBehind)) {
      (isBehind ? this.#behind : this.#before).add(at, end);
    }
  }

  #takeData({ at, end, data }: Chunk): void {
    const needsPalette = this.#format.type === PALETTE && !this.#palette;
    if (needsPalette) broken("no PLTE chunk", at);
    if (this.#first && this.#last !== at) {
      broken("IDAT chunk apart from the others", at);
    }
    this.#first ||= at;
    this.#last = end;
    this.#size += data.length;
  }

  #takePalette(chunk: Chunk): void {
    if (this.#first) broken("PLTE chunk behind IDAT", chunk.at);
    checkPalette(this.#format, chunk);
    this.#palette = chunk.data;
  }

  #takeTransparency(chunk: Chunk): void {
    if (this.#first) broken("tRNS chunk behind IDAT", chunk.at);
    checkTransparency(this.#format, chunk, this.#palette);
    this.#transparency = chunk.data;
  }

  #finish({ at, end }: Chunk): Parts {
    if (!this.#first) broken("no IDAT chunk", at);
    return {
      format: this.#format,
      palette: this.#palette,
      transparency: this.#transparency,
      stream: this.#gather(),
      at: this.#first,
      before: this.#before.parts,
      behind: this.#behind.parts,
      end,
    };
  }

  /** Joins what is in the IDAT chunks. */
  #gather(): Uint8Array {
    const bytes = this.#bytes, first = this.#first, last = this.#last;
    const isOne = last - first === this.#size + 12;
    if (isOne) return bytes.subarray(first + 8, last - 4);
    const stream = new Uint8Array(this.#size);
    for (let at = first, to = 0; at < last;) {
      const size = this.#view.getUint32(at);
      stream.set(bytes.subarray(at + 8, at + 8 + size), to);
      to += size;
      at += 12 + size;
    }
    return stream;
  }
}

/** 11.2.1: IHDR. */
function readFormat({ at, type: name, data }: Chunk): Format {
  if (name !== "IHDR") broken("no IHDR chunk", at);
  if (data.length !== SIZES.IHDR) broken("bad size of a chunk (IHDR)", at);
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const width = view.getUint32(0), height = view.getUint32(4);
  const [depth, type, compression, filter, interlace] = data.subarray(8);
  if (Math.max(width, height) > CHUNK_MAX) broken("bad size of an image", at);
  if (!DEPTHS[type]?.includes(depth)) {
    broken(`no color type (${type}) of ${depth} bits`, at);
  }
  if (compression) broken(`unknown compression method (${compression})`, at);
  if (filter) broken(`unknown filter method (${filter})`, at);
  if (interlace > 1) broken(`unknown interlace method (${interlace})`, at);
  return { width, height, depth, type, isInterlaced: interlace === 1 };
}

/** 11.2.2: PLTE. */
function checkPalette({ type, depth }: Format, { at, data }: Chunk): void {
  if (type === GRAY || type === GRAY_ALPHA) {
    broken("PLTE chunk in a gray image", at);
  }
  const most = type === PALETTE ? 2 ** depth : 256, count = data.length / 3;
  if (!Number.isInteger(count) || count < 1 || count > most) {
    broken("bad size of a chunk (PLTE)", at);
  }
}

/** 11.3.1.1: tRNS. */
function checkTransparency(
  { type }: Format,
  { at, data }: Chunk,
  palette?: Uint8Array,
): void {
  const { length } = data;
  if (type === GRAY_ALPHA || type === RGB_ALPHA) {
    broken("tRNS chunk in an image with alpha", at);
  }
  if (type === PALETTE && !palette) broken("tRNS chunk before PLTE", at);
  const isRight = type === PALETTE
    ? length >= 1 && 3 * length <= palette!.length
    : length === 2 * CHANNELS[type];
  if (!isRight) broken("bad size of a chunk (tRNS)", at);
}

/**
 * 14.2: what is safe to copy stays, and what says the same of gray; but for the
 * draft names of mDCV and cLLI. Behind IDAT none of the others has a place.
 */
function isKept(type: string, isBehind: boolean): boolean {
  if (type === "tIME") return true;
  if (type === "gAMA" || type === "sRGB") return !isBehind;
  return /[a-z]$/.test(type) && type !== "mDCv" && type !== "cLLi";
}

/** Runs of chunks that stay. */
class Kept {
  readonly parts: Uint8Array[] = [];
  readonly #bytes: Uint8Array;
  #from = 0;
  #end = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  add(at: number, end: number): void {
    if (this.#end === at) this.parts.pop();
    else this.#from = at;
    this.#end = end;
    this.parts.push(this.#bytes.subarray(this.#from, end));
  }
}

// Rows

/** An image, or a pass of an interlaced one, that has pixels. */
interface Pass {
  columns: number;
  rows: number;
  /** Where its pixels are in the image. */
  left: number;
  top: number;
  right: number;
  down: number;
}

function passesOf({ width, height, isInterlaced }: Format): Pass[] {
  return (isInterlaced ? ADAM7 : [[0, 0, 1, 1]])
    .map(([left, top, right, down]) => ({
      columns: Math.max(0, Math.ceil((width - left) / right)),
      rows: Math.max(0, Math.ceil((height - top) / down)),
      ...{ left, top, right, down },
    }))
    .filter(({ columns, rows }) => columns && rows);
}

/** 7.2: how many bytes a row has, without the one of its filter. */
const rowSizeOf = ({ depth, type }: Format, columns: number): number =>
  Math.ceil(columns * depth * CHANNELS[type] / 8);

/** Inflates as many rows as IHDR tells, no more and no less. */
function inflateRows({ format, stream, at }: Parts): Uint8Array {
  const { width, height } = format;
  const size = passesOf(format)
    .reduce((sum, p) => sum + p.rows * (1 + rowSizeOf(format, p.columns)), 0);
  const short = () => broken("too little image data (IDAT)", at);
  // Room is made only for what can be there.
  if (size > RATIO_MAX * stream.length) short();
  try {
    const rows = inflateSync(stream, {
      // In one piece, and one byte that tells that there is no more.
      chunkSize: Math.max(constants.Z_MIN_CHUNK, Math.min(size + 1, 2 ** 31)),
      maxOutputLength: size,
    });
    if (rows.length < size) short();
    return rows;
  } catch (error) {
    const { code, message } = error as Error & { code?: string };
    if (code === "ERR_BUFFER_TOO_LARGE") {
      broken(`image data (IDAT) of more than ${width}x${height} pixels`, at);
    }
    if (code === "Z_BUF_ERROR") short();
    if (!code?.startsWith("Z_")) throw error;
    broken(`damaged image data (IDAT: ${message})`, at);
  }
}

function checkFilters(format: Format, rows: Uint8Array): void {
  let at = 0, row = 0;
  for (const pass of passesOf(format)) {
    const size = 1 + rowSizeOf(format, pass.columns);
    for (let y = 0; y < pass.rows; y++, row++, at += size) {
      if (rows[at] > 4) refuseFilter(rows[at], row);
    }
  }
}

function refuseFilter(filter: number, row: number): never {
  throw new Error(`broken PNG: unknown filter (${filter}) in row ${row}`);
}

// Gray

/** What pixels become. */
interface Gray {
  /** Bits of a sample. */
  depth: number;
  /** 1, or 2 with alpha. */
  channels: number;
  /** Bytes of a pixel. */
  pixel: number;
}

function grayOf({ format: { depth: bits, type }, transparency }: Parts): Gray {
  const depth = bits === 16 ? 16 : 8;
  const channels = type === RGB_ALPHA || transparency ? 2 : 1;
  return { depth, channels, pixel: channels * depth / 8 };
}

/**
 * Makes rows of gray, each behind the type of its filter: none. They go over
 * those that they are made of, where there is room; else those are freed.
 */
function grayRows(parts: Parts, gray: Gray, rows: Uint8Array): Uint8Array {
  const { format } = parts, { width, height, isInterlaced } = format;
  const { pixel } = gray, size = 1 + width * pixel;
  const fits = !isInterlaced && size <= 1 + rowSizeOf(format, width);
  const image = fits
    ? rows.subarray(0, height * size)
    : new Uint8Array(height * size);
  let at = 0, row = 0;
  for (const pass of passesOf(format)) {
    const bands = new Bands(parts, gray, pass.columns);
    for (let y = 0; y < pass.rows; y += bands.count) {
      const count = Math.min(bands.count, pass.rows - y);
      const end = at + count * bands.size;
      const band = bands.convert(rows.subarray(at, end), count, row);
      if (isInterlaced) scatter(band, pass, y, image, size, pixel);
      else image.set(band, y * size);
      at = end;
      row += count;
    }
  }
  if (!fits) free(rows);
  return image;
}

/** Puts rows of a pass, from one of them on, where they are in the image. */
function scatter(
  band: Uint8Array,
  { left, top, right, down, columns }: Pass,
  row: number,
  image: Uint8Array,
  size: number,
  pixel: number,
): void {
  let start = (top + row * down) * size + 1 + left * pixel;
  for (let from = 0; from < band.length; start += down * size) {
    from++; // the type of a filter
    let to = start;
    for (let x = 0; x < columns; x++, to += right * pixel) {
      for (let i = 0; i < pixel; i++) image[to + i] = band[from++];
    }
  }
}

// The kernel

/** Room for what the kernel reads or writes beyond an end, in bytes. */
const SLACK = 64;
/** How much is worked on at once, in bytes: it stays in the cache. */
const BAND = 1 << 17;
/** What the kernel knows for: no color is transparent. */
const OPAQUE = -1n;

/** How many rows of so many bytes are worked on at once. */
const bandOf = (size: number): number => Math.max(1, Math.floor(BAND / size));

/** Makes gray of a pass, some rows at a time. */
class Bands {
  /** How many rows at the most, and their sizes with the type of a filter. */
  readonly count: number;
  readonly size: number;
  readonly graySize: number;
  readonly #parts: Parts;
  readonly #gray: Gray;
  readonly #columns: number;
  readonly #layout: Layout;
  readonly #memory: Uint8Array;

  constructor(parts: Parts, gray: Gray, columns: number) {
    this.#parts = parts;
    this.#gray = gray;
    this.#columns = columns;
    this.size = 1 + rowSizeOf(parts.format, columns);
    this.graySize = 1 + columns * gray.pixel;
    this.count = bandOf(this.size);
    const { size, count } = this, stride = align(size) + 16;
    const table = kernels.base(), from = table + 512;
    const above = align(from + count * size + SLACK);
    const to = above + (count + 1) * stride + SLACK;
    this.#layout = { table, from, above, stride, to };
    this.#memory = memory(to + count * this.graySize + SLACK);
    this.#memory.fill(0, above, above + stride);
    this.#memory.set(tableOf(parts), table);
  }

  /** Gives a view of rows of gray; `first` is the number of the first one. */
  convert(rows: Uint8Array, count: number, first: number): Uint8Array {
    const { size, graySize } = this, view = this.#memory;
    const { from, above, stride, to } = this.#layout;
    view.set(rows, from);
    const pixel = pixelOf(this.#parts.format);
    const start = above + stride;
    const done = kernels.unfilter(from, size - 1, count, start, stride, pixel);
    if (done < count) refuseFilter(rows[done * size], first + done);
    this.#takeLuma(count, first);
    view.copyWithin(above, above + count * stride, start + count * stride);
    return view.subarray(to, to + count * graySize);
  }

  #takeLuma(count: number, first: number): void {
    const { format, palette, transparency } = this.#parts;
    const { type, depth } = format, columns = this.#columns;
    const { above, stride, to, table } = this.#layout;
    const from = above + stride, toSize = this.graySize - 1;
    if (type !== PALETTE) {
      const take = depth === 16 ? kernels.luma16 : kernels.luma8;
      const clear = transparency ? clearOf(depth, transparency) : OPAQUE;
      const channels = CHANNELS[type];
      take(from, stride, count, columns, channels, clear, to, toSize);
      return;
    }
    const colors = palette!.length / 3, { channels } = this.#gray;
    const done = kernels.lookUp(
      ...[from, stride, count, columns, depth] as const,
      ...[table, colors, channels, to, toSize] as const,
    );
    if (done === count) return;
    throw new Error(
      `broken PNG: color number beyond the palette in row ${first + done}`,
    );
  }
}

/** Where there is what in the kernels' memory. */
interface Layout {
  /** Gray and alpha of the colors of a palette. */
  table: number;
  /** Rows with filters on. */
  from: number;
  /** The row above those without, and how far it is from one to the next. */
  above: number;
  stride: number;
  /** Rows of gray. */
  to: number;
}

/** 9.2: how many bytes to the pixel on the left, one at least. */
const pixelOf = ({ depth, type }: Format): number =>
  Math.max(1, depth * CHANNELS[type] >> 3);

/** Gray and alpha of each color. */
function tableOf({ format, palette, transparency }: Parts): Uint8Array {
  const table = new Uint8Array(512);
  if (format.type !== PALETTE) return table;
  for (let i = 0; 3 * i < palette!.length; i++) {
    const [r, g, b] = palette!.subarray(3 * i, 3 * i + 3);
    table.set([luma(r, g, b), transparency?.[i] ?? 255], 2 * i);
  }
  return table;
}

/** 11.3.1.1: the color that is transparent; of 8 bits the lower byte counts. */
function clearOf(depth: number, words: Uint8Array): bigint {
  const [r, g, b] = [0, 2, 4].map((i) => words[i] << 8 | words[i + 1]);
  if (depth === 8) return BigInt((b & 255) << 16 | (g & 255) << 8 | r & 255);
  return BigInt(r) << 32n | BigInt(g) << 16n | BigInt(b);
}

/** Puts filters on some rows of an image, in place or in another buffer. */
function putFilters(
  image: Uint8Array,
  size: number,
  pixel: number,
  [first, end]: Rows = [0, image.length / size],
  out = image.subarray(first * size, end * size),
): Uint8Array {
  const most = bandOf(size);
  const above = kernels.base(), from = above + size;
  const to = align(from + most * size + SLACK);
  const view = memory(to + most * size + SLACK);
  // From the last row on: each needs the one above as it was.
  for (let below = end; below > first; below -= most) {
    const y = Math.max(first, below - most), count = below - y;
    if (y) view.set(image.subarray((y - 1) * size, below * size), above);
    else {
      view.fill(0, above, from);
      view.set(image.subarray(0, count * size), from);
    }
    kernels.filter(from, count, size - 1, pixel, to);
    out.set(view.subarray(to, to + count * size), (y - first) * size);
  }
  return out;
}

// Compression

/** How much is tried, in bytes; smaller images are tried whole. */
const SAMPLE = 1 << 16;
/** In so many places. */
const PLACES = 4;

/**
 * Photographs, whose rows have filters on, are noise: it is best to look for
 * nothing in them. Pictures of screens repeat themselves, many of them most
 * where no filter is on.
 *
 * Bytes over Pillow's, and ms for 3.7 million pixels, of 17 photographs, of 150
 * pictures from manuals, and of 16 of windows full of text that were drawn:
 *
 *     filters, Huffman alone  0.98  18    1.55  32    2.11  21
 *     filters, runs alone     0.97  22    1.03  17    1.45  11
 *     filters, level 6        1.01 103    1.01  57    1.00  30
 *     filters, level 3        1.04  43    1.05  27    1.03  14
 *     filters, level 1        1.60  23    1.52  14    1.42   7
 *     none, level 6           1.35  73    1.13  45    1.06  25
 *     none, level 3           1.38  49    1.18  28    1.11  15
 *     what samples choose     0.95        0.97        0.97
 *
 * No sample at all where few bytes are 0 was not faster, and missed pictures of
 * screens that have a photograph in them (by 40 %). Samples of 128 kB instead
 * of 64 gain 0.1 %.
 */
const WAYS: { hasFilters: boolean; options: ZlibOptions }[] = [
  {
    hasFilters: true,
    options: { strategy: constants.Z_HUFFMAN_ONLY, memLevel: 9 },
  },
  { hasFilters: true, options: { strategy: constants.Z_RLE, memLevel: 9 } },
  { hasFilters: true, options: { level: 6 } },
  { hasFilters: false, options: { level: 6 } },
];

/** Compresses rows of gray, the way that is best for samples; changes them. */
function compress(image: Uint8Array, size: number, pixel: number): Uint8Array {
  const samples = samplesOf(image.length / size, size);
  const bare = joined(
    samples.map(([from, end]) => image.subarray(from * size, end * size)),
  );
  const withFilters = joined(
    samples.map(([from, end]) => {
      const out = new Uint8Array((end - from) * size);
      return putFilters(image, size, pixel, [from, end], out);
    }),
  );
  const tried = WAYS.map(({ hasFilters, options }) =>
    deflate(hasFilters ? withFilters : bare, options)
  );
  const sizes = tried.map(({ length }) => length);
  const best = sizes.indexOf(Math.min(...sizes));
  if (bare.length === image.length) return tried[best];
  const { hasFilters, options } = WAYS[best];
  if (hasFilters) putFilters(image, size, pixel);
  return deflate(image, options);
}

/** Some rows of an image. */
type Rows = [first: number, end: number];

/** Which rows are tried. */
function samplesOf(rows: number, size: number): Rows[] {
  if (rows * size <= SAMPLE) return [[0, rows]];
  const samples: Rows[] = [];
  const count = Math.ceil(SAMPLE / PLACES / size);
  const step = Math.max(count, Math.floor(rows / PLACES));
  for (let from = 0; from + count <= rows; from += step) {
    samples.push([from, from + count]);
  }
  return samples;
}

function deflate(bytes: Uint8Array, options: ZlibOptions): Uint8Array {
  // In one piece: it hardly ever gets longer.
  const chunkSize = Math.min(
    bytes.length + (bytes.length >> 9) + 1024,
    2 ** 31,
  );
  return deflateSync(bytes, { ...options, chunkSize });
}

// The result

function assemble(
  { format, before, behind }: Parts,
  { depth, channels }: Gray,
  stream: Uint8Array,
): Uint8Array[] {
  const type = channels === 2 ? GRAY_ALPHA : GRAY;
  const size = [...be32(format.width), ...be32(format.height)];
  const parts = [
    new Uint8Array(SIGNATURE),
    ...chunkOf("IHDR", new Uint8Array([...size, depth, type, 0, 0, 0])),
    ...before,
  ];
  for (let at = 0; at < stream.length; at += CHUNK_MAX) {
    parts.push(...chunkOf("IDAT", stream.subarray(at, at + CHUNK_MAX)));
  }
  return [...parts, ...behind, ...chunkOf("IEND", new Uint8Array())];
}

/** 5.3: length and type, data, checksum. */
function chunkOf(type: string, data: Uint8Array): Uint8Array[] {
  const letters = Array.from(type, (letter) => letter.charCodeAt(0));
  const head = new Uint8Array([...be32(data.length), ...letters]);
  const sum = crc32(data, crc32(head.subarray(4)));
  return [head, data, new Uint8Array(be32(sum))];
}
