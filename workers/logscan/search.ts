/**
 * Searches blocks of bytes for lines with keywords, in WebAssembly (the loops
 * are in kernels/search.ts).
 *
 * @module
 */

import * as kernels from "../kernels/kernels.wasm";
import { align, free, memory as grown } from "../shared/memory.ts";

/** How much is searched at a time, in bytes. */
export const BLOCK = 1 << 18;
/** Lines longer than this are not held, in bytes. */
export const LINE_MAX = 64 << 10;
/** The longest keyword, in bytes: it bounds what the worst file can cost. */
export const KEYWORD_MAX = 4096;
/** What a hit weighs besides its text, in bytes. */
const HIT = 200;
/** Whether the kernel's `search` ends at the first hit, or marks all needles. */
const FIRST = 0, ALL = 1;
/** What the kernels may read after an end, in bytes. */
const SLACK = 80;
/** How many lines the kernel tells of at a time, and the size of each. */
const LINES = 4096, LINE = 12;

/**
 * What is wanted of a file: whether a keyword is in it (it stops at the first
 * hit), how many lines have one, or these lines.
 */
export type Mode = "found" | "count" | "lines";

/** What to look for, and what is wanted. */
export interface Query {
  /** What to look for: one or more, none of them empty or over a line. */
  keywords: string[];
  /** Whether A to Z are as good as a to z. */
  ignoreCase: boolean;
  /** What is wanted. */
  mode: Mode;
}

/** Lines with a keyword, as columns: thousands of objects would travel slowly. */
export interface Hits {
  /** How many lines come before it, from where the search began. */
  lines: number[];
  /** Where each line begins, in bytes. */
  offsets: number[];
  /** How long it is without its newline, in bytes. */
  lengths: number[];
  /** Which keywords are in it, as an index of `sets`. */
  keywords: number[];
  /** The combinations of keywords that there are, as their indexes. */
  sets: number[][];
  /** The lines that are held, one after another, each with its newline. */
  text: Uint8Array;
}

/** What was found so far. */
export interface Found {
  /** How many lines were passed; not counted where nobody asked. */
  lines: number;
  /** How many lines have a keyword. */
  count: number;
  /** These lines, but for mode `"count"`; absent where there are none. */
  hits?: Hits;
}

// Needles

/**
 * The bytes of logs, the most frequent ones first. One that is not listed is
 * rare. The last are what text in other alphabets begins its letters with.
 */
const FREQUENT =
  " e0t1a2io3nrs-:.4567l98cdup/mh\"fg=b,_yvwk[]()TSEIxAN\t'ORDPC{}LMGU@Fjqz" +
  ";<>BHVW#%&+*!?|~JKQXYZ\\$\r^\0`\xd0\xd1\xc3\xd8\xd9\xe3\xe4\xe5\xe6\xe7\xe8\xe9";

const FREQUENCY = new Uint8Array(256);
for (let i = 0; i < FREQUENT.length; i++) {
  FREQUENCY[FREQUENT.charCodeAt(i)] = FREQUENT.length - i;
}

const SPACE = 0x20;

/** A keyword's bytes, the bits that do not matter, and its rarest places. */
interface Needle {
  /** Which keyword it is. */
  keyword: number;
  bytes: Uint8Array;
  blind: Uint8Array;
  first: number;
  second: number;
}

function newNeedle(
  text: string,
  keyword: number,
  ignoreCase: boolean,
  several: boolean,
): Needle {
  const bytes = new TextEncoder().encode(text);
  const blind = bytes.map((byte) =>
    ignoreCase && /[a-z]/i.test(String.fromCharCode(byte)) ? 0x20 : 0
  );
  bytes.forEach((byte, i) => bytes[i] = byte | blind[i]);
  const rarest = several ? rarestPrint(bytes) : rarestPair(bytes);
  return { keyword, bytes, blind, first: rarest[0], second: rarest[1] };
}

/**
 * The two bytes to compare first: the rarest, not the same one twice; of two
 * words where there are two, as words are mostly there as a whole. (It takes a
 * third off "unauthorized access" where each line has "authorized".)
 */
