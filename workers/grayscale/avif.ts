/**
 * What the codec does not know of an AVIF. Its levels: whether black is 0 and white 255
 * (full range), or 16 and 235 (limited range), in monochrome pictures and in alpha. And
 * what is cropped: the codec takes the part for the size of the whole, and refuses it.
 *
 * @module
 */

/** The part of a picture that is shown, and how it is turned. */
export interface Crop {
  /** Its first column. */
  left: number;
  /** Its first row. */
  top: number;
  /** How many columns it has. */
  width: number;
  /** How many rows. */
  height: number;
  /** Quarters of a turn, against the clock. */
  turns: number;
  /** Top and bottom, or left and right change places behind that. */
  mirror?: "rows" | "columns";
}

/** How an AVIF is to be read. */
export interface Levels {
  /** Whether what the codec gives is still in limited range. */
  isLimited: boolean;
  /** The same of its alpha. */
  isAlphaLimited: boolean;
  /** Whether the picture is turned or mirrored before it is shown. */
  isTurned: boolean;
  /** What is to be cut out of what the codec gives. */
  crop?: Crop;
  /** Bytes to replace for the codec. */
  patches: { at: number; bytes: number[] }[];
}

/** ISO/IEC 23091-2: the color description of a `colr` box or of the AV1 data. */
interface Description {
  matrix: number;
  isFull: boolean;
}

/** AV1, 5.5: what a sequence header says of colors. */
interface SequenceHeader extends Description {
  isMono: boolean;
}

/** ISO/IEC 14496-12: the boxes of an image that are looked at here. */
interface Boxes {
  /** The primary item. */
  primary: number;
  /** Of each item, where its data begin. */
  places: Map<number, number>;
  /** Properties, and of each item the indexes (from 1) of its own. */
  properties: Box[];
  associations: Map<number, Association[]>;
  /** References between items: `auxl` to a master, `dimg` to the tiles of a grid. */
  references: { type: string; from: number; to: number[] }[];
  /** A size that is left open, which the codec does not know. */
  patches: Levels["patches"];
}

/** An index of a property, and the bytes in which it stands. */
interface Association {
  index: number;
  at: number;
  size: number;
}

/** ISO/IEC 14496-12: a box. */
export interface Box {
  /** Four letters. */
  type: string;
  /** Where its content begins. */
  body: number;
  /** Where it ends. */
  end: number;
}

/** Matrix coefficients that the codec knows; 2 is unspecified, which is BT.601. */
const MATRICES = [0, 1, 2, 5, 6, 8, 9];
const META = 0x6d657461; // "meta"
const UNSPECIFIED = 2, BT601 = 6, YCGCO = 8;

/**
 * Finds out how the levels are to be read, by `colr` before the AV1 header.
 *
 * @param bytes A whole file
 * @returns How to read it
 * @throws {Error} If the codec would read the colors wrongly
 * @throws {RangeError} If the file ends too early
 */
export function readLevels(bytes: Uint8Array): Levels {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const boxes = readBoxes(view), { primary, references } = boxes;
  const alpha = references.find(({ type, from, to }) =>
    type === "auxl" && to.includes(primary) && isAlpha(bytes, boxes, from)
  )?.from;
  const coded = sequenceHeaderOf(bytes, boxes, primary);
  const stated = colorBoxOf(boxes, view, primary) ??
    colorBoxOf(boxes, view, firstTile(boxes, primary));
  const box = stated && {
    matrix: view.getUint16(stated.body + 8),
    isFull: view.getUint8(stated.body + 10) >> 7 === 1,
  };
  const { matrix, isFull } = box ?? coded ?? { matrix: BT601, isFull: true };
  const isMono = coded?.isMono ?? false;
  const isKnown = MATRICES.includes(matrix) && (matrix !== YCGCO || isFull);
  if (!isMono && !isKnown) {
    const range = isFull ? "full" : "limited";
    throw new Error(
      `unsupported AVIF: matrix coefficients ${matrix} in ${range} range`,
    );
  }
  const patches = [...boxes.patches];
  // The codec ignores a box in which all is unspecified, and with it the range.
  if (stated && matrix === UNSPECIFIED) {
    patches.push({ at: stated.body + 8, bytes: [0, BT601] });
  }
  const shown = propertiesOf(boxes, primary);
  if (shown.some(({ type }) => type === "lsel")) {
    throw new Error("unsupported AVIF: one layer of several (lsel)");
  }
  // Some writers say only of the colors how they are turned, and mean alpha as well,
  // which the codec would leave as it is.
  const turned = (item: number) => transformsOf(bytes, boxes, item);
  const isTogether = alpha === undefined || turned(alpha) === turned(primary);
  const crop = cropOf(shown, view, isTogether);
  if (crop) patches.push(...withoutTransforms(boxes));
  const { turns, mirror } = turnOf(shown, view);
  return {
    crop,
    isTurned: turns > 0 || mirror !== undefined,
    isLimited: isMono && !isFull,
    isAlphaLimited: alpha !== undefined &&
      sequenceHeaderOf(bytes, boxes, alpha)?.isFull === false,
    patches,
  };
}

