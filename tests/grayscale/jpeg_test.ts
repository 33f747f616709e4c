import { assert, assertEquals } from "@std/assert";
import { Buffer } from "node:buffer";
import { randomFrom } from "../../workers/fixtures.ts";
import { grayscale } from "../../workers/grayscale.ts";
import { useCodec } from "../../workers/grayscale/codec.ts";
import { grayJpeg } from "../../workers/grayscale/jpeg.ts";
import { draw } from "./images.ts";
import {
  type Band,
  blocksOf,
  decodeJpeg,
  encodeJpeg,
  fill,
  newPicture,
  type Picture,
  segment,
  type Style,
} from "./jpegs.ts";

type Sampling = [wide: number, high: number][];

/** Sampling factors by their usual names, and some that have none. */
const SAMPLINGS: Record<string, Sampling> = {
  "4:4:4": [[1, 1], [1, 1], [1, 1]],
  "4:2:2": [[2, 1], [1, 1], [1, 1]],
  "4:2:0": [[2, 2], [1, 1], [1, 1]],
  "4:4:0": [[1, 2], [1, 1], [1, 1]],
  "4:1:1": [[4, 1], [1, 1], [1, 1]],
  "4:1:0": [[4, 2], [1, 1], [1, 1]],
  "2x4": [[2, 4], [1, 1], [1, 1]],
  "3x1, and chroma in thirds": [[3, 1], [1, 1], [2, 1]],
  "2x2, chroma halved once each": [[2, 2], [1, 2], [2, 1]],
  "2x2 everywhere": [[2, 2], [2, 1], [2, 2]],
};

const band = (
  components: number[],
  first = 0,
  last = 63,
  high = 0,
  low = 0,
): Band => ({ components, first, last, high, low });

/** Ways to code the same coefficients. */
const STYLES: Record<string, Style> = {
  "baseline": {},
  "extended, skewed tables": { frame: 0xc1, skewed: true },
  "a scan each": { scans: [band([0]), band([1]), band([2])] },
  "chroma first": { scans: [band([1, 2]), band([0])] },
  "luma with one chroma": { scans: [band([0, 1]), band([2])] },
  "one chroma, then luma": { scans: [band([2]), band([0, 1])] },
  "progressive": {
    frame: 0xc2,
    scans: [
      band([0, 1, 2], 0, 0, 0, 1),
      band([0], 1, 5, 0, 2),
      band([2], 1, 63, 0, 1),
      band([1], 1, 63, 0, 1),
      band([0], 6, 63, 0, 2),
      band([0], 1, 63, 2, 1),
      band([0, 1, 2], 0, 0, 1, 0),
      band([2], 1, 63, 1, 0),
      band([1], 1, 63, 1, 0),
      band([0], 1, 63, 1, 0),
    ],
  },
  "progressive, DC apart": {
    frame: 0xc2,
    skewed: true,
    scans: [
      band([1], 0, 0, 0, 0),
      band([0, 2], 0, 0, 0, 2),
      band([0], 0, 0, 2, 1),
      band([0], 1, 63, 0, 0),
      band([0, 2], 0, 0, 1, 0),
    ],
  },
};

const lumaOf = (picture: Picture): Int32Array[] =>
  blocksOf(picture.components[0]);

function isSame(block: ArrayLike<number>, wanted: ArrayLike<number>): boolean {
  if (block.length !== wanted.length) return false;
  for (let k = 0; k < block.length; k++) {
    if (block[k] !== wanted[k]) return false;
  }
  return true;
}

/** Compares many numbers; `assertEquals` takes longer than making them. */
function checkBlocks(
  blocks: ArrayLike<number>[],
  wanted: ArrayLike<number>[],
  clue: string,
) {
  const areSame = blocks.length === wanted.length &&
    blocks.every((block, i) => isSame(block, wanted[i]));
  if (!areSame) assertEquals(blocks, wanted, clue);
}

/** Checks that a result has the luma of a picture, and nothing else. */
function checkLuma(
  gray: Uint8Array | undefined,
  before: Picture,
  clue: string,
) {
  assert(gray, `${clue}: not taken`);
  const after = decodeJpeg(gray);
  assertEquals([after.width, after.height], [before.width, before.height]);
  assertEquals(after.components.length, 1, clue);
  checkBlocks(lumaOf(after), lumaOf(before), clue);
  return after;
}

const random = randomFrom(5);
const some = (width: number, height: number, sampling: Sampling): Picture =>
  fill(newPicture(width, height, sampling), random);

// ---- Good files

