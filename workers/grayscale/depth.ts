/**
 * How many bits the samples of HEIC and JPEG XL have, which the codec cuts to 8.
 *
 * @module
 */

import { boxesIn } from "./avif.ts";
import type { OtherFormat } from "./formats.ts";

/**
 * Reads how deep an image is.
 *
 * @param format What it is
 * @param bytes A whole file
 * @returns Bits of a sample; 8 if the file does not say, or is broken there
 */
export function depthOf(format: OtherFormat, bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  try {
    return format === "HEIC" ? depthOfHeic(view) : depthOfJxl(bytes, view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return 8; // the codec will say what is wrong
  }
}

/** ISO/IEC 14496-15: `hvcC`, of the deepest of its pictures. */
function depthOfHeic(view: DataView): number {
  const inside = (type: string, at: number, end: number, skipped = 0) => {
    const box = boxesIn(view, at, end).find((box) => box.type === type);
    if (!box) throw new RangeError();
    return [box.body + skipped, box.end] as const;
  };
  const meta = inside("meta", 0, view.byteLength, 4);
  const properties = inside("ipco", ...inside("iprp", ...meta));
  const depths = boxesIn(view, ...properties)
    .filter(({ type }) => type === "hvcC")
    .map(({ body }) => 8 + (view.getUint8(body + 17) & 7));
  return Math.max(8, ...depths);
}

/** ISO/IEC 18181-2: the code stream is the file, or in a box, or in several. */
function depthOfJxl(bytes: Uint8Array, view: DataView): number {
  if (bytes[0] === 0xff) return depthOfStream(bytes.subarray(2));
  const box = boxesIn(view, 0, bytes.length)
    .find(({ type }) => type === "jxlc" || type === "jxlp");
  if (!box) return 8;
  const start = box.body + (box.type === "jxlp" ? 4 : 0) + 2;
  return depthOfStream(bytes.subarray(start, box.end));
}

/** ISO/IEC 18181-1, annex D: the headers up to the depth. */
function depthOfStream(data: Uint8Array): number {
  const bits = new Bits(data);
  const skipSize = () => {
    const isSmall = bits.read(1);
    const skip = () => isSmall ? bits.read(5) : bits.choose(9, 13, 18, 30);
    skip();
    if (!bits.read(3)) skip(); // the width has no simple ratio to the height
  };
  const skipPreview = () => {
    const isSmall = bits.read(1);
    const skip = () =>
      isSmall ? bits.choose(0, 0, 5, 9) : bits.choose(6, 8, 10, 12);
    skip();
    if (!bits.read(3)) skip();
  };
  skipSize();
  if (bits.read(1)) return 8; // all is as usual
  if (bits.read(1)) {
    bits.read(3); // the orientation
    if (bits.read(1)) skipSize();
    if (bits.read(1)) skipPreview();
    if (bits.read(1)) { // an animation
      bits.choose(0, 0, 10, 30);
      bits.choose(0, 0, 8, 10);
      bits.choose(0, 3, 16, 32);
      bits.read(1);
    }
  }
  const isFloat = bits.read(1);
  const [kind, more] = bits.choose(0, 0, 0, 6);
  return kind === 3 ? 1 + more : (isFloat ? [32, 16, 24] : [8, 10, 12])[kind];
}

/** Bits, the lowest of each byte first. */
class Bits {
  readonly #data: Uint8Array;
  #at = 0;

  constructor(data: Uint8Array) {
    this.#data = data;
  }

  read(count: number): number {
    let value = 0;
    for (let i = 0; i < count; i++, this.#at++) {
      const byte = this.#data[this.#at >> 3];
      if (byte === undefined) throw new RangeError();
      value += (byte >> (this.#at & 7) & 1) * 2 ** i;
    }
    return value;
  }

  /** Reads which of four sizes a number has, and the number. */
  choose(...sizes: number[]): [kind: number, value: number] {
    const kind = this.read(2);
    return [kind, this.read(sizes[kind])];
  }
}
