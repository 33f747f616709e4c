/**
 * The image formats: which one it is, by its content, and what its headers tell
 * before a single pixel is decoded (size, depth, frames, a missing end).
 *
 * @module
 */

import { type Crop, readLevels } from "./avif.ts";

/** The formats that can be converted, by the names of ImageMagick's coders. */
export type Format = "PNG" | "BMP" | "GIF" | CodecFormat;
/** The formats that the codec reads; JPEG and TIFF only where others cannot. */
export type CodecFormat = "JPEG" | "WEBP" | "TIFF" | "AVIF";
/** The formats that can only be converted into another one. */
export type OtherFormat = "HEIC" | "JXL";

/** What the headers of an image say. */
export interface Header {
  /** Columns of the largest raster that the file declares. */
  width: number;
  /** Its rows. */
  height: number;
  /** Frames of an animation; default 1. */
  frames?: number;
  /** Bits per channel; default 8. */
  bits?: number;
  /** WebP and JPEG: coded without loss. */
  lossless?: boolean;
  /** WebP: from 1 to 100, if it is to have another quality. */
  quality?: number;
  /** AVIF: the colors were multiplied by alpha. */
  premultiplied?: boolean;
  /** AVIF: what the codec gives has black at 16 and white at 235. */
  isLimited?: boolean;
  /** AVIF: so has its alpha. */
  isAlphaLimited?: boolean;
  /** AVIF: the container says that the picture is turned. */
  isTurned?: boolean;
  /** AVIF: what is to be cut out of what the codec gives. */
  crop?: Crop;
  /** What the codec must read in place of bytes that it misunderstands. */
  patches?: Patch[];
}

/** How to convert an image of any format. */
export interface ConvertOptions {
  /** Called with what the headers say; it may throw to refuse the file. */
  checkHeader(header: Header): void;
  /** Called with what is wrong with an image that is converted, in one line. */
  warn(cause: string): void;
  /** Whether pixels may be missing; they become gray. */
  salvage?: boolean;
}

/** Bytes for a place in a file. */
export interface Patch {
  /** Where they belong. */
  at: number;
  /** What to put there. */
  bytes: number[];
}

/** The largest image to decode, in pixels, unless the caller says another size. */
export const MAX_PIXELS = 268_000_000;

const text = (bytes: Uint8Array, at: number, length = 4): string =>
  String.fromCharCode(...bytes.subarray(at, at + length));

/** Recognizes the format by its magic number. */
export function sniff(bytes: Uint8Array): Format | undefined {
  const head = text(bytes, 0, 12);
  if (head.startsWith("\xff\xd8\xff")) return "JPEG";
  if (head.startsWith("\x89PNG\r\n\x1a\n")) {
    return text(bytes, 12) === "CgBI" ? undefined : "PNG";
  }
  if (/^RIFF.{4}WEBP/s.test(head)) return "WEBP";
  if (/^GIF8[79]a/.test(head)) return "GIF";
  if (/^(II[*+]\0|MM\0[*+])/.test(head)) return "TIFF";
  // A text may begin with "BM", too, so the info header must have a known size.
  const size = bytes[14],
    known = size >= 16 && size <= 64 ||
      [12, 108, 124].includes(size);
  if (/^BM.{13}\0\0\0/s.test(text(bytes, 0, 18)) && known) return "BMP";
  // ISO/IEC 14496-12: the brands are in the first box; byte 3 is its size.
  if (head.slice(4, 8) === "ftyp") {
    if (/^.{8}(.{4})*avi[fs]/s.test(text(bytes, 0, bytes[3]))) return "AVIF";
  }
}

