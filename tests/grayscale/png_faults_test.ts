/**
 * PNGs that are damaged: each is refused in one line that says what is wrong
 * and where, or gives an image that can be read; and the next one is converted
 * as ever.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { Buffer } from "node:buffer";
import { join } from "@std/path";
import { constants, crc32, deflateRawSync, deflateSync } from "node:zlib";
import { sequential } from "../../mod.ts";
import { randomFrom } from "../../workers/fixtures.ts";
import { grayscale, service } from "../../workers/grayscale.ts";
import * as kernels from "../../workers/kernels/kernels.wasm";
import { grayPng } from "../../workers/grayscale/png.ts";
import { namesIn, withFolder } from "../tasks/folders.ts";
import {
  decodePng,
  encodePng,
  findPillow,
  type Png,
  pngChunk,
  pngChunks,
  pngRows,
} from "./images.ts";

const random = randomFrom(11);
const integer = (below: number): number => Math.floor(below * random());

const CHANNELS: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };

function some(colorType: number, depth: number, more: Partial<Png> = {}): Png {
  const [width, height] = [23, 17];
  const length = width * height * CHANNELS[colorType];
  const samples = Array.from({ length }, () => integer(2 ** depth));
  return { width, height, colorType, depth, samples, ...more };
}

/** A palette with fewer colors than the depth allows. */
const palette = Array.from({ length: 3 * 13 }, () => integer(256));
const numbers = Array.from({ length: 23 * 17 }, () => integer(13));
const text = pngChunk("tEXt", Buffer.from("Title\0a picture"));

const PNGS: Record<string, Png> = {
  "RGB": some(2, 8, { chunks: [text] }),
  "RGB, interlaced": some(2, 8, { interlace: true }),
  "RGB, tRNS": some(2, 8, { transparency: [0, 1, 0, 2, 0, 3] }),
  "RGB, 16 bits": some(2, 16),
  "RGBA": some(6, 8),
  "RGBA, 16 bits, interlaced": some(6, 16, { interlace: true }),
  "palette": some(3, 4, { palette, samples: numbers }),
  "palette, tRNS": some(3, 8, {
    ...{ palette, samples: numbers, transparency: [0, 127] },
  }),
  "gray": some(0, 8),
  "gray, 1 bit, interlaced": some(0, 1, { interlace: true }),
  "gray, alpha": some(4, 16),
};

const wanted = Object.entries(PNGS).map(([name, png]) => {
  const bytes = encodePng(png);
  return { name, png, bytes, gray: grayPng(bytes) };
});
const GOOD = Object.fromEntries(wanted.map(({ name, bytes }) => [name, bytes]));

/** Checks that good files are still converted, whatever was tried before. */
function checkGood(clue: string): void {
  for (const { name, bytes, gray } of wanted) {
    assertEquals(grayPng(bytes), gray, `${name}, after ${clue}`);
  }
}

/** The message with which a file is refused. */
function refusal(bytes: Uint8Array, clue: string): string {
  const { message } = assertThrows(() => grayPng(bytes), Error, "", clue);
  assertMatch(
    message,
    /^(broken|truncated|unsupported) PNG: [A-Za-z ,():/0-9-]+ (at byte|row) \d+$/,
    clue,
  );
  const [, at] = /byte (\d+)$/.exec(message) ?? [];
  if (at) assert(Number(at) <= bytes.length, `${clue}: ${message}`);
  return message;
}

type Part = [type: string, data: ArrayLike<number>];

/** Puts a file together from chunks. */
const fileOf = (chunks: Part[]): Uint8Array =>
  new Uint8Array(Buffer.concat([
    Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
    ...chunks.map(([type, data]) => pngChunk(type, data)),
  ]));

/** IHDR, with some bytes of it changed. */
function headerOf(name: string, at = 0, ...values: number[]): Part {
  const data = pngChunks(GOOD[name])[0][1].slice();
  data.set(values, at);
  return ["IHDR", data];
}

const END: Part = ["IEND", []];
const dataOf = (rows: Uint8Array): Part => ["IDAT", deflateSync(rows)];

/** What is between a file's IHDR and its IEND. */
const bodyOf = (name: string): Part[] => pngChunks(GOOD[name]).slice(1, -1);

/** Alpha and samples of 8 or 16 bits, whatever a gray PNG has. */
function pixelsOf(bytes: Uint8Array): { gray: number[]; alpha: number[] } {
  const { colorType, depth, samples } = decodePng(bytes);
  const step = colorType === 4 ? 2 : 1, most = 2 ** depth - 1;
  const all = Array.from(samples, (v) => depth < 8 ? v * 255 / most : v);
  return {
    gray: all.filter((_, i) => i % step === 0),
    alpha: step === 2 ? all.filter((_, i) => i % 2) : [],
  };
}

