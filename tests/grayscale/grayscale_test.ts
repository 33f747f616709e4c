import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertNotMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { join, relative } from "@std/path";
import { Buffer } from "node:buffer";
import { Pool, sequential } from "../../mod.ts";
import { permissionsFor } from "../../tasks/grayscale/plan.ts";
import { clearTemporary, isTemporary } from "../../workers/shared/files.ts";
import { randomFrom } from "../../workers/fixtures.ts";
import {
  applyGrayscale,
  grayscale,
  grayscaleFile,
  type GrayscaleFileOptions,
  service,
} from "../../workers/grayscale.ts";
import { useCodec } from "../../workers/grayscale/codec.ts";
import { namesIn, withFolder } from "../tasks/folders.ts";
import { encodeLossless } from "./jpegs.ts";
import { waitUntil } from "../tasks/programs.ts";
import {
  type Av1,
  av1Of,
  type Avif,
  type Bmp,
  draw,
  encodeAvif,
  encodeBmp,
  encodeBmpOf,
  encodeGif,
  encodePng,
  encodeTiff,
  findPillow,
  luma,
  lumaOf,
  orient,
  orientationOf,
  pngChunk,
  pngChunks,
  pngOf,
  type Raster,
  withRange,
} from "./images.ts";

const FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"] as const;
type Format = typeof FORMATS[number];

/** Has the codec encode a raster; `lossless` is for WebP. */
async function encode(
  format: Format,
  { width, height, data }: Raster,
  { lossless = false, quality = 90 } = {},
): Promise<Uint8Array> {
  const magick = await useCodec();
  const { MagickFormat, MagickImage, MagickReadSettings } = magick;
  const image = MagickImage.create();
  try {
    const raw = { format: MagickFormat.Rgba, width, height, depth: 8 };
    image.read(data, new MagickReadSettings(raw));
    image.quality = lossless ? 100 : quality;
    image.settings.setDefine("WEBP", "lossless", lossless);
    image.settings.setDefine("WEBP", "exact", lossless);
    image.settings.setDefine("HEIC", "speed", 9);
    if (format === "TIFF") {
      image.settings.compression = magick.CompressionMethod.LZW;
    }
    return image.write(format, (bytes) => bytes.slice());
  } finally {
    image.dispose();
  }
}

/** Decodes an image with the codec, and gives its properties. */
async function decode(bytes: Uint8Array): Promise<Raster & { format: string }> {
  const { MagickFormat, MagickImage } = await useCodec();
  const image = MagickImage.create(bytes);
  try {
    const { width, height } = image;
    const format = image.format.replace(/^BMP\d$/, "BMP"); // by its header
    image.depth = 8;
    const data = image.write(MagickFormat.Rgba, (bytes) => bytes.slice());
    return { width, height, data, format };
  } finally {
    image.dispose();
  }
}

/** An image of each format; the codec encodes those that it converts. */
async function oneOfEach(raster: Raster): Promise<Record<Format, Uint8Array>> {
  return {
    JPEG: await encode("JPEG", raster),
    PNG: pngOf(raster),
    WEBP: await encode("WEBP", raster, { lossless: true }),
    GIF: await encode("GIF", raster),
    TIFF: encodeTiff([raster]),
    BMP: encodeBmp(raster),
    AVIF: await encode("AVIF", raster),
  };
}

const small = draw(24, 18);
const probe = pngOf(small);
const probeGray = await grayscale(probe);

/** Why a bad file is refused; afterwards a good one is still converted. */
async function refusal(
  bytes: Uint8Array,
  clue: string,
  maxPixels?: number,
): Promise<string> {
  const error = await assertRejects(
    () => grayscale(bytes, { maxPixels }),
    Error,
    undefined,
    clue,
  );
  checkMessage(error, clue);
  assertEquals(await grayscale(probe), probeGray, `a good one after ${clue}`);
  return error.message;
}

