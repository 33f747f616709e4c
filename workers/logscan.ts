/**
 * Finds keywords in log files, at the speed of memory.
 *
 * {@linkcode scanLogs} goes in three steps, which stand in this order below:
 * *plan* cuts big files into spans and puts small ones together, *scan* searches
 * them in a worker, *merge* makes a report of each file. It needs `--allow-read`
 * for the files. How bytes are searched is in search.ts, how they are
 * decompressed in decode.ts.
 *
 * @module
 */

import { type Items, type Runner, serve, type Service } from "../mod.ts";
import { decoded, encodingOf, plain, type Source } from "./logscan/decode.ts";
import { causeOf } from "./shared/files.ts";
import {
  countNewlines,
  type Found,
  type Hits,
  KEYWORD_MAX,
  LINE_MAX,
  type Mode,
  type Query,
  Search,
} from "./logscan/search.ts";

export type { Found, Hits, Mode, Query } from "./logscan/search.ts";

/** Plain files larger than this are shared out, in bytes. */
const SPAN = 16 << 20;
/** No file is cut into more spans than that. */
const CUTS_MAX = 20_000;
/** Files travel together up to so many bytes, and so many files. */
const BATCH = 4 << 20, BATCH_FILES = 64;
/**
 * Hits are answered when they weigh so many bytes; more of them those of what
 * would have to be decoded once more. (8 MiB for all: 330 MB of memory where each
 * line of 836 MiB has a hit, instead of 210, and twice the time.)
 */
const HITS = 1 << 20, HITS_DECODED = 8 << 20;
/** What a byte of a .gz is taken for, as decompressing is slow. */
const GZIP_WEIGHT = 16;
/** The path of standard input. */
const STDIN = "-";

/** Options for {@linkcode scanLogs}. */
export interface ScanOptions {
  /** What to look for. Default: `["unauthorized access"]`. */
  keywords?: string[];
  /** Whether A to Z are as good as a to z. */
  ignoreCase?: boolean;
  /** What is wanted. Default: `"found"`. */
  mode?: Mode;
  /**
   * For mode `"lines"`: whether to give the hits of a file in parts, as they
   * are there, and as columns: several reports, all but the last with `part`.
   * Else all are held until the end.
   */
  parts?: boolean;
  /**
   * Whether it is known that the paths are regular files, as from a walk. Else
   * each is asked for first, as to open a FIFO would wait for its writer; for
   * many small files that takes a third of the time.
   */
  regular?: boolean;
}

/** A line with a keyword in it. */
export interface Hit {
  /** The line's number, counted from 1. */
  line: number;
  /** Where it begins, in bytes: of a .gz decompressed, of UTF-16 as UTF-8. */
  offset: number;
  /** How long it is without its newline, in bytes. */
  length: number;
  /** Which keywords are in it. */
  keywords: string[];
  /** The line, U+FFFD for invalid bytes; absent where it is over 64 KiB. */
  text?: string;
  /** The line's bytes as characters 0 to 255, where `text` had to lose some. */
  raw?: string;
}

/** What was found in a file. */
export interface Report {
  /** The path as it was given. */
  path: string;
  /** Whether a keyword is in the file. */
  found: boolean;
  /** How many lines have a keyword; for mode `"found"` 1 at most. */
  count: number;
  /** Bytes that were searched. */
  bytes: number;
  /** The lines themselves, but for mode `"count"`; for `"found"` the first. */
  hits: Hit[];
  /** Why the file, or the rest of it, could not be searched. */
  error?: string;
  /** With `parts`: hits; the file's next report goes on, the numbers are sums. */
  part?: Part;
}

/** Some of the hits of a file, as they travel. */
export interface Part {
  /** The hits, as columns. */
  hits: Hits;
  /** How many lines come before those that are counted in `hits`. */
  before: number;
}

/** A part of a file to be searched: the lines that begin in it. */
export interface Span {
  /** The file's path. */
  path: string;
  /** Where the span begins, in bytes. */
  start: number;
  /** Where it ends, in bytes; absent where the file's size is not known yet. */
  end?: number;
}

/** What was found in a span; line numbers are counted from its beginning. */
export interface SpanReport extends Found {
  /** Bytes that were searched. */
  bytes: number;
  /** Why the span, or the rest of it, could not be searched. */
  error?: string;
  /** Where to go on, in bytes, as the hits are many enough for one answer. */
  next?: number;
  /** Set when it was decoded on the way: going on means to decode it anew. */
  decoded?: true;
  /** The file's size, where a span without an end does not reach its end. */
  size?: number;
  /** Set when it was not searched: the job had enough with those before it. */
  undone?: true;
}

