/**
 * Prints what was found in logs.
 *
 * @module
 */

import {
  codingOf,
  encodingNamed,
  type Hit,
  hitsOf,
  labelled,
  type Part,
  PartReader,
  type Query,
  type Report,
  type ScanOptions,
} from "../../workers/logscan.ts";
import { causeOf, FORBIDDEN } from "../../workers/shared/files.ts";
import { free } from "../../workers/shared/memory.ts";
import { type Flags, UsageError } from "../cli/flags.ts";
import {
  flush,
  print,
  printable,
  stdoutIsTerminal,
  warn,
} from "../cli/terminal.ts";

/** Prints reports as the flags ask for, and keeps the exit status. */
export class Printer {
  readonly flags: Flags;
  readonly options: ScanOptions & Pick<Query, "keywords" | "ignoreCase">;
  #found = false;
  #hasFailed = false;
  /** Whether to write each report at once: a terminal, or input that goes on. */
  readonly #isWatched: boolean;
  /** How many files were searched, have a keyword, and how many lines have one. */
  #files = 0;
  #filesFound = 0;
  #lines = 0;
  /** Reads the file with the last line that was too long to be held. */
  #reader?: PartReader;

  constructor(flags: Flags) {
    this.flags = flags;
    const { json } = flags.is;
    this.#isWatched = json || stdoutIsTerminal || flags.paths.includes("-");
    const { keyword, without } = flags.list;
    const { quiet, count, lines, "files-with-matches": names } = flags.is;
    this.options = {
      keywords: keyword.length > 0 ? keyword : ["unauthorized access"],
      ignoreCase: flags.is["ignore-case"],
      words: flags.is.word,
      all: flags.is.all,
      without,
      // For a name alone no file is read again for the number of the line.
      mode: quiet
        ? "found"
        : count || names
        ? "count"
        : lines
        ? "lines"
        : "found",
      which: json,
      max: names ? 1 : flags.number["max-count"],
      first: quiet,
      encoding: encodingOf(flags),
    };
  }

  /** Prints that a file could not be searched, or not all of it. */
  printFailure(name: string, error: string): void {
    this.#hasFailed = true;
    const wayOut = error.startsWith(FORBIDDEN) ? ": pipe it in" : "";
    warn(`${printable(name, Deno.stderr)}: ${error}${wayOut}`);
  }

  /** Prints that a name means no file that can be searched. */
  printMissing(name: string, error: string): void {
    this.printFailure(name, error);
    const { json, quiet } = this.flags.is;
    if (json && !quiet) printObject({ path: name, error });
  }

  /** Prints a report of a file, or a part of one; a promise where it has lines. */
  printReport(report: Report, name: string): Promise<void> | undefined {
    if (report.member !== undefined) name = `${name}:${report.member}`;
    if (report.error !== undefined && !report.part) {
      this.printFailure(name, report.error);
    }
    if (report.found) this.#found = true;
    const { quiet, json, lines } = this.flags.is;
    // An archive itself has nothing, but perhaps an error.
    if (quiet || report.isArchive && (!json || report.error === undefined)) {
      return;
    }
    if (!report.part) this.#count(report);
    if (json) this.#printJson(report, name);
    else if (this.flags.is["files-with-matches"]) {
      if (report.found) print(`${printable(name)}\n`);
    } else if (lines) {
      if (!report.part && report.hits.length === 0) return;
      return this.#printLines(report, name).then(() => this.#show());
    } else if (report.error === undefined || report.found) {
      this.#printAnswer(report, name);
    }
    this.#show();
  }

  #show(): void {
    if (this.#isWatched) flush();
  }

