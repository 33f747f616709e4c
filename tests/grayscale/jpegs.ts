/**
 * JPEGs from coefficients, and coefficients from JPEGs, written as plainly as
 * ITU-T T.81 describes it: the reference that the kernel is compared with. It
 * shares no code with what it tests, and trusts its input.
 *
 * @module
 */

import { arithmeticCoded, type Conditions } from "./jpeg_arithmetic.ts";

/** A component: its blocks, row by row, with those that only pad an MCU. */
export interface Component {
  /** Sampling factors. */
  wide: number;
  high: number;
  /** Blocks in a row, a multiple of `wide`, and in a column. */
  columns: number;
  rows: number;
  /** Of each block, 64 coefficients in zigzag order. */
  blocks: Int32Array[];
  /** Blocks that belong to the picture. */
  columnsUsed: number;
  rowsUsed: number;
}

/** A JPEG's content. */
export interface Picture {
  width: number;
  height: number;
  components: Component[];
}

/** A scan: its components, the band, and the two bit positions. */
export interface Band {
  components: number[];
  first: number;
  last: number;
  high: number;
  low: number;
}

/** How to write a picture. */
export interface Style {
  /** SOF0, SOF1 or SOF2; SOF9 or SOF10 with arithmetic coding. */
  frame?: number;
  /** Arithmetic coding, under these conditions. */
  arithmetic?: Conditions;
  scans?: Band[];
  /** MCUs between restarts. */
  interval?: number;
  /** Give each table the codes of 1 to 8 bits, and of 16. */
  skewed?: boolean;
  /** Quantization tables of 16 bits. */
  deep?: boolean;
  /** Fill bytes before each marker. */
  fill?: number;
  ids?: number[];
  /** Marker segments behind SOI. */
  markers?: number[][];
}

/** A marker segment. */
export const segment = (
  marker: number,
  content: ArrayLike<number>,
): number[] => {
  const size = content.length + 2;
  return [0xff, marker, size >> 8, size & 255, ...Array.from(content)];
};

/** Lays out components for a size and sampling factors. */
export function newPicture(
  width: number,
  height: number,
  sampling: [wide: number, high: number][],
): Picture {
  const wide = Math.max(...sampling.map(([w]) => w));
  const high = Math.max(...sampling.map(([, h]) => h));
  const mcus = [width / (8 * wide), height / (8 * high)].map(Math.ceil);
  const components = sampling.map(([w, h]) => {
    const columns = mcus[0] * w, rows = mcus[1] * h;
    const used = (size: number, factor: number, most: number) =>
      Math.ceil(Math.ceil(size * factor / most) / 8);
    return {
      ...{ wide: w, high: h, columns, rows },
      blocks: Array.from({ length: columns * rows }, () => new Int32Array(64)),
      columnsUsed: used(width, w, wide),
      rowsUsed: used(height, h, high),
    };
  });
  return { width, height, components };
}

/** Fills all blocks with coefficients: few or many, small or large. */
export function fill(picture: Picture, random: () => number): Picture {
  for (const block of picture.components.flatMap(({ blocks }) => blocks)) {
    block[0] = Math.round((random() - 0.5) * 2047 * random());
    const density = random() ** 3;
    const last = Math.floor(64 * random() ** 2);
    for (let k = 1; k <= last; k++) {
      if (random() > density && k < last) continue;
      block[k] = Math.round((random() - 0.5) * 2046 * random() ** 6);
    }
  }
  return picture;
}

/** The blocks of a component that belong to the picture. */
export function blocksOf(component: Component): Int32Array[] {
  const { blocks, columns, columnsUsed, rowsUsed } = component;
  const used: Int32Array[] = [];
  for (let row = 0; row < rowsUsed; row++) {
    for (let column = 0; column < columnsUsed; column++) {
      used.push(blocks[row * columns + column]);
    }
  }
  return used;
}

