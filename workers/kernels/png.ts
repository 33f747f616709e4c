/**
 * Removes the filters of a PNG's rows, computes the luma of its pixels, and applies
 * filters to rows of gray. Clauses are those of PNG, 3rd edition.
 *
 * Rows are worked on in bands. In front of the first row of a band lies the row
 * above it, or zeros. Loads and stores go in steps of up to 16 bytes and may reach
 * 63 bytes behind the end of a row; what is there does not matter.
 */

import { BLUE, GREEN, HALF, RED } from "./luma";

/** 9.2: types of filters. */
const NONE: u32 = 0, SUB: u32 = 1, UP: u32 = 2;
const AVERAGE: u32 = 3, PAETH: u32 = 4;

// Removing filters

/**
 * Removes the filters of rows of `size` bytes, with pixels of 1, 3, 4, 6 or 8
 * bytes. Rows begin every `size + 1` bytes before, and every `stride` bytes after.
 * Returns how many rows are done, which is less than `rows` if a row has an
 * unknown filter.
 */
export function unfilter(
  from: usize,
  size: usize,
  rows: u32,
  to: usize,
  stride: usize,
  pixel: u32,
): u32 {
  for (let y: u32 = 0; y < rows; y++) {
    const filter = <u32> load<u8>(from++), above = to - stride;
    if (filter > PAETH) return y;
    const isTwo = filter == PAETH && pixel >= 3 && pixel <= 4 &&
      y + 1 < rows && load<u8>(from + size) == PAETH;
    // The size of a pixel is a constant in each call, so each has its own loop.
    if (isTwo) {
      if (pixel == 3) undoTwoPaeth(from, above, to, stride, size, 3);
      else undoTwoPaeth(from, above, to, stride, size, 4);
      y++;
      from += size + 1;
      to += stride;
    } else if (filter == NONE) memory.copy(to, from, size);
    else if (filter == UP) undoUp(from, above, to, size);
    else if (pixel == 3) undo(filter, from, above, to, size, 3);
    else if (pixel == 4) undo(filter, from, above, to, size, 4);
    else if (pixel == 1) undo(filter, from, above, to, size, 1);
    else if (pixel == 2) undo(filter, from, above, to, size, 2);
    else if (pixel == 6) undo(filter, from, above, to, size, 6);
    else undo(filter, from, above, to, size, 8);
    from += size;
    to += stride;
  }
  return rows;
}

function undoUp(from: usize, above: usize, to: usize, size: usize): void {
  for (let x: usize = 0; x < size; x += 16) {
    v128.store(to + x, i8x16.add(v128.load(from + x), v128.load(above + x)));
  }
}

/** Works pixel by pixel, since each pixel depends on the one before it. */
@inline
function undo(
  filter: u32,
  from: usize,
  above: usize,
  to: usize,
  size: usize,
  pixel: usize,
): void {
  if (filter == SUB) undoSub(from, to, size, pixel);
  else if (filter == AVERAGE) undoAverage(from, above, to, size, pixel);
  else undoPaeth(from, above, to, size, pixel);
}

@inline
function undoSub(from: usize, to: usize, size: usize, pixel: usize): void {
  let left = i8x16.splat(0);
  for (let x: usize = 0; x < size; x += pixel) {
    left = i8x16.add(left, v128.load64_zero(from + x));
    storePixel(to + x, left, pixel);
  }
}

@inline
function undoAverage(
  from: usize,
  above: usize,
  to: usize,
  size: usize,
  pixel: usize,
): void {
  let left = i8x16.splat(0);
  for (let x: usize = 0; x < size; x += pixel) {
    const up = v128.load64_zero(above + x);
    left = i8x16.add(average(left, up), v128.load64_zero(from + x));
    storePixel(to + x, left, pixel);
  }
}

/** In 16 bits, where each pixel depends on the last by a chain of 6 operations. */
@inline
function undoPaeth(
  from: usize,
  above: usize,
  to: usize,
  size: usize,
  pixel: usize,
): void {
  let left = i16x8.splat(0), corner = i16x8.splat(0);
  for (let x: usize = 0; x < size; x += pixel) {
    const raw = v128.load_ext<u8>(from + x), up = v128.load_ext<u8>(above + x);
    left = paeth(raw, left, up, corner);
    storePixel(to + x, i8x16.narrow_i16x8_u(left, left), pixel);
    corner = up;
  }
}

