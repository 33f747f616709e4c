/**
 * `deno task bench`: how both jobs scale with the number of workers.
 *
 * @module
 */

import { basename } from "@std/path/basename";
import { join } from "@std/path/join";
import { resolve } from "@std/path/resolve";
import type { Jobs } from "../mod.ts";
import { clearTemporary } from "../workers/shared/files.ts";
import type { GrayJobs } from "../workers/grayscale.ts";
import type { LogJobs } from "../workers/logscan.ts";
import { commandLine, type Flags, readFlags } from "./cli/flags.ts";
import { projectFolder, userFolder } from "./cli/paths.ts";
import { onInterrupt, runTask } from "./cli/program.ts";
import { flush, print } from "./cli/terminal.ts";
import { makeFixtures } from "./fixtures.ts";
import { grayscaleWork } from "./grayscale/workload.ts";
import { compareImages } from "./bench/images.ts";
import { logscanWork } from "./logscan/workload.ts";
import { comparePeers } from "./bench/logscan.ts";
import { measurePool } from "./bench/pool.ts";
import { losses, raw, table } from "./bench/rows.ts";
import {
  commandBlock,
  environment,
  scaling,
  scalingConclusion,
  scalingTable,
  writeReport,
} from "./report/markdown.ts";
import { compare, type Comparison, type Workload } from "./report/measure.ts";

const HELP =
  `Measures how both jobs scale: 12 images and 24 logs of 500,000 lines,
sequentially and with 1, 2, … N workers. Then the log scan runs beside ripgrep
and grep, where they are installed, on 5.3 GB of other logs, or less where the
logs are fewer or shorter; and the images beside Pillow, sharp and jpegtran, on
1.3 GB of photographs, or less where the images are fewer. Pillow makes these,
so it has to be installed. The result is reports/benchmark.md.

Usage: deno task bench [pool] [FLAG]…

  --images N    how many images (default 12)
  --logs N      how many logs (default 24)
  --lines N     how many lines a log has (default 500000)
  --peers DIR   where the peers of tasks/bench/peers.json are installed
  --runs N      how many rounds count, after one to warm up (default 9)
  --mod FILE    measure the pool of another mod.ts, beside this one
  --workers N   the most workers (default: one per core)
  -q, --quiet   print nothing
  -h, --help    show this
`;

const IMAGES = 12, LOGS = 24, LINES = 500_000;

async function main(args: string[]): Promise<number> {
  const { is, number, text, paths } = readFlags(args, {
    text: ["peers", "mod"],
    number: { images: 1, logs: 1, lines: 1, runs: 1 },
    paths: true,
  });
  if (is.help) return print(HELP), 0;
  const { quiet } = is;
  const say = (text: string) => quiet || (print(`${text}\n`), flush());
  if (paths.includes("pool")) return await pool(args, text, number, say);
  say("Making the fixtures …");
  const { conversions, scans } = await makeWork(number, quiet);
  const most = number.workers ?? navigator.hardwareConcurrency;
  const parts = [
    "# Benchmark\n",
    "Each row is the median of repeats, sequential and parallel runs in turns",
    "after a warm-up; the answers were the same to the byte.\n",
    "## Environment\n",
    `${environment()}\n${commandBlock(commandLine("bench", args))}`,
  ];
  for (
    const [title, measured] of [
      ["Grayscale", await measure(conversions, most, say, quiet)],
      ["Log scan", await measure(scans, most, say, quiet)],
    ] as const
  ) {
    parts.push(`## ${title}\n`, scalingTable(measured));
    parts.push(scaling(title, measured), `${scalingConclusion(measured)}\n`);
    say(`\n${title}\n\n${scalingTable(measured)}`);
    say(scalingConclusion(measured));
  }
  const { logs = LOGS, lines = LINES } = number;
  const peers = await comparePeers(
    join(projectFolder, "fixtures", "peers"),
    Math.min(1, logs * lines / (LOGS * LINES)),
    say,
  );
  parts.push(`## Log scan beside ripgrep and grep\n`, peers);
  say(`\nLog scan beside ripgrep and grep\n\n${peers}`);
  const images = await compareImages(
    join(projectFolder, "fixtures", "peers", "images"),
    Math.min(1, (number.images ?? IMAGES) / IMAGES),
    most,
    text.peers && resolve(userFolder, text.peers),
    say,
  );
  parts.push("## Grayscale beside Pillow, sharp and jpegtran\n", images);
  say(`\nGrayscale beside Pillow, sharp and jpegtran\n\n${images}`);
  const path = await writeReport(
    join(projectFolder, "reports", "benchmark.md"),
    parts.join("\n"),
  );
  say(`\nReport: ${path}`);
  return 0;
}

/** Measures the pool, and writes a report. */
async function pool(
  args: string[],
  text: Flags["text"],
  { runs = 9, workers = navigator.hardwareConcurrency }: Flags["number"],
  say: (text: string) => void,
): Promise<number> {
  const absolute = (path?: string) => path && resolve(userFolder, path);
  const { results, peers } = await measurePool({
    ...{ runs, workers, say },
    folder: absolute(text.peers),
    mod: absolute(text.mod),
  });
  const versions = peers.map(({ name, version, missing }) =>
    `- ${name}: ${missing === undefined ? version : `MISSING, ${missing}`}\n`
  );
  const report = [
    `# The pool\n\n${environment()}\n`,
    `${commandBlock(commandLine("bench", args))}\n`,
    `${versions.join("")}\n`,
    `${workers} workers; the answers of all were checked first, then all took `,
    `turns; medians of ${runs}. Below 1 ours is faster.\n\n`,
    `${table(results)}\n${losses(results)}`,
  ].join("");
  say(`\n${report}`);
  const path = await writeReport(
    join(projectFolder, "reports", "bench-pool.md"),
    `${report}\nAll rounds, in their order:\n\n${raw(results)}`,
  );
  say(`Report: ${path}`);
  return 0;
}

/** Makes the fixtures, and of them the work of both kinds. */
async function makeWork(
  { images = IMAGES, logs = LOGS, lines = LINES }: Flags["number"],
  quiet: boolean,
): Promise<{ conversions: Workload<GrayJobs>; scans: Workload<LogJobs> }> {
  const out = join(projectFolder, "fixtures", "bench");
  const gray = join(out, "gray");
  onInterrupt(() => clearTemporary(gray, true));
  const fixtures = await makeFixtures({ out, images, logs, lines, quiet });
  const orders = fixtures.images.map((path) => ({
    path,
    out: join(gray, basename(path)),
  }));
  return {
    conversions: await grayscaleWork(orders),
    scans: await logscanWork(fixtures.logs, { mode: "count" }),
  };
}

async function measure<J extends Jobs>(
  work: Workload<J>,
  most: number,
  say: (text: string) => void,
  quiet: boolean,
): Promise<Comparison[]> {
  const measured: Comparison[] = [];
  for (let workers = 1; workers <= most; workers++) {
    say(`${work.items} ${work.unit}, ${workers} of ${most} workers …`);
    measured.push(await compare(work, workers, quiet, false));
  }
  return measured;
}

if (import.meta.main) await runTask("bench", main);
