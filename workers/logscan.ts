/**
 * Finds keywords in log files, at the speed of memory.
 *
 * {@linkcode scanLogs} works in three steps. *Plan* cuts large files into spans
 * and puts small ones together into requests, *scan* searches the spans of a
 * request in a worker, *merge* makes one report of each file. Plan and merge are
 * here; scan is in logscan/scan.ts, the search of bytes in search.ts beside it,
 * and decompression in decode.ts. It needs `--allow-read` for the files.
 *
 * @module
 */

import { type Items, Pool, type Runner, serve, type Service } from "../mod.ts";
import {
  countLines,
  newSpanReport,
  REQUEST_BYTES,
  type ScanRequest,
  scanSpans,
  searchAgain,
  searchDecoded,
  SPAN,
  type Span,
  type SpanReport,
  weightOfReport,
} from "./logscan/scan.ts";
import {
  forWorkers,
  type Hits,
  KEYWORD_MAX,
  type Mode,
  type Query,
  sizeOf,
} from "./logscan/search.ts";
import { codingOf, encodingNamed } from "./logscan/text.ts";
import { causeOf } from "./shared/files.ts";

export { type Coding, codingOf, encodingNamed } from "./logscan/text.ts";
export { PartReader } from "./logscan/part_reader.ts";
export {
  countLines,
  type ScanRequest,
  scanSpans,
  type Span,
  type SpanReport,
} from "./logscan/scan.ts";
export {
  type Hits,
  labelled,
  type Mode,
  type Query,
  type SearchResult,
} from "./logscan/search.ts";

/** The most files in one request. */
const REQUEST_FILES = 256;
/** The most spans that a file is cut into. */
const SPANS_MAX = 20_000;
/** The path that stands for standard input. */
const STDIN = "-";

/** Options for {@linkcode scanLogs}. */
export interface ScanOptions {
  /** What to look for. Default: `["unauthorized access"]`. */
  keywords?: string[];
  /** Whether case is ignored, by Unicode's simple case folding. Default: false. */
  ignoreCase?: boolean;
  /**
   * Whether only whole words count: what is beside a keyword is no letter, digit
   * or underscore, nor another character that belongs to a word. Default: false.
   */
  words?: boolean;
  /** Whether a line must have all keywords. Default: false, one is enough. */
  all?: boolean;
  /** What a line must not have: none of these. Default: nothing. */
  without?: string[];
  /** What is wanted of each file. Default: `"found"`. */
  mode?: Mode;
  /**
   * Whether hits say which keywords they have. With many keywords, that takes more
   * time than to find the lines. Default: true.
   */
  which?: boolean;
  /**
   * The character set of texts without a byte-order mark, by a name that
   * `TextDecoder` knows. With `"auto"` UTF-16 is noticed, and all else is searched
   * as it is. Lines are given in UTF-8. Default: `"auto"`.
   */
  encoding?: string;
  /** How many lines with a keyword are enough, of each file. Default: all. */
  max?: number;
  /**
   * Whether the first file with a keyword is enough: the other members of an archive
   * are then not searched. Whoever reads the reports ends the scan. Default: false.
   */
  first?: boolean;
  /**
   * For mode `"lines"`: whether the hits of a file are given in parts, as soon
   * as they are there, and as columns. A file then has several reports, all but
   * the last with a `part`. Default: all hits of a file are held until its end.
   */
  parts?: boolean;
  /**
   * Whether the paths are known to be regular files, as they are when they come
   * from a walk of the file system. If not, each is looked up first, because
   * opening a FIFO would wait for its writer; with many small files that takes a
   * third of the time. Default: false.
   */
  regular?: boolean;
}

/** A line with a keyword in it. */
export interface Hit {
  /** The line's number, counted from 1. */
  line: number;
  /**
   * Where the line begins, in bytes: in a compressed file after decompression, in
   * a UTF-16 file after conversion to UTF-8.
   */
  offset: number;
  /** The line's length without its newline, in bytes. */
  length: number;
  /** The keywords that are in the line; none if that is not asked for. */
  keywords: string[];
  /** The line, with U+FFFD for invalid bytes; absent if it is over 64 KiB. */
  text?: string;
  /** The line's bytes as characters 0 to 255, if `text` has lost some of them. */
  raw?: string;
}

