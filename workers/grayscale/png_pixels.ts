/**
 * The pixels of a PNG: a zlib stream of rows in, one of rows of gray out, a band of
 * some rows at a time, so that the memory does not grow with the picture. What
 * happens to the rows is in kernels/png.ts. Clauses are those of PNG, 3rd edition.
 *
 * @module
 */

import * as kernels from "../kernels/kernels.wasm";
import { luma } from "../kernels/luma.ts";
import { align, growMemory } from "../shared/memory.ts";
import {
  broken,
  CHANNELS,
  type Colors,
  type Faults,
  GRAY,
  GRAY_ALPHA,
  type ImageHeader,
  PALETTE,
  type Picture,
  RGB_ALPHA,
} from "./png_chunks.ts";
import { GrayWriter } from "./png_writer.ts";
import { Inflater } from "./zlib.ts";

/** The format of the gray pixels. */
export interface GrayFormat {
  /** Bits of a sample. */
  depth: number;
  /** 1, or 2 with alpha. */
  channels: number;
  /** Bytes of a pixel. */
  pixel: number;
}

/** The format of the gray pixels that pictures become. */
export function grayFormatOf(
  { format: { depth: bits, type }, transparency }: Colors,
): GrayFormat {
  const depth = bits === 16 ? 16 : 8;
  const hasAlpha = type === RGB_ALPHA || type === GRAY_ALPHA || transparency;
  const channels = hasAlpha ? 2 : 1;
  return { depth, channels, pixel: channels * depth / 8 };
}

/** 8.1, Adam7: the first column and row of each pass, and its steps. */
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
];

/** The most that deflate can expand: its longest match, 258 bytes, takes 2 bits. */
const RATIO_MAX = 1032;

/** The pixels of an image, or of one pass of an interlaced image. */
interface Pass {
  columns: number;
  rows: number;
  /** Its first column and row in the image, and the steps to the next. */
  left: number;
  top: number;
  right: number;
  down: number;
  /** Where its rows begin in the inflated data, and the size of each. */
  from: number;
  size: number;
}

function passesOf(format: ImageHeader): Pass[] {
  const { width, height, depth, type, isInterlaced } = format;
  let end = 0;
  return (isInterlaced ? ADAM7 : [[0, 0, 1, 1]])
    .map(([left, top, right, down]) => {
      const columns = Math.max(0, Math.ceil((width - left) / right));
      const rows = columns && Math.max(0, Math.ceil((height - top) / down));
      // 7.2: the first byte of a row is the number of its filter.
      const size = 1 + Math.ceil(columns * depth * CHANNELS[type] / 8);
      const from = end;
      end += rows * size;
      return { columns, rows, left, top, right, down, from, size };
    })
    .filter(({ rows }) => rows);
}

/** How many rows of a picture are what the file says. */
export interface Rows {
  /** Those whose pixels are there. */
  real: number;
  /** All that there should be. */
  all: number;
}

/**
 * Turns a picture gray.
 *
 * @param picture Its format and its data
 * @param colors What its samples mean
 * @param gray The format of the result
 * @param faults Is told what is wrong
 * @returns A zlib stream in parts, and how many of the picture's rows are real
 * @throws {Error} If rows are missing and are not to be salvaged
 */
export function convertPicture(
  picture: Picture,
  colors: Colors,
  gray: GrayFormat,
  faults: Faults,
): { stream: Uint8Array[]; rows: Rows } {
  const { format } = picture, { width, height } = format;
  let writer: GrayWriter | undefined;
  try {
    const real = readRows(
      ...[picture, colors, gray, faults] as const,
      (end) => writer = new GrayWriter(width, height, gray.pixel, end),
    );
    return { stream: writer!.end(), rows: { real, all: height } };
  } finally {
    writer?.[Symbol.dispose]();
  }
}

/** What takes rows of gray, each behind a filter byte, which is 0 (none). */
export interface RowSink {
  /** Takes some rows. */
  write(rows: Uint8Array): void;
}

/**
 * Gives the rows of a picture as gray, from the first to the last.
 *
 * @param picture Its format and its data
 * @param colors What its samples mean
 * @param gray The format of the rows
 * @param faults Is told what is wrong
 * @param open Makes what takes the rows; the kernels' memory is free from `end` on
 * @returns How many of the rows are real
 * @throws {Error} If rows are missing and are not to be salvaged
 */
