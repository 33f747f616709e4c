/** TIFF: every kind means what TIFF 6.0 says, and keeps what is not color. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import { Buffer } from "node:buffer";
import { randomFrom } from "../../workers/fixtures.ts";
import { grayscale } from "../../workers/grayscale.ts";
import { useCodec } from "../../workers/grayscale/codec.ts";
import { withFolder } from "../tasks/folders.ts";
import { findPillow, luma } from "./images.ts";
import {
  decodeTiff,
  encodeTiffPage,
  encodeTiffs,
  type Tiff,
  type TiffValue,
} from "./tiffs.ts";
import { encodeJpeg, newPicture } from "./jpegs.ts";

const WIDTH = 19, HEIGHT = 7;
const FLOAT = 3, SIGNED = 2;

type Kind = Pick<
  Tiff,
  "photometric" | "bits" | "channels" | "fields" | "format" | "subsampling"
>;

const clamped = (value: number, most = 255): number =>
  Math.max(0, Math.min(most, Math.round(value)));

/** How many samples are color. */
const colorsOf = ({ photometric }: Kind): number =>
  ({ 2: 3, 5: 4, 6: 3, 8: 3, 9: 3 })[photometric] ?? 1;

/** The gray and the extra samples of each pixel, as TIFF 6.0 has them. */
function meaningOf(tiff: Tiff): number[] {
  const { channels, photometric, bits, samples, format = 1 } = tiff;
  const depth = bits <= 8 ? 8 : bits <= 16 ? 16 : 32, top = 2 ** depth - 1;
  const extras = (tiff.fields?.[338] ?? []) as number[];
  const colors = colorsOf(tiff), palette = tiff.fields?.[320] as number[];
  const scaled = (value: number) =>
    format > 1 ? value : Math.round(value * top / (2 ** bits - 1));
  const weigh = (r: number, g: number, b: number) => {
    const sum = (19595 * r + 38470 * g + 7471 * b) / 65536;
    return format === FLOAT ? sum : Math.floor(sum + 0.5);
  };
  const grayOf = (raw: number[], v: number[]): number => {
    if (photometric === 3) {
      const size = 1 << bits,
        [r, g, b] = [0, 1, 2].map((k) =>
          palette[k * size + raw[0]] >> (bits > 8 ? 0 : 8)
        );
      return luma(r, g, b);
    }
    if (photometric === 5) {
      const light = (i: number) => (top - v[i]) * (top - v[3]) / top;
      return weigh(...[0, 1, 2].map((i) => Math.round(light(i))) as [
        number,
        number,
        number,
      ]);
    }
    if (photometric === 6) {
      const [y, blue, red] = [v[0], v[1] - 128, v[2] - 128];
      return luma(
        clamped(y + 1.402 * red),
        clamped(y - 0.344136 * blue - 0.714136 * red),
        clamped(y + 1.772 * blue),
      );
    }
    return weigh(v[0], v[1], v[2]);
  };
  const out: number[] = [], pixels = tiff.width * tiff.height;
  for (let i = 0; i < pixels; i++) {
    const raw = Array.from(
      { length: channels },
      (_, k) => samples[i * channels + k],
    );
    const all = raw.map((value) => scaled(value));
    const alpha = extras[0] === 1 && format !== FLOAT ? all[colors] : undefined;
    const inks = all.slice(0, colors).map((value) =>
      alpha === undefined ? value : alpha && clamped(value * top / alpha, top)
    );
    out.push(grayOf(raw, inks), ...all.slice(colors));
  }
  return out;
}

/** How the same samples may lie in a file. */
const LAYOUTS: Record<string, Partial<Tiff>> = {
  "one strip": {},
  "big-endian": { bigEndian: true },
  "BigTIFF": { big: true, rows: 5 },
  "tiles": { tile: 16 },
  "planes": { planar: true },
  "planes in tiles": { planar: true, tile: 16, bigEndian: true },
  "lowest bit first": { reversed: true },
  "LZW": { compression: 5, rows: 3 },
  "LZW of differences": { compression: 5, predictor: 2 },
  "deflated differences": { compression: 8, predictor: 2, tile: 16 },
  "big-endian differences": { compression: 8, predictor: 2, bigEndian: true },
  "planes of differences": { compression: 8, predictor: 2, planar: true },
  "old deflate": { compression: 32946, rows: 4 },
  "PackBits": { compression: 32773, reversed: true },
  "Zstandard": { compression: 50000, rows: 5, big: true, bigEndian: true },
  "differences of floats": { compression: 8, predictor: 3, rows: 5 },
  "the same, big-endian": { compression: 5, predictor: 3, bigEndian: true },
  "the same in planes": { compression: 50000, predictor: 3, planar: true },
};

