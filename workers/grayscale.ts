/**
 * Image bytes in, gray image bytes out, in the same format: JPEG, PNG, WebP,
 * GIF, TIFF, BMP and AVIF.
 *
 * The format is judged by the content, never by the name, and is named to the
 * codec, so that none of ImageMagick's other readers (SVG, PDF, text …) can
 * be reached. What the headers can tell (size, depth, frames, a missing end) is
 * judged before a single pixel is decoded.
 *
 * @module
 */

import { serve, type Service } from "../mod.ts";
import { folderOf, writeWhole } from "./shared/files.ts";
import { grayJpeg, grayJpegParts } from "./grayscale/jpeg.ts";
import { free } from "./shared/memory.ts";

/**
 * The codec, loaded on first need. An import of a literal would be part of the
 * module graph: 30 MB to fetch, at the start, for whoever imports this file.
 */
const CODEC = "npm:@imagemagick/magick-wasm@0.0.43";

/** The codec's module. */
export type Magick = typeof import("npm:@imagemagick/magick-wasm@0.0.43");
type Image = ReturnType<Magick["MagickImage"]["create"]>;
/** The private field of the codec's loader that holds the running instance. */
type Loader = { _api?: { HEAPU8: Uint8Array } };

/** What can be converted, by the names of ImageMagick's coders. */
type Format = "PNG" | Coded;
/** Those of them that the codec is for; of a JPEG only what is unusual. */
type Coded = "JPEG" | "WEBP" | "GIF" | "TIFF" | "BMP" | "AVIF";

/** What the headers of an image tell. */
interface Header {
  /** Columns and rows of the largest raster that the file declares. */
  width: number;
  height: number;
  /** Frames of an animation, pages of a TIFF; default 1. */
  frames?: number;
  /** Bits per channel; default 8. */
  bits?: number;
  /** WebP: coded without loss. */
  lossless?: boolean;
  /** AVIF: the colors were multiplied by alpha. */
  premultiplied?: boolean;
  /** GIF: where the color tables begin and end, in bytes. */
  palettes?: [start: number, end: number][];
  /** TIFF, as the codec lays it out: bytes that only align what follows. */
  gaps?: number[];
}

/** Options of {@linkcode grayscale}. */
export interface GrayscaleOptions {
  /** Largest image to decode, in pixels. Default 268,000,000. */
  maxPixels?: number;
}

/** What {@linkcode grayscaleFile} is asked to do. */
export interface GrayscaleFileOptions extends GrayscaleOptions {
  /** The image to read. */
  path: string;
  /** Where the gray image goes; an existing file is replaced. */
  out: string;
}

/** What {@linkcode grayscaleFile} did. */
export interface GrayscaleFileResult {
  /** The image that was read. */
  path: string;
  /** The gray image that was written. */
  out: string;
  /** Size of the gray image, in bytes. */
  bytes: number;
}

/** Larger files are not read: input and pixels share 4 GiB of wasm memory. */
const MAX_BYTES = 2 ** 31;

/** A codec grown past this is dropped: wasm memory never shrinks. */
const KEEP_BYTES = 2 ** 28;

/** The largest image to decode, unless another number is asked for. */
const MAX_PIXELS = 268_000_000;

/**
 * The warnings that say nothing about pixels; any other one refuses the image:
 * ImageMagick only warns when, say, libjpeg fills a missing half with gray.
 */
