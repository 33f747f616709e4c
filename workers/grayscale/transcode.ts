/**
 * Makes a gray image of another format. Pixels and metadata come from the codec; of
 * what a format cannot hold, a line says that it is lost.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { joined } from "../shared/memory.ts";
import {
  type CodecInput,
  copySettings,
  type DeepImage,
  type Encode,
  type GrayImage,
  type Magick,
  type MagickImage,
  QUALITY,
  readGray,
  recode,
  sizeOf,
  turnProfiles,
  writeImage,
} from "./codec.ts";
import { encodeAnimation } from "./animation.ts";
import { depthOf } from "./depth.ts";
import { deepPngOf, readDeep, turnedDeep } from "./deep.ts";
import {
  checkLimits,
  type Format,
  type Header,
  MAX_PIXELS,
  nameOf,
  readAvifHeader,
} from "./formats.ts";
import { plainBmp } from "./bmp.ts";
import { grayGifParts } from "./gif.ts";
import { grayJpegParts, withSegmentsOf } from "./jpeg.ts";
import {
  orientationOfExif,
  orientationOfXmp,
  UPRIGHT,
  withoutHeader,
} from "./orientation.ts";
import { animationOf, chunkOf, dataOfChunk, sizeOfPng } from "./png_chunks.ts";
import { readGrayTiff } from "./tiff.ts";
import { CODINGS, DEFLATE, takeDifferences } from "./tiff_codings.ts";
import { type Field, TiffReader, TiffWriter } from "./tiff_file.ts";
import { FLOAT, SIGNED } from "./tiff_samples.ts";
import { checkWebp, grayWebpParts } from "./webp.ts";

/** The formats that an image can be converted into. */
export type Target = "jpeg" | "png" | "webp" | "tiff" | "avif";

/** Their names as those of formats. */
const TARGETS: Record<Target, Format> = {
  ...{ jpeg: "JPEG", png: "PNG", webp: "WEBP", tiff: "TIFF", avif: "AVIF" },
};
/** Those that have a quality. */
const WITH_QUALITY: Target[] = ["jpeg", "webp", "avif"];

/** How to convert. */
export interface TranscodeOptions {
  /** The format of the result; default: that of the image. */
  to?: Target;
  /** From 1 to 100. */
  quality?: number;
  /** The largest image to decode, in pixels. */
  maxPixels?: number;
  /** Whether pixels may be missing; they become gray. */
  salvage?: boolean;
  /** Called with what is wrong, or lost, in one line. */
  warn(cause: string): void;
}

/** What is known of a gray file beside what the codec tells. */
interface About {
  /** Pictures in the file. */
  frames: number;
  bits: number;
  /** PNG: columns and rows. */
  size?: { width: number; height: number };
  /** What kind of numbers the samples are, if not whole ones from 0 on. */
  numbers?: "floating-point" | "signed";
  /** How the picture is turned, by the numbers of EXIF. */
  orientation?: number;
  /** EXIF, where the format has it in another form. */
  exif?: Uint8Array;
}

/** What becomes what. */
interface Conversion {
  format: CodecInput;
  header: Header;
  /** What is known of the gray file, if it was made gray before. */
  about?: About;
  /** Its pixels, if they have more than 8 bits and the result can have them. */
  deep?: DeepImage;
  /** Its pixels, if the codec might misread them. */
  shallow?: GrayImage;
  to: Target;
  /** Whether that is its own format. */
  isSame: boolean;
}

/**
 * Makes an image of another format, or of another quality, gray.
 *
 * @param bytes A whole file; it is not changed
 * @param format Its format, if it can be converted
 * @param options Into what
 * @param toGray Makes it gray in its own format
 * @returns A whole file; undefined if the image is of that format already, and its
 * format has no quality
 * @throws {Error} If it is broken, animated, or something in it is not supported
 */
