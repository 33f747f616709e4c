/**
 * The chunks of a PNG: reads them, checks their order, and writes them. Clauses are
 * those of PNG, 3rd edition.
 *
 * @module
 */

import { crc32 } from "node:zlib";
import { joined } from "../shared/memory.ts";

/** What the first chunks say. */
export interface PngHeader {
  /** Columns of the picture. */
  width: number;
  /** Rows of the picture. */
  height: number;
}

/** 11.2.1: IHDR. */
export interface ImageHeader extends PngHeader {
  /** Bits of a sample, or of an index into the palette. */
  depth: number;
  /** 6.1: the color type. */
  type: number;
  /** Whether it comes in the passes of Adam7. */
  isInterlaced: boolean;
}

/** Pixels: those of the IDAT chunks, or a frame of an animation. */
export interface Picture {
  /** That of the file; a frame has a size of its own. */
  format: ImageHeader;
  /** The content of all IDAT or fdAT chunks: a zlib stream. */
  stream: Uint8Array[];
  /** Where the first of them begins. */
  at: number;
  /** The content of its fcTL, if it is a frame. */
  control?: Uint8Array;
}

/** What the pixels mean. */
export interface Colors {
  /** What a sample is. */
  format: ImageHeader;
  /** The content of PLTE. */
  palette?: Uint8Array;
  /** The content of tRNS. */
  transparency?: Uint8Array;
}

/** The parts of a file that are kept or needed. */
export interface PngParts extends Colors {
  /** The picture of the IDAT chunks, and the other frames. */
  pictures: [Picture, ...Picture[]];
  /** The whole acTL chunk of an animation. */
  animation?: Uint8Array;
  /** Whole chunks that are kept, before the IDAT chunks. */
  before: Uint8Array[];
  /** The same, behind them. */
  behind: Uint8Array[];
  /** Where IEND ends. */
  end: number;
}

/** 5: a chunk. */
interface PngChunk {
  /** Where it begins and ends, in bytes. */
  at: number;
  end: number;
  type: string;
  data: Uint8Array;
  /** What is wrong with it: the file ends in it, or its checksum is another. */
  fault?: Error;
}

/** The first bytes of every PNG. */
export const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/** 6.1: how many samples a pixel has, by color type. */
export const CHANNELS: Record<number, number> = {
  ...{ 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 },
};
/** 6.1: color types. */
export const GRAY = 0, RGB = 2, PALETTE = 3, GRAY_ALPHA = 4, RGB_ALPHA = 6;
/** 11.2.1: the depths that each color type has. */
const DEPTHS: Record<number, number[]> = {
  [GRAY]: [1, 2, 4, 8, 16],
  [RGB]: [8, 16],
  [PALETTE]: [1, 2, 4, 8],
  [GRAY_ALPHA]: [8, 16],
  [RGB_ALPHA]: [8, 16],
};

/** 5.6: chunks that may occur only once. */
const SINGLE = new Set([
  ...["IHDR", "PLTE", "acTL", "bKGD", "cHRM", "cICP", "cLLI", "eXIf"],
  ...["gAMA", "hIST", "iCCP", "mDCV", "pHYs", "sBIT", "sRGB", "tIME"],
]);
/** The sizes of chunks that have a fixed size. */
const SIZES: Record<string, number> = {
  ...{ IHDR: 13, IEND: 0, acTL: 8, gAMA: 4, pHYs: 9, sRGB: 1, tIME: 7 },
  fcTL: 26,
};
const CHUNK_MAX = 2 ** 31 - 1;

/** A fault of a file, by the byte where it is. */
export const broken = (cause: string, at: number): Error =>
  new Error(`broken PNG: ${cause} at byte ${at}`);

/**
 * What is wrong with a file. The rules are those of libpng, which most programs
 * read PNGs with: what it passes over with a warning is passed over here.
 */
export class Faults {
  readonly #warn: (cause: string) => void;
  readonly #said = new Set<string>();
  /** Whether a picture is converted although pixels are missing. */
  readonly salvage: boolean;
  /** Why the chunks end before IEND; the pixels may be there all the same. */
  end?: Error;
  /** Why the pixels may be wrong although they are all there. */
  damage?: Error;

