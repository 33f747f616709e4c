/**
 * Animated GIFs and PNGs that become animated WebPs, by the codec's collections: every
 * frame is a whole picture then. Of animated WebPs these lose transparency, so webp.ts
 * works on their frames one by one.
 *
 * @module
 */

import {
  type GrayImage,
  grayPixels,
  type Magick,
  readGray,
  withCodec,
} from "./codec.ts";
import type { Header } from "./formats.ts";
import { dataOfChunk, Faults, type Picture, PngReader } from "./png_chunks.ts";
import { grayFormatOf, readRows } from "./png_pixels.ts";

/** How an animation is encoded. */
export interface AnimationOptions {
  /** From 1 to 100. */
  quality: number;
  /** The most pixels of all frames together. */
  maxPixels: number;
  /** Called with what is lost, in one line. */
  warn(cause: string): void;
}

/** A frame on the whole screen. */
interface Frame {
  image: GrayImage;
  /** How long it is shown, in milliseconds. */
  time: number;
}

/** An animation. */
interface Animation {
  frames: Iterable<Frame>;
  /** How often it is played; 0 is without end. */
  plays: number;
  /** What a WebP does not get of it. */
  lost: string[];
}

/**
 * Makes an animated WebP: frames, times and loops stay.
 *
 * @param format What the animation is
 * @param header What its headers tell
 * @param bytes A whole gray file that was checked before; it is not changed
 * @param options How to encode it
 * @returns A whole file
 * @throws {Error} If it has more pixels in all than allowed
 */
export function encodeAnimation(
  format: "GIF" | "PNG",
  header: Header,
  bytes: Uint8Array,
  options: AnimationOptions,
): Promise<Uint8Array> {
  const { width, height, frames = 1 } = header, { maxPixels } = options;
  if (frames * width * height > maxPixels) {
    throw new Error(
      `too large: ${frames} frames of ${width}x${height} are more than ` +
        `${maxPixels} pixels`,
    );
  }
  return withCodec(format, header, (magick) => {
    if (format === "PNG") return encode(magick, animationOfPng(bytes), options);
    const source = magick.MagickImageCollection.create();
    try {
      const settings = { format: magick.MagickFormat.Gif };
      source.read(bytes, new magick.MagickReadSettings(settings));
      if (source.length !== frames) {
        throw new magick.MagickError(
          `only ${source.length} of ${frames} frames can be read`,
        );
      }
      return encode(magick, animationOfGif(magick, source), options);
    } finally {
      source.dispose();
    }
  });
}

function encode(
  magick: Magick,
  { frames, plays, lost }: Animation,
  { quality, warn }: AnimationOptions,
): Uint8Array {
  const target = magick.MagickImageCollection.create();
  try {
    for (const { image, time } of frames) {
      const frame = magick.MagickImage.create();
      target.push(frame);
      readGray(magick, frame, image);
      frame.animationTicksPerSecond = 1000;
      frame.animationDelay = time;
      frame.animationIterations = plays;
      frame.quality = quality;
      frame.settings.setDefine("WEBP", "method", 2);
    }
    if (lost.length) warn(`${lost.join(", ")}, which an animated WebP has not`);
    return target.write("WEBP", (data) => data.slice());
  } finally {
    target.dispose();
  }
}

function animationOfGif(
  magick: Magick,
  source: ReturnType<Magick["MagickImageCollection"]["create"]>,
): Animation {
  const [{ animationIterations, comment, profileNames }] = source;
  source.coalesce(); // frames may be parts of the screen
  const frames = function* () {
    for (const frame of source) {
      const image = grayPixels(magick, frame);
      yield { image, time: 10 * frame.animationDelay };
    }
  };
  const lost = [
    ...profileNames.includes("xmp") ? ["XMP"] : [],
    ...comment ? ["texts"] : [],
  ];
  return { frames: frames(), plays: animationIterations, lost };
}

/** PNG, 11.3: what is said of chunks that a WebP does not get. */
const LOST: [name: string, types: string[]][] = [
  ["EXIF", ["eXIf"]],
  ["texts", ["tEXt", "zTXt", "iTXt"]],
];

function animationOfPng(bytes: Uint8Array): Animation {
  const control = dataOfChunk(bytes, "acTL")!;
  const lost = LOST
    .filter(([, types]) => types.some((type) => dataOfChunk(bytes, type)))
    .map(([name]) => name);
  return { frames: framesOfPng(bytes), plays: wordAt(control, 4), lost };
}

const wordAt = (data: Uint8Array, at: number): number =>
  new DataView(data.buffer, data.byteOffset, data.length).getUint32(at);

/** PNG, 11.3.6.2: what becomes of a frame's place, and how it is put there. */
const CLEAR = 1, RESTORE = 2, OVER = 1;

/** Puts the frames on the screen one after another. */
function* framesOfPng(bytes: Uint8Array): Iterable<Frame> {
  const faults = new Faults(() => {}, false);
  const parts = new PngReader(bytes, () => {}, faults).run();
  const { width, height } = parts.format;
  const screen = new Uint8Array(2 * width * height);
  for (const picture of parts.pictures) {
    const { control, format } = picture;
    if (!control) continue; // it is shown by those who know no animations
    const left = wordAt(control, 12), top = wordAt(control, 16);
    const [high, low, highUnit, lowUnit, disposal, blend] = control.subarray(
      20,
    );
    const before = disposal === RESTORE ? screen.slice() : undefined;
    const pixels = pixelsOf(picture, parts, faults);
    for (let y = 0, from = 0; y < format.height; y++) {
      let to = 2 * ((top + y) * width + left);
      for (let x = 0; x < format.width; x++, from += 2, to += 2) {
        if (blend === OVER) putOver(screen, to, pixels[from], pixels[from + 1]);
        else screen.set(pixels.subarray(from, from + 2), to);
      }
    }
    const unit = highUnit << 8 | lowUnit || 100;
    const time = Math.round((high << 8 | low) * 1000 / unit);
    yield { image: { width, height, gray: screen.slice(), alpha: true }, time };
    if (before) screen.set(before);
    else if (disposal === CLEAR) {
      for (let y = top; y < top + format.height; y++) {
        const row = 2 * (y * width + left);
        screen.fill(0, row, row + 2 * format.width);
      }
    }
  }
}

/** Lays a pixel over another one, none of them multiplied by alpha. */
function putOver(
  screen: Uint8Array,
  at: number,
  gray: number,
  alpha: number,
): void {
  const below = screen[at + 1] * (255 - alpha) / 255, sum = alpha + below;
  if (sum === 0) return;
  screen[at] = Math.round((gray * alpha + screen[at] * below) / sum);
  screen[at + 1] = Math.round(sum);
}

/** Gray and alpha of a frame, in 8 bits each. */
function pixelsOf(
  picture: Picture,
  parts: ReturnType<PngReader["run"]>,
  faults: Faults,
): Uint8Array {
  const { width, height } = picture.format, format = grayFormatOf(parts);
  const { pixel, channels } = format, sample = pixel / channels;
  const out = new Uint8Array(2 * width * height), size = 1 + width * pixel;
  let to = 0;
  const write = (rows: Uint8Array) => {
    for (let row = 0; row < rows.length; row += size) {
      for (let at = row + 1; at < row + size; at += pixel) {
        out[to++] = rows[at];
        out[to++] = channels === 2 ? rows[at + sample] : 255;
      }
    }
  };
  readRows(picture, parts, format, faults, () => ({ write }));
  return out;
}
