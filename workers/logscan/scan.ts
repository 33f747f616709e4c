/**
 * The scan itself: reads spans of files and searches them, in a worker.
 *
 * @module
 */

import { causeOf } from "../shared/files.ts";
import { joined } from "../shared/memory.ts";
import { type Content, contentsOf, isEncoded } from "./decode.ts";
import { archiveIn, damageOf } from "./formats.ts";
import { type Source, sourceOf } from "./input.ts";
import { unshared } from "./needles.ts";
import {
  countNewlines,
  type Hits,
  LINE_MAX,
  type Query,
  Search,
  type SearchResult,
} from "./search.ts";
import { linesInUtf8 } from "./text.ts";

/** Plain files larger than this are searched in several spans, in bytes. */
export const SPAN = 16 << 20;
/**
 * How much a request should weigh: small files go together up to that, in bytes.
 * Each request takes 0.2 ms of CPU beside its work: with 4 MiB and 64 files, 8 GiB
 * took 8 % longer, and 20,000 files of 4 kB a fifth.
 */
export const REQUEST_BYTES = 16 << 20;
/**
 * How many bytes that are searched weigh as much as one of a hit, which is sent.
 * With 8, small files of which every line has a hit took 190 MB instead of 172.
 */
const HIT_WEIGHT = 32;
/**
 * A span is answered as soon as its hits weigh this much, in bytes, and goes on
 * in another request. A limit of 8 MiB took 330 MB of memory instead of 210, and
 * twice the time, where every line of 836 MiB has a hit. A file that is decoded
 * has the larger limit, because going on means to decode it from its start.
 */
const HITS_BYTES = 1 << 20, DECODED_HITS_BYTES = 8 << 20;
/**
 * How many bytes of a plain file take as long as one byte of a compressed one: logs
 * shrink to a sixth, and to decompress a byte takes as long as to search ten.
 */
const COMPRESSED_WEIGHT = 60;
const COMPRESSED = /\.(gz|tgz|zst|bz2|tbz2?|xz|txz|lz4|zip)$/i;
/** What the report of a member of an archive weighs besides its hits, in bytes. */
const MEMBER_WEIGHT = 1000;

/** A part of a file. The lines that begin in it are searched. */
export interface Span {
  /** The file's path. */
  path: string;
  /** Where the span begins, in bytes. */
  start: number;
  /** Where it ends, in bytes; absent if the file's size is not known yet. */
  end?: number;
}

/** What was found in a span. Line numbers count from the span's beginning. */
export interface SpanReport extends SearchResult {
  /** How many bytes were searched. */
  bytes: number;
  /** Why the span, or the rest of it, could not be searched. */
  error?: string;
  /** Set if the hits filled the answer: where to go on, in bytes. */
  next?: number;
  /**
   * Set if the file was decoded: to go on means to decode it from its start. It is
   * the number of the content to go on with: 0, or that of a member of an archive.
   */
  content?: number;
  /** For a member of an archive: its name. */
  member?: string;
  /** For an archive: what was found in its members. */
  members?: SpanReport[];
  /** The file's size, if the file is longer than a span without an end. */
  size?: number;
  /** Set if the span was not searched, because those before it were enough. */
  undone?: true;
}

/** How many plain bytes take as long to search as a file of so many bytes. */
export function weightOf(path: string, bytes: number): number {
  return COMPRESSED.test(path) ? COMPRESSED_WEIGHT * bytes : bytes;
}

/** What a job is asked to search. */
export interface ScanRequest {
  /** The parts of files to search; a path stands for a span from its beginning. */
  spans: (Span | string)[];
  /** What to search for. */
  query: Query;
  /** Whether the files are known to be regular files. */
  regular?: boolean;
}

/**
 * Searches spans of files.
 *
 * If a file cannot be opened, read or decompressed, its report has the cause
 * beside what was found before. If the first spans are large or have many hits,
 * the others are left undone. A span with very many hits is not searched to its
 * end; its report says where to go on.
 *
 * @param request The spans, and what to search for
 * @returns What was found, a report for each span, in their order
 */
export async function scanSpans(
  { spans, query, regular = false }: ScanRequest,
): Promise<SpanReport[]> {
  const reports: SpanReport[] = [];
  let weight = 0;
  for (const each of spans) {
    const span = typeof each === "string" ? { path: each, start: 0 } : each;
    const report = weight > REQUEST_BYTES
      ? { ...newSpanReport(), undone: true as const }
      : await scanSpan(span, query, regular);
    weight += weightOfReport(span.path, report);
    reports.push(report);
  }
  return reports;
}

/** What a report weighs: what was searched for it, and what is sent with it. */
export function weightOfReport(path: string, report: SpanReport): number {
  return weightOf(path, report.bytes) + HIT_WEIGHT * weightOfHits(report);
}

