/**
 * Character sets: which one a text is in, and how keywords are searched in it.
 *
 * @module
 */

import { joined } from "../shared/memory.ts";
import { type Blocks, breathe } from "./input.ts";

/** How texts are coded that do not say so by a byte-order mark. */
export interface Coding {
  /** The character set, by its name in `TextDecoder`; absent: it is noticed. */
  encoding?: string;
  /**
   * Whether keywords are searched as bytes of that character set, so that texts need
   * not be decoded.
   */
  isEncoded?: boolean;
}

/** The character sets in which a character may have several bytes. */
const SEVERAL_BYTES = new Set([
  ...["utf-8", "utf-16le", "utf-16be", "gbk", "gb18030", "big5", "euc-jp"],
  ...["iso-2022-jp", "shift_jis", "euc-kr"],
]);

/**
 * Gives the name of a character set.
 *
 * @param label A name that the Encoding Standard knows, such as `latin1`; `auto` for
 * what is noticed
 * @returns The name that it has in `TextDecoder`; undefined for `auto`
 * @throws {RangeError} If there is none of this name
 *
 * @example
 * ```ts
 * import { encodingNamed } from "./text.ts";
 *
 * console.log(encodingNamed("latin1")); // windows-1252
 * ```
 */
export function encodingNamed(label: string): string | undefined {
  return label === "auto" ? undefined : new TextDecoder(label).encoding;
}

/**
 * Says how texts are searched. They need not be decoded where each character is one
 * byte and none has two: a keyword's bytes then are found where it is, and nowhere
 * else. Letters beside a keyword, and in another case, are known of UTF-8 only.
 *
 * @param encoding The character set; undefined if it is noticed
 * @param query The keywords, and how they are to be compared
 * @returns What the functions of this module want to know
 *
 * @example
 * ```ts
 * import { codingOf } from "./text.ts";
 *
 * console.log(codingOf("windows-1252", { keywords: ["café"] }).isEncoded); // true
 * ```
 */
export function codingOf(
  encoding: string | undefined,
  { keywords, without = [], ignoreCase, words }: {
    keywords: string[];
    without?: string[];
    ignoreCase?: boolean;
    words?: boolean;
  },
): Coding {
  if (encoding === undefined) return {};
  if (SEVERAL_BYTES.has(encoding) || ignoreCase || words) return { encoding };
  const bytes = bytesOf(encoding);
  const isExact = [...keywords, ...without].every((keyword) =>
    [...keyword].every((character) => bytes.has(character))
  );
  return isExact ? { encoding, isEncoded: true } : { encoding };
}

const tables = new Map<string, Map<string, number>>();

/** The byte of each character of a character set; of none that has two. */
function bytesOf(encoding: string): Map<string, number> {
  const known = tables.get(encoding);
  if (known) return known;
  const decoder = new TextDecoder(encoding, { ignoreBOM: true });
  const bytes = new Map<string, number>();
  const doubled = new Set<string>(["\ufffd"]);
  for (let byte = 0; byte < 256; byte++) {
    const character = decoder.decode(Uint8Array.of(byte));
    if (bytes.has(character)) doubled.add(character);
    bytes.set(character, byte);
  }
  for (const character of doubled) bytes.delete(character);
  tables.set(encoding, bytes);
  return bytes;
}

const encoder = new TextEncoder();

/**
 * Encodes keywords as they are searched.
 *
 * @param text The keywords
 * @param coding What {@linkcode codingOf} said of them
 * @returns Their bytes: in UTF-8, unless they are searched in another character set
 *
 * @example
 * ```ts
 * import { encoded } from "./text.ts";
 *
 * console.log(encoded("é", { encoding: "windows-1252", isEncoded: true }));
 * // Uint8Array(1) [ 233 ]
 * ```
 */
export function encoded(
  text: string,
  { encoding, isEncoded }: Coding,
): Uint8Array<ArrayBuffer> {
  if (!isEncoded) return encoder.encode(text);
  const bytes = bytesOf(encoding!);
  return Uint8Array.from(text, (character) => bytes.get(character)!);
}

/** How much of a text is looked at to notice UTF-16, in bytes. */
export const SAMPLE = 4096;
/** Of fewer bytes nothing can be said. */
const LEAST = 8;
/** As much of a pipe may end within a character, in bytes; a file would not. */
const PIECE = 64;

