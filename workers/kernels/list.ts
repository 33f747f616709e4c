/**
 * Finds thousands of needles at once.
 *
 * Their automaton would leave the caches; this stays in them. Of each needle four
 * windows of 4 bytes that lie side by side are chosen, where it is rarest. Wherever
 * the needle is, one of them begins at a multiple of 4 from where the search
 * began. So only every fourth window of the text is looked up, in a bitmap of
 * their hashes, and where that has it, the needles with that window are compared.
 *
 * With 10,000 addresses, domains and hashes it takes an eighth of ripgrep's time: 0.7
 * s of a core for 836 MiB, and ripgrep 5.7.
 */

import {
  countComparisons,
  isCrowded,
  Kind,
  matches,
  Needle,
  Table,
} from "./needles";
import { next, searchRare } from "./search";

/** How many windows a needle has, and how far apart the text is looked up. */
const STEP: u32 = 4;
/**
 * Makes a hash of a window by multiplication: no two windows have the same. With the
 * usual 0x9e3779b1, under which windows of digits collide, 1.4 times as many places
 * passed the bitmap.
 */
const HASH: u32 = 0xd2b74407;
/** For the bytes behind a window. */
const MORE_HASH: u32 = 0x85ebca6b;
/**
 * How much is searched for long needles before it is for short ones, in bytes: little
 * at first, as it is in vain where the next line has a short one.
 */
const CHUNK_LEAST: usize = 128, CHUNK: usize = 4096;

/** A window of a needle. They are sorted by the first bits of their hashes. */
@unmanaged
class Entry {
  hash: u32;
  /** Where in the needle it is. */
  offset: u32;
  needle: Needle;
}

/**
 * Finds a needle in the first line that has one, or with `all` marks all of them,
 * as `search` does.
 */
export function searchList(
  table: Table,
  from: usize,
  end: usize,
  all: bool,
): usize {
  if (!table.short) return searchWindows(table, from, end, all);
  const short = changetype<Table>(table.short);
  let size: usize = CHUNK_LEAST;
  for (let at = from; at < end; size = min<usize>(2 * size, CHUNK)) {
    const isLast = all || end - at <= size;
    const to = isLast ? end : min(next(at + size, end) + 1, end);
    const long = searchWindows(table, at, to, all);
    const until = long < to ? next(long, to) : to;
    if (isCrowded) return at;
    const found = searchRare(short, at, until, all);
    if (found < until || isCrowded) return found;
    if (long < to) return long;
    at = to;
  }
  return end;
}

/**
 * Looks windows up 4 at a time. To do so one by one took 1.8 times as long: V8
 * checks the bounds of each load, so that loads are what takes the time.
 */
function searchWindows(
  table: Table,
  from: usize,
  end: usize,
  all: bool,
): usize {
  const bitmap = i32x4.splat(<i32> table.bitmap), shift = table.bitmapShift;
  // From memory, as constants would be made anew in each step.
  const factor = v128.load32_splat(FACTOR), seven = v128.load32_splat(FACTOR + 4);
  const bits = v128.load(BITS);
  for (let at = from; at < end; at += 64) {
    const a = bitsAt(at, factor, bitmap, shift, bits, seven);
    const b = bitsAt(at + 16, factor, bitmap, shift, bits, seven);
    if (v128.any_true(v128.or(a, b))) {
      const found = look(table, a, b, at, from, end, all);
      if (found) return found;
    }
    const c = bitsAt(at + 32, factor, bitmap, shift, bits, seven);
    const d = bitsAt(at + 48, factor, bitmap, shift, bits, seven);
    if (v128.any_true(v128.or(c, d))) {
      const found = look(table, c, d, at + 32, from, end, all);
      if (found) return found;
    }
  }
  return end;
}

const FACTOR = memory.data<u32>([HASH, 7]);
/** What the last 3 bits of a hash mean: a bit of a byte. */
const BITS = memory.data<u8>([1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0]);

