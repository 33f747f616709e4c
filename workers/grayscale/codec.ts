/**
 * The codec (ImageMagick as WebAssembly), which converts every format but PNG,
 * BMP and the JPEGs that jpeg.ts can take.
 *
 * @module
 */

import { luma } from "../kernels/luma.ts";
import { cropped } from "./avif.ts";
import {
  type CodecFormat,
  type Format,
  type Header,
  nameOf,
  type OtherFormat,
  type Patch,
} from "./formats.ts";
import { strayLineOf } from "./jpeg_frame.ts";
import { upright, withoutHeader } from "./orientation.ts";

/**
 * The codec's package, loaded on first need. If it were imported by a literal it
 * would be in the module graph, and whoever imports this file would fetch 30 MB
 * at the start.
 */
const CODEC = "npm:@imagemagick/magick-wasm@0.0.43";

/** The codec's module. */
export type Magick = typeof import("npm:@imagemagick/magick-wasm@0.0.43");
/** An image of the codec. */
export type MagickImage = ReturnType<Magick["MagickImage"]["create"]>;
/** A private field of the codec's loader; it holds the running instance. */
type CodecLoader = { _api?: { HEAPU8: Uint8Array } };

/** A codec whose memory is larger than this is dropped: it never shrinks. */
const KEEP_BYTES = 2 ** 28;

/** The quality of what is coded anew, where its own is not known. */
export const QUALITY = 85;

/**
 * The warnings that do not concern pixels. Any other warning refuses the image,
 * because ImageMagick only warns when, for example, libjpeg fills a missing half
 * with gray.
 */
