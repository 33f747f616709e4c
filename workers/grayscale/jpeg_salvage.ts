/**
 * Makes gray what is there of a JPEG that is damaged or ends too early. Whole scans
 * are kept as they are coded; else the codec decodes what it can, and it is coded
 * anew.
 *
 * @module
 */

import { joined } from "../shared/memory.ts";
import { decodeGray, encodeGray } from "./codec.ts";
import { type Header, missingRows } from "./formats.ts";
import { grayJpegParts, withSegmentsOf } from "./jpeg.ts";

/** A marker that is behind a whole segment or scan. */
interface Place {
  marker: number;
  at: number;
}

const SOI = 0xd8, EOI = 0xd9, SOS = 0xda, PROGRESSIVE = 0xc2, ARITHMETIC = 0xc9;
/** What stands for a pixel that is missing. */
const MIDDLE = 128;

/**
 * Makes gray what is there of a JPEG.
 *
 * @param bytes A whole file; it is not changed
 * @param error Why it is not converted
 * @param header What its frame header says
 * @param warn Called with one line that says how many rows are there
 * @returns The parts of a whole file
 * @throws {Error} If nothing is there: `error`, or why the codec cannot read it
 */
export async function salvageJpeg(
  bytes: Uint8Array,
  error: Error,
  { width, height }: Header,
  warn: (cause: string) => void,
): Promise<Uint8Array[]> {
  const places = placesOf(bytes);
  const frame = places.find(({ marker }) => isFrame(marker));
  if (!frame) throw error;
  const isProgressive = (frame.marker & 3) === (PROGRESSIVE & 3);
  const isArithmetic = frame.marker >= ARITHMETIC;
  // Zeros at the end of arithmetic coding need not be there, so that scan may be whole.
  const whole = isArithmetic && !isProgressive
    ? undefined
    : wholeScans(bytes, places, isProgressive);
  if (whole) {
    warn(missingRows(height, height, error.message));
    return whole;
  }
  const image = await decodeGray("JPEG", { width, height }, bytes, {
    isTolerant: true,
  });
  const isKnown = grayJpegKnows(bytes);
  const real = isKnown && (isArithmetic || !isProgressive)
    ? rowsOf(bytes, frame.at, height, isArithmetic)
    : isArithmetic
    ? 0 // what the codec makes of the missing data is not gray
    : rowsAboveGray(image.gray, width, height);
  if (!real || image.width !== width || image.height !== height) throw error;
  image.gray.fill(MIDDLE, real * width);
  // Damage inside of arithmetic coding changes all that follows, and shows late.
  const isDoubtful = isArithmetic &&
    !/ too early | no end /.test(error.message);
  warn(
    isDoubtful
      ? `doubtful pixels: ${real} of ${height} rows are there, the others are gray ` +
        `(${error.message})`
      : missingRows(real, height, error.message),
  );
  return withSegmentsOf(bytes, await encodeGray("JPEG", image));
}

const isFrame = (marker: number): boolean =>
  marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);

/** Whether jpeg.ts reads it, as far as it is there. */
function grayJpegKnows(bytes: Uint8Array): boolean {
  try {
    return grayJpegParts(bytes) !== undefined;
  } catch {
    return true; // what is left to the codec throws nothing
  }
}

/** The markers of a file, as far as they follow one another. */
function placesOf(bytes: Uint8Array): Place[] {
  const places: Place[] = [];
  for (let at = 2; at + 3 < bytes.length;) {
    const marker = bytes[at + 1];
    if (bytes[at] !== 0xff || marker < 0xc0 || marker === 0xff) {
      at++; // data, or fill bytes
      continue;
    }
    if (marker === EOI) break;
    if (marker !== SOI && (marker & 0xf8) !== 0xd0) places.push({ marker, at });
    const hasLength = marker !== SOI && (marker & 0xf8) !== 0xd0;
    at += hasLength ? 2 + (bytes[at + 2] << 8 | bytes[at + 3]) : 2;
  }
  return places;
}

const ended = (bytes: Uint8Array): Uint8Array => joined([bytes, [0xff, EOI]]);

/**
 * The luma of the scans that are whole; the last ones of a progressive file only make
 * it sharper. Undefined if pixels are missing.
 */
function wholeScans(
  bytes: Uint8Array,
  places: Place[],
  isProgressive: boolean,
): Uint8Array[] | undefined {
  const scans = places.filter(({ marker }) => marker === SOS).slice(1)
    .map(({ at }) => at);
  const cuts = [bytes.length, ...isProgressive ? scans.reverse() : []];
  for (const cut of cuts) {
    try {
      const parts = grayJpegParts(ended(bytes.subarray(0, cut)));
      if (parts) return [joined(parts)];
    } catch {
      // That scan is not whole, either.
    }
  }
}

/**
 * How many rows of a JPEG of one scan are there: the height that the file must declare
 * so that its data are enough. Arithmetic coding can always go on with zeros; what is
 * certain is only that of which the data have more than enough.
 */
function rowsOf(
  bytes: Uint8Array,
  frame: number,
  height: number,
  isArithmetic: boolean,
): number {
  const copy = ended(bytes);
  const isEnough = (rows: number): boolean => {
    copy.set([rows >> 8, rows & 255], frame + 5);
    let isMore = false; // behind a restart marker
    const warn = () => void (isMore = true);
    try {
      const parts = grayJpegParts(copy, () => {}, warn);
      return parts !== undefined && (isMore || !isArithmetic);
    } catch (error) {
      return /: data after the end of a scan/.test((error as Error).message);
    }
  };
  const unit = 8 * Math.max(...samplingOf(bytes, frame));
  let least = 0, most = Math.floor(height / unit);
  while (least < most) {
    const middle = Math.ceil((least + most) / 2);
    if (isEnough(middle * unit)) least = middle;
    else most = middle - 1;
  }
  return least * unit;
}

/** The vertical sampling factors. */
const samplingOf = (bytes: Uint8Array, frame: number): number[] =>
  Array.from(
    { length: bytes[frame + 9] },
    (_, i) => bytes[frame + 11 + 3 * i] & 15,
  );

/** The rows above those at the bottom that the codec has filled with one value. */
function rowsAboveGray(gray: Uint8Array, width: number, height: number) {
  let end = width * height;
  while (end && gray[end - 1] === gray[gray.length - 1]) end--;
  return Math.floor(end / width);
}