/** A.2: the blocks of a scan in their order, MCU by MCU. */
function mcusOf(
  picture: Picture,
  scan: number[],
): { component: number; block: Int32Array }[][] {
  const all = picture.components;
  const at = (component: number, row: number, column: number) => ({
    component,
    block: all[component].blocks[row * all[component].columns + column],
  });
  const mcus = [];
  if (scan.length === 1) {
    const { rowsUsed, columnsUsed } = all[scan[0]];
    for (let row = 0; row < rowsUsed; row++) {
      for (let column = 0; column < columnsUsed; column++) {
        mcus.push([at(scan[0], row, column)]);
      }
    }
    return mcus;
  }
  const [{ columns, rows, wide, high }] = all;
  for (let row = 0; row < rows / high; row++) {
    for (let column = 0; column < columns / wide; column++) {
      mcus.push(scan.flatMap((c) => {
        const { wide, high } = all[c];
        return Array.from(
          { length: wide * high },
          (_, i) =>
            at(c, row * high + Math.floor(i / wide), column * wide + i % wide),
        );
      }));
    }
  }
  return mcus;
}

// Writing

/** What a scan is made of: Huffman symbols, bits, and restarts. */
type Token =
  | { table: number; symbol: number }
  | { value: number; size: number }
  | "restart";

const sizeOf = (value: number): number => 32 - Math.clz32(Math.abs(value));

/** F.1.2.1: the bits of a value, whose size is coded before it. */
const bitsOf = (value: number): Token => ({
  value: value < 0 ? value + (1 << sizeOf(value)) - 1 : value,
  size: sizeOf(value),
});

/** The bits of a coefficient that are known after a scan (G.1.2.1). */
const scaled = (value: number, low: number, k: number): number =>
  k === 0 ? value >> low : Math.sign(value) * (Math.abs(value) >> low);

/** F.1.2, G.1.2: the tokens of a scan; those of AC tables from 4 on. */
function tokensOf(picture: Picture, band: Band, interval: number): Token[] {
  const { first, last, high, low } = band;
  const tokens: Token[] = [], predictions = [0, 0, 0, 0];
  let run = 0; // blocks without anything more
  const endRun = (table: number) => {
    if (run === 0) return;
    const size = sizeOf(run) - 1;
    tokens.push({ table, symbol: size << 4 });
    tokens.push({ value: run - (1 << size), size });
    run = 0;
  };
  const codeDc = (component: number, [value]: Int32Array) => {
    if (high) return tokens.push({ value: value >> low & 1, size: 1 });
    const dc = scaled(value, low, 0), table = Math.min(component, 1);
    const difference = dc - predictions[component];
    predictions[component] = dc;
    tokens.push({ table, symbol: sizeOf(difference) }, bitsOf(difference));
  };
  const codeAc = (table: number, block: Int32Array) => {
    let zeros = 0;
    for (let k = Math.max(1, first); k <= last; k++) {
      const value = scaled(block[k], low, k);
      if (value === 0) {
        zeros++;
        continue;
      }
      endRun(table);
      for (; zeros > 15; zeros -= 16) tokens.push({ table, symbol: 0xf0 });
      const symbol = zeros << 4 | sizeOf(value);
      tokens.push({ table, symbol }, bitsOf(value));
      zeros = 0;
    }
    if (zeros > 0) run++;
    // Runs of blocks are for progressive scans.
    if (first === 0 || run === 0x7fff) endRun(table);
  };
  const lastTable = 4 + Math.min(band.components[0], 1);
  for (const [i, mcu] of mcusOf(picture, band.components).entries()) {
    if (interval && i > 0 && i % interval === 0) {
      endRun(lastTable);
      tokens.push("restart");
      predictions.fill(0);
    }
    for (const { component, block } of mcu) {
      const table = 4 + Math.min(component, 1);
      if (first === 0) codeDc(component, block);
      if (last > 0 && high) refineBlock(tokens, band, table, block);
      else if (last > 0) codeAc(table, block);
    }
  }
  endRun(lastTable);
  return tokens;
}

