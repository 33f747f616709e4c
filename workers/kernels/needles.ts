/** Needles (keywords as bytes), and whether one is at a place of the text. */

import { codeAt, lengthAt, PAGES } from "./utf8";

/** A byte string to look for, laid out by ../logscan/needles.ts. */
@unmanaged
export class Needle {
  length: u32;
  /**
   * Where its rarest byte is, or its fingerprint, which may begin a byte before it,
   * or its windows.
   */
  first: u32;
  /** Where the next one is; of a fingerprint the first 4 bytes. */
  second: u32;
  /** Which keyword it stands for. */
  keyword: u32;
  bytes: usize;
  /**
   * What follows the bytes, from the first character on whose forms differ in
   * length; or 0. For each character: how many forms it has, and for each form its
   * length and bytes. A 0 ends it.
   */
  rest: usize;
  /** Of few needles: which bits of `second` are part of it. */
  mask: u32;
  /** Of few needles: whether it is the same needle with the other fingerprint. */
  isOther: u32;
}

/** How the needles of a table are found. */
export namespace Kind {
  export const ONE: u32 = 0;
  export const FEW: u32 = 1;
  export const LIST: u32 = 2;
  /** A list of needles of less than 7 bytes. */
  export const SHORT: u32 = 3;
}

/** Which keywords were seen. */
@unmanaged
export class Seen {
  count: u32;
  /** For each keyword, whether it was seen. */
  flags: usize;
  /** Those that were, in the order in which they were. */
  list: usize;
}

/** One or more needles, and how to find them. */
@unmanaged
export class Table {
  kind: u32;
  /** How many needles there are. */
  count: u32;
  needles: usize;
  /** Which keywords were seen; those of a list and of its short needles together. */
  seen: Seen;
  /** How many keywords there are. */
  keywords: u32;
  /** If only whole words count: which characters are part of words; else 0. */
  words: usize;
  /** Few needles: the first needle of each of 8 buckets, then the end. */
  buckets: usize;
  /** Few needles: 8 × 16 bytes, see `searchFew`, then 16 of scratch. */
  nibbles: usize;
  /** A list, see list.ts: both filters, and 32 less the bits of a hash they take. */
  bitmap: usize;
  second: usize;
  bitmapShift: u32;
  /** A list: the first entry of each hash, then the end. */
  heads: usize;
  headShift: u32;
  entries: usize;
  /** A list: the table of the needles that are too short for it, or 0. */
  short: usize;
  /** The memory for an automaton, and the automaton itself if it is there. */
  room: usize;
  automaton: usize;
  /** Up to here it is used, as too much had to be compared without it. */
  crowded: usize;
}

/** Where the text begins that is searched, and how much was compared in it. */
let begin: usize = 0, compared: usize = 0;
/** Whether that is too much, at some place of the chunk that is searched. */
export let isCrowded: bool = false;

export function beginText(from: usize): void {
  begin = from;
  compared = 0;
}

export function beginChunk(): void {
  isCrowded = false;
}

/** Comparing more often than this, and than once for each 8 bytes, is too much. */
const PATIENCE: usize = 32;

/** Counts comparisons at a place. Whoever goes on is to look at `isCrowded`. */
@inline
export function countComparisons(count: usize, at: usize): void {
  compared += count;
  if (compared <= PATIENCE) return;
  if (compared - PATIENCE > (at - begin) >> 3) isCrowded = true;
}

/** Forgets which keywords were seen. */
export function forget(seen: Seen): void {
  for (let i: usize = 0; i < seen.count; i++) {
    store<u8>(seen.flags + load<u32>(seen.list + (i << 2)), 0);
  }
  seen.count = 0;
}

function see(seen: Seen, keyword: u32): void {
  if (load<u8>(seen.flags + keyword)) return;
  store<u8>(seen.flags + keyword, 1);
  store<u32>(seen.list + (<usize> seen.count << 2), keyword);
  seen.count++;
}

/** How many bytes of a needle are there, `most` at most. */
export function agreement(needle: Needle, at: usize, most: u32): u32 {
  for (let i: u32 = 0; i < most; i += 16) {
    compared++;
    const there = v128.load(at + i), wanted = v128.load(needle.bytes + i);
    const other = ~i8x16.bitmask(i8x16.eq(there, wanted)) & 0xffff;
    if (other) return min(i + ctz(other), most);
  }
  return most;
}

/** Whether a needle is there; if it is, its keyword is marked as seen. */
export function matches(table: Table, needle: Needle, at: usize): bool {
  const length = needle.length, bytes = needle.bytes;
  let i: u32 = 0;
  for (; i + 16 < length; i += 16) {
    compared++;
    const same = i8x16.eq(v128.load(at + i), v128.load(bytes + i));
    if (!i8x16.all_true(same)) return false;
  }
  const other = v128.xor(v128.load(at + i), v128.load(bytes + i));
  const mask = v128.load(MASKS + 16 - (length - i));
  return !v128.any_true(v128.and(other, mask)) && isWhole(table, needle, at);
}

/** Masks for the first bytes of 16, up to all of them. */
const MASKS = memory.data<u8>([
  255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
]);

/**
 * The end of `matches`, where the bytes of a needle are there. The bytes around
 * the searched range are read, too: there is a newline, or the line goes on.
 */
export function isWhole(table: Table, needle: Needle, at: usize): bool {
  if (needle.rest | table.words) {
    const end = endOf(needle.rest, at + needle.length);
    if (!end) return false;
    const words = table.words;
    if (words && (isWordBefore(words, at) || isWordAt(words, end))) return false;
  }
  see(table.seen, needle.keyword);
  return true;
}

/** Where the rest of a needle ends, if it is there; else 0. */
function endOf(rest: usize, at: usize): usize {
  if (!rest) return at;
  for (let count: u32; count = load<u8>(rest++);) {
    let end: usize = 0;
    for (; count; count--) {
      const length = <usize> load<u8>(rest++);
      if (memory.compare(rest, at, length) == 0) end = at + length;
      rest += length;
    }
    if (!end) return 0;
    at = end;
  }
  return at;
}

/** Whether the character before a place is part of a word; invalid UTF-8 is not. */
function isWordBefore(words: usize, at: usize): bool {
  let start = at - 1;
  while (start > at - 4 && (load<u8>(start) & 0xc0) == 0x80) start--;
  const length = lengthAt(start);
  return start + length == at && isWord(words, start, length);
}

/** Whether the character at a place is part of a word; invalid UTF-8 is not. */
function isWordAt(words: usize, at: usize): bool {
  const length = lengthAt(at);
  return length > 0 && isWord(words, at, length);
}

/**
 * Looks a character up: for each 256 of them a byte tells which of the pages of 32
 * bytes behind is theirs.
 */
function isWord(words: usize, at: usize, length: usize): bool {
  const code = codeAt(at, length);
  const page = words + PAGES + (<usize> load<u8>(words + (code >> 8)) << 5);
  return (load<u8>(page + (code >> 3 & 31)) >> <u8> (code & 7) & 1) != 0;
}
