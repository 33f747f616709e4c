/**
 * Searches blocks of bytes for lines with keywords, in WebAssembly (the loops
 * are in kernels/search.ts).
 *
 * @module
 */

import * as kernels from "../kernels/kernels.wasm";
import { align, free, growMemory } from "../shared/memory.ts";

/** How much is searched at a time, in bytes. */
export const BLOCK = 1 << 18;
/** Lines longer than this are not held, in bytes. */
export const LINE_MAX = 64 << 10;
/** The longest keyword, in bytes. The limit bounds what the worst file costs. */
export const KEYWORD_MAX = 4096;
/** What a hit weighs besides its text, in bytes. */
const HIT = 200;
/** Whether the kernel's `search` ends at the first hit or marks all needles. */
const FIRST = 0, ALL = 1;
/** How far the kernels may read behind an end, in bytes. */
const SLACK = 80;
/** How many lines the kernel reports at a time, and the bytes of each report. */
const LINES = 4096, LINE = 12;

/**
 * What is wanted of a file: whether a keyword is in it (it stops at the first
 * hit), how many lines have one, or these lines.
 */
export type Mode = "found" | "count" | "lines";

/** What to look for, and what is wanted. */
export interface Query {
  /** One or more keywords, none of them empty or with a line break in it. */
  keywords: string[];
  /** Whether the letters A to Z match a to z, too. */
  ignoreCase: boolean;
  /** What is wanted. */
  mode: Mode;
  /** How many lines with a keyword are enough. Default: no limit. */
  max?: number;
}

/**
 * Lines with a keyword, as columns. An object per line would make the transfer
 * between threads slow where there are thousands.
 */
export interface Hits {
  /** How many lines come before each, from where the search began. */
  lines: number[];
  /** Where each line begins, in bytes. */
  offsets: number[];
  /** How long each is without its newline, in bytes. */
  lengths: number[];
  /** Which keywords are in each, as an index of `sets`. */
  keywords: number[];
  /** The combinations of keywords that occur, as indexes of keywords. */
  sets: number[][];
  /** The lines up to 64 KiB, one after another, each with its newline. */
  text: Uint8Array;
}

/** What was found so far. */
export interface SearchResult {
  /** How many lines were passed; 0 if lines are not counted. */
  lines: number;
  /** How many lines have a keyword. */
  count: number;
  /** These lines; absent for mode `"count"`, and if there are none. */
  hits?: Hits;
}

// Needles

/**
 * The bytes of logs, the most frequent ones first; a byte that is not listed is
 * rare. The last ones are the first bytes of UTF-8 letters of other alphabets.
 */
const FREQUENT =
  " e0t1a2io3nrs-:.4567l98cdup/mh\"fg=b,_yvwk[]()TSEIxAN\t'ORDPC{}LMGU@Fjqz" +
  ";<>BHVW#%&+*!?|~JKQXYZ\\$\r^\0`\xd0\xd1\xc3\xd8\xd9\xe3\xe4\xe5\xe6\xe7\xe8\xe9";

const FREQUENCY = new Uint8Array(256);
for (let i = 0; i < FREQUENT.length; i++) {
  FREQUENCY[FREQUENT.charCodeAt(i)] = FREQUENT.length - i;
}

const SPACE = 0x20;

/** A keyword as bytes. */
interface Needle {
  /** Which keyword it is. */
  keyword: number;
  bytes: Uint8Array;
  /** For each byte the bits to ignore: 0x20 in a letter, if case is ignored. */
  caseBits: Uint8Array;
  /** Where the two bytes are that are compared first. */
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
  const caseBits = bytes.map((byte) =>
    ignoreCase && /[a-z]/i.test(String.fromCharCode(byte)) ? 0x20 : 0
  );
  bytes.forEach((byte, i) => bytes[i] = byte | caseBits[i]);
  const rarest = several ? rarestPrint(bytes) : rarestPair(bytes);
  return { keyword, bytes, caseBits, first: rarest[0], second: rarest[1] };
}