const HARMLESS_WARNINGS: Partial<Record<CodecInput, RegExp>> = {
  PNG: /^/, // it comes here gray, when its pixels have been checked
  JPEG: /SOS parameters|JFIF|Adobe|ICC|profile/i,
  TIFF:
    /^(?!.*(ColorMap|Offsets)).*`(TIFF(Read(Custom)?Dir(ectory|EntryPersample)|Fetch)|OJPEGS(etupDecode|ubsamplingCorrect))/,
};

let codec: Promise<Magick> | undefined;

/**
 * Gives this thread's codec. It is started on first need, and again after it was
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
    // The codec prints to these two what its C code writes to stdout and stderr.
    // It takes them over when it starts, before its first await.
    console.log = console.error = () => {};
    (magick.ImageMagick as CodecLoader)._api = undefined;
    started = magick.initializeImageMagick(wasm);
  } finally {
    Object.assign(console, { log, error });
  }
  await started;
  // Its disk would be memory as well: a file system inside the JavaScript heap.
  magick.ResourceLimits.disk = 0n;
  return magick;
}

/** What the codec reads, where it is converted into another format, too. */
export type CodecInput = Format | OtherFormat;

/** Encodes gray pixels and what belongs to them, with an image of the codec. */
export type Encode = (
  magick: Magick,
  source: MagickImage,
  image: GrayImage,
  target: MagickImage,
) => Uint8Array;

/** Gray pixels: a byte each, or two with alpha. */
export interface GrayImage {
  /** How many columns there are. */
  width: number;
  /** How many rows. */
  height: number;
  /** The bytes, row by row. */
  gray: Uint8Array;
  /** Whether each pixel has two. */
  alpha: boolean;
}

/** Gray pixels of 16 bits, which the codec would cut to 8: a number each, or two with alpha. */
export interface DeepImage {
  /** How many columns there are. */
  width: number;
  /** How many rows. */
  height: number;
  /** The samples, row by row. */
  samples: Uint16Array;
  /** Whether each pixel has two. */
  alpha: boolean;
}

/** How {@linkcode recode} works. */
export interface RecodeOptions {
  /** Encodes the pixels; default: in the same format. */
  encode?: Encode;
  /** Called with what is wrong beside the pixels, in one line. */
  warn?: (cause: string) => void;
}

/**
 * Decodes an image, turns it gray and encodes it in the same format. After a
 * crash the codec is started anew by the next call.
 *
 * @param format What `bytes` are
 * @param header What their headers tell
 * @param bytes A whole file; it is not changed
 * @param options How to encode it, and whom to tell what is wrong
 * @returns A whole file
 * @throws {Error} If it is broken, or something in it is not supported
 */
export function recode(
  format: CodecInput,
  header: Header,
  bytes: Uint8Array,
  {
    encode = encodeLike(format, header),
    warn = () => {},
  }: RecodeOptions = {},
): Promise<Uint8Array> {
  return withCodec(
    format,
    header,
    (magick) => convert(magick, format, header, bytes, { encode, warn }),
  );
}

/**
 * Decodes an image and turns it gray.
 *
 * @param format What `bytes` are
 * @param header What their headers tell
 * @param bytes A whole file; it is not changed
 * @param options Whether pixels may be missing
 * @returns Its pixels
 * @throws {Error} If it is broken, or something in it is not supported
 */
export function decodeGray(
  format: CodecFormat,
  header: Header,
  bytes: Uint8Array,
  { isTolerant = false }: { isTolerant?: boolean } = {},
): Promise<GrayImage> {
  return withCodec(format, header, (magick) => {
    const source = magick.MagickImage.create();
    try {
      const whole = patched(bytes, header.patches ?? []);
      decode(magick, source, format, whole, { isTolerant });
      return grayPixels(magick, source);
    } finally {
      source.dispose();
    }
  });
}

/**
 * Encodes gray pixels with the quality that {@linkcode recode} gives them.
 *
 * @param format What to make
 * @param image The pixels
 * @param options Whether a WebP is to be without loss
 * @returns A whole file
 * @throws {Error} If it cannot
 */
export function encodeGray(
  format: CodecFormat,
  image: GrayImage,
  { lossless = false }: { lossless?: boolean } = {},
): Promise<Uint8Array> {
  return withCodec(format, image, (magick) => {
    const target = magick.MagickImage.create();
    try {
      readGray(magick, target, image);
      target.quality = QUALITY;
      if (format === "WEBP") setWebp(target, lossless);
      return target.write(format, (data) => data.slice());
    } finally {
      target.dispose();
    }
  });
}

/**
 * Asks the codec how large an image is; no pixel is decoded.
 *
 * @param format What `bytes` are
 * @param bytes A whole file
 * @returns Its size
 * @throws {Error} If it is broken
 */
export function sizeOf(
  format: CodecInput,
  bytes: Uint8Array,
): Promise<{ width: number; height: number }> {
  return withCodec(format, { width: 0, height: 0 }, (magick) => {
    const image = magick.MagickImage.create();
    try {
      image.ping(bytes, new magick.MagickReadSettings({ format }));
      return { width: image.width, height: image.height };
    } finally {
      image.dispose();
    }
  });
}

/**
 * Uses the codec. After a crash it is started anew by the next call.
 *
 * @param format What it reads, for errors
 * @param size How large that is, for errors
 * @param use Uses it
 * @returns What `use` returns
 * @throws {Error} What went wrong, in one plain line
 */
export async function withCodec<T>(
  format: CodecInput,
  size: { width: number; height: number },
  use: (magick: Magick) => T,
): Promise<T> {
  let mine: Promise<Magick>, magick: Magick;
  do { // again if another call dropped the codec while this one waited for it
    mine = useCodec();
    magick = await mine;
  } while (mine !== codec);
  try {
    return use(magick);
  } catch (error) {
    const crashed = !(error instanceof magick.MagickError);
    if (crashed) codec = undefined;
    throw plainError(error, crashed, format, size);
  } finally {
    const api = (magick.ImageMagick as CodecLoader)._api;
    if (api && api.HEAPU8.length > KEEP_BYTES) codec = undefined;
  }
}

/**
 * What the codec says, without the name of its file: that is drawn at random, and
 * one of a thousand has "OOM" in it, or "ICC".
 */
function messageOf({ message }: Error): string {
  return message.replace(/\/tmp\/magick-[\w-]*/g, "");
}

/** Makes one plain line of an error such as "No data `' @ error/webp.c/…". */
function plainError(
  error: unknown,
  crashed: boolean,
  format: CodecInput,
  { width, height }: { width: number; height: number },
): Error {
  let cause = error instanceof Error ? messageOf(error) : "no reason given";
  if (/security limit/i.test(cause)) {
    cause = `unsupported ${nameOf(format)}: more pixels than its header says`;
    return new Error(cause, { cause: error });
  }
  if (
    /maximum supported image dim|(width ?or ?height|dimensions?) ?exceeds/i
      .test(cause)
  ) {
    cause = "too large: more rows or columns than the new format can have";
    return new Error(cause, { cause: error });
  }
  if (/memory alloc|out of memory|OOM|exhausted|allocation/i.test(cause)) {
    cause = `too large for the codec's memory: ${width}x${height} pixels`;
    return new Error(cause, { cause: error });
  }
  cause = cause.replace(/\n.*|\.?\s*[`'][^`']*'(: [^@]*)? @ \w+\/.*/s, "");
  if (!cause.includes(" ")) {
    cause = cause.replace(/(?<=[a-z])(?=[A-Z])/g, " ").toLowerCase();
  }
  if (crashed) cause = `the codec crashed on it (${cause})`;
  const kind =
    /not (configured|supported|impl|been built)|unsupported|can ?not (handle|read scan)/i
        .test(
          cause,
        )
      ? "unsupported"
      : /end of (jpeg )?file|premature|not enough|insuff|read err/i.test(cause)
      ? "truncated"
      : "broken";
  return new Error(`${kind} ${nameOf(format)}: ${cause}`, { cause: error });
}

/** Decodes, turns gray and encodes. */
function convert(
  magick: Magick,
  format: CodecInput,
  header: Header,
  bytes: Uint8Array,
  { encode, warn }: Required<RecodeOptions>,
): Uint8Array {
  const source = magick.MagickImage.create(),
    target = magick.MagickImage.create();
  try {
    const whole = patched(bytes, header.patches ?? []);
    decode(magick, source, format, whole, { warn });
    const image = cropIfAsked(grayPixels(magick, source), header);
    const { gray, alpha } = image;
    const step = alpha ? 2 : 1;
    if (header.isLimited) expand(gray, 0, step);
    if (header.isAlphaLimited && alpha) expand(gray, 1, step);
    if (header.premultiplied && alpha) divideByAlpha(gray);
    return encode(magick, source, image, target);
  } finally {
    source.dispose();
    target.dispose();
  }
}

function cropIfAsked(image: GrayImage, { crop }: Header): GrayImage {
  if (!crop) return image;
  const { gray, alpha } = image;
  const part = cropped(gray, image.width, alpha ? 2 : 1, crop);
  return { ...part, gray: part.pixels, alpha };
}

/**
 * Gives gray pixels to an image of the codec.
 *
 * @param magick The codec
 * @param target The image
 * @param image The pixels
 */
export function readGray(
  magick: Magick,
  target: MagickImage,
  { width, height, gray, alpha }: GrayImage,
): void {
  const format = alpha ? magick.MagickFormat.Graya : magick.MagickFormat.Gray;
  const settings = { format, width, height, depth: 8 };
  target.read(gray, new magick.MagickReadSettings(settings));
}

/** A copy with some bytes replaced; without any, the file itself. */
function patched(file: Uint8Array, patches: Patch[]): Uint8Array {
  if (!patches.length) return file;
  const copy = new Uint8Array(file); // `slice()` of a Buffer would not copy
  for (const { at, bytes } of patches) copy.set(bytes, at);
  return copy;
}

/** Reads the first picture. A warning about its pixels is an error. */
function decode(
  magick: Magick,
  image: MagickImage,
  format: CodecInput,
  bytes: Uint8Array,
  { isTolerant = false, warn = () => {} }: {
    isTolerant?: boolean;
    warn?: (cause: string) => void;
  },
): void {
  let fatal: Error | undefined;
  const strays: string[] = [];
  image.onWarning = ({ error }) => {
    for (const warning of [error, ...error.relatedErrors]) {
      const message = messageOf(warning);
      const stray = format === "JPEG" && strayLineOf(message);
      if (stray) strays.push(stray);
      else if (!HARMLESS_WARNINGS[format]?.test(message)) fatal ??= warning;
    }
    return 0;
  };
  image.read(
    bytes,
    new magick.MagickReadSettings({ format, frameIndex: 0, frameCount: 1 }),
  );
  if (fatal && !isTolerant) throw fatal;
  strays.forEach(warn);
}

/**
 * Computes the luma of the stored samples. ImageMagick's own conversion has other
 * weights: 0.298839, 0.586811 and 0.114350.
 *
 * @param magick The codec
 * @param image An image of it
 * @returns Its gray pixels
 */
export function grayPixels(
  magick: Magick,
  image: MagickImage,
): GrayImage {
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
    // A view of the codec's memory. It is valid until the codec allocates.
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
    return { width: image.width, height: image.height, gray, alpha };
  });
}

