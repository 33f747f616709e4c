/**
 * The image formats: which one it is, by its content, and what its headers tell
 * before a single pixel is decoded (size, depth, frames, a missing end).
 *
 * @module
 */

import { readLevels } from "./avif.ts";
import { readWebpHeader } from "./webp.ts";

/** The formats that can be converted, by the names of ImageMagick's coders. */
export type Format = "PNG" | "BMP" | CodecFormat;
/** The formats that the codec converts; JPEG only where jpeg.ts cannot. */
export type CodecFormat = "JPEG" | "WEBP" | "GIF" | "TIFF" | "AVIF";

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
  /** AVIF: the colors were multiplied by alpha. */
  premultiplied?: boolean;
  /** GIF: where the color tables begin and end, in bytes. */
  palettes?: [start: number, end: number][];
  /** AVIF: what the codec gives has black at 16 and white at 235. */
  isLimited?: boolean;
  /** AVIF: so has its alpha. */
  isAlphaLimited?: boolean;
  /** What the codec must read in place of bytes that it misunderstands. */
  patches?: Patch[];
}

/** Bytes for a place in a file. */
export interface Patch {
  /** Where they belong. */
  at: number;
  /** What to put there. */
  bytes: number[];
}

/** The largest image to decode, in pixels, unless the caller says another size. */
const MAX_PIXELS = 268_000_000;

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

/** GIF89a, 17 to 27: all blocks up to the trailer, which may be missing. */
function gifHeader(bytes: Uint8Array, view: DataView): Header {
  let [width, height] = [view.getUint16(6, true), view.getUint16(8, true)];
  const palettes: [number, number][] = [];
  let at = 13, frames = 0, area = 0;
  const skipPalette = (flags: number) => {
    if (flags & 0x80) palettes.push([at, at += 6 << (flags & 7)]);
  };
  skipPalette(view.getUint8(10));
  while (!(frames && at === bytes.length)) {
    const block = view.getUint8(at++);
    if (block === 0x3b) break;
    if (block === 0 && frames) continue; // padding of some writers
    if (block === 0x2c) {
      frames++;
      const w = view.getUint16(at + 4, true), h = view.getUint16(at + 6, true);
      area = width && height && w * h;
      if (!area) return { width: 0, height };
      [width, height] = [Math.max(width, w), Math.max(height, h)];
      at += 9;
      skipPalette(view.getUint8(at - 1));
    } else if (block !== 0x21) throw new Error("broken GIF: unknown block");
    const codeSize = view.getUint8(at++); // in an extension this is its label
    const data = [];
    for (let size; (size = view.getUint8(at++)); at += size) {
      data.push(bytes.subarray(at, at + size));
    }
    if (block === 0x2c && lzwLength(data, codeSize) < area) {
      throw new RangeError();
    }
  }
  return { width, height, frames, palettes };
}

/** GIF89a, appendix F: how many pixels the LZW codes stand for. */
function lzwLength(blocks: Uint8Array[], codeSize: number): number {
  if (codeSize < 1 || codeSize > 8) throw new Error("broken GIF: code size");
  const clear = 1 << codeSize,
    lengths = new Uint32Array(4096).fill(1, 0, clear);
  let width = codeSize + 1, next = clear + 2, last = 0, pixels = 0;
  let bits = 0, held = 0;
  for (const block of blocks) {
    for (const byte of block) {
      bits |= byte << held;
      held += 8;
      while (held >= width) {
        const code = bits & (1 << width) - 1;
        bits >>>= width;
        held -= width;
        if (code === clear + 1) return pixels;
        if (code === clear) {
          [width, next, last] = [codeSize + 1, clear + 2, 0];
          continue;
        }
        // Each code but the first defines one: the last string and one pixel.
        if (last && next < 4096) lengths[next++] = last + 1;
        if (code >= next) throw new Error("broken GIF: undefined code");
        pixels += last = lengths[code];
        if (next === 1 << width && width < 12) width++;
      }
    }
  }
  return pixels;
}

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

/** The formats whose headers are read here. */
export type HeaderFormat = Exclude<CodecFormat, "JPEG" | "TIFF">;

/** How to read them; those of the others are read where they are converted. */
const HEADERS: Record<
  HeaderFormat,
  (bytes: Uint8Array, view: DataView) => Header
> = {
  WEBP: readWebpHeader,
  GIF: gifHeader,
  AVIF: avifHeader,
};

/** What users call a format. */
export const nameOf = (format: Format): string =>
  format === "WEBP" ? "WebP" : format;

/** Reads the headers; an error says if the file ends before they do. */
export function readHeader(
  format: HeaderFormat,
  bytes: Uint8Array,
): Header {
  try {
    return HEADERS[format](
      bytes,
      new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
    );
  } catch (error) {
    // A DataView throws it when read behind its end, and so do the readers above.
    if (!(error instanceof RangeError)) throw error;
    throw new Error(`truncated ${nameOf(format)}: the file ends too early`);
  }
}
/** Throws if an image must not be decoded, by what its headers say. */
export function checkLimits(
  format: Format,
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
