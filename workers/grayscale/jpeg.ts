/**
 * Makes a JPEG gray by taking the luma out of it. No pixel is decoded, so nothing is
 * lost. This file reads and writes the marker segments; the entropy coded data are
 * the kernel's, in kernels/jpeg.ts, or if their coding is arithmetic those of
 * jpeg_arithmetic.ts. Clauses are those of ITU-T T.81.
 *
 * @module
 */

import * as kernels from "../kernels/kernels.wasm";
import { align, growMemory, joined } from "../shared/memory.ts";
import { ArithmeticLuma, Conditioning } from "./jpeg_arithmetic.ts";
import {
  blockCount,
  broken,
  type Component,
  type Frame,
  type Geometry,
  geometryOf,
  type JpegHeader,
  LeftOver,
  type Scan,
  type ScanComponent,
  STRAY_MAX,
  strayLine,
  truncated,
} from "./jpeg_frame.ts";
import {
  type Band,
  codeBlocks,
  type Codes,
  isPrefixCode,
  sizeOf,
  STANDARD_CODES,
} from "./jpeg_huffman.ts";

/** A part of the result. */
type Part = Uint8Array | number[];

/** Frames that are read: with Huffman codes SOF0 to SOF2, arithmetic SOF9 and SOF10. */
const FRAMES = [0xc0, 0xc1, 0xc2, 0xc9, 0xca];
const SOI = 0xd8, EOI = 0xd9, SOS = 0xda, DQT = 0xdb, DRI = 0xdd, DHT = 0xc4;
const DAC = 0xcc, DNL = 0xdc;
const APP0 = 0xe0, APP2 = 0xe2, APP14 = 0xee, COM = 0xfe, TEM = 0x01;

/** How many markers may have stray bytes before them. */
const STRAYS_MAX = 256;

/** Larger files are left to the codec: the kernel counts bits in 32-bit numbers. */
const MAX_BYTES = 1 << 28;

/** The scans of a result that is coded anew: one, or those of a progressive one. */
const WHOLE: Band = [0, 63], BANDS: Band[] = [[0, 0], [1, 5], [6, 63]];

/** The standard DC code, which has every category. */
const ANY_CATEGORY = STANDARD_CODES[0];

/**
 * Takes the luma out of a JPEG. The result is a JPEG of one component and of the
 * same kind (baseline, extended or progressive) with the very same luma
 * coefficients: pixel for pixel what `jpegtran -grayscale` gives. Arithmetic coding
 * becomes Huffman codes, which every reader knows. A gray JPEG is returned as it is.
 *
 * @param bytes A whole file; it is not changed
 * @param checkHeader Called with the frame header; it may throw to refuse the file
 * @returns A whole file; undefined if this way is not possible, because the colors
 * are not YCbCr, or the luma is not at full resolution
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
  checkHeader: (header: JpegHeader) => void = () => {},
): Uint8Array | undefined {
  const parts = grayJpegParts(bytes, checkHeader);
  return parts && joined(parts);
}

/**
 * The same in parts, ready to be written, so that no memory of the size of an
 * image is allocated. They lie in `bytes` and in the kernels' memory, so they are
 * valid until either is used for something else.
 *
 * @param bytes A whole file; it is not changed
 * @param checkHeader As for {@linkcode grayJpeg}
 * @param warn Called with what is wrong beside the pixels, in one line
 * @param component Which component to take, whatever its meaning; default: the luma
 * @returns The parts of a whole file, in order; or undefined
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
  checkHeader: (header: JpegHeader) => void = () => {},
  warn: (cause: string) => void = () => {},
  component?: number,
): Uint8Array[] | undefined {
  let file = bytes, removed = 0, strays = 0;
  for (;;) {
    try {
      return new LumaExtractor(file, checkHeader, warn, component).run();
    } catch (error) {
      if (!(error instanceof LeftOver)) throw error;
      const end = strayEnd(file, error.at), count = end - error.at;
      if (!count || ++strays > STRAYS_MAX) throw error;
      warn(strayLine(count, error.at + removed));
      file = joined([file.subarray(0, error.at), file.subarray(end)]);
      removed += count;
    }
  }
}

/**
 * Where bytes end that may stand before a marker: padding, or a few. libjpeg warns and
 * skips any number, but more of them mean that what is before them was misread.
 */
