/**
 * Turns a query into what the kernels search for: see kernels/needles.ts.
 *
 * @module
 */

import * as kernels from "../kernels/kernels.wasm";
import { align, growMemory, joined } from "../shared/memory.ts";
import { type Coding, encoded } from "./text.ts";
import { foldTable, formsOf, wordTable } from "./unicode.ts";

/**
 * What is wanted of a file: whether a keyword is in it (it stops at the first
 * hit), how many lines have one, or these lines.
 */
export type Mode = "found" | "count" | "lines";

/** What to look for, and what is wanted. */
export interface Query extends Coding {
  /** One or more keywords, none of them empty or with a line break in it. */
  keywords: string[];
  /** Whether case is ignored, by Unicode's simple case folding. Default: false. */
  ignoreCase?: boolean;
  /** Whether they are whole words: no letter, digit or underscore is beside them. */
  words?: boolean;
  /** Whether a line must have all of them. Default: one is enough. */
  all?: boolean;
  /** What a line must not have: none of these. */
  without?: string[];
  /** What is wanted. */
  mode: Mode;
  /** Whether it is wanted which keywords a line has. Default: true. */
  which?: boolean;
  /** How many lines are enough. Default: no limit. */
  max?: number;
  /** Whether the first file, or member of an archive, that has one is enough. */
  first?: boolean;
  /** Set by {@linkcode shared}, instead of the keywords and `without`. */
  shared?: SharedQuery;
}

/** A compiled query in memory that all threads share. */
export interface SharedQuery {
  /** Another one for each. */
  id: string;
  /** What the kernels need. */
  compiled: SharedArrayBuffer;
  /** The query as JSON, for what the compiled one does not reach. */
  source: SharedArrayBuffer;
}

/** A keyword as bytes. */
interface Needle {
  /** Which keyword it is. */
  keyword: number;
  /** Where its bytes are in those of all needles, which lie one after another. */
  start: number;
  end: number;
  /** What follows, see kernels/needles.ts. */
  rest?: Uint8Array<ArrayBuffer>;
}

/** Keywords as bytes. An array for each would take most of the time of a list. */
interface Needles {
  bytes: Uint8Array;
  needles: Needle[];
}

const encoder = new TextEncoder();

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

/** For each byte 1, if it is part of a word: 0-9, A-Z, a-z, and beyond ASCII. */
const IN_WORD = new Uint8Array(256)
  .fill(1, 0x30, 0x3a).fill(1, 0x41, 0x5b).fill(1, 0x61, 0x7b).fill(1, 0x80);

/**
 * Where the two bytes are to compare first: the rarest ones, not the same byte
 * twice, and of two different words if there are two; what follows a word is part
 * of it. A line that has one byte of a word mostly has the whole word, so a second
 * byte of the same word tells little: for "unauthorized access", where each line
 * has "authorized", and for "status=503", where each line has "status=", the rule
 * saves more than half of the time.
 */
function rarestPair(bytes: Uint8Array): [number, number] {
  const rank = (i: number) => FREQUENCY[bytes[i]];
  let first = 0;
  for (let i = 1; i < bytes.length; i++) if (rank(i) < rank(first)) first = i;
  const isStart = (i: number) => IN_WORD[bytes[i]] > IN_WORD[bytes[i - 1]];
  let start = first, end = first + 1;
  while (start > 0 && !isStart(start)) start--;
  while (end < bytes.length && !isStart(end)) end++;
  const isBeside = (i: number) => start <= i && i < end;
  const rankOther = (i: number) =>
    bytes[i] === bytes[first] ? 512 : rank(i) + (isBeside(i) ? 256 : 0);
  let second = first === 0 ? bytes.length - 1 : 0;
  for (let i = 0; i < bytes.length; i++) {
    if (rankOther(i) < rankOther(second)) second = i;
  }
  return [first, second];
}

/**
 * Where the rarest of the fingerprints begins that a needle has two of, side by
 * side. What is not part of the needle may be any byte: if it is short, the first
 * one begins a byte before it, so that both have all of its bytes.
 */
