/**
 * `deno task grayscale`: turns images gray.
 *
 * @module
 */

import { Pool, sequential } from "../mod.ts";
import { service } from "../workers/grayscale.ts";
import { causeOf } from "../workers/shared/files.ts";
import { commandLine, type Flags, readFlags, UsageError } from "./cli/flags.ts";
import { onInterrupt, runTask } from "./cli/program.ts";
import { print, Progress } from "./cli/terminal.ts";
import {
  CLUSTER_HELP,
  CLUSTER_NUMBERS,
  CLUSTER_TEXTS,
  confine,
  loadCluster,
  withVariable,
} from "./cluster/flags.ts";
import { type Batch, findBatch, makeBatch } from "./grayscale/batch.ts";
import {
  conversionsOf,
  ENDINGS,
  isTarget,
  permissionsFor,
  TemporaryFiles,
} from "./grayscale/plan.ts";

const HELP = `Turns images gray: JPEG, PNG, WebP, GIF, TIFF, BMP and AVIF.

Usage: deno task grayscale [FLAG]… [PATH]…

PATH is a file, a folder (searched to the bottom; links in it are not followed,
and what is no image is left alone) or a glob. Without any, ten images are made
and converted, sequentially and in parallel, and what the parallelism brought
goes into reports/grayscale.md.

      --out DIR       where the gray images go (default: gray), laid out as
                      the images are below the folder that they have in common
      --to FORMAT     what the gray images are: jpeg, png, webp, tiff or avif
                      (default: what each image is); so also HEIC and JPEG XL
                      can be converted
      --quality N     from 1 to 100, where the format has one (default: that of
                      the image as far as it is known, or 85)
      --force         convert also what has an up-to-date gray image already
      --salvage       convert also what is truncated or damaged (no AVIF): gray
                      for missing rows, and a line says how many are there
      --max-pixels N  refuse larger images (default 268000000)
      --compare       convert all of them sequentially as well, and report
      --simulate      the original exercise: ten images that take a second each;
                      the job itself prints a line for each of them
      --include GLOB  only images of this name; with a slash: of this path below
                      what was named; may be given several times: any of them
      --exclude GLOB  no such image, and no such folder with all that is in it
      --json          a line of JSON per image, as it is done: path, and out,
                      bytes, warning; or error; or out and skipped
${CLUSTER_HELP}      --workers N     how many workers convert (default: one per core; 10
                      with --simulate, which needs none); one JPEG needs none
  -q, --quiet         print nothing, not even with --json, but errors, and the
                      job's own lines in --simulate
  -h, --help          show this

Exit status: 0 when every image was converted, 1 when some were not, 2 on wrong
usage and when nothing could be done at all, 130 when interrupted.
`;

/**
 * Not literals: Deno reads a module with all that it imports at each start of a
 * program in which its name stands.
 */
const COMPARE = "./grayscale/compare.ts", EXERCISE = "./grayscale/exercise.ts";

async function main(args: string[]): Promise<number> {
  const flags = readFlags(withVariable(args), {
    boolean: ["force", "salvage", "compare", "simulate", "json"],
    text: ["out", "to", ...CLUSTER_TEXTS],
    list: ["include", "exclude"],
    number: { "max-pixels": 1, quality: 1, ...CLUSTER_NUMBERS },
    paths: true,
  });
  if (flags.is.help) return print(HELP), 0;
  confine(flags);
  checkTarget(flags);
  const { paths, is: { compare, simulate } } = flags;
  if (simulate && paths.length > 0) {
    throw new UsageError("--simulate takes no paths");
  }
  if (simulate && flags.text.redis !== undefined) {
    throw new UsageError("--simulate is done on this machine, without --redis");
  }
  for (const name of ["include", "exclude"]) {
    if (flags.list[name].length > 0 && paths.length === 0) {
      throw new UsageError(`--${name} needs a path to search`);
    }
  }
  if (simulate) {
    const { runExercise }: typeof import("./grayscale/exercise.ts") =
      await import(EXERCISE);
    return await runExercise(flags);
  }
  const batch = paths.length > 0
    ? await findBatch(flags)
    : await makeBatch(flags);
  if (paths.length > 0 && !compare) return await convert(batch);
  const { compareConversions }: typeof import("./grayscale/compare.ts") =
    await import(COMPARE);
  return await compareConversions(batch, commandLine("grayscale", args));
}

/** Checks what the gray images are to be. */
function checkTarget({ text, number }: Flags): void {
  const { to } = text, { quality } = number;
  if (to !== undefined && !isTarget(to)) {
    const all = Object.keys(ENDINGS).join(", ");
    throw new UsageError(`--to must be one of ${all}, not '${to}'`);
  }
  if (quality !== undefined && quality > 100) {
    throw new UsageError(`--quality must be at most 100, not '${quality}'`);
  }
  if (quality !== undefined && (to === "png" || to === "tiff")) {
    throw new UsageError(`--quality: ${to} has none`);
  }
}

/** Converts a batch in parallel and says how it went. */
async function convert(batch: Batch): Promise<number> {
  const { flags } = batch;
  const start = performance.now();
  const { workers: size } = flags.number;
  const permissions = permissionsFor(batch);
  const remote = flags.text.redis === undefined
    ? undefined
    : await loadCluster();
  const cluster = await remote?.startCluster(flags, "grayscale", service, {
    permissions,
  });
  const runner = cluster ??
    (batch.isLittle
      ? sequential(service)
      : new Pool(service, { size, permissions }));
  const temporaryFiles = new TemporaryFiles();
  // Done first at Ctrl-C: nobody may write any more when files are removed.
  onInterrupt(() => runner.terminate());
  const progress = new Progress("images", flags.is.quiet);
  /** The names of the images under way; outcomes come in the same order. */
  const names: string[] = [];
  const conversions = function* () {
    for (const { name, ...files } of conversionsOf(batch, temporaryFiles)) {
      progress.expect(batch.size);
      names.push(name);
      yield files;
    }
  };
  const outcomes = runner.imap("grayscaleFile", conversions(), {
    settle: true,
  });
  for await (const outcome of outcomes) {
    const name = names.shift()!;
    if (outcome.status === "rejected") {
      batch.addFailed(name, causeOf(outcome.reason));
    } else {
      const { out, bytes, warning } = outcome.value;
      batch.addConverted(name, out, bytes, warning);
    }
    progress.step();
  }
  await progress.stop();
  await runner.terminate();
  const seconds = ((performance.now() - start) / 1000).toFixed(2);
  if (cluster) batch.addMachines(cluster.work);
  const work = cluster ? remote!.workText(cluster.work) : "";
  return batch.print(`${batch.summary(` in ${seconds} s`)}\n${work}`);
}

if (import.meta.main) await runTask("grayscale", main);