export function readRows(
  picture: Picture,
  colors: Colors,
  gray: GrayFormat,
  faults: Faults,
  open: (end: number) => RowSink,
): number {
  const { format } = picture, passes = passesOf(format);
  checkSize(picture, passes, faults);
  const readers: PassReader[] = [];
  let end = kernels.base();
  try {
    for (const pass of passes) {
      const band = passes.length > 1 ? SMALL_BAND : BAND;
      const about = { ...colors, format };
      const reader = new PassReader(picture, pass, band, about, gray, faults);
      readers.push(reader);
      end = reader.layOut(end);
    }
    const sink = open(end);
    const real = format.isInterlaced
      ? weave(readers, format, gray.pixel, sink)
      : copy(readers[0], sink);
    if (real === format.height) readers.at(-1)!.checkEnd();
    return real;
  } finally {
    for (const reader of readers) reader[Symbol.dispose]();
  }
}

/**
 * Throws if a stream is too short for the rows, before there is memory for any. When
 * some are salvaged, it must at least be long enough for one.
 */
function checkSize(picture: Picture, passes: Pass[], faults: Faults): void {
  const { rows, from, size } = passes.at(-1)!;
  const length = picture.stream.reduce((sum, part) => sum + part.length, 0);
  const least = faults.salvage ? size : from + rows * size;
  if (least > RATIO_MAX * length) throw tooLittle(picture, faults);
}

const tooLittle = ({ at }: Picture, { end }: Faults): Error =>
  end ?? broken(`too little image data (IDAT)`, at);

/** Copies the rows of a picture that is not interlaced; returns how many are real. */
function copy(reader: PassReader, sink: RowSink): number {
  for (let band; (band = reader.take()).length;) sink.write(band);
  return reader.real;
}

/**
 * Weaves the rows of all passes together. Each pass has an inflater of its own, which
 * skips what belongs to the passes before it: so inflating takes twice as long, but
 * the picture is never in memory. Returns how many rows are real.
 */
function weave(
  readers: PassReader[],
  { width, height }: ImageHeader,
  pixel: number,
  sink: RowSink,
): number {
  const row = new Uint8Array(1 + width * pixel);
  let real = 0;
  for (let y = 0; y < height; y++) {
    let isReal = true;
    for (const reader of readers) {
      const { left, top, right, down } = reader.pass;
      if (y < top || (y - top) % down) continue;
      isReal = reader.takeRow(row, 1 + left * pixel, right * pixel) && isReal;
    }
    sink.write(row);
    if (isReal) real++;
  }
  return real;
}

/**
 * Checks that a gray picture can be read to its last pixel.
 *
 * @param picture Its format and its data
 * @param faults Is told what is wrong
 * @throws {Error} If it cannot
 */
export function checkPicture(picture: Picture, faults: Faults): void {
  const passes = passesOf(picture.format);
  checkSize(picture, passes, faults);
  using inflater = new Inflater(picture.stream);
  const from = kernels.base();
  let row = 0;
  for (const { rows, size } of passes) {
    const most = rowsPerBand(size, BAND);
    const memory = growMemory(from + most * size);
    for (let y = 0; y < rows; y += most) {
      const count = Math.min(most, rows - y);
      if (inflater.read(memory, from, count * size) < count * size) {
        throw endOf(inflater, picture, faults);
      }
      for (let i = 0; i < count; i++, row++) {
        const filter = memory[from + i * size];
        if (filter > 4) throw unknownFilter(filter, row);
      }
    }
  }
  checkEnd(inflater, picture, faults);
}

const unknownFilter = (filter: number, row: number): Error =>
  new Error(`broken PNG: unknown filter (${filter}) in row ${row}`);

/** Why there are no more rows. */
function endOf({ error }: Inflater, picture: Picture, faults: Faults): Error {
  if (error === undefined) return tooLittle(picture, faults);
  return broken(`damaged image data (IDAT: ${error})`, picture.at);
}

/** Says what is behind the last row, or missing there. */
function checkEnd(inflater: Inflater, picture: Picture, faults: Faults): void {
  const { format: { width, height }, at } = picture;
  // A checksum that is wrong, unlike one that is missing, makes all pixels doubtful.
  if (inflater.error === undefined && inflater.read(new Uint8Array(1), 0, 1)) {
    faults.add(
      `image data (IDAT) of more than ${width}x${height} pixels at byte ${at}`,
    );
  } else if (inflater.isComplete()) {
    const { left } = inflater;
    if (left) faults.add(`${left} bytes behind the image data at byte ${at}`);
  } else if (inflater.error === undefined) {
    faults.add(`image data without their checksum (Adler-32) at byte ${at}`);
  } else {
    const error = endOf(inflater, picture, faults);
    if (!faults.salvage) throw error;
    faults.damage ??= error;
  }
  if (faults.end) faults.addError(faults.end);
}

// The kernel

/** How far the kernel may read or write behind an end, in bytes. */
const SLACK = 64;
/** How much is worked on at a time, in bytes, so that it stays in the cache. */
export const BAND = 1 << 17;
/** The same for each pass of an interlaced picture. */
const SMALL_BAND = 1 << 14;
/** What the kernel takes for "no color is transparent". */
const OPAQUE = -1n;
/** The samples of pixels that are missing. */
const MISSING = 0x80;

