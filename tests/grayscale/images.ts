/**
 * Images built from scratch, so that what they hold is known without asking
 * the codec under test, and a reader of PNGs that is independent of it, too.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { crc32, deflateSync, inflateSync } from "node:zlib";

/** RGBA samples of eight bits. */
export interface Raster {
  width: number;
  height: number;
  data: Uint8Array;
}

/** What Pillow's `convert("L")` gives, written down a second time. */
export const luma = (r: number, g: number, b: number): number =>
  (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;

/** Gradients in every channel; opaque unless `alpha`. */
export function draw(width: number, height: number, alpha = false): Raster {
  const data = new Uint8Array(width * height * 4);
  for (let i = 0; i < width * height; i++) {
    const x = i % width, y = Math.floor(i / width);
    data.set([
      128 + 120 * Math.sin(x / 7 + y / 9),
      128 + 120 * Math.sin(x / 5 - y / 3),
      128 + 120 * Math.cos(x / 9 + y / 11),
      alpha ? (x * 37 + y * 11) % 256 : 255,
    ], 4 * i);
  }
  return { width, height, data };
}

/** The luma and the alpha of every pixel. */
export function lumaOf({ data }: Raster): { gray: number[]; alpha: number[] } {
  const gray: number[] = [], alpha: number[] = [];
  for (let i = 0; i < data.length; i += 4) {
    gray.push(luma(data[i], data[i + 1], data[i + 2]));
    alpha.push(data[i + 3]);
  }
  return { gray, alpha };
}

const bytesOf = (...parts: (Uint8Array | number[] | string)[]): Uint8Array =>
  new Uint8Array(
    Buffer.concat(
      parts.map((part) =>
        typeof part === "string"
          ? Buffer.from(part, "latin1")
          : Buffer.from(part)
      ),
    ),
  );

function be32(value: number): number[] {
  return [value >>> 24, value >>> 16 & 255, value >>> 8 & 255, value & 255];
}
const le32 = (value: number): number[] => be32(value).reverse();
const le16 = (value: number): number[] => [value & 255, value >> 8 & 255];

// ---- PNG

/** A PNG, down to its samples. */
export interface Png {
  width: number;
  height: number;
  /** 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGB and alpha. */
  colorType: number;
  depth: number;
  /** Row by row, channel by channel. */
  samples: ArrayLike<number>;
  interlace?: boolean;
  /** The filter of every row; by default they take turns. */
  filter?: number;
  /** Chunks before the first IDAT, between those that this writes. */
  chunks?: Uint8Array[];
  palette?: number[];
  /** The content of tRNS. */
  transparency?: number[];
}

const SIGNATURE = "\x89PNG\r\n\x1a\n";
const CHANNELS: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
/** Adam7: the first column and row of each pass, and the steps. */
const PASSES = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
];

export function pngChunk(type: string, data: ArrayLike<number>): Uint8Array {
  const body = bytesOf(type, Array.from(data));
  return bytesOf(be32(data.length), body, be32(crc32(body)));
}

function passesOf(width: number, height: number, interlace = false) {
  const passes = interlace ? PASSES : [[0, 0, 1, 1]];
  return passes.map(([left, top, right, down]) => ({
    at: (column: number, row: number) =>
      (top + row * down) * width + left + column * right,
    columns: Math.max(0, Math.ceil((width - left) / right)),
    rows: Math.max(0, Math.ceil((height - top) / down)),
  })).filter(({ columns, rows }) => columns && rows);
}

/** PNG, 9.2: what each filter predicts from the left, above, and both. */
const FILTERS: ((a: number, b: number, c: number) => number)[] = [
  () => 0,
  (a) => a,
  (_, b) => b,
  (a, b) => (a + b) >> 1,
  (a, b, c) => {
    const [pa, pb, pc] = [b - c, a - c, a + b - 2 * c].map(Math.abs);
    return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
  },
];

