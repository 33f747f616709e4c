/** Damaged TIFFs: an image, or a line; with `salvage` what is there. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { randomFrom } from "../../workers/fixtures.ts";
import { grayscale } from "../../workers/grayscale.ts";
import {
  decodeTiff,
  encodePixelsLast,
  encodeTiffs,
  type Tiff,
} from "./tiffs.ts";

const WIDTH = 9, HEIGHT = 8;

function pageOf(kind: Partial<Tiff>): Tiff {
  const { channels = 3, bits = 8, format = 1 } = kind;
  const samples = Array.from(
    { length: WIDTH * HEIGHT * channels },
    (_, i) => format === 3 ? i / 64 : i * 7919 % 2 ** bits,
  );
  const size = { width: WIDTH, height: HEIGHT };
  return { photometric: 2, bits, channels, samples, ...size, ...kind };
}

/** Of unsigned numbers, whose gray is in the middle. */
const KINDS: Record<string, Partial<Tiff>> = {
  "strips": { rows: 3 },
  "one strip": {},
  "LZW": { compression: 5, predictor: 2 },
  "PackBits": { compression: 32773, rows: 4 },
  "deflated strips": { compression: 8, rows: 2, bits: 16 },
  "deflated": { compression: 8, bigEndian: true },
  "tiles": { tile: 16, big: true },
};

const GOOD: Record<string, Uint8Array> = {
  "strips": encodeTiffs([pageOf({ rows: 2 })]),
  "LZW": encodeTiffs([pageOf({ rows: 3, compression: 5, predictor: 2 })]),
  "tiles": encodeTiffs([
    pageOf({ tile: 16, compression: 8, bits: 16, bigEndian: true }),
  ]),
  "floats": encodeTiffs([
    pageOf({ rows: 4, compression: 50000, bits: 32, format: 3, predictor: 3 }),
  ]),
  "planes": encodeTiffs([
    pageOf({ rows: 4, compression: 32773, planar: true, big: true }),
  ]),
  "palette": encodeTiffs([
    pageOf({
      ...{ photometric: 3, channels: 1, bits: 4 },
      fields: { 320: Array.from({ length: 48 }, (_, i) => i * 1300) },
    }),
  ]),
  "gray pages": encodeTiffs([
    pageOf({ photometric: 1, channels: 1, rows: 3 }),
    pageOf({ photometric: 0, channels: 1, compression: 5 }),
  ]),
};