/** How many rows of a size are worked on at a time. */
export const rowsPerBand = (size: number, band: number): number =>
  Math.max(1, Math.floor(band / size));

/** Gives the rows of a pass as gray, a band of some rows at a time. */
class PassReader implements Disposable {
  readonly pass: Pass;
  /** How many rows are what the file says. */
  real = 0;
  readonly #picture: Picture;
  readonly #colors: Colors;
  readonly #gray: GrayFormat;
  readonly #faults: Faults;
  readonly #inflater: Inflater;
  readonly #layout: Layout;
  readonly #graySize: number;
  /** How many rows have been given, the most of a band, and the one that is next. */
  #done = 0;
  readonly #most: number;
  #band: Uint8Array = new Uint8Array();
  #row = 0;
  /** How many colors of a palette there are. */
  #count: number;

  constructor(
    picture: Picture,
    pass: Pass,
    band: number,
    colors: Colors,
    gray: GrayFormat,
    faults: Faults,
  ) {
    this.pass = pass;
    this.#picture = picture;
    this.#colors = colors;
    this.#gray = gray;
    this.#faults = faults;
    this.#inflater = new Inflater(picture.stream);
    this.#graySize = 1 + pass.columns * gray.pixel;
    this.#most = Math.min(pass.rows, rowsPerBand(pass.size, band));
    const stride = align(pass.size) + 16;
    this.#layout = { table: 0, from: 0, above: 0, stride, to: 0 };
    const isIndexed = colors.format.type === PALETTE;
    this.#count = isIndexed ? colors.palette!.length / 3 : 256;
  }