/** What is done to a picture before it is shown, as text. */
const transformsOf = (bytes: Uint8Array, boxes: Boxes, item: number): string =>
  propertiesOf(boxes, item)
    .filter(({ type }) => /^(clap|irot|imir)$/.test(type))
    .map(({ type, body, end }) => `${type} ${bytes.subarray(body, end)}`)
    .join();

/** ISO/IEC 23008-12, 6.5.8 to 6.5.12: `clap`, then `irot` and `imir`. */
function cropOf(
  properties: Box[],
  view: DataView,
  isTogether: boolean,
): Crop | undefined {
  const bodyOf = (name: string) =>
    properties.find(({ type }) => type === name)?.body;
  const clap = bodyOf("clap"), size = bodyOf("ispe");
  if (size === undefined || clap === undefined && isTogether) return;
  const fraction = (at: number) => view.getInt32(at) / view.getInt32(at + 4);
  // The offsets are those of the middle.
  const start = (whole: number, part: number, offset: number) =>
    offset + (whole - part) / 2;
  const wide = view.getUint32(size + 4), high = view.getUint32(size + 8);
  const [width, height, right, down] = clap === undefined
    ? [wide, high, 0, 0]
    : [0, 8, 16, 24].map((at) => fraction(clap + at));
  const left = start(wide, width, right), top = start(high, height, down);
  const isInside = left >= 0 && top >= 0 && width > 0 && height > 0 &&
    left + width <= wide && top + height <= high;
  if (!isInside || ![left, top, width, height].every(Number.isInteger)) {
    throw new Error("unsupported AVIF: a crop that is no part in whole pixels");
  }
  return { left, top, width, height, ...turnOf(properties, view) };
}

/** `irot` and `imir`. */
function turnOf(
  properties: Box[],
  view: DataView,
): Pick<Crop, "turns" | "mirror"> {
  const bodyOf = (name: string) =>
    properties.find(({ type }) => type === name)?.body;
  const rotation = bodyOf("irot"), mirroring = bodyOf("imir");
  const turns = rotation === undefined ? 0 : view.getUint8(rotation) & 3;
  if (mirroring === undefined) return { turns };
  return { turns, mirror: view.getUint8(mirroring) & 1 ? "columns" : "rows" };
}

/** Takes from every item what the codec would do to it: 0 is no property. */
function withoutTransforms({ associations, properties }: Boxes) {
  return [...associations.values()].flat()
    .filter(({ index }) =>
      /^(clap|irot|imir)$/.test(properties[index - 1]?.type ?? "")
    )
    .map(({ at, size }) => ({ at, bytes: Array<number>(size).fill(0) }));
}

/**
 * Cuts a part out of pixels, and turns it.
 *
 * @param pixels Row by row
 * @param wide How many pixels a row has
 * @param step How many bytes a pixel has
 * @param crop What to cut out
 * @returns The part, and its size
 */
export function cropped(
  pixels: Uint8Array,
  wide: number,
  step: number,
  { left, top, width, height, turns, mirror }: Crop,
): { pixels: Uint8Array; width: number; height: number } {
  const isTurned = turns % 2 === 1;
  const [w, h] = isTurned ? [height, width] : [width, height];
  const out = new Uint8Array(w * h * step);
  for (let y = 0, o = 0; y < h; y++) {
    for (let x = 0; x < w; x++, o += step) {
      const [column, row] = [
        mirror === "columns" ? w - 1 - x : x,
        mirror === "rows" ? h - 1 - y : y,
      ];
      // Where it was before it was turned.
      const [from, line] = [
        [column, row],
        [width - 1 - row, column],
        [width - 1 - column, height - 1 - row],
        [row, height - 1 - column],
      ][turns];
      const at = ((top + line) * wide + left + from) * step;
      for (let k = 0; k < step; k++) out[o + k] = pixels[at + k];
    }
  }
  return { pixels: out, width: w, height: h };
}