/** Why a file is refused, in a line; undefined if it is not. */
async function refusal(
  bytes: Uint8Array,
  clue: string,
  salvage = false,
): Promise<string | undefined> {
  try {
    const gray = await grayscale(bytes, { maxPixels: 1e5, salvage });
    if (gray.length !== bytes.length) decodeTiff(gray);
  } catch (error) {
    const { name, message } = error as Error;
    assertEquals(name, "Error", `${clue}: ${(error as Error).stack}`);
    assertMatch(message, /^[^\n\r\\@`]{8,200}$/, clue);
    return message;
  }
}

Deno.test("a truncated TIFF is refused, wherever its pixels are cut", async () => {
  for (const [name, bytes] of Object.entries(GOOD)) {
    for (let cut = 8; cut < bytes.length; cut++) {
      const cause = await refusal(bytes.subarray(0, cut), `${name}, ${cut}`);
      assertMatch(cause ?? "", /^truncated TIFF: /, `${name}, cut at ${cut}`);
    }
  }
});

Deno.test("a TIFF that is cut behind its pixels is converted, with a line", async () => {
  const text = { type: 2, values: Array(40).fill(65) };
  const whole = encodeTiffs([pageOf({ fields: { 270: text } })]);
  // What is behind the directory comes last here: the text.
  const at = Array.from(whole).lastIndexOf(65) + 1;
  assert(at < whole.length, "the directory is behind it");
  const moved = new Uint8Array(whole.length + 40);
  moved.set(whole);
  const view = new DataView(moved.buffer), first = view.getUint32(4, true);
  for (let i = 0; i < view.getUint16(first, true); i++) {
    const entry = first + 2 + 12 * i;
    if (view.getUint16(entry, true) !== 270) continue;
    view.setUint32(entry + 8, whole.length, true);
  }
  const warnings: string[] = [];
  const onWarning = (cause: string) => warnings.push(cause);
  const cut = moved.subarray(0, -5);
  const [after] = decodeTiff(await grayscale(cut, { onWarning }));
  const [wanted] = decodeTiff(await grayscale(whole));
  assertEquals(after.samples, wanted.samples);
  assertEquals(after.fields[270], undefined);
  assertEquals(warnings, ["field 270 behind the end of the file is dropped"]);
});

Deno.test("a TIFF of YCbCr whose weights are no numbers is refused", async () => {
  const kind = { photometric: 6, subsampling: [1, 1] as [number, number] };
  for (const weights of [[0, 0, 0], [0.3, 0, 0.7]]) {
    const fields = { 529: { type: 5, values: weights } };
    const cause = await refusal(
      encodeTiffs([pageOf({ ...kind, fields })]),
      `${weights}`,
    );
    assertEquals(cause, "broken TIFF: YCbCr without weights or a range");
  }
});

Deno.test("a TIFF of which the codec decodes pixels: faults in other fields do not matter", async () => {
  // CCITT RLE: a run of eight white pixels in each row.
  const fax = {
    ...{ width: 8, height: 4, photometric: 0, bits: 1, channels: 1 },
    ...{ samples: [], compression: 2, blocks: [new Uint8Array(4).fill(0x98)] },
  };
  const nothing = { type: 0, values: [] };
  const bytes = encodeTiffs([{ ...fax, fields: { 0: nothing } }]);
  assertEquals(await grayscale(bytes), bytes);
  const bad = { ...fax, blocks: [new Uint8Array(4).fill(0x02)] };
  const cause = await refusal(encodeTiffs([bad]), "fax");
  assertMatch(cause ?? "", /^(broken|truncated) TIFF: /);
});

Deno.test("a TIFF with previews that are not supported: they are left out, with a line", async () => {
  const preview = {
    ...{ 256: [2], 257: [2], 258: [8], 259: [7], 262: [2], 277: [1] },
    ...{ 273: { type: 4, values: [8] }, 279: { type: 4, values: [4] } },
  };
  const fields = (kind: number, more = {}) => ({
    330: {
      type: 4,
      values: [],
      children: [{ 254: { type: 4, values: [kind] }, ...preview, ...more }],
    },
  });
  const gray = { photometric: 1, channels: 1 };
  for (const kind of [{}, gray]) {
    // One sample of RGB; JPEG 2000, which is seen later.
    for (const more of [{}, { 259: [34712], 262: [1] }]) {
      const warnings: string[] = [];
      const onWarning = (cause: string) => warnings.push(cause);
      const bytes = encodeTiffs([pageOf({ ...kind, fields: fields(1, more) })]);
      const [page] = decodeTiff(await grayscale(bytes, { onWarning }));
      const [whole] = decodeTiff(await grayscale(encodeTiffs([pageOf(kind)])));
      assertEquals(page.samples, whole.samples);
      assertEquals(page.fields[330], undefined);
      assertMatch(warnings.join(), /^a preview is passed over \(unsupported/);
    }
  }
  // Not smaller than anything: it may be the picture itself.
  const other = encodeTiffs([pageOf({ fields: fields(0) })]);
  assertEquals(
    await refusal(other, "other"),
    "unsupported TIFF: 1 samples of a pixel",
  );
});

Deno.test("salvage: of every truncated TIFF the real rows are there, the rest is gray", async () => {
  for (const [name, kind] of Object.entries(KINDS)) {
    const bytes = encodePixelsLast([pageOf(kind)]);
    const [wanted] = decodeTiff(await grayscale(bytes));
    const pixels = bytes.length -
      decodeTiff(bytes)[0].blocks.reduce((sum, b) => sum + b.length, 0);
    const wide = WIDTH * wanted.channels, counts = new Set<number>();
    for (let cut = pixels; cut < bytes.length; cut++) {
      const clue = `${name}, cut at ${cut}`, warnings: string[] = [];
      const onWarning = (cause: string) => warnings.push(cause);
      const part = bytes.subarray(0, cut);
      let gray: Uint8Array;
      try {
        gray = await grayscale(part, { salvage: true, onWarning });
      } catch (error) { // no row is there
        assertMatch((error as Error).message, /^truncated TIFF: too few data/);
        counts.add(0);
        continue;
      }
      const [page] = decodeTiff(gray);
      // The end of a coding is more than pixels need.
      if (!warnings.length) {
        assertEquals(page.samples, wanted.samples, clue);
        continue;
      }
      assertMatch((await refusal(part, clue)) ?? "", /^truncated TIFF: /, clue);
      const [, real, all] =
        /^missing pixels, which are gray: (\d+) of (\d+) rows are there \(/
          .exec(warnings[0])!;
      assertEquals([warnings.length, Number(all)], [1, HEIGHT], clue);
      counts.add(Number(real));
      let missing = 0;
      for (let y = 0; y < HEIGHT; y++) {
        const row = page.samples.slice(y * wide, (y + 1) * wide);
        const isReal = row.every((v, i) => v === wanted.samples[y * wide + i]);
        const isGray = row.every((v) => v === 2 ** (wanted.bits - 1));
        assert(isReal || isGray, `${clue}, row ${y}`);
        if (isGray && !isReal) missing++;
      }
      assertEquals(missing, HEIGHT - Number(real), clue);
    }
    assert(counts.has(0) && counts.size > 1, `${name}: ${[...counts]}`);
  }
});

Deno.test("ten thousand damaged TIFFs: an image, or a line; then a good one", async () => {
  const random = randomFrom(7), names = Object.keys(GOOD);
  const integer = (below: number) => Math.floor(below * random());
  const counts = { refused: 0, salvaged: 0 };
  for (let n = 0; n < 10_000; n++) {
    const name = names[n % names.length], bytes = GOOD[name].slice();
    const kind = integer(4), at = integer(bytes.length);
    if (kind === 0) bytes[at] ^= 1 << integer(8);
    else if (kind === 1) bytes.fill(integer(256), at, at + 1 + integer(30));
    else if (kind === 2) bytes.copyWithin(at, at + 1 + integer(8));
    else bytes[at] = [0, 1, 2, 127, 128, 255][integer(6)];
    const clue = `${name}, mutation ${n}`;
    if (await refusal(bytes, clue)) counts.refused++;
    if (n % 4 === 0 && await refusal(bytes, clue, true) === undefined) {
      counts.salvaged++;
    }
  }
  assert(counts.refused > 1000, `${counts.refused} refused`);
  assert(counts.salvaged > 1000, `${counts.salvaged} salvaged`);
  for (const [name, bytes] of Object.entries(GOOD)) {
    assertEquals(await refusal(bytes, name), undefined, name);
  }
});

Deno.test("a small TIFF cannot stand for endless work", async () => {
  // A thousand pages that all have the same strip.
  const page = pageOf({ rows: HEIGHT });
  const bytes = encodeTiffs(Array(400).fill(page));
  const [{ fields }] = decodeTiff(bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const [start] = fields[273] as number[];
  for (let at = view.getUint32(4, true); at;) {
    const count = view.getUint16(at, true);
    for (let i = 0; i < count; i++) {
      const entry = at + 2 + 12 * i, tag = view.getUint16(entry, true);
      if (tag === 257 || tag === 278) view.setUint32(entry + 8, 2000, true);
      if (tag === 273) view.setUint32(entry + 8, start, true);
      if (tag === 279) view.setUint32(entry + 8, 27 * 2000, true);
    }
    at = view.getUint32(at + 2 + 12 * count, true);
  }
  const error = await assertRejects(() => grayscale(bytes), Error);
  assertEquals(error.message, "broken TIFF: strips or tiles that overlap");
});