export async function transcode(
  bytes: Uint8Array,
  format: CodecInput | undefined,
  options: TranscodeOptions,
  toGray: () => Promise<Uint8Array>,
): Promise<Uint8Array | undefined> {
  checkOptions(options);
  const { quality, warn } = options;
  const own = WITH_QUALITY.find((name) => TARGETS[name] === format);
  const to = options.to ?? own;
  if (!format || !to) return;
  const isSame = TARGETS[to] === format;
  if (isSame && !(quality && own)) return;
  const header: Header = { width: 0, height: 0 };
  const check = (read: Header) => {
    Object.assign(header, read);
    checkLimits(format, read, options.maxPixels);
  };
  const read = (file: Uint8Array, salvage = false) =>
    readAsItIs(file, format, { ...options, salvage }, check);
  const direct = await read(bytes, options.salvage);
  const gray = direct ?? await toGray();
  const source = format === "BMP" ? plainBmp(gray) : gray;
  // What was salvaged is read as what was good from the beginning.
  const isRead = (direct ?? await read(gray)) !== undefined;
  const about = isRead ? undefined : aboutOf(format as Format, source);
  const frames = Math.max(header.frames ?? 1, about?.frames ?? 1);
  if (frames > 1 && isSame && format === "WEBP") {
    const how = { checkHeader: check, warn };
    return joined(await grayWebpParts(source, how, quality));
  }
  const isAnimation = frames > 1 && to === "webp";
  if (isAnimation && (format === "GIF" || format === "PNG")) {
    if (about && about.bits > 8) warn(depthLine(about.bits, 8));
    const size = about?.size ?? header;
    return await encodeAnimation(format, { ...size, frames }, source, {
      quality: quality ?? QUALITY,
      maxPixels: options.maxPixels ?? MAX_PIXELS,
      warn,
    });
  }
  checkTarget(format, { ...about, frames }, to);
  const deep = about && about.bits > 8 && (to === "png" || to === "tiff")
    ? readDeep(format as Format, source)
    : undefined;
  const isOther = format === "HEIC" || format === "JXL";
  const bits = isOther ? depthOf(format, bytes) : about?.bits ?? 8;
  const shallow = about && format === "TIFF" && !deep
    ? await readGrayTiff(source)
    : undefined;
  const kept = deep ? 16 : 8;
  if (bits > kept) warn(depthLine(bits, kept));
  const encode = encodeAs(
    { to, format, header, isSame, about, deep, shallow },
    options,
  );
  const file = await recode(format, header, source, { encode, warn });
  return isSame && format === "JPEG"
    ? joined(withSegmentsOf(bytes, file))
    : file;
}

const depthLine = (bits: number, kept: number): string =>
  `${bits} bits per channel, of which ${kept} are kept`;

function checkOptions({ to, quality }: TranscodeOptions): void {
  if (to !== undefined && !Object.hasOwn(TARGETS, to)) {
    throw new RangeError(
      "Cannot convert an image as 'to' must be one of " +
        `${Object.keys(TARGETS).join(", ")}: current value is ${to}`,
    );
  }
  if (quality !== undefined && !(quality >= 1 && quality <= 100)) {
    throw new RangeError(
      "Cannot convert an image as 'quality' must be from 1 to 100: " +
        `current value is ${quality}`,
    );
  }
}

/**
 * Gives a file that the codec is to read as it is: to make it gray in its own format
 * before would cost quality. Of a JPEG it is the luma, if that can be taken out.
 */
async function readAsItIs(
  bytes: Uint8Array,
  format: CodecInput,
  { warn, salvage }: TranscodeOptions,
  check: (header: Header) => void,
): Promise<Uint8Array | undefined> {
  try {
    if (format === "HEIC" || format === "JXL") {
      check(await sizeOf(format, bytes));
    } else if (format === "AVIF") check(readAvifHeader(bytes));
    else if (format === "WEBP") checkWebp(bytes, { checkHeader: check, warn });
    else if (format === "GIF") {
      return joined(grayGifParts(bytes, { checkHeader: check, warn }));
    } else if (format === "JPEG") {
      const parts = grayJpegParts(bytes, check, warn);
      return parts ? joined(parts) : bytes;
    } else return;
    return bytes;
  } catch (error) {
    if (!salvage || format === "HEIC" || format === "JXL") throw error;
  }
}

/** Throws if a format cannot hold what is in a file. */
function checkTarget(
  format: CodecInput,
  about: Partial<About>,
  to: Target,
): void {
  const target = nameOf(TARGETS[to]), { frames = 1 } = about;
  if (frames > 1) {
    const what = format === "TIFF" ? "pages" : "frames";
    throw new Error(
      `${nameOf(format)} of ${frames} ${what}: only a single picture becomes ` +
        target,
    );
  }
  if (about.numbers) {
    throw new Error(`${about.numbers} TIFF, which cannot become ${target}`);
  }
}

