/**
 * Decompresses lz4. The packages that do so (lz4js, lz4-wasm, lz4-napi) hold whole
 * files, and the one that streams (lz4) has been left since 2021.
 *
 * @module
 */

import { BLOCK, type Blocks, endError, type Input } from "./input.ts";

/** How a frame of lz4's first versions begins, which has no descriptor. */
const LEGACY = 0x184c2102;
/** The most that a block of such an old frame has, in bytes. */
const LEGACY_BLOCK = 8 << 20;
/** How far back a block may refer, in bytes. */
const WINDOW = 1 << 16;
/** The shortest repetition, in bytes. */
const MATCH_MIN = 4;

/**
 * Decompresses a frame of lz4.
 *
 * @param input Where it begins; then what follows it
 * @returns Its blocks
 * @throws {Error} If it is damaged or truncated
 *
 * @example
 * ```ts
 * import { fromBlocks, Input } from "./input.ts";
 * import { unlz4 } from "./lz4.ts";
 *
 * async function* blocks() {
 *   yield Uint8Array.fromBase64("BCJNGGRApwEAAIBhAAAAAFZ0DVU="); // an "a"
 * }
 * const input = new Input(fromBlocks(blocks()));
 * for await (const block of unlz4(input)) console.log(block[0]); // 97
 * ```
 */
export async function* unlz4(input: Input): Blocks {
  if (await takeWord(input) === LEGACY) return yield* unlz4Legacy(input);
  const { blockMax, isLinked, hasSums, hasSum } = await takeDescriptor(input);
  const window = new Window(blockMax);
  const sum = new Sum();
  for (let size; (size = await takeWord(input)) > 0;) {
    const isPlain = size >>> 31 === 1, length = size & 0x7fffffff;
    if (length > blockMax) throw new Error("a block is too large");
    if (!isLinked) window.clear();
    const bytes = await input.peek(length + (hasSums ? 4 : 0));
    const packed = bytes.subarray(0, length);
    // Before it is decompressed, which then cannot be right.
    if (hasSums && bytes.length === length + 4) {
      if (wordAt(bytes, length) !== Sum.of(packed)) throw sumError();
    }
    for (const block of window.decode(packed, isPlain)) {
      if (hasSum) sum.add(block);
      yield block;
    }
    input.skip(bytes.length);
    if (bytes.length < length + (hasSums ? 4 : 0)) throw endError();
    if (window.isDamaged) throw new Error("a block is damaged");
  }
  if (hasSum && await takeWord(input) !== sum.value) throw sumError();
}

/** Decompresses a frame that ends where no further block begins. */
async function* unlz4Legacy(input: Input): Blocks {
  const window = new Window(LEGACY_BLOCK);
  // A block of random bytes is a little longer than they are.
  const most = LEGACY_BLOCK + LEGACY_BLOCK / 255 + 16;
  for (;;) {
    const head = await input.peek(4);
    if (head.length === 0) return;
    const length = head.length < 4 ? 0 : wordAt(head, 0);
    if (head.length === 4 && (length === 0 || length > most)) return;
    await input.take(4);
    window.clear();
    const bytes = await input.peek(length);
    yield* window.decode(bytes, false);
    input.skip(bytes.length);
    if (bytes.length < length) throw endError();
    if (window.isDamaged) throw new Error("a block is damaged");
  }
}

function sumError(): Error {
  return new Error("its checksum is wrong");
}

function wordAt(bytes: Uint8Array, at: number): number {
  return (bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16 |
    bytes[at + 3] << 24) >>> 0;
}

async function takeWord(input: Input): Promise<number> {
  return wordAt(await input.take(4), 0);
}

/** What a frame says of itself. */
interface Descriptor {
  /** The most that a block has, in bytes. */
  blockMax: number;
  /** Whether a block may refer to those before it. */
  isLinked: boolean;
  /** Whether each block has a checksum. */
  hasSums: boolean;
  /** Whether the whole frame has one. */
  hasSum: boolean;
}

async function takeDescriptor(input: Input): Promise<Descriptor> {
  const [flags] = await input.peek(1);
  const hasSize = (flags & 8) > 0, hasDictionary = (flags & 1) > 0;
  const length = 2 + (hasSize ? 8 : 0) + (hasDictionary ? 4 : 0);
  const bytes = await input.take(length + 1);
  const blockSize = bytes[1] >> 4 & 7;
  const sum = Sum.of(bytes.subarray(0, length)) >>> 8 & 255;
  if (sum !== bytes[length] || flags >> 6 !== 1 || blockSize < 4) {
    throw new Error("its header is damaged");
  }
  if (hasDictionary) throw new Error("it needs a dictionary");
  return {
    blockMax: 1 << 8 + 2 * blockSize,
    isLinked: (flags & 0x20) === 0,
    hasSums: (flags & 0x10) > 0,
    hasSum: (flags & 4) > 0,
  };
}

/** What was decompressed last, to which blocks refer. */
class Window {
  readonly #bytes: Uint8Array;
  #end = 0;
  /** Whether the last block could be decompressed only in part. */
  isDamaged = false;

  constructor(blockMax: number) {
    this.#bytes = new Uint8Array(WINDOW + blockMax);
  }

  /** Forgets all that came before. */
  clear(): void {
    this.#end = 0;
  }

