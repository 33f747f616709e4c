/**
 * `deno task bench`: the pool and both jobs beside others. See bench/README.md.
 *
 * @module
 */

import { join } from "@std/path/join";
import { resolve } from "@std/path/resolve";
import { measureCluster } from "./bench/cluster.ts";
import { measureImages } from "./bench/images.ts";
import { measureLogs } from "./bench/logscan.ts";
import { measurePool } from "./bench/pool.ts";
import {
  losses,
  type Options,
  raw,
  type Section,
  table,
} from "./bench/rows.ts";
import { commandLine, readFlags, UsageError } from "./cli/flags.ts";
import { projectFolder, userFolder } from "./cli/paths.ts";
import { onInterrupt, runTask } from "./cli/program.ts";
import { flush, print } from "./cli/terminal.ts";
import { commandBlock, environment, writeReport } from "./report/markdown.ts";

const HELP =
  `Measures the pool, the log scan and the images beside others, and machines.

Usage: deno task bench [FLAG]… [pool] [logscan] [images] [cluster]

Without a subject it measures all, which takes 8 GB of disk and, at times,
12 more. The result is reports/bench.md. How the others are installed, and what
the rows mean, is in tasks/bench/README.md.

  --peers DIR   where the peers of tasks/bench/peers.json are installed
  --runs N      how many rounds count, after one to warm up (default 9)
  --workers N   how many workers all have (default: one per core)
  --rows TEXT   only the rows that have this in their names
  --percent N   how much of the files to make (default 100): for a try
  --mod FILE    measure the pool of another mod.ts, beside this one
  -q, --quiet   print nothing
  -h, --help    show this
`;

const SUBJECTS: Record<string, (options: Options) => Promise<Section>> = {
  pool: measurePool,
  logscan: measureLogs,
  images: measureImages,
  cluster: measureCluster,
};

async function main(args: string[]): Promise<number> {
  const { is, number, text, paths } = readFlags(args, {
    text: ["peers", "rows", "mod"],
    number: { runs: 1, percent: 1 },
    paths: true,
  });
  if (is.help) return print(HELP), 0;
  const unknown = paths.find((name) => !Object.hasOwn(SUBJECTS, name));
  if (unknown !== undefined) {
    throw new UsageError(`no subject '${unknown}' (see --help)`);
  }
  onInterrupt(() => {}); // what is half made is made anew the next time
  const absolute = (path?: string) => path && resolve(userFolder, path);
  const options: Options = {
    folder: absolute(text.peers),
    mod: absolute(text.mod),
    rows: text.rows,
    runs: number.runs ?? 9,
    percent: Math.min(100, number.percent ?? 100),
    workers: number.workers ?? navigator.hardwareConcurrency,
    say: (text) => is.quiet || (print(`${text}\n`), flush()),
  };
  const sections: Section[] = [];
  for (const [name, measureSubject] of Object.entries(SUBJECTS)) {
    if (paths.length > 0 && !paths.includes(name)) continue;
    sections.push(await measureSubject(options));
  }
  const report = [
    `# Benchmark\n\n${environment()}\n`,
    `${commandBlock(commandLine("bench", args))}\n`,
    `${options.workers} workers; the answers of all were checked first, then `,
    `all took turns; medians of ${options.runs} rounds, or of fewer (but three) where `,
    `these took over three minutes. Below 1 ours is faster.\n`,
    ...sections.map(render),
  ].join("");
  options.say(`\n${report}`);
  const path = await writeReport(
    join(projectFolder, "reports", "bench.md"),
    `${report}\n## All rounds, in their order\n\n${
      sections.map(({ results }) => raw(results)).join("")
    }`,
  );
  options.say(`Report: ${path}`);
  const measured = sections.flatMap(({ results }) => results)
    .flatMap(({ measured }) => measured);
  return measured.some(({ error }) => error !== undefined) ? 1 : 0;
}

/** What came of a subject, in markdown. */
function render({ title, contestants, notes, results }: Section): string {
  const lines = contestants.map(({ name, version, missing }) =>
    `- ${name}: ${missing === undefined ? version : `MISSING, ${missing}`}\n`
  );
  return [
    `\n## ${title}\n\n${lines.join("")}\n`,
    ...notes.map((note) => `${note}.\n\n`),
    results.length > 0
      ? `${table(results)}\n${losses(results)}`
      : "Nothing was measured.\n",
  ].join("");
}

if (import.meta.main) await runTask("bench", main);