/**
 * Looks at a gray file that is to be encoded anew.
 *
 * @param format Its format
 * @param bytes The file
 * @returns What is to be known of it beside what the codec tells
 */
function aboutOf(format: Format, bytes: Uint8Array): About {
  if (format === "PNG") {
    const exif = dataOfChunk(bytes, "eXIf");
    return {
      frames: animationOf(bytes),
      bits: bytes[24],
      size: sizeOfPng(bytes),
      ...exif && { exif: joined([EXIF_HEADER, exif]) },
    };
  }
  if (format !== "TIFF") return { frames: 1, bits: 8 };
  const reader = new TiffReader(bytes, () => {}), pages = reader.pages();
  const { fields } = pages[0];
  const [bits = 1] = reader.numbers(fields.get(258));
  const [orientation] = reader.numbers(fields.get(274));
  const [kind] = reader.numbers(fields.get(339));
  const numbers = kind === FLOAT
    ? "floating-point"
    : kind === SIGNED
    ? "signed"
    : undefined;
  const exif = exifOf(reader, [...fields.values()]);
  return { frames: pages.length, bits, numbers, orientation, exif };
}

/** Fields that EXIF has, too. */
const DESCRIPTIVE = new Set([
  ...[270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, 34665, 34853],
]);

/** What is in front of EXIF in the codec, as in JPEG. */
const EXIF_HEADER = new TextEncoder().encode("Exif\0\0");

/** The fields of a TIFF as EXIF, which is a TIFF itself. */
function exifOf(reader: TiffReader, fields: Field[]): Uint8Array | undefined {
  const { isLittle, isBig } = reader.kind;
  const told = fields.filter(({ tag }) => DESCRIPTIVE.has(tag));
  const isThere = told.some(({ tag }) => tag < 282 || tag > 296);
  if (!isThere || isBig) return;
  const writer = new TiffWriter({ isLittle, isBig });
  writer.addFields(told);
  return joined([EXIF_HEADER, ...writer.finish()]);
}

/** A pixel. */
const PIXEL = { width: 1, height: 1, gray: Uint8Array.of(0), alpha: false };

/** Gives the encoder for a format. */
const encodeAs = (
  { to, format: from, header, isSame, about, deep, shallow }: Conversion,
  { quality = QUALITY, warn }: TranscodeOptions,
): Encode =>
(magick, source, frame, target) => {
  const format = TARGETS[to];
  const isGif = /^GIF/i.test(source.format);
  const image = shallow ?? (isGif ? onCanvas(frame, source.page) : frame);
  const opaque = format === "JPEG" ? flattened(image, warn) : image;
  // Where the pixels are deep, this one stands for them, and gets the metadata.
  readGray(magick, target, deep ? PIXEL : opaque);
  copySettings(magick, source, target);
  if (source.comment) target.comment = source.comment;
  if (about?.exif) {
    target.setProfile(new magick.ImageProfile("exif", about.exif));
  }
  const orientation = orientationOf(source, from, header, about);
  target.orientation = orientation as MagickImage["orientation"];
  if (!isSame || header.isTurned) turnUpright(magick, target);
  // The encoder of AVIF contradicts itself where it is to lose nothing.
  target.quality = to === "avif" ? Math.min(quality, 99) : quality;
  const { settings } = target;
  settings.interlace = isSame ? source.interlace : settings.interlace;
  settings.setDefine("PNG", "exclude-chunk", "date,time");
  settings.setDefine("WEBP", "method", 2);
  settings.setDefine("HEIC", "speed", 8);
  const upright = deep && turnedDeep(deep, orientation);
  const exif = target.getProfile("exif")?.data.slice(); // writing changes them
  const out = to === "tiff"
    ? tiffOf(target, exif, upright ?? pixelsOf(magick, target, opaque.alpha))
    : to !== "png"
    ? writeImage(target, format)
    : upright
    ? deepPngOf(upright, pngOf(magick, target))
    : pngOf(magick, target);
  sayWhatIsLost(magick, source, target, out, to, warn);
  return out;
};