  /** Lays out its memory from an address on, and skips what is in front of it. */
  layOut(base: number): number {
    const { pass: { size, from: start } } = this, most = this.#most;
    const { stride } = this.#layout;
    const table = align(base), from = table + 512;
    const above = align(from + most * size + SLACK);
    const to = above + (most + 1) * stride + SLACK;
    Object.assign(this.#layout, { table, from, above, to });
    const end = align(to + most * this.#graySize + SLACK);
    const memory = growMemory(end);
    memory.fill(0, above, above + stride);
    memory.set(tableOf(this.#colors), table);
    const step = most * size;
    for (let at = 0; at < start;) {
      const want = Math.min(step, start - at);
      const got = this.#inflater.read(memory, from, want);
      if (got < want) break; // so there will be no rows either
      at += got;
    }
    return end;
  }

  /** Gives the next rows, each behind a filter byte, which is 0; none at the end. */
  take(): Uint8Array {
    const { from, to } = this.#layout, { size, rows } = this.pass;
    const memory = growMemory(0);
    const count = Math.min(this.#most, rows - this.#done);
    const isRead = this.real === this.#done; // otherwise rows were missing before
    let real = 0;
    if (isRead) {
      const got = this.#inflater.read(memory, from, count * size);
      real = this.#convert(memory, Math.floor(got / size));
      if (real < count) this.#miss(memory, real, got);
    }
    const out = memory.subarray(to, to + count * this.#graySize);
    if (real < count) this.#fill(out.subarray(real * this.#graySize));
    this.real += real;
    this.#done += count;
    return out;
  }

  /** Puts the next row into a row of the image; says whether it is real. */
  takeRow(row: Uint8Array, to: number, step: number): boolean {
    const size = this.#graySize, { pixel } = this.#gray;
    if (this.#row === this.#done) this.#band = this.take();
    const rows = this.#band.length / size;
    const at = this.#row++ - (this.#done - rows);
    for (let i = at * size + 1; i < (at + 1) * size; to += step) {
      for (let k = 0; k < pixel; k++) row[to + k] = this.#band[i++];
    }
    return this.#row <= this.real;
  }

  checkEnd(): void {
    checkEnd(this.#inflater, this.#picture, this.#faults);
  }

  /** Says why there is no row number `row` of a band. */
  #miss(memory: Uint8Array, row: number, got: number): void {
    const { from } = this.#layout, { size, top, down } = this.pass;
    const filter = memory[from + row * size];
    const error = row < Math.floor(got / size)
      ? unknownFilter(filter, top + (this.#done + row) * down)
      : endOf(this.#inflater, this.#picture, this.#faults);
    if (!this.#faults.salvage) throw error;
    this.#faults.damage ??= error;
  }

  /** Converts some rows; returns how many, which is fewer if a filter is unknown. */
  #convert(memory: Uint8Array, count: number): number {
    const { from, above, stride } = this.#layout;
    const start = above + stride, pixel = pixelSize(this.#colors.format);
    const size = this.pass.size - 1;
    const done = kernels.unfilter(from, size, count, start, stride, pixel);
    if (done) this.#takeLuma(done);
    memory.copyWithin(above, above + done * stride, start + done * stride);
    return done;
  }

  #takeLuma(rows: number): void {
    const { format, transparency } = this.#colors, { type, depth } = format;
    const { above, stride, to } = this.#layout, { columns } = this.pass;
    const from = above + stride, toSize = this.#graySize - 1;
    if (type === PALETTE || type === GRAY && depth <= 8) {
      return this.#lookUp(rows, 0);
    }
    if (type === GRAY || type === GRAY_ALPHA) return this.#copyGray(rows);
    const take = depth === 16 ? kernels.luma16 : kernels.luma8;
    const clear = transparency ? transparentColor(depth, transparency) : OPAQUE;
    const channels = CHANNELS[type];
    take(from, stride, rows, columns, channels, clear, to, toSize);
  }

  /** Looks up colors from row number `first` of a band on. */
  #lookUp(rows: number, first: number): void {
    const { table, above, stride, to } = this.#layout;
    const from = above + (1 + first) * stride;
    const done = kernels.lookUp(
      ...[from, stride, rows - first, this.pass.columns] as const,
      ...[this.#colors.format.depth, table, this.#count] as const,
      ...[this.#gray.channels, to + first * this.#graySize] as const,
      this.#graySize - 1,
    );
    if (done === rows - first) return;
    // As for libpng they are black: that is what the table has for them.
    this.#faults.add("color numbers beyond the palette, taken for black");
    this.#count = 256;
    this.#lookUp(rows, first + done);
  }

  /** Gray needs to be copied only where something else is wrong with the file. */
  #copyGray(rows: number): void {
    const { above, stride, to } = this.#layout, memory = growMemory(0);
    const [high, low] = this.#colors.transparency ?? [];
    for (let y = 0; y < rows; y++) {
      const from = above + (1 + y) * stride;
      const start = to + y * this.#graySize;
      memory[start] = 0;
      if (high === undefined) {
        memory.copyWithin(start + 1, from, from + this.#graySize - 1);
        continue;
      }
      for (let x = 0; x < this.pass.columns; x++) { // of 16 bits
        const [a, b] = memory.subarray(from + 2 * x, from + 2 * x + 2);
        const alpha = a === high && b === low ? 0 : 255;
        memory.set([a, b, alpha, alpha], start + 1 + 4 * x);
      }
    }
  }

  /** Makes rows gray and opaque. */
  #fill(rows: Uint8Array): void {
    const { pixel, channels } = this.#gray, sample = pixel / channels;
    rows.fill(MISSING);
    for (let at = 0; at < rows.length; at += this.#graySize) {
      rows[at] = 0;
      if (channels === 1) continue;
      for (let i = 1; i < this.#graySize; i += pixel) {
        rows.fill(255, at + i + sample, at + i + pixel);
      }
    }
  }

  [Symbol.dispose](): void {
    this.#inflater[Symbol.dispose]();
  }
}

/** What is where in the kernels' memory. */
interface Layout {
  /** Gray and alpha of each color of the palette. */
  table: number;
  /** Rows with their filters. */
  from: number;
  /** The row above the unfiltered rows, and the distance between two rows. */
  above: number;
  stride: number;
  /** Rows of gray. */
  to: number;
}

/** 9.2: how many bytes the pixel on the left is away; at least one. */
const pixelSize = ({ depth, type }: ImageHeader): number =>
  Math.max(1, depth * CHANNELS[type] >> 3);

/** Gray and alpha of each color, or of each sample of gray. */
function tableOf({ format, palette, transparency }: Colors): Uint8Array {
  const { type, depth } = format, table = new Uint8Array(512);
  if (type === PALETTE) {
    for (let i = 0; i < 256; i++) {
      const [r = 0, g = 0, b = 0] = palette!.subarray(3 * i, 3 * i + 3);
      table.set([luma(r, g, b), transparency?.[i] ?? 255], 2 * i);
    }
  } else if (type === GRAY && depth <= 8) {
    const most = 2 ** depth - 1, clear = transparency && transparency[1] & most;
    for (let i = 0; i <= most; i++) {
      table.set([i * 255 / most, i === clear ? 0 : 255], 2 * i);
    }
  }
  return table;
}

/** 11.3.1.1: the transparent color; with 8 bits only the lower bytes count. */
function transparentColor(depth: number, words: Uint8Array): bigint {
  const [r, g, b] = [0, 2, 4].map((i) => words[i] << 8 | words[i + 1]);
  if (depth === 8) return BigInt((b & 255) << 16 | (g & 255) << 8 | r & 255);
  return BigInt(r) << 32n | BigInt(g) << 16n | BigInt(b);
}
