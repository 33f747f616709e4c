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

Deno.test("a truncated PNG is refused, wherever it is cut", () => {
  for (const { name, bytes } of wanted) {
    for (let cut = 8; cut < bytes.length; cut++) {
      const message = refusal(bytes.subarray(0, cut), `${name}, cut at ${cut}`);
      const line = `truncated PNG: the file ends too early at byte ${cut}`;
      assertEquals(message, line, name);
    }
    checkGood(`${name}, cut`);
  }
});

Deno.test("truncated pixels are not mended by checksums and an IEND", () => {
  for (const { name, png, bytes } of wanted) {
    const [header, ...rest] = pngChunks(bytes);
    const before = rest.filter(([type]) => /PLTE|tRNS/.test(type));
    const stream = deflateSync(pngRows(png));
    for (let cut = 0; cut < stream.length; cut += cut < 20 ? 1 : 7) {
      const data: Part = ["IDAT", stream.subarray(0, cut)];
      const message = refusal(
        fileOf([header, ...before, data, END]),
        `${name}, cut at ${cut}`,
      );
      assertMatch(
        message,
        /^broken PNG: too little image data \(IDAT\) at byte/,
      );
    }
    const short = pngRows(png).subarray(0, -1);
    const few = fileOf([header, ...before, dataOf(short), END]);
    assertMatch(refusal(few, name), /too little image data/);
  }
});

Deno.test("a bit that is flipped anywhere is found", () => {
  for (const { name, bytes } of wanted) {
    for (let at = 8; at < bytes.length; at++) {
      const flipped = bytes.slice();
      flipped[at] ^= 1 << at % 8;
      const clue = `${name}, byte ${at}`;
      const message = refusal(flipped, clue);
      const cause = /checksum|truncated|no (IHDR )?chunk|too long a chunk/;
      assertMatch(message, cause, clue);
    }
  }
  checkGood("flipped bits");
});

