/**
 * Makes images and logs to try the other jobs on: the same ones for the same
 * seed, everywhere.
 *
 * @module
 */

import { serve, type Service } from "../mod.ts";
import { causeOf, writeWhole } from "./shared/files.ts";
import { useCodec } from "./grayscale/codec.ts";

/** An image to make. */
export interface ImageSpec {
  /** Where to write it; `.jpg` or `.png` says the format. */
  path: string;
  /** What makes it different from others. */
  seed: number;
  /** Columns, in pixels. */
  width: number;
  /** Rows, in pixels. */
  height: number;
}

/** A log to make. */
export interface LogSpec {
  /** Where to write it. */
  path: string;
  /** What makes it different from others. */
  seed: number;
  /** How many lines to write. */
  lines: number;
  /** Whether one of the lines is an alert. */
  alert: boolean;
}

/**
 * Makes numbers that look random and are the same for the same seed
 * (mulberry32).
 *
 * @param seed A whole number
 * @returns A function like `Math.random`
 *
 * @example
 * ```ts
 * import { randomFrom } from "./fixtures.ts";
 *
 * console.log(randomFrom(1)() === randomFrom(1)()); // true
 * ```
 */
export function randomFrom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Makes an image with what photographs have: gradients, edges and noise. It
 * needs `--allow-write` for the folder, and `--allow-read` for the codec.
 *
 * @param spec The image
 * @throws {Error} If the file cannot be written; the message names the path
 *
 * @example
 * ```ts
 * import { makeImage } from "./fixtures.ts";
 *
 * const folder = await Deno.makeTempDir();
 * const path = `${folder}/a.png`;
 * await makeImage({ path, seed: 1, width: 40, height: 30 });
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function makeImage(spec: ImageSpec): Promise<void> {
  const { path, width, height } = spec;
  const magick = await useCodec();
  const { MagickFormat, MagickImage, MagickReadSettings } = magick;
  const image = MagickImage.create();
  try {
    const format = MagickFormat.Rgb;
    image.read(
      drawPixels(spec),
      new MagickReadSettings({ format, width, height, depth: 8 }),
    );
    // The date would make the same image different each time.
    image.settings.setDefine("PNG", "exclude-chunks", "date,tIME");
    image.quality = path.endsWith(".png") ? 25 : 85;
    const target = path.endsWith(".png") ? MagickFormat.Png : MagickFormat.Jpeg;
    image.write(target, (bytes) => write(path, bytes));
  } finally {
    image.dispose();
  }
}

function drawPixels({ seed, width, height }: ImageSpec): Uint8Array {
  const random = randomFrom(seed);
  const pixels = new Uint8Array(width * height * 3);
  const corners = Array.from({ length: 12 }, () => 255 * random());
  const discs = Array.from({ length: 40 }, () => ({
    x: random() * width,
    y: random() * height,
    square: (random() ** 2 * height / 4) ** 2,
    shade: [0, 1, 2].map(() => 160 * random() - 80),
  }));
  for (let y = 0, at = 0; y < height; y++) {
    const near = discs.filter((disc) => (y - disc.y) ** 2 < disc.square);
    const down = y / height;
    for (let x = 0; x < width; x++) {
      const across = x / width;
      const inside = near.filter((disc) =>
        (x - disc.x) ** 2 + (y - disc.y) ** 2 < disc.square
      );
      const noise = 24 * (random() + random() - 1);
      for (let channel = 0; channel < 3; channel++) {
        const top = corners[channel] * (1 - across) +
          corners[channel + 3] * across;
        const bottom = corners[channel + 6] * (1 - across) +
          corners[channel + 9] * across;
        let value = top * (1 - down) + bottom * down + noise;
        for (const disc of inside) value += disc.shade[channel];
        pixels[at++] = Math.max(0, Math.min(255, value));
      }
    }
  }
  return pixels;
}

const encoder = new TextEncoder();
const LOGIN = encoder.encode("User login successful\n");
const ERROR = encoder.encode("System error occurred\n");
/** The most that Deno writes in one call, in bytes. */
const LOG_MAX = 2 ** 31 - 1;

/**
 * Makes a log: logins, an error in every hundredth line on average, and perhaps an
 * alert. It needs `--allow-write` for the folder. The whole log is held in memory
 * until it is written.
 *
 * @param spec The log
 * @throws {Error} If the log would be over 2 GB, or if the file cannot be written;
 * the message names the path
 *
 * @example
 * ```ts
 * import { makeLog } from "./fixtures.ts";
 *
 * const folder = await Deno.makeTempDir();
 * const path = `${folder}/a.txt`;
 * makeLog({ path, seed: 1, lines: 1000, alert: true });
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function makeLog({ path, seed, lines, alert }: LogSpec): void {
  // Bytes instead of a string, since a string of V8 has at most 512 MB.
  const most = lines * Math.max(LOGIN.length, ERROR.length) + 99; // the alert
  if (most > LOG_MAX) {
    throw new Error(`Cannot write ${path}: ${lines} lines are over 2 GB`);
  }
  const alertLine = alert ? alertOf(seed, lines) : undefined;
  const random = randomFrom(seed);
  const log = new Uint8Array(most);
  let size = 0;
  for (let line = 0; line < lines; line++) {
    const usual = random() < 0.01 ? ERROR : LOGIN;
    const bytes = line === alertLine?.line ? alertLine.bytes : usual;
    log.set(bytes, size);
    size += bytes.length;
  }
  write(path, log.subarray(0, size));
}

/**
 * The alert of a log and the number of its line. The random numbers of the other
 * lines are skipped first, so that a log has the same lines with and without it.
 */
function alertOf(
  seed: number,
  lines: number,
): { line: number; bytes: Uint8Array } {
  const random = randomFrom(seed);
  for (let line = 0; line < lines; line++) random();
  const address = `192.168.0.${1 + Math.floor(254 * random())}`;
  const text = `Alert: unauthorized access detected from IP ${address}\n`;
  return { line: Math.floor(lines * random()), bytes: encoder.encode(text) };
}

function write(path: string, bytes: Uint8Array): void {
  try {
    writeWhole(path, bytes);
  } catch (cause) {
    throw new Error(`Cannot write ${path}: ${causeOf(cause)}`, { cause });
  }
}

/** The jobs of this module. */
export type FixtureJobs = {
  /** See {@linkcode makeImage}. */
  makeImage: typeof makeImage;
  /** See {@linkcode makeLog}. */
  makeLog: typeof makeLog;
};

/** The jobs of this module, for a `Pool` or `sequential`. */
export const service: Service<FixtureJobs> = serve(import.meta, {
  makeImage,
  makeLog,
});
