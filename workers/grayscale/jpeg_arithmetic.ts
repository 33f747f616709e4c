/**
 * Decodes the luma of JPEGs with arithmetic coding (SOF9 and SOF10) to coefficients,
 * which are then written with Huffman codes. Clauses are those of ITU-T T.81.
 *
 * Such files are rare, so this is written to be read, not for speed: 6.5 megapixels
 * take about half a second.
 *
 * @module
 */

import {
  broken,
  type Frame,
  geometryOf,
  type Scan,
  strayLine,
  truncated,
} from "./jpeg_frame.ts";

/**
 * D.3: the states of an estimate: in 16 bits the size of the less probable
 * sub-interval (Qe), in 8 bits each which state follows a less probable decision (the
 * highest bit: what is more probable changes), and which one a more probable.
 */
export const STATES: Uint8Array = Uint8Array.fromHex(
  "5a1d810125860e0211141003080b120403d8140501da170600e51907006f1c08" +
    "00361e09001a210a000d230b0006090c00030a0d00010c0d5a7f8f0f3f252410" +
    "2cf22611207c271217b9281311822a140cef2b1509a12d16072f2e17055c3018" +
    "040631190303331a0240341b01b1361c0144381d00f5391e00b73b1f008a3c20" +
    "00683e21004e3f22003b2023002c21095ae1a525484c40263a0d41272ef14328" +
    "261f44291f33452a19a8462b1518482c1177492d0e744a2e0bfb4b2f09f84d30" +
    "08614e3107064f3205cd303304de3234040f32350363333602d43437025c3538" +
    "01f8363901a4373a0160383b0125393c00f63a3d00cb3b3e00ab3d3f008f3d20" +
    "5b12c1414d045042412c514337d852442fe85345293c5446237956471edf5748" +
    "1aa95749174e484a1424484b119c4a4c0f6b4a4d0d514b4e0bb64d4f0a404d30" +
    "5832d0514d1c5852438e59533bdd5a5434ee5b552eae5c56299a5d5725165647" +
    "5570d8594ca95f5a44d9605b3e22615c3824635d32b4635e2e175d5656a8df60" +
    "4f46656147e5666241cf67633c3d6864375e635d523169664c0f6a6746396b68" +
    "415e67635627e96a50e76c6b4b856d6755976e6d504f6f6b5a10ee6f5522706d" +
    "59ebf06f",
);
/** How many there are. The one behind them never changes: both are as probable. */
const COUNT = STATES.length / 4, FIXED = COUNT;

/** An estimate is twice its state, and one more if 1 is the more probable decision. */
const SIZES = new Uint16Array(COUNT + 1);
const AFTER_LESS = new Uint8Array(2 * COUNT + 2);
const AFTER_MORE = new Uint8Array(2 * COUNT + 2);
for (let state = 0; state < COUNT; state++) {
  const [high, low, less, more] = STATES.subarray(4 * state);
  SIZES[state] = high << 8 | low;
  for (const sense of [0, 1]) {
    AFTER_LESS[2 * state + sense] = 2 * (less & 127) + (sense ^ less >> 7);
    AFTER_MORE[2 * state + sense] = 2 * more + sense;
  }
}
SIZES[FIXED] = SIZES[0];
AFTER_LESS[2 * FIXED] = AFTER_MORE[2 * FIXED] = 2 * FIXED;

/**
 * After so many bytes that had to be added, a code that has not become zero was never
 * written: an encoder leaves out only the zeros at its end (D.1.8).
 */
const ADDED_MAX = 8;

