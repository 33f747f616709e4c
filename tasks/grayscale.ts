/**
 * `deno task grayscale`: turns images gray.
 *
 * @module
 */

import { basename } from "@std/path/basename";
import { dirname } from "@std/path/dirname";
import { join } from "@std/path/join";
import { relative } from "@std/path/relative";
import { resolve } from "@std/path/resolve";
import { Pool, type Runner, sequential } from "../mod.ts";
import {
  causeOf,
  clearTemporary,
  folderOf,
  isTemporary,
} from "../workers/shared/files.ts";
import { type GrayJobs, service } from "../workers/grayscale.ts";
import { commandLine, type Flags, readFlags, UsageError } from "./cli/flags.ts";
import {
  findFiles,
  projectFolder,
  shownPath,
  totalSize,
  userFolder,
} from "./cli/paths.ts";
import { onInterrupt, runTask, Turns } from "./cli/program.ts";
import {
  count,
  flush,
  print,
  printable,
  Progress,
  warn,
} from "./cli/terminal.ts";
import type { Work } from "./report.ts";

const HELP = `Turns images gray: JPEG, PNG, WebP, GIF, TIFF, BMP and AVIF.

Usage: deno task grayscale [FLAG]… [PATH]…

PATH is a file, a folder (searched to the bottom; links in it are not followed)
or a glob. Without any, ten images are made and converted, sequentially and in
parallel, and what the parallelism brought goes into reports/grayscale.md.

      --out DIR       where the gray images go (default: gray), laid out as
                      the images are below the folder that they have in common
      --force         convert also what has an up-to-date gray image already
      --max-pixels N  refuse larger images (default 268000000)
      --compare       convert all of them sequentially as well, and report
      --simulate      the original exercise: ten images that take a second each;
                      the job itself prints a line for each of them
      --json          an array with an object per image
      --workers N     how many workers convert (default: one per core;
                      10 for --simulate, as sleepers need no core)
  -q, --quiet         print nothing, not even with --json, but errors, and the
                      job's own lines in --simulate
  -h, --help          show this

Exit status: 0 when every image was converted, 1 when some were not, 2 on wrong
usage and when nothing could be done at all, 130 when interrupted.
`;

async function main(args: string[]): Promise<number> {
  const flags = readFlags(args, {
    boolean: ["force", "compare", "simulate", "json"],
    text: ["out"],
    number: { "max-pixels": 1 },
    paths: true,
  });
  if (flags.is.help) return print(HELP), 0;
  const { paths, is: { compare, simulate } } = flags;
  if (simulate && paths.length > 0) {
    throw new UsageError("--simulate takes no paths");
  }
  if (simulate) return await runExercise(flags);
  const batch = paths.length > 0 ? await find(flags) : await demo(flags);
  if (paths.length > 0 && !compare) return await convert(batch);
  return await compareConversions(batch, commandLine("grayscale", args));
}

// What is to be done

/** An image and where its gray one goes. */
export interface Order {
  /** The image. */
  path: string;
  /** The gray one. */
  out: string;
  /** How large an image may be, in pixels. */
  maxPixels?: number;
}

/** An image that was found. */
interface Image {
  path: string;
  /** What to call it: as the user named it. */
  name: string;
}

/** All that one run has to do, and how it went so far. */
interface Batch {
  flags: Flags;
  images: Image[];
  /** The folders that were named, or that named files are in. */
  folders: Set<string>;
  /** The folder that the gray images are under. */
  out: string;
  converted: number;
  skipped: number;
  /** Those that would have replaced an input; they are failed, too. */
  refused: number;
  failed: number;
  /** For `--json`. */
  objects: unknown[];
}

function newBatch(flags: Flags, out: string): Batch {
  return {
    flags,
    images: [],
    folders: new Set(),
    out,
    converted: 0,
    skipped: 0,
    refused: 0,
    failed: 0,
    objects: [],
  };
}