function rarestPrint(bytes: Uint8Array): number {
  const rank = (i: number) => {
    let sum = 0, words = 0;
    for (let k = i; k < i + PRINT; k++) {
      sum += FREQUENCY[bytes[k]] ?? ANY;
      if (IN_WORD[bytes[k]] && (k === i || !IN_WORD[bytes[k - 1]])) words++;
    }
    return words > 1 ? sum : sum + ONE_WORD;
  };
  let first = -1;
  let least = rank(-1) + rank(0);
  for (let i = 0; i + PRINT < bytes.length; i++) {
    const sum = rank(i) + rank(i + 1);
    if (sum >= least) continue;
    first = i;
    least = sum;
  }
  return first;
}

/** What it counts if a fingerprint is part of one word: that may be a common one. */
const ONE_WORD = 128;
/** What any byte counts: as much as the most frequent ones. */
const ANY = 128;

const NEWLINE = 10;

/**
 * What of the text a compiled query can be used for: for ASCII only, if case is
 * ignored; for all but rare forms of characters; or for everything. Rare forms are
 * those of another length, as the sign of Kelvin, which is a form of k.
 */
export type Reach = "ascii" | "usual" | "all";
/** What is tried first. */
export const FIRST_REACH: Reach = "ascii";

/** The sizes of what kernels/needles.ts and kernels/search.ts define, in bytes. */
const HEADER = 32, NEEDLE = 32, TABLE = 80, SEEN = 12;
const BUCKETS = 8, PRINT = 6, HALVES = 8, NIBBLES = HALVES * 16 + 16;
/** The kinds of a table. */
const ONE = 0, FEW = 1, LIST = 2, SHORT = 3;
/**
 * Up to so many needles are looked for as few: of these, 32 are found at 6 GB/s and
 * 64 at 1.5 or less, while they are at 3.5 as a list.
 */
const FEW_MAX = 32;
/**
 * Where a needle says what is rare in it, and which bits of that are part of it, a
 * list where its short ones are, and a table where it has memory for an automaton.
 */
const PLACES = 4, MASK = 24, SHORT_TABLE = 56, ROOM = 60;
/** The shortest needle of a list, in bytes. */
const LONG = 7;

/**
 * Compiles a query.
 *
 * @param query What to look for
 * @param at Where in the kernels' memory it is to be copied for a search; what is
 * there now and behind it is overwritten
 * @param reach What of the text it is for
 * @returns A `Query` of kernels/search.ts and all it consists of
 *
 * @example
 * ```ts
 * import { compile } from "./needles.ts";
 * import * as kernels from "../kernels/kernels.wasm";
 *
 * const query = { keywords: ["a", "b"], mode: "count" as const };
 * console.log(compile(query, kernels.base(), "all").length > 32); // true
 * ```
 */
export function compile(
  query: Query,
  at: number,
  reach: Reach,
): Uint8Array<ArrayBuffer> {
  const { keywords, without = [], all = false, ignoreCase = false } = query;
  const layout = new Layout(at + HEADER);
  const words = query.words ? layout.put(wordTable()) : 0;
  const folds = ignoreCase && reach !== "ascii" ? layout.put(foldTable()) : 0;
  const table = (texts: string[]) => {
    const needles = needlesOf(texts, query, reach === "all");
    return layout.addTable(needles, texts.length, words);
  };
  const each = table(keywords);
  // Where a line has to have all, those with the rarest one are looked at closer.
  const rarest = all && keywords.length > 1 ? table([rarestOf(keywords)]) : 0;
  const unwanted = without.length > 0 ? table(without) : 0;
  // No form of a character is more than 3 times as long as another.
  const longest = (ignoreCase ? 3 : 1) * layout.longest;
  layout.set(at, [
    ...[rarest || each, rarest && each, unwanted],
    ...[each, folds, longest, layout.addRooms()],
  ]);
  return layout.copy(at);
}

/**
 * Makes a query that workers need neither copy nor compile.
 *
 * @param query A query
 * @param at As for {@linkcode compile}
 * @returns The same query, for requests to workers of this process
 *
 * @example
 * ```ts
 * import { shared, unshared } from "./needles.ts";
 * import * as kernels from "../kernels/kernels.wasm";
 *
 * const query = { keywords: ["a", "b"], mode: "count" as const };
 * const other = shared(query, kernels.base());
 * console.log(other.keywords, unshared(other).keywords); // [] [ "a", "b" ]
 * ```
 */
export function shared(query: Query, at: number): Query {
  const source = toShared(encoder.encode(JSON.stringify(query)));
  const compiled = toShared(compile(query, at, FIRST_REACH));
  const id = crypto.randomUUID();
  const { keywords: _, without: __, ...rest } = query;
  return { ...rest, keywords: [], shared: { id, compiled, source } };
}