function checkMessage(error: Error, clue: string): void {
  // A sentence of words, without a path, a source file or a second line.
  assertMatch(error.message, /^[^\n\r\\@`]{8,200}$/, clue);
  assertNotMatch(error.message, /(^|\s|\.\w*)\/|\/\w+\./, clue);
}

const concat = (...parts: Uint8Array[]): Uint8Array =>
  new Uint8Array(Buffer.concat(parts));

// ---- Good images

Deno.test("grayscale: every format stays what it is, at every small size", async () => {
  // How far a lossy codec may stray from the luma of these gradients.
  const stray = {
    JPEG: 12,
    PNG: 0,
    WEBP: 0,
    GIF: 0,
    TIFF: 0,
    BMP: 0,
    AVIF: 24,
  };
  const sizes = [[1, 1], [2, 3], [7, 11], [16, 16], [17, 5], [61, 47]];
  for (const [width, height] of sizes) {
    const all = await oneOfEach(draw(width, height));
    for (const format of FORMATS) {
      const clue = `${format} ${width}x${height}`;
      const before = await decode(all[format]);
      const after = await decode(await grayscale(all[format]));
      assertEquals(after.format, format, clue);
      assertEquals([after.width, after.height], [width, height], clue);
      const wanted = lumaOf(before), got = lumaOf(after);
      assertEquals(got.alpha, wanted.alpha, clue);
      for (const [i, gray] of wanted.gray.entries()) {
        const [r, g, b] = after.data.subarray(4 * i);
        assertEquals([g, b], [r, r], `${clue}: pixel ${i}`);
        const off = Math.abs(r - gray);
        assert(off <= stray[format], `${clue}: pixel ${i} is off by ${off}`);
      }
    }
  }
});

Deno.test("grayscale: a lossy WebP stays lossy, small and gray within one", async () => {
  const bytes = await encode("WEBP", draw(61, 47), { quality: 80 });
  const out = await grayscale(bytes);
  assert(out.length < 1.5 * bytes.length);
  const wanted = lumaOf(await decode(bytes)).gray;
  const { data } = await decode(out);
  for (const [i, gray] of wanted.entries()) {
    const [r, g, b] = data.subarray(4 * i);
    assert(Math.max(r, g, b) - Math.min(r, g, b) <= 1, `pixel ${i}`);
    assert(Math.abs(r - gray) <= 16, `pixel ${i}: ${r} for ${gray}`);
  }
});

Deno.test("grayscale: alpha is kept wherever there is one", async () => {
  // Noise, of more pairs of gray and alpha than a palette holds: a lossless
  // WebP of these once came out "near-lossless".
  const raster = draw(70, 70, true);
  const random = randomFrom(3);
  raster.data.forEach((_, i) => raster.data[i] = 256 * random());
  const wanted = lumaOf(raster);
  for (const format of ["PNG", "WEBP", "TIFF"] as const) {
    const bytes = await encode(format, raster, { lossless: true });
    const got = lumaOf(await decode(await grayscale(bytes)));
    assertEquals(got, wanted, format);
  }
  const avif = await encode("AVIF", draw(24, 18, true), { quality: 95 });
  const before = lumaOf(await decode(avif)).alpha;
  const after = lumaOf(await decode(await grayscale(avif))).alpha;
  for (const [i, alpha] of before.entries()) {
    assert(Math.abs(after[i] - alpha) < 48, `AVIF: pixel ${i}`);
  }
});

Deno.test("grayscale: of a GIF only the color tables change", async () => {
  const palette = Array.from({ length: 24 }, (_, i) => i * 53 % 256);
  const pixels = Array.from({ length: 35 }, (_, i) => i % 8);
  for (const local of [false, true]) {
    for (const comment of [0, 1000]) {
      const gif = { width: 7, height: 5, frames: [pixels], palette };
      const bytes = encodeGif({ ...gif, local, comment });
      const gray = [0, 3, 6, 9, 12, 15, 18, 21].flatMap((i) => {
        const value = luma(palette[i], palette[i + 1], palette[i + 2]);
        return [value, value, value];
      });
      const wanted = encodeGif({ ...gif, palette: gray, local, comment });
      assertEquals(await grayscale(bytes), wanted, `${local} ${comment}`);
      // Nothing but the trailer may be missing, and anything may follow it.
      const cut = bytes.subarray(0, -1);
      assertEquals(await grayscale(cut), wanted.subarray(0, -1));
      const more = concat(bytes, new Uint8Array([1, 2, 3]));
      assertEquals((await grayscale(more)).length, more.length);
    }
  }
});

Deno.test("grayscale: a JPEG keeps its orientation, and is not turned", async () => {
  const jpeg = await encode("JPEG", draw(31, 19));
  assertEquals(orientationOf(await grayscale(jpeg)), undefined);
  for (let orientation = 1; orientation <= 8; orientation++) {
    const bytes = orient(jpeg, orientation);
    assertEquals(orientationOf(bytes), orientation);
    const out = await grayscale(bytes);
    assertEquals(orientationOf(out), orientation);
    const { width, height } = await decode(out);
    assertEquals([width, height], [31, 19], `orientation ${orientation}`);
  }
});

Deno.test("grayscale: a lossless JPEG is coded anew as well as can be", async () => {
  const kinds = { gray: [1], RGB: [82, 71, 66] };
  for (const [name, ids] of Object.entries(kinds)) {
    for (const bits of [2, 4, 7, 8]) {
      for (let predictor = 1; predictor <= 7; predictor++) {
        const count = ids.length, top = 2 ** bits - 1;
        const samples = Array.from(
          { length: 19 * 11 * count },
          (_, i) => (7 * i + (i * i >> 3)) % (top + 1),
        );
        const picture = {
          width: 19,
          height: 11,
          ids,
          bits,
          samples,
          predictor,
        };
        const out = await grayscale(encodeLossless(picture));
        const got = lumaOf(await decode(out)).gray;
        for (const [i, gray] of got.entries()) {
          const [r, g, b] = [0, count >> 1, count - 1].map((k) =>
            Math.round(samples[i * count + k] * 255 / top)
          );
          const off = Math.abs(gray - luma(r, g, b));
          const clue =
            `${name}, ${bits} bits, predictor ${predictor}, pixel ${i}`;
          assert(off <= 2, `${clue}: off by ${off}`);
        }
      }
    }
  }
});

Deno.test("grayscale: the same image gives the same bytes a second later", async () => {
  const images: Uint8Array[] = [probe, pngOf(draw(61, 47, true))];
  // Odd numbers of bytes leave a gap in a TIFF, which was once never written.
  for (let width = 1; width <= 17; width++) {
    images.push(encodeTiff([draw(width, 3)]));
    images.push(await encode("TIFF", draw(width + 40, 47, true)));
  }
  images.push(...Object.values(await oneOfEach(draw(61, 47))));
  const convert = async (list: Uint8Array[], ink = 0) => {
    const out = [];
    for (const bytes of list) {
      // Nothing that the codec's memory held before may be in the output.
      for (const side of [4, 8, 16, 32, 64, 128]) {
        const data = new Uint8Array(4 * side * side).fill(ink);
        await encode("BMP", { width: side, height: side, data });
      }
      out.push(await grayscale(bytes));
    }
    return out;
  };
  /** Sets the codec's clock a second ahead, and gives what it writes then. */
  const later = async <T>(run: () => Promise<T>): Promise<[T, Uint8Array]> => {
    const { now } = Date;
    try {
      Date.now = () => now() + 1000;
      return [await run(), await encode("PNG", small)];
    } finally {
      Date.now = now;
    }
  };
  const [first, dated] = [
    await convert(images, 85),
    await encode("PNG", small),
  ];
  const [reversed, other] = await later(() =>
    convert(images.toReversed(), 170)
  );
  assertNotEquals(dated, other, "a date that the codec writes by itself");
  const second = reversed.reverse();
  for (const [i, bytes] of first.entries()) {
    assertEquals(second[i], bytes, `image ${i}`);
  }
  const types = pngChunks(first[0]).map(([type]) => type);
  assertEquals(types.filter((type) => /tIME|tEXt|zTXt|iTXt/.test(type)), []);
});

Deno.test("grayscale: takes views and Buffers, and leaves them as they are", async () => {
  for (const [format, bytes] of Object.entries(await oneOfEach(small))) {
    // The size in a BMP's header is often wrong.
    if (format === "BMP") bytes.fill(0, 2, 6);
    const wanted = await grayscale(bytes);
    const around = concat(new Uint8Array(13).fill(7), bytes, bytes);
    const view = around.subarray(13, 13 + bytes.length);
    const buffer = Buffer.from(around.buffer, 13, bytes.length);
    for (const input of [view, buffer]) {
      assertEquals(await grayscale(input), wanted, format);
    }
    assertEquals(
      around,
      concat(new Uint8Array(13).fill(7), bytes, bytes),
      `${format}: the input was changed`,
    );
  }
});

Deno.test("grayscale: many calls at once on one thread do not mix", async () => {
  const images = Object.values(await oneOfEach(draw(24, 18)));
  const wanted = [];
  for (const bytes of images) wanted.push(await grayscale(bytes));
  const bad = images[0].subarray(0, 400);
  const outcomes = await Promise.allSettled(
    images.flatMap((bytes) => [grayscale(bytes), grayscale(bad)]),
  );
  for (const [i, outcome] of outcomes.entries()) {
    if (i % 2) assertEquals(outcome.status, "rejected");
    else assertEquals(outcome, { status: "fulfilled", value: wanted[i / 2] });
  }
});

Deno.test("grayscale: the task's workers, which may do little, convert every format", () =>
  withFolder(async (folder) => {
    const out = join(folder, "gray");
    const raster = draw(33, 21), orders: GrayscaleFileOptions[] = [];
    const folders = [folder];
    for (const format of FORMATS) {
      const path = join(folder, `a, b.${format}`);
      await Deno.writeFile(path, await encode(format, raster));
      orders.push({ path, out: join(out, "c, d", format) });
    }
    const permissions = permissionsFor({ images: orders, folders, out });
    await using pool = new Pool(service, { size: 1, permissions });
    await pool.map("grayscaleFile", orders);
    for (const { path, out } of orders) {
      const expected = await grayscale(await Deno.readFile(path));
      assertEquals(await Deno.readFile(out), expected, out);
    }
  }));

// ---- Every kind of BMP

const OS2_HEADERS = [12, 16, 20, 24, 36, 42, 48, 60, 64];
const WINDOWS_HEADERS = [40, 52, 56, 108, 124];

Deno.test("grayscale: of a BMP with a color table only the table changes", async () => {
  for (const header of [...OS2_HEADERS, ...WINDOWS_HEADERS]) {
    for (const bits of [1, 2, 4, 8]) {
      for (const colors of [1 << bits, Math.max(2, (1 << bits) - 5)]) {
        const palette = Array.from(
          { length: 3 * colors },
          (_, i) => i * 79 % 256,
        );
        const pixels = Array.from({ length: 13 * 7 }, (_, i) => i * 5 % colors);
        const topDown = WINDOWS_HEADERS.includes(header) && bits === 8;
        const bmp = { width: 13, height: 7, header, bits, pixels, topDown };
        const gray = palette.map((_, i) => {
          const [r, g, b] = palette.slice(i - i % 3);
          return luma(r, g, b);
        });
        assertEquals(
          await grayscale(encodeBmpOf({ ...bmp, palette })),
          encodeBmpOf({ ...bmp, palette: gray }),
          `${header}, ${bits} bits, ${colors} colors`,
        );
      }
    }
  }
});

Deno.test("grayscale: a BMP of pixels without a table means what its masks say", async () => {
  const kinds: [bits: number, masks?: number[]][] = [
    [16],
    [24],
    [32],
    [16, [0xf800, 0x7e0, 0x1f]],
    [16, [0xf00, 0xf0, 0xf]],
    [16, [0xf00, 0xf0, 0xf, 0xf000]],
    [16, [0x7c00, 0x3e0, 0x1f, 0x8000]],
    [16, [0xf800, 0x7e0, 0]],
    [32, [0xff, 0xff00, 0xff0000]],
    [32, [0xff000000, 0xff0000, 0xff00]],
    [32, [0x3ff00000, 0xffc00, 0x3ff]],
    [32, [0xe0000000, 0x1f00, 0x3f]],
    [32, [0xff0000, 0xff00, 0xff, 0xff000000]],
    [32, [0xff000000, 0xff0000, 0xff00, 0xff]],
  ];
  const sample = (word: number, mask: number) => {
    const low = (mask & -mask) >>> 0 || 1;
    return mask
      ? Math.round(((word & mask) >>> 0) / low * 255 / ((mask >>> 0) / low))
      : 0;
  };
  const random = randomFrom(5);
  for (const [bits, masks] of kinds) {
    const headers = masks?.length === 4
      ? WINDOWS_HEADERS.filter((header) => header !== 52)
      : masks
      ? WINDOWS_HEADERS
      : [...OS2_HEADERS, ...WINDOWS_HEADERS];
    for (const header of headers) {
      for (const topDown of header === 12 ? [false] : [false, true]) {
        const pixels = Array.from(
          { length: 13 * 7 },
          () => Math.floor(random() * 2 ** bits),
        );
        const bmp = { width: 13, height: 7, header, bits, pixels, masks };
        // Behind a header of 40 bytes there are four masks only by this number.
        const compression = masks?.length === 4 && header === 40
          ? 6
          : undefined;
        const out = await grayscale(
          encodeBmpOf({ ...bmp, topDown, compression }),
        );
        const [red, green, blue, alpha] = masks ??
          (bits === 16 ? [0x7c00, 0x3e0, 0x1f] : [0xff0000, 0xff00, 0xff]);
        const wanted = {
          gray: pixels.map((word) =>
            luma(sample(word, red), sample(word, green), sample(word, blue))
          ),
          alpha: pixels.map((word) => alpha ? sample(word, alpha) : 255),
        };
        const clue = `${header}, ${bits} bits, ${masks}, ${topDown}`;
        assertEquals(lumaOf(await decode(out)), wanted, clue);
      }
    }
  }
});

Deno.test("grayscale: a BMP of runs keeps them, and is refused where they end early", async () => {
  const runs: Record<number, number[]> = {
    8: [3, 1, 0, 3, 0, 1, 0, 0, 0, 2, 1, 1, 4, 0, 0, 0, 0, 1],
    4: [3, 0x12, 0, 5, 0x01, 0x20, 0x10, 0, 0, 0, 7, 0x21, 0, 1],
  };
  for (const [bits, data] of Object.entries(runs)) {
    const palette = [10, 200, 30, 250, 20, 90, 0, 0, 255];
    const gray = [luma(10, 200, 30), luma(250, 20, 90), luma(0, 0, 255)]
      .flatMap((value) => [value, value, value]);
    const encode = (palette: number[]) => {
      const rows = { width: 8, height: 0, pixels: [], bits: Number(bits) };
      const compression = bits === "8" ? 1 : 2;
      const bmp = encodeBmpOf({ ...rows, header: 40, palette, compression });
      bmp[22] = 4;
      return concat(bmp, new Uint8Array(data));
    };
    const bytes = encode(palette);
    assertEquals(await grayscale(bytes), encode(gray));
    for (let cut = 1; cut <= data.length; cut++) {
      const cause = await refusal(bytes.subarray(0, -cut), `${bits}, ${cut}`);
      assertEquals(cause, "truncated BMP: the file ends too early");
    }
  }
});

Deno.test("grayscale: a BMP whose pixels begin where its colors should is refused", async () => {
  const bytes = encodeBmpOf({
    ...{ width: 3, height: 1, header: 40, bits: 8, pixels: [0, 1, 2] },
    palette: [255, 0, 0, 0, 255, 0, 0, 0, 255],
  });
  bytes[10] = 54;
  const cause = await refusal(bytes, "no colors");
  assertEquals(cause, "broken BMP: no color table");
});

Deno.test("grayscale: a BMP that would be misread is refused by its name", async () => {
  const bmp = { width: 8, height: 4, pixels: new Uint8Array(32) };
  const cases: [Omit<Bmp, "width" | "height" | "pixels">, string][] = [
    [
      { header: 64, bits: 1, compression: 3 },
      "compression 3 of 1 bits per pixel",
    ],
    [
      { header: 64, bits: 24, compression: 4 },
      "compression 4 of 24 bits per pixel",
    ],
    [{ header: 40, bits: 24, compression: 4 }, "JPEG or PNG inside"],
    [{ header: 40, bits: 24, compression: 5 }, "JPEG or PNG inside"],
    [
      { header: 40, bits: 24, compression: 1 },
      "compression 1 of 24 bits per pixel",
    ],
    [
      { header: 40, bits: 24, compression: 9 },
      "compression 9 of 24 bits per pixel",
    ],
    [{ header: 40, bits: 3 }, "3 bits per pixel"],
    [{ header: 40, bits: 64 }, "64 bits per pixel"],
    [{ header: 40, bits: 32, masks: [0xff0ff, 0xf00, 0] }, "masks with gaps"],
  ];
  for (const [kind, cause] of cases) {
    const bytes = encodeBmpOf({ ...bmp, ...kind });
    assertEquals(await refusal(bytes, cause), `unsupported BMP: ${cause}`);
  }
  const inside = encodeBmp(small);
  inside[10] = 40;
  const cause = "broken BMP: pixels inside the header";
  assertEquals(await refusal(inside, "inside"), cause);
});

// ---- The range of an AVIF

/** What limited range stands for. */
const expanded = (level: number): number =>
  Math.max(0, Math.min(255, Math.round((level - 16) * 255 / 219)));

/** AV1 data of one level; without colors they are monochrome. */
async function flatAv1(level: number, hasColors: boolean): Promise<Av1> {
  const { MagickFormat, MagickImage, MagickReadSettings } = await useCodec();
  const image = MagickImage.create();
  try {
    const format = hasColors ? MagickFormat.Rgb : MagickFormat.Gray;
    const data = new Uint8Array(32 * 32 * (hasColors ? 3 : 1)).fill(level);
    if (hasColors) data[0] ^= 1; // the codec finds gray by itself
    const settings = { format, width: 32, height: 32, depth: 8 };
    image.read(data, new MagickReadSettings(settings));
    image.settings.setDefine("HEIC", "speed", 9);
    return av1Of(image.write("AVIF", (bytes) => bytes.slice()));
  } finally {
    image.dispose();
  }
}

Deno.test("grayscale: an AVIF has the range that colr says, or else the AV1 header", async () => {
  const ranges = [true, false];
  const middle = 32 * 16 + 16;
  for (const hasColors of [false, true]) {
    for (const level of [0, 16, 60, 128, 200, 235, 255]) {
      const av1 = await flatAv1(level, hasColors);
      for (const coded of ranges) {
        const size = { width: 32, height: 32 };
        const avif = { ...size, color: withRange(av1, coded) };
        const boxes: Avif["colr"][] = [undefined];
        for (const stated of ranges) {
          boxes.push([1, 13, 6, stated], [2, 2, 2, stated], [1, 13, 2, stated]);
        }
        for (const colr of boxes) {
          const out = await decode(
            await grayscale(encodeAvif({ ...avif, colr })),
          );
          const wanted = colr?.[3] ?? coded ? level : expanded(level);
          const got = lumaOf(out).gray[middle];
          const clue = `${level}, colors ${hasColors}, full ${coded}, ${colr}`;
          assert(Math.abs(got - wanted) <= 2, `${clue}: ${got}, not ${wanted}`);
        }
      }
    }
  }
});

Deno.test("grayscale: an AVIF's alpha has the range of its AV1 header", async () => {
  const color = await flatAv1(100, true), size = { width: 32, height: 32 };
  for (const level of [0, 16, 60, 128, 235, 255]) {
    for (const isFull of [true, false]) {
      const alpha = withRange(await flatAv1(level, false), isFull);
      const avif = encodeAvif({ ...size, color, alpha });
      const out = lumaOf(await decode(await grayscale(avif)));
      const wanted = isFull ? level : expanded(level), at = 32 * 16 + 16;
      const clue = `${level}, full ${isFull}: ${out.alpha[at]}, not ${wanted}`;
      assert(Math.abs(out.alpha[at] - wanted) <= 2, clue);
      assert(Math.abs(out.gray[at] - 100) <= 2 || !wanted, clue);
    }
  }
});

/** AV1 data of a ramp from left to right and from top to bottom. */
async function rampAv1(size: number): Promise<Av1> {
  const { MagickFormat, MagickImage, MagickReadSettings } = await useCodec();
  const image = MagickImage.create();
  try {
    const data = Uint8Array.from({ length: 3 * size * size }, (_, i) => {
      const pixel = Math.floor(i / 3), x = pixel % size;
      return x + Math.floor(pixel / size) * 2 + (i % 3);
    });
    const settings = { format: MagickFormat.Rgb, width: size, height: size };
    image.read(data, new MagickReadSettings({ ...settings, depth: 8 }));
    image.quality = 98;
    image.settings.setDefine("HEIC", "speed", 9);
    return av1Of(image.write("AVIF", (bytes) => bytes.slice()));
  } finally {
    image.dispose();
  }
}

const be32 = (value: number): number[] =>
  [24, 16, 8, 0].map((n) => value >> n & 255);
const fractions = (...values: number[]): number[] =>
  values.flatMap((value) => [...be32(2 * value), ...be32(2)]);

Deno.test("grayscale: an AVIF that is cropped, and perhaps turned, is so afterwards", async () => {
  const size = 80, color = await rampAv1(size);
  // A part of 20 × 10 pixels that begins at 30, 5. The offsets are of the middle.
  const [wide, high, left, top] = [20, 10, 30, 5];
  const middle = (start: number, part: number) => start + part / 2 - size / 2;
  const clap = fractions(wide, high, middle(left, wide), middle(top, high));
  const ramp = (x: number, y: number) => left + x + 2 * (top + y) + 1;
  type Place = [x: number, y: number];
  // Where a pixel was in the part, by quarters of a turn against the clock.
  const turned: ((x: number, y: number) => Place)[] = [
    (x, y) => [x, y],
    (x, y) => [wide - 1 - y, x],
    (x, y) => [wide - 1 - x, high - 1 - y],
    (x, y) => [y, high - 1 - x],
  ];
  for (let turns = 0; turns < 4; turns++) {
    for (const mirror of [undefined, 0, 1]) {
      const transforms: Avif["transforms"] = [["clap", clap], ["irot", [
        turns,
      ]]];
      if (mirror !== undefined) transforms.push(["imir", [mirror]]);
      const avif = { width: size, height: size, color, transforms };
      const out = await decode(await grayscale(encodeAvif(avif)));
      const [w, h] = turns % 2 ? [high, wide] : [wide, high];
      const clue = `${turns} turns, mirror ${mirror}`;
      assertEquals([out.width, out.height], [w, h], clue);
      for (let i = 0; i < w * h; i++) {
        const x = i % w, y = Math.floor(i / w);
        const place = turned[turns](
          mirror === 1 ? w - 1 - x : x,
          mirror === 0 ? h - 1 - y : y,
        );
        const off = Math.abs(out.data[4 * i] - ramp(...place));
        assert(off < 6, `${clue}: pixel ${x}, ${y} is off by ${off}`);
      }
    }
  }
});

Deno.test("grayscale: an AVIF whose colors are turned: alpha is as well, whatever is said of it", async () => {
  const size = 48, color = await rampAv1(size);
  for (const isAlphaAsItIs of [false, true]) {
    const transforms: Avif["transforms"] = [["irot", [1]], ["imir", [0]]];
    const avif = encodeAvif({
      ...{ width: size, height: size, color, alpha: color },
      ...{ transforms, isAlphaAsItIs },
    });
    const out = await decode(await grayscale(avif));
    for (let i = 0; i < size * size; i++) {
      const x = i % size, y = Math.floor(i / size);
      // Turned against the clock, then upside down: rows have become columns.
      const off = Math.abs(out.data[4 * i + 3] - (y + 2 * x + 1));
      assert(off < 8, `${isAlphaAsItIs}: alpha at ${x}, ${y} is off by ${off}`);
    }
  }
});

Deno.test("grayscale: an AVIF whose last box leaves its size open", async () => {
  const color = await rampAv1(32);
  const avif = encodeAvif({ width: 32, height: 32, color });
  const open = avif.slice(), at = Buffer.from(avif).indexOf("meta") - 4;
  open.fill(0, at, at + 4);
  assertEquals(await grayscale(open), await grayscale(avif));
});

Deno.test("grayscale: an AVIF with a crop or layers that cannot be is refused by name", async () => {
  const color = await rampAv1(32), size = { width: 32, height: 32, color };
  const crop = "unsupported AVIF: a crop that is no part in whole pixels";
  const layers = "unsupported AVIF: one layer of several (lsel)";
  const cases: [string, number[], string][] = [
    ["clap", fractions(10, 10, 12, 0), crop],
    ["clap", fractions(10.5, 10, 0, 0), crop],
    ["clap", fractions(9, 10, 0, 0), crop],
    ["clap", fractions(0, 10, 0, 0), crop],
    ["lsel", [0, 0], layers],
  ];
  for (const [type, content, cause] of cases) {
    const avif = encodeAvif({ ...size, transforms: [[type, content]] });
    assertEquals(await refusal(avif, type), cause);
  }
});

Deno.test("grayscale: an AVIF of unknown colors is refused by its name", async () => {
  const color = await flatAv1(100, true), size = { width: 32, height: 32 };
  const cases: [matrix: number, isFull: boolean][] = [
    [3, true],
    [4, false],
    [8, false],
    [14, true],
  ];
  for (const [matrix, isFull] of cases) {
    const avif = encodeAvif({ ...size, color, colr: [1, 13, matrix, isFull] });
    const range = isFull ? "full" : "limited";
    assertEquals(
      await refusal(avif, `matrix ${matrix}`),
      `unsupported AVIF: matrix coefficients ${matrix} in ${range} range`,
    );
  }
});

// ---- Against Pillow

Deno.test("grayscale: the luma is what Pillow's convert('L') gives", async () => {
  const python = await findPillow();
  if (!python) return console.warn("SKIPPED: no Python with Pillow is here");
  await withFolder(async (folder) => {
    const raster = draw(61, 47);
    const images: Record<string, Uint8Array> = {
      "rgb.png": pngOf(raster, false),
      "rgba.png": pngOf(draw(61, 47, true)),
      "codec.gif": await encode("GIF", raster),
      "codec.bmp": encodeBmp(raster),
      "codec.tif": encodeTiff([raster]),
    };
    const names = Object.keys(images);
    for (const name of names) {
      await Deno.writeFile(join(folder, name), images[name]);
      const gray = await grayscale(images[name]);
      await Deno.writeFile(join(folder, `gray ${name}`), gray);
    }
    const script = `import sys, PIL.Image
for path in sys.argv[1:]:
    print(PIL.Image.open(path).convert("L").tobytes().hex())`;
    const { stdout, success } = await new Deno.Command(python, {
      args: ["-c", script, ...names.flatMap((name) => [name, `gray ${name}`])],
      cwd: folder,
      stderr: "inherit",
    }).output();
    assert(success);
    const lines = new TextDecoder().decode(stdout).trim().split("\n");
    assertEquals(lines.length, 2 * names.length);
    for (const [i, name] of names.entries()) {
      assert(lines[2 * i].length > 0, name);
      assertEquals(lines[2 * i + 1], lines[2 * i], name);
    }
  });
});

// ---- Bad files

Deno.test("grayscale: what is no image never reaches the codec", async () => {
  const texts = {
    "text": "hello world, this is a text\n",
    "words that begin with BM": "BMW is a maker of cars, since 1916, in Munich",
    "BM and no known header": "BM" + "a".repeat(13) + "\0".repeat(40),
    "SVG": '<svg xmlns="http://www.w3.org/2000/svg"><image href="/x"/></svg>',
    "XML": '<?xml version="1.0"?><svg/>',
    "MVG": "push graphic-context\nfill url(https://x)\npop graphic-context",
    "MSL": '<?xml version="1.0"?><image><read filename="/etc/passwd"/></image>',
    "PDF": "%PDF-1.4\n1 0 obj\n",
    "PostScript": "%!PS-Adobe-3.0 EPSF-3.0\n",
    "PPM": "P6 1 1 255 abc",
    "XPM": "/* XPM */ static char *x[] = {",
    "ICO": "\0\0\x01\0\x01\0\x10\x10\0\0\x01\0",
    "PSD": "8BPS\0\x01\0\0\0\0\0\0",
    "ZIP": "PK\x03\x04" + "\0".repeat(60),
    "a codec's prefix": "SVG:/etc/passwd",
    "zeros": "\0".repeat(500),
    "one byte": "\xff",
  };
  for (const [name, text] of Object.entries(texts)) {
    assertEquals(
      await refusal(Buffer.from(text, "latin1"), name),
      "not an image (JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF)",
      name,
    );
  }
  const others: [name: string, head: string][] = [
    ["HEIC", "\0\0\0\x18ftypheic\0\0\0\0mif1heic"],
    ["HEIC", "\0\0\0\x18ftypmif1\0\0\0\0mif1heic"],
    ["HEIF", "\0\0\0\x18ftypmif1\0\0\0\0mif1miaf"],
    ["JPEG XL", "\xff\x0a\xfa\x1f"],
    ["JPEG XL", "\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl "],
    ["JPEG 2000", "\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 "],
    ["JPEG 2000", "\xff\x4f\xff\x51\0\x2f"],
    ["JPEG XR", "II\xbc\x01\x20\0\0\0"],
    [
      "DIB (a BMP without its file header)",
      "\x28\0\0\0\x02\0\0\0\x02\0\0\0\x01\0\x18\0\0\0\0\0\x10\0\0\0",
    ],
    ["camera raw (CR3)", "\0\0\0\x18ftypcrx \0\0\0\x01crx isom"],
    ["camera raw (RAF)", "FUJIFILMCCD-RAW 0201"],
    ["camera raw (ORF)", "IIRO\x08\0\0\0"],
    ["camera raw (RW2)", "IIU\0\x18\0\0\0"],
    [
      "PNG as Apple changes it for iOS (CgBI)",
      "\x89PNG\r\n\x1a\n\0\0\0\x04CgBI\x50\0\x20\x02",
    ],
  ];
  for (const [name, head] of others) {
    assertEquals(
      await refusal(Buffer.from(head + "\0".repeat(99), "latin1"), name),
      `unsupported format: ${name}`,
    );
  }
  assertEquals(await refusal(new Uint8Array(), "empty"), "empty file");
  // Nor is a file an image that only begins like one.
  const heads = [
    "\xff\xd8\xff",
    "\x89PNG\r\n\x1a\n",
    "GIF89a",
    "II*\0",
    "MM\0*",
  ];
  for (const head of heads) {
    for (const rest of [texts.SVG, texts.MVG, "\0".repeat(300)]) {
      const cause = await refusal(Buffer.from(head + rest, "latin1"), head);
      assertMatch(cause, /^(broken|truncated|no pixels|too large)/, head);
    }
  }
});

Deno.test("grayscale: a truncated image is refused, wherever it is cut", async () => {
  const all: Record<string, Uint8Array> = await oneOfEach(small);
  all["WEBP, lossy"] = await encode("WEBP", small);
  const header = /^(not an image|broken (PNG|AVIF): no (IHDR|picture))/;
  for (const [format, bytes] of Object.entries(all)) {
    const steps = Math.ceil(bytes.length / 150);
    const last = bytes.length - 16;
    const step = (cut: number) => cut < 64 || cut >= last ? 1 : steps;
    for (let cut = 1; cut < bytes.length; cut += step(cut)) {
      // Only the trailer of a GIF may be missing.
      if (format === "GIF" && cut === bytes.length - 1) continue;
      // Of a PNG what is behind the last pixel: checksums and IEND.
      if (format === "PNG" && cut > bytes.length - 24) continue;
      const clue = `${format} of ${bytes.length} bytes, cut at ${cut}`;
      const cause = await refusal(bytes.subarray(0, cut), clue);
      if (cut < 33 && header.test(cause)) continue;
      assertMatch(cause, /^truncated \w+: /, clue);
    }
  }
});

Deno.test("grayscale: mutations are refused in one line, or give an image", async () => {
  const counts = {
    JPEG: 250,
    PNG: 250,
    WEBP: 200,
    GIF: 400,
    TIFF: 250,
    BMP: 250,
    AVIF: 40,
  };
  const random = randomFrom(42);
  const integer = (below: number) => Math.floor(below * random());
  const all = await oneOfEach(small);
  all.TIFF = await encode("TIFF", small);
  for (const format of FORMATS) {
    let refused = 0;
    for (let n = 0; n < counts[format]; n++) {
      let bytes: Uint8Array = all[format].slice();
      const kind = n % 4, at = integer(bytes.length);
      if (kind === 0) { // a few bits
        for (let k = integer(3); k >= 0; k--) {
          bytes[integer(bytes.length)] ^= 1 << integer(8);
        }
      } else if (kind === 1) { // a run of one value
        bytes.fill(integer(256), at, at + 1 + integer(40));
      } else if (kind === 2) { // a few bytes are missing
        const rest = bytes.subarray(at + 1 + integer(8));
        bytes = concat(bytes.subarray(0, at), rest);
      } else { // an extreme in the header
        bytes[integer(64)] = [0, 255, 127, 128, 1][integer(5)];
      }
      const clue = `${format}, mutation ${n}`;
      try {
        const out = await grayscale(bytes, { maxPixels: 1e6 });
        assertEquals((await decode(out)).format, format, clue);
      } catch (error) {
        assert(error instanceof Error, clue);
        assertEquals(error.name, "Error", `${clue}: ${error.stack}`);
        checkMessage(error, clue);
        refused++;
      }
      if (n % 5 === 0) assertEquals(await grayscale(probe), probeGray, clue);
    }
    assertEquals(await grayscale(probe), probeGray, format);
    assert(refused > counts[format] / 10, `${format}: ${refused} refused`);
  }
});

Deno.test("grayscale: a codec that crashed is started anew", async () => {
  const before = useCodec();
  const { MagickImage } = await before;
  const { create } = MagickImage;
  const webp = await encode("WEBP", small), wanted = await grayscale(webp);
  try {
    MagickImage.create = () => {
      throw new WebAssembly.RuntimeError("unreachable");
    };
    const error = await assertRejects(() => grayscale(webp), Error);
    assertEquals(
      error.message,
      "broken WebP: the codec crashed on it (unreachable)",
    );
  } finally {
    MagickImage.create = create;
  }
  assertEquals(await grayscale(webp), wanted);
  assert(useCodec() !== before);
  // A file that is only broken does not make the codec start anew.
  const now = useCodec();
  await refusal(webp.subarray(0, 200), "cut");
  await refusal((await encode("JPEG", small)).subarray(0, 400), "cut");
  assert(useCodec() === now);
});

Deno.test("grayscale: a flipped byte in a PNG's pixels is broken data", async () => {
  const bytes = probe.slice();
  const at = Buffer.from(bytes).indexOf("IDAT") + 20;
  bytes[at] ^= 255;
  assertMatch(await refusal(bytes, "flipped"), /^broken PNG: /);
});

Deno.test("grayscale: sequences and depths are refused by name", async () => {
  const jpeg = await encode("JPEG", small);
  const deep = jpeg.slice();
  const frame = Buffer.from(jpeg).indexOf(Buffer.from([0xff, 0xc0]));
  deep[frame + 4] = 12;
  const sequence = (await encode("AVIF", small)).slice();
  const cases: Record<string, [Uint8Array, string]> = {
    "AVIF sequence": [
      concat(sequence, Buffer.from("\0\0\0\x08moov", "latin1")),
      "unsupported AVIF: an image sequence",
    ],
    "12-bit JPEG": [
      deep,
      "12 bits per channel: this codec would cut it to 8",
    ],
  };
  for (const [name, [bytes, cause]] of Object.entries(cases)) {
    assertEquals(await refusal(bytes, name), cause, name);
  }
});

Deno.test("grayscale: a TIFF whose directories go in a circle is broken", async () => {
  for (const pages of [[small], [small, small]]) {
    for (const preview of [-1, 1]) {
      const bytes = encodeTiff(pages, { preview, loop: true });
      assertEquals(
        await refusal(bytes, `${pages.length} pages, preview ${preview}`),
        "broken TIFF: directories in a circle",
      );
    }
  }
});

/** The same files, but each declares another size. */
function declare(
  all: Record<Format, Uint8Array>,
  width: number,
  height: number,
): Partial<Record<Format, Uint8Array>> {
  const { JPEG, GIF, BMP } = all;
  const patch = (bytes: Uint8Array, at: number, values: number[]) => {
    const copy = bytes.slice();
    copy.set(values, at);
    return copy;
  };
  const be16 = (value: number) => [value >> 8, value & 255];
  const le16 = (value: number) => [value & 255, value >> 8];
  const frame = Buffer.from(JPEG).indexOf(Buffer.from([0xff, 0xc0]));
  const png = { width, height, colorType: 2, depth: 8 };
  const header = pngChunks(encodePng({ ...png, height: 1, samples: [] }))[0][1];
  const one = encodePng({ ...png, width: 1, height: 1, samples: [1, 2, 3] });
  const declared = header.slice();
  declared.set([0, 0, ...be16(height)], 4);
  return {
    JPEG: patch(JPEG, frame + 5, [...be16(height), ...be16(width)]),
    PNG: concat(
      one.subarray(0, 8),
      pngChunk("IHDR", declared),
      one.subarray(33),
    ),
    GIF: patch(GIF, 6, [...le16(width), ...le16(height)]),
    BMP: patch(BMP, 18, [...le16(width), 0, 0, ...le16(height)]),
    TIFF: (() => {
      const bytes = encodeTiff([small]);
      const view = new DataView(bytes.buffer);
      const entries = view.getUint32(4, true) + 2;
      view.setUint32(entries + 12 + 8, width, true);
      view.setUint32(entries + 24 + 8, height, true);
      return bytes;
    })(),
  };
}

Deno.test("grayscale: a small file that declares a huge image is refused", async () => {
  const all = declare(await oneOfEach(small), 60000, 60000);
  for (const [format, bytes] of Object.entries(all)) {
    assert(bytes.length < 5000);
    assertEquals(
      await refusal(bytes, format),
      "too large: 60000x60000 is more than 268000000 pixels",
      format,
    );
  }
});

Deno.test("grayscale: an image without pixels is refused", async () => {
  const all = await oneOfEach(small);
  for (const [width, height] of [[0, 18], [24, 0], [0, 0]]) {
    for (const [format, bytes] of Object.entries(declare(all, width, height))) {
      const cause = await refusal(bytes, `${format} ${width}x${height}`);
      assertMatch(cause, /^no pixels: \d+x\d+$/, format);
    }
  }
});

Deno.test("grayscale: maxPixels is met exactly", async () => {
  for (const [format, bytes] of Object.entries(await oneOfEach(small))) {
    await grayscale(bytes, { maxPixels: 432 });
    await grayscale(bytes, { maxPixels: Infinity });
    assertEquals(
      await refusal(bytes, format, 431),
      "too large: 24x18 is more than 431 pixels",
      format,
    );
  }
  for (const maxPixels of [0, -1, NaN, -Infinity]) {
    await assertRejects(
      () => grayscale(probe, { maxPixels }),
      RangeError,
      `'maxPixels' must be positive: current value is ${maxPixels}`,
    );
  }
});

// ---- Files

Deno.test("grayscaleFile: makes the folder, and leaves only the image", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "a.png");
    await Deno.writeFile(path, probe);
    for (const name of ["b.png", "new/deep/c d.png", "über/😀.png"]) {
      const out = join(folder, "out", name);
      const { length: bytes } = probeGray;
      for (let again = 0; again < 2; again++) { // an old output is replaced
        const result = await grayscaleFile({ path, out });
        assertEquals(result, { path, out, bytes });
        assertEquals(await Deno.readFile(out), probeGray);
      }
    }
    assertEquals(namesIn(join(folder, "out")), ["b.png", "new", "über"]);
    assertEquals(namesIn(join(folder, "out/new/deep")), ["c d.png"]);
    assertEquals(await Deno.readFile(path), probe);
  });
});

Deno.test("grayscaleFile: the image is readable by no more people than its original", async () => {
  if (Deno.build.os === "windows") {
    return console.warn("SKIPPED: there are no permission bits on Windows");
  }
  await withFolder(async (folder) => {
    const path = join(folder, "a.png"), out = join(folder, "out", "a.png");
    await Deno.writeFile(path, probe);
    const umask = Deno.umask();
    for (const mode of [0o600, 0o640, 0o644, 0o666, 0o400, 0o755, 0o4700]) {
      await Deno.chmod(path, mode);
      for (let again = 0; again < 2; again++) { // an old output is replaced
        await grayscaleFile({ path, out });
        const got = (await Deno.stat(out)).mode! & 0o7777;
        assertEquals(got, mode & 0o666 & ~umask, mode.toString(8));
        await Deno.chmod(out, 0o644);
      }
    }
  });
});

Deno.test("grayscaleFile: files that are converted at the same time do not mix", () =>
  withFolder(async (folder) => {
    const files: Record<string, Uint8Array> = {};
    for (const size of [64, 8]) {
      const all = await oneOfEach(draw(size, size));
      for (const [format, bytes] of Object.entries(all)) {
        files[`${size}.${format}`] = bytes;
      }
    }
    const names = Object.keys(files);
    for (const name of names) {
      await Deno.writeFile(join(folder, name), files[name]);
    }
    const convert = (name: string) =>
      grayscaleFile({
        path: join(folder, name),
        out: join(folder, "gray", name),
      });
    const convertAll = [
      () => Promise.all(names.map(convert)),
      async () => {
        for (const name of names) await convert(name);
      },
    ];
    for (const convert of convertAll) {
      for (const { out, bytes } of await convert() ?? []) {
        assertEquals(bytes, (await Deno.stat(out)).size);
      }
      for (const name of names) {
        const gray = await Deno.readFile(join(folder, "gray", name));
        assertEquals(gray, await grayscale(files[name]), name);
      }
      await Deno.remove(join(folder, "gray"), { recursive: true });
    }
  }));

Deno.test("grayscaleFile: takes any name that the file system takes", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "a.png");
    await Deno.writeFile(path, probe);
    const names = [
      "n".repeat(251) + ".png",
      "a" + "€".repeat(82) + "😀.png",
      " ",
      "-",
    ];
    if (Deno.build.os !== "windows") names.push("a\\b.png", "a\nb.png", "\x01");
    for (const name of names) {
      await grayscaleFile({ path, out: join(folder, name) });
    }
    assertEquals(namesIn(folder), ["a.png", ...names].sort());
    for (const name of names) {
      assertEquals(await Deno.readFile(join(folder, name)), probeGray, name);
    }
  });
});

Deno.test("grayscaleFile: never writes over its input", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "a.png");
    await Deno.writeFile(path, probe);
    await Deno.mkdir(join(folder, "sub"));
    await Deno.symlink(path, join(folder, "soft.png"));
    await Deno.symlink(folder, join(folder, "sub/up"));
    await Deno.link(path, join(folder, "hard.png"));
    const spellings = [
      path,
      join(folder, "soft.png"),
      join(folder, "hard.png"),
      join(folder, "sub/up/a.png"),
      `${folder}/./a.png`,
      `${folder}/sub/../a.png`,
      `${folder}//a.png`,
      `./${relative(Deno.cwd(), path)}`,
    ];
    const before = namesIn(folder);
    for (const from of spellings) {
      for (const out of spellings) {
        const error = await assertRejects(
          () => grayscaleFile({ path: from, out }),
          Error,
          "the output would replace the input",
          `${from} to ${out}`,
        );
        checkMessage(error, out);
        assertEquals(await Deno.readFile(path), probe, `${from} to ${out}`);
      }
    }
    assertEquals(namesIn(folder), before);
    assert((await Deno.lstat(join(folder, "soft.png"))).isSymlink);
  });
});

