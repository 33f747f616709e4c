/**
 * Scans of JPEGs with arithmetic coding, written as plainly as ITU-T T.81 describes
 * it (D.1, F.1.4, G.1.3). Only the table of estimates is that of what it tests; the
 * test sequence of K.4.1 checks it.
 *
 * @module
 */

import { STATES } from "../../workers/grayscale/jpeg_arithmetic.ts";

/** What DAC markers say, for every table. */
export interface Conditions {
  lower: number;
  upper: number;
  /** The last coefficient with the low magnitudes. */
  low: number;
}

/** A scan: its blocks, MCU by MCU. */
export interface ArithmeticScan {
  mcus: { component: number; block: Int32Array }[][];
  first: number;
  last: number;
  high: number;
  low: number;
  isProgressive: boolean;
  interval: number;
  conditions: Conditions;
}

/** An estimate: its state, and which decision is more probable. */
interface Estimate {
  state: number;
  sense: number;
  isFixed?: boolean;
}

/** D.1: the encoder. */
export class Encoder {
  #size = 0x10000;
  #code = 0;
  #left = 11;
  readonly #bytes: number[] = [];

  code(estimate: Estimate, decision: number): void {
    const [high, low, less, more] = STATES.subarray(4 * estimate.state);
    const part = high << 8 | low, isMore = decision === estimate.sense;
    this.#size -= part;
    if (isMore && this.#size >= 0x8000) return;
    // D.1.5: the larger part is always that of the more probable decision.
    if (isMore === this.#size < part) {
      this.#code += this.#size;
      this.#size = part;
    }
    if (!estimate.isFixed) {
      if (!isMore && less > 127) estimate.sense = 1 - estimate.sense;
      estimate.state = isMore ? more : less & 127;
    }
    do {
      this.#size *= 2;
      this.#code *= 2;
      if (--this.#left === 0) {
        this.#put();
        this.#left = 8;
      }
    } while (this.#size < 0x8000);
  }

  #put(): void {
    const bytes = this.#bytes, byte = this.#code >> 19;
    this.#code &= 0x7ffff;
    if (byte > 255) {
      let at = bytes.length - 1;
      while (bytes[at] === 255) bytes[at--] = 0;
      bytes[at]++;
    }
    bytes.push(byte & 255);
  }

  /** D.1.8: as many zeros as possible at the end, which are left out. */
  finish(): number[] {
    let end = this.#code + this.#size - 1 & ~0xffff;
    if (end < this.#code) end += 0x8000;
    this.#code = end * 2 ** this.#left;
    this.#put();
    this.#code *= 2 ** 8;
    this.#put();
    while (this.#bytes.at(-1) === 0) this.#bytes.pop();
    return this.#bytes.flatMap((byte) => byte === 255 ? [255, 0] : [byte]);
  }
}

const estimates = (count: number): Estimate[] =>
  Array.from({ length: count }, () => ({ state: 0, sense: 0 }));

/** Writes the data of a scan; the tables are 0 for the first component, 1 for others. */
export function arithmeticCoded(scan: ArithmeticScan): number[] {
  const { mcus, interval } = scan, out: number[] = [];
  let writer = new BlockWriter(scan);
  for (const [i, mcu] of mcus.entries()) {
    if (interval && i && i % interval === 0) {
      out.push(...writer.finish(), 0xff, 0xd0 + (i / interval - 1 & 7));
      writer = new BlockWriter(scan);
    }
    for (const { component, block } of mcu) writer.write(component, block);
  }
  return [...out, ...writer.finish()];
}

/** Writes the blocks of a restart interval. */
class BlockWriter {
  readonly #scan: ArithmeticScan;
  readonly #encoder = new Encoder();
  readonly #dc = [estimates(49), estimates(49)];
  readonly #ac = [estimates(245), estimates(245)];
  readonly #fixed: Estimate = { state: 0, sense: 0, isFixed: true };
  readonly #before = [0, 0, 0, 0];
  readonly #contexts = [0, 0, 0, 0];

  constructor(scan: ArithmeticScan) {
    this.#scan = scan;
  }

  finish(): number[] {
    return this.#encoder.finish();
  }

  write(component: number, block: Int32Array): void {
    const { first, last, high, low, isProgressive } = this.#scan;
    if (first === 0) {
      if (high) this.#encoder.code(this.#fixed, block[0] >> low & 1);
      else this.#writeDc(component, block[0] >> low);
    }
    if (isProgressive && first === 0) return;
    const known = Array.from(block, (value) => Math.abs(value) >> low);
    const end = known.findLastIndex((value, k) =>
      k >= first && k <= last && k > 0 && value !== 0
    );
    if (high) this.#refine(component, block, known, end);
    else this.#writeAc(component, block, known, end);
  }

  #writeDc(component: number, value: number): void {
    const table = this.#dc[Math.min(component, 1)], { conditions } = this.#scan;
    const difference = value - this.#before[component];
    this.#before[component] = value;
    const context = this.#contexts[component];
    const code = (index: number, bit: number) =>
      this.#encoder.code(table[index], bit);
    code(context, Number(difference !== 0));
    if (difference === 0) return void (this.#contexts[component] = 0);
    const sign = Number(difference < 0), more = Math.abs(difference) - 1;
    code(context + 1, sign);
    const size = this.#writeMagnitude(
      ...[table, [context + 2 + sign], 20, more] as const,
    );
    const top = 1 << size >> 1, { lower, upper } = conditions;
    this.#contexts[component] = top < 1 << lower >> 1
      ? 0
      : (top > 1 << upper >> 1 ? 12 : 4) + 4 * sign;
  }

  /** F.1.4.3.3: a magnitude less one: how many bits, in unary, and the bits. */
  #writeMagnitude(
    table: Estimate[],
    first: readonly number[],
    rest: number,
    more: number,
  ): number {
    const size = 32 - Math.clz32(more);
    const index = (n: number) => first[n] ?? rest + n - first.length;
    for (let n = 0; n <= size; n++) {
      this.#encoder.code(table[index(n)], Number(n < size));
    }
    for (let bit = 1 << size >> 2; bit; bit >>= 1) {
      this.#encoder.code(table[index(size) + 14], Number((more & bit) > 0));
    }
    return size;
  }

  #writeAc(
    component: number,
    block: Int32Array,
    known: number[],
    end: number,
  ): void {
    const { first, last, conditions } = this.#scan;
    const table = this.#ac[Math.min(component, 1)];
    for (let k = Math.max(1, first); k <= end; k++) {
      this.#encoder.code(table[3 * k - 3], 0);
      for (; known[k] === 0; k++) this.#encoder.code(table[3 * k - 2], 0);
      this.#encoder.code(table[3 * k - 2], 1);
      this.#encoder.code(this.#fixed, Number(block[k] < 0));
      const rest = k <= conditions.low ? 189 : 217, own = 3 * k - 1;
      this.#writeMagnitude(table, [own, own], rest, known[k] - 1);
    }
    const next = Math.max(end + 1, first, 1);
    if (next <= last) this.#encoder.code(table[3 * next - 3], 1);
  }

  #refine(
    component: number,
    block: Int32Array,
    known: number[],
    end: number,
  ): void {
    const { first, last } = this.#scan;
    const table = this.#ac[Math.min(component, 1)];
    const old = known.findLastIndex((value, k) => k <= last && value > 1);
    for (let k = first; k <= end; k++) {
      if (k > old) this.#encoder.code(table[3 * k - 3], 0);
      for (; known[k] === 0; k++) this.#encoder.code(table[3 * k - 2], 0);
      if (known[k] > 1) this.#encoder.code(table[3 * k - 1], known[k] & 1);
      else {
        this.#encoder.code(table[3 * k - 2], 1);
        this.#encoder.code(this.#fixed, Number(block[k] < 0));
      }
    }
    const next = Math.max(end + 1, first);
    if (next <= last) this.#encoder.code(table[3 * next - 3], 1);
  }
}
