/**
 * The scan itself: reads spans of files and searches them, in a worker.
 *
 * @module
 */

import { causeOf } from "../shared/files.ts";
import { decoded, encodingOf, type Source, sourceOf } from "./decode.ts";
import {
  countNewlines,
  type Found,
  LINE_MAX,
  type Query,
  Search,
} from "./search.ts";

/** Plain files larger than this are shared out, in bytes. */
export const SPAN = 16 << 20;
/** Files travel together up to so many bytes. */
export const BATCH = 4 << 20;
/**
 * Hits are answered when they weigh so many bytes; more of them those of what
 * would have to be decoded once more. (8 MiB for all: 330 MB of memory where each
 * line of 836 MiB has a hit, instead of 210, and twice the time.)
 */
const HITS = 1 << 20, HITS_DECODED = 8 << 20;
/** What a byte of a .gz is taken for, as decompressing is slow. */
const GZIP_WEIGHT = 16;

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

export function weightOf(path: string, bytes: number): number {
  return path.endsWith(".gz") ? GZIP_WEIGHT * bytes : bytes;
}

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
export async function* searchDecoded(
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

/** Decodes a file again, and searches it from an offset. */
export async function* searchAgain(
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
export function emptyReport(): SpanReport {
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