// Plan

/** A file whose report is not complete yet. */
interface Plan {
  report: Report;
  /** How many of its spans have not been merged. */
  left: number;
  /** How many lines the merged spans have. */
  lines: number;
  /** What has come of its spans while earlier files were not complete. */
  arrived: Arrived[];
}

/** A span, and the file that it is of. */
interface Planned {
  plan: Plan;
  span: Span;
}

/** A span, and what was found in it. */
interface Arrived {
  span: Span;
  found: SpanReport;
}

/**
 * Searches files for keywords.
 *
 * A file that cannot be read, or only in part, has the cause in its report;
 * the others go on. Files compressed with gzip are searched decompressed, files
 * with a UTF-16 byte-order mark as UTF-8, all others byte by byte; those that
 * are compressed otherwise are not searched. The path `-` is standard input,
 * which is read where this is called.
 *
 * @param runner Where the work is done: a `Pool` or `sequential(service)`
 * @param paths The files; pulled as they are needed, up to 64 at a time
 * @param options See {@linkcode ScanOptions}
 * @returns A report for each file, in the order given
 * @throws {RangeError} If a keyword is empty, longer than 4096 bytes or has a
 * line break in it, there is none, or `ignoreCase` has to know letters that are
 * not ASCII
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
  paths: Items<string>,
  options: ScanOptions = {},
): AsyncGenerator<Report, void, void> {
  const query: Query = {
    keywords: options.keywords ?? ["unauthorized access"],
    ignoreCase: options.ignoreCase ?? false,
    mode: options.mode ?? "found",
  };
  const trouble = refusal(query);
  if (trouble) throw new RangeError(`Cannot search as ${trouble}`);
  const scan: Scan = {
    runner,
    query,
    parts: options.mode === "lines" && (options.parts ?? false),
    regular: options.regular ?? false,
    plans: [],
    waiting: [],
    batches: [],
    files: 0,
    weight: 0,
  };
  do {
    const jobs = planBatches(scan, paths);
    for await (
      const outcome of runner.imap("scanSpans", jobs, { settle: true })
    ) {
      arrive(scan, outcome);
      yield* finished(scan);
    }
    yield* finished(scan);
    paths = [];
    // What came up when the last ones were under way already.
  } while (scan.waiting.length > 0);
}

/**
 * Says why a query cannot be searched for.
 *
 * @param query The keywords, and whether case is ignored
 * @returns What is wrong with it; nothing where it is good
 *
 * @example
 * ```ts
 * import { refusal } from "./logscan.ts";
 *
 * console.log(refusal({ keywords: ["denied"], ignoreCase: true })); // undefined
 * ```
 */
export function refusal(
  { keywords, ignoreCase }: Pick<Query, "keywords" | "ignoreCase">,
): string | undefined {
  if (keywords.length === 0) return "there is no keyword";
  for (const keyword of keywords) {
    const value = `current value is ${JSON.stringify(keyword)}`;
    if (!/^[^\n\r]+$/.test(keyword)) {
      return `a keyword must be text within a line: ${value}`;
    }
    if (new TextEncoder().encode(keyword).length > KEYWORD_MAX) {
      return `a keyword must be no longer than ${KEYWORD_MAX} bytes: ` +
        `one begins with ${JSON.stringify(keyword.slice(0, 20))}`;
    }
    // Where case is ignored, the kernel knows ASCII.
    const other = /[^\0-\x7f]/gu;
    const cased = (c: string) => c.toLowerCase() !== c || c.toUpperCase() !== c;
    if (ignoreCase && keyword.match(other)?.some(cased)) {
      return `only the case of A to Z can be ignored: ${value}`;
    }
  }
}

/** A scan under way. */
interface Scan {
  runner: LogRunner;
  query: Query;
  parts: boolean;
  regular: boolean;
  /** The files whose reports have not been given, in order. */
  plans: Plan[];
  /** What is to be searched before more paths are asked for. */
  waiting: Planned[];
  /** What is under way, in the order of its outcomes. */
  batches: Planned[][];
  /** How many files have been searched, and how much that was. */
  files: number;
  weight: number;
}