  /**
   * Knows of none yet.
   *
   * @param warn Is told of each fault that is passed over
   * @param salvage Whether a picture is converted although pixels are missing
   */
  constructor(warn: (cause: string) => void, salvage: boolean) {
    this.#warn = warn;
    this.salvage = salvage;
  }

  /** Says, once, what is passed over. */
  add(cause: string): void {
    if (this.#said.has(cause)) return;
    this.#said.add(cause);
    this.#warn(cause);
  }

  /** Says which chunk is left out. */
  leaveOut(cause: string, at: number): void {
    this.add(`a ${cause}, left out, at byte ${at}`);
  }

  /** The same of a fault that would be an error if it concerned the pixels. */
  addError({ message }: Error): void {
    const cause = message.replace(/^\w+ PNG: /, "")
      .replace("the file ends too early", "the file's early end")
      .replace(/^(?=animation|unknown|IDAT|fdAT)/, "an ")
      .replace(/^(?=bad|chunk|frame|first|second)/, "a ");
    this.add(cause);
  }

  /** Why pixels are missing or doubtful. */
  get cause(): Error | undefined {
    return this.damage ?? this.end;
  }

  /** Whether there is any, so that the file must not stay as it is. */
  get areThere(): boolean {
    return this.#said.size > 0 || !!this.end || !!this.damage;
  }
}

/** Gives 4 bytes, the highest first. */
export const be32 = (value: number): number[] => [
  ...[value >>> 24, value >>> 16 & 255, value >>> 8 & 255, value & 255],
];

const wordAt = (data: Uint8Array, at: number): number =>
  new DataView(data.buffer, data.byteOffset, data.length).getUint32(at);

/**
 * How many frames a good file has: 1 if it is not animated.
 *
 * @param bytes A whole file
 * @returns What acTL says
 */
export function animationOf(bytes: Uint8Array): number {
  const control = dataOfChunk(bytes, "acTL", "IDAT");
  return control ? wordAt(control, 0) : 1;
}

/**
 * Reads how large a good file is.
 *
 * @param bytes A whole file
 * @returns What IHDR says
 */
export const sizeOfPng = (bytes: Uint8Array): PngHeader => ({
  width: wordAt(bytes, 16),
  height: wordAt(bytes, 20),
});

/**
 * Finds a chunk in a good file.
 *
 * @param bytes A whole file
 * @param type Its type
 * @param end Which one it must be in front of; default: the last
 * @returns Its data; undefined if there is none
 */
export function dataOfChunk(
  bytes: Uint8Array,
  type: string,
  end = "IEND",
): Uint8Array | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = SIGNATURE.length; at + 12 <= bytes.length;) {
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const next = at + 12 + view.getUint32(at);
    if (name === type) return bytes.subarray(at + 8, next - 4);
    if (name === end) return;
    at = next;
  }
}

/** 5.3: makes a chunk in parts: length and type, data, checksum. */
export function chunkOf(type: string, ...data: Uint8Array[]): Uint8Array[] {
  const letters = Array.from(type, (letter) => letter.charCodeAt(0));
  const size = data.reduce((sum, { length }) => sum + length, 0);
  const head = new Uint8Array([...be32(size), ...letters]);
  const sum = data.reduce(
    (sum, part) => crc32(part, sum),
    crc32(head.subarray(4)),
  );
  return [head, ...data, new Uint8Array(be32(sum))];
}

/** 5.3: a chunk, which may lack its end or have a wrong checksum. */
function readChunk(bytes: Uint8Array, view: DataView, at: number): PngChunk {
  const { length } = bytes;
  const isCut = () =>
    new Error(`truncated PNG: the file ends too early at byte ${length}`);
  if (at + 8 > length) throw isCut();
  const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
  if (!/^[A-Za-z]{4}$/.test(type)) {
    throw broken(at > 8 ? "no chunk where one should be" : "no IHDR chunk", at);
  }
  const size = view.getUint32(at), end = at + 12 + size;
  if (size > CHUNK_MAX) throw broken(`too long a chunk (${type})`, at);
  const data = bytes.subarray(at + 8, at + 8 + size);
  const chunk = { at, end: Math.min(end, length), type, data };
  if (end > length) return { ...chunk, fault: isCut() };
  if (crc32(bytes.subarray(at + 4, end - 4)) === view.getUint32(end - 4)) {
    return chunk;
  }
  const cause = `bad checksum of a chunk (${type})`;
  return { ...chunk, fault: broken(cause, at) };
}