/** Reads a box's header; the last box may leave its size open. */
function boxAt(view: DataView, at: number, limit: number): Box {
  let size = view.getUint32(at), body = at + 8;
  if (size === 1) [size, body] = [Number(view.getBigUint64(body)), body + 8];
  else if (size === 0) size = limit - at;
  if (at + size > limit || size < body - at) throw new RangeError();
  const type = String.fromCharCode(
    ...[4, 5, 6, 7].map((i) => view.getUint8(at + i)),
  );
  return { type, body, end: at + size };
}

/**
 * Reads the boxes that follow one another.
 *
 * @param view A whole file
 * @param at Where the first one begins
 * @param end Where the last one ends
 * @returns The boxes
 * @throws {RangeError} If one does not end there
 */
export function boxesIn(view: DataView, at: number, end: number): Box[] {
  const boxes: Box[] = [];
  while (at < end) {
    boxes.push(boxAt(view, at, end));
    at = boxes[boxes.length - 1].end;
  }
  return boxes;
}

/** Reads big-endian numbers one after another. */
class Reader {
  readonly #view: DataView;
  at: number;

  constructor(view: DataView, at: number) {
    this.#view = view;
    this.at = at;
  }

  read(size: number): number {
    let value = 0;
    for (let i = 0; i < size; i++) {
      value = value * 256 + this.#view.getUint8(this.at++);
    }
    return value;
  }
}

function readBoxes(view: DataView): Boxes {
  const boxes: Boxes = {
    ...{ primary: 0, places: new Map(), properties: [] },
    ...{ associations: new Map(), references: [], patches: [] },
  };
  const meta = boxesIn(view, 0, view.byteLength)
    .find(({ type }) => type === "meta");
  if (!meta) return boxes;
  const start = meta.body - 8, size = meta.end - start;
  if (view.getUint32(start) === 0 && view.getUint32(start + 4) === META) {
    const bytes = [24, 16, 8, 0].map((shift) => size >>> shift & 255);
    boxes.patches.push({ at: start, bytes });
  }
  const inner = boxesIn(view, meta.body + 4, meta.end);
  const data = inner.find(({ type }) => type === "idat")?.body ?? 0;
  for (const { type, body, end } of inner) {
    const version = type === "iprp" ? 0 : view.getUint8(body);
    const reader = new Reader(view, body + 4);
    if (type === "pitm") boxes.primary = reader.read(version ? 4 : 2);
    if (type === "iloc") readPlaces(boxes.places, reader, version, data);
    if (type === "iref") {
      const wide = version ? 4 : 2;
      for (const reference of boxesIn(view, body + 4, end)) {
        const reader = new Reader(view, reference.body);
        const from = reader.read(wide), to: number[] = [];
        for (let n = reader.read(2); n > 0; n--) to.push(reader.read(wide));
        boxes.references.push({ type: reference.type, from, to });
      }
    }
    if (type !== "iprp") continue;
    for (const box of boxesIn(view, body, end)) {
      const { type, body, end } = box;
      if (type === "ipco") boxes.properties = boxesIn(view, body, end);
      if (type === "ipma") readAssociations(boxes.associations, view, body);
    }
  }
  return boxes;
}

/** `iloc`: where the first piece of each item is, in the file or in `idat`. */
function readPlaces(
  places: Boxes["places"],
  reader: Reader,
  version: number,
  data: number,
): void {
  const sizes = reader.read(2);
  const [ofOffset, ofLength, ofBase, ofIndex] = [12, 8, 4, 0].map((shift) =>
    sizes >> shift & 15
  );
  const count = reader.read(version < 2 ? 2 : 4);
  for (let i = 0; i < count; i++) {
    const item = reader.read(version < 2 ? 2 : 4);
    const isInside = version ? (reader.read(2) & 15) === 1 : false;
    reader.read(2); // which file: this one
    const base = reader.read(ofBase), pieces = reader.read(2);
    const next = reader.at +
      pieces * ((version ? ofIndex : 0) + ofOffset + ofLength);
    if (version) reader.read(ofIndex);
    places.set(item, base + reader.read(ofOffset) + (isInside ? data : 0));
    reader.at = next;
  }
}

/** `ipma`: which properties each item has. */
function readAssociations(
  associations: Boxes["associations"],
  view: DataView,
  body: number,
): void {
  const version = view.getUint8(body), isWide = view.getUint8(body + 3) & 1;
  const reader = new Reader(view, body + 4);
  for (let items = reader.read(4); items > 0; items--) {
    const item = reader.read(version ? 4 : 2), all: Association[] = [];
    for (let count = reader.read(1); count > 0; count--) {
      const at = reader.at, size = isWide ? 2 : 1;
      const index = reader.read(size) & (isWide ? 0x7fff : 0x7f);
      all.push({ index, at, size });
    }
    associations.set(item, all);
  }
}

