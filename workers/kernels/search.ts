/**
 * Finds needles (keywords as bytes) and newlines. All positions are addresses in
 * the memory.
 *
 * Loads go in steps of up to 64 bytes, so 80 bytes behind `end` must exist in the
 * memory; their content does not matter.
 */

import { searchStates } from "./automaton";
import { searchList, searchShort } from "./list";
import {
  beginChunk,
  beginText,
  countComparisons,
  forget,
  isCrowded,
  Kind,
  matches,
  Needle,
  Table,
} from "./needles";

/** A line with a needle, as `collect` reports it. */
@unmanaged
class Line {
  /** Where it begins, and where its newline is. */
  start: usize;
  end: usize;
  /** How many newlines come before it, since the line reported before it. */
  newlines: u32;
}

/** The first free address of the memory. */
export function base(): usize {
  return (__heap_base + 15) & ~15;
}

/** Which lines are looked for. */
@unmanaged
class Query {
  /** Of these needles a line has one. */
  find: Table;
  /** All keywords of this table it has; or 0. */
  all: usize;
  /** None of these needles it has; or 0. */
  without: usize;
}

/**
 * Finds lines, `most` at most, in a range of whole lines.
 *
 * A `Line` for each is written to `lines`, and the line itself to `text` with a
 * newline, unless it is longer than `longest`. If `lines` is 0 they are only
 * counted. Returns how many there are. The range may be a copy in which case is
 * folded; the lines are `ahead` bytes behind it.
 */
export function collect(
  query: Query,
  from: usize,
  end: usize,
  ahead: usize,
  most: u32,
  lines: usize,
  text: usize,
  longest: u32,
): u32 {
  query.find.crowded = chunkEnd = 0;
  beginText(from);
  let counted = from;
  let found: u32 = 0;
  for (let at = from; at < end && found < most;) {
    const hit = search(query.find, at, end, false);
    if (hit >= end) break;
    const newline = next(hit, end);
    const start = last(at, hit);
    at = newline + 1;
    if (!isWanted(query, start, newline)) continue;
    if (lines) {
      const line = changetype<Line>(lines + found * offsetof<Line>());
      line.start = start + ahead;
      line.end = newline + ahead;
      line.newlines = count(counted, start);
      counted = start;
      const length = newline - start;
      if (length <= longest) {
        memory.copy(text, start + ahead, length);
        store<u8>(text + length, 10);
        text += length + 1;
      }
    }
    found++;
  }
  return found;
}

/** Whether a line has all keywords, if that is asked for, and nothing unwanted. */
function isWanted(query: Query, start: usize, end: usize): bool {
  if (query.all) {
    const table = changetype<Table>(query.all);
    if (markAll(table, start, end) < table.keywords) return false;
  }
  return !query.without ||
    search(changetype<Table>(query.without), start, end, false) == end;
}

/** Marks the keywords that are in a range, and no others; returns how many. */
export function mark(table: Table, from: usize, end: usize): u32 {
  chunkEnd = 0;
  beginText(from);
  return markAll(table, from, end);
}

function markAll(table: Table, from: usize, end: usize): u32 {
  forget(table.seen);
  search(table, from, end, true);
  return table.seen.count;
}

/** Whether a needle is in a range. */
export function has(table: Table, from: usize, end: usize): bool {
  chunkEnd = 0;
  beginText(from);
  return search(table, from, end, false) < end;
}

/** How much is searched at a time before it is decided how, in bytes. */
const CHUNK: usize = 1 << 14;
/** Where the lines end of a chunk that was begun: after each hit it goes on. */
let chunkEnd: usize = 0;

/**
 * Finds the first needle, or one in the same line, and returns a place in it;
 * `end` if there is none. With `all` it marks every needle in the range, which is
 * within a line, and returns `end`. The bytes around the range are looked at, too:
 * see `isWhole`.
 */
function search(
  table: Table,
  from: usize,
  end: usize,
  all: bool,
): usize {
  for (let at = from; at < end;) {
    let to = end;
    if (!all && end - at > CHUNK) {
      if (at >= chunkEnd) chunkEnd = next(at + CHUNK, end) + 1;
      to = min(chunkEnd, end);
    }
    let found = at;
    if (at >= table.crowded) {
      beginChunk();
      found = searchRare(table, at, to, all);
      if (isCrowded) table.crowded = to;
    }
    if (at < table.crowded) {
      if (all) forget(table.seen);
      found = searchStates(table, at, to, all);
    }
    if (found < to && !all) return found;
    at = to;
  }
  return end;
}