/** Filters a row or removes the filter; predictions are of plain bytes. */
function filterRow(
  kind: number,
  row: Uint8Array,
  above: Uint8Array | undefined,
  step: number,
  sign: 1 | -1,
): Uint8Array {
  const out = new Uint8Array(row.length);
  const plain = sign === 1 ? out : row;
  for (let i = 0; i < row.length; i++) {
    const left = i < step ? 0 : plain[i - step];
    const corner = i < step ? 0 : above?.[i - step] ?? 0;
    out[i] = row[i] + sign * FILTERS[kind](left, above?.[i] ?? 0, corner);
  }
  return out;
}

/** The rows of a PNG, with their filters: what is deflated. */
export function pngRows(png: Png): Uint8Array {
  const { width, height, colorType, depth, samples, interlace } = png;
  const channels = CHANNELS[colorType];
  const step = Math.max(1, channels * depth >> 3);
  const rows: Uint8Array[] = [];
  for (const pass of passesOf(width, height, interlace)) {
    let above: Uint8Array | undefined;
    for (let y = 0; y < pass.rows; y++) {
      const row = new Uint8Array(
        Math.ceil(pass.columns * channels * depth / 8),
      );
      for (let i = 0; i < pass.columns * channels; i++) {
        const x = Math.floor(i / channels);
        const value = samples[pass.at(x, y) * channels + i % channels];
        if (depth === 16) row.set([value >> 8, value & 255], 2 * i);
        else row[i * depth >> 3] |= value << 8 - depth - (i * depth & 7);
      }
      const kind = png.filter ?? y % 5;
      rows.push(new Uint8Array([kind]));
      rows.push(filterRow(kind, row, above, step, -1));
      above = row;
    }
  }
  return bytesOf(...rows);
}

export function encodePng(png: Png): Uint8Array {
  const { width, height, colorType, depth, interlace } = png;
  const data = deflateSync(pngRows(png));
  const half = data.length >> 1;
  return bytesOf(
    SIGNATURE,
    pngChunk("IHDR", [
      ...be32(width),
      ...be32(height),
      ...[depth, colorType, 0, 0, interlace ? 1 : 0],
    ]),
    ...png.chunks ?? [],
    ...png.palette ? [pngChunk("PLTE", png.palette)] : [],
    ...png.transparency ? [pngChunk("tRNS", png.transparency)] : [],
    pngChunk("IDAT", data.subarray(0, half)),
    pngChunk("IDAT", data.subarray(half)),
    pngChunk("IEND", []),
  );
}

/** The types of a PNG's chunks, in order, and what is in them. */
export function pngChunks(bytes: Uint8Array): [string, Uint8Array][] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const chunks: [string, Uint8Array][] = [];
  for (let at = 8, length; at < bytes.length; at += 12 + length) {
    length = view.getUint32(at);
    const type = Buffer.from(bytes.subarray(at + 4, at + 8)).toString("latin1");
    chunks.push([type, bytes.subarray(at + 8, at + 8 + length)]);
  }
  return chunks;
}

/** Reads a PNG of any kind; if it has a palette, its color numbers. */
export function decodePng(bytes: Uint8Array): Png {
  const chunks = pngChunks(bytes);
  const header = Buffer.from(chunks[0][1]);
  const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)];
  const [depth, colorType, interlace] = [header[8], header[9], !!header[12]];
  const channels = CHANNELS[colorType], bits = channels * depth;
  const data = inflateSync(
    bytesOf(...chunks.filter(([type]) => type === "IDAT").map(([, d]) => d)),
  );
  const length = width * height * channels;
  const samples = depth > 8 ? new Uint16Array(length) : new Uint8Array(length);
  let at = 0;
  for (const pass of passesOf(width, height, interlace)) {
    let above: Uint8Array | undefined;
    for (let y = 0; y < pass.rows; y++) {
      const kind = data[at++];
      const row = data.subarray(at, at += Math.ceil(pass.columns * bits / 8));
      above = filterRow(kind, row, above, Math.max(1, bits >> 3), 1);
      for (let i = 0; i < pass.columns * channels; i++) {
        const x = Math.floor(i / channels), bit = i * depth;
        const value = depth > 8
          ? above[2 * i] << 8 | above[2 * i + 1]
          : above[bit >> 3] >> 8 - depth - (bit & 7) & (1 << depth) - 1;
        samples[pass.at(x, y) * channels + i % channels] = value;
      }
    }
  }
  if (at !== data.length) throw new Error(`${data.length - at} bytes too many`);
  return { width, height, colorType, depth, samples, interlace };
}

