/**
 * `deno task logscan`: finds keywords in logs.
 *
 * @module
 */

import { basename } from "@std/path/basename";
import { join } from "@std/path/join";
import { Pool } from "../mod.ts";
import {
  type Hit,
  type LogJobs,
  type Report,
  scanLogs,
  type ScanOptions,
  service,
} from "../workers/logscan.ts";
import { clearTemporary } from "../workers/files.ts";
import {
  commandLine,
  findFiles,
  type Flags,
  flush,
  onInterrupt,
  print,
  printable,
  Progress,
  projectFolder,
  readFlags,
  runTask,
  stdoutIsTerminal,
  totalSize,
  UsageError,
  warn,
} from "./cli.ts";
import { makeFixtures } from "./fixtures.ts";
import {
  AllFailedError,
  compare,
  conclusion,
  render,
  table,
  type Work,
  writeReport,
} from "./report.ts";

const HELP = `Finds keywords in logs, plain ones and .gz files.

Keywords are searched as their UTF-8 bytes; in a plain file with a UTF-16
byte-order mark, in that encoding.

Usage: deno task logscan [FLAG]… [PATH]…

PATH is a file, a folder (searched to the bottom; links in it are not followed)
or a glob. Without any, ten logs are made and scanned, sequentially and in
parallel, and what the parallelism brought goes into reports/logscan.md.

  -k, --keyword TEXT  what to look for, as it is (default: unauthorized access);
                      may be given several times: any of them counts
      --count         how many lines have a keyword: PATH:COUNT
      --lines         the lines with a keyword: PATH:LINE:TEXT
      --json          an array with an object per file
      --compare       scan sequentially as well, and write the report
      --workers N     how many workers scan (default: one per core)
  -q, --quiet         print nothing, not even with --json, but errors
  -h, --help          show this

Exit status: 0 when a keyword was found, 1 when not, 2 on any trouble, 130 when
interrupted.
`;

async function main(args: string[]): Promise<number> {
  const flags = readFlags(args, {
    boolean: ["count", "lines", "json", "compare"],
    list: ["keyword"],
    alias: { k: "keyword" },
    paths: true,
  });
  if (flags.is.help) return print(HELP), 0;
  if (flags.is.count && flags.is.lines) {
    throw new UsageError("--count and --lines exclude each other");
  }
  const bad = flags.list.keyword.find((keyword) => /[\n\r]/.test(keyword));
  if (bad !== undefined) {
    const shown = JSON.stringify(bad);
    throw new UsageError(`--keyword must be within a line, not ${shown}`);
  }
  onInterrupt(() => clearTemporary(join(projectFolder, "reports"), true));
  const printer = new Printer(flags);
  if (flags.paths.length > 0 && !flags.is.compare) await scan(printer);
  else await compareScans(printer, commandLine("logscan", args));
  return printer.status;
}

/** Scans what was named, in parallel, while more of it is being found. */
async function scan(printer: Printer): Promise<void> {
  const { flags, options } = printer;
  const names: string[] = [];
  const progress = new Progress("files", flags.is.quiet);
  let found = 0;
  const paths = async function* () {
    for await (const { path, name, error } of findFiles(flags.paths)) {
      if (error === undefined) {
        names.push(name);
        progress.expect(++found);
        yield path;
      } else printer.failed(name, error);
    }
  };
  await using pool = new Pool(service, { size: flags.number.workers });
  const parts = flags.is.lines && !flags.is.json;
  const reports = scanLogs(pool, paths(), { ...options, parts });
  for await (const report of reports) {
    await printer.scanned(report, names[0]);
    if (report.more) continue;
    names.shift();
    progress.step();
  }
  await progress.stop();
  printer.end();
}

/** Scans sequentially and in parallel, and tells what that brought. */
async function compareScans(printer: Printer, command: string): Promise<void> {
  const { flags, options } = printer;
  const { paths, names } = await collect(printer);
  if (paths.length === 0) return printer.end();
  const work = await logscanWork(paths, options);
  const workers = flags.number.workers ?? navigator.hardwareConcurrency;
  const comparison = await compare(work, workers, flags.is.quiet).catch(
    (error) => {
      if (!(error instanceof AllFailedError)) throw error;
      warn(`logscan: ${error.message}`);
    },
  );
  // Of a batch that was run several times over, the first time is enough.
  for (const [i, name] of names.entries()) {
    await printer.scanned(work.reports[i], name);
  }
  printer.end();
  if (!comparison) return;
  const silent = flags.is.quiet || flags.is.json;
  if (!silent) print(`\n${table(comparison)}\n${conclusion(comparison)}\n`);
  const path = await writeReport(
    join(projectFolder, "reports", "logscan.md"),
    render("Log scan", command, comparison, names.map((n) => basename(n))),
  );
  if (!silent) print(`\nReport: ${path}\n`);
}

