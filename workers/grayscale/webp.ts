/**
 * Makes a WebP gray, still or animated. Each picture of it is given to the codec as
 * a still WebP; all that stands around the pictures stays as it is: places, times,
 * blending and disposal of frames, loops, EXIF, XMP. Sections are those of RFC 9649.
 *
 * @module
 */

import { joined } from "../shared/memory.ts";

/** 2.3: a chunk. */
interface Chunk {
  type: string;
  data: Uint8Array;
}

/** What the headers of a WebP say. */
export interface WebpHeader {
  /** Columns of the canvas. */
  width: number;
  /** Its rows. */
  height: number;
  /** How many pictures there are. */
  frames: number;
}

/** What the header of a picture says. */
export interface WebpPicture {
  /** Columns of the picture. */
  width: number;
  /** Its rows. */
  height: number;
  /** Whether it is coded without loss. */
  lossless: boolean;
}

interface Picture extends WebpPicture {
  /** ALPH, if there is one, and VP8 or VP8L. */
  chunks: Chunk[];
}

/** The bytes of an ANMF before its picture: place, size, time and flags. */
const FRAME_HEADER = 16;
/** The chunks of a picture. */
const PICTURE = /^(ALPH|VP8[ L])$/;
/** 2.7: the flag of VP8X for a color profile. */
const HAS_PROFILE = 0x20;

const u24 = (data: Uint8Array, at: number): number =>
  data[at] | data[at + 1] << 8 | data[at + 2] << 16;

const le32 = (value: number): number[] =>
  [0, 8, 16, 24].map((shift) => value >>> shift & 255);

/**
 * Reads what all headers say.
 *
 * @param bytes A whole file
 * @returns The size and the number of pictures
 * @throws {RangeError} If the file ends too early
 * @throws {Error} If a frame is not what it says
 */
export function readWebpHeader(bytes: Uint8Array): WebpHeader {
  const chunks = fileChunks(bytes);
  const canvas = chunks.find(({ type }) => type === "VP8X")?.data;
  if (canvas && canvas.length < 10) throw new RangeError();
  const header = {
    width: canvas ? u24(canvas, 4) + 1 : 0,
    height: canvas ? u24(canvas, 7) + 1 : 0,
  };
  const pictures = chunks.filter(({ type }) => type === "ANMF")
    .map(({ data }) => readFrame(data, header));
  const still = pictures.length ? undefined : readPicture(chunks);
  if (still) {
    pictures.push(still);
    header.width = Math.max(header.width, still.width);
    header.height = Math.max(header.height, still.height);
  }
  return { ...header, frames: pictures.length };
}

/**
 * Makes a WebP gray.
 *
 * @param bytes A whole file, whose headers were read; it is not changed
 * @param recode Makes a still WebP gray that is a picture and nothing else
 * @returns A whole file
 * @throws {Error} If `recode` does
 */
export async function grayWebp(
  bytes: Uint8Array,
  recode: (picture: WebpPicture, bytes: Uint8Array) => Promise<Uint8Array>,
): Promise<Uint8Array> {
  const gray = async (chunks: Chunk[]): Promise<Chunk[]> => {
    const picture = readPicture(chunks)!;
    const still = await recode(picture, stillOf(picture));
    return fileChunks(still).filter(({ type }) => PICTURE.test(type));
  };
  const chunks = fileChunks(bytes), out: Chunk[] = [];
  const isAnimated = chunks.some(({ type }) => type === "ANMF");
  let isDone = isAnimated;
  for (const { type, data } of chunks) {
    if (type === "VP8X") {
      const flags = data[0] & ~HAS_PROFILE;
      out.push({ type, data: joined([[flags], data.subarray(1)]) });
    } else if (type === "ANMF") {
      const frame = await gray(chunksOf(data.subarray(FRAME_HEADER)));
      const head = data.subarray(0, FRAME_HEADER);
      out.push({ type, data: joined([head, ...frame.flatMap(partsOf)]) });
    } else if (PICTURE.test(type)) {
      if (!isDone) out.push(...await gray(chunks));
      isDone = true;
    } else if (type !== "ICCP") out.push({ type, data });
  }
  return riffOf(out);
}

/** The chunks of a file; what stands behind them is none of it. */
function fileChunks(bytes: Uint8Array): Chunk[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const end = 8 + view.getUint32(4, true);
  if (end > bytes.length) throw new RangeError();
  return chunksOf(bytes.subarray(12, end));
}

function chunksOf(data: Uint8Array): Chunk[] {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const chunks: Chunk[] = [];
  for (let at = 0, size; at < data.length; at += 8 + size + (size & 1)) {
    const type = String.fromCharCode(...data.subarray(at, at + 4));
    size = view.getUint32(at + 4, true);
    if (at + 8 + size > data.length) throw new RangeError();
    chunks.push({ type, data: data.subarray(at + 8, at + 8 + size) });
  }
  return chunks;
}

/** The picture among some chunks, with its size; undefined if there is none. */
function readPicture(chunks: Chunk[]): Picture | undefined {
  const picture = chunks.find(({ type }) => /^VP8[ L]$/.test(type));
  if (!picture) return;
  const { type, data } = picture, lossless = type === "VP8L";
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const alpha = chunks.find(({ type }) => type === "ALPH");
  const own = alpha && !lossless ? [alpha, picture] : [picture];
  if (lossless) {
    const sizes = view.getUint32(1, true);
    const width = (sizes & 0x3fff) + 1, height = (sizes >> 14 & 0x3fff) + 1;
    return { chunks: own, width, height, lossless };
  }
  const width = view.getUint16(6, true) & 0x3fff;
  const height = view.getUint16(8, true) & 0x3fff;
  return { chunks: own, width, height, lossless };
}

/** 2.7.1.1: a frame lies inside of the canvas, and its picture has its size. */
function readFrame(
  data: Uint8Array,
  canvas: { width: number; height: number },
): Picture {
  if (data.length < FRAME_HEADER) throw new RangeError();
  const picture = readPicture(chunksOf(data.subarray(FRAME_HEADER)));
  if (!picture) throw new Error("broken WebP: frame without a picture");
  const [left, top] = [2 * u24(data, 0), 2 * u24(data, 3)];
  const { width, height } = picture;
  if (width !== u24(data, 6) + 1 || height !== u24(data, 9) + 1) {
    throw new Error("broken WebP: frame of another size than its picture");
  }
  if (left + width > canvas.width || top + height > canvas.height) {
    throw new Error("broken WebP: frame outside of the canvas");
  }
  return picture;
}

/** A still WebP; one with ALPH must say so in a VP8X. */
function stillOf({ chunks, width, height }: Picture): Uint8Array {
  if (chunks.length === 1) return riffOf(chunks);
  const size = [width - 1, height - 1].flatMap((n) => le32(n).slice(0, 3));
  const data = Uint8Array.of(0x10, 0, 0, 0, ...size);
  return riffOf([{ type: "VP8X", data }, ...chunks]);
}

/** A chunk's type, size, data, and a byte that makes its size even. */
const partsOf = ({ type, data }: Chunk): ArrayLike<number>[] => [
  [...type].map((letter) => letter.charCodeAt(0)),
  le32(data.length),
  data,
  data.length & 1 ? [0] : [],
];

function riffOf(chunks: Chunk[]): Uint8Array {
  const body = joined([
    ...[..."WEBP"].map((letter) => [letter.charCodeAt(0)]),
    ...chunks.flatMap(partsOf),
  ]);
  return joined(partsOf({ type: "RIFF", data: body }));
}