/** Puts files and spans into batches, one for a job. */
async function* planBatches(
  scan: Scan,
  paths: Items<string>,
): AsyncGenerator<Batch, void, void> {
  let batch: Planned[] = [];
  let failure: { error: unknown } | undefined;
  try {
    for await (const path of paths) {
      yield* planRests(scan);
      const report = { path, found: false, count: 0, bytes: 0, hits: [] };
      const plan: Plan = { report, left: 0, lines: 0, arrived: [] };
      scan.plans.push(plan);
      if (path === STDIN) continue;
      plan.left = 1;
      batch.push({ plan, span: { path, start: 0 } });
      if (batch.length < filesTogether(scan)) continue;
      yield newBatch(scan, batch);
      batch = [];
    }
  } catch (error) {
    failure = { error }; // of the paths; those before it are still searched
  }
  if (batch.length > 0) yield newBatch(scan, batch);
  yield* planRests(scan);
  if (failure) throw failure.error;
}

/** Batches of what is to be done before new files. */
function* planRests(scan: Scan): Generator<Batch, void, void> {
  const { waiting, query } = scan;
  for (let next; (next = waiting.shift());) {
    // Found already: the rest need not be searched.
    if (query.mode === "found" && next.plan.report.found) next.plan.left--;
    else yield newBatch(scan, [next]);
  }
}

function newBatch(scan: Scan, batch: Planned[]): Batch {
  const { batches, query, regular, waiting } = scan;
  batches.push(batch);
  const spans = batch.map(({ span }) => span);
  return { spans, query, regular, behind: waiting.length };
}

/** How many files are as much as a batch should be: one until that is known. */
function filesTogether({ files, weight }: Scan): number {
  if (files === 0) return 1;
  return Math.min(BATCH_FILES, Math.floor(BATCH * files / (weight + 1)));
}

function weightOf(path: string, bytes: number): number {
  return path.endsWith(".gz") ? GZIP_WEIGHT * bytes : bytes;
}

/**
 * Cuts what is left of a file, into larger spans where it is of many terabytes
 * (sparse ones are). What is written after its first span was searched is not:
 * that could go on for ever, where the hits are written into the same folder.
 */
function cutsOf(path: string, from: number, size: number): Span[] {
  const cuts: Span[] = [];
  const step = SPAN * Math.ceil(size / SPAN / CUTS_MAX);
  for (let start = from; start < size; start += step) {
    cuts.push({ path, start, end: Math.min(size, start + step) });
  }
  return cuts;
}

// Scan

/** What a job is to search. */
export interface Batch {
  /** Where to search. */
  spans: Span[];
  /** What for. */
  query: Query;
  /** Whether it is known that these are regular files. */
  regular?: boolean;
  /** How many spans wait behind these, as far as is known: for the runner. */
  behind?: number;
}

/**
 * Searches spans of files.
 *
 * What cannot be opened, read or decompressed has the cause in its report,
 * beside what was found before. Where the first ones are much, or have many
 * hits, the others are left undone. With very many hits a span is not searched
 * to its end: its report says where to go on.
 *
 * @param batch What to search, and for what
 * @returns What was found, span by span
 */
export async function scanSpans(
  { spans, query, regular = false }: Batch,
): Promise<SpanReport[]> {
  const reports: SpanReport[] = [];
  let weight = 0;
  for (const span of spans) {
    const report = weight > BATCH
      ? { ...emptyReport(), undone: true as const }
      : await scanSpan(span, query, regular);
    weight += weightOf(span.path, report.bytes) + weightOfHits(report);
    reports.push(report);
  }
  return reports;
}

function weightOfHits({ hits }: Found): number {
  return hits ? hits.text.length + 100 * hits.lines.length : 0;
}

async function scanSpan(
  span: Span,
  query: Query,
  regular: boolean,
): Promise<SpanReport> {
  try {
    if (!regular && span.start === 0) checkRegular(span.path);
    using file = Deno.openSync(span.path);
    return scanPlain(file, span, query) ?? await scanDecoded(file, span, query);
  } catch (error) {
    return { ...emptyReport(), error: causeOf(error) };
  }
}

function checkRegular(path: string): void {
  const { isFile, isDirectory } = Deno.statSync(path);
  if (isDirectory) throw new Error("Is a directory");
  if (!isFile) throw new Error("Not a regular file");
}