/** A raster as a PNG of eight bits, RGBA or (opaque) RGB. */
export function pngOf({ width, height, data }: Raster, alpha = true) {
  const samples = alpha ? data : data.filter((_, i) => i % 4 < 3);
  const colorType = alpha ? 6 : 2;
  return encodePng({ width, height, colorType, depth: 8, samples });
}

/** A frame of an animation: where its pixels are, and the rest of its fcTL. */
export interface Frame {
  png: Png;
  left: number;
  top: number;
  /** Numerator and denominator of the delay, disposal and blending. */
  times: [number, number, number, number];
}

/** An animation; with `still` the first frame is not the picture of IDAT. */
export function encodeApng(
  frames: Frame[],
  { still, loops = 0 }: { still?: Png; loops?: number } = {},
): Uint8Array {
  const dataOf = (png: Png) => {
    const all = pngChunks(encodePng(png));
    return bytesOf(
      ...all.filter(([type]) => type === "IDAT").map(([, data]) => data),
    );
  };
  const { png: first } = frames[0];
  const picture = still ?? frames[0].png;
  const before = pngChunks(encodePng({ ...first, ...picture }));
  let sequence = 0;
  const parts = frames.flatMap(({ png, left, top, times }, i) => {
    const [numerator, denominator, ...rest] = times;
    const place = [png.width, png.height, left, top].flatMap(be32);
    const control = pngChunk("fcTL", [
      ...be32(sequence++),
      ...place,
      ...be32(numerator).slice(2),
      ...be32(denominator).slice(2),
      ...rest,
    ]);
    const data = dataOf(png), half = data.length >> 1;
    const pieces = i || still
      ? [data.subarray(0, half), data.subarray(half)].map((piece) =>
        pngChunk("fdAT", [...be32(sequence++), ...piece])
      )
      : [pngChunk("IDAT", data)];
    return [control, ...pieces];
  });
  const isHead = ([type]: [string, Uint8Array]) => !/IDAT|IEND/.test(type);
  const [header, ...others] = before.filter(isHead)
    .map(([type, data]) => pngChunk(type, data));
  return bytesOf(
    SIGNATURE,
    header,
    pngChunk("acTL", [...be32(frames.length), ...be32(loops)]),
    ...others,
    ...still ? [pngChunk("IDAT", dataOf(still))] : [],
    ...parts,
    pngChunk("tEXt", Array.from("Comment\0last", (c) => c.charCodeAt(0))),
    pngChunk("IEND", []),
  );
}

// ---- GIF

/** A GIF, down to its color numbers. */
export interface Gif {
  width: number;
  height: number;
  /** For each frame a color number for each pixel. */
  frames: ArrayLike<number>[];
  /** 2, 4, 8 … 256 colors of three bytes. */
  palette: number[];
  /** Give each frame the palette, and the file none. */
  local?: boolean;
  /** Bytes of a comment before the first frame. */
  comment?: number;
  /** How long each frame is shown, in hundredths of seconds. */
  times?: number[];
  /** How often the animation is repeated. */
  repeats?: number;
}

