/**
 * Decompresses bzip2. The packages that do so in JavaScript (seek-bzip,
 * unbzip2-stream) loop for ever over a damaged run, and hold what a block expands to,
 * up to 46 MB, as an array of numbers; those in WebAssembly hold whole files.
 *
 * @module
 */

import { BLOCK, type Blocks, endError, type Input } from "./input.ts";

/** How the two kinds of parts of a stream begin. */
const BLOCK_MAGIC = 0x314159265359, END_MAGIC = 0x177245385090;
/** The longest code of a symbol, in bits. */
const CODE_MAX = 20;
/** How many symbols are coded with the same table in a row. */
const GROUP = 50;
/** How much of a stream is held for a block, at first and at most, in bytes. */
const FIRST_BYTES = 1 << 16, MOST_BYTES = 1 << 23;

/** The checksum is CRC-32, with the highest bit first. */
const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24;
  for (let bit = 0; bit < 8; bit++) {
    crc = crc << 1 ^ (crc < 0 ? 0x04c11db7 : 0);
  }
  return crc;
});

/** Thrown where more input is needed; the block is then read again from its start. */
const UNDERRUN = new Error("more is needed");

/** Reads bits, the highest first. */
class Bits {
  readonly #bytes: Uint8Array;
  #at: number;
  #buffer = 0;
  #count = 0;

  constructor(bytes: Uint8Array, bit: number) {
    this.#bytes = bytes;
    this.#at = bit >> 3;
    this.take(bit & 7);
  }

  /** Where the next bit is, counted from the beginning. */
  get position(): number {
    return 8 * this.#at - this.#count;
  }

  /** The next bits, at most 24; zeros behind the end. */
  peek(count: number): number {
    while (this.#count < count) {
      this.#buffer = this.#buffer << 8 | (this.#bytes[this.#at++] ?? 0);
      this.#count += 8;
    }
    return this.#buffer >>> this.#count - count & (1 << count) - 1;
  }

  skip(count: number): void {
    this.#count -= count;
  }

  take(count: number): number {
    const bits = this.peek(count);
    this.skip(count);
    return bits;
  }

  /** Takes 48 bits; as a number they are exact. */
  takeMagic(): number {
    return this.take(24) * 2 ** 24 + this.take(24);
  }

  /** Takes 32 bits. */
  takeWord(): number {
    return (this.take(16) << 16 | this.take(16)) >>> 0;
  }

