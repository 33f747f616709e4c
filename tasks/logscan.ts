/**
 * `deno task logscan`: finds keywords in logs.
 *
 * @module
 */

import { join } from "@std/path/join";
import { Pool, sequential } from "../mod.ts";
import { queryError, scanLogs, service } from "../workers/logscan.ts";
import { clearTemporary, folderOf } from "../workers/shared/files.ts";
import {
  CLUSTER_HELP,
  CLUSTER_NUMBERS,
  CLUSTER_TEXTS,
  confine,
  remotely,
  startCluster,
  withVariable,
  workText,
} from "./cluster/start.ts";
import { commandLine, type Flags, readFlags, UsageError } from "./cli/flags.ts";
import {
  findFiles,
  type FindOptions,
  projectFolder,
  readNames,
} from "./cli/paths.ts";
import { onInterrupt, runTask } from "./cli/program.ts";
import { print, Progress, warn } from "./cli/terminal.ts";
import type { MachineWork } from "./cluster/cluster.ts";
import { Listing } from "./logscan/listing.ts";
import { readKeywords } from "./logscan/keywords.ts";
import { Printer } from "./logscan/printer.ts";
import { logscanWork } from "./logscan/workload.ts";

const HELP =
  `Finds keywords in logs, also in those that gzip, zstd, bzip2, xz or lz4 has
compressed, and in the members of zip archives (ARCHIVE:MEMBER is their name).

Keywords are searched as their UTF-8 bytes; in UTF-16, which is noticed, and in
what --encoding names, as what they are there. Lines are printed in UTF-8 then.

Usage: deno task logscan [FLAG]… [PATH]…

PATH is a file, a folder (searched to the bottom; links in it are not followed),
a glob, or - for standard input. Keywords without a path are looked for in what
is piped in. Without either, ten logs are made and scanned, sequentially and in
parallel, and what the parallelism brought goes into reports/logscan.md.

  -k, --keyword TEXT  what to look for, as it is (default: unauthorized access);
                      may be given several times: any of them counts
  -f, --file FILE     keywords from a file, one a line, however many; - for
                      standard input
  -i, --ignore-case   ignore case, as Unicode's simple case folding has it
  -w, --word          whole words only: no letter, digit or underscore beside it
      --all           only lines with all of the keywords
      --without TEXT  only lines without it; may be given several times
      --files-from FILE  search the files that are named there, too, one a line;
                      - for standard input
  -0, --null          a NUL ends each name of --files-from, not a newline
      --include GLOB  only files of this name; with a slash: of this path below
                      what was named; may be given several times: any of them
      --exclude GLOB  no such file, and no such folder with all that is in it
      --encoding NAME  the character set of files without a byte-order mark, as
                      browsers name it: latin1, shift_jis, … (default: auto)
      --count         how many lines have a keyword: PATH:COUNT
      --lines         the lines with a keyword: PATH:LINE:TEXT
  -l, --files-with-matches  only the names of files with a keyword
  -m, --max-count N   no more than N lines of each file
      --json          a line of JSON per file: path, found, count, bytes, hits,
                      error; with --lines per hit: path, line, offset, length,
                      keywords, text, and base64 where text is not all of it
      --compare       scan sequentially as well, and write the report
${CLUSTER_HELP}      --workers N     how many workers scan (default: one per core); with 1, or
                      where there is little to scan, none is started
  -q, --quiet         print nothing, not even with --json, but errors
  -h, --help          show this

Exit status: 0 when a keyword was found, 1 when not, 2 on any problem (but with
--quiet and a hit 0, at once), 130 when interrupted.
`;

async function main(args: string[]): Promise<number> {
  const flags = readFlags(withVariable(args), {
    boolean: [
      ...["ignore-case", "count", "lines", "files-with-matches", "json"],
      ...["null", "compare", "word", "all"],
    ],
    text: ["files-from", "encoding", ...CLUSTER_TEXTS],
    list: ["keyword", "file", "without", "include", "exclude"],
    number: { "max-count": 1, ...CLUSTER_NUMBERS },
    alias: {
      ...{ k: "keyword", i: "ignore-case", l: "files-with-matches" },
      ...{ m: "max-count", 0: "null", f: "file", w: "word" },
    },
    paths: true,
  });
  if (flags.is.help) return print(HELP), 0;
  confine(flags);
  await addInput(flags);
  checkFlags(flags);
  await addKeywords(flags);
  const printer = new Printer(flags);
  const problem = queryError(printer.options);
  if (problem) throw new UsageError(`--keyword: ${problem}`);
  onInterrupt(() => clearTemporary(join(projectFolder, "reports"), true));
  if (isNamed(flags) && !flags.is.compare) await scan(printer);
  else await compareScans(printer, commandLine("logscan", args));
  return printer.status;
}

/** Whether the user named files. */
function isNamed({ paths, text }: Flags): boolean {
  return paths.length > 0 || text["files-from"] !== undefined;
}

/** Checks what flags say together. */
function checkFlags(flags: Flags): void {
  const { is, list, paths, text } = flags;
  const outputs = ["count", "lines", "files-with-matches"];
  const given = outputs.filter((name) => is[name]);
  if (is["files-with-matches"] && is.json) given.push("json");
  if (given.length > 1) {
    throw new UsageError(`--${given[0]} and --${given[1]} exclude each other`);
  }
  if (is.compare && paths.includes("-")) {
    throw new UsageError("--compare reads twice, as standard input cannot be");
  }
  const inputs = [...paths, ...list.file, text["files-from"]];
  if (inputs.filter((name) => name === "-").length > 1) {
    throw new UsageError("standard input (-) can be read only once");
  }
  if (is.null && text["files-from"] === undefined) {
    throw new UsageError("--null is of use with --files-from only");
  }
  for (const name of ["include", "exclude"]) {
    if (list[name].length > 0 && !isNamed(flags)) {
      throw new UsageError(`--${name} needs a path to search`);
    }
  }
}

