/**
 * Image bytes in, gray image bytes out, in the same format: JPEG, PNG, WebP,
 * GIF, TIFF, BMP and AVIF.
 *
 * The format is recognized by the content, never by the name. It is named to the
 * codec, so that none of ImageMagick's other readers (SVG, PDF, text …) can be
 * reached. What the headers say (size, depth, frames) is checked before a single
 * pixel is decoded.
 *
 * @module
 */
import { serve, type Service } from "../mod.ts";
import {
  checkLimits,
  convertibleOther,
  type ConvertOptions,
  type Header,
  nameOfOther,
  readAvifHeader,
  sniff,
} from "./grayscale/formats.ts";
import { grayJpegParts, withSegmentsOf } from "./grayscale/jpeg.ts";
import type { Target } from "./grayscale/transcode.ts";
import { folderOf, writeWhole } from "./shared/files.ts";
import { free, joined } from "./shared/memory.ts";

export type { Target } from "./grayscale/transcode.ts";

/** Options of {@linkcode grayscale}. */
export interface GrayscaleOptions {
  /** Largest image to decode, in pixels. Default 268,000,000. */
  maxPixels?: number;
  /**
   * Whether to convert an image that lacks pixels, too: what is missing becomes
   * gray, and a warning says how much is real. Of an AVIF nothing can be decoded
   * then. Default false.
   */
  salvage?: boolean;
  /** The format of the result. Default: that of the image. */
  to?: Target;
  /**
   * The quality of the result, from 1 to 100, if its format has one. Default: that
   * of the image as far as it is known, or 85. A JPEG is coded anew then.
   */
  quality?: number;
  /**
   * Called with what is wrong with an image that is converted all the same, on one
   * line, such as "12 stray bytes before a marker, at byte 20". Default: nothing is
   * said.
   */
  onWarning?: (cause: string) => void;
}

/** Options of {@linkcode grayscaleFile}; `to` does not change the name `out`. */
export interface GrayscaleFileOptions
  extends Omit<GrayscaleOptions, "onWarning"> {
  /** The image to read. */
  path: string;
  /** Where to write the gray image. An existing file is replaced. */
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
  /** What was wrong with the image that was read, but let it be converted. */
  warning?: string;
}

/** Larger files are refused: input and pixels share 4 GiB of wasm memory. */
const MAX_BYTES = 2 ** 31;
/**
 * Turns an image gray: image bytes in, gray image bytes out, in the same
 * format (JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF, recognized by the content).
 *
 * With `to` or `quality` it is encoded anew: turned upright, if EXIF or XMP say it
 * is not, and with EXIF, XMP and IPTC where the format has them; a warning says what
 * it has not. HEIC and JPEG XL are read then, too. An animated GIF or PNG becomes an
 * animated WebP; other animations are refused then.
 *
 * On failure the promise rejects with an Error whose message is one line
 * without a path ("truncated PNG: …", "unsupported format: HEIC"), and the next
 * call works as usual: a codec that crashed is started anew.
 *
 * Luma is ITU-R BT.601. Size, alpha, resolution, EXIF (with its orientation)
 * and XMP are kept, color profiles are not. The luma of a JPEG in YCbCr is taken
 * out without loss; any other JPEG keeps its quality, and a lossless one gets the
 * highest. A PNG of 16 bits stays so, a TIFF of 16 bits, 32 bits or floats as well; a
 * gray one is returned as it is. A lossless WebP stays lossless. Of a GIF and of a BMP
 * with a color table only the tables change. Animated GIFs, PNGs and WebPs stay
 * animated, a TIFF keeps its pages. A lossy WebP may differ by one in green, as WebP
 * decoders round differently.
 *
 * @param bytes A whole image file; it is not changed.
 * @param options The limit, in pixels, and what to do with what is wrong.
 * @returns A whole image file.
 * @throws {Error} If the bytes are no image, or an image that is broken or
 * truncated (but see `salvage`), too large, or coded in a way that is not supported,
 * such as AVIF or JPEG of more than 8 bits.
 * @throws {RangeError} If `maxPixels` is not positive, `quality` not from 1 to 100,
 * or `to` no format.
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
  options: GrayscaleOptions = {},
): Promise<Uint8Array> {
  return await convert(bytes, options, joined);
}

/**
 * Turns an image gray, and hands the parts of the result to `take` at once:
 * they may lie in memory that the next image on this thread will use.
 */