/** Samples that fill the range; with premultiplied alpha, none is above it. */
function samplesFor(kind: Kind): number[] {
  const { bits, channels, format = 1 } = kind, top = 2 ** bits - 1;
  const isPremultiplied = (kind.fields?.[338] as number[])?.[0] === 1;
  const samples: number[] = [], step = Math.max(1, Math.floor(top / 250));
  for (let i = 0; i < WIDTH * HEIGHT; i++) {
    const pixel = Array.from({ length: channels }, (_, k) => {
      const share = (i * (2 * k + 1) + Math.floor(i / WIDTH) * 3 + 5 * k) *
        step;
      const value = share % (top + 1);
      if (format === FLOAT) return Math.fround(value % 997) / 1024 - 0.25;
      return format === SIGNED ? value - 2 ** (bits - 1) : value;
    });
    const most = isPremultiplied ? pixel[colorsOf(kind)] : Infinity;
    samples.push(...pixel.map((value) => Math.min(value, most)));
  }
  return samples;
}

const KINDS: Kind[] = [];
for (const bits of [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 24, 32]) {
  KINDS.push({ photometric: 2, bits, channels: 3 });
}
for (let bits = 1; bits <= 8; bits++) {
  const palette = Array.from({ length: 3 << bits }, (_, i) => i * 7919 % 256);
  const fields = { 320: palette.map((value) => 257 * value) };
  KINDS.push({ photometric: 3, bits, channels: 1, fields });
}
for (const bits of [2, 4, 8, 16]) {
  for (const extras of [[0], [1], [2], [0, 2], [0, 0, 0]]) {
    const fields = { 338: extras }, channels = 3 + extras.length;
    KINDS.push({ photometric: 2, bits, channels, fields });
  }
}
for (const bits of [8, 16]) {
  KINDS.push({ photometric: 5, bits, channels: 4 });
  KINDS.push({ photometric: 5, bits, channels: 5, fields: { 338: [2] } });
}
KINDS.push({ photometric: 6, bits: 8, channels: 3, fields: { 530: [1, 1] } });
for (const bits of [8, 16, 32]) {
  KINDS.push({ photometric: 2, bits, channels: 3, format: SIGNED });
}
for (const bits of [16, 32, 64]) {
  const fields = { 338: [2] };
  KINDS.push({ photometric: 2, bits, channels: 3, format: FLOAT });
  KINDS.push({ photometric: 2, bits, channels: 4, format: FLOAT, fields });
}

Deno.test("a TIFF of any kind means what TIFF 6.0 says, in its layout", async () => {
  let count = 0;
  for (const kind of KINDS) {
    const samples = samplesFor(kind);
    for (const [name, layout] of Object.entries(LAYOUTS)) {
      const { bits, format = 1, photometric, fields = {} } = kind;
      if (layout.predictor === 3 && format !== FLOAT) continue;
      if (layout.predictor && ![8, 16, 32, 64].includes(bits)) continue;
      if (layout.predictor && photometric === 6) continue;
      const tiff = {
        ...kind,
        ...layout,
        width: WIDTH,
        height: HEIGHT,
        samples,
      };
      const clue = `${photometric}, ${bits} bits of format ${format}, ` +
        `extras ${fields[338]}, ${name}`;
      const bytes = encodeTiffPage(tiff);
      const [before] = decodeTiff(bytes),
        [after] = decodeTiff(
          await grayscale(bytes),
        );
      const { compression, predictor, isTiled } = before;
      const kept = { compression, predictor, isTiled };
      const depth = format === FLOAT
        ? bits
        : bits <= 8
        ? 8
        : bits <= 16
        ? 16
        : 32;
      assertEquals(
        {
          compression: after.compression,
          predictor: after.predictor,
          isTiled: after.isTiled,
        },
        kept,
        clue,
      );
      assertEquals([after.photometric, after.bits, after.format], [
        ...[1, depth, format],
      ], clue);
      const wanted = meaningOf(tiff);
      assertEquals(after.samples.length, wanted.length, clue);
      const near = format === FLOAT
        ? (bits === 16 ? 1e-3 : 1e-6)
        : photometric === 2 || photometric === 3
        ? 0
        : 1;
      const far = after.samples.findIndex((value, i) =>
        !(Math.abs(value - wanted[i]) <= near)
      );
      assertEquals(far, -1, `${clue}: ${after.samples[far]}, ${wanted[far]}`);
      count++;
    }
  }
  assert(count > 500);
});