/** G.1.2.3: one more bit of each coefficient of a band. */
function refineBlock(
  tokens: Token[],
  { first, last, low }: Band,
  table: number,
  block: Int32Array,
): void {
  let zeros = 0, corrections: Token[] = [];
  let lastNew = 0;
  for (let k = first; k <= last; k++) {
    if (Math.abs(block[k]) >> low === 1) lastNew = k;
  }
  for (let k = first; k <= last; k++) {
    const magnitude = Math.abs(block[k]) >> low;
    if (magnitude > 1) {
      corrections.push({ value: magnitude & 1, size: 1 });
    } else if (magnitude === 0) {
      zeros++;
      if (zeros === 16 && k < lastNew) {
        tokens.push({ table, symbol: 0xf0 }, ...corrections);
        corrections = [];
        zeros = 0;
      }
    } else {
      tokens.push({ table, symbol: zeros << 4 | 1 });
      tokens.push({ value: block[k] < 0 ? 0 : 1, size: 1 }, ...corrections);
      corrections = [];
      zeros = 0;
    }
  }
  if (zeros > 0 || corrections.length > 0) {
    tokens.push({ table, symbol: 0 }, ...corrections);
  }
}

/** Counts and values of a table for the symbols that occur. */
function tableFor(symbols: number[], skewed: boolean): number[] {
  const uses = new Map<number, number>();
  for (const symbol of symbols) uses.set(symbol, (uses.get(symbol) ?? 0) + 1);
  const values = [...uses].sort((a, b) => b[1] - a[1]).map(([value]) => value);
  const counts = new Array(16).fill(0);
  if (skewed) {
    values.forEach((_, i) => counts[i < 8 ? i : 15]++);
  } else {
    // The shortest code in which all have one length; no code is all ones.
    counts[sizeOf(values.length) - 1] = values.length;
  }
  return [...counts, ...values];
}

/** C.2: the code and the length of each symbol. */
function codesOf(table: ArrayLike<number>): Map<number, [number, number]> {
  const codes = new Map<number, [number, number]>();
  let code = 0, i = 16;
  for (let length = 1; length <= 16; length++, code <<= 1) {
    for (let n = table[length - 1]; n > 0; n--) {
      codes.set(table[i++], [code++, length]);
    }
  }
  return codes;
}

function entropyCoded(tokens: Token[], tables: number[][]): number[] {
  const out: number[] = [], codes = tables.map(codesOf);
  let held = 0, count = 0, restarts = 0;
  const put = (value: number, size: number) => {
    for (let i = size - 1; i >= 0; i--) {
      held = held << 1 | value >> i & 1;
      if (++count < 8) continue;
      out.push(held);
      if (held === 255) out.push(0);
      held = count = 0;
    }
  };
  for (const token of [...tokens, "end" as const]) {
    if (token === "restart" || token === "end") {
      while (count > 0) put(1, 1);
      if (token === "restart") out.push(0xff, 0xd0 + (restarts++ & 7));
    } else if ("symbol" in token) {
      put(...codes[token.table].get(token.symbol)!);
    } else put(token.value, token.size);
  }
  return out;
}

const ALL: Band = { components: [], first: 0, last: 63, high: 0, low: 0 };

