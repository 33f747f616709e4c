/** Animations: GIF, APNG and WebP. What moves when, stays. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import { Buffer } from "node:buffer";
import { randomFrom } from "../../workers/fixtures.ts";
import { grayscale } from "../../workers/grayscale.ts";
import { useCodec } from "../../workers/grayscale/codec.ts";
import { withFolder } from "../tasks/folders.ts";
import {
  decodePng,
  draw,
  encodeApng,
  encodeGif,
  encodePng,
  encodeWebp,
  encodeWebpFrames,
  findPillow,
  type Frame,
  luma,
  type Png,
  pngChunk,
  pngChunks,
  type Raster,
  webpChunks,
  type WebpFrame,
} from "./images.ts";

const random = randomFrom(16);
const integer = (below: number): number => Math.floor(below * random());

const concat = (...parts: (Uint8Array | number[])[]): Uint8Array =>
  new Uint8Array(Buffer.concat(parts.map((part) => Buffer.from(part))));

// ---- GIF

/** An animated GIF with all that there may be, and where its color tables are. */
function animatedGif(): { bytes: Uint8Array; tables: [number, number][] } {
  const tables: [number, number][] = [], parts: Uint8Array[] = [];
  let length = 0;
  const add = (part: Uint8Array | number[]) => {
    parts.push(Uint8Array.from(part));
    length += part.length;
  };
  const colors = () => Array.from({ length: 24 }, () => integer(256));
  const text = (value: string) => Array.from(Buffer.from(value, "latin1"));
  const still = (local: boolean, width: number, height: number) =>
    encodeGif({
      ...{ width, height, palette: colors(), local },
      frames: [Array.from({ length: width * height }, () => integer(8))],
    });
  const header = still(false, 20, 16).subarray(0, 13 + 24);
  tables.push([13, 13 + 24]);
  add(header);
  add([0x21, 0xff, 11, ...text("NETSCAPE2.0"), 3, 1, 5, 0, 0]);
  for (let i = 0; i < 5; i++) {
    add([0x21, 0xfe, 7, ...text(`frame ${i}`), 0]);
    add([0x21, 0xf9, 4, (i % 4) << 2 | i & 1, 7 * i, i, 3, 0]);
    const local = i % 2 === 1, [wide, high] = i ? [12, 9] : [20, 16];
    const bytes = still(local, wide, high);
    const frame = bytes.slice(local ? 13 : 13 + 24, -1);
    frame.set([i, 0, i, 0], 1); // left and top
    if (i === 4) frame[9] |= 0x40; // interlaced
    if (local) tables.push([length + 10, length + 10 + 24]);
    add(frame);
  }
  add([0x3b]);
  return { bytes: concat(...parts), tables };
}

Deno.test("a GIF whose codes begin with more bits than a color number has", async () => {
  for (const codeSize of [9, 11]) {
    const clear = 1 << codeSize, codes = [clear, 0, 1, 1, 0, clear + 1];
    const bits = codes.map((code) =>
      code.toString(2).padStart(codeSize + 1, "0")
    ).reverse().join("");
    const data = Array.from(
      { length: Math.ceil(bits.length / 8) },
      (_, i) => parseInt(bits.slice(0, bits.length - 8 * i).slice(-8), 2),
    );
    const bytes = concat(
      Buffer.from("GIF89a"),
      [2, 0, 2, 0, 0x80, 0, 0, 255, 0, 0, 0, 0, 255],
      [0x2c, 0, 0, 0, 0, 2, 0, 2, 0, 0, codeSize, data.length, ...data, 0],
      [0x3b],
    );
    const expected = bytes.slice();
    expected.set([76, 76, 76, 29, 29, 29], 13);
    assertEquals(await grayscale(bytes), expected, `${codeSize} bits`);
  }
});

Deno.test("an animated GIF: only the color tables change, of every frame", async () => {
  const { bytes, tables } = animatedGif();
  const wanted = bytes.slice();
  for (const [from, end] of tables) {
    for (let i = from; i < end; i += 3) {
      const [r, g, b] = bytes.subarray(i);
      wanted.fill(luma(r, g, b), i, i + 3);
    }
  }
  assertEquals(tables.length, 3);
  assertEquals(await grayscale(bytes), wanted);
});

// ---- APNG

