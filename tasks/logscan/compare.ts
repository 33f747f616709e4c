/**
 * Compares the scan on one thread with that of a pool.
 *
 * @module
 */

import { join } from "@std/path/join";
import { service } from "../../workers/logscan.ts";
import { findFiles, lastPart, projectFolder } from "../cli/paths.ts";
import { print, warn } from "../cli/terminal.ts";
import { remotely } from "../cluster/flags.ts";
import { makeFixtures } from "../fixtures.ts";
import { conclusion, render, table, writeReport } from "../report/markdown.ts";
import { AllFailedError, compare } from "../report/measure.ts";
import { findOptions, isNamed } from "./listing.ts";
import type { Printer } from "./printer.ts";
import { logscanWork } from "./workload.ts";

/**
 * Scans sequentially and in parallel, and reports on that.
 *
 * @param printer What the user wants, and who prints the reports of the files
 * @param command The command line, for the report
 */
export async function compareScans(
  printer: Printer,
  command: string,
): Promise<void> {
  const { flags, options } = printer;
  const { paths, names } = await findLogs(printer);
  if (paths.length === 0) return printer.end();
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

/** The files that the user named; the fixtures if there are none. */
async function findLogs(
  printer: Printer,
): Promise<{ paths: string[]; names: string[] }> {
  const { flags } = printer;
  if (!isNamed(flags)) {
    const { quiet } = flags.is;
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