function weightOfHits({ hits, members = [] }: SpanReport): number {
  let weight = hits ? hits.text.length + 100 * hits.lines.length : 0;
  for (const member of members) weight += MEMBER_WEIGHT + weightOfHits(member);
  return weight;
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
    return { ...newSpanReport(), error: causeOf(error) };
  }
}

function checkRegular(path: string): void {
  const { isFile, isDirectory } = Deno.statSync(path);
  if (isDirectory) throw new Error("Is a directory");
  if (!isFile) throw new Error("Not a regular file");
}

/** Searches a span as it is; undefined if the file has to be decoded first. */
function scanPlain(
  file: Deno.FsFile,
  { path, start, end }: Span,
  query: Query,
): SpanReport | undefined {
  // A later span is read from one byte before it: if that is a newline, a line
  // begins with the span.
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
    for (; wanted && !search.isFull(HITS_BYTES); blocks++) {
      const { block } = search;
      const most = sizeOfRead(position, limit);
      const n = file.readSync(
        most < block.length ? block.subarray(0, most) : block,
      );
      if (n === null) {
        if (position < (end ?? 0)) error = "it shrank while it was searched";
        ended = true;
        break;
      }
      if (position === 0) {
        const head = block.subarray(0, n);
        if (isEncoded(head, query)) return;
        error = archiveIn(head, (count) => endOf(file, count, n)) ??
          damageOf(path, head);
      }
      // For mode "found" lines are counted only once there is a hit, below: most
      // files have none.
      if (blocks > 0 && query.mode === "found") search.counts = false;
      position += n;
      wanted = search.searchBlock(n);
    }
  } catch (thrown) {
    error = causeOf(thrown);
  }
  const next = wanted && search.isFull(HITS_BYTES) ? search.next : undefined;
  if (next === undefined) search.end();
  const found = takeFrom(search, query);
  if (query.mode === "found" && found.hits && start === 0 && blocks > 1) {
    found.hits.lines[0] = newlinesIn(file, 0, found.hits.offsets[0]);
  }
  const isOpen = end === undefined;
  const to = next ?? (isOpen && ended ? position : Math.min(position, limit));
  const bytes = Math.max(0, to - start);
  const report: SpanReport = { ...found, bytes };
  // A property that is `undefined` would be sent as well.
  if (error !== undefined) report.error = error;
  if (next !== undefined) report.next = next;
  const goesOn = next !== undefined || position >= limit;
  if (isOpen && goesOn && !ended) report.size = file.statSync().size;
  return report;
}

/** The last bytes of a file, which then goes on to be read where it was. */
function endOf(file: Deno.FsFile, count: number, position: number): Uint8Array {
  const { size } = file.statSync();
  const end = new Uint8Array(Math.min(count, size));
  file.seekSync(size - end.length, Deno.SeekMode.Start);
  const length = file.readSync(end) ?? 0;
  file.seekSync(position, Deno.SeekMode.Start);
  return end.subarray(0, length);
}

/** How much to read next: up to the span's end, then the rest of its last line. */
function sizeOfRead(position: number, end: number): number {
  return position < end ? end - position : LINE_MAX;
}

async function scanDecoded(
  file: Deno.FsFile,
  { start }: Span,
  query: Query,
): Promise<SpanReport> {
  file.seekSync(0, Deno.SeekMode.Start);
  const members: SpanReport[] = [];
  let weight = 0;
  const from = { content: 0, offset: start };
  const most = DECODED_HITS_BYTES;
  for await (const report of searchDecoded(sourceOf(file), query, from, most)) {
    if (report.member === undefined) {
      return members.length > 0 ? { ...report, members } : report;
    }
    members.push(report);
    weight += MEMBER_WEIGHT + weightOfHits(report);
    if (weight <= most) continue;
    const { content = 0, next } = report;
    return next === undefined
      ? { ...newSpanReport(), members, content: content + 1, next: 0 }
      : { ...newSpanReport(), members, content, next };
  }
  return newSpanReport(); // it always gives a report
}

/** Where to begin in what is decoded. */
export interface DecodedPlace {
  /** Which content: 0, or the number of a member. */
  content: number;
  /** Where in it, in bytes. */
  offset: number;
}

/**
 * Searches a source that has to be decoded, from a place in what is decoded. It
 * gives a report whenever the hits weigh more than `most` bytes, and one at the end;
 * of an archive also one at the end of each member. With 0, as for what can be read
 * only once, the lines that are too long for the text of hits come with them.
 */