/** Makes limited range full, in every `step`th byte. */
function expand(levels: Uint8Array, first: number, step: number): void {
  for (let i = first; i < levels.length; i += step) {
    const level = Math.round((levels[i] - 16) * 255 / 219);
    levels[i] = Math.max(0, Math.min(255, level));
  }
}

/** Undoes the multiplication by alpha (`prem`), which the codec leaves in. */
function divideByAlpha(gray: Uint8Array): void {
  for (let i = 0; i < gray.length; i += 2) {
    gray[i] = Math.min(255, Math.round(gray[i] * 255 / (gray[i + 1] || 255)));
  }
}

/**
 * Keeps resolution and metadata, but no color profile.
 *
 * @param magick The codec
 * @param source What was read
 * @param target What is to be written
 */
export function copySettings(
  magick: Magick,
  source: MagickImage,
  target: MagickImage,
): void {
  for (
    const name of source.profileNames.filter((name) => !/^ic[cm]$/.test(name))
  ) {
    const profile = source.getProfile(name);
    if (profile) {
      target.setProfile(new magick.ImageProfile(name, profile.data.slice()));
    }
  }
  // The codec writes the density into EXIF, also if it did not read it from there.
  target.density = densityOfExif(magick, source) ?? source.density;
}

function densityOfExif(
  magick: Magick,
  source: MagickImage,
): MagickImage["density"] | undefined {
  const numberOf = (name: string): number => {
    const [value, divisor = "1"] = (source.getAttribute(`exif:${name}`) ?? "")
      .split("/");
    return value ? Number(value) / Number(divisor) : NaN;
  };
  const [x, y] = [numberOf("XResolution"), numberOf("YResolution")];
  if (!(x > 0)) return;
  const unit = numberOf("ResolutionUnit") === 3
    ? magick.DensityUnit.PixelsPerCentimeter
    : magick.DensityUnit.PixelsPerInch;
  return new magick.Density(x, y > 0 ? y : x, unit);
}

