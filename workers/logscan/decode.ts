/**
 * Decodes logs block by block: decompresses gzip and zstd, and turns UTF-16 into
 * UTF-8.
 *
 * @module
 */

import type { Gunzip, ZstdDecompress } from "node:zlib";
import { causeOf } from "../shared/files.ts";
import { joined } from "../shared/memory.ts";

/** How much is read and decompressed at a time, in bytes. */
const BLOCK = 1 << 18;

/** Where bytes come from. */
export interface Source {
  /** Reads into a buffer and returns how many bytes; null at the end. */
  read(into: Uint8Array): number | null | Promise<number | null>;
}

/**
 * A file as a source, from where it stands.
 *
 * @param file The file, open; who opened it closes it
 * @returns What {@linkcode decoded} reads
 *
 * @example
 * ```ts
 * import { sourceOf } from "./decode.ts";
 *
 * using file = Deno.openSync("deno.json");
 * console.log(sourceOf(file).read(new Uint8Array(1))); // 1
 * ```
 */
export function sourceOf(file: Deno.FsFile): Source {
  return { read: (into) => file.readSync(into) };
}

/** How a file may be encoded so that it has to be decoded for the search. */
export type Encoding = "gzip" | "zstd" | "utf-16le" | "utf-16be";

/** A name, and the bytes that it begins with; -1 is any byte. */
type Magic<Name = string> = [name: Name, bytes: number[]];

const ZSTD: Magic<Encoding> = ["zstd", [0x28, 0xb5, 0x2f, 0xfd]];

/** What zstd, and lz4 as well, may have in front of a frame to be skipped. */
const SKIPPABLE: Magic<Encoding>[] = Array.from(
  { length: 16 },
  (_, i) => ["zstd", [0x50 + i, 0x2a, 0x4d, 0x18]],
);

const SUPPORTED: Magic<Encoding>[] = [
  ["gzip", [0x1f, 0x8b, 8]],
  ZSTD,
  ...SKIPPABLE,
  ["utf-16le", [0xff, 0xfe]],
  ["utf-16be", [0xfe, 0xff]],
];

/** An .lzma file: five bytes of properties, the size if it is known, a zero. */
const LZMA = [0x5d, 0, 0, -1, -1];

