/** Images that become gray images of another format or quality. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Buffer } from "node:buffer";
import { join } from "@std/path";
import { randomFrom } from "../../workers/fixtures.ts";
import { grayscale, type Target } from "../../workers/grayscale.ts";
import { depthOf } from "../../workers/grayscale/depth.ts";
import { useCodec } from "../../workers/grayscale/codec.ts";
import { decodeTiff, encodeTiffPage, type Tiff } from "./tiffs.ts";
import { withFolder } from "../tasks/folders.ts";
import {
  decodePng,
  draw,
  encodeApng,
  encodeBmp,
  encodeBmpOf,
  encodeGif,
  encodePng,
  encodeTiff,
  encodeWebpFrames,
  findPillow,
  type Frame,
  lumaOf,
  orient,
  type Png,
  pngChunk,
  pngOf,
  type Raster,
  webpChunks,
} from "./images.ts";

const TARGETS: Target[] = ["jpeg", "png", "webp", "tiff", "avif"];
/** How files of each format begin. */
const MAGIC: Record<Target, RegExp> = {
  jpeg: /^\xff\xd8\xff/,
  png: /^\x89PNG/,
  webp: /^RIFF.{4}WEBP/s,
  tiff: /^(II\*\0|MM\0\*)/,
  avif: /^.{4}ftyp(avif|mif1)/s,
};

type Written = "JPEG" | "WEBP" | "AVIF" | "JXL";

/** Encodes a raster by the codec. */
async function encode(
  format: Written,
  raster: Raster,
  profiles: Record<string, Uint8Array> = {},
): Promise<Uint8Array> {
  const magick = await useCodec();
  const { MagickFormat, MagickImage, MagickReadSettings } = magick;
  const { ImageProfile, Orientation } = magick;
  const image = MagickImage.create();
  try {
    const { width, height, data } = raster;
    const raw = { format: MagickFormat.Rgba, width, height, depth: 8 };
    image.read(data, new MagickReadSettings(raw));
    for (const [name, data] of Object.entries(profiles)) {
      image.setProfile(new ImageProfile(name, data));
      // The codec would write another orientation into EXIF.
      if (name === "exif") image.orientation = Orientation.RightTop;
    }
    image.quality = 95;
    image.settings.setDefine("WEBP", "lossless", true);
    image.settings.setDefine("WEBP", "exact", true);
    image.settings.setDefine("HEIC", "speed", 9);
    return image.write(format, (bytes) => bytes.slice());
  } finally {
    image.dispose();
  }
}

const opaque = draw(31, 22), clear = draw(31, 22, true);

/** What is said, and the result. */
async function convert(bytes: Uint8Array, to?: Target, quality?: number) {
  const warnings: string[] = [];
  const onWarning = (cause: string) => void warnings.push(cause);
  const out = await grayscale(bytes, { to, quality, onWarning });
  return { out, warnings };
}

/** Reads any image that was made, as a gray PNG. */
async function levelsOf(bytes: Uint8Array) {
  const png = decodePng(await grayscale(bytes, { to: "png" }));
  const { width, height, colorType, samples } = png;
  const step = colorType === 4 ? 2 : 1;
  const all = Array.from(samples);
  return {
    ...{ width, height },
    gray: all.filter((_, i) => i % step === 0),
    alpha: step === 2 ? all.filter((_, i) => i % 2) : undefined,
  };
}

/** How far levels are from each other: on average, and at most. */
function distance(a: number[], b: number[]): { mean: number; most: number } {
  const all = a.map((level, i) => Math.abs(level - b[i]));
  const mean = all.reduce((sum, value) => sum + value, 0) / all.length;
  return { mean, most: Math.max(...all) };
}

const latin1 = (bytes: Uint8Array) =>
  Buffer.from(bytes.buffer, bytes.byteOffset, 40).toString("latin1");

Deno.test("transcode: every format becomes every other one, with its pixels", async () => {
  const sources: Record<string, [Uint8Array, Raster, isExact: boolean]> = {
    PNG: [pngOf(clear), clear, true],
    BMP: [encodeBmp(opaque), opaque, true],
    TIFF: [encodeTiff([opaque]), opaque, true],
    WebP: [await encode("WEBP", clear), clear, true],
    JPEG: [await encode("JPEG", opaque), opaque, false],
    AVIF: [await encode("AVIF", opaque), opaque, false],
    "JPEG XL": [await encode("JXL", opaque), opaque, false],
  };
  for (const [name, [bytes, raster, isExact]] of Object.entries(sources)) {
    const { gray, alpha } = lumaOf(raster);
    for (const to of TARGETS) {
      const clue = `${name} to ${to}`,
        { out, warnings } = await convert(bytes, to);
      assertMatch(latin1(out), MAGIC[to], clue);
      assertEquals((await convert(bytes, to)).out, out, `${clue}, again`);
      const after = await levelsOf(out);
      assertEquals([after.width, after.height], [31, 22], clue);
      const isClear = raster === clear;
      const laid = gray.map((level, i) =>
        Math.round((level * alpha[i] + 255 * (255 - alpha[i])) / 255)
      );
      const wanted = isClear && to === "jpeg" ? laid : gray;
      const { mean, most } = distance(after.gray, wanted);
      if (isExact && (to === "png" || to === "tiff")) {
        assertEquals(most, 0, clue);
      } // A lossy format need not keep what is not seen.
      else if (!isClear || to === "jpeg") assert(mean < 6, `${clue}: ${mean}`);
      if (isClear && to !== "jpeg") {
        assert(distance(after.alpha!, alpha).most < 9, `${clue}: alpha`);
      }
      assertEquals(
        warnings,
        isClear && to === "jpeg"
          ? ["transparency, which is laid on white"]
          : [],
        clue,
      );
    }
  }
});

Deno.test("transcode: what is of the format already stays as it would be", async () => {
  for (const bytes of [pngOf(opaque), await encode("JPEG", opaque)]) {
    const to = bytes[0] === 0xff ? "jpeg" : "png";
    assertEquals((await convert(bytes, to)).out, (await convert(bytes)).out);
  }
  const alpha = pngOf(draw(9, 9)); // with alpha, but opaque
  assertEquals((await convert(alpha, "jpeg")).warnings, []);
});