Deno.test("a TIFF of halved YCbCr: pixels of a unit share their colors", async () => {
  for (const across of [1, 2, 4]) {
    for (const down of [1, 2, 4]) {
      const kind: Kind = { photometric: 6, bits: 8, channels: 3 };
      const samples = samplesFor(kind);
      for (let i = 0; i < WIDTH * HEIGHT; i++) {
        const x = i % WIDTH, y = Math.floor(i / WIDTH);
        const first = (y - y % down) * WIDTH + x - x % across;
        for (const k of [1, 2]) samples[3 * i + k] = samples[3 * first + k];
      }
      for (const layout of [{}, { rows: 4 }, { tile: 16, compression: 5 }]) {
        const tiff = {
          ...{ ...kind, ...layout, width: WIDTH, height: HEIGHT, samples },
          subsampling: [across, down] as [number, number],
        };
        const [after] = decodeTiff(await grayscale(encodeTiffPage(tiff)));
        const wanted = meaningOf(tiff);
        const far = after.samples.findIndex((value, i) =>
          !(Math.abs(value - wanted[i]) <= 1)
        );
        assertEquals(far, -1, `${across}x${down}, ${Object.keys(layout)}`);
      }
    }
  }
});

Deno.test("a TIFF of CIE Lab: known colors, of 8 and 16 bits, and as ICC has it", async () => {
  // L*, a*, b* of D50, and the luma of the sRGB color (after Lindbloom).
  const colors: [number, number, number, number][] = [
    [100, 0, 0, 255],
    [0, 0, 0, 0],
    [53.585, 0, 0, 128],
    [54.29, 80.81, 69.89, 76], // red
    [87.82, -79.29, 80.99, 150], // green
    [29.57, 68.3, -112.03, 29], // blue
    [97.61, -15.75, 93.39, 226], // yellow
  ];
  for (const photometric of [8, 9]) {
    for (const bits of [8, 16]) {
      const unit = bits === 8 ? 1 : 256, isIcc = photometric === 9;
      const white = bits === 8 ? 255 : isIcc ? 0xff00 : 65535;
      const samples = colors.flatMap(([l, a, b]) => [
        Math.round(l / 100 * white),
        ...[a, b].map((v) => {
          const value = Math.round(v * unit) + (isIcc ? 128 * unit : 0);
          return (value + 256 * unit) % (256 * unit);
        }),
      ]);
      const tiff = { photometric, bits, channels: 3, samples };
      const size = { width: colors.length, height: 1 };
      const out = await grayscale(encodeTiffPage({ ...tiff, ...size }));
      const [page] = decodeTiff(out), top = 2 ** bits - 1;
      assertEquals(page.bits, bits);
      for (const [i, [, , , gray]] of colors.entries()) {
        const off = page.samples[i] * 255 / top - gray;
        assert(
          Math.abs(off) < (bits === 8 ? 4 : 2),
          `${photometric}, ${bits}, ${i}: ${off}`,
        );
      }
    }
  }
});

const GRAY_KINDS: Kind[] = [0, 1].flatMap((photometric) => [
  ...[1, 4, 8, 12, 16, 32].map((bits) => ({ photometric, bits, channels: 1 })),
  ...[16, 32, 64].map((bits) => ({
    ...{ photometric, bits, channels: 1, format: FLOAT },
  })),
  { photometric, bits: 16, channels: 2, fields: { 338: [1] } },
  { photometric, bits: 64, channels: 1, format: 6 },
]);

Deno.test("a TIFF that is gray comes as it is", async () => {
  for (const kind of GRAY_KINDS) {
    const samples = samplesFor(
      kind.format === 6 ? { ...kind, bits: 32 } : kind,
    );
    for (const layout of [{}, { bigEndian: true, rows: 4, compression: 5 }]) {
      const size = { width: WIDTH, height: HEIGHT };
      const page = { ...kind, ...layout, ...size, samples };
      const bytes = encodeTiffs([page, page]);
      assertEquals(await grayscale(bytes), bytes);
    }
  }
});

/** LZW as files of the 1980s have it: the lowest bit first, longer codes later. */
function oldLzw(data: number[]): Uint8Array {
  const bits: number[] = [],
    put = (code: number, width: number) => {
      for (let k = 0; k < width; k++) bits.push(code >> k & 1);
    };
  let table = new Map<string, number>(), width = 9, next = 258, string = "";
  const codeOf = (string: string) =>
    string.includes(",") ? table.get(string) : Number(string);
  put(256, 9);
  for (const byte of data) {
    const longer = string === "" ? `${byte}` : `${string},${byte}`;
    if (codeOf(longer) !== undefined) {
      string = longer;
      continue;
    }
    put(codeOf(string)!, width);
    table.set(longer, next++);
    string = `${byte}`;
    if (next > 1 << width) width++;
    if (next < 4000) continue;
    put(codeOf(string)!, width);
    put(256, width);
    [table, width, next, string] = [new Map(), 9, 258, ""];
  }
  if (string) put(codeOf(string)!, width);
  put(257, next + 1 > 1 << width ? width + 1 : width);
  const out = new Uint8Array(Math.ceil(bits.length / 8));
  for (const [i, bit] of bits.entries()) out[i >> 3] |= bit << (i & 7);
  return out;
}

