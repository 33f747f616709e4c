/**
 * Makes UTF-8 (or whatever bytes a log has) of what is compressed with gzip, or
 * of UTF-16, block by block.
 *
 * @module
 */

import type { Gunzip } from "node:zlib";
import { free, joined } from "../shared/memory.ts";

/** How much is read and decompressed at a time, in bytes. */
const BLOCK = 1 << 18;
/** A gzip file up to this size is read at once, in bytes. */
const AT_ONCE = 4 << 20;

/** Where bytes come from. */
export interface Source {
  /** Reads into what it is given, and returns how much; null at the end. */
  read(into: Uint8Array): number | null | Promise<number | null>;
  /** Goes back to the start, where that can be done. */
  rewind?(): void;
  /** How much there is, in bytes, where that is known. */
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

/** What has to be decoded before it can be searched. */
export type Encoding = "gzip" | "utf-16le" | "utf-16be";

/** What is not supported, by the bytes that it begins with. */
const UNSUPPORTED: [name: string, magic: number[]][] = [
  ["zstd", [0x28, 0xb5, 0x2f, 0xfd]],
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ["bzip2", [0x42, 0x5a, 0x68, -1, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]],
  ["bzip2", [0x42, 0x5a, 0x68, -1, 0x17, 0x72, 0x45, 0x38, 0x50, 0x90]],
  ["lz4", [0x04, 0x22, 0x4d, 0x18]],
  ["lz4", [0x02, 0x21, 0x4c, 0x18]],
];

/** What any of these begins with: most files do not, and there are many. */
const MAGIC = new Set([
  0x1f,
  0xff,
  0xfe,
  ...UNSUPPORTED.map(([, [byte]]) => byte),
]);

/**
 * Tells how a file is encoded by its first bytes.
 *
 * @param head The file's first 10 bytes; fewer where it is shorter
 * @returns The encoding, or nothing where it can be searched as it is
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
 * Reads and decodes: decompresses what is gzip, and makes UTF-8 of UTF-16.
 *
 * Blocks are of bounded size, whatever they expand to, and valid until the next
 * one is asked for.
 *
 * @param source Where the bytes come from
 * @returns The blocks
 * @throws {Error} If reading or decompressing fails; after all that is before
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

/** A source whose first bytes are known. */
interface Peeked extends Source {
  head: Uint8Array;
}

/**
 * Reads up to 10 bytes ahead, in as many reads as they take: pipes give few. No
 * more than tell that it is a log, whose first line may be all there is for long.
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
 * Reads as it is.
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

/** Makes UTF-8 of UTF-16, as its byte-order mark says; leaves all else. */
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
 * Where a write fails, what it decompressed before the damage is lost. So, if
 * the source can go back, it is done again from the start, with smaller and
 * smaller writes at that place, down to the byte.
 */
async function* gunzip(
  source: Source,
): AsyncGenerator<Uint8Array, void, void> {
  // Loaded on first need: it would double the time that a worker takes to
  // start. (`DecompressionStream` fails at the second member of a file.)
  const { createGunzip } = await import("node:zlib");
  let given = 0; // of the output
  const whole = await readSmall(source);
  if (whole) {
    // In one write, which takes a third of the time that several take. (So
    // `gunzipSync`: of its memory, threads take turns to get some.)
    try {
      const stream = createGunzip({ chunkSize: BLOCK >> 2 }).end(whole);
      for await (const output of stream) {
        given += output.length;
        yield output;
        freeFull(output);
      }
      return;
    } catch {
      source.rewind!(); // damaged
    } finally {
      free(whole);
    }
  }
  const block = new Uint8Array(BLOCK);
  let good = 0; // of the input
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
        for await (const output of inflater.pass(bytes)) {
          const fresh = output.subarray(Math.max(0, given - position));
          position += output.length;
          if (fresh.length > 0) {
            given = position;
            yield fresh;
          }
          freeFull(output);
        }
        // What comes before this write; its own errors come with the next.
        good = Math.max(good, read);
        read += n ?? 0;
      }
      return;
    } catch (error) {
      cause ??= error; // of the first time: later ones are less clear
      // Cut off, it gave all that it has.
      const { code } = error as { code?: string };
      if (size === 1 || code === "Z_BUF_ERROR" || !source.rewind) throw cause;
      source.rewind();
    } finally {
      inflater.close();
    }
  }
}

/** Frees a buffer that is full; into another one a stream goes on to write. */
function freeFull(output: Uint8Array): void {
  const { buffer, byteOffset, length } = output;
  if (byteOffset + length === buffer.byteLength) free(output);
}

/** All that there is, if it is little and may have to be read again. */
async function readSmall(source: Source): Promise<Uint8Array | undefined> {
  const size = source.size?.() ?? Infinity;
  if (size > AT_ONCE || !source.rewind) return;
  const bytes = new Uint8Array(size);
  let length = 0;
  for (let n; (n = await source.read(bytes.subarray(length)));) length += n;
  return bytes.subarray(0, length);
}

/** A stream that is written to and read from in turns. */
class Inflater {
  readonly #stream: Gunzip;
  #failed?: unknown;
  #wake = () => {};

  constructor(stream: Gunzip) {
    this.#stream = stream;
    // From the start on: some errors come between one write and the next.
    stream.on("error", (error) => this.#fail(error));
    // Some are only to be seen by the stream being closed.
    stream.on("close", () => this.#fail(new Error("damaged")));
    stream.on("readable", () => this.#wake());
  }

  #fail(error: unknown): void {
    this.#failed ??= error;
    this.#wake();
  }

  /**
   * Writes bytes, or ends the stream with null, and gives what comes of them.
   * The stream waits while that is not read, so it never holds more than a few
   * blocks.
   */
  async *pass(
    bytes: Uint8Array | null,
  ): AsyncGenerator<Uint8Array, void, void> {
    const stream = this.#stream;
    let passed = false;
    const pass = () => {
      passed = true;
      this.#wake();
    };
    if (bytes === null) stream.once("end", pass).end();
    else stream.write(bytes, (error) => error ? this.#fail(error) : pass());
    for (;;) {
      const output = stream.read() as Uint8Array | null;
      if (output) yield output;
      else if (passed) return;
      else if (this.#failed) throw this.#failed;
      else await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  close(): void {
    this.#stream.destroy();
  }
}