/** What was found in a file, or in a member of an archive. */
export interface Report {
  /** The path as it was given. */
  path: string;
  /**
   * For a member of an archive: its name there. A report of the archive itself, with
   * the sums, follows those of its members.
   */
  member?: string;
  /** Whether the file is an archive, which has no hits itself. */
  isArchive?: true;
  /** Whether a keyword is in the file. */
  found: boolean;
  /** How many lines have a keyword; at most 1 for mode `"found"`. */
  count: number;
  /** How many bytes were searched. */
  bytes: number;
  /** The lines: none for mode `"count"`, the first one for `"found"`. */
  hits: Hit[];
  /** For a member: its number in the archive, for a `PartReader`. */
  content?: number;
  /** Why the file, or the rest of it, could not be searched. */
  error?: string;
  /**
   * With the option `parts`: some of the hits. Another report of the same file
   * follows; `count` and `bytes` are the sums so far.
   */
  part?: Part;
}

/** Some of the hits of a file, as columns. */
export interface Part {
  /** The hits; their line numbers begin at 0. */
  hits: Hits;
  /** How many lines of the file come before line 0 of `hits`. */
  before: number;
  /** The number of a member in its archive, for a `PartReader`; else 0. */
  content: number;
}

/**
 * Searches files for keywords.
 *
 * If a file cannot be read, or only in part, its report has the cause, and the
 * other files are searched all the same. Files compressed by gzip, zstd, bzip2, xz
 * or lz4 are searched decompressed, the members of a zip archive one by one, texts in
 * UTF-16 as UTF-8, and all others byte by byte, unless `encoding` says more; files
 * that are compressed in another way are not searched. The first .xz file loads a
 * package from npm.
 * The path `-` is standard input, which is read on the thread that calls this.
 *
 * @param runner Where the work is done: a `Pool` or `sequential(service)`
 * @param paths The files, or lists of them; taken as they are needed, up to 256
 * at a time
 * @param options See {@linkcode ScanOptions}
 * @returns A report for each file, in the order given
 * @throws {RangeError} If there is no keyword, if one is empty, longer than 4096
 * bytes or has a line break in it, if `max` is no positive integer, or if there is
 * no `encoding` of this name
 *
 * @example Which of these logs has an alert in it
 * ```ts
 * import { sequential } from "../mod.ts";
 * import { scanLogs, service } from "./logscan.ts";
 *
 * const path = await Deno.makeTempFile();
 * await Deno.writeTextFile(path, "fine\nAlert: unauthorized access\n");
 * for await (const report of scanLogs(sequential(service), [path])) {
 *   console.log(report.found, report.hits[0].line); // true 2
 * }
 * await Deno.remove(path);
 * ```
 */
export async function* scanLogs(
  runner: LogRunner,
  paths: Items<string | string[]>,
  options: ScanOptions = {},
): AsyncGenerator<Report, void, void> {
  for await (const reports of scanMany(runner, paths, options)) {
    for (const report of reports) yield report;
  }
}

/**
 * Like {@linkcode scanLogs}, but gives all reports that are there at a time: with
 * small files by the thousand, a promise for each takes longer than its report.
 *
 * @internal
 */
export async function* scanMany(
  runner: LogRunner,
  paths: Items<string | string[]>,
  options: ScanOptions = {},
): AsyncGenerator<Report[], void, void> {
  const query: Query = {
    keywords: options.keywords ?? ["unauthorized access"],
    ignoreCase: options.ignoreCase ?? false,
    words: options.words ?? false,
    all: options.all ?? false,
    without: options.without ?? [],
    mode: options.mode ?? "found",
    which: options.which ?? true,
    max: options.max,
    first: options.first,
  };
  const { encoding = "auto" } = options;
  Object.assign(query, codingOf(encodingNamed(encoding), query));
  const problem = queryError(query) ?? maxError(query);
  if (problem) throw new RangeError(`Cannot search as ${problem}`);
  yield* new LogScan(runner, query, options).run(paths);
}

