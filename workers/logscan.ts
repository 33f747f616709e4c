/**
 * Finds keywords in log files: as bytes, or as text where a file says that it
 * is UTF-16.
 *
 * {@linkcode scanLogs} goes in three steps, which stand in this order below:
 * *plan* cuts big files into spans, *scan* searches a span in a worker, *merge*
 * puts the spans of a file together again. It needs `--allow-read` for the
 * files.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Gunzip } from "node:zlib";
import { type Items, type Runner, serve, type Service } from "../mod.ts";
import { causeOf } from "./files.ts";

/** How much is read at a time, in bytes. */
const BLOCK = 1 << 20;
/** Plain files larger than this are shared out, in bytes. */
const SPAN = 32 << 20;
/** Lines longer than this are not held: they can be read again where they are. */
const LINE_MAX = 64 << 10;
/** The same where they cannot, as they were decompressed or decoded. */
const DECODED_LINE_MAX = 32 << 20;
/** A job gives hits of about so many bytes; for more it is called again. */
const PART = 8 << 20;
/** What a hit weighs besides its text, in bytes. */
const HIT = 200;

/**
 * What is wanted of a file: whether a keyword is in it (it stops at the first
 * hit), how many lines have one, or these lines.
 */
export type Mode = "found" | "count" | "lines";

/** Options for {@linkcode scanLogs}. */
export interface ScanOptions {
  /** What to look for. Default: `["unauthorized access"]`. */
  keywords?: string[];
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
  /** Where the line begins, in bytes of the (decompressed) file. */
  offset: number;
  /** How long it is without its newline, in bytes. */
  length: number;
  /** Which keywords are in it. */
  keywords: string[];
  /**
   * The line, U+FFFD for invalid bytes; absent where it is over 64 KiB (of a
   * compressed or UTF-16 file: over 32 MiB).
   */
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
  /** Bytes that were read, or decompressed. */
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
  /** What to look for. */
  keywords: string[];
  /** What is wanted. */
  mode: Mode;
}

/** What was found in a span; line numbers are counted from its beginning. */
export interface SpanReport extends Omit<Report, "path" | "found" | "more"> {
  /** How many lines were searched; not counted for mode `"count"`. */
  lines: number;
  /** Where to go on, in bytes, as the hits are many enough for one answer. */
  next?: number;
}

// Plan

/** A file whose report is not complete yet. */
interface Plan {
  report: Report;
  /** How many of its spans have not been merged. */
  left: number;
  /** Where the spans end. */
  ends: (number | undefined)[];
  /** How many lines the merged spans have. */
  lines: number;
}

/**
 * Searches files for keywords.
 *
 * A file that cannot be read, or only in part, has the cause in its report;
 * the others go on. Files compressed with gzip are searched decompressed, files
 * with a UTF-16 byte-order mark in that encoding, all others byte by byte.
 *
 * @param runner Where the work is done: a `Pool` or `sequential(service)`
 * @param paths The files; pulled as they are needed
 * @param options See {@linkcode ScanOptions}
 * @returns A report for each file, in the order given
 * @throws {RangeError} If a keyword is empty or has a line break in it
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
  runner: Runner<LogJobs>,
  paths: Items<string>,
  options: ScanOptions = {},
): AsyncGenerator<Report, void, void> {
  const { keywords = ["unauthorized access"], mode = "found", parts } = options;
  for (const keyword of keywords) {
    if (!/^[^\n\r]+$/.test(keyword)) {
      throw new RangeError(
        `Cannot search as 'keywords' must be text within a line: ` +
          `current value is ${JSON.stringify(keyword)}`,
      );
    }
  }
  const plans: Plan[] = [];
  const spans = planSpans(paths, plans, keywords, mode);
  // Each outcome belongs to the oldest plan that still waits for one.
  for await (
    let outcome of runner.imap("scanSpan", spans, { settle: true })
  ) {
    yield* finished(plans);
    const [plan] = plans;
    const end = plan.ends.shift();
    for (;;) {
      const start = merge(plan, outcome, mode);
      if (start === undefined) break;
      if (parts) yield takePart(plan);
      const span = { path: plan.report.path, start, end, keywords, mode };
      outcome = await runner.apply("scanSpan", [span], { settle: true });
    }
    if (--plan.left > 0 && parts) yield takePart(plan);
  }
  yield* finished(plans);
}

function takePart({ report }: Plan): Report {
  const { hits } = report;
  report.hits = [];
  return { ...report, hits, more: true };
}

function* finished(plans: Plan[]): Generator<Report, void, void> {
  while (plans.length > 0 && plans[0].left === 0) yield plans.shift()!.report;
}

async function* planSpans(
  paths: Items<string>,
  plans: Plan[],
  keywords: string[],
  mode: Mode,
): AsyncGenerator<Span, void, void> {
  for await (const path of paths) {
    const report = { path, found: false, count: 0, bytes: 0, hits: [] };
    const plan: Plan = { report, left: 0, ends: [], lines: 0 };
    plans.push(plan);
    try {
      const cuts = await planCuts(path);
      plan.left = cuts.length;
      plan.ends = cuts.map(({ end }) => end);
      for (const { start, end } of cuts) {
        // Found already: the rest need not be searched.
        if (mode === "found" && plan.report.found) plan.left--;
        else yield { path, start, end, keywords, mode };
      }
    } catch (error) {
      plan.report.error = causeOf(error);
    }
  }
}

/** Decides where to cut a file; what has to be decoded stays whole. */
async function planCuts(
  path: string,
): Promise<{ start: number; end?: number }[]> {
  const { size, isFile, isDirectory } = await Deno.stat(path);
  if (isDirectory) throw new Error("Is a directory");
  // Opening a FIFO would wait for a writer.
  if (!isFile) throw new Error("Not a regular file");
  if (size <= SPAN) return [{ start: 0 }];
  using file = await Deno.open(path);
  const head = new Uint8Array(4);
  await file.read(head);
  if (isGzip(head) || utf16(head)) return [{ start: 0 }];
  const count = Math.ceil(size / SPAN);
  return Array.from({ length: count }, (_, i) => ({
    start: i * SPAN,
    // The last one takes what is written meanwhile.
    end: i + 1 < count ? (i + 1) * SPAN : undefined,
  }));
}

