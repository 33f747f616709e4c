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
import { decoded, encodingOf, plain, type Source } from "./decode.ts";
import { causeOf } from "./files.ts";
import {
  countNewlines,
  type Found,
  type Hits,
  KEYWORD_MAX,
  LINE_MAX,
  type Mode,
  type Query,
  Search,
} from "./search.ts";

export type { Mode, Query } from "./search.ts";

/** Plain files larger than this are shared out, in bytes. */
const SPAN = 16 << 20;
/** Files travel together up to so many bytes, and so many files. */
const BATCH = 4 << 20, BATCH_FILES = 64;
/** What a compressed byte is taken for, as decompressing is slow. */
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
   * Whether to give the hits of a file in parts, as they are there: several
   * reports, all but the last with `more`. Else all are held until the end.
   */
  parts?: boolean;
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
  /** With `parts`: the file's next report goes on; the numbers are sums. */
  more?: true;
}

/** A part of a file to be searched: the lines that begin in it. */
export interface Span {
  /** The file's path. */
  path: string;
  /** Where the span begins, in bytes. */
  start: number;
  /** Where it ends, in bytes; absent for the end of the file. */
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
}

// Plan

/** A file whose report is not complete yet. */
interface Plan {
  report: Report;
  /** How many of its spans have not been merged. */
  left: number;
  /** How many lines the merged spans have. */
  lines: number;
}