/** The ten images that are made where none are named. */
async function demo(flags: Flags): Promise<Batch> {
  const { quiet } = flags.is;
  const { makeFixtures } = await import("./fixtures.ts");
  const out = join(projectFolder, "fixtures", "gray");
  const { images } = await makeFixtures({ images: 10, keep: true, quiet });
  const batch = newBatch(flags, out);
  for (const path of images) {
    batch.images.push({ path, name: basename(path) });
    batch.folders.add(dirname(path));
  }
  return batch;
}

/** What was named. */
async function find(flags: Flags): Promise<Batch> {
  const out = resolve(userFolder, flags.text.out ?? "gray");
  const batch = newBatch(flags, out);
  // Neither what an earlier run made nor what a killed one left.
  const skip = (path: string) => path === out || isTemporary(basename(path));
  const found = findFiles(flags.paths, skip);
  for await (const { path, name, base, error } of found) {
    if (error !== undefined) {
      fail(batch, name, error);
      continue;
    }
    batch.images.push({ path, name });
    batch.folders.add(base);
  }
  return batch;
}

/**
 * What is to be done of a batch, one by one, as it is asked for: for 10,000
 * images a list took a third of a second, before the first one was begun. What
 * is not to be done is told of.
 */
function* ordersOf(
  batch: Batch,
  clear: Clearing,
): Generator<Order & Image, void, void> {
  const { flags, images, folders, out } = batch;
  const base = commonFolder([...folders]);
  const maxPixels = flags.number["max-pixels"];
  const redo = flags.is.force || flags.is.compare || flags.paths.length === 0;
  let inputs: Set<string> | undefined; // of use where an output is there
  for (const { path, name } of images) {
    const target = join(out, relative(base, path)), old = infoOf(target);
    inputs ??= old && new Set(images.map(({ path }) => identityOf(path)));
    if (old && inputs!.has(identityOf(target, old))) {
      batch.refused++;
      const isOwn = identityOf(path) === identityOf(target, old);
      const which = isOwn ? "the input" : "another input";
      fail(batch, name, `the output would replace ${which}`);
      continue;
    }
    clear.around(target);
    if (!redo && old && isNewer(old, infoOf(path))) {
      batch.skipped++;
      tell(batch, { path: name, out: shownPath(target), skipped: true });
    } else yield { path, out: target, maxPixels, name };
  }
}

/** Whether a file is newer than another one, which may be gone meanwhile. */
function isNewer(file: Deno.FileInfo, than?: Deno.FileInfo): boolean {
  return file.isFile && than !== undefined && file.mtime! > than.mtime!;
}

/** Not async: of 10,000 images the promises alone took half a second. */
function infoOf(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(path);
  } catch {
    return; // not there yet, or about to be reported
  }
}

/** Tells a file from others whatever it is called: there may be links. */
function identityOf(path: string, info = infoOf(path)): string {
  return info?.ino ? `${info.dev} ${info.ino}` : path;
}

/** The lowest folder that all of them are in, or that they all are. */
function commonFolder(folders: string[]): string {
  let [common = userFolder] = folders;
  for (const folder of folders) {
    while (/^\.\.(?![^/\\])/.test(relative(common, folder))) {
      common = dirname(common);
    }
  }
  return common;
}

// Doing it