/** The scan of files, to be compared; `reports` are of its last run. */
export async function logscanWork(
  paths: string[],
  options: ScanOptions,
): Promise<Work<LogJobs> & { reports: Report[] }> {
  const failures = new Map<number, string>();
  const work: Work<LogJobs> & { reports: Report[] } = {
    reports: [],
    failures,
    service,
    items: paths.length,
    unit: "logs",
    bytes: await totalSize(paths),
    run: async (runner, times) => {
      const many = Array.from({ length: times }, () => paths).flat();
      work.reports = await Array.fromAsync(scanLogs(runner, many, options));
      failures.clear();
      for (
        const [i, { error }] of work.reports.slice(0, paths.length).entries()
      ) {
        if (error !== undefined) failures.set(i, error);
      }
    },
    answer: () => JSON.stringify(work.reports),
  };
  return work;
}

/** The files that were named; the fixtures, where none was. */
async function collect(
  printer: Printer,
): Promise<{ paths: string[]; names: string[] }> {
  const { flags } = printer;
  if (flags.paths.length === 0) {
    const { quiet } = flags.is;
    const { logs } = await makeFixtures({ logs: 10, keep: true, quiet });
    return { paths: logs, names: logs.map((path) => basename(path)) };
  }
  const paths: string[] = [];
  const names: string[] = [];
  for await (const { path, name, error } of findFiles(flags.paths)) {
    if (error !== undefined) printer.failed(name, error);
    else {
      paths.push(path);
      names.push(name);
    }
  }
  return { paths, names };
}

/** Prints reports as the flags want them, and keeps the exit status. */
class Printer {
  readonly flags: Flags;
  readonly options: Required<Omit<ScanOptions, "parts">>;
  #found = false;
  #trouble = false;
  #objects = 0;

  constructor(flags: Flags) {
    this.flags = flags;
    const { keyword } = flags.list;
    const { quiet, count, lines } = flags.is;
    this.options = {
      keywords: keyword.length > 0 ? keyword : ["unauthorized access"],
      mode: quiet ? "found" : count ? "count" : lines ? "lines" : "found",
    };
  }

  /** Prints that a file could not be searched, or not all of it. */
  failed(name: string, error: string): void {
    this.#trouble = true;
    warn(`${printable(name, Deno.stderr)}: ${error}`);
  }

  /** Prints what was found in a file. */
  async scanned(report: Report, name: string): Promise<void> {
    if (report.error !== undefined) this.failed(name, report.error);
    if (report.found) this.#found = true;
    const { quiet, json, count, lines } = this.flags.is;
    if (quiet) return;
    if (json) this.#printJson({ ...report, path: name });
    else if (report.error !== undefined && !report.found) return;
    else if (count) print(`${printable(name)}:${report.count}\n`);
    else if (lines) {
      for (const hit of report.hits) await printLine(report, name, hit);
    } else if (!report.found) print(`${printable(name)}: Not found\n`);
    else {
      const [{ line, text = "(a line too long to show)" }] = report.hits;
      const shown = printable(text.trimEnd());
      print(`${printable(name)}: Found, line ${line}: ${shown}\n`);
    }
    if (stdoutIsTerminal) flush();
  }

  #printJson(report: Report): void {
    // JSON has no bytes: what is no UTF-8 is U+FFFD in `text`, and stays out.
    const bare = (key: string, value: unknown) =>
      key === "raw" ? undefined : value;
    print(
      `${this.#objects++ === 0 ? "[\n" : ",\n"}${JSON.stringify(report, bare)}`,
    );
  }

  /** Prints what remains. */
  end(): void {
    if (!this.flags.is.json || this.flags.is.quiet) return;
    print(this.#objects === 0 ? "[]\n" : "\n]\n");
  }

  /** The exit status, as grep has it. */
  get status(): number {
    return this.#trouble ? 2 : this.#found ? 0 : 1;
  }
}

/** Prints a line with a hit: its own bytes, however long it is. */
async function printLine(
  report: Report,
  name: string,
  hit: Hit,
): Promise<void> {
  print(`${printable(name)}:${hit.line}:`);
  if (hit.text === undefined) await printBytes(report.path, hit);
  else if (hit.raw === undefined || stdoutIsTerminal) {
    print(printable(hit.text));
  } else print(Uint8Array.from(hit.raw, (byte) => byte.charCodeAt(0)));
  print("\n");
}

/** Prints a part of a file, a block at a time. */
async function printBytes(
  path: string,
  { offset, length }: Hit,
): Promise<void> {
  using file = await Deno.open(path);
  await file.seek(offset, Deno.SeekMode.Start);
  const block = new Uint8Array(1 << 16);
  for (let left = length; left > 0;) {
    const read = await file.read(
      block.subarray(0, Math.min(left, block.length)),
    );
    if (read === null) break; // it was cut off meanwhile
    print(block.subarray(0, read));
    left -= read;
  }
}

if (import.meta.main) await runTask("logscan", main);
