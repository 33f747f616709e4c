/**
 * Tells compressed files and archives by what they begin with.
 *
 * @module
 */

/** What is decompressed on the way. */
export type Format = "gzip" | "zstd" | "bzip2" | "xz" | "lz4" | "zip";

/** A name, and the bytes that it begins with; -1 is any byte. */
type Magic<Name = string> = [name: Name, bytes: number[]];

/** What zstd and lz4 may have in front of a frame to be skipped. */
const SKIPPABLE: Magic<"skippable">[] = Array.from(
  { length: 16 },
  (_, i) => ["skippable", [0x50 + i, 0x2a, 0x4d, 0x18]],
);

const SUPPORTED: Magic<Format | "skippable">[] = [
  ["gzip", [0x1f, 0x8b, 8]],
  ["zstd", [0x28, 0xb5, 0x2f, 0xfd]],
  ...SKIPPABLE,
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ["bzip2", [0x42, 0x5a, 0x68, -1, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]],
  ["bzip2", [0x42, 0x5a, 0x68, -1, 0x17, 0x72, 0x45, 0x38, 0x50, 0x90]],
  ["lz4", [0x04, 0x22, 0x4d, 0x18]],
  ["lz4", [0x02, 0x21, 0x4c, 0x18]],
  ["zip", [0x50, 0x4b, 3, 4]],
  ["zip", [0x50, 0x4b, 5, 6]], // an empty one
  ["zip", [0x50, 0x4b, 7, 8, 0x50, 0x4b, 3, 4]], // the first of several parts
  ["zip", [0x50, 0x4b, 0x30, 0x30, 0x50, 0x4b, 3, 4]], // the only one of them
];

/** An .lzma file: five bytes of properties, the size if it is known, a zero. */
const LZMA = [0x5d, 0, 0, -1, -1];

const UNSUPPORTED: Magic[] = [
  ["7z", [0x37, 0x7a, 0xbc, 0xaf, 0x27, 0x1c]],
  ["rar", [0x52, 0x61, 0x72, 0x21, 0x1a, 7]],
  ["lzma", [...LZMA, ...Array(8).fill(0xff), 0]],
  ["lzma", [...LZMA, -1, -1, -1, -1, -1, 0, 0, 0, 0]],
  ["lzip", [0x4c, 0x5a, 0x49, 0x50, 1]],
  ["lzop", [0x89, 0x4c, 0x5a, 0x4f, 0, 0x0d, 0x0a, 0x1a, 0x0a]],
  ["compress (.Z)", [0x1f, 0x9d]],
];

const MAGICS: Magic[] = [...SUPPORTED, ...UNSUPPORTED];

/** How many bytes tell them all. */
export const HEAD: number = Math.max(...MAGICS.map(([, { length }]) => length));

/** What the names of compressed files end in. */
const ENDING = /\.(gz|tgz|zst|bz2|tbz2?|xz|txz|lz4|zip|7z|rar|lzma|lz|lzo|Z)$/i;
/** Control characters, but for those of texts and terminals. */
// deno-lint-ignore no-control-regex
const BINARY = /[\0-\x08\x0e-\x1a\x1c-\x1f]/;
/** How much of a file is looked at for them, in bytes. */
const SAMPLE = 4096;

/** By their first bytes: for most files this one look-up is enough. */
const BY_FIRST = Map.groupBy(MAGICS, ([, [first]]) => first);

/** Whether a file begins so, as far as it is known. */
function agrees(head: Uint8Array, [, bytes]: Magic): boolean {
  const known = head.length;
  return bytes.every((byte, i) => i >= known || byte < 0 || byte === head[i]);
}