Deno.test("a TIFF of old LZW, and one whose LZW has codes of every length", async () => {
  const size = { width: 150, height: 120 };
  const samples = Array.from(
    { length: 3 * 150 * 120 },
    (_, i) => Math.floor(i * i / 128) % 40 + (i % 3) * 20,
  );
  const page: Tiff = {
    ...{ ...size, photometric: 2, bits: 8, channels: 3, samples },
    compression: 5,
  };
  const old = encodeTiffPage({ ...page, blocks: [oldLzw(samples)] });
  const plain = encodeTiffPage({ ...page, compression: 1 });
  const [after] = decodeTiff(await grayscale(old));
  const [wanted] = decodeTiff(await grayscale(plain));
  assertEquals(after.samples, wanted.samples);
  // The result has LZW of this program, which is read by that of the test.
  assertEquals(after.compression, 5);
  assert(after.blocks[0].length > 4096 * 3 / 2, "the table was cleared");
});

// ---- Fields

const text = (value: string): TiffValue => ({
  type: 2,
  values: [...Buffer.from(`${value}\0`, "latin1")],
});

const PLAIN: Tiff = {
  ...{ width: WIDTH, height: HEIGHT, photometric: 2, bits: 8, channels: 3 },
  samples: samplesFor({ photometric: 2, bits: 8, channels: 3 }),
};

/** What TIFFs of cameras, scanners and maps say beside their pixels. */
const KEPT: Tiff["fields"] = {
  ...{ 254: { type: 4, values: [0] }, 269: text("page.tif") },
  ...{ 270: text("a description"), 271: text("maker"), 272: text("model") },
  ...{ 274: [6], 282: { type: 5, values: [300] }, 285: text("first") },
  ...{ 283: { type: 5, values: [200] }, 296: [3], 297: [0, 2] },
  ...{ 305: text("software"), 306: text("2020:01:02 03:04:05") },
  ...{ 315: text("artist"), 316: text("host"), 700: text("<x:xmpmeta/>") },
  33432: text("copyright"),
  33550: { type: 12, values: [0.5, 0.5, 0] },
  33723: { type: 7, values: [0x1c, 2, 0] },
  33922: { type: 12, values: [0, 0, 0, 440720, 3751320, 0] },
  34377: { type: 1, values: [0x38, 0x42, 0x49, 0x4d, 4, 4, 0, 0] },
  34665: {
    ...{ type: 4, values: [] },
    children: [{
      33434: { type: 5, values: [0.01] },
      36867: text("2020:01:01 00:00:00"),
      37500: { type: 7, values: [1, 2, 3, 4, 5, 6, 7] },
      40965: { type: 4, values: [], children: [{ 1: text("R98") }] },
      41991: [1],
    }],
  },
  34735: [1, 1, 0, 1, 1024, 0, 1, 1],
  34736: { type: 12, values: [6378137.5] },
  34737: text("WGS 84|"),
  34853: {
    ...{ type: 4, values: [] },
    children: [{ 1: text("N"), 2: { type: 5, values: [48, 51, 29.5] } }],
  },
  42112: text("<GDALMetadata/>"),
  42113: text("-9999"),
  65000: { type: 11, values: [1.5, -2.5, 3] },
};
const DROPPED: Tiff["fields"] = {
  ...{ 280: [0], 281: [255], 301: [1, 2, 3] },
  318: { type: 5, values: [0.3, 0.3] },
  319: { type: 5, values: [0.6, 0.3, 0.3, 0.6, 0.1, 0.1] },
  34675: { type: 7, values: [0, 0, 2, 0, 1, 2, 3, 4] },
  37724: { type: 7, values: [1, 2, 3, 4, 5] },
};

