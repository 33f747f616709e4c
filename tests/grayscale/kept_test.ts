/**
 * What stays of a format and what goes, as the README's table has it, where no other
 * test shows it: JPEG in jpeg_test.ts, PNG in png_test.ts, TIFF in tiff_test.ts, GIF
 * and WebP in animations_test.ts.
 */
import { assert, assertEquals } from "@std/assert";
import { Buffer } from "node:buffer";
import { grayscale } from "../../workers/grayscale.ts";
import { useCodec } from "../../workers/grayscale/codec.ts";
import { draw, encodeBmpOf } from "./images.ts";
import { decodeJpeg, encodeJpeg, newPicture, segment } from "./jpegs.ts";

const letters = (text: string): number[] => [...Buffer.from(text, "latin1")];

/** EXIF in which the picture lies on its side, and has 300 dots an inch. */
const EXIF = Uint8Array.from([
  ...letters("Exif\0\0II*\0\x08\0\0\0\x02\0"),
  ...[0x12, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0],
  ...[0x1a, 1, 5, 0, 1, 0, 0, 0, 38, 0, 0, 0],
  ...[0, 0, 0, 0, 44, 1, 0, 0, 1, 0, 0, 0],
]);
const XMP = Uint8Array.from(letters("<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"));

Deno.test("an AVIF keeps EXIF and XMP, and loses its color profile", async () => {
  const magick = await useCodec(), { width, height, data } = draw(40, 30);
  const image = magick.MagickImage.create();
  const other = magick.MagickImage.create();
  try {
    const format = magick.MagickFormat.Rgba;
    const settings = { format, width, height, depth: 8 };
    image.read(data, new magick.MagickReadSettings(settings));
    image.setProfile(new magick.ImageProfile("exif", EXIF));
    image.density = new magick.Density(300); // which is written into EXIF
    image.setProfile(new magick.ImageProfile("xmp", XMP));
    const icc = new Uint8Array(132);
    icc.set([0, 0, 0, 132, ...letters("lcms\x04\0\0\0mntrRGB XYZ ")]);
    icc.set(letters("acsp"), 36);
    image.setProfile(new magick.ImageProfile("icc", icc));
    image.settings.setDefine("HEIC", "speed", 9);
    const avif = image.write("AVIF", (bytes) => bytes.slice());
    const gray = await grayscale(avif);
    other.read(avif);
    const before = other.profileNames;
    assert(before.includes("icc"), `${before}`);
    other.read(gray);
    assertEquals([...other.profileNames].sort(), ["exif", "xmp"]);
    const [exif, xmp] = ["exif", "xmp"].map((name) =>
      Buffer.from(other.getProfile(name)!.data)
    );
    assertEquals(xmp.includes(Buffer.from(XMP)), true);
    // The resolution; the picture is turned already, if it was at all.
    assertEquals(exif.includes(Buffer.from([44, 1, 0, 0, 1, 0, 0, 0])), true);
  } finally {
    image.dispose();
    other.dispose();
  }
});

Deno.test("a JPEG that is coded anew keeps quality, progressive scans and resolution", async () => {
  const rgb: [number, number][] = [[1, 1], [1, 1], [1, 1]];
  const jfif = segment(0xe0, letters("JFIF\0\x01\x02\x01\x01\x2c\x01\x2c\0\0"));
  const cmyk: [number, number][] = [...rgb, [1, 1]];
  for (const sampling of [rgb, cmyk]) {
    for (const progressive of [false, true]) {
      const picture = newPicture(24, 16, sampling);
      const ids = sampling === rgb ? letters("RGB") : [1, 2, 3, 4];
      const exif = segment(0xe1, [...EXIF]);
      const markers = sampling === rgb ? [exif] : [jfif, exif];
      const frame = progressive ? 0xc2 : 0xc0;
      const all = sampling.map((_, i) => i);
      const band = (components: number[], first: number, last: number) => ({
        ...{ components, first, last, high: 0, low: 0 },
      });
      const scans = progressive
        ? [band(all, 0, 0), ...all.map((i) => band([i], 1, 63))]
        : [band(all, 0, 63)];
      const bytes = encodeJpeg(picture, { ids, markers, frame, scans });
      const gray = await grayscale(bytes);
      const { extras } = decodeJpeg(gray);
      assertEquals(extras.length, markers.length);
      const after = Buffer.from(gray);
      assertEquals(after.includes(Buffer.from([0xff, frame])), true);
      assertEquals(after.includes(Buffer.from(EXIF)), true);
    }
  }
});

Deno.test("a BMP keeps its resolution, with a color table and without", async () => {
  for (const bits of [8, 24, 32]) {
    const bmp = encodeBmpOf({
      ...{ width: 5, height: 4, header: 40, bits },
      pixels: Array.from({ length: 20 }, (_, i) => i),
      palette: Array.from({ length: 768 }, (_, i) => i % 256),
    });
    const view = new DataView(bmp.buffer, bmp.byteOffset);
    view.setUint32(38, 11811, true);
    view.setUint32(42, 5906, true);
    const gray = await grayscale(bmp);
    const after = new DataView(gray.buffer, gray.byteOffset);
    assertEquals(after.getUint32(38, true), 11811, `${bits} bits`);
    assertEquals(after.getUint32(42, true), 5906, `${bits} bits`);
    assertEquals(after.getUint16(28, true), 8);
  }
});