/**
 * Gives the query that was {@linkcode shared}.
 *
 * @param query What `shared` returned
 * @returns What it was given
 *
 * @example
 * ```ts
 * import { unshared } from "./needles.ts";
 *
 * console.log(unshared({ keywords: ["a"], mode: "count" }).keywords); // [ "a" ]
 * ```
 */
export function unshared(query: Query): Query {
  if (!query.shared) return query;
  // `TextDecoder` does not read shared memory.
  const bytes = new Uint8Array(query.shared.source).slice();
  return JSON.parse(new TextDecoder().decode(bytes));
}

function toShared(bytes: Uint8Array): SharedArrayBuffer {
  const memory = new SharedArrayBuffer(bytes.length);
  new Uint8Array(memory).set(bytes);
  return memory;
}

/** The keyword that probably is in the fewest lines. */
function rarestOf(keywords: string[]): string {
  const rank = (text: string) => {
    const bytes = encoder.encode(text);
    const at = Math.max(0, rarestPrint(bytes));
    const print = bytes.subarray(at, at + PRINT);
    return print.reduce((sum, byte) => sum + FREQUENCY[byte] - 256, 0);
  };
  return keywords.reduce((a, b) => rank(b) < rank(a) ? b : a);
}

/** The needles of keywords; with `rare` also those with rare forms in them. */
function needlesOf(
  keywords: string[],
  { ignoreCase, ...coding }: Query,
  rare: boolean,
): Needles {
  const text = keywords.join("\n") + "\n"; // none of them has a line break
  let bytes = encoded(ignoreCase ? folded(text) : text, coding);
  const needles: Needle[] = [];
  for (let start = 0, keyword = 0; start < bytes.length; keyword++) {
    const end = bytes.indexOf(NEWLINE, start);
    needles.push({ keyword, start, end, rest: undefined });
    start = end + 1;
  }
  if (!ignoreCase || !rare) return { bytes, needles };
  const parts = [bytes];
  let start = bytes.length;
  for (const [keyword, text] of keywords.entries()) {
    for (const [fixed, rest] of rareForms(text)) {
      const end = start + parts[parts.push(fixed) - 1].length;
      needles.push({ keyword, start, end, rest });
      start = end;
    }
  }
  bytes = joined(parts);
  return { bytes, needles };
}

/** A text in the usual forms of its characters. */
function folded(text: string): string {
  if (!/[^\0-\x7f]/.test(text)) return text.toLowerCase();
  return Array.from(text, (character) => formsOf(character)[0]).join("");
}

/** Rare forms behind so many characters share a needle: each has what is before it. */
const RARE_MAX = 16;

/**
 * For each rare form in a keyword a needle in which it is the first one: before it
 * all is as usual, and so are its bytes up to the next character with several
 * lengths, from where on every form is tried. In the last needle that is so from
 * a later character on, whichever form that has.
 */
function* rareForms(
  text: string,
): Generator<[fixed: Uint8Array<ArrayBuffer>, rest: Uint8Array<ArrayBuffer>]> {
  const forms = Array.from(text, formsOf);
  const usual = (from: number, end: number) =>
    forms.slice(from, end).map(([form]) => form).join("");
  // All needles of a keyword share these bytes, of which each has the end.
  const bytes: number[] = [], starts: number[] = [];
  for (const each of forms) {
    starts.push(bytes.length);
    bytes.push(each.length);
    for (const form of each) {
      const own = encoder.encode(form);
      bytes.push(own.length, ...own);
    }
  }
  const all = new Uint8Array([...bytes, 0]);
  const restFrom = (i: number) => all.subarray(starts[i] ?? bytes.length);
  for (let i = 0; i < forms.length; i++) {
    if (forms[i].length === 1) continue;
    if (i >= RARE_MAX) {
      return yield [encoder.encode(usual(0, i)), restFrom(i)];
    }
    let next = i + 1;
    while (next < forms.length && forms[next].length === 1) next++;
    for (const rare of forms[i].slice(1)) {
      const fixed = usual(0, i) + rare + usual(i + 1, next);
      yield [encoder.encode(fixed), restFrom(next)];
    }
  }
}

/** Lays structures out in the kernels' memory, one behind the other. */
class Layout {
  #end: number;
  #view = growMemory(0);
  /** How many bytes a needle has at most. */
  longest = 0;
  /** The tables, and how many needles each has. */
  readonly #tables = new Map<number, number>();

