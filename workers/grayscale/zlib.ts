/**
 * zlib, step by step and in the caller's memory. Node's documented functions take a
 * whole buffer and give a whole one, or are streams that give a new buffer for each
 * step, and lose what came out in the step that fails. So this uses what they are
 * made of, the handle below, as the package `pngjs` does, too.
 *
 * @module
 */

import {
  constants,
  createDeflate,
  createInflate,
  type ZlibOptions,
} from "node:zlib";

/** What the handle of a stream of node:zlib has. */
interface Handle {
  /** Reads `input` and writes `out`; the state says how much is left of both. */
  writeSync(
    ...step: [
      ...[flush: number, input: Uint8Array, at: number, length: number],
      ...[out: Uint8Array, to: number, room: number],
    ]
  ): void;
  params(level: number, strategy: number): void;
  onerror: (message: string, code: number) => void;
}

interface ZlibStream {
  _handle: Handle;
  /** How many bytes of room and of input a step left over. */
  _writeState: Uint32Array;
  close(): void;
}

const NOTHING = new Uint8Array();

/** Inflates a zlib stream that lies in several parts. */
export class Inflater implements Disposable {
  /** Why the stream is damaged, if it is. */
  error?: string;
  readonly #stream = createInflate() as unknown as ZlibStream;
  readonly #parts: Uint8Array[];
  /** Which part is read, and from where on. */
  #part = 0;
  #at = 0;
  #hasEnded = false;
  #isShort = false;

  /**
   * Begins at the start of a stream.
   *
   * @param parts The zlib stream; they are not changed
   */
  constructor(parts: Uint8Array[]) {
    this.#parts = parts;
    this.#stream._handle.onerror = (message, code) => {
      if (code === constants.Z_BUF_ERROR) this.#isShort = true;
      else this.error = message;
    };
  }

  /**
   * Inflates `size` bytes to a place in `out`. Returns how many there are: fewer at
   * the end of the stream, and where it is damaged.
   */
  read(out: Uint8Array, to: number, size: number): number {
    let done = 0;
    while (done < size && !this.#hasEnded && this.error === undefined) {
      const got = this.#step(constants.Z_NO_FLUSH, out, to + done, size - done);
      done += got;
      if (got || this.error !== undefined) continue;
      if (this.#at < this.#input.length) this.#hasEnded = true; // it takes no more
      else if (this.#part + 1 >= this.#parts.length) break;
      else [this.#part, this.#at] = [this.#part + 1, 0];
    }
    return done;
  }

  /** Whether the stream has its end and its checksum, once all of it was read. */
  isComplete(): boolean {
    if (this.read(new Uint8Array(1), 0, 1)) return false;
    // At the end of the stream this is no error; before it, it is.
    if (!this.#hasEnded) {
      this.#step(constants.Z_FINISH, new Uint8Array(1), 0, 1);
    }
    return !this.#isShort && this.error === undefined;
  }

  /** How many bytes are left over, once it is complete. */
  get left(): number {
    return this.#parts.slice(this.#part)
      .reduce((sum, { length }) => sum + length, -this.#at);
  }

  get #input(): Uint8Array {
    return this.#parts[this.#part] ?? NOTHING;
  }

  #step(flush: number, out: Uint8Array, to: number, size: number): number {
    const { _handle, _writeState } = this.#stream, input = this.#input;
    const rest = input.length - this.#at;
    _handle.writeSync(flush, input, this.#at, rest, out, to, size);
    this.#at = input.length - _writeState[1];
    return size - _writeState[0];
  }

  /** Frees what the stream holds. */
  [Symbol.dispose](): void {
    this.#stream.close();
  }
}

/** How much is written at a time, in bytes. */
const PIECE = 1 << 18;

/** Deflates to a zlib stream, which may be compressed in several ways. */
export class Deflater implements Disposable {
  /** What has come out, which is a zlib stream after the last step. */
  readonly parts: Uint8Array[] = [];
  readonly #stream: ZlibStream;
  readonly #out: Uint8Array;
  #options: ZlibOptions;

  /**
   * Begins a stream.
   *
   * @param options How the first bytes are compressed
   * @param size How many bytes there will be, at most
   */
  constructor(options: ZlibOptions, size: number) {
    this.#options = options;
    this.#stream = createDeflate(options) as unknown as ZlibStream;
    this.#stream._handle.onerror = (message) => {
      throw new Error(message); // it cannot be: the caller cannot do it wrongly
    };
    // Compressed data hardly ever get longer.
    this.#out = new Uint8Array(Math.min(PIECE, size + 1024));
  }

  /** Deflates some bytes; with `isLast` it ends the stream. */
  write(bytes: Uint8Array, options: ZlibOptions, isLast: boolean): void {
    const { _handle, _writeState } = this.#stream, out = this.#out;
    if (options !== this.#options) {
      const { level = 6, strategy = constants.Z_DEFAULT_STRATEGY } = options;
      _handle.params(level, strategy);
      this.#options = options;
    }
    // A block has one way of compression, so each ends with its bytes.
    const flush = isLast ? constants.Z_FINISH : constants.Z_BLOCK;
    for (let at = 0, room = 0; !room;) {
      const rest = bytes.length - at;
      _handle.writeSync(flush, bytes, at, rest, out, 0, out.length);
      [room] = _writeState;
      at = bytes.length - _writeState[1];
      if (room < out.length) this.parts.push(out.slice(0, out.length - room));
    }
  }

  /** Frees what the stream holds. */
  [Symbol.dispose](): void {
    this.#stream.close();
  }
}