Deno.test("the reference reads what it writes", () => {
  for (const [name, sampling] of Object.entries(SAMPLINGS)) {
    for (const [kind, style] of Object.entries(STYLES)) {
      for (const interval of [0, 1, 3]) {
        const before = some(37, 21, sampling);
        const bytes = encodeJpeg(before, { ...style, interval });
        const after = decodeJpeg(bytes);
        const clue = `${name}, ${kind}, ${interval}`;
        checkBlocks(lumaOf(after), lumaOf(before), clue);
        assertEquals(after.frame, style.frame ?? 0xc0, clue);
      }
    }
  }
});

for (const [name, sampling] of Object.entries(SAMPLINGS)) {
  Deno.test(`grayJpeg: ${name}, every way to code it, sizes 1 to 17`, () => {
    for (const [kind, style] of Object.entries(STYLES)) {
      // The same whatever the size.
      const { steps } = decodeJpeg(encodeJpeg(some(9, 9, sampling), style));
      for (let width = 1; width <= 17; width++) {
        for (let height = 1; height <= 17; height++) {
          const interval = [0, 1, 2, 5][(width + 3 * height) % 4];
          const clue = `${width}x${height}, ${kind}, restarts ${interval}`;
          const before = some(width, height, sampling);
          const bytes = encodeJpeg(before, { ...style, interval });
          const copy = bytes.slice();
          const after = checkLuma(grayJpeg(bytes), before, clue);
          const isKept = Buffer.compare(bytes, copy) === 0;
          assert(isKept, `${clue}: the input is changed`);
          assertEquals(after.frame, style.frame ?? 0xc0, clue);
          checkBlocks(after.steps, steps.slice(0, 1), clue);
        }
      }
    }
  });
}

Deno.test("grayJpeg: larger pictures, of many restart intervals", () => {
  for (const [name, sampling] of Object.entries(SAMPLINGS)) {
    for (const [kind, style] of Object.entries(STYLES)) {
      for (const interval of [0, 1, 7, 300]) {
        const before = some(203, 131, sampling);
        const bytes = encodeJpeg(before, { ...style, interval });
        checkLuma(grayJpeg(bytes), before, `${name}, ${kind}, ${interval}`);
      }
    }
  }
});

Deno.test("grayJpeg: 16-bit tables, fill bytes and what follows the end", () => {
  for (const frame of [0xc1, 0xc2]) {
    const { scans } = STYLES[frame === 0xc2 ? "progressive" : "baseline"];
    const before = some(50, 30, SAMPLINGS["4:2:0"]);
    const style = { frame, scans, interval: 2 };
    const plain = encodeJpeg(before, { ...style, deep: true });
    const { steps } = decodeJpeg(plain);
    assert(steps[0].some((step) => step > 255));
    const gray = grayJpeg(plain);
    assertEquals(checkLuma(gray, before, "deep").steps, steps.slice(0, 1));
    const filled = encodeJpeg(before, { ...style, deep: true, fill: 3 });
    checkLuma(grayJpeg(filled), before, "fill bytes");
    const trailing = [[0], [0xff], [0xff, 0xd8, 0xff, 0xd9], [1, 2, 3]];
    for (const rest of trailing) {
      const more = new Uint8Array([...plain, ...rest]);
      assertEquals(grayJpeg(more), gray, `trailing ${rest}`);
    }
  }
});

Deno.test("grayJpeg: a file of one component comes as it is", () => {
  for (const factors of [[1, 1], [2, 2], [3, 1]] as [number, number][]) {
    for (const frame of [0xc0, 0xc1, 0xc2]) {
      const scans = frame === 0xc2
        ? [band([0], 0, 0, 0, 1), band([0], 1, 63), band([0], 0, 0, 1, 0)]
        : [band([0])];
      const markers = [segment(0xee, Buffer.from("Adobe12345670"))];
      const style = { frame, scans, markers, interval: 3, ids: [7] };
      const bytes = encodeJpeg(some(45, 27, [factors]), style);
      const more = new Uint8Array([...bytes, 1, 2, 3]);
      assertEquals(grayJpeg(more), bytes, `${factors}, ${frame}`);
    }
  }
});

const letters = (text: string): number[] => [...Buffer.from(text, "latin1")];
const JFIF = segment(0xe0, letters("JFIF\0\x01\x02\x01\0\x48\0\x48\0\0"));
const adobe = (transform: number): number[] =>
  segment(
    0xee,
    letters("Adobe\0\x64\0\0\0\0" + String.fromCharCode(transform)),
  );