  constructor(at: number) {
    this.#end = at;
  }

  /** Takes so many bytes, which are 0, and has memory for `more` behind them. */
  #take(size: number, more = 0): number {
    const at = this.#end;
    this.#end = align(at + size);
    const isFresh = this.#view.buffer === kernels.memory.buffer;
    if (!isFresh || this.#view.length < this.#end + more) {
      this.#view = growMemory(this.#end + more);
    }
    this.#view.fill(0, at, this.#end);
    return at;
  }

  /** Puts bytes; returns where. */
  put(bytes: Uint8Array): number {
    const at = this.#take(bytes.length);
    this.#view.set(bytes, at);
    return at;
  }

  /** Sets numbers of 32 bits. */
  set(at: number, numbers: number[]): void {
    new Uint32Array(this.#view.buffer, at, numbers.length).set(numbers);
  }

  /** A copy of everything from an address on. */
  copy(at: number): Uint8Array<ArrayBuffer> {
    return this.#view.slice(at, this.#end);
  }

  /**
   * Gives each table the memory behind all that has to be copied, in which the
   * kernels make an automaton once they need one. Returns where it ends.
   */
  addRooms(): number {
    let room = this.#end;
    for (const [table, count] of this.#tables) {
      this.set(table + ROOM, [room]);
      room = align(room + kernels.automatonSize(count));
    }
    return room;
  }

  /** Adds a table of needles; returns where. */
  addTable(needles: Needles, keywords: number, words: number): number {
    const table = this.#addTable(needles, keywords, words);
    this.#tables.set(table, needles.needles.length);
    return table;
  }

  #addTable(
    { bytes, needles }: Needles,
    keywords: number,
    words: number,
  ): number {
    const seen = this.#take(SEEN);
    this.set(seen, [0, this.#take(keywords), this.#take(4 * keywords)]);
    const options = [seen, keywords, words];
    const bytesAt = this.put(bytes);
    if (needles.length <= FEW_MAX) {
      return this.#addFew(needles, bytesAt, options);
    }
    const isLong = ({ start, end }: Needle) => end - start >= LONG;
    const long = needles.filter(isLong);
    const others = needles.filter((needle) => !isLong(needle));
    const short = others.length === 0
      ? 0
      : others.length <= FEW_MAX
      ? this.#addFew(others, bytesAt, options)
      : this.#addList(SHORT, others, bytesAt, options);
    if (long.length === 0) return short;
    const list = this.#addList(LIST, long, bytesAt, options);
    this.set(list + SHORT_TABLE, [short]);
    return list;
  }

  #addFew(needles: Needle[], bytesAt: number, options: number[]): number {
    if (needles.length === 1) return this.#addOne(needles[0], bytesAt, options);
    const placed = needles.flatMap((needle) => {
      const { start, end } = needle;
      const bytes = this.#view.slice(bytesAt + start, bytesAt + end);
      const first = rarestPrint(bytes);
      return [first, first + 1].map((at, other) => ({
        ...{ needle, at, other, head: headOf(bytes, at) },
        ...{ halves: halvesOf(bytes, at), bucket: 0 },
      }));
    });
    const masks = fillBuckets(placed);
    placed.sort((a, b) => a.bucket - b.bucket);
    const count = placed.length;
    const at = this.#addNeedles(placed.map(({ needle }) => needle), bytesAt);
    for (const [i, { at: first, head, other }] of placed.entries()) {
      this.set(at + NEEDLE * i + PLACES, [first, head[0]]);
      this.set(at + NEEDLE * i + MASK, [head[1], other]);
    }
    const table = this.#take(TABLE);
    const buckets = this.#take(4 * (BUCKETS + 1));
    const nibbles = this.#take(NIBBLES);
    this.set(table, [FEW, count, at, ...options, buckets, nibbles]);
    const starts = masks.map((_, bucket) =>
      placed.filter((place) => place.bucket < bucket).length
    );
    this.set(buckets, [...starts, count]);
    const tables = this.#view.subarray(nibbles, nibbles + NIBBLES);
    for (const [bucket, halves] of masks.entries()) {
      for (let i = 0; i < 16 * HALVES; i++) {
        if (halves[i >> 4] >> (i & 15) & 1) tables[i] |= 1 << bucket;
      }
    }
    return table;
  }

  #addOne(needle: Needle, bytesAt: number, options: number[]): number {
    const { start, end } = needle;
    const at = this.#addNeedles([needle], bytesAt);
    const bytes = this.#view.slice(bytesAt + start, bytesAt + end);
    this.set(at + PLACES, rarestPair(bytes));
    const table = this.#take(TABLE);
    this.set(table, [ONE, 1, at, ...options]);
    return table;
  }

  #addList(
    kind: number,
    needles: Needle[],
    bytesAt: number,
    options: number[],
  ): number {
    const at = this.#addNeedles(needles, bytesAt);
    const table = this.#take(TABLE);
    const ranks = this.put(FREQUENCY);
    const entries = (kind === SHORT ? 1 : 4) * needles.length;
    const bits = Math.max(8, Math.ceil(Math.log2(entries)));
    this.set(table, [kind, needles.length, at, ...options]);
    const size = kernels.listSize(kind, needles.length, bits);
    const free = this.#take(size, kernels.SCRATCH);
    kernels.buildList(table, bits, ranks, free);
    return table;
  }

  /** Puts what follows needles, once for all that share it; returns where. */
  #putRests(needles: Needle[]): Map<ArrayBuffer, number> {
    const at = new Map<ArrayBuffer, number>();
    for (const { rest } of needles) {
      if (!rest || at.has(rest.buffer)) continue;
      at.set(rest.buffer, this.put(new Uint8Array(rest.buffer)));
    }
    return at;
  }

  /** Adds needles, which lie in one piece, and what follows their bytes. */
  #addNeedles(needles: Needle[], bytesAt: number): number {
    const at = this.#take(NEEDLE * needles.length);
    const restsAt = this.#putRests(needles);
    const size = NEEDLE / 4;
    const { buffer } = this.#view;
    const numbers = new Uint32Array(buffer, at, size * needles.length);
    for (let i = 0, k = 0; i < needles.length; i++, k += size) {
      const { keyword, start, end, rest } = needles[i];
      numbers[k] = end - start;
      numbers[k + 3] = keyword;
      numbers[k + 4] = bytesAt + start;
      this.longest = Math.max(this.longest, end - start);
      if (!rest) continue;
      numbers[k + 5] = restsAt.get(rest.buffer)! + rest.byteOffset;
    }
    return at;
  }
}

