/**
 * The conversion of images beside Pillow, sharp and jpegtran: in whole processes,
 * and in pools that are warm.
 *
 * @module
 */

import { join } from "@std/path/join";
import { onInterrupt } from "../cli/program.ts";
import { inPeers, NPM_HINT, Peer } from "./peer.ts";
import {
  EMPTY,
  exists,
  Files,
  findProgram,
  measureMemory,
  run,
  taskOf,
} from "./program.ts";
import {
  isWanted,
  measure,
  type Options,
  type Result,
  type Row,
  type Section,
} from "./rows.ts";

const TITLE = "Gray images; of JPEGs ours takes the coded luma out, as " +
  "jpegtran does, while Pillow and sharp decode and encode";

/** Images of one kind. */
interface Kind {
  /** The name of their folder. */
  name: string;
  what: string;
  type: string;
  count: number;
  /** Both sides, in pixels. */
  side: number;
  /** How Pillow saves them. */
  save?: { quality: number; progressive?: boolean };
  /** What ours ÷ a peer shall be at most, in whole processes. */
  whole?: Record<string, number>;
  /** The same in pools that are warm; absent: that is not measured. */
  warm?: Record<string, number>;
}

const KINDS: Kind[] = [
  {
    ...{ name: "baseline", what: "JPEGs of 6.5 MP", type: "jpg" },
    ...{ count: 48, side: 2560, save: { quality: 75 } },
    whole: { Pillow: 0.25 },
    warm: { Pillow: 0.14 },
  },
  {
    ...{
      name: "progressive",
      what: "progressive JPEGs of 6.5 MP",
      type: "jpg",
    },
    ...{ count: 48, side: 2560, save: { quality: 75, progressive: true } },
    warm: {},
  },
  {
    ...{ name: "one", what: "JPEG of 6.5 MP", type: "jpg" },
    ...{ count: 1, side: 2560, save: { quality: 75 } },
    whole: { "empty `deno run`": 2 },
  },
  {
    ...{ name: "png", what: "PNGs of 3.7 MP", type: "png" },
    ...{ count: 24, side: 1920 },
    whole: { Pillow: 0.2 },
    warm: {},
  },
  ...["tiff", "webp", "avif"].map((type) => ({
    ...{ name: type, what: `${type.toUpperCase()}s of 2 MP`, type },
    ...{ count: 100, side: 1414, whole: { sharp: 2 } },
  })),
  // Last: where thousands of files have just been deleted, ext4 takes up to half
  // a millisecond to make one.
  {
    ...{ name: "small", what: "JPEGs of 100 kB", type: "jpg" },
    ...{ count: 1000, side: 1150, save: { quality: 75 } },
    warm: {},
  },
];

/** How much memory many images may take, and a worker with a huge one, in MB. */
const MANY_MB = 130, HUGE_MB = 200;

/** How far a pixel may be off, on average, where images are coded anew. */
const TOLERANCE = 12;

/** Who takes part, and the images. */
interface Bench {
  options: Options;
  files: Files;
  /** Makes images, and judges what came out. */
  pillow: Peer;
  warm: Peer[];
  whole: Record<string, (from: string, to: string) => string[]>;
}

/** Measures the conversion of images. */
export async function measureImages(options: Options): Promise<Section> {
  await using peers = new AsyncDisposableStack();
  const start = async (name: string, command: string[]) =>
    peers.use(await Peer.start({ name, command, hint: NPM_HINT }));
  const given = [options.folder ?? "-", `${options.workers}`];
  let python = ["python3", inPeers("pillow.py"), ...given];
  let pillow = await start("Pillow", python);
  if (pillow.missing) { // Debian's is only seen by Debian's Python
    python = python.with(0, "/usr/bin/python3");
    pillow = await start("Pillow", python);
  }
  const node = ["node", inPeers("sharp.mjs"), ...given];
  const sharp = await start("sharp", node);
  const jpegtran = await findProgram(
    "jpegtran",
    ["jpegtran"],
    "-version",
    "apt install libjpeg-turbo-progs",
  );
  const contestants = [pillow, sharp, jpegtran];
  const { value: photographs } = await pillow.ask("photographs");
  const files = new Files(photographs ? "photographs" : "drawings", options);
  const { notes } = files;
  const results: Result[] = [];
  if (pillow.missing) {
    files.note("LEFT OUT: without Pillow there are no images");
  } else {
    if (!photographs) {
      files.note(
        "These are DRAWN images, as there are no photographs; to get some: " +
          "apt install lomiri-wallpapers-16.04 lomiri-wallpapers-20.04",
      );
    }
    const task = taskOf("grayscale");
    const program = [...task.slice(0, -1), inPeers("manyhands_images.ts"), "-"];
    const ours = (workers: number) => (from: string, to: string) => [
      ...[...task, from, "--out", to, "--quiet", `--workers=${workers}`],
    ];
    const bench: Bench = {
      ...{ options, files, pillow },
      warm: [
        await start("manyhands", [...program, `${options.workers}`]),
        ...[pillow, sharp].filter(({ missing }) => missing === undefined),
        await start("1 worker", [...program, "1"]),
        await start("sequential", [...program, "0"]),
      ],
      whole: {
        manyhands: ours(options.workers),
        Pillow: (from, to) => [...python, "convert", from, to],
        ...!sharp.missing &&
          { sharp: (from, to) => [...node, "convert", from, to] },
        ...!jpegtran.missing && { jpegtran: jpegtrans(options.workers) },
        "1 worker": ours(1),
        "empty `deno run`": () => EMPTY,
      },
    };
    using _ = onInterrupt(() => clear(files));
    for (const kind of KINDS) results.push(...await measureKind(kind, bench));
    results.push(...await measurePeaks(bench));
  }
  return { title: TITLE, contestants, notes, results };
}