/** For each of 4 windows what is not 0 if it is in the bitmap. */
@inline
function bitsAt(
  at: usize,
  factor: v128,
  bitmap: v128,
  shift: u32,
  bits: v128,
  seven: v128,
): v128 {
  const hashes = i32x4.mul(v128.load(at), factor);
  const places = i32x4.add(i32x4.shr_u(hashes, shift), bitmap);
  let bytes = i8x16.splat(0);
  bytes = v128.load8_lane(<u32> i32x4.extract_lane(places, 0), bytes, 0);
  bytes = v128.load8_lane(<u32> i32x4.extract_lane(places, 1), bytes, 4);
  bytes = v128.load8_lane(<u32> i32x4.extract_lane(places, 2), bytes, 8);
  bytes = v128.load8_lane(<u32> i32x4.extract_lane(places, 3), bytes, 12);
  return v128.and(bytes, i8x16.relaxed_swizzle(bits, v128.and(hashes, seven)));
}

/**
 * A second look at 8 windows: whether up to 8 bytes are in a bitmap, too. Of the
 * places that pass the first one by accident, or as parts of other addresses, few are left.
 * To look for the needles at once took nearly twice as long, and so did to look up
 * all windows side by side, as most of them have not passed.
 */
function look(
  table: Table,
  a: v128,
  b: v128,
  at: usize,
  from: usize,
  end: usize,
  all: bool,
): usize {
  const bitmap = table.second, shift = table.bitmapShift;
  let left = lanesOf(a) | lanesOf(b) << 16;
  for (; left; left &= left - 1) {
    const place = at + <usize> ctz(left);
    const four = hashAt(place);
    const any = bitOf(bitmap, shift, four) |
      bitOf(bitmap, shift, longHashAt(place, 6)) |
      bitOf(bitmap, shift, longHashAt(place, 8));
    if (any & 1 && verify(table, four, place, from, end, all)) return place;
  }
  return 0;
}

/** A bit for each byte that is not 0. */
@inline
function lanesOf(lanes: v128): u32 {
  return ~i8x16.bitmask(i8x16.eq(lanes, i8x16.splat(0))) & 0xffff;
}

/** How many bytes of a needle follow from each of its windows on, up to 8. */
@inline
function longSize(needle: Needle): u32 {
  const size = needle.length - STEP + 1;
  return size >= 8 ? 8 : size >= 6 ? 6 : 4;
}

/** The hash of 4, 6 or 8 bytes. */
@inline
function longHashAt(at: usize, size: u32): u32 {
  const more = size == 4 ? 0 : size == 6 ? load<u16>(at + 4) : load<u32>(at + 4);
  return hashAt(at) + more * MORE_HASH;
}

@inline
function bitOf(bitmap: usize, shift: u32, hash: u32): u32 {
  return <u32> load<u8>(bitmap + (hash >> shift)) >> (hash & 7);
}

@inline
function hashAt(at: usize): u32 {
  return load<u32>(at) * HASH;
}

@inline
function isSet(bitmap: usize, i: u32): u32 {
  return <u32> load<u8>(bitmap + (i >> 3)) >> (i & 7) & 1;
}

/**
 * Finds short needles: each pair of bytes is looked up in a bitmap, and where that
 * has it, the windows of 1 to 4 bytes.
 */
export function searchShort(
  table: Table,
  from: usize,
  end: usize,
  all: bool,
): usize {
  const bitmap = table.bitmap;
  for (let at = from; at < end; at++) {
    if (!isSet(bitmap, load<u16>(at))) continue;
    for (let size: u32 = 1; size <= 4; size++) {
      if (verify(table, shortHashAt(at, size), at, from, end, all)) return at;
    }
  }
  return end;
}

@inline
function shortHashAt(at: usize, size: u32): u32 {
  return (load<u32>(at) & <u32> -1 >> 32 - 8 * size) * HASH;
}

/**
 * Compares the needles that have a window with this hash. Where many have, the text
 * is crowded soon: to keep them sorted and to find the right one by bisection took
 * more code, and as long as the automaton where their offsets differ.
 */
