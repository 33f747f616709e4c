/**
 * Makes a TIFF gray, page by page and block by block (strips or tiles), so that
 * depth, compression, tiles, predictor and all fields stay that say nothing of
 * colors. What is compressed in other ways than tiff_codings.ts knows is decoded by
 * the codec, but for JPEG, whose luma is taken out.
 *
 * @module
 */

import {
  decodeGray,
  type DeepImage,
  encodeGray,
  type GrayImage,
} from "./codec.ts";
import { type ConvertOptions, missingRows, truncation } from "./formats.ts";
import { grayJpegParts } from "./jpeg.ts";
import {
  CODINGS,
  DEFLATE,
  JPEG,
  NONE,
  takeDifferences,
  takeFloatDifferences,
  undoDifferences,
  undoFloatDifferences,
  type Words,
} from "./tiff_codings.ts";
import {
  type Directory,
  type Field,
  type Kind,
  type OutPage,
  SUB_IFDS,
  TiffReader,
  TiffWriter,
} from "./tiff_file.ts";
import {
  BLACK_IS_ZERO,
  CIE_LAB,
  CMYK,
  COLORS,
  dividingAlpha,
  FLOAT,
  grayOf,
  ICC_LAB,
  MASK,
  type Meaning,
  outBits,
  PALETTE,
  RGB,
  type Samples,
  samplesOf,
  SIGNED,
  unpackBits,
  UNSIGNED,
  WHITE_IS_ZERO,
  YCBCR,
} from "./tiff_samples.ts";
import { joined } from "../shared/memory.ts";

/** What a page's fields say of its pixels. */
interface Page extends Meaning {
  directory: Directory;
  width: number;
  height: number;
  compression: number;
  predictor: number;
  isPlanar: boolean;
  /** Whether the lowest bit of a byte comes first. */
  isReversed: boolean;
  isTiled: boolean;
  blockWidth: number;
  blockHeight: number;
  /** How many blocks there are across and down. */
  across: number;
  down: number;
  /** Where each block is; those of a channel behind those of another, if planar. */
  starts: number[];
  sizes: number[];
  /** How many pixels have one sample of blue and red, across and down. */
  subsampling: number[];
  children: Page[];
}

/** Compressions. */
const OLD_JPEG = 6, WEBP = 50001;
const LATIN1 = new TextDecoder("latin1");

/** Types of fields. */
const SHORT = 3, LONG = 4;
/** Fields by their numbers in TIFF 6.0. */
const SUBFILE_TYPE = 254, BITS = 258, COMPRESSION = 259, PHOTOMETRIC = 262;
const ORIENTATION = 274,
  ROWS_PER_STRIP = 278,
  PLANES = 284,
  PREDICTOR = 317,
  JPEG_TABLES = 347;

/**
 * Fields that are made anew, or that are true of the colors and bytes before: sizes
 * and places of pixels, color tables and profiles, smallest and largest samples, what
 * inks and curves there are, layers of Photoshop, free space.
 */
const REPLACED = new Set([
  ...[256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 288],
  ...[289, 290, 291, 292, 293, 301, 317, 318, 319, 320, 322, 323, 324, 325],
  ...[330, 332, 333, 334, 336, 338, 339, 340, 341, 342, 347, 512, 513, 514],
  ...[515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 34675, 37724],
]);
/** Of them, what does not stay either where the pixels are copied as they are. */
const PLACES = new Set([273, 279, 288, 289, 324, 325, 330]);

/** What the codec must know of a page to decode it, but for what it is told anew. */
const CODED = new Set([
  ...[256, 257, 258, 259, 266, 277, 278, 284, 292, 293, 317, 320, 322, 323],
  ...[332, 338, 339, 347, 529, 530, 532],
]);

/** Blocks that overlap are rare, but let a small file stand for endless work. */
const OVERLAP_MAX = 8;
/** More samples of a pixel are nonsense. */
const CHANNELS_MAX = 1024;
/** The largest block, in bytes of samples. */
const BLOCK_MAX = 2 ** 31 - 2 ** 16;

const unsupported = (cause: string): never => {
  throw new Error(`unsupported TIFF: ${cause}`);
};

/**
 * Makes a TIFF gray. One that is gray already is checked and returned as it is.
 *
 * @param bytes A whole file; it is not changed
 * @param options How to convert it
 * @returns The parts of a whole file, in order
 * @throws {Error} If it is broken or truncated, or something is not supported
 *
 * @example
 * ```ts
 * import { grayTiff } from "./tiff.ts";
 *
 * const options = { checkHeader() {}, warn() {} };
 * try {
 *   await grayTiff(new TextEncoder().encode("II*\0\x08\0\0\0"), options);
 * } catch (error) {
 *   console.log(String(error)); // Error: truncated TIFF: the file ends too early
 * }
 * ```
 */
export async function grayTiff(
  bytes: Uint8Array,
  options: ConvertOptions,
): Promise<Uint8Array[]> {
  try {
    return await new TiffConverter(bytes, options).run();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // read behind the end
    throw truncation("TIFF");
  }
}

/**
 * Reads the first page of a gray TIFF as 16 bits.
 *
 * @param bytes A whole file that was checked before
 * @returns Its pixels, black being 0; undefined if they are fewer bits, or compressed in
 * a way that is left to the codec
 */