/** Searches a span as it is; gives nothing where it has to be decoded first. */
function scanPlain(
  file: Deno.FsFile,
  { start, end }: Span,
  query: Query,
): SpanReport | undefined {
  // The newline before a later span tells whether a line begins with it.
  let position = Math.max(0, start - 1);
  const limit = end ?? SPAN;
  const range = { offset: position, skip: position < start, end: limit };
  const search = new Search(query, range, query.mode !== "count");
  let error: string | undefined;
  let wanted = true;
  let ended = false;
  let blocks = 0;
  if (position > 0) file.seekSync(position, Deno.SeekMode.Start);
  try {
    for (; wanted && !search.isFull(HITS); blocks++) {
      const { room } = search;
      const most = sizeOfRead(position, limit);
      const n = file.readSync(
        most < room.length ? room.subarray(0, most) : room,
      );
      if (n === null) {
        if (position < (end ?? 0)) error = "it shrank while it was searched";
        ended = true;
        break;
      }
      if (position === 0 && encodingOf(room.subarray(0, n))) return;
      // For the first hit it is cheaper to count when there is one.
      if (blocks > 0 && query.mode === "found") search.counts = false;
      position += n;
      wanted = search.addRoom(n);
    }
  } catch (thrown) {
    error = causeOf(thrown);
  }
  const next = wanted && search.isFull(HITS) ? search.next : undefined;
  if (next === undefined) search.end();
  const found = search.take();
  if (query.mode === "found" && found.hits && start === 0 && blocks > 1) {
    found.hits.lines[0] = newlinesIn(file, 0, found.hits.offsets[0]);
  }
  const isOpen = end === undefined;
  const to = next ?? (isOpen && ended ? position : Math.min(position, limit));
  const bytes = Math.max(0, to - start);
  const report: SpanReport = { ...found, bytes };
  // Only what is there: also `undefined` would travel.
  if (error !== undefined) report.error = error;
  if (next !== undefined) report.next = next;
  const goesOn = next !== undefined || position >= limit;
  if (isOpen && goesOn && !ended) report.size = file.statSync().size;
  return report;
}

/** Up to the span's end, then for the rest of its last line. */
function sizeOfRead(position: number, end: number): number {
  return position < end ? end - position : LINE_MAX;
}

async function scanDecoded(
  file: Deno.FsFile,
  { start }: Span,
  query: Query,
): Promise<SpanReport> {
  const source = sourceOf(file);
  source.rewind!();
  const reports = searchDecoded(source, query, start);
  const { value } = await reports.next();
  await reports.return();
  return value!;
}

/** Searches what has to be decoded, from an offset; gives many hits in parts. */
async function* searchDecoded(
  source: Source,
  query: Query,
  start: number,
  most = HITS_DECODED,
): AsyncGenerator<SpanReport, void, void> {
  const search = new Search(query, { offset: start }, query.mode !== "count");
  let error: string | undefined;
  let taken = start, position = start;
  try {
    for await (const block of skipped(decoded(source), start)) {
      position += block.length;
      if (!search.add(block)) break;
      if (!search.isFull(most)) continue;
      const { next } = search;
      yield { ...search.take(), bytes: next - taken, next, decoded: true };
      taken = next;
    }
  } catch (thrown) {
    error = causeOf(thrown);
  }
  search.end();
  const bytes = position - taken;
  yield { ...search.take(), bytes, error, decoded: true };
}

async function* skipped(
  blocks: AsyncIterable<Uint8Array>,
  count: number,
): AsyncGenerator<Uint8Array, void, void> {
  for await (const block of blocks) {
    const dropped = Math.min(count, block.length);
    count -= dropped;
    if (dropped < block.length) yield block.subarray(dropped);
  }
}

function sourceOf(file: Deno.FsFile): Source {
  return {
    read: (into) => file.readSync(into),
    rewind: () => void file.seekSync(0, Deno.SeekMode.Start),
    size: () => file.statSync().size,
  };
}

function emptyReport(): SpanReport {
  return { lines: 0, count: 0, bytes: 0 };
}

/**
 * Counts the newlines in a span of a file.
 *
 * @param span What to count in
 * @returns How many there are
 * @throws {Deno.errors.NotFound} If there is no such file
 */
export function countLines({ path, start, end }: Span): number {
  using file = Deno.openSync(path);
  return newlinesIn(file, start, end ?? Infinity);
}

function newlinesIn(file: Deno.FsFile, start: number, end: number): number {
  file.seekSync(start, Deno.SeekMode.Start);
  let left = end - start;
  return countNewlines((into) => {
    const n = left > 0 ? file.readSync(into.subarray(0, left)) : null;
    left -= n ?? 0;
    return n;
  });
}