/** What is said about a file that is converted, and its pixels; or the error. */
function attempt(bytes: Uint8Array, salvage = false) {
  const warnings: string[] = [];
  try {
    const gray = grayPng(bytes, undefined, (w) => warnings.push(w), salvage);
    for (const line of warnings) {
      assertMatch(line, /^[A-Za-z0-9 ,;():/'-]+$/);
    }
    return { warnings, gray };
  } catch (error) {
    return { warnings, error: (error as Error).message };
  }
}

Deno.test("a truncated PNG is refused, unless all of its pixels are there", () => {
  for (const { name, bytes, gray } of wanted) {
    const right = pixelsOf(gray);
    let converted = 0;
    for (let cut = 8; cut < bytes.length; cut++) {
      const clue = `${name}, cut at ${cut}`;
      const { warnings, gray, error } = attempt(bytes.subarray(0, cut));
      if (gray) {
        converted++;
        assertEquals(pixelsOf(gray), right, clue);
        const line = `the file's early end at byte ${cut}`;
        assert(warnings.includes(line), `${clue}: ${warnings}`);
      } else {
        const line = `truncated PNG: the file ends too early at byte ${cut}`;
        assertEquals(error, line, name);
        assertEquals(converted, 0, clue); // none after one that was converted
      }
    }
    // IEND, the checksum of IDAT, the Adler-32, and the end of the last block.
    assert(converted >= 20 && converted < 24, `${name}: ${converted}`);
    checkGood(`${name}, cut`);
  }
});

Deno.test("truncated pixels are not mended by checksums and an IEND", () => {
  for (const { name, png, bytes, gray } of wanted) {
    const [header, ...rest] = pngChunks(bytes);
    const before = rest.filter(([type]) => /PLTE|tRNS/.test(type));
    const stream = deflateSync(pngRows(png)), right = pixelsOf(gray);
    for (let cut = 0; cut < stream.length; cut += cut < 20 ? 1 : 7) {
      const data: Part = ["IDAT", stream.subarray(0, cut)];
      const file = fileOf([header, ...before, data, END]);
      const clue = `${name}, cut at ${cut}`, { gray, error } = attempt(file);
      if (gray) {
        assert(cut > stream.length - 8, clue);
        assertEquals(pixelsOf(gray), right, clue);
      } else {
        const line = /^broken PNG: too little image data \(IDAT\) at byte/;
        assertMatch(error!, line, clue);
      }
    }
    const short = pngRows(png).subarray(0, -1);
    const few = fileOf([header, ...before, dataOf(short), END]);
    assertMatch(refusal(few, name), /too little image data/);
  }
});

Deno.test("a bit that is flipped anywhere is found, and changes no gray", () => {
  for (const { name, bytes, gray } of wanted) {
    const right = pixelsOf(gray);
    let converted = 0;
    for (let at = 8; at < bytes.length; at++) {
      const flipped = bytes.slice();
      flipped[at] ^= 1 << at % 8;
      const clue = `${name}, byte ${at}`;
      const { warnings, gray, error } = attempt(flipped);
      if (!gray) {
        assertMatch(error!, /^(broken|truncated|unsupported) PNG: /, clue);
        continue;
      }
      assert(warnings.length > 0, clue);
      converted++;
      const { gray: samples, alpha } = pixelsOf(gray);
      assertEquals(samples, right.gray, clue);
      // Of a tRNS whose checksum is wrong nothing is taken, as by libpng.
      if (!/tRNS/.test(name)) assertEquals(alpha, right.alpha, clue);
    }
    assert(converted >= 12, name); // all of IEND, texts and tRNS
  }
  checkGood("flipped bits");
});

Deno.test("chunks that are bad, missing, repeated or astray are refused", () => {
  const rgb = bodyOf("RGB"), colors = bodyOf("palette");
  const header = headerOf("RGB"), indexed = headerOf("palette");
  const transparent = headerOf("palette, tRNS");
  const [PLTE] = colors;
  const images = rgb.filter(([type]) => type === "IDAT");
  const entries = (count: number): Part => ["PLTE", new Uint8Array(3 * count)];
  const cases: Record<string, [Part[], string | RegExp]> = {
    "no chunk at all": [[], "truncated PNG: the file ends too early at byte 8"],
    "no IHDR": [[...rgb, END], "broken PNG: no IHDR chunk at byte 8"],
    "IHDR behind another": [
      [["gAMA", [0, 0, 0, 1]], header, ...rgb, END],
      "no IHDR chunk at byte 8",
    ],
    "CgBI": [
      [["CgBI", [0x50, 0, 0x20, 2]], header, ...rgb, END],
      "unsupported PNG: made by Xcode for iPhones alone (CgBI) at byte 8",
    ],
    "a second IHDR": [[header, header, ...rgb, END], "second IHDR chunk"],
    "a short IHDR": [
      [["IHDR", Array.from(header[1]).slice(1)], ...rgb, END],
      "bad size of a chunk (IHDR) at byte 8",
    ],
    "a long IHDR": [
      [["IHDR", [...Array.from(header[1]), 0]], ...rgb, END],
      "bad size of a chunk (IHDR)",
    ],
    "no IDAT": [[header, END], "no IDAT chunk at byte 33"],
    "nothing in IDAT": [[header, ["IDAT", []], END], "too little image data"],
    "IDAT in two places": [
      [header, images[0], ["tEXt", [65, 0]], images[1], END],
      "IDAT chunk apart from the others",
    ],
    "no PLTE": [[indexed, ...colors.slice(1), END], "no PLTE chunk"],
    "two PLTE": [[indexed, PLTE, ...colors, END], "second PLTE chunk"],
    "no color": [[indexed, entries(0), END], "bad size of a chunk (PLTE)"],
    "257 colors": [[transparent, entries(257), END], "(PLTE)"],
    "a third of a color": [
      [indexed, ["PLTE", [1, 2, 3, 4]], END],
      "bad size of a chunk (PLTE)",
    ],
    "an unknown critical chunk": [
      [header, ["ABCD", [1]], ...rgb, END],
      "unsupported PNG: unknown critical chunk (ABCD) at byte 33",
    ],
    "a chunk that has no name": [
      [header, ["a\0b1", [1]], ...rgb, END],
      "no chunk where one should be at byte 33",
    ],
  };
  for (const [name, [chunks, cause]] of Object.entries(cases)) {
    const message = refusal(fileOf(chunks), name);
    const isSo = typeof cause === "string"
      ? message.includes(cause)
      : cause.test(message);
    assert(isSo, `${name}: ${message}`);
  }
  checkGood("bad chunks");
});

/** Files with a fault beside the pixels: what they look like, and what is said. */
function faulty(): Record<string, [Part[], of: string, line: string]> {
  const rgb = bodyOf("RGB"), alpha = bodyOf("RGBA"), gray = bodyOf("gray");
  const header = headerOf("RGB"), indexed = headerOf("palette");
  const transparent = headerOf("palette, tRNS");
  const colors = bodyOf("palette"), [PLTE] = colors;
  const [palette, tRNS, ...data] = bodyOf("palette, tRNS");
  const images = rgb.filter(([type]) => type === "IDAT");
  const stream = deflateSync(pngRows(PNGS.RGB));
  const entries = (count: number): Part => ["PLTE", new Uint8Array(3 * count)];
  const withStream = (...more: number[]): Part[] => [
    header,
    ["IDAT", [...stream, ...more]],
    END,
  ];
  const more = Buffer.concat([pngRows(PNGS.RGB), Buffer.alloc(70, 3)]);
  const files: ReturnType<typeof faulty> = {
    "no IEND": [[header, ...rgb], "RGB", "the file's early end"],
    "an IEND with data": [
      [header, ...rgb, ["IEND", [0]]],
      ...["RGB", "bad size of a chunk (IEND)"] as const,
    ],
    "IDAT again": [
      [header, ...images, ["tEXt", [65, 0]], images[0], END],
      ...["RGB", "IDAT chunk apart from the others"] as const,
    ],
    "a strange chunk behind": [
      [header, ...rgb, ["ABCD", [1]], END],
      ...["RGB", "unknown critical chunk (ABCD)"] as const,
    ],
    "no chunk behind": [
      [header, ...rgb, ["a\0b1", [1]], END],
      ...["RGB", "no chunk where one should be"] as const,
    ],
    "PLTE behind IDAT": [
      [header, ...rgb, PLTE, END],
      ...["RGB", "PLTE chunk behind IDAT, left out"] as const,
    ],
    "PLTE in gray": [
      [headerOf("gray"), PLTE, ...gray, END],
      ...["gray", "PLTE chunk in a gray image, left out, at byte 33"] as const,
    ],
    "PLTE in gray of 1 bit": [
      [
        headerOf("gray, 1 bit, interlaced"),
        ...[PLTE, ...bodyOf("gray, 1 bit, interlaced"), END],
      ],
      ...["gray, 1 bit, interlaced", "PLTE chunk in a gray image"] as const,
    ],
    "PLTE in gray with alpha": [
      [headerOf("gray, alpha"), PLTE, ...bodyOf("gray, alpha"), END],
      ...["gray, alpha", "PLTE chunk in a gray image"] as const,
    ],
    "two PLTE, in RGB": [
      [header, PLTE, PLTE, ...rgb, END],
      ...["RGB", "second PLTE chunk, left out"] as const,
    ],
    "257 colors, in RGB": [
      [header, entries(257), ...rgb, END],
      "RGB",
      "(PLTE)",
    ],
    "17 colors of 4 bits": [
      [
        indexed,
        [
          "PLTE",
          [...Array.from(PLTE[1]), ...new Uint8Array(12)],
        ],
        ...colors.slice(1),
        END,
      ],
      ...["palette", "bad size of a chunk (PLTE)"] as const,
    ],
    "tRNS longer than PLTE": [
      [transparent, palette, ["tRNS", new Uint8Array(14)], ...data, END],
      ...["palette, tRNS", "bad size of a chunk (tRNS), left out"] as const,
    ],
    "an empty tRNS": [
      [transparent, palette, ["tRNS", []], ...data, END],
      ...["palette, tRNS", "bad size of a chunk (tRNS), left out"] as const,
    ],
    "tRNS before PLTE": [
      [transparent, tRNS, palette, ...data, END],
      ...["palette, tRNS", "tRNS chunk before PLTE, left out"] as const,
    ],
    "tRNS before PLTE, in RGB": [
      [header, ["tRNS", [0, 1, 0, 2, 0, 3]], PLTE, ...rgb, END],
      ...["RGB", "tRNS chunk before PLTE, left out"] as const,
    ],
    "a short tRNS": [
      [header, ["tRNS", [0, 1, 0, 2, 0]], ...rgb, END],
      ...["RGB", "bad size of a chunk (tRNS), left out"] as const,
    ],
    "a long tRNS, in gray": [
      [headerOf("gray"), ["tRNS", [0, 1, 0]], ...gray, END],
      ...["gray", "bad size of a chunk (tRNS), left out"] as const,
    ],
    "tRNS beside alpha": [
      [headerOf("RGBA"), ["tRNS", [0, 1, 0, 2, 0, 3]], ...alpha, END],
      ...["RGBA", "tRNS chunk in an image with alpha, left out"] as const,
    ],
    "tRNS behind IDAT": [
      [header, ...rgb, ["tRNS", [0, 1, 0, 2, 0, 3]], END],
      ...["RGB", "tRNS chunk behind IDAT, left out"] as const,
    ],
    "two tRNS": [
      [transparent, palette, tRNS, ["tRNS", [9, 9]], ...data, END],
      ...["palette, tRNS", "second tRNS chunk, left out"] as const,
    ],
    "a gAMA of 3 bytes": [
      [header, ["gAMA", [1, 2, 3]], ...rgb, END],
      ...["RGB", "bad size of a chunk (gAMA), left out"] as const,
    ],
    "bytes behind the stream": [
      withStream(1, 2, 3),
      ...["RGB", "3 bytes behind the image data"] as const,
    ],
    "rows behind the last": [
      [header, dataOf(more), END],
      ...["RGB", "image data (IDAT) of more than 23x17 pixels"] as const,
    ],
    "no Adler-32": [
      [header, ["IDAT", stream.subarray(0, -4)], END],
      ...["RGB", "image data without their checksum (Adler-32)"] as const,
    ],
    "half an Adler-32": [
      [header, ["IDAT", stream.subarray(0, -2)], END],
      ...["RGB", "image data without their checksum (Adler-32)"] as const,
    ],
  };
  const sizes: Record<string, number> = { gAMA: 4, sRGB: 1, pHYs: 9, tIME: 7 };
  for (const type of ["gAMA", "sRGB", "pHYs", "tIME", "eXIf", "iCCP", "bKGD"]) {
    const one: Part = [type, new Uint8Array(sizes[type] ?? 5)];
    const other: Part = [type, new Uint8Array(sizes[type] ?? 5).fill(1)];
    const line = `second ${type} chunk, left out`;
    files[`two ${type}`] = [[header, one, other, ...rgb, END], "RGB", line];
    files[`two ${type}, apart`] = [
      [header, one, ...rgb, other, END],
      "RGB",
      line,
    ];
  }
  return files;
}

Deno.test("a fault beside the pixels is a line, and the pixels are converted", () => {
  for (const [name, [chunks, of, line]] of Object.entries(faulty())) {
    const { warnings, gray, error } = attempt(fileOf(chunks));
    assert(gray, `${name}: ${error}`);
    assert(warnings.some((one) => one.includes(line)), `${name}: ${warnings}`);
    const right = pixelsOf(wanted.find(({ name }) => name === of)!.gray);
    const { gray: samples, alpha } = pixelsOf(gray);
    assertEquals(samples, right.gray, name);
    if (!/tRNS/.test(line)) assertEquals(alpha, right.alpha, name);
    if (name === "two tRNS") assertEquals(alpha, right.alpha);
    // Nothing that is wrong is left in the result.
    assertEquals(attempt(gray), { gray, warnings: [] }, name);
    const types = pngChunks(gray).map(([type]) => type);
    assertEquals(types.length, new Set(types).size, `${name}: ${types}`);
  }
});

Deno.test("gray with a fault beside the pixels keeps its pixels, of every filter", () => {
  const twice = Array(2).fill(pngChunk("gAMA", [0, 0, 177, 143]));
  for (const [colorType, depth] of [[0, 8], [0, 16], [4, 8], [4, 16]]) {
    for (const interlace of [false, true]) {
      for (const filter of [undefined, 0, 1, 2, 3, 4]) {
        const png = some(colorType, depth, {
          interlace,
          filter,
          chunks: twice,
        });
        const after = decodePng(grayPng(encodePng(png)));
        const clue = `${colorType}, ${depth}, ${interlace}, ${filter}`;
        assertEquals(Array.from(after.samples), png.samples, clue);
        assertEquals(after.interlace, false, clue);
      }
    }
  }
});

Deno.test("of a chunk that there is twice the first one stays", () => {
  const [one, two] = [1, 2].map((n): Part => ["pHYs", Array(9).fill(n)]);
  const file = fileOf([headerOf("RGB"), one, two, ...bodyOf("RGB"), END]);
  const kept = pngChunks(grayPng(file)).filter(([type]) => type === "pHYs");
  assertEquals(kept.map(([, data]) => Array.from(data)), [one[1]]);
});

Deno.test("a checksum that is wrong matters where pixels depend on it", () => {
  const lines: Record<string, RegExp> = {
    tEXt: /^a bad checksum of a chunk \(tEXt\), left out, at byte/,
    tRNS: /^a bad checksum of a chunk \(tRNS\), left out, at byte/,
    IEND: /^a bad checksum of a chunk \(IEND\), left out, at byte/,
  };
  for (const { name, bytes } of wanted) {
    let at = 8;
    for (const [type, data] of pngChunks(bytes)) {
      at += 12 + data.length;
      const wrong = bytes.slice();
      wrong[at - 1] ^= 1;
      const { warnings, error } = attempt(wrong), clue = `${name}, ${type}`;
      if (type in lines) assertMatch(warnings.join("\n"), lines[type], clue);
      else assert(error?.includes(`bad checksum of a chunk (${type})`), clue);
    }
  }
});

Deno.test("a color number beyond the palette is black and opaque", () => {
  const entries = 5, colors = palette.slice(0, 3 * entries);
  for (const transparency of [undefined, [0, 127]]) {
    const chunks: Part[] = [headerOf("palette"), ["PLTE", colors]];
    if (transparency) chunks.push(["tRNS", transparency]);
    const data = bodyOf("palette").filter(([type]) => type === "IDAT");
    const { warnings, gray } = attempt(fileOf([...chunks, ...data, END]));
    assertEquals(warnings, [
      "color numbers beyond the palette, taken for black",
    ]);
    const luma = (i: number) => {
      const [r = 0, g = 0, b = 0] = colors.slice(3 * i);
      return 19595 * r + 38470 * g + 7471 * b + 32768 >> 16;
    };
    const right = pixelsOf(gray!);
    assertEquals(right.gray, numbers.map((i) => luma(i)));
    if (!transparency) continue;
    assertEquals(right.alpha, numbers.map((i) => transparency[i] ?? 255));
  }
});

Deno.test("a PNG with a fault looks as libpng has it", async () => {
  const python = await findPillow();
  if (!python) return console.warn("SKIPPED: no Python is here");
  const files = Object.entries(faulty());
  await withFolder(async (folder) => {
    for (const [i, [, [chunks]]] of files.entries()) {
      const bytes = fileOf(chunks);
      await Deno.writeFile(join(folder, `${i}.png`), bytes);
      await Deno.writeFile(join(folder, `${i}.gray.png`), grayPng(bytes));
    }
    const { stdout, success } = await new Deno.Command(python, {
      args: ["-c", LIBPNG, `${files.length}`],
      cwd: folder,
      stderr: "inherit",
    }).output();
    assert(success);
    const lines = new TextDecoder().decode(stdout).trim().split("\n");
    if (lines[0] === "none") return console.warn("SKIPPED: no libpng is here");
    let same = 0;
    for (const [i, [name]] of files.entries()) {
      // What libpng refuses, other readers take: those cases are not compared.
      if (/Adler|two PLTE/.test(name)) continue;
      assertEquals(lines[i], "same", name);
      same++;
    }
    assert(same > 30);
  });
});

/** Compares gray images with their originals, as libpng reads both. */
const LIBPNG = `
import ctypes, ctypes.util, sys
name = ctypes.util.find_library("png16")
if not name: print("none"); sys.exit()
png = ctypes.CDLL(name)
class Image(ctypes.Structure):
    _fields_ = [("opaque", ctypes.c_void_p)] + [
        (n, ctypes.c_uint32) for n in
        ("version", "width", "height", "format", "flags", "entries", "error")
    ] + [("message", ctypes.c_char * 64)]
def read(path):
    data = open(path, "rb").read()
    image = Image(version=1)
    begin = png.png_image_begin_read_from_memory
    if not begin(ctypes.byref(image), data, ctypes.c_size_t(len(data))):
        return image.message.decode()
    image.format = 3 # RGBA of 8 bits
    out = ctypes.create_string_buffer(image.width * image.height * 4)
    finish = png.png_image_finish_read
    if not finish(ctypes.byref(image), None, out, ctypes.c_int32(0), None):
        return image.message.decode()
    return out.raw
for i in range(int(sys.argv[1])):
    a, b = read(f"{i}.png"), read(f"{i}.gray.png")
    if isinstance(a, str) or isinstance(b, str): print(a if isinstance(a, str) else b); continue
    luma = [(19595*a[k] + 38470*a[k+1] + 7471*a[k+2] + 32768) >> 16 for k in range(0, len(a), 4)]
    print("same" if luma == list(b[0::4]) and a[3::4] == b[3::4] else "another")
`;

// ---- Salvage

/** How many rows a line says are there. */
function rowsIn(warnings: string[]): number {
  const line = warnings.find((one) => /rows are there/.test(one)) ?? "";
  return Number(/ (\d+) of 17 rows/.exec(line)?.[1]);
}

/** Checks the rows that were salvaged: what is not real is gray and opaque. */
function checkSalvaged(
  bytes: Uint8Array,
  right: ReturnType<typeof pixelsOf>,
  real: number,
  isInterlaced: boolean,
  clue: string,
): void {
  const { gray, alpha } = pixelsOf(bytes);
  const most = decodePng(bytes).depth === 16 ? 65535 : 255;
  const missing = most === 255 ? 0x80 : 0x8080;
  let rows = 0;
  for (let y = 0; y < 17; y++) {
    let isReal = true;
    for (let i = 23 * y; i < 23 * (y + 1); i++) {
      const isRight = gray[i] === right.gray[i] && alpha[i] === right.alpha[i];
      const isGray = gray[i] === missing && (alpha[i] ?? most) === most;
      assert(isRight || isGray, `${clue}: row ${y}`);
      if (!isRight) isReal = false;
    }
    if (isReal) rows++;
    if (!isInterlaced) assert(isReal || y >= real, `${clue}: row ${y}`);
  }
  // A row of gray may look like one that is missing.
  assert(
    rows >= real && rows <= real + 1,
    `${clue}: ${rows} rows, not ${real}`,
  );
}

Deno.test("salvage: every truncation gives the rows that are there", () => {
  for (const { name, bytes, gray, png } of wanted) {
    const right = pixelsOf(gray);
    let last = 0, refused = 0;
    const step = bytes.length < 600 ? 1 : 7;
    for (let cut = 8; cut < bytes.length; cut += step) {
      const clue = `${name}, cut at ${cut}`;
      const { warnings, gray, error } = attempt(bytes.subarray(0, cut), true);
      if (!gray) {
        refused += step;
        assertEquals(last, 0, clue);
        const line = `truncated PNG: the file ends too early at byte ${cut}`;
        assertEquals(error, line, clue);
        continue;
      }
      const isAll = !warnings.some((one) => /rows are there/.test(one));
      const real = isAll ? 17 : rowsIn(warnings);
      assert(real >= last && real > 0, `${clue}: ${real} rows`);
      last = real;
      checkSalvaged(gray, right, real, !!png.interlace, clue);
    }
    assertEquals(last, 17, name);
    assert(refused > 25 && refused < bytes.length / 2 + 500, name);
  }
  checkGood("salvage");
});

Deno.test("salvage: damage ends the rows, or makes them doubtful", () => {
  const rows = pngRows({ ...PNGS.RGB, filter: 4 }), size = 1 + 23 * 3;
  const right = pixelsOf(wanted[0].gray);
  const bad = rows.slice();
  bad[5 * size] = 9;
  const filters = fileOf([headerOf("RGB"), dataOf(bad), END]);
  const one = attempt(filters, true);
  const line = "missing pixels, which are gray: 5 of 17 rows are there " +
    "(broken PNG: unknown filter (9) in row 5)";
  assertEquals(one.warnings, [line]);
  checkSalvaged(one.gray!, right, 5, false, "filter");
  // Each part is a block of its own, so that damage can begin with a block.
  const half = Buffer.concat([
    deflateSync(rows.subarray(0, 9 * size), {
      finishFlush: constants.Z_SYNC_FLUSH,
    }),
    Buffer.from([0xff, 0xff, 0xff, 0xff]),
  ]);
  const two = attempt(fileOf([headerOf("RGB"), ["IDAT", half], END]), true);
  assertMatch(
    two.warnings.join(),
    /: 9 of 17 rows are there \(broken PNG: dam/,
  );
  checkSalvaged(two.gray!, right, 9, false, "block");
  const stream = Uint8Array.from(deflateSync(rows));
  stream[stream.length - 1] ^= 1;
  const three = attempt(fileOf([headerOf("RGB"), ["IDAT", stream], END]), true);
  assertMatch(
    three.warnings.join(),
    /^doubtful pixels: 17 of 17 rows are there/,
  );
  const sum = fileOf([headerOf("RGB"), dataOf(rows), END]);
  sum[sum.length - 13] ^= 1;
  const four = attempt(sum, true);
  assertMatch(
    four.warnings.join(),
    /^doubtful .*bad checksum of a chunk \(IDAT/,
  );
  for (const { gray } of [three, four]) assertEquals(pixelsOf(gray!), right);
});

Deno.test("salvage: without a fault it changes nothing, and says nothing", () => {
  for (const { name, bytes, gray } of wanted) {
    assertEquals(attempt(bytes, true), { gray, warnings: [] }, name);
  }
});

Deno.test("salvage: an animation has the frames that are there", () => {
  const control = (sequence: number) => [
    ...[0, 0, 0, sequence, 0, 0, 0, 23, 0, 0, 0, 17, 0, 0, 0, 0],
    ...[0, 0, 0, 0, 0, 1, 0, 10, 0, 0],
  ];
  const stream = deflateSync(pngRows(PNGS.RGB)), [, , ...rest] = END;
  assertEquals(rest, []);
  const file = fileOf([
    headerOf("RGB"),
    ["acTL", [0, 0, 0, 3, 0, 0, 0, 0]],
    ["fcTL", control(0)],
    ["IDAT", stream],
    ["fcTL", control(1)],
    ["fdAT", [0, 0, 0, 2, ...stream]],
    ["fcTL", control(3)],
    ["fdAT", [0, 0, 0, 4, ...stream]],
    END,
  ]);
  const cut = file.subarray(0, -stream.length - 12);
  assertMatch(refusal(cut, "animation"), /^truncated PNG/);
  const { warnings, gray } = attempt(cut, true);
  const chunks = pngChunks(gray!);
  const acTL = chunks.find(([type]) => type === "acTL")![1];
  const frames = chunks.filter(([type]) => type === "fcTL").length;
  assertEquals([acTL[3], frames], [3, 3]);
  assertMatch(warnings.join(), /34 of 51 rows are there|3[45] of 51/);
  const shorter = file.subarray(0, -stream.length - 12 - 20);
  const less = pngChunks(attempt(shorter, true).gray!);
  assertEquals(less.find(([type]) => type === "acTL")![1][3], 2);
  assertEquals(less.filter(([type]) => type === "fcTL").length, 2);
});

Deno.test("a header that there cannot be is refused", () => {
  const depths: Record<number, number[]> = {
    ...{ 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8] },
    ...{ 4: [8, 16], 6: [8, 16] },
  };
  const withHeader = (at: number, ...values: number[]) =>
    fileOf([headerOf("RGB", at, ...values), ...bodyOf("RGB"), END]);
  for (let type = 0; type < 9; type++) {
    for (let depth = 0; depth < 34; depth++) {
      if (depths[type]?.includes(depth)) continue;
      const message = refusal(withHeader(8, depth, type), `${type} ${depth}`);
      const line = `no color type (${type}) of ${depth} bits at byte 8`;
      assertEquals(message, `broken PNG: ${line}`);
    }
  }
  const cases: [number, string][] = [
    [10, "unknown compression method (1)"],
    [11, "unknown filter method (1)"],
    [12, "unknown interlace method (2)"],
  ];
  for (const [at, cause] of cases) {
    const message = refusal(withHeader(at, at === 12 ? 2 : 1), cause);
    assertEquals(message, `broken PNG: ${cause} at byte 8`);
  }
  for (const at of [0, 4]) {
    const message = refusal(withHeader(at, 0x80, 0, 0, 0), "too large");
    assertEquals(message, "broken PNG: bad size of an image at byte 8");
  }
});

Deno.test("filters that there are not are refused, by their row", () => {
  for (const { name, png } of wanted) {
    const before = bodyOf(name).filter(([type]) => /PLTE|tRNS/.test(type));
    const rows = pngRows({ ...png, filter: 4 });
    for (const filter of [5, 6, 255]) {
      const bad = rows.slice();
      bad[0] = filter;
      const message = refusal(
        fileOf([headerOf(name), ...before, dataOf(bad), END]),
        name,
      );
      const line = `broken PNG: unknown filter (${filter}) in row 0`;
      assertEquals(message, line, name);
    }
  }
  const size = 1 + 23 * 3, rows = pngRows({ ...PNGS.RGB, filter: 4 });
  for (let y = 0; y < 17; y++) {
    const bad = rows.slice();
    bad[y * size] = 9;
    const file = fileOf([headerOf("RGB"), dataOf(bad), END]);
    const line = `broken PNG: unknown filter (9) in row ${y}`;
    assertEquals(refusal(file, `row ${y}`), line);
  }
  checkGood("bad filters");
});

Deno.test("a zlib stream that is damaged is refused", () => {
  const rows = pngRows(PNGS.RGB), stream = deflateSync(rows);
  const withData = (data: Uint8Array) =>
    refusal(fileOf([headerOf("RGB"), ["IDAT", data], END]), "damaged");
  const damaged =
    /^broken PNG: damaged image data \(IDAT: [A-Za-z ]+\) at byte 33$/;
  for (const at of [0, 1, stream.length - 1, stream.length - 4]) {
    const data = Uint8Array.from(stream);
    data[at] ^= 0x41;
    assertMatch(withData(data), damaged, `byte ${at}`);
  }
  // A preset dictionary, a window of 64 kB, an unknown method.
  for (const [first, second] of [[0x78, 0xbb], [0x88, 0x1c], [0x79, 0x18]]) {
    assertEquals((first * 256 + second) % 31, 0);
    const data = Uint8Array.from(stream);
    data.set([first, second]);
    assertMatch(withData(data), damaged, `${first}`);
  }
  checkGood("damaged streams");
});

Deno.test("memory is bounded by the size that is declared, and by the data", () => {
  // It inflates to 400 MB, but is joined from parts, to need less memory here.
  const part = deflateRawSync(new Uint8Array(4e6), {
    finishFlush: constants.Z_FULL_FLUSH,
  });
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(4e8 % 65521 * 65536 + 1); // the Adler-32 of that many zeros
  const bomb = Buffer.concat([
    ...[Buffer.from([0x78, 0x01]), ...Array<Buffer>(100).fill(part)],
    ...[deflateRawSync(new Uint8Array(0)), sum],
  ]);
  const file = fileOf([headerOf("RGB"), ["IDAT", bomb], END]);
  const before = Deno.memoryUsage().rss;
  for (let n = 0; n < 5; n++) {
    assertMatch(attempt(file).warnings.join(), /more than 23x17 pixels/);
  }
  assert(Deno.memoryUsage().rss - before < 5e7, "a bomb");
  // The header declares 48 GB that the data do not contain.
  const huge = headerOf("RGB", 0, 0, 1, 0xf4, 0, 0, 1, 0xf4, 0);
  const hollow = fileOf([huge, ...bodyOf("RGB"), END]);
  assertMatch(refusal(hollow, "hollow"), /too little image data/);
  assert(Deno.memoryUsage().rss - before < 5e7, "a hollow image");
  assert(kernels.memory.buffer.byteLength < 1 << 24);
  checkGood("bombs");
});

Deno.test("memory does not grow with the picture, interlaced or not", () => {
  const side = 6000, row = new Uint8Array(1 + 3 * side).fill(7, 1);
  const header = headerOf("RGB", 0, ...[0, 0, side >> 8, side & 255]);
  const before = Deno.memoryUsage().rss;
  for (const isInterlaced of [false, true]) {
    const data = header[1] as Uint8Array;
    data.set([0, 0, side >> 8, side & 255], 4);
    data[12] = Number(isInterlaced);
    // 108 MB, deflated from few: interlaced rows of zeros have the same size.
    const size = isInterlaced
      ? row.length * side + 4 * side
      : row.length * side;
    const file = fileOf([header, ["IDAT", zerosOf(size)], END]);
    const { gray, warnings } = attempt(file, true);
    assertMatch(warnings.join(), /more than|Adler|^$/);
    assertEquals(pngChunks(gray!)[0][0], "IHDR");
    const grown = Deno.memoryUsage().rss - before;
    assert(grown < 8e7, `${grown} bytes`);
  }
  checkGood("large");
});

/** A zlib stream of many zeros, joined from parts, without its checksum. */
function zerosOf(size: number): Uint8Array {
  const part = deflateRawSync(new Uint8Array(1e6), {
    finishFlush: constants.Z_FULL_FLUSH,
  });
  const parts = Array<Buffer>(Math.ceil(size / 1e6)).fill(part);
  return Buffer.concat([Buffer.from([0x78, 0x01]), ...parts]);
}

Deno.test("a damaged PNG is refused by name, and nothing is written", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "a.png"), out = join(folder, "out/a.png");
    await Deno.writeFile(path, GOOD.RGB.subarray(0, -40));
    const [outcome] = await sequential(service).map(
      "grayscaleFile",
      [{ path, out }],
      { settle: true },
    );
    assert(outcome.status === "rejected");
    assertMatch(outcome.reason.cause.message, /^truncated PNG: .* byte \d+$/);
    assertEquals(namesIn(folder), ["a.png"]);
  });
});