/** Puts a frame of a GIF where it is on the screen, the rest of which is clear. */
function onCanvas(
  frame: GrayImage,
  page: { x: number; y: number; width: number; height: number },
): GrayImage {
  const { x, y } = page;
  const width = Math.max(page.width, x + frame.width);
  const height = Math.max(page.height, y + frame.height);
  if (width === frame.width && height === frame.height) return frame;
  const step = frame.alpha ? 2 : 1, gray = new Uint8Array(2 * width * height);
  for (let row = 0, i = 0; row < frame.height; row++) {
    let o = 2 * ((y + row) * width + x);
    for (let column = 0; column < frame.width; column++, i += step, o += 2) {
      gray[o] = frame.gray[i];
      gray[o + 1] = frame.alpha ? frame.gray[i + 1] : 255;
    }
  }
  return { width, height, gray, alpha: true };
}

/** Lays transparent pixels on white. */
function flattened(
  image: GrayImage,
  warn: (cause: string) => void,
): GrayImage {
  if (!image.alpha) return image;
  const gray = new Uint8Array(image.gray.length / 2);
  let isClear = false;
  for (let i = 0; i < gray.length; i++) {
    const level = image.gray[2 * i], alpha = image.gray[2 * i + 1];
    if (alpha < 255) isClear = true;
    gray[i] = Math.round((level * alpha + 255 * (255 - alpha)) / 255);
  }
  if (isClear) warn("transparency, which is laid on white");
  return { ...image, gray, alpha: false };
}

/**
 * How a picture is to be turned. Of AVIF the codec has carried out what its container
 * says, which counts before EXIF; of HEIC and JPEG XL it counts alone.
 */
function orientationOf(
  source: MagickImage,
  format: CodecInput,
  { isTurned }: Header,
  about?: About,
): number {
  if (format === "HEIC" || format === "JXL") return source.orientation;
  const dataOf = (name: string) => source.getProfile(name)?.data;
  const told = about?.orientation ??
    orientationOfExif(about?.exif ?? dataOf("exif"));
  const isDecided = format === "AVIF" && (isTurned || told !== undefined);
  return isDecided ? UPRIGHT : told ?? orientationOfXmp(dataOf("xmp")) ?? 0;
}

/**
 * Turns the pixels, and has EXIF and XMP say that they are upright: what the formats
 * have besides them for that differs, and so does what readers obey.
 */
function turnUpright(magick: Magick, target: MagickImage): void {
  target.autoOrient();
  turnProfiles(magick, target);
}

/** Profiles by the names that users know. */
const PROFILES: Record<string, string> = {
  ...{ exif: "EXIF", xmp: "XMP", iptc: "IPTC", "8bim": "Photoshop's data" },
};

/** Says what the result has not. Color profiles are not true of gray. */
function sayWhatIsLost(
  magick: Magick,
  source: MagickImage,
  target: MagickImage,
  out: Uint8Array,
  to: Target,
  warn: (cause: string) => void,
): void {
  const wanted = target.profileNames.filter((name) => name in PROFILES);
  const texts = source.attributeNames.filter((name) => !name.includes(":"));
  if (!wanted.length && !texts.length) return;
  const written = magick.MagickImage.create();
  try {
    const format = TARGETS[to];
    written.read(out, new magick.MagickReadSettings({ format }));
    const kept = to === "tiff"
      ? ["exif", ...written.profileNames]
      : written.profileNames;
    const lost = wanted.filter((name) => !kept.includes(name))
      .map((name) => PROFILES[name]);
    const names = new Set(written.attributeNames);
    if (texts.some((name) => !names.has(name))) lost.push("texts");
    if (lost.length) {
      warn(`${lost.join(", ")}, which ${nameOf(format)} does not keep`);
    }
  } finally {
    written.dispose();
  }
}

/** How many bytes of pixels a strip has. */
const STRIP = 1 << 18;

/** PNG, 11.3.3.5: of XMP, not compressed, in no language. */
const XMP_KEYWORD = new TextEncoder().encode("XML:com.adobe.xmp\0\0\0\0\0");
/** How long the signature of a PNG and IHDR are. */
const PNG_START = 33;

/**
 * Writes a PNG: the codec changes EXIF, and writes XMP in a way that hardly anyone else
 * reads.
 */
