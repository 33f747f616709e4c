/** Damaged GIFs, BMPs, APNGs and animated WebPs: an image, or a line. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { randomFrom } from "../../workers/fixtures.ts";
import { grayscale } from "../../workers/grayscale.ts";
import { useCodec } from "../../workers/grayscale/codec.ts";
import {
  encodeApng,
  encodeBmpOf,
  encodeGif,
  encodeWebpFrames,
  type Png,
} from "./images.ts";

const width = 9, height = 7;
const numbers = Array.from({ length: width * height }, (_, i) => i * 5 % 8);
const palette = Array.from({ length: 24 }, (_, i) => i * 10);

const png = (width: number, height: number): Png => ({
  ...{ width, height, colorType: 2, depth: 8 },
  samples: Array.from({ length: width * height * 3 }, (_, i) => i * 7 % 256),
});

async function animatedWebp(): Promise<Uint8Array> {
  const { MagickFormat, MagickImage, MagickReadSettings } = await useCodec();
  const image = MagickImage.create(), size = { width: 6, height: 4 };
  try {
    const data = Uint8Array.from({ length: 96 }, (_, i) => i * 11 % 256);
    const format = MagickFormat.Rgba;
    image.read(data, new MagickReadSettings({ ...size, format, depth: 8 }));
    const still = image.write(MagickFormat.WebP, (bytes) => bytes.slice());
    const frame = { ...size, still, left: 0, top: 0, time: 40, flags: 0 };
    return encodeWebpFrames([frame, { ...frame, left: 2 }], {
      width: 8,
      height: 4,
    });
  } finally {
    image.dispose();
  }
}

const frame = { left: 0, top: 0, times: [1, 10, 0, 0] as Frame["times"] };
type Frame = Parameters<typeof encodeApng>[0][number];

const KINDS: Record<string, { good: Uint8Array[]; count: number }> = {
  "GIF": {
    good: [
      encodeGif({ width, height, palette, frames: [numbers] }),
      encodeGif({
        width,
        height,
        palette,
        frames: [numbers, numbers],
        local: true,
      }),
    ],
    count: 10_000,
  },
  "BMP": {
    good: [1, 4, 8, 16, 24, 32].map((bits) =>
      encodeBmpOf({
        ...{ width, height, header: bits === 16 ? 108 : 40, bits },
        pixels: numbers.map((n) => bits === 1 ? n & 1 : n * 31),
        palette: Array.from({ length: 3 * 2 ** Math.min(8, bits) }, (_, i) =>
          i & 255),
        ...bits === 16 && { masks: [0xf800, 0x7e0, 0x1f] },
      })
    ),
    count: 10_000,
  },
  "APNG": {
    good: [encodeApng([
      { ...frame, png: png(width, height) },
      { ...frame, png: png(4, 3), left: 2 },
    ])],
    count: 10_000,
  },
  // Of each the codec decodes two frames.
  "WebP": { good: [await animatedWebp()], count: 1500 },
};

for (const [name, { good, count }] of Object.entries(KINDS)) {
  Deno.test(`${count} damaged ${name}s: an image, or a line; then a good one`, async () => {
    const random = randomFrom(31);
    const integer = (below: number) => Math.floor(below * random());
    const wanted: Uint8Array[] = [];
    for (const bytes of good) wanted.push(await grayscale(bytes));
    const counts = { refused: 0, converted: 0, salvaged: 0 };
    const attempt = async (
      bytes: Uint8Array,
      clue: string,
      salvage: boolean,
    ) => {
      try {
        return await grayscale(bytes, { maxPixels: 1e5, salvage });
      } catch (error) {
        const { name, message, stack } = error as Error;
        assertEquals(name, "Error", `${clue}: ${stack}`);
        assertMatch(message, /^[^\n\r\\@`]{8,200}$/, clue);
      }
    };
    for (let n = 0; n < count; n++) {
      const bytes = good[n % good.length].slice(), at = integer(bytes.length);
      const kind = integer(4), clue = `${name}, mutation ${n}`;
      if (kind === 0) bytes[at] ^= 1 << integer(8);
      else if (kind === 1) bytes.fill(integer(256), at, at + 1 + integer(20));
      else if (kind === 2) bytes.copyWithin(at, at + 1 + integer(8));
      else bytes[integer(60)] = [0, 1, 2, 127, 128, 255][integer(6)];
      if (await attempt(bytes, clue, false)) counts.converted++;
      else {
        counts.refused++;
        if (await attempt(bytes, clue, true)) counts.salvaged++;
      }
    }
    assert(counts.refused > count / 20, JSON.stringify(counts));
    assert(counts.converted > count / 20, JSON.stringify(counts));
    for (const [i, bytes] of good.entries()) {
      assertEquals(await grayscale(bytes), wanted[i], `${name} ${i}`);
    }
  });
}