async function convert<T>(
  bytes: Uint8Array,
  { to, quality, ...same }: GrayscaleOptions,
  take: (parts: Uint8Array[]) => T,
): Promise<T> {
  if (!bytes.length) throw new Error("empty file");
  const { maxPixels, salvage, onWarning: warn = () => {} } = same;
  const format = sniff(bytes);
  if (to !== undefined || quality !== undefined) {
    const { transcode } = await import("./grayscale/transcode.ts");
    const input = format ?? (to && convertibleOther(bytes));
    const how = { to, quality, maxPixels, salvage, warn };
    const gray = () => convert(bytes, same, joined);
    const file = await transcode(bytes, input, how, gray);
    if (file) return take([file]);
  }
  if (!format) {
    const other = nameOfOther(bytes);
    throw new Error(
      other
        ? `unsupported format: ${other}`
        : "not an image (JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF)",
    );
  }
  let header: Header | undefined;
  const check = (read: Header) => {
    checkLimits(format, read, maxPixels);
    header = read;
  };
  const options = { checkHeader: check, warn, salvage };
  // All but JPEG is loaded on first need: node:zlib, which some of it uses, takes
  // 20 ms of each worker's start.
  if (format === "PNG") {
    const { grayPngParts } = await import("./grayscale/png.ts");
    return take(grayPngParts(bytes, check, warn, salvage));
  }
  if (format === "TIFF") {
    const { grayTiff } = await import("./grayscale/tiff.ts");
    return take(await grayTiff(bytes, options));
  }
  if (format === "GIF") {
    const { grayGifParts } = await import("./grayscale/gif.ts");
    return take(grayGifParts(bytes, options));
  }
  if (format === "BMP") {
    const { grayBmpParts } = await import("./grayscale/bmp.ts");
    return take(grayBmpParts(bytes, options));
  }
  if (format === "WEBP") {
    const { grayWebpParts } = await import("./grayscale/webp.ts");
    return take(await grayWebpParts(bytes, options));
  }
  if (format === "AVIF") return take([await grayAvif(bytes, options)]);
  return take(await grayJpegOrSalvage(bytes, options, () => header));
}

/** AV1 codes a picture as one whole, of which no decoder gives a part. */
async function grayAvif(
  bytes: Uint8Array,
  { checkHeader, salvage }: ConvertOptions,
): Promise<Uint8Array> {
  try {
    const header = readAvifHeader(bytes);
    checkHeader(header);
    const { recode } = await import("./grayscale/codec.ts");
    return await recode("AVIF", header, bytes);
  } catch (error) {
    const { message } = error as Error;
    if (!salvage || !/^(broken|truncated)/.test(message)) throw error;
    const cause = `${message}; nothing of an AVIF can be salvaged`;
    throw new Error(cause, { cause: error });
  }
}

/** Takes the luma out of a JPEG, or has the codec do it, or salvages what is there. */
async function grayJpegOrSalvage(
  bytes: Uint8Array,
  { checkHeader, warn, salvage }: ConvertOptions,
  header: () => Header | undefined,
): Promise<Uint8Array[]> {
  try {
    const gray = grayJpegParts(bytes, checkHeader, warn);
    if (gray) return gray;
    const { recode } = await import("./grayscale/codec.ts");
    const file = await recode("JPEG", header()!, bytes, { warn });
    return withSegmentsOf(bytes, file);
  } catch (error) {
    const checked = header();
    if (!salvage || !checked) throw error;
    const { salvageJpeg } = await import("./grayscale/jpeg_salvage.ts");
    return await salvageJpeg(bytes, error as Error, checked, warn);
  }
}

