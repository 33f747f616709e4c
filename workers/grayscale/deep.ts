/**
 * Gray pixels of 16 bits, which the codec would cut to 8: read from gray PNGs and
 * TIFFs, turned, and put into a PNG.
 *
 * @module
 */

import * as kernels from "../kernels/kernels.wasm";
import { joined } from "../shared/memory.ts";
import { cropped } from "./avif.ts";
import type { DeepImage } from "./codec.ts";
import type { Format } from "./formats.ts";
import { piecesOf } from "./png.ts";
import {
  be32,
  chunkOf,
  Faults,
  GRAY,
  GRAY_ALPHA,
  PngReader,
  SIGNATURE,
} from "./png_chunks.ts";
import { grayFormatOf, readRows } from "./png_pixels.ts";
import { GrayWriter } from "./png_writer.ts";
import { readDeepTiff } from "./tiff.ts";

/** PNG, 11.3: chunks that are about samples of another depth. */
const SHALLOW = new Set([
  "IHDR",
  "IDAT",
  "PLTE",
  "tRNS",
  "bKGD",
  "sBIT",
  "hIST",
]);

/**
 * Reads a gray file.
 *
 * @param format What it is
 * @param bytes A whole file that was checked before
 * @returns Its pixels; undefined if they have no 16 bits or more
 * @throws {Error} If they are none that become 16 bits
 */
export function readDeep(
  format: Format,
  bytes: Uint8Array,
): DeepImage | undefined {
  if (format === "PNG") return readDeepPng(bytes);
  if (format === "TIFF") return readDeepTiff(bytes);
}

function readDeepPng(bytes: Uint8Array): DeepImage {
  const faults = new Faults(() => {}, false);
  const parts = new PngReader(bytes, () => {}, faults).run();
  const { width, height } = parts.format, gray = grayFormatOf(parts);
  const samples = new Uint16Array(width * height * gray.channels);
  const size = 1 + width * gray.pixel;
  let to = 0;
  const write = (rows: Uint8Array) => {
    const view = new DataView(rows.buffer, rows.byteOffset, rows.length);
    for (let row = 0; row < rows.length; row += size) {
      for (let at = row + 1; at < row + size; at += 2) {
        samples[to++] = view.getUint16(at);
      }
    }
  };
  readRows(parts.pictures[0], parts, gray, faults, () => ({ write }));
  return { width, height, samples, alpha: gray.channels === 2 };
}

/** The turns of each orientation of EXIF: quarters against the clock, then a mirror. */
const TURNS: { turns: number; mirror?: "rows" | "columns" }[] = [
  ...[{ turns: 0 }, { turns: 0 }, { turns: 0, mirror: "columns" as const }],
  ...[{ turns: 2 }, { turns: 0, mirror: "rows" as const }],
  ...[{ turns: 3, mirror: "columns" as const }, { turns: 3 }],
  ...[{ turns: 1, mirror: "columns" as const }, { turns: 1 }],
];

/**
 * Turns an image.
 *
 * @param image What to turn
 * @param orientation How it is turned, by the numbers of EXIF
 * @returns It upright
 */
export function turnedDeep(image: DeepImage, orientation: number): DeepImage {
  const { width, height, alpha, samples } = image;
  const turn = TURNS[orientation] ?? TURNS[0];
  if (!turn.turns && !turn.mirror) return image;
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset);
  const whole = { left: 0, top: 0, width, height, ...turn };
  const { pixels, ...size } = cropped(bytes, width, alpha ? 4 : 2, whole);
  return { ...size, alpha, samples: new Uint16Array(pixels.buffer) };
}

/**
 * Makes a PNG of 16 bits.
 *
 * @param image Its pixels
 * @param template A PNG of other pixels, whose metadata it gets
 * @returns A whole file
 */
export function deepPngOf(
  { width, height, samples, alpha }: DeepImage,
  template: Uint8Array,
): Uint8Array {
  const pixel = alpha ? 4 : 2, row = new Uint8Array(1 + width * pixel);
  const view = new DataView(row.buffer);
  using writer = new GrayWriter(width, height, pixel, kernels.base());
  for (let from = 0; from < samples.length;) {
    for (let at = 1; at < row.length; at += 2) {
      view.setUint16(at, samples[from++]);
    }
    writer.write(row);
  }
  const header = [...be32(width), ...be32(height), 16];
  header.push(alpha ? GRAY_ALPHA : GRAY, 0, 0, 0);
  const { before, behind } = chunksOf(template);
  return joined([
    ...[new Uint8Array(SIGNATURE), ...chunkOf("IHDR", new Uint8Array(header))],
    ...before,
    ...piecesOf(writer.end()).flatMap((piece) => chunkOf("IDAT", ...piece)),
    ...behind,
  ]);
}

/** The chunks that are not about pixels, before and behind these. */
function chunksOf(
  png: Uint8Array,
): { before: Uint8Array[]; behind: Uint8Array[] } {
  const view = new DataView(png.buffer, png.byteOffset, png.length);
  const before: Uint8Array[] = [], behind: Uint8Array[] = [];
  let chunks = before;
  for (let at = SIGNATURE.length; at < png.length;) {
    const type = String.fromCharCode(...png.subarray(at + 4, at + 8));
    const end = at + 12 + view.getUint32(at);
    if (type === "IDAT") chunks = behind;
    if (!SHALLOW.has(type)) chunks.push(png.subarray(at, end));
    at = end;
  }
  return { before, behind };
}