/**
 * Has EXIF and XMP say that a picture is upright.
 *
 * @param magick The codec
 * @param image What they are in
 */
export function turnProfiles(magick: Magick, image: MagickImage): void {
  for (const name of ["exif", "xmp", "app1"]) {
    const data = image.getProfile(name)?.data;
    if (data) image.setProfile(new magick.ImageProfile(name, upright(data)));
  }
}

/** Encodes as the source was, as far as that is known. */
const encodeLike =
  (format: CodecInput, header: Header): Encode =>
  (magick, source, image, target) => {
    readGray(magick, target, image);
    copySettings(magick, source, target);
    if (header.isTurned) turnProfiles(magick, target);
    target.orientation = source.orientation;
    setEncoder(source, target, format, header);
    return writeImage(target, format);
  };

/**
 * Encodes an image. The codec writes a rounded density and an orientation of its own
 * into EXIF and XMP; here they stay as they are in the image.
 *
 * @param image What to encode
 * @param format What to make, but PNG, which has checksums
 * @returns A whole file
 */
export function writeImage(image: MagickImage, format: CodecInput): Uint8Array {
  const profilesOf = () =>
    ["exif", "xmp"].map((name) => {
      const data = image.getProfile(name)?.data.slice();
      return data ? withoutHeader(data) : new Uint8Array();
    });
  const wanted = profilesOf();
  const file = image.write(format, (data) => data.slice());
  for (const [i, written] of profilesOf().entries()) {
    const [exact, changed] = [wanted[i], written].map((data) =>
      LATIN1.decode(data)
    );
    if (exact === changed || exact.length !== changed.length) continue;
    const at = LATIN1.decode(file).indexOf(changed);
    if (at >= 0) file.set(wanted[i], at);
  }
  return file;
}

const LATIN1 = new TextDecoder("latin1");

/** Sets the encoder to what the source was, as far as that is known. */
function setEncoder(
  source: MagickImage,
  target: MagickImage,
  format: CodecInput,
  { lossless = false, quality = QUALITY }: Header,
): void {
  const { settings } = target;
  settings.interlace = source.interlace;
  target.quality = quality;
  if (format === "JPEG") {
    // Lossless JPEGs cannot be written. ImageMagick cannot tell the quality of some
    // coarse ones, which is below 50.
    target.quality = lossless ? 100 : source.quality || 50;
  }
  if (format === "WEBP") setWebp(target, lossless);
  // The default speed takes 15 s for two megapixels.
  if (format === "AVIF") settings.setDefine("HEIC", "speed", 8);
}

function setWebp(target: MagickImage, lossless: boolean): void {
  // Level 2 of 6 is two to five times as fast as the default, for 5 % more bytes.
  target.settings.setDefine("WEBP", "method", 2);
  target.settings.setDefine("WEBP", "lossless", lossless);
  target.settings.setDefine("WEBP", "exact", lossless);
  // A lower quality would mean "near-lossless" to ImageMagick.
  if (lossless) target.quality = 100;
}