/** Code sizes never grow here, as a clear code comes early enough. */
export function encodeGif(gif: Gif): Uint8Array {
  const { width, height, frames, palette, local, comment } = gif;
  const { times, repeats } = gif;
  const power = Math.log2(palette.length / 3);
  const codeSize = Math.max(2, power), clear = 1 << codeSize;
  const pack = (pixels: ArrayLike<number>) => {
    const codes: number[] = [];
    for (let i = 0; i < pixels.length; i++) {
      if (i % (clear - 2) === 0) codes.push(clear);
      codes.push(pixels[i]);
    }
    codes.push(clear + 1);
    const width = codeSize + 1;
    const packed = new Uint8Array(Math.ceil(codes.length * width / 8));
    for (const [i, code] of codes.entries()) {
      const at = i * width, shifted = code << (at & 7);
      packed[at >> 3] |= shifted;
      packed[(at >> 3) + 1] |= shifted >> 8;
    }
    return packed;
  };
  const blocks = (data: Uint8Array) => {
    const parts: Uint8Array[] = [];
    for (let at = 0; at < data.length; at += 255) {
      const part = data.subarray(at, at + 255);
      parts.push(new Uint8Array([part.length]), part);
    }
    return bytesOf(...parts, [0]);
  };
  const flags = 0x80 | power - 1;
  return bytesOf(
    "GIF89a",
    le16(width),
    le16(height),
    [local ? 0 : flags, 0, 0],
    local ? [] : palette,
    comment ? bytesOf([0x21, 0xfe], blocks(new Uint8Array(comment))) : [],
    repeats
      ? bytesOf([0x21, 0xff, 11], "NETSCAPE2.0", [3, 1], le16(repeats), [0])
      : [],
    ...frames.map((pixels, i) =>
      bytesOf(
        times ? bytesOf([0x21, 0xf9, 4, 0], le16(times[i]), [0, 0]) : [],
        [0x2c, 0, 0, 0, 0],
        le16(width),
        le16(height),
        [local ? flags : 0],
        local ? palette : [],
        [codeSize],
        blocks(pack(pixels)),
      )
    ),
    [0x3b],
  );
}

// ---- TIFF

/** TIFF 6.0: pages of plain RGB, little-endian, one strip each. */
export function encodeTiff(
  pages: Raster[],
  { depth = 8, preview = -1, loop = false }: {
    depth?: 8 | 16;
    /** Which page is marked as a smaller version of another one. */
    preview?: number;
    /** Whether the last page is followed by itself. */
    loop?: boolean;
  } = {},
): Uint8Array {
  const parts = [bytesOf("II*\0", [0, 0, 0, 0])];
  let length = 8, link = 4;
  const links: [at: number, to: number][] = [];
  for (const [i, { width, height, data }] of pages.entries()) {
    const rgb = data.filter((_, i) => i % 4 < 3);
    const strip = depth === 8
      ? rgb
      : new Uint8Array(rgb.length * 2).map((_, i) => rgb[i >> 1]);
    const bits = bytesOf(...[1, 2, 3].map(() => le16(depth)));
    const pad = new Uint8Array(strip.length & 1);
    const directory = length + strip.length + pad.length + bits.length;
    const entries = [
      [254, 4, 1, i === preview ? 1 : 0],
      [256, 4, 1, width],
      [257, 4, 1, height],
      [258, 3, 3, directory - bits.length],
      [259, 3, 1, 1],
      [262, 3, 1, 2],
      [273, 4, 1, length],
      [277, 3, 1, 3],
      [278, 4, 1, height],
      [279, 4, 1, strip.length],
    ];
    links.push([link, directory]);
    link = directory + 2 + 12 * entries.length;
    parts.push(strip, pad, bits, new Uint8Array(le16(entries.length)));
    for (const [tag, type, count, value] of entries) {
      parts.push(bytesOf(le16(tag), le16(type), le32(count), le32(value)));
    }
    parts.push(new Uint8Array(4));
    length = link + 4;
    if (loop && i === pages.length - 1) links.push([link, directory]);
  }
  const tiff = bytesOf(...parts);
  for (const [at, to] of links) tiff.set(le32(to), at);
  return tiff;
}

// ---- BMP