Deno.test("transcode: quality makes files larger and truer, and lossless formats have none", async () => {
  const large = draw(120, 90), { gray } = lumaOf(large);
  const sources = [await encode("JPEG", large), pngOf(large, false)];
  for (const bytes of [...sources, await encode("WEBP", large)]) {
    for (const to of ["jpeg", "webp", "avif"] as const) {
      const [low, high] = [
        await convert(bytes, to, 5),
        await convert(bytes, to, 95),
      ];
      assert(low.out.length < high.out.length, to);
      const [far, near] = [await levelsOf(low.out), await levelsOf(high.out)];
      const isTruer =
        distance(far.gray, gray).mean > distance(near.gray, gray).mean;
      assert(isTruer, to);
    }
  }
  // Without `to` it is that of the image's own format, if that has one.
  const jpeg = (await convert(sources[0], undefined, 5)).out;
  assertMatch(latin1(jpeg), MAGIC.jpeg);
  assert(jpeg.length < (await convert(sources[0])).out.length);
  assertEquals(
    (await convert(sources[1], undefined, 5)).out,
    (await convert(sources[1])).out,
  );
});

/** Turns levels as EXIF says. */
function turned(
  gray: number[],
  width: number,
  height: number,
  orientation: number,
): number[] {
  const swaps = orientation > 4;
  const [wide, high] = swaps ? [height, width] : [width, height];
  return Array.from({ length: wide * high }, (_, i) => {
    let [x, y] = [i % wide, Math.floor(i / wide)];
    if (swaps) [x, y] = [y, x];
    if ([2, 3, 7, 8].includes(orientation)) x = width - 1 - x;
    if ([3, 4, 6, 7].includes(orientation)) y = height - 1 - y;
    return gray[y * width + x];
  });
}

Deno.test("transcode: pixels are turned as EXIF says, and EXIF says that they are upright", async () => {
  const jpeg = await encode("JPEG", opaque);
  const { gray } = await levelsOf(jpeg);
  for (let orientation = 1; orientation <= 8; orientation++) {
    const bytes = orient(jpeg, orientation);
    const { out } = await convert(bytes, "png");
    const png = decodePng(out);
    const wanted = turned(gray, 31, 22, orientation);
    assertEquals(Array.from(png.samples), wanted, `${orientation}`);
    for (const to of TARGETS.filter((to) => to !== "jpeg")) {
      const { out } = await convert(bytes, to);
      const after = await levelsOf(out);
      assertEquals(
        after.width,
        orientation > 4 ? 22 : 31,
        `${to} ${orientation}`,
      );
    }
    // The format's own result is not turned.
    const same = await convert(bytes, "jpeg", 50);
    assertEquals((await levelsOf(same.out)).width, orientation > 4 ? 22 : 31);
  }
});

const xmpOf = (orientation: number, isElement = false): Uint8Array =>
  new TextEncoder().encode(
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org' +
      '/1999/02/22-rdf-syntax-ns#"><rdf:Description ' +
      'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" ' +
      (isElement
        ? `><tiff:Orientation>${orientation}</tiff:Orientation></rdf:Description>`
        : `tiff:Orientation="${orientation}"/>`) +
      "</rdf:RDF></x:xmpmeta>",
  );

/** EXIF with some fields, each of a SHORT or a RATIONAL. */
function exifOf(fields: Record<number, number | [number, number]>): Uint8Array {
  const all = Object.entries(fields), end = 8 + 2 + 12 * all.length + 4;
  const view = new DataView(new ArrayBuffer(end + 8 * all.length));
  view.setUint32(0, 0x49492a00);
  view.setUint32(4, 8, true);
  view.setUint16(8, all.length, true);
  for (const [i, [tag, value]] of all.entries()) {
    const at = 10 + 12 * i, place = end + 8 * i;
    view.setUint16(at, Number(tag), true);
    view.setUint16(at + 2, typeof value === "number" ? 3 : 5, true);
    view.setUint32(at + 4, 1, true);
    if (typeof value === "number") view.setUint16(at + 8, value, true);
    else {
      view.setUint32(at + 8, place, true);
      view.setUint32(place, value[0], true);
      view.setUint32(place + 4, value[1], true);
    }
  }
  return new Uint8Array(view.buffer);
}

const jpegExif = (exif: Uint8Array): Uint8Array =>
  Buffer.concat([Buffer.from("Exif\0\0"), exif]);