export function readDeepTiff(bytes: Uint8Array): DeepImage | undefined {
  const most = 2 ** 16 - 1;
  const image = firstPage(
    bytes,
    (bits, count) =>
      bits < 16 ? undefined : { samples: new Uint16Array(count), most },
  );
  return image && { ...image, samples: image.samples as Uint16Array };
}

/**
 * Reads the first page of a gray TIFF as 8 bits, as its pixels lie. The codec alone
 * takes some for negatives, misreads planes, and turns some pixels and others not.
 *
 * @param bytes A whole file that was checked before
 * @returns Its pixels
 * @throws {Error} If its samples are none that can be understood
 */
export async function readGrayTiff(bytes: Uint8Array): Promise<GrayImage> {
  const most = 255;
  const image = firstPage(
    bytes,
    (_, count) => ({ samples: new Uint8Array(count), most }),
  );
  return image
    ? { ...image, gray: image.samples as Uint8Array }
    : await newReader(bytes).readFirstByCodec();
}

/** Samples to be filled, and the largest value that they have. */
interface Room {
  samples: Uint8Array | Uint16Array;
  most: number;
}

const firstPage = (
  bytes: Uint8Array,
  roomFor: (bits: number, count: number) => Room | undefined,
) => newReader(bytes).readFirst(roomFor);

const newReader = (bytes: Uint8Array): TiffConverter =>
  new TiffConverter(bytes, { checkHeader() {}, warn() {} });

class TiffConverter {
  readonly #bytes: Uint8Array;
  readonly #options: ConvertOptions;
  readonly #reader: TiffReader;
  readonly #writer: TiffWriter;
  readonly #kind: Kind;
  /** Why rows have been lost first. */
  #cause?: Error;
  /** What has been lost of the page that is worked on. */
  #lost!: LostRows;
  /** Whether a preview is left out. */
  #isPassedOver = false;

  constructor(bytes: Uint8Array, options: ConvertOptions) {
    this.#bytes = bytes;
    this.#options = options;
    this.#reader = new TiffReader(bytes, options.warn);
    this.#kind = this.#reader.kind;
    this.#writer = new TiffWriter(this.#kind);
  }