/** A BMP without compression, down to its samples. */
export interface Bmp {
  width: number;
  height: number;
  /** 12 OS/2 1.x, 16 to 64 OS/2 2.x, 40, 52, 56, 108 and 124 Windows. */
  header: number;
  bits: number;
  /** What is stored for a pixel: a color number, or a word of `bits` bits. */
  pixels: ArrayLike<number>;
  /** Red, green and blue of each color number. */
  palette?: number[];
  /** BI_BITFIELDS: the masks of red, green, blue and perhaps alpha. */
  masks?: number[];
  /** Rows from the top to the bottom. */
  topDown?: boolean;
  /** What the header says of compression, if not what the masks say. */
  compression?: number;
}

export function encodeBmpOf(bmp: Bmp): Uint8Array {
  const { width, height, header, bits, pixels, palette = [], masks } = bmp;
  const stride = Math.ceil(width * bits / 32) * 4;
  const rows = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const row = (bmp.topDown ? y : height - 1 - y) * stride;
    for (let x = 0; x < width; x++) {
      const value = pixels[y * width + x];
      if (bits >= 8) {
        rows.set(le32(value).slice(0, bits / 8), row + x * bits / 8);
      } else rows[row + (x * bits >> 3)] |= value << 8 - bits - (x * bits & 7);
    }
  }
  const isOld = header === 12;
  const colors: number[] = [];
  for (let i = 0; i < palette.length; i += 3) {
    const [red, green, blue] = palette.slice(i, i + 3);
    colors.push(blue, green, red, ...isOld ? [] : [0]);
  }
  const compression = bmp.compression ?? (masks ? 3 : 0);
  const inHeader = header >= 52 && header !== 64;
  const info = isOld
    ? bytesOf(le16(width), le16(height), le16(1), le16(bits))
    : bytesOf(
      le32(width),
      le32(bmp.topDown ? -height : height),
      le16(1),
      le16(bits),
      le32(compression),
      le32(rows.length),
      new Uint8Array(8),
      le32(palette.length / 3),
      le32(0),
      inHeader ? (masks ?? []).flatMap(le32) : [],
      // The color space of Windows: sRGB.
      header >= 108
        ? [
          ...new Uint8Array(4 * (4 - (masks?.length ?? 0))),
          ...bytesOf("BGRs"),
        ]
        : [],
      new Uint8Array(68),
    );
  const table = bytesOf(
    inHeader ? [] : (masks ?? []).flatMap(le32),
    colors,
  );
  const start = 14 + header + table.length;
  return bytesOf(
    "BM",
    le32(start + rows.length),
    le32(0),
    le32(start),
    le32(header),
    info.subarray(0, header - 4),
    table,
    rows,
  );
}

/** 24 bits, rows from the bottom to the top. */
export function encodeBmp({ width, height, data }: Raster): Uint8Array {
  const pixels = Array.from(
    { length: width * height },
    (_, i) => data[4 * i] << 16 | data[4 * i + 1] << 8 | data[4 * i + 2],
  );
  return encodeBmpOf({ width, height, header: 40, bits: 24, pixels });
}

// ---- WebP

/** A frame of an animation; its picture is that of a still WebP. */
export interface WebpFrame {
  still: Uint8Array;
  width: number;
  height: number;
  /** Even numbers. */
  left: number;
  top: number;
  /** Milliseconds. */
  time: number;
  /** 1: cleared afterwards; 2: not blended. */
  flags: number;
}

const webpChunk = (type: string, data: Uint8Array): Uint8Array =>
  bytesOf(type, le32(data.length), data, new Uint8Array(data.length & 1));

/** The chunks of a WebP, or of the picture in an ANMF. */
export function webpChunks(bytes: Uint8Array, at = 12): [string, Uint8Array][] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const chunks: [string, Uint8Array][] = [];
  while (at < bytes.length) {
    const size = view.getUint32(at + 4, true);
    const type = Buffer.from(bytes.subarray(at, at + 4)).toString("latin1");
    chunks.push([type, bytes.subarray(at + 8, at + 8 + size)]);
    at += 8 + size + (size & 1);
  }
  return chunks;
}