Deno.test("a TIFF keeps every field that says nothing of colors", async () => {
  for (const layout of [{}, { bigEndian: true }, { big: true }]) {
    const page = { ...PLAIN, ...layout, fields: { ...KEPT, ...DROPPED } };
    const bytes = encodeTiffs([page, { ...page, rows: 5 }]);
    const before = decodeTiff(bytes),
      after = decodeTiff(await grayscale(bytes));
    assertEquals(after.length, 2);
    for (const [i, { fields, children }] of before.entries()) {
      for (const tag of Object.keys(KEPT!).map(Number)) {
        if (children[tag]) continue; // an offset
        assertEquals(after[i].fields[tag], fields[tag], `${tag}`);
      }
      const inner = after[i].children;
      assertEquals(Object.keys(inner), ["34665", "34853", "40965"].sort());
      delete children[34665][0][40965];
      delete inner[34665][0][40965];
      assertEquals(inner, children);
      for (const tag of Object.keys(DROPPED!).map(Number)) {
        assertEquals(after[i].fields[tag], undefined, `${tag}`);
      }
    }
  }
});

Deno.test("a TIFF of several pages: each is gray in its own way, thumbnails as well", async () => {
  const deep = { ...PLAIN, bits: 16, tile: 16, compression: 5, predictor: 2 };
  const gray = { ...PLAIN, photometric: 0, bits: 4, channels: 1, rows: 3 };
  const float = { ...PLAIN, bits: 32, format: FLOAT, fields: { 254: [1] } };
  const tiffs: Tiff[] = [PLAIN, deep, gray, float].map((tiff) => ({
    ...tiff,
    samples: samplesFor(tiff),
  }));
  const pages = decodeTiff(await grayscale(encodeTiffs(tiffs)));
  assertEquals(pages.map(({ bits }) => bits), [8, 16, 4, 32]);
  assertEquals(pages.map(({ photometric }) => photometric), [1, 1, 0, 1]);
  for (const [i, tiff] of tiffs.entries()) {
    const alone = encodeTiffPage(tiff);
    const [page] = decodeTiff(await grayscale(alone));
    assertEquals(pages[i].samples, page.samples, `page ${i}`);
  }
  assertEquals(pages[3].fields[254], [1]);
});

Deno.test("a TIFF whose pages are in fields of a page (SubIFDs)", async () => {
  const bytes = encodeTiffs([PLAIN, { ...PLAIN, width: 7, height: 7 }]);
  // The second page becomes one that the first one points to.
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const first = view.getUint32(4, true), count = view.getUint16(first, true);
  const link = first + 2 + 12 * count, second = view.getUint32(link, true);
  view.setUint32(link, 0, true);
  const planes = first + 2 + 12 * 10; // field 284, and 317 behind it
  assertEquals(view.getUint16(planes, true), 284);
  const at = planes + 12;
  view.setUint16(at, 330, true);
  view.setUint16(at + 2, 13, true);
  view.setUint32(at + 8, second, true);
  const [page] = decodeTiff(await grayscale(bytes));
  assertEquals(page.children[330].length, 1);
  const [child] = page.children[330];
  assertEquals([child[256], child[262], child[277]], [[7], [1], [1]]);
});

Deno.test("a TIFF whose previews follow one another, and a field names only the first", async () => {
  const sizes = [9, 8, 7];
  const bytes = encodeTiffs(sizes.map((width) => {
    const tiff = { ...PLAIN, width };
    // The field is in the place of another one.
    return { ...tiff, samples: samplesFor(tiff), fields: { 330: [0] } };
  }));
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const first = view.getUint32(4, true), count = view.getUint16(first, true);
  const link = first + 2 + 12 * count, second = view.getUint32(link, true);
  view.setUint32(link, 0, true);
  const third = view.getUint32(second + 2 + 12 * count, true);
  for (const at of [first, second, third]) {
    for (let entry = at + 2; entry < at + 2 + 12 * count; entry += 12) {
      if (view.getUint16(entry, true) !== 330) continue;
      view.setUint16(entry, at === first ? 330 : 269, true);
      if (at === first) view.setUint16(entry + 2, 13, true);
      if (at === first) view.setUint32(entry + 8, second, true);
    }
  }
  // Those behind it are also allowed to lead back.
  for (const last of [0, second, first]) {
    view.setUint32(third + 2 + 12 * count, last, true);
    const [page] = decodeTiff(await grayscale(bytes));
    const widths = page.children[330].map((child) => child[256]);
    assertEquals([[page.width], ...widths], [[9], [8], [7]]);
  }
});

// ---- What writers leave out or have wrong, and libtiff reads all the same

