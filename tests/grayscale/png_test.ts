import { assert, assertEquals, assertThrows } from "@std/assert";
import { Buffer } from "node:buffer";
import { join } from "@std/path";
import { deflateSync, inflateSync } from "node:zlib";
import { randomFrom } from "../../workers/fixtures.ts";
import { grayscale } from "../../workers/grayscale.ts";
import { grayPng } from "../../workers/grayscale/png.ts";
import { withFolder } from "../tasks/folders.ts";
import {
  decodePng,
  draw,
  encodePng,
  findPillow,
  type Png,
  pngChunk,
  pngChunks,
  pngOf,
} from "./images.ts";

/** PNG, 3rd edition, 11.2.1: the depths of each color type. */
const DEPTHS: Record<number, number[]> = {
  0: [1, 2, 4, 8, 16],
  2: [8, 16],
  3: [1, 2, 4, 8],
  4: [8, 16],
  6: [8, 16],
};
const CHANNELS: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };

const random = randomFrom(7);
const integer = (below: number): number => Math.floor(below * random());

interface Kind {
  colorType: number;
  depth: number;
  transparent: boolean;
}

const KINDS: Kind[] = Object.entries(DEPTHS).flatMap(([type, depths]) =>
  depths.flatMap((depth) =>
    [false, true].filter((transparent) => !transparent || Number(type) < 4)
      .map((transparent) => ({ colorType: Number(type), depth, transparent }))
  )
);

const nameOf = ({ colorType, depth, transparent }: Kind): string =>
  `type ${colorType}, ${depth} bits${transparent ? ", tRNS" : ""}`;

/** Noise in which values repeat, though the depth would allow more. */
function noise(length: number, depth: number): number[] {
  const few = Array.from({ length: 4 }, () => integer(2 ** depth));
  return Array.from(
    { length },
    () => random() < 0.5 ? integer(2 ** depth) : few[integer(4)],
  );
}

/** A picture of a kind; some pixels have the color that is transparent. */
function some(kind: Kind, width: number, height: number): Png {
  const { colorType, depth, transparent } = kind;
  const channels = CHANNELS[colorType];
  const samples = noise(width * height * channels, depth);
  const png: Png = { width, height, colorType, depth, samples };
  if (colorType === 3) {
    const colors = 2 ** depth;
    png.palette = Array.from({ length: 3 * colors }, () => integer(256));
    // There may be fewer than there are colors: the others are opaque.
    const length = 1 + integer(colors);
    if (transparent) {
      png.transparency = Array.from({ length }, () => integer(256));
    }
  } else if (transparent) {
    const at = channels * integer(width * height);
    const color = samples.slice(at, at + channels);
    for (let i = 0; i < samples.length; i += channels * (1 + integer(5))) {
      color.forEach((value, k) => samples[i + k] = value);
      // Some differ from it by little.
      if (random() < 0.3) samples[i + integer(channels)] ^= 1;
    }
    png.transparency = color.flatMap((value) => [value >> 8, value & 255]);
  }
  return png;
}

/** ITU-R BT.601 of samples of any depth, rounded. */
const luma = (r: number, g: number, b: number): number =>
  Math.floor((19595 * r + 38470 * g + 7471 * b + 32768) / 65536);

/** What a picture in color becomes, pixel by pixel. */
function grayOf(png: Png): Png {
  const { width, height, colorType, samples, palette, transparency } = png;
  const depth = Math.max(8, png.depth), most = 2 ** depth - 1;
  const hasAlpha = colorType === 6 || transparency !== undefined;
  const out: number[] = [];
  for (let i = 0; i < samples.length; i += CHANNELS[colorType]) {
    const [r, g, b, a = most] = Array.from(
      { length: CHANNELS[colorType] },
      (_, k) => samples[i + k],
    );
    if (colorType === 3) {
      const [red, green, blue] = palette!.slice(3 * r);
      out.push(luma(red, green, blue));
      if (hasAlpha) out.push(transparency![r] ?? 255);
    } else {
      const clear = transparency &&
        [0, 2, 4].map((k) =>
          depth === 8
            ? transparency[k + 1]
            : transparency[k] << 8 | transparency[k + 1]
        );
      const isClear = clear &&
        [r, g, b].every((value, k) => value === clear[k]);
      out.push(luma(r, g, b));
      if (hasAlpha) out.push(isClear ? 0 : a);
    }
  }
  const type = hasAlpha ? 4 : 0;
  return { width, height, colorType: type, depth, samples: out };
}