/**
 * In which character set a text has to be decoded for the search. A byte-order mark
 * of UTF-16 says more than what the user says, as in browsers. UTF-16 without one is
 * noticed by NULs at every other place, if all else is text.
 *
 * @param head How the text begins
 * @param coding What is known of texts without a byte-order mark
 * @returns The character set; undefined if the text is searched as it is
 *
 * @example
 * ```ts
 * import { decodingOf } from "./text.ts";
 *
 * const head = new Uint8Array([104, 0, 101, 0, 114, 0, 101, 0]);
 * console.log(decodingOf(head, {})); // utf-16le
 * ```
 */
export function decodingOf(
  head: Uint8Array,
  { encoding, isEncoded }: Coding,
): string | undefined {
  if (head[0] === 0xff && head[1] === 0xfe) return "utf-16le";
  if (head[0] === 0xfe && head[1] === 0xff) return "utf-16be";
  if (encoding === undefined) return utf16Of(head.subarray(0, SAMPLE));
  return isEncoded || encoding === "utf-8" ? undefined : encoding;
}

/** Notices UTF-16 without a byte-order mark. */
function utf16Of(sample: Uint8Array): string | undefined {
  if (!sample.includes(0)) return; // as nearly always
  const isOdd = sample.length % 2 > 0;
  if (sample.length < (isOdd ? PIECE : LEAST)) return;
  if (isOdd) sample = sample.subarray(0, -1);
  const zeros = [0, 0];
  for (let i = 0; i < sample.length; i++) if (sample[i] === 0) zeros[i & 1]++;
  // The high byte of what is ASCII is 0, and few others have a low byte of 0.
  const [even, odd] = zeros;
  const encoding = odd > even ? "utf-16le" : "utf-16be";
  const many = Math.max(even, odd), few = Math.min(even, odd);
  // A third of the characters: fewer may be a list that has NULs between its items.
  if (6 * many < sample.length || 4 * few > many) return;
  const decoder = new TextDecoder(encoding, { fatal: true });
  try {
    // The sample may end within a character.
    const text = decoder.decode(sample, { stream: true });
    return IS_TEXT.test(text) ? encoding : undefined;
  } catch {
    return;
  }
}

/** No control characters but those of texts and terminals. */
// deno-lint-ignore no-control-regex
const IS_TEXT = /^[\t-\r\x1b\x20-\x7e\x80-\ufffd]*$/;

/**
 * Turns a text into UTF-8, where it has to be decoded for the search.
 *
 * @param blocks The text
 * @param decoding What {@linkcode decodingOf} said of it
 * @returns The text in UTF-8, without a byte-order mark, or as it is
 *
 * @example
 * ```ts
 * import { recoded } from "./text.ts";
 *
 * async function* blocks() {
 *   yield new Uint8Array([233]);
 * }
 * for await (const block of recoded(blocks(), "windows-1252")) {
 *   console.log(block); // Uint8Array(2) [ 195, 169 ]
 * }
 * ```
 */
export async function* recoded(
  blocks: Blocks,
  decoding: string | undefined,
): Blocks {
  const decoder = decoding === undefined
    ? undefined
    : new TextDecoder(decoding);
  for await (const block of blocks) {
    await breathe();
    yield decoder
      ? encoder.encode(decoder.decode(block, { stream: true }))
      : block;
  }
  if (decoder) yield encoder.encode(decoder.decode());
}

/**
 * Turns lines that were found as they are into UTF-8.
 *
 * @param text The lines, one after another, each with its newline
 * @param encoding Their character set, in which each character is one byte
 * @returns The lines in UTF-8, and how long each is there without its newline
 *
 * @example
 * ```ts
 * import { linesInUtf8 } from "./text.ts";
 *
 * const { lengths } = linesInUtf8(new Uint8Array([233, 10]), "windows-1252");
 * console.log(lengths); // [ 2 ]
 * ```
 */
export function linesInUtf8(
  text: Uint8Array,
  encoding: string,
): { text: Uint8Array<ArrayBuffer>; lengths: number[] } {
  const lines = new TextDecoder(encoding).decode(text).split("\n");
  lines.pop(); // behind the last newline
  const parts = lines.map((line) => encoder.encode(`${line}\n`));
  return {
    text: joined(parts),
    lengths: parts.map(({ length }) => length - 1),
  };
}