/** Converts a batch in parallel and says how it went. */
async function convert(batch: Batch): Promise<number> {
  const { flags, images } = batch;
  const start = performance.now();
  const { workers: size } = flags.number;
  const permissions = permissionsFor(batch);
  const pool = new Pool(service, { size, permissions });
  const clear = new Clearing();
  onInterrupt(() => pool.terminate()); // first: nobody writes any more
  const progress = new Progress("images", flags.is.quiet);
  /** What is under way. */
  const names: string[] = [];
  const orders = function* () {
    for (const { name, ...order } of ordersOf(batch, clear)) {
      progress.expect(images.length - batch.skipped - batch.refused);
      names.push(name);
      yield order;
    }
  };
  const outcomes = pool.imap("grayscaleFile", orders(), { settle: true });
  for await (const outcome of outcomes) {
    const name = names.shift()!;
    if (outcome.status === "rejected") {
      fail(batch, name, causeOf(outcome.reason));
    } else {
      batch.converted++;
      const out = shownPath(outcome.value.out);
      tell(batch, { ...outcome.value, path: name, out });
    }
    progress.step();
  }
  await progress.stop();
  await pool.terminate();
  const seconds = ((performance.now() - start) / 1000).toFixed(2);
  return finish(batch, `${summary(batch)} in ${seconds} s\n`);
}

/** Deno looks through all paths at each access: 0.1 µs for each. */
const PATHS_MAX = 16;

/**
 * What a worker may do that opens images which nobody vouches for: read these,
 * where they are many what is in their folders, where those are many what is in
 * the one that they have in common; and write what it makes.
 *
 * @param batch The images, the folders that were named, and the one for results
 * @returns The permissions; all that are not there are withheld
 */
export function permissionsFor(
  { images, folders, out }: {
    images: Pick<Image, "path">[];
    folders: Iterable<string>;
    out: string;
  },
): { read: string[]; write: string[] } {
  const named = [...folders];
  const read = images.length <= PATHS_MAX
    ? images.map(({ path }) => path)
    : named.length <= PATHS_MAX
    ? named
    : [commonFolder(named)];
  return { read: [...read, out], write: [out] };
}

/** Keeps what --json prints; else 10,000 objects would be held for nobody. */
function tell({ flags, objects }: Batch, object: unknown): void {
  if (flags.is.json) objects.push(object);
}

/** Prints how it went, as the flags want it; gives the exit status. */
function finish({ flags, objects, failed }: Batch, text: string): number {
  const { quiet, json } = flags.is;
  if (!quiet) print(json ? `${JSON.stringify(objects, null, 2)}\n` : text);
  return failed > 0 ? 1 : 0;
}

function fail(batch: Batch, name: string, error: string): void {
  batch.failed++;
  tell(batch, { path: name, error });
  warn(`${printable(name, Deno.stderr)}: ${error}`);
}

function summary({ converted, failed, skipped, out }: Batch): string {
  const parts = [
    `${count(converted, "images")} converted into ${shownPath(out)}`,
  ];
  if (failed > 0) parts.push(`${failed} failed`);
  if (skipped > 0) parts.push(`${skipped} up to date`);
  return parts.join(", ");
}

/** Clears what killed runs left, and at Ctrl-C what this one would leave. */
class Clearing {
  readonly #folders = new Set<string>();