/** Checks that a result is what the reference makes of a picture. */
function checkGray(bytes: Uint8Array, png: Png, clue: string): void {
  const copy = bytes.slice(), result = grayPng(bytes);
  assert(Buffer.from(bytes).equals(copy), `${clue}: the input is changed`);
  if (png.colorType === 0 || png.colorType === 4) {
    assert(Buffer.from(result).equals(bytes), `${clue}: not as it was`);
    return;
  }
  const { samples, ...after } = decodePng(result);
  const { samples: wanted, ...before } = grayOf(png);
  assertEquals(after, { ...before, interlace: false }, clue);
  const off = Array.from(wanted).findIndex((value, i) => value !== samples[i]);
  assertEquals(off, -1, `${clue}: sample ${off}`);
}

// ---- Good files

Deno.test("the reference reads what it writes", () => {
  for (const kind of KINDS) {
    for (const interlace of [false, true]) {
      const png = { ...some(kind, 19, 13), interlace };
      const { samples } = decodePng(encodePng(png));
      assertEquals(Array.from(samples), png.samples, nameOf(kind));
    }
  }
});

for (const kind of KINDS) {
  Deno.test(`grayPng: ${nameOf(kind)}, every filter, sizes 1 to 17`, () => {
    for (const interlace of [false, true]) {
      for (const filter of [undefined, 0, 1, 2, 3, 4]) {
        for (let width = 1; width <= 17; width++) {
          const height = 1 + (width * 5 + (filter ?? 7)) % 17;
          const png = { ...some(kind, width, height), interlace, filter };
          const way = interlace ? "interlaced" : "not interlaced";
          const clue = `${width}x${height}, ${way}, filter ${filter}`;
          checkGray(encodePng(png), png, clue);
        }
      }
    }
  });
}

Deno.test("grayPng: larger pictures, of many bands", () => {
  for (const kind of KINDS.filter(({ colorType }) => colorType % 4 !== 0)) {
    for (const interlace of [false, true]) {
      const png = { ...some(kind, 257, 203), interlace };
      checkGray(encodePng(png), png, nameOf(kind));
    }
  }
  // A band of two rows, and of one: a row of 300 kB.
  for (const [width, height] of [[21_001, 9], [100_003, 3]]) {
    for (const filter of [undefined, 4]) {
      const kind = { colorType: 2, depth: 8, transparent: false };
      const png = { ...some(kind, width, height), filter };
      checkGray(encodePng(png), png, `${width}x${height}`);
    }
  }
});

Deno.test("grayPng: a picture of several parts, each compressed in its own way", () => {
  const [width, height] = [1500, 1450],
    samples = new Uint16Array(4 * width * height);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const shade = y < 1390
        ? (x + y) % 7 * 9000
        : x * 40503 + integer(40) & 65535;
      samples.fill(shade, i, i += 3);
      samples[i++] = y < 700 ? 65535 : 3 * x;
    }
  }
  const png = { width, height, colorType: 6, depth: 16, samples, filter: 0 };
  const { samples: gray, ...after } = decodePng(grayPng(encodePng(png)));
  assertEquals(after, {
    width,
    height,
    colorType: 4,
    depth: 16,
    interlace: false,
  });
  const off = Array.from(gray).findIndex((value, i) =>
    value !== samples[4 * (i >> 1) + (i % 2 ? 3 : 0)]
  );
  assertEquals(off, -1);
});

Deno.test("grayPng: every pair of a channel's values, in 8 and 16 bits", () => {
  for (const depth of [8, 16]) {
    const most = 2 ** depth - 1, scale = depth === 8 ? 1 : 257;
    const samples: number[] = [];
    for (let i = 0; i < 65536; i++) {
      const all = [i & 255, i >> 8, i * 40503 >> 8 & 255];
      samples.push(...all.map((value) => value * scale));
    }
    samples.splice(0, 6, most, most, most, most, most, most - 1);
    for (const colorType of [2, 6]) {
      const png: Png = {
        ...{ width: 256, height: 256, colorType, depth },
        samples: colorType === 2
          ? samples
          : samples.flatMap((value, i) => i % 3 < 2 ? [value] : [value, i % 7]),
      };
      checkGray(encodePng(png), png, `type ${colorType}, ${depth} bits`);
    }
  }
});