Deno.test("a TIFF whose tiles are in the fields of strips, as before TIFF 6.0", async () => {
  const tiff = { ...PLAIN, tile: 16, samples: samplesFor(PLAIN) };
  const bytes = encodeTiffPage(tiff),
    [expected] = decodeTiff(
      await grayscale(bytes),
    );
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const first = view.getUint32(4, true);
  const entries = Array.from(
    { length: view.getUint16(first, true) },
    (_, i) => first + 2 + 12 * i,
  );
  for (const at of entries) {
    const tag = view.getUint16(at, true);
    if (tag === 324) view.setUint16(at, 273, true);
    if (tag === 325) view.setUint16(at, 279, true);
  }
  const [page] = decodeTiff(await grayscale(bytes));
  assertEquals(page.samples, expected.samples);
});

Deno.test("a TIFF that is not compressed, with more bytes in a strip than the file has", async () => {
  const tiff = { ...PLAIN, samples: samplesFor(PLAIN) };
  const wrong: TiffValue = { type: 4, values: [35_711_440] };
  const [expected] = decodeTiff(await grayscale(encodeTiffPage(tiff)));
  const bytes = encodeTiffPage({ ...tiff, fields: { 279: wrong } });
  const [page] = decodeTiff(await grayscale(bytes));
  assertEquals(page.samples, expected.samples);
  // What is not there is missing all the same.
  const late: TiffValue = { type: 4, values: [bytes.length - 100] };
  await assertRejects(
    () =>
      grayscale(encodeTiffPage({ ...tiff, fields: { 273: late, 279: wrong } })),
    Error,
    "truncated TIFF: ",
  );
});

Deno.test("a TIFF with a preview without a size: it is passed over, with a line", async () => {
  const preview = { 513: { type: 4, values: [8] }, 514: [3] };
  const fields = { 330: { type: 4, values: [], children: [preview] } };
  const tiff = { ...PLAIN, samples: samplesFor(PLAIN) };
  const [expected] = decodeTiff(await grayscale(encodeTiffPage(tiff)));
  const warnings: string[] = [];
  const gray = await grayscale(encodeTiffPage({ ...tiff, fields }), {
    onWarning: (cause) => warnings.push(cause),
  });
  const [page] = decodeTiff(gray);
  assertEquals(page.samples, expected.samples);
  assertEquals(warnings, ["a preview without a size is passed over"]);
});

Deno.test("an old-style JPEG in a TIFF, also where the number of channels is left out", async () => {
  const { MagickFormat, MagickImage, MagickReadSettings } = await useCodec();
  const image = MagickImage.create(), width = 32, height = 16;
  const levels = Uint8Array.from(
    { length: width * height * 3 },
    (_, i) => i % 3 ? 90 : 150,
  );
  const settings = { format: MagickFormat.Rgb, width, height, depth: 8 };
  image.read(levels, new MagickReadSettings(settings));
  image.quality = 95;
  const jpeg = image.write(MagickFormat.Jpeg, (bytes) => bytes.slice());
  image.dispose();
  const tiff = encodeTiffPage({
    ...{ width, height, photometric: 6, bits: 8, channels: 3, samples: [] },
    ...{ compression: 6, blocks: [jpeg], subsampling: [2, 2] },
  });
  const view = new DataView(tiff.buffer, tiff.byteOffset);
  const first = view.getUint32(4, true);
  const entries = Array.from(
    { length: view.getUint16(first, true) },
    (_, i) => first + 2 + 12 * i,
  );
  const entry = (tag: number) =>
    entries.find((at) => view.getUint16(at, true) === tag)!;
  // JPEGInterchangeFormat and its length, in the place of two fields that may lack.
  for (const [tag, as, value] of [[339, 514, jpeg.length], [317, 513, 8]]) {
    view.setUint16(entry(tag), as, true);
    view.setUint16(entry(as) + 2, 4, true);
    view.setUint32(entry(as) + 4, 1, true);
    view.setUint32(entry(as) + 8, value, true);
  }
  for (const isThere of [true, false]) {
    if (!isThere) view.setUint16(entry(277), 269, true); // DocumentName
    const [page] = decodeTiff(await grayscale(tiff));
    assertEquals([page.compression, page.channels], [7, 1]);
    assertEquals([page.width, page.height], [width, height]);
  }
});

// ---- What the codec reads

/** Has the codec encode a picture of some colors. */
async function byCodec(
  compression: "JPEG" | "Group4" | "LZMA" | "WebP",
  channels: number,
): Promise<Uint8Array> {
  const { CompressionMethod, MagickFormat, MagickImage, MagickReadSettings } =
    await useCodec();
  const image = MagickImage.create(), width = 40, height = 30;
  try {
    const samples = Uint8Array.from(
      { length: width * height * channels },
      (_, i) => (i * 7 + Math.floor(i / width)) % 256,
    );
    const format = channels === 3 ? MagickFormat.Rgb : MagickFormat.Gray;
    const settings = { format, width, height, depth: 8 };
    image.read(samples, new MagickReadSettings(settings));
    if (compression === "Group4") image.threshold(0.5 as never);
    image.settings.compression = CompressionMethod[compression];
    image.quality = 90;
    return image.write(MagickFormat.Tiff, (bytes) => bytes.slice());
  } finally {
    image.dispose();
  }
}

