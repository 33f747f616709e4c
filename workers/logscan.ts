/**
 * Finds keywords in log files, at the speed of memory.
 *
 * {@linkcode scanLogs} goes in three steps: *plan* cuts big files into spans and
 * puts small ones together, *scan* searches them in a worker, *merge* makes a
 * report of each file. Plan and merge are here, scan is in logscan/scan.ts; how
 * bytes are searched is in search.ts beside it, how they are decompressed in
 * decode.ts. It needs `--allow-read` for the files.
 *
 * @module
 */

import { type Items, type Runner, serve, type Service } from "../mod.ts";
import {
  BATCH,
  type Batch,
  countLines,
  emptyReport,
  scanSpans,
  searchAgain,
  searchDecoded,
  SPAN,
  type Span,
  type SpanReport,
  weightOf,
} from "./logscan/scan.ts";
import {
  type Hits,
  KEYWORD_MAX,
  LINE_MAX,
  type Mode,
  type Query,
} from "./logscan/search.ts";
import { causeOf } from "./shared/files.ts";

export { PartReader } from "./logscan/part_reader.ts";
export {
  type Batch,
  countLines,
  scanSpans,
  type Span,
  type SpanReport,
} from "./logscan/scan.ts";
export type { Found, Hits, Mode, Query } from "./logscan/search.ts";

/** Files travel together up to so many. */
const BATCH_FILES = 64;
/** No file is cut into more spans than that. */
const CUTS_MAX = 20_000;
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