function rarestPair(bytes: Uint8Array): [number, number] {
  const rank = (i: number) => FREQUENCY[bytes[i]];
  let first = 0;
  for (let i = 1; i < bytes.length; i++) if (rank(i) < rank(first)) first = i;
  const start = bytes.lastIndexOf(SPACE, first);
  const end = bytes.indexOf(SPACE, first);
  const isBeside = (i: number) => start < i && (i < end || end < 0);
  const rankOther = (i: number) =>
    bytes[i] === bytes[first] ? 512 : rank(i) + (isBeside(i) ? 256 : 0);
  let second = first === 0 ? bytes.length - 1 : 0;
  for (let i = 0; i < bytes.length; i++) {
    if (rankOther(i) < rankOther(second)) second = i;
  }
  return [first, second];
}

/** Where the rarest fingerprint begins: of 4 bytes in a row, or all there are. */
function rarestPrint(bytes: Uint8Array): [number, number] {
  const rank = (i: number) => {
    let sum = 0;
    for (const byte of bytes.subarray(i, i + PRINT)) sum += FREQUENCY[byte];
    return sum;
  };
  let first = 0;
  for (let i = 1; i + PRINT <= bytes.length; i++) {
    if (rank(i) < rank(first)) first = i;
  }
  return [first, first];
}

/** Needles as the kernels want them. */
interface Compiled {
  /** The structures of kernels/search.ts, to be put at `base()`. */
  image: Uint8Array;
  /** Of each needle in them, where its `seen` is. */
  seen: number[];
  /** Of each needle in them, which keyword it is. */
  keywords: number[];
  /** How much of a long line may be the beginning of a keyword, in bytes. */
  overlap: number;
}

const NEEDLE = 24, BUCKETS = 8, PRINT = 4, NIBBLES = PRINT * 2 * 16;

/** Lays out the structures of kernels/search.ts. */
function compile({ keywords, ignoreCase }: Query): Compiled {
  const base = kernels.base();
  const several = keywords.length > 1;
  const needles = keywords.map((keyword, i) =>
    newNeedle(keyword, i, ignoreCase, several)
  );
  // Like fingerprints share a bucket, so that its tables have few bits.
  if (several) needles.sort((a, b) => compareFingerprints(a, b));
  const bucketsAt = 16 + needles.length * NEEDLE;
  const nibblesAt = align(bucketsAt + 4 * (BUCKETS + 1));
  let bytesAt = nibblesAt + NIBBLES + 16;
  const sizes = needles.map(({ bytes }) => align(bytes.length));
  const size = bytesAt + 2 * sizes.reduce((sum, size) => sum + size, 0);
  const image = new Uint8Array(size);
  const words = new Uint32Array(image.buffer, 0, nibblesAt >> 2);
  words.set([needles.length, base + 16, base + bucketsAt, base + nibblesAt]);
  const bucketOf = (i: number) => Math.floor(i * BUCKETS / needles.length);
  needles.forEach(({ bytes, blind, first, second }, i) => {
    const ends = [bytesAt, bytesAt + sizes[i], bytesAt + 2 * sizes[i]];
    words.set(
      [bytes.length, first, second, 0, base + ends[0], base + ends[1]],
      (16 + i * NEEDLE) >> 2,
    );
    image.fill(255, bytesAt, ends[2]); // the padding fits any byte
    image.set(bytes, ends[0]);
    image.set(blind, ends[1]);
    bytesAt = ends[2];
    addNibbles(image, nibblesAt, needles[i], 1 << bucketOf(i));
  });
  for (let bucket = 0; bucket <= BUCKETS; bucket++) {
    const at = needles.findIndex((_, i) => bucketOf(i) >= bucket);
    words[(bucketsAt >> 2) + bucket] = at < 0 ? needles.length : at;
  }
  return {
    image,
    seen: needles.map((_, i) => base + 16 + i * NEEDLE + 12),
    keywords: needles.map(({ keyword }) => keyword),
    overlap: Math.max(...needles.map(({ bytes }) => bytes.length)) - 1,
  };
}