Deno.test("grayJpeg: what is YCbCr is decided as libjpeg does", () => {
  const cases: [string, Style, boolean][] = [
    ["no marker, ids 1 2 3", {}, true],
    ["no marker, ids 0 1 2", { ids: [0, 1, 2] }, true],
    ["no marker, ids RGB", { ids: letters("RGB") }, false],
    ["no marker, ids rgb", { ids: letters("rgb") }, true],
    ["no marker, ids BGR", { ids: letters("BGR") }, true],
    ["JFIF", { markers: [JFIF] }, true],
    ["JFIF, ids RGB", { markers: [JFIF], ids: letters("RGB") }, true],
    ["JFIF and Adobe 0", { markers: [JFIF, adobe(0)] }, true],
    ["Adobe 0", { markers: [adobe(0)] }, false],
    ["Adobe 1", { markers: [adobe(1)] }, true],
    ["Adobe 1, ids RGB", { markers: [adobe(1)], ids: letters("RGB") }, true],
    ["Adobe 2", { markers: [adobe(2)] }, true],
    ["Adobe too short", { markers: [adobe(0).with(3, 13).slice(0, -1)] }, true],
    ["JFIF too short, ids RGB", {
      markers: [segment(0xe0, letters("JFIF\0\x01\x02\x01"))],
      ids: letters("RGB"),
    }, false],
  ];
  for (const [name, style, isTaken] of cases) {
    const before = some(20, 20, SAMPLINGS["4:2:0"]);
    const gray = grayJpeg(encodeJpeg(before, style));
    assertEquals(gray !== undefined, isTaken, name);
    if (gray) checkLuma(gray, before, name);
  }
});

Deno.test("grayJpeg: keeps EXIF, XMP, comments and JFIF, drops ICC and Adobe", async () => {
  const exif = segment(0xe1, letters("Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"));
  const xmp = segment(0xe1, letters("http://ns.adobe.com/xap/1.0/\0<x/>"));
  const comment = segment(0xfe, letters("a comment"));
  const own = segment(0xe2, letters("FPXR\0"));
  const iptc = segment(0xed, letters("Photoshop 3.0\0"));
  const kept = [JFIF, exif, xmp, comment, own, iptc];
  const icc = segment(0xe2, letters("ICC_PROFILE\0\x01\x01abc"));
  const mpf = segment(0xe2, letters("MPF\0II*\0"));
  const before = some(20, 20, SAMPLINGS["4:2:0"]);
  const markers = [...kept.slice(0, 3), icc, adobe(1), mpf, ...kept.slice(3)];
  const gray = grayJpeg(encodeJpeg(before, { markers }));
  const { extras } = checkLuma(gray, before, "markers");
  const text = (segment: number[]) =>
    String.fromCharCode(segment[1], ...segment.slice(4));
  assertEquals(extras, kept.map(text));
  // The same where the codec codes it anew.
  const others: [Sampling, number[]][] = [
    [[[1, 1], [1, 1], [1, 1], [1, 1]], [1, 2, 3, 4]],
    [[[1, 1], [2, 2], [2, 2]], [1, 2, 3]],
    [SAMPLINGS["4:4:4"], [1, 1, 1]],
  ];
  for (const [sampling, ids] of others) {
    const bytes = encodeJpeg(some(20, 20, sampling), { ids, markers });
    assertEquals(grayJpeg(bytes), undefined);
    const { extras } = decodeJpeg(await grayscale(bytes));
    assertEquals(extras, kept.map(text), `ids ${ids}`);
  }
});

Deno.test("grayJpeg: without a Huffman table a JPEG has the standard ones", async () => {
  const { MagickFormat, MagickImage, MagickReadSettings } = await useCodec();
  for (const sampling of ["1x1", "2x2"]) {
    const { width, height, data } = draw(61, 47);
    const image = MagickImage.create();
    const format = MagickFormat.Rgba;
    image.read(
      data,
      new MagickReadSettings({ format, width, height, depth: 8 }),
    );
    image.quality = 95;
    image.settings.setDefine("JPEG", "optimize-coding", false);
    image.settings.setDefine("JPEG", "sampling-factor", sampling);
    const bytes = image.write("JPEG", (bytes) => bytes.slice());
    image.dispose();
    const parts: Uint8Array[] = [bytes.subarray(0, 2)];
    let cut = 0;
    for (let at = 2; at < bytes.length;) {
      const isScan = bytes[at + 1] === 0xda, isTable = bytes[at + 1] === 0xc4;
      const size = 2 + (bytes[at + 2] << 8 | bytes[at + 3]);
      const part = bytes.subarray(at, isScan ? bytes.length : at + size);
      if (!isTable) parts.push(part);
      else cut++;
      at += part.length;
    }
    assert(cut > 0);
    const without = new Uint8Array(Buffer.concat(parts));
    const gray = grayJpeg(bytes);
    assert(gray);
    assertEquals(grayJpeg(without), gray);
  }
});