Deno.test("grayPng: a transparent color is compared by its lower bytes, if 8 bits", () => {
  const kind = { colorType: 2, depth: 8, transparent: true };
  const png = some(kind, 20, 20), lower = png.transparency!;
  const transparency = lower.map((value, i) => i % 2 ? value : 77);
  checkGray(encodePng({ ...png, transparency }), png, "8 bits");
  // With 16 bits both bytes count.
  const deep = some({ ...kind, depth: 16 }, 20, 20);
  const other = deep.transparency!.map((value, i) => i % 2 ? value : value ^ 1);
  const changed = { ...deep, transparency: other };
  checkGray(encodePng(changed), changed, "16 bits");
});

/** Text, a photograph, flat colors: each compresses best in its own way. */
const SCENES: Record<string, (x: number, y: number) => number> = {
  "a part for each filter": (x, y) => {
    const some = (n: number) => n * 40503 >> 4 & 127;
    if (y < 60) return random() < 0.1 ? 99 : 0;
    const parts = [some(y), some(x), 99 + integer(40)];
    return (parts[(y >> 6) - 1] ?? some(x >> 3) + some(y >> 1)) + integer(3);
  },
  "noise": () => integer(256),
  "photograph": (x, y) => 128 + 90 * Math.sin(x / 50 + y / 90) + integer(9),
  "flat": (x, y) => x > 300 && y > 99 ? 200 : 30,
  "gradient": (x, y) => (x + y) / 4 & 255,
  "text": (x, y) => x * y % 97 % 8 && (x >> 3) * 7 + (y >> 4) & 3 ? 255 : 0,
};

Deno.test("grayPng: is as small as what Pillow writes, whatever it shows", () => {
  for (const [name, shade] of Object.entries(SCENES)) {
    const [width, height] = [637, 300];
    const samples = new Uint8Array(3 * width * height);
    for (let i = 0; i < width * height; i++) {
      samples.fill(shade(i % width, Math.floor(i / width)), 3 * i, 3 * i + 3);
    }
    const png = { width, height, colorType: 2, depth: 8, samples };
    const bytes = encodePng(png), gray = grayPng(bytes);
    checkGray(bytes, png, name);
    const data = Buffer.concat(
      pngChunks(gray).filter(([type]) => type === "IDAT").map(([, d]) => d),
    );
    // The size with libpng's heuristic and zlib's level 6.
    const rows = leastSums(decodePng(gray));
    assert(data.length <= 1.03 * deflateSync(rows).length, name);
    if (name !== "a part for each filter") continue;
    assert(inflateSync(data).equals(rows), "its filters are others");
    const kinds = rows.filter((_, i) => i % (1 + width) === 0);
    assertEquals([...new Set(kinds)].sort(), [0, 1, 2, 3, 4]);
  }
});

/** Filters the rows of an image of 8 bits by the smallest sum (12.7). */
function leastSums({ width, height, samples }: Png): Uint8Array {
  const at = (x: number, y: number) =>
    x < 0 || y < 0 ? 0 : samples[y * width + x];
  const out: number[] = [];
  for (let y = 0; y < height; y++) {
    const all = [0, 1, 2, 3, 4].map((kind) =>
      Array.from({ length: width }, (_, x) => {
        const a = at(x - 1, y), b = at(x, y - 1), c = at(x - 1, y - 1);
        const p = a + b - c;
        const [pa, pb, pc] = [a, b, c].map((value) => Math.abs(p - value));
        const paeth = pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
        const guess = [0, a, b, a + b >> 1, paeth][kind];
        return at(x, y) - guess & 255;
      })
    );
    const sums = all.map((row) =>
      row.reduce((sum, value) => sum + (value < 128 ? value : 256 - value), 0)
    );
    const kind = sums.indexOf(Math.min(...sums));
    out.push(kind, ...all[kind]);
  }
  return new Uint8Array(out);
}

