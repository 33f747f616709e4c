/**
 * `deno task logscan`: finds keywords in logs.
 *
 * @module
 */

import { join } from "@std/path/join";
import { Pool, sequential } from "../mod.ts";
import { queryError, scanLogs, service } from "../workers/logscan.ts";
import { clearTemporary, folderOf } from "../workers/shared/files.ts";
import { commandLine, type Flags, readFlags, UsageError } from "./cli/flags.ts";
import { findFiles, projectFolder } from "./cli/paths.ts";
import { onInterrupt, runTask } from "./cli/program.ts";
import { print, Progress, warn } from "./cli/terminal.ts";
import { Listing } from "./logscan/listing.ts";
import { Printer } from "./logscan/printer.ts";
import { logscanWork } from "./logscan/workload.ts";

const HELP =
  `Finds keywords in logs, also in those that gzip or zstd has compressed.

Keywords are searched as their UTF-8 bytes; in a file with a UTF-16 byte-order
mark, in that encoding.

Usage: deno task logscan [FLAG]… [PATH]…

PATH is a file, a folder (searched to the bottom; links in it are not followed),
a glob, or - for standard input. Keywords without a path are looked for in what
is piped in. Without either, ten logs are made and scanned, sequentially and in
parallel, and what the parallelism brought goes into reports/logscan.md.

  -k, --keyword TEXT  what to look for, as it is (default: unauthorized access);
                      may be given several times: any of them counts
  -i, --ignore-case   take a to z for A to Z
      --count         how many lines have a keyword: PATH:COUNT
      --lines         the lines with a keyword: PATH:LINE:TEXT
      --json          an array with an object per file
      --compare       scan sequentially as well, and write the report
      --workers N     how many workers scan (default: one per core); with 1, or
                      where there is little to scan, none is started
  -q, --quiet         print nothing, not even with --json, but errors
  -h, --help          show this

Exit status: 0 when a keyword was found, 1 when not, 2 on any problem (but with
--quiet and a hit 0, at once), 130 when interrupted.
`;

async function main(args: string[]): Promise<number> {
  const flags = readFlags(args, {
    boolean: ["ignore-case", "count", "lines", "json", "compare"],
    list: ["keyword"],
    alias: { k: "keyword", i: "ignore-case" },
    paths: true,
  });
  if (flags.is.help) return print(HELP), 0;
  if (flags.is.count && flags.is.lines) {
    throw new UsageError("--count and --lines exclude each other");
  }
  await addInput(flags);
  if (flags.is.compare && flags.paths.includes("-")) {
    throw new UsageError("--compare reads twice, as standard input cannot be");
  }
  const printer = new Printer(flags);
  const problem = queryError(printer.options);
  if (problem) throw new UsageError(`--keyword: ${problem}`);
  onInterrupt(() => clearTemporary(join(projectFolder, "reports"), true));
  if (flags.paths.length > 0 && !flags.is.compare) await scan(printer);
  else await compareScans(printer, commandLine("logscan", args));
  return printer.status;
}

/** Adds standard input to the paths, where keywords have none. */
async function addInput({ paths, list: { keyword } }: Flags): Promise<void> {
  if (paths.length > 0 || keyword.length === 0) return;
  if (await isInputGiven()) paths.push("-");
  else {
    throw new UsageError(
      "nothing to search: name a path, or pipe something in (see --help)",
    );
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
    (name, error) => printer.printFailure(name, error),
  );
  await using runner =
    size === 1 || await listing.isLittle(options.keywords.length)
      ? sequential(service)
      : new Pool(service, { size, eager: true });
  const progress = new Progress("files", flags.is.quiet);
  const reports = scanLogs(runner, listing.paths(), {
    ...options,
    parts: flags.is.lines,
    regular: true,
  });
  for await (const report of reports) {
    await printer.printReport(report, listing.name);
    if (report.part) continue;
    listing.finish();
    progress.expect(listing.count);
    progress.step();
    if (printer.isDone) break;
  }
  await progress.stop();
  printer.end();
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
  const comparison = await compare(workload, workers, flags.is.quiet).catch(
    (error) => {
      if (!(error instanceof AllFailedError)) throw error;
      warn(`logscan: ${error.message}`);
    },
  );
  // The last run may have scanned all files several times; they are printed once.
  for (const [i, name] of names.entries()) {
    await printer.printReport(workload.reports[i], name);
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
  if (flags.paths.length === 0) {
    const { quiet } = flags.is;
    const { makeFixtures } = await import("./fixtures.ts");
    const { logs } = await makeFixtures({ logs: 10, keep: true, quiet });
    return { paths: logs, names: logs.map(lastPart) };
  }
  const paths: string[] = [];
  const names: string[] = [];
  for await (const { path, name, error } of findFiles(flags.paths)) {
    if (error !== undefined) printer.printFailure(name, error);
    else {
      paths.push(path);
      names.push(name);
    }
  }
  return { paths, names };
}

if (import.meta.main) await runTask("logscan", main);