/**
 * Reads parts of a file again: of lines that were too long to be held. What was
 * decoded for searching is decoded again, once for all parts that are asked for
 * in their order.
 *
 * @example
 * ```ts
 * import { PartReader } from "./logscan.ts";
 *
 * const path = await Deno.makeTempFile();
 * await Deno.writeTextFile(path, "one\ntwo\n");
 * using reader = new PartReader(path);
 * for await (const block of reader.read(4, 3)) {
 *   console.log(new TextDecoder().decode(block)); // two
 * }
 * await Deno.remove(path);
 * ```
 */
export class PartReader implements Disposable {
  /** The file's path. */
  readonly path: string;
  readonly #file: Deno.FsFile;
  readonly #source: Source;
  /** What is being decoded, what is left of its last block, and where. */
  #blocks?: AsyncGenerator<Uint8Array, void, void>;
  #rest: Uint8Array = new Uint8Array(0);
  #position = 0;
  #isPlain = false;

  /**
   * Opens the file.
   *
   * @param path The file
   * @throws {Deno.errors.NotFound} If it is gone
   */
  constructor(path: string) {
    this.path = path;
    this.#file = Deno.openSync(path);
    this.#source = sourceOf(this.#file);
  }

  /**
   * Reads a part; less where the file has become shorter.
   *
   * @param offset Where it begins, in bytes, as a {@linkcode Hit} has it
   * @param length How long it is, in bytes
   * @returns It, in blocks that are valid until the next one is asked for
   * @throws {Error} If reading or decompressing fails
   */
  async *read(
    offset: number,
    length: number,
  ): AsyncGenerator<Uint8Array, void, void> {
    // What need not be decoded is gone to, however far it is.
    const isAhead = !this.#isPlain && offset >= this.#position;
    if (!this.#blocks || !isAhead) this.#begin(offset);
    try {
      while (length > 0) {
        this.#skip(offset - this.#position);
        if (this.#rest.length === 0) {
          const { done, value } = await this.#blocks!.next();
          if (done) return;
          this.#rest = value;
          continue;
        }
        const block = this.#rest.subarray(0, length);
        offset += block.length;
        length -= block.length;
        yield block;
      }
    } catch (error) {
      this.#blocks = undefined; // it has ended
      throw error;
    }
  }

  /** Begins where the part is, or at the start of what has to be decoded. */
  #begin(offset: number): void {
    this.#end();
    const head = new Uint8Array(10);
    this.#source.rewind!();
    this.#file.readSync(head);
    this.#isPlain = encodingOf(head) === undefined;
    this.#position = this.#isPlain ? offset : 0;
    this.#file.seekSync(this.#position, Deno.SeekMode.Start);
    this.#blocks = this.#isPlain ? plain(this.#source) : decoded(this.#source);
    this.#rest = new Uint8Array(0);
  }

  #skip(count: number): void {
    const skipped = Math.min(count, this.#rest.length);
    this.#rest = this.#rest.subarray(skipped);
    this.#position += skipped;
  }

  /** Leaves what is being decoded; not awaited, as nothing waits for it. */
  #end(): void {
    this.#blocks?.return().catch(() => {});
    this.#blocks = undefined;
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#end();
    this.#file.close();
  }
}

// Merge

/** Shares out what came of the oldest batch that is under way. */
function arrive(
  scan: Scan,
  outcome: PromiseSettledResult<SpanReport[]>,
): void {
  const undone: Planned[] = [];
  for (const [i, planned] of scan.batches.shift()!.entries()) {
    const { plan, span } = planned;
    const found = spanOf(outcome, i);
    if (found.undone) undone.push(planned);
    else plan.arrived.push({ span, found });
    if (found.size !== undefined) planRest(scan, plan, found.size);
  }
  scan.waiting.unshift(...undone);
}

/** Plans what comes behind a file's first span. */
function planRest({ waiting }: Scan, plan: Plan, size: number): void {
  const cuts = cutsOf(plan.report.path, SPAN, size);
  plan.left += cuts.length;
  for (const span of cuts) waiting.push({ plan, span });
}

