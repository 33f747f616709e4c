/** `deno task grayscale` on folders as they are in life. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path/join";
import { grayPng } from "../../workers/grayscale/png.ts";
import { encodePng, pngChunk } from "../grayscale/images.ts";
import { Home, linesOf } from "./programs.ts";

const GIF = Uint8Array.fromBase64(
  "R0lGODdhAQABAIAAAP8AAAAAACwAAAAAAQABAAACAkQBADs=",
);

/** Files that are no images, as systems and programs leave them beside images. */
const OTHERS: Record<string, string | Uint8Array> = {
  ".DS_Store": "\0\0\0\x01Bud1",
  "._a.gif": "\0\x05\x16\x07\0\x02\0\0Mac OS X",
  "Thumbs.db": new Uint8Array([0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1]),
  "a.xmp": "<x:xmpmeta/>",
  "b.mov": "\0\0\0\x14ftypqt  \0\0\0\0qt  ",
  "c.txt": "BM, but no bitmap",
  "empty": "",
};

/** A PNG with a fault beside its pixels. */
function faultyPng(): Uint8Array {
  const samples = Array.from({ length: 300 }, (_, i) => i & 255);
  const chunks = [1, 2].map((n) => pngChunk("pHYs", Array(9).fill(n)));
  const about = { width: 10, height: 10, colorType: 2, depth: 8 };
  return encodePng({ ...about, samples, chunks });
}

Deno.test("grayscale leaves alone what it finds that is no image", async () => {
  await using home = new Home();
  for (const [name, content] of Object.entries(OTHERS)) {
    await home.write({ [`in/${name}`]: content, [`in/deep/${name}`]: content });
  }
  await home.write({ "in/a.gif": GIF, "in/deep/without an ending": GIF });
  for (const path of ["in", "in/**/*", "in/"]) {
    const args = [path, "--force"];
    const { code, stdout, stderr } = await home.run("grayscale", ...args);
    assertEquals([code, stderr], [0, ""], path);
    const line = /^2 images converted into gray in .* s; (\d+) other files/;
    assertMatch(stdout, line);
    assertEquals(Number(line.exec(stdout)![1]), 14, path);
    assertEquals(home.list("gray"), ["a.gif", "deep/without an ending"]);
  }
  const one = await home.run("grayscale", "in/deep", "--include", "*.txt");
  assertMatch(one.stdout, /; 1 other file left alone\n$/);
});

Deno.test("grayscale has a line for what is named, or has an image's ending", async () => {
  await using home = new Home();
  await home.write({ "in/a.gif": GIF, "in/x.JPG": "no", "in/y.heic": "" });
  await home.write({ "in/c.txt": "no image", "in/d.txt": "" });
  const args = ["in", "in/c.txt", "in/._none"];
  const { code, stdout, stderr } = await home.run("grayscale", ...args);
  assertEquals(code, 1);
  assertMatch(
    stdout,
    /^1 image .*, 4 failed in .* s; 1 other file left alone\n/,
  );
  const names = stderr.trimEnd().split("\n").map((line) => line.split(": ")[0]);
  assertEquals(names.sort(), [
    "in/._none",
    "in/c.txt",
    "in/x.JPG",
    "in/y.heic",
  ]);
});

Deno.test("grayscale --include and --exclude choose images", async () => {
  await using home = new Home();
  const names = ["a.gif", "b.gif", "raw/a.gif", "raw/c.png"];
  for (const name of names) await home.write({ [`in/${name}`]: GIF });
  const cases: [args: string[], made: string[]][] = [
    [["--include", "a.*"], ["a.gif", "raw/a.gif"]],
    [["--exclude", "raw"], ["a.gif", "b.gif"]],
    [["--exclude", "raw/*.gif", "--exclude=b.gif"], ["a.gif", "raw/c.png"]],
    [["--include", "*.gif", "--exclude", "a.gif"], ["b.gif"]],
  ];
  for (const [args, made] of cases) {
    const { code } = await home.run("grayscale", "in", ...args);
    assertEquals([code, home.list("gray")], [0, made], args.join(" "));
    await Deno.remove(join(home.path, "gray"), { recursive: true });
  }
});

Deno.test("grayscale --json prints an object per image as soon as it is done", async () => {
  await using home = new Home();
  await home.write({ "a.gif": GIF, "b.png": faultyPng(), "c.jpg": "none" });
  await home.write({ "in/d.txt": "" });
  const args = ["a.gif", "b.png", "c.jpg", "missing", "in", "--json"];
  const { stdout, stderr } = await home.run("grayscale", ...args);
  const warning = "a second pHYs chunk, left out, at byte 54";
  const bytes = grayPng(faultyPng()).length;
  const error = "not an image (JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF)";
  const objects = linesOf<Record<string, unknown>>(stdout);
  assertEquals(objects.toSorted((a, b) => `${a.path}` < `${b.path}` ? -1 : 1), [
    { path: "a.gif", out: "gray/a.gif", bytes: GIF.length },
    { path: "b.png", out: "gray/b.png", bytes, warning },
    { path: "c.jpg", error },
    { path: "missing", error: "No such file or directory" },
  ]);
  assert(stderr.includes(`b.png: converted, but for ${warning}\n`), stderr);
  const again = await home.run("grayscale", "a.gif", "--json");
  assertEquals(linesOf(again.stdout), [
    { path: "a.gif", out: "gray/a.gif", skipped: true },
  ]);
});