Deno.test("a TIFF with JPEG inside keeps it, in its strips", async () => {
  const bytes = await byCodec("JPEG", 3), [before] = decodeTiff(bytes);
  const [after] = decodeTiff(await grayscale(bytes));
  assertEquals(before.compression, 7);
  assertEquals([after.compression, after.bits, after.channels], [7, 8, 1]);
  if (before.photometric === 6) {
    assertEquals(after.blocks.length, before.blocks.length);
  }
  const gray = await byCodec("JPEG", 1);
  assertEquals(await grayscale(gray), gray);
});

Deno.test("a TIFF with JPEGs of alpha or inks inside has the gray of their samples", async () => {
  const width = 32, height = 16, random = randomFrom(8);
  const kinds: [photometric: number, channels: number, extras: number[]][] = [
    ...[[2, 4, [2]], [2, 4, [1]], [5, 4, []], [1, 2, [2]], [0, 2, [0]]],
    ...[[6, 4, [2]], [2, 3, []]],
  ] as typeof kinds;
  for (const [photometric, channels, extras] of kinds) {
    for (const planar of [false, true]) {
      if (!planar && channels === 3) continue;
      const clue = `${photometric}, ${channels}, ${extras}, planar ${planar}`;
      // Each block of a JPEG has one level.
      const levels = Array.from(
        { length: channels * 8 },
        () => Math.floor(random() * 200) - 100,
      );
      const levelOf = (x: number, y: number, channel: number) =>
        levels[channel * 8 + (x >> 3) + 4 * (y >> 3)];
      const samples = Array.from(
        { length: width * height * channels },
        (_, i) => {
          const pixel = Math.floor(i / channels);
          const [x, y] = [pixel % width, Math.floor(pixel / width)];
          return 128 + levelOf(x, y, i % channels);
        },
      );
      const jpegOf = (left: number, all: number[]) => {
        const picture = newPicture(16, 16, all.map(() => [1, 1]));
        for (const [k, { blocks }] of picture.components.entries()) {
          for (const [i, block] of blocks.entries()) {
            const level = levelOf(left + i % 2 * 8, (i >> 1) * 8, all[k]);
            block[0] = 8 * level / (k ? 2 : 1); // the steps of its two tables
          }
        }
        return encodeJpeg(picture);
      };
      const all = Array.from({ length: channels }, (_, k) => k);
      const blocks = (planar ? all.map((k) => [k]) : [all])
        .flatMap((some) => [0, 16].map((left) => jpegOf(left, some)));
      const fields: Tiff["fields"] = extras.length ? { 338: extras } : {};
      const size = { width, height, bits: 8 };
      const tiff = { ...size, photometric, channels, fields, planar, tile: 16 };
      const bytes = encodeTiffPage({
        ...{ ...tiff, samples: [], compression: 7, blocks },
      });
      const out = await grayscale(bytes), [after] = decodeTiff(out);
      if (photometric < 2) {
        assertEquals(out, bytes, clue); // gray is checked, and stays
        continue;
      }
      // Of YCbCr, Y is the gray.
      const isYcc = photometric === 6;
      const plain = encodeTiffPage({
        ...{ ...tiff, samples, planar: false },
        ...isYcc && {
          ...{ photometric: 1, channels: 2 },
          samples: samples.filter((_, i) => i % 4 === 0 || i % 4 === 3),
        },
      });
      const [wanted] = decodeTiff(await grayscale(plain));
      assertEquals(after.samples, wanted.samples, clue);
      assertEquals(after.extras, wanted.extras, clue);
      assertEquals(after.photometric, wanted.photometric, clue);
      assert(after.isTiled, clue);
      const cut = bytes.slice();
      cut[cut.length - 1 - blocks.at(-1)!.length] ^= 0xff; // in the block before
      await grayscale(cut).catch(({ message }) => {
        assert(/^[^\n]{8,200}$/.test(message), message);
      });
    }
  }
});

// ---- Refusals

