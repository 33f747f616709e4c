/**
 * JPEGs that are damaged: each is refused in one line that says what is wrong
 * and at which byte, or gives an image that can be read; and the next one is
 * converted as ever.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { Buffer } from "node:buffer";
import { join } from "@std/path";
import { sequential } from "../../mod.ts";
import { randomFrom } from "../../workers/fixtures.ts";
import { grayscale, grayscaleFile, service } from "../../workers/grayscale.ts";
import { grayJpeg, grayJpegParts } from "../../workers/grayscale/jpeg.ts";
import { joined } from "../../workers/shared/memory.ts";
import * as kernels from "../../workers/kernels/kernels.wasm";
import { namesIn, withFolder } from "../tasks/folders.ts";
import {
  type Band,
  decodeJpeg,
  encodeJpeg,
  fill,
  newPicture,
  segment,
  type Style,
} from "./jpegs.ts";

const band = (
  components: number[],
  first = 0,
  last = 63,
  high = 0,
  low = 0,
): Band => ({ components, first, last, high, low });

const random = randomFrom(11);
const picture = fill(newPicture(45, 37, [[2, 2], [1, 1], [1, 1]]), random);

const PROGRESSIVE: Style = {
  frame: 0xc2,
  scans: [
    band([0, 1, 2], 0, 0, 0, 1),
    band([0], 1, 63, 0, 1),
    band([1], 1, 63),
    band([0, 1, 2], 0, 0, 1, 0),
    band([0], 1, 63, 1, 0),
  ],
};

const GOOD: Record<string, Uint8Array> = {
  "baseline": encodeJpeg(picture),
  "long codes": encodeJpeg(picture, { skewed: true }),
  "restarts": encodeJpeg(picture, { interval: 2 }),
  "a scan each": encodeJpeg(picture, {
    scans: [band([1]), band([0]), band([2])],
  }),
  "progressive": encodeJpeg(picture, PROGRESSIVE),
  "progressive, restarts": encodeJpeg(picture, { ...PROGRESSIVE, interval: 3 }),
  "gray": encodeJpeg(fill(newPicture(45, 37, [[1, 1]]), random), {
    interval: 7,
  }),
};

const wanted = Object.entries(GOOD).map(([name, bytes]) => ({
  name,
  bytes,
  gray: grayJpeg(bytes),
}));

/** Checks that good files are still converted, whatever was tried before. */
function checkGood(clue: string): void {
  for (const { name, bytes, gray } of wanted) {
    assertEquals(grayJpeg(bytes), gray, `${name}, after ${clue}`);
  }
}

