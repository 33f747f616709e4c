/**
 * The part of `deno task bench` that measures the conversion of images beside
 * Pillow, sharp and jpegtran, where they are installed.
 *
 * @module
 */

import { join } from "@std/path/join";
import process from "node:process";
import { Pool, type Runner, sequential } from "../../mod.ts";
import { type GrayJobs, service } from "../../workers/grayscale.ts";
import { projectFolder } from "../cli/paths.ts";

/** How often all that does not take long is measured, for figures. */
const RUNS = 5;

/** What is converted. */
interface Photographs {
  name: string;
  title: string;
  count: number;
  /** Both sides, in pixels. */
  size: number;
  /** How Pillow saves them. */
  options: { quality?: number; progressive?: boolean };
}

/** Somebody who converts all images of a folder into another one. */
interface Contestant {
  name: string;
  /** Gives the time that it took, in ms. */
  convert(folder: string, out: string): Promise<number>;
}

/** A row: what was measured, and of whom. */
interface Row {
  what: string;
  unit: string;
  measured: Record<string, number>;
}

/** What the rows are made of. */
interface Bench {
  /** How often each is measured, after one time that is not counted. */
  runs: number;
  /** Where the images are, and where gray ones go. */
  folder: string;
  workers: number;
  python: Peer;
  pillow: string[];
  contestants: Contestant[];
  hasJpegtran: boolean;
  /** What is to be said of the answers. */
  notes: string[];
  say(text: string): void;
}

/**
 * Measures, and says what came of it.
 *
 * @param folder Where the images go that are converted: 1.3 GB of them, and 5 GB
 * of gray ones until it ends
 * @param scale The part of these that is enough, 1 for all
 * @param workers How many images are converted side by side
 * @param peers Where sharp is installed, if it is to be measured
 * @param say Told of what is going on
 * @returns A table in markdown; a sentence where nothing can be compared
 */
export async function compareImages(
  folder: string,
  scale: number,
  workers: number,
  peers: string | undefined,
  say: (text: string) => void,
): Promise<string> {
  const command = await findPillow();
  if (!command) {
    say("SKIPPED: images beside others; Python with Pillow is not installed");
    return "Python with Pillow is not installed: it makes the images.\n";
  }
  const pillow = [command, join(import.meta.dirname!, "peers", "pillow.py")];
  await using python = new Peer("Pillow", [...pillow, "serve", `${workers}`]);
  await using sharp = peers === undefined ? undefined : new Peer("sharp", [
    ...["node", join(import.meta.dirname!, "peers", "sharp.mjs")],
    ...[peers, `${workers}`],
  ]);
  const jpegtran = await versionOf("jpegtran", "-version");
  const sets = photographs(scale);
  folder = join(folder, `${sets.many.count}`);
  const permissions = { read: [folder], write: [folder] };
  await using pool = new Pool(service, { size: workers, permissions });
  const contestants: Contestant[] = [ours(pool), python];
  if (sharp) contestants.push(sharp);
  const runs = scale < 1 ? 1 : RUNS;
  const bench: Bench = {
    ...{ runs, folder, workers, python, pillow, contestants, say },
    hasJpegtran: jpegtran !== undefined,
    notes: [],
  };
  const versions = [await python.ask("version"), await sharp?.ask("version")];
  for (const set of Object.values(sets)) await make(bench, set);
  using _ = { [Symbol.dispose]: () => remove(join(folder, "gray")) };
  const rows = [
    await measureWarm(bench, sets.baseline),
    await measureWarm(bench, sets.progressive),
    await measureWarm(bench, sets.png),
    ...jpegtran ? [await measureCpu(bench, sets.baseline)] : [],
    ...await measureWhole(bench, sets.baseline, runs),
    ...await measureWhole(bench, sets.fewer, 1),
    ...await measureWhole(bench, sets.many, 1),
  ];
  if (!sharp) bench.notes.push("No sharp was measured: no `--peers DIR`.");
  if (!jpegtran) bench.notes.push("No jpegtran is installed.");
  const text = table(rows, ["manyhands", "Pillow", "sharp", "jpegtran"]);
  const used = [...versions, jpegtran].filter((version) => version);
  return `${introduction(workers, runs)}\n${text}\n${
    bench.notes.join(" ")
  }\n\n` +
    `Measured with ${used.join("; ")}.\n`;
}

/** Fewer are smaller, too: for a try, not for figures. */
function photographs(scale: number) {
  const part = (whole: number) => Math.max(1, Math.round(whole * scale));
  const side = (whole: number) => Math.round(whole * Math.sqrt(scale));
  const set = (
    name: string,
    kind: string,
    [count, size]: [number, number],
    options: Photographs["options"],
  ): Photographs => {
    const title = `${count} ${kind} of ${size}×${size}`;
    return { name, title, count, size, options };
  };
  const quality = 75, small = side(1150);
  const large: [number, number] = [part(48), side(2560)];
  const progressive = { quality, progressive: true };
  return {
    baseline: set("baseline", "JPEGs", large, { quality }),
    progressive: set("progressive", "progressive JPEGs", large, progressive),
    png: set("png", "PNGs", [part(24), side(1920)], {}),
    fewer: set("fewer", "JPEGs", [part(1000), small], { quality }),
    many: set("many", "JPEGs", [part(10_000), small], { quality }),
  };
}