Deno.test("grayscaleFile: what is no file is an error at once", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "out/a.png");
    const fails = (
      path: string,
      kind: new () => Error,
      message?: string,
    ) => assertRejects(() => grayscaleFile({ path, out }), kind, message);
    await fails(join(folder, "missing.png"), Deno.errors.NotFound);
    await fails("", Error);
    await fails(folder, Error, "not a regular file");
    if (Deno.build.os !== "windows") {
      await fails("/dev/zero", Error, "not a regular file");
    }
    const fifo = join(folder, "fifo");
    if (await makeFifo(fifo)) await fails(fifo, Error, "not a regular file");
    assert(!namesIn(folder).includes("out"), "no folder is made for nothing");
  });
});

async function makeFifo(path: string): Promise<boolean> {
  try {
    await new Deno.Command("mkfifo", { args: [path] }).output();
    return (await Deno.stat(path)).isFifo === true;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    console.warn("SKIPPED: no mkfifo is here");
    return false;
  }
}

Deno.test("grayscaleFile: an output that cannot be written is an error", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "a.png");
    await Deno.writeFile(path, probe);
    await Deno.mkdir(join(folder, "taken"));
    await Deno.writeTextFile(join(folder, "file"), "");
    const before = namesIn(folder);
    const fails = (name: string, message?: string) =>
      assertRejects(
        () => grayscaleFile({ path, out: join(folder, name) }),
        Error,
        message,
        name,
      );
    await fails("taken", "the output is there and is no regular file");
    await fails("file/a.png");
    await fails("n".repeat(256));
    assertEquals(namesIn(folder), before);
    if (await makeFifo(join(folder, "fifo"))) {
      await fails("fifo", "the output is there and is no regular file");
      assert((await Deno.stat(join(folder, "fifo"))).isFifo);
    }
    if (Deno.build.os === "windows" || Deno.uid() === 0) {
      console.warn("SKIPPED: nothing is read-only for root, or on Windows");
    } else {
      await Deno.chmod(join(folder, "taken"), 0o555);
      await fails("taken/a.png");
      await fails("taken/new/a.png");
      assertEquals(namesIn(join(folder, "taken")), []);
    }
  });
});