/**
 * Says why a query cannot be searched for.
 *
 * @param query The keywords, and what lines must not have
 * @returns What is wrong with it; undefined if nothing is
 *
 * @example
 * ```ts
 * import { queryError } from "./logscan.ts";
 *
 * console.log(queryError({ keywords: ["denied"] })); // undefined
 * ```
 */
export function queryError(
  { keywords, without = [] }: Pick<Query, "keywords" | "without">,
): string | undefined {
  if (keywords.length === 0) return "there is no keyword";
  for (const keyword of [...keywords, ...without]) {
    const value = `current value is ${JSON.stringify(keyword)}`;
    if (!/^[^\n\r]+$/.test(keyword)) {
      return `a keyword must be text within a line: ${value}`;
    }
    // No character of UTF-16 has more than 3 bytes in UTF-8.
    if (3 * keyword.length <= KEYWORD_MAX) continue;
    if (new TextEncoder().encode(keyword).length > KEYWORD_MAX) {
      return `a keyword must be no longer than ${KEYWORD_MAX} bytes: ` +
        `one begins with ${JSON.stringify(keyword.slice(0, 20))}`;
    }
  }
}

function maxError({ max = 1 }: Query): string | undefined {
  if (Number.isInteger(max) && max > 0) return;
  return `'max' must be a positive integer: current value is ${max}`;
}

/** A file whose report is not complete yet. */
interface FileState {
  report: Report;
  /** How many of its spans are not merged yet. */
  left: number;
  /** How many lines the merged spans have. */
  lines: number;
  /** Reports of its spans that arrived while earlier files were incomplete. */
  results: SpanResult[];
  /** The member of it that is searched, if it is an archive. */
  member?: FileState;
}

function newFileState(path: string, member?: string): FileState {
  const report: Report = { path, found: false, count: 0, bytes: 0, hits: [] };
  if (member !== undefined) report.member = member;
  return { report, left: 0, lines: 0, results: [] };
}

/** A span to be searched. */
interface PlannedSpan {
  file: FileState;
  span: Span;
}

/** A span, and what was found in it. */
interface SpanResult {
  span: Span;
  found: SpanReport;
}

/** A scan of many files: what is planned, under way and not merged yet. */
class LogScan {
  readonly #runner: LogRunner;
  readonly #query: Query;
  /** The query as it is sent: workers of this process share its memory. */
  readonly #sent: Query;
  readonly #options: ScanOptions;
  /** The files whose reports have not been given, in the order of the paths. */
  readonly #files: FileState[] = [];
  /** How many of these have been given since. */
  #given = 0;
  /** Spans that are searched before more paths are taken. */
  readonly #queue: PlannedSpan[] = [];
  /**
   * The spans of each request under way; outcomes arrive in the same order. A path
   * stands for the first span of a file that has no state before that is searched:
   * with machines that are far, thousands of small files are under way.
   */
  readonly #pending: (PlannedSpan | string)[][] = [];
  /** How many spans have been searched, and what they weigh. */
  #searched = 0;
  #weight = 0;

  constructor(runner: LogRunner, query: Query, options: ScanOptions) {
    this.#runner = runner;
    this.#query = query;
    this.#sent = runner instanceof Pool ? forWorkers(query) : query;
    this.#options = options;
  }