const HARMLESS: Partial<Record<Coded, RegExp>> = {
  JPEG: /SOS parameters|JFIF|Adobe|ICC|profile/i,
  TIFF: /^(?!.*(ColorMap|Offsets)).*`TIFF(ReadDirectory|Fetch)/,
};

/** ITU-R BT.601 luma, rounded: what Pillow's `convert("L")` gives. */
const luma = (r: number, g: number, b: number): number =>
  (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;

const text = (bytes: Uint8Array, at: number, length = 4): string =>
  String.fromCharCode(...bytes.subarray(at, at + length));

/** Tells the format by its magic number. */
function sniff(bytes: Uint8Array): Format | undefined {
  const head = text(bytes, 0, 12);
  if (head.startsWith("\xff\xd8\xff")) return "JPEG";
  if (head.startsWith("\x89PNG\r\n\x1a\n")) return "PNG";
  if (/^RIFF.{4}WEBP/s.test(head)) return "WEBP";
  if (/^GIF8[79]a/.test(head)) return "GIF";
  if (/^(II[*+]\0|MM\0[*+])/.test(head)) return "TIFF";
  // Words begin with "BM", too: ask for an info header of a known size.
  const known = [12, 16, 40, 52, 56, 64, 108, 124].includes(bytes[14]);
  if (head.startsWith("BM") && known && !bytes[15]) return "BMP";
  // ISO/IEC 14496-12: the brands are in the first box, of this many bytes.
  if (head.slice(4, 8) === "ftyp") {
    if (/^.{8}(.{4})*avi[fs]/s.test(text(bytes, 0, bytes[3]))) return "AVIF";
  }
}

/** ITU-T T.81, B.1: marker segments up to the first scan. */
function jpegHeader(bytes: Uint8Array, view: DataView): Header {
  let header: Header | undefined;
  for (let at = 2;;) {
    const marker = view.getUint16(at) - 0xff00, start = at;
    if (marker === 0xff) at += 1; // a fill byte
    else if (marker === 0x01 || (marker & 0xf8) === 0xd0) at += 2; // TEM, RSTn
    else if (marker < 0xc0 || marker === 0xd9) {
      throw new Error(`broken JPEG: no ${header ? "scan" : "frame header"}`);
    } else {
      at += 2 + view.getUint16(at + 2);
      view.getUint8(at); // throws unless more follows
      if (marker === 0xda) {
        if (header) return header;
        throw new Error("broken JPEG: no frame header");
      }
      if (marker > 0xcf || [0xc4, 0xc8, 0xcc].includes(marker)) continue;
      header = {
        width: view.getUint16(start + 7),
        height: view.getUint16(start + 5),
        bits: bytes[start + 4],
      };
    }
  }
}

/** RFC 9649: the chunks; VP8X tells the canvas, VP8 and VP8L a frame. */
function webpHeader(bytes: Uint8Array, view: DataView): Header {
  const header = { width: 0, height: 0, frames: 0, lossless: false };
  const grow = (width: number, height: number) => {
    header.width = Math.max(header.width, width);
    header.height = Math.max(header.height, height);
  };
  const u32 = (at: number) => view.getUint32(at, true);
  for (let at = 12, size; at < 8 + u32(4); at += size + (size & 1)) {
    const type = text(bytes, at);
    size = u32(at + 4);
    at += 8;
    if (at + size > bytes.length) throw new RangeError();
    if (type === "VP8X") grow((u32(at + 3) >>> 8) + 1, (u32(at + 6) >>> 8) + 1);
    if (type === "VP8 ") grow(u32(at + 6) & 0x3fff, u32(at + 6) >> 16 & 0x3fff);
    if (type === "VP8L") {
      header.lossless = true;
      grow((u32(at + 1) & 0x3fff) + 1, (u32(at + 1) >> 14 & 0x3fff) + 1);
    }
    if (/VP8[ L]|ANMF/.test(type)) header.frames++;
  }
  return header;
}

/** GIF89a, 17 to 27: the blocks up to the trailer, which may be missing. */
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
    if (block === 0 && frames) continue; // some writers pad
    if (block === 0x2c) {
      frames++;
      const w = view.getUint16(at + 4, true), h = view.getUint16(at + 6, true);
      area = width && height && w * h;
      if (!area) return { width: 0, height };
      [width, height] = [Math.max(width, w), Math.max(height, h)];
      at += 9;
      skipPalette(view.getUint8(at - 1));
    } else if (block !== 0x21) throw new Error("broken GIF: unknown block");
    const codeSize = view.getUint8(at++); // of an extension: its label
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

/** GIF89a, appendix F: how many pixels the codes stand for; draws none. */
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
        // Each code but the first defines one: the last string and a pixel.
        if (last && next < 4096) lengths[next++] = last + 1;
        if (code >= next) throw new Error("broken GIF: undefined code");
        pixels += last = lengths[code];
        if (next === 1 << width && width < 12) width++;
      }
    }
  }
  return pixels;
}

/** How many bytes a value of each TIFF type has. */
const TIFF_TYPES = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8];

/** TIFF 6.0, 2, and BigTIFF: every directory; of each field the first value. */
function tiffHeader(bytes: Uint8Array, view: DataView): Header {
  const little = bytes[0] === 0x49;
  const u16 = (at: number) => view.getUint16(at, little);
  const u32 = (at: number) => view.getUint32(at, little);
  const big = u16(2) === 43, size = big ? 8 : 4, entry = big ? 20 : 12;
  const word = (at: number) =>
    big ? Number(view.getBigUint64(at, little)) : u32(at);
  const gaps: number[] = [];
  const header = { width: 0, height: 0, frames: 0, bits: 1, gaps };
  const seen = new Set<number>();
  for (let at = word(size); at && seen.size < 1000;) {
    if (seen.has(at)) throw new Error("broken TIFF: directories in a circle");
    seen.add(at);
    const count = big ? word(at) : u16(at);
    at += big ? 8 : 2;
    let preview = 0;
    for (const end = at + count * entry; at < end; at += entry) {
      const tag = u16(at), length = word(at + 4), value = at + 4 + size;
      const type = u16(at + 2), width = length * (TIFF_TYPES[type] ?? 0);
      const start = width > size ? word(value) : value;
      if (width > size) view.getUint8(start + width - 1); // throws if cut off
      const first = type === 3 ? u16(start) : u32(start);
      if (tag === 254) preview = first & 1;
      if (tag === 256) header.width = Math.max(header.width, first);
      if (tag === 257) header.height = Math.max(header.height, first);
      if (tag === 258) header.bits = Math.max(header.bits, first);
      if (width > size && width & 1) gaps.push(start + width);
      if (tag === 279) { // the strips lie one after the other, from byte 8
        let end = 8;
        for (let i = start; i < start + width; i += TIFF_TYPES[type]) {
          end += type === 3 ? u16(i) : u32(i);
        }
        if (end & 1) gaps.push(end);
      }
      if (tag === 339 && first === 3) throw new Error("floating-point TIFF");
    }
    if (preview && !header.frames) {
      throw new Error("TIFF that begins with a preview (camera raw?)");
    }
    if (!preview) header.frames++;
    at = word(at);
  }
  return header;
}

/** The info header of a Windows or OS/2 bitmap. */
function bmpHeader(_: Uint8Array, view: DataView): Header {
  if (view.getUint32(14, true) === 12) {
    return {
      width: view.getUint16(18, true),
      height: view.getUint16(20, true),
    };
  }
  // BI_JPEG and BI_PNG: another file inside, of a size that nobody judged.
  if ([4, 5].includes(view.getUint32(30, true))) {
    throw new Error("unsupported BMP: JPEG or PNG inside");
  }
  // Rows from top to bottom are told by a negative height.
  return {
    width: view.getInt32(18, true),
    height: Math.abs(view.getInt32(22, true)),
  };
}

/** ISO/IEC 23008-12: `ispe` tells a size, and AV1-ISOBMFF's `av1C` a depth. */
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
  return header;
}

/** Of those formats that go through the codec. */
const HEADERS: Record<
  Coded,
  (bytes: Uint8Array, view: DataView) => Header
> = {
  JPEG: jpegHeader,
  WEBP: webpHeader,
  GIF: gifHeader,
  TIFF: tiffHeader,
  BMP: bmpHeader,
  AVIF: avifHeader,
};

const nameOf = (format: Format): string => format === "WEBP" ? "WebP" : format;

/** Reads the header, or says that the file ends before it does. */
function readHeader(format: Coded, bytes: Uint8Array): Header {
  try {
    return HEADERS[format](
      bytes,
      new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
    );
  } catch (error) {
    // What a DataView throws beyond its end, and so do the readers above.
    if (!(error instanceof RangeError)) throw error;
    throw new Error(`truncated ${nameOf(format)}: the file ends too early`);
  }
}

/** Refuses what must not be decoded. */
function judge(format: Format, header: Header, maxPixels: number): void {
  if (!(maxPixels > 0)) {
    throw new RangeError(
      "Cannot convert an image as 'maxPixels' must be positive: " +
        `current value is ${maxPixels}`,
    );
  }
  const { width, height, frames = 1, bits = 8 } = header;
  if (!frames) throw new Error(`broken ${nameOf(format)}: no picture in it`);
  if (frames > 1) {
    if (format === "TIFF") throw new Error(`multi-page TIFF (${frames} pages)`);
    const count = frames === Infinity
      ? "an image sequence"
      : `${frames} frames`;
    throw new Error(`animated ${nameOf(format)} (${count})`);
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

let codec: Promise<Magick> | undefined;

/**
 * Gives this thread's codec: started on first need, and again after it was
 * dropped.
 *
 * @returns The codec, `npm:@imagemagick/magick-wasm`
 * @throws {Error} If it cannot be loaded; the next call tries again
 */
export function useCodec(): Promise<Magick> {
  return codec ??= startCodec().catch((error) => {
    codec = undefined;
    const [cause] = String(error).split("\n");
    throw new Error(`cannot load the codec: ${cause}`, { cause: error });
  });
}

async function startCodec(): Promise<Magick> {
  const magick: Magick = await import(CODEC);
  // @ts-ignore TypeScript 6.0 cannot parse a source phase import; Deno runs it,
  // and unlike reading the file by its path it needs no permission.
  const wasm = await import.source(`${CODEC}/magick.wasm`);
  const { log, error } = console;
  let started: Promise<void>;
  try {
    // While it starts, before its first await, the codec binds these two, and
    // prints to them what C writes to stdout and stderr.
    console.log = console.error = () => {};
    (magick.ImageMagick as Loader)._api = undefined;
    started = magick.initializeImageMagick(wasm);
  } finally {
    Object.assign(console, { log, error });
  }
  await started;
  // "Disk" would be memory, too: a file system inside the JavaScript heap.
  magick.ResourceLimits.disk = 0n;
  return magick;
}

/**
 * Turns an image gray: image bytes in, gray image bytes out, in the same
 * format (JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF, judged by the content).
 *
 * On failure the promise rejects with an Error whose message is one line
 * without a path ("truncated PNG: …", "animated GIF (12 frames)"), and the next
 * call works as usual: a codec that crashed is started anew.
 *
 * Luma is ITU-R BT.601. Size, alpha, resolution, EXIF (with its orientation)
 * and XMP are kept, color profiles are not. Of a JPEG in YCbCr the luma is taken
 * out without loss, another one keeps its quality. PNGs of 16 bits stay so, and
 * one that is gray comes as it is. Lossless WebP stays lossless, GIF only has
 * its color tables changed. A lossy WebP can decode to a green that is one off:
 * its decoders round that way.
 *
 * @param bytes A whole image file; it is not changed.
 * @param options The limit, in pixels.
 * @returns A whole image file.
 * @throws {Error} If the bytes are no image, or one that is broken, truncated,
 * animated, of several pages, of more than 8 bits per channel (but for PNG), or
 * too large.
 * @throws {RangeError} If `maxPixels` is not positive.
 *
 * @example One red pixel
 * ```ts
 * const gif = Uint8Array.fromBase64(
 *   "R0lGODdhAQABAIAAAP8AAAAAACwAAAAAAQABAAACAkQBADs=",
 * );
 * const gray = await grayscale(gif);
 * console.log(gray.subarray(13, 16)); // [76, 76, 76]
 * ```
 */
export async function grayscale(
  bytes: Uint8Array,
  { maxPixels = MAX_PIXELS }: GrayscaleOptions = {},
): Promise<Uint8Array> {
  if (!bytes.length) throw new Error("empty file");
  const format = sniff(bytes);
  if (!format) {
    throw new Error("not an image (JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF)");
  }
  if (format === "PNG") {
    const { grayPng } = await png();
    return grayPng(bytes, (header) => judge(format, header, maxPixels));
  }
  if (format === "JPEG") {
    const gray = grayJpeg(bytes, (header) => judge(format, header, maxPixels));
    if (gray) return gray;
  }
  const header = readHeader(format, bytes);
  judge(format, header, maxPixels);
  if (header.palettes) return grayPalettes(bytes, header.palettes);
  let mine: Promise<Magick>, magick: Magick;
  do { // again if another call dropped the codec while this one waited for it
    mine = useCodec();
    magick = await mine;
  } while (mine !== codec);
  try {
    return convert(magick, format, header, bytes);
  } catch (error) {
    const crashed = !(error instanceof magick.MagickError);
    if (crashed) codec = undefined;
    throw explain(error, crashed, format, header);
  } finally {
    const api = (magick.ImageMagick as Loader)._api;
    if (api && api.HEAPU8.length > KEEP_BYTES) codec = undefined;
  }
}

/** Loaded on first need: node:zlib takes 20 ms of each worker's start. */
const png = () => import("./grayscale/png.ts");

/** Makes a plain line of what the codec says: "No data `' @ error/webp.c/…". */
function explain(
  error: unknown,
  crashed: boolean,
  format: Coded,
  { width, height }: Header,
): Error {
  let cause = error instanceof Error ? error.message : "no reason given";
  if (/memory alloc|out of memory|OOM|exhausted|allocation/i.test(cause)) {
    cause = `too large for the codec's memory: ${width}x${height} pixels`;
    return new Error(cause, { cause: error });
  }
  cause = cause.replace(/\n.*|\.?\s*[`'][^`']*'(: [^@]*)? @ \w+\/.*/s, "");
  if (!cause.includes(" ")) {
    cause = cause.replace(/(?<=[a-z])(?=[A-Z])/g, " ").toLowerCase();
  }
  if (crashed) cause = `the codec crashed on it (${cause})`;
  const verdict = /not (configured|supported|impl)|unsupported/i.test(cause)
    ? "unsupported"
    : /end of (jpeg )?file|premature|not enough|insuff|read err/i.test(cause)
    ? "truncated"
    : "broken";
  return new Error(`${verdict} ${nameOf(format)}: ${cause}`, { cause: error });
}

/** Decodes, turns gray and encodes. */
function convert(
  magick: Magick,
  format: Coded,
  header: Header,
  bytes: Uint8Array,
): Uint8Array {
  const source = magick.MagickImage.create(),
    target = magick.MagickImage.create();
  try {
    decode(magick, source, format, bytes);
    const { gray, alpha } = grayPixels(magick, source);
    if (header.premultiplied && alpha) divideByAlpha(gray);
    const { width, height } = source;
    const raw = alpha ? magick.MagickFormat.Graya : magick.MagickFormat.Gray;
    target.read(
      gray,
      new magick.MagickReadSettings({ format: raw, width, height, depth: 8 }),
    );
    copySettings(magick, source, target);
    encodeLike(source, target, format, header.lossless ?? false);
    const out = target.write(format, (data) => data.slice());
    if (format === "TIFF") {
      // The codec skips these, and what its memory held there comes along.
      for (const at of readHeader(format, out).gaps ?? []) out[at] = 0;
    }
    return out;
  } finally {
    source.dispose();
    target.dispose();
  }
}

/** Reads the first picture; warnings about its pixels are errors. */
function decode(
  magick: Magick,
  image: Image,
  format: Coded,
  bytes: Uint8Array,
): void {
  const size = bytes.length;
  if (format === "BMP") {
    // Nobody but ImageMagick insists on the size that the header tells.
    bytes = new Uint8Array(bytes);
    new DataView(bytes.buffer).setUint32(2, size, true);
  }
  let fatal: Error | undefined;
  image.onWarning = ({ error }) => {
    const all = [error, ...error.relatedErrors];
    fatal ??= all.find(({ message }) => !HARMLESS[format]?.test(message));
    return 0;
  };
  image.read(
    bytes,
    new magick.MagickReadSettings({ format, frameIndex: 0, frameCount: 1 }),
  );
  if (fatal) throw fatal;
}

/** Turns a GIF's color tables gray where they stand: nothing is coded anew. */
function grayPalettes(
  bytes: Uint8Array,
  palettes: [number, number][],
): Uint8Array {
  const out = new Uint8Array(bytes); // slice() of a Buffer would not copy
  for (const [start, end] of palettes) {
    for (let i = start; i < end; i += 3) {
      out.fill(luma(out[i], out[i + 1], out[i + 2]), i, i + 3);
    }
  }
  return out;
}

/**
 * Takes the luma of the stored samples. ImageMagick's own conversion is not
 * used: it weighs by 0.298839, 0.586811 and 0.114350.
 */
function grayPixels(
  magick: Magick,
  image: Image,
): { gray: Uint8Array; alpha: boolean } {
  const { PixelChannel, ColorSpace } = magick;
  const { Gray, LinearGray, sRGB, RGB, CMYK } = ColorSpace;
  const stored: number[] = [Gray, LinearGray, sRGB, RGB, CMYK];
  if (!stored.includes(image.colorSpace)) image.colorSpace = sRGB; // from Lab
  const mono = image.colorSpace === Gray || image.colorSpace === LinearGray;
  const inks = image.colorSpace === CMYK, alpha = image.hasAlpha;
  return image.getPixels((pixels) => {
    const red = pixels.getChannelIndex(PixelChannel.Red);
    const green = mono ? red : pixels.getChannelIndex(PixelChannel.Green);
    const blue = mono ? red : pixels.getChannelIndex(PixelChannel.Blue);
    const black = pixels.getChannelIndex(PixelChannel.Black);
    const opacity = pixels.getChannelIndex(PixelChannel.Alpha);
    const step = image.channelCount, count = image.width * image.height;
    const gray = new Uint8Array(alpha ? 2 * count : count);
    // A view of the codec's memory: nothing may allocate there meanwhile.
    const data = pixels.getReadOnlyArea(0, 0, image.width, image.height);
    if (data.length !== step * count) {
      throw new Error("the codec gave no pixels");
    }
    const light = (i: number, k: number) =>
      ((255 - data[i]) * (255 - data[k]) + 127) / 255 | 0;
    for (let i = 0, o = 0; i < data.length; i += step) {
      gray[o++] = inks
        ? luma(
          light(i + red, i + black),
          light(i + green, i + black),
          light(i + blue, i + black),
        )
        : luma(data[i + red], data[i + green], data[i + blue]);
      if (alpha) gray[o++] = data[i + opacity];
    }
    return { gray, alpha };
  });
}

/** Undoes what `prem` (ISO/IEC 23008-12) tells and the codec leaves in. */
function divideByAlpha(gray: Uint8Array): void {
  for (let i = 0; i < gray.length; i += 2) {
    gray[i] = Math.min(255, Math.round(gray[i] * 255 / (gray[i + 1] || 255)));
  }
}

/** Keeps resolution, orientation and metadata, but no color profile. */
function copySettings(magick: Magick, source: Image, target: Image): void {
  for (
    const name of source.profileNames.filter((name) => !/^ic[cm]$/.test(name))
  ) {
    const profile = source.getProfile(name);
    if (profile) {
      target.setProfile(new magick.ImageProfile(name, profile.data.slice()));
    }
  }
  target.density = source.density;
  target.orientation = source.orientation;
}

/** Asks the encoder for what the source was, as far as that can be known. */
function encodeLike(
  source: Image,
  target: Image,
  format: Coded,
  lossless: boolean,
): void {
  const { settings } = target;
  settings.interlace = source.interlace;
  // ImageMagick cannot tell the quality of some coarse JPEGs: less than 50.
  target.quality = format === "JPEG" ? source.quality || 50 : 85;
  if (format === "TIFF") settings.compression = source.compression;
  if (format === "WEBP") {
    // Level 2 of 6: two to five times as fast as the default, 5 % more bytes.
    settings.setDefine("WEBP", "method", 2);
    settings.setDefine("WEBP", "lossless", lossless);
    settings.setDefine("WEBP", "exact", lossless);
    // ImageMagick takes less for how much may be lost ("near-lossless").
    if (lossless) target.quality = 100;
  }
  // The default speed takes 15 s for two megapixels.
  if (format === "AVIF") settings.setDefine("HEIC", "speed", 8);
}

/**
 * Reads an image file, turns it gray, and writes the result.
 *
 * The output is written under a temporary name (`.NAME.PID-RANDOM.manyhands`)
 * in its folder, which is made if it is missing, and renamed when it is whole.
 * On failure nothing is left behind, and an older output stays as it was.
 * Needs `--allow-read` and `--allow-write`.
 *
 * @param options The image, where to write, and the limit in pixels.
 * @returns What was written, as plain data.
 * @throws {Error} If `path` is no regular file, if `out` is the same file, if
 * the image is refused (see {@linkcode grayscale}), or if it cannot be written.
 *
 * @example
 * ```ts
 * const path = await Deno.makeTempFile();
 * const gif = "R0lGODdhAQABAIAAAP8AAAAAACwAAAAAAQABAAACAkQBADs=";
 * await Deno.writeFile(path, Uint8Array.fromBase64(gif));
 * const { bytes } = await grayscaleFile({ path, out: path + ".gray.gif" });
 * console.log(bytes); // 35
 * ```
 */
export async function grayscaleFile(
  { path, out, maxPixels }: GrayscaleFileOptions,
): Promise<GrayscaleFileResult> {
  const input = Deno.statSync(path); // opening a FIFO would block
  if (!input.isFile) throw new Error("not a regular file");
  if (input.size > MAX_BYTES) throw new Error(`too large: ${input.size} bytes`);
  refuseOutput(input, out);
  const buffer = takeBuffer(input.size);
  try {
    const image = readInto(buffer, path, input.size);
    const grayParts = await extractorOf(image);
    // They are good until the next `await`.
    const gray = grayParts?.(image, maxPixels) ??
      [await grayscale(image, { maxPixels })];
    writeInFolder(out, gray);
    const bytes = gray.reduce((sum, part) => sum + part.length, 0);
    for (const part of gray) if (part.buffer !== image.buffer) free(part);
    return { path, out, bytes };
  } finally {
    if (buffer.length <= KEEP_BYTES) spare = buffer;
  }
}

/**
 * Memory for the next file. Memory of its own for each, and the collection of
 * that, took 1 to 3 ms for files of 437 kB; to turn them gray takes 3.
 */
let spare: Uint8Array<ArrayBuffer> | undefined;

/** Takes the spare memory, unless it is too small or another call has it. */
function takeBuffer(size: number): Uint8Array<ArrayBuffer> {
  const buffer = spare;
  spare = undefined;
  if (buffer && buffer.length >= size) return buffer;
  if (buffer) free(buffer);
  return new Uint8Array(Math.ceil(size / 2 ** 20) * 2 ** 20);
}

/** Reads a file; what it grew by meanwhile is left out. */
function readInto(
  buffer: Uint8Array,
  path: string,
  size: number,
): Uint8Array {
  using file = Deno.openSync(path);
  let length = 0;
  while (length < size) {
    const n = file.readSync(buffer.subarray(length, size));
    if (n === null) break;
    length += n;
  }
  return buffer.subarray(0, length);
}

/** What makes a gray image in parts, with no memory for the whole of it. */
async function extractorOf(
  bytes: Uint8Array,
): Promise<
  | ((bytes: Uint8Array, maxPixels?: number) => Uint8Array[] | undefined)
  | undefined
> {
  const format = sniff(bytes);
  if (format !== "JPEG" && format !== "PNG") return;
  const parts = format === "PNG" ? (await png()).grayPngParts : grayJpegParts;
  return (bytes, maxPixels = MAX_PIXELS) =>
    parts(bytes, (header) => judge(format, header, maxPixels));
}

/** Makes the folder only where it is missing: mostly it is there. */
function writeInFolder(out: string, parts: Uint8Array[]): void {
  try {
    writeWhole(out, ...parts);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    Deno.mkdirSync(folderOf(out) || ".", { recursive: true });
    writeWhole(out, ...parts);
  }
}

/** Compares device and inode, which sees through links and spellings. */
function refuseOutput(input: Deno.FileInfo, out: string): void {
  let old: Deno.FileInfo;
  try {
    old = Deno.statSync(out);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  // A rename would put a plain file in the place of a device or a FIFO.
  if (!old.isFile) {
    throw new Error("the output is there and is no regular file");
  }
  if (old.dev === input.dev && old.ino === input.ino) {
    throw new Error("the output would replace the input");
  }
}

/**
 * The original exercise's stand-in for a conversion: writes `Processing PATH`
 * to stdout and blocks its thread for one second. Never fails.
 *
 * @param path The name of an image; nothing is read.
 * @returns `PATH processed`
 *
 * @example
 * ```ts
 * console.log(applyGrayscale("image_1.jpg")); // image_1.jpg processed
 * ```
 */
export function applyGrayscale(path: string): string {
  console.log(`Processing ${path}`);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
  return `${path} processed`;
}

/** The jobs of this module. */
export type GrayJobs = {
  /** See {@linkcode grayscaleFile}. */
  grayscaleFile: typeof grayscaleFile;
  /** See {@linkcode applyGrayscale}. */
  applyGrayscale: typeof applyGrayscale;
};

/** The jobs of this module, for a `Pool` or `sequential`. */
export const service: Service<GrayJobs> = serve(import.meta, {
  grayscaleFile,
  applyGrayscale,
});