/** 9.4: adds the Paeth predictor to bytes, which have 16 bits each here. */
@inline
function paeth(raw: v128, left: v128, up: v128, corner: v128): v128 {
  const across = i16x8.sub(up, corner), down = i16x8.sub(left, corner);
  const a = i16x8.abs(across), b = i16x8.abs(down);
  const c = i16x8.abs(i16x8.add(across, down));
  const other = i16x8.relaxed_laneselect(
    i8x16.add(raw, corner),
    i8x16.add(raw, up),
    i16x8.gt_s(b, c),
  );
  const isOther = i16x8.gt_s(a, i16x8.min_s(b, c));
  return i16x8.relaxed_laneselect(other, i8x16.add(raw, left), isOther);
}

/**
 * Two rows at a time, the lower one a pixel behind, so that one chain of operations
 * serves both. Pixels have at most 4 bytes. In front of the lower row and behind
 * the upper one it stores values without meaning. It takes 10 ms instead of 20 for
 * 3.7 million pixels.
 */
@inline
function undoTwoPaeth(
  from: usize,
  above: usize,
  to: usize,
  stride: usize,
  size: usize,
  pixel: usize,
): void {
  const below = from + size + 1 - pixel, toBelow = to + stride - pixel;
  let both = i16x8.splat(0), corner = i16x8.splat(0);
  for (let x: usize = 0; x < size + pixel; x += pixel) {
    const bytes = v128.load32_lane(below + x, v128.load32_zero(from + x), 1);
    const raw = i16x8.extend_low_i8x16_u(bytes);
    const top = v128.load_ext<u8>(above + x);
    const up = v128.shuffle<u64>(top, both, 0, 2);
    both = paeth(raw, both, up, corner);
    if (!x) both = v128.and(both, i64x2(-1, 0));
    const narrow = i8x16.narrow_i16x8_u(both, both);
    v128.store32_lane(to + x, narrow, 0);
    v128.store32_lane(toBelow + x, narrow, 1);
    corner = up;
  }
}

/** Stores 4 or 8 bytes. The next pixel overwrites those that are too many. */
@inline
function storePixel(to: usize, bytes: v128, pixel: usize): void {
  if (pixel <= 4) v128.store32_lane(to, bytes, 0);
  else v128.store64_lane(to, bytes, 0);
}

/** 9.2: rounded down. */
@inline
function average(left: v128, up: v128): v128 {
  const odd = v128.and(v128.xor(left, up), i8x16.splat(1));
  return i8x16.sub(i8x16.avgr_u(left, up), odd);
}

// Luma

/** The value of `clear` if no color is transparent. */
const OPAQUE: u64 = u64.MAX_VALUE;

/**
 * Computes the luma of pixels of 3 or 4 channels of 8 bits. Alpha follows it if
 * there are 4 channels, or if one color is transparent: `clear` has its bytes, red
 * lowest.
 *
 * Here and below, rows of gray are written from `to` on, without gaps: each is a
 * filter byte, which is 0 (none), and `size` bytes.
 */
export function luma8(
  from: usize,
  stride: usize,
  rows: u32,
  width: u32,
  channels: u32,
  clear: u64,
  to: usize,
  size: usize,
): void {
  for (let y: u32 = 0; y < rows; y++) {
    store<u8>(to++, NONE);
    if (channels == 4) rgba8(from, width, to);
    else if (clear != OPAQUE) keyed8(from, width, <u32> clear, to);
    else rgb8(from, width, to);
    from += stride;
    to += size;
  }
}

/** The luma of four pixels, given as pairs of red and green, green and blue. */
@inline
function luma(redGreen: v128, greenBlue: v128): v128 {
  // Green's weight does not fit into 15 bits, so half of it is added twice.
  const half: u32 = GREEN / 2;
  const one = i32x4.dot_i16x8_s(redGreen, i32x4.splat(half << 16 | RED));
  const two = i32x4.dot_i16x8_s(greenBlue, i32x4.splat(BLUE << 16 | half));
  return i32x4.shr_u(
    i32x4.add(i32x4.add(one, two), i32x4.splat(HALF)),
    16,
  );
}

@inline
function lumaOfRgb(pixels: v128): v128 {
  const redGreen = i8x16.relaxed_swizzle(
    pixels,
    i8x16(0, -1, 1, -1, 3, -1, 4, -1, 6, -1, 7, -1, 9, -1, 10, -1),
  );
  const greenBlue = i8x16.relaxed_swizzle(
    pixels,
    i8x16(1, -1, 2, -1, 4, -1, 5, -1, 7, -1, 8, -1, 10, -1, 11, -1),
  );
  return luma(redGreen, greenBlue);
}