/**
 * Does the same by what is rare in the needles. It gives up, and returns anything,
 * where too much had to be compared.
 */
export function searchRare(
  table: Table,
  from: usize,
  end: usize,
  all: bool,
): usize {
  switch (table.kind) {
    case Kind.ONE: return searchOne(table, from, end);
    case Kind.FEW: return searchFew(table, from, end, all);
    case Kind.LIST: return searchList(table, from, end, all);
    default: return searchShort(table, from, end, all);
  }
}

/**
 * The packed pair, as the memchr library has it: 64 positions a step are tested
 * for two rare bytes at their distance, and only where both match the whole
 * needle is compared. To test the rarest byte alone first, and the other one only
 * where that matches, took twice as long where every other step has a match.
 */
function searchOne(table: Table, from: usize, end: usize): usize {
  const needle = changetype<Needle>(table.needles);
  if (end < from + needle.length) return end;
  const to = end - needle.length + 1;
  const first = needle.first, second = needle.second;
  const byte1 = v128.load8_splat(needle.bytes + first);
  const byte2 = v128.load8_splat(needle.bytes + second);
  for (let at = from; at < to; at += 64) {
    const one = at + first, two = at + second;
    const a = same(one, byte1, two, byte2);
    const b = same(one + 16, byte1, two + 16, byte2);
    const c = same(one + 32, byte1, two + 32, byte2);
    const d = same(one + 48, byte1, two + 48, byte2);
    if (!v128.any_true(v128.or(v128.or(a, b), v128.or(c, d)))) continue;
    let bits = <u64> i8x16.bitmask(a) | <u64> i8x16.bitmask(b) << 16 |
      <u64> i8x16.bitmask(c) << 32 | <u64> i8x16.bitmask(d) << 48;
    for (; bits; bits &= bits - 1) {
      const start = at + <usize> ctz(bits);
      if (start >= to) return end;
      countComparisons(1, start);
      if (matches(table, needle, start) || isCrowded) return start;
    }
  }
  return end;
}

/** At which of 16 places both bytes are. */
@inline
function same(one: usize, byte1: v128, two: usize, byte2: v128): v128 {
  return v128.and(
    i8x16.eq(v128.load(one), byte1),
    i8x16.eq(v128.load(two), byte2),
  );
}

/**
 * The Teddy algorithm, as ripgrep has it, at every other place. A fingerprint is 6
 * bytes, and each needle has two, side by side, so that one of them begins at an
 * even distance from where the search began. Each is in one of 8 buckets, and each
 * bucket is a bit. For each byte of a fingerprint a table of 16 entries tells which
 * buckets have one with that lower half of the byte, and for the first two bytes
 * another one does for the upper half. Where a bit remains after all eight look-ups,
 * the needles of its bucket are compared.
 *
 * With fingerprints of 4 bytes at every place, and both halves of each byte, it
 * took 1.8 times as long.
 */
function searchFew(
  table: Table,
  from: usize,
  end: usize,
  all: bool,
): usize {
  const nibbles = table.nibbles;
  const low0 = v128.load(nibbles), high0 = v128.load(nibbles + 16);
  const low1 = v128.load(nibbles + 32), high1 = v128.load(nibbles + 48);
  const low2 = v128.load(nibbles + 64), low3 = v128.load(nibbles + 80);
  const low4 = v128.load(nibbles + 96), low5 = v128.load(nibbles + 112);
  // From memory, as a constant would be made anew in each step.
  const half = v128.load8_splat(HALF), whole = v128.load16_splat(WHOLE);
  // Each byte is looked up once. The results of the 4 bytes before a step come
  // from the step before it. No fingerprint begins before the first step: one of
  // a needle that begins at `from` does so there.
  let first = i8x16.splat(0), second = first;
  // The fingerprint of a needle of less than 6 bytes may end behind `end`.
  for (let at = from; at < end + 4; at += 32) {
    const a = v128.load(at), b = v128.load(at + 16);
    const even = i8x16.narrow_i16x8_u(v128.and(a, whole), v128.and(b, whole));
    const odd = i8x16.narrow_i16x8_u(i16x8.shr_u(a, 8), i16x8.shr_u(b, 8));
    const evenLow = v128.and(even, half), oddLow = v128.and(odd, half);
    const evenHigh = v128.and(i16x8.shr_u(even, 4), half);
    const oddHigh = v128.and(i16x8.shr_u(odd, 4), half);
    const bytes01 = v128.and(
      v128.and(lookUp(low0, evenLow), lookUp(high0, evenHigh)),
      v128.and(lookUp(low1, oddLow), lookUp(high1, oddHigh)),
    );
    const bytes23 = v128.and(lookUp(low2, evenLow), lookUp(low3, oddLow));
    const bytes45 = v128.and(lookUp(low4, evenLow), lookUp(low5, oddLow));
    const left = v128.and(
      v128.and(behind2(first, bytes01), behind1(second, bytes23)),
      bytes45,
    );
    first = bytes01;
    second = bytes23;
    if (!v128.any_true(left)) continue;
    const found = verify(table, left, at - 4, from, end, all);
    if (found) return found;
  }
  return end;
}

