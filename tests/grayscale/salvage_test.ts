/** With `salvage`, every truncation gives what is there, gray for the rest, and a line. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Buffer } from "node:buffer";
import { randomFrom } from "../../workers/fixtures.ts";
import { grayscale } from "../../workers/grayscale.ts";
import { useCodec } from "../../workers/grayscale/codec.ts";
import { type Bmp, draw, encodeGif, encodePng, type Raster } from "./images.ts";
import { encodeJpeg, newPicture } from "./jpegs.ts";

/** Decodes an image with the codec: its gray samples, row by row. */
async function rowsOf(bytes: Uint8Array): Promise<number[][]> {
  const { MagickFormat, MagickImage } = await useCodec();
  const image = MagickImage.create();
  try {
    image.read(bytes);
    const { width, height } = image;
    image.depth = 8;
    const data = image.write(MagickFormat.Rgba, (bytes) => bytes.slice());
    return Array.from(
      { length: height },
      (_, y) =>
        Array.from({ length: width }, (_, x) => data[4 * (y * width + x)]),
    );
  } finally {
    image.dispose();
  }
}

/** What became of a truncated file. */
interface Outcome {
  /** How many rows are said to be there; undefined if it is refused. */
  real?: number;
  rows: number[][];
}

async function salvaged(
  bytes: Uint8Array,
  clue: string,
  all: number,
): Promise<Outcome> {
  const warnings: string[] = [];
  const onWarning = (cause: string) => warnings.push(cause);
  let out: Uint8Array;
  try {
    out = await grayscale(bytes, { salvage: true, onWarning });
  } catch (error) {
    const { name, message } = error as Error;
    assertEquals(name, "Error", `${clue}: ${(error as Error).stack}`);
    assertMatch(message, /^[^\n\r\\@`]{8,200}$/, clue);
    return { rows: [] };
  }
  const rows = await rowsOf(out);
  if (!warnings.length) return { rows, real: all };
  const line =
    /^(missing|doubtful) pixels(, which are gray)?: (\d+) of (\d+) rows/;
  const [, , , real, count] = line.exec(warnings[0]) ?? [];
  assertEquals(warnings.length, 1, clue);
  assertEquals(Number(count), all, `${clue}: ${warnings[0]}`);
  return { rows, real: Number(real) };
}

/**
 * Cuts a file everywhere. Rows that are said to be there are within `near` of those
 * of the whole file, the others are gray; both are met.
 */
async function checkCuts(
  name: string,
  bytes: Uint8Array,
  { near = 0, bottomUp = false, gray = 128, step = 1 } = {},
): Promise<void> {
  const whole = await rowsOf(await grayscale(bytes)), height = whole.length;
  const counts = new Set<number | undefined>();
  for (let cut = 1; cut < bytes.length; cut += step) {
    const clue = `${name}, cut at ${cut} of ${bytes.length}`;
    const { real, rows } = await salvaged(bytes.slice(0, cut), clue, height);
    counts.add(real);
    if (real === undefined) continue;
    assertEquals(rows.length, height, clue);
    for (const [y, row] of rows.entries()) {
      const isReal = bottomUp ? y >= height - real : y < real;
      // The row in which the file ends may be there in part.
      const isEnd = y === (bottomUp ? height - real - 1 : real);
      const far = row.findIndex((value, x) =>
        Math.abs(value - (isReal ? whole[y][x] : gray)) > near &&
        !(isEnd && value === whole[y][x])
      );
      assertEquals(far, -1, `${clue}, row ${y} of ${real}: ${row[far]}`);
    }
  }
  assert(counts.has(undefined), `${name}: something is refused`);
  const some = [...counts].filter((n) => n && n < height);
  assert(some.length > 0, `${name}: ${[...counts]}`);
}

const picture: Raster = draw(23, 19);
const palette = Array.from({ length: 48 }, (_, i) => i < 3 ? 128 : i * 5);
const numbers = Array.from({ length: 23 * 19 }, (_, i) => i * 7 % 13 + 1);

Deno.test("salvage: a GIF, still and animated", async () => {
  const gif = { width: 23, height: 19, palette, frames: [numbers] };
  await checkCuts("GIF", encodeGif(gif));
  const frames = [numbers, numbers.map((n) => n % 7 + 1)];
  const animation = encodeGif({ ...gif, frames });
  const { length } = encodeGif(gif);
  for (let cut = length; cut < animation.length; cut++) {
    const onWarning = (cause: string) => {
      assertMatch(cause, /(\d+) of (19|38) rows are there/);
    };
    const options = { salvage: true, onWarning };
    const out = await grayscale(animation.subarray(0, cut), options);
    const [first] = [await rowsOf(out)];
    assertEquals(first, await rowsOf(await grayscale(encodeGif(gif))));
  }
});

Deno.test("salvage: a large GIF of which almost all is missing", async () => {
  const size = { width: 700, height: 600 };
  for (const colors of [2, 4, 256]) {
    const palette = Array.from(
      { length: 3 * colors },
      (_, i) => i < 3 ? 128 : 200,
    );
    const pixels = Array.from({ length: 700 * 600 }, () => 1);
    const bytes = encodeGif({ ...size, palette, frames: [pixels] });
    const cut = bytes.subarray(0, Math.floor(bytes.length / 3));
    const out = await grayscale(cut, { salvage: true });
    const rows = await rowsOf(out);
    assertEquals(rows.length, 600);
    assertEquals([rows[100][5], rows[599][699]], [200, 128], `${colors}`);
    assertEquals(await grayscale(out), out);
  }
});

Deno.test("salvage: a BMP of every kind", async () => {
  const size = { width: 23, height: 19 };
  const kinds: [string, Partial<Bmp>, boolean?][] = [
    ["8 bits", { bits: 8, pixels: numbers }],
    ["4 bits", { bits: 4, pixels: numbers }],
    ["24 bits", { bits: 24 }],
    ["32 bits", { bits: 32 }],
    ["from the top", { bits: 24, topDown: true }, true],
  ];
  for (const [name, kind, isTopDown] of kinds) {
    const bytes = bmpOf({ ...size, ...kind });
    await checkCuts(`BMP, ${name}`, bytes, { bottomUp: !isTopDown, step: 5 });
  }
  // Runs: each row one after another, from the bottom.
  const runs: number[] = [];
  for (let y = 18; y >= 0; y--) {
    for (let x = 0; x < 23; x++) runs.push(1, numbers[y * 23 + x]);
    runs.push(0, 0);
  }
  runs.push(0, 1);
  const plain = bmpOf({ ...size, bits: 8, pixels: numbers });
  const view = new DataView(plain.buffer, plain.byteOffset);
  view.setUint32(30, 1, true); // RLE8
  const start = view.getUint32(10, true);
  view.setUint32(2, start + runs.length, true);
  const bytes = new Uint8Array(
    Buffer.concat([plain.subarray(0, start), Buffer.from(runs)]),
  );
  await checkCuts("BMP of runs", bytes, { bottomUp: true, step: 3 });
});

/** A BMP of 40 bytes of header; with up to 8 bits, of color numbers. */
function bmpOf(
  { width, height, bits = 24, pixels, topDown }: Partial<Bmp>,
): Uint8Array {
  const [w, h] = [width!, height!], stride = Math.ceil(w * bits / 32) * 4;
  const table = bits <= 8 ? 16 : 0, start = 54 + 4 * table;
  const out = new Uint8Array(start + stride * h);
  const view = new DataView(out.buffer);
  out.set([0x42, 0x4d]);
  view.setUint32(2, out.length, true);
  view.setUint32(10, start, true);
  view.setUint32(14, 40, true);
  view.setInt32(18, w, true);
  view.setInt32(22, topDown ? -h : h, true);
  view.setUint16(26, 1, true);
  view.setUint16(28, bits, true);
  view.setUint32(46, table, true);
  for (let i = 0; i < table; i++) {
    out.set(palette.slice(3 * i, 3 * i + 3), 54 + 4 * i);
  }
  for (let y = 0; y < h; y++) {
    const row = start + (topDown ? y : h - 1 - y) * stride;
    for (let x = 0; x < w; x++) {
      const i = y * w + x;
      if (bits === 8) out[row + x] = pixels![i];
      else if (bits === 4) {
        out[row + (x >> 1)] |= pixels![i] << (x & 1 ? 0 : 4);
      } else {
        const [r, g, b] = picture.data.subarray(4 * i);
        out.set([b, g, r], row + x * bits / 8);
      }
    }
  }
  return out;
}

async function byCodec(
  format: "JPEG" | "WEBP" | "AVIF",
  { width, height, data }: Raster,
  { lossless = false, progressive = false, quality = 90 } = {},
): Promise<Uint8Array> {
  const { Interlace, MagickImage, MagickFormat, MagickReadSettings } =
    await useCodec();
  const image = MagickImage.create();
  try {
    const raw = { format: MagickFormat.Rgba, width, height, depth: 8 };
    image.read(data, new MagickReadSettings(raw));
    image.quality = quality;
    if (progressive) image.settings.interlace = Interlace.Jpeg;
    image.settings.setDefine("WEBP", "lossless", lossless);
    return image.write(format, (bytes) => bytes.slice());
  } finally {
    image.dispose();
  }
}

Deno.test("salvage: a baseline JPEG; it is coded anew", async () => {
  for (const [width, height] of [[40, 50], [17, 33]]) {
    const bytes = await byCodec("JPEG", draw(width, height));
    await checkCuts("JPEG", bytes, { near: 14, step: 3 });
  }
});

Deno.test("salvage: a progressive JPEG whose last scans are missing is less sharp", async () => {
  const bytes = await byCodec("JPEG", draw(40, 50), { progressive: true });
  const marker = Buffer.from([0xff, 0xda]), scans: number[] = [];
  for (let at = -1; (at = Buffer.from(bytes).indexOf(marker, at + 1)) >= 0;) {
    scans.push(at);
  }
  assert(scans.length > 3);
  for (let cut = scans[1]; cut < bytes.length; cut += 5) {
    const warnings: string[] = [];
    const onWarning = (cause: string) => warnings.push(cause);
    const options = { salvage: true, onWarning };
    const out = await grayscale(bytes.subarray(0, cut), options);
    assertEquals((await rowsOf(out)).length, 50);
    assertMatch(warnings[0], /^doubtful pixels: 50 of 50 rows are there \(/);
  }
});

Deno.test("salvage: a JPEG with arithmetic coding: only rows that are certain", async () => {
  const picture = newPicture(40, 50, [[2, 1], [1, 1], [1, 1]]);
  const random = randomFrom(3);
  for (const block of picture.components[0].blocks) {
    block.forEach((_, k) => {
      block[k] = k > 5 ? 0 : Math.round((random() - 0.5) * 900 / (1 + 9 * k));
    });
  }
  const arithmetic = { lower: 0, upper: 1, low: 5 };
  for (const interval of [0, 3]) {
    const style = { frame: 0xc9, arithmetic, interval };
    const bytes = encodeJpeg(picture, style);
    await checkCuts("JPEG", bytes, { near: 14, step: 5 });
    // Damage changes all that follows, but is not seen at once.
    const warnings: string[] = [];
    const onWarning = (cause: string) => void warnings.push(cause);
    const damaged = bytes.slice();
    damaged[bytes.length - 120] ^= 1;
    await grayscale(damaged, { salvage: true, onWarning });
    assertMatch(warnings[0], /^doubtful pixels: \d+ of 50 rows are there, the/);
  }
});

Deno.test("salvage: a WebP, with and without loss", async () => {
  for (const lossless of [false, true]) {
    const bytes = await byCodec("WEBP", draw(40, 50), { lossless });
    // A new edge costs more than twelve levels near it.
    const near = lossless ? 0 : 45;
    await checkCuts(`WebP ${lossless}`, bytes, { near, step: 7 });
  }
});

Deno.test("salvage: of an AVIF nothing is there, and a line says so", async () => {
  const bytes = await byCodec("AVIF", draw(40, 50));
  for (let cut = 64; cut < bytes.length; cut += 16) {
    const error = await assertRejects(
      () => grayscale(bytes.slice(0, cut), { salvage: true }),
      Error,
    );
    const line = /^truncated AVIF: [^\n]+; nothing of an AVIF can be salvaged$/;
    assertMatch(error.message, line, `${cut}`);
  }
});

Deno.test("salvage: a WebP that says that gigabytes are missing is as good as another", async () => {
  const whole = await byCodec("WEBP", draw(40, 50), { lossless: true });
  const cut = whole.slice(0, whole.length * 3 / 4 | 0), bad = cut.slice();
  bad.fill(255, 4, 8);
  bad.set([0xf0, 255, 255, 255], 16);
  const [a, b] = await Promise.all(
    [cut, bad].map((bytes) => salvaged(bytes, "WebP", 50)),
  );
  assert(a.real! > 0 && a.real! < 50, `${a.real}`);
  assertEquals(b, a);
});

Deno.test("salvage: what has nothing missing comes as without it, and says nothing", async () => {
  const all = [
    await byCodec("JPEG", picture),
    await byCodec("WEBP", picture),
    encodeGif({ width: 23, height: 19, palette, frames: [numbers] }),
    bmpOf({ width: 23, height: 19 }),
    encodePng({
      ...{ width: 23, height: 19, colorType: 2, depth: 8 },
      samples: picture.data.filter((_, i) => i % 4 < 3),
    }),
    encodeJpeg(newPicture(20, 20, [[2, 2], [1, 1], [1, 1]])),
  ];
  for (const [i, bytes] of all.entries()) {
    const onWarning = (cause: string) => assert(false, `${i}: ${cause}`);
    const out = await grayscale(bytes, { salvage: true, onWarning });
    assertEquals(out, await grayscale(bytes), `${i}`);
  }
});
