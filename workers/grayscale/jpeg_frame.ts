/**
 * What the headers of a JPEG's frame and scans say, the geometry that follows from
 * them, and how to say what is wrong. Clauses are those of ITU-T T.81.
 *
 * @module
 */

/** What a frame header says. */
export interface JpegHeader {
  /** Columns of the picture. */
  width: number;
  /** Rows of the picture. */
  height: number;
  /** Bits of a sample. */
  bits: number;
  /** Whether it is coded without loss, which is left to the codec. */
  lossless: boolean;
}

/** B.2.2: a component in a frame header. */
export interface Component {
  /** Its name in scan headers. */
  id: number;
  /** Sampling factors: how many blocks an MCU has across. */
  wide: number;
  /** And down. */
  high: number;
  /** Which quantization table it has. */
  quantization: number;
}

/** B.2.2: a frame header. */
export interface Frame extends JpegHeader {
  /** SOF0 to SOF2, SOF9 or SOF10. */
  marker: number;
  /** Its components; the first is the luma. */
  components: Component[];
  /** The largest sampling factor of all components, across. */
  wide: number;
  /** And down. */
  high: number;
  /** Whether its scans have parts of the coefficients. */
  isProgressive: boolean;
  /** Whether its coding is arithmetic, not with Huffman codes. */
  isArithmetic: boolean;
}

/** B.2.3: a component in a scan header. */
export interface ScanComponent extends Component {
  /** Which table its DC differences are coded with. */
  dc: number;
  /** And its AC coefficients. */
  ac: number;
}

/** B.2.3: a scan header. */
export interface Scan {
  /** Where its marker is, in bytes. */
  at: number;
  /** Where its data begin. */
  from: number;
  /** The components that it has. */
  components: ScanComponent[];
  /** The index of the luma among them; -1 if the scan has none. */
  luma: number;
  /** G.1.1.1: the first coefficient of its band. */
  first: number;
  /** The last one. */
  last: number;
  /** The lowest bit that was known before; 0 if none. */
  high: number;
  /** The lowest bit that is known then. */
  low: number;
}

/** A.1.1: how many blocks a component has across or down. */
export const blockCount = (
  size: number,
  factor: number,
  most: number,
): number => Math.ceil(Math.ceil(size * factor / most) / 8);

/** The geometry of a scan. */
export interface Geometry {
  /** MCUs across. */
  wide: number;
  /** And down. */
  high: number;
  /** Blocks of one MCU. */
  blocks: number;
  /** Those of the luma in it, across. */
  lumaWide: number;
  /** And down. */
  lumaHigh: number;
  /** All blocks of the luma across, without those that only fill up MCUs. */
  blocksWide: number;
  /** And down. */
  blocksHigh: number;
}

/** A.1.1, A.2: a scan of one component has no blocks that only fill up MCUs. */
export function geometryOf(frame: Frame, { components, luma }: Scan): Geometry {
  const { wide, high } = components[luma];
  const blocksWide = blockCount(frame.width, wide, frame.wide);
  const blocksHigh = blockCount(frame.height, high, frame.high);
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

/** Throws that a file is broken, and where. */
export function broken(cause: string, at: number): never {
  throw new Error(`broken JPEG: ${cause} at byte ${at}`);
}

/** Throws that a file is truncated, and where. */
export function truncated(cause: string, at: number): never {
  throw new Error(`truncated JPEG: ${cause} at byte ${at}`);
}

/** Data behind the end of a scan or restart interval. */
export class LeftOver extends Error {
  /** Where they begin. */
  readonly at: number;

  /** Makes the error. */
  constructor(message: string, at: number) {
    super(message);
    this.at = at;
  }
}

/** More stray bytes mean that what is before them was misread, unless they are padding. */
export const STRAY_MAX = 16;

/** What is said of bytes that have no meaning. */
export const strayLine = (count: number, at: number): string =>
  `${count} stray bytes before a marker, at byte ${at}`;

/**
 * What is said of stray bytes that the codec has skipped.
 *
 * @param warning What the codec says
 * @returns The line; undefined if it says something else, or they are too many
 */
export function strayLineOf(warning: string): string | undefined {
  const [, count] = /data: (\d+) extraneous bytes before/.exec(warning) ?? [];
  if (!count || Number(count) > STRAY_MAX) return;
  return `${count} stray bytes before a marker`;
}