Deno.test("grayPng: data in many IDAT chunks, and what follows the end", () => {
  const png = some({ colorType: 2, depth: 8, transparent: false }, 40, 30);
  const bytes = encodePng(png), chunks = pngChunks(bytes);
  const data = Buffer.concat(
    chunks.filter(([type]) => type === "IDAT").map(([, part]) => part),
  );
  const wanted = grayPng(bytes);
  const split = (...parts: Uint8Array[]) =>
    Buffer.concat([
      bytes.subarray(0, 33),
      ...parts.map((part) => pngChunk("IDAT", part)),
      pngChunk("IEND", []),
    ]);
  const none = new Uint8Array();
  const single = Array.from(data, (byte) => new Uint8Array([byte]));
  assertEquals(grayPng(split(data)), wanted);
  assertEquals(grayPng(split(...single)), wanted);
  assertEquals(grayPng(split(none, data, none, none)), wanted);
  // As in libpng and Pillow, what follows the stream is ignored.
  assertEquals(grayPng(split(data, new Uint8Array([1, 2, 3]))), wanted);
  for (const rest of [[0], [1, 2, 3], [...bytes]]) {
    assertEquals(grayPng(Buffer.concat([bytes, Buffer.from(rest)])), wanted);
  }
});

// ---- Chunks

const latin = (text: string): Uint8Array =>
  new Uint8Array(Buffer.from(text, "latin1"));

/** Chunks by what happens to them: those that stay, in their order. */
const KEPT: [string, Uint8Array][] = [
  ["gAMA", latin("\0\0\xb1\x8f")],
  ["sRGB", latin("\0")],
  ["pHYs", latin("\0\0\x0b\x13\0\0\x0b\x13\x01")],
  ["tIME", latin("\x07\xe8\x02\x1d\x17\x3b\x3c")],
  ["tEXt", latin("Title\0a picture")],
  ["tEXt", latin("Author\0somebody")],
  ["zTXt", latin("Comment\0\0" + deflateSync("long").toString("latin1"))],
  ["iTXt", latin("XML:com.adobe.xmp\0\0\0\0\0<x/>")],
  ["eXIf", latin("II*\0\x08\0\0\0\0\0\0\0\0\0")],
  ["oFFs", latin("\0\0\0\0\0\0\0\0\0")],
  ["abCd", latin("private, and safe to copy")],
];
const DROPPED: [string, Uint8Array][] = [
  ["cHRM", new Uint8Array(32)],
  ["iCCP", latin("a\0\0xyz")],
  ["sBIT", latin("\x05\x06\x05")],
  ["cICP", latin("\x01\x0d\0\x01")],
  ["mDCV", new Uint8Array(24)],
  ["cLLI", new Uint8Array(8)],
  ["mDCv", new Uint8Array(24)],
  ["sPLT", latin("a\0\x08")],
  ["bKGD", new Uint8Array(6)],
  ["abCD", latin("private, and not safe to copy")],
];
const chunksOf = (list: [string, Uint8Array][]) =>
  list.map(([type, data]) => pngChunk(type, data));

Deno.test("grayPng: what Node has in its pool stays, however large that is", () => {
  const picture = some(
    { colorType: 2, depth: 8, transparent: false },
    400,
    300,
  );
  const png = encodePng(picture), gray = grayPng(png);
  const { poolSize } = Buffer;
  Buffer.poolSize = 1 << 24;
  try {
    const other = Buffer.alloc(1 << 20, "a"), pooled = Buffer.from(other);
    for (let i = 0; i < 3; i++) assertEquals(grayPng(png), gray);
    assert(pooled.equals(other));
  } finally {
    Buffer.poolSize = poolSize;
  }
});

Deno.test("grayPng: chunks stay that are true of gray, and the others go", () => {
  const kind = { colorType: 2, depth: 8, transparent: true };
  const mixed = KEPT.flatMap((one, i) =>
    DROPPED[i] ? [DROPPED[i], one] : [one]
  );
  const png = { ...some(kind, 9, 9), chunks: chunksOf(mixed) };
  const palette = new Array(30).fill(5); // for viewers with few colors
  const after = pngChunks(grayPng(encodePng({ ...png, palette })));
  assertEquals(after[0][0], "IHDR");
  assertEquals(after.slice(1, -2), KEPT);
  assertEquals(after.slice(-2).map(([type]) => type), ["IDAT", "IEND"]);
});

