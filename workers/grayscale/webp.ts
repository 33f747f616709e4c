/**
 * Makes a WebP gray, still or animated. Each picture of it is given to the codec as
 * a still WebP; all that stands around the pictures stays as it is: places, times,
 * blending and disposal of frames, loops, EXIF, XMP. Sections are those of RFC 9649.
 *
 * @module
 */

import { joined } from "../shared/memory.ts";
import { decodeGray, encodeGray, recode } from "./codec.ts";
import { type ConvertOptions, missingRows, readWhole } from "./formats.ts";

/** 2.3: a chunk. */
interface Chunk {
  type: string;
  data: Uint8Array;
  /** How many bytes are missing at its end. */
  missing?: number;
}

/** A picture, and what its header says. */
interface Picture {
  width: number;
  height: number;
  lossless: boolean;
  /** ALPH, if there is one, and VP8 or VP8L. */
  chunks: Chunk[];
}

/** The bytes of an ANMF before its picture: place, size, time and flags. */
const FRAME_HEADER = 16;
/** What stands for bytes that are missing; the codec refuses runs of ones. */
const FILLS = [0, 0x55, 0xaa];

/** The chunks of a picture. */
const PICTURE = /^(ALPH|VP8[ L])$/;
/** 2.7: the flag of VP8X for a color profile. */
const HAS_PROFILE = 0x20;

const u24 = (data: Uint8Array, at: number): number =>
  data[at] | data[at + 1] << 8 | data[at + 2] << 16;

const le32 = (value: number): number[] =>
  [0, 8, 16, 24].map((shift) => value >>> shift & 255);

/**
 * Makes a WebP gray.
 *
 * @param bytes A whole file; it is not changed
 * @param options How to convert it
 * @param quality From 1 to 100; default: without loss if it was, else 85
 * @returns The parts of a whole file
 * @throws {Error} If it is broken or truncated, or the codec cannot read it
 */
export async function grayWebpParts(
  bytes: Uint8Array,
  options: ConvertOptions,
  quality?: number,
): Promise<Uint8Array[]> {
  try {
    const chunks = readWhole("WEBP", () => {
      const chunks = fileChunks(bytes);
      checkPictures(chunks, options);
      return chunks;
    });
    const how = quality === undefined ? {} : { quality, lossless: false };
    return [
      await convert(
        chunks,
        (picture) => recode("WEBP", { ...picture, ...how }, stillOf(picture)),
      ),
    ];
  } catch (error) {
    if (!options.salvage) throw error;
    return [await salvage(bytes, error as Error, options)];
  }
}

/**
 * Checks a WebP that is not made gray here.
 *
 * @param bytes A whole file
 * @param options Who is told its size, and how many pictures there are
 * @throws {Error} If it is truncated, or its picture is a part of it only, which the
 * codec takes for the whole
 */
export function checkWebp(bytes: Uint8Array, options: ConvertOptions): void {
  readWhole("WEBP", () => {
    const chunks = fileChunks(bytes);
    checkPictures(chunks, options);
    const canvas = chunks.find(({ type }) => type === "VP8X")?.data;
    const [frame, ...others] = chunks.filter(({ type }) => type === "ANMF");
    if (!canvas || !frame || others.length > 0) return;
    // Both have their size, less one, in two numbers of 24 bits.
    if ([0, 3].every((i) => u24(canvas, 4 + i) === u24(frame.data, 6 + i))) {
      return;
    }
    throw new Error("unsupported WebP: its frame is smaller than its canvas");
  });
}

/** Checks the sizes of the canvas and of all pictures. */
function checkPictures(chunks: Chunk[], { checkHeader }: ConvertOptions): void {
  const canvas = chunks.find(({ type }) => type === "VP8X")?.data;
  if (canvas && canvas.length < 10) throw new RangeError();
  const header = {
    width: canvas ? u24(canvas, 4) + 1 : 0,
    height: canvas ? u24(canvas, 7) + 1 : 0,
  };
  const pictures = chunks.filter(({ type }) => type === "ANMF")
    .map((frame) => readFrame(frame, header));
  const still = pictures.length ? undefined : readPicture(chunks);
  if (still) {
    pictures.push(still);
    header.width = Math.max(header.width, still.width);
    header.height = Math.max(header.height, still.height);
  }
  checkHeader({ ...header, frames: pictures.length });
}

/** Converts each picture; of it `gray` makes a still WebP, or nothing. */
async function convert(
  chunks: Chunk[],
  gray: (picture: Picture) => Promise<Uint8Array | undefined>,
): Promise<Uint8Array> {
  const out: Chunk[] = [];
  const coded = async (chunks: Chunk[]): Promise<Chunk[]> => {
    const still = await gray(readPicture(chunks)!);
    const all = still ? fileChunks(still) : [];
    return all.filter(({ type }) => PICTURE.test(type));
  };
  let isDone = chunks.some(({ type }) => type === "ANMF");
  for (const chunk of chunks) {
    const { type, data } = chunk;
    if (type === "VP8X") {
      const flags = data[0] & ~HAS_PROFILE;
      out.push({ type, data: joined([[flags], data.subarray(1)]) });
    } else if (type === "ANMF") {
      const frame = await coded(frameChunks(chunk));
      const head = data.subarray(0, FRAME_HEADER);
      if (!frame.length) continue;
      out.push({ type, data: joined([head, ...frame.flatMap(partsOf)]) });
    } else if (PICTURE.test(type)) {
      if (!isDone) out.push(...await coded(chunks));
      isDone = true;
    } else if (type !== "ICCP") out.push({ type, data });
  }
  return riffOf(out);
}

