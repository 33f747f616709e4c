/**
 * Decodes logs block by block: decompresses gzip, and turns UTF-16 into UTF-8.
 *
 * @module
 */

import type { Gunzip } from "node:zlib";
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
export type Encoding = "gzip" | "utf-16le" | "utf-16be";

/** Unsupported compressions, by the bytes they begin with; -1 is any byte. */
const UNSUPPORTED: [name: string, magic: number[]][] = [
  ["zstd", [0x28, 0xb5, 0x2f, 0xfd]],
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ["bzip2", [0x42, 0x5a, 0x68, -1, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]],
  ["bzip2", [0x42, 0x5a, 0x68, -1, 0x17, 0x72, 0x45, 0x38, 0x50, 0x90]],
  ["lz4", [0x04, 0x22, 0x4d, 0x18]],
  ["lz4", [0x02, 0x21, 0x4c, 0x18]],
];

/** How many bytes tell them all. */
export const HEAD = 10;

/** The first bytes of them all. For most files this one look-up is enough. */
const MAGIC = new Set([
  0x1f,
  0xff,
  0xfe,
  ...UNSUPPORTED.map(([, [byte]]) => byte),
]);

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
  if (!MAGIC.has(head[0])) return;
  const isThere = (magic: number[]) =>
    magic.every((byte, i) => head[i] === byte || byte < 0 && i < head.length);
  if (isThere([0x1f, 0x8b, 8])) return "gzip";
  if (isThere([0xff, 0xfe])) return "utf-16le";
  if (isThere([0xfe, 0xff])) return "utf-16be";
  const name = UNSUPPORTED.find(([, magic]) => isThere(magic))?.[0];
  if (name) throw new Error(`${name} is not supported: decompress it first`);
}

/**
 * Reads and decodes: decompresses gzip, turns UTF-16 into UTF-8, and leaves all
 * else as it is.
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
  // No further than to a first byte that no encoding begins with: standard input
  // may have nothing more for a long time.
  const [first] = await input.peek(1);
  const head = MAGIC.has(first) ? await input.peek(HEAD) : input.held;
  const isGzip = encodingOf(head) === "gzip";
  yield* recoded(isGzip ? gunzip(input) : unchanged(input));
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
 * again to get them. Nor does it say where it stopped. The native part does both,
 * takes less time, and writes into the same buffer again and again. Node does not
 * document it, but has to keep it: packages such as pngjs call it in the same way.
 */
class Decoder implements Disposable {
  readonly #stream: Gunzip;
  readonly #native: NativeStream;
  readonly #output = new Uint8Array(BLOCK);
  #problem?: string;
  /** How many bytes of the last input were not decoded. */
  left = 0;

  constructor(stream: Gunzip) {
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
      _handle.writeSync(flush, input, at, this.left, output, 0, room);
      [free, this.left] = _writeState;
      if (free < room) yield output.subarray(0, room - free);
      if (this.#problem !== undefined) throw new Error(this.#problem);
    }
  }

  [Symbol.dispose](): void {
    this.#stream.destroy();
  }
}