/**
 * Where the two bytes are to compare first: the rarest ones, not the same byte
 * twice, and of two different words if there are two. A line that has one byte
 * of a word mostly has the whole word, so a second byte of the same word tells
 * little: for "unauthorized access", where each line has "authorized", the rule
 * saves a third of the time.
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

/** Where the rarest fingerprint begins: 4 bytes in a row, or all if it is short. */
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

/** A query as the kernels want it. */
interface CompiledQuery {
  /** The structures of kernels/search.ts, to be copied to `base()`. */
  table: Uint8Array;
  /** For each needle in the table: the address of its `seen`. */
  seen: number[];
  /** For each needle in the table: which keyword it is. */
  keywords: number[];
  /** How many bytes at an end may be the beginning of a keyword. */
  overlap: number;
}

const NEEDLE = 24, BUCKETS = 8, PRINT = 4, NIBBLES = PRINT * 2 * 16;

/** Lays out the structures of kernels/search.ts. */
function compile({ keywords, ignoreCase }: Query): CompiledQuery {
  const base = kernels.base();
  const several = keywords.length > 1;
  const needles = keywords.map((keyword, i) =>
    newNeedle(keyword, i, ignoreCase, several)
  );
  // Sorted, so that similar fingerprints share a bucket: its tables then have few
  // bits set, and few positions have to be verified.
  if (several) needles.sort((a, b) => compareFingerprints(a, b));
  const bucketsAt = 16 + needles.length * NEEDLE;
  const nibblesAt = align(bucketsAt + 4 * (BUCKETS + 1));
  let bytesAt = nibblesAt + NIBBLES + 16;
  const sizes = needles.map(({ bytes }) => align(bytes.length));
  const size = bytesAt + 2 * sizes.reduce((sum, size) => sum + size, 0);
  const table = new Uint8Array(size);
  const words = new Uint32Array(table.buffer, 0, nibblesAt >> 2);
  words.set([needles.length, base + 16, base + bucketsAt, base + nibblesAt]);
  const bucketOf = (i: number) => Math.floor(i * BUCKETS / needles.length);
  needles.forEach(({ bytes, caseBits, first, second }, i) => {
    const ends = [bytesAt, bytesAt + sizes[i], bytesAt + 2 * sizes[i]];
    words.set(
      [bytes.length, first, second, 0, base + ends[0], base + ends[1]],
      (16 + i * NEEDLE) >> 2,
    );
    table.fill(255, bytesAt, ends[2]); // the padding matches any byte
    table.set(bytes, ends[0]);
    table.set(caseBits, ends[1]);
    bytesAt = ends[2];
    addNibbles(table, nibblesAt, needles[i], 1 << bucketOf(i));
  });
  for (let bucket = 0; bucket <= BUCKETS; bucket++) {
    const at = needles.findIndex((_, i) => bucketOf(i) >= bucket);
    words[(bucketsAt >> 2) + bucket] = at < 0 ? needles.length : at;
  }
  return {
    table,
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

/** Adds a fingerprint to the tables. Where it is too short it matches any byte. */
function addNibbles(
  table: Uint8Array,
  at: number,
  { bytes, caseBits, first }: Needle,
  bit: number,
): void {
  for (let i = 0; i < PRINT; i++) {
    const low = at + 32 * i, high = low + 16;
    if (first + i >= bytes.length) {
      for (let k = low; k < high + 16; k++) table[k] |= bit;
      continue;
    }
    const byte = bytes[first + i];
    for (const each of [byte, byte & ~caseBits[first + i]]) {
      table[low + (each & 15)] |= bit;
      table[high + (each >> 4)] |= bit;
    }
  }
}

/** The last query and its compiled form: requests repeat the same one. */
let latest: { query: Query; key: string; compiled: CompiledQuery } | undefined;

function compiled(query: Query): CompiledQuery {
  if (latest?.query === query) return latest.compiled; // of the same request
  const key = JSON.stringify([query.ignoreCase, query.keywords]);
  const isSame = latest?.key === key;
  latest = { query, key, compiled: isSame ? latest!.compiled : compile(query) };
  return latest.compiled;
}

// Memory

/** A view of the whole kernel memory, made anew after the memory grew. */
let view = growMemory(0);

function reserve(size: number): void {
  const isFresh = view.buffer === kernels.memory.buffer;
  if (!isFresh || view.length < size) view = growMemory(size);
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
  const block = view.subarray(at, at + BLOCK);
  let sum = 0;
  for (let n; (n = read(block)) !== null;) sum += kernels.count(at, at + n);
  return sum;
}

// Search

/** Which lines of a file are searched. */
export interface SearchRange {
  /** Where the first block begins, in bytes. */
  offset: number;
  /** Whether to skip the bytes up to the first newline. */
  skip?: boolean;
  /** Lines that begin here or later are not searched. Default: none. */
  end?: number;
}

/**
 * Searches blocks as they come, for lines with a keyword.
 *
 * Between two blocks it keeps the unfinished line: the whole line while it is no
 * longer than `LINE_MAX`, then only its last bytes, which may be the beginning of
 * a keyword, and the keywords seen in it. Nothing stays in the kernels' memory,
 * so another search may use it before the next block.
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
  readonly #compiled: CompiledQuery;
  /** Whether lines are counted. It may be set to false during the search. */
  counts: boolean;
  readonly #tableAt = kernels.base();
  /** Where in the memory a block goes. What was kept is put before it. */
  readonly #blockAt: number;
  /** Where the kernel writes its reports of lines, and behind them their text. */
  readonly #linesAt: number;
  /** Lines that begin here or later are not searched. */
  readonly #limit: number;
  /** Memory for the bytes kept between two blocks. */
  #buffer = new Uint8Array(0);
  #kept = this.#buffer;
  /** Where in the file the kept bytes begin; what comes before is done. */
  #offset: number;
  /** The unfinished line, if it is too long to be held. */
  #long?: { offset: number; keywords: Set<number> };
  #skipping: boolean;
  /** How many more lines are wanted. */
  #wanted: number;
  #done = false;
  #weight = 0;
  #found: SearchResult = { lines: 0, count: 0 };
  #blockView?: Uint8Array;
  /** The held lines of the hits. */
  #text = EMPTY;
  #textLength = 0;

  /**
   * Begins a search.
   *
   * @param query What to look for
   * @param range Where in the file the blocks are
   * @param counts Whether to count lines; otherwise they are 0
   */
  constructor(query: Query, range: SearchRange, counts: boolean) {
    this.#query = query;
    this.#compiled = compiled(query);
    const { table } = this.#compiled;
    this.counts = counts;
    this.#blockAt = this.#tableAt + align(table.length) + LINE_MAX;
    this.#linesAt = this.#blockAt + BLOCK + SLACK;
    this.#limit = range.end ?? Infinity;
    this.#offset = range.offset;
    this.#skipping = range.skip ?? false;
    this.#wanted = query.mode === "found" ? 1 : query.max ?? Infinity;
  }

  /**
   * The memory for the next block. Whoever reads straight into it saves a copy;
   * it is valid until the block is searched.
   */
  get block(): Uint8Array {
    if (this.#blockView?.buffer === kernels.memory.buffer) {
      return this.#blockView;
    }
    // The text of lines is never longer than what was searched and a newline.
    reserve(this.#linesAt + LINE * LINES + LINE_MAX + BLOCK + 1);
    return this.#blockView = view.subarray(
      this.#blockAt,
      this.#blockAt + BLOCK,
    );
  }

  /** Whether the hits weigh more than so many bytes. */
  isFull(most: number): boolean {
    return this.#weight > most;
  }

  /** The first line that is not searched yet: where another search can go on. */
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
      this.block.set(block);
      this.searchBlock(block.length);
    }
    return !this.#done;
  }

  /** Searches the next block, which was read into `block`. */
  searchBlock(length: number): boolean {
    if (length > 0) this.#searchMemory(length);
    return !this.#done;
  }

  /** Searches the last line, if no newline ended it. */
  end(): void {
    const nothing = this.#kept.length === 0 && !this.#long;
    if (nothing || this.#done || this.#skipping) return;
    reserve(this.#blockAt + SLACK);
    const from = this.#restore();
    if (this.#long) this.#endLong(this.#blockAt);
    else this.#searchLines(from, this.#blockAt, from);
    this.#done = true;
  }

  /** Gives what was found since the last time. */
  take(): SearchResult {
    const found = this.#found;
    this.#found = { lines: 0, count: 0 };
    if (!found.hits) return found;
    // A copy of the exact size: sending a view would send its whole buffer.
    found.hits.text = this.#text.slice(0, this.#textLength);
    free(this.#text);
    this.#text = EMPTY;
    this.#textLength = this.#weight = 0;
    return found;
  }

  /** Copies the table and the kept bytes into the memory; returns their address. */
  #restore(): number {
    const from = this.#blockAt - this.#kept.length;
    view.set(this.#compiled.table, this.#tableAt);
    view.set(this.#kept, from);
    return from;
  }

  #searchMemory(length: number): void {
    const from = this.#restore();
    const end = this.#blockAt + length;
    let at = from;
    if (this.#skipping || this.#long) {
      const newline = kernels.next(from, end);
      if (this.#long) this.#searchLong(from, newline);
      if (newline === end) {
        const kept = this.#long
          ? Math.max(from, end - this.#compiled.overlap)
          : end;
        this.#keep(from, kept, end);
        // The whole span lies inside a line that began before it.
        this.#done = this.#skipping && this.#offset >= this.#limit;
        return;
      }
      if (this.#long) this.#endLong(newline);
      this.#skipping = false;
      at = newline + 1;
      if (this.#done) return;
    }
    // The newline of the last line that begins before the limit.
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

  /** Searches whole lines. The byte at `base` is the one at `#offset` of the file. */
  #searchLines(from: number, to: number, base: number): void {
    const found = this.#found;
    if (this.#query.mode === "count") {
      const all = kernels.collect(this.#tableAt, from, to, -1, 0, 0, 0);
      found.count += Math.min(all, this.#wanted);
      this.#wanted -= all;
      this.#done = this.#wanted <= 0;
      return;
    }
    let at = from, isFull = true;
    while (isFull && at < to && !this.#done) {
      const most = Math.min(LINES, this.#wanted);
      const [lines, text] = [this.#linesAt, this.#linesAt + LINE * LINES];
      const lineCount = kernels.collect(
        this.#tableAt,
        at,
        to,
        most,
        lines,
        text,
        LINE_MAX,
      );
      isFull = lineCount === most;
      if (lineCount === 0) break;
      at = this.#takeLines(lineCount, base);
      if (at <= to) found.lines++; // the newline of the last line taken
    }
    if (this.counts && at < to) found.lines += kernels.count(at, to);
  }

  /** Takes over the lines that the kernel reported; returns where they end. */
  #takeLines(lineCount: number, base: number): number {
    const found = this.#found;
    const words = new Uint32Array(view.buffer, this.#linesAt, 3 * lineCount);
    let length = 0, at = 0;
    for (let i = 0; i < words.length; i += 3) {
      const start = words[i], end = words[i + 1];
      found.lines += words[i + 2];
      this.#addHit(
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

  /** The keywords in a range, in their order. */
  #seenIn(from: number, end: number): number[] {
    const { seen, keywords } = this.#compiled;
    if (keywords.length === 1) return keywords;
    for (const at of seen) view[at] = 0;
    kernels.search(this.#tableAt, from, end, ALL);
    return keywords.filter((_, i) => view[seen[i]] === 1)
      .sort((a, b) => a - b);
  }

  /** Takes over the text of the lines that the kernel reported. */
  #append(length: number): void {
    const need = this.#textLength + length;
    if (need > this.#text.length) {
      const grown = new Uint8Array(this.#textLength > 0 ? 2 * need : need);
      grown.set(this.#text.subarray(0, this.#textLength));
      free(this.#text);
      this.#text = grown;
    }
    const at = this.#linesAt + LINE * LINES;
    this.#text.set(view.subarray(at, at + length), this.#textLength);
    this.#textLength = need;
    this.#weight += length;
  }

  #addHit(offset: number, length: number, keywords: number[]): void {
    const found = this.#found;
    found.count++;
    this.#done = --this.#wanted === 0;
    if (this.#query.mode === "count") return;
    this.#weight += HIT;
    const hits = found.hits ??= newHits();
    hits.lines.push(found.lines);
    hits.offsets.push(offset);
    hits.lengths.push(length);
    hits.keywords.push(indexOfSet(hits.sets, keywords));
  }

  #beginLong(from: number, start: number, end: number): void {
    this.#long = { offset: this.#offset + start - from, keywords: new Set() };
    this.#searchLong(start, end);
    this.#keep(from, end - this.#compiled.overlap, end);
  }

  #searchLong(from: number, end: number): void {
    const { keywords } = this.#long!;
    if (keywords.size === this.#query.keywords.length) return;
    if (this.#compiled.keywords.length > 1) {
      for (const keyword of this.#seenIn(from, end)) keywords.add(keyword);
    } else if (kernels.search(this.#tableAt, from, end, FIRST) < end) {
      keywords.add(0);
    }
  }

  /** Ends a long line: at its newline, or at the end of the file. */
  #endLong(end: number): void {
    const { offset, keywords } = this.#long!;
    this.#long = undefined;
    const from = this.#blockAt - this.#kept.length;
    const length = this.#offset + end - from - offset;
    if (keywords.size > 0) {
      this.#addHit(offset, length, [...keywords].sort((a, b) => a - b));
    }
    if (this.counts) this.#found.lines++;
  }

  /** Keeps the bytes from `kept` to `end` for the next block. */
  #keep(from: number, kept: number, end: number): void {
    this.#offset += kept - from;
    // The buffer is used again: allocating one per block costs V8 much time.
    const length = end - kept;
    if (length > this.#buffer.length) {
      this.#buffer = new Uint8Array(Math.max(1024, 2 * length));
    }
    this.#kept = this.#buffer.subarray(0, length);
    this.#kept.set(view.subarray(kept, end));
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
  if (set === sets[0]) return 0; // always so with a single keyword
  const same = (other: number[]) =>
    other.length === set.length && other.every((each, i) => each === set[i]);
  const index = sets.findIndex(same);
  return index < 0 ? sets.push(set) - 1 : index;
}

// Labels

/** How much is labelled at a time, in bytes. */
const LABELLED_BYTES = 1 << 17;
/** The longest number with its colon, in bytes. */
const NUMBER_MAX = 21;

/**
 * Writes `LABEL:NUMBER:LINE` for lines with a keyword, as they are printed.
 *
 * @param hits The lines
 * @param before How many lines come before those that are counted in `hits`
 * @param label What to put before each line, without the colon
 * @returns Blocks of bytes, each valid until the next one is asked for; for a
 * line that is too long to be held, its index in `hits` instead
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
    for (; size < LABELLED_BYTES && lengths[i] <= LINE_MAX; i++) {
      numbers.push(before + lines[i] + 1);
      end += lengths[i] + 1;
      size += head.length + NUMBER_MAX + lengths[i] + 1;
    }
    yield labelSome(head, numbers, text.subarray(at, end), size);
    at = end;
  }
}

function labelSome(
  head: Uint8Array,
  numbers: number[],
  text: Uint8Array,
  size: number,
): Uint8Array {
  const at = kernels.base(), label = at + 8 * numbers.length;
  const from = label + head.length, to = from + text.length + SLACK;
  reserve(to + size);
  new Float64Array(view.buffer, at, numbers.length).set(numbers);
  view.set(head, label);
  view.set(text, from);
  const end = from + text.length;
  const until = kernels.label(label, head.length, at, from, end, to);
  return view.subarray(to, until);
}
