/**
 * Decompresses gzip, zstd and deflate, with what Deno has for node:zlib.
 *
 * @module
 */

import type { Gunzip, InflateRaw, ZstdDecompress } from "node:zlib";
import { causeOf } from "../shared/files.ts";
import { BLOCK, type Blocks, endError, type Input } from "./input.ts";

// node:zlib is loaded on first need, because it doubles the time that a worker
// takes to start. `DecompressionStream` fails at the second member of a file.

/**
 * Decompresses a member of a gzip file (RFC 1952), and those that follow it at once.
 *
 * @param input Where it begins; then what follows it
 * @returns Its blocks
 * @throws {Error} If it is damaged or truncated
 *
 * @example
 * ```ts
 * import { gzipSync } from "node:zlib";
 * import { fromBlocks, Input } from "./input.ts";
 * import { gunzip } from "./zlib.ts";
 *
 * async function* blocks() {
 *   yield gzipSync("a");
 * }
 * const input = new Input(fromBlocks(blocks()));
 * for await (const block of gunzip(input)) console.log(block[0]); // 97
 * ```
 */
export async function* gunzip(input: Input): Blocks {
  const { constants, createGunzip } = await import("node:zlib");
  using decoder = new Decoder(createGunzip({ chunkSize: 64 }));
  // It goes on to the next member by itself, but stops at a zero byte.
  if (yield* decodeTo(input, decoder)) return;
  yield* decoder.decode(new Uint8Array(0), constants.Z_FINISH);
}

/**
 * Decompresses a stream of deflate (RFC 1951).
 *
 * @param input Where it begins; then what follows it
 * @returns Its blocks
 * @throws {Error} If it is damaged or truncated
 *
 * @example
 * ```ts
 * import { deflateRawSync } from "node:zlib";
 * import { fromBlocks, Input } from "./input.ts";
 * import { inflate } from "./zlib.ts";
 *
 * async function* blocks() {
 *   yield deflateRawSync("a");
 * }
 * const input = new Input(fromBlocks(blocks()));
 * for await (const block of inflate(input)) console.log(block[0]); // 97
 * ```
 */
export async function* inflate(input: Input): Blocks {
  const { constants, createInflateRaw } = await import("node:zlib");
  using decoder = new Decoder(createInflateRaw({ chunkSize: 64 }));
  if (yield* decodeTo(input, decoder)) return;
  yield* decoder.decode(new Uint8Array(0), constants.Z_FINISH);
}

/** Decodes up to the end of what is encoded; returns whether it was found. */
async function* decodeTo(
  input: Input,
  decoder: Decoder,
): AsyncGenerator<Uint8Array, boolean, void> {
  while (await input.hasMore()) {
    const { held } = input;
    for (const block of decoder.decode(held)) yield block;
    input.skip(held.length - decoder.left);
    if (decoder.left > 0) return true;
  }
  return false;
}

/** The most that a block of a zstd frame has, in bytes, packed or not. */
const ZSTD_BLOCK = 1 << 17;

/**
 * Decompresses a frame of zstd (RFC 8878) block by block. So all blocks before a
 * damaged one are given, since what the decoder has done in a call that fails is
 * lost; and only thus it is noticed that a frame has no end, since the decoder does
 * not tell.
 *
 * @param input Where it begins; then what follows it
 * @returns Its blocks
 * @throws {Error} If it is damaged or truncated
 *
 * @example
 * ```ts
 * import { zstdCompressSync } from "node:zlib";
 * import { fromBlocks, Input } from "./input.ts";
 * import { unzstd } from "./zlib.ts";
 *
 * async function* blocks() {
 *   yield zstdCompressSync("a");
 * }
 * const input = new Input(fromBlocks(blocks()));
 * for await (const block of unzstd(input)) console.log(block[0]); // 97
 * ```
 */
export async function* unzstd(input: Input): Blocks {
  const { createZstdDecompress } = await import("node:zlib");
  using decoder = new Decoder(createZstdDecompress({ chunkSize: 64 }));
  const start = await input.peek(5);
  if (start.length < 5) throw endError();
  const descriptor = start[4];
  const isSingleSegment = (descriptor & 0x20) > 0;
  const windowBytes = isSingleSegment ? 0 : 1;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3];
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6];
  const headerBytes = 5 + windowBytes + dictionaryBytes + sizeBytes;
  const header = await input.take(headerBytes);
  const dictionary = header.subarray(5 + windowBytes).subarray(
    0,
    dictionaryBytes,
  );
  if (dictionary.some((byte) => byte > 0)) {
    throw new Error("it needs a dictionary");
  }
  yield* decoder.decode(header);
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

/** Memory of decoders that have ended: an archive may have many small members. */
const spare: Uint8Array[] = [];

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
  readonly #stream: Gunzip | InflateRaw | ZstdDecompress;
  readonly #native: NativeStream;
  readonly #output = spare.pop() ?? new Uint8Array(BLOCK);
  #problem?: string;
  /** How many bytes of the last input were not decoded. */
  left = 0;

  constructor(stream: Gunzip | InflateRaw | ZstdDecompress) {
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
    spare.push(this.#output);
  }
}