function compareFingerprints(a: Needle, b: Needle): number {
  for (let i = 0; i < PRINT; i++) {
    const order = (a.bytes[a.first + i] ?? 0) - (b.bytes[b.first + i] ?? 0);
    if (order !== 0) return order;
  }
  return 0;
}

/** Adds a fingerprint to the tables; what it lacks in length fits any byte. */
function addNibbles(
  image: Uint8Array,
  at: number,
  { bytes, blind, first }: Needle,
  bit: number,
): void {
  for (let i = 0; i < PRINT; i++) {
    const low = at + 32 * i, high = low + 16;
    if (first + i >= bytes.length) {
      for (let k = low; k < high + 16; k++) image[k] |= bit;
      continue;
    }
    const byte = bytes[first + i];
    for (const each of [byte, byte & ~blind[first + i]]) {
      image[low + (each & 15)] |= bit;
      image[high + (each >> 4)] |= bit;
    }
  }
}

/** The last query and what it was compiled to: most come many times over. */
let latest: { query: Query; key: string; compiled: Compiled } | undefined;

function compiled(query: Query): Compiled {
  if (latest?.query === query) return latest.compiled; // of the same batch
  const key = JSON.stringify([query.ignoreCase, query.keywords]);
  const isSame = latest?.key === key;
  latest = { query, key, compiled: isSame ? latest!.compiled : compile(query) };
  return latest.compiled;
}

// Memory

/** The kernels' memory; a new view after it grew, as the old one is empty. */
let memory = grown(0);

function reserve(size: number): void {
  const isFresh = memory.buffer === kernels.memory.buffer;
  if (!isFresh || memory.length < size) memory = grown(size);
}

/**
 * Counts newlines.
 *
 * @param read Reads into what it is given, and returns how much; null at the end
 * @returns How many newlines there are in all that it reads
 *
 * @example
 * ```ts
 * import { countNewlines } from "./search.ts";
 *
 * const blocks = ["a\nb", "\n"].map((text) => new TextEncoder().encode(text));
 * const newlines = countNewlines((into) => {
 *   const block = blocks.shift();
 *   if (block) into.set(block);
 *   return block?.length ?? null;
 * });
 * console.log(newlines); // 2
 * ```
 */
export function countNewlines(
  read: (into: Uint8Array) => number | null,
): number {
  const at = kernels.base();
  reserve(at + BLOCK + SLACK);
  const block = memory.subarray(at, at + BLOCK);
  let sum = 0;
  for (let n; (n = read(block)) !== null;) sum += kernels.count(at, at + n);
  return sum;
}

// Search

/** Where in a file to search. */
export interface Range {
  /** Where the first block begins, in bytes. */
  offset: number;
  /** Whether there is another one's line up to the first newline. */
  skip?: boolean;
  /** Lines that begin here or later are another one's; default: none. */
  end?: number;
}

/**
 * Searches blocks as they come, for lines with a keyword.
 *
 * Between blocks it keeps the unfinished line: whole, as long as it is no
 * longer than `LINE_MAX`, then only what may be the beginning of a keyword, and
 * which ones it had. Nothing is left in the kernels' memory: another search may
 * use it before the next block.
 *
 * @example
 * ```ts
 * import { Search } from "./search.ts";
 *
 * const query = { keywords: ["b"], ignoreCase: false, mode: "lines" as const };
 * const search = new Search(query, { offset: 0 }, true);
 * search.add(new TextEncoder().encode("a\nb"));
 * search.end();
 * const { count, hits } = search.take();
 * console.log(count, hits?.offsets, hits?.text.length); // 1 [ 2 ] 2
 * ```
 */
