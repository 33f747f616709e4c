/**
 * Finds needles and newlines. All positions are addresses in the memory.
 *
 * Loads go in steps of up to 64 bytes, so 80 bytes after `end` have to be
 * memory; what is there does not matter.
 */

/** A byte string to look for; laid out by `compile` in ../logscan.ts. */
@unmanaged
class Needle {
  length: u32;
  /** Where in it the two rarest bytes are, or (twice) the fingerprint. */
  first: u32;
  second: u32;
  /** Set when it is found. */
  seen: u32;
  /**
   * Its bytes, and the bits that do not matter in each (0x20 in a letter, where
   * case is ignored; they are set in the byte). Padded to 16 with all bits.
   */
  bytes: usize;
  blind: usize;
}

/** Several needles, and how to find them. */
@unmanaged
class Table {
  /** How many needles there are. */
  count: u32;
  needles: usize;
  /** Of several: for each of 8 buckets its first needle, then the end. */
  buckets: usize;
  /** Of several: 4 × 2 × 16 bytes, see `searchMany`; then 16 of scratch. */
  nibbles: usize;
}

/** A line with a needle, as `collect` tells of it. */
@unmanaged
class Line {
  /** Where it begins, and where its newline is. */
  start: usize;
  end: usize;
  /** How many newlines come before it; of later lines: since the last one. */
  newlines: u32;
}

/** Where the memory is free from. */
export function base(): usize {
  return (__heap_base + 15) & ~15;
}

/**
 * Finds the lines with a needle, `room` at most, in a range of whole lines.
 *
 * A `Line` for each goes to `lines`, and the lines themselves to `text`, each
 * with a newline, but for those that are longer than `longest`. Where `lines`
 * is 0, they are only counted.
 */
export function collect(
  table: Table,
  from: usize,
  end: usize,
  room: u32,
  lines: usize,
  text: usize,
  longest: u32,
): u32 {
  let counted = from;
  let found: u32 = 0;
  for (let at = from; at < end && found < room; found++) {
    const hit = search(table, at, end, false);
    if (hit >= end) break;
    const newline = next(hit, end);
    if (lines) {
      const line = changetype<Line>(lines + found * offsetof<Line>());
      const start = last(at, hit);
      line.start = start;
      line.end = newline;
      line.newlines = count(counted, start);
      counted = start;
      const length = newline - start;
      if (length <= longest) {
        memory.copy(text, start, length);
        store<u8>(text + length, 10);
        text += length + 1;
      }
    }
    at = newline + 1;
  }
  return found;
}

/**
 * Finds the first line with a needle, marks that needle as seen, and returns
 * where it begins: `end` where there is none. With `all` it marks all needles
 * that are in the range, and returns `end`.
 *
 * A searcher for lists of thousands would be chosen here, by `count`.
 */
export function search(
  table: Table,
  from: usize,
  end: usize,
  all: bool,
): usize {
  return table.count == 1
    ? searchOne(changetype<Needle>(table.needles), from, end)
    : searchMany(table, from, end, all);
}

/**
 * The packed pair: two rare bytes at their distance, 64 positions a step, and a
 * full comparison only where both are. (The rarest one alone, and the other
 * where that is, took twice as long where it is in every other step.)
 */
function searchOne(needle: Needle, from: usize, end: usize): usize {
  const blind = load<u8>(needle.blind + needle.first) |
    load<u8>(needle.blind + needle.second);
  return blind
    ? searchPair(needle, from, end, true)
    : searchPair(needle, from, end, false); // a sixth faster
}

@inline
function searchPair(
  needle: Needle,
  from: usize,
  end: usize,
  isBlind: bool,
): usize {
  if (end < from + needle.length) return end;
  const to = end - needle.length + 1;
  const first = needle.first, second = needle.second;
  const byte1 = v128.load8_splat(needle.bytes + first);
  const byte2 = v128.load8_splat(needle.bytes + second);
  const blind1 = v128.load8_splat(needle.blind + first);
  const blind2 = v128.load8_splat(needle.blind + second);
  for (let at = from; at < to; at += 64) {
    const one = at + first, two = at + second;
    const a = v128.and(
      same(one, byte1, blind1, isBlind),
      same(two, byte2, blind2, isBlind),
    );
    const b = v128.and(
      same(one + 16, byte1, blind1, isBlind),
      same(two + 16, byte2, blind2, isBlind),
    );
    const c = v128.and(
      same(one + 32, byte1, blind1, isBlind),
      same(two + 32, byte2, blind2, isBlind),
    );
    const d = v128.and(
      same(one + 48, byte1, blind1, isBlind),
      same(two + 48, byte2, blind2, isBlind),
    );
    if (!v128.any_true(v128.or(v128.or(a, b), v128.or(c, d)))) continue;
    let bits = <u64> i8x16.bitmask(a) | <u64> i8x16.bitmask(b) << 16 |
      <u64> i8x16.bitmask(c) << 32 | <u64> i8x16.bitmask(d) << 48;
    for (; bits; bits &= bits - 1) {
      const start = at + <usize> ctz(bits);
      if (start >= to) return end;
      if (matches(needle, start)) return start;
    }
  }
  return end;
}