const KINDS: Pick<Png, "colorType" | "depth" | "transparency">[] = [
  { colorType: 2, depth: 8 },
  { colorType: 2, depth: 16 },
  { colorType: 2, depth: 8, transparency: [0, 1, 0, 2, 0, 3] },
  { colorType: 3, depth: 4 },
  { colorType: 3, depth: 8, transparency: [0, 128, 255] },
  { colorType: 6, depth: 8 },
  { colorType: 6, depth: 16 },
];
const CHANNELS: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const PALETTE = Array.from({ length: 48 }, () => integer(256));

function noise(
  kind: Pick<Png, "colorType" | "depth" | "transparency">,
  width: number,
  height: number,
): Png {
  const samples = Array.from(
    { length: width * height * CHANNELS[kind.colorType] },
    () => kind.colorType === 3 ? integer(16) : integer(2 ** kind.depth),
  );
  const palette = kind.colorType === 3 ? PALETTE : undefined;
  return { ...kind, width, height, samples, palette };
}

/** Four frames of different sizes, and all ways to show them. */
function someFrames(
  kind: typeof KINDS[number],
  interlace = false,
): Frame[] {
  const places = [[20, 16, 0, 0], [7, 5, 3, 2], [1, 1, 19, 15], [20, 3, 0, 13]];
  return places.map(([width, height, left, top], i) => ({
    png: { ...noise(kind, width, height), interlace },
    ...{ left, top, times: [i + 1, 10 * i, i % 3, i % 2] },
  }));
}

/** The animation chunks of a file, and each frame as a PNG of its own. */
function framesOf(bytes: Uint8Array) {
  const chunks = pngChunks(bytes), frames: Uint8Array[][] = [];
  const header = chunks[0][1], controls: number[][] = [];
  const sequence: number[] = [];
  for (const [type, data] of chunks) {
    if (/^f[cd](TL|AT)$/.test(type)) {
      sequence.push(Buffer.from(data).readUInt32BE());
    }
    if (type === "fcTL") {
      controls.push([...data.subarray(4)]);
      frames.push([]);
    }
    if (type === "IDAT" && frames.length) frames[0].push(data);
    if (type === "fdAT") frames.at(-1)!.push(data.subarray(4));
  }
  const pictures = frames.map((data, i) => {
    const own = header.slice();
    own.set(controls[i].slice(0, 8));
    return decodePng(concat(
      bytes.subarray(0, 8),
      pngChunk("IHDR", own),
      pngChunk("IDAT", concat(...data)),
      pngChunk("IEND", []),
    ));
  });
  return { chunks, sequence, controls, pictures };
}

for (const kind of KINDS) {
  const { colorType, depth, transparency } = kind;
  const name = `color type ${colorType} of ${depth} bits, ${transparency}`;
  Deno.test(`an APNG, ${name}: every frame is gray, and shown as before`, async () => {
    for (const hasStill of [false, true]) {
      const frames = someFrames(kind, hasStill);
      const still = hasStill
        ? { ...noise(kind, 20, 16), interlace: true }
        : undefined;
      const bytes = encodeApng(frames, { still, loops: 7 });
      const before = framesOf(bytes), after = framesOf(await grayscale(bytes));
      assertEquals(after.controls, before.controls);
      assertEquals(after.sequence, after.sequence.map((_, i) => i));
      const kept = (chunks: [string, Uint8Array][]) =>
        chunks.filter(([type]) => /acTL|tEXt/.test(type));
      assertEquals(kept(after.chunks), kept(before.chunks));
      for (const [i, { png }] of frames.entries()) {
        const alone = decodePng(await grayscale(encodePng(png)));
        assertEquals(after.pictures[i], alone, `frame ${i}`);
      }
      if (!still) continue;
      const data = after.chunks.find(([type]) => type === "IDAT")![1];
      const alone = pngChunks(await grayscale(encodePng(still)))
        .find(([type]) => type === "IDAT")![1];
      assertEquals(data, alone);
    }
  });
}

Deno.test("an APNG that is gray already comes as it is, and is checked to its end", async () => {
  const frames = someFrames({ colorType: 4, depth: 8 });
  const bytes = encodeApng(frames);
  assertEquals(await grayscale(bytes), bytes);
  // The last frame has a row fewer than its fcTL says.
  const chunks = pngChunks(bytes);
  frames[3].png = { ...frames[3].png, height: 2 };
  const short = pngChunks(encodeApng(frames)).map(([type, data], i) =>
    pngChunk(type, type === "fcTL" ? chunks[i][1] : data)
  );
  const control = concat(bytes.subarray(0, 8), ...short);
  await assertRejects(
    () => grayscale(control),
    Error,
    "too little image data (IDAT)",
  );
});