// Scan

/**
 * Searches a span of a file.
 *
 * Where reading or decompressing fails in the middle, the cause is in the
 * report, beside what was found before.
 *
 * @param span What to search, and for what
 * @returns What was found
 * @throws {Deno.errors.NotFound} If there is no such file
 * @throws {Deno.errors.PermissionDenied} If the file may not be read
 */
export async function scanSpan(span: Span): Promise<SpanReport> {
  using file = Deno.openSync(span.path);
  const block = new Uint8Array(BLOCK);
  const head = block.subarray(0, file.readSync(block.subarray(0, 4)) ?? 0);
  const gzip = isGzip(head);
  const encoding = gzip ? undefined : utf16(head);
  // The newline before a later span tells whether a line begins with it.
  const from = Math.max(0, span.start - (encoding ? 2 : 1));
  const search = new Search(span, from, gzip, encoding);
  try {
    if (gzip) await searchGzip(search, file, block, from);
    else searchPlain(search, file, block, from);
    search.end();
  } catch (error) {
    search.end();
    search.report.error = causeOf(error);
  }
  return search.report;
}

function searchPlain(
  search: Search,
  file: Deno.FsFile,
  block: Uint8Array,
  from: number,
): void {
  file.seekSync(from, Deno.SeekMode.Start);
  for (let n; (n = file.readSync(block)) !== null;) {
    if (!search.add(block.subarray(0, n))) break;
  }
}

/**
 * Searches all members of a gzip file (RFC 1952), decompressed in blocks, from
 * an offset of what they contain.
 *
 * Where a write fails, what it decompressed before the damage is lost. So it is
 * done again from the start, with smaller and smaller writes at that place,
 * down to the byte.
 */
async function searchGzip(
  search: Search,
  file: Deno.FsFile,
  block: Uint8Array,
  from: number,
): Promise<void> {
  // Loaded on first need: it would double the time that a worker takes to
  // start. (`DecompressionStream` fails at the second member of a file.)
  const { createGunzip } = await import("node:zlib");
  let searched = from; // of the output
  let good = 0; // of the input
  let cause: unknown;
  for (let size = BLOCK;; size = Math.max(1, size >> 7)) {
    const gunzip = createGunzip({ chunkSize: BLOCK });
    let wanted = true;
    let position = 0;
    // Some errors are only to be seen by the stream being closed.
    const broken = Promise.withResolvers<never>();
    broken.promise.catch(() => {});
    gunzip.on("error", broken.reject);
    gunzip.on(
      "close",
      () => broken.reject(new Error("damaged")),
    );
    gunzip.on("data", (bytes: Uint8Array) => {
      const fresh = bytes.subarray(Math.max(0, searched - position));
      position += bytes.length;
      if (!wanted || fresh.length === 0) return;
      wanted = search.add(fresh);
      searched = position;
    });
    file.seekSync(0, Deno.SeekMode.Start);
    let read = 0;
    let ending = false;
    try {
      while (wanted && !ending) {
        const most = read < good ? Math.min(BLOCK, good - read) : size;
        const n = file.readSync(block.subarray(0, most));
        ending = n === null;
        const passed = pass(gunzip, block.subarray(0, n ?? 0), ending);
        await Promise.race([passed, broken.promise]);
        // What comes before this write; its own errors come with the next.
        good = Math.max(good, read);
        read += n ?? 0;
      }
      return;
    } catch (error) {
      cause ??= error; // of the first time: later ones are less clear
      // Cut off, it gave all that it has.
      const { code } = error as { code?: string };
      if (size === 1 || code === "Z_BUF_ERROR") throw cause;
    } finally {
      gunzip.destroy();
    }
  }
}

