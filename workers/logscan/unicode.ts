/**
 * Case and words in Unicode, as the engine's regular expressions know them, in
 * tables for the kernels.
 *
 * @module
 */

import { joined } from "../shared/memory.ts";

/** How many times 256 characters there are. */
const PAGES = 0x1100;
/** No character behind these has a case, or is part of a word. */
const CASED_MAX = 0x1ffff, WORDS_MAX = 0xe0fff;

/** All characters up to one, in their order. */
function characters(last: number): string {
  const units = new Uint16Array(2 * last + 2);
  let length = 0;
  for (let code = 0; code <= last; code++) {
    // Nothing is assigned in planes 4 to 13, and surrogates are no characters.
    if (code === 0x40000) code = 0xe0000;
    if (code === 0xd800) code = 0xe000;
    if (code < 0x10000) units[length++] = code;
    else {
      units[length++] = 0xd7c0 + (code >> 10);
      units[length++] = 0xdc00 | code & 0x3ff;
    }
  }
  return new TextDecoder("utf-16le", { ignoreBOM: true })
    .decode(units.subarray(0, length));
}

/** Puts pages of a table behind the bytes that say which is whose. */
function tableOf(
  pages: Map<number, Uint8Array<ArrayBuffer>>,
  size: number,
): Uint8Array {
  const index = new Uint8Array(PAGES);
  const parts = [index, new Uint8Array(size)]; // of all that have none
  const known = new Map<string, number>(); // hundreds are full
  for (const [page, bytes] of pages) {
    const key = bytes.join();
    const same = known.get(key) ?? parts.push(bytes) - 2;
    known.set(key, same);
    index[page] = same;
  }
  return joined(parts);
}

let words: Uint8Array | undefined;

/**
 * Says which characters are parts of words: letters with their marks, digits, and
 * what joins words, such as the underscore (`\w` of ripgrep). It takes 20 ms.
 *
 * @returns A table for the kernels, see `isWord` in kernels/needles.ts
 *
 * @example
 * ```ts
 * import { wordTable } from "./unicode.ts";
 *
 * console.log(wordTable().length > 0x1100); // true
 * ```
 */
export function wordTable(): Uint8Array {
  if (words) return words;
  const pages = new Map<number, Uint8Array<ArrayBuffer>>();
  const word = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+/gu;
  const all = characters(WORDS_MAX);
  for (let run; (run = word.exec(all));) {
    for (const character of run[0]) {
      const code = character.codePointAt(0)!, page = code >> 8;
      let bits = pages.get(page);
      if (!bits) pages.set(page, bits = new Uint8Array(32));
      bits[code >> 3 & 31] |= 1 << (code & 7);
    }
  }
  return words = tableOf(pages, 32);
}

/**
 * The forms of a character that differ in case only, those of the same length in
 * UTF-8 together; the usual length first.
 */
type Forms = string[][];

/** All characters with other forms. */
let cases: Map<string, Forms> | undefined;

/**
 * Unicode's simple case folding, turned round. A regular expression that ignores
 * case says what is equal; what might be is found by upper and lower letters, also
 * of several characters, as with ΐ, which is there twice. It takes 20 ms.
 */
function casesOf(): Map<string, Forms> {
  if (cases) return cases;
  const sets = new Map<string, Set<string>>();
  const isSame = /^(.)\1$/isu;
  const join = (a: string, b: string) => {
    if (a === b || !isSame.test(a + b)) return;
    const set = new Set([a, b, ...sets.get(a) ?? [], ...sets.get(b) ?? []]);
    for (const each of set) sets.set(each, set);
  };
  const byUpper = new Map<string, string>();
  const all = characters(CASED_MAX);
  const cased = /[\p{Changes_When_Casefolded}\p{Changes_When_Casemapped}]/gu;
  for (const character of all.match(cased)!) {
    const upper = character.toUpperCase();
    join(character, character.toLowerCase());
    join(character, upper);
    join(character, byUpper.get(upper) ?? character);
    byUpper.set(upper, character);
  }
  cases = new Map();
  for (const set of new Set(sets.values())) {
    const lengths = Map.groupBy([...set].sort(), bytesOf);
    const forms = [...lengths.values()].sort((a, b) => b.length - a.length);
    for (const each of set) cases.set(each, forms);
  }
  return cases;
}

function bytesOf(character: string): number {
  const code = character.codePointAt(0)!;
  return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

/** ASCII that has another form outside of it, and that form. */
const ASCII_CASES = new Map<string, Forms>([
  ["k", [["K", "k"], ["\u212a"]]],
  ["s", [["S", "s"], ["\u017f"]]],
]);

/**
 * The forms of a character, as it is folded: one for each length in UTF-8, the
 * usual one first.
 *
 * @param character A character
 * @returns Its forms; only itself if it has no case
 *
 * @example
 * ```ts
 * import { formsOf } from "./unicode.ts";
 *
 * console.log(formsOf("S"), formsOf("é")); // [ "s", "ſ" ] [ "é" ]
 * ```
 */
export function formsOf(character: string): string[] {
  const isAscii = character < "\x80";
  const key = isAscii ? character.toLowerCase() : character;
  const forms = isAscii ? ASCII_CASES.get(key) : casesOf().get(key);
  return forms?.map((same) => same.at(-1)!) ?? [key];
}

let folds: Uint8Array | undefined;

/**
 * Says how characters are folded: to the last one of those that are as long.
 *
 * @returns A table for the kernels, see kernels/fold.ts
 *
 * @example
 * ```ts
 * import { foldTable } from "./unicode.ts";
 *
 * console.log(foldTable().length > 0x1100); // true
 * ```
 */
export function foldTable(): Uint8Array {
  if (folds) return folds;
  const pages = new Map<number, Uint8Array<ArrayBuffer>>();
  for (const [character, forms] of casesOf()) {
    const code = character.codePointAt(0)!, page = code >> 8;
    const same = forms.find((same) => same.includes(character))!;
    const change = code ^ same.at(-1)!.codePointAt(0)!;
    let bytes = pages.get(page);
    if (!bytes) pages.set(page, bytes = new Uint8Array(1024));
    const rare = same === forms[0] ? 0 : 1;
    new Uint32Array(bytes.buffer)[code & 255] = change << 1 | rare;
  }
  return folds = tableOf(pages, 1024);
}