Deno.test("grayscaleFile: on failure an old output stays, and nothing else", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "old.png");
    await Deno.writeTextFile(out, "as it was");
    const gif = encodeGif({
      width: 1,
      height: 1,
      frames: [[0], [1]],
      palette: [0, 0, 0, 1, 1, 1],
    });
    const bad = {
      "cut.png": probe.subarray(0, 200),
      "cut.gif": gif.subarray(0, -4),
    };
    for (const [name, bytes] of Object.entries(bad)) {
      const path = join(folder, name);
      await Deno.writeFile(path, bytes);
      await assertRejects(() => grayscaleFile({ path, out }));
      await assertRejects(() => grayscaleFile({ path, out: out + "/new" }));
    }
    const path = join(folder, "good.png");
    await Deno.writeFile(path, probe);
    await assertRejects(() => grayscaleFile({ path, out, maxPixels: 431 }));
    const { renameSync } = Deno;
    try {
      Deno.renameSync = () => {
        throw new Error("no room");
      };
      await assertRejects(() => grayscaleFile({ path, out }), Error, "no room");
    } finally {
      Deno.renameSync = renameSync;
    }
    assertEquals(await Deno.readTextFile(out), "as it was");
    const wanted = ["cut.gif", "cut.png", "good.png", "old.png"];
    assertEquals(namesIn(folder), wanted);
  });
});