const HALF = memory.data<u8>([15]), WHOLE = memory.data<u16>([255]);

@inline
function lookUp(table: v128, indexes: v128): v128 {
  return i8x16.relaxed_swizzle(table, indexes);
}

/** The 16 bytes that begin 1 or 2 bytes before the second vector. */
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

/** Compares the needles of the buckets that remain at each of 16 places, 2 apart. */
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
    const place = at + 2 * lane, bytes = load<u32>(place);
    for (let bits = <u32> load<u8>(scratch + lane); bits; bits &= bits - 1) {
      const bucket = table.buckets + (<usize> ctz(bits) << 2);
      const to = load<u32>(bucket, 4);
      let i = load<u32>(bucket);
      countComparisons(to - i, place);
      if (isCrowded) return place;
      for (; i < to; i++) {
        const needle = changetype<Needle>(
          table.needles + i * offsetof<Needle>(),
        );
        if ((bytes ^ needle.second) & needle.mask) continue;
        const start = place - needle.first;
        if (start < from || start + needle.length > end) continue;
        if (matches(table, needle, start) && !all) return start;
      }
    }
  }
  return 0;
}

/**
 * Writes `LABEL:NUMBER:LINE` for lines that lie one after another, each with a
 * newline, and returns where that ends. The label includes its colon. The numbers
 * are f64, the numbers of JavaScript.
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

/** Writes a number in decimal digits and returns where that ends. */
function writeNumber(value: u64, to: usize): usize {
  let end = to + 1;
  for (let rest = value / 10; rest; rest /= 10) end++;
  for (let at = end; at > to; value /= 10) store<u8>(--at, 48 + <u8> (value % 10));
  return end;
}

/** How many newlines there are. */
export function count(from: usize, end: usize): u32 {
  let sum: u32 = 0;
  let at = from;
  while (at + 64 <= end) {
    // Each lane has 8 bits, so it can count to 255.
    const to = min(end - 63, at + 64 * 255);
    let a = i8x16.splat(0), b = a, c = a, d = a;
    for (; at < to; at += 64) {
      a = i8x16.sub(a, newlines(at));
      b = i8x16.sub(b, newlines(at + 16));
      c = i8x16.sub(c, newlines(at + 32));
      d = i8x16.sub(d, newlines(at + 48));
    }
    sum += sumOf(a) + sumOf(b) + sumOf(c) + sumOf(d);
  }
  for (; at + 16 <= end; at += 16) sum += popcnt(i8x16.bitmask(newlines(at)));
  for (; at < end; at++) sum += u32(load<u8>(at) == 10);
  return sum;
}

/** All bits of a lane, -1, where there is a newline. */
@inline
function newlines(at: usize): v128 {
  return i8x16.eq(v128.load(at), i8x16.splat(10));
}

/** The sum of 16 lanes of 8 bits. */
@inline
function sumOf(lanes: v128): u32 {
  const pairs = i16x8.extadd_pairwise_i8x16_u(lanes);
  const fours = i32x4.extadd_pairwise_i16x8_u(pairs);
  return i32x4.extract_lane(fours, 0) + i32x4.extract_lane(fours, 1) +
    i32x4.extract_lane(fours, 2) + i32x4.extract_lane(fours, 3);
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

/** The position behind the last newline, or `from`. */
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