/**
 * Reads an image file, turns it gray, and writes the result.
 *
 * The output is written under a temporary name (`.NAME.PID-RANDOM.manyhands`) in
 * its folder, which is made if it is missing, and renamed when it is complete. Its
 * permission bits are at most those of the image that was read. On
 * failure nothing is left behind, and an older output stays as it was. It needs
 * `--allow-read` and `--allow-write`.
 *
 * @param options The image, where to write, and how to convert it.
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
  { path, out, ...options }: GrayscaleFileOptions,
): Promise<GrayscaleFileResult> {
  const input = Deno.statSync(path); // opening a FIFO would block
  if (!input.isFile) throw new Error("not a regular file");
  if (input.size > MAX_BYTES) throw new Error(`too large: ${input.size} bytes`);
  checkOutput(input, out);
  const buffer = takeBuffer(input.size);
  try {
    const image = readInto(buffer, path, input.size);
    const causes = new Set<string>();
    const onWarning = (cause: string) => void causes.add(cause);
    const bytes = await convert(image, { ...options, onWarning }, (parts) => {
      writeInFolder(out, parts, input.mode);
      const size = parts.reduce((sum, part) => sum + part.length, 0);
      for (const part of parts) if (part.buffer !== image.buffer) free(part);
      return size;
    });
    const warning = lineOf(causes);
    return { path, out, bytes, ...warning && { warning } };
  } finally {
    if (buffer.length <= BUFFER_MAX) spareBuffer = buffer;
  }
}

/** The most warnings of an image that are said. */
const WARNINGS_MAX = 3;

/** Some warnings on one line. */
function lineOf(causes: Set<string>): string {
  const more = causes.size - WARNINGS_MAX;
  const said = [...causes].slice(0, WARNINGS_MAX).join("; ");
  return more > 0 ? `${said}; and ${more} more` : said;
}

/**
 * Memory that the next file is read into. To allocate and collect memory for each
 * file took 1 to 3 ms for files of 437 kB, which are turned gray in 3 ms.
 */
let spareBuffer: Uint8Array<ArrayBuffer> | undefined;
/** How large that may stay, in bytes. */
const BUFFER_MAX = 2 ** 28;

/** Takes that memory; new memory if it is too small or another call has it. */
function takeBuffer(size: number): Uint8Array<ArrayBuffer> {
  const buffer = spareBuffer;
  spareBuffer = undefined;
  if (buffer && buffer.length >= size) return buffer;
  if (buffer) free(buffer);
  return new Uint8Array(Math.ceil(size / 2 ** 20) * 2 ** 20);
}

/** Reads the first `size` bytes of a file, or fewer if it has shrunk. */
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

/** Writes first and makes the folder only if that fails: mostly it exists. */
function writeInFolder(
  out: string,
  parts: Uint8Array[],
  mode: number | null,
): void {
  // Not readable by more people than the original; an image is no program.
  const allowed = mode === null ? undefined : mode & 0o666;
  try {
    writeWhole(out, parts, allowed);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    Deno.mkdirSync(folderOf(out) || ".", { recursive: true });
    writeWhole(out, parts, allowed);
  }
}

/**
 * Throws if an output would replace its input. Device and inode are compared,
 * since one file may have several paths.
 */
function checkOutput(input: Deno.FileInfo, out: string): void {
  let old: Deno.FileInfo;
  try {
    old = Deno.statSync(out);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  // The rename would replace a device or a FIFO by a plain file.
  if (!old.isFile) {
    throw new Error("the output is there and is no regular file");
  }
  if (old.dev === input.dev && old.ino === input.ino) {
    throw new Error("the output would replace the input");
  }
}

/**
 * A pretended conversion: writes `Processing PATH` to stdout and blocks its thread
 * for one second. It never fails.
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