/** The message with which a file is refused. */
function refusal(bytes: Uint8Array, clue: string): string {
  const { message } = assertThrows(() => grayJpeg(bytes), Error, "", clue);
  assertMatch(
    message,
    /^(broken|truncated) JPEG: [A-Za-z ,()'0-9-]+ at byte \d+$/,
    clue,
  );
  const [, at] = /(\d+)$/.exec(message)!;
  assert(Number(at) <= bytes.length, `${clue}: ${message}`);
  return message;
}

/** The position of the nth marker of a kind. */
function placeOf(bytes: Uint8Array, marker: number, nth = 0): number {
  let at = -1;
  for (let n = 0; n <= nth; n++) {
    at = Buffer.from(bytes).indexOf(Buffer.from([0xff, marker]), at + 1);
    assert(at >= 0, `no marker ${marker}`);
  }
  return at;
}

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

Deno.test("a truncated JPEG is refused, wherever it is cut", () => {
  for (const { name, bytes } of wanted) {
    for (let cut = 2; cut < bytes.length; cut++) {
      const clue = `${name}, cut at ${cut}`;
      const message = refusal(bytes.subarray(0, cut), clue);
      assertMatch(message, /^truncated JPEG: /, clue);
    }
    checkGood(`${name}, cut`);
  }
});

Deno.test("a truncated scan is not mended by an EOI", () => {
  for (const { name, bytes } of wanted) {
    const from = placeOf(bytes, 0xda) + 20;
    for (let cut = from; cut < bytes.length - 3; cut += 7) {
      const mended = new Uint8Array([...bytes.subarray(0, cut), 0xff, 0xd9]);
      // If only chroma is cut off, nothing is wrong: it is not read.
      if (name === "a scan each" || name.startsWith("progressive")) continue;
      refusal(mended, `${name}, cut at ${cut}`);
    }
  }
});

Deno.test("a bad Huffman table is refused", () => {
  const at = placeOf(GOOD.baseline, 0xc4);
  const size = GOOD.baseline[at + 2] << 8 | GOOD.baseline[at + 3];
  const withTable = (...content: number[]) =>
    spliced(GOOD.baseline, at, size + 2, ...segment(0xc4, content));
  const counts = (...some: number[]) => [
    ...some,
    ...new Array(16 - some.length).fill(0),
  ];
  const values = (n: number) => Array.from({ length: n }, (_, i) => i & 255);
  const cases: Record<string, [Uint8Array, RegExp]> = {
    "too many codes of a length": [
      withTable(0, ...counts(3), ...values(3)),
      /bad Huffman table \(DHT\)/,
    ],
    "a code of ones alone": [
      withTable(0, ...counts(2), ...values(2)),
      /bad Huffman table/,
    ],
    "more codes than the longer lengths have": [
      withTable(0, ...counts(1, 2), ...values(3)),
      /bad Huffman table/,
    ],
    "over 256 codes": [
      withTable(0, ...counts(0, 0, 0, 0, 0, 0, 0, 0, 200, 100), ...values(300)),
      /bad Huffman table/,
    ],
    "fewer values than codes": [
      withTable(0, ...counts(0, 2, 2), ...values(3)),
      /bad Huffman table/,
    ],
    "no counts": [withTable(0, 1, 2), /bad Huffman table/],
    "a fifth table": [withTable(4, ...counts(1), 0), /bad Huffman table/],
    "a third kind": [withTable(0x20, ...counts(1), 0), /bad Huffman table/],
    "no codes at all": [withTable(0, ...counts()), /no Huffman table/],
    "no table": [withTable(), /no Huffman table \(DHT\) for a scan/],
    "a DC category that there is not": [
      withTable(0, ...counts(0, 2), 3, 16),
      /bad Huffman table \(DHT\) for a scan/,
    ],
    "a code that is missing": [
      withTable(0, ...counts(0, 0, 0, 1), 3),
      /undefined Huffman code/,
    ],
  };
  for (const [name, [bytes, cause]] of Object.entries(cases)) {
    assertMatch(refusal(bytes, name), cause, name);
  }
  assertMatch(refusal(cases["no counts"][0], ""), new RegExp(`byte ${at}$`));
  checkGood("bad tables");
});

Deno.test("markers in a wrong order are refused", () => {
  const { baseline, progressive } = GOOD;
  const [frame, scan] = [0xc0, 0xda].map((marker) => placeOf(baseline, marker));
  const size = 2 + (baseline[frame + 2] << 8 | baseline[frame + 3]);
  const header = baseline.subarray(frame, frame + size);
  const quantizers = placeOf(baseline, 0xdb);
  const eoi = baseline.length - 2;
  const inOrder = (...scans: Band[]) =>
    encodeJpeg(picture, { frame: 0xc2, scans });
  const all = band([0, 1, 2], 0, 0), ac = band([0], 1, 63);
  const sos = placeOf(progressive, 0xda);
  const cases: Record<string, [Uint8Array, string]> = {
    "EOI first": [spliced(baseline, 2, 0, 0xff, 0xd9), "EOI before a frame"],
    "SOI again": [
      spliced(baseline, 2, 0, 0xff, 0xd8),
      "second SOI at byte 2",
    ],
    "no frame": [
      spliced(baseline, frame, size),
      "scan (SOS) before a frame header (SOF)",
    ],
    "two frames": [
      spliced(baseline, scan, 0, ...header),
      `second frame header (SOF) at byte ${scan}`,
    ],
    "no scan": [
      spliced(baseline, scan, eoi - scan),
      "EOI before a scan of the luma",
    ],
    "no quantization table": [
      spliced(baseline, quantizers, 2 * 69),
      "no quantization table (DQT)",
    ],
    "scans of the same": [
      encodeJpeg(picture, { scans: [band([0, 1, 2]), band([0])] }),
      "scan of the luma out of order",
    ],
    "AC before DC": [inOrder(ac, all), "scan of AC coefficients before the DC"],
    "the same band twice": [inOrder(all, ac, ac), "out of order"],
    "refinement first": [
      inOrder(all, band([0], 1, 63, 2, 1)),
      "scan of the luma out of order",
    ],
    "refinement of another bit": [
      inOrder(all, band([0], 1, 63, 0, 3), band([0], 1, 63, 2, 1)),
      "scan of the luma out of order",
    ],
    "AC of all": [inOrder(band([0, 1, 2], 0, 63)), "bad scan header"],
    "a component of no frame": [
      spliced(baseline, scan + 5, 1, 99),
      "bad scan header",
    ],
    "a component twice": [spliced(baseline, scan + 7, 1, 1), "bad scan header"],
    "no components": [spliced(progressive, sos + 4, 1, 0), "bad scan header"],
    "an unknown marker": [
      spliced(baseline, 2, 0, ...segment(0xf7, [1, 2])),
      "unknown marker (FFF7) at byte 2",
    ],
    "a segment that is too short": [
      spliced(baseline, frame + 2, 2, 0, 1),
      `marker segment without a length at byte ${frame + 2}`,
    ],
    "a sampling factor of 5": [
      spliced(baseline, frame + 11, 1, 0x52),
      "bad frame header (SOF)",
    ],
  };
  for (const [name, [bytes, cause]] of Object.entries(cases)) {
    const message = refusal(bytes, name);
    assert(message.includes(cause), `${name}: ${message}`);
  }
  checkGood("wrong orders");
});

Deno.test("restart markers out of sequence are refused", () => {
  const { restarts } = GOOD;
  const places = [0, 1, 2].map((n) => placeOf(restarts, 0xd0 + n));
  for (const [n, at] of places.entries()) {
    const other = spliced(restarts, at + 1, 1, 0xd0 + (n + 1) % 8);
    assertEquals(
      refusal(other, `number ${n}`),
      `broken JPEG: restart marker out of sequence at byte ${at}`,
    );
    const missing = spliced(restarts, at, 2);
    assertMatch(
      refusal(missing, `without ${n}`),
      /: (data after|undefined|block with|restart marker|a scan's)/,
    );
    const twice = spliced(restarts, at, 0, 0xff, 0xd0 + n);
    assertMatch(
      refusal(twice, `twice ${n}`),
      new RegExp(`(end too early|sequence) at byte ${at + 2}$`),
    );
    const short = spliced(restarts, at - 9, 9);
    refusal(short, `short before ${n}`);
  }
  const { baseline } = GOOD;
  const middle = placeOf(baseline, 0xda) + 60;
  const unasked = spliced(baseline, middle, 0, 0xff, 0xd0);
  assertMatch(refusal(unasked, "not announced"), /end too early at byte/);
  checkGood("restarts");
});

Deno.test("data after the end of a scan: a few and padding are skipped, behind EOI all", () => {
  for (const [name, bytes] of Object.entries(GOOD)) {
    const eoi = bytes.length - 2, wanted = grayJpeg(bytes)!;
    assertEquals(grayJpeg(spliced(bytes, eoi + 2, 0, 1, 2)), wanted, name);
    if (/a scan each|progressive/.test(name)) continue; // without the luma
    const random = (count: number) =>
      Array.from({ length: count }, (_, i) => i * 37 % 250);
    for (
      const more of [[0], [1, 2, 3], random(16), Array(9000).fill(0), [
        7,
        0xff,
        0,
      ]]
    ) {
      const warnings: string[] = [];
      const parts = grayJpegParts(
        spliced(bytes, eoi, 0, ...more),
        () => {},
        (cause) => warnings.push(cause),
      );
      assertEquals(joined(parts!), wanted, name);
      assertEquals(warnings, [
        `${more.length} stray bytes before a marker, at byte ${eoi}`,
      ]);
    }
    // So many mean that what is before them was misread.
    assertMatch(
      refusal(spliced(bytes, eoi, 0, ...random(17)), name),
      new RegExp(
        `data after the end of a scan or restart interval at byte ${eoi}$`,
      ),
    );
  }
});

Deno.test("stray bytes between segments are skipped, with a warning", async () => {
  await withFolder(async (folder) => {
    const [path, out] = [join(folder, "a.jpg"), join(folder, "gray.jpg")];
    for (const name of ["baseline", "restarts", "progressive", "gray"]) {
      const bytes = GOOD[name], wanted = grayJpeg(bytes)!;
      for (const marker of [0xdb, 0xc0, 0xc2, 0xc4, 0xda]) {
        const isHere = (byte: number, i: number) =>
          byte === 0xff && bytes[i + 1] === marker;
        const first = bytes.findIndex(isHere),
          last = bytes.findLastIndex(isHere);
        // SOI and a marker tell that it is a JPEG.
        if (first <= 2) continue;
        for (const at of new Set([first, last])) {
          for (const stray of [[0], [1, 2, 3], [0xff, 0], [0xff, 0, 7, 0]]) {
            // Behind data FF 00 is a byte of ones, of which one may be there.
            if (at > first && stray[0] === 0xff) continue;
            const bad = spliced(bytes, at, 0, ...stray);
            assertEquals(grayJpeg(bad), wanted, name);
            await Deno.writeFile(path, bad);
            assertEquals(await grayscaleFile({ path, out }), {
              ...{ path, out, bytes: wanted.length },
              warning:
                `${stray.length} stray bytes before a marker, at byte ${at}`,
            });
            assertEquals(await Deno.readFile(out), wanted);
          }
        }
      }
      await Deno.writeFile(path, bytes);
      const clean = await grayscaleFile({ path, out });
      assertEquals(clean, { path, out, bytes: wanted.length });
    }
  });
});

Deno.test("stray bytes in a JPEG that the codec decodes are skipped, with one warning", async () => {
  const ids = Array.from("RGB", (letter) => letter.charCodeAt(0));
  const bytes = encodeJpeg(newPicture(45, 37, [[1, 1], [1, 1], [1, 1]]), {
    ...{ ids, interval: 2 },
  });
  const wanted = await grayscale(bytes);
  const places = [0xc0, 0xda, 0xd1].map((marker) => placeOf(bytes, marker));
  for (const at of [...places, bytes.length - 2]) {
    for (const stray of [[1, 2, 3], Array.from({ length: 17 }, (_, i) => i)]) {
      const warnings: string[] = [];
      const onWarning = (cause: string) => warnings.push(cause);
      const bad = spliced(bytes, at, 0, ...stray);
      const clue = `${stray.length} at ${at}`;
      if (stray.length < 16) {
        assertEquals(await grayscale(bad, { onWarning }), wanted, clue);
        assertMatch(
          warnings.join(),
          /^([1-3] stray bytes before a marker)?$/,
          clue,
        );
        if (at !== bytes.length - 2) assertEquals(warnings.length, 1, clue);
      } else if (at !== bytes.length - 2) {
        await assertRejects(() => grayscale(bad), Error, "broken JPEG", clue);
      }
    }
  }
});

Deno.test("a byte of ones at the end of a scan or restart interval is none of its data", () => {
  for (const [name, bytes] of Object.entries(GOOD)) {
    const places: number[] = [];
    for (let at = placeOf(bytes, 0xda) + 2; at + 1 < bytes.length; at++) {
      const marker = bytes[at] === 0xff ? bytes[at + 1] : 0;
      if ((marker & 0xf8) === 0xd0 || marker === 0xd9) places.push(at);
    }
    for (const at of places) {
      const padded = spliced(bytes, at, 0, 0xff, 0);
      const gray = grayJpeg(padded);
      assert(gray, name);
      const wanted = grayJpeg(bytes)!;
      // It stays in scans that are copied as they are.
      const i = gray.length === wanted.length
        ? gray.length
        : gray.findIndex((byte, i) => byte !== wanted[i]);
      const rest = gray.subarray(i, i + 2).toHex();
      assert(rest === "" || rest === "ff00" || rest === "00ff", name);
      assertEquals(spliced(gray, i, 2), wanted, `${name} at ${at}`);
      // Scans without luma are not decoded.
      if (/a scan each|progressive/.test(name)) continue;
      for (
        const more of [[0xff, 0, 0xff, 0], [0xfe], [0x7f], [0xff, 0, 0xfe]]
      ) {
        assertEquals(grayJpeg(spliced(bytes, at, 0, ...more)), wanted, name);
      }
    }
  }
});

Deno.test("AC scans that go beyond a block or the last one are refused", () => {
  const scans = [band([0], 0, 0), band([0], 1, 63, 0, 1)];
  const empty = encodeJpeg(newPicture(8, 8, [[1, 1]]), { frame: 0xc2, scans });
  /** Adds a scan that has a single code of one bit. */
  const withScan = (symbol: number, high: number, ...data: number[]) => {
    const codes = segment(0xc4, [0x10, 1, ...new Array(15).fill(0), symbol]);
    const header = segment(0xda, [1, 1, 0, 1, 63, high << 4]);
    const before = high ? empty : empty.subarray(0, placeOf(empty, 0xc4, 1));
    const start = Array.from(high ? before.subarray(0, -2) : before);
    return new Uint8Array([...start, ...codes, ...header, ...data, 255, 217]);
  };
  // A code and a sign: runs of fifteen zeros and a one.
  const long = /block with too many coefficients/;
  assertMatch(refusal(withScan(0xf1, 1, 0, 0), "refinement"), long);
  assertMatch(refusal(withScan(0xf1, 0, 0, 0), "first"), long);
  // EOB1, and a bit of how many: 2 blocks, of one.
  const run = /run of blocks behind the end of a scan/;
  assertMatch(refusal(withScan(0x10, 1, 0x3f), "run, refinement"), run);
  assertMatch(refusal(withScan(0x10, 0, 0x3f), "run, first"), run);
  // EOB0: nothing is wrong.
  for (const high of [0, 1]) assert(grayJpeg(withScan(0, high, 0x7f)));
});

Deno.test("a block of a sequential scan that goes on too long is refused", () => {
  const zeros = new Array(15).fill(0);
  const empty = encodeJpeg(newPicture(8, 8, [[1, 1]]));
  const start = empty.subarray(0, placeOf(empty, 0xc4));
  const bytes = new Uint8Array([
    ...start,
    ...segment(0xc4, [0, 1, ...zeros, 0, 0x10, 1, ...zeros, 0xf1]),
    ...segment(0xda, [1, 1, 0, 0, 63, 0]),
    ...[0, 0, 0xff, 0xd9],
  ]);
  const cause = /block with too many coefficients at byte \d+$/;
  assertMatch(refusal(bytes, "five runs of fifteen"), cause);
});

Deno.test("a JPEG that declares more pixels than it has data is refused", () => {
  const at = placeOf(GOOD.baseline, 0xc0);
  for (const name of ["baseline", "progressive"]) {
    const bytes = GOOD[name].slice();
    const frame = name === "baseline" ? at : placeOf(bytes, 0xc2);
    bytes.set([0xff, 0xff, 0xff, 0xff], frame + 5);
    assertMatch(refusal(bytes, name), /a scan's data end too early/);
    // No memory was allocated for pixels that the file cannot hold.
    assert(kernels.memory.buffer.byteLength < 1 << 24, name);
  }
  checkGood("huge sizes");
});

Deno.test("a damaged JPEG is refused by name, and nothing is written", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "a.jpg"), out = join(folder, "out/a.jpg");
    await Deno.writeFile(path, GOOD.restarts.subarray(0, -40));
    const [outcome] = await sequential(service).map(
      "grayscaleFile",
      [{ path, out }],
      { settle: true },
    );
    assert(outcome.status === "rejected");
    assertMatch(
      outcome.reason.cause.message,
      /^truncated JPEG: .* at byte \d+$/,
    );
    assertEquals(namesIn(folder), ["a.jpg"]);
  });
});