/** Formats that are known and not converted, by what their files begin with. */
const OTHERS: [name: string, magic: RegExp][] = [
  ["PNG as Apple changes it for iOS (CgBI)", /^\x89PNG.{8}CgBI/s],
  ["HEIC", /^.{4}ftyp.*(hei[cxms]|hev[cxms])/s],
  ["HEIF", /^.{4}ftyp.*(mif[12]|msf1)/s],
  ["camera raw (CR3)", /^.{4}ftypcrx /s],
  ["JPEG XL", /^(\xff\n|.{4}JXL \r\n\x87\n)/s],
  ["JPEG 2000", /^(\xff\x4f\xff\x51|.{4}jP {2}\r\n\x87\n)/s],
  ["JPEG XR", /^II\xbc/],
  // Its header of a known size; planes, bits and compression, which are small.
  ["DIB (a BMP without its file header)", /^[(l|]\0{3}.{8}.\0.\0.\0{3}/s],
  ["camera raw (ORF)", /^(IIR[OS]|MMOR)/],
  ["camera raw (RW2)", /^IIU\0/],
  ["camera raw (RAF)", /^FUJIFILMCCD-RAW/],
];

/**
 * Recognizes a format that is not converted.
 *
 * @param bytes A whole file
 * @returns What users call it; undefined if it is none that is known
 */
export function nameOfOther(bytes: Uint8Array): string | undefined {
  const isBox = text(bytes, 4) === "ftyp";
  const head = text(bytes, 0, isBox ? Math.min(bytes[3] || 64, 256) : 256);
  return OTHERS.find(([, magic]) => magic.test(head))?.[0];
}

/**
 * Recognizes a format that can only be converted into another one.
 *
 * @param bytes A whole file
 * @returns The format; undefined if it is none of them
 */
export function convertibleOther(bytes: Uint8Array): OtherFormat | undefined {
  const name = nameOfOther(bytes);
  if (name === "HEIC" || name === "HEIF") return "HEIC";
  if (name === "JPEG XL") return "JXL";
}

/** Reads the headers of an AVIF; an error says if the file ends before they do. */
export const readAvifHeader = (bytes: Uint8Array): Header =>
  readWhole(
    "AVIF",
    () =>
      avifHeader(
        bytes,
        new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
      ),
  );

/** ISO/IEC 23008-12: `ispe` has a size, and `av1C` (AV1-ISOBMFF) a depth. */
function avifHeader(bytes: Uint8Array, view: DataView): Header {
  const header: Header = { width: 0, height: 0, frames: 0 };
  const walk = (at: number, end: number) => {
    while (at < end) {
      const type = text(bytes, at + 4);
      let size = view.getUint32(at), body = at + 8;
      if (size === 1) {
        [size, body] = [Number(view.getBigUint64(body)), body + 8];
      } else if (size === 0) size = end - at;
      if (at + size > end || size < body - at) throw new RangeError();
      if (type === "meta" || type === "iref") walk(body + 4, at + size);
      if (type === "prem") header.premultiplied = true;
      if (type === "iprp" || type === "ipco") walk(body, at + size);
      if (type === "ispe") {
        header.frames ||= 1;
        header.width = Math.max(header.width, view.getUint32(body + 4));
        header.height = Math.max(header.height, view.getUint32(body + 8));
      }
      const depth = type === "av1C" ? bytes[body + 2] & 0x60 : 0;
      if (depth & 0x40) header.bits = depth & 0x20 ? 12 : 10;
      if (type === "moov") header.frames = Infinity; // a sequence
      at += size;
    }
  };
  walk(0, bytes.length);
  return { ...header, ...readLevels(bytes) };
}

/**
 * Says what is missing of an image that was salvaged.
 *
 * @param real How many rows are there
 * @param all How many there should be
 * @param cause Why the others are not
 * @returns One line
 */
export function missingRows(real: number, all: number, cause: string): string {
  const are = `${real} of ${all} rows are there (${cause})`;
  return real < all
    ? `missing pixels, which are gray: ${are}`
    : `doubtful pixels: ${are}`;
}

/** What users call a format. */
export const nameOf = (format: Format | OtherFormat): string =>
  format === "WEBP" ? "WebP" : format === "JXL" ? "JPEG XL" : format;

/**
 * Runs what reads a file; says so if it reads behind the end, by a `RangeError` as
 * of a `DataView`.
 *
 * @param format What the file is
 * @param read What reads it
 * @returns What `read` returns
 * @throws {Error} What `read` throws, or that the file ends too early
 */
export function readWhole<T>(format: Format, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw truncation(format);
  }
}

/** What is said of a file that ends too early. */
export const truncation = (format: Format): Error =>
  new Error(`truncated ${nameOf(format)}: the file ends too early`);

/** Throws if an image must not be decoded, by what its headers say. */
export function checkLimits(
  format: Format | OtherFormat,
  header: Header,
  maxPixels = MAX_PIXELS,
): void {
  if (!(maxPixels > 0)) {
    throw new RangeError(
      "Cannot convert an image as 'maxPixels' must be positive: " +
        `current value is ${maxPixels}`,
    );
  }
  const { width, height, frames = 1, bits = 8 } = header;
  if (!frames) throw new Error(`broken ${nameOf(format)}: no picture in it`);
  if (format === "AVIF" && frames > 1) {
    throw new Error("unsupported AVIF: an image sequence");
  }
  if (width <= 0 || height <= 0) {
    throw new Error(`no pixels: ${width}x${height}`);
  }
  if (width * height > maxPixels) {
    throw new Error(
      `too large: ${width}x${height} is more than ${maxPixels} pixels`,
    );
  }
  if (bits > 8) {
    throw new Error(`${bits} bits per channel: this codec would cut it to 8`);
  }
}
