/**
 * Makes images and logs to try the other jobs on: the same ones for the same
 * seed, everywhere.
 *
 * @module
 */

import { serve, type Service } from "../mod.ts";
import { writeWhole } from "./files.ts";
import { useCodec } from "./grayscale.ts";

/** An image to be made. */
export interface ImageOrder {
  /** Where it goes; `.jpg` and `.png` say in which format. */
  path: string;
  /** What makes it different from others. */
  seed: number;
  /** Columns, in pixels. */
  width: number;
  /** Rows, in pixels. */
  height: number;
}

/** A log to be made. */
export interface LogOrder {
  /** Where it goes. */
  path: string;
  /** What makes it different from others. */
  seed: number;
  /** How many lines it has. */
  lines: number;
  /** Whether one line is an alert. */
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
 * Makes an image with what photographs have: gradients, edges and noise.
 *
 * @param order What to make
 * @throws {Error} If the file cannot be written
 */
export async function makeImage(order: ImageOrder): Promise<void> {
  const { path, width, height } = order;
  const magick = await useCodec();
  const { MagickFormat, MagickImage, MagickReadSettings } = magick;
  const image = MagickImage.create();
  try {
    const format = MagickFormat.Rgb;
    image.read(
      drawPixels(order),
      new MagickReadSettings({ format, width, height, depth: 8 }),
    );
    // When it was made would make each one different.
    image.settings.setDefine("PNG", "exclude-chunks", "date,tIME");
    image.quality = path.endsWith(".png") ? 25 : 85;
    const target = path.endsWith(".png") ? MagickFormat.Png : MagickFormat.Jpeg;
    image.write(target, (bytes) => writeWhole(path, bytes));
  } finally {
    image.dispose();
  }
}

function drawPixels({ seed, width, height }: ImageOrder): Uint8Array {
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

/**
 * Makes a log: logins, an error on a line in a hundred, perhaps an alert.
 *
 * @param order What to make
 * @throws {Error} If the file cannot be written
 */
export function makeLog({ path, seed, lines, alert }: LogOrder): void {
  const random = randomFrom(seed);
  const log: string[] = Array.from(
    { length: lines },
    () => random() < 0.01 ? "System error occurred" : "User login successful",
  );
  if (alert) {
    const address = `192.168.0.${1 + Math.floor(254 * random())}`;
    log[Math.floor(lines * random())] =
      `Alert: unauthorized access detected from IP ${address}`;
  }
  writeWhole(path, new TextEncoder().encode(log.join("\n") + "\n"));
}

const jobs = { makeImage, makeLog };

/** The jobs of this module. */
export type FixtureJobs = typeof jobs;

/** The jobs of this module, for a `Pool` or `sequential`. */
export const service: Service<FixtureJobs> = serve(import.meta, jobs);