Deno.test("grayscale names an output folder that cannot be written, once", async () => {
  await using home = new Home();
  for (const name of ["a", "b", "sub/c", "sub/d"]) {
    await home.write({ [`in/${name}.gif`]: GIF });
  }
  await home.write({ "file": "", "out/sub": "no folder" });
  for (const more of [[], ["--compare"], ["--json"]]) {
    for (const out of ["file", "file/deep/er"]) {
      const args = ["in", "--out", out, ...more];
      const { code, stdout, stderr } = await home.run("grayscale", ...args);
      const line = `grayscale: ${out}: Not a directory\n`;
      assertEquals([code, stdout, stderr], [2, "", line]);
    }
  }
  const args = ["in", "--out", "out"];
  const { code, stdout, stderr } = await home.run("grayscale", ...args);
  assertEquals([code, stderr], [1, "out/sub: Not a directory\n"]);
  assertMatch(stdout, /^2 images converted into out, 2 failed in/);
  assertEquals(home.list("out"), ["a.gif", "b.gif", "sub"]);
  const json = await home.run("grayscale", ...args, "--json", "--force");
  const failed = linesOf<{ path: string; error?: string }>(json.stdout)
    .filter(({ error }) => error === "out/sub: Not a directory");
  assertEquals(failed.map(({ path }) => path), [
    "in/sub/c.gif",
    "in/sub/d.gif",
  ]);
});

Deno.test("grayscale --compare says what was wrong with an image, too", async () => {
  await using home = new Home();
  home.copyProject();
  await home.write({ "in/b.png": faultyPng() });
  const args = ["in", "--compare", "--workers", "1"];
  const { code, stderr } = await home.run("grayscale", ...args);
  const line = "a second pHYs chunk, left out, at byte 54";
  assertEquals(stderr, `in/b.png: converted, but for ${line}\n`);
  assertEquals(code, 0);
});

Deno.test("grayscale --salvage converts what is truncated, and says what is real", async () => {
  await using home = new Home();
  const samples = Array.from({ length: 3000 }, (_, i) => i * i % 251);
  const about = { width: 10, height: 100, colorType: 2, depth: 8 };
  const bytes = encodePng({ ...about, samples });
  await home.write({ "a.png": bytes.subarray(0, bytes.length / 2) });
  const without = await home.run("grayscale", "a.png");
  assertEquals(without.code, 1);
  assertMatch(without.stderr, /^a.png: truncated PNG: /);
  const { code, stderr } = await home.run("grayscale", "a.png", "--salvage");
  assertEquals(code, 0);
  assertMatch(
    stderr,
    /^a.png: converted, but for missing pixels, which are gray: \d\d of 100 rows /,
  );
  assertEquals(home.list("gray"), ["a.png"]);
});

Deno.test("grayscale --to gives every image the format, and its ending", async () => {
  await using home = new Home();
  const names = [
    "a.gif",
    "b.png",
    "c.JPEG",
    "no ending",
    "v1.2",
    "deep/d.x.bmp",
  ];
  for (const name of names) await home.write({ [`in/${name}`]: faultyPng() });
  const cases: [to: string, made: string[]][] = [
    ["webp", ["a", "b", "c", "deep/d.x", "no ending", "v1.2"]],
    ["tiff", ["a", "b", "c", "deep/d.x", "no ending", "v1.2"]],
  ];
  for (const [to, made] of cases) {
    const args = ["in", "--to", to, "--out", to];
    assertEquals((await home.run("grayscale", ...args)).code, 0);
    assertEquals(home.list(to), made.map((name) => `${name}.${to}`).sort());
  }
  const jpeg = ["in", "--to", "jpeg", "--quality", "30", "--out", "jpeg"];
  assertEquals((await home.run("grayscale", ...jpeg)).code, 0);
  assertEquals(home.list("jpeg"), [
    ...[
      "a.jpg",
      "b.jpg",
      "c.JPEG",
      "deep/d.x.jpg",
      "no ending.jpg",
      "v1.2.jpg",
    ],
  ]);
  const again = await home.run("grayscale", ...jpeg);
  assertMatch(again.stdout, /^0 images .*, 6 up to date/);
});

Deno.test("grayscale --to refuses images that would get the same name", async () => {
  await using home = new Home();
  for (const name of ["a.gif", "a.png", "b.gif"]) {
    await home.write({ [`in/${name}`]: GIF });
  }
  const args = ["in", "--to", "png"];
  const { code, stdout, stderr } = await home.run("grayscale", ...args);
  assertEquals(code, 1);
  assertMatch(stdout, /^1 image converted into gray, 2 failed/);
  const cause = "the output would replace another output, gray/a.png";
  assertEquals(stderr, `in/a.gif: ${cause}\nin/a.png: ${cause}\n`);
  assertEquals(home.list("gray"), ["b.png"]);
});

Deno.test("grayscale --to and --quality say in one line what is wrong", async () => {
  await using home = new Home();
  await home.write({
    "a.gif": GIF,
    "b.heic": "\0\0\0\x18ftypheic\0\0\0\0mif1heic",
  });
  const cases: [args: string[], line: string][] = [
    [
      ["--to", "gif"],
      "--to must be one of jpeg, png, webp, tiff, avif, not 'gif'",
    ],
    [["--to", "png", "--quality", "9"], "--quality: png has none"],
    [["--quality", "101"], "--quality must be at most 100, not '101'"],
    [["--quality", "0"], "--quality must be a whole number from 1 on, not '0'"],
  ];
  for (const [args, line] of cases) {
    const { code, stderr } = await home.run("grayscale", "a.gif", ...args);
    assertEquals([code, stderr], [2, `grayscale: ${line}\n`]);
  }
  const { stderr } = await home.run("grayscale", "b.heic");
  const line = "unsupported format: HEIC: --to jpeg converts it";
  assertEquals(stderr, `b.heic: ${line}\n`);
  const other = await home.run("grayscale", "b.heic", "--to", "jpeg");
  assertMatch(other.stderr, /^b.heic: (broken|truncated) HEIC: [^\n]+\n$/);
});