  async run(): Promise<Uint8Array[]> {
    const pages = this.#reader.pages().map((page) => this.#readPage(page));
    if (!pages.length) throw new Error("broken TIFF: no picture in it");
    this.#checkOverlap(pages);
    let isGray = true;
    const rows = { real: 0, all: 0 };
    for (const page of pages) {
      const out = await this.#convert(page, rows);
      this.#writer.add(out);
      isGray &&= this.#isCopied(page);
    }
    if (rows.real < rows.all) {
      if (!rows.real) throw this.#cause!;
      const { message } = this.#cause!;
      this.#options.warn(missingRows(rows.real, rows.all, message));
    } else if (isGray && !this.#isPassedOver) return [this.#bytes];
    return this.#writer.finish();
  }

  /** The first page, which is gray, as other numbers; undefined without room. */
  readFirst(roomFor: (bits: number, count: number) => Room | undefined) {
    const page = this.#readPage(this.#reader.pages()[0]);
    const { width, height, blockWidth, blockHeight, extras, across } = page;
    const size = outBits(page.bits, page.format);
    if (!CODINGS[page.compression]) return;
    checkMeaning(page);
    this.#lost = new LostRows(height);
    const step = 1 + extras.length, isInverted = page.photometric === 0;
    const opacity = 1 + extras.findIndex((kind) => kind === 1 || kind === 2);
    const channels = opacity ? 2 : 1;
    const room = roomFor(size, width * height * channels);
    if (!room) return;
    const { samples, most } = room, scale = (2 ** size - 1) / most;
    for (let i = 0; i < page.across * page.down; i++) {
      const gray = this.#grayBlock(page, i);
      const left = i % across * blockWidth;
      const top = Math.floor(i / across) * blockHeight;
      const bottom = Math.min(height, top + this.#rowsOf(page, i));
      for (let y = top; y < bottom; y++) {
        let from = (y - top) * blockWidth * step;
        let to = (y * width + left) * channels;
        for (let x = left; x < Math.min(width, left + blockWidth); x++) {
          // A block that is left out has zeros.
          const level = Math.round((gray?.[from] ?? 0) / scale);
          samples[to++] = isInverted ? most - level : level;
          if (opacity) {
            samples[to++] = Math.round((gray?.[from + opacity] ?? 0) / scale);
          }
          from += step;
        }
      }
    }
    return { width, height, samples, alpha: channels === 2 };
  }

  /** The same by the codec, as 8 bits. */
  async readFirstByCodec(): Promise<GrayImage> {
    const page = this.#readPage(this.#reader.pages()[0]);
    const image = await this.#decodeByCodec(page);
    const { gray, alpha } = image, step = alpha ? 2 : 1;
    if (page.photometric === WHITE_IS_ZERO) {
      for (let i = 0; i < gray.length; i += step) gray[i] = 255 - gray[i];
    }
    return image;
  }

  // What the fields say

  #readPage(directory: Directory): Page {
    const { fields } = directory;
    const valuesOf = (tag: number) => this.#reader.numbers(fields.get(tag));
    const first = (tag: number, missing: number) => valuesOf(tag)[0] ?? missing;
    const width = first(256, 0), height = first(257, 0);
    this.#options.checkHeader({ width, height });
    const compression = first(COMPRESSION, NONE);
    // Old-style JPEGs of some scanners leave out that there are three.
    const isOldJpeg = compression === OLD_JPEG &&
      first(PHOTOMETRIC, 0) === YCBCR;
    const channels = first(277, isOldJpeg ? 3 : 1), bits = valuesOf(BITS);
    const photometric = first(PHOTOMETRIC, channels < 3 ? BLACK_IS_ZERO : RGB);
    const colors = COLORS[photometric] ??
      unsupported(nameOfPhotometric(photometric));
    if (channels < colors || channels > CHANNELS_MAX) {
      unsupported(`${channels} samples of a pixel`);
    }
    if (new Set(bits).size > 1) unsupported("channels of different depths");
    const formats = valuesOf(339);
    if (new Set(formats).size > 1) unsupported("channels of different formats");
    const extras = valuesOf(338).slice(0, channels - colors);
    while (extras.length < channels - colors) extras.push(0);
    const isTiled = fields.has(322), rows = first(ROWS_PER_STRIP, height);
    const blockWidth = isTiled ? first(322, 0) : width;
    const blockHeight = isTiled
      ? first(323, 0)
      : Math.min(rows || height, height);
    if (!blockWidth || !blockHeight) {
      throw new Error("broken TIFF: tiles without a size");
    }
    // Tiles may be larger than the page, and must be decoded whole.
    this.#options.checkHeader({ width: blockWidth, height: blockHeight });
    const range = fields.get(532), weights = fields.get(529);
    const page: Page = {
      ...{ directory, width, height, photometric, channels, extras, isTiled },
      ...{ blockWidth, blockHeight },
      bits: bits[0] ?? 1,
      // 4 is undefined, which is taken for whole numbers.
      format: [0, 4].includes(formats[0] ?? 1) ? UNSIGNED : formats[0] ?? 1,
      compression,
      predictor: first(PREDICTOR, 1),
      isPlanar: first(PLANES, 1) === 2 && channels > 1,
      isReversed: first(266, 1) === 2,
      palette: valuesOf(320),
      range: range ? this.#reader.fractions(range) : [],
      weights: weights ? this.#reader.fractions(weights) : [],
      across: Math.ceil(width / blockWidth),
      down: Math.ceil(height / blockHeight),
      // Tiles from before there were fields for them are in those of strips.
      starts: valuesOf(fields.has(324) ? 324 : 273),
      sizes: valuesOf(fields.has(324) ? 325 : 279),
      subsampling: photometric === YCBCR ? [2, 2] : [1, 1],
      children: [],
    };
    if (photometric === YCBCR && fields.has(530)) {
      page.subsampling = valuesOf(530);
    }
    if (page.range.length < 6) page.range = [0, 255, 128, 255, 128, 255];
    if (page.weights.length < 3) page.weights = [0.299, 0.587, 0.114];
    this.#checkBlocks(page);
    page.children = (fields.get(SUB_IFDS)?.children ?? [])
      .flatMap((child) => this.#readPreview(child));
    return page;
  }

  /** A preview, if it is a picture; JPEGs of some cameras have only a place. */
  #readPreview(directory: Directory): Page[] {
    const { fields } = directory;
    if (!fields.has(256) && !fields.has(257)) {
      this.#passOver("without a size ");
      return [];
    }
    try {
      return [this.#readPage(directory)];
    } catch (error) {
      this.#passOverIfPreview(directory, error as Error);
      return [];
    }
  }

  /** A smaller copy of what is there is not worth refusing it. */
  #passOverIfPreview({ fields }: Directory, error: Error): void {
    const [kind = 0] = this.#reader.numbers(fields.get(SUBFILE_TYPE));
    if (!(kind & 1) || !/^unsupported/.test(error.message)) throw error;
    this.#passOver("", ` (${error.message})`);
  }

  #passOver(kind: string, cause = ""): void {
    this.#isPassedOver = true;
    this.#options.warn(`a preview ${kind}is passed over${cause}`);
  }

  /** Completes what some writers leave out of the places of blocks. */
  #checkBlocks(page: Page): void {
    const { across, down, channels, isPlanar, compression, sizes } = page;
    const count = across * down * (isPlanar ? channels : 1);
    if (compression === OLD_JPEG && page.directory.fields.has(513)) return;
    if (page.starts.length < count) {
      throw new Error("broken TIFF: too few strips or tiles");
    }
    for (let i = 0; i < count; i++) {
      const start = page.starts[i], isThere = sizes[i] > 0 || start === 0;
      const isPlain = compression === NONE, size = this.#sizeOf(page, i);
      const isTooMuch = isPlain && start + sizes[i] > this.#bytes.length;
      if (isThere && sizes[i] !== undefined && !isTooMuch) continue;
      if (isPlain) sizes[i] = size;
      else if (count === 1) sizes[i] = Math.max(0, this.#bytes.length - start);
      else throw new Error("broken TIFF: strips or tiles without a size");
    }
    page.starts.length = sizes.length = count;
  }