/** Merges what has come of the oldest files; gives those that are complete. */
async function* finished(scan: Scan): AsyncGenerator<Report, void, void> {
  const { plans, query } = scan;
  for (let plan; (plan = plans[0]); plans.shift()) {
    for (let next; (next = plan.arrived.shift());) {
      const { span, found } = next;
      plan.left--;
      // Spans that were under way when an earlier one had the first hit.
      if (query.mode === "found" && plan.report.found) continue;
      yield* addTo(scan, plan, found);
      if (query.mode === "found" && found.count > 0 && span.start > 0) {
        await numberHit(scan.runner, plan.report);
      }
      if (found.next !== undefined) yield* goOn(scan, plan, next);
    }
    if (plan.left > 0) return;
    if (plan.report.path === STDIN) {
      const read = (into: Uint8Array) => Deno.stdin.read(into);
      // Somebody may be waiting for each line, as behind `tail -f`.
      yield* mergeDecoded(scan, searchDecoded({ read }, query, 0, 0), plan);
    } else scan.files++;
    yield plan.report;
  }
}

/** Searches the rest of a span that has more hits than one answer holds. */
async function* goOn(
  scan: Scan,
  plan: Plan,
  { span, found }: Arrived,
): AsyncGenerator<Report, void, void> {
  const { runner, query } = scan;
  let { end } = span;
  while (found.next !== undefined) {
    if (found.decoded) {
      // Here, in one go: each job would decode it from the start.
      const reports = searchAgain(span.path, query, found.next);
      return yield* mergeDecoded(scan, reports, plan);
    }
    end ??= Math.min(SPAN, found.size!);
    const spans = [{ path: span.path, start: found.next, end }];
    const outcome = await runner.apply("scanSpans", [{ spans, query }], {
      settle: true,
    });
    found = spanOf(outcome, 0);
    yield* addTo(scan, plan, found);
  }
}

/** Decodes a file again, and searches it from an offset. */
async function* searchAgain(
  path: string,
  query: Query,
  start: number,
): AsyncGenerator<SpanReport, void, void> {
  try {
    using file = Deno.openSync(path);
    yield* searchDecoded(sourceOf(file), query, start);
  } catch (error) {
    yield { ...emptyReport(), error: causeOf(error) }; // it is gone
  }
}

async function* mergeDecoded(
  scan: Scan,
  reports: AsyncIterable<SpanReport>,
  plan: Plan,
): AsyncGenerator<Report, void, void> {
  for await (const found of reports) yield* addTo(scan, plan, found);
}

function spanOf(
  outcome: PromiseSettledResult<SpanReport[]>,
  i: number,
): SpanReport {
  if (outcome.status === "fulfilled") return outcome.value[i];
  return { ...emptyReport(), error: causeOf(outcome.reason) };
}

/** Adds to a file's report; gives the hits at once where they are wanted so. */
function* addTo(
  scan: Scan,
  plan: Plan,
  found: SpanReport,
): Generator<Report, void, void> {
  const { report, lines: before } = plan;
  if (report.path !== STDIN) {
    scan.weight += weightOf(report.path, found.bytes);
  }
  report.bytes += found.bytes;
  report.count += found.count;
  report.found = report.count > 0;
  if (found.error !== undefined) report.error ??= found.error;
  plan.lines += found.lines;
  if (!found.hits) return;
  const part = { hits: found.hits, before };
  if (scan.parts) return yield { ...report, part };
  // One by one: they may be more than a call takes arguments.
  for (const hit of hitsOf(part, scan.query.keywords)) report.hits.push(hit);
}

/**
 * Makes objects of the hits of a part.
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
    if (hit.length <= LINE_MAX) {
      Object.assign(hit, textOf(text.subarray(at, at + hit.length)));
      at += hit.length + 1;
    }
    yield hit;
  }
}

const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** A line as text, and as bytes where the text is not all of it. */
function textOf(bytes: Uint8Array): { text: string; raw?: string } {
  const text = UTF8.decode(bytes);
  if (!text.includes("\ufffd")) return { text };
  const raw = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return { text, raw };
}

/** Counts the lines before a hit: where all of them are, not in its span. */
async function numberHit(
  runner: LogRunner,
  report: Report,
): Promise<void> {
  const [hit] = report.hits;
  const cuts = cutsOf(report.path, 0, hit.offset);
  const counts = runner.imap("countLines", cuts, { settle: true });
  hit.line = 1;
  for await (const outcome of counts) {
    if (outcome.status === "fulfilled") hit.line += outcome.value;
    else report.error ??= causeOf(outcome.reason);
  }
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