  #count({ count, found }: Report): void {
    this.#files++;
    if (found) this.#filesFound++;
    this.#lines += count;
  }

  /** Prints whether a keyword was found, or how often. */
  #printAnswer(report: Report, name: string): void {
    const shown = printable(name);
    if (this.flags.is.count) print(`${shown}:${report.count}\n`);
    else if (!report.found) print(`${shown}: Not found\n`);
    else {
      const [{ line, text = "(a line too long to show)" }] = report.hits;
      print(`${shown}: Found, line ${line}: ${printable(text.trimEnd())}\n`);
    }
  }

  /** Prints the lines with a keyword: their own bytes, however long they are. */
  async #printLines(report: Report, name: string): Promise<void> {
    const { path, part } = report;
    if (part && !stdoutIsTerminal) {
      return await this.#printPart(path, name, part);
    }
    const shown = printable(name);
    for (const hit of this.#hitsOf(report)) {
      const { content } = part ?? report;
      if (hit.text === undefined) {
        await this.#printLong(path, name, hit, content, part?.hits.long);
      } else if (hit.raw === undefined || stdoutIsTerminal) {
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
    const { hits, before, content } = part;
    for (const run of labelled(hits, before, name)) {
      if (typeof run !== "number") {
        print(run);
        continue;
      }
      const line = before + hits.lines[run] + 1;
      const [offset, length] = [hits.offsets[run], hits.lengths[run]];
      const hit = { line, offset, length };
      await this.#printLong(path, name, hit, content, hits.long);
    }
    free(hits.text);
  }

  async #printLong(
    path: string,
    name: string,
    { line, offset, length }: Omit<Hit, "keywords">,
    content?: number,
    long?: Map<number, Uint8Array>,
  ): Promise<void> {
    const held = long?.get(offset);
    if (path === "-" && !held) {
      return this.printFailure(name, `line ${line} is too long to show`);
    }
    const decoder = new TextDecoder();
    print(`${printable(name)}:${line}:`);
    const place = [offset, length, content] as const;
    const blocks = held ? [held] : this.#readAgain(path, name, ...place);
    for await (const block of blocks) {
      if (!stdoutIsTerminal) print(block);
      else print(printable(decoder.decode(block, { stream: true })));
    }
    print("\n");
  }

  /** Reads what can be read: the file may have been removed or be damaged. */
  async *#readAgain(
    path: string,
    name: string,
    offset: number,
    length: number,
    content?: number,
  ): AsyncGenerator<Uint8Array, void, void> {
    try {
      if (this.#reader?.path !== path) {
        this.#reader?.[Symbol.dispose]();
        this.#reader = undefined;
        const encoding = encodingNamed(this.options.encoding ?? "auto");
        const coding = codingOf(encoding, this.options);
        this.#reader = new PartReader(path, coding);
      }
      yield* this.#reader.read(offset, length, content);
    } catch (error) {
      this.printFailure(name, causeOf(error));
    }
  }

  /** Prints an object per file; with `--lines` one per hit instead. */
  #printJson(report: Report, name: string): void {
    const { found, count, bytes, error, part, isArchive } = report;
    if (isArchive) return printObject({ path: name, error });
    const { lines } = this.flags.is;
    const hits = this.#hitsOf(report);
    if (!lines) {
      const own = Array.from(hits, objectOf);
      return printObject({ path: name, found, count, bytes, hits: own, error });
    }
    for (const hit of hits) printObject({ path: name, ...objectOf(hit) });
    if (error !== undefined && !part) printObject({ path: name, error });
  }

  /** Prints the end of the output. */
  end(): void {
    this.#reader?.[Symbol.dispose]();
    const { count, json, quiet } = this.flags.is;
    const isWanted = count && !json && !quiet && stdoutIsTerminal;
    if (!isWanted || this.#files < 2) return;
    const [lines, files] = [this.#lines, this.#files];
    print(`${lines} lines in ${this.#filesFound} of ${files} files\n`);
  }

  /** Whether nothing that comes could change the exit status. */
  get isDone(): boolean {
    return this.flags.is.quiet && this.#found;
  }

  /** The exit status, as ripgrep's. */
  get status(): number {
    return this.isDone ? 0 : this.#hasFailed ? 2 : this.#found ? 0 : 1;
  }
}

/** The character set that the user names. */
function encodingOf({ text: { encoding = "auto" } }: Flags): string {
  try {
    encodingNamed(encoding);
  } catch {
    const known = "utf-16le, latin1, shift_jis and all that browsers know";
    throw new UsageError(`--encoding: '${encoding}' is none: ${known}`);
  }
  return encoding;
}

/** A line of JSON. */
function printObject(object: Record<string, unknown>): void {
  print(`${JSON.stringify(object)}\n`);
}

/** A hit for JSON, which has no bytes: they are in base64 if the text lost some. */
function objectOf({ raw, ...hit }: Hit): Record<string, unknown> {
  return raw === undefined ? { ...hit } : { ...hit, base64: btoa(raw) };
}