  #checkOverlap(pages: Page[]): void {
    const sizeOf = ({ sizes, children }: Page): number =>
      sizes.reduce((sum, size) => sum + size, 0) +
      children.reduce((sum, child) => sum + sizeOf(child), 0);
    const size = pages.reduce((sum, page) => sum + sizeOf(page), 0);
    const isCut = pages.some(({ starts, sizes }) =>
      starts.some((start, i) => start + sizes[i] > this.#bytes.length)
    );
    if (isCut && !this.#options.salvage) throw new RangeError();
    if (!isCut && size > OVERLAP_MAX * this.#bytes.length) {
      throw new Error("broken TIFF: strips or tiles that overlap");
    }
  }

  /** The rows of a block; the last strip may have fewer. */
  #rowsOf({ isTiled, blockHeight, height, across, down }: Page, i: number) {
    if (isTiled) return blockHeight;
    const row = Math.floor(i % (across * down) / across) * blockHeight;
    return Math.min(blockHeight, height - row);
  }

  /** How many bytes the samples of a block have. */
  #sizeOf(page: Page, i: number): number {
    const { blockWidth, bits, channels, isPlanar, subsampling } = page;
    const rows = this.#rowsOf(page, i), [wide, high] = subsampling;
    if (wide * high > 1 && page.photometric === YCBCR && !isPlanar) {
      const units = Math.ceil(blockWidth / wide) * Math.ceil(rows / high);
      return units * (wide * high + 2);
    }
    const samples = blockWidth * (isPlanar ? 1 : channels);
    return Math.ceil(samples * bits / 8) * rows;
  }

  // Pages

  /** Whether the pixels of a page and of those that it points to are gray. */
  #isCopied = (page: Page): boolean =>
    isGray(page) && page.compression !== OLD_JPEG &&
    page.children.every((child) => this.#isCopied(child));

  async #convert(
    page: Page,
    rows: { real: number; all: number },
  ): Promise<OutPage> {
    this.#lost = new LostRows(page.height);
    const out = await this.#convertPixels(page);
    rows.all += page.height;
    rows.real += page.height - this.#lost.count;
    for (const child of page.children) {
      try {
        out.children.push(await this.#convert(child, rows));
      } catch (error) {
        this.#passOverIfPreview(child.directory, error as Error);
      }
    }
    return out;
  }

  async #convertPixels(page: Page): Promise<OutPage> {
    if (CODINGS[page.compression]) {
      return isGray(page) ? this.#checkGray(page) : this.#convertBlocks(page);
    }
    if (page.compression === WEBP) return await this.#convertWebps(page);
    return this.#convertJpegs(page) ?? await this.#convertJpegPlanes(page) ??
      await this.#convertByCodec(page);
  }

  /** A page whose blocks stay as they are, or have been lost in part. */
  #checkGray(page: Page): OutPage {
    for (let i = 0; i < page.starts.length; i++) this.#decodeBlock(page, i);
    if (this.#lost.count) return this.#convertBlocks(page);
    return this.#copied(page);
  }

  #copied({ directory, starts, sizes, isTiled }: Page): OutPage {
    const fields = [...directory.fields.values()]
      .filter(({ tag }) => !PLACES.has(tag));
    const blocks = starts.map((start, i) =>
      this.#bytes.subarray(start, start + sizes[i])
    );
    return { fields, blocks, isTiled, children: [] };
  }

  #convertBlocks(page: Page): OutPage {
    checkMeaning(page);
    const { across, down, extras, predictor, compression } = page;
    const coding = CODINGS[compression], blocks: Uint8Array[] = [];
    const bits = outBits(page.bits, page.format);
    for (let i = 0; i < across * down; i++) {
      const gray = this.#grayBlock(page, i);
      if (!gray) {
        blocks.push(new Uint8Array());
        continue;
      }
      const rowLength = page.blockWidth * (1 + extras.length);
      const data = encodeSamples(
        gray,
        rowLength,
        1 + extras.length,
        predictor,
        this.#kind.isLittle,
      );
      blocks.push(coding.encode(data, rowLength * bits / 8));
    }
    return this.#page(page, blocks, { bits, compression, predictor });
  }

  /** The gray samples of a block; undefined if it is not there. */
  #grayBlock(page: Page, i: number): Samples | undefined {
    const { across, down, channels, isPlanar, blockWidth, photometric } = page;
    const indexes = isPlanar
      ? Array.from({ length: channels }, (_, k) => i + k * across * down)
      : [i];
    // GDAL leaves out blocks of zeros, which are black and stay so.
    if (indexes.every((i) => !page.starts[i] && !page.sizes[i])) {
      if (photometric === RGB || isGray(page)) return;
      unsupported("blocks that are left out");
    }
    const count = blockWidth * this.#rowsOf(page, i);
    const lost = this.#lost.count;
    const planes = indexes.map((i) =>
      this.#samplesOf(page, i, this.#decodeBlock(page, i))
    );
    const gray = grayOf(planes, page, count);
    if (this.#lost.count > lost) this.#fill(page, i, gray);
    return gray;
  }

  /** Decompresses a block; in what cannot be read, zeros stand. */
  #decodeBlock(page: Page, i: number): Uint8Array {
    const { compression, isReversed, starts, sizes } = page;
    const size = this.#sizeOf(page, i), start = starts[i];
    if (size > BLOCK_MAX) {
      throw new Error(`too large: a strip or tile of ${size} bytes`);
    }
    let data = this.#bytes.subarray(start, start + sizes[i]);
    if (isReversed) data = data.map((byte) => REVERSED[byte]);
    const { decode, ratio } = CODINGS[compression];
    let block = new Uint8Array() as Uint8Array, cause = "";
    if (this.#options.salvage || size <= ratio * data.length) {
      try {
        block = decode(data, size);
      } catch (error) {
        const { code = "", message } = error as Error & { code?: string };
        cause = code === "ERR_BUFFER_TOO_LARGE" ? "too many pixels" : message;
      }
    }
    if (block.length === size || isLeftOut(page, i)) return block;
    const name = `${page.isTiled ? "tile" : "strip"} ${i + 1}`;
    const error = new Error(
      cause
        ? `broken TIFF: damaged data (${name}: ${cause})`
        : `truncated TIFF: too few data (${name})`,
    );
    if (!this.#options.salvage) throw error;
    this.#cause ??= error;
    const rows = this.#rowsOf(page, i);
    const first = Math.floor(i % (page.across * page.down) / page.across) *
      page.blockHeight;
    const real = Math.floor(block.length / (size / rows));
    this.#lost.add(first + real, first + rows);
    const whole = new Uint8Array(size);
    whole.set(block);
    return whole;
  }

  /** The samples of a decompressed block, as this machine has them. */
  #samplesOf(page: Page, i: number, block: Uint8Array): Samples {
    const { bits, format, channels, isPlanar, predictor, blockWidth } = page;
    const rows = this.#rowsOf(page, i);
    if (page.photometric === YCBCR && !isPlanar) {
      return expand(block, blockWidth, rows, page.subsampling);
    }
    const inPixel = isPlanar ? 1 : channels, rowLength = blockWidth * inPixel;
    const out = format === UNSIGNED || format === SIGNED || format === FLOAT
      ? samplesOf(bits, format, rows * rowLength)
      : undefined;
    if (!out) return unpackBits(block, bits, rowLength, rows);
    const data = new Uint8Array(out.buffer), size = bits / 8;
    data.set(block);
    if (predictor === 3) {
      undoFloatDifferences(data, rowLength * size, inPixel, size);
    } else {
      if (!this.#kind.isLittle) swap(data, size);
      if (predictor === 2) {
        undoDifferences(wordsOf(data, bits), rowLength, inPixel);
      }
    }
    return out;
  }

  /** Puts gray in the place of rows of a block that have been lost. */
  #fill(page: Page, i: number, gray: Samples): void {
    const { blockWidth, blockHeight, across, down, extras, format } = page;
    const first = Math.floor(i % (across * down) / across) * blockHeight;
    const step = 1 + extras.length, rowLength = blockWidth * step;
    const bits = 8 * gray.BYTES_PER_ELEMENT;
    const middle = format === UNSIGNED ? 2 ** (bits - 1) : 0;
    const opaque = format === FLOAT
      ? 1
      : 2 ** (format === SIGNED ? bits - 1 : bits) - 1;
    for (let at = 0, row = first; at < gray.length; at += rowLength, row++) {
      if (!this.#lost.has(row)) continue;
      for (let k = at; k < at + rowLength; k++) {
        gray[k] = (k - at) % step ? opaque : middle;
      }
    }
  }

  // JPEG inside

  /** Takes the luma out of each block; undefined if that is not possible. */
  #convertJpegs(page: Page): OutPage | undefined {
    const { compression, photometric, bits, isPlanar } = page;
    const isYcc = photometric === YCBCR && page.channels === 3;
    const isMono = isGray(page) && page.channels === 1;
    if (compression !== JPEG || bits !== 8 || isPlanar) return;
    if (!isYcc && !isMono) return;
    const blocks: Uint8Array[] = [];
    for (const i of page.starts.keys()) {
      const gray = this.#grayJpeg(page, i);
      if (!gray) return;
      blocks.push(gray);
    }
    if (isMono) return this.#copied(page);
    return this.#page(page, blocks, { compression, bits, predictor: 1 });
  }

  /** The JPEGs whose components the codec would not give: each is taken by itself. */
  async #convertJpegPlanes(page: Page): Promise<OutPage | undefined> {
    const { compression, photometric, bits, isPlanar, isTiled, extras } = page;
    const isYcc = photometric === YCBCR, isCmyk = photometric === CMYK;
    const isKnown = isYcc || isCmyk || photometric === RGB || isGray(page);
    const isOther = isPlanar || extras.length > 0 || isCmyk && isTiled;
    if (compression !== JPEG || bits !== 8 || !isKnown || !isOther) return;
    const { across, down, blockWidth: width, channels } = page;
    // Of YCbCr, Y is the gray.
    const used = Array.from({ length: channels }, (_, k) => k)
      .filter((k) => !isYcc || k === 0 || k > 2);
    const meaning = isYcc
      ? { ...page, photometric: BLACK_IS_ZERO, channels: used.length }
      : page;
    checkMeaning({ ...meaning, subsampling: [1, 1] });
    const blocks: Uint8Array[] = [];
    for (let i = 0; i < across * down; i++) {
      const height = this.#rowsOf(page, i), planes: Uint8Array[] = [];
      for (const k of used) {
        const jpeg = isPlanar
          ? this.#grayJpeg(page, i + k * across * down)
          : this.#grayJpeg(page, i, k);
        if (!jpeg) unsupported("JPEG with channels of different sizes");
        const plane = await decodeGray("JPEG", { width, height }, jpeg!);
        planes.push(plane.gray);
      }
      const gray = grayOf(planes, meaning, width * height);
      const data = new Uint8Array(gray.buffer);
      blocks.push(CODINGS[DEFLATE].encode(data, width * (1 + extras.length)));
    }
    if (isGray(page)) return this.#copied(page);
    return this.#page({ ...meaning, isPlanar: false }, blocks, {
      ...{ bits, compression: DEFLATE, predictor: 1 },
    });
  }

  /** A JPEG of one component of a block; undefined if that is not possible. */
  #grayJpeg(
    page: Page,
    i: number,
    component?: number,
  ): Uint8Array | undefined {
    if (isLeftOut(page, i)) unsupported("blocks that are left out");
    const { starts, sizes, blockWidth: width } = page;
    const height = this.#rowsOf(page, i);
    const data = this.#bytes.subarray(starts[i], starts[i] + sizes[i]);
    const tables = page.directory.fields.get(JPEG_TABLES)?.data;
    const jpeg = tables && tables.length > 4
      ? joined([tables.subarray(0, -2), data.subarray(2)])
      : data;
    const check = (header: { width: number; height: number }) => {
      if (header.width === width && header.height === height) return;
      throw new Error("JPEG of another size than its strip or tile");
    };
    try {
      const parts = grayJpegParts(jpeg, check, () => {}, component);
      return parts && joined(parts);
    } catch (error) {
      const { message } = error as Error;
      const [, kind, cause] = /^(?:(\w+) JPEG: )?(.*)/.exec(message)!;
      throw new Error(`${kind ?? "broken"} TIFF: JPEG inside: ${cause}`);
    }
  }

  // By the codec

  /** Each block is a whole WebP. */
  async #convertWebps(page: Page): Promise<OutPage> {
    const { starts, sizes, blockWidth: width, extras, photometric } = page;
    const { isPlanar, bits } = page, hasAlpha = extras.length > 0;
    if (photometric !== RGB || bits !== 8 || isPlanar || extras.length > 1) {
      unsupported("WebP of other colors than RGB of 8 bits");
    }
    if (extras[0] === 1) unsupported("WebP with premultiplied alpha");
    const blocks: Uint8Array[] = [];
    for (const [i, start] of starts.entries()) {
      const data = this.#bytes.subarray(start, start + sizes[i]);
      const height = this.#rowsOf(page, i);
      if (isLeftOut(page, i)) unsupported("blocks that are left out");
      if (!/^RIFF.{4}WEBP/s.test(LATIN1.decode(data.subarray(0, 12)))) {
        throw new Error("broken TIFF: no WebP where one should be");
      }
      const image = await decodeGray("WEBP", { width, height }, data);
      if (image.width !== width || image.height !== height) {
        throw new Error("broken TIFF: WebP of another size than its block");
      }
      blocks.push(deflated(withAlpha(image, hasAlpha)));
    }
    return this.#page(page, blocks, {
      ...{ bits, compression: DEFLATE, predictor: 1 },
    });
  }

  async #convertByCodec(page: Page): Promise<OutPage> {
    checkForCodec(page);
    const { width, height, compression } = page;
    const image = await this.#decodeByCodec(page);
    if (isGray(page) && compression !== OLD_JPEG) return this.#copied(page);
    const isJpeg = compression === JPEG || compression === OLD_JPEG;
    const fits = Math.max(width, height) < 2 ** 16 && !image.alpha;
    const coded = isJpeg && fits
      ? { compression: JPEG, block: await encodeGray("JPEG", image) }
      : { compression: DEFLATE, block: deflated(image) };
    const one = {
      ...page,
      ...{ isTiled: false, blockWidth: width, blockHeight: height },
      extras: image.alpha ? [2] : [],
      format: UNSIGNED,
    };
    return this.#page(one, [coded.block], {
      ...{ bits: 8, compression: coded.compression, predictor: 1 },
    });
  }

  async #decodeByCodec(page: Page): Promise<GrayImage> {
    const { directory, width, height, compression } = page;
    const isOld = compression === OLD_JPEG;
    const patches = isOld ? this.#patchesFor(directory) : [];
    const file = isOld ? this.#bytes : this.#fileOf(page);
    const image = await decodeGray("TIFF", { width, height, patches }, file);
    if (image.width !== width || image.height !== height) {
      throw new Error("broken TIFF: the codec reads another size");
    }
    return image;
  }

  /**
   * A file of one page alone, and of the fields alone that its pixels need: the codec
   * gives a page up for what is wrong with others. It inverts some depths and layouts
   * whose white is zero, and others not, so it is told that black is.
   */
  #fileOf(page: Page): Uint8Array {
    const { fields, blocks, isTiled } = this.#copied(page);
    const photometric = isGray(page) ? BLACK_IS_ZERO : page.photometric;
    const needed = [
      ...fields.filter(({ tag }) => CODED.has(tag)),
      this.#writer.field(PHOTOMETRIC, SHORT, [photometric]),
    ];
    const writer = new TiffWriter(this.#kind);
    writer.add({ fields: needed, blocks, isTiled, children: [] });
    return joined(writer.finish());
  }

  /** The same for an old-style JPEG, which lies anywhere in the file. */
  #patchesFor({ at, end, fields }: Directory) {
    const { isBig } = this.#kind, type = isBig ? 16 : LONG;
    const bytesOf = (type: number, value: number) =>
      Array.from(this.#writer.field(0, type, [value]).data);
    const patches = [
      { at: isBig ? 8 : 4, bytes: bytesOf(type, at) },
      { at: end, bytes: bytesOf(type, 0) },
    ];
    const orientation = fields.get(ORIENTATION);
    if (orientation?.type === SHORT) {
      patches.push({ at: orientation.at!, bytes: bytesOf(SHORT, 1) });
    }
    return patches;
  }

  // The result

  /** A gray page with the fields that stay. */
  #page(
    page: Page,
    blocks: Uint8Array[],
    { bits, compression, predictor }: {
      bits: number;
      compression: number;
      predictor: number;
    },
  ): OutPage {
    const { width, height, isTiled, blockWidth, blockHeight, format } = page;
    const isDivided = dividingAlpha(page) >= 0;
    const extras = page.extras.map((kind) =>
      isDivided && kind === 1 ? 2 : kind
    );
    const channels = 1 + extras.length;
    const kept = [...page.directory.fields.values()]
      .filter(({ tag }) => !REPLACED.has(tag));
    const photometric = page.photometric === WHITE_IS_ZERO
      ? WHITE_IS_ZERO
      : BLACK_IS_ZERO;
    const field = (tag: number, type: number, ...values: number[]): Field =>
      this.#writer.field(tag, type, values);
    const fields = [
      ...kept,
      field(256, LONG, width),
      field(257, LONG, height),
      field(BITS, SHORT, ...Array(channels).fill(bits)),
      field(COMPRESSION, SHORT, compression),
      field(PHOTOMETRIC, SHORT, photometric),
      field(277, SHORT, channels),
      ...isTiled
        ? [field(322, LONG, blockWidth), field(323, LONG, blockHeight)]
        : [field(ROWS_PER_STRIP, LONG, blockHeight)],
      field(PLANES, SHORT, 1),
      ...predictor > 1 ? [field(PREDICTOR, SHORT, predictor)] : [],
      ...extras.length ? [field(338, SHORT, ...extras)] : [],
      ...format === UNSIGNED
        ? []
        : [field(339, SHORT, ...Array(channels).fill(format))],
    ];
    return { fields, blocks, isTiled, children: [] };
  }
}

