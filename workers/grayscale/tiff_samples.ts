/**
 * What the samples of a TIFF mean, by its photometric interpretation (TIFF 6.0,
 * sections 4 to 6, 16, 18, 20, 21 and 23), and the gray that they are.
 *
 * @module
 */

import { luma } from "../kernels/luma.ts";

/** Whole or floating-point numbers. */
export type Samples =
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | Int8Array
  | Int16Array
  | Int32Array
  | Float16Array
  | Float32Array
  | Float64Array;

/** The values of the field SampleFormat. */
export const UNSIGNED = 1, SIGNED = 2, FLOAT = 3;
/** Of the field PhotometricInterpretation. */
export const WHITE_IS_ZERO = 0, BLACK_IS_ZERO = 1, RGB = 2, PALETTE = 3;
/** More of them. */
export const MASK = 4, CMYK = 5, YCBCR = 6, CIE_LAB = 8, ICC_LAB = 9;

/** How many samples of a pixel are color. */
export const COLORS: Record<number, number> = {
  ...{ [WHITE_IS_ZERO]: 1, [BLACK_IS_ZERO]: 1, [RGB]: 3, [PALETTE]: 1 },
  ...{ [MASK]: 1, [CMYK]: 4, [YCBCR]: 3, [CIE_LAB]: 3, [ICC_LAB]: 3 },
};

/** What must be known of a page to understand its samples. */
export interface Meaning {
  /** What the samples stand for. */
  photometric: number;
  /** Bits of a sample. */
  bits: number;
  /** Whether samples are unsigned, signed, or floating-point numbers. */
  format: number;
  /** Samples of a pixel. */
  channels: number;
  /** Which samples of a pixel are beside the colors: 1 and 2 are alpha. */
  extras: number[];
  /** The values of the color table: all reds, all greens, all blues. */
  palette: number[];
  /** Of YCbCr: black and white of each channel. */
  range: number[];
  /** Of YCbCr: the weights of red, green, blue. */
  weights: number[];
}

/** The bits of a sample of the result: the next of 8, 16 and 32. */
export const outBits = (bits: number, format: number): number =>
  format === FLOAT ? bits : bits <= 8 ? 8 : bits <= 16 ? 16 : 32;

/** An array for samples; undefined if there is none for them. */
export function samplesOf(
  bits: number,
  format: number,
  count: number,
): Samples | undefined {
  const kinds = {
    [UNSIGNED]: { 8: Uint8Array, 16: Uint16Array, 32: Uint32Array },
    [SIGNED]: { 8: Int8Array, 16: Int16Array, 32: Int32Array },
    [FLOAT]: { 16: Float16Array, 32: Float32Array, 64: Float64Array },
  }[format] as Record<number, new (count: number) => Samples> | undefined;
  const Kind = kinds?.[bits];
  return Kind && new Kind(count);
}

/** Samples of any number of bits, the first in the highest ones, row by row. */
export function unpackBits(
  data: Uint8Array,
  bits: number,
  rowLength: number,
  rows: number,
): Samples {
  const out = samplesOf(outBits(bits, UNSIGNED), UNSIGNED, rows * rowLength)!;
  const rowSize = Math.ceil(rowLength * bits / 8), mask = 2 ** bits - 1;
  for (let y = 0, o = 0; y < rows; y++) {
    let at = y * rowSize, held = 0, word = 0;
    for (let x = 0; x < rowLength; x++) {
      while (held < bits) { // in doubles, which hold 53 bits
        word = word * 256 + (data[at++] ?? 0);
        held += 8;
      }
      held -= bits;
      const value = Math.floor(word / 2 ** held);
      out[o++] = value % (mask + 1);
      word -= value * 2 ** held;
    }
  }
  return out;
}

/**
 * Makes gray of the samples of some pixels. Extra samples follow it as they are; but
 * whole numbers that were multiplied by alpha are divided by it.
 *
 * @param planes All samples, pixel by pixel; or those of each channel by itself
 * @param meaning What they mean
 * @param count How many pixels there are
 */
export function grayOf(
  planes: Samples[],
  meaning: Meaning,
  count: number,
): Samples {
  const { bits, format, channels, extras, photometric } = meaning;
  const size = outBits(bits, format), most = mostOf(size, format);
  const colors = COLORS[photometric];
  const pick = (i: number, isIndex = false): Samples => {
    const [data, first, step] = planes.length > 1
      ? [planes[i], 0, 1]
      : [planes[0], i, channels];
    const out = samplesOf(size, format, count)!;
    const scale = isIndex || bits === size ? 1 : most / (2 ** bits - 1);
    if (scale === 1) {
      for (let p = 0, at = first; p < count; p++, at += step) out[p] = data[at];
    } else {
      for (let p = 0, at = first; p < count; p++, at += step) {
        out[p] = Math.round(data[at] * scale);
      }
    }
    return out;
  };
  const inks = Array.from(
    { length: colors },
    (_, i) => pick(i, photometric === PALETTE),
  );
  const others = extras.map((_, i) => pick(colors + i));
  const alpha = others[dividingAlpha(meaning)];
  if (alpha) { for (const ink of inks) divide(ink, alpha, most); }
  const gray = GRAYS[photometric]?.(inks, meaning, most) ?? inks[0];
  if (!others.length) return gray;
  const step = 1 + others.length, out = samplesOf(size, format, count * step)!;
  for (const [k, plane] of [gray, ...others].entries()) {
    for (let p = 0, o = k; p < count; p++, o += step) out[o] = plane[p];
  }
  return out;
}

/** Which extra sample colors are divided by; -1 if they are not. */
export const dividingAlpha = ({ format, extras }: Meaning): number =>
  format === FLOAT ? -1 : extras.indexOf(1);