  constructor() {
    onInterrupt(() => {
      for (const folder of this.#folders) clearTemporary(folder, true);
    });
  }

  /** Clears the folder of a file that is to be written, or was before. */
  around(path: string): void {
    const folder = folderOf(path);
    if (this.#folders.has(folder)) return;
    this.#folders.add(folder);
    clearTemporary(folder);
  }
}

// What parallelism brings

/** Converts a batch sequentially and in parallel, and reports on that. */
async function compareConversions(
  batch: Batch,
  command: string,
): Promise<number> {
  const { flags } = batch;
  // Loaded on first need: most runs compare nothing, and start sooner.
  const report = await import("./report.ts");
  const nothing = () =>
    finish(batch, `${summary(batch)}: nothing to compare\n`);
  const orders = [...ordersOf(batch, new Clearing())];
  if (orders.length === 0) return nothing();
  const work = await grayscaleWork(orders, permissionsFor(batch));
  const workers = flags.number.workers ?? navigator.hardwareConcurrency;
  const comparison = await report.compare(work, workers, flags.is.quiet)
    .catch((error) => {
      if (!(error instanceof report.AllFailedError)) throw error;
    });
  note(batch, orders, work.failures);
  if (!comparison) return nothing();
  const status = finish(
    batch,
    `${summary(batch)}\n\n${report.table(comparison)}\n${
      report.conclusion(comparison)
    }\n`,
  );
  const path = await report.writeReport(
    join(projectFolder, "reports", "grayscale.md"),
    report.render(
      "Grayscale",
      command,
      comparison,
      orders.map(({ name }) => basename(name)),
    ),
  );
  if (!flags.is.json && !flags.is.quiet) print(`\nReport: ${path}\n`);
  return status;
}

/** Notes for each order of a batch how it went. */
function note(
  batch: Batch,
  orders: (Order & Image)[],
  failures: Map<number, string>,
): void {
  for (const [i, { name, out }] of orders.entries()) {
    const failure = failures.get(i);
    if (failure !== undefined) fail(batch, name, failure);
    else {
      batch.converted++;
      tell(batch, { path: name, out: shownPath(out) });
    }
  }
}

/** The conversion of a batch, to be compared. */
export async function grayscaleWork(
  orders: Order[],
  permissions?: Deno.PermissionOptions,
): Promise<Work<GrayJobs> & { failures: Map<number, string> }> {
  const failures = new Map<number, string>();
  return {
    failures,
    service,
    permissions,
    items: orders.length,
    unit: "images",
    bytes: await totalSize(orders.map((order) => order.path)),
    run: async (runner, times) => {
      failures.clear();
      using turns = new Turns(); // for Ctrl-C, between images on this thread
      const many = Array.from({ length: times }, () => orders).flat();
      const outcomes = runner.imap("grayscaleFile", many, { settle: true });
      let index = 0;
      for await (const outcome of outcomes) {
        if (outcome.status === "rejected") {
          failures.set(index % orders.length, causeOf(outcome.reason));
        }
        index++;
        await turns.take();
      }
    },
    answer: () => digest(orders.map((order) => order.out), failures),
  };
}

/** One text for all that was written, and for what was not. */
async function digest(
  paths: string[],
  failures: Map<number, string>,
): Promise<string> {
  const parts: string[] = [];
  for (const [i, path] of paths.entries()) { // one at a time: they may be many
    const failure = failures.get(i);
    if (failure === undefined) {
      const bytes = await Deno.readFile(path);
      const hash = await crypto.subtle.digest("SHA-256", bytes);
      parts.push(new Uint8Array(hash).toHex());
    } else parts.push(failure);
  }
  return parts.join("\n");
}

// The original exercise

/** Ten images that take a second each: first in turn, then side by side. */
async function runExercise({ number, is }: Flags): Promise<number> {
  onInterrupt(() => {});
  const names = Array.from({ length: 10 }, (_, i) => `image_${i + 1}.jpg`);
  const workers = number.workers ?? 10;
  const run = async (title: string, runner: Runner<GrayJobs>) => {
    using turns = new Turns(); // for Ctrl-C
    if (!is.quiet) print(`${title}\n`), flush();
    const start = performance.now();
    for await (const done of runner.imap("applyGrayscale", names)) {
      if (!is.quiet) print(`${done}\n`), flush();
      await turns.take();
    }
    await runner.close();
    return (performance.now() - start) / 1000;
  };
  const one = await run("Sequentially:", sequential(service));
  const pool = new Pool(service, { size: workers });
  const many = await run(`\nIn parallel, ${workers} workers:`, pool);
  if (is.quiet) return 0;
  print(`
sequential: ${one.toFixed(2)} s
parallel:   ${many.toFixed(2)} s
speed-up:   ${(one / many).toFixed(2)}×

${
    many < one
      ? `${workers} workers took ${
        (100 * (1 - many / one)).toFixed(1)
      } % less ` +
        "time than one thread alone: sleeping needs no core, so they slept at " +
        "the same time."
      : "One worker sleeps no faster than one thread alone."
  }
`);
  return 0;
}

if (import.meta.main) await runTask("grayscale", main);