/** The first 4 bytes of a fingerprint, and which bits of it are a needle's. */
function headOf(bytes: Uint8Array, at: number): [head: number, mask: number] {
  let head = 0, mask = 0;
  for (let i = 0; i < 4; i++) {
    if (bytes[at + i] === undefined) continue;
    head |= bytes[at + i] << 8 * i;
    mask |= 0xff << 8 * i;
  }
  return [head, mask];
}

/**
 * The halves of the bytes of a fingerprint, in the order of `searchFew` in
 * kernels/search.ts: of each half a bit for each of the 16 that are right.
 */
type Halves = number[];

function halvesOf(bytes: Uint8Array, at: number): Halves {
  const halves: Halves = [];
  for (let i = 0; i < PRINT; i++) {
    const byte: number | undefined = bytes[at + i];
    const bit = (half: number) => byte === undefined ? 0xffff : 1 << half;
    halves.push(bit(byte & 15));
    if (i < 2) halves.push(bit(byte >> 4));
  }
  return halves;
}

/**
 * Puts each fingerprint into the bucket that lets the fewest others pass: those of
 * any combination of its halves do. Gives the halves of each bucket. With the
 * fingerprints in their order, an eighth in each bucket, up to ten times as many
 * places had to be verified.
 */
function fillBuckets(prints: { halves: Halves; bucket: number }[]): Halves[] {
  const buckets: Halves[] = Array.from(
    { length: BUCKETS },
    () => Array(HALVES).fill(0),
  );
  for (const print of prints) {
    let least = Infinity;
    for (const [bucket, halves] of buckets.entries()) {
      const both = halves.map((half, i) => half | print.halves[i]);
      const more = passing(both) - passing(halves);
      if (more >= least) continue;
      least = more;
      print.bucket = bucket;
    }
    const halves = buckets[print.bucket];
    print.halves.forEach((half, i) => halves[i] |= half);
  }
  return buckets;
}

/** How many combinations there are of the halves of a bucket. */
function passing(halves: Halves): number {
  return halves.reduce((product, half) => {
    let bits = 0;
    for (; half; half &= half - 1) bits++;
    return product * bits;
  }, 1);
}
