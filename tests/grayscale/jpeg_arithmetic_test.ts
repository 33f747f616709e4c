/** JPEGs with arithmetic coding: their luma, with Huffman codes. */
import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { randomFrom } from "../../workers/fixtures.ts";
import { grayscale } from "../../workers/grayscale.ts";
import { grayJpeg, grayJpegParts } from "../../workers/grayscale/jpeg.ts";
import { draw } from "./images.ts";
import { Encoder } from "./jpeg_arithmetic.ts";
import {
  type Band,
  blocksOf,
  decodeJpeg,
  encodeJpeg,
  fill,
  newPicture,
  type Picture,
  type Style,
} from "./jpegs.ts";

const random = randomFrom(16);

const band = (
  components: number[],
  [first, last] = [0, 63],
  [high, low] = [0, 0],
): Band => ({ components, first, last, high, low });

const PROGRESSIVE = [
  band([0, 1, 2], [0, 0], [0, 1]),
  band([0], [1, 5], [0, 2]),
  band([2], [1, 63], [0, 1]),
  band([0], [6, 63], [0, 2]),
  band([0], [1, 63], [2, 1]),
  band([0, 1, 2], [0, 0], [1, 0]),
  band([0], [1, 63], [1, 0]),
];

/** Ways to code the same coefficients, with restarts after each interval. */
const STYLES: Record<string, Style> = {
  "sequential": { frame: 0xc9 },
  "a scan each": {
    frame: 0xc9,
    interval: 3,
    scans: [band([1]), band([0]), band([2])],
  },
  "16-bit quantization": { frame: 0xc9, deep: true, interval: 1, fill: 2 },
  "progressive": { frame: 0xca, scans: PROGRESSIVE },
  "progressive, restarts": { frame: 0xca, interval: 2, scans: PROGRESSIVE },
};

const CONDITIONS = [
  { lower: 0, upper: 1, low: 5 },
  { lower: 2, upper: 4, low: 63 },
  { lower: 5, upper: 5, low: 1 },
  { lower: 0, upper: 15, low: 20 },
];

const SAMPLINGS: [wide: number, high: number][][] = [
  [[1, 1], [1, 1], [1, 1]],
  [[2, 2], [1, 1], [1, 1]],
  [[2, 1], [1, 1], [2, 1]],
  [[1, 4], [1, 1], [1, 2]],
];

/** The next of some values, over and over. */
const turns = <T>(values: T[]) => {
  let turn = 0;
  return () => values[turn++ % values.length];
};
const nextConditions = turns(CONDITIONS), nextSampling = turns(SAMPLINGS);

const arithmetic = (picture: Picture, style: Style): Uint8Array =>
  encodeJpeg(picture, { arithmetic: nextConditions(), ...style });

const some = (width: number, height: number): Picture =>
  fill(newPicture(width, height, nextSampling()), random);

function checkLuma(
  gray: Uint8Array | undefined,
  before: Picture,
  clue: string,
) {
  assert(gray, clue);
  const after = decodeJpeg(gray);
  assertEquals([after.width, after.height], [before.width, before.height]);
  assertEquals(after.components.length, 1, clue);
  const blocks = blocksOf(after.components[0]);
  for (const [i, wanted] of blocksOf(before.components[0]).entries()) {
    assert(wanted.every((value, k) => value === blocks[i][k]), `${clue}, ${i}`);
  }
  return after;
}

Deno.test("arithmetic JPEG: the encoder gives what T.81 does (K.4.1)", () => {
  const bytes = Uint8Array.fromHex(
    "00020051000000c00352872aaaaaaaaa82c02000fcd79ef674eaabf7697ee74c",
  );
  const encoder = new Encoder(), estimate = { state: 0, sense: 0 };
  for (const byte of bytes) {
    for (let bit = 7; bit >= 0; bit--) encoder.code(estimate, byte >> bit & 1);
  }
  assertEquals(
    new Uint8Array(encoder.finish()).toHex(),
    "655b5144f7969d517855bfff00fc5184c7cef93900287d46708ecbc0f6",
  );
});