function spliced(
  bytes: Uint8Array,
  at: number,
  remove: number,
  ...insert: number[]
): Uint8Array {
  const list = Array.from(bytes);
  list.splice(at, remove, ...insert);
  return new Uint8Array(list);
}

/** Damages a copy: bits, runs, cuts, insertions, extremes. */
function damage(bytes: Uint8Array): Uint8Array {
  let copy: Uint8Array = Uint8Array.from(bytes);
  for (let n = 1 + integer(3); n > 0; n--) {
    const at = integer(copy.length), kind = integer(5);
    if (kind === 0) copy[at] ^= 1 << integer(8);
    if (kind === 1) copy.fill(integer(256), at, at + integer(9));
    if (kind === 2) copy = spliced(copy, at, 1 + integer(5));
    if (kind === 3) copy = spliced(copy, at, 0, integer(256), integer(256));
    if (kind === 4) copy[at] = [0, 1, 127, 128, 255][integer(5)];
  }
  return copy;
}

/** Damages a file, a chunk or a row; only in the first kind are CRCs wrong. */
function mutate(name: string, bytes: Uint8Array): Uint8Array {
  const kind = integer(5), chunks: Part[] = pngChunks(bytes);
  if (kind === 0) return damage(bytes);
  if (kind === 1) { // in a chunk
    const chunk = chunks[integer(chunks.length)];
    chunk[1] = damage(Uint8Array.from(chunk[1]));
  } else if (kind === 2) { // one is removed, repeated, or taken from another file
    const other = wanted[integer(wanted.length)].bytes;
    const strange: Part[] = pngChunks(other);
    const at = integer(chunks.length), doubled = chunks[at];
    if (integer(3) === 0) chunks.splice(at, 1);
    else if (integer(2)) chunks.splice(integer(chunks.length), 0, doubled);
    else chunks.splice(at, 1, strange[integer(strange.length)]);
  } else if (kind === 3) { // in the header
    const data = Uint8Array.from(chunks[0][1]);
    const at = [3, 7, 8, 9, 12][integer(5)];
    const values = [0, 1, 2, 3, 4, 6, 8, 16, 22, 24, 255];
    data[at] = values[integer(values.length)];
    chunks[0][1] = data;
  } else { // in the rows
    const rows = damage(pngRows(PNGS[name]));
    const at = chunks.findIndex(([type]) => type === "IDAT");
    chunks.splice(at, 2, dataOf(rows));
  }
  return fileOf(chunks);
}

