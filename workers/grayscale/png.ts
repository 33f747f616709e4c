/**
 * Makes a PNG gray. Its chunks are read by png_chunks.ts, its pixels converted by
 * png_pixels.ts, and compressed by png_writer.ts.
 *
 * @module
 */

import { joined } from "../shared/memory.ts";
import {
  be32,
  chunkOf,
  Faults,
  GRAY,
  GRAY_ALPHA,
  type PngHeader,
  type PngParts,
  PngReader,
  SIGNATURE,
} from "./png_chunks.ts";
import {
  checkPicture,
  convertPicture,
  type GrayFormat,
  grayFormatOf,
  type Rows,
} from "./png_pixels.ts";

export type { PngHeader } from "./png_chunks.ts";

/** The most bytes of a chunk, less the number of an fdAT chunk. */
const PIECE_MAX = 2 ** 31 - 5;

/**
 * Makes a PNG gray. Samples of 8 or 16 bits keep their depth, smaller ones become
 * 8 bits. Transparency becomes an alpha channel. A gray PNG is returned as it is,
 * after it was checked to its last pixel, unless something is wrong with it. The
 * result is never interlaced, which would cost bytes and time.
 *
 * Each frame of an animation is made gray by itself; where and how long it is shown
 * stays. Chunks that are safe to copy (14.2: texts, EXIF, pHYs) are kept, and gAMA,
 * sRGB and tIME. The other ones describe colors that the result does not have.
 *
 * @param bytes A whole file; it is not changed
 * @param checkHeader Called with what IHDR says; it may throw to refuse the file
 * @param warn Called with what is wrong beside the pixels, in one line
 * @param salvage Whether a file that lacks pixels is converted, too: they are gray
 * @returns A whole file
 * @throws {Error} If it is broken or truncated; the line says where
 *
 * @example
 * ```ts
 * import { grayPng } from "./png.ts";
 *
 * try {
 *   grayPng(new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]));
 * } catch (error) {
 *   console.log(String(error)); // Error: truncated PNG: the file ends too early at byte 8
 * }
 * ```
 */
export function grayPng(
  bytes: Uint8Array,
  checkHeader: (header: PngHeader) => void = () => {},
  warn: (cause: string) => void = () => {},
  salvage = false,
): Uint8Array {
  return joined(grayPngParts(bytes, checkHeader, warn, salvage));
}

/**
 * The same in parts, ready to be written, so that the largest one is not copied.
 *
 * @param bytes A whole file; it is not changed
 * @param checkHeader As for {@linkcode grayPng}
 * @param warn As for {@linkcode grayPng}
 * @param salvage As for {@linkcode grayPng}
 * @returns The parts of a whole file, in order; some lie in `bytes`
 * @throws {Error} If it is broken or truncated; the line says where
 *
 * @example
 * ```ts
 * import { grayPngParts } from "./png.ts";
 *
 * try {
 *   grayPngParts(new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]));
 * } catch (error) {
 *   console.log(String(error)); // Error: truncated PNG: the file ends too early at byte 8
 * }
 * ```
 */
export function grayPngParts(
  bytes: Uint8Array,
  checkHeader: (header: PngHeader) => void = () => {},
  warn: (cause: string) => void = () => {},
  salvage = false,
): Uint8Array[] {
  const faults = new Faults(warn, salvage);
  const parts = new PngReader(bytes, checkHeader, faults).run();
  if (isWhole(parts, faults)) return [bytes.subarray(0, parts.end)];
  const gray = grayFormatOf(parts);
  const converted = parts.pictures.map((picture) =>
    convertPicture(picture, parts, gray, faults)
  );
  sayWhatIsReal(converted.map(({ rows }) => rows), faults);
  return assemble(parts, gray, converted.map(({ stream }) => stream));
}

/** Whether a file is gray and nothing is wrong with it, so that it stays. */
function isWhole({ format, pictures }: PngParts, faults: Faults): boolean {
  if (format.type !== GRAY && format.type !== GRAY_ALPHA) return false;
  if (faults.areThere) return false;
  try {
    for (const picture of pictures) checkPicture(picture, faults);
  } catch (error) {
    if (!faults.salvage) throw error;
    faults.damage ??= error as Error;
  }
  return !faults.areThere;
}

/** Says how much was salvaged; throws if that is nothing. */
function sayWhatIsReal(rows: Rows[], faults: Faults): void {
  const real = rows.reduce((sum, { real }) => sum + real, 0);
  const all = rows.reduce((sum, { all }) => sum + all, 0);
  const error = faults.cause ?? new Error("broken PNG: no row is there");
  if (real === 0) throw error;
  const are = `${real} of ${all} rows are there`;
  const why = `(${error.message})`;
  if (real < all) faults.add(`missing pixels, which are gray: ${are} ${why}`);
  else if (faults.damage) faults.add(`doubtful pixels: ${are} ${why}`);
}

function assemble(
  { format, animation, pictures, before, behind }: PngParts,
  { depth, channels }: GrayFormat,
  streams: Uint8Array[][],
): Uint8Array[] {
  const type = channels === 2 ? GRAY_ALPHA : GRAY;
  const size = [...be32(format.width), ...be32(format.height)];
  const parts = [
    new Uint8Array(SIGNATURE),
    ...chunkOf("IHDR", new Uint8Array([...size, depth, type, 0, 0, 0])),
    ...animation ? [animation] : [],
    ...before,
  ];
  let sequence = 0;
  const next = () => new Uint8Array(be32(sequence++));
  for (const [i, stream] of streams.entries()) {
    const { control } = pictures[i];
    if (control) parts.push(...chunkOf("fcTL", next(), control.subarray(4)));
    for (const piece of piecesOf(stream)) {
      const chunk = i
        ? chunkOf("fdAT", next(), ...piece)
        : chunkOf("IDAT", ...piece);
      parts.push(...chunk);
    }
  }
  return [...parts, ...behind, ...chunkOf("IEND")];
}

/** Groups the parts of a stream so that each group fits into a chunk. */
export function piecesOf(stream: Uint8Array[]): Uint8Array[][] {
  const pieces: Uint8Array[][] = [[]];
  let size = 0;
  for (const part of stream) {
    if (size + part.length > PIECE_MAX) {
      pieces.push([]);
      size = 0;
    }
    pieces.at(-1)!.push(part);
    size += part.length;
  }
  return pieces;
}