/** A span, and the file that it is of. */
interface Planned {
  plan: Plan;
  span: Span;
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
  const scan: Scan = { runner, query, parts: options.parts ?? false };
  const plans: Plan[] = [];
  const batches: Planned[][] = [];
  const jobs = planBatches(paths, plans, batches, query);
  // Each outcome belongs to the oldest batch that still waits for one.
  for await (
    const outcome of runner.imap("scanSpans", jobs, { settle: true })
  ) {
    for (const [i, planned] of batches.shift()!.entries()) {
      if (plans[0].left === 0) yield* finished(scan, plans);
      const found = spanOf(outcome, i);
      // Not by way of a generator, for the many that have no more to give.
      if (isWhole(planned, found)) {
        planned.plan.left = 0;
        addTo(planned.plan, found, query);
      } else yield* mergeSpan(scan, planned, found);
    }
  }
  yield* finished(scan, plans);
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

/** What does not change from file to file. */
interface Scan {
  runner: LogRunner;
  query: Query;
  parts: boolean;
}

/** Plans files and puts their spans into batches, one for a job. */
async function* planBatches(
  paths: Items<string>,
  plans: Plan[],
  batches: Planned[][],
  query: Query,
): AsyncGenerator<Batch, void, void> {
  let batch: Planned[] = [];
  let weight = 0;
  // The first ones are small, so that all workers have something soon.
  let most = 1;
  const ready = (): Batch => {
    batches.push(batch);
    const spans = batch.map(({ span }) => span);
    batch = [];
    weight = 0;
    most = Math.min(BATCH_FILES, 2 * most);
    return { spans, query };
  };
  for await (const path of paths) {
    const report = { path, found: false, count: 0, bytes: 0, hits: [] };
    const plan: Plan = { report, left: 0, lines: 0 };
    plans.push(plan);
    for (const span of planSpans(plan)) {
      // Found already: the rest need not be searched.
      if (query.mode === "found" && report.found) {
        plan.left--;
        continue;
      }
      batch.push({ plan, span });
      weight += weightOf(span);
      if (batch.length >= most || weight >= BATCH) yield ready();
    }
  }
  if (batch.length > 0) yield ready();
}

function weightOf({ path, start, end = start }: Span): number {
  return (end - start) * (path.endsWith(".gz") ? GZIP_WEIGHT : 1);
}

function planSpans(plan: Plan): Span[] {
  const { path } = plan.report;
  if (path === STDIN) return [];
  try {
    const cuts = planCuts(path);
    plan.left = cuts.length;
    return cuts;
  } catch (error) {
    plan.report.error = causeOf(error);
    return [];
  }
}

/** Decides where to cut a file; what has to be decoded stays whole. */
function planCuts(path: string): Span[] {
  // Not awaited: for 20,000 small files that would take longer than the rest.
  const { size, isFile, isDirectory } = Deno.statSync(path);
  if (isDirectory) throw new Error("Is a directory");
  // Opening a FIFO would wait for a writer.
  if (!isFile) throw new Error("Not a regular file");
  // In /proc and the like there is more than nothing in a file of no size.
  if (size === 0) return [{ path, start: 0 }];
  if (size <= SPAN) return [{ path, start: 0, end: size }];
  using file = Deno.openSync(path);
  const head = new Uint8Array(10);
  file.readSync(head);
  if (encodingOf(head)) return [{ path, start: 0, end: size }];
  return cutsOf(path, size);
}

/**
 * What is written meanwhile is not searched: it could go on for ever, where the
 * hits are written into the same folder.
 */
function cutsOf(path: string, size: number): Span[] {
  return Array.from({ length: Math.ceil(size / SPAN) }, (_, i) => ({
    path,
    start: i * SPAN,
    end: Math.min(size, (i + 1) * SPAN),
  }));
}

// Scan

/** What a job is to search. */
export interface Batch {
  /** Where to search. */
  spans: Span[];
  /** What for. */
  query: Query;
}

/**
 * Searches spans of files.
 *
 * What cannot be opened, read or decompressed has the cause in its report,
 * beside what was found before. When there are many hits, spans are not searched
 * to their end, or not at all: their reports say where to go on.
 *
 * @param batch What to search, and for what
 * @returns What was found, span by span
 */
export async function scanSpans(
  { spans, query }: Batch,
): Promise<SpanReport[]> {
  const reports: SpanReport[] = [];
  let weight = 0;
  for (const span of spans) {
    const report = weight > BATCH
      ? { ...emptyReport(), next: span.start }
      : await scanSpan(span, query);
    weight += weightOfHits(report);
    reports.push(report);
  }
  return reports;
}

function weightOfHits({ hits }: Found): number {
  return hits ? hits.text.length + 100 * hits.lines.length : 0;
}

async function scanSpan(span: Span, query: Query): Promise<SpanReport> {
  try {
    using file = Deno.openSync(span.path);
    return scanPlain(file, span, query) ?? await scanDecoded(file, span, query);
  } catch (error) {
    return { ...emptyReport(), error: causeOf(error) };
  }
}

/** Searches a span as it is; gives nothing where it has to be decoded first. */
function scanPlain(
  file: Deno.FsFile,
  { start, end }: Span,
  query: Query,
): SpanReport | undefined {
  // The newline before a later span tells whether a line begins with it.
  let position = Math.max(0, start - 1);
  const range = { offset: position, skip: position < start, end };
  const search = new Search(query, range, query.mode === "lines");
  let error: string | undefined;
  if (position > 0) file.seekSync(position, Deno.SeekMode.Start);
  try {
    for (let wanted = true; wanted && !search.full;) {
      const most = sizeOfRead(position, end);
      const n = file.readSync(search.room.subarray(0, most));
      if (n === null) {
        if (position < (end ?? 0)) error = "it shrank while it was searched";
        break;
      }
      const block = search.room.subarray(0, n);
      if (position === 0 && encodingOf(block)) return;
      position += n;
      wanted = search.add(block);
    }
  } catch (thrown) {
    error = causeOf(thrown);
  }
  const next = search.full ? search.next : undefined;
  if (next === undefined) search.end();
  const bytes = (next ?? Math.min(position, end ?? position)) - start;
  const found = search.take();
  // Only now is the number of the first hit's line of interest.
  if (query.mode === "found" && found.hits && start === 0) {
    found.hits.lines[0] = newlinesIn(file, 0, found.hits.offsets[0]);
  }
  return { ...found, bytes, error, next };
}

/** Up to the span's end, then for the rest of its last line. */
function sizeOfRead(position: number, end = Infinity): number {
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
): AsyncGenerator<SpanReport, void, void> {
  const search = new Search(query, { offset: start }, query.mode !== "count");
  let error: string | undefined;
  let taken = start;
  try {
    for await (const block of skipped(decoded(source), start)) {
      if (!search.add(block)) break;
      if (!search.full) continue;
      const { next } = search;
      yield { ...search.take(), bytes: next - taken, next, decoded: true };
      taken = next;
    }
  } catch (thrown) {
    error = causeOf(thrown);
  }
  search.end();
  const bytes = search.position - taken;
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
 * Reads a part of a file again: of a line that was too long to be held. What
 * was decoded for searching is decoded again.
 *
 * @param path The file
 * @param offset Where the part begins, in bytes, as a {@linkcode Hit} has it
 * @param length How long it is, in bytes
 * @returns It, in blocks that are valid until the next one is asked for
 * @throws {Deno.errors.NotFound} If the file is gone
 *
 * @example
 * ```ts
 * import { readPart } from "./logscan.ts";
 *
 * const path = await Deno.makeTempFile();
 * await Deno.writeTextFile(path, "one\ntwo\n");
 * for await (const block of readPart(path, 4, 3)) {
 *   console.log(new TextDecoder().decode(block)); // two
 * }
 * await Deno.remove(path);
 * ```
 */
export async function* readPart(
  path: string,
  offset: number,
  length: number,
): AsyncGenerator<Uint8Array, void, void> {
  using file = Deno.openSync(path);
  const source = sourceOf(file);
  const head = new Uint8Array(10);
  file.readSync(head);
  source.rewind!();
  const isPlain = encodingOf(head) === undefined;
  if (isPlain) file.seekSync(offset, Deno.SeekMode.Start);
  const blocks = isPlain ? plain(source) : skipped(decoded(source), offset);
  for await (const block of blocks) {
    yield block.subarray(0, length);
    length -= block.length;
    if (length <= 0) break;
  }
}

// Merge

/** Whether a file is of one span, and that was searched to its end. */
function isWhole({ span, plan }: Planned, { next }: SpanReport): boolean {
  return span.start === 0 && plan.left === 1 && next === undefined;
}

/** Adds what was found in a span to its file's report. */
async function* mergeSpan(
  { runner, query, parts }: Scan,
  { plan, span }: Planned,
  found: SpanReport,
): AsyncGenerator<Report, void, void> {
  plan.left--;
  // Spans that were under way when an earlier one had the first hit.
  if (query.mode === "found" && plan.report.found) return;
  addTo(plan, found, query);
  if (query.mode === "found" && found.count > 0 && span.start > 0) {
    await numberHit(runner, plan.report);
  }
  while (found.next !== undefined) {
    if (parts) yield* takePart(plan);
    if (found.decoded) {
      // Here, in one go: each job would decode it from the start.
      using file = Deno.openSync(span.path);
      return yield* mergeDecoded(
        searchDecoded(sourceOf(file), query, found.next),
        plan,
        query,
        parts,
      );
    }
    const spans = [{ ...span, start: found.next }];
    const outcome = await runner.apply("scanSpans", [{ spans, query }], {
      settle: true,
    });
    found = spanOf(outcome, 0);
    addTo(plan, found, query);
  }
  if (plan.left > 0 && parts) yield* takePart(plan);
}

async function* mergeDecoded(
  reports: AsyncIterable<SpanReport>,
  plan: Plan,
  query: Query,
  parts: boolean,
): AsyncGenerator<Report, void, void> {
  for await (const found of reports) {
    addTo(plan, found, query);
    if (parts && found.next !== undefined) yield* takePart(plan);
  }
}

/** Gives the reports of the oldest files, as far as they are complete. */
async function* finished(
  { query, parts }: Scan,
  plans: Plan[],
): AsyncGenerator<Report, void, void> {
  while (plans[0]?.left === 0) {
    const plan = plans.shift()!;
    if (plan.report.path === STDIN) {
      const read = (into: Uint8Array) => Deno.stdin.read(into);
      const reports = searchDecoded({ read }, query, 0);
      yield* mergeDecoded(reports, plan, query, parts);
    }
    yield plan.report;
  }
}

function* takePart({ report }: Plan): Generator<Report, void, void> {
  const { hits } = report;
  if (hits.length === 0) return;
  report.hits = [];
  yield { ...report, hits, more: true };
}

function spanOf(
  outcome: PromiseSettledResult<SpanReport[]>,
  i: number,
): SpanReport {
  if (outcome.status === "fulfilled") return outcome.value[i];
  return { ...emptyReport(), error: causeOf(outcome.reason) };
}

function addTo(plan: Plan, found: SpanReport, { keywords }: Query): void {
  const { report } = plan;
  report.bytes += found.bytes;
  report.count += found.count;
  report.found = report.count > 0;
  if (found.error !== undefined) report.error ??= found.error;
  if (found.hits) {
    const hits = hitsOf(found.hits, plan.lines, keywords);
    for (const hit of hits) report.hits.push(hit);
  }
  plan.lines += found.lines;
}

function* hitsOf(
  hits: Hits,
  before: number,
  keywords: string[],
): Generator<Hit, void, void> {
  const sets = hits.sets.map((set) => set.map((i) => keywords[i]));
  const held = hits.text.split("\n");
  let next = 0;
  for (const [i, length] of hits.lengths.entries()) {
    const hit: Hit = {
      line: before + hits.lines[i] + 1,
      offset: hits.offsets[i],
      length,
      keywords: sets[hits.keywords[i]],
    };
    if (length > LINE_MAX) yield hit;
    else if (hits.raw) yield { ...hit, ...textOf(held[next++]) };
    else {
      hit.text = held[next++];
      yield hit;
    }
  }
}

const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** A line as text, and as bytes where the text is not all of it. */
function textOf(raw: string): { text: string; raw?: string } {
  const bytes = Uint8Array.from(raw, (byte) => byte.charCodeAt(0));
  const text = UTF8.decode(bytes);
  return text.includes("\ufffd") ? { text, raw } : { text };
}

/** Counts the lines before a hit: where all of them are, not in its span. */
async function numberHit(
  runner: Scan["runner"],
  { path, hits: [hit] }: Report,
): Promise<void> {
  const cuts = cutsOf(path, hit.offset);
  const counts = runner.imap("countLines", cuts, { settle: true });
  hit.line = 1;
  for await (const outcome of counts) {
    if (outcome.status === "fulfilled") hit.line += outcome.value;
  }
}

const jobs = { scanSpans, countLines };

/** The jobs of this module. */
export type LogJobs = typeof jobs;

/** What {@linkcode scanLogs} needs of a `Runner`. */
export type LogRunner = Pick<Runner<LogJobs>, "apply" | "imap">;

/** The jobs of this module, for a `Pool` or `sequential`. */
export const service: Service<LogJobs> = serve(import.meta, jobs);