function rgb8(from: usize, width: u32, to: usize): void {
  for (const end = to + width; to < end; to += 16) {
    const a = lumaOfRgb(v128.load(from)), b = lumaOfRgb(v128.load(from, 12));
    const c = lumaOfRgb(v128.load(from, 24));
    const d = lumaOfRgb(v128.load(from, 36));
    const low = i16x8.narrow_i32x4_u(a, b), high = i16x8.narrow_i32x4_u(c, d);
    v128.store(to, i8x16.narrow_i16x8_u(low, high));
    from += 48;
  }
}

/** With alpha, which is 0 where a pixel has the transparent color. */
function keyed8(from: usize, width: u32, clear: u32, to: usize): void {
  const key = i32x4.splat(clear);
  for (const end = to + 2 * width; to < end; to += 16) {
    const a = keyed(v128.load(from), key), b = keyed(v128.load(from, 12), key);
    v128.store(to, i16x8.narrow_i32x4_u(a, b));
    from += 24;
  }
}

@inline
function keyed(pixels: v128, key: v128): v128 {
  const colors = i8x16.relaxed_swizzle(
    pixels,
    i8x16(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1),
  );
  const alpha = v128.andnot(i32x4.splat(0xff00), i32x4.eq(colors, key));
  return v128.or(lumaOfRgb(pixels), alpha);
}

function rgba8(from: usize, width: u32, to: usize): void {
  for (const end = to + 2 * width; to < end; to += 16) {
    const a = grayAlpha(v128.load(from)), b = grayAlpha(v128.load(from, 16));
    v128.store(to, i16x8.narrow_i32x4_u(a, b));
    from += 32;
  }
}

@inline
function grayAlpha(pixels: v128): v128 {
  const redGreen = i8x16.relaxed_swizzle(
    pixels,
    i8x16(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1),
  );
  const greenBlue = i8x16.relaxed_swizzle(
    pixels,
    i8x16(1, -1, 2, -1, 5, -1, 6, -1, 9, -1, 10, -1, 13, -1, 14, -1),
  );
  const alpha = v128.and(i32x4.shr_u(pixels, 16), i32x4.splat(0xff00));
  return v128.or(luma(redGreen, greenBlue), alpha);
}

/** The same for 16 bits. In `clear` red is highest. */
export function luma16(
  from: usize,
  stride: usize,
  rows: u32,
  width: u32,
  channels: u32,
  clear: u64,
  to: usize,
  size: usize,
): void {
  const isPlain = channels == 3 && clear == OPAQUE;
  const red = <u32> RED, green = <u32> GREEN, blue = <u32> BLUE;
  for (let y: u32 = 0; y < rows; y++) {
    store<u8>(to++, NONE);
    let pixel = from, out = to;
    for (let x: u32 = 0; x < width; x++) {
      const r = sample(pixel), g = sample(pixel + 2), b = sample(pixel + 4);
      // The sum is below 2 ** 32, since the weights are 65,536 together.
      const gray = (red * r + green * g + blue * b + HALF) >> 16;
      store<u16>(out, bswap<u16>(<u16> gray));
      out += 2;
      if (!isPlain) {
        const color = <u64> r << 32 | g << 16 | b;
        if (channels == 4) store<u16>(out, load<u16>(pixel, 6));
        else store<u16>(out, color == clear ? 0 : 0xffff);
        out += 2;
      }
      pixel += channels << 1;
    }
    from += stride;
    to += size;
  }
}

@inline
function sample(at: usize): u32 {
  return <u32> bswap<u16>(load<u16>(at));
}

/**
 * Looks up palette indexes of 1, 2, 4 or 8 bits in a table of 256 × 16 bits, gray
 * and alpha. Alpha is left out if `channels` is 1. Returns how many rows are done,
 * which is less than `rows` if an index is `count` or more.
 */
export function lookUp(
  from: usize,
  stride: usize,
  rows: u32,
  width: u32,
  depth: u32,
  table: usize,
  count: u32,
  channels: u32,
  to: usize,
  size: usize,
): u32 {
  const mask: u32 = (1 << depth) - 1;
  for (let y: u32 = 0; y < rows; y++) {
    store<u8>(to++, NONE);
    let most: u32 = 0, out = to;
    for (let x: u32 = 0; x < width; x++) {
      const bit = x * depth;
      const byte = <u32> load<u8>(from + (bit >> 3));
      const index = byte >> (8 - depth - (bit & 7)) & mask;
      most = max(most, index);
      // With one channel the next pixel overwrites alpha.
      store<u16>(out, load<u16>(table + (index << 1)));
      out += channels;
    }
    if (most >= count) return y;
    from += stride;
    to += size;
  }
  return rows;
}

// Applying filters

/**
 * Applies to each row of gray the filter whose result has the smallest sum of
 * absolute differences (12.7). The row above the first one lies in front of it.
 * Results lie as the rows do.
 */