/** Rows of a page that could not be read in full. */
class LostRows {
  count = 0;
  readonly #rows: Uint8Array;

  constructor(height: number) {
    this.#rows = new Uint8Array(height);
  }

  add(from: number, to: number): void {
    for (let row = from; row < Math.min(to, this.#rows.length); row++) {
      this.count += this.#rows[row] ^ 1;
      this.#rows[row] = 1;
    }
  }

  has(row: number): boolean {
    return this.#rows[row] === 1;
  }
}

const isGray = ({ photometric }: Page): boolean =>
  [WHITE_IS_ZERO, BLACK_IS_ZERO, MASK].includes(photometric);

/** A block that is not there at all, which only some readers take for zeros. */
const isLeftOut = ({ starts, sizes }: Page, i: number): boolean =>
  !starts[i] && !sizes[i];

function nameOfPhotometric(photometric: number): string {
  const isRaw = photometric === 32803 || photometric === 34892;
  const name = `photometric interpretation ${photometric}`;
  return isRaw ? `camera raw (${name})` : name;
}

/** Throws if the samples are none that can be understood here. */
function checkMeaning(page: Page): void {
  const { photometric, bits, format, extras, predictor, subsampling } = page;
  const isDeep = format === FLOAT
    ? ![16, 32, 64].includes(bits)
    : format === SIGNED
    ? ![8, 16, 32].includes(bits)
    : bits > 32;
  if (![UNSIGNED, SIGNED, FLOAT].includes(format)) {
    unsupported("complex samples");
  }
  if (isDeep || bits < 1) unsupported(`samples of ${bits} bits`);
  const isPlain = photometric === RGB || isGray(page);
  if (!isPlain && format !== UNSIGNED) {
    unsupported("colors as signed or floats");
  }
  const isWhole = bits === 8 || bits === 16 && photometric !== YCBCR;
  const isPalette = photometric === PALETTE;
  if (!isPlain && !isPalette && !isWhole) unsupported(`colors of ${bits} bits`);
  if (isPalette && page.palette.length < 3 * 2 ** bits) {
    unsupported("color table that is too short");
  }
  if (isPalette && bits > 16) unsupported(`colors of ${bits} bits`);
  if (photometric === CMYK && !hasCmyk(page)) {
    unsupported("inks other than CMYK");
  }
  if (extras.includes(1) && !isPlain) {
    unsupported("premultiplied alpha with other colors than gray and RGB");
  }
  if (predictor > 3 || predictor === 3 && format !== FLOAT) {
    unsupported(`predictor ${predictor}`);
  }
  if (predictor > 1 && ![8, 16, 32, 64].includes(bits)) {
    unsupported(`differences of ${bits} bits`);
  }
  if (photometric === YCBCR && !hasMeaning(page)) {
    throw new Error("broken TIFF: YCbCr without weights or a range");
  }
  if (photometric === YCBCR && (extras.length || predictor > 1)) {
    unsupported("YCbCr with extra channels or differences");
  }
  const isHalved = subsampling.some((factor) => factor > 1);
  if (photometric === YCBCR && page.isPlanar && isHalved) {
    unsupported("YCbCr in planes of different sizes");
  }
  if (subsampling.some((factor) => ![1, 2, 4].includes(factor))) {
    unsupported(`subsampling of ${subsampling.join(" and ")}`);
  }
}

/** Whether colors can be made of YCbCr; libtiff, too, refuses them without weights. */
const hasMeaning = ({ weights, range }: Page): boolean =>
  weights[1] !== 0 && [...weights, ...range].every(Number.isFinite);

const hasCmyk = ({ directory }: Page): boolean => {
  const set = directory.fields.get(332);
  return !set || set.data.every((byte) => byte < 2); // 1, or nothing
};

/** Throws if the codec would read something else than what there is. */
function checkForCodec(page: Page): void {
  const { compression, photometric, bits, format, extras, isPlanar } = page;
  const known = [2, 3, 4, 6, JPEG, 32809].includes(compression);
  if (!known) unsupported(nameOfCompression(compression));
  if (isGray(page) && !extras.length && format === UNSIGNED) return;
  const name = `${nameOfCompression(compression)} of`;
  if (bits > 8 || format !== UNSIGNED) {
    unsupported(`${name} ${bits} bits${format === FLOAT ? ", floats" : ""}`);
  }
  if (photometric === CIE_LAB || photometric === ICC_LAB) {
    unsupported(`${name} Lab`);
  }
  if (photometric === CMYK && !hasCmyk(page)) {
    unsupported("inks other than CMYK");
  }
  const isAside = extras.length > 1 || !extras[0];
  if (extras.length && (isPlanar || page.isTiled || isAside)) {
    unsupported(`${name} extra channels`);
  }
  if (extras.includes(1) && photometric !== RGB) {
    unsupported("premultiplied alpha with other colors than gray and RGB");
  }
}

const nameOfCompression = (compression: number): string =>
  ({
    6: "old-style JPEG",
    7: "JPEG",
    22610: "JPEG XR",
    32766: "NeXT's compression",
    32809: "ThunderScan",
    32908: "Pixar's compression of films",
    32909: "Pixar's logarithms",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "LogLuv",
    34677: "LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "JPEG of a camera raw",
    34925: "LZMA",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
  })[compression] ?? `compression ${compression}`;

/** Section 21: units of luma samples and one sample each of blue and red. */
function expand(
  block: Uint8Array,
  width: number,
  rows: number,
  [wide, high]: number[],
): Uint8Array {
  const out = new Uint8Array(width * rows * 3), unit = wide * high + 2;
  const across = Math.ceil(width / wide);
  for (let y = 0, o = 0; y < rows; y++) {
    for (let x = 0; x < width; x++, o += 3) {
      const at = (Math.floor(y / high) * across + Math.floor(x / wide)) * unit;
      out[o] = block[at + y % high * wide + x % wide];
      out[o + 1] = block[at + unit - 2];
      out[o + 2] = block[at + unit - 1];
    }
  }
  return out;
}

/** Bytes with their bits in reverse order. */
const REVERSED = Uint8Array.from({ length: 256 }, (_, byte) => {
  let out = 0;
  for (let bit = 0; bit < 8; bit++) out |= (byte >> bit & 1) << 7 - bit;
  return out;
});

/** Swaps the bytes of samples, between big-endian and this machine. */
function swap(data: Uint8Array, size: number): void {
  for (let at = 0; size > 1 && at < data.length; at += size) {
    data.subarray(at, at + size).reverse();
  }
}

function wordsOf({ buffer }: Uint8Array, bits: number): Words {
  if (bits === 16) return new Uint16Array(buffer);
  if (bits === 32) return new Uint32Array(buffer);
  return bits === 64 ? new BigUint64Array(buffer) : new Uint8Array(buffer);
}

/** The bytes of gray samples as they are to be compressed. */
function encodeSamples(
  gray: Samples,
  rowLength: number,
  channels: number,
  predictor: number,
  isLittle: boolean,
): Uint8Array {
  const data = new Uint8Array(gray.buffer), size = gray.BYTES_PER_ELEMENT;
  if (predictor === 3) {
    takeFloatDifferences(data, rowLength * size, channels, size);
    return data;
  }
  if (predictor === 2) {
    takeDifferences(wordsOf(data, 8 * size), rowLength, channels);
  }
  if (!isLittle) swap(data, size);
  return data;
}

/** The same pixels, with an alpha channel or without. */
function withAlpha(image: GrayImage, hasAlpha: boolean): GrayImage {
  const { gray: from, alpha } = image;
  if (alpha === hasAlpha) return image;
  const count = image.width * image.height;
  const gray = new Uint8Array(hasAlpha ? 2 * count : count);
  for (let i = 0; i < count; i++) {
    if (hasAlpha) gray.set([from[i], 255], 2 * i);
    else gray[i] = from[2 * i];
  }
  return { ...image, gray, alpha: hasAlpha };
}

/** The pixels of an image, deflated. */
const deflated = ({ gray, width, alpha }: GrayImage): Uint8Array =>
  CODINGS[DEFLATE].encode(gray, alpha ? 2 * width : width);