/** Which files the user means besides those that are named. */
function findOptions({ list, text, is }: Flags): FindOptions {
  const { include, exclude } = list;
  const from = text["files-from"];
  const names = from === undefined ? undefined : readNames(from, is.null);
  return { include, exclude, list: names };
}

/** Adds standard input to the paths, where keywords have none. */
async function addInput(flags: Flags): Promise<void> {
  const { keyword, file } = flags.list;
  if (isNamed(flags) || keyword.length + file.length === 0) return;
  if (!file.includes("-") && await isInputGiven()) flags.paths.push("-");
  else {
    throw new UsageError(
      "nothing to search: name a path, or pipe something in (see --help)",
    );
  }
}

/** Adds the keywords of files. */
async function addKeywords({ list: { keyword, file } }: Flags): Promise<void> {
  for (const name of new Set(file)) {
    for (const each of await readKeywords(name)) keyword.push(each);
  }
  if (file.length > 0 && keyword.length === 0) {
    throw new UsageError(`--file ${file[0]}: there is no keyword in it`);
  }
}

/** Whether standard input is a pipe or a file, not a terminal or /dev/null. */
async function isInputGiven(): Promise<boolean> {
  if (Deno.stdin.isTerminal()) return false;
  const { fstatSync } = await import("node:fs"); // Deno cannot tell
  return !fstatSync(0).isCharacterDevice();
}

/** Scans the files that the user named, while more of them are being found. */
async function scan(printer: Printer): Promise<void> {
  const { flags, options } = printer;
  const size = flags.number.workers ?? navigator.hardwareConcurrency;
  const listing = new Listing(
    flags.paths,
    findOptions(flags),
    (name, error) => printer.printMissing(name, error),
  );
  const cluster = flags.text.redis === undefined
    ? undefined
    : await startCluster(flags, "logscan", service);
  await using runner = cluster ??
    (size === 1 || await listing.isLittle(options.keywords.length)
      ? sequential(service)
      : new Pool(service, { size, eager: true }));
  const progress = new Progress("files", flags.is.quiet);
  const reports = scanLogs(runner, listing.paths(), {
    ...options,
    parts: flags.is.lines,
    regular: true,
  });
  for await (const report of reports) {
    await printer.printReport(report, listing.name);
    if (printer.isDone) break;
    if (report.part || report.member !== undefined) continue;
    listing.finish();
    progress.expect(listing.count);
    progress.step();
  }
  await progress.stop();
  printer.end();
  if (cluster) sayWork(flags, cluster.work);
}

/** Says what each machine did: on stdout only to a program that reads JSON. */
function sayWork({ is: { quiet, json } }: Flags, work: MachineWork[]): void {
  if (quiet) return;
  if (json) print(`${JSON.stringify({ machines: work })}\n`);
  else workText(work).trim().split("\n").forEach((line) => line && warn(line));
}

/** Scans sequentially and in parallel, and reports on that. */
async function compareScans(printer: Printer, command: string): Promise<void> {
  const { flags, options } = printer;
  const { paths, names } = await findLogs(printer);
  if (paths.length === 0) return printer.end();
  const { AllFailedError, compare } = await import("./report/measure.ts");
  const { conclusion, render, table, writeReport } = await import(
    "./report/markdown.ts"
  );
  const workload = await logscanWork(paths, options);
  const workers = flags.number.workers ?? navigator.hardwareConcurrency;
  const comparison = await compare(
    workload,
    workers,
    flags.is.quiet,
    remotely(flags, "logscan", service),
  ).catch((error) => {
    if (!(error instanceof AllFailedError)) throw error;
    warn(`logscan: ${error.message}`);
  });
  // The last run may have scanned all files several times; they are printed once.
  for (const [i, name] of names.entries()) {
    for (const report of workload.reports[i]) {
      await printer.printReport(report, name);
    }
  }
  printer.end();
  if (!comparison) return;
  const silent = flags.is.quiet || flags.is.json;
  if (!silent) print(`\n${table(comparison)}\n${conclusion(comparison)}\n`);
  const path = await writeReport(
    join(projectFolder, "reports", "logscan.md"),
    render("Log scan", command, comparison, []),
  );
  if (!silent) print(`\nReport: ${path}\n`);
}

const lastPart = (path: string) => path.slice(folderOf(path).length);

/** The files that the user named; the fixtures if there are none. */
async function findLogs(
  printer: Printer,
): Promise<{ paths: string[]; names: string[] }> {
  const { flags } = printer;
  if (!isNamed(flags)) {
    const { quiet } = flags.is;
    const { makeFixtures } = await import("./fixtures.ts");
    const { logs } = await makeFixtures({ logs: 10, keep: true, quiet });
    return { paths: logs, names: logs.map(lastPart) };
  }
  const paths: string[] = [];
  const names: string[] = [];
  const found = findFiles(flags.paths, findOptions(flags));
  for await (const { path, name, error } of found) {
    if (error !== undefined) printer.printMissing(name, error);
    else {
      paths.push(path);
      names.push(name);
    }
  }
  return { paths, names };
}

if (import.meta.main) await runTask("logscan", main);