/** Damages a copy: bits, runs, cuts, insertions, extremes, parts of others. */
function mutate(bytes: Uint8Array, integer: (below: number) => number) {
  let copy: Uint8Array = bytes.slice();
  for (let n = 1 + integer(3); n > 0; n--) {
    const at = integer(copy.length), kind = integer(7);
    if (kind === 0) copy[at] ^= 1 << integer(8);
    if (kind === 1) copy.fill(integer(256), at, at + integer(9));
    if (kind === 2) copy = spliced(copy, at, 1 + integer(5));
    if (kind === 3) copy = spliced(copy, at, 0, integer(256), integer(256));
    if (kind === 4) copy[integer(Math.min(700, copy.length))] = integer(256);
    if (kind === 5) copy = spliced(copy, at, 0, 0xff, 0xc0 + integer(64));
    if (kind === 6) {
      const other = wanted[integer(wanted.length)].bytes;
      copy = new Uint8Array([
        ...copy.subarray(0, at),
        ...other.subarray(integer(other.length)),
      ]);
    }
  }
  return copy;
}

Deno.test("ten thousand damaged JPEGs: an image, or a line; then a good one", () => {
  const draw = randomFrom(23);
  const integer = (below: number) => Math.floor(draw() * below);
  const counts = { image: 0, refused: 0, left: 0 };
  for (let n = 0; n < 10_000; n++) {
    const { name, bytes } = wanted[n % wanted.length];
    const damaged = mutate(bytes, integer);
    if (damaged.length < 3) continue;
    const clue = `mutation ${n} of ${name}`;
    let gray: Uint8Array | undefined;
    try {
      gray = grayJpeg(damaged);
    } catch {
      refusal(damaged, clue);
      counts.refused++;
      gray = undefined;
      checkOne(n, clue);
      continue;
    }
    if (!gray) counts.left++;
    else {
      counts.image++;
      try {
        decodeJpeg(gray);
      } catch (cause) {
        throw new Error(clue, { cause });
      }
    }
    checkOne(n, clue);
  }
  // Some mutations are accepted and some refused: both paths are tested.
  assert(counts.refused > 3000 && counts.image > 300, JSON.stringify(counts));
  checkGood("ten thousand");
});

function checkOne(n: number, clue: string): void {
  const { name, bytes, gray } = wanted[(n * 7 + 3) % wanted.length];
  const again = grayJpeg(bytes)!;
  const isSame = Buffer.from(again).equals(gray!);
  assert(isSame, `${name} after ${clue}`);
}

Deno.test("grayscale: what the kernel leaves, the codec takes or refuses", async () => {
  const draw = randomFrom(29);
  const integer = (below: number) => Math.floor(draw() * below);
  for (let n = 0; n < 300; n++) {
    const { bytes, name } = wanted[n % wanted.length];
    const damaged = mutate(bytes, integer);
    try {
      await grayscale(damaged, { maxPixels: 1e5 });
    } catch (error) {
      const { message } = error as Error;
      assertMatch(message, /^[^\n\r\\@`]{8,200}$/, `mutation ${n} of ${name}`);
    }
  }
  checkGood("the codec");
});
