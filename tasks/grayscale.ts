/**
 * `deno task grayscale`: turns images gray.
 *
 * @module
 */

import { basename } from "@std/path/basename";
import { join } from "@std/path/join";
import { Pool } from "../mod.ts";
import { service } from "../workers/grayscale.ts";
import { causeOf } from "../workers/shared/files.ts";
import { commandLine, readFlags, UsageError } from "./cli/flags.ts";
import { projectFolder, shownPath } from "./cli/paths.ts";
import { onInterrupt, runTask } from "./cli/program.ts";
import { print, Progress } from "./cli/terminal.ts";
import {
  type Batch,
  demo,
  fail,
  find,
  finish,
  type Image,
  summary,
  tell,
} from "./grayscale/batch.ts";
import { runExercise } from "./grayscale/exercise.ts";
import {
  Clearing,
  type Order,
  ordersOf,
  permissionsFor,
} from "./grayscale/orders.ts";
import { grayscaleWork } from "./grayscale/work.ts";

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

/** Converts a batch sequentially and in parallel, and reports on that. */
async function compareConversions(
  batch: Batch,
  command: string,
): Promise<number> {
  const { flags } = batch;
  // Loaded on first need: most runs compare nothing, and start sooner.
  const { AllFailedError, compare } = await import("./report/measure.ts");
  const report = await import("./report/markdown.ts");
  const nothing = () =>
    finish(batch, `${summary(batch)}: nothing to compare\n`);
  const orders = [...ordersOf(batch, new Clearing())];
  if (orders.length === 0) return nothing();
  const work = await grayscaleWork(orders, permissionsFor(batch));
  const workers = flags.number.workers ?? navigator.hardwareConcurrency;
  const comparison = await compare(work, workers, flags.is.quiet)
    .catch((error) => {
      if (!(error instanceof AllFailedError)) throw error;
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

if (import.meta.main) await runTask("grayscale", main);