export function filter(
  from: usize,
  rows: u32,
  size: usize,
  pixel: usize,
  to: usize,
): void {
  for (let y: u32 = 0; y < rows; y++) {
    const kind = choose(++from, size, pixel);
    store<u8>(to++, <u8> kind);
    apply(kind, from, size, pixel, to);
    from += size;
    to += size;
  }
}

/** The bytes one pixel to the left of 16 bytes; zeros before the first pixel. */
@inline
function before(row: usize, x: usize, pixel: usize): v128 {
  const bytes = v128.load(row + x - pixel);
  return x ? bytes : v128.andnot(bytes, headOf(<u8> pixel));
}

/** Chooses a filter: computes the sums of all five in one pass. */
function choose(row: usize, size: usize, pixel: usize): u32 {
  const above = row - size - 1;
  let none = i32x4.splat(0), sub = none, up = none, mean = none, paeth = none;
  for (let x: usize = 0; x < size; x += 16) {
    // Bytes behind the end of the row do not count.
    const mask = headOf(<u8> min(16, size - x));
    const value = v128.load(row + x), left = before(row, x, pixel);
    const over = v128.load(above + x), corner = before(above, x, pixel);
    none = plus(none, value, mask);
    sub = plus(sub, i8x16.sub(value, left), mask);
    up = plus(up, i8x16.sub(value, over), mask);
    mean = plus(mean, i8x16.sub(value, average(left, over)), mask);
    paeth = plus(paeth, i8x16.sub(value, predict(left, over, corner)), mask);
  }
  let best = NONE, least = sumOf(none);
  const ofSub = sumOf(sub), ofUp = sumOf(up);
  const ofMean = sumOf(mean), ofPaeth = sumOf(paeth);
  if (ofSub < least) best = SUB, least = ofSub;
  if (ofUp < least) best = UP, least = ofUp;
  if (ofMean < least) best = AVERAGE, least = ofMean;
  if (ofPaeth < least) best = PAETH;
  return best;
}

/** A mask of the first `count` bytes. */
@inline
function headOf(count: u8): v128 {
  const places = i8x16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return i8x16.lt_u(places, i8x16.splat(count));
}

/** Adds the absolute values of bytes, taken as signed. */
@inline
function plus(sum: v128, bytes: v128, mask: v128): v128 {
  const far = v128.and(i8x16.abs(bytes), mask);
  const pairs = i16x8.extadd_pairwise_i8x16_u(far);
  return i32x4.add(sum, i32x4.dot_i16x8_s(pairs, i16x8.splat(1)));
}

@inline
function sumOf(sums: v128): u32 {
  return i32x4.extract_lane(sums, 0) + i32x4.extract_lane(sums, 1) +
    i32x4.extract_lane(sums, 2) + i32x4.extract_lane(sums, 3);
}

/**
 * 9.4: the Paeth predictor for 16 bytes. The estimate's distance from left is that
 * of up from the corner, and the other way round. Its distance from the corner is
 * the difference of these two if left and up lie on different sides of the corner;
 * otherwise it is the largest of all three.
 */
@inline
function predict(left: v128, up: v128, corner: v128): v128 {
  const a = distance(up, corner), b = distance(left, corner);
  const isSameWay = v128.xor(
    i8x16.eq(i8x16.max_u(left, corner), left),
    i8x16.eq(i8x16.min_u(up, corner), up),
  );
  const c = v128.or(distance(a, b), isSameWay);
  const isLeft = i8x16.eq(i8x16.min_u(a, i8x16.min_u(b, c)), a);
  const isUp = i8x16.eq(i8x16.min_u(b, c), b);
  const other = i8x16.relaxed_laneselect(up, corner, isUp);
  return i8x16.relaxed_laneselect(left, other, isLeft);
}

@inline
function distance(a: v128, b: v128): v128 {
  return v128.or(i8x16.sub_sat_u(a, b), i8x16.sub_sat_u(b, a));
}

/** Writes a row with a filter, and up to 15 bytes too many. */
function apply(
  kind: u32,
  row: usize,
  size: usize,
  pixel: usize,
  to: usize,
): void {
  const above = row - size - 1;
  for (let x: usize = 0; x < size; x += 16) {
    const value = v128.load(row + x), left = before(row, x, pixel);
    const over = v128.load(above + x), corner = before(above, x, pixel);
    let guess = i8x16.splat(0);
    if (kind == SUB) guess = left;
    else if (kind == UP) guess = over;
    else if (kind == AVERAGE) guess = average(left, over);
    else if (kind == PAETH) guess = predict(left, over, corner);
    v128.store(to + x, i8x16.sub(value, guess));
  }
}