for (const [name, style] of Object.entries(STYLES)) {
  Deno.test(`arithmetic JPEG: ${name}, sizes 1 to 17`, () => {
    for (let width = 1; width <= 17; width++) {
      for (let height = 1; height <= 17; height++) {
        const before = some(width, height), clue = `${width}x${height}`;
        const bytes = arithmetic(before, style);
        const { frame, markers } = checkLuma(grayJpeg(bytes), before, clue);
        const wanted = style.frame === 0xca ? 0xc2 : style.deep ? 0xc1 : 0xc0;
        assertEquals(frame, wanted);
        const scans = markers.filter((marker) => marker === 0xda);
        assertEquals(scans.length, frame === 0xc2 ? 3 : 1);
      }
    }
    const before = some(150, 90);
    checkLuma(grayJpeg(arithmetic(before, style)), before, "150x90");
  });
}

Deno.test("arithmetic JPEG: a gray one is checked and comes as it is", async () => {
  for (const frame of [0xc9, 0xca]) {
    const scans = frame === 0xc9 ? undefined : [
      band([0], [0, 0]),
      band([0], [1, 63]),
    ];
    const picture = fill(newPicture(40, 30, [[1, 1]]), random);
    const bytes = arithmetic(picture, { frame, scans });
    assertEquals(await grayscale(bytes), bytes);
    const cut = new Uint8Array([...bytes.subarray(0, -40), 0xff, 0xd9]);
    assertThrows(() => grayJpeg(cut), Error, "broken JPEG: ");
  }
});

Deno.test("arithmetic JPEG: other colors are left to the codec", () => {
  const picture = fill(newPicture(20, 20, SAMPLINGS[0]), random);
  const rgb = [...new TextEncoder().encode("RGB")];
  assertEquals(
    grayJpeg(arithmetic(picture, { frame: 0xc9, ids: rgb })),
    undefined,
  );
});

// ---- What is wrong

/** Where the data of the last scan begin. */
function lastScan(bytes: Uint8Array): number {
  const at = bytes.findLastIndex((byte, i) =>
    byte === 0xff && bytes[i + 1] === 0xda
  );
  return at + 2 + (bytes[at + 2] << 8 | bytes[at + 3]);
}

Deno.test("arithmetic JPEG: a file cut anywhere is truncated, also with an end", () => {
  for (const [name, style] of Object.entries(STYLES)) {
    const bytes = arithmetic(some(40, 30), style);
    for (let cut = 2; cut < bytes.length - 1; cut++) {
      assertThrows(() => grayJpeg(bytes.subarray(0, cut)), Error, "truncated");
    }
    // Behind this there are only zeros to be added, which may be right.
    const last = bytes.length - 2 - 12;
    let refused = 0, all = 0;
    for (let cut = lastScan(bytes); cut < last; cut++, all++) {
      const ended = new Uint8Array([...bytes.subarray(0, cut), 0xff, 0xd9]);
      try {
        grayJpeg(ended);
      } catch (error) {
        refused++;
        assertMatch((error as Error).message, /^broken JPEG: .* at byte \d+$/);
      }
    }
    const isLuma = !name.startsWith("a scan each");
    if (isLuma) assert(refused > all * 0.94, `${name}: ${refused} of ${all}`);
  }
});

Deno.test("arithmetic JPEG: what is wrong has a line", () => {
  const style = { frame: 0xc9, interval: 4 }, picture = some(64, 40);
  const bytes = arithmetic(picture, style), from = lastScan(bytes);
  const dac = bytes.findIndex((byte, i) =>
    byte === 0xff && bytes[i + 1] === 0xcc
  );
  const changed = (at: number, ...values: number[]) => {
    const copy = bytes.slice();
    copy.set(values, at);
    return copy;
  };
  const next = bytes.findIndex((byte, i) =>
    i >= from && byte === 0xff && (bytes[i + 1] & 0xf8) === 0xd0
  );
  const withInserted = (data: number[]) =>
    new Uint8Array([
      ...[...bytes.subarray(0, next), ...data, ...bytes.subarray(next)],
    ]);
  const cases: [Uint8Array, RegExp][] = [
    [changed(dac + 4, 0x20), /conditioning \(DAC\) at byte/],
    [changed(dac + 5, 0x01), /conditioning \(DAC\) at byte/],
    [changed(dac + 9, 64), /conditioning \(DAC\) at byte/],
    [changed(next + 1, 0xd3), /restart marker out of sequence at byte/],
    [
      withInserted(Array.from({ length: 20 }, (_, i) => i)),
      /data after the end of a scan or restart interval at byte/,
    ],
  ];
  for (const [file, line] of cases) {
    assertMatch(assertThrows(() => grayJpeg(file), Error).message, line);
  }
  // Padding is not data. The first of it may be taken for zeros that were left out.
  for (const padding of [[0, 0], [0xff, 0]]) {
    const padded = withInserted(Array(10).fill(padding).flat());
    const warnings: string[] = [];
    grayJpegParts(padded, () => {}, (line) => void warnings.push(line));
    checkLuma(grayJpeg(padded), picture, "padding");
    assertEquals(warnings.length, 1);
    assertMatch(warnings[0], /^1\d stray bytes before a marker, at byte \d+$/);
  }
});