// ---- In a pool

Deno.test("grayscale's service: a pool and one thread give the same bytes", async () => {
  await withFolder(async (folder) => {
    const images: Record<string, Uint8Array> = {
      "cut.jpg": (await encode("JPEG", small)).subarray(0, 400),
      "text.png": new TextEncoder().encode("no image"),
    };
    for (const [width, height] of [[24, 18], [61, 47]]) {
      const all = await oneOfEach(draw(width, height));
      for (const [format, bytes] of Object.entries(all)) {
        images[`${width}.${format}`] = bytes;
      }
    }
    for (const [name, bytes] of Object.entries(images)) {
      await Deno.writeFile(join(folder, name), bytes);
    }
    await using pool = new Pool(service, { size: 2 });
    const runs = [];
    for (const runner of [sequential(service), pool, pool]) {
      const out = join(folder, `out ${runs.length}`);
      const orders = Object.keys(images).map((name) => ({
        path: join(folder, name),
        out: join(out, name),
      }));
      const outcomes = await runner.map("grayscaleFile", orders, {
        settle: true,
      });
      assertEquals(namesIn(out).length, orders.length - 2);
      runs.push(
        outcomes.map((outcome, i) =>
          outcome.status === "fulfilled"
            ? [outcome.value.bytes, Deno.readFileSync(orders[i].out)]
            : [outcome.reason.cause.message]
        ),
      );
    }
    assertEquals(runs[1], runs[0]);
    assertEquals(runs[2], runs[0]);
    const causes = runs[0].filter((run) => run.length === 1).flat();
    assertStringIncludes(String(causes[0]), "truncated JPEG");
    assertStringIncludes(String(causes[1]), "not an image");
  });
});