/** The properties of an item. */
const propertiesOf = (boxes: Boxes, item: number): Box[] =>
  (boxes.associations.get(item) ?? []).flatMap(({ index }) =>
    boxes.properties[index - 1] ?? []
  );

/** An `auxC` names what kind of picture an auxiliary one is. */
function isAlpha(bytes: Uint8Array, boxes: Boxes, item: number): boolean {
  return propertiesOf(boxes, item).some(({ type, body, end }) =>
    type === "auxC" &&
    /alpha|auxid:1/.test(
      String.fromCharCode(
        ...bytes.subarray(body + 4, Math.min(end, body + 60)),
      ),
    )
  );
}

/** The `colr` of an item that has numbers, and no profile. */
const colorBoxOf = (
  boxes: Boxes,
  view: DataView,
  item: number,
): Box | undefined =>
  propertiesOf(boxes, item).find(({ type, body }) =>
    type === "colr" && view.getUint32(body) === 0x6e636c78 // "nclx"
  );

/** The first tile of a grid; of what is no grid, the picture itself. */
const firstTile = ({ references }: Boxes, item: number): number =>
  references.find(({ type, from }) => type === "dimg" && from === item)
    ?.to[0] ?? item;

/** The sequence header at the beginning of an item's data. */
function sequenceHeaderOf(
  bytes: Uint8Array,
  boxes: Boxes,
  item: number,
): SequenceHeader | undefined {
  let at = boxes.places.get(firstTile(boxes, item));
  while (at !== undefined && at < bytes.length) {
    const head = bytes[at], type = head >> 3 & 15;
    at += head & 4 ? 2 : 1;
    if (!(head & 2)) return; // without a size it is the last
    let size = 0;
    for (let shift = 0;; shift += 7) {
      size |= (bytes[at] & 127) << shift;
      if (!(bytes[at++] & 128) || shift > 21) break;
    }
    if (type === 1) return readSequenceHeader(bytes.subarray(at, at + size));
    at += size;
  }
}

/** AV1, 5.5.1 and 5.5.2, up to the range; bits behind the end are 0. */
function readSequenceHeader(data: Uint8Array): SequenceHeader {
  let at = 0;
  const read = (count: number): number => {
    let value = 0;
    for (; count > 0; count--, at++) {
      value = value * 2 + (data[at >> 3] >> 7 - (at & 7) & 1);
    }
    return value;
  };
  const profile = read(3);
  read(1); // still_picture
  const isReduced = read(1) === 1;
  if (isReduced) read(5); // the level
  else skipOperatingPoints(read);
  const wide = read(4) + 1, high = read(4) + 1;
  read(wide);
  read(high);
  if (!isReduced && read(1)) read(7); // frame ids
  read(3); // superblocks of 128, filter_intra, intra_edge_filter
  if (!isReduced) skipInterTools(read);
  read(3); // superres, cdef, restoration
  const isDeep = read(1);
  if (profile === 2 && isDeep) read(1);
  const isMono = profile !== 1 && read(1) === 1;
  const isDescribed = read(1) === 1;
  const [primaries, transfer, matrix] = isDescribed
    ? [read(8), read(8), read(8)]
    : [2, 2, 2];
  // sRGB stored as it is has no bit for the range.
  const isSrgb = primaries === 1 && transfer === 13 && matrix === 0;
  return { isMono, matrix, isFull: !isMono && isSrgb || read(1) === 1 };
}

/** AV1, 5.5.1: timing, and the operating points. */
function skipOperatingPoints(read: (count: number) => number): void {
  let delay = 0;
  if (read(1)) { // timing_info
    read(64);
    if (read(1)) { // a number with as many leading zeros as bits
      let zeros = 0;
      while (zeros < 32 && !read(1)) zeros++;
      read(zeros);
    }
    if (read(1)) { // decoder_model_info
      delay = read(5) + 1;
      read(42);
    }
  }
  const hasDisplayDelay = read(1);
  for (let points = read(5) + 1; points > 0; points--) {
    read(12);
    if (read(5) > 7) read(1);
    if (delay && read(1)) read(2 * delay + 1);
    if (hasDisplayDelay && read(1)) read(4);
  }
}

/** AV1, 5.5.1: what only films need. */
function skipInterTools(read: (count: number) => number): void {
  read(4);
  const hasOrder = read(1);
  if (hasOrder) read(2);
  const forcesContent = read(1) ? 2 : read(1); // screen content tools
  if (forcesContent && !read(1)) read(1);
  if (hasOrder) read(3);
}