function verify(
  table: Table,
  hash: u32,
  at: usize,
  from: usize,
  end: usize,
  all: bool,
): bool {
  const head = headOf(table, hash), to = load<u32>(head, 4);
  for (let i = load<u32>(head); i < to; i++) {
    countComparisons(1, at);
    if (isCrowded) return true;
    const entry = changetype<Entry>(
      table.entries + <usize> i * offsetof<Entry>(),
    );
    if (entry.hash != hash) continue;
    const needle = entry.needle, start = at - entry.offset;
    if (start < from || start + needle.length > end) continue;
    if (matches(table, needle, start) && !all) return true;
  }
  return false;
}

@inline
function needleAt(table: Table, i: u32): Needle {
  return changetype<Needle>(table.needles + <usize> i * offsetof<Needle>());
}

// Making the tables

/**
 * How many bits the bitmap has for each head, as a power of 2. With 4 instead of 5,
 * and so more places that pass by accident, 10,000 needles took 1.3 times as long.
 */
const SPARSE: u32 = 5;
/** The least bits of the bitmap, as a power of 2: 32 KiB are always in a cache. */
const BITMAP_LEAST: u32 = 18;

/**
 * Makes the tables of a list. They take `listSize` bytes behind `free`, and behind
 * that `SCRATCH` bytes are used.
 *
 * @param bits should make about as many heads as there are windows
 * @param ranks how frequent each of the 256 bytes is
 */
export function buildList(
  table: Table,
  bits: u32,
  ranks: usize,
  free: usize,
): void {
  const isShort = table.kind == Kind.SHORT;
  const bitmap = bitmapSize(table.kind, bits);
  table.bitmap = free;
  // The last 3 of the bits of a hash say which bit of a byte.
  table.bitmapShift = 1 + clz(<u32> bitmap);
  table.second = free + bitmap;
  table.heads = free + 2 * bitmap;
  table.headShift = 32 - bits;
  table.entries = table.heads + (<usize> 4 << bits) + 16;
  const scratch = free + listSize(table.kind, table.count, bits);
  memory.fill(free, 0, table.entries - free);
  choosePlaces(table, ranks, scratch);
  if (isShort) addPairs(table);
  else addWindows(table);
  addEntries(table);
}

/** How many bytes the tables of a list take. */
export function listSize(kind: u32, count: u32, bits: u32): usize {
  return 2 * bitmapSize(kind, bits) + (<usize> 4 << bits) + 16 +
    entriesSize(kind, count);
}

/** How many bytes more it takes to make them. */
export const SCRATCH: u32 = 4 << 16;

function bitmapSize(kind: u32, bits: u32): usize {
  return kind == Kind.SHORT ? 1 << 13 : 1 << max(bits + SPARSE, BITMAP_LEAST) >> 3;
}

function entriesSize(kind: u32, count: u32): usize {
  const windows = kind == Kind.SHORT ? 1 : STEP;
  return <usize> count * windows * offsetof<Entry>();
}

/** How many places at a needle's beginning, and how many at its end are tried. */
const PLACES: i32 = 12;
/** What it costs if twice as many needles have a window. A byte costs up to 96. */
const SHARED: u32 = 16;
/**
 * Chooses where the windows of each needle begin: where its bytes are rare, and
 * few needles have the same windows.
 */
function choosePlaces(table: Table, ranks: usize, scratch: usize): void {
  const isShort = table.kind == Kind.SHORT, windows: i32 = isShort ? 1 : STEP;
  memory.fill(scratch, 0, 4 << 16);
  for (let i: u32 = 0; i < table.count; i++) {
    const needle = needleAt(table, i);
    const most = max(<i32> needle.length - 4, 0);
    for (let at = 0; at <= most; at = nextPlace(at, most)) {
      const slot = slotOf(needle.bytes + at, scratch);
      store<u32>(slot, load<u32>(slot) + 1);
    }
  }
  for (let i: u32 = 0; i < table.count; i++) {
    const needle = needleAt(table, i);
    const size = isShort ? min(needle.length, 4) : longSize(needle);
    const most = <i32> (needle.length - size) - windows + 1;
    let least: u32 = -1;
    for (let at = 0; at <= most; at = nextPlace(at, most)) {
      let cost: u32 = 0;
      for (let j = 0; j < windows; j++) {
        cost += costOf(needle.bytes + at + j, ranks, scratch);
      }
      if (cost >= least) continue;
      least = cost;
      needle.first = at;
    }
  }
}