Deno.test("an APNG whose frames are not all there or astray is refused", async () => {
  const frames = someFrames({ colorType: 2, depth: 8 });
  const bytes = encodeApng(frames), chunks = pngChunks(bytes);
  const build = (list: [string, Uint8Array][]) =>
    concat(
      bytes.subarray(0, 8),
      ...list.map(([type, data]) => pngChunk(type, data)),
    );
  const without = (...gone: number[]) =>
    build(chunks.filter((_, i) => !gone.includes(i)));
  const patched = (index: number, at: number, value: number) =>
    build(chunks.map(([type, data], i) => {
      const copy = data.slice();
      if (i === index) copy[at] = value;
      return [type, copy];
    }));
  const index = (type: string, n = 0) =>
    chunks.flatMap(([name], i) => name === type ? [i] : [])[n];
  const cases: [string, Uint8Array, RegExp][] = [
    ["no fcTL", without(index("fcTL")), /out of sequence/],
    ["no second fcTL", without(index("fcTL", 1)), /out of sequence/],
    ["no fdAT", without(index("fdAT", 3)), /out of sequence/],
    [
      "the last frame is gone",
      without(index("fcTL", 3), index("fdAT", 4), index("fdAT", 5)),
      /animation of 3 instead of 4 frames/,
    ],
    [
      "the last data",
      without(index("fdAT", 4), index("fdAT", 5)),
      /without data/,
    ],
    ["too wide", patched(index("fcTL", 1), 7, 18), /outside of the image/],
    ["no width", patched(index("fcTL", 1), 7, 0), /outside of the image/],
    ["small first", patched(index("fcTL"), 7, 19), /smaller than the image/],
    ["too many", patched(index("acTL"), 3, 5), /4 instead of 5 frames/],
    ["damaged", patched(index("fdAT", 1), 9, 0xff), /damaged|image data/],
  ];
  for (const [name, file, cause] of cases) {
    const error = await assertRejects(() => grayscale(file), Error, "PNG: ");
    assert(cause.test(error.message), `${name}: ${error.message}`);
  }
});

// ---- WebP

/** A still WebP by the codec. */
async function stillWebp(
  { width, height, data }: Raster,
  lossless: boolean,
): Promise<Uint8Array> {
  const { MagickFormat, MagickImage, MagickReadSettings } = await useCodec();
  const image = MagickImage.create();
  try {
    const raw = { format: MagickFormat.Rgba, width, height, depth: 8 };
    image.read(data, new MagickReadSettings(raw));
    image.quality = lossless ? 100 : 90;
    image.settings.setDefine("WEBP", "lossless", lossless);
    image.settings.setDefine("WEBP", "exact", lossless);
    return image.write(MagickFormat.WebP, (bytes) => bytes.slice());
  } finally {
    image.dispose();
  }
}

/** Four frames with and without alpha and loss. */
async function someWebpFrames(lossless?: boolean): Promise<WebpFrame[]> {
  const places = [[40, 30, 0, 0], [7, 5, 4, 2], [1, 1, 38, 28], [40, 3, 0, 26]];
  const frames: WebpFrame[] = [];
  for (const [i, [width, height, left, top]] of places.entries()) {
    const raster = draw(width, height, i % 2 === 1);
    const still = await stillWebp(raster, lossless ?? i > 1);
    const place = { width, height, left, top };
    frames.push({ ...place, still, time: 30 * i, flags: i });
  }
  return frames;
}

Deno.test("an animated WebP: every frame is gray, and all around them stays", async () => {
  const frames = await someWebpFrames();
  const bytes = encodeWebpFrames(frames, { width: 40, height: 30 });
  const before = webpChunks(bytes), after = webpChunks(await grayscale(bytes));
  const isAround = ([type]: [string, Uint8Array]) => !/ICCP|ANMF/.test(type);
  const [[, canvas]] = before;
  canvas[0] &= ~0x20; // there is no color profile any more
  assertEquals(after.filter(isAround), before.filter(isAround));
  assertEquals(after.some(([type]) => type === "ICCP"), false);
  const isFrame = ([type]: [string, Uint8Array]) => type === "ANMF";
  const [old, gray] = [before, after].map((chunks) => chunks.filter(isFrame));
  assertEquals(gray.length, frames.length);
  for (const [i, { still }] of frames.entries()) {
    const [, data] = gray[i];
    assertEquals(data.subarray(0, 16), old[i][1].subarray(0, 16));
    const alone = webpChunks(await grayscale(still))
      .filter(([type]) => type !== "VP8X");
    assertEquals(webpChunks(data, 16), alone, `frame ${i}`);
    assertEquals(alone.at(-1)![0], i > 1 ? "VP8L" : "VP8 ");
  }
});