/** Reads the chunks up to IEND and checks their order. */
export class PngReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #faults: Faults;
  readonly #format: ImageHeader;
  readonly #seen = new Set(["IHDR"]);
  #palette?: Uint8Array;
  #transparency?: Uint8Array;
  /** Where the IDAT chunks begin and end, and their content. */
  #first = 0;
  #last = 0;
  readonly #stream: Uint8Array[] = [];
  readonly #frames: FrameReader;
  readonly #before: KeptChunks;
  readonly #behind: KeptChunks;

  /**
   * Reads the header.
   *
   * @param bytes A whole file
   * @param checkHeader Called with what IHDR says; it may throw to refuse the file
   * @param faults Is told what is wrong
   * @throws {Error} If there is no header, or one that there cannot be
   */
  constructor(
    bytes: Uint8Array,
    checkHeader: (header: PngHeader) => void,
    faults: Faults,
  ) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#faults = faults;
    this.#before = new KeptChunks(bytes);
    this.#behind = new KeptChunks(bytes);
    this.#format = readImageHeader(readChunk(bytes, this.#view, 8));
    this.#frames = new FrameReader(bytes, this.#format);
    checkHeader(this.#format);
    const { width, height } = this.#format;
    if (!width || !height) throw broken("no pixels in an image", 8);
  }

  /**
   * Reads the chunks.
   *
   * @returns What is needed and kept of them
   * @throws {Error} If pixels depend on what is wrong
   */
  run(): PngParts {
    let at = SIGNATURE.length + 12 + SIZES.IHDR;
    try {
      for (let type = ""; type !== "IEND";) {
        const chunk = readChunk(this.#bytes, this.#view, at);
        ({ type, end: at } = chunk);
        if (this.#isUsable(chunk)) this.#take(chunk);
        if (chunk.fault && at === this.#bytes.length) throw chunk.fault;
      }
    } catch (error) {
      if (!this.#first) throw error;
      this.#faults.end ??= error as Error; // the pixels may be there all the same
    }
    return this.#finish(at);
  }

  /** Whether a chunk is as it must be; throws if pixels depend on it. */
  #isUsable(chunk: PngChunk): boolean {
    const { at, type, data, fault } = chunk;
    if (fault) return this.#isUsableWith(fault, chunk);
    const isWrong = data.length !== (SIZES[type] ?? data.length);
    if (isWrong || this.#seen.has(type)) {
      const cause = isWrong
        ? `bad size of a chunk (${type})`
        : `second ${type} chunk`;
      if (this.#isNeeded(type)) throw broken(cause, at);
      this.#faults.leaveOut(cause, at);
      return false;
    }
    if (SINGLE.has(type)) this.#seen.add(type);
    return true;
  }

  #isUsableWith(fault: Error, { at, end, type }: PngChunk): boolean {
    const isCut = end === this.#bytes.length &&
      /^truncated/.test(fault.message);
    if (type === "IDAT" || this.#frames.isData(type)) {
      if (!isCut && !this.#faults.salvage) throw fault;
      if (!isCut) this.#faults.damage ??= fault;
      return true;
    }
    if (this.#isNeeded(type)) throw fault;
    if (!isCut) this.#faults.leaveOut(`bad checksum of a chunk (${type})`, at);
    return false;
  }

  /** Whether the pixels of IDAT mean nothing without a chunk. */
  #isNeeded(type: string): boolean {
    if (type === "IHDR") return true;
    return /^[A-Z]/.test(type) && !this.#first &&
      (type !== "PLTE" || this.#format.type === PALETTE);
  }

  #take(chunk: PngChunk): void {
    const { at, end, type } = chunk, isBehind = this.#first > 0;
    if (type === "IDAT") this.#takeData(chunk);
    else if (type === "PLTE") this.#takePalette(chunk);
    else if (type === "tRNS") this.#takeTransparency(chunk);
    else if (type === "IEND") return;
    else if (this.#frames.take(chunk, isBehind)) return;
    else if (/^[A-Z]/.test(type)) rejectCritical(type, at);
    else if (isKept(type, isBehind)) {
      (isBehind ? this.#behind : this.#before).add(at, end);
    }
  }

  #takeData({ at, end, data }: PngChunk): void {
    const needsPalette = this.#format.type === PALETTE && !this.#palette;
    if (needsPalette) throw broken("no PLTE chunk", at);
    if (this.#first && this.#last !== at) {
      this.#faults.end ??= broken("IDAT chunk apart from the others", at);
      return;
    }
    this.#first ||= at;
    this.#last = end;
    this.#stream.push(data);
  }

  #takePalette({ at, data }: PngChunk): void {
    const { type, depth } = this.#format, count = data.length / 3;
    const most = type === PALETTE ? 2 ** depth : 256;
    const isOne = Number.isInteger(count) && count >= 1 && count <= 256;
    const astray = this.#first
      ? "behind IDAT"
      : type === GRAY || type === GRAY_ALPHA
      ? "in a gray image"
      : undefined;
    if (astray) return this.#faults.leaveOut(`PLTE chunk ${astray}`, at);
    const size = broken("bad size of a chunk (PLTE)", at);
    if (!isOne && type === PALETTE) throw size;
    if (!isOne || count > most) this.#faults.addError(size);
    this.#palette = data.subarray(0, 3 * most);
    if (!this.#transparency) return;
    this.#faults.leaveOut("tRNS chunk before PLTE", at);
    this.#transparency = undefined;
  }

  #takeTransparency({ at, data }: PngChunk): void {
    const cause = this.#first
      ? "tRNS chunk behind IDAT"
      : this.#transparency
      ? "second tRNS chunk"
      : wrongTransparency(this.#format, data, this.#palette);
    if (cause) this.#faults.leaveOut(cause, at);
    else this.#transparency = data;
  }

  #finish(end: number): PngParts {
    if (!this.#first) throw broken("no IDAT chunk", end - 12);
    const { animation, control, frames } = this.#frames
      .finish(end, this.#faults);
    const format = this.#format, stream = this.#stream;
    return {
      format,
      palette: this.#palette,
      transparency: this.#transparency,
      pictures: [{ format, stream, at: this.#first, control }, ...frames],
      animation,
      before: this.#before.parts,
      behind: this.#behind.parts,
      end,
    };
  }
}

function rejectCritical(type: string, at: number): never {
  const cause = `unknown critical chunk (${type})`;
  throw new Error(`unsupported PNG: ${cause} at byte ${at}`);
}

/**
 * 4.9: reads the frames of an animation. Its chunks are counted through: a gap means
 * that something is missing.
 */
class FrameReader {
  readonly #bytes: Uint8Array;
  readonly #format: ImageHeader;
  #animation?: Uint8Array;
  #declared = 0;
  #sequence = 0;
  /** The fcTL before IDAT: then that picture is the first frame. */
  #control?: Uint8Array;
  readonly #frames: { at: number; control: Uint8Array; data: Uint8Array[] }[] =
    [];

  constructor(bytes: Uint8Array, format: ImageHeader) {
    this.#bytes = bytes;
    this.#format = format;
  }

  /** Whether chunks of a type have pixels of a frame. */
  isData(type: string): boolean {
    return this.#animation !== undefined && type === "fdAT";
  }

  /** Takes a chunk if it belongs to an animation; without acTL there is none. */
  take(chunk: PngChunk, isBehind: boolean): boolean {
    const { at, end, type, data } = chunk;
    if (type === "acTL" && !isBehind && wordAt(data, 0)) {
      this.#animation = this.#bytes.subarray(at, end);
      this.#declared = wordAt(data, 0);
      return true;
    }
    if (!this.#animation || type !== "fcTL" && type !== "fdAT") return false;
    if (data.length < 4 || wordAt(data, 0) !== this.#sequence++) {
      throw broken(`chunk out of sequence (${type})`, at);
    }
    if (type === "fcTL") this.#takeControl(chunk, isBehind);
    else if (!this.#frames.length) {
      throw broken("fdAT chunk before its fcTL", at);
    } else this.#frames.at(-1)!.data.push(data.subarray(4));
    return true;
  }

  #takeControl({ at, data }: PngChunk, isBehind: boolean): void {
    const [wide, high, left, top] = [4, 8, 12, 16].map((i) => wordAt(data, i));
    const { width, height } = this.#format, hasPixels = wide && high;
    if (!hasPixels || left + wide > width || top + high > height) {
      throw broken("frame outside of the image (fcTL)", at);
    }
    if (isBehind) this.#frames.push({ at, control: data, data: [] });
    else if (this.#control) throw broken("second fcTL chunk before IDAT", at);
    else if (wide < width || high < height) {
      throw broken("first frame that is smaller than the image (fcTL)", at);
    } else this.#control = data;
  }

  /** When some are salvaged, the animation has those that are there. */
  finish(end: number, { salvage, end: cause }: Faults) {
    const all = this.#frames;
    const empty = all.find(({ data }) => !data.length);
    if (empty && !salvage) {
      throw cause ?? broken("frame without data (fcTL)", empty.at);
    }
    const frames = all.filter(({ data }) => data.length).map(
      ({ at, control, data }): Picture => {
        const [width, height] = [wordAt(control, 4), wordAt(control, 8)];
        const format = { ...this.#format, width, height };
        return { format, stream: data, at, control };
      },
    );
    const count = frames.length + (this.#control ? 1 : 0);
    // acTL alone makes no animation.
    if (!count && (!cause || salvage)) return { frames };
    let animation = this.#animation;
    if (count !== this.#declared) {
      const line = `animation of ${count} instead of ${this.#declared} frames`;
      if (!salvage) throw cause ?? broken(line, end - 12);
      const loops = animation!.subarray(12, 16);
      animation = joined(chunkOf("acTL", joined([be32(count), loops])));
    }
    return { animation, control: this.#control, frames };
  }
}

/** 11.2.1: IHDR. */
function readImageHeader(
  { at, type: name, data, fault }: PngChunk,
): ImageHeader {
  if (name === "CgBI") {
    const cause = "made by Xcode for iPhones alone (CgBI)";
    throw new Error(`unsupported PNG: ${cause} at byte ${at}`);
  }
  if (name !== "IHDR") throw broken("no IHDR chunk", at);
  if (fault) throw fault;
  if (data.length !== SIZES.IHDR) {
    throw broken("bad size of a chunk (IHDR)", at);
  }
  const width = wordAt(data, 0), height = wordAt(data, 4);
  const [depth, type, compression, filter, interlace] = data.subarray(8);
  const cause = Math.max(width, height) > CHUNK_MAX
    ? "bad size of an image"
    : !DEPTHS[type]?.includes(depth)
    ? `no color type (${type}) of ${depth} bits`
    : compression
    ? `unknown compression method (${compression})`
    : filter
    ? `unknown filter method (${filter})`
    : interlace > 1
    ? `unknown interlace method (${interlace})`
    : undefined;
  if (cause) throw broken(cause, at);
  return { width, height, depth, type, isInterlaced: interlace === 1 };
}

/** 11.3.1.1: why a tRNS chunk cannot be used, if it cannot. */
function wrongTransparency(
  { type }: ImageHeader,
  { length }: Uint8Array,
  palette?: Uint8Array,
): string | undefined {
  if (type === GRAY_ALPHA || type === RGB_ALPHA) {
    return "tRNS chunk in an image with alpha";
  }
  if (type === PALETTE && !palette) return "tRNS chunk before PLTE";
  const isRight = type === PALETTE
    ? length >= 1 && 3 * length <= palette!.length
    : length === 2 * CHANNELS[type];
  return isRight ? undefined : "bad size of a chunk (tRNS)";
}

/**
 * 14.2: keeps chunks that are safe to copy (but not the draft names of mDCV and
 * cLLI), and those whose meaning is the same for gray. gAMA and sRGB are not
 * allowed behind IDAT.
 */
function isKept(type: string, isBehind: boolean): boolean {
  if (type === "tIME") return true;
  if (type === "gAMA" || type === "sRGB") return !isBehind;
  return /[a-z]$/.test(type) && type !== "mDCv" && type !== "cLLi";
}

/** Chunks that are kept; neighbors are joined to one part. */
class KeptChunks {
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