const UNSUPPORTED: Magic[] = [
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ["bzip2", [0x42, 0x5a, 0x68, -1, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]],
  ["bzip2", [0x42, 0x5a, 0x68, -1, 0x17, 0x72, 0x45, 0x38, 0x50, 0x90]],
  ["lz4", [0x04, 0x22, 0x4d, 0x18]],
  ["lz4", [0x02, 0x21, 0x4c, 0x18]],
  ["zip", [0x50, 0x4b, 3, 4]],
  ["zip", [0x50, 0x4b, 5, 6]], // an empty one
  ["zip", [0x50, 0x4b, 7, 8]], // one of several parts
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

/** By their first bytes: for most files this one look-up is enough. */
const BY_FIRST = Map.groupBy(MAGICS, ([, [first]]) => first);

/** Whether a file begins so, as far as it is known. */
function agrees(head: Uint8Array, [, bytes]: Magic): boolean {
  const known = head.length;
  return bytes.every((byte, i) => i >= known || byte < 0 || byte === head[i]);
}

/** Whether a file begins so. */
function isThere(head: Uint8Array, magic: Magic): boolean {
  return head.length >= magic[1].length && agrees(head, magic);
}

/**
 * Tells how a file is encoded by its first bytes.
 *
 * @param head The file's first {@linkcode HEAD} bytes; fewer if it is shorter
 * @returns The encoding; undefined if the file can be searched as it is
 * @throws {Error} If it is compressed in a way that is not supported
 *
 * @example
 * ```ts
 * import { encodingOf } from "./decode.ts";
 *
 * console.log(encodingOf(new Uint8Array([0xff, 0xfe, 65, 0]))); // utf-16le
 * ```
 */
export function encodingOf(head: Uint8Array): Encoding | undefined {
  const found = BY_FIRST.get(head[0])?.find((magic) => isThere(head, magic));
  if (!found) return;
  const [name] = found;
  if (SUPPORTED.some((magic) => magic === found)) return name as Encoding;
  throw new Error(`${name} is not supported: decompress it first`);
}

/**
 * Reads and decodes: decompresses gzip and zstd, turns UTF-16 into UTF-8, and
 * leaves all else as it is.
 *
 * Blocks have a bounded size, however far the data expand, and are valid until
 * the next one is asked for.
 *
 * @param source Where the bytes come from
 * @returns The blocks
 * @throws {Error} If reading or decompressing fails; everything before that place
 * has been given
 *
 * @example
 * ```ts
 * import { decoded } from "./decode.ts";
 *
 * const blocks = [new Uint8Array([0xff, 0xfe, 104, 0, 105, 0])];
 * const read = (into: Uint8Array) => {
 *   const block = blocks.shift();
 *   if (block) into.set(block);
 *   return block?.length ?? null;
 * };
 * for await (const block of decoded({ read })) {
 *   console.log(new TextDecoder().decode(block)); // hi
 * }
 * ```
 */
export async function* decoded(
  source: Source,
): AsyncGenerator<Uint8Array, void, void> {
  const input = new Input(source);
  const encoding = encodingOf(await headOf(input));
  const read = encoding === "gzip"
    ? gunzip
    : encoding === "zstd"
    ? unzstd
    : unchanged;
  yield* recoded(read(input));
}

/**
 * Reads ahead, but no further than until no encoding begins so: standard input
 * may have nothing more for a long time.
 */
async function headOf(input: Input): Promise<Uint8Array> {
  let head = await input.peek(1);
  const isOpen = (magic: Magic) =>
    head.length < magic[1].length && agrees(head, magic);
  while (BY_FIRST.get(head[0])?.some(isOpen)) {
    const { length } = head;
    head = await input.peek(length + 1);
    if (head.length === length) break;
  }
  return head;
}

/** A source that is read through a buffer, so that one can look ahead. */
class Input {
  readonly #source: Source;
  readonly #buffer = new Uint8Array(BLOCK);
  #start = 0;
  #end = 0;

  constructor(source: Source) {
    this.#source = source;
  }

  /** What has been read and not skipped. */
  get held(): Uint8Array {
    return this.#buffer.subarray(this.#start, this.#end);
  }

  /** Reads once; returns whether there was anything. */
  async read(): Promise<boolean> {
    if (this.#start > 0) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    const n = await this.#source.read(this.#buffer.subarray(this.#end));
    this.#end += n ?? 0;
    return n !== null;
  }

  /** Whether any bytes are left; reads if none is held. */
  async hasMore(): Promise<boolean> {
    while (this.#start === this.#end) if (!await this.read()) return false;
    return true;
  }

  /** The next bytes, in as many reads as that takes; fewer at the end. */
  async peek(count: number): Promise<Uint8Array> {
    while (this.held.length < count && await this.read());
    return this.held.subarray(0, count);
  }

  /** Takes the next bytes, which are valid until more are read. */
  async take(count: number): Promise<Uint8Array> {
    const bytes = await this.peek(count);
    if (bytes.length < count) throw new Error("unexpected end of file");
    this.skip(count);
    return bytes;
  }

  /** Skips bytes that are held. */
  skip(count: number): void {
    this.#start += count;
  }

  /** Skips the zero bytes that are held next. */
  skipZeros(): void {
    const { held } = this;
    const other = held.findIndex((byte) => byte !== 0);
    this.skip(other < 0 ? held.length : other);
  }
}

/**
 * Reads without decoding.
 *
 * @param source Where the bytes come from
 * @returns The blocks, valid until the next one is asked for
 *
 * @example
 * ```ts
 * import { plain } from "./decode.ts";
 *
 * for await (const block of plain({ read: () => null })) console.log(block);
 * ```
 */
export function plain(
  source: Source,
): AsyncGenerator<Uint8Array, void, void> {
  return unchanged(new Input(source));
}

async function* unchanged(
  input: Input,
): AsyncGenerator<Uint8Array, void, void> {
  while (await input.hasMore()) {
    const { held } = input;
    yield held;
    input.skip(held.length);
  }
}

/** Turns UTF-16 with a byte-order mark into UTF-8; leaves all else. */
async function* recoded(
  blocks: AsyncGenerator<Uint8Array, void, void>,
): AsyncGenerator<Uint8Array, void, void> {
  const encoder = new TextEncoder();
  let decoder: TextDecoder | undefined;
  let head: Uint8Array | undefined = new Uint8Array(0);
  for await (let block of blocks) {
    if (head) {
      block = joined([head, block]);
      if (block.length < 2) {
        head = block;
        continue;
      }
      head = undefined;
      const encoding = encodingOf(block);
      // The decoder drops the byte-order mark.
      if (encoding?.startsWith("utf")) decoder = new TextDecoder(encoding);
    }
    yield decoder
      ? encoder.encode(decoder.decode(block, { stream: true }))
      : block;
  }
  if (head) yield head;
  if (decoder) yield encoder.encode(decoder.decode());
}

/**
 * Decompresses all members of a gzip file (RFC 1952). Zero bytes between them and
 * behind them are skipped: tapes and block devices are filled up with them.
 */
async function* gunzip(
  input: Input,
): AsyncGenerator<Uint8Array, void, void> {
  // node:zlib is loaded on first need, because it doubles the time that a worker
  // takes to start. `DecompressionStream` fails at the second member of a file.
  const { constants, createGunzip } = await import("node:zlib");
  using decoder = new Decoder(createGunzip({ chunkSize: 64 }));
  while (await input.hasMore()) {
    const { held } = input;
    yield* decoder.decode(held);
    input.skip(held.length - decoder.left);
    // It goes on to the next member by itself, but stops at a zero byte.
    if (decoder.left > 0) input.skipZeros();
  }
  yield* decoder.decode(new Uint8Array(0), constants.Z_FINISH);
}

/** The most that a block of a zstd frame has, in bytes, packed or not. */
const ZSTD_BLOCK = 1 << 17;

/**
 * Decompresses all frames of a zstd file (RFC 8878), passes over those that are
 * there to be skipped, and over zero bytes as in a gzip file.
 */
async function* unzstd(
  input: Input,
): AsyncGenerator<Uint8Array, void, void> {
  const { createZstdDecompress } = await import("node:zlib");
  using decoder = new Decoder(createZstdDecompress({ chunkSize: 64 }));
  while (await input.hasMore()) {
    if (input.held[0] === 0) input.skipZeros();
    else if (isThere(await input.peek(4), ZSTD)) {
      yield* unzstdFrame(input, decoder);
    } else await skipFrame(input);
  }
}

/**
 * Decompresses a frame block by block. So all blocks before a damaged one are
 * given, since what the decoder has done in a call that fails is lost; and only
 * thus it is noticed that a frame has no end, since the decoder does not tell.
 */
async function* unzstdFrame(
  input: Input,
  decoder: Decoder,
): AsyncGenerator<Uint8Array, void, void> {
  const start = await input.peek(5);
  if (start.length < 5) throw new Error("unexpected end of file");
  const descriptor = start[4];
  const isSingleSegment = (descriptor & 0x20) > 0;
  const windowBytes = isSingleSegment ? 0 : 1;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3];
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6];
  const headerBytes = 5 + windowBytes + dictionaryBytes + sizeBytes;
  yield* decoder.decode(await input.take(headerBytes));
  for (let isLast = false; !isLast;) {
    const head = await input.peek(3);
    const block = head[0] | head[1] << 8 | head[2] << 16;
    isLast = (block & 1) > 0;
    const isRepeated = (block >> 1 & 3) === 1; // one byte, so many times
    const size = isRepeated ? 1 : block >> 3;
    if (size > ZSTD_BLOCK) throw new Error("a block is too large");
    yield* decoder.decode(await input.take(3 + size));
  }
  const hasChecksum = (descriptor & 4) > 0;
  if (hasChecksum) yield* decoder.decode(await input.take(4));
}

/** Skips a frame of zstd that is there to be skipped. */
async function skipFrame(input: Input): Promise<void> {
  const head = await input.peek(HEAD);
  if (!SKIPPABLE.some((magic) => isThere(head, magic))) {
    encodingOf(head); // it may have been lz4
    throw new Error("something else follows its end");
  }
  await input.take(4);
  const size = await input.take(4);
  let left = new DataView(size.buffer, size.byteOffset).getUint32(0, true);
  while (left > 0) {
    if (!await input.hasMore()) throw new Error("unexpected end of file");
    const count = Math.min(left, input.held.length);
    input.skip(count);
    left -= count;
  }
}

/** What is inside of a stream of node:zlib, as far as it is used here. */
interface NativeStream {
  _handle: {
    onerror(message: string): void;
    /** Decodes from one buffer into another, each given with offset and length. */
    writeSync(
      ...args: [
        flush: number,
        input: Uint8Array,
        inputOffset: number,
        inputLength: number,
        output: Uint8Array,
        outputOffset: number,
        outputLength: number,
      ]
    ): void;
  };
  /** How much of the output is free after a write, and how much input is left. */
  _writeState: Uint32Array;
}

/**
 * Decodes with the native part of a stream of node:zlib, without the stream.
 *
 * The stream loses what it decoded in the write that fails, up to megabytes in
 * front of the damage or of other bytes behind the end, and a pipe cannot be read
 * again to get them. An error of zstd in such a write nobody can catch: it ends
 * the program. The native part gives what it has, throws, says where it stopped,
 * takes less time, and writes into the same buffer again and again. Node does not
 * document it, but has to keep it: packages such as pngjs call it in the same way.
 */
class Decoder implements Disposable {
  readonly #stream: Gunzip | ZstdDecompress;
  readonly #native: NativeStream;
  readonly #output = new Uint8Array(BLOCK);
  #problem?: string;
  /** How many bytes of the last input were not decoded. */
  left = 0;

  constructor(stream: Gunzip | ZstdDecompress) {
    this.#stream = stream;
    this.#native = stream as unknown as NativeStream;
    this.#native._handle.onerror = (message) => this.#problem = message;
  }

  /** Decodes until the input ends, or what is encoded in it. */
  *decode(input: Uint8Array, flush = 0): Generator<Uint8Array, void, void> {
    const { _handle, _writeState } = this.#native;
    const output = this.#output, room = output.length;
    this.left = input.length;
    for (let free = 0; free === 0;) {
      const at = input.length - this.left;
      try {
        _handle.writeSync(flush, input, at, this.left, output, 0, room);
      } catch (error) {
        throw new Error(causeOf(error).replace("Zstd decompress error: ", ""));
      }
      [free, this.left] = _writeState;
      if (free < room) yield output.subarray(0, room - free);
      if (this.#problem !== undefined) throw new Error(this.#problem);
    }
  }

  [Symbol.dispose](): void {
    this.#stream.destroy();
  }
}
