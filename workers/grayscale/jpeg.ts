/**
 * Makes a JPEG gray by taking the luma out of it: no coefficient is decoded, so
 * nothing is lost. Here are the markers; the scans' data are in
 * kernels/jpeg.ts. Clauses are those of ITU-T T.81.
 *
 * @module
 */

import * as kernels from "../kernels/kernels.wasm";
import { align, joined, memory } from "../shared/memory.ts";

/** What a frame header tells. */
export interface JpegHeader {
  /** Columns of the picture. */
  width: number;
  /** Rows of the picture. */
  height: number;
  /** Bits of a sample. */
  bits: number;
}

/** B.2.2: a component, as the frame header tells it. */
interface Component {
  id: number;
  /** Sampling factors: blocks in an MCU. */
  wide: number;
  high: number;
  /** Which quantization table it has. */
  quantization: number;
}

interface Frame extends JpegHeader {
  /** SOF0 to SOF2. */
  marker: number;
  components: Component[];
  /** How much of an MCU the largest component has, in blocks. */
  wide: number;
  high: number;
  isProgressive: boolean;
}

/** B.2.3: a component of a scan, and its tables. */
interface ScanComponent extends Component {
  dc: number;
  ac: number;
}

/** B.2.3: a scan header. */
interface Scan {
  /** Where it begins, and where its data do, in bytes. */
  at: number;
  from: number;
  components: ScanComponent[];
  /** Which of them is the luma; -1: none. */
  luma: number;
  /** The band of coefficients, and the two bit positions. */
  first: number;
  last: number;
  high: number;
  low: number;
}

/** What is put together. */
type Bytes = Uint8Array | number[];

/** B.2.4.2: of a Huffman table, 16 counts and their values. */
type Codes = Uint8Array;

const SOI = 0xd8, EOI = 0xd9, SOS = 0xda, DQT = 0xdb, DRI = 0xdd, DHT = 0xc4;
const APP0 = 0xe0, APP2 = 0xe2, APP14 = 0xee, COM = 0xfe, TEM = 0x01;

/** Larger files go the general way: the kernel counts bits in 32 of them. */
const MAX_BYTES = 1 << 28;