/** Writes a JPEG. */
export function encodeJpeg(picture: Picture, style: Style = {}): Uint8Array {
  const { components, width, height } = picture;
  const { frame = 0xc0, interval = 0, skewed = false, deep = false } = style;
  const ids = style.ids ?? components.map((_, i) => i + 1);
  const every = components.map((_, i) => i);
  const scans = style.scans ?? [{ ...ALL, components: every }];
  const segments: number[][] = [[0xff, 0xd8], ...style.markers ?? []];
  for (const id of [0, 1]) {
    const steps = Array.from({ length: 64 }, (_, i) => 1 + i + id);
    const table = deep ? steps.flatMap((step) => [step & 1, step]) : steps;
    segments.push(segment(0xdb, [(deep ? 16 : 0) | id, ...table]));
  }
  segments.push(segment(frame, [
    ...[8, height >> 8, height & 255, width >> 8, width & 255],
    components.length,
    ...components.flatMap(({ wide, high }, i) => [
      ...[ids[i], wide << 4 | high, Math.min(i, 1)],
    ]),
  ]));
  if (interval) segments.push(segment(0xdd, [interval >> 8, interval & 255]));
  const { arithmetic: conditions } = style;
  if (conditions) {
    const { upper, lower, low } = conditions;
    const dc = upper << 4 | lower;
    segments.push(segment(0xcc, [0, dc, 1, dc, 0x10, low, 0x11, low]));
  }
  for (const band of scans) {
    const { first, last, high, low } = band;
    const header = segment(0xda, [
      band.components.length,
      ...band.components.flatMap((c) => [ids[c], c ? 0x11 : 0]),
      ...[first, last, high << 4 | low],
    ]);
    if (conditions) {
      const data = arithmeticCoded({
        ...band,
        ...{ conditions, interval, isProgressive: frame === 0xca },
        mcus: mcusOf(picture, band.components),
      });
      segments.push(header.concat(data));
      continue;
    }
    const tokens = tokensOf(picture, band, interval);
    const tables: number[][] = [];
    for (const id of [0, 1, 4, 5]) {
      const symbols = tokens.flatMap((token) =>
        token !== "restart" && "symbol" in token && token.table === id
          ? [token.symbol]
          : []
      );
      if (symbols.length === 0) continue;
      tables[id] = tableFor(symbols, skewed);
      segments.push(segment(0xc4, [(id & 4) << 2 | id & 3, ...tables[id]]));
    }
    segments.push(header.concat(entropyCoded(tokens, tables)));
  }
  segments.push([0xff, 0xd9]);
  const fill = new Array(style.fill ?? 0).fill(0xff);
  return new Uint8Array(
    segments.flatMap((segment, i) => i ? [...fill, ...segment] : segment),
  );
}

// Reading

/** The bits of entropy-coded data, without the stuffed zeros. */
class Bits {
  #held = 0;
  #count = 0;
  constructor(readonly bytes: Uint8Array, public at: number) {}

  bit(): number {
    if (this.#count === 0) {
      this.#held = this.bytes[this.at++];
      this.#count = 8;
      if (this.#held === 255 && this.bytes[this.at++] !== 0) {
        throw new Error(`a marker inside of data, at byte ${this.at - 2}`);
      }
    }
    return this.#held >> --this.#count & 1;
  }

  bits(size: number): number {
    let value = 0;
    for (; size > 0; size--) value = value << 1 | this.bit();
    return value;
  }

  /** F.2.2.1: a value, whose size was read before it. */
  value(size: number): number {
    const value = this.bits(size);
    return size && value < 1 << size - 1 ? value - (1 << size) + 1 : value;
  }

  symbol(table: Map<number, number>): number {
    let code = 1; // a leading one distinguishes codes of different lengths
    for (let length = 1; length <= 16; length++) {
      code = code << 1 | this.bit();
      const symbol = table.get(code);
      if (symbol !== undefined) return symbol;
    }
    throw new Error(`no Huffman code, before byte ${this.at}`);
  }

  /** Skips a restart marker and returns its code. */
  restart(): number {
    this.#count = 0;
    while (this.bytes[this.at + 1] === 255) this.at++;
    this.at += 2;
    return this.bytes[this.at - 1];
  }
}

/** What a JPEG holds: coefficients, and everything else that matters. */
export interface Decoded extends Picture {
  /** The markers in order, without those inside a scan's data. */
  markers: number[];
  frame: number;
  ids: number[];
  /** The 64 quantization steps of each component. */
  steps: number[][];
  /** Application data and comments, from their marker on. */
  extras: string[];
}