export async function* searchDecoded(
  source: Source,
  query: Query,
  from: DecodedPlace,
  most = DECODED_HITS_BYTES,
): AsyncGenerator<SpanReport, void, void> {
  let error: string | undefined;
  let content = 0;
  let isArchive = false;
  try {
    for await (const each of contentsOf(source, query)) {
      isArchive = each.member !== undefined;
      const start = content === from.content ? from.offset : 0;
      if (content >= from.content) {
        const reports = searchContent(each, content, query, start, most);
        for await (const report of reports) {
          yield report;
          if (query.first && report.count > 0) return yield newSpanReport();
        }
      }
      content++;
      if (!isArchive) return;
    }
  } catch (thrown) {
    error = causeOf(thrown);
  }
  yield { ...newSpanReport(), error };
}

/** Searches a content from an offset. */
async function* searchContent(
  { blocks, member, isUtf8 }: Content,
  content: number,
  query: Query,
  start: number,
  most: number,
): AsyncGenerator<SpanReport, void, void> {
  if (isUtf8 && query.isEncoded) query = inUtf8(query);
  const search = new Search(query, { offset: start }, query.mode !== "count");
  let error: string | undefined;
  let taken = start, position = start;
  const isKept = most === 0 && query.mode === "lines";
  const kept = isKept ? new Kept(start) : undefined;
  try {
    for await (const block of skipped(blocks, start)) {
      position += block.length;
      kept?.add(block);
      if (!search.add(block)) break;
      const { next } = search;
      if (search.isFull(most)) {
        const bytes = next - taken;
        const found = takeFrom(search, query, kept);
        yield { ...found, bytes, next, content, member };
        taken = next;
      }
      kept?.forget(next);
    }
  } catch (thrown) {
    error = causeOf(thrown);
  }
  search.end();
  const bytes = position - taken;
  yield { ...takeFrom(search, query, kept), bytes, error, content, member };
}

/** The query for a text that was turned into UTF-8. */
function inUtf8(query: Query): Query {
  const { keywords, without } = unshared(query);
  return { ...query, keywords, without, shared: undefined, isEncoded: false };
}

/** What was found, in UTF-8. */
function takeFrom(search: Search, query: Query, kept?: Kept): SearchResult {
  const found = search.take();
  if (found.hits && kept) found.hits.long = longLines(found.hits, query, kept);
  if (found.hits && query.isEncoded) {
    const { hits } = found;
    const { text, lengths } = linesInUtf8(hits.text, query.encoding!);
    hits.text = text;
    const held = lengths.values();
    hits.sizes = hits.lengths.map((length) =>
      length <= LINE_MAX ? held.next().value! : 0
    );
  }
  return found;
}

/** The lines that are too long for the text of hits, by their offsets. */
function longLines(
  { offsets, lengths }: Hits,
  { isEncoded, encoding }: Query,
  kept: Kept,
): Map<number, Uint8Array> {
  const lines = new Map<number, Uint8Array>();
  for (const [i, length] of lengths.entries()) {
    const line = length > LINE_MAX ? kept.read(offsets[i], length) : undefined;
    if (!line) continue;
    const text = isEncoded ? new TextDecoder(encoding).decode(line) : undefined;
    lines.set(
      offsets[i],
      text === undefined ? line : new TextEncoder().encode(text),
    );
  }
  return lines;
}

/** How much of what can be read only once is kept for long lines, in bytes. */
const KEPT_MAX = 32 << 20;

/** The bytes of what can be read only once, from its unfinished line on. */
class Kept {
  #parts: Uint8Array[] = [];
  /** Where in it the parts begin and end. */
  #start: number;
  #end: number;

  constructor(start: number) {
    this.#start = this.#end = start;
  }

  add(block: Uint8Array): void {
    this.#parts.push(block.slice());
    this.#end += block.length;
    // Nobody can say how long the line is.
    if (this.#end - this.#start > KEPT_MAX) this.forget(this.#end);
  }

  /** Forgets what is before an offset. */
  forget(offset: number): void {
    while (this.#parts.length > 0) {
      const [{ length }] = this.#parts;
      if (this.#start + length > offset) return;
      this.#start += length;
      this.#parts.shift();
    }
  }

  /** Some of the bytes; undefined if they are kept no longer. */
  read(offset: number, length: number): Uint8Array | undefined {
    const from = offset - this.#start;
    return from < 0
      ? undefined
      : joined(this.#parts).slice(from, from + length);
  }
}

/** Decodes a file again and searches it from a place in what is decoded. */
export async function* searchAgain(
  path: string,
  query: Query,
  from: DecodedPlace,
): AsyncGenerator<SpanReport, void, void> {
  try {
    using file = Deno.openSync(path);
    yield* searchDecoded(sourceOf(file), query, from);
  } catch (error) {
    yield { ...newSpanReport(), error: causeOf(error) }; // the file is gone
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

/** A report of a span in which nothing has been searched yet. */
export function newSpanReport(): SpanReport {
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