function strayEnd(bytes: Uint8Array, at: number): number {
  let end = at;
  while (
    end + 1 < bytes.length &&
    (bytes[end] !== 0xff || bytes[end + 1] === 0)
  ) end++;
  const data = bytes.subarray(at, end).filter((byte, i, all) =>
    byte !== 0 || all[i - 1] !== 0xff
  );
  const isPadding = data.every((byte) => byte === data[0]);
  return isPadding || data.length <= STRAY_MAX ? end : at;
}

/**
 * Gives a JPEG that was coded anew the application data and comments of the one it
 * was made of: those that {@linkcode grayJpeg} keeps.
 *
 * @param bytes The file before, which is left to the codec
 * @param coded The file that the codec made of it
 * @returns The parts of a whole file; they lie in both
 *
 * @example
 * ```ts
 * import { withSegmentsOf } from "./jpeg.ts";
 *
 * // A lossless frame, which is not taken, behind a comment.
 * const bytes = Uint8Array.fromHex(
 *   "ffd8fffe000361ffc3000b080001000101011100ffda0008010100010000",
 * );
 * const coded = Uint8Array.fromHex("ffd8ffe00002ffd9");
 * const parts = withSegmentsOf(bytes, coded);
 * console.log(parts.map((part) => part.toHex())); // ["ffd8", "fffe000361", "ffd9"]
 * ```
 */
export function withSegmentsOf(
  bytes: Uint8Array,
  coded: Uint8Array,
): Uint8Array[] {
  let at = 2;
  while (isApplication(coded[at + 1])) {
    at += 2 + (coded[at + 2] << 8 | coded[at + 3]);
  }
  const kept = new LumaExtractor(bytes, () => {}, () => {}).readKept();
  return [coded.subarray(0, 2), ...kept, coded.subarray(at)];
}

/** Whether a marker is one of application data or a comment. */
const isApplication = (marker: number): boolean =>
  marker >= APP0 && marker < 0xf0 || marker === COM;

/** Reads a file marker by marker and collects the parts of the result. */
class LumaExtractor {
  readonly #bytes: Uint8Array;
  readonly #checkHeader: (header: JpegHeader) => void;
  readonly #warn: (cause: string) => void;
  /** Which component is taken for the luma; undefined if the colors decide. */
  readonly #component?: number;
  #at = 2; // the position in the file, behind SOI
  #frame?: Frame;
  /** Whether the file has a frame that is left to the codec. */
  #isOther = false;
  #interval = 0;
  /** B.2.4.1: quantization tables as they stand in a DQT. */
  readonly #quantizers: Uint8Array[] = [];
  /** Huffman tables: DC from index 0, AC from index 4. */
  readonly #codes: Codes[] = [];
  #hasJfif = false;
  /** The color transform of an Adobe marker. */
  #adobe?: number;
  /** Where bytes were skipped, and where that ended. */
  readonly #strays: [start: number, end: number][] = [];
  /** Segments of application data and comments that are kept. */
  readonly #keptSegments: Uint8Array[] = [];
  #quantizer?: Uint8Array;
  #isFirstBand = true;
  readonly #conditioning = new Conditioning();
  #arithmetic?: ArithmeticLuma;
  readonly #history = new ScanHistory();
  readonly #out = new OutputScans();

  constructor(
    bytes: Uint8Array,
    checkHeader: (header: JpegHeader) => void,
    warn: (cause: string) => void,
    component?: number,
  ) {
    this.#bytes = bytes;
    this.#checkHeader = checkHeader;
    this.#warn = warn;
    this.#component = component;
  }

  /** The segments that are kept of a file that is left to the codec. */
  readKept(): Uint8Array[] {
    try {
      this.run();
    } catch {
      // What is wrong was said before.
    }
    return this.#keptSegments;
  }

