/**
 * Decodes logs block by block: decompresses gzip, and turns UTF-16 into UTF-8.
 *
 * @module
 */

import type { Gunzip } from "node:zlib";
import { free, joined } from "../shared/memory.ts";

/** How much is read and decompressed at a time, in bytes. */
const BLOCK = 1 << 18;
/** A gzip file up to this size is decompressed in one write, in bytes. */
const WHOLE_MAX = 4 << 20;

/** Where bytes come from. */
export interface Source {
  /** Reads into a buffer and returns how many bytes; null at the end. */
  read(into: Uint8Array): number | null | Promise<number | null>;
  /** Goes back to the start; absent if that cannot be done. */
  rewind?(): void;
  /** The size in bytes; absent if it is not known. */
  size?(): number;
}

/**
 * A file as a source.
 *
 * @param file The file, open; who opened it closes it
 * @returns What {@linkcode decoded} reads
 *
 * @example
 * ```ts
 * import { sourceOf } from "./decode.ts";
 *
 * using file = Deno.openSync("deno.json");
 * console.log(sourceOf(file).size!() > 0); // true
 * ```
 */
export function sourceOf(file: Deno.FsFile): Source {
  return {
    read: (into) => file.readSync(into),
    rewind: () => void file.seekSync(0, Deno.SeekMode.Start),
    size: () => file.statSync().size,
  };
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
 * @param head The file's first 10 bytes; fewer if it is shorter
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
  const rest = await peeked(source);
  const isGzip = encodingOf(rest.head) === "gzip";
  yield* recoded(isGzip ? gunzip(rest) : plain(rest));
}

/** A source whose first bytes have been read ahead. */
interface Peeked extends Source {
  head: Uint8Array;
}

/**
 * Reads up to 10 bytes ahead, in as many reads as that takes, since a pipe may
 * give few at a time. It stops at a first byte that no encoding begins with:
 * standard input may have nothing more for a long time.
 */
async function peeked(source: Source): Promise<Peeked> {
  const head = new Uint8Array(10);
  let length = 0;
  while (length < head.length && (length === 0 || MAGIC.has(head[0]))) {
    const n = await source.read(head.subarray(length));
    if (n === null) break;
    length += n;
  }
  let given = 0;
  return {
    head: head.subarray(0, length),
    read(into) {
      if (given === length) return source.read(into);
      const part = head.subarray(given, Math.min(length, given + into.length));
      into.set(part);
      given += part.length;
      return part.length;
    },
    rewind: source.rewind && (() => {
      source.rewind!();
      given = length;
    }),
    size: source.size,
  };
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
export async function* plain(
  source: Source,
): AsyncGenerator<Uint8Array, void, void> {
  const block = new Uint8Array(BLOCK);
  for (let n; (n = await source.read(block)) !== null;) {
    yield block.subarray(0, n);
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
 * Decompresses all members of a gzip file (RFC 1952).
 *
 * If a write to the stream fails, the bytes that it decompressed before the
 * damage are lost. So, if the source can go back, the file is decompressed again
 * from its start, with smaller and smaller writes at that place, down to a byte.
 */
async function* gunzip(
  source: Source,
): AsyncGenerator<Uint8Array, void, void> {
  // node:zlib is loaded on first need, because it doubles the time that a worker
  // takes to start. `DecompressionStream` fails at the second member of a file.
  const { createGunzip } = await import("node:zlib");
  let given = 0; // how much of the output has been given
  const whole = await readSmall(source);
  if (whole) {
    // One write takes a third of the time of several. `gunzipSync` was not
    // faster: several threads wait for each other when they allocate its output.
    try {
      const stream = createGunzip({ chunkSize: BLOCK >> 2 }).end(whole);
      for await (const output of stream) {
        given += output.length;
        yield output;
        freeFull(output);
      }
      return;
    } catch {
      source.rewind!(); // the file is damaged: what follows finds out where
    } finally {
      free(whole);
    }
  }
  const block = new Uint8Array(BLOCK);
  let good = 0; // how much of the input is known to be undamaged
  let cause: unknown;
  for (let size = BLOCK;; size = Math.max(1, size >> 7)) {
    const inflater = new Inflater(createGunzip({ chunkSize: BLOCK }));
    let position = 0;
    let read = 0;
    try {
      for (let n: number | null = 0; n !== null;) {
        const most = read < good ? Math.min(BLOCK, good - read) : size;
        n = await source.read(block.subarray(0, most));
        const bytes = n === null ? null : block.subarray(0, n);
        for await (const output of inflater.write(bytes)) {
          const fresh = output.subarray(Math.max(0, given - position));
          position += output.length;
          if (fresh.length > 0) {
            given = position;
            yield fresh;
          }
          freeFull(output);
        }
        // An error of this write may come only with the next one, so only the
        // input before it is known to be good.
        good = Math.max(good, read);
        read += n ?? 0;
      }
      return;
    } catch (error) {
      cause ??= error; // the first error says more than the later ones
      // A file that is cut off has given all that it has.
      const { code } = error as { code?: string };
      if (size === 1 || code === "Z_BUF_ERROR" || !source.rewind) throw cause;
      source.rewind();
    } finally {
      inflater.close();
    }
  }
}

/** Frees a buffer that is full. The stream goes on to write into any other. */
function freeFull(output: Uint8Array): void {
  const { buffer, byteOffset, length } = output;
  if (byteOffset + length === buffer.byteLength) free(output);
}

/** Reads the whole source, if it is small and can go back. */
async function readSmall(source: Source): Promise<Uint8Array | undefined> {
  const size = source.size?.() ?? Infinity;
  if (size > WHOLE_MAX || !source.rewind) return;
  const bytes = new Uint8Array(size);
  let length = 0;
  for (let n; (n = await source.read(bytes.subarray(length)));) length += n;
  return bytes.subarray(0, length);
}

/** Writes to a zlib stream and reads from it in turns. */
class Inflater {
  readonly #stream: Gunzip;
  #failed?: unknown;
  #wake = () => {};

  constructor(stream: Gunzip) {
    this.#stream = stream;
    // Listened to from the start, because an error can come between two writes.
    stream.on("error", (error) => this.#fail(error));
    // Some failures show only in that the stream is closed.
    stream.on("close", () => this.#fail(new Error("damaged")));
    stream.on("readable", () => this.#wake());
  }

  #fail(error: unknown): void {
    this.#failed ??= error;
    this.#wake();
  }

  /**
   * Writes bytes, or ends the stream with null, and gives what they decompress
   * to. The stream waits while its output is not read, so it never holds more
   * than a few blocks.
   */
  async *write(
    bytes: Uint8Array | null,
  ): AsyncGenerator<Uint8Array, void, void> {
    const stream = this.#stream;
    let isDone = false;
    const done = () => {
      isDone = true;
      this.#wake();
    };
    if (bytes === null) stream.once("end", done).end();
    else stream.write(bytes, (error) => error ? this.#fail(error) : done());
    for (;;) {
      const output = stream.read() as Uint8Array | null;
      if (output) yield output;
      else if (isDone) return;
      else if (this.#failed) throw this.#failed;
      else await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  close(): void {
    this.#stream.destroy();
  }
}