Deno.test("a still WebP keeps its chunks, but for the color profile", async () => {
  const still = await stillWebp(draw(20, 10), true);
  const picture = webpChunks(still).filter(([type]) => type === "VP8L");
  const [exif, xmp] = [Buffer.from("II*"), Buffer.from("<x/>")];
  const canvas = Uint8Array.of(0x2c, 0, 0, 0, 19, 0, 0, 9, 0, 0);
  const bytes = encodeWebp([
    ["VP8X", canvas],
    ["ICCP", xmp],
    ...picture,
    ["EXIF", exif],
    ["XMP ", xmp],
    ["what", exif],
  ]);
  const after = webpChunks(await grayscale(bytes));
  canvas[0] = 0x0c;
  assertEquals(after[0], ["VP8X", canvas]);
  assertEquals(after.map(([type]) => type), [
    ...["VP8X", "VP8L", "EXIF", "XMP ", "what"],
  ]);
  assertEquals(after[2][1], Uint8Array.from(exif));
  assertEquals(after[1], webpChunks(await grayscale(still)).at(-1));
});

Deno.test("a WebP whose frames are not what they say is refused", async () => {
  const size = { width: 40, height: 30 };
  const cases: [Partial<WebpFrame>, string][] = [
    [{ width: 8 }, "frame of another size than its picture"],
    [{ height: 4 }, "frame of another size than its picture"],
    [{ left: 34 }, "frame outside of the canvas"],
    [{ top: 26 }, "frame outside of the canvas"],
    [{ still: encodeWebp([]) }, "frame without a picture"],
  ];
  for (const [change, cause] of cases) {
    const frames = await someWebpFrames();
    Object.assign(frames[1], change);
    const bytes = encodeWebpFrames(frames, size);
    await assertRejects(() => grayscale(bytes), Error, `broken WebP: ${cause}`);
  }
  const bytes = encodeWebpFrames(await someWebpFrames(), size);
  for (let cut = 12; cut < bytes.length; cut += 7) {
    const cause = "truncated WebP: the file ends too early";
    const part = bytes.subarray(0, cut);
    await assertRejects(() => grayscale(part), Error, cause, `cut at ${cut}`);
  }
});

Deno.test("animations look as Pillow has them, frame by frame", async () => {
  const python = await findPillow();
  if (!python) return console.warn("SKIPPED: no Python with Pillow is here");
  await withFolder(async (folder) => {
    const files: Record<string, Uint8Array> = { "a.gif": animatedGif().bytes };
    for (const [i, kind] of KINDS.entries()) {
      // Pillow reduces 16 bits in its own way, forgets the transparent color, and
      // clears to the first color of a palette.
      const { depth, colorType, transparency } = kind;
      if (depth === 16 || colorType === 3 || transparency) continue;
      files[`${i}.png`] = encodeApng(someFrames(kind), { loops: 3 });
    }
    const frames = await someWebpFrames(true), size = { width: 40, height: 30 };
    files["a.webp"] = encodeWebpFrames(frames, size);
    for (const [name, bytes] of Object.entries(files)) {
      await Deno.writeFile(join(folder, name), bytes);
      await Deno.writeFile(
        join(folder, `gray-${name}`),
        await grayscale(bytes),
      );
    }
    const script = `import sys, PIL.Image, PIL.ImageChops
for name in sys.argv[1:]:
    a, b = PIL.Image.open(name), PIL.Image.open("gray-" + name)
    assert a.n_frames == b.n_frames, name
    for i in range(a.n_frames):
        a.seek(i); b.seek(i)
        before, after = a.convert("RGBA"), b.convert("RGBA")
        for key in ("duration", "loop", "comment", "disposal", "blend"):
            assert a.info.get(key) == b.info.get(key), (name, i, key)
        alphas = before.getchannel("A"), after.getchannel("A")
        assert alphas[0].tobytes() == alphas[1].tobytes(), (name, i)
        far = PIL.ImageChops.difference(before.convert("L"), after.convert("L"))
        assert far.getextrema()[1] <= 1, (name, i, far.getextrema())
    print(name, a.n_frames)`;
    const { stdout, success } = await new Deno.Command(python, {
      args: ["-c", script, ...Object.keys(files)],
      cwd: folder,
      stderr: "inherit",
    }).output();
    assert(success);
    const lines = new TextDecoder().decode(stdout).trim().split("\n");
    assertEquals(lines.length, Object.keys(files).length);
  });
});