export class Search {
  readonly #query: Query;
  readonly #compiled: Compiled;
  /** Whether to count lines; may be given up on the way. */
  counts: boolean;
  readonly #table = kernels.base();
  /** Where in the memory a block goes; what was kept is put before it. */
  readonly #block: number;
  /** Where the kernel puts what it tells of lines, and after that their text. */
  readonly #lines: number;
  /** Lines that begin here or later are another one's. */
  readonly #limit: number;
  /** The end of what was searched that is still of use, and where it begins. */
  #buffer = new Uint8Array(0);
  #kept = this.#buffer;
  #offset: number;
  /** The unfinished line, where it is too long to be held. */
  #long?: { offset: number; keywords: Set<number> };
  #skipping: boolean;
  #done = false;
  #weight = 0;
  #found: Found = { lines: 0, count: 0 };
  #room?: Uint8Array;
  /** The held lines of the hits. */
  #text = EMPTY;
  #textLength = 0;

  /**
   * @param query What to look for
   * @param range Where in the file the blocks are
   * @param counts Whether to count lines; else they are 0
   */
  constructor(query: Query, range: Range, counts: boolean) {
    this.#query = query;
    this.#compiled = compiled(query);
    const { image } = this.#compiled;
    this.counts = counts;
    this.#block = this.#table + align(image.length) + LINE_MAX;
    this.#lines = this.#block + BLOCK + SLACK;
    this.#limit = range.end ?? Infinity;
    this.#offset = range.offset;
    this.#skipping = range.skip ?? false;
  }