/** Where a byte is, of 16. */
@inline
function same(at: usize, byte: v128, blind: v128, isBlind: bool): v128 {
  const bytes = v128.load(at);
  return i8x16.eq(isBlind ? v128.or(bytes, blind) : bytes, byte);
}

function matches(needle: Needle, at: usize): bool {
  const length = needle.length, bytes = needle.bytes, blind = needle.blind;
  for (let i: u32 = 0; i < length; i += 16) {
    const there = v128.or(v128.load(at + i), v128.load(blind + i));
    if (!i8x16.all_true(i8x16.eq(there, v128.load(bytes + i)))) return false;
  }
  needle.seen = 1;
  return true;
}

/**
 * Teddy, as ripgrep has it: each needle is in one of 8 buckets, a bit each. For
 * each of the 3 bytes of a fingerprint two tables of 16 say, for its lower and
 * upper half, in which buckets' fingerprints it may be. Where a bit remains
 * of all eight, the needles of that bucket are compared.
 *
 * (20 keywords, GB/s: 2.8 with fingerprints of 3 bytes, 3.9 with 4, and 4.8
 * since each byte is loaded and halved once, not anew for each of the 4.)
 */
function searchMany(
  table: Table,
  from: usize,
  end: usize,
  all: bool,
): usize {
  const nibbles = table.nibbles;
  const low0 = v128.load(nibbles), high0 = v128.load(nibbles + 16);
  const low1 = v128.load(nibbles + 32), high1 = v128.load(nibbles + 48);
  const low2 = v128.load(nibbles + 64), high2 = v128.load(nibbles + 80);
  const low3 = v128.load(nibbles + 96), high3 = v128.load(nibbles + 112);
  // Each byte is looked up once; what the ones before a step's first 3 gave
  // comes from the step before. There, any bucket: `verify` knows where to stop.
  let before0 = i8x16.splat(-1), before1 = before0, before2 = before0;
  // A needle shorter than its fingerprint may end before that does.
  for (let at = from; at < end + 3; at += 32) {
    const a0 = halves(at, low0, high0), a1 = halves(at, low1, high1);
    const a2 = halves(at, low2, high2), a3 = halves(at, low3, high3);
    const b0 = halves(at + 16, low0, high0), b1 = halves(at + 16, low1, high1);
    const b2 = halves(at + 16, low2, high2), b3 = halves(at + 16, low3, high3);
    const a = v128.and(
      v128.and(behind3(before0, a0), behind2(before1, a1)),
      v128.and(behind1(before2, a2), a3),
    );
    const b = v128.and(
      v128.and(behind3(a0, b0), behind2(a1, b1)),
      v128.and(behind1(a2, b2), b3),
    );
    before0 = b0;
    before1 = b1;
    before2 = b2;
    if (!v128.any_true(v128.or(a, b))) continue;
    let found: usize = 0;
    if (v128.any_true(a)) found = verify(table, a, at - 3, from, end, all);
    if (!found && v128.any_true(b)) {
      found = verify(table, b, at + 13, from, end, all);
    }
    if (found) return found;
  }
  return end;
}

@inline
function halves(at: usize, low: v128, high: v128): v128 {
  const bytes = v128.load(at);
  return v128.and(
    i8x16.relaxed_swizzle(low, v128.and(bytes, i8x16.splat(15))),
    i8x16.relaxed_swizzle(high, i8x16.shr_u(bytes, 4)),
  );
}

/** The 16 lanes that begin 1, 2 or 3 before the second vector. */
@inline
function behind1(a: v128, b: v128): v128 {
  return i8x16.shuffle(
    a, b, 15, 16, 17, 18, 19, 20, 21, 22,
    23, 24, 25, 26, 27, 28, 29, 30,
  );
}