Deno.test("arithmetic JPEG: scans without end are refused", () => {
  // A coefficient each costs a pass over all blocks, but hardly a byte.
  const bits = Array.from({ length: 3 }, (_, i) => 3 - i - 1);
  const scans = [
    band([0], [0, 0]),
    ...Array.from({ length: 63 }, (_, i) => i + 1).flatMap((k) =>
      bits.map((low) => band([0], [k, k], [low === 2 ? 0 : low + 1, low]))
    ),
  ];
  const bytes = arithmetic(newPicture(16, 16, [[1, 1]]), {
    frame: 0xca,
    scans,
  });
  assertThrows(() => grayJpeg(bytes), Error, "more than 100 scans");
});

Deno.test("arithmetic JPEG: 3,000 damaged ones are refused, or have all blocks", () => {
  const good = Object.values(STYLES).map((style) =>
    arithmetic(some(40, 30), style)
  );
  const integer = (below: number) => Math.floor(below * random());
  let refused = 0;
  for (let n = 0; n < 3000; n++) {
    const bytes = good[n % good.length].slice(), at = integer(bytes.length);
    const kind = integer(4);
    if (kind === 0) bytes[at] ^= 1 << integer(8);
    else if (kind === 1) bytes.fill(integer(256), at, at + 1 + integer(20));
    else if (kind === 2) bytes.copyWithin(at, at + 1 + integer(8));
    else bytes[integer(60)] = [0, 1, 2, 127, 128, 255][integer(6)];
    const check = ({ width, height }: { width: number; height: number }) => {
      if (width * height > 1e5) throw new Error("larger than a test allows");
    };
    try {
      const gray = grayJpeg(bytes, check);
      if (gray) decodeJpeg(gray);
    } catch (error) {
      refused++;
      const { name, message } = error as Error;
      assertEquals(name, "Error", `mutation ${n}: ${(error as Error).stack}`);
      assertMatch(message, /^[^\n\r\\@`]{8,200}$/, `mutation ${n}`);
    }
  }
  assert(refused > 1000 && refused < 2990, `${refused} are refused`);
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

Deno.test("arithmetic JPEG: what jpegtran gives, and djpeg reads", async () => {
  const ways = [
    ["-quality", "90", "-sample", "2x2"],
    ["-quality", "100", "-sample", "1x1", "-restart", "3B"],
    ["-quality", "20", "-progressive", "-sample", "2x1"],
    ["-quality", "97", "-progressive", "-sample", "1x2", "-restart", "1"],
  ];
  const { data } = draw(131, 77);
  const rgb = data.filter((_, i) => i % 4 < 3);
  const ppm = new Uint8Array([
    ...new TextEncoder().encode("P6 131 77 255\n"),
    ...rgb,
  ]);
  for (const way of ways) {
    const bytes = await filter(["cjpeg", "-arithmetic", ...way], ppm);
    if (!bytes) return console.warn("SKIPPED: no cjpeg is here");
    const wanted = await filter(["jpegtran", "-grayscale"], bytes);
    if (!wanted) return console.warn("SKIPPED: no jpegtran is here");
    const gray = await grayscale(bytes);
    const after = checkLuma(gray, decodeJpeg(wanted), way.join(" "));
    assertEquals(after.steps, decodeJpeg(wanted).steps);
    // -strict turns its warnings into errors.
    assert(await filter(["djpeg", "-strict", "-pnm"], gray));
  }
});