  /** Where to put the next block, to spare a copy; valid until it is searched. */
  get room(): Uint8Array {
    if (this.#room?.buffer === kernels.memory.buffer) return this.#room;
    // Of text there is no more than was searched, and a newline.
    reserve(this.#lines + LINE * LINES + LINE_MAX + BLOCK + 1);
    return this.#room = memory.subarray(this.#block, this.#block + BLOCK);
  }

  /** Whether the hits weigh more than so many bytes. */
  isFull(most: number): boolean {
    return this.#weight > most;
  }

  /** Where to go on, when this ends here: the first line not searched yet. */
  get next(): number {
    return this.#long?.offset ?? this.#offset;
  }

  /**
   * Searches the next block.
   *
   * @param bytes The block, of any length
   * @returns Whether more is wanted
   */
  add(bytes: Uint8Array): boolean {
    for (let at = 0; at < bytes.length && !this.#done; at += BLOCK) {
      const block = bytes.subarray(at, at + BLOCK);
      this.room.set(block);
      this.addRoom(block.length);
    }
    return !this.#done;
  }

  /** Searches the next block, which is in `room`; else like `add`. */
  addRoom(length: number): boolean {
    if (length > 0) this.#search(length);
    return !this.#done;
  }

  /** Searches the last line where no newline ends it. */
  end(): void {
    const nothing = this.#kept.length === 0 && !this.#long;
    if (nothing || this.#done || this.#skipping) return;
    reserve(this.#block + SLACK);
    const from = this.#restore();
    if (this.#long) this.#endLong(this.#block);
    else this.#searchLines(from, this.#block, from);
    this.#done = true;
  }

  /** Gives what was found since the last time. */
  take(): Found {
    const found = this.#found;
    this.#found = { lines: 0, count: 0 };
    if (!found.hits) return found;
    // No more than that is there: a clone is one of the whole buffer.
    found.hits.text = this.#text.slice(0, this.#textLength);
    free(this.#text);
    this.#text = EMPTY;
    this.#textLength = this.#weight = 0;
    return found;
  }

  /** Puts needles and what was kept into the memory; tells where that begins. */
  #restore(): number {
    const from = this.#block - this.#kept.length;
    memory.set(this.#compiled.image, this.#table);
    memory.set(this.#kept, from);
    return from;
  }

  #search(length: number): void {
    const from = this.#restore();
    const end = this.#block + length;
    let at = from;
    if (this.#skipping || this.#long) {
      const newline = kernels.next(from, end);
      if (this.#long) this.#noteLong(from, newline);
      if (newline === end) {
        const kept = this.#long
          ? Math.max(from, end - this.#compiled.overlap)
          : end;
        this.#keep(from, kept, end);
        // All of the span is in the middle of one line.
        this.#done = this.#skipping && this.#offset >= this.#limit;
        return;
      }
      if (this.#long) this.#endLong(newline);
      this.#skipping = false;
      at = newline + 1;
      if (this.#done) return;
    }
    // Where the lines end that begin before the limit, if that is here.
    const limit = from + this.#limit - this.#offset;
    const last = limit > end
      ? end
      : at < limit
      ? kernels.next(limit - 1, end)
      : at - 1;
    const to = last < end ? last + 1 : kernels.last(at, end);
    this.#searchLines(at, to, from);
    if (last < end) this.#done = true;
    if (this.#done) return;
    if (end - to > LINE_MAX) this.#beginLong(from, to, end);
    else this.#keep(from, to, end);
  }

  /** Searches whole lines of what is in the memory from `base` on. */
  #searchLines(from: number, to: number, base: number): void {
    const found = this.#found;
    if (this.#query.mode === "count") {
      found.count += kernels.collect(this.#table, from, to, -1, 0, 0, 0);
      return;
    }
    const room = this.#query.mode === "found" ? 1 : LINES;
    let at = from;
    for (let told = room; told === room && at < to && !this.#done;) {
      const [lines, text] = [this.#lines, this.#lines + LINE * LINES];
      told = kernels.collect(this.#table, at, to, room, lines, text, LINE_MAX);
      if (told === 0) break;
      at = this.#takeLines(told, base);
      if (at <= to) found.lines++; // the newline of the last one
    }
    if (this.counts && at < to) found.lines += kernels.count(at, to);
  }

  /** Takes over lines that the kernel has told of; says where they end. */
  #takeLines(told: number, base: number): number {
    const found = this.#found;
    const words = new Uint32Array(memory.buffer, this.#lines, 3 * told);
    let length = 0, at = 0;
    for (let i = 0; i < words.length; i += 3) {
      const start = words[i], end = words[i + 1];
      found.lines += words[i + 2];
      this.#hit(
        this.#offset + start - base,
        end - start,
        this.#seenIn(start, end),
      );
      if (end - start <= LINE_MAX) length += end - start + 1;
      at = end + 1;
    }
    this.#append(length);
    return at;
  }

  /** Which keywords are in a range, in order. */
  #seenIn(from: number, end: number): number[] {
    const { seen, keywords } = this.#compiled;
    if (keywords.length === 1) return keywords;
    for (const at of seen) memory[at] = 0;
    kernels.search(this.#table, from, end, ALL);
    return keywords.filter((_, i) => memory[seen[i]] === 1)
      .sort((a, b) => a - b);
  }

  /** Takes over the text of lines that the kernel has told of. */
  #append(length: number): void {
    const need = this.#textLength + length;
    if (need > this.#text.length) {
      const grown = new Uint8Array(this.#textLength > 0 ? 2 * need : need);
      grown.set(this.#text.subarray(0, this.#textLength));
      free(this.#text);
      this.#text = grown;
    }
    const at = this.#lines + LINE * LINES;
    this.#text.set(memory.subarray(at, at + length), this.#textLength);
    this.#textLength = need;
    this.#weight += length;
  }

  #hit(offset: number, length: number, keywords: number[]): void {
    const { mode } = this.#query;
    const found = this.#found;
    found.count++;
    if (mode === "count") return;
    if (mode === "found") this.#done = true;
    this.#weight += HIT;
    const hits = found.hits ??= newHits();
    hits.lines.push(found.lines);
    hits.offsets.push(offset);
    hits.lengths.push(length);
    hits.keywords.push(indexOfSet(hits.sets, keywords));
  }

  #beginLong(from: number, start: number, end: number): void {
    this.#long = { offset: this.#offset + start - from, keywords: new Set() };
    this.#noteLong(start, end);
    this.#keep(from, end - this.#compiled.overlap, end);
  }

  #noteLong(from: number, end: number): void {
    const { keywords } = this.#long!;
    if (keywords.size === this.#query.keywords.length) return;
    if (this.#compiled.keywords.length > 1) {
      for (const keyword of this.#seenIn(from, end)) keywords.add(keyword);
    } else if (kernels.search(this.#table, from, end, FIRST) < end) {
      keywords.add(0);
    }
  }

  /** Ends a long line at its newline, or at the end of all. */
  #endLong(end: number): void {
    const { offset, keywords } = this.#long!;
    this.#long = undefined;
    const from = this.#block - this.#kept.length;
    const length = this.#offset + end - from - offset;
    if (keywords.size > 0) {
      this.#hit(offset, length, [...keywords].sort((a, b) => a - b));
    }
    if (this.counts) this.#found.lines++;
  }

  /** Keeps `kept` to `end` of what is in the memory for the next block. */
  #keep(from: number, kept: number, end: number): void {
    this.#offset += kept - from;
    // Into the same buffer: to allocate one for each block keeps V8 busy.
    const length = end - kept;
    if (length > this.#buffer.length) {
      this.#buffer = new Uint8Array(Math.max(1024, 2 * length));
    }
    this.#kept = this.#buffer.subarray(0, length);
    this.#kept.set(memory.subarray(kept, end));
  }
}

const EMPTY = new Uint8Array(0);

function newHits(): Hits {
  return {
    lines: [],
    offsets: [],
    lengths: [],
    keywords: [],
    sets: [],
    text: EMPTY,
  };
}

function indexOfSet(sets: number[][], set: number[]): number {
  if (set === sets[0]) return 0; // of a single keyword always
  const same = (other: number[]) =>
    other.length === set.length && other.every((each, i) => each === set[i]);
  const index = sets.findIndex(same);
  return index < 0 ? sets.push(set) - 1 : index;
}

// Labels

/** How much is labelled at once, in bytes. */
const RUN = 1 << 17;
/** The most that a number takes, and its colon, in bytes. */
const NUMBER_MAX = 21;

/**
 * Makes `LABEL:NUMBER:LINE` of lines with a keyword, as they are to be printed.
 *
 * @param hits The lines
 * @param before How many lines come before those that are counted in `hits`
 * @param label What to put before each, without the colon
 * @returns Bytes that are valid until the next ones are asked for; where a line
 * is not held, as it is too long, its index in `hits`
 *
 * @example
 * ```ts
 * import { labelled, Search } from "./search.ts";
 *
 * const query = { keywords: ["b"], ignoreCase: false, mode: "lines" as const };
 * const search = new Search(query, { offset: 0 }, true);
 * search.add(new TextEncoder().encode("a\nb\n"));
 * for (const bytes of labelled(search.take().hits!, 0, "log")) {
 *   console.log(new TextDecoder().decode(bytes as Uint8Array)); // log:2:b
 * }
 * ```
 */
export function* labelled(
  { lines, lengths, text }: Hits,
  before: number,
  label: string,
): Generator<Uint8Array | number, void, void> {
  const head = new TextEncoder().encode(`${label}:`);
  let at = 0;
  for (let i = 0; i < lines.length;) {
    if (lengths[i] > LINE_MAX) {
      yield i++;
      continue;
    }
    const numbers: number[] = [];
    let end = at, size = 0;
    for (; size < RUN && lengths[i] <= LINE_MAX; i++) {
      numbers.push(before + lines[i] + 1);
      end += lengths[i] + 1;
      size += head.length + NUMBER_MAX + lengths[i] + 1;
    }
    yield labelledRun(head, numbers, text.subarray(at, end), size);
    at = end;
  }
}

function labelledRun(
  head: Uint8Array,
  numbers: number[],
  text: Uint8Array,
  size: number,
): Uint8Array {
  const at = kernels.base(), label = at + 8 * numbers.length;
  const from = label + head.length, to = from + text.length + SLACK;
  reserve(to + size);
  new Float64Array(memory.buffer, at, numbers.length).set(numbers);
  memory.set(head, label);
  memory.set(text, from);
  const end = from + text.length;
  const until = kernels.label(label, head.length, at, from, end, to);
  return memory.subarray(to, until);
}
