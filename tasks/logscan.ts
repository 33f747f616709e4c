/**
 * `deno task logscan`: finds keywords in logs.
 *
 * @module
 */

import { Pool, sequential } from "../mod.ts";
import { queryError, scanMany, service } from "../workers/logscan.ts";
import { clearTemporary } from "../workers/shared/files.ts";
import { commandLine, type Flags, readFlags, UsageError } from "./cli/flags.ts";
import { projectFolder } from "./cli/paths.ts";
import { onInterrupt, runTask } from "./cli/program.ts";
import { print, Progress, warn } from "./cli/terminal.ts";
import type { MachineWork } from "./cluster/cluster.ts";
import {
  CLUSTER_HELP,
  CLUSTER_NUMBERS,
  CLUSTER_TEXTS,
  confine,
  loadCluster,
  withVariable,
} from "./cluster/flags.ts";
import { isNamed, Listing } from "./logscan/listing.ts";
import { Printer } from "./logscan/printer.ts";

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

/**
 * Not literals: Deno reads a module with all that it imports at each start of a
 * program in which its name stands. The images behind these took 20 ms.
 */
const COMPARE = "./logscan/compare.ts", KEYWORDS = "./logscan/keywords.ts";

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
  checkTexts(flags);
  await addKeywords(flags);
  const printer = new Printer(flags);
  const problem = queryError(printer.options);
  if (problem) throw new UsageError(`--keyword: ${problem}`);
  onInterrupt(() => clearTemporary(`${projectFolder}/reports`, true));
  if (isNamed(flags) && !flags.is.compare) await scan(printer);
  else {
    const { compareScans }: typeof import("./logscan/compare.ts") =
      await import(COMPARE);
    await compareScans(printer, commandLine("logscan", args));
  }
  return printer.status;
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

/** Rejects texts that Deno did not pass on: U+FFFD stands for other bytes. */
function checkTexts({ list }: Flags): void {
  for (const name of ["keyword", "without"]) {
    const text = list[name].find((text) => text.includes("\ufffd"));
    if (text === undefined) continue;
    throw new UsageError(
      `--${name}: '${text}' is not UTF-8, or has a \ufffd, which --file can name`,
    );
  }
}

/** Adds the keywords of files. */
async function addKeywords({ list: { keyword, file } }: Flags): Promise<void> {
  if (file.length === 0) return;
  const { readKeywords }: typeof import("./logscan/keywords.ts") = await import(
    KEYWORDS
  );
  for (const name of new Set(file)) {
    for (const each of await readKeywords(name)) keyword.push(each);
  }
  if (keyword.length === 0) {
    throw new UsageError(`--file ${file[0]}: there is no keyword in it`);
  }
}

/** Whether standard input is a pipe or a file, not a terminal or /dev/null. */
async function isInputGiven(): Promise<boolean> {
  if (Deno.stdin.isTerminal()) return false;
  const { fstatSync } = await import("node:fs"); // Deno cannot tell
  return !fstatSync(0).isCharacterDevice();
}

/**
 * Scans the files that the user named, while more of them are being found.
 *
 * Two flags of V8 in deno.json keep its heap from growing with the number of files:
 * what is young has 4 MB, not 16, and what is old is collected when it is half as
 * large again, not four times as large. Without them 100,000 small files took 25 MB
 * more than 10,000, and with `--redis`, where thousands are under way, 70.
 */
async function scan(printer: Printer): Promise<void> {
  const { flags, options } = printer;
  const size = flags.number.workers ?? navigator.hardwareConcurrency;
  const listing = new Listing(
    flags,
    (name, error) => printer.printMissing(name, error),
  );
  const remote = flags.text.redis === undefined
    ? undefined
    : await loadCluster();
  const cluster = await remote?.startCluster(flags, "logscan", service);
  await using runner = cluster ??
    (size === 1 || await listing.isLittle(options.keywords.length)
      ? sequential(service)
      : new Pool(service, { size, eager: true }));
  const progress = new Progress("files", flags.is.quiet);
  const scanned = scanMany(runner, listing.paths(progress.isShown), {
    ...options,
    parts: flags.is.lines,
    regular: true,
  });
  for await (const reports of scanned) {
    for (const report of reports) {
      // Not awaited where there is nothing to wait for, as for most files.
      const printed = printer.printReport(report, listing.name);
      if (printed) await printed;
      if (printer.isDone) break;
      if (report.part || report.member !== undefined) continue;
      listing.finish();
      progress.expect(listing.count);
      progress.step();
    }
    if (printer.isDone) break;
  }
  await progress.stop();
  printer.end();
  if (cluster) sayWork(flags, cluster.work, remote!.workText(cluster.work));
}

/** Says what each machine did: on stdout only to a program that reads JSON. */
function sayWork(
  { is: { quiet, json } }: Flags,
  work: MachineWork[],
  text: string,
): void {
  if (quiet) return;
  if (json) print(`${JSON.stringify({ machines: work })}\n`);
  else text.trim().split("\n").forEach((line) => line && warn(line));
}

if (import.meta.main) await runTask("logscan", main);
