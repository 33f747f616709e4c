/**
 * Searches blocks of bytes for lines with keywords, in WebAssembly (the loops
 * are in kernels/search.ts).
 *
 * @module
 */

import * as kernels from "../kernels/kernels.wasm";
import { align, free, growMemory, holdMemory } from "../shared/memory.ts";
import {
  compile,
  FIRST_REACH,
  type Query,
  type Reach,
  shared,
  unshared,
} from "./needles.ts";

export type { Mode, Query } from "./needles.ts";

/** How much is searched at a time, in bytes. */
export const BLOCK = 1 << 18;
/** Lines longer than this are not held, in bytes. */
export const LINE_MAX = 64 << 10;
/** The longest keyword, in bytes. The limit bounds what the worst file costs. */
export const KEYWORD_MAX = 4096;
/** What a hit weighs besides its text, in bytes. */
const HIT = 200;
/** What the kernel's `fold` says. */
const RARE = 1, MORE_THAN_ASCII = 2;
const NEWLINE = 10;
/** The most bytes of a character. */
const UTF8_MAX = 4;
/** How far the kernels may read behind an end, in bytes. */
const SLACK = 80;
/** How many lines the kernel reports at a time, and the bytes of each report. */
const LINES = 4096, LINE = 12;

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
  /**
   * How long each of these is in `text`, without its newline, if it was in another
   * character set: there it is UTF-8.
   */
  sizes?: number[];
  /** Of what can be read only once: longer lines, by their offsets. */
  long?: Map<number, Uint8Array>;
}

/**
 * How long a line is in the text of hits.
 *
 * @param hits The lines
 * @param i Which of them
 * @returns Its length without its newline, in bytes; undefined if it is too long to
 * be held
 *
 * @example
 * ```ts
 * import { sizeOf } from "./search.ts";
 *
 * console.log(sizeOf({ lengths: [3] }, 0)); // 3
 * ```
 */
