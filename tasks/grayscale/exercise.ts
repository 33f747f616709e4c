/**
 * The original exercise: ten images that take a second each.
 *
 * @module
 */

import { Pool, type Runner, sequential } from "../../mod.ts";
import { type GrayJobs, service } from "../../workers/grayscale.ts";
import type { Flags } from "../cli/flags.ts";
import { onInterrupt, Yielder } from "../cli/program.ts";
import { flush, print } from "../cli/terminal.ts";

/** Pretends to convert ten images, which take a second each, in both ways. */
export async function runExercise({ number, is }: Flags): Promise<number> {
  onInterrupt(() => {});
  const names = Array.from({ length: 10 }, (_, i) => `image_${i + 1}.jpg`);
  const workers = number.workers ?? 10;
  const run = async (title: string, runner: Runner<GrayJobs>) => {
    using yielder = new Yielder(); // so that Ctrl-C is heard
    if (!is.quiet) print(`${title}\n`), flush();
    const start = performance.now();
    for await (const done of runner.imap("applyGrayscale", names)) {
      if (!is.quiet) print(`${done}\n`), flush();
      await yielder.yield();
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
