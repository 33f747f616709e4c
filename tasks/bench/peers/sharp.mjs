/**
 * sharp, as `deno task bench` needs it: installed in the folder of the first
 * argument. It answers as pillow.py does.
 */

import { mkdirSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import process from "node:process";
import { createInterface } from "node:readline";

const sharp = createRequire(`${process.argv[2]}/`)("sharp");
const workers = Number(process.argv[3]);
// As many images side by side, each with a thread of its own.
sharp.concurrency(1);

async function convert(folder, out) {
  mkdirSync(out, { recursive: true });
  const names = readdirSync(folder);
  const convertNext = async () => {
    for (let name; (name = names.pop());) {
      const gray = sharp(`${folder}/${name}`).grayscale();
      const coded = name.endsWith(".png")
        ? gray.png()
        : gray.jpeg({ quality: 85 });
      await coded.toFile(`${out}/${name}`);
    }
  };
  await Promise.all(Array.from({ length: workers }, convertNext));
}

const version = () =>
  `Node ${process.versions.node}, sharp ${sharp.versions.sharp}, libvips ` +
  sharp.versions.vips;

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...args] = JSON.parse(line);
  const began = performance.now();
  const answer = {};
  try {
    answer.value = await { convert, version }[name](...args) ?? null;
  } catch (error) {
    answer.error = String(error);
  }
  answer.ms = performance.now() - began;
  console.log(JSON.stringify(answer));
}