/** A process of jpegtran for each image, as many side by side as workers. */
function jpegtrans(workers: number): (from: string, to: string) => string[] {
  const script = 'cd "$0" && ls | xargs -P "$2" -I {} ' +
    'jpegtran -grayscale -outfile "$1/{}" {}';
  return (from, to) => ["sh", "-c", script, from, to, `${workers}`];
}

async function measureKind(kind: Kind, bench: Bench): Promise<Result[]> {
  const { options, files, pillow } = bench;
  const { name, type, side, save = {}, whole = {}, warm } = kind;
  const count = Math.ceil(kind.count * options.percent / 100);
  const rows: Pick<Row, "what" | "entries">[] = [];
  const from = files.at(name);
  let outs = 0;
  const newOut = () => {
    const out = join(files.at("gray"), `${name}-${outs++}`);
    Deno.mkdirSync(out, { recursive: true });
    return out;
  };
  rows.push({
    what: `${count} ${kind.what}, whole process`,
    entries: Object.entries(bench.whole)
      .filter(([name]) => name !== "jpegtran" || type === "jpg")
      .filter(([name]) => name !== "1 worker" || warm !== undefined)
      .filter(([name]) => !name.startsWith("empty") || name in whole)
      .map(([name, words]) => ({
        name,
        aim: whole[name],
        isFloor: name.startsWith("empty"),
        run: async () => {
          const value = newOut();
          return { ...await run(words(from, value)), value };
        },
      })),
  });
  if (warm) {
    rows.push({
      what: `${count} ${kind.what}, warm`,
      entries: bench.warm.map((peer) => ({
        name: peer.name,
        aim: warm[peer.name],
        run: async () => {
          const value = newOut();
          return { ...await peer.ask("convert", from, value), value };
        },
      })),
    });
  }
  const results: Result[] = [];
  for (const row of rows.filter(({ what }) => isWanted(what, options))) {
    const make = async (path: string) =>
      must(await pillow.ask("make", path, type, count, side, save));
    if (!await files.make(name, 3 * count * side * side, make)) break;
    const check = checkOf(type, from, pillow);
    results.push(await measure({ ...row, check }, options));
    clear(files);
  }
  return results;
}

/** Compares what came out with the luma of what went in, as Pillow decodes it. */
function checkOf(type: string, from: string, pillow: Peer): Row["check"] {
  const isExact = (name: string) =>
    type === "png" && name !== "sharp" ||
    type === "jpg" && name !== "sharp" && name !== "Pillow";
  return async (out, name) => {
    if (name.startsWith("empty")) return;
    const { value, error } = await pillow.ask("compare", from, out);
    if (error !== undefined) return error;
    const [most, mean] = value as [most: number, mean: number];
    if (mean <= (isExact(name) ? 0 : TOLERANCE)) return;
    return `a pixel differs by ${mean.toFixed(2)} on average, ${most} at most`;
  };
}

/** The memory of a process with many images, and with huge ones. */
async function measurePeaks(bench: Bench): Promise<Result[]> {
  const { options, files, pillow, whole } = bench;
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
  const rows = [
    ["ten times as many JPEGs of 100 kB", "many", MANY_MB, links],
    [`PNG of ${side} × ${side}, RGB`, "rgb.png", HUGE_MB, huge(8, 3)],
    [
      `PNG of ${side} × ${side}, RGBA, 16 bits`,
      "rgba.png",
      HUGE_MB,
      huge(16, 4),
    ],
  ] as const;
  const results: Result[] = [];
  for (const [title, name, most, make] of rows) {
    const what = `memory: ${title}`;
    if (!isWanted(what, options)) continue;
    if (name === "many" && !exists(files.at("small"))) continue;
    if (!await files.make(name, 1e7, make)) continue;
    const words = whole.manyhands(files.at(name), files.at("gray"));
    results.push(await measureMemory(what, words, most, options));
    clear(files);
  }
  return results;
}

function must({ error }: { error?: string }): void {
  if (error !== undefined) throw new Error(error);
}

/** Removes the gray images. */
function clear(files: Files): void {
  const path = files.at("gray");
  if (exists(path)) Deno.removeSync(path, { recursive: true });
}
