import { readdirSync } from "node:fs";
import { answer, load, workers } from "./protocol.mjs";

const { default: sharp } = await load("sharp");
// As many images side by side as there are workers, each with one thread.
sharp.concurrency(1);

/** The format follows from the name; the quality is that of Pillow. */
async function convertNext(names, folder, out) {
  for (let name; (name = names.pop());) {
    const animated = name.endsWith(".gif"); // with all of its frames
    const gray = sharp(`${folder}/${name}`, { animated }).grayscale();
    const coded = name.endsWith(".jpg") ? gray.jpeg({ quality: 85 }) : gray;
    await coded.toFile(`${out}/${name}`);
  }
}

await answer(`${sharp.versions.sharp}, libvips ${sharp.versions.vips},`, {
  async convert(folder, out) {
    const begun = performance.now();
    const names = readdirSync(folder);
    const all = Array.from(
      { length: workers },
      () => convertNext(names, folder, out),
    );
    await Promise.all(all);
    return { ms: performance.now() - begun };
  },
});