Deno.test("transcode: what XMP, or a raw profile in a PNG, says of turns is obeyed, once", async () => {
  const { width, height, data } = opaque;
  const samples = data.filter((_, i) => i % 4 < 3);
  const png = (...chunks: Uint8Array[]) =>
    encodePng({ width, height, colorType: 2, depth: 8, samples, chunks });
  const rawProfile = (name: string, data: Uint8Array) => {
    const hex = Buffer.from(data).toString("hex").replace(/.{72}/g, "$&\n");
    const text = `\n${name}\n${data.length}\n${hex}\n`;
    return pngChunk("tEXt", Buffer.from(`Raw profile type ${name}\0${text}`));
  };
  const exif = exifOf({ 0x112: 6 }), silent = exifOf({ 0x128: 2 });
  const [attribute, element] = [xmpOf(6), xmpOf(6, true)];
  const inXmp = (xmp: Uint8Array) =>
    pngChunk(
      "iTXt",
      Buffer.concat([Buffer.from("XML:com.adobe.xmp\0\0\0\0\0"), xmp]),
    );
  const cases: Record<string, [Uint8Array, orientation: number]> = {
    "PNG, attribute": [png(inXmp(attribute)), 6],
    "PNG, element": [png(inXmp(element)), 6],
    "PNG, raw EXIF": [png(rawProfile("exif", jpegExif(exif))), 6],
    "PNG, raw APP1": [png(rawProfile("APP1", jpegExif(exif))), 6],
    "PNG, eXIf before raw EXIF": [
      png(
        rawProfile("exif", jpegExif(exif)),
        pngChunk("eXIf", exifOf({ 0x112: 3 })),
      ),
      3,
    ],
    "PNG, EXIF that says nothing": [
      png(pngChunk("eXIf", silent), inXmp(attribute)),
      6,
    ],
    "PNG, EXIF before XMP": [
      png(pngChunk("eXIf", exifOf({ 0x112: 3 })), inXmp(attribute)),
      3,
    ],
  };
  const rgb = { photometric: 2, bits: 8, channels: 3, samples };
  const field = (type: number, values: ArrayLike<number>) => ({
    type,
    values: Array.from(values),
  });
  const tiff = (fields: Tiff["fields"]) =>
    encodeTiffPage({ width, height, ...rgb, fields });
  cases["TIFF, XMP"] = [tiff({ 700: field(1, attribute) }), 6];
  cases["TIFF, field before XMP"] = [
    tiff({ 274: field(3, [3]), 700: field(1, attribute) }),
    3,
  ];
  for (const format of ["JPEG", "WEBP", "AVIF"] as const) {
    const xmp = { xmp: attribute };
    cases[format] = [await encode(format, opaque, xmp), 6];
    const both = { exif: jpegExif(exif), xmp: xmpOf(3) };
    // In AVIF the container says it, too, and decides.
    cases[`${format}, EXIF before XMP`] = [
      await encode(format, opaque, both),
      6,
    ];
  }
  const { gray } = lumaOf(opaque);
  for (const [name, [bytes, orientation]] of Object.entries(cases)) {
    const wanted = turned(gray, 31, 22, orientation);
    for (const to of TARGETS) {
      const before = MAGIC[to].test(latin1(bytes));
      if (before && (to === "png" || to === "tiff")) continue;
      const { out } = await convert(bytes, to, to === "jpeg" ? 95 : undefined);
      // An image of the same format stays as it lies.
      if (before) continue;
      const after = await levelsOf(out), clue = `${name} to ${to}`;
      assertEquals(after.width, orientation > 4 ? 22 : 31, clue);
      assert(distance(after.gray, wanted).mean < 6, clue);
      assert(!/tiff:Orientation(="|>)[2-8]/.test(Buffer.from(out).toString()));
    }
  }
});

Deno.test("transcode: EXIF stay to the byte, with a resolution of any fraction", async () => {
  const exif = exifOf({ 0x11a: [725, 10], 0x11b: [1, 3], 0x128: 1 });
  const { width, height, data } = opaque;
  const samples = data.filter((_, i) => i % 4 < 3);
  const chunks = [pngChunk("eXIf", exif)];
  const png = encodePng({
    width,
    height,
    colorType: 2,
    depth: 8,
    samples,
    chunks,
  });
  for (const to of ["jpeg", "webp", "avif"] as Target[]) {
    const { out } = await convert(png, to);
    assert(Buffer.from(out).includes(Buffer.from(exif)), to);
    assert(
      Buffer.from(await grayscale(out)).includes(Buffer.from(exif)),
      `${to}, again`,
    );
    const back = (await convert(out, "png")).out;
    assert(Buffer.from(back).includes(Buffer.from(exif)), `${to}, back`);
    decodePng(back); // checks the checksums
  }
  const { out } = await convert(png, "tiff");
  assert(Buffer.from(out).includes(Buffer.from(exif.subarray(-24, -8))));
});

Deno.test("transcode: the highest quality is one of AVIF, too", async () => {
  const { out } = await convert(pngOf(opaque), "avif", 100);
  const { gray } = await levelsOf(out);
  assert(distance(gray, lumaOf(opaque).gray).mean < 2);
});

Deno.test("transcode: metadata stay, or a line says which do not", async () => {
  const chunks = [
    pngChunk("tEXt", Buffer.from("Title\0a picture")),
    pngChunk("iTXt", Buffer.from("XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta/>")),
    pngChunk("iCCP", [97, 0, 0, 1]),
  ];
  const { width, height, data } = opaque;
  const samples = data.filter((_, i) => i % 4 < 3);
  const about = { width, height, colorType: 2, depth: 8 };
  const png = encodePng({ ...about, samples, chunks });
  const names: Record<string, string> = {
    jpeg: "JPEG",
    webp: "WebP",
    tiff: "TIFF",
    avif: "AVIF",
  };
  for (const to of TARGETS.filter((to) => to !== "png")) {
    const { out, warnings } = await convert(png, to);
    assertEquals(warnings, [`texts, which ${names[to]} does not keep`], to);
    assert(Buffer.from(out).includes("<x:xmpmeta/>"), to);
  }
  // EXIF goes from format to format, also through a TIFF, where it is spread.
  const jpeg = orient(await encode("JPEG", opaque), 1);
  for (const to of TARGETS.filter((to) => to !== "jpeg")) {
    const { out, warnings } = await convert(jpeg, to);
    assertEquals(warnings, [], to);
    const back = await convert(out, to === "png" ? "webp" : "png");
    if (to !== "tiff") {
      assert(Buffer.from(back.out).includes("eXIf") || to === "png");
    }
  }
});

Deno.test("transcode: EXIF is what Pillow reads, also where a TIFF has it in fields of its own", async () => {
  const python = await findPillow();
  if (!python) return console.warn("SKIPPED: no Python with Pillow is here");
  await withFolder(async (folder) => {
    const make = `
import PIL.Image
image = PIL.Image.new("RGB", (40, 30))
image.putdata([(x * 6 % 256, x * 3 % 256, x % 256) for x in range(1200)])
exif = PIL.Image.Exif()
exif[0x10f], exif[0x112], exif[0x132] = "Maker", 6, "2024:01:02 03:04:05"
exif[0x8769] = {0x829a: 0.5}
for ending in ("jpg", "png", "webp"):
    more = {} if ending == "webp" else {"dpi": (150, 150)}
    image.save("a." + ending, exif=exif, **more)
`;
    const run = async (script: string) => {
      const { stdout, success } = await new Deno.Command(python, {
        args: ["-c", script],
        cwd: folder,
        stderr: "inherit",
      }).output();
      assert(success);
      return new TextDecoder().decode(stdout).trim().split("\n");
    };
    await run(make);
    const names: string[] = [];
    const write = async (name: string, bytes: Uint8Array, to: Target) => {
      const { out } = await convert(bytes, to);
      names.push(`${name} ${to}`);
      await Deno.writeFile(join(folder, `${names.length - 1}.out`), out);
      return out;
    };
    for (const ending of ["jpg", "png", "webp"]) {
      const bytes = await Deno.readFile(join(folder, `a.${ending}`));
      const tiff = await write(ending, bytes, "tiff");
      for (const to of ["jpeg", "png", "webp"] as const) {
        await write(`${ending} tiff`, tiff, to);
        if (to[0] !== ending[0]) await write(ending, bytes, to);
      }
    }
    const lines = await run(`
import PIL.Image, PIL.ImageOps
for i in range(${names.length}):
    image = PIL.Image.open(f"{i}.out")
    exif = image.getexif()
    print(image.size, exif.get(0x112, 1), exif.get(0x10f), exif.get(0x132), float(exif.get_ifd(0x8769).get(0x829a, 0)))
`);
    for (const [i, name] of names.entries()) {
      const wanted = "(30, 40) 1 Maker 2024:01:02 03:04:05 0.5";
      assertEquals(lines[i], wanted, name);
    }
  });
});

Deno.test("transcode: what another format cannot hold is refused, or said", async () => {
  const frames = { width: 1, height: 1, frames: [[0], [1]] };
  const gif = encodeGif({ ...frames, palette: [0, 0, 0, 9, 9, 9] });
  const png = decodePng(pngOf(opaque, false));
  const frame: Frame = { png, left: 0, top: 0, times: [1, 10, 0, 0] };
  const apng = encodeApng([frame, frame]);
  const cases: [Uint8Array, RegExp][] = [
    [gif, /^GIF of 2 frames: only a single picture becomes PNG$/],
    [apng, /^PNG of \d frames: only a single picture becomes TIFF$/],
    [encodeTiff([opaque, opaque]), /^TIFF of 2 pages: only a single picture/],
  ];
  for (const [bytes, line] of cases) {
    const to = bytes === gif ? "png" : bytes === apng ? "tiff" : "webp";
    const error = await assertRejects(() => convert(bytes, to), Error);
    assertMatch(error.message, line);
  }
  const one = encodeGif({
    ...frames,
    frames: [[1]],
    palette: [0, 0, 0, 9, 9, 9],
  });
  assertEquals((await levelsOf((await convert(one, "tiff")).out)).gray, [9]);
  const deep = encodePng({
    ...{ width: 3, height: 1, colorType: 2, depth: 16 },
    samples: [0, 0, 0, 65535, 65535, 65535, 257, 257, 257],
  });
  for (const to of ["jpeg", "webp", "avif"] as Target[]) {
    const { out, warnings } = await convert(deep, to);
    assertEquals(warnings, ["16 bits per channel, of which 8 are kept"]);
    const { gray } = await levelsOf(out);
    assert(distance(gray, [0, 255, 1]).most < 30, to);
  }
  const signed = { bits: 16, channels: 1, photometric: 1, format: 2 };
  const tiff = encodeTiffPage({
    ...{ width: 2, height: 1, samples: [1, 2], ...signed },
  });
  const line = /^signed TIFF, which cannot become PNG$/;
  const { message } = await assertRejects(() => convert(tiff, "png"), Error);
  assertMatch(message, line);
});

// ---- Animations

/** The gray levels of each frame of a WebP, on the whole canvas. */
async function framesOf(webp: Uint8Array): Promise<number[][]> {
  const { MagickImageCollection } = await useCodec();
  const frames = MagickImageCollection.create();
  try {
    frames.read(webp);
    frames.coalesce();
    return frames.map((frame) => {
      const data = frame.write("RGBA", (data) => data.slice());
      return Array.from(data.filter((_, i) => i % 4 === 0));
    });
  } finally {
    frames.dispose();
  }
}

/** Times, loops and metadata of an animated WebP. */
function aboutWebp(webp: Uint8Array) {
  const chunks = webpChunks(webp);
  const dataOf = (wanted: string) =>
    chunks.find(([type]) => type === wanted)?.[1];
  return {
    times: chunks.filter(([type]) => type === "ANMF")
      .map(([, data]) => data[12] | data[13] << 8 | data[14] << 16),
    loops: dataOf("ANIM")?.slice(4).join(),
    exif: dataOf("EXIF"),
    xmp: dataOf("XMP "),
    flags: dataOf("VP8X")?.[0],
  };
}

Deno.test("transcode: an animated GIF becomes an animated WebP", async () => {
  const width = 24,
    height = 16,
    palette = [0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 9];
  const frames = [0, 1, 2].map((n) =>
    Array.from({ length: width * height }, (_, i) => i % width < 8 * n ? 1 : 2)
  );
  for (const local of [false, true]) {
    const about = { width, height, palette, local };
    const gif = encodeGif({ ...about, frames, times: [5, 12, 1], repeats: 3 });
    const { out, warnings } = await convert(gif, "webp", 100);
    assertEquals(warnings, []);
    // A GIF says how often it is repeated, a WebP how often it is played.
    const { times, loops } = aboutWebp(out);
    assertEquals([times, loops], [[50, 120, 10], "4,0"]);
    const after = await framesOf(out);
    assertEquals(after.length, 3);
    for (const [i, numbers] of frames.entries()) {
      const wanted = numbers.map((n) => n === 1 ? 76 : 150);
      assert(distance(after[i], wanted).mean < 4, `frame ${i}`);
    }
    // Frames that are the same may become one.
    const same = encodeGif({ ...about, frames: [frames[0], frames[0]] });
    const still = await framesOf((await convert(same, "webp")).out);
    assert(distance(still[0], frames[0].map(() => 150)).mean < 4);
    const start = local ? 13 : 13 + palette.length;
    const comment = [0x21, 0xfe, 2, 104, 105, 0];
    const commented = Uint8Array.from(gif).subarray(0, start);
    const said = (await convert(
      Buffer.concat([commented, Buffer.from(comment), gif.subarray(start)]),
      "webp",
    )).warnings;
    assertEquals(said, ["texts, which an animated WebP has not"]);
    const cut = gif.subarray(0, gif.length - 20);
    const salvaged = await grayscale(cut, { to: "webp", salvage: true });
    assertEquals((await framesOf(salvaged)).length, 3);
    const line = /^too large: 3 frames of 24x16 are more than 1000 pixels$/;
    const error = await assertRejects(
      () => grayscale(gif, { to: "webp", maxPixels: 1000 }),
      Error,
    );
    assertMatch(error.message, line);
  }
});

Deno.test("transcode: an animated PNG becomes an animated WebP", async () => {
  const width = 24, height = 16;
  for (const depth of [8, 16]) {
    const most = 2 ** depth - 1;
    const levels = (n: number, value: (i: number) => number) =>
      Array.from({ length: n }, (_, i) => Math.round(value(i) * most));
    const pngOf = (width: number, height: number, samples: number[]): Png => ({
      ...{ width, height, colorType: 4, depth, samples },
    });
    const plain = (light: number, n: number) =>
      levels(2 * n, (i) => i % 2 ? 1 : light);
    const all = width * height;
    // The place of the second is restored, and the last one is half clear.
    const apng = encodeApng([
      {
        png: pngOf(width, height, plain(0.2, all)),
        left: 0,
        top: 0,
        times: [5, 100, 0, 0],
      },
      {
        png: pngOf(8, 8, plain(1, 64)),
        left: 8,
        top: 4,
        times: [85, 1000, 2, 0],
      },
      {
        png: pngOf(8, 8, plain(0.6, 64)),
        left: 0,
        top: 8,
        times: [1, 0, 0, 1],
      },
      {
        png: pngOf(8, 8, levels(128, (i) => i % 2 ? 0.6 : 1)),
        ...{ left: 0, top: 0, times: [3, 10, 0, 1] },
      },
    ]);
    const { out, warnings } = await convert(apng, "webp", 100);
    const line = "16 bits per channel, of which 8 are kept";
    const texts = "texts, which an animated WebP has not";
    assertEquals(warnings, depth === 16 ? [line, texts] : [texts]);
    assertEquals(aboutWebp(out).times, [50, 85, 10, 300]);
    const isIn = (i: number, left: number, top: number) => {
      const x = i % width - left, y = Math.floor(i / width) - top;
      return x >= 0 && x < 8 && y >= 0 && y < 8;
    };
    const wanted = [0, 1, 2, 3].map((frame) =>
      Array.from({ length: all }, (_, i) => {
        if (frame === 1 && isIn(i, 8, 4)) return 255;
        if (frame > 1 && isIn(i, 0, 8)) return 153;
        return frame === 3 && isIn(i, 0, 0) ? 0.6 * 255 + 0.4 * 51 : 51;
      })
    );
    const after = await framesOf(out);
    assertEquals(after.length, 4);
    for (const [i, levels] of wanted.entries()) {
      assert(distance(after[i], levels).mean < 4, `frame ${i}`);
    }
  }
});

Deno.test("transcode: an animated WebP keeps times and metadata at another quality", async () => {
  const still = await encode("WEBP", draw(8, 6));
  const size = { width: 8, height: 6, still, top: 0, flags: 0 };
  const webp = encodeWebpFrames([
    { ...size, left: 0, time: 85 },
    { ...size, left: 4, time: 7 },
  ], { width: 14, height: 6 });
  const { out } = await convert(webp, undefined, 90);
  const { exif, xmp, ...about } = aboutWebp(out), before = aboutWebp(webp);
  assertEquals(about.times, [85, 7]);
  assertEquals(about.loops, before.loops);
  assertEquals([exif, xmp], [before.exif, before.xmp]);
  assertEquals(about.flags! & 0x2c, 0x0c, "no color profile");
  const [frames, wanted] = [
    await framesOf(out),
    await framesOf(await grayscale(webp)),
  ];
  for (const [i, frame] of frames.entries()) {
    assert(distance(frame, wanted[i]).mean < 8, `frame ${i}`);
  }
  for (let cut = 20; cut < webp.length; cut += 9) {
    await assertRejects(
      () => convert(webp.subarray(0, cut), "webp", 90),
      Error,
    );
  }
});

// ---- 16 bits

const random = randomFrom(4), wide = 13, high = 9;
const numbers = (channels: number, bits: number): number[] =>
  Array.from(
    { length: wide * high * channels },
    () => Math.floor(random() * 2 ** bits),
  );

Deno.test("transcode: a PNG of 16 bits becomes a TIFF of 16 bits", async () => {
  for (const [colorType, channels] of [[0, 1], [2, 3], [4, 2], [6, 4]]) {
    for (const interlace of [false, true]) {
      const about = { width: wide, height: high, colorType, depth: 16 };
      const chunks = [pngChunk("eXIf", exifOf({ 0x11a: [725, 10] }))];
      const samples = numbers(channels, 16);
      const png = encodePng({ ...about, samples, interlace, chunks });
      const { out, warnings } = await convert(png, "tiff");
      assertEquals(warnings, []);
      const [page] = decodeTiff(out);
      const wanted = decodePng(await grayscale(png)).samples;
      assertEquals(page.samples, Array.from(wanted), `${colorType}`);
      assertEquals([page.bits, page.extras], [16, channels % 2 ? [] : [2]]);
      assertEquals(page.fields[0x11a], [72.5]);
    }
  }
  // The file has the byte order of EXIF, which it has in fields of its own.
  const exif = [0x4d, 0x4d, 0, 42, 0, 0, 0, 8, 0, 1, 1, 18, 0, 3, 0, 0, 0, 1];
  const samples = [0x1234, 0x8000, 0xffff, 1];
  const chunks = [pngChunk("eXIf", [...exif, 0, 3, 0, 0, 0, 0, 0, 0])];
  const about = { width: 2, height: 2, colorType: 0, depth: 16 };
  const { out } = await convert(
    encodePng({ ...about, samples, chunks }),
    "tiff",
  );
  assertEquals(latin1(out).slice(0, 2), "MM");
  assertEquals(decodeTiff(out)[0].samples, samples.reverse());
});

Deno.test("transcode: a TIFF of more than 8 bits becomes a PNG of 16 bits", async () => {
  const cases: Partial<Tiff>[] = [
    {},
    { photometric: 0 },
    { bigEndian: true, compression: 8, predictor: 2 },
    { tile: 16, compression: 5 },
    { channels: 2, fields: { 338: [2] } },
    { channels: 2, fields: { 338: [0] }, rows: 2 },
    { channels: 3, photometric: 2 },
    { channels: 4, photometric: 2, fields: { 338: [2] }, planar: true },
    { bits: 12 },
    { bits: 32 },
  ];
  for (const more of cases) {
    const clue = JSON.stringify(more);
    const { bits = 16, channels = 1 } = more;
    const tiff = encodeTiffPage({
      ...{ width: wide, height: high, photometric: 1, bits, channels },
      samples: numbers(channels, bits),
      ...more,
    });
    const { out, warnings } = await convert(tiff, "png");
    const isMore = bits === 32;
    assertEquals(
      warnings,
      isMore ? ["32 bits per channel, of which 16 are kept"] : [],
      clue,
    );
    const [gray] = decodeTiff(await grayscale(tiff));
    const step = gray.channels, hasAlpha = gray.extras[0] === 2;
    const scale = gray.bits === 32
      ? 65537
      : gray.bits === 12
      ? 4095 / 65535
      : 1;
    const wanted = gray.samples
      .filter((_, i) => i % step === 0 || hasAlpha)
      .map((value) => Math.round(value / scale))
      .map((value) => gray.photometric === 0 ? 65535 - value : value);
    const png = decodePng(out);
    assertEquals([png.depth, png.colorType], [16, hasAlpha ? 4 : 0], clue);
    assertEquals(Array.from(png.samples), wanted, clue);
  }
});

Deno.test("transcode: pixels of 16 bits are turned as those of 8", async () => {
  const samples = numbers(1, 16);
  for (let orientation = 1; orientation <= 8; orientation++) {
    const field = [orientation], xmp = new TextEncoder().encode("<x:xmpmeta/>");
    const tiff = encodeTiffPage({
      ...{ width: wide, height: high, photometric: 1, bits: 16, channels: 1 },
      samples,
      fields: { 274: field, 700: { type: 1, values: Array.from(xmp) } },
    });
    const { out } = await convert(tiff, "png");
    const png = decodePng(out), swaps = orientation > 4;
    assertEquals([png.width, png.height], swaps ? [high, wide] : [wide, high]);
    const wanted = turned(samples, wide, high, orientation);
    assertEquals(Array.from(png.samples), wanted, `${orientation}`);
    assert(Buffer.from(out).includes("<x:xmpmeta/>"));
    assertEquals((await convert(out, "tiff")).warnings, []);
  }
});

Deno.test("transcode: a BMP of OS/2 has the pixels of one of Windows", async () => {
  const palette = Array.from({ length: 48 }, (_, i) => i * 5);
  const pixels = Array.from({ length: 11 * 5 }, (_, i) => i * 7 % 16);
  const bmp = { width: 11, height: 5, bits: 4, pixels, palette };
  const expected = await levelsOf(encodeBmpOf({ ...bmp, header: 40 }));
  for (const header of [16, 64]) {
    const levels = await levelsOf(encodeBmpOf({ ...bmp, header }));
    assertEquals(levels, expected, `header of ${header} bytes`);
  }
});

Deno.test("transcode: a GIF has the size of its screen, also where its frame is smaller", async () => {
  const gif = encodeGif({
    ...{ width: 2, height: 1, frames: [[1, 0]] },
    palette: [0, 0, 0, 9, 9, 9],
  });
  gif.set([4, 0, 3, 0], 6); // the screen
  gif.set([1, 0, 2, 0], gif.indexOf(0x2c, 19) + 1); // left and top of the frame
  const { out } = await convert(gif, "tiff");
  const { width, height, gray, alpha } = await levelsOf(out);
  assertEquals([width, height], [4, 3]);
  const empty = [0, 0, 0, 0];
  assertEquals(gray, [...empty, ...empty, 0, 9, 0, 0]);
  assertEquals(alpha, [...empty, ...empty, 0, 255, 255, 0]);
});

Deno.test("transcode: a WebP whose only frame is smaller than its canvas is refused", async () => {
  const { out: still } = await convert(pngOf(opaque), "webp");
  const { width, height } = opaque;
  const frame = { width, height, still, left: 2, top: 0, time: 40, flags: 0 };
  const webp = (wide: number) =>
    encodeWebpFrames([frame], { width: wide, height });
  await assertRejects(
    () => convert(webp(width + 2), "png"),
    Error,
    "unsupported WebP: its frame is smaller than its canvas",
  );
  // One that fills it is a picture.
  frame.left = 0;
  const { out } = await convert(webp(width), "png");
  assertEquals(decodePng(out).width, width);
});

Deno.test("transcode: options that make no sense are named", async () => {
  const bytes = pngOf(opaque);
  for (const quality of [0, -1, 101, NaN, Infinity]) {
    const error = await assertRejects(
      () => convert(bytes, "jpeg", quality),
      RangeError,
    );
    assertEquals(
      error.message,
      "Cannot convert an image as 'quality' must be from 1 to 100: current " +
        `value is ${quality}`,
    );
  }
  await assertRejects(
    () => convert(bytes, "gif" as Target),
    RangeError,
    "'to' must be one of jpeg, png, webp, tiff, avif: current value is gif",
  );
});

Deno.test("transcode: HEIC is read, and refused without another format", async () => {
  await withFolder(async (folder) => {
    await Deno.writeFile(join(folder, "a.png"), pngOf(opaque, false));
    try {
      const args = ["-q", "90", "a.png", "-o", "a.heic"];
      await new Deno.Command("heif-enc", { args, cwd: folder }).output();
    } catch {
      return console.warn("SKIPPED: no heif-enc is here");
    }
    const bytes = await Deno.readFile(join(folder, "a.heic"));
    await assertRejects(
      () => convert(bytes),
      Error,
      "unsupported format: HEIC",
    );
    const { gray } = await levelsOf(bytes);
    assert(distance(gray, lumaOf(opaque).gray).mean < 6);
    for (const maxPixels of [31 * 22 - 1]) {
      await assertRejects(
        () => grayscale(bytes, { to: "png", maxPixels }),
        Error,
        "too large: 31x22 is more than 681 pixels",
      );
    }
    await damage(bytes, 60);
    const about = { width: 31, height: 22, colorType: 2, depth: 16 };
    const samples = Array.from({ length: 31 * 22 * 3 }, (_, i) => i * 31);
    const deep = encodePng({ ...about, samples });
    await Deno.writeFile(join(folder, "b.png"), deep);
    const args = ["-b", "10", "b.png", "-o", "b.heic"];
    await new Deno.Command("heif-enc", { args, cwd: folder }).output();
    const ten = await Deno.readFile(join(folder, "b.heic"));
    assertEquals(depthOf("HEIC", bytes), 8);
    assertEquals((await convert(ten, "png")).warnings, [
      "10 bits per channel, of which 8 are kept",
    ]);
  });
});

Deno.test("transcode: how deep a JPEG XL is, its headers say", async () => {
  /** Numbers of so many bits, the lowest of each byte first. */
  const streamOf = (...numbers: [value: number, bits: number][]) => {
    const bits = numbers.flatMap(([value, count]) =>
      Array.from({ length: count }, (_, i) => Math.floor(value / 2 ** i) & 1)
    );
    const data = new Uint8Array(2 + Math.ceil(bits.length / 8) + 8);
    data.set([0xff, 0x0a]);
    for (const [i, bit] of bits.entries()) data[2 + (i >> 3)] |= bit << (i & 7);
    return data;
  };
  type Numbers = [value: number, bits: number][];
  const sizes: Numbers[] = [
    [[1, 1], [3, 5], [1, 3]], // small, and square
    [[1, 1], [3, 5], [0, 3], [7, 5]],
    [[0, 1], [1, 2], [5000, 13], [0, 3], [3, 2], [70_000, 30]],
  ];
  const more: Numbers[] = [
    [[0, 1]],
    [[1, 1], [5, 3], [0, 1], [0, 1], [0, 1]],
    [[1, 1], [0, 3], [1, 1], ...sizes[2], [0, 1], [0, 1]],
    // A preview, and an animation.
    [
      ...[[1, 1], [0, 3], [0, 1], [1, 1], [1, 1], [2, 2], [9, 5], [1, 3]],
      ...[[1, 1], [2, 2], [999, 10], [1, 2], [0, 2], [0, 1]],
    ] as Numbers,
  ];
  const depths: [Numbers, number][] = [
    [[[0, 1], [0, 2]], 8],
    [[[0, 1], [1, 2]], 10],
    [[[0, 1], [2, 2]], 12],
    [[[0, 1], [3, 2], [15, 6]], 16],
    [[[1, 1], [0, 2]], 32],
    [[[1, 1], [1, 2]], 16],
  ];
  for (const size of sizes) {
    assertEquals(depthOf("JXL", streamOf(...size, [1, 1])), 8);
    for (const extra of more) {
      for (const [depth, bits] of depths) {
        const data = streamOf(...size, [0, 1], ...extra, ...depth);
        assertEquals(depthOf("JXL", data), bits);
        const boxed = Buffer.concat([
          Buffer.from("\0\0\0\fJXL \r\n\x87\n", "latin1"),
          Buffer.from([0, 0, 0, data.length + 8]),
          Buffer.from("jxlc"),
          data,
        ]);
        assertEquals(depthOf("JXL", boxed), bits);
        for (let cut = 1; cut < 6; cut++) depthOf("JXL", data.subarray(0, cut));
      }
    }
  }
  const jxl = await encode("JXL", opaque);
  assertEquals(depthOf("JXL", jxl), 8);
  assertEquals((await convert(jxl, "png")).warnings, []);
});

/** Converts many damaged copies: an image or one line; then the good one. */
async function damage(bytes: Uint8Array, count: number): Promise<void> {
  const random = randomFrom(3), right = (await convert(bytes, "png")).out;
  const integer = (below: number) => Math.floor(below * random());
  for (let n = 0; n < count; n++) {
    let copy = Uint8Array.from(bytes);
    if (n % 4 === 0) copy = copy.subarray(0, integer(copy.length));
    else {for (let k = integer(4); k >= 0; k--) {
        copy[integer(copy.length)] ^= 1 << integer(8);
      }}
    try {
      await grayscale(copy, { to: "png", maxPixels: 1e6 });
    } catch (error) {
      assertMatch((error as Error).message, /^[^\n\r\\@`]{8,200}$/, `${n}`);
    }
    if (n % 20 === 0) assertEquals((await convert(bytes, "png")).out, right);
  }
}

Deno.test("transcode: a damaged JPEG XL is an image or a line", async () => {
  const bytes = await encode("JXL", draw(20, 14));
  await assertRejects(
    () => convert(bytes),
    Error,
    "unsupported format: JPEG XL",
  );
  await damage(bytes, 120);
});

Deno.test("transcode: a TIFF whose white is zero, or with planes, is no negative", async () => {
  const size = { width: 17, height: 5 };
  for (const photometric of [0, 1]) {
    for (const bits of [1, 2, 4, 7, 8, 12, 16]) {
      for (const planar of [undefined, false, true]) {
        const channels = planar === undefined ? 1 : 2, most = 2 ** bits - 1;
        const samples = Array.from(
          { length: 17 * 5 * channels },
          (_, i) => i % channels || i / channels & 1 ? most : 0,
        );
        const tiff: Tiff = {
          ...{ ...size, photometric, bits, channels, samples, planar },
          ...(channels > 1 ? { fields: { 338: [2] } } : {}),
        };
        const clue = `${photometric}, ${bits} bits, planes: ${planar}`;
        const { out } = await convert(encodeTiffPage(tiff), "webp", 100);
        const { gray, alpha } = await levelsOf(out);
        // Black and white may be levels of fewer bits.
        assertEquals(gray[0] < gray[1], photometric === 1, clue);
        assert(gray[0] !== gray[1], clue);
        assert(alpha?.every((level) => level === alpha[0]) ?? true, clue);
      }
    }
  }
});

Deno.test("transcode: a TIFF of fax that is turned is turned upright once", async () => {
  // T.4: the end of a line, and runs of eight pixels: white; none of white, black.
  const end = "000000000001", white = end + "10011";
  const black = end + "00110101" + "000101";
  const bits = white + black + black + black + end;
  const data = bits.padEnd(Math.ceil(bits.length / 8) * 8, "0").match(/.{8}/g)!
    .map((byte) => parseInt(byte, 2));
  for (const photometric of [0, 1]) {
    const tiff = encodeTiffPage({
      ...{ width: 8, height: 4, photometric, bits: 1, channels: 1 },
      ...{ samples: [], compression: 3, fields: { 274: [4] } },
      blocks: [Uint8Array.from(data)],
    });
    const { out } = await convert(tiff, "webp", 100);
    const { gray } = await levelsOf(out);
    const lines = [0, 1, 2, 3].map((y) => gray[8 * y] > 0);
    const isLight = photometric === 1;
    const wanted = [isLight, isLight, isLight, !isLight];
    assertEquals(lines, wanted, `${photometric}`);
  }
});

Deno.test("transcode: a BMP that the codec would not read is read, with runs and few bits", async () => {
  const size = { width: 7, height: 3 };
  const palette = [0, 60, 120, 250].flatMap((level) => [level, level, level]);
  const numbers = Array.from({ length: 21 }, (_, i) => (i * 3 + (i >> 2)) & 3);
  const wanted = numbers.map((number) => palette[3 * number]);
  const plain = { ...size, header: 40, palette, pixels: numbers };
  const runs = (isWide: boolean) => {
    const bits = isWide ? 8 : 4;
    const bytes = encodeBmpOf({ ...plain, bits, compression: isWide ? 1 : 2 });
    const start = bytes.length - (isWide ? 24 : 12), data: number[] = [];
    for (const y of [2, 1, 0]) {
      const row = numbers.slice(7 * y, 7 * y + 7);
      // One run of three, a move over nothing, and four by themselves.
      const [a, b, c, ...rest] = row;
      if (isWide) data.push(1, a, 1, b, 1, c, 0, 2, 0, 0, 0, 4, ...rest, 0, 0);
      else {
        data.push(2, a << 4 | b, 1, c << 4, 0, 4);
        data.push(rest[0] << 4 | rest[1], rest[2] << 4 | rest[3], 0, 0);
      }
    }
    return new Uint8Array([...bytes.subarray(0, start), ...data, 0, 1]);
  };
  const bmps: Record<string, Uint8Array> = {
    "1 color too many": (() => {
      const bytes = encodeBmpOf({ ...plain, bits: 8 });
      bytes.set([1, 1], 46); // 257 colors
      return bytes;
    })(),
    "2 bits": encodeBmpOf({ ...plain, bits: 2 }),
    "4 bits, from the top": encodeBmpOf({ ...plain, bits: 4, topDown: true }),
    "runs of 8 bits": runs(true),
    "runs of 4 bits": runs(false),
    "OS/2 2.x": encodeBmpOf({ ...plain, bits: 4, header: 64 }),
  };
  for (const [name, bytes] of Object.entries(bmps)) {
    const { out } = await convert(bytes, "tiff");
    assertEquals((await levelsOf(out)).gray, wanted, name);
  }
});

Deno.test("transcode: faults beside the pixels of a PNG do not matter", async () => {
  const png = encodePng({
    ...{ width: 5, height: 4, colorType: 0, depth: 8 },
    samples: Array.from({ length: 20 }, (_, i) => i * 11),
  });
  const late = pngChunk("gAMA", [0, 0, 177, 143]);
  const bad = Buffer.concat([png.subarray(0, -12), late, png.subarray(-12)]);
  const { out } = await convert(bad, "webp");
  assertEquals(out, (await convert(png, "webp")).out);
});

Deno.test("transcode: what is too wide for the new format is refused for that", async () => {
  for (const [to, width] of [["jpeg", 65501], ["webp", 16384]] as const) {
    const png = encodePng({
      ...{ width, height: 1, colorType: 0, depth: 8 },
      samples: new Uint8Array(width),
    });
    await assertRejects(
      () => grayscale(png, { to }),
      Error,
      "too large: more rows or columns than the new format can have",
    );
  }
});

Deno.test("transcode: a gray TIFF of numbers that are none of gray is refused by name", async () => {
  const gray = { width: 3, height: 2, photometric: 1, bits: 16, channels: 1 };
  const samples = [1, 2, 3, 4, 5, 6];
  const cases: [Partial<Tiff>, string][] = [
    [{ fields: { 339: [5] } }, "complex samples"],
    [{ fields: { 258: [64] }, bits: 64, samples: [] }, "samples of 64 bits"],
  ];
  for (const [kind, cause] of cases) {
    const blocks = [new Uint8Array(48)];
    const bytes = encodeTiffPage({ ...gray, samples, blocks, ...kind });
    assertEquals(await grayscale(bytes), bytes);
    for (const to of ["png", "jpeg"] as const) {
      await assertRejects(
        () => grayscale(bytes, { to }),
        Error,
        `unsupported TIFF: ${cause}`,
      );
    }
  }
});

Deno.test("transcode: the codec's random name of a file decides nothing", async (t) => {
  const { MagickError, MagickImage } = await useCodec();
  const { create } = MagickImage;
  const jpeg = await encode("JPEG", opaque);
  const heic = new TextEncoder().encode("\0\0\0\x18ftypheic\0\0\0\0mif1heic");
  // One is an error, the other one a warning: of an image that lacks rows.
  const cases = [
    [
      heic,
      "InsufficientImageDataInFile `/tmp/magick-aOOMb' @ error/heic.c/Read/1",
      "truncated HEIC: insufficient image data in file",
    ],
    [
      jpeg,
      "Premature end of JPEG file `/tmp/magick-aICCb' @ warning/jpeg.c/JPEG/1",
      "truncated JPEG: Premature end of JPEG file",
    ],
  ] as const;
  for (const [bytes, said, line] of cases) {
    await t.step(line, async () => {
      const error = new MagickError(said);
      try {
        MagickImage.create = () => {
          const image = (create as () => ReturnType<typeof create>).call(
            MagickImage,
          );
          image.ping = () => {
            throw error;
          };
          image.read = () => image.onWarning!({ error } as never);
          return image;
        };
        await assertRejects(
          () => grayscale(bytes, { to: "jpeg", quality: 50 }),
          Error,
          line,
        );
      } finally {
        MagickImage.create = create;
      }
    });
  }
});