@inline
function behind2(a: v128, b: v128): v128 {
  return i8x16.shuffle(
    a, b, 14, 15, 16, 17, 18, 19, 20, 21,
    22, 23, 24, 25, 26, 27, 28, 29,
  );
}

@inline
function behind3(a: v128, b: v128): v128 {
  return i8x16.shuffle(
    a, b, 13, 14, 15, 16, 17, 18, 19, 20,
    21, 22, 23, 24, 25, 26, 27, 28,
  );
}

/** Compares the needles whose buckets are left at any of 16 positions. */
function verify(
  table: Table,
  left: v128,
  at: usize,
  from: usize,
  end: usize,
  all: bool,
): usize {
  const scratch = table.nibbles + 128;
  v128.store(scratch, left);
  let lanes = ~i8x16.bitmask(i8x16.eq(left, i8x16.splat(0))) & 0xffff;
  for (; lanes; lanes &= lanes - 1) {
    const lane = <usize> ctz(lanes);
    for (let bits = <u32> load<u8>(scratch + lane); bits; bits &= bits - 1) {
      const bucket = table.buckets + (<usize> ctz(bits) << 2);
      const to = load<u32>(bucket, 4);
      for (let i = load<u32>(bucket); i < to; i++) {
        const needle = changetype<Needle>(
          table.needles + i * offsetof<Needle>(),
        );
        const start = at + lane - needle.first;
        if (start < from || start + needle.length > end) continue;
        if (matches(needle, start) && !all) return start;
      }
    }
  }
  return 0;
}

/**
 * Writes `LABEL:NUMBER:LINE` for lines that lie one after another, each with a
 * newline, and tells where that ends. The label has its colon with it; numbers
 * are f64, as JavaScript has them.
 */
export function label(
  label: usize,
  size: u32,
  numbers: usize,
  text: usize,
  end: usize,
  to: usize,
): usize {
  for (; text < end; numbers += sizeof<f64>()) {
    memory.copy(to, label, size);
    to = writeNumber(<u64> load<f64>(numbers), to + size);
    store<u8>(to, 58); // a colon
    const length = next(text, end) + 1 - text;
    memory.copy(to + 1, text, length);
    to += 1 + length;
    text += length;
  }
  return to;
}

/** Writes a number in decimal digits, and tells where that ends. */
function writeNumber(value: u64, to: usize): usize {
  let end = to + 1;
  for (let rest = value / 10; rest; rest /= 10) end++;
  for (let at = end; at > to; value /= 10) store<u8>(--at, 48 + <u8> (value % 10));
  return end;
}

/** How many newlines there are. */
export function count(from: usize, end: usize): u32 {
  const newline = i8x16.splat(10);
  let sum: u32 = 0;
  let at = from;
  while (at + 16 <= end) {
    // A lane counts to 255 at most.
    const to = min(end - 15, at + 16 * 255);
    let lanes = i8x16.splat(0);
    for (; at < to; at += 16) {
      lanes = i8x16.sub(lanes, i8x16.eq(v128.load(at), newline));
    }
    const pairs = i16x8.extadd_pairwise_i8x16_u(lanes);
    const fours = i32x4.extadd_pairwise_i16x8_u(pairs);
    sum += i32x4.extract_lane(fours, 0) + i32x4.extract_lane(fours, 1) +
      i32x4.extract_lane(fours, 2) + i32x4.extract_lane(fours, 3);
  }
  for (; at < end; at++) sum += u32(load<u8>(at) == 10);
  return sum;
}

/** The first newline, or `end`. */
export function next(from: usize, end: usize): usize {
  const newline = i8x16.splat(10);
  for (let at = from; at < end; at += 16) {
    const bits = i8x16.bitmask(i8x16.eq(v128.load(at), newline));
    if (bits) return min(at + <usize> ctz(bits), end);
  }
  return end;
}

/** Behind the last newline, or `from`. */
export function last(from: usize, end: usize): usize {
  const newline = i8x16.splat(10);
  let at = end;
  for (; at >= from + 16; at -= 16) {
    const bits = i8x16.bitmask(i8x16.eq(v128.load(at - 16), newline));
    if (bits) return at - 16 + 32 - <usize> clz(bits);
  }
  for (; at > from; at--) if (load<u8>(at - 1) == 10) return at;
  return from;
}