async function refusal(bytes: Uint8Array, clue: string): Promise<string> {
  const error = await assertRejects(
    () => grayscale(bytes, { maxPixels: 1e6 }),
    Error,
    undefined,
    clue,
  );
  assert(/^[^\n\r\\@`]{8,200}$/.test(error.message), error.message);
  return error.message;
}

Deno.test("a TIFF that would be misread is refused by its name", async () => {
  const gray: Tiff = { ...PLAIN, photometric: 1, channels: 1 };
  const rgb = PLAIN;
  const cases: [Tiff, string][] = [
    [{ ...rgb, photometric: 10 }, "photometric interpretation 10"],
    [
      { ...gray, photometric: 32803 },
      "camera raw (photometric interpretation 32803)",
    ],
    [{ ...rgb, fields: { 339: [6, 6, 6] } }, "complex samples"],
    [{ ...rgb, fields: { 258: [8, 8, 4] } }, "channels of different depths"],
    [{ ...rgb, fields: { 339: [1, 2, 1] } }, "channels of different formats"],
    [
      { ...rgb, photometric: 5, channels: 4, fields: { 332: [2] } },
      "inks other than CMYK",
    ],
    [
      { ...rgb, photometric: 5, channels: 5, fields: { 338: [1] } },
      "premultiplied alpha with other colors than gray and RGB",
    ],
    [{ ...rgb, channels: 2 }, "2 samples of a pixel"],
    [{ ...rgb, predictor: 4 }, "predictor 4"],
    [{ ...rgb, predictor: 3 }, "predictor 3"],
    [{ ...rgb, bits: 4, predictor: 2 }, "differences of 4 bits"],
    [{ ...rgb, photometric: 6, bits: 16 }, "colors of 16 bits"],
    [{ ...rgb, fields: { 259: [34887] } }, "LERC"],
    [{ ...rgb, fields: { 259: [33003] } }, "JPEG 2000"],
    [{ ...rgb, fields: { 259: [33005] } }, "JPEG 2000"],
    [{ ...rgb, fields: { 259: [34712] } }, "JPEG 2000"],
    [{ ...rgb, fields: { 259: [34661] } }, "JBIG"],
    [{ ...rgb, fields: { 259: [99] } }, "compression 99"],
    [
      { ...rgb, bits: 16, fields: { 259: [34925] } },
      "LZMA",
    ],
  ];
  for (const [kind, cause] of cases) {
    const bytes = encodeTiffPage({ ...kind, samples: samplesFor(kind) });
    assertEquals(await refusal(bytes, cause), `unsupported TIFF: ${cause}`);
  }
});

Deno.test("Pillow reads the same gray from a TIFF before and after", async () => {
  const python = await findPillow();
  if (!python) return console.warn("SKIPPED: no Python with Pillow is here");
  await withFolder(async (folder) => {
    const fields = {
      320: Array.from({ length: 768 }, (_, i) => i * 7919 % 65536),
    };
    const kinds: Kind[] = [
      { photometric: 2, bits: 8, channels: 3 },
      { photometric: 2, bits: 8, channels: 4, fields: { 338: [2] } },
      { photometric: 3, bits: 8, channels: 1, fields },
      { photometric: 5, bits: 8, channels: 4 },
    ];
    const names: string[] = [];
    for (const kind of kinds) {
      for (const [name, layout] of Object.entries(LAYOUTS)) {
        const { planar, reversed, big, compression, predictor } = layout;
        // What Pillow 9 does not read, or reads otherwise.
        if (planar || reversed || big || compression === 50000) continue;
        if (predictor === 3) continue;
        const samples = samplesFor(kind);
        const size = { width: WIDTH, height: HEIGHT };
        const bytes = encodeTiffPage({ ...kind, ...layout, ...size, samples });
        const path = `${kind.photometric}-${kind.channels}-${name}.tif`;
        await Deno.writeFile(join(folder, path), bytes);
        await Deno.writeFile(
          join(folder, `gray-${path}`),
          await grayscale(bytes),
        );
        names.push(path);
      }
    }
    const script = `import sys, PIL.Image, PIL.ImageChops
for name in sys.argv[1:]:
    a, b = PIL.Image.open(name), PIL.Image.open("gray-" + name)
    before, after = a.convert("RGBA"), b.convert("RGBA")
    alphas = before.getchannel("A"), after.getchannel("A")
    assert alphas[0].tobytes() == alphas[1].tobytes(), name
    far = PIL.ImageChops.difference(before.convert("L"), after.convert("L"))
    assert b.mode in ("L", "LA"), (name, b.mode)
    assert far.getextrema()[1] <= 1, (name, far.getextrema())
    print(name)`;
    const { stdout, success } = await new Deno.Command(python, {
      args: ["-c", script, ...names],
      cwd: folder,
      stderr: "inherit",
    }).output();
    assert(success);
    const lines = new TextDecoder().decode(stdout).trim().split("\n");
    assertEquals(lines.length, names.length);
    assert(names.length > 20);
  });
});