/** Writes bytes to a stream, or ends it; fulfils when all is decompressed. */
function pass(
  gunzip: Gunzip,
  bytes: Uint8Array,
  ending: boolean,
): Promise<void> {
  return new Promise((resolve, reject) => {
    if (ending) gunzip.once("end", resolve).end();
    else gunzip.write(bytes, (error) => error ? reject(error) : resolve());
  });
}

function isGzip(head: Uint8Array): boolean {
  return head[0] === 0x1f && head[1] === 0x8b && head[2] === 8;
}

function utf16(head: Uint8Array): "utf-16le" | "utf-16be" | undefined {
  if (head[0] === 0xff && head[1] === 0xfe) return "utf-16le";
  if (head[0] === 0xfe && head[1] === 0xff) return "utf-16be";
}

/**
 * Searches blocks as they come.
 *
 * Bytes are searched as a string of characters 0 to 255 (V8 makes such a string
 * at 10 GB/s and searches it at 3; `Uint8Array` and `Buffer` search at 0.3), so
 * that any sequence of bytes is legal and positions are offsets.
 *
 * Between blocks it keeps the unfinished line: whole, as long as it is no
 * longer than the limit, then only what may be the beginning of a keyword.
 */
class Search {
  readonly report: SpanReport = { lines: 0, count: 0, bytes: 0, hits: [] };

  readonly #span: Span;
  readonly #decoder?: TextDecoder;
  /** Bytes per character. */
  readonly #unit: number;
  readonly #needles: string[];
  readonly #overlap: number;
  readonly #lineMax: number;
  /** The end of the text so far that is still of use, and where it begins. */
  #rest = "";
  #offset: number;
  /** The unfinished line, where it is too long to be held. */
  #long?: { offset: number; keywords: Set<string> };
  /** Before its first newline a later span has only another one's line. */
  #skipping: boolean;
  #done = false;
  /** What the hits so far weigh, in bytes. */
  #weight = 0;

  constructor(span: Span, offset: number, gzip: boolean, encoding?: string) {
    this.#span = span;
    this.#offset = offset;
    this.#skipping = offset < span.start;
    if (encoding) {
      this.#decoder = new TextDecoder(encoding, { ignoreBOM: true });
    }
    this.#unit = encoding ? 2 : 1;
    this.#lineMax = encoding || gzip ? DECODED_LINE_MAX : LINE_MAX;
    this.#needles = encoding
      ? span.keywords
      : span.keywords.map((keyword) => Buffer.from(keyword).toString("latin1"));
    this.#overlap = Math.max(...this.#needles.map((n) => n.length)) - 1;
  }

  /** Searches the next block; false when no more is wanted. */
  add(bytes: Uint8Array): boolean {
    this.report.bytes += bytes.length;
    const text = this.#decoder
      ? this.#decoder.decode(bytes, { stream: true })
      : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString(
        "latin1",
      );
    this.#search(this.#rest + text);
    return !this.#done;
  }