function checkOne(n: number, clue: string): void {
  const { name, bytes, gray } = wanted[(n * 7 + 3) % wanted.length];
  assert(Buffer.from(grayPng(bytes)).equals(gray), `${name} after ${clue}`);
}

Deno.test("ten thousand damaged PNGs: an image, or a line; then a good one", () => {
  const counts = { image: 0, refused: 0 };
  for (let n = 0; n < 10_000; n++) {
    const { name, bytes } = wanted[n % wanted.length];
    const damaged = mutate(name, bytes), clue = `mutation ${n} of ${name}`;
    let gray: Uint8Array | undefined;
    try {
      gray = grayPng(damaged, ({ width, height }) => {
        if (!width || !height) throw new Error("no pixels");
      });
    } catch (error) {
      const { message } = error as Error;
      if (message !== "no pixels") refusal(damaged, clue);
      counts.refused++;
    }
    if (gray) {
      counts.image++;
      checkImage(gray, clue);
    }
    if (n % 4 === 0) checkSalvage(damaged, gray, clue);
    checkOne(n, clue);
  }
  // Some mutations are accepted and some refused: both paths are tested.
  assert(counts.refused > 3000 && counts.image > 1000, JSON.stringify(counts));
  assert(kernels.memory.buffer.byteLength < 1 << 24);
  checkGood("ten thousand");
});