Deno.test("applyGrayscale: is the exercise's stand-in", async () => {
  const { log } = console;
  const lines: unknown[] = [];
  try {
    console.log = (line) => lines.push(line);
    assertEquals(applyGrayscale("image_1.jpg"), "image_1.jpg processed");
  } finally {
    console.log = log;
  }
  assertEquals(lines, ["Processing image_1.jpg"]);
  await using pool = new Pool(service, { size: 2 });
  assertEquals(await pool.map("applyGrayscale", ["a", "b"]), [
    "a processed",
    "b processed",
  ]);
});

// ---- Killed

const REPO = new URL("../../", import.meta.url);

/** Runs a piece of code in a process of its own. */
function start(code: string, args: string[]): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-config", code, ...args],
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).spawn();
}

const CONVERT = `
  import { Pool } from "${new URL("mod.ts", REPO)}";
  import { service } from "${new URL("workers/grayscale.ts", REPO)}";
  const [from, to, times] = Deno.args;
  const names = [...Deno.readDirSync(from)].map(({ name }) => name).sort();
  const orders = names.map((name) =>
    ({ path: from + "/" + name, out: to + "/" + name }));
  await using pool = new Pool(service, { size: 2 });
  for (let time = 0; time < times; time++) {
    await pool.map("grayscaleFile", orders);
  }
`;

