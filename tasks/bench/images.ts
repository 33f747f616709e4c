/**
 * The conversion of images beside Pillow, sharp and jpegtran: in whole processes,
 * and in pools that are warm.
 *
 * @module
 */

import { join } from "@std/path/join";
import { onInterrupt } from "../cli/program.ts";
import { type Answer, inPeers, NPM_HINT, Peer } from "./peer.ts";
import * as program from "./program.ts";
import { exists, Files, run } from "./program.ts";
import { isWanted, measure, type Options, type Result } from "./rows.ts";
import type { Row, Section } from "./rows.ts";

const TITLE = "Gray images; of JPEGs ours takes the coded luma out, as " +
  "jpegtran does, while Pillow and sharp decode and encode";
const EMPTY = "empty `deno run`";

/** What ours ÷ a peer shall be at most. */
type Aims = Record<string, number>;

/** Images of one kind: their folder, and what they are; `side` in pixels. */
type Kind = [
  ...[name: string, title: string, type: string, count: number, side: number],
  ...[whole: Aims, warm?: Aims], // without the latter that is not measured
];

const pillow = (aim: number): Aims => ({ Pillow: aim });

const KINDS: Kind[] = [
  ["base", "JPEGs of 6.5 MP", "jpg", 48, 2560, pillow(0.25), pillow(0.14)],
  ["progressive", "progressive JPEGs of 6.5 MP", "jpg", 48, 2560, {}, {}],
  ["one", "JPEG of 6.5 MP", "jpg", 1, 2560, { [EMPTY]: 2 }],
  ["png", "PNGs of 3.7 MP", "png", 24, 1920, pillow(0.2), {}],
  ["tiff", "TIFFs of 2 MP", "tiff", 100, 1414, { sharp: 2 }],
  ["gif", "animated GIFs of 1 MB", "gif", 200, 580, { sharp: 0.1 }],
  ["webp", "WebPs of 2 MP", "webp", 100, 1414, { sharp: 2 }],
  ["avif", "AVIFs of 2 MP", "avif", 100, 1414, { sharp: 2 }],
  // Last: where thousands of files have just been deleted, ext4 takes up to half
  // a millisecond to make one.
  ["small", "JPEGs of 100 kB", "jpg", 1000, 1150, {}, {}],
];

/** How much memory many images may take, and a worker with a huge one, in MB. */
const MANY_MB = 130, HUGE_MB = 200;

/** How far a pixel may be off, on average, where images are coded anew. */
const TOLERANCE = 12;

/** Somebody who converts a folder of images into another one. */
interface Converter {
  name: string;
  convert(from: string, to: string): Promise<Answer>;
}

/** Who takes part, and the images. */
interface Bench {
  options: Options;
  files: Files;
  /** Makes images, and judges what came out. */
  pillow: Peer;
  whole: Converter[];
  warm: Converter[];
}

/** Measures the conversion of images. */
export async function measureImages(options: Options): Promise<Section> {
  await using peers = new AsyncDisposableStack();
  const start = async (name: string, command: string[]) =>
    peers.use(await Peer.start({ name, command, hint: NPM_HINT }));
  const given = [options.folder ?? "-", `${options.workers}`];
  const node = ["node", inPeers("sharp.mjs"), ...given];
  const sharp = await start("sharp", node);
  let python = ["python3", inPeers("pillow.py"), ...given];
  let pillow = await start("Pillow", python);
  if (pillow.missing) { // Debian's is only seen by Debian's Python
    python = python.with(0, "/usr/bin/python3");
    pillow = await start("Pillow", python);
  }
  const hint = "apt install libjpeg-turbo-progs";
  const jpegtran = await program.find("jpegtran", "-version", hint);
  const { value: photographs } = await pillow.ask("photographs");
  const files = new Files(photographs ? "photographs" : "drawings", options);
  const section: Section = {
    title: TITLE,
    contestants: [pillow, sharp, jpegtran],
    notes: files.notes,
    results: [],
  };
  if (pillow.missing) {
    files.note("LEFT OUT: without Pillow there are no images");
    return section;
  }
  if (!photographs) {
    files.note(
      "These are DRAWN images, as there are no photographs; to get some: " +
        "apt install lomiri-wallpapers-16.04 lomiri-wallpapers-20.04",
    );
  }
  const task = program.taskOf("grayscale");
  const own = [...task.slice(0, -1), inPeers("manyhands_images.ts"), "-"];
  const ours = (name: string, workers: number): Converter => ({
    name,
    convert: (from, to) =>
      run([...task, from, "--out", to, "-q", `--workers=${workers}`]),
  });
  const theirs = ({ name }: Peer, words: string[]): Converter => ({
    name,
    convert: (from, to) => run([...words, "convert", from, to]),
  });
  const warm = (peer: Peer): Converter => ({
    name: peer.name,
    convert: (from, to) => peer.ask("convert", from, to),
  });
  const others = [pillow, sharp].filter(({ missing }) => !missing);
  const bench: Bench = {
    ...{ options, files, pillow },
    whole: [
      ours("manyhands", options.workers),
      ...others.map((peer) => theirs(peer, peer === sharp ? node : python)),
      ...jpegtran.missing ? [] : [jpegtrans(options.workers)],
      ours("1 worker", 1),
      { name: EMPTY, convert: () => run(program.EMPTY) },
    ],
    warm: [
      await start("manyhands", [...own, `${options.workers}`]),
      ...others,
      await start("1 worker", [...own, "1"]),
      await start("sequential", [...own, "0"]),
    ].map(warm),
  };
  clear(files); // what a run that was killed has left
  using _ = onInterrupt(() => clear(files));
  for (const kind of KINDS) {
    section.results.push(...await measureKind(kind, bench));
  }
  section.results.push(...await measurePeaks(bench));
  return section;
}