/** Salvaging refuses no more than converting does, and changes nothing else. */
function checkSalvage(
  damaged: Uint8Array,
  gray: Uint8Array | undefined,
  clue: string,
): void {
  let salvaged: Uint8Array;
  try {
    salvaged = grayPng(damaged, checkSmall, () => {}, true);
  } catch (error) {
    const { message } = error as Error;
    assertMatch(message, /^(broken|truncated|unsupported) PNG: /, clue);
    return assert(!gray || /large/.test(message), clue);
  }
  if (gray) assertEquals(salvaged, gray, clue);
  else checkImage(salvaged, clue);
}

/** Rows that are missing are made, however many there should be. */
function checkSmall({ width, height }: { width: number; height: number }) {
  if (width * height > 5000) throw new Error("broken PNG: too large");
}

/** Checks that a result can be read and that its checksums are right. */
function checkImage(gray: Uint8Array, clue: string): void {
  for (const [type, data] of pngChunks(gray)) {
    const at = data.byteOffset - gray.byteOffset + data.length;
    const sum = new DataView(gray.buffer, gray.byteOffset + at).getUint32(0);
    const body = Buffer.concat([Buffer.from(type), data]);
    assertEquals(sum, crc32(body), `${clue}: ${type}`);
  }
  const { colorType } = decodePng(gray);
  assert(colorType === 0 || colorType === 4, clue);
}

Deno.test("grayscale: refuses damaged PNGs in one line", async () => {
  for (let n = 0; n < 300; n++) {
    const { name, bytes } = wanted[n % wanted.length];
    try {
      await grayscale(mutate(name, bytes), { maxPixels: 1e5 });
    } catch (error) {
      const { message } = error as Error;
      assertMatch(message, /^[^\n\r\\@`]{8,200}$/, `mutation ${n} of ${name}`);
    }
  }
  checkGood("grayscale");
});