export function sizeOf(
  { lengths, sizes }: Pick<Hits, "lengths" | "sizes">,
  i: number,
): number | undefined {
  if (lengths[i] > LINE_MAX) return;
  return sizes ? sizes[i] : lengths[i];
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

// Memory

/** A view of the whole kernel memory, made anew after the memory grew. */
let view = growMemory(0);

function reserve(size: number): void {
  const isFresh = view.buffer === kernels.memory.buffer;
  if (!isFresh || view.length < size) view = growMemory(size);
}

/**
 * How a search uses the memory: what was kept of the block before, the block, what
 * the kernel reports of lines, their text, a copy of the block in which case is
 * folded, and the compiled query. The text of lines is never longer than what was
 * searched and a newline.
 */
const BLOCK_AT = align(kernels.base() + LINE_MAX) + 16;
const LINES_AT = align(BLOCK_AT + BLOCK + SLACK);
const TEXT_AT = LINES_AT + LINE * LINES;
const FOLDED_AT = align(TEXT_AT + LINE_MAX + BLOCK + 1 + LINE_MAX) + 16;
const QUERY_AT = align(FOLDED_AT + BLOCK + SLACK);

/** A query as the kernels want it. */
class CompiledQuery {
  /** What is to be copied to `QUERY_AT`. */
  readonly bytes: Uint8Array;
  /** The table of what a line must not have; 0 if there is none. */
  readonly unwanted: number;
  /** The table of all keywords, and where it says how many were seen. */
  readonly table: number;
  readonly seen: number;
  /** How many keywords there are. */
  readonly count: number;
  /** The table for folding case; 0 if there is none. */
  readonly folds: number;
  /** How many bytes a keyword has at most, in its longest form. */
  readonly longest: number;
  /** Where the memory ends that it needs. */
  readonly #end: number;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    const { buffer, byteOffset, length } = bytes;
    const numbers = new Uint32Array(buffer, byteOffset, length >> 2);
    [, , this.unwanted, this.table, this.folds, this.longest] = numbers;
    this.#end = numbers[6];
    const table = (this.table - QUERY_AT) / 4; // as kernels/needles.ts has it
    this.seen = numbers[table + 3];
    this.count = numbers[table + 4];
  }

  /** Puts it into the memory, unless it is there. */
  load(): void {
    reserve(this.#end + SLACK);
    if (!holdMemory(this)) view.set(this.bytes, QUERY_AT);
  }
}

/** The query that was used last, as JSON, and what it was compiled to. */
let latest: {
  query?: Query;
  key: string;
  compiled: Map<Reach, CompiledQuery>;
} = { key: "", compiled: new Map() };

/** Compiles a query, unless it is the same one as before: requests repeat it. */
function compiled(query: Query, reach: Reach): CompiledQuery {
  if (latest.query !== query) { // else of the same request
    const key = query.shared?.id ??
      JSON.stringify({ ...query, mode: "", max: 0 });
    const { compiled } = latest.key === key ? latest : { compiled: new Map() };
    latest = { query, key, compiled };
  }
  let found = latest.compiled.get(reach);
  if (!found) {
    const bytes = query.shared && reach === FIRST_REACH
      ? new Uint8Array(query.shared.compiled)
      : compile(unshared(query), QUERY_AT, reach);
    latest.compiled.set(reach, found = new CompiledQuery(bytes));
  }
  return found;
}

/** From so many keywords on, copying and compiling them takes time. */
const MANY = 32;

/**
 * Makes a query that workers of this process neither copy nor compile, where it
 * has many keywords.
 *
 * @param query A query
 * @returns The same query, for requests to workers
 *
 * @example
 * ```ts
 * import { forWorkers } from "./search.ts";
 *
 * const query = { keywords: ["a"], mode: "count" as const };
 * console.log(forWorkers(query) === query); // true
 * ```
 */
export function forWorkers(query: Query): Query {
  return query.keywords.length < MANY ? query : shared(query, QUERY_AT);
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
  /** The query, as it is used for the block in the memory. */
  #compiled: CompiledQuery;
  /** What the text had so far, if case is ignored. */
  #reach = FIRST_REACH;
  /** How far behind what is searched the text is: that may be a folded copy. */
  #ahead = 0;
  /** How many bytes beside a keyword decide whether it is there. */
  readonly #margin: number;
  /** Whether lines are counted. It may be set to false during the search. */
  counts: boolean;
  /** Lines that begin here or later are not searched. */
  readonly #limit: number;
  /** Memory for the bytes kept between two blocks. */
  #buffer = EMPTY;
  #kept = this.#buffer;
  /** Where in the file the kept bytes begin; what comes before is done. */
  #offset: number;
  /** The unfinished line, if it is too long to be held. */
  #long?: { offset: number; keywords: Set<number>; isUnwanted: boolean };
  #skipping: boolean;
  /** How many more lines are wanted. */
  #wanted: number;
  #done = false;
  #weight = 0;
  #found: SearchResult = { lines: 0, count: 0 };
  /** The sets of keywords in `#found`, and where they are in its list of them. */
  #sets?: Map<string, number>;
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
    this.#compiled = compiled(query, this.#reach);
    const { longest } = this.#compiled;
    this.#margin = (query.words ? UTF8_MAX : 0) +
      (query.ignoreCase ? longest : 0);
    this.counts = counts;
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
    reserve(QUERY_AT);
    return this.#blockView = view.subarray(BLOCK_AT, BLOCK_AT + BLOCK);
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
    const from = this.#prepare(BLOCK_AT);
    if (this.#long) this.#endLong(from, BLOCK_AT);
    else this.#searchLines(from, BLOCK_AT, from);
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
    this.#sets = undefined;
    this.#textLength = this.#weight = 0;
    return found;
  }

  /**
   * Puts what was kept in front of the block, the query behind it, and newlines
   * around both, as the lines end there. If case is ignored, a copy is folded.
   * Returns where the text begins.
   */
  #prepare(end: number): number {
    reserve(QUERY_AT);
    const from = BLOCK_AT - this.#kept.length;
    view.set(this.#kept, from);
    view[from - 1] = view[end] = NEWLINE;
    if (this.#query.ignoreCase) this.#fold(from, end);
    else this.#compiled.load();
    return from;
  }

  /** Folds case, and takes the compiled query that is for what the text has. */
  #fold(from: number, end: number): void {
    this.#ahead = BLOCK_AT - FOLDED_AT;
    const [to, until] = [from - this.#ahead, end - this.#ahead];
    const fold = (reach: Reach) => {
      this.#compiled = compiled(this.#query, reach);
      this.#compiled.load();
      return kernels.fold(this.#compiled.folds, from, end, to);
    };
    let had = fold(this.#reach);
    if (had === MORE_THAN_ASCII) had = fold(this.#reach = "usual");
    if (had === RARE) fold("all");
    view[to - 1] = view[until] = NEWLINE;
  }

  #searchMemory(length: number): void {
    const end = BLOCK_AT + length;
    const from = this.#prepare(end);
    let at = from;
    if (this.#skipping || this.#long) {
      const newline = kernels.next(from, end);
      if (newline === end) {
        if (this.#long) this.#searchLong(from, from, end);
        this.#keep(from, this.#long ? this.#overlap(from, end) : end, end);
        // The whole span lies inside a line that began before it.
        this.#done = this.#skipping && this.#offset >= this.#limit;
        return;
      }
      if (this.#long) this.#endLong(from, newline);
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
    const found = this.#found, { mode } = this.#query;
    let at = from, isFull = true;
    while (isFull && at < to && !this.#done) {
      const most = mode === "count" ? -1 : Math.min(LINES, this.#wanted);
      const count = kernels.collect(
        QUERY_AT,
        at - this.#ahead,
        to - this.#ahead,
        this.#ahead,
        most,
        mode === "count" ? 0 : LINES_AT,
        TEXT_AT,
        LINE_MAX,
      );
      if (mode === "count") return this.#countLines(count);
      isFull = count === most;
      if (count === 0) break;
      at = this.#takeLines(count, base);
      if (at <= to) found.lines++; // the newline of the last line taken
    }
    if (this.counts && at < to) found.lines += kernels.count(at, to);
  }

  #countLines(count: number): void {
    this.#found.count += Math.min(count, this.#wanted);
    this.#wanted -= count;
    this.#done = this.#wanted <= 0;
  }

  /** Takes over the lines that the kernel reported; returns where they end. */
  #takeLines(lineCount: number, base: number): number {
    const found = this.#found;
    const words = new Uint32Array(view.buffer, LINES_AT, 3 * lineCount);
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

  /** The keywords in a range, in their order, if that is asked for. */
  #seenIn(from: number, end: number): number[] {
    if (this.#compiled.count === 1) return FIRST_KEYWORD;
    if (this.#query.which === false) return NO_KEYWORDS;
    return this.#mark(from, end).sort((a, b) => a - b);
  }

  /** The keywords in a range. */
  #mark(from: number, end: number): number[] {
    const { table, seen } = this.#compiled;
    const ahead = this.#ahead;
    const count = kernels.mark(table, from - ahead, end - ahead);
    if (count === 0) return [];
    const list = new Uint32Array(view.buffer, seen, 3)[2];
    return [...new Uint32Array(view.buffer, list, count)];
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
    const text = view.subarray(TEXT_AT, TEXT_AT + length);
    this.#text.set(text, this.#textLength);
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
    hits.keywords.push(this.#indexOf(keywords, hits.sets));
  }

  #indexOf(set: number[], sets: number[][]): number {
    if (set === sets[0]) return 0; // always so with a single keyword
    const known = this.#sets ??= new Map();
    const key = set.join();
    const index = known.get(key) ?? sets.push(set) - 1;
    known.set(key, index);
    return index;
  }

  #beginLong(from: number, start: number, end: number): void {
    const offset = this.#offset + start - from;
    this.#long = { offset, keywords: new Set(), isUnwanted: false };
    this.#searchLong(from, start, end);
    this.#keep(from, this.#overlap(start, end), end);
  }

  /** From where on a long line is searched again, together with what follows. */
  #overlap(from: number, end: number): number {
    const { longest } = this.#compiled;
    return Math.max(from, end - longest + 1 - 2 * this.#margin);
  }

  /**
   * Searches a piece of a long line, but for what is so near to its ends that it
   * depends on the next piece, or did on the one before.
   */
  #searchLong(base: number, start: number, end: number, isLast = false): void {
    const long = this.#long!;
    const { count, table, unwanted } = this.#compiled;
    const { all, mode, which } = this.#query;
    const isOneEnough = !all && (mode === "count" || which === false);
    const isKnown = long.keywords.size >= (isOneEnough ? 1 : count);
    if (isKnown && !unwanted) return;
    const isFirst = this.#offset + start - base === long.offset;
    const from = isFirst ? start : start + this.#margin;
    const to = isLast ? end : end - this.#margin;
    if (from >= to) return;
    const [at, until] = [from - this.#ahead, to - this.#ahead];
    if (!isOneEnough) {
      for (const keyword of this.#mark(from, to)) long.keywords.add(keyword);
    } else if (!isKnown && kernels.has(table, at, until)) {
      long.keywords.add(0);
    }
    if (!unwanted) return;
    if (kernels.has(unwanted, at, until)) long.isUnwanted = true;
  }

  /** Ends a long line: at its newline, or at the end of the file. */
  #endLong(from: number, end: number): void {
    this.#searchLong(from, from, end, true);
    const { offset, keywords, isUnwanted } = this.#long!;
    this.#long = undefined;
    const length = this.#offset + end - from - offset;
    const least = this.#query.all ? this.#compiled.count : 1;
    if (keywords.size >= least && !isUnwanted) {
      const known = this.#query.which === false && this.#compiled.count > 1
        ? NO_KEYWORDS
        : [...keywords].sort((a, b) => a - b);
      this.#addHit(offset, length, known);
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
/** What lines have if there is one keyword, or if it is not asked for. */
const FIRST_KEYWORD = [0], NO_KEYWORDS: number[] = [];

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
  hits: Hits,
  before: number,
  label: string,
): Generator<Uint8Array | number, void, void> {
  const { lines, text } = hits;
  const head = new TextEncoder().encode(`${label}:`);
  let at = 0;
  for (let i = 0; i < lines.length;) {
    if (sizeOf(hits, i) === undefined) {
      yield i++;
      continue;
    }
    const numbers: number[] = [];
    let end = at, size = 0;
    for (; size < LABELLED_BYTES && i < lines.length; i++) {
      const own = sizeOf(hits, i);
      if (own === undefined) break;
      numbers.push(before + lines[i] + 1);
      end += own + 1;
      size += head.length + NUMBER_MAX + own + 1;
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
  if (to + size > QUERY_AT) holdMemory(undefined);
  new Float64Array(view.buffer, at, numbers.length).set(numbers);
  view.set(head, label);
  view.set(text, from);
  const end = from + text.length;
  const until = kernels.label(label, head.length, at, from, end, to);
  return view.subarray(to, until);
}