Deno.test("chunks that are bad, missing, repeated or astray are refused", () => {
  const rgb = bodyOf("RGB"), colors = bodyOf("palette");
  const alpha = bodyOf("RGBA"), gray = bodyOf("gray");
  const header = headerOf("RGB"), indexed = headerOf("palette");
  const transparent = headerOf("palette, tRNS");
  const [PLTE] = colors, [, tRNS, ...data] = bodyOf("palette, tRNS");
  const images = rgb.filter(([type]) => type === "IDAT");
  const entries = (count: number): Part => ["PLTE", new Uint8Array(3 * count)];
  const cases: Record<string, [Part[], string | RegExp]> = {
    "no chunk at all": [[], "truncated PNG: the file ends too early at byte 8"],
    "no IHDR": [[...rgb, END], "broken PNG: no IHDR chunk at byte 8"],
    "IHDR behind another": [
      [["gAMA", [0, 0, 0, 1]], header, ...rgb, END],
      "no IHDR chunk at byte 8",
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
    "no IEND": [[header, ...rgb], /^truncated PNG: the file ends too early/],
    "an IEND with data": [
      [header, ...rgb, ["IEND", [0]]],
      "bad size of a chunk (IEND)",
    ],
    "no IDAT": [[header, END], "no IDAT chunk at byte 33"],
    "nothing in IDAT": [[header, ["IDAT", []], END], "too little image data"],
    "IDAT in two places": [
      [header, images[0], ["tEXt", [65, 0]], images[1], END],
      "IDAT chunk apart from the others",
    ],
    "no PLTE": [[indexed, ...colors.slice(1), END], "no PLTE chunk"],
    "two PLTE": [[indexed, PLTE, ...colors, END], "second PLTE chunk"],
    "PLTE behind IDAT": [[header, ...rgb, PLTE, END], "PLTE chunk behind IDAT"],
    "PLTE in gray": [
      [headerOf("gray"), PLTE, ...gray, END],
      "PLTE chunk in a gray image at byte 33",
    ],
    "no color": [[indexed, entries(0), END], "bad size of a chunk (PLTE)"],
    "17 colors of 4 bits": [[indexed, entries(17), END], "(PLTE)"],
    "257 colors": [[transparent, entries(257), END], "(PLTE)"],
    "257 colors, in RGB": [[header, entries(257), END], "(PLTE)"],
    "a third of a color": [
      [indexed, ["PLTE", [1, 2, 3, 4]], END],
      "bad size of a chunk (PLTE)",
    ],
    "a color number beyond them": [
      [indexed, entries(12), ...colors.slice(1), END],
      /color number beyond the palette in row \d+$/,
    ],
    "tRNS before PLTE": [
      [transparent, tRNS, PLTE, ...data, END],
      "tRNS chunk before PLTE",
    ],
    "tRNS longer than PLTE": [
      [transparent, PLTE, ["tRNS", new Uint8Array(14)], ...data, END],
      "bad size of a chunk (tRNS)",
    ],
    "an empty tRNS": [
      [transparent, PLTE, ["tRNS", []], ...data, END],
      "bad size of a chunk (tRNS)",
    ],
    "a short tRNS": [
      [header, ["tRNS", [0, 1, 0, 2, 0]], ...rgb, END],
      "bad size of a chunk (tRNS)",
    ],
    "a long tRNS, in gray": [
      [headerOf("gray"), ["tRNS", [0, 1, 0]], ...gray, END],
      "bad size of a chunk (tRNS)",
    ],
    "tRNS beside alpha": [
      [headerOf("RGBA"), ["tRNS", [0, 1, 0, 2, 0, 3]], ...alpha, END],
      "tRNS chunk in an image with alpha",
    ],
    "tRNS behind IDAT": [
      [header, ...rgb, ["tRNS", [0, 1, 0, 2, 0, 3]], END],
      "tRNS chunk behind IDAT",
    ],
    "an unknown critical chunk": [
      [header, ["ABCD", [1]], ...rgb, END],
      "unsupported PNG: unknown critical chunk (ABCD) at byte 33",
    ],
    "a chunk that has no name": [
      [header, ["a\0b1", [1]], ...rgb, END],
      "no chunk where one should be at byte 33",
    ],
    "a gAMA of 3 bytes": [
      [header, ["gAMA", [1, 2, 3]], ...rgb, END],
      "bad size of a chunk (gAMA)",
    ],
  };
  for (const type of ["gAMA", "sRGB", "pHYs", "tIME", "eXIf", "iCCP", "bKGD"]) {
    const sizes: Record<string, number> = {
      gAMA: 4,
      sRGB: 1,
      pHYs: 9,
      tIME: 7,
    };
    const twice: Part = [type, new Uint8Array(sizes[type] ?? 5)];
    cases[`two ${type}`] = [
      [header, twice, ...rgb, twice, END],
      `second ${type} chunk`,
    ];
  }
  for (const [name, [chunks, cause]] of Object.entries(cases)) {
    const message = refusal(fileOf(chunks), name);
    const isSo = typeof cause === "string"
      ? message.includes(cause)
      : cause.test(message);
    assert(isSo, `${name}: ${message}`);
  }
  checkGood("bad chunks");
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
  const more = Buffer.concat([rows, Buffer.from([0])]);
  assertEquals(
    withData(deflateSync(more)),
    "broken PNG: image data (IDAT) of more than 23x17 pixels at byte 33",
  );
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
  for (let n = 0; n < 5; n++) assertMatch(refusal(file, "bomb"), /more than/);
  assert(Deno.memoryUsage().rss - before < 5e7, "a bomb");
  // The header declares 48 GB that the data do not contain.
  const huge = headerOf("RGB", 0, 0, 1, 0xf4, 0, 0, 1, 0xf4, 0);
  const hollow = fileOf([huge, ...bodyOf("RGB"), END]);
  assertMatch(refusal(hollow, "hollow"), /too little image data/);
  assert(Deno.memoryUsage().rss - before < 5e7, "a hollow image");
  assert(kernels.memory.buffer.byteLength < 1 << 24);
  checkGood("bombs");
});

Deno.test("a damaged PNG is refused by name, and nothing is written", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "a.png"), out = join(folder, "out/a.png");
    await Deno.writeFile(path, GOOD.RGB.subarray(0, -20));
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
    checkOne(n, clue);
  }
  // Some mutations are accepted and some refused: both paths are tested.
  assert(counts.refused > 3000 && counts.image > 1000, JSON.stringify(counts));
  assert(kernels.memory.buffer.byteLength < 1 << 24);
  checkGood("ten thousand");
});

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