@inline
function costOf(window: usize, ranks: usize, slots: usize): u32 {
  return <u32> load<u8>(ranks + load<u8>(window)) +
    load<u8>(ranks + load<u8>(window + 1)) +
    load<u8>(ranks + load<u8>(window + 2)) +
    load<u8>(ranks + load<u8>(window + 3)) +
    SHARED * (32 - clz(load<u32>(slotOf(window, slots))));
}

@inline
function slotOf(window: usize, slots: usize): usize {
  return slots + (<usize> (hashAt(window) >> 16) << 2);
}

@inline
function nextPlace(at: i32, most: i32): i32 {
  return at + 1 == PLACES && most > 2 * PLACES ? most - PLACES : at + 1;
}

function addWindows(table: Table): void {
  for (let i: u32 = 0; i < table.count; i++) {
    const needle = needleAt(table, i);
    const first = needle.bytes + needle.first, size = longSize(needle);
    for (let at = first; at < first + STEP; at++) {
      mark(table.bitmap, table.bitmapShift, hashAt(at));
      mark(table.second, table.bitmapShift, longHashAt(at, size));
    }
  }
}

function addPairs(table: Table): void {
  for (let i: u32 = 0; i < table.count; i++) {
    const needle = needleAt(table, i);
    const at = needle.bytes + needle.first;
    const byte = <u32> load<u8>(at);
    if (needle.length > 1) setBit(table.bitmap, load<u16>(at));
    else for (let j: u32 = 0; j < 256; j++) setBit(table.bitmap, j << 8 | byte);
  }
}

function mark(bitmap: usize, shift: u32, hash: u32): void {
  const at = bitmap + (hash >> shift);
  store<u8>(at, load<u8>(at) | 1 << <u8> (hash & 7));
}

function setBit(bitmap: usize, i: u32): void {
  const at = bitmap + (i >> 3);
  store<u8>(at, load<u8>(at) | 1 << <u8> (i & 7));
}

/** Adds the entries, and where those of each hash begin. */
function addEntries(table: Table): void {
  const heads = table.heads, end = heads + (<usize> 4 << (32 - table.headShift));
  const windows: u32 = table.kind == Kind.SHORT ? 1 : STEP;
  for (let i: u32 = 0; i < table.count; i++) {
    for (let j: u32 = 0; j < windows; j++) {
      const head = headOf(table, windowHash(table, needleAt(table, i), j));
      store<u32>(head, load<u32>(head) + 1);
    }
  }
  let sum: u32 = 0;
  for (let head = heads; head < end; head += 4) {
    sum += load<u32>(head);
    store<u32>(head, sum); // where they end, until all have been put in front of it
  }
  store<u32>(end, sum);
  for (let i: u32 = 0; i < table.count; i++) {
    const needle = needleAt(table, i);
    for (let j: u32 = 0; j < windows; j++) {
      const hash = windowHash(table, needle, j), head = headOf(table, hash);
      const place = load<u32>(head) - 1;
      store<u32>(head, place);
      const entry = changetype<Entry>(
        table.entries + <usize> place * offsetof<Entry>(),
      );
      entry.hash = hash;
      entry.offset = needle.first + j;
      entry.needle = needle;
    }
  }
}

@inline
function headOf(table: Table, hash: u32): usize {
  return table.heads + (<usize> (hash >> table.headShift) << 2);
}

@inline
function windowHash(table: Table, needle: Needle, i: u32): u32 {
  const at = needle.bytes + needle.first + i;
  return table.kind == Kind.SHORT
    ? shortHashAt(at, min(needle.length, 4))
    : hashAt(at);
}