Deno.test("grayJpeg: leaves what it cannot take to the general codec", async () => {
  const rgb: Sampling = SAMPLINGS["4:4:4"];
  const cmyk: Sampling = [[1, 1], [1, 1], [1, 1], [1, 1]];
  const two: Sampling = [[1, 1], [1, 1]];
  const cases: [string, Sampling, Style][] = [
    ["RGB", rgb, { ids: letters("RGB") }],
    ["CMYK", cmyk, {}],
    ["YCCK", cmyk, { markers: [adobe(2)] }],
    ["two components", two, {}],
    ["luma at half the width of chroma", [[1, 1], [2, 1], [1, 1]], {}],
    ["luma at half the height of chroma", [[2, 1], [1, 1], [1, 2]], {}],
    ["ids that are equal", rgb, { ids: [1, 1, 1] }],
  ];
  for (const [name, sampling, style] of cases) {
    const bytes = encodeJpeg(some(20, 20, sampling), style);
    assertEquals(grayJpeg(bytes), undefined, name);
  }
  // Lossless and hierarchical frames: only the first byte differs.
  for (const marker of [0xc3, 0xc5, 0xc6, 0xc7, 0xcb, 0xcd, 0xcf]) {
    const bytes = encodeJpeg(some(20, 20, rgb), { frame: marker });
    assertEquals(grayJpeg(bytes), undefined, `frame ${marker}`);
    try {
      await grayscale(bytes);
    } catch (error) {
      assert(/^[^\n]{8,200}$/.test((error as Error).message), `${error}`);
    }
  }
});

// ---- Against libjpeg's tools

/** Runs a tool on bytes; undefined if it is not installed. */
async function filter(
  [command, ...args]: string[],
  input: Uint8Array,
): Promise<Uint8Array | undefined> {
  try {
    const child = new Deno.Command(command, {
      args,
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const writer = child.stdin.getWriter();
    const written = writer.write(input).then(() => writer.close());
    const { success, stdout } = await child.output();
    await written;
    assert(success, `${command} ${args.join(" ")}`);
    return stdout;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** A picture for cjpeg. */
function ppmOf(width: number, height: number): Uint8Array {
  const { data } = draw(width, height);
  const rgb = data.filter((_, i) => i % 4 < 3);
  return Buffer.concat([Buffer.from(`P6 ${width} ${height} 255\n`), rgb]);
}

Deno.test("grayJpeg: gives the coefficients that jpegtran gives", async () => {
  const samplings = ["1x1", "2x1", "2x2", "1x2", "4x1", "4x2", "2x2,1x2,2x1"];
  const ways = [
    ["-quality", "90"],
    ["-quality", "100", "-optimize", "-restart", "3B"],
    ["-quality", "5", "-optimize", "-restart", "1"],
    ["-quality", "75", "-progressive"],
    ["-quality", "97", "-progressive", "-restart", "2B"],
  ];
  let turn = 0;
  for (const sampling of samplings) {
    for (const way of ways) {
      const [width, height] = [[61, 47], [9, 16], [130, 33]][turn++ % 3];
      const clue = `${width}x${height}, ${sampling}, ${way.join(" ")}`;
      const command = ["cjpeg", "-sample", sampling, ...way];
      const bytes = await filter(command, ppmOf(width, height));
      if (!bytes) return console.warn("SKIPPED: no cjpeg is here");
      const gray = await filter(["jpegtran", "-grayscale"], bytes);
      if (!gray) return console.warn("SKIPPED: no jpegtran is here");
      const before = decodeJpeg(gray), wanted = decodeJpeg(bytes);
      assertEquals(lumaOf(before), lumaOf(wanted), `the reference: ${clue}`);
      const after = checkLuma(grayJpeg(bytes), before, clue);
      assertEquals(after.steps, before.steps, clue);
    }
  }
});

Deno.test("grayJpeg: libjpeg finds nothing to complain about", async () => {
  const samplings = Object.values(SAMPLINGS);
  for (const [turn, [kind, style]] of Object.entries(STYLES).entries()) {
    const before = some(67, 35, samplings[turn % samplings.length]);
    const gray = grayJpeg(encodeJpeg(before, { ...style, interval: 5 }));
    assert(gray, kind);
    // -strict turns its warnings into errors.
    const out = await filter(["djpeg", "-strict", "-pnm"], gray);
    if (!out) return console.warn("SKIPPED: no djpeg is here");
    assertEquals(String.fromCharCode(...out.subarray(0, 8)), "P5\n67 35", kind);
  }
});