/** D.2: gives the decisions of one restart interval. */
class Decisions {
  readonly #bytes: Uint8Array;
  #at: number;
  /** The size of the interval, up to 2 ** 16, and the code in it, with 8 bits more. */
  #size = 0x10000;
  #code = 0;
  /** How many of these 8 bits are left. */
  #left = 0;
  /** How many zeros were added behind the data. */
  #added = 0;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.#at = at;
    this.#code = this.#next() << 16;
    this.#code |= this.#next() << 8;
  }

  /** Where the bytes are that were not read. */
  get at(): number {
    return this.#at;
  }

  /** Decides by an estimate, and betters that. */
  decide(estimates: Uint8Array, index: number): number {
    const estimate = estimates[index], part = SIZES[estimate >> 1];
    let isLess: boolean;
    this.#size -= part;
    if (this.#code >> 8 < this.#size) {
      if (this.#size >= 0x8000) return estimate & 1;
      isLess = this.#size < part; // D.1.5: the names are exchanged
    } else {
      isLess = this.#size >= part;
      this.#code -= this.#size << 8;
      this.#size = part;
    }
    do {
      if (this.#left === 0) {
        this.#code |= this.#next();
        this.#left = 8;
      }
      this.#left--;
      this.#code <<= 1;
      this.#size <<= 1;
    } while (this.#size < 0x8000);
    estimates[index] = (isLess ? AFTER_LESS : AFTER_MORE)[estimate];
    return isLess ? ~estimate & 1 : estimate & 1;
  }

  /** D.2.6: a byte; behind the data zeros. */
  #next(): number {
    const bytes = this.#bytes, byte = bytes[this.#at];
    if (byte === undefined || byte === 0xff && bytes[this.#at + 1] !== 0) {
      if (++this.#added > ADDED_MAX && this.#code !== 0) {
        this.report("a scan's data end too early");
      }
      return 0;
    }
    this.#at += byte === 0xff ? 2 : 1;
    return byte;
  }

  /** Throws what is wrong; at the end of the file its lack is the cause. */
  report(cause: string): never {
    if (this.#at >= this.#bytes.length - 1) truncated(cause, this.#at);
    broken(cause, this.#at);
  }
}

/** F.1.4.3, F.1.4.4.1.4: the conditioning of the estimates, from DAC markers. */
export class Conditioning {
  /** For each DC table the bounds of a small difference. */
  readonly #bounds: [lower: number, upper: number][] = [];
  /** For each AC table the last coefficient whose magnitude is one of the low ones. */
  readonly #lows: number[] = [];

  /**
   * Takes the content of a DAC segment.
   *
   * @param segment The content
   * @param at Where it is
   * @throws {Error} If it says what is not possible
   */
  take(segment: Uint8Array, at: number): void {
    if (segment.length % 2) broken("bad arithmetic conditioning (DAC)", at);
    for (let i = 0; i < segment.length; i += 2) {
      const [kind, value] = segment.subarray(i, i + 2), id = kind & 15;
      const [lower, upper] = [value & 15, value >> 4];
      const isAc = kind >> 4 === 1;
      const isPossible = isAc ? value >= 1 && value <= 63 : lower <= upper;
      if (kind >> 4 > 1 || id > 3 || !isPossible) {
        broken("bad arithmetic conditioning (DAC)", at);
      }
      if (isAc) this.#lows[id] = value;
      else this.#bounds[id] = [lower, upper];
    }
  }

  /** The bounds of the magnitudes less one of small DC differences, in a table. */
  boundsOf(dc: number): [lower: number, upper: number] {
    const [lower, upper] = this.#bounds[dc] ?? [0, 1];
    return [1 << lower >> 1, 1 << upper >> 1];
  }

  /** The last coefficient with the low estimates, in a table. */
  lowOf(ac: number): number {
    return this.#lows[ac] ?? 5;
  }
}

/** How many scans of the luma there may be: each takes time, even without data. */
const SCANS_MAX = 100;

/** The luma's coefficients, which the scans of a file fill. */
export class ArithmeticLuma {
  /** For each block 64, in the order of the scans (zigzag). */
  readonly coefficients: Int16Array;
  readonly #bytes: Uint8Array;
  readonly #warn: (cause: string) => void;
  #scans = 0;

  /**
   * Reserves memory for an image.
   *
   * @param bytes A whole file
   * @param frame Its frame header
   * @param scan The header of a scan of the luma
   * @param warn Called with what is wrong beside the pixels, in one line
   * @throws {Error} If there is not enough memory
   */
  constructor(
    bytes: Uint8Array,
    frame: Frame,
    scan: Scan,
    warn: (cause: string) => void,
  ) {
    this.#bytes = bytes;
    this.#warn = warn;
    const { blocksWide, blocksHigh } = geometryOf(frame, scan);
    try {
      this.coefficients = new Int16Array(64 * blocksWide * blocksHigh);
    } catch (error) {
      const { width, height } = frame;
      const cause = `too large: ${width}x${height} pixels, arithmetic coding`;
      throw new Error(cause, { cause: error });
    }
  }

  /**
   * Decodes a scan.
   *
   * @param frame The frame header
   * @param scan The scan's header
   * @param interval MCUs of a restart interval; 0 if there are none
   * @param conditioning As it stands at this scan
   * @returns Where its data end
   * @throws {Error} If it is broken or truncated
   */
  add(
    frame: Frame,
    scan: Scan,
    interval: number,
    conditioning: Conditioning,
  ): number {
    if (++this.#scans > SCANS_MAX) {
      broken(`more than ${SCANS_MAX} scans of the luma`, scan.at);
    }
    const { blocksWide, blocksHigh, ...mcus } = geometryOf(frame, scan);
    const { components, luma } = scan;
    const blocks = new BlockDecoder(
      ...[this.#bytes, frame, scan, conditioning] as const,
    );
    const padding = new Int16Array(64);
    blocks.begin(scan.from);
    for (let n = 0; n < mcus.wide * mcus.high; n++) {
      if (interval && n && n % interval === 0) {
        blocks.begin(this.#restart(blocks.at, n / interval - 1));
      }
      for (const [i, { wide, high }] of components.entries()) {
        const count = components.length === 1 ? 1 : wide * high;
        for (let block = 0; block < count; block++) {
          const column = n % mcus.wide * mcus.lumaWide + block % mcus.lumaWide;
          const row = Math.floor(n / mcus.wide) * mcus.lumaHigh +
            Math.floor(block / mcus.lumaWide);
          const isKept = i === luma && column < blocksWide && row < blocksHigh;
          if (isKept) {
            const at = 64 * (row * blocksWide + column);
            blocks.decode(i, this.coefficients, at);
          } else blocks.decode(i, padding, 0);
        }
      }
    }
    return this.#endOf(blocks.at);
  }

  /** The next marker, before which there may be padding only. */
  #endOf(at: number): number {
    const bytes = this.#bytes,
      isMarker = (i: number) => bytes[i] === 0xff && bytes[i + 1] !== 0;
    let end = at;
    while (end < bytes.length && !isMarker(end)) end++;
    const isPadding = bytes.subarray(at, end).every((byte, i, all) =>
      byte === all[0] || i % 2 && byte === 0
    );
    if (!isPadding) {
      broken("data after the end of a scan or restart interval", at);
    }
    if (end > at) this.#warn(strayLine(end - at, at));
    return end;
  }

  /** Where the data behind a restart marker begin. */
  #restart(at: number, count: number): number {
    const bytes = this.#bytes;
    let end = this.#endOf(at);
    while (bytes[end + 1] === 0xff) end++; // fill bytes
    if (end + 1 >= bytes.length) truncated("a scan's data end too early", end);
    if (bytes[end + 1] !== (0xd0 | count & 7)) {
      broken("restart marker out of sequence", end);
    }
    return end + 2;
  }
}

/** F.1.4.4.1.3, F.1.4.4.2: where kinds of estimates begin in a table. */
const DC_MAGNITUDES = 20, AC_LOW = 189, AC_HIGH = 217, BITS = 14;
/** How many estimates a table has. */
const DC_ESTIMATES = 49, AC_ESTIMATES = 245;
/** DC contexts: small and large differences before, by their signs. */
const SMALL = 4, LARGE = 12;

/** Decodes the blocks of a scan. */
class BlockDecoder {
  readonly #bytes: Uint8Array;
  readonly #scan: Scan;
  readonly #isProgressive: boolean;
  readonly #bounds: [lower: number, upper: number][];
  readonly #lows: number[];
  #decisions!: Decisions;
  /** Estimates by the tables of the scan. */
  #dc: Uint8Array[] = [];
  #ac: Uint8Array[] = [];
  readonly #fixed = Uint8Array.of(2 * FIXED);
  /** For each component the DC before, and the context that it makes. */
  #predictions: number[] = [];
  #contexts: number[] = [];

  constructor(
    bytes: Uint8Array,
    frame: Frame,
    scan: Scan,
    conditioning: Conditioning,
  ) {
    this.#bytes = bytes;
    this.#scan = scan;
    this.#isProgressive = frame.isProgressive;
    const { components } = scan;
    this.#bounds = components.map(({ dc }) => conditioning.boundsOf(dc));
    this.#lows = components.map(({ ac }) => conditioning.lowOf(ac));
  }

  /** Where the bytes are that were not read. */
  get at(): number {
    return this.#decisions.at;
  }

  /** Begins a restart interval. */
  begin(at: number): void {
    const { components } = this.#scan;
    this.#decisions = new Decisions(this.#bytes, at);
    for (const { dc, ac } of components) {
      this.#dc[dc] = new Uint8Array(DC_ESTIMATES);
      this.#ac[ac] = new Uint8Array(AC_ESTIMATES);
    }
    this.#predictions = components.map(() => 0);
    this.#contexts = components.map(() => 0);
  }

  /** Decodes what the scan has of a block of a component. */
  decode(component: number, block: Int16Array, at: number): void {
    const { first, last, high, low } = this.#scan;
    if (first === 0) {
      if (high === 0) {
        const dc = this.#predictions[component] += this.#difference(component);
        this.#put(block, at, dc * 2 ** low);
      } else if (this.#even()) block[at] |= 1 << low;
    }
    if (this.#isProgressive && first === 0) return;
    if (high === 0) this.#band(component, block, at, Math.max(1, first), last);
    else this.#refine(component, block, at);
  }

  /** A decision whose two values are as probable. */
  #even(): number {
    return this.#decisions.decide(this.#fixed, 0);
  }

  /** F.2.4.1: a DC difference. */
  #difference(component: number): number {
    const estimates = this.#dc[this.#scan.components[component].dc];
    const decisions = this.#decisions, context = this.#contexts[component];
    if (!decisions.decide(estimates, context)) {
      return this.#contexts[component] = 0;
    }
    const sign = decisions.decide(estimates, context + 1);
    let index = context + 2 + sign, top = decisions.decide(estimates, index);
    if (top) {
      index = DC_MAGNITUDES;
      while (decisions.decide(estimates, index)) {
        top = this.#doubled(top);
        index++;
      }
    }
    const [lower, upper] = this.#bounds[component];
    this.#contexts[component] = top < lower
      ? 0
      : (top > upper ? LARGE : SMALL) + 4 * sign;
    return this.#value(estimates, index + BITS, top, sign);
  }

  /** F.2.4.2: AC coefficients that were not known before. */
  #band(
    component: number,
    block: Int16Array,
    at: number,
    first: number,
    last: number,
  ): void {
    const estimates = this.#ac[this.#scan.components[component].ac];
    const decisions = this.#decisions, low = this.#lows[component];
    for (let k = first; k <= last; k++) {
      if (decisions.decide(estimates, 3 * (k - 1))) return; // the end of the block
      while (!decisions.decide(estimates, 3 * (k - 1) + 1)) k = this.#after(k);
      const sign = this.#even();
      let index = 3 * (k - 1) + 2, top = decisions.decide(estimates, index);
      if (top && decisions.decide(estimates, index)) {
        top = this.#doubled(top);
        index = k <= low ? AC_LOW : AC_HIGH;
        while (decisions.decide(estimates, index)) {
          top = this.#doubled(top);
          index++;
        }
      }
      const value = this.#value(estimates, index + BITS, top, sign);
      this.#put(block, at + k, value * 2 ** this.#scan.low);
    }
  }

  /** G.1.3.3: one bit more of AC coefficients. */
  #refine(component: number, block: Int16Array, at: number): void {
    const { first, last, low } = this.#scan, bit = 1 << low;
    const estimates = this.#ac[this.#scan.components[component].ac];
    const decisions = this.#decisions;
    let end = last; // the last one that was not zero before
    while (end >= first && block[at + end] === 0) end--;
    for (let k = first; k <= last; k++) {
      if (k > end && decisions.decide(estimates, 3 * (k - 1))) return;
      for (;; k = this.#after(k)) {
        const value = block[at + k], index = 3 * (k - 1);
        if (value !== 0) {
          const more = decisions.decide(estimates, index + 2);
          if (more) this.#put(block, at + k, value + (value < 0 ? -bit : bit));
          break;
        }
        if (decisions.decide(estimates, index + 1)) {
          this.#put(block, at + k, this.#even() ? -bit : bit);
          break;
        }
      }
    }
  }

  /** The coefficient after one, in a run of zeros. */
  #after(k: number): number {
    if (k >= this.#scan.last) {
      this.#decisions.report("block with too many coefficients");
    }
    return k + 1;
  }

  /** F.1.4.3.3: the highest bit of a magnitude less one. */
  #doubled(top: number): number {
    if (top >= 0x4000) this.#decisions.report("coefficient out of range");
    return 2 * top;
  }

  /** F.1.4.3.4: the bits of a magnitude less one below the highest. */
  #value(
    estimates: Uint8Array,
    index: number,
    top: number,
    sign: number,
  ): number {
    let value = top;
    for (let bit = top >> 1; bit; bit >>= 1) {
      if (this.#decisions.decide(estimates, index)) value |= bit;
    }
    return sign ? -(value + 1) : value + 1;
  }

  #put(block: Int16Array, at: number, value: number): void {
    if (Math.abs(value) >= 0x8000) {
      this.#decisions.report("coefficient out of range");
    }
    block[at] = value;
  }
}