/** A WebP of any chunks. */
export function encodeWebp(chunks: [string, Uint8Array][]): Uint8Array {
  const body = bytesOf(
    "WEBP",
    ...chunks.map(([type, data]) => webpChunk(type, data)),
  );
  return bytesOf("RIFF", le32(body.length), body);
}

/** An animation, with a color profile, EXIF and XMP. */
export function encodeWebpFrames(
  frames: WebpFrame[],
  { width, height }: { width: number; height: number },
): Uint8Array {
  const le24 = (value: number) => le32(value).slice(0, 3);
  const pictureOf = (still: Uint8Array) =>
    webpChunks(still).filter(([type]) => /^(ALPH|VP8[ L])$/.test(type))
      .map(([type, data]) => webpChunk(type, data));
  return encodeWebp([
    [
      "VP8X",
      bytesOf([0x3e, 0, 0, 0], le24(width - 1), le24(height - 1)),
    ],
    ["ICCP", bytesOf("a profile")],
    ["ANIM", bytesOf([1, 2, 3, 4, 5, 0])],
    ...frames.map((frame): [string, Uint8Array] => [
      "ANMF",
      bytesOf(
        le24(frame.left / 2),
        le24(frame.top / 2),
        le24(frame.width - 1),
        le24(frame.height - 1),
        le24(frame.time),
        [frame.flags],
        ...pictureOf(frame.still),
      ),
    ]),
    ["EXIF", bytesOf("II*\0\x08\0\0\0\0\0\0\0\0\0")],
    ["XMP ", bytesOf("<x/>")],
    ["what", bytesOf("?")],
  ]);
}

// ---- AVIF

/** AV1 data, and the `av1C` that describes them. */
export interface Av1 {
  data: Uint8Array;
  configuration: Uint8Array;
}

/** A still AVIF around AV1 data. */
export interface Avif {
  width: number;
  height: number;
  color: Av1;
  alpha?: Av1;
  /** The `colr` box: primaries, transfer, matrix, and whether the range is full. */
  colr?: [primaries: number, transfer: number, matrix: number, isFull: boolean];
  /** Further properties of all items: their types and contents. */
  transforms?: [type: string, content: number[]][];
  /** Whether only the colors have them, as avifenc once wrote it. */
  isAlphaAsItIs?: boolean;
}

const be16 = (value: number): number[] => [value >> 8, value & 255];

function isoBox(type: string, ...parts: (Uint8Array | number[] | string)[]) {
  const content = bytesOf(...parts);
  return bytesOf(be32(8 + content.length), type, content);
}

/** ISO/IEC 23008-12: one item or, with alpha, two; their data are in `idat`. */
export function encodeAvif(avif: Avif): Uint8Array {
  const { width, height, color, alpha, colr, transforms = [] } = avif;
  const full = [0, 0, 0, 0]; // version and flags
  const items = alpha ? [color, alpha] : [color];
  const properties = [
    isoBox("ispe", full, be32(width), be32(height)),
    isoBox("av1C", color.configuration),
    alpha ? isoBox("av1C", alpha.configuration) : isoBox("free"),
    isoBox("auxC", full, "urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"),
    colr
      ? isoBox(
        "colr",
        "nclx",
        ...colr.slice(0, 3).map((value) => be16(Number(value))),
        [colr[3] ? 128 : 0],
      )
      : isoBox("free"),
    ...transforms.map(([type, content]) => isoBox(type, content)),
  ];
  const more = transforms.map((_, i) => 0x86 + i); // they are essential
  const first = [1, 0x82, ...colr ? [5] : [], ...more];
  const second = [1, 0x83, 4, ...avif.isAlphaAsItIs ? [] : more];
  const ofItems = (alpha ? [first, second] : [first]).map((indexes, i) =>
    bytesOf(be16(i + 1), [indexes.length, ...indexes])
  );
  let at = 0;
  const places = items.map(({ data }, i) =>
    bytesOf(
      [...be16(i + 1), ...be16(1), ...be16(0), ...be16(1)],
      be32((at += data.length) - data.length),
      be32(data.length),
    )
  );
  const names = items.map((_, i) =>
    isoBox("infe", [2, 0, 0, 0], be16(i + 1), [0, 0], "av01\0")
  );
  return bytesOf(
    isoBox("ftyp", "avif", [0, 0, 0, 0], "mif1avifmiaf"),
    isoBox(
      "meta",
      full,
      isoBox("hdlr", full, [0, 0, 0, 0], "pict", new Uint8Array(13)),
      isoBox("pitm", full, be16(1)),
      isoBox("iloc", [1, 0, 0, 0, 0x44, 0], be16(items.length), ...places),
      isoBox("iinf", full, be16(items.length), ...names),
      alpha
        ? isoBox("iref", full, isoBox("auxl", [0, 2, 0, 1, 0, 1]))
        : isoBox("free"),
      isoBox(
        "iprp",
        isoBox("ipco", ...properties),
        isoBox("ipma", full, be32(items.length), ...ofItems),
      ),
      isoBox("idat", ...items.map(({ data }) => data)),
    ),
  );
}

