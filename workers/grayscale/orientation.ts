/**
 * How metadata say that a picture is turned: EXIF (tag 274), and XMP, as Pillow's
 * `ImageOps.exif_transpose` obeys them.
 *
 * @module
 */

/** Upright, by the numbers of EXIF. */
export const UPRIGHT = 1;

/** `tiff:Orientation` as an attribute or as an element; the digit is the last byte. */
const IN_XMP = /tiff:Orientation(?:="|>)[0-9]/g;
const LATIN1 = new TextDecoder("latin1");

/**
 * Reads the orientation in EXIF.
 *
 * @param exif The data, perhaps behind "Exif\0\0"
 * @returns The number; undefined if there is none, or they are damaged
 */
export function orientationOfExif(
  exif: Uint8Array | undefined,
): number | undefined {
  const place = exif && placeOf(exif);
  return place && place.view.getUint16(place.at, place.isLittle);
}

/**
 * Reads the orientation in XMP.
 *
 * @param xmp The data
 * @returns The number; undefined if there is none
 */
export function orientationOfXmp(
  xmp: Uint8Array | undefined,
): number | undefined {
  const [found] = xmp ? LATIN1.decode(xmp).match(IN_XMP) ?? [] : [];
  return found === undefined ? undefined : Number(found.at(-1));
}

/**
 * Has metadata say that the picture is upright, where they say anything of that.
 *
 * @param data EXIF or XMP; they are not changed
 * @returns A copy of the same length
 */
export function upright(data: Uint8Array): Uint8Array {
  const copy = new Uint8Array(data);
  const place = placeOf(copy);
  if (place) place.view.setUint16(place.at, UPRIGHT, place.isLittle);
  else {
    for (const { index, 0: found } of LATIN1.decode(data).matchAll(IN_XMP)) {
      copy[index + found.length - 1] = 0x30 + UPRIGHT;
    }
  }
  return copy;
}

/**
 * EXIF as most formats have them: without what is in front of them in JPEG.
 *
 * @param exif The data, perhaps behind "Exif\0\0"
 * @returns A part of them
 */
export const withoutHeader = (exif: Uint8Array): Uint8Array =>
  exif[0] === 0x45 ? exif.subarray(6) : exif;

/** Where the orientation is in EXIF. */
function placeOf(
  data: Uint8Array,
): { view: DataView; at: number; isLittle: boolean } | undefined {
  const start = data.length - withoutHeader(data).length;
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const isLittle = data[start] === 0x49;
  if (!isLittle && data[start] !== 0x4d) return; // XMP, or nothing
  try {
    const at = start + view.getUint32(start + 4, isLittle);
    const end = at + 2 + 12 * view.getUint16(at, isLittle);
    for (let entry = at + 2; entry < end; entry += 12) {
      const tag = view.getUint16(entry, isLittle);
      if (tag === 274) return { view, at: entry + 8, isLittle };
    }
  } catch {
    return; // they are damaged, and no reader will find anything there either
  }
}