  /** Decompresses a block as far as that is possible. */
  *decode(
    packed: Uint8Array,
    isPlain: boolean,
  ): Generator<Uint8Array, void, void> {
    const bytes = this.#bytes;
    const kept = Math.min(WINDOW, this.#end);
    bytes.copyWithin(0, this.#end - kept, this.#end);
    this.#end = kept;
    this.isDamaged = false;
    if (isPlain) {
      bytes.set(packed, kept);
      this.#end += packed.length;
    } else this.#expand(packed);
    for (let at = kept; at < this.#end; at += BLOCK) {
      yield bytes.subarray(at, Math.min(this.#end, at + BLOCK));
    }
  }

  #expand(packed: Uint8Array): void {
    const bytes = this.#bytes, most = bytes.length;
    let at = 0, end = this.#end;
    /** A length that goes on in bytes, as long as they are 255. */
    const more = (length: number) => {
      for (let byte = 255; byte === 255 && at < packed.length;) {
        byte = packed[at++];
        length += byte;
      }
      return length;
    };
    while (at < packed.length) {
      const token = packed[at++];
      let literals = token >> 4;
      if (literals === 15) literals = more(literals);
      const from = at;
      at += literals;
      const isWhole = at <= packed.length && end + literals <= most;
      const to = Math.min(at, packed.length, from + most - end);
      if (literals < 16) {
        for (let i = from; i < to;) bytes[end++] = packed[i++];
      } else {
        bytes.set(packed.subarray(from, to), end);
        end += to - from;
      }
      if (!isWhole) break;
      if (at === packed.length) { // as it has to be
        this.#end = end;
        return;
      }
      const distance = packed[at] | packed[at + 1] << 8;
      at += 2;
      let length = (token & 15) + MATCH_MIN;
      if (length === 15 + MATCH_MIN) length = more(length);
      if (at > packed.length || distance === 0 || distance > end) break;
      if (end + length > most) break;
      const source = end - distance;
      // What is repeated may be what the repetition itself has written.
      if (length < 32 || distance < length) {
        for (let i = source; length > 0; length--) bytes[end++] = bytes[i++];
      } else {
        bytes.copyWithin(end, source, source + length);
        end += length;
      }
    }
    this.#end = end;
    this.isDamaged = true;
  }
}

const PRIME1 = 0x9e3779b1, PRIME2 = 0x85ebca77, PRIME3 = 0xc2b2ae3d;
const PRIME4 = 0x27d4eb2f, PRIME5 = 0x165667b1;
/** The checksum takes so many bytes at a time. */
const STRIPE = 16;

const rotate = (word: number, by: number) => word << by | word >>> 32 - by;
const mix = (lane: number, word: number) =>
  Math.imul(rotate(lane + Math.imul(word, PRIME2), 13), PRIME1);

/** The checksum of lz4, xxHash of 32 bits. */
class Sum {
  #a = PRIME1 + PRIME2 | 0;
  #b = PRIME2 | 0;
  #c = 0;
  #d = -PRIME1 | 0;
  #length = 0;
  /** What does not fill a stripe. */
  readonly #rest = new Uint8Array(STRIPE);

  /** The checksum of some bytes. */
  static of(bytes: Uint8Array): number {
    const sum = new Sum();
    sum.add(bytes);
    return sum.value;
  }

  add(bytes: Uint8Array): void {
    let held = this.#length % STRIPE;
    this.#length += bytes.length;
    if (held > 0) {
      const start = bytes.subarray(0, STRIPE - held);
      this.#rest.set(start, held);
      held += start.length;
      bytes = bytes.subarray(start.length);
      if (held < STRIPE) return;
      this.#addStripes(this.#rest);
    }
    const whole = bytes.length - bytes.length % STRIPE;
    this.#addStripes(bytes.subarray(0, whole));
    this.#rest.set(bytes.subarray(whole));
  }

  #addStripes(bytes: Uint8Array): void {
    let [a, b, c, d] = [this.#a, this.#b, this.#c, this.#d];
    for (let at = 0; at < bytes.length; at += STRIPE) {
      a = mix(a, wordAt(bytes, at));
      b = mix(b, wordAt(bytes, at + 4));
      c = mix(c, wordAt(bytes, at + 8));
      d = mix(d, wordAt(bytes, at + 12));
    }
    [this.#a, this.#b, this.#c, this.#d] = [a, b, c, d];
  }

  get value(): number {
    let sum = this.#length < STRIPE
      ? PRIME5
      : rotate(this.#a, 1) + rotate(this.#b, 7) + rotate(this.#c, 12) +
        rotate(this.#d, 18);
    sum = sum + this.#length | 0;
    const rest = this.#rest.subarray(0, this.#length % STRIPE);
    let at = 0;
    for (; at + 4 <= rest.length; at += 4) {
      const word = Math.imul(wordAt(rest, at), PRIME3);
      sum = Math.imul(rotate(sum + word | 0, 17), PRIME4);
    }
    for (; at < rest.length; at++) {
      sum = Math.imul(
        rotate(sum + Math.imul(rest[at], PRIME5) | 0, 11),
        PRIME1,
      );
    }
    sum = Math.imul(sum ^ sum >>> 15, PRIME2);
    sum = Math.imul(sum ^ sum >>> 13, PRIME3);
    return (sum ^ sum >>> 16) >>> 0;
  }
}