/**
 * Tells how a file is compressed by its first bytes.
 *
 * @param head The file's first {@linkcode HEAD} bytes; fewer if it is shorter
 * @returns The format; `"skippable"` for a frame of zstd or lz4 that is there to be
 * skipped; undefined if it is not compressed
 * @throws {Error} If it is compressed in a way that is not supported
 *
 * @example
 * ```ts
 * import { formatOf } from "./formats.ts";
 *
 * console.log(formatOf(new Uint8Array([0x1f, 0x8b, 8]))); // gzip
 * ```
 */
export function formatOf(head: Uint8Array): Format | "skippable" | undefined {
  const found = BY_FIRST.get(head[0])?.find((magic) =>
    head.length >= magic[1].length && agrees(head, magic)
  );
  if (!found) return;
  const [name] = found;
  if (SUPPORTED.some((magic) => magic === found)) return name as Format;
  throw new Error(`${name} is not supported: decompress it first`);
}

/**
 * Whether more bytes could tell that a file is compressed.
 *
 * @param head What is known of its beginning
 * @returns Whether a format begins so that is longer than what is known
 *
 * @example
 * ```ts
 * import { isUndecided } from "./formats.ts";
 *
 * console.log(isUndecided(new Uint8Array([0x1f]))); // true
 * ```
 */
export function isUndecided(head: Uint8Array): boolean {
  if (head.length === 0) return true;
  const magics = BY_FIRST.get(head[0]) ?? [];
  return magics.some((magic) =>
    head.length < magic[1].length && agrees(head, magic)
  );
}

/**
 * Says what is wrong with a file that is compressed by its name and neither by its
 * first bytes nor a text: it was cut off there, or they are damaged.
 *
 * @param path The file
 * @param head How it begins; {@linkcode HEAD} bytes or more if it is not shorter
 * @returns Why what is in it may not be found; undefined if it is what it is called
 *
 * @example
 * ```ts
 * import { damageOf } from "./formats.ts";
 *
 * console.log(damageOf("a.gz", new Uint8Array([0x1f]))); // unexpected end of file
 * ```
 */
export function damageOf(path: string, head: Uint8Array): string | undefined {
  if (!ENDING.test(path) || head.length === 0) return;
  if (isUndecided(head)) return "unexpected end of file";
  const sample = new TextDecoder("latin1").decode(head.subarray(0, SAMPLE));
  if (!BINARY.test(sample)) return;
  return "its beginning is damaged, or it is not what it is called";
}

/** How programs begin that may unpack themselves: of Windows, Linux, and scripts. */
const PROGRAMS: Magic[] = [
  ["exe", [0x4d, 0x5a]],
  ["ELF", [0x7f, 0x45, 0x4c, 0x46]],
  ["script", [0x23, 0x21]],
];
/** The end of a zip archive: without the comment behind it, and at most, in bytes. */
const ZIP_END = 22, ZIP_END_MAX = ZIP_END + 0xffff;

/**
 * Says of a program whether a zip archive is at its end, which it unpacks.
 *
 * @param head How the program begins
 * @param readEnd Reads so many bytes at its end; fewer if it is shorter
 * @returns Why not all of it can be searched; undefined if it is not such a program
 *
 * @example
 * ```ts
 * import { archiveIn } from "./formats.ts";
 *
 * const text = new TextEncoder().encode("#!/bin/sh\n");
 * console.log(archiveIn(text, () => text)); // undefined
 * ```
 */
export function archiveIn(
  head: Uint8Array,
  readEnd: (count: number) => Uint8Array,
): string | undefined {
  if (!PROGRAMS.some((magic) => agrees(head, magic))) return;
  const end = readEnd(ZIP_END_MAX);
  const view = new DataView(end.buffer, end.byteOffset, end.length);
  for (let at = end.length - ZIP_END; at >= 0; at--) {
    const comment = end.length - ZIP_END - at;
    if (end[at] !== 0x50 || view.getUint32(at, true) !== 0x06054b50) continue;
    if (view.getUint16(at + 20, true) !== comment) continue;
    return "the zip archive at its end is not searched: unpack it first";
  }
}