/** A process of jpegtran for each image, as many side by side as workers. */
function jpegtrans(workers: number): Converter {
  const script = 'cd "$0" && ls | xargs -P "$2" -I {} ' +
    'jpegtran -grayscale -outfile "$1/{}" {}';
  return {
    name: "jpegtran",
    convert: (from, to) => run(["sh", "-c", script, from, to, `${workers}`]),
  };
}

async function measureKind(
  [name, title, type, all, side, whole, warm]: Kind,
  { options, files, pillow, ...bench }: Bench,
): Promise<Result[]> {
  const count = Math.ceil(all * options.percent / 100);
  const from = files.at(name);
  const takesPart = ({ name }: Converter) =>
    name === "jpegtran"
      ? type === "jpg"
      : name === "1 worker"
      ? warm !== undefined
      : name !== EMPTY || name in whole;
  let outs = 0;
  const entryOf = ({ name, convert }: Converter, aims: Aims) => ({
    ...{ name, aim: aims[name], isFloor: name === EMPTY },
    async run() {
      const value = join(files.at("gray"), `${outs++}`);
      Deno.mkdirSync(value, { recursive: true });
      return { ...await convert(from, value), value };
    },
  });
  const results: Result[] = [];
  for (const how of ["whole process", "warm"]) {
    const what = `${count} ${title}, ${how}`;
    const [converters, aims] = how === "warm"
      ? [bench.warm, warm]
      : [bench.whole, whole];
    if (aims === undefined || !isWanted(what, options)) continue;
    const make = async (path: string) =>
      must(await pillow.ask("make", path, type, count, side));
    if (!await files.make(name, 3 * count * side * side, make)) break;
    const entries = converters.filter(takesPart).map((one) =>
      entryOf(one, aims)
    );
    const check = checkOf(type, from, pillow);
    results.push(await measure({ what, entries, check }, options));
    clear(files);
  }
  return results;
}

/** Compares what came out with the luma of what went in, as Pillow decodes it. */
function checkOf(type: string, from: string, pillow: Peer): Row["check"] {
  const anew = {
    jpg: ["Pillow", "sharp"],
    png: ["sharp"],
    gif: ["Pillow", "sharp"],
  }[type];
  return async (out, name) => {
    if (name === EMPTY) return;
    const { value, error } = await pillow.ask("compare", from, out);
    if (error !== undefined) return error;
    const [most, mean] = value as [most: number, mean: number];
    const isExact = anew !== undefined && !anew.includes(name);
    if (mean <= (isExact ? 0 : TOLERANCE)) return;
    return `a pixel differs by ${mean.toFixed(2)} on average, ${most} at most`;
  };
}

/** The memory of a process with many images, and with huge ones. */
async function measurePeaks(
  { options, files, pillow }: Bench,
): Promise<Result[]> {
  const side = 160 * options.percent;
  const links = (path: string) => {
    Deno.mkdirSync(path);
    for (const { name } of Deno.readDirSync(files.at("small"))) {
      for (let i = 0; i < 10; i++) {
        Deno.linkSync(files.at(`small/${name}`), join(path, `${i}-${name}`));
      }
    }
  };
  const huge = (depth: number, channels: number) => async (path: string) =>
    must(await pillow.ask("huge", path, side, depth, channels));
  const png = `PNG of ${side} × ${side}`;
  const results: Result[] = [];
  for (
    const [title, name, most, make] of [
      ["ten times as many JPEGs of 100 kB", "many", MANY_MB, links],
      [`${png}, RGB`, "rgb.png", HUGE_MB, huge(8, 3)],
      [`${png}, RGBA, 16 bits`, "rgba.png", HUGE_MB, huge(16, 4)],
    ] as const
  ) {
    const what = `memory: ${title}`;
    if (!isWanted(what, options)) continue;
    if (name === "many" && !exists(files.at("small"))) continue;
    if (!await files.make(name, 1e7, make)) continue;
    const words = [files.at(name), "--out", files.at("gray"), "--quiet"];
    const command = [...program.taskOf("grayscale"), ...words];
    results.push(await program.measurePeak(what, command, most, options));
    clear(files);
  }
  return results;
}

function must({ error }: Answer): void {
  if (error !== undefined) throw new Error(error);
}

/** Removes the gray images. */
function clear(files: Files): void {
  const path = files.at("gray");
  if (exists(path)) Deno.removeSync(path, { recursive: true });
}
