/**
 * Decodes logs block by block: decompresses them, opens archives, and turns other
 * character sets into UTF-8.
 *
 * @module
 */

import { joined } from "../shared/memory.ts";
import { type Format, formatOf, HEAD, isUndecided } from "./formats.ts";
import { type Blocks, fromBlocks, Input, type Source } from "./input.ts";
import { type Coding, decodingOf, recoded } from "./text.ts";

/** Decompresses the next part of a file: a member, a frame, a stream. */
type Decompress = (input: Input) => Blocks;

/** What does so for each format, loaded on first need. */
const DECOMPRESS: Record<Exclude<Format, "zip">, () => Promise<Decompress>> = {
  gzip: async () => (await import("./zlib.ts")).gunzip,
  zstd: async () => (await import("./zlib.ts")).unzstd,
  bzip2: async () => (await import("./bzip2.ts")).bunzip2,
  xz: async () => (await import("./xz.ts")).unxz,
  lz4: async () => (await import("./lz4.ts")).unlz4,
};

/** How often what is unpacked may be packed in turn; some files hold themselves. */
const DEPTH_MAX = 4;

/** What is searched of a file: itself, or a member of the archive that it is. */
export interface Content {
  /** The member's name; that of a member of a member has a colon in it. */
  member?: string;
  /** Its bytes; throws where they cannot be read or decoded. */
  blocks: Blocks;
  /** Whether they were turned into UTF-8. */
  isUtf8?: boolean;
}

/**
 * Whether a file cannot be searched as it is.
 *
 * @param head Its first bytes, {@linkcode HEAD} or more if it is not shorter
 * @param coding What is known of texts
 * @returns Whether it has to be decoded
 * @throws {Error} If it is compressed in a way that is not supported
 *
 * @example
 * ```ts
 * import { isEncoded } from "./decode.ts";
 *
 * console.log(isEncoded(new Uint8Array([0xff, 0xfe, 65, 0]), {})); // true
 * ```
 */
export function isEncoded(head: Uint8Array, coding: Coding): boolean {
  return formatOf(head) !== undefined || decodingOf(head, coding) !== undefined;
}

/**
 * Decodes what is in a file.
 *
 * Blocks have a bounded size, however far the data expand, and are valid until the
 * next one is asked for. Those of a member have to be read before the next member is
 * asked for; what was not read of them is passed over.
 *
 * @param source Where the bytes come from
 * @param coding What is known of texts
 * @returns What is to be searched: one content, or one for each member of an archive
 * @throws {Error} If reading or decompressing fails; everything before that place
 * has been given
 *
 * @example
 * ```ts
 * import { contentsOf } from "./decode.ts";
 *
 * const blocks = [new Uint8Array([0xff, 0xfe, 104, 0, 105, 0])];
 * const read = (into: Uint8Array) => {
 *   const block = blocks.shift();
 *   if (block) into.set(block);
 *   return block?.length ?? null;
 * };
 * for await (const { blocks } of contentsOf({ read }, {})) {
 *   for await (const block of blocks) {
 *     console.log(new TextDecoder().decode(block)); // hi
 *   }
 * }
 * ```
 */
export function contentsOf(
  source: Source,
  coding: Coding,
): AsyncGenerator<Content, void, void> {
  return unpacked(new Input(source).blocks(), coding, undefined, 0);
}

async function* unpacked(
  packed: Blocks,
  coding: Coding,
  member: string | undefined,
  depth: number,
): AsyncGenerator<Content, void, void> {
  const { head, blocks } = await peeked(packed);
  const format = formatOf(head);
  if (format === undefined) {
    const decoding = decodingOf(head, coding);
    const isUtf8 = decoding !== undefined;
    return yield { member, blocks: recoded(blocks, decoding), isUtf8 };
  }
  if (depth === DEPTH_MAX) {
    throw new Error(`it is packed more than ${DEPTH_MAX} times over`);
  }
  const input = new Input(fromBlocks(blocks));
  if (format === "zip") {
    return yield* archived(input, coding, member, depth + 1);
  }
  yield* unpacked(decompressed(input), coding, member, depth + 1);
}

/** Reads as many blocks as it takes to tell the format, and gives them again. */
async function peeked(
  blocks: Blocks,
): Promise<{ head: Uint8Array; blocks: Blocks }> {
  let head: Uint8Array = new Uint8Array(0);
  // No further: standard input may have nothing more for a long time.
  while (isUndecided(head) || isHalf(head)) {
    const kept = head.slice(); // it is valid until the next block is asked for
    const { done, value } = await blocks.next();
    if (done) break;
    head = kept.length === 0 ? value : joined([kept, value]);
  }
  const all = async function* () {
    if (head.length > 0) yield head;
    yield* blocks;
  };
  return { head, blocks: all() };
}

/** Whether a byte-order mark may have begun, or a character of UTF-16. */
function isHalf({ length, [0]: first }: Uint8Array): boolean {
  return length === 1 && (first >= 0xfe || first === 0);
}

/** The contents of an archive; one that cannot be read does not end them. */
async function* archived(
  input: Input,
  coding: Coding,
  outer: string | undefined,
  depth: number,
): AsyncGenerator<Content, void, void> {
  const { membersOf } = await import("./zip.ts");
  while (await input.hasMore()) {
    if (input.held[0] === 0) {
      input.skipZeros();
      continue;
    }
    await checkNext(input, "zip");
    for await (const { name, blocks } of membersOf(input)) {
      const member = outer === undefined ? name : `${outer}:${name}`;
      try {
        yield* unpacked(blocks, coding, member, depth);
      } catch (error) {
        yield { member, blocks: failing(error) };
      }
    }
  }
}

// deno-lint-ignore require-yield
async function* failing(error: unknown): Blocks {
  throw await error;
}

/**
 * Decompresses all parts of a file. Zero bytes between and behind them are skipped:
 * tapes and block devices are filled up with them.
 */
async function* decompressed(input: Input): Blocks {
  let first: Format | undefined;
  while (await input.hasMore()) {
    if (input.held[0] === 0) {
      input.skipZeros();
      continue;
    }
    const format = await checkNext(input, first);
    if (format === "skippable") await skipFrame(input);
    else {
      first = format;
      const load = DECOMPRESS[format as keyof typeof DECOMPRESS];
      yield* (await load())(input);
    }
  }
}

/** The format of what is next, which has to be like what came before. */
async function checkNext(
  input: Input,
  first: Format | undefined,
): Promise<Format | "skippable"> {
  while (isUndecided(input.held.subarray(0, HEAD))) {
    if (!await input.read()) break;
  }
  const format = formatOf(input.held);
  const isLike = first === undefined || format === first ||
    format === "skippable" && (first === "zstd" || first === "lz4");
  if (format === undefined || !isLike) {
    throw new Error("something else follows its end");
  }
  return format;
}

/** Skips a frame of zstd or lz4 that is there to be skipped. */
async function skipFrame(input: Input): Promise<void> {
  await input.take(4);
  const size = await input.take(4);
  const view = new DataView(size.buffer, size.byteOffset);
  await input.pass(view.getUint32(0, true));
}