  /** Throws if more was taken than there is, or would be with some more bits. */
  check(more = 0): void {
    if (this.position + more > 8 * this.#bytes.length) throw UNDERRUN;
  }
}

/**
 * Decompresses a stream of bzip2.
 *
 * @param input Where it begins; then what follows it
 * @returns Its blocks
 * @throws {Error} If it is damaged or truncated
 *
 * @example
 * ```ts
 * import { bunzip2 } from "./bzip2.ts";
 * import { fromBlocks, Input } from "./input.ts";
 *
 * async function* blocks() {
 *   yield Uint8Array.fromBase64("QlpoORdyRThQkAAAAAA="); // of an empty file
 * }
 * for await (const block of bunzip2(new Input(fromBlocks(blocks())))) {
 *   console.log(block);
 * }
 * ```
 */
export async function* bunzip2(input: Input): Blocks {
  const level = (await input.take(4))[3] - 0x30;
  if (!(level >= 1 && level <= 9)) throw new Error("its level is damaged");
  spare ??= new Uint32Array(900_000);
  const whole = spare, bwt = whole.subarray(0, level * 100_000);
  spare = undefined;
  try {
    yield* blocksOf(input, bwt);
  } finally {
    spare = whole;
  }
}

/** Memory for a block, of a stream that has ended: an archive may have many. */
let spare: Uint32Array | undefined;

async function* blocksOf(input: Input, bwt: Uint32Array): Blocks {
  let sum = 0, bit = 0;
  for (;;) {
    const part = await readWhole(input, (bytes) => readPart(bytes, bit, bwt));
    if (part.length > 0) yield* expand(bwt, part);
    input.skip(part.end >> 3);
    bit = part.end & 7;
    if (part.length === 0) {
      if (bit > 0) input.skip(1); // the rest of the last byte is filled up
      if (part.sum !== sum) throw sumError();
      return;
    }
    sum = ((sum << 1 | sum >>> 31) ^ part.sum) >>> 0;
  }
}

function sumError(): Error {
  return new Error("its checksum is wrong");
}

/** Reads with what is held, and again with twice as much as long as that is needed. */
async function readWhole<T>(
  input: Input,
  read: (bytes: Uint8Array) => T,
): Promise<T> {
  for (let size = FIRST_BYTES;; size *= 2) {
    const bytes = await input.peek(size);
    try {
      return read(input.held);
    } catch (error) {
      if (error !== UNDERRUN) throw error;
      if (bytes.length < size) throw endError();
      // A block cannot be so long, unless the lengths of its codes go up and down.
      if (size === MOST_BYTES) throw damageError();
    }
  }
}

/** A part of a stream: a block, or the end. */
interface Part {
  /** How many bytes the block has before runs are expanded; 0 for the end. */
  length: number;
  /** Where the block begins in its sorted rotations. */
  origin: number;
  /** The checksum of the block; at the end that of all blocks. */
  sum: number;
  /** Where the part ends, in bits. */
  end: number;
}

/** Reads a block, or the end of the stream. */
function readPart(bytes: Uint8Array, bit: number, bwt: Uint32Array): Part {
  const bits = new Bits(bytes, bit);
  const magic = bits.takeMagic(), sum = bits.takeWord();
  bits.check();
  if (magic === END_MAGIC) {
    return { length: 0, origin: 0, sum, end: bits.position };
  }
  if (magic !== BLOCK_MAGIC) throw new Error("a block's header is damaged");
  if (bits.take(1) > 0) throw new Error("it is from before bzip2 0.9.5");
  const origin = bits.take(24);
  let length = 0;
  try {
    length = readSymbols(bits, bwt);
    bits.check();
  } catch (error) {
    bits.check(CODE_MAX); // what looked like damage may be the missing bits
    throw error;
  }
  if (origin >= length) throw new Error("a block is damaged");
  return { length, origin, sum, end: bits.position };
}

/** The codes of symbols, as {@linkcode readSymbols} reads them. */
interface Codes {
  least: number;
  /** For each length: the first code that is longer, filled up to 20 bits. */
  limits: Int32Array;
  /** For each length: what a code less this is an index in `symbols`. */
  bases: Int32Array;
  symbols: Uint16Array;
}

/** Reads the symbols of a block and undoes everything up to its sorting. */
function readSymbols(bits: Bits, bwt: Uint32Array): number {
  const order = readUsed(bits);
  const end = order.length + 1; // the symbol that ends the block
  const tables = bits.take(3), groups = bits.take(15);
  if (tables < 2 || tables > 6 || groups < 1) throw damageError();
  const selectors = readSelectors(bits, tables, groups);
  const codes = Array.from({ length: tables }, () => readCodes(bits, end + 1));
  let length = 0, run = 0, weight = 1;
  for (const selector of selectors) {
    bits.check();
    const { least, limits, bases, symbols } = codes[selector];
    for (let left = GROUP; left > 0; left--) {
      const code = bits.peek(CODE_MAX);
      let size = least;
      while (size <= CODE_MAX && code >= limits[size]) size++;
      if (size > CODE_MAX) throw damageError();
      bits.skip(size);
      const symbol = symbols[(code >> CODE_MAX - size) - bases[size]];
      if (symbol <= 1) {
        // Runs are numbers whose digits are 1 and 2, the lowest first.
        run += weight << symbol;
        weight *= 2;
        if (run > bwt.length) throw damageError();
        continue;
      }
      if (run > 0) {
        if (length + run > bwt.length) throw damageError();
        bwt.fill(order[0], length, length += run);
        run = 0;
        weight = 1;
      }
      if (symbol === end) return length;
      if (length === bwt.length) throw damageError();
      const at = symbol - 1, byte = order[at];
      order.copyWithin(1, 0, at);
      order[0] = byte;
      bwt[length++] = byte;
    }
  }
  throw damageError();
}

function damageError(): Error {
  return new Error("a block is damaged");
}

/** The bytes that occur in a block. */
function readUsed(bits: Bits): Uint8Array {
  const used: number[] = [];
  const rows = bits.take(16);
  for (let row = 0; row < 16; row++) {
    if ((rows << row & 0x8000) === 0) continue;
    const columns = bits.take(16);
    for (let column = 0; column < 16; column++) {
      if ((columns << column & 0x8000) > 0) used.push(16 * row + column);
    }
  }
  if (used.length === 0) throw damageError();
  return Uint8Array.from(used);
}

/** Which table each group of symbols uses. */
function readSelectors(bits: Bits, tables: number, groups: number): number[] {
  const order = Array.from({ length: tables }, (_, i) => i);
  return Array.from({ length: groups }, () => {
    let at = 0;
    while (bits.take(1) > 0) if (++at === tables) throw damageError();
    order.unshift(...order.splice(at, 1));
    return order[0];
  });
}

/** A table of codes, which is given by their lengths. */
function readCodes(bits: Bits, count: number): Codes {
  const lengths = new Uint8Array(count);
  let length = bits.take(5);
  for (let i = 0; i < count; i++) {
    while (bits.take(1) > 0) {
      length += bits.take(1) > 0 ? -1 : 1;
      if (length < 1 || length > CODE_MAX) throw damageError();
    }
    if (length < 1 || length > CODE_MAX) throw damageError();
    lengths[i] = length;
  }
  const limits = new Int32Array(CODE_MAX + 1);
  const bases = new Int32Array(CODE_MAX + 1);
  const symbols = new Uint16Array(count);
  let code = 0, index = 0;
  for (let size = 1; size <= CODE_MAX; size++) {
    bases[size] = code - index;
    for (let i = 0; i < count; i++) {
      if (lengths[i] !== size) continue;
      symbols[index++] = i;
      code++;
    }
    // More codes than there can be would be read past `symbols`.
    if (code > 1 << size) throw damageError();
    limits[size] = code << CODE_MAX - size;
    code *= 2;
  }
  return { least: Math.min(...lengths), limits, bases, symbols };
}

/** Undoes the sorting of a block, and expands its runs. */
function* expand(
  bwt: Uint32Array,
  { length, origin, sum }: Part,
): Generator<Uint8Array, void, void> {
  // Above its byte each place gets the place of the byte that follows.
  const next = new Uint32Array(256);
  for (let i = 0; i < length; i++) next[bwt[i]]++;
  for (let byte = 0, before = 0; byte < 256; byte++) {
    const count = next[byte];
    next[byte] = before;
    before += count;
  }
  for (let i = 0; i < length; i++) bwt[next[bwt[i] & 255]++] |= i << 8;
  const output = new Uint8Array(BLOCK + 256);
  let crc = -1, size = 0, last = -1, same = 0;
  let place = bwt[origin] >>> 8;
  for (let left = length; left > 0; left--) {
    const entry = bwt[place], byte = entry & 255;
    place = entry >>> 8;
    if (same === 4) {
      // After four equal bytes: how many more there are.
      for (let more = byte; more > 0; more--) {
        crc = crc << 8 ^ CRC[crc >>> 24 ^ last];
      }
      output.fill(last, size, size += byte);
      same = 0;
      last = -1;
    } else {
      same = byte === last ? same + 1 : 1;
      last = byte;
      crc = crc << 8 ^ CRC[crc >>> 24 ^ byte];
      output[size++] = byte;
    }
    if (size < BLOCK && left > 1) continue;
    yield output.subarray(0, size);
    size = 0;
  }
  if ((~crc >>> 0) !== sum) throw sumError();
}