/** Reads a JPEG of Huffman codes. */
export function decodeJpeg(bytes: Uint8Array): Decoded {
  const out: Partial<Decoded> = { markers: [], extras: [], steps: [] };
  const tables: Map<number, number>[] = [], steps: number[][] = [];
  let interval = 0, quantizers: number[] = [], at = 2;
  for (;;) {
    if (bytes[at] !== 255) throw new Error(`no marker at byte ${at}`);
    while (bytes[at] === 255) at++;
    const marker = bytes[at++];
    out.markers!.push(marker);
    if (marker === 0xd9) {
      if (at !== bytes.length) throw new Error(`more at byte ${at}`);
      out.steps = quantizers.map((id) => steps[id]);
      return out as Decoded;
    }
    const size = bytes[at] << 8 | bytes[at + 1];
    const data = bytes.subarray(at + 2, at += size);
    if (marker === 0xdb) readSteps(data, steps);
    else if (marker === 0xc4) readTables(data, tables);
    else if (marker === 0xdd) interval = data[0] << 8 | data[1];
    else if (marker >= 0xc0 && marker <= 0xc2) {
      const parts = Array.from(
        { length: data[5] },
        (_, i) => data.subarray(6 + 3 * i, 9 + 3 * i),
      );
      quantizers = parts.map(([, , id]) => id);
      Object.assign(
        out,
        newPicture(
          data[3] << 8 | data[4],
          data[1] << 8 | data[2],
          parts.map(([, hv]) => [hv >> 4, hv & 15]),
        ),
        { frame: marker, ids: parts.map(([id]) => id) },
      );
    } else if (marker === 0xda) {
      at = readScan(out as Decoded, bytes, at, data, tables, interval);
    } else {
      out.extras!.push(String.fromCharCode(marker, ...data));
    }
  }
}

function readSteps(data: Uint8Array, steps: number[][]): void {
  for (let i = 0; i < data.length;) {
    const deep = data[i] >> 4, id = data[i++] & 15;
    steps[id] = Array.from(
      { length: 64 },
      () => deep ? data[i++] << 8 | data[i++] : data[i++],
    );
  }
}

function readTables(data: Uint8Array, tables: Map<number, number>[]): void {
  for (let i = 0; i < data.length;) {
    const kind = data[i++], counts = data.subarray(i, i += 16);
    const table = tables[kind >> 2 | kind & 3] = new Map();
    let code = 2;
    for (const count of counts) {
      for (let n = count; n > 0; n--) table.set(code++, data[i++]);
      code <<= 1;
    }
  }
}

function readScan(
  picture: Decoded,
  bytes: Uint8Array,
  at: number,
  header: Uint8Array,
  tables: Map<number, number>[],
  interval: number,
): number {
  const parts = Array.from(
    { length: header[0] },
    (_, i) => header.subarray(1 + 2 * i, 3 + 2 * i),
  );
  // Only progressive scans are of a band.
  const [first, last, positions] = picture.frame === 0xc2
    ? header.subarray(-3)
    : [0, 63, 0];
  const components = parts.map(([id]) => picture.ids.indexOf(id));
  const band = {
    ...{ components, first, last },
    ...{ high: positions >> 4, low: positions & 15 },
  };
  const bits = new Bits(bytes, at), predictions = [0, 0, 0, 0];
  const state = { run: 0 };
  for (const [i, mcu] of mcusOf(picture, components).entries()) {
    if (interval && i > 0 && i % interval === 0) {
      const code = bits.restart();
      if (code !== 0xd0 + (i / interval - 1 & 7)) throw new Error("restart");
      if (state.run > 0) throw new Error("a run that is too long");
      predictions.fill(0);
      state.run = 0;
    }
    for (const { component, block } of mcu) {
      const [, ids] = parts[components.indexOf(component)];
      const dc = tables[ids >> 4], ac = tables[4 + (ids & 15)];
      if (first === 0) {
        if (band.high) block[0] |= bits.bit() << band.low;
        else {
          predictions[component] += bits.value(bits.symbol(dc));
          block[0] = predictions[component] << band.low;
        }
      }
      if (last > 0 && band.high) refine(bits, block, band, ac, state);
      else if (last > 0) readBand(bits, block, band, ac, state);
    }
  }
  if (state.run > 0) throw new Error("a run that is too long");
  return bits.at;
}