/** The AV1 data of an AVIF as the codec writes one without alpha. */
export function av1Of(avif: Uint8Array): Av1 {
  const file = Buffer.from(avif);
  const contentOf = (type: string) => {
    const at = file.indexOf(type, 0, "latin1");
    return avif.slice(at + 4, at - 4 + file.readUInt32BE(at - 4));
  };
  return { data: contentOf("mdat"), configuration: contentOf("av1C") };
}

/** The same with another range in the header, which is a reduced one. */
export function withRange({ data, configuration }: Av1, isFull: boolean): Av1 {
  const copy = data.slice(), start = 8 * (Buffer.from(data).indexOf(10) + 2);
  let at = start + 10;
  const read = (count: number) => {
    let value = 0;
    for (; count > 0; count--, at++) {
      value = 2 * value + (data[at >> 3] >> 7 - (at & 7) & 1);
    }
    return value;
  };
  read(read(4) + read(4) + 2); // the size
  at += 7; // tools and depth
  read(1); // monochrome
  if (read(1)) at += 24; // a description
  copy[at >> 3] &= ~(128 >> (at & 7));
  if (isFull) copy[at >> 3] |= 128 >> (at & 7);
  return { data: copy, configuration };
}

// ---- EXIF

/** A JPEG with an EXIF segment that has its orientation. */
export function orient(jpeg: Uint8Array, orientation: number): Uint8Array {
  const exif = bytesOf(
    "Exif\0\0II*\0",
    le32(8),
    le16(1),
    [...le16(0x0112), ...le16(3), ...le32(1), ...le32(orientation)],
    le32(0),
  );
  const length = 2 + exif.length;
  const marker = [0xff, 0xe1, length >> 8, length & 255];
  return bytesOf(jpeg.subarray(0, 2), marker, exif, jpeg.subarray(2));
}

/** The orientation in a JPEG's EXIF segment. */
export function orientationOf(jpeg: Uint8Array): number | undefined {
  const start = Buffer.from(jpeg).indexOf("Exif\0\0", 0, "latin1") + 6;
  if (start < 6) return undefined;
  const view = new DataView(jpeg.buffer, jpeg.byteOffset + start);
  const little = view.getUint8(0) === 0x49;
  const directory = view.getUint32(4, little);
  for (let i = 0; i < view.getUint16(directory, little); i++) {
    const entry = directory + 2 + 12 * i;
    if (view.getUint16(entry, little) === 0x0112) {
      return view.getUint16(entry + 8, little);
    }
  }
}

// ---- Pillow

/** A Python that has Pillow, if there is one. */
export async function findPillow(): Promise<string | undefined> {
  for (const python of ["python3", "/usr/bin/python3"]) {
    try {
      const args = ["-c", "import PIL.Image"];
      const command = new Deno.Command(python, { args, stderr: "null" });
      if ((await command.output()).success) return python;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}