// Who converts

/** A program that answers each line of JSON with another one. */
class Peer implements Contestant, AsyncDisposable {
  readonly name: string;
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #output: ReadableStreamDefaultReader<string>;
  #pending = "";

  constructor(name: string, [command, ...args]: string[]) {
    this.name = name;
    this.#child = new Deno.Command(command, {
      args,
      cwd: projectFolder,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#output = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
  }

  async convert(folder: string, out: string): Promise<number> {
    return (await this.#exchange("convert", folder, out)).ms;
  }

  async ask<T>(name: string, ...args: unknown[]): Promise<T> {
    return (await this.#exchange(name, ...args)).value as T;
  }

  async #exchange(
    ...words: unknown[]
  ): Promise<{ value: unknown; ms: number }> {
    const line = `${JSON.stringify(words)}\n`;
    await this.#input.write(new TextEncoder().encode(line));
    while (!this.#pending.includes("\n")) {
      const { value, done } = await this.#output.read();
      if (done) throw new Error(`${this.name} ended without an answer`);
      this.#pending += value;
    }
    const end = this.#pending.indexOf("\n");
    const answer = JSON.parse(this.#pending.slice(0, end));
    this.#pending = this.#pending.slice(end + 1);
    if (answer.error) throw new Error(`${this.name}: ${answer.error}`);
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.close().catch(() => {}); // it may have ended
    await this.#output.cancel();
    await this.#child.status;
  }
}

function ours(runner: Runner<GrayJobs>): Contestant {
  return {
    name: "manyhands",
    async convert(folder, out) {
      const began = performance.now();
      const orders = namesIn(folder).map((name) => ({
        path: `${folder}/${name}`,
        out: `${out}/${name}`,
      }));
      await runner.map("grayscaleFile", orders);
      return performance.now() - began;
    },
  };
}

function namesIn(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map(({ name }) => name);
}

/** A Python that has Pillow, if there is one. */
async function findPillow(): Promise<string | undefined> {
  for (const python of ["python3", "/usr/bin/python3"]) {
    const args = ["-c", "import PIL.Image"];
    const command = new Deno.Command(python, { args, stderr: "null" });
    const { success } = await command.output()
      .catch(() => ({ success: false }));
    if (success) return python;
  }
}

/** The first line that it prints about itself; nothing if it is not there. */
async function versionOf(
  command: string,
  flag: string,
): Promise<string | undefined> {
  try {
    const output = await new Deno.Command(command, { args: [flag] }).output();
    const decoder = new TextDecoder();
    const lines = decoder.decode(output.stdout) + decoder.decode(output.stderr);
    return `${command} of ${lines.split("\n")[0]}`;
  } catch {
    return;
  }
}

// What is measured

/** Makes the images that are not there yet, the same ones each time. */
async function make(
  { folder, python, say }: Bench,
  { name, title, count, size, options }: Photographs,
): Promise<void> {
  const path = join(folder, name);
  if (exists(path)) return;
  say(`Making ${title} …`);
  // Made under another name, so that half a set is not taken for one.
  remove(`${path}~`);
  const type = name === "png" ? "png" : "jpg";
  await python.ask("make", `${path}~`, type, count, size, options);
  Deno.renameSync(`${path}~`, path);
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

function remove(path: string): void {
  if (exists(path)) Deno.removeSync(path, { recursive: true });
}

let results = 0;

/**
 * A folder for gray images, a new one each time, and none is removed before the
 * end: where thousands of files have just been deleted, ext4 takes up to half a
 * millisecond to make one.
 */
function newOut({ folder }: Bench): string {
  return join(folder, "gray", `${Deno.pid}-${results++}`);
}

/** Pools that have been used before, with reading and writing. */
async function measureWarm(bench: Bench, set: Photographs): Promise<Row> {
  const { runs, folder, contestants, say } = bench;
  const from = join(folder, set.name);
  const outs: Record<string, string> = {};
  const times: Record<string, number[]> = {};
  for (const { name } of contestants) times[name] = [];
  for (let run = 0; run <= runs; run++) {
    for (const contestant of contestants) {
      const { name } = contestant, out = newOut(bench);
      if (run === 0) say(`${set.title}, ${name} …`);
      const ms = await contestant.convert(from, out);
      if (run === 0) outs[name] = out; // the warm-up
      else times[name].push(ms);
    }
    if (run === 0) await check(bench, set, outs);
  }
  return { what: set.title, unit: "ms", measured: medians(times) };
}

/** Compares what came out, before any time counts. */
async function check(
  bench: Bench,
  set: Photographs,
  outs: Record<string, string>,
): Promise<void> {
  const { folder, python, hasJpegtran, notes } = bench;
  const own = outs.manyhands;
  const compare = (other: string) =>
    python.ask<[most: number, mean: number]>("compare", own, other);
  const refuseAny = async (other: string) => {
    const [most] = await compare(other);
    if (most > 0) throw new Error(`${set.title}: the answers differ`);
  };
  if (set.name === "png") return await refuseAny(outs.Pillow);
  if (hasJpegtran) {
    const out = newOut(bench);
    await python.ask("jpegtran", join(folder, set.name), out);
    await refuseAny(out);
  }
  const [most, mean] = await compare(outs.Pillow);
  notes.push(
    `Of ${set.title} a pixel differs from Pillow's, which are decoded and ` +
      `coded anew, by ${mean.toFixed(2)} on average, ${most} at most.`,
  );
}

/** What one thread uses of a core, beside a process for each image. */
async function measureCpu(bench: Bench, set: Photographs): Promise<Row> {
  const { runs, folder, python, say } = bench;
  say(`${set.title}, CPU …`);
  const from = join(folder, set.name);
  const alone = ours(sequential(service));
  const times: Record<string, number[]> = { manyhands: [], jpegtran: [] };
  for (let run = 0; run <= runs; run++) {
    const before = process.cpuUsage().user;
    await alone.convert(from, newOut(bench));
    const used = (process.cpuUsage().user - before) / 1000 / set.count;
    const theirs = await python.ask<number>("jpegtran", from, newOut(bench));
    if (run === 0) continue; // the warm-up
    times.manyhands.push(used);
    times.jpegtran.push(theirs);
  }
  const what = `${set.title}, user CPU for one`;
  return { what, unit: "ms", measured: medians(times) };
}

/** Whole processes: how long they take, and how much memory. */
async function measureWhole(
  bench: Bench,
  set: Photographs,
  runs: number,
): Promise<Row[]> {
  const { folder, workers, python, pillow, say } = bench;
  const { command } = JSON.parse(
    Deno.readTextFileSync(join(projectFolder, "deno.json")),
  ).tasks.grayscale;
  const from = join(folder, set.name);
  const [, program] = command.split(" && "); // behind setup
  const commands: Record<string, (out: string) => string[]> = {
    manyhands: (out) => [
      ...[Deno.execPath(), ...program.split(" ").slice(1), from],
      ...["--out", out, "--workers", `${workers}`, "--quiet"],
    ],
    Pillow: (out) => [...pillow, "once", `${workers}`, from, out],
  };
  const times: Record<string, number[]> = { manyhands: [], Pillow: [] };
  const peaks: Record<string, number[]> = { manyhands: [], Pillow: [] };
  for (let run = 0; run < runs; run++) {
    for (const [name, command] of Object.entries(commands)) {
      say(`${set.title}, a whole process of ${name} …`);
      const out = newOut(bench);
      const [ms, peak] = await python.ask<number[]>("run", ...command(out));
      if (namesIn(out).length !== set.count) {
        throw new Error(`${set.title}: ${name} did not convert all of them`);
      }
      times[name].push(ms);
      peaks[name].push(peak / 1e6);
    }
  }
  const what = `${set.title}, whole process`;
  return [
    { what, unit: "ms", measured: medians(times) },
    { what: `${set.title}, memory`, unit: "MB", measured: medians(peaks) },
  ];
}

function medians(all: Record<string, number[]>): Record<string, number> {
  return Object.fromEntries(
    Object.entries(all).map(([name, values]) => [
      name,
      values.toSorted((a, b) => a - b)[values.length >> 1],
    ]),
  );
}

// What is told

const introduction = (workers: number, runs: number): string =>
  `Photographs made by Pillow, ${workers} at a time: in pools that have been
used before, with reading and writing, unless a row says "whole process". Pillow
does \`Image.open(path).convert("L").save(out, quality=85)\` in a
\`multiprocessing.Pool\`, sharp \`sharp(path).grayscale().jpeg({ quality: 85 })\`
with a thread for each image, jpegtran \`-grayscale\`. They take turns; medians of
${runs} after a warm-up; one run of the many small JPEGs. Memory is that of the
largest process: ours has but one. Behind each peer's figure: how many times ours it is, so that
below 1× the peer was better. The pixels were compared first: JPEGs as jpegtran
has them, PNGs as Pillow has them, to the bit.
`;

function table(rows: Row[], names: string[]): string {
  const head = ["", ...names];
  const cells = rows.map(({ what, unit, measured }) => [
    what,
    ...names.map((name) => {
      const value = measured[name], own = measured.manyhands;
      if (value === undefined) return "–";
      const text = `${value.toFixed(value < 100 ? 1 : 0)} ${unit}`;
      // Of few small images the CPU time is too short for the system's clock.
      if (value === own || own === 0) return text;
      return `${text} (${(value / own).toFixed(1)}×)`;
    }),
  ]);
  const rule = head.map((_, i) => i ? "-:" : "-");
  return [head, rule, ...cells].map((row) => `| ${row.join(" | ")} |\n`)
    .join("");
}