const mostOf = (bits: number, format: number): number =>
  format === FLOAT ? 1 : 2 ** (format === SIGNED ? bits - 1 : bits) - 1;

function divide(ink: Samples, alpha: Samples, most: number): void {
  for (let i = 0; i < ink.length; i++) {
    ink[i] = alpha[i]
      ? Math.min(most, Math.round(ink[i] * most / alpha[i]))
      : 0;
  }
}

/** How gray is made of the inks; what is gray already stays. */
const GRAYS: Record<
  number,
  (inks: Samples[], meaning: Meaning, most: number) => Samples
> = {
  [RGB]: lumaOfRgb,
  [PALETTE]: lumaOfPalette,
  [CMYK]: lumaOfInks,
  [YCBCR]: lumaOfYcc,
  [CIE_LAB]: lumaOfLab,
  [ICC_LAB]: lumaOfLab,
};

/** The luma takes the place of red. */
function lumaOfRgb([red, green, blue]: Samples[], { format }: Meaning) {
  const isFloat = format === FLOAT, half = isFloat ? 0 : 0.5;
  for (let i = 0; i < red.length; i++) {
    const sum = 19595 * red[i] + 38470 * green[i] + 7471 * blue[i];
    red[i] = isFloat ? sum / 65536 : Math.floor(sum / 65536 + half);
  }
  return red;
}

function lumaOfPalette([index]: Samples[], { bits, palette }: Meaning) {
  const colors = 2 ** bits;
  // As libtiff has it: some files have values of 8 bits.
  const isSmall = palette.every((value) => value < 256);
  const shift = bits > 8 || isSmall ? 0 : 8,
    raise = bits > 8 && isSmall ? 257 : 1;
  const grays = Uint16Array.from(
    { length: colors },
    (_, i) => {
      const [r, g, b] = [i, colors + i, 2 * colors + i].map((k) =>
        palette[k] >> shift
      );
      return luma(r, g, b) * raise;
    },
  );
  for (let i = 0; i < index.length; i++) index[i] = grays[index[i]];
  return index;
}

/** Section 16, the way that Pillow has it. */
function lumaOfInks([c, m, y, k]: Samples[], _: Meaning, most: number) {
  const half = (most - 1) / 2;
  const light = (ink: number, black: number) =>
    Math.floor(((most - ink) * (most - black) + half) / most);
  for (let i = 0; i < c.length; i++) {
    const [red, green, blue] = [c[i], m[i], y[i]];
    c[i] = Math.floor(
      (19595 * light(red, k[i]) + 38470 * light(green, k[i]) +
        7471 * light(blue, k[i]) + 32768) / 65536,
    );
  }
  return c;
}

/** Sections 20 and 21. */
function lumaOfYcc([y, cb, cr]: Samples[], { range, weights }: Meaning) {
  const [r, g, b] = weights, [black, white, zero, top, redZero, redTop] = range;
  const clamp = (value: number) => Math.max(0, Math.min(255, value + 0.5)) | 0;
  // As libtiff has it, a range of nothing is taken for one level.
  const level = 255 / (white - black || 1), blueScale = 127 / (top - zero || 1);
  const redScale = 127 / (redTop - redZero || 1);
  for (let i = 0; i < y.length; i++) {
    const light = (y[i] - black) * level;
    const fromBlue = (cb[i] - zero) * blueScale;
    const fromRed = (cr[i] - redZero) * redScale;
    const red = light + (2 - 2 * r) * fromRed;
    const blue = light + (2 - 2 * b) * fromBlue;
    const green = (light - r * red - b * blue) / g;
    y[i] = luma(clamp(red), clamp(green), clamp(blue));
  }
  return y;
}

/** From XYZ at D50 to linear sRGB (IEC 61966-2-1, adapted by Bradford). */
const TO_SRGB = [
  [3.1338561, -1.6168667, -0.4906146],
  [-0.9787684, 1.9161415, 0.033454],
  [0.0719453, -0.2289914, 1.4052427],
];
const D50 = [0.9642, 1, 0.8249];

/** Section 23: CIE L*a*b*, whose white is taken for D50, as Photoshop writes it. */
function lumaOfLab([l, a, b]: Samples[], meaning: Meaning, most: number) {
  const { photometric } = meaning, isIcc = photometric === ICC_LAB;
  const unit = most === 255 ? 1 : 256, range = unit * 256;
  const hundred = isIcc && unit > 1 ? 0xff00 : most;
  const signed = (value: number) =>
    (isIcc ? value - range / 2 : value >= range / 2 ? value - range : value) /
    unit;
  const cubed = (t: number) =>
    t > 6 / 29 ? t ** 3 : 3 * (6 / 29) ** 2 * (t - 4 / 29);
  const gamma = (v: number) => {
    const c = Math.max(0, Math.min(1, v));
    return most * (c > 0.0031308 ? 1.055 * c ** (1 / 2.4) - 0.055 : 12.92 * c);
  };
  for (let i = 0; i < l.length; i++) {
    const fy = (100 * l[i] / hundred + 16) / 116;
    const fx = fy + signed(a[i]) / 500, fz = fy - signed(b[i]) / 200;
    const xyz = [fx, fy, fz].map((f, k) => D50[k] * cubed(f));
    const [red, green, blue] = TO_SRGB.map((row) =>
      Math.round(gamma(row[0] * xyz[0] + row[1] * xyz[1] + row[2] * xyz[2]))
    );
    l[i] = Math.floor(
      (19595 * red + 38470 * green + 7471 * blue + 32768) / 65536,
    );
  }
  return l;
}