  run(): Uint8Array[] | undefined {
    for (;;) {
      const at = this.#at, marker = this.#nextMarker();
      if (marker === EOI) return this.#finish(at);
      if (marker === SOI) broken("second SOI", at);
      // RSTn behind a complete scan, and TEM, have no meaning.
      if ((marker & 0xf8) === 0xd0 || marker === TEM) continue;
      if (!this.#take(marker, at, this.#segment())) return;
    }
  }

  /** B.1.1.2: a marker, perhaps behind fill bytes. */
  #nextMarker(): number {
    const bytes = this.#bytes, start = this.#at;
    for (;;) {
      while (this.#at < bytes.length && bytes[this.#at] !== 0xff) this.#at++;
      const first = this.#at;
      while (bytes[this.#at] === 0xff) this.#at++;
      if (this.#at >= bytes.length) truncated("no end of image (EOI)", start);
      const marker = bytes[this.#at++];
      if (marker === 0) continue;
      // libjpeg, too, looks for the next marker, and warns.
      if (first > start) this.#strays.push([start, first]);
      return marker;
    }
  }

  /** The file up to its end, but for what was skipped. */
  #withoutStrays(): Uint8Array[] {
    const parts: Uint8Array[] = [];
    let from = 0;
    for (const [start, end] of [...this.#strays, [this.#at, this.#at]]) {
      parts.push(this.#bytes.subarray(from, start));
      from = end;
    }
    return parts;
  }

  /** B.1.1.4: the content of a marker segment. */
  #segment(): Uint8Array {
    const at = this.#at, bytes = this.#bytes;
    const size = bytes[at] << 8 | bytes[at + 1];
    const isCut = at + Math.max(2, size) > bytes.length;
    if (isCut) truncated("no end of a marker segment", bytes.length);
    if (size < 2) broken("marker segment without a length", at);
    this.#at = at + size;
    return bytes.subarray(at + 2, at + size);
  }

  /** Takes a marker segment; false if the file is left to the codec. */
  #take(marker: number, at: number, segment: Uint8Array): boolean {
    if (marker === SOS) return this.#takeScan(at, segment);
    if (marker === DHT) this.#takeCodes(at, segment);
    else if (marker === DQT) this.#takeQuantizers(at, segment);
    else if (marker === DRI) {
      if (segment.length !== 2) broken("bad restart interval (DRI)", at);
      this.#interval = segment[0] << 8 | segment[1];
    } else if (isApplication(marker)) {
      this.#takeApplication(marker, at, segment);
    } else if (marker >= 0xc0 && marker <= 0xcf && marker !== DAC) {
      return this.#takeFrame(marker, at, segment);
    } else if (marker === DAC) this.#conditioning.take(segment, at);
    else if (marker !== DNL) {
      broken(
        `unknown marker (FF${
          marker.toString(16).toUpperCase().padStart(2, "0")
        })`,
        at,
      );
    }
    return true;
  }

  /** Whether no scan was read yet. libjpeg decides on the colors at that point. */
  #isBeforeScans(): boolean {
    return !this.#quantizer && !this.#history.hasScan;
  }

  /**
   * Keeps application data, but for those about colors and about pictures behind
   * EOI (MPF).
   */
  #takeApplication(marker: number, at: number, segment: Uint8Array): void {
    const name = String.fromCharCode(...segment.subarray(0, 12));
    if (this.#isBeforeScans()) {
      // These two decide on the colors as they do in libjpeg.
      if (marker === APP0 && segment.length >= 14 && /^JFIF\0/.test(name)) {
        this.#hasJfif = true;
      }
      if (marker === APP14 && segment.length >= 12 && /^Adobe/.test(name)) {
        this.#adobe = segment[11];
      }
    }
    if (marker === APP14 && name.startsWith("Adobe")) return;
    if (marker === APP2 && /^(ICC_PROFILE\0|MPF\0)/.test(name)) return;
    this.#keptSegments.push(this.#bytes.subarray(at, this.#at));
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
    const lossless = (marker & 3) === 3; // SOF3, SOF7, SOF11 and SOF15
    this.#checkHeader({ width, height, bits, lossless });
    const isLarge = this.#bytes.length > MAX_BYTES;
    if (
      !FRAMES.includes(marker) || bits !== 8 || !width || !height || isLarge
    ) {
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
    // The first one is taken for the luma.
    if (this.#component) {
      components.unshift(...components.splice(this.#component, 1));
    }
    const ids = new Set(components.map(({ id }) => id));
    if (ids.size < count) return this.#isOther = true;
    this.#frame = {
      ...{ marker, width, height, bits, lossless, components },
      wide: Math.max(...components.map(({ wide }) => wide)),
      high: Math.max(...components.map(({ high }) => high)),
      isProgressive: (marker & 3) === 2,
      isArithmetic: marker >= 0xc9,
    };
    return true;
  }

  /** Whether the first component is luma at full resolution. */
  #hasLuma({ components, wide, high }: Frame): boolean {
    if (components.length === 1) return true;
    const [luma] = components;
    if (luma.wide !== wide || luma.high !== high) return false;
    if (this.#component !== undefined) return true;
    return components.length === 3 && this.#isYcc(components);
  }

  /** Whether libjpeg takes the colors for YCbCr. */
  #isYcc(components: Component[]): boolean {
    if (this.#hasJfif) return true;
    if (this.#adobe !== undefined) return this.#adobe !== 0;
    return String.fromCharCode(...components.map(({ id }) => id)) !== "RGB";
  }

  #takeScan(at: number, segment: Uint8Array): boolean {
    if (this.#isOther) return false;
    const frame = this.#frame;
    if (!frame) broken("scan (SOS) before a frame header (SOF)", at);
    if (this.#isBeforeScans()) {
      if (!this.#hasLuma(frame)) return false;
      load(this.#bytes);
    }
    const scan = this.#readScan(frame, at, segment);
    this.#history.add(frame, scan);
    if (!this.#codes.length && !frame.isProgressive) {
      this.#codes.push(...STANDARD_CODES);
    }
    if (scan.luma < 0) this.#at = endOf(this.#bytes, scan.from);
    else {
      this.#quantizer ??= this.#quantizers[frame.components[0].quantization] ??
        broken("no quantization table (DQT) for the luma, in a scan", at);
      if (frame.isArithmetic) this.#decodeScan(frame, scan);
      else if (scan.first > 0) this.#copyScan(frame, scan);
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
    // Wrong values in a sequential scan are ignored, as by libjpeg, which warns:
    // only these are possible.
    return frame.isProgressive
      ? { ...scan, first, last, high: bits >> 4, low: bits & 15 }
      : { ...scan, first: 0, last: 63, high: 0, low: 0 };
  }

  /** G.1.1.1.1: a scan of AC coefficients has one component and is copied. */
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

  /** Arithmetic coding: what is written comes from the coefficients, at the end. */
  #decodeScan(frame: Frame, scan: Scan): void {
    this.#arithmetic ??= new ArithmeticLuma(
      ...[this.#bytes, frame, scan, this.#warn] as const,
    );
    this.#at = this.#arithmetic.add(
      ...[frame, scan, this.#interval, this.#conditioning] as const,
    );
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

  /** The Huffman tables of a component's blocks in a scan. */
  #tablesOf(frame: Frame, scan: Scan, { dc, ac }: ScanComponent) {
    return {
      dc: scan.high ? undefined : this.#codesOf(scan, dc),
      ac: frame.isProgressive ? undefined : this.#codesOf(scan, 4 + ac),
    };
  }

  #recodeScan(frame: Frame, scan: Scan): void {
    const { components, luma } = scan;
    const tables = components.map((c) => this.#tablesOf(frame, scan, c));
    const recoding = {
      ...{ bytes: this.#bytes, frame, scan, tables },
      interval: this.#interval,
      categories: tables[luma].dc,
      all: false,
    };
    // In the new order of blocks a DC difference may have a category that the
    // file's table has no code for. Then all differences get the standard code.
    const { data, end, categories } = recode(recoding) ??
      recode({ ...recoding, categories: ANY_CATEGORY, all: true })!;
    const { dc, ac } = components[luma];
    const codes: OutputScan["codes"] = [];
    if (categories) codes.push([dc, categories]);
    if (tables[luma].ac) codes.push([4 + ac, tables[luma].ac]);
    this.#at = end;
    this.#out.add({ codes, interval: 0, header: this.#scanHeader(scan), data });
  }

  #finish(at: number): Uint8Array[] {
    const frame = this.#frame ?? broken("EOI before a frame", at);
    if (!this.#quantizer) broken("EOI before a scan of the luma", at);
    // Only now: of a file that is left to the codec, the codec says it.
    for (const [start, end] of this.#strays) {
      this.#warn(strayLine(end - start, start));
    }
    if (frame.components.length === 1) {
      return this.#withoutStrays();
    }
    if (this.#arithmetic) this.#codeScans(frame, this.#arithmetic, at);
    const { bits, width, height } = frame;
    const [{ id, quantization }] = frame.components;
    const header = [bits, ...be16(height), ...be16(width), 1];
    const parts: Part[] = [
      [0xff, SOI],
      ...this.#keptSegments,
      segmentOf(DQT, this.#quantizer),
      segmentOf(this.#markerOf(frame), [...header, id, 0x11, quantization]),
      ...this.#out.parts,
      [0xff, EOI],
    ];
    return parts.map((part) =>
      Array.isArray(part) ? Uint8Array.of(...part) : part
    );
  }

  /** The frame with Huffman codes; extended (SOF1) only where it must be (B.2.2). */
  #markerOf({ marker, isArithmetic, isProgressive }: Frame): number {
    if (!isArithmetic || isProgressive) return marker & 0xf7;
    return this.#quantizer![0] >> 4 ? 0xc1 : 0xc0;
  }

  /** Writes the coefficients of a file with arithmetic coding. */
  #codeScans(
    { components: [{ id }], isProgressive }: Frame,
    { coefficients }: ArithmeticLuma,
    at: number,
  ): void {
    const [dc, ac] = [STANDARD_CODES[0], STANDARD_CODES[4]];
    for (const [first, last] of isProgressive ? BANDS : [WHOLE]) {
      const data = codeBlocks(coefficients, [first, last], dc, ac) ??
        broken("coefficient out of range, in what ends", at);
      const codes: OutputScan["codes"] = [];
      if (first === 0) codes.push([0, dc]);
      if (last > 0) codes.push([4, ac]);
      const header = [1, id, 0, first, last, 0];
      this.#out.add({ codes, interval: 0, header, data });
    }
  }
}

const be16 = (value: number): number[] => [value >> 8, value & 255];

function segmentOf(marker: number, content: Part): number[] {
  return [0xff, marker, ...be16(2 + content.length), ...content];
}

/** The scans so far, to check that the next one is allowed behind them. */
class ScanHistory {
  hasScan = false;
  /** For each luma coefficient, the lowest bit that is known. */
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
      // G.1.1.1.2: each scan but the first adds one bit.
      if (this.#known[k] !== (high || undefined)) {
        broken("scan of the luma out of order", at);
      }
      this.#known[k] = low;
    }
  }
}

/** G.1.1.1: a scan has DC alone, or the AC coefficients of one component. */
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

/** A scan of the result, with the tables that it needs. */
interface OutputScan {
  codes: [id: number, codes: Codes][];
  interval: number;
  /** The content of its SOS. */
  header: number[];
  data: Uint8Array;
}

/** The scans of the result. A table is written only if it has changed. */
class OutputScans {
  readonly parts: Part[] = [];
  readonly #codes: Codes[] = [];
  #interval = 0;

  add({ codes, interval, header, data }: OutputScan): void {
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

// The kernel

/** How far the kernel may read or write behind an end, in bytes. */
const SLACK = 4096;
/** The size of `Scan` of kernels/jpeg.ts in words, and its outputs' indexes. */
const SCAN = 50, ERROR = 17, SEGMENT = 18, BIT = 19, NEXT = 20;

/** What is wrong with a scan, by the numbers of kernels/jpeg.ts. */
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

/** What is where in the kernels' memory. */
const layout = (() => {
  const scan = kernels.base();
  const categories = scan + 4 * SCAN, codes = categories + 4 * 12;
  const symbols = align(codes + 2 * 272);
  const tables = symbols + 2 * 2 ** 13;
  const input = align(tables + 4 * kernels.tablesSize());
  return { scan, categories, codes, symbols, tables, input };
})();

/** Copies a file into the kernels' memory, where it stays until the end. */
function load(bytes: Uint8Array): void {
  const { input } = layout;
  growMemory(input + bytes.length + SLACK).set(bytes, input);
}

/** Where the data of a scan end, including all restart intervals. */
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

/** A scan to be recoded or checked. */
interface Recoding {
  bytes: Uint8Array;
  frame: Frame;
  scan: Scan;
  /** The tables of each component; a scan of one more DC bit has none. */
  tables: { dc?: Codes; ac?: Codes }[];
  interval: number;
  /** The code to write DC differences with. */
  categories?: Codes;
  /** Whether all DC differences are written anew. */
  all: boolean;
}

/** Makes a scan of luma alone; undefined if `categories` lacks a code for it. */
function recode(
  recoding: Recoding,
): { data: Uint8Array; end: number; categories?: Codes } | undefined {
  const { bytes, scan, frame, categories } = recoding;
  const end = endOf(bytes, scan.from), size = end - scan.from;
  const mcus = geometryOf(frame, scan);
  // A block has at least two codes, or one bit. This bounds the memory.
  const least = frame.isProgressive ? 1 : 2;
  if (mcus.wide * mcus.high * mcus.blocks * least > 8 * size) {
    reportError(SHORT, bytes, end);
  }
  const streams = layOutStreams(recoding, mcus, size);
  putTables(recoding);
  const words = new Uint32Array(kernels.memory.buffer, layout.scan, SCAN);
  words.set(wordsOf(recoding, mcus, streams, end));
  const written = kernels.recode(layout.scan);
  if (!written) {
    if (words[ERROR] === NO_CATEGORY) return;
    reportKernelError(bytes, words);
  }
  const next = words[NEXT] - layout.input;
  const { result, stuffed } = streams;
  const view = growMemory(stuffed + 2 * written + SLACK);
  const stuffedEnd = kernels.stuff(result, written, stuffed);
  // After a sequential scan of the luma the memory is not used again, so a view
  // is enough.
  const data = frame.isProgressive
    ? view.slice(stuffed, stuffedEnd)
    : view.subarray(stuffed, stuffedEnd);
  return { data, end: next, categories };
}

/** Checks the data of a scan of AC coefficients; returns where they end. */
function checkBand(recoding: Recoding, isFirst: boolean): number {
  const { bytes, frame, scan } = recoding;
  const end = endOf(bytes, scan.from), mcus = geometryOf(frame, scan);
  const streams = layOutStreams(recoding, mcus, end - scan.from);
  const { masks, top } = spaceOf(recoding);
  if (isFirst) growMemory(top).fill(0, masks, top);
  putTables(recoding);
  const words = new Uint32Array(kernels.memory.buffer, layout.scan, SCAN);
  words.set(wordsOf(recoding, mcus, streams, end));
  if (kernels.checkBand(layout.scan)) reportKernelError(bytes, words);
  return words[NEXT] - layout.input;
}

/** The memory behind the file: masks for progressive files, then free space. */
function spaceOf({ bytes, frame }: Recoding): { masks: number; top: number } {
  const { wide, high } = frame.components[0];
  const masks = align(layout.input + bytes.length + SLACK);
  if (!frame.isProgressive) return { masks, top: masks };
  const columns = blockCount(frame.width, wide, frame.wide);
  return {
    masks,
    top: masks + 8 * columns * blockCount(frame.height, high, frame.high),
  };
}

/** Where the streams are; of those that lie reversed, the top. */
interface StreamLayout {
  result: number;
  data: number;
  rows: number;
  rowSize: number;
  /** Where the stuffed result goes; it overwrites all others. */
  stuffed: number;
}

/** Reserves memory for the largest possible size of each stream. */
function layOutStreams(
  recoding: Recoding,
  mcus: Geometry,
  size: number,
): StreamLayout {
  // A DC difference has at most 27 bits, and had at least one before.
  const grown = 4 * mcus.wide * (recoding.all ? mcus.lumaWide : 1);
  const { top } = spaceOf(recoding);
  const result = align(top + size + grown * mcus.high * mcus.lumaHigh + SLACK);
  const data = align(result + size + SLACK);
  const rowSize = align(size + grown + SLACK);
  const rows = data + (mcus.lumaHigh - 1) * rowSize;
  const bits = 8 * (result - top);
  if (rows >= 2 ** 32 - SLACK || bits >= 2 ** 32) {
    throw new Error(`too large: a scan of ${size} bytes`);
  }
  growMemory(rows + SLACK);
  return { result, data, rows, rowSize, stuffed: result };
}

/** Fills the structure `Scan` of kernels/jpeg.ts. */
function wordsOf(
  recoding: Recoding,
  mcus: Geometry,
  { result, data, rows, rowSize }: StreamLayout,
  end: number,
): number[] {
  const { scan, interval, all } = recoding;
  const { input, categories, tables } = layout;
  const { components, luma } = scan;
  const words = [
    ...[input + scan.from, input + end, data, result, rows, rowSize],
    ...[mcus.wide, mcus.high, interval, components.length, luma],
    ...[mcus.lumaWide, mcus.lumaHigh, mcus.blocksWide, mcus.blocksHigh],
    ...[Number(all), categories],
    ...[0, 0, 0, 0, 0, 0], // outputs, and the state of the kernel
    ...components.flatMap(({ wide, high }, i) => [
      components.length === 1 ? 1 : wide * high,
      tables + i * kernels.tablesSize(),
    ]),
  ];
  while (words.length < SCAN - 7) words.push(0); // the state of the luma rows
  words.push(scan.first, scan.last, scan.high, spaceOf(recoding).masks);
  words.push(0, 0, 0); // the state of the scan
  return words;
}

/** Tables built before, by their codes: most files have the same ones. */
const tableCache = new Map<string, Uint8Array>();
const TABLE_CACHE_MAX = 8;

function putTables({ tables, categories }: Recoding): void {
  tables.forEach(({ dc, ac }, i) => {
    const at = layout.tables + i * kernels.tablesSize();
    const key = [dc, ac].map((codes) => codes ? LATIN1.decode(codes) : "")
      .join();
    const known = tableCache.get(key);
    if (known) growMemory(0).set(known, at);
    else {
      if (tableCache.size >= TABLE_CACHE_MAX) tableCache.clear();
      tableCache.set(key, build(at, dc, ac));
    }
  });
  const words = new Uint32Array(kernels.memory.buffer, layout.categories, 12);
  words.set(categories ? categoriesOf(categories) : [1 << 31]);
}

/** Makes a key of bytes. `String.fromCharCode(...)` took 50 µs for an image. */
const LATIN1 = new TextDecoder("latin1");

function build(at: number, dc?: Codes, ac?: Codes): Uint8Array {
  const view = growMemory(0), places = [layout.codes, layout.codes + 272];
  if (dc) view.set(dc, places[0]);
  if (ac) view.set(ac, places[1]);
  const [first, second] = [dc ? places[0] : 0, ac ? places[1] : 0];
  kernels.build(at, first, second, layout.symbols);
  return view.slice(at, at + kernels.tablesSize());
}

/** C.2: for each DC category its code, its length << 16, and 1 << 31. */
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

/** Throws what the kernel found to be wrong. */
function reportKernelError(bytes: Uint8Array, words: Uint32Array): never {
  const next = words[NEXT] - layout.input, error = words[ERROR];
  if (error === SHORT || error === OUT_OF_SEQUENCE) {
    reportError(error, bytes, next);
  }
  let at = words[SEGMENT] - layout.input;
  // Data left over begin at the next byte, since the last one is filled up.
  const bit = words[BIT] + (error === LEFT_OVER ? 7 : 0);
  for (let n = bit >> 3; n > 0 && at < next; n--) {
    at += bytes[at] === 0xff ? 2 : 1;
  }
  reportError(error, bytes, at);
}

function reportError(error: number, bytes: Uint8Array, at: number): never {
  if (at === bytes.length) truncated(CAUSES[error], at);
  if (error === LEFT_OVER) {
    throw new LeftOver(`broken JPEG: ${CAUSES[error]} at byte ${at}`, at);
  }
  broken(CAUSES[error], at);
}