Deno.test("grayPng: what stands behind the pixels stays there", () => {
  const png = some({ colorType: 2, depth: 8, transparent: false }, 9, 9);
  const bytes = encodePng(png);
  const behind = [KEPT[3], KEPT[4], KEPT[8], DROPPED[9]];
  // These are not allowed there, and readers ignore them.
  const astray = [KEPT[0], KEPT[1]];
  const whole = Buffer.concat([
    bytes.subarray(0, -12),
    ...chunksOf([...behind, ...astray]),
    bytes.subarray(-12),
  ]);
  const after = pngChunks(grayPng(whole));
  assertEquals(after[1][0], "IDAT");
  assertEquals(after.slice(2, -1), behind.slice(0, 3));
  checkGray(whole, png, "behind");
});

Deno.test("grayPng: a gray one keeps all of its chunks", () => {
  const list = [...DROPPED.filter(([type]) => type !== "bKGD"), ...KEPT];
  for (const colorType of [0, 4]) {
    const png = some({ colorType, depth: 8, transparent: false }, 9, 9);
    const bytes = encodePng({ ...png, chunks: chunksOf(list) });
    assertEquals(grayPng(bytes), bytes);
    const more = Buffer.concat([bytes, latin("trailing")]);
    assertEquals(grayPng(more), bytes);
  }
});

Deno.test("grayPng: without frames there is no animation", () => {
  const png = some({ colorType: 2, depth: 8, transparent: false }, 9, 9);
  const frames = pngChunk("acTL", [0, 0, 0, 1, 0, 0, 0, 0]);
  const control = pngChunk("fcTL", new Uint8Array(26));
  const none = pngChunk("acTL", new Uint8Array(8));
  for (const chunks of [[frames], [control], [none, control]]) {
    const after = pngChunks(grayPng(encodePng({ ...png, chunks })));
    assertEquals(after.map(([type]) => type), ["IHDR", "IDAT", "IEND"]);
  }
});

Deno.test("grayPng: checkHeader gets the size before a pixel is read", () => {
  const png = some({ colorType: 2, depth: 16, transparent: false }, 9, 7);
  const bytes = encodePng(png), headers: unknown[] = [];
  grayPng(bytes, ({ width, height }) => {
    headers.push([width, height]);
  });
  assertEquals(headers, [[9, 7]]);
  const cut = bytes.subarray(0, 40);
  assertThrows(
    () =>
      grayPng(cut, () => {
        throw new Error("no");
      }),
    Error,
    "no",
  );
});

// ---- Against Pillow

Deno.test("grayPng: gives the pixels that Pillow gives", async () => {
  const python = await findPillow();
  if (!python) return console.warn("SKIPPED: no Python with Pillow is here");
  await withFolder(async (folder) => {
    const images: Record<string, Uint8Array> = {
      "drawn": pngOf(draw(61, 47), false),
      "drawn, alpha": pngOf(draw(61, 47, true)),
    };
    for (const kind of KINDS) {
      // Pillow has no 16-bit gray with alpha, and reduces 16-bit color to 8.
      if (kind.depth > 8 || kind.colorType === 0 && kind.transparent) continue;
      for (const interlace of [false, true]) {
        const png = { ...some(kind, 61, 47), interlace };
        images[`${nameOf(kind)}, ${interlace}`] = encodePng(png);
      }
    }
    const names = Object.keys(images);
    for (const [i, name] of names.entries()) {
      await Deno.writeFile(join(folder, `${i}.png`), images[name]);
      const gray = await grayscale(images[name]);
      await Deno.writeFile(join(folder, `${i}.gray.png`), gray);
    }
    // Pillow gives the alpha of a palette only after a conversion to RGBA.
    const script = `import sys, PIL.Image
for i in range(${names.length}):
    before = PIL.Image.open(f"{i}.png").convert("RGBA")
    after = PIL.Image.open(f"{i}.gray.png")
    after.load()
    same = before.convert("L").tobytes() == after.convert("L").tobytes()
    alpha = after.convert("RGBA").getchannel("A").tobytes()
    same = same and alpha == before.getchannel("A").tobytes()
    print(after.mode, before.size == after.size and same)`;
    const { stdout, success } = await new Deno.Command(python, {
      args: ["-c", script],
      cwd: folder,
      stderr: "inherit",
    }).output();
    assert(success);
    const lines = new TextDecoder().decode(stdout).trim().split("\n");
    assertEquals(lines.length, names.length);
    for (const [i, name] of names.entries()) {
      assert(/^(1|L|LA) True$/.test(lines[i]), `${name}: ${lines[i]}`);
    }
  });
});
