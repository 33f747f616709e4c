/**
 * Huffman codes of JPEG, and coefficients written with them. Clauses are those of
 * ITU-T T.81.
 *
 * @module
 */

/** B.2.4.2: a Huffman table as 16 counts and their values. */
export type Codes = Uint8Array;

/**
 * K.3: the standard codes, by their index among the Huffman tables. Frames of
 * Motion JPEG have them without saying so.
 */
export const STANDARD_CODES: Codes[] = [];
for (
  const [index, hex] of [
    [0, "00010501010101010100000000000000000102030405060708090a0b"],
    [1, "00030101010101010101010000000000000102030405060708090a0b"],
    [
      4,
      "0002010303020403050504040000017d" +
      "01020300041105122131410613516107227114328191a1082342b1c11552d1f0" +
      "2433627282090a161718191a25262728292a3435363738393a43444546474849" +
      "4a535455565758595a636465666768696a737475767778797a83848586878889" +
      "8a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5" +
      "c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8" +
      "f9fa",
    ],
    [
      5,
      "00020102040403040705040400010277" +
      "0001020311040521310612415107617113223281081442" +
      "91a1b1c109233352f0156272d10a162434e125f11718191a262728292a353637" +
      "38393a434445464748494a535455565758595a636465666768696a7374757677" +
      "78797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3" +
      "b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8" +
      "e9eaf2f3f4f5f6f7f8f9fa",
    ],
  ] as const
) {
  const codes = new Uint8Array(16 + 256);
  codes.set(Uint8Array.fromHex(hex));
  STANDARD_CODES[index] = codes;
}

/** C.2: the codes of each length fit behind the shorter ones; none is all ones. */
export function isPrefixCode(counts: Uint8Array): boolean {
  let code = 0;
  for (const [i, count] of counts.entries()) {
    code = (code << 1) + count;
    if (count && code >= 2 << i) return false;
  }
  return true;
}

/** How many codes there are. */
export const sizeOf = (codes: Codes): number =>
  codes.subarray(0, 16).reduce((sum, count) => sum + count, 0);

/** C.2: a code and its length for each symbol. */
function codesOf(codes: Codes): { code: Uint16Array; size: Uint8Array } {
  const code = new Uint16Array(256), size = new Uint8Array(256);
  let next = 0, i = 16;
  for (let length = 1; length <= 16; length++) {
    for (let n = codes[length - 1]; n > 0; n--) {
      code[codes[i]] = next++;
      size[codes[i++]] = length;
    }
    next <<= 1;
  }
  return { code, size };
}

/** A band of coefficients, from the first to the last. */
export type Band = [first: number, last: number];

/**
 * Writes a scan of one component (F.1.2; of a part of the coefficients: G.1.2.2, each
 * block with its own end).
 *
 * @param coefficients For each block 64, in the order of the scans (zigzag)
 * @param band Which of them to write
 * @param dc The code for differences of DC
 * @param ac The code for the others
 * @returns The data; undefined if a value has no code
 */
export function codeBlocks(
  coefficients: Int16Array,
  [first, last]: Band,
  dc: Codes,
  ac: Codes,
): Uint8Array | undefined {
  const out = new BitWriter(), [dcCodes, acCodes] = [codesOf(dc), codesOf(ac)];
  let before = 0;
  /** F.1.2.1.1: the category of a value behind a run of zeros, and its bits. */
  const write = (codes: typeof dcCodes, run: number, value: number) => {
    const category = 32 - Math.clz32(Math.abs(value));
    const symbol = run << 4 | category, size = codes.size[symbol];
    if (category > 15 || !size) return false;
    out.put(codes.code[symbol], size);
    const bits = value < 0 ? value - 1 : value;
    out.put(bits & (1 << category) - 1, category);
    return true;
  };
  for (let at = 0; at < coefficients.length; at += 64) {
    if (first === 0) {
      if (!write(dcCodes, 0, coefficients[at] - before)) return;
      before = coefficients[at];
    }
    let run = 0;
    for (let k = Math.max(1, first); k <= last; k++) {
      const value = coefficients[at + k];
      if (value === 0) {
        run++;
        continue;
      }
      for (; run > 15; run -= 16) {
        out.put(acCodes.code[0xf0], acCodes.size[0xf0]);
      }
      if (!write(acCodes, run, value)) return;
      run = 0;
    }
    if (run) out.put(acCodes.code[0], acCodes.size[0]);
  }
  return out.finish();
}

/** Writes bits, with a zero behind each FF (F.1.2.3). */
class BitWriter {
  #bytes = new Uint8Array(1 << 16);
  #size = 0;
  #bits = 0;
  #count = 0;

  /** Writes up to 16 bits. */
  put(bits: number, count: number): void {
    this.#bits = this.#bits << count | bits;
    this.#count += count;
    while (this.#count >= 8) this.#byte(this.#bits >> (this.#count -= 8) & 255);
  }

  #byte(byte: number): void {
    if (this.#size + 2 > this.#bytes.length) {
      const buffer = this.#bytes.buffer.transfer(2 * this.#size);
      this.#bytes = new Uint8Array(buffer);
    }
    this.#bytes[this.#size++] = byte;
    if (byte === 0xff) this.#bytes[this.#size++] = 0;
  }

  /** Fills the last byte up with ones. */
  finish(): Uint8Array {
    if (this.#count) this.put((1 << 8 - this.#count) - 1, 8 - this.#count);
    return this.#bytes.subarray(0, this.#size);
  }
}