/** K.3.1: the DC code that has every category. */
const ANY_CATEGORY: Codes = new Uint8Array(16 + 256);
ANY_CATEGORY.set([0, 1, 5, 1, 1, 1, 1, 1, 1]);
ANY_CATEGORY.set([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 16);

/**
 * Takes the luma out of a JPEG: a one-component JPEG of the same kind (baseline,
 * extended or progressive) with the very same luma coefficients, which is pixel
 * for pixel what `jpegtran -grayscale` gives. One that is gray comes as it is.
 *
 * @param bytes A whole file; it is not changed
 * @param judge Called with what the frame header tells, to refuse it by throwing
 * @returns A whole file; nothing if it is one that this cannot take: other
 * colors than YCbCr, luma that is not at full resolution, arithmetic coding
 * @throws {Error} If it is broken or truncated; the line says where
 *
 * @example
 * ```ts
 * import { grayJpeg } from "./jpeg.ts";
 *
 * try {
 *   grayJpeg(new Uint8Array([0xff, 0xd8, 0xff, 0xd9]));
 * } catch (error) {
 *   console.log(String(error)); // Error: broken JPEG: EOI before a frame at byte 2
 * }
 * ```
 */
export function grayJpeg(
  bytes: Uint8Array,
  judge: (header: JpegHeader) => void = () => {},
): Uint8Array | undefined {
  const parts = grayJpegParts(bytes, judge);
  return parts && joined(parts);
}

/**
 * The same in parts, as they are to be written: no memory is asked for that is
 * as large as an image. They lie in `bytes` and in the kernels' memory, so they
 * are good until either is used for something else.
 *
 * @param bytes A whole file; it is not changed
 * @param judge As for {@linkcode grayJpeg}
 * @returns The parts of a whole file, in order; or nothing
 * @throws {Error} If it is broken or truncated; the line says where
 *
 * @example
 * ```ts
 * import { grayJpegParts } from "./jpeg.ts";
 *
 * try {
 *   grayJpegParts(new Uint8Array([0xff, 0xd8]));
 * } catch (error) {
 *   console.log(String(error)); // Error: truncated JPEG: no end of image (EOI) at byte 2
 * }
 * ```
 */
export function grayJpegParts(
  bytes: Uint8Array,
  judge: (header: JpegHeader) => void = () => {},
): Uint8Array[] | undefined {
  return new Extraction(bytes, judge).run();
}

function broken(cause: string, at: number): never {
  throw new Error(`broken JPEG: ${cause} at byte ${at}`);
}

function truncated(cause: string, at: number): never {
  throw new Error(`truncated JPEG: ${cause} at byte ${at}`);
}

/** Goes from marker to marker, and gathers the parts of the result. */
class Extraction {
  readonly #bytes: Uint8Array;
  readonly #judge: (header: JpegHeader) => void;
  #at = 2; // behind SOI
  #frame?: Frame;
  /** Whether the frame is one that the general way is for. */
  #isOther = false;
  #interval = 0;
  /** B.2.4.1: quantization tables, as they are in a DQT. */
  readonly #quantizers: Uint8Array[] = [];
  /** DC tables, and from 4 on AC tables. */
  readonly #codes: Codes[] = [];
  #hasJfif = false;
  /** The transform that an Adobe marker tells. */
  #adobe?: number;
  /** Application data and comments that are kept. */
  readonly #kept: Uint8Array[] = [];
  #quantizer?: Uint8Array;
  #isFirstBand = true;
  readonly #progress = new Progress();
  readonly #out = new OutScans();

  constructor(bytes: Uint8Array, judge: (header: JpegHeader) => void) {
    this.#bytes = bytes;
    this.#judge = judge;
  }

  run(): Uint8Array[] | undefined {
    for (;;) {
      const at = this.#at, marker = this.#nextMarker();
      if (marker === EOI) return this.#finish(at);
      if (marker === SOI) broken("second SOI", at);
      // RSTn behind a scan that is complete, and TEM: they say nothing.
      if ((marker & 0xf8) === 0xd0 || marker === TEM) continue;
      if (!this.#take(marker, at, this.#segment())) return;
    }
  }

  /** B.1.1.2: a marker, perhaps behind fill bytes. */
  #nextMarker(): number {
    const bytes = this.#bytes, start = this.#at;
    if (start < bytes.length && bytes[start] !== 0xff) {
      broken("data where a marker should be", start);
    }
    while (bytes[this.#at] === 0xff) this.#at++;
    if (this.#at >= bytes.length) truncated("no end of image (EOI)", start);
    const marker = bytes[this.#at++];
    if (marker === 0) broken("data where a marker should be", start);
    return marker;
  }

  /** B.1.1.4: what is in a marker segment. */
  #segment(): Uint8Array {
    const at = this.#at, bytes = this.#bytes;
    const size = bytes[at] << 8 | bytes[at + 1];
    const isCut = at + Math.max(2, size) > bytes.length;
    if (isCut) truncated("no end of a marker segment", bytes.length);
    if (size < 2) broken("marker segment without a length", at);
    this.#at = at + size;
    return bytes.subarray(at + 2, at + size);
  }

  /** Takes a marker segment; false if the file is not for us. */
  #take(marker: number, at: number, segment: Uint8Array): boolean {
    if (marker === SOS) return this.#takeScan(at, segment);
    if (marker === DHT) this.#takeCodes(at, segment);
    else if (marker === DQT) this.#takeQuantizers(at, segment);
    else if (marker === DRI) {
      if (segment.length !== 2) broken("bad restart interval (DRI)", at);
      this.#interval = segment[0] << 8 | segment[1];
    } else if (marker >= APP0 && marker < 0xf0 || marker === COM) {
      this.#takeApplication(marker, at, segment);
    } else if (marker >= 0xc0 && marker <= 0xcf && marker !== 0xcc) {
      return this.#takeFrame(marker, at, segment);
    } else if (marker !== 0xcc && marker !== 0xdc) { // DAC and DNL
      broken(
        `unknown marker (FF${
          marker.toString(16).toUpperCase().padStart(2, "0")
        })`,
        at,
      );
    }
    return true;
  }

  /** Whether the file has no scan yet: what libjpeg knows when it decides. */
  #isHead(): boolean {
    return !this.#quantizer && !this.#progress.hasScan;
  }

  /** What tells about colors (or what follows EOI) goes, all else is kept. */
  #takeApplication(marker: number, at: number, segment: Uint8Array): void {
    const name = String.fromCharCode(...segment.subarray(0, 12));
    if (this.#isHead()) {
      // As libjpeg does, which is what everybody's eyes are used to.
      if (marker === APP0 && segment.length >= 14 && /^JFIF\0/.test(name)) {
        this.#hasJfif = true;
      }
      if (marker === APP14 && segment.length >= 12 && /^Adobe/.test(name)) {
        this.#adobe = segment[11];
      }
    }
    if (marker === APP14 && name.startsWith("Adobe")) return;
    if (marker === APP2 && /^(ICC_PROFILE\0|MPF\0)/.test(name)) return;
    this.#kept.push(this.#bytes.subarray(at, this.#at));
  }

  #takeQuantizers(at: number, segment: Uint8Array): void {
    for (let i = 0; i < segment.length;) {
      const size = segment[i] >> 4 ? 129 : 65, id = segment[i] & 15;
      if (segment[i] >> 5 || id > 3 || i + size > segment.length) {
        broken("bad quantization table (DQT)", at);
      }
      this.#quantizers[id] = segment.subarray(i, i += size);
    }
  }

  #takeCodes(at: number, segment: Uint8Array): void {
    for (let i = 0; i < segment.length;) {
      const kind = segment[i], counts = segment.subarray(i + 1, i += 17);
      const size = counts.reduce((sum, count) => sum + count, 0);
      const isPlaced = (kind & 0xef) <= 3 && i + size <= segment.length;
      if (!isPlaced || size > 256 || !isPrefixCode(counts)) {
        broken("bad Huffman table (DHT)", at);
      }
      const codes = new Uint8Array(16 + 256);
      codes.set(segment.subarray(i - 16, i += size));
      this.#codes[kind >> 2 | kind & 3] = codes;
    }
  }

  #takeFrame(marker: number, at: number, segment: Uint8Array): boolean {
    if (this.#frame || this.#isOther) broken("second frame header (SOF)", at);
    const count = segment[5], components: Component[] = [];
    if (!count || segment.length !== 6 + 3 * count) {
      broken("bad frame header (SOF)", at);
    }
    const [bits] = segment;
    const height = segment[1] << 8 | segment[2];
    const width = segment[3] << 8 | segment[4];
    this.#judge({ width, height, bits });
    const isLarge = this.#bytes.length > MAX_BYTES;
    if (marker > 0xc2 || bits !== 8 || !width || !height || isLarge) {
      return this.#isOther = true; // its headers are read to their end
    }
    for (let i = 6; i < segment.length; i += 3) {
      const [id, sampling, quantization] = segment.subarray(i, i + 3);
      const wide = sampling >> 4, high = sampling & 15;
      if (wide < 1 || wide > 4 || high < 1 || high > 4 || quantization > 3) {
        broken("bad frame header (SOF)", at);
      }
      components.push({ id, wide, high, quantization });
    }
    if (new Set(components.map(({ id }) => id)).size < count) return false;
    this.#frame = {
      ...{ marker, width, height, bits, components },
      wide: Math.max(...components.map(({ wide }) => wide)),
      high: Math.max(...components.map(({ high }) => high)),
      isProgressive: marker === 0xc2,
    };
    return true;
  }

  /** Whether the first component is luma, and all that there is of it. */
  #hasLuma({ components, wide, high }: Frame): boolean {
    if (components.length === 1) return true;
    const [luma] = components;
    return components.length === 3 && luma.wide === wide &&
      luma.high === high && this.#isYcc(components);
  }

  /** What libjpeg takes for YCbCr. */
  #isYcc(components: Component[]): boolean {
    if (this.#hasJfif) return true;
    if (this.#adobe !== undefined) return this.#adobe !== 0;
    return String.fromCharCode(...components.map(({ id }) => id)) !== "RGB";
  }

  #takeScan(at: number, segment: Uint8Array): boolean {
    if (this.#isOther) return false;
    const frame = this.#frame;
    if (!frame) broken("scan (SOS) before a frame header (SOF)", at);
    if (this.#isHead()) {
      if (!this.#hasLuma(frame)) return false;
      load(this.#bytes);
    }
    const scan = this.#readScan(frame, at, segment);
    this.#progress.add(frame, scan);
    if (scan.luma < 0) this.#at = endOf(this.#bytes, scan.from);
    else {
      this.#quantizer ??= this.#quantizers[frame.components[0].quantization] ??
        broken("no quantization table (DQT) for the luma, in a scan", at);
      if (scan.first > 0) this.#copyScan(frame, scan);
      else this.#recodeScan(frame, scan);
    }
    return true;
  }

  #readScan(frame: Frame, at: number, segment: Uint8Array): Scan {
    const count = segment[0], components: ScanComponent[] = [];
    if (!(count >= 1 && count <= 4) || segment.length !== 4 + 2 * count) {
      broken("bad scan header (SOS)", at);
    }
    for (let i = 1; i <= 2 * count; i += 2) {
      const component = frame.components.find(({ id }) => id === segment[i]);
      const dc = segment[i + 1] >> 4, ac = segment[i + 1] & 15;
      const isTwice = components.some(({ id }) => id === segment[i]);
      if (!component || isTwice || dc > 3 || ac > 3) {
        broken("bad scan header (SOS)", at);
      }
      components.push({ ...component, dc, ac });
    }
    const blocks = components.reduce((sum, c) => sum + c.wide * c.high, 0);
    if (count > 1 && blocks > 10) broken("too large an MCU, in a scan", at); // B.2.3
    const [first, last, bits] = segment.subarray(-3);
    const luma = components.findIndex(({ id }) =>
      id === frame.components[0].id
    );
    const scan = { at, from: this.#at, components, luma };
    // Of a sequential scan libjpeg only warns: there is only one way to code it.
    return frame.isProgressive
      ? { ...scan, first, last, high: bits >> 4, low: bits & 15 }
      : { ...scan, first: 0, last: 63, high: 0, low: 0 };
  }

  /** G.1.1.1.1: scans of AC coefficients have one component, and stay. */
  #copyScan(frame: Frame, scan: Scan): void {
    const [{ ac }] = scan.components, codes = this.#codesOf(scan, 4 + ac);
    this.#at = checkBand({
      ...{ bytes: this.#bytes, frame, scan },
      tables: [{ ac: codes }],
      interval: this.#interval,
      all: false,
    }, this.#isFirstBand);
    this.#isFirstBand = false;
    this.#out.add({
      codes: [[4 + ac, codes]],
      interval: this.#interval,
      header: this.#scanHeader(scan),
      data: this.#bytes.subarray(scan.from, this.#at),
    });
  }

  #scanHeader({ components, luma, first, last, high, low }: Scan): number[] {
    const { id, dc, ac } = components[luma];
    return [1, id, dc << 4 | ac, first, last, high << 4 | low];
  }

  #codesOf({ at }: Scan, id: number): Codes {
    const codes = this.#codes[id];
    if (!codes || codes.every((count, i) => i > 15 || count === 0)) {
      broken("no Huffman table (DHT) for a scan", at);
    }
    if (id < 4 && codes.subarray(16).some((category) => category > 15)) {
      broken("bad Huffman table (DHT) for a scan", at);
    }
    return codes;
  }

  /** What a component's blocks in a scan are coded with. */
  #tablesOf(frame: Frame, scan: Scan, { dc, ac }: ScanComponent) {
    return {
      dc: scan.high ? undefined : this.#codesOf(scan, dc),
      ac: frame.isProgressive ? undefined : this.#codesOf(scan, 4 + ac),
    };
  }

  #recodeScan(frame: Frame, scan: Scan): void {
    const { components, luma } = scan;
    const tables = components.map((c) => this.#tablesOf(frame, scan, c));
    const job = {
      ...{ bytes: this.#bytes, frame, scan, tables },
      interval: this.#interval,
      categories: tables[luma].dc,
      all: false,
    };
    // In another order a difference may have a category that has no code.
    const { data, end, categories } = recode(job) ??
      recode({ ...job, categories: ANY_CATEGORY, all: true })!;
    const { dc, ac } = components[luma];
    const codes: OutScan["codes"] = [];
    if (categories) codes.push([dc, categories]);
    if (tables[luma].ac) codes.push([4 + ac, tables[luma].ac]);
    this.#at = end;
    this.#out.add({ codes, interval: 0, header: this.#scanHeader(scan), data });
  }

  #finish(at: number): Uint8Array[] {
    const frame = this.#frame ?? broken("EOI before a frame", at);
    if (!this.#quantizer) broken("EOI before a scan of the luma", at);
    if (frame.components.length === 1) {
      return [this.#bytes.subarray(0, this.#at)];
    }
    const { marker, bits, width, height } = frame;
    const [{ id, quantization }] = frame.components;
    const header = [bits, ...be16(height), ...be16(width), 1];
    const parts: Bytes[] = [
      [0xff, SOI],
      ...this.#kept,
      segmentOf(DQT, this.#quantizer),
      segmentOf(marker, [...header, id, 0x11, quantization]),
      ...this.#out.parts,
      [0xff, EOI],
    ];
    return parts.map((part) =>
      Array.isArray(part) ? Uint8Array.of(...part) : part
    );
  }
}

const be16 = (value: number): number[] => [value >> 8, value & 255];

function segmentOf(marker: number, content: Bytes): number[] {
  return [0xff, marker, ...be16(2 + content.length), ...content];
}

/** C.2: codes of each length fit in behind the shorter ones; none is all 1. */
function isPrefixCode(counts: Uint8Array): boolean {
  let code = 0;
  for (const [i, count] of counts.entries()) {
    code = (code << 1) + count;
    if (count && code >= 2 << i) return false;
  }
  return true;
}

/** Says which scans there were, and whether another one fits behind them. */
class Progress {
  hasScan = false;
  /** Of each luma coefficient, up to which bit it is known. */
  readonly #known: (number | undefined)[] = [];

  add(frame: Frame, scan: Scan): void {
    const { at, first, last, high, low, luma } = scan;
    this.hasScan = true;
    if (frame.isProgressive) checkParameters(scan);
    if (luma < 0) return;
    if (first > 0 && this.#known[0] === undefined) {
      broken("scan of AC coefficients before the DC", at);
    }
    for (let k = first; k <= last; k++) {
      // G.1.1.1.2: each scan adds one bit, but for the first.
      if (this.#known[k] !== (high || undefined)) {
        broken("scan of the luma out of order", at);
      }
      this.#known[k] = low;
    }
  }
}

/** G.1.1.1: DC coefficients come alone; AC ones of one component at a time. */
function checkParameters(
  { at, components, first, last, high, low }: Scan,
): void {
  const isBand = first
    ? first <= last && last < 64 && components.length === 1
    : last === 0;
  if (!isBand || low > 13 || high && high !== low + 1) {
    broken("bad scan header (SOS)", at);
  }
}

/** A scan of the result, and what it needs. */
interface OutScan {
  codes: [id: number, codes: Codes][];
  interval: number;
  /** What is in its SOS. */
  header: number[];
  data: Uint8Array;
}

/** The scans of the result, with their tables where these change. */
class OutScans {
  readonly parts: Bytes[] = [];
  readonly #codes: Codes[] = [];
  #interval = 0;

  add({ codes, interval, header, data }: OutScan): void {
    for (const [id, table] of codes) {
      if (this.#codes[id] === table) continue;
      this.#codes[id] = table;
      const kind = (id & 4) << 2 | id & 3;
      const size = 16 + sizeOf(table);
      this.parts.push(segmentOf(DHT, [kind, ...table.subarray(0, size)]));
    }
    if (interval !== this.#interval) {
      this.parts.push(segmentOf(DRI, be16(interval)));
      this.#interval = interval;
    }
    this.parts.push(segmentOf(SOS, header), data);
  }
}

/** How many codes there are. */
const sizeOf = (codes: Codes): number =>
  codes.subarray(0, 16).reduce((sum, count) => sum + count, 0);

// The kernel

/** Room for what the kernel reads or writes beyond an end, in bytes. */
const SLACK = 4096;
/** The structure `Scan` of kernels/jpeg.ts, in words; where outputs are. */
const SCAN = 50, ERROR = 17, SEGMENT = 18, BIT = 19, NEXT = 20;

/** What is wrong with a scan, by the kernel's numbers. */
const CAUSES = [
  "",
  "a scan's data end too early",
  "undefined Huffman code",
  "block with too many coefficients",
  "DC difference out of range",
  "data after the end of a scan or restart interval",
  "restart marker out of sequence",
  "run of blocks behind the end of a scan or restart interval",
];
const SHORT = 1, LEFT_OVER = 5, OUT_OF_SEQUENCE = 6, NO_CATEGORY = 8;

/** The kernels' memory from `base()` on. */
const layout = (() => {
  const scan = kernels.base();
  const categories = scan + 4 * SCAN, codes = categories + 4 * 12;
  const symbols = align(codes + 2 * 272);
  const tables = symbols + 2 * 2 ** 13;
  const input = align(tables + 4 * kernels.tablesSize());
  return { scan, categories, codes, symbols, tables, input };
})();

/** Puts a file into the kernels' memory, to stay there until we are done. */
function load(bytes: Uint8Array): void {
  const { input } = layout;
  memory(input + bytes.length + SLACK).set(bytes, input);
}

/** Where the data of a scan end, with all restart intervals. */
function endOf(bytes: Uint8Array, from: number): number {
  const { input } = layout, end = input + bytes.length;
  for (let at = input + from;;) {
    at = kernels.findMarker(at, end);
    let code = at - input + 1;
    while (bytes[code] === 0xff) code++; // fill bytes
    if ((bytes[code] & 0xf8) !== 0xd0) return at - input;
    at = input + code + 1;
  }
}

/** A scan to recode. */
interface Job {
  bytes: Uint8Array;
  frame: Frame;
  scan: Scan;
  /** Of its components; none: for a bit of DC each, or for DC alone. */
  tables: { dc?: Codes; ac?: Codes }[];
  interval: number;
  /** The code to write DC differences with. */
  categories?: Codes;
  /** Whether all of them are to be written. */
  all: boolean;
}

/** Makes a scan of luma alone; nothing if it needs a DC code with more. */
function recode(
  job: Job,
): { data: Uint8Array; end: number; categories?: Codes } | undefined {
  const { bytes, scan, frame, categories } = job;
  const end = endOf(bytes, scan.from), size = end - scan.from;
  const mcus = mcusOf(frame, scan);
  // A block has two codes, or one bit at the least.
  const least = frame.isProgressive ? 1 : 2;
  if (mcus.wide * mcus.high * mcus.blocks * least > 8 * size) {
    refuse(SHORT, bytes, end);
  }
  const streams = placeStreams(job, mcus, size);
  putTables(job);
  const words = new Uint32Array(kernels.memory.buffer, layout.scan, SCAN);
  words.set(wordsOf(job, mcus, streams, end));
  const written = kernels.recode(layout.scan);
  if (!written) {
    if (words[ERROR] === NO_CATEGORY) return;
    explain(bytes, words);
  }
  const next = words[NEXT] - layout.input;
  const { result, stuffed } = streams;
  const view = memory(stuffed + 2 * written + SLACK);
  const stuffedEnd = kernels.stuff(result, written, stuffed);
  // Behind a sequential scan of the luma nothing uses the memory any more.
  const data = frame.isProgressive
    ? view.slice(stuffed, stuffedEnd)
    : view.subarray(stuffed, stuffedEnd);
  return { data, end: next, categories };
}

/** Sees that a scan of AC coefficients is good, and returns where it ends. */
function checkBand(job: Job, isFirst: boolean): number {
  const { bytes, frame, scan } = job;
  const end = endOf(bytes, scan.from), mcus = mcusOf(frame, scan);
  const streams = placeStreams(job, mcus, end - scan.from);
  const { masks, top } = roomOf(job);
  if (isFirst) memory(top).fill(0, masks, top);
  putTables(job);
  const words = new Uint32Array(kernels.memory.buffer, layout.scan, SCAN);
  words.set(wordsOf(job, mcus, streams, end));
  if (kernels.checkBand(layout.scan)) explain(bytes, words);
  return words[NEXT] - layout.input;
}

/** What the kernel has behind the file; `masks` only for progressive ones. */
function roomOf({ bytes, frame }: Job): { masks: number; top: number } {
  const { wide, high } = frame.components[0];
  const masks = align(layout.input + bytes.length + SLACK);
  if (!frame.isProgressive) return { masks, top: masks };
  const columns = blocksOf(frame.width, wide, frame.wide);
  return {
    masks,
    top: masks + 8 * columns * blocksOf(frame.height, high, frame.high),
  };
}

/** A.1.1: how many blocks a component has in a direction. */
const blocksOf = (size: number, factor: number, most: number): number =>
  Math.ceil(Math.ceil(size * factor / most) / 8);

/** The geometry of a scan. */
interface Mcus {
  wide: number;
  high: number;
  /** Blocks in each, and those of the luma. */
  blocks: number;
  lumaWide: number;
  lumaHigh: number;
  /** The luma's own blocks. */
  blocksWide: number;
  blocksHigh: number;
}

/** A.1.1, A.2: a scan of one component has no blocks that only fill up. */
function mcusOf(frame: Frame, { components, luma }: Scan): Mcus {
  const { wide, high } = components[luma];
  const blocksWide = blocksOf(frame.width, wide, frame.wide);
  const blocksHigh = blocksOf(frame.height, high, frame.high);
  const mcus = { blocksWide, blocksHigh };
  if (components.length === 1) {
    const one = { blocks: 1, lumaWide: 1, lumaHigh: 1 };
    return { ...mcus, ...one, wide: blocksWide, high: blocksHigh };
  }
  return {
    ...mcus,
    wide: Math.ceil(frame.width / (8 * frame.wide)),
    high: Math.ceil(frame.height / (8 * frame.high)),
    blocks: components.reduce((sum, c) => sum + c.wide * c.high, 0),
    lumaWide: wide,
    lumaHigh: high,
  };
}

/** Where the streams are: the tops of those that are reversed. */
interface Streams {
  result: number;
  data: number;
  rows: number;
  rowSize: number;
  /** Where the stuffed result goes: over all others. */
  stuffed: number;
}

/** Makes room for as much as there may be of each. */
function placeStreams(job: Job, mcus: Mcus, size: number): Streams {
  // A DC difference has 27 bits at the most, and was one bit at the least.
  const grown = 4 * mcus.wide * (job.all ? mcus.lumaWide : 1);
  const { top } = roomOf(job);
  const result = align(top + size + grown * mcus.high * mcus.lumaHigh + SLACK);
  const data = align(result + size + SLACK);
  const rowSize = align(size + grown + SLACK);
  const rows = data + (mcus.lumaHigh - 1) * rowSize;
  const bits = 8 * (result - top);
  if (rows >= 2 ** 32 - SLACK || bits >= 2 ** 32) {
    throw new Error(`too large: a scan of ${size} bytes`);
  }
  memory(rows + SLACK);
  return { result, data, rows, rowSize, stuffed: result };
}

/** Fills the structure `Scan` of kernels/jpeg.ts. */
function wordsOf(
  job: Job,
  mcus: Mcus,
  { result, data, rows, rowSize }: Streams,
  end: number,
): number[] {
  const { scan, interval, all } = job;
  const { input, categories, tables } = layout;
  const { components, luma } = scan;
  const words = [
    ...[input + scan.from, input + end, data, result, rows, rowSize],
    ...[mcus.wide, mcus.high, interval, components.length, luma],
    ...[mcus.lumaWide, mcus.lumaHigh, mcus.blocksWide, mcus.blocksHigh],
    ...[Number(all), categories],
    ...[0, 0, 0, 0, 0, 0], // outputs, and the state of the reader
    ...components.flatMap(({ wide, high }, i) => [
      components.length === 1 ? 1 : wide * high,
      tables + i * kernels.tablesSize(),
    ]),
  ];
  while (words.length < SCAN - 7) words.push(0); // the state of the luma rows
  words.push(scan.first, scan.last, scan.high, roomOf(job).masks);
  words.push(0, 0, 0); // the state of the scan
  return words;
}

/** Tables that were built, by the codes; files have mostly the same ones. */
const built = new Map<string, Uint8Array>();
const BUILT_MAX = 8;

function putTables({ tables, categories }: Job): void {
  tables.forEach(({ dc, ac }, i) => {
    const at = layout.tables + i * kernels.tablesSize();
    const key = [dc, ac].map((codes) => codes ? LATIN1.decode(codes) : "")
      .join();
    const known = built.get(key);
    if (known) memory(0).set(known, at);
    else {
      if (built.size >= BUILT_MAX) built.clear();
      built.set(key, build(at, dc, ac));
    }
  });
  const words = new Uint32Array(kernels.memory.buffer, layout.categories, 12);
  words.set(categories ? categoriesOf(categories) : [1 << 31]);
}

/** Each byte another character; to spread them took 50 µs an image. */
const LATIN1 = new TextDecoder("latin1");

function build(at: number, dc?: Codes, ac?: Codes): Uint8Array {
  const view = memory(0), places = [layout.codes, layout.codes + 272];
  if (dc) view.set(dc, places[0]);
  if (ac) view.set(ac, places[1]);
  const [first, second] = [dc ? places[0] : 0, ac ? places[1] : 0];
  kernels.build(at, first, second, layout.symbols);
  return view.slice(at, at + kernels.tablesSize());
}

/** C.2: the code of each DC category, its length << 16, and 1 << 31. */
function categoriesOf(codes: Codes): Uint32Array {
  const words = new Uint32Array(12);
  let code = 0, i = 16;
  for (let length = 1; length <= 16; length++) {
    for (let n = codes[length - 1]; n > 0; n--) {
      const category = codes[i++];
      if (category < 12) words[category] = 1 << 31 | length << 16 | code;
      code++;
    }
    code <<= 1;
  }
  return words;
}

/** Says what the kernel found. */
function explain(bytes: Uint8Array, words: Uint32Array): never {
  const next = words[NEXT] - layout.input, error = words[ERROR];
  if (error === SHORT || error === OUT_OF_SEQUENCE) refuse(error, bytes, next);
  let at = words[SEGMENT] - layout.input;
  // What is left over begins with the next byte: the last one is filled up.
  const bit = words[BIT] + (error === LEFT_OVER ? 7 : 0);
  for (let n = bit >> 3; n > 0 && at < next; n--) {
    at += bytes[at] === 0xff ? 2 : 1;
  }
  refuse(error, bytes, at);
}

function refuse(error: number, bytes: Uint8Array, at: number): never {
  if (at === bytes.length) truncated(CAUSES[error], at);
  broken(CAUSES[error], at);
}
