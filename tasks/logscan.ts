/**
 * `deno task logscan`: finds keywords in logs.
 *
 * @module
 */

import { join } from "@std/path/join";
import { type Items, Pool, sequential } from "../mod.ts";
import { causeOf, clearTemporary, folderOf } from "../workers/shared/files.ts";
import {
  type Batch,
  type Hit,
  hitsOf,
  type LogJobs,
  type LogRunner,
  type Part,
  PartReader,
  type Query,
  refusal,
  type Report,
  scanLogs,
  type ScanOptions,
  service,
} from "../workers/logscan.ts";
import { free } from "../workers/shared/memory.ts";
import { labelled } from "../workers/logscan/search.ts";
import { commandLine, type Flags, readFlags, UsageError } from "./cli/flags.ts";
import { findFiles, projectFolder, totalSize } from "./cli/paths.ts";
import { onInterrupt, runTask, Turns } from "./cli/program.ts";
import {
  flush,
  print,
  printable,
  Progress,
  stdoutIsTerminal,
  warn,
} from "./cli/terminal.ts";
import type { Work } from "./report.ts";

const HELP = `Finds keywords in logs, plain ones and .gz files.

Keywords are searched as their UTF-8 bytes; in a file with a UTF-16 byte-order
mark, in that encoding.

Usage: deno task logscan [FLAG]… [PATH]…

PATH is a file, a folder (searched to the bottom; links in it are not followed),
a glob, or - for standard input. Without any, ten logs are made and scanned, sequentially and in
parallel, and what the parallelism brought goes into reports/logscan.md.

  -k, --keyword TEXT  what to look for, as it is (default: unauthorized access);
                      may be given several times: any of them counts
  -i, --ignore-case   take a to z for A to Z
      --count         how many lines have a keyword: PATH:COUNT
      --lines         the lines with a keyword: PATH:LINE:TEXT
      --json          an array with an object per file
      --compare       scan sequentially as well, and write the report
      --workers N     how many threads scan, the first included (default: one
                      per core); more than one only where it is worth it
  -q, --quiet         print nothing, not even with --json, but errors
  -h, --help          show this

Exit status: 0 when a keyword was found, 1 when not, 2 on any trouble, 130 when
interrupted.
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
  const printer = new Printer(flags);
  const trouble = refusal(printer.options);
  if (trouble) throw new UsageError(`--keyword: ${trouble}`);
  onInterrupt(() => clearTemporary(join(projectFolder, "reports"), true));
  if (flags.is.compare && flags.paths.includes("-")) {
    throw new UsageError("--compare reads twice, which - cannot be");
  }
  if (flags.paths.length > 0 && !flags.is.compare) await scan(printer);
  else await compareScans(printer, commandLine("logscan", args));
  return printer.status;
}

/** Scans what was named, in parallel, while more of it is being found. */
async function scan(printer: Printer): Promise<void> {
  const { flags, options } = printer;
  const ahead = new Ahead();
  const progress = new Progress("files", flags.is.quiet);
  let found = 0, limit = AHEAD;
  const paths = async function* () {
    for await (
      const { path, name, error } of findFiles(flags.paths, undefined, true)
    ) {
      if (error !== undefined) {
        printer.failed(name, error);
        continue;
      }
      progress.expect(++found);
      ahead.add(path, name);
      if (ahead.waiting <= limit) continue;
      if (limit < AHEAD_MAX) limit += AHEAD_MORE;
      yield ahead.take();
    }
    ahead.isAll = true;
    while (ahead.waiting > 0) yield ahead.take();
  };
  await using runner = new Crew(options, ahead, flags.number.workers);
  const reports = scanLogs(runner, paths(), {
    ...options,
    parts: flags.is.lines,
    regular: true,
  });
  for await (const report of reports) {
    await printer.scanned(report, ahead.name);
    if (report.part) continue;
    ahead.done();
    progress.step();
  }
  await progress.stop();
  printer.end();
}

/** What is left to be scanned, as far as is known. */
interface Backlog {
  /** How many files wait for it. */
  readonly waiting: number;
  /** Whether these are all; else more are being found. */
  readonly isAll: boolean;
}

/** The files that were found and are not done yet, in their order. */
class Ahead implements Backlog {
  isAll = false;
  readonly #files: { path: string; name: string }[] = [];
  #taken = 0;
  #done = 0;

  get waiting(): number {
    return this.#files.length - this.#taken;
  }

  /** What to call the first one that is not done. */
  get name(): string {
    return this.#files[this.#done].name;
  }

  add(path: string, name: string): void {
    this.#files.push({ path, name });
  }

  /** The path of the next one to scan. */
  take(): string {
    return this.#files[this.#taken++].path;
  }

  /** The first one is done. */
  done(): void {
    this.#done++;
    // By the thousand: to shift each out of 20,000 took 10 µs.
    if (this.#done < 1000) return;
    this.#files.splice(0, this.#done);
    this.#taken -= this.#done;
    this.#done = 0;
  }
}

/**
 * How many files are found before the first is scanned, how many more for each
 * that is, and how many wait at most.
 */
const AHEAD = 500, AHEAD_MORE = 8, AHEAD_MAX = 100_000;
/**
 * A worker is asked for where so much is known to be left for one thread, in
 * ms. To start one holds this thread up for 40 ms and takes 150 of the other
 * core's; what was 200 ms for one thread took 10 longer with a worker beside it,
 * what was 300, 30 less.
 */
const WORTH = 300;
/** Before it has worked so long, this thread is no measure, in ms. */
const COLD = 20;
/** How many outcomes of this thread wait for those of workers, at most. */
const HELD = 16;

/**
 * This thread, and workers beside it as soon as they are worth their start: it
 * scans hundreds of megabytes in the time that takes.
 */
export class Crew implements LogRunner, AsyncDisposable {
  readonly #query: Query;
  readonly #ahead: Backlog;
  readonly #size: number;
  readonly #here = sequential(service);
  readonly #turns = new Turns();
  #pool?: Pool<LogJobs>;
  #isReady = false;
  /** How long this thread has worked, and lately for a span, in ms. */
  #worked = 0;
  #pace = 0;

  /**
   * @param query What workers will be asked, to see that they have started
   * @param ahead The files that are waiting
   * @param size How many threads work, this one included
   */
  constructor(
    query: Query,
    ahead: Backlog,
    size: number = navigator.hardwareConcurrency,
  ) {
    this.#query = query;
    this.#ahead = ahead;
    this.#size = size;
  }

  // Typed as a runner's; what they pass on they need not understand.
  readonly apply =
    ((job: never, args: never, options: never) =>
      this.#here.apply(job, args, options)) as LogRunner["apply"];

  readonly imap =
    ((job: never, items: Items<never>, options: never) =>
      this.#imap(job, items, options)) as LogRunner["imap"];

  /** Outcomes in the order of the items, whoever takes which. */
  async *#imap(job: never, items: Items<never>, options: never) {
    const source = async function* () {
      yield* items;
    }();
    /** Of the items under way, in their order: whether they are ours. */
    const ours: boolean[] = [];
    const held: unknown[] = [];
    let ended = false;
    const pull = async (isOurs: boolean) => {
      const { done, value } = await source.next();
      if (done) ended = true;
      else ours.push(isOurs);
      return value;
    };
    const theirs = async function* () {
      for (let item; (item = await pull(false)) !== undefined;) yield item;
    };
    let outcomes: AsyncGenerator<unknown> | undefined;
    let reply: Promise<void> | undefined;
    let replied: IteratorResult<unknown> | undefined;
    for (;;) {
      if (this.#isReady && !reply) {
        outcomes ??= this.#pool!.imap(job, theirs(), options);
        reply = outcomes.next().then((result) => void (replied = result));
        reply.catch(() => {}); // of one that nobody waits for any more
      }
      if (ours[0] === true && held.length > 0) {
        ours.shift();
        yield held.shift() as never;
      } else if (ours[0] === false && replied) {
        ours.shift();
        const { value } = replied;
        reply = replied = undefined;
        yield value as never;
      } else if (!ended && held.length < HELD) {
        const item = await pull(true);
        if (item === undefined) continue;
        held.push(await this.#work(job, item, options));
        await this.#turns.take();
      } else if (ours.length > 0) await reply;
      else return;
    }
  }

  async #work(job: never, item: never, options: never): Promise<unknown> {
    const start = performance.now();
    const outcome = await this.#here.apply(job, [item] as never, options);
    const took = performance.now() - start;
    const { spans = [], behind = 0 } = item as Partial<Batch>;
    this.#worked += took;
    this.#pace += (took / Math.max(1, spans.length) - this.#pace) / 4;
    if (this.#worked > COLD) this.#judge(behind);
    return outcome;
  }

  /** Starts as many workers as are worth it, once. */
  #judge(behind: number): void {
    const { waiting, isAll } = this.#ahead;
    const left = this.#pace * (behind + waiting);
    if (left < WORTH || this.#pool || this.#size === 1) return;
    const worth = isAll ? Math.ceil(left / WORTH) : Infinity;
    this.#pool = new Pool(service, { size: Math.min(worth, this.#size - 1) });
    this.#pool.apply("scanSpans", [{ spans: [], query: this.#query }]).then(
      () => this.#isReady = true,
      () => {}, // none could be started: this thread goes on alone
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#turns[Symbol.dispose]();
    await this.#pool?.terminate();
  }
}

/** Scans sequentially and in parallel, and tells what that brought. */
async function compareScans(printer: Printer, command: string): Promise<void> {
  const { flags, options } = printer;
  const { paths, names } = await collect(printer);
  if (paths.length === 0) return printer.end();
  const { AllFailedError, compare, conclusion, render, table, writeReport } =
    await import("./report.ts");
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
    render("Log scan", command, comparison, []),
  );
  if (!silent) print(`\nReport: ${path}\n`);
}

const lastPart = (path: string) => path.slice(folderOf(path).length);

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
    const { makeFixtures } = await import("./fixtures.ts");
    const { logs } = await makeFixtures({ logs: 10, keep: true, quiet });
    return { paths: logs, names: logs.map(lastPart) };
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
  readonly options: Required<Omit<ScanOptions, "parts" | "regular">>;
  #found = false;
  #trouble = false;
  /** Whether lines are waited for: standard input may go on for long. */
  readonly #isWatched: boolean;
  /** Whether part of the file's report is printed already. */
  #isOpen = false;
  #objects = 0;
  /** Of the file that had the last line that was too long to be held. */
  #reader?: PartReader;

  constructor(flags: Flags) {
    this.flags = flags;
    this.#isWatched = stdoutIsTerminal || flags.paths.includes("-");
    const { keyword } = flags.list;
    const { quiet, count, lines } = flags.is;
    this.options = {
      keywords: keyword.length > 0 ? keyword : ["unauthorized access"],
      ignoreCase: flags.is["ignore-case"],
      mode: quiet ? "found" : count ? "count" : lines ? "lines" : "found",
    };
  }

  /** Prints that a file could not be searched, or not all of it. */
  failed(name: string, error: string): void {
    this.#trouble = true;
    warn(`${printable(name, Deno.stderr)}: ${error}`);
  }

  /** Prints what was found in a file, or in a part of it. */
  async scanned(report: Report, name: string): Promise<void> {
    if (report.error !== undefined && !report.part) {
      this.failed(name, report.error);
    }
    if (report.found) this.#found = true;
    const { quiet, json, lines } = this.flags.is;
    if (quiet) return;
    if (json) this.#printJson(report, name);
    else if (lines) await this.#printLines(report, name);
    else if (report.error === undefined || report.found) {
      this.#printAnswer(report, name);
    }
    if (this.#isWatched) flush();
  }

  /** Found or not found, or how often. */
  #printAnswer(report: Report, name: string): void {
    const shown = printable(name);
    if (this.flags.is.count) print(`${shown}:${report.count}\n`);
    else if (!report.found) print(`${shown}: Not found\n`);
    else {
      const [{ line, text = "(a line too long to show)" }] = report.hits;
      print(`${shown}: Found, line ${line}: ${printable(text.trimEnd())}\n`);
    }
  }

  /** Lines with a hit: their own bytes, however long they are. */
  async #printLines(report: Report, name: string): Promise<void> {
    const { path, part } = report;
    if (part && !stdoutIsTerminal) {
      return await this.#printPart(path, name, part);
    }
    const shown = printable(name);
    for (const hit of this.#hitsOf(report)) {
      if (hit.text === undefined) await this.#printLong(path, name, hit);
      else if (hit.raw === undefined || stdoutIsTerminal) {
        print(`${shown}:${hit.line}:${printable(hit.text)}\n`);
      } else {
        print(`${shown}:${hit.line}:`);
        print(Uint8Array.from(hit.raw, (byte) => byte.charCodeAt(0)));
        print("\n");
      }
    }
  }

  #hitsOf({ hits, part }: Report): Iterable<Hit> {
    return part ? hitsOf(part, this.options.keywords) : hits;
  }

  async #printPart(path: string, name: string, part: Part): Promise<void> {
    const { hits, before } = part;
    for (const run of labelled(hits, before, name)) {
      if (typeof run !== "number") {
        print(run);
        continue;
      }
      const line = before + hits.lines[run] + 1;
      const [offset, length] = [hits.offsets[run], hits.lengths[run]];
      await this.#printLong(path, name, { line, offset, length });
    }
    free(hits.text);
  }

  async #printLong(
    path: string,
    name: string,
    { line, offset, length }: Omit<Hit, "keywords">,
  ): Promise<void> {
    if (path === "-") {
      return this.failed(name, `line ${line} is too long to show`);
    }
    const decoder = new TextDecoder();
    print(`${printable(name)}:${line}:`);
    for await (const block of this.#readAgain(path, name, offset, length)) {
      if (!stdoutIsTerminal) print(block);
      else print(printable(decoder.decode(block, { stream: true })));
    }
    print("\n");
  }

  /** What can be read: the file may be gone, or damaged further on. */
  async *#readAgain(
    path: string,
    name: string,
    offset: number,
    length: number,
  ): AsyncGenerator<Uint8Array, void, void> {
    try {
      if (this.#reader?.path !== path) {
        this.#reader?.[Symbol.dispose]();
        this.#reader = undefined;
        this.#reader = new PartReader(path);
      }
      yield* this.#reader.read(offset, length);
    } catch (error) {
      this.failed(name, causeOf(error));
    }
  }

  /** An object per file; its hits as they come, so that they are not held. */
  #printJson(report: Report, name: string): void {
    const { found, count, bytes, error, part } = report;
    let separator = ",";
    if (!this.#isOpen) {
      print(this.#objects++ === 0 ? "[\n" : ",\n");
      print(`{"path":${JSON.stringify(name)},"hits":[`);
      separator = "";
    }
    for (const hit of this.#hitsOf(report)) {
      // JSON has no bytes: what is no UTF-8 is U+FFFD in `text`.
      print(separator + JSON.stringify({ ...hit, raw: undefined }));
      separator = ",";
    }
    this.#isOpen = part !== undefined;
    if (part) return;
    print(`],${JSON.stringify({ found, count, bytes, error }).slice(1)}`);
  }

  /** Prints what remains. */
  end(): void {
    this.#reader?.[Symbol.dispose]();
    if (!this.flags.is.json || this.flags.is.quiet) return;
    print(this.#objects === 0 ? "[]\n" : "\n]\n");
  }

  /** The exit status, as grep has it. */
  get status(): number {
    return this.#trouble ? 2 : this.#found ? 0 : 1;
  }
}

if (import.meta.main) await runTask("logscan", main);