function pngOf(magick: Magick, target: MagickImage): Uint8Array {
  const chunks: Uint8Array[] = [], removed: [string, Uint8Array][] = [];
  for (const name of ["exif", "xmp"]) {
    const profile = target.getProfile(name);
    if (!profile) continue;
    const data = profile.data.slice();
    removed.push([name, data]);
    chunks.push(
      ...name === "exif"
        ? chunkOf("eXIf", withoutHeader(data))
        : chunkOf("iTXt", XMP_KEYWORD, data),
    );
    target.removeProfile(profile);
  }
  const file = target.write("PNG", (data) => data.slice());
  for (const [name, data] of removed) {
    target.setProfile(new magick.ImageProfile(name, data));
  }
  const start = file.subarray(0, PNG_START);
  return joined([start, ...chunks, file.subarray(PNG_START)]);
}

/** Gray pixels of 8 or 16 bits. */
type Pixels = Omit<DeepImage, "samples"> & {
  samples: Uint8Array | Uint16Array;
};

/** The pixels of an image of the codec. */
function pixelsOf(
  { MagickFormat }: Magick,
  image: MagickImage,
  alpha: boolean,
): Pixels {
  const { width, height } = image;
  const format = alpha ? MagickFormat.Graya : MagickFormat.Gray;
  const samples = image.write(format, (data) => data.slice());
  return { width, height, alpha, samples };
}

/** Writes a TIFF: the codec leaves bytes as its memory has them, and EXIF out. */
function tiffOf(
  target: MagickImage,
  exif: Uint8Array | undefined,
  { width, height, alpha, samples }: Pixels,
): Uint8Array {
  const channels = alpha ? 2 : 1, bits = 8 * samples.BYTES_PER_ELEMENT;
  const told = exif ? fieldsOf(exif) : undefined;
  const isLittle = told?.isLittle ?? true;
  const writer = new TiffWriter({ isLittle, isBig: false });
  const length = width * channels, rowSize = length * bits / 8;
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP / rowSize)));
  const blocks: Uint8Array[] = [];
  for (let at = 0; at < samples.length; at += rows * length) {
    const strip = samples.slice(at, at + rows * length);
    takeDifferences(strip, length, channels);
    const data = new Uint8Array(strip.buffer);
    if (bits > 8 && !isLittle) Buffer.from(data.buffer).swap16();
    blocks.push(CODINGS[DEFLATE].encode(data, rowSize));
  }
  const BYTE = 1, SHORT = 3, LONG = 4, RATIONAL = 5, UNDEFINED = 7;
  const short = (tag: number, ...values: number[]) =>
    writer.field(tag, SHORT, values);
  const long = (tag: number, value: number) => writer.field(tag, LONG, [value]);
  const blob = (tag: number, type: number, name: string): Field[] => {
    const data = target.getProfile(name)?.data.slice();
    return data ? [{ tag, type, count: data.length, data }] : [];
  };
  const { x, y, units } = target.density;
  const density = (tag: number, value: number): Field => {
    const { data } = writer.field(tag, LONG, [Math.round(value * 1000), 1000]);
    return { tag, type: RATIONAL, count: 1, data };
  };
  const own = [
    ...[long(256, width), long(257, height)],
    short(258, ...Array(channels).fill(bits)),
    ...[
      short(259, DEFLATE),
      short(262, 1),
      short(274, 1),
      short(277, channels),
    ],
    ...[long(278, rows), short(317, 2)],
    ...alpha ? [short(338, 2)] : [],
    ...x > 0 && y > 0 && !told?.fields.some(({ tag }) => tag === 282)
      ? [density(282, x), density(283, y), short(296, units + 1)]
      : [],
    ...blob(700, BYTE, "xmp"),
    ...blob(33723, UNDEFINED, "iptc"),
  ];
  const tags = new Set(own.map(({ tag }) => tag));
  const more = told?.fields.filter(({ tag }) =>
    !tags.has(tag) && DESCRIPTIVE.has(tag)
  );
  const fields = [...own, ...more ?? []];
  writer.add({ fields, blocks, isTiled: false, children: [] });
  return joined(writer.finish());
}

/** The fields of EXIF; none if it is damaged. */
function fieldsOf(exif: Uint8Array) {
  try {
    const reader = new TiffReader(withoutHeader(exif), () => {});
    const { isLittle } = reader.kind;
    return { isLittle, fields: [...reader.pages()[0].fields.values()] };
  } catch {
    return;
  }
}
