/**
 * Animated GIFs that become animated WebPs, by the codec's collections: every frame is
 * a whole picture then. Of animated WebPs these lose transparency, so webp.ts works on
 * their frames one by one.
 *
 * @module
 */

import { grayPixels, type Magick, readGray, withCodec } from "./codec.ts";
import type { Header } from "./formats.ts";

/** How an animation is encoded. */
export interface AnimationOptions {
  /** From 1 to 100. */
  quality: number;
  /** The most pixels of all frames together. */
  maxPixels: number;
  /** Called with what is lost, in one line. */
  warn(cause: string): void;
}

/**
 * Makes an animated WebP of an animated GIF: frames, times and loops stay.
 *
 * @param header What its headers tell
 * @param bytes A whole file of gray colors; it is not changed
 * @param options How to encode it
 * @returns A whole file
 * @throws {Error} If it is broken, or has more pixels in all than allowed
 */
export function encodeAnimation(
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
  return withCodec(
    "GIF",
    header,
    (magick) => encode(magick, frames, bytes, options),
  );
}

function encode(
  magick: Magick,
  frames: number,
  bytes: Uint8Array,
  { quality, warn }: AnimationOptions,
): Uint8Array {
  const source = magick.MagickImageCollection.create();
  const target = magick.MagickImageCollection.create();
  try {
    const format = magick.MagickFormat.Gif;
    source.read(bytes, new magick.MagickReadSettings({ format }));
    if (source.length !== frames) {
      throw new magick.MagickError(
        `only ${source.length} of ${frames} frames can be read`,
      );
    }
    source.coalesce(); // frames may be parts of the screen
    for (const frame of source) {
      const image = magick.MagickImage.create();
      target.push(image);
      readGray(magick, image, grayPixels(magick, frame));
      image.animationDelay = frame.animationDelay;
      image.animationTicksPerSecond = frame.animationTicksPerSecond;
      image.animationIterations = frame.animationIterations;
      image.quality = quality;
      image.settings.setDefine("WEBP", "method", 2);
    }
    if (source[0].comment) warn("texts, which WebP does not keep");
    if (source[0].profileNames.includes("xmp")) {
      warn("XMP, which an animated WebP does not get");
    }
    return target.write("WEBP", (data) => data.slice());
  } finally {
    source.dispose();
    target.dispose();
  }
}