Deno.test("a kill in the middle leaves no half file under a real name", async () => {
  await withFolder(async (folder) => {
    const [from, whole, out] = ["from", "whole", "out"].map((name) => {
      Deno.mkdirSync(join(folder, name));
      return join(folder, name);
    });
    // Much to write and little to compute: kills often interrupt a write.
    const gif = { width: 2, height: 1, frames: [[0, 1]] };
    for (let i = 0; i < 16; i++) {
      const palette = [i, 2, 3, 255, i, 0];
      const bytes = encodeGif({ ...gif, palette, comment: 4 << 20 });
      await Deno.writeFile(join(from, `${i}.gif`), bytes);
    }
    // These two need the codec, which is slow to start, so they come last.
    await Deno.writeFile(join(from, "x.png"), probe);
    await Deno.writeFile(join(from, "y.png"), probe);
    assert((await start(CONVERT, [from, whole, "1"]).status).success);
    const names = namesIn(whole);
    assertEquals(names, namesIn(from));
    const random = randomFrom(Date.now());
    for (let run = 0; run < 8; run++) {
      for (const name of namesIn(out)) Deno.removeSync(join(out, name));
      // Repeatedly, so that it is always in the middle of one of them.
      const child = start(CONVERT, [from, out, "Infinity"]);
      // At most two are temporary at a time, so with more files some are done.
      const wanted = 3 + Math.floor(random() * (names.length - 6));
      await waitUntil(() => namesIn(out).length > wanted, child);
      // Some microseconds pass, so that the kill comes anywhere in a write.
      for (let spin = 5e5 * random(); spin > 0; spin--);
      child.kill("SIGKILL");
      assertEquals((await child.status).signal, "SIGKILL");
      for (const name of namesIn(out)) {
        if (isTemporary(name)) continue;
        const [got, good] = [out, whole].map((dir) =>
          Buffer.from(Deno.readFileSync(join(dir, name)))
        );
        assert(got.equals(good), `${name}: ${got.length} of ${good.length}`);
      }
    }
    // What is left is newer than this process, but older than the next one.
    const left = namesIn(out).filter(isTemporary);
    const kept = namesIn(out).filter((name) => !isTemporary(name));
    clearTemporary(out);
    assertEquals(namesIn(out).filter(isTemporary), left);
    const name = ".x.png.1-0a1b2c3d.manyhands";
    await Deno.writeTextFile(join(out, name), "half");
    const clear = `
      import { clearTemporary } from "${new URL(
      "workers/shared/files.ts",
      REPO,
    )}";
      clearTemporary(Deno.args[0]);
    `;
    assert((await start(clear, [out]).status).success);
    assertEquals(namesIn(out), kept);
    assertNotEquals(kept, []);
    // The next run completes what all of them left undone.
    assert((await start(CONVERT, [from, out, "1"]).status).success);
    assertEquals(namesIn(out), names);
  });
});