  async *run(
    paths: Items<string | string[]>,
  ): AsyncGenerator<Report[], void, void> {
    do {
      const requests = this.#planRequests(paths);
      for await (
        const outcome of this.#runner.imap("scanSpans", requests, {
          settle: true,
        })
      ) {
        this.#receive(outcome);
        const reports = this.#mergeWhole();
        if (reports.length > 0) yield reports;
        yield* this.#mergeFinished();
      }
      yield* this.#mergeFinished();
      paths = [];
      // The last outcomes may have added spans after the requests had ended.
    } while (this.#queue.length > 0);
  }

  // Plan

  /** Puts files and spans together into requests. */
  async *#planRequests(
    paths: Items<string | string[]>,
  ): AsyncGenerator<ScanRequest, void, void> {
    let planned: string[] = [];
    let failure: { error: unknown } | undefined;
    try {
      for await (const some of Array.isArray(paths) ? [paths] : paths) {
        for (const path of typeof some === "string" ? [some] : some) {
          if (this.#queue.length > 0) yield* this.#takeQueue();
          planned.push(path);
          if (path === STDIN || planned.length < this.#filesPerRequest()) {
            continue;
          }
          yield this.#newRequest(planned);
          planned = [];
        }
      }
    } catch (error) {
      // Taking a path failed. The files before it are still searched.
      failure = { error };
    }
    if (planned.some((path) => path !== STDIN)) yield this.#newRequest(planned);
    else if (this.#pending.length > 0) this.#pending.at(-1)!.push(...planned);
    else planned.forEach((path) => this.#begin(path));
    yield* this.#takeQueue();
    if (failure) throw failure.error;
  }

  /** Requests for what is queued. */
  *#takeQueue(): Generator<ScanRequest, void, void> {
    for (let next; (next = this.#queue.shift());) {
      // The file's answer is known already: its other spans are not searched.
      if (this.#wantedOf(next.file) === 0) next.file.left--;
      else yield this.#newRequest([next]);
    }
  }

  #newRequest(planned: (PlannedSpan | string)[]): ScanRequest {
    this.#pending.push(planned);
    const spans = planned.filter((each) => each !== STDIN)
      .map((each) => typeof each === "string" ? each : each.span);
    const { regular = false } = this.#options;
    return { spans, query: this.#sent, regular };
  }

  /** Has a file wait for its report, after those before it. */
  #begin(path: string): PlannedSpan {
    const file = newFileState(path);
    if (path !== STDIN) file.left = 1;
    this.#files.push(file);
    return { file, span: { path, start: 0 } };
  }

  /** How many more lines of a file are wanted. */
  #wantedOf({ report }: FileState): number {
    const { mode, max = Infinity } = this.#query;
    return Math.max(0, (mode === "found" ? 1 : max) - report.count);
  }

  /** How many files make a full request: one until their usual weight is known. */
  #filesPerRequest(): number {
    if (this.#searched === 0) return 1;
    const average = (this.#weight + 1) / this.#searched;
    return Math.min(REQUEST_FILES, Math.floor(REQUEST_BYTES / average));
  }

  /**
   * Plans what follows the first span of a large file. What is appended to the
   * file after that first span was searched is left out: if the output of the
   * scan goes into the same folder, it would never end.
   */
  #planRest(file: FileState, size: number): void {
    const spans = spansOf(file.report.path, SPAN, size);
    file.left += spans.length;
    for (const span of spans) this.#queue.push({ file, span });
  }

  // Merge

  /** Hands the outcome of the oldest request to its files. */
  #receive(outcome: PromiseSettledResult<SpanReport[]>): void {
    const undone: PlannedSpan[] = [];
    let i = 0;
    for (const each of this.#pending.shift()!) {
      const planned = typeof each === "string" ? this.#begin(each) : each;
      const { file, span } = planned;
      if (span.path === STDIN) continue;
      const found = reportOf(outcome, i++);
      if (found.undone) {
        undone.push(planned);
        continue;
      }
      this.#searched++;
      this.#weight += weightOfReport(span.path, found);
      // A list that is pushed to while it is empty has room for 17.
      if (file.results.length === 0) file.results = [{ span, found }];
      else file.results.push({ span, found });
      if (found.size !== undefined) this.#planRest(file, found.size);
    }
    this.#queue.unshift(...undone);
  }

  /** Merges what has arrived of the oldest files; gives the complete ones. */
  async *#mergeFinished(): AsyncGenerator<Report[], void, void> {
    const files = this.#files, query = this.#query;
    for (let file; (file = files[this.#given]); this.#give()) {
      for (let next; (next = file.results.shift());) {
        const { span, found } = next;
        file.left--;
        // This span was already under way when earlier ones had enough hits.
        if (this.#wantedOf(file) === 0) continue;
        yield this.#addResult(file, found);
        if (query.mode === "found" && found.count > 0 && span.start > 0) {
          await this.#setLineNumber(file.report);
        }
        if (found.next !== undefined) yield* this.#continueSpan(file, next);
      }
      if (file.left > 0) return;
      if (file.report.path === STDIN) {
        const read = (into: Uint8Array) => Deno.stdin.read(into);
        // Each hit is given at once: the input may go on, as with `tail -f`.
        const from = { content: 0, offset: 0 };
        yield* this.#addAll(file, searchDecoded({ read }, query, from, 0));
      }
      yield [file.report];
    }
  }

  /** Merges the oldest files as long as each was searched in one go, as most are. */
  #mergeWhole(): Report[] {
    const reports: Report[] = [];
    for (let file; (file = this.#files[this.#given]); this.#give()) {
      const result = file.results.at(0);
      if (file.left !== 1 || !result) break;
      const { span, found } = result;
      if (span.start > 0 || found.next !== undefined) break;
      file.results.pop();
      file.left = 0;
      for (const report of this.#addResult(file, found)) reports.push(report);
      reports.push(file.report);
    }
    return reports;
  }

  /** By the hundred: to shift each out of 60,000 took 16 µs. */
  #give(): void {
    if (++this.#given < 100) return;
    this.#files.splice(0, this.#given);
    this.#given = 0;
  }

  /** Searches the rest of a span that has more hits than fit into one answer. */
  async *#continueSpan(
    file: FileState,
    { span: { path, end }, found }: SpanResult,
  ): AsyncGenerator<Report[], void, void> {
    while (found.next !== undefined) {
      // Each member of an archive has its own number.
      const isArchive = file.report.isArchive;
      const max = isArchive ? this.#query.max : this.#wantedOf(file);
      if (max === 0) return;
      const query = { ...this.#sent, max };
      if (found.content !== undefined) {
        // On this thread and in one go: every request would decode the file
        // from its start.
        const from = { content: found.content, offset: found.next };
        return yield* this.#addAll(file, searchAgain(path, query, from));
      }
      end ??= Math.min(SPAN, found.size!);
      const request = { spans: [{ path, start: found.next, end }], query };
      const outcome = await this.#runner.apply("scanSpans", [request], {
        settle: true,
      });
      found = reportOf(outcome, 0);
      yield this.#addResult(file, found);
    }
  }

  async *#addAll(
    file: FileState,
    reports: AsyncIterable<SpanReport>,
  ): AsyncGenerator<Report[], void, void> {
    for await (const found of reports) {
      if (found.member === undefined) yield this.#addResult(file, found);
      else yield this.#addMember(file, found);
    }
  }

  /** Adds to the report of a member, and gives that when it is complete. */
  #addMember(file: FileState, found: SpanReport): Report[] {
    const { report } = file;
    report.isArchive = true;
    const member = file.member ??= newFileState(report.path, found.member);
    member.report.content = found.content;
    const reports = this.#addResult(member, found);
    report.bytes += found.bytes;
    if (found.next !== undefined) return reports;
    report.count += member.report.count;
    report.found ||= member.report.found;
    file.member = undefined;
    return [...reports, member.report];
  }

  /** Adds to a file's report; with the option `parts` it gives the hits. */
  #addResult(file: FileState, found: SpanReport): Report[] {
    const { members } = found;
    const reports = members?.flatMap((each) => this.#addMember(file, each)) ??
      [];
    const { report, lines: before } = file;
    report.bytes += found.bytes;
    limitHits(found, this.#wantedOf(file));
    report.count += found.count;
    report.found ||= found.count > 0;
    if (found.error !== undefined) report.error ??= found.error;
    file.lines += found.lines;
    if (!found.hits) return reports;
    const part = { hits: found.hits, before, content: found.content ?? 0 };
    if (this.#query.mode === "lines" && this.#options.parts) {
      return [...reports, { ...report, part }];
    }
    // One by one: `push(...hits)` fails with more hits than a call may have
    // arguments.
    for (const hit of hitsOf(part, this.#query.keywords)) report.hits.push(hit);
    return reports;
  }

  /**
   * Sets the line number of a file's first hit. The hit was found in a later
   * span, which does not know how many lines the earlier ones have.
   */
  async #setLineNumber(report: Report): Promise<void> {
    const [hit] = report.hits;
    const spans = spansOf(report.path, 0, hit.offset);
    const counts = this.#runner.imap("countLines", spans, { settle: true });
    hit.line = 1;
    for await (const outcome of counts) {
      if (outcome.status === "fulfilled") hit.line += outcome.value;
      else report.error ??= causeOf(outcome.reason);
    }
  }
}

/**
 * Cuts a part of a file into spans. They are larger than usual for a file of
 * many terabytes, as sparse files can be.
 */
function spansOf(path: string, from: number, size: number): Span[] {
  const spans: Span[] = [];
  const step = SPAN * Math.ceil(size / SPAN / SPANS_MAX);
  for (let start = from; start < size; start += step) {
    spans.push({ path, start, end: Math.min(size, start + step) });
  }
  return spans;
}

/** Drops hits that are more than are wanted: each span knows only its own. */
function limitHits(found: SpanReport, wanted: number): void {
  if (found.count <= wanted) return;
  found.count = wanted;
  const { hits } = found;
  if (!hits) return;
  for (
    const column of [hits.lines, hits.offsets, hits.lengths, hits.keywords]
  ) {
    column.length = wanted;
  }
  const sizes = hits.lengths.map((_, i) => 1 + (sizeOf(hits, i) ?? -1));
  hits.text = hits.text.subarray(0, sizes.reduce((sum, size) => sum + size, 0));
}

function reportOf(
  outcome: PromiseSettledResult<SpanReport[]>,
  i: number,
): SpanReport {
  if (outcome.status === "fulfilled") return outcome.value[i];
  return { ...newSpanReport(), error: causeOf(outcome.reason) };
}

/**
 * Makes an object of each hit of a part.
 *
 * @param part What came with a {@linkcode Report}
 * @param words The keywords that were searched for
 * @returns The hits, one by one
 *
 * @example
 * ```ts
 * import { sequential } from "../mod.ts";
 * import { hitsOf, scanLogs, service } from "./logscan.ts";
 *
 * const path = await Deno.makeTempFile();
 * await Deno.writeTextFile(path, "one\ntwo\n");
 * const keywords = ["two"];
 * const reports = scanLogs(sequential(service), [path], {
 *   keywords,
 *   mode: "lines",
 *   parts: true,
 * });
 * for await (const { part } of reports) {
 *   if (part) console.log(hitsOf(part, keywords).next().value?.line); // 2
 * }
 * await Deno.remove(path);
 * ```
 */
export function* hitsOf(
  { hits, before }: Part,
  words: string[],
): Generator<Hit, void, void> {
  const { lines, offsets, lengths, keywords, sets, text } = hits;
  const wordsOf = sets.map((set) => set.map((i) => words[i]));
  let at = 0;
  for (let i = 0; i < lines.length; i++) {
    const hit: Hit = {
      line: before + lines[i] + 1,
      offset: offsets[i],
      length: lengths[i],
      keywords: wordsOf[keywords[i]],
    };
    const size = sizeOf(hits, i);
    if (size !== undefined) {
      Object.assign(hit, decodeLine(text.subarray(at, at + size)));
      at += size + 1;
    }
    yield hit;
  }
}

const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** A line as text, and its bytes as well if the text has lost some of them. */
function decodeLine(bytes: Uint8Array): { text: string; raw?: string } {
  const text = UTF8.decode(bytes);
  if (!text.includes("\ufffd")) return { text };
  const raw = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return { text, raw };
}

/** The jobs of this module. */
export type LogJobs = {
  /** See {@linkcode scanSpans}. */
  scanSpans: typeof scanSpans;
  /** See {@linkcode countLines}. */
  countLines: typeof countLines;
};

/** What {@linkcode scanLogs} needs of a `Runner`. */
export type LogRunner = Pick<Runner<LogJobs>, "apply" | "imap">;

/** The jobs of this module, for a `Pool` or `sequential`. */
export const service: Service<LogJobs> = serve(import.meta, {
  scanSpans,
  countLines,
});