/**
 * Makes gray what is there of a file that ends too early. The last picture is
 * decoded with several bytes in the place of what is missing: the rows that are
 * always the same are there.
 */
async function salvage(
  bytes: Uint8Array,
  error: Error,
  options: ConvertOptions,
): Promise<Uint8Array> {
  let chunks: Chunk[];
  try {
    chunks = fileChunks(bytes, true).filter((chunk) =>
      chunk.type !== "ANMF" || hasPicture(frameChunks(chunk))
    );
    if (!chunks.at(-1)?.missing) throw error;
    checkPictures(chunks, options);
  } catch (cause) {
    throw cause instanceof RangeError ? error : cause; // damaged before its end
  }
  const rows = { real: 0, all: 0 };
  const out = await convert(chunks, async (picture) => {
    const { height } = picture;
    rows.all += height;
    if (!picture.chunks.some(({ missing }) => missing)) {
      rows.real += height;
      return await recode("WEBP", picture, stillOf(picture));
    }
    const { still, real } = await salvagePicture(picture);
    rows.real += real;
    return still;
  });
  if (!rows.real) throw error;
  options.warn(missingRows(rows.real, rows.all, error.message));
  return out;
}

async function salvagePicture(
  picture: Picture,
): Promise<{ still?: Uint8Array; real: number }> {
  const { width, height, lossless } = picture;
  try {
    const image = await decodeGray("WEBP", picture, stillOf(picture, FILLS[0]));
    const { gray, alpha } = image, step = alpha ? 2 : 1, size = width * step;
    let real = height;
    for (const fill of FILLS.slice(1)) {
      const other = await decodeGray("WEBP", picture, stillOf(picture, fill));
      if (other.gray.length !== gray.length) return { real: 0 };
      const far = gray.findIndex((value, i) => value !== other.gray[i]);
      if (far >= 0) real = Math.min(real, Math.floor(far / size));
    }
    for (let i = real * size; i < gray.length; i += step) {
      gray[i] = 128;
      if (alpha) gray[i + 1] = 255;
    }
    return { still: await encodeGray("WEBP", image, { lossless }), real };
  } catch {
    return { real: 0 }; // too little of it is there to decode anything
  }
}

const hasPicture = (chunks: Chunk[]): boolean => {
  const picture = chunks.find(({ type }) => /^VP8[ L]$/.test(type));
  return picture !== undefined && picture.data.length >= 10;
};

const frameChunks = ({ data, missing }: Chunk): Chunk[] =>
  chunksOf(data.subarray(FRAME_HEADER), missing !== undefined);

/** The chunks of a file; what stands behind them is none of it. */
function fileChunks(bytes: Uint8Array, mayBeCut = false): Chunk[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const end = 8 + view.getUint32(4, true);
  if (end > bytes.length && !mayBeCut) throw new RangeError();
  return chunksOf(bytes.subarray(12, end), mayBeCut);
}

function chunksOf(data: Uint8Array, mayBeCut = false): Chunk[] {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const chunks: Chunk[] = [];
  for (let at = 0, size; at < data.length; at += 8 + size + (size & 1)) {
    if (mayBeCut && at + 8 > data.length) break;
    const type = String.fromCharCode(...data.subarray(at, at + 4));
    size = view.getUint32(at + 4, true);
    const chunk = { type, data: data.subarray(at + 8, at + 8 + size) };
    const missing = size - chunk.data.length;
    if (missing && !mayBeCut) throw new RangeError();
    chunks.push(missing ? { ...chunk, missing } : chunk);
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
  frame: Chunk,
  canvas: { width: number; height: number },
): Picture {
  const { data } = frame;
  if (data.length < FRAME_HEADER) throw new RangeError();
  const picture = readPicture(frameChunks(frame));
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

/**
 * A still WebP; one with ALPH must say so in a VP8X. Where bytes are missing, `fill`
 * stands, and as often behind them that the codec does not meet the end.
 */
function stillOf({ chunks, width, height }: Picture, fill = 0): Uint8Array {
  const room = width * height + 4096;
  const whole = chunks.map(({ type, data, missing = 0 }) => ({
    type,
    data: missing
      ? joined([
        data,
        // What a damaged chunk lacks may be gigabytes, but no pixel takes so much.
        new Uint8Array(Math.min(missing, 8 * width * height) + room).fill(fill),
      ])
      : data,
  }));
  if (chunks.length === 1) return riffOf(whole);
  const size = [width - 1, height - 1].flatMap((n) => le32(n).slice(0, 3));
  const data = Uint8Array.of(0x10, 0, 0, 0, ...size);
  return riffOf([{ type: "VP8X", data }, ...whole]);
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