/** F.2.2.2, G.1.2.2 */
function readBand(
  bits: Bits,
  block: Int32Array,
  { first, last, low }: Band,
  table: Map<number, number>,
  state: { run: number },
): void {
  if (state.run > 0) {
    state.run--;
    return;
  }
  for (let k = Math.max(1, first); k <= last; k++) {
    const symbol = bits.symbol(table), zeros = symbol >> 4, size = symbol & 15;
    if (size === 0 && zeros < 15) {
      state.run = (1 << zeros) + bits.bits(zeros) - 1;
      return;
    }
    k += zeros;
    if (k > last) throw new Error("a block that is too long");
    if (size > 0) block[k] = bits.value(size) * (1 << low);
  }
}

/** G.1.2.3, figure G.7 */
function refine(
  bits: Bits,
  block: Int32Array,
  { first, last, low }: Band,
  table: Map<number, number>,
  state: { run: number },
): void {
  const correct = (k: number) => {
    if (bits.bit()) block[k] += Math.sign(block[k]) * (1 << low);
  };
  let k = first;
  if (state.run === 0) {
    for (; k <= last; k++) {
      const symbol = bits.symbol(table);
      let zeros = symbol >> 4;
      const size = symbol & 15;
      if (size === 0 && zeros < 15) {
        state.run = (1 << zeros) + bits.bits(zeros);
        break;
      }
      const value = size ? (bits.bit() ? 1 : -1) * (1 << low) : 0;
      for (; k <= last; k++) {
        if (block[k] !== 0) correct(k);
        else if (zeros-- === 0) break;
      }
      if (k > last) {
        if (size) throw new Error("a block that is too long");
      } else if (size) block[k] = value;
    }
  }
  if (state.run > 0) {
    for (; k <= last; k++) if (block[k] !== 0) correct(k);
    state.run--;
  }
}

// ---- Lossless

/** A lossless JPEG (SOF3), down to its samples. */
export interface Lossless {
  width: number;
  height: number;
  bits: number;
  /** The identifiers of the components; "RGB" means those colors. */
  ids: number[];
  /** Pixel by pixel, component by component. */
  samples: ArrayLike<number>;
  /** H.1.2.1: what a sample is predicted from, 1 to 7. */
  predictor: number;
}

/** Annex H, with Huffman codes that all have five bits. */
export function encodeLossless(picture: Lossless): Uint8Array {
  const { width, height, bits, ids, samples, predictor } = picture;
  const count = ids.length;
  const tokens: Token[] = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let k = 0; k < count; k++) {
        const at = (left: number, up: number) =>
          samples[((y - up) * width + x - left) * count + k];
        const predicted = x === 0 && y === 0
          ? 1 << bits - 1
          : y === 0
          ? at(1, 0)
          : x === 0
          ? at(0, 1)
          : predict(predictor, at(1, 0), at(0, 1), at(1, 1));
        const difference = at(0, 0) - predicted;
        tokens.push(
          { table: 0, symbol: sizeOf(difference) },
          bitsOf(difference),
        );
      }
    }
  }
  const values = Array.from({ length: 17 }, (_, category) => category);
  const counts = values.slice(1).map((length) => length === 5 ? 17 : 0);
  const table = [...counts, ...values];
  const be16 = (value: number) => [value >> 8, value & 255];
  const components = ids.flatMap((id) => [id, 0x11, 0]);
  return new Uint8Array([
    ...[0xff, 0xd8],
    ...segment(0xc3, [
      bits,
      ...be16(height),
      ...be16(width),
      count,
      ...components,
    ]),
    ...segment(0xc4, [0, ...table]),
    ...segment(0xda, [count, ...ids.flatMap((id) => [id, 0]), predictor, 0, 0]),
    ...entropyCoded(tokens, [table]),
    ...[0xff, 0xd9],
  ]);
}

/** H.1.2.1: the predictors, from the samples at left, above and above left. */
function predict(kind: number, a: number, b: number, c: number): number {
  return [
    0,
    a,
    b,
    c,
    a + b - c,
    a + (b - c >> 1),
    b + (a - c >> 1),
    a + b >> 1,
  ][
    kind
  ];
}