  /** Searches the last line where no newline ends it. */
  end(): void {
    if (this.#done || this.#skipping) return;
    if (this.#long) this.#endLong(this.#rest, this.#rest.length);
    else if (this.#rest) this.#searchLines(this.#rest, 0, this.#rest.length);
  }

  #search(text: string): void {
    const { end } = this.#span;
    let from = 0;
    if (this.#skipping || this.#long) {
      const newline = text.indexOf("\n");
      if (this.#long) this.#endLong(text, newline);
      if (newline < 0) {
        this.#keep(text, this.#long ? this.#overlap : 0);
        // All of the span is in the middle of one line.
        this.#done = this.#skipping && this.#offset >= (end ?? Infinity);
        return;
      }
      this.#skipping = false;
      from = newline + 1;
    }
    // The lines that begin before the span's end are its own.
    const limit = (end ?? Infinity) - this.#offset;
    const last = limit > text.length ? -1 : text.indexOf("\n", limit - 1);
    if (from >= limit || last >= 0) {
      if (from < limit) this.#searchLines(text, from, last + 1);
      this.#done = true;
      return;
    }
    const to = Math.max(from, text.lastIndexOf("\n") + 1);
    this.#searchLines(text, from, to);
    if (text.length - to > this.#lineMax) this.#beginLong(text, to);
    else this.#keep(text, text.length - to);
  }

  /** Searches whole lines. */
  #searchLines(text: string, from: number, to: number): void {
    const next = this.#needles.map((needle) => text.indexOf(needle, from));
    let counted = from;
    while (!this.#done) {
      const at = Math.min(...next.filter((position) => position >= 0));
      if (at >= to) break;
      const start = at === 0 ? 0 : text.lastIndexOf("\n", at - 1) + 1;
      const newline = text.indexOf("\n", at);
      const end = newline < 0 ? to : newline;
      const within = (position: number) => position >= 0 && position < end;
      this.#countLines(text, counted, start);
      counted = start;
      this.#hit(
        this.#offset + start * this.#unit,
        (end - start) * this.#unit,
        this.#span.keywords.filter((_, i) => within(next[i])),
        end - start > this.#lineMax ? undefined : text.slice(start, end),
      );
      if (this.#weight > PART) return this.#pause(text, counted, end + 1);
      next.forEach((position, i) => {
        if (within(position)) next[i] = text.indexOf(this.#needles[i], end);
      });
    }
    this.#countLines(text, counted, to);
  }

  /** Ends this answer after a line; another call goes on with the next. */
  #pause(text: string, counted: number, next: number): void {
    this.#countLines(text, counted, next);
    this.#done = true;
    this.report.next = this.#offset + next * this.#unit;
    this.report.bytes = this.report.next - this.#span.start;
  }

  #countLines(text: string, from: number, to: number): void {
    if (this.#span.mode === "count") return;
    let at = text.indexOf("\n", from);
    while (at >= 0 && at < to) {
      this.report.lines++;
      at = text.indexOf("\n", at + 1);
    }
  }

  #beginLong(text: string, start: number): void {
    const offset = this.#offset + start * this.#unit;
    this.#long = { offset, keywords: new Set() };
    this.#noteLong(text.slice(start));
    this.#keep(text, this.#overlap);
  }

  /** Searches the next part of a long line, up to its newline if that came. */
  #endLong(text: string, newline: number): void {
    this.#noteLong(newline < 0 ? text : text.slice(0, newline));
    if (newline < 0) return;
    const { offset, keywords } = this.#long!;
    this.#long = undefined;
    const length = this.#offset + newline * this.#unit - offset;
    if (keywords.size > 0) this.#hit(offset, length, [...keywords]);
    this.report.lines++;
  }

  #noteLong(part: string): void {
    this.#needles.forEach((needle, i) => {
      if (part.includes(needle)) {
        this.#long!.keywords.add(this.#span.keywords[i]);
      }
    });
  }

  #hit(
    offset: number,
    length: number,
    keywords: string[],
    text?: string,
  ): void {
    this.report.count++;
    const { mode } = this.#span;
    if (mode === "count") return;
    const line = this.report.lines + 1;
    const shown = text === undefined ? {} : this.#shown(text, offset);
    this.report.hits.push({ line, offset, length, keywords, ...shown });
    this.#weight += HIT + (text?.length ?? 0);
    if (mode === "found") this.#done = true;
  }

  /** A line as text, and as bytes where the text is not all of it. */
  #shown(line: string, offset: number): { text: string; raw?: string } {
    if (this.#decoder) {
      return { text: offset === 0 ? line.replace(/^\ufeff/, "") : line };
    }
    if (/^[\0-\x7f]*$/.test(line)) return { text: line };
    const text = Buffer.from(line, "latin1").toString();
    return text.includes("\ufffd") ? { text, raw: line } : { text };
  }

  /** Keeps the last characters for the next block. */
  #keep(text: string, count: number): void {
    const dropped = Math.max(0, text.length - count);
    this.#rest = text.slice(dropped);
    this.#offset += dropped * this.#unit;
  }
}

// Merge

/**
 * Adds what was found in the next span of a file, or in a part of one, to its
 * report; tells where the span has to be gone on with.
 */
function merge(
  plan: Plan,
  outcome: PromiseSettledResult<SpanReport>,
  mode: Mode,
): number | undefined {
  const { report } = plan;
  // Spans that were under way when an earlier one had the first hit.
  if (mode === "found" && report.found) return;
  if (outcome.status === "rejected") {
    report.error ??= causeOf(outcome.reason);
    return;
  }
  const span = outcome.value;
  report.bytes += span.bytes;
  if (span.error) report.error ??= span.error;
  report.count += span.count;
  report.found = report.count > 0;
  for (const hit of span.hits) {
    hit.line += plan.lines;
    report.hits.push(hit);
  }
  plan.lines += span.lines;
  return span.next;
}

const jobs = { scanSpan };

/** The jobs of this module. */
export type LogJobs = typeof jobs;

/** The jobs of this module, for a `Pool` or `sequential`. */
export const service: Service<LogJobs> = serve(import.meta, jobs);
